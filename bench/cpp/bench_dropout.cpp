#include "ridgeline/dropout.hpp"
#include "rows.hpp"

namespace ridgeline::bench {
namespace {

constexpr Key key{1};

/// f(x, other, out) for each array.
template <class F>
Op op_of(const char* name, std::vector<Pattern> passes, F f) {
  return {name, std::move(passes), [f](const Data& data, int threads) -> Call {
            return [=] {
              for (std::size_t k = 0; k < data.grads.size(); ++k)
                f(data.grads[k], data.params[k], data.out[k], threads);
            };
          }};
}

}  // namespace

void add_dropout_rows() {
  const auto copy = {Pattern::copy};
  const auto rewrite = {Pattern::rewrite};
  for (const double p : {0.5, 0.1}) {
    const std::string rate = p == 0.5 ? "50" : "10";
    add_rows(op_of(("dropout_" + rate).c_str(), copy,
                   [p](const Array& x, const Array&, const Array& out, int threads) {
                     dropout(x, out, p, key, {}, threads);
                   }),
             all_dtypes);
    add_rows(op_of(("dropout_" + rate + "_in_place").c_str(), rewrite,
                   [p](const Array& x, const Array&, const Array&, int threads) {
                     dropout(x, x, p, key, {}, threads);
                   }),
             {DType::float32});
  }
  add_rows(op_of("dropout_add_10", {Pattern::add},
                 [](const Array& x, const Array& residual, const Array& out, int threads) {
                   dropout_add(x, residual, out, 0.1, key, {}, threads);
                 }),
           {DType::float32, DType::bfloat16});
  add_rows(op_of("alpha_dropout_10", copy,
                 [](const Array& x, const Array&, const Array& out, int threads) {
                   alpha_dropout(x, out, 0.1, key, {}, threads);
                 }),
           {DType::float32, DType::bfloat16});
  add_rows(op_of("gaussian_dropout_10", copy,
                 [](const Array& x, const Array&, const Array& out, int threads) {
                   gaussian_dropout(x, out, 0.1, key, {}, threads);
                 }),
           {DType::float32, DType::float64});
  add_rows(op_of("uniform", {Pattern::write},
                 [](const Array&, const Array&, const Array& out, int threads) {
                   random_uniform(out, key, {}, threads);
                 }),
           {DType::float32, DType::float64});
  add_rows(op_of("normal", {Pattern::write},
                 [](const Array&, const Array&, const Array& out, int threads) {
                   random_normal(out, key, 0, 1, {}, threads);
                 }),
           {DType::float32, DType::float64});
}

}  // namespace ridgeline::bench
