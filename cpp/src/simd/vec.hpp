// The front door of the vector layer: a value of N lanes that fills as many registers of the
// target as it needs. A kernel is a lane-wise functor of such values and names no instruction.
//
// Built on GCC/Clang vector extensions; docs/decisions/0001-vector-layer.md says why. Everything
// has internal linkage, so that no function compiled for one target can be linked into another.
#pragma once

#include "simd/register.hpp"

#if defined(__x86_64__)
#include "simd/native_x86.hpp"
#elif defined(__aarch64__)
#include "simd/native_neon.hpp"
#endif

namespace ridgeline::RIDGELINE_TARGET {
namespace {

template <class T, int N>
struct Vec;
template <class T, int N>
using Mask = Vec<lane_int<T>, N>;

template <class T, int N>
struct Vec {
  using value_type = T;
  static constexpr int lanes = N;
  static constexpr int native = register_bytes_of<T> / static_cast<int>(sizeof(T));
  static constexpr int register_lanes = native == 0 ? 1 : (native < N ? native : N);
  static constexpr int registers = N / register_lanes;
  using R = Register<T, register_lanes>;

  R r[registers];

  Vec() = default;
  [[gnu::always_inline]] Vec(T value) {
    unroll<registers>([&](int i) {
      if constexpr (register_lanes == 1) {
        r[i] = value;
      } else {
        r[i] = value - R{};  // x - (+0) is x for every x, -0 and NaN among them
      }
    });
  }

  [[gnu::always_inline]] friend Vec operator+(Vec a, Vec b) {
    unroll<registers>([&](int i) { a.r[i] = a.r[i] + b.r[i]; });
    return a;
  }
  [[gnu::always_inline]] friend Vec operator-(Vec a, Vec b) {
    unroll<registers>([&](int i) { a.r[i] = a.r[i] - b.r[i]; });
    return a;
  }
  [[gnu::always_inline]] friend Vec operator*(Vec a, Vec b) {
    unroll<registers>([&](int i) { a.r[i] = a.r[i] * b.r[i]; });
    return a;
  }
  [[gnu::always_inline]] friend Vec operator/(Vec a, Vec b) {
    unroll<registers>([&](int i) { a.r[i] = a.r[i] / b.r[i]; });
    return a;
  }
  [[gnu::always_inline]] friend Vec operator&(Vec a, Vec b) {
    unroll<registers>([&](int i) { a.r[i] = a.r[i] & b.r[i]; });
    return a;
  }
  [[gnu::always_inline]] friend Vec operator|(Vec a, Vec b) {
    unroll<registers>([&](int i) { a.r[i] = a.r[i] | b.r[i]; });
    return a;
  }
  [[gnu::always_inline]] friend Vec operator^(Vec a, Vec b) {
    unroll<registers>([&](int i) { a.r[i] = a.r[i] ^ b.r[i]; });
    return a;
  }
  [[gnu::always_inline]] friend Vec operator~(Vec a) {
    unroll<registers>([&](int i) { a.r[i] = ~a.r[i]; });
    return a;
  }
  [[gnu::always_inline]] friend Vec operator<<(Vec a, int bits) {
    unroll<registers>([&](int i) { a.r[i] = a.r[i] << bits; });
    return a;
  }
  [[gnu::always_inline]] friend Vec operator>>(Vec a, int bits) {
    unroll<registers>([&](int i) { a.r[i] = a.r[i] >> bits; });
    return a;
  }

  [[gnu::always_inline]] friend Mask<T, N> operator<(Vec a, Vec b) {
    return compare(a, b, [](R x, R y) { return x < y; });
  }
  [[gnu::always_inline]] friend Mask<T, N> operator<=(Vec a, Vec b) {
    return compare(a, b, [](R x, R y) { return x <= y; });
  }
  [[gnu::always_inline]] friend Mask<T, N> operator>(Vec a, Vec b) { return b < a; }
  [[gnu::always_inline]] friend Mask<T, N> operator>=(Vec a, Vec b) { return b <= a; }
  [[gnu::always_inline]] friend Mask<T, N> operator==(Vec a, Vec b) {
    return compare(a, b, [](R x, R y) { return x == y; });
  }
  [[gnu::always_inline]] friend Mask<T, N> operator!=(Vec a, Vec b) {
    return compare(a, b, [](R x, R y) { return x != y; });
  }

