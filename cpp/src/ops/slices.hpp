// Arrays cut into blocks along their axes: which elements belong to which block.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "ops/bits.hpp"
#include "runtime/parallel.hpp"

namespace ridgeline {

/// An axis cut into blocks.
struct Axis {
  std::int64_t extent;
  std::int64_t block;
  std::int64_t blocks() const { return (extent + block - 1) / block; }
};

/// Axes with the same blocks in the same order, merged with the next one where that one has a
/// single block, or both are cut into single elements. At least one.
std::vector<Axis> merged(std::span<const std::int64_t> shape, std::span<const std::int64_t> block);

/// The index of the first block of a row along the last axis.
std::int64_t first_block(std::span<const Axis> axes, std::int64_t row);

std::int64_t product(std::span<const std::int64_t> values);

/// Calls f(unit) for this thread's share of [0, units).
template <class F>
void share(Team team, std::int64_t units, F f) {
  const std::int64_t end = units * (team.rank + 1) / team.size;
  for (std::int64_t u = units * team.rank / team.size; u < end; ++u)
    f(u);
}

/// Calls f(block, first, n, single) for the runs of n elements of one block, or of n blocks of
/// a single element, in shares whose words are no other thread's.
template <class F>
void for_each_run(std::span<const std::int64_t> shape, std::span<const std::int64_t> block,
                  int threads, F f) {
  const std::int64_t size = product(shape);
  const std::vector<Axis> axes = merged(shape, block);
  const Axis last = axes.back();
  const bool single = last.block == 1;
  parallel(size / 8, threads, [&](Team team) {
    const std::int64_t all = mask_words(size);
    const std::int64_t end = std::min(all * (team.rank + 1) / team.size * 64, size);
    for (std::int64_t at = all * team.rank / team.size * 64; at < end;) {
      const std::int64_t row = at / last.extent;
      const std::int64_t base = first_block(axes, row);
      const std::int64_t row_end = std::min((row + 1) * last.extent, end);
      while (at < row_end) {
        const std::int64_t place = at - row * last.extent;
        const std::int64_t b = place / last.block;
        const std::int64_t n =
            single ? row_end - at : std::min((b + 1) * last.block - place, row_end - at);
        f(base + b, at, n, single);
        at += n;
      }
    }
  });
}

}  // namespace ridgeline
