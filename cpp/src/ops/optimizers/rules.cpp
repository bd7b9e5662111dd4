#include "ops/optimizers/rules.hpp"

#include <cmath>

#include "kernels/clipping.hpp"
#include "runtime/dispatch.hpp"

namespace ridgeline {
namespace {

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

/// NAdam: mu_k = b1 (1 - 0.96^(k d)/2) (Dozat 2016; torch's d is 0.004, Keras' is 1).
double nadam_momentum(const OptimizerGroup& group, std::int64_t k) {
  const double exponent = static_cast<double>(k) * group.momentum_decay;
  const double decay = exponent == 0 ? 1 : tables().clipping->power(0.96, exponent);
  return group.beta1 * (1 - 0.5 * decay);
}

/// A base of at least 0 to a power, with the same bits everywhere.
double power(double base, double exponent) { return tables().clipping->power(base, exponent); }

/// How far a warmup has come at step k.
double warmed(std::int64_t k, std::int64_t steps) {
  return k < steps ? static_cast<double>(k) / static_cast<double>(steps) : 1;
}

double schedule_free_rate(const OptimizerGroup& group, std::int64_t k) {
  return group.lr * warmed(k, group.warmup_steps);
}

// Each rule sets what it reads; `rate`, `lr` and `step` are the group's learning rate before.

/// Where Keras and optax put eps inside the square root.
void set_eps(StepCoefficients& c, const RuleStep& s) {
  (s.convention == Convention::torch ? c.eps : c.eps_inside) = s.group.eps;
}

/// A mean of gradients, as torch's lerp: from the nearer end.
void set_mean(StepCoefficients& c, double beta) {
  c.mean_from_new = beta <= 0.5;
  c.mean_gain = c.mean_from_new ? -beta : 1 - beta;
}

void set_squares(StepCoefficients& c, double beta) {
  c.decay2 = beta;
  c.gain2 = 1 - beta;
}

double bias(double beta, std::int64_t k) { return 1 - integer_power(beta, k); }

void momentum(StepCoefficients& c, const RuleStep& s) {
  c.decay1 = c.momentum = s.group.momentum;
  c.nesterov = s.group.nesterov;
  c.gain1 = s.k == 1 ? 1 : 1 - s.group.dampening;
  if (s.convention == Convention::keras) {  // velocity: v = mu v - t g; w += v
    c.gain1 = c.nesterov_gradient = -s.group.lr;
    c.step = -1;
  }
}

/// Returns the square root of the second moment's bias.
double adam_moments(StepCoefficients& c, const RuleStep& s) {
  const double root = std::sqrt(bias(s.group.beta2, s.k));
  set_mean(c, s.group.beta1);
  set_squares(c, s.group.beta2);
  c.eps = s.group.eps;
  c.root = 1 / root;
  c.step = s.group.lr / bias(s.group.beta1, s.k);
  return root;
}

void adam(StepCoefficients& c, const RuleStep& s) {
  const double root = adam_moments(c, s);
  if (s.convention == Convention::keras) {
    c.step *= root;
    c.lr *= root;
    c.root = 1;
  } else if (s.convention == Convention::optax && s.kind == OptimizerKind::amsgrad) {
    c.largest_scale = 1 / (root * root);
    c.root = 1;
  }
}

void nadam(StepCoefficients& c, const RuleStep& s) {
  const OptimizerGroup& group = s.group;
  adam_moments(c, s);
  if (s.convention == Convention::optax) {
    c.step = group.lr * group.beta1 / bias(group.beta1, s.k + 1);
    c.second_step = group.lr * (1 - group.beta1) / bias(group.beta1, s.k);
  } else {
    const double next = nadam_momentum(group, s.k + 1);
    c.step = group.lr * next / (1 - s.progress.product * next);
    c.second_step = group.lr * (1 - nadam_momentum(group, s.k)) / (1 - s.progress.product);
  }
}

void rmsprop(StepCoefficients& c, const RuleStep& s) {
  set_squares(c, s.group.beta2);
  set_mean(c, s.group.beta2);
  set_eps(c, s);
  c.momentum = s.group.momentum;
  c.gain1 = 1;
  if (s.convention != Convention::torch && has_momentum(s.kind)) {  // it holds whole steps
    c.gain1 = s.group.lr;
    c.step = 1;
  }
}

void adagrad(StepCoefficients& c, const RuleStep& s) {
  c.step = s.group.lr / (1 + static_cast<double>(s.k - 1) * s.group.lr_decay);
  c.rate = c.lr = c.step;
  set_eps(c, s);
}

void lion(StepCoefficients& c, const RuleStep& s) {
  c.decay1 = s.group.beta1;
  c.gain1 = 1 - s.group.beta1;
  set_squares(c, s.group.beta2);
}

/// beta3 of step k: its half-life, ln 0.5 / ln beta, grows linearly from that of beta1.
double slow_decay(const OptimizerGroup& group, std::int64_t k) {
  const double part = warmed(k, group.beta3_warmup);
  if (part == 1) return group.beta3;
  const auto log = tables().optimizers->log;
  const auto half_life = [&](double beta) { return beta == 0 ? 0 : log(0.5) / log(beta); };
  const double now = (1 - part) * half_life(group.beta1) + part * half_life(group.beta3);
  return now == 0 ? 0 : power(0.5, 1 / now);
}

void ademamix(StepCoefficients& c, const RuleStep& s) {
  adam_moments(c, s);
  c.decay1 = slow_decay(s.group, s.k);
  c.gain1 = 1 - c.decay1;
  c.second_step = s.group.lr * s.group.alpha * warmed(s.k, s.group.alpha_warmup);
}

/// y += share (z - y), as torch's lerp: from the nearer end.
void set_share(StepCoefficients& c, double share) {
  c.mean_from_new = share >= 0.5;
  c.mean_gain = c.mean_from_new ? share - 1 : share;
}

void schedule_free(StepCoefficients& c, const RuleStep& s) {
  const bool adaptive = s.kind == OptimizerKind::schedule_free_adamw;
  const double beta = adaptive ? s.group.beta1 : s.group.momentum;
  c.eps = s.group.eps;
  if (s.move) {  // of x = (y - (1 - b) z) / b and its inverse; states stay
    set_share(c, *s.move == WeightsAt::evaluation ? 1 - 1 / beta : 1 - beta);
    c.step = 0;
    c.decay2 = c.eps = 1;
    return;
  }
  const Progress& p = s.progress;
  const double share = p.weight_sum > 0 ? p.weight / p.weight_sum : 0;
  set_share(c, share);
  c.rate = c.step = schedule_free_rate(s.group, s.k);
  c.second_step = c.step * (1 - beta * (1 - share));
  if (!adaptive) return;
  set_squares(c, s.group.beta2);
  c.root = 1 / std::sqrt(bias(s.group.beta2, s.k));
}

void ftrl(StepCoefficients& c, const RuleStep& s) {
  c.step = 1 / s.group.lr;
  c.beta = s.group.beta;
  c.l1 = s.group.l1;
  c.l2 = s.group.l2;
}

}  // namespace

Progress progress_of(OptimizerKind kind, const OptimizerGroup& group, const OptimizerParameter& p) {
  const std::int64_t k = p.steps + 1;
  Progress next{p.product, p.weight_sum, p.largest_rate, 0};
  if (kind == OptimizerKind::nadam) next.product *= nadam_momentum(group, k);
  if (is_schedule_free(kind)) {
    next.largest_rate = std::max(p.largest_rate, schedule_free_rate(group, k));
    next.weight =
        power(static_cast<double>(k), group.r) * power(next.largest_rate, group.weight_lr_power);
    next.weight_sum += next.weight;
  }
  return next;
}

bool is_schedule_free(OptimizerKind kind) {
  return kind == OptimizerKind::schedule_free_sgd || kind == OptimizerKind::schedule_free_adamw;
}

bool has_momentum(OptimizerKind kind) {
  return kind == OptimizerKind::momentum || kind == OptimizerKind::rmsprop_momentum ||
         kind == OptimizerKind::rmsprop_centered_momentum;
}

double step_length(OptimizerKind kind, Convention convention, const OptimizerGroup& group,
                   std::int64_t k) {
  if (!has_momentum(kind)) return 1;
  const bool dampened = kind == OptimizerKind::momentum && convention != Convention::keras;
  const double limit = (dampened ? 1 - group.dampening : 1) / (1 - group.momentum);
  const double now = limit + integer_power(group.momentum, k - 1) * (1 - limit);
  return kind == OptimizerKind::momentum && group.nesterov ? 1 + group.momentum * now : now;
}

StepCoefficients coefficients_of(const RuleStep& s) {
  StepCoefficients c;
  c.rate = c.lr = c.step = s.group.lr;
  switch (s.kind) {
  case OptimizerKind::sgd:
    break;
  case OptimizerKind::momentum:
    momentum(c, s);
    break;
  case OptimizerKind::adam:
  case OptimizerKind::amsgrad:
    adam(c, s);
    break;
  case OptimizerKind::nadam:
    nadam(c, s);
    break;
  case OptimizerKind::rmsprop:
  case OptimizerKind::rmsprop_momentum:
  case OptimizerKind::rmsprop_centered:
  case OptimizerKind::rmsprop_centered_momentum:
    rmsprop(c, s);
    break;
  case OptimizerKind::adagrad:
    adagrad(c, s);
    break;
  case OptimizerKind::lion:
    lion(c, s);
    break;
  case OptimizerKind::ftrl:
    ftrl(c, s);
    break;
  case OptimizerKind::ademamix:
    ademamix(c, s);
    break;
  case OptimizerKind::schedule_free_sgd:
  case OptimizerKind::schedule_free_adamw:
    schedule_free(c, s);
    break;
  }
  return c;
}

}  // namespace ridgeline
