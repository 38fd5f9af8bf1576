#include "drivers/udp_port.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

#include "drivers/file_descriptor.h"
#include "drivers/udp_connections.h"
#include "drivers/udp_message.h"
#include "drivers/udp_receiver.h"
#include "drivers/udp_sender.h"
#include "drivers/udp_socket.h"

namespace wireplane {
namespace {

using Family = Address::Family;

// SO_ATTACH_REUSEPORT_CBPF and its neighbours are in <asm/socket.h>, which <sys/socket.h> includes.
constexpr int kPortAttempts = 64;  // a free port of one family may be taken in the other

// A socket bound to `port`. `joins`: others of ours are bound to it already.
Result<FileDescriptor> make_socket(const UdpOptions& options, Family family, std::uint16_t port, bool joins) {
  auto made = make_udp_socket(options, family);
  if (!made) return made;
  FileDescriptor& fd = *made;
  if (options.fwmark != 0 && !set_option(fd.get(), SOL_SOCKET, SO_MARK, static_cast<int>(options.fwmark)))
    return udp_failed("setting the fwmark (needs CAP_NET_ADMIN)");
  if (joins && !set_option(fd.get(), SOL_SOCKET, SO_REUSEPORT, 1)) return udp_failed("setting SO_REUSEPORT");
  if (!bind_udp_socket(fd.get(), family, {}, port)) return udp_failed("binding port " + std::to_string(port));
  if (!joins && options.workers > 1 && !set_option(fd.get(), SOL_SOCKET, SO_REUSEPORT, 1))
    return udp_failed("setting SO_REUSEPORT");
  return made;
}

// The rule of steering.h for the kernel. Its answer is a place in the group, in the order of binding; one that does not
// exist (-1) makes the kernel choose by a hash of addresses and ports. The data begins with the UDP payload; a load
// beyond its end ends the program with 0. The index is little-endian: its low bits stand in its first octet.
bool attach_steering(int fd, unsigned workers) {
  const std::array<sock_filter, 11> program{{
      {BPF_LD | BPF_B | BPF_ABS, 0, 0, 0},                      // 0  type
      {BPF_JMP | BPF_JEQ | BPF_K, 5, 0, 4},                     // 1  data -> 7
      {BPF_JMP | BPF_JEQ | BPF_K, 4, 0, 3},                     // 2  cookie reply -> 7
      {BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 2},                     // 3  response -> 5
      {BPF_RET | BPF_K, 0, 0, 0xffffffff},                      // 4  no index: by hash
      {BPF_LD | BPF_B | BPF_ABS, 0, 0, 8},                      // 5
      {BPF_JMP | BPF_JA, 0, 0, 1},                              // 6  -> 8
      {BPF_LD | BPF_B | BPF_ABS, 0, 0, 4},                      // 7
      {BPF_ALU | BPF_AND | BPF_K, 0, 0, kSteeringBuckets - 1},  // 8
      {BPF_ALU | BPF_MOD | BPF_K, 0, 0, workers},               // 9
      {BPF_RET | BPF_A, 0, 0, 0},                               // 10
  }};
  sock_fprog filter{};
  filter.len = program.size();
  filter.filter = const_cast<sock_filter*>(program.data());
  return ::setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &filter, sizeof filter) == 0;
}

}  // namespace

// ---- one worker's sockets

class UdpPort final : public Port {
 public:
  UdpPort(FileDescriptor v4, FileDescriptor v6, const UdpOptions& options)
      : v4_{std::move(v4)},
        v6_{std::move(v6)},
        connections_{options},
        receiver_{options.trains && knows_udp_option(v4_.get(), kUdpGro),
                  options.trains && knows_udp_option(v6_.get(), kUdpGro), connections_, options.whole_trains},
        sender_{options.trains && knows_udp_option(v4_.get(), kUdpSegment),
                options.trains && knows_udp_option(v6_.get(), kUdpSegment), connections_} {}

