// The terms of a penalty, for calls that take one.
#pragma once

#include <algorithm>
#include <memory>

#include "ridgeline/penalties.hpp"
#include "tensor_view.hpp"

namespace ridgeline::python {

/// The terms of a penalty object of Python; weights stay Python objects until a call.
class Terms {
 public:
  void add(const std::string& kind, double strength, double shape, py::object weights);

  void extend(const Terms& other) {
    terms_.insert(terms_.end(), other.terms_.begin(), other.terms_.end());
    weights_.insert(weights_.end(), other.weights_.begin(), other.weights_.end());
  }

  bool weighted() const {
    return std::ranges::any_of(terms_, [](const Penalty& p) { return info_of(p.kind).weighted(); });
  }

  /// The penalties for one call on `params`, less those where `grads` has holes, with strengths
  /// that are multiplied by `factor`.
  class Bound {
   public:
    Bound(const Terms& terms, const Tensors& params, Access access = Access::read,
          const Tensors* grads = nullptr, double factor = 1)
        : penalties_(terms.terms_) {
      for (Penalty& each : penalties_)
        if (factor != 1) each.strength *= factor;
      for (std::size_t i = 0; i < penalties_.size(); ++i) {
        if (!info_of(penalties_[i].kind).weighted()) continue;
        weights_.push_back(
            std::make_unique<Tensors>("weights", terms.weights_[i], access, &params));
        if (grads != nullptr) weights_.back()->leave_out_holes_of(*grads);
        penalties_[i].weights = weights_.back()->arrays();
      }
    }
    operator Penalties() const { return penalties_; }

   private:
    std::vector<Penalty> penalties_;
    std::vector<std::unique_ptr<Tensors>> weights_;
  };

 private:
  std::vector<Penalty> terms_;
  std::vector<py::object> weights_;
};

}  // namespace ridgeline::python
