// The k-th lowest key of a list of arrays, exactly, without sorting or joining them.
//
// A sample gives a window of keys that holds the k-th one almost surely. One pass over the arrays
// writes the bits of all elements above the window and gathers the few inside. Those are counted in
// 2,048 bins, the right bin is counted again, until a bin is one key; bits of the gathered elements
// are then filled in. If there is no room for them, a key at an end of the window that many
// elements share is counted alone: it is the one, or there is room without it. If there still is
// not (16-bit types), or the k-th key was not in the window after all, the passes that count go
// over the arrays, each dividing the window by 2,048: at most 2 + 1 + 3 + 1 readings for 32-bit
// keys, 2 + 1 + 6 + 1 for 64-bit keys, whatever the data.
#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>
#include <new>
#include <numeric>
#include <optional>

#include "kernels/pruning.hpp"
#include "ops/bits.hpp"
#include "ops/checks.hpp"
#include "ops/work.hpp"
#include "ridgeline/pruning.hpp"
#include "runtime/dispatch.hpp"

namespace ridgeline {
namespace {

/// Up to here all keys are looked at.
constexpr std::int64_t few = 1024;
/// Rows of at most that many elements are ranked without a search.
constexpr std::int64_t row_limit = 8192;
/// Arrays of fewer elements are searched by one thread each.
constexpr std::int64_t shared = 262144;
constexpr int bin_bits = std::countr_zero(bin_count);

/// What is ranked: keys of elements, or random bits. Kernels run on runs of one array.
class ArraySource {
 public:
  ArraySource(Arrays arrays, const Selection& selection, bool wide)
      : arrays_(arrays), selection_(selection), wide_(wide), table_(*tables().pruning) {}

  Arrays arrays() const { return arrays_; }
  std::size_t record_size() const {
    return wide_ ? sizeof(Record<std::int64_t>) : sizeof(Record<std::int32_t>);
  }
  bool wide() const { return wide_; }
  /// Keys are multiples of 2^unit.
  int unit() const {
    const auto coarse = [&](std::size_t k) {
      return arrays_[k].dtype == DType::bfloat16 && selection_.rankings[k].divisor == 1;
    };
    for (std::size_t k = 0; k < arrays_.size(); ++k) {
      if (wide_ || !coarse(k)) return 0;
    }
    return 16;
  }
  Window everything() const {
    if (wide_) return {std::numeric_limits<std::int64_t>::min(), 0x7ff0000000000000};
    return {std::numeric_limits<std::int32_t>::min(), 0x7f800000};
  }

  void keys(std::size_t k, std::int64_t begin, std::int64_t n, std::int64_t* out) const {
    over(k, begin, n, [&](const void* x, std::int64_t first, std::size_t count) {
      kernels(k).keys(x, count, ranking(k), out + first);
    });
  }

  /// The keys of elements at increasing places.
  void keys_at(std::size_t k, std::span<const std::int64_t> places, std::int64_t* out) const {
    const Array& array = arrays_[k];
    const ScratchArray<std::byte> together(block_size * sizeof(double));
    for (std::size_t done = 0; done < places.size(); done += block_size) {
      const auto some = places.subspan(done, std::min(block_size, places.size() - done));
      const auto copy = [&](auto size) {
        for (std::size_t i = 0; i < some.size(); ++i)
          std::memcpy(together + i * size(), address(array, some[i]), size());
      };
      switch (item_size(array.dtype)) {
      case 2:
        copy(std::integral_constant<std::size_t, 2>{});
        break;
      case 4:
        copy(std::integral_constant<std::size_t, 4>{});
        break;
      default:
        copy(std::integral_constant<std::size_t, 8>{});
      }
      kernels(k).keys(together, some.size(), ranking(k), out + done);
    }
  }

  void split(const Run& run, Window window, std::uint32_t position, Gathered& gathered) const {
    over(run.array, run.begin, run.count, [&](const void* x, std::int64_t first, std::size_t n) {
      const std::int64_t word = (run.begin + first) / 64;
      kernels(run.array).split(x, n, ranking(run.array), window, among(run.array, word),
                               selection_.words[run.array] + word,
                               position + static_cast<std::uint32_t>(first), gathered);
    });
  }

  void histogram(const Run& run, Window window, int shift, std::int64_t& below,
                 std::int64_t* bins) const {
    over(run.array, run.begin, run.count, [&](const void* x, std::int64_t first, std::size_t n) {
      kernels(run.array).histogram(x, n, ranking(run.array), window, shift,
                                   among(run.array, (run.begin + first) / 64), below, bins);
    });
  }

