// B: an array of lanes; every operator is an `omp simd` loop. Below it: the same names on scalars,
// for plain loops (B2).
#pragma once
#include "vec_a.hpp"  // for Bi only
#define EACH _Pragma("omp simd") for (int i = 0; i < N; ++i)

namespace {
template <class T, int N>
struct VecB {
  static constexpr int lanes = N;
  T v[N];
  static INLINE VecB load(const T* p) {
    VecB x;
    EACH x.v[i] = p[i];
    return x;
  }
  static INLINE VecB all(T s) {
    VecB x;
    EACH x.v[i] = s;
    return x;
  }
  INLINE void store(T* p) const { EACH p[i] = v[i]; }
  friend INLINE VecB operator+(VecB a, VecB b) {
    EACH a.v[i] += b.v[i];
    return a;
  }
  friend INLINE VecB operator-(VecB a, VecB b) {
    EACH a.v[i] -= b.v[i];
    return a;
  }
  friend INLINE VecB operator*(VecB a, VecB b) {
    EACH a.v[i] *= b.v[i];
    return a;
  }
  friend INLINE VecB operator/(VecB a, VecB b) {
    EACH a.v[i] /= b.v[i];
    return a;
  }
  friend INLINE VecB operator+(T a, VecB b) {
    EACH b.v[i] = a + b.v[i];
    return b;
  }
  friend INLINE VecB operator*(T a, VecB b) {
    EACH b.v[i] = a * b.v[i];
    return b;
  }
  friend INLINE VecB operator^(VecB a, VecB b) {
    EACH a.v[i] ^= b.v[i];
    return a;
  }
  friend INLINE VecB operator^(VecB a, T b) {
    EACH a.v[i] ^= b;
    return a;
  }
  friend INLINE VecB operator&(VecB a, T b) {
    EACH a.v[i] &= b;
    return a;
  }
  friend INLINE VecB operator|(VecB a, VecB b) {
    EACH a.v[i] |= b.v[i];
    return a;
  }
  friend INLINE VecB operator>>(VecB a, int s) {
    EACH a.v[i] >>= s;
    return a;
  }
  friend INLINE VecB operator<<(VecB a, int s) {
    EACH a.v[i] <<= s;
    return a;
  }
  friend INLINE VecB<int32_t, N> operator>(VecB a, T b) {
    VecB<int32_t, N> m;
    EACH m.v[i] = a.v[i] > b;
    return m;
  }
};
template <int N>
INLINE VecB<float, N> select(VecB<int32_t, N> m, VecB<float, N> a, VecB<float, N> b) {
  EACH a.v[i] = m.v[i] ? a.v[i] : b.v[i];
  return a;
}
template <int N>
INLINE VecB<float, N> abs(VecB<float, N> a) {
  EACH a.v[i] = __builtin_fabsf(a.v[i]);
  return a;
}
template <int N>
INLINE VecB<float, N> copysign(float s, VecB<float, N> a) {
  EACH a.v[i] = __builtin_copysignf(s, a.v[i]);
  return a;
}
template <int N>
INLINE VecB<float, N> sqrt(VecB<float, N> a) {
  EACH a.v[i] = __builtin_sqrtf(a.v[i]);
  return a;
}
template <int N>
INLINE VecB<double, N> to_f64(VecB<float, N> a) {
  VecB<double, N> d;
  EACH d.v[i] = a.v[i];
  return d;
}
template <int N>
using U64B = VecB<uint64_t, N>;
template <int N>
INLINE U64B<N> mul_wide(U64B<N> a, uint32_t m) {
  EACH a.v[i] = uint64_t(uint32_t(a.v[i])) * m;
  return a;
}
template <int N>
INLINE U64B<N> iota(U64B<N> a, uint64_t s) {
  EACH a.v[i] = s + uint64_t(i);
  return a;
}
template <int N>
INLINE void store_pairs(uint64_t* p, U64B<N> a, U64B<N> b) {
  EACH p[2 * i] = a.v[i], p[2 * i + 1] = b.v[i];
}
template <int N>
struct U64Bi : U64B<N> {  // Bi: lanes, with the one intrinsic
  using Base = U64B<N>;
  U64Bi() = default;
  INLINE U64Bi(Base b) : Base(b) {}
};
template <int N>
INLINE U64Bi<N> mul_wide(U64Bi<N> a, uint32_t m) {
  using R = VecA<uint64_t, VEC_BYTES>;
  for (int i = 0; i < N; i += R::lanes)
    mul_wide(R::load(a.v + i), m).store(a.v + i);
  return a;
}

INLINE float select(bool m, float a, float b) { return m ? a : b; }
INLINE float abs(float a) { return __builtin_fabsf(a); }
INLINE float copysign(float s, float a) { return __builtin_copysignf(s, a); }
INLINE float sqrt(float a) { return __builtin_sqrtf(a); }
INLINE double to_f64(float a) { return a; }
INLINE uint64_t mul_wide(uint64_t a, uint32_t m) { return uint64_t(uint32_t(a)) * m; }
INLINE uint64_t iota(uint64_t, uint64_t s) { return s; }
INLINE void store_pairs(uint64_t* p, uint64_t a, uint64_t b) { p[0] = a, p[1] = b; }
}  // namespace
