// The table of storage kernels that each target exports.
#pragma once

#include "kernels/rounding.hpp"
#include "ridgeline/array.hpp"
#include "ridgeline/optimizers.hpp"

namespace ridgeline {

/// From a 16-bit type to float32 and back.
struct HalfKernels {
  void (*to_float32)(const void* x, std::size_t n, float* out);
  /// Rounds to nearest even.
  void (*from_float32)(const float* x, std::size_t n, void* out);
  /// Rounds to one of the two neighbors, with the probability that makes the mean exact.
  void (*round_randomly)(const float* x, std::size_t n, const std::uint32_t* words, void* out);
  /// w = master, or half where that is not its rounding: somebody else has written it.
  void (*adopt)(const void* half, const float* master, std::size_t n, float* w);
  /// w = high + low, or high where the sum does not round to it: somebody else has written it.
  void (*join)(const void* high, const void* low, std::size_t n, float* w);
  /// high = w rounded, low = (w - high) rounded.
  void (*split)(const float* w, std::size_t n, void* high, void* low);
};

struct StorageTable {
  HalfKernels halves[dtype_count];  ///< null for float32 and float64

  /// The bits for rounding n elements at random: a word for two, for whole tiles.
  void (*draw)(const Rounding&, std::size_t n, std::uint32_t* words);

  // Blocks of code_block elements as a byte each and the largest magnitude of each block; without
  // sign, and with sign.
  void (*decode[2])(const std::uint8_t* codes, const float* scales, std::size_t n, float* out);
  void (*encode[2])(const float* x, std::size_t n, std::uint8_t* codes, float* scales);
};

}  // namespace ridgeline
