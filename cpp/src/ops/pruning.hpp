// What the files of pruning share.
#pragma once

#include "kernels/pruning.hpp"
#include "ridgeline/pruning.hpp"
#include "runtime/dispatch.hpp"

namespace ridgeline {

inline const PruningKernels& kernels_for(DType dtype) {
  return tables().pruning->kernels[static_cast<std::size_t>(dtype)];
}

}  // namespace ridgeline
