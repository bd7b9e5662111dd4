#include "roof.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>

#include <benchmark/benchmark.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define BEST_INSTRUCTIONS [[gnu::target_clones("avx512f", "avx2", "default")]]
#else
#define BEST_INSTRUCTIONS
#endif

namespace ridgeline::bench {
namespace {

using Line [[gnu::vector_size(64)]] = std::uint64_t;
constexpr std::size_t lines_at_once = 4;

/// Nothing, but the compiler cannot know.
volatile std::uint64_t no_bits = 0;

BEST_INSTRUCTIONS void read_lines(const Line* a, std::size_t n) {
  Line seen[lines_at_once] = {};
  for (std::size_t i = 0; i < n; i += lines_at_once) {
    for (std::size_t k = 0; k < lines_at_once; ++k)
      seen[k] |= a[i + k];
  }
  Line all = seen[0] | seen[1] | seen[2] | seen[3];
  benchmark::DoNotOptimize(all);
}

BEST_INSTRUCTIONS void rewrite_lines(Line* a, std::size_t n, std::uint64_t bits) {
  for (std::size_t i = 0; i < n; i += lines_at_once) {
    for (std::size_t k = 0; k < lines_at_once; ++k)
      a[i + k] ^= bits;
  }
}

BEST_INSTRUCTIONS void add_lines(Line* a, const Line* b, std::size_t n, std::uint64_t bits) {
  for (std::size_t i = 0; i < n; i += lines_at_once) {
    for (std::size_t k = 0; k < lines_at_once; ++k)
      a[i + k] ^= b[i + k] & bits;
  }
}

BEST_INSTRUCTIONS void copy_lines(const Line* a, Line* b, std::size_t n, std::uint64_t bits) {
  for (std::size_t i = 0; i < n; i += lines_at_once) {
    for (std::size_t k = 0; k < lines_at_once; ++k)
      b[i + k] = a[i + k] ^ bits;  // not memcpy, which chooses its stores by size
  }
}

void stream_lines(const Line* a, Line* b, std::size_t n) {
#if defined(__x86_64__)
  constexpr std::size_t words = sizeof(Line) / sizeof(__m128i);
  const auto* from = reinterpret_cast<const __m128i*>(a);
  auto* to = reinterpret_cast<__m128i*>(b);
  for (std::size_t i = 0; i < n * words; i += words) {
    for (std::size_t k = 0; k < words; ++k)
      _mm_stream_si128(to + i + k, _mm_load_si128(from + i + k));
  }
  _mm_sfence();
#else
  copy_lines(a, b, n, no_bits);
#endif
}

void write_lines(Line* b, std::size_t n) {
#if defined(__x86_64__)
  constexpr std::size_t words = sizeof(Line) / sizeof(__m128i);
  auto* to = reinterpret_cast<__m128i*>(b);
  for (std::size_t i = 0; i < n * words; ++i)
    _mm_stream_si128(to + i, _mm_setzero_si128());
  _mm_sfence();
#else
  for (std::size_t i = 0; i < n; ++i)
    b[i] = Line{};
#endif
}

/// `Wide` lines of each state to `lines_at_once` lines of the others.
template <std::size_t Wide, std::size_t States>
[[gnu::always_inline]] inline void step_groups(const Line* a, Line* b, Line* c, Line* d,
                                               std::size_t groups, std::uint64_t bits) {
  for (std::size_t i = 0; i < groups; ++i) {
    for (std::size_t k = i * lines_at_once; k < (i + 1) * lines_at_once; ++k)
      b[k] ^= a[k] & bits;
    for (std::size_t k = i * Wide; k < (i + 1) * Wide; ++k) {
      c[k] ^= bits;
      if constexpr (States == 2) d[k] ^= bits;
    }
  }
}

BEST_INSTRUCTIONS void momentum_lines(const Line* a, Line* b, Line* c, std::size_t n,
                                      std::uint64_t bits) {
  step_groups<lines_at_once, 1>(a, b, c, nullptr, n, bits);
}

BEST_INSTRUCTIONS void adam_lines(const Line* a, Line* b, Line* c, Line* d, std::size_t n,
                                  std::uint64_t bits) {
  step_groups<lines_at_once, 2>(a, b, c, d, n, bits);
}

BEST_INSTRUCTIONS void adam_wide_lines(const Line* a, Line* b, Line* c, Line* d, std::size_t n,
                                       std::uint64_t bits) {
  step_groups<2 * lines_at_once, 2>(a, b, c, d, n, bits);
}

BEST_INSTRUCTIONS void adam_narrow_lines(const Line* a, Line* b, Line* c, Line* d, std::size_t n,
                                         std::uint64_t bits) {
  step_groups<lines_at_once / 2, 2>(a, b, c, d, n, bits);
}

BEST_INSTRUCTIONS void adam_bytes_lines(const Line* a, Line* b, Line* c, Line* d, std::size_t n,
                                        std::uint64_t bits) {
  step_groups<lines_at_once / 4, 2>(a, b, c, d, n, bits);
}

/// Lines of c and d to `lines_at_once` lines of a.
std::size_t state_lines(Pattern pattern) {
  return pattern == Pattern::adam_wide     ? 2 * lines_at_once
         : pattern == Pattern::adam_narrow ? lines_at_once / 2
         : pattern == Pattern::adam_bytes  ? lines_at_once / 4
                                           : lines_at_once;
}

/// Over the groups [begin, end) of `lines_at_once` lines of a.
void pass(Pattern pattern, const Regions& arrays, std::size_t begin, std::size_t end) {
  const auto line = [&](std::size_t array, std::size_t lines) {
    return reinterpret_cast<Line*>(arrays[array]) + begin * lines;
  };
  const std::size_t groups = end - begin;
  const std::size_t n = groups * lines_at_once;
  Line* const a = line(0, lines_at_once);
  Line* const b = line(1, lines_at_once);
  Line* const c = line(2, state_lines(pattern));
  Line* const d = line(3, state_lines(pattern));
  switch (pattern) {
  case Pattern::read:
    return read_lines(a, n);
  case Pattern::rewrite:
    return rewrite_lines(a, n, no_bits);
  case Pattern::add:
    return add_lines(a, b, n, no_bits);
  case Pattern::copy:
    return copy_lines(a, b, n, no_bits);
  case Pattern::stream:
    return stream_lines(a, b, n);
  case Pattern::write:
    return write_lines(b, n);
  case Pattern::momentum:
    return momentum_lines(a, b, c, groups, no_bits);
  case Pattern::adam:
    return adam_lines(a, b, c, d, groups, no_bits);
  case Pattern::adam_wide:
    return adam_wide_lines(a, b, c, d, groups, no_bits);
  case Pattern::adam_narrow:
    return adam_narrow_lines(a, b, c, d, groups, no_bits);
  case Pattern::adam_bytes:
    return adam_bytes_lines(a, b, c, d, groups, no_bits);
  }
}

void pass_of_team(Pattern pattern, const Regions& arrays, std::size_t bytes, int threads) {
  const std::size_t groups = bytes / (sizeof(Line) * lines_at_once);
  if (threads == 1) return pass(pattern, arrays, 0, groups);
  const auto team = static_cast<std::size_t>(threads);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (std::size_t t = 0; t < team; ++t)
    pass(pattern, arrays, groups * t / team, groups * (t + 1) / team);
}

}  // namespace

const char* name_of(Pattern pattern) {
  constexpr const char* names[pattern_count] = {"read",      "rewrite",     "add",       "copy",
                                                "stream",    "write",       "momentum",  "adam",
                                                "adam_wide", "adam_narrow", "adam_bytes"};
  return names[static_cast<int>(pattern)];
}

void time_passes(Pattern pattern, const Regions& arrays, std::size_t bytes, int threads,
                 std::vector<double>& seconds) {
  using Clock = std::chrono::steady_clock;
  constexpr double wanted = 10e-3;
  constexpr double shortest_sample = 200e-6;
  const auto time = [&](std::size_t passes) {
    const auto start = Clock::now();
    for (std::size_t i = 0; i < passes; ++i)
      pass_of_team(pattern, arrays, bytes, threads);
    return std::chrono::duration<double>(Clock::now() - start).count() /
           static_cast<double>(passes);
  };
  const double first = std::max(time(1), 1e-9);  // not counted: faults, caches, sleeping threads
  const double guess = std::max(first < shortest_sample ? time(3) : first, 1e-9);
  const std::size_t passes = static_cast<std::size_t>(shortest_sample / guess) + 1;
  double spent = 0;
  for (int runs = 0; runs < 3 || spent < wanted; ++runs) {
    seconds.push_back(time(passes));
    spent += seconds.back() * static_cast<double>(passes);
  }
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

}  // namespace ridgeline::bench
