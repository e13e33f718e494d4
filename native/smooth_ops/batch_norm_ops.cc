// Batch norm in training for CPUs, over all dimensions but the last, with a sum and an activation behind it: the ops
// SmoothBatchNorm and SmoothBatchNormGrad. Two passes over memory each, on TensorFlow's own threads, which share the pixels.

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "batch_norm_rows.h"
#include "loop_op.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace smooth_ops {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;
namespace shape_inference = tensorflow::shape_inference;

#define FUNCTIONS "function: {'none', " SMOOTH_OPS_QUOTED "}"

REGISTER_OP("SmoothBatchNorm")
    .Input("x: T")
    .Input("gamma: float")
    .Input("beta: float")
    .Input("residual: R * T")
    .Output("y: T")
    .Output("mean: float")
    .Output("variance: float")
    .Attr("R: int >= 0")
    .Attr(FUNCTIONS)
    .Attr("alpha: float = 1")
    .Attr("epsilon: float")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn([](shape_inference::InferenceContext* context) {
      shape_inference::ShapeHandle x;
      TF_RETURN_IF_ERROR(context->WithRankAtLeast(context->input(0), 1, &x));
      context->set_output(0, x);
      for (int output : {1, 2}) context->set_output(output, context->Vector(context->Dim(x, -1)));
      return tensorflow::OkStatus();
    })
    .Doc(R"doc(
An activation of the batch norm of x [...,C], plus a residual like x if one is given.

mean: Of each channel over all else.
variance: Likewise, with the number of values as its denominator.
function: See SmoothActivation; 'none' leaves the activation out.
epsilon: Added to the variance.
)doc");

REGISTER_OP("SmoothBatchNormGrad")
    .Input("dy: N * T")
    .Input("x: T")
    .Input("gamma: float")
    .Input("beta: float")
    .Input("mean: float")
    .Input("variance: float")
    .Input("residual: R * T")
    .Output("dx: T")
    .Output("dgamma: float")
    .Output("dbeta: float")
    .Output("dresidual: R * T")
    .Attr("N: int >= 1")
    .Attr("R: int >= 0")
    .Attr(FUNCTIONS)
    .Attr("alpha: float = 1")
    .Attr("epsilon: float")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn([](shape_inference::InferenceContext* context) {
      int uses;
      TF_RETURN_IF_ERROR(context->GetAttr("N", &uses));
      context->set_output(0, context->input(uses));
      for (int output : {1, 2}) context->set_output(output, context->input(uses + 1));
      if (context->num_outputs() > 3) context->set_output(3, context->input(uses));
      return tensorflow::OkStatus();
    })
    .Doc(R"doc(
The gradients where those of the one or two uses of a SmoothBatchNorm's y are dy; its mean and variance are the inputs of
these names. They are the same on any number of threads.

function: The activation whose derivative is taken.
)doc");

#undef FUNCTIONS

namespace {

const NormLoops<float>& LoopsOf(const Table& table, float) { return table.norms_of_float; }
const NormLoops<Half>& LoopsOf(const Table& table, Half) { return table.norms_of_bfloat16; }
void Widen(const float* from, float* to, int64_t n) { BestTable().layers_of_float.widen(from, to, n); }
void Widen(const Half* from, float* to, int64_t n) { BestTable().layers_of_bfloat16.widen(from, to, n); }

template <typename T, typename Bits>
class BatchNormOp : public LoopOp<T, Bits> {
 public:
  explicit BatchNormOp(OpKernelConstruction* context) : LoopOp<T, Bits>(context), loops_(LoopsOf(BestTable(), Bits{})) {
    std::string name;
    OP_REQUIRES_OK(context, context->GetAttr("function", &name));
    OP_REQUIRES_OK(context, context->GetAttr("alpha", &activation_.alpha));
    OP_REQUIRES_OK(context, context->GetAttr("epsilon", &epsilon_));
    OP_REQUIRES(context, activation_.alpha > 0, errors::InvalidArgument("alpha must be positive, not ",
                                                                        activation_.alpha));
    OP_REQUIRES(context, epsilon_ >= 0, errors::InvalidArgument("epsilon must not be negative, but is ", epsilon_));
    activation_.loops = {nullptr, nullptr};
    for (int k = 0; k < kNumFunctions; ++k) {
      if (name == kNames[k]) activation_.loops = BestTable().of_float[k];
    }
  }

