// Strided arrays against lists of addresses.
#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "doctest/doctest.h"
#include "ops/checks.hpp"
#include "ops/strided.hpp"
#include "random.hpp"

namespace {

using namespace ridgeline;
using test::Random;

alignas(64) std::byte memory[1 << 16];

struct Sample {
  Array array;
  std::vector<std::byte*> elements;  ///< in C order
};

/// Up to four axes with steps of either sign that may be zero, unaligned, nested or not.
Sample random_sample(Random& random, std::int64_t spread = 256) {
  constexpr DType dtypes[] = {DType::float32, DType::float64, DType::bfloat16, DType::float16};
  const DType dtype = dtypes[random.integer(0, 3)];
  const auto item = static_cast<std::int64_t>(item_size(dtype));
  std::vector<std::int64_t> shape(static_cast<std::size_t>(random.integer(0, 4)));
  std::vector<std::int64_t> strides(shape.size());
  std::int64_t inner = item;
  for (std::size_t i = shape.size(); i-- > 0;) {
    shape[i] = random.integer(random.integer(0, 9) == 0 ? 0 : 1, 5);
    switch (random.integer(0, 7)) {
    case 0:
      strides[i] = random.integer(-40, 40);
      break;
    case 1:
      strides[i] = item * random.integer(-8, 8);
      break;
    case 2:
      strides[i] = inner * random.integer(1, 3);
      break;
    case 3:
      strides[i] = -inner;
      break;
    case 4:
      strides[i] = inner + item * random.integer(0, 2);
      break;
    default:
      strides[i] = inner;
    }
    inner = std::abs(strides[i]) * shape[i];
  }
  for (int swaps = 0; swaps < 2 && shape.size() > 1 && random.integer(0, 2) == 0; ++swaps) {
    const auto a = static_cast<std::size_t>(random.integer(0, std::ssize(shape) - 1));
    std::swap(shape[0], shape[a]);
    std::swap(strides[0], strides[a]);
  }
  std::byte* data = memory + sizeof memory / 2 + random.integer(-spread, spread);

  Sample sample{Array(data, dtype, shape, strides), {}};
  std::vector<std::int64_t> index(shape.size(), 0);
  for (std::int64_t i = 0; i < sample.array.size; ++i) {
    std::byte* address = data;
    for (std::size_t axis = 0; axis < shape.size(); ++axis)
      address += index[axis] * strides[axis];
    sample.elements.push_back(address);
    for (std::size_t axis = shape.size(); axis-- > 0;) {
      if (++index[axis] < shape[axis]) break;
      index[axis] = 0;
    }
  }
  return sample;
}

void fill_memory(Random& random) {
  for (std::byte& b : memory)
    b = static_cast<std::byte>(random.bits());
}

std::vector<std::byte*> elements_of(const Array& array) {
  // gather() tells where an element was if every address holds something else.
  std::vector<std::byte*> addresses;
  for (std::int64_t i = 0; i < array.size; ++i) {
    std::int64_t rest = i;
    auto* address = static_cast<std::byte*>(array.data);
    if (array.contiguous()) {
      address += i * static_cast<std::int64_t>(item_size(array.dtype));
    } else {
      for (auto dim = array.dims.rbegin(); dim != array.dims.rend(); ++dim) {
        address += rest % dim->extent * dim->stride;
        rest /= dim->extent;
      }
    }
    addresses.push_back(address);
  }
  return addresses;
}

std::map<std::byte*, int> touched(const Sample& sample) {
  std::map<std::byte*, int> bytes;
  for (std::byte* element : sample.elements) {
    for (std::size_t b = 0; b < item_size(sample.array.dtype); ++b)
      ++bytes[element + b];
  }
  return bytes;
}

}  // namespace

TEST_CASE("an array's dims give the elements of its shape and strides") {
  Random random(1);
  for (int round = 0; round < 20000; ++round) {
    const Sample sample = random_sample(random);
    REQUIRE(elements_of(sample.array) == sample.elements);
  }
}

TEST_CASE("gather and scatter") {
  Random random(2);
  fill_memory(random);
  for (int round = 0; round < 20000; ++round) {
    const Sample sample = random_sample(random);
    const std::size_t item = item_size(sample.array.dtype);
    const std::int64_t begin = random.integer(0, sample.array.size);
    const std::int64_t count = random.integer(0, sample.array.size - begin);
    if (count == 0) continue;
    const auto bytes = static_cast<std::size_t>(count) * item;
    std::vector<std::byte> tile(bytes + 1, std::byte{1});
    gather(sample.array, begin, count, tile.data());
    for (std::int64_t i = 0; i < count; ++i) {
      REQUIRE(std::memcmp(tile.data() + static_cast<std::size_t>(i) * item,
                          sample.elements[static_cast<std::size_t>(begin + i)], item) == 0);
    }
    REQUIRE(tile[bytes] == std::byte{1});

    if (overlaps_itself(sample.array)) continue;
    for (std::byte& b : tile)
      b = static_cast<std::byte>(random.bits());
    std::vector<std::byte> expected(std::begin(memory), std::end(memory));
    for (std::int64_t i = 0; i < count; ++i) {
      std::byte* element = sample.elements[static_cast<std::size_t>(begin + i)];
      std::memcpy(expected.data() + (element - memory),
                  tile.data() + static_cast<std::size_t>(i) * item, item);
    }
    scatter(sample.array, begin, count, tile.data());
    REQUIRE(std::memcmp(expected.data(), memory, sizeof memory) == 0);
  }
}

