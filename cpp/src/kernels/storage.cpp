// How elements are stored in fewer bits than arithmetic runs in: 16-bit types, rounded to nearest,
// at random or with what rounding lost beside them, and blocks of bytes.
#include "kernels/storage.hpp"

#include "simd/loop.hpp"
#include "simd/rounding.hpp"

namespace ridgeline::RIDGELINE_TARGET {
namespace {

template <class Half>
void to_float32(const void* x, std::size_t n, float* out) {
  map_into(
      out, n, [](auto v) { return v; }, static_cast<const Half*>(x));
}

template <class Half>
void from_float32(const float* x, std::size_t n, void* out) {
  map_into(
      static_cast<Half*>(out), n, [](auto v) { return v; }, x);
}

static_assert(rounding_tile == 2 * tile_words);

/// Bits for n elements, from element `rounding.first` on: whole tiles.
void draw(const Rounding& rounding, std::size_t n, std::uint32_t* words) {
  const RoundKeys keys(rounding.key);
  const std::size_t tiles = (n + rounding_tile - 1) / rounding_tile;
  fill_words(words, rounding.first / rounding_tile, tiles, keys, Stream::rounding,
             rounding.purpose);
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

template <class Half>
constexpr HalfKernels kernels_of() {
  return {&to_float32<Half>, &from_float32<Half>, &round_randomly<Half>,
          &adopt<Half>,      &join<Half>,         &split<Half>};
}

constexpr StorageTable table() {
  StorageTable t{};
  t.halves[static_cast<std::size_t>(DType::bfloat16)] = kernels_of<Bfloat16>();
  t.halves[static_cast<std::size_t>(DType::float16)] = kernels_of<Float16>();
  t.draw = &draw;
  t.decode[0] = &decode<false>;
  t.decode[1] = &decode<true>;
  t.encode[0] = &encode<false>;
  t.encode[1] = &encode<true>;
  return t;
}

}  // namespace

extern constinit const StorageTable storage;
constinit const StorageTable storage = table();

}  // namespace ridgeline::RIDGELINE_TARGET
