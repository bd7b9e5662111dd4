// Penalties: values, gradients and proximal steps over any number of arrays in one pass.
#pragma once

#include <cstdint>
#include <span>

#include "ridgeline/array.hpp"

namespace ridgeline {

enum class PenaltyKind : std::uint8_t {
  l1,
  weighted_l1,
  l2,
  elastic_net,
  mcp,
  scad,
  log_sum,
  l0,
  l_half,
  huber,
};
inline constexpr std::size_t penalty_kind_count = 10;

/// One penalty. `shape` is gamma (MCP, SCAD), eps (log-sum), delta (Huber) or the L2 strength
/// (elastic net). `weights` belong to weighted_l1: arrays like the parameters.
struct Penalty {
  PenaltyKind kind;
  double strength;
  double shape = 0;
  Arrays weights = {};
};

using Penalties = std::span<const Penalty>;

/// Throws if a weight of the adaptive lasso is negative or NaN.
void check_weights(Arrays weights, int threads = 0);

/// The sum of the penalties over all parameters, in float64.
/// `threads` limits this call alone; 0 means the current setting.
double penalty_value(Penalties penalties, Arrays params, int threads = 0);

/// grads += d penalty / d params; returns the value, from the same memory pass.
double add_penalty_gradient(Penalties penalties, Arrays grads, Arrays params, int threads = 0);

/// out = the proximal operator of step * penalty at params; out may be params. Of several penalties
/// all but one must be l2.
void penalty_prox(Penalties penalties, Arrays out, Arrays params, double step, int threads = 0);

}  // namespace ridgeline
