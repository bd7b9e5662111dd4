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

/// The arguments that say which index each element of an array has in a random stream.
struct Indices {
  pybind11::handle offset, broadcast_axes, shape, index;

  /// For an argument of that name and shape.
  Numbering numbering(const char* name, std::span<const std::int64_t> own) const;
};

}  // namespace ridgeline::python
