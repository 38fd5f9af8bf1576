#include "drivers/udp_port.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

#include "dataplane/base/fault.h"
#include "drivers/file_descriptor.h"
#include "drivers/received.h"

namespace wireplane {
namespace {

using Family = Address::Family;

// SO_ATTACH_REUSEPORT_CBPF and its neighbours are in <asm/socket.h>, which <sys/socket.h> includes.
constexpr std::size_t kBatch = 64;           // messages a system call
constexpr std::size_t kControlOctets = 128;  // PKTINFO (v6: 20) and TOS, each with its header of 16, and room to spare
constexpr int kPortAttempts = 64;            // a free port of one family may be taken in the other

Error failed(std::string what) {
  const int code = errno;
  return Error{"udp: " + std::move(what) + ": " + std::strerror(code), code};
}

bool set_option(int fd, int level, int name, int value) {
  return ::setsockopt(fd, level, name, &value, sizeof value) == 0;
}

bool is_link_local(const Address& a) { return a.is_v6() && a.octets[0] == 0xfe && (a.octets[1] & 0xc0) == 0x80; }

union SocketAddress {
  sockaddr any;
  sockaddr_in v4;
  sockaddr_in6 v6;
};

// ---- making sockets

// Room for a burst that arrives while the worker is away; beyond the system's limit only with privilege.
void enlarge_buffers(int fd, const UdpOptions& options) {
  if (!set_option(fd, SOL_SOCKET, SO_RCVBUFFORCE, options.receive_buffer_octets))
    set_option(fd, SOL_SOCKET, SO_RCVBUF, options.receive_buffer_octets);
  if (!set_option(fd, SOL_SOCKET, SO_SNDBUFFORCE, options.send_buffer_octets))
    set_option(fd, SOL_SOCKET, SO_SNDBUF, options.send_buffer_octets);
}

bool set_family_options(int fd, Family family) {
  if (family == Family::kV4)
    return set_option(fd, IPPROTO_IP, IP_PKTINFO, 1) && set_option(fd, IPPROTO_IP, IP_RECVTOS, 1) &&
           set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT);
  return set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) && set_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1) &&
         set_option(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1) &&
         set_option(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DONT);
}

bool bind_any_address(int fd, Family family, std::uint16_t port) {
  SocketAddress address{};
  socklen_t length;
  if (family == Family::kV4) {
    address.v4.sin_family = AF_INET;
    address.v4.sin_port = htons(port);
    length = sizeof address.v4;
  } else {
    address.v6.sin6_family = AF_INET6;
    address.v6.sin6_port = htons(port);
    length = sizeof address.v6;
  }
  return ::bind(fd, &address.any, length) == 0;
}

std::uint16_t bound_port(int fd) {
  SocketAddress address{};
  socklen_t length = sizeof address;
  if (::getsockname(fd, &address.any, &length) != 0) return 0;
  return ntohs(address.any.sa_family == AF_INET ? address.v4.sin_port : address.v6.sin6_port);
}

// A socket bound to `port`. `joins`: others of ours are bound to it already.
Result<FileDescriptor> make_socket(const UdpOptions& options, Family family, std::uint16_t port, bool joins) {
  const int domain = family == Family::kV4 ? AF_INET : AF_INET6;
  FileDescriptor fd{::socket(domain, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_UDP)};
  if (!fd) return failed(family == Family::kV4 ? "opening an IPv4 socket" : "opening an IPv6 socket");
  if (!set_family_options(fd.get(), family)) return failed("setting socket options");
  enlarge_buffers(fd.get(), options);
  if (options.fwmark != 0 && !set_option(fd.get(), SOL_SOCKET, SO_MARK, static_cast<int>(options.fwmark)))
    return failed("setting the fwmark (needs CAP_NET_ADMIN)");
  if (joins && !set_option(fd.get(), SOL_SOCKET, SO_REUSEPORT, 1)) return failed("setting SO_REUSEPORT");
  if (!bind_any_address(fd.get(), family, port)) return failed("binding port " + std::to_string(port));
  if (!joins && options.workers > 1 && !set_option(fd.get(), SOL_SOCKET, SO_REUSEPORT, 1))
    return failed("setting SO_REUSEPORT");
  return fd;
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

// ---- one message, received

void read_control(msghdr& header, Packet& packet) {
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
      in_pktinfo info;
      std::memcpy(&info, CMSG_DATA(c), sizeof info);
      // spec_dst, not addr: for a broadcast it is the address we can answer from
      packet.from.local = Address::v4(reinterpret_cast<const std::uint8_t*>(&info.ipi_spec_dst));
      packet.from.interface = static_cast<std::uint32_t>(info.ipi_ifindex);
    } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
      in6_pktinfo info;
      std::memcpy(&info, CMSG_DATA(c), sizeof info);
      packet.from.local = Address::v6(info.ipi6_addr.s6_addr);
      packet.from.interface = info.ipi6_ifindex;
    } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
      packet.tos = *CMSG_DATA(c);
    } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
      int value;
      std::memcpy(&value, CMSG_DATA(c), sizeof value);
      packet.tos = static_cast<std::uint8_t>(value);
    }
  }
}

