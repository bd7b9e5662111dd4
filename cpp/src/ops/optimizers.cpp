#include "ridgeline/optimizers.hpp"

#include <cmath>
#include <limits>

#include "kernels/optimizers.hpp"
#include "kernels/storage.hpp"
#include "ops/checks.hpp"
#include "ops/norm.hpp"
#include "ops/penalty_terms.hpp"
#include "ops/work.hpp"
#include "runtime/dispatch.hpp"

namespace ridgeline {
namespace {

constexpr double infinite = std::numeric_limits<double>::infinity();

DType compute_dtype(DType dtype) {
  return dtype == DType::float64 ? DType::float64 : DType::float32;
}
std::size_t index_of(DType dtype) { return static_cast<std::size_t>(dtype); }

/// Whether a parameter has earlier gradients alone.
bool is_missing(const Array& grad) { return grad.size > 0 && grad.data == nullptr; }

/// A number as the sum of two, with twice the digits of one.
struct Pair {
  double high, low;
};

/// The product to nearly twice the digits (Dekker 1971), by an exact multiply-add.
Pair operator*(Pair a, Pair b) {
  const double high = a.high * b.high;
  const double low = std::fma(a.high, b.high, -high) + (a.high * b.low + a.low * b.high);
  const double sum = high + low;
  return {sum, low - (sum - high)};
}

/// x^n by squaring, rounded once: the same bits on every machine, which libm does not promise, and
/// 1 - x^n without the errors of many roundings.
double integer_power(double x, std::int64_t n) {
  Pair result{1, 0};
  Pair square{x, 0};
  for (; n > 0; n /= 2) {
    if (n % 2 == 1) result = result * square;
    square = square * square;
  }
  return result.high + result.low;
}

// ---- what a group is about

/// A group made ready for one step.
struct Plan {
  const OptimizerGroup* group;
  bool elastic = true;  ///< all penalties are l1 or l2: they fit into the kernels
  double l1 = 0, l2 = 0;
  bool by_gradient = false;  ///< the penalties' gradients join the gradient
  PreparedList gradients;    ///< for these, and for the values
  ProximalTerms proximal;    ///< of others than l1 and l2 that enter by their proximal operator

