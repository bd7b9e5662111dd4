// The table of passes over memory that each target exports.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ridgeline/roof.hpp"

namespace ridgeline {

/// Over `groups` groups, one or more, of the regions a, b, c, d. `bits` is 0, which the compiler
/// cannot know: what is rewritten is xor'ed with it, what is only read is and'ed with it, or
/// returned.
using MemoryPass = std::uint64_t(std::byte* const* regions, std::size_t groups, std::uint64_t bits);

struct RoofTable {
  MemoryPass* passes[memory_pattern_count];
};

}  // namespace ridgeline
