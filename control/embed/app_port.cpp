#include "control/embed/app_port.h"

#include <unistd.h>

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
    : capacity_{capacity}, to_tunnel_{capacity}, to_app_{capacity}, wake_{std::move(wake)}, ringer_{std::move(ringer)} {
  if (wake_) doorbell_.set_ringer([this] { ring(); });
}

AppPort::~AppPort() {
  for (Outbound out; to_tunnel_.pop(out);) release(out.buffer);
  for (Inbound in; to_app_.pop(in);) release(in.buffer);
  for (Inbound in; pop_sctp(in);) release(in.buffer);
}

void AppPort::divert_sctp(std::function<void()> ringer) {
  to_sctp_ = std::make_unique<MpmcRing<Inbound>>(capacity_);
  sctp_ringer_ = std::move(ringer);
}

void AppPort::ring() const {
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
    static_cast<void>(!::read(wake_.get(), &rung, sizeof rung));
  }
  Outbound out;
  for (std::size_t left = receive_room(burst); left != 0 && to_tunnel_.pop(out); --left)
    add_received(burst, out.buffer, out.length, Origin::kHost);
}

std::size_t AppPort::send(Burst& burst, WorkerContext& context) {
  std::size_t to_app = 0, to_sctp = 0;
  for (Packet& packet : burst) {
    const PeerId from = packet.from_peer == nullptr ? PeerId{} : packet.from_peer->id;
    const Inbound in{packet.buffer, packet.data, packet.length, from};
    const bool sctp = to_sctp_ != nullptr && is_sctp(packet);
    if (!(sctp ? *to_sctp_ : to_app_).push(in))
      context.drop(packet, Drop::kInnerSend);
    else  // the buffer is the application's now
      ++(sctp ? to_sctp : to_app);
  }
  burst.clear();
  if (to_app != 0 && ringer_) ringer_();
  if (to_sctp != 0 && sctp_ringer_) sctp_ringer_();
  return to_app + to_sctp;
}

}  // namespace wireplane
