// From Python objects to arrays of the core: one array, or a tree of them, without a copy.
#pragma once

#include <pybind11/pybind11.h>

#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "ridgeline/array.hpp"
#include "ridgeline/runtime.hpp"

namespace ridgeline::python {

namespace py = pybind11;

/// What a call does with its arrays, and which torch tensors that require grad it refuses.
enum class Access : std::uint8_t {
  read,       ///< for numbers or masks: none
  source,     ///< for a new array, which would not be in the graph: all, in grad mode
  write,      ///< as an in-place operation: all, in grad mode
  gradient,   ///< writes gradients: leaves in any mode, for they are parameters; others as `write`
  parameter,  ///< as a parameter update under torch.no_grad(): those that are no leaves, in grad
              ///< mode
};
constexpr bool writes(Access access) { return access >= Access::write; }

/// What torch's modes allow. Each mode is asked for once.
class TorchModes {
 public:
  /// Throws a Problem about a tensor; asks only what can matter. `many`: others may follow.
  void check(py::handle tensor, Access access, const char* name, bool many);

 private:
  bool grad_enabled();
  std::optional<bool> grad_enabled_;
  bool untraced_ = false;
};

/// The shape of a Python array. Points into the object: valid while the GIL is held.
struct Shape {
  const std::int64_t* extents;
  int ndim;
};

struct TensorView {
  Array array;
  Shape shape;
};

/// A list whose first element needs no allocation: most calls are about one array.
template <class T>
class OneOrMany {
 public:
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  const T& operator[](std::size_t i) const { return size_ == 1 ? one_ : many_[i]; }
  T& operator[](std::size_t i) { return size_ == 1 ? one_ : many_[i]; }
  std::span<const T> all() const { return {size_ == 1 ? &one_ : many_.data(), size_}; }
  void reserve(std::size_t n) {
    if (n > 1) many_.reserve(n);
  }
  void push_back(T value) {
    if (size_ == 0) {
      one_ = std::move(value);
    } else {
      if (size_ == 1) many_.push_back(std::move(one_));
      many_.push_back(std::move(value));
    }
    ++size_;
  }

 private:
  std::size_t size_ = 0;
  T one_{};
  std::vector<T> many_;
};

/// The arrays of one argument: an array, or a list, tuple, dict (nested) or iterable of them.
class Tensors {
 public:
  /// Reads `tree`; an error names the place in it. With `model`, the structure and the shapes must
  /// be those of `model`, and dicts are matched by key; without `any_dtype`, the dtypes, too. With
  /// `holes`, None may stand for an array in a container.
  Tensors(const char* name, py::handle tree, Access access, const Tensors* model = nullptr,
          bool holes = false, bool any_dtype = false);
  Tensors(const Tensors&) = delete;
  Tensors& operator=(const Tensors&) = delete;

  const char* name() const { return name_; }
  Arrays arrays() const { return arrays_.all(); }
  std::size_t size() const { return arrays_.size(); }
  std::int64_t elements() const { return elements_; }
  /// Points into the object: valid while the GIL is held.
  std::span<const std::int64_t> shape(std::size_t index) const {
    return {shapes_[index].extents, static_cast<std::size_t>(shapes_[index].ndim)};
  }

  /// The place of array `index`, such as grads['w'][0].
  std::string path(std::size_t index) const;

  /// Whether None stands for the array.
  bool hole(std::size_t index) const { return objects_[index].is_none(); }

  /// Takes out the arrays where `other`, of the same structure, has holes.
  void leave_out_holes_of(const Tensors& other);

  /// Makes the shapes our own, for arguments that stay: an array may get another shape in place.
  void keep_shapes();

  /// Whether every array still has the memory, dtype and shape that were seen, and can be written
  /// if it has to be. Shapes must be our own.
  bool unchanged() const;

  /// Tells torch that its tensors were written.
  void written() const;
  /// That those of these indices, in order, were.
  void written(std::span<const std::size_t> indices) const;

 private:
  /// A node's place in the tree: its key or index in its parent.
  struct Place {
    const Place* parent;
    PyObject* key;  ///< null: `index` counts in a sequence
    Py_ssize_t index;
  };

