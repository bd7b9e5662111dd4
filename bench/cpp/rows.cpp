#include "rows.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <new>
#include <numeric>
#include <random>

#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include "ridgeline/runtime.hpp"

namespace ridgeline::bench {
namespace {

constexpr std::size_t kib = 1024;
constexpr std::size_t mib = 1024 * kib;
constexpr std::size_t page = 2 * mib;
const std::vector<int> thread_counts = {1, 2};

/// How elements are split into arrays.
struct Layout {
  std::string name;
  std::size_t bytes;               ///< of the one array, whatever its dtype; 0: see `sizes`
  std::vector<std::size_t> sizes;  ///< elements of each array of a list

  std::vector<std::size_t> elements(DType dtype) const {
    return bytes > 0 ? std::vector{bytes / item_size(dtype)} : sizes;
  }
  std::size_t total_bytes(DType dtype) const {
    const std::vector<std::size_t> all = elements(dtype);
    return std::accumulate(all.begin(), all.end(), std::size_t{0}) * item_size(dtype);
  }
};

const std::vector<Layout> layouts = {
#define BYTES(name, bytes) {name, bytes, {}},
#define LAYOUT(name, ...) {name, 0, {__VA_ARGS__}},
#define REPEAT(name, count, elements) {name, 0, std::vector<std::size_t>(count, elements)},
#include "shapes.def"
#undef BYTES
#undef LAYOUT
#undef REPEAT
};

bool measured(const Layout& layout, On on, DType dtype) {
  constexpr std::size_t large = 128 * mib;
  if (layout.bytes > 0) return on != On::lists;
  if (dtype != DType::float32 || on == On::array) return false;
  return on != On::usual || layout.total_bytes(dtype) < large;
}

/// Four regions of huge pages, used by all rows in turn.
class Memory {
 public:
  static constexpr std::size_t count = 4;
  static Memory& get() {
    static Memory memory;
    return memory;
  }
  /// Region k. Regions start at different offsets modulo 4096, lest stores and loads of the same
  /// index look like one address to the core.
  std::byte* region(std::size_t k) const { return regions_[k]; }

