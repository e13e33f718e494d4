// Attention of one head over the tokens of one image, and its gradient. The weights of a few tokens at a time are made,
// used and forgotten, so that all that is worked on stays in the caches; the gradient makes them anew.

#ifndef SMOOTH_OPS_ATTENTION_H_
#define SMOOTH_OPS_ATTENTION_H_

#include "functions.h"

namespace smooth_ops {
namespace {

// Products of matrices keep so many rows and vectors of columns of their result in registers.
constexpr int kTileRows = 6, kTileVectors = kRegisters == 32 ? 4 : 2;
constexpr int64_t kQueries = 8 * kTileRows;  // tokens whose weights are there at the same time

inline int64_t UpTo(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// Element (i, k) is at data[i * row + k * column].
struct Matrix {
  const float* data;
  int64_t row, column;
};

template <int kVectors>
SMOOTH_OPS_INLINE void Tile(const Matrix& a, const float* b, int64_t b_row, float* c, int64_t c_row, int64_t count,
                            bool add) {
  Vector sums[kTileRows][kVectors];
  Repeat<kTileRows>([&](auto r) __attribute__((always_inline)) {
    Repeat<kVectors>([&](auto v) __attribute__((always_inline)) {
      sums[r][v] = add ? Load<Vector>(c + r * c_row + v * kLanes) : Vector{};
    });
  });
  const float* left = a.data;
  for (int64_t k = 0; k < count; ++k, left += a.column, b += b_row) {
    Vector right[kVectors];
    Repeat<kVectors>([&](auto v) __attribute__((always_inline)) { right[v] = Load<Vector>(b + v * kLanes); });
    Repeat<kTileRows>([&](auto r) __attribute__((always_inline)) {
      const float factor = left[r * a.row];
      Repeat<kVectors>([&](auto v) __attribute__((always_inline)) { sums[r][v] += right[v] * factor; });
    });
  }
  Repeat<kTileRows>([&](auto r) __attribute__((always_inline)) {
    Repeat<kVectors>([&](auto v) __attribute__((always_inline)) { Store(sums[r][v], c + r * c_row + v * kLanes); });
  });
}

// c [rows, columns] = a b, or c += a b, over ``count`` terms; ``rows`` is a multiple of kTileRows, ``columns`` of kLanes.
void Multiply(Matrix a, const float* b, int64_t b_row, float* c, int64_t c_row, int64_t rows, int64_t columns,
              int64_t count, bool add) {
  for (int64_t j = 0; j < columns; j += kTileVectors * kLanes) {
    const int64_t vectors = (columns - j) / kLanes;
    for (int64_t i = 0; i < rows; i += kTileRows) {
      const Matrix here = {a.data + i * a.row, a.row, a.column};
      float* const to = c + i * c_row + j;
      if (vectors >= kTileVectors) {
        Tile<kTileVectors>(here, b + j, b_row, to, c_row, count, add);
      } else if (vectors == 3) {
        Tile<3>(here, b + j, b_row, to, c_row, count, add);
      } else if (vectors == 2) {
        Tile<2>(here, b + j, b_row, to, c_row, count, add);
      } else {
        Tile<1>(here, b + j, b_row, to, c_row, count, add);
      }
    }
  }
}

// A head's sizes with what fills up tiles and vectors: of [columns, depth], of whose rows ``tokens`` are worked on, and of
// [depth, columns], which is that turned round.
struct Filled {
  explicit Filled(const Heads& at)
      : depth(UpTo(at.depth, kLanes)), tokens(UpTo(at.tokens, kTileRows)), columns(UpTo(tokens, kLanes)) {}
  int64_t depth, tokens, columns;
};

inline float* Take(float** room, int64_t n) {
  float* const taken = *room;
  *room += n;
  return taken;
}

// [tokens, depth] of what is ``stride`` apart, as floats.
template <typename T>
void Gather(const T* from, int64_t stride, float* to, int64_t row, const Heads& at) {
  for (int64_t t = 0; t < at.tokens; ++t) {
    for (int64_t k = 0; k < at.depth; ++k) to[t * row + k] = ToFloat(from[t * stride + k]);
  }
}

template <typename T>
void Scatter(const float* from, int64_t row, T* to, int64_t stride, int64_t tokens, int64_t depth) {
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t k = 0; k < depth; ++k) Assign(from[t * row + k], to + t * stride + k);
  }
}

// Of whole vectors each way.
void Transpose(const float* from, int64_t row, float* to, int64_t to_row) {
  for (int64_t t = 0; t < to_row; t += kLanes) {
    for (int64_t k = 0; k < row; k += kLanes) {
      Vector lines[kLanes];
      Repeat<kLanes>([&](auto i) __attribute__((always_inline)) { lines[i] = Load<Vector>(from + (t + i) * row + k); });
      // One bit of the two numbers of a place after the other is exchanged.
      Repeat<8>([&](auto log) __attribute__((always_inline)) {
        constexpr int kStep = 1 << decltype(log)::value;
        Repeat<kLanes>([&](auto i) __attribute__((always_inline)) {
          if constexpr (kStep < kLanes && (decltype(i)::value & kStep) == 0) {
            VectorBits upper, lower;
            for (int lane = 0; lane < kLanes; ++lane) {
              upper[lane] = lane & kStep ? kLanes + lane - kStep : lane;
              lower[lane] = lane & kStep ? kLanes + lane : lane + kStep;
            }
            const Vector first = lines[i], second = lines[i + kStep];
            lines[i] = __builtin_shuffle(first, second, upper);
            lines[i + kStep] = __builtin_shuffle(first, second, lower);
          }
        });
      });
      Repeat<kLanes>([&](auto i) __attribute__((always_inline)) { Store(lines[i], to + (k + i) * to_row + t); });
    }
  }
}

// Each row becomes exp(row - its largest), and 0 behind ``n``. Returns by ``inverses`` 1 / the sums of the rows.
void Exponentials(float* scores, int64_t row, int64_t rows, int64_t n, float* inverses) {
  for (int64_t r = 0; r < rows; ++r, scores += row) {
    float most = scores[0];
    Vector most_of = Vector{} + most;
    Over(n, [&](auto lanes, int64_t i) {
      using V = decltype(lanes);
      const V v = Load<V>(scores + i);
      if constexpr (sizeof(V) == sizeof(float)) {
        most = v > most ? v : most;
      } else {
        most_of = v > most_of ? v : most_of;
      }
    });
    for (int i = 0; i < kLanes; ++i) most = most_of[i] > most ? most_of[i] : most;
    for (int64_t i = 0; i < row; ++i) scores[i] = Exp(scores[i] - most);
    for (int64_t i = n; i < row; ++i) scores[i] = 0.0f;
    Sum sum;
    Over(row, [&](auto lanes, int64_t i) { sum.Add(Load<decltype(lanes)>(scores + i)); });
    inverses[r] = 1.0f / sum.Total();
  }
}

// Numbers of the room that one head's attention, or its gradient, works in.
int64_t AttentionRoom(const Heads& at, bool gradient) {
  const Filled size(at);
  const int64_t matrix = size.columns * size.depth, weights = kQueries * size.columns;
  return gradient ? 6 * matrix + 2 * size.depth * size.columns + 2 * weights + kQueries * size.depth
                  : 2 * matrix + size.depth * size.columns + weights + kQueries * size.depth;
}

// ``qkv``: of one image [tokens, 3, heads, depth]; y: [tokens, heads, depth]. ``room``: AttentionRoom numbers,
// which are 0 at first: what fills up stays 0.
template <typename T>
void Attention(const T* qkv, T* y, const Heads& at, int64_t head, float* room) {
  const Filled size(at);
  const int64_t width = at.heads * at.depth, matrix = size.columns * size.depth;
  float* const q = Take(&room, matrix);
  float* const v = Take(&room, matrix);
  float* const keys = Take(&room, size.depth * size.columns);
  float* const weights = Take(&room, kQueries * size.columns);
  float* const out = Take(&room, kQueries * size.depth);
  qkv += head * at.depth, y += head * at.depth;
  Gather(qkv + width, 3 * width, v, size.depth, at);  // the keys, until they are turned round
  Transpose(v, size.depth, keys, size.columns);
  Gather(qkv, 3 * width, q, size.depth, at);
  Gather(qkv + 2 * width, 3 * width, v, size.depth, at);
  for (int64_t first = 0; first < at.tokens; first += kQueries) {
    const int64_t n = at.tokens - first < kQueries ? at.tokens - first : kQueries, rows = UpTo(n, kTileRows);
    float inverses[kQueries];
    Multiply({q + first * size.depth, size.depth, 1}, keys, size.columns, weights, size.columns, rows, size.columns,
             at.depth, false);
    Exponentials(weights, size.columns, rows, at.tokens, inverses);
    Multiply({weights, size.columns, 1}, v, size.depth, out, size.depth, rows, size.depth, at.tokens, false);
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t k = 0; k < at.depth; ++k) Assign(out[r * size.depth + k] * inverses[r], y + (first + r) * width + k);
    }
  }
}

