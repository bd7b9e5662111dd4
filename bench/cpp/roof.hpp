// The memory roof: how fast this machine moves bytes when the arithmetic is trivial.
#pragma once

#include <cstddef>
#include <vector>

namespace ridgeline::bench {

/// What a pass does to each byte of its arrays. Arithmetic is one bitwise operation that changes
/// nothing, so that a pass may run over any data.
enum class Pattern {
  read,     ///< a
  rewrite,  ///< a = f(a)
  add,      ///< a = a + f(b)
  copy,     ///< b = a, plain stores
  stream,   ///< b = a, non-temporal stores
  write,    ///< b = a constant, non-temporal stores
};

const char* name_of(Pattern pattern);

/// Bytes moved for each byte of an array; plain stores to another array are counted once, although
/// the cache reads the line first.
constexpr std::size_t traffic(Pattern pattern) {
  return pattern == Pattern::read || pattern == Pattern::write ? 1
         : pattern == Pattern::add                             ? 3
                                                               : 2;
}

/// Times passes over the first `bytes` of `a` and `b` for about ten milliseconds, at least three
/// times, and appends the seconds of each pass. With more threads each works on one stretch.
void time_passes(Pattern pattern, std::byte* a, std::byte* b, std::size_t bytes, int threads,
                 std::vector<double>& seconds);

double median(std::vector<double> values);

}  // namespace ridgeline::bench
