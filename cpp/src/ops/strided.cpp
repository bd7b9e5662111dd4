#include "ops/strided.hpp"

#include <algorithm>
#include <cstring>
#include <optional>

namespace ridgeline {
namespace {

std::int64_t item(const Array& array) { return static_cast<std::int64_t>(item_size(array.dtype)); }

bool is_contiguous(const std::vector<Dim>& dims, std::int64_t item_bytes) {
  return dims.empty() || (dims.size() == 1 && dims[0].stride == item_bytes);
}

/// Calls f(address, stride, n, done) for the runs that make up elements [begin, begin +
/// count).
template <class F>
void walk(const Array& array, std::int64_t begin, std::int64_t count, F f) {
  char* base = static_cast<char*>(array.data);
  if (array.contiguous()) {
    f(base + begin * item(array), item(array), count, std::int64_t{0});
  } else {
    walk(base, array.dims, begin, count, f);
  }
}

template <std::size_t Bytes, bool ToTile>
void copy_items(char* memory, std::int64_t stride, char* tile, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    char* element = memory + i * stride;
    char* slot = tile + i * static_cast<std::int64_t>(Bytes);
    std::memcpy(ToTile ? slot : element, ToTile ? element : slot, Bytes);
  }
}

template <bool ToTile>
void transfer(const Array& array, std::int64_t begin, std::int64_t count, char* tile) {
  walk(array, begin, count,
       [&](char* memory, std::int64_t stride, std::int64_t n, std::int64_t done) {
         char* slot = tile + done * item(array);
         if (stride == item(array)) {
           std::memcpy(ToTile ? slot : memory, ToTile ? memory : slot,
                       static_cast<std::size_t>(n * stride));
           return;
         }
         switch (item_size(array.dtype)) {
         case 2:
           return copy_items<2, ToTile>(memory, stride, slot, n);
         case 4:
           return copy_items<4, ToTile>(memory, stride, slot, n);
         default:
           return copy_items<8, ToTile>(memory, stride, slot, n);
         }
       });
}

/// Marks the bytes of arrays one by one: exact, slow, and needed only where arithmetic on strides
/// cannot tell.
class TouchedBytes {
 public:
  explicit TouchedBytes(Extent all) : first_(all.first), touched_(all.last - all.first) {}

  /// Whether a byte of `array` was marked before. Marks its own if `mark`.
  bool meets(const Array& array, bool mark) {
    bool met = false;
    walk(array, 0, array.size,
         [&](const char* memory, std::int64_t stride, std::int64_t n, std::int64_t) {
           for (std::int64_t i = 0; i < n && !met; ++i) {
             const auto at = reinterpret_cast<std::uintptr_t>(memory + i * stride) - first_;
             for (std::size_t byte = at; byte < at + item_size(array.dtype); ++byte) {
               met = met || touched_[byte];
               if (mark) touched_[byte] = true;
             }
           }
         });
    return met;
  }

  void mark(const Array& array) {
    walk(array, 0, array.size,
         [&](const char* memory, std::int64_t stride, std::int64_t n, std::int64_t) {
           for (std::int64_t i = 0; i < n; ++i) {
             const auto at = reinterpret_cast<std::uintptr_t>(memory + i * stride) - first_;
             for (std::size_t byte = 0; byte < item_size(array.dtype); ++byte)
               touched_[at + byte] = true;
           }
         });
  }

 private:
  std::uintptr_t first_;
  std::vector<bool> touched_;
};

/// Whether two windows of one lattice (slices of one matrix) meet, where that can be told from
/// their offset alone: it has one coordinate on each axis, and they meet if on every axis it is
/// less than the extent of the lower one.
std::optional<bool> windows_meet(const Array& lower, const Array& upper, std::int64_t offset) {
  const std::size_t axes = lower.dims.size();
  if (axes == 0 || !std::ranges::equal(lower.dims, upper.dims, {}, &Dim::stride, &Dim::stride))
    return {};
  bool meet = true;
  for (std::size_t i = 0; i < axes; ++i) {
    const std::int64_t stride = lower.dims[i].stride;
    if (stride < std::max(item(lower), item(upper))) return {};
    const std::int64_t steps = offset / stride;
    offset %= stride;
    meet = meet && steps < lower.dims[i].extent;
    if (i == 0) continue;
    const std::int64_t row = lower.dims[i - 1].stride / stride;
    if (lower.dims[i - 1].stride % stride != 0 || lower.dims[i].extent > row ||
        steps + upper.dims[i].extent > row) {
      return {};
    }
  }
  if (offset == 0) return meet;
  if (offset >= item(lower) && offset + item(upper) <= lower.dims.back().stride) return false;
  return {};
}

}  // namespace

