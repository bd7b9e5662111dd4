// The rules' coefficients: what one step of a parameter multiplies by, one function a rule.
#pragma once

#include "kernels/optimizers.hpp"

namespace ridgeline {

/// What a parameter carries from step to step beside its states, after this step.
struct Progress {
  double product;     ///< NAdam's product of momenta
  double weight_sum;  ///< schedule-free, as in OptimizerParameter
  double largest_rate;
  double weight;  ///< of this step in the sum
};
Progress progress_of(OptimizerKind kind, const OptimizerGroup& group, const OptimizerParameter& p);

/// What a rule's coefficients depend on.
struct RuleStep {
  OptimizerKind kind;
  Convention convention;
  const OptimizerGroup& group;
  std::int64_t k;  ///< the number of this step, from 1
  const Progress& progress;
  std::optional<WeightsAt> move = {};  ///< schedule-free: instead of a step
};

/// The coefficients without what penalties, decay and gradients add.
StepCoefficients coefficients_of(const RuleStep& step);

/// Rules whose weights are a mean of others.
bool is_schedule_free(OptimizerKind kind);

/// Rules whose steps are those of a momentum.
bool has_momentum(OptimizerKind kind);

/// How many learning rates a step is long that follows k equal gradients: b_k = mu b_(k-1) + (1 -
/// tau) g from b_1 = g on. A proximal operator has to be of that step: else the fixed point of both
/// would not be where the gradients of loss and penalty cancel.
double step_length(OptimizerKind kind, Convention convention, const OptimizerGroup& group,
                   std::int64_t k);

/// After how many steps its length has come to the limit, to all digits.
constexpr std::int64_t in_the_long_run = std::int64_t{1} << 60;

}  // namespace ridgeline
