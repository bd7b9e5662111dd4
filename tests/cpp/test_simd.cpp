// The vector layer of every target that this CPU runs, against scalar arithmetic.
#include <algorithm>
#include <bit>
#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "doctest/doctest.h"
#include "random.hpp"
#include "runtime/cpu.hpp"
#include "simd_kernels.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ridgeline {
#define RIDGELINE_TARGET(name)                                                                     \
  namespace name {                                                                                 \
  extern const test::SimdTable simd_table;                                                         \
  }
#include "runtime/targets.def"
#undef RIDGELINE_TARGET
}  // namespace ridgeline

namespace {

using namespace ridgeline;
using test::Random;
using test::SimdKernels;

struct Named {
  const char* target;
  const test::SimdTable* table;
};
constexpr Named compiled[] = {
#define RIDGELINE_TARGET(name) {#name, &name::simd_table},
#include "runtime/targets.def"
#undef RIDGELINE_TARGET
};

/// f(kernels) for every target that runs here and every number of lanes.
template <class F>
void on_each(F f) {
  for (const Named& named : compiled) {
    if (!cpu_runs(named.target)) continue;
    CAPTURE(std::string(named.target));
    for (std::size_t width = 0; width < test::widths; ++width) {
      CAPTURE(width);
      f(named.table->kernels[width]);
    }
  }
}
template <class F>
void on_each_whole(F f) {
  for (const Named& named : compiled) {
    if (!cpu_runs(named.target)) continue;
    CAPTURE(std::string(named.target));
    f(named.table->whole);
  }
}

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr double inf64 = std::numeric_limits<double>::infinity();

template <class T>
auto bits_of(T x) {
  if constexpr (sizeof(T) == 4) {
    return std::bit_cast<std::uint32_t>(x);
  } else {
    return std::bit_cast<std::uint64_t>(x);
  }
}

/// Equal to the last bit, or both NaN.
template <class T>
bool same(T a, T b) {
  return bits_of(a) == bits_of(b) || (a != a && b != b);
}

/// The first place where the vectors differ is part of the message.
template <class T, class Same = bool (*)(T, T)>
void check_same(const std::vector<T>& actual, const std::vector<T>& expected, Same equal) {
  REQUIRE(actual.size() == expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (equal(actual[i], expected[i])) continue;
    CAPTURE(i);
    CHECK(actual[i] == expected[i]);
    return;
  }
}
template <class T>
void check_same(const std::vector<T>& actual, const std::vector<T>& expected) {
  if constexpr (std::is_floating_point_v<T>) {
    check_same(actual, expected, &same<T>);
  } else {
    check_same(actual, expected, [](T a, T b) { return a == b; });
  }
}

/// Numbers of every magnitude and their neighbours, with the special ones; a multiple of 256.
template <class T>
std::vector<T> numbers(std::uint64_t seed) {
  using limits = std::numeric_limits<T>;
  std::vector<T> x = {T(0),
                      T(1),
                      T(0.5),
                      limits::infinity(),
                      limits::quiet_NaN(),
                      limits::denorm_min(),
                      limits::min(),
                      limits::max(),
                      limits::epsilon(),
                      std::nextafter(limits::min(), T(0))};
  const std::size_t count = x.size();
  for (std::size_t i = 0; i < count; ++i)
    x.push_back(-x[i]);
  Random random(seed);
  while (x.size() % 4096 != 0) {
    const auto any_bits = static_cast<decltype(bits_of(T()))>(random.bits());
    x.push_back(random.bits() % 4 == 0 ? std::bit_cast<T>(any_bits)
                                       : static_cast<T>(random.number(-4, 4)));
  }
  return x;
}

template <class T, class I>
void check_lanes(const test::LaneFunctions<T, I>& f) {
  const std::vector<T> a = numbers<T>(1);
  std::vector<T> b = numbers<T>(2);
  for (std::size_t i = 0; i < b.size(); i += 3)
    b[i] = a[i];                                          // some equal pairs
  std::rotate(b.begin(), b.begin() + 1, b.begin() + 30);  // each special number meets others
  const std::size_t n = a.size();

  std::vector<I> masks(6 * n);
  std::vector<I> expected(6 * n);
  f.compare(a.data(), b.data(), n, masks.data());
  for (std::size_t i = 0; i < n; ++i) {
    const bool results[] = {a[i]<b[i], a[i] <= b[i], a[i]> b[i], a[i] >= b[i], a[i] == b[i],
                            a[i] != b[i]};
    for (std::size_t k = 0; k < 6; ++k)
      expected[k * n + i] = results[k] ? -1 : 0;
  }
  check_same(masks, expected);

  std::vector<T> out(n);
  std::vector<T> wanted(n);
  const auto check_each = [&](auto one) {
    for (std::size_t i = 0; i < n; ++i)
      wanted[i] = one(a[i], b[i]);
    check_same(out, wanted);
  };
  f.select(masks.data(), a.data(), b.data(), n, out.data());
  check_each([](T x, T y) { return x < y ? x : y; });
  f.lesser(a.data(), b.data(), n, out.data());
  check_each([](T x, T y) { return x < y ? x : y; });
  f.greater(a.data(), b.data(), n, out.data());
  check_each([](T x, T y) { return x > y ? x : y; });
  f.clamped(a.data(), T(-0.75), T(2), n, out.data());
  check_each([](T x, T) { return x < T(-0.75) ? T(-0.75) : x > T(2) ? T(2) : x; });
  f.abs(a.data(), n, out.data());
  check_each([](T x, T) { return std::abs(x); });
  f.copysign(a.data(), b.data(), n, out.data());
  check_each([](T x, T y) { return std::copysign(x, y); });
  f.sqrt(a.data(), n, out.data());
  check_each([](T x, T) { return std::sqrt(x); });
}

// The conversions once more, by arithmetic instead of on bits. `digits` counts the implicit bit.
struct Format {
  int digits;
  int min_exponent;  // of the smallest normal number
  int max_exponent;  // of the largest finite number
};
constexpr Format bfloat16{8, -126, 127};
constexpr Format float16{11, -14, 15};

double decoded(std::uint16_t half, Format f) {
  const int fraction_bits = f.digits - 1;
  const int exponent_field = (half & 0x7fff) >> fraction_bits;
  const int fraction = half & ((1 << fraction_bits) - 1);
  const double sign = (half & 0x8000) != 0 ? -1 : 1;
  const int special = f.max_exponent - f.min_exponent + 2;
  if (exponent_field == special)
    return fraction == 0 ? sign * inf64 : std::numeric_limits<double>::quiet_NaN();
  const int exponent = std::max(exponent_field, 1) - 1 + f.min_exponent;
  const int significand = fraction + (exponent_field == 0 ? 0 : 1 << fraction_bits);
  return sign * std::ldexp(significand, exponent - fraction_bits);
}

/// Not for NaN.
std::uint16_t encoded(float x, Format f) {
  const int fraction_bits = f.digits - 1;
  const int special = f.max_exponent - f.min_exponent + 2;
  const int sign = std::signbit(x) ? 0x8000 : 0;
  const double magnitude = std::abs(static_cast<double>(x));
  if (magnitude == 0) return static_cast<std::uint16_t>(sign);
  int field = special;
  double units = 0;
  if (magnitude < inf64) {
    const int exponent = std::max(std::ilogb(magnitude), f.min_exponent);
    units = std::nearbyint(std::ldexp(magnitude, fraction_bits - exponent));
    field = exponent - f.min_exponent + 1;
    if (units < std::ldexp(1.0, fraction_bits)) field = 0;
    if (units == std::ldexp(1.0, f.digits)) {
      units /= 2;
      ++field;
    }
    if (field >= special) {
      field = special;
      units = 0;
    }
  }
  const int fraction = static_cast<int>(units) & ((1 << fraction_bits) - 1);
  return static_cast<std::uint16_t>(sign | (field << fraction_bits) | fraction);
}

std::vector<std::uint16_t> all_halves() {
  std::vector<std::uint16_t> all(65536);
  for (std::size_t i = 0; i < all.size(); ++i)
    all[i] = static_cast<std::uint16_t>(i);
  return all;
}

/// Every number of the format, the middle to its neighbour above, and the float32 next to both on
/// either side; then random ones.
std::vector<float> hard_to_round(Format f) {
  std::vector<float> x;
  for (std::uint32_t i = 0; i < 65535; ++i) {
    const double here = decoded(static_cast<std::uint16_t>(i), f);
    double next = decoded(static_cast<std::uint16_t>(i + 1), f);
    if (here != here || std::isinf(here)) continue;
    if (std::isinf(next)) next = std::copysign(std::ldexp(1.0, f.max_exponent + 1), here);
    for (const double y : {here, 0.5 * (here + next)}) {
      const auto exact = static_cast<float>(y);
      x.insert(x.end(), {exact, std::nextafter(exact, inf), std::nextafter(exact, -inf)});
    }
  }
  x.insert(x.end(), {inf, -inf, std::numeric_limits<float>::denorm_min()});
  Random random(3);
  while (x.size() < (1 << 19)) {
    const auto y = std::bit_cast<float>(static_cast<std::uint32_t>(random.bits()));
    if (y == y) x.push_back(y);
    x.push_back(static_cast<float>(random.number(-26, 17)));
  }
  x.resize(1 << 19);
  return x;
}

void check_halves(Format format,
                  void (*SimdKernels::*load)(const std::uint16_t*, std::size_t, float*),
                  void (*SimdKernels::*store)(const float*, std::size_t, std::uint16_t*)) {
  const std::vector<std::uint16_t> all = all_halves();
  const std::vector<float> hard = hard_to_round(format);
  std::vector<float> values(all.size());
  for (std::size_t i = 0; i < all.size(); ++i)
    values[i] = static_cast<float>(decoded(all[i], format));
  std::vector<std::uint16_t> rounded(hard.size());
  for (std::size_t i = 0; i < hard.size(); ++i)
    rounded[i] = encoded(hard[i], format);

  on_each([&](const SimdKernels& k) {
    std::vector<float> loaded(all.size());
    (k.*load)(all.data(), all.size(), loaded.data());
    check_same(loaded, values);

    std::vector<std::uint16_t> back(all.size());
    (k.*store)(loaded.data(), loaded.size(), back.data());
    std::size_t changed = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
      // A signalling NaN becomes the quiet one of the same sign and payload.
      const int quiet = loaded[i] != loaded[i] ? 1 << (format.digits - 2) : 0;
      if (back[i] != (all[i] | quiet)) ++changed;
    }
    CHECK(changed == 0);

    std::vector<std::uint16_t> stored(hard.size());
    (k.*store)(hard.data(), hard.size(), stored.data());
    check_same(stored, rounded);
  });
}

