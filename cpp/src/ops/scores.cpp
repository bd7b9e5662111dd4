// Scores of elements, and sums of their powers by blocks.
#include <cmath>

#include "ops/bits.hpp"
#include "ops/checks.hpp"
#include "ops/pruning.hpp"
#include "ops/slices.hpp"
#include "ops/work.hpp"

namespace ridgeline {
namespace {

/// The sums of |x|^ord over blocks, or the largest |x| of them.
class BlockPowers {
 public:
  BlockPowers(const Array& x, std::span<const Axis> axes, double ord, const std::uint64_t* among,
              const double* largest, std::span<double> scores, int threads)
      : x_(x), axes_(axes), last_(axes.back()), ord_(ord), among_(among), largest_(largest),
        scores_(scores), threads_(threads), kernels_(kernels_for(x.dtype)) {}

  void run() const {
    if (axes_.size() == 1) {
      by_blocks_of_the_only_axis();
    } else if (axes_.front().blocks() > 1) {
      by_blocks_of_the_first_axis();
    } else {
      in_parts();
    }
  }

 private:
  const double* scale_at(std::int64_t b) const {
    return largest_ == nullptr ? nullptr : largest_ + b;
  }

  /// Adds elements [begin, begin + n), which start at a block of the last axis, to out.
  void add(std::int64_t begin, std::int64_t n, double* out, const double* scale) const {
    constexpr auto tile = static_cast<std::int64_t>(block_size);
    const bool small = last_.block <= tile;
    const bool at_once = x_.contiguous() && among_ == nullptr && small;
    const std::int64_t step = small ? tile / last_.block * last_.block : tile;
    const Operand operands[] = {{&x_, Access::read}};
    for (std::int64_t done = 0; done < n;) {
      const std::int64_t in_block = small ? n : last_.block - done % last_.block;
      const std::int64_t count = at_once ? n : std::min({step, in_block, n - done});
      const std::int64_t b = done / last_.block;
      on_memory(operands, begin + done, count, [&](void** at, std::int64_t, std::size_t part) {
        add_tile(at[0], begin + done, part, out + b, scale == nullptr ? nullptr : scale + b);
      });
      done += count;
    }
  }

  /// n elements at `from`, the first of which is element `begin`; if there is a mask, a tile.
  void add_tile(const void* from, std::int64_t begin, std::size_t n, double* out,
                const double* scale) const {
    const ScratchArray<std::byte> masked(among_ == nullptr ? 0 : block_size * sizeof(double));
    if (among_ != nullptr) {
      std::uint64_t bits[block_size / 64];
      for (std::size_t i = 0; i < n; i += 64)
        bits[i / 64] = bits_from(among_, begin + static_cast<std::int64_t>(i), mask_words(x_.size));
      std::memcpy(masked, from, n * item_size(x_.dtype));
      kernels_.apply(masked, n, bits);
      from = masked;
    }
    const auto block = static_cast<std::size_t>(last_.block);
    if (scale == nullptr) return kernels_.add_powers(from, n, block, ord_, out);
    kernels_.add_scaled_powers(from, n, block, ord_, scale, out);
  }

  void add_rows(std::int64_t from, std::int64_t to, double* out) const {
    for (std::int64_t row = from; row < to; ++row) {
      const std::int64_t b = first_block(axes_, row);
      add(row * last_.extent, last_.extent, out + b, scale_at(b));
    }
  }

  void by_blocks_of_the_only_axis() const {
    parallel(x_.size, threads_, [&](Team team) {
      const std::int64_t from = last_.blocks() * team.rank / team.size;
      const std::int64_t to = last_.blocks() * (team.rank + 1) / team.size;
      if (from == to) return;
      const std::int64_t end = std::min(to * last_.block, last_.extent);
      add(from * last_.block, end - from * last_.block, scores_.data() + from, scale_at(from));
    });
  }

  void by_blocks_of_the_first_axis() const {
    const Axis& front = axes_.front();
    const std::int64_t inner_rows = rows() / front.extent;
    parallel(x_.size, threads_, [&](Team team) {
      share(team, front.blocks(), [&](std::int64_t b) {
        const std::int64_t end = std::min((b + 1) * front.block, front.extent);
        add_rows(b * front.block * inner_rows, end * inner_rows, scores_.data());
      });
    });
  }

  /// All rows belong to the same blocks: in parts that depend on the shape alone, added in order.
  /// They take at most 1 % of what the array takes.
  void in_parts() const {
    const auto groups = static_cast<std::int64_t>(scores_.size());
    const auto bytes = x_.size * static_cast<std::int64_t>(item_size(x_.dtype));
    const std::int64_t parts =
        std::clamp<std::int64_t>(bytes / 100 / (8 * groups), 1, std::min<std::int64_t>(16, rows()));
    if (parts == 1) return parallel(0, 1, [&](Team) { add_rows(0, rows(), scores_.data()); });
    std::vector<double> sums(static_cast<std::size_t>(parts * groups), 0.0);
    parallel(x_.size, threads_, [&](Team team) {
      share(team, parts, [&](std::int64_t part) {
        add_rows(rows() * part / parts, rows() * (part + 1) / parts, sums.data() + part * groups);
      });
    });
    const bool maxima = std::isinf(ord_);
    for (std::int64_t i = 0; i < parts * groups; ++i) {
      double& score = scores_[static_cast<std::size_t>(i % groups)];
      const double sum = sums[static_cast<std::size_t>(i)];
      score = maxima ? (sum > score || std::isnan(sum) ? sum : score) : score + sum;
    }
  }

  std::int64_t rows() const {
    std::int64_t rows = 1;
    for (const Axis& axis : axes_.first(axes_.size() - 1))
      rows *= axis.extent;
    return rows;
  }

  const Array& x_;
  std::span<const Axis> axes_;
  const Axis last_;
  const double ord_;
  const std::uint64_t* among_;
  const double* largest_;
  std::span<double> scores_;
  const int threads_;
  const PruningKernels& kernels_;
};

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

void block_powers(const Array& x, std::span<const std::int64_t> shape,
                  std::span<const std::int64_t> block, double ord, const std::uint64_t* among,
                  const double* largest, std::span<double> scores, int threads) {
  const FloatEnvironment environment;
  check_ord(ord);
  std::ranges::fill(scores, 0);
  if (x.size == 0) return;
  const std::vector<Axis> axes = merged(shape, block);
  BlockPowers(x, axes, ord, among, largest, scores, threads).run();
}

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
