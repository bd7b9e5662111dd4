// log and exp in float64 from +, *, / alone: the same bits on every machine, which libm does not
// promise. Series are those of Muller, Elementary Functions (2016), ch. 4 and 6.
#pragma once

#include "simd/vec.hpp"

namespace ridgeline::RIDGELINE_TARGET {
namespace {

inline constexpr double ln2_high =
    0x1.62e42fee00000p-1;  // 32 bits: an exact multiple for |n| < 2^20
inline constexpr double ln2_low = 0x1.a39ef35793c76p-33;
inline constexpr double quiet_nan = __builtin_nan("");
inline constexpr double infinity = __builtin_inf();

/// The integer n, |n| < 2^31, held by each lane of a double: adding 1.5 * 2^52 leaves it in the low
/// bits.
template <int N>
[[gnu::always_inline]] inline Vec<double, N> as_double(Vec<std::int64_t, N> n) {
  const Vec<double, N> magic(0x1.8p52);
  return bits_as<double>(n + bits_as<std::int64_t>(magic)) - magic;
}

/// log x. With x = 2^e m, m in [1/sqrt 2, sqrt 2), s = (m - 1)/(m + 1):
/// log m = 2 atanh s = 2 (s + s^3/3 + s^5/5 + ...), |s| <= 0.1716, cut after s^23 (below 2^-60).
/// log 0 = -inf, log of a negative number or NaN = NaN, log inf = inf.
template <int N>
[[gnu::always_inline]] inline Vec<double, N> log(Vec<double, N> x) {
  using V = Vec<double, N>;
  using I = Vec<std::int64_t, N>;
  const auto tiny = x < V(0x1p-1022);
  const V scaled = select(tiny, x * V(0x1p54), x);
  const I bits = bits_as<std::int64_t>(scaled);
  // Subtracting the bits of 1/sqrt 2 moves the cut between exponents to there.
  const I shifted = bits - I(0x3fe6a09e667f3bcd);
  const auto exponent_bits = bits_as<std::uint64_t>(shifted + I(std::int64_t{1} << 62)) >> 52;
  const I exponent = bits_as<std::int64_t>(exponent_bits) - I(1024);
  const V m = bits_as<double>(bits - (exponent << 52));
  const V s = (m - V(1)) / (m + V(1));
  const V z = s * s;
  V series(1.0 / 23);
  unroll<10>([&](int k) { series = series * z + V(1.0 / (21 - 2 * k)); });
  const V e = as_double(exponent) - select(tiny, V(54), V(0));
  const V two_s = s + s;
  const V value = e * V(ln2_high) + (two_s + (two_s * z * series + e * V(ln2_low)));
  const V special = select(x == V(0), V(-infinity), select(x == V(infinity), x, V(quiet_nan)));
  return select((x > V(0)) & (x < V(infinity)), value, special);
}

/// log(1 + x) for x >= 0: log u + (x - (u - 1))/u with u = 1 + x restores what the sum rounded off.
template <int N>
[[gnu::always_inline]] inline Vec<double, N> log1p(Vec<double, N> x) {
  using V = Vec<double, N>;
  const V u = V(1) + x;
  const V value = log(u) + (x - (u - V(1))) / u;
  return select(x < V(infinity), value, x);
}

/// e^x. With x = n log 2 + r, |r| <= log(2)/2: 2^n times the Taylor series of e^r to r^13 (below
/// 2^-57). Overflows to inf, underflows through the subnormals to 0; NaN is NaN.
template <int N>
[[gnu::always_inline]] inline Vec<double, N> exp(Vec<double, N> x) {
  using V = Vec<double, N>;
  using I = Vec<std::int64_t, N>;
  const V bounded = select(x > V(710), V(710), select(x < V(-746), V(-746), x));
  const V magic(0x1.8p52);
  const V shifted = bounded * V(0x1.71547652b82fep0) + magic;
  const V n = shifted - magic;
  const V r = (bounded - n * V(ln2_high)) - n * V(ln2_low);
  constexpr double inverse_factorial[] = {
      1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320,
      1.0 / 5040,       1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5};
  V series(inverse_factorial[0]);
  unroll<11>([&](int k) { series = series * r + V(inverse_factorial[k + 1]); });
  const V e_r = V(1) + (r + r * r * series);
  const I integer = bits_as<std::int64_t>(shifted) - bits_as<std::int64_t>(magic);
  // Two factors, so that 2^n may be subnormal or the result overflow.
  const I biased = bits_as<std::int64_t>(bits_as<std::uint64_t>(integer + I(4096)) >> 1);
  const I half = biased - I(2048);
  const V first = bits_as<double>((half + I(1023)) << 52);
  const V second = bits_as<double>((integer - half + I(1023)) << 52);
  return select(x == x, e_r * first * second, x);
}

/// base^exponent for base >= 0 and exponent > 0.
template <int N>
[[gnu::always_inline]] inline Vec<double, N> power(Vec<double, N> base, Vec<double, N> exponent) {
  using V = Vec<double, N>;
  return select(base == V(0), V(0), exp(exponent * log(base)));
}

}  // namespace
}  // namespace ridgeline::RIDGELINE_TARGET
