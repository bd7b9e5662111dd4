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
using Action = Decision::Action;

/// A NaN norm is not within the limit.
Decision clip_to(double limit, double norm) {
  return norm <= limit ? Decision{Action::keep} : Decision{Action::scale, limit / norm};
}

/// Reads the norms, then scales backwards over what the caches still hold. decide(norms, first)
/// gives every thread the same function from an array to its decision; `first` is true on one of
/// them, which may write results.
template <class Decide>
void clip(Arrays grads, double ord, int threads, Decide decide) {
  const ClippingTable& table = *tables().clipping;
  const WorkList work(grads);
  const MapArrays targets(grads);
  const TeamSize size = team_for(NormPass::cost(work, ord), threads);
  NormPass pass(table, grads, work, ord, size);
  parallel(size, [&](Team team) {
    const Norms norms = pass.run(team);
    const auto decision = decide(norms, team.rank == 0);
    work.backward(team, [&](const Run& run) {
      const Decision d = decision(run.array);
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
  const TeamSize size = team_for(NormPass::cost(work, ord), threads);
  NormPass pass(*tables().clipping, arrays, work, ord, size);
  parallel(size, [&](Team team) {
    const Norms norms = pass.run(team);
    if (team.rank == 0) use(norms);
  });
}

}  // namespace

double global_norm(Arrays arrays, double ord, int threads) {
  const FloatEnvironment environment;
  check_ord(ord);
  double total = 0;
  read_norms(arrays, ord, threads, [&](const Norms& norms) { total = norms.total(); });
  return total;
}

std::ptrdiff_t first_nonfinite(Arrays arrays, int threads) {
  const FloatEnvironment environment;
  std::ptrdiff_t first = -1;
  read_norms(arrays, std::numeric_limits<double>::infinity(), threads,
             [&](const Norms& norms) { first = norms.first_nonfinite(); });
  return first;
}

void clip_by_value(Arrays grads, double low, double high, int threads) {
  const FloatEnvironment environment;
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
  const FloatEnvironment environment;
  check_non_negative("max_norm", max_norm, true);
  check_ord(ord);
  check_disjoint("grads", grads);
}

void clip_by_norm(Arrays grads, double max_norm, double ord, std::span<double> out, int threads) {
  const FloatEnvironment environment;
  check_results("norms", out, grads);
  check_clip(grads, max_norm, ord);
  clip(grads, ord, threads, [&](const Norms& norms, bool first) {
    for (std::size_t k = 0; first && k < grads.size(); ++k)
      out[k] = norms.norm(k);
    return [&, max_norm](std::size_t k) { return clip_to(max_norm, norms.norm(k)); };
  });
}

double clip_by_global_norm(Arrays grads, double max_norm, double ord, NonFinite on_nonfinite,
                           int threads) {
  const FloatEnvironment environment;
  check_clip(grads, max_norm, ord);
  double result = 0;
  std::ptrdiff_t first_bad = -1;
  clip(grads, ord, threads, [&](const Norms& norms, bool first) {
    const double total = norms.total();
    Decision all = clip_to(max_norm, total);
    if (!std::isfinite(total)) {
      if (on_nonfinite == NonFinite::zero) all = {Action::zero};
      if (on_nonfinite == NonFinite::skip || on_nonfinite == NonFinite::raise) {
        all = {Action::keep};
      }
    }
    if (first) {
      result = total;
      first_bad = std::isfinite(total) ? -1 : norms.first_nonfinite();
    }
    return [all](std::size_t) { return all; };
  });
  if (!std::isfinite(result) && on_nonfinite == NonFinite::raise) {
    throw NonFiniteError(first_bad, result);
  }
  return result;
}

void clip_by_rms(Arrays grads, double max_rms, std::span<double> out, int threads) {
  const FloatEnvironment environment;
  check_results("rms", out, grads);
  check_non_negative("max_rms", max_rms, true);
  check_disjoint("grads", grads);
  clip(grads, 2, threads, [&](const Norms& norms, bool first) {
    const auto rms = [&](std::size_t k) {
      const auto n = static_cast<double>(grads[k].size);
      return n == 0 ? 0 : norms.norm(k) / std::sqrt(n);
    };
    for (std::size_t k = 0; first && k < grads.size(); ++k)
      out[k] = rms(k);
    return [rms, max_rms](std::size_t k) { return clip_to(max_rms, rms(k)); };
  });
}

void scale(Arrays arrays, double factor, int threads) {
  const FloatEnvironment environment;
  check_disjoint("arrays", arrays);
  const ClippingTable& table = *tables().clipping;
  map_each(arrays, threads, [&](const Array& array, const Run& run) {
    const auto multiply = kernels_for(table, array.dtype).multiply;
    map_in_place(array, run, [&](void* x, std::size_t n) { multiply(x, n, factor); });
  });
}

void set_zero(Arrays arrays, int threads) {
  const FloatEnvironment environment;
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

/// Calls f(key, index) for the elements whose key is `least` or more, in order.
template <class F>
void for_each_at_least(const ClippingKernels& kernels, DType dtype, const void* x, std::size_t n,
                       std::uint64_t least, F f) {
  constexpr std::size_t tile = 256;
  std::uint32_t positions[tile];
  std::uint64_t keys[tile];
  for (std::size_t begin = 0; begin < n; begin += tile) {
    const std::size_t found =
        kernels.at_least(static_cast<const char*>(x) + begin * item_size(dtype),
                         std::min(tile, n - begin), least, positions, keys);
    for (std::size_t i = 0; i < found; ++i)
      f(keys[i], static_cast<std::int64_t>(begin + positions[i]));
  }
}

/// The `count` largest of one array, by one reading pass that keeps the best so far: later elements
/// enter only above the smallest of those, so that equals keep the lower index.
void zero_few_largest(const ClippingKernels& kernels, const Array& array, std::size_t count,
                      Candidate* heap) {
  std::size_t held = 0;
  constexpr std::size_t tile = 256;
  std::uint32_t positions[tile];
  std::uint64_t keys[tile];
  const Operand read[] = {{&array, Access::read}};
  on_memory(read, 0, array.size, [&](void** at, std::int64_t first, std::size_t n) {
    const auto* x = static_cast<const char*>(at[0]);
    for (std::size_t begin = 0; begin < n;) {
      // Anything enters until the heap is full; from then on what is above its smallest.
      const std::size_t room = count - held;
      const std::size_t wanted = room == 0 ? tile : std::min(tile, room);
      const std::size_t length = std::min(wanted, n - begin);
      const std::uint64_t least = room == 0 ? heap->key + 1 : 0;
      const std::size_t found =
          kernels.at_least(x + begin * item_size(array.dtype), length, least, positions, keys);
      for (std::size_t i = 0; i < found; ++i) {
        const Candidate candidate{keys[i], first + static_cast<std::int64_t>(begin + positions[i])};
        if (held == count) {
          if (candidate.key <= heap->key) continue;
          std::pop_heap(heap, heap + held--);
        }
        heap[held++] = candidate;
        std::push_heap(heap, heap + held);
      }
      begin += length;
    }
  });
  for (std::size_t i = 0; i < held; ++i)
    fill_zero(array, Run{0, heap[i].index, 1, 0});
}

/// The same for any `count`, in memory that does not grow with it: a radix search for the smallest
/// key to go, 11 bits at a time, then a pass over all from there on.
void zero_many_largest(const ClippingKernels& kernels, const Array& array, std::int64_t count) {
  constexpr int bin_bits = 11;
  constexpr std::size_t bins = std::size_t{1} << bin_bits;
  const ScratchArray<std::int64_t> counts(bins);
  std::uint64_t least = 0;      // the keys looked at are those in [least, least + 2^shift)
  std::int64_t wanted = count;  // the largest of those
  for (int shift = array.dtype == DType::float64 ? 66 : 33; shift > 0;) {
    const bool all = shift >= 64;
    const std::uint64_t width = all ? 0 : std::uint64_t{1} << shift;
    shift -= bin_bits;
    std::fill_n(counts.data(), bins, 0);
    const Operand read[] = {{&array, Access::read}};
    on_memory(read, 0, array.size, [&](void** at, std::int64_t, std::size_t n) {
      for_each_at_least(kernels, array.dtype, at[0], n, least,
                        [&](std::uint64_t key, std::int64_t) {
                          if (all || key - least < width) ++counts[(key - least) >> shift];
                        });
    });
    std::size_t bin = bins - 1;
    for (; counts[bin] < wanted; --bin)
      wanted -= counts[bin];
    least += static_cast<std::uint64_t>(bin) << shift;
    if (counts[bin] == wanted) break;
  }
  const Operand update[] = {{&array, Access::update}};
  on_memory(update, 0, array.size, [&](void** at, std::int64_t, std::size_t n) {
    const std::size_t item = item_size(array.dtype);
    for_each_at_least(
        kernels, array.dtype, at[0], n, least, [&](std::uint64_t key, std::int64_t index) {
          if (key == least && wanted-- <= 0) return;
          std::memset(static_cast<char*>(at[0]) + static_cast<std::size_t>(index) * item, 0, item);
        });
  });
}

/// Whether the largest are put aside one by one, at most a MiB of them for each thread.
bool is_few(std::int64_t count, const Array& array) {
  return count <= 64 || count <= std::min<std::int64_t>(array.size / 64, 65536);
}

}  // namespace

void zero_largest(Arrays grads, std::int64_t count, int threads) {
  const FloatEnvironment environment;
  if (count < 0) bad_value("count", "got " + std::to_string(count) + ", wants 0 or more");
  bool any_few = false;
  for (std::size_t k = 0; k < grads.size(); ++k) {
    if (grads[k].size == 0 || count <= grads[k].size) {
      any_few = any_few || is_few(count, grads[k]);
      continue;
    }
    throw ArgumentError(ArgumentError::Kind::value, "count", -1,
                        "got " + std::to_string(count) + ", wants at most the " +
                            std::to_string(grads[k].size) + " elements of {}",
                        "grads", static_cast<std::ptrdiff_t>(k));
  }
  check_disjoint("grads", grads);
  if (count == 0) return;
  const ClippingTable& table = *tables().clipping;
  const WorkList work(grads);
  const TeamSize size = team_for(work.elements(), threads);
  const std::size_t few = any_few ? static_cast<std::size_t>(count) : 0;
  SmallBuffer<Candidate, 64> heaps(few * static_cast<std::size_t>(size.most));
  // Arrays go to threads whole: an array belongs to the thread that holds its first block.
  parallel(size, [&](Team team) {
    work.forward(team, [&](const Run& run) {
      if (run.begin != 0) return;
      const Array& array = grads[run.array];
      const ClippingKernels& kernels = kernels_for(table, array.dtype);
      if (!is_few(count, array)) return zero_many_largest(kernels, array, count);
      zero_few_largest(kernels, array, few,
                       heaps.data() + few * static_cast<std::size_t>(team.rank));
    });
  });
}

}  // namespace ridgeline
