// The table of penalty kernels that each target exports.
#pragma once

#include <cstddef>

#include "ridgeline/penalties.hpp"

namespace ridgeline {

/// What the functors need, in float64, so that each constant is rounded once.
struct PenaltyCoefficients {
  double strength = 0;
  double shape = 0;
  double step = 0;
  double shrink = 0;     ///< step * strength
  double threshold = 0;  ///< where the proximal operator changes branch
  double scale = 1;      ///< what it multiplies by
  double inverse = 1;    ///< what stands in for a division by the shape
};

struct PenaltyKernels {
  /// totals[b] = the value over block b of w.
  void (*value)(const void* w, const void* weights, std::size_t n, const PenaltyCoefficients&,
                double* totals);
  /// g += gradient; totals as above. Null where there is no gradient.
  void (*add_gradient)(void* g, const void* w, const void* weights, std::size_t n,
                       const PenaltyCoefficients&, double* totals);
  /// out = prox(x); out may be x.
  void (*prox)(void* out, const void* x, const void* weights, std::size_t n,
               const PenaltyCoefficients&);
  /// x = prox(x) with a step for each element, after the ridge term ridge/2 x^2; where the step is
  /// so long that the operator has no closed form, its global minimiser (MCP, SCAD, log-sum). Null
  /// for the half types.
  void (*prox_each)(void* x, const void* weights, const void* steps, std::size_t n,
                    const PenaltyCoefficients&, double ridge);
};

struct PenaltiesTable {
  PenaltyKernels kernels[penalty_kind_count][dtype_count];
  /// totals[b] = 1 if block b of the weights holds one that is negative, NaN or infinite, else 0.
  void (*find_bad_weights[dtype_count])(const void* weights, std::size_t n, double* totals);
  PenaltyCoefficients (*coefficients)(PenaltyKind kind, double strength, double shape, double step);
};

}  // namespace ridgeline
