// A step in tiles: everything is brought to the compute type, stepped and brought back, in stages.
#include <cstring>
#include <utility>

#include "kernels/clipping.hpp"
#include "ops/optimizers/step.hpp"

namespace ridgeline {

/// The values of the penalties over at most a tile.
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

/// Calls kernel(weights, offset, m) with the weights of a penalty in the compute type.
template <class Kernel>
void Step::with_wide_weights(const TileContext& t, const Penalty& p, Kernel&& kernel) const {
  with_weights(p, t.parameter().place, t.begin, t.n,
               [&](const void* weights, std::int64_t offset, std::size_t m) {
                 if (weights != nullptr && t.half()) {
                   tables_.storage->halves[index_of(t.dtype)].to_float32(
                       weights, m, reinterpret_cast<float*>(t.tiles.weights));
                   weights = t.tiles.weights;
                 }
                 kernel(weights, offset, m);
               });
}

void Step::add_gradients(TileContext& t) const {
  const Plan& plan = *t.e.plan;
  for (std::size_t i = 0; i < plan.group->penalties.size(); ++i) {
    const Penalty& p = plan.group->penalties[i];
    with_wide_weights(t, p, [&](const void* weights, std::int64_t offset, std::size_t m) {
      double unused = 0;
      kernels_for(*tables_.penalties, p, t.compute)
          .add_gradient(at_element(t.tiles.g, offset, t.compute),
                        at_element(t.x.w, offset, t.compute), weights, m,
                        plan.gradients[i].coefficients, &unused);
    });
  }
}

void Step::apply_prox(TileContext& t) const {
  const Plan& plan = *t.e.plan;
  const Penalty& other = *plan.proximal.other;
  const PenaltiesTable& table = *tables_.penalties;
  const PenaltyKernels& kernel = kernels_for(table, other, t.compute);
  const Numbers& numbers = numbers_[t.e.numbers];
  if (t.x.steps == nullptr && plan.proximal.ridge > 0) {
    table.kernels[static_cast<std::size_t>(PenaltyKind::l2)][index_of(t.compute)].prox(
        t.x.w, t.x.w, nullptr, t.n, numbers.ridge);
  }
  with_wide_weights(t, other, [&](const void* weights, std::int64_t offset, std::size_t m) {
    void* at = at_element(t.x.w, offset, t.compute);
    if (t.x.steps != nullptr) {
      kernel.prox_each(at, weights, at_element(t.x.steps, offset, t.compute), m, numbers.other,
                       plan.proximal.ridge);
    } else {
      kernel.prox(at, at, weights, m, numbers.other);
    }
  });
}

void Step::load_weights(TileContext& t, Pass pass) const {
  const OptimizerParameter& p = t.parameter();
  if (!t.half()) return;
  const HalfKernels& own = tables_.storage->halves[index_of(t.dtype)];
  auto* wide = reinterpret_cast<float*>(t.tiles.w);
  if (p.master != nullptr) {
    if (pass == Pass::update) wide = p.master + t.begin;
    own.adopt(t.w, p.master + t.begin, t.n, wide);
  } else if (p.compensation != nullptr) {
    own.join(t.w, at_element(p.compensation, t.begin, t.dtype), t.n, wide);
  } else {
    own.to_float32(t.w, t.n, wide);
  }
  t.x.w = wide;
}

/// tiles.g = clamp(g scale, low, high)
void Step::prepare_gradient(TileContext& t, DType from, const void* g, double scale, double low,
                            double high) const {
  tables_.optimizers->prepare[index_of(from)][t.wide() ? 1 : 0](g, t.n, scale, low, high,
                                                                t.tiles.g);
}

/// The same by the coefficients, which the kernel then need not apply.
void Step::prepare_clipped_gradient(TileContext& t, DType from, const void* g) const {
  prepare_gradient(t, from, g, t.c.scale, t.c.low, t.c.high);
  t.c.scale = 1;
  t.c.low = -infinite;
  t.c.high = infinite;
}

/// As if earlier gradients and this one had been added up in memory.
void Step::compose_gradient(TileContext& t, Pass pass) const {
  const DType given = grads_[t.array].dtype;
  const void* sum = t.parameter().sum;
  if (sum == nullptr) {
    prepare_gradient(t, given, t.g, options_.scale, -infinite, infinite);
  } else {
    std::memcpy(t.tiles.g, at_element(const_cast<void*>(sum), t.begin, t.compute),
                t.n * item_size(t.compute));
    if (t.g != nullptr) {
      tables_.optimizers->accumulate[index_of(given)][t.wide() ? 1 : 0](t.g, t.n, false,
                                                                        options_.scale, t.tiles.g);
    }
  }
  if (clips_sum_) {
    if (options_.sums) {
      prepare_gradient(t, t.compute, t.tiles.g, 1 / static_cast<double>(options_.accumulated),
                       -infinite, infinite);
    }
    if (t.e.plan->by_gradient) add_gradients(t);
  } else if (pass != Pass::gradient && t.e.plan->general_gradient()) {
    prepare_clipped_gradient(t, t.compute, t.tiles.g);
    add_gradients(t);
  }
}

/// The gradient in the compute type, as the kernels take it, who then multiply by c.scale.
void Step::load_gradient(TileContext& t, Pass pass) const {
  const bool general = t.e.plan->general_gradient();
  if (composed_) {
    compose_gradient(t, pass);
  } else if (general || grads_[t.array].dtype != t.compute) {
    prepare_clipped_gradient(t, grads_[t.array].dtype, t.g);
    if (general) add_gradients(t);
  } else {
    return;
  }
  t.x.g = t.tiles.g;
}

void Step::load_states(TileContext& t, bool narrow) const {
  const OptimizerParameter& p = t.parameter();
  const StorageTable& storage = *tables_.storage;
  for (int j = 0; j < state_count(options_.kind); ++j) {
    auto* wide = reinterpret_cast<float*>(t.tiles.states[j]);
    if (narrow) {
      t.x.states[j] = at_element(p.states[j], t.begin, DType::bfloat16);
      continue;
    }
    switch (p.state_type) {
    case StateType::compute:
      t.x.states[j] = at_element(p.states[j], t.begin, t.compute);
      continue;
    case StateType::bfloat16:
      storage.halves[index_of(DType::bfloat16)].to_float32(
          at_element(p.states[j], t.begin, DType::bfloat16), t.n, wide);
      break;
    case StateType::dynamic8:
      storage.decode[state_of_squares(options_.kind, j) ? 0 : 1](
          static_cast<const std::uint8_t*>(p.states[j]) + t.begin,
          p.scales[j] + t.begin / static_cast<std::int64_t>(code_block), t.n, wide);
      break;
    }
    t.x.states[j] = wide;
  }
}

/// The kernel, and what follows it where a penalty's proximal operator does not fit into it.
void Step::step_weights(TileContext& t) const {
  if (!t.e.plan->general_prox()) return t.e.kernel(t.x, t.n, t.c);
  const double lowest = std::exchange(t.c.lowest, -infinite);
  const double highest = std::exchange(t.c.highest, infinite);
  if (t.e.plan->group->prox == Prox::preconditioned) t.x.steps = t.tiles.steps;
  if (t.x.mask != nullptr) std::memcpy(t.tiles.saved, t.x.w, t.n * item_size(t.compute));
  t.e.kernel(t.x, t.n, t.c);
  apply_prox(t);
  if (lowest != -infinite || highest != infinite)
    tables_.clipping->kernels[index_of(t.compute)].clamp(t.x.w, t.n, lowest, highest);
  if (t.x.mask != nullptr)
    tables_.optimizers->restore[t.wide() ? 2 : 1](t.x.w, t.tiles.saved, t.n, t.x.mask);
}

/// The 16-bit copy of the weights. Where the mask is 0 it keeps its bits: rounding what was
/// widened gives them back, but splitting a sum need not.
void Step::store_weights(TileContext& t) const {
  if (!t.half()) return;
  const StorageTable& storage = *tables_.storage;
  const HalfKernels& own = storage.halves[index_of(t.dtype)];
  const auto* wide = static_cast<const float*>(t.x.w);
  void* low = t.parameter().compensation;
  if (low != nullptr) low = at_element(low, t.begin, t.dtype);
  Tiles& tiles = t.tiles;
  if (t.x.mask != nullptr) {
    std::memcpy(tiles.halves[0], t.w, t.n * 2);
    if (low != nullptr) std::memcpy(tiles.halves[1], low, t.n * 2);
  }
  if (low != nullptr) {
    own.split(wide, t.n, t.w, low);
  } else if (options_.stochastic_rounding) {
    storage.draw({t.e.key, 0, static_cast<std::uint64_t>(t.begin)}, t.n, tiles.random);
    own.round_randomly(wide, t.n, tiles.random, t.w);
  } else {
    own.from_float32(wide, t.n, t.w);
  }
  if (t.x.mask != nullptr) {
    const auto restore = tables_.optimizers->restore[0];
    restore(t.w, tiles.halves[0], t.n, t.x.mask);
    if (low != nullptr) restore(low, tiles.halves[1], t.n, t.x.mask);
  }
}

void Step::average_weights(TileContext& t) const {
  const OptimizerParameter& p = t.parameter();
  if (p.average == nullptr) return;
  if (t.half() && p.master == nullptr && p.compensation == nullptr) {  // of what is stored
    tables_.storage->halves[index_of(t.dtype)].to_float32(t.w, t.n, static_cast<float*>(t.x.w));
  }
  tables_.optimizers->average[t.wide() ? 1 : 0](t.x.w, t.n, options_.average_decay,
                                                at_element(p.average, t.begin, t.compute));
}

void Step::store_states(TileContext& t) const {
  const OptimizerParameter& p = t.parameter();
  const StorageTable& storage = *tables_.storage;
  if (p.state_type == StateType::compute) return;
  const bool halves = p.state_type == StateType::bfloat16;
  if (halves) storage.draw(*t.x.rounding, t.n, t.tiles.random);
  for (int j = 0; j < state_count(options_.kind); ++j) {
    const auto* wide = reinterpret_cast<const float*>(t.tiles.states[j]);
    if (halves) {
      storage.halves[index_of(DType::bfloat16)].round_randomly(
          wide, t.n, t.tiles.random, at_element(p.states[j], t.begin, DType::bfloat16));
    } else {
      storage.encode[state_of_squares(options_.kind, j) ? 0 : 1](
          wide, t.n, static_cast<std::uint8_t*>(p.states[j]) + t.begin,
          p.scales[j] + t.begin / static_cast<std::int64_t>(code_block));
    }
  }
}

void Step::tile(TileContext& t, Pass pass, Measure& total) {
  t.x = {t.w, t.g, {}, t.e.mask_at(t.begin), nullptr};
  // Of the states, the same for all of them.
  const Rounding rounding{t.e.key, 1, static_cast<std::uint64_t>(t.begin)};
  t.x.rounding = &rounding;
  const bool narrow = t.e.path == Path::narrow && pass == Pass::update;
  load_weights(t, pass);
  load_gradient(t, pass);
  if (pass == Pass::gradient) return;
  load_states(t, narrow);
  if (pass == Pass::measure) {
    double squares = 0, agreed = 0;
    kernels(t.compute).squares(t.x, t.n, t.c, &squares, &agreed);
    total.squares += squares;
    total.agreed += agreed;
    return;
  }
  step_weights(t);
  store_weights(t);
  average_weights(t);
  if (!narrow) store_states(t);
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
           part += tile_size) {
        const auto skip = static_cast<std::int64_t>(part);
        add_values(e, run.array, begin + skip, std::min<std::size_t>(tile_size, n - part),
                   at_element(own, skip, w.dtype));
      }
      Measure sum;
      for (std::size_t part = 0; part < n; part += tile_size) {
        const auto skip = static_cast<std::int64_t>(part);
        const std::size_t length = std::min<std::size_t>(tile_size, n - part);
        const void* from = at[1] == nullptr ? nullptr : at_element(at[1], offset + skip, g.dtype);
        TileContext t{e,
                      run.array,
                      begin + skip,
                      length,
                      w.dtype,
                      compute_dtype(w.dtype),
                      at_element(own, skip, w.dtype),
                      from,
                      c,
                      {},
                      tiles};
        tile(t, pass, sum);
        if (pass == Pass::gradient) {
          std::memcpy(at_element(gradient, first + offset + skip, t.compute), tiles.g,
                      length * item_size(t.compute));
        }
      }
      if (pass == Pass::measure) {
        const std::size_t block =
            work_.first_block(run.array) + static_cast<std::size_t>(begin) / block_size;
        measured_[block] = sum.squares;
        agreed_[block] = sum.agreed;
      }
    }
  });
}

}  // namespace ridgeline
