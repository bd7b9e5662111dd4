// The memory roof: how fast this machine moves bytes when the arithmetic is trivial.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace ridgeline {

/// What a pass does to each byte of its regions a, b, c, d. Arithmetic is one bitwise operation
/// that changes nothing, so that a pass may run over any data; only copy, stream and write
/// overwrite b.
enum class MemoryPattern : std::uint8_t {
  read,     ///< a
  rewrite,  ///< a = f(a)
  add,      ///< a = a + f(b)
  copy,     ///< b = a, plain stores
  stream,   ///< b = a, non-temporal stores where the CPU has them
  write,    ///< b = a constant, non-temporal stores where the CPU has them
  // steps of optimizers
  momentum,     ///< b = f(a, b), c = f(c)
  adam,         ///< and d = f(d)
  adam_wide,    ///< c, d of elements twice as large
  adam_narrow,  ///< half as large
  adam_bytes,   ///< a quarter
};
inline constexpr std::size_t memory_pattern_count = 11;
inline constexpr std::size_t memory_region_count = 4;

/// How a pass uses a region.
struct RegionUse {
  double size = 0;  ///< its bytes for each byte of a; 0: it is not touched
  bool reads = false;
  bool writes = false;
};

constexpr const char* name_of(MemoryPattern pattern) {
  constexpr const char* names[memory_pattern_count] = {
      "read",     "rewrite", "add",       "copy",        "stream",    "write",
      "momentum", "adam",    "adam_wide", "adam_narrow", "adam_bytes"};
  return names[static_cast<std::size_t>(pattern)];
}

constexpr std::array<RegionUse, memory_region_count> regions_of(MemoryPattern pattern) {
  constexpr RegionUse read{1, true, false};
  constexpr RegionUse write{1, false, true};
  constexpr RegionUse rewrite{1, true, true};
  const auto step = [&](double c, double d) {
    return std::array{read, rewrite, RegionUse{c, true, true}, RegionUse{d, d > 0, d > 0}};
  };
  switch (pattern) {
  case MemoryPattern::read:
    return {read};
  case MemoryPattern::rewrite:
    return {rewrite};
  case MemoryPattern::add:
    return {rewrite, read};
  case MemoryPattern::copy:
  case MemoryPattern::stream:
    return {read, write};
  case MemoryPattern::write:
    return {RegionUse{}, write};
  case MemoryPattern::momentum:
    return step(1, 0);
  case MemoryPattern::adam:
    return step(1, 1);
  case MemoryPattern::adam_wide:
    return step(2, 2);
  case MemoryPattern::adam_narrow:
    return step(0.5, 0.5);
  case MemoryPattern::adam_bytes:
    return step(0.25, 0.25);
  }
  return {};
}

/// Bytes moved for each byte of a; plain stores to another region are counted once, although the
/// cache reads the line first.
constexpr double memory_traffic(MemoryPattern pattern) {
  double bytes = 0;
  for (const RegionUse& use : regions_of(pattern))
    bytes += use.size * ((use.reads ? 1 : 0) + (use.writes ? 1 : 0));
  return bytes;
}

/// A pass covers whole groups of this number of bytes of a.
inline constexpr std::size_t memory_group = 256;

/// a, b, c, d. They need no alignment, must not overlap, and those that a pattern does not use may
/// be null.
using MemoryRegions = std::array<std::byte*, memory_region_count>;

/// Runs `passes` passes over the first `bytes` of a, rounded down to whole groups, and over as much
/// of the others as regions_of says; returns the seconds of one. The bytes are shared out evenly
/// among `threads` threads, however few there are: one team is started for each pass, as for each
/// call of the library. Only in a forked child, inside another parallel region or without OpenMP it
/// is one thread. The roof is the machine's: passes run on the best target of this CPU, whichever
/// is in use.
double memory_pass(MemoryPattern pattern, const MemoryRegions& arrays, std::size_t bytes,
                   int threads, int passes);

}  // namespace ridgeline
