// A row: one operation on one dtype, target, size and number of threads, beside its memory roof.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "ridgeline/array.hpp"
#include "roof.hpp"

namespace ridgeline::bench {

/// The arrays of a row: four lists alike in sizes. Elements are random, of magnitude 0.5 to 2 and
/// either sign: no operation meets denormals.
struct Data {
  std::vector<Array> grads, params, out, more;
};

/// One call, made again and again. It must leave data behind on which the next costs the same.
using Call = std::function<void()>;

struct Op {
  std::string name;
  std::vector<Pattern> passes;  ///< the memory traffic it cannot do without, pass by pass
  /// Makes the call for one row's data.
  std::function<Call(const Data&, int threads)> prepare;
};

/// Registers op/dtype/target/size/threads for 16 KiB, 512 KiB and 64 MiB in each array, and, for
/// float32, op/float32/target/list/threads.
void add_rows(const Op& op, const std::vector<DType>& dtypes);

/// Registers roof/pattern/size/threads.
void add_roof_rows();

void add_penalty_rows();
void add_clipping_rows();
void add_dropout_rows();
void add_pruning_rows();
void add_optimizer_rows();

inline const std::vector<DType> all_dtypes = {DType::float32, DType::float64, DType::bfloat16,
                                              DType::float16};

}  // namespace ridgeline::bench
