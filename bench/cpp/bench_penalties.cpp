// Values and gradients do not change what they cost. Proximal steps are taken so small that x stays
// x to the last bit, by the same instructions as any other step.
#include <benchmark/benchmark.h>

#include "ridgeline/penalties.hpp"
#include "rows.hpp"

namespace ridgeline::bench {
namespace {

constexpr double strength = 1e-6;
constexpr double tiny_step = 1e-24;

Penalty penalty_of(PenaltyKind kind) { return {kind, strength, info_of(kind).usual}; }

Op value_of(PenaltyKind kind) {
  const Penalty penalty = penalty_of(kind);
  return {std::string("value_") + info_of(kind).name,
          {Pattern::read},
          [penalty](const Data& data, int threads) -> Call {
            return [=, params = data.params] {
              benchmark::DoNotOptimize(penalty_value({&penalty, 1}, params, threads));
            };
          }};
}

Op gradient_of(PenaltyKind kind) {
  const Penalty penalty = penalty_of(kind);
  return {std::string("add_gradient_") + info_of(kind).name,
          {Pattern::add},
          [penalty](const Data& data, int threads) -> Call {
            return [=, grads = data.grads, params = data.params] {
              benchmark::DoNotOptimize(add_penalty_gradient({&penalty, 1}, grads, params, threads));
            };
          },
          penalty.kind == PenaltyKind::elastic_net ? On::workload : On::usual};
}

Op prox_of(PenaltyKind kind) {
  const Penalty penalty = penalty_of(kind);
  return {std::string("prox_") + info_of(kind).name,
          {Pattern::rewrite},
          [penalty](const Data& data, int threads) -> Call {
            return [=, x = data.grads] { penalty_prox({&penalty, 1}, x, x, tiny_step, threads); };
          }};
}

/// Into another array; `pattern` says whose roof.
Op prox_out_of(PenaltyKind kind, Pattern pattern) {
  const Penalty penalty = penalty_of(kind);
  const char* roof = pattern == Pattern::stream ? "_out_stream" : "_out";
  return {std::string("prox_") + info_of(kind).name + roof,
          {pattern},
          [penalty](const Data& data, int threads) -> Call {
            return [=, x = data.grads, out = data.out] {
              penalty_prox({&penalty, 1}, out, x, tiny_step, threads);
            };
          }};
}

}  // namespace

void add_penalty_rows() {
  const auto l1 = PenaltyKind::l1;
  for (std::size_t i = 0; i < penalty_kind_count; ++i) {
    const auto kind = static_cast<PenaltyKind>(i);
    const PenaltyInfo& info = penalty_list[i];
    if (info.weighted()) continue;
    const bool common = kind == l1 || kind == PenaltyKind::l2 || kind == PenaltyKind::elastic_net;
    const std::vector<DType> dtypes = common ? all_dtypes : std::vector{DType::float32};
    if (common) add_rows(value_of(kind), dtypes);
    if (info.differentiable()) add_rows(gradient_of(kind), dtypes);
    if (!common || kind == l1) add_rows(prox_of(kind), dtypes);
  }
  add_rows(prox_out_of(l1, Pattern::copy), all_dtypes);
  add_rows(prox_out_of(l1, Pattern::stream), all_dtypes);
}

}  // namespace ridgeline::bench