void read_source(const SocketAddress& source, Endpoint& from) {
  if (source.any.sa_family == AF_INET) {
    from.remote = Address::v4(reinterpret_cast<const std::uint8_t*>(&source.v4.sin_addr));
    from.port = ntohs(source.v4.sin_port);
  } else {
    from.remote = Address::v6(source.v6.sin6_addr.s6_addr);
    from.port = ntohs(source.v6.sin6_port);
  }
}

// ---- one message, to be sent

socklen_t write_destination(const Endpoint& to, SocketAddress& out) {
  if (to.remote.is_v4()) {
    out.v4 = {};
    out.v4.sin_family = AF_INET;
    out.v4.sin_port = htons(to.port);
    std::memcpy(&out.v4.sin_addr, to.remote.octets.data(), 4);
    return sizeof out.v4;
  }
  out.v6 = {};
  out.v6.sin6_family = AF_INET6;
  out.v6.sin6_port = htons(to.port);
  std::memcpy(&out.v6.sin6_addr, to.remote.octets.data(), 16);
  if (is_link_local(to.remote)) out.v6.sin6_scope_id = to.interface;
  return sizeof out.v6;
}

template <class T>
std::size_t put_control(std::uint8_t* at, int level, int type, const T& value) {
  cmsghdr header{};
  header.cmsg_len = CMSG_LEN(sizeof value);
  header.cmsg_level = level;
  header.cmsg_type = type;
  std::memcpy(at, &header, sizeof header);
  std::memcpy(at + CMSG_LEN(0), &value, sizeof value);
  return CMSG_SPACE(sizeof value);
}

// The DS field, and the sticky source. The interface is not asked for, except as the scope of a link-local address:
// with one, Linux would take every destination without a route there for a neighbour; the kernel's WireGuard does not
// ask either, so that a reply follows the routing table.
std::size_t write_control(const Packet& packet, bool sticky, std::uint8_t* at) {
  const Endpoint& to = *packet.to;
  std::size_t used = 0;
  const int tos = packet.tos;
  if (to.remote.is_v4()) {
    if (tos != 0) used += put_control(at, IPPROTO_IP, IP_TOS, tos);
    if (sticky) {
      in_pktinfo info{};
      std::memcpy(&info.ipi_spec_dst, to.local.octets.data(), 4);
      used += put_control(at + used, IPPROTO_IP, IP_PKTINFO, info);
    }
  } else {
    if (tos != 0) used += put_control(at, IPPROTO_IPV6, IPV6_TCLASS, tos);
    if (sticky) {
      in6_pktinfo info{};
      std::memcpy(&info.ipi6_addr, to.local.octets.data(), 16);
      if (is_link_local(to.local) || is_link_local(to.remote)) info.ipi6_ifindex = to.interface;
      used += put_control(at + used, IPPROTO_IPV6, IPV6_PKTINFO, info);
    }
  }
  return used;
}

Drop why_not_sent(int code) {
  switch (code) {
    case EMSGSIZE:
      return Drop::kOuterMessageSize;
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
    case EHOSTDOWN:
    case ENODEV:
    case EADDRNOTAVAIL:
    case EAFNOSUPPORT:
    case EACCES:  // a broadcast address, or a prohibiting route
    case EINVAL:
      return Drop::kOuterUnreachable;
    default:
      return Drop::kOuterSend;
  }
}

}  // namespace

// ---- one worker's sockets

class UdpPort final : public Port {
 public:
  UdpPort(FileDescriptor v4, FileDescriptor v6) : v4_{std::move(v4)}, v6_{std::move(v6)} {}
  ~UdpPort() override;

  void receive(Burst& burst, WorkerContext& context) override;
  std::size_t send(Burst& burst, WorkerContext& context) override;
  void wake_fds(std::vector<int>& fds) const override;

  [[nodiscard]] int fd(Family family) const { return family == Family::kV4 ? v4_.get() : v6_.get(); }

 private:
  struct Incoming {
    SocketAddress source;
    iovec part;
    Buffer* buffer;
    alignas(cmsghdr) std::array<std::uint8_t, kControlOctets> control;
  };
  struct Outgoing {
    SocketAddress destination;
    iovec part;
    Packet* packet;
    bool sticky;
    bool again;  // was tried a second time
    alignas(cmsghdr) std::array<std::uint8_t, kControlOctets> control;
  };

