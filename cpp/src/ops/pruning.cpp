// Masks by structure, what masks do, and scores. The search for the lowest is in selection.cpp.
#include "ridgeline/pruning.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/pruning.hpp"
#include "kernels/random.hpp"
#include "ops/bits.hpp"
#include "ops/checks.hpp"
#include "ops/work.hpp"
#include "runtime/dispatch.hpp"

namespace ridgeline {
namespace {

constexpr std::int64_t columns = 64;  // ranked at once

const PruningKernels& kernels_for(DType dtype) {
  return tables().pruning->kernels[static_cast<std::size_t>(dtype)];
}

/// Calls f(unit) for this thread's share of [0, units).
template <class F>
void share(Team team, std::int64_t units, F f) {
  const std::int64_t end = units * (team.rank + 1) / team.size;
  for (std::int64_t u = units * team.rank / team.size; u < end; ++u)
    f(u);
}

/// An array whose middle axis, as (outer, length, inner), is cut into groups of m.
struct Middle {
  std::int64_t outer;
  std::int64_t length;
  std::int64_t inner;
  int keep;
  int m;
  std::int64_t size() const { return outer * length * inner; }
};

/// Groups of m along the middle axis, ranked in columns of 64 by keys that read(begin, n, keys)
/// makes.
template <class Read>
class Groups {
 public:
  Groups(const Middle& of, const Read& read, const std::uint64_t* among, std::uint64_t* words)
      : size_(of.size()), length_(of.length), inner_(of.inner), keep_(of.keep), m_(of.m),
        keys_of_(read), among_(among), words_(words), rank_(tables().pruning->keep_of_columns) {}

  /// m rows of one group, columns [c, c + 64) of `inner`.
  void wide(std::int64_t outer, std::int64_t group, std::int64_t c) {
    const std::int64_t rows = std::min<std::int64_t>(m_, length_ - group * m_);
    const std::int64_t n = std::min(columns, inner_ - c);
    const std::int64_t first = (outer * length_ + group * m_) * inner_ + c;
    absent(rows * columns);
    for (std::int64_t j = 0; j < rows; ++j)
      read(first + j * inner_, n, keys_ + j * columns);
    rank_(keys_, m_, keep_, bits_);
    const std::uint64_t exist = first_bits(n);
    for (std::int64_t j = 0; j < rows; ++j)
      set_bits_shared(words_, first + j * inner_, bits_[j] & exist & part(first + j * inner_));
  }

  /// `count` groups of few columns, which lie one after the other.
  void narrow(std::int64_t outer, std::int64_t group, std::int64_t count) {
    const std::int64_t n = std::min(count * m_, length_ - group * m_) * inner_;
    const std::int64_t first = (outer * length_ + group * m_) * inner_;
    read(first, n, flat_);
    absent(0);
    for_each(n, [&](std::int64_t i, std::int64_t j, std::int64_t c) {
      keys_[j * columns + c] = flat_[i];
    });
    rank_(keys_, m_, keep_, bits_);
    std::uint64_t word = 0;
    for_each(n, [&](std::int64_t i, std::int64_t j, std::int64_t c) {
      word |= (bits_[j] >> c & 1) << i % 64;
      if (i % 64 == 63 || i == n - 1) {
        set_bits_shared(words_, first + i - i % 64, word & part(first + i - i % 64));
        word = 0;
      }
    });
  }

 private:
  /// Calls f(i, row in its group, column) for elements one after the other.
  template <class F>
  void for_each(std::int64_t n, F f) const {
    std::int64_t i = 0;
    for (std::int64_t c = 0; i < n; c += inner_) {
      for (std::int64_t j = 0; j < m_ && i < n; ++j) {
        for (std::int64_t k = 0; k < inner_; ++k, ++i)
          f(i, j, c + k);
      }
    }
  }

  /// Elements that do not exist rank below all others.
  void absent(std::int64_t from) {
    std::fill(keys_ + from, keys_ + m_ * columns, std::numeric_limits<std::int64_t>::min());
  }

  void read(std::int64_t begin, std::int64_t n, std::int64_t* keys) const {
    keys_of_(begin, n, keys);
    if (among_ == nullptr) return;
    for (std::int64_t i = 0; i < n; ++i) {
      if (!bit_of(among_, begin + i)) keys[i] = std::numeric_limits<std::int64_t>::min();
    }
  }
  /// Those that take part of 64 elements.
  std::uint64_t part(std::int64_t begin) const {
    return among_ == nullptr ? ~std::uint64_t{0} : bits_from(among_, begin, mask_words(size_));
  }

