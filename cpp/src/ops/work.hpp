// The (array, blocks) work list of one call, and how a kernel meets the memory of an array.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "ops/small_buffer.hpp"
#include "ops/strided.hpp"
#include "ridgeline/array.hpp"
#include "runtime/parallel.hpp"

namespace ridgeline {

/// Consecutive elements of one array, starting at a block's boundary.
struct Run {
  std::size_t array;
  std::int64_t begin;
  std::int64_t count;
  std::size_t block;  ///< index of its first block among the blocks of all arrays
};

constexpr std::int64_t blocks_of(std::int64_t size) {
  constexpr auto block = static_cast<std::int64_t>(block_size);
  return (size + block - 1) / block;
}

/// The arrays laid end to end, shared out by cost in runs of whole blocks.
class WorkList {
 public:
  explicit WorkList(Arrays arrays)
      : arrays_(arrays), cost_(arrays.size() + 1), block_(arrays.size() + 1) {
    cost_[0] = 0;
    block_[0] = 0;
    for (std::size_t k = 0; k < arrays.size(); ++k) {
      cost_[k + 1] = cost_[k] + arrays[k].size + cost_of_array;
      block_[k + 1] = block_[k] + blocks_of(arrays[k].size);
    }
  }

  std::int64_t cost() const { return cost_[arrays_.size()]; }
  std::int64_t elements() const {
    return cost() - cost_of_array * static_cast<std::int64_t>(arrays_.size());
  }
  std::size_t blocks() const { return static_cast<std::size_t>(block_[arrays_.size()]); }
  std::size_t first_block(std::size_t array) const {
    return static_cast<std::size_t>(block_[array]);
  }

  /// Calls f(run) for each run of this thread, in order.
  template <class F>
  void forward(Team team, F&& f) const {
    const std::int64_t from = share(team.rank, team.size);
    const std::int64_t to = share(team.rank + 1, team.size);
    for (std::size_t k = holding(from); k < arrays_.size() && cost_[k] < to; ++k)
      visit(k, from, to, f);
  }

  /// The same runs, last first: what a forward pass read last is still in the cache.
  template <class F>
  void backward(Team team, F&& f) const {
    const std::int64_t from = share(team.rank, team.size);
    const std::int64_t to = share(team.rank + 1, team.size);
    std::size_t k = holding(to);
    if (k < arrays_.size()) ++k;
    while (k-- > 0 && cost_[k + 1] > from)
      visit(k, from, to, f);
  }

 private:
  static constexpr std::int64_t cost_of_array = 256;  // of an array by itself, in elements

  std::int64_t share(int rank, int size) const {
    return cost() / size * rank + cost() % size * rank / size;
  }

  /// The array at a place in the cost scale.
  std::size_t holding(std::int64_t place) const {
    const std::int64_t* end = cost_.data() + arrays_.size() + 1;
    const std::int64_t* next = std::upper_bound(cost_.data(), end, place);
    return static_cast<std::size_t>(std::max<std::ptrdiff_t>(next - cost_.data() - 1, 0));
  }

  template <class F>
  void visit(std::size_t k, std::int64_t from, std::int64_t to, F&& f) const {
    const std::int64_t begin = cut(k, from);
    const std::int64_t end = cut(k, to);
    if (begin == end) return;
    const auto first = first_block(k) + static_cast<std::size_t>(begin) / block_size;
    f(Run{k, begin, end - begin, first});
  }

  /// The element of array k, at a block's boundary, where a share that starts or ends at `place`
  /// cuts it.
  std::int64_t cut(std::size_t k, std::int64_t place) const {
    const std::int64_t offset = place - cost_[k];
    if (offset <= 0) return 0;
    if (offset >= arrays_[k].size) return arrays_[k].size;
    return offset - offset % static_cast<std::int64_t>(block_size);
  }

