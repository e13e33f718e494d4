#include "receiver.h"

#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "tensorflow/core/platform/errors.h"

namespace zmq_ops {

using tensorflow::Status;
namespace errors = tensorflow::errors;

namespace {

// The error of a libzmq call that has just failed, as the status of the class that its errno belongs to.
Status ZmqError(const std::string& action, const std::string& end_point) {
  const int code = zmq_errno();
  const std::string text = "zmq_ops: cannot " + action + " '" + end_point + "': " + zmq_strerror(code);
  switch (code) {
    case EINVAL:
    case ENAMETOOLONG:
    case EPROTONOSUPPORT:
    case ENOCOMPATPROTO:
      return errors::InvalidArgument(text);
    case EACCES:
    case EPERM:
      return errors::PermissionDenied(text);
    case EMFILE:
    case ENOMEM:
      return errors::ResourceExhausted(text);
    case EADDRINUSE:
    case EADDRNOTAVAIL:
    case ENODEV:  // no such network interface
      // Not Unavailable: TensorFlow keeps that for its own network and rewrites it.
      return errors::FailedPrecondition(text);
    default:
      return errors::Internal(text);
  }
}

// A message that has been taken off the socket. Of one with several frames, which the op refuses, only the first is
// kept.
class HeldMessage {
 public:
  HeldMessage() { zmq_msg_init(&first_); }
  ~HeldMessage() { zmq_msg_close(&first_); }
  HeldMessage(const HeldMessage&) = delete;
  HeldMessage& operator=(const HeldMessage&) = delete;

  bool empty() const { return frames_ == 0; }

  MessageView view() { return {zmq_msg_data(&first_), zmq_msg_size(&first_), frames_}; }

  void Clear() {
    zmq_msg_close(&first_);
    zmq_msg_init(&first_);
    frames_ = 0;
  }

  // Takes a message if there is one, and never waits. Returns 0, or -1 with errno set.
  int Receive(void* socket) {
    if (ReceiveFrame(&first_, socket) < 0) return errno == EAGAIN ? 0 : -1;
    frames_ = 1;
    // ZMQ hands over a message's frames together, so the rest is there already.
    for (bool more = zmq_msg_more(&first_); more; ++frames_) {
      zmq_msg_t frame;
      zmq_msg_init(&frame);
      const int result = ReceiveFrame(&frame, socket);
      more = result >= 0 && zmq_msg_more(&frame);
      zmq_msg_close(&frame);
      if (result < 0) return -1;
    }
    return 0;
  }

 private:
  static int ReceiveFrame(zmq_msg_t* frame, void* socket) {
    return TEMP_FAILURE_RETRY(zmq_msg_recv(frame, socket, ZMQ_DONTWAIT));
  }

  zmq_msg_t first_;
  int frames_ = 0;
};

}  // namespace

void Receiver::ContextDeleter::operator()(void* context) const { TEMP_FAILURE_RETRY(zmq_ctx_term(context)); }

void Receiver::SocketDeleter::operator()(void* socket) const { zmq_close(socket); }

Status Receiver::Open(const ReceiverOptions& options, std::shared_ptr<Receiver>* receiver) {
  std::shared_ptr<Receiver> opened(new Receiver(options));
  TF_RETURN_IF_ERROR(opened->OpenSocket());
  TF_RETURN_IF_ERROR(opened->StartThread());
  *receiver = std::move(opened);
  return tensorflow::OkStatus();
}

Receiver::~Receiver() {
  if (wake_fd_ >= 0) close(wake_fd_);
}

Status Receiver::OpenSocket() {
  const std::string& end_point = options_.end_point;
  context_.reset(zmq_ctx_new());
  if (context_ == nullptr) return ZmqError("make a ZMQ context for", end_point);
  socket_.reset(zmq_socket(context_.get(), ZMQ_PULL));
  if (socket_ == nullptr) return ZmqError("make a ZMQ socket for", end_point);
  const int linger = 0;  // milliseconds; closing must not wait
  // The high-water mark holds for connections made after it is set.
  if (zmq_setsockopt(socket_.get(), ZMQ_LINGER, &linger, sizeof linger) != 0 ||
      zmq_setsockopt(socket_.get(), ZMQ_RCVHWM, &options_.hwm, sizeof options_.hwm) != 0) {
    return ZmqError("set the options of the socket for", end_point);
  }
  if (options_.bind) {
    if (zmq_bind(socket_.get(), end_point.c_str()) != 0) return ZmqError("bind to", end_point);
  } else {
    if (zmq_connect(socket_.get(), end_point.c_str()) != 0) return ZmqError("connect to", end_point);
  }
  return tensorflow::OkStatus();
}

Status Receiver::StartThread() {
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd_ < 0) return ZmqError("make an eventfd for", options_.end_point);
  try {
    thread_ = std::thread([self = shared_from_this()] { self->Run(); });
  } catch (const std::system_error& e) {
    return errors::ResourceExhausted("zmq_ops: cannot start a thread for '", options_.end_point, "': ", e.what());
  }
  return tensorflow::OkStatus();
}

