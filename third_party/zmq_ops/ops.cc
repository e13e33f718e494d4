// The ops ZMQConnection and ZMQPull; the waiting is in receiver.h, the message format in wire.h.

#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "receiver.h"
#include "tensorflow/core/framework/allocation_description.pb.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_op_kernel.h"
#include "tensorflow/core/framework/types.h"
#include "wire.h"

namespace zmq_ops {

using tensorflow::AsyncOpKernel;
using tensorflow::DataType;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Status;
using tensorflow::Tensor;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;

static_assert(kMaxRank == TensorShape::MaxDimensions(), "wire.h must know the ranks that TensorShape accepts");

REGISTER_OP("ZMQConnection")
    .Output("handle: resource")
    .Attr("end_point: string")
    .Attr("hwm: int >= 1 = 10")
    .Attr("bind: bool = true")
    .Attr("user_name: string = ''")
    .Attr("password_variable: string = ''")
    .Attr("container: string = ''")
    .Attr("shared_name: string = ''")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::ScalarShape)
    .Doc(R"doc(
Opens a ZMQ PULL socket when it first runs in a session.

end_point: ZMQ address.
hwm: High-water mark: the number of messages ZMQ keeps until they are pulled.
bind: Bind to the address, or connect to it.
user_name: For ZMQ's PLAIN mechanism, which the other side must then have too; '' is none.
password_variable: Environment variable with the password. The password itself is no attribute, as graphs are written to
  files.
shared_name: Name of the socket; ops of one name and the same other attributes share a socket.
)doc");

REGISTER_OP("ZMQPull")
    .Input("handle: resource")
    .Output("components: types")
    .Attr("types: list(type) >= 1")
    .Attr("timeout: float = 0")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnknownShape)
    .Doc(R"doc(
Takes the next message from a ZMQ socket and waits for it without blocking a thread.

types: The dtypes that a message must hold, in their order; anything else is an InvalidArgument error.
timeout: Seconds without any message on the socket while the pull waits, after which it is a DeadlineExceeded error that
  names the address; 0 waits for ever.
)doc");

namespace {

// A tensor's memory within a message, which lives as long as the last of its tensors.
class PayloadBuffer : public tensorflow::TensorBuffer {
 public:
  PayloadBuffer(std::shared_ptr<Message> message, void* payload, size_t size)
      : TensorBuffer(payload), message_(std::move(message)), size_(size) {}

  size_t size() const override { return size_; }
  TensorBuffer* root_buffer() override { return this; }
  void FillAllocationDescription(tensorflow::AllocationDescription* proto) const override {
    proto->set_requested_bytes(size_);
    proto->set_allocator_name("zmq_ops");
  }

 private:
  const std::shared_ptr<Message> message_;
  const size_t size_;
};

// The socket as a resource: it is closed when the resource manager and the last running lookup let go of it.
class PullSocket : public tensorflow::ResourceBase {
 public:
  explicit PullSocket(std::shared_ptr<Receiver> receiver) : receiver_(std::move(receiver)) {}
  ~PullSocket() override { receiver_->Close(); }

  std::string DebugString() const override { return "ZMQ PULL socket of " + receiver_->options().end_point; }

  Receiver* receiver() const { return receiver_.get(); }

 private:
  const std::shared_ptr<Receiver> receiver_;
};

class ZMQConnectionOp : public tensorflow::ResourceOpKernel<PullSocket> {
 public:
  explicit ZMQConnectionOp(OpKernelConstruction* ctx) : ResourceOpKernel(ctx) {
    int64_t hwm;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("end_point", &options_.end_point));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("hwm", &hwm));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("bind", &options_.bind));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("user_name", &options_.user_name));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("password_variable", &options_.password_variable));
    OP_REQUIRES(ctx, hwm >= 1 && hwm <= std::numeric_limits<int>::max(),
                errors::InvalidArgument("zmq_ops: hwm ", hwm, " is not within 1 and ",
                                        std::numeric_limits<int>::max()));
    options_.hwm = static_cast<int>(hwm);
  }

 private:
  Status CreateResource(PullSocket** socket) override {
    std::shared_ptr<Receiver> receiver;
    *socket = nullptr;
    TF_RETURN_IF_ERROR(Receiver::Open(options_, &receiver));
    *socket = new PullSocket(std::move(receiver));
    return tensorflow::OkStatus();
  }

  Status VerifyResource(PullSocket* socket) override {
    const ReceiverOptions& found = socket->receiver()->options();
    if (found == options_) return tensorflow::OkStatus();
    return errors::InvalidArgument("zmq_ops: the socket ", cinfo_.name(), " is open with ", Text(found),
                                   " and cannot be had with ", Text(options_));
  }

  static std::string Text(const ReceiverOptions& options) {
    return "end_point '" + options.end_point + "', hwm " + std::to_string(options.hwm) +
           (options.bind ? ", bind" : ", connect") +
           (options.user_name.empty() ? "" : ", user name '" + options.user_name + "'");
  }

  ReceiverOptions options_;
};