  void at_key(const Run& run, std::int64_t key, std::int64_t& ties) const {
    over(run.array, run.begin, run.count, [&](const void* x, std::int64_t first, std::size_t n) {
      const std::int64_t word = (run.begin + first) / 64;
      kernels(run.array).at_key(x, n, ranking(run.array), key, among(run.array, word),
                                selection_.words[run.array] + word, ties);
    });
  }

 private:
  const RankKernels& kernels(std::size_t k) const {
    const PruningKernels& all = table_.kernels[static_cast<std::size_t>(arrays_[k].dtype)];
    return wide_ ? all.wide : all.narrow;
  }
  Ranking ranking(std::size_t k) const { return selection_.rankings[k]; }
  const std::uint64_t* among(std::size_t k, std::int64_t word) const {
    const bool all = selection_.among.empty() || selection_.among[k] == nullptr;
    return all ? nullptr : selection_.among[k] + word;
  }

  static const char* address(const Array& array, std::int64_t place) {
    const auto* data = static_cast<const char*>(array.data);
    if (array.contiguous()) {
      return data + place * static_cast<std::int64_t>(item_size(array.dtype));
    }
    for (std::size_t axis = array.dims.size(); axis-- > 0;) {
      data += place % array.dims[axis].extent * array.dims[axis].stride;
      place /= array.dims[axis].extent;
    }
    return data;
  }

  template <class F>
  void over(std::size_t k, std::int64_t begin, std::int64_t n, F f) const {
    const Operand operands[] = {{&arrays_[k], Access::read}};
    on_memory(operands, begin, n,
              [&](void** at, std::int64_t first, std::size_t count) { f(at[0], first, count); });
  }

  Arrays arrays_;
  const Selection& selection_;
  bool wide_;
  const PruningTable& table_;
};

class RandomSource {
 public:
  RandomSource(Arrays arrays, const Selection& selection, Key key, std::int64_t first)
      : arrays_(arrays), selection_(selection), key_(key), first_(arrays.size()),
        kernels_(tables().pruning->random) {
    for (std::size_t k = 0; k < arrays.size(); ++k) {
      first_[k] = static_cast<std::uint64_t>(first);
      first += arrays[k].size;
    }
  }

  Arrays arrays() const { return arrays_; }
  std::size_t record_size() const { return sizeof(Record<std::int64_t>); }
  bool wide() const { return true; }
  int unit() const { return 0; }
  Window everything() const { return {-1, 0xffffffff}; }

  void keys(std::size_t k, std::int64_t begin, std::int64_t n, std::int64_t* out) const {
    kernels_.keys(key_, index(k, begin), static_cast<std::size_t>(n), out);
  }
  void split(const Run& run, Window window, std::uint32_t position, Gathered& gathered) const {
    kernels_.split(key_, index(run.array, run.begin), static_cast<std::size_t>(run.count), window,
                   among(run), words(run), position, gathered);
  }
  void histogram(const Run& run, Window window, int shift, std::int64_t& below,
                 std::int64_t* bins) const {
    kernels_.histogram(key_, index(run.array, run.begin), static_cast<std::size_t>(run.count),
                       window, shift, among(run), below, bins);
  }
  void at_key(const Run& run, std::int64_t key, std::int64_t& ties) const {
    kernels_.at_key(key_, index(run.array, run.begin), static_cast<std::size_t>(run.count), key,
                    among(run), words(run), ties);
  }

 private:
  std::uint64_t index(std::size_t k, std::int64_t begin) const {
    return first_[k] + static_cast<std::uint64_t>(begin);
  }
  const std::uint64_t* among(const Run& run) const {
    const bool all = selection_.among.empty() || selection_.among[run.array] == nullptr;
    return all ? nullptr : selection_.among[run.array] + run.begin / 64;
  }
  std::uint64_t* words(const Run& run) const {
    return selection_.words[run.array] + run.begin / 64;
  }

  Arrays arrays_;
  const Selection& selection_;
  Key key_;
  std::vector<std::uint64_t> first_;
  const RandomRankKernels& kernels_;
};

/// The elements that take part.
std::int64_t ranked(Arrays arrays, const Selection& selection) {
  std::int64_t count = 0;
  for (std::size_t k = 0; k < arrays.size(); ++k) {
    const bool all = selection.among.empty() || selection.among[k] == nullptr;
    count += all ? arrays[k].size : count_bits(selection.among[k], arrays[k].size);
  }
  return count;
}

/// Keeps all that take part, or none.
void keep(Arrays arrays, const Selection& selection, bool all) {
  for (std::size_t k = 0; k < arrays.size(); ++k) {
    const std::int64_t size = arrays[k].size;
    std::uint64_t* words = selection.words[k];
    if (!all) {
      std::fill_n(words, mask_words(size), 0);
    } else if (!selection.among.empty() && selection.among[k] != nullptr) {
      std::copy_n(selection.among[k], mask_words(size), words);
    } else {
      fill_bits(words, size);
    }
  }
}

/// How many elements a search looks at first.
std::int64_t sample_size_of(std::int64_t elements) {
  return std::clamp<std::int64_t>(elements / 32, 1024, 32768);
}

/// Keys counted in the bins of a window.
struct Counter {
  Window window;
  int shift;
  std::int64_t below;
  std::int64_t bins[bin_count];

