#include "bind_penalties.hpp"

#include <array>

#include "bindings.hpp"

namespace ridgeline::python {
namespace {

PenaltyKind kind_of(const std::string& name) {
  constexpr std::array names = {"l1",   "weighted_l1", "l2", "elastic_net", "mcp",
                                "scad", "log_sum",     "l0", "l_half",      "huber"};
  static_assert(names.size() == penalty_kind_count);
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (name == names[i]) return static_cast<PenaltyKind>(i);
  }
  throw py::value_error("kind: got '" + name + "'");
}

}  // namespace

void Terms::add(const std::string& kind, double strength, double shape, py::object weights) {
  terms_.push_back({kind_of(kind), strength, shape});
  weights_.push_back(std::move(weights));
}

void bind_penalties(py::module_& m) {
  py::class_<Terms>(m, "Terms")
      .def(py::init<>())
      .def("add", &Terms::add, py::arg("kind"), py::arg("strength"), py::arg("shape"),
           py::arg("weights"))
      .def("extend", &Terms::extend, py::arg("other"));

  m.def("number", [](const char* name, py::handle value) { return number(name, value); });
  m.def("reusable_tree", &reusable_tree, py::arg("tree"), py::arg("name") = "params",
        py::arg("writing") = false);
  m.def("check_weights", [](py::handle weights) {
    const Tensors w("weights", weights, Access::read);
    run({&w}, [&] { check_weights(w.arrays()); });
  });
  m.def("penalty_value", [](const Terms& terms, py::handle params) {
    const Tensors p("params", params, Access::read);
    const Terms::Bound bound(terms, p);
    return run({&p}, [&] { return penalty_value(bound, p.arrays()); });
  });
  m.def("penalty_add_gradient", [](const Terms& terms, py::handle grads, py::handle params) {
    Tensors p("params", params, Access::read);
    const Tensors g("grads", grads, Access::gradient, &p, true);
    const Terms::Bound bound(terms, p, Access::read, &g);
    p.leave_out_holes_of(g);
    const double value =
        run({&g, &p}, [&] { return add_penalty_gradient(bound, g.arrays(), p.arrays()); });
    g.written();
    return value;
  });
  m.def("penalty_prox_in_place", [](const Terms& terms, py::handle params, py::handle step) {
    const double t = number("step", step);
    const Tensors p("params", params, Access::parameter);
    const Terms::Bound bound(terms, p);
    run({&p}, [&] { penalty_prox(bound, p.arrays(), p.arrays(), t); });
    p.written();
  });
  m.def("penalty_prox", [](const Terms& terms, py::handle x, py::handle step, py::handle out) {
    const double t = number("step", step);
    require_array("x", x);
    const Tensors source("x", x, Access::source);
    const Result result("x", x, out);
    const Tensors target("out", result.array(), Access::write, &source);
    const Terms::Bound bound(terms, source, Access::source);
    run({&source, &target}, [&] { penalty_prox(bound, target.arrays(), source.arrays(), t); });
    target.written();
    return result.finished();
  });
}

}  // namespace ridgeline::python
