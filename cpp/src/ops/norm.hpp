// Norms of arrays inside a parallel region: one reading pass, in float64, in fixed order.
#pragma once

#include <cmath>

#include "kernels/clipping.hpp"
#include "ops/work.hpp"

namespace ridgeline {

/// The norm of each array and of all of them. Every thread of a team holds its own, with the same
/// numbers.
class Norms {
 public:
  explicit Norms(std::size_t arrays) : parts_(arrays), count_(arrays) {}

  double norm(std::size_t array) const;
  double total() const;
  /// The first array with a NaN or an infinity, or -1. Valid where total() is not finite.
  std::ptrdiff_t first_nonfinite() const;

 private:
  friend class NormPass;

  /// An array's norm to the power ord is sum * scale^ord. The scale is 1, or the largest magnitude
  /// where powers would overflow or vanish.
  struct Part {
    double sum;
    double scale;
    bool rescale;
    bool finite;
  };

  double root(double sum) const;

  SmallBuffer<Part, 16> parts_;
  std::size_t count_;
  double ord_ = 2;
  double (*power_)(double, double) = nullptr;
};

/// The reading pass of one call, shared by its team. Threads fill block totals and meet; then each
/// adds them all up itself, which takes less time than waiting for one that does.
class NormPass {
 public:
  NormPass(const ClippingTable& table, Arrays arrays, const WorkList& work, double ord);

  /// What it costs: products for a whole power, logarithms for another.
  std::int64_t work() const {
    const bool usual = ord_ == 1 || ord_ == 2 || std::isinf(ord_);
    const std::int64_t each = usual ? 1 : ord_ == std::floor(ord_) ? 5 : 50;
    return each * work_.elements();
  }

  /// Every thread of the team calls it.
  void run(Team team, Norms& norms);

 private:
  template <class Kernel>
  double* reduce(Team team, const Norms* rescaled, std::size_t pass, Kernel kernel);
  const ClippingKernels& kernels(std::size_t array) const {
    return table_.kernels[static_cast<std::size_t>(arrays_[array].dtype)];
  }

  const ClippingTable& table_;
  Arrays arrays_;
  const WorkList& work_;
  double ord_;
  SmallBuffer<double, 64> totals_;  ///< of each pass, so that none overwrites what is still read
};

}  // namespace ridgeline