  void start(Window counted, int bin_shift) {
    window = counted;
    shift = bin_shift;
    below = 0;
    std::fill_n(bins, bin_count, 0);
  }
  void add(std::int64_t key) {
    const auto low = static_cast<std::uint64_t>(window.low);
    const std::uint64_t above = static_cast<std::uint64_t>(key) - low - 1;
    below += key <= window.low ? 1 : 0;
    // One comparison: either half of it would be a guess for the branch predictor.
    if (above < static_cast<std::uint64_t>(window.high) - low) ++bins[above >> shift];
  }
};

/// What the threads of a search work in, made before the region. Others read a counter after the
/// barrier that follows a pass, while the next pass may already use the other one.
class Workspace {
 public:
  struct Start {
    std::uint32_t position;
    std::uint64_t* words;
  };
  struct alignas(64) Part {
    std::int64_t* sample;
    std::int64_t* places;
    std::size_t sampled;
    Start* starts;  ///< of its runs
    std::size_t runs;
    Gathered gathered;
    Counter counters[2];
    int turn;
  };

  /// For searches of at most that many arrays, elements and bytes of records by a team of at most
  /// that many threads.
  Workspace(std::size_t arrays, std::int64_t elements, std::size_t record_bytes, int threads)
      : parts_(std::make_unique_for_overwrite<Part[]>(static_cast<std::size_t>(threads))),
        keys_(std::make_unique_for_overwrite<std::int64_t[]>(
            2 * static_cast<std::size_t>(sample_size_of(elements)))),
        starts_(
            std::make_unique_for_overwrite<Start[]>(arrays + static_cast<std::size_t>(threads))),
        records_(new (std::nothrow) std::byte[record_bytes]) {}

  std::span<Part> parts(Team team) { return {parts_.get(), static_cast<std::size_t>(team.size)}; }
  std::int64_t* keys() { return keys_.get(); }
  Start* starts() { return starts_.get(); }
  /// Null if there was no memory: a search does without them.
  std::byte* records() { return records_.get(); }

 private:
  std::unique_ptr<Part[]> parts_;
  std::unique_ptr<std::int64_t[]> keys_;
  std::unique_ptr<Start[]> starts_;
  std::unique_ptr<std::byte[]> records_;
};

/// What the records of a search may take: with the masks 8 % of what the weights take, but some in
/// any case.
std::int64_t record_bytes(Arrays arrays) {
  std::int64_t bytes = 0;
  std::int64_t masks = 0;
  for (const Array& array : arrays) {
    bytes += array.size * static_cast<std::int64_t>(item_size(array.dtype));
    masks += 8 * mask_words(array.size);
  }
  return std::max<std::int64_t>(bytes / 100 * 8 - masks, 8192 * sizeof(Record<std::int64_t>));
}

/// One search: prunes the `count` elements of lowest key, 0 < count < total.
template <class Source>
class Search {
 public:
  Search(const Source& source, const Selection& selection, std::int64_t count, std::int64_t total,
         Workspace* workspace)
      : source_(source), selection_(selection), work_(source.arrays()), count_(count),
        total_(total), sample_size_(sample_size_of(work_.elements())), workspace_(workspace) {}

  /// Few elements, on one thread: all their keys at once.
  void run_small() {
    const ScratchArray<std::int64_t> keys(static_cast<std::size_t>(few));
    std::int64_t* end = collect_all(keys);
    std::int64_t* kth = keys + (count_ - 1);
    std::nth_element(keys.data(), kth, end);
    const std::int64_t key = *kth;
    const auto less = std::count_if(keys.data(), kth, [=](std::int64_t k) { return k < key; });
    const auto equal = std::count(keys.data(), end, key);
    std::int64_t ties = equal - (count_ - less);
    work_.forward(Team{0, 1}, [&](const Run& run) { source_.at_key(run, key, ties); });
  }

