#include "rows.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <new>
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
  std::vector<std::size_t> bytes;
  std::size_t total() const {
    std::size_t sum = 0;
    for (const std::size_t b : bytes)
      sum += b;
    return sum;
  }
};

/// The 161 parameters of ResNet-50 (He et al. 2016), as torchvision has them.
std::vector<std::size_t> resnet50_bytes() {
  std::vector<std::size_t> elements;
  const auto convolution = [&](std::size_t out, std::size_t in, std::size_t side) {
    elements.push_back(out * in * side * side);
    for (int batch_norm = 0; batch_norm < 2; ++batch_norm)
      elements.push_back(out);
  };
  convolution(64, 3, 7);
  const std::size_t blocks[] = {3, 4, 6, 3};
  std::size_t in = 64;
  for (std::size_t stage = 0; stage < 4; ++stage) {
    const std::size_t width = std::size_t{64} << stage;
    for (std::size_t block = 0; block < blocks[stage]; ++block) {
      convolution(width, in, 1);
      convolution(width, width, 3);
      convolution(4 * width, width, 1);
      if (block == 0) convolution(4 * width, in, 1);
      in = 4 * width;
    }
  }
  elements.push_back(std::size_t{1000} * 2048);
  elements.push_back(1000);
  for (std::size_t& n : elements)
    n *= sizeof(float);
  return elements;
}

const std::vector<Layout> single_layouts = {
    {"16KiB", {16 * kib}}, {"512KiB", {512 * kib}}, {"64MiB", {64 * mib}}};

const std::vector<Layout>& list_layouts() {
  static const std::vector<Layout> layouts = {
      {"1000x256", std::vector<std::size_t>(1000, 256 * sizeof(float))},
      {"resnet50", resnet50_bytes()}};
  return layouts;
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
  static constexpr std::size_t capacity = 128 * mib;
  Memory() {
    for (std::size_t k = 0; k < count; ++k) {
      void* at = mmap(nullptr, capacity + 2 * page, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
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
Regions regions_of(Pattern pattern) {
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
  const std::size_t total = layout.total();
  for (std::size_t done = 0; done < total; done += random.size())
    std::memcpy(begin + done, random.data(), std::min(random.size(), total - done));
  std::vector<Array> arrays;
  std::size_t at = 0;
  for (const std::size_t bytes : layout.bytes) {
    arrays.emplace_back(begin + at, dtype, static_cast<std::int64_t>(bytes / item_size(dtype)));
    at += bytes;
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
        const Regions arrays = regions_of(pattern);
        time_passes(pattern, arrays, bytes_, 1, samples.one);
        if (threads_ > 1) time_passes(pattern, arrays, bytes_, threads_, samples.all);
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
    std::size_t sum = 0;
    for (const Pattern p : passes_)
      sum += traffic(p) * bytes_;
    return static_cast<double>(sum);
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

/// Runs the loop of `state` and returns the median time of a call, over runs of 100 microseconds or
/// more: unlike the mean that google-benchmark reports, it forgets what interrupted the program.
double median_time(benchmark::State& state, const Call& call) {
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
  return median(runs);
}

void run_row(benchmark::State& state, const Op& op, DType dtype, const std::string& target,
             const Layout& layout, int threads) {
  use_target(target);
  const Data data{fill(0, dtype, layout), fill(1, dtype, layout), fill(2, dtype, layout),
                  fill(3, dtype, layout)};
  Roof roof(op.passes, layout.total(), threads);
  roof.measure();
  const Call call = op.prepare(data, threads);
  const double seconds = median_time(state, call);
  roof.measure();

  state.counters["median_us"] = seconds * 1e6;
  state.counters["GB/s"] = roof.traffic_bytes() / seconds * 1e-9;
  state.counters["roof_GB/s"] = roof.traffic_bytes() / roof.seconds() * 1e-9;
  state.counters["of_roof"] = roof.seconds() / seconds;
  if (layout.bytes.size() > 1)
    state.counters["ns/array"] = seconds * 1e9 / static_cast<double>(layout.bytes.size());
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
      const auto add = [&](const Layout& layout) {
        for (const int threads : thread_counts) {
          const auto row = [=](benchmark::State& state) {
            run_row(state, op, dtype, target, layout, threads);
          };
          const std::string name = joined(
              {op.name, ridgeline::name_of(dtype), target, layout.name, std::to_string(threads)});
          benchmark::RegisterBenchmark(name.c_str(), row)
              ->UseRealTime()
              ->Unit(benchmark::kMicrosecond);
        }
      };
      std::for_each(single_layouts.begin(), single_layouts.end(), add);
      if (dtype == DType::float32) std::for_each(list_layouts().begin(), list_layouts().end(), add);
    }
  }
}

void add_roof_rows() {
  for (const Pattern pattern : {Pattern::read, Pattern::rewrite, Pattern::add, Pattern::copy,
                                Pattern::stream, Pattern::write, Pattern::momentum, Pattern::adam,
                                Pattern::adam_wide, Pattern::adam_narrow, Pattern::adam_bytes}) {
    for (const Layout& layout : single_layouts) {
      for (const int threads : thread_counts) {
        const auto row = [=](benchmark::State& state) {
          for (std::size_t region = 0; region < Memory::count; ++region)
            fill(region, DType::float32, layout);
          const Regions arrays = regions_of(pattern);
          std::vector<double> seconds;
          for ([[maybe_unused]] auto _ : state) {
            seconds.clear();
            time_passes(pattern, arrays, layout.total(), threads, seconds);
            state.SetIterationTime(median(seconds));
          }
          state.counters["GB/s"] =
              static_cast<double>(traffic(pattern) * layout.total()) / median(seconds) * 1e-9;
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
