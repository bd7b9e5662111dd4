#include "runtime/dispatch.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "ridgeline/runtime.hpp"
#include "runtime/cpu.hpp"

namespace ridgeline {

#define RIDGELINE_ROW(family, table) extern const table family;
#define RIDGELINE_TARGET(name)                                                                     \
  namespace name {                                                                                 \
  RIDGELINE_FAMILIES(RIDGELINE_ROW)                                                                \
  }
#include "runtime/targets.def"
#undef RIDGELINE_TARGET
#undef RIDGELINE_ROW

namespace {

constexpr Tables compiled[] = {
#define RIDGELINE_ROW(family, table) t.family = &family;
#define RIDGELINE_TARGET(name)                                                                     \
  [] {                                                                                             \
    using namespace name;                                                                          \
    Tables t{};                                                                                    \
    t.target = #name;                                                                              \
    RIDGELINE_FAMILIES(RIDGELINE_ROW)                                                              \
    return t;                                                                                      \
  }(),
#include "runtime/targets.def"
#undef RIDGELINE_TARGET
#undef RIDGELINE_ROW
};

const Tables& find(std::string_view name, const char* source) {
  for (const Tables& t : compiled) {
    if (name == t.target && cpu_runs(name)) return t;
  }
  std::string choices;
  for (const std::string& t : targets())
    choices += (choices.empty() ? "" : ", ") + t;
  throw std::invalid_argument(source + (": got '" + std::string(name)) +
                              "', wants one of the targets this CPU runs: " + choices);
}

const Tables* chosen_at_start() {
  const char* wanted = std::getenv("RIDGELINE_TARGET");
  if (wanted != nullptr && *wanted != '\0') return &find(wanted, "RIDGELINE_TARGET");
  return &best_tables();
}

std::atomic<const Tables*> active{nullptr};

}  // namespace

const Tables& tables() {
  const Tables* t = active.load(std::memory_order_acquire);
  if (t == nullptr) [[unlikely]] {
    const Tables* start = chosen_at_start();
    if (active.compare_exchange_strong(t, start)) t = start;
  }
  return *t;
}

const Tables& best_tables() { return *std::ranges::find_if(compiled, cpu_runs, &Tables::target); }

std::vector<std::string> targets() {
  std::vector<std::string> names;
  for (const Tables& t : compiled) {
    if (cpu_runs(t.target)) names.emplace_back(t.target);
  }
  return names;
}

std::string target() { return tables().target; }

void use_target(std::string_view name) {
  active.store(&find(name, "name"), std::memory_order_release);
}

}  // namespace ridgeline