/// The error in units of the last place of the float64 nearest to `exact`.
double ulps(double actual, long double exact) {
  const auto nearest = static_cast<double>(exact);
  if (same(actual, nearest)) {
    if (!std::isfinite(actual)) return 0;
  } else if (!std::isfinite(actual) || !std::isfinite(nearest)) {
    return inf64;
  }
  const int exponent = std::max(nearest == 0 ? -1022 : std::ilogb(nearest), -1022);
  return static_cast<double>(std::abs(static_cast<long double>(actual) - exact) /
                             std::ldexp(1.0L, exponent - 52));
}

/// Checks f(x) within `bound` ulps of exact(x).
template <class F, class Exact>
void check_accuracy(F f, Exact exact, const std::vector<double>& x, double bound) {
  std::vector<double> y(x.size());
  f(x.data(), x.size(), y.data());
  double worst = 0;
  double at = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double error = ulps(y[i], exact(static_cast<long double>(x[i])));
    if (!(error <= worst)) {
      worst = error;
      at = x[i];
    }
  }
  CAPTURE(at);
  CHECK(worst <= bound);
}

/// Random numbers of [low, high] and of 2^[low_exponent, high_exponent].
std::vector<double> range(double low, double high, int low_exponent, int high_exponent,
                          bool both_signs = false) {
  std::vector<double> x;
  Random random(4);
  while (x.size() < (1 << 17)) {
    x.push_back(random.uniform(low, high));
    const double y = random.number(low_exponent, high_exponent);
    x.push_back(both_signs ? y : std::abs(y));
  }
  return x;
}

