// The activations and their derivatives on V, one float or a vector of them (vectors.h). No branches, no calls, and NaN
// comes out where it went in.
//
// SAT Sec 4 lists the activations; the truth that they are tested against is in tests/test_smooth_activations.py.

#ifndef SMOOTH_OPS_FUNCTIONS_H_
#define SMOOTH_OPS_FUNCTIONS_H_

#include "vectors.h"

namespace smooth_ops {
// Not shared between the instruction sets that kernels.cc is compiled for.
namespace {

// These let NaN through, which std::min and std::max need not.
template <typename V>
SMOOTH_OPS_INLINE V AtMost(V x, float bound) { return x > bound ? V{} + bound : x; }
template <typename V>
SMOOTH_OPS_INLINE V AtLeast(V x, float bound) { return x < bound ? V{} + bound : x; }
#ifdef __AVX512F__  // the compiler takes three instructions for it; of a NaN and another number the second one comes out
SMOOTH_OPS_INLINE Vector AtMost(Vector x, float bound) {
  return (Vector)_mm512_min_ps((__m512)(Vector{} + bound), (__m512)x);
}
SMOOTH_OPS_INLINE Vector AtLeast(Vector x, float bound) {
  return (Vector)_mm512_max_ps((__m512)(Vector{} + bound), (__m512)x);
}
#endif
template <typename V>
SMOOTH_OPS_INLINE V Positive(V x) { return AtLeast(x, 0.0f); }
template <typename V>
SMOOTH_OPS_INLINE V Negative(V x) { return AtMost(x, 0.0f); }

// exp(x) to 2 units in the last place, of x cut to where neither the result nor 1 / result leaves the normal floats.
template <typename V>
SMOOTH_OPS_INLINE V Exp(V x) {
  const V cut = AtLeast(AtMost(x, 87.0f), -87.0f);
  // Adding 1.5 * 2^23 rounds to a whole number, which is then in the sum's low bits.
  const V shifted = cut * 1.44269504f + 12582912.0f;
  const V n = shifted - 12582912.0f;
  const V r = (cut - n * 0.693359375f) + n * 2.12194440e-4f;  // log 2 in two parts, the first exact in few bits
  // Taylor's polynomial with its last coefficients fitted on [-log 2 / 2, log 2 / 2] (Cephes, expf).
  V p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const V e = FromBits(ToBits(p * (r * r) + r + 1.0f) + (ToBits(shifted) << 23));
  return x == x ? e : x;
}

// log(1 + u) of u in [0, 1], to 1e-7.
template <typename V>
SMOOTH_OPS_INLINE V Log1p(V u) {
  // With s = u / (2 + u) in [0, 1/3]: log(1 + u) = 2 artanh(s) = 2 (s + s^3 / 3 + s^5 / 5 + ...).
  const V s = u / (2.0f + u), s2 = s * s;
  V p = 1.0f / 13 * s2 + 1.0f / 11;
  p = p * s2 + 1.0f / 9;
  p = p * s2 + 1.0f / 7;
  p = p * s2 + 1.0f / 5;
  p = p * s2 + 1.0f / 3;
  return 2.0f * (s + s * s2 * p);
}

template <typename V>
SMOOTH_OPS_INLINE V Sigmoid(V x) { return 1.0f / (1.0f + Exp(-x)); }

struct Relu {
  template <typename V>
  SMOOTH_OPS_INLINE static V Value(V x, float) { return Positive(x); }
  template <typename V>
  SMOOTH_OPS_INLINE static V Slope(V x, float) { return x > 0.0f ? V{} + 1.0f : x == x ? V{} : x; }
};

struct Silu {
  template <typename V>
  SMOOTH_OPS_INLINE static V Value(V x, float) { return x / (1.0f + Exp(-x)); }
  template <typename V>
  SMOOTH_OPS_INLINE static V Slope(V x, float) {
    const V e = Exp(-x), s = 1.0f / (1.0f + e);
    return s * (1.0f + x * (e * s));
  }
};

// log(1 + exp(alpha x)) / alpha.
struct Softplus {
  template <typename V>
  SMOOTH_OPS_INLINE static V Value(V x, float alpha) {
    const V scaled = alpha * x;
    return (Positive(scaled) + Log1p(Exp(scaled > 0.0f ? -scaled : scaled))) / alpha;
  }
  template <typename V>
  SMOOTH_OPS_INLINE static V Slope(V x, float alpha) { return Sigmoid(alpha * x); }
};

// The tanh form of GELU: (1 + tanh u) / 2 is the sigmoid of 2 u, which does not cancel where x is far below 0.
struct Gelu {
  static constexpr float kScale = 0.797884561f, kCubic = 0.044715f;  // sqrt(2 / pi)
  template <typename V>
  SMOOTH_OPS_INLINE static V ExpMinus2U(V x) { return Exp(-2.0f * kScale * x * (1.0f + kCubic * x * x)); }
  template <typename V>
  SMOOTH_OPS_INLINE static V Value(V x, float) { return x / (1.0f + ExpMinus2U(x)); }
  template <typename V>
  SMOOTH_OPS_INLINE static V Slope(V x, float) {
    const V e = ExpMinus2U(x), s = 1.0f / (1.0f + e);
    return s * (1.0f + 2.0f * x * (e * s) * kScale * (1.0f + 3.0f * kCubic * x * x));
  }
};

struct GeluErf {
  // Abramowitz and Stegun 7.1.26, to 1.5e-7; ``density`` is exp(-x^2 / 2).
  template <typename V>
  SMOOTH_OPS_INLINE static V NormalCdf(V x, V density) {
    const V z = (x < 0.0f ? -x : x) * 0.707106781f;
    const V t = 1.0f / (1.0f + 0.3275911f * z);
    V p = 1.061405429f * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const V tail = 0.5f * p * t * density;
    return x > 0.0f ? 1.0f - tail : tail;
  }
  template <typename V>
  SMOOTH_OPS_INLINE static V Value(V x, float) { return x * NormalCdf(x, Exp(-0.5f * x * x)); }
  template <typename V>
  SMOOTH_OPS_INLINE static V Slope(V x, float) {
    const V density = Exp(-0.5f * x * x);
    return NormalCdf(x, density) + x * density * 0.398942280f;  // 1 / sqrt(2 pi)
  }
};

struct Celu {
  template <typename V>
  SMOOTH_OPS_INLINE static V Value(V x, float alpha) { return Positive(x) + alpha * (Exp(Negative(x) / alpha) - 1.0f); }
  template <typename V>
  SMOOTH_OPS_INLINE static V Slope(V x, float alpha) { return Exp(Negative(x) / alpha); }
};

// x tanh(log(1 + exp(x))) = x n / (n + 2) with n = e (e + 2), e = exp(x); beyond 20 the factor is 1 in float32.
struct Mish {
  template <typename V>
  SMOOTH_OPS_INLINE static V Value(V x, float) {
    const V e = Exp(AtMost(x, 20.0f)), n = e * (e + 2.0f);
    return x * (n / (n + 2.0f));
  }
  template <typename V>
  SMOOTH_OPS_INLINE static V Slope(V x, float) {
    const V e = Exp(AtMost(x, 20.0f)), n = e * (e + 2.0f), inverse = 1.0f / (n + 2.0f);
    return n * inverse + x * (4.0f * e * inverse) * ((1.0f + e) * inverse);
  }
};

}  // namespace
}  // namespace smooth_ops

#endif  // SMOOTH_OPS_FUNCTIONS_H_
