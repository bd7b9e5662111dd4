#include "ridgeline/clipping.hpp"

#include <cmath>
#include <limits>

#include "kernels/clipping.hpp"
#include "ops/checks.hpp"
#include "ops/norm.hpp"
#include "ops/work.hpp"
#include "runtime/dispatch.hpp"

namespace ridgeline {
namespace {

const ClippingKernels& kernels_for(const ClippingTable& table, DType dtype) {
  return table.kernels[static_cast<std::size_t>(dtype)];
}

void fill_zero(const Array& array, const Run& run) {
  const Operand operands[] = {{&array, Access::write}};
  on_memory(operands, run.begin, run.count, [&](void** at, std::int64_t, std::size_t n) {
    std::memset(at[0], 0, n * item_size(array.dtype));
  });
}

void check_results(const char* argument, std::span<double> results, Arrays arrays) {
  if (results.size() >= arrays.size()) return;
  bad_value(argument, "got room for " + std::to_string(results.size()) + " numbers, wants " +
                          std::to_string(arrays.size()) + ", one for each array");
}

/// What a clip does to one array.
struct Decision {
  enum class Action : std::uint8_t { keep, scale, zero } action;
  double factor = 1;
};
using Decisions = SmallBuffer<Decision, 16>;
using Action = Decision::Action;

/// A NaN norm is not within the limit.
Decision clip_to(double limit, double norm) {
  return norm <= limit ? Decision{Action::keep} : Decision{Action::scale, limit / norm};
}

/// Reads the norms, then scales backwards over what the caches still hold. decide(norms, decisions,
/// first) fills the decisions on every thread alike; `first` is true on one of them, which may
/// write results.
template <class Decide>
void clip(Arrays grads, double ord, int threads, Decide decide) {
  const ClippingTable& table = *tables().clipping;
  const WorkList work(grads);
  const MapArrays targets(grads);
  NormPass pass(table, grads, work, ord);
  parallel(pass.work(), threads, [&](Team team) {
    Norms norms(grads.size());
    pass.run(team, norms);
    Decisions decisions(grads.size());
    decide(norms, decisions, team.rank == 0);
    work.backward(team, [&](const Run& run) {
      const Decision d = decisions[run.array];
      const Array& array = targets[run.array];
      if (d.action == Action::keep) return;
      if (d.action == Action::zero) return fill_zero(array, run);
      const auto multiply = kernels_for(table, array.dtype).multiply;
      map_in_place(array, run, [&](void* x, std::size_t n) { multiply(x, n, d.factor); });
    });
  });
}

/// The norms on their own.
template <class Use>
void read_norms(Arrays arrays, double ord, int threads, Use use) {
  const WorkList work(arrays);
  NormPass pass(*tables().clipping, arrays, work, ord);
  parallel(pass.work(), threads, [&](Team team) {
    Norms norms(arrays.size());
    pass.run(team, norms);
    if (team.rank == 0) use(norms);
  });
}

}  // namespace

double global_norm(Arrays arrays, double ord, int threads) {
  check_ord(ord);
  double total = 0;
  read_norms(arrays, ord, threads, [&](const Norms& norms) { total = norms.total(); });
  return total;
}

std::ptrdiff_t first_nonfinite(Arrays arrays, int threads) {
  std::ptrdiff_t first = -1;
  read_norms(arrays, std::numeric_limits<double>::infinity(), threads,
             [&](const Norms& norms) { first = norms.first_nonfinite(); });
  return first;
}

void clip_by_value(Arrays grads, double low, double high, int threads) {
  if (std::isnan(low)) bad_value("low", "got nan, wants a number");
  if (std::isnan(high)) bad_value("high", "got nan, wants a number");
  if (low > high) bad_value("limit", "got low = " + text(low) + " above high = " + text(high));
  check_disjoint("grads", grads);
  const ClippingTable& table = *tables().clipping;
  map_each(grads, threads, [&](const Array& array, const Run& run) {
    const auto clamp = kernels_for(table, array.dtype).clamp;
    map_in_place(array, run, [&](void* x, std::size_t n) { return clamp(x, n, low, high); });
  });
}

void check_clip(Arrays grads, double max_norm, double ord) {
  check_non_negative("max_norm", max_norm, true);
  check_ord(ord);
  check_disjoint("grads", grads);
}

void clip_by_norm(Arrays grads, double max_norm, double ord, std::span<double> out, int threads) {
  check_results("norms", out, grads);
  check_clip(grads, max_norm, ord);
  clip(grads, ord, threads, [&](const Norms& norms, Decisions& decisions, bool first) {
    for (std::size_t k = 0; k < grads.size(); ++k) {
      const double norm = norms.norm(k);
      decisions[k] = clip_to(max_norm, norm);
      if (first) out[k] = norm;
    }
  });
}

double clip_by_global_norm(Arrays grads, double max_norm, double ord, NonFinite on_nonfinite,
                           int threads) {
  check_clip(grads, max_norm, ord);
  double result = 0;
  std::ptrdiff_t first_bad = -1;
  clip(grads, ord, threads, [&](const Norms& norms, Decisions& decisions, bool first) {
    const double total = norms.total();
    Decision all = clip_to(max_norm, total);
    if (!std::isfinite(total)) {
      if (on_nonfinite == NonFinite::zero) all = {Action::zero};
      if (on_nonfinite == NonFinite::skip || on_nonfinite == NonFinite::raise) {
        all = {Action::keep};
      }
    }
    for (std::size_t k = 0; k < grads.size(); ++k)
      decisions[k] = all;
    if (!first) return;
    result = total;
    first_bad = std::isfinite(total) ? -1 : norms.first_nonfinite();
  });
  if (!std::isfinite(result) && on_nonfinite == NonFinite::raise) {
    throw NonFiniteError(first_bad, result);
  }
  return result;
}

void clip_by_rms(Arrays grads, double max_rms, std::span<double> out, int threads) {
  check_results("rms", out, grads);
  check_non_negative("max_rms", max_rms, true);
  check_disjoint("grads", grads);
  clip(grads, 2, threads, [&](const Norms& norms, Decisions& decisions, bool first) {
    for (std::size_t k = 0; k < grads.size(); ++k) {
      const auto n = static_cast<double>(grads[k].size);
      const double rms = n == 0 ? 0 : norms.norm(k) / std::sqrt(n);
      decisions[k] = clip_to(max_rms, rms);
      if (first) out[k] = rms;
    }
  });
}

void scale(Arrays arrays, double factor, int threads) {
  check_disjoint("arrays", arrays);
  const ClippingTable& table = *tables().clipping;
  map_each(arrays, threads, [&](const Array& array, const Run& run) {
    const auto multiply = kernels_for(table, array.dtype).multiply;
    map_in_place(array, run, [&](void* x, std::size_t n) { multiply(x, n, factor); });
  });
}

void set_zero(Arrays arrays, int threads) {
  check_disjoint("arrays", arrays);
  map_each(arrays, threads, fill_zero);
}

namespace {

struct Candidate {
  std::uint64_t key;
  std::int64_t index;
  /// Orders the one to drop first on top of a queue: the smaller magnitude, then the later index.
  friend bool operator<(const Candidate& a, const Candidate& b) {
    return a.key != b.key ? a.key > b.key : a.index < b.index;
  }
};

/// The `count` largest of one array, by one reading pass that keeps the best so far: later elements
/// enter only above the smallest of those, so that equals keep the lower index.
void zero_largest_of(const ClippingKernels& kernels, const Array& array, std::size_t count) {
  if (array.size == 0 || count == 0) return;
  std::vector<Candidate> heap;
  heap.reserve(count);
  constexpr std::size_t stretch = 256;
  std::uint32_t positions[stretch];
  std::uint64_t keys[stretch];
  const Operand read[] = {{&array, Access::read}};
  on_memory(read, 0, array.size, [&](void** at, std::int64_t first, std::size_t n) {
    const auto* x = static_cast<const char*>(at[0]);
    for (std::size_t begin = 0; begin < n;) {
      // Anything enters until the heap is full; from then on what is above its smallest.
      const std::size_t room = count - heap.size();
      const std::size_t wanted = room == 0 ? stretch : std::min(stretch, room);
      const std::size_t length = std::min(wanted, n - begin);
      const std::uint64_t least = room == 0 ? heap.front().key + 1 : 0;
      const std::size_t found =
          kernels.at_least(x + begin * item_size(array.dtype), length, least, positions, keys);
      for (std::size_t i = 0; i < found; ++i) {
        const Candidate candidate{keys[i], first + static_cast<std::int64_t>(begin + positions[i])};
        if (heap.size() == count) {
          if (candidate.key <= heap.front().key) continue;
          std::pop_heap(heap.begin(), heap.end());
          heap.back() = candidate;
        } else {
          heap.push_back(candidate);
        }
        std::push_heap(heap.begin(), heap.end());
      }
      begin += length;
    }
  });
  for (const Candidate& c : heap)
    fill_zero(array, Run{0, c.index, 1, 0});
}

}  // namespace

void zero_largest(Arrays grads, std::int64_t count, int threads) {
  if (count < 0) bad_value("count", "got " + std::to_string(count) + ", wants 0 or more");
  for (std::size_t k = 0; k < grads.size(); ++k) {
    if (grads[k].size == 0 || count <= grads[k].size) continue;
    throw ArgumentError(ArgumentError::Kind::value, "count", -1,
                        "got " + std::to_string(count) + ", wants at most the " +
                            std::to_string(grads[k].size) + " elements of {}",
                        "grads", static_cast<std::ptrdiff_t>(k));
  }
  check_disjoint("grads", grads);
  const ClippingTable& table = *tables().clipping;
  const WorkList work(grads);
  // Arrays go to threads whole: an array belongs to the thread that holds its first block.
  parallel(work.elements(), threads, [&](Team team) {
    work.forward(team, [&](const Run& run) {
      if (run.begin != 0) return;
      const Array& array = grads[run.array];
      zero_largest_of(kernels_for(table, array.dtype), array, static_cast<std::size_t>(count));
    });
  });
}

}  // namespace ridgeline