  const std::int64_t size_;
  const std::int64_t length_;
  const std::int64_t inner_;
  const int keep_;
  const int m_;
  const Read& keys_of_;
  const std::uint64_t* among_;
  std::uint64_t* words_;
  void (*rank_)(const std::int64_t*, int, int, std::uint64_t*);
  const ScratchArray<std::int64_t> keys_{64 * columns};
  const ScratchArray<std::int64_t> flat_{64 * columns};
  std::uint64_t bits_[64];
};

void check_groups(int keep, int m) {
  if (m < 1 || m > 64) bad_value("m", "got " + std::to_string(m) + ", wants 1 to 64");
  if (keep < 0 || keep > m) {
    bad_value("n", "got " + std::to_string(keep) + ", wants 0 to m, which is " + std::to_string(m));
  }
}

template <class Read>
void rank_groups(const Middle& of, const Read& read, const std::uint64_t* among,
                 std::uint64_t* words, int threads) {
  const std::int64_t size = of.size();
  std::fill_n(words, mask_words(size), 0);
  if (size == 0) return;
  const std::int64_t groups = (of.length + of.m - 1) / of.m;
  const bool wide = of.inner >= columns;
  const std::int64_t together = wide ? 1 : columns / of.inner;
  const std::int64_t parts = wide ? (of.inner + columns - 1) / columns : 1;
  const std::int64_t per_outer = (groups + together - 1) / together * parts;
  parallel(size * of.m, threads, [&](Team team) {
    Groups ranked(of, read, among, words);
    share(team, of.outer * per_outer, [&](std::int64_t unit) {
      const std::int64_t in = unit % per_outer;
      if (wide) {
        ranked.wide(unit / per_outer, in / parts, in % parts * columns);
      } else {
        ranked.narrow(unit / per_outer, in * together, std::min(together, groups - in * together));
      }
    });
  });
}

/// An axis cut into blocks.
struct Axis {
  std::int64_t extent;
  std::int64_t block;
  std::int64_t blocks() const { return (extent + block - 1) / block; }
};

/// Axes with the same blocks in the same order, merged with the next one where that one has a
/// single block, or both are cut into single elements.
std::vector<Axis> merged(std::span<const std::int64_t> shape, std::span<const std::int64_t> block) {
  std::vector<Axis> axes;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const Axis next{shape[i], std::min(block[i], std::max<std::int64_t>(shape[i], 1))};
    const bool whole = next.block == next.extent;
    if (!axes.empty() && (whole || (axes.back().block == 1 && next.block == 1))) {
      axes.back().extent *= next.extent;
      axes.back().block *= whole ? next.extent : 1;
    } else {
      axes.push_back(next);
    }
  }
  if (axes.empty()) axes.push_back({1, 1});
  return axes;
}

/// The index of the first block of a row along the last axis.
std::int64_t first_block(std::span<const Axis> axes, std::int64_t row) {
  std::int64_t index = 0;
  std::int64_t step = axes.back().blocks();
  for (std::size_t a = axes.size() - 1; a-- > 0;) {
    index += row % axes[a].extent / axes[a].block * step;
    row /= axes[a].extent;
    step *= axes[a].blocks();
  }
  return index;
}

std::int64_t product(std::span<const std::int64_t> values) {
  return std::accumulate(values.begin(), values.end(), std::int64_t{1}, std::multiplies<>());
}

}  // namespace

void prune_n_of_m(const Array& x, std::int64_t outer, std::int64_t length, std::int64_t inner,
                  int keep, int m, Ranking ranking, const std::uint64_t* among,
                  std::uint64_t* words, int threads) {
  const FloatEnvironment environment;
  check_groups(keep, m);
  const PruningKernels& kernels = kernels_for(x.dtype);
  if (m == 4 && keep > 0 && keep < 4 && inner == 1 && length % 4 == 0) {
    const WorkList work({&x, 1});
    parallel(4 * work.elements(), threads, [&](Team team) {
      work.forward(team, [&](const Run& run) {
        const Operand operands[] = {{&x, Access::read}};
        on_memory(operands, run.begin, run.count,
                  [&](void** at, std::int64_t first, std::size_t n) {
                    const std::int64_t word = (run.begin + first) / 64;
                    kernels.keep_of_4(at[0], n, ranking, keep,
                                      among == nullptr ? nullptr : among + word, words + word);
                  });
      });
    });
    return;
  }
  const auto read = [&](std::int64_t begin, std::int64_t n, std::int64_t* keys) {
    const Operand operands[] = {{&x, Access::read}};
    on_memory(operands, begin, n, [&](void** at, std::int64_t first, std::size_t count) {
      kernels.wide.keys(at[0], count, ranking, keys + first);
    });
  };
  rank_groups({outer, length, inner, keep, m}, read, among, words, threads);
}

