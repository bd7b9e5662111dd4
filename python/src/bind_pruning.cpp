#include "ridgeline/pruning.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>
#include <unordered_map>

#include "bind_random.hpp"
#include "bindings.hpp"
#include "tensor_view.hpp"

namespace ridgeline::python {
namespace {

/// The memory of C-contiguous NumPy arrays of the package; a null pointer for None.
template <class T>
class Buffers {
 public:
  Buffers(py::handle list, bool write) {
    for (const py::handle item : py::reinterpret_borrow<py::sequence>(list)) {
      if (item.is_none()) {
        pointers_.push_back(nullptr);
        continue;
      }
      if (!py::isinstance<py::array>(item)) throw py::type_error("wants NumPy arrays");
      const auto array = py::reinterpret_borrow<py::array>(item);
      if ((array.flags() & py::array::c_style) == 0) throw py::value_error("wants C order");
      pointers_.push_back(static_cast<T*>(
          const_cast<void*>(write ? static_cast<py::array>(array).mutable_data() : array.data())));
      sizes_.push_back(array.size());
    }
  }
  std::span<T* const> all() const { return pointers_; }

  /// An error unless buffer k, if there is one, has `size(k)` items, for `count` of them. A shape
  /// may change between Python's look at it and ours.
  template <class F>
  void check(std::size_t count, F size) const {
    bool fits = pointers_.size() == count;
    for (std::size_t k = 0, i = 0; fits && k < count; ++k)
      fits = pointers_[k] == nullptr || sizes_[i++] == size(k);
    if (!fits) throw py::value_error("an array changed its shape during the call");
  }

 private:
  std::vector<T*> pointers_;
  std::vector<py::ssize_t> sizes_;  ///< of those that are there
};

/// What a selection is about, taken apart.
struct Selected {
  Selected(const Tensors& arrays, py::handle divisors, bool magnitude, py::handle among,
           py::handle words)
      : among_(among, false), words_(words, true) {
    const std::size_t size = arrays.size();
    const auto own_words = [&](std::size_t k) { return mask_words(arrays.arrays()[k].size); };
    if (!among_.all().empty()) among_.check(size, own_words);
    if (!words_.all().empty()) words_.check(size, own_words);
    rankings_.assign(size, Ranking{magnitude, 1});
    if (divisors.is_none()) return;
    const auto values = divisors.cast<std::vector<double>>();
    if (values.size() != size) throw py::value_error("divisors: wants one for each array");
    for (std::size_t k = 0; k < size; ++k)
      rankings_[k].divisor = values[k];
  }
  Selection selection() const { return {rankings_, among_.all(), words_.all()}; }

 private:
  std::vector<Ranking> rankings_;
  Buffers<const std::uint64_t> among_;
  Buffers<std::uint64_t> words_;
};

/// The blocks of a grid; an error unless there is an extent of a block for each axis.
std::int64_t blocks_of(std::span<const std::int64_t> shape, std::span<const std::int64_t> block) {
  if (shape.size() != block.size())
    throw py::value_error("an array changed its shape during the call");
  std::int64_t count = 1;
  for (std::size_t i = 0; i < shape.size(); ++i)
    count *= (shape[i] + block[i] - 1) / block[i];
  return count;
}

/// Whether two arrays are the same memory.
bool same_memory(const Array& a, const Array& b) {
  return a.data == b.data && a.size == b.size && a.dtype == b.dtype && a.dims == b.dims;
}

/// Whether two arrays are the same memory, and their masks are equal.
bool same(const Array& a, const std::uint64_t* a_bits, const Array& b,
          const std::uint64_t* b_bits) {
  return same_memory(a, b) && std::equal(a_bits, a_bits + mask_words(a.size), b_bits);
}

/// The words of masks, as a list of arrays.
class Words {
 public:
  explicit Words(py::handle list) {
    for (const py::handle item : py::reinterpret_borrow<py::sequence>(list)) {
      if (!py::isinstance<py::array_t<std::uint64_t, py::array::c_style>>(item))
        throw py::type_error("wants arrays of words");
      const auto array = py::reinterpret_borrow<py::array>(item);
      spans_.emplace_back(static_cast<const std::uint64_t*>(array.data()),
                          static_cast<std::size_t>(array.size()));
    }
  }
  std::size_t size() const { return spans_.size(); }
  std::span<const std::uint64_t> operator[](std::size_t k) const { return spans_[k]; }
  /// Array k, which has that many words.
  std::span<const std::uint64_t> at(std::size_t k, std::size_t words) const {
    if (k >= spans_.size() || spans_[k].size() != words)
      throw py::value_error("wants words for the same elements");
    return spans_[k];
  }

