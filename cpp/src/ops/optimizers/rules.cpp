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
    c.gradient_step = group.lr * (1 - group.beta1) / bias(group.beta1, s.k);
  } else {
    const double next = nadam_momentum(group, s.k + 1);
    c.step = group.lr * next / (1 - s.product * next);
    c.gradient_step = group.lr * (1 - nadam_momentum(group, s.k)) / (1 - s.product);
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

void ftrl(StepCoefficients& c, const RuleStep& s) {
  c.step = 1 / s.group.lr;
  c.beta = s.group.beta;
  c.l1 = s.group.l1;
  c.l2 = s.group.l2;
}

}  // namespace

/// mu_k = b1 (1 - 0.96^(k d)/2) (Dozat 2016; torch's d is 0.004, Keras' is 1).
double nadam_momentum(const OptimizerGroup& group, std::int64_t k) {
  const double exponent = static_cast<double>(k) * group.momentum_decay;
  const double decay = exponent == 0 ? 1 : tables().clipping->power(0.96, exponent);
  return group.beta1 * (1 - 0.5 * decay);
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
  }
  return c;
}

}  // namespace ridgeline
