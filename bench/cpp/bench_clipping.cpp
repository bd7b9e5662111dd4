// Clipped data is within the limit the next time, so each row moves its limit instead of its data.
#include <limits>

#include <benchmark/benchmark.h>

#include "ridgeline/clipping.hpp"
#include "rows.hpp"

namespace ridgeline::bench {
namespace {

Op norm_of(const char* name, double ord) {
  return {name, {Pattern::read}, [ord](const Data& data, int threads) -> Call {
            return [=, arrays = data.grads] {
              benchmark::DoNotOptimize(global_norm(arrays, ord, threads));
            };
          }};
}

Op value_clips_nothing() {
  return {"clip_by_value_nothing", {Pattern::read}, [](const Data& data, int threads) -> Call {
            return [=, grads = data.grads] { clip_by_value(grads, -1000, 1000, threads); };
          }};
}

/// Limits above all elements and below all elements in turn: every call writes every element.
Op value_clips_everything() {
  return {
      "clip_by_value_everything", {Pattern::rewrite}, [](const Data& data, int threads) -> Call {
        return [=, grads = data.grads, above = false]() mutable {
          above = !above;
          clip_by_value(grads, above ? 2 : -3, above ? 3 : -2, threads);
        };
      }};
}

Op global_norm_within() {
  return {"clip_by_global_norm_within", {Pattern::read}, [](const Data& data, int threads) -> Call {
            return [=, grads = data.grads] {
              benchmark::DoNotOptimize(
                  clip_by_global_norm(grads, 1e9, 2, NonFinite::propagate, threads));
            };
          }};
}

/// The limit is below the norm by one part in 10^8. In float32 that factor is 1, and the data stay;
/// in float64 the limit goes down with the norm, by 1 % in a million calls.
Op global_norm_clips() {
  return {"clip_by_global_norm_clips",
          {Pattern::read, Pattern::rewrite},
          [](const Data& data, int threads) -> Call {
            constexpr double factor = 1 - 1e-8;
            const double limit = global_norm(data.grads) * factor;
            const double next = data.grads[0].dtype == DType::float64 ? factor : 1;
            return [=, grads = data.grads, limit = limit]() mutable {
              benchmark::DoNotOptimize(
                  clip_by_global_norm(grads, limit, 2, NonFinite::propagate, threads));
              limit *= next;
            };
          }};
}

}  // namespace

void add_clipping_rows() {
  add_rows(norm_of("global_norm_1", 1), all_dtypes);
  add_rows(norm_of("global_norm_2", 2), all_dtypes);
  add_rows(norm_of("global_norm_inf", std::numeric_limits<double>::infinity()), all_dtypes);
  add_rows(norm_of("global_norm_3", 3), all_dtypes);
  add_rows(value_clips_nothing(), all_dtypes);
  add_rows(value_clips_everything(), all_dtypes);
  add_rows(global_norm_within(), all_dtypes);
  add_rows(global_norm_clips(), all_dtypes);
}

}  // namespace ridgeline::bench
