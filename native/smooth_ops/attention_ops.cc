// Attention for CPUs, on TensorFlow's own threads, which share images and heads: the ops SmoothAttention and
// SmoothAttentionGrad.

#include <vector>

#include "shapes.h"
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

REGISTER_OP("SmoothAttention")
    .Input("qkv: T")
    .Output("y: T")
    .Attr("heads: int >= 1")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn([](shape_inference::InferenceContext* context) {
      shape_inference::ShapeHandle qkv;
      shape_inference::DimensionHandle width;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 3, &qkv));
      TF_RETURN_IF_ERROR(context->Divide(context->Dim(qkv, 2), 3, true, &width));
      context->set_output(0, context->MakeShape({context->Dim(qkv, 0), context->Dim(qkv, 1), width}));
      return tensorflow::OkStatus();
    })
    .Doc(R"doc(
Attention by heads of d numbers: softmax(q k') v.

qkv: [N,tokens,3 * heads * d], for each token the queries of all heads, scaled already, then the keys, then the values.
y: [N,tokens,heads * d].
)doc");

REGISTER_OP("SmoothAttentionGrad")
    .Input("dy: T")
    .Input("qkv: T")
    .Output("dqkv: T")
    .Attr("heads: int >= 1")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn(LikeSecondInput)
    .Doc(R"doc(
The gradient of qkv where that of SmoothAttention's result is dy.
)doc");

namespace {

template <typename T, typename Bits>
class HeadsOp : public TokenOp<T, Bits> {
 public:
  explicit HeadsOp(OpKernelConstruction* context) : TokenOp<T, Bits>(context) {
    OP_REQUIRES_OK(context, context->GetAttr("heads", &heads_));
  }

 protected:
  bool Fits(OpKernelContext* context, const Tensor& qkv) const {
    const bool fits = qkv.dims() == 3 && qkv.dim_size(2) % (3 * heads_) == 0;
    if (!fits) {
      context->CtxFailure(errors::InvalidArgument("qkv must be [N,tokens,3 * ", heads_, " * d], not ",
                                                  qkv.shape().DebugString()));
    }
    return fits;
  }

  Heads HeadsOf(const Tensor& qkv) const {
    return {qkv.dim_size(1), heads_, qkv.dim_size(2) / (3 * heads_)};
  }

  static TensorShape ResultOf(const Tensor& qkv) {
    return TensorShape({qkv.dim_size(0), qkv.dim_size(1), qkv.dim_size(2) / 3});
  }

  // Calls work(image, head, room) for all.
  template <typename Work>
  void ForEach(OpKernelContext* context, const Tensor& qkv, bool gradient, const Work& work) const {
    if (qkv.NumElements() == 0) return;
    const Heads at = HeadsOf(qkv);
    const int64_t products = gradient ? 5 : 2;
    this->InParts(context, qkv.dim_size(0) * heads_, products * at.tokens * at.tokens * at.depth / 16,
                  [&](int64_t first, int64_t last) {
      std::vector<float> room(this->loops_.attention_room(at, gradient));
      for (int64_t k = first; k < last; ++k) work(k / heads_, k % heads_, room.data());
    });
  }

  int64_t heads_;
};

template <typename T, typename Bits>
class ValueOp : public HeadsOp<T, Bits> {
 public:
  using HeadsOp<T, Bits>::HeadsOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& input = context->input(0);
    if (!this->Fits(context, input)) return;
    Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(0, this->ResultOf(input), &output));
    const Bits* qkv = this->Data(input);
    Bits* y = this->Data(output);
    const Heads at = this->HeadsOf(input);
    const int64_t size = at.tokens * at.heads * at.depth;
    this->ForEach(context, input, false, [&](int64_t n, int64_t head, float* room) {
      this->loops_.attention(qkv + 3 * n * size, y + n * size, at, head, room);
    });
  }
};

template <typename T, typename Bits>
class GradientOp : public HeadsOp<T, Bits> {
 public:
  using HeadsOp<T, Bits>::HeadsOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& gradient = context->input(0);
    const Tensor& input = context->input(1);
    if (!this->Fits(context, input)) return;
    OP_REQUIRES(context, gradient.shape() == this->ResultOf(input), errors::InvalidArgument(
        "dy has shape ", gradient.shape().DebugString(), ", not ", this->ResultOf(input).DebugString()));
    Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(0, input.shape(), &output));
    const Bits* dy = this->Data(gradient);
    const Bits* qkv = this->Data(input);
    Bits* dqkv = this->Data(output);
    const Heads at = this->HeadsOf(input);
    const int64_t size = at.tokens * at.heads * at.depth;
    this->ForEach(context, input, true, [&](int64_t n, int64_t head, float* room) {
      this->loops_.attention_gradient(dy + n * size, qkv + 3 * n * size, dqkv + 3 * n * size, at, head, room);
    });
  }
};

#define REGISTER(NAME, OP, T, Bits) \
  REGISTER_KERNEL_BUILDER(Name(NAME).Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), OP<T, Bits>);
#define REGISTER_ALL(T, Bits)                   \
  REGISTER("SmoothAttention", ValueOp, T, Bits) \
  REGISTER("SmoothAttentionGrad", GradientOp, T, Bits)
REGISTER_ALL(float, float)
REGISTER_ALL(tensorflow::bfloat16, Half)
#undef REGISTER_ALL
#undef REGISTER

}  // namespace
}  // namespace smooth_ops
