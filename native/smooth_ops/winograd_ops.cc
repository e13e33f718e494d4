// Convolutions of float32 images [N,H,W,C] by 3 x 3 weights for CPUs, in 4 of each 9 multiplications, on TensorFlow's own
// threads, which share pixels and channels: the ops SmoothWinogradWeights and SmoothWinograd.

#include <algorithm>
#include <memory>
#include <vector>

#include "loop_op.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/platform/mem.h"

namespace smooth_ops {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;
namespace shape_inference = tensorflow::shape_inference;

REGISTER_OP("SmoothWinogradWeights")
    .Input("weights: float")
    .Output("packed: float")
    .SetShapeFn([](shape_inference::InferenceContext* context) {
      context->set_output(0, context->UnknownShapeOfRank(1));
      return tensorflow::OkStatus();
    })
    .Doc(R"doc(
The weights [3,3,I,O] of a convolution in the order in which SmoothWinograd reads them; I and O are multiples of 16.
)doc");

REGISTER_OP("SmoothWinograd")
    .Input("x: float")
    .Input("weights: float")
    .Output("y: float")
    .Attr("channels: int >= 1")
    .SetShapeFn([](shape_inference::InferenceContext* context) {
      shape_inference::ShapeHandle x;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &x));
      int64_t channels;
      TF_RETURN_IF_ERROR(context->GetAttr("channels", &channels));
      TF_RETURN_IF_ERROR(context->ReplaceDim(x, 3, context->MakeDim(channels), &x));
      context->set_output(0, x);
      return tensorflow::OkStatus();
    })
    .Doc(R"doc(
The convolution of x [N,H,W,I], with one zero at each side of it, by 3 x 3 weights, of stride 1: y [N,H,W,channels].
I and ``channels`` are multiples of 16.

weights: Of SmoothWinogradWeights.
)doc");

namespace {

constexpr int64_t kTaps = 9, kSpread = 16;  // numbers of a channel's weights, and of them in order

class PackTilesOp : public LoopOp<float, float> {
 public:
  using LoopOp::LoopOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& weights = context->input(0);
    const TensorShape& shape = weights.shape();
    OP_REQUIRES(context, shape.dims() == 4 && shape.dim_size(0) == 3 && shape.dim_size(1) == 3 &&
                             shape.dim_size(2) % kFilled == 0 && shape.dim_size(3) % kFilled == 0,
                errors::InvalidArgument("weights must be [3,3,I,O] of multiples of ", kFilled, " channels, not ",
                                        shape.DebugString()));
    const int64_t in = shape.dim_size(2), out = shape.dim_size(3);
    Tensor* packed;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({kSpread * in * out}), &packed));
    InParts(context, in, out * kTaps, [&](int64_t first, int64_t last) {
      BestTable().tiles.pack(Data(weights), Data(packed), in, out, first, last);
    });
  }
};

class WinogradOp : public LoopOp<float, float> {
 public:
  explicit WinogradOp(OpKernelConstruction* context) : LoopOp(context) {
    OP_REQUIRES_OK(context, context->GetAttr("channels", &channels_));
    OP_REQUIRES(context, channels_ % kFilled == 0, errors::InvalidArgument(channels_, " channels; must be a multiple of ",
                                                                          kFilled));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& input = context->input(0);
    const Tensor& weights = context->input(1);
    OP_REQUIRES(context, input.dims() == 4 && input.dim_size(3) % kFilled == 0, errors::InvalidArgument(
        "images must be [N,H,W,C] with C a multiple of ", kFilled, ", not ", input.shape().DebugString()));
    const int64_t depth = input.dim_size(3);
    OP_REQUIRES(context, weights.NumElements() == kSpread * depth * channels_, errors::InvalidArgument(
        "packed weights have ", weights.NumElements(), " numbers, not ", kSpread * depth * channels_));
    TensorShape shape = input.shape();
    shape.set_dim(3, channels_);
    Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &output));
    const std::vector<float> zeros(depth);
    const TiledImages at = {input.dim_size(1), input.dim_size(2), depth, channels_, zeros.data()};
    Run(context, at, input.dim_size(0) * at.Rows() * at.Columns(), Data(input), Data(weights), Data(output));
  }

 private:
  // Threads take whole blocks of tiles and all panels, or some where there are few blocks.
  void Run(OpKernelContext* context, const TiledImages& at, int64_t tiles, const float* x, const float* weights,
           float* y) const {
    if (tiles == 0) return;
    const TileLoops& loops = BestTable().tiles;
    const int64_t panels = (channels_ + loops.panel - 1) / loops.panel, blocks = (tiles + kTiles - 1) / kTiles;
    const int64_t threads = context->device()->tensorflow_cpu_worker_threads()->num_threads;
    const int64_t groups = threads == 1 ? 1 : std::min(panels, (4 * threads + blocks - 1) / blocks);
    const int64_t cycles = kTiles * kSpread * at.depth * channels_ / groups / 16 + 1;
    InParts(context, blocks * groups, cycles, [&](int64_t first, int64_t last) {
      const int64_t numbers = kTiles * kSpread * (at.depth + loops.panel);
      const std::unique_ptr<void, void (*)(void*)> room(
          tensorflow::port::AlignedMalloc(numbers * sizeof(float), kAligned), tensorflow::port::AlignedFree);
      for (int64_t k = first; k < last; ++k) {
        const int64_t block = k / groups, group = k % groups;
        loops.convolve(at, x, weights, y, block * kTiles, std::min(tiles, (block + 1) * kTiles), panels * group / groups,
                       panels * (group + 1) / groups, static_cast<float*>(room.get()));
      }
    });
  }

  static constexpr int kAligned = 64;
  int64_t channels_;
};

REGISTER_KERNEL_BUILDER(Name("SmoothWinogradWeights").Device(tensorflow::DEVICE_CPU), PackTilesOp);
REGISTER_KERNEL_BUILDER(Name("SmoothWinograd").Device(tensorflow::DEVICE_CPU), WinogradOp);

}  // namespace
}  // namespace smooth_ops