 private:
  std::vector<std::span<const std::uint64_t>> spans_;
};

/// How many bits are 1 in what f(words, i) makes of each word.
template <class F>
std::int64_t count_of(std::span<const std::uint64_t> words, F f) {
  std::int64_t count = 0;
  for (std::size_t i = 0; i < words.size(); ++i)
    count += std::popcount(f(words, i));
  return count;
}

std::int64_t product_of(py::handle shape) {
  std::int64_t size = 1;
  for (const py::handle extent : py::reinterpret_borrow<py::tuple>(shape))
    size *= extent.cast<std::int64_t>();
  return size;
}

/// An error unless array k has that shape.
void check_shape(const Tensors& arrays, std::size_t k, py::handle wants) {
  const auto own = arrays.shape(k);
  py::tuple got(own.size());
  for (std::size_t i = 0; i < own.size(); ++i)
    got[i] = own[i];
  if (got.equal(wants)) return;
  const auto text = [](py::handle shape) { return py::repr(shape).cast<std::string>(); };
  throw py::value_error(arrays.path(k) + ": got shape " + text(got) + ", wants " + text(wants) +
                        ", that of the mask");
}

template <class F>
py::object mapped(const char* name, py::handle x, const char* other_name, py::handle other,
                  py::handle out, F&& f) {
  require_array(name, x);
  const Tensors a(name, x, Access::source);
  std::optional<Tensors> b;
  if (other_name != nullptr) b.emplace(other_name, other, Access::source, &a);
  const Result result(name, x, out);
  const Tensors o("out", result.array(), Access::write, &a);
  const auto call = [&] { f(a.arrays()[0], b ? b->arrays()[0] : Array(), o.arrays()[0]); };
  b ? run({&a, &*b, &o}, call) : run({&a, &o}, call);
  o.written();
  return result.finished();
}

/// Masks to be: the shapes of arrays, and uninitialized words for each in one buffer.
struct Blank {
  explicit Blank(const Tensors& a) : shapes(a.size()), words(a.size()) {
    py::list places(a.size());
    std::unordered_map<const void*, std::vector<std::size_t>> seen(a.size());
    std::int64_t count = 0;
    for (std::size_t k = 0; k < a.size(); ++k) {
      const auto shape = a.shape(k);
      py::tuple extents(shape.size());
      for (std::size_t i = 0; i < shape.size(); ++i)
        extents[i] = shape[i];
      shapes[k] = extents;
      const Array& array = a.arrays()[k];
      count += mask_words(array.size);
      std::size_t first = k;
      if (array.size != 0) {
        std::vector<std::size_t>& others = seen[array.data];
        for (const std::size_t other : others) {
          if (same_memory(a.arrays()[other], array) && std::ranges::equal(a.shape(other), shape))
            first = std::min(first, other);
        }
        if (first == k) others.push_back(k);
      }
      tied = tied || first != k;
      places[k] = first;
    }
    if (tied) firsts = places;
    const py::array_t<std::uint64_t> buffer(count);
    auto* at = const_cast<std::uint64_t*>(buffer.data());
    for (std::size_t k = 0; k < a.size(); ++k) {
      const std::int64_t own = mask_words(a.arrays()[k].size);
      words[k] = py::array_t<std::uint64_t>(own, at, buffer);
      memory.push_back(at);
      at += own;
    }
  }

