#include "drivers/udp_receiver.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "dataplane/base/fault.h"
#include "drivers/received.h"

namespace wireplane {
namespace {

constexpr std::size_t kFewest = 8;          // messages asked for where nothing is known
constexpr std::size_t kWorthItsPart = 768;  // octets: below, a copy costs less than another part of a message
constexpr std::size_t kLargeBurst = 16;     // datagrams in a call that make trains likely
constexpr unsigned kLongestRest = 3;        // calls
constexpr unsigned kStepsOfATurn = 1;       // those with a burst to send
constexpr unsigned kWithoutTrains = 8;      // calls, after which none are guessed
constexpr std::uint32_t kInVain = 8'192;    // messages, after which UDP_GRO is given up
constexpr std::uint32_t kFirstWait = 1'024, kLongestWait = 1 << 20;  // large bursts until it is tried again

bool set_gro(int fd, int value) { return ::setsockopt(fd, IPPROTO_UDP, kUdpGro, &value, sizeof value) == 0; }

}  // namespace

UdpReceiver::UdpReceiver(bool v4_trains, bool v6_trains, UdpConnections& connections, TrainBuffers* whole)
    : connections_{connections}, whole_{whole} {
  lanes_[kV4].able = v4_trains;
  lanes_[kV6].able = v6_trains;
}

UdpReceiver::~UdpReceiver() {
  for (std::size_t i = 0; i < kWhole; ++i)
    if (holds_train_buffer(i)) let_go_of_some(*std::exchange(held_[first_part(i)], nullptr), 1);
  for (Buffer*& buffer : held_)
    if (buffer != nullptr) buffer->pool->give(&buffer, 1);
  if (spill_ != nullptr) ::munmap(spill_, kUdpMessages * kSpill);
}

void UdpReceiver::receive(int v4, int v6, Burst& burst, WorkerContext& context) {
  const std::size_t before = burst.size(), limit = before + receive_room(burst);
  hand_over(burst, limit, context);
  found_nothing_ = false;
  const bool at_once = !std::exchange(time_passed_, false);
  may_have_more_ = next_ != received_;
  if (may_have_more_) return;  // no room, or no buffers
  if (skip_ != 0 && ++unsent_ <= kStepsOfATurn) {
    --skip_;
    return;
  }
  skip_ = 0;
  fds_[kV4] = v4;
  fds_[kV6] = v6;
  meet_connections();
  bool asked = false;
  std::uint32_t resting = 0;
  first_ = first_ >= last_ ? 0 : first_ + 1;
  for (std::size_t k = 0, number = first_; k <= last_; ++k, number = number == last_ ? 0 : number + 1) {
    Lane& lane = lanes_[number];
    if (fds_[number] < 0 || (std::exchange(lane.drained, false) && at_once)) continue;
    if (lane.rest != 0) {
      --lane.rest;
      resting |= 1u << number;
      continue;
    }
    may_have_more_ = may_have_more_ || next_ != received_ || burst.size() == limit || comes_later(number);
    if (next_ != received_ || burst.size() == limit) return;
    if (comes_later(number)) continue;
    ask(number, burst, limit, context);
    asked = true;
  }
  for (std::size_t number = 0; resting != 0 && number <= last_; ++number) {  // the others are quiet: nobody rests
    if ((resting >> number & 1) == 0 || burst.size() != before || next_ != received_ || fds_[number] < 0) continue;
    ask(number, burst, limit, context);
    asked = true;
  }
  found_nothing_ = asked && burst.size() == before;
  if (asked) in_vain_ = found_nothing_ ? in_vain_ + 1 : 0;
  for (std::size_t number = 0; number <= last_; ++number)
    if (lanes_[number].empty != 0 && burst.size() != before)
      lanes_[number].rest = std::min(lanes_[number].empty, kLongestRest);
}

// Which of them are there, and whether they are those that were.
void UdpReceiver::meet_connections() {
  if (last_ < kConnected && !connections_.any()) return;
  last_ = kConnected - 1;
  for (std::size_t i = 0; i < UdpConnections::kMost; ++i) {
    const std::size_t number = kConnected + i;
    fds_[number] = connections_.is_open(i) ? connections_.at(i).fd.get() : -1;
    if (fds_[number] < 0) {
      lanes_[number].whole = false;
      continue;
    }
    last_ = number;
    const UdpConnections::Connection& its = connections_.at(i);
    if (lanes_[number].connection == its.number) continue;
    Lane& of_port = lanes_[its.peer.remote.is_v4() ? kV4 : kV6];
    of_port.more = true;
    of_port.rest = 0;
    of_port.drained = false;
    lanes_[number] = Lane{};
    lanes_[number].able = of_port.able || of_port.asked_for;
    lanes_[number].connection = its.number;
    if (of_port.asked_for) ask_for_trains(lanes_[number], fds_[number]);
  }
}

// What its peer sent before it was connected lies in the port's socket, and goes first.
bool UdpReceiver::comes_later(std::size_t number) const {
  if (number < kConnected) return false;
  const UdpConnections::Connection& its = connections_.at(number - kConnected);
  return its.fresh && connections_.is_young(number - kConnected) && lanes_[its.peer.remote.is_v4() ? kV4 : kV6].more;
}

// Where much is sent and nothing comes, time and again, asking costs more than it brings: a few bursts leave without
// it. Whoever calls without sending (a descriptor woke it) is believed the second time.
void UdpReceiver::sent(std::size_t packets) {
  unsent_ = 0;
  if (!std::exchange(found_nothing_, false)) return;
  if (packets >= kLargeBurst)
    skip_ = 1 + kStepsOfATurn * std::min(in_vain_ - 1, kLongestRest);
  else
    for (Lane& lane : lanes_) lane.drained = true;
}

// Until the socket is empty or the burst full. recvmmsg returns fewer than it was asked for when there are no more, and
// then whatever comes later makes the descriptor readable (again): the next call may leave it alone.
void UdpReceiver::ask(std::size_t number, Burst& burst, std::size_t limit, WorkerContext& context) {
  Lane& lane = lanes_[number];
  const int fd = fds_[number];
  const bool connected = number >= kConnected;
  if (connected) connected_to_ = connections_.at(number - kConnected).peer;
  name_sources(!connected || connections_.at(number - kConnected).fresh);
  std::size_t messages = 0, wanted = lane.likely;
  bool drained = false;
  while (!drained && burst.size() < limit && next_ == received_) {
    const std::size_t room = limit - burst.size();
    wanted = std::min({wanted, kUdpMessages, lane.per_message == 1 ? room : room / lane.per_message + 1});
    const std::size_t count = prepare(lane, wanted, context);
    if (count == 0) break;
    int got = ::recvmmsg(fd, receiving_.data(), static_cast<unsigned>(count), MSG_DONTWAIT, nullptr);
    // Anything but "nothing there" is the pending error of some datagram sent earlier; reading it has cleared it.
    if (got < 0 && errno != EAGAIN)
      got = ::recvmmsg(fd, receiving_.data(), static_cast<unsigned>(count), MSG_DONTWAIT, nullptr);
    next_ = 0;
    stale_ = received_ = static_cast<std::size_t>(std::max(got, 0));
    drained = received_ < count;
    messages += received_;
    wanted *= 2;
    seen_ = {};
    hand_over(burst, limit, context);
    if (received_ != 0) learn(lane, fd, received_, drained, context);
  }
  if (connected)
    connections_.used(number - kConnected, static_cast<std::uint32_t>(messages));
  else if (of_source_ != 0)
    note_source();
  lane.more = !drained;
  may_have_more_ = may_have_more_ || lane.more || next_ != received_;
  if (connected && drained && next_ == received_) connections_.found_empty(number - kConnected);
  lane.drained = drained && messages != 0;
  lane.rest = 0;
  lane.empty = messages == 0 ? lane.empty + 1 : 0;
  if (messages == 0) return;
  lane.likely = std::clamp(messages + 2, kFewest, kUdpMessages);
}

// Where the sender is known the kernel need not say it.
void UdpReceiver::name_sources(bool wanted) {
  if (std::exchange(named_, wanted) == wanted) return;
  for (std::size_t i = 0; i < kUdpMessages; ++i) {
    receiving_[i].msg_hdr.msg_name = wanted ? &incoming_[i].source : nullptr;
    receiving_[i].msg_hdr.msg_namelen = wanted ? sizeof incoming_[i].source : 0;
  }
}

void UdpReceiver::note_source() {
  connections_.note(source_, std::exchange(of_source_, 0), fds_[source_.remote.is_v4() ? kV4 : kV6]);
}

// Messages for up to `wanted` datagrams or trains; those that the last call did not fill are as they were.
std::size_t UdpReceiver::prepare(const Lane& lane, std::size_t wanted, WorkerContext& context) {
  // One lane's trains make the plan of all: what comes alone is copied out of a train's buffer.
  const bool whole = std::any_of(lanes_.begin(), lanes_.end(), [](const Lane& its) { return its.whole; });
  if (const Plan plan{whole ? 0 : lane.segment, lane.asked_for || spill_ != nullptr, whole}; plan != plan_)
    change_plan(plan, context);
  std::size_t i = 0;
  while (i < wanted) {
    if (i >= stale_ && i < prepared_)
      i = std::min(prepared_, wanted);
    else if (prepare_message(i, context))
      ++i;
    else
      break;  // no buffers: what the socket cannot hold meanwhile the kernel drops and counts
  }
  prepared_ = i < stale_ ? i : std::max(prepared_, i);
  stale_ = 0;
  return i;
}

void UdpReceiver::change_plan(const Plan& plan, WorkerContext& context) {
  for (std::size_t i = 0; plan.whole != plan_.whole && i < kWhole; ++i) {
    Buffer*& held = held_[first_part(i)];
    if (holds_train_buffer(i))
      let_go_of_some(*held, 1);
    else if (held != nullptr)
      context.buffers.release(held);
    held = nullptr;
  }
  plan_ = plan;
  stale_ = prepared_ = 0;
  if (plan.segment != 0) return;
  for (std::size_t i = 0; i < kWide; ++i)  // those of trains serve others
    for (std::size_t k = first_part(i) + 1; k < first_part(i) + kWideParts; ++k)
      if (held_[k] != nullptr) context.buffers.release(std::exchange(held_[k], nullptr));
}

bool UdpReceiver::prepare_message(std::size_t i, WorkerContext& context) {
  const std::size_t first = first_part(i);
  const bool wide = plan_.segment != 0 && i < kWide;
  if (plan_.whole && i < kWhole && held_[first] == nullptr) held_[first] = whole_->take();
  const bool whole = i < kWhole && holds_train_buffer(i);
  const std::size_t width = wide ? std::min(kLongestTrain, kLargestTrain / plan_.segment + 1) : 1;
  std::size_t k = 0;
  for (; k < width; ++k) {
    Buffer*& buffer = held_[first + k];
    if (buffer == nullptr) buffer = context.buffers.take();
    if (buffer == nullptr) break;
    parts_[first + k] = {buffer->memory + kHeadroom, wide ? plan_.segment : buffer->pool->data_room()};
  }
  if (k == 0) return false;
  Incoming& in = incoming_[i];
  in.buffers = static_cast<std::uint16_t>(k);
  const bool spill = plan_.spill && !whole;
  if (spill) parts_[first + k] = {spill_ + i * kSpill, kSpill};
  msghdr& header = receiving_[i].msg_hdr;
  header.msg_name = named_ ? &in.source : nullptr;
  header.msg_namelen = named_ ? sizeof in.source : 0;
  header.msg_iov = &parts_[first];
  header.msg_iovlen = k + (spill ? 1 : 0);
  header.msg_control = in.control.data();
  header.msg_controllen = in.control.size();
  header.msg_flags = 0;
  return true;
}

bool UdpReceiver::holds_train_buffer(std::size_t i) const {
  const Buffer* held = held_[first_part(i)];
  return held != nullptr && held->pool == whole_;
}

// ---- from messages to packets

void UdpReceiver::hand_over(Burst& burst, std::size_t limit, WorkerContext& context) {
  for (; next_ != received_; ++next_, begun_ = false, train_ = nullptr) {
    if (!begun_) begin_message();
    if (train_ != nullptr) {
      if (!hand_over_train(burst, limit, context)) return;
      continue;
    }
    const std::size_t room = context.buffers.pool().data_room();
    const bool truncated = (receiving_[next_].msg_hdr.msg_flags & MSG_TRUNC) != 0;
    do {
      if (burst.size() == limit) return;
      std::size_t length = std::min(current_.segment, current_.length - current_.at);
      if (truncated || length > room) {  // P5: never half a datagram
        if (!seeded_fault(5)) {
          context.refuse(Drop::kTruncated);
          current_.at += current_.segment;
          ++current_.number;
          continue;
        }
        length = std::min(length, room);
      }
      if (!cut(burst, length, context)) return;  // no buffer: it waits
      current_.at += current_.segment;
      ++current_.number;
    } while (current_.at < current_.length);
  }
}

// Its datagrams where they lie; false: the burst is full.
bool UdpReceiver::hand_over_train(Burst& burst, std::size_t limit, WorkerContext& context) {
  const std::size_t room = context.buffers.pool().data_room();
  for (; current_.at < current_.length; current_.at += current_.segment) {
    if (burst.size() == limit) return false;
    const std::size_t length = std::min(current_.segment, current_.length - current_.at);
    if (length > room) {  // as it would be alone
      context.refuse(Drop::kTruncated);
      let_go_of_some(*train_, 1);
      continue;
    }
    burst.add(current_.like);
    Packet& packet = burst[burst.size() - 1];
    packet.buffer = train_;
    packet.data = train_->memory + kHeadroom + current_.at;
    packet.length = static_cast<std::uint32_t>(length);
  }
  return true;
}

void UdpReceiver::begin_message() {
  begun_ = true;
  current_.like = {};
  current_.like.origin = Origin::kOuter;
  current_.length = receiving_[next_].msg_len;
  current_.at = 0;
  Endpoint& from = current_.like.from;
  if (!named_) from = connected_to_;
  current_.segment = read_message(receiving_[next_].msg_hdr, incoming_[next_].source, from, current_.like.tos);
  if (named_) {
    if (of_source_ != 0 && source_ != from) note_source();
    if (of_source_++ == 0) source_ = from;
  }
  current_.number = 0;
  ++seen_.messages;
  ++seen_.datagrams;
  if (current_.segment == 0 || current_.segment >= current_.length) {
    current_.segment = current_.length;
    return;
  }
  trains_.add(1);
  seen_.segment = current_.segment;
  const std::size_t datagrams = (current_.length - 1) / current_.segment + 1;
  seen_.datagrams += datagrams - 1;
  if (next_ >= kWhole || datagrams < kWorthIt || !holds_train_buffer(next_)) return;
  train_ = std::exchange(held_[first_part(next_)], nullptr);  // our reference is one of theirs now
  train_->references.fetch_add(static_cast<std::uint32_t>(datagrams - 1), std::memory_order_relaxed);
}

// The datagram at current_.at becomes a packet: in the buffer it lies in, if it lies at the front of one alone.
bool UdpReceiver::cut(Burst& burst, std::size_t length, WorkerContext& context) {
  const std::size_t first = first_part(next_), chunk = parts_[first].iov_len, k = current_.number;
  const bool in_front =
      current_.segment == current_.length ? length <= chunk : current_.segment == chunk && k < incoming_[next_].buffers;
  const bool alone = in_front && (next_ >= kWhole || !holds_train_buffer(next_));
  Buffer* buffer;
  if (alone) {
    buffer = std::exchange(held_[first + k], nullptr);
  } else {
    buffer = spare(context);
    if (buffer == nullptr) return false;
    gather(current_.at, length, buffer->memory + kHeadroom);
    copied_.add(1);
  }
  burst.add(current_.like);
  Packet& packet = burst[burst.size() - 1];  // written there, not into the model: it is copied by wider words
  packet.buffer = buffer;
  packet.data = buffer->memory + kHeadroom;
  packet.length = static_cast<std::uint32_t>(length);
  return true;
}

// From the pool; where it is empty, of those that stand ready and have nothing in them.
Buffer* UdpReceiver::spare(WorkerContext& context) {
  if (Buffer* buffer = context.buffers.take(); buffer != nullptr) return buffer;
  for (std::size_t i = kUdpMessages; i-- != 0;) {
    std::size_t k = first_part(i);
    if (i >= next_ && i < received_)
      k += std::min<std::size_t>(incoming_[i].buffers, receiving_[i].msg_len / parts_[k].iov_len + 1);
    if (i < kWhole && holds_train_buffer(i)) continue;
    for (; k < first_part(i + 1); ++k) {
      if (held_[k] == nullptr) continue;
      prepared_ = std::min(prepared_, i);
      return std::exchange(held_[k], nullptr);
    }
  }
  return nullptr;
}

void UdpReceiver::gather(std::size_t offset, std::size_t length, std::uint8_t* to) const {
  const iovec* parts = &parts_[first_part(next_)];
  const std::size_t chunk = parts[0].iov_len, buffers = incoming_[next_].buffers;
  while (length != 0) {
    const std::size_t k = std::min(offset / chunk, buffers), inside = offset - k * chunk;
    const std::size_t some = std::min(length, parts[k].iov_len - inside);
    std::memcpy(to, static_cast<const std::uint8_t*>(parts[k].iov_base) + inside, some);
    to += some;
    offset += some;
    length -= some;
  }
}

// ---- when trains are expected

void UdpReceiver::learn(Lane& lane, int fd, std::size_t messages, bool drained, const WorkerContext& context) {
  if (!lane.asked_for) {
    if (lane.able && messages >= kLargeBurst && ++lane.busy >= lane.wanted) ask_for_trains(lane, fd);
    return;
  }
  if (seen_.segment != 0) {
    const bool guess = seen_.segment >= kWorthItsPart && seen_.segment <= context.buffers.pool().data_room();
    lane.segment = guess ? seen_.segment : 0;
    lane.whole = whole_ != nullptr;
    lane.per_message = seen_.datagrams / seen_.messages;
    lane.without = lane.vain = 0;
    lane.wanted = kFirstWait;
    return;
  }
  lane.per_message = 1;
  if (++lane.without >= kWithoutTrains) {
    lane.segment = 0;
    lane.whole = false;
  }
  lane.vain += static_cast<std::uint32_t>(messages);
  if (lane.vain < kInVain || !drained) return;
  set_gro(fd, 0);  // the socket is empty, so that no train waits there whose length we would not be told any more
  lane.asked_for = false;
  lane.busy = lane.vain = 0;
  lane.segment = 0;
  lane.whole = false;
  lane.wanted = std::clamp(2 * lane.wanted, kFirstWait, kLongestWait);
}

void UdpReceiver::ask_for_trains(Lane& lane, int fd) {
  lane.busy = 0;
  if (spill_ == nullptr) {
    void* memory = ::mmap(nullptr, kUdpMessages * kSpill, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      lane.able = false;
      return;
    }
    ::madvise(memory, kUdpMessages * kSpill, MADV_NOHUGEPAGE);
    spill_ = static_cast<std::uint8_t*>(memory);
  }
  lane.able = lane.asked_for = set_gro(fd, 1);
}

}  // namespace wireplane
