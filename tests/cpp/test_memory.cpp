// No memory: every call either ends or throws std::bad_alloc with nothing written, and nothing is
// allocated inside a parallel region, where nobody could catch it.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "doctest/doctest.h"
#include "random.hpp"
#include "ridgeline/clipping.hpp"
#include "ridgeline/constraints.hpp"
#include "ridgeline/dropout.hpp"
#include "ridgeline/optimizers.hpp"
#include "ridgeline/penalties.hpp"
#include "ridgeline/pruning.hpp"
#include "ridgeline/random.hpp"
#include "runtime/parallel.hpp"

namespace {

std::atomic<std::int64_t> left{-1};  ///< allocations before one fails; below 0: none does
std::atomic<bool> failed{false};
std::atomic<int> inside{0};  ///< allocations in regions
std::atomic<std::int64_t> made{0};

// Not inlined, or GCC compares it with the functions below one by one.
[[gnu::noinline]] void* allocate(std::size_t bytes, std::size_t alignment) {
  inside += ridgeline::in_region() ? 1 : 0;
  ++made;
  if (left >= 0 && left-- == 0) {
    failed = true;
    throw std::bad_alloc();
  }
  const std::size_t rounded = (std::max<std::size_t>(bytes, 1) + alignment - 1) / alignment;
  void* memory = std::aligned_alloc(alignment, rounded * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
// As the library's; AddressSanitizer's would not be given back to the functions below.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  try {
    return allocate(bytes, alignof(std::max_align_t));
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace {

using namespace ridgeline;

constexpr std::size_t many = 20;  ///< arrays: more than any list holds without an allocation
constexpr std::int64_t small = 2100;
constexpr std::int64_t large = 1 << 18;  ///< elements worth two threads

/// Everything that a call may write, in one piece. Lists of arrays: small ones, of which one is
/// strided, and a large one at the end.
struct Memory {
  std::vector<std::byte> bytes;
  std::vector<Array> params, grads;
  std::vector<Array> half, half_grads;  ///< bfloat16, strided
  std::vector<std::vector<std::uint64_t>> bits;
  std::vector<std::uint64_t*> words;
  std::vector<double> numbers;
  std::vector<std::int64_t> counts;
  std::vector<OptimizerParameter> state;

  Memory() : bytes(std::size_t{10} << 20), numbers(many + 1), next_(bytes.data()) {
    test::Random random(7);
    for (std::vector<Array>* list : {&params, &grads}) {
      for (std::size_t k = 0; k < many; ++k)
        list->push_back(add(DType::float32, small, k == 0 ? 2 : 1, random));
      list->push_back(add(DType::float32, large, 1, random));
    }
    for (std::vector<Array>* list : {&half, &half_grads}) {
      for (std::size_t k = 0; k < many; ++k)
        list->push_back(add(DType::bfloat16, small, k == 0 ? 2 : 1, random));
      list->push_back(add(DType::bfloat16, large, 2, random));
    }
    for (const Array& array : params)
      bits.emplace_back(static_cast<std::size_t>(mask_words(array.size)));
    for (auto& own : bits)
      words.push_back(own.data());
    counts.assign(many, 900);
    counts.push_back(large / 2);
    for (const Array& array : params) {
      OptimizerParameter p;
      for (void*& own : p.states)
        own = add(DType::float32, array.size, 1, random, 0).data;
      for (float*& scale : p.scales)
        scale = static_cast<float*>(add(DType::float32, array.size / 256 + 1, 1, random, 0).data);
      state.push_back(p);
    }
  }

  /// All that a failing call must leave alone.
  bool operator==(const Memory& b) const {
    const auto steps = [](const OptimizerParameter& x, const OptimizerParameter& y) {
      return x.steps == y.steps && x.product == y.product;
    };
    return bytes == b.bytes && bits == b.bits && numbers == b.numbers &&
           std::ranges::equal(state, b.state, steps);
  }
  void restore(const Memory& from) {
    std::ranges::copy(from.bytes, bytes.begin());
    for (std::size_t k = 0; k < bits.size(); ++k)
      std::ranges::copy(from.bits[k], bits[k].begin());
    numbers = from.numbers;
    for (std::size_t k = 0; k <= many; ++k)
      state[k].steps = from.state[k].steps;
  }

 private:
  Array add(DType dtype, std::int64_t n, std::int64_t step, test::Random& random, double most = 1) {
    const auto item = static_cast<std::int64_t>(item_size(dtype));
    const std::int64_t shape[] = {n};
    const std::int64_t strides[] = {item * step};
    Array array(next_, dtype, shape, strides);
    for (std::int64_t i = 0; most > 0 && i < n * step; ++i) {
      const auto x = static_cast<float>(random.uniform(-most, most));
      const auto word = std::bit_cast<std::uint32_t>(x) >> 16;
      std::memcpy(next_ + i * item, dtype == DType::float32 ? static_cast<const void*>(&x) : &word,
                  static_cast<std::size_t>(item));
    }
    next_ += (n * item * step + 63) / 64 * 64;
    REQUIRE(next_ <= bytes.data() + bytes.size());
    return array;
  }

  std::byte* next_;
};

struct Call {
  std::string name;
  std::function<void(Memory&)> run;
};

constexpr Key key{5};

StepReport step(Memory& m, OptimizerKind kind, StateType type, bool half, StepOptions options = {},
                Penalties penalties = {}, Prox prox = Prox::none) {
  options.kind = kind;
  for (OptimizerParameter& p : m.state)
    p.state_type = type;
  options.threads = 2;
  OptimizerGroup group;
  group.lr = 0.01;
  group.beta1 = 0.9;
  group.beta2 = 0.999;
  group.eps = 1e-8;
  group.momentum = 0.9;
  group.penalties = penalties;
  group.prox = prox;
  return optimizer_step(options, {&group, 1}, m.state, half ? m.half : m.params,
                        half ? m.half_grads : m.grads);
}

std::vector<Call> calls() {
  std::vector<Call> all;
  const auto add = [&](std::string name, auto run) { all.push_back({std::move(name), run}); };
  for (const double ord : {1.0, 2.0, 3.0, 2.5}) {
    add("global_norm", [=](Memory& m) { m.numbers[0] = global_norm(m.grads, ord, 2); });
    add("clip_by_norm", [=](Memory& m) { clip_by_norm(m.grads, 0.1, ord, m.numbers, 2); });
    add("clip_by_global_norm", [=](Memory& m) {
      m.numbers[0] = clip_by_global_norm(m.grads, 0.1, ord, NonFinite::raise, 2);
    });
  }
  add("first_nonfinite", [](Memory& m) { first_nonfinite(m.grads, 2); });
  add("clip_by_rms", [](Memory& m) { clip_by_rms(m.half, 0.1, m.numbers, 2); });
  add("clip_by_value", [](Memory& m) { clip_by_value(m.half, -0.1, 0.1, 2); });
  add("project", [](Memory& m) { project({-0.1, 0.1}, m.params, 2); });
  add("scale", [](Memory& m) { scale(m.half, 0.5, 2); });
  add("set_zero", [](Memory& m) { set_zero(m.half, 2); });
  for (const std::int64_t count : {1, 100, 1500})
    add("zero_largest", [=](Memory& m) { zero_largest(m.half, count, 2); });

  const Array& (*last)(const std::vector<Array>&) =
      [](const std::vector<Array>& list) -> const Array& { return list.back(); };
  for (const bool wide : {false, true}) {
    const auto x = [=](Memory& m) -> const Array& { return last(wide ? m.params : m.half); };
    const auto y = [=](Memory& m) -> const Array& { return last(wide ? m.grads : m.half_grads); };
    add("dropout", [=](Memory& m) { dropout(x(m), y(m), 0.3, key, {}, 2); });
    add("dropout_add", [=](Memory& m) { dropout_add(x(m), y(m), y(m), 0.3, key, {}, 2); });
    add("alpha_dropout", [=](Memory& m) { alpha_dropout(x(m), y(m), 0.3, key, {}, 2); });
    add("gaussian_dropout", [=](Memory& m) { gaussian_dropout(x(m), y(m), 0.3, key, {}, 2); });
    add("gaussian_noise", [=](Memory& m) { gaussian_noise(x(m), y(m), 0.3, key, {}, 2); });
    add("zoneout", [=](Memory& m) { zoneout(x(m), y(m), y(m), 0.3, key, {}, 2); });
    add("drop_block", [=](Memory& m) {
      const std::int64_t size[] = {32, 32};
      const std::int64_t block[] = {3, 3};
      drop_block(x(m), y(m), 8, large / 8192, size, block, 0.1, key, BlockEdges::clipped, false, 2);
    });
    add("random_uniform", [=](Memory& m) { random_uniform(x(m), key, {}, 2); });
    add("random_normal", [=](Memory& m) { random_normal(x(m), key, 0, 1, {}, 2); });
    add("saliency", [=](Memory& m) { saliency(x(m), y(m), y(m), true, 2); });
    add("magnitudes", [=](Memory& m) { magnitudes(x(m), y(m), 2); });
  }
  add("random_integers",
      [=](Memory& m) { random_integers(last(m.params).data, large, 4, key, 0, 10, {}, 2); });
  add("random_keep", [](Memory& m) { random_keep(m.bits.back(), large, 0.3, key, {}, 2); });
  add("fold_in, split", [](Memory&) {
    key.fold_in(3);
    key.split(30);
  });

  static const Penalty penalties[] = {{PenaltyKind::l2, 0.1}, {PenaltyKind::mcp, 0.1, 3}};
  for (const bool half : {false, true}) {
    const auto w = [=](Memory& m) -> Arrays { return half ? m.half : m.params; };
    const auto g = [=](Memory& m) -> Arrays { return half ? m.half_grads : m.grads; };
    add("penalty_value", [=](Memory& m) { m.numbers[0] = penalty_value(penalties, w(m), 2); });
    add("add_penalty_gradient",
        [=](Memory& m) { m.numbers[0] = add_penalty_gradient(penalties, g(m), w(m), 2); });
    add("penalty_prox", [=](Memory& m) { penalty_prox(penalties, g(m), w(m), 0.1, 2); });
    add("movement", [=](Memory& m) { movement(w(m), g(m), g(m), 0.1, 2); });
    add("random_shrink", [=](Memory& m) { random_shrink(w(m), 0.1, key, 2); });
    add("apply_masks", [=](Memory& m) {
      const std::vector<const std::uint64_t*> words(m.words.begin(), m.words.end());
      apply_masks(w(m), words, 2);
    });
    add("prune_lowest", [=](Memory& m) {
      const std::vector<Ranking> rankings(many + 1);
      prune_lowest(w(m), {rankings, {}, m.words}, large / 3, 2);
    });
    add("prune_each_lowest", [=](Memory& m) {
      const std::vector<Ranking> rankings(many + 1);
      prune_each_lowest(w(m), {rankings, {}, m.words}, m.counts, 2);
    });
    add("prune_random", [=](Memory& m) {
      const std::vector<Ranking> rankings(many + 1);
      prune_random(w(m), {rankings, {}, m.words}, key, 0, large / 3, 2);
    });
    add("rank_histogram, prune_at_key", [=](Memory& m) {
      const std::vector<Ranking> rankings(many + 1);
      const Selection selection{rankings, {}, m.words};
      std::vector<std::int64_t> bins(2048);
      std::int64_t below = 0;
      rank_histogram(w(m), selection, 0, 50, below, bins, 2);
      prune_at_key(w(m), selection, std::int64_t{0x3fe} << 52, 100, 2);
    });
    add("prune_n_of_m", [=](Memory& m) {
      prune_n_of_m(w(m).back(), large / 1024, 64, 16, 3, 5, {}, nullptr, m.words.back(), 2);
    });
    add("block_powers, spread, gather", [=](Memory& m) {
      const std::int64_t shape[] = {large / 1024, 1024};
      const std::int64_t block[] = {128, 64};
      std::vector<double> scores(static_cast<std::size_t>(large / 1024 / 128 * 16));
      block_powers(w(m).back(), shape, block, 2, nullptr, nullptr, scores, 2);
      std::vector<std::uint64_t> kept(1, 0x5555);
      spread_blocks(shape, block, kept.data(), m.words.back(), 2);
    });
    add("wanda", [=](Memory& m) {
      const std::vector<float> norms(1024, 2.0f);
      wanda(w(m).back(), Array(norms.data(), 1024), g(m).back(), 2);
    });
  }

  StepOptions clipped;
  clipped.clip = StepOptions::Clip::norm;
  clipped.max_norm = 0.1;
  clipped.on_nonfinite = NonFinite::raise;
  StepOptions limited;
  limited.clip = StepOptions::Clip::global_norm;
  limited.max_norm = 0.1;
  limited.max_update_rms = 0.5;
  for (const bool half : {false, true}) {
    for (const auto type : {StateType::compute, StateType::bfloat16, StateType::dynamic8}) {
      const std::string name = "step, " + std::to_string(static_cast<int>(type));
      add(name, [=](Memory& m) { step(m, OptimizerKind::adam, type, half); });
      add(name, [=](Memory& m) { step(m, OptimizerKind::adam, type, half, clipped); });
      add(name, [=](Memory& m) { step(m, OptimizerKind::momentum, type, half, limited); });
    }
    add("step with a penalty", [=](Memory& m) {
      step(m, OptimizerKind::sgd, StateType::compute, half, clipped, {&penalties[1], 1},
           Prox::plain);
    });
  }
  add("accumulate", [](Memory& m) { accumulate(m.half_grads, m.params, false, 0.5, 2); });
  return all;
}

enum class Outcome : std::uint8_t { done, no_memory };

/// Runs a call on a thread of its own, which has no scratch memory yet, with the nth allocation
/// failing.
Outcome run(const Call& call, Memory& memory, std::int64_t nth) {
  Outcome outcome = Outcome::done;
  std::thread([&] {
    failed = false;
    left = nth;
    try {
      call.run(memory);
    } catch (const std::bad_alloc&) {
      outcome = Outcome::no_memory;
    }
    left = -1;
  }).join();
  return outcome;
}

}  // namespace

TEST_CASE("a failing allocation is std::bad_alloc with nothing written, wherever it is") {
  const Memory start;
  Memory expected;
  Memory memory;
  REQUIRE(memory == start);
  inside = 0;
  for (const Call& call : calls()) {
    CAPTURE(call.name);
    expected.restore(start);
    REQUIRE(run(call, expected, -1) == Outcome::done);
    std::int64_t nth = 0;
    for (failed = true; failed && nth < 1000; ++nth) {
      CAPTURE(nth);
      memory.restore(start);
      const bool done = run(call, memory, nth) == Outcome::done;
      // std::nothrow makes do without.
      REQUIRE(memory == (done ? expected : start));
    }
    REQUIRE(nth < 1000);
  }
  CHECK(inside == 0);
}

TEST_CASE("slices of one matrix are not compared in pairs") {
  // Every comparison of two strided arrays allocates.
  constexpr std::int64_t n = 64;
  std::vector<float> memory(n * n * n);
  const auto slices = [&](auto shape, auto strides, auto start) {
    std::vector<Array> arrays;
    for (std::int64_t k = 0; k < n * n; ++k) {
      const auto extents = shape(k);
      const auto steps = strides(k);
      arrays.emplace_back(memory.data() + start(k), DType::float32, extents, steps);
    }
    return arrays;
  };
  using One = std::array<std::int64_t, 1>;
  using Two = std::array<std::int64_t, 2>;
  const std::vector<Array> lists[] = {
      // the columns of (64, 4096)
      slices([](auto) { return One{n}; }, [](auto) { return One{4 * n * n}; },
             [](std::int64_t k) { return k; }),
      // tiles of (512, 512)
      slices(
          [](auto) {
            return Two{8, 8};
          },
          [](auto) {
            return Two{4 * 512, 4};
          },
          [](std::int64_t k) { return k / 64 * 8 * 512 + k % 64 * 8; }),
      // [i, :, j] and [:, i, j] of (64, 64, 64)
      slices([](auto) { return One{n}; }, [](auto) { return One{4 * n}; },
             [](std::int64_t k) { return k / n * n * n + k % n; }),
  };
  for (const std::vector<Array>& list : lists) {
    const std::int64_t before = made;
    check_parameters(list);
    CHECK(made - before < 20 * n * n);
  }
}
