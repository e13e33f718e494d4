// Loops over arrays, compiled once for each instruction set (kernels.cc) and chosen when the program runs.

#ifndef SMOOTH_OPS_KERNELS_H_
#define SMOOTH_OPS_KERNELS_H_

#include <cstdint>

namespace smooth_ops {

// In the order of kNames in ops.cc.
enum Function { kRelu, kSilu, kSoftplus, kGelu, kGeluErf, kCelu, kMish, kNumFunctions };

// One function on arrays of n elements; ``y`` and ``dx`` may be the same array as an input.
template <typename T>
struct Loops {
  void (*value)(const T* x, T* y, int64_t n, float alpha);                    // y = f(x)
  void (*gradient)(const T* dy, const T* x, T* dx, int64_t n, float alpha);   // dx = dy f'(x)
};

// bfloat16 numbers, as their bits.
using Half = uint16_t;

struct Table {
  Loops<float> of_float[kNumFunctions];
  Loops<Half> of_bfloat16[kNumFunctions];
};

// One for each object file of kernels.cc.
extern const Table kTableBase;
#ifdef __x86_64__
extern const Table kTableAvx2;
extern const Table kTableAvx512;
#endif

}  // namespace smooth_ops

#endif  // SMOOTH_OPS_KERNELS_H_
