// Bits in words of 64: bit i is bit i mod 64 of word i / 64. Ranges are in bits.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>

#include "ridgeline/pruning.hpp"

namespace ridgeline {

/// A word whose first n bits are set; all of them from n = 64 on.
constexpr std::uint64_t first_bits(std::int64_t n) {
  return n >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1;
}

inline bool bit_of(const std::uint64_t* words, std::int64_t i) {
  return (words[i / 64] >> i % 64 & 1) != 0;
}

/// Bits [at, at + n), n <= 64; the others of the result are 0. No word beyond them is read.
inline std::uint64_t read_bits(const std::uint64_t* words, std::int64_t at, std::int64_t n) {
  const std::int64_t shift = at % 64;
  std::uint64_t bits = words[at / 64] >> shift;
  if (shift + n > 64) bits |= words[at / 64 + 1] << (64 - shift);
  return bits & first_bits(n);
}

/// The 64 bits from bit `at` on, of which those beyond `count` words are 0.
inline std::uint64_t bits_from(const std::uint64_t* words, std::int64_t at, std::int64_t count) {
  const std::int64_t shift = at % 64;
  const std::int64_t w = at / 64;
  const std::uint64_t next = shift == 0 || w + 1 == count ? 0 : words[w + 1] << (64 - shift);
  return words[w] >> shift | next;
}

/// Writes n <= 64 bits from bit `at` on, where zeros are.
inline void append_bits(std::uint64_t* words, std::int64_t at, std::uint64_t bits, std::int64_t n) {
  const std::int64_t shift = at % 64;
  words[at / 64] |= bits << shift;
  if (shift + n > 64) words[at / 64 + 1] |= bits >> (64 - shift);
}

/// Sets the bits of a word from bit `at` on, in words that other threads may write too.
inline void set_bits_shared(std::uint64_t* words, std::int64_t at, std::uint64_t bits) {
  const std::int64_t shift = at % 64;
  const auto add = [&](std::int64_t w, std::uint64_t part) {
    std::atomic_ref<std::uint64_t>(words[w]).fetch_or(part, std::memory_order_relaxed);
  };
  add(at / 64, bits << shift);
  if (shift != 0 && bits >> (64 - shift) != 0) add(at / 64 + 1, bits >> (64 - shift));
}

/// Calls f(word, bits) for the words that bits [at, at + n) lie in.
template <class F>
void for_words(std::int64_t at, std::int64_t n, F f) {
  while (n > 0) {
    const std::int64_t count = std::min<std::int64_t>(n, 64 - at % 64);
    f(at / 64, first_bits(count) << at % 64);
    at += count;
    n -= count;
  }
}
inline void set_range(std::uint64_t* words, std::int64_t at, std::int64_t n) {
  for_words(at, n, [&](std::int64_t w, std::uint64_t bits) { words[w] |= bits; });
}
inline void clear_range(std::uint64_t* words, std::int64_t at, std::int64_t n) {
  for_words(at, n, [&](std::int64_t w, std::uint64_t bits) { words[w] &= ~bits; });
}

/// Sets n bits and clears the rest of the last word.
inline void fill_bits(std::uint64_t* words, std::int64_t n) {
  std::fill_n(words, mask_words(n), ~std::uint64_t{0});
  if (n % 64 != 0) words[n / 64] = first_bits(n % 64);
}

/// How many of the first n bits are set.
inline std::int64_t count_bits(const std::uint64_t* words, std::int64_t n) {
  std::int64_t count = 0;
  for_words(0, n,
            [&](std::int64_t w, std::uint64_t bits) { count += std::popcount(words[w] & bits); });
  return count;
}

}  // namespace ridgeline
