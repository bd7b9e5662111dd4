// Optimizer steps. w is a weight, g its gradient, s its states, all of the compute type; every
// number of a rule is a coefficient, so that conventions differ in numbers alone. Bias corrections
// and the sign of the step are in the coefficients. NaN in any of them gives NaN.
#include "kernels/optimizers.hpp"

#include "simd/loop.hpp"
#include "simd/math.hpp"
#include "simd/philox.hpp"
#include "simd/rounding.hpp"
#include "simd/scale.hpp"
#include "simd/shrink.hpp"

namespace ridgeline::RIDGELINE_TARGET {
namespace {

/// The coefficients as lanes of V.
template <class V>
struct Numbers {
  Factor<V> scale;
  V low, high, gradient_l1, gradient_l2;
  V keep, lr, step, second_step, decay, decay1, gain1, decay2, gain2, mean_gain, root, eps,
      eps_inside;
  V largest_scale, momentum, nesterov_gradient, l1, l2, beta;
  V threshold, shrink, prox_l1, prox_l2, lowest, highest;
  bool mean_from_new, nesterov, preconditioned, cautious;

  explicit Numbers(const StepCoefficients& c)
      : scale(c.scale), low(lane(c.low)), high(lane(c.high)), gradient_l1(lane(c.gradient_l1)),
        gradient_l2(lane(c.gradient_l2)), keep(lane(c.keep)), lr(lane(c.lr)), step(lane(c.step)),
        second_step(lane(c.second_step)), decay(lane(c.decay)), decay1(lane(c.decay1)),
        gain1(lane(c.gain1)), decay2(lane(c.decay2)), gain2(lane(c.gain2)),
        mean_gain(lane(c.mean_gain)), root(lane(c.root)), eps(lane(c.eps)),
        eps_inside(lane(c.eps_inside)), largest_scale(lane(c.largest_scale)),
        momentum(lane(c.momentum)), nesterov_gradient(lane(c.nesterov_gradient)), l1(lane(c.l1)),
        l2(lane(c.l2)), beta(lane(c.beta)), threshold(lane(c.threshold)), shrink(lane(c.shrink)),
        prox_l1(lane(c.prox_l1)), prox_l2(lane(c.prox_l2)), lowest(lane(c.lowest)),
        highest(lane(c.highest)), mean_from_new(c.mean_from_new), nesterov(c.nesterov),
        preconditioned(c.preconditioned), cautious(c.cautious) {}

