// Compiled with -DTABLE=<its name> and the flags of one instruction set; see Makefile.

#include "kernels.h"

#include <cstring>

#include "attention.h"
#include "batch_norm.h"
#include "depthwise.h"
#include "functions.h"
#include "layer_norm.h"
#include "products.h"
#include "vectors.h"
#include "winograd.h"

namespace smooth_ops {
namespace {

constexpr int64_t kBlock = 512;  // channels; so many floats fit the first-level cache

template <typename T>
void Widen(const T* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = ToFloat(from[i]);
}

template <typename T>
void Narrow(const float* from, T* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) Assign(from[i], to + i);
}

template <typename F, typename T>
void Value(const T* x, T* y, int64_t n, float alpha) {
  Over(n, [&](auto lanes, int64_t i) { Store(F::Value(Load<decltype(lanes)>(x + i), alpha), y + i); });
}

template <typename F, typename D, typename T>
void Gradient(const D* dy, const T* more, const T* x, T* dx, int64_t n, float alpha) {
  Over(n, [&](auto lanes, int64_t i) {
    using V = decltype(lanes);
    V sum = Load<V>(dy + i);
    if (more != nullptr) sum += Load<V>(more + i);
    Store(sum * F::Slope(Load<V>(x + i), alpha), dx + i);
  });
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

// Rows of dx are summed in floats, each in its place of ``kernel`` rows' room, and put where they belong once no later
// window reaches them.
template <typename T>
void PoolGradient(const T* x, const T* dy, T* dx, const Windows& at, float* room) {
  const int64_t depth = at.depth, row = at.width * depth;
  float* const sums = room;
  float* const best = sums + at.kernel * row;
  float* const one = best + depth;
  float* const incoming = one + depth;
  uint8_t* const winner = reinterpret_cast<uint8_t*>(incoming + depth);
  std::memset(sums, 0, at.kernel * row * sizeof *sums);
  int64_t done = 0;  // rows of dx that are in their place
  const auto finish = [&](int64_t end) {
    for (; done < end; ++done) {
      float* const sum = sums + done % at.kernel * row;
      Narrow(sum, dx + done * row, row);
      std::memset(sum, 0, row * sizeof *sum);
    }
  };
  for (int64_t i = 0; i < at.out_height; ++i) {
    const int64_t top = i * at.stride - at.top, bottom = top + at.kernel;
    finish(top < 0 ? 0 : top);
    for (int64_t j = 0; j < at.out_width; ++j) {
      const int64_t left = j * at.stride - at.left;
      bool first = true;
      for (int64_t h = top < 0 ? 0 : top; h < bottom && h < at.height; ++h) {
        for (int64_t w = left < 0 ? 0 : left; w < left + at.kernel && w < at.width; ++w) {
          const float* const here = AsFloat(x + h * row + w * depth, one, depth);
          const uint8_t position = static_cast<uint8_t>((h - top) * at.kernel + w - left);
          if (first) {
            std::memcpy(best, here, depth * sizeof *best);
            std::memset(winner, position, depth);
            first = false;
          } else {
            Beat(here, position, best, winner, depth);
          }
        }
      }
      const float* const gradient = AsFloat(dy + (i * at.out_width + j) * depth, incoming, depth);
      for (int64_t h = top < 0 ? 0 : top; h < bottom && h < at.height; ++h) {
        for (int64_t w = left < 0 ? 0 : left; w < left + at.kernel && w < at.width; ++w) {
          AddWhere(winner, static_cast<uint8_t>((h - top) * at.kernel + w - left), gradient,
                   sums + h % at.kernel * row + w * depth, depth);
        }
      }
    }
  }
  finish(at.height);
}

// Sums[i] += x[i] * weights[i]. Called with a constant n it has no loop.
template <typename T>
inline void AddProducts(const T* x, const float* weights, float* sums, int64_t n) {
  for (int64_t i = 0; i < n; ++i) sums[i] += ToFloat(x[i]) * weights[i];
}

// Each pixel of dx gathers from the windows that it lies in.
template <typename T>
void DepthwiseGradient(const T* dy, const float* kernel, T* dx, const Windows& at) {
  constexpr int64_t kChannels = 64;
  for (int64_t h = 0; h < at.height; ++h) {
    for (int64_t w = 0; w < at.width; ++w) {
      for (int64_t c = 0; c < at.depth; c += kChannels) {
        const int64_t n = at.depth - c < kChannels ? at.depth - c : kChannels;
        float sums[kChannels] = {};
        for (int64_t i = 0; i < at.kernel; ++i) {
          const int64_t below = h + at.top - i, row = below / at.stride;
          if (below < 0 || below % at.stride || row >= at.out_height) continue;
          for (int64_t j = 0; j < at.kernel; ++j) {
            const int64_t right = w + at.left - j, column = right / at.stride;
            if (right < 0 || right % at.stride || column >= at.out_width) continue;
            const T* const from = dy + (row * at.out_width + column) * at.depth + c;
            const float* const weights = kernel + (i * at.kernel + j) * at.depth + c;
            if (n == kChannels) {
              AddProducts(from, weights, sums, kChannels);
            } else {
              AddProducts(from, weights, sums, n);
            }
          }
        }
        Narrow(sums, dx + (h * at.width + w) * at.depth + c, n);
      }
    }
  }
}

template <typename T>
void ChannelSums(const T* x, const T* other, float* sums, int64_t pixels, int64_t depth) {
  constexpr int64_t kPixels = 64;  // a sum of sums keeps more digits than one long sum
  for (int64_t c = 0; c < depth; c += kBlock) {
    const int64_t n = depth - c < kBlock ? depth - c : kBlock;
    std::memset(sums + c, 0, n * sizeof *sums);
    for (int64_t p = 0; p < pixels; p += kPixels) {
      float part[kBlock] = {};
      for (int64_t q = p; q < p + kPixels && q < pixels; ++q) {
        const T* const here = x + q * depth + c;
        if (other != nullptr) {
          const T* const there = other + q * depth + c;
          for (int64_t i = 0; i < n; ++i) part[i] += ToFloat(here[i]) * ToFloat(there[i]);
        } else {
          for (int64_t i = 0; i < n; ++i) part[i] += ToFloat(here[i]);
        }
      }
      for (int64_t i = 0; i < n; ++i) sums[c + i] += part[i];
    }
  }
}

template <typename T>
void ChannelAffine(const T* x, const float* factor, const float* offset, T* y, int64_t pixels, int64_t depth) {
  for (int64_t p = 0; p < pixels; ++p, x += depth, y += depth) {
    if (offset != nullptr) {
      for (int64_t i = 0; i < depth; ++i) Assign(ToFloat(x[i]) * factor[i] + offset[i], y + i);
    } else {
      for (int64_t i = 0; i < depth; ++i) Assign(ToFloat(x[i]) * factor[i], y + i);
    }
  }
}

template <typename F, typename T>
constexpr Loops<T> Of() { return {Value<F, T>, Gradient<F, T, T>}; }

template <typename T>
constexpr LayerLoops<T> OfLayers() {
  return {PoolGradient<T>, DepthwiseGradient<T>, ChannelSums<T>, ChannelAffine<T>, Widen<T>};
}

template <typename T>
constexpr TokenLoops<T> OfTokens() {
  return {LayerNorm<T>,     LayerNormGradient<T>, LayerNormSums<T>, DepthwiseConvolution<T>, DepthwiseKernelGradient<T>,
          AttentionRoom, Attention<T>,         AttentionGradient<T>};
}

template <typename T>
constexpr NormLoops<T> OfNorms() {
  return {NormMoments<T>, NormValue<T>, NormSlope<T>, NormInput<T>};
}

}  // namespace

#define OF_FLOAT(kind, name) Of<kind, float>(),
#define OF_HALF(kind, name) Of<kind, Half>(),
#define OF_SUMS(kind, name) Gradient<kind, float, Half>,
const Table TABLE = {{SMOOTH_OPS_FUNCTIONS(OF_FLOAT, OF_FLOAT)},
                     {SMOOTH_OPS_FUNCTIONS(OF_HALF, OF_HALF)},
                     {SMOOTH_OPS_FUNCTIONS(OF_SUMS, OF_SUMS)},
                     OfLayers<float>(),
                     OfLayers<Half>(),
                     OfTokens<float>(),
                     OfTokens<Half>(),
                     {Product, PackRows, PackColumns},
                     {kTilePanel, PackTiles, ConvolveTiles},
                     OfNorms<float>(),
                     OfNorms<Half>()};

}  // namespace smooth_ops