  void receive_from(int fd, std::size_t room, Burst& burst, WorkerContext& context);
  std::size_t prepare(std::size_t wanted, WorkerContext& context);
  void hand_over(std::size_t i, Burst& burst, WorkerContext& context);
  std::size_t send_family(Family family, Burst& burst, WorkerContext& context);
  void put(std::size_t at, Packet& packet);
  void put_control(std::size_t at);
  std::size_t flush(int fd, std::size_t count, WorkerContext& context);
  bool try_again(std::size_t at, int code);

  FileDescriptor v4_, v6_;
  bool v6_first_ = false;  // who is asked first alternates, so that neither family starves the other
  std::size_t ready_ = 0;  // incoming_[0, ready_) have buffers
  std::array<mmsghdr, kBatch> receiving_{}, sending_{};
  std::array<Incoming, kBatch> incoming_{};
  std::array<Outgoing, kBatch> outgoing_{};
};

UdpPort::~UdpPort() {
  for (std::size_t i = 0; i < ready_; ++i) incoming_[i].buffer->pool->give(&incoming_[i].buffer, 1);
}

void UdpPort::wake_fds(std::vector<int>& fds) const {
  if (v4_) fds.push_back(v4_.get());
  if (v6_) fds.push_back(v6_.get());
}

void UdpPort::receive(Burst& burst, WorkerContext& context) {
  const int first = v6_first_ ? v6_.get() : v4_.get(), second = v6_first_ ? v4_.get() : v6_.get();
  v6_first_ = !v6_first_;
  const std::size_t limit = burst.size() + receive_room(burst);
  for (const int socket : {first, second})
    if (socket >= 0) receive_from(socket, limit - burst.size(), burst, context);
}

// Buffers for up to `wanted` datagrams; those that the last call did not fill are still there.
std::size_t UdpPort::prepare(std::size_t wanted, WorkerContext& context) {
  for (; ready_ < wanted; ++ready_) {
    Buffer* buffer = context.buffers.take();
    if (buffer == nullptr) break;  // what the socket cannot hold meanwhile the kernel drops and counts
    Incoming& in = incoming_[ready_];
    in.buffer = buffer;
    in.part.iov_base = buffer->memory + kHeadroom;
    in.part.iov_len = buffer->pool->data_room();
  }
  const std::size_t count = std::min(ready_, wanted);
  for (std::size_t i = 0; i < count; ++i) {
    Incoming& in = incoming_[i];
    msghdr& header = receiving_[i].msg_hdr;
    header.msg_name = &in.source;
    header.msg_namelen = sizeof in.source;
    header.msg_iov = &in.part;
    header.msg_iovlen = 1;
    header.msg_control = in.control.data();
    header.msg_controllen = in.control.size();
    header.msg_flags = 0;
  }
  return count;
}

void UdpPort::receive_from(int fd, std::size_t room, Burst& burst, WorkerContext& context) {
  const std::size_t count = prepare(room, context);
  if (count == 0) return;
  int received = ::recvmmsg(fd, receiving_.data(), static_cast<unsigned>(count), MSG_DONTWAIT, nullptr);
  // Anything but "nothing there" is the pending error of some datagram sent earlier; reading it has cleared it.
  if (received < 0 && errno != EAGAIN)
    received = ::recvmmsg(fd, receiving_.data(), static_cast<unsigned>(count), MSG_DONTWAIT, nullptr);
  if (received <= 0) return;

  for (std::size_t i = 0; i < static_cast<std::size_t>(received); ++i) hand_over(i, burst, context);
  // The unused buffers move to the front.
  std::size_t kept = 0;
  for (std::size_t i = 0; i < ready_; ++i) {
    if (incoming_[i].buffer == nullptr) continue;
    if (kept != i) {
      incoming_[kept].buffer = std::exchange(incoming_[i].buffer, nullptr);
      incoming_[kept].part = incoming_[i].part;
    }
    ++kept;
  }
  ready_ = kept;
}

void UdpPort::hand_over(std::size_t i, Burst& burst, WorkerContext& context) {
  msghdr& header = receiving_[i].msg_hdr;
  if ((header.msg_flags & MSG_TRUNC) != 0 && !seeded_fault(5)) {  // P5: never half a datagram
    context.refuse(Drop::kTruncated);
    return;  // its buffer serves the next call
  }
  Incoming& in = incoming_[i];
  Packet& packet = add_received(burst, std::exchange(in.buffer, nullptr), receiving_[i].msg_len, Origin::kOuter);
  read_source(in.source, packet.from);
  read_control(header, packet);
}

std::size_t UdpPort::send(Burst& burst, WorkerContext& context) {
  const std::size_t sent = send_family(Family::kV4, burst, context) + send_family(Family::kV6, burst, context);
  for (Packet& packet : burst)
    if (packet.buffer != nullptr) context.drop(packet, Drop::kNoEndpoint);
  burst.clear();
  return sent;
}

