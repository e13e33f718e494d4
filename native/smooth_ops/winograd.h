// Convolutions of float images by 3 x 3 weights, of stride 1 and with a zero around the image, in 4 of each 9
// multiplications: Winograd's F(2 x 2, 3 x 3) (Lavin and Gray 2016, Sec 4.1). A tile of 4 x 4 pixels gives 2 x 2 of the
// result; between them lie 16 products of matrices, of [tiles, depth] and [depth, out_depth] numbers.

#ifndef SMOOTH_OPS_WINOGRAD_H_
#define SMOOTH_OPS_WINOGRAD_H_

#include "vectors.h"

namespace smooth_ops {
namespace {

// Tiles and vectors of channels whose sums are in registers at the same time.
constexpr int kProductRows = 6, kProductVectors = kRegisters == 32 ? 4 : 2;
constexpr int64_t kTilePanel = kProductVectors * kLanes;  // channels of the result that are worked on together
constexpr int kPlaces = 16;  // of a tile

// Of one row or column of a tile, in place: B transposed times it.
SMOOTH_OPS_INLINE void SpreadFour(Vector& a, Vector& b, Vector& c, Vector& d) {
  const Vector first = a - c, second = b + c, third = c - b, fourth = b - d;
  a = first, b = second, c = third, d = fourth;
}

// Of one row or column of the weights: G times it.
SMOOTH_OPS_INLINE void SpreadThree(Vector a, Vector b, Vector c, Vector* to) {
  to[0] = a, to[1] = (a + b + c) * 0.5f, to[2] = (a - b + c) * 0.5f, to[3] = c;
}

// Rows [first, last) of the input's channels: weights [3, 3, depth, out_depth] into panels of kTilePanel channels, or what
// is left, each [kPlaces, depth, its channels].
void PackTiles(const float* weights, float* to, int64_t depth, int64_t out_depth, int64_t first, int64_t last) {
  for (int64_t panel = 0; panel < out_depth; panel += kTilePanel) {
    const int64_t width = out_depth - panel < kTilePanel ? out_depth - panel : kTilePanel;
    float* const start = to + panel * kPlaces * depth;
    for (int64_t c = first; c < last; ++c) {
      for (int64_t j = 0; j < width; j += kLanes) {
        Vector columns[3][4];
        for (int64_t k = 0; k < 3; ++k) {
          const float* const from = weights + (k * depth + c) * out_depth + panel + j;
          const int64_t row = 3 * depth * out_depth;
          SpreadThree(Load<Vector>(from), Load<Vector>(from + row), Load<Vector>(from + 2 * row), columns[k]);
        }
        for (int64_t i = 0; i < 4; ++i) {
          Vector places[4];
          SpreadThree(columns[0][i], columns[1][i], columns[2][i], places);
          for (int64_t k = 0; k < 4; ++k) Store(places[k], start + ((i * 4 + k) * depth + c) * width + j);
        }
      }
    }
  }
}

// The tiles of all images, one after the other.
struct PixelTile {
  PixelTile(const TiledImages& at, int64_t number)
      : column(2 * (number % at.Columns())), row(2 * (number / at.Columns() % at.Rows())),
        image(number / at.Columns() / at.Rows()) {}

  // Of the pixel (i, k) of the tile's 4 x 4, or zeros.
  SMOOTH_OPS_INLINE const float* Under(const TiledImages& at, const float* x, int64_t i, int64_t k) const {
    const int64_t h = row + i - 1, w = column + k - 1;
    const bool inside = h >= 0 && h < at.height && w >= 0 && w < at.width;
    return inside ? x + ((image * at.height + h) * at.width + w) * at.depth : at.zeros;
  }

