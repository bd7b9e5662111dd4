#include <pybind11/stl.h>

#include <optional>

#include "bindings.hpp"
#include "ridgeline/runtime.hpp"
#include "tensor_view.hpp"

namespace ridgeline::python {
namespace {

int thread_count(py::handle n) {
  const std::int64_t count = integer("n", n);
  if (count < 1 || count > 4096) {
    throw py::value_error("n: got " + std::to_string(count) +
                          ", wants a number of threads, 1 to 4096");
  }
  return static_cast<int>(count);
}

const char* compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "gcc " __VERSION__;
#endif
}

/// A FloatEnvironment from construction until `leave`, on the same thread.
class EnvironmentUntil {
 public:
  EnvironmentUntil() : environment_(std::in_place) {}
  void leave() { environment_.reset(); }

 private:
  std::optional<FloatEnvironment> environment_;
};

}  // namespace

void bind_runtime(py::module_& m) {
  target();  // so that a bad RIDGELINE_TARGET fails the import, not a later call
  m.def("targets", &targets);
  m.def("target", &target);
  m.def(
      "use_target", [](const std::string& name) { use_target(name); }, py::arg("name"));
  m.def("get_num_threads", &num_threads);
  m.def(
      "set_num_threads", [](py::handle n) { set_num_threads(thread_count(n)); }, py::arg("n"));
  m.def(
      "exchange_thread_limit", [](py::handle n) { return exchange_thread_limit(thread_count(n)); },
      py::arg("n"));
  m.def(
      "restore_thread_limit", [](int n) { exchange_thread_limit(n); }, py::arg("n"));
  m.def("nothing", [] {});
  m.def("reciprocal", [](double x) {
    const FloatEnvironment environment;
    return 1 / x;
  });
  py::class_<EnvironmentUntil>(m, "FloatEnvironment")
      .def(py::init<>())
      .def("leave", &EnvironmentUntil::leave);
  m.attr("has_openmp") = has_openmp();
  m.attr("compiler") = compiler();
}

}  // namespace ridgeline::python
