// Passes over memory: what they touch.
#include <algorithm>
#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "doctest/doctest.h"
#include "kernels/roof.hpp"
#include "random.hpp"
#include "ridgeline/roof.hpp"
#include "ridgeline/runtime.hpp"
#include "runtime/dispatch.hpp"

namespace {

using namespace ridgeline;
using test::Random;
using Bytes = std::vector<std::byte>;

const auto patterns = [] {
  std::vector<MemoryPattern> all;
  for (std::size_t i = 0; i < memory_pattern_count; ++i)
    all.push_back(static_cast<MemoryPattern>(i));
  return all;
}();

/// Four regions of random bytes, `offset` bytes past a line of the cache, and what is around them.
struct Memory {
  Memory(MemoryPattern pattern_, std::size_t bytes, std::size_t offset)
      : pattern(pattern_), uses(regions_of(pattern_)) {
    constexpr std::size_t margin = 128;
    Random random(1);
    for (std::size_t k = 0; k < memory_region_count; ++k) {
      before[k].resize(share(bytes, k) + 3 * margin);
      std::ranges::generate(before[k],
                            [&] { return static_cast<std::byte>(random.integer(0, 255)); });
      after[k] = before[k];
      begin[k] = margin - reinterpret_cast<std::uintptr_t>(after[k].data()) % 64 + offset;
      regions[k] = uses[k].size > 0 ? after[k].data() + begin[k] : nullptr;
    }
  }
  /// Bytes of region k to so many of a.
  std::size_t share(std::size_t bytes, std::size_t k) const {
    return static_cast<std::size_t>(static_cast<double>(bytes) * uses[k].size);
  }

  MemoryPattern pattern;
  std::array<RegionUse, memory_region_count> uses;
  Bytes before[memory_region_count], after[memory_region_count];
  std::size_t begin[memory_region_count];
  MemoryRegions regions;
};

/// Region k after a pass of so many groups that xor'ed with `bits`, byte by byte.
Bytes expected(const Memory& memory, std::size_t k, std::size_t groups, std::byte bits) {
  const MemoryPattern pattern = memory.pattern;
  Bytes result = memory.before[k];
  if (!memory.uses[k].writes) return result;
  for (std::size_t i = 0; i < memory.share(groups * memory_group, k); ++i) {
    std::byte& x = result[memory.begin[k] + i];
    const auto other = [&](std::size_t j) { return memory.before[j][memory.begin[j] + i]; };
    if (pattern == MemoryPattern::write) {
      x = std::byte{0x3f} ^ bits;
    } else if (pattern == MemoryPattern::copy || pattern == MemoryPattern::stream) {
      x = other(0) ^ bits;
    } else if (pattern == MemoryPattern::add) {
      x ^= other(1) & bits;
    } else if (pattern != MemoryPattern::rewrite && k == 1) {
      x ^= other(0) & bits;
    } else {
      x ^= bits;
    }
  }
  return result;
}

}  // namespace

TEST_CASE("on every target a pass writes each byte of its regions once") {
  const std::string before = target();
  for (const std::string& name : targets()) {
    use_target(name);
    CAPTURE(name);
    for (const MemoryPattern pattern : patterns) {
      CAPTURE(std::string(name_of(pattern)));
      MemoryPass* const pass = tables().roof->passes[static_cast<std::size_t>(pattern)];
      for (const std::size_t groups : {1u, 2u, 7u}) {
        for (const std::size_t offset : {0u, 1u, 16u, 60u}) {
          for (const std::uint64_t bits : {0x00u, 0xffu}) {
            Memory memory(pattern, groups * memory_group, offset);
            pass(memory.regions.data(), groups, bits * 0x0101010101010101u);
            const auto byte = static_cast<std::byte>(bits);
            for (std::size_t k = 0; k < memory_region_count; ++k) {
              CAPTURE(k);
              CHECK(memory.after[k] == expected(memory, k, groups, byte));
            }
          }
        }
      }
    }
  }
  use_target(before);
}

TEST_CASE("on every target a reading pass sees each byte") {
  const std::string before = target();
  for (const std::string& name : targets()) {
    use_target(name);
    CAPTURE(name);
    Bytes a(3 * memory_group);
    const MemoryRegions regions = {a.data()};
    MemoryPass* const pass = tables().roof->passes[0];
    for (std::byte& x : a) {
      x = std::byte{1};
      CHECK(pass(regions.data(), 3, 0) != 0);
      x = std::byte{0};
      CHECK(pass(regions.data(), 3, 0) == 0);
    }
  }
  use_target(before);
}

TEST_CASE("passes of any number of threads cover whole groups and change nothing else") {
  for (const MemoryPattern pattern : patterns) {
    CAPTURE(std::string(name_of(pattern)));
    for (const int threads : {1, 2, 3, 7}) {
      for (const std::size_t bytes : {256u, 511u, 5000u, 100000u}) {
        Memory memory(pattern, bytes, 4);
        CHECK(memory_pass(pattern, memory.regions, bytes, threads, 2) > 0);
        for (std::size_t k = 0; k < memory_region_count; ++k) {
          CAPTURE(k);
          CHECK(memory.after[k] == expected(memory, k, bytes / memory_group, std::byte{0}));
        }
      }
    }
  }
}

TEST_CASE("the traffic of a pass") {
  const double expected_traffic[memory_pattern_count] = {1, 2, 3, 2, 2, 1, 5, 7, 11, 5, 4};
  for (const MemoryPattern pattern : patterns)
    CHECK(memory_traffic(pattern) == expected_traffic[static_cast<std::size_t>(pattern)]);
}

TEST_CASE("the roof is that of the best target") {
  const std::string before = target();
  use_target("scalar");
  CHECK(best_tables().target == targets().front());
  use_target(before);
}

TEST_CASE("bad arguments of a pass") {
  Bytes memory(1024);
  std::byte* const p = memory.data();
  const auto pass = [](MemoryPattern pattern, const MemoryRegions& arrays, std::size_t bytes,
                       int threads = 1,
                       int passes = 1) { memory_pass(pattern, arrays, bytes, threads, passes); };
  const auto read = MemoryPattern::read;
  const auto copy = MemoryPattern::copy;
  CHECK_THROWS_WITH_AS(pass(read, {p}, 512, 0), "threads: got 0, wants 1 or more",
                       std::invalid_argument);
  CHECK_THROWS_WITH_AS(pass(read, {p}, 512, 1, -1), "passes: got -1, wants 1 or more",
                       std::invalid_argument);
  CHECK_THROWS_WITH_AS(pass(read, {p}, 255), "bytes: got 255, wants 256 or more",
                       std::invalid_argument);
  const char* const overlap =
      "arrays[1]: got memory that overlaps arrays[0], wants arrays that do not overlap";
  CHECK_THROWS_WITH_AS(pass(copy, {p, p + 511}, 512), overlap, std::invalid_argument);
  CHECK_THROWS_WITH_AS(pass(copy, {p + 511, p}, 512), overlap, std::invalid_argument);
  CHECK_NOTHROW(pass(copy, {p + 512, p}, 512));
  CHECK_NOTHROW(pass(copy, {p, p + 256}, 511));
  CHECK_NOTHROW(pass(read, {p, p}, 512));
}
