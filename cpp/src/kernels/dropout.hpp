// The table of dropout kernels that each target exports.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ridgeline/array.hpp"
#include "simd/keep_bits.hpp"

namespace ridgeline {

/// Outputs may be an input at the same address. Kernels that use choices draw those of the next
/// call between their own loads and stores.
struct DropoutKernels {
  /// kept ? x scale : 0
  void (*scale)(const void* x, void* out, std::size_t n, KeepBits, Store, const DrawRequest& next,
                double scale);
  /// (kept ? x scale : 0) + residual
  void (*scale_add)(const void* x, const void* residual, void* out, std::size_t n, KeepBits, Store,
                    const DrawRequest& next, double scale);
  /// kept ? a x + b : dropped
  void (*affine)(const void* x, void* out, std::size_t n, KeepBits, Store, const DrawRequest& next,
                 double a, double b, double dropped);
  /// kept ? a : b, bit for bit; a null pointer stands for zeros
  void (*pick)(const void* a, const void* b, void* out, std::size_t n, KeepBits, Store,
               const DrawRequest& next);
  /// x factor and x + noise; the second operand is of the type that arithmetic runs in
  void (*multiply)(const void* x, const void* factor, void* out, std::size_t n, Store);
  void (*add)(const void* x, const void* noise, void* out, std::size_t n, Store);
};

struct DropoutTable {
  DropoutKernels kernels[dtype_count];
};

}  // namespace ridgeline
