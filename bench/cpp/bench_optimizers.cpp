// Rates are so small that no bit of a parameter changes, but for FTRL, which computes it anew. The
// moments settle at the gradient and its square: no row meets denormals.
#include <algorithm>
#include <cstring>
#include <memory>

#include <benchmark/benchmark.h>

#include "ridgeline/optimizers.hpp"
#include "rows.hpp"

namespace ridgeline::bench {
namespace {

constexpr double tiny_rate = 1e-24;

struct Extras {
  bool clip = false;
  bool l1 = false;
  StateType states = StateType::compute;
};

std::size_t state_bytes(const Array& array, StateType type) {
  const auto n = static_cast<std::size_t>(array.size);
  const std::size_t compute = array.dtype == DType::float64 ? 8 : 4;
  return n * (type == StateType::dynamic8 ? 1 : type == StateType::bfloat16 ? 2 : compute);
}

bool is_schedule_free(OptimizerKind kind) {
  return kind == OptimizerKind::schedule_free_sgd || kind == OptimizerKind::schedule_free_adamw;
}

/// What an optimizer keeps between the steps of a row. States are in the third and fourth region.
class Steps {
 public:
  Steps(const Data& data, OptimizerKind kind, const Extras& extras, int threads)
      : params_(data.params), grads_(data.grads), state_(data.params.size()),
        scales_(data.params.size() * 2) {
    options_.kind = kind;
    options_.threads = threads;
    if (extras.clip) {
      options_.clip = StepOptions::Clip::global_norm;
      options_.max_norm = global_norm(data.grads) / 2;
      options_.on_nonfinite = NonFinite::skip;
    }
    group_.lr = kind == OptimizerKind::ftrl ? 1e-3 : tiny_rate;
    group_.weight_decay = 0.1;
    group_.beta1 = group_.momentum = 0.9;
    group_.beta2 = kind == OptimizerKind::lion ? 0.99 : 0.999;
    group_.eps = 1e-8;
    group_.momentum_decay = 4e-3;
    group_.beta = 1;
    if (extras.l1) {
      group_.penalties = {&penalty_, 1};
      group_.prox = Prox::plain;
    }
    add_states(data, extras.states);
  }
  Steps(const Steps&) = delete;
  Steps& operator=(const Steps&) = delete;

  void step() {
    benchmark::DoNotOptimize(optimizer_step(options_, {&group_, 1}, state_, params_, grads_));
    options_.checked = true;
    ++options_.step;
  }

 private:
  void add_states(const Data& data, StateType type) {
    const std::vector<Array>* const regions[] = {&data.out, &data.more};
    const int count = state_count(options_.kind);
    for (int s = 0; s < count; ++s) {
      auto* at = static_cast<std::byte*>(regions[s]->front().data);
      for (std::size_t k = 0; k < params_.size(); ++k) {
        const std::size_t bytes = state_bytes(params_[k], type);
        const auto blocks =
            (static_cast<std::size_t>(params_[k].size) + code_block - 1) / code_block;
        state_[k].number = k;
        state_[k].place = k;
        state_[k].state_type = type;
        state_[k].states[s] = at;
        if (s == 0 && is_schedule_free(options_.kind)) {  // z, which is weights
          std::memcpy(at, params_[k].data, bytes);
        } else {
          std::fill(at, at + bytes, std::byte{0});
        }
        if (type == StateType::dynamic8) {
          std::vector<float>& scales = scales_[2 * k + static_cast<std::size_t>(s)];
          scales.assign(blocks, 0);
          state_[k].scales[s] = scales.data();
        }
        at += bytes;
      }
    }
  }

  std::vector<Array> params_, grads_;
  std::vector<OptimizerParameter> state_;
  std::vector<std::vector<float>> scales_;
  Penalty penalty_{PenaltyKind::l1, 1e-6};
  OptimizerGroup group_;
  StepOptions options_;
};

Op op_of(const std::string& name, OptimizerKind kind, std::vector<Pattern> passes, Extras extras,
         On on = On::usual) {
  return {name, std::move(passes),
          [kind, extras](const Data& data, int threads) -> Call {
            const auto steps = std::make_shared<Steps>(data, kind, extras, threads);
            return [steps] { steps->step(); };
          },
          on};
}

}  // namespace

void add_optimizer_rows() {
  const auto adam = OptimizerKind::adam;
  const std::vector<DType> single = {DType::float32};
  const std::vector<DType> same = {DType::float32, DType::float64};  // states as large as elements
  const std::vector<DType> halves = {DType::bfloat16, DType::float16};
  const Extras clip{.clip = true};
  const Extras all{.clip = true, .l1 = true};

  add_rows(op_of("adamw", adam, {Pattern::adam}, {}), same);
  add_rows(op_of("adamw", adam, {Pattern::adam_wide}, {}), halves);
  add_rows(op_of("adamw_clip", adam, {Pattern::read, Pattern::adam}, clip), same);
  add_rows(op_of("adamw_clip", adam, {Pattern::read, Pattern::adam_wide}, clip), halves);
  add_rows(op_of("adamw_clip_l1", adam, {Pattern::read, Pattern::adam}, all, On::workload), same);
  add_rows(op_of("adamw_clip_l1", adam, {Pattern::read, Pattern::adam_wide}, all), halves);
  add_rows(op_of("adamw_clip_l1_bf16_states", adam, {Pattern::read, Pattern::adam_narrow},
                 {.clip = true, .l1 = true, .states = StateType::bfloat16}),
           single);
  add_rows(op_of("adamw_clip_l1_8bit_states", adam, {Pattern::read, Pattern::adam_bytes},
                 {.clip = true, .l1 = true, .states = StateType::dynamic8}),
           single);
  add_rows(op_of("momentum_clip_l1", OptimizerKind::momentum, {Pattern::read, Pattern::momentum},
                 all, On::workload),
           same);
  add_rows(op_of("sgd", OptimizerKind::sgd, {Pattern::add}, {}), all_dtypes);
  // Not those with three states (amsgrad, ademamix): two regions are left for them.
  for (const OptimizerKind kind :
       {OptimizerKind::nadam, OptimizerKind::rmsprop, OptimizerKind::adagrad, OptimizerKind::lion,
        OptimizerKind::ftrl, OptimizerKind::schedule_free_sgd,
        OptimizerKind::schedule_free_adamw}) {
    const Pattern pattern = state_count(kind) == 1 ? Pattern::momentum : Pattern::adam;
    add_rows(op_of(info_of(kind).name, kind, {pattern}, {}), same);
  }
}

}  // namespace ridgeline::bench
