// Ranking elements, 64 at a time, whose bits fill a word; what masks do; scores.
#include "kernels/pruning.hpp"

#include "simd/loop.hpp"
#include "simd/math.hpp"

namespace ridgeline::RIDGELINE_TARGET {
namespace {

inline constexpr std::size_t word_bits = 64;
/// Elements whose keys are worked out at once.
template <class I>
inline constexpr int key_lanes = register_bytes == 0                      ? 1
                                 : register_bytes == 64 && sizeof(I) == 4 ? 64
                                                                          : 16;

template <class I>
struct ScoreOf {
  using type = float;
};
template <>
struct ScoreOf<std::int64_t> {
  using type = double;
};

/// How keys are derived, known at compile time so that hot loops are specialized.
enum class Kind : std::uint8_t { magnitude, value, either };

/// The keys of elements of type T: the bits of a magnitude as an integer are in its order. The
/// key of a negative number is minus that of its magnitude, so that of -0 is 0; NaN counts as
/// infinity.

template <class T, class I, Kind kind>
class Keys {
 public:
  using F = typename ScoreOf<I>::type;
  using V = Vec<F, key_lanes<I>>;
  using K = Vec<I, key_lanes<I>>;

  explicit Keys(Ranking ranking)
      : magnitude_(ranking.magnitude), divides_(ranking.divisor != 1),
        divisor_(static_cast<F>(ranking.divisor)) {}

  [[gnu::always_inline]] K operator()(const T* p) const {
    V v;
    if constexpr (sizeof(I) == 8) {
      v = load_double<T, key_lanes<I>>(p);
    } else {
      v = load<T, key_lanes<I>>(p);
    }
    if constexpr (sizeof(I) == 8) {
      if (divides_) v = v / divisor_;
    }
    const K bits = bits_as<I>(v);
    const K size = bits & K(static_cast<I>(~(std::uint64_t{1} << (8 * sizeof(I) - 1))));
    const K top(__builtin_bit_cast(I, static_cast<F>(__builtin_inf())));
    const K clamped = lesser(size, top);
    if (kind == Kind::magnitude || (kind == Kind::either && magnitude_)) return clamped;
    return select((bits < K(0)) & (size <= top), K(0) - size, clamped);
  }

