#include "tensor_view.hpp"

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define NPY_TARGET_VERSION NPY_1_23_API_VERSION
#include <numpy/arrayobject.h>

#include <cxxabi.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "dlpack_abi.hpp"

namespace ridgeline::python {

PyObject* non_finite_error = nullptr;
PyObject* requires_grad_error = nullptr;

namespace {

constexpr const char* wanted_dtypes = "float32, float64, bfloat16 or float16";

py::handle interned(const char* text) { return PyUnicode_InternFromString(text); }

std::string type_name(py::handle object) {
  const py::handle type = py::type::handle_of(object);
  const auto module = py::str(type.attr("__module__")).cast<std::string>();
  const auto name = py::str(type.attr("__qualname__")).cast<std::string>();
  return module == "builtins" ? name : module + "." + name;
}

/// A problem with one object; callers add its place.
struct Problem {
  PyObject* type;
  std::string text;
  std::string path = {};
};

[[noreturn]] void type_problem(const std::string& text) { throw Problem{PyExc_TypeError, text}; }
[[noreturn]] void value_problem(const std::string& text) { throw Problem{PyExc_ValueError, text}; }

[[noreturn]] void raise(const std::string& place, const Problem& problem) {
  PyErr_SetString(problem.type, (place + problem.path + ": " + problem.text).c_str());
  throw py::error_already_set();
}

/// What is not an array that can be used, and the way out. `cause`: what another library said.
[[noreturn]] void refuse(py::handle object, bool writing, const std::string& cause = "") {
  type_problem(py::module_::import("ridgeline._refusals")
                   .attr("reason")(object, writing, cause)
                   .cast<std::string>());
}

// ---- NumPy

std::optional<DType> numpy_dtype(PyArray_Descr* descr) {
  static int bfloat16_number = -1;
  switch (descr->type_num) {
  case NPY_FLOAT:
    return DType::float32;
  case NPY_DOUBLE:
    return DType::float64;
  case NPY_HALF:
    return DType::float16;
  default:
    break;
  }
  if (descr->type_num == bfloat16_number) return DType::bfloat16;
  // ml_dtypes registers its types when it is imported; their numbers are not fixed.
  if (descr->type_num >= NPY_USERDEF) {
    const py::handle handle(reinterpret_cast<PyObject*>(descr));
    if (py::str(handle.attr("name")).cast<std::string>() == "bfloat16") {
      bfloat16_number = descr->type_num;
      return DType::bfloat16;
    }
  }
  return std::nullopt;
}

TensorView numpy_view(PyArrayObject* array, bool writing) {
  PyArray_Descr* descr = PyArray_DESCR(array);
  const std::optional<DType> dtype = numpy_dtype(descr);
  if (!dtype.has_value() || !PyArray_ISNOTSWAPPED(array)) {
    const py::handle handle(reinterpret_cast<PyObject*>(descr));
    type_problem("got dtype " + py::str(handle).cast<std::string>() + ", wants " + wanted_dtypes +
                 (dtype.has_value() ? " in the byte order of this machine" : ""));
  }
  if (writing && !PyArray_ISWRITEABLE(array)) {
    value_problem("got a read-only array, wants one that can be written");
  }
  static_assert(sizeof(npy_intp) == sizeof(std::int64_t));
  const auto* shape = reinterpret_cast<const std::int64_t*>(PyArray_DIMS(array));
  const int ndim = PyArray_NDIM(array);
  if (PyArray_IS_C_CONTIGUOUS(array))
    return {Array(PyArray_DATA(array), *dtype, PyArray_SIZE(array)), {shape, ndim}};
  const auto* strides = reinterpret_cast<const std::int64_t*>(PyArray_STRIDES(array));
  const auto axes = static_cast<std::size_t>(ndim);
  return {Array(PyArray_DATA(array), *dtype, {shape, axes}, {strides, axes}), {shape, ndim}};
}

/// A masked array's mask would be ignored.
void refuse_masked(py::handle object) {
  if (py::hasattr(object, "mask") && py::hasattr(object, "filled")) {
    type_problem("got a masked array (" + type_name(object) +
                 "), wants a plain one, such as its .data");
  }
}

// ---- DLPack

[[noreturn]] void refuse_device(py::handle object, int type) {
  type_problem("got " + type_name(object) + " on another device (DLPack device type " +
               std::to_string(type) + "), wants an array in CPU memory");
}

TensorView dlpack_view(const dlpack::Tensor& t, py::handle object, bool writing) {
  if (t.device.type != dlpack::cpu) refuse_device(object, t.device.type);
  std::optional<DType> dtype;
  if (t.dtype.lanes == 1 && t.dtype.code == dlpack::float_code) {
    if (t.dtype.bits == 32) dtype = DType::float32;
    if (t.dtype.bits == 64) dtype = DType::float64;
    if (t.dtype.bits == 16) dtype = DType::float16;
  } else if (t.dtype.lanes == 1 && t.dtype.code == dlpack::bfloat_code && t.dtype.bits == 16) {
    dtype = DType::bfloat16;
  }
  if (!dtype.has_value()) {
    const std::string name = py::hasattr(object, "dtype")
                                 ? py::str(object.attr("dtype")).cast<std::string>()
                                 : "another";
    type_problem("got dtype " + name + ", wants " + wanted_dtypes);
  }
  const auto item = static_cast<std::int64_t>(item_size(*dtype));
  std::int64_t size = 1;
  bool contiguous = true;
  for (int axis = t.ndim; axis-- > 0;) {
    if (t.strides != nullptr && t.shape[axis] != 1)
      contiguous = contiguous && t.strides[axis] == size;
    size *= t.shape[axis];
  }
  if (size > 0 && t.data == nullptr) refuse(object, writing, "it has no memory");
  char* data = size == 0 ? nullptr : static_cast<char*>(t.data) + t.byte_offset;
  if (contiguous || size == 0) return {Array(data, *dtype, size), {t.shape, t.ndim}};
  std::vector<std::int64_t> byte_strides(static_cast<std::size_t>(t.ndim));
  for (std::size_t axis = 0; axis < byte_strides.size(); ++axis)
    byte_strides[axis] = t.strides[axis] * item;
  return {Array(data, *dtype, {t.shape, byte_strides.size()}, byte_strides), {t.shape, t.ndim}};
}

/// The first line of what an error of another library says; torch adds a stack trace.
std::string first_line(py::handle error) {
  const auto text = py::str(error).cast<std::string>();
  return text.substr(0, text.find('\n'));
}

/// Python's limit on recursion, while it lives: a list may hold itself.
class Recursion {
 public:
  Recursion() {
    if (Py_EnterRecursiveCall(" in a tree of arrays") != 0) throw py::error_already_set();
  }
  ~Recursion() { Py_LeaveRecursiveCall(); }
  Recursion(const Recursion&) = delete;
  Recursion& operator=(const Recursion&) = delete;
};

/// What is known of a type: whether it has the C exchange API, whether it is torch's.
struct TypeEntry {
  PyTypeObject* type;
  const dlpack::ExchangeApi* api;
  bool torch;
  bool lazy;  ///< a torch parameter before it has a shape
};

const TypeEntry* find_exchange_type(PyTypeObject* type) {
  static std::vector<TypeEntry> cache;
  static std::size_t latest = 0;
  if (latest < cache.size() && cache[latest].type == type) return &cache[latest];
  for (std::size_t i = 0; i < cache.size(); ++i) {
    if (cache[i].type == type) return &cache[latest = i];
  }
  const py::handle handle(reinterpret_cast<PyObject*>(type));
  if (!py::hasattr(handle, "__dlpack_c_exchange_api__")) return nullptr;
  const py::object capsule = handle.attr("__dlpack_c_exchange_api__");
  auto* api =
      static_cast<dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (api == nullptr) throw py::error_already_set();
  while (api != nullptr && api->version.major > 1)
    api = api->previous;
  if (api == nullptr || api->tensor_from_object == nullptr) return nullptr;
  const py::dict modules = py::module_::import("sys").attr("modules");
  const bool torch = modules.contains("torch") &&
                     PyObject_IsSubclass(handle.ptr(), modules["torch"].attr("Tensor").ptr()) == 1;
  Py_INCREF(type);
  cache.push_back({type, api, torch, torch && py::hasattr(handle, "cls_to_become")});
  return &cache[latest = cache.size() - 1];
}

TensorView exchange_view(const TypeEntry& entry, py::handle object, bool writing) {
  dlpack::Tensor tensor{};
  if (entry.lazy) refuse(object, writing);
  if (entry.api->tensor_from_object(object.ptr(), &tensor) != 0)
    refuse(object, writing, first_line(py::error_already_set().value()));
  TensorView view = dlpack_view(tensor, object, writing);
  // The imaginary part of a conjugate is negated lazily, which DLPack does not say. It is strided,
  // so that arrays which cannot be are not asked.
  const bool suspect = entry.torch && (view.array.size == 1 || !view.array.contiguous());
  if (suspect && object.attr("is_neg")().ptr() == Py_True) {
    type_problem("got a tensor with lazy negation, wants one without; call resolve_neg() first");
  }
  return view;
}

/// Writing into a copy would change nothing that its owner can see.
[[noreturn]] void refuse_copies(py::handle object) {
  type_problem("got " + type_name(object) +
               ", which gives a copy at each look, wants arrays that can be written; write to the "
               "copies, then put them back");
}

TensorView capsule_view(py::handle object, bool writing, py::object& owner) {
  const auto device = py::tuple(object.attr("__dlpack_device__")());
  if (device[0].cast<int>() != dlpack::cpu) refuse_device(object, device[0].cast<int>());
  if (writing && type_name(object).starts_with("jax")) {
    value_problem("got a JAX array, which is immutable, wants an array that can be written");
  }
  try {
    try {
      owner = object.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(1, 1));
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_TypeError)) throw;
      owner = object.attr("__dlpack__")();  // a producer from before DLPack 1.0
    }
  } catch (py::error_already_set& error) {
    refuse(object, writing, first_line(error.value()));
  }
  // The capsule stays ours and unconsumed: its destructor returns the tensor to its producer.
  if (PyCapsule_IsValid(owner.ptr(), "dltensor_versioned") != 0) {
    auto* managed = static_cast<dlpack::ManagedTensorVersioned*>(
        PyCapsule_GetPointer(owner.ptr(), "dltensor_versioned"));
    if (managed->version.major > 1)
      type_problem("got DLPack version " + std::to_string(managed->version.major) + ", wants 1");
    if (writing && (managed->flags & dlpack::read_only_flag) != 0) {
      value_problem("got a read-only array, wants one that can be written");
    }
    if (writing && (managed->flags & dlpack::copied_flag) != 0) refuse_copies(object);
    return dlpack_view(managed->tensor, object, writing);
  }
  auto* managed =
      static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(owner.ptr(), "dltensor"));
  if (managed == nullptr) throw py::error_already_set();
  return dlpack_view(managed->tensor, object, writing);
}

