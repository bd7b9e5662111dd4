#include "bind_random.hpp"

#include <pybind11/stl.h>

#include <limits>

#include "bindings.hpp"
#include "tensor_view.hpp"

namespace ridgeline::python {
namespace {

PyObject* key_type = nullptr;

constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();

std::vector<std::int64_t> integers_of(py::handle sequence) {
  std::vector<std::int64_t> result;
  for (const py::handle value : py::reinterpret_borrow<py::sequence>(sequence))
    result.push_back(value.cast<std::int64_t>());
  return result;
}

/// The memory of a C-contiguous array that the package made.
py::buffer_info own_array(py::handle object) {
  return py::reinterpret_borrow<py::buffer>(object).request(true);
}

}  // namespace

Key key_of(py::handle key) {
  static const py::handle name(PyUnicode_InternFromString("_seed"));
  if (reinterpret_cast<PyObject*>(Py_TYPE(key.ptr())) != key_type) {
    const auto type = py::type::handle_of(key).attr("__qualname__").cast<std::string>();
    const std::string seed = PyLong_CheckExact(key.ptr()) ? py::str(key).cast<std::string>() : "0";
    throw py::type_error("key: got " + type + ", wants ridgeline.Key, such as rl.Key(" + seed +
                         ")");
  }
  const auto seed = py::reinterpret_steal<py::object>(PyObject_GetAttr(key.ptr(), name.ptr()));
  if (!seed) throw py::error_already_set();
  const auto value = PyLong_AsUnsignedLongLong(seed.ptr());
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  return {value};
}

Numbering numbering_of(std::span<const std::int64_t> shape, py::handle offset, py::handle part) {
  std::int64_t first = integer("offset", offset);
  if (first < 0) {
    throw py::value_error("offset: got " + std::to_string(first) + ", wants 0 or more");
  }
  std::int64_t size = 1;
  for (const std::int64_t extent : shape)
    size *= extent;
  std::int64_t last = size - 1;
  std::vector<std::int64_t> strides;
  if (!part.is_none()) {
    const auto [start, steps] = part.cast<std::pair<std::int64_t, py::tuple>>();
    strides = integers_of(steps);
    last = start;
    for (std::size_t i = 0; i < shape.size() && size > 0; ++i)
      last += std::max<std::int64_t>(strides[i], 0) * (shape[i] - 1);
    last -= start;
    first = first <= largest - start ? first + start : largest;  // refused below
  }
  if (first > largest - 1 - std::max<std::int64_t>(last, 0)) {
    throw py::value_error("offset: got " + py::str(offset).cast<std::string>() +
                          ", wants indices below 2**63 - 1");
  }
  if (part.is_none()) return Numbering(first);
  return Numbering(first, shape, strides);
}

Numbering Indices::numbering(const char* name, std::span<const std::int64_t> own) const {
  const bool whole = PyTuple_CheckExact(broadcast_axes.ptr()) &&
                     PyTuple_GET_SIZE(broadcast_axes.ptr()) == 0 && shape.is_none() &&
                     index.is_none();
  if (whole) return numbering_of(own, offset, py::none());
  py::tuple extents(own.size());
  for (std::size_t i = 0; i < own.size(); ++i)
    extents[i] = own[i];
  const py::object part = py::module_::import("ridgeline._numbering")
                              .attr("part_like")(name, extents, broadcast_axes, shape, index);
  return numbering_of(own, offset, part);
}

void bind_random(py::module_& m) {
  m.def("check_torch_target", &check_torch_target);
  m.def("set_key_type", [](py::handle type) { key_type = type.inc_ref().ptr(); });
  m.def("fold_in",
        [](std::uint64_t seed, std::uint64_t data) { return Key{seed}.fold_in(data).seed; });
  m.def("split", [](std::uint64_t seed, std::size_t n) {
    const std::vector<Key> keys = Key{seed}.split(n);
    py::list seeds(n);
    for (std::size_t i = 0; i < n; ++i)
      seeds[i] = py::int_(keys[i].seed);
    return seeds;
  });
  m.def("random_uniform", [](py::handle out, py::handle key, py::handle offset, py::handle part) {
    const Key k = key_of(key);
    const Tensors o("out", out, Access::write);
    const Numbering numbering = numbering_of(o.shape(0), offset, part);
    run({&o}, [&] { random_uniform(o.arrays()[0], k, numbering); });
    o.written();
  });
  m.def("random_normal", [](py::handle out, py::handle key, py::handle mean, py::handle std,
                            py::handle offset, py::handle part) {
    const Key k = key_of(key);
    const double mu = number("mean", mean);
    const double sigma = number("std", std);
    const Tensors o("out", out, Access::write);
    const Numbering numbering = numbering_of(o.shape(0), offset, part);
    run({&o}, [&] { random_normal(o.arrays()[0], k, mu, sigma, numbering); });
    o.written();
  });
  m.def("random_integers", [](py::handle out, py::handle key, std::uint64_t low, std::uint64_t span,
                              py::handle offset, py::handle part) {
    const Key k = key_of(key);
    const py::buffer_info array = own_array(out);
    const std::vector<std::int64_t> shape(array.shape.begin(), array.shape.end());
    const Numbering numbering = numbering_of(shape, offset, part);
    without_gil(array.size, [&] {
      random_integers(array.ptr, array.size, static_cast<std::size_t>(array.itemsize), k, low, span,
                      numbering);
    });
  });
  m.def("random_keep", [](py::handle words, const std::vector<std::int64_t>& shape, py::handle p,
                          py::handle key, py::handle offset, py::handle part) {
    const double probability = number("p", p);
    const Key k = key_of(key);
    const py::buffer_info array = own_array(words);
    const Numbering numbering = numbering_of(shape, offset, part);
    std::int64_t size = 1;
    for (const std::int64_t extent : shape)
      size *= extent;
    const std::span<std::uint64_t> bits(static_cast<std::uint64_t*>(array.ptr),
                                        static_cast<std::size_t>(array.size));
    run({},
        [&] { without_gil(size, [&] { random_keep(bits, size, probability, k, numbering); }); });
  });
}

}  // namespace ridgeline::python