void prune_random_n_of_m(std::int64_t outer, std::int64_t length, std::int64_t inner, int keep,
                         int m, Key key, std::int64_t first, const std::uint64_t* among,
                         std::uint64_t* words, int threads) {
  const FloatEnvironment environment;
  check_groups(keep, m);
  const auto read = [&](std::int64_t begin, std::int64_t n, std::int64_t* keys) {
    tables().pruning->random.keys(key, static_cast<std::uint64_t>(first + begin),
                                  static_cast<std::size_t>(n), keys);
  };
  rank_groups({outer, length, inner, keep, m}, read, among, words, threads);
}

void block_powers(const Array& x, std::span<const std::int64_t> shape,
                  std::span<const std::int64_t> block, double ord, const std::uint64_t* among,
                  const double* largest, std::span<double> scores, int threads) {
  const FloatEnvironment environment;
  check_ord(ord);
  std::ranges::fill(scores, 0);
  if (x.size == 0) return;
  const std::vector<Axis> axes = merged(shape, block);
  const Axis last = axes.back();
  const PruningKernels& kernels = kernels_for(x.dtype);
  const std::size_t item = item_size(x.dtype);
  const auto scale_at = [&](std::int64_t b) { return largest == nullptr ? nullptr : largest + b; };
  // Adds elements [begin, begin + n), which start at a block of the last axis, to out.
  const auto add = [&](std::int64_t begin, std::int64_t n, double* out, const double* scale) {
    constexpr auto tile = static_cast<std::int64_t>(block_size);
    const bool at_once = x.contiguous() && among == nullptr && last.block <= tile;
    const std::int64_t step = last.block <= tile ? tile / last.block * last.block : tile;
    const Operand operands[] = {{&x, Access::read}};
    for (std::int64_t done = 0; done < n;) {
      const std::int64_t in_block = last.block <= tile ? n : last.block - done % last.block;
      const std::int64_t count = at_once ? n : std::min({step, in_block, n - done});
      on_memory(operands, begin + done, count, [&](void** at, std::int64_t, std::size_t part) {
        const void* from = at[0];
        const ScratchArray<std::byte> masked(among == nullptr ? 0 : block_size * sizeof(double));
        if (among != nullptr) {
          std::uint64_t bits[block_size / 64];
          for (std::int64_t i = 0; i < count; i += 64)
            bits[i / 64] = bits_from(among, begin + done + i, mask_words(x.size));
          std::memcpy(masked, from, part * item);
          kernels.apply(masked, part, bits);
          from = masked;
        }
        const auto piece = static_cast<std::size_t>(last.block);
        const std::int64_t b = done / last.block;
        if (largest == nullptr) return kernels.add_powers(from, part, piece, ord, out + b);
        kernels.add_scaled_powers(from, part, piece, ord, scale + b, out + b);
      });
      done += count;
    }
  };
  if (axes.size() == 1) {
    // A share is some blocks of the only axis.
    parallel(x.size, threads, [&](Team team) {
      const std::int64_t from = last.blocks() * team.rank / team.size;
      const std::int64_t to = last.blocks() * (team.rank + 1) / team.size;
      if (from == to) return;
      const std::int64_t end = std::min(to * last.block, last.extent);
      add(from * last.block, end - from * last.block, scores.data() + from, scale_at(from));
    });
    return;
  }
  std::int64_t rows = 1;
  for (std::size_t a = 0; a + 1 < axes.size(); ++a)
    rows *= axes[a].extent;
  const auto add_rows = [&](std::int64_t from, std::int64_t to, double* out) {
    for (std::int64_t row = from; row < to; ++row) {
      const std::int64_t b = first_block(axes, row);
      add(row * last.extent, last.extent, out + b, scale_at(b));
    }
  };
  const Axis front = axes.front();
  const std::int64_t inner_rows = rows / front.extent;
  if (front.blocks() > 1) {
    parallel(x.size, threads, [&](Team team) {
      share(team, front.blocks(), [&](std::int64_t b) {
        const std::int64_t end = std::min((b + 1) * front.block, front.extent);
        add_rows(b * front.block * inner_rows, end * inner_rows, scores.data());
      });
    });
    return;
  }
  // All rows go into the same blocks: in parts that depend on the shape alone, added in order. They
  // take at most 1 % of what the array takes.
  const auto groups = static_cast<std::int64_t>(scores.size());
  const auto bytes = x.size * static_cast<std::int64_t>(item_size(x.dtype));
  const std::int64_t parts =
      std::clamp<std::int64_t>(bytes / 100 / (8 * groups), 1, std::min<std::int64_t>(16, rows));
  if (parts == 1) return parallel(0, 1, [&](Team) { add_rows(0, rows, scores.data()); });
  std::vector<double> sums(static_cast<std::size_t>(parts * groups), 0.0);
  parallel(x.size, threads, [&](Team team) {
    share(team, parts, [&](std::int64_t part) {
      add_rows(rows * part / parts, rows * (part + 1) / parts, sums.data() + part * groups);
    });
  });
  const bool maxima = std::isinf(ord);
  for (std::int64_t i = 0; i < parts * groups; ++i) {
    double& score = scores[static_cast<std::size_t>(i % groups)];
    const double sum = sums[static_cast<std::size_t>(i)];
    score = maxima ? (sum > score || std::isnan(sum) ? sum : score) : score + sum;
  }
}