  /// What each thread of a team does. Threads meet once for each pass, and then draw the same
  /// conclusions.
  void run(Team team) {
    if (team.size == 1 && total_ <= few) return run_small();
    Part& part = workspace_->parts(team)[static_cast<std::size_t>(team.rank)];
    part.turn = 0;
    sample(team, part);
    team.barrier();
    auto [window, share, lowest, highest] = choose_window(team, part);
    Found found{};
    const auto scan = [&](Counter& counter) {
      work_.forward(team, [&](const Run& run) {
        source_.histogram(run, counter.window, counter.shift, counter.below, counter.bins);
      });
    };
    const auto finish = [&] {
      work_.forward(team, [&](const Run& run) { source_.at_key(run, found.key, found.ties); });
    };
    bool gathering = make_room(team, part, share);
    // A sample is cut at keys that many elements share. Such a key alone is counted fast; without
    // it there may be room for the others.
    for (const bool low : {true, false}) {
      const double part_of_key = low ? lowest : highest;
      if (gathering || window.low >= window.high - 1 || 4 * part_of_key < share) continue;
      const Window one =
          low ? Window{window.low, window.low + 1} : Window{window.high - 1, window.high};
      if (narrow(team, part, one, count_, scan, found)) return finish();
      (low ? window.low : window.high) += low ? 1 : -1;
      share -= part_of_key;
      gathering = make_room(team, part, share);
    }
    if (gathering) {
      split(team, part, window);
      team.barrier();
      const auto fits = [](const Part& p) { return !p.gathered.full; };
      const bool all = std::ranges::all_of(workspace_->parts(team), fits);
      const auto pass = [&](Counter& counter) {
        counter.below = part.gathered.below;
        for_each_record(part, [&](std::int64_t key, std::uint32_t) { counter.add(key); });
      };
      if (all && narrow(team, part, window, count_, pass, found)) return fill_in(part, found);
    }
    // Where the sample misled, the search starts from everything.
    if (gathering || !narrow(team, part, window, count_, scan, found))
      narrow(team, part, source_.everything(), count_, scan, found);
    finish();
  }

 private:
  using Part = Workspace::Part;

  /// A key, how many elements have a lower one or the same, and of those of this key how many stay
  /// in the part of this thread.
  struct Found {
    std::int64_t key;
    std::int64_t less;
    std::int64_t equal;
    std::int64_t ties;
  };

  /// False if a share of the elements is too much to be put aside.
  bool make_room(Team team, Part& part, double share) const {
    const std::size_t item = source_.record_size();
    const auto threads = static_cast<std::size_t>(team.size);
    const std::size_t own =
        static_cast<std::size_t>(record_bytes(source_.arrays())) / item / threads;
    const double expected = share * static_cast<double>(total_);
    if (expected * 1.1 + 1024 >= static_cast<double>(own * threads)) return false;
    std::byte* all = workspace_->records();
    if (all == nullptr) return false;
    std::byte* mine = all + own * item * static_cast<std::size_t>(team.rank);
    part.gathered = {.records = mine, .room = own};
    return true;
  }

  /// The keys of all that take part, one after the other; returns their end.
  std::int64_t* collect_all(std::int64_t* keys) const {
    constexpr auto block = static_cast<std::int64_t>(block_size);
    const ScratchArray<std::int64_t> own(block_size);
    work_.forward(Team{0, 1}, [&](const Run& run) {
      for (std::int64_t begin = 0; begin < run.count; begin += block) {
        const std::int64_t n = std::min(block, run.count - begin);
        source_.keys(run.array, begin, n, own);
        for (std::int64_t i = 0; i < n; ++i) {
          if (takes_part(run.array, begin + i)) *keys++ = own[i];
        }
      }
    });
    return keys;
  }

  /// One element of each of sample_size_ strata.
  void sample(Team team, Part& part) const {
    part.sampled = 0;
    if constexpr (requires { &Source::keys_at; }) {
      const double stratum =
          static_cast<double>(work_.elements()) / static_cast<double>(sample_size_);
      const std::int64_t from = sample_size_ * team.rank / team.size;
      const std::int64_t to = sample_size_ * (team.rank + 1) / team.size;
      part.sample = workspace_->keys() + from;
      std::int64_t* places = workspace_->keys() + sample_size_ + from;
      std::int64_t before = 0;
      std::int64_t s = from;
      for (std::size_t k = 0; k < source_.arrays().size() && s < to; ++k) {
        const std::int64_t size = source_.arrays()[k].size;
        std::size_t count = 0;
        for (; s < to; ++s) {
          const std::int64_t place = place_of(s, stratum) - before;
          if (place >= size) break;
          if (takes_part(k, place)) places[count++] = place;
        }
        before += size;
        if (count == 0) continue;
        source_.keys_at(k, {places, count}, part.sample + part.sampled);
        part.sampled += count;
      }
    }
  }

