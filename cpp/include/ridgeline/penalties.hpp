// Penalties: values, gradients and proximal steps over any number of arrays in one pass.
#pragma once

#include <cstdint>
#include <iterator>
#include <span>

#include "ridgeline/array.hpp"

namespace ridgeline {

enum class PenaltyKind : std::uint8_t {
#define RIDGELINE_PENALTY(kind, ...) kind,
#include "ridgeline/penalties.def"
#undef RIDGELINE_PENALTY
};

/// A row of penalties.def.
struct PenaltyInfo {
  /// Of the second parameter, which is finite.
  struct Bound {
    double limit;
    bool included;
    constexpr bool holds(double x) const {
      return (included ? x >= limit : x > limit) && x < __builtin_inf();
    }
  };
  enum class Trait : std::uint8_t { ordinary, weighted, no_gradient };

  const char* name;
  const char* shape;  ///< the name of the second parameter; empty where there is none
  Bound bound;
  double usual;
  int work;
  Trait trait;

  constexpr bool shaped() const { return *shape != '\0'; }
  constexpr bool weighted() const { return trait == Trait::weighted; }
  constexpr bool differentiable() const { return trait != Trait::no_gradient; }

  static constexpr Bound any() { return {-__builtin_inf(), false}; }
  static constexpr Bound above(double limit) { return {limit, false}; }
  static constexpr Bound at_least(double limit) { return {limit, true}; }
};
inline constexpr PenaltyInfo penalty_list[] = {
#define RIDGELINE_PENALTY(kind, functor, shape, bound, usual, work, trait)                         \
  {#kind, shape, PenaltyInfo::bound, usual, work, PenaltyInfo::Trait::trait},
#include "ridgeline/penalties.def"
#undef RIDGELINE_PENALTY
};
inline constexpr std::size_t penalty_kind_count = std::size(penalty_list);

constexpr const PenaltyInfo& info_of(PenaltyKind kind) {
  return penalty_list[static_cast<std::size_t>(kind)];
}

/// One penalty. `shape` is gamma (MCP, SCAD), eps (log-sum), delta (Huber), the threshold (capped
/// L1) or the L2 strength (elastic net). `weights` belong to weighted_l1: arrays like the
/// parameters.
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
