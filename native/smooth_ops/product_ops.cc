// Convolutions of bfloat16 images [N,H,W,C] for CPUs as products of matrices, with what is around them in the same pass,
// on TensorFlow's own threads, which share pixels and channels: the ops SmoothPackedWeights, SmoothConvolution and
// SmoothConvolutionGrad.

#include <algorithm>
#include <string>
#include <vector>

#include "loop_op.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"

namespace smooth_ops {

using tensorflow::bfloat16;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;
namespace shape_inference = tensorflow::shape_inference;

REGISTER_OP("SmoothPackedWeights")
    .Input("weights: float")
    .Input("scale: float")
    .Output("forward: bfloat16")
    .Output("backward: bfloat16")
    .SetShapeFn([](shape_inference::InferenceContext* context) {
      for (int output : {0, 1}) context->set_output(output, context->UnknownShapeOfRank(1));
      return tensorflow::OkStatus();
    })
    .Doc(R"doc(
The weights [k,k,I,O] of a convolution times a scale [O] of its channels, in the order in which SmoothConvolution and
SmoothConvolutionGrad read them; I and O are even.
)doc");

REGISTER_OP("SmoothConvolution")
    .Input("x: bfloat16")
    .Input("weights: bfloat16")
    .Input("bias: float")
    .Input("more: M * bfloat16")
    .Output("z: bfloat16")
    .Output("y: A * bfloat16")
    .Attr("kernel: int >= 1")
    .Attr("stride: int >= 1")
    .Attr("before: list(int) >= 2")
    .Attr("function: {" SMOOTH_OPS_QUOTED "} = 'relu'")
    .Attr("alpha: float = 1")
    .Attr("M: int >= 0")
    .Attr("A: int >= 0")
    .SetShapeFn([](shape_inference::InferenceContext* context) {
      shape_inference::ShapeHandle x, bias;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &x));
      TF_RETURN_IF_ERROR(context->WithRank(context->input(2), 1, &bias));
      int64_t stride;
      TF_RETURN_IF_ERROR(context->GetAttr("stride", &stride));
      shape_inference::DimensionHandle sizes[2];
      for (int k : {0, 1}) {
        TF_RETURN_IF_ERROR(context->Add(context->Dim(x, 1 + k), stride - 1, &sizes[k]));
        TF_RETURN_IF_ERROR(context->Divide(sizes[k], stride, false, &sizes[k]));
      }
      for (int output = 0; output < context->num_outputs(); ++output) {
        context->set_output(output, context->MakeShape({context->Dim(x, 0), sizes[0], sizes[1], context->Dim(bias, 0)}));
      }
      return tensorflow::OkStatus();
    })
    .Doc(R"doc(
The convolution of x [N,H,W,I], with a bias [O] and up to two other tensors added: z [N,H/stride,W/stride,O], rounded up.
Sums are of float32 and rounded once.

weights: SmoothPackedWeights' forward.
y: Nothing, or one tensor: the activation of z. See SmoothActivation.
kernel: The number of rows, and of columns, of the weights; 7 at most.
before: How many rows, and columns, of zeros are before those of x.
)doc");

REGISTER_OP("SmoothConvolutionGrad")
    .Input("dz: bfloat16")
    .Input("weights: bfloat16")
    .Input("x: bfloat16")
    .Input("more: M * bfloat16")
    .Output("dx: bfloat16")
    .Attr("kernel: int >= 1")
    .Attr("stride: int >= 1")
    .Attr("before: list(int) >= 2")
    .Attr("of_activation: bool")
    .Attr("function: {" SMOOTH_OPS_QUOTED "} = 'relu'")
    .Attr("alpha: float = 1")
    .Attr("M: int >= 0")
    .SetShapeFn([](shape_inference::InferenceContext* context) {
      context->set_output(0, context->input(2));
      return tensorflow::OkStatus();
    })
    .Doc(R"doc(
The gradient of a convolution's input where that of its result is dz [N,H/stride,W/stride,O], with those of up to two
other uses added.

weights: SmoothPackedWeights' backward.
x: [N,H,W,I]. If ``of_activation``, that of which the input is the activation, and dx is its gradient; else it says the
  shape.
)doc");

