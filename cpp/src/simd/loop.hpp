// Loop drivers: they own unrolling, the remainder and the order of sums, so that a kernel is one
// lane-wise functor and has no second, scalar copy. The remainder runs the same functor on a
// padded buffer.
//
//   map_into(out, n, f, in...)             out[i] = f(in[i]...)
//   reduce<Combine>(n, totals, f, in...)   one float64 total of f(in[i]...) for each block
//   map_reduce(out, n, totals, f, in...)   both at once: f returns {out, term}
//   map_if(x, n, wanted, f)                x[i] = f(x[i]), writing only where something is wanted
#pragma once

#include "simd/half.hpp"

namespace ridgeline::RIDGELINE_TARGET {
namespace {

/// Lanes of a reduction: element i of a block is added into lane i mod 16, on every target.
inline constexpr int reduce_lanes = 16;

/// Lanes that a map works on at once. Free to choose: a map has no order.
template <class T>
inline constexpr int map_lanes =
    register_bytes == 0 ? 1 : 2 * register_bytes / int{sizeof(compute_t<T>)};

/// N elements of which only the first `count` exist in memory; the others are 0.
template <class T, int N>
class Remainder {
 public:
  explicit Remainder(const T* p, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i)
      buffer_[i] = p[i];
  }
  [[gnu::always_inline]] auto lanes() const { return load<T, N>(buffer_); }

 private:
  T buffer_[N] = {};
};

template <class T, int N>
[[gnu::always_inline]] inline void store_first(T* p, Vec<compute_t<T>, N> v, std::size_t count) {
  T buffer[N];
  store<T, N>(buffer, v);
  for (std::size_t i = 0; i < count; ++i)
    p[i] = buffer[i];
}

template <class T, class F, class... In>
[[gnu::always_inline]] inline void map_into(T* out, std::size_t n, F f, const In*... in) {
  constexpr int N = map_lanes<T>;
  std::size_t i = 0;
  for (; i + N <= n; i += N)
    store<T, N>(out + i, f(load<In, N>(in + i)...));
  if (i < n) store_first<T, N>(out + i, f(Remainder<In, N>(in + i, n - i).lanes()...), n - i);
}

struct Add {
  template <class V>
  [[gnu::always_inline]] V operator()(V a, V b) const {
    return a + b;
  }
};
/// The larger one; NaN if either is NaN.
struct Larger {
  template <class V>
  [[gnu::always_inline]] V operator()(V a, V b) const {
    return select((b > a) | (b != b), b, a);
  }
};

/// Calls body(begin, end, total) for each block of n elements.
template <class F>
[[gnu::always_inline]] inline void for_each_block(std::size_t n, double* totals, F body) {
  for (std::size_t begin = 0; begin < n; begin += block_size) {
    const std::size_t end = n - begin < block_size ? n : begin + block_size;
    body(begin, end, totals[begin / block_size]);
  }
}

/// The lanes of `term` that exist, 0 elsewhere.
template <class V>
[[gnu::always_inline]] inline V first_lanes(V term, std::size_t count) {
  using T = typename V::value_type;
  return select(iota<T, V::lanes>() < V(static_cast<T>(count)), term, V(0));
}

template <class Combine, class F, class... In>
[[gnu::always_inline]] inline void reduce(std::size_t n, double* totals, F f, const In*... in) {
  constexpr int N = reduce_lanes;
  for_each_block(n, totals, [&](std::size_t i, std::size_t end, double& total) {
    Vec<double, N> sum(0);
    for (; i + N <= end; i += N)
      sum = Combine{}(sum, f(load<In, N>(in + i)...));
    if (i < end) {
      const Vec<double, N> term = f(Remainder<In, N>(in + i, end - i).lanes()...);
      sum = Combine{}(sum, first_lanes(term, end - i));
    }
    total = fold(sum, Combine{});
  });
}

template <class V>
struct ValueAndTerm {
  V value;
  Vec<double, V::lanes> term;
};

template <class T, class F, class... In>
[[gnu::always_inline]] inline void map_reduce(T* out, std::size_t n, double* totals, F f,
                                              const In*... in) {
  constexpr int N = reduce_lanes;
  for_each_block(n, totals, [&](std::size_t i, std::size_t end, double& total) {
    Vec<double, N> sum(0);
    for (; i + N <= end; i += N) {
      const auto result = f(load<In, N>(in + i)...);
      store<T, N>(out + i, result.value);
      sum = sum + result.term;
    }
    if (i < end) {
      const auto result = f(Remainder<In, N>(in + i, end - i).lanes()...);
      store_first<T, N>(out + i, result.value, end - i);
      sum = sum + first_lanes(result.term, end - i);
    }
    total = fold(sum, Add{});
  });
}

/// Tests a stretch that stays in the first cache before it writes any of it: reading costs half of
/// rewriting from memory, and one branch a stretch is never mispredicted for long.
template <class T, class Wanted, class F>
[[gnu::always_inline]] inline void map_if(T* x, std::size_t n, Wanted wanted, F f) {
  constexpr int N = map_lanes<T>;
  constexpr std::size_t stretch = 1024;
  for (std::size_t begin = 0; begin < n; begin += stretch) {
    const std::size_t count = n - begin < stretch ? n - begin : stretch;
    Mask<compute_t<T>, N> found(0);
    std::size_t i = 0;
    for (; i + N <= count; i += N)
      found = found | wanted(load<T, N>(x + begin + i));
    if (i < count) found = found | wanted(Remainder<T, N>(x + begin + i, count - i).lanes());
    if (any(found)) map_into(x + begin, count, f, x + begin);
  }
}

}  // namespace
}  // namespace ridgeline::RIDGELINE_TARGET
