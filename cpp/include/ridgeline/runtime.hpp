// Targets and threads.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ridgeline {

/// The targets this binary holds and this CPU runs, best first; "scalar" is always the last.
std::vector<std::string> targets();

/// The target in use: that of RIDGELINE_TARGET, or the best.
std::string target();

/// Makes `name` the target of all later calls. Throws std::invalid_argument naming the choices.
void use_target(std::string_view name);

/// The number of threads that later calls on this thread may use: at most 256, whatever is set.
int num_threads();

/// Sets it for the whole process; 0 returns to OpenMP's own setting (OMP_NUM_THREADS,
/// threadpoolctl).
void set_num_threads(int n);

/// Limits the calls of this thread while it lives.
class ThreadLimit {
 public:
  explicit ThreadLimit(int n);
  ~ThreadLimit();
  ThreadLimit(const ThreadLimit&) = delete;
  ThreadLimit& operator=(const ThreadLimit&) = delete;

 private:
  int outer_;
};

/// Swaps the limit of this thread, 0 for none, and returns the one before.
int exchange_thread_limit(int n);

/// The default floating-point environment of this thread while it lives: denormals are kept,
/// rounding is to nearest even. A library that switched denormals off (-ffast-math does when
/// loaded) would change bits otherwise.
class FloatEnvironment {
 public:
  FloatEnvironment();
  ~FloatEnvironment();
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
  std::uint64_t saved_;
};

/// Whether this binary was built with OpenMP.
bool has_openmp();

}  // namespace ridgeline