class ZMQPullOp : public AsyncOpKernel {
 public:
  explicit ZMQPullOp(OpKernelConstruction* ctx) : AsyncOpKernel(ctx) {
    std::vector<DataType> types;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("types", &types));
    for (DataType type : types) {
      const Dtype* dtype = FindDtype(type);
      OP_REQUIRES(ctx, dtype != nullptr && dtype->item_size == tensorflow::DataTypeSize(type),
                  errors::InvalidArgument("zmq_ops: ", tensorflow::DataTypeString(type), " cannot be received"));
      codes_.push_back(dtype->code);
    }
    OP_REQUIRES_OK(ctx, ctx->GetAttr("timeout", &timeout_));
    OP_REQUIRES(ctx, timeout_ >= 0, errors::InvalidArgument("zmq_ops: timeout ", timeout_, " is below 0 seconds"));
  }

  void ComputeAsync(OpKernelContext* ctx, DoneCallback done) override {
    tensorflow::core::RefCountPtr<PullSocket> socket;
    OP_REQUIRES_OK_ASYNC(ctx, tensorflow::LookupResource(ctx, tensorflow::HandleFromInput(ctx, 0), &socket), done);
    const auto finish = [this, ctx, done](const Status& status, const std::shared_ptr<Message>& message) {
      ctx->SetStatus(status.ok() ? SetOutputs(ctx, message) : status);
      done();
    };
    // A batch that comes later is copied by a thread of the step's, so that the receiver's thread can go on. The
    // waiting pull holds no reference to the socket: closing it completes the pull. Kernel and context live until
    // `done` is called.
    const auto finish_later = [ctx, finish](const Status& status, std::shared_ptr<Message> message) {
      if (message == nullptr) {
        finish(status, nullptr);
      } else {
        (*ctx->runner())([finish, message = std::move(message)] { finish(tensorflow::OkStatus(), message); });
      }
    };
    const std::shared_ptr<Message> message =
        socket->receiver()->Pull(ctx->cancellation_manager(), timeout_, finish_later);
    if (message != nullptr) finish(tensorflow::OkStatus(), message);
  }

 private:
  Status SetOutputs(OpKernelContext* ctx, const std::shared_ptr<Message>& message) const {
    if (message->frames() != 1) {
      return errors::InvalidArgument("zmq_ops: the message has ", message->frames(), " frames, a batch is one frame");
    }
    MessageParser parser(message->data(), message->size());
    std::vector<TensorView> tensors;
    if (!parser.Parse(codes_, &tensors)) return errors::InvalidArgument("zmq_ops: ", parser.error());
    for (size_t i = 0; i < tensors.size(); ++i) {
      TF_RETURN_IF_ERROR(SetOutput(ctx, static_cast<int>(i), tensors[i], message));
    }
    return tensorflow::OkStatus();
  }

  // The output lies in the message itself where it is aligned as TensorFlow needs it, else it is a copy. A tensor that
  // goes to a GPU is always copied, into memory that the GPU can read itself.
  Status SetOutput(OpKernelContext* ctx, int index, const TensorView& tensor,
                   const std::shared_ptr<Message>& message) const {
    TensorShape shape;
    TF_RETURN_IF_ERROR(TensorShape::BuildTensorShape(tensor.dims, &shape));
    if (tensor.bytes > 0 && !ctx->output_alloc_attr(index).gpu_compatible()) {
      tensorflow::core::RefCountPtr<tensorflow::TensorBuffer> buffer(
          new PayloadBuffer(message, const_cast<char*>(tensor.payload), tensor.bytes));
      Tensor in_place(ctx->expected_output_dtype(index), shape, std::move(buffer));
      if (in_place.IsAligned()) {
        ctx->set_output(index, std::move(in_place));
        return tensorflow::OkStatus();
      }
    }
    Tensor* output = nullptr;
    TF_RETURN_IF_ERROR(ctx->allocate_output(index, shape, &output));
    if (tensor.bytes > 0) std::memcpy(output->data(), tensor.payload, tensor.bytes);
    return tensorflow::OkStatus();
  }

  std::vector<int32_t> codes_;
  float timeout_;  // seconds
};

REGISTER_KERNEL_BUILDER(Name("ZMQConnection").Device(tensorflow::DEVICE_CPU), ZMQConnectionOp);
REGISTER_KERNEL_BUILDER(Name("ZMQPull").Device(tensorflow::DEVICE_CPU), ZMQPullOp);

}  // namespace
}  // namespace zmq_ops
