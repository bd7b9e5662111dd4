#include "ridgeline/optimizers.hpp"

#include <pybind11/stl.h>

#include <pthread.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <chrono>
#include <limits>
#include <list>
#include <map>
#include <thread>

#include "bind_penalties.hpp"
#include "bind_random.hpp"
#include "bindings.hpp"
#include "tensor_view.hpp"

namespace ridgeline::python {
namespace {

template <class Enum, std::size_t N>
Enum named(const char* what, const std::string& name, const std::array<const char*, N>& names) {
  for (std::size_t i = 0; i < N; ++i) {
    if (name == names[i]) return static_cast<Enum>(i);
  }
  throw py::value_error(std::string(what) + ": got '" + name + "'");
}

constexpr auto kinds = [] {
  std::array<const char*, optimizer_kind_count> names{};
  std::ranges::transform(optimizer_list, names.begin(), &OptimizerInfo::name);
  return names;
}();
constexpr std::array conventions = {"torch", "keras", "optax"};
constexpr std::array known_state_types = {"compute", "bfloat16", "8bit"};
constexpr std::array clips = {"none", "global_norm", "norm", "value"};
constexpr std::array policies = {"propagate", "raise", "skip"};
constexpr std::array proxes = {"none", "plain", "preconditioned"};
/// What a call of step does: look for errors and take the norm alone; add the gradients to the
/// sums; update the parameters.
enum class Task : std::uint8_t { norm, add, update };
constexpr std::array tasks = {"norm", "add", "update"};

/// A parameter group as Python sets it, one field at a time.
struct Group {
  OptimizerGroup settings;
  py::object penalty = py::none();  ///< its Terms
};

/// The settings of all groups during one step, with the penalties' terms bound to parameters.
class Settings {
 public:
  /// `tree` is the group's own part of the parameters: what its penalty's weights are for.
  void add(const Group& group, double penalty, const Tensors& all, const py::object& tree) {
    groups_.push_back(group.settings);
    if (group.penalty.is_none() || penalty == 0) return;
    const auto& terms = group.penalty.cast<const Terms&>();
    const Tensors* params = &all;
    if (terms.weighted()) {
      models_.push_back(std::make_unique<Tensors>("params", tree, Access::read));
      params = models_.back().get();
    }
    bound_.push_back(
        std::make_unique<Terms::Bound>(terms, *params, Access::read, nullptr, penalty));
    groups_.back().penalties = *bound_.back();
  }
  std::vector<OptimizerGroup>& groups() { return groups_; }

 private:
  std::vector<OptimizerGroup> groups_;
  std::vector<std::unique_ptr<Tensors>> models_;
  std::vector<std::unique_ptr<Terms::Bound>> bound_;
};

/// What a call of step did.
struct Outcome {
  std::optional<double> norm;
  std::vector<double> factors;
  bool skipped;
  std::optional<std::string> first_nonfinite;
  double penalty;
  bool updated;
};

/// Zeroed memory of its own pages, in huge ones where the system has them.
class Memory {
 public:
  explicit Memory(std::size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    constexpr std::size_t huge = std::size_t{1} << 21;
    mapped_ = bytes < huge ? bytes : bytes + huge;
    void* all = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) throw std::bad_alloc();
    start_ = all;
    const auto address = reinterpret_cast<std::uintptr_t>(all);
    data_ = bytes < huge ? all : reinterpret_cast<void*>((address + huge - 1) / huge * huge);
#ifdef MADV_HUGEPAGE
    if (bytes >= huge) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
  }
  ~Memory() {
    if (start_ != nullptr) munmap(start_, mapped_);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  std::size_t bytes_;
  std::size_t mapped_ = 0;
  void* start_ = nullptr;
  void* data_ = nullptr;
};

/// How often the process and its ancestors were forked.
std::atomic<int> forks{0};
[[maybe_unused]] const int fork_handler = pthread_atfork(nullptr, nullptr, [] { ++forks; });

/// Parameters and what an optimizer keeps for them between steps.
class Optimizer {
 public:
  Optimizer(const std::string& kind, const std::string& convention,
            const std::vector<std::string>& state_types, std::int64_t accumulation_steps,
            py::object params, bool grouped, std::vector<std::size_t> sizes)
      : tree_(std::move(params)), grouped_(grouped), groups_(sizes.size()) {
    options_.accumulated = accumulation_steps;
    options_.sums = accumulation_steps > 1;
    options_.kind = named<OptimizerKind>("kind", kind, kinds);
    options_.convention = named<Convention>("convention", convention, conventions);
    params_ = looked();
    std::size_t k = 0;
    for (std::size_t group = 0; group < sizes.size(); ++group) {
      for (std::size_t i = 0; i < sizes[group]; ++i, ++k) {
        OptimizerParameter p;
        p.place = i;
        p.number = k;
        p.state_type = named<StateType>("state_types", state_types.at(k), known_state_types);
        parameters_.push_back(p);
        group_of_.push_back(group);
      }
    }
    if (k != params_->size()) throw py::value_error("sizes: do not add up");
    accumulated_.assign(k, false);
    set_penalty_factors(std::vector<double>(k, 1.0));
    run({&*params_}, [&] { check_parameters(params_->arrays()); });
  }