namespace {

/// Calls f(block, first, n, single) for the stretches of n elements of one block, or of n blocks of
/// a single element, in shares whose words are no other thread's.
template <class F>
void for_each_stretch(std::span<const std::int64_t> shape, std::span<const std::int64_t> block,
                      int threads, F f) {
  const std::int64_t size = product(shape);
  const std::vector<Axis> axes = merged(shape, block);
  const Axis last = axes.back();
  const bool single = last.block == 1;
  parallel(size / 8, threads, [&](Team team) {
    const std::int64_t all = mask_words(size);
    const std::int64_t end = std::min(all * (team.rank + 1) / team.size * 64, size);
    for (std::int64_t at = all * team.rank / team.size * 64; at < end;) {
      const std::int64_t row = at / last.extent;
      const std::int64_t base = first_block(axes, row);
      const std::int64_t row_end = std::min((row + 1) * last.extent, end);
      while (at < row_end) {
        const std::int64_t place = at - row * last.extent;
        const std::int64_t b = place / last.block;
        const std::int64_t n =
            single ? row_end - at : std::min((b + 1) * last.block - place, row_end - at);
        f(base + b, at, n, single);
        at += n;
      }
    }
  });
}

}  // namespace

void spread_blocks(std::span<const std::int64_t> shape, std::span<const std::int64_t> block,
                   const std::uint64_t* blocks, std::uint64_t* words, int threads) {
  const FloatEnvironment environment;
  std::fill_n(words, mask_words(product(shape)), 0);
  std::int64_t count = 1;
  for (std::size_t i = 0; i < shape.size(); ++i)
    count *= (shape[i] + block[i] - 1) / block[i];
  const std::int64_t block_words = mask_words(count);
  for_each_stretch(
      shape, block, threads, [&](std::int64_t b, std::int64_t first, std::int64_t n, bool single) {
        if (!single) {
          if (bit_of(blocks, b)) set_range(words, first, n);
          return;
        }
        for (std::int64_t i = 0; i < n;) {
          const std::int64_t at = first + i;
          const std::int64_t part = std::min(n - i, 64 - at % 64);
          words[at / 64] |= (bits_from(blocks, b + i, block_words) & first_bits(part)) << at % 64;
          i += part;
        }
      });
}

