// What Python cannot see of dropout and random numbers: teams, pieces, and room for results.
#include <cstring>
#include <vector>

#include "doctest/doctest.h"
#include "ops/choices.hpp"
#include "ridgeline/dropout.hpp"
#include "ridgeline/runtime.hpp"
#include "runtime/dispatch.hpp"

namespace {

using namespace ridgeline;

constexpr Key key{0x0123456789abcdef};

std::vector<std::uint64_t> kept_bits(std::int64_t n, double p, const Numbering& numbering,
                                     int threads = 1) {
  std::vector<std::uint64_t> bits(static_cast<std::size_t>(n + 63) / 64);
  random_keep(bits, n, p, key, numbering, threads);
  return bits;
}

bool bit(const std::vector<std::uint64_t>& bits, std::int64_t i) {
  return (bits[static_cast<std::size_t>(i) / 64] >> i % 64 & 1) != 0;
}

bool bit(KeepBits kept, std::int64_t i) {
  const std::size_t place = kept.at + static_cast<std::size_t>(i);
  return (kept.bits[place / 64] >> place % 64 & 1) != 0;
}

TEST_CASE("any team and any piece gives the same choices") {
  constexpr std::int64_t n = 1'000'003;
  const auto whole = kept_bits(n, 0.3, Numbering(5));
  for (const int threads : {2, 3, 7})
    CHECK(kept_bits(n, 0.3, Numbering(5), threads) == whole);
  for (const std::int64_t begin : {1, 63, 64, 255, 256, 4095, 4097}) {
    const auto part = kept_bits(10'000, 0.3, Numbering(5 + begin));
    for (std::int64_t i = 0; i < 10'000; ++i)
      CHECK(bit(part, i) == bit(whole, begin + i));
  }
}

TEST_CASE("what is drawn ahead is what is asked for") {
  const Numbering numbering(77);
  Choices one(*tables().random, key, 0.3, numbering);
  Choices other(*tables().random, key, 0.3, numbering);
  std::int64_t begin = 0;
  for (const std::int64_t n : {4096, 100, 4096, 1, 4095, 4096}) {
    const KeepBits plain = one.of(begin, n);
    const DrawRequest draw = other.ahead(begin, n);
    tables().random->choose(draw);
    const KeepBits ahead = other.of(begin, n);
    CHECK(ahead.bits == draw.bits);
    for (std::int64_t i = 0; i < n; ++i)
      CHECK(bit(ahead, i) == bit(plain, i));
    begin += n;
  }
}

TEST_CASE("dropout of many sizes and places in memory, on every target and any team") {
  std::vector<float> x(3 << 20);
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = static_cast<float>(i + 1);
  std::vector<float> y(x.size());
  const auto bits = kept_bits(static_cast<std::int64_t>(x.size()), 0.3, {});
  for (const std::string& target : targets()) {
    CAPTURE(target);
    use_target(target);
    for (const std::int64_t n : {1, 63, 64, 65, 4096, 5000, 3 << 20}) {
      CAPTURE(n);
      for (const std::size_t place : {0u, 1u, 15u}) {
        for (const int threads : {1, 3}) {
          const std::int64_t m = n - (n == 3 << 20 ? 15 : 0);
          std::memset(y.data(), 0xff, y.size() * sizeof(float));
          dropout_scaled({x.data(), m}, {y.data() + place, m}, 0.3, key, 2, {}, threads);
          std::int64_t wrong = 0;
          for (std::int64_t i = 0; i < m; ++i) {
            const auto k = static_cast<std::size_t>(i);
            wrong += y[k + place] != (bit(bits, i) ? 2 * x[k] : 0.0f) ? 1 : 0;
          }
          CHECK(wrong == 0);
        }
      }
    }
  }
  use_target(targets().front());
}

TEST_CASE("errors before the first write") {
  std::vector<std::uint64_t> bits(1);
  CHECK_THROWS_AS(random_keep(bits, 65, 0.5, key), ArgumentError);
  CHECK_THROWS_AS(random_keep(bits, 64, 1.5, key), ArgumentError);
  std::vector<float> x(130, 1.0f);
  CHECK_THROWS_AS(dropout({x.data(), 100}, {x.data() + 1, 100}, 0.5, key), ArgumentError);
  CHECK_THROWS_AS(dropout({x.data(), 100}, {x.data(), 99}, 0.5, key), ArgumentError);
  for (const float value : x)
    CHECK(value == 1.0f);
}

}  // namespace
