// One step: what its parts (plan.cpp, tile.cpp, step.cpp) share.
#pragma once

#include <limits>
#include <memory>

#include "kernels/optimizers.hpp"
#include "kernels/storage.hpp"
#include "ops/norm.hpp"
#include "ops/optimizers/rules.hpp"
#include "ops/penalty_terms.hpp"
#include "ops/work.hpp"
#include "runtime/dispatch.hpp"

namespace ridgeline {

inline constexpr double infinite = std::numeric_limits<double>::infinity();

inline DType compute_dtype(DType dtype) {
  return dtype == DType::float64 ? DType::float64 : DType::float32;
}
inline std::size_t index_of(DType dtype) { return static_cast<std::size_t>(dtype); }

/// Whether a parameter has earlier gradients alone.
inline bool is_missing(const Array& grad) { return grad.size > 0 && grad.data == nullptr; }

/// What one step needs to know about a parameter group.
struct Plan {
  const OptimizerGroup* group;
  bool elastic = true;  ///< all penalties are l1 or l2: they fit into the kernels
  double l1 = 0, l2 = 0;
  bool by_gradient = false;  ///< the penalties' gradients join the gradient
  PreparedList gradients;    ///< for these, and for the values
  ProximalTerms proximal;    ///< of others than l1 and l2 that enter by their proximal operator

  explicit Plan(const OptimizerGroup& g) : group(&g), gradients(g.penalties.size()) {}
  bool penalized() const { return !group->penalties.empty(); }
  /// Whether gradients of other penalties than l1 and l2 join the gradient.
  bool general_gradient() const { return !elastic && by_gradient; }
  /// Whether a proximal operator of others follows the kernel.
  bool general_prox() const { return !elastic && !by_gradient && group->lr > 0; }
};

/// What parameters of the same group and count of steps share.
struct Numbers {
  Progress progress;
  StepCoefficients step = {};
  PenaltyCoefficients ridge = {}, other = {};  ///< of the proximal operator beyond l1 and l2
};

/// How a kernel gets at a parameter and its states; plan.cpp has the table of when which.
enum class Path : std::uint8_t {
  direct,  ///< in their own memory
  narrow,  ///< in tiles, but bfloat16 states, which it decodes and rounds itself
  tiled,   ///< in tiles of the compute type
};

/// One parameter in one step.
struct Entry {
  const Plan* plan;
  OptimizerParameter* parameter;
  std::size_t numbers;  ///< its coefficients
  double keep;          ///< of the decoupled decay
  double coupled;       ///< the coupled one
  double decay;         ///< that of a schedule-free rule
  Key key;
  Path path;
  void (*kernel)(const StepOperands&, std::size_t, const StepCoefficients&);

  const std::uint64_t* mask_at(std::int64_t begin) const {
    return parameter->mask == nullptr ? nullptr : parameter->mask + begin / 64;
  }
};

inline constexpr std::int64_t tile_size = 1024;

/// Scratch memory for a tile that the kernel cannot meet in its own memory: it stays in the first
/// cache.
struct Tiles {
  static constexpr std::size_t bytes = tile_size * sizeof(double);
  alignas(64) std::byte w[bytes];
  alignas(64) std::byte g[bytes];
  alignas(64) std::byte states[3][bytes];
  alignas(64) std::byte steps[bytes];
  alignas(64) std::byte saved[bytes];
  alignas(64) std::byte weights[bytes];
  alignas(64) std::uint16_t halves[2][tile_size];
  alignas(64) std::uint32_t random[tile_size / 2];
};

/// A tile on its way through the stages.
struct TileContext {
  const Entry& e;
  std::size_t array;
  std::int64_t begin;
  std::size_t n;  ///< at most tile_size
  DType dtype, compute;
  void* w;        ///< the parameter's own memory
  const void* g;  ///< the gradient as given
  StepCoefficients c;
  StepOperands x;  ///< where the kernel finds it all
  Tiles& tiles;

  bool half() const { return item_size(dtype) == 2; }
  bool wide() const { return compute == DType::float64; }
  const OptimizerParameter& parameter() const { return *e.parameter; }
};

class Step final : public NormSource {
 public:
  Step(const StepOptions& options, std::span<const OptimizerGroup> groups,
       std::span<OptimizerParameter> state, Arrays params, Arrays grads,
       std::optional<WeightsAt> move = {});