void gather_blocks(std::span<const std::int64_t> shape, std::span<const std::int64_t> block,
                   const std::uint64_t* words, std::uint64_t* blocks, int threads) {
  const FloatEnvironment environment;
  const std::int64_t all = mask_words(product(shape));
  for_each_stretch(
      shape, block, threads, [&](std::int64_t b, std::int64_t first, std::int64_t n, bool single) {
        for (std::int64_t i = 0; i < n; i += 64) {
          const std::uint64_t bits = bits_from(words, first + i, all) & first_bits(n - i);
          if (single) {
            if (bits != 0) set_bits_shared(blocks, b + i, bits);
          } else if (bits != 0) {
            set_bits_shared(blocks, b, 1);
            return;
          }
        }
      });
}

void apply_masks(Arrays params, std::span<const std::uint64_t* const> words, int threads) {
  const FloatEnvironment environment;
  check_disjoint("params", params);
  const WorkList work(params);
  parallel(work.cost(), threads, [&](Team team) {
    work.forward(team, [&](const Run& run) {
      const Array& array = params[run.array];
      const Operand operands[] = {{&array, Access::update}};
      const auto apply = kernels_for(array.dtype).apply;
      on_memory(operands, run.begin, run.count, [&](void** at, std::int64_t first, std::size_t n) {
        apply(at[0], n, words[run.array] + (run.begin + first) / 64);
      });
    });
  });
}

void check_outputs(Arrays out, const char* input, Arrays arrays, bool aliasing) {
  check_disjoint("out", out, input, arrays, aliasing);
}

void masked(const Array& x, const std::uint64_t* words, const Array& out, int threads) {
  const FloatEnvironment environment;
  check_alike("out", {&out, 1}, "w", {&x, 1});
  check_outputs({&out, 1}, "w", {&x, 1}, true);
  const WorkList work({&out, 1});
  const std::size_t item = item_size(x.dtype);
  const auto apply = kernels_for(x.dtype).apply;
  const Operand operands[] = {{&x, Access::read}, {&out, Access::write}};
  parallel(2 * work.elements(), threads, [&](Team team) {
    work.forward(team, [&](const Run& run) {
      on_memory(operands, run.begin, run.count, [&](void** at, std::int64_t first, std::size_t n) {
        if (at[0] != at[1]) std::memcpy(at[1], at[0], n * item);
        apply(at[1], n, words + (run.begin + first) / 64);
      });
    });
  });
}

void random_shrink(Arrays params, double strength, Key key, int threads) {
  const FloatEnvironment environment;
  if (!(strength >= 0 && strength <= 1))
    bad_value("strength", "got " + text(strength) + ", wants a number in [0, 1]");
  check_disjoint("params", params);
  const WorkList work(params);
  std::vector<std::uint64_t> first(params.size() + 1, 0);
  for (std::size_t k = 0; k < params.size(); ++k)
    first[k + 1] = first[k] + static_cast<std::uint64_t>(params[k].size);
  const RandomTable& random = *tables().random;
  parallel(6 * work.cost(), threads, [&](Team team) {  // six: a random number
    const ScratchArray<double> u(block_size);
    work.forward(team, [&](const Run& run) {
      const Array& array = params[run.array];
      const bool wide = array.dtype == DType::float64;
      const auto uniform =
          random.kernels[static_cast<std::size_t>(wide ? DType::float64 : DType::float32)].uniform;
      const Operand operands[] = {{&array, Access::update}};
      for (std::int64_t done = 0; done < run.count; done += std::int64_t{block_size}) {
        const std::int64_t count = std::min(run.count - done, std::int64_t{block_size});
        on_memory(operands, run.begin + done, count, [&](void** at, std::int64_t, std::size_t n) {
          uniform(key, first[run.array] + static_cast<std::uint64_t>(run.begin + done), n, u);
          kernels_for(array.dtype).shrink(at[0], n, strength, u);
        });
      }
    });
  });
}

namespace {

/// out = f(inputs) where all are alike; out may be an input.
template <std::size_t N, class F>
void map_arrays(const char* (&&names)[N], const Array* (&&inputs)[N], const Array& out, int threads,
                F f) {
  Operand operands[N + 1];
  for (std::size_t i = 0; i < N; ++i) {
    check_alike(names[i], {inputs[i], 1}, names[0], {inputs[0], 1});
    check_disjoint("out", {&out, 1}, names[i], {inputs[i], 1}, true);
    operands[i] = {inputs[i], Access::read};
  }
  check_alike("out", {&out, 1}, names[0], {inputs[0], 1});
  operands[N] = {&out, Access::write};
  const WorkList work({&out, 1});
  parallel(work.elements() * static_cast<std::int64_t>(N + 1), threads, [&](Team team) {
    work.forward(team, [&](const Run& run) {
      on_memory(operands, run.begin, run.count,
                [&](void** at, std::int64_t, std::size_t n) { f(at, n); });
    });
  });
}

}  // namespace