 protected:
  // Whether input x has channels, inputs [x + 1, residual) are vectors of them and the others are like x; else it says
  // so.
  static bool Fit(OpKernelContext* context, int x, int residual) {
    const TensorShape& shape = context->input(x).shape();
    if (shape.dims() < 1 || shape.dim_size(shape.dims() - 1) < 1) {
      context->CtxFailure(errors::InvalidArgument("x must be [...,C] with a C of 1 or more, not ", shape.DebugString()));
      return false;
    }
    const TensorShape channels({shape.dim_size(shape.dims() - 1)});
    for (int k = 0; k < context->num_inputs(); ++k) {
      const TensorShape& given = context->input(k).shape();
      if (given != (k > x && k < residual ? channels : shape)) {
        context->CtxFailure(errors::InvalidArgument("input ", k, " of a batch norm has shape ", given.DebugString(), ", x ",
                                                    shape.DebugString()));
        return false;
      }
    }
    if (x > 2 || context->num_inputs() > residual + 1) {
      context->CtxFailure(errors::InvalidArgument(x, " uses and ", context->num_inputs() - residual,
                                                  " residuals of a batch norm; there may be 2 and 1"));
      return false;
    }
    return true;
  }

  static const float* Floats(OpKernelContext* context, int input) {
    return context->input(input).flat<float>().data();
  }

  // Input number ``at`` if there is one, else null.
  static const Bits* DataIfAny(OpKernelContext* context, int at) {
    return at < context->num_inputs() ? LoopOp<T, Bits>::Data(context->input(at)) : nullptr;
  }

  // Calls work(begin, n, part) for parts that take so many cycles for each number, about.
  template <typename Work>
  static void OverParts(OpKernelContext* context, const NormLayout& layout, int64_t cycles, const Work& work) {
    LoopOp<T, Bits>::InParts(context, layout.parts, cycles * layout.length, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        work(part * layout.length, std::min(layout.length, layout.total - part * layout.length), part);
      }
    });
  }

  const NormLoops<Bits>& loops_;
  Activation activation_;
  float epsilon_;
};

constexpr int64_t kCycles = 4;  // of a number and its activation, about; without one it is bound by memory

template <typename T, typename Bits>
class ValueOp : public BatchNormOp<T, Bits> {
 public:
  using BatchNormOp<T, Bits>::BatchNormOp;

  void Compute(OpKernelContext* context) override {
    if (!this->Fit(context, 0, 3)) return;
    const Tensor& input = context->input(0);
    const NormLayout layout(input.shape());
    const TensorShape channels({input.dim_size(input.dims() - 1)});
    Tensor* outputs[3];
    OP_REQUIRES_OK(context, context->allocate_output(0, input.shape(), &outputs[0]));
    for (int k : {1, 2}) OP_REQUIRES_OK(context, context->allocate_output(k, channels, &outputs[k]));
    float* const mean = outputs[1]->flat<float>().data();
    float* const variance = outputs[2]->flat<float>().data();
    const Bits* const x = this->Data(input);
    Moments(context, x, layout, mean, variance);
    const LayerRows rows(layout, mean, variance, this->Floats(context, 1), this->Floats(context, 2), this->epsilon_);
    const Bits* const residual = this->DataIfAny(context, 3);
    Bits* const y = this->Data(outputs[0]);
    this->OverParts(context, layout, kCycles, [&](int64_t begin, int64_t n, int64_t) {
      this->loops_.value(x + begin, residual == nullptr ? nullptr : residual + begin, y + begin, n, rows.at,
                         this->activation_);
    });
  }

