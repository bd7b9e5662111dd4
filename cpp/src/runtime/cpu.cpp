// The x86-64 microarchitecture levels (System V psABI, table 3.1) from CPUID and XGETBV.
#include "runtime/cpu.hpp"

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace ridgeline {
namespace {

#if defined(__x86_64__)
struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf = 0) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d);
  return r;
}

constexpr bool all(unsigned value, unsigned bits) { return (value & bits) == bits; }

int x86_64_level() {
  const Registers basic = cpuid(1);
  const Registers extended = cpuid(7);
  const Registers amd = cpuid(0x80000001);
  const unsigned v2 = bit_SSE3 | bit_SSSE3 | bit_SSE4_1 | bit_SSE4_2 | bit_POPCNT | bit_CMPXCHG16B;
  if (!all(basic.c, v2) || !all(amd.c, bit_LAHF_LM)) return 1;

  constexpr unsigned osxsave = 1u << 27;
  if (!all(basic.c, osxsave)) return 2;
  unsigned low = 0;
  unsigned high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  const bool saves_ymm = all(low, 0x6);
  const bool saves_zmm = all(low, 0xe6);
  const unsigned v3_basic = bit_AVX | bit_F16C | bit_FMA | (1u << 22);  // MOVBE
  const unsigned v3_extended = bit_AVX2 | bit_BMI | bit_BMI2;
  if (!saves_ymm || !all(basic.c, v3_basic) || !all(extended.b, v3_extended) ||
      !all(amd.c, bit_ABM)) {
    return 2;
  }
  const unsigned v4 = bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL;
  return saves_zmm && all(extended.b, v4) ? 4 : 3;
}
#endif

}  // namespace

bool cpu_runs(std::string_view target) {
  if (target == "scalar" || target == "neon") return true;
#if defined(__x86_64__)
  static const int level = x86_64_level();
  return target.back() - '0' <= level;
#else
  return false;
#endif
}

}  // namespace ridgeline
