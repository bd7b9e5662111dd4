// Rounding to a 16-bit type at random, so that the mean is exact.
#pragma once

#include "simd/half.hpp"
#include "simd/philox.hpp"

namespace ridgeline::RIDGELINE_TARGET {
namespace {

/// Adds the random bits below those that are kept, and cuts: the carry rounds up with the
/// probability that the cut part has of one unit. NaN stays.
template <class Half, int N>
[[gnu::always_inline]] inline Vec<std::int32_t, N> rounded_randomly(Vec<float, N> x,
                                                                    Vec<std::int32_t, N> random) {
  using I = Vec<std::int32_t, N>;
  const I bits = bits_as<std::int32_t>(x);
  const auto shifted = [](I v, int by) {
    return bits_as<std::int32_t>(bits_as<std::uint32_t>(v) >> by);
  };
  if constexpr (Half::dtype == DType::bfloat16) {
    // Infinity has no bits below those that are kept, so that nothing carries. NaN as arithmetic
    // makes it has its highest bit of the fraction set, and keeps it.
    return shifted(bits + select(x == x, random, I(0)), 16);
  } else {
    const I sign = shifted(bits, 16) & I(0x8000);
    const I magnitude = bits & I(0x7fffffff);
    const I normal = shifted(magnitude - I(0x38000000) + (random & I(0x1fff)), 13);
    using V = Vec<float, N>;
    // In units of 2^-24, the smallest subnormal.
    const V units = abs(x) * V(0x1p24f) + to_float(random) * V(0x1p-16f);
    const I subnormal = truncated(select(units < V(2048), units, V(0)));
    const I finite = select(magnitude < I(0x38800000), subnormal, normal);
    const I overflow = I(0x7c00);
    const I nan = I(0x7e00) | (shifted(magnitude, 13) & I(0x3ff));
    return sign | select(magnitude < I(0x47800000), finite,
                         select(I(0x7f800000) < magnitude, nan, overflow));
  }
}

/// The random bits of N elements from i on, where N divides a half of a tile. The elements of a
/// tile take the 16-bit halves of its words: the first half of them the low halves, in order, the
/// others the high halves.
template <int N>
[[gnu::always_inline]] inline Vec<std::int32_t, N> random_halves(const std::uint32_t* words,
                                                                 std::size_t i) {
  using U = Vec<std::uint32_t, N>;
  const std::size_t place = i % (2 * tile_words);
  const auto both =
      load_lanes<std::uint32_t, N>(words + i / (2 * tile_words) * tile_words + place % tile_words);
  return bits_as<std::int32_t>(place < tile_words ? both & U(0xffff) : both >> 16);
}

}  // namespace
}  // namespace ridgeline::RIDGELINE_TARGET