  std::vector<Group>& groups() { return groups_; }

  void attach_states(std::size_t state, const py::list& arrays, py::handle scales) {
    attach("state" + std::to_string(state), arrays,
           [state](OptimizerParameter& p, void* at) { p.states[state] = at; });
    if (scales.is_none()) return;
    attach("scale" + std::to_string(state), scales.cast<py::list>(),
           [state](OptimizerParameter& p, void* at) { p.scales[state] = static_cast<float*>(at); });
  }
  void attach_masters(const py::list& arrays) {
    attach("master", arrays,
           [](OptimizerParameter& p, void* at) { p.master = static_cast<float*>(at); });
  }
  void attach_compensations(const py::list& arrays) {
    attach("compensation", arrays, [](OptimizerParameter& p, void* at) { p.compensation = at; });
  }
  void attach_averages(const py::list& arrays) {
    attach("average", arrays, [](OptimizerParameter& p, void* at) { p.average = at; });
  }
  void attach_sums(const py::list& arrays) {
    sums_.resize(parameters_.size());
    attach("sum", arrays, [this](OptimizerParameter& p, void* at) {
      const Array& own = params_->arrays()[p.number];
      const DType compute = own.dtype == DType::float64 ? DType::float64 : DType::float32;
      sums_[p.number] = Array(at, compute, own.size);
    });
  }
  void attach_masks(const py::list& arrays) {
    attach(
        "mask", arrays,
        [](OptimizerParameter& p, void* at) { p.mask = static_cast<const std::uint64_t*>(at); },
        true);
  }

  void set_decay(const std::vector<double>& factors) {
    const Busy busy(*this);
    for (std::size_t k = 0; k < parameters_.size(); ++k)
      parameters_[k].decay = factors.at(k);
  }

  /// What each parameter's penalties are multiplied by.
  void set_penalty_factors(const std::vector<double>& factors) {
    const Busy busy(*this);
    std::map<std::pair<std::size_t, double>, std::size_t> known;
    parts_.clear();
    for (std::size_t k = 0; k < parameters_.size(); ++k) {
      const std::pair part(group_of_[k], factors.at(k));
      const auto [place, is_new] = known.emplace(part, parts_.size());
      if (is_new) parts_.push_back({part.first, part.second});
      parameters_[k].group = place->second;
    }
  }