 private:
  // Each part's moments are about its first pixel, so that no digits are lost where the mean is large, or about its mean
  // where that lies too far from the pixel; those of all are about the mean (Chan et al. 1979).
  void Moments(OpKernelContext* context, const Bits* x, const NormLayout& layout, float* mean, float* variance) const {
    const int64_t depth = layout.depth;
    std::vector<double> means(layout.parts * depth), squares(layout.parts * depth);
    this->OverParts(context, layout, 1, [&](int64_t begin, int64_t n, int64_t part) {
      std::vector<float> from(depth);
      Widen(x + begin, from.data(), depth);
      double* const of_mean = means.data() + part * depth;
      double* const of_squares = squares.data() + part * depth;
      if (!MomentsFrom(x + begin, n, layout, from.data(), of_mean, of_squares)) {
        std::copy(of_mean, of_mean + depth, from.data());
        MomentsFrom(x + begin, n, layout, from.data(), of_mean, of_squares);
      }
    });
    const double count = layout.Pixels();
    std::vector<double> sums(2 * depth);
    for (int64_t part = 0; part < layout.parts; ++part) {
      for (int64_t c = 0; c < depth; ++c) sums[c] += layout.Pixels(part) * means[part * depth + c];
    }
    for (int64_t c = 0; c < depth; ++c) sums[c] /= count;
    for (int64_t part = 0; part < layout.parts; ++part) {
      for (int64_t c = 0; c < depth; ++c) {
        const double beside = means[part * depth + c] - sums[c];
        sums[depth + c] += squares[part * depth + c] + layout.Pixels(part) * beside * beside;
      }
    }
    for (int64_t c = 0; c < depth; ++c) {
      mean[c] = static_cast<float>(sums[c]);
      variance[c] = static_cast<float>(sums[depth + c] / count);
    }
  }

  // The mean of each channel of one part, and the sum of the squares about it, of float32 sums of what differs ``from``
  // these [C]; false where the mean is so far from them that digits of the squares are lost.
  bool MomentsFrom(const Bits* x, int64_t n, const NormLayout& layout, const float* from, double* means,
                   double* squares) const {
    constexpr double kFar = 100;  // variances
    std::vector<float> shift(layout.width), sums(2 * layout.width);
    layout.Repeat(from, shift.data());
    this->loops_.moments(x, shift.data(), sums.data(), sums.data() + layout.width, n, layout.width);
    layout.Fold(sums.data(), means);
    layout.Fold(sums.data() + layout.width, squares);
    const double count = n / layout.depth;
    bool near = true;
    for (int64_t c = 0; c < layout.depth; ++c) {
      const double lost = means[c] * means[c] / count;
      squares[c] = std::max(squares[c] - lost, 0.0);
      means[c] = from[c] + means[c] / count;
      near &= !(lost > kFar * squares[c]);
    }
    return near;
  }
};

template <typename T, typename Bits>
class GradientOp : public BatchNormOp<T, Bits> {
 public:
  using BatchNormOp<T, Bits>::BatchNormOp;

