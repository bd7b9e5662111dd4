// Norms of arrays inside a parallel region: one reading pass, in float64, in fixed order.
#pragma once

#include "kernels/clipping.hpp"
#include "ops/work.hpp"

namespace ridgeline {

/// The norm of each array and of all, for one call. After `run` on every thread of a team, `norm`
/// and `total` give the results on every thread.
class NormPass {
 public:
  NormPass(const ClippingTable& table, Arrays arrays, const WorkList& work, double ord);

  /// Reads the arrays; every thread of the team calls it.
  void run(Team team);

  double norm(std::size_t array) const;
  double total() const;
  /// The first array with a NaN or an infinity, or -1. Valid where total() is not finite.
  std::ptrdiff_t first_nonfinite() const;

 private:
  /// An array's norm to the power ord is sum * scale^ord. The scale is 1, or the largest magnitude
  /// where powers would overflow or vanish.
  struct Part {
    double sum;
    double scale;
    bool rescale;
    bool finite;
  };

  template <class Kernel>
  void reduce(Team team, bool rescaled_only, Kernel kernel);
  template <class Combine>
  double combined(std::size_t array, Combine combine) const;
  double root(double sum) const;
  const ClippingKernels& kernels(std::size_t array) const {
    return table_.kernels[static_cast<std::size_t>(arrays_[array].dtype)];
  }

  const ClippingTable& table_;
  Arrays arrays_;
  const WorkList& work_;
  double ord_;
  SmallBuffer<double, 64> totals_;
  SmallBuffer<Part, 16> parts_;
  bool rescale_any_ = false;
};

}  // namespace ridgeline