 private:
  const bool magnitude_;
  const bool divides_;  ///< only in float64
  const V divisor_;
};

/// Calls body(keys of the ranking).
template <class T, class I, class F>
[[gnu::always_inline]] inline void with_keys(Ranking ranking, F body) {
  if (ranking.magnitude) {
    body(Keys<T, I, Kind::magnitude>(ranking));
  } else {
    body(Keys<T, I, Kind::value>(ranking));
  }
}

[[gnu::always_inline]] inline std::uint64_t first_bits(std::size_t n) {
  return n >= word_bits ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1;
}

[[gnu::always_inline]] inline int count_bits(std::uint64_t bits) {
#if RIDGELINE_REGISTER_BYTES == 0
  // Without the instruction the compiler calls libgcc.
  bits -= bits >> 1 & 0x5555555555555555;
  bits = (bits & 0x3333333333333333) + (bits >> 2 & 0x3333333333333333);
  bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0f;
  return static_cast<int>(bits * 0x0101010101010101 >> 56);
#else
  return __builtin_popcountll(bits);
#endif
}

/// Lower than the key of any element.
template <class I>
inline constexpr I absent_key = static_cast<I>(std::uint64_t{1} << (8 * sizeof(I) - 1));

/// Calls body(w, p, takes_part) for each word w of elements at p, where those beyond the last are
/// zeros.
template <class T, class F>
[[gnu::always_inline]] inline void for_each_word(const void* x, std::size_t n,
                                                 const std::uint64_t* among, F body) {
  const auto* from = static_cast<const T*>(x);
  const std::size_t whole = n / word_bits;
  T last[word_bits] = {};
  copy_elements(last, from + whole * word_bits, n % word_bits);
  for (std::size_t w = 0; w * word_bits < n; ++w) {
    const std::uint64_t part = among == nullptr ? ~std::uint64_t{0} : among[w];
    body(w, w < whole ? from + w * word_bits : last, part & first_bits(n - w * word_bits));
  }
}

/// For 64 elements: which keys lie above the window's low and high end, and the keys.
template <class I>
struct WordAgainstWindow {
  std::uint64_t above_low = 0;
  std::uint64_t above_high = 0;
  alignas(64) I key[word_bits];
};

template <class T, class I, Kind kind>
[[gnu::always_inline]] inline void compare_word(const T* p, const Keys<T, I, kind>& keys,
                                                Window window, WordAgainstWindow<I>& against) {
  using K = typename Keys<T, I, kind>::K;
  const K low(static_cast<I>(window.low));
  const K high(static_cast<I>(window.high));
  std::uint64_t above_low = 0;
  std::uint64_t above_high = 0;
  for (std::size_t i = 0; i < word_bits; i += key_lanes<I>) {
    const K key = keys(p + i);
    store_lanes(against.key + i, key);
    above_low |= greater_bits(key, low) << i;
    above_high |= greater_bits(key, high) << i;
  }
  against.above_low = above_low;
  against.above_high = above_high;
}

/// Appends the places of the bits set: seldom more than two, which are added without a branch.
[[gnu::always_inline]] inline void append_places(std::uint64_t bits, std::uint32_t first,
                                                 std::uint32_t* places, std::size_t& count) {
  const auto place = [&] {
    return first + static_cast<std::uint32_t>(__builtin_ctzll(bits | std::uint64_t{1} << 63));
  };
  for (int i = 0; i < 2; ++i) {
    places[count] = place();
    count += bits != 0 ? 1 : 0;
    bits &= bits - 1;
  }
  for (; bits != 0; bits &= bits - 1)
    places[count++] = place();
}

template <class T, class I>
void keys(const void* x, std::size_t n, Ranking ranking, std::int64_t* out) {
  const Keys<T, I, Kind::either> keys_of(ranking);
  for_each_word<T>(
      x, n,
      nullptr, [&](std::size_t w, const T* p, std::uint64_t part) __attribute__((always_inline)) {
        alignas(64) I key[word_bits];
        for (std::size_t i = 0; i < word_bits; i += key_lanes<I>)
          store_lanes(key + i, keys_of(p + i));
        const auto count = static_cast<std::size_t>(count_bits(part));
        for (std::size_t i = 0; i < count; ++i)
          out[w * word_bits + i] = key[i];
      });
}

/// Appends records of elements at some places of x.
template <class T, class I, Kind kind>
void append_records(const T* x, const Keys<T, I, kind>& keys_of, const std::uint32_t* places,
                    std::size_t count, std::uint32_t position, Gathered& gathered) {
  auto* records = static_cast<Record<I>*>(gathered.records) + gathered.count;
  gathered.count += count;
  for (std::size_t done = 0; done < count; done += word_bits) {
    const std::size_t n = count - done < word_bits ? count - done : word_bits;
    T elements[word_bits] = {};
    alignas(64) I key[word_bits];
    for (std::size_t i = 0; i < n; ++i)
      copy_elements(elements + i, x + places[done + i], 1);
    for (std::size_t i = 0; i < n; i += key_lanes<I>)
      store_lanes(key + i, keys_of(elements + i));
    for (std::size_t i = 0; i < n; ++i)
      records[done + i] = {key[i], position + places[done + i]};
  }
}

template <class T, class I>
void split(const void* x, std::size_t n, Ranking ranking, Window window, const std::uint64_t* among,
           std::uint64_t* words, std::uint32_t position, Gathered& gathered) {
  with_keys<T, I>(
      ranking, [&](const auto keys_of) __attribute__((always_inline)) {
        using K = Vec<I, key_lanes<I>>;
        constexpr std::size_t chunk = block_size;  // still in the first cache when records are made
        const K low(static_cast<I>(window.low));
        const K high(static_cast<I>(window.high));
        const auto* from = static_cast<const T*>(x);
        std::uint32_t places[chunk + 1];
        std::int64_t below = 0;
        for (std::size_t begin = 0; begin < n; begin += chunk) {
          std::size_t count = 0;
          std::uint64_t* out = words + begin / word_bits;
          for_each_word<T>(
              from + begin, n - begin < chunk ? n - begin : chunk,
              among == nullptr ? nullptr : among + begin / word_bits,
              [&](std::size_t w, const T* p, std::uint64_t part) __attribute__((always_inline)) {
                std::uint64_t above_low = 0;
                std::uint64_t above_high = 0;
                for (std::size_t i = 0; i < word_bits; i += key_lanes<I>) {
                  const K key = keys_of(p + i);
                  above_low |= greater_bits(key, low) << i;
                  above_high |= greater_bits(key, high) << i;
                }
                out[w] = above_high & part;
                below += count_bits(~above_low & part);
                append_places(above_low & ~above_high & part,
                              static_cast<std::uint32_t>(w * word_bits), places, count);
              });
          gathered.full = gathered.full || gathered.count + count > gathered.room;
          if (gathered.full) continue;
          append_records(from + begin, keys_of, places, count,
                         position + static_cast<std::uint32_t>(begin), gathered);
        }
        gathered.below += below;
      });
}

/// Adds the elements of a word in the window to their bins.
template <class I>
[[gnu::always_inline]] inline void count_in_bins(std::uint64_t inside, const I* key,
                                                 std::int64_t low, int shift, std::int64_t* bins) {
  for (; inside != 0; inside &= inside - 1) {
    const auto above = static_cast<std::uint64_t>(std::int64_t{key[__builtin_ctzll(inside)]}) -
                       static_cast<std::uint64_t>(low) - 1;
    ++bins[above >> shift];
  }
}

template <class T, class I>
void histogram(const void* x, std::size_t n, Ranking ranking, Window window, int shift,
               const std::uint64_t* among, std::int64_t& below, std::int64_t* bins) {
  const Keys<T, I, Kind::either> keys_of(ranking);
  std::int64_t lower = 0;
  for_each_word<T>(
      x, n, among, [&](std::size_t, const T* p, std::uint64_t part) __attribute__((always_inline)) {
        WordAgainstWindow<I> against;
        compare_word(p, keys_of, window, against);
        lower += count_bits(~against.above_low & part);
        if (window.high - window.low == 1) {
          bins[0] += count_bits(against.above_low & ~against.above_high & part);
          return;
        }
        count_in_bins(against.above_low & ~against.above_high & part, against.key, window.low,
                      shift, bins);
      });
  below += lower;
}

/// The first `ties` of the bits set; counts them.
[[gnu::always_inline]] inline std::uint64_t first_of(std::uint64_t equal, std::int64_t& ties) {
  const int count = count_bits(equal);
  if (count > ties) {
    std::uint64_t later = equal;
    for (; ties > 0; --ties)
      later &= later - 1;
    return equal & ~later;
  }
  ties -= count;
  return equal;
}

template <class T, class I>
void at_key(const void* x, std::size_t n, Ranking ranking, std::int64_t key,
            const std::uint64_t* among, std::uint64_t* words, std::int64_t& ties) {
  const Keys<T, I, Kind::either> keys_of(ranking);
  for_each_word<T>(
      x, n,
      among, [&](std::size_t w, const T* p, std::uint64_t part) __attribute__((always_inline)) {
        WordAgainstWindow<I> against;
        compare_word(p, keys_of, Window{key - 1, key}, against);
        const std::uint64_t equal = against.above_low & ~against.above_high & part;
        words[w] = (against.above_high & part) | (equal == 0 ? 0 : first_of(equal, ties));
      });
}

/// n <= 64 bits from bit `at` on, of words that have them.
[[gnu::always_inline]] inline std::uint64_t read_bits(const std::uint64_t* words, std::size_t at,
                                                      std::size_t n) {
  const std::size_t shift = at % word_bits;
  std::uint64_t bits = words[at / word_bits] >> shift;
  if (shift + n > word_bits) bits |= words[at / word_bits + 1] << (word_bits - shift);
  return bits & first_bits(n);
}

/// The keys of a row; those of elements that do not take part, or lie beyond the row up to a whole
/// number of lanes, are lower than all others. Returns how many take part.
template <class T, class I, class KeysOf>
[[gnu::always_inline]] inline std::size_t
keys_of_row(const T* x, std::size_t n, const KeysOf& keys_of, const std::uint64_t* among,
            std::size_t bit, I* key) {
  constexpr std::size_t lanes = key_lanes<I>;
  using K = Vec<I, key_lanes<I>>;
  const K lowest(absent_key<I>);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    store_lanes(key + i, keys_of(x + i));
  if (i < n) {
    T last[lanes] = {};
    copy_elements(last, x + i, n - i);
    store_lanes(key + i, select(first_bits(n - i), keys_of(last), lowest));
  }
  if (among == nullptr) return n;
  std::size_t count = 0;
  for (i = 0; i < n; i += lanes) {
    const std::uint64_t part = read_bits(among, bit + i, n - i < lanes ? n - i : lanes);
    count += static_cast<std::size_t>(count_bits(part));
    store_lanes(key + i, select(part, load_lanes<I, key_lanes<I>>(key + i), lowest));
  }
  return count;
}

/// The key that separates the `keep` highest of n keys, 0 < keep < those that take part, and how
/// many of those that equal it are kept. Halves the range of keys, in a row of n random ones about
/// log2(n) + 8 times, without a branch that the data decide.
template <class I>
[[gnu::always_inline]] inline I separating_key(const I* key, std::size_t n, std::size_t keep,
                                               std::int64_t& ties) {
  constexpr std::size_t lanes = key_lanes<I>;
  using K = Vec<I, key_lanes<I>>;
  I low = absent_key<I>;
  I high = static_cast<I>(~absent_key<I>);
  std::size_t above_high = 0;
  while (static_cast<lane_word<I>>(high) - static_cast<lane_word<I>>(low) > 1) {
    const I middle = (low & high) + ((low ^ high) >> 1);
    const K bound(middle);
    std::size_t count = 0;
    for (std::size_t begin = 0; begin < n; begin += word_bits) {
      const std::size_t end = n - begin < word_bits ? n : begin + word_bits;
      std::uint64_t bits = 0;
      for (std::size_t i = begin; i < end; i += lanes)
        bits |= greater_bits(load_lanes<I, key_lanes<I>>(key + i), bound) << (i - begin);
      count += static_cast<std::size_t>(count_bits(bits));
    }
    const bool more = count > keep;
    low = more ? middle : low;
    high = more ? high : middle;
    above_high = more ? above_high : count;
    if (count == keep) break;
  }
  ties = static_cast<std::int64_t>(keep - above_high);
  return high;
}

template <class T, class I>
void rows(const void* x, std::size_t rows, std::size_t length, Ranking ranking,
          const std::int64_t* counts, const std::uint64_t* among, std::uint64_t* words,
          std::size_t bit, void* scratch) {
  constexpr std::size_t lanes = key_lanes<I>;
  using K = Vec<I, key_lanes<I>>;
  const Keys<T, I, Kind::either> keys_of(ranking);
  auto* key = static_cast<I*>(scratch);
  const auto* from = static_cast<const T*>(x);
  for (std::size_t row = 0; row < rows; ++row, from += length, bit += length) {
    const std::size_t present = keys_of_row(from, length, keys_of, among, bit, key);
    const auto count = static_cast<std::size_t>(counts[row] > 0 ? counts[row] : 0);
    if (count >= present) continue;
    std::int64_t ties = 0;
    I bound = absent_key<I>;
    if (count > 0) bound = separating_key(key, length, present - count, ties);
    const K high(bound);
    const K low(static_cast<I>(bound - (ties > 0 ? 1 : 0)));
    for (std::size_t begin = 0; begin < length; begin += word_bits) {
      const std::size_t end = length - begin < word_bits ? length : begin + word_bits;
      std::uint64_t bits = 0;
      std::uint64_t equal = 0;
      for (std::size_t i = begin; i < end; i += lanes) {
        const K own = load_lanes<I, key_lanes<I>>(key + i);
        bits |= greater_bits(own, high) << (i - begin);
        equal |= greater_bits(own, low) << (i - begin);
      }
      equal &= ~bits;
      if (equal != 0) bits |= first_of(equal, ties);
      const std::size_t at = bit + begin;
      words[at / word_bits] |= bits << at % word_bits;
      if (at % word_bits != 0 && bits >> (word_bits - at % word_bits) != 0)
        words[at / word_bits + 1] |= bits >> (word_bits - at % word_bits);
    }
  }
}

template <class T, class I>
constexpr RankKernels rank_kernels() {
  return {&keys<T, I>, &split<T, I>, &histogram<T, I>, &at_key<T, I>, &rows<T, I>};
}

// --- random scores ---

/// The score of an element is the 32 bits that decide whether dropout keeps it: a byte of the
/// stream `choice`, and 24 bits of the stream `tie`. Most elements are decided by the byte alone.
class RandomScores {
 public:
  static constexpr std::size_t block = 4096;

