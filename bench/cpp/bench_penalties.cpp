// Values and gradients do not change what they cost. Proximal steps are taken so small that x stays
// x to the last bit, by the same instructions as any other step.
#include <benchmark/benchmark.h>

#include "ridgeline/penalties.hpp"
#include "rows.hpp"

namespace ridgeline::bench {
namespace {

struct Named {
  const char* name;
  Penalty penalty;
};

constexpr double strength = 1e-6;
constexpr double tiny_step = 1e-24;

const Named common[] = {{"l1", {PenaltyKind::l1, strength}},
                        {"l2", {PenaltyKind::l2, strength}},
                        {"elastic_net", {PenaltyKind::elastic_net, strength, strength}}};
const Named others[] = {{"mcp", {PenaltyKind::mcp, strength, 3}},
                        {"scad", {PenaltyKind::scad, strength, 3.7}},
                        {"huber", {PenaltyKind::huber, strength, 1}},
                        {"log_sum", {PenaltyKind::log_sum, strength, 0.1}},
                        {"l_half", {PenaltyKind::l_half, strength}},
                        {"l0", {PenaltyKind::l0, strength}}};

Op value_of(const Named& named) {
  const Penalty penalty = named.penalty;
  return {std::string("value_") + named.name,
          {Pattern::read},
          [penalty](const Data& data, int threads) -> Call {
            return [=, params = data.params] {
              benchmark::DoNotOptimize(penalty_value({&penalty, 1}, params, threads));
            };
          }};
}

Op gradient_of(const Named& named) {
  const Penalty penalty = named.penalty;
  return {std::string("add_gradient_") + named.name,
          {Pattern::add},
          [penalty](const Data& data, int threads) -> Call {
            return [=, grads = data.grads, params = data.params] {
              benchmark::DoNotOptimize(add_penalty_gradient({&penalty, 1}, grads, params, threads));
            };
          },
          penalty.kind == PenaltyKind::elastic_net ? On::workload : On::usual};
}

Op prox_of(const Named& named) {
  const Penalty penalty = named.penalty;
  return {std::string("prox_") + named.name,
          {Pattern::rewrite},
          [penalty](const Data& data, int threads) -> Call {
            return [=, x = data.grads] { penalty_prox({&penalty, 1}, x, x, tiny_step, threads); };
          }};
}

/// Into another array; `pattern` says whose roof.
Op prox_out_of(const Named& named, Pattern pattern) {
  const Penalty penalty = named.penalty;
  const char* roof = pattern == Pattern::stream ? "_out_stream" : "_out";
  return {std::string("prox_") + named.name + roof,
          {pattern},
          [penalty](const Data& data, int threads) -> Call {
            return [=, x = data.grads, out = data.out] {
              penalty_prox({&penalty, 1}, out, x, tiny_step, threads);
            };
          }};
}

}  // namespace

void add_penalty_rows() {
  for (const Named& named : common) {
    add_rows(value_of(named), all_dtypes);
    add_rows(gradient_of(named), all_dtypes);
  }
  add_rows(prox_of(common[0]), all_dtypes);
  add_rows(prox_out_of(common[0], Pattern::copy), all_dtypes);
  add_rows(prox_out_of(common[0], Pattern::stream), all_dtypes);
  for (const Named& named : others) {
    if (named.penalty.kind != PenaltyKind::l0) add_rows(gradient_of(named), {DType::float32});
    add_rows(prox_of(named), {DType::float32});
  }
}

}  // namespace ridgeline::bench
