#include "ridgeline/dropout.hpp"

#include <bit>
#include <cmath>

#include "kernels/dropout.hpp"
#include "ops/bits.hpp"
#include "ops/checks.hpp"
#include "ops/choices.hpp"
#include "ops/work.hpp"
#include "runtime/dispatch.hpp"

namespace ridgeline {
namespace {

/// Outputs of this size do not stay in the caches: they are written past them.
constexpr std::int64_t streaming_bytes = 8 << 20;

const DropoutKernels& kernels_for(DType dtype) {
  return tables().dropout->kernels[static_cast<std::size_t>(dtype)];
}

/// A named input of a call.
struct Input {
  const char* name;
  const Array* array;
};

template <std::size_t N>
void check(const Input (&inputs)[N], const Array& out) {
  for (const auto [name, array] : inputs) {
    check_alike(name, {array, 1}, inputs[0].name, {inputs[0].array, 1});
    check_disjoint("out", {&out, 1}, name, {array, 1}, true);
  }
  check_alike("out", {&out, 1}, inputs[0].name, {inputs[0].array, 1});
}

Store store_of(const Array& out, std::initializer_list<const void*> inputs) {
  if (out.size * static_cast<std::int64_t>(item_size(out.dtype)) < streaming_bytes)
    return Store::plain;
  return std::ranges::find(inputs, out.data) == inputs.end() ? Store::streaming : Store::plain;
}

/// The work of an element with a choice, and with a normal number.
constexpr std::int64_t choice_work = 2;
constexpr std::int64_t normal_work = 14;

/// `each` is the work of an element. Calls part(pointers, begin, n, next) for at most a block
/// at a time, where `begin` counts the elements before and `next` those of the block after it;
/// make() gives each thread its part. The last operand is the output; all blocks of it but the
/// first start at a line of the cache.
template <std::size_t N, class Make>
void for_each_block(const Operand (&operands)[N], int threads, Make make, std::int64_t each = 1) {
  const Array& out = *operands[N - 1].array;
  const WorkList work({&out, 1});
  const auto item = static_cast<std::int64_t>(item_size(out.dtype));
  constexpr auto block = static_cast<std::int64_t>(block_size);
  constexpr std::uintptr_t line = 64;
  parallel(each * work.elements(), threads, [&](Team team) {
    auto part = make();
    work.forward(team, [&](const Run& run) {
      on_memory(operands, run.begin, run.count, [&](void** at, std::int64_t first, std::size_t n) {
        const auto count = static_cast<std::int64_t>(n);
        const auto past =
            static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(at[N - 1]) % line);
        for (std::int64_t done = 0; done < count;) {
          const std::int64_t size = std::min(done == 0 ? block - past / item : block, count - done);
          void* pointers[N];
          for (std::size_t i = 0; i < N; ++i)
            pointers[i] = static_cast<char*>(at[i]) + done * item;
          part(pointers, run.begin + first + done, size, std::min(block, count - done - size));
          done += size;
        }
      });
    });
  });
}

/// for_each_block with choices: part(pointers, n, kept, next).
template <std::size_t N, class Make, class Part>
void with_choices(const Operand (&operands)[N], int threads, Make make, Part part) {
  for_each_block(
      operands, threads,
      [&] {
        return [&part, choices = make()](void** at, std::int64_t begin, std::int64_t n,
                                         std::int64_t next) mutable {
          const KeepBits kept = choices.of(begin, n);
          part(at, static_cast<std::size_t>(n), kept, choices.ahead(begin + n, next));
        };
      },
      choice_work);
}

/// A source of choices for p < 1.
auto drawn(Key key, double p, const Numbering& numbering) {
  return
      [&table = *tables().random, key, p, &numbering] { return Choices(table, key, p, numbering); };
}

/// out = x or 0, without choices.
void copy(const Array& x, const Array& out, int threads) {
  const Operand operands[] = {{&x, Access::read}, {&out, Access::write}};
  for_each_block(operands, threads, [&] {
    return [&](void** at, std::int64_t, std::int64_t n, std::int64_t) {
      std::memmove(at[1], at[0], static_cast<std::size_t>(n) * item_size(out.dtype));
    };
  });
}

void zero(const Array& out, int threads) {
  const Operand operands[] = {{&out, Access::write}};
  for_each_block(operands, threads, [&] {
    return [&](void** at, std::int64_t, std::int64_t n, std::int64_t) {
      std::memset(at[0], 0, static_cast<std::size_t>(n) * item_size(out.dtype));
    };
  });
}

/// out = kept ? x scale : 0 for choices from make().
template <class Make>
void scale_kept(const Array& x, const Array& out, double scale, int threads, Make make) {
  const DropoutKernels& kernels = kernels_for(x.dtype);
  const Store how = store_of(out, {x.data});
  const Operand operands[] = {{&x, Access::read}, {&out, Access::write}};
  if (scale == 1) {
    return with_choices(operands, threads, make,
                        [&](void** at, std::size_t n, KeepBits kept, const DrawRequest& next) {
                          kernels.pick(at[0], nullptr, at[1], n, kept, how, next);
                        });
  }
  with_choices(operands, threads, make,
               [&](void** at, std::size_t n, KeepBits kept, const DrawRequest& next) {
                 kernels.scale(at[0], at[1], n, kept, how, next, scale);
               });
}

/// Normal numbers for a block, in the type that arithmetic runs in.
class Noise {
 public:
  Noise(DType dtype, Key key, double mean, double std, const Numbering& numbering)
      : dtype_(dtype == DType::float64 ? DType::float64 : DType::float32), key_(key), mean_(mean),
        std_(std), numbering_(numbering) {}

