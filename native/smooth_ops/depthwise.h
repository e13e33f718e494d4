// The depthwise convolution with a kernel of 7x7, stride 1 and 3 zeros on each side, of channels [first, last) of one
// image, and the gradient of its kernel. The gradient of its input is the same convolution with the kernel turned round.

#ifndef SMOOTH_OPS_DEPTHWISE_H_
#define SMOOTH_OPS_DEPTHWISE_H_

#include "vectors.h"

namespace smooth_ops {
namespace {

constexpr int kSide = kDepthwiseSide, kReach = kSide / 2;

// Columns whose sums, with one row of the kernel and one pixel, are in registers at the same time: 14 and 7 go into the
// 56, 28, 14 and 7 of ConvNeXt at 224.
constexpr int kWide = kRegisters == 32 ? 14 : 7, kNarrow = 7;

// Calls f(pixel, shift): each pixel of ``row`` under the windows of columns [w, w + kColumns), and its place there.
template <int kColumns, typename F>
SMOOTH_OPS_INLINE void UnderWindows(const Image& at, int64_t row, int64_t w, F f) {
  Repeat<kColumns + kSide - 1>([&](auto shift) __attribute__((always_inline)) {
    const int64_t column = w + shift - kReach;
    if (column >= 0 && column < at.width) f((row * at.width + column) * at.depth, shift);
  });
}

template <typename V, int kColumns, typename T>
SMOOTH_OPS_INLINE void ConvolveColumns(const T* x, const float* kernel, const float* bias, T* y, const Image& at,
                                       int64_t h, int64_t w) {
  V sums[kColumns];
  Repeat<kColumns>([&](auto k) __attribute__((always_inline)) { sums[k] = bias ? Load<V>(bias) : V{}; });
  for (int i = 0; i < kSide; ++i) {
    const int64_t row = h + i - kReach;
    if (row < 0 || row >= at.height) continue;
    V weights[kSide];
    Repeat<kSide>([&](auto j) __attribute__((always_inline)) {
      weights[j] = Load<V>(kernel + (i * kSide + j) * at.depth);
    });
    UnderWindows<kColumns>(at, row, w, [&](int64_t pixel, auto shift) __attribute__((always_inline)) {
      const V v = Load<V>(x + pixel);
      Repeat<kSide>([&](auto j) __attribute__((always_inline)) {
        constexpr int kColumn = decltype(shift)::value - decltype(j)::value;
        if constexpr (kColumn >= 0 && kColumn < kColumns) sums[kColumn] += v * weights[j];
      });
    });
  }
  Repeat<kColumns>([&](auto k) __attribute__((always_inline)) {
    Store(sums[k], y + (h * at.width + w + k) * at.depth);
  });
}

// Sums: of each place in the kernel, row by row, and last of dy itself.
template <typename V, int kColumns, typename T>
SMOOTH_OPS_INLINE void AddColumns(const T* x, const T* dy, V* sums, const Image& at, int64_t h, int64_t w) {
  V gradients[kColumns];
  Repeat<kColumns>([&](auto k) __attribute__((always_inline)) {
    gradients[k] = Load<V>(dy + (h * at.width + w + k) * at.depth);
    sums[kSide * kSide] += gradients[k];
  });
  for (int i = 0; i < kSide; ++i) {
    const int64_t row = h + i - kReach;
    if (row < 0 || row >= at.height) continue;
    V part[kSide];
    Repeat<kSide>([&](auto j) __attribute__((always_inline)) { part[j] = sums[i * kSide + j]; });
    UnderWindows<kColumns>(at, row, w, [&](int64_t pixel, auto shift) __attribute__((always_inline)) {
      const V v = Load<V>(x + pixel);
      Repeat<kSide>([&](auto j) __attribute__((always_inline)) {
        constexpr int kColumn = decltype(shift)::value - decltype(j)::value;
        if constexpr (kColumn >= 0 && kColumn < kColumns) part[j] += v * gradients[kColumn];
      });
    });
    Repeat<kSide>([&](auto j) __attribute__((always_inline)) { sums[i * kSide + j] = part[j]; });
  }
}

// Calls f(count, h, w) for all columns of an image, with the constant ``count`` of them at once.
template <typename F>
SMOOTH_OPS_INLINE void OverColumns(const Image& at, F f) {
  for (int64_t h = 0; h < at.height; ++h) {
    int64_t w = 0;
    for (; w + kWide <= at.width; w += kWide) f(std::integral_constant<int, kWide>{}, h, w);
    for (; w + kNarrow <= at.width; w += kNarrow) f(std::integral_constant<int, kNarrow>{}, h, w);
    for (; w < at.width; ++w) f(std::integral_constant<int, 1>{}, h, w);
  }
}

template <typename T>
void DepthwiseConvolution(const T* x, const float* kernel, const float* bias, T* y, const Image& at, int64_t first,
                          int64_t last) {
  Over(last - first, [&](auto lanes, int64_t i) {
    const int64_t c = first + i;
    OverColumns(at, [&](auto count, int64_t h, int64_t w) {
      ConvolveColumns<decltype(lanes), decltype(count)::value>(x + c, kernel + c, bias ? bias + c : nullptr, y + c, at, h,
                                                               w);
    });
  });
}

template <typename T>
void DepthwiseKernelGradient(const T* x, const T* dy, float* sums, const Image& at, int64_t images, int64_t first,
                             int64_t last) {
  const int64_t size = at.height * at.width * at.depth;
  Over(last - first, [&](auto lanes, int64_t i) {
    using V = decltype(lanes);
    const int64_t c = first + i;
    V all[kSide * kSide + 1] = {};
    for (int64_t n = 0; n < images; ++n) {
      OverColumns(at, [&](auto count, int64_t h, int64_t w) {
        AddColumns<V, decltype(count)::value>(x + n * size + c, dy + n * size + c, all, at, h, w);
      });
    }
    for (int k = 0; k <= kSide * kSide; ++k) Store(all[k], sums + k * at.depth + c);
  });
}

}  // namespace
}  // namespace smooth_ops

#endif  // SMOOTH_OPS_DEPTHWISE_H_