  std::vector<std::int64_t> steps() const {
    std::vector<std::int64_t> result;
    for (const OptimizerParameter& p : parameters_)
      result.push_back(p.steps);
    return result;
  }
  void set_steps(const std::vector<std::int64_t>& steps) {
    const Busy busy(*this);
    for (std::size_t k = 0; k < parameters_.size(); ++k)
      parameters_[k].steps = steps.at(k);
  }
  /// A number that belongs to each parameter.
  template <auto Member>
  std::vector<double> values() const {
    std::vector<double> result;
    for (const OptimizerParameter& p : parameters_)
      result.push_back(p.*Member);
    return result;
  }
  template <auto Member>
  void set_values(const std::vector<double>& values) {
    const Busy busy(*this);
    for (std::size_t k = 0; k < parameters_.size(); ++k)
      parameters_[k].*Member = values.at(k);
  }
  bool is_training() const { return training_; }
  void set_training(bool training) {
    const Busy busy(*this);
    training_ = training;
  }
  /// Moves the weights of a schedule-free rule, if they are not there already.
  void move_weights(bool training) {
    const Busy busy(*this);
    const FloatEnvironment environment;
    if (training == training_) return;
    look_again();
    Settings settings = settings_with({}, {});
    const WeightsAt to = training ? WeightsAt::training : WeightsAt::evaluation;
    without_gil(2 * params_->elements(), [&] {
      ridgeline::move_weights(to, options_for(Task::update, false), settings.groups(), parameters_,
                              params_->arrays());
      return 0;
    });
    training_ = training;
    params_->written();
  }
  const std::vector<bool>& accumulated() const { return accumulated_; }
  void set_accumulated(const std::vector<bool>& accumulated) {
    const Busy busy(*this);
    accumulated_ = accumulated;
  }

  /// The number of updates, and of the gradients in the sums.
  std::int64_t count() const { return count_; }
  void set_count(std::int64_t count) {
    const Busy busy(*this);
    count_ = count;
  }
  std::int64_t micro_step() const { return micro_step_; }
  void set_micro_step(std::int64_t step) {
    const Busy busy(*this);
    micro_step_ = step;
  }

  void set_clip(const std::string& kind, double max_norm, double ord, double low, double high) {
    options_.clip = named<StepOptions::Clip>("clip", kind, clips);
    options_.max_norm = max_norm;
    options_.ord = ord;
    options_.low = low;
    options_.high = high;
  }
  void set_on_nonfinite(const std::string& name) {
    options_.on_nonfinite = named<NonFinite>("on_nonfinite", name, policies);
  }
  void set_clip_after_penalty(bool after) { options_.clip_after_penalty = after; }
  void set_max_update_rms(std::optional<double> rms) { options_.max_update_rms = rms; }
  void set_cautious(bool cautious) { options_.cautious = cautious; }
  void set_rounding_key(py::handle key) {
    options_.stochastic_rounding = !key.is_none();
    options_.key = key.is_none() ? Key{} : key_of(key);
  }
  /// With warm-up, update k has the decay min(decay, (1 + k) / (10 + k)).
  void set_average_decay(double decay, bool warmup) {
    options_.average_decay = decay;
    average_warmup_ = warmup;
  }

