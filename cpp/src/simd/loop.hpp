// Loop drivers: they own unrolling, the remainder and the order of sums, so that a kernel is one
// lane-wise functor and has no second, scalar copy. The remainder runs the same functor on a
// padded buffer.
//
//   map_into(out, n, f, in...)                out[i] = f(in[i]...)
//   reduce<Combine>(n, totals, term, in...)   a float64 total of term(in[i]...) for each block
//   map_reduce(out, n, totals, f, start, term, x)    both: out[i] = f(out[i], x[i]...), totals of
//                                         term(x[i]...)
//   scan(n, state, f, x)                  state = f(state, x[i]) in lanes of no order
//   update(n, w, states, mask, f, g)      several outputs: f(w[i], states[i], g[i], bits)
#pragma once

#include "simd/choose.hpp"
#include "simd/half.hpp"

namespace ridgeline::RIDGELINE_TARGET {
namespace {

/// Lanes of a reduction: element i of a block is added into lane i mod 16, on every target.
inline constexpr int reduce_lanes = 16;

/// Lanes that a map works on at once. Free to choose: a map has no order.
template <class T>
inline constexpr int map_lanes =
    register_bytes == 0 ? 1 : 2 * register_bytes / int{sizeof(compute_t<T>)};

/// Copies elements one by one; arrays need no alignment.
template <class T>
[[gnu::always_inline]] inline void copy_elements(T* to, const T* from, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i)
    __builtin_memcpy(static_cast<void*>(to + i), static_cast<const void*>(from + i), sizeof(T));
}

/// N elements of which only the first `count` exist in memory; the others are 0.
template <class T, int N>
class Remainder {
 public:
  explicit Remainder(const T* p, std::size_t count) { copy_elements(buffer_, p, count); }
  [[gnu::always_inline]] auto lanes() const { return load<T, N>(buffer_); }
  [[gnu::always_inline]] auto doubles() const { return load_double<T, N>(buffer_); }

 private:
  T buffer_[N] = {};
};

template <class T, int N>
[[gnu::always_inline]] inline void store_first(T* p, Vec<compute_t<T>, N> v, std::size_t count) {
  T buffer[N];
  store<T, N>(buffer, v);
  copy_elements(p, buffer, count);
}

template <class T, class F, class... In>
[[gnu::always_inline]] inline void map_into(T* out, std::size_t n, F f, const In*... in) {
  constexpr int N = map_lanes<T>;
  std::size_t i = 0;
  for (; i + N <= n; i += N)
    store<T, N>(out + i, f(load<In, N>(in + i)...));
  if (i < n) store_first<T, N>(out + i, f(Remainder<In, N>(in + i, n - i).lanes()...), n - i);
}

/// A source of keep bits for elements that are all treated alike.
struct KeepAll {
  void meanwhile() const {}
  std::uint64_t bits(std::size_t, std::size_t) const { return 0; }
};

/// Keep bits for this run, and the generator that draws the bits of the next one.
class KeepSource {
 public:
  KeepSource(KeepBits kept, BitGenerator& next) : kept_(kept), next_(next) {}

  /// Called every 512 elements.
  [[gnu::always_inline]] void meanwhile() const { next_.step(); }

  /// The bits of elements [i, i + count), count <= 64.
  [[gnu::always_inline]] std::uint64_t bits(std::size_t i, std::size_t count) const {
    const std::uint64_t* word = kept_.bits + (kept_.at + i) / 64;
    const std::size_t shift = (kept_.at + i) % 64;
    return shift + count <= 64 ? word[0] >> shift : word[0] >> shift | word[1] << (64 - shift);
  }