  RandomScores(Key key, std::uint64_t first, std::size_t n, const std::uint64_t* among)
      : keys_(key), first_(first), n_(n), among_(among) {}

  /// For each word of elements whose byte is less than `low`, more than `high`, or neither:
  /// word(w, less, more), then uncertain(w, bits, keys) where there are such elements.
  template <class Word, class Uncertain>
  [[gnu::always_inline]] void walk(int low, int high, Word word, Uncertain uncertain) {
    for (std::size_t begin = 0; begin < n_; begin += block) {
      const std::size_t count = n_ - begin < block ? n_ - begin : block;
      draw(begin, count);
      for (std::size_t done = 0; done < count; done += word_bits) {
        const std::size_t w = (begin + done) / word_bits;
        const std::uint64_t part =
            (among_ == nullptr ? ~std::uint64_t{0} : among_[w]) & first_bits(count - done);
        const unsigned char* p = bytes_ + done;
        const std::uint64_t at_least =
            low > 255 ? 0 : bytes_at_least(p, static_cast<std::uint8_t>(low));
        const std::uint64_t more =
            high >= 255 ? 0 : bytes_at_least(p, static_cast<std::uint8_t>(high + 1));
        const std::uint64_t open = at_least & ~more & part;
        word(w, ~at_least & part, more & part);
        if (open != 0) {
          alignas(64) std::int64_t key[word_bits];
          resolve(begin + done, p, open, key);
          uncertain(w, open, key);
        }
      }
    }
  }

