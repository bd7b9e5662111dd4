// BitGenerator draws which elements are kept, a few at a time, so that its work can be interleaved
// with the loads and stores of other work.
#pragma once

#include "simd/keep_bits.hpp"
#include "simd/philox.hpp"

namespace ridgeline::RIDGELINE_TARGET {
namespace {

/// For each 64-bit index in `index`, the first two words of its counter in the stream, as pairs.
template <int N>
[[gnu::always_inline]] inline void bits_at(const std::uint64_t* index, const RoundKeys& keys,
                                           Stream stream, Word* first, Word* second) {
  const auto low = load_lanes<Word, 2 * N>(index);
  const auto bits =
      philox(Counters<2 * N>{{low, odd_to_even(low), Words<2 * N>(static_cast<Word>(stream)),
                              Words<2 * N>(0)}},
             keys);
  store_lanes(first, bits.word[0]);
  store_lanes(second, bits.word[1]);
}

/// Of the 2^32 values of (byte, 24 bits) of an element, `threshold` drop it: 2^24 for each byte
/// below the threshold's own, and its low 24 bits' worth where the byte is equal, a tie.
class BitGenerator {
 public:
  explicit BitGenerator(const DrawRequest& draw)
      : draw_(draw), keys_(draw.key), byte_(static_cast<std::uint8_t>(draw.threshold >> 24)),
        below_(draw.threshold & 0xffffff) {}

  /// Draws for the next 512 elements, if there are more.
  [[gnu::always_inline]] void step() {
    if (done_ < draw_.tiles) draw_some();
  }

  /// Draws what is left.
  void finish() {
    while (done_ < draw_.tiles)
      draw_some();
    if (ties_ > 0) resolve();
  }

 private:
  static constexpr std::size_t step_tiles = 2;
  static constexpr std::size_t groups = tile_bytes / 64;
  static constexpr std::size_t batch = counters_in_flight;

  [[gnu::noinline]] void draw_some() {
    alignas(64) Word words[step_tiles * tile_words];
    const std::size_t left = draw_.tiles - done_;
    const std::size_t tiles = left < step_tiles ? left : step_tiles;
    fill_words(words, draw_.tile + done_, tiles, keys_, Stream::choice);
    const auto* bytes = reinterpret_cast<const unsigned char*>(words);
    for (std::size_t g = 0; g < tiles * groups; ++g) {
      draw_.bits[done_ * groups + g] = bytes_at_least(bytes + 64 * g, byte_);
      if (below_ != 0) add_ties(64 * (done_ * groups + g), bytes_equal(bytes + 64 * g, byte_));
    }
    done_ += tiles;
    if (ties_ >= enough) resolve();
  }

  /// Seldom more than one of 64: one is added without a branch.
  [[gnu::always_inline]] void add_ties(std::size_t position, std::uint64_t equal) {
    const auto place = [&] {
      return static_cast<std::uint32_t>(position) +
             static_cast<std::uint32_t>(__builtin_ctzll(equal | std::uint64_t{1} << 63));
    };
    tie_[ties_] = place();
    ties_ += equal != 0 ? 1 : 0;
    for (equal &= equal - 1; equal != 0; equal &= equal - 1)
      tie_[ties_++] = place();
  }

  /// Drops those whose other bits say so.
  [[gnu::noinline]] void resolve() {
    const std::uint64_t first = draw_.tile * tile_bytes;
    for (std::size_t done = 0; done < ties_; done += batch) {
      std::uint64_t index[batch];
      Word low[2 * batch];
      Word high[2 * batch];
      for (std::size_t i = 0; i < batch; ++i)
        index[i] = first + (done + i < ties_ ? tie_[done + i] : 0);
      bits_at<batch>(index, keys_, Stream::tie, low, high);
      for (std::size_t i = 0; i < batch && done + i < ties_; ++i) {
        const std::uint32_t place = tie_[done + i];
        const std::uint64_t dropped = low[2 * i] >> 8 < below_ ? 1 : 0;
        draw_.bits[place / 64] &= ~(dropped << place % 64);
      }
    }
    ties_ = 0;
  }

  static constexpr std::size_t enough = batch < 24 ? 24 : batch - 8;  // so that batches are full

  const DrawRequest draw_;
  const RoundKeys keys_;
  const std::uint8_t byte_;
  const Word below_;
  std::size_t done_ = 0;
  std::size_t ties_ = 0;
  std::uint32_t tie_[enough + step_tiles * tile_bytes];
};

}  // namespace
}  // namespace ridgeline::RIDGELINE_TARGET
