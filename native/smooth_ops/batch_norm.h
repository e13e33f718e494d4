// Batch norm by the statistics of the batch, with a sum and an activation behind it, and its gradients.
//
// Images are arrays of n numbers in rows of ``width``: each a whole number of pixels, so that few channels fill vectors
// too. What there is for each channel is there for each number of a row.

#ifndef SMOOTH_OPS_BATCH_NORM_H_
#define SMOOTH_OPS_BATCH_NORM_H_

#include "vectors.h"

namespace smooth_ops {
namespace {

// Calls f(begin, column, count) for blocks of at most so many numbers, none of which crosses a row's end.
template <int64_t block, typename F>
SMOOTH_OPS_INLINE void OverRows(int64_t n, int64_t width, F f) {
  for (int64_t row = 0; row < n; row += width) {
    const int64_t length = n - row < width ? n - row : width;
    for (int64_t i = 0; i < length; i += block) f(row + i, i, length - i < block ? length - i : block);
  }
}

// Adds rows' differences from ``shift``, and their squares.
template <int rows, typename T>
SMOOTH_OPS_INLINE void AddMoments(const T* x, const float* shift, float* sums, float* squares, int64_t width,
                                  int64_t length) {
  Over(length, [&](auto lanes, int64_t i) {
    using V = decltype(lanes);
    const V from = Load<V>(shift + i);
    V sum = Load<V>(sums + i), square = Load<V>(squares + i);
    Repeat<rows>([&](auto row) {
      const V difference = Load<V>(x + row * width + i) - from;
      sum += difference;
      square += difference * difference;
    });
    Store(sum, sums + i);
    Store(square, squares + i);
  });
}

template <typename T>
void NormMoments(const T* x, const float* shift, float* sums, float* squares, int64_t n, int64_t width) {
  constexpr int kRows = 4;
  for (; n >= kRows * width; n -= kRows * width, x += kRows * width) {
    AddMoments<kRows>(x, shift, sums, squares, width, width);
  }
  for (; n > 0; n -= width, x += width) AddMoments<1>(x, shift, sums, squares, width, n < width ? n : width);
}

constexpr int64_t kNormBlock = 512;  // numbers; a few blocks of floats fit the first-level cache

// What the activation takes, of ``count`` numbers from ``column`` of a row on.
template <typename T, typename Out>
SMOOTH_OPS_INLINE void BeforeActivation(const T* x, const T* residual, Out* to, const NormRows& at, int64_t column,
                                        int64_t count) {
  const auto norm = [&](auto lanes, int64_t i) {
    using V = decltype(lanes);
    const int64_t c = column + i;
    return V((Load<V>(x + i) - Load<V>(at.mean + c)) * Load<V>(at.scale + c) + Load<V>(at.offset + c));
  };
  if (residual != nullptr) {
    Over(count, [&](auto lanes, int64_t i) {
      Store(decltype(lanes)(norm(lanes, i) + Load<decltype(lanes)>(residual + i)), to + i);
    });
  } else {
    Over(count, [&](auto lanes, int64_t i) { Store(norm(lanes, i), to + i); });
  }
}

template <typename T>
void NormValue(const T* x, const T* residual, T* y, int64_t n, const NormRows& at, const Activation& activation) {
  OverRows<kNormBlock>(n, at.width, [&](int64_t begin, int64_t column, int64_t count) {
    const T* const other = residual != nullptr ? residual + begin : nullptr;
    if (activation.loops.value == nullptr) {
      BeforeActivation(x + begin, other, y + begin, at, column, count);
      return;
    }
    float block[kNormBlock];
    BeforeActivation(x + begin, other, block, at, column, count);
    activation.loops.value(block, block, count, activation.alpha);
    Over(count, [&](auto lanes, int64_t i) { Store(Load<decltype(lanes)>(block + i), y + begin + i); });
  });
}

template <typename T>
void NormSlope(const T* dy, const T* more, const T* x, const T* residual, T* slope, float* sums, float* products,
               int64_t n, const NormRows& at, const Activation& activation) {
  OverRows<kNormBlock>(n, at.width, [&](int64_t begin, int64_t column, int64_t count) {
    float gradient[kNormBlock];
    if (more != nullptr) {
      Over(count, [&](auto lanes, int64_t i) {
        using V = decltype(lanes);
        Store(V(Load<V>(dy + begin + i) + Load<V>(more + begin + i)), gradient + i);
      });
    } else {
      Over(count, [&](auto lanes, int64_t i) { Store(Load<decltype(lanes)>(dy + begin + i), gradient + i); });
    }
    if (activation.loops.gradient != nullptr) {
      float block[kNormBlock];
      BeforeActivation(x + begin, residual != nullptr ? residual + begin : nullptr, block, at, column, count);
      activation.loops.gradient(gradient, nullptr, block, gradient, count, activation.alpha);
    }
    Over(count, [&](auto lanes, int64_t i) {
      using V = decltype(lanes);
      const int64_t c = column + i;
      const V g = Load<V>(gradient + i), centred = Load<V>(x + begin + i) - Load<V>(at.mean + c);
      if (slope != nullptr) Store(g, slope + begin + i);
      Store(V(Load<V>(sums + c) + g), sums + c);
      Store(V(Load<V>(products + c) + g * centred), products + c);
    });
  });
}

template <typename T>
void NormInput(const T* slope, const T* x, T* dx, int64_t n, const NormRows& at, const float* shift,
               const float* factor) {
  OverRows<kNormBlock>(n, at.width, [&](int64_t begin, int64_t column, int64_t count) {
    Over(count, [&](auto lanes, int64_t i) {
      using V = decltype(lanes);
      const int64_t c = column + i;
      const V centred = Load<V>(x + begin + i) - Load<V>(at.mean + c);
      Store(V((Load<V>(slope + begin + i) - Load<V>(shift + c) - centred * Load<V>(factor + c)) *
              Load<V>(at.scale + c)), dx + begin + i);
    });
  });
}

}  // namespace
}  // namespace smooth_ops

#endif  // SMOOTH_OPS_BATCH_NORM_H_
