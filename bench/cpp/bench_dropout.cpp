#include "ridgeline/dropout.hpp"
#include "rows.hpp"

namespace ridgeline::bench {
namespace {

constexpr Key key{1};

/// f(x, other, out) for each array.
template <class F>
Op op_of(const std::string& name, std::vector<Pattern> passes, F f) {
  return {name, std::move(passes), [f](const Data& data, int threads) -> Call {
            return [=] {
              for (std::size_t k = 0; k < data.grads.size(); ++k)
                f(data.grads[k], data.params[k], data.out[k], threads);
            };
          }};
}

/// The gradient goes into an array of its own.
Op forward_backward() {
  return {"dropout_50_forward_backward",
          {Pattern::copy, Pattern::copy},
          [](const Data& data, int threads) -> Call {
            return [=] {
              for (std::size_t k = 0; k < data.grads.size(); ++k) {
                dropout(data.grads[k], data.out[k], 0.5, key, {}, threads);
                dropout(data.params[k], data.more[k], 0.5, key, {}, threads);
              }
            };
          },
          On::array};
}

/// One choice for each channel of (samples, 4, 16, 16).
Op spatial_dropout() {
  return {"spatial_dropout_50",
          {Pattern::copy},
          [](const Data& data, int threads) -> Call {
            const Array& x = data.grads[0];
            const std::int64_t shape[] = {x.size / 1024, 4, 16, 16};
            const std::int64_t strides[] = {4, 1, 0, 0};
            return [=, out = data.out[0], numbering = Numbering(0, shape, strides)] {
              dropout(x, out, 0.5, key, numbering, threads);
            };
          },
          On::array};
}

}  // namespace

void add_dropout_rows() {
  const auto copy = {Pattern::copy};
  const auto rewrite = {Pattern::rewrite};
  for (const double p : {0.5, 0.1}) {
    const std::string rate = p == 0.5 ? "50" : "10";
    add_rows(op_of("dropout_" + rate, copy,
                   [p](const Array& x, const Array&, const Array& out, int threads) {
                     dropout(x, out, p, key, {}, threads);
                   }),
             all_dtypes);
    add_rows(op_of("dropout_" + rate + "_in_place", rewrite,
                   [p](const Array& x, const Array&, const Array&, int threads) {
                     dropout(x, x, p, key, {}, threads);
                   }),
             all_dtypes);
  }
  add_rows(op_of("dropout_add_10", {Pattern::add},
                 [](const Array& x, const Array& residual, const Array& out, int threads) {
                   dropout_add(x, residual, out, 0.1, key, {}, threads);
                 }),
           all_dtypes);
  add_rows(op_of("alpha_dropout_10", copy,
                 [](const Array& x, const Array&, const Array& out, int threads) {
                   alpha_dropout(x, out, 0.1, key, {}, threads);
                 }),
           all_dtypes);
  add_rows(op_of("gaussian_dropout_10", copy,
                 [](const Array& x, const Array&, const Array& out, int threads) {
                   gaussian_dropout(x, out, 0.1, key, {}, threads);
                 }),
           all_dtypes);
  add_rows(op_of("gaussian_noise", copy,
                 [](const Array& x, const Array&, const Array& out, int threads) {
                   gaussian_noise(x, out, 0.1, key, {}, threads);
                 }),
           all_dtypes);
  add_rows(forward_backward(), all_dtypes);
  add_rows(spatial_dropout(), all_dtypes);
  add_rows(op_of("uniform", {Pattern::write},
                 [](const Array&, const Array&, const Array& out, int threads) {
                   random_uniform(out, key, {}, threads);
                 }),
           all_dtypes);
  add_rows(op_of("normal", {Pattern::write},
                 [](const Array&, const Array&, const Array& out, int threads) {
                   random_normal(out, key, 0, 1, {}, threads);
                 }),
           all_dtypes);
}

}  // namespace ridgeline::bench
