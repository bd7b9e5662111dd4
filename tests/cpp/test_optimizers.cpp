// Optimizer steps through the C++ interface: what Python cannot see.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "doctest/doctest.h"
#include "random.hpp"
#include "ridgeline/optimizers.hpp"
#include "ridgeline/runtime.hpp"

namespace {

using namespace ridgeline;
using test::Random;

constexpr double infinity = std::numeric_limits<double>::infinity();

std::vector<float> numbers(std::size_t n, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> values(n);
  for (float& x : values)
    x = static_cast<float>(random.integer(-1000, 1000)) * 0.001f;
  return values;
}

struct Adam {
  StepOptions options;
  OptimizerGroup group;
  OptimizerParameter state;
  std::vector<float> first, second;

  explicit Adam(std::size_t n) : first(n), second(n) {
    options.kind = OptimizerKind::adam;
    group.lr = 0.01;
    group.beta1 = 0.9;
    group.beta2 = 0.999;
    group.eps = 1e-8;
    state.states[0] = first.data();
    state.states[1] = second.data();
  }
  StepReport step(std::vector<float>& w, const std::vector<float>& g) {
    const Array params(w.data(), static_cast<std::int64_t>(w.size()));
    const Array grads(g.data(), static_cast<std::int64_t>(g.size()));
    return optimizer_step(options, {&group, 1}, {&state, 1}, {&params, 1}, {&grads, 1});
  }
};

}  // namespace

TEST_CASE("a step is Adam's formula, and gradients are only read") {
  constexpr std::size_t n = 10007;
  auto w = numbers(n, 1);
  const auto start = w;
  const auto g = numbers(n, 2);
  const auto kept = g;
  Adam adam(n);
  adam.step(w, g);
  CHECK(adam.state.steps == 1);
  for (std::size_t i = 0; i < n; ++i) {
    // At the first step m / (1 - b1) = g and sqrt(v / (1 - b2)) = |g|.
    const double wanted = start[i] - 0.01 * g[i] / (std::abs(double{g[i]}) + 1e-8);
    CHECK(std::abs(w[i] - wanted) < 2e-7);
  }
  CHECK(std::memcmp(g.data(), kept.data(), n * sizeof(float)) == 0);
}

TEST_CASE("any number of threads gives the same bits, report included") {
  constexpr std::size_t n = 300001;
  const auto g = numbers(n, 3);
  const Penalty penalty{PenaltyKind::l1, 0.01};
  std::vector<float> expected;
  StepReport report;
  for (const int threads : {1, 2, 3, 7}) {
    auto w = numbers(n, 4);
    Adam adam(n);
    adam.options.threads = threads;
    adam.options.clip = StepOptions::Clip::global_norm;
    adam.options.max_norm = 1;
    adam.options.max_update_rms = 0.5;
    adam.group.penalties = {&penalty, 1};
    adam.group.prox = Prox::plain;
    const StepReport own = adam.step(w, g);
    if (threads == 1) {
      expected = w;
      report = own;
    }
    CHECK(std::memcmp(w.data(), expected.data(), n * sizeof(float)) == 0);
    CHECK(own.norm == report.norm);
    CHECK(own.penalty == report.penalty);
    CHECK(own.factors == report.factors);
  }
}

TEST_CASE("a gradient that is not finite") {
  constexpr std::size_t n = 5000;
  const auto start = numbers(n, 5);
  auto w = start;
  auto g = numbers(n, 6);
  g[4321] = std::numeric_limits<float>::quiet_NaN();
  Adam adam(n);
  adam.options.on_nonfinite = NonFinite::skip;
  const StepReport report = adam.step(w, g);
  CHECK(report.skipped);
  CHECK(report.first_nonfinite == 0);
  CHECK(!report.norm);
  adam.options.on_nonfinite = NonFinite::raise;
  CHECK_THROWS_AS(adam.step(w, g), NonFiniteError);
  CHECK(w == start);
  CHECK(adam.state.steps == 0);
  CHECK(adam.second == std::vector<float>(n));
}

TEST_CASE("bad numbers throw before anything is written") {
  constexpr std::size_t n = 100;
  const auto start = numbers(n, 7);
  auto w = start;
  const auto g = numbers(n, 8);
  const auto fails = [&](auto change) {
    Adam adam(n);
    change(adam);
    CHECK_THROWS_AS(adam.step(w, g), ArgumentError);
    CHECK(w == start);
    CHECK(adam.first == std::vector<float>(n));
  };
  fails([](Adam& a) { a.group.lr = -1; });
  fails([](Adam& a) { a.group.lr = infinity; });
  fails([](Adam& a) { a.group.weight_decay = -0.1; });
  fails([](Adam& a) { a.group.box = {1, 0}; });
  fails([](Adam& a) { a.options.scale = -1; });
  fails([](Adam& a) { a.options.max_update_rms = -1; });
  fails([](Adam& a) {
    a.options.clip = StepOptions::Clip::norm;
    a.options.max_norm = -1;
  });
  fails([](Adam& a) {
    static const Penalty mcp{PenaltyKind::mcp, 1, 0.001};
    a.group.penalties = {&mcp, 1};
    a.group.prox = Prox::plain;
  });
  fails([](Adam& a) {
    static const Penalty l0{PenaltyKind::l0, 1};
    a.group.penalties = {&l0, 1};
  });
  Adam adam(n);
  const Array params(w.data(), n);
  CHECK_THROWS_AS(
      optimizer_step(adam.options, {&adam.group, 1}, {&adam.state, 1}, {&params, 1}, {&params, 1}),
      ArgumentError);
}

TEST_CASE("8-bit states: every code is the code of its value, and a square never becomes 0") {
  for (const bool squares : {false, true}) {
    std::vector<std::uint8_t> codes(256);
    for (std::size_t i = 0; i < 256; ++i)
      codes[i] = static_cast<std::uint8_t>(i);
    std::vector<float> values(256);
    float scale = 3.5f;
    decode_states(codes.data(), &scale, squares, Array(values.data(), 256));
    CHECK(values[255] == 3.5f);
    CHECK(values[squares ? 0 : 127] == 0.0f);
    std::vector<std::uint8_t> again(256);
    float found = 0;
    encode_states(Array(values.data(), 256), squares, again.data(), &found);
    CHECK(found == 3.5f);
    CHECK(again == codes);
  }
  std::vector<float> x = {1, 1e-30f, 1e-44f, 0};
  std::vector<std::uint8_t> codes(4);
  float scale = 0;
  encode_states(Array(x.data(), 4), true, codes.data(), &scale);
  CHECK(codes == std::vector<std::uint8_t>{255, 1, 1, 0});
}

TEST_CASE("8-bit states of blocks that have no inverse") {
  for (const float largest : {0.0f, 1e-40f, std::numeric_limits<float>::infinity(),
                              std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> x(300, largest * 0.25f);
    x[7] = largest;
    std::vector<std::uint8_t> codes(300);
    std::vector<float> scales(2);
    encode_states(Array(x.data(), 300), false, codes.data(), scales.data());
    std::vector<float> back(300);
    decode_states(codes.data(), scales.data(), false, Array(back.data(), 300));
    for (std::size_t i = 0; i < 256; ++i) {
      if (std::isnan(largest)) CHECK(std::isnan(back[i]));
      if (std::isinf(largest)) CHECK(std::isfinite(back[i]));
      if (std::isfinite(largest)) CHECK(std::abs(back[i]) <= 1e-40f);
    }
  }
}