namespace {

int64_t UpTo(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// Numbers of packed weights for ``depth`` channels of what is read, and ``out_depth`` of the result.
int64_t PackedSize(int64_t taps, int64_t depth, int64_t out_depth) { return taps * depth * UpTo(out_depth, kFilled); }

class PackOp : public LoopOp<bfloat16, Half> {
 public:
  using LoopOp::LoopOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& weights = context->input(0);
    OP_REQUIRES(context, weights.dims() == 4, errors::InvalidArgument("weights must be [k,k,I,O], not ",
                                                                      weights.shape().DebugString()));
    const int64_t in = weights.dim_size(2), out = weights.dim_size(3), taps = weights.dim_size(0) * weights.dim_size(1);
    OP_REQUIRES(context, in % 2 == 0 && out % 2 == 0, errors::InvalidArgument(
        "channels must be even, but weights are ", weights.shape().DebugString()));
    OP_REQUIRES(context, context->input(1).shape() == TensorShape({out}), errors::InvalidArgument(
        "scale must be of ", out, " channels, not ", context->input(1).shape().DebugString()));
    const float* from = weights.flat<float>().data();
    const float* scale = context->input(1).flat<float>().data();
    const ProductLoops& loops = BestTable().products;
    for (int backward : {0, 1}) {
      const int64_t depth = backward ? out : in, columns = backward ? in : out;
      Tensor* output;
      OP_REQUIRES_OK(context, context->allocate_output(backward, TensorShape({PackedSize(taps, depth, columns)}),
                                                       &output));
      Half* to = Data(output);
      const auto pack = backward ? loops.pack_columns : loops.pack_rows;
      const int64_t panels = (columns + kPanel - 1) / kPanel;
      InParts(context, panels * taps, depth * kPanel / 2, [&](int64_t first, int64_t last) {
        for (int64_t part = first; part < last; ++part) {
          const int64_t column = part / taps * kPanel, tap = part % taps;
          const int64_t width = std::min(kPanel, UpTo(columns, kFilled) - column);
          pack(from + tap * in * out, scale, out, in, column, width, to + (column * taps + tap * width) * depth);
        }
      });
    }
  }
};

class ProductOp : public LoopOp<bfloat16, Half> {
 public:
  explicit ProductOp(OpKernelConstruction* context) : LoopOp(context) {
    std::string name;
    OP_REQUIRES_OK(context, context->GetAttr("function", &name));
    OP_REQUIRES_OK(context, context->GetAttr("alpha", &alpha_));
    OP_REQUIRES_OK(context, context->GetAttr("kernel", &kernel_));
    OP_REQUIRES_OK(context, context->GetAttr("stride", &stride_));
    OP_REQUIRES_OK(context, context->GetAttr("before", &before_));
    OP_REQUIRES(context, alpha_ > 0, errors::InvalidArgument("alpha must be positive, not ", alpha_));
    OP_REQUIRES(context, kernel_ * kernel_ <= kMostTaps && before_.size() == 2,
                errors::InvalidArgument("a kernel of ", kernel_, " with ", before_.size(), " numbers of zeros before"));
    while (function_ < kNumFunctions - 1 && name != kNames[function_]) ++function_;
  }

 protected:
  // Whether the tensors are images, and the others from input 3 on like ``result``; else it says so.
  static bool Fit(OpKernelContext* context, const TensorShape& result, int64_t weights) {
    if (context->num_inputs() > 5) context->CtxFailure(errors::InvalidArgument("more than two others are added"));
    for (int k = 3; context->status().ok() && k < context->num_inputs(); ++k) {
      if (context->input(k).shape() != result) {
        context->CtxFailure(errors::InvalidArgument("what is added has shape ", context->input(k).shape().DebugString(),
                                                    ", the result ", result.DebugString()));
      }
    }
    if (context->status().ok() && context->input(1).NumElements() != weights) {
      context->CtxFailure(errors::InvalidArgument("packed weights have ", context->input(1).NumElements(),
                                                  " numbers, not ", weights));
    }
    return context->status().ok();
  }

  static bool AreImages(OpKernelContext* context, int input) {
    const TensorShape& shape = context->input(input).shape();
    const bool fit = shape.dims() == 4 && shape.dim_size(3) % 2 == 0;
    if (!fit) context->CtxFailure(errors::InvalidArgument("images must be [N,H,W,C] with an even C, not ",
                                                          shape.DebugString()));
    return fit;
  }

  static Around AroundOf(OpKernelContext* context, Tensor* to, float alpha) {
    Around around = {};
    for (int k = 3; k < context->num_inputs(); ++k) around.more[k - 3] = Data(context->input(k));
    around.to = Data(to);
    around.alpha = alpha;
    return around;
  }

  // Threads take pixels, whose input fits a second-level cache, and all panels, or some where there are few pixels.
  static void Run(OpKernelContext* context, const Phase& phase, int64_t images, const Half* x, const Half* weights,
                  const float* bias, const Around& around) {
    const int64_t pixels = images * phase.rows * phase.columns, panels = (phase.out_depth + kPanel - 1) / kPanel;
    if (pixels == 0 || panels == 0) return;
    const int64_t threads = context->device()->tensorflow_cpu_worker_threads()->num_threads;
    const int64_t bytes = phase.depth * phase.step * phase.step * static_cast<int64_t>(sizeof(Half));
    const int64_t most = std::max<int64_t>(48, kCache / bytes);
    const int64_t parts = UpTo((pixels + most - 1) / most, std::min(threads, (pixels + 5) / 6));
    const int64_t groups = std::min(panels, (2 * threads + parts - 1) / parts);
    const int64_t cycles = pixels / parts * phase.out_depth / groups * (phase.depth * phase.count / 64 + 4);
    InParts(context, parts * groups, std::max<int64_t>(cycles, 1), [&](int64_t first, int64_t last) {
      for (int64_t k = first; k < last; ++k) {
        const int64_t part = k / groups, group = k % groups;
        BestTable().products.product(phase, x, weights, bias, around, pixels * part / parts,
                                     pixels * (part + 1) / parts, panels * group / groups,
                                     panels * (group + 1) / groups);
      }
    });
  }

