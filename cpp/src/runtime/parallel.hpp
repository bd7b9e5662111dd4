// One parallel region per call: a team of threads that run the same function and meet at barriers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ridgeline/runtime.hpp"

namespace ridgeline {

/// A thread's place in its team.
class Team {
 public:
  int rank;
  int size;
  /// Waits for the others; what they wrote before is visible after.
  void barrier() const;
};

/// No team is larger: the passes of this library wait for memory long before, and a team takes some
/// of its caller's stack.
inline constexpr int most_threads = 256;

/// The team that a call may take.
struct TeamSize {
  int most;  ///< it may turn out smaller
};

/// At most `limit` threads (0: the current setting), one if the `work` is too little to share,
/// inside another parallel region, or in a forked child. Work is counted in elements of a norm,
/// some 75 ps each on one thread, or whatever takes as long: an element read or written; a part of
/// one that is computed.
TeamSize team_for(std::int64_t work, int limit);

namespace detail {
void run_team(TeamSize size, void (*body)(void*, Team), void* context);
}

/// Calls body(team) on every thread of a team, in the default FloatEnvironment, with Scratch to
/// work in. `body` must not throw, since others may wait for its thread at a barrier, and so
/// allocates nothing: what its threads need is made before, or taken from Scratch.
template <class Body>
void parallel(TeamSize size, Body&& body) {
  detail::run_team(
      size,
      [](void* context, Team team) {
        (*static_cast<std::remove_reference_t<Body>*>(context))(team);
      },
      &body);
}
template <class Body>
void parallel(std::int64_t work, int limit, Body&& body) {
  parallel(team_for(work, limit), body);
}

/// Whether this thread is in a region of ours.
bool in_region();

/// Uninitialized memory for tiles and the like, given back in the reverse order. Every thread of a
/// region has `Scratch::size` bytes, allocated before the region by the thread that opens it, which
/// keeps them for its next one: stacks of threads can be small (threading.stack_size,
/// OMP_STACKSIZE). Elsewhere, and beyond that size, memory is allocated.
class Scratch {
 public:
  static constexpr std::size_t size = 256 * 1024;

  explicit Scratch(std::size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  void* data() const { return data_; }

 private:
  void* data_;
  std::size_t bytes_;
  bool own_;  ///< allocated: no part of the thread's memory
};

/// `count` uninitialized objects of a trivial type in Scratch.
template <class T>
class ScratchArray {
 public:
  static_assert(std::is_trivially_default_constructible_v<T> &&
                std::is_trivially_destructible_v<T>);
  explicit ScratchArray(std::size_t count = 1) : memory_(count * sizeof(T)) {}
  T* data() const { return static_cast<T*>(memory_.data()); }
  operator T*() const { return data(); }

 private:
  Scratch memory_;
};

}  // namespace ridgeline
