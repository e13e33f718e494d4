// The ops SmoothActivation, SmoothActivationGrad and SmoothMaxPoolGrad for CPUs: one pass over memory each, on
// TensorFlow's own threads.

#include <cstdlib>
#include <iterator>
#include <string>
#include <vector>

#include "kernels.h"
#include "tensorflow/core/framework/bfloat16.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/lib/core/threadpool.h"

namespace smooth_ops {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
namespace errors = tensorflow::errors;
namespace shape_inference = tensorflow::shape_inference;

REGISTER_OP("SmoothActivation")
    .Input("x: T")
    .Output("y: T")
    .Attr("function: {'relu', 'silu', 'softplus', 'gelu', 'gelu_erf', 'celu', 'mish'}")
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
    .Attr("function: {'relu', 'silu', 'softplus', 'gelu', 'gelu_erf', 'celu', 'mish'}")
    .Attr("alpha: float = 1")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn([](shape_inference::InferenceContext* context) {
      context->set_output(0, context->input(context->num_inputs() - 1));
      return tensorflow::OkStatus();
    })
    .Doc(R"doc(
The gradient of x where those of the activation's one or two uses are dy. See SmoothActivation.
)doc");

REGISTER_OP("SmoothMaxPoolGrad")
    .Input("dy: T")
    .Input("x: T")
    .Output("dx: T")
    .Attr("kernel: int >= 1")
    .Attr("stride: int >= 1")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn([](shape_inference::InferenceContext* context) {
      context->set_output(0, context->input(1));
      return tensorflow::OkStatus();
    })
    .Doc(R"doc(
The gradient of x [N,H,W,C] where that of its max-pooling with SAME padding is dy; of equal elements the first has it all.
)doc");

namespace {

constexpr const char* kNames[] = {"relu", "silu", "softplus", "gelu", "gelu_erf", "celu", "mish"};
static_assert(std::size(kNames) == kNumFunctions, "a name for each function");

// The fastest loops that this machine runs, or those of another instruction set that the environment asks for.
const Table& BestTable() {
#ifdef __x86_64__
  const char* asked = std::getenv("SMOOTH_OPS_INSTRUCTIONS");
  const std::string most = asked ? asked : "avx512";
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (most == "avx512" && has_avx512) return kTableAvx512;
  if (most != "base" && has_avx2) return kTableAvx2;
#endif
  return kTableBase;
}

const Loops<float>& LoopsOf(const Table& table, int function, float) { return table.of_float[function]; }
const Loops<Half>& LoopsOf(const Table& table, int function, Half) { return table.of_bfloat16[function]; }

// T is TensorFlow's type, Bits what the loops take.
template <typename T, typename Bits>
class ActivationOp : public tensorflow::OpKernel {
 public:
  explicit ActivationOp(OpKernelConstruction* context) : OpKernel(context) {
    std::string name;
    OP_REQUIRES_OK(context, context->GetAttr("function", &name));
    OP_REQUIRES_OK(context, context->GetAttr("alpha", &alpha_));
    OP_REQUIRES(context, alpha_ > 0, errors::InvalidArgument("alpha must be positive, not ", alpha_));
    int function = 0;
    while (function < kNumFunctions - 1 && name != kNames[function]) ++function;
    loops_ = LoopsOf(BestTable(), function, Bits{});
  }

 protected:
  // Calls work(first, last) for parts of n elements, on all threads.
  template <typename Work>
  void InParts(OpKernelContext* context, int64_t n, const Work& work) {
    constexpr int64_t kCyclesPerElement = 4;  // so that small arrays stay on one thread
    context->device()->tensorflow_cpu_worker_threads()->workers->ParallelFor(n, kCyclesPerElement, work);
  }

