#include "ops/checks.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "ops/small_buffer.hpp"
#include "ops/strided.hpp"

namespace ridgeline {

void bad_value(const char* argument, const std::string& problem, std::ptrdiff_t index) {
  throw ArgumentError(ArgumentError::Kind::value, argument, index, problem);
}

void bad_type(const char* argument, const std::string& problem, std::ptrdiff_t index) {
  throw ArgumentError(ArgumentError::Kind::type, argument, index, problem);
}

std::string text(double x) {
  char buffer[32];
  const auto result = std::to_chars(buffer, buffer + sizeof buffer, x);
  return {buffer, result.ptr};
}

void check_non_negative(const char* argument, double x, bool infinity_allowed) {
  if (x >= 0 && (infinity_allowed || std::isfinite(x))) return;
  bad_value(argument, "got " + text(x) + ", wants a " +
                          (infinity_allowed ? "number" : "finite number") + " of at least 0");
}

void check_ord(double ord) {
  if (!(ord > 0))
    bad_value("ord", "got " + text(ord) + ", wants 1, 2, inf or another number above 0");
}

void check_box(const Box& box) {
  if (std::isnan(box.lowest)) bad_value("low", "got nan, wants a number");
  if (std::isnan(box.highest)) bad_value("high", "got nan, wants a number");
  if (box.lowest > box.highest) {
    bad_value("low", "got " + text(box.lowest) + " above high = " + text(box.highest));
  }
}

void check_alike(const char* argument, Arrays arrays, const char* model_name, Arrays model) {
  if (arrays.size() != model.size()) {
    bad_value(argument, "got " + std::to_string(arrays.size()) + " arrays, wants " +
                            std::to_string(model.size()) + ", as many as " + model_name);
  }
  for (std::size_t k = 0; k < arrays.size(); ++k) {
    const auto index = static_cast<std::ptrdiff_t>(k);
    if (arrays[k].dtype != model[k].dtype) {
      bad_type(argument,
               std::string("got dtype ") + name_of(arrays[k].dtype) + ", wants " +
                   name_of(model[k].dtype) + " as in " + model_name,
               index);
    }
    if (arrays[k].size != model[k].size) {
      bad_value(argument,
                "got " + std::to_string(arrays[k].size) + " elements, wants " +
                    std::to_string(model[k].size) + " as in " + model_name,
                index);
    }
  }
}

namespace {

struct Placed {
  Extent extent;
  std::size_t index;  ///< in written, then in read
};

/// What check_disjoint is about.
struct Lists {
  const char* written_name;
  Arrays written;
  const char* read_name;
  Arrays read;
  bool aliasing;

