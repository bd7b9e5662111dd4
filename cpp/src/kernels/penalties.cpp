// Elementwise penalties: for each its value, gradient and proximal operator. w is a weight, s the
// strength, t the step, u = t s. sign(0) = 0; NaN gives NaN everywhere.
#include "kernels/penalties.hpp"

#include "simd/loop.hpp"
#include "simd/math.hpp"
#include "simd/shrink.hpp"

namespace ridgeline::RIDGELINE_TARGET {
namespace {

/// The coefficients as lanes of V.
template <class V>
struct Lanes {
  V strength, shape, step, shrink, threshold, scale, inverse;

  explicit Lanes(const PenaltyCoefficients& c)
      : strength(lane(c.strength)), shape(lane(c.shape)), step(lane(c.step)),
        shrink(lane(c.shrink)), threshold(lane(c.threshold)), scale(lane(c.scale)),
        inverse(lane(c.inverse)) {}

  /// The same for a step of each element; what else depends on it is the penalty's to set.
  Lanes(const PenaltyCoefficients& c, V t) : Lanes(c) {
    step = t;
    shrink = t * strength;
  }

 private:
  static V lane(double x) { return V(static_cast<typename V::value_type>(x)); }
};

/// Lasso: s|w| (Tibshirani 1996). prox: soft threshold at u.
struct L1 {
  template <class V>
  static V value(V w, const Lanes<V>& c) {
    return c.strength * abs(w);
  }
  template <class V>
  static V gradient(V w, const Lanes<V>& c) {
    return signed_strength(c.strength, w);
  }
  template <class V>
  static V prox(V x, const Lanes<V>& c) {
    return soft_threshold(x, c.shrink);
  }
  template <class V>
  static V prox_each(V x, Lanes<V>& c) {
    return prox(x, c);
  }
};

/// Adaptive lasso: s a|w| with a weight a for each element (Zou 2006). prox: soft threshold at u a.
struct WeightedL1 {
  template <class V>
  static V value(V w, V a, const Lanes<V>& c) {
    return c.strength * a * abs(w);
  }
  template <class V>
  static V gradient(V w, V a, const Lanes<V>& c) {
    return c.strength * a * sign(w);
  }
  template <class V>
  static V prox(V x, V a, const Lanes<V>& c) {
    return soft_threshold(x, c.shrink * a);
  }
  template <class V>
  static V prox_each(V x, V a, Lanes<V>& c) {
    return prox(x, a, c);
  }
};

/// Ridge: s/2 w^2 (Hoerl and Kennard 1970). prox: x / (1 + u), scale = 1/(1 + u).
struct L2 {
  template <class V>
  static V value(V w, const Lanes<V>& c) {
    return V(0.5) * c.strength * (w * w);
  }
  template <class V>
  static V gradient(V w, const Lanes<V>& c) {
    return c.strength * w;
  }
  template <class V>
  static V prox(V x, const Lanes<V>& c) {
    return x * c.scale;
  }
  template <class V>
  static V prox_each(V x, Lanes<V>& c) {
    return x / (V(1) + c.shrink);
  }
};

/// Elastic net: s|w| + r/2 w^2, r = shape (Zou and Hastie 2005). prox: threshold first, then
/// shrink, scale = 1/(1 + t r).
struct ElasticNet {
  template <class V>
  static V value(V w, const Lanes<V>& c) {
    const V magnitude = abs(w);
    return magnitude * (c.strength + V(0.5) * c.shape * magnitude);
  }
  template <class V>
  static V gradient(V w, const Lanes<V>& c) {
    return signed_strength(c.strength, w) + c.shape * w;
  }
  template <class V>
  static V prox(V x, const Lanes<V>& c) {
    return soft_threshold(x, c.shrink) * c.scale;
  }
  template <class V>
  static V prox_each(V x, Lanes<V>& c) {
    return soft_threshold(x, c.shrink) / (V(1) + c.step * c.shape);
  }
};

/// Minimax concave penalty (Zhang 2010), g = shape = 1/inverse: s|w| - w^2/(2g) up to |w| = s g,
/// then s^2 g/2. prox for t < g: 0 up to u, x above threshold = s g, between them (|x| - u) scale,
/// 1/scale = 1 - t/g.
struct MCP {
  template <class V>
  static V value(V w, const Lanes<V>& c) {
    const V magnitude = abs(w);
    const V knee = c.strength * c.shape;
    return select(magnitude > knee, V(0.5) * c.strength * knee,
                  magnitude * (c.strength - V(0.5) * c.inverse * magnitude));
  }
  template <class V>
  static V gradient(V w, const Lanes<V>& c) {
    const V slope = c.strength - abs(w) * c.inverse;
    return sign(w) * select(slope < V(0), V(0), slope);
  }
  template <class V>
  static V prox(V x, const Lanes<V>& c) {
    return select(abs(x) > c.threshold, x, soft_threshold(x, c.shrink) * c.scale);
  }
  // From t = g on the objective is concave up to s g: 0 or x, equal at |x| = s sqrt(t g).
  template <class V>
  static V prox_each(V x, Lanes<V>& c) {
    const auto convex = c.step < c.shape;
    c.threshold = c.strength * select(convex, c.shape, sqrt(c.step * c.shape));
    c.scale = select(convex, V(1) / (V(1) - c.step / c.shape), V(0));
    const V moved = prox(x, c);
    return select(x != x, x, moved);
  }
};

/// Smoothly clipped absolute deviation (Fan and Li 2001), g = shape > 2, inverse = 1/(g - 1): s|w|
/// up to s, a parabola up to g s, then s^2 (g + 1)/2. prox for t < g - 1, in the same three pieces:
/// soft threshold up to threshold = (1 + t) s, ((g - 1)|x| - g u) scale up to g s with 1/scale = g
/// - 1 - t, then x.
struct SCAD {
  template <class V>
  static V value(V w, const Lanes<V>& c) {
    const V magnitude = abs(w);
    const V s = c.strength;
    const V g = c.shape;
    const V parabola = (magnitude * (V(2) * g * s - magnitude) - s * s) * (V(0.5) * c.inverse);
    return select(magnitude <= s, s * magnitude,
                  select(magnitude > g * s, V(0.5) * s * s * (g + V(1)), parabola));
  }
  template <class V>
  static V gradient(V w, const Lanes<V>& c) {
    const V magnitude = abs(w);
    const V slope = (c.shape * c.strength - magnitude) * c.inverse;
    const V outer = select(slope < V(0), V(0), slope);
    return sign(w) * select(magnitude <= c.strength, c.strength, outer);
  }
  template <class V>
  static V prox(V x, const Lanes<V>& c) {
    const V magnitude = abs(x);
    const V middle = ((c.shape - V(1)) * magnitude - c.shape * c.shrink) * c.scale;
    return select(magnitude <= c.threshold, soft_threshold(x, c.shrink),
                  select(magnitude <= c.shape * c.strength, copysign(middle, x), x));
  }
  // From t = g - 1 on the middle piece is concave: the soft threshold within [-s, s], or x.
  template <class V>
  static V prox_each(V x, Lanes<V>& c) {
    const V s = c.strength;
    const V magnitude = abs(x);
    const auto convex = c.step < c.shape - V(1);
    c.threshold = (V(1) + c.step) * s;
    c.scale = V(1) / select(convex, c.shape - V(1) - c.step, V(1));
    const V soft = lesser(soft_threshold(magnitude, c.shrink), s);
    const V far = soft - magnitude;
    const V excess = V(0.5) * (far * far) + c.shrink * (soft - V(0.5) * s * (c.shape + V(1)));
    const V other = select((magnitude >= c.shape * s) & (excess > V(0)), x, copysign(soft, x));
    return select(convex | (x != x), prox(x, c), other);
  }
};

/// Log-sum: s log(1 + |w|/e), e = shape (Candes, Wakin and Boyd 2008). prox: the larger root of
/// y^2 + (e - |x|) y + u - e|x| = 0 above the threshold, 0 up to it.
struct LogSum {
  /// What `LogProduct` takes.
  template <class V>
  static V value(V w, const Lanes<V>& c) {
    return abs(w) * c.inverse;
  }
  template <class V>
  static V gradient(V w, const Lanes<V>& c) {
    return c.strength * sign(w) / (c.shape + abs(w));
  }
  template <class V>
  static V prox(V x, const Lanes<V>& c) {
    const V magnitude = abs(x);
    return select(magnitude <= c.threshold, V(0),
                  copysign(log_sum_root(magnitude, c.shrink, c.shape), x));
  }
  // sqrt((x + e)^2 - 4u) is taken of factors that cannot overflow, and the root by the form that
  // does not cancel.
  template <class V>
  static V log_sum_root(V x, V u, V e) {
    const V sum = x + e;
    const V ratio = V(2) * sqrt(u) / sum;
    const V square = (V(1) - ratio) * (V(1) + ratio);
    const V root = sum * sqrt(select(square < V(0), V(0), square));
    const V difference = x - e;
    const V large = V(0.5) * (difference + root);
    const V small = V(2) * (x * e - u) / (root - difference);
    return select(difference < V(0), small, select(x < V(infinity), large, x));
  }
  // The root where its objective is below that of 0.
  template <class V>
  static V prox_each(V x, Lanes<V>& c) {
    const V magnitude = abs(x);
    const V root = log_sum_root(magnitude, c.shrink, c.shape);
    const V positive = select(root > V(0), root, V(0));
    const V excess =
        positive * (V(0.5) * positive - magnitude) + c.shrink * log1p(positive / c.shape);
    const V moved = select(excess < V(0), copysign(root, x), V(0));
    return select(magnitude < V(infinity), moved, x);
  }
};

/// L0: s for each w != 0. No gradient. prox: x where |x| > sqrt(2u), else 0.
struct L0 {
  template <class V>
  static V value(V w, const Lanes<V>& c) {
    return select(w != w, w, select(w == V(0), V(0), c.strength));
  }
  template <class V>
  static V prox(V x, const Lanes<V>& c) {
    return select(abs(x) <= c.threshold, V(0), x);
  }
  template <class V>
  static V prox_each(V x, Lanes<V>& c) {
    c.threshold = sqrt(V(2) * c.shrink);
    return prox(x, c);
  }
};

/// L1/2: s sqrt|w| (Xu et al. 2012), gradient 0 at 0. prox: 0 below 1.5 k with k = u^(2/3) (=
/// scale); above, y = |x| v^2 where v is the root in [sqrt(2/3), 1] of v^3 - v + c = 0, c =
/// (k/|x|)^(3/2) / 2: the stationary point |x| = y + u/(2 sqrt y). Newton's steps from v = 1 fall
/// to it monotonically; five reach float64.
struct LHalf {
  template <class V>
  static V value(V w, const Lanes<V>& c) {
    return c.strength * sqrt(abs(w));
  }
  template <class V>
  static V gradient(V w, const Lanes<V>& c) {
    const V slope = V(0.5) * c.strength / sqrt(abs(w));
    return select(w == V(0), V(0), sign(w) * slope);
  }
  template <class V>
  static V prox(V x, const Lanes<V>& c) {
    const V magnitude = abs(x);
    const V ratio = select(magnitude > V(0), c.scale / magnitude, V(0));
    const V constant = V(0.5) * ratio * sqrt(ratio);
    V v = V(1) - V(0.5) * constant;  // the first step
    unroll<5>([&](int) { v = (V(2) * v * v * v - constant) / (V(3) * v * v - V(1)); });
    return select(magnitude < c.threshold, V(0), x * v * v);
  }
  template <class V>
  static V prox_each(V x, Lanes<V>& c) {
    c.scale = power(c.shrink, V(2.0 / 3));
    c.threshold = V(1.5) * c.scale;
    return prox(x, c);
  }
};

/// Huber, d = shape: s w^2/2 up to |w| = d, then s d (|w| - d/2). prox: x scale up to threshold =
/// d(1 + u) with 1/scale = 1 + u, then x - u d sign(x).
struct Huber {
  template <class V>
  static V value(V w, const Lanes<V>& c) {
    const V magnitude = abs(w);
    return c.strength *
           select(magnitude > c.shape, c.shape * (magnitude - V(0.5) * c.shape), V(0.5) * (w * w));
  }
  template <class V>
  static V gradient(V w, const Lanes<V>& c) {
    return c.strength * select(abs(w) > c.shape, copysign(c.shape, w), w);
  }
  template <class V>
  static V prox(V x, const Lanes<V>& c) {
    return select(abs(x) > c.threshold, x - copysign(c.shrink * c.shape, x), x * c.scale);
  }
  template <class V>
  static V prox_each(V x, Lanes<V>& c) {
    c.scale = V(1) / (V(1) + c.shrink);
    c.threshold = c.shape * (V(1) + c.shrink);
    return prox(x, c);
  }
};

/// Capped L1, d = shape: s min(|w|, d) (Zhang 2010), gradient 0 from d on. prox: the soft threshold
/// up to threshold = d + u/2, or sqrt(2 u d) where u > 2d: there it and x have the same objective.
/// Above, x.
struct CappedL1 {
  template <class V>
  static V value(V w, const Lanes<V>& c) {
    const V magnitude = abs(w);
    return c.strength * select(magnitude > c.shape, c.shape, magnitude);
  }
  template <class V>
  static V gradient(V w, const Lanes<V>& c) {
    return select(abs(w) >= c.shape, V(0), signed_strength(c.strength, w));
  }
  template <class V>
  static V prox(V x, const Lanes<V>& c) {
    return select(abs(x) > c.threshold, x, soft_threshold(x, c.shrink));
  }
  template <class V>
  static V prox_each(V x, Lanes<V>& c) {
    const V u = c.shrink;
    c.threshold = select(u > V(2) * c.shape, sqrt(V(2) * u) * sqrt(c.shape), c.shape + V(0.5) * u);
    return prox(x, c);
  }
};

/// The sum of s log(1 + x) for x >= 0: one logarithm of a product, which is kept less 1 so that
/// small x count.
struct LogProduct {
  using Fold = Add;
  using V = Vec<double, reduce_lanes>;
  V strength;
  V rest = V(0);  ///< (1 + x)(1 + y)... - 1
  V sum = V(0);

