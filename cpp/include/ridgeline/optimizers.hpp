// Optimizer steps that regularize in the same pass over memory: each element's data is read once
// and written once, after one reading of the gradients if a norm is needed.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "ridgeline/clipping.hpp"
#include "ridgeline/constraints.hpp"
#include "ridgeline/penalties.hpp"
#include "ridgeline/random.hpp"

namespace ridgeline {

enum class OptimizerKind : std::uint8_t {
#define RIDGELINE_OPTIMIZER(kind, ...) kind,
#include "ridgeline/optimizers.def"
#undef RIDGELINE_OPTIMIZER
};

inline constexpr int max_states = 3;

/// A row of optimizers.def.
struct OptimizerInfo {
  struct State {
    const char* name;
    bool of_squares;  ///< never negative
  };

  const char* name;
  State states[max_states];  ///< those that there are, then ones without a name

  static constexpr State mean(const char* name) { return {name, false}; }
  static constexpr State squares(const char* name) { return {name, true}; }
  /// Finds what the rows call mean and squares.
  static constexpr auto list() {
    return std::to_array<OptimizerInfo>({
#define RIDGELINE_OPTIMIZER(kind, rule, ...) {#kind, {__VA_ARGS__}},
#include "ridgeline/optimizers.def"
#undef RIDGELINE_OPTIMIZER
    });
  }
};
inline constexpr auto optimizer_list = OptimizerInfo::list();
inline constexpr std::size_t optimizer_kind_count = optimizer_list.size();

constexpr const OptimizerInfo& info_of(OptimizerKind kind) {
  return optimizer_list[static_cast<std::size_t>(kind)];
}
/// How many states an optimizer keeps for each element.
constexpr int state_count(OptimizerKind kind) {
  int count = 0;
  while (count < max_states && info_of(kind).states[count].name != nullptr)
    ++count;
  return count;
}
/// Whether a state is one of squares, which is never negative.
constexpr bool state_of_squares(OptimizerKind kind, int state) {
  return info_of(kind).states[state].of_squares;
}

/// Whose rule is followed where libraries differ; docs/optimizers.md lists the differences.
enum class Convention : std::uint8_t { torch, keras, optax };

/// How a penalty enters: its gradient joins the gradient, or its proximal operator follows the
/// step, with the learning rate as its step, or with that of each element.
enum class Prox : std::uint8_t { none, plain, preconditioned };

/// How states are stored. bfloat16 is rounded randomly. dynamic8 is a byte each and the largest
/// magnitude of each block of 256 (Dettmers et al. 2022).
enum class StateType : std::uint8_t { compute, bfloat16, dynamic8 };
inline constexpr std::size_t code_block = 256;

/// The hyperparameters of a group of parameters. Each optimizer reads those of its rule.
struct OptimizerGroup {
  double lr = 0;
  double weight_decay = 0;
  /// weight_decay w joins the clipped gradient; else w (1 - lr decay), or w (1 - decay).
  bool coupled_decay = false;
  bool lr_independent_decay = false;
  double beta1 = 0, beta2 = 0;  ///< RMSprop's alpha is beta2
  double eps = 0;
  double momentum = 0, dampening = 0;
  bool nesterov = false;
  double lr_decay = 0;
  double momentum_decay = 0;
  double beta = 0, l1 = 0, l2 = 0;  ///< FTRL
  /// AdEMAMix: the slow mean's decay and weight, and after how many steps both are reached (0: from
  /// the first on): alpha linearly from 0, beta3 from beta1, linearly in its half-life.
  double beta3 = 0, alpha = 0;
  std::int64_t alpha_warmup = 0, beta3_warmup = 0;
  /// Schedule-free: the learning rate grows linearly over the first `warmup_steps`; step k counts
  /// k^r (the largest rate so far)^weight_lr_power in the mean of the weights.
  std::int64_t warmup_steps = 0;
  double r = 0, weight_lr_power = 2;
  Penalties penalties = {};
  Prox prox = Prox::none;
  Box box = {-__builtin_inf(), __builtin_inf()};
};

/// What belongs to one parameter beside its array. Memory that is not used is null; all of it has
/// the parameter's elements in C order. The compute type is float64 for float64, else float32.
struct OptimizerParameter {
  std::size_t group = 0;
  std::size_t place = 0;     ///< among the arrays that the group's penalties have weights for
  std::uint64_t number = 0;  ///< random bits differ for parameters of different numbers
  double decay = 1;          ///< multiplies the group's weight decay
  std::int64_t steps = 0;    ///< done so far; a step adds 1
  double product = 1;        ///< of NAdam's momenta so far
  double weight_sum = 0;     ///< schedule-free: of the steps in the mean of the weights
  double largest_rate = 0;   ///< schedule-free: the largest learning rate so far