double one(void (*f)(const double*, std::size_t, double*), double x) {
  const std::vector<double> in(256, x);
  std::vector<double> out(256);
  f(in.data(), in.size(), out.data());
  CHECK(std::ranges::all_of(out, [&](double y) { return same(y, out[0]); }));
  return out[0];
}
double one_power(const SimdKernels& k, double base, double exponent) {
  const std::vector<double> a(256, base);
  const std::vector<double> b(256, exponent);
  std::vector<double> out(256);
  k.power(a.data(), b.data(), out.size(), out.data());
  return out[0];
}

/// The tree that vec.hpp promises.
double tree(const std::vector<double>& lanes) {
  if (lanes.size() == 1) return lanes[0];
  const std::size_t half = lanes.size() / 2;
  std::vector<double> sums(half);
  for (std::size_t i = 0; i < half; ++i)
    sums[i] = lanes[i] + lanes[i + half];
  return tree(sums);
}

}  // namespace

TEST_CASE("comparisons, selection, signs and roots are those of scalars") {
  on_each([](const SimdKernels& k) {
    check_lanes(k.f32);
    check_lanes(k.f64);
  });
}

TEST_CASE("conversions between lanes of 32 and 64 bits") {
  on_each([](const SimdKernels& k) {
    const std::vector<float> floats = numbers<float>(5);
    const std::vector<double> doubles = numbers<double>(6);
    std::vector<double> wide(floats.size());
    std::vector<float> narrow(doubles.size());
    k.widen(floats.data(), floats.size(), wide.data());
    check_same(wide, std::vector<double>(floats.begin(), floats.end()));
    k.narrow(doubles.data(), doubles.size(), narrow.data());
    std::vector<float> expected(doubles.size());
    std::ranges::transform(doubles, expected.begin(),
                           [](double x) { return static_cast<float>(x); });
    check_same(narrow, expected);

    Random random(7);
    std::vector<std::int64_t> longs(1024);
    std::ranges::generate(longs, [&] { return static_cast<std::int64_t>(random.bits()); });
    std::vector<std::int32_t> ints(longs.size());
    k.narrow_int(longs.data(), longs.size(), ints.data());
    std::vector<std::int32_t> low_halves(longs.size());
    std::ranges::transform(longs, low_halves.begin(),
                           [](std::int64_t x) { return static_cast<std::int32_t>(x); });
    check_same(ints, low_halves);
    std::vector<std::int64_t> sign_extended(ints.size());
    k.widen_int(ints.data(), ints.size(), sign_extended.data());
    check_same(sign_extended, std::vector<std::int64_t>(ints.begin(), ints.end()));
    const std::vector<std::uint32_t> words(ints.begin(), ints.end());
    std::vector<std::uint64_t> zero_extended(words.size());
    k.widen_unsigned(words.data(), words.size(), zero_extended.data());
    check_same(zero_extended, std::vector<std::uint64_t>(words.begin(), words.end()));
  });
}