  void check_kind(bool alike, py::handle node, py::handle model, const Place* place) const;
  void flatten(py::handle node, py::handle model, const Place* place);
  void flatten_sequence(py::handle node, py::handle model, const Place* place);
  void flatten_dict(py::handle node, py::handle model, const Place* place);
  void add(py::handle node, TensorView view, const Place* place);
  void check_keys(py::handle node, py::handle model, const Place* place) const;
  [[noreturn]] void fail(const Place* place, PyObject* type, const std::string& problem) const;

  const char* name_;
  Access access_;
  const Tensors* model_ = nullptr;
  bool holes_ = false;
  bool any_dtype_ = false;
  py::object tree_;
  OneOrMany<Array> arrays_;
  OneOrMany<Shape> shapes_;            ///< for the arguments compared with this one
  std::vector<std::int64_t> extents_;  ///< of kept shapes
  OneOrMany<py::object> objects_;      ///< keeps the arrays alive, whatever becomes of the tree
  OneOrMany<py::object> capsules_;     ///< of arrays seen through __dlpack__
  OneOrMany<std::size_t> torch_;       ///< which of them are torch tensors that will be written
  TorchModes modes_;
  std::int64_t elements_ = 0;
};

/// An error if `object` is a torch tensor that may not be written now; whether it is one.
bool check_torch_target(const char* name, py::handle object);

/// A TypeError unless the argument is one array.
void require_array(const char* name, py::handle object);

/// The result of a function of one array: `out`, or a new array of the same library, shape and
/// dtype.
class Result {
 public:
  Result(const char* name, py::handle like, py::handle out);
  /// To be written.
  py::handle array() const { return array_; }
  /// To be returned: JAX arrays are made from what was written.
  py::object finished() const;

 private:
  py::object array_;
  bool jax_ = false;
};

/// A number, as float: no bool, no string. An error names the argument.
double number(const char* name, py::handle value);
std::int64_t integer(const char* name, py::handle value);

/// Runs f() on the arguments, without the GIL if there is much to do; errors of the core name the
/// place in the argument they are about.
template <class F>
auto run(std::initializer_list<const Tensors*> arguments, F&& f);

/// Raises the Python exception for an error of the core.
[[noreturn]] void raise_argument_error(const ArgumentError& error,
                                       std::initializer_list<const Tensors*> arguments);

/// ridgeline.NonFiniteError and ridgeline.RequiresGradError.
extern PyObject* non_finite_error;
extern PyObject* requires_grad_error;

/// Raises NonFiniteError about a norm; `array` is the place of the first bad array, if there is
/// one.
[[noreturn]] void raise_non_finite(double norm, const std::optional<std::string>& array);

/// Lists for iterables and dicts for mappings, so that a tree can be walked more than once; a tree
/// of exact lists, tuples and dicts is returned as it is. Refuses iterators that are used up, and,
/// for `writing`, containers that make new arrays at each look: those would be written in vain.
py::object reusable_tree(py::handle tree, const char* name, bool writing);

void initialize(py::module_& module);

/// Calls on fewer elements end before another thread would get its turn.
inline constexpr std::int64_t gil_threshold = 262144;

/// The GIL released while it lives. Taking it back while the interpreter ends makes CPython before
/// 3.14 unwind the thread, which must not run destructors of Python objects: the thread stops here
/// instead, as it does in later versions.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil();
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

/// f() in the default floating-point environment, without the GIL if there are many elements.
template <class F>
auto without_gil(std::int64_t elements, F&& f) {
  const FloatEnvironment environment;
  if (elements < gil_threshold) return f();
  const WithoutGil released;
  return f();
}

template <class F>
auto run(std::initializer_list<const Tensors*> arguments, F&& f) {
  std::int64_t elements = 0;
  for (const Tensors* t : arguments)
    elements += t->elements();
  try {
    return without_gil(elements, f);
  } catch (const ArgumentError& error) {
    raise_argument_error(error, arguments);
  }
}

}  // namespace ridgeline::python