  void receive(Burst& burst, WorkerContext& context) override {
    connections_.look_at_clock();
    receiver_.receive(v4_.get(), v6_.get(), burst, context);
  }
  std::size_t send(Burst& burst, WorkerContext& context) override {
    if (!burst.empty()) receiver_.sent(burst.size());
    return sender_.send(v4_.get(), v6_.get(), burst, context);
  }
  void wake_fds(std::vector<int>& fds) const override {
    if (receiver_.waits_for_buffers()) return;  // no descriptor tells when there are some: it is polled with naps
    if (v4_) fds.push_back(v4_.get());
    if (v6_) fds.push_back(v6_.get());
    if (!connections_.any()) return;
    for (std::size_t i = 0; i < UdpConnections::kMost; ++i)
      if (connections_.is_open(i)) fds.push_back(connections_.at(i).fd.get());
  }

  void time_passes() { receiver_.time_passes(); }
  [[nodiscard]] bool may_have_more() const { return receiver_.may_have_more(); }
  [[nodiscard]] int fd(Family family) const { return family == Family::kV4 ? v4_.get() : v6_.get(); }
  [[nodiscard]] UdpConnections& connections() { return connections_; }
  [[nodiscard]] UdpTrains trains() const {
    return {sender_.trains(), sender_.refused(), receiver_.trains(), receiver_.copied()};
  }

 private:
  FileDescriptor v4_, v6_;
  UdpConnections connections_;
  UdpReceiver receiver_;
  UdpSender sender_;
};

// ---- the device

struct UdpDevice::Sockets {
  std::uint16_t port = 0;
  std::vector<FileDescriptor> v4, v6;  // by worker; empty: not this family
};

Result<UdpDevice::Sockets> UdpDevice::bind_all(const UdpOptions& options, std::uint16_t port) {
  Sockets sockets;
  sockets.port = port;
  std::optional<Error> missing;
  for (const Family family : {Family::kV4, Family::kV6}) {
    if (!(family == Family::kV4 ? options.ipv4 : options.ipv6)) continue;
    auto& group = family == Family::kV4 ? sockets.v4 : sockets.v6;
    for (unsigned worker = 0; worker < options.workers; ++worker) {
      auto made = make_socket(options, family, sockets.port, worker > 0);
      if (!made && made.error().code == EAFNOSUPPORT) {
        missing = made.error();
        break;
      }
      if (!made) return made.error();
      if (sockets.port == 0) sockets.port = bound_udp_port(made->get());
      group.push_back(std::move(*made));
    }
    if (group.size() > 1 && !attach_steering(group[0].get(), options.workers))
      return udp_failed("attaching the program that steers datagrams to workers");
  }
  if (sockets.v4.empty() && sockets.v6.empty())
    return missing ? *missing : Error{"udp: neither IPv4 nor IPv6 is wanted", EINVAL};
  return sockets;
}

Result<UdpDevice::Sockets> UdpDevice::bind_any(const UdpOptions& options) {
  for (int attempt = 1;; ++attempt) {
    auto sockets = bind_all(options, 0);
    if (sockets || sockets.error().code != EADDRINUSE || attempt == kPortAttempts) return sockets;
  }
}

Result<std::unique_ptr<UdpDevice>> UdpDevice::open(const UdpOptions& options) {
  if (options.workers == 0 || options.workers > kSteeringBuckets)
    return Error{
        "udp: expected 1 to " + std::to_string(kSteeringBuckets) + " workers, got " + std::to_string(options.workers),
        EINVAL};
  auto sockets = options.listen_port == 0 ? bind_any(options) : bind_all(options, options.listen_port);
  if (!sockets) return sockets.error();
  std::unique_ptr<UdpDevice> device{new UdpDevice{options}};
  device->port_ = sockets->port;
  for (unsigned worker = 0; worker < options.workers; ++worker)
    device->ports_.push_back(
        std::make_unique<UdpPort>(sockets->v4.empty() ? FileDescriptor{} : std::move(sockets->v4[worker]),
                                  sockets->v6.empty() ? FileDescriptor{} : std::move(sockets->v6[worker]), options));
  return device;
}

