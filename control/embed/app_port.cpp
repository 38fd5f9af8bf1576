#include "control/embed/app_port.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "control/embed/thrifty_pool.h"
#include "dataplane/session/peer_state.h"
#include "dataplane/wire/inner_ip.h"
#include "drivers/received.h"

namespace wireplane {
namespace {

bool is_sctp(const Packet& packet) {
  constexpr std::uint8_t kSctp = 132;
  return !is_ipv4(packet.data) && packet.data[6] == kSctp && packet.length > kIpv6HeaderSize;
}

}  // namespace

AppPort::AppPort(std::size_t capacity, FileDescriptor wake, std::function<void()> ringer)
    : capacity_{std::max(capacity, 2 * kReceiveBurst)},
      to_tunnel_{capacity},
      to_app_{capacity_},
      wake_{std::move(wake)},
      ringer_{std::move(ringer)} {
  if (wake_) doorbell_.set_ringer([this] { ring(); });
}

AppPort::~AppPort() {
  Outbound out;
  while (to_tunnel_.pop({&out, 1}) != 0) release(out.buffer);
  Inbound in;
  while (to_app_.pop({&in, 1}) != 0 || pop_sctp({&in, 1}) != 0) release(in.buffer);
}

std::size_t AppPort::push(std::span<const Outbound> packets) {
  const std::lock_guard lock{pushing_};
  return to_tunnel_.push(packets);
}

std::size_t AppPort::pop(std::span<Inbound> room) {
  if (to_app_.size() == 0) return 0;
  const std::lock_guard lock{popping_};
  return to_app_.pop(room);
}

void AppPort::divert_sctp(std::function<void()> ringer) {
  to_sctp_ = std::make_unique<BulkRing<Inbound>>(capacity_);
  sctp_ringer_ = std::move(ringer);
}

void AppPort::ring() const {
  rung_.store(true, std::memory_order_release);  // before: whom the write wakes may have our core at once
  const std::uint64_t one = 1;
  static_cast<void>(!::write(wake_.get(), &one, sizeof one));
}

void AppPort::pushed() { doorbell_.ring_if_asleep(); }

// Armed and then looked once more, as the Doorbell asks of a sleeper: what is there already makes poll() return.
void AppPort::wake_fds(std::vector<int>& fds) const {
  if (!wake_) return;
  doorbell_.sleep_begin();
  armed_ = true;
  if (to_tunnel_.size() != 0) ring();
  fds.push_back(wake_.get());
}

void AppPort::receive(Burst& burst, WorkerContext&) {
  if (armed_) {  // we slept
    armed_ = false;
    doorbell_.sleep_end();
    std::uint64_t rung;
    if (rung_.exchange(false, std::memory_order_acquire) && ::read(wake_.get(), &rung, sizeof rung) != sizeof rung)
      rung_.store(true, std::memory_order_release);  // not written yet
  }
  std::array<Outbound, kReceiveBurst> out;
  const std::size_t count = to_tunnel_.pop(std::span{out}.first(receive_room(burst)));
  Packet like;
  like.origin = Origin::kHost;
  for (const Outbound& its : std::span{out}.first(count)) {
    burst.add(like);
    Packet& packet = burst[burst.size() - 1];
    packet.buffer = its.buffer;
    packet.data = its.buffer->memory + kHeadroom;
    packet.length = its.length;
    __builtin_prefetch(packet.data);
  }
}

std::size_t AppPort::send(Burst& burst, WorkerContext& context) {
  std::size_t to_app = 0, to_sctp = 0;
  std::array<Inbound, kReceiveBurst> batch;
  std::size_t in_batch = 0;
  const auto deliver = [&](BulkRing<Inbound>& ring, std::span<const Inbound> packets) {
    const std::size_t taken = ring.push(packets);  // they are the application's now
    for (const Inbound& in : packets.subspan(taken)) {
      context.counters.drop(Drop::kInnerSend);
      context.buffers.release(in.buffer);
    }
    return taken;
  };
  for (const Packet& packet : burst) {
    const PeerId from = packet.from_peer == nullptr ? PeerId{} : packet.from_peer->id;
    batch[in_batch] = {packet.buffer, packet.data, packet.length, from};
    if (to_sctp_ != nullptr && is_sctp(packet)) [[unlikely]]
      to_sctp += deliver(*to_sctp_, {&batch[in_batch], 1});
    else if (++in_batch == batch.size())
      to_app += deliver(to_app_, std::span{batch}.first(std::exchange(in_batch, 0)));
  }
  if (in_batch != 0) to_app += deliver(to_app_, std::span{batch}.first(in_batch));
  burst.clear();
  if (to_app != 0 && ringer_) ringer_();
  if (to_sctp != 0 && sctp_ringer_) sctp_ringer_();
  return to_app + to_sctp;
}

}  // namespace wireplane
