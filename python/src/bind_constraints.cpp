#include "bindings.hpp"
#include "ridgeline/constraints.hpp"
#include "tensor_view.hpp"

namespace ridgeline::python {

void bind_constraints(py::module_& m) {
  m.def("project_box", [](py::handle params, double low, double high) {
    const Tensors p("params", params, Access::parameter);
    run({&p}, [&] { project({low, high}, p.arrays()); });
    p.written();
  });
}

}  // namespace ridgeline::python