// ---- trees

bool is_array(py::handle node) {
  if (PyType_Check(node.ptr())) return false;
  return PyArray_Check(node.ptr()) || find_exchange_type(Py_TYPE(node.ptr())) != nullptr ||
         py::hasattr(node, "__dlpack__");
}

bool is_mapping(py::handle node) {
  return PyDict_Check(node.ptr()) != 0 ||
         (py::hasattr(node, "keys") && py::hasattr(node, "__getitem__"));
}

bool is_text(py::handle node) { return PyUnicode_Check(node.ptr()) || PyBytes_Check(node.ptr()); }

std::string key_text(py::handle key) { return "[" + py::repr(key).cast<std::string>() + "]"; }

/// The place of leaf `index` below `node`, or nothing; `index` counts down over the leaves passed.
std::optional<std::string> find_leaf(py::handle node, std::size_t& index) {
  if (PyDict_Check(node.ptr())) {
    for (const auto& [key, value] : py::reinterpret_borrow<py::dict>(node)) {
      if (const auto rest = find_leaf(value, index)) return key_text(key) + *rest;
    }
    return std::nullopt;
  }
  if (PyList_Check(node.ptr()) || PyTuple_Check(node.ptr())) {
    std::size_t place = 0;
    for (const py::handle child : py::reinterpret_borrow<py::sequence>(node)) {
      if (const auto rest = find_leaf(child, index))
        return "[" + std::to_string(place) + "]" + *rest;
      ++place;
    }
    return std::nullopt;
  }
  if (index == 0) return std::string();
  --index;
  return std::nullopt;
}

