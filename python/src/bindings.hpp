// One function a family.
#pragma once

#include <pybind11/pybind11.h>

namespace ridgeline::python {

void bind_runtime(pybind11::module_& m);
void bind_penalties(pybind11::module_& m);
void bind_clipping(pybind11::module_& m);
void bind_random(pybind11::module_& m);
void bind_dropout(pybind11::module_& m);
void bind_pruning(pybind11::module_& m);
void bind_constraints(pybind11::module_& m);
void bind_optimizers(pybind11::module_& m);
void bind_roof(pybind11::module_& m);

}  // namespace ridgeline::python
