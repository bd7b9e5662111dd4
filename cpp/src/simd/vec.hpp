// The front door of the vector layer: a value of N lanes that fills as many registers of the
// target as it needs. A kernel is a lane-wise functor of such values and names no instruction.
//
// Built on GCC/Clang vector extensions; docs/decisions/0001-vector-layer.md says why. Everything
// has internal linkage, so that no function compiled for one target can be linked into another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace ridgeline::RIDGELINE_TARGET {
namespace {

#if RIDGELINE_REGISTER_BYTES == 0
inline constexpr int register_bytes = 0;  // the scalar target: one lane is one register
#else
inline constexpr int register_bytes = RIDGELINE_REGISTER_BYTES;
#endif

/// float64 stays in 32-byte registers where there are wider ones: Zen 4 widens float32 into them
/// twice as fast, and computes as fast (docs/decisions/0001-vector-layer.md).
template <class T>
inline constexpr int register_bytes_of = sizeof(T) == 8 && register_bytes > 32 ? 32
                                                                               : register_bytes;

template <class T, int Lanes>
struct RegisterOf {
  typedef T type __attribute__((vector_size(Lanes * sizeof(T))));  // NOLINT(modernize-use-using)
};
template <class T>
struct RegisterOf<T, 1> {
  using type = T;
};
template <class T, int Lanes>
using Register = typename RegisterOf<T, Lanes>::type;

template <std::size_t Bytes>
struct LaneInt;
template <>
struct LaneInt<4> {
  using type = std::int32_t;
  using word = std::uint32_t;
};
template <>
struct LaneInt<8> {
  using type = std::int64_t;
  using word = std::uint64_t;
};
/// The signed integer as wide as T: a lane of a mask is 0 or -1 of it.
template <class T>
using lane_int = typename LaneInt<sizeof(T)>::type;
/// The unsigned one.
template <class T>
using lane_word = typename LaneInt<sizeof(T)>::word;

/// f(0), f(1), ... f(Count - 1), unrolled by the compiler front end.
template <class F, int... I>
[[gnu::always_inline]] inline void unroll([[maybe_unused]] F f, std::integer_sequence<int, I...>) {
  (f(I), ...);
}
template <int Count, class F>
[[gnu::always_inline]] inline void unroll(F f) {
  unroll(f, std::make_integer_sequence<int, Count>{});
}

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
#if RIDGELINE_REGISTER_BYTES >= 64
    } else if constexpr (lanes == 16) {
      a.r[i] = (typename V::R)_mm512_mask_mov_ps((__m512)b.r[i], static_cast<__mmask16>(own),
                                                 (__m512)a.r[i]);
    } else if constexpr (sizeof(T) == 8 && lanes == 4) {
      a.r[i] = (typename V::R)_mm256_mask_mov_pd((__m256d)b.r[i], static_cast<__mmask8>(own),
                                                 (__m256d)a.r[i]);
#endif
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

/// Bit i: whether byte i of the 64 at p is `bound` or more.
[[gnu::always_inline]] inline std::uint64_t bytes_at_least(const unsigned char* p,
                                                           std::uint8_t bound);
/// Bit i: whether byte i of the 64 at p is `value`.
[[gnu::always_inline]] inline std::uint64_t bytes_equal(const unsigned char* p, std::uint8_t value);

/// Joins the bits f gives for each piece of 64 bytes.
template <int Pieces, class F>
[[gnu::always_inline]] inline std::uint64_t join_bits(F f) {
  std::uint64_t bits = 0;
  unroll<Pieces>([&](int i) {
    bits |= static_cast<std::uint64_t>(f(i * (64 / Pieces))) << (i * (64 / Pieces));
  });
  return bits;
}

#if RIDGELINE_REGISTER_BYTES == 0
inline std::uint64_t bytes_at_least(const unsigned char* p, std::uint8_t bound) {
  return join_bits<64>([&](int i) { return p[i] >= bound; });
}
inline std::uint64_t bytes_equal(const unsigned char* p, std::uint8_t value) {
  return join_bits<64>([&](int i) { return p[i] == value; });
}
#elif RIDGELINE_REGISTER_BYTES == 64
inline std::uint64_t bytes_at_least(const unsigned char* p, std::uint8_t bound) {
  return _mm512_cmpge_epu8_mask(_mm512_loadu_si512(p), _mm512_set1_epi8(static_cast<char>(bound)));
}
inline std::uint64_t bytes_equal(const unsigned char* p, std::uint8_t value) {
  return _mm512_cmpeq_epu8_mask(_mm512_loadu_si512(p), _mm512_set1_epi8(static_cast<char>(value)));
}
#elif RIDGELINE_REGISTER_BYTES == 32
inline std::uint64_t bytes_at_least(const unsigned char* p, std::uint8_t bound) {
  const __m256i b = _mm256_set1_epi8(static_cast<char>(bound));
  return join_bits<2>([&](int i) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i));
    return static_cast<std::uint32_t>(
        _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_max_epu8(v, b), v)));
  });
}
inline std::uint64_t bytes_equal(const unsigned char* p, std::uint8_t value) {
  const __m256i b = _mm256_set1_epi8(static_cast<char>(value));
  return join_bits<2>([&](int i) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i));
    return static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, b)));
  });
}
#elif defined(__x86_64__)
inline std::uint64_t bytes_at_least(const unsigned char* p, std::uint8_t bound) {
  const __m128i b = _mm_set1_epi8(static_cast<char>(bound));
  return join_bits<4>([&](int i) {
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i));
    return static_cast<std::uint16_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_max_epu8(v, b), v)));
  });
}
inline std::uint64_t bytes_equal(const unsigned char* p, std::uint8_t value) {
  const __m128i b = _mm_set1_epi8(static_cast<char>(value));
  return join_bits<4>([&](int i) {
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i));
    return static_cast<std::uint16_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(v, b)));
  });
}
#elif defined(__aarch64__)
[[gnu::always_inline]] inline std::uint16_t bits_of(uint8x16_t mask) {
  constexpr std::uint8_t weight[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t set = vandq_u8(mask, vld1q_u8(weight));
  return static_cast<std::uint16_t>(vaddv_u8(vget_low_u8(set)) | vaddv_u8(vget_high_u8(set)) << 8);
}
inline std::uint64_t bytes_at_least(const unsigned char* p, std::uint8_t bound) {
  return join_bits<4>([&](int i) { return bits_of(vcgeq_u8(vld1q_u8(p + i), vdupq_n_u8(bound))); });
}
inline std::uint64_t bytes_equal(const unsigned char* p, std::uint8_t value) {
  return join_bits<4>([&](int i) { return bits_of(vceqq_u8(vld1q_u8(p + i), vdupq_n_u8(value))); });
}
#endif

#if RIDGELINE_REGISTER_BYTES != 0
/// Bit i: whether lane i of a mask is set.
template <class R>
[[gnu::always_inline]] inline std::uint64_t sign_bits(R mask) {
  constexpr bool narrow = sizeof(mask[0]) == 4;
#if defined(__x86_64__) && RIDGELINE_REGISTER_BYTES >= 16
  if constexpr (sizeof mask == 16 && narrow) {
    return static_cast<std::uint64_t>(_mm_movemask_ps((__m128)mask));
  } else if constexpr (sizeof mask == 16) {
    return static_cast<std::uint64_t>(_mm_movemask_pd((__m128d)mask));
  }
#if RIDGELINE_REGISTER_BYTES >= 32
  else if constexpr (sizeof mask == 32 && narrow) {
    return static_cast<std::uint64_t>(_mm256_movemask_ps((__m256)mask));
  } else if constexpr (sizeof mask == 32) {
    return static_cast<std::uint64_t>(_mm256_movemask_pd((__m256d)mask));
  }
#endif
#elif defined(__aarch64__) && RIDGELINE_REGISTER_BYTES >= 16
  if constexpr (narrow) {
    constexpr std::uint32_t weight[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32((uint32x4_t)mask, vld1q_u32(weight)));
  } else {
    constexpr std::uint64_t weight[2] = {1, 2};
    return vaddvq_u64(vandq_u64((uint64x2_t)mask, vld1q_u64(weight)));
  }
#endif
}
#endif

/// Bit i: whether lane i of a is greater than that of b.
template <class I, int N>
[[gnu::always_inline]] inline std::uint64_t greater_bits(Vec<I, N> a, Vec<I, N> b) {
  using V = Vec<I, N>;
  static_assert(N <= 64);
#if RIDGELINE_REGISTER_BYTES >= 64
  if constexpr (V::registers == 4 && sizeof a.r[0] == 64) {  // one move to a general register
    const auto mask = [&](int i) {
      return _mm512_cmpgt_epi32_mask((__m512i)a.r[i], (__m512i)b.r[i]);
    };
    return _mm512_kunpackd(_mm512_kunpackw(mask(3), mask(2)), _mm512_kunpackw(mask(1), mask(0)));
  }
#endif
  std::uint64_t bits = 0;
  unroll<V::registers>([&](int i) {
    std::uint64_t own;
    if constexpr (V::register_lanes == 1) {
      own = a.r[i] > b.r[i] ? 1 : 0;
#if RIDGELINE_REGISTER_BYTES >= 64
    } else if constexpr (sizeof a.r[i] == 64) {
      own = _mm512_cmpgt_epi32_mask((__m512i)a.r[i], (__m512i)b.r[i]);
    } else if constexpr (sizeof(I) == 8) {
      own = _mm256_cmpgt_epi64_mask((__m256i)a.r[i], (__m256i)b.r[i]);
#endif
#if RIDGELINE_REGISTER_BYTES != 0
    } else {
      own = sign_bits(a.r[i] > b.r[i]);
#endif
    }
    bits |= own << (i * V::register_lanes);
  });
  return bits;
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
#if defined(__x86_64__) && RIDGELINE_REGISTER_BYTES >= 16
    if constexpr (sizeof v == 8) {
      _mm_stream_si64(static_cast<long long*>(p), __builtin_bit_cast(long long, v));
      return;
    }
    if constexpr (sizeof v == 16) {
      _mm_stream_si128(static_cast<__m128i*>(p), (__m128i)v);
      return;
    }
#if RIDGELINE_REGISTER_BYTES >= 32
    if constexpr (sizeof v == 32) {
      _mm256_stream_si256(static_cast<__m256i*>(p), (__m256i)v);
      return;
    }
#endif
#if RIDGELINE_REGISTER_BYTES >= 64
    if constexpr (sizeof v == 64) {
      _mm512_stream_si512(static_cast<__m512i*>(p), (__m512i)v);
      return;
    }
#endif
#endif
    __builtin_memcpy(p, &v, sizeof v);
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

[[gnu::always_inline]] inline float square_root(float a) { return __builtin_sqrtf(a); }
[[gnu::always_inline]] inline double square_root(double a) { return __builtin_sqrt(a); }
#if RIDGELINE_REGISTER_BYTES != 0
#if defined(__x86_64__)
[[gnu::always_inline]] inline __m128 square_root(__m128 a) { return _mm_sqrt_ps(a); }
[[gnu::always_inline]] inline __m128d square_root(__m128d a) { return _mm_sqrt_pd(a); }
#if RIDGELINE_REGISTER_BYTES >= 32
[[gnu::always_inline]] inline __m256 square_root(__m256 a) { return _mm256_sqrt_ps(a); }
[[gnu::always_inline]] inline __m256d square_root(__m256d a) { return _mm256_sqrt_pd(a); }
#endif
#if RIDGELINE_REGISTER_BYTES >= 64
[[gnu::always_inline]] inline __m512 square_root(__m512 a) { return _mm512_sqrt_ps(a); }
[[gnu::always_inline]] inline __m512d square_root(__m512d a) { return _mm512_sqrt_pd(a); }
#endif
#elif defined(__aarch64__)
[[gnu::always_inline]] inline float32x4_t square_root(float32x4_t a) { return vsqrtq_f32(a); }
[[gnu::always_inline]] inline float64x2_t square_root(float64x2_t a) { return vsqrtq_f64(a); }
#endif
#endif

// a < b ? a : b and a > b ? a : b: the instructions' own rule, so that b comes out if either is
// NaN.
template <class R>
[[gnu::always_inline]] inline R lesser_of(R a, R b) {
  return a < b ? a : b;
}
template <class R>
[[gnu::always_inline]] inline R greater_of(R a, R b) {
  return a > b ? a : b;
}
#if defined(__x86_64__) && RIDGELINE_REGISTER_BYTES >= 16
[[gnu::always_inline]] inline __m128 lesser_of(__m128 a, __m128 b) { return _mm_min_ps(a, b); }
[[gnu::always_inline]] inline __m128 greater_of(__m128 a, __m128 b) { return _mm_max_ps(a, b); }
[[gnu::always_inline]] inline __m128d lesser_of(__m128d a, __m128d b) { return _mm_min_pd(a, b); }
[[gnu::always_inline]] inline __m128d greater_of(__m128d a, __m128d b) { return _mm_max_pd(a, b); }
#if RIDGELINE_REGISTER_BYTES >= 32
[[gnu::always_inline]] inline __m256 lesser_of(__m256 a, __m256 b) { return _mm256_min_ps(a, b); }
[[gnu::always_inline]] inline __m256 greater_of(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
[[gnu::always_inline]] inline __m256d lesser_of(__m256d a, __m256d b) {
  return _mm256_min_pd(a, b);
}
[[gnu::always_inline]] inline __m256d greater_of(__m256d a, __m256d b) {
  return _mm256_max_pd(a, b);
}
#endif
#if RIDGELINE_REGISTER_BYTES >= 64
[[gnu::always_inline]] inline __m512 lesser_of(__m512 a, __m512 b) { return _mm512_min_ps(a, b); }
[[gnu::always_inline]] inline __m512 greater_of(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
[[gnu::always_inline]] inline __m512d lesser_of(__m512d a, __m512d b) {
  return _mm512_min_pd(a, b);
}
[[gnu::always_inline]] inline __m512d greater_of(__m512d a, __m512d b) {
  return _mm512_max_pd(a, b);
}
#endif
#endif

/// a < b ? a : b; b if either is NaN.
template <class T, int N>
[[gnu::always_inline]] inline Vec<T, N> lesser(Vec<T, N> a, Vec<T, N> b) {
  unroll<Vec<T, N>::registers>([&](int i) { a.r[i] = lesser_of(a.r[i], b.r[i]); });
  return a;
}
/// a > b ? a : b; b if either is NaN.
template <class T, int N>
[[gnu::always_inline]] inline Vec<T, N> greater(Vec<T, N> a, Vec<T, N> b) {
  unroll<Vec<T, N>::registers>([&](int i) { a.r[i] = greater_of(a.r[i], b.r[i]); });
  return a;
}
/// Within [low, high]; NaN stays.
template <class T, int N>
[[gnu::always_inline]] inline Vec<T, N> clamped(Vec<T, N> v, Vec<T, N> low, Vec<T, N> high) {
  return lesser(high, greater(low, v));
}

template <class T, int N>
[[gnu::always_inline]] inline Vec<T, N> sqrt(Vec<T, N> a) {
  unroll<Vec<T, N>::registers>([&](int i) { a.r[i] = square_root(a.r[i]); });
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

/// The lanes of a register as those of another, by value. GCC 12 splits __builtin_convertvector
/// into 128-bit pieces where there is an instruction for the whole.
template <class To, class From>
[[gnu::always_inline]] inline To converted(From a) {
#if defined(__x86_64__) && RIDGELINE_REGISTER_BYTES >= 32
  if constexpr (__is_same(From, __m128) && __is_same(To, __m256d)) {
    return _mm256_cvtps_pd(a);
  } else if constexpr (__is_same(From, __m256d) && __is_same(To, __m128)) {
    return _mm256_cvtpd_ps(a);
  } else if constexpr (__is_same(From, Register<std::uint16_t, 8>) &&
                       __is_same(To, Register<std::int32_t, 8>)) {
    return (To)_mm256_cvtepu16_epi32((__m128i)a);
  }
#if RIDGELINE_REGISTER_BYTES >= 64
  else if constexpr (__is_same(From, Register<std::uint16_t, 16>) &&
                     __is_same(To, Register<std::int32_t, 16>)) {
    return (To)_mm512_cvtepu16_epi32((__m256i)a);
  } else if constexpr (__is_same(From, Register<std::int32_t, 16>) &&
                       __is_same(To, Register<std::uint16_t, 16>)) {
    return (To)_mm512_cvtepi32_epi16((__m512i)a);
  }
#endif
  else
#endif
  {
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
#if defined(__x86_64__) && RIDGELINE_REGISTER_BYTES == 16
    } else if constexpr (__is_same(To, double) && lanes == 2) {
      wide.r[2 * i] = _mm_cvtps_pd(a.r[i]);
      wide.r[2 * i + 1] = _mm_cvtps_pd(_mm_movehl_ps(a.r[i], a.r[i]));
#endif
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
#if defined(__x86_64__) && RIDGELINE_REGISTER_BYTES == 16
    } else if constexpr (__is_same(To, float) && lanes == 2) {
      result.r[i] = _mm_movelh_ps(_mm_cvtpd_ps(a.r[2 * i]), _mm_cvtpd_ps(a.r[2 * i + 1]));
#endif
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
  } else {
#if defined(__x86_64__) && RIDGELINE_REGISTER_BYTES >= 64
    if constexpr (sizeof joined == 64)
      return _mm512_test_epi64_mask((__m512i)joined, (__m512i)joined) != 0;
#endif
#if defined(__x86_64__) && RIDGELINE_REGISTER_BYTES >= 32
    if constexpr (sizeof joined == 32)
      return _mm256_testz_si256((__m256i)joined, (__m256i)joined) == 0;
#endif
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
#if defined(__x86_64__) && RIDGELINE_REGISTER_BYTES >= 64
    if constexpr (V::register_lanes == 16) {
      v.r[i] = _mm512_permutexvar_ps((__m512i)index.r[i], _mm512_loadu_ps(table));
      return;
    }
#endif
#if defined(__x86_64__) && RIDGELINE_REGISTER_BYTES >= 32
    if constexpr (V::register_lanes == 8) {
      const auto place = (__m256i)index.r[i];
      const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), place);
      const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), place);
      v.r[i] = _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(place, 28)));
      return;
    }
#endif
    float lane[V::register_lanes];
    std::int32_t place[V::register_lanes];
    __builtin_memcpy(place, &index.r[i], sizeof place);
    unroll<V::register_lanes>([&](int k) { lane[k] = table[place[k] & 15]; });
    __builtin_memcpy(&v.r[i], lane, sizeof lane);
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
#if defined(__x86_64__) && RIDGELINE_REGISTER_BYTES >= 64
    if constexpr (I::register_lanes == 16) {
      v.r[i] = (typename I::R)_mm512_cvtepu8_epi32(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
      return;
    }
#endif
#if defined(__x86_64__) && RIDGELINE_REGISTER_BYTES >= 32
    if constexpr (I::register_lanes == 8) {
      v.r[i] = (typename I::R)_mm256_cvtepu8_epi32(
          _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
      return;
    }
#endif
    std::int32_t lane[I::register_lanes];
    unroll<I::register_lanes>([&](int k) { lane[k] = from[k]; });
    __builtin_memcpy(&v.r[i], lane, sizeof lane);
  });
  return v;
}
template <int N>
[[gnu::always_inline]] inline void store_bytes(std::uint8_t* p, Vec<std::int32_t, N> v) {
  using I = Vec<std::int32_t, N>;
  unroll<I::registers>([&](int i) {
    std::uint8_t* to = p + i * I::register_lanes;
#if defined(__x86_64__) && RIDGELINE_REGISTER_BYTES >= 64
    if constexpr (I::register_lanes == 16) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8((__m512i)v.r[i]));
      return;
    }
#endif
#if defined(__x86_64__) && RIDGELINE_REGISTER_BYTES >= 32
    if constexpr (I::register_lanes == 8) {
      const auto lanes = (__m256i)v.r[i];
      const __m128i words =
          _mm_packus_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
      return;
    }
#endif
    std::int32_t lane[I::register_lanes];
    __builtin_memcpy(lane, &v.r[i], sizeof lane);
    unroll<I::register_lanes>([&](int k) { to[k] = static_cast<std::uint8_t>(lane[k]); });
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
