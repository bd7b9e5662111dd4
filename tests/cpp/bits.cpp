// The bits of every kernel, as one hash for each function and dtype.
//
//   ridgeline_bits         prints them, from the target in use
//   ridgeline_bits FILE    compares all targets of this machine with FILE
//
// FILE is this program's own output: any machine, any target and any compiler must give it again.
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "random.hpp"
#include "ridgeline/clipping.hpp"
#include "ridgeline/constraints.hpp"
#include "ridgeline/dropout.hpp"
#include "ridgeline/optimizers.hpp"
#include "ridgeline/penalties.hpp"
#include "ridgeline/pruning.hpp"
#include "ridgeline/runtime.hpp"

namespace {

using namespace ridgeline;
using test::Random;

constexpr double inf = std::numeric_limits<double>::infinity();

/// Fowler, Noll and Vo's hash of 64 bits, variant 1a.
class Hash {
 public:
  void add(std::uint64_t word) {
    for (int byte = 0; byte < 8; ++byte)
      value_ = (value_ ^ ((word >> (8 * byte)) & 0xff)) * 0x100000001b3;
  }
  // All NaNs are one: their sign and payload are not promised.
  void add(double x) { add(x != x ? ~std::uint64_t{0} : std::bit_cast<std::uint64_t>(x)); }
  std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 0xcbf29ce484222325;
};

/// Finite elements of one dtype: ordinary numbers with zeros and subnormals among them, or numbers
/// of the type's whole range.
class Elements {
 public:
  Elements(DType dtype, std::int64_t n, bool whole_range, std::uint64_t seed)
      : item_(item_size(dtype)), dtype_(dtype), bytes_(static_cast<std::size_t>(n) * item_) {
    Random random(seed * 1000003 + static_cast<std::uint64_t>(n));
    const int fraction_bits = dtype == DType::float64    ? 52
                              : dtype == DType::float32  ? 23
                              : dtype == DType::bfloat16 ? 7
                                                         : 10;
    const int bits = static_cast<int>(8 * item_);
    const int bias = (1 << (bits - fraction_bits - 2)) - 1;
    for (std::int64_t i = 0; i < n; ++i) {
      const std::uint64_t rest = random.bits();
      const std::int64_t kind = random.integer(0, 31);
      const std::int64_t exponent = kind == 0     ? 0  // zero or subnormal
                                    : whole_range ? random.integer(0, 2 * bias)
                                                  : bias + random.integer(-10, 3);
      std::uint64_t fraction = rest & ((std::uint64_t{1} << fraction_bits) - 1);
      if (kind == 0 && (rest >> 62 & 1) != 0) fraction = 0;
      const std::uint64_t word = ((rest >> 63) << (bits - 1)) |
                                 (static_cast<std::uint64_t>(exponent) << fraction_bits) | fraction;
      std::memcpy(bytes_.data() + static_cast<std::size_t>(i) * item_, &word, item_);
    }
  }

  Array array() {
    return {bytes_.data(), dtype_, static_cast<std::int64_t>(bytes_.size() / item_)};
  }

  void add_to(Hash& hash) const {
    for (std::size_t i = 0; i < bytes_.size(); i += item_) {
      std::uint64_t word = 0;
      std::memcpy(&word, bytes_.data() + i, item_);
      const std::uint64_t infinity = dtype_ == DType::float64    ? 0x7ff0000000000000
                                     : dtype_ == DType::float32  ? 0x7f800000
                                     : dtype_ == DType::bfloat16 ? 0x7f80
                                                                 : 0x7c00;
      const std::uint64_t magnitude = word & ((std::uint64_t{1} << (8 * item_ - 1)) - 1);
      hash.add(magnitude > infinity ? ~std::uint64_t{0} : word);
    }
  }