 private:
  const KeepBits kept_;
  BitGenerator& next_;
};

/// map_into for an output that is not read soon, if `how` says so: out[i] = f(bits, in[i]...), bit
/// k of `bits` for lane k.
template <class T, class F, class Source, class... In>
[[gnu::always_inline]] inline void map_out(T* out, std::size_t n, Store how, const Source source,
                                           const F f, const In*... in) {
  constexpr int N = map_lanes<T>;
  constexpr std::size_t tile = 64;
  static_assert(tile % N == 0);
  constexpr std::uintptr_t line = 64;
  const auto parts = [=](std::size_t i, std::size_t end) {
    for (; i < end; i += N) {
      const std::size_t count = end - i < N ? end - i : N;
      const auto value = f(source.bits(i, count), Remainder<In, N>(in + i, count).lanes()...);
      store_first<T, N>(out + i, value, count);
    }
  };
  const auto whole = [=](std::size_t i, auto write) __attribute__((always_inline)) {
    for (std::size_t tiles = 0; i + tile <= n; i += tile, ++tiles) {
      if (tiles % 8 == 0) source.meanwhile();
      const std::uint64_t bits = source.bits(i, tile);
      for (std::size_t k = 0; k < tile; k += N)
        store<T, N>(out + i + k, f(bits >> k, load<In, N>(in + i + k)...), write);
    }
    parts(i, n);
  };
  const auto address = reinterpret_cast<std::uintptr_t>(out);
  const std::size_t head = (line - address % line) % line / sizeof(T);
  if (how == Store::plain || address % sizeof(T) != 0 || head >= n) return whole(0, PlainStore{});
  parts(0, head);
  whole(head, StreamingStore{});
  end_streaming();
}

/// map_out with keep bits. Meanwhile draws the next.
template <class T, class F, class... In>
[[gnu::always_inline]] inline void map_chosen(T* out, std::size_t n, KeepBits kept, Store how,
                                              const DrawRequest& next, F f, const In*... in) {
  BitGenerator drawing(next);
  map_out(out, n, how, KeepSource(kept, drawing), f, in...);
  drawing.finish();
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

/// An accumulator of the terms of a block: combines them lane by lane.
template <class Combine>
struct Lanewise {
  using Fold = Combine;
  Vec<double, reduce_lanes> lanes = Vec<double, reduce_lanes>(0);
  [[gnu::always_inline]] void add(Vec<double, reduce_lanes> term) {
    lanes = Combine{}(lanes, term);
  }
  [[gnu::always_inline]] auto result() const { return lanes; }
};

/// Each block starts with a copy of `start`.
template <class Accumulator, class F, class... In>
[[gnu::always_inline]] inline void reduce_from(std::size_t n, double* totals,
                                               const Accumulator start, F term, const In*... in) {
  constexpr int N = reduce_lanes;
  for_each_block(n, totals, [&](std::size_t i, std::size_t end, double& total) {
    Accumulator sum = start;
    for (; i + N <= end; i += N)
      sum.add(term(load_double<In, N>(in + i)...));
    if (i < end)
      sum.add(first_lanes(term(Remainder<In, N>(in + i, end - i).doubles()...), end - i));
    total = fold(sum.result(), typename Accumulator::Fold{});
  });
}

template <class Combine, class F, class... In>
[[gnu::always_inline]] inline void reduce(std::size_t n, double* totals, F term, const In*... in) {
  reduce_from(n, totals, Lanewise<Combine>{}, term, in...);
}

template <class T, class F, class Accumulator, class G, class... In>
[[gnu::always_inline]] inline void map_reduce(T* out, std::size_t n, double* totals, F f,
                                              const Accumulator start, G term, const In*... in) {
  constexpr int N = reduce_lanes;
  for_each_block(n, totals, [&](std::size_t i, std::size_t end, double& total) {
    Accumulator sum = start;
    for (; i + N <= end; i += N) {
      sum.add(term(load_double<In, N>(in + i)...));
      store<T, N>(out + i, f(load<T, N>(out + i), load<In, N>(in + i)...));
    }
    if (i < end) {
      sum.add(first_lanes(term(Remainder<In, N>(in + i, end - i).doubles()...), end - i));
      const auto value = f(Remainder<T, N>(out + i, end - i).lanes(),
                           Remainder<In, N>(in + i, end - i).lanes()...);
      store_first<T, N>(out + i, value, end - i);
    }
    total = fold(sum.result(), typename Accumulator::Fold{});
  });
}

/// The bits of a mask that starts at a word; null stands for all.
class MaskBits {
 public:
  explicit MaskBits(const std::uint64_t* words) : words_(words) {}
  void meanwhile() const {}
  [[gnu::always_inline]] std::uint64_t bits(std::size_t i, std::size_t) const {
    return words_ == nullptr ? ~std::uint64_t{0} : words_[i / 64] >> (i % 64);
  }

 private:
  const std::uint64_t* words_;
};

/// Lanes of an update: one register of each array, since there are many.
template <class T>
inline constexpr int update_lanes = register_bytes == 0 ? 1 : register_bytes / int{sizeof(T)};

/// The first `count` of N lanes; the others are 0.
template <class T, int N>
[[gnu::always_inline]] inline auto load_part(const T* p, std::size_t count) {
  return count == N ? load<T, N>(p) : Remainder<T, N>(p, count).lanes();
}

template <class T, int N>
[[gnu::always_inline]] inline void store_part(T* p, Vec<compute_t<T>, N> v, std::size_t count) {
  count == N ? store<T, N>(p, v) : store_first<T, N>(p, v, count);
}

/// A store of states: arrays of the weights' type.
template <class T>
struct StatesInMemory {
  T* const (&arrays)[3];
  template <int N>
  [[gnu::always_inline]] auto load_state(int k, std::size_t i, std::size_t count) const {
    return load_part<T, N>(arrays[k] + i, count);
  }
  template <int N>
  [[gnu::always_inline]] void store_state(int k, std::size_t i, Vec<T, N> v,
                                          std::size_t count) const {
    store_part<T, N>(arrays[k] + i, v, count);
  }
};

/// f(w, states, g, bits) changes lanes of w and of its states; what it finds beyond the last
/// element is 0 and goes nowhere.
template <int States, class T, class StateStore, class F>
[[gnu::always_inline]] inline void update(std::size_t n, T* w, const StateStore states_in,
                                          const MaskBits mask, const F f, const T* g) {
  constexpr int N = update_lanes<T>;
  using V = Vec<T, N>;
  const auto lanes = [&](std::size_t i, std::size_t count) __attribute__((always_inline)) {
    V weight = load_part<T, N>(w + i, count);
    V state[3];
    unroll<States>([&](int k) { state[k] = states_in.template load_state<N>(k, i, count); });
    f(weight, state, load_part<T, N>(g + i, count), mask.bits(i, count));
    store_part<T, N>(w + i, weight, count);
    unroll<States>([&](int k) { states_in.template store_state<N>(k, i, state[k], count); });
  };
  std::size_t i = 0;
  for (; i + N <= n; i += N)
    lanes(i, N);
  if constexpr (N > 1) {
    if (i < n) lanes(i, n - i);
  }
}

/// The remainder is padded with its own first element, so that no value comes in that x does not
/// hold.
template <class T, class State, class F>
[[gnu::always_inline]] inline State scan(std::size_t n, State state, F f, const T* x) {
  constexpr int N = map_lanes<T>;
  std::size_t i = 0;
  for (; i + N <= n; i += N)
    state = f(state, load<T, N>(x + i));
  if (i < n) {
    T buffer[N];
    for (std::size_t k = 0; k < N; ++k)
      copy_elements(buffer + k, x + (k < n - i ? i + k : i), 1);
    state = f(state, load<T, N>(buffer));
  }
  return state;
}

}  // namespace
}  // namespace ridgeline::RIDGELINE_TARGET