std::size_t UdpPort::send_family(Family family, Burst& burst, WorkerContext& context) {
  const int socket = fd(family);
  std::size_t sent = 0, count = 0;
  for (Packet& packet : burst) {
    if (packet.buffer == nullptr || packet.to == nullptr || packet.to->remote.family != family) continue;
    if (socket < 0) {
      context.drop(packet, Drop::kOuterUnreachable);
      continue;
    }
    put(count++, packet);
    if (count == kBatch) sent += flush(socket, std::exchange(count, 0), context);
  }
  if (count != 0) sent += flush(socket, count, context);
  return sent;
}

void UdpPort::put(std::size_t at, Packet& packet) {
  Outgoing& out = outgoing_[at];
  out.packet = &packet;
  out.part = {packet.data, packet.length};
  out.sticky = packet.to->local.family == packet.to->remote.family;
  out.again = false;
  msghdr& header = sending_[at].msg_hdr;
  header.msg_name = &out.destination;
  header.msg_namelen = write_destination(*packet.to, out.destination);
  header.msg_iov = &out.part;
  header.msg_iovlen = 1;
  put_control(at);
}

void UdpPort::put_control(std::size_t at) {
  Outgoing& out = outgoing_[at];
  msghdr& header = sending_[at].msg_hdr;
  header.msg_controllen = write_control(*out.packet, out.sticky, out.control.data());
  header.msg_control = header.msg_controllen == 0 ? nullptr : out.control.data();
}

// sendmmsg stops at the first message that fails and names its error at the next call, when that message is the first.
std::size_t UdpPort::flush(int fd, std::size_t count, WorkerContext& context) {
  std::size_t sent = 0;
  for (std::size_t i = 0; i < count;) {
    const int taken = ::sendmmsg(fd, &sending_[i], static_cast<unsigned>(count - i), MSG_DONTWAIT);
    if (taken > 0) {
      for (const std::size_t end = i + static_cast<std::size_t>(taken); i < end; ++i, ++sent)
        context.release(*outgoing_[i].packet);
      continue;
    }
    const int code = errno;
    if (try_again(i, code)) continue;
    // A full socket buffer is full for those behind, too; every other reason is this message's own.
    const std::size_t end = code == EAGAIN ? count : i + 1;
    for (; i < end; ++i) context.drop(*outgoing_[i].packet, why_not_sent(code));
  }
  return sent;
}

// Once a message, where the error may not be its own fault.
bool UdpPort::try_again(std::size_t at, int code) {
  Outgoing& out = outgoing_[at];
  if (std::exchange(out.again, true)) return false;
  if (out.sticky && why_not_sent(code) == Drop::kOuterUnreachable) {
    out.sticky = false;  // P37: the address is ours no more (EINVAL; on newer kernels ENETUNREACH): the host chooses
    put_control(at);
    return true;
  }
  return code == EINTR || code == ECONNREFUSED;  // the latter: what an earlier datagram met
}

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
      if (sockets.port == 0) sockets.port = bound_port(made->get());
      group.push_back(std::move(*made));
    }
    if (group.size() > 1 && !attach_steering(group[0].get(), options.workers))
      return failed("attaching the program that steers datagrams to workers");
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
                                  sockets->v6.empty() ? FileDescriptor{} : std::move(sockets->v6[worker])));
  return device;
}

UdpDevice::UdpDevice(const UdpOptions& options) : options_{options} {}

UdpDevice::~UdpDevice() = default;

Port& UdpDevice::queue(unsigned worker) { return *ports_.at(worker); }

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
  for (unsigned worker = 0; worker < queues(); ++worker) {
    for (const Family family : {Family::kV4, Family::kV6}) {
      const int old_fd = ports_[worker]->fd(family);
      if (old_fd < 0) continue;
      auto& group = family == Family::kV4 ? sockets->v4 : sockets->v6;
      WG_CHECK(group.size() == queues());
      // Only a bad descriptor could make it fail now, and that would be our bug.
      WG_CHECK(::dup3(group[worker].get(), old_fd, O_CLOEXEC) == old_fd);
    }
  }
  port_ = sockets->port;
  return Nothing{};
}

Status UdpDevice::set_fwmark(std::uint32_t mark) {
  for (const auto& port : ports_) {
    std::vector<int> fds;
    port->wake_fds(fds);
    for (const int fd : fds)
      if (!set_option(fd, SOL_SOCKET, SO_MARK, static_cast<int>(mark)))
        return failed("setting the fwmark (needs CAP_NET_ADMIN)");
  }
  options_.fwmark = mark;
  return Nothing{};
}

}  // namespace wireplane
