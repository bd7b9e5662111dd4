// The operations: the same bits for any team, and errors before the first write.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "doctest/doctest.h"
#include "random.hpp"
#include "ridgeline/clipping.hpp"
#include "ridgeline/penalties.hpp"
#include "ridgeline/runtime.hpp"

namespace {

using namespace ridgeline;
using test::Random;

constexpr double inf = std::numeric_limits<double>::infinity();
constexpr DType dtypes[] = {DType::float32, DType::float64, DType::bfloat16, DType::float16};

/// Memory for arrays of one dtype, some of them strided, at odd addresses.
class Tensors {
 public:
  Tensors(DType dtype, std::uint64_t seed) {
    Random random(seed);
    const auto item = static_cast<std::int64_t>(item_size(dtype));
    const std::int64_t rows[] = {100, 1, 333, 64, 0, 3};
    const std::int64_t columns[] = {777, 100003, 256, 64, 5, 1};
    for (std::size_t k = 0; k < std::size(rows); ++k) {
      const std::int64_t n = rows[k] * columns[k];
      memory_.emplace_back(static_cast<std::size_t>(2 * n * item + 16));
      std::vector<std::byte>& bytes = memory_.back();
      for (std::size_t i = 0; i + 9 <= bytes.size(); i += static_cast<std::size_t>(item))
        write(bytes.data() + 1 + i, random.number(-8, 3), dtype);
      const std::int64_t shape[] = {rows[k], columns[k]};
      const std::int64_t by_row[] = {columns[k] * item, item};
      const std::int64_t by_column[] = {item, rows[k] * item};
      const std::int64_t every_second[] = {2 * columns[k] * item, 2 * item};
      const std::int64_t* strides = k % 3 == 0 ? by_row : k % 3 == 1 ? every_second : by_column;
      arrays_.emplace_back(bytes.data() + 1, dtype, shape, std::span(strides, 2));
    }
  }

  operator Arrays() const { return arrays_; }
  std::vector<Array>& arrays() { return arrays_; }
  bool operator==(const Tensors& other) const { return memory_ == other.memory_; }

 private:
  static void write(std::byte* to, double x, DType dtype) {
    const auto single = static_cast<float>(x);
    const auto upper = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(single) >> 16);
    switch (dtype) {
    case DType::float64:
      std::memcpy(to, &x, 8);
      break;
    case DType::float32:
      std::memcpy(to, &single, 4);
      break;
    default:  // as a float16 its exponent is in the middle of the range too
      std::memcpy(to, &upper, 2);
    }
  }

  std::vector<std::vector<std::byte>> memory_;
  std::vector<Array> arrays_;
};

std::vector<std::vector<Penalty>> penalties(Arrays weights) {
  const Penalty l2{PenaltyKind::l2, 0.2};
  const Penalty adaptive{PenaltyKind::weighted_l1, 0.1, 0, weights};
  std::vector<std::vector<Penalty>> all = {{l2, adaptive, l2}};
  for (std::size_t i = 0; i < penalty_kind_count; ++i) {
    const PenaltyInfo& info = penalty_list[i];
    all.push_back(
        {{static_cast<PenaltyKind>(i), 0.5, info.usual, info.weighted() ? weights : Arrays()}});
  }
  return all;
}

bool same(double a, double b) {
  return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b) || (a != a && b != b);
}

void check_error(const std::function<void()>& call, const std::string& text,
                 ArgumentError::Kind kind) {
  CAPTURE(text);
  try {
    call();
    FAIL_CHECK("no error");
  } catch (const ArgumentError& error) {
    CHECK(std::string(error.what()) == text);
    CHECK(error.kind == kind);
  }
}
constexpr auto value = ArgumentError::Kind::value;
constexpr auto type = ArgumentError::Kind::type;

}  // namespace

