#include "ops/norm.hpp"

#include <cmath>
#include <limits>

namespace ridgeline {
namespace {

constexpr double infinite = std::numeric_limits<double>::infinity();

double add(double a, double b) { return a + b; }
/// The larger one; NaN if either is NaN.
double larger(double a, double b) { return b > a || std::isnan(b) ? b : a; }

}  // namespace

NormPass::NormPass(const ClippingTable& table, Arrays arrays, const WorkList& work, double ord)
    : table_(table), arrays_(arrays), work_(work), ord_(ord), totals_(work.blocks()),
      parts_(arrays.size()) {}

template <class Kernel>
void NormPass::reduce(Team team, bool rescaled_only, Kernel kernel) {
  work_.forward(team, [&](const Run& run) {
    if (rescaled_only && !parts_[run.array].rescale) return;
    const Operand operands[] = {{&arrays_[run.array], Access::read}};
    double* totals = totals_.data() + run.block;
    on_memory(operands, run.begin, run.count, [&](void** at, std::int64_t first, std::size_t n) {
      kernel(run.array, at[0], n, totals + first / static_cast<std::int64_t>(block_size));
    });
  });
  team.barrier();
}

template <class Combine>
double NormPass::combined(std::size_t array, Combine combine) const {
  return combine_blocks(work_, &totals_[0], array, combine);
}

void NormPass::run(Team team) {
  const bool direct = ord_ == 1 || ord_ == 2;
  if (direct) {
    reduce(team, false, [&](std::size_t k, const void* x, std::size_t n, double* totals) {
      ord_ == 1 ? kernels(k).sum_magnitudes(x, n, totals) : kernels(k).sum_squares(x, n, totals);
    });
  }
  if (team.rank == 0) {
    for (std::size_t k = 0; k < arrays_.size(); ++k) {
      const double sum = direct ? combined(k, add) : 0;
      // Squares of float64 overflow above 1e154 and lose bits below 1e-146; those of float32
      // cannot.
      const bool out_of_range =
          arrays_[k].dtype == DType::float64 && (sum > 1e300 || (ord_ == 2 && sum < 1e-280));
      parts_[k] = {sum, 1, (!direct || out_of_range) && arrays_[k].size > 0, std::isfinite(sum)};
      rescale_any_ = rescale_any_ || parts_[k].rescale;
    }
  }
  team.barrier();
  if (!rescale_any_) return;

  reduce(team, true, [&](std::size_t k, const void* x, std::size_t n, double* totals) {
    kernels(k).max_magnitude(x, n, totals);
  });
  if (team.rank == 0) {
    rescale_any_ = false;
    for (std::size_t k = 0; k < arrays_.size(); ++k) {
      Part& part = parts_[k];
      if (!part.rescale) continue;
      part.scale = combined(k, larger);
      part.finite = std::isfinite(part.scale);
      part.sum = 1;  // the norm is the scale if that is all there is to it: ord inf, 0, inf, NaN
      part.rescale = ord_ != infinite && part.finite && part.scale != 0;
      rescale_any_ = rescale_any_ || part.rescale;
    }
  }
  team.barrier();
  if (!rescale_any_) return;

  reduce(team, true, [&](std::size_t k, const void* x, std::size_t n, double* totals) {
    kernels(k).sum_powers(x, n, parts_[k].scale, ord_, totals);
  });
  if (team.rank == 0) {
    for (std::size_t k = 0; k < arrays_.size(); ++k) {
      if (parts_[k].rescale) parts_[k].sum = combined(k, add);
    }
  }
  team.barrier();
}

double NormPass::root(double sum) const {
  if (ord_ == 1 || ord_ == infinite) return sum;
  return ord_ == 2 ? std::sqrt(sum) : table_.power(sum, 1 / ord_);
}

double NormPass::norm(std::size_t array) const {
  const Part& part = parts_[array];
  return part.scale == 1 ? root(part.sum) : part.scale * root(part.sum);
}

double NormPass::total() const {
  double scale = 0;
  for (std::size_t k = 0; k < arrays_.size(); ++k) {
    if (arrays_[k].size > 0 && parts_[k].sum != 0) scale = larger(scale, parts_[k].scale);
  }
  if (ord_ == infinite || scale == 0 || !std::isfinite(scale)) return scale;
  double sum = 0;
  for (std::size_t k = 0; k < arrays_.size(); ++k) {
    const Part& part = parts_[k];
    if (part.scale == scale) {
      sum += part.sum;
    } else {
      const double ratio = part.scale / scale;
      sum += part.sum * (ord_ == 2 ? ratio * ratio : table_.power(ratio, ord_));
    }
  }
  return scale == 1 ? root(sum) : scale * root(sum);
}

std::ptrdiff_t NormPass::first_nonfinite() const {
  for (std::size_t k = 0; k < arrays_.size(); ++k) {
    if (!parts_[k].finite) return static_cast<std::ptrdiff_t>(k);
  }
  return -1;
}

}  // namespace ridgeline
