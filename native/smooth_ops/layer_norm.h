// Layer norm over rows of numbers, and its gradients, which take the moments of each row anew: it is in the cache then.

#ifndef SMOOTH_OPS_LAYER_NORM_H_
#define SMOOTH_OPS_LAYER_NORM_H_

#include "vectors.h"

namespace smooth_ops {
namespace {

template <typename T>
SMOOTH_OPS_INLINE float MeanOf(const T* x, int64_t depth) {
  Sum sum;
  Over(depth, [&](auto lanes, int64_t i) { sum.Add(Load<decltype(lanes)>(x + i)); });
  return sum.Total() / static_cast<float>(depth);
}

SMOOTH_OPS_INLINE float InverseDeviation(float squares, int64_t depth, float epsilon) {
  return 1.0f / __builtin_sqrtf(squares / static_cast<float>(depth) + epsilon);
}

template <typename T>
SMOOTH_OPS_INLINE float InverseDeviationOf(const T* x, float mean, int64_t depth, float epsilon) {
  Sum squares;
  Over(depth, [&](auto lanes, int64_t i) {
    const auto centred = Load<decltype(lanes)>(x + i) - mean;
    squares.Add(centred * centred);
  });
  return InverseDeviation(squares.Total(), depth, epsilon);
}

template <typename T>
void LayerNorm(const T* x, const float* scale, const float* offset, T* y, const Rows& at) {
  for (int64_t row = 0; row < at.count; ++row, x += at.depth, y += at.depth) {
    const float mean = MeanOf(x, at.depth), inverse = InverseDeviationOf(x, mean, at.depth, at.epsilon);
    if (scale != nullptr) {
      Over(at.depth, [&](auto lanes, int64_t i) {
        using V = decltype(lanes);
        Store((Load<V>(x + i) - mean) * inverse * Load<V>(scale + i) + Load<V>(offset + i), y + i);
      });
    } else {
      Over(at.depth, [&](auto lanes, int64_t i) { Store((Load<decltype(lanes)>(x + i) - mean) * inverse, y + i); });
    }
  }
}

// With g = dy scale and n the normalised row: dx = (g - mean(g) - n mean(g n)) / deviation.
template <bool kScaled, typename T>
void LayerNormGradientOf(const T* dy, const T* x, const float* scale, T* dx, const Rows& at) {
  const auto gradient = [&](auto lanes, int64_t i) {
    using V = decltype(lanes);
    if constexpr (kScaled) {
      return V(Load<V>(dy + i) * Load<V>(scale + i));
    } else {
      return Load<V>(dy + i);
    }
  };
  for (int64_t row = 0; row < at.count; ++row, x += at.depth, dy += at.depth, dx += at.depth) {
    const float mean = MeanOf(x, at.depth);
    Sum squares, sum, products;
    Over(at.depth, [&](auto lanes, int64_t i) {
      const auto centred = Load<decltype(lanes)>(x + i) - mean;
      const auto g = gradient(lanes, i);
      squares.Add(centred * centred);
      sum.Add(g);
      products.Add(g * centred);
    });
    const float inverse = InverseDeviation(squares.Total(), at.depth, at.epsilon);
    const float shift = sum.Total() / static_cast<float>(at.depth);
    const float slope = products.Total() / static_cast<float>(at.depth) * inverse * inverse;
    Over(at.depth, [&](auto lanes, int64_t i) {
      Store((gradient(lanes, i) - shift - (Load<decltype(lanes)>(x + i) - mean) * slope) * inverse, dx + i);
    });
  }
}

template <typename T>
void LayerNormGradient(const T* dy, const T* x, const float* scale, T* dx, const Rows& at) {
  if (scale != nullptr) {
    LayerNormGradientOf<true>(dy, x, scale, dx, at);
  } else {
    LayerNormGradientOf<false>(dy, x, scale, dx, at);
  }
}

template <typename T>
void LayerNormSums(const T* dy, const T* x, float* scale, float* offset, const Rows& at) {
  for (int64_t row = 0; row < at.count; ++row, x += at.depth, dy += at.depth) {
    const float mean = MeanOf(x, at.depth), inverse = InverseDeviationOf(x, mean, at.depth, at.epsilon);
    Over(at.depth, [&](auto lanes, int64_t i) {
      using V = decltype(lanes);
      const V g = Load<V>(dy + i);
      Store(Load<V>(scale + i) + g * ((Load<V>(x + i) - mean) * inverse), scale + i);
      Store(Load<V>(offset + i) + g, offset + i);
    });
  }
}

}  // namespace
}  // namespace smooth_ops

#endif  // SMOOTH_OPS_LAYER_NORM_H_
