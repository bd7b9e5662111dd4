// The table of random kernels that each target exports.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ridgeline/random.hpp"
#include "simd/keep_bits.hpp"

namespace ridgeline {

struct RandomKernels {
  /// Elements [first, first + n) of the stream.
  void (*uniform)(Key key, std::uint64_t first, std::size_t n, void* out);
  /// mean + std z in the type that arithmetic on the elements runs in.
  void (*normal)(Key key, std::uint64_t first, std::size_t n, double mean, double std, void* out);
};

using IntegersKernel = void (*)(Key key, std::uint64_t first, std::size_t n, std::uint64_t low,
                                std::uint64_t span, void* out);

struct RandomTable {
  RandomKernels kernels[dtype_count];
  IntegersKernel integers[4];  ///< of 1, 2, 4 and 8 bytes

  /// The seeds that counters [first, first + n) of a stream give.
  void (*derive)(Key key, Stream stream, std::uint64_t first, std::size_t n, std::uint64_t* seeds);

  void (*choose)(const DrawRequest& draw);

  /// The words of `tiles` tiles of 16 counters.
  void (*words)(Key key, Stream stream, std::uint64_t tile, std::size_t tiles, std::uint32_t* out);
};

}  // namespace ridgeline