  /// Counts in the same call, so that an interrupt comes before or after all of it. `lr` and
  /// `weight_decay` hold a value for each group if they differ from those of the groups, and
  /// `on_nonfinite` the policy of this call. With `flush` the mean is of the gradients in the sums.
  Outcome step(py::handle grads, const std::string& task_name, bool flush, double scale,
               const std::optional<std::vector<double>>& lr,
               const std::optional<std::vector<double>>& weight_decay, std::optional<double> norm,
               const std::optional<std::string>& on_nonfinite) {
    const Busy busy(*this);
    const FloatEnvironment environment;
    look_again();
    const auto task = named<Task>("task", task_name, tasks);
    StepOptions options = options_for(task, flush);
    options.scale = scale;
    options.norm = norm;
    if (on_nonfinite)
      options.on_nonfinite = named<NonFinite>("on_nonfinite", *on_nonfinite, policies);
    if (!training_) throw std::runtime_error("the weights are those of evaluation: call train_()");
    Settings settings = settings_with(lr, weight_decay);
    const Tensors g("grads", grads, Access::read, &*params_, true, true);
    const bool whole = take_active(g, task == Task::add);
    Arrays params = whole ? params_->arrays() : Arrays(some_params_);
    Arrays gradients = whole ? g.arrays() : Arrays(some_grads_);
    std::span<OptimizerParameter> state = whole ? std::span(parameters_) : std::span(some_state_);
    options.checked = seen_before(params, gradients);
    const auto place_of = [&](std::ptrdiff_t i) -> std::optional<std::string> {
      if (i < 0) return std::nullopt;
      return g.path(active_[static_cast<std::size_t>(i)]);
    };

    StepReport report;
    try {
      const auto call = [&] {
        StepReport result = optimizer_step(options, settings.groups(), state, params, gradients);
        if (task == Task::add) add(options, params, gradients);
        return result;
      };
      report = without_gil(2 * params_->elements(), call);
    } catch (const ArgumentError& error) {
      raise(error, place_of);
    } catch (const NonFiniteError& error) {
      raise_non_finite(error.norm, place_of(error.index));
    }
    const bool updates = task == Task::update && !report.skipped && !active_.empty();
    // What follows may fail, or be interrupted: all that counts is counted before.
    count_call(task, updates, whole);
    if (task == Task::update) remember(params, gradients);
    if (updates) params_->written(active_);
    return {report.norm,    std::move(report.factors),
            report.skipped, place_of(report.first_nonfinite),
            report.penalty, updates};
  }

 private:
  /// Gives each parameter its memory of one kind, or none for None.
  void attach(const std::string& what, const py::list& arrays, const auto& give,
              bool read_only = false) {
    if (arrays.size() != parameters_.size())
      throw py::value_error("arrays: got " + std::to_string(arrays.size()) + " of them, wants " +
                            std::to_string(parameters_.size()));
    const Busy busy(*this);
    for (std::size_t k = 0; k < parameters_.size(); ++k) {
      const bool none = arrays[k].is_none();
      give(parameters_[k],
           none ? nullptr : py::reinterpret_borrow<py::buffer>(arrays[k]).request(!read_only).ptr);
    }
    kept_[py::str(what)] = arrays;
  }

  using Rates = std::optional<std::vector<double>>;
  Settings settings_with(const Rates& lr, const Rates& weight_decay) const {
    Settings settings;
    for (const Part& part : parts_) {
      settings.add(groups_[part.group], part.penalty, *params_, tree_of(part.group));
      OptimizerGroup& group = settings.groups().back();
      if (lr) group.lr = lr->at(part.group);
      if (weight_decay) group.weight_decay = weight_decay->at(part.group);
    }
    return settings;
  }

  StepOptions options_for(Task task, bool flush) const {
    StepOptions options = options_;
    options.step = static_cast<std::uint64_t>(count_);
    if (average_warmup_) {
      const auto k = static_cast<double>(count_);
      options.average_decay = std::min(options.average_decay, (1 + k) / (10 + k));
    }
    if (flush) options.accumulated = micro_step_;
    using Only = StepOptions::Only;
    options.only = task == Task::norm ? Only::norm : task == Task::add ? Only::check : Only::all;
    return options;
  }

  /// Counts a call. `whole`: all parameters took part, so that their own counts are in place.
  void count_call(Task task, bool updates, bool whole) {
    if (task == Task::add) {
      for (const std::size_t k : active_)
        accumulated_[k] = true;
      ++micro_step_;
    } else if (task == Task::update) {
      count_ += updates ? 1 : 0;
      micro_step_ = 0;
      accumulated_.assign(accumulated_.size(), false);
      for (std::size_t i = 0; updates && !whole && i < active_.size(); ++i)
        parameters_[active_[i]] = some_state_[i];
    }
  }

  py::object tree_of(std::size_t group) const {
    return grouped_ ? py::object(py::reinterpret_borrow<py::list>(tree_)[group]) : tree_;
  }