 private:
  std::size_t item_;
  DType dtype_;
  std::vector<std::byte> bytes_;
};

using Hashes = std::map<std::string, Hash>;

void add_penalties(Hashes& hashes, DType dtype, std::int64_t n, bool whole_range) {
  Elements params(dtype, n, whole_range, 1);
  Elements weights(dtype, n, false, 2);
  const Array w = params.array();
  const Array a = weights.array();
  clip_by_value({&a, 1}, 0, inf);
  for (std::size_t kind = 0; kind < penalty_kind_count; ++kind) {
    const PenaltyInfo& info = penalty_list[kind];
    const auto hash = [&](const char* verb) -> Hash& {
      return hashes[std::string(info.name) + "." + verb + " " + name_of(dtype)];
    };
    Penalty p{static_cast<PenaltyKind>(kind), 0.3, info.usual};
    if (info.weighted()) p.weights = {&a, 1};
    hash("value").add(penalty_value({&p, 1}, {&w, 1}));
    if (info.differentiable()) {
      Elements grads(dtype, n, whole_range, 3);
      const Array g = grads.array();
      hash("gradient").add(add_penalty_gradient({&p, 1}, {&g, 1}, {&w, 1}));
      grads.add_to(hash("gradient"));
    }
    Elements out(dtype, n, false, 4);
    const Array o = out.array();
    penalty_prox({&p, 1}, {&o, 1}, {&w, 1}, 0.7);
    out.add_to(hash("prox"));
  }
}

void add_clipping(Hashes& hashes, DType dtype, std::int64_t n, bool whole_range) {
  const auto hash = [&](const char* name) -> Hash& {
    return hashes[std::string(name) + " " + name_of(dtype)];
  };
  const auto written = [&](const char* name, auto call) {
    Elements grads(dtype, n, whole_range, 5);
    const Array g = grads.array();
    call(Arrays(&g, 1));
    grads.add_to(hash(name));
  };
  for (const double ord : {1.0, 2.0, 2.5, inf}) {
    const std::string suffix = ord == inf ? "inf" : ord == 2.5 ? "2.5" : ord == 2 ? "2" : "1";
    const std::string norm = "norm_" + suffix;
    const std::string clip = "clip_by_norm_" + suffix;
    Elements params(dtype, n, whole_range, 6);
    const Array w = params.array();
    hash(norm.c_str()).add(global_norm({&w, 1}, ord));
    written(clip.c_str(), [&](Arrays g) {
      double before = 0;
      clip_by_norm(g, 0.5, ord, {&before, 1});
      hash(clip.c_str()).add(before);
    });
  }
  written("clip_by_global_norm", [&](Arrays g) { clip_by_global_norm(g, 0.5); });
  written("clip_by_rms", [&](Arrays g) {
    double before = 0;
    clip_by_rms(g, 0.1, {&before, 1});
    hash("clip_by_rms").add(before);
  });
  written("clip_by_value", [](Arrays g) { clip_by_value(g, -0.3, 0.7); });
  written("scale", [](Arrays g) { scale(g, 1.0 / 3); });
  written("zero_largest", [&](Arrays g) { zero_largest(g, n / 3); });
}

void add_dropout(Hashes& hashes, DType dtype, std::int64_t n, bool whole_range) {
  const auto made = [&](const char* name, auto call) {
    Elements x(dtype, n, whole_range, 7);
    Elements other(dtype, n, whole_range, 8);
    Elements out(dtype, n, false, 9);
    call(x.array(), other.array(), out.array());
    out.add_to(hashes[std::string(name) + " " + name_of(dtype)]);
  };
  const Key key = Key{42}.fold_in(static_cast<std::uint64_t>(n));
  const Numbering later((std::int64_t{1} << 36) - 100);
  const std::int64_t shape[] = {n, 1};
  const std::int64_t strides[] = {3, 0};
  const Numbering sparse(7, shape, strides);
  made("uniform", [&](Array, Array, Array o) { random_uniform(o, key, later); });
  made("uniform sparse", [&](Array, Array, Array o) { random_uniform(o, key, sparse); });
  made("normal", [&](Array, Array, Array o) { random_normal(o, key, 0.5, 2, later); });
  for (const double p : {0.1, 0.5}) {
    const std::string rate = p == 0.5 ? "_50" : "_10";
    made(("dropout" + rate).c_str(),
         [&](Array x, Array, Array o) { dropout(x, o, p, key, later); });
    made(("dropout sparse" + rate).c_str(),
         [&](Array x, Array, Array o) { dropout(x, o, p, key, sparse); });
  }
  made("dropout_add", [&](Array x, Array r, Array o) { dropout_add(x, r, o, 0.3, key); });
  made("alpha_dropout", [&](Array x, Array, Array o) { alpha_dropout(x, o, 0.3, key); });
  made("alpha_dropout_backward",
       [&](Array x, Array, Array o) { alpha_dropout_backward(x, o, 0.3, key); });
  made("gaussian_dropout", [&](Array x, Array, Array o) { gaussian_dropout(x, o, 0.3, key); });
  made("gaussian_noise", [&](Array x, Array, Array o) { gaussian_noise(x, o, 0.3, key); });
  made("zoneout", [&](Array x, Array y, Array o) { zoneout(x, y, o, 0.3, key); });
  made("drop_block", [&](Array x, Array, Array o) {
    const std::int64_t size[] = {n};
    const std::int64_t block[] = {3};
    drop_block(x, o, 1, 1, size, block, 0.3, key, BlockEdges::clipped, true);
  });
}

void add_pruning(Hashes& hashes, DType dtype, std::int64_t n, bool whole_range) {
  Elements x(dtype, n, whole_range, 10);
  Elements y(dtype, n, whole_range, 11);
  const Key key = Key{43}.fold_in(static_cast<std::uint64_t>(n));
  const auto hash = [&](const char* name) -> Hash& {
    return hashes[std::string(name) + " " + name_of(dtype)];
  };
  const auto made = [&](const char* name, auto call) {
    Elements out(dtype, n, false, 12);
    call(x.array(), y.array(), out.array());
    out.add_to(hash(name));
  };
  const auto masked = [&](const char* name, auto call) {
    std::vector<std::uint64_t> words(static_cast<std::size_t>(mask_words(n)));
    std::uint64_t* bits = words.data();
    const Array array = x.array();
    const Ranking ranking{true, 0.3};
    const Selection selection{{&ranking, 1}, {}, {&bits, 1}};
    call(array, selection);
    for (const std::uint64_t word : words)
      hash(name).add(word);
  };
  masked("prune_lowest", [&](const Array& a, const Selection& selection) {
    prune_lowest({&a, 1}, selection, n / 3);
  });
  masked("prune_random", [&](const Array& a, const Selection& selection) {
    prune_random({&a, 1}, selection, key, 5, n / 3);
  });
  masked("prune_n_of_m", [&](const Array& a, const Selection& selection) {
    prune_n_of_m(a, 1, n, 1, 2, 4, {}, nullptr, selection.words[0]);
  });
  for (const std::int64_t block : {std::int64_t{1}, std::int64_t{3}, std::int64_t{100}}) {
    std::vector<double> sums(static_cast<std::size_t>((n + block - 1) / block));
    block_powers(x.array(), {&n, 1}, {&block, 1}, 1.5, nullptr, nullptr, sums);
    for (const double sum : sums)
      hash("block_powers").add(sum);
  }
  made("saliency", [&](Array w, Array g, Array o) { saliency(w, g, o, true); });
  made("magnitudes", [&](Array w, Array, Array o) { magnitudes(w, o); });
  made("wanda", [&](Array w, Array, Array o) {
    const float norm = 0.7f;
    wanda(w, {&norm, 1}, o);
  });
  made("movement", [&](Array w, Array g, Array o) { movement({&o, 1}, {&w, 1}, {&g, 1}, 0.1); });
  made("random_shrink", [&](Array, Array, Array o) { random_shrink({&o, 1}, 0.3, key); });
}

/// A way to step: one hash for each.
struct Way {
  std::string name;
  StepOptions options;
  OptimizerGroup group;
  StateType state_type = StateType::compute;
  bool mask = false, master = false, kahan = false, average = false;
};

OptimizerGroup ordinary_group() {
  OptimizerGroup group;
  group.lr = 0.01;
  group.weight_decay = 0.1;
  group.beta1 = 0.9;
  group.beta2 = 0.98;
  group.eps = 1e-6;
  group.momentum = 0.8;
  group.nesterov = true;
  group.lr_decay = 0.1;
  group.momentum_decay = 0.004;
  group.beta = 1;
  group.l1 = 0.02;
  group.l2 = 0.03;
  group.alpha = 5;
  group.beta3 = 0.999;
  group.alpha_warmup = group.beta3_warmup = group.warmup_steps = 2;
  group.r = 0.5;
  return group;
}

/// Three steps of `way` on arrays of n elements.
void add_steps(Hash& hash, const Way& way, DType dtype, std::int64_t n, bool whole_range) {
  const auto size = static_cast<std::size_t>(n);
  const DType compute = dtype == DType::float64 ? DType::float64 : DType::float32;
  const bool narrow = way.state_type != StateType::compute;
  Elements params(dtype, n, whole_range, 7);
  std::vector<std::vector<std::byte>> memory;
  const auto zeros = [&](std::size_t bytes) {
    memory.emplace_back(bytes + 8);
    return static_cast<void*>(memory.back().data());
  };
  OptimizerParameter p;
  p.state_type = way.state_type;
  const int states = state_count(way.options.kind);
  for (int j = 0; j < states; ++j) {
    p.states[j] = zeros(size * (narrow ? 2 : item_size(compute)));
    p.scales[j] = static_cast<float*>(zeros(4 * (size / code_block + 1)));
  }
  std::vector<std::uint64_t> mask(size / 64 + 1, 0xa5f0f00f12345678);
  if (way.mask) p.mask = mask.data();
  if (way.master) p.master = static_cast<float*>(zeros(4 * size));
  if (way.kahan) p.compensation = zeros(2 * size);
  if (way.average) p.average = zeros(size * item_size(compute));
  const Array w = params.array();
  if (way.master) {
    const Array master(p.master, DType::float32, n);
    accumulate({&w, 1}, {&master, 1}, true);
  }
  for (std::uint64_t k = 0; k < 3; ++k) {
    Elements grads(dtype, n, whole_range, 20 + k);
    const Array g = grads.array();
    StepOptions options = way.options;
    options.step = k;
    const StepReport report = optimizer_step(options, {&way.group, 1}, {&p, 1}, {&w, 1}, {&g, 1});
    hash.add(report.penalty);
    hash.add(report.norm.value_or(0));
  }
  params.add_to(hash);
  const auto add = [&](const void* at, DType type) {
    if (at == nullptr || n == 0) return;
    Elements copy(type, n, false, 0);
    std::memcpy(copy.array().data, at, size * item_size(type));
    copy.add_to(hash);
  };
  for (int j = 0; j < states; ++j) {
    if (way.state_type != StateType::dynamic8) {
      add(p.states[j], narrow ? DType::bfloat16 : compute);
      continue;
    }
    for (std::size_t i = 0; i < size; ++i)
      hash.add(std::uint64_t{static_cast<const std::uint8_t*>(p.states[j])[i]});
    for (std::size_t i = 0; i * code_block < size; ++i)
      hash.add(double{p.scales[j][i]});
  }
  add(p.master, DType::float32);
  add(p.compensation, dtype);
  add(p.average, compute);
}

void add_optimizers(Hashes& hashes, DType dtype, std::int64_t n, bool whole_range) {
  const Penalty elastic{PenaltyKind::elastic_net, 0.2, 0.3};
  std::vector<Way> ways;
  for (std::size_t kind = 0; kind < optimizer_kind_count; ++kind) {
    Way way{optimizer_list[kind].name, {}, ordinary_group()};
    way.options.kind = static_cast<OptimizerKind>(kind);
    ways.push_back(way);
    way.mask = true;
    way.options.clip = StepOptions::Clip::value;
    way.options.low = -0.4;
    way.options.high = 0.5;
    const bool schedule_free = way.name.starts_with("schedule_free");
    if (!schedule_free) way.group.box = {-0.9, 1.1};
    way.group.penalties = {&elastic, 1};
    ways.push_back(way);
    if (schedule_free) continue;
    way.group.prox = Prox::preconditioned;
    way.options.clip = StepOptions::Clip::global_norm;
    way.options.max_norm = 1;
    way.options.max_update_rms =
        way.options.kind == OptimizerKind::ftrl ? std::nullopt : std::optional(0.5);
    ways.push_back(way);
  }
  Way adam{"adam", {}, ordinary_group()};
  adam.options.kind = OptimizerKind::adam;
  Elements weights(dtype, n, false, 2);
  const Array a = weights.array();
  clip_by_value({&a, 1}, 0, inf);
  Penalty terms[penalty_kind_count][2];
  for (std::size_t kind = 0; kind < penalty_kind_count; ++kind) {
    const PenaltyInfo& info = penalty_list[kind];
    terms[kind][0] = {static_cast<PenaltyKind>(kind), 0.3, info.usual};
    if (info.weighted()) terms[kind][0].weights = {&a, 1};
    terms[kind][1] = {PenaltyKind::l2, 0.1};
    for (const Prox prox : {Prox::none, Prox::plain, Prox::preconditioned}) {
      if (prox == Prox::none && !info.differentiable()) continue;
      Way way = adam;
      way.name = "adam_prox";  // one hash for the first ten
      if (kind >= 10) way.name += std::string("_") + info.name;
      way.mask = kind % 2 == 0;
      way.group.box = {-0.9, inf};
      way.group.penalties = terms[kind];
      way.group.prox = prox;
      ways.push_back(way);
    }
  }
  Way way = adam;
  for (const bool masked : {false, true}) {
    way = adam;
    way.name = "adam_cautious";
    way.options.cautious = true;
    if (masked) way.options.max_update_rms = 0.5;
    way.mask = masked;
    ways.push_back(way);
  }
  way = adam;
  way.average = true;
  way.name = "adam_average";
  ways.push_back(way);
  if (dtype != DType::float64) {
    for (const StateType type : {StateType::bfloat16, StateType::dynamic8}) {
      Way narrow = adam;
      narrow.name = type == StateType::bfloat16 ? "adam_bfloat16" : "adam_dynamic8";
      narrow.state_type = type;
      ways.push_back(narrow);
    }
  }
  if (item_size(dtype) == 2) {
    way = adam;
    way.name = "adam_master";
    way.master = way.mask = true;
    ways.push_back(way);
    way = adam;
    way.name = "adam_kahan";
    way.kahan = way.mask = true;
    ways.push_back(way);
    way = adam;
    way.name = "adam_stochastic";
    way.options.stochastic_rounding = true;
    ways.push_back(way);
  }
  for (const Way& each : ways)
    add_steps(hashes[each.name + " " + name_of(dtype)], each, dtype, n, whole_range);

  Elements x(dtype, n, whole_range, 1);
  const Array boxed = x.array();
  project({-0.3, 0.7}, {&boxed, 1});
  x.add_to(hashes[std::string("project_box ") + name_of(dtype)]);
}

void add_integers(Hashes& hashes) {
  for (const std::uint64_t span : {std::uint64_t{6}, std::uint64_t{3} << 62, std::uint64_t{0}}) {
    std::vector<std::uint64_t> values(1001);
    random_integers(values.data(), 1001, 8, Key{3}, 5, span, Numbering(11));
    for (const std::uint64_t value : values)
      hashes["integers uint64"].add(value);
  }
  for (const Key key : Key{9}.split(33))
    hashes["split uint64"].add(key.seed);
}

/// One line for each function and dtype.
std::map<std::string, std::string> lines() {
  Hashes hashes;
  add_integers(hashes);
  for (const DType dtype : {DType::float32, DType::float64, DType::bfloat16, DType::float16}) {
    for (const bool whole_range : {false, true}) {
      for (std::int64_t i = 0; i <= 131; ++i) {
        const std::int64_t n = i <= 130 ? i : 65537;
        add_penalties(hashes, dtype, n, whole_range);
        add_clipping(hashes, dtype, n, whole_range);
        add_dropout(hashes, dtype, n, whole_range);
        add_pruning(hashes, dtype, n, whole_range);
      }
      for (const std::int64_t n : {0, 1, 77, 5003})
        add_optimizers(hashes, dtype, n, whole_range);
    }
  }
  std::map<std::string, std::string> result;
  for (const auto& [name, hash] : hashes) {
    char text[20];
    std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash.value()));
    result[name] = text;
  }
  return result;
}

int compare(const char* path) {
  std::ifstream file(path);
  std::map<std::string, std::string> expected;
  for (std::string line; std::getline(file, line);) {
    const std::size_t space = line.rfind(' ');
    expected[line.substr(0, space)] = line.substr(space + 1);
  }
  if (expected.empty()) {
    std::cerr << "cannot read " << path << "\n";
    return 2;
  }
  int differences = 0;
  for (const std::string& name : targets()) {
    use_target(name);
    const auto actual = lines();
    int here = 0;
    for (const auto& [key, hash] : actual) {
      if (expected[key] == hash) continue;
      std::cout << name << ": " << key << " got " << hash << ", wants " << expected[key] << "\n";
      ++here;
    }
    std::cout << name << ": " << actual.size() << " hashes, " << here << " differ\n";
    differences += here + (actual.size() == expected.size() ? 0 : 1);
  }
  return differences == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) return compare(argv[1]);
  for (const auto& [name, hash] : lines())
    std::cout << name << " " << hash << "\n";
  return 0;
}
