// What the ops have in common that run the loops of kernels.h over tensors.

#ifndef SMOOTH_OPS_LOOP_OP_H_
#define SMOOTH_OPS_LOOP_OP_H_

#include "kernels.h"
#include "tensorflow/core/framework/bfloat16.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/lib/core/threadpool.h"

namespace smooth_ops {

// T is TensorFlow's type, Bits what the loops take.
template <typename T, typename Bits>
class LoopOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

 protected:
  static const Bits* Data(const tensorflow::Tensor& tensor) {
    return reinterpret_cast<const Bits*>(tensor.flat<T>().data());
  }
  static Bits* Data(tensorflow::Tensor* tensor) { return reinterpret_cast<Bits*>(tensor->flat<T>().data()); }

  // Calls work(first, last) for parts of n things of about so many cycles each, on all of TensorFlow's threads; few
  // cycles stay on one.
  template <typename Work>
  static void InParts(tensorflow::OpKernelContext* context, int64_t n, int64_t cycles, const Work& work) {
    context->device()->tensorflow_cpu_worker_threads()->workers->ParallelFor(n, cycles, work);
  }
};

}  // namespace smooth_ops

#endif  // SMOOTH_OPS_LOOP_OP_H_
