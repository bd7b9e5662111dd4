// Random numbers that are the same on every machine and with every standard library.
#pragma once

#include <bit>
#include <cstdint>

namespace ridgeline::test {

/// SplitMix64 (Steele, Lea and Flood 2014).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  /// From [low, high].
  std::int64_t integer(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(bits() % (static_cast<std::uint64_t>(high - low) + 1));
  }
  /// From [0, 1).
  double unit() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  double uniform(double low, double high) { return low + (high - low) * unit(); }
  /// Either sign, a random significand, an exponent from [low, high].
  double number(int low, int high) {
    const auto exponent = static_cast<std::uint64_t>(1023 + integer(low, high));
    const std::uint64_t rest = bits();
    return std::bit_cast<double>((rest & 0x800fffffffffffff) | (exponent << 52));
  }

 private:
  std::uint64_t state_;
};

}  // namespace ridgeline::test
