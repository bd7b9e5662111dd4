// A: one machine register as a value, on GCC/Clang vector extensions. Intrinsics: sqrt and
// 32x32->64 multiply.
#pragma once
#include <immintrin.h>
#include <stdint.h>
#define INLINE inline __attribute__((always_inline))

namespace {
template <class T, int Bytes>
struct Reg {
  typedef T type __attribute__((vector_size(Bytes)));
};
template <class T, int Bytes>
struct VecA {
  using R = typename Reg<T, Bytes>::type;
  static constexpr int lanes = Bytes / sizeof(T);
  R r;
  static INLINE VecA load(const T* p) {
    VecA x;
    __builtin_memcpy(&x.r, p, Bytes);
    return x;
  }
  static INLINE VecA all(T s) { return {s - R{}}; }  // s - (+0) keeps -0
  INLINE void store(T* p) const { __builtin_memcpy(p, &r, Bytes); }
  friend INLINE VecA operator+(VecA a, VecA b) { return {a.r + b.r}; }
  friend INLINE VecA operator-(VecA a, VecA b) { return {a.r - b.r}; }
  friend INLINE VecA operator*(VecA a, VecA b) { return {a.r * b.r}; }
  friend INLINE VecA operator/(VecA a, VecA b) { return {a.r / b.r}; }
  friend INLINE VecA operator+(T a, VecA b) { return all(a) + b; }
  friend INLINE VecA operator*(T a, VecA b) { return all(a) * b; }
  friend INLINE VecA operator^(VecA a, VecA b) { return {a.r ^ b.r}; }
  friend INLINE VecA operator^(VecA a, T b) { return {a.r ^ all(b).r}; }
  friend INLINE VecA operator&(VecA a, T b) { return {a.r & all(b).r}; }
  friend INLINE VecA operator|(VecA a, VecA b) { return {a.r | b.r}; }
  friend INLINE VecA operator>>(VecA a, int s) { return {a.r >> s}; }
  friend INLINE VecA operator<<(VecA a, int s) { return {a.r << s}; }
  friend INLINE auto operator>(VecA a, T b) { return a.r > all(b).r; }
};
template <int B>
using F32 = VecA<float, B>;
template <int B>
using I32 = typename Reg<int32_t, B>::type;
template <int B>
using U64 = VecA<uint64_t, B>;

template <class M, int B>
INLINE F32<B> select(M m, F32<B> a, F32<B> b) {
  return {m ? a.r : b.r};
}
template <int B>
INLINE F32<B> abs(F32<B> a) {
  return {(typename F32<B>::R)((I32<B>)a.r & 0x7fffffff)};
}
template <int B>
INLINE F32<B> copysign(float s, F32<B> a) {  // s >= 0
  return {(typename F32<B>::R)(((I32<B>)a.r & INT32_MIN) | (I32<B>)F32<B>::all(s).r)};
}
template <int B>
INLINE F32<B> sqrt(F32<B> a) {
  if constexpr (B == 16) return {(typename F32<B>::R)_mm_sqrt_ps((__m128)a.r)};
#ifdef __AVX2__
  if constexpr (B == 32) return {(typename F32<B>::R)_mm256_sqrt_ps((__m256)a.r)};
#endif
#ifdef __AVX512F__
  if constexpr (B == 64) return {(typename F32<B>::R)_mm512_sqrt_ps((__m512)a.r)};
#endif
}
template <int B>
INLINE U64<B> mul_wide(U64<B> a, uint32_t m) {  // low 32 bits of each lane, times m
  const auto b = U64<B>::all(m);
  if constexpr (B == 16) return {(typename U64<B>::R)_mm_mul_epu32((__m128i)a.r, (__m128i)b.r)};
#ifdef __AVX2__
  if constexpr (B == 32) return {(typename U64<B>::R)_mm256_mul_epu32((__m256i)a.r, (__m256i)b.r)};
#endif
#ifdef __AVX512F__
  if constexpr (B == 64) return {(typename U64<B>::R)_mm512_mul_epu32((__m512i)a.r, (__m512i)b.r)};
#endif
}
template <int B>
INLINE U64<B> iota(U64<B>, uint64_t s) {
  typename U64<B>::R r;
  if constexpr (B == 16) r = typename U64<B>::R{0, 1};
  if constexpr (B == 32) r = typename U64<B>::R{0, 1, 2, 3};
  if constexpr (B == 64) r = typename U64<B>::R{0, 1, 2, 3, 4, 5, 6, 7};
  return {r + s};
}
template <int B>
INLINE void store_pairs(uint64_t* p, U64<B> a, U64<B> b) {  // a0 b0 a1 b1 ...
  typename U64<B>::R x, y;
  if constexpr (B == 16)
    x = __builtin_shufflevector(a.r, b.r, 0, 2), y = __builtin_shufflevector(a.r, b.r, 1, 3);
  if constexpr (B == 32)
    x = __builtin_shufflevector(a.r, b.r, 0, 4, 1, 5),
    y = __builtin_shufflevector(a.r, b.r, 2, 6, 3, 7);
  if constexpr (B == 64)
    x = __builtin_shufflevector(a.r, b.r, 0, 8, 1, 9, 2, 10, 3, 11),
    y = __builtin_shufflevector(a.r, b.r, 4, 12, 5, 13, 6, 14, 7, 15);
  U64<B>{x}.store(p), U64<B>{y}.store(p + U64<B>::lanes);
}
template <int B>
struct F64x2 {  // the float64 companion of F32<B>: the same lanes, two registers
  VecA<double, B> lo, hi;
  INLINE void store(double* p) const { lo.store(p), hi.store(p + B / 8); }
  friend INLINE F64x2 operator+(F64x2 a, F64x2 b) { return {a.lo + b.lo, a.hi + b.hi}; }
  friend INLINE F64x2 operator*(F64x2 a, F64x2 b) { return {a.lo * b.lo, a.hi * b.hi}; }
  friend INLINE F64x2 operator+(double a, F64x2 b) { return {a + b.lo, a + b.hi}; }
  friend INLINE F64x2 operator*(double a, F64x2 b) { return {a * b.lo, a * b.hi}; }
};
// __builtin_convertvector on a narrower register: clang 14 emits one vcvtps2pd, gcc 12 splits it
// into 128-bit pieces.
template <int B>
INLINE F64x2<B> to_f64(F32<B> a) {
  using D = typename Reg<double, B>::type;
  if constexpr (B == 16)
    return {{(D)_mm_cvtps_pd(a.r)}, {(D)_mm_cvtps_pd(_mm_movehl_ps(a.r, a.r))}};
#ifdef __AVX2__
  if constexpr (B == 32)
    return {{(D)_mm256_cvtps_pd(_mm256_castps256_ps128(a.r))},
            {(D)_mm256_cvtps_pd(_mm256_extractf128_ps(a.r, 1))}};
#endif
#ifdef __AVX512F__
  if constexpr (B == 64) {
    const auto hi = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.r), 1));
    return {{(D)_mm512_cvtps_pd(_mm512_castps512_ps256(a.r))}, {(D)_mm512_cvtps_pd(hi)}};
  }
