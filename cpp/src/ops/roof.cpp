#include "ridgeline/roof.hpp"

#include <chrono>
#include <functional>
#include <limits>

#include "kernels/roof.hpp"
#include "ops/checks.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/parallel.hpp"

namespace ridgeline {
namespace {

/// Work that is worth a team of any size.
constexpr std::int64_t much = std::numeric_limits<std::int64_t>::max();

using Uses = std::array<RegionUse, memory_region_count>;

void check_count(const char* name, int n) {
  if (n < 1) bad_value(name, "got " + std::to_string(n) + ", wants 1 or more");
}

std::size_t group_bytes(const RegionUse& use) {
  return static_cast<std::size_t>(static_cast<double>(memory_group) * use.size);
}

/// No region shares memory with another.
void check_regions(const MemoryRegions& arrays, const Uses& uses, std::size_t groups) {
  const auto before = [&](std::size_t i, std::size_t k) {
    return std::less_equal<>{}(arrays[i] + groups * group_bytes(uses[i]), arrays[k]);
  };
  for (std::size_t k = 0; k < arrays.size(); ++k) {
    for (std::size_t i = 0; i < k; ++i) {
      const bool used = uses[i].size > 0 && uses[k].size > 0;
      if (!used || before(i, k) || before(k, i)) continue;
      throw ArgumentError(ArgumentError::Kind::value, "arrays", static_cast<std::ptrdiff_t>(k),
                          "got memory that overlaps {}, wants arrays that do not overlap", "arrays",
                          static_cast<std::ptrdiff_t>(i));
    }
  }
}

}  // namespace

double memory_pass(MemoryPattern pattern, const MemoryRegions& arrays, std::size_t bytes,
                   int threads, int passes) {
  check_count("threads", threads);
  check_count("passes", passes);
  const std::size_t groups = bytes / memory_group;
  if (groups == 0) {
    const std::string least = std::to_string(memory_group);
    bad_value("bytes", "got " + std::to_string(bytes) + ", wants " + least + " or more");
  }
  const Uses uses = regions_of(pattern);
  check_regions(arrays, uses, groups);
  MemoryPass* const pass = best_tables().roof->passes[static_cast<std::size_t>(pattern)];

  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  for (int i = 0; i < passes; ++i) {
    parallel(much, threads, [&](Team team) {
      const auto share = [&](int rank) {
        return groups * static_cast<std::size_t>(rank) / static_cast<std::size_t>(team.size);
      };
      const std::size_t begin = share(team.rank);
      const std::size_t end = share(team.rank + 1);
      if (begin == end) return;
      MemoryRegions own = arrays;
      for (std::size_t k = 0; k < own.size(); ++k)
        own[k] += begin * group_bytes(uses[k]);
      pass(own.data(), end - begin, 0);
    });
  }
  return std::chrono::duration<double>(Clock::now() - start).count() / passes;
}

}  // namespace ridgeline
