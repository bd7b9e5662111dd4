// One parallel region per call: a team of threads that run the same function and meet at barriers.
#pragma once

#include <cstdint>
#include <type_traits>

namespace ridgeline {

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

/// A thread's place in its team.
class Team {
 public:
  int rank;
  int size;
  /// Waits for the others; what they wrote before is visible after.
  void barrier() const;
};

namespace detail {
void run_team(std::int64_t work, int limit, void (*body)(void*, Team), void* context);
}

/// Calls body(team) on every thread of a team, at most `limit` threads (0: the current setting),
/// one if the `work` is too little to share, inside another parallel region, or in a forked child.
/// Work is counted in elements of a norm, some 75 ps each on one thread, or whatever takes as long:
/// an element read or written; a part of one that is computed. Every call runs in the default
/// FloatEnvironment. `body` must not throw.
template <class Body>
void parallel(std::int64_t work, int limit, Body&& body) {
  detail::run_team(
      work, limit,
      [](void* context, Team team) {
        (*static_cast<std::remove_reference_t<Body>*>(context))(team);
      },
      &body);
}

}  // namespace ridgeline
