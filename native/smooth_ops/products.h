// Convolutions of bfloat16 images as products of matrices, with what comes before and after them in the same pass. Where
// the processor multiplies pairs of bfloat16 numbers (avx512_bf16) they run near its limit; elsewhere they are right.

#ifndef SMOOTH_OPS_PRODUCTS_H_
#define SMOOTH_OPS_PRODUCTS_H_

#include "attention.h"
#include "vectors.h"

namespace smooth_ops {
namespace {

// Pixels and vectors of channels whose sums are in registers at the same time.
constexpr int kSumRows = 6, kSumVectors = kRegisters == 32 ? 4 : 1;

constexpr int64_t kNear = 128 << 10;  // numbers of weights that the second-level cache keeps beside the pixels

// Two neighbouring numbers of a pixel, in each lane, and those of a channel's weights that belong to them.
#ifdef __AVX512BF16__
using Pairs = __m512bh;

SMOOTH_OPS_INLINE Pairs LoadPairs(const Half* from) { return (Pairs)_mm512_loadu_si512(from); }
SMOOTH_OPS_INLINE Pairs SamePairs(const Half* from) {
  int pair;
  std::memcpy(&pair, from, sizeof pair);
  return (Pairs)_mm512_set1_epi32(pair);
}
SMOOTH_OPS_INLINE Vector AddPairs(Vector sum, Pairs a, Pairs b) { return (Vector)_mm512_dpbf16_ps((__m512)sum, a, b); }
#else
using Pairs = VectorBits;

SMOOTH_OPS_INLINE Pairs LoadPairs(const Half* from) {
  Pairs pairs;
  std::memcpy(&pairs, from, sizeof pairs);
  return pairs;
}
SMOOTH_OPS_INLINE Pairs SamePairs(const Half* from) {
  uint32_t pair;
  std::memcpy(&pair, from, sizeof pair);
  return VectorBits{} + pair;
}
SMOOTH_OPS_INLINE Vector AddPairs(Vector sum, Pairs a, Pairs b) {
  return sum + (Vector)(a << 16) * (Vector)(b << 16) + (Vector)(a & 0xffff0000) * (Vector)(b & 0xffff0000);
}
#endif

// Sums of kRows pixels, which ``taps`` tell the addresses of, and of kVectors of the ``width`` channels of a panel.
template <int kRows, int kVectors>
void Sums(const Half* const* taps, int64_t count, const Half* weights, int64_t width, int64_t pairs,
          const Tap* places, const float* bias, float* to) {
  Vector sums[kRows][kVectors];
  Repeat<kRows>([&](auto r) __attribute__((always_inline)) {
    Repeat<kVectors>([&](auto v) __attribute__((always_inline)) {
      sums[r][v] = bias == nullptr ? Vector{} : Load<Vector>(bias + v * kLanes);
    });
  });
  for (int64_t tap = 0; tap < count; ++tap, taps += kSumRows) {
    const Half* from[kRows];
    Repeat<kRows>([&](auto r) __attribute__((always_inline)) { from[r] = taps[r]; });
    const Half* here = weights + places[tap].number * pairs * 2 * width;
    for (int64_t k = 0; k < pairs; ++k, here += 2 * width) {
      Pairs right[kVectors];
      Repeat<kVectors>([&](auto v) __attribute__((always_inline)) { right[v] = LoadPairs(here + v * 2 * kLanes); });
      Repeat<kRows>([&](auto r) __attribute__((always_inline)) {
        const Pairs left = SamePairs(from[r] + 2 * k);
        Repeat<kVectors>([&](auto v) __attribute__((always_inline)) {
          sums[r][v] = AddPairs(sums[r][v], left, right[v]);
        });
      });
    }
  }
  Repeat<kRows>([&](auto r) __attribute__((always_inline)) {
    Repeat<kVectors>([&](auto v) __attribute__((always_inline)) { Store(sums[r][v], to + r * width + v * kLanes); });
  });
}

template <int kVectors>
SMOOTH_OPS_INLINE void SumsOf(int64_t rows, const Half* const* taps, int64_t count, const Half* weights, int64_t width,
                              int64_t pairs, const Tap* places, const float* bias, float* to) {
  Repeat<kSumRows>([&](auto r) __attribute__((always_inline)) {
    if (rows == r + 1) Sums<r + 1, kVectors>(taps, count, weights, width, pairs, places, bias, to);
  });
}

// One after the other ``width`` channels of ``rows`` pixels: of a whole panel, or of what is left in the last.
inline void PanelSums(int64_t rows, const Half* const* taps, int64_t count, const Half* weights, int64_t width,
                      int64_t pairs, const Tap* places, const float* bias, float* to) {
  for (int64_t j = 0; j < width;) {
    const int64_t vectors = (width - j) / kLanes;
    const float* const from = bias == nullptr ? nullptr : bias + j;
    if (vectors >= kSumVectors) {
      SumsOf<kSumVectors>(rows, taps, count, weights + 2 * j, width, pairs, places, from, to + j);
      j += kSumVectors * kLanes;
    } else if (kSumVectors > 3 && vectors == 3) {
      SumsOf<3>(rows, taps, count, weights + 2 * j, width, pairs, places, from, to + j);
      j += 3 * kLanes;
    } else if (kSumVectors > 2 && vectors == 2) {
      SumsOf<2>(rows, taps, count, weights + 2 * j, width, pairs, places, from, to + j);
      j += 2 * kLanes;
    } else {
      SumsOf<1>(rows, taps, count, weights + 2 * j, width, pairs, places, from, to + j);
      j += kLanes;
    }
  }
}

inline void AddTo(float* sums, const Half* more, int64_t n) {
  Over(n, [&](auto lanes, int64_t i) {
    using V = decltype(lanes);
    Store(Load<V>(sums + i) + Load<V>(more + i), sums + i);
  });
}

inline void Round(const float* from, Half* to, int64_t n) {
  Over(n, [&](auto lanes, int64_t i) { Store(Load<decltype(lanes)>(from + i), to + i); });
}

// What is done with sums of a few pixels, at ``places`` of the result, before they are forgotten.
inline void Finish(float* sums, int64_t rows, int64_t width, int64_t valid, const int64_t* places, const Around& around) {
  for (int64_t r = 0; r < rows; ++r, sums += width) {
    for (const Half* more : around.more) {
      if (more != nullptr) AddTo(sums, more + places[r], valid);
    }
    Half* const to = around.to + places[r];
    if (around.slope != nullptr) {
      around.slope(sums, nullptr, around.before + places[r], to, valid, around.alpha);
    } else {
      Round(sums, to, valid);
      if (around.value != nullptr) around.value(to, around.activated + places[r], valid, around.alpha);
    }
  }
}

// The pixels of a phase's grid, one after the other.
class Pixel {
 public:
  Pixel(const Phase& at, int64_t number)
      : at_(at), column_(number % at.columns), row_(number / at.columns % at.rows),
        image_(number / at.columns / at.rows) {}