  explicit Plan(const OptimizerGroup& g) : group(&g), gradients(g.penalties.size()) {}
  bool penalized() const { return !group->penalties.empty(); }
};

/// Rules whose steps are those of a momentum.
bool has_momentum(OptimizerKind kind) {
  return kind == OptimizerKind::momentum || kind == OptimizerKind::rmsprop_momentum ||
         kind == OptimizerKind::rmsprop_centered_momentum;
}

/// How many learning rates a step is long that follows k equal gradients: b_k = mu b_(k-1) + (1 -
/// tau) g from b_1 = g on. A proximal operator has to be of that step: else the fixed point of both
/// would not be where the gradients of loss and penalty cancel.
double step_length(OptimizerKind kind, Convention convention, const OptimizerGroup& group,
                   std::int64_t k) {
  if (!has_momentum(kind)) return 1;
  const bool dampened = kind == OptimizerKind::momentum && convention != Convention::keras;
  const double limit = (dampened ? 1 - group.dampening : 1) / (1 - group.momentum);
  const double now = limit + integer_power(group.momentum, k - 1) * (1 - limit);
  return kind == OptimizerKind::momentum && group.nesterov ? 1 + group.momentum * now : now;
}

/// After how many steps its length has come to the limit, to all digits.
constexpr std::int64_t in_the_long_run = std::int64_t{1} << 60;

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

void check_group(const OptimizerGroup& group, OptimizerKind kind, Arrays params) {
  check_non_negative("lr", group.lr, false);
  if (kind == OptimizerKind::ftrl && group.lr == 0)
    bad_value("lr", "got 0, wants a number above 0: FTRL divides by it");
  check_non_negative("weight_decay", group.weight_decay, false);
  check_non_negative("eps", group.eps, false);
  for (const Penalty& p : group.penalties) {
    Penalty alone = p;
    if (alone.kind == PenaltyKind::weighted_l1) {  // its weights are compared one by one
      alone.kind = PenaltyKind::l1;
      alone.weights = {};
    }
    check_penalties({&alone, 1}, params);
  }
  check_box(group.box);
}

// ---- the numbers of a step

/// What parameters of the same group and count of steps share.
struct Numbers {
  StepCoefficients step;
  PenaltyCoefficients ridge, other;  ///< of the proximal operator of others than l1 and l2
};

/// NAdam: mu_k = b1 (1 - 0.96^(k d)/2) (Dozat 2016; torch's d is 0.004, Keras' is 1).
double nadam_momentum(const OptimizerGroup& group, std::int64_t k) {
  const double exponent = static_cast<double>(k) * group.momentum_decay;
  const double decay = exponent == 0 ? 1 : tables().clipping->power(0.96, exponent);
  return group.beta1 * (1 - 0.5 * decay);
}

/// Step k (from 1) of a parameter, without what depends on the gradients. `product` is NAdam's
/// product of momenta up to this step, `length` that of a proximal step.
StepCoefficients coefficients(OptimizerKind kind, Convention convention, const Plan& plan,
                              std::int64_t k, double product, double length) {
  const OptimizerGroup& group = *plan.group;
  const bool torch = convention == Convention::torch;
  StepCoefficients c;
  c.rate = c.lr = c.step = group.lr;
  const auto bias = [&](double beta, std::int64_t n) { return 1 - integer_power(beta, n); };
  // As torch's lerp: from the nearer end.
  const auto set_mean = [&](double beta) {
    c.mean_from_new = beta <= 0.5;
    c.mean_gain = c.mean_from_new ? -beta : 1 - beta;
  };
  // Where Keras and optax put eps inside the square root.
  const auto set_eps = [&](bool inside) { (inside ? c.eps_inside : c.eps) = group.eps; };
  switch (kind) {
  case OptimizerKind::sgd:
    break;
  case OptimizerKind::momentum:
    c.decay1 = c.momentum = group.momentum;
    c.nesterov = group.nesterov;
    c.gain1 = k == 1 ? 1 : 1 - group.dampening;
    if (convention == Convention::keras) {  // velocity: v = mu v - t g; w += v
      c.gain1 = c.nesterov_gradient = -group.lr;
      c.step = -1;
    }
    break;
  case OptimizerKind::adam:
  case OptimizerKind::amsgrad:
  case OptimizerKind::nadam: {
    const double root = std::sqrt(bias(group.beta2, k));
    set_mean(group.beta1);
    c.decay2 = group.beta2;
    c.gain2 = 1 - group.beta2;
    c.eps = group.eps;
    c.root = 1 / root;
    c.step = group.lr / bias(group.beta1, k);
    if (kind == OptimizerKind::nadam) {
      if (convention == Convention::optax) {
        c.step = group.lr * group.beta1 / bias(group.beta1, k + 1);
        c.gradient_step = group.lr * (1 - group.beta1) / bias(group.beta1, k);
      } else {
        const double next = nadam_momentum(group, k + 1);
        c.step = group.lr * next / (1 - product * next);
        c.gradient_step = group.lr * (1 - nadam_momentum(group, k)) / (1 - product);
      }
    } else if (convention == Convention::keras) {
      c.step *= root;
      c.lr *= root;
      c.root = 1;
    } else if (convention == Convention::optax && kind == OptimizerKind::amsgrad) {
      c.largest_scale = 1 / (root * root);
      c.root = 1;
    }
    break;
  }
  case OptimizerKind::rmsprop:
  case OptimizerKind::rmsprop_momentum:
  case OptimizerKind::rmsprop_centered:
  case OptimizerKind::rmsprop_centered_momentum:
    c.decay2 = group.beta2;
    c.gain2 = 1 - group.beta2;
    c.momentum = group.momentum;
    c.gain1 = 1;
    set_mean(group.beta2);
    set_eps(!torch);
    if (!torch && (kind == OptimizerKind::rmsprop_momentum ||
                   kind == OptimizerKind::rmsprop_centered_momentum)) {  // it holds whole steps
      c.gain1 = group.lr;
      c.step = 1;
    }
    break;
  case OptimizerKind::adagrad:
    c.step = group.lr / (1 + static_cast<double>(k - 1) * group.lr_decay);
    c.rate = c.lr = c.step;
    set_eps(!torch);
    break;
  case OptimizerKind::lion:
    c.decay1 = group.beta1;
    c.gain1 = 1 - group.beta1;
    c.decay2 = group.beta2;
    c.gain2 = 1 - group.beta2;
    break;
  case OptimizerKind::ftrl:
    c.step = 1 / group.lr;
    c.beta = group.beta;
    c.l1 = group.l1;
    c.l2 = group.l2;
    break;
  }
  if (has_momentum(kind)) c.lr = length;
  if (plan.elastic && plan.penalized()) {
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
      c.preconditioned = group.prox == Prox::preconditioned;
    }
  }
  c.lowest = group.box.lowest;
  c.highest = group.box.highest;
  return c;
}

// ---- one step

/// One parameter in one step.
struct Entry {
  const Plan* plan;
  OptimizerParameter* parameter;
  std::size_t numbers;  ///< its coefficients
  double keep;          ///< of the decoupled decay
  double coupled;       ///< the coupled one
  Key key;
  bool direct;  ///< the kernel meets its memory itself
  bool narrow;  ///< the kernel decodes and rounds the states itself
  void (*kernel)(const StepOperands&, std::size_t, const StepCoefficients&);
};

constexpr std::int64_t tile_size = 1024;
constexpr std::int64_t piece_size = 1024;

/// Where a stretch that the kernel cannot meet in memory is worked on: it stays in the first cache.
struct Tiles {
  static constexpr std::size_t bytes = tile_size * sizeof(double);
  alignas(64) std::byte w[bytes];
  alignas(64) std::byte g[bytes];
  alignas(64) std::byte states[3][bytes];
  alignas(64) std::byte steps[bytes];
  alignas(64) std::byte saved[bytes];
  alignas(64) std::byte weights[bytes];
  alignas(64) std::uint16_t halves[2][tile_size];
  alignas(64) std::uint32_t random[tile_size / 2];
};

class Step final : public NormSource {
 public:
  Step(const StepOptions& options, std::span<const OptimizerGroup> groups,
       std::span<OptimizerParameter> state, Arrays params, Arrays grads)
      : options_(options), state_(state), params_(params), grads_(grads), work_(params),
        tables_(tables()) {
    check();
    prepare(groups);
  }

