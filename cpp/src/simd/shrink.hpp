// Signs and soft thresholds.
#pragma once

#include "simd/vec.hpp"

namespace ridgeline::RIDGELINE_TARGET {
namespace {

/// -1, 0 or 1; NaN stays.
template <class V>
[[gnu::always_inline]] inline V sign(V w) {
  return select(abs(w) > V(0), copysign(V(1), w), w);
}

/// strength * sign(w) for a finite strength, without the product.
template <class V>
[[gnu::always_inline]] inline V signed_strength(V strength, V w) {
  return select(abs(w) > V(0), copysign(strength, w), w);
}

/// sign(x) max(|x| - u, 0), as x minus the part of it within [-u, u].
template <class V>
[[gnu::always_inline]] inline V soft_threshold(V x, V u) {
  return x - clamped(x, V(0) - u, u);
}

}  // namespace
}  // namespace ridgeline::RIDGELINE_TARGET