 private:
  static V lane(double x) { return V(static_cast<typename V::value_type>(x)); }
};

// A state that decays without new gradients would become subnormal in the end and stay so, and
// arithmetic on subnormal numbers takes many times as long on some processors
// (docs/decisions/0007). It becomes 0 before: below bounds that no step can tell from 0.

/// A mean of gradients, or of steps: from 2^-100 on (float64: 2^-960), so that its product with a
/// learning rate is a normal number, too.
template <class V>
[[gnu::always_inline]] inline V settled(V s) {
  using T = typename V::value_type;
  constexpr T bound = static_cast<T>(sizeof(T) == 4 ? 0x1p-100 : 0x1p-960);
  return select(abs(s) < V(bound), V(0), s);
}

/// A mean of squares: normal numbers.
template <class V>
[[gnu::always_inline]] inline V settled_square(V s) {
  using T = typename V::value_type;
  constexpr T bound = static_cast<T>(sizeof(T) == 4 ? 0x1p-126 : 0x1p-1022);
  return select(s < V(bound), V(0), s);
}

/// m + a (x - m) for a < 1/2, else x - (1 - a)(x - m): a large m takes nothing from x where a is
/// near 1.
template <class V>
[[gnu::always_inline]] inline V moved_mean(V m, V x, const Numbers<V>& c) {
  return settled((c.mean_from_new ? x : m) + c.mean_gain * (x - m));
}

/// A denominator of 0 (eps = 0, no gradient so far) stands for no step: x / infinity is 0.
template <class V>
[[gnu::always_inline]] inline V divisor(V d) {
  return select(d == V(0), V(static_cast<typename V::value_type>(infinity)), d);
}

// A rule changes the states, returns the new weight, and sets the denominator of each element's
// step where it has one.

/// w -= t g.
struct Sgd {
  static constexpr int states = 0;
  template <class V>
  static V next(V w, V g, V*, V&, const Numbers<V>& c) {
    return w - c.step * g;
  }
};

/// s = mu s + gain g; w -= t s, or t (g + mu s) (Nesterov, in the form of Sutskever et al. 2013).
struct Momentum {
  static constexpr int states = 1;
  template <class V>
  static V next(V w, V g, V* s, V&, const Numbers<V>& c) {
    s[0] = settled(c.decay1 * s[0] + c.gain1 * g);
    const V direction = c.nesterov ? c.nesterov_gradient * g + c.momentum * s[0] : s[0];
    return w - c.step * direction;
  }
};

/// The moments of Adam (Kingma and Ba 2015): m += (1 - b1)(g - m), v = b2 v + (1 - b2) g^2.
template <class V>
[[gnu::always_inline]] inline void adam_moments(V g, V* s, const Numbers<V>& c) {
  s[0] = moved_mean(s[0], g, c);
  s[1] = settled_square(c.decay2 * s[1] + (c.gain2 * g) * g);
}

/// w -= t m / (root sqrt v + eps).
struct Adam {
  static constexpr int states = 2;
  template <class V>
  static V next(V w, V g, V* s, V& denominator, const Numbers<V>& c) {
    adam_moments(g, s, c);
    denominator = divisor(sqrt(s[1]) * c.root + c.eps);
    return w - (c.step * s[0]) / denominator;
  }
};

/// Adam with the largest v so far (Reddi, Kale and Kumar 2018).
struct AmsGrad {
  static constexpr int states = 3;
  template <class V>
  static V next(V w, V g, V* s, V& denominator, const Numbers<V>& c) {
    adam_moments(g, s, c);
    s[2] = Larger{}(s[2], s[1] * c.largest_scale);
    denominator = divisor(sqrt(s[2]) * c.root + c.eps);
    return w - (c.step * s[0]) / denominator;
  }
};

/// Adam with Nesterov's momentum (Dozat 2016).
struct NAdam {
  static constexpr int states = 2;
  template <class V>
  static V next(V w, V g, V* s, V& denominator, const Numbers<V>& c) {
    adam_moments(g, s, c);
    denominator = divisor(sqrt(s[1]) * c.root + c.eps);
    return (w - (c.second_step * g) / denominator) - (c.step * s[0]) / denominator;
  }
};

/// v = a v + (1 - a) g^2; w -= t g / (sqrt v + eps) (Tieleman and Hinton 2012). Centered, less the
/// square of the gradient's mean (Graves 2013), which rounding must not take below 0. With momentum
/// a state of such steps.
template <bool Centered, bool WithMomentum>
struct RmsPropRule {
  static constexpr int states = 1 + (Centered ? 1 : 0) + (WithMomentum ? 1 : 0);
  template <class V>
  static V next(V w, V g, V* s, V& denominator, const Numbers<V>& c) {
    s[0] = settled_square(c.decay2 * s[0] + (c.gain2 * g) * g);
    V square = s[0];
    if constexpr (Centered) {
      s[1] = moved_mean(s[1], g, c);
      square = square - s[1] * s[1];
      square = select(square < V(0), V(0), square);
    }
    denominator = divisor(sqrt(square + c.eps_inside) + c.eps);
    if constexpr (WithMomentum) {
      V& buffer = s[states - 1];
      buffer = settled(c.momentum * buffer + (c.gain1 * g) / denominator);
      return w - c.step * buffer;
    } else {
      return w - (c.step * g) / denominator;
    }
  }
};

using RmsProp = RmsPropRule<false, false>;
using RmsPropMomentum = RmsPropRule<false, true>;
using RmsPropCentered = RmsPropRule<true, false>;
using RmsPropCenteredMomentum = RmsPropRule<true, true>;

/// s += g^2; w -= t g / (sqrt s + eps) (Duchi, Hazan and Singer 2011).
struct Adagrad {
  static constexpr int states = 1;
  template <class V>
  static V next(V w, V g, V* s, V& denominator, const Numbers<V>& c) {
    s[0] = s[0] + g * g;
    denominator = divisor(sqrt(s[0] + c.eps_inside) + c.eps);
    return w - (c.step * g) / denominator;
  }
};

/// w -= t sign(b1 m + (1 - b1) g); m = b2 m + (1 - b2) g (Chen et al. 2023).
struct Lion {
  static constexpr int states = 1;
  template <class V>
  static V next(V w, V g, V* s, V&, const Numbers<V>& c) {
    const V direction = sign(c.decay1 * s[0] + c.gain1 * g);
    s[0] = settled(c.decay2 * s[0] + c.gain2 * g);
    return w - c.step * direction;
  }
};

/// FTRL-Proximal (McMahan et al. 2013): n' = n + g^2, z += g - (sqrt n' - sqrt n)/t w, and w is the
/// minimiser of z w + l1 |w| + ((beta + sqrt n')/t + l2) w^2/2: 0 while |z| <= l1. step = 1/t.
struct Ftrl {
  static constexpr int states = 2;
  template <class V>
  static V next(V w, V g, V* s, V&, const Numbers<V>& c) {
    const V before = sqrt(s[1]);
    s[1] = s[1] + g * g;
    const V after = sqrt(s[1]);
    s[0] = s[0] + (g - (after - before) * c.step * w);
    const V rest = soft_threshold(s[0], c.l1);
    const V next = (V(0) - rest) / divisor((c.beta + after) * c.step + c.l2);
    return select(rest == V(0), V(0), next);
  }
};

/// Adam with a second, slow mean of the gradients, which has no bias correction (Pagliardini, Ablin
/// and Grangier 2024): n = b3 n + (1 - b3) g, w -= (t m + second n) / (root sqrt v + eps).
struct AdEMAMix {
  static constexpr int states = 3;
  template <class V>
  static V next(V w, V g, V* s, V& denominator, const Numbers<V>& c) {
    s[0] = moved_mean(s[0], g, c);
    s[1] = settled(c.decay1 * s[1] + c.gain1 * g);
    s[2] = settled_square(c.decay2 * s[2] + (c.gain2 * g) * g);
    denominator = divisor(sqrt(s[2]) * c.root + c.eps);
    return w - (c.step * s[0] + c.second_step * s[1]) / denominator;
  }
};

/// Schedule-free SGD and AdamW (Defazio et al. 2024). The weights are y, the state z, and their
/// mean x, which y lies between, is not stored. With the direction d = g (AdamW: over its
/// denominator) + decay y and a = mean_gain: y += a (z - y) - second d, z -= t d.
template <bool Adaptive>
struct ScheduleFree {
  static constexpr int states = Adaptive ? 2 : 1;
  template <class V>
  static V next(V y, V g, V* s, V& denominator, const Numbers<V>& c) {
    V direction = g;
    if constexpr (Adaptive) {
      s[1] = settled_square(c.decay2 * s[1] + (c.gain2 * g) * g);
      denominator = divisor(sqrt(s[1]) * c.root + c.eps);
      direction = g / denominator;
    }
    direction = direction + c.decay * y;
    const V z = s[0];
    s[0] = z - c.step * direction;
    return ((c.mean_from_new ? z : y) + c.mean_gain * (z - y)) - c.second_step * direction;
  }
};
using ScheduleFreeSgd = ScheduleFree<false>;
using ScheduleFreeAdamW = ScheduleFree<true>;

template <class T>
struct Memory {
  T* w;
  const T* g;
  T* states[3];