  Arrays arrays_;
  SmallBuffer<std::int64_t, 17> cost_;
  SmallBuffer<std::int64_t, 17> block_;
};

/// How a kernel uses an operand.
enum class Access : std::uint8_t { read, write, update };

struct Operand {
  const Array* array;  ///< null: an operand that this kernel does not have
  Access access;
};

namespace detail {

/// Calls kernel(pointers, first, count); whether it wrote, which a kernel of no result always does.
template <class Kernel>
bool call(Kernel& kernel, void** at, std::int64_t first, std::int64_t count) {
  const auto n = static_cast<std::size_t>(count);
  if constexpr (std::is_void_v<decltype(kernel(at, first, n))>) {
    kernel(at, first, n);
    return true;
  } else {
    return kernel(at, first, n);
  }
}

/// on_memory where an operand is strided.
template <std::size_t N, class Kernel>
[[gnu::noinline]] void on_tiles(const Operand (&operands)[N], std::int64_t begin,
                                std::int64_t count, Kernel& kernel) {
  using Tile = std::byte[block_size * sizeof(double)];
  const ScratchArray<Tile> tiles(N);
  constexpr auto block = static_cast<std::int64_t>(block_size);
  for (std::int64_t done = 0; done < count; done += block) {
    const std::int64_t n = std::min(block, count - done);
    void* pointers[N] = {};
    for (std::size_t i = 0; i < N; ++i) {
      const auto [array, access] = operands[i];
      if (array == nullptr) continue;
      pointers[i] = contiguous_part(*array, begin + done, n);
      if (pointers[i] != nullptr) continue;
      pointers[i] = tiles[i];
      if (access != Access::write) gather(*array, begin + done, n, tiles[i]);
    }
    if (!call(kernel, pointers, done, n)) continue;
    for (std::size_t i = 0; i < N; ++i) {
      const auto [array, access] = operands[i];
      if (array != nullptr && access != Access::read && pointers[i] == tiles[i]) {
        scatter(*array, begin + done, n, tiles[i]);
      }
    }
  }
}

}  // namespace detail

/// Calls kernel(pointers, first, count) over [begin, begin + count): once if every operand is
/// contiguous, else block by block, with strided operands gathered into a tile that stays in the
/// first cache and scattered back. `first` is the number of elements before, a multiple of the
/// block size. A kernel may return whether it wrote anything; if not, nothing is scattered.
template <std::size_t N, class Kernel>
void on_memory(const Operand (&operands)[N], std::int64_t begin, std::int64_t count,
               Kernel&& kernel) {
  void* pointers[N] = {};
  for (std::size_t i = 0; i < N; ++i) {
    const Array* array = operands[i].array;
    if (array == nullptr) continue;
    if (!array->contiguous()) return detail::on_tiles(operands, begin, count, kernel);
    pointers[i] = static_cast<char*>(array->data) +
                  begin * static_cast<std::int64_t>(item_size(array->dtype));
  }
  detail::call(kernel, pointers, 0, count);
}

/// Calls kernel(address, n) over the elements of a run, in whatever order memory has them.
template <class Kernel>
void map_in_place(const Array& array, const Run& run, Kernel&& kernel) {
  const Operand operands[] = {{&array, Access::update}};
  on_memory(operands, run.begin, run.count,
            [&](void** at, std::int64_t, std::size_t n) { return kernel(at[0], n); });
}

/// Arrays for a map: those that fill their memory in another order become contiguous.
class MapArrays {
 public:
  explicit MapArrays(Arrays arrays) : arrays_(arrays) {
    bool any = false;
    for (const Array& array : arrays)
      any = any || !array.contiguous();
    if (!any) return;
    for (const Array& array : arrays)
      reordered_.push_back(in_memory_order(array));
    arrays_ = reordered_;
  }
  const Array& operator[](std::size_t k) const { return arrays_[k]; }
  operator Arrays() const { return arrays_; }

 private:
  Arrays arrays_;
  std::vector<Array> reordered_;
};

/// Calls body(array, run) for each run of a map over all elements.
template <class Body>
void map_each(Arrays arrays, int threads, Body&& body) {
  const MapArrays targets(arrays);
  const WorkList work(targets);
  parallel(work.elements(), threads, [&](Team team) {
    work.forward(team, [&](const Run& run) { body(targets[run.array], run); });
  });
}

/// Adds the block totals of each array in order: sums[k] for array k.
template <class Combine>
double combine_blocks(const WorkList& work, const double* totals, std::size_t array,
                      Combine combine) {
  double sum = 0;
  for (std::size_t b = work.first_block(array); b < work.first_block(array + 1); ++b) {
    sum = combine(sum, totals[b]);
  }
  return sum;
}

}  // namespace ridgeline