 private:
  static constexpr std::size_t capacity = 512 * mib;  // what no row touches takes no memory
  Memory() {
    for (std::size_t k = 0; k < count; ++k) {
      void* at = mmap(nullptr, capacity + 2 * page, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (at == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
      madvise(at, capacity + 2 * page, MADV_HUGEPAGE);
#endif
      const std::size_t past_page = reinterpret_cast<std::uintptr_t>(at) % page;
      regions_[k] = static_cast<std::byte*>(at) + (page - past_page) + k * 1088;
    }
  }
  std::byte* regions_[count];
};

/// The arrays of a pattern.
MemoryRegions arrays_of(Pattern pattern) {
  const Memory& memory = Memory::get();
  const bool writes_third =
      pattern == Pattern::copy || pattern == Pattern::stream || pattern == Pattern::write;
  const std::size_t other = writes_third ? 2 : 1;
  return {memory.region(0), memory.region(other), memory.region(2), memory.region(3)};
}

std::uint16_t to_bits16(DType dtype, float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (dtype == DType::bfloat16) return static_cast<std::uint16_t>(bits >> 16);
  // float16 of a magnitude in [0.5, 2): bias 127 becomes 15
  const std::uint32_t exponent = ((bits >> 23) & 0xff) - 127 + 15;
  return static_cast<std::uint16_t>((bits >> 16 & 0x8000) | exponent << 10 | (bits >> 13 & 0x3ff));
}

/// 64 KiB of random elements.
std::vector<std::byte> sample(DType dtype, unsigned seed) {
  std::vector<std::byte> bytes(64 * kib);
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> magnitude(0.5f, 2.0f);
  const std::size_t size = item_size(dtype);
  for (std::size_t at = 0; at < bytes.size(); at += size) {
    const float x = std::min(magnitude(random), 1.999f) * (random() % 2 == 0 ? 1.0f : -1.0f);
    const double wide = x;
    const std::uint16_t half = to_bits16(dtype, x);
    const void* from = dtype == DType::float32   ? static_cast<const void*>(&x)
                       : dtype == DType::float64 ? static_cast<const void*>(&wide)
                                                 : static_cast<const void*>(&half);
    std::memcpy(&bytes[at], from, size);
  }
  return bytes;
}

std::vector<Array> fill(std::size_t region, DType dtype, const Layout& layout) {
  std::byte* const begin = Memory::get().region(region);
  const std::vector<std::byte> random = sample(dtype, 1 + static_cast<unsigned>(region));
  const std::size_t total = layout.total_bytes(dtype);
  for (std::size_t done = 0; done < total; done += random.size())
    std::memcpy(begin + done, random.data(), std::min(random.size(), total - done));
  std::vector<Array> arrays;
  std::size_t at = 0;
  for (const std::size_t elements : layout.elements(dtype)) {
    arrays.emplace_back(begin + at, dtype, static_cast<std::int64_t>(elements));
    at += elements * item_size(dtype);
  }
  return arrays;
}

/// The best that one thread or all of them reach: small arrays are not worth a team.
class Roof {
 public:
  Roof(std::vector<Pattern> passes, std::size_t bytes, int threads)
      : passes_(std::move(passes)), bytes_(bytes), threads_(threads), samples_(passes_.size()) {}

  void measure() {
    for (std::size_t p = 0; p < passes_.size(); ++p) {
      const auto measure = [&](Pattern pattern, Samples& samples) {
        const MemoryRegions arrays = arrays_of(pattern);
        sample_passes(pattern, arrays, bytes_, 1, samples.one);
        if (threads_ > 1) sample_passes(pattern, arrays, bytes_, threads_, samples.all);
      };
      measure(passes_[p], samples_[p]);
      if (passes_[p] == Pattern::copy) measure(Pattern::stream, streamed_);
    }
  }

  double seconds() const {
    double sum = 0;
    for (std::size_t p = 0; p < passes_.size(); ++p) {
      const double plain = samples_[p].best();
      sum += passes_[p] == Pattern::copy ? std::min(plain, streamed_.best()) : plain;
    }
    return sum;
  }

  double traffic_bytes() const {
    double sum = 0;
    for (const Pattern p : passes_)
      sum += memory_traffic(p) * static_cast<double>(bytes_);
    return sum;
  }

 private:
  struct Samples {
    std::vector<double> one, all;
    double best() const { return all.empty() ? median(one) : std::min(median(one), median(all)); }
  };
  std::vector<Pattern> passes_;
  std::size_t bytes_;
  int threads_;
  std::vector<Samples> samples_;
  Samples streamed_;  ///< a copy may use either kind of store
};

/// Runs the loop of `state` and returns the times of a call, over runs of 100 microseconds or more:
/// unlike the mean that google-benchmark reports, their median forgets what interrupted the
/// program.
std::vector<double> times(benchmark::State& state, const Call& call) {
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  call();
  auto start = Clock::now();
  call();
  const auto calls =
      static_cast<benchmark::IterationCount>(1e-4 / std::max(since(start), 1e-7)) + 1;
  std::vector<double> runs;
  benchmark::IterationCount done = 0;
  start = Clock::now();
  const auto finish_run = [&] {
    runs.push_back(since(start) / static_cast<double>(done));
    done = 0;
    start = Clock::now();
  };
  for ([[maybe_unused]] auto _ : state) {
    call();
    if (++done == calls) finish_run();
  }
  if (runs.empty()) finish_run();
  return runs;
}

void run_row(benchmark::State& state, const Op& op, DType dtype, const std::string& target,
             const Layout& layout, int threads) {
  use_target(target);
  const Data data{fill(0, dtype, layout), fill(1, dtype, layout), fill(2, dtype, layout),
                  fill(3, dtype, layout)};
  Roof roof(op.passes, layout.total_bytes(dtype), threads);
  roof.measure();
  const Call call = op.prepare(data, threads);
  const std::vector<double> runs = times(state, call);
  roof.measure();

  const double seconds = median(runs);
  const auto [least, most] = std::minmax_element(runs.begin(), runs.end());
  state.counters["median_us"] = seconds * 1e6;
  state.counters["min_us"] = *least * 1e6;
  state.counters["max_us"] = *most * 1e6;
  state.counters["GB/s"] = roof.traffic_bytes() / seconds * 1e-9;
  state.counters["roof_GB/s"] = roof.traffic_bytes() / roof.seconds() * 1e-9;
  state.counters["of_roof"] = roof.seconds() / seconds;
  if (data.grads.size() > 1)
    state.counters["ns/array"] = seconds * 1e9 / static_cast<double>(data.grads.size());
}

std::string joined(std::initializer_list<std::string> words) {
  std::string name;
  for (const std::string& word : words)
    name.append(name.empty() ? "" : "/").append(word);
  return name;
}

}  // namespace

void add_rows(const Op& op, const std::vector<DType>& dtypes) {
  for (const DType dtype : dtypes) {
    for (const std::string& target : targets()) {
      for (const Layout& layout : layouts) {
        if (!measured(layout, op.on, dtype)) continue;
        for (const int threads : thread_counts) {
          const auto row = [=, &layout](benchmark::State& state) {
            run_row(state, op, dtype, target, layout, threads);
          };
          const std::string name = joined(
              {op.name, ridgeline::name_of(dtype), target, layout.name, std::to_string(threads)});
          benchmark::RegisterBenchmark(name.c_str(), row)
              ->UseRealTime()
              ->Unit(benchmark::kMicrosecond);
        }
      }
    }
  }
}

void add_roof_rows() {
  for (std::size_t p = 0; p < memory_pattern_count; ++p) {
    for (const Layout& layout : layouts) {
      if (layout.bytes == 0) continue;
      for (const int threads : thread_counts) {
        const auto pattern = static_cast<Pattern>(p);
        const auto row = [=, &layout](benchmark::State& state) {
          for (std::size_t region = 0; region < Memory::count; ++region)
            fill(region, DType::float32, layout);
          const MemoryRegions arrays = arrays_of(pattern);
          std::vector<double> seconds;
          for ([[maybe_unused]] auto _ : state) {
            seconds.clear();
            sample_passes(pattern, arrays, layout.bytes, threads, seconds);
            state.SetIterationTime(median(seconds));
          }
          const double bytes = memory_traffic(pattern) * static_cast<double>(layout.bytes);
          state.counters["GB/s"] = bytes / median(seconds) * 1e-9;
        };
        const std::string name =
            joined({"roof", name_of(pattern), layout.name, std::to_string(threads)});
        benchmark::RegisterBenchmark(name.c_str(), row)
            ->UseManualTime()
            ->Iterations(3)
            ->Unit(benchmark::kMicrosecond);
      }
    }
  }
}

}  // namespace ridgeline::bench
