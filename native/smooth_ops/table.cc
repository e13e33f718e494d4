// Which instruction set's loops the ops of this process use.

#include <cstdlib>
#include <string>

#include "kernels.h"

namespace smooth_ops {

const Table& BestTable() {
#ifdef __x86_64__
  const char* asked = std::getenv("SMOOTH_OPS_INSTRUCTIONS");
  const std::string most = asked ? asked : "avx512";
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (most == "avx512" && has_avx512) return kTableAvx512;
  if (most != "base" && has_avx2) return kTableAvx2;
#endif
  return kTableBase;
}

}  // namespace smooth_ops
