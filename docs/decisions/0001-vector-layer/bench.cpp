// ./bench [name-substring]: checksums, then per form x compiler x target x kernel: GB/s at 16 KiB
// and 512 KiB in total, and from memory (64 M float32 per array) as a fraction of the roof,
// measured right before and after.
#include "table.hpp"
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <sys/mman.h>
#include <vector>
#define X(n) extern const Table n;
#include "list.inc"
#undef X
#define X(n) &n,
static const Table* const tables[] = {
#include "list.inc"
};
using Clock = std::chrono::steady_clock;
constexpr size_t big = size_t(64) << 20;
static volatile double sink;

static float* alloc() {
  void* p = mmap(nullptr, big * 4 + (4 << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                 -1, 0);
  p = (void*)((uintptr_t(p) + (2 << 20) - 1) & ~uintptr_t((2 << 20) - 1));
  madvise(p, big * 4 + (2 << 20), MADV_HUGEPAGE);
  static size_t k =
      0;  // staggered: arrays at equal offsets modulo 4096 make loads wait for unrelated stores
  return (float*)p + 16 * 17 * k++;
}
template <class F>
static double median_gbs(F f, size_t bytes, int runs, double min_s) {
  size_t reps = 1;
  f();
  const auto t0 = Clock::now();
  f();
  const double one = std::chrono::duration<double>(Clock::now() - t0).count();
  if (one < min_s) reps = size_t(min_s / std::max(one, 1e-8)) + 1;
  std::vector<double> t;
  for (int r = 0; r < runs; ++r) {
    const auto a = Clock::now();
    for (size_t k = 0; k < reps; ++k)
      f();
    t.push_back(std::chrono::duration<double>(Clock::now() - a).count() / double(reps));
  }
  std::sort(t.begin(), t.end());
  return double(bytes) / t[t.size() / 2] / 1e9;
}
static uint64_t fnv(const void* p, size_t n, uint64_t h = 1469598103934665603u) {
  for (size_t i = 0; i < n; i += 4) {
    uint32_t x;
    memcpy(&x, (const char*)p + i, 4);
    h = (h ^ x) * 1099511628211u;
  }
  return h;
}
static float *p, *m, *v, *g;
static void fill(size_t n) {
  uint32_t s = 12345;
  auto r = [&] { return s = s * 1664525u + 1013904223u, float(int32_t(s)) * 0x1p-31f; };
  for (size_t i = 0; i < n; ++i)
    p[i] = i % 37 ? r() : (i % 2 ? 0.0f : -0.0f), g[i] = r(), m[i] = r(), v[i] = std::fabs(r());
}
static uint64_t check(const Table& t, bool special) {
  uint64_t h = 1469598103934665603u;
  for (size_t n : {1, 5, 15, 16, 17, 63, 250, 4095, 4096, 4100, 100003}) {
    fill(n + 1);
    if (special)
      for (size_t i = 0; i < n; ++i) {
        const float odd[] = {NAN, INFINITY, -INFINITY, 1e-40f, -1e-40f, 3e38f, -0.0f};
        if (i % 5 == 1) p[i] = odd[i / 5 % 7];
        if (i % 7 == 2) g[i] = odd[i / 7 % 7];
      }
    double s[2] = {t.sumsq(p, n), 0};
    s[1] = t.elastic(g, p, n);
    h = fnv(s, special ? 0 : 16, h), h = fnv(g, 4 * n + 4, h);  // + 4: nothing written past the end
    t.adamw(p, m, v, g, n);
    for (float* x : {p, m, v})
      h = fnv(x, 4 * n + 4, h);
    for (auto f : {t.philox, t.philox_i})
      if (f)
        memset(p, 0, 16 * n + 16), f((uint64_t*)p, n),
            h = f == t.philox ? fnv(p, 16 * n + 16, h) : h;
    if (t.philox_i) {  // same bits as philox
      const uint64_t a = fnv(p, 16 * n + 16);
      t.philox((uint64_t*)p, n);
      if (a != fnv(p, 16 * n + 16)) printf("  %s: philox_i differs\n", t.name);
    }
  }
  return h;
}
int main(int argc, char** argv) {
  p = alloc(), m = alloc(), v = alloc(), g = alloc();
  fill(big);
  for (auto t : tables)
    printf("check %-14s %016lx special %016lx\n", t->name, check(*t, false), check(*t, true));
  fill(big);
  printf("%-14s %-9s %8s %8s %8s %6s   roof: 16K 512K mem\n", "variant", "kernel", "16K", "512K",
         "mem", "frac");
  for (auto t : tables) {
    if (argc > 1 && !strstr(t->name, argv[1])) continue;
    auto row = [&](const char* kernel, int arrays, int bytes, auto roof, auto f) {
      double got[3], top[3], frac = 0;
      const size_t ns[] = {size_t(4096) / arrays, (size_t(128) << 10) / arrays, big};
      for (int k = 0; k < 3; ++k) {
        const size_t n = ns[k], b = n * size_t(bytes);
        const int runs = k < 2 ? 9 : 7;
        const double a = median_gbs([&] { roof(n); }, b, k < 2 ? 5 : 4, k < 2 ? 5e-4 : 0);
        got[k] = median_gbs([&] { f(n); }, b, runs, k < 2 ? 1e-3 : 0);
        const double z = median_gbs([&] { roof(n); }, b, k < 2 ? 5 : 4, k < 2 ? 5e-4 : 0);
        top[k] = (a + z) / 2;
        frac = got[k] / top[k];
      }
      printf("%-14s %-9s %8.1f %8.1f %8.1f %6.2f   %6.1f %6.1f %6.1f\n", t->name, kernel, got[0],
             got[1], got[2], frac, top[0], top[1], top[2]);
      fflush(stdout);
    };
    row(
        "elastic", 2, 12, [](size_t n) { roof_elastic(g, p, n); },
        [&](size_t n) { sink = t->elastic(g, p, n); });
    row(
        "sumsq", 1, 4, [](size_t n) { sink = roof_sumsq(p, n); },
        [&](size_t n) { sink = t->sumsq(p, n); });
    row(
        "adamw", 4, 28, [](size_t n) { roof_adamw(p, m, v, g, n); },
        [&](size_t n) { t->adamw(p, m, v, g, n); });
    auto u = (uint64_t*)m;  // uint32 outputs, 4 bytes each
    row(
        "philox", 1, 4, [&](size_t n) { roof_philox(u, n / 4); },
        [&](size_t n) { t->philox(u, n / 4); });
    if (t->philox_i)
      row(
          "philox_i", 1, 4, [&](size_t n) { roof_philox(u, n / 4); },
          [&](size_t n) { t->philox_i(u, n / 4); });
    memset(m, 0, big * 4);  // random bits are no momentum
  }
}