/// Whether an object that is no array is not a container of arrays either, though it may iterate:
/// what looks like an array (sparse matrices, series, data sets in files, buffers), and modules.
bool is_opaque(py::handle node) {
  if (is_text(node) || PyType_Check(node.ptr()) != 0 || PyObject_CheckBuffer(node.ptr()) != 0)
    return true;
  if (py::hasattr(node, "shape"))
    return !is_mapping(node) || py::hasattr(node, "to_numpy") || py::hasattr(node, "toarray");
  return py::hasattr(node, "named_parameters") &&
         !type_name(node).starts_with("torch.nn.modules.container.Parameter");
}

/// f(key, child of a mapping) or f(place, child of an iterable), with the step to it as a Problem's
/// path.
template <class F>
void each_child(py::handle node, F&& f) {
  const auto at = [&](py::handle key, std::size_t place, py::handle child) {
    try {
      f(key, child);
    } catch (Problem& problem) {
      problem.path.insert(0, key ? key_text(key) : "[" + std::to_string(place) + "]");
      throw;
    }
  };
  if (is_mapping(node)) {
    for (const py::handle key : py::list(node.attr("keys")()))
      at(key, 0, py::object(node[key]));
    return;
  }
  std::size_t place = 0;
  for (const py::handle child : py::iter(node))
    at(py::handle(), place++, child);
}

bool is_iterator(py::handle node) { return PyIter_Check(node.ptr()) != 0; }

/// Whether children can be found, of a node that is no array.
bool is_container(py::handle node) {
  return !is_opaque(node) && (is_mapping(node) || py::hasattr(node, "__iter__"));
}

TensorView any_view(py::handle object, bool writing, py::object& owner) {
  if (PyArray_Check(object.ptr()))
    return numpy_view(reinterpret_cast<PyArrayObject*>(object.ptr()), writing);
  if (const TypeEntry* entry = find_exchange_type(Py_TYPE(object.ptr())))
    return exchange_view(TypeEntry(*entry), object, writing);
  return capsule_view(object, writing, owner);
}

