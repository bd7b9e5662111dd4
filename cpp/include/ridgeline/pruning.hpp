// Pruning: exact selection of the elements to prune, and masks with one bit per element.
#pragma once

#include <cstdint>
#include <span>

#include "ridgeline/array.hpp"
#include "ridgeline/random.hpp"

namespace ridgeline {

/// How an element is ranked: by its magnitude or its value, over a divisor > 0 in float64. NaN
/// counts as positive infinity, -0 as 0.
struct Ranking {
  bool magnitude = true;
  double divisor = 1;
};

/// The number of 64-bit words for one bit per element of an array.
constexpr std::int64_t mask_words(std::int64_t size) { return (size + 63) / 64; }

/// Bits of arrays that are ranked: 1 for kept, element i of array k in bit i % 64 of word i / 64
/// from words[k] on; bits beyond the last element are 0. What `among` says (empty, or as `words`,
/// null for all of an array) is pruned already stays so.
struct Selection {
  std::span<const Ranking> rankings;
  std::span<const std::uint64_t* const> among;
  std::span<std::uint64_t* const> words;
};

/// Prunes exactly `count` elements of all arrays together: those that rank lowest; of equal ones
/// the last, in list order.
void prune_lowest(Arrays arrays, const Selection& selection, std::int64_t count, int threads = 0);

/// The same of each array on its own.
void prune_each_lowest(Arrays arrays, const Selection& selection,
                       std::span<const std::int64_t> counts, int threads = 0);

/// The same of each row of `length` elements of an array: counts[r] of row r. `among` may be null.
void prune_each_row(const Array& x, std::int64_t length, Ranking ranking,
                    std::span<const std::int64_t> counts, const std::uint64_t* among,
                    std::uint64_t* words, int threads = 0);

/// The same by 32 random bits an element: those that decide dropout's choice of element `first` +
/// the number of elements before. The arrays' memory is not read.
void prune_random(Arrays arrays, const Selection& selection, Key key, std::int64_t first,
                  std::int64_t count, int threads = 0);

/// The scores of prune_random of elements [first, first + keys.size()).
void random_keys(std::span<std::int64_t> keys, Key key, std::int64_t first);

/// Parts of a selection over arrays that several processes hold. Keys are 64 bits wide.
/// Adds to `below` the elements whose key is at most `low`, and to bins[(key - low - 1) >> shift]
/// those up to low + (bins.size() << shift); bins.size() is 2048.
void rank_histogram(Arrays arrays, const Selection& selection, std::int64_t low, int shift,
                    std::int64_t& below, std::span<std::int64_t> bins, int threads = 0);
/// Keeps elements above `key`, and the first `ties` of those equal to it.
void prune_at_key(Arrays arrays, const Selection& selection, std::int64_t key, std::int64_t ties,
                  int threads = 0);
/// The same for random scores.
void random_histogram(Arrays arrays, const Selection& selection, Key key, std::int64_t first,
                      std::int64_t low, int shift, std::int64_t& below,
                      std::span<std::int64_t> bins, int threads = 0);
void prune_random_at_key(Arrays arrays, const Selection& selection, Key key, std::int64_t first,
                         std::int64_t at, std::int64_t ties, int threads = 0);

/// Keeps the `keep` highest of every m along the middle axis of (outer, length, inner); of equal
/// ones the first. A shorter last group keeps as many, if it has them. `among` may be null.
void prune_n_of_m(const Array& x, std::int64_t outer, std::int64_t length, std::int64_t inner,
                  int keep, int m, Ranking ranking, const std::uint64_t* among,
                  std::uint64_t* words, int threads = 0);

/// The same by the scores of prune_random, of elements from `first` on.
void prune_random_n_of_m(std::int64_t outer, std::int64_t length, std::int64_t inner, int keep,
                         int m, Key key, std::int64_t first, const std::uint64_t* among,
                         std::uint64_t* words, int threads = 0);

/// scores[b] = sum of |x|^ord over block b of a grid of blocks, or their maximum if ord is
/// infinite. The last block along an axis may be smaller. Elements whose bit of `among` (or null)
/// is 0 count as 0. `largest` (or null): the sums are of (|x| / largest[b])^ord, 0 where that is 0
/// or infinite.
void block_powers(const Array& x, std::span<const std::int64_t> shape,
                  std::span<const std::int64_t> block, double ord, const std::uint64_t* among,
                  const double* largest, std::span<double> scores, int threads = 0);

/// Sets the bits of blocks that have a bit of an element.
void gather_blocks(std::span<const std::int64_t> shape, std::span<const std::int64_t> block,
                   const std::uint64_t* words, std::uint64_t* blocks, int threads = 0);

/// Gives every element the bit of its block.
void spread_blocks(std::span<const std::int64_t> shape, std::span<const std::int64_t> block,
                   const std::uint64_t* blocks, std::uint64_t* words, int threads = 0);

/// x = 0 where the bit of an element is 0; other elements keep every bit. Lines of the cache that
/// stay as they are are not written.
void apply_masks(Arrays params, std::span<const std::uint64_t* const> words, int threads = 0);

/// out = x where the bit of an element is 1, else 0. out may be x.
void masked(const Array& x, const std::uint64_t* words, const Array& out, int threads = 0);

/// An error unless arrays that are written share no memory, with each other or with those of an
/// input, except each with the array at its own place if `aliasing`.
void check_outputs(Arrays out, const char* input, Arrays arrays, bool aliasing);

/// w = w - strength u w, u uniform on [0, 1): element i of the list is element i of the stream.
void random_shrink(Arrays params, double strength, Key key, int threads = 0);

/// Scores of weights. out may be an input.
/// |w g|, or its square: first-order Taylor expansion (Molchanov et al. 2017), SNIP (Lee et al.
/// 2019).
void saliency(const Array& w, const Array& g, const Array& out, bool squared, int threads = 0);
void magnitudes(const Array& x, const Array& out, int threads = 0);
/// |w| times the norm of its input, one for each place along the last axis (Sun et al. 2024).
void wanda(const Array& w, const Array& input_norms, const Array& out, int threads = 0);
/// scores -= rate g w (Sanh, Wolf & Rush 2020)
void movement(Arrays scores, Arrays w, Arrays g, double rate, int threads = 0);

}  // namespace ridgeline