 private:
  template <class F>
  [[gnu::always_inline]] static Mask<T, N> compare(Vec a, Vec b, F f) {
    Mask<T, N> mask;
    unroll<registers>([&](int i) {
      if constexpr (register_lanes == 1) {
        mask.r[i] = -static_cast<lane_int<T>>(f(a.r[i], b.r[i]));
      } else {
        mask.r[i] = (typename Mask<T, N>::R)f(a.r[i], b.r[i]);
      }
    });
    return mask;
  }
};

/// mask ? a : b, lane by lane.
template <class T, int N>
[[gnu::always_inline]] inline Vec<T, N> select(Mask<T, N> mask, Vec<T, N> a, Vec<T, N> b) {
  unroll<Vec<T, N>::registers>([&](int i) { a.r[i] = mask.r[i] ? a.r[i] : b.r[i]; });
  return a;
}

/// bit i of `bits` ? a : b, for lane i.
template <class T, int N>
[[gnu::always_inline]] inline Vec<T, N> select(std::uint64_t bits, Vec<T, N> a, Vec<T, N> b) {
  using V = Vec<T, N>;
  static_assert(N <= 64);
  constexpr int lanes = V::register_lanes;
  unroll<V::registers>([&](int i) {
    [[maybe_unused]] const std::uint64_t own = bits >> (i * lanes);
    if constexpr (lanes == 1) {
      a.r[i] = (own & 1) != 0 ? a.r[i] : b.r[i];
    } else if constexpr (requires(typename V::R x) { native_select(own, x, x); }) {
      a.r[i] = native_select(own, a.r[i], b.r[i]);
    } else {
      using I = lane_int<T>;
      using Lanes = Register<I, lanes>;
      I weight[lanes];
      unroll<lanes>([&](int k) { weight[k] = static_cast<I>(I{1} << k); });
      Lanes weights;
      __builtin_memcpy(&weights, weight, sizeof weights);
      const Lanes set = (static_cast<I>(own) - Lanes{}) & weights;
      a.r[i] = set == weights ? a.r[i] : b.r[i];
    }
  });
  return a;
}

/// Joins the bits f gives for each piece of 64 bytes.
template <int Pieces, class F>
[[gnu::always_inline]] inline std::uint64_t join_bits(F f) {
  std::uint64_t bits = 0;
  unroll<Pieces>([&](int i) {
    bits |= static_cast<std::uint64_t>(f(i * (64 / Pieces))) << (i * (64 / Pieces));
  });
  return bits;
}
/// Bit i: whether byte i of the 64 at p is `bound` or more.
[[gnu::always_inline]] inline std::uint64_t bytes_at_least(const unsigned char* p,
                                                           std::uint8_t bound) {
#if RIDGELINE_REGISTER_BYTES == 0
  return join_bits<64>([&](int i) { return p[i] >= bound; });
#else
  return join_bits<64 / register_bytes>([&](int i) { return native_bytes_at_least(p + i, bound); });
#endif
}
/// Bit i: whether byte i of the 64 at p is `value`.
[[gnu::always_inline]] inline std::uint64_t bytes_equal(const unsigned char* p,
                                                        std::uint8_t value) {
#if RIDGELINE_REGISTER_BYTES == 0
  return join_bits<64>([&](int i) { return p[i] == value; });
#else
  return join_bits<64 / register_bytes>([&](int i) { return native_bytes_equal(p + i, value); });
#endif
}

/// Bit i: whether lane i of a is greater than that of b.
template <class I, int N>
[[gnu::always_inline]] inline std::uint64_t greater_bits(Vec<I, N> a, Vec<I, N> b) {
  using V = Vec<I, N>;
  using R = typename V::R;
  static_assert(N <= 64);
  if constexpr (requires { native_greater_bits(a.r, b.r); }) {
    return native_greater_bits(a.r, b.r);
  } else {
    std::uint64_t bits = 0;
    unroll<V::registers>([&](int i) {
      std::uint64_t own;
      if constexpr (V::register_lanes == 1) {
        own = a.r[i] > b.r[i] ? 1 : 0;
      } else if constexpr (requires(R x) { native_greater_bits(x, x); }) {
        own = native_greater_bits(a.r[i], b.r[i]);
      } else {
        own = native_sign_bits((R)(a.r[i] > b.r[i]));
      }
      bits |= own << (i * V::register_lanes);
    });
    return bits;
  }
}

/// The same bits as another type of the same width.
template <class To, class From, int N>
[[gnu::always_inline]] inline Vec<To, N> bits_as(Vec<From, N> a) {
  static_assert(sizeof(To) == sizeof(From));
  Vec<To, N> result;
  unroll<Vec<To, N>::registers>(
      [&](int i) { result.r[i] = __builtin_bit_cast(typename Vec<To, N>::R, a.r[i]); });
  return result;
}

// One copy a register: GCC takes a copy of the whole value through the stack.
template <class T, int N>
[[gnu::always_inline]] inline Vec<T, N> load_lanes(const void* p) {
  Vec<T, N> v;
  unroll<Vec<T, N>::registers>([&](int i) {
    __builtin_memcpy(&v.r[i], static_cast<const char*>(p) + i * static_cast<int>(sizeof v.r[0]),
                     sizeof v.r[0]);
  });
  return v;
}
/// How a register reaches memory.
struct PlainStore {
  template <class R>
  [[gnu::always_inline]] void operator()(void* p, R v) const {
    __builtin_memcpy(p, &v, sizeof v);
  }
};
template <class T, int N, class Write = PlainStore>
[[gnu::always_inline]] inline void store_lanes(void* p, Vec<T, N> v, Write write = {}) {
  unroll<Vec<T, N>::registers>(
      [&](int i) { write(static_cast<char*>(p) + i * static_cast<int>(sizeof v.r[0]), v.r[i]); });
}

/// Streaming stores go past the caches: for outputs too large to be read again from there. Their
/// address is a multiple of the register's size. `end_streaming` orders them before what follows.
struct StreamingStore {
  template <class R>
  [[gnu::always_inline]] void operator()(void* p, R v) const {
    if constexpr (requires { native_stream(p, v); }) {
      native_stream(p, v);
    } else {
      __builtin_memcpy(p, &v, sizeof v);
    }
  }
};
[[gnu::always_inline]] inline void end_streaming() {
#if defined(__x86_64__) && RIDGELINE_REGISTER_BYTES >= 16
  _mm_sfence();
#endif
}

/// Lane i holds i.
template <class T, int N>
[[gnu::always_inline]] inline Vec<T, N> iota() {
  T lane[N];
  unroll<N>([&](int i) { lane[i] = static_cast<T>(i); });
  return load_lanes<T, N>(lane);
}

template <class T, int N>
[[gnu::always_inline]] inline Vec<T, N> abs(Vec<T, N> a) {
  using I = lane_int<T>;
  constexpr I magnitude = static_cast<I>(~(std::uint64_t{1} << (8 * sizeof(T) - 1)));
  return bits_as<T>(bits_as<I>(a) & Vec<I, N>(magnitude));
}

/// |a| with the sign of b.
template <class T, int N>
[[gnu::always_inline]] inline Vec<T, N> copysign(Vec<T, N> a, Vec<T, N> b) {
  using I = lane_int<T>;
  constexpr I magnitude = static_cast<I>(~(std::uint64_t{1} << (8 * sizeof(T) - 1)));
  return bits_as<T>((bits_as<I>(a) & Vec<I, N>(magnitude)) |
                    (bits_as<I>(b) & Vec<I, N>(static_cast<I>(~magnitude))));
}

/// a < b ? a : b; b if either is NaN, as the instructions have it.
template <class T, int N>
[[gnu::always_inline]] inline Vec<T, N> lesser(Vec<T, N> a, Vec<T, N> b) {
  unroll<Vec<T, N>::registers>([&](int i) {
    if constexpr (requires(typename Vec<T, N>::R x) { native_min(x, x); }) {
      a.r[i] = native_min(a.r[i], b.r[i]);
    } else {
      a.r[i] = a.r[i] < b.r[i] ? a.r[i] : b.r[i];
    }
  });
  return a;
}
/// a > b ? a : b; b if either is NaN.
template <class T, int N>
[[gnu::always_inline]] inline Vec<T, N> greater(Vec<T, N> a, Vec<T, N> b) {
  unroll<Vec<T, N>::registers>([&](int i) {
    if constexpr (requires(typename Vec<T, N>::R x) { native_max(x, x); }) {
      a.r[i] = native_max(a.r[i], b.r[i]);
    } else {
      a.r[i] = a.r[i] > b.r[i] ? a.r[i] : b.r[i];
    }
  });
  return a;
}
/// Within [low, high]; NaN stays.
template <class T, int N>
[[gnu::always_inline]] inline Vec<T, N> clamped(Vec<T, N> v, Vec<T, N> low, Vec<T, N> high) {
  return lesser(high, greater(low, v));
}

template <class T, int N>
[[gnu::always_inline]] inline Vec<T, N> sqrt(Vec<T, N> a) {
  unroll<Vec<T, N>::registers>([&](int i) {
    if constexpr (requires(typename Vec<T, N>::R x) { native_sqrt(x); }) {
      a.r[i] = native_sqrt(a.r[i]);
    } else if constexpr (sizeof(T) == 4) {
      a.r[i] = __builtin_sqrtf(a.r[i]);
    } else {
      a.r[i] = __builtin_sqrt(a.r[i]);
    }
  });
  return a;
}

template <int Begin, class R, int... I>
[[gnu::always_inline]] inline auto lanes_from(R a, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, a, (Begin + I)...);
}
template <class R, int... I>
[[gnu::always_inline]] inline auto joined(R low, R high, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(low, high, I...);
}

/// The lanes of a register as those of another, by value.
template <class To, class From>
[[gnu::always_inline]] inline To converted(From a) {
  if constexpr (requires { native_convert(a, Into<To>{}); }) {
    return native_convert(a, Into<To>{});
  } else {
    return __builtin_convertvector(a, To);
  }
}

/// Converts the parts of a register into as many wider ones.
template <class W, class R, int... K>
[[gnu::always_inline]] inline void split(R a, W* wide, std::integer_sequence<int, K...>) {
  constexpr int lanes = static_cast<int>(sizeof(W) / sizeof(wide[0][0]));
  constexpr auto index = std::make_integer_sequence<int, lanes>{};
  ((wide[K] = converted<W>(lanes_from<K * lanes>(a, index))), ...);
}

/// The 32-bit lanes a as 64-bit lanes of type To (float to double, integer to integer).
template <class To, class From, int N>
[[gnu::always_inline]] inline Vec<To, N> widen(Vec<From, N> a) {
  static_assert(sizeof(To) == 2 * sizeof(From));
  using Wide = Vec<To, N>;
  using Narrow = Vec<From, N>;
  constexpr int lanes = Wide::register_lanes;
  Wide wide;
  unroll<Narrow::registers>([&](int i) {
    if constexpr (Narrow::register_lanes == 1) {
      wide.r[i] = static_cast<To>(a.r[i]);
    } else if constexpr (Narrow::register_lanes == lanes) {
      wide.r[i] = converted<typename Wide::R>(a.r[i]);
    } else if constexpr (requires(typename Narrow::R x, typename Wide::R & y) {
                           native_widen(x, y, y);
                         }) {
      native_widen(a.r[i], wide.r[2 * i], wide.r[2 * i + 1]);
    } else if constexpr (lanes == 1) {
      wide.r[2 * i] = static_cast<To>(a.r[i][0]);
      wide.r[2 * i + 1] = static_cast<To>(a.r[i][1]);
    } else {
      constexpr int parts = Narrow::register_lanes / lanes;
      split(a.r[i], wide.r + i * parts, std::make_integer_sequence<int, parts>{});
    }
  });
  return wide;
}

/// The 64-bit lanes a as 32-bit lanes of type To; floats round to nearest even.
template <class To, class From, int N>
[[gnu::always_inline]] inline Vec<To, N> narrow(Vec<From, N> a) {
  static_assert(2 * sizeof(To) == sizeof(From));
  using Wide = Vec<From, N>;
  using Narrow = Vec<To, N>;
  constexpr int lanes = Wide::register_lanes;
  Narrow result;
  unroll<Narrow::registers>([&](int i) {
    if constexpr (Narrow::register_lanes == 1) {
      result.r[i] = static_cast<To>(a.r[i]);
    } else if constexpr (Narrow::register_lanes == lanes) {
      result.r[i] = converted<typename Narrow::R>(a.r[i]);
    } else if constexpr (requires(typename Wide::R x) { native_narrow(x, x); }) {
      result.r[i] = native_narrow(a.r[2 * i], a.r[2 * i + 1]);
    } else if constexpr (lanes == 1) {
      result.r[i] =
          typename Narrow::R{static_cast<To>(a.r[2 * i]), static_cast<To>(a.r[2 * i + 1])};
    } else {
      using Part = Register<To, lanes>;
      constexpr int parts = Narrow::register_lanes / lanes;
      constexpr auto two = std::make_integer_sequence<int, 2 * lanes>{};
      const auto pair = [&](int k) {
        return joined(converted<Part>(a.r[k]), converted<Part>(a.r[k + 1]), two);
      };
      if constexpr (parts == 2) {
        result.r[i] = pair(2 * i);
      } else {
        constexpr auto four = std::make_integer_sequence<int, 4 * lanes>{};
        result.r[i] = joined(pair(4 * i), pair(4 * i + 2), four);
      }
    }
  });
  return result;
}

template <int N>
[[gnu::always_inline]] inline Vec<double, N> to_double(Vec<float, N> a) {
  return widen<double>(a);
}
template <int N>
[[gnu::always_inline]] inline Vec<double, N> to_double(Vec<double, N> a) {
  return a;
}

/// Whether any lane of the mask is set.
template <class I, int N>
[[gnu::always_inline]] inline bool any(Vec<I, N> mask) {
  typename Vec<I, N>::R joined = mask.r[0];
  unroll<Vec<I, N>::registers>([&](int i) { joined = joined | mask.r[i]; });
  if constexpr (Vec<I, N>::register_lanes == 1) {
    return joined != 0;
  } else if constexpr (requires { native_any(joined); }) {
    return native_any(joined);
  } else {
    std::uint64_t word[sizeof joined / 8];
    __builtin_memcpy(word, &joined, sizeof joined);
    std::uint64_t set = 0;
    unroll<static_cast<int>(sizeof joined / 8)>([&](int i) { set |= word[i]; });
    return set != 0;
  }
}

/// table[index mod 16], lane by lane.
template <int N>
[[gnu::always_inline]] inline Vec<float, N> lookup(const float (&table)[16],
                                                   Vec<std::int32_t, N> index) {
  using V = Vec<float, N>;
  V v;
  unroll<V::registers>([&](int i) {
    using Index = typename Vec<std::int32_t, N>::R;
    if constexpr (requires(Index x) { native_lookup(table, x); }) {
      v.r[i] = native_lookup(table, index.r[i]);
    } else {
      float lane[V::register_lanes];
      std::int32_t place[V::register_lanes];
      __builtin_memcpy(place, &index.r[i], sizeof place);
      unroll<V::register_lanes>([&](int k) { lane[k] = table[place[k] & 15]; });
      __builtin_memcpy(&v.r[i], lane, sizeof lane);
    }
  });
  return v;
}

/// Towards 0. What is beyond the integers gives some integer.
template <int N>
[[gnu::always_inline]] inline Vec<std::int32_t, N> truncated(Vec<float, N> a) {
  using I = Vec<std::int32_t, N>;
  I result;
  unroll<I::registers>([&](int i) {
    if constexpr (I::register_lanes == 1) {
      result.r[i] = static_cast<std::int32_t>(a.r[i]);
    } else {
      result.r[i] = __builtin_convertvector(a.r[i], typename I::R);
    }
  });
  return result;
}

/// Exact up to 2^24.
template <int N>
[[gnu::always_inline]] inline Vec<float, N> to_float(Vec<std::int32_t, N> a) {
  using V = Vec<float, N>;
  V result;
  unroll<V::registers>([&](int i) {
    if constexpr (V::register_lanes == 1) {
      result.r[i] = static_cast<float>(a.r[i]);
    } else {
      result.r[i] = __builtin_convertvector(a.r[i], typename V::R);
    }
  });
  return result;
}

/// Bytes as 32-bit lanes, and the low bytes of lanes back.
template <int N>
[[gnu::always_inline]] inline Vec<std::int32_t, N> load_bytes(const std::uint8_t* p) {
  using I = Vec<std::int32_t, N>;
  I v;
  unroll<I::registers>([&](int i) {
    const std::uint8_t* from = p + i * I::register_lanes;
    using R = typename I::R;
    if constexpr (requires { native_load_bytes(from, Into<R>{}); }) {
      v.r[i] = native_load_bytes(from, Into<R>{});
    } else {
      std::int32_t lane[I::register_lanes];
      unroll<I::register_lanes>([&](int k) { lane[k] = from[k]; });
      __builtin_memcpy(&v.r[i], lane, sizeof lane);
    }
  });
  return v;
}
template <int N>
[[gnu::always_inline]] inline void store_bytes(std::uint8_t* p, Vec<std::int32_t, N> v) {
  using I = Vec<std::int32_t, N>;
  unroll<I::registers>([&](int i) {
    std::uint8_t* to = p + i * I::register_lanes;
    if constexpr (requires(typename I::R x) { native_store_bytes(to, x); }) {
      native_store_bytes(to, v.r[i]);
    } else {
      std::int32_t lane[I::register_lanes];
      __builtin_memcpy(lane, &v.r[i], sizeof lane);
      unroll<I::register_lanes>([&](int k) { to[k] = static_cast<std::uint8_t>(lane[k]); });
    }
  });
}

/// Combines the lanes by a fixed tree: i with i + N/2, then i with i + N/4, ... so that the result
/// has the same bits on every target.
template <class T, int N, class F>
[[gnu::always_inline]] inline T fold(Vec<T, N> v, F f) {
  if constexpr (N == 1) {
    T lane;
    __builtin_memcpy(&lane, &v, sizeof lane);
    return lane;
  } else {
    Vec<T, N / 2> half[2];
    __builtin_memcpy(half, &v, sizeof v);
    return fold(f(half[0], half[1]), f);
  }
}

}  // namespace
}  // namespace ridgeline::RIDGELINE_TARGET