  [[gnu::always_inline]] void add(V x) {
    if (any((rest > V(0x1p500)) | (x > V(0x1p500)))) {  // the product may overflow
      sum = sum + log1p(rest);
      rest = x;
    } else {
      rest = rest + x * (V(1) + rest);
    }
  }
  V result() const { return strength * (sum + log1p(rest)); }
};

/// What the values of a penalty are added up in.
template <class P>
[[gnu::always_inline]] inline auto total_of(const Lanes<Vec<double, reduce_lanes>>& c) {
  if constexpr (__is_same(P, LogSum)) {
    return LogProduct{c.strength};
  } else {
    return Lanewise<Add>{};
  }
}

/// The row of a functor in the list.
template <class P>
inline constexpr PenaltyInfo row{};
#define RIDGELINE_PENALTY(kind, functor, ...)                                                      \
  template <>                                                                                      \
  inline constexpr PenaltyInfo row<functor> = info_of(PenaltyKind::kind);
#include "ridgeline/penalties.def"
#undef RIDGELINE_PENALTY

/// Proximal operators that run in float64 for every type, because they cancel.
template <class P>
inline constexpr bool prox_in_double = false;
template <>
inline constexpr bool prox_in_double<LogSum> = true;

template <class T, class P>
void value(const void* w, const void* weights, std::size_t n,
           const PenaltyCoefficients& coefficients, double* totals) {
  const Lanes<Vec<double, reduce_lanes>> c(coefficients);
  const auto term = [&](auto... v) { return P::value(v..., c); };
  const auto* x = static_cast<const T*>(w);
  if constexpr (row<P>.weighted()) {
    reduce<Add>(n, totals, term, x, static_cast<const T*>(weights));
  } else {
    reduce_from(n, totals, total_of<P>(c), term, x);
  }
}

template <class T, class P>
void add_gradient(void* g, const void* w, const void* weights, std::size_t n,
                  const PenaltyCoefficients& coefficients, double* totals) {
  using V = Vec<compute_t<T>, reduce_lanes>;
  const Lanes<V> c(coefficients);
  const Lanes<Vec<double, reduce_lanes>> wide(coefficients);
  const auto add = [&](V grad, auto... v) { return grad + P::gradient(v..., c); };
  const auto term = [&](auto... v) { return P::value(v..., wide); };
  auto* out = static_cast<T*>(g);
  const auto* x = static_cast<const T*>(w);
  if constexpr (row<P>.weighted()) {
    map_reduce(out, n, totals, add, Lanewise<Add>{}, term, x, static_cast<const T*>(weights));
  } else {
    map_reduce(out, n, totals, add, total_of<P>(wide), term, x);
  }
}

template <class T, class P>
void prox(void* out, const void* x, const void* weights, std::size_t n,
          const PenaltyCoefficients& coefficients) {
  using V = Vec<compute_t<T>, map_lanes<T>>;
  const Lanes<V> c(coefficients);
  if constexpr (row<P>.weighted()) {
    map_into(
        static_cast<T*>(out), n, [&](V v, V a) { return P::prox(v, a, c); },
        static_cast<const T*>(x), static_cast<const T*>(weights));
  } else if constexpr (prox_in_double<P> && !__is_same(compute_t<T>, double)) {
    const Lanes<Vec<double, V::lanes>> wide(coefficients);
    map_into(
        static_cast<T*>(out), n, [&](V v) { return narrow<float>(P::prox(to_double(v), wide)); },
        static_cast<const T*>(x));
  } else {
    map_into(
        static_cast<T*>(out), n, [&](V v) { return P::prox(v, c); }, static_cast<const T*>(x));
  }
}

/// In float64 for every type. The prox of t (f + r/2 x^2) at x is that of t' f at x / (1 + t r), t'
/// = t / (1 + t r) (Parikh and Boyd 2014, section 2.2).
template <class T, class P>
void prox_each(void* x, const void* weights, const void* steps, std::size_t n,
               const PenaltyCoefficients& coefficients, double ridge) {
  constexpr int N = map_lanes<T>;
  using V = Vec<T, N>;
  const Vec<double, N> r(ridge);
  const auto moved = [&](V v, V t, auto... a) {
    const auto length = to_double(t);
    const auto damped = Vec<double, N>(1) + length * r;
    Lanes<Vec<double, N>> c(coefficients, length / damped);
    const auto result = P::prox_each(to_double(v) / damped, to_double(a)..., c);
    if constexpr (__is_same(T, float)) {
      return narrow<float>(result);
    } else {
      return result;
    }
  };
  auto* out = static_cast<T*>(x);
  const auto* from = static_cast<const T*>(x);
  const auto* t = static_cast<const T*>(steps);
  if constexpr (row<P>.weighted()) {
    map_into(out, n, moved, from, t, static_cast<const T*>(weights));
  } else {
    map_into(out, n, moved, from, t);
  }
}

template <class T>
void find_bad_weights(const void* weights, std::size_t n, double* totals) {
  using V = Vec<double, reduce_lanes>;
  const auto bad = [](V a) { return select((a >= V(0)) & (a < V(infinity)), V(0), V(1)); };
  reduce<Larger>(n, totals, bad, static_cast<const T*>(weights));
}

template <class T, class P>
constexpr PenaltyKernels kernels_of() {
  PenaltyKernels k{&value<T, P>, nullptr, &prox<T, P>, nullptr};
  if constexpr (sizeof(T) > 2) k.prox_each = &prox_each<T, P>;
  if constexpr (row<P>.differentiable()) k.add_gradient = &add_gradient<T, P>;
  return k;
}

template <class P>
constexpr void fill(PenaltyKernels (&row)[dtype_count]) {
  row[static_cast<int>(DType::float32)] = kernels_of<float, P>();
  row[static_cast<int>(DType::float64)] = kernels_of<double, P>();
  row[static_cast<int>(DType::bfloat16)] = kernels_of<Bfloat16, P>();
  row[static_cast<int>(DType::float16)] = kernels_of<Float16, P>();
}

using Scalar = Vec<double, 1>;
double number(Scalar v) { return fold(v, Add{}); }

/// Where the proximal operator of the log-sum penalty leaves 0. It jumps if sqrt(u) > e: then to
/// the point where root and 0 have the same objective, found by bisection to the last bit.
double log_sum_threshold(double u, double e) {
  if (!(u > e * e)) return u / e;
  const auto excess = [&](double x) {  // objective at the root minus objective at 0
    const double y = number(LogSum::log_sum_root(Scalar(x), Scalar(u), Scalar(e)));
    return y * (0.5 * y - x) + u * number(log1p(Scalar(y / e)));
  };
  double low = 2 * __builtin_sqrt(u) - e;
  double high = u / e;  // there the objective has slope 0 at 0 and the root is the lower one
  if (low < 0) low = 0;
  while (true) {
    const double middle = low + 0.5 * (high - low);
    if (!(middle > low && middle < high)) return low;
    (excess(middle) < 0 ? high : low) = middle;
  }
}

PenaltyCoefficients coefficients(PenaltyKind kind, double strength, double shape, double step) {
  PenaltyCoefficients c{strength, shape, step, step * strength, 0, 1, 1};
  const double u = c.shrink;
  switch (kind) {
  case PenaltyKind::l1:
  case PenaltyKind::weighted_l1:
    break;
  case PenaltyKind::l2:
    c.scale = 1 / (1 + u);
    break;
  case PenaltyKind::elastic_net:
    c.scale = 1 / (1 + step * shape);
    break;
  case PenaltyKind::mcp:
    c.threshold = strength * shape;
    c.scale = 1 / (1 - step / shape);
    c.inverse = 1 / shape;
    break;
  case PenaltyKind::scad:
    c.threshold = (1 + step) * strength;
    c.scale = 1 / (shape - 1 - step);
    c.inverse = 1 / (shape - 1);
    break;
  case PenaltyKind::log_sum:
    c.threshold = log_sum_threshold(u, shape);
    c.inverse = shape > 0x1p-1023 ? 1 / shape : 0x1.fffffffffffffp1023;  // 0 / shape is 0
    break;
  case PenaltyKind::l0:
    c.threshold = __builtin_sqrt(2 * u);
    break;
  case PenaltyKind::l_half:
    c.scale = number(power(Scalar(u), Scalar(2.0 / 3)));
    c.threshold = 1.5 * c.scale;
    break;
  case PenaltyKind::huber:
    c.scale = 1 / (1 + u);
    c.threshold = shape * (1 + u);
    break;
  case PenaltyKind::capped_l1:
    c.threshold = u > 2 * shape ? __builtin_sqrt(2 * u) * __builtin_sqrt(shape) : shape + 0.5 * u;
    break;
  }
  return c;
}

constexpr PenaltiesTable make_table() {
  PenaltiesTable table{};
#define RIDGELINE_PENALTY(kind, functor, ...)                                                      \
  fill<functor>(table.kernels[static_cast<int>(PenaltyKind::kind)]);
#include "ridgeline/penalties.def"
#undef RIDGELINE_PENALTY
  table.find_bad_weights[static_cast<int>(DType::float32)] = &find_bad_weights<float>;
  table.find_bad_weights[static_cast<int>(DType::float64)] = &find_bad_weights<double>;
  table.find_bad_weights[static_cast<int>(DType::bfloat16)] = &find_bad_weights<Bfloat16>;
  table.find_bad_weights[static_cast<int>(DType::float16)] = &find_bad_weights<Float16>;
  table.coefficients = &coefficients;
  return table;
}

}  // namespace

extern constinit const PenaltiesTable penalties;
constinit const PenaltiesTable penalties = make_table();

}  // namespace ridgeline::RIDGELINE_TARGET
