#include "drivers/udp_sender.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "drivers/train_buffers.h"

namespace wireplane {
namespace {

constexpr std::uint16_t kEnd = 0xffff;
constexpr std::uint32_t kNoLimit = std::numeric_limits<std::uint32_t>::max();
constexpr std::uint32_t kFirstPause = 256, kLongestPause = 1 << 16;  // bursts
constexpr std::size_t kAlone = kUdpMessages;
constexpr std::size_t kWorthItsPart = 512;  // octets: below, a copy costs less than another part of a message

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

// What fails for every datagram to that place.
bool is_the_destinations(int code) { return code != EINVAL && why_not_sent(code) == Drop::kOuterUnreachable; }

std::size_t place_of(const Endpoint* to) {
  return (reinterpret_cast<std::uintptr_t>(to) * std::uint64_t{0x9e37'79b9'7f4a'7c15}) >> 58;
}

}  // namespace

UdpSender::UdpSender(bool v4_trains, bool v6_trains, UdpConnections& connections)
    : connections_{connections}, v4_{v4_trains, kNoLimit, 0, kFirstPause}, v6_{v6_trains, kNoLimit, 0, kFirstPause} {}

std::size_t UdpSender::send(int v4, int v6, Burst& burst, WorkerContext& context) {
  if (burst.empty()) return 0;
  wake(v4_);
  wake(v6_);
  fds_[kV4] = v4;
  fds_[kV6] = v6;
  group(burst, context);
  std::size_t sent = 0;
  for (std::size_t socket = 0; socket < kSockets; ++socket)  // the port's first: who was connected just now was there
    if (trains_by_[socket] != 0) sent += send_by(socket, burst, context);
  burst.clear();
  return sent;
}

void UdpSender::group(Burst& burst, WorkerContext& context) {
  train_count_ = 0;
  trains_by_.fill(0);
  place_.fill(0);
  Train* last = nullptr;  // that was put to
  for (std::size_t at = 0; at < burst.size(); ++at) {
    const auto i = static_cast<std::uint16_t>(at);
    Packet& packet = burst[i];
    if (last != nullptr && last->to == packet.to) {
      next_[i] = kEnd;
      if (join(*last, packet, i)) continue;
    }
    if (packet.to == nullptr || (!packet.to->remote.is_v4() && !packet.to->remote.is_v6())) {
      context.drop(packet, Drop::kNoEndpoint);
      continue;
    }
    const bool is_v4 = packet.to->remote.is_v4();
    if (fds_[is_v4 ? kV4 : kV6] < 0) {
      context.drop(packet, Drop::kOuterUnreachable);
      continue;
    }
    next_[i] = kEnd;
    std::uint16_t& place = place_[place_of(packet.to)];
    if (place != 0 && join(train_[place - 1], packet, i)) {
      last = &train_[place - 1];
      continue;
    }
    const Lane& lane = is_v4 ? v4_ : v6_;
    const bool may_grow =
        lane.able && packet.length != 0 && packet.length < std::min<std::uint32_t>(lane.below, 65'536);
    const std::size_t socket = socket_for(*packet.to);
    last = &train_[train_count_];
    train_[train_count_++] = {.to = packet.to,
                              .end = packet.data + packet.length,
                              .buffer = packet.buffer,
                              .octets = packet.length,
                              .segment = static_cast<std::uint16_t>(packet.length),
                              .count = 1,
                              .first = i,
                              .last = i,
                              .tos = packet.tos,
                              .by = static_cast<std::uint8_t>(socket),
                              .in_one_piece = true,
                              .in_one_buffer = true,
                              .open = may_grow};
    place = static_cast<std::uint16_t>(train_count_);
    ++trains_by_[socket];
  }
}

// Once a train. The one that makes a connection still leaves without it.
std::size_t UdpSender::socket_for(const Endpoint& to) {
  const std::size_t own = to.remote.is_v4() ? kV4 : kV6;
  const std::size_t found = connections_.find(to);
  if (found == UdpConnections::kNone) {
    connections_.note(to, 1, fds_[own]);
    return own;
  }
  connections_.used(found, 1);
  fds_[kConnected + found] = connections_.at(found).fd.get();
  return kConnected + found;
}

bool UdpSender::join(Train& train, const Packet& packet, std::uint16_t i) {
  if (!train.open || train.to != packet.to || train.tos != packet.tos || packet.length > train.segment ||
      packet.length == 0 || train.count == kLongestTrain || train.octets + packet.length > kLargestTrain)
    return false;
  train.in_one_piece = train.in_one_piece && packet.data == train.end;
  train.in_one_buffer = train.in_one_buffer && packet.buffer == train.buffer;
  train.end = packet.data + packet.length;
  train.buffer = packet.buffer;
  next_[train.last] = i;
  train.last = i;
  ++train.count;
  train.octets += packet.length;
  train.open = packet.length == train.segment;
  return true;
}

std::size_t UdpSender::send_by(std::size_t socket, Burst& burst, WorkerContext& context) {
  std::size_t sent = 0, count = 0, parts = 0, copied = 0;
  for (std::size_t t = 0; t < train_count_; ++t) {
    const Train& train = train_[t];
    if (train.by != socket) continue;
    iovec* first = parts_.data() + parts;
    parts += lay_out(train, burst, first);
    if (train.segment < kWorthItsPart && parts_.data() + parts - first > 1 && copied + train.octets <= copies_.size()) {
      *first = {copies_.data() + copied, train.octets};
      for_each(train, burst, [&](Packet& packet) {
        std::memcpy(copies_.data() + copied, packet.data, packet.length);
        copied += packet.length;
      });
      parts = static_cast<std::size_t>(first - parts_.data()) + 1;
    }
    put(count++, t, first, static_cast<std::size_t>(parts_.data() + parts - first), train.count == 1);
    if (count < kUdpMessages) continue;
    sent += flush(socket, std::exchange(count, 0), burst, context);
    parts = copied = 0;
  }
  if (count != 0) sent += flush(socket, count, burst, context);
  return sent;
}

// What lies side by side is one part.
std::size_t UdpSender::lay_out(const Train& train, Burst& burst, iovec* parts) {
  if (train.in_one_piece) {
    *parts = {burst[train.first].data, train.octets};
    return 1;
  }
  iovec* next = parts;
  const std::uint8_t* end = nullptr;
  for_each(train, burst, [&](Packet& packet) {
    if (packet.data == end)
      next[-1].iov_len += packet.length;
    else
      *next++ = {packet.data, packet.length};
    end = packet.data + packet.length;
  });
  return static_cast<std::size_t>(next - parts);
}

// Those that share a buffer let go of it together.
void UdpSender::release(const Train& train, Burst& burst, WorkerContext& context) {
  if (train.in_one_buffer) {
    if (train.count > 1) let_go_of_some(*burst[train.first].buffer, train.count - 1u);
    return context.release(burst[train.first]);
  }
  Packet* before = nullptr;
  std::size_t more = 0;
  for_each(train, burst, [&](Packet& packet) {
    if (before != nullptr && before->buffer == packet.buffer) {
      ++more;
      return;
    }
    if (more != 0) let_go_of_some(*before->buffer, std::exchange(more, 0));
    if (before != nullptr) context.release(*before);
    before = &packet;
  });
  if (more != 0) let_go_of_some(*before->buffer, more);
  context.release(*before);
}

template <class Do>
void UdpSender::for_each(const Train& train, Burst& burst, Do what) {
  for (std::uint16_t i = train.first; i != kEnd; i = next_[i]) what(burst[i]);
}

void UdpSender::put(std::size_t at, std::size_t train, iovec* parts, std::size_t count, bool alone) {
  Outgoing& out = outgoing_[at];
  const Endpoint& to = *train_[train].to;
  out.train = static_cast<std::uint16_t>(train);
  out.sticky = to.local.family == to.remote.family;
  out.again = false;
  msghdr& header = sending_[at].msg_hdr;
  header.msg_iov = parts;
  header.msg_iovlen = count;
  put_addresses(at, alone);
}

// A connected socket knows both.
void UdpSender::put_addresses(std::size_t at, bool alone) {
  Outgoing& out = outgoing_[at];
  const Train& train = train_[out.train];
  const bool connected = train.by >= kConnected;
  msghdr& header = sending_[at].msg_hdr;
  header.msg_name = connected ? nullptr : &out.destination;
  header.msg_namelen = connected ? 0 : write_destination(*train.to, out.destination);
  header.msg_controllen = write_control(*train.to, train.tos, out.sticky && !connected,
                                        alone ? std::uint16_t{0} : train.segment, out.control.data());
  header.msg_control = header.msg_controllen == 0 ? nullptr : out.control.data();
}

// sendmmsg stops at the first message that fails and names its error at the next call, when that message is the first.
std::size_t UdpSender::flush(std::size_t socket, std::size_t count, Burst& burst, WorkerContext& context) {
  std::size_t sent = 0;
  for (std::size_t i = 0; i < count;) {
    const int taken = ::sendmmsg(fds_[socket], &sending_[i], static_cast<unsigned>(count - i), MSG_DONTWAIT);
    if (taken > 0) {
      for (const std::size_t end = i + static_cast<std::size_t>(taken); i < end; ++i) {
        const Train& train = train_[outgoing_[i].train];
        release(train, burst, context);
        sent += train.count;
        if (train.count > 1) trains_.add(1);
      }
      continue;
    }
    const int code = errno;
    Train& train = train_[outgoing_[i].train];
    if (go_without(socket, code)) {
      for (std::size_t k = i; k < count; ++k) {
        Train& its = train_[outgoing_[k].train];
        its.by = static_cast<std::uint8_t>(socket);
        outgoing_[k].again = false;
        put_addresses(k, its.count == 1);
      }
      continue;
    }
    if (try_again(i, code, train.count == 1)) continue;
    if (code != EAGAIN && train.count > 1 && !is_the_destinations(code)) {
      sent += send_singly(socket, train, code, burst, context);
      ++i;
      continue;
    }
    // A full socket buffer is full for those behind, too; every other reason is this message's own.
    const std::size_t end = code == EAGAIN ? count : i + 1;
    for (; i < end; ++i)
      for_each(train_[outgoing_[i].train], burst, [&](Packet& packet) { context.drop(packet, why_not_sent(code)); });
  }
  return sent;
}

// A connection that fails in a way that may be its own (also: what an earlier datagram met) is left, and the port's
// socket tried: `socket` is that one then.
bool UdpSender::go_without(std::size_t& socket, int code) {
  if (socket < kConnected || code == EAGAIN || code == EMSGSIZE || code == EINTR) return false;
  const std::size_t connection = socket - kConnected;
  connections_.leave(connection);
  socket = connections_.at(connection).peer.remote.is_v4() ? kV4 : kV6;
  return true;
}

// The datagrams of a refused train, each for itself. If one of them leaves, it was the train that was not liked.
std::size_t UdpSender::send_singly(std::size_t socket, Train& train, int why, Burst& burst, WorkerContext& context) {
  std::size_t sent = 0;
  bool full = false;
  const auto number = static_cast<std::size_t>(&train - train_.data());
  for_each(train, burst, [&](Packet& packet) {
    if (full) return context.drop(packet, Drop::kOuterSend);
    parts_[kBurst] = {packet.data, packet.length};
    put(kAlone, number, &parts_[kBurst], 1, true);
    while (::sendmmsg(fds_[socket], &sending_[kAlone], 1, MSG_DONTWAIT) != 1) {
      const int code = errno;
      if (go_without(socket, code)) {
        train.by = static_cast<std::uint8_t>(socket);
        put(kAlone, number, &parts_[kBurst], 1, true);
        continue;
      }
      if (try_again(kAlone, code, true)) continue;
      full = code == EAGAIN;
      return context.drop(packet, why_not_sent(code));
    }
    context.release(packet);
    ++sent;
  });
  if (sent != 0) {
    refused_.add(1);
    rest(lane_of(train), why == EMSGSIZE ? train.segment : 0);
  }
  return sent;
}

// Once a message, where the error may not be its own fault.
bool UdpSender::try_again(std::size_t at, int code, bool alone) {
  Outgoing& out = outgoing_[at];
  if (std::exchange(out.again, true)) return false;
  if (out.sticky && train_[out.train].by < kConnected && why_not_sent(code) == Drop::kOuterUnreachable) {
    out.sticky = false;  // P37: the address is ours no more (EINVAL; on newer kernels ENETUNREACH): the host chooses
    put_addresses(at, alone);
    return true;
  }
  return code == EINTR || code == ECONNREFUSED;  // the latter: what an earlier datagram met
}

void UdpSender::rest(Lane& lane, std::uint32_t below) {
  lane.below = std::min(lane.below, below);
  lane.pause = lane.next_pause;
  lane.next_pause = std::min(2 * lane.next_pause, kLongestPause);
}

void UdpSender::wake(Lane& lane) {
  if (lane.pause != 0 && --lane.pause == 0) lane.below = kNoLimit;
}

}  // namespace wireplane
