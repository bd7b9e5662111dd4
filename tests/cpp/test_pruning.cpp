// What Python cannot see of pruning: bits against a stable sort, teams, and lines that stay.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "doctest/doctest.h"
#include "random.hpp"
#include "ridgeline/dropout.hpp"
#include "ridgeline/pruning.hpp"
#include "ridgeline/runtime.hpp"

namespace {

using namespace ridgeline;
using test::Random;

constexpr double inf = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr Key key{0x0123456789abcdef};
constexpr std::int64_t sampled = 32768;

using Words = std::vector<std::uint64_t>;

Words blank(std::int64_t n) {
  // Nothing of what was there before may stay.
  return Words(static_cast<std::size_t>(mask_words(n)), 0xaaaa'aaaa'aaaa'aaaa);
}

bool bit(const Words& words, std::int64_t i) {
  return (words[static_cast<std::size_t>(i) / 64] >> i % 64 & 1) != 0;
}

void set(Words& words, std::int64_t i) {
  words[static_cast<std::size_t>(i) / 64] |= std::uint64_t{1} << i % 64;
}

/// Calls f on every target and for several numbers of threads.
template <class F>
void everywhere(F f) {
  for (const std::string& target : targets()) {
    CAPTURE(target);
    use_target(target);
    for (const int threads : {1, 2, 3, 7}) {
      CAPTURE(threads);
      f(threads);
    }
  }
  use_target(targets().front());
}

double score(double x, bool magnitude) {
  if (std::isnan(x)) return inf;
  return magnitude ? std::fabs(x) : x;
}

/// The order in which elements go: the lowest first, of equal ones the last.
std::vector<std::int64_t> order_of(const std::vector<double>& scores,
                                   const Words* among = nullptr) {
  std::vector<std::int64_t> order(scores.size());
  std::iota(order.rbegin(), order.rend(), 0);
  if (among != nullptr) std::erase_if(order, [&](std::int64_t i) { return !bit(*among, i); });
  std::ranges::stable_sort(
      order, {}, [&](std::int64_t i) { return scores[static_cast<std::size_t>(i)] + 0.0; });
  return order;
}

Words kept_of(const std::vector<std::int64_t>& order, std::int64_t count, std::int64_t n) {
  Words words(static_cast<std::size_t>(mask_words(n)), 0);
  for (auto at = order.begin() + count; at != order.end(); ++at)
    set(words, *at);
  return words;
}

template <class T>
struct Kind {
  const char* name;
  T (*value)(Random&, std::int64_t, std::int64_t);
};

template <class T>
std::vector<Kind<T>> kinds() {
  using L = std::numeric_limits<T>;
  return {
      {"any", [](Random& r, auto, auto) { return static_cast<T>(r.number(-8, 3)); }},
      {"few", [](Random& r, auto, auto) { return static_cast<T>(r.integer(-3, 3)); }},
      {"rising", [](auto&, std::int64_t i, auto) { return static_cast<T>(i); }},
      {"falling", [](auto&, std::int64_t i, std::int64_t n) { return static_cast<T>(n - i); }},
      {"equal", [](auto&, auto, auto) { return T{-2}; }},
      {"NaN", [](auto&, auto, auto) { return L::quiet_NaN(); }},
      {"denormal",
       [](Random& r, auto, auto) { return static_cast<T>(r.integer(-50, 50)) * L::denorm_min(); }},
      {"special",
       [](Random& r, auto, auto) {
         const T values[] = {T{0}, -T{0}, L::infinity(), -L::infinity(), L::quiet_NaN(), L::max()};
         return values[r.integer(0, 5)];
       }},
      {"last bits",
       [](auto&, std::int64_t i, auto) {
         return static_cast<T>(1 + static_cast<T>(i * 7 % 65536) * L::epsilon());
       }},
  };
}

TEST_CASE_TEMPLATE("the lowest are those of a stable sort", T, float, double) {
  for (const std::int64_t n : {1, 63, 64, 65, 1000, 32767, 32768, 32769, 100'003}) {
    CAPTURE(n);
    for (const Kind<T>& kind : kinds<T>()) {
      const std::string name = kind.name;
      CAPTURE(name);
      Random random(static_cast<std::uint64_t>(n));
      std::vector<T> x;
      for (std::int64_t i = 0; i < n; ++i)
        x.push_back(kind.value(random, i, n));
      for (const bool magnitude : {true, false}) {
        std::vector<double> scores;
        for (const T v : x)
          scores.push_back(score(static_cast<double>(v), magnitude));
        const auto order = order_of(scores);
        const Array array(x.data(), n);
        const Ranking ranking{magnitude, 1};
        for (const std::int64_t count : {std::int64_t{0}, std::int64_t{1}, n / 2, n - n / 9, n}) {
          CAPTURE(count);
          const Words expected = kept_of(order, count, n);
          const auto check = [&](int threads) {
            Words words = blank(n);
            std::uint64_t* const all[] = {words.data()};
            prune_lowest({&array, 1}, {{&ranking, 1}, {}, all}, count, threads);
            CHECK(words == expected);
          };
          if (n == 100'003 && count == n / 2) {
            everywhere(check);
          } else {
            check(1);
          }
        }
      }
    }
  }
}

/// Arrays of two types, with many equal elements.
struct List {
  explicit List(std::uint64_t seed) {
    Random random(seed);
    const std::int64_t sizes[] = {0, 5, 64, 40'000, 1, 33'000, 100};
    for (const std::int64_t n : sizes) {
      const bool wide = random.integer(0, 1) == 1;
      narrow.emplace_back();
      doubles.emplace_back();
      for (std::int64_t i = 0; i < n; ++i) {
        const double v = static_cast<double>(random.integer(-40, 40)) / 8;
        scores.push_back(std::fabs(v));
        wide ? doubles.back().push_back(v) : narrow.back().push_back(static_cast<float>(v));
      }
      arrays.push_back(wide ? Array(doubles.back().data(), n) : Array(narrow.back().data(), n));
      rankings.push_back({});
      words.push_back(blank(n));
      among.emplace_back(static_cast<std::size_t>(mask_words(n)), 0);
      for (std::int64_t i = 0; i < n; ++i) {
        if (random.integer(0, 2) != 0) set(among.back(), i);
      }
    }
    for (std::size_t k = 0; k < words.size(); ++k) {
      pointers.push_back(words[k].data());
      parts.push_back(k == 3 ? nullptr : among[k].data());
    }
  }
  Selection selection(bool some) const {
    return {rankings,
            some ? std::span<const std::uint64_t* const>(parts)
                 : std::span<const std::uint64_t* const>(),
            pointers};
  }
  /// Whether each element of all arrays is kept.
  std::vector<bool> bits(const std::vector<Words>& of) const {
    std::vector<bool> result;
    for (std::size_t k = 0; k < arrays.size(); ++k) {
      for (std::int64_t i = 0; i < arrays[k].size; ++i)
        result.push_back(bit(of[k], i));
    }
    return result;
  }
  /// Those that take part, one after the other.
  Words joined() const {
    Words result(static_cast<std::size_t>(mask_words(static_cast<std::int64_t>(scores.size()))), 0);
    std::int64_t at = 0;
    for (std::size_t k = 0; k < arrays.size(); ++k) {
      for (std::int64_t i = 0; i < arrays[k].size; ++i, ++at) {
        if (parts[k] == nullptr || bit(among[k], i)) set(result, at);
      }
    }
    return result;
  }

  std::vector<std::vector<float>> narrow;
  std::vector<std::vector<double>> doubles;
  std::vector<double> scores;
  std::vector<Array> arrays;
  std::vector<Ranking> rankings;
  std::vector<Words> words;
  std::vector<Words> among;
  std::vector<std::uint64_t*> pointers;
  std::vector<const std::uint64_t*> parts;
};

TEST_CASE("lists are ranked together, in list order, and by what takes part") {
  List list(1);
  const auto n = static_cast<std::int64_t>(list.scores.size());
  for (const bool some : {false, true}) {
    CAPTURE(some);
    const Words part = list.joined();
    const auto order = order_of(list.scores, some ? &part : nullptr);
    for (const std::int64_t count : {std::int64_t{0}, std::int64_t{1}, n / 3, n / 2, n}) {
      const auto gone = std::min(count, static_cast<std::int64_t>(order.size()));
      const Words expected = kept_of(order, gone, n);
      everywhere([&](int threads) {
        prune_lowest(list.arrays, list.selection(some), count, threads);
        const std::vector<bool> got = list.bits(list.words);
        std::int64_t wrong = 0;
        for (std::int64_t i = 0; i < n; ++i)
          wrong += got[static_cast<std::size_t>(i)] != bit(expected, i) ? 1 : 0;
        CHECK(wrong == 0);
      });
    }
  }
}

TEST_CASE("each array on its own is as if it were alone") {
  List list(2);
  std::vector<std::int64_t> counts;
  for (const Array& array : list.arrays)
    counts.push_back(array.size / 3);
  for (const bool some : {false, true}) {
    std::vector<Words> expected;
    const Selection all = list.selection(some);
    for (std::size_t k = 0; k < list.arrays.size(); ++k) {
      const Selection own{all.rankings.subspan(k, 1), some ? all.among.subspan(k, 1) : all.among,
                          all.words.subspan(k, 1)};
      prune_lowest({&list.arrays[k], 1}, own, counts[k], 1);
      expected.push_back(list.words[k]);
    }
    everywhere([&](int threads) {
      for (Words& words : list.words)
        std::ranges::fill(words, 0x5555'5555'5555'5555);
      prune_each_lowest(list.arrays, all, counts, threads);
      CHECK(list.words == expected);
    });
  }
}

TEST_CASE("random choices are those of dropout, and of the keys in order") {
  for (const std::int64_t n : {std::int64_t{100}, sampled, sampled + 1, std::int64_t{300'001}}) {
    CAPTURE(n);
    std::vector<std::int64_t> keys(static_cast<std::size_t>(n));
    random_keys(keys, key, 5);
    const std::vector<double> scores(keys.begin(), keys.end());
    const auto order = order_of(scores);
    const float none = 0;
    const std::int64_t extents[] = {n};
    const std::int64_t strides[] = {0};
    const Array array(const_cast<float*>(&none), DType::float32, extents, strides);
    const Ranking ranking;
    for (const std::int64_t count : {n / 10, n / 2, n - 3}) {
      const Words expected = kept_of(order, count, n);
      everywhere([&](int threads) {
        Words words = blank(n);
        std::uint64_t* const all[] = {words.data()};
        prune_random({&array, 1}, {{&ranking, 1}, {}, all}, key, 5, count, threads);
        CHECK(words == expected);
      });
    }
    Words kept = blank(n);
    random_keep(kept, n, 0.25, key, Numbering(5));
    const auto count = std::ranges::count_if(keys, [](std::int64_t k) { return k < 1LL << 30; });
    CHECK(kept == kept_of(order, count, n));
  }
}

TEST_CASE("the bins of several processes lead to the same key") {
  List list(3);
  const auto n = static_cast<std::int64_t>(list.scores.size());
  const std::int64_t count = n / 3;
  std::int64_t low = std::numeric_limits<std::int64_t>::min();
  int shift = 53;
  std::int64_t less = 0;
  std::int64_t equal = 0;
  for (;;) {
    std::vector<std::int64_t> bins(2048, 0);
    less = 0;
    rank_histogram(list.arrays, list.selection(false), low, shift, less, bins, 3);
    CHECK(std::accumulate(bins.begin(), bins.end(), less) <= n);
    std::size_t b = 0;
    for (; less + bins[b] < count; ++b)
      less += bins[b];
    low = static_cast<std::int64_t>(static_cast<std::uint64_t>(low) + (std::uint64_t{b} << shift));
    equal = bins[b];
    if (shift == 0) break;
    shift = std::max(shift - 11, 0);
  }
  prune_lowest(list.arrays, list.selection(false), count, 1);
  const std::vector<Words> expected = list.words;
  everywhere([&](int threads) {
    for (Words& words : list.words)
      std::ranges::fill(words, 0x5555'5555'5555'5555);
    prune_at_key(list.arrays, list.selection(false), low + 1, equal - (count - less), threads);
    CHECK(list.words == expected);
  });
}

TEST_CASE("n of every m are those of a stable sort") {
  Random random(7);
  const Ranking ranking;
  struct Shape {
    std::int64_t outer, length, inner;
  };
  struct Kept {
    int keep, m;
  };
  for (const Shape& shape : {Shape{1, 64, 1}, Shape{3, 10, 1}, Shape{50, 400, 1}, Shape{2, 9, 70},
                             Shape{5, 7, 3}, Shape{1, 300, 200}, Shape{0, 4, 4}, Shape{4, 0, 4}}) {
    const std::int64_t outer = shape.outer, length = shape.length, inner = shape.inner;
    CAPTURE(length);
    const std::int64_t n = outer * length * inner;
    std::vector<float> x;
    for (std::int64_t i = 0; i < n; ++i)
      x.push_back(static_cast<float>(random.integer(-3, 3)));
    Words among(static_cast<std::size_t>(mask_words(n)), 0);
    for (std::int64_t i = 0; i < n; ++i) {
      if (random.integer(0, 3) != 0) set(among, i);
    }
    for (const Kept& kept : {Kept{2, 4}, Kept{1, 4}, Kept{0, 4}, Kept{4, 4}, Kept{1, 3},
                             Kept{7, 16}, Kept{1, 1}, Kept{33, 64}}) {
      const int keep = kept.keep, m = kept.m;
      CAPTURE(m);
      for (const bool some : {false, true}) {
        Words expected(static_cast<std::size_t>(mask_words(n)), 0);
        for (std::int64_t o = 0; o < outer; ++o) {
          for (std::int64_t c = 0; c < inner; ++c) {
            for (std::int64_t first = 0; first < length; first += m) {
              std::vector<std::int64_t> group;
              for (std::int64_t j = first; j < std::min(first + m, length); ++j) {
                const std::int64_t i = (o * length + j) * inner + c;
                if (!some || bit(among, i)) group.push_back(i);
              }
              std::ranges::stable_sort(group, std::ranges::greater(), [&](std::int64_t i) {
                return std::fabs(x[static_cast<std::size_t>(i)]);
              });
              for (std::size_t k = 0; k < std::min(group.size(), static_cast<std::size_t>(keep));
                   ++k)
                set(expected, group[k]);
            }
          }
        }
        everywhere([&](int threads) {
          Words words = blank(n);
          prune_n_of_m({x.data(), n}, outer, length, inner, keep, m, ranking,
                       some ? among.data() : nullptr, words.data(), threads);
          CHECK(words == expected);
        });
      }
    }
  }
}

TEST_CASE("blocks: sums, and bits there and back") {
  Random random(8);
  const std::vector<std::int64_t> shapes[] = {{7, 300}, {4, 5, 6, 70}, {100'001}, {200, 300}, {}};
  for (const auto& shape : shapes) {
    std::int64_t n = 1;
    for (const std::int64_t extent : shape)
      n *= extent;
    std::vector<float> x;
    for (std::int64_t i = 0; i < n; ++i)
      x.push_back(static_cast<float>(random.integer(-9, 9)));
    for (const std::int64_t side : {1, 2, 3, 64, 1'000'000}) {
      CAPTURE(side);
      std::vector<std::int64_t> block(shape.size(), side);
      if (shape.size() == 2 && side == 3) block[0] = 1'000'000;
      std::int64_t blocks = 1;
      for (std::size_t a = 0; a < shape.size(); ++a)
        blocks *= (shape[a] + block[a] - 1) / block[a];
      std::vector<std::int64_t> owner(static_cast<std::size_t>(n));
      for (std::int64_t i = 0; i < n; ++i) {
        std::int64_t rest = i;
        std::int64_t step = 1;
        for (std::size_t a = shape.size(); a-- > 0;) {
          owner[static_cast<std::size_t>(i)] += rest % shape[a] / block[a] * step;
          step *= (shape[a] + block[a] - 1) / block[a];
          rest /= shape[a];
        }
      }
      Words among(static_cast<std::size_t>(mask_words(n)), 0);
      Words chosen(static_cast<std::size_t>(mask_words(blocks)), 0);
      Words alive = chosen;
      for (std::int64_t i = 0; i < n; ++i) {
        if (random.integer(0, 4) == 0) {
          set(among, i);
          set(alive, owner[static_cast<std::size_t>(i)]);
        }
      }
      for (std::int64_t b = 0; b < blocks; ++b) {
        if (random.integer(0, 1) == 0) set(chosen, b);
      }
      Words spread(among.size(), 0);
      for (std::int64_t i = 0; i < n; ++i) {
        if (bit(chosen, owner[static_cast<std::size_t>(i)])) set(spread, i);
      }
      for (const double ord : {1.0, 2.0, inf}) {
        for (const bool some : {false, true}) {
          std::vector<double> expected(static_cast<std::size_t>(blocks), 0.0);
          for (std::int64_t i = 0; i < n; ++i) {
            const auto at = static_cast<std::size_t>(i);
            const double v = !some || bit(among, i) ? std::fabs(static_cast<double>(x[at])) : 0;
            double& sum = expected[static_cast<std::size_t>(owner[at])];
            sum = std::isinf(ord) ? std::max(sum, v) : sum + (ord == 1 ? v : v * v);
          }
          everywhere([&](int threads) {
            std::vector<double> scores(expected.size(), nan);
            block_powers({x.data(), n}, shape, block, ord, some ? among.data() : nullptr, nullptr,
                         scores, threads);
            CHECK(scores == expected);
          });
        }
      }
      everywhere([&](int threads) {
        Words words = blank(n);
        spread_blocks(shape, block, chosen.data(), words.data(), threads);
        CHECK(words == spread);
        Words gathered(alive.size(), 0);
        gather_blocks(shape, block, among.data(), gathered.data(), threads);
        CHECK(gathered == alive);
      });
    }
  }
}

TEST_CASE("masks set zeros and leave every other bit") {
  for (const std::int64_t n : {0, 1, 63, 64, 65, 4097, 300'001}) {
    Random random(9);
    std::vector<std::uint16_t> x;
    Words words(static_cast<std::size_t>(mask_words(n)), 0);
    for (std::int64_t i = 0; i < n; ++i) {
      x.push_back(static_cast<std::uint16_t>(random.integer(0, 65535)));  // NaN of all kinds, too
      if (random.integer(0, 3) != 0) set(words, i);
    }
    std::vector<std::uint16_t> expected = x;
    for (std::int64_t i = 0; i < n; ++i) {
      if (!bit(words, i)) expected[static_cast<std::size_t>(i)] = 0;
    }
    const std::uint64_t* const masks[] = {words.data()};
    for (const DType dtype : {DType::bfloat16, DType::float16}) {
      everywhere([&](int threads) {
        std::vector<std::uint16_t> y = x;
        const Array array(y.data(), dtype, n);
        apply_masks({&array, 1}, masks, threads);
        CHECK(y == expected);
      });
    }
    for (const DType dtype : {DType::float32, DType::float64}) {
      const auto item = static_cast<std::int64_t>(item_size(dtype));
      std::vector<std::byte> bytes(static_cast<std::size_t>(n * item));
      for (std::byte& b : bytes)
        b = static_cast<std::byte>(random.integer(0, 255));
      std::vector<std::byte> zeroed = bytes;
      for (std::int64_t i = 0; i < n; ++i) {
        if (!bit(words, i)) std::fill_n(zeroed.begin() + i * item, item, std::byte{0});
      }
      everywhere([&](int threads) {
        std::vector<std::byte> y = bytes;
        const Array array(y.data(), dtype, n);
        apply_masks({&array, 1}, masks, threads);
        CHECK(y == zeroed);
      });
    }
  }
}

#if defined(__linux__)
TEST_CASE("lines that stay as they are are not written") {
  constexpr std::size_t bytes = 1 << 20;
  void* const memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  for (const DType dtype : {DType::float32, DType::float64, DType::bfloat16, DType::float16}) {
    const std::size_t item = item_size(dtype);
    const auto n = static_cast<std::int64_t>(bytes / item);
    REQUIRE(mprotect(memory, bytes, PROT_READ | PROT_WRITE) == 0);
    // All bytes 0x3c: some number. Every third element is 0 and goes; so does a whole stretch.
    std::memset(memory, 0x3c, bytes);
    Words words(static_cast<std::size_t>(mask_words(n)), ~std::uint64_t{0});
    const Words all = words;
    for (std::int64_t i = 0; i < n; ++i) {
      if (i % 3 != 0 && (i < n / 2 || i >= n / 2 + 1000)) continue;
      std::memset(static_cast<char*>(memory) + static_cast<std::size_t>(i) * item, 0, item);
      words[static_cast<std::size_t>(i) / 64] &= ~(std::uint64_t{1} << i % 64);
    }
    REQUIRE(mprotect(memory, bytes, PROT_READ) == 0);
    const Array array(memory, dtype, n);
    everywhere([&](int threads) {
      for (const Words& own : {all, words}) {
        const std::uint64_t* const masks[] = {own.data()};
        apply_masks({&array, 1}, masks, threads);
      }
    });
  }
  munmap(memory, bytes);
  CHECK(true);
}
#endif

template <class F>
void refused(const char* text, F f) {
  CHECK_THROWS_WITH_AS(f(), doctest::Contains(text), ArgumentError);
}

TEST_CASE("bad arguments are refused before anything is written") {
  std::vector<float> x(100, 1.0F);
  const Array array(x.data(), 100);
  const Array both[] = {array, Array(x.data() + 10, 90)};
  Words words(2, 7);
  const Words before = words;
  std::uint64_t* const own[] = {words.data(), words.data()};
  const std::uint64_t* const masks[] = {words.data(), words.data()};
  std::vector<double> scores(1, 5.0);
  const std::int64_t shape[] = {100};
  std::int64_t below = 0;
  std::vector<std::int64_t> few(7);
  const Ranking ranking;
  refused("n: got 5, wants 0 to m",
          [&] { prune_n_of_m(array, 1, 100, 1, 5, 4, ranking, nullptr, words.data()); });
  refused("n: got -1",
          [&] { prune_n_of_m(array, 1, 100, 1, -1, 4, ranking, nullptr, words.data()); });
  for (const int m : {0, 65, -4}) {
    refused("m: got ",
            [&] { prune_n_of_m(array, 1, 100, 1, 0, m, ranking, nullptr, words.data()); });
  }
  for (const double ord : {0.0, -1.0, nan})
    refused("ord: got ", [&] { block_powers(array, shape, shape, ord, nullptr, nullptr, scores); });
  for (const double strength : {-0.1, 1.1, nan, inf})
    refused("strength: got ", [&] { random_shrink({&array, 1}, strength, key); });
  refused("params[1]", [&] { random_shrink(both, 0.5, key); });
  refused("params[1]", [&] { apply_masks(both, masks); });
  refused("bins: got 7, wants 2048", [&] {
    rank_histogram({&array, 1}, {{&ranking, 1}, {}, {own, 1}}, 0, 0, below, few);
  });
  refused("bins: got 7, wants 2048", [&] {
    random_histogram({&array, 1}, {{&ranking, 1}, {}, {own, 1}}, key, 0, 0, 0, below, few);
  });
  CHECK(words == before);
  CHECK(scores[0] == 5.0);
  CHECK(std::ranges::all_of(x, [](float v) { return v == 1.0F; }));
}

}  // namespace
