#include "ops/choices.hpp"

#include <algorithm>

#include "ops/bits.hpp"
#include "ops/checks.hpp"
#include "ops/strided.hpp"

namespace ridgeline {
namespace {

std::uint64_t read(KeepBits from, std::int64_t at, std::int64_t n) {
  return read_bits(from.bits, static_cast<std::int64_t>(from.at) + at, n);
}

}  // namespace

std::uint32_t threshold_of(double p) { return static_cast<std::uint32_t>(p * 0x1p32); }

void check_probability(double p) {
  if (!(p >= 0 && p <= 1)) bad_value("p", "got " + text(p) + ", wants a probability in [0, 1]");
}

Choices::Choices(const RandomTable& table, Key key, double p, const Numbering& numbering)
    : numbering_(numbering), table_(&table), key_(key), threshold_(threshold_of(p)) {}

Choices::Choices(const std::uint64_t* stored, const Numbering& numbering)
    : numbering_(numbering), stored_(stored) {}

DrawRequest Choices::next_window(std::int64_t first, std::int64_t n) {
  used_ = 1 - used_;
  Window& window = window_[used_];
  const auto begin = static_cast<std::uint64_t>(first);
  const std::uint64_t end = begin + static_cast<std::uint64_t>(n);
  window.first = begin - begin % choice_tile;
  const std::uint64_t tiles = (end - window.first + choice_tile - 1) / choice_tile;
  window.last = window.first + tiles * choice_tile;
  return {key_, window.first / choice_tile, tiles, threshold_, window.bits};
}

KeepBits Choices::indices(std::int64_t first, std::int64_t n) {
  if (stored_ != nullptr) return {stored_, static_cast<std::size_t>(first)};
  const auto begin = static_cast<std::uint64_t>(first);
  if (!window_[used_].holds(begin, static_cast<std::uint64_t>(n)))
    table_->choose(next_window(first, n));
  return {window_[used_].bits, begin - window_[used_].first};
}

DrawRequest Choices::ahead(std::int64_t begin, std::int64_t n) {
  if (n == 0 || stored_ != nullptr || !numbering_.dims.empty()) return {};
  return next_window(numbering_.first + begin, n);
}

KeepBits Choices::of(std::int64_t begin, std::int64_t n) {
  if (numbering_.dims.empty()) return indices(numbering_.first + begin, n);
  std::fill_n(gathered_, block_size / 64 + 1, 0);
  walk(numbering_.first, numbering_.dims, begin, n,
       [&](std::int64_t index, std::int64_t stride, std::int64_t count, std::int64_t done) {
         for (std::int64_t k = 0; k < count;) {
           const std::int64_t step =
               stride == 0 || stride == 1 ? std::min<std::int64_t>(64, count - k) : 1;
           std::uint64_t bits = 0;
           if (stride == 1) {
             bits = read(indices(index, count), k, step);
           } else {
             bits = read(indices(index + k * stride, 1), 0, 1);
             if (stride == 0 && bits != 0) bits = first_bits(step);
           }
           append_bits(gathered_, done + k, bits, step);
           k += step;
         }
       });
  return {gathered_, 0};
}

void Choices::copy(std::int64_t begin, std::int64_t n, std::uint64_t* to) {
  constexpr auto block = static_cast<std::int64_t>(block_size);
  for (std::int64_t done = 0; done < n; done += block) {
    const std::int64_t count = std::min(block, n - done);
    const KeepBits kept = of(begin + done, count);
    for (std::int64_t i = 0; i < count; i += 64)
      *to++ = read(kept, i, std::min<std::int64_t>(64, count - i));
  }
}

}  // namespace ridgeline