/// Whether the arrays of a container, looked at once more, are in the memory of those in `plain`,
/// which was made of it. What an iterator gave is held by `plain` alone.
bool lasting(py::handle plain, py::handle node) {
  if (plain.is(node) || is_iterator(node)) return true;
  if (is_array(plain)) {
    py::object owners[2];
    if (!is_array(node)) return false;
    const Array before = any_view(plain, false, owners[0]).array;
    return before.size == 0 || before.data == any_view(node, false, owners[1]).array.data;
  }
  bool same = true;
  py::ssize_t place = 0;
  if (is_container(node)) {
    each_child(node, [&](py::handle key, py::handle child) {
      const py::object own =
          plain[key ? py::reinterpret_borrow<py::object>(key) : py::object(py::int_(place++))];
      same = same && lasting(own, child);
    });
  }
  return same;
}

/// Lists for iterables and dicts for mappings, all the way down, so that a tree can be walked
/// twice.
py::object plain_tree(py::handle node, bool writing) {
  const Recursion guard;
  if (is_array(node) || !is_container(node)) return py::reinterpret_borrow<py::object>(node);
  py::object result;
  if (is_mapping(node)) {
    py::dict children;
    each_child(node, [&](py::handle key, py::handle child) {
      children[key] = plain_tree(child, writing);
    });
    result = children;
  } else {
    py::list children;
    each_child(node,
               [&](py::handle, py::handle child) { children.append(plain_tree(child, writing)); });
    if (is_iterator(node) && children.empty())
      value_problem("got an iterator that has nothing left, wants arrays");
    result = children;
  }
  const bool held = PyList_CheckExact(node.ptr()) || PyTuple_CheckExact(node.ptr()) ||
                    PyDict_CheckExact(node.ptr()) || is_iterator(node);
  if (writing && !held && !lasting(result, node)) refuse_copies(node);
  return result;
}

/// Whether a tree is made of exact lists, tuples and dicts, down to arrays that can be looked at
/// without running Python code, which might change it: then it can be walked as it is.
bool is_plain(py::handle node) {
  PyObject* object = node.ptr();
  if (PyArray_CheckExact(object) || object == Py_None) return true;
  const Recursion guard;
  if (PyList_CheckExact(object)) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(object); ++i) {
      if (!is_plain(PyList_GET_ITEM(object, i))) return false;
    }
    return true;
  }
  if (PyTuple_CheckExact(object)) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(object); ++i) {
      if (!is_plain(PyTuple_GET_ITEM(object, i))) return false;
    }
    return true;
  }
  if (PyDict_CheckExact(object)) {
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    Py_ssize_t position = 0;
    while (PyDict_Next(object, &position, &key, &value)) {
      if (!is_plain(value)) return false;
    }
    return true;
  }
  return !PyType_Check(object) && find_exchange_type(Py_TYPE(object)) != nullptr;
}

std::string shape_text(Shape shape) {
  std::string text = "(";
  for (int axis = 0; axis < shape.ndim; ++axis)
    text += (axis > 0 ? ", " : "") + std::to_string(shape.extents[axis]);
  return text + (shape.ndim == 1 ? ",)" : ")");
}

std::string kind_text(py::handle node) {
  if (is_array(node)) return "an array";
  if (is_mapping(node)) return "a dict of " + std::to_string(py::len(node));
  if (PyList_Check(node.ptr()) || PyTuple_Check(node.ptr()))
    return "a sequence of " + std::to_string(py::len(node));
  return type_name(node);
}

}  // namespace

py::object reusable_tree(py::handle tree, const char* name, bool writing) {
  try {
    if (is_plain(tree)) return py::reinterpret_borrow<py::object>(tree);
    return plain_tree(tree, writing);
  } catch (const Problem& problem) {
    raise(name, problem);
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_RecursionError)) throw;
    const std::string text = ": got " + type_name(tree) +
                             " that holds itself, or is nested too deeply, wants a tree of arrays";
    py::raise_from(error, PyExc_ValueError, (name + text).c_str());
    throw py::error_already_set();
  }
}

Tensors::Tensors(const char* name, py::handle tree, Access access, const Tensors* model, bool holes,
                 bool any_dtype)
    : name_(name), access_(access), model_(model), holes_(holes), any_dtype_(any_dtype) {
  tree_ = reusable_tree(tree, name, writes(access));
  flatten(tree_, model == nullptr ? py::handle() : py::handle(model->tree_), nullptr);
}

void Tensors::fail(const Place* place, PyObject* type, const std::string& problem) const {
  std::string path;
  for (; place != nullptr; place = place->parent) {
    const std::string step =
        place->key == nullptr ? "[" + std::to_string(place->index) + "]" : key_text(place->key);
    path.insert(0, step);
  }
  raise(name_ + path, {type, problem});
}

std::string Tensors::path(std::size_t index) const {
  return name_ + find_leaf(model_ == nullptr ? tree_ : model_->tree_, index).value_or("");
}

