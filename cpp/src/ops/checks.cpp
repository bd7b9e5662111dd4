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

}  // namespace

void check_disjoint(const char* written_name, Arrays written, const char* read_name, Arrays read,
                    bool aliasing) {
  const std::size_t count = written.size() + read.size();
  const auto array_at = [&](std::size_t i) -> const Array& {
    return i < written.size() ? written[i] : read[i - written.size()];
  };
  SmallBuffer<Placed, 16> placed(count);
  std::size_t held = 0;
  bool sorted = true;
  for (std::size_t i = 0; i < count; ++i) {
    const Array& array = array_at(i);
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
  if (!sorted) {
    std::sort(placed.data(), placed.data() + held,
              [](const Placed& a, const Placed& b) { return a.extent.first < b.extent.first; });
  }
  // Against each array only those that start before its end can reach into it.
  for (std::size_t i = 0; i < held; ++i) {
    for (std::size_t j = i + 1; j < held && placed[j].extent.first < placed[i].extent.last; ++j) {
      const std::size_t low = std::min(placed[i].index, placed[j].index);
      const std::size_t high = std::max(placed[i].index, placed[j].index);
      if (low >= written.size()) continue;
      const Array& first = array_at(low);
      const Array& second = array_at(high);
      const bool own_input = aliasing && high == low + written.size();
      if (own_input && first.data == second.data && first.dims == second.dims) continue;
      if (!overlap(first, second)) continue;
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
  }
}

}  // namespace ridgeline