TEST_CASE("every bfloat16, and rounding to it") {
  check_halves(bfloat16, &SimdKernels::load_bfloat16, &SimdKernels::store_bfloat16);
}

TEST_CASE("every float16, and rounding to it") {
  check_halves(float16, &SimdKernels::load_float16, &SimdKernels::store_float16);
}

#if defined(__x86_64__)
__attribute__((target("f16c"))) void hardware(const std::vector<float>& x,
                                              std::vector<std::uint16_t>& y) {
  for (std::size_t i = 0; i < x.size(); ++i)
    y[i] = static_cast<std::uint16_t>(
        _mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(x[i]), _MM_FROUND_TO_NEAREST_INT), 0));
}

TEST_CASE("rounding to float16 is that of F16C, NaN included") {
  if (!cpu_runs("x86_64_v3")) return;
  std::vector<float> x = hard_to_round(float16);
  for (std::size_t i = 0; i < 4096; ++i)
    x[i] = std::bit_cast<float>(static_cast<std::uint32_t>(0x7f800001 + i * 2047));
  std::vector<std::uint16_t> expected(x.size());
  hardware(x, expected);
  on_each([&](const SimdKernels& k) {
    std::vector<std::uint16_t> actual(x.size());
    k.store_float16(x.data(), x.size(), actual.data());
    check_same(actual, expected);
  });
}
#endif

TEST_CASE("log") {
  on_each([](const SimdKernels& k) {
    const auto exact = [](long double x) { return std::log(x); };
    check_accuracy(k.log, exact, range(0.5, 2, -1022, 1023), 2);
    check_accuracy(k.log, exact, range(0.999, 1.001, -60, 60), 2);
    for (const double tiny : {0x1p-1074, 0x1.8p-1073, 0x1.fffp-1040})
      CHECK(ulps(one(k.log, tiny), std::log(static_cast<long double>(tiny))) <= 1);
    CHECK(one(k.log, 1) == 0);
    CHECK(one(k.log, 0) == -inf64);
    CHECK(one(k.log, -0.0) == -inf64);
    CHECK(one(k.log, inf64) == inf64);
    for (const double bad : {-1.0, -inf64, -0x1p-1074, std::nan("")})
      CHECK(std::isnan(one(k.log, bad)));
  });
}

