// The vector layer behind plain functions, one table for each target, as the kernels' own.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ridgeline::test {

/// The numbers of lanes that values are tried with: one, a few registers (as maps), those of sums.
inline constexpr std::size_t widths = 3;

template <class T, class I>
struct LaneFunctions {
  /// <, <=, >, >=, ==, != one after the other, n masks each.
  void (*compare)(const T* a, const T* b, std::size_t n, I* masks);
  void (*select)(const I* mask, const T* a, const T* b, std::size_t n, T* out);
  void (*lesser)(const T* a, const T* b, std::size_t n, T* out);
  void (*greater)(const T* a, const T* b, std::size_t n, T* out);
  void (*clamped)(const T* a, T low, T high, std::size_t n, T* out);
  void (*abs)(const T* a, std::size_t n, T* out);
  void (*copysign)(const T* a, const T* b, std::size_t n, T* out);
  void (*sqrt)(const T* a, std::size_t n, T* out);
};

struct SimdKernels {
  LaneFunctions<float, std::int32_t> f32;
  LaneFunctions<double, std::int64_t> f64;
  void (*widen)(const float* a, std::size_t n, double* out);
  void (*narrow)(const double* a, std::size_t n, float* out);
  void (*widen_int)(const std::int32_t* a, std::size_t n, std::int64_t* out);
  void (*widen_unsigned)(const std::uint32_t* a, std::size_t n, std::uint64_t* out);
  void (*narrow_int)(const std::int64_t* a, std::size_t n, std::int32_t* out);
  void (*load_bfloat16)(const std::uint16_t* a, std::size_t n, float* out);
  void (*load_float16)(const std::uint16_t* a, std::size_t n, float* out);
  void (*store_bfloat16)(const float* a, std::size_t n, std::uint16_t* out);
  void (*store_float16)(const float* a, std::size_t n, std::uint16_t* out);
  void (*log)(const double* a, std::size_t n, double* out);
  void (*log1p)(const double* a, std::size_t n, double* out);
  void (*exp)(const double* a, std::size_t n, double* out);
  void (*power)(const double* base, const double* exponent, std::size_t n, double* out);
};

/// What has its own number of lanes.
struct SimdWhole {
  std::size_t reduce_lanes;
  double (*fold_add)(const double* lanes);
  double (*fold_larger)(const double* lanes);
  bool (*any)(const std::int32_t* lanes);
  void (*iota)(double* lanes);
  void (*sum)(const double* a, std::size_t n, double* totals);
  void (*sum_float)(const float* a, std::size_t n, double* totals);
  void (*largest)(const double* a, std::size_t n, double* totals);
  void (*twice)(std::uint16_t* out, const std::uint16_t* bfloat16, std::size_t n);
  void (*philox)(const std::uint32_t counter[4], std::uint64_t key, std::uint32_t result[4]);
  void (*words)(std::uint64_t tile, std::size_t tiles, std::uint64_t key, std::uint32_t* out);
  /// 64 bits, or those of bytes at least or equal to a bound.
  std::uint64_t (*bytes_at_least)(const unsigned char* bytes, std::uint8_t bound);
  std::uint64_t (*bytes_equal)(const unsigned char* bytes, std::uint8_t value);
};

struct SimdTable {
  SimdKernels kernels[widths];
  SimdWhole whole;
};

}  // namespace ridgeline::test
