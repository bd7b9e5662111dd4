#include "ridgeline/penalties.hpp"

#include <cmath>

#include "kernels/penalties.hpp"
#include "ops/checks.hpp"
#include "ops/work.hpp"
#include "runtime/dispatch.hpp"

namespace ridgeline {
namespace {

void check(Penalties penalties, Arrays params) {
  for (const Penalty& p : penalties) {
    check_non_negative("strength", p.strength, false);
    switch (p.kind) {
    case PenaltyKind::elastic_net:
      check_non_negative("l2", p.shape, false);
      break;
    case PenaltyKind::weighted_l1:
      check_alike("weights", p.weights, "params", params);
      break;
    case PenaltyKind::scad:
      if (!(p.shape > 2 && std::isfinite(p.shape)))
        bad_value("gamma", "got " + text(p.shape) + ", wants a finite number above 2");
      break;
    case PenaltyKind::mcp:
    case PenaltyKind::log_sum:
    case PenaltyKind::huber:
      if (!(p.shape > 0 && std::isfinite(p.shape))) {
        const char* name = p.kind == PenaltyKind::mcp     ? "gamma"
                           : p.kind == PenaltyKind::huber ? "delta"
                                                          : "eps";
        bad_value(name, "got " + text(p.shape) + ", wants a finite number above 0");
      }
      break;
    default:
      break;
    }
  }
}

const PenaltyKernels& kernels_for(const PenaltiesTable& table, const Penalty& p, DType dtype) {
  return table.kernels[static_cast<std::size_t>(p.kind)][static_cast<std::size_t>(dtype)];
}

const Array* weights_of(const Penalty& p, std::size_t array) {
  return p.weights.empty() ? nullptr : &p.weights[array];
}

/// A penalty made ready: its coefficients, and its totals for each block of the work.
struct Prepared {
  const Penalty* penalty;
  PenaltyCoefficients coefficients;
};

using PreparedList = SmallBuffer<Prepared, 4>;

void prepare(PreparedList& list, const PenaltiesTable& table, Penalties penalties, double step) {
  for (std::size_t i = 0; i < penalties.size(); ++i) {
    const Penalty& p = penalties[i];
    list[i] = {&p, table.coefficients(p.kind, p.strength, p.shape, step)};
  }
}

/// Adds up the totals: over the blocks of an array, over the arrays, over the penalties.
double sum_of(const WorkList& work, std::size_t arrays, std::size_t penalties, double* totals) {
  double sum = 0;
  for (std::size_t i = 0; i < penalties; ++i) {
    double one = 0;
    for (std::size_t k = 0; k < arrays; ++k) {
      one += combine_blocks(work, totals + i * work.blocks(), k,
                            [](double a, double b) { return a + b; });
    }
    sum += one;
  }
  return sum;
}

}  // namespace

void check_weights(Arrays weights, int threads) {
  const PenaltiesTable& table = *tables().penalties;
  const WorkList work(weights);
  SmallBuffer<double, 64> totals(work.blocks());
  parallel(work.cost(), threads, [&](Team team) {
    work.forward(team, [&](const Run& run) {
      const Array& a = weights[run.array];
      const auto kernel = table.find_bad_weights[static_cast<std::size_t>(a.dtype)];
      const Operand operands[] = {{&a, Access::read}};
      on_memory(operands, run.begin, run.count, [&](void** at, std::int64_t first, std::size_t n) {
        kernel(at[0], n, totals.data() + run.block + first / static_cast<std::int64_t>(block_size));
      });
    });
  });
  for (std::size_t k = 0; k < weights.size(); ++k) {
    if (combine_blocks(work, totals.data(), k, [](double a, double b) { return a + b; }) != 0) {
      bad_value("weights",
                "got a negative, infinite or NaN weight, wants finite numbers of at least 0",
                static_cast<std::ptrdiff_t>(k));
    }
  }
}

double penalty_value(Penalties penalties, Arrays params, int threads) {
  check(penalties, params);
  const PenaltiesTable& table = *tables().penalties;
  PreparedList list(penalties.size());
  prepare(list, table, penalties, 0);
  const WorkList work(params);
  SmallBuffer<double, 64> totals(work.blocks() * penalties.size());
  parallel(work.cost(), threads, [&](Team team) {
    work.forward(team, [&](const Run& run) {
      const Array& w = params[run.array];
      for (std::size_t i = 0; i < penalties.size(); ++i) {
        const Penalty& p = *list[i].penalty;
        double* sums = totals.data() + i * work.blocks() + run.block;
        const auto kernel = kernels_for(table, p, w.dtype).value;
        const Operand operands[] = {{&w, Access::read}, {weights_of(p, run.array), Access::read}};
        on_memory(operands, run.begin, run.count,
                  [&](void** at, std::int64_t first, std::size_t n) {
                    kernel(at[0], at[1], n, list[i].coefficients,
                           sums + first / static_cast<std::int64_t>(block_size));
                  });
      }
    });
  });
  return sum_of(work, params.size(), penalties.size(), totals.data());
}

double add_penalty_gradient(Penalties penalties, Arrays grads, Arrays params, int threads) {
  check_alike("grads", grads, "params", params);
  check(penalties, params);
  check_disjoint("grads", grads, "params", params);
  for (const Penalty& p : penalties) {
    if (p.kind == PenaltyKind::l0)
      bad_type("penalty", "L0 has no gradient; use its proximal operator");
    if (!p.weights.empty()) check_disjoint("grads", grads, "weights", p.weights);
  }
  const PenaltiesTable& table = *tables().penalties;
  PreparedList list(penalties.size());
  prepare(list, table, penalties, 0);
  const WorkList work(params);
  SmallBuffer<double, 64> totals(work.blocks() * penalties.size());
  parallel(work.cost(), threads, [&](Team team) {
    work.forward(team, [&](const Run& run) {
      // Several penalties go over one block after the other, while it is in the cache.
      const std::int64_t stretch =
          penalties.size() == 1 ? run.count : static_cast<std::int64_t>(block_size);
      for (std::int64_t done = 0; done < run.count; done += stretch) {
        for (std::size_t i = 0; i < penalties.size(); ++i) {
          const Penalty& p = *list[i].penalty;
          double* sums = totals.data() + i * work.blocks() + run.block +
                         done / static_cast<std::int64_t>(block_size);
          const auto kernel = kernels_for(table, p, params[run.array].dtype).add_gradient;
          const Operand operands[] = {{&grads[run.array], Access::update},
                                      {&params[run.array], Access::read},
                                      {weights_of(p, run.array), Access::read}};
          on_memory(operands, run.begin + done, std::min(stretch, run.count - done),
                    [&](void** at, std::int64_t first, std::size_t n) {
                      kernel(at[0], at[1], at[2], n, list[i].coefficients,
                             sums + first / static_cast<std::int64_t>(block_size));
                    });
        }
      }
    });
  });
  return sum_of(work, params.size(), penalties.size(), totals.data());
}

void penalty_prox(Penalties penalties, Arrays out, Arrays params, double step, int threads) {
  check_alike("out", out, "params", params);
  check(penalties, params);
  check_non_negative("step", step, false);
  // prox of t (f + r/2 x^2) at x is the prox of t' f at x / (1 + t r), t' = t / (1 + t r)
  // (Parikh and Boyd 2014, section 2.2): ridge terms go first, and shorten the step of the one
  // other term.
  double ridge = 0;
  const Penalty* other = nullptr;
  for (const Penalty& p : penalties) {
    if (p.kind == PenaltyKind::l2) {
      ridge += p.strength;
    } else if (other == nullptr) {
      other = &p;
    } else {
      bad_type(
          "penalty",
          "got a sum of several penalties other than L2, wants at most one: the proximal operator "
          "of their sum has no closed form");
    }
  }
  const Penalty ridge_term{PenaltyKind::l2, ridge};
  const double rest = step / (1 + step * ridge);
  if (other != nullptr && other->kind == PenaltyKind::mcp && !(other->shape > rest)) {
    bad_value("step", "got " + text(step) + ", wants less than gamma = " + text(other->shape) +
                          ": beyond, MCP has no unique proximal point");
  }
  if (other != nullptr && other->kind == PenaltyKind::scad && !(other->shape > 1 + rest)) {
    bad_value("step", "got " + text(step) + ", wants less than gamma - 1 = " +
                          text(other->shape - 1) + ": beyond, SCAD has no unique proximal point");
  }
  check_disjoint("out", out, "params", params, true);
  if (other != nullptr && !other->weights.empty())
    check_disjoint("out", out, "weights", other->weights);

  const PenaltiesTable& table = *tables().penalties;
  SmallBuffer<Prepared, 4> list(2);
  std::size_t stages = 0;
  const auto add_stage = [&](const Penalty& p, double t) {
    list[stages++] = {&p, table.coefficients(p.kind, p.strength, p.shape, t)};
  };
  if (ridge > 0 || other == nullptr) add_stage(ridge_term, step);
  if (other != nullptr) add_stage(*other, rest);

  // A map has no order: arrays of the same strange layout become contiguous.
  std::vector<Array> targets;
  std::vector<Array> sources;
  const auto strided = [](const Array& array) { return !array.contiguous(); };
  if (std::ranges::any_of(out, strided) && (other == nullptr || other->weights.empty())) {
    targets.assign(out.begin(), out.end());
    sources.assign(params.begin(), params.end());
    for (std::size_t k = 0; k < out.size(); ++k)
      in_memory_order(targets[k], sources[k]);
    out = targets;
    params = sources;
  }
  const WorkList work(params);
  parallel(work.cost(), threads, [&](Team team) {
    work.forward(team, [&](const Run& run) {
      const std::int64_t stretch = stages == 1 ? run.count : static_cast<std::int64_t>(block_size);
      for (std::int64_t done = 0; done < run.count; done += stretch) {
        for (std::size_t i = 0; i < stages; ++i) {
          const Penalty& p = *list[i].penalty;
          const Array& target = out[run.array];
          const Array& source = i == 0 ? params[run.array] : target;
          const auto kernel = kernels_for(table, p, target.dtype).prox;
          const bool in_place = source.data == target.data && source.dims == target.dims;
          const Operand operands[] = {{&target, in_place ? Access::update : Access::write},
                                      {in_place ? nullptr : &source, Access::read},
                                      {weights_of(p, run.array), Access::read}};
          on_memory(operands, run.begin + done, std::min(stretch, run.count - done),
                    [&](void** at, std::int64_t, std::size_t n) {
                      kernel(at[0], in_place ? at[0] : at[1], at[2], n, list[i].coefficients);
                    });
        }
      }
    });
  });
}

}  // namespace ridgeline
