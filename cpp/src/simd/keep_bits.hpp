// Keep bits, requests to draw them, and how results are stored.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ridgeline/random.hpp"

namespace ridgeline {

/// Elements whose choice one tile of Philox decides, a byte each.
inline constexpr std::size_t choice_tile = 256;

/// To be drawn: whether elements [choice_tile tile, + choice_tile tiles) are kept, a bit each.
/// Element i is dropped if its 32 random bits are below `threshold`: its byte of the stream
/// `choice` and, where that equals the threshold's, 24 bits of the stream `tie`.
struct DrawRequest {
  Key key{};
  std::uint64_t tile = 0;
  std::size_t tiles = 0;
  std::uint32_t threshold = 0;
  std::uint64_t* bits = nullptr;
};

/// Which elements of a tile are kept: bit `at` + i of `bits` says it for element i. The word
/// after the last must be readable unless `at` is a multiple of 64.
struct KeepBits {
  const std::uint64_t* bits;
  std::size_t at;
};

/// How a result is stored: streaming stores go past the caches.
enum class Store : std::uint8_t { plain, streaming };

}  // namespace ridgeline