#endif
}
template <class V>
struct Two {  // two registers in flight: long dependency chains (Philox) interleave
  using T = uint64_t;
  static constexpr int lanes = 2 * V::lanes;
  V a, b;
  friend INLINE Two operator^(Two x, Two y) { return {x.a ^ y.a, x.b ^ y.b}; }
  friend INLINE Two operator|(Two x, Two y) { return {x.a | y.a, x.b | y.b}; }
  friend INLINE Two operator^(Two x, T s) { return {x.a ^ s, x.b ^ s}; }
  friend INLINE Two operator&(Two x, T s) { return {x.a & s, x.b & s}; }
  friend INLINE Two operator>>(Two x, int s) { return {x.a >> s, x.b >> s}; }
  friend INLINE Two operator<<(Two x, int s) { return {x.a << s, x.b << s}; }
  friend INLINE Two mul_wide(Two x, uint32_t m) { return {mul_wide(x.a, m), mul_wide(x.b, m)}; }
  friend INLINE Two iota(Two x, uint64_t s) { return {iota(x.a, s), iota(x.b, s + V::lanes)}; }
  friend INLINE void store_pairs(T* p, Two x, Two y) {
    store_pairs(p, x.a, y.a), store_pairs(p + lanes, x.b, y.b);
  }
};
}  // namespace
