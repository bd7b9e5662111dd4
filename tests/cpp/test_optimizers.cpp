// Optimizer steps through the C++ interface: what Python cannot see.
#include <algorithm>
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
  fails([](Adam& a) {
    a.options.kind = OptimizerKind::schedule_free_adamw;
    a.group.beta1 = 0;
  });
  fails([](Adam& a) {
    a.options.kind = OptimizerKind::schedule_free_adamw;
    a.group.box = {0, 1};
  });
  fails([](Adam& a) {
    static const Penalty l1{PenaltyKind::l1, 1};
    a.options.kind = OptimizerKind::schedule_free_adamw;
    a.group.penalties = {&l1, 1};
    a.group.prox = Prox::plain;
  });
  fails([](Adam& a) {
    a.options.kind = OptimizerKind::schedule_free_adamw;
    a.options.cautious = true;
  });
  fails([](Adam& a) {
    a.options.kind = OptimizerKind::ftrl;
    a.options.cautious = true;
  });
  Adam adam(n);
  const Array params(w.data(), n);
  CHECK_THROWS_AS(
      optimizer_step(adam.options, {&adam.group, 1}, {&adam.state, 1}, {&params, 1}, {&params, 1}),
      ArgumentError);
}

namespace {

/// A rule in float64 on one array, beside which a test computes its formula element by element.
struct Rule {
  StepOptions options;
  OptimizerGroup group;
  OptimizerParameter state;
  std::vector<double> w, states[max_states];

  Rule(OptimizerKind kind, std::size_t n) : w(wide(n, 1)) {
    options.kind = kind;
    group.lr = 0.02;
    group.beta1 = 0.9;
    group.beta2 = 0.98;
    group.eps = 1e-6;
    group.momentum = 0.8;
    for (int j = 0; j < max_states; ++j) {
      states[j].resize(n);
      state.states[j] = states[j].data();
    }
  }
  static std::vector<double> wide(std::size_t n, std::uint64_t seed) {
    const auto narrow = numbers(n, seed);
    return {narrow.begin(), narrow.end()};
  }
  Array params() { return {w.data(), static_cast<std::int64_t>(w.size())}; }
  StepReport step(const std::vector<double>& g) {
    const Array array = params();
    const Array grads(g.data(), static_cast<std::int64_t>(g.size()));
    return optimizer_step(options, {&group, 1}, {&state, 1}, {&array, 1}, {&grads, 1});
  }
  void move(WeightsAt to) {
    const Array array = params();
    move_weights(to, options, {&group, 1}, {&state, 1}, {&array, 1});
  }
};

void check_close(const std::vector<double>& got, const std::vector<double>& wanted) {
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i)
    worst = std::max(worst, std::abs(got[i] - wanted[i]) / (1 + std::abs(wanted[i])));
  CHECK(worst < 1e-13);
}

}  // namespace

TEST_CASE("AdEMAMix is its formula, with both warmups") {
  constexpr std::size_t n = 1001;
  Rule rule(OptimizerKind::ademamix, n);
  OptimizerGroup& group = rule.group;
  group.weight_decay = 0.1;
  group.alpha = 5;
  group.beta3 = 0.999;
  group.alpha_warmup = 4;
  group.beta3_warmup = 3;
  auto w = rule.w;
  std::vector<double> fast(n), slow(n), square(n);
  for (int k = 1; k <= 6; ++k) {
    const auto g = Rule::wide(n, 10 + static_cast<std::uint64_t>(k));
    rule.step(g);
    const double alpha = 5 * std::min(k / 4.0, 1.0);
    const double part = std::min(k / 3.0, 1.0);
    const double b1 = std::log(0.9);
    const double b3 = std::log(0.999);
    const double beta3 = std::exp(b1 * b3 / ((1 - part) * b3 + part * b1));  // the paper's form
    for (std::size_t i = 0; i < n; ++i) {
      fast[i] = 0.9 * fast[i] + (1 - 0.9) * g[i];
      slow[i] = beta3 * slow[i] + (1 - beta3) * g[i];
      square[i] = 0.98 * square[i] + (1 - 0.98) * g[i] * g[i];
      const double root = std::sqrt(square[i] / (1 - std::pow(0.98, k))) + 1e-6;
      const double update = (fast[i] / (1 - std::pow(0.9, k)) + alpha * slow[i]) / root;
      w[i] -= 0.02 * (update + 0.1 * w[i]);
    }
    check_close(rule.w, w);
    check_close(rule.states[1], slow);
  }
}

