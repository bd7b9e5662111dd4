// Norms of arrays inside a parallel region: one reading pass, in float64, in fixed order.
#pragma once

#include <cmath>

#include "kernels/clipping.hpp"
#include "ops/work.hpp"

namespace ridgeline {

/// The norm of each array and of all of them. Every thread of a team has its own, with the same
/// numbers.
class Norms {
 public:
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

  Part* parts_ = nullptr;
  std::size_t count_ = 0;
  double ord_ = 2;
  double (*power_)(double, double) = nullptr;
};

/// Arrays that a pass reads where they are not what memory holds: block by block, as float32 or
/// float64.
class NormSource {
 public:
  virtual DType dtype(std::size_t array) const = 0;
  /// Writes n elements, at most a block.
  virtual void read(std::size_t array, std::int64_t begin, std::size_t n, void* out) = 0;

 protected:
  ~NormSource() = default;
};

/// The reading pass of one call, shared by its team. Threads fill block totals and meet; then each
/// adds them all up itself, which takes less time than waiting for one that does.
class NormPass {
 public:
  NormPass(const ClippingTable& table, Arrays arrays, const WorkList& work, double ord,
           TeamSize team, NormSource* source = nullptr);

  /// What it costs: products for a whole power, logarithms for another.
  static std::int64_t cost(const WorkList& work, double ord) {
    const bool usual = ord == 1 || ord == 2 || std::isinf(ord);
    const std::int64_t each = usual ? 1 : ord == std::floor(ord) ? 5 : 50;
    return each * work.elements();
  }

  /// Every thread of the team calls it.
  Norms run(Team team);

 private:
  template <class Kernel>
  double* reduce(Team team, const Norms* rescaled, std::size_t pass, Kernel kernel);
  const ClippingKernels& kernels(std::size_t array) const {
    return table_.kernels[static_cast<std::size_t>(dtype(array))];
  }
  DType dtype(std::size_t array) const {
    return source_ == nullptr ? arrays_[array].dtype : source_->dtype(array);
  }

  const ClippingTable& table_;
  Arrays arrays_;
  const WorkList& work_;
  double ord_;
  NormSource* source_;
  SmallBuffer<double, 64> totals_;  ///< of each pass, so that none overwrites what is still read
  std::size_t stride_;              ///< from a thread's parts to the next one's: no common line
  SmallBuffer<Norms::Part, 32> parts_;
};

}  // namespace ridgeline