  /// Lists the parameters that have a gradient, or a sum of earlier ones; whether these are all
  /// parameters, with their gradients as given. Others are left out.
  bool take_active(const Tensors& g, bool adding) {
    const bool sums = options_.sums && !adding;
    active_.clear();
    bool whole = true;
    for (std::size_t k = 0; k < parameters_.size(); ++k) {
      parameters_[k].sum = sums && accumulated_[k] ? sums_[k].data : nullptr;
      whole = whole && !g.hole(k);
      if (!g.hole(k) || parameters_[k].sum != nullptr) active_.push_back(k);
    }
    if (whole) return true;
    some_params_.clear();
    some_grads_.clear();
    some_state_.clear();
    for (const std::size_t k : active_) {
      const Array& own = params_->arrays()[k];
      some_params_.push_back(own);
      some_grads_.push_back(g.hole(k) ? Array(nullptr, own.dtype, own.size) : g.arrays()[k]);
      some_state_.push_back(parameters_[k]);
    }
    return false;
  }

  /// Adds gradients to the sums; if asked for, not before all of them are known to be finite.
  void add(const StepOptions& options, Arrays params, Arrays gradients) const {
    if (options.on_nonfinite == NonFinite::raise) {
      const std::ptrdiff_t bad = first_nonfinite(gradients);
      if (bad >= 0) throw NonFiniteError(bad, std::numeric_limits<double>::infinity());
    }
    std::vector<Array> from[2];
    std::vector<Array> to[2];
    for (std::size_t i = 0; i < params.size(); ++i) {
      const std::size_t k = active_[i];
      from[accumulated_[k]].push_back(gradients[i]);
      to[accumulated_[k]].push_back(sums_[k]);
    }
    for (const bool later : {false, true}) {
      if (!from[later].empty())
        ridgeline::accumulate(from[later], to[later], !later, options.scale);
    }
  }

  std::unique_ptr<Tensors> looked() const {
    auto params = std::make_unique<Tensors>("params", tree_, Access::parameter);
    params->keep_shapes();
    return params;
  }
  /// Parameters may have moved. What does not fit is not taken over.
  void look_again() {
    if (params_->unchanged()) return;
    auto now = looked();
    bool same = now->size() == params_->size();
    for (std::size_t k = 0; same && k < now->size(); ++k) {
      same = now->arrays()[k].dtype == params_->arrays()[k].dtype &&
             std::ranges::equal(now->shape(k), params_->shape(k));
      if (!same)
        throw py::value_error(now->path(k) + ": got another shape or dtype than at construction");
    }
    if (!same) throw py::value_error("params: got another number of arrays than at construction");
    params_ = std::move(now);
  }

  /// A call that is at work or waits, in the order in which they came. Touched under the GIL alone.
  struct Call {
    std::thread::id thread;
    bool reads;
    bool open;  ///< lasts over several calls of its thread
  };

 public:
  /// A turn at the optimizer's memory, which others would see half written while the GIL is
  /// released. A second writer is an error; readers wait for a writer, and a writer for readers.
  class Turn {
   public:
    Turn(Optimizer& owner, bool reads, bool open) : owner_(owner) {
      owner.forget_calls_before_a_fork();
      const auto self = std::this_thread::get_id();
      auto place = owner.calls_.end();  // one inside of another has its turn
      for (auto call = owner.calls_.begin(); call != owner.calls_.end(); ++call) {
        const bool own = call->thread == self;
        if (own) place = std::next(call);
        if (reads || (own && call->open && !call->reads)) continue;
        if (own) throw std::runtime_error("the optimizer is at work: got a call inside of another");
        if (!call->reads) throw std::runtime_error("the optimizer is at work in another thread");
      }
      call_ = owner.calls_.insert(place, {self, reads, open});
      forks_ = owner.forks_;
      try {
        wait();
      } catch (...) {
        end();
        throw;
      }
    }
    ~Turn() { end(); }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

    void end() {
      if (forks_ == owner_.forks_ && forks_ == forks) owner_.calls_.erase(call_);
      forks_ = -1;
    }

