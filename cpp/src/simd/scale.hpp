// Products with one factor that are rounded once.
#pragma once

#include "simd/vec.hpp"

namespace ridgeline::RIDGELINE_TARGET {
namespace {

/// float64 lanes as F, rounded.
template <class F, int N>
[[gnu::always_inline]] inline Vec<F, N> rounded_to(Vec<double, N> x) {
  if constexpr (sizeof(F) == 4) {
    return narrow<float>(x);
  } else {
    return x;
  }
}

/// A float64 factor of lanes V. Where float32 does not hold it, products of float32 are taken in
/// float64: they are rounded once, and factors beyond the range of float32 keep their value.
template <class V>
class Factor {
  using T = typename V::value_type;

 public:
  explicit Factor(double factor)
      : own_(static_cast<T>(factor)), wide_(factor),
        exact_(static_cast<double>(static_cast<T>(factor)) == factor) {}

  bool exact() const { return exact_; }
  [[gnu::always_inline]] V rough(V x) const { return own_ * x; }
  [[gnu::always_inline]] V careful(V x) const { return of_doubles(to_double(x)); }
  [[gnu::always_inline]] V of_doubles(Vec<double, V::lanes> x) const {
    return rounded_to<T>(wide_ * x);
  }
  [[gnu::always_inline]] friend V operator*(const Factor& f, V x) {
    return f.exact_ ? f.rough(x) : f.careful(x);
  }

 private:
  V own_;
  Vec<double, V::lanes> wide_;
  bool exact_;
};

}  // namespace
}  // namespace ridgeline::RIDGELINE_TARGET
