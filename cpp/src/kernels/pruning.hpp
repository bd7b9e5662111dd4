// The table of pruning kernels that each target exports.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ridgeline/array.hpp"
#include "ridgeline/pruning.hpp"
#include "ridgeline/random.hpp"

namespace ridgeline {

/// Keys in (low, high]. A key is an integer in the order of the scores.
struct Window {
  std::int64_t low;
  std::int64_t high;
};

/// An element whose key lies in a window, `position` elements after the first one of a thread.
template <class Key>
struct Record {
  Key key;
  std::uint32_t position;
};

/// What a pass gathers. Records are appended while there is room.
struct Gathered {
  std::int64_t below = 0;  ///< elements whose key is at most the window's low end
  void* records = nullptr;
  std::size_t count = 0;
  std::size_t room = 0;
  bool full = false;
};

inline constexpr std::size_t bin_count = 2048;

/// Kernels on n elements whose bits start a word. Of `among`, only elements whose bit is set take
/// part; null: all. `words` get a bit for each element, 0 beyond the last.
struct RankKernels {
  /// The key of each element.
  void (*keys)(const void* x, std::size_t n, Ranking, std::int64_t* keys);
  /// Bits of elements above the window; those inside are gathered, with `position` added.
  void (*split)(const void* x, std::size_t n, Ranking, Window, const std::uint64_t* among,
                std::uint64_t* words, std::uint32_t position, Gathered&);
  /// below += elements at most low; bins[(key - low - 1) >> shift] counts those in the window.
  void (*histogram)(const void* x, std::size_t n, Ranking, Window, int shift,
                    const std::uint64_t* among, std::int64_t& below, std::int64_t* bins);
  /// Bits of elements above `key`, and of the first `ties` of those equal to it.
  void (*at_key)(const void* x, std::size_t n, Ranking, std::int64_t key,
                 const std::uint64_t* among, std::uint64_t* words, std::int64_t& ties);
  /// Of each of `rows` rows of `length` elements, which lie one after the other, the bits of all
  /// but the counts[row] lowest that take part; of equal ones the last are pruned. Bits of `among`
  /// are read, and zeros of `words` written, from bit `bit` on. `keys` has room
  /// for as many keys as a row has elements, and 64 more.
  void (*rows)(const void* x, std::size_t rows, std::size_t length, Ranking,
               const std::int64_t* counts, const std::uint64_t* among, std::uint64_t* words,
               std::size_t bit, void* keys);
};

/// The same where the score of an element is 32 random bits: those of elements [first, first + n).
struct RandomRankKernels {
  void (*keys)(Key, std::uint64_t first, std::size_t n, std::int64_t* keys);
  void (*split)(Key, std::uint64_t first, std::size_t n, Window, const std::uint64_t* among,
                std::uint64_t* words, std::uint32_t position, Gathered&);
  void (*histogram)(Key, std::uint64_t first, std::size_t n, Window, int shift,
                    const std::uint64_t* among, std::int64_t& below, std::int64_t* bins);
  void (*at_key)(Key, std::uint64_t first, std::size_t n, std::int64_t key,
                 const std::uint64_t* among, std::uint64_t* words, std::int64_t& ties);
};

struct PruningKernels {
  RankKernels narrow;  ///< keys of 32 bits; not for float64
  RankKernels wide;    ///< keys of 64 bits
  /// The `keep` highest of every 4 elements, n a multiple of 4.
  void (*keep_of_4)(const void* x, std::size_t n, Ranking, int keep, const std::uint64_t* among,
                    std::uint64_t* words);
  /// out[i / piece] = out[i / piece] + |x[i]|^ord, or the larger of them if ord is infinite.
  void (*add_powers)(const void* x, std::size_t n, std::size_t piece, double ord, double* out);
  /// The same of |x[i]| / largest[i / piece]; nothing where that is 0 or infinite.
  void (*add_scaled_powers)(const void* x, std::size_t n, std::size_t piece, double ord,
                            const double* largest, double* out);
  /// x = 0 where the bit is 0.
  void (*apply)(void* x, std::size_t n, const std::uint64_t* words);
  /// x = x - strength u x
  void (*shrink)(void* x, std::size_t n, double strength, const void* u);
  /// out = |a b|, or (a b)^2
  void (*saliency)(const void* a, const void* b, void* out, std::size_t n, bool squared);
  /// out = |x|
  void (*magnitudes)(const void* x, void* out, std::size_t n);
  /// out = |x| factor; factors are of the type that arithmetic runs in
  void (*weighted)(const void* x, const void* factor, void* out, std::size_t n);
  /// out = out - rate g w
  void (*movement)(void* out, const void* g, const void* w, std::size_t n, double rate);
};

struct PruningTable {
  PruningKernels kernels[dtype_count];
  RandomRankKernels random;
  /// keys[j][64], j < m: bit c of bits[j] says whether keys[j][c] is among the `keep` largest of
  /// column c; of equal ones the first.
  void (*keep_of_columns)(const std::int64_t* keys, int m, int keep, std::uint64_t* bits);
};

}  // namespace ridgeline