namespace {

/// An attribute or a method of a tensor that tells yes or no; a subclass may compute it, and fail.
bool yes(PyObject* answer) {
  const auto held = py::reinterpret_steal<py::object>(answer);
  const int truth = held ? PyObject_IsTrue(held.ptr()) : -1;
  if (truth < 0) throw py::error_already_set();
  return truth == 1;
}
bool has(py::handle tensor, py::handle attribute) {
  return yes(PyObject_GetAttr(tensor.ptr(), attribute.ptr()));
}

/// What is asked of torch: modes, and attributes of tensors.
struct Questions {
  py::object grad_enabled, inference_mode, tracing;
  py::dict dispatch_modes;
  py::handle requires_grad = interned("requires_grad");
  py::handle is_leaf = interned("is_leaf");
  py::handle is_inference = interned("is_inference");
  py::handle any_dispatch_mode = interned("_is_in_torch_dispatch_mode");

  Questions() {
    const py::module_ torch = py::module_::import("torch");
    grad_enabled = torch.attr("is_grad_enabled");
    inference_mode = torch.attr("is_inference_mode_enabled");
    tracing = torch.attr("_C").attr("_is_tracing");
    dispatch_modes = py::module_::import("torch.utils._python_dispatch").attr("__dict__");
  }
  static const Questions& asked() {
    static const Questions& questions = *new Questions;
    return questions;
  }
  static bool call(const py::object& question) { return yes(PyObject_CallNoArgs(question.ptr())); }
  static bool call(py::handle tensor, py::handle method) {
    return yes(PyObject_CallMethodNoArgs(tensor.ptr(), method.ptr()));
  }

  /// Whether torch.jit.trace or make_fx records operations: ours would be missing.
  bool recorded() const {
    if (call(tracing)) return true;
    // The flag of a module of torch: much cheaper than asking for the mode. Without it, ask.
    if (PyDict_GetItemWithError(dispatch_modes.ptr(), any_dispatch_mode.ptr()) == Py_False)
      return false;
    const py::dict modules = py::module_::import("sys").attr("modules");
    const char* proxies = "torch.fx.experimental.proxy_tensor";
    return modules.contains(proxies) && !modules[proxies].attr("get_proxy_mode")().is_none();
  }
};

}  // namespace

bool TorchModes::grad_enabled() {
  const Questions& ask = Questions::asked();
  if (!grad_enabled_.has_value()) grad_enabled_ = ask.call(ask.grad_enabled);
  return *grad_enabled_;
}

void TorchModes::check(py::handle tensor, Access access, const char* name, bool many) {
  const Questions& ask = Questions::asked();
  if (!untraced_ && ask.recorded()) {
    type_problem(
        "got a torch tensor while torch.jit.trace or make_fx records, wants a call outside of it: "
        "what is done here would not be recorded");
  }
  untraced_ = true;
  if (access == Access::read) return;
  if (writes(access) && ask.call(tensor, ask.is_inference) && !ask.call(ask.inference_mode)) {
    value_problem(
        "got an inference tensor outside of torch.inference_mode(), wants a normal one: .clone() "
        "makes one");
  }
  // Asking the tensor costs as much as asking for the mode, so a list asks for the mode first.
  if (access != Access::gradient && many && !grad_enabled()) return;
  if (!has(tensor, ask.requires_grad)) return;
  if (access == Access::gradient && has(tensor, ask.is_leaf)) {
    throw Problem{requires_grad_error,
                  "got a leaf tensor that requires grad, as parameters are, wants a gradient: "
                  "[p.grad for p in model.parameters()]"};
  }
  if (!grad_enabled() || (access == Access::parameter && has(tensor, ask.is_leaf))) return;
  const std::string got = "got a tensor that requires grad";
  switch (access) {
  case Access::source:
    throw Problem{requires_grad_error,
                  got + ", wants one that does not: the result would carry no gradient; pass " +
                      name +
                      ".detach(), call under torch.no_grad(), or write a "
                      "torch.autograd.Function as in examples/pytorch_dropout.py"};
  case Access::parameter:
    throw Problem{requires_grad_error,
                  got + " and is no leaf, wants a leaf, such as a parameter: autograd would not "
                        "see the change"};
  default:
    throw Problem{requires_grad_error,
                  got + ", wants one that does not: autograd would not see the change; call under "
                        "torch.no_grad()"};
  }
}

bool check_torch_target(const char* name, py::handle object) {
  const TypeEntry* entry = find_exchange_type(Py_TYPE(object.ptr()));
  if (entry == nullptr || !entry->torch) return false;
  try {
    if (entry->lazy) refuse(object, true);
    TorchModes().check(object, Access::write, name, false);
  } catch (const Problem& problem) {
    raise(name, problem);
  }
  return true;
}

void Tensors::add(py::handle node, TensorView view, const Place* place) {
  const auto [extents, ndim] = view.shape;
  if (model_ != nullptr) {
    const std::size_t index = arrays_.size();
    if (index >= model_->size()) {
      fail(place, PyExc_ValueError, std::string("got more arrays than ") + model_->name_);
    }
    const Shape wanted = model_->shapes_[index];
    if (!any_dtype_ && view.array.dtype != model_->arrays_[index].dtype) {
      fail(place, PyExc_TypeError,
           std::string("got dtype ") + name_of(view.array.dtype) + ", wants " +
               name_of(model_->arrays_[index].dtype) + " as in " + model_->name_);
    }
    if (ndim != wanted.ndim || !std::equal(extents, extents + ndim, wanted.extents)) {
      fail(place, PyExc_ValueError,
           "got shape " + shape_text(view.shape) + ", wants " + shape_text(wanted) + " as in " +
               model_->name_);
    }
  }
  elements_ += view.array.size;
  shapes_.push_back(view.shape);
  arrays_.push_back(std::move(view.array));
  objects_.push_back(py::reinterpret_borrow<py::object>(node));
}

