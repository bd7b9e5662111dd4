// What the bench sees: the kernels' table, one per variant, and the roofs.
#pragma once
#include <stddef.h>
#include <stdint.h>
struct Table {
  const char* name;  // form/compiler/target
  double (*elastic)(float* g, const float* w, size_t n);
  double (*sumsq)(const float* w, size_t n);
  void (*adamw)(float* p, float* m, float* v, const float* g, size_t n);
  void (*philox)(uint64_t* out, size_t counters);
  void (*philox_i)(uint64_t* out,
                   size_t counters);  // with the one intrinsic, where the form lacks it
};
void roof_elastic(float* g, const float* w, size_t n);
float roof_sumsq(const float* w, size_t n);
void roof_adamw(float* p, float* m, float* v, const float* g, size_t n);
void roof_philox(uint64_t* o, size_t counters);