TEST_CASE("log1p") {
  on_each([](const SimdKernels& k) {
    const auto exact = [](long double x) { return std::log1p(x); };
    check_accuracy(k.log1p, exact, range(0, 4, -1022, 1023), 2.5);
    CHECK(one(k.log1p, 0) == 0);
    CHECK(one(k.log1p, 0x1p-1074) == 0x1p-1074);
    CHECK(one(k.log1p, inf64) == inf64);
    CHECK(std::isnan(one(k.log1p, std::nan(""))));
  });
}

TEST_CASE("exp") {
  on_each([](const SimdKernels& k) {
    const auto exact = [](long double x) { return std::exp(x); };
    check_accuracy(k.exp, exact, range(-708, 709.7, -60, 8, true), 1);
    check_accuracy(k.exp, exact, range(-746, -700, -60, -1, true), 1);  // subnormal results
    CHECK(one(k.exp, 0) == 1);
    CHECK(one(k.exp, -0.0) == 1);
    for (const double large : {709.79, 710.0, 1e300, inf64})
      CHECK(one(k.exp, large) == inf64);
    for (const double low : {-745.2, -746.0, -1e300, -inf64})
      CHECK(one(k.exp, low) == 0);
    CHECK(std::isnan(one(k.exp, std::nan(""))));
  });
}

TEST_CASE("power") {
  on_each([](const SimdKernels& k) {
    Random random(8);
    std::vector<double> base(1 << 17);
    std::vector<double> exponent(base.size());
    std::vector<double> y(base.size());
    for (std::size_t i = 0; i < base.size(); ++i) {
      base[i] = std::abs(random.number(-200, 200));
      exponent[i] = std::abs(random.number(-10, 3));
    }
    k.power(base.data(), exponent.data(), base.size(), y.data());
    double worst = 0;
    for (std::size_t i = 0; i < base.size(); ++i) {
      const long double exact = std::pow(static_cast<long double>(base[i]), exponent[i]);
      if (std::abs(std::log(exact)) > 700) continue;
      // The logarithm's rounding grows by the size of the result's logarithm.
      const double growth = 1 + static_cast<double>(std::abs(std::log(exact)));
      worst = std::max(worst, ulps(y[i], exact) / growth);
    }
    CHECK(worst <= 2);
    CHECK(one_power(k, 0, 0.5) == 0);
    CHECK(one_power(k, 1, 123.5) == 1);
    CHECK(one_power(k, inf64, 0.5) == inf64);
    CHECK(one_power(k, 0x1p-1074, 0.5) == doctest::Approx(0x1p-537).scale(0).epsilon(1e-12));
    CHECK(std::isnan(one_power(k, std::nan(""), 2)));
  });
}

TEST_CASE("lanes fold by one fixed tree") {
  on_each_whole([](const test::SimdWhole& f) {
    Random random(9);
    for (int round = 0; round < 1000; ++round) {
      std::vector<double> lanes(f.reduce_lanes);
      std::ranges::generate(lanes, [&] { return random.number(-30, 30); });
      CHECK(f.fold_add(lanes.data()) == tree(lanes));
      CHECK(f.fold_larger(lanes.data()) == *std::ranges::max_element(lanes));
      lanes[static_cast<std::size_t>(round) % lanes.size()] = std::nan("");
      CHECK(std::isnan(f.fold_larger(lanes.data())));
    }
  });
}

TEST_CASE("any and iota") {
  on_each_whole([](const test::SimdWhole& f) {
    std::vector<std::int32_t> mask(f.reduce_lanes, 0);
    CHECK_FALSE(f.any(mask.data()));
    for (std::size_t i = 0; i < mask.size(); ++i) {
      mask.assign(f.reduce_lanes, 0);
      mask[i] = -1;
      CHECK(f.any(mask.data()));
    }
    std::vector<double> lanes(f.reduce_lanes);
    f.iota(lanes.data());
    for (std::size_t i = 0; i < lanes.size(); ++i)
      CHECK(lanes[i] == static_cast<double>(i));
  });
}

