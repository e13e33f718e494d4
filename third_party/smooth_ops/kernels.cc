// Compiled with -DTABLE=<its name> and the flags of one instruction set; see Makefile.

#include "kernels.h"

#include <cstring>

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
void Gradient(const float* dy, const float* more, const float* x, float* dx, int64_t n, float alpha) {
  if (more != nullptr) {
    for (int64_t i = 0; i < n; ++i) dx[i] = (dy[i] + more[i]) * F::Slope(x[i], alpha);
  } else {
    for (int64_t i = 0; i < n; ++i) dx[i] = dy[i] * F::Slope(x[i], alpha);
  }
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
void GradientOfHalf(const Half* dy, const Half* more, const Half* x, Half* dx, int64_t n, float alpha) {
  float block[kBlock], block_dy[kBlock], block_more[kBlock];
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t m = n - i < kBlock ? n - i : kBlock;
    Widen(x + i, block, m);
    Widen(dy + i, block_dy, m);
    if (more != nullptr) Widen(more + i, block_more, m);
    Gradient<F>(block_dy, more != nullptr ? block_more : nullptr, block, block, m, alpha);
    Narrow(block, dx + i, m);
  }
}

// To[i] += from[i] where the window's largest element is its number ``position``.
void AddWhere(const uint8_t* winner, uint8_t position, const float* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += winner[i] == position ? from[i] : 0.0f;
}

void Beat(const float* x, uint8_t position, float* best, uint8_t* winner, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const bool beats = x[i] > best[i];  // the first of equals wins
    winner[i] = beats ? position : winner[i];
    best[i] = beats ? x[i] : best[i];
  }
}

const float* AsFloat(const float* from, float*, int64_t) { return from; }
const float* AsFloat(const Half* from, float* room, int64_t n) {
  Widen(from, room, n);
  return room;
}
void Put(const float* from, float* to, int64_t n) { std::memcpy(to, from, n * sizeof *from); }
void Put(const float* from, Half* to, int64_t n) { Narrow(from, to, n); }

// Rows of dx are summed in floats, each in its place of ``kernel`` rows' room, and put where they belong once no later
// window reaches them.
template <typename T>
void PoolGradient(const T* x, const T* dy, T* dx, const Pool& pool, float* room) {
  const int64_t depth = pool.depth, row = pool.width * depth;
  float* const sums = room;
  float* const best = sums + pool.kernel * row;
  float* const one = best + depth;
  float* const incoming = one + depth;
  uint8_t* const winner = reinterpret_cast<uint8_t*>(incoming + depth);
  std::memset(sums, 0, pool.kernel * row * sizeof *sums);
  int64_t done = 0;  // rows of dx that are in their place
  const auto finish = [&](int64_t end) {
    for (; done < end; ++done) {
      float* const sum = sums + done % pool.kernel * row;
      Put(sum, dx + done * row, row);
      std::memset(sum, 0, row * sizeof *sum);
    }
  };
  for (int64_t i = 0; i < pool.out_height; ++i) {
    const int64_t top = i * pool.stride - pool.top, bottom = top + pool.kernel;
    finish(top < 0 ? 0 : top);
    for (int64_t j = 0; j < pool.out_width; ++j) {
      const int64_t left = j * pool.stride - pool.left;
      bool first = true;
      for (int64_t h = top < 0 ? 0 : top; h < bottom && h < pool.height; ++h) {
        for (int64_t w = left < 0 ? 0 : left; w < left + pool.kernel && w < pool.width; ++w) {
          const float* const here = AsFloat(x + h * row + w * depth, one, depth);
          const uint8_t position = static_cast<uint8_t>((h - top) * pool.kernel + w - left);
          if (first) {
            std::memcpy(best, here, depth * sizeof *best);
            std::memset(winner, position, depth);
            first = false;
          } else {
            Beat(here, position, best, winner, depth);
          }
        }
      }
      const float* const gradient = AsFloat(dy + (i * pool.out_width + j) * depth, incoming, depth);
      for (int64_t h = top < 0 ? 0 : top; h < bottom && h < pool.height; ++h) {
        for (int64_t w = left < 0 ? 0 : left; w < left + pool.kernel && w < pool.width; ++w) {
          AddWhere(winner, static_cast<uint8_t>((h - top) * pool.kernel + w - left), gradient,
                   sums + h % pool.kernel * row + w * depth, depth);
        }
      }
    }
  }
  finish(pool.height);
}

template <typename F>
constexpr Loops<float> OfFloat() { return {Value<F>, Gradient<F>}; }
template <typename F>
constexpr Loops<Half> OfHalf() { return {ValueOfHalf<F>, GradientOfHalf<F>}; }

}  // namespace

const Table TABLE = {{OfFloat<Relu>(), OfFloat<Silu>(), OfFloat<Softplus>(), OfFloat<Gelu>(), OfFloat<GeluErf>(),
                      OfFloat<Celu>(), OfFloat<Mish>()},
                     {OfHalf<Relu>(), OfHalf<Silu>(), OfHalf<Softplus>(), OfHalf<Gelu>(), OfHalf<GeluErf>(),
                      OfHalf<Celu>(), OfHalf<Mish>()},
                     PoolGradient<float>,
                     PoolGradient<Half>};

}  // namespace smooth_ops
