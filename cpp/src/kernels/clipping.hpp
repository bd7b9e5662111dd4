// The table of norm and clipping kernels that each target exports.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ridgeline/clipping.hpp"

namespace ridgeline {

struct ClippingKernels {
  // Reductions: totals[b] for block b of x, in float64.
  void (*sum_magnitudes)(const void* x, std::size_t n, double* totals);
  void (*sum_squares)(const void* x, std::size_t n, double* totals);
  void (*max_magnitude)(const void* x, std::size_t n, double* totals);  ///< NaN if there is one
  /// Sum of (|x| / scale)^exponent.
  void (*sum_powers)(const void* x, std::size_t n, double scale, double exponent, double* totals);

  // Maps.
  void (*multiply)(void* x, std::size_t n, double factor);
  bool (*clamp)(void* x, std::size_t n, double low, double high);  ///< whether it wrote

  /// Positions of the elements whose magnitude key is `key` or more, in order, and their keys;
  /// returns how many. Keys order magnitudes as integers, NaN above infinity. Both outputs hold n
  /// entries.
  std::size_t (*at_least)(const void* x, std::size_t n, std::uint64_t key, std::uint32_t* positions,
                          std::uint64_t* keys);
};

struct ClippingTable {
  ClippingKernels kernels[dtype_count];
  double (*power)(double base, double exponent);  ///< base >= 0
};

}  // namespace ridgeline