  StepReport run();
  /// The norm alone, and where it is not finite.
  StepReport norm();

 private:
  /// What is done with a tile: the update; the sum of its squares; the gradient that is clipped.
  enum class Pass : std::uint8_t { update, measure, gradient };

  void check() const;
  void prepare(std::span<const OptimizerGroup> groups);
  void update_run(const Run& run, double scale, double update_factor);
  void measure_run(const Run& run, double scale);
  void add_values(const Entry& e, std::size_t array, std::int64_t begin, std::size_t n, void* w);
  void direct_run(const Entry& e, const Run& run, const StepCoefficients& c);
  void tiled_run(const Entry& e, const Run& run, const StepCoefficients& c, Pass pass,
                 void* gradient = nullptr);
  void tile(const Entry& e, std::size_t array, std::int64_t begin, std::size_t n, void* w,
            const void* g, const StepCoefficients& c, Pass pass, Tiles& tiles, double* total);
  void prepare_gradient(const Entry& e, std::size_t array, std::int64_t begin, std::size_t n,
                        const void* g, const void* w, StepCoefficients& c, Pass pass, Tiles& tiles);
  DType dtype(std::size_t array) const override { return compute_dtype(params_[array].dtype); }
  void read(std::size_t array, std::int64_t begin, std::size_t n, void* out) override;
  bool by_norm() const {
    return options_.clip == StepOptions::Clip::global_norm ||
           options_.clip == StepOptions::Clip::norm;
  }
  double order() const { return by_norm() ? options_.ord : infinite; }
  /// What is left to multiply the norm, and the gradients, by.
  double scale_left() const {
    if (clips_sum_) return 1;
    return composed_ ? 1 / static_cast<double>(options_.accumulated) : options_.scale;
  }
  void add_gradients(const Entry& e, DType compute, DType dtype, std::int64_t begin, std::size_t n,
                     void* g, const void* w, Tiles& tiles);
  void apply_prox(const Entry& e, DType compute, DType dtype, std::int64_t begin, std::size_t n,
                  void* w, const void* steps, Tiles& tiles);
  void store_halves(const Entry& e, DType dtype, std::int64_t begin, std::size_t n, const float* w,
                    void* out, Tiles& tiles);
  template <class Kernel>
  void with_wide_weights(const Entry& e, const Penalty& p, DType dtype, std::int64_t begin,
                         std::size_t n, Tiles& tiles, Kernel&& kernel);

  StepCoefficients numbers_of(const Entry& e, double scale, double update_factor) const {
    StepCoefficients c = numbers_[e.numbers].step;
    c.keep = e.keep;
    c.scale = scale;
    if (clips_sum_) c.gradient_l1 = c.gradient_l2 = 0;
    c.gradient_l2 += e.coupled;
    if (options_.clip == StepOptions::Clip::value) {
      c.low = options_.low;
      c.high = options_.high;
    }
    c.step *= update_factor;
    c.gradient_step *= update_factor;
    return c;
  }
  const StepKernels& kernels(DType dtype) const {
    return tables_.optimizers
        ->steps[static_cast<std::size_t>(options_.kind)][dtype == DType::float64 ? 1 : 0];
  }
  const std::uint64_t* mask_at(const Entry& e, std::int64_t begin) const {
    return e.parameter->mask == nullptr ? nullptr : e.parameter->mask + begin / 64;
  }
  static bool general_gradient(const Plan& plan) { return !plan.elastic && plan.by_gradient; }
  static bool general_prox(const Plan& plan) {
    return !plan.elastic && !plan.by_gradient && plan.group->lr > 0;
  }

  const StepOptions& options_;
  std::span<OptimizerParameter> state_;
  Arrays params_, grads_;
  const WorkList work_;
  const Tables& tables_;
  std::vector<std::unique_ptr<Plan>> plans_;
  std::vector<Numbers> numbers_;
  std::vector<Entry> entries_;
  std::vector<double> products_;  ///< NAdam's after this step
  std::size_t values_ = 0;        ///< penalties whose value is wanted, at most in one group
  std::vector<double> value_totals_;
  std::vector<double> measured_;
  bool clips_sum_ = false;  ///< the penalties' gradients join before clipping
  /// Gradients are not what memory holds: a sum of several, or with the penalties' gradients.
  bool composed_ = false;
};

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
    if (options_.kind == OptimizerKind::ftrl)
      bad_value("max_update_rms", "FTRL has no update to scale, only new weights");
  }
  if (!options_.checked) check_disjoint("params", params_, "grads", grads_);
}

