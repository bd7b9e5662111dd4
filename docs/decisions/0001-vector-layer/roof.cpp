// The roof: each kernel's traffic with trivial arithmetic, 512-bit registers.
#include "table.hpp"
#include <immintrin.h>
void roof_elastic(float* g, const float* w, size_t n) {
  const __m512 h = _mm512_set1_ps(1e-3f);
#pragma GCC unroll 4
  for (size_t i = 0; i < n; i += 16)
    _mm512_storeu_ps(g + i, _mm512_fmadd_ps(h, _mm512_loadu_ps(w + i), _mm512_loadu_ps(g + i)));
}
float roof_sumsq(const float* w, size_t n) {
  __m512 a[8] = {};
  for (size_t i = 0; i < n; i += 128)
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j)
      a[j] = _mm512_add_ps(a[j], _mm512_loadu_ps(w + i + 16 * j));
  float s = 0;
  for (auto x : a)
    s += _mm512_reduce_add_ps(x);
  return s;
}
void roof_adamw(float* p, float* m, float* v, const float* g, size_t n) {
  const __m512 h = _mm512_set1_ps(0.5f);
  for (size_t i = 0; i < n; i += 16) {
    const __m512 x = _mm512_loadu_ps(g + i), a = _mm512_loadu_ps(m + i), b = _mm512_loadu_ps(v + i),
                 c = _mm512_loadu_ps(p + i);
    _mm512_storeu_ps(p + i, _mm512_fmadd_ps(h, c, x));
    _mm512_storeu_ps(m + i, _mm512_fmadd_ps(h, a, x));
    _mm512_storeu_ps(v + i, _mm512_fmadd_ps(h, b, h));
  }
}
void roof_philox(uint64_t* o, size_t n) {
#pragma GCC unroll 4
  for (size_t i = 0; i < 2 * n; i += 8)
    _mm512_storeu_si512(o + i, _mm512_set1_epi64(int64_t(i)));
}
