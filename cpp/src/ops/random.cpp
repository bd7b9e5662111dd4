#include "ridgeline/random.hpp"

#include <cmath>

#include "kernels/random.hpp"
#include "ops/checks.hpp"
#include "ops/choices.hpp"
#include "ops/work.hpp"
#include "runtime/dispatch.hpp"

namespace ridgeline {
namespace {

std::vector<std::uint64_t> derived(Key key, Stream stream, std::uint64_t first, std::size_t n) {
  std::vector<std::uint64_t> seeds(n);
  const FloatEnvironment environment;
  tables().random->derive(key, stream, first, n, seeds.data());
  return seeds;
}

/// The work of a number.
constexpr std::int64_t uniform_work = 5;
constexpr std::int64_t normal_work = 12;
constexpr std::int64_t integer_work = 6;
constexpr std::int64_t choice_work = 2;

/// Fills `out`: fill(index, n, address) writes n elements, `each` the work of one.
template <class Fill>
void fill(const Array& out, const Numbering& numbering, int threads, std::int64_t each, Fill fill) {
  check_disjoint("out", {&out, 1});
  const WorkList work({&out, 1});
  const std::size_t item = item_size(out.dtype);
  parallel(each * work.elements(), threads, [&](Team team) {
    work.forward(team, [&](const Run& run) {
      const Operand operands[] = {{&out, Access::write}};
      on_memory(operands, run.begin, run.count, [&](void** at, std::int64_t first, std::size_t n) {
        for_consecutive(numbering, run.begin + first, static_cast<std::int64_t>(n),
                        [&](std::uint64_t index, std::size_t m, std::int64_t done) {
                          fill(index, m,
                               static_cast<char*>(at[0]) + static_cast<std::size_t>(done) * item);
                        });
      });
    });
  });
}

}  // namespace

Key Key::fold_in(std::uint64_t data) const { return {derived(*this, Stream::fold_in, data, 1)[0]}; }

std::vector<Key> Key::split(std::size_t n) const {
  std::vector<Key> keys;
  keys.reserve(n);
  for (const std::uint64_t value : derived(*this, Stream::split, 0, n))
    keys.push_back({value});
  return keys;
}

Numbering::Numbering(std::int64_t first_, std::span<const std::int64_t> shape,
                     std::span<const std::int64_t> strides)
    : first(first_) {
  std::vector<Dim> axes(shape.size());
  std::int64_t size = 1;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    axes[i] = {shape[i], strides[i]};
    size *= shape[i];
  }
  if (size == 0) return;
  axes = merged(axes);
  if (axes.size() > 1 || (axes.size() == 1 && axes[0].stride != 1)) dims = std::move(axes);
}

void random_uniform(const Array& out, Key key, const Numbering& numbering, int threads) {
  const FloatEnvironment environment;
  const auto kernel = tables().random->kernels[static_cast<std::size_t>(out.dtype)].uniform;
  fill(out, numbering, threads, uniform_work,
       [&](std::uint64_t index, std::size_t n, void* at) { kernel(key, index, n, at); });
}

void random_normal(const Array& out, Key key, double mean, double std, const Numbering& numbering,
                   int threads) {
  const FloatEnvironment environment;
  if (!std::isfinite(mean)) bad_value("mean", "got " + text(mean) + ", wants a finite number");
  check_non_negative("std", std, false);
  const auto kernel = tables().random->kernels[static_cast<std::size_t>(out.dtype)].normal;
  fill(out, numbering, threads, normal_work,
       [&](std::uint64_t index, std::size_t n, void* at) { kernel(key, index, n, mean, std, at); });
}

void random_integers(void* out, std::int64_t size, std::size_t item, Key key, std::uint64_t low,
                     std::uint64_t span, const Numbering& numbering, int threads) {
  const FloatEnvironment environment;
  const RandomTable& table = *tables().random;
  const IntegersKernel kernel = table.integers[item == 1 ? 0 : item == 2 ? 1 : item == 4 ? 2 : 3];
  const Array shared(out, DType::float64, size);  // for the sizes of the runs alone
  const WorkList work({&shared, 1});
  parallel(integer_work * work.elements(), threads, [&](Team team) {
    work.forward(team, [&](const Run& run) {
      for_consecutive(numbering, run.begin, run.count,
                      [&](std::uint64_t index, std::size_t n, std::int64_t done) {
                        const auto at = static_cast<std::size_t>(run.begin + done) * item;
                        kernel(key, index, n, low, span, static_cast<char*>(out) + at);
                      });
    });
  });
}

void random_keep(std::span<std::uint64_t> bits, std::int64_t size, double p, Key key,
                 const Numbering& numbering, int threads) {
  const FloatEnvironment environment;
  check_probability(p);
  if (static_cast<std::int64_t>(bits.size()) < (size + 63) / 64) {
    bad_value("bits", "got room for " + std::to_string(bits.size() * 64) + " bits, wants " +
                          std::to_string(size));
  }
  const RandomTable& table = *tables().random;
  const Array shared(bits.data(), DType::float32, size);  // for the sizes of the runs alone
  const WorkList work({&shared, 1});
  parallel(choice_work * work.elements(), threads, [&](Team team) {
    work.forward(team, [&](const Run& run) {
      if (p < 1) {
        Choices choices(table, key, p, numbering);
        choices.copy(run.begin, run.count, bits.data() + run.begin / 64);
      } else {
        std::fill_n(bits.data() + run.begin / 64, (run.count + 63) / 64, 0);
      }
    });
  });
}

}  // namespace ridgeline
