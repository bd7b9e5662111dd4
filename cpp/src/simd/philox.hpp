// Philox4x32-10 (Salmon, Moraes, Dror & Shaw, Parallel Random Numbers: As Easy as 1, 2, 3, 2011):
// 128 random bits for every (counter, key), on many counters at once.
//
// A counter is computed in the even lanes of 32-bit words, so that a round is two widening
// multiplications whose products need no moving: the low words stay in place, the high ones are one
// lane away. Odd lanes hold whatever comes out.
//
// Words are numbered so that no target has to transpose: in a tile of 16 counters, word w of
// counter l is word 16 w + l. Bytes are numbered as in memory.
#pragma once

#include "ridgeline/random.hpp"
#include "simd/vec.hpp"

namespace ridgeline::RIDGELINE_TARGET {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);

inline constexpr std::size_t tile_counters = 16;
inline constexpr std::size_t tile_words = 4 * tile_counters;
inline constexpr std::size_t tile_bytes = 4 * tile_words;

using Word = std::uint32_t;
template <int N>
using Words = Vec<Word, N>;

/// Two lanes of a register as one of 64 bits.
template <int N>
using Pairs = Register<std::uint64_t, Words<N>::register_lanes / 2>;

/// The 64-bit products of the even lanes, each in its pair of lanes.
template <int N>
[[gnu::always_inline]] inline Words<N> multiply_even(Words<N> a, Word b) {
  using W = Words<N>;
  if constexpr (W::register_lanes == 1) {
    unroll<N / 2>([&](int i) {
      const std::uint64_t product = std::uint64_t{a.r[2 * i]} * b;
      a.r[2 * i] = static_cast<Word>(product);
      a.r[2 * i + 1] = static_cast<Word>(product >> 32);
    });
  } else {
    const typename W::R factor = b - typename W::R{};
    unroll<W::registers>([&](int i) { a.r[i] = native_multiply_even(a.r[i], factor); });
  }
  return a;
}

/// Each odd lane in the even lane before it.
template <int N>
[[gnu::always_inline]] inline Words<N> odd_to_even(Words<N> a) {
  using W = Words<N>;
  if constexpr (W::register_lanes == 1) {
    unroll<N / 2>([&](int i) { a.r[2 * i] = a.r[2 * i + 1]; });
  } else {
    unroll<W::registers>([&](int i) { a.r[i] = (typename W::R)((Pairs<N>)a.r[i] >> 32); });
  }
  return a;
}

template <class R, int... I>
[[gnu::always_inline]] inline R even_lanes(R a, R b, std::integer_sequence<int, I...>) {
  constexpr int lanes = sizeof...(I);
  return __builtin_shufflevector(a, b, ((I / 2) * 2 + (I % 2) * lanes)...);
}

/// The even lanes of the first half of `a` in the even lanes, those of its second half in the odd
/// ones.
template <int N>
[[gnu::always_inline]] inline Words<N / 2> packed(Words<N> a) {
  using Half = Words<N / 2>;
  Half result;
  if constexpr (Half::register_lanes == 1) {
    unroll<N / 4>([&](int i) {
      result.r[2 * i] = a.r[2 * i];
      result.r[2 * i + 1] = a.r[N / 2 + 2 * i];
    });
  } else {
    static_assert(Half::register_lanes == Words<N>::register_lanes);
    unroll<Half::registers>([&](int i) {
      const auto even = a.r[i];
      const auto odd = a.r[Half::registers + i];
      if constexpr (requires { native_even_lanes(even, odd); }) {
        result.r[i] = native_even_lanes(even, odd);
      } else {
        constexpr auto index = std::make_integer_sequence<int, Half::register_lanes>{};
        result.r[i] = even_lanes(even, odd, index);
      }
    });
  }
  return result;
}

/// The words of a counter, or of its random bits.
template <int N>
struct Counters {
  Words<N> word[4];
};