  int64_t column, row, image;
};

// Into [kPlaces, kTiles, depth].
inline void SpreadTiles(const TiledImages& at, const float* x, int64_t first, int64_t n, float* to) {
  for (int64_t t = 0; t < n; ++t, to += at.depth) {
    const PixelTile tile(at, first + t);
    const float* from[kPlaces];
    for (int64_t p = 0; p < kPlaces; ++p) from[p] = tile.Under(at, x, p / 4, p % 4);
    for (int64_t c = 0; c < at.depth; c += kLanes) {
      Vector d[kPlaces];
      Repeat<kPlaces>([&](auto p) __attribute__((always_inline)) { d[p] = Load<Vector>(from[p] + c); });
      Repeat<4>([&](auto k) __attribute__((always_inline)) { SpreadFour(d[k], d[4 + k], d[8 + k], d[12 + k]); });
      Repeat<4>([&](auto i) __attribute__((always_inline)) {
        SpreadFour(d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]);
      });
      Repeat<kPlaces>([&](auto p) __attribute__((always_inline)) { Store(d[p], to + p * kTiles * at.depth + c); });
    }
  }
}

// Products of kRows tiles [.., depth] and kVectors of the ``width`` channels of a panel, into [.., kTilePanel].
template <int kRows, int kVectors>
void TileProducts(const float* tiles, const float* weights, int64_t depth, int64_t width, float* to) {
  Vector sums[kRows][kVectors];
  Repeat<kRows>([&](auto r) __attribute__((always_inline)) {
    Repeat<kVectors>([&](auto v) __attribute__((always_inline)) { sums[r][v] = Vector{}; });
  });
  for (int64_t k = 0; k < depth; ++k, weights += width) {
    Vector right[kVectors];
    Repeat<kVectors>([&](auto v) __attribute__((always_inline)) { right[v] = Load<Vector>(weights + v * kLanes); });
    Repeat<kRows>([&](auto r) __attribute__((always_inline)) {
      const Vector left = Vector{} + tiles[r * depth + k];
      Repeat<kVectors>([&](auto v) __attribute__((always_inline)) { sums[r][v] += left * right[v]; });
    });
  }
  Repeat<kRows>([&](auto r) __attribute__((always_inline)) {
    Repeat<kVectors>([&](auto v) __attribute__((always_inline)) { Store(sums[r][v], to + r * kTilePanel + v * kLanes); });
  });
}

template <int kVectors>
SMOOTH_OPS_INLINE void ColumnProducts(const float* tiles, int64_t n, const float* weights, int64_t depth, int64_t width,
                                      float* to) {
  int64_t t = 0;
  for (; t + kProductRows <= n; t += kProductRows) {
    TileProducts<kProductRows, kVectors>(tiles + t * depth, weights, depth, width, to + t * kTilePanel);
  }
  for (; t < n; ++t) TileProducts<1, kVectors>(tiles + t * depth, weights, depth, width, to + t * kTilePanel);
}

// Of one place of n tiles and one panel.
inline void PanelProducts(const float* tiles, int64_t n, const float* weights, int64_t depth, int64_t width, float* to) {
  int64_t j = 0;
  for (; j + kProductVectors * kLanes <= width; j += kProductVectors * kLanes) {
    ColumnProducts<kProductVectors>(tiles, n, weights + j, depth, width, to + j);
  }
  for (; j < width; j += kLanes) ColumnProducts<1>(tiles, n, weights + j, depth, width, to + j);
}

// From [kPlaces, kTiles, kTilePanel] into the ``width`` channels of the result from ``channel`` on.
inline void GatherTiles(const TiledImages& at, const float* from, int64_t first, int64_t n, int64_t channel,
                        int64_t width, float* y) {
  const int64_t row = at.width * at.out_depth;
  for (int64_t t = 0; t < n; ++t, from += kTilePanel) {
    const PixelTile tile(at, first + t);
    float* const to = y + ((tile.image * at.height + tile.row) * at.width + tile.column) * at.out_depth + channel;
    const bool right = tile.column + 1 < at.width, down = tile.row + 1 < at.height;
    for (int64_t j = 0; j < width; j += kLanes) {
      Vector upper[4], lower[4];
      Repeat<4>([&](auto k) __attribute__((always_inline)) {
        const float* const column = from + k * kTiles * kTilePanel + j;
        constexpr int64_t kDown = 4 * kTiles * kTilePanel;
        const Vector second = Load<Vector>(column + kDown), third = Load<Vector>(column + 2 * kDown);
        upper[k] = Load<Vector>(column) + (second + third);
        lower[k] = (second - third) - Load<Vector>(column + 3 * kDown);
      });
      const auto pair = [&](const Vector* v, float* place) __attribute__((always_inline)) {
        Store(v[0] + (v[1] + v[2]), place);
        if (right) Store((v[1] - v[2]) - v[3], place + at.out_depth);
      };
      pair(upper, to + j);
      if (down) pair(lower, to + row + j);
    }
  }
}

// Tiles [first, last) and panels [panel, end) of the convolution; ``room``: kTiles * kPlaces * (depth + kTilePanel) floats.
void ConvolveTiles(const TiledImages& at, const float* x, const float* weights, float* y, int64_t first, int64_t last,
                   int64_t panel, int64_t end, float* room) {
  float* const products = room + kTiles * kPlaces * at.depth;
  for (; first < last; first += kTiles) {
    const int64_t n = last - first < kTiles ? last - first : kTiles;
    SpreadTiles(at, x, first, n, room);
    for (int64_t p = panel; p < end; ++p) {
      const int64_t channel = p * kTilePanel, left = at.out_depth - channel, width = left < kTilePanel ? left : kTilePanel;
      for (int64_t place = 0; place < kPlaces; ++place) {
        PanelProducts(room + place * kTiles * at.depth, n, weights + (channel * kPlaces + place * width) * at.depth,
                      at.depth, width, products + place * kTiles * kTilePanel);
      }
      GatherTiles(at, products, first, n, channel, width, y);
    }
  }
}

}  // namespace
}  // namespace smooth_ops

#endif  // SMOOTH_OPS_WINOGRAD_H_
