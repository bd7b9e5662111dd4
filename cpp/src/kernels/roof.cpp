// Passes over memory whose arithmetic is one bitwise operation a register.
#include "kernels/roof.hpp"

#include <type_traits>

#include "simd/vec.hpp"

namespace ridgeline::RIDGELINE_TARGET {
namespace {

/// 64-bit lanes would stay in half of the widest registers.
using Word = std::conditional_t<register_bytes == 0, std::uint64_t, std::uint32_t>;
constexpr std::size_t line_bytes = 64;
using Line = Vec<Word, line_bytes / sizeof(Word)>;
constexpr int group_lines = memory_group / line_bytes;

[[gnu::always_inline]] inline Line load_line(const std::byte* p) {
  return load_lanes<Word, Line::lanes>(p);
}
[[gnu::always_inline]] inline Line line_of(std::uint64_t bits) {
  return Line(static_cast<Word>(bits));
}
/// p = p ^ bits
[[gnu::always_inline]] inline void flip(std::byte* p, Line bits) {
  store_lanes(p, load_line(p) ^ bits);
}

/// f(offset) for each of the `Lines` lines of a group, group by group.
template <int Lines = group_lines, class F>
[[gnu::always_inline]] inline void each_line(std::size_t groups, F f) {
  for (std::size_t i = 0; i < groups; ++i) {
    unroll<Lines>([&](int k) { f((i * Lines + static_cast<std::size_t>(k)) * line_bytes); });
  }
}

std::uint64_t read(std::byte* const* regions, std::size_t groups, std::uint64_t) {
  const std::byte* const a = regions[0];
  Line even(0);
  Line odd(0);
  each_line<2>(groups * (group_lines / 2), [&](std::size_t at) {
    Line& seen = at % (2 * line_bytes) == 0 ? even : odd;
    seen = seen | load_line(a + at);
  });
  Word words[Line::lanes];
  store_lanes(words, even | odd);
  std::uint64_t all = 0;
  for (const Word word : words)
    all |= word;
  return all;
}

std::uint64_t rewrite(std::byte* const* regions, std::size_t groups, std::uint64_t bits) {
  std::byte* const a = regions[0];
  each_line(groups, [=, flipped = line_of(bits)](std::size_t at) { flip(a + at, flipped); });
  return 0;
}

std::uint64_t add(std::byte* const* regions, std::size_t groups, std::uint64_t bits) {
  std::byte* const a = regions[0];
  const std::byte* const b = regions[1];
  each_line(groups,
            [=, mask = line_of(bits)](std::size_t at) { flip(a + at, load_line(b + at) & mask); });
  return 0;
}

std::uint64_t copy(std::byte* const* regions, std::size_t groups, std::uint64_t bits) {
  const std::byte* const a = regions[0];
  std::byte* const b = regions[1];
  each_line(groups, [=, flipped = line_of(bits)](std::size_t at) {
    store_lanes(b + at, load_line(a + at) ^ flipped);
  });
  return 0;
}

/// p = line(offset) past the caches. Where p is not aligned, the first line and the last are plain
/// stores, which overlap the others.
template <class F>
[[gnu::always_inline]] inline void stream_lines(std::byte* p, std::size_t groups, F line) {
  const std::size_t end = groups * memory_group - line_bytes;
  const std::size_t past = reinterpret_cast<std::uintptr_t>(p) % line_bytes;
  if (past != 0) {
    store_lanes(p, line(0));
    store_lanes(p + end, line(end));
  }
  for (std::size_t at = past == 0 ? 0 : line_bytes - past; at <= end; at += line_bytes)
    store_lanes(p + at, line(at), StreamingStore{});
  end_streaming();
}

std::uint64_t stream(std::byte* const* regions, std::size_t groups, std::uint64_t bits) {
  const std::byte* const a = regions[0];
  stream_lines(regions[1], groups, [=, flipped = line_of(bits)](std::size_t at) {
    return load_line(a + at) ^ flipped;
  });
  return 0;
}

/// Not zeros, which a Zen 4 writes three times as fast; 0x3f3f is a normal number in every dtype.
std::uint64_t write(std::byte* const* regions, std::size_t groups, std::uint64_t bits) {
  const Line value = line_of(bits ^ 0x3f3f3f3f3f3f3f3f);
  stream_lines(regions[1], groups, [=](std::size_t) { return value; });
  return 0;
}

/// The step of an optimizer with that number of states, of `StateLines` lines for a group.
template <int States, int StateLines>
std::uint64_t step(std::byte* const* regions, std::size_t groups, std::uint64_t bits) {
  const std::byte* const a = regions[0];
  std::byte* const b = regions[1];
  std::byte* const c = regions[2];
  [[maybe_unused]] std::byte* const d = regions[3];
  const Line flipped = line_of(bits);
  for (std::size_t i = 0; i < groups; ++i) {
    unroll<group_lines>([&](int k) {
      const std::size_t at = (i * group_lines + static_cast<std::size_t>(k)) * line_bytes;
      flip(b + at, load_line(a + at) & flipped);
    });
    unroll<StateLines>([&](int k) {
      const std::size_t at = (i * StateLines + static_cast<std::size_t>(k)) * line_bytes;
      flip(c + at, flipped);
      if constexpr (States == 2) flip(d + at, flipped);
    });
  }
  return 0;
}

}  // namespace

extern constinit const RoofTable roof;
constinit const RoofTable roof = {
    {&read, &rewrite, &add, &copy, &stream, &write, &step<1, group_lines>, &step<2, group_lines>,
     &step<2, 2 * group_lines>, &step<2, group_lines / 2>, &step<2, group_lines / 4>}};

}  // namespace ridgeline::RIDGELINE_TARGET
