// What the ops have in common that run the loops of TokenLoops.

#ifndef SMOOTH_OPS_TOKEN_OP_H_
#define SMOOTH_OPS_TOKEN_OP_H_

#include <vector>

#include "loop_op.h"

namespace smooth_ops {

template <typename T, typename Bits>
class TokenOp : public LoopOp<T, Bits> {
 public:
  explicit TokenOp(tensorflow::OpKernelConstruction* context)
      : LoopOp<T, Bits>(context), loops_(Of(BestTable(), Bits{})), widen_(Widen(BestTable(), Bits{})) {}

 protected:
  std::vector<float> Floats(const tensorflow::Tensor& tensor) const {
    std::vector<float> numbers(tensor.NumElements());
    widen_(this->Data(tensor), numbers.data(), tensor.NumElements());
    return numbers;
  }

  const TokenLoops<Bits>& loops_;

 private:
  static const TokenLoops<float>& Of(const Table& table, float) { return table.tokens_of_float; }
  static const TokenLoops<Half>& Of(const Table& table, Half) { return table.tokens_of_bfloat16; }
  static auto Widen(const Table& table, float) { return table.layers_of_float.widen; }
  static auto Widen(const Table& table, Half) { return table.layers_of_bfloat16.widen; }

  void (*widen_)(const Bits* from, float* to, int64_t n);
};

}  // namespace smooth_ops

#endif  // SMOOTH_OPS_TOKEN_OP_H_