TEST_CASE("schedule-free rules are their formula, and their weights move to the mean and back") {
  constexpr std::size_t n = 1001;
  for (const bool adaptive : {false, true}) {
    CAPTURE(adaptive);
    Rule rule(adaptive ? OptimizerKind::schedule_free_adamw : OptimizerKind::schedule_free_sgd, n);
    OptimizerGroup& group = rule.group;
    group.weight_decay = 0.1;
    group.warmup_steps = 3;
    group.r = 0.5;
    const double beta = adaptive ? 0.9 : 0.8;
    rule.states[0] = rule.w;
    rule.state.states[0] = rule.states[0].data();
    auto x = rule.w;
    auto y = rule.w;
    auto z = rule.w;
    std::vector<double> square(n);
    double sum = 0;
    double largest = 0;
    for (int k = 1; k <= 6; ++k) {
      if (k == 5) group.lr = 0.005;  // the largest so far stays
      const auto g = Rule::wide(n, 20 + static_cast<std::uint64_t>(k));
      rule.step(g);
      const double rate = group.lr * std::min(k / 3.0, 1.0);
      largest = std::max(largest, rate);
      const double weight = std::pow(k, 0.5) * largest * largest;
      sum += weight;
      for (std::size_t i = 0; i < n; ++i) {
        double direction = g[i];
        if (adaptive) {
          square[i] = 0.98 * square[i] + (1 - 0.98) * g[i] * g[i];
          direction /= std::sqrt(square[i] / (1 - std::pow(0.98, k))) + 1e-6;
        }
        direction += 0.1 * y[i];
        z[i] -= rate * direction;
        x[i] += weight / sum * (z[i] - x[i]);
        y[i] = (1 - beta) * z[i] + beta * x[i];
      }
      check_close(rule.w, y);
      check_close(rule.states[0], z);
      CHECK(rule.state.largest_rate == largest);
      rule.move(WeightsAt::evaluation);
      check_close(rule.w, x);
      check_close(rule.states[0], z);
      rule.move(WeightsAt::training);
      check_close(rule.w, y);
      CHECK(rule.state.steps == k);
    }
  }
}

TEST_CASE("weights of schedule-free rules move in any dtype, with what is stored beside them") {
  constexpr std::size_t n = 3000;
  std::vector<std::uint16_t> w(n, 0x3f80);  // 1 in bfloat16
  std::vector<float> master(n, 1), z(n, 3);
  std::vector<std::uint64_t> mask(n / 64 + 1, 0xffffffff00000000);
  Rule rule(OptimizerKind::schedule_free_sgd, 1);
  rule.state.states[0] = z.data();
  rule.state.master = master.data();
  rule.state.mask = mask.data();
  const Array params(w.data(), DType::bfloat16, n);
  move_weights(WeightsAt::evaluation, rule.options, {&rule.group, 1}, {&rule.state, 1},
               {&params, 1});
  CHECK(master[31] == 1);  // masked
  CHECK(master[32] == doctest::Approx(0.5));
  CHECK(w[31] == 0x3f80);
  CHECK(w[2999] == 0x3f00);
  CHECK(z[32] == 3);
  Adam adam(1);
  CHECK_THROWS_AS(move_weights(WeightsAt::training, adam.options, {&adam.group, 1}, {}, {}),
                  ArgumentError);
}

TEST_CASE("a cautious step leaves out what goes with its gradient, and scales the rest") {
  constexpr std::size_t n = 5003;
  for (const bool masked : {false, true}) {
    CAPTURE(masked);
    Rule rule(OptimizerKind::momentum, n);
    rule.group.weight_decay = 0.1;
    rule.options.cautious = true;
    std::vector<std::uint64_t> mask(n / 64 + 1, 0x00ff00ff00ff00ff);
    if (masked) rule.state.mask = mask.data();
    const auto there = [&](std::size_t i) { return !masked || (mask[i / 64] >> i % 64 & 1) != 0; };
    auto w = rule.w;
    std::vector<double> m(n);
    for (std::uint64_t k = 1; k <= 4; ++k) {
      const auto g = Rule::wide(n, 30 + k);
      rule.step(g);
      double all = 0;
      double agreed = 0;
      for (std::size_t i = 0; i < n; ++i) {
        if (!there(i)) continue;
        m[i] = 0.8 * m[i] + g[i];
        ++all;
        agreed += m[i] * g[i] > 0 ? 1 : 0;
      }
      for (std::size_t i = 0; i < n; ++i) {
        if (!there(i)) continue;
        const double update = m[i] * g[i] > 0 ? 0.02 * m[i] / (agreed / all) : 0;
        w[i] = w[i] * (1 - 0.02 * 0.1) - update;
      }
      check_close(rule.w, w);
      check_close(rule.states[0], m);
    }
  }
  // NaN is not hidden, and a limit on the update is of what is left of it.
  Rule rule(OptimizerKind::momentum, 2);
  rule.options.cautious = true;
  rule.options.max_update_rms = 0.5;
  rule.w = {1, 1};
  rule.step({-4, std::numeric_limits<double>::quiet_NaN()});
  CHECK(std::isnan(rule.w[1]));
  Rule limited(OptimizerKind::momentum, 2);
  limited.options.cautious = true;
  limited.options.max_update_rms = 0.5;
  limited.w = {1, 1};
  limited.states[0] = {0, 5};
  limited.state.states[0] = limited.states[0].data();
  limited.step({-4, -1});  // updates by lr times (4, -3): the second goes with its gradient
  CHECK(limited.w[0] == doctest::Approx(1 + 0.02 * 0.5 * std::sqrt(2.0)));
  CHECK(limited.w[1] == 1);
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
