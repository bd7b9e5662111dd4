// Compiled once for each target, with the flags of the kernels.
#include "simd_kernels.hpp"

#include "simd/loop.hpp"
#include "simd/math.hpp"

namespace ridgeline::RIDGELINE_TARGET {
namespace {

using test::LaneFunctions;
using test::SimdKernels;
using test::SimdTable;

/// out[i] = f(in[i]...), N at a time; n is a multiple of N.
template <int N, class F, class Out, class... In>
void each(std::size_t n, F f, Out* out, const In*... in) {
  for (std::size_t i = 0; i < n; i += N)
    store_lanes(out + i, f(load_lanes<In, N>(in + i)...));
}

template <class T, int N>
constexpr LaneFunctions<T, lane_int<T>> lane_functions() {
  using I = lane_int<T>;
  using V = Vec<T, N>;
  return {
      [](const T* a, const T* b, std::size_t n, I* masks) {
        each<N>(
            n, [](V x, V y) { return x < y; }, masks, a, b);
        each<N>(
            n, [](V x, V y) { return x <= y; }, masks + n, a, b);
        each<N>(
            n, [](V x, V y) { return x > y; }, masks + 2 * n, a, b);
        each<N>(
            n, [](V x, V y) { return x >= y; }, masks + 3 * n, a, b);
        each<N>(
            n, [](V x, V y) { return x == y; }, masks + 4 * n, a, b);
        each<N>(
            n, [](V x, V y) { return x != y; }, masks + 5 * n, a, b);
      },
      [](const I* mask, const T* a, const T* b, std::size_t n, T* out) {
        each<N>(
            n, [](Vec<I, N> m, V x, V y) { return select(m, x, y); }, out, mask, a, b);
      },
      [](const T* a, const T* b, std::size_t n, T* out) {
        each<N>(
            n, [](V x, V y) { return lesser(x, y); }, out, a, b);
      },
      [](const T* a, const T* b, std::size_t n, T* out) {
        each<N>(
            n, [](V x, V y) { return greater(x, y); }, out, a, b);
      },
      [](const T* a, T low, T high, std::size_t n, T* out) {
        each<N>(
            n, [&](V x) { return clamped(x, V(low), V(high)); }, out, a);
      },
      [](const T* a, std::size_t n, T* out) {
        each<N>(
            n, [](V x) { return abs(x); }, out, a);
      },
      [](const T* a, const T* b, std::size_t n, T* out) {
        each<N>(
            n, [](V x, V y) { return copysign(x, y); }, out, a, b);
      },
      [](const T* a, std::size_t n, T* out) {
        each<N>(
            n, [](V x) { return sqrt(x); }, out, a);
      },
  };
}

template <class T, int N>
void load_half(const std::uint16_t* a, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; i += N)
    store_lanes(out + i, load<T, N>(reinterpret_cast<const T*>(a) + i));
}
template <class T, int N>
void store_half(const float* a, std::size_t n, std::uint16_t* out) {
  for (std::size_t i = 0; i < n; i += N)
    store<T, N>(reinterpret_cast<T*>(out) + i, load_lanes<float, N>(a + i));
}

template <class To, class From, int N>
void convert(const From* a, std::size_t n, To* out) {
  each<N>(
      n,
      [](Vec<From, N> x) {
        if constexpr (sizeof(To) > sizeof(From)) {
          return widen<To>(x);
        } else {
          return narrow<To>(x);
        }
      },
      out, a);
}

template <int N>
constexpr SimdKernels kernels_of() {
  using V = Vec<double, N>;
  constexpr int halves = N == 1 ? Vec<float, 16>::register_lanes : N;  // they come by registers
  return {
      lane_functions<float, N>(),
      lane_functions<double, N>(),
      &convert<double, float, N>,
      &convert<float, double, N>,
      &convert<std::int64_t, std::int32_t, N>,
      &convert<std::uint64_t, std::uint32_t, N>,
      &convert<std::int32_t, std::int64_t, N>,
      &load_half<Bfloat16, halves>,
      &load_half<Float16, halves>,
      &store_half<Bfloat16, halves>,
      &store_half<Float16, halves>,
      [](const double* a, std::size_t n, double* out) {
        each<N>(
            n, [](V x) { return log(x); }, out, a);
      },
      [](const double* a, std::size_t n, double* out) {
        each<N>(
            n, [](V x) { return log1p(x); }, out, a);
      },
      [](const double* a, std::size_t n, double* out) {
        each<N>(
            n, [](V x) { return exp(x); }, out, a);
      },
      [](const double* base, const double* exponent, std::size_t n, double* out) {
        each<N>(
            n, [](V x, V y) { return power(x, y); }, out, base, exponent);
      },
  };
}

constexpr test::SimdWhole whole = {
    reduce_lanes,
    [](const double* lanes) { return fold(load_lanes<double, reduce_lanes>(lanes), Add{}); },
    [](const double* lanes) { return fold(load_lanes<double, reduce_lanes>(lanes), Larger{}); },
    [](const std::int32_t* lanes) { return any(load_lanes<std::int32_t, reduce_lanes>(lanes)); },
    [](double* lanes) { store_lanes(lanes, iota<double, reduce_lanes>()); },
    [](const double* a, std::size_t n, double* totals) {
      reduce<Add>(
          n, totals, [](auto v) { return v; }, a);
    },
    [](const float* a, std::size_t n, double* totals) {
      reduce<Add>(
          n, totals, [](auto v) { return v; }, a);
    },
    [](const double* a, std::size_t n, double* totals) {
      reduce<Larger>(
          n, totals, [](auto v) { return v; }, a);
    },
    [](std::uint16_t* out, const std::uint16_t* in, std::size_t n) {
      map_into(
          reinterpret_cast<Bfloat16*>(out), n, [](auto v) { return v + v; },
          reinterpret_cast<const Bfloat16*>(in));
    },
    [](const std::uint32_t counter[4], std::uint64_t key, std::uint32_t result[4]) {
      constexpr int N = 2 * counters_in_flight;
      Counters<N> c;
      for (int i = 0; i < 4; ++i)
        c.word[i] = Words<N>(counter[i]);
      c = philox(c, RoundKeys(Key{key}));
      for (int i = 0; i < 4; ++i) {
        std::uint32_t lane[N];
        store_lanes(lane, c.word[i]);
        result[i] = lane[N - 2];
      }
    },
    [](std::uint64_t tile, std::size_t tiles, std::uint64_t key, std::uint32_t* out) {
      fill_words(out, tile, tiles, RoundKeys(Key{key}), Stream::uniform);
    },
    [](const unsigned char* bytes, std::uint8_t bound) { return bytes_at_least(bytes, bound); },
    [](const unsigned char* bytes, std::uint8_t value) { return bytes_equal(bytes, value); },
};

}  // namespace

extern constinit const SimdTable simd_table;
constinit const SimdTable simd_table = {
    {kernels_of<1>(), kernels_of<map_lanes<float>>(), kernels_of<reduce_lanes>()}, whole};

}  // namespace ridgeline::RIDGELINE_TARGET
