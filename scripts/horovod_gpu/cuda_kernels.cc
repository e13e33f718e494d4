// Stands in Horovod's source in place of cuda_kernels.cu, which alone of its files needs a CUDA compiler. The same
// three functions, by calls of CUDA's runtime and cuBLAS: nothing here is compiled for one kind of GPU, so that no
// toolkit is needed and every GPU that these libraries know is served.
//
// What it costs: a copy each for a batch's tensors, where the kernel copies 160 at once. Scaling happens only where
// Horovod averages in two stages (HOROVOD_HIERARCHICAL_ALLREDUCE) or a caller scales; else NCCL averages.
#include "cuda_kernels.h"

#include <cublas_v2.h>

#include <map>
#include <stdexcept>
#include <string>

namespace horovod {
namespace common {
namespace {

void Check(const std::string& call, int status) {
  if (status != 0) {
    throw std::logic_error(call + " failed with status " + std::to_string(status));
  }
}

void Copy(void* out, const void* in, size_t size, cudaStream_t stream) {
  if (out != in && size != 0) {
    Check("cudaMemcpyAsync", cudaMemcpyAsync(out, in, size, cudaMemcpyDeviceToDevice, stream));
  }
}

// cuBLAS of the device in use. Horovod calls from one thread, its background thread.
cublasHandle_t Cublas(cudaStream_t stream) {
  static std::map<int, cublasHandle_t> handles;
  int device;
  Check("cudaGetDevice", cudaGetDevice(&device));
  if (handles.count(device) == 0) {
    Check("cublasCreate", cublasCreate(&handles[device]));
  }
  Check("cublasSetStream", cublasSetStream(handles[device], stream));
  return handles[device];
}

// Multiplies a buffer by a factor where it lies; float16 in float32's arithmetic.
void Scale(void* buffer, int64_t num_elements, double factor, DataType dtype, cudaStream_t stream) {
  if (factor == 1.0 || num_elements == 0) {
    return;
  }
  float factor32 = static_cast<float>(factor);
  const void* alpha = &factor32;
  cudaDataType arithmetic = CUDA_R_32F;
  cudaDataType elements = CUDA_R_32F;
  if (dtype == HOROVOD_FLOAT64) {
    alpha = &factor;
    arithmetic = elements = CUDA_R_64F;
  } else if (dtype == HOROVOD_FLOAT16) {
    elements = CUDA_R_16F;
  } else if (dtype != HOROVOD_FLOAT32) {
    throw std::logic_error("on GPUs Horovod as built here scales floating-point tensors only, not " +
                           DataType_Name(dtype));
  }
  Check("cublasScalEx",
        cublasScalEx_64(Cublas(stream), num_elements, alpha, arithmetic, buffer, elements, 1, arithmetic));
}

}  // namespace

void BatchedD2DMemcpyCudaImpl(BatchedD2DParams& params, int num_copies, cudaStream_t stream) {
  for (int i = 0; i < num_copies; ++i) {
    Copy(params.out[i], params.in[i], params.sizes[i], stream);
  }
}

void ScaleBufferCudaImpl(const void* fused_input_data, void* buffer_data, const int64_t num_elements,
                         double scale_factor, DataType dtype, cudaStream_t stream) {
  Copy(buffer_data, fused_input_data, num_elements * DataType_Size(dtype), stream);
  Scale(buffer_data, num_elements, scale_factor, dtype, stream);
}

void BatchedScaledD2DMemcpyCudaImpl(BatchedD2DParams& params, int num_copies, double scale_factor, DataType dtype,
                                    cudaStream_t stream) {
  for (int i = 0; i < num_copies; ++i) {
    const int64_t num_elements = params.sizes[i] / DataType_Size(dtype);
    ScaleBufferCudaImpl(params.in[i], params.out[i], num_elements, scale_factor, dtype, stream);
  }
}

}  // namespace common
}  // namespace horovod
