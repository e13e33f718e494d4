// Which instruction set's loops the ops of this process use.

#ifdef __x86_64__
#include <cpuid.h>
#endif

#include <cstdlib>
#include <string>

#include "kernels.h"

namespace smooth_ops {

const Table& BestTable() {
#ifdef __x86_64__
  const char* asked = std::getenv("SMOOTH_OPS_INSTRUCTIONS");
  const std::string most = asked ? asked : "avx512bf16";
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#ifdef HAS_AVX512BF16
  if (most == "avx512bf16" && has_avx512 && __builtin_cpu_supports("avx512bf16")) return kTableAvx512Bf16;
#endif
  if (most.rfind("avx512", 0) == 0 && has_avx512) return kTableAvx512;
  if (most != "base" && has_avx2) return kTableAvx2;
#endif
  return kTableBase;
}

// Whether the convolutions of products.h are faster here than oneDNN's: those of avx512_bf16 are; Intel's AMX, which only
// oneDNN uses, is faster than they are.
extern "C" int SmoothOpsHasFastProducts() {
#if defined(__x86_64__) && defined(HAS_AVX512BF16)
  unsigned int a, b, c, d;
  const bool has_amx = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1);
  return &BestTable() == &kTableAvx512Bf16 && !has_amx;
#else
  return 0;
#endif
}

// Whether the convolutions of winograd.h are faster here than oneDNN's: with 32 vectors of 16 numbers in registers.
extern "C" int SmoothOpsHasFastWinograd() {
#ifdef __x86_64__
#ifdef HAS_AVX512BF16
  if (&BestTable() == &kTableAvx512Bf16) return 1;
#endif
  return &BestTable() == &kTableAvx512;
#else
  return 0;
#endif
}

}  // namespace smooth_ops
