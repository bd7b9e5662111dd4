// After the first call nothing changes, and nothing is written: as in most steps of training.
#include <limits>

#include "ridgeline/constraints.hpp"
#include "rows.hpp"

namespace ridgeline::bench {
namespace {

Op projection(const char* name, const Box& box) {
  return {name, {Pattern::read}, [box](const Data& data, int threads) -> Call {
            return [=, params = data.params] { project(box, params, threads); };
          }};
}

}  // namespace

void add_constraint_rows() {
  add_rows(projection("box", {-1, 1}), all_dtypes);
  add_rows(projection("non_negative", {0, std::numeric_limits<double>::infinity()}), all_dtypes);
}

}  // namespace ridgeline::bench
