#include "receiver.h"

#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <system_error>
#include <utility>

#include "tensorflow/core/platform/errors.h"

namespace zmq_ops {

using tensorflow::Status;
namespace errors = tensorflow::errors;

namespace {

constexpr double kLongestWait = 3600;  // seconds of one poll; a longer timeout takes several

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

int ReceiveFrame(zmq_msg_t* frame, void* socket) {
  return TEMP_FAILURE_RETRY(zmq_msg_recv(frame, socket, ZMQ_DONTWAIT));
}

}  // namespace

int Message::Receive(void* socket) {
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
  return 1;
}

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
  if (!options_.user_name.empty()) TF_RETURN_IF_ERROR(SetPassword());
  if (options_.bind) {
    if (zmq_bind(socket_.get(), end_point.c_str()) != 0) return ZmqError("bind to", end_point);
  } else {
    if (zmq_connect(socket_.get(), end_point.c_str()) != 0) return ZmqError("connect to", end_point);
  }
  return tensorflow::OkStatus();
}

Status Receiver::SetPassword() {
  const char* password = std::getenv(options_.password_variable.c_str());
  if (password == nullptr) {
    return errors::InvalidArgument("zmq_ops: no password for '", options_.end_point, "' in the environment's ",
                                   options_.password_variable);
  }
  if (zmq_setsockopt(socket_.get(), ZMQ_PLAIN_USERNAME, options_.user_name.data(), options_.user_name.size()) != 0 ||
      zmq_setsockopt(socket_.get(), ZMQ_PLAIN_PASSWORD, password, std::strlen(password)) != 0) {
    return ZmqError("set user name and password for", options_.end_point);
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

std::shared_ptr<Message> Receiver::Pull(tensorflow::CancellationManager* cancellation, double timeout,
                                        Callback callback) {
  std::shared_ptr<Message> message;
  Status refusal;
  {
    // One lock over registering and queueing: a cancellation in between would not find the pull. TensorFlow runs
    // cancellation callbacks without the manager's own lock, so the order of the two locks is no danger.
    std::lock_guard<std::mutex> lock(mu_);
    refusal = shut_;
    if (refusal.ok() && waiting_.empty() && !polling_ && (cancellation == nullptr || !cancellation->IsCancelled())) {
      refusal = TakeMessage(&message);
    }
    if (message != nullptr) return message;
    Waiting pull;
    pull.id = next_id_++;
    pull.begin = Clock::now();
    pull.timeout = timeout;
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
    callback(refusal, nullptr);
  }
  return nullptr;
}

// For whoever holds mu_ and may use the socket. Leaves `message` null if there is none.
Status Receiver::TakeMessage(std::shared_ptr<Message>* message) {
  auto taken = std::make_shared<Message>();
  const int received = taken->Receive(socket_.get());
  if (received < 0) return ZmqError("receive from", options_.end_point);
  if (received > 0) {
    last_message_ = Clock::now();
    *message = std::move(taken);
  }
  return tensorflow::OkStatus();
}

// Of a waiting pull with a timeout, until the socket has been silent for that long. In double, as any number of seconds
// may be asked for.
double Receiver::SecondsLeft(const Waiting& pull) const {
  const std::chrono::duration<double> silence = Clock::now() - std::max(pull.begin, last_message_);
  return pull.timeout - silence.count();
}

// Takes the pulls that have waited for too long out of the queue. Lowers `seconds_left` to the others' next timeout.
std::vector<Receiver::Waiting> Receiver::TakeSilent(double* seconds_left) {
  std::vector<Waiting> silent;
  for (auto pull = waiting_.begin(); pull != waiting_.end();) {
    const double left = pull->timeout > 0 ? SecondsLeft(*pull) : *seconds_left;
    if (left <= 0) {
      silent.push_back(std::move(*pull));
      pull = waiting_.erase(pull);
    } else {
      *seconds_left = std::min(*seconds_left, left);
      ++pull;
    }
  }
  return silent;
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
  callback(errors::Cancelled("zmq_ops: the pull was cancelled while it waited for a message"), nullptr);
}

// Whoever took the pull out of the queue calls this, without the lock.
void Receiver::Complete(const Waiting& pull, const Status& status, std::shared_ptr<Message> message) {
  // "Try", because the other form waits for all callbacks of a cancellation under way, and one of them might wait for
  // this thread. If it comes too late, Cancel() finds nothing; the receiver it is called on is kept alive by it.
  if (pull.cancellation != nullptr) pull.cancellation->TryDeregisterCallback(pull.token);
  pull.callback(status, std::move(message));
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
  for (const Waiting& pull : abandoned) Complete(pull, reason, nullptr);
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
  while (true) {
    bool somebody_waits;
    Waiting pull;
    std::shared_ptr<Message> message;
    std::vector<Waiting> silent;
    double seconds_left = kLongestWait;
    {
      std::lock_guard<std::mutex> lock(mu_);
      polling_ = false;
      if (!shut_.ok()) return tensorflow::OkStatus();
      if (!waiting_.empty()) TF_RETURN_IF_ERROR(TakeMessage(&message));
      if (message != nullptr) {
        pull = std::move(waiting_.front());
        waiting_.pop_front();
      } else {
        silent = TakeSilent(&seconds_left);
      }
      somebody_waits = !waiting_.empty();
      polling_ = somebody_waits && message == nullptr;
    }
    if (message != nullptr) {
      Complete(pull, tensorflow::OkStatus(), std::move(message));
      continue;
    }
    for (const Waiting& late : silent) {
      std::ostringstream text;
      text << "zmq_ops: no batch from '" << options_.end_point << "' for " << late.timeout
           << " s; is its data server running?";
      Complete(late, errors::DeadlineExceeded(text.str()), nullptr);
    }

    zmq_pollitem_t items[] = {{nullptr, wake_fd_, ZMQ_POLLIN, 0}, {socket_.get(), 0, ZMQ_POLLIN, 0}};
    // Rounded up: a wait that ended too early would have to be repeated.
    const long milliseconds = somebody_waits ? static_cast<long>(seconds_left * 1000) + 1 : -1;
    if (zmq_poll(items, somebody_waits ? 2 : 1, milliseconds) < 0) {
      if (zmq_errno() == EINTR) continue;
      return ZmqError("poll", options_.end_point);
    }
    if (items[0].revents != 0) {
      eventfd_t ignored;
      eventfd_read(wake_fd_, &ignored);
    }
  }
}

}  // namespace zmq_ops
