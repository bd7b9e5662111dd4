#include "ridgeline/dropout.hpp"

#include <pybind11/stl.h>

#include "bind_random.hpp"
#include "bindings.hpp"
#include "tensor_view.hpp"

namespace ridgeline::python {
namespace {

/// One array in, one like it out; f(x, out, numbering).
template <class F>
py::object mapped(const char* name, py::handle x, const Indices& indices, py::handle out, F&& f) {
  require_array(name, x);
  const Tensors a(name, x, Access::source);
  const Numbering numbering = indices.numbering(name, a.shape(0));
  const Result result(name, x, out);
  const Tensors o("out", result.array(), Access::write, &a);
  run({&a, &o}, [&] { f(a.arrays()[0], o.arrays()[0], numbering); });
  o.written();
  return result.finished();
}

/// Two arrays in, one out; f(x, other, out, numbering).
template <class F>
py::object mapped(const char* name, py::handle x, const char* other_name, py::handle other,
                  const Indices& indices, py::handle out, F&& f) {
  require_array(name, x);
  const Tensors a(name, x, Access::source);
  const Tensors b(other_name, other, Access::source, &a);
  const Numbering numbering = indices.numbering(name, a.shape(0));
  const Result result(name, x, out);
  const Tensors o("out", result.array(), Access::write, &a);
  run({&a, &b, &o}, [&] { f(a.arrays()[0], b.arrays()[0], o.arrays()[0], numbering); });
  o.written();
  return result.finished();
}

using Function = void (*)(const Array&, const Array&, double, Key, const Numbering&, int);

void bind_function(py::module_& m, const char* name, const char* first, const char* second,
                   Function function) {
  m.def(name, [=](py::handle x, py::handle amount, py::handle key, py::handle offset,
                  py::handle axes, py::handle shape, py::handle index, py::handle out) {
    const double value = number(second, amount);
    const Key k = key_of(key);
    return mapped(first, x, {offset, axes, shape, index}, out,
                  [&](const Array& a, const Array& o, const Numbering& numbering) {
                    function(a, o, value, k, numbering, 0);
                  });
  });
}

BlockEdges edges_of(py::handle name) {
  const auto is = [&](const char* text) {
    return PyUnicode_Check(name.ptr()) && PyUnicode_CompareWithASCIIString(name.ptr(), text) == 0;
  };
  if (is("full")) return BlockEdges::full;
  if (is("clipped")) return BlockEdges::clipped;
  throw py::value_error("edges: got " + py::repr(name).cast<std::string>() +
                        ", wants 'full' or 'clipped'");
}

void bind_scaled(py::module_& m) {
  m.def("dropout_scaled",
        [](py::handle x, py::handle p, py::handle key, double scale, py::handle offset,
           py::handle axes, py::handle shape, py::handle index, py::handle out) {
          const double probability = number("p", p);
          const Key k = key_of(key);
          return mapped("x", x, {offset, axes, shape, index}, out,
                        [&](const Array& a, const Array& o, const Numbering& numbering) {
                          dropout_scaled(a, o, probability, k, scale, numbering);
                        });
        });
  m.def("drop_connect",
        [](py::handle w, py::handle p, py::handle key, bool scale, py::handle offset,
           py::handle axes, py::handle shape, py::handle index, py::handle out) {
          const double probability = number("p", p);
          const Key k = key_of(key);
          return mapped("w", w, {offset, axes, shape, index}, out,
                        [&](const Array& a, const Array& o, const Numbering& numbering) {
                          if (scale) return dropout(a, o, probability, k, numbering);
                          dropout_scaled(a, o, probability, k, 1, numbering);
                        });
        });
}

void bind_pairs(py::module_& m) {
  m.def("dropout_add", [](py::handle x, py::handle residual, py::handle p, py::handle key,
                          py::handle offset, py::handle axes, py::handle shape, py::handle index,
                          py::handle out) {
    const double probability = number("p", p);
    const Key k = key_of(key);
    return mapped("x", x, "residual", residual, {offset, axes, shape, index}, out,
                  [&](const Array& a, const Array& b, const Array& o, const Numbering& numbering) {
                    dropout_add(a, b, o, probability, k, numbering);
                  });
  });
  m.def("zoneout", [](py::handle fresh, py::handle old, py::handle p, py::handle key,
                      py::handle offset, py::handle axes, py::handle shape, py::handle index,
                      py::handle out) {
    const double probability = number("p", p);
    const Key k = key_of(key);
    return mapped("new", fresh, "old", old, {offset, axes, shape, index}, out,
                  [&](const Array& a, const Array& b, const Array& o, const Numbering& numbering) {
                    zoneout(a, b, o, probability, k, numbering);
                  });
  });
  m.def("zoneout_backward", [](py::handle dy, py::handle p, py::handle key, py::handle offset,
                               py::handle axes, py::handle shape, py::handle index) {
    const double probability = number("p", p);
    const Key k = key_of(key);
    require_array("dy", dy);
    const Tensors a("dy", dy, Access::source);
    const Numbering numbering = Indices{offset, axes, shape, index}.numbering("dy", a.shape(0));
    const Result fresh("dy", dy, py::none());
    const Result old("dy", dy, py::none());
    const Tensors f("d_new", fresh.array(), Access::write, &a);
    const Tensors o("d_old", old.array(), Access::write, &a);
    run({&a, &f, &o}, [&] {
      zoneout_backward(a.arrays()[0], f.arrays()[0], o.arrays()[0], probability, k, numbering);
    });
    return py::make_tuple(fresh.finished(), old.finished());
  });
}

void bind_drop_block(py::module_& m) {
  m.def("drop_block", [](py::handle x, py::handle p, const std::vector<std::int64_t>& block,
                         py::handle key, py::handle edges, bool per_channel, py::handle out) {
    const double probability = number("p", p);
    const Key k = key_of(key);
    const BlockEdges rule = edges_of(edges);
    require_array("x", x);
    const Tensors a("x", x, Access::source);
    const auto shape = a.shape(0);
    if (shape.size() < 4 || shape.size() > 5) {
      throw py::value_error("x: got " + std::to_string(shape.size()) +
                            " axes, wants (N, C, H, W) or (N, C, D, H, W)");
    }
    const auto size = shape.subspan(2);
    if (block.size() != 1 && block.size() != size.size()) {
      throw py::value_error("block: got " + std::to_string(block.size()) + " sizes, wants 1 or " +
                            std::to_string(size.size()));
    }
    std::vector<std::int64_t> blocks(block);
    blocks.resize(size.size(), block[0]);
    const std::vector<std::int64_t> sizes(size.begin(), size.end());
    const std::int64_t samples = shape[0];
    const std::int64_t channels = shape[1];
    const Result result("x", x, out);
    const Tensors o("out", result.array(), Access::write, &a);
    run({&a, &o}, [&] {
      drop_block(a.arrays()[0], o.arrays()[0], samples, channels, sizes, blocks, probability, k,
                 rule, per_channel);
    });
    o.written();
    return result.finished();
  });
}

}  // namespace

void bind_dropout(py::module_& m) {
  bind_function(m, "dropout", "x", "p", &dropout);
  bind_function(m, "alpha_dropout", "x", "p", &alpha_dropout);
  bind_function(m, "alpha_dropout_backward", "dy", "p", &alpha_dropout_backward);
  bind_function(m, "gaussian_dropout", "x", "p", &gaussian_dropout);
  bind_function(m, "gaussian_noise", "x", "std", &gaussian_noise);
  bind_scaled(m);
  bind_pairs(m);
  bind_drop_block(m);
}

}  // namespace ridgeline::python