/// An error unless a dict has the keys of the model.
void Tensors::check_keys(py::handle node, py::handle model, const Place* place) const {
  const auto check = [&](py::handle keys, py::handle among, const char* got, const char* verb) {
    for (const auto& [key, value] : py::reinterpret_borrow<py::dict>(keys)) {
      const int found = PyDict_Contains(among.ptr(), key.ptr());
      if (found < 0) throw py::error_already_set();
      if (found == 1) continue;
      fail(place, PyExc_ValueError,
           got + py::repr(key).cast<std::string>() + ", which " + model_->name_ + verb);
    }
  };
  check(model, node, "got no key ", " has");
  if (PyDict_Size(node.ptr()) != PyDict_Size(model.ptr()))
    check(node, model, "got key ", " does not have");
}

/// An error unless a node is of the same kind as the model's.
void Tensors::check_kind(bool alike, py::handle node, py::handle model, const Place* place) const {
  if (model_ == nullptr || alike) return;
  fail(place, PyExc_ValueError,
       "got " + kind_text(node) + ", wants " + kind_text(model) + " as in " + model_->name_);
}

// Looking at a tensor of a subclass can run Python code, which might change the containers: sizes
// are read anew, and children held.

void Tensors::flatten_sequence(py::handle node, py::handle model, const Place* place) {
  PyObject* object = node.ptr();
  const bool compare = model_ != nullptr;
  const auto as_long = [&] {
    return (PyList_CheckExact(model.ptr()) || PyTuple_CheckExact(model.ptr())) &&
           PySequence_Fast_GET_SIZE(model.ptr()) == PySequence_Fast_GET_SIZE(object);
  };
  check_kind(compare && as_long(), node, model, place);
  if (arrays_.empty()) {
    const auto n = static_cast<std::size_t>(PySequence_Fast_GET_SIZE(object));
    arrays_.reserve(n);
    shapes_.reserve(n);
    objects_.reserve(n);
  }
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(object); ++i) {
    const Place here{place, nullptr, i};
    const auto child = py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(object, i));
    py::object other;
    if (compare) {
      check_kind(as_long(), node, model, place);
      other = py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(model.ptr(), i));
    }
    flatten(child, other, &here);
  }
}

void Tensors::flatten_dict(py::handle node, py::handle model, const Place* place) {
  const bool compare = model_ != nullptr;
  check_kind(compare && PyDict_CheckExact(model.ptr()), node, model, place);
  if (compare) check_keys(node, model, place);
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  Py_ssize_t position = 0;
  // In the order of the model: its arrays are in that order.
  while (PyDict_Next(compare ? model.ptr() : node.ptr(), &position, &key, &value)) {
    const Place here{place, key, 0};
    const auto held = py::reinterpret_borrow<py::object>(key);
    const auto child = py::reinterpret_borrow<py::object>(value);
    if (!compare) {
      flatten(child, py::handle(), &here);
      continue;
    }
    const auto own = py::reinterpret_borrow<py::object>(PyDict_GetItemWithError(node.ptr(), key));
    if (own.ptr() == nullptr) check_keys(node, model, place);
    flatten(own, child, &here);
  }
}

void Tensors::flatten(py::handle node, py::handle model, const Place* place) {
  PyObject* object = node.ptr();
  const bool writing = writes(access_);
  const bool compare = model_ != nullptr;
  if (PyList_CheckExact(object) || PyTuple_CheckExact(object))
    return flatten_sequence(node, model, place);
  if (PyDict_CheckExact(object)) return flatten_dict(node, model, place);
  if (holes_ && object == Py_None && (compare || place != nullptr)) {
    check_kind(compare && is_array(model), node, model, place);
    shapes_.push_back({nullptr, 0});
    arrays_.push_back(Array());
    objects_.push_back(py::none());
    return;
  }
  try {
    if (PyArray_CheckExact(object)) {
      check_kind(compare && is_array(model), node, model, place);
      return add(node, numpy_view(reinterpret_cast<PyArrayObject*>(object), writing), place);
    }
    if (PyType_Check(object))
      type_problem("got a type (" + py::repr(node).cast<std::string>() + "), wants an array");
    if (const TypeEntry* found = find_exchange_type(Py_TYPE(object))) {
      const TypeEntry entry = *found;
      check_kind(compare && is_array(model), node, model, place);
      const std::size_t index = arrays_.size();
      add(node, exchange_view(entry, node, writing), place);
      if (!entry.torch) return;
      modes_.check(node, access_, name_, index > 0);
      if (writing) torch_.push_back(index);
      return;
    }
    if (PyArray_Check(object)) {
      check_kind(compare && is_array(model), node, model, place);
      refuse_masked(node);
      return add(node, numpy_view(reinterpret_cast<PyArrayObject*>(object), writing), place);
    }
    if (py::hasattr(node, "__dlpack__") && py::hasattr(node, "__dlpack_device__")) {
      check_kind(compare && is_array(model), node, model, place);
      py::object owner;
      const TensorView view = capsule_view(node, writing, owner);
      capsules_.push_back(std::move(owner));
      return add(node, view, place);
    }
    refuse(node, writing);
  } catch (const Problem& problem) {
    fail(place, problem.type, problem.text);
  }
}