/// The keys of the rounds, in memory: from there they reach all lanes at no cost.
class RoundKeys {
 public:
  explicit RoundKeys(Key key) {
    Word k0 = static_cast<Word>(key.seed);
    Word k1 = static_cast<Word>(key.seed >> 32);
    for (Word(&k)[2] : keys_) {
      k[0] = k0;
      k[1] = k1;
      k0 += 0x9e3779b9;
      k1 += 0xbb67ae85;
    }
  }
  static constexpr int rounds = 10;
  const Word* operator[](int round) const { return keys_[round]; }

 private:
  Word keys_[rounds][2];
};

template <int N>
[[gnu::always_inline]] inline Counters<N> philox_round(const Counters<N>& c, const Word* key) {
  const Words<N> p0 = multiply_even(c.word[0], 0xd2511f53);
  const Words<N> p1 = multiply_even(c.word[2], 0xcd9e8d57);
  return {{odd_to_even(p1) ^ c.word[1] ^ Words<N>(key[0]), p1,
           odd_to_even(p0) ^ c.word[3] ^ Words<N>(key[1]), p0}};
}

template <int N>
[[gnu::always_inline]] inline Counters<N> philox(Counters<N> c, const RoundKeys& keys) {
  for (int round = 0; round < RoundKeys::rounds; round += 2)  // two a turn: no moves
    c = philox_round(philox_round(c, keys[round]), keys[round + 1]);
  return c;
}

/// Counters worked on at once: as many as keep the multipliers busy and fit into the registers.
inline constexpr int counters_in_flight = register_bytes == 64   ? 32
                                          : register_bytes == 32 ? 8
                                          : register_bytes == 16 ? 4
                                                                 : 2;

/// Counters 0, 2, 4 ... G - 2 in the first half of the even lanes, 1, 3 ... G - 1 in the second.
template <int G>
struct EvenThenOdd {
  Word lane[2 * G] = {};
  constexpr EvenThenOdd() {
    for (int i = 0; i < G; ++i)
      lane[2 * i] = static_cast<Word>(2 * (i % (G / 2)) + i / (G / 2));
  }
};

/// The words of `tiles` tiles of a stream, from tile `first` on; `attempt` counts the streams of
/// those who reject.
[[gnu::always_inline]] inline void fill_words(Word* words, std::uint64_t first, std::size_t tiles,
                                              const RoundKeys& keys, Stream stream,
                                              Word attempt = 0) {
  constexpr int G = counters_in_flight;
  using Lanes = Words<2 * G>;
  static constexpr EvenThenOdd<G> order;
  const Lanes lanes = load_lanes<Word, 2 * G>(order.lane);
  const std::uint64_t start = first * tile_counters;
  for (std::size_t done = 0; done < tiles * tile_counters; done += G) {
    const std::uint64_t counter = start + done;
    const Lanes low = Lanes(static_cast<Word>(counter)) + lanes;
    const Lanes carry = bits_as<Word>(low < lanes);  // -1 where the low word wrapped
    const Counters<2 * G> bits =
        philox(Counters<2 * G>{{low, Lanes(static_cast<Word>(counter >> 32)) - carry,
                                Lanes(static_cast<Word>(stream)), Lanes(attempt)}},
               keys);
    unroll<4>([&](int w) __attribute__((always_inline)) {
      const Words<G> part = packed(bits.word[w]);
      unroll<Words<G>::registers>([&](int i) __attribute__((always_inline)) {
        const std::size_t at = done + static_cast<std::size_t>(i * Words<G>::register_lanes);
        if (at >= tiles * tile_counters) return;  // two tiles in flight, one asked for
        __builtin_memcpy(words + at / tile_counters * tile_words +
                             static_cast<std::size_t>(w) * tile_counters + at % tile_counters,
                         &part.r[i], sizeof part.r[i]);
      });
    });
  }
}

}  // namespace
}  // namespace ridgeline::RIDGELINE_TARGET
