// Parts of layers for CPUs, on images [N,H,W,C] and TensorFlow's own threads, which share the images of a batch: the ops
// SmoothMaxPoolGrad, SmoothDepthwiseGrad, SmoothChannelSums and SmoothChannelAffine.

#include <vector>

#include "loop_op.h"
#include "shapes.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/tensor_shape.h"

namespace smooth_ops {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;
namespace shape_inference = tensorflow::shape_inference;

REGISTER_OP("SmoothMaxPoolGrad")
    .Input("dy: T")
    .Input("x: T")
    .Output("dx: T")
    .Attr("kernel: int >= 1")
    .Attr("stride: int >= 1")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn(LikeSecondInput)
    .Doc(R"doc(
The gradient of x [N,H,W,C] where that of its max-pooling with SAME padding is dy; of equal elements the first has it all.
)doc");

REGISTER_OP("SmoothDepthwiseGrad")
    .Input("dy: T")
    .Input("kernel: T")
    .Input("size: int32")
    .Output("dx: T")
    .Attr("stride: int >= 1")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn([](shape_inference::InferenceContext* context) {
      shape_inference::ShapeHandle shape;
      TF_RETURN_IF_ERROR(context->MakeShapeFromShapeTensor(2, &shape));
      TF_RETURN_IF_ERROR(context->WithRank(shape, 4, &shape));
      context->set_output(0, shape);
      return tensorflow::OkStatus();
    })
    .Doc(R"doc(
The gradient of x, of shape ``size`` [N,H,W,C], where that of its depthwise convolution with SAME padding is dy; the
kernel is [k,k,C,1].
)doc");

REGISTER_OP("SmoothChannelSums")
    .Input("x: N * T")
    .Output("sums: float")
    .Attr("N: int >= 1")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn([](shape_inference::InferenceContext* context) {
      shape_inference::ShapeHandle x;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &x));
      context->set_output(0, context->MakeShape({context->Dim(x, 0), context->MakeDim(1), context->MakeDim(1),
                                                 context->Dim(x, 3)}));
      return tensorflow::OkStatus();
    })
    .Doc(R"doc(
The sums [N,1,1,C] over the pixels of x [N,H,W,C], or of the product of two such.
)doc");

REGISTER_OP("SmoothChannelAffine")
    .Input("x: T")
    .Input("factor: float")
    .Input("offset: N * float")
    .Output("y: T")
    .Attr("N: int >= 0")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn(shape_inference::UnchangedShape)
    .Doc(R"doc(
x * factor, or x * factor + offset, of x [N,H,W,C] and [N,1,1,C].
)doc");

namespace {

const LayerLoops<float>& LoopsOf(const Table& table, float) { return table.layers_of_float; }
const LayerLoops<Half>& LoopsOf(const Table& table, Half) { return table.layers_of_bfloat16; }

template <typename T, typename Bits>
class LayerOp : public LoopOp<T, Bits> {
 public:
  explicit LayerOp(OpKernelConstruction* context)
      : LoopOp<T, Bits>(context), loops_(LoopsOf(BestTable(), Bits{})) {}