  static const Bits* Data(const Tensor& tensor) { return reinterpret_cast<const Bits*>(tensor.flat<T>().data()); }
  static Bits* Data(Tensor* tensor) { return reinterpret_cast<Bits*>(tensor->flat<T>().data()); }

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
    this->InParts(context, input.NumElements(), [this, x, y](int64_t first, int64_t last) {
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
    this->InParts(context, input.NumElements(), [this, dy, more, x, dx](int64_t first, int64_t last) {
      this->loops_.gradient(dy + first, more == nullptr ? nullptr : more + first, x + first, dx + first, last - first,
                            this->alpha_);
    });
  }
};

PoolGradientLoop<float> PoolLoopOf(const Table& table, float) { return table.pool_gradient_of_float; }
PoolGradientLoop<Half> PoolLoopOf(const Table& table, Half) { return table.pool_gradient_of_bfloat16; }

template <typename T, typename Bits>
class PoolGradientOp : public tensorflow::OpKernel {
 public:
  explicit PoolGradientOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("kernel", &kernel_));
    OP_REQUIRES_OK(context, context->GetAttr("stride", &stride_));
    OP_REQUIRES(context, kernel_ <= 15, errors::InvalidArgument("kernel ", kernel_, "; at most 15"));  // 8 bits of place
    loop_ = PoolLoopOf(BestTable(), Bits{});
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& gradient = context->input(0);
    const Tensor& input = context->input(1);
    OP_REQUIRES(context, input.dims() == 4, errors::InvalidArgument("x must be [N,H,W,C], not ",
                                                                    input.shape().DebugString()));
    Pool pool;
    pool.height = input.dim_size(1), pool.width = input.dim_size(2), pool.depth = input.dim_size(3);
    pool.kernel = kernel_, pool.stride = stride_;
    pool.out_height = Pooled(pool.height, &pool.top), pool.out_width = Pooled(pool.width, &pool.left);
    const tensorflow::TensorShape pooled({input.dim_size(0), pool.out_height, pool.out_width, pool.depth});
    OP_REQUIRES(context, gradient.shape() == pooled, errors::InvalidArgument(
        "dy has shape ", gradient.shape().DebugString(), ", not ", pooled.DebugString()));
    Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(0, input.shape(), &output));
    const Bits* x = reinterpret_cast<const Bits*>(input.flat<T>().data());
    const Bits* dy = reinterpret_cast<const Bits*>(gradient.flat<T>().data());
    Bits* dx = reinterpret_cast<Bits*>(output->flat<T>().data());
    const int64_t size = pool.height * pool.width * pool.depth, pooled_size = pool.out_height * pool.out_width * pool.depth;
    context->device()->tensorflow_cpu_worker_threads()->workers->ParallelFor(
        input.dim_size(0), size * 8, [&](int64_t first, int64_t last) {
          std::vector<float> room(PoolRoom(pool) / sizeof(float) + 1);
          for (int64_t n = first; n < last; ++n) {
            loop_(x + n * size, dy + n * pooled_size, dx + n * size, pool, room.data());
          }
        });
  }

 private:
  // The number of windows along a side, and the padding before it: TensorFlow's SAME.
  int64_t Pooled(int64_t side, int64_t* before) const {
    const int64_t windows = (side + stride_ - 1) / stride_;
    const int64_t padding = (windows - 1) * stride_ + kernel_ - side;
    *before = padding > 0 ? padding / 2 : 0;
    return windows;
  }

  int64_t kernel_, stride_;
  PoolGradientLoop<Bits> loop_;
};

#define REGISTER(T, Bits)                                                                                      \
  REGISTER_KERNEL_BUILDER(Name("SmoothActivation").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"),      \
                          ValueOp<T, Bits>);                                                                   \
  REGISTER_KERNEL_BUILDER(Name("SmoothActivationGrad").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"),  \
                          GradientOp<T, Bits>);                                                                \
  REGISTER_KERNEL_BUILDER(Name("SmoothMaxPoolGrad").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"),     \
                          PoolGradientOp<T, Bits>);
REGISTER(float, float)
REGISTER(tensorflow::bfloat16, Half)
#undef REGISTER

}  // namespace
}  // namespace smooth_ops
