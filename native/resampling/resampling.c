// Resizing and warping of images, uint8 [height, width, 3], with the very values that Pillow gives them: antialiased in
// fixed point (its Resample.c), and bicubic at places of its own for each pixel (its Geometry.c).

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CHANNELS 3

// Compiled twice, for processors with and without AVX2; which one is chosen when the library is loaded.
#if defined(__x86_64__) && defined(__gnu_linux__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

static int Min(int a, int b) { return a < b ? a : b; }
static int Max(int a, int b) { return a > b ? a : b; }

// ---- resizing ----

// Pillow: weights in units of 2^-22, so that a sum of 8-bit values by them has 32 bits.
#define BITS 22
// Bytes that are summed up together.
#define LANES 48
#define TILE_ROWS (LANES / CHANNELS)

// Of which pixels along one side each new pixel is made: `begin` and `count` of them, by `weight + k * longest`.
typedef struct {
  int *begin, *count, longest;
  int32_t *weight;
} Taps;

// What a new pixel has of an old one at a distance, in old pixels or, where the side shrinks, in new ones; and from
// which distance on it is nothing. Pillow: Keys's cubic with a = -1/2, and the triangle.
typedef struct {
  double (*part)(double distance), reach;
} Kernel;

static double Cubic(double x) {
  const double a = -0.5;
  x = fabs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

static double Triangle(double x) { return fabs(x) < 1 ? 1 - fabs(x) : 0; }

// By the number that resampling_resize is given.
static const Kernel kKernels[] = {{Cubic, 2}, {Triangle, 1}};

static void FreeTaps(Taps *taps) {
  free(taps->begin);
  free(taps->count);
  free(taps->weight);
}

// Taps of the new pixels `first` to `first + number - 1` of a side that goes from `old_size` to `new_size` pixels. When
// it shrinks the kernel is wider by as much. Returns 1, or 0 where there is no memory; to be freed either way.
static int MakeTaps(const Kernel *kernel, int old_size, int new_size, int first, int number, Taps *taps) {
  const double scale = (double)old_size / new_size, wide = scale > 1 ? scale : 1, narrow = 1 / wide;
  const double reach = kernel->reach * wide;
  taps->longest = (int)ceil(reach) * 2 + 1;
  taps->begin = malloc(number * sizeof(int));
  taps->count = malloc(number * sizeof(int));
  taps->weight = malloc((size_t)number * taps->longest * sizeof(int32_t));
  double *exact = malloc(taps->longest * sizeof(double));
  const int ok = taps->begin && taps->count && taps->weight && exact;
  for (int k = 0; ok && k < number; ++k) {
    const double centre = (first + k + 0.5) * scale;
    const int begin = Max(0, (int)(centre - reach + 0.5)), count = Min(old_size, (int)(centre + reach + 0.5)) - begin;
    double sum = 0;
    for (int t = 0; t < count; ++t) sum += exact[t] = kernel->part((t + begin - centre + 0.5) * narrow);
    for (int t = 0; t < count; ++t) {
      const double weight = (sum != 0 ? exact[t] / sum : exact[t]) * (1 << BITS);
      taps->weight[(size_t)k * taps->longest + t] = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
    taps->begin[k] = begin;
    taps->count[k] = count;
  }
  free(exact);
  return ok;
}

// The sums of `count` lines of LANES bytes, `stride` apart, by their weights; rounded, and cut to 0-255.
FOR_EACH_PROCESSOR
static void Sum(const uint8_t *lines, size_t stride, const int32_t *weight, int count, uint8_t *out) {
  int32_t sum[LANES];
  for (int i = 0; i < LANES; ++i) sum[i] = 1 << (BITS - 1);
  for (int t = 0; t < count; ++t, lines += stride)
    for (int i = 0; i < LANES; ++i) sum[i] += lines[i] * weight[t];
  for (int i = 0; i < LANES; ++i) {
    const int32_t value = sum[i] >> BITS;
    out[i] = value < 0 ? 0 : value > 255 ? 255 : value;
  }
}

// Resizes rows along their width: `rows` of them, `row_bytes` apart, into lines of `out` that are `stride` apart. Tiles
// of rows are turned on their sides, so that the pixels of one column lie together, and are summed up together.
static void ResizeRows(const uint8_t *image, size_t row_bytes, int rows, int width, const Taps *taps, int new_width,
                       uint8_t *tile, uint8_t *out, size_t stride) {
  uint8_t column[LANES];
  for (int top = 0; top < rows; top += TILE_ROWS) {
    const int present = Min(TILE_ROWS, rows - top);
    for (int r = 0; r < present; ++r) {
      const uint8_t *from = image + (top + r) * row_bytes;
      for (int x = 0; x < width; ++x) memcpy(tile + (size_t)x * LANES + r * CHANNELS, from + x * CHANNELS, CHANNELS);
    }
    for (int k = 0; k < new_width; ++k) {
      const int32_t *weight = taps->weight + (size_t)k * taps->longest;
      Sum(tile + (size_t)taps->begin[k] * LANES, LANES, weight, taps->count[k], column);
      for (int r = 0; r < present; ++r)
        memcpy(out + (top + r) * stride + k * CHANNELS, column + r * CHANNELS, CHANNELS);
    }
  }
}

// Makes of lines the `new_height` rows of `out`; the first line is that of row `first` of the old image.
static void ResizeColumns(const uint8_t *lines, size_t stride, int first, const Taps *taps, int new_height,
                          size_t new_row_bytes, uint8_t *out) {
  uint8_t last[LANES];
  for (int k = 0; k < new_height; ++k) {
    const uint8_t *from = lines + (taps->begin[k] - first) * stride;
    const int32_t *weight = taps->weight + (size_t)k * taps->longest;
    uint8_t *row = out + k * new_row_bytes;
    size_t place = 0;
    for (; place + LANES <= new_row_bytes; place += LANES)
      Sum(from + place, stride, weight, taps->count[k], row + place);
    if (place < new_row_bytes) {
      Sum(from + place, stride, weight, taps->count[k], last);
      memcpy(row + place, last, new_row_bytes - place);
    }
  }
}

// Writes the window of `height` x `width` pixels at (top, left) of the image as it would be at `full_height` x
// `full_width`. All sizes are positive, and the window is inside. Returns 1, or 0 where there is no memory.
int resampling_resize(int kernel, const uint8_t *image, int old_height, int old_width, int full_height, int full_width,
                      int top, int left, int height, int width, uint8_t *out) {
  Taps across = {0}, down = {0};
  uint8_t *tile = NULL, *lines = NULL;
  int ok = MakeTaps(&kKernels[kernel], old_width, full_width, left, width, &across) &&
           MakeTaps(&kKernels[kernel], old_height, full_height, top, height, &down);
  if (ok) {
    const int first = down.begin[0], rows = down.begin[height - 1] + down.count[height - 1] - first;
    const size_t row_bytes = (size_t)old_width * CHANNELS, new_row_bytes = (size_t)width * CHANNELS;
    const size_t stride = (new_row_bytes + LANES - 1) / LANES * LANES;
    tile = calloc(old_width, LANES);
    lines = calloc(rows, stride);
    ok = tile && lines;
    if (ok) {
      ResizeRows(image + first * row_bytes, row_bytes, rows, old_width, &across, width, tile, lines, stride);
      ResizeColumns(lines, stride, first, &down, height, new_row_bytes, out);
    }
  }
  free(tile);
  free(lines);
  FreeTaps(&across);
  FreeTaps(&down);
  return ok;
}

// ---- warping ----

// Pillow: the cubic through v[1] and v[2], with a = -1, at `d` behind v[1].
static inline double Interpolate(double v0, double v1, double v2, double v3, double d) {
  const double linear = -v0 + v2, square = 2 * (v0 - v1) + v2 - v3, cube = -v0 + v1 - v2 + v3;
  return v1 + d * (linear + d * (square + d * cube));
}

static inline int Floor(double v) { return (int)floor(v); }

// Writes to each pixel (x, y) of `out` what the image has at m (x + 1/2, y + 1/2, 1), m [2, 3] row by row, where pixels
// have their centres at halves; black where that is outside the image. Values are truncated.
FOR_EACH_PROCESSOR
void resampling_warp(const uint8_t *image, int height, int width, const double *m, uint8_t *out) {
  const size_t row_bytes = (size_t)width * CHANNELS;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x, out += CHANNELS) {
      const double at_x = m[0] * (x + 0.5) + m[1] * (y + 0.5) + m[2];
      const double at_y = m[3] * (x + 0.5) + m[4] * (y + 0.5) + m[5];
      if (!(at_x >= 0 && at_x < width && at_y >= 0 && at_y < height)) {
        memset(out, 0, CHANNELS);
        continue;
      }
      const int column = Floor(at_x - 0.5), row = Floor(at_y - 0.5);
      const double across = at_x - 0.5 - column, down = at_y - 0.5 - row;
      size_t columns[4];
      double value[4][CHANNELS];
      for (int k = 0; k < 4; ++k) columns[k] = (size_t)Min(Max(column - 1 + k, 0), width - 1) * CHANNELS;
      // On a pixel's own row or column the others have no part; a shift or a shear is made of such places.
      const int first = down == 0 ? 1 : 0, last = down == 0 ? 1 : 3;
      for (int k = first; k <= last; ++k) {
        const uint8_t *from = image + Min(Max(row - 1 + k, 0), height - 1) * row_bytes;
        for (int c = 0; c < CHANNELS; ++c)
          value[k][c] = across == 0 ? from[columns[1] + c]
                                    : Interpolate(from[columns[0] + c], from[columns[1] + c], from[columns[2] + c],
                                                  from[columns[3] + c], across);
      }
      for (int c = 0; c < CHANNELS; ++c) {
        const double found = down == 0 ? value[1][c]
                                       : Interpolate(value[0][c], value[1][c], value[2][c], value[3][c], down);
        out[c] = found <= 0 ? 0 : found >= 255 ? 255 : (uint8_t)found;
      }
    }
  }
}