void Step::prepare(std::span<const OptimizerGroup> groups) {
  for (const OptimizerGroup& group : groups) {
    check_group(group, options_.kind, params_);
    plans_.push_back(std::make_unique<Plan>(group));
    prepare_plan(*plans_.back(), options_, *tables_.penalties);
    values_ = std::max(values_, group.penalties.size());
    clips_sum_ = clips_sum_ || (options_.clip_after_penalty && plans_.back()->by_gradient);
  }
  clips_sum_ = clips_sum_ && options_.clip != StepOptions::Clip::none;
  composed_ = clips_sum_ || options_.accumulated > 1;
  value_totals_.resize(values_ * work_.blocks());
  entries_.reserve(params_.size());
  products_.reserve(params_.size());
  const Key step_key = options_.key.fold_in(options_.step);
  const bool random = options_.stochastic_rounding || options_.state_type == StateType::bfloat16;
  const OptimizerParameter* last = nullptr;  // most parameters have the numbers of the one before
  for (std::size_t k = 0; k < params_.size(); ++k) {
    OptimizerParameter& p = state_[k];
    const Plan& plan = *plans_[p.group];
    for (const Penalty& penalty : plan.group->penalties) {
      if (penalty.kind != PenaltyKind::weighted_l1) continue;
      if (p.place >= penalty.weights.size() || penalty.weights[p.place].size != params_[k].size ||
          penalty.weights[p.place].dtype != params_[k].dtype) {
        bad_value("weights", "got other arrays than params has", static_cast<std::ptrdiff_t>(k));
      }
    }
    double product = p.product;
    if (options_.kind == OptimizerKind::nadam) product *= nadam_momentum(*plan.group, p.steps + 1);
    if (last == nullptr || last->group != p.group || last->steps != p.steps ||
        last->product != p.product) {
      const double length = plan.group->lr * step_length(options_.kind, options_.convention,
                                                         *plan.group, p.steps + 1);
      numbers_.push_back(
          {coefficients(options_.kind, options_.convention, plan, p.steps + 1, product, length),
           {},
           {}});
      if (general_prox(plan)) {
        const Penalty& other = *plan.proximal.other;
        const double rest = length / (1 + length * plan.proximal.ridge);
        const auto make = tables_.penalties->coefficients;
        numbers_.back().ridge = make(PenaltyKind::l2, plan.proximal.ridge, 0, length);
        numbers_.back().other = make(other.kind, other.strength, other.shape, rest);
      }
      last = &p;
    }
    products_.push_back(product);

    const Array& array = params_[k];
    const StepCoefficients& c = numbers_.back().step;
    const double decay = plan.group->weight_decay * p.decay;
    const double coupled = plan.group->coupled_decay ? decay : 0;
    const bool regular = (clips_sum_ || (c.gradient_l1 == 0 && c.gradient_l2 == 0)) &&
                         coupled == 0 && !c.preconditioned &&
                         options_.clip != StepOptions::Clip::value && p.mask == nullptr &&
                         !general_prox(plan);
    const bool bare =
        c.threshold == 0 && c.shrink == 1 && c.lowest == -infinite && c.highest == infinite;
    const StepKernels& own = kernels(compute_dtype(array.dtype));
    const bool direct =
        array.contiguous() && grads_[k].contiguous() && grads_[k].dtype == array.dtype &&
        item_size(array.dtype) != 2 && !composed_ &&
        (options_.state_type == StateType::compute || state_count(options_.kind) == 0) &&
        p.average == nullptr && plan.elastic;
    const bool narrow = options_.state_type == StateType::bfloat16 &&
                        state_count(options_.kind) > 0 &&
                        compute_dtype(array.dtype) == DType::float32 && regular;
    const double keep = plan.group->coupled_decay ? 1 : 1 - plan.group->lr * decay;
    entries_.push_back({&plan, &p, numbers_.size() - 1, keep, coupled,
                        random ? step_key.fold_in(p.number) : Key{}, direct, narrow,
                        !regular ? own.full
                        : narrow ? own.narrow[bare ? 0 : 1]
                        : bare   ? own.plain
                                 : own.proximal});
  }
}

StepReport Step::norm() {
  const TeamSize size = team_for(NormPass::cost(work_, order()), options_.threads);
  NormPass pass(*tables_.clipping, grads_, work_, order(), size, composed_ ? this : nullptr);
  StepReport report;
  report.factors = {1};
  parallel(size, [&](Team team) {
    const Norms norms = pass.run(team);
    if (team.rank != 0) return;
    report.norm = norms.total() * scale_left();
    if (!std::isfinite(*report.norm)) report.first_nonfinite = norms.first_nonfinite();
  });
  return report;
}

