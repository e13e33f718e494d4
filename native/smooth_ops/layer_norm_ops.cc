// Layer norm for CPUs over the last dimension, on TensorFlow's own threads, which share the rows: the ops SmoothLayerNorm,
// SmoothLayerNormGrad and SmoothLayerNormParametersGrad.

#include <algorithm>
#include <vector>

#include "shapes.h"
#include "token_op.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"

namespace smooth_ops {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;
namespace shape_inference = tensorflow::shape_inference;

REGISTER_OP("SmoothLayerNorm")
    .Input("x: T")
    .Input("affine: N * T")
    .Output("y: T")
    .Attr("N: int >= 0")
    .Attr("epsilon: float")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn(shape_inference::UnchangedShape)
    .Doc(R"doc(
x [...,C], each of its rows without its mean and by its standard deviation.

affine: Nothing, or a scale [C] and an offset [C] of the result.
epsilon: Added to the variance.
)doc");

REGISTER_OP("SmoothLayerNormGrad")
    .Input("dy: T")
    .Input("x: T")
    .Input("scale: N * T")
    .Output("dx: T")
    .Attr("N: int >= 0")
    .Attr("epsilon: float")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn(LikeSecondInput)
    .Doc(R"doc(
The gradient of x [...,C] where that of its layer norm is dy; ``scale`` is nothing or one tensor [C].
)doc");

REGISTER_OP("SmoothLayerNormParametersGrad")
    .Input("dy: T")
    .Input("x: T")
    .Output("scale: float")
    .Output("offset: float")
    .Attr("epsilon: float")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn([](shape_inference::InferenceContext* context) {
      shape_inference::ShapeHandle x;
      TF_RETURN_IF_ERROR(context->WithRankAtLeast(context->input(1), 1, &x));
      for (int output : {0, 1}) context->set_output(output, context->Vector(context->Dim(x, -1)));
      return tensorflow::OkStatus();
    })
    .Doc(R"doc(
The gradients of a layer norm's scale [C] and offset [C] where that of its result is dy. They are the same on any number
of threads.
)doc");

namespace {

template <typename T, typename Bits>
class LayerNormOp : public TokenOp<T, Bits> {
 public:
  explicit LayerNormOp(OpKernelConstruction* context) : TokenOp<T, Bits>(context) {
    OP_REQUIRES_OK(context, context->GetAttr("epsilon", &epsilon_));
    OP_REQUIRES(context, epsilon_ >= 0, errors::InvalidArgument("epsilon must not be negative, but is ", epsilon_));
  }

 protected:
  // Whether the inputs from number ``first`` on are ``wanted`` vectors of x's last dimension, or none; else it says so.
  static bool FitRows(OpKernelContext* context, const Tensor& x, int first, int wanted) {
    const int given = context->num_inputs() - first;
    if (x.dims() < 1) {
      context->CtxFailure(errors::InvalidArgument("x must be [...,C], not ", x.shape().DebugString()));
    } else if (given != 0 && given != wanted) {
      context->CtxFailure(errors::InvalidArgument(given, " parameters of a layer norm; of 0 or ", wanted));
    }
    for (int k = first; context->status().ok() && k < context->num_inputs(); ++k) {
      const TensorShape channels({x.dim_size(x.dims() - 1)});
      if (context->input(k).shape() != channels) {
        context->CtxFailure(errors::InvalidArgument("a scale or offset has shape ", context->input(k).shape().DebugString(),
                                                    ", x ", x.shape().DebugString()));
      }
    }
    return context->status().ok();
  }

  static bool SameShape(OpKernelContext* context) {
    const TensorShape& dy = context->input(0).shape();
    const TensorShape& x = context->input(1).shape();
    if (dy != x) context->CtxFailure(errors::InvalidArgument("dy has shape ", dy.DebugString(), ", x ", x.DebugString()));
    return dy == x;
  }

  Rows RowsOf(const Tensor& x) const {
    const int64_t depth = x.dim_size(x.dims() - 1);
    return {depth > 0 ? x.NumElements() / depth : 0, depth, epsilon_};
  }

