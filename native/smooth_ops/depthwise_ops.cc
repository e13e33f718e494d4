// The depthwise convolution with a kernel of 7x7 for CPUs, on images [N,H,W,C] and TensorFlow's own threads, which share
// images and channels: the ops SmoothDepthwise and SmoothDepthwiseKernelGrad.

#include <algorithm>
#include <vector>

#include "token_op.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/common_shape_fns.h"

namespace smooth_ops {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;
namespace shape_inference = tensorflow::shape_inference;

REGISTER_OP("SmoothDepthwise")
    .Input("x: T")
    .Input("kernel: T")
    .Input("bias: N * T")
    .Output("y: T")
    .Attr("N: int >= 0")
    .Attr("turned: bool = false")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn(shape_inference::UnchangedShape)
    .Doc(R"doc(
The depthwise convolution of x [N,H,W,C] by a kernel [7,7,C,1] with stride 1 and SAME padding.

bias: Nothing or one tensor [C].
turned: The kernel's rows and columns are in the opposite order, as for the gradient of x, which then is y.
)doc");

REGISTER_OP("SmoothDepthwiseKernelGrad")
    .Input("dy: T")
    .Input("x: T")
    .Output("kernel: float")
    .Output("bias: float")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn([](shape_inference::InferenceContext* context) {
      shape_inference::ShapeHandle x;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(1), 4, &x));
      context->set_output(0, context->MakeShape({context->MakeDim(kDepthwiseSide), context->MakeDim(kDepthwiseSide),
                                                 context->Dim(x, 3), context->MakeDim(1)}));
      context->set_output(1, context->Vector(context->Dim(x, 3)));
      return tensorflow::OkStatus();
    })
    .Doc(R"doc(
The gradients of the kernel [7,7,C,1] and the bias [C] of a depthwise convolution of x where that of its result is dy.
They are the same on any number of threads.
)doc");

namespace {

constexpr int64_t kPlaces = kDepthwiseSide * kDepthwiseSide;
constexpr int64_t kChannels = 16;  // that a thread takes at once: a line of the cache, in float32

// Groups of channels of an image.
int64_t GroupsOf(const Image& at) { return (at.depth + kChannels - 1) / kChannels; }

Image ImageOf(const TensorShape& shape) { return {shape.dim_size(1), shape.dim_size(2), shape.dim_size(3)}; }

int64_t CyclesOf(const Image& at) { return at.height * at.width * kPlaces; }

template <typename T, typename Bits>
class ConvolutionOp : public TokenOp<T, Bits> {
 public:
  explicit ConvolutionOp(OpKernelConstruction* context) : TokenOp<T, Bits>(context) {
    OP_REQUIRES_OK(context, context->GetAttr("turned", &turned_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& input = context->input(0);
    OP_REQUIRES(context, input.dims() == 4, errors::InvalidArgument("x must be [N,H,W,C], not ",
                                                                    input.shape().DebugString()));
    const Image at = ImageOf(input.shape());
    const TensorShape wanted({kDepthwiseSide, kDepthwiseSide, at.depth, 1});
    OP_REQUIRES(context, context->input(1).shape() == wanted, errors::InvalidArgument(
        "kernel has shape ", context->input(1).shape().DebugString(), ", not ", wanted.DebugString()));
    const bool biased = context->num_inputs() > 2;
    OP_REQUIRES(context, context->num_inputs() <= 3, errors::InvalidArgument(context->num_inputs() - 2,
                                                                             " biases; there may be one"));
    OP_REQUIRES(context, !biased || context->input(2).shape() == TensorShape({at.depth}), errors::InvalidArgument(
        "bias has shape ", context->input(2).shape().DebugString(), ", x ", input.shape().DebugString()));
    Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(0, input.shape(), &output));
    std::vector<float> kernel = this->Floats(context->input(1));
    if (turned_) Turn(kernel.data(), at.depth);
    const std::vector<float> bias = biased ? this->Floats(context->input(2)) : std::vector<float>();
    const Bits* x = this->Data(input);
    Bits* y = this->Data(output);
    const int64_t groups = GroupsOf(at), size = at.height * at.width * at.depth;
    this->InParts(context, input.dim_size(0) * groups, CyclesOf(at), [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        const int64_t begin = part / groups * size, channel = part % groups * kChannels;
        this->loops_.depthwise(x + begin, kernel.data(), biased ? bias.data() : nullptr, y + begin, at, channel,
                               std::min(channel + kChannels, at.depth));
      }
    });
  }

 private:
  static void Turn(float* kernel, int64_t depth) {
    for (int64_t k = 0; k < kPlaces / 2; ++k) {
      std::swap_ranges(kernel + k * depth, kernel + (k + 1) * depth, kernel + (kPlaces - 1 - k) * depth);
    }
  }

  bool turned_;
};

template <typename T, typename Bits>
class KernelGradientOp : public TokenOp<T, Bits> {
 public:
  using TokenOp<T, Bits>::TokenOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& gradient = context->input(0);
    const Tensor& input = context->input(1);
    OP_REQUIRES(context, input.dims() == 4, errors::InvalidArgument("x must be [N,H,W,C], not ",
                                                                    input.shape().DebugString()));
    OP_REQUIRES(context, gradient.shape() == input.shape(), errors::InvalidArgument(
        "dy has shape ", gradient.shape().DebugString(), ", x ", input.shape().DebugString()));
    const Image at = ImageOf(input.shape());
    Tensor *kernel, *bias;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({kDepthwiseSide, kDepthwiseSide, at.depth, 1}),
                                                     &kernel));
    OP_REQUIRES_OK(context, context->allocate_output(1, TensorShape({at.depth}), &bias));
    // Parts of so many images, by the batch alone, whose sums are then added in their order.
    const int64_t images = input.dim_size(0), length = std::max<int64_t>(1, (images + 15) / 16);
    const int64_t parts = (images + length - 1) / length, groups = GroupsOf(at);
    const int64_t size = at.height * at.width * at.depth, all = (kPlaces + 1) * at.depth;
    std::vector<float> sums(parts * all);
    const Bits* dy = this->Data(gradient);
    const Bits* x = this->Data(input);
    this->InParts(context, parts * groups, length * CyclesOf(at), [&](int64_t first, int64_t last) {
      for (int64_t k = first; k < last; ++k) {
        const int64_t part = k / groups, channel = k % groups * kChannels, begin = part * length;
        this->loops_.depthwise_kernel_gradient(x + begin * size, dy + begin * size, sums.data() + part * all, at,
                                               std::min(length, images - begin), channel,
                                               std::min(channel + kChannels, at.depth));
      }
    });
    std::vector<float> total(all);
    for (int64_t part = 0; part < parts; ++part) {
      for (int64_t k = 0; k < all; ++k) total[k] += sums[part * all + k];
    }
    std::copy(total.begin(), total.end() - at.depth, kernel->flat<float>().data());
    std::copy(total.end() - at.depth, total.end(), bias->flat<float>().data());
  }
};

#define REGISTER(NAME, OP, T, Bits) \
  REGISTER_KERNEL_BUILDER(Name(NAME).Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), OP<T, Bits>);
#define REGISTER_ALL(T, Bits)                         \
  REGISTER("SmoothDepthwise", ConvolutionOp, T, Bits) \
  REGISTER("SmoothDepthwiseKernelGrad", KernelGradientOp, T, Bits)
REGISTER_ALL(float, float)
REGISTER_ALL(tensorflow::bfloat16, Half)
#undef REGISTER_ALL
#undef REGISTER

}  // namespace
}  // namespace smooth_ops