StepReport Step::run() {
  using Clip = StepOptions::Clip;
  StepReport report;
  const bool strict = options_.on_nonfinite != NonFinite::propagate;
  const bool known = options_.norm.has_value();
  const bool reads = !known && (by_norm() || strict);
  const TeamSize size = team_for(2 * work_.elements(), options_.threads);
  std::optional<NormPass> pass;
  if (reads)
    pass.emplace(*tables_.clipping, grads_, work_, order(), size, composed_ ? this : nullptr);
  if (options_.max_update_rms) measured_.resize(work_.blocks());
  const std::size_t n = params_.size();
  report.factors.resize(options_.clip == Clip::norm ? n : 1);

  parallel(size, [&](Team team) {
    const bool first = team.rank == 0;
    const double own = scale_left();
    Norms norms;
    if (reads) norms = pass->run(team);
    const double total = known ? *options_.norm : reads ? norms.total() * own : 0;
    const auto factor_for = [&](double norm) {
      return norm <= options_.max_norm ? 1.0 : options_.max_norm / norm;
    };
    const double of_all = options_.clip == Clip::global_norm ? factor_for(total) : 1;
    const auto factor_of = [&](std::size_t k) {
      return options_.clip == Clip::norm ? factor_for(norms.norm(k) * own) : of_all;
    };
    const bool bad = (reads || known) && !std::isfinite(total);
    if (first) {
      if (by_norm() || known) report.norm = total;
      if (bad && reads) report.first_nonfinite = norms.first_nonfinite();
      report.skipped = bad && strict;
      for (std::size_t k = 0; k < report.factors.size(); ++k)
        report.factors[k] = factor_of(k);
    }
    if (bad && strict) return;

    if (options_.max_update_rms) {
      work_.forward(team, [&](const Run& run) { measure_run(run, own * factor_of(run.array)); });
      team.barrier();
    }
    const auto update_factor = [&](std::size_t k) {
      const double lr = numbers_[entries_[k].numbers].step.rate;
      if (!options_.max_update_rms || lr == 0 || params_[k].size == 0) return 1.0;
      const double sum =
          combine_blocks(work_, measured_.data(), k, [](double a, double b) { return a + b; });
      const double rms = std::sqrt(sum / static_cast<double>(params_[k].size)) / lr;
      return rms > *options_.max_update_rms ? *options_.max_update_rms / rms : 1.0;
    };
    work_.backward(team, [&](const Run& run) {
      update_run(run, own * factor_of(run.array), update_factor(run.array));
    });
  });

  if (report.skipped) {
    if (options_.on_nonfinite == NonFinite::raise) {
      throw NonFiniteError(report.first_nonfinite, report.norm.value_or(infinite));
    }
    return report;
  }
  for (std::size_t g = 0; g < plans_.size(); ++g) {
    for (std::size_t i = 0; i < plans_[g]->group->penalties.size(); ++i) {
      double one = 0;
      for (std::size_t k = 0; k < n; ++k) {
        if (state_[k].group != g) continue;
        one += combine_blocks(work_, value_totals_.data() + i * work_.blocks(), k,
                              [](double a, double b) { return a + b; });
      }
      report.penalty += one;
    }
  }
  for (std::size_t k = 0; k < n; ++k) {
    ++state_[k].steps;
    state_[k].product = products_[k];
  }
  return report;
}

void Step::update_run(const Run& run, double scale, double update_factor) {
  const Entry& e = entries_[run.array];
  const StepCoefficients c = numbers_of(e, scale, update_factor);
  e.direct ? direct_run(e, run, c) : tiled_run(e, run, c, Pass::update);
}

void Step::measure_run(const Run& run, double scale) {
  const Entry& e = entries_[run.array];
  tiled_run(e, run, numbers_of(e, scale, 1), Pass::measure);
}

/// The values of the penalties over at most one piece of a block.
void Step::add_values(const Entry& e, std::size_t array, std::int64_t begin, std::size_t n,
                      void* w) {
  const Plan& plan = *e.plan;
  const DType dtype = params_[array].dtype;
  const std::size_t at = work_.first_block(array) + static_cast<std::size_t>(begin) / block_size;
  for (std::size_t i = 0; i < plan.group->penalties.size(); ++i) {
    const Penalty& p = plan.group->penalties[i];
    with_weights(p, e.parameter->place, begin, n,
                 [&](const void* weights, std::int64_t offset, std::size_t m) {
                   double total = 0;
                   kernels_for(*tables_.penalties, p, dtype)
                       .value(at_element(w, offset, dtype), weights, m,
                              plan.gradients[i].coefficients, &total);
                   value_totals_[i * work_.blocks() + at] += total;
                 });
  }
}

/// A run of float32 or float64 memory that the kernel reads and writes itself.
void Step::direct_run(const Entry& e, const Run& run, const StepCoefficients& c) {
  const DType dtype = params_[run.array].dtype;
  // Values piece by piece: the loads of one piece's step go on below the values of the next.
  const std::int64_t stretch = e.plan->penalized() ? piece_size : run.count;
  for (std::int64_t done = 0; done < run.count; done += stretch) {
    const std::int64_t begin = run.begin + done;
    const auto n = static_cast<std::size_t>(std::min(stretch, run.count - done));
    StepOperands x{at_element(params_[run.array].data, begin, dtype),
                   at_element(grads_[run.array].data, begin, dtype),
                   {},
                   mask_at(e, begin),
                   nullptr};
    for (int j = 0; j < state_count(options_.kind); ++j)
      x.states[j] = at_element(e.parameter->states[j], begin, dtype);
    if (e.plan->penalized()) add_values(e, run.array, begin, n, x.w);
    e.kernel(x, n, c);
  }
}

/// At most a block of the gradient as it is clipped, for the norm.
void Step::read(std::size_t array, std::int64_t begin, std::size_t n, void* out) {
  const Entry& e = entries_[array];
  const Run run{array, begin, static_cast<std::int64_t>(n), 0};
  tiled_run(e, run, numbers_of(e, 1, 1), Pass::gradient, out);
}