   private:
    bool must_wait() const {
      if (forks_ != forks) return false;
      for (auto other = owner_.calls_.begin(); other != call_; ++other) {
        if (other->thread != call_->thread && !(other->reads && call_->reads)) return true;
      }
      return false;
    }
    void wait() const {
      std::chrono::microseconds pause{16};
      while (must_wait()) {
        {
          const py::gil_scoped_release release;
          std::this_thread::sleep_for(pause);
        }
        pause = std::min(2 * pause, std::chrono::microseconds{1024});
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      }
    }

    Optimizer& owner_;
    std::list<Call>::iterator call_;
    int forks_ = -1;
  };

 private:
  struct Busy : Turn {
    explicit Busy(Optimizer& owner) : Turn(owner, false, false) {}
  };

  /// The threads that were at work when this process was forked are not in it.
  void forget_calls_before_a_fork() {
    if (forks_ == forks) return;
    calls_.clear();
    forks_ = forks;
  }

  [[noreturn]] void raise(const ArgumentError& error, const auto& place_of) const {
    const auto place = [&](const char* argument, std::ptrdiff_t index) {
      const std::string own = argument == nullptr ? "" : argument;
      if (index < 0) return own;
      const std::string grads = place_of(index).value();
      return own +
             grads.substr(grads.find('[') == std::string::npos ? grads.size() : grads.find('['));
    };
    const std::string message =
        place(error.argument, error.index) + ": " +
        error.problem(error.other == nullptr ? "" : place(error.other, error.other_index));
    PyErr_SetString(error.kind == ArgumentError::Kind::type ? PyExc_TypeError : PyExc_ValueError,
                    message.c_str());
    throw py::error_already_set();
  }

  bool seen_before(Arrays params, Arrays grads) const {
    if (seen_.size() != params.size() + grads.size()) return false;
    std::size_t i = 0;
    for (const Arrays arrays : {params, grads}) {
      for (const Array& array : arrays) {
        if (!array.contiguous() || seen_[i++] != std::pair(array.data, array.dtype)) return false;
      }
    }
    return true;
  }
  void remember(Arrays params, Arrays grads) {
    seen_.clear();
    for (const Arrays arrays : {params, grads}) {
      for (const Array& array : arrays)
        seen_.emplace_back(array.data, array.dtype);
    }
  }

  py::object tree_;
  bool grouped_;
  /// Parameters of a group whose penalty is multiplied by the same factor: a group of the core.
  struct Part {
    std::size_t group;
    double penalty;
  };