  static constexpr int64_t kCache = 256 << 10;
  float alpha_;
  int kernel_, stride_, function_ = 0;
  std::vector<int> before_;
};

class ConvolutionOp : public ProductOp {
 public:
  using ProductOp::ProductOp;

  void Compute(OpKernelContext* context) override {
    if (!AreImages(context, 0)) return;
    const Tensor& input = context->input(0);
    OP_REQUIRES(context, context->input(2).dims() == 1, errors::InvalidArgument("bias must be [O], not ",
                                                                               context->input(2).shape().DebugString()));
    const int64_t height = input.dim_size(1), width = input.dim_size(2), depth = input.dim_size(3);
    const int64_t out_height = (height + stride_ - 1) / stride_, out_width = (width + stride_ - 1) / stride_;
    const int64_t out_depth = context->input(2).NumElements(), taps = kernel_ * kernel_;
    const TensorShape shape({input.dim_size(0), out_height, out_width, out_depth});
    if (!Fit(context, shape, PackedSize(taps, depth, out_depth))) return;
    Tensor* z;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &z));
    Around around = AroundOf(context, z, alpha_);
    if (context->num_outputs() > 1) {
      Tensor* y;
      OP_REQUIRES_OK(context, context->allocate_output(1, shape, &y));
      around.activated = Data(y);
      around.value = BestTable().of_bfloat16[function_].value;
    }
    std::vector<float> bias(UpTo(out_depth, kFilled));
    std::copy_n(context->input(2).flat<float>().data(), out_depth, bias.begin());
    std::vector<Tap> at(taps);
    for (int64_t t = 0; t < taps; ++t) at[t] = {t, t / kernel_ - before_[0], t % kernel_ - before_[1]};
    const std::vector<Half> zeros(depth);
    Run(context, {height, width, depth, out_height, out_width, out_depth, out_height, out_width, 1, 0, 0, stride_, taps,
                  at.data(), taps, zeros.data()},
        input.dim_size(0), Data(input), Data(context->input(1)), bias.data(), around);
  }
};

class GradientOp : public ProductOp {
 public:
  explicit GradientOp(OpKernelConstruction* context) : ProductOp(context) {
    OP_REQUIRES_OK(context, context->GetAttr("of_activation", &of_activation_));
  }

  void Compute(OpKernelContext* context) override {
    if (!AreImages(context, 0) || !AreImages(context, 2)) return;
    const Tensor& gradient = context->input(0);
    const Tensor& like = context->input(2);
    const int64_t height = gradient.dim_size(1), width = gradient.dim_size(2), depth = gradient.dim_size(3);
    const int64_t out_height = like.dim_size(1), out_width = like.dim_size(2), out_depth = like.dim_size(3);
    OP_REQUIRES(context, height == (out_height + stride_ - 1) / stride_ && width == (out_width + stride_ - 1) / stride_ &&
                             gradient.dim_size(0) == like.dim_size(0), errors::InvalidArgument(
        "dz has shape ", gradient.shape().DebugString(), ", x ", like.shape().DebugString()));
    if (!Fit(context, like.shape(), PackedSize(kernel_ * kernel_, depth, out_depth))) return;
    Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(0, like.shape(), &output));
    Around around = AroundOf(context, output, alpha_);
    if (of_activation_) {
      around.before = Data(like);
      around.slope = BestTable().of_sums[function_];
    }
    const std::vector<Half> zeros(depth);
    for (int64_t down = 0; down < stride_; ++down) {
      for (int64_t right = 0; right < stride_; ++right) {
        // Those taps that reach these pixels from whole numbers of strides away.
        std::vector<Tap> taps;
        for (int64_t t = 0; t < kernel_ * kernel_; ++t) {
          const int64_t row = down + before_[0] - t / kernel_, column = right + before_[1] - t % kernel_;
          if (row % stride_ == 0 && column % stride_ == 0) taps.push_back({t, row / stride_, column / stride_});
        }
        Run(context, {height, width, depth, out_height, out_width, out_depth, (out_height - down + stride_ - 1) / stride_,
                      (out_width - right + stride_ - 1) / stride_, stride_, down, right, 1, kernel_ * kernel_,
                      taps.data(), static_cast<int64_t>(taps.size()), zeros.data()},
            like.dim_size(0), Data(gradient), Data(context->input(1)), nullptr, around);
      }
    }
  }

 private:
  bool of_activation_;
};

REGISTER_KERNEL_BUILDER(Name("SmoothPackedWeights").Device(tensorflow::DEVICE_CPU), PackOp);
REGISTER_KERNEL_BUILDER(Name("SmoothConvolution").Device(tensorflow::DEVICE_CPU), ConvolutionOp);
REGISTER_KERNEL_BUILDER(Name("SmoothConvolutionGrad").Device(tensorflow::DEVICE_CPU), GradientOp);

}  // namespace
}  // namespace smooth_ops
