// The work list: who gets which elements.
#include <algorithm>
#include <vector>

#include "doctest/doctest.h"
#include "ops/work.hpp"
#include "random.hpp"

namespace {

using namespace ridgeline;
using test::Random;

std::vector<Array> random_arrays(Random& random) {
  std::vector<Array> arrays;
  const std::int64_t count = random.integer(0, 40);
  for (std::int64_t k = 0; k < count; ++k) {
    const std::int64_t limits[] = {0, 1, 200, 4097, 70000};
    arrays.emplace_back(nullptr, DType::float32, random.integer(0, limits[random.integer(0, 4)]));
  }
  return arrays;
}

bool same(const Run& a, const Run& b) {
  return a.array == b.array && a.begin == b.begin && a.count == b.count && a.block == b.block;
}

}  // namespace

TEST_CASE("every element is visited once, forwards and backwards, whatever the team") {
  Random random(1);
  constexpr auto block = static_cast<std::int64_t>(block_size);
  for (int round = 0; round < 2000; ++round) {
    const std::vector<Array> arrays = random_arrays(random);
    const WorkList work(arrays);
    const int size = static_cast<int>(random.integer(1, 20));
    std::vector<std::int64_t> next(arrays.size(), 0);  // elements come in order
    std::size_t blocks = 0;
    for (int rank = 0; rank < size; ++rank) {
      std::vector<Run> forward;
      std::vector<Run> backward;
      work.forward(Team{rank, size}, [&](const Run& run) { forward.push_back(run); });
      work.backward(Team{rank, size}, [&](const Run& run) { backward.push_back(run); });
      for (const Run& run : forward) {
        REQUIRE(run.array < arrays.size());
        REQUIRE(run.count > 0);
        REQUIRE(run.begin == next[run.array]);
        REQUIRE(run.begin % block == 0);
        next[run.array] += run.count;
        REQUIRE((run.count % block == 0 || next[run.array] == arrays[run.array].size));
        REQUIRE(run.block == blocks);
        blocks += static_cast<std::size_t>(blocks_of(run.count));
      }
      std::ranges::reverse(backward);
      REQUIRE(std::ranges::equal(forward, backward, same));
    }
    REQUIRE(blocks == work.blocks());
    for (std::size_t k = 0; k < arrays.size(); ++k)
      REQUIRE(next[k] == arrays[k].size);
  }
}

TEST_CASE("shares are fair to within a block and an array's cost") {
  const std::vector<Array> arrays(8, Array(nullptr, DType::float32, 1000003));
  const WorkList work(arrays);
  for (const int size : {1, 2, 3, 7, 16}) {
    std::int64_t least = 8 * 1000003;
    std::int64_t most = 0;
    for (int rank = 0; rank < size; ++rank) {
      std::int64_t mine = 0;
      work.forward(Team{rank, size}, [&](const Run& run) { mine += run.count; });
      least = std::min(least, mine);
      most = std::max(most, mine);
    }
    CHECK(most - least <= 2 * static_cast<std::int64_t>(block_size) + 8 * 256);
  }
}