  /// Any function that has nothing to do with the data will do: results do not depend on it.
  static std::int64_t place_of(std::int64_t s, double stratum) {
    std::uint64_t mixed = (static_cast<std::uint64_t>(s) + 1) * 0x9e3779b97f4a7c15;
    mixed = (mixed ^ mixed >> 31) * 0xbf58476d1ce4e5b9;
    const double part = static_cast<double>(static_cast<std::int64_t>(mixed >> 12)) * 0x1p-52;
    return static_cast<std::int64_t>((static_cast<double>(s) + part) * stratum);
  }

  bool takes_part(std::size_t k, std::int64_t place) const {
    return selection_.among.empty() || selection_.among[k] == nullptr ||
           bit_of(selection_.among[k], place);
  }

  /// A window that holds the key almost surely, the share of elements in it, and the shares of
  /// those whose key is the lowest or the highest of it.
  struct Choice {
    Window window;
    double share;
    double lowest = 0;
    double highest = 0;
  };
  Choice choose_window(Team team, Part& part) {
    Window window = source_.everything();
    const double p = static_cast<double>(count_) / static_cast<double>(total_);
    if constexpr (requires { &Source::keys_at; }) {
      std::int64_t sampled = 0;
      for (const Part& each : workspace_->parts(team))
        sampled += static_cast<std::int64_t>(each.sampled);
      const auto n = static_cast<double>(sampled);
      const double margin = 3 * std::sqrt(n * p * (1 - p)) + 4;
      const std::int64_t low = static_cast<std::int64_t>(std::floor(n * p - margin));
      const std::int64_t high = static_cast<std::int64_t>(std::ceil(n * p + margin));
      const auto pass = [&](Counter& counter) {
        for (std::size_t i = 0; i < part.sampled; ++i)
          counter.add(part.sample[i]);
      };
      std::int64_t below = 0;
      std::int64_t up_to = sampled;
      Found at_low{};
      Found at_high{};
      if (low > 0) {
        narrow(team, part, window, low, pass, at_low);
        below = at_low.less;
        window.low = at_low.key - 1;
      }
      if (high <= sampled) {
        narrow(team, part, window, high, pass, at_high);
        up_to = at_high.less + at_high.equal;
        window.high = at_high.key;
      }
      const auto share = [&](std::int64_t count) {
        return static_cast<double>(count) / std::max(n, 1.0);
      };
      return {window, share(up_to - below), share(at_low.equal), share(at_high.equal)};
    } else {
      const double margin = 6 * std::sqrt(p * (1 - p) / static_cast<double>(total_));
      const auto key = [](double share) {
        return static_cast<std::int64_t>(std::clamp(share, 0.0, 1.0) * 0x1p32) - 1;
      };
      const std::int64_t low = key(p - margin);
      return {{low, std::max(key(p + margin), low + 1)}, 2 * margin};
    }
  }

  void split(Team team, Part& part, Window window) const {
    std::int64_t position = 0;
    part.runs = 0;
    work_.forward(team, [&](const Run& run) {
      // An array may end one share and start the next: the place of a run is its own.
      if (part.runs == 0) part.starts = workspace_->starts() + run.array + team.rank;
      part.starts[part.runs++] = {static_cast<std::uint32_t>(position),
                                  selection_.words[run.array] + run.begin / 64};
      source_.split(run, window, static_cast<std::uint32_t>(position), part.gathered);
      position += 64 * mask_words(run.count);
      if (position >= std::int64_t{1} << 32) part.gathered.full = true;
    });
  }

  /// Divides the window until it is the one key that the element of that rank has; `pass` counts.
  /// False if it is not in the window.
  template <class Pass>
  bool narrow(Team team, Part& part, Window window, std::int64_t rank, Pass pass, Found& found) {
    for (;;) {
      const auto low = static_cast<std::uint64_t>(window.low);
      const std::uint64_t width = static_cast<std::uint64_t>(window.high) - low - 1;
      const int shift = std::max(static_cast<int>(std::bit_width(width)) - bin_bits, 0);
      const int turn = part.turn;
      part.turn = 1 - turn;
      part.counters[turn].start(window, shift);
      pass(part.counters[turn]);
      team.barrier();
      found.less = 0;
      for (const Part& each : workspace_->parts(team))
        found.less += each.counters[turn].below;
      if (found.less >= rank) return false;
      std::size_t bin = 0;
      for (;; ++bin) {
        if (bin == bin_count) return false;
        found.equal = 0;
        for (const Part& each : workspace_->parts(team))
          found.equal += each.counters[turn].bins[bin];
        if (found.less + found.equal >= rank) break;
        found.less += found.equal;
      }
      const std::uint64_t begin = low + (std::uint64_t{bin} << shift);
      const std::uint64_t rest = static_cast<std::uint64_t>(window.high) - begin;
      window.high = static_cast<std::int64_t>(begin + std::min(rest, std::uint64_t{1} << shift));
      window.low = static_cast<std::int64_t>(begin);
      if (shift > source_.unit()) continue;
      found.key = window.high >> source_.unit() << source_.unit();
      found.ties = found.equal - (rank - found.less);
      for (int t = 0; t < team.rank; ++t)
        found.ties -= workspace_->parts(team)[static_cast<std::size_t>(t)].counters[turn].bins[bin];
      found.ties = std::max<std::int64_t>(found.ties, 0);
      return true;
    }
  }