  const Array& at(std::size_t i) const {
    return i < written.size() ? written[i] : read[i - written.size()];
  }
  void check(std::size_t a, std::size_t b) const;
};

void Lists::check(std::size_t a, std::size_t b) const {
  const std::size_t low = std::min(a, b);
  const std::size_t high = std::max(a, b);
  if (low >= written.size()) return;
  const Array& first = at(low);
  const Array& second = at(high);
  const bool own_input = aliasing && high == low + written.size();
  if (own_input && first.data == second.data && first.dims == second.dims) return;
  if (!overlap(first, second)) return;
  const bool both_written = high < written.size();
  const bool same =
      first.data == second.data && first.dims == second.dims && first.size == second.size;
  throw ArgumentError(
      ArgumentError::Kind::value, written_name,
      static_cast<std::ptrdiff_t>(both_written ? high : low),
      std::string(same ? "got the same memory as {}" : "got memory that overlaps {}") +
          ", wants arrays that do not overlap",
      both_written ? written_name : read_name,
      static_cast<std::ptrdiff_t>(both_written ? low : high - written.size()));
}

/// By the start of their extents.
constexpr auto starts_before = [](const auto& a, const auto& b) {
  return a.extent.first < b.extent.first;
};

/// Calls f(cluster) for the clusters of sorted extents that hang together: none of them reaches
/// into another one.
template <class T, class F>
void for_each_cluster(std::span<T> sorted, F f) {
  for (std::size_t begin = 0; begin < sorted.size();) {
    std::uintptr_t last = sorted[begin].extent.last;
    std::size_t end = begin + 1;
    for (; end < sorted.size() && sorted[end].extent.first < last; ++end)
      last = std::max(last, sorted[end].extent.last);
    if (end - begin > 1) f(sorted.subspan(begin, end - begin));
    begin = end;
  }
}

/// All pairs that may meet: against each array only those that start before its end.
template <class T>
void check_pairs(const Lists& lists, std::span<const T> sorted) {
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    for (std::size_t j = i + 1; j < sorted.size() && sorted[j].extent.first < sorted[i].extent.last;
         ++j) {
      lists.check(sorted[i].index, sorted[j].index);
    }
  }
}

/// An array without some of its slowest axes.
struct Folded {
  Extent extent;
  std::size_t index;
  std::span<const Dim> dims;  ///< that are left, in the order of memory
};

/// Columns and other slices of one matrix lie between each other, all of them in one range of
/// memory. Where they have the slowest axis in common, two of them can meet only if they do without
/// it, in addresses modulo its stride: those are far apart.
void check_cluster(const Lists& lists, std::span<Folded> sorted) {
  constexpr std::size_t few = 8;
  std::int64_t stride = 0;
  for (const Folded& array : sorted) {
    if (!array.dims.empty()) stride = std::max(stride, array.dims[0].stride);
  }
  const std::uintptr_t origin = sorted[0].extent.first;
  const auto period = static_cast<std::uintptr_t>(stride);
  bool folds = sorted.size() > few && stride > 0;
  std::vector<Folded> inner;
  inner.reserve(folds ? sorted.size() : 0);
  for (std::size_t i = 0; folds && i < sorted.size(); ++i) {
    Folded next = sorted[i];
    std::uintptr_t length = next.extent.last - next.extent.first;
    if (!next.dims.empty() && next.dims[0].stride == stride) {
      length -= static_cast<std::uintptr_t>(next.dims[0].extent - 1) * period;
      next.dims = next.dims.subspan(1);
    }
    const std::uintptr_t first = (next.extent.first - origin) % period;
    folds = first + length <= period;
    next.extent = {first, first + length};
    inner.push_back(next);
  }
  if (folds) {
    std::ranges::sort(inner, starts_before);
    for_each_cluster(std::span<Folded>(inner),
                     [&](std::span<Folded> part) { check_cluster(lists, part); });
    return;
  }
  std::vector<Placed> placed;
  for (const Folded& array : sorted)
    placed.push_back({extent_of(lists.at(array.index)), array.index});
  std::ranges::sort(placed, starts_before);
  check_pairs(lists, std::span<const Placed>(placed));
}

}  // namespace

void check_disjoint(const char* written_name, Arrays written, const char* read_name, Arrays read,
                    bool aliasing) {
  const Lists lists{written_name, written, read_name, read, aliasing};
  const std::size_t count = written.size() + read.size();
  SmallBuffer<Placed, 16> placed(count);
  std::size_t held = 0;
  bool sorted = true;
  for (std::size_t i = 0; i < count; ++i) {
    const Array& array = lists.at(i);
    if (array.size == 0) continue;
    if (i < written.size() && overlaps_itself(array)) {
      bad_value(written_name,
                "got an array with elements that share memory (expanded or broadcast), wants one "
                "to write into; make a contiguous copy first",
                static_cast<std::ptrdiff_t>(i));
    }
    placed[held] = {extent_of(array), i};
    sorted = sorted && (held == 0 || placed[held - 1].extent.first <= placed[held].extent.first);
    ++held;
  }
  if (!sorted) std::sort(placed.data(), placed.data() + held, starts_before);
  for_each_cluster(std::span<Placed>(placed.data(), held), [&](std::span<Placed> cluster) {
    if (cluster.size() <= 2) return check_pairs(lists, std::span<const Placed>(cluster));
    std::vector<Array> ordered;
    std::vector<Folded> folded;
    ordered.reserve(cluster.size());
    for (const Placed& one : cluster) {
      ordered.push_back(in_memory_order(lists.at(one.index)));
      folded.push_back({one.extent, one.index, ordered.back().dims});
    }
    check_cluster(lists, folded);
  });
}

}  // namespace ridgeline
