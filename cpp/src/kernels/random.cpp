// Streams of random numbers from Philox: uniform, normal, integers, and choices of a given
// probability.
#include "kernels/random.hpp"

#include "simd/choose.hpp"
#include "simd/loop.hpp"
#include "simd/math.hpp"

namespace ridgeline::RIDGELINE_TARGET {
namespace {

/// Words made at once: they stay in the first cache.
inline constexpr std::size_t chunk_words = 16 * tile_words;

/// Calls body(words, done, count) for tiles of the elements [first, first + n), whose words
/// `words` holds: 4 bytes an element, or 8 if Wide.
template <bool Wide, class F>
[[gnu::always_inline]] inline void for_each_tile(Key key, Stream stream, std::uint64_t first,
                                                 std::size_t n, F body) {
  constexpr std::size_t per_element = Wide ? 2 : 1;
  const RoundKeys keys(key);
  alignas(64) Word words[chunk_words];
  for (std::size_t done = 0; done < n;) {
    const std::uint64_t word = (first + done) * per_element;
    const std::size_t at = word % tile_words;
    const std::size_t room = (chunk_words - at) / per_element;
    const std::size_t count = n - done < room ? n - done : room;
    const std::size_t tiles = (at + count * per_element + tile_words - 1) / tile_words;
    fill_words(words, word / tile_words, tiles, keys, stream);
    body(words + at, done, count);
    done += count;
  }
}

template <int N>
[[gnu::always_inline]] inline Vec<float, N> to_float(Words<N> a) {
  Vec<float, N> result;
  unroll<Words<N>::registers>([&](int i) {
    if constexpr (Words<N>::register_lanes == 1) {
      result.r[i] = static_cast<float>(static_cast<std::int32_t>(a.r[i]));
    } else {
      using I = typename Vec<std::int32_t, N>::R;
      result.r[i] = __builtin_convertvector((I)a.r[i], typename Vec<float, N>::R);
    }
  });
  return result;
}

/// The value of integers below 2^52: their bits below those of 2^52.
template <int N>
[[gnu::always_inline]] inline Vec<double, N> small_to_double(Vec<std::uint64_t, N> a) {
  return bits_as<double>(a | Vec<std::uint64_t, N>(0x4330000000000000)) - Vec<double, N>(0x1p52);
}

template <class T>
inline constexpr int significand_bits = 24;
template <>
inline constexpr int significand_bits<Bfloat16> = 8;
template <>
inline constexpr int significand_bits<Float16> = 11;

/// Integers on a grid of as many bits as the significand holds: exact, and below 1.
template <class T>
void uniform(Key key, std::uint64_t first, std::size_t n, void* out) {
  constexpr int N = map_lanes<T>;
  T* to = static_cast<T*>(out);
  if constexpr (sizeof(T) == 8) {
    using U = Vec<std::uint64_t, N>;
    using V = Vec<double, N>;
    for_each_tile<true>(key, Stream::uniform, first, n,
                        [&](const Word* words, std::size_t done, std::size_t count) {
                          map_into(
                              to + done, count,
                              [](U bits) {
                                const V high = small_to_double(bits >> 32) * V(0x1p21);
                                return (high + small_to_double((bits << 32) >> 43)) * V(0x1p-53);
                              },
                              reinterpret_cast<const std::uint64_t*>(words));
                        });
  } else {
    using V = Vec<float, N>;
    for_each_tile<false>(key, Stream::uniform, first, n,
                         [&](const Word* words, std::size_t done, std::size_t count) {
                           map_into(
                               to + done, count,
                               [](Words<N> w) {
                                 constexpr int bits = significand_bits<T>;
                                 return to_float(w >> (32 - bits)) *
                                        V(1.0f / static_cast<float>(1 << bits));
                               },
                               words);
                         });
  }
}

/// (U + 1/2) / 2^32, rounded once, in (0, 1].
template <int N>
[[gnu::always_inline]] inline Vec<float, N> to_unit(Words<N> u) {
  using V = Vec<float, N>;
  const V low = to_float(u & Words<N>(0xffff)) + V(0.5f);
  return (to_float(u >> 16) * V(0x1p16f) + low) * V(0x1p-32f);
}
template <int N>
[[gnu::always_inline]] inline Vec<double, N> to_unit(Vec<std::uint64_t, N> u) {
  using V = Vec<double, N>;
  const V low = small_to_double((u << 32) >> 32) + V(0.5);
  return (small_to_double(u >> 32) * V(0x1p32) + low) * V(0x1p-64);
}

/// The part of a quarter turn, in [-1/2, 1/2), that the lower bits of V are: two's complement.
template <int N>
[[gnu::always_inline]] inline Vec<float, N> part_of_quarter(Words<N> v) {
  return to_float(v << 2) * Vec<float, N>(0x1p-32f);
}
template <int N>
[[gnu::always_inline]] inline Vec<double, N> part_of_quarter(Vec<std::uint64_t, N> v) {
  using V = Vec<double, N>;
  using U = Vec<std::uint64_t, N>;
  const U t = v << 2;
  const V high = small_to_double((t >> 32) ^ U(0x80000000)) - V(0x1p31);
  return (high * V(0x1p32) + small_to_double((t << 32) >> 32)) * V(0x1p-64);
}

/// Box & Muller (1958): sqrt(-2 ln u) cos(2 pi v) and the same with sin. The turn is reduced to
/// [-pi/4, pi/4) on the integer, so that values near 0 are as accurate as others.
template <class F, class U>
[[gnu::always_inline]] inline void box_muller(F* z, const U* bits) {
  constexpr int N = map_lanes<F> < 16 ? map_lanes<F> : 16;
  using V = Vec<F, N>;
  using B = Vec<U, N>;
  using I = lane_int<F>;
  constexpr int width = 8 * sizeof(U);
  for (int k = 0; k < 16; k += N) {
    const B u = load_lanes<U, N>(bits + k);
    const V radius = sqrt(V(-2) * log_unit(to_unit(u), to_unit(~u)));
    const B turn = load_lanes<U, N>(bits + 16 + k);
    const V x = part_of_quarter(turn) * V(static_cast<F>(0x1.921fb54442d18p+0));
    const V s = sine_series(x);
    const V c = cosine_series(x);
    const B quadrant = turn + B(U{1} << (width - 3));
    // Its two bits, each brought to the sign's place.
    const auto odd = bits_as<I>(quadrant << 1) < Vec<I, N>(0);
    const B sine_sign = quadrant & B(U{1} << (width - 1));
    const B cosine_sign = (quadrant ^ (quadrant << 1)) & B(U{1} << (width - 1));
    const V cosine = bits_as<F>(bits_as<U>(select(odd, s, c)) ^ cosine_sign);
    const V sine = bits_as<F>(bits_as<U>(select(odd, c, s)) ^ sine_sign);
    store_lanes(z + k, radius * cosine);
    store_lanes(z + 16 + k, radius * sine);
  }
}

/// Elements i and i + 16 of every 32 are a pair.
template <class T>
void normal(Key key, std::uint64_t first, std::size_t n, double mean, double std, void* out) {
  using F = compute_t<T>;
  using U = lane_word<F>;
  using V = Vec<F, map_lanes<T>>;
  constexpr std::size_t group = 32;
  constexpr std::size_t words_each = sizeof(F) / sizeof(Word);  // an index may be up to 2^63
  constexpr std::size_t chunk = chunk_words / words_each;
  const V m(static_cast<F>(mean));
  const V s(static_cast<F>(std));
  const RoundKeys keys(key);
  alignas(64) Word words[chunk_words];
  alignas(64) F z[chunk];
  for (std::size_t done = 0; done < n;) {
    const std::size_t at = (first + done) % group;
    const std::uint64_t begin = first + done - at;
    const std::uint64_t word = begin * words_each;
    const std::size_t skip = word % tile_words;
    const std::size_t skipped = skip / words_each;
    const std::size_t room = chunk - skipped - at;
    const std::size_t count = n - done < room ? n - done : room;
    const std::size_t end = skipped + at + count;
    fill_words(words, word / tile_words, (end * sizeof(F) + tile_bytes - 1) / tile_bytes, keys,
               Stream::normal);
    for (std::size_t g = skipped; g < end; g += group)
      box_muller(z + g, reinterpret_cast<const U*>(words) + g);
    map_into(
        static_cast<T*>(out) + done, count, [&](V v) { return m + s * v; }, z + skipped + at);
    done += count;
  }
}

/// Lemire (2019): the upper half of D span is uniform on [0, span) for those D whose lower half is
/// at least 2^64 mod span; for another D the next attempt's is taken.
template <class T>
void integers(Key key, std::uint64_t first, std::size_t n, std::uint64_t low, std::uint64_t span,
              void* out) {
  __extension__ using Wide = unsigned __int128;
  const std::uint64_t rejected = span == 0 ? 0 : (0 - span) % span;
  T* to = static_cast<T*>(out);
  const auto value_of = [&](std::uint64_t bits, T& value) {
    const Wide product = span == 0 ? Wide{bits} << 64 : Wide{bits} * span;
    value = static_cast<T>(low + static_cast<std::uint64_t>(product >> 64));
    return static_cast<std::uint64_t>(product) >= rejected;
  };
  for_each_tile<true>(
      key, Stream::integers, first, n, [&](const Word* words, std::size_t done, std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) {
          std::uint64_t bits;
          __builtin_memcpy(&bits, words + 2 * i, sizeof bits);
          T value;
          for (Word attempt = 1; !value_of(bits, value); ++attempt) {
            Word tile[tile_words];
            const std::uint64_t word = 2 * (first + done + i);
            fill_words(tile, word / tile_words, 1, RoundKeys(key), Stream::integers, attempt);
            __builtin_memcpy(&bits, tile + word % tile_words, sizeof bits);
          }
          __builtin_memcpy(to + done + i, &value, sizeof value);
        }
      });
}

void derive(Key key, Stream stream, std::uint64_t first, std::size_t n, std::uint64_t* seeds) {
  constexpr std::size_t batch = counters_in_flight;
  const RoundKeys keys(key);
  for (std::size_t done = 0; done < n; done += batch) {
    std::uint64_t index[batch];
    Word low[2 * batch];
    Word high[2 * batch];
    for (std::size_t i = 0; i < batch; ++i)
      index[i] = first + done + i;
    bits_at<batch>(index, keys, stream, low, high);
    for (std::size_t i = 0; i < batch && done + i < n; ++i)
      seeds[done + i] = low[2 * i] | std::uint64_t{high[2 * i]} << 32;
  }
}

void choose(const DrawRequest& draw) { BitGenerator(draw).finish(); }

void words(Key key, Stream stream, std::uint64_t tile, std::size_t tiles, std::uint32_t* out) {
  fill_words(out, tile, tiles, RoundKeys(key), stream);
}

template <class T>
constexpr RandomKernels kernels_of() {
  return {&uniform<T>, &normal<T>};
}

}  // namespace

extern constinit const RandomTable random;
constinit const RandomTable random = {
    {kernels_of<float>(), kernels_of<double>(), kernels_of<Bfloat16>(), kernels_of<Float16>()},
    {&integers<std::uint8_t>, &integers<std::uint16_t>, &integers<std::uint32_t>,
     &integers<std::uint64_t>},
    &derive,
    &choose,
    &words};

}  // namespace ridgeline::RIDGELINE_TARGET
