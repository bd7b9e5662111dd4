// log, exp, sin and cos from +, *, / alone: the same bits on every machine, which libm does not
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

/// What the logarithm needs to know of a type. ln2_high times an exponent is exact.
template <class T>
struct LogOf;
template <>
struct LogOf<double> {
  static constexpr int fraction_bits = 52;
  static constexpr std::int64_t cut = 0x3fe6a09e667f3bcd;  // the bits of 1/sqrt 2
  static constexpr int terms = 11;                         // to s^23: what is cut is below 2^-60
  static constexpr double high = ln2_high;
  static constexpr double low = ln2_low;
};
template <>
struct LogOf<float> {
  static constexpr int fraction_bits = 23;
  static constexpr std::int32_t cut = 0x3f3504f3;
  static constexpr int terms = 4;  // to s^9: below 2^-28
  static constexpr float high = 0x1.62e4p-1f;
  static constexpr float low = 0x1.7f7d1cp-20f;
};

template <int N>
[[gnu::always_inline]] inline Vec<float, N> as_float(Vec<std::int32_t, N> n) {
  const Vec<float, N> magic(0x1.8p23f);
  return bits_as<float>(n + bits_as<std::int32_t>(magic)) - magic;
}
template <int N>
[[gnu::always_inline]] inline Vec<double, N> as_float(Vec<std::int64_t, N> n) {
  return as_double(n);
}

/// x = 2^e m with m in [1/sqrt 2, sqrt 2), for positive, finite, normal x.
template <class T, int N>
struct Scaled {
  Vec<T, N> m, e;

  explicit Scaled(Vec<T, N> x) {
    using Int = lane_int<T>;
    using I = Vec<Int, N>;
    using L = LogOf<T>;
    constexpr Int half_range = Int{1} << (8 * sizeof(T) - 2);
    const I bits = bits_as<Int>(x);
    // Subtracting the bits of 1/sqrt 2 moves the cut between exponents to there.
    const auto biased = bits_as<lane_word<T>>(bits - I(L::cut) + I(half_range)) >> L::fraction_bits;
    const I exponent = bits_as<Int>(biased) - I(half_range >> L::fraction_bits);
    m = bits_as<T>(bits - (exponent << L::fraction_bits));
    e = as_float(exponent);
  }
};

/// e log 2 + log m, given m - 1 too. With s = (m - 1)/(m + 1):
/// log m = 2 atanh s = 2 (s + s^3/3 + s^5/5 + ...), |s| <= 0.1716.
template <class T, int N>
[[gnu::always_inline]] inline Vec<T, N> log_series(Vec<T, N> m_minus_1, Vec<T, N> m, Vec<T, N> e) {
  using V = Vec<T, N>;
  using L = LogOf<T>;
  const V s = m_minus_1 / (m + V(1));
  const V z = s * s;
  constexpr int last = 2 * L::terms + 1;
  V series(static_cast<T>(1.0 / last));
  unroll<L::terms - 1>(
      [&](int k) { series = series * z + V(static_cast<T>(1.0 / (last - 2 - 2 * k))); });
  const V two_s = s + s;
  return e * V(L::high) + (two_s + (two_s * z * series + e * V(L::low)));
}

/// log u for u in (0, 1], given 1 - u, which may be far more accurate than u is near 1.
template <class T, int N>
[[gnu::always_inline]] inline Vec<T, N> log_unit(Vec<T, N> u, Vec<T, N> rest) {
  using V = Vec<T, N>;
  const Scaled<T, N> x(u);
  return log_series(select(u > V(static_cast<T>(0.75)), V(0) - rest, x.m - V(1)), x.m, x.e);
}

/// log 0 = -inf, log of a negative number or NaN = NaN, log inf = inf.
template <int N>
[[gnu::always_inline]] inline Vec<double, N> log(Vec<double, N> x) {
  using V = Vec<double, N>;
  const auto tiny = x < V(0x1p-1022);
  const Scaled<double, N> scaled(select(tiny, x * V(0x1p54), x));
  const V e = scaled.e - select(tiny, V(54), V(0));
  const V value = log_series(scaled.m - V(1), scaled.m, e);
  const V special = select(x == V(0), V(-infinity), select(x == V(infinity), x, V(quiet_nan)));
  return select((x > V(0)) & (x < V(infinity)), value, special);
}

/// sin x and cos x for |x| <= pi/4: Taylor's series, to where what is cut is below a quarter of an
/// ulp.
template <class T, int N>
[[gnu::always_inline]] inline Vec<T, N> sine_series(Vec<T, N> x) {
  using V = Vec<T, N>;
  constexpr double coefficient[] = {
      1.0 / 355687428096000, -1.0 / 1307674368000, 1.0 / 6227020800, -1.0 / 39916800,
      1.0 / 362880,          -1.0 / 5040,          1.0 / 120,        -1.0 / 6};
  constexpr int skipped = sizeof(T) == 4 ? 4 : 0;
  const V z = x * x;
  V series(static_cast<T>(coefficient[skipped]));
  unroll<7 - skipped>(
      [&](int k) { series = series * z + V(static_cast<T>(coefficient[skipped + k + 1])); });
  return x + x * z * series;
}
template <class T, int N>
[[gnu::always_inline]] inline Vec<T, N> cosine_series(Vec<T, N> x) {
  using V = Vec<T, N>;
  constexpr double coefficient[] = {
      -1.0 / 6402373705728000, 1.0 / 20922789888000, -1.0 / 87178291200, 1.0 / 479001600,
      -1.0 / 3628800,          1.0 / 40320,          -1.0 / 720,         1.0 / 24};
  constexpr int skipped = sizeof(T) == 4 ? 4 : 0;
  const V z = x * x;
  V series(static_cast<T>(coefficient[skipped]));
  unroll<7 - skipped>(
      [&](int k) { series = series * z + V(static_cast<T>(coefficient[skipped + k + 1])); });
  return V(1) - (z * V(static_cast<T>(0.5)) - z * z * series);
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
