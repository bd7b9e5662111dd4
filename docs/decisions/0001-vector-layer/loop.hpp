// Drivers for A and B (V::lanes > 1): they own the unrolling and the tail. Drivers for B2: plain
// loops.
#pragma once
#include <stddef.h>
#include <type_traits>
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

namespace {
template <class V, class T>
INLINE void put(T* p, const V& v) {
  v.store(p);
}
template <class V, class T>
INLINE void put(const T*, const V&) {}  // const: an input
template <class V, class F, class... P>
INLINE auto step(const F& f, P*... p) {
  return [&](auto... v) __attribute__((always_inline)) {
    if constexpr (
        requires { f(v...).lo; } || requires { f(v...).v; }) {
      const auto t = f(v...);
      (put(p, v), ...);
      return t;
    } else {
      f(v...);
      (put(p, v), ...);
    }
  }
  (V::load(p)...);
}
template <int W, class P>
struct Tail {  // a padded copy of the last few elements
  std::remove_const_t<P> x[W] = {};
  size_t m;
  P* p;
  INLINE Tail(P* q, size_t n) : m(n), p(q) {
    for (size_t j = 0; j < m; ++j)
      x[j] = q[j];
  }
  INLINE P* buf() { return x; }
  INLINE void back() {
    if constexpr (requires { p[0] = x[0]; })
      for (size_t j = 0; j < m; ++j)
        p[j] = x[j];
  }
};
template <class V, int U, class F, class... P>
INLINE void map(const F& f, size_t n, P*... p) {
  constexpr size_t W = V::lanes;
  size_t i = 0;
  for (; i + U * W <= n; i += U * W) {
    UNROLL for (int u = 0; u < U; ++u) step<V>(f, p + i + size_t(u) * W...);
  }
  for (; i + W <= n; i += W)
    step<V>(f, p + i...);
  if (i < n) [&](auto... t) __attribute__((always_inline)) {
      step<V>(f, t.buf()...), (t.back(), ...);
    }
  (Tail<W, P>(p + i, n - i)...);
}
INLINE double sum16(double* a) {
  for (int h = 8; h; h /= 2)
    for (int j = 0; j < h; ++j)
      a[j] += a[j + h];
  return a[0];
}
// 16 logical float64 lanes per block of 4096, whatever the register: G registers, each with its own
// accumulator.
template <class V, class D, class F, class... P>
INLINE double reduce(const F& f, size_t n, P*... p) {
  constexpr size_t W = V::lanes, G = 16 / W;
  double total = 0;
  for (size_t b = 0; b < n; b += 4096) {
    const size_t e = n - b < 4096 ? n : b + 4096;
    D acc[G];
    UNROLL for (size_t u = 0; u < G; ++u) acc[u] = D{};
    size_t i = b;
    for (; i + 16 <= e; i += 16) {
      UNROLL for (size_t u = 0; u < G; ++u) acc[u] = acc[u] + step<V>(f, p + i + u * W...);
    }
    if (i < e) [&](auto... t) __attribute__((always_inline)) {
        UNROLL for (size_t u = 0; u < G; ++u) acc[u] = acc[u] + step<V>(f, t.buf() + u * W...);
        (t.back(), ...);
      }
    (Tail<16, P>(p + i, e - i)...);
    double lanes[16];
    UNROLL for (size_t u = 0; u < G; ++u) acc[u].store(lanes + u * W);
    total += sum16(lanes);
  }
  return total;
}
template <class V, class F>
INLINE void generate(const F& f, size_t n4, uint64_t* out) {  // n4 counters
  constexpr size_t W = V::lanes;
  size_t i = 0;
  const auto one = [&](uint64_t * o, size_t c) __attribute__((always_inline)) {
    V lo, hi;
    f(V(iota(V{}, c)), lo, hi);
    store_pairs(o, lo, hi);
  };
  for (; i + W <= n4; i += W)
    one(out + 2 * i, i);
  for (; i < n4; i += W) {
    uint64_t t[2 * W];
    one(t, i);
    for (size_t j = 0; j < 2 * W && j < 2 * (n4 - i); ++j)
      out[2 * i + j] = t[j];
  }
}

template <class F, class... P>
INLINE void plain_map(const F& f, size_t n, P* __restrict... p) {
  _Pragma("omp simd") for (size_t i = 0; i < n; ++i) f(p[i]...);
}
template <class F, class... P>
INLINE double plain_reduce(const F& f, size_t n, P* __restrict... p) {
  double total = 0;
  for (size_t b = 0; b < n; b += 4096) {
    const size_t e = n - b < 4096 ? n : b + 4096;
    double acc[16] = {};
    size_t i = b;
    for (; i + 16 <= e; i += 16) {
      _Pragma("omp simd simdlen(16)") for (int j = 0; j < 16; ++j) acc[j] += f(p[i + size_t(j)]...);
    }
    for (size_t j = 0; i + j < e; ++j)
      acc[j] += f(p[i + j]...);
    total += sum16(acc);
  }
  return total;
}
template <class F>
INLINE void plain_generate(const F& f, size_t n4, uint64_t* __restrict out) {
  _Pragma("omp simd") for (size_t i = 0; i < n4; ++i) {
    uint64_t lo, hi;
    f(uint64_t(i), lo, hi);
    out[2 * i] = lo, out[2 * i + 1] = hi;
  }
}
}  // namespace
