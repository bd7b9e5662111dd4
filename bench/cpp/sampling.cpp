#include "sampling.hpp"

#include <algorithm>

namespace ridgeline::bench {

void sample_passes(Pattern pattern, const MemoryRegions& arrays, std::size_t bytes, int threads,
                   std::vector<double>& seconds) {
  constexpr double wanted = 10e-3;
  constexpr double shortest_sample = 200e-6;
  const auto time = [&](int passes) {
    return std::max(memory_pass(pattern, arrays, bytes, threads, passes), 1e-9);
  };
  const double first = time(1);  // not counted: faults, caches, sleeping threads
  const double guess = first < shortest_sample ? time(3) : first;
  const int passes = static_cast<int>(shortest_sample / guess) + 1;
  double spent = 0;
  for (int runs = 0; runs < 3 || spent < wanted; ++runs) {
    seconds.push_back(time(passes));
    spent += seconds.back() * passes;
  }
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

}  // namespace ridgeline::bench