std::vector<Dim> merged(std::span<const Dim> dims) {
  std::vector<Dim> result;
  for (const Dim& dim : dims) {
    if (dim.extent == 1) continue;
    if (!result.empty() && result.back().stride == moved<std::int64_t>(0, dim.extent, dim.stride)) {
      result.back() = {result.back().extent * dim.extent, dim.stride};
    } else {
      result.push_back(dim);
    }
  }
  return result;
}

Array::Array(void* data_, DType dtype_, std::span<const std::int64_t> shape,
             std::span<const std::int64_t> byte_strides)
    : data(data_), size(1), dtype(dtype_) {
  std::vector<Dim> axes(shape.size());
  for (std::size_t i = 0; i < shape.size(); ++i) {
    axes[i] = {shape[i], byte_strides[i]};
    size *= shape[i];
  }
  if (size == 0) return;
  axes = merged(axes);
  if (!is_contiguous(axes, static_cast<std::int64_t>(item_size(dtype)))) dims = std::move(axes);
}

void* contiguous_part(const Array& array, std::int64_t begin, std::int64_t count) {
  if (array.contiguous()) return static_cast<char*>(array.data) + begin * item(array);
  const Dim& last = array.dims.back();
  if (last.stride != item(array) || begin % last.extent + count > last.extent) return nullptr;
  void* address = nullptr;
  walk(array, begin, count, [&](char* memory, auto...) { address = memory; });
  return address;
}

void gather(const Array& array, std::int64_t begin, std::int64_t count, void* tile) {
  transfer<true>(array, begin, count, static_cast<char*>(tile));
}

void scatter(const Array& array, std::int64_t begin, std::int64_t count, const void* tile) {
  transfer<false>(array, begin, count, const_cast<char*>(static_cast<const char*>(tile)));
}

Array in_memory_order(const Array& array) {
  if (array.contiguous()) return array;
  Array result = array;
  for (Dim& dim : result.dims) {
    if (dim.stride >= 0) continue;
    result.data = static_cast<char*>(result.data) + (dim.extent - 1) * dim.stride;
    dim.stride = -dim.stride;
  }
  std::ranges::stable_sort(result.dims, [](Dim a, Dim b) { return a.stride > b.stride; });
  result.dims = merged(result.dims);
  if (is_contiguous(result.dims, item(array))) result.dims.clear();
  return result;
}

void in_memory_order(Array& a, Array& b) {
  if (a.dims != b.dims) return;
  a = in_memory_order(a);
  b = in_memory_order(b);
}

Extent extent_of(const Array& array) {
  std::int64_t below = 0;
  std::int64_t above = item(array);
  if (array.contiguous()) above *= array.size;
  for (const Dim& dim : array.dims) {
    (dim.stride < 0 ? below : above) += (dim.extent - 1) * dim.stride;
  }
  const auto base = reinterpret_cast<std::uintptr_t>(array.data);
  return {base + static_cast<std::uintptr_t>(below), base + static_cast<std::uintptr_t>(above)};
}

bool overlaps_itself(const Array& array) {
  if (array.contiguous()) return false;
  const Array sorted = in_memory_order(array);
  if (sorted.contiguous()) return false;
  // Each axis steps over all that the faster ones reach: no two elements meet.
  std::int64_t reach = item(array);
  bool nested = true;
  for (auto dim = sorted.dims.rbegin(); dim != sorted.dims.rend(); ++dim) {
    if (dim->stride == 0) return true;
    nested = nested && dim->stride >= reach;
    reach += (dim->extent - 1) * dim->stride;
  }
  if (nested) return false;
  return reach < array.size * item(array) || TouchedBytes(extent_of(array)).meets(array, true);
}

bool overlap(const Array& a, const Array& b) {
  if (a.size == 0 || b.size == 0) return false;
  const Extent x = extent_of(a);
  const Extent y = extent_of(b);
  if (x.last <= y.first || y.last <= x.first) return false;
  if (a.contiguous() && b.contiguous()) return true;
  const Array lower = in_memory_order(x.first <= y.first ? a : b);
  const Array upper = in_memory_order(x.first <= y.first ? b : a);
  const auto offset =
      static_cast<std::int64_t>(std::max(x.first, y.first) - std::min(x.first, y.first));
  if (const auto known = windows_meet(lower, upper, offset)) return *known;
  TouchedBytes bytes({std::min(x.first, y.first), std::max(x.last, y.last)});
  bytes.mark(a);
  return bytes.meets(b, false);
}

}  // namespace ridgeline
