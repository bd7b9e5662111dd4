// Norms, and clipping by them. Everything accumulates in float64.
#pragma once

#include <cstdint>
#include <span>

#include "ridgeline/array.hpp"

namespace ridgeline {

/// What to do when a norm is NaN or infinite.
enum class NonFinite : std::uint8_t {
  propagate,  ///< scale all the same: the arithmetic of IEEE 754, as torch
  raise,      ///< throw NonFiniteError, nothing written
  skip,       ///< write nothing
  zero,       ///< set every array to zero
};

class NonFiniteError : public std::runtime_error {
 public:
  NonFiniteError(std::ptrdiff_t index_, double norm_)
      : std::runtime_error("non-finite norm, first in array " + std::to_string(index_)),
        index(index_), norm(norm_) {}
  std::ptrdiff_t index;
  double norm;
};

/// (sum |x|^ord)^(1/ord) over all arrays; the largest |x| for infinity.
double global_norm(Arrays arrays, double ord = 2, int threads = 0);

/// x = min(max(x, low), high); NaN stays. Tiles within the limits are not written.
void clip_by_value(Arrays grads, double low, double high, int threads = 0);

/// Scales each array whose own norm is above max_norm down to it; norms[i] is the norm before.
void clip_by_norm(Arrays grads, double max_norm, double ord, std::span<double> norms,
                  int threads = 0);

/// Scales all arrays by max_norm / norm if their joint norm is above max_norm, and writes nothing
/// otherwise; returns the norm before.
double clip_by_global_norm(Arrays grads, double max_norm, double ord = 2,
                           NonFinite on_nonfinite = NonFinite::propagate, int threads = 0);

/// Scales each array whose root mean square is above max_rms down to it; rms[i] is the value
/// before.
void clip_by_rms(Arrays grads, double max_rms, std::span<double> rms, int threads = 0);

/// Zeroes the `count` entries of largest magnitude of each array; the first in C order among
/// equals. NaN is the largest. Empty arrays are left alone; other arrays must hold `count` entries.
void zero_largest(Arrays grads, std::int64_t count, int threads = 0);

/// Throws what clip_by_norm and clip_by_global_norm would throw before they write.
void check_clip(Arrays grads, double max_norm, double ord);

/// x *= factor.
void scale(Arrays arrays, double factor, int threads = 0);

/// x = 0, whatever it held.
void set_zero(Arrays arrays, int threads = 0);

/// The index of the first array with a NaN or an infinity, or -1.
std::ptrdiff_t first_nonfinite(Arrays arrays, int threads = 0);

}  // namespace ridgeline
