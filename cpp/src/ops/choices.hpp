// From a numbering to the keep bits of a run of an array.
#pragma once

#include "kernels/random.hpp"
#include "ops/strided.hpp"
#include "ridgeline/random.hpp"
#include "simd/keep_bits.hpp"

namespace ridgeline {

/// Calls kernel(first, n, done) for runs of consecutive indices that make up elements
/// [begin, begin + count) of an array.
template <class Kernel>
void for_consecutive(const Numbering& numbering, std::int64_t begin, std::int64_t count,
                     Kernel kernel) {
  const auto call = [&](std::int64_t first, std::int64_t n, std::int64_t done) {
    kernel(static_cast<std::uint64_t>(first), static_cast<std::size_t>(n), done);
  };
  if (numbering.dims.empty()) return call(numbering.first + begin, count, 0);
  walk(numbering.first, numbering.dims, begin, count,
       [&](std::int64_t index, std::int64_t stride, std::int64_t n, std::int64_t done) {
         if (stride == 1) return call(index, n, done);
         for (std::int64_t k = 0; k < n; ++k)
           call(index + k * stride, 1, done + k);
       });
}

/// 2^32 p, rounded down: below it an element's 32 random bits drop it.
std::uint32_t threshold_of(double p);

/// Throws unless p is a number in [0, 1].
void check_probability(double p);

/// The choices of one thread.
class Choices {
 public:
  /// 0 <= p < 1.
  Choices(const RandomTable& table, Key key, double p, const Numbering& numbering);
  /// Choices made before: bit i is that of index i.
  Choices(const std::uint64_t* stored, const Numbering& numbering);

  /// Those of elements [begin, begin + n), n <= block_size. Valid until the next call but one.
  KeepBits of(std::int64_t begin, std::int64_t n);

  /// What to draw of elements [begin, begin + n) before `of` asks for them; nothing if they need no
  /// drawing of their own.
  DrawRequest ahead(std::int64_t begin, std::int64_t n);

  /// Writes those of elements [begin, begin + n), zeros up to the end of the last word.
  void copy(std::int64_t begin, std::int64_t n, std::uint64_t* to);

 private:
  static constexpr std::size_t window_tiles = block_size / choice_tile + 1;

  /// The bits of the indices [first, last).
  struct Window {
    std::uint64_t first = 0;  ///< unsigned: the window of the highest indices ends at 2^63
    std::uint64_t last = 0;
    std::uint64_t bits[window_tiles * choice_tile / 64 + 1];
    bool holds(std::uint64_t from, std::uint64_t n) const {
      return from >= first && from + n <= last;
    }
  };

  /// The bits of indices [first, first + n).
  KeepBits indices(std::int64_t first, std::int64_t n);
  /// What to draw to have them in the other window, which becomes the one in use.
  DrawRequest next_window(std::int64_t first, std::int64_t n);

  const Numbering& numbering_;
  const RandomTable* table_ = nullptr;
  const std::uint64_t* stored_ = nullptr;
  Key key_{};
  std::uint32_t threshold_ = 0;
  int used_ = 0;
  Window window_[2];
  std::uint64_t gathered_[block_size / 64 + 1];
};

}  // namespace ridgeline
