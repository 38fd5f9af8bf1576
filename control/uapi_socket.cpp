#include "control/uapi_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <new>
#include <utility>

#include "control/log.h"

namespace wireplane {
namespace {

constexpr std::size_t kReadAtMost = 32 * 1024;  // a step and client
constexpr std::size_t kOutputGoal = 64 * 1024;  // a dump pauses while so much is unsent

Error system_error(std::string what) {
  const int code = errno;
  return {std::move(what) + ": " + std::strerror(code), code};
}

bool fill_address(sockaddr_un& address, const std::string& path) {
  address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return false;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return true;
}

int new_socket() { return socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0); }

// Someone answers at this address.
bool answers(const sockaddr_un& address) {
  const int fd = new_socket();
  if (fd < 0) return true;  // we cannot tell: leave it alone
  const int result = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const bool refused = result != 0 && errno == ECONNREFUSED;
  close(fd);
  return !refused;
}

Status make_directory(const std::string& path) {
  const std::string directory = path.substr(0, path.rfind('/'));
  if (mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST) return system_error("cannot make " + directory);
  return Nothing{};
}

// Only its owner may connect, from the first moment on: the mode is set by the umask, not afterwards.
int bind_private(int fd, const sockaddr_un& address) {
  const mode_t before = umask(077);
  const int result = bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const int error = errno;
  umask(before);
  errno = error;
  return result;
}

}  // namespace

std::string uapi_socket_path(const std::string& name, const std::string& directory) {
  return directory + '/' + name + ".sock";
}

// ---- one client ----

