#include "ops/slices.hpp"

#include <functional>
#include <numeric>

namespace ridgeline {

std::vector<Axis> merged(std::span<const std::int64_t> shape, std::span<const std::int64_t> block) {
  std::vector<Axis> axes;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const Axis next{shape[i], std::min(block[i], std::max<std::int64_t>(shape[i], 1))};
    const bool whole = next.block == next.extent;
    if (!axes.empty() && (whole || (axes.back().block == 1 && next.block == 1))) {
      axes.back().extent *= next.extent;
      axes.back().block *= whole ? next.extent : 1;
    } else {
      axes.push_back(next);
    }
  }
  if (axes.empty()) axes.push_back({1, 1});
  return axes;
}

std::int64_t first_block(std::span<const Axis> axes, std::int64_t row) {
  std::int64_t index = 0;
  std::int64_t step = axes.back().blocks();
  for (std::size_t a = axes.size() - 1; a-- > 0;) {
    index += row % axes[a].extent / axes[a].block * step;
    row /= axes[a].extent;
    step *= axes[a].blocks();
  }
  return index;
}

std::int64_t product(std::span<const std::int64_t> values) {
  return std::accumulate(values.begin(), values.end(), std::int64_t{1}, std::multiplies<>());
}

}  // namespace ridgeline