  SMOOTH_OPS_INLINE int64_t Place() const {
    return ((image_ * at_.out_height + row_ * at_.up + at_.down) * at_.out_width + column_ * at_.up + at_.right) *
           at_.out_depth;
  }

  SMOOTH_OPS_INLINE const Half* Under(const Tap& tap, const Half* x) const {
    const int64_t h = row_ * at_.step + tap.row, w = column_ * at_.step + tap.column;
    const bool inside = h >= 0 && h < at_.height && w >= 0 && w < at_.width;
    return inside ? x + ((image_ * at_.height + h) * at_.width + w) * at_.depth : at_.zeros;
  }

  SMOOTH_OPS_INLINE void Next() {
    if (++column_ < at_.columns) return;
    column_ = 0;
    if (++row_ < at_.rows) return;
    row_ = 0;
    ++image_;
  }

 private:
  const Phase& at_;
  int64_t column_, row_, image_;
};

// Pixels [first, last) of the phase's grid and panels [panel, end).
void Product(const Phase& at, const Half* x, const Half* weights, const float* bias, const Around& around, int64_t first,
             int64_t last, int64_t panel, int64_t end) {
  const int64_t rows = last - first, tiles = (rows + kSumRows - 1) / kSumRows;
  // As many panels as stay in the second-level cache, so that a pixel's channels are written, and those of others that
  // belong to them read, one after the other; or one that goes through it for each few pixels.
  const int64_t numbers = at.count * at.depth * kPanel, together = numbers < kNear ? kNear / (numbers + 1) : 1;
  alignas(64) float sums[kSumRows * kPanel];
  const Half* from[kMostTaps * kSumRows];
  for (; panel < end; panel += together) {
    Pixel pixel(at, first);
    for (int64_t tile = 0, done = 0; tile < tiles; ++tile) {
      const int64_t n = rows * (tile + 1) / tiles - done;
      int64_t places[kSumRows];
      for (int64_t r = 0; r < n; ++r, pixel.Next()) {
        places[r] = pixel.Place() + panel * kPanel;
        for (int64_t t = 0; t < at.count; ++t) from[t * kSumRows + r] = pixel.Under(at.taps[t], x);
      }
      done += n;
      for (int64_t p = panel; p < panel + together && p < end; ++p) {
        const int64_t left = UpTo(at.out_depth, kFilled) - p * kPanel, width = left < kPanel ? left : kPanel;
        const int64_t valid = at.out_depth - p * kPanel < width ? at.out_depth - p * kPanel : width;
        PanelSums(n, from, at.count, weights + p * kPanel * at.all_taps * at.depth, width, at.depth / 2, at.taps,
                  bias == nullptr ? nullptr : bias + p * kPanel, sums);
        Finish(sums, n, width, valid, places, around);
        for (int64_t r = 0; r < n; ++r) places[r] += kPanel;
      }
    }
  }
}

// Numbers 2 ``k`` and 2 ``k`` + 1 of each of ``width`` channels beside each other; weights [in, out] times scale [out].
void PackRows(const float* weights, const float* scale, int64_t out, int64_t in, int64_t column, int64_t width, Half* to) {
  const int64_t valid = out - column < width ? out - column : width;
  for (int64_t k = 0; k < in; k += 2, to += 2 * width) {
    const float* const even = weights + k * out + column;
    for (int64_t j = 0; j < valid; ++j) {
      Assign(even[j] * scale[column + j], to + 2 * j);
      Assign(even[out + j] * scale[column + j], to + 2 * j + 1);
    }
    std::memset(to + 2 * valid, 0, 2 * (width - valid) * sizeof *to);
  }
}

// The same of the transposed weights: pairs of ``out``, ``width`` of the ``in`` from ``column`` on.
void PackColumns(const float* weights, const float* scale, int64_t out, int64_t in, int64_t column, int64_t width,
                 Half* to) {
  constexpr int64_t kPairs = kFilled;  // a multiple of kLanes
  const int64_t valid = in - column < width ? in - column : width;
  alignas(64) Half rows[kPanel * 2 * kPairs];
  alignas(64) float turned[kPairs * kPanel];
  std::memset(rows, 0, sizeof rows);
  for (int64_t k = 0; k < out; k += 2 * kPairs) {
    const int64_t n = out - k < 2 * kPairs ? out - k : 2 * kPairs;
    for (int64_t i = 0; i < valid; ++i) {
      const float* const row = weights + (column + i) * out + k;
      for (int64_t j = 0; j < n; ++j) Assign(row[j] * scale[k + j], rows + i * 2 * kPairs + j);
    }
    Transpose(reinterpret_cast<const float*>(rows), kPairs, turned, width);
    std::memcpy(to + k * width, turned, n * width * sizeof *to);
  }
}

}  // namespace
}  // namespace smooth_ops

#endif  // SMOOTH_OPS_PRODUCTS_H_
