// A ZMQ PULL socket with a thread of its own, and the pulls that wait for its messages.

#ifndef ZMQ_OPS_RECEIVER_H_
#define ZMQ_OPS_RECEIVER_H_

#include <zmq.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tensorflow/core/framework/cancellation.h"
#include "tensorflow/core/platform/status.h"

namespace zmq_ops {

struct ReceiverOptions {
  std::string end_point;
  int hwm;  // messages
  bool bind;
  // Of ZMQ's PLAIN mechanism; no user name: none. The password is in the environment variable of this name.
  std::string user_name;
  std::string password_variable;

  bool operator==(const ReceiverOptions& other) const {
    return end_point == other.end_point && hwm == other.hwm && bind == other.bind && user_name == other.user_name &&
           password_variable == other.password_variable;
  }
};

// A received message. It is freed with the last reference to it, on any thread. Of one with several frames, which the
// op refuses, only the first is kept.
class Message {
 public:
  Message() { zmq_msg_init(&first_); }
  ~Message() { zmq_msg_close(&first_); }
  Message(const Message&) = delete;
  Message& operator=(const Message&) = delete;

  void* data() { return zmq_msg_data(&first_); }
  size_t size() const { return zmq_msg_size(&first_); }  // bytes
  int frames() const { return frames_; }

  // Takes a message off a socket if there is one, and never waits. Returns 1 if there was, 0 if not, or -1 with errno
  // set.
  int Receive(void* socket);

 private:
  zmq_msg_t first_;
  int frames_ = 0;
};

// A pull that finds a message takes it along. One that does not only puts a callback in a queue, so no thread of
// TensorFlow's waits for a message and no lock is held over a wait. A message is taken off the socket only together
// with the pull that gets it: the others stay in ZMQ's queue, where the high-water mark counts them, and none is lost
// when a pull is cancelled.
class Receiver : public std::enable_shared_from_this<Receiver> {
 public:
  // Gets OK and a message, or an error and null. Called once, on any thread, without a lock held. On the receiver's
  // thread it keeps the other pulls waiting.
  using Callback = std::function<void(const tensorflow::Status&, std::shared_ptr<Message>)>;

  // Opens the socket and starts the thread. An address that ZMQ does not accept is InvalidArgument, one that is taken
  // or that this machine does not have is FailedPrecondition; the text names it. The caller must Close() the receiver.
  static tensorflow::Status Open(const ReceiverOptions& options, std::shared_ptr<Receiver>* receiver);

  ~Receiver();

  // Returns the next message if it is there and nobody else waits for it; then the callback is not called. Else returns
  // null. `cancellation` may be null. Cancelling completes the pull at once, with Cancelled; `timeout` seconds without
  // any message while it waits complete it with DeadlineExceeded, 0 is no limit.
  std::shared_ptr<Message> Pull(tensorflow::CancellationManager* cancellation, double timeout, Callback callback);

  // Completes the waiting pulls with Cancelled, stops the thread and frees the address.
  void Close();

  const ReceiverOptions& options() const { return options_; }

 private:
  using Clock = std::chrono::steady_clock;

  struct Waiting {
    int64_t id = 0;
    Clock::time_point begin;
    double timeout = 0;  // seconds; 0 is none
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
  tensorflow::Status SetPassword();
  tensorflow::Status StartThread();
  void Run();
  tensorflow::Status ReceiveUntilShut();
  void Shut(const tensorflow::Status& reason);
  void Cancel(int64_t id);
  void Wake();
  tensorflow::Status TakeMessage(std::shared_ptr<Message>* message);
  double SecondsLeft(const Waiting& pull) const;
  std::vector<Waiting> TakeSilent(double* seconds_left);
  static void Complete(const Waiting& pull, const tensorflow::Status& status, std::shared_ptr<Message> message);

  const ReceiverOptions options_;
  // The socket is declared last because it must be closed first: ending a context waits for its sockets.
  std::unique_ptr<void, ContextDeleter> context_;
  std::unique_ptr<void, SocketDeleter> socket_;
  int wake_fd_ = -1;  // an eventfd; wakes the thread out of its poll
  std::thread thread_;

  std::mutex mu_;
  std::deque<Waiting> waiting_;  // guarded by mu_
  // True while the receiver's thread waits for the socket without mu_; else whoever holds mu_ may use the socket.
  bool polling_ = false;            // guarded by mu_
  Clock::time_point last_message_;  // guarded by mu_; when one was taken last
  tensorflow::Status shut_;      // guarded by mu_; OK while pulls are served, else what they get
  int64_t next_id_ = 0;          // guarded by mu_
};

}  // namespace zmq_ops

#endif  // ZMQ_OPS_RECEIVER_H_
