// What a step needs to know before it begins: checks, coefficients, and how each parameter is met.
#include <cmath>

#include "ops/checks.hpp"
#include "ops/optimizers/step.hpp"

namespace ridgeline {
namespace {

void check_lengths(const Plan& plan, OptimizerKind kind, Convention convention) {
  const OptimizerGroup& group = *plan.group;
  if (has_momentum(kind)) {
    if (!(group.momentum < 1)) {
      bad_value("momentum", "got " + text(group.momentum) +
                                " with a prox, wants less than 1: its steps would grow for ever");
    }
    if (group.dampening > 1) {
      bad_value("dampening", "got " + text(group.dampening) + " with a prox, wants at most 1");
    }
  }
  if (plan.elastic || group.prox != Prox::plain) return;
  const double longest = group.lr * std::max(step_length(kind, convention, group, 1),
                                             step_length(kind, convention, group, in_the_long_run));
  const double rest = longest / (1 + longest * plan.proximal.ridge);
  check_proximal_step("lr", group.lr, longest, rest, *plan.proximal.other);
}

void prepare_plan(Plan& plan, const StepOptions& options, const PenaltiesTable& table) {
  const OptimizerGroup& group = *plan.group;
  for (const Penalty& p : group.penalties) {
    if (is_nothing(p)) continue;
    if (p.kind == PenaltyKind::l2) {
      plan.l2 += p.strength;
    } else if (p.kind == PenaltyKind::l1 || p.kind == PenaltyKind::elastic_net) {
      plan.l1 += p.strength;
      plan.l2 += p.shape;
    } else {
      plan.elastic = false;
    }
  }
  prepare(plan.gradients, table, group.penalties, 0);
  if (!plan.penalized()) return;
  const bool closed_form = options.kind == OptimizerKind::ftrl;
  plan.by_gradient = closed_form ? !plan.elastic : group.prox == Prox::none;
  if (plan.by_gradient) {
    for (const Penalty& p : group.penalties) {
      if (p.kind == PenaltyKind::l0)
        bad_type("penalty", "L0 has no gradient; use prox='plain' or 'preconditioned'");
    }
  } else if (!closed_form) {
    if (!plan.elastic) plan.proximal = proximal_terms(group.penalties);
    check_lengths(plan, options.kind, options.convention);
  }
}

/// A rule whose weights are means of others cannot hold these on constraints.
void check_schedule_free(const OptimizerGroup& group, OptimizerKind kind) {
  const bool adaptive = kind == OptimizerKind::schedule_free_adamw;
  const double beta = adaptive ? group.beta1 : group.momentum;
  if (!(beta > 0 && beta < 1)) {
    bad_value(adaptive ? "beta1" : "momentum", "got " + text(beta) +
                                                   " with a schedule-free rule, wants a number "
                                                   "between 0 and 1");
  }
  if (group.lr_independent_decay)
    bad_value("lr_independent_decay", "got true with a schedule-free rule, wants false: its decay "
                                      "joins the gradient");
  if (group.prox != Prox::none && !group.penalties.empty()) {
    bad_value("prox", "got an operator with a schedule-free rule, wants 'none': the weights are "
                      "means, which do not stay where it puts them");
  }
  if (group.box.lowest != -infinite || group.box.highest != infinite) {
    bad_value("constraint", "got one with a schedule-free rule, wants None: the weights are means, "
                            "which do not stay within it");
  }
}

void check_group(const OptimizerGroup& group, OptimizerKind kind, Arrays params) {
  check_non_negative("lr", group.lr, false);
  if (kind == OptimizerKind::ftrl && group.lr == 0)
    bad_value("lr", "got 0, wants a number above 0: FTRL divides by it");
  if (is_schedule_free(kind)) check_schedule_free(group, kind);
  check_non_negative("weight_decay", group.weight_decay, false);
  if (group.lr_independent_decay && group.coupled_decay)
    bad_value("lr_independent_decay", "got true with coupled decay, wants decoupled decay");
  check_non_negative("eps", group.eps, false);
  for (const Penalty& p : group.penalties) {
    Penalty alone = p;
    if (info_of(p.kind).weighted()) {  // its weights are compared one by one
      alone.kind = PenaltyKind::l1;
      alone.weights = {};
    }
    check_penalties({&alone, 1}, params);
  }
  check_box(group.box);
}

/// Adds the penalties that fit into the kernels to a rule's coefficients. `length` is that of a
/// proximal step.
void add_elastic(StepCoefficients& c, const Plan& plan, OptimizerKind kind, double length) {
  if (kind == OptimizerKind::ftrl) {
    c.l1 += plan.l1;
    c.l2 += plan.l2;
  } else if (plan.by_gradient) {
    c.gradient_l1 = plan.l1;
    c.gradient_l2 = plan.l2;
  } else {
    c.prox_l1 = plan.l1;
    c.prox_l2 = plan.l2;
    c.threshold = length * plan.l1;
    c.shrink = 1 / (1 + length * plan.l2);
    c.preconditioned = plan.group->prox == Prox::preconditioned;
  }
}

}  // namespace

void Step::check() const {
  if (state_.size() != params_.size() || grads_.size() != params_.size()) {
    bad_value("grads", "got " + std::to_string(grads_.size()) + " arrays, wants " +
                           std::to_string(params_.size()) + " as in params");
  }
  for (std::size_t k = 0; k < params_.size(); ++k) {
    const auto place = static_cast<std::ptrdiff_t>(k);
    if (grads_[k].size != params_[k].size) {
      bad_value("grads",
                "got " + std::to_string(grads_[k].size) + " elements, wants " +
                    std::to_string(params_[k].size),
                place);
    }
  }
  check_non_negative("loss_scale", options_.scale, false);
  if (options_.clip == StepOptions::Clip::global_norm || options_.clip == StepOptions::Clip::norm) {
    check_non_negative("max_norm", options_.max_norm, true);
    check_ord(options_.ord);
  }
  if (options_.max_update_rms) {
    check_non_negative("max_update_rms", *options_.max_update_rms, true);
  }
  if (measures()) {
    const char* name = options_.cautious ? "cautious" : "max_update_rms";
    if (options_.kind == OptimizerKind::ftrl)
      bad_value(name, "FTRL has no update to scale, only new weights");
    if (is_schedule_free(options_.kind))
      bad_value(name, "a schedule-free rule has no update to scale, only a mean");
  }
  if (!options_.checked) check_disjoint("params", params_, "grads", grads_);
}

void Step::prepare_groups(std::span<const OptimizerGroup> groups) {
  for (const OptimizerGroup& group : groups) {
    check_group(group, options_.kind, params_);
    plans_.push_back(std::make_unique<Plan>(group));
    prepare_plan(*plans_.back(), options_, *tables_.penalties);
    values_ = std::max(values_, group.penalties.size());
    clips_sum_ = clips_sum_ || (options_.clip_after_penalty && plans_.back()->by_gradient);
  }
  clips_sum_ = clips_sum_ && options_.clip != StepOptions::Clip::none;
  composed_ = clips_sum_ || options_.sums;
  value_totals_.resize(values_ * work_.blocks());
  value_sums_.resize(values_ * plans_.size());
}

void Step::check_penalty_weights(std::size_t array) const {
  const OptimizerParameter& p = state_[array];
  for (const Penalty& penalty : plans_[p.group]->group->penalties) {
    if (!info_of(penalty.kind).weighted()) continue;
    if (p.place >= penalty.weights.size() || penalty.weights[p.place].size != params_[array].size ||
        penalty.weights[p.place].dtype != params_[array].dtype) {
      bad_value("weights", "got other arrays than params has", static_cast<std::ptrdiff_t>(array));
    }
  }
}

Numbers Step::numbers_for(const Plan& plan, const OptimizerParameter& p) const {
  const OptimizerGroup& group = *plan.group;
  const OptimizerKind kind = options_.kind;
  const double length = group.lr * step_length(kind, options_.convention, group, p.steps + 1);
  Numbers numbers{progress_of(kind, group, p)};
  numbers.step =
      coefficients_of({kind, options_.convention, group, p.steps + 1, numbers.progress, move_});
  StepCoefficients& c = numbers.step;
  if (has_momentum(kind)) c.lr = length;
  if (plan.elastic && plan.penalized()) add_elastic(c, plan, kind, length);
  c.lowest = group.box.lowest;
  c.highest = group.box.highest;
  if (plan.general_prox()) {
    const Penalty& other = *plan.proximal.other;
    const double rest = length / (1 + length * plan.proximal.ridge);
    const auto make = tables_.penalties->coefficients;
    numbers.ridge = make(PenaltyKind::l2, plan.proximal.ridge, 0, length);
    numbers.other = make(other.kind, other.strength, other.shape, rest);
  }
  return numbers;
}

// clang-format off
/// | path   | parameter                   | gradient  | states               | also           |
/// |--------|-----------------------------|-----------|----------------------|----------------|
/// | direct | contiguous float32, float64 | the same  | none or compute type | no average     |
/// | narrow | computes in float32         | any       | bfloat16             | a regular step |
/// | tiled  | any                         | any       | any                  |                |
// clang-format on
Path Step::path_of(std::size_t array, const Plan& plan, bool regular) const {
  const Array& w = params_[array];
  const Array& g = grads_[array];
  const StateType type = state_[array].state_type;
  const bool stateless = state_count(options_.kind) == 0;
  if (w.contiguous() && g.contiguous() && g.dtype == w.dtype && item_size(w.dtype) != 2 &&
      !composed_ && (type == StateType::compute || stateless) && state_[array].average == nullptr &&
      plan.elastic) {
    return Path::direct;
  }
  const bool narrow = type == StateType::bfloat16 && !stateless &&
                      compute_dtype(w.dtype) == DType::float32 && regular;
  return narrow ? Path::narrow : Path::tiled;
}

Entry Step::entry_for(std::size_t array, Key step_key) const {
  OptimizerParameter& p = state_[array];
  const Plan& plan = *plans_[p.group];
  const StepCoefficients& c = numbers_.back().step;
  const double decay = plan.group->weight_decay * p.decay;
  const bool joins = is_schedule_free(options_.kind);
  const double coupled = !joins && plan.group->coupled_decay ? decay : 0;
  const bool independent = plan.group->lr_independent_decay;
  if (independent && !(decay <= 1)) {
    bad_value("weight_decay",
              "got " + text(decay) +
                  " with lr_independent_decay, wants at most 1: weights are multiplied by 1 - "
                  "weight_decay, with what the decay_filter makes of it",
              static_cast<std::ptrdiff_t>(array));
  }
  const double rate = independent ? 1 : plan.group->lr;
  const double keep = joins || plan.group->coupled_decay ? 1 : 1 - rate * decay;
  const bool random = options_.stochastic_rounding || p.state_type == StateType::bfloat16;
  // Whether the gradient is only scaled, and all elements are stepped alike.
  const bool regular = (clips_sum_ || (c.gradient_l1 == 0 && c.gradient_l2 == 0)) && coupled == 0 &&
                       !c.preconditioned && options_.clip != StepOptions::Clip::value &&
                       p.mask == nullptr && !plan.general_prox() && !options_.cautious;
  const bool bare =
      c.threshold == 0 && c.shrink == 1 && c.lowest == -infinite && c.highest == infinite;
  const Path path = path_of(array, plan, regular);
  const StepKernels& own = kernels(compute_dtype(params_[array].dtype));
  return {&plan,
          &p,
          numbers_.size() - 1,
          keep,
          coupled,
          joins ? decay : 0,
          random ? step_key.fold_in(p.number) : Key{},
          path,
          !regular               ? own.full
          : path == Path::narrow ? own.narrow[bare ? 0 : 1]
          : bare                 ? own.plain
                                 : own.proximal};
}

void Step::prepare_parameters() {
  entries_.reserve(params_.size());
  const Key step_key = options_.key.fold_in(options_.step);
  const OptimizerParameter* last = nullptr;  // most parameters have the numbers of the one before
  for (std::size_t k = 0; k < params_.size(); ++k) {
    const OptimizerParameter& p = state_[k];
    const Plan& plan = *plans_[p.group];
    check_penalty_weights(k);
    if (last == nullptr || last->group != p.group || last->steps != p.steps ||
        last->product != p.product || last->weight_sum != p.weight_sum ||
        last->largest_rate != p.largest_rate) {
      numbers_.push_back(numbers_for(plan, p));
      last = &p;
    }
    entries_.push_back(entry_for(k, step_key));
  }
}

Step::Step(const StepOptions& options, std::span<const OptimizerGroup> groups,
           std::span<OptimizerParameter> state, Arrays params, Arrays grads,
           std::optional<WeightsAt> move)
    : options_(options), state_(state), params_(params), grads_(grads), work_(params),
      tables_(tables()), move_(move) {
  check();
  prepare_groups(groups);
  prepare_parameters();
}

}  // namespace ridgeline