TEST_CASE("any number of threads gives the same bits") {
  for (const DType dtype : dtypes) {
    CAPTURE(name_of(dtype));
    const auto all = [&](int threads) {
      std::vector<double> numbers;
      std::vector<Tensors> written;
      const Tensors params(dtype, 1);
      Tensors weights(dtype, 2);
      clip_by_value(weights, 0, inf, threads);
      for (const std::vector<Penalty>& p : penalties(weights)) {
        numbers.push_back(penalty_value(p, params, threads));
        Tensors out(dtype, 3);
        if (info_of(p[0].kind).differentiable())
          numbers.push_back(add_penalty_gradient(p, out, params, threads));
        written.push_back(std::move(out));
        Tensors moved(dtype, 3);
        penalty_prox(p, moved, params, 0.4, threads);
        written.push_back(std::move(moved));
        Tensors in_place(dtype, 3);
        penalty_prox(p, in_place, in_place, 0.4, threads);
        written.push_back(std::move(in_place));
      }
      for (const double ord : {1.0, 2.0, inf, 2.5, 0.5}) {
        numbers.push_back(global_norm(params, ord, threads));
        Tensors each(dtype, 4);
        std::vector<double> norms(each.arrays().size());
        clip_by_norm(each, 0.7, ord, norms, threads);
        numbers.insert(numbers.end(), norms.begin(), norms.end());
        written.push_back(std::move(each));
        Tensors joint(dtype, 4);
        numbers.push_back(clip_by_global_norm(joint, 0.7, ord, NonFinite::propagate, threads));
        written.push_back(std::move(joint));
      }
      Tensors largest(dtype, 5);
      zero_largest(largest, 3, threads);
      written.push_back(std::move(largest));
      return std::pair(std::move(numbers), std::move(written));
    };
    const auto expected = all(1);
    for (const int threads : {2, 3, 5, 16}) {
      CAPTURE(threads);
      const auto actual = all(threads);
      REQUIRE(actual.first.size() == expected.first.size());
      for (std::size_t i = 0; i < actual.first.size(); ++i)
        CHECK(same(actual.first[i], expected.first[i]));
      CHECK(actual.second == expected.second);
    }
  }
}

