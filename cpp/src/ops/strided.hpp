// Walking strided arrays in C order without a copy of the whole.
#pragma once

#include "ridgeline/array.hpp"

namespace ridgeline {

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
