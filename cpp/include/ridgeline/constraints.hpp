// Projections of parameters onto sets.
#pragma once

#include "ridgeline/array.hpp"

namespace ridgeline {

/// Weights within [lowest, highest], each on its own.
struct Box {
  double lowest;
  double highest;
};

/// x = the nearest point of the box; NaN stays. Tiles within it are not written.
void project(const Box& box, Arrays params, int threads = 0);

}  // namespace ridgeline