TEST_CASE("errors name the argument and come before the first write") {
  double data[8] = {3, -4, 5, 6, 7, 8, 9, 10};
  const double before[8] = {3, -4, 5, 6, 7, 8, 9, 10};
  float single[4] = {1, 2, 3, 4};
  const Array first(data, 4);
  const Array second(data + 4, 4);
  const Array inside(data + 2, 4);
  const Array short_one(data + 4, 3);
  const Array floats(single, 4);
  const std::int64_t shape[] = {4};
  const std::int64_t none[] = {0};
  const Array expanded(data + 4, DType::float64, shape, none);
  const auto list = [](auto... arrays) { return std::vector<Array>{arrays...}; };
  const auto both = list(first, second);
  const std::vector<Penalty> l1 = {{PenaltyKind::l1, 1}};
  const auto one = [](PenaltyKind kind, double strength, double shape_ = 1) {
    return std::vector<Penalty>{{kind, strength, shape_}};
  };
  std::vector<double> norms(2);

  const std::string overlap = "got memory that overlaps grads[0], wants arrays that do not overlap";
  const std::string repeated = "got the same memory as grads[0], wants arrays that do not overlap";
  const std::string shares =
      "got an array with elements that share memory (expanded or broadcast), wants one to write "
      "into; make a contiguous copy first";

  const std::vector<std::function<void(Arrays)>> writers = {
      [](Arrays g) { clip_by_value(g, -1, 1); },   [&](Arrays g) { clip_by_norm(g, 1, 2, norms); },
      [](Arrays g) { clip_by_global_norm(g, 1); }, [&](Arrays g) { clip_by_rms(g, 1, norms); },
      [](Arrays g) { zero_largest(g, 1); },
  };
  for (std::size_t w = 0; w < writers.size(); ++w) {
    CAPTURE(w);
    check_error([&] { writers[w](list(first, inside)); }, "grads[1]: " + overlap, value);
    check_error([&] { writers[w](list(first, first)); }, "grads[1]: " + repeated, value);
    check_error([&] { writers[w](list(first, expanded)); }, "grads[1]: " + shares, value);
  }

  check_error([&] { global_norm(both, 0); },
              "ord: got 0, wants 1, 2, inf or another number above 0", value);
  check_error([&] { global_norm(both, NAN); },
              "ord: got nan, wants 1, 2, inf or another number above 0", value);
  check_error([&] { clip_by_norm(both, -0.5, 2, norms); },
              "max_norm: got -0.5, wants a number of at least 0", value);
  check_error([&] { clip_by_global_norm(both, NAN); },
              "max_norm: got nan, wants a number of at least 0", value);
  check_error([&] { clip_by_rms(both, -1, norms); },
              "max_rms: got -1, wants a number of at least 0", value);
  check_error([&] { clip_by_value(both, NAN, 1); }, "low: got nan, wants a number", value);
  check_error([&] { clip_by_value(both, 0, NAN); }, "high: got nan, wants a number", value);
  check_error([&] { clip_by_value(both, 2, 1); }, "limit: got low = 2 above high = 1", value);
  check_error([&] { zero_largest(both, -1); }, "count: got -1, wants 0 or more", value);
  check_error([&] { zero_largest(list(first, short_one), 4); },
              "count: got 4, wants at most the 3 elements of grads[1]", value);

  check_error([&] { add_penalty_gradient(l1, list(first), both); },
              "grads: got 1 arrays, wants 2, as many as params", value);
  check_error([&] { add_penalty_gradient(l1, both, list(second, floats)); },
              "grads[1]: got dtype float64, wants float32 as in params", type);
  check_error([&] { add_penalty_gradient(l1, both, list(second, short_one)); },
              "grads[1]: got 4 elements, wants 3 as in params", value);
  check_error([&] { add_penalty_gradient(l1, list(first), list(first)); },
              "grads[0]: got the same memory as params[0], wants arrays that do not overlap",
              value);
  check_error([&] { add_penalty_gradient(l1, list(first), list(inside)); },
              "grads[0]: got memory that overlaps params[0], wants arrays that do not overlap",
              value);
  check_error([&] { add_penalty_gradient(one(PenaltyKind::l0, 1), list(first), list(second)); },
              "penalty: L0 has no gradient; use its proximal operator", type);
  check_error([&] { penalty_prox(l1, list(first), list(inside), 1); },
              "out[0]: got memory that overlaps params[0], wants arrays that do not overlap",
              value);
  check_error([&] { penalty_prox(l1, both, both, -1); },
              "step: got -1, wants a finite number of at least 0", value);
  check_error([&] { penalty_prox(l1, both, both, inf); },
              "step: got inf, wants a finite number of at least 0", value);
  check_error([&] { penalty_prox(one(PenaltyKind::mcp, 1, 2), both, both, 2); },
              "step: got 2, wants less than gamma = 2: beyond, MCP has no unique proximal point",
              value);
  check_error([&] { penalty_prox(one(PenaltyKind::scad, 1, 3.5), both, both, 2.5); },
              "step: got 2.5, wants less than gamma - 1 = 2.5: beyond, SCAD has no unique proximal "
              "point",
              value);
  const std::vector<Penalty> two = {l1[0], {PenaltyKind::l0, 1}};
  check_error([&] { penalty_prox(two, both, both, 1); },
              "penalty: got a sum of several penalties other than L2, wants at most one: the "
              "proximal operator of their sum has no closed form",
              type);
  check_error([&] { penalty_value(one(PenaltyKind::l1, -1), both); },
              "strength: got -1, wants a finite number of at least 0", value);
  check_error([&] { penalty_value(one(PenaltyKind::elastic_net, 1, inf), both); },
              "l2: got inf, wants a finite number of at least 0", value);
  check_error([&] { penalty_value(one(PenaltyKind::scad, 1, 2), both); },
              "gamma: got 2, wants a finite number above 2", value);
  check_error([&] { penalty_value(one(PenaltyKind::mcp, 1, 0), both); },
              "gamma: got 0, wants a finite number above 0", value);
  check_error([&] { penalty_value(one(PenaltyKind::log_sum, 1, -2), both); },
              "eps: got -2, wants a finite number above 0", value);
  check_error([&] { penalty_value(one(PenaltyKind::huber, 1, NAN), both); },
              "delta: got nan, wants a finite number above 0", value);
  const auto weights = list(short_one);
  const std::vector<Penalty> adaptive = {{PenaltyKind::weighted_l1, 1, 0, weights}};
  check_error([&] { penalty_value(adaptive, list(first)); },
              "weights[0]: got 3 elements, wants 4 as in params", value);
  check_error(
      [&] { check_weights(both); },
      "weights[0]: got a negative, infinite or NaN weight, wants finite numbers of at least "
      "0",
      value);

  CHECK(std::ranges::equal(data, before));
  CHECK_THROWS_AS(
      [&] {
        data[5] = inf;
        clip_by_global_norm(both, 1, 2, NonFinite::raise);
      }(),
      NonFiniteError);
  CHECK(data[0] == 3);
  data[5] = 8;
}