  StepReport run();
  /// The norm alone, and where it is not finite.
  StepReport norm();

 private:
  /// What is done with a tile: the update; the sum of its squares; the gradient that is clipped.
  enum class Pass : std::uint8_t { update, measure, gradient };
  struct Measure {
    double squares = 0, agreed = 0;
  };

  // What is inline is defined in the one file that calls it.

  // plan.cpp
  void check() const;
  void prepare_groups(std::span<const OptimizerGroup> groups);
  void prepare_parameters();
  inline void check_penalty_weights(std::size_t array) const;
  inline Numbers numbers_for(const Plan& plan, const OptimizerParameter& p) const;
  inline Path path_of(std::size_t array, const Plan& plan, bool regular) const;
  inline Entry entry_for(std::size_t array, Key step_key) const;

  // step.cpp
  inline StepCoefficients coefficients_for(const Entry& e, double scale,
                                           double update_factor) const;
  inline void update_run(const Run& run, double scale, double update_factor);
  inline void direct_run(const Entry& e, const Run& run, const StepCoefficients& c);
  inline double update_factor(std::size_t array) const;
  inline void add_penalties(StepReport& report);
  void read(std::size_t array, std::int64_t begin, std::size_t n, void* out) override;
  DType dtype(std::size_t array) const override { return compute_dtype(params_[array].dtype); }

  // tile.cpp
  void tiled_run(const Entry& e, const Run& run, const StepCoefficients& c, Pass pass,
                 void* gradient = nullptr);
  void add_values(const Entry& e, std::size_t array, std::int64_t begin, std::size_t n, void* w);
  inline void tile(TileContext& t, Pass pass, Measure& total);
  inline void load_weights(TileContext& t, Pass pass) const;
  inline void load_gradient(TileContext& t, Pass pass) const;
  inline void load_states(TileContext& t, bool narrow) const;
  inline void step_weights(TileContext& t) const;
  inline void store_weights(TileContext& t) const;
  inline void average_weights(TileContext& t) const;
  inline void store_states(TileContext& t) const;
  inline void prepare_gradient(TileContext& t, DType from, const void* g, double scale, double low,
                               double high) const;
  inline void prepare_clipped_gradient(TileContext& t, DType from, const void* g) const;
  inline void compose_gradient(TileContext& t, Pass pass) const;
  inline void add_gradients(TileContext& t) const;
  inline void apply_prox(TileContext& t) const;
  template <class Kernel>
  inline void with_wide_weights(const TileContext& t, const Penalty& p, Kernel&& kernel) const;

  bool by_norm() const {
    return options_.clip == StepOptions::Clip::global_norm ||
           options_.clip == StepOptions::Clip::norm;
  }
  bool measures() const { return options_.max_update_rms.has_value() || options_.cautious; }
  double order() const { return by_norm() ? options_.ord : infinite; }
  /// What is left to multiply the norm, and the gradients, by.
  double scale_left() const {
    if (clips_sum_) return 1;
    return composed_ ? 1 / static_cast<double>(options_.accumulated) : options_.scale;
  }
  const StepKernels& kernels(DType dtype) const {
    return tables_.optimizers
        ->steps[static_cast<std::size_t>(options_.kind)][dtype == DType::float64 ? 1 : 0];
  }

  const StepOptions& options_;
  std::span<OptimizerParameter> state_;
  Arrays params_, grads_;
  const WorkList work_;
  const Tables& tables_;
  std::vector<std::unique_ptr<Plan>> plans_;
  std::vector<Numbers> numbers_;
  std::vector<Entry> entries_;
  const std::optional<WeightsAt> move_;
  std::size_t values_ = 0;  ///< penalties whose value is wanted, at most in one group
  std::vector<double> value_totals_;
  std::vector<double> value_sums_;  ///< of groups and penalties; there before anything is written
  std::vector<double> measured_;    ///< sums of squares of the updates, by block
  std::vector<double> agreed_;      ///< elements that cautious steps update, by block
  bool clips_sum_ = false;          ///< the penalties' gradients join before clipping
  /// Gradients are not what memory holds: a sum of several, or with the penalties' gradients.
  bool composed_ = false;
};

}  // namespace ridgeline