  StateType state_type = StateType::compute;
  void* states[max_states] = {};
  float* scales[max_states] = {};  ///< dynamic8: one a block
  float* master = nullptr;
  void* compensation = nullptr;  ///< what rounding the parameter lost, in its own type
  void* average = nullptr;       ///< in the compute type
  const void* sum = nullptr;     ///< of earlier gradients, scaled, in the compute type
  const std::uint64_t* mask = nullptr;
};

struct StepOptions {
  OptimizerKind kind = OptimizerKind::sgd;
  Convention convention = Convention::torch;

  double scale = 1;  ///< of the gradients, before all else
  /// Of how many gradients the mean is taken: `grads` and the sums of earlier ones in `state`. One
  /// without memory stands for none.
  std::int64_t accumulated = 1;
  bool sums = false;                ///< whether there may be such sums
  bool clip_after_penalty = false;  ///< clip the sum with the penalties' gradients
  enum class Clip : std::uint8_t { none, global_norm, norm, value } clip = Clip::none;
  double max_norm = 0, ord = 2;
  double low = 0, high = 0;
  std::optional<double> norm;  ///< of scaled gradients, where it is known already
  NonFinite on_nonfinite = NonFinite::propagate;  ///< not zero
  std::optional<double> max_update_rms;
  /// Leave out the elements of an update that do not go against their gradient, and scale the
  /// others of an array by 1 / max(their share of it, 0.001) (Liang et al. 2024).
  bool cautious = false;

  double average_decay = 0;
  bool stochastic_rounding = false;  ///< of the 16-bit parameters
  Key key{};
  std::uint64_t step = 0;  ///< random bits differ between steps
  bool checked = false;    ///< whether a call before found that no memory overlaps
  /// check: throw what a step would throw before it writes, and change nothing. norm: that alone.
  enum class Only : std::uint8_t { all, check, norm } only = Only::all;
  int threads = 0;
};

struct StepReport {
  std::optional<double> norm;   ///< of all scaled gradients, if one was taken
  std::vector<double> factors;  ///< by clipping: one, or with Clip::norm one an array
  bool skipped = false;
  std::ptrdiff_t first_nonfinite = -1;
  double penalty = 0;  ///< before the step
};

/// Throws if parameters share memory.
void check_parameters(Arrays params);

/// One step. `grads` have the sizes of `params`, and any dtypes. Throws NonFiniteError, with
/// nothing changed, if asked for.
StepReport optimizer_step(const StepOptions& options, std::span<const OptimizerGroup> groups,
                          std::span<OptimizerParameter> state, Arrays params, Arrays grads);

/// Where the weights of a schedule-free rule are: at y, where gradients are taken, or at their mean
/// x, which is evaluated. y = (1 - b) z + b x; b is beta1, for SGD the momentum.
enum class WeightsAt : std::uint8_t { training, evaluation };

/// Moves the weights of a schedule-free rule in place, from the other place. States stay; `options`
/// are those of a step.
void move_weights(WeightsAt to, const StepOptions& options, std::span<const OptimizerGroup> groups,
                  std::span<const OptimizerParameter> state, Arrays params);

/// sums += scale grads, or sums = scale grads if they are the first; sums in the compute type.
void accumulate(Arrays grads, Arrays sums, bool first, double scale = 1, int threads = 0);

/// Writes the blocks' codes and scales of x, which is contiguous float32; and back.
void encode_states(const Array& x, bool squares, std::uint8_t* codes, float* scales,
                   int threads = 0);
void decode_states(const std::uint8_t* codes, const float* scales, bool squares, const Array& x,
                   int threads = 0);

}  // namespace ridgeline
