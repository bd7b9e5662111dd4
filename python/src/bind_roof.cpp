#include "ridgeline/roof.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "bindings.hpp"
#include "tensor_view.hpp"

namespace ridgeline::python {
namespace {

/// f(pattern) for all of them.
template <class F>
void each_pattern(F f) {
  for (std::size_t i = 0; i < memory_pattern_count; ++i)
    f(static_cast<MemoryPattern>(i));
}

MemoryPattern pattern_of(const std::string& name) {
  std::optional<MemoryPattern> found;
  std::string choices;
  each_pattern([&](MemoryPattern pattern) {
    if (name == name_of(pattern)) found = pattern;
    choices.append(choices.empty() ? "" : ", ").append(name_of(pattern));
  });
  if (!found) throw py::value_error("pattern: got '" + name + "', wants one of " + choices);
  return *found;
}

int count_of(const char* name, py::handle n, std::int64_t most) {
  const std::int64_t count = integer(name, n);
  if (count >= 1 && count <= most) return static_cast<int>(count);
  throw py::value_error(
      name + (": got " + std::to_string(count)) +
      (count < 1 ? ", wants 1 or more" : ", wants " + std::to_string(most) + " or less"));
}

/// The memory of NumPy arrays, kept alive.
class Regions {
 public:
  Regions(MemoryPattern pattern, const py::sequence& arrays) {
    const auto uses = regions_of(pattern);
    const auto last = std::ranges::find_if(uses.rbegin(), uses.rend(),
                                           [](const RegionUse& use) { return use.size > 0; });
    const auto wanted = static_cast<std::size_t>(uses.rend() - last);
    if (arrays.size() < wanted) {
      throw py::value_error("arrays: got " + std::to_string(arrays.size()) + ", wants " +
                            std::to_string(wanted) + " for '" + name_of(pattern) + "'");
    }
    for (std::size_t k = 0; k < wanted; ++k)
      add(k, arrays[k], uses[k]);
  }

  const MemoryRegions& all() const { return regions_; }
  std::size_t bytes() const { return static_cast<std::size_t>(arrays_[0].nbytes()); }

 private:
  void add(std::size_t k, const py::object& object, const RegionUse& use) {
    const std::string got = "arrays[" + std::to_string(k) + "]: got ";
    if (!py::isinstance<py::array>(object)) {
      const auto type = py::type::handle_of(object).attr("__name__").cast<std::string>();
      throw py::type_error(got + type + ", wants a NumPy array");
    }
    const auto array = py::reinterpret_borrow<py::array>(object);
    if ((array.flags() & py::array::c_style) == 0)
      throw py::value_error(got + "an array with strides, wants a contiguous one");
    if (use.writes && !array.writeable())
      throw py::value_error(got + "a read-only array, wants one that can be written");
    arrays_.push_back(array);
    const auto own = static_cast<std::size_t>(array.nbytes());
    const auto covered = static_cast<double>(bytes() - bytes() % memory_group);
    const std::size_t least = k == 0 ? memory_group : static_cast<std::size_t>(covered * use.size);
    if (own < least) {
      throw py::value_error(got + std::to_string(own) + " bytes, wants " + std::to_string(least) +
                            " or more");
    }
    regions_[k] = static_cast<std::byte*>(const_cast<void*>(array.data()));
  }

  std::vector<py::array> arrays_;
  MemoryRegions regions_{};
};

}  // namespace

void bind_roof(py::module_& m) {
  m.def("memory_patterns", [] {
    py::dict traffic;
    each_pattern([&](MemoryPattern p) { traffic[name_of(p)] = memory_traffic(p); });
    return traffic;
  });
  m.def(
      "memory_pass",
      [](const std::string& pattern, const py::sequence& arrays, py::handle threads,
         py::handle passes) {
        const MemoryPattern known = pattern_of(pattern);
        const Regions regions(known, arrays);
        const int team = count_of("threads", threads, 4096);
        const int count = count_of("passes", passes, 1 << 30);
        const WithoutGil released;
        return memory_pass(known, regions.all(), regions.bytes(), team, count);
      },
      py::arg("pattern"), py::arg("arrays"), py::arg("threads"), py::arg("passes"));
}

}  // namespace ridgeline::python
