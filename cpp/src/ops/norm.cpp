#include "ops/norm.hpp"

#include <cmath>
#include <limits>

namespace ridgeline {
namespace {

constexpr double infinite = std::numeric_limits<double>::infinity();

double add(double a, double b) { return a + b; }
/// The larger one; NaN if either is NaN.
double larger(double a, double b) { return b > a || std::isnan(b) ? b : a; }

/// How many passes a norm may take: sums, largest magnitudes, sums of scaled powers.
std::size_t passes(Arrays arrays, double ord, bool sourced) {
  if (ord == infinite) return 1;
  if (ord != 1 && ord != 2) return 2;
  const auto wide = [](const Array& array) { return array.dtype == DType::float64; };
  return sourced || std::any_of(arrays.begin(), arrays.end(), wide) ? 3 : 1;
}

}  // namespace

NormPass::NormPass(const ClippingTable& table, Arrays arrays, const WorkList& work, double ord,
                   TeamSize team, NormSource* source)
    : table_(table), arrays_(arrays), work_(work), ord_(ord), source_(source),
      totals_(work.blocks() * passes(arrays, ord, source != nullptr)), stride_(arrays.size() + 2),
      parts_(stride_ * static_cast<std::size_t>(team.most)) {}

template <class Kernel>
double* NormPass::reduce(Team team, const Norms* rescaled, std::size_t pass, Kernel kernel) {
  double* totals = totals_.data() + pass * work_.blocks();
  work_.forward(team, [&](const Run& run) {
    if (rescaled != nullptr && !rescaled->parts_[run.array].rescale) return;
    if (source_ != nullptr) {
      const ScratchArray<double> block(block_size);
      constexpr auto step = static_cast<std::int64_t>(block_size);
      for (std::int64_t done = 0; done < run.count; done += step) {
        const auto n = static_cast<std::size_t>(std::min(step, run.count - done));
        source_->read(run.array, run.begin + done, n, block.data());
        kernel(run.array, block.data(), n, totals + run.block + done / step);
      }
      return;
    }
    const Operand operands[] = {{&arrays_[run.array], Access::read}};
    on_memory(operands, run.begin, run.count, [&](void** at, std::int64_t first, std::size_t n) {
      kernel(run.array, at[0], n,
             totals + run.block + first / static_cast<std::int64_t>(block_size));
    });
  });
  team.barrier();
  return totals;
}

Norms NormPass::run(Team team) {
  Norms norms;
  norms.parts_ = parts_.data() + stride_ * static_cast<std::size_t>(team.rank);
  norms.count_ = arrays_.size();
  norms.ord_ = ord_;
  norms.power_ = table_.power;
  const bool direct = ord_ == 1 || ord_ == 2;
  std::size_t pass = 0;
  const double* sums = nullptr;
  if (direct) {
    sums = reduce(team, nullptr, pass++,
                  [&](std::size_t k, const void* x, std::size_t n, double* totals) {
                    ord_ == 1 ? kernels(k).sum_magnitudes(x, n, totals)
                              : kernels(k).sum_squares(x, n, totals);
                  });
  }
  bool rescale_any = false;
  for (std::size_t k = 0; k < arrays_.size(); ++k) {
    const double sum = direct ? combine_blocks(work_, sums, k, add) : 0;
    // Squares of float64 overflow above 1e154 and lose bits below 1e-146; those of float32 cannot.
    const bool out_of_range =
        dtype(k) == DType::float64 && (sum > 1e300 || (ord_ == 2 && sum < 1e-280));
    const bool rescale = (!direct || out_of_range) && arrays_[k].size > 0;
    norms.parts_[k] = {sum, 1, rescale, std::isfinite(sum)};
    rescale_any = rescale_any || rescale;
  }
  if (!rescale_any) return norms;

  const double* largest = reduce(team, &norms, pass++,
                                 [&](std::size_t k, const void* x, std::size_t n, double* totals) {
                                   kernels(k).max_magnitude(x, n, totals);
                                 });
  rescale_any = false;
  for (std::size_t k = 0; k < arrays_.size(); ++k) {
    Norms::Part& part = norms.parts_[k];
    if (!part.rescale) continue;
    part.scale = combine_blocks(work_, largest, k, larger);
    part.finite = std::isfinite(part.scale);
    part.sum = 1;  // the norm is the scale if that is all there is to it: ord inf, 0, inf, NaN
    part.rescale = ord_ != infinite && part.finite && part.scale != 0;
    rescale_any = rescale_any || part.rescale;
  }
  if (!rescale_any) return norms;

  const double* powers =
      reduce(team, &norms, pass, [&](std::size_t k, const void* x, std::size_t n, double* totals) {
        kernels(k).sum_powers(x, n, norms.parts_[k].scale, ord_, totals);
      });
  for (std::size_t k = 0; k < arrays_.size(); ++k) {
    Norms::Part& part = norms.parts_[k];
    if (part.rescale) part.sum = combine_blocks(work_, powers, k, add);
  }
  return norms;
}

double Norms::root(double sum) const {
  if (ord_ == 1 || ord_ == infinite) return sum;
  return ord_ == 2 ? std::sqrt(sum) : power_(sum, 1 / ord_);
}

double Norms::norm(std::size_t array) const {
  const Part& part = parts_[array];
  return part.scale == 1 ? root(part.sum) : part.scale * root(part.sum);
}

double Norms::total() const {
  double scale = 0;
  for (std::size_t k = 0; k < count_; ++k) {
    const Part& part = parts_[k];
    // A sum of float32 is not rescaled: it may itself be infinite or NaN.
    if (part.sum != 0) scale = larger(scale, std::isfinite(part.sum) ? part.scale : part.sum);
  }
  if (ord_ == infinite || scale == 0 || !std::isfinite(scale)) return scale;
  double sum = 0;
  for (std::size_t k = 0; k < count_; ++k) {
    const Part& part = parts_[k];
    if (part.scale == scale) {
      sum += part.sum;
    } else {
      const double ratio = part.scale / scale;
      sum += part.sum * (ord_ == 2 ? ratio * ratio : power_(ratio, ord_));
    }
  }
  return scale == 1 ? root(sum) : scale * root(sum);
}

std::ptrdiff_t Norms::first_nonfinite() const {
  for (std::size_t k = 0; k < count_; ++k) {
    if (!parts_[k].finite) return static_cast<std::ptrdiff_t>(k);
  }
  return -1;
}

}  // namespace ridgeline