// ``weights``: exponentials, which are divided by their sums. ``slopes``: the gradients of the weights, which become those
// of the scores.
void ScoreGradients(float* weights, float* slopes, int64_t row, int64_t rows, const float* inverses) {
  for (int64_t r = 0; r < rows; ++r, weights += row, slopes += row) {
    Sum sum;
    Over(row, [&](auto lanes, int64_t i) {
      using V = decltype(lanes);
      const V weight = Load<V>(weights + i) * inverses[r];
      Store(weight, weights + i);
      sum.Add(weight * Load<V>(slopes + i));
    });
    const float mean = sum.Total();
    for (int64_t i = 0; i < row; ++i) slopes[i] = weights[i] * (slopes[i] - mean);
  }
}

// dy like y, dqkv like qkv.
template <typename T>
void AttentionGradient(const T* dy, const T* qkv, T* dqkv, const Heads& at, int64_t head, float* room) {
  const Filled size(at);
  const int64_t width = at.heads * at.depth, matrix = size.columns * size.depth;
  float* const q = Take(&room, matrix);
  float* const k = Take(&room, matrix);
  float* const v = Take(&room, matrix);
  float* const gradient = Take(&room, matrix);
  float* const dk = Take(&room, matrix);
  float* const dv = Take(&room, matrix);
  float* const keys = Take(&room, size.depth * size.columns);
  float* const values = Take(&room, size.depth * size.columns);
  float* const weights = Take(&room, kQueries * size.columns);
  float* const slopes = Take(&room, kQueries * size.columns);
  float* const dq = Take(&room, kQueries * size.depth);
  qkv += head * at.depth, dqkv += head * at.depth, dy += head * at.depth;
  Gather(qkv, 3 * width, q, size.depth, at);
  Gather(qkv + width, 3 * width, k, size.depth, at);
  Gather(qkv + 2 * width, 3 * width, v, size.depth, at);
  Gather(dy, width, gradient, size.depth, at);
  Transpose(k, size.depth, keys, size.columns);
  Transpose(v, size.depth, values, size.columns);
  std::memset(dk, 0, matrix * sizeof *dk);
  std::memset(dv, 0, matrix * sizeof *dv);
  for (int64_t first = 0; first < at.tokens; first += kQueries) {
    const int64_t n = at.tokens - first < kQueries ? at.tokens - first : kQueries, rows = UpTo(n, kTileRows);
    const float* const q_here = q + first * size.depth;
    const float* const gradient_here = gradient + first * size.depth;
    float inverses[kQueries];
    Multiply({q_here, size.depth, 1}, keys, size.columns, weights, size.columns, rows, size.columns, at.depth, false);
    Exponentials(weights, size.columns, rows, at.tokens, inverses);
    Multiply({gradient_here, size.depth, 1}, values, size.columns, slopes, size.columns, rows, size.columns, at.depth,
             false);
    ScoreGradients(weights, slopes, size.columns, rows, inverses);
    // Of keys and values over all queries, n of which are here.
    Multiply({weights, 1, size.columns}, gradient_here, size.depth, dv, size.depth, size.tokens, size.depth, n, true);
    Multiply({slopes, 1, size.columns}, q_here, size.depth, dk, size.depth, size.tokens, size.depth, n, true);
    Multiply({slopes, size.columns, 1}, k, size.depth, dq, size.depth, rows, size.depth, at.tokens, false);
    Scatter(dq, size.depth, dqkv + first * 3 * width, 3 * width, n, at.depth);
  }
  Scatter(dk, size.depth, dqkv + width, 3 * width, at.tokens, at.depth);
  Scatter(dv, size.depth, dqkv + 2 * width, 3 * width, at.tokens, at.depth);
}

}  // namespace
}  // namespace smooth_ops

#endif  // SMOOTH_OPS_ATTENTION_H_
