// ridgeline_bench: every kernel on every target, each row beside the memory roof of its moment.
#include <fstream>
#include <string>
#include <thread>

#include <benchmark/benchmark.h>

#include "ridgeline/runtime.hpp"
#include "rows.hpp"

namespace {

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

std::string huge_pages() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string line;
  return std::getline(file, line) ? line : "none";
}

const char* compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "gcc " __VERSION__;
#endif
}

}  // namespace

int main(int argc, char** argv) {
  std::string targets;
  for (const std::string& name : ridgeline::targets())
    targets.append(targets.empty() ? "" : " ").append(name);
  benchmark::AddCustomContext("cpu", cpu_model());
  benchmark::AddCustomContext("cores", std::to_string(std::thread::hardware_concurrency()));
  benchmark::AddCustomContext("huge pages", huge_pages());
  benchmark::AddCustomContext("compiler", compiler());
  benchmark::AddCustomContext("ridgeline", RIDGELINE_VERSION);
  benchmark::AddCustomContext("targets", targets);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  ridgeline::bench::add_roof_rows();
  ridgeline::bench::add_penalty_rows();
  ridgeline::bench::add_clipping_rows();
  ridgeline::bench::add_constraint_rows();
  ridgeline::bench::add_dropout_rows();
  ridgeline::bench::add_pruning_rows();
  ridgeline::bench::add_optimizer_rows();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