  py::list shapes, words;
  bool tied = false;
  py::object firsts = py::none();  ///< if memory comes twice: the place of the first of the same
  std::vector<std::uint64_t*> memory;
};

/// The masks of requests without options, in one call: a fraction of each array is pruned, or of
/// all together. None if they are ranked together and memory comes twice.
py::object pruned_fraction(const char* name, py::handle tree, double fraction, bool magnitude,
                           bool together) {
  const FloatEnvironment environment;
  const Tensors a(name, tree, Access::read);
  const Blank blank(a);
  if (together && blank.tied) return py::none();
  const std::vector<Ranking> rankings(a.size(), Ranking{magnitude, 1});
  const std::vector<const std::uint64_t*> among(a.size(), nullptr);
  const Selection selection{rankings, among, blank.memory};
  const auto part = [&](std::int64_t size) {  // half to even
    return static_cast<std::int64_t>(std::nearbyint(fraction * static_cast<double>(size)));
  };
  if (together) {
    run({&a}, [&] { prune_lowest(a.arrays(), selection, part(a.elements())); });
  } else {
    std::vector<std::int64_t> counts;
    for (const Array& array : a.arrays())
      counts.push_back(part(array.size));
    run({&a}, [&] { prune_each_lowest(a.arrays(), selection, counts); });
  }
  return py::make_tuple(blank.shapes, blank.words);
}

void bind_selection(py::module_& m) {
  m.def("prune_fraction", &pruned_fraction);
  m.def("prune_select", [](const char* name, py::handle arrays, py::handle count, py::handle words,
                           py::handle among, py::handle divisors, bool magnitude) {
    const Tensors a(name, arrays, Access::read);
    const Selected selected(a, divisors, magnitude, among, words);
    if (PyLong_Check(count.ptr())) {
      const auto all = count.cast<std::int64_t>();
      run({&a}, [&] { prune_lowest(a.arrays(), selected.selection(), all); });
    } else {
      const auto counts = count.cast<std::vector<std::int64_t>>();
      if (counts.size() != a.size()) throw py::value_error("count: wants one for each array");
      run({&a}, [&] { prune_each_lowest(a.arrays(), selected.selection(), counts); });
    }
  });
  m.def("prune_random", [](py::handle arrays, py::handle key, std::int64_t first,
                           std::int64_t count, py::handle words, py::handle among) {
    const Key k = key_of(key);
    const Tensors a("params", arrays, Access::read);
    const Selected selected(a, py::none(), true, among, words);
    run({&a}, [&] { prune_random(a.arrays(), selected.selection(), k, first, count); });
  });
  m.def("prune_histogram",
        [](const char* name, py::handle arrays, py::handle among, py::handle divisors,
           bool magnitude, std::int64_t low, int shift, py::handle bins) {
          const Tensors a(name, arrays, Access::read);
          const Selected selected(a, divisors, magnitude, among, py::list());
          const py::buffer_info counts = py::reinterpret_borrow<py::buffer>(bins).request(true);
          std::int64_t below = 0;
          run({&a}, [&] {
            rank_histogram(
                a.arrays(), selected.selection(), low, shift, below,
                {static_cast<std::int64_t*>(counts.ptr), static_cast<std::size_t>(counts.size)});
          });
          return below;
        });
  m.def("prune_at_key",
        [](const char* name, py::handle arrays, py::handle words, py::handle among,
           py::handle divisors, bool magnitude, std::int64_t key, std::int64_t ties) {
          const Tensors a(name, arrays, Access::read);
          const Selected selected(a, divisors, magnitude, among, words);
          run({&a}, [&] { prune_at_key(a.arrays(), selected.selection(), key, ties); });
        });
}

void bind_random_selection(py::module_& m) {
  m.def("prune_random_histogram",
        [](py::handle arrays, py::handle key, std::int64_t first, py::handle among,
           std::int64_t low, int shift, py::handle bins) {
          const Key k = key_of(key);
          const Tensors a("params", arrays, Access::read);
          const Selected selected(a, py::none(), true, among, py::list());
          const py::buffer_info counts = py::reinterpret_borrow<py::buffer>(bins).request(true);
          std::int64_t below = 0;
          run({&a}, [&] {
            random_histogram(
                a.arrays(), selected.selection(), k, first, low, shift, below,
                {static_cast<std::int64_t*>(counts.ptr), static_cast<std::size_t>(counts.size)});
          });
          return below;
        });
  m.def("prune_random_at_key", [](py::handle arrays, py::handle key, std::int64_t first,
                                  py::handle words, py::handle among, std::int64_t at,
                                  std::int64_t ties) {
    const Key k = key_of(key);
    const Tensors a("params", arrays, Access::read);
    const Selected selected(a, py::none(), true, among, words);
    run({&a}, [&] { prune_random_at_key(a.arrays(), selected.selection(), k, first, at, ties); });
  });
  m.def("prune_rows", [](const char* name, py::handle x, std::int64_t length, py::handle counts,
                         py::handle words, py::handle among, bool magnitude) {
    require_array(name, x);
    const Tensors a(name, x, Access::read);
    const Selected selected(a, py::none(), magnitude, py::make_tuple(among), py::make_tuple(words));
    const Selection selection = selected.selection();
    const Buffers<const std::int64_t> numbers(py::make_tuple(counts), false);
    const std::int64_t rows = a.elements() / length;
    numbers.check(1, [&](std::size_t) { return rows; });
    if (rows * length != a.elements())
      throw py::value_error("an array changed its shape during the call");
    run({&a}, [&] {
      prune_each_row(a.arrays()[0], length, selection.rankings[0],
                     {numbers.all()[0], static_cast<std::size_t>(rows)}, selection.among[0],
                     selection.words[0]);
    });
  });
}

void bind_words(py::module_& m) {
  m.def("check_arrays", [](const char* name, py::handle arrays) {
    const Tensors checked(name, arrays, Access::read);
  });
  m.def("start_pruning", [](const char* name, py::handle tree) {
    const Tensors a(name, tree, Access::read);
    const Blank blank(a);
    return py::make_tuple(blank.shapes, blank.words, blank.firsts);
  });
  // Of lists of words: how many bits are 1 in each; how many are 1 in `before` and not in `after`.
  m.def("count_bits", [](py::handle words) {
    const Words own(words);
    py::list counts(own.size());
    for (std::size_t k = 0; k < own.size(); ++k)
      counts[k] =
          count_of(own[k], [](std::span<const std::uint64_t> w, std::size_t i) { return w[i]; });
    return counts;
  });
  m.def("count_lost_bits", [](py::handle before, py::handle after) {
    const Words from(before);
    const Words to(after);
    std::int64_t count = 0;
    for (std::size_t k = 0; k < from.size(); ++k) {
      const std::span<const std::uint64_t> other = to.at(k, from[k].size());
      count += count_of(from[k], [&](std::span<const std::uint64_t> w, std::size_t i) {
        return w[i] & ~other[i];
      });
    }
    return count;
  });
}

void bind_groups(py::module_& m) {
  m.def("prune_n_of_m", [](const char* name, py::handle x, std::int64_t outer, std::int64_t length,
                           std::int64_t inner, int keep, int size, bool magnitude, py::handle among,
                           py::handle words) {
    require_array(name, x);
    const Tensors a(name, x, Access::read);
    const Selected selected(a, py::none(), magnitude, py::make_tuple(among), py::make_tuple(words));
    const Selection selection = selected.selection();
    run({&a}, [&] {
      prune_n_of_m(a.arrays()[0], outer, length, inner, keep, size, selection.rankings[0],
                   selection.among[0], selection.words[0]);
    });
  });
  m.def("prune_random_n_of_m", [](std::int64_t outer, std::int64_t length, std::int64_t inner,
                                  int keep, int size, py::handle key, std::int64_t first,
                                  py::handle among, py::handle words) {
    const Key k = key_of(key);
    const Buffers<const std::uint64_t> part(py::make_tuple(among), false);
    const Buffers<std::uint64_t> bits(py::make_tuple(words), true);
    const std::int64_t elements = outer * length * inner;
    part.check(1, [&](std::size_t) { return mask_words(elements); });
    bits.check(1, [&](std::size_t) { return mask_words(elements); });
    without_gil(elements, [&] {
      prune_random_n_of_m(outer, length, inner, keep, size, k, first, part.all()[0], bits.all()[0]);
    });
  });
}

void bind_blocks(py::module_& m) {
  m.def("prune_block_powers",
        [](const char* name, py::handle x, const std::vector<std::int64_t>& block, double ord,
           py::handle among, py::handle largest, py::handle scores) {
          require_array(name, x);
          const Tensors a(name, x, Access::read);
          const auto shape = a.shape(0);
          const std::vector<std::int64_t> extents(shape.begin(), shape.end());
          const py::buffer_info out = py::reinterpret_borrow<py::buffer>(scores).request(true);
          const Buffers<const std::uint64_t> part(py::make_tuple(among), false);
          const Buffers<const double> scale(py::make_tuple(largest), false);
          const std::int64_t blocks = blocks_of(extents, block);
          part.check(1, [&](std::size_t) { return mask_words(a.elements()); });
          scale.check(1, [&](std::size_t) { return blocks; });
          if (out.size != blocks)
            throw py::value_error("an array changed its shape during the call");
          run({&a}, [&] {
            block_powers(a.arrays()[0], extents, block, ord, part.all()[0], scale.all()[0],
                         {static_cast<double*>(out.ptr), static_cast<std::size_t>(out.size)});
          });
        });
  const auto bind = [&m](const char* name, auto function, bool spreads) {
    m.def(name, [=](const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& block,
                    py::handle from, py::handle to) {
      const Buffers<const std::uint64_t> read(py::make_tuple(from), false);
      const Buffers<std::uint64_t> written(py::make_tuple(to), true);
      std::int64_t size = 1;
      for (const std::int64_t extent : shape)
        size *= extent;
      const std::int64_t block_bits = mask_words(blocks_of(shape, block));
      const std::int64_t words = mask_words(size);
      read.check(1, [&](std::size_t) { return spreads ? block_bits : words; });
      written.check(1, [&](std::size_t) { return spreads ? words : block_bits; });
      without_gil(size, [&] { function(shape, block, read.all()[0], written.all()[0], 0); });
    });
  };
  bind("prune_spread", &spread_blocks, true);
  bind("prune_gather", &gather_blocks, false);
}

void bind_apply(py::module_& m) {
  m.def("apply_mask", [](py::handle params, py::handle words, py::handle shape) {
    require_array("params", params);
    const Tensors a("params", params, Access::parameter);
    check_shape(a, 0, shape);
    const Buffers<const std::uint64_t> bits(py::make_tuple(words), false);
    bits.check(1, [&](std::size_t k) { return mask_words(a.arrays()[k].size); });
    run({&a}, [&] { apply_masks(a.arrays(), bits.all()); });
    a.written();
  });
  m.def("apply_masks", [](py::list names, py::list trees, py::list words, py::list shapes,
                          bool holes, bool tied) {
    std::vector<std::unique_ptr<Tensors>> parts;
    std::vector<std::pair<const Tensors*, std::size_t>> places;
    std::vector<Array> arrays;
    std::vector<const std::uint64_t*> bits;
    std::vector<Buffers<const std::uint64_t>> buffers;
    std::unordered_map<const void*, std::size_t> seen;
    std::int64_t elements = 0;
    for (std::size_t i = 0; i < names.size(); ++i) {
      const char* name = PyUnicode_AsUTF8(py::handle(names[i]).ptr());
      if (name == nullptr) throw py::error_already_set();
      const bool gradients = std::string_view(name) == "grads";
      const Access access = gradients ? Access::gradient : Access::parameter;
      parts.push_back(std::make_unique<Tensors>(name, trees[i], access, nullptr, holes));
      const Tensors& part = *parts.back();
      const py::list own = shapes[i];
      if (part.size() != own.size()) {
        throw py::value_error(std::string(name) + ": got " + std::to_string(part.size()) +
                              " arrays, wants " + std::to_string(own.size()) +
                              ", as many as masks");
      }
      const Buffers<const std::uint64_t>& buffer = buffers.emplace_back(words[i], false);
      for (std::size_t k = 0; k < part.size(); ++k) {
        if (!part.hole(k)) check_shape(part, k, own[k]);
      }
      buffer.check(part.size(), [&](std::size_t k) {
        return part.hole(k) ? mask_words(product_of(own[k])) : mask_words(part.arrays()[k].size);
      });
      for (std::size_t k = 0; k < part.size(); ++k) {
        if (part.hole(k)) continue;
        const auto [at, first] = seen.try_emplace(part.arrays()[k].data, arrays.size());
        if (tied && !first &&
            same(arrays[at->second], bits[at->second], part.arrays()[k], buffer.all()[k]))
          continue;
        places.emplace_back(&part, k);
        arrays.push_back(part.arrays()[k]);
        bits.push_back(buffer.all()[k]);
      }
      elements += part.elements();
    }
    try {
      without_gil(elements, [&] { apply_masks(arrays, bits); });
    } catch (const ArgumentError& error) {
      const auto place = [&](std::ptrdiff_t index) {
        const auto& [part, k] = places[static_cast<std::size_t>(index)];
        return part->path(k);
      };
      throw py::value_error(place(error.index) + ": " +
                            error.problem(error.other == nullptr ? "" : place(error.other_index)));
    }
    for (const auto& part : parts)
      part->written();
  });
}

void bind_masked(py::module_& m) {
  m.def("masked", [](py::handle w, py::handle words, py::handle shape, py::handle out) {
    require_array("w", w);
    const Tensors a("w", w, Access::source);
    check_shape(a, 0, shape);
    const Buffers<const std::uint64_t> bits(py::make_tuple(words), false);
    bits.check(1, [&](std::size_t k) { return mask_words(a.arrays()[k].size); });
    const Result result("w", w, out);
    const Tensors o("out", result.array(), Access::write, &a);
    run({&a, &o}, [&] { masked(a.arrays()[0], bits.all()[0], o.arrays()[0]); });
    o.written();
    return result.finished();
  });
  m.def("random_shrink_", [](py::handle params, py::handle strength, py::handle key) {
    const double s = number("strength", strength);
    const Key k = key_of(key);
    const Tensors a("params", params, Access::parameter);
    run({&a}, [&] { random_shrink(a.arrays(), s, k); });
    a.written();
  });
  m.def("check_outputs", [](const char* name, py::handle tree, const char* other_name,
                            py::handle other, bool alike, py::handle out) {
    const Tensors a(name, tree, Access::source);
    std::optional<Tensors> b;
    if (other_name != nullptr) b.emplace(other_name, other, Access::source, alike ? &a : nullptr);
    if (out.is_none()) return;
    const Tensors o("out", out, Access::write, &a);
    const auto check = [&] {
      check_outputs(o.arrays(), name, a.arrays(), true);
      if (b) check_outputs(o.arrays(), other_name, b->arrays(), alike);
    };
    b ? run({&o, &a, &*b}, check) : run({&o, &a}, check);
  });
}

void bind_scores(py::module_& m) {
  m.def("prune_saliency", [](py::handle w, py::handle g, bool squared, py::handle out) {
    return mapped("w", w, "g", g, out, [&](const Array& a, const Array& b, const Array& o) {
      saliency(a, b, o, squared);
    });
  });
  m.def("prune_magnitudes", [](py::handle g, py::handle out) {
    return mapped("g", g, nullptr, g, out,
                  [&](const Array& a, const Array&, const Array& o) { magnitudes(a, o); });
  });
  m.def("prune_wanda", [](py::handle w, py::handle x_norm, py::handle out) {
    require_array("w", w);
    require_array("x_norm", x_norm);
    const Tensors a("w", w, Access::source);
    const Tensors norm("x_norm", x_norm, Access::source);
    const std::int64_t length = a.shape(0).empty() ? 1 : a.shape(0).back();
    if (norm.shape(0).size() != 1 || norm.elements() != length) {
      throw py::value_error("x_norm: got " + std::to_string(norm.elements()) +
                            " numbers, wants an array of " + std::to_string(length) +
                            ", one for each input of w");
    }
    const Result result("w", w, out);
    const Tensors o("out", result.array(), Access::write, &a);
    run({&a, &norm, &o}, [&] { wanda(a.arrays()[0], norm.arrays()[0], o.arrays()[0]); });
    o.written();
    return result.finished();
  });
  m.def("prune_movement", [](py::handle scores, py::handle w, py::handle g, py::handle lr) {
    const double rate = number("lr", lr);
    Tensors s("scores", scores, Access::write);
    Tensors a("w", w, Access::read, &s);
    const Tensors b("g", g, Access::read, &s, true);
    s.leave_out_holes_of(b);
    a.leave_out_holes_of(b);
    run({&s, &a, &b}, [&] { movement(s.arrays(), a.arrays(), b.arrays(), rate); });
    s.written();
  });
}

}  // namespace

void bind_pruning(py::module_& m) {
  bind_selection(m);
  bind_random_selection(m);
  bind_words(m);
  bind_groups(m);
  bind_blocks(m);
  bind_apply(m);
  bind_masked(m);
  bind_scores(m);
}

}  // namespace ridgeline::python
