#include "bind_penalties.hpp"

#include "bindings.hpp"
#include "ridgeline/optimizers.hpp"

namespace ridgeline::python {
namespace {

PenaltyKind kind_of(const std::string& name) {
  for (std::size_t i = 0; i < penalty_kind_count; ++i) {
    if (name == penalty_list[i].name) return static_cast<PenaltyKind>(i);
  }
  throw py::value_error("kind: got '" + name + "'");
}

/// The name of each kind, with that of its second parameter or None.
py::dict penalty_kinds() {
  py::dict kinds;
  for (const PenaltyInfo& info : penalty_list)
    kinds[info.name] = info.shaped() ? py::object(py::str(info.shape)) : py::none();
  return kinds;
}

/// The name of each kind, with its states as pairs (name, whether it is one of squares).
py::dict optimizer_kinds() {
  py::dict kinds;
  for (std::size_t i = 0; i < optimizer_kind_count; ++i) {
    py::list states;
    for (int j = 0; j < state_count(static_cast<OptimizerKind>(i)); ++j) {
      const OptimizerInfo::State& state = optimizer_list[i].states[j];
      states.append(py::make_tuple(state.name, state.of_squares));
    }
    kinds[optimizer_list[i].name] = states;
  }
  return kinds;
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

  m.def("penalty_kinds", &penalty_kinds);
  m.def("optimizer_kinds", &optimizer_kinds);
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
