// Arguments of functions that draw random numbers.
#pragma once

#include <pybind11/pybind11.h>

#include "ridgeline/random.hpp"

namespace ridgeline::python {

/// The value of a ridgeline.Key; a TypeError for anything else.
Key key_of(pybind11::handle key);

/// `part` is None, or (index of the first element, a stride for each axis).
Numbering numbering_of(std::span<const std::int64_t> shape, pybind11::handle offset,
                       pybind11::handle part);

}  // namespace ridgeline::python