  float epsilon_;
};

// Cycles that a row takes, about.
int64_t CyclesOf(const Rows& rows) { return 40 + rows.depth; }

template <typename T, typename Bits>
class ValueOp : public LayerNormOp<T, Bits> {
 public:
  using LayerNormOp<T, Bits>::LayerNormOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& input = context->input(0);
    if (!this->FitRows(context, input, 1, 2)) return;
    Tensor* output;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, input.shape(), &output));
    const bool affine = context->num_inputs() > 1;
    const std::vector<float> scale = affine ? this->Floats(context->input(1)) : std::vector<float>();
    const std::vector<float> offset = affine ? this->Floats(context->input(2)) : std::vector<float>();
    const Bits* x = this->Data(input);
    Bits* y = this->Data(output);
    const Rows rows = this->RowsOf(input);
    this->InParts(context, rows.count, CyclesOf(rows), [&](int64_t first, int64_t last) {
      const int64_t begin = first * rows.depth;
      this->loops_.layer_norm(x + begin, affine ? scale.data() : nullptr, affine ? offset.data() : nullptr, y + begin,
                              {last - first, rows.depth, rows.epsilon});
    });
  }
};

template <typename T, typename Bits>
class GradientOp : public LayerNormOp<T, Bits> {
 public:
  using LayerNormOp<T, Bits>::LayerNormOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& input = context->input(1);
    if (!this->SameShape(context) || !this->FitRows(context, input, 2, 1)) return;
    Tensor* output;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, input.shape(), &output));
    const bool scaled = context->num_inputs() > 2;
    const std::vector<float> scale = scaled ? this->Floats(context->input(2)) : std::vector<float>();
    const Bits* dy = this->Data(context->input(0));
    const Bits* x = this->Data(input);
    Bits* dx = this->Data(output);
    const Rows rows = this->RowsOf(input);
    this->InParts(context, rows.count, 2 * CyclesOf(rows), [&](int64_t first, int64_t last) {
      const int64_t begin = first * rows.depth;
      this->loops_.layer_norm_gradient(dy + begin, x + begin, scaled ? scale.data() : nullptr, dx + begin,
                                       {last - first, rows.depth, rows.epsilon});
    });
  }
};

template <typename T, typename Bits>
class ParametersGradientOp : public LayerNormOp<T, Bits> {
 public:
  using LayerNormOp<T, Bits>::LayerNormOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& input = context->input(1);
    if (!this->SameShape(context) || !this->FitRows(context, input, 2, 0)) return;
    const Rows rows = this->RowsOf(input);
    Tensor* outputs[2];
    for (int k : {0, 1}) OP_REQUIRES_OK(context, context->allocate_output(k, TensorShape({rows.depth}), &outputs[k]));
    // Parts of so many rows, by the rows alone, whose sums are then added in their order.
    const int64_t length = std::max<int64_t>(256, (rows.count + 63) / 64), parts = (rows.count + length - 1) / length;
    std::vector<float> sums(2 * parts * rows.depth);
    const Bits* dy = this->Data(context->input(0));
    const Bits* x = this->Data(input);
    this->InParts(context, parts, 2 * length * CyclesOf(rows), [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        const int64_t begin = part * length, count = std::min(length, rows.count - begin);
        float* const to = sums.data() + 2 * part * rows.depth;
        this->loops_.layer_norm_sums(dy + begin * rows.depth, x + begin * rows.depth, to, to + rows.depth,
                                     {count, rows.depth, rows.epsilon});
      }
    });
    for (int k : {0, 1}) {
      float* const total = outputs[k]->flat<float>().data();
      std::fill(total, total + rows.depth, 0.0f);
      for (int64_t part = 0; part < parts; ++part) {
        const float* const from = sums.data() + (2 * part + k) * rows.depth;
        for (int64_t c = 0; c < rows.depth; ++c) total[c] += from[c];
      }
    }
  }
};

#define REGISTER(NAME, OP, T, Bits) \
  REGISTER_KERNEL_BUILDER(Name(NAME).Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), OP<T, Bits>);
#define REGISTER_ALL(T, Bits)                   \
  REGISTER("SmoothLayerNorm", ValueOp, T, Bits) \
  REGISTER("SmoothLayerNormGrad", GradientOp, T, Bits) \
  REGISTER("SmoothLayerNormParametersGrad", ParametersGradientOp, T, Bits)
REGISTER_ALL(float, float)
REGISTER_ALL(tensorflow::bfloat16, Half)
#undef REGISTER_ALL
#undef REGISTER

}  // namespace
}  // namespace smooth_ops