WithoutGil::~WithoutGil() {
  try {
    PyEval_RestoreThread(state_);
  } catch (abi::__forced_unwind&) {
    for (;;)
      pause();
  }
}

void Tensors::leave_out_holes_of(const Tensors& other) {
  for (std::size_t i = 0; i < size(); ++i) {
    if (!other.hole(i)) continue;
    elements_ -= arrays_[i].size;
    arrays_[i] = Array();
  }
}

void Tensors::keep_shapes() {
  extents_.clear();
  for (std::size_t i = 0; i < size(); ++i)
    extents_.insert(extents_.end(), shapes_[i].extents, shapes_[i].extents + shapes_[i].ndim);
  const std::int64_t* next = extents_.data();
  for (std::size_t i = 0; i < size(); ++i) {
    shapes_[i].extents = next;
    next += shapes_[i].ndim;
  }
}

bool Tensors::unchanged() const {
  for (std::size_t i = 0; i < size(); ++i) {
    const py::handle object = objects_[i];
    TensorView view;
    try {
      if (PyArray_Check(object.ptr())) {
        view = numpy_view(reinterpret_cast<PyArrayObject*>(object.ptr()), writes(access_));
      } else {
        const TypeEntry* entry = find_exchange_type(Py_TYPE(object.ptr()));
        if (entry == nullptr) return false;
        view = exchange_view(*entry, object, writes(access_));
      }
    } catch (const Problem&) {
      return false;
    }
    const Array& seen = arrays_[i];
    const Shape shape = shapes_[i];
    if (view.array.data != seen.data || view.array.size != seen.size ||
        view.array.dtype != seen.dtype || view.array.dims != seen.dims ||
        view.shape.ndim != shape.ndim ||
        !std::equal(shape.extents, shape.extents + shape.ndim, view.shape.extents)) {
      return false;
    }
  }
  return true;
}

void Tensors::written() const {
  if (torch_.empty()) return;
  std::vector<std::size_t> all;
  for (std::size_t i = 0; i < torch_.size(); ++i)
    all.push_back(torch_[i]);
  written(all);
}

void Tensors::written(std::span<const std::size_t> indices) const {
  std::vector<std::size_t> torch;
  for (std::size_t i = 0; i < torch_.size(); ++i) {
    if (std::ranges::binary_search(indices, torch_[i])) torch.push_back(torch_[i]);
  }
  if (torch.empty()) return;
  // What torch.autograd.graph.increment_version calls, which is several times slower for one
  // tensor.
  static const py::object& increment = *new py::object([] {
    const py::object internal = py::module_::import("torch").attr("_C");
    return py::getattr(internal, "_increment_version",
                       py::module_::import("torch.autograd.graph").attr("increment_version"));
  }());
  py::tuple tensors(torch.size());
  for (std::size_t i = 0; i < torch.size(); ++i)
    tensors[i] = objects_[torch[i]];
  increment(tensors);
}

void require_array(const char* name, py::handle object) {
  if (is_array(object)) return;
  try {
    if (!is_container(object)) refuse(object, false);
    type_problem("got " + kind_text(object) +
                 ", wants one array (NumPy, or anything with __dlpack__ in CPU memory)");
  } catch (const Problem& problem) {
    raise(name, problem);
  }
}

Result::Result(const char* name, py::handle like, py::handle out) {
  if (!out.is_none()) {
    array_ = py::reinterpret_borrow<py::object>(out);
    return;
  }
  if (PyArray_Check(like.ptr())) {
    auto* model = reinterpret_cast<PyArrayObject*>(like.ptr());
    array_ =
        py::reinterpret_steal<py::object>(PyArray_NewLikeArray(model, NPY_KEEPORDER, nullptr, 0));
    if (!array_) throw py::error_already_set();
    return;
  }
  if (const TypeEntry* entry = find_exchange_type(Py_TYPE(like.ptr())); entry && entry->torch) {
    static const py::object& empty_like =
        *new py::object(py::module_::import("torch").attr("empty_like"));
    array_ = empty_like(like, py::arg("requires_grad") = false);
    return;
  }
  if (!type_name(like).starts_with("jax")) {
    throw py::type_error(std::string(name) + ": got " + type_name(like) +
                         ", wants a NumPy array, PyTorch tensor or JAX array, or out=");
  }
  array_ = py::module_::import("numpy").attr("empty")(like.attr("shape"), like.attr("dtype"));
  jax_ = true;
}

