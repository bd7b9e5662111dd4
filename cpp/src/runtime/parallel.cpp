// The only file that opens parallel regions.
#include "runtime/parallel.hpp"

#include <atomic>
#include <stdexcept>
#include <string>

#include "ridgeline/runtime.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ridgeline {
namespace {

/// Work that one thread does in about 20 us: below it a second one gains little, and costs much
/// where the cores are busy (docs/decisions/0002-threads.md).
constexpr std::int64_t grain = 262144;

std::atomic<int> process_setting{0};
thread_local int thread_limit = 0;
std::atomic<bool> forked_child{false};

#if defined(_OPENMP) && (defined(__unix__) || defined(__APPLE__))
// libgomp's team does not survive fork, and a region in the child would wait for it for ever (GCC
// bug 52303).
[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { forked_child.store(true, std::memory_order_relaxed); });
#endif

int team_size(std::int64_t work, int limit) {
#if defined(_OPENMP)
  if (work < grain || limit == 1) return 1;
  if (forked_child.load(std::memory_order_relaxed) || omp_in_parallel() != 0) return 1;
  return limit > 0 ? limit : num_threads();
#else
  static_cast<void>(work);
  static_cast<void>(limit);
  return 1;
#endif
}

int checked(int n, const char* function) {
  if (n < 0) {
    throw std::invalid_argument(std::string("n: got ") + std::to_string(n) + ", " + function +
                                " wants 1 or more, or 0 for the default");
  }
  return n;
}

#if defined(__x86_64__)
constexpr unsigned default_settings = 0x1f80;
constexpr unsigned flags = 0x3f;  // what arithmetic leaves behind: not a setting
std::uint64_t float_settings() { return _mm_getcsr() & ~flags; }
void set_float_settings(std::uint64_t value) { _mm_setcsr(static_cast<unsigned>(value)); }
#elif defined(__aarch64__)
constexpr std::uint64_t default_settings = 0;
std::uint64_t float_settings() {
  std::uint64_t value = 0;
  __asm__ volatile("mrs %0, fpcr" : "=r"(value));
  return value;
}
void set_float_settings(std::uint64_t value) { __asm__ volatile("msr fpcr, %0" : : "r"(value)); }
#else
constexpr std::uint64_t default_settings = 0;
std::uint64_t float_settings() { return 0; }
void set_float_settings(std::uint64_t) {}
#endif

}  // namespace

FloatEnvironment::FloatEnvironment() : saved_(float_settings()) {
  if (saved_ != default_settings) set_float_settings(default_settings);
}
FloatEnvironment::~FloatEnvironment() {
  if (saved_ != default_settings) set_float_settings(saved_);
}

void Team::barrier() const {
#if defined(_OPENMP)
  if (size > 1) {
#pragma omp barrier
  }
#endif
}

namespace detail {

void run_team(std::int64_t work, int limit, void (*body)(void*, Team), void* context) {
  const int size = team_size(work, limit);
  if (size == 1) {
    const FloatEnvironment environment;
    body(context, Team{0, 1});
    return;
  }
#if defined(_OPENMP)
#pragma omp parallel num_threads(size)
  {
    const FloatEnvironment environment;
    body(context, Team{omp_get_thread_num(), omp_get_num_threads()});
  }
#endif
}

}  // namespace detail

int num_threads() {
  if (thread_limit > 0) return thread_limit;
  const int setting = process_setting.load(std::memory_order_relaxed);
  if (setting > 0) return setting;
#if defined(_OPENMP)
  return omp_get_max_threads();
#else
  return 1;
#endif
}

void set_num_threads(int n) { process_setting.store(checked(n, "set_num_threads")); }

int exchange_thread_limit(int n) {
  const int before = thread_limit;
  thread_limit = checked(n, "threads");
  return before;
}

ThreadLimit::ThreadLimit(int n) : outer_(exchange_thread_limit(n)) {}
ThreadLimit::~ThreadLimit() { thread_limit = outer_; }

bool has_openmp() {
#if defined(_OPENMP)
  return true;
#else
  return false;
#endif
}

}  // namespace ridgeline