  explicit Memory(const StepOperands& x)
      : w(static_cast<T*>(x.w)),
        g(static_cast<const T*>(x.g)), states{static_cast<T*>(x.states[0]),
                                              static_cast<T*>(x.states[1]),
                                              static_cast<T*>(x.states[2])} {}
};

template <class V>
[[gnu::always_inline]] inline V proximal_point(V w, V threshold, V shrink, const Numbers<V>& c) {
  return clamped(soft_threshold(w, threshold) * shrink, c.lowest, c.highest);
}

template <class T, class Rule, bool Proximal>
void simple(const StepOperands& x, std::size_t n, const StepCoefficients& coefficients) {
  using V = Vec<T, update_lanes<T>>;
  const Memory<T> memory(x);
  const Numbers<V> c(coefficients);
  update<Rule::states>(
      n, memory.w, StatesInMemory<T>{memory.states}, MaskBits(nullptr),
      [&](V & w, V(&s)[3], V g, std::uint64_t) __attribute__((always_inline)) {
        V denominator(1);
        w = Rule::next(w * c.keep, c.scale * g, s, denominator, c);
        if constexpr (Proximal) w = proximal_point(w, c.threshold, c.shrink, c);
      },
      memory.g);
}

/// The gradient with what comes before the moments. sign(0) = 0.
template <class V>
[[gnu::always_inline]] inline V whole_gradient(V g, V w, const Numbers<V>& c) {
  return clamped(c.scale * g, c.low, c.high) +
         (signed_strength(c.gradient_l1, w) + c.gradient_l2 * w);
}

/// Where an update does not go against its gradient (Liang et al. 2024). NaN does.
template <class V>
[[gnu::always_inline]] inline auto against(V change, V g) {
  return ((change >= V(0)) & (g >= V(0))) | ((change <= V(0)) & (g <= V(0)));
}

template <class T, class Rule>
void full(const StepOperands& x, std::size_t n, const StepCoefficients& coefficients) {
  using V = Vec<T, update_lanes<T>>;
  const Memory<T> memory(x);
  const Numbers<V> c(coefficients);
  T* steps = static_cast<T*>(x.steps);
  const bool regularized = coefficients.gradient_l1 != 0 || coefficients.gradient_l2 != 0;
  const auto step = [&](V & w, V(&s)[3], V g, std::uint64_t bits) __attribute__((always_inline)) {
    const V old = w;
    V before[3] = {s[0], s[1], s[2]};
    g = regularized ? whole_gradient(g, w, c) : clamped(c.scale * g, c.low, c.high);
    V denominator(1);
    const V decayed = w * c.keep;
    w = Rule::next(decayed, g, s, denominator, c);
    if (c.cautious) w = select(against(w - decayed, g), decayed, w);
    V threshold = c.threshold;
    V shrink = c.shrink;
    if (c.preconditioned) {
      const V t = c.lr / denominator;
      threshold = t * c.prox_l1;
      shrink = V(1) / (V(1) + t * c.prox_l2);
    }
    w = select(bits, proximal_point(w, threshold, shrink, c), old);
    unroll<Rule::states>([&](int k) { s[k] = select(bits, s[k], before[k]); });
    if (steps != nullptr) {
      V t = c.lr / denominator;
      T lane[V::lanes];
      store_lanes(lane, t);
      copy_elements(steps, lane, static_cast<std::size_t>(V::lanes));
      steps += V::lanes;
    }
  };
  update<Rule::states>(n, memory.w, StatesInMemory<T>{memory.states}, MaskBits(x.mask), step,
                       memory.g);
}

template <class T, class Rule>
void squares(const StepOperands& x, std::size_t n, const StepCoefficients& coefficients,
             double* totals, double* agreed) {
  constexpr int N = reduce_lanes;
  using V = Vec<T, N>;
  const Memory<T> memory(x);
  const Numbers<V> c(coefficients);
  const MaskBits mask(x.mask);
  for_each_block(n, totals, [&](std::size_t i, std::size_t end, double& total) {
    Vec<double, N> sum(0);
    Vec<double, N> updated(0);
    double& agreed_total = agreed[i / block_size];
    for (; i < end; i += N) {
      const std::size_t count = end - i < N ? end - i : N;
      const auto lanes = [&](const T* p) {
        return count == N ? load<T, N>(p + i) : Remainder<T, N>(p + i, count).lanes();
      };
      V s[3];
      unroll<Rule::states>([&](int k) { s[k] = lanes(memory.states[k]); });
      V denominator(1);
      const V g = whole_gradient(lanes(memory.g), lanes(memory.w), c);
      V change = Rule::next(V(0), g, s, denominator, c);
      if (c.cautious) {
        const V one = select(against(change, g), V(0), V(1));
        change = select(one > V(0), change, V(0));
        updated = updated + first_lanes(to_double(select(mask.bits(i, count), one, V(0))), count);
      }
      const V kept = select(mask.bits(i, count), change, V(0));
      const auto wide = to_double(kept);
      sum = sum + first_lanes(wide * wide, count);
    }
    total = fold(sum, Add{});
    agreed_total = fold(updated, Add{});
  });
}

/// x times a factor, in lanes of V, rounded once.
template <class V, class In>
[[gnu::always_inline]] inline V product(const Factor<V>& factor, In x) {
  if constexpr (__is_same(In, V)) {
    return factor * x;
  } else if constexpr (sizeof(typename V::value_type) == 8) {
    return factor * to_double(x);
  } else {
    return factor.of_doubles(x);
  }
}

template <class T, class F>
void prepare(const void* g, std::size_t n, double scale, double low, double high, void* out) {
  using V = Vec<F, map_lanes<F>>;
  const Factor<V> factor(scale);
  const V lower(static_cast<F>(low));
  const V upper(static_cast<F>(high));
  map_into(
      static_cast<F*>(out), n, [&](auto v) { return clamped(product(factor, v), lower, upper); },
      static_cast<const T*>(g));
}

template <class T, class F>
void accumulate(const void* g, std::size_t n, bool first, double scale, void* sum) {
  using V = Vec<F, map_lanes<F>>;
  const Factor<V> factor(scale);
  auto* out = static_cast<F*>(sum);
  const auto* in = static_cast<const T*>(g);
  const auto term = [&](auto v) { return product(factor, v); };
  if (first) {
    map_into(out, n, term, in);
  } else {
    map_into(
        out, n, [&](V total, auto v) { return total + term(v); }, static_cast<const F*>(out), in);
  }
}

double scalar_log(double x) { return fold(log(Vec<double, 1>(x)), Add{}); }

/// Where mean and weight are both subnormal, or 0, the mean is the weight: it would not get there.
template <class T>
void average(const void* w, std::size_t n, double decay, void* mean) {
  using V = Vec<T, map_lanes<T>>;
  const bool from_new = decay <= 0.5;
  const V gain(static_cast<T>(from_new ? -decay : 1 - decay));
  const V least(static_cast<T>(sizeof(T) == 4 ? 0x1p-126 : 0x1p-1022));
  auto* out = static_cast<T*>(mean);
  map_into(
      out, n,
      [&](V m, V v) {
        const V next = (from_new ? v : m) + gain * (v - m);
        return select((abs(next) < least) & (abs(v) < least), v, next);
      },
      static_cast<const T*>(out), static_cast<const T*>(w));
}

template <class Raw>
void restore(void* x, const void* saved, std::size_t n, const std::uint64_t* mask) {
  using V = Vec<compute_t<Raw>, map_lanes<Raw>>;
  auto* out = static_cast<Raw*>(x);
  map_out(
      out, n, Store::plain, MaskBits(mask),
      [](std::uint64_t bits, V v, V old) { return select(bits, v, old); },
      static_cast<const Raw*>(out), static_cast<const Raw*>(saved));
}

/// A store of states: bfloat16, rounded randomly.
struct RoundedStates {
  Bits16* arrays[3];
  const std::uint32_t* words;
  template <int N>
  [[gnu::always_inline]] auto load_state(int k, std::size_t i, std::size_t count) const {
    return load_part<Bfloat16, N>(reinterpret_cast<const Bfloat16*>(arrays[k]) + i, count);
  }
  template <int N>
  [[gnu::always_inline]] void store_state(int k, std::size_t i, Vec<float, N> v,
                                          std::size_t count) const {
    store_part<Bits16, N>(arrays[k] + i, rounded_randomly<Bfloat16>(v, random_halves<N>(words, i)),
                          count);
  }
};

/// `simple` with states of bfloat16. While the square root and the division are awaited, states are
/// decoded and rounded, and the bits for the next tile drawn.
template <class Rule, bool Proximal>
void narrow(const StepOperands& x, std::size_t n, const StepCoefficients& coefficients) {
  using V = Vec<float, update_lanes<float>>;
  const Memory<float> memory(x);
  const Numbers<V> c(coefficients);
  const Rounding& rounding = *x.rounding;
  const RoundKeys keys(rounding.key);
  constexpr std::size_t tiles = 2;  // as many as Philox has in flight
  constexpr std::size_t batch = tiles * rounding_tile;
  alignas(64) std::uint32_t words[tiles * tile_words];
  for (std::size_t i = 0; i < n; i += batch) {
    fill_words(words, (rounding.first + i) / rounding_tile, tiles, keys, Stream::rounding,
               rounding.purpose);
    const auto state = [&](int k) { return static_cast<Bits16*>(x.states[k]) + i; };
    update<Rule::states>(
        n - i < batch ? n - i : batch, memory.w + i,
        RoundedStates{{state(0), state(1), state(2)}, words}, MaskBits(nullptr),
        [&](V & w, V(&s)[3], V g, std::uint64_t) __attribute__((always_inline)) {
          V denominator(1);
          w = Rule::next(w * c.keep, c.scale * g, s, denominator, c);
          if constexpr (Proximal) w = proximal_point(w, c.threshold, c.shrink, c);
        },
        memory.g + i);
  }
}

template <class T, class Rule>
constexpr StepKernels kernels_of() {
  StepKernels k{
      &simple<T, Rule, false>, &simple<T, Rule, true>, {}, &full<T, Rule>, &squares<T, Rule>};
  if constexpr (sizeof(T) == 4) {
    k.narrow[0] = &narrow<Rule, false>;
    k.narrow[1] = &narrow<Rule, true>;
  }
  return k;
}

constexpr OptimizersTable table() {
  OptimizersTable t{};
  const auto fill = [&]<class Rule>(OptimizerKind kind, Rule) {
    t.steps[static_cast<std::size_t>(kind)][0] = kernels_of<float, Rule>();
    t.steps[static_cast<std::size_t>(kind)][1] = kernels_of<double, Rule>();
  };
#define RIDGELINE_OPTIMIZER(kind, rule, ...)                                                       \
  static_assert(rule::states == state_count(OptimizerKind::kind));                                 \
  fill(OptimizerKind::kind, rule{});
#include "ridgeline/optimizers.def"
#undef RIDGELINE_OPTIMIZER
  const auto fill_type = [&]<class T>(DType dtype, T) {
    const auto i = static_cast<std::size_t>(dtype);
    t.prepare[i][0] = &prepare<T, float>;
    t.prepare[i][1] = &prepare<T, double>;
    t.accumulate[i][0] = &accumulate<T, float>;
    t.accumulate[i][1] = &accumulate<T, double>;
  };
  fill_type(DType::float32, float{});
  fill_type(DType::float64, double{});
  fill_type(DType::bfloat16, Bfloat16{});
  fill_type(DType::float16, Float16{});
  t.log = &scalar_log;
  t.average[0] = &average<float>;
  t.average[1] = &average<double>;
  t.restore[0] = &restore<Bits16>;
  t.restore[1] = &restore<std::int32_t>;
  t.restore[2] = &restore<std::int64_t>;
  return t;
}

}  // namespace

extern constinit const OptimizersTable optimizers;
constinit const OptimizersTable optimizers = table();

}  // namespace ridgeline::RIDGELINE_TARGET
