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

/// Below this many elements a second thread costs more than it saves
/// (docs/decisions/0002-threads.md).
constexpr std::int64_t grain = 32768;

std::atomic<int> process_setting{0};
thread_local int thread_limit = 0;
std::atomic<bool> forked_child{false};

#if defined(_OPENMP) && (defined(__unix__) || defined(__APPLE__))
// libgomp's team does not survive fork, and a region in the child would wait for it for ever (GCC
// bug 52303).
[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { forked_child.store(true, std::memory_order_relaxed); });
#endif

/// The default floating-point environment while it lives; a library that switched denormals off
/// (-ffast-math does when loaded) would change bits otherwise.
class DefaultFloatEnvironment {
#if defined(__x86_64__)
 public:
  DefaultFloatEnvironment() : saved_(_mm_getcsr()) {
    if (changed()) _mm_setcsr(0x1f80);
  }
  ~DefaultFloatEnvironment() {
    if (changed()) _mm_setcsr(saved_);
  }

 private:
  // The low six bits are flags that arithmetic leaves behind, not settings.
  bool changed() const { return (saved_ & ~0x3fu) != 0x1f80; }
  unsigned saved_;
#elif defined(__aarch64__)
 public:
  DefaultFloatEnvironment() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
    if (saved_ != 0) set(0);
  }
  ~DefaultFloatEnvironment() {
    if (saved_ != 0) set(saved_);
  }

 private:
  static void set(std::uint64_t value) { __asm__ volatile("msr fpcr, %0" : : "r"(value)); }
  std::uint64_t saved_ = 0;
#endif
};

int team_size(std::int64_t elements, int limit) {
#if defined(_OPENMP)
  if (elements < grain || limit == 1) return 1;
  if (forked_child.load(std::memory_order_relaxed) || omp_in_parallel() != 0) return 1;
  return limit > 0 ? limit : num_threads();
#else
  static_cast<void>(elements);
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

}  // namespace

void Team::barrier() const {
#if defined(_OPENMP)
  if (size > 1) {
#pragma omp barrier
  }
#endif
}

namespace detail {

void run_team(std::int64_t elements, int limit, void (*body)(void*, Team), void* context) {
  const int size = team_size(elements, limit);
  if (size == 1) {
    const DefaultFloatEnvironment environment;
    body(context, Team{0, 1});
    return;
  }
#if defined(_OPENMP)
#pragma omp parallel num_threads(size)
  {
    const DefaultFloatEnvironment environment;
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