TEST_CASE("sums go into lanes in blocks of 4096") {
  on_each_whole([](const test::SimdWhole& f) {
    Random random(10);
    for (const std::size_t n : std::initializer_list<std::size_t>{0, 1, 15, 16, 17, 31, 32, 33, 100,
                                                                  4095, 4096, 4097, 9000}) {
      CAPTURE(n);
      std::vector<float> narrow(n);
      std::ranges::generate(narrow, [&] { return static_cast<float>(random.number(-30, 30)); });
      const std::vector<double> x(narrow.begin(), narrow.end());
      const std::size_t blocks = (n + 4095) / 4096;
      std::vector<double> sums(blocks);
      std::vector<double> largest(blocks);
      for (std::size_t b = 0; b < blocks; ++b) {
        std::vector<double> lanes(f.reduce_lanes, 0);
        const std::size_t end = std::min(n, (b + 1) * 4096);
        for (std::size_t i = b * 4096; i < end; ++i) {
          lanes[i % lanes.size()] += x[i];
          largest[b] = std::max(largest[b], x[i]);
        }
        sums[b] = tree(lanes);
      }
      std::vector<double> totals(blocks);
      f.sum(x.data(), n, totals.data());
      check_same(totals, sums);
      f.sum_float(narrow.data(), n, totals.data());
      check_same(totals, sums);
      f.largest(x.data(), n, totals.data());
      check_same(totals, largest);
    }
  });
}

TEST_CASE("maps write every element once and nothing else") {
  on_each_whole([](const test::SimdWhole& f) {
    for (std::size_t n = 0; n <= 200; ++n) {
      const std::vector<std::uint16_t> in(n + 1, 0x3f80);  // 1
      std::vector<std::uint16_t> out(n + 1, 7);
      f.twice(out.data(), in.data(), n);
      std::vector<std::uint16_t> expected(n + 1, 0x4000);  // 2
      expected[n] = 7;
      check_same(out, expected);
    }
  });
}

TEST_CASE("Philox gives Random123's known answers") {
  std::ifstream file(RIDGELINE_TEST_DATA "/philox4x32_kat.txt");
  int found = 0;
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("10 ", 0) != 0) continue;
    ++found;
    std::istringstream words(line.substr(3));
    words >> std::hex;
    std::uint32_t counter[4];
    std::uint32_t key[2];
    std::uint32_t wanted[4];
    for (std::uint32_t& word : counter)
      words >> word;
    for (std::uint32_t& word : key)
      words >> word;
    for (std::uint32_t& word : wanted)
      words >> word;
    on_each_whole([&](const test::SimdWhole& whole) {
      std::uint32_t result[4];
      whole.philox(counter, key[0] | std::uint64_t{key[1]} << 32, result);
      for (int i = 0; i < 4; ++i)
        CHECK(result[i] == wanted[i]);
    });
  }
  CHECK(found == 3);
}

TEST_CASE("a tile holds word w of counter l at 16 w + l, with carries into the upper half") {
  constexpr std::uint64_t key = 0x0123456789abcdef;
  for (const std::uint64_t first : {0ull, 1ull, (1ull << 28) - 2, (1ull << 28) - 1, 1ull << 40}) {
    for (std::size_t tiles = 1; tiles <= 5; ++tiles) {
      on_each_whole([&](const test::SimdWhole& whole) {
        std::vector<std::uint32_t> words(tiles * 64 + 1, 77);
        whole.words(first, tiles, key, words.data());
        CHECK(words.back() == 77);
        for (std::uint64_t c = 0; c < tiles * 16; ++c) {
          const std::uint64_t counter = first * 16 + c;
          const std::uint32_t in[4] = {static_cast<std::uint32_t>(counter),
                                       static_cast<std::uint32_t>(counter >> 32), 0, 0};
          std::uint32_t wanted[4];
          whole.philox(in, key, wanted);
          for (std::uint64_t w = 0; w < 4; ++w)
            CHECK(words[c / 16 * 64 + w * 16 + c % 16] == wanted[w]);
        }
      });
    }
  }
}

TEST_CASE("the bits of bytes") {
  Random random(5);
  unsigned char bytes[64];
  for (unsigned char& byte : bytes)
    byte = static_cast<unsigned char>(random.bits());
  for (int bound = 0; bound < 256; ++bound) {
    std::uint64_t least = 0;
    std::uint64_t equal = 0;
    for (int i = 0; i < 64; ++i) {
      least |= static_cast<std::uint64_t>(bytes[i] >= bound) << i;
      equal |= static_cast<std::uint64_t>(bytes[i] == bound) << i;
    }
    on_each_whole([&](const test::SimdWhole& whole) {
      CHECK(whole.bytes_at_least(bytes, static_cast<std::uint8_t>(bound)) == least);
      CHECK(whole.bytes_equal(bytes, static_cast<std::uint8_t>(bound)) == equal);
    });
  }
}
