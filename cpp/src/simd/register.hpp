// Registers of the target, and what the headers above need to speak of them: types and unrolling.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace ridgeline::RIDGELINE_TARGET {
namespace {

/// 0 for the scalar target, where one lane is one register.
inline constexpr int register_bytes = RIDGELINE_REGISTER_BYTES;

/// float64 stays in 32-byte registers where there are wider ones: Zen 4 widens float32 into them
/// twice as fast, and computes as fast (docs/decisions/0001-vector-layer.md).
template <class T>
inline constexpr int register_bytes_of = sizeof(T) == 8 && register_bytes > 32 ? 32
                                                                               : register_bytes;

template <class T, int Lanes>
struct RegisterOf {
  typedef T type __attribute__((vector_size(Lanes * sizeof(T))));  // NOLINT(modernize-use-using)
};
template <class T>
struct RegisterOf<T, 1> {
  using type = T;
};
template <class T, int Lanes>
using Register = typename RegisterOf<T, Lanes>::type;

/// Names the register that a native function returns, where its arguments do not.
template <class R>
struct Into {};

template <std::size_t Bytes>
struct LaneInt;
template <>
struct LaneInt<4> {
  using type = std::int32_t;
  using word = std::uint32_t;
};
template <>
struct LaneInt<8> {
  using type = std::int64_t;
  using word = std::uint64_t;
};
/// The signed integer as wide as T: a lane of a mask is 0 or -1 of it.
template <class T>
using lane_int = typename LaneInt<sizeof(T)>::type;
/// The unsigned one.
template <class T>
using lane_word = typename LaneInt<sizeof(T)>::word;

/// f(0), f(1), ... f(Count - 1), unrolled by the compiler front end.
template <class F, int... I>
[[gnu::always_inline]] inline void unroll([[maybe_unused]] F f, std::integer_sequence<int, I...>) {
  (f(I), ...);
}
template <int Count, class F>
[[gnu::always_inline]] inline void unroll(F f) {
  unroll(f, std::make_integer_sequence<int, Count>{});
}

}  // namespace
}  // namespace ridgeline::RIDGELINE_TARGET