class UapiServer::Client {
 public:
  Client(int fd, const UapiServer& server, Instant now)
      : fd_{fd}, server_{server}, parser_{server.limits_.parser}, last_progress_{now}, request_began_{now} {}
  ~Client() { close(fd_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  [[nodiscard]] int fd() const { return fd_; }
  [[nodiscard]] bool done() const { return done_; }
  [[nodiscard]] short wants() const {
    const bool reads = phase_ == Phase::kReading && input_.empty() && !ended_;
    return static_cast<short>((reads ? POLLIN : 0) | (unsent() != 0 ? POLLOUT : 0));
  }
  [[nodiscard]] Instant deadline() const {
    const Instant idle = last_progress_ + server_.limits_.idle;
    return busy() ? std::min(idle, request_began_ + server_.limits_.request) : idle;
  }

  void receive(Instant now);
  bool step(Instant now);
  void give_up() { done_ = true; }

 private:
  enum class Phase { kReading, kDumping, kApplying };
  [[nodiscard]] std::size_t unsent() const { return output_.size() - sent_; }
  [[nodiscard]] bool busy() const { return phase_ != Phase::kReading || parser_.started() || unsent() != 0; }
  void take_input();
  void serve();
  void dump_some();
  void apply_some();
  void finish_request(int code);
  void send_some(Instant now);

  int fd_;
  const UapiServer& server_;
  UapiParser parser_;
  Phase phase_ = Phase::kReading;
  SecretText input_;   // read, but behind a request that is still being served; at most kReadAtMost
  SecretText output_;  // at most kOutputGoal and one peer more
  std::size_t sent_ = 0;
  std::size_t cursor_ = 0;             // of the dump
  std::deque<DeviceChange> parts_;     // still to be applied
  bool ended_ = false, done_ = false;  // the client will say no more; we have no more to do with it
  Instant last_progress_, request_began_;
};

void UapiServer::Client::receive(Instant now) {
  std::array<char, kReadAtMost> octets;
  const ssize_t count = recv(fd_, octets.data(), octets.size(), 0);
  if (count > 0) {
    if (!busy()) request_began_ = now;
    last_progress_ = now;
    input_.append(octets.data(), static_cast<std::size_t>(count));
    wipe(octets.data(), static_cast<std::size_t>(count));
  } else if (count == 0) {
    ended_ = true;  // it may still read a reply
  } else if (errno != EAGAIN && errno != EINTR) {
    done_ = true;
  }
}

// True: there is more to do at once.
bool UapiServer::Client::step(Instant now) {
  if (phase_ == Phase::kReading && !input_.empty()) take_input();
  if (phase_ == Phase::kDumping && unsent() < kOutputGoal) dump_some();
  if (phase_ == Phase::kApplying) {
    apply_some();
    last_progress_ = now;
  }
  if (unsent() != 0) send_some(now);
  if (now >= deadline()) done_ = true;
  if (ended_ && phase_ == Phase::kReading && input_.empty() && unsent() == 0) done_ = true;
  if (done_) return false;
  return phase_ == Phase::kApplying || (phase_ == Phase::kReading && !input_.empty()) ||
         (phase_ == Phase::kDumping && unsent() < kOutputGoal);
}

void UapiServer::Client::take_input() {
  const std::size_t taken = parser_.feed(input_);
  if (taken == input_.size()) {
    input_ = SecretText{};
  } else {
    input_.erase(0, taken);
  }
  if (parser_.complete()) serve();
}

void UapiServer::Client::serve() {
  if (parser_.error() != 0) {
    WG_LOG(Warning, "uapi_request_refused", {"reason", parser_.error_text()}, {"errno", parser_.error()});
    return finish_request(parser_.error());
  }
  switch (parser_.verb()) {
    case UapiVerb::kGet:
      append_uapi(output_, server_.device_.view());
      cursor_ = 0;
      phase_ = Phase::kDumping;
      return;
    case UapiVerb::kSet:
      parts_ = parser_.take_parts();
      phase_ = Phase::kApplying;
      return;
    case UapiVerb::kWireplane:
      if (!server_.report_) return finish_request(EOPNOTSUPP);
      output_.append(server_.report_()).append(1, '\n');
      return finish_request(0);
    case UapiVerb::kNone:
      return finish_request(EPROTO);
  }
}

void UapiServer::Client::dump_some() {
  cursor_ = server_.device_.dump_some(cursor_, server_.limits_.dump_at_most,
                                      [this](const PeerView& peer) { append_uapi(output_, peer); });
  if (cursor_ == Configurable::kEnd) finish_request(0);
}

// As in the kernel, where wg(8) sends a large change in several messages, traffic flows between the parts; and a part
// that fails for want of memory leaves those before it applied.
void UapiServer::Client::apply_some() {
  const Status status = [this]() -> Status {
    try {
      return server_.device_.apply(std::move(parts_.front()));
    } catch (const std::bad_alloc&) {
      return Error{"out of memory", ENOMEM};
    }
  }();
  parts_.pop_front();
  if (!status) {
    WG_LOG(Warning, "uapi_change_failed", {"reason", status.error().what}, {"errno", status.error().code});
    return finish_request(status.error().code != 0 ? status.error().code : EIO);
  }
  if (parts_.empty()) finish_request(0);
}

void UapiServer::Client::finish_request(int code) {
  append_uapi_errno(output_, code);
  parts_.clear();
  if (parser_.verb() == UapiVerb::kNone) ended_ = true, input_.clear();  // it speaks another language: answer and close
  parser_.reset();
  phase_ = Phase::kReading;
}

void UapiServer::Client::send_some(Instant now) {
  const ssize_t count = send(fd_, output_.data() + sent_, unsent(), MSG_NOSIGNAL);
  if (count < 0) {
    if (errno != EAGAIN && errno != EINTR) done_ = true;
    return;
  }
  last_progress_ = now;
  sent_ += static_cast<std::size_t>(count);
  if (unsent() != 0) return;
  output_.clear();
  sent_ = 0;
  if (phase_ == Phase::kReading) output_ = SecretText{};  // wiped and given back
}

// ---- the server ----

Result<std::unique_ptr<UapiServer>> UapiServer::listen(const std::string& path, Configurable& device, Report report,
                                                       UapiServerLimits limits) {
  sockaddr_un address;
  if (!fill_address(address, path)) return Error{"socket path too long: " + path, ENAMETOOLONG};
  if (Status made = make_directory(path); !made) return made.error();
  const int fd = new_socket();
  if (fd < 0) return system_error("cannot make a UNIX socket");
  int bound = bind_private(fd, address);
  if (bound != 0 && errno == EADDRINUSE) {
    if (answers(address)) {
      close(fd);
      return Error{"another device serves " + path, EADDRINUSE};
    }
    unlink(path.c_str());
    bound = bind_private(fd, address);
  }
  if (bound != 0 || ::listen(fd, 16) != 0) {
    const Error error = system_error("cannot listen at " + path);
    close(fd);
    return error;
  }
  return std::unique_ptr<UapiServer>{new UapiServer{fd, path, device, std::move(report), limits}};
}

UapiServer::UapiServer(int fd, std::string path, Configurable& device, Report report, UapiServerLimits limits)
    : fd_{fd}, path_{std::move(path)}, device_{device}, report_{std::move(report)}, limits_{limits} {
  struct stat facts {};
  if (stat(path_.c_str(), &facts) == 0) {
    device_number_ = facts.st_dev;
    inode_ = facts.st_ino;
  }
}

UapiServer::~UapiServer() {
  clients_.clear();
  if (!removed()) unlink(path_.c_str());  // before it is closed: nobody is to find a socket that nobody answers
  close(fd_);
}

bool UapiServer::removed() const {
  struct stat facts {};
  return lstat(path_.c_str(), &facts) != 0 || facts.st_dev != device_number_ || facts.st_ino != inode_;
}

void UapiServer::add_fds(std::vector<pollfd>& fds) const {
  if (clients_.size() < limits_.clients && !accept_at_) fds.push_back({.fd = fd_, .events = POLLIN, .revents = 0});
  for (const auto& client : clients_) fds.push_back({.fd = client->fd(), .events = client->wants(), .revents = 0});
}

void UapiServer::handle(std::span<const pollfd> fds, Instant now) {
  for (const pollfd& one : fds) {
    if (one.revents == 0) continue;
    if (one.fd == fd_) {
      accept_all(now);
      continue;
    }
    for (const auto& client : clients_)
      if (client->fd() == one.fd && (client->wants() & POLLIN) != 0) client->receive(now);
  }
}

void UapiServer::accept_all(Instant now) {
  while (clients_.size() < limits_.clients) {
    const int fd = accept4(fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      clients_.push_back(std::make_unique<Client>(fd, *this, now));
      continue;
    }
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return;
    // Out of descriptors or memory: the client still waits, so poll() would come back at once, for ever.
    accept_at_ = now + limits_.accept_again;
    WG_LOG(Warning, "uapi_accept_failed", {"why", std::strerror(errno)});
    return;
  }
}

bool UapiServer::step(Instant now) {
  bool more = false;
  if (accept_at_ && *accept_at_ <= now) accept_at_.reset();
  for (const auto& client : clients_) {
    try {
      more |= client->step(now);
    } catch (const std::bad_alloc&) {  // nothing to answer with: it sees the connection close
      client->give_up();
    }
  }
  std::erase_if(clients_, [](const auto& client) { return client->done(); });
  return more;
}

Instant UapiServer::next_deadline() const {
  Instant first = accept_at_.value_or(Instant::max());
  for (const auto& client : clients_) first = std::min(first, client->deadline());
  return first;
}

}  // namespace wireplane