py::object Result::finished() const {
  return jax_ ? py::module_::import("jax.numpy").attr("asarray")(array_) : array_;
}

double number(const char* name, py::handle value) {
  PyObject* object = value.ptr();
  if (PyFloat_CheckExact(object)) return PyFloat_AS_DOUBLE(object);
  const PyNumberMethods* methods = Py_TYPE(object)->tp_as_number;
  const bool numeric =
      methods != nullptr && (methods->nb_float != nullptr || methods->nb_index != nullptr);
  const bool truth = PyBool_Check(object) || PyArray_IsScalar(object, Bool);
  const bool array =
      PyArray_Check(object) && PyArray_NDIM(reinterpret_cast<PyArrayObject*>(object)) > 0;
  if (numeric && !truth && !array) {
    const double x = PyFloat_AsDouble(object);
    if (x != -1.0 || PyErr_Occurred() == nullptr) return x;
    if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
      PyErr_Clear();
      throw py::value_error(std::string(name) + ": got an integer beyond float64, wants a number");
    }
    PyErr_Clear();
  }
  throw py::type_error(std::string(name) + ": got " + type_name(value) + ", wants a number");
}

std::int64_t integer(const char* name, py::handle value) {
  if (PyIndex_Check(value.ptr()) && !PyBool_Check(value.ptr())) {
    const Py_ssize_t n =
        PyNumber_AsSsize_t(value.ptr(), nullptr);  // clipped to the range of the type
    if (!(n == -1 && PyErr_Occurred() != nullptr)) return n;
    PyErr_Clear();
  }
  throw py::type_error(std::string(name) + ": got " + type_name(value) + ", wants an integer");
}

void raise_argument_error(const ArgumentError& error,
                          std::initializer_list<const Tensors*> arguments) {
  const auto place = [&](const char* argument, std::ptrdiff_t index) {
    for (const Tensors* t : arguments) {
      if (index >= 0 && std::string_view(argument) == t->name())
        return t->path(static_cast<std::size_t>(index));
    }
    return std::string(argument);
  };
  const std::string message =
      place(error.argument, error.index) + ": " +
      error.problem(error.other == nullptr ? "" : place(error.other, error.other_index));
  PyErr_SetString(error.kind == ArgumentError::Kind::type ? PyExc_TypeError : PyExc_ValueError,
                  message.c_str());
  throw py::error_already_set();
}

void raise_non_finite(double norm, const std::optional<std::string>& array) {
  const std::string text = py::repr(py::float_(norm)).cast<std::string>();
  const std::string cause = array.has_value() ? "first non-finite array: " + *array
                                              : "the elements are finite, their norm overflows";
  py::object exception = py::handle(non_finite_error)("the global norm is " + text + "; " + cause);
  exception.attr("array") = array.has_value() ? py::object(py::str(*array)) : py::none();
  PyErr_SetObject(non_finite_error, exception.ptr());
  throw py::error_already_set();
}

void initialize(py::module_& module) {
  if (_import_array() < 0) throw py::error_already_set();
  non_finite_error = PyErr_NewExceptionWithDoc("ridgeline.NonFiniteError",
                                               R"(A norm was NaN or infinite.

Attributes
----------
array : str or None
    The place of the first array with a NaN or an infinity, such as ``grads['w'][0]``; None if all
    elements are finite and only their norm overflows.

Examples
--------
>>> import numpy as np
>>> import ridgeline as rl
>>> grads = {"w": np.ones(3), "b": np.array([np.inf])}
>>> try:
...     norm = rl.clip_by_global_norm_(grads, 1.0, on_nonfinite="raise")
... except rl.NonFiniteError as error:
...     print(error.array)
grads['b']
)",
                                               PyExc_FloatingPointError, nullptr);
  const py::tuple bases =
      py::make_tuple(py::handle(PyExc_RuntimeError), py::handle(PyExc_ValueError));
  requires_grad_error = PyErr_NewExceptionWithDoc(
      "ridgeline.RequiresGradError",
      R"(A call would go past autograd, and gradients would be wrong without a word.

Raised for torch tensors that require grad: when a new array would be computed from one while grad
mode is on, when one would be written in place, and when a parameter is given where its gradient is
wanted. Ways out, in this order: ``x.detach()`` where no gradient is wanted, ``torch.no_grad()``,
and a ``torch.autograd.Function``, in whose ``forward`` grad mode is off
(``examples/pytorch_dropout.py``).

It is a RuntimeError, as torch's own error for an in-place operation on a leaf, and a ValueError, as
ridgeline's errors for wrong arguments.

Examples
--------
>>> import ridgeline as rl
>>> issubclass(rl.RequiresGradError, RuntimeError) and issubclass(rl.RequiresGradError, ValueError)
True
)",
      bases.ptr(), nullptr);
  module.attr("NonFiniteError") = py::handle(non_finite_error);
  module.attr("RequiresGradError") = py::handle(requires_grad_error);
}

}  // namespace ridgeline::python
