// Compiled once per form (A, B, B2) x compiler x target: -DFORM_x -DVEC_BYTES=n -DNAME=...
// [-DIN_FLIGHT=n]
#include "functors.hpp"
#include "loop.hpp"
#include "table.hpp"
#include "vec_b.hpp"
#ifndef IN_FLIGHT
#define IN_FLIGHT 4
#endif
#define STR2(x) #x
#define STR(x) STR2(x)

namespace {
#if defined FORM_A
using F = VecA<float, VEC_BYTES>;
using D = F64x2<VEC_BYTES>;
using U1 = VecA<uint64_t, VEC_BYTES>;
#if IN_FLIGHT == 1
using U = U1;
#elif IN_FLIGHT == 2
using U = Two<U1>;
#else
using U = Two<Two<U1>>;
#endif
#elif defined FORM_B
using F = VecB<float, 16>;
using D = VecB<double, 16>;
using U = VecB<uint64_t, 16>;
#endif
constexpr ElasticNet enet{1e-3f, 1e-2f, 1e-3, 5e-3};
constexpr AdamW step_w{1 - 1e-5f, 0.1f, 0.999f, 0.001f, 1e-8f, 3.1638f, -1e-3f};
INLINE Philox keyed() {  // the compiler must not know the key
  uint64_t key = 0x299f31d0a4093822u;
  asm("" : "+r"(key));
  return Philox(key);
}

#if defined FORM_B2
double elastic(float* g, const float* w, size_t n) {
  return plain_reduce(
      [](const float& x, float& y) __attribute__((always_inline)) { return enet(x, y); }, n, w, g);
}
double sumsq(const float* w, size_t n) { return plain_reduce(SumSquares{}, n, w); }
void adamw(float* p, float* m, float* v, const float* g, size_t n) {
  plain_map(step_w, n, p, m, v, g);
}
void philox(uint64_t* out, size_t n) { plain_generate(keyed(), n, out); }
#else
double elastic(float* g, const float* w, size_t n) {
  return reduce<F, D>(
      [](F x, F & y) __attribute__((always_inline)) { return enet(x, y); }, n, w, g);
}
double sumsq(const float* w, size_t n) { return reduce<F, D>(SumSquares{}, n, w); }
void adamw(float* p, float* m, float* v, const float* g, size_t n) {
  map<F, IN_FLIGHT>(step_w, n, p, m, v, g);
}
void philox(uint64_t* out, size_t n) { generate<U>(keyed(), n, out); }
#endif
#if defined FORM_B
void philox_i(uint64_t* out, size_t n) { generate<U64Bi<VEC_BYTES / 4>>(keyed(), n, out); }
#define PHILOX_I philox_i
#else
#define PHILOX_I nullptr
#endif
}  // namespace
extern const Table NAME;
const Table NAME{STR(NAME), elastic, sumsq, adamw, philox, PHILOX_I};
