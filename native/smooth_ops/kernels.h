// Loops over arrays, compiled once for each instruction set (kernels.cc) and chosen when the program runs.

#ifndef SMOOTH_OPS_KERNELS_H_
#define SMOOTH_OPS_KERNELS_H_

#include <cstdint>

namespace smooth_ops {

// All functions, once: FIRST(kind, name), then NEXT(kind, name) for each of the others. ``kind`` is the type of
// functions.h that computes it, ``name`` what the ops call it.
#define SMOOTH_OPS_FUNCTIONS(FIRST, NEXT) \
  FIRST(Relu, "relu")                     \
  NEXT(Silu, "silu")                      \
  NEXT(Softplus, "softplus")              \
  NEXT(Gelu, "gelu")                      \
  NEXT(GeluErf, "gelu_erf")               \
  NEXT(Celu, "celu")                      \
  NEXT(Mish, "mish")

#define SMOOTH_OPS_NAME(kind, name) name,
constexpr const char* kNames[] = {SMOOTH_OPS_FUNCTIONS(SMOOTH_OPS_NAME, SMOOTH_OPS_NAME)};
#undef SMOOTH_OPS_NAME

// Their names as the attribute of an op has them: 'relu', 'silu', ...
#define SMOOTH_OPS_FIRST_QUOTED(kind, name) "'" name "'"
#define SMOOTH_OPS_NEXT_QUOTED(kind, name) ", '" name "'"
#define SMOOTH_OPS_QUOTED SMOOTH_OPS_FUNCTIONS(SMOOTH_OPS_FIRST_QUOTED, SMOOTH_OPS_NEXT_QUOTED)

constexpr int kNumFunctions = sizeof kNames / sizeof *kNames;

// One function on arrays of n elements; ``y`` and ``dx`` may be the same array as an input.
template <typename T>
struct Loops {
  void (*value)(const T* x, T* y, int64_t n, float alpha);  // y = f(x)
  // dx = (dy + more) f'(x); ``more`` may be null.
  void (*gradient)(const T* dy, const T* more, const T* x, T* dx, int64_t n, float alpha);
};

// bfloat16 numbers, as their bits.
using Half = uint16_t;

// The same of bfloat16 numbers, where dy is not rounded yet.
using GradientOfSums = void (*)(const float* dy, const Half* more, const Half* x, Half* dx, int64_t n, float alpha);

// Square windows over an image [height, width, depth], with ``top`` rows and ``left`` columns of padding before it.
struct Windows {
  int64_t height, width, depth, out_height, out_width, kernel, stride, top, left;
};

// Bytes that the gradient of max-pooling works in.
inline int64_t PoolRoom(const Windows& at) {
  return (at.kernel * at.width + 3) * at.depth * static_cast<int64_t>(sizeof(float)) + at.depth;
}

// Of one image each.
template <typename T>
struct LayerLoops {
  // The gradient of x, [height, width, depth], for that of the pooled image.
  void (*max_pool_gradient)(const T* x, const T* dy, T* dx, const Windows& at, float* room);
  // The gradient of a depthwise convolution's input for that of its result; ``kernel`` is [kernel, kernel, depth].
  void (*depthwise_gradient)(const T* dy, const float* kernel, T* dx, const Windows& at);
  // The sums over pixels of x [pixels, depth], or of x * other where that is not null.
  void (*channel_sums)(const T* x, const T* other, float* sums, int64_t pixels, int64_t depth);
  // y = x * factor + offset, both [depth]; ``offset`` may be null.
  void (*channel_affine)(const T* x, const float* factor, const float* offset, T* y, int64_t pixels, int64_t depth);
  void (*widen)(const T* from, float* to, int64_t n);
};

// Rows of ``depth`` numbers, each of which is normalised; ``epsilon`` is added to its variance.
struct Rows {
  int64_t count, depth;
  float epsilon;
};

struct Image {
  int64_t height, width, depth;
};

// Attention over an image's tokens by ``heads`` of ``depth`` numbers.
struct Heads {
  int64_t tokens, heads, depth;
};

constexpr int kDepthwiseSide = 7;

// What ConvNeXt and ViT are made of beside products of matrices; see layer_norm.h, depthwise.h and attention.h.
template <typename T>
struct TokenLoops {
  // ``scale`` and ``offset``, [depth], are null together.
  void (*layer_norm)(const T* x, const float* scale, const float* offset, T* y, const Rows& at);
  void (*layer_norm_gradient)(const T* dy, const T* x, const float* scale, T* dx, const Rows& at);
  // Adds the gradients of scale and offset to them.
  void (*layer_norm_sums)(const T* dy, const T* x, float* scale, float* offset, const Rows& at);
  // Of channels [first, last) of one image; ``kernel`` is [7, 7, depth], ``bias`` may be null.
  void (*depthwise)(const T* x, const float* kernel, const float* bias, T* y, const Image& at, int64_t first,
                    int64_t last);
  // Of channels [first, last) the sums over images: [7, 7, depth], and [depth] of dy itself.
  void (*depthwise_kernel_gradient)(const T* x, const T* dy, float* sums, const Image& at, int64_t images,
                                    int64_t first, int64_t last);
  int64_t (*attention_room)(const Heads& at, bool gradient);
  void (*attention)(const T* qkv, T* y, const Heads& at, int64_t head, float* room);
  void (*attention_gradient)(const T* dy, const T* qkv, T* dqkv, const Heads& at, int64_t head, float* room);
};

// Images in rows of ``width`` numbers, which are whole pixels, and of each number of a row the batch's mean, the factor of
// what differs from it, and what is then added.
struct NormRows {
  int64_t width;
  const float *mean, *scale, *offset;
};

// A function of floats; both loops are null for none.
struct Activation {
  Loops<float> loops;
  float alpha;
};

// Batch norm in training; see batch_norm.h.
template <typename T>
struct NormLoops {
  // Adds x - shift, and its squares, to the sums [width].
  void (*moments)(const T* x, const float* shift, float* sums, float* squares, int64_t n, int64_t width);
  // y = activation(norm(x) + residual); ``residual`` may be null.
  void (*value)(const T* x, const T* residual, T* y, int64_t n, const NormRows& at, const Activation& activation);
  // The gradient of norm(x), where that of y is dy + more: put into ``slope`` if that is not null, and added to the sums
  // [width], as it is and times x - mean. ``more`` and ``residual`` may be null, ``slope`` the same array as another.
  void (*slope)(const T* dy, const T* more, const T* x, const T* residual, T* slope, float* sums, float* products,
                int64_t n, const NormRows& at, const Activation& activation);
  // dx = (slope - shift - factor (x - mean)) scale; it may be the same array as an input.
  void (*input)(const T* slope, const T* x, T* dx, int64_t n, const NormRows& at, const float* shift,
                const float* factor);
};

// Channels of a convolution's result that are worked on together, and a multiple of which the weights have, by zeros.
constexpr int64_t kPanel = 64, kFilled = 16;
constexpr int64_t kMostTaps = 49;

// One of a convolution's positions: its number among all, and where it reads, from a place of the input on.
struct Tap {
  int64_t number, row, column;
};

// Those pixels of a convolution's result, or of its input's gradient, that the same taps belong to: [rows, columns] of
// each image of [out_height, out_width, out_depth], every ``up``-th from (down, right) on. Pixel (r, c) of them reads
// (r step, c step), moved by each tap, of [height, width, depth], or ``zeros``, [depth], beside that.
struct Phase {
  int64_t height, width, depth, out_height, out_width, out_depth, rows, columns, up, down, right, step, all_taps;
  const Tap* taps;  // kMostTaps at most
  int64_t count;
  const Half* zeros;
};

// What is done with the sums of a convolution: ``more`` is added. Then they are ``to``, and ``value`` of that, if there is
// one, ``activated``; or they are multiplied by ``slope`` of ``before``. All like the result, or null.
struct Around {
  const Half* more[2];
  const Half* before;
  Half* to;
  Half* activated;
  void (*value)(const Half* x, Half* y, int64_t n, float alpha);
  GradientOfSums slope;
  float alpha;
};

// See products.h. Weights are in panels of kPanel channels of the result, each [taps, depth / 2, its channels, 2].
struct ProductLoops {
  void (*product)(const Phase& at, const Half* x, const Half* weights, const float* bias, const Around& around,
                  int64_t first, int64_t last, int64_t panel, int64_t end);
  // Of one panel and tap, whose ``width`` channels begin with number ``column``, from weights [in, out] times scale [out];
  // for the convolution, and for its gradient.
  void (*pack_rows)(const float* weights, const float* scale, int64_t out, int64_t in, int64_t column, int64_t width,
                    Half* to);
  void (*pack_columns)(const float* weights, const float* scale, int64_t out, int64_t in, int64_t column, int64_t width,
                       Half* to);
};

constexpr int64_t kTiles = 24;  // tiles of a convolution that are worked on together

// Images [height, width, depth] of a convolution by 3 x 3 weights, in tiles of 2 x 2 pixels of its result, which has
// ``out_depth`` channels. Channels are multiples of kFilled. ``zeros``: [depth], what is around the images.
struct TiledImages {
  int64_t Rows() const { return (height + 1) / 2; }
  int64_t Columns() const { return (width + 1) / 2; }

