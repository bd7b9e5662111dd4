// Which random bits a rounding takes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ridgeline/random.hpp"

namespace ridgeline {

/// Elements that one tile of Philox has 16 bits for.
inline constexpr std::size_t rounding_tile = 128;

/// Random bits for rounding, from element `first` on, the first of a tile. Those for one purpose
/// are independent of those for another.
struct Rounding {
  Key key;
  std::uint32_t purpose;
  std::uint64_t first;
};

}  // namespace ridgeline
