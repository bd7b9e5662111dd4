// AArch64 instructions that compilers do not find by themselves, as functions of registers, under
// the names of native_x86.hpp.
#pragma once

#include <arm_neon.h>

#include "simd/register.hpp"

#if RIDGELINE_REGISTER_BYTES >= 16

namespace ridgeline::RIDGELINE_TARGET {
namespace {

using f32x4 = Register<float, 4>;
using f64x2 = Register<double, 2>;
using i32x4 = Register<std::int32_t, 4>;
using u32x4 = Register<std::uint32_t, 4>;
using i64x2 = Register<std::int64_t, 2>;

[[gnu::always_inline]] inline f32x4 native_sqrt(f32x4 a) {
  return (f32x4)vsqrtq_f32((float32x4_t)a);
}
[[gnu::always_inline]] inline f64x2 native_sqrt(f64x2 a) {
  return (f64x2)vsqrtq_f64((float64x2_t)a);
}

[[gnu::always_inline]] inline std::uint64_t native_sign_bits(i32x4 mask) {
  constexpr std::uint32_t weight[4] = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32((uint32x4_t)mask, vld1q_u32(weight)));
}
[[gnu::always_inline]] inline std::uint64_t native_sign_bits(i64x2 mask) {
  constexpr std::uint64_t weight[2] = {1, 2};
  return vaddvq_u64(vandq_u64((uint64x2_t)mask, vld1q_u64(weight)));
}

[[gnu::always_inline]] inline u32x4 native_multiply_even(u32x4 a, u32x4 b) {
  return (u32x4)vmull_u32(vmovn_u64((uint64x2_t)a), vget_low_u32((uint32x4_t)b));
}

[[gnu::always_inline]] inline f32x4 native_load_float16(const void* p, Into<f32x4>) {
  float16x4_t part;
  __builtin_memcpy(&part, p, sizeof part);
  return (f32x4)vcvt_f32_f16(part);
}
[[gnu::always_inline]] inline float16x4_t native_to_float16(f32x4 v) {
  return vcvt_f16_f32((float32x4_t)v);
}

[[gnu::always_inline]] inline std::uint64_t native_bits_of(uint8x16_t mask) {
  constexpr std::uint8_t weight[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t set = vandq_u8(mask, vld1q_u8(weight));
  return static_cast<std::uint16_t>(vaddv_u8(vget_low_u8(set)) | vaddv_u8(vget_high_u8(set)) << 8);
}
[[gnu::always_inline]] inline std::uint64_t native_bytes_at_least(const unsigned char* p,
                                                                  std::uint8_t bound) {
  return native_bits_of(vcgeq_u8(vld1q_u8(p), vdupq_n_u8(bound)));
}
[[gnu::always_inline]] inline std::uint64_t native_bytes_equal(const unsigned char* p,
                                                               std::uint8_t value) {
  return native_bits_of(vceqq_u8(vld1q_u8(p), vdupq_n_u8(value)));
}

}  // namespace
}  // namespace ridgeline::RIDGELINE_TARGET

#endif
