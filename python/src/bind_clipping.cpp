#include "bindings.hpp"
#include "ridgeline/clipping.hpp"
#include "tensor_view.hpp"

namespace ridgeline::python {
namespace {

NonFinite policy(py::handle name) {
  const auto is = [&](const char* text) {
    return PyUnicode_CompareWithASCIIString(name.ptr(), text) == 0;
  };
  if (PyUnicode_Check(name.ptr())) {
    if (is("propagate")) return NonFinite::propagate;
    if (is("raise")) return NonFinite::raise;
    if (is("skip")) return NonFinite::skip;
    if (is("zero")) return NonFinite::zero;
  }
  throw py::value_error("on_nonfinite: got " + py::repr(name).cast<std::string>() +
                        ", wants 'propagate', 'raise', 'skip' or 'zero'");
}

/// A limit L >= 0 for [-L, L], or a pair (low, high).
std::pair<double, double> limits(py::handle limit) {
  if (PyTuple_Check(limit.ptr()) || PyList_Check(limit.ptr())) {
    const auto pair = py::reinterpret_borrow<py::sequence>(limit);
    if (pair.size() != 2) {
      throw py::value_error("limit: got " + std::to_string(pair.size()) +
                            " numbers, wants one or (low, high)");
    }
    const double low = number("limit", pair[0]);
    const double high = number("limit", pair[1]);
    if (!(low <= high)) {
      throw py::value_error("limit: got " + py::repr(limit).cast<std::string>() +
                            ", wants (low, high) with low <= high");
    }
    return {low, high};
  }
  const double bound = number("limit", limit);
  if (!(bound >= 0)) {
    throw py::value_error("limit: got " + py::repr(limit).cast<std::string>() +
                          ", wants a number of at least 0, or (low, high)");
  }
  return {-bound, bound};
}

/// A number for each array, None for None.
py::list floats(const std::vector<double>& values, const Tensors& arrays) {
  py::list result(values.size());
  for (std::size_t i = 0; i < values.size(); ++i)
    result[i] = arrays.hole(i) ? py::object(py::none()) : py::object(py::float_(values[i]));
  return result;
}

}  // namespace

void bind_clipping(py::module_& m) {
  m.def("global_norm", [](py::handle arrays, py::handle ord) {
    const double p = number("ord", ord);
    const Tensors a("arrays", arrays, Access::read, nullptr, true);
    return run({&a}, [&] { return global_norm(a.arrays(), p); });
  });
  m.def("clip_by_value_", [](py::handle grads, py::handle limit) {
    const auto [low, high] = limits(limit);
    const Tensors g("grads", grads, Access::gradient, nullptr, true);
    run({&g}, [&, low = low, high = high] { clip_by_value(g.arrays(), low, high); });
    g.written();
  });
  m.def("clip_by_norm_", [](py::handle grads, py::handle max_norm, py::handle ord) {
    const double limit = number("max_norm", max_norm);
    const double p = number("ord", ord);
    const Tensors g("grads", grads, Access::gradient, nullptr, true);
    std::vector<double> norms(g.size());
    run({&g}, [&] { clip_by_norm(g.arrays(), limit, p, norms); });
    g.written();
    return floats(norms, g);
  });
  m.def("clip_by_global_norm_",
        [](py::handle grads, py::handle max_norm, py::handle ord, py::handle on_nonfinite) {
          const double limit = number("max_norm", max_norm);
          const double p = number("ord", ord);
          const NonFinite rule = policy(on_nonfinite);
          const Tensors g("grads", grads, Access::gradient, nullptr, true);
          try {
            const double norm =
                run({&g}, [&] { return clip_by_global_norm(g.arrays(), limit, p, rule); });
            if (!(norm <= limit)) g.written();
            return norm;
          } catch (const NonFiniteError& error) {
            raise_non_finite(error.norm,
                             error.index < 0
                                 ? std::nullopt
                                 : std::optional(g.path(static_cast<std::size_t>(error.index))));
          }
        });
  m.def("clip_by_rms_", [](py::handle grads, py::handle max_rms) {
    const double limit = number("max_rms", max_rms);
    const Tensors g("grads", grads, Access::gradient, nullptr, true);
    std::vector<double> rms(g.size());
    run({&g}, [&] { clip_by_rms(g.arrays(), limit, rms); });
    g.written();
    return floats(rms, g);
  });
  m.def("zero_largest_", [](py::handle grads, py::handle count) {
    const std::int64_t n = integer("count", count);
    const Tensors g("grads", grads, Access::gradient, nullptr, true);
    run({&g}, [&] { zero_largest(g.arrays(), n); });
    g.written();
  });
  m.def("scale_", [](py::handle arrays, double factor) {
    const Tensors a("grads", arrays, Access::gradient, nullptr, true);
    run({&a}, [&] { scale(a.arrays(), factor); });
    a.written();
  });
  m.def("set_zero_", [](py::handle arrays) {
    const Tensors a("grads", arrays, Access::gradient, nullptr, true);
    run({&a}, [&] { set_zero(a.arrays()); });
    a.written();
  });
  m.def("first_nonfinite", [](py::handle arrays) -> py::object {
    const Tensors a("grads", arrays, Access::read, nullptr, true);
    const std::ptrdiff_t index = run({&a}, [&] { return first_nonfinite(a.arrays()); });
    if (index < 0) return py::none();
    return py::str(a.path(static_cast<std::size_t>(index)));
  });
  m.def("check_clip",
        [](py::handle grads, py::handle max_norm, py::handle ord, py::handle on_nonfinite) {
          policy(on_nonfinite);
          const double limit = number("max_norm", max_norm);
          const double p = number("ord", ord);
          const Tensors g("grads", grads, Access::gradient, nullptr, true);
          run({&g}, [&] { check_clip(g.arrays(), limit, p); });
        });
}

}  // namespace ridgeline::python
