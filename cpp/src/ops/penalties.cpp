#include "ridgeline/penalties.hpp"

#include <cmath>

#include "kernels/penalties.hpp"
#include "kernels/storage.hpp"
#include "ops/checks.hpp"
#include "ops/penalty_terms.hpp"
#include "ops/work.hpp"
#include "runtime/dispatch.hpp"

namespace ridgeline {

void check_penalties(Penalties penalties, Arrays params) {
  for (const Penalty& p : penalties) {
    check_non_negative("strength", p.strength, false);
    const PenaltyInfo& info = info_of(p.kind);
    if (info.weighted()) check_alike("weights", p.weights, "params", params);
    if (info.shaped() && !info.bound.holds(p.shape)) {
      const char* least = info.bound.included ? "of at least " : "above ";
      bad_value(info.shape, "got " + text(p.shape) + ", wants a finite number " + least +
                                text(info.bound.limit));
    }
  }
}

ProximalTerms proximal_terms(Penalties penalties) {
  ProximalTerms terms;
  for (const Penalty& p : penalties) {
    if (is_nothing(p)) continue;
    if (p.kind == PenaltyKind::l2) {
      terms.ridge += p.strength;
    } else if (terms.other == nullptr) {
      terms.other = &p;
    } else {
      bad_type(
          "penalty",
          "got a sum of several penalties other than L2, wants at most one: the proximal operator "
          "of their sum has no closed form");
    }
  }
  return terms;
}

void check_proximal_step(const char* argument, double given, double step, double rest,
                         const Penalty& other) {
  const auto fail = [&](const std::string& limit, const char* name) {
    const std::string longer =
        step == given ? "" : ", which momentum makes a step of " + text(step);
    bad_value(argument, "got " + text(given) + longer + ", wants less than " + limit +
                            ": beyond, " + name + " has no unique proximal point");
  };
  if (other.kind == PenaltyKind::mcp && !(other.shape > rest))
    fail("gamma = " + text(other.shape), "MCP");
  if (other.kind == PenaltyKind::scad && !(other.shape > 1 + rest))
    fail("gamma - 1 = " + text(other.shape - 1), "SCAD");
}

namespace {

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

/// What several stages of one call share.
struct Stages {
  const PenaltiesTable& table;
  const StorageTable& storage;
  const PreparedList& list;
  std::size_t count;
  Access
      access;  ///< update: each stage adds to the target; write: each goes on from the one before
};

/// Stages on at most a block of a half type: they work on float32, so that there is one rounding.
template <class Stage>
void run_wide(const Stages& stages, const Run& run, DType dtype, void* target, const void* source,
              std::int64_t start, std::size_t n, Stage& stage) {
  const ScratchArray<float> wide_target(block_size);
  const ScratchArray<float> wide_source(block_size);
  const ScratchArray<float> wide_weights(block_size);
  const HalfKernels& half = stages.storage.halves[static_cast<std::size_t>(dtype)];
  half.to_float32(source, n, wide_source);
  if (stages.access != Access::write) half.to_float32(target, n, wide_target);
  float* from = wide_source;
  for (std::size_t i = 0; i < stages.count; ++i) {
    with_weights(*stages.list[i].penalty, run.array, start, n,
                 [&](const void* weights, std::int64_t offset, std::size_t m) {
                   if (weights != nullptr) half.to_float32(weights, m, wide_weights);
                   stage(i, DType::float32, wide_target + offset, from + offset, wide_weights, m,
                         start + offset);
                 });
    if (stages.access == Access::write) from = wide_target;
  }
  half.from_float32(wide_target, n, target);
}

/// Calls stage(i, dtype, target, source, weights, n, start) for each stage over one run, `start`
/// being the place of the first of the n elements in the array. Several stages go over a block one
/// after the other while it is in the cache.
template <class Stage>
void run_stages(const Stages& stages, const Run& run, const Array& target, const Array& source,
                Stage&& stage) {
  const DType dtype = target.dtype;
  const bool in_place = source.data == target.data && source.dims == target.dims;
  const Operand operands[] = {{&target, in_place ? Access::update : stages.access},
                              {in_place ? nullptr : &source, Access::read}};
  constexpr auto block = static_cast<std::int64_t>(block_size);
  const std::int64_t length = stages.count == 1 ? run.count : block;
  for (std::int64_t done = 0; done < run.count; done += length) {
    const std::int64_t begin = run.begin + done;
    const std::int64_t count = std::min(length, run.count - done);
    on_memory(operands, begin, count, [&](void** at, std::int64_t first, std::size_t n) {
      void* from = in_place ? at[0] : at[1];
      if (stages.count > 1 && item_size(dtype) == 2) {
        return run_wide(stages, run, dtype, at[0], from, begin + first, n, stage);
      }
      for (std::size_t i = 0; i < stages.count; ++i) {
        with_weights(*stages.list[i].penalty, run.array, begin + first, n,
                     [&](const void* weights, std::int64_t offset, std::size_t m) {
                       stage(i, dtype, at_element(at[0], offset, dtype),
                             at_element(from, offset, dtype), weights, m, begin + first + offset);
                     });
        if (stages.access == Access::write) from = at[0];
      }
    });
  }
}

}  // namespace

void check_weights(Arrays weights, int threads) {
  const FloatEnvironment environment;
  const PenaltiesTable& table = *tables().penalties;
  const WorkList work(weights);
  SmallBuffer<double, 64> totals(work.blocks());
  parallel(work.elements(), threads, [&](Team team) {
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

namespace {

/// The work of an element in penalties, besides reading and writing it.
std::int64_t arithmetic(Penalties penalties) {
  std::int64_t sum = 0;
  for (const Penalty& p : penalties)
    sum += info_of(p.kind).work;
  return sum;
}

}  // namespace

double penalty_value(Penalties penalties, Arrays params, int threads) {
  const FloatEnvironment environment;
  check_penalties(penalties, params);
  const PenaltiesTable& table = *tables().penalties;
  PreparedList list(penalties.size());
  prepare(list, table, penalties, 0);
  const WorkList work(params);
  SmallBuffer<double, 64> totals(work.blocks() * penalties.size());
  parallel(arithmetic(penalties) * work.elements(), threads, [&](Team team) {
    work.forward(team, [&](const Run& run) {
      const Array& w = params[run.array];
      const Operand operands[] = {{&w, Access::read}};
      on_memory(operands, run.begin, run.count, [&](void** at, std::int64_t first, std::size_t n) {
        for (std::size_t i = 0; i < penalties.size(); ++i) {
          const auto kernel = kernels_for(table, penalties[i], w.dtype).value;
          double* sums = totals.data() + i * work.blocks() + run.block;
          with_weights(penalties[i], run.array, run.begin + first, n,
                       [&](const void* weights, std::int64_t offset, std::size_t m) {
                         kernel(at_element(at[0], offset, w.dtype), weights, m,
                                list[i].coefficients,
                                sums + (first + offset) / static_cast<std::int64_t>(block_size));
                       });
        }
      });
    });
  });
  return sum_of(work, params.size(), penalties.size(), totals.data());
}

double add_penalty_gradient(Penalties penalties, Arrays grads, Arrays params, int threads) {
  const FloatEnvironment environment;
  check_alike("grads", grads, "params", params);
  check_penalties(penalties, params);
  check_disjoint("grads", grads, "params", params);
  for (const Penalty& p : penalties) {
    if (!info_of(p.kind).differentiable())
      bad_type("penalty", "L0 has no gradient; use its proximal operator");
    if (!p.weights.empty()) check_disjoint("grads", grads, "weights", p.weights);
  }
  const PenaltiesTable& table = *tables().penalties;
  const StorageTable& storage = *tables().storage;
  PreparedList list(penalties.size());
  prepare(list, table, penalties, 0);
  const WorkList work(params);
  SmallBuffer<double, 64> totals(work.blocks() * penalties.size());
  const Stages stages{table, storage, list, penalties.size(), Access::update};
  parallel((2 + arithmetic(penalties)) * work.elements(), threads, [&](Team team) {
    work.forward(team, [&](const Run& run) {
      const auto add = [&](std::size_t i, DType dtype, void* g, const void* w, const void* weights,
                           std::size_t n, std::int64_t start) {
        const std::size_t block =
            work.first_block(run.array) + static_cast<std::size_t>(start) / block_size;
        kernels_for(table, penalties[i], dtype)
            .add_gradient(g, w, weights, n, list[i].coefficients,
                          totals.data() + i * work.blocks() + block);
      };
      run_stages(stages, run, grads[run.array], params[run.array], add);
    });
  });
  return sum_of(work, params.size(), penalties.size(), totals.data());
}

void penalty_prox(Penalties penalties, Arrays out, Arrays params, double step, int threads) {
  const FloatEnvironment environment;
  const bool in_place = out.data() == params.data();
  const char* target = in_place ? "params" : "out";
  check_alike(target, out, "params", params);
  check_penalties(penalties, params);
  check_non_negative("step", step, false);
  const ProximalTerms terms = proximal_terms(penalties);
  const Penalty* other = terms.other;
  const Penalty ridge_term{PenaltyKind::l2, terms.ridge};
  const double rest = step / (1 + step * terms.ridge);
  if (other != nullptr) check_proximal_step("step", step, step, rest, *other);
  check_disjoint(target, out, "params", in_place ? Arrays() : params, true);
  if (other != nullptr && !other->weights.empty()) {
    check_disjoint(target, out, "weights", other->weights);
  }
  // The identity, where the formulas of some penalties round.
  const bool elastic = other != nullptr && other->kind == PenaltyKind::elastic_net;
  if (other != nullptr && rest * other->strength == 0 && !(elastic && rest * other->shape != 0))
    other = nullptr;

  const PenaltiesTable& table = *tables().penalties;
  const StorageTable& storage = *tables().storage;
  PreparedList list(2);
  std::size_t count = 0;
  const auto add_stage = [&](const Penalty& p, double t) {
    list[count++] = {&p, table.coefficients(p.kind, p.strength, p.shape, t)};
  };
  if (terms.ridge > 0 || other == nullptr) add_stage(ridge_term, step);
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
  const Stages stages{table, storage, list, count, Access::write};
  parallel((1 + arithmetic(penalties)) * work.elements(), threads, [&](Team team) {
    work.forward(team, [&](const Run& run) {
      const auto prox = [&](std::size_t i, DType dtype, void* y, const void* x, const void* weights,
                            std::size_t n, std::int64_t) {
        kernels_for(table, *list[i].penalty, dtype).prox(y, x, weights, n, list[i].coefficients);
      };
      run_stages(stages, run, out[run.array], params[run.array], prox);
    });
  });
}

}  // namespace ridgeline
