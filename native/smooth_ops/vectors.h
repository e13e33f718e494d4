// Vectors of floats as wide as those of the instruction set, and loops over arrays by them: for sums, whose order the
// compiler may not change by itself, and for loops that keep many numbers in registers.

#ifndef SMOOTH_OPS_VECTORS_H_
#define SMOOTH_OPS_VECTORS_H_

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels.h"

#define SMOOTH_OPS_INLINE inline __attribute__((always_inline))

namespace smooth_ops {
// Not shared between the instruction sets, as in functions.h.
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kRegisters = 16;
#else
constexpr int kLanes = 4, kRegisters = 16;
#endif

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
typedef uint32_t VectorBits __attribute__((vector_size(kLanes * sizeof(float))));
typedef Half VectorHalves __attribute__((vector_size(kLanes * sizeof(Half))));

inline float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t ToBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

SMOOTH_OPS_INLINE Vector FromBits(VectorBits bits) { return (Vector)bits; }
SMOOTH_OPS_INLINE VectorBits ToBits(Vector value) { return (VectorBits)value; }

inline float ToFloat(float x) { return x; }
inline float ToFloat(Half x) { return FromBits(uint32_t{x} << 16); }

inline void Assign(float from, float* to) { *to = from; }

// To the nearest bfloat16, to the even one of two.
inline void Assign(float from, Half* to) {
  const uint32_t bits = ToBits(from);
  const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const uint32_t nan = bits | 0x400000;
  *to = static_cast<Half>(((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded) >> 16);
}

// Of a whole vector or of one float, whichever V is, from memory of floats or bfloat16.
template <typename V>
SMOOTH_OPS_INLINE V Load(const float* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <typename V>
SMOOTH_OPS_INLINE V Load(const Half* from) {
  if constexpr (sizeof(V) == sizeof(float)) {
    return ToFloat(*from);
  } else {
    VectorHalves halves;
    std::memcpy(&halves, from, sizeof halves);
#ifdef __AVX512F__  // the compiler takes five instructions for it
    return FromBits((VectorBits)_mm512_cvtepu16_epi32((__m256i)halves) << 16);
#else
    return FromBits(__builtin_convertvector(halves, VectorBits) << 16);
#endif
  }
}

template <typename T>
SMOOTH_OPS_INLINE void Store(float v, T* to) { Assign(v, to); }

SMOOTH_OPS_INLINE void Store(Vector v, float* to) { std::memcpy(to, &v, sizeof v); }

SMOOTH_OPS_INLINE void Store(Vector v, Half* to) {
#ifdef __AVX512BF16__
  const __m256bh halves = _mm512_cvtneps_pbh((__m512)v);
#else
  const VectorBits bits = ToBits(v);
  const VectorBits rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const VectorBits kept = (bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : rounded;
  const VectorHalves halves = __builtin_convertvector(kept >> 16, VectorHalves);
#endif
  std::memcpy(to, &halves, sizeof halves);
}

// Calls f(zero, i): with a Vector for each whole one of [0, n), then with a float for each number of the rest.
template <typename F>
SMOOTH_OPS_INLINE void Over(int64_t n, F f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(Vector{}, i);
  for (; i < n; ++i) f(0.0f, i);
}

template <typename F, int... I>
SMOOTH_OPS_INLINE void RepeatEach(F f, std::integer_sequence<int, I...>) {
  (f(std::integral_constant<int, I>{}), ...);
}

// Calls f with the constants from 0 to n - 1, without a loop, so that arrays which they index can be registers.
template <int n, typename F>
SMOOTH_OPS_INLINE void Repeat(F f) { RepeatEach(f, std::make_integer_sequence<int, n>{}); }

// A sum of what Over gives, in an order that depends on the instruction set alone.
class Sum {
 public:
  SMOOTH_OPS_INLINE void Add(Vector v) { lanes_ += v; }
  SMOOTH_OPS_INLINE void Add(float v) { rest_ += v; }
  SMOOTH_OPS_INLINE float Total() const {
    Vector all = lanes_;
    for (int width = kLanes / 2; width > 0; width /= 2) {
      VectorBits from;
      for (int i = 0; i < kLanes; ++i) from[i] = (i + width) % kLanes;
      all += __builtin_shuffle(all, from);
    }
    return all[0] + rest_;
  }

 private:
  Vector lanes_ = {};
  float rest_ = 0.0f;
};

}  // namespace
}  // namespace smooth_ops

#endif  // SMOOTH_OPS_VECTORS_H_