void Step::tiled_run(const Entry& e, const Run& run, const StepCoefficients& c, Pass pass,
                     void* gradient) {
  const Array& w = params_[run.array];
  const Array& g = grads_[run.array];
  const ScratchArray<Tiles> scratch;
  Tiles& tiles = *scratch;
  const Operand operands[] = {{&w, pass == Pass::update ? Access::update : Access::read},
                              {is_missing(g) ? nullptr : &g, Access::read}};
  on_memory(operands, run.begin, run.count, [&](void** at, std::int64_t first, std::size_t count) {
    for (std::size_t done = 0; done < count; done += block_size) {
      const std::size_t n = std::min(block_size, count - done);
      const std::int64_t begin = run.begin + first + static_cast<std::int64_t>(done);
      const auto offset = static_cast<std::int64_t>(done);
      void* own = at_element(at[0], offset, w.dtype);
      for (std::size_t part = 0; pass == Pass::update && e.plan->penalized() && part < n;
           part += piece_size) {
        const auto skip = static_cast<std::int64_t>(part);
        add_values(e, run.array, begin + skip, std::min<std::size_t>(piece_size, n - part),
                   at_element(own, skip, w.dtype));
      }
      double sum = 0;
      for (std::size_t part = 0; part < n; part += tile_size) {
        const auto skip = static_cast<std::int64_t>(part);
        const std::size_t length = std::min<std::size_t>(tile_size, n - part);
        const void* from = at[1] == nullptr ? nullptr : at_element(at[1], offset + skip, g.dtype);
        double total = 0;
        tile(e, run.array, begin + skip, length, at_element(own, skip, w.dtype), from, c, pass,
             tiles, &total);
        sum += total;
        if (pass == Pass::gradient) {
          const DType compute = dtype(run.array);
          std::memcpy(at_element(gradient, first + offset + skip, compute), tiles.g,
                      length * item_size(compute));
        }
      }
      if (pass == Pass::measure)
        measured_[work_.first_block(run.array) + static_cast<std::size_t>(begin) / block_size] =
            sum;
    }
  });
}

/// The gradient in the compute type, as the kernels take it, who then multiply by c.scale.
void Step::prepare_gradient(const Entry& e, std::size_t array, std::int64_t begin, std::size_t n,
                            const void* g, const void* w, StepCoefficients& c, Pass pass,
                            Tiles& tiles) {
  const OptimizersTable& table = *tables_.optimizers;
  const DType compute = dtype(array);
  const int wide = compute == DType::float64 ? 1 : 0;
  const auto prepare = [&](DType from, const void* x, double scale, double low, double high) {
    table.prepare[index_of(from)][wide](x, n, scale, low, high, tiles.g);
  };
  const DType given = grads_[array].dtype;
  if (!composed_) {
    prepare(given, g, c.scale, c.low, c.high);
    c.scale = 1;
    c.low = -infinite;
    c.high = infinite;
    if (general_gradient(*e.plan))
      add_gradients(e, compute, params_[array].dtype, begin, n, tiles.g, w, tiles);
    return;
  }
  // As if earlier gradients and this one had been added up in memory.
  if (e.parameter->sum == nullptr) {
    prepare(given, g, options_.scale, -infinite, infinite);
  } else {
    std::memcpy(tiles.g, at_element(const_cast<void*>(e.parameter->sum), begin, compute),
                n * item_size(compute));
    if (g != nullptr) table.accumulate[index_of(given)][wide](g, n, false, options_.scale, tiles.g);
  }
  if (clips_sum_) {
    if (options_.accumulated > 1) {
      prepare(compute, tiles.g, 1 / static_cast<double>(options_.accumulated), -infinite, infinite);
    }
    if (e.plan->by_gradient)
      add_gradients(e, compute, params_[array].dtype, begin, n, tiles.g, w, tiles);
  } else if (pass != Pass::gradient && general_gradient(*e.plan)) {
    prepare(compute, tiles.g, c.scale, c.low, c.high);
    c.scale = 1;
    c.low = -infinite;
    c.high = infinite;
    add_gradients(e, compute, params_[array].dtype, begin, n, tiles.g, w, tiles);
  }
}

