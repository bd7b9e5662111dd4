#include "ridgeline/constraints.hpp"

#include <cmath>

#include "kernels/clipping.hpp"
#include "ops/checks.hpp"
#include "ops/work.hpp"
#include "runtime/dispatch.hpp"

namespace ridgeline {

// The projection on a box is the clamp of the clipping family.
void project(const Box& box, Arrays params, int threads) {
  const FloatEnvironment environment;
  check_box(box);
  check_disjoint("params", params);
  const ClippingTable& table = *tables().clipping;
  map_each(params, threads, [&](const Array& array, const Run& run) {
    const auto clamp = table.kernels[static_cast<std::size_t>(array.dtype)].clamp;
    map_in_place(array, run,
                 [&](void* x, std::size_t n) { return clamp(x, n, box.lowest, box.highest); });
  });
}

}  // namespace ridgeline
