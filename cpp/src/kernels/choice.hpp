// What the kernels share about choices and results.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ridgeline {

/// Which elements of a stretch are kept: bit `at` + i of `bits` says it for element i. The word
/// after the last must be readable unless `at` is a multiple of 64.
struct Kept {
  const std::uint64_t* bits;
  std::size_t at;
};

/// How a result is stored: streaming stores go past the caches.
enum class Store : std::uint8_t { plain, streaming };

}  // namespace ridgeline