 protected:
  const LayerLoops<Bits>& loops_;
};

// Windows of an input of this shape, with TensorFlow's SAME padding.
Windows WindowsOf(const TensorShape& shape, int64_t kernel, int64_t stride) {
  const auto count = [kernel, stride](int64_t side, int64_t* before) {
    const int64_t windows = (side + stride - 1) / stride;
    const int64_t padding = (windows - 1) * stride + kernel - side;
    *before = padding > 0 ? padding / 2 : 0;
    return windows;
  };
  Windows at;
  at.height = shape.dim_size(1), at.width = shape.dim_size(2), at.depth = shape.dim_size(3);
  at.kernel = kernel, at.stride = stride;
  at.out_height = count(at.height, &at.top), at.out_width = count(at.width, &at.left);
  return at;
}

TensorShape ResultOf(const Windows& at, int64_t images) {
  return TensorShape({images, at.out_height, at.out_width, at.depth});
}

template <typename T, typename Bits>
class PoolGradientOp : public LayerOp<T, Bits> {
 public:
  explicit PoolGradientOp(OpKernelConstruction* context) : LayerOp<T, Bits>(context) {
    OP_REQUIRES_OK(context, context->GetAttr("kernel", &kernel_));
    OP_REQUIRES_OK(context, context->GetAttr("stride", &stride_));
    OP_REQUIRES(context, kernel_ <= 15, errors::InvalidArgument("kernel ", kernel_, "; at most 15"));  // 8 bits of place
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& gradient = context->input(0);
    const Tensor& input = context->input(1);
    OP_REQUIRES(context, input.dims() == 4, errors::InvalidArgument("x must be [N,H,W,C], not ",
                                                                    input.shape().DebugString()));
    const Windows at = WindowsOf(input.shape(), kernel_, stride_);
    const TensorShape pooled = ResultOf(at, input.dim_size(0));
    OP_REQUIRES(context, gradient.shape() == pooled, errors::InvalidArgument(
        "dy has shape ", gradient.shape().DebugString(), ", not ", pooled.DebugString()));
    Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(0, input.shape(), &output));
    const Bits* x = this->Data(input);
    const Bits* dy = this->Data(gradient);
    Bits* dx = this->Data(output);
    const int64_t size = at.height * at.width * at.depth, pooled_size = at.out_height * at.out_width * at.depth;
    this->InParts(context, input.dim_size(0), size * 8, [&](int64_t first, int64_t last) {
      std::vector<float> room(PoolRoom(at) / sizeof(float) + 1);
      for (int64_t n = first; n < last; ++n) {
        this->loops_.max_pool_gradient(x + n * size, dy + n * pooled_size, dx + n * size, at, room.data());
      }
    });
  }

 private:
  int64_t kernel_, stride_;
};

template <typename T, typename Bits>
class DepthwiseGradientOp : public LayerOp<T, Bits> {
 public:
  explicit DepthwiseGradientOp(OpKernelConstruction* context) : LayerOp<T, Bits>(context) {
    OP_REQUIRES_OK(context, context->GetAttr("stride", &stride_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& gradient = context->input(0);
    const Tensor& kernel = context->input(1);
    TensorShape shape;
    OP_REQUIRES_OK(context, tensorflow::TensorShapeUtils::MakeShape(context->input(2).flat<int32_t>(), &shape));
    OP_REQUIRES(context, shape.dims() == 4, errors::InvalidArgument("size must be [N,H,W,C], not ",
                                                                    shape.DebugString()));
    const int64_t side = kernel.dims() == 4 ? kernel.dim_size(0) : 0;
    OP_REQUIRES(context, side > 0 && kernel.shape() == TensorShape({side, side, shape.dim_size(3), 1}),
                errors::InvalidArgument("kernel has shape ", kernel.shape().DebugString(), ", not [k,k,",
                                        shape.dim_size(3), ",1]"));
    const Windows at = WindowsOf(shape, side, stride_);
    const TensorShape convolved = ResultOf(at, shape.dim_size(0));
    OP_REQUIRES(context, gradient.shape() == convolved, errors::InvalidArgument(
        "dy has shape ", gradient.shape().DebugString(), ", not ", convolved.DebugString()));
    Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &output));
    std::vector<float> weights(kernel.NumElements());
    this->loops_.widen(this->Data(kernel), weights.data(), kernel.NumElements());
    const Bits* dy = this->Data(gradient);
    Bits* dx = this->Data(output);
    const int64_t size = at.height * at.width * at.depth, convolved_size = at.out_height * at.out_width * at.depth;
    this->InParts(context, shape.dim_size(0), convolved_size * side * side, [&](int64_t first, int64_t last) {
      for (int64_t n = first; n < last; ++n) {
        this->loops_.depthwise_gradient(dy + n * convolved_size, weights.data(), dx + n * size, at);
      }
    });
  }