/// At most tile_size elements: everything is brought to the compute type, stepped and brought back.
void Step::tile(const Entry& e, std::size_t array, std::int64_t begin, std::size_t n, void* w,
                const void* g, const StepCoefficients& numbers, Pass pass, Tiles& tiles,
                double* total) {
  const OptimizersTable& table = *tables_.optimizers;
  const StorageTable& storage = *tables_.storage;
  const OptimizerParameter& p = *e.parameter;
  const DType dtype = params_[array].dtype;
  const DType compute = compute_dtype(dtype);
  const bool half = item_size(dtype) == 2;
  const std::size_t type = index_of(dtype);
  const int states = state_count(options_.kind);
  const std::uint64_t* mask = mask_at(e, begin);
  StepCoefficients c = numbers;
  StepOperands x{w, g, {}, mask, nullptr};

  if (p.master != nullptr) {
    float* master = p.master + begin;
    x.w = pass == Pass::update ? master : reinterpret_cast<float*>(tiles.w);
    storage.halves[type].adopt(w, master, n, static_cast<float*>(x.w));
  } else if (half) {
    x.w = tiles.w;
    auto* wide = reinterpret_cast<float*>(tiles.w);
    if (p.compensation != nullptr) {
      storage.halves[type].join(w, at_element(p.compensation, begin, dtype), n, wide);
    } else {
      tables_.storage->halves[type].to_float32(w, n, wide);
    }
  }
  if (composed_ || grads_[array].dtype != compute || general_gradient(*e.plan)) {
    prepare_gradient(e, array, begin, n, g, x.w, c, pass, tiles);
    x.g = tiles.g;
  }
  if (pass == Pass::gradient) return;
  const Rounding of_states{e.key, 1, static_cast<std::uint64_t>(begin)};  // the same for all
  x.rounding = &of_states;
  const bool narrow = e.narrow && pass == Pass::update;
  for (int j = 0; j < states; ++j) {
    if (narrow) {
      x.states[j] = at_element(p.states[j], begin, DType::bfloat16);
      continue;
    }
    x.states[j] = options_.state_type == StateType::compute
                      ? at_element(p.states[j], begin, compute)
                      : static_cast<void*>(tiles.states[j]);
    auto* wide = reinterpret_cast<float*>(tiles.states[j]);
    if (options_.state_type == StateType::bfloat16) {
      tables_.storage->halves[index_of(DType::bfloat16)].to_float32(
          at_element(p.states[j], begin, DType::bfloat16), n, wide);
    } else if (options_.state_type == StateType::dynamic8) {
      const int with_sign = state_of_squares(options_.kind, j) ? 0 : 1;
      storage.decode[with_sign](static_cast<const std::uint8_t*>(p.states[j]) + begin,
                                p.scales[j] + begin / static_cast<std::int64_t>(code_block), n,
                                wide);
    }
  }
  if (pass == Pass::measure) return kernels(compute).squares(x, n, c, total);

  const bool proximal = general_prox(*e.plan);
  if (proximal) {
    if (e.plan->group->prox == Prox::preconditioned) x.steps = tiles.steps;
    c.lowest = -infinite;
    c.highest = infinite;
    if (mask != nullptr) std::memcpy(tiles.saved, x.w, n * item_size(compute));
  }
  e.kernel(x, n, c);
  if (proximal) {
    apply_prox(e, compute, dtype, begin, n, x.w, tiles.steps, tiles);
    if (numbers.lowest != -infinite || numbers.highest != infinite) {
      tables_.clipping->kernels[index_of(compute)].clamp(x.w, n, numbers.lowest, numbers.highest);
    }
    if (mask != nullptr)
      table.restore[compute == DType::float64 ? 2 : 1](x.w, tiles.saved, n, mask);
  }

  if (half) store_halves(e, dtype, begin, n, static_cast<const float*>(x.w), w, tiles);
  if (p.average != nullptr) {
    if (half && p.master == nullptr && p.compensation == nullptr)  // of what is stored
      tables_.storage->halves[type].to_float32(w, n, static_cast<float*>(x.w));
    table.average[compute == DType::float64 ? 1 : 0](x.w, n, options_.average_decay,
                                                     at_element(p.average, begin, compute));
  }
  if (narrow) return;
  if (options_.state_type == StateType::bfloat16) storage.draw(of_states, n, tiles.random);
  for (int j = 0; j < states; ++j) {
    const auto* wide = reinterpret_cast<const float*>(tiles.states[j]);
    if (options_.state_type == StateType::bfloat16) {
      storage.halves[index_of(DType::bfloat16)].round_randomly(
          wide, n, tiles.random, at_element(p.states[j], begin, DType::bfloat16));
    } else if (options_.state_type == StateType::dynamic8) {
      const int with_sign = state_of_squares(options_.kind, j) ? 0 : 1;
      storage.encode[with_sign](wide, n, static_cast<std::uint8_t*>(p.states[j]) + begin,
                                p.scales[j] + begin / static_cast<std::int64_t>(code_block));
    }
  }
}

/// Calls kernel(weights, offset, m) with the weights of a penalty in the compute type.
template <class Kernel>
void Step::with_wide_weights(const Entry& e, const Penalty& p, DType dtype, std::int64_t begin,
                             std::size_t n, Tiles& tiles, Kernel&& kernel) {
  with_weights(p, e.parameter->place, begin, n,
               [&](const void* weights, std::int64_t offset, std::size_t m) {
                 if (weights != nullptr && item_size(dtype) == 2) {
                   tables_.storage->halves[index_of(dtype)].to_float32(
                       weights, m, reinterpret_cast<float*>(tiles.weights));
                   weights = tiles.weights;
                 }
                 kernel(weights, offset, m);
               });
}

void Step::add_gradients(const Entry& e, DType compute, DType dtype, std::int64_t begin,
                         std::size_t n, void* g, const void* w, Tiles& tiles) {
  const Plan& plan = *e.plan;
  for (std::size_t i = 0; i < plan.group->penalties.size(); ++i) {
    const Penalty& p = plan.group->penalties[i];
    with_wide_weights(e, p, dtype, begin, n, tiles,
                      [&](const void* weights, std::int64_t offset, std::size_t m) {
                        double unused = 0;
                        kernels_for(*tables_.penalties, p, compute)
                            .add_gradient(at_element(g, offset, compute),
                                          at_element(const_cast<void*>(w), offset, compute),
                                          weights, m, plan.gradients[i].coefficients, &unused);
                      });
  }
}

