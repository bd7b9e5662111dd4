// The table of optimizer kernels that each target exports.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/rounding.hpp"
#include "ridgeline/optimizers.hpp"

namespace ridgeline {

/// Coefficients of one step, in float64 so that each is rounded once. The defaults are neutral.
struct StepCoefficients {
  // The gradient: g' = clamp(g scale, low, high) + l1 sign(w) + l2 w.
  double scale = 1, low = -__builtin_inf(), high = __builtin_inf();
  double gradient_l1 = 0, gradient_l2 = 0;

  double keep = 1;         ///< decoupled decay: w *= keep first
  double rate = 0;         ///< the learning rate of this step; no kernel reads it
  double lr = 0;           ///< of the preconditioned proximal step
  double step = 0;         ///< what the update is multiplied by
  double second_step = 0;  ///< the same for a second term: NAdam's gradient, AdEMAMix's slow mean
  double decay = 0;        ///< schedule-free: decay w joins the direction
  double decay1 = 0, gain1 = 0, decay2 = 0, gain2 = 0;  ///< of the first and second state
  /// A mean m of gradients: m += mean_gain (g - m), or m = g + mean_gain (g - m).
  double mean_gain = 0;
  bool mean_from_new = false;
  double root = 1;  ///< what a square root is multiplied by: the bias correction of Adam
  double eps = 0, eps_inside = 0;  ///< outside and inside the square root
  double largest_scale = 1;        ///< AMSGrad: what is compared with the largest so far
  double momentum = 0;             ///< RMSprop; SGD's Nesterov term
  double nesterov_gradient = 1;
  double l1 = 0, l2 = 0, beta = 0;  ///< FTRL
  bool nesterov = false;
  bool cautious = false;  ///< an update that does not go against its gradient is left out

  // After the step: the proximal operator of the elastic net, then the box.
  double threshold = 0;  ///< t l1
  double shrink = 1;     ///< 1 / (1 + t l2)
  double prox_l1 = 0, prox_l2 = 0;
  bool preconditioned = false;  ///< t is lr / denominator of each element instead
  double lowest = -__builtin_inf(), highest = __builtin_inf();
};

/// The memory that a step meets, of the compute type.
struct StepOperands {
  void* w;
  const void* g;
  void* states[3];
  /// Bit i: whether element i is updated at all. For all of the n elements in whole words.
  const std::uint64_t* mask;
  void* steps;                         ///< null, or where lr / denominator of each element goes
  const Rounding* rounding = nullptr;  ///< of states of bfloat16
};

struct StepKernels {
  /// The scale of the gradient, decay and the update alone.
  void (*plain)(const StepOperands&, std::size_t n, const StepCoefficients&);
  /// Also the plain proximal operator and the box.
  void (*proximal)(const StepOperands&, std::size_t n, const StepCoefficients&);
  /// Both of these with states of bfloat16; null for float64.
  void (*narrow[2])(const StepOperands&, std::size_t n, const StepCoefficients&);
  /// All of it.
  void (*full)(const StepOperands&, std::size_t n, const StepCoefficients&);
  /// totals[b] = the sum over block b of the squares by which `full` without decay, prox and box
  /// would change w, agreed[b] = how many of its elements cautious steps update; nothing is
  /// written.
  void (*squares)(const StepOperands&, std::size_t n, const StepCoefficients&, double* totals,
                  double* agreed);
};

struct OptimizersTable {
  StepKernels steps[optimizer_kind_count][2];  ///< float32, float64

  /// out = clamp(g scale, low, high); from any type to float32 or float64.
  void (*prepare[dtype_count][2])(const void* g, std::size_t n, double scale, double low,
                                  double high, void* out);
  /// sum += g scale, or sum = g scale if it is the first; from any type to float32 or float64.
  void (*accumulate[dtype_count][2])(const void* g, std::size_t n, bool first, double scale,
                                     void* sum);
  /// mean += (1 - decay)(w - mean); float32, float64.
  void (*average[2])(const void* w, std::size_t n, double decay, void* mean);
  double (*log)(double x);
  /// x = saved where the mask is 0; for elements of 2, 4 and 8 bytes.
  void (*restore[3])(void* x, const void* saved, std::size_t n, const std::uint64_t* mask);
};

}  // namespace ridgeline