TEST_CASE("out may be its input, and reading twice is allowed") {
  double data[4] = {3, -4, 5, 0.5};
  const Array x(data, 4);
  const std::vector<Array> once = {x};
  const std::vector<Array> twice = {x, x};
  const std::vector<Penalty> l1 = {{PenaltyKind::l1, 1}};
  CHECK(penalty_value(l1, twice) == 25);
  CHECK(global_norm(twice, 1) == 25);
  penalty_prox(l1, once, once, 1);
  CHECK(data[0] == 2);
  CHECK(data[1] == -3);
  CHECK(data[3] == 0);
}

TEST_CASE("norms of nothing, of infinities and of both dtypes together") {
  const double large[] = {1e200};
  const double infinite[] = {inf};
  const double nan[] = {NAN};
  const float infinite_float[] = {std::numeric_limits<float>::infinity()};
  const float one[] = {1};
  const auto norm = [](std::vector<Array> arrays, double ord) { return global_norm(arrays, ord); };
  for (const double ord : {0.5, 1.0, 2.0, 2.5, inf}) {
    CAPTURE(ord);
    CHECK(norm({}, ord) == 0);
    CHECK(norm({Array(large, 0)}, ord) == 0);
    CHECK(norm({Array(large, 0), Array(one, 1)}, ord) == 1);
    CHECK(norm({Array(infinite_float, 1)}, ord) == inf);
    CHECK(norm({Array(infinite, 1), Array(one, 1)}, ord) == inf);
    CHECK(norm({Array(infinite_float, 1), Array(large, 1)}, ord) == inf);
    CHECK(norm({Array(large, 1), Array(infinite_float, 1)}, ord) == inf);
    CHECK(std::isnan(norm({Array(infinite_float, 1), Array(nan, 1)}, ord)));
    CHECK(norm({Array(large, 1), Array(one, 1)}, ord) == doctest::Approx(1e200).epsilon(1e-14));
  }
}

TEST_CASE("too little room for the norms is refused before a write") {
  std::vector<float> x(8, 2.0f);
  const std::vector<Array> grads = {Array(x.data(), 4), Array(x.data() + 4, 4)};
  std::vector<double> norms(1);
  CHECK_THROWS_AS(clip_by_norm(grads, 1.0, 2, norms), ArgumentError);
  CHECK_THROWS_AS(clip_by_rms(grads, 1.0, norms), ArgumentError);
  CHECK(x == std::vector<float>(8, 2.0f));
}