  template <class F>
  void for_each_record(const Part& part, F f) const {
    const auto walk = [&]<class Key>(Key) {
      const auto* records = reinterpret_cast<const Record<Key>*>(part.gathered.records);
      for (std::size_t i = 0; i < part.gathered.count; ++i)
        f(std::int64_t{records[i].key}, records[i].position);
    };
    source_.wide() ? walk(std::int64_t{}) : walk(std::int32_t{});
  }

  /// The bits of the records of this thread.
  void fill_in(const Part& part, Found found) const {
    const Workspace::Start* start = part.starts;
    for_each_record(part, [&](std::int64_t key, std::uint32_t position) {
      while (start + 1 != part.starts + part.runs && (start + 1)->position <= position)
        ++start;
      bool stays = key > found.key;
      if (key == found.key) stays = found.ties-- > 0;
      const std::uint32_t at = position - start->position;
      start->words[at / 64] |= std::uint64_t{stays} << at % 64;  // no branch: it would be a guess
    });
  }

  const Source& source_;
  const Selection& selection_;
  const WorkList work_;
  const std::int64_t count_;
  const std::int64_t total_;
  const std::int64_t sample_size_;
  Workspace* workspace_;  ///< null: run_small does without
};

/// Prunes `count` elements. The workspace is made by make(), if the search needs one.
template <class Source, class Make>
void search(const Source& source, const Selection& selection, std::int64_t count, TeamSize size,
            Make make) {
  const std::int64_t total = ranked(source.arrays(), selection);
  if (count <= 0 || count >= total) return keep(source.arrays(), selection, count <= 0);
  Search<Source> found(source, selection, count, total,
                       size.most == 1 && total <= few ? nullptr : make());
  parallel(size, [&](Team team) { found.run(team); });
}

/// The team of a search: some passes, which meet, take a third of the work.
TeamSize search_team(std::int64_t elements, int threads) {
  return team_for(4 * elements, elements < shared ? 1 : threads);
}

template <class Source>
void search(const Source& source, const Selection& selection, std::int64_t count, int threads) {
  const Arrays arrays = source.arrays();
  const std::int64_t elements = WorkList(arrays).elements();
  const TeamSize size = search_team(elements, threads);
  std::optional<Workspace> workspace;
  search(source, selection, count, size, [&] {
    const auto records = static_cast<std::size_t>(record_bytes(arrays));
    return &workspace.emplace(arrays.size(), elements, records, size.most);
  });
}

bool needs_double(Arrays arrays, const Selection& selection) {
  const auto is_double = [](const Array& a) { return a.dtype == DType::float64; };
  const auto divides = [](const Ranking& r) { return r.divisor != 1; };
  return std::ranges::any_of(arrays, is_double) || std::ranges::any_of(selection.rankings, divides);
}

/// Prunes the counts[r] lowest of each of `rows` short rows of an array, from row `first` on. The
/// bits of these rows are zeros before.
void rank_rows(const Array& x, Ranking ranking, const std::uint64_t* among, std::uint64_t* words,
               std::int64_t length, std::int64_t first, std::int64_t rows,
               const std::int64_t* counts) {
  const bool wide = x.dtype == DType::float64 || ranking.divisor != 1;
  const PruningKernels& all = tables().pruning->kernels[static_cast<std::size_t>(x.dtype)];
  const RankKernels& kernels = wide ? all.wide : all.narrow;
  const auto n = static_cast<std::size_t>(length);
  const std::size_t item = item_size(x.dtype);
  const ScratchArray<std::int64_t> keys(wide ? n + 64 : n / 2 + 64);
  const ScratchArray<std::byte> copy(x.contiguous() ? 0 : n * item);
  const std::int64_t step = x.contiguous() ? rows : 1;
  for (std::int64_t r = 0; r < rows; r += step) {
    const std::int64_t begin = (first + r) * length;
    const void* from = copy;
    if (x.contiguous()) {
      from = static_cast<const std::byte*>(x.data) + static_cast<std::size_t>(begin) * item;
    } else {
      gather(x, begin, length, copy);
    }
    kernels.rows(from, static_cast<std::size_t>(step), n, ranking, counts + r, among, words,
                 static_cast<std::size_t>(begin), keys);
  }
}

Selection part_of(const Selection& all, std::size_t k) {
  return {all.rankings.subspan(k, 1), all.among.empty() ? all.among : all.among.subspan(k, 1),
          all.words.subspan(k, 1)};
}

}  // namespace

void prune_lowest(Arrays arrays, const Selection& selection, std::int64_t count, int threads) {
  const FloatEnvironment environment;
  search(ArraySource(arrays, selection, needs_double(arrays, selection)), selection, count,
         threads);
}

void prune_each_lowest(Arrays arrays, const Selection& selection,
                       std::span<const std::int64_t> counts, int threads) {
  const FloatEnvironment environment;
  // All memory before the first mask is written: large arrays are searched by all threads, one
  // after the other, others by one thread each.
  struct Kind {
    std::int64_t work = 0, largest = 0, records = 0;
  };
  Kind small;
  Kind large;
  for (const Array& array : arrays) {
    Kind& kind = array.size < shared ? small : large;
    if (array.size <= row_limit) {
      small.work += 16 * array.size;
      continue;
    }
    kind.work += 8 * array.size;  // about as much work as reading that number of elements
    kind.largest = std::max(kind.largest, array.size);
    kind.records = std::max(kind.records, record_bytes({&array, 1}));
  }
  const auto workspace = [](const Kind& kind, int most) {
    return Workspace(1, kind.largest, static_cast<std::size_t>(kind.records), most);
  };
  const TeamSize size = team_for(small.work, threads);
  std::vector<Workspace> own;
  for (int t = 0; small.largest > 0 && t < size.most; ++t)
    own.push_back(workspace(small, 1));
  std::optional<Workspace> common;
  if (large.largest > 0) common.emplace(workspace(large, search_team(large.largest, threads).most));

  const auto search_one = [&](std::size_t k, TeamSize team, Workspace* space) {
    const Arrays one = arrays.subspan(k, 1);
    const Selection part = part_of(selection, k);
    search(ArraySource(one, part, needs_double(one, part)), part, counts[k], team,
           [=] { return space; });
  };
  for (std::size_t k = 0; k < arrays.size(); ++k) {
    if (arrays[k].size >= shared) search_one(k, search_team(arrays[k].size, threads), &*common);
  }
  parallel(size, [&](Team team) {
    Workspace* space = own.empty() ? nullptr : &own[static_cast<std::size_t>(team.rank)];
    for (auto k = static_cast<std::size_t>(team.rank); k < arrays.size();
         k += static_cast<std::size_t>(team.size)) {
      if (arrays[k].size > row_limit) {
        if (arrays[k].size < shared) search_one(k, TeamSize{1}, space);
        continue;
      }
      const bool all = selection.among.empty();
      std::fill_n(selection.words[k], mask_words(arrays[k].size), 0);
      rank_rows(arrays[k], selection.rankings[k], all ? nullptr : selection.among[k],
                selection.words[k], arrays[k].size, 0, 1, &counts[k]);
    }
  });
}

void prune_each_row(const Array& x, std::int64_t length, Ranking ranking,
                    std::span<const std::int64_t> counts, const std::uint64_t* among,
                    std::uint64_t* words, int threads) {
  const FloatEnvironment environment;
  const auto rows = static_cast<std::int64_t>(counts.size());
  std::fill_n(words, mask_words(x.size), 0);
  if (length <= row_limit) {
    const std::int64_t together = 64 / std::gcd(length, std::int64_t{64});  // they end with a word
    const std::int64_t units = (rows + together - 1) / together;
    return parallel(16 * x.size, threads, [&](Team team) {
      const std::int64_t begin = std::min(units * team.rank / team.size * together, rows);
      const std::int64_t end = std::min(units * (team.rank + 1) / team.size * together, rows);
      if (begin < end)
        rank_rows(x, ranking, among, words, length, begin, end - begin,
                  &counts[static_cast<std::size_t>(begin)]);
    });
  }
  const std::size_t item = item_size(x.dtype);
  std::vector<std::byte> copy(x.contiguous() ? 0 : static_cast<std::size_t>(length) * item);
  std::vector<std::uint64_t> bits(static_cast<std::size_t>(mask_words(length)));
  std::vector<std::uint64_t> part(among == nullptr ? 0 : bits.size());
  for (std::int64_t r = 0; r < rows; ++r) {
    Array row(static_cast<std::byte*>(x.data) + static_cast<std::size_t>(r * length) * item,
              x.dtype, length);
    if (!x.contiguous()) {
      gather(x, r * length, length, copy.data());
      row.data = copy.data();
    }
    const auto each_word = [&](auto f) {
      for (std::int64_t i = 0; i < length; i += 64)
        f(static_cast<std::size_t>(i / 64), r * length + i, std::min<std::int64_t>(64, length - i));
    };
    if (among != nullptr) {
      each_word([&](std::size_t w, std::int64_t at, std::int64_t n) {
        part[w] = read_bits(among, at, n);
      });
    }
    const std::uint64_t* own_part[] = {among == nullptr ? nullptr : part.data()};
    std::uint64_t* own_bits[] = {bits.data()};
    const Selection selection{{&ranking, 1}, own_part, own_bits};
    search(ArraySource({&row, 1}, selection, needs_double({&row, 1}, selection)), selection,
           counts[static_cast<std::size_t>(r)], threads);
    each_word([&](std::size_t w, std::int64_t at, std::int64_t n) {
      append_bits(words, at, bits[w], n);
    });
  }
}

void prune_random(Arrays arrays, const Selection& selection, Key key, std::int64_t first,
                  std::int64_t count, int threads) {
  const FloatEnvironment environment;
  search(RandomSource(arrays, selection, key, first), selection, count, threads);
}

namespace {

template <class Source>
void histogram(const Source& source, std::int64_t low, int shift, std::int64_t& below,
               std::span<std::int64_t> bins, int threads) {
  if (bins.size() != bin_count) {
    bad_value("bins",
              "got " + std::to_string(bins.size()) + ", wants " + std::to_string(bin_count));
  }
  const WorkList work(source.arrays());
  const std::int64_t highest = source.everything().high;
  const auto range = static_cast<std::uint64_t>(highest) - static_cast<std::uint64_t>(low);
  const bool all = shift + bin_bits >= 64 || std::uint64_t{bin_count} << shift >= range;
  const auto end = static_cast<std::uint64_t>(low) + (std::uint64_t{bin_count} << shift);
  const Window window{low, all ? highest : static_cast<std::int64_t>(end)};
  const TeamSize size = team_for(work.elements(), threads);
  constexpr std::size_t stride = bin_count + 8;  // threads share no line of the cache
  std::vector<std::int64_t> counted(stride * static_cast<std::size_t>(size.most), 0);
  parallel(size, [&](Team team) {
    std::int64_t* own = counted.data() + stride * static_cast<std::size_t>(team.rank);
    work.forward(
        team, [&](const Run& run) { source.histogram(run, window, shift, own[bin_count], own); });
  });
  for (std::size_t part = 0; part < counted.size(); part += stride) {
    below += counted[part + bin_count];
    for (std::size_t b = 0; b < bin_count; ++b)
      bins[b] += counted[part + b];
  }
}

template <class Source>
void at_key(const Source& source, std::int64_t key, std::int64_t ties, int threads) {
  const WorkList work(source.arrays());
  const TeamSize size = team_for(work.elements(), threads);
  std::vector<std::int64_t> equal(static_cast<std::size_t>(size.most), 0);
  parallel(size, [&](Team team) {
    std::int64_t below = 0;
    work.forward(team, [&](const Run& run) {
      source.histogram(run, {key - 1, key}, 0, below, &equal[static_cast<std::size_t>(team.rank)]);
    });
    team.barrier();
    std::int64_t own = ties;
    for (int t = 0; t < team.rank; ++t)
      own -= equal[static_cast<std::size_t>(t)];
    own = std::max<std::int64_t>(own, 0);
    work.forward(team, [&](const Run& run) { source.at_key(run, key, own); });
  });
}

}  // namespace

void random_keys(std::span<std::int64_t> keys, Key key, std::int64_t first) {
  const FloatEnvironment environment;
  tables().pruning->random.keys(key, static_cast<std::uint64_t>(first), keys.size(), keys.data());
}

void rank_histogram(Arrays arrays, const Selection& selection, std::int64_t low, int shift,
                    std::int64_t& below, std::span<std::int64_t> bins, int threads) {
  const FloatEnvironment environment;
  histogram(ArraySource(arrays, selection, true), low, shift, below, bins, threads);
}
void prune_at_key(Arrays arrays, const Selection& selection, std::int64_t key, std::int64_t ties,
                  int threads) {
  const FloatEnvironment environment;
  at_key(ArraySource(arrays, selection, true), key, ties, threads);
}
void random_histogram(Arrays arrays, const Selection& selection, Key key, std::int64_t first,
                      std::int64_t low, int shift, std::int64_t& below,
                      std::span<std::int64_t> bins, int threads) {
  const FloatEnvironment environment;
  histogram(RandomSource(arrays, selection, key, first), low, shift, below, bins, threads);
}
void prune_random_at_key(Arrays arrays, const Selection& selection, Key key, std::int64_t first,
                         std::int64_t at, std::int64_t ties, int threads) {
  const FloatEnvironment environment;
  at_key(RandomSource(arrays, selection, key, first), at, ties, threads);
}

}  // namespace ridgeline
