// How the batch norm of a tensor [...,C] is divided among threads, and what its loops are given for a row of numbers.

#ifndef SMOOTH_OPS_BATCH_NORM_ROWS_H_
#define SMOOTH_OPS_BATCH_NORM_ROWS_H_

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels.h"
#include "tensorflow/core/framework/tensor_shape.h"

namespace smooth_ops {

// Images as the loops take them, in parts by their size alone, whose sums are then added in their order.
struct NormLayout {
  explicit NormLayout(const tensorflow::TensorShape& shape)
      : total(shape.num_elements()), depth(shape.dim_size(shape.dims() - 1)), width(depth) {
    constexpr int64_t kLanes = 16, kWide = 256, kPart = 1 << 16;
    if (depth < kWide) width = std::lcm(depth, kLanes);
    if (width < kWide) width *= kWide / width;
    length = std::max<int64_t>(1, kPart / width) * width;
    parts = (total + length - 1) / length;
  }

  int64_t Pixels(int64_t part) const { return std::min(length, total - part * length) / depth; }
  int64_t Pixels() const { return total / depth; }

  // For each number of a row what there is for its channel.
  void Repeat(const float* channels, float* row) const {
    for (int64_t i = 0; i < width; i += depth) std::copy(channels, channels + depth, row + i);
  }

  // The sums of each channel over a row.
  void Fold(const float* row, double* channels) const {
    std::fill(channels, channels + depth, 0.0);
    for (int64_t i = 0; i < width; i += depth) {
      for (int64_t c = 0; c < depth; ++c) channels[c] += row[i + c];
    }
  }

  int64_t total, depth, width, length, parts;
};

// What NormRows needs, for one layer.
class LayerRows {
 public:
  LayerRows(const NormLayout& layout, const float* mean, const float* variance, const float* gamma, const float* beta,
            float epsilon)
      : inverse(layout.depth), numbers_(3 * layout.width) {
    std::vector<float> scale(layout.depth);
    for (int64_t c = 0; c < layout.depth; ++c) {
      inverse[c] = 1.0f / std::sqrt(variance[c] + epsilon);
      scale[c] = gamma[c] * inverse[c];
    }
    const float* from[] = {mean, scale.data(), beta};
    for (int k : {0, 1, 2}) layout.Repeat(from[k], numbers_.data() + k * layout.width);
    at = {layout.width, numbers_.data(), numbers_.data() + layout.width, numbers_.data() + 2 * layout.width};
  }

  NormRows at;
  std::vector<float> inverse;  // of the standard deviation, [C]

 private:
  std::vector<float> numbers_;
};

}  // namespace smooth_ops

#endif  // SMOOTH_OPS_BATCH_NORM_ROWS_H_