UdpDevice::UdpDevice(const UdpOptions& options) : options_{options} {}

UdpDevice::~UdpDevice() = default;

Port& UdpDevice::queue(unsigned worker) { return *ports_.at(worker); }

UdpTrains UdpDevice::trains() const {
  UdpTrains all;
  for (const auto& port : ports_) {
    const UdpTrains its = port->trains();
    all.sent += its.sent;
    all.refused += its.refused;
    all.received += its.received;
    all.copied += its.copied;
  }
  return all;
}

bool UdpDevice::may_have_more(unsigned worker) const { return ports_[worker]->may_have_more(); }
void UdpDevice::time_passes(unsigned worker) { ports_[worker]->time_passes(); }

unsigned UdpDevice::connections() const {
  unsigned count = 0;
  for (const auto& port : ports_) count += port->connections().count();
  return count;
}

std::uint64_t UdpDevice::connections_opened() const {
  std::uint64_t count = 0;
  for (const auto& port : ports_) count += port->connections().opened();
  return count;
}

std::string UdpDevice::describe() const {
  const bool v4 = ports_[0]->fd(Family::kV4) >= 0, v6 = ports_[0]->fd(Family::kV6) >= 0;
  std::string text = "udp ";
  if (v4) text += "0.0.0.0:" + std::to_string(port_);
  if (v4 && v6) text += " ";
  if (v6) text += "[::]:" + std::to_string(port_);
  return text + " x" + std::to_string(queues());
}

Status UdpDevice::set_listen_port(std::uint16_t port) {
  if (port == port_) return Nothing{};
  UdpOptions wanted = options_;  // the families we have: a port keeps its shape
  wanted.ipv4 = ports_[0]->fd(Family::kV4) >= 0;
  wanted.ipv6 = ports_[0]->fd(Family::kV6) >= 0;
  auto sockets = port == 0 ? bind_any(wanted) : bind_all(wanted, port);
  if (!sockets) return sockets.error();
  for (unsigned worker = 0; worker < queues(); ++worker)
    ports_[worker]->connections().disconnect_all([&] { replace(worker, *sockets); });
  port_ = sockets->port;
  return Nothing{};
}

void UdpDevice::replace(unsigned worker, const Sockets& by) {
  for (const Family family : {Family::kV4, Family::kV6}) {
    const int old_fd = ports_[worker]->fd(family);
    if (old_fd < 0) continue;
    const auto& group = family == Family::kV4 ? by.v4 : by.v6;
    WG_CHECK(group.size() == queues());
    int gro = 0;  // as the port's receiver has asked for; if it asks just now, it gets no trains, which is no harm
    socklen_t length = sizeof gro;
    if (::getsockopt(old_fd, IPPROTO_UDP, kUdpGro, &gro, &length) == 0 && gro != 0)
      set_option(group[worker].get(), IPPROTO_UDP, kUdpGro, gro);
    // Only a bad descriptor could make it fail now, and that would be our bug.
    WG_CHECK(::dup3(group[worker].get(), old_fd, O_CLOEXEC) == old_fd);
  }
}

Status UdpDevice::set_fwmark(std::uint32_t mark) {
  for (const auto& port : ports_) {
    for (const int fd : {port->fd(Family::kV4), port->fd(Family::kV6)})
      if (fd >= 0 && !set_option(fd, SOL_SOCKET, SO_MARK, static_cast<int>(mark)))
        return udp_failed("setting the fwmark (needs CAP_NET_ADMIN)");
    port->connections().set_mark(mark);
  }
  options_.fwmark = mark;
  return Nothing{};
}

}  // namespace wireplane
