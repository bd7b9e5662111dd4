#include "ridgeline/optimizers.hpp"

#include <pybind11/stl.h>

#include <pthread.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <chrono>
#include <limits>
#include <list>
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
constexpr std::array state_types = {"compute", "bfloat16", "8bit"};
constexpr std::array clips = {"none", "global_norm", "norm", "value"};
constexpr std::array policies = {"propagate", "raise", "skip"};
/// What a call of step does: look for errors and take the norm alone; add the gradients to the
/// sums; update the parameters.
enum class Task : std::uint8_t { norm, add, update };
constexpr std::array tasks = {"norm", "add", "update"};

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
  Optimizer(const std::string& kind, const std::string& convention, const std::string& state_type,
            std::int64_t accumulation_steps, py::object params, bool grouped,
            std::vector<std::size_t> sizes)
      : tree_(std::move(params)), grouped_(grouped), groups_(sizes.size()) {
    options_.accumulated = accumulation_steps;
    options_.kind = named<OptimizerKind>("kind", kind, kinds);
    options_.convention = named<Convention>("convention", convention, conventions);
    options_.state_type = named<StateType>("state_type", state_type, state_types);
    params_ = looked();
    std::size_t k = 0;
    for (std::size_t group = 0; group < sizes.size(); ++group) {
      for (std::size_t i = 0; i < sizes[group]; ++i, ++k) {
        OptimizerParameter p;
        p.group = group;
        p.place = i;
        p.number = k;
        parameters_.push_back(p);
      }
    }
    if (k != params_->size()) throw py::value_error("sizes: do not add up");
    accumulated_.assign(k, false);
    run({&*params_}, [&] { check_parameters(params_->arrays()); });
  }

  /// The memory of one kind for each parameter; None for none.
  void attach(const std::string& what, std::size_t state, py::list arrays) {
    if (arrays.size() != parameters_.size())
      throw py::value_error("arrays: one for each parameter");
    const Busy busy(*this);
    const bool reads = what == "mask";
    for (std::size_t k = 0; k < parameters_.size(); ++k) {
      void* at = nullptr;
      if (!arrays[k].is_none()) {
        const auto info = py::reinterpret_borrow<py::buffer>(arrays[k]).request(!reads);
        at = info.ptr;
      }
      OptimizerParameter& p = parameters_[k];
      if (what == "state") p.states[state] = at;
      if (what == "scale") p.scales[state] = static_cast<float*>(at);
      if (what == "master") p.master = static_cast<float*>(at);
      if (what == "compensation") p.compensation = at;
      if (what == "ema") p.average = at;
      if (what == "mask") p.mask = static_cast<const std::uint64_t*>(at);
      if (what == "accumulated") {
        sums_.resize(parameters_.size());
        const Array& own = params_->arrays()[k];
        sums_[k] =
            Array(at, own.dtype == DType::float64 ? DType::float64 : DType::float32, own.size);
      }
    }
    kept_[py::str(what + std::to_string(state))] = arrays;
  }

  void set_decay(const std::vector<double>& factors) {
    const Busy busy(*this);
    for (std::size_t k = 0; k < parameters_.size(); ++k)
      parameters_[k].decay = factors.at(k);
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
  std::vector<double> products() const {
    std::vector<double> result;
    for (const OptimizerParameter& p : parameters_)
      result.push_back(p.product);
    return result;
  }
  void set_products(const std::vector<double>& products) {
    const Busy busy(*this);
    for (std::size_t k = 0; k < parameters_.size(); ++k)
      parameters_[k].product = products.at(k);
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

  /// Counts in the same call, so that an interrupt comes before or after all of it. Returns (norm,
  /// factors, skipped, first bad array, penalty, updated).
  py::tuple step(py::handle grads, py::list groups, double scale, py::tuple clip,
                 bool clip_after_penalty, py::handle known_norm, const std::string& on_nonfinite,
                 py::handle max_update_rms, double average_decay, py::handle rounding_key,
                 const std::string& task_name) {
    const Busy busy(*this);
    look_again();
    const auto task = named<Task>("task", task_name, tasks);
    StepOptions options = options_;
    options.scale = scale;
    options.clip = named<StepOptions::Clip>("clip", clip[0].cast<std::string>(), clips);
    if (options.clip == StepOptions::Clip::value) {
      options.low = clip[1].cast<double>();
      options.high = clip[2].cast<double>();
    } else if (options.clip != StepOptions::Clip::none) {
      options.max_norm = clip[1].cast<double>();
      options.ord = clip[2].cast<double>();
    }
    options.clip_after_penalty = clip_after_penalty;
    if (!known_norm.is_none()) options.norm = known_norm.cast<double>();
    options.on_nonfinite = named<NonFinite>("on_nonfinite", on_nonfinite, policies);
    if (!max_update_rms.is_none()) options.max_update_rms = max_update_rms.cast<double>();
    options.average_decay = average_decay;
    options.stochastic_rounding = !rounding_key.is_none();
    options.key = rounding_key.is_none() ? Key{} : key_of(rounding_key);
    options.step = static_cast<std::uint64_t>(count_);
    using Only = StepOptions::Only;
    options.only = task == Task::norm ? Only::norm : task == Task::add ? Only::check : Only::all;

    if (static_cast<std::size_t>(groups.size()) != groups_)
      throw py::value_error("groups: got another number");
    std::vector<Numbers> numbers;
    numbers.reserve(groups.size());
    for (std::size_t i = 0; i < groups.size(); ++i)
      numbers.emplace_back(py::reinterpret_borrow<py::tuple>(groups[i]), *this, i);
    std::vector<OptimizerGroup> plain;
    for (const Numbers& n : numbers)
      plain.push_back(n.group);

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
        StepReport result = optimizer_step(options, plain, state, params, gradients);
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
    if (task == Task::add) {
      for (const std::size_t k : active_)
        accumulated_[k] = true;
      ++micro_step_;
    } else if (task == Task::update) {
      // What follows may fail, or be interrupted: all that counts is counted before.
      count_ += updates ? 1 : 0;
      micro_step_ = 0;
      accumulated_.assign(accumulated_.size(), false);
      for (std::size_t i = 0; updates && !whole && i < active_.size(); ++i)
        parameters_[active_[i]] = some_state_[i];
      remember(params, gradients);
    }
    if (updates) params_->written(active_);
    py::object norm = py::none();
    if (report.norm) norm = py::float_(*report.norm);
    const auto bad = place_of(report.first_nonfinite);
    return py::make_tuple(norm, report.factors, report.skipped,
                          bad ? py::object(py::str(*bad)) : py::none(), report.penalty, updates);
  }

 private:
  /// The numbers of a group, with the terms of its penalty bound to its parameters.
  struct Numbers {
    Numbers(const py::tuple& values, const Optimizer& owner, std::size_t place) {
      const auto number = [&](std::size_t i) { return values[i].cast<double>(); };
      group.lr = number(0);
      group.weight_decay = number(1);
      group.beta1 = number(2);
      group.beta2 = number(3);
      group.eps = number(4);
      group.momentum = number(5);
      group.dampening = number(6);
      group.nesterov = number(7) != 0;
      group.lr_decay = number(8);
      group.momentum_decay = number(9);
      group.beta = number(10);
      group.l1 = number(11);
      group.l2 = number(12);
      constexpr std::array proxes = {"none", "plain", "preconditioned"};
      group.prox = named<Prox>("prox", values[13].cast<std::string>(), proxes);
      group.box = {number(14), number(15)};
      group.coupled_decay = values[17].cast<bool>();
      if (values[16].is_none()) return;
      const auto& terms = values[16].cast<const Terms&>();
      if (terms.weighted()) {
        const py::object tree =
            owner.grouped_ ? py::object(py::reinterpret_borrow<py::list>(owner.tree_)[place])
                           : owner.tree_;
        model = std::make_unique<Tensors>("params", tree, Access::read);
      }
      bound = std::make_unique<Terms::Bound>(terms, model ? *model : *owner.params_);
      group.penalties = *bound;
    }
    OptimizerGroup group;
    std::unique_ptr<Tensors> model;
    std::unique_ptr<Terms::Bound> bound;
  };

  /// Lists the parameters that have a gradient, or a sum of earlier ones; whether these are all
  /// parameters, with their gradients as given. Others are left out.
  bool take_active(const Tensors& g, bool adding) {
    const bool sums = options_.accumulated > 1 && !adding;
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
  std::size_t groups_;
  StepOptions options_;
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

}  // namespace

void bind_optimizers(py::module_& m) {
  py::class_<Memory>(m, "Memory", py::buffer_protocol())
      .def(py::init<std::size_t>(), py::arg("bytes"))
      .def_buffer([](Memory& memory) {
        return py::buffer_info(memory.data(), 1, py::format_descriptor<std::uint8_t>::format(),
                               static_cast<py::ssize_t>(memory.bytes()));
      });
  /// A context manager: the turn starts where it is entered.
  struct Held {
    py::object owner;
    bool reads;
    std::unique_ptr<Optimizer::Turn> turn;
  };
  py::class_<Held>(m, "Turn")
      .def("__enter__",
           [](Held& held) {
             auto& owner = held.owner.cast<Optimizer&>();
             held.turn = std::make_unique<Optimizer::Turn>(owner, held.reads, true);
           })
      .def(
          "__exit__", [](Held& held, py::handle, py::handle, py::handle) { held.turn.reset(); },
          py::arg("kind"), py::arg("error"), py::arg("trace"));
  py::class_<Optimizer>(m, "Optimizer")
      .def(py::init<const std::string&, const std::string&, const std::string&, std::int64_t,
                    py::object, bool, std::vector<std::size_t>>(),
           py::arg("kind"), py::arg("convention"), py::arg("state_type"),
           py::arg("accumulation_steps"), py::arg("params"), py::arg("grouped"), py::arg("sizes"))
      .def("attach", &Optimizer::attach, py::arg("what"), py::arg("state"), py::arg("arrays"))
      .def(
          "turn",
          [](py::object self, bool reads) {
            return Held{std::move(self), reads, nullptr};
          },
          py::arg("reads"))
      .def("set_decay", &Optimizer::set_decay, py::arg("factors"))
      .def_property("steps", &Optimizer::steps, &Optimizer::set_steps)
      .def_property("products", &Optimizer::products, &Optimizer::set_products)
      .def_property("count", &Optimizer::count, &Optimizer::set_count)
      .def_property("micro_step", &Optimizer::micro_step, &Optimizer::set_micro_step)
      .def_property("accumulated", &Optimizer::accumulated, &Optimizer::set_accumulated)
      .def("step", &Optimizer::step, py::arg("grads"), py::arg("groups"), py::arg("scale"),
           py::arg("clip"), py::arg("clip_after_penalty"), py::arg("known_norm"),
           py::arg("on_nonfinite"), py::arg("max_update_rms"), py::arg("average_decay"),
           py::arg("rounding_key"), py::arg("task"));
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

}  // namespace ridgeline::python
