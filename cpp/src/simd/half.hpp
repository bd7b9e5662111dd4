// Storage types, and the way between memory and the lanes that arithmetic runs on: float32 and
// float64 as they are, bfloat16 and float16 as float32, rounded once, to nearest even, at the
// store.
#pragma once

#include "ridgeline/array.hpp"
#include "simd/vec.hpp"

namespace ridgeline::RIDGELINE_TARGET {
namespace {

template <class T>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
template <>
struct ComputeOf<std::int64_t> {
  using type = std::int64_t;
};
template <>
struct ComputeOf<std::int32_t> {
  using type = std::int32_t;
};
/// Two bytes that are only moved.
struct Bits16 {
  std::uint16_t bits;
};
template <>
struct ComputeOf<Bits16> {
  using type = std::int32_t;
};
/// The type that arithmetic on elements of type T runs in.
template <class T>
using compute_t = typename ComputeOf<T>::type;

template <class T>
struct RawOf {
  using type = lane_int<T>;
};
template <>
struct RawOf<Bfloat16> {
  using type = Bits16;
};
template <>
struct RawOf<Float16> {
  using type = Bits16;
};
/// Integers of the same width, for elements that are only moved: every bit of a NaN stays.
template <class T>
using raw_t = typename RawOf<T>::type;

template <int N>
[[gnu::always_inline]] inline Vec<std::int32_t, N> load_16_bits(const void* p) {
  using Wide = Vec<std::int32_t, N>;
  Wide wide;
  unroll<Wide::registers>([&](int i) {
    const auto* from = static_cast<const std::uint16_t*>(p) + i * Wide::register_lanes;
    using R = typename Wide::R;
    if constexpr (requires { native_load_16_bits(from, Into<R>{}); }) {
      wide.r[i] = native_load_16_bits(from, Into<R>{});
    } else {
      Register<std::uint16_t, Wide::register_lanes> part;
      __builtin_memcpy(&part, from, sizeof part);
      if constexpr (Wide::register_lanes == 1) {
        wide.r[i] = part;
      } else {
        wide.r[i] = converted<R>(part);
      }
    }
  });
  return wide;
}
template <int N, class Write>
[[gnu::always_inline]] inline void store_16_bits(void* p, Vec<std::int32_t, N> wide, Write write) {
  using Wide = Vec<std::int32_t, N>;
  unroll<Wide::registers>([&](int i) {
    auto* to = static_cast<std::uint16_t*>(p) + i * Wide::register_lanes;
    using Part = Register<std::uint16_t, Wide::register_lanes>;
    Part part;
    if constexpr (Wide::register_lanes == 1) {
      part = static_cast<std::uint16_t>(wide.r[i]);
    } else {
      part = converted<Part>(wide.r[i]);
    }
    write(to, part);
  });
}

// bfloat16 is the upper half of a float32. NaN keeps its sign and upper payload, made quiet.
template <int N>
[[gnu::always_inline]] inline Vec<float, N> from_bfloat16(Vec<std::int32_t, N> half) {
  return bits_as<float>(half << 16);
}
template <int N>
[[gnu::always_inline]] inline Vec<std::int32_t, N> to_bfloat16(Vec<float, N> x) {
  const auto bits = bits_as<std::uint32_t>(x);
  using U = Vec<std::uint32_t, N>;
  const U rounded = (bits + U(0x7fff) + ((bits >> 16) & U(1))) >> 16;
  const U quiet = (bits >> 16) | U(0x40);
  return select(x != x, bits_as<std::int32_t>(quiet), bits_as<std::int32_t>(rounded));
}

// float16: the hardware's conversion where the target has one, the same in integers elsewhere.
template <int N>
[[gnu::always_inline]] inline Vec<float, N> from_float16(Vec<std::int32_t, N> half) {
  using I = Vec<std::int32_t, N>;
  using F = Vec<float, N>;
  const I sign = (half & I(0x8000)) << 16;
  const I magnitude = half & I(0x7fff);
  const F scaled = bits_as<float>(magnitude << 13) * F(0x1p112f);  // exact, subnormals too
  const I special = (magnitude << 13) | I(0x7f800000);
  const I quiet = select(I(0x7c00) < magnitude, I(0x00400000), I(0));
  return bits_as<float>(
      select(I(0x7bff) < magnitude, special | quiet, bits_as<std::int32_t>(scaled)) | sign);
}
template <int N>
[[gnu::always_inline]] inline Vec<std::int32_t, N> to_float16(Vec<float, N> x) {
  using I = Vec<std::int32_t, N>;
  using F = Vec<float, N>;
  const I bits = bits_as<std::int32_t>(x);
  const I sign = (bits >> 16) & I(0x8000);
  const I magnitude = bits & I(0x7fffffff);
  // Adding 1/2 leaves a multiple of 2^-24, the smallest subnormal, in the low bits: the adder
  // rounds.
  const I subnormal = bits_as<std::int32_t>(bits_as<float>(magnitude) + F(0.5f)) - I(0x3f000000);
  const I odd = (magnitude >> 13) & I(1);
  const I normal = (magnitude - I(0x38000000) + I(0xfff) + odd) >> 13;
  const I finite = select(magnitude < I(0x38800000), subnormal, normal);
  const I nan = I(0x7e00) | ((magnitude >> 13) & I(0x3ff));
  const I overflow = select(I(0x7f800000) < magnitude, nan, I(0x7c00));
  return sign | select(magnitude < I(0x477ff000), finite, overflow);  // 65520 rounds to infinity
}

template <class T, int N>
[[gnu::always_inline]] inline auto load(const T* p) {
  using V = Vec<compute_t<T>, N>;
  if constexpr (sizeof(T) != 2) {
    return load_lanes<T, N>(p);
  } else if constexpr (__is_same(T, Bits16)) {
    return load_16_bits<N>(p);
  } else if constexpr (T::dtype == DType::bfloat16) {
    return from_bfloat16(load_16_bits<N>(p));
  } else if constexpr (requires { native_load_float16(p, Into<typename V::R>{}); }) {
    V v;
    unroll<V::registers>([&](int i) {
      v.r[i] = native_load_float16(p + i * V::register_lanes, Into<typename V::R>{});
    });
    return v;
  } else {
    return V(from_float16(load_16_bits<N>(p)));
  }
}

template <class T, int N, class Write = PlainStore>
[[gnu::always_inline]] inline void store(T* p, Vec<compute_t<T>, N> v, Write write = {}) {
  if constexpr (sizeof(T) != 2) {
    store_lanes(p, v, write);
  } else if constexpr (__is_same(T, Bits16)) {
    store_16_bits(p, v, write);
  } else if constexpr (T::dtype == DType::bfloat16) {
    store_16_bits(p, to_bfloat16(v), write);
  } else if constexpr (requires { native_to_float16(v.r[0]); }) {
    using V = Vec<float, N>;
    unroll<V::registers>(
        [&](int i) { write(p + i * V::register_lanes, native_to_float16(v.r[i])); });
  } else {
    store_16_bits(p, to_float16(v), write);
  }
}

/// N elements as float64. Each register's worth is converted as it is loaded, which saves taking
/// wider registers apart.
template <class T, int N>
[[gnu::always_inline]] inline Vec<double, N> load_double(const T* p) {
  using Wide = Vec<double, N>;
  constexpr int lanes = Wide::register_lanes;
  if constexpr (lanes == 4 && !__is_same(T, double)) {
    Wide wide;
    unroll<Wide::registers>([&](int i) {
      wide.r[i] = converted<typename Wide::R>(load<T, lanes>(p + i * lanes).r[0]);
    });
    return wide;
  } else if constexpr (requires { native_load_double(p, Into<typename Wide::R>{}); }) {
    Wide wide;
    unroll<Wide::registers>(
        [&](int i) { wide.r[i] = native_load_double(p + i * lanes, Into<typename Wide::R>{}); });
    return wide;
  } else {
    return to_double(load<T, N>(p));
  }
}

}  // namespace
}  // namespace ridgeline::RIDGELINE_TARGET
