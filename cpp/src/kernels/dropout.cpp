// Dropout kernels: scale, pick or add, given keep bits. Dropped elements are replaced, not
// multiplied, so that NaN and infinity become 0 too.
#include "kernels/dropout.hpp"

#include "simd/loop.hpp"

namespace ridgeline::RIDGELINE_TARGET {
namespace {

template <class T>
void scale(const void* x, void* out, std::size_t n, KeepBits kept, Store how,
           const DrawRequest& next, double factor) {
  using V = Vec<compute_t<T>, map_lanes<T>>;
  const V s(static_cast<compute_t<T>>(factor));
  map_chosen(
      static_cast<T*>(out), n, kept, how, next,
      [&](std::uint64_t bits, V v) { return select(bits, v * s, V(0)); }, static_cast<const T*>(x));
}

/// The sum is taken of what is stored by dropout for float32 and float64; half types round it once.
template <class T>
void scale_add(const void* x, const void* residual, void* out, std::size_t n, KeepBits kept,
               Store how, const DrawRequest& next, double factor) {
  using V = Vec<compute_t<T>, map_lanes<T>>;
  const V s(static_cast<compute_t<T>>(factor));
  map_chosen(
      static_cast<T*>(out), n, kept, how, next,
      [&](std::uint64_t bits, V v, V r) { return select(bits, v * s, V(0)) + r; },
      static_cast<const T*>(x), static_cast<const T*>(residual));
}

template <class T>
void affine(const void* x, void* out, std::size_t n, KeepBits kept, Store how,
            const DrawRequest& next, double a, double b, double dropped) {
  using F = compute_t<T>;
  using V = Vec<F, map_lanes<T>>;
  const V slope(static_cast<F>(a));
  const V shift(static_cast<F>(b));
  const V other(static_cast<F>(dropped));
  map_chosen(
      static_cast<T*>(out), n, kept, how, next,
      [&](std::uint64_t bits, V v) { return select(bits, v * slope + shift, other); },
      static_cast<const T*>(x));
}

template <class T>
void pick(const void* a, const void* b, void* out, std::size_t n, KeepBits kept, Store how,
          const DrawRequest& next) {
  using Raw = raw_t<T>;
  using V = Vec<compute_t<Raw>, map_lanes<Raw>>;
  Raw* to = static_cast<Raw*>(out);
  const auto* first = static_cast<const Raw*>(a);
  const auto* second = static_cast<const Raw*>(b);
  if (first == nullptr) {
    map_chosen(
        to, n, kept, how, next, [](std::uint64_t bits, V v) { return select(bits, V(0), v); },
        second);
  } else if (second == nullptr) {
    map_chosen(
        to, n, kept, how, next, [](std::uint64_t bits, V v) { return select(bits, v, V(0)); },
        first);
  } else {
    map_chosen(
        to, n, kept, how, next, [](std::uint64_t bits, V v, V w) { return select(bits, v, w); },
        first, second);
  }
}

template <class T>
void multiply(const void* x, const void* factor, void* out, std::size_t n, Store how) {
  using F = compute_t<T>;
  using V = Vec<F, map_lanes<T>>;
  map_out(
      static_cast<T*>(out), n, how, KeepAll{}, [](std::uint64_t, V v, V f) { return v * f; },
      static_cast<const T*>(x), static_cast<const F*>(factor));
}

template <class T>
void add(const void* x, const void* noise, void* out, std::size_t n, Store how) {
  using F = compute_t<T>;
  using V = Vec<F, map_lanes<T>>;
  map_out(
      static_cast<T*>(out), n, how, KeepAll{}, [](std::uint64_t, V v, V f) { return v + f; },
      static_cast<const T*>(x), static_cast<const F*>(noise));
}

template <class T>
constexpr DropoutKernels kernels_of() {
  return {&scale<T>, &scale_add<T>, &affine<T>, &pick<T>, &multiply<T>, &add<T>};
}

}  // namespace

extern constinit const DropoutTable dropout;
constinit const DropoutTable dropout = {
    {kernels_of<float>(), kernels_of<double>(), kernels_of<Bfloat16>(), kernels_of<Float16>()}};

}  // namespace ridgeline::RIDGELINE_TARGET
