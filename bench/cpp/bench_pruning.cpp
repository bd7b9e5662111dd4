#include "ridgeline/pruning.hpp"

#include <memory>

#include "rows.hpp"

namespace ridgeline::bench {
namespace {

/// Masks of a row's arrays.
struct Masks {
  explicit Masks(const std::vector<Array>& arrays) : rankings(arrays.size()) {
    for (const Array& array : arrays) {
      bits.emplace_back(static_cast<std::size_t>(mask_words(array.size)));
      words.push_back(bits.back().data());
      size += array.size;
    }
  }
  Selection selection() const { return {rankings, {}, words}; }

  std::vector<Ranking> rankings;
  std::vector<std::vector<std::uint64_t>> bits;
  std::vector<std::uint64_t*> words;
  std::int64_t size = 0;
};

/// f(arrays, masks)
template <class F>
Op op_of(const char* name, std::vector<Pattern> passes, F f, On on = On::usual) {
  return {name, std::move(passes),
          [f](const Data& data, int threads) -> Call {
            const auto masks = std::make_shared<Masks>(data.grads);
            return [=] { f(data.grads, *masks, threads); };
          },
          on};
}

}  // namespace

void add_pruning_rows() {
  const auto read = {Pattern::read};
  const auto lowest = [](double share) {
    return [share](Arrays arrays, const Masks& masks, int threads) {
      const auto count = static_cast<std::int64_t>(share * static_cast<double>(masks.size));
      prune_lowest(arrays, masks.selection(), count, threads);
    };
  };
  add_rows(op_of("prune_50", read, lowest(0.5), On::array), all_dtypes);
  add_rows(op_of("prune_90", read, lowest(0.9), On::array), all_dtypes);
  add_rows(op_of("prune_global_90", read, lowest(0.9), On::lists), {DType::float32});
  add_rows(op_of("prune_random_50", read,
                 [](Arrays arrays, const Masks& masks, int threads) {
                   prune_random(arrays, masks.selection(), Key{1}, 0, masks.size / 2, threads);
                 }),
           {DType::float32});
  add_rows(op_of("prune_2_of_4", read,
                 [](Arrays arrays, const Masks& masks, int threads) {
                   for (std::size_t k = 0; k < arrays.size(); ++k) {
                     prune_n_of_m(arrays[k], 1, arrays[k].size, 1, 2, 4, {}, nullptr,
                                  masks.words[k], threads);
                   }
                 }),
           all_dtypes);
  // After the first call nothing changes, and nothing is written.
  add_rows({"apply_mask_again", read,
            [](const Data& data, int threads) -> Call {
              const auto masks = std::make_shared<Masks>(data.params);
              prune_lowest(data.params, masks->selection(), masks->size / 2);
              return [=] {
                apply_masks(data.params, {masks->words.data(), masks->words.size()}, threads);
              };
            }},
           all_dtypes);
}

}  // namespace ridgeline::bench
