// The only file that opens parallel regions.
#include "runtime/parallel.hpp"

#include <algorithm>
#include <atomic>
#include <new>
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

int checked(int n, const char* function) {
  if (n < 0) {
    throw std::invalid_argument(std::string("n: got ") + std::to_string(n) + ", " + function +
                                " wants 1 or more, or 0 for the default");
  }
  return std::min(n, most_threads);
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

namespace {

constexpr std::align_val_t line{64};  // of the cache

/// The scratch memory of the teams that a thread opens.
class Slabs {
 public:
  Slabs() = default;
  ~Slabs() { release(); }
  Slabs(const Slabs&) = delete;
  Slabs& operator=(const Slabs&) = delete;

  std::byte* of(int threads) {
    if (threads > threads_) {
      release();
      const std::size_t bytes = static_cast<std::size_t>(threads) * Scratch::size;
      memory_ = static_cast<std::byte*>(::operator new(bytes, line));
      threads_ = threads;
    }
    return memory_;
  }

 private:
  void release() {
    ::operator delete(memory_, line);
    memory_ = nullptr;
    threads_ = 0;
  }

  std::byte* memory_ = nullptr;
  int threads_ = 0;
};
thread_local Slabs slabs;

/// What is left of this thread's scratch memory; null outside of regions.
struct Rest {
  std::byte* begin;
  std::size_t bytes;
};
thread_local Rest rest{nullptr, 0};

/// A thread's part in a region.
void take_part(std::byte* scratch, void (*body)(void*, Team), void* context, Team team) {
  const FloatEnvironment environment;
  struct Inside {
    Rest outer = rest;
    ~Inside() { rest = outer; }
  } const inside;
  if (scratch != nullptr)
    rest = {scratch + static_cast<std::size_t>(team.rank) * Scratch::size, Scratch::size};
  body(context, team);
}

}  // namespace

TeamSize team_for(std::int64_t work, int limit) {
#if defined(_OPENMP)
  if (work < grain || limit == 1 || in_region()) return {1};
  if (forked_child.load(std::memory_order_relaxed) || omp_in_parallel() != 0) return {1};
  return {limit > 0 ? std::min(limit, most_threads) : num_threads()};
#else
  static_cast<void>(work);
  static_cast<void>(limit);
  return {1};
#endif
}

bool in_region() { return rest.begin != nullptr; }

namespace detail {

void run_team(TeamSize size, void (*body)(void*, Team), void* context) {
  // A region inside another one goes on with the memory of its thread.
  std::byte* scratch = in_region() ? nullptr : slabs.of(size.most);
  if (size.most == 1) return take_part(scratch, body, context, Team{0, 1});
#if defined(_OPENMP)
#pragma omp parallel num_threads(size.most)
  take_part(scratch, body, context, Team{omp_get_thread_num(), omp_get_num_threads()});
#endif
}

}  // namespace detail

Scratch::Scratch(std::size_t bytes) : bytes_((bytes + 63) / 64 * 64), own_(bytes_ > rest.bytes) {
  if (own_) {
    data_ = ::operator new(bytes_, line);
    return;
  }
  data_ = rest.begin;
  rest.begin += bytes_;
  rest.bytes -= bytes_;
}

Scratch::~Scratch() {
  if (own_) {
    ::operator delete(data_, line);
    return;
  }
  rest.begin -= bytes_;
  rest.bytes += bytes_;
}

int num_threads() {
  if (thread_limit > 0) return thread_limit;
  const int setting = process_setting.load(std::memory_order_relaxed);
  if (setting > 0) return setting;
#if defined(_OPENMP)
  return std::min(omp_get_max_threads(), most_threads);
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
