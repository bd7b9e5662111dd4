// A row: one operation on one dtype, target, layout and number of threads, beside its memory roof.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "ridgeline/array.hpp"
#include "sampling.hpp"

namespace ridgeline::bench {

/// The arrays of a row: four lists alike in sizes. Elements are random, of magnitude 0.5 to 2 and
/// either sign: no operation meets denormals.
struct Data {
  std::vector<Array> grads, params, out, more;
};

/// One call, made again and again. It must leave data behind on which the next costs the same.
using Call = std::function<void()>;

/// What an operation is measured on.
enum class On : std::uint8_t {
  usual,     ///< one array of each size, in each dtype; ResNet-50 and 1,000 small arrays in float32
  array,     ///< one array only
  workload,  ///< and GPT-2 and an embedding in float32
  lists,     ///< those of a workload that are lists
};

struct Op {
  std::string name;
  std::vector<Pattern> passes;  ///< the memory traffic it cannot do without, pass by pass
  /// Makes the call for one row's data.
  std::function<Call(const Data&, int threads)> prepare;
  On on = On::usual;
};

/// Registers op/dtype/target/layout/threads for the layouts of shapes.def.
void add_rows(const Op& op, const std::vector<DType>& dtypes);

/// Registers roof/pattern/size/threads.
void add_roof_rows();

void add_penalty_rows();
void add_clipping_rows();
void add_constraint_rows();
void add_dropout_rows();
void add_pruning_rows();
void add_optimizer_rows();

inline const std::vector<DType> all_dtypes = {DType::float32, DType::float64, DType::bfloat16,
                                              DType::float16};

}  // namespace ridgeline::bench
