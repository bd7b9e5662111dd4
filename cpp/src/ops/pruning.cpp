// Masks by structure, and what masks do. The search for the lowest is in selection.cpp.
#include "ops/pruning.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/random.hpp"
#include "ops/bits.hpp"
#include "ops/checks.hpp"
#include "ops/slices.hpp"
#include "ops/work.hpp"

namespace ridgeline {
namespace {

constexpr std::int64_t columns = 64;  // ranked at once

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

void spread_blocks(std::span<const std::int64_t> shape, std::span<const std::int64_t> block,
                   const std::uint64_t* blocks, std::uint64_t* words, int threads) {
  const FloatEnvironment environment;
  std::fill_n(words, mask_words(product(shape)), 0);
  std::int64_t count = 1;
  for (std::size_t i = 0; i < shape.size(); ++i)
    count *= (shape[i] + block[i] - 1) / block[i];
  const std::int64_t block_words = mask_words(count);
  for_each_run(
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
  for_each_run(shape, block, threads,
               [&](std::int64_t b, std::int64_t first, std::int64_t n, bool single) {
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

}  // namespace ridgeline