  std::vector<Group> groups_;
  std::vector<std::size_t> group_of_;  ///< of each parameter
  std::vector<Part> parts_;
  StepOptions options_;
  bool average_warmup_ = false;
  bool training_ = true;  ///< whether the weights of a schedule-free rule are those of training
  std::unique_ptr<Tensors> params_;
  std::list<Call> calls_;
  int forks_ = forks;
  std::vector<OptimizerParameter> parameters_;
  std::int64_t count_ = 0;
  std::int64_t micro_step_ = 0;
  std::vector<bool> accumulated_;
  std::vector<Array> sums_;
  py::dict kept_;                              ///< keeps attached memory alive
  std::vector<std::pair<void*, DType>> seen_;  ///< of arrays found not to overlap
  std::vector<std::size_t> active_;
  std::vector<Array> some_params_;
  std::vector<Array> some_grads_;
  std::vector<OptimizerParameter> some_state_;
};

/// A group's hyperparameters, under the names they have in Python.
void bind_group(py::module_& m) {
  py::class_<Group> group(m, "OptimizerGroup");
  const auto bind = [&](const char* name, auto member) {
    group.def_property(
        name, [member](const Group& g) { return g.settings.*member; },
        [member](Group& g, std::remove_cvref_t<decltype(OptimizerGroup{}.*member)> value) {
          g.settings.*member = value;
        });
  };
  using G = OptimizerGroup;
  bind("lr", &G::lr);
  bind("weight_decay", &G::weight_decay);
  bind("coupled_decay", &G::coupled_decay);
  bind("lr_independent_decay", &G::lr_independent_decay);
  bind("alpha", &G::beta2);
  bind("eps", &G::eps);
  bind("momentum", &G::momentum);
  bind("dampening", &G::dampening);
  bind("nesterov", &G::nesterov);
  bind("lr_decay", &G::lr_decay);
  bind("momentum_decay", &G::momentum_decay);
  bind("beta", &G::beta);
  bind("l1", &G::l1);
  bind("l2", &G::l2);
  bind("slow_weight", &G::alpha);
  bind("alpha_warmup", &G::alpha_warmup);
  bind("beta3_warmup", &G::beta3_warmup);
  bind("warmup_steps", &G::warmup_steps);
  bind("r", &G::r);
  bind("weight_lr_power", &G::weight_lr_power);
  group
      .def_property(
          "betas",
          [](const Group& g) {
            return std::array{g.settings.beta1, g.settings.beta2, g.settings.beta3};
          },
          [](Group& g, const std::vector<double>& betas) {
            g.settings.beta1 = betas.at(0);
            g.settings.beta2 = betas.at(1);
            if (betas.size() > 2) g.settings.beta3 = betas[2];
          })
      .def_property(
          "prox", [](const Group& g) { return proxes[static_cast<std::size_t>(g.settings.prox)]; },
          [](Group& g, const std::string& name) {
            g.settings.prox = named<Prox>("prox", name, proxes);
          })
      .def_property(
          "box",
          [](const Group& g) { return std::pair(g.settings.box.lowest, g.settings.box.highest); },
          [](Group& g, std::pair<double, double> limits) {
            g.settings.box = {limits.first, limits.second};
          })
      .def_readwrite("penalty", &Group::penalty);
}

/// A context manager: the turn starts where it is entered.
struct Held {
  py::object owner;
  bool reads;
  std::unique_ptr<Optimizer::Turn> turn;
};

void bind_turn(py::module_& m) {
  py::class_<Held>(m, "Turn")
      .def("__enter__",
           [](Held& held) {
             auto& owner = held.owner.cast<Optimizer&>();
             held.turn = std::make_unique<Optimizer::Turn>(owner, held.reads, true);
           })
      .def(
          "__exit__", [](Held& held, py::handle, py::handle, py::handle) { held.turn.reset(); },
          py::arg("kind"), py::arg("error"), py::arg("trace"));
}

void bind_optimizer(py::module_& m) {
  py::class_<Outcome>(m, "Outcome")
      .def_readonly("norm", &Outcome::norm)
      .def_readonly("factors", &Outcome::factors)
      .def_readonly("skipped", &Outcome::skipped)
      .def_readonly("first_nonfinite", &Outcome::first_nonfinite)
      .def_readonly("penalty", &Outcome::penalty)
      .def_readonly("updated", &Outcome::updated);
  py::class_<Optimizer>(m, "Optimizer")
      .def(py::init<const std::string&, const std::string&, const std::vector<std::string>&,
                    std::int64_t, py::object, bool, std::vector<std::size_t>>(),
           py::kw_only(), py::arg("kind"), py::arg("convention"), py::arg("state_types"),
           py::arg("accumulation_steps"), py::arg("params"), py::arg("grouped"), py::arg("sizes"))
      .def("attach_states", &Optimizer::attach_states, py::arg("state"), py::arg("arrays"),
           py::arg("scales") = py::none())
      .def("attach_masters", &Optimizer::attach_masters, py::arg("arrays"))
      .def("attach_compensations", &Optimizer::attach_compensations, py::arg("arrays"))
      .def("attach_averages", &Optimizer::attach_averages, py::arg("arrays"))
      .def("attach_sums", &Optimizer::attach_sums, py::arg("arrays"))
      .def("attach_masks", &Optimizer::attach_masks, py::arg("arrays"))
      .def(
          "turn",
          [](py::object self, bool reads) {
            return Held{std::move(self), reads, nullptr};
          },
          py::kw_only(), py::arg("reads"))
      .def(
          "group", [](Optimizer& self, std::size_t i) -> Group& { return self.groups().at(i); },
          py::arg("index"), py::return_value_policy::reference_internal)
      .def("set_decay", &Optimizer::set_decay, py::arg("factors"))
      .def("set_penalty_factors", &Optimizer::set_penalty_factors, py::arg("factors"))
      .def("set_clip", &Optimizer::set_clip, py::arg("kind"), py::kw_only(),
           py::arg("max_norm") = 0.0, py::arg("ord") = 2.0, py::arg("low") = 0.0,
           py::arg("high") = 0.0)
      .def("set_clip_after_penalty", &Optimizer::set_clip_after_penalty, py::arg("after"))
      .def("set_on_nonfinite", &Optimizer::set_on_nonfinite, py::arg("policy"))
      .def("set_max_update_rms", &Optimizer::set_max_update_rms, py::arg("rms"))
      .def("set_cautious", &Optimizer::set_cautious, py::arg("cautious"))
      .def("set_rounding_key", &Optimizer::set_rounding_key, py::arg("key"))
      .def("set_average_decay", &Optimizer::set_average_decay, py::arg("decay"), py::kw_only(),
           py::arg("warmup"))
      .def_property("steps", &Optimizer::steps, &Optimizer::set_steps)
      .def_property("products", &Optimizer::values<&OptimizerParameter::product>,
                    &Optimizer::set_values<&OptimizerParameter::product>)
      .def_property("weight_sums", &Optimizer::values<&OptimizerParameter::weight_sum>,
                    &Optimizer::set_values<&OptimizerParameter::weight_sum>)
      .def_property("largest_rates", &Optimizer::values<&OptimizerParameter::largest_rate>,
                    &Optimizer::set_values<&OptimizerParameter::largest_rate>)
      .def_property("is_training", &Optimizer::is_training, &Optimizer::set_training)
      .def("move_weights", &Optimizer::move_weights, py::kw_only(), py::arg("training"))
      .def_property("count", &Optimizer::count, &Optimizer::set_count)
      .def_property("micro_step", &Optimizer::micro_step, &Optimizer::set_micro_step)
      .def_property("accumulated", &Optimizer::accumulated, &Optimizer::set_accumulated)
      .def("step", &Optimizer::step, py::arg("grads"), py::kw_only(), py::arg("task"),
           py::arg("flush") = false, py::arg("scale") = 1.0, py::arg("lr") = py::none(),
           py::arg("weight_decay") = py::none(), py::arg("norm") = py::none(),
           py::arg("on_nonfinite") = py::none());
}

void bind_storage(py::module_& m) {
  py::class_<Memory>(m, "Memory", py::buffer_protocol())
      .def(py::init<std::size_t>(), py::arg("bytes"))
      .def_buffer([](Memory& memory) {
        return py::buffer_info(memory.data(), 1, py::format_descriptor<std::uint8_t>::format(),
                               static_cast<py::ssize_t>(memory.bytes()));
      });
  m.def("widen", [](py::handle arrays, py::handle out) {
    const Tensors from("params", arrays, Access::read);
    const Tensors to("out", out, Access::write);
    run({&from, &to}, [&] { accumulate(from.arrays(), to.arrays(), true); });
  });
  m.def("encode_states", [](py::buffer x, bool squares, py::buffer codes, py::buffer scales) {
    const py::buffer_info from = x.request();
    encode_states(Array(static_cast<const float*>(from.ptr), from.size), squares,
                  static_cast<std::uint8_t*>(codes.request(true).ptr),
                  static_cast<float*>(scales.request(true).ptr));
  });
  m.def("decode_states", [](py::buffer codes, py::buffer scales, bool squares, py::buffer x) {
    const py::buffer_info to = x.request(true);
    decode_states(static_cast<const std::uint8_t*>(codes.request().ptr),
                  static_cast<const float*>(scales.request().ptr), squares,
                  Array(static_cast<const float*>(to.ptr), to.size));
  });
}

}  // namespace

void bind_optimizers(py::module_& m) {
  bind_storage(m);
  bind_turn(m);
  bind_group(m);
  bind_optimizer(m);
}

}  // namespace ridgeline::python
