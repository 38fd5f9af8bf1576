#include "drivers/udp_connections.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "dataplane/base/check.h"
#include "drivers/udp_message.h"
#include "drivers/udp_socket.h"

namespace wireplane {
namespace {

constexpr unsigned kLongestPause = 64;  // periods

bool is_link_local(const Address& a) { return a.is_v6() && a.octets[0] == 0xfe && (a.octets[1] & 0xc0) == 0x80; }

bool can_be_connected(const Endpoint& peer) {
  return peer.valid() && peer.local.family == peer.remote.family && !is_link_local(peer.remote) &&
         !is_link_local(peer.local);
}

std::int64_t coarse_milliseconds() {  // 5 ns
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

// The port's socket admits others of ours to its port only while we bind one.
class Admission {
 public:
  explicit Admission(int fd) : fd_{fd}, given_{set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1)} {}
  ~Admission() { set_option(fd_, SOL_SOCKET, SO_REUSEPORT, 0); }
  Admission(const Admission&) = delete;
  Admission& operator=(const Admission&) = delete;
  [[nodiscard]] bool given() const { return given_; }

 private:
  const int fd_;
  const bool given_;
};

}  // namespace

UdpConnections::UdpConnections(const UdpOptions& options)
    : options_{options}, most_{options.workers == 1 ? std::min<std::size_t>(options.connections, kMost) : 0} {}

std::size_t UdpConnections::find(const Endpoint& to) const {
  if (!any()) return kNone;
  const std::uint64_t hash = fingerprint(to);
  for (std::size_t i = 0; i < kMost; ++i)
    if (all_[i].hash == hash && all_[i].fd && !all_[i].leaving && all_[i].peer == to) return i;
  return kNone;
}

// Misra and Gries' frequent elements (1982): whoever is none of the candidates takes from all of them, so that whoever
// sends more than a 17th of all stays one, and nobody is counted for more than passed. (A table by hash alone let two
// busy peers in one place drive each other out for ever.)
UdpConnections::Candidate* UdpConnections::candidate(std::uint64_t hash, std::uint32_t messages) {
  if (const auto its = std::ranges::find(candidates_, hash, &Candidate::hash); its != candidates_.end()) {
    its->messages += messages;
    return &*its;
  }
  const auto least = std::ranges::min_element(candidates_, {}, &Candidate::messages);
  const std::uint32_t taken = std::min(least->messages, messages);
  for (Candidate& its : candidates_) its.messages -= taken;
  if (taken == messages) return nullptr;
  *least = {hash, messages - taken};
  return &*least;
}

void UdpConnections::note(const Endpoint& peer, std::uint32_t messages, int fd) {
  if (most_ == 0 || pause_ != 0 || !can_be_connected(peer)) return;
  const std::uint64_t hash = fingerprint(peer);
  Candidate* its = candidate(hash, messages);
  if (its == nullptr || its->messages < options_.much) return;
  its->messages = 0;
  if (count() == most_) return;
  if (std::any_of(all_.begin(), all_.end(), [&](const Connection& c) { return c.fd && c.peer == peer; }))
    return;  // it has one, which is leaving or was opened while this came
  if (open(peer, hash, fd))
    failures_ = 0;
  else
    pause_ = std::min(1u << std::min(failures_++, 10u), kLongestPause);
}

// Everything that may be missing (descriptors, the address, a route, privilege) is no error.
bool UdpConnections::open(const Endpoint& peer, std::uint64_t hash, int fd) {
  const std::lock_guard lock{changing_};
  const std::uint16_t port = bound_udp_port(fd);
  std::uint32_t mark = 0;
  socklen_t length = sizeof mark;
  if (port == 0 || ::getsockopt(fd, SOL_SOCKET, SO_MARK, &mark, &length) != 0) return false;
  auto made = make_udp_socket(options_, peer.remote.family);
  if (!made || (mark != 0 && !set_option(made->get(), SOL_SOCKET, SO_MARK, static_cast<int>(mark)))) return false;
  SocketAddress remote;
  const socklen_t size = write_destination(peer, remote);
  if (!set_option(made->get(), SOL_SOCKET, SO_REUSEPORT, 1)) return false;
  {
    const Admission admission{fd};
    if (!admission.given() || !bind_udp_socket(made->get(), peer.remote.family, peer.local, port)) return false;
  }
  if (::connect(made->get(), &remote.any, size) != 0) return false;
  const auto free = std::find_if(all_.begin(), all_.end(), [](const Connection& c) { return !c.fd; });
  WG_CHECK(free != all_.end());
  *free = {.fd = std::move(*made),
           .peer = peer,
           .hash = hash,
           .messages = options_.much,  // its first period is not a whole one
           .number = opened_.load(std::memory_order_relaxed) + 1,
           .since = now_,
           .fresh = true,
           .leaving = false};
  count_.fetch_add(1, std::memory_order_relaxed);
  opened_.fetch_add(1, std::memory_order_relaxed);
  return true;
}

void UdpConnections::found_empty(std::size_t i) {
  Connection& its = all_[i];
  if (its.leaving) return close(i);
  if (!is_young(i) && std::exchange(its.fresh, false)) ask_for_own_address(its.fd.get(), its.peer.remote.family, false);
}

void UdpConnections::close(std::size_t i) {
  const std::lock_guard lock{changing_};
  all_[i] = Connection{};
  count_.fetch_sub(1, std::memory_order_relaxed);
}

void UdpConnections::look_at_clock() {
  if (most_ == 0) return;
  now_ = coarse_milliseconds();
  const std::int64_t period = now_ / options_.period_ms;
  if (period == period_) return;
  period_ = period;
  candidates_.fill({});
  if (pause_ != 0) --pause_;
  for (Connection& its : all_)
    if (its.fd && std::exchange(its.messages, 0) < options_.much / kLittleOfMuch) its.leaving = true;
}

// ---- control's

// A socket that is bound to nothing and never hears anything takes the place of each: the worker, perhaps in the middle
// of a call, finds that it cannot send with it, and lets it go.
void UdpConnections::disconnect() {
  for (const Connection& its : all_) {
    if (!its.fd) continue;
    const FileDescriptor deaf{::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)};
    if (deaf) WG_CHECK(::dup3(deaf.get(), its.fd.get(), O_CLOEXEC) == its.fd.get());
  }
}

void UdpConnections::set_mark(std::uint32_t mark) {
  const std::lock_guard lock{changing_};
  for (const Connection& its : all_)
    if (its.fd) set_option(its.fd.get(), SOL_SOCKET, SO_MARK, static_cast<int>(mark));
}

}  // namespace wireplane