 private:
  static constexpr std::size_t batch = counters_in_flight;

  void draw(std::size_t begin, std::size_t count) {
    const std::uint64_t index = first_ + begin;
    const std::size_t skip = index % tile_bytes;
    fill_words(words_, index / tile_bytes, (skip + count + tile_bytes - 1) / tile_bytes, keys_,
               Stream::choice);
    bytes_ = reinterpret_cast<const unsigned char*>(words_) + skip;
  }

  [[gnu::noinline]] void resolve(std::size_t at, const unsigned char* p, std::uint64_t open,
                                 std::int64_t* key) const {
    while (open != 0) {
      std::uint64_t index[batch] = {};
      unsigned place[batch];
      Word low[2 * batch];
      Word high[2 * batch];
      std::size_t count = 0;
      for (; open != 0 && count < batch; open &= open - 1, ++count) {
        place[count] = static_cast<unsigned>(__builtin_ctzll(open));
        index[count] = first_ + at + place[count];
      }
      bits_at<batch>(index, keys_, Stream::tie, low, high);
      for (std::size_t i = 0; i < count; ++i)
        key[place[i]] = std::int64_t{p[place[i]]} << 24 | low[2 * i] >> 8;
    }
  }

  const RoundKeys keys_;
  const std::uint64_t first_;
  const std::size_t n_;
  const std::uint64_t* among_;
  const unsigned char* bytes_ = nullptr;
  alignas(64) Word words_[(block / tile_bytes + 1) * tile_words + 16];
};

/// The byte of the lowest key in a window, and that of the highest.
int low_byte(Window window) { return static_cast<int>((window.low + 1) >> 24); }
int high_byte(Window window) { return static_cast<int>(window.high >> 24); }

void random_keys(Key key, std::uint64_t first, std::size_t n, std::int64_t* out) {
  RandomScores(key, first, n, nullptr)
      .walk(
          0, 255, [](std::size_t, std::uint64_t, std::uint64_t) {},
          [&](std::size_t w, std::uint64_t open, const std::int64_t* k) {
            for (int i = 0; i < count_bits(open); ++i)
              out[w * word_bits + static_cast<std::size_t>(i)] = k[i];
          });
}

/// Calls each(bit, key) for the elements of a word whose byte does not decide.
template <class F>
[[gnu::always_inline]] inline void for_each_open(std::uint64_t open, const std::int64_t* key,
                                                 F each) {
  for (; open != 0; open &= open - 1)
    each(open & (0 - open), key[__builtin_ctzll(open)]);
}

void random_split(Key key, std::uint64_t first, std::size_t n, Window window,
                  const std::uint64_t* among, std::uint64_t* words, std::uint32_t position,
                  Gathered& gathered) {
  auto* records = static_cast<Record<std::int64_t>*>(gathered.records);
  RandomScores(key, first, n, among)
      .walk(
          low_byte(window), high_byte(window),
          [&](std::size_t w, std::uint64_t less, std::uint64_t more) {
            gathered.below += count_bits(less);
            words[w] = more;
          },
          [&](std::size_t w, std::uint64_t open, const std::int64_t* k) {
            for_each_open(open, k, [&](std::uint64_t bit, std::int64_t value) {
              if (value > window.high) {
                words[w] |= bit;
              } else if (value <= window.low) {
                ++gathered.below;
              } else if (gathered.count < gathered.room) {
                const std::size_t place =
                    w * word_bits + static_cast<unsigned>(__builtin_ctzll(bit));
                records[gathered.count++] = {value, position + static_cast<std::uint32_t>(place)};
              } else {
                gathered.full = true;
              }
            });
          });
}

void random_histogram(Key key, std::uint64_t first, std::size_t n, Window window, int shift,
                      const std::uint64_t* among, std::int64_t& below, std::int64_t* bins) {
  RandomScores(key, first, n, among)
      .walk(
          low_byte(window), high_byte(window),
          [&](std::size_t, std::uint64_t less, std::uint64_t) { below += count_bits(less); },
          [&](std::size_t, std::uint64_t open, const std::int64_t* k) {
            for_each_open(open, k, [&](std::uint64_t, std::int64_t value) {
              if (value > window.high) return;
              if (value > window.low) {
                ++bins[static_cast<std::uint64_t>(value - window.low - 1) >> shift];
              } else {
                ++below;
              }
            });
          });
}

void random_at_key(Key key, std::uint64_t first, std::size_t n, std::int64_t at,
                   const std::uint64_t* among, std::uint64_t* words, std::int64_t& ties) {
  const int byte = static_cast<int>(at >> 24);
  RandomScores(key, first, n, among)
      .walk(
          byte, byte, [&](std::size_t w, std::uint64_t, std::uint64_t more) { words[w] = more; },
          [&](std::size_t w, std::uint64_t open, const std::int64_t* k) {
            for_each_open(open, k, [&](std::uint64_t bit, std::int64_t value) {
              if (value > at || (value == at && ties-- > 0)) words[w] |= bit;
            });
          });
}

// --- n of m ---

template <int Turn, class R, int... I>
[[gnu::always_inline]] inline R turned(R a, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, a, ((I & ~3) | ((I + Turn) & 3))...);
}

/// Bit i: whether lane i loses against the one `Turn` further on in its group of 4. Where that one
/// lies before it, it wins a tie.
template <int Turn, class K>
[[gnu::always_inline]] inline std::uint64_t loses(K key) {
  using I = typename K::value_type;
  const K wraps = (iota<I, K::lanes>() & K(3)) > K(3 - Turn);
  K other;
  unroll<K::registers>([&](int r) {
    if constexpr (K::register_lanes >= 4) {
      other.r[r] = turned<Turn>(key.r[r], std::make_integer_sequence<int, K::register_lanes>{});
    } else if constexpr (K::register_lanes == 1) {
      other.r[r] = key.r[(r & ~3) | ((r + Turn) & 3)];
    } else if constexpr (Turn == 2) {  // a group is a pair of registers
      other.r[r] = key.r[r ^ 1];
    } else {
      const auto& first = Turn == 1 ? key.r[r] : key.r[r ^ 1];
      const auto& second = Turn == 1 ? key.r[r ^ 1] : key.r[r];
      other.r[r] = __builtin_shufflevector(first, second, 1, 2);
    }
  });
  return greater_bits(other - wraps, key);
}

template <class T, class I>
void keep_of_4(const void* x, std::size_t n, Ranking ranking, int keep, const std::uint64_t* among,
               std::uint64_t* words) {
  const Keys<T, I, Kind::either> keys_of(ranking);
  constexpr int N = 16;
  using K = Vec<I, N>;
  const K lowest(static_cast<I>(-(~std::uint64_t{0} >> (65 - 8 * sizeof(I)))));
  for_each_word<T>(
      x, n,
      among, [&](std::size_t w, const T* p, std::uint64_t part) __attribute__((always_inline)) {
        std::uint64_t kept = 0;
        alignas(64) I key[word_bits];
        for (std::size_t i = 0; i < word_bits; i += key_lanes<I>)
          store_lanes(key + i, keys_of(p + i));
        for (std::size_t i = 0; i < word_bits; i += N) {
          K all = load_lanes<I, N>(key + i);
          if (among != nullptr) all = select(part >> i, all, lowest);
          const std::uint64_t a = loses<1>(all);
          const std::uint64_t b = loses<2>(all);
          const std::uint64_t c = loses<3>(all);
          const std::uint64_t out = keep == 1   ? a | b | c
                                    : keep == 2 ? (a & b) | (a & c) | (b & c)
                                                : a & b & c;
          kept |= (~out & 0xffff) << i;
        }
        words[w] = kept & part;
      });
}

void keep_of_columns(const std::int64_t* keys, int m, int keep, std::uint64_t* bits) {
  using K = Vec<std::int64_t, key_lanes<std::int64_t>>;
  for (int j = 0; j < m; ++j)
    bits[j] = 0;
  for (std::size_t c = 0; c < word_bits; c += key_lanes<std::int64_t>) {
    for (int j = 0; j < m; ++j) {
      const auto own = load_lanes<std::int64_t, key_lanes<std::int64_t>>(keys + j * 64 + c);
      K losses(0);  // a lost comparison adds -1
      for (int k = 0; k < m; ++k) {
        const auto other = load_lanes<std::int64_t, key_lanes<std::int64_t>>(keys + k * 64 + c);
        losses = losses + (k < j ? other >= own : other > own);
      }
      bits[j] |= greater_bits(losses, K(-keep)) << c;
    }
  }
}

// --- blocks ---

/// Pieces shorter than this are added one element after the other.
inline constexpr std::size_t short_piece = 64;

template <class Combine, class T, class F>
[[gnu::always_inline]] inline void add_pieces(const T* x, std::size_t n, std::size_t piece,
                                              double* out, F term) {
  using One = Vec<double, 1>;
  const auto combine = [](double a, double b) { return Combine{}(One(a), One(b)).r[0]; };
  if (piece >= short_piece) {
    for (std::size_t done = 0; done < n; done += piece, ++out) {
      const std::size_t end = n - done < piece ? n : done + piece;
      for (std::size_t i = done; i < end; i += block_size) {
        double total;
        reduce<Combine>(end - i < block_size ? end - i : block_size, &total, term, x + i);
        *out = combine(*out, total);
      }
    }
    return;
  }
  constexpr int N = reduce_lanes;
  if (piece == 1) {
    using V = Vec<double, N>;
    std::size_t i = 0;
    for (; i + N <= n; i += N) {
      const V sum = load_lanes<double, N>(out + i);
      store_lanes(out + i, Combine{}(sum, term(load_double<T, N>(x + i))));
    }
    for (; i < n; i += N) {
      const V sum = Remainder<double, N>(out + i, n - i).lanes();
      const V last = term(Remainder<T, N>(x + i, n - i).doubles());
      store_first<double, N>(out + i, Combine{}(sum, last), n - i);
    }
    return;
  }
  alignas(64) double terms[block_size];
  const std::size_t step = block_size / piece * piece;
  for (std::size_t done = 0; done < n; done += step) {
    const T* from = x + done;
    const std::size_t count = n - done < step ? n - done : step;
    std::size_t i = 0;
    for (; i + N <= count; i += N)
      store_lanes(terms + i, term(load_double<T, N>(from + i)));
    if (i < count) {
      store_first<double, N>(terms + i, term(Remainder<T, N>(from + i, count - i).doubles()),
                             count - i);
    }
    for (std::size_t begin = 0; begin < count; begin += piece, ++out) {
      const std::size_t end = count - begin < piece ? count : begin + piece;
      double sum = *out;
      for (std::size_t k = begin; k < end; ++k)
        sum = combine(sum, terms[k]);
      *out = sum;
    }
  }
}

template <class T>
void add_powers(const void* x, std::size_t n, std::size_t piece, double ord, double* out) {
  using V = Vec<double, reduce_lanes>;
  const auto* from = static_cast<const T*>(x);
  if (ord == 1) return add_pieces<Add>(from, n, piece, out, [](V v) { return abs(v); });
  if (ord == 2) return add_pieces<Add>(from, n, piece, out, [](V v) { return v * v; });
  if (ord == __builtin_inf())
    return add_pieces<Larger>(from, n, piece, out, [](V v) { return abs(v); });
  add_pieces<Add>(from, n, piece, out, [=](V v) { return power(abs(v), V(ord)); });
}

/// out[i / piece] = out[i / piece] + (|x[i]| / largest[i / piece])^ord, where `largest` is neither
/// 0 nor infinite.
template <class T>
void add_scaled_powers(const void* x, std::size_t n, std::size_t piece, double ord,
                       const double* largest, double* out) {
  using V = Vec<double, reduce_lanes>;
  const auto* from = static_cast<const T*>(x);
  for (std::size_t done = 0; done < n; done += piece, ++out, ++largest) {
    if (!(*largest > 0 && *largest < __builtin_inf())) continue;
    const V divisor(*largest);
    const std::size_t end = n - done < piece ? n : done + piece;
    for (std::size_t i = done; i < end; i += block_size) {
      double total;
      const auto term = [&](V v) { return power(abs(v) / divisor, V(ord)); };
      reduce<Add>(end - i < block_size ? end - i : block_size, &total, term, from + i);
      *out += total;
    }
  }
}

// --- masks ---

/// A line of the cache is written only if an element to go is not 0 yet.
template <class T>
void apply(void* x, std::size_t n, const std::uint64_t* words) {
  using Raw = raw_t<T>;
  using C = compute_t<Raw>;
  constexpr int N = 64 / sizeof(T);
  using V = Vec<C, N>;
  const auto line = [](Raw * to, std::uint64_t bits) __attribute__((always_inline)) {
    const V v = load<Raw, N>(to);
    const std::uint64_t goes = ~bits & (N == 64 ? ~std::uint64_t{0} : first_bits(N));
    if (((greater_bits(v, V(0)) | greater_bits(V(0), v)) & goes) != 0)
      store<Raw, N>(to, select(bits, v, V(0)));
  };
  auto* to = static_cast<Raw*>(x);
  std::size_t i = 0;
  for (; i + word_bits <= n; i += word_bits) {
    const std::uint64_t bits = words[i / word_bits];
    if (bits == ~std::uint64_t{0}) continue;
    for (std::size_t k = 0; k < word_bits; k += N)
      line(to + i + k, bits >> k);
  }
  for (; i < n; ++i) {
    const Raw zero{};
    if ((words[i / word_bits] >> i % word_bits & 1) == 0) copy_elements(to + i, &zero, 1);
  }
}

// --- arithmetic on weights ---

template <class T>
void shrink(void* x, std::size_t n, double strength, const void* u) {
  using F = compute_t<T>;
  using V = Vec<F, map_lanes<T>>;
  const V s(static_cast<F>(strength));
  map_into(
      static_cast<T*>(x), n, [&](V v, V draw) { return v - s * draw * v; },
      static_cast<const T*>(x), static_cast<const F*>(u));
}

template <class T>
void saliency(const void* a, const void* b, void* out, std::size_t n, bool squared) {
  using V = Vec<compute_t<T>, map_lanes<T>>;
  const auto* x = static_cast<const T*>(a);
  const auto* y = static_cast<const T*>(b);
  if (squared) {
    map_into(
        static_cast<T*>(out), n, [](V v, V w) { return v * w * (v * w); }, x, y);
  } else {
    map_into(
        static_cast<T*>(out), n, [](V v, V w) { return abs(v * w); }, x, y);
  }
}

template <class T>
void magnitudes(const void* x, void* out, std::size_t n) {
  using V = Vec<compute_t<T>, map_lanes<T>>;
  map_into(
      static_cast<T*>(out), n, [](V v) { return abs(v); }, static_cast<const T*>(x));
}

template <class T>
void weighted(const void* x, const void* factor, void* out, std::size_t n) {
  using F = compute_t<T>;
  using V = Vec<F, map_lanes<T>>;
  map_into(
      static_cast<T*>(out), n, [](V v, V f) { return abs(v) * f; }, static_cast<const T*>(x),
      static_cast<const F*>(factor));
}

template <class T>
void movement(void* out, const void* g, const void* w, std::size_t n, double rate) {
  using F = compute_t<T>;
  using V = Vec<F, map_lanes<T>>;
  const V r(static_cast<F>(rate));
  map_into(
      static_cast<T*>(out), n, [&](V s, V a, V b) { return s - r * (a * b); },
      static_cast<const T*>(out), static_cast<const T*>(g), static_cast<const T*>(w));
}

template <class T>
constexpr PruningKernels kernels_of() {
  PruningKernels k{};
  k.wide = rank_kernels<T, std::int64_t>();
  if constexpr (!__is_same(T, double)) {
    k.narrow = rank_kernels<T, std::int32_t>();
  }
  k.keep_of_4 = &keep_of_4<T, lane_int<compute_t<T>>>;
  k.add_powers = &add_powers<T>;
  k.add_scaled_powers = &add_scaled_powers<T>;
  k.apply = &apply<T>;
  k.shrink = &shrink<T>;
  k.saliency = &saliency<T>;
  k.magnitudes = &magnitudes<T>;
  k.weighted = &weighted<T>;
  k.movement = &movement<T>;
  return k;
}

}  // namespace

extern constinit const PruningTable pruning;
constinit const PruningTable pruning = {
    {kernels_of<float>(), kernels_of<double>(), kernels_of<Bfloat16>(), kernels_of<Float16>()},
    {&random_keys, &random_split, &random_histogram, &random_at_key},
    &keep_of_columns};

}  // namespace ridgeline::RIDGELINE_TARGET
