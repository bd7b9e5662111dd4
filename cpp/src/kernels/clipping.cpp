// Norms (float64 sums of every type), scaling, clamping, and the search for the largest magnitudes.
#include "kernels/clipping.hpp"

#include "simd/loop.hpp"
#include "simd/math.hpp"
#include "simd/scale.hpp"

namespace ridgeline::RIDGELINE_TARGET {
namespace {

template <class T>
void sum_magnitudes(const void* x, std::size_t n, double* totals) {
  reduce<Add>(
      n, totals, [](auto v) { return abs(v); }, static_cast<const T*>(x));
}

template <class T>
void sum_squares(const void* x, std::size_t n, double* totals) {
  reduce<Add>(
      n, totals, [](auto v) { return v * v; }, static_cast<const T*>(x));
}

/// The bits of |x| order as |x| does, with NaN above infinity, so that the largest is NaN if one
/// is.
template <class T>
void max_magnitude(const void* x, std::size_t n, double* totals) {
  using F = compute_t<T>;
  using I = lane_int<F>;
  using K = Vec<I, map_lanes<T>>;
  const auto larger = [](auto a, auto b) { return select(a < b, b, a); };
  for_each_block(n, totals, [&](std::size_t begin, std::size_t end, double& total) {
    const auto next = [&](K largest, Vec<F, map_lanes<T>> v) {
      return larger(largest, bits_as<I>(abs(v)));
    };
    const K largest = scan(end - begin, K(0), next, static_cast<const T*>(x) + begin);
    total = __builtin_bit_cast(F, fold(largest, larger));
  });
}

/// x^n for n >= 1 by squaring.
template <class V>
[[gnu::always_inline]] inline V integer_power(V x, int n) {
  V result(1);
  for (; n > 1; n /= 2) {
    if (n % 2 == 1) result = result * x;
    x = x * x;
  }
  return result * x;
}

template <class T>
void sum_powers(const void* x, std::size_t n, double scale, double exponent, double* totals) {
  using V = Vec<double, reduce_lanes>;
  const V divisor(scale);
  const auto* from = static_cast<const T*>(x);
  if (exponent <= 64 && exponent == static_cast<int>(exponent)) {
    const int p = static_cast<int>(exponent);
    reduce<Add>(
        n, totals, [&](V v) { return integer_power(abs(v) / divisor, p); }, from);
  } else {
    const V p(exponent);
    reduce<Add>(
        n, totals, [&](V v) { return power(abs(v) / divisor, p); }, from);
  }
}

template <class T>
void multiply(void* x, std::size_t n, double factor) {
  using V = Vec<compute_t<T>, map_lanes<T>>;
  const Factor<V> f(factor);
  auto* out = static_cast<T*>(x);
  const auto* in = static_cast<const T*>(x);
  if (f.exact()) {
    map_into(
        out, n, [&](V v) { return f.rough(v); }, in);
  } else {
    map_into(
        out, n, [&](V v) { return f.careful(v); }, in);
  }
}

/// min(max(x, low), high); NaN stays. Looks at the extremes of a tile that stays in the first
/// cache before it writes any of it: reading costs half of rewriting from memory.
template <class T>
bool clamp(void* x, std::size_t n, double low, double high) {
  using F = compute_t<T>;
  using V = Vec<F, map_lanes<T>>;
  const V lower(static_cast<F>(low));
  const V upper(static_cast<F>(high));
  struct Extremes {
    V lowest, highest;
  };
  const auto widen_to = [](Extremes e, V v) {
    return Extremes{lesser(v, e.lowest), greater(v, e.highest)};  // passes over NaN
  };
  constexpr std::size_t tile = 2048;
  bool wrote = false;
  for (std::size_t begin = 0; begin < n; begin += tile) {
    const std::size_t count = n - begin < tile ? n - begin : tile;
    T* at = static_cast<T*>(x) + begin;
    const Extremes found = scan(count, Extremes{upper, lower}, widen_to, at);
    if (!any((found.lowest < lower) | (found.highest > upper))) continue;
    map_into(
        at, count, [&](V v) { return clamped(v, lower, upper); }, at);
    wrote = true;
  }
  return wrote;
}

/// The key is the bits of |x|, which order as |x| does; all NaNs have the one key above infinity's.
template <class T>
std::size_t at_least(const void* x, std::size_t n, std::uint64_t key, std::uint32_t* positions,
                     std::uint64_t* keys) {
  using F = compute_t<T>;
  using I = lane_int<F>;
  constexpr int N = map_lanes<T>;
  using V = Vec<F, N>;
  using K = Vec<I, N>;
  constexpr I nan_key = __builtin_bit_cast(I, static_cast<F>(infinity)) + 1;
  const auto key_of = [](V v) {
    const K bits = bits_as<I>(abs(v));
    return select(K(nan_key) < bits, K(nan_key), bits);
  };
  const K bound(static_cast<I>(static_cast<std::int64_t>(key) - 1));
  std::size_t found = 0;
  for (std::size_t begin = 0; begin < n; begin += N) {
    const std::size_t count = n - begin < N ? n - begin : N;
    const auto* p = static_cast<const T*>(x) + begin;
    const K bits = key_of(count == N ? load<T, N>(p) : Remainder<T, N>(p, count).lanes());
    if (!any(bound < bits)) continue;
    I lane[N];
    store_lanes(lane, bits);
    for (std::size_t i = 0; i < count; ++i) {
      if (static_cast<std::uint64_t>(lane[i]) < key) continue;
      positions[found] = static_cast<std::uint32_t>(begin + i);
      keys[found++] = static_cast<std::uint64_t>(lane[i]);
    }
  }
  return found;
}

double scalar_power(double base, double exponent) {
  return fold(power(Vec<double, 1>(base), Vec<double, 1>(exponent)), Add{});
}

template <class T>
constexpr ClippingKernels kernels_of() {
  return {&sum_magnitudes<T>, &sum_squares<T>, &max_magnitude<T>, &sum_powers<T>,
          &multiply<T>,       &clamp<T>,       &at_least<T>};
}

}  // namespace

extern constinit const ClippingTable clipping;
constinit const ClippingTable clipping = {
    {kernels_of<float>(), kernels_of<double>(), kernels_of<Bfloat16>(), kernels_of<Float16>()},
    &scalar_power};

}  // namespace ridgeline::RIDGELINE_TARGET