TEST_CASE("contiguous_part finds elements that follow each other") {
  Random random(3);
  int found = 0;
  for (int round = 0; round < 20000; ++round) {
    const Sample sample = random_sample(random);
    const auto item = static_cast<std::int64_t>(item_size(sample.array.dtype));
    const std::int64_t begin = random.integer(0, sample.array.size);
    const std::int64_t count = random.integer(0, sample.array.size - begin);
    if (count == 0) continue;
    const void* part = contiguous_part(sample.array, begin, count);
    bool follow = true;
    std::byte* first = sample.elements[static_cast<std::size_t>(begin)];
    for (std::int64_t i = 0; i < count; ++i)
      follow = follow && sample.elements[static_cast<std::size_t>(begin + i)] == first + i * item;
    if (part != nullptr) {
      ++found;
      REQUIRE(part == first);
      REQUIRE(follow);
    } else if (count > 1) {
      REQUIRE_FALSE(follow);
    }
  }
  CHECK(found > 1000);
}

TEST_CASE("extent_of holds every byte and no more") {
  Random random(4);
  for (int round = 0; round < 20000; ++round) {
    const Sample sample = random_sample(random);
    if (sample.array.size == 0) continue;
    const auto bytes = touched(sample);
    const Extent extent = extent_of(sample.array);
    REQUIRE(extent.first == reinterpret_cast<std::uintptr_t>(bytes.begin()->first));
    REQUIRE(extent.last == reinterpret_cast<std::uintptr_t>(bytes.rbegin()->first) + 1);
  }
}

TEST_CASE("in_memory_order keeps the elements") {
  Random random(5);
  for (int round = 0; round < 20000; ++round) {
    const Sample sample = random_sample(random);
    const Array ordered = in_memory_order(sample.array);
    REQUIRE(ordered.size == sample.array.size);
    REQUIRE(ordered.dtype == sample.array.dtype);
    std::vector<std::byte*> expected = sample.elements;
    std::vector<std::byte*> actual = elements_of(ordered);
    std::ranges::sort(expected);
    std::ranges::sort(actual);
    REQUIRE(actual == expected);
    // Contiguous exactly if the sorted elements are.
    const auto item = static_cast<std::ptrdiff_t>(item_size(sample.array.dtype));
    bool fills = true;
    for (std::size_t i = 1; i < expected.size(); ++i)
      fills = fills && expected[i] - expected[i - 1] == item;
    if (sample.array.size > 0 && !overlaps_itself(sample.array))
      REQUIRE(ordered.contiguous() == fills);
  }
}

TEST_CASE("in_memory_order of two arrays keeps the pairs") {
  Random random(6);
  for (int round = 0; round < 20000; ++round) {
    const Sample sample = random_sample(random);
    Array a = sample.array;
    Array b = sample.array;
    b.data = memory;
    if (random.integer(0, 3) == 0 && !b.dims.empty()) b.dims[0].stride += 64;
    std::multiset<std::pair<std::byte*, std::byte*>> expected;
    std::multiset<std::pair<std::byte*, std::byte*>> actual;
    const auto add_pairs = [&](auto& pairs) {
      const auto x = elements_of(a);
      const auto y = elements_of(b);
      for (std::size_t i = 0; i < x.size(); ++i)
        pairs.emplace(x[i], y[i]);
    };
    add_pairs(expected);
    in_memory_order(a, b);
    add_pairs(actual);
    REQUIRE(actual == expected);
  }
}

TEST_CASE("overlaps_itself is exact") {
  Random random(7);
  int yes = 0;
  for (int round = 0; round < 50000; ++round) {
    const Sample sample = random_sample(random);
    bool expected = false;
    for (const auto& [byte, count] : touched(sample))
      expected = expected || count > 1;
    yes += expected ? 1 : 0;
    REQUIRE(overlaps_itself(sample.array) == expected);
  }
  CHECK(yes > 1000);
}