void Step::apply_prox(const Entry& e, DType compute, DType dtype, std::int64_t begin, std::size_t n,
                      void* w, const void* steps, Tiles& tiles) {
  const Plan& plan = *e.plan;
  const Penalty& other = *plan.proximal.other;
  const PenaltiesTable& table = *tables_.penalties;
  const PenaltyKernels& kernel = kernels_for(table, other, compute);
  const bool each = plan.group->prox == Prox::preconditioned;
  const Numbers& numbers = numbers_[e.numbers];
  if (!each && plan.proximal.ridge > 0) {
    table.kernels[static_cast<std::size_t>(PenaltyKind::l2)][index_of(compute)].prox(
        w, w, nullptr, n, numbers.ridge);
  }
  with_wide_weights(e, other, dtype, begin, n, tiles,
                    [&](const void* weights, std::int64_t offset, std::size_t m) {
                      void* at = at_element(w, offset, compute);
                      if (each) {
                        kernel.prox_each(at, weights,
                                         at_element(const_cast<void*>(steps), offset, compute), m,
                                         numbers.other, plan.proximal.ridge);
                      } else {
                        kernel.prox(at, at, weights, m, numbers.other);
                      }
                    });
}

/// The 16-bit copy of the weights. Where the mask is 0 it keeps its bits: rounding what was
/// widened gives them back, but splitting a sum need not.
void Step::store_halves(const Entry& e, DType dtype, std::int64_t begin, std::size_t n,
                        const float* w, void* out, Tiles& tiles) {
  const OptimizersTable& table = *tables_.optimizers;
  const StorageTable& storage = *tables_.storage;
  const OptimizerParameter& p = *e.parameter;
  const std::size_t type = index_of(dtype);
  const std::uint64_t* mask = mask_at(e, begin);
  void* low = p.compensation == nullptr ? nullptr : at_element(p.compensation, begin, dtype);
  if (mask != nullptr) {
    std::memcpy(tiles.halves[0], out, n * 2);
    if (low != nullptr) std::memcpy(tiles.halves[1], low, n * 2);
  }
  if (low != nullptr) {
    storage.halves[type].split(w, n, out, low);
  } else if (options_.stochastic_rounding) {
    storage.draw({e.key, 0, static_cast<std::uint64_t>(begin)}, n, tiles.random);
    storage.halves[type].round_randomly(w, n, tiles.random, out);
  } else {
    tables_.storage->halves[type].from_float32(w, n, out);
  }
  if (mask != nullptr) {
    table.restore[0](out, tiles.halves[0], n, mask);
    if (low != nullptr) table.restore[0](low, tiles.halves[1], n, mask);
  }
}

}  // namespace

void check_parameters(Arrays params) {
  const FloatEnvironment environment;
  check_disjoint("params", params);
}

StepReport optimizer_step(const StepOptions& options, std::span<const OptimizerGroup> groups,
                          std::span<OptimizerParameter> state, Arrays params, Arrays grads) {
  const FloatEnvironment environment;
  Step step(options, groups, state, params, grads);
  switch (options.only) {
  case StepOptions::Only::check:
    return {};
  case StepOptions::Only::norm:
    return step.norm();
  default:
    return step.run();
  }
}

void accumulate(Arrays grads, Arrays sums, bool first, double scale, int threads) {
  const FloatEnvironment environment;
  check_disjoint("sums", sums, "grads", grads);
  const OptimizersTable& table = *tables().optimizers;
  const WorkList work(grads);
  parallel(2 * work.elements(), threads, [&](Team team) {
    work.forward(team, [&](const Run& run) {
      const Array& sum = sums[run.array];
      const Array& g = grads[run.array];
      const Operand operands[] = {{&sum, Access::update}, {&g, Access::read}};
      on_memory(operands, run.begin, run.count, [&](void** at, std::int64_t, std::size_t n) {
        table.accumulate[index_of(g.dtype)][sum.dtype == DType::float64 ? 1 : 0](at[1], n, first,
                                                                                 scale, at[0]);
      });
    });
  });
}

void encode_states(const Array& x, bool squares, std::uint8_t* codes, float* scales, int threads) {
  const FloatEnvironment environment;
  const StorageTable& storage = *tables().storage;
  const WorkList work({&x, 1});
  parallel(work.elements(), threads, [&](Team team) {
    work.forward(team, [&](const Run& run) {
      storage.encode[squares ? 0 : 1](static_cast<const float*>(x.data) + run.begin,
                                      static_cast<std::size_t>(run.count), codes + run.begin,
                                      scales + run.begin / static_cast<std::int64_t>(code_block));
    });
  });
}

void decode_states(const std::uint8_t* codes, const float* scales, bool squares, const Array& x,
                   int threads) {
  const FloatEnvironment environment;
  const StorageTable& storage = *tables().storage;
  const WorkList work({&x, 1});
  parallel(work.elements(), threads, [&](Team team) {
    work.forward(team, [&](const Run& run) {
      storage.decode[squares ? 0 : 1](
          codes + run.begin, scales + run.begin / static_cast<std::int64_t>(code_block),
          static_cast<std::size_t>(run.count), static_cast<float*>(x.data) + run.begin);
    });
  });
}

}  // namespace ridgeline
