// Compiled with -DTABLE=<its name> and the flags of one instruction set; see Makefile.

#include "kernels.h"

#include "functions.h"

namespace smooth_ops {
namespace {

constexpr int64_t kBlock = 512;  // elements; a few blocks of floats fit the first-level cache

void Widen(const Half* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = FromBits(uint32_t{from[i]} << 16);
}

// To the nearest bfloat16, to the even one of two.
void Narrow(const float* from, Half* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = ToBits(from[i]);
    const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
    const uint32_t nan = bits | 0x400000;
    to[i] = static_cast<Half>(((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded) >> 16);
  }
}

template <typename F>
void Value(const float* x, float* y, int64_t n, float alpha) {
  for (int64_t i = 0; i < n; ++i) y[i] = F::Value(x[i], alpha);
}

template <typename F>
void Gradient(const float* dy, const float* x, float* dx, int64_t n, float alpha) {
  for (int64_t i = 0; i < n; ++i) dx[i] = dy[i] * F::Slope(x[i], alpha);
}

template <typename F>
void ValueOfHalf(const Half* x, Half* y, int64_t n, float alpha) {
  float block[kBlock];
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t m = n - i < kBlock ? n - i : kBlock;
    Widen(x + i, block, m);
    Value<F>(block, block, m, alpha);
    Narrow(block, y + i, m);
  }
}

template <typename F>
void GradientOfHalf(const Half* dy, const Half* x, Half* dx, int64_t n, float alpha) {
  float block[kBlock], block_dy[kBlock];
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t m = n - i < kBlock ? n - i : kBlock;
    Widen(x + i, block, m);
    Widen(dy + i, block_dy, m);
    Gradient<F>(block_dy, block, block, m, alpha);
    Narrow(block, dx + i, m);
  }
}

template <typename F>
constexpr Loops<float> OfFloat() { return {Value<F>, Gradient<F>}; }
template <typename F>
constexpr Loops<Half> OfHalf() { return {ValueOfHalf<F>, GradientOfHalf<F>}; }

}  // namespace

const Table TABLE = {
    {OfFloat<Relu>(), OfFloat<Silu>(), OfFloat<Softplus>(), OfFloat<Gelu>(), OfFloat<GeluErf>(), OfFloat<Celu>(),
     OfFloat<Mish>()},
    {OfHalf<Relu>(), OfHalf<Silu>(), OfHalf<Softplus>(), OfHalf<Gelu>(), OfHalf<GeluErf>(), OfHalf<Celu>(),
     OfHalf<Mish>()}};

}  // namespace smooth_ops
