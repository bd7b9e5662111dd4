#include <ridgeline/clipping.hpp>
#include <ridgeline/penalties.hpp>
#include <ridgeline/runtime.hpp>

#include <cstdio>
#include <vector>

int main() {
  std::vector<float> weights = {3, -4, 0.25};
  const ridgeline::Array array(weights.data(), ridgeline::DType::float32, 3);
  const ridgeline::Arrays arrays(&array, 1);
  const ridgeline::Penalty lasso{ridgeline::PenaltyKind::l1, 2};

  std::printf("value %g\n", ridgeline::penalty_value({&lasso, 1}, arrays));
  ridgeline::penalty_prox({&lasso, 1}, arrays, arrays, 0.25);
  std::printf("prox %g %g %g\n", weights[0], weights[1], weights[2]);
  std::printf("norm %g\n", ridgeline::clip_by_global_norm(arrays, 1, 1));
  std::printf("clipped %g %g %g\n", weights[0], weights[1], weights[2]);
  try {
    ridgeline::clip_by_value(arrays, 2, 1);
  } catch (const ridgeline::ArgumentError& error) {
    std::printf("%s\n", error.what());
  }
  std::printf("last target %s\n", ridgeline::targets().back().c_str());
}