  const void* of(std::int64_t begin, std::int64_t n) {
    const auto kernel = tables().random->kernels[static_cast<std::size_t>(dtype_)].normal;
    const std::size_t item = item_size(dtype_);
    for_consecutive(
        numbering_, begin, n, [&](std::uint64_t index, std::size_t count, std::int64_t done) {
          kernel(key_, index, count, mean_, std_, buffer_ + static_cast<std::size_t>(done) * item);
        });
    return buffer_;
  }

 private:
  DType dtype_;
  Key key_;
  double mean_;
  double std_;
  const Numbering& numbering_;
  const ScratchArray<char> buffer_{block_size * sizeof(double)};
};

template <class Kernel>
void with_noise(const Array& x, const Array& out, Key key, double mean, double std,
                const Numbering& numbering, int threads, Kernel kernel) {
  check({{"x", &x}}, out);
  const Store how = store_of(out, {x.data});
  const Operand operands[] = {{&x, Access::read}, {&out, Access::write}};
  for_each_block(
      operands, threads,
      [&] {
        return [&, noise = Noise(x.dtype, key, mean, std, numbering)](
                   void** at, std::int64_t begin, std::int64_t n, std::int64_t) mutable {
          kernel(at[0], noise.of(begin, n), at[1], static_cast<std::size_t>(n), how);
        };
      },
      normal_work);
}

/// SELU's limit for large negative inputs, without its sign: scale times alpha.
constexpr double selu_limit = 1.7580993408473766;

double alpha_slope(double p) { return 1 / std::sqrt((selu_limit * selu_limit * p + 1) * (1 - p)); }

}  // namespace

void dropout_scaled(const Array& x, const Array& out, double p, Key key, double scale,
                    const Numbering& numbering, int threads) {
  const FloatEnvironment environment;
  check_probability(p);
  check({{"x", &x}}, out);
  if (p == 0 && scale == 1) return copy(x, out, threads);
  if (p == 1) return zero(out, threads);
  scale_kept(x, out, scale, threads, drawn(key, p, numbering));
}

void dropout(const Array& x, const Array& out, double p, Key key, const Numbering& numbering,
             int threads) {
  const FloatEnvironment environment;
  dropout_scaled(x, out, p, key, 1 / (1 - p), numbering, threads);
}

void dropout_add(const Array& x, const Array& residual, const Array& out, double p, Key key,
                 const Numbering& numbering, int threads) {
  const FloatEnvironment environment;
  check_probability(p);
  check({{"x", &x}, {"residual", &residual}}, out);
  // All dropped is what the kernel makes of no kept bits.
  static constexpr std::uint64_t none[block_size / 64 + 1] = {};
  const DropoutKernels& kernels = kernels_for(x.dtype);
  const Store how = store_of(out, {x.data, residual.data});
  const Operand operands[] = {{&x, Access::read}, {&residual, Access::read}, {&out, Access::write}};
  if (p == 1) {
    return for_each_block(operands, threads, [&] {
      return [&](void** at, std::int64_t, std::int64_t n, std::int64_t) {
        kernels.scale_add(at[0], at[1], at[2], static_cast<std::size_t>(n), {none, 0}, how, {}, 1);
      };
    });
  }
  with_choices(operands, threads, drawn(key, p, numbering),
               [&](void** at, std::size_t n, KeepBits kept, const DrawRequest& next) {
                 kernels.scale_add(at[0], at[1], at[2], n, kept, how, next, 1 / (1 - p));
               });
}

