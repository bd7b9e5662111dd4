// Clipped data is within the limit the next time, so each row moves its limit instead of its data.
#include <algorithm>
#include <limits>
#include <vector>

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
          },
          On::workload};
}

using ClipEach = void (*)(Arrays, double limit, std::span<double> before, int threads);

/// The same for each array of its own, from a limit below all. One float32 array stays as it is;
/// those of a list have been rounded to either side of the limit, so it goes down by more than
/// that: by half in a million calls.
Op clips_each(const char* name, ClipEach clip) {
  return {name, {Pattern::read, Pattern::rewrite}, [clip](const Data& data, int threads) -> Call {
            constexpr double factor = 1 - 1e-8;
            const bool narrow = data.grads[0].dtype != DType::float64;
            const double next = !narrow ? factor : data.grads.size() == 1 ? 1 : 1 - 1e-6;
            std::vector<double> before(data.grads.size());
            clip(data.grads, 1e9, before, threads);
            const double limit = *std::min_element(before.begin(), before.end()) * factor;
            return [=, grads = data.grads, limit = limit]() mutable {
              clip(grads, limit, before, threads);
              limit *= next;
            };
          }};
}

/// The largest element is there again for each call.
Op zeroes_largest() {
  return {"zero_largest_1", {Pattern::read}, [](const Data& data, int threads) -> Call {
            return [=, grads = data.grads] {
              for (const Array& array : grads)
                *static_cast<float*>(array.data) = 100;
              zero_largest(grads, 1, threads);
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
  add_rows(clips_each("clip_by_norm_clips",
                      [](Arrays grads, double limit, std::span<double> norms, int threads) {
                        clip_by_norm(grads, limit, 2, norms, threads);
                      }),
           all_dtypes);
  add_rows(clips_each("clip_by_rms_clips", &clip_by_rms), all_dtypes);
  add_rows(zeroes_largest(), {DType::float32});
}

}  // namespace ridgeline::bench