 private:
  int64_t stride_;
};

template <typename T, typename Bits>
class ChannelSumsOp : public LayerOp<T, Bits> {
 public:
  using LayerOp<T, Bits>::LayerOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& input = context->input(0);
    OP_REQUIRES(context, context->num_inputs() <= 2, errors::InvalidArgument("a product of ", context->num_inputs(),
                                                                             " tensors; of 2 at most"));
    const Tensor* other = context->num_inputs() == 2 ? &context->input(1) : nullptr;
    OP_REQUIRES(context, input.dims() == 4, errors::InvalidArgument("x must be [N,H,W,C], not ",
                                                                    input.shape().DebugString()));
    OP_REQUIRES(context, other == nullptr || other->shape() == input.shape(), errors::InvalidArgument(
        "x has the shapes ", input.shape().DebugString(), " and ", other->shape().DebugString()));
    const int64_t images = input.dim_size(0), pixels = input.dim_size(1) * input.dim_size(2), depth = input.dim_size(3);
    Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({images, 1, 1, depth}), &output));
    const Bits* x = this->Data(input);
    const Bits* more = other == nullptr ? nullptr : this->Data(*other);
    float* sums = output->flat<float>().data();
    const int64_t size = pixels * depth;
    this->InParts(context, images, size, [&](int64_t first, int64_t last) {
      for (int64_t n = first; n < last; ++n) {
        this->loops_.channel_sums(x + n * size, more == nullptr ? nullptr : more + n * size, sums + n * depth, pixels,
                                  depth);
      }
    });
  }
};

template <typename T, typename Bits>
class ChannelAffineOp : public LayerOp<T, Bits> {
 public:
  using LayerOp<T, Bits>::LayerOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& input = context->input(0);
    OP_REQUIRES(context, input.dims() == 4, errors::InvalidArgument("x must be [N,H,W,C], not ",
                                                                    input.shape().DebugString()));
    OP_REQUIRES(context, context->num_inputs() <= 3, errors::InvalidArgument(context->num_inputs() - 2,
                                                                             " offsets; there may be one"));
    const int64_t images = input.dim_size(0), pixels = input.dim_size(1) * input.dim_size(2), depth = input.dim_size(3);
    for (int k = 1; k < context->num_inputs(); ++k) {
      OP_REQUIRES(context, context->input(k).shape() == TensorShape({images, 1, 1, depth}), errors::InvalidArgument(
          "a factor or offset has shape ", context->input(k).shape().DebugString(), ", x ",
          input.shape().DebugString()));
    }
    Tensor* output;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, input.shape(), &output));
    const Bits* x = this->Data(input);
    const float* factor = context->input(1).flat<float>().data();
    const float* offset = context->num_inputs() == 3 ? context->input(2).flat<float>().data() : nullptr;
    Bits* y = this->Data(output);
    const int64_t size = pixels * depth;
    this->InParts(context, images, size, [&](int64_t first, int64_t last) {
      for (int64_t n = first; n < last; ++n) {
        this->loops_.channel_affine(x + n * size, factor + n * depth, offset == nullptr ? nullptr : offset + n * depth,
                                    y + n * size, pixels, depth);
      }
    });
  }
};

#define REGISTER(NAME, OP, T, Bits) \
  REGISTER_KERNEL_BUILDER(Name(NAME).Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), OP<T, Bits>);
#define REGISTER_ALL(T, Bits)                                   \
  REGISTER("SmoothMaxPoolGrad", PoolGradientOp, T, Bits)        \
  REGISTER("SmoothDepthwiseGrad", DepthwiseGradientOp, T, Bits) \
  REGISTER("SmoothChannelSums", ChannelSumsOp, T, Bits)         \
  REGISTER("SmoothChannelAffine", ChannelAffineOp, T, Bits)
REGISTER_ALL(float, float)
REGISTER_ALL(tensorflow::bfloat16, Half)
#undef REGISTER_ALL
#undef REGISTER

}  // namespace
}  // namespace smooth_ops