  int64_t height, width, depth, out_depth;
  const float* zeros;
};

// See winograd.h.
struct TileLoops {
  int64_t panel;  // channels of the result that are worked on together
  void (*pack)(const float* weights, float* to, int64_t depth, int64_t out_depth, int64_t first, int64_t last);
  void (*convolve)(const TiledImages& at, const float* x, const float* weights, float* y, int64_t first, int64_t last,
                   int64_t panel, int64_t end, float* room);
};

// The functions are in the order of SMOOTH_OPS_FUNCTIONS.
struct Table {
  Loops<float> of_float[kNumFunctions];
  Loops<Half> of_bfloat16[kNumFunctions];
  GradientOfSums of_sums[kNumFunctions];
  LayerLoops<float> layers_of_float;
  LayerLoops<Half> layers_of_bfloat16;
  TokenLoops<float> tokens_of_float;
  TokenLoops<Half> tokens_of_bfloat16;
  ProductLoops products;
  TileLoops tiles;
  NormLoops<float> norms_of_float;
  NormLoops<Half> norms_of_bfloat16;
};

// One for each object file of kernels.cc.
extern const Table kTableBase;
#ifdef __x86_64__
extern const Table kTableAvx2;
extern const Table kTableAvx512;
#ifdef HAS_AVX512BF16  // the compiler knows it
extern const Table kTableAvx512Bf16;
#endif
#endif

// The fastest loops that this machine runs, or those of another instruction set that the environment asks for.
const Table& BestTable();

}  // namespace smooth_ops

#endif  // SMOOTH_OPS_KERNELS_H_