void alpha_dropout(const Array& x, const Array& out, double p, Key key, const Numbering& numbering,
                   int threads) {
  const FloatEnvironment environment;
  check_probability(p);
  check({{"x", &x}}, out);
  if (p == 0) return copy(x, out, threads);
  if (p == 1) return zero(out, threads);
  const double a = alpha_slope(p);
  const double b = selu_limit * a * p;
  const DropoutKernels& kernels = kernels_for(x.dtype);
  const Store how = store_of(out, {x.data});
  const Operand operands[] = {{&x, Access::read}, {&out, Access::write}};
  with_choices(operands, threads, drawn(key, p, numbering),
               [&](void** at, std::size_t n, KeepBits kept, const DrawRequest& next) {
                 kernels.affine(at[0], at[1], n, kept, how, next, a, b, b - selu_limit * a);
               });
}

void alpha_dropout_backward(const Array& dy, const Array& out, double p, Key key,
                            const Numbering& numbering, int threads) {
  const FloatEnvironment environment;
  check_probability(p);
  dropout_scaled(dy, out, p, key, p == 1 ? 0 : alpha_slope(p), numbering, threads);
}

void gaussian_dropout(const Array& x, const Array& out, double p, Key key,
                      const Numbering& numbering, int threads) {
  const FloatEnvironment environment;
  check_probability(p);
  if (p == 1)
    bad_value("p", "got 1, wants a probability below 1: the variance p / (1 - p) is infinite");
  with_noise(x, out, key, 1, std::sqrt(p / (1 - p)), numbering, threads,
             kernels_for(x.dtype).multiply);
}

void gaussian_noise(const Array& x, const Array& out, double std, Key key,
                    const Numbering& numbering, int threads) {
  const FloatEnvironment environment;
  check_non_negative("std", std, false);
  with_noise(x, out, key, 0, std, numbering, threads, kernels_for(x.dtype).add);
}

void zoneout(const Array& fresh, const Array& old, const Array& out, double p, Key key,
             const Numbering& numbering, int threads) {
  const FloatEnvironment environment;
  check_probability(p);
  check({{"new", &fresh}, {"old", &old}}, out);
  if (p == 0) return copy(fresh, out, threads);
  if (p == 1) return copy(old, out, threads);
  const DropoutKernels& kernels = kernels_for(fresh.dtype);
  const Store how = store_of(out, {fresh.data, old.data});
  const Operand operands[] = {{&fresh, Access::read}, {&old, Access::read}, {&out, Access::write}};
  with_choices(operands, threads, drawn(key, p, numbering),
               [&](void** at, std::size_t n, KeepBits kept, const DrawRequest& next) {
                 kernels.pick(at[0], at[1], at[2], n, kept, how, next);
               });
}

void zoneout_backward(const Array& dy, const Array& d_fresh, const Array& d_old, double p, Key key,
                      const Numbering& numbering, int threads) {
  const FloatEnvironment environment;
  check_probability(p);
  check_alike("d_new", {&d_fresh, 1}, "dy", {&dy, 1});
  check_alike("d_old", {&d_old, 1}, "dy", {&dy, 1});
  const Array both[] = {d_fresh, d_old};
  check_disjoint("out", both, "dy", {&dy, 1});
  if (p == 1) {
    zero(d_fresh, threads);
    return copy(dy, d_old, threads);
  }
  const DropoutKernels& kernels = kernels_for(dy.dtype);
  const Store how = store_of(d_fresh, {dy.data});
  const Operand operands[] = {
      {&dy, Access::read}, {&d_old, Access::write}, {&d_fresh, Access::write}};
  with_choices(operands, threads, drawn(key, p, numbering),
               [&](void** at, std::size_t n, KeepBits kept, const DrawRequest& next) {
                 kernels.pick(at[0], nullptr, at[2], n, kept, how, next);
                 kernels.pick(nullptr, at[0], at[1], n, kept, how, {});
               });
}

namespace {

constexpr std::size_t max_axes = 3;

/// The grid of seeds of DropBlock, and the block around each.
struct BlockGrid {
  std::int64_t size[max_axes] = {1, 1, 1};  ///< of a plane
  std::int64_t block[max_axes] = {1, 1, 1};
  std::int64_t seeds[max_axes] = {1, 1, 1};   ///< places for a seed
  std::int64_t before[max_axes] = {0, 0, 0};  ///< how far a block reaches before its seed

