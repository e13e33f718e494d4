// The step of an optimizer for CPUs, on TensorFlow's own threads: the op SmoothMomentum.

#include <mutex>

#include "loop_op.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace smooth_ops {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::Var;
namespace errors = tensorflow::errors;
namespace shape_inference = tensorflow::shape_inference;

REGISTER_OP("SmoothMomentum")
    .Input("var: resource")
    .Input("accum: resource")
    .Input("grad: float")
    .Input("rate: float")
    .Attr("momentum: float")
    .Attr("decay: float")
    .SetIsStateful()
    .SetShapeFn(shape_inference::NoOutputs)
    .Doc(R"doc(
A step of Nesterov's momentum, as by TensorFlow's ResourceApplyMomentum, of the gradient grad + decay * var.
)doc");

namespace {

class MomentumOp : public LoopOp<float, float> {
 public:
  explicit MomentumOp(OpKernelConstruction* context) : LoopOp<float, float>(context) {
    OP_REQUIRES_OK(context, context->GetAttr("momentum", &momentum_));
    OP_REQUIRES_OK(context, context->GetAttr("decay", &decay_));
  }

  void Compute(OpKernelContext* context) override {
    tensorflow::core::RefCountPtr<Var> var, accum;
    OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, 0), &var));
    OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, 1), &accum));
    OP_REQUIRES(context, var.get() != accum.get(), errors::InvalidArgument("var and accum are one variable"));
    std::scoped_lock lock(*var->mu(), *accum->mu());
    const Tensor& gradient = context->input(2);
    const Tensor& rate = context->input(3);
    OP_REQUIRES(context, rate.NumElements() == 1, errors::InvalidArgument("rate has shape ",
                                                                        rate.shape().DebugString()));
    for (Var* v : {var.get(), accum.get()}) {
      OP_REQUIRES(context, v->is_initialized && v->tensor()->dtype() == tensorflow::DT_FLOAT,
                  errors::FailedPrecondition("a variable of floats is wanted, and has a value"));
    }
    OP_REQUIRES(context, var->tensor()->shape() == gradient.shape() && accum->tensor()->shape() == gradient.shape(),
                errors::InvalidArgument("var, accum and grad have the shapes ", var->tensor()->shape().DebugString(),
                                        ", ", accum->tensor()->shape().DebugString(), " and ",
                                        gradient.shape().DebugString()));
    // Where somebody still reads the old values the new ones are elsewhere.
    const float* const old_weights = Data(*var->tensor());
    const float* const old_sums = Data(*accum->tensor());
    Tensor old_var = *var->tensor(), old_accum = *accum->tensor();
    OP_REQUIRES_OK(context, Renew(context, &old_var, var->tensor()));
    OP_REQUIRES_OK(context, Renew(context, &old_accum, accum->tensor()));
    float* const weights = Data(var->tensor());
    float* const sums = Data(accum->tensor());
    const float* const grad = Data(gradient);
    const float step = *Data(rate), momentum = momentum_, decay = decay_;
    InParts(context, gradient.NumElements(), 4, [=](int64_t first, int64_t last) {
      Step(grad + first, old_weights + first, old_sums + first, weights + first, sums + first, last - first, step,
           momentum, decay);
    });
  }

 private:
  // Each product is rounded before it is added, as TensorFlow's are.
  __attribute__((optimize("fp-contract=off"))) static void Step(
      const float* grad, const float* old_weights, const float* old_sums, float* weights, float* sums, int64_t n,
      float step, float momentum, float decay) {
#pragma GCC ivdep  // an array is the same as another one, or apart from it
    for (int64_t i = 0; i < n; ++i) {
      const float g = grad[i] + old_weights[i] * decay;
      const float sum = old_sums[i] * momentum + g;
      const float weight = old_weights[i] - (g * step + sum * momentum * step);
      sums[i] = sum;
      weights[i] = weight;
    }
  }

  // ``tensor``, of which ``old`` is another handle, stays as it is if these two are the only ones.
  static tensorflow::Status Renew(OpKernelContext* context, Tensor* old, Tensor* tensor) {
    *tensor = Tensor();
    Tensor renewed;
    if (!old->RefCountIsOne()) {
      const auto status = context->allocate_temp(tensorflow::DT_FLOAT, old->shape(), &renewed);
      if (!status.ok()) {
        *tensor = *old;
        return status;
      }
    }
    *tensor = old->RefCountIsOne() ? *old : renewed;
    return tensorflow::OkStatus();
  }

  float momentum_, decay_;
};

REGISTER_KERNEL_BUILDER(Name("SmoothMomentum").Device(tensorflow::DEVICE_CPU), MomentumOp);

}  // namespace
}  // namespace smooth_ops
