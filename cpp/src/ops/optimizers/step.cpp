// The passes of a step over all parameters: norm, measure, update, report.
#include <cmath>

#include "ops/bits.hpp"
#include "ops/checks.hpp"
#include "ops/optimizers/step.hpp"

namespace ridgeline {

StepCoefficients Step::coefficients_for(const Entry& e, double scale, double update_factor) const {
  StepCoefficients c = numbers_[e.numbers].step;
  c.keep = e.keep;
  c.scale = scale;
  if (clips_sum_) c.gradient_l1 = c.gradient_l2 = 0;
  c.gradient_l2 += e.coupled;
  c.decay = e.decay;
  c.cautious = options_.cautious;
  if (options_.clip == StepOptions::Clip::value) {
    c.low = options_.low;
    c.high = options_.high;
  }
  c.step *= update_factor;
  c.second_step *= update_factor;
  return c;
}

/// What the update is scaled by: what a cautious step has left of it, to its former size; then to
/// keep its root mean square, in learning rates, within the limit.
double Step::update_factor(std::size_t array) const {
  const double lr = numbers_[entries_[array].numbers].step.rate;
  const std::int64_t size = params_[array].size;
  if (!measures() || lr == 0 || size == 0) return 1;
  const auto total = [&](const std::vector<double>& blocks) {
    return combine_blocks(work_, blocks.data(), array, [](double a, double b) { return a + b; });
  };
  double factor = 1;
  if (options_.cautious) {
    const std::uint64_t* mask = state_[array].mask;
    const std::int64_t there = mask == nullptr ? size : count_bits(mask, size);
    factor =
        1 / std::max(total(agreed_) / static_cast<double>(std::max<std::int64_t>(there, 1)), 1e-3);
  }
  if (!options_.max_update_rms) return factor;
  const double rms = std::sqrt(total(measured_) / static_cast<double>(size)) / lr * factor;
  return rms > *options_.max_update_rms ? factor * (*options_.max_update_rms / rms) : factor;
}

/// The sum of the penalties' values, group by group.
void Step::add_penalties(StepReport& report) {
  for (std::size_t k = 0; k < params_.size(); ++k) {
    const std::size_t group = state_[k].group;
    for (std::size_t i = 0; i < plans_[group]->group->penalties.size(); ++i) {
      value_sums_[group * values_ + i] +=
          combine_blocks(work_, value_totals_.data() + i * work_.blocks(), k,
                         [](double a, double b) { return a + b; });
    }
  }
  for (const double sum : value_sums_)
    report.penalty += sum;
}

/// A run of float32 or float64 memory that the kernel reads and writes itself.
void Step::direct_run(const Entry& e, const Run& run, const StepCoefficients& c) {
  const DType dtype = params_[run.array].dtype;
  // Values tile by tile: the loads of one tile's step go on below the values of the next.
  const std::int64_t length = e.plan->penalized() ? tile_size : run.count;
  for (std::int64_t done = 0; done < run.count; done += length) {
    const std::int64_t begin = run.begin + done;
    const auto n = static_cast<std::size_t>(std::min(length, run.count - done));
    StepOperands x{at_element(params_[run.array].data, begin, dtype),
                   at_element(grads_[run.array].data, begin, dtype),
                   {},
                   e.mask_at(begin),
                   nullptr};
    for (int j = 0; j < state_count(options_.kind); ++j)
      x.states[j] = at_element(e.parameter->states[j], begin, dtype);
    if (e.plan->penalized()) add_values(e, run.array, begin, n, x.w);
    e.kernel(x, n, c);
  }
}

void Step::update_run(const Run& run, double scale, double update_factor) {
  const Entry& e = entries_[run.array];
  const StepCoefficients c = coefficients_for(e, scale, update_factor);
  e.path == Path::direct ? direct_run(e, run, c) : tiled_run(e, run, c, Pass::update);
}

/// At most a block of the gradient as it is clipped, for the norm.
void Step::read(std::size_t array, std::int64_t begin, std::size_t n, void* out) {
  const Entry& e = entries_[array];
  const Run run{array, begin, static_cast<std::int64_t>(n), 0};
  tiled_run(e, run, coefficients_for(e, 1, 1), Pass::gradient, out);
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
  if (measures()) {
    measured_.resize(work_.blocks());
    agreed_.resize(work_.blocks());
  }
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

    if (measures()) {
      work_.forward(team, [&](const Run& run) {
        const Entry& e = entries_[run.array];
        const double scale = own * factor_of(run.array);
        tiled_run(e, run, coefficients_for(e, scale, 1), Pass::measure);
      });
      team.barrier();
    }
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
  add_penalties(report);
  for (std::size_t k = 0; k < n; ++k) {
    ++state_[k].steps;
    const Progress& now = numbers_[entries_[k].numbers].progress;
    state_[k].product = now.product;
    state_[k].weight_sum = now.weight_sum;
    state_[k].largest_rate = now.largest_rate;
  }
  return report;
}

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

void move_weights(WeightsAt to, const StepOptions& options, std::span<const OptimizerGroup> groups,
                  std::span<const OptimizerParameter> state, Arrays params) {
  const FloatEnvironment environment;
  if (!is_schedule_free(options.kind))
    bad_value("kind", "got a rule whose weights are in one place, wants a schedule-free one");
  // A step of nothing but the mean, on gradients of zeros.
  StepOptions plain;
  plain.kind = options.kind;
  plain.stochastic_rounding = options.stochastic_rounding;
  plain.key = options.key;
  plain.step = options.step;
  plain.checked = true;
  plain.threads = options.threads;
  std::vector<OptimizerGroup> bare(groups.begin(), groups.end());
  for (OptimizerGroup& group : bare) {
    group.weight_decay = 0;
    group.penalties = {};
  }
  std::vector<OptimizerParameter> own(state.begin(), state.end());
  for (OptimizerParameter& p : own)
    p.average = nullptr;
  double zero = 0;
  std::vector<Array> grads;
  const std::int64_t stride = 0;
  for (const Array& w : params)
    grads.emplace_back(&zero, w.dtype, std::span(&w.size, 1), std::span(&stride, 1));
  Step(plain, bare, own, params, grads, to).run();
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