  void Compute(OpKernelContext* context) override {
    const int uses = context->num_inputs() - 5 - (context->num_outputs() - 3);
    if (!this->Fit(context, uses, uses + 5)) return;
    const Tensor& input = context->input(uses);
    const NormLayout layout(input.shape());
    const TensorShape channels({input.dim_size(input.dims() - 1)});
    const bool residual = context->num_outputs() > 3;
    const bool same = !residual && uses == 1 && this->activation_.loops.gradient == nullptr;
    std::vector<int> dead(uses);  // what may be written over
    std::iota(dead.begin(), dead.end(), 0);
    Tensor *dx, *dgamma, *dbeta, *dresidual = nullptr;
    if (residual) {
      OP_REQUIRES_OK(context, context->forward_input_or_allocate_output(dead, 3, input.shape(), &dresidual));
    }
    // The slope is in dresidual, in dy, or in dx, where x must then not be.
    if (residual || same) dead.push_back(uses);
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output(dead, 0, input.shape(), &dx));
    OP_REQUIRES_OK(context, context->allocate_output(1, channels, &dgamma));
    OP_REQUIRES_OK(context, context->allocate_output(2, channels, &dbeta));
    const LayerRows rows(layout, this->Floats(context, uses + 3), this->Floats(context, uses + 4),
                    this->Floats(context, uses + 1), this->Floats(context, uses + 2), this->epsilon_);
    Bits* const to = same ? nullptr : this->Data(residual ? dresidual : dx);
    const std::vector<double> sums = Slope(context, layout, rows, uses, to);
    Input(context, layout, rows, sums, same ? this->Data(context->input(0)) : to, this->Data(input), this->Data(dx));
    for (int64_t c = 0; c < channels.num_elements(); ++c) {
      dgamma->flat<float>()(c) = static_cast<float>(sums[layout.depth + c] * rows.inverse[c]);
      dbeta->flat<float>()(c) = static_cast<float>(sums[c]);
    }
  }

 private:
  // The sums [2, C] of the batch norm's gradient, as it is and times x - mean. Puts it into ``slope`` if not null.
  std::vector<double> Slope(OpKernelContext* context, const NormLayout& layout, const LayerRows& rows, int uses,
                            Bits* slope) const {
    const Bits* const dy = this->Data(context->input(0));
    const Bits* const more = uses == 2 ? this->Data(context->input(1)) : nullptr;
    const Bits* const x = this->Data(context->input(uses));
    const Bits* const residual = this->DataIfAny(context, uses + 5);
    std::vector<double> parts(layout.parts * 2 * layout.depth), sums(2 * layout.depth);
    const auto from = [](auto* array, int64_t begin) { return array == nullptr ? nullptr : array + begin; };
    this->OverParts(context, layout, kCycles, [&](int64_t begin, int64_t n, int64_t part) {
      std::vector<float> of_rows(2 * layout.width);
      float* const products = of_rows.data() + layout.width;
      this->loops_.slope(dy + begin, from(more, begin), x + begin, from(residual, begin), from(slope, begin),
                         of_rows.data(), products, n, rows.at, this->activation_);
      double* const channels = parts.data() + part * 2 * layout.depth;
      layout.Fold(of_rows.data(), channels);
      layout.Fold(products, channels + layout.depth);
    });
    for (int64_t part = 0; part < layout.parts; ++part) {
      for (int64_t c = 0; c < 2 * layout.depth; ++c) sums[c] += parts[part * 2 * layout.depth + c];
    }
    return sums;
  }

  void Input(OpKernelContext* context, const NormLayout& layout, const LayerRows& rows, const std::vector<double>& sums,
             const Bits* slope, const Bits* x, Bits* dx) const {
    std::vector<float> channels(2 * layout.depth), of_rows(2 * layout.width);
    for (int64_t c = 0; c < layout.depth; ++c) {
      channels[c] = static_cast<float>(sums[c] / layout.Pixels());
      channels[layout.depth + c] = static_cast<float>(sums[layout.depth + c] / layout.Pixels() * rows.inverse[c] *
                                                      rows.inverse[c]);
    }
    float* const factor = of_rows.data() + layout.width;
    layout.Repeat(channels.data(), of_rows.data());
    layout.Repeat(channels.data() + layout.depth, factor);
    this->OverParts(context, layout, 1, [&](int64_t begin, int64_t n, int64_t) {
      this->loops_.input(slope + begin, x + begin, dx + begin, n, rows.at, of_rows.data(), factor);
    });
  }
};

#define REGISTER(T, Bits)                                                                                      \
  REGISTER_KERNEL_BUILDER(Name("SmoothBatchNorm").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"),       \
                          ValueOp<T, Bits>);                                                                   \
  REGISTER_KERNEL_BUILDER(Name("SmoothBatchNormGrad").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"),   \
                          GradientOp<T, Bits>);
REGISTER(float, float)
REGISTER(tensorflow::bfloat16, Half)
#undef REGISTER

}  // namespace
}  // namespace smooth_ops
