// Walking strided arrays in C order without a copy of the whole.
#pragma once

#include <algorithm>
#include <type_traits>

#include "ridgeline/array.hpp"

namespace ridgeline {

/// Merges neighbouring axes that continue each other and drops those of extent 1. Slowest axis
/// first.
std::vector<Dim> merged(std::span<const Dim> dims);

/// A place `count` strides further. Past the last element of all, a number may leave its range.
template <class Place>
Place moved(Place place, std::int64_t count, std::int64_t stride) {
  const std::uint64_t by = static_cast<std::uint64_t>(count) * static_cast<std::uint64_t>(stride);
  if constexpr (std::is_pointer_v<Place>) {
    return place + static_cast<std::int64_t>(by);
  } else {
    return static_cast<Place>(static_cast<std::uint64_t>(place) + by);
  }
}

/// Calls f(place, stride, n, done) for the runs along the last axis that make up elements
/// [begin, begin + count) of an array whose first element is at `place`, where `done` elements came
/// before. A place is an address, or a number.
template <class Place, class F>
void walk(Place place, std::span<const Dim> dims, std::int64_t begin, std::int64_t count, F f) {
  const std::size_t last = dims.size() - 1;
  constexpr std::size_t inline_axes = 64;  // NumPy and torch allow no more
  std::int64_t index[inline_axes];
  for (std::size_t axis = dims.size(); axis-- > 0;) {
    index[axis] = begin % dims[axis].extent;
    begin /= dims[axis].extent;
    place = moved(place, index[axis], dims[axis].stride);
  }
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t n = std::min(count - done, dims[last].extent - index[last]);
    f(place, dims[last].stride, n, done);
    done += n;
    index[last] += n;
    place = moved(place, n, dims[last].stride);
    for (std::size_t axis = last; axis > 0 && index[axis] == dims[axis].extent; --axis) {
      place = moved(place, -dims[axis].extent, dims[axis].stride);
      place = moved(place, 1, dims[axis - 1].stride);
      index[axis] = 0;
      ++index[axis - 1];
    }
  }
}

/// The address of elements [begin, begin + count) if they lie one after the other in memory, else
/// null.
void* contiguous_part(const Array& array, std::int64_t begin, std::int64_t count);

/// Copies elements [begin, begin + count) to or from a contiguous tile.
void gather(const Array& array, std::int64_t begin, std::int64_t count, void* tile);
void scatter(const Array& array, std::int64_t begin, std::int64_t count, const void* tile);

/// The same elements in the order of memory, for maps, which have no order of their own: contiguous
/// if the array fills its memory (Fortran order, channels last, reversed).
Array in_memory_order(const Array& array);

/// As in_memory_order for arrays whose elements go together; unchanged unless their dims are the
/// same.
void in_memory_order(Array& a, Array& b);

/// The addresses [first, last) that an array touches.
struct Extent {
  std::uintptr_t first;
  std::uintptr_t last;
};
Extent extent_of(const Array& array);

/// Whether two elements of one array, or elements of two arrays, share memory. Exact.
bool overlaps_itself(const Array& array);
bool overlap(const Array& a, const Array& b);

}  // namespace ridgeline
