// The four kernels, each written once; V is a register (A), an array of lanes (B) or a scalar (B2).
#pragma once
namespace {
template <class V>
INLINE V sign(V w) {
  return select(abs(w) > 0.0f, copysign(1.0f, w), w);
}  // 0 -> 0, NaN -> NaN

struct ElasticNet {  // g += l1 sign(w) + l2 w; returns l1 |w| + l2/2 w^2 in float64
  float l1, l2;
  double d1, d2;
  template <class V>
  INLINE auto operator()(V w, V& g) const {
    g = g + (l1 * sign(w) + l2 * w);
    const auto a = to_f64(abs(w));
    return a * (d1 + d2 * a);
  }
};
struct SumSquares {
  template <class V>
  INLINE auto operator()(V w) const {
    const auto d = to_f64(w);
    return d * d;
  }
};
struct AdamW {  // torch: decay, lerp, addcmul, sqrt(v)/sqrt(bc2) + eps, addcdiv
  float decay, omb1, b2, omb2, eps, rbc2, minus_step;
  template <class V>
  INLINE void operator()(V& p, V& m, V& v, V g) const {
    p = decay * p;
    m = m + omb1 * (g - m);
    v = b2 * v + omb2 * (g * g);
    p = p + minus_step * (m / (eps + rbc2 * sqrt(v)));
  }
};
struct Philox {  // Philox4x32-10, 32-bit words in 64-bit lanes; high halves of c1, c3 hold rubbish
                 // until the end
  uint32_t k[2][10];
  Philox(uint64_t key) {
    uint32_t a = uint32_t(key), b = uint32_t(key >> 32);
    for (int r = 0; r < 10; ++r, a += 0x9E3779B9u, b += 0xBB67AE85u)
      k[0][r] = a, k[1][r] = b;
  }
  template <class V>
  INLINE void operator()(V c, V& lo, V& hi) const {
    V c0 = c, c1 = c >> 32, c2 = c ^ c, c3 = c2;
    _Pragma("GCC unroll 10") for (int r = 0; r < 10; ++r) {
      const V p0 = mul_wide(c0, 0xD2511F53u), p1 = mul_wide(c2, 0xCD9E8D57u);
      c0 = (p1 >> 32) ^ c1 ^ uint64_t(k[0][r]), c1 = p1;
      c2 = (p0 >> 32) ^ c3 ^ uint64_t(k[1][r]), c3 = p0;
    }
    lo = (c0 & uint64_t(0xffffffffu)) | (c1 << 32);
    hi = (c2 & uint64_t(0xffffffffu)) | (c3 << 32);
  }
};
}  // namespace
