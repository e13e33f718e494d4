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
  void (*value)(const T* x, T* y, int64_t n, float alpha);  // y = f(x)
  // dx = (dy + more) f'(x); ``more`` may be null.
  void (*gradient)(const T* dy, const T* more, const T* x, T* dx, int64_t n, float alpha);
};

// bfloat16 numbers, as their bits.
using Half = uint16_t;

// Max-pooling of an image [height, width, depth], with ``top`` rows and ``left`` columns of padding before it.
struct Pool {
  int64_t height, width, depth, out_height, out_width, kernel, stride, top, left;
};

// Bytes that the gradient of one image works in.
inline int64_t PoolRoom(const Pool& pool) {
  return (pool.kernel * pool.width + 3) * pool.depth * static_cast<int64_t>(sizeof(float)) + pool.depth;
}

// The gradient of x, [height, width, depth], for that of the pooled image.
template <typename T>
using PoolGradientLoop = void (*)(const T* x, const T* dy, T* dx, const Pool& pool, float* room);

struct Table {
  Loops<float> of_float[kNumFunctions];
  Loops<Half> of_bfloat16[kNumFunctions];
  PoolGradientLoop<float> pool_gradient_of_float;
  PoolGradientLoop<Half> pool_gradient_of_bfloat16;
};

// One for each object file of kernels.cc.
extern const Table kTableBase;
#ifdef __x86_64__
extern const Table kTableAvx2;
extern const Table kTableAvx512;
#endif

}  // namespace smooth_ops

#endif  // SMOOTH_OPS_KERNELS_H_
