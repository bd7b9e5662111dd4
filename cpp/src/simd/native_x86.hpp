// x86-64 instructions that compilers do not find by themselves, as functions of registers. The
// headers above ask for them by `requires` and have a general form for the other targets.
#pragma once

#include <immintrin.h>

#include "simd/register.hpp"

#if RIDGELINE_REGISTER_BYTES >= 16

namespace ridgeline::RIDGELINE_TARGET {
namespace {

// ---- 16 bytes

using f32x4 = Register<float, 4>;
using f64x2 = Register<double, 2>;
using i32x4 = Register<std::int32_t, 4>;
using u32x4 = Register<std::uint32_t, 4>;
using i64x2 = Register<std::int64_t, 2>;

[[gnu::always_inline]] inline f32x4 native_sqrt(f32x4 a) { return _mm_sqrt_ps(a); }
[[gnu::always_inline]] inline f64x2 native_sqrt(f64x2 a) { return _mm_sqrt_pd(a); }
[[gnu::always_inline]] inline f32x4 native_min(f32x4 a, f32x4 b) { return _mm_min_ps(a, b); }
[[gnu::always_inline]] inline f64x2 native_min(f64x2 a, f64x2 b) { return _mm_min_pd(a, b); }
[[gnu::always_inline]] inline f32x4 native_max(f32x4 a, f32x4 b) { return _mm_max_ps(a, b); }
[[gnu::always_inline]] inline f64x2 native_max(f64x2 a, f64x2 b) { return _mm_max_pd(a, b); }

[[gnu::always_inline]] inline std::uint64_t native_sign_bits(i32x4 mask) {
  return static_cast<std::uint64_t>(_mm_movemask_ps((__m128)mask));
}
[[gnu::always_inline]] inline std::uint64_t native_sign_bits(i64x2 mask) {
  return static_cast<std::uint64_t>(_mm_movemask_pd((__m128d)mask));
}

[[gnu::always_inline]] inline void native_widen(f32x4 a, f64x2& low, f64x2& high) {
  low = _mm_cvtps_pd(a);
  high = _mm_cvtps_pd(_mm_movehl_ps(a, a));
}
[[gnu::always_inline]] inline f32x4 native_narrow(f64x2 low, f64x2 high) {
  return _mm_movelh_ps(_mm_cvtpd_ps(low), _mm_cvtpd_ps(high));
}
[[gnu::always_inline]] inline f64x2 native_load_double(const float* p, Into<f64x2>) {
  double pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return _mm_cvtps_pd(_mm_castpd_ps(_mm_set_sd(pair)));
}
[[gnu::always_inline]] inline i32x4 native_load_16_bits(const std::uint16_t* p, Into<i32x4>) {
  return (i32x4)_mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}

[[gnu::always_inline]] inline u32x4 native_multiply_even(u32x4 a, u32x4 b) {
  return (u32x4)_mm_mul_epu32((__m128i)a, (__m128i)b);
}

template <class R>
requires(sizeof(R) == 8) [[gnu::always_inline]] inline void native_stream(void* p, R v) {
  _mm_stream_si64(static_cast<long long*>(p), __builtin_bit_cast(long long, v));
}
template <class R>
requires(sizeof(R) == 16) [[gnu::always_inline]] inline void native_stream(void* p, R v) {
  _mm_stream_si128(static_cast<__m128i*>(p), (__m128i)v);
}

#if RIDGELINE_REGISTER_BYTES == 16
[[gnu::always_inline]] inline std::uint64_t native_bits_of(__m128i mask) {
  return static_cast<std::uint16_t>(_mm_movemask_epi8(mask));
}
[[gnu::always_inline]] inline std::uint64_t native_bytes_at_least(const unsigned char* p,
                                                                  std::uint8_t bound) {
  const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m128i b = _mm_set1_epi8(static_cast<char>(bound));
  return native_bits_of(_mm_cmpeq_epi8(_mm_max_epu8(v, b), v));
}
[[gnu::always_inline]] inline std::uint64_t native_bytes_equal(const unsigned char* p,
                                                               std::uint8_t value) {
  const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return native_bits_of(_mm_cmpeq_epi8(v, _mm_set1_epi8(static_cast<char>(value))));
}
#endif

// ---- 32 bytes

#if RIDGELINE_REGISTER_BYTES >= 32

using f32x8 = Register<float, 8>;
using f64x4 = Register<double, 4>;
using i32x8 = Register<std::int32_t, 8>;
using u32x8 = Register<std::uint32_t, 8>;
using i64x4 = Register<std::int64_t, 4>;
using u16x8 = Register<std::uint16_t, 8>;

[[gnu::always_inline]] inline f32x8 native_sqrt(f32x8 a) { return _mm256_sqrt_ps(a); }
[[gnu::always_inline]] inline f64x4 native_sqrt(f64x4 a) { return _mm256_sqrt_pd(a); }
[[gnu::always_inline]] inline f32x8 native_min(f32x8 a, f32x8 b) { return _mm256_min_ps(a, b); }
[[gnu::always_inline]] inline f64x4 native_min(f64x4 a, f64x4 b) { return _mm256_min_pd(a, b); }
[[gnu::always_inline]] inline f32x8 native_max(f32x8 a, f32x8 b) { return _mm256_max_ps(a, b); }
[[gnu::always_inline]] inline f64x4 native_max(f64x4 a, f64x4 b) { return _mm256_max_pd(a, b); }

[[gnu::always_inline]] inline std::uint64_t native_sign_bits(i32x8 mask) {
  return static_cast<std::uint64_t>(_mm256_movemask_ps((__m256)mask));
}
[[gnu::always_inline]] inline std::uint64_t native_sign_bits(i64x4 mask) {
  return static_cast<std::uint64_t>(_mm256_movemask_pd((__m256d)mask));
}
template <class R>
requires(sizeof(R) == 32) [[gnu::always_inline]] inline bool native_any(R mask) {
  return _mm256_testz_si256((__m256i)mask, (__m256i)mask) == 0;
}

// GCC 12 splits __builtin_convertvector into pieces of 16 bytes.
[[gnu::always_inline]] inline f64x4 native_convert(f32x4 a, Into<f64x4>) {
  return _mm256_cvtps_pd(a);
}
[[gnu::always_inline]] inline f32x4 native_convert(f64x4 a, Into<f32x4>) {
  return _mm256_cvtpd_ps(a);
}
[[gnu::always_inline]] inline i32x8 native_convert(u16x8 a, Into<i32x8>) {
  return (i32x8)_mm256_cvtepu16_epi32((__m128i)a);
}

[[gnu::always_inline]] inline f32x8 native_lookup(const float (&table)[16], i32x8 index) {
  const auto place = (__m256i)index;
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), place);
  const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), place);
  return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(place, 28)));
}
[[gnu::always_inline]] inline i32x8 native_load_bytes(const std::uint8_t* p, Into<i32x8>) {
  return (i32x8)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
[[gnu::always_inline]] inline void native_store_bytes(std::uint8_t* p, i32x8 v) {
  const auto lanes = (__m256i)v;
  const __m128i words =
      _mm_packus_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}

[[gnu::always_inline]] inline u32x8 native_multiply_even(u32x8 a, u32x8 b) {
  return (u32x8)_mm256_mul_epu32((__m256i)a, (__m256i)b);
}

template <class R>
requires(sizeof(R) == 32) [[gnu::always_inline]] inline void native_stream(void* p, R v) {
  _mm256_stream_si256(static_cast<__m256i*>(p), (__m256i)v);
}

#ifdef __F16C__
[[gnu::always_inline]] inline f32x4 native_load_float16(const void* p, Into<f32x4>) {
  return _mm_cvtph_ps(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
}
[[gnu::always_inline]] inline f32x8 native_load_float16(const void* p, Into<f32x8>) {
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
[[gnu::always_inline]] inline __m128i native_to_float16(f32x8 v) {
  return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
}
#endif

#if RIDGELINE_REGISTER_BYTES == 32
[[gnu::always_inline]] inline std::uint64_t native_bits_of(__m256i mask) {
  return static_cast<std::uint32_t>(_mm256_movemask_epi8(mask));
}
[[gnu::always_inline]] inline std::uint64_t native_bytes_at_least(const unsigned char* p,
                                                                  std::uint8_t bound) {
  const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m256i b = _mm256_set1_epi8(static_cast<char>(bound));
  return native_bits_of(_mm256_cmpeq_epi8(_mm256_max_epu8(v, b), v));
}
[[gnu::always_inline]] inline std::uint64_t native_bytes_equal(const unsigned char* p,
                                                               std::uint8_t value) {
  const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return native_bits_of(_mm256_cmpeq_epi8(v, _mm256_set1_epi8(static_cast<char>(value))));
}
#endif

#endif

// ---- 64 bytes: lanes of 4 bytes alone, and masks for the lanes of 8 bytes in 32

#if RIDGELINE_REGISTER_BYTES >= 64

using f32x16 = Register<float, 16>;
using i32x16 = Register<std::int32_t, 16>;
using u32x16 = Register<std::uint32_t, 16>;
using u16x16 = Register<std::uint16_t, 16>;

[[gnu::always_inline]] inline f32x16 native_sqrt(f32x16 a) { return _mm512_sqrt_ps(a); }
[[gnu::always_inline]] inline f32x16 native_min(f32x16 a, f32x16 b) { return _mm512_min_ps(a, b); }
[[gnu::always_inline]] inline f32x16 native_max(f32x16 a, f32x16 b) { return _mm512_max_ps(a, b); }

template <class R>
requires(sizeof(R) == 64) [[gnu::always_inline]] inline R
    native_select(std::uint64_t bits, R a, R b) {
  return (R)_mm512_mask_mov_ps((__m512)b, static_cast<__mmask16>(bits), (__m512)a);
}
template <class R>
requires(sizeof(R) == 32 && sizeof(R{}[0]) == 8) [[gnu::always_inline]] inline R
    native_select(std::uint64_t bits, R a, R b) {
  return (R)_mm256_mask_mov_pd((__m256d)b, static_cast<__mmask8>(bits), (__m256d)a);
}

[[gnu::always_inline]] inline __mmask16 native_greater_bits(i32x16 a, i32x16 b) {
  return _mm512_cmpgt_epi32_mask((__m512i)a, (__m512i)b);
}
[[gnu::always_inline]] inline __mmask8 native_greater_bits(i64x4 a, i64x4 b) {
  return _mm256_cmpgt_epi64_mask((__m256i)a, (__m256i)b);
}
/// With one move to a general register.
[[gnu::always_inline]] inline std::uint64_t native_greater_bits(const i32x16 (&a)[4],
                                                                const i32x16 (&b)[4]) {
  const auto mask = [&](int i) { return native_greater_bits(a[i], b[i]); };
  return _mm512_kunpackd(_mm512_kunpackw(mask(3), mask(2)), _mm512_kunpackw(mask(1), mask(0)));
}
template <class R>
requires(sizeof(R) == 64) [[gnu::always_inline]] inline bool native_any(R mask) {
  return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask) != 0;
}

[[gnu::always_inline]] inline i32x16 native_convert(u16x16 a, Into<i32x16>) {
  return (i32x16)_mm512_cvtepu16_epi32((__m256i)a);
}
[[gnu::always_inline]] inline u16x16 native_convert(i32x16 a, Into<u16x16>) {
  return (u16x16)_mm512_cvtepi32_epi16((__m512i)a);
}

[[gnu::always_inline]] inline f32x16 native_lookup(const float (&table)[16], i32x16 index) {
  return _mm512_permutexvar_ps((__m512i)index, _mm512_loadu_ps(table));
}
[[gnu::always_inline]] inline i32x16 native_load_bytes(const std::uint8_t* p, Into<i32x16>) {
  return (i32x16)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
[[gnu::always_inline]] inline void native_store_bytes(std::uint8_t* p, i32x16 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8((__m512i)v));
}

[[gnu::always_inline]] inline u32x16 native_multiply_even(u32x16 a, u32x16 b) {
  return (u32x16)_mm512_mul_epu32((__m512i)a, (__m512i)b);
}
/// The even lanes of both: of `even` in the even ones, of `odd` in the odd ones.
[[gnu::always_inline]] inline u32x16 native_even_lanes(u32x16 even, u32x16 odd) {
  return (u32x16)_mm512_mask_moveldup_ps((__m512)even, 0xaaaa, (__m512)odd);
}

template <class R>
requires(sizeof(R) == 64) [[gnu::always_inline]] inline void native_stream(void* p, R v) {
  _mm512_stream_si512(static_cast<__m512i*>(p), (__m512i)v);
}

[[gnu::always_inline]] inline f32x16 native_load_float16(const void* p, Into<f32x16>) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
[[gnu::always_inline]] inline __m256i native_to_float16(f32x16 v) {
  return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
}

[[gnu::always_inline]] inline std::uint64_t native_bytes_at_least(const unsigned char* p,
                                                                  std::uint8_t bound) {
  return _mm512_cmpge_epu8_mask(_mm512_loadu_si512(p), _mm512_set1_epi8(static_cast<char>(bound)));
}
[[gnu::always_inline]] inline std::uint64_t native_bytes_equal(const unsigned char* p,
                                                               std::uint8_t value) {
  return _mm512_cmpeq_epu8_mask(_mm512_loadu_si512(p), _mm512_set1_epi8(static_cast<char>(value)));
}

#endif

}  // namespace
}  // namespace ridgeline::RIDGELINE_TARGET

#endif
