// Fuzz: whatever arrives at the outer port, and whatever a peer that holds keys says inside them.
// Claims: nothing crashes, every packet is accounted for (the conservation law of packet.h), no buffer is lost.
//
// The input is a list of records: 1 octet kind, 1 octet length / 2, then the octets. A hub (Forward = all, a host, MTU
// 600) has live sessions with two peers; what a record seals is authentic, so that everything behind the tag is
// reached.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "dataplane/base/check.h"
#include "tests/support/speaker.h"

namespace wireplane::test {
namespace {

enum Kind : std::uint8_t {
  kRawFromPeer,      // a datagram as it is
  kRawFromStranger,  //
  kSealedByA,        // a plaintext, sealed with the next number
  kSealedByB,        //
  kIpv4,             // the octets over an IPv4 packet from A to B, sealed by A
  kIpv6,             // the same over IPv6
  kFromHost,         // an inner packet of the host
  kInitiation,       // the octets over an initiation by A, macs made good again
  kDamaged,          // a good transport message of A, the octets over it
  kWait,             // up to 2 minutes
  kKinds
};

void overlay(std::span<std::uint8_t> on, std::span<const std::uint8_t> octets) {  // first octet: where
  if (octets.empty()) return;
  const std::size_t at = octets[0];
  for (std::size_t i = 1; i < octets.size() && at + i - 1 < on.size(); ++i) on[at + i - 1] ^= octets[i];
}

class World {
 public:
  World() {
    sim_.recording = false;
    sim_.faults = {.delay = 0ms};
    a_.join(true, {"10.9.0.1/32", "fd09::1/128"});
    b_.join(true, {"10.9.0.2/32", "fd09::2/128"});
    a_keys_ = a_.shake_and_confirm();
    b_keys_ = b_.shake_and_confirm();
  }
  ~World() {
    sim_.run_for(1s);
    WG_CHECK(hub_.imbalance() == 0);
    hub_.workers.clear();
    WG_CHECK(hub_.engine.pool().available() == hub_.engine.pool().capacity());
  }

  void play(Kind kind, std::span<const std::uint8_t> octets) {
    const Octets bytes(octets.begin(), octets.end());
    switch (kind) {
      case kRawFromPeer:
        return a_.send_octets(bytes);
      case kRawFromStranger:
        return a_.send_octets(bytes, endpoint("203.0.113.1", 1));
      case kSealedByA:
        return a_.send_octets(a_.data(a_keys_, ++a_counter_, bytes));
      case kSealedByB:
        return b_.send_octets(b_.data(b_keys_, ++b_counter_, bytes));
      case kIpv4:
      case kIpv6: {
        Octets packet = kind == kIpv4 ? udp_packet("10.9.0.1", 1, "10.9.0.2", 2, octets.size() * 3)
                                      : udp_packet("fd09::1", 1, "fd09::2", 2, octets.size() * 3);
        overlay(packet, octets);
        return a_.send_octets(a_.data(a_keys_, ++a_counter_, packet));
      }
      case kFromHost:
        static_cast<void>(hub_.inner->push(bytes));
        return sim_.touch(hub_);
      case kInitiation: {
        InitiationMessage message = a_.initiation();
        overlay({reinterpret_cast<std::uint8_t*>(&message), sizeof message}, octets);
        a_.cookies.write_macs(octets_of(message), a_.them, sim_.now());
        return a_.send(message);
      }
      case kDamaged: {
        Octets message = a_.data(a_keys_, ++a_counter_, udp_packet("10.9.0.1", 1, "10.9.0.2", 2, 30));
        overlay(message, octets);
        return a_.send_octets(message);
      }
      case kWait:
        return sim_.run_for(Duration{1ms} * (octets.empty() ? 1 : octets[0] * (octets.size() > 1 ? 500 : 1)));
      case kKinds:
        break;
    }
  }
  void settle() { sim_.run_for(0ns); }

 private:
  static NodeOptions options() {
    NodeOptions o{.forward = Forward::kAll, .mtu = 600, .router = true, .inner_queue = 64};
    o.limits.buffers = 256;
    o.limits.data_room = 1024;
    o.device.rate_limited_sources = 64;
    return o;
  }
  Sim sim_{1, {}, 64};
  Node& hub_ = sim_.add(options());
  Speaker a_{sim_, hub_, "198.51.100.1"}, b_{sim_, hub_, "198.51.100.2"};
  KeyPair a_keys_, b_keys_;
  std::uint64_t a_counter_ = 0, b_counter_ = 0;
};

}  // namespace
}  // namespace wireplane::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace wireplane::test;
  World world;
  const std::uint8_t* const end = data + size;
  for (unsigned records = 0; end - data >= 2 && records < 200; ++records) {
    const Kind kind = static_cast<Kind>(data[0] % kKinds);
    const std::size_t length =
        std::min<std::size_t>(data[1] * std::size_t{2}, static_cast<std::size_t>(end - data - 2));
    world.play(kind, {data + 2, length});
    data += 2 + length;
    if (records % 32 == 31) world.settle();  // sometimes one at a time, mostly a burst
  }
  world.settle();
  return 0;
}
