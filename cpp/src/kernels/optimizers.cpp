// Optimizer steps. w is a weight, g its gradient, s its states, all of the compute type; every
// number of a rule is a coefficient, so that conventions differ in numbers alone. Bias corrections
// and the sign of the step are in the coefficients. NaN in any of them gives NaN.
#include "kernels/optimizers.hpp"

#include "simd/loop.hpp"
#include "simd/math.hpp"
#include "simd/philox.hpp"
#include "simd/scale.hpp"
#include "simd/shrink.hpp"

namespace ridgeline::RIDGELINE_TARGET {
namespace {

/// The coefficients as lanes of V.
template <class V>
struct Numbers {
  Factor<V> scale;
  V low, high, gradient_l1, gradient_l2;
  V keep, lr, step, gradient_step, decay1, gain1, decay2, gain2, mean_gain, root, eps, eps_inside;
  V largest_scale, momentum, nesterov_gradient, l1, l2, beta;
  V threshold, shrink, prox_l1, prox_l2, lowest, highest;
  bool mean_from_new, nesterov, preconditioned;

  explicit Numbers(const StepCoefficients& c)
      : scale(c.scale), low(lane(c.low)), high(lane(c.high)), gradient_l1(lane(c.gradient_l1)),
        gradient_l2(lane(c.gradient_l2)), keep(lane(c.keep)), lr(lane(c.lr)), step(lane(c.step)),
        gradient_step(lane(c.gradient_step)), decay1(lane(c.decay1)), gain1(lane(c.gain1)),
        decay2(lane(c.decay2)), gain2(lane(c.gain2)), mean_gain(lane(c.mean_gain)),
        root(lane(c.root)), eps(lane(c.eps)), eps_inside(lane(c.eps_inside)),
        largest_scale(lane(c.largest_scale)), momentum(lane(c.momentum)),
        nesterov_gradient(lane(c.nesterov_gradient)), l1(lane(c.l1)), l2(lane(c.l2)),
        beta(lane(c.beta)), threshold(lane(c.threshold)), shrink(lane(c.shrink)),
        prox_l1(lane(c.prox_l1)), prox_l2(lane(c.prox_l2)), lowest(lane(c.lowest)),
        highest(lane(c.highest)), mean_from_new(c.mean_from_new), nesterov(c.nesterov),
        preconditioned(c.preconditioned) {}

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
    return (w - (c.gradient_step * g) / denominator) - (c.step * s[0]) / denominator;
  }
};

/// v = a v + (1 - a) g^2; w -= t g / (sqrt v + eps) (Tieleman and Hinton 2012). Centered, less the
/// square of the gradient's mean (Graves 2013), which rounding must not take below 0. With momentum
/// a state of such steps.
template <bool Centered, bool WithMomentum>
struct RmsProp {
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
    w = Rule::next(w * c.keep, g, s, denominator, c);
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
             double* totals) {
  constexpr int N = reduce_lanes;
  using V = Vec<T, N>;
  const Memory<T> memory(x);
  const Numbers<V> c(coefficients);
  const MaskBits mask(x.mask);
  for_each_block(n, totals, [&](std::size_t i, std::size_t end, double& total) {
    Vec<double, N> sum(0);
    for (; i < end; i += N) {
      const std::size_t count = end - i < N ? end - i : N;
      const auto lanes = [&](const T* p) {
        return count == N ? load<T, N>(p + i) : Remainder<T, N>(p + i, count).lanes();
      };
      V s[3];
      unroll<Rule::states>([&](int k) { s[k] = lanes(memory.states[k]); });
      V denominator(1);
      const V g = whole_gradient(lanes(memory.g), lanes(memory.w), c);
      const V change = Rule::next(V(0), g, s, denominator, c);
      const V kept = select(mask.bits(i, count), change, V(0));
      const auto wide = to_double(kept);
      sum = sum + first_lanes(wide * wide, count);
    }
    total = fold(sum, Add{});
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

/// Adds the random bits below those that are kept, and cuts: the carry rounds up with the
/// probability that the cut part has of one unit. NaN stays.
template <class Half, int N>
[[gnu::always_inline]] inline Vec<std::int32_t, N> rounded_randomly(Vec<float, N> x,
                                                                    Vec<std::int32_t, N> random) {
  using I = Vec<std::int32_t, N>;
  const I bits = bits_as<std::int32_t>(x);
  const auto shifted = [](I v, int by) {
    return bits_as<std::int32_t>(bits_as<std::uint32_t>(v) >> by);
  };
  if constexpr (Half::dtype == DType::bfloat16) {
    // Infinity has no bits below those that are kept, so that nothing carries. NaN as arithmetic
    // makes it has its highest bit of the fraction set, and keeps it.
    return shifted(bits + select(x == x, random, I(0)), 16);
  } else {
    const I sign = shifted(bits, 16) & I(0x8000);
    const I magnitude = bits & I(0x7fffffff);
    const I normal = shifted(magnitude - I(0x38000000) + (random & I(0x1fff)), 13);
    using V = Vec<float, N>;
    // In units of 2^-24, the smallest subnormal.
    const V units = abs(x) * V(0x1p24f) + to_float(random) * V(0x1p-16f);
    const I subnormal = truncated(select(units < V(2048), units, V(0)));
    const I finite = select(magnitude < I(0x38800000), subnormal, normal);
    const I overflow = I(0x7c00);
    const I nan = I(0x7e00) | (shifted(magnitude, 13) & I(0x3ff));
    return sign | select(magnitude < I(0x47800000), finite,
                         select(I(0x7f800000) < magnitude, nan, overflow));
  }
}

/// Bits for n elements, from element `rounding.first` on: whole tiles.
void draw(const Rounding& rounding, std::size_t n, std::uint32_t* words) {
  const RoundKeys keys(rounding.key);
  const std::size_t tiles = (n + rounding_tile - 1) / rounding_tile;
  fill_words(words, rounding.first / rounding_tile, tiles, keys, Stream::rounding,
             rounding.purpose);
}

/// The random bits of N elements from i on, where N divides a half of a tile. The elements of a
/// tile take the 16-bit halves of its words: the first half of them the low halves, in order, the
/// others the high halves.
template <int N>
[[gnu::always_inline]] inline Vec<std::int32_t, N> random_halves(const std::uint32_t* words,
                                                                 std::size_t i) {
  static_assert(rounding_tile == 2 * tile_words);
  using U = Vec<std::uint32_t, N>;
  const std::size_t place = i % rounding_tile;
  const auto both =
      load_lanes<std::uint32_t, N>(words + i / rounding_tile * tile_words + place % tile_words);
  return bits_as<std::int32_t>(place < tile_words ? both & U(0xffff) : both >> 16);
}

template <class Half>
void round_randomly(const float* x, std::size_t n, const std::uint32_t* words, void* out) {
  constexpr int N = map_lanes<float>;
  auto* to = static_cast<Bits16*>(out);
  for (std::size_t i = 0; i < n; i += N) {
    const std::size_t count = n - i < N ? n - i : N;
    const auto rounded =
        rounded_randomly<Half>(load_part<float, N>(x + i, count), random_halves<N>(words, i));
    store_part<Bits16, N>(to + i, rounded, count);
  }
}

/// States of an update that are bfloat16, rounded randomly.
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
  constexpr std::size_t stretch = tiles * rounding_tile;
  alignas(64) std::uint32_t words[tiles * tile_words];
  for (std::size_t i = 0; i < n; i += stretch) {
    fill_words(words, (rounding.first + i) / rounding_tile, tiles, keys, Stream::rounding,
               rounding.purpose);
    const auto state = [&](int k) { return static_cast<Bits16*>(x.states[k]) + i; };
    update<Rule::states>(
        n - i < stretch ? n - i : stretch, memory.w + i,
        RoundedStates{{state(0), state(1), state(2)}, words}, MaskBits(nullptr),
        [&](V & w, V(&s)[3], V g, std::uint64_t) __attribute__((always_inline)) {
          V denominator(1);
          w = Rule::next(w * c.keep, c.scale * g, s, denominator, c);
          if constexpr (Proximal) w = proximal_point(w, c.threshold, c.shrink, c);
        },
        memory.g + i);
  }
}

/// Values of a half type as their bits, and back.
template <class Half, int N>
[[gnu::always_inline]] inline Vec<std::int32_t, N> half_bits(Vec<float, N> x) {
  if constexpr (Half::dtype == DType::bfloat16) {
    return to_bfloat16(x);
  } else {
    return to_float16(x);
  }
}
template <class Half, int N>
[[gnu::always_inline]] inline Vec<float, N> from_half_bits(Vec<std::int32_t, N> bits) {
  if constexpr (Half::dtype == DType::bfloat16) {
    return from_bfloat16(bits);
  } else {
    return from_float16(bits);
  }
}

/// x where it rounds to the half, else the half: somebody else has written that.
template <class Half, int N>
[[gnu::always_inline]] inline Vec<float, N> unless_written(Vec<float, N> x,
                                                           Vec<std::int32_t, N> half) {
  return select(half_bits<Half>(x) == half, x, from_half_bits<Half>(half));
}

template <class Half>
void adopt(const void* half, const float* master, std::size_t n, float* w) {
  using V = Vec<float, map_lanes<float>>;
  using I = Vec<std::int32_t, V::lanes>;
  map_into(
      w, n, [](V own, I bits) { return unless_written<Half>(own, bits); }, master,
      static_cast<const Bits16*>(half));
}

template <class Half>
void join(const void* high, const void* low, std::size_t n, float* w) {
  using V = Vec<float, map_lanes<float>>;
  using I = Vec<std::int32_t, V::lanes>;
  map_into(
      w, n,
      [](I bits, V rest) { return unless_written<Half>(from_half_bits<Half>(bits) + rest, bits); },
      static_cast<const Bits16*>(high), static_cast<const Half*>(low));
}

/// Where w - high is no number (infinities) the rest is 0. A rest that rounds up to half a unit of
/// `high` is stored a step smaller, so that the sum still rounds to `high`.
template <class Half>
void split(const float* w, std::size_t n, void* high, void* low) {
  using V = Vec<float, map_lanes<float>>;
  using I = Vec<std::int32_t, V::lanes>;
  map_into(
      static_cast<Half*>(high), n, [](V v) { return v; }, w);
  map_into(
      static_cast<Bits16*>(low), n,
      [](V v, I bits) {
        const V own = from_half_bits<Half>(bits);
        const V rest = v - own;
        const I nearest = half_bits<Half>(select(rest == rest, rest, V(0)));
        const V sum = own + from_half_bits<Half>(nearest);
        return select((half_bits<Half>(sum) == bits) | (sum != sum), nearest, nearest - I(1));
      },
      w, static_cast<const Bits16*>(high));
}

/// The dynamic map of Dettmers et al. (2022): [10^(i-7), 10^(i-6)], i = 0 ... 6, is cut into `bins`
/// 2^i equal bins, whose middles are the values, beside 0 and 1. With sign, bins = 1, and without,
/// bins = 2. With K = 2^n + j for bin j of a decade of 2^n bins, the code is K without sign less 1,
/// or 127 +- K; a value has the code of the bin that it lies in.
///
/// K is the whole part of 2^n (x / (0.9 10^(i-6)) + 8/9), which over all decades is one concave
/// function of straight pieces: the lesser of the lines of a decade and the next. And in a decade a
/// value is a line in K.
template <bool Signed>
struct DynamicMap {
  float factor[16], offset[16];  // of a line, by the exponent of x halved
  float slope[16], start[16];    // of a value, by the exponent of K + 1/4

  constexpr DynamicMap() : factor{}, offset{}, slope{}, start{} {
    constexpr double unit[] = {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1};
    for (int e = 96; e < 128; e += 2) {
      double low = 1;  // the least x with that exponent
      for (int k = e; k < 127; ++k)
        low /= 2;
      int i = 0;
      while (i < 6 && low >= unit[i])
        ++i;
      const double bins = bins_of(i);
      factor[e / 2 % 16] = static_cast<float>(bins / (0.9 * unit[i]));
      offset[e / 2 % 16] = static_cast<float>(bins * 8 / 9);
    }
    for (int i = 0; i < 7; ++i) {
      // The middle of bin j is unit (0.1 + 0.9 (j + 1/2) / bins), and K + 1/4 = bins + j + 1/4.
      const double bins = bins_of(i);
      const int at = exponent(bins);
      slope[at] = static_cast<float>(0.9 * unit[i] / bins);
      start[at] = static_cast<float>(unit[i] * (0.1 + 0.9 * (0.25 / bins - 1)));
    }
    start[exponent(2 * bins_of(6))] = 1;
  }
  static constexpr double bins_of(int i) { return static_cast<double>((Signed ? 1 : 2) << i); }
  /// The low bits of the exponent of a power of 2 from 1 on.
  static constexpr int exponent(double power) {
    int e = 127;
    for (; power > 1; power /= 2)
      ++e;
    return e % 16;
  }
};
template <bool Signed>
inline constexpr DynamicMap<Signed> dynamic_map;

/// magnitude >= 0 with the sign of x.
template <int N>
[[gnu::always_inline]] inline Vec<float, N> with_sign(Vec<float, N> magnitude, Vec<float, N> x) {
  using I = Vec<std::int32_t, N>;
  return bits_as<float>(bits_as<std::int32_t>(magnitude) |
                        (bits_as<std::int32_t>(x) & I(static_cast<std::int32_t>(0x80000000))));
}

/// The values of codes, over the largest magnitude of their block. 0 has an exponent of its own
/// thanks to the 1/4.
template <bool Signed, int N>
[[gnu::always_inline]] inline Vec<float, N> decoded(Vec<std::int32_t, N> code) {
  using I = Vec<std::int32_t, N>;
  using V = Vec<float, N>;
  constexpr const DynamicMap<Signed>& map = dynamic_map<Signed>;
  const V number = to_float(Signed ? code - I(127) : code + I(1));
  const V place = (Signed ? abs(number) : number) + V(0.25f);
  const I exponent = bits_as<std::int32_t>(place) >> 23;
  const V magnitude = place * lookup(map.slope, exponent) + lookup(map.start, exponent);
  if constexpr (Signed) {
    return with_sign(magnitude, number);
  } else {
    return magnitude;
  }
}

/// Codes of x / the largest magnitude of its block, which is a little more than 1 for that itself.
/// A square that is not 0 does not become 0: a moment would be divided by eps alone.
template <bool Signed, int N>
[[gnu::always_inline]] inline Vec<std::int32_t, N> encoded(Vec<float, N> x) {
  using I = Vec<std::int32_t, N>;
  using V = Vec<float, N>;
  constexpr const DynamicMap<Signed>& map = dynamic_map<Signed>;
  // NaN gives 2^-30; above 1 are infinities.
  const V magnitude = lesser(greater(abs(x), V(0x1p-30f)), V(1 + 0x1p-20f));
  const I exponent = bits_as<std::int32_t>(magnitude) >> 24;
  const V offset = lookup(map.offset, exponent);
  const V line = magnitude * lookup(map.factor, exponent);
  const V number = lesser(line + offset, line * V(0.2f) + (offset + offset));
  if constexpr (Signed) {
    return truncated(greater(with_sign(number, x), V(-127))) + I(127);
  } else {
    const V least = select(x > V(0), V(2), V(1));
    return truncated(greater(number, least)) - I(1);
  }
}

template <bool Signed>
void decode(const std::uint8_t* codes, const float* scales, std::size_t n, float* out) {
  constexpr int N = update_lanes<float>;
  for (std::size_t begin = 0; begin < n; begin += code_block) {
    const std::size_t end = n - begin < code_block ? n : begin + code_block;
    const Vec<float, N> scale(scales[begin / code_block]);
    std::size_t i = begin;
    for (; i + N <= end; i += N)
      store<float, N>(out + i, decoded<Signed>(load_bytes<N>(codes + i)) * scale);
    if (i == end) continue;
    std::uint8_t last[N] = {};
    copy_elements(last, codes + i, end - i);
    store_first<float, N>(out + i, decoded<Signed>(load_bytes<N>(last)) * scale, end - i);
  }
}

inline constexpr float largest_float = 0x1.fffffep127f;

/// A block whose largest magnitude has no float32 inverse is stored as zeros.
template <bool Signed>
void encode(const float* x, std::size_t n, std::uint8_t* codes, float* scales) {
  constexpr int N = update_lanes<float>;
  using V = Vec<float, N>;
  using K = Vec<std::int32_t, map_lanes<float>>;
  const auto larger = [](auto a, auto b) { return greater(a, b); };
  for (std::size_t begin = 0; begin < n; begin += code_block) {
    const std::size_t end = n - begin < code_block ? n : begin + code_block;
    const auto next = [&](K largest, auto v) {
      return larger(largest, bits_as<std::int32_t>(abs(v)));  // NaN is the largest
    };
    const K found = scan(end - begin, K(0), next, x + begin);
    const float found_scale = __builtin_bit_cast(float, fold(found, larger));
    // Infinities are stored as the largest number: 0 times infinity would be NaN for all others.
    const float scale = found_scale > largest_float ? largest_float : found_scale;
    scales[begin / code_block] = scale;
    // A little more, so that rounding leaves no less than 1 of the largest.
    const V inverse(scale >= 0x1p-126f ? 1 / scale * (1 + 0x1p-22f) : 0);
    std::size_t i = begin;
    for (; i + N <= end; i += N)
      store_bytes(codes + i, encoded<Signed>(load<float, N>(x + i) * inverse));
    if (i == end) continue;
    std::uint8_t last[N];
    store_bytes(last, encoded<Signed>(Remainder<float, N>(x + i, end - i).lanes() * inverse));
    copy_elements(codes + i, last, end - i);
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
  fill(OptimizerKind::sgd, Sgd{});
  fill(OptimizerKind::momentum, Momentum{});
  fill(OptimizerKind::adam, Adam{});
  fill(OptimizerKind::amsgrad, AmsGrad{});
  fill(OptimizerKind::nadam, NAdam{});
  fill(OptimizerKind::rmsprop, RmsProp<false, false>{});
  fill(OptimizerKind::rmsprop_momentum, RmsProp<false, true>{});
  fill(OptimizerKind::rmsprop_centered, RmsProp<true, false>{});
  fill(OptimizerKind::rmsprop_centered_momentum, RmsProp<true, true>{});
  fill(OptimizerKind::adagrad, Adagrad{});
  fill(OptimizerKind::lion, Lion{});
  fill(OptimizerKind::ftrl, Ftrl{});
  const auto fill_type = [&]<class T>(DType dtype, T) {
    const auto i = static_cast<std::size_t>(dtype);
    t.prepare[i][0] = &prepare<T, float>;
    t.prepare[i][1] = &prepare<T, double>;
    t.accumulate[i][0] = &accumulate<T, float>;
    t.accumulate[i][1] = &accumulate<T, double>;
    if constexpr (sizeof(T) == 2) {
      t.round_randomly[i] = &round_randomly<T>;
      t.adopt[i] = &adopt<T>;
      t.join[i] = &join<T>;
      t.split[i] = &split<T>;
    }
  };
  fill_type(DType::float32, float{});
  fill_type(DType::float64, double{});
  fill_type(DType::bfloat16, Bfloat16{});
  fill_type(DType::float16, Float16{});
  t.draw = &draw;
  t.average[0] = &average<float>;
  t.average[1] = &average<double>;
  t.restore[0] = &restore<Bits16>;
  t.restore[1] = &restore<std::int32_t>;
  t.restore[2] = &restore<std::int64_t>;
  t.decode[0] = &decode<false>;
  t.decode[1] = &decode<true>;
  t.encode[0] = &encode<false>;
  t.encode[1] = &encode<true>;
  return t;
}

}  // namespace

extern constinit const OptimizersTable optimizers;
constinit const OptimizersTable optimizers = table();

}  // namespace ridgeline::RIDGELINE_TARGET
