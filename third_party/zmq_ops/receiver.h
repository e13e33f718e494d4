// A ZMQ PULL socket with a thread of its own, and the pulls that wait for its messages.

#ifndef ZMQ_OPS_RECEIVER_H_
#define ZMQ_OPS_RECEIVER_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "tensorflow/core/framework/cancellation.h"
#include "tensorflow/core/platform/status.h"

namespace zmq_ops {

struct ReceiverOptions {
  std::string end_point;
  int hwm;  // messages
  bool bind;

  bool operator==(const ReceiverOptions& other) const {
    return end_point == other.end_point && hwm == other.hwm && bind == other.bind;
  }
};

// First frame of a received message, valid during the callback that gets it.
struct MessageView {
  const void* data = nullptr;
  size_t size = 0;  // bytes
  int frames = 0;
};

// Pull() only puts a callback in a queue, so no thread of TensorFlow's waits for a message and no lock is held over a
// wait. The receiver's thread alone touches the socket, and takes a message off it only while somebody waits: the
// others stay in ZMQ's queue, where the high-water mark counts them. If the pull is cancelled after that, the thread
// keeps the message for the next one; none is lost.
class Receiver : public std::enable_shared_from_this<Receiver> {
 public:
  // Gets OK and a message, or an error and an empty view. Called once, on any thread, without a lock held.
  using Callback = std::function<void(const tensorflow::Status&, const MessageView&)>;

  // Opens the socket and starts the thread. An address that ZMQ does not accept is InvalidArgument, one that is taken
  // or that this machine does not have is FailedPrecondition; the text names it. The caller must Close() the receiver.
  static tensorflow::Status Open(const ReceiverOptions& options, std::shared_ptr<Receiver>* receiver);

  ~Receiver();

  // `cancellation` may be null. Cancelling completes the pull at once, with Cancelled.
  void Pull(tensorflow::CancellationManager* cancellation, Callback callback);

  // Completes the waiting pulls with Cancelled, stops the thread and frees the address.
  void Close();

  const ReceiverOptions& options() const { return options_; }

 private:
  struct Waiting {
    int64_t id = 0;
    Callback callback;
    tensorflow::CancellationManager* cancellation = nullptr;
    tensorflow::CancellationToken token = tensorflow::CancellationManager::kInvalidToken;
  };
  struct ContextDeleter {
    void operator()(void* context) const;
  };
  struct SocketDeleter {
    void operator()(void* socket) const;
  };

  explicit Receiver(const ReceiverOptions& options) : options_(options) {}
  tensorflow::Status OpenSocket();
  tensorflow::Status StartThread();
  void Run();
  tensorflow::Status ReceiveUntilShut();
  void Shut(const tensorflow::Status& reason);
  void Cancel(int64_t id);
  void Wake();
  static void Complete(const Waiting& pull, const tensorflow::Status& status, const MessageView& message);

  const ReceiverOptions options_;
  // The socket is declared last because it must be closed first: ending a context waits for its sockets.
  std::unique_ptr<void, ContextDeleter> context_;
  std::unique_ptr<void, SocketDeleter> socket_;
  int wake_fd_ = -1;  // an eventfd; wakes the thread out of its poll
  std::thread thread_;

  std::mutex mu_;
  std::deque<Waiting> waiting_;  // guarded by mu_
  tensorflow::Status shut_;      // guarded by mu_; OK while pulls are served, else what they get
  int64_t next_id_ = 0;          // guarded by mu_
};

}  // namespace zmq_ops

#endif  // ZMQ_OPS_RECEIVER_H_
