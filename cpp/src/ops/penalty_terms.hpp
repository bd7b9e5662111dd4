// What calls about penalties share: checks, the parts of a proximal operator, kernels and weights.
#pragma once

#include "kernels/penalties.hpp"
#include "ops/work.hpp"

namespace ridgeline {

void check_penalties(Penalties penalties, Arrays params);

/// Whether a penalty has no strength: its proximal operator is the identity, bit for bit.
inline bool is_nothing(const Penalty& p) {
  return p.strength == 0 && (p.kind != PenaltyKind::elastic_net || p.shape == 0);
}

/// A sum whose proximal operator has a closed form: ridge/2 w^2 and at most one other penalty. The
/// prox of t (f + r/2 x^2) at x is the prox of t' f at x / (1 + t r), t' = t / (1 + t r) (Parikh
/// and Boyd 2014, section 2.2): ridge terms go first, and shorten the step of the other.
struct ProximalTerms {
  double ridge = 0;
  const Penalty* other = nullptr;
};
ProximalTerms proximal_terms(Penalties penalties);

/// Throws if `rest`, what the ridge term leaves of a step, is too long for the other penalty. The
/// step is longer than what was `given` where momentum makes it so.
void check_proximal_step(const char* argument, double given, double step, double rest,
                         const Penalty& other);

inline const PenaltyKernels& kernels_for(const PenaltiesTable& table, const Penalty& p,
                                         DType dtype) {
  return table.kernels[static_cast<std::size_t>(p.kind)][static_cast<std::size_t>(dtype)];
}

/// A penalty made ready.
struct Prepared {
  const Penalty* penalty;
  PenaltyCoefficients coefficients;
};

using PreparedList = SmallBuffer<Prepared, 4>;

inline void prepare(PreparedList& list, const PenaltiesTable& table, Penalties penalties,
                    double step) {
  for (std::size_t i = 0; i < penalties.size(); ++i) {
    const Penalty& p = penalties[i];
    list[i] = {&p, table.coefficients(p.kind, p.strength, p.shape, step)};
  }
}

inline char* at_element(void* p, std::int64_t i, DType dtype) {
  return static_cast<char*>(p) + i * static_cast<std::int64_t>(item_size(dtype));
}

/// Calls kernel(weights, offset, n) over elements [begin, begin + n) of an array: once, with null,
/// for a penalty without weights.
template <class Kernel>
void with_weights(const Penalty& p, std::size_t array, std::int64_t begin, std::size_t n,
                  Kernel&& kernel) {
  if (p.weights.empty()) return kernel(nullptr, std::int64_t{0}, n);
  const Operand operands[] = {{&p.weights[array], Access::read}};
  on_memory(operands, begin, static_cast<std::int64_t>(n),
            [&](void** at, std::int64_t first, std::size_t m) { kernel(at[0], first, m); });
}

}  // namespace ridgeline
