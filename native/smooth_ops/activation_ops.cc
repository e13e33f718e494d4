// The ops SmoothActivation and SmoothActivationGrad for CPUs: one pass over memory each, on TensorFlow's own threads.

#include <string>

#include "loop_op.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"

namespace smooth_ops {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
namespace errors = tensorflow::errors;
namespace shape_inference = tensorflow::shape_inference;

REGISTER_OP("SmoothActivation")
    .Input("x: T")
    .Output("y: T")
    .Attr("function: {" SMOOTH_OPS_QUOTED "}")
    .Attr("alpha: float = 1")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn(shape_inference::UnchangedShape)
    .Doc(R"doc(
An activation of every element.

alpha: Of 'softplus', log(1 + exp(alpha x)) / alpha, and 'celu', alpha (exp(x / alpha) - 1) below 0.
)doc");

REGISTER_OP("SmoothActivationGrad")
    .Input("dy: N * T")
    .Input("x: T")
    .Output("dx: T")
    .Attr("N: int >= 1")
    .Attr("function: {" SMOOTH_OPS_QUOTED "}")
    .Attr("alpha: float = 1")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn([](shape_inference::InferenceContext* context) {
      context->set_output(0, context->input(context->num_inputs() - 1));
      return tensorflow::OkStatus();
    })
    .Doc(R"doc(
The gradient of x where those of the activation's one or two uses are dy. See SmoothActivation.
)doc");

namespace {

const Loops<float>& LoopsOf(const Table& table, int function, float) { return table.of_float[function]; }
const Loops<Half>& LoopsOf(const Table& table, int function, Half) { return table.of_bfloat16[function]; }

constexpr int64_t kCycles = 4;  // of an element, about

template <typename T, typename Bits>
class ActivationOp : public LoopOp<T, Bits> {
 public:
  explicit ActivationOp(OpKernelConstruction* context) : LoopOp<T, Bits>(context) {
    std::string name;
    OP_REQUIRES_OK(context, context->GetAttr("function", &name));
    OP_REQUIRES_OK(context, context->GetAttr("alpha", &alpha_));
    OP_REQUIRES(context, alpha_ > 0, errors::InvalidArgument("alpha must be positive, not ", alpha_));
    int function = 0;
    while (function < kNumFunctions - 1 && name != kNames[function]) ++function;
    loops_ = LoopsOf(BestTable(), function, Bits{});
  }

 protected:
  Loops<Bits> loops_;
  float alpha_;
};

template <typename T, typename Bits>
class ValueOp : public ActivationOp<T, Bits> {
 public:
  using ActivationOp<T, Bits>::ActivationOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& input = context->input(0);
    Tensor* output;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, input.shape(), &output));
    const Bits* x = this->Data(input);
    Bits* y = this->Data(output);
    this->InParts(context, input.NumElements(), kCycles, [this, x, y](int64_t first, int64_t last) {
      this->loops_.value(x + first, y + first, last - first, this->alpha_);
    });
  }
};

template <typename T, typename Bits>
class GradientOp : public ActivationOp<T, Bits> {
 public:
  using ActivationOp<T, Bits>::ActivationOp;

  void Compute(OpKernelContext* context) override {
    const int uses = context->num_inputs() - 1;
    const Tensor& input = context->input(uses);
    OP_REQUIRES(context, uses <= 2, errors::InvalidArgument("gradients of ", uses, " uses; there may be 2"));
    for (int use = 0; use < uses; ++use) {
      OP_REQUIRES(context, context->input(use).shape() == input.shape(), errors::InvalidArgument(
          "dy has shape ", context->input(use).shape().DebugString(), ", x ", input.shape().DebugString()));
    }
    Tensor* output;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0, uses}, 0, input.shape(), &output));
    const Bits* dy = this->Data(context->input(0));
    const Bits* more = uses == 2 ? this->Data(context->input(1)) : nullptr;
    const Bits* x = this->Data(input);
    Bits* dx = this->Data(output);
    this->InParts(context, input.NumElements(), kCycles, [this, dy, more, x, dx](int64_t first, int64_t last) {
      this->loops_.gradient(dy + first, more == nullptr ? nullptr : more + first, x + first, dx + first, last - first,
                            this->alpha_);
    });
  }
};

#define REGISTER(T, Bits)                                                                                      \
  REGISTER_KERNEL_BUILDER(Name("SmoothActivation").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"),      \
                          ValueOp<T, Bits>);                                                                   \
  REGISTER_KERNEL_BUILDER(Name("SmoothActivationGrad").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"),  \
                          GradientOp<T, Bits>);
REGISTER(float, float)
REGISTER(tensorflow::bfloat16, Half)
#undef REGISTER

}  // namespace
}  // namespace smooth_ops