void Receiver::Pull(tensorflow::CancellationManager* cancellation, Callback callback) {
  Status refusal;
  {
    // One lock over registering and queueing: a cancellation in between would not find the pull. TensorFlow runs
    // cancellation callbacks without the manager's own lock, so the order of the two locks is no danger.
    std::lock_guard<std::mutex> lock(mu_);
    refusal = shut_;
    Waiting pull;
    pull.id = next_id_++;
    pull.callback = callback;
    pull.cancellation = cancellation;
    if (refusal.ok() && cancellation != nullptr) {
      pull.token = cancellation->get_cancellation_token();
      const auto cancel = [self = shared_from_this(), id = pull.id] { self->Cancel(id); };
      if (!cancellation->RegisterCallback(pull.token, cancel)) {
        refusal = errors::Cancelled("zmq_ops: the step was cancelled before its pull");
      }
    }
    if (refusal.ok()) waiting_.push_back(std::move(pull));
  }
  if (refusal.ok()) {
    Wake();
  } else {
    callback(refusal, MessageView());
  }
}

void Receiver::Cancel(int64_t id) {
  Callback callback;
  {
    std::lock_guard<std::mutex> lock(mu_);
    const auto pull =
        std::find_if(waiting_.begin(), waiting_.end(), [id](const Waiting& waiting) { return waiting.id == id; });
    if (pull == waiting_.end()) return;  // is being completed by somebody else
    callback = std::move(pull->callback);
    waiting_.erase(pull);
  }
  callback(errors::Cancelled("zmq_ops: the pull was cancelled while it waited for a message"), MessageView());
}

// Whoever took the pull out of the queue calls this, without the lock.
void Receiver::Complete(const Waiting& pull, const Status& status, const MessageView& message) {
  // "Try", because the other form waits for all callbacks of a cancellation under way, and one of them might wait for
  // this thread. If it comes too late, Cancel() finds nothing; the receiver it is called on is kept alive by it.
  if (pull.cancellation != nullptr) pull.cancellation->TryDeregisterCallback(pull.token);
  pull.callback(status, message);
}

void Receiver::Close() {
  Shut(errors::Cancelled("zmq_ops: the socket of '", options_.end_point, "' was closed"));
  Wake();
  // A callback may drop the last reference to the socket's resource, and then this is the receiver's own thread.
  if (thread_.get_id() == std::this_thread::get_id()) {
    thread_.detach();
  } else {
    thread_.join();
  }
}

void Receiver::Shut(const Status& reason) {
  std::deque<Waiting> abandoned;
  {
    std::lock_guard<std::mutex> lock(mu_);
    shut_ = reason;
    abandoned.swap(waiting_);
  }
  for (const Waiting& pull : abandoned) Complete(pull, reason, MessageView());
}

void Receiver::Wake() {
  // The only possible failure is a full counter, and then the thread wakes up anyway.
  eventfd_write(wake_fd_, 1);
}

void Receiver::Run() {
  pthread_setname_np(pthread_self(), "zmq_ops");  // what `top -H` and a debugger show
  const Status status = ReceiveUntilShut();
  if (!status.ok()) Shut(status);
  socket_.reset();
  context_.reset();
}

// The thread's loop. Returns OK when the receiver was shut, and the error if the socket broke.
Status Receiver::ReceiveUntilShut() {
  HeldMessage held;
  while (true) {
    bool somebody_waits;
    Waiting pull;
    {
      std::lock_guard<std::mutex> lock(mu_);
      if (!shut_.ok()) return tensorflow::OkStatus();
      somebody_waits = !waiting_.empty();
      if (somebody_waits && !held.empty()) {
        pull = std::move(waiting_.front());
        waiting_.pop_front();
      }
    }
    if (pull.callback != nullptr) {
      Complete(pull, tensorflow::OkStatus(), held.view());
      held.Clear();
      continue;
    }

    zmq_pollitem_t items[] = {{nullptr, wake_fd_, ZMQ_POLLIN, 0}, {socket_.get(), 0, ZMQ_POLLIN, 0}};
    if (zmq_poll(items, somebody_waits ? 2 : 1, -1) < 0) {
      if (zmq_errno() == EINTR) continue;
      return ZmqError("poll", options_.end_point);
    }
    if (items[0].revents != 0) {
      eventfd_t ignored;
      eventfd_read(wake_fd_, &ignored);
    }
    if (items[1].revents != 0 && held.Receive(socket_.get()) < 0) {
      return ZmqError("receive from", options_.end_point);
    }
  }
}

}  // namespace zmq_ops
