// Shape functions that several ops have.

#ifndef SMOOTH_OPS_SHAPES_H_
#define SMOOTH_OPS_SHAPES_H_

#include "tensorflow/core/framework/shape_inference.h"

namespace smooth_ops {

// Of the gradient of input 1, where input 0 is that of the result.
inline auto LikeSecondInput(tensorflow::shape_inference::InferenceContext* context) {
  context->set_output(0, context->input(1));
  return tensorflow::OkStatus();
}

}  // namespace smooth_ops

#endif  // SMOOTH_OPS_SHAPES_H_
