// ridgeline._core: the table of contents.
#include "bindings.hpp"
#include "tensor_view.hpp"

PYBIND11_MODULE(_core, m) {
  ridgeline::python::initialize(m);
  ridgeline::python::bind_runtime(m);
  ridgeline::python::bind_penalties(m);
  ridgeline::python::bind_clipping(m);
  ridgeline::python::bind_random(m);
  ridgeline::python::bind_dropout(m);
  ridgeline::python::bind_pruning(m);
  ridgeline::python::bind_constraints(m);
  ridgeline::python::bind_optimizers(m);
  ridgeline::python::bind_roof(m);
}
