// Random numbers that depend only on a key and an index: bit-identical for every thread count,
// target, memory layout and way of splitting an array.
#pragma once

#include <cstdint>
#include <vector>

#include "ridgeline/array.hpp"

namespace ridgeline {

/// The key of Philox4x32-10: a value, from which others are derived.
struct Key {
  std::uint64_t seed;

  /// A key of its own for each number.
  Key fold_in(std::uint64_t data) const;
  /// `n` keys: the first of any other number of them too.
  std::vector<Key> split(std::size_t n) const;

  friend bool operator==(const Key&, const Key&) = default;
};

/// Third word of the counter: what the bits are for. Counter c of a stream gives four words.
enum class Stream : std::uint32_t {
  uniform,
  choice,  ///< a byte for each element, see `choose`
  tie,     ///< the other 24 bits of an element whose byte does not decide
  normal,
  integers,
  fold_in,
  split,
  rounding,  ///< 16 bits for each element
};

/// The index of each element of an array in its stream: first, first + 1, ... in C order, or by one
/// stride (in indices) for each axis. A shard has the strides of the whole; an axis along which
/// elements share their random number has stride 0.
struct Numbering {
  std::int64_t first = 0;
  std::vector<Dim> dims;  ///< merged axes, slowest first; empty when consecutive

  Numbering() = default;
  explicit Numbering(std::int64_t first_) : first(first_) {}
  Numbering(std::int64_t first_, std::span<const std::int64_t> shape,
            std::span<const std::int64_t> strides);
};

/// Uniform on [0, 1): float32 on the grid of 2^-24, float64 2^-53, bfloat16 2^-8, float16 2^-11.
void random_uniform(const Array& out, Key key, const Numbering& numbering = {}, int threads = 0);

/// Normal, mean + std z with z by Box & Muller (1958), |z| < 6.77 in float32, 9.5 in float64.
void random_normal(const Array& out, Key key, double mean, double std,
                   const Numbering& numbering = {}, int threads = 0);

/// Integers low + [0, span), without bias (Lemire 2019); span 0 stands for 2^64. `item` is the size
/// of an integer in bytes: 1, 2, 4 or 8. `out` is contiguous.
void random_integers(void* out, std::int64_t size, std::size_t item, Key key, std::uint64_t low,
                     std::uint64_t span, const Numbering& numbering = {}, int threads = 0);

/// One bit for each element: 0 with probability floor(2^32 p) / 2^32. Bit i is bit i % 64 of
/// bits[i / 64]; bits beyond `size` are 0.
void random_keep(std::span<std::uint64_t> bits, std::int64_t size, double p, Key key,
                 const Numbering& numbering = {}, int threads = 0);

}  // namespace ridgeline
