// Times of passes over memory, and what is made of times.
#pragma once

#include <cstddef>
#include <vector>

#include "ridgeline/roof.hpp"

namespace ridgeline::bench {

using Pattern = MemoryPattern;

/// Times passes over the first `bytes` of a, and of the others, for about ten milliseconds, at
/// least three times, and appends the seconds of each pass.
void sample_passes(Pattern pattern, const MemoryRegions& arrays, std::size_t bytes, int threads,
                   std::vector<double>& seconds);

double median(std::vector<double> values);

}  // namespace ridgeline::bench