void saliency(const Array& w, const Array& g, const Array& out, bool squared, int threads) {
  const FloatEnvironment environment;
  const auto kernel = kernels_for(w.dtype).saliency;
  map_arrays({"w", "g"}, {&w, &g}, out, threads,
             [&](void** at, std::size_t n) { kernel(at[0], at[1], at[2], n, squared); });
}

void magnitudes(const Array& x, const Array& out, int threads) {
  const FloatEnvironment environment;
  const auto kernel = kernels_for(x.dtype).magnitudes;
  map_arrays({"x"}, {&x}, out, threads, [&](void** at, std::size_t n) { kernel(at[0], at[1], n); });
}

void wanda(const Array& w, const Array& input_norms, const Array& out, int threads) {
  const FloatEnvironment environment;
  const std::int64_t length = input_norms.size;
  const auto kernel = kernels_for(w.dtype).weighted;
  check_alike("out", {&out, 1}, "w", {&w, 1});
  check_disjoint("out", {&out, 1}, "w", {&w, 1}, true);
  check_disjoint("out", {&out, 1}, "x_norm", {&input_norms, 1});
  if (w.size == 0) return;
  const bool wide = w.dtype == DType::float64;
  std::vector<double> norms(static_cast<std::size_t>(length));
  std::vector<float> narrow(norms.size());
  for (std::int64_t i = 0; i < length; ++i) {
    const auto at = static_cast<std::size_t>(i);
    std::byte element[8];
    gather(input_norms, i, 1, element);
    if (input_norms.dtype == DType::float64) {
      std::memcpy(&norms[at], element, 8);
    } else if (input_norms.dtype == DType::float32) {
      float value;
      std::memcpy(&value, element, 4);
      norms[at] = value;
    } else {
      bad_type("x_norm", std::string("got dtype ") + name_of(input_norms.dtype) +
                             ", wants float32 or float64");
    }
    narrow[at] = static_cast<float>(norms[at]);
  }
  const auto* factors = wide ? static_cast<const void*>(norms.data()) : narrow.data();
  const std::size_t factor_size = wide ? sizeof(double) : sizeof(float);
  const Operand operands[] = {{&w, Access::read}, {&out, Access::write}};
  const WorkList work({&out, 1});
  parallel(2 * work.elements(), threads, [&](Team team) {
    work.forward(team, [&](const Run& run) {
      on_memory(operands, run.begin, run.count, [&](void** at, std::int64_t first, std::size_t n) {
        const auto count = static_cast<std::int64_t>(n);
        const auto item = static_cast<std::int64_t>(item_size(w.dtype));
        for (std::int64_t done = 0; done < count;) {
          const std::int64_t column = (run.begin + first + done) % length;
          const std::int64_t part = std::min(count - done, length - column);
          kernel(static_cast<char*>(at[0]) + done * item,
                 static_cast<const char*>(factors) + static_cast<std::size_t>(column) * factor_size,
                 static_cast<char*>(at[1]) + done * item, static_cast<std::size_t>(part));
          done += part;
        }
      });
    });
  });
}

void movement(Arrays scores, Arrays w, Arrays g, double rate, int threads) {
  const FloatEnvironment environment;
  if (!std::isfinite(rate)) bad_value("lr", "got " + text(rate) + ", wants a finite number");
  check_alike("w", w, "scores", scores);
  check_alike("g", g, "scores", scores);
  check_disjoint("scores", scores, "w", w);
  check_disjoint("scores", scores, "g", g);
  const WorkList work(scores);
  parallel(3 * work.cost(), threads, [&](Team team) {
    work.forward(team, [&](const Run& run) {
      const std::size_t k = run.array;
      const Operand operands[] = {
          {&scores[k], Access::update}, {&g[k], Access::read}, {&w[k], Access::read}};
      const auto kernel = kernels_for(scores[k].dtype).movement;
      on_memory(operands, run.begin, run.count, [&](void** at, std::int64_t, std::size_t n) {
        kernel(at[0], at[1], at[2], n, rate);
      });
    });
  });
}

}  // namespace ridgeline