  BlockGrid(std::span<const std::int64_t> sizes, std::span<const std::int64_t> blocks,
            BlockEdges edges) {
    const std::size_t pad = max_axes - sizes.size();
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      size[pad + i] = sizes[i];
      block[pad + i] = std::min(blocks[i], sizes[i]);
    }
    for (std::size_t i = 0; i < max_axes; ++i) {
      const bool full = edges == BlockEdges::full;
      seeds[i] = full ? size[i] - block[i] + 1 : size[i];
      before[i] = full ? 0 : (block[i] - 1) / 2;
    }
  }

  static std::int64_t product(const std::int64_t (&x)[max_axes]) { return x[0] * x[1] * x[2]; }

  /// Ghiasi, Lin & Le (2018), eq. 1.
  double rate(double p) const {
    double fits = 1;
    for (std::size_t i = 0; i < max_axes; ++i)
      fits *= static_cast<double>(size[i] - block[i] + 1);
    const double gamma =
        p * static_cast<double>(product(size)) / static_cast<double>(product(block)) / fits;
    return std::min(gamma, 1.0);
  }

  /// Clears the block of seed `index` of the plane whose bits start at `base`.
  void clear(std::uint64_t* bits, std::int64_t base, std::int64_t index) const {
    std::int64_t first[max_axes];
    std::int64_t last[max_axes];
    for (std::size_t i = max_axes; i-- > 0;) {
      const std::int64_t start = index % seeds[i] - before[i];
      index /= seeds[i];
      first[i] = std::max<std::int64_t>(start, 0);
      last[i] = std::min(start + block[i], size[i]);
    }
    for (std::int64_t a = first[0]; a < last[0]; ++a) {
      for (std::int64_t b = first[1]; b < last[1]; ++b)
        clear_range(bits, base + (a * size[1] + b) * size[2] + first[2], last[2] - first[2]);
    }
  }
};

}  // namespace

void drop_block(const Array& x, const Array& out, std::int64_t samples, std::int64_t channels,
                std::span<const std::int64_t> size, std::span<const std::int64_t> block, double p,
                Key key, BlockEdges edges, bool per_channel, int threads) {
  const FloatEnvironment environment;
  check_probability(p);
  check({{"x", &x}}, out);
  for (const std::int64_t k : block) {
    if (k < 1) bad_value("block", "got " + std::to_string(k) + ", wants sizes of at least 1");
  }
  if (p == 0 || x.size == 0) return copy(x, out, threads);
  if (p == 1) return zero(out, threads);
  const BlockGrid grid(size, block, edges);
  const std::int64_t plane = BlockGrid::product(grid.size);
  const std::int64_t seeds = BlockGrid::product(grid.seeds);
  const std::int64_t planes = samples * (per_channel ? channels : 1);
  const std::int64_t elements = planes * plane;
  std::vector<std::uint64_t> kept(static_cast<std::size_t>(mask_words(elements)) + 1);
  fill_bits(kept.data(), elements);
  const double rate = grid.rate(p);
  std::vector<std::uint64_t> seed_kept(static_cast<std::size_t>(mask_words(planes * seeds)));
  random_keep(seed_kept, planes * seeds, rate, key, {}, threads);
  for (std::size_t word = 0; word < seed_kept.size(); ++word) {
    const std::int64_t left = planes * seeds - static_cast<std::int64_t>(word) * 64;
    for (std::uint64_t set = ~seed_kept[word] & first_bits(left); set != 0; set &= set - 1) {
      const std::int64_t seed = static_cast<std::int64_t>(word) * 64 + std::countr_zero(set);
      grid.clear(kept.data(), seed / seeds * plane, seed % seeds);
    }
  }
  const std::int64_t remaining = count_bits(kept.data(), elements);
  if (remaining == 0) return zero(out, threads);
  Numbering numbering;
  if (!per_channel) {
    const std::int64_t shape[] = {samples, channels, plane};
    const std::int64_t strides[] = {plane, 0, 1};
    numbering = Numbering(0, shape, strides);
  }
  scale_kept(x, out, static_cast<double>(elements) / static_cast<double>(remaining), threads,
             [&] { return Choices(kept.data(), numbering); });
}

}  // namespace ridgeline
