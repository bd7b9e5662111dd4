// The memory roof: how fast this machine moves bytes when the arithmetic is trivial.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

namespace ridgeline::bench {

/// What a pass does to each byte of its arrays a, b, c, d. Arithmetic is one bitwise operation that
/// changes nothing, so that a pass may run over any data.
enum class Pattern {
  read,     ///< a
  rewrite,  ///< a = f(a)
  add,      ///< a = a + f(b)
  copy,     ///< b = a, plain stores
  stream,   ///< b = a, non-temporal stores
  write,    ///< b = a constant, non-temporal stores
  // steps of optimizers
  momentum,     ///< b = f(a, b), c = f(c)
  adam,         ///< and d = f(d)
  adam_wide,    ///< c, d of elements twice as large
  adam_narrow,  ///< half as large
  adam_bytes,   ///< a quarter
};
inline constexpr std::size_t pattern_count = 11;

const char* name_of(Pattern pattern);

/// Bytes moved for each byte of an array; plain stores to another array are counted once, although
/// the cache reads the line first.
constexpr std::size_t traffic(Pattern pattern) {
  constexpr std::size_t bytes[pattern_count] = {1, 2, 3, 2, 2, 1, 5, 7, 11, 5, 4};
  return bytes[static_cast<std::size_t>(pattern)];
}

using Regions = std::array<std::byte*, 4>;

/// Times passes over the first `bytes` of a, and of the others, for about ten milliseconds, at
/// least three times, and appends the seconds of each pass. With more threads each works on one
/// stretch.
void time_passes(Pattern pattern, const Regions& arrays, std::size_t bytes, int threads,
                 std::vector<double>& seconds);

double median(std::vector<double> values);

}  // namespace ridgeline::bench