TEST_CASE("overlap is exact") {
  Random random(8);
  int yes = 0;
  int close = 0;
  const auto check = [&](const Sample& a, const Sample& b) {
    const auto x = touched(a);
    const auto y = touched(b);
    bool expected = false;
    for (const auto& [byte, count] : x)
      expected = expected || y.contains(byte);
    yes += expected ? 1 : 0;
    if (!x.empty() && !y.empty() && !expected)
      close += x.begin()->first < y.rbegin()->first && y.begin()->first < x.rbegin()->first;
    CAPTURE(a.array.dims.size());
    REQUIRE(overlap(a.array, b.array) == expected);
    REQUIRE(overlap(b.array, a.array) == expected);
  };
  for (int round = 0; round < 50000; ++round) {
    const Sample a = random_sample(random, 64);
    check(a, random_sample(random, 64));
  }
  CHECK(yes > 1000);
  CHECK(close > 1000);
}

TEST_CASE("overlap of windows in one matrix is exact") {
  // Slices of one lattice with the strides of the matrix, where offsets alone decide.
  Random random(9);
  int yes = 0;
  for (int round = 0; round < 50000; ++round) {
    const std::int64_t rows = random.integer(2, 7);
    const std::int64_t columns = random.integer(2, 7);
    const bool half[] = {random.integer(0, 3) == 0, random.integer(0, 3) == 0};
    const std::int64_t column_stride = random.integer(0, 3) == 0 ? 4 : 8;
    const std::int64_t row_stride =
        columns * column_stride + random.integer(0, 1) * random.integer(0, 9);
    Array window[2];
    std::set<std::byte*> bytes[2];
    for (std::size_t w = 0; w < 2; ++w) {
      const std::int64_t r = random.integer(0, rows - 1);
      const std::int64_t c = random.integer(0, columns - 1);
      const std::int64_t shape[] = {random.integer(1, rows - r), random.integer(1, columns - c)};
      const std::int64_t sign = random.integer(0, 1) * 2 - 1;
      const std::int64_t strides[] = {row_stride, sign * column_stride};
      std::byte* data =
          memory + 1024 + r * row_stride + c * column_stride + random.integer(0, 1) * 4;
      if (sign < 0) data += (shape[1] - 1) * column_stride;
      const DType dtype = half[w] ? DType::float32 : DType::float64;
      window[w] = Array(data, dtype, shape, strides);
      for (std::byte* element : elements_of(window[w])) {
        for (std::size_t b = 0; b < item_size(dtype); ++b)
          bytes[w].insert(element + b);
      }
    }
    bool expected = false;
    for (std::byte* byte : bytes[0])
      expected = expected || bytes[1].contains(byte);
    yes += expected ? 1 : 0;
    REQUIRE(overlap(window[0], window[1]) == expected);
    REQUIRE(overlap(window[1], window[0]) == expected);
  }
  CHECK(yes > 1000);
}

TEST_CASE("lists of slices of one matrix: whether any two overlap is exact") {
  Random random(10);
  int yes = 0;
  int no = 0;
  for (int round = 0; round < 20000; ++round) {
    // A block (a, b, c) of float64, some of whose slices are columns, tiles and interleaved rows.
    constexpr std::int64_t extents[] = {4, 6, 8};
    constexpr std::int64_t strides[] = {6 * 8 * 8, 8 * 8, 8};
    std::vector<Array> arrays;
    std::set<std::byte*> taken;
    bool expected = false;
    const std::int64_t count = random.integer(9, 24);
    for (std::int64_t k = 0; k < count; ++k) {
      std::int64_t shape[3];
      std::int64_t steps[3];
      std::byte* data = memory;
      for (int axis = 0; axis < 3; ++axis) {
        const std::int64_t first = random.integer(0, extents[axis] - 1);
        const std::int64_t step = random.integer(1, 3);
        const std::int64_t most = (extents[axis] - first + step - 1) / step;
        shape[axis] = random.integer(0, 3) == 0 ? most : 1;
        steps[axis] = step * strides[axis];
        data += first * strides[axis];
        if (random.integer(0, 3) == 0) {
          data += (shape[axis] - 1) * steps[axis];
          steps[axis] = -steps[axis];
        }
      }
      const DType dtype = random.integer(0, 3) == 0 ? DType::float32 : DType::float64;
      if (dtype == DType::float32) data += 4 * random.integer(0, 1);
      arrays.emplace_back(data, dtype, shape, steps);
      for (std::byte* element : elements_of(arrays.back())) {
        for (std::size_t b = 0; b < item_size(dtype); ++b)
          expected = !taken.insert(element + b).second || expected;
      }
    }
    bool found = false;
    try {
      check_disjoint("arrays", arrays);
    } catch (const ArgumentError&) {
      found = true;
    }
    REQUIRE(found == expected);
    ++(expected ? yes : no);
  }
  CHECK(yes > 1000);
  CHECK(no > 1000);
}
