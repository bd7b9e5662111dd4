// Targets and threads.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <stdexcept>
#include <thread>
#include <vector>

#include "doctest/doctest.h"
#include "ridgeline/clipping.hpp"
#include "ridgeline/penalties.hpp"
#include "ridgeline/runtime.hpp"
#include "runtime/parallel.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

using namespace ridgeline;

constexpr std::int64_t many = std::int64_t{1} << 22;  ///< elements worth a team

int team_of(std::int64_t elements, int limit) {
  std::atomic<int> members{0};
  std::atomic<int> size{0};
  parallel(elements, limit, [&](Team team) {
    ++members;
    size = team.size;
  });
  CHECK(members == size);
  return size;
}

}  // namespace

TEST_CASE("targets") {
  const std::vector<std::string> names = targets();
  REQUIRE_FALSE(names.empty());
  CHECK(names.back() == "scalar");
  const std::string before = target();
  CHECK(std::ranges::count(names, before) == 1);
  for (const std::string& name : names) {
    use_target(name);
    CHECK(target() == name);
  }
  CHECK_THROWS_WITH_AS(use_target("mmx"), doctest::Contains("name: got 'mmx', wants one of"),
                       std::invalid_argument);
  CHECK_THROWS_AS(use_target(""), std::invalid_argument);
  CHECK(target() == names.back());
  use_target(before);
}

TEST_CASE("a team has the size asked for") {
  for (const int n : {1, 2, 3, 7})
    CHECK(team_of(many, n) == (has_openmp() ? n : 1));
  CHECK(team_of(many, 0) == num_threads());
  CHECK(team_of(1, 7) == 1);
  CHECK(team_of(0, 0) == 1);
}

TEST_CASE("a region inside another one is serial") {
  std::atomic<int> inner{0};
  parallel(many, 3, [&](Team) {
    parallel(many, 3, [&](Team team) {
      CHECK(team.size == 1);
      CHECK(team.rank == 0);
      ++inner;
    });
  });
  CHECK(inner == (has_openmp() ? 3 : 1));
#if defined(_OPENMP)
  std::atomic<int> nested{0};
#pragma omp parallel num_threads(2)
  {
    parallel(many, 3, [&](Team team) { nested += team.size; });
  }
  CHECK(nested == 2);
#endif
}

TEST_CASE("what is written before a barrier is visible after it") {
  for (int round = 0; round < 100; ++round) {
    std::vector<int> written(8, 0);
    std::atomic<int> right{0};
    parallel(many, 4, [&](Team team) {
      written[static_cast<std::size_t>(team.rank)] = team.rank + round + 1;
      team.barrier();
      bool all = true;
      for (int k = 0; k < team.size; ++k)
        all = all && written[static_cast<std::size_t>(k)] == k + round + 1;
      right += all ? 1 : 0;
    });
    REQUIRE(right == (has_openmp() ? 4 : 1));
  }
}

TEST_CASE("the number of threads: call, thread, process, default") {
  const int automatic = num_threads();
  CHECK(automatic >= 1);
  set_num_threads(3);
  CHECK(num_threads() == 3);
  {
    const ThreadLimit outer(2);
    CHECK(num_threads() == 2);
    {
      const ThreadLimit inner(5);
      CHECK(num_threads() == 5);
      std::thread([] { CHECK(num_threads() == 3); }).join();
    }
    CHECK(num_threads() == 2);
    {
      const ThreadLimit none(0);
      CHECK(num_threads() == 3);
    }
    CHECK(exchange_thread_limit(0) == 2);
    CHECK(num_threads() == 3);
    CHECK(exchange_thread_limit(2) == 0);
  }
  CHECK(num_threads() == 3);
  CHECK_THROWS_AS(set_num_threads(-1), std::invalid_argument);
  CHECK_THROWS_AS(ThreadLimit(-1), std::invalid_argument);
  CHECK_THROWS_AS(exchange_thread_limit(-2), std::invalid_argument);
  CHECK(num_threads() == 3);
  set_num_threads(0);
  CHECK(num_threads() == automatic);
}

TEST_CASE("calls from several threads do not meet") {
  std::vector<float> x(100000, 0.5f);
  const Array array(x.data(), DType::float32, static_cast<std::int64_t>(x.size()));
  const double expected = global_norm({&array, 1});
  std::vector<double> results(4, 0);
  std::vector<std::thread> threads;
  threads.reserve(results.size());
  for (double& result : results) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round)
        result = global_norm({&array, 1}, 2, 1 + round % 3);
    });
  }
  for (std::thread& thread : threads)
    thread.join();
  for (const double result : results)
    CHECK(result == expected);
}

#if defined(__x86_64__)
TEST_CASE("denormals are kept, and the rounding mode, whatever the caller set") {
  const unsigned before = _mm_getcsr();
  const double tiny[] = {1e-310, -3e-310};
  const float tiny_float[] = {1e-40f, 2e-40f};
  const Array arrays[] = {Array(tiny, 2), Array(tiny_float, 2)};
  const Penalty l1[] = {{PenaltyKind::l1, 0.5}};
  const Penalty log_sum[] = {{PenaltyKind::log_sum, 1e-300, 1e-160}};
  const auto results = [&] {
    std::vector<double> all;
    for (const double ord : {1.0, 2.0, 2.5, double{INFINITY}}) {
      all.push_back(global_norm(arrays, ord));
      all.push_back(global_norm({arrays, 1}, ord));
    }
    all.push_back(penalty_value(l1, arrays));
    all.push_back(penalty_value(l1, {arrays, 1}));
    double out[] = {1e-150, 3e-150};
    const Array moved(out, 2);
    penalty_prox(log_sum, {&moved, 1}, {&moved, 1}, 1e-10);
    all.insert(all.end(), {out[0], out[1]});
    double scaled[] = {4e-310, 3e-310};
    const Array clipped(scaled, 2);
    all.push_back(clip_by_global_norm({&clipped, 1}, 1e-310));
    all.insert(all.end(), {scaled[0], scaled[1]});
    return all;
  };
  const std::vector<double> expected = results();
  constexpr unsigned flush_to_zero = 0x8040;  // FTZ, DAZ
  constexpr unsigned round_up = 0x4000;
  for (const unsigned setting : {flush_to_zero, round_up, flush_to_zero | round_up}) {
    CAPTURE(setting);
    _mm_setcsr((before & ~0xe07fu) | 0x1f80 | setting);
    const std::vector<double> actual = results();
    const unsigned after = _mm_getcsr();
    _mm_setcsr(before);
    CHECK((after & ~0x3fu) == ((before & ~0xe07fu) | 0x1f80 | setting));
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CAPTURE(i);
      CHECK(actual[i] == expected[i]);
    }
  }
}
#endif
