#include "control/embed/app_port.h"

#include <algorithm>
#include <optional>

#include "control/embed/thrifty_pool.h"
#include "dataplane/session/peer_state.h"
#include "dataplane/wire/inner_ip.h"
#include "drivers/eventfd.h"
#include "drivers/received.h"

namespace wireplane {
namespace {

constexpr Packet kFromHost{.origin = Origin::kHost};  // copied: gcc clears an empty one twice

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
  rings_.fetch_add(1, std::memory_order_release);  // before: whom the write wakes may have our core at once
  ring_eventfd(wake_.get());
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
    if (rings_.load(std::memory_order_acquire) != 0)
      rings_.fetch_sub(static_cast<std::uint32_t>(drain_eventfd(wake_.get())),
                       std::memory_order_relaxed);  // the others come later
  }
  to_tunnel_.pop_each(receive_room(burst), [&](const Outbound& its) {
    burst.add(kFromHost);
    Packet& packet = burst[burst.size() - 1];
    packet.buffer = its.buffer;
    packet.data = its.data != nullptr ? its.data : its.buffer->memory + kHeadroom;
    packet.length = its.length;
    __builtin_prefetch(packet.data);
  });
}

std::size_t AppPort::send(Burst& burst, WorkerContext& context) {
  std::size_t to_app = 0, to_sctp = 0;
  {
    BulkRing<Inbound>::Filling app{to_app_, burst.size()};
    std::optional<BulkRing<Inbound>::Filling> sctp;
    for (const Packet& packet : burst) {
      auto* filling = &app;
      if (to_sctp_ != nullptr && is_sctp(packet)) [[unlikely]]
        filling = sctp ? &*sctp : &sctp.emplace(*to_sctp_, burst.size());
      Inbound* const in = filling->place();
      if (in == nullptr) {
        context.counters.drop(Drop::kInnerSend);
        context.buffers.release(packet.buffer);
        continue;
      }
      in->buffer = packet.buffer;  // they are the application's now
      in->data = packet.data;
      in->length = packet.length;
      in->from = packet.from_peer == nullptr ? PeerId{} : packet.from_peer->id;
    }
    to_app = app.count();
    if (sctp) to_sctp = sctp->count();
  }
  burst.clear();
  if (to_app != 0 && ringer_) ringer_();
  if (to_sctp != 0 && sctp_ringer_) sctp_ringer_();
  return to_app + to_sctp;
}

}  // namespace wireplane
