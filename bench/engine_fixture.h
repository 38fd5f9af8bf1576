// engine_fixture.h: an engine with peers, sessions and routes, as benchmarks of whole workers need them: real tables,
// made by control; sessions are put there without handshakes, so that the bench has the keys.
#pragma once
#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "control/device.h"
#include "control/receiver_indices.h"
#include "dataplane/base/bytes.h"
#include "dataplane/wire/checksum.h"
#include "dataplane/worker.h"

namespace wireplane::bench {

enum class Way { kSeal, kOpen, kRelay };

class SeededEntropy final : public Entropy {
 public:
  void fill(std::span<std::uint8_t> octets) override {
    for (std::uint8_t& octet : octets) octet = static_cast<std::uint8_t>(random_());
  }

 private:
  std::mt19937_64 random_{1};
};

// Octets of inner packets to draw from: one size, or the simple IMIX (7:4:1 of 64, 576 and the MTU).
inline std::vector<std::uint32_t> lengths_of(const std::string& sizes) {
  if (sizes != "imix") return {static_cast<std::uint32_t>(std::stoul(sizes))};
  std::vector<std::uint32_t> mix(7, 64);
  mix.insert(mix.end(), 4, 576);
  mix.push_back(1420);
  return mix;
}

inline void write_ip(std::uint8_t* ip, std::uint32_t length, const Address& from, const Address& to) {
  std::memset(ip, 0, length);
  ip[0] = 0x45;
  store_be16(ip + 2, static_cast<std::uint16_t>(length));
  ip[8] = 64;
  ip[9] = 17;
  std::memcpy(ip + 12, from.octets.data(), 4);
  std::memcpy(ip + 16, to.octets.data(), 4);
  store_be16(ip + 10, internet_checksum(ip, 20));
}

// `count` peers, each with a session that sends, one that receives, and a /32. Receiver indices are control's: random.
// Who owns a session is drawn as well, but for the first peer's, which is worker 0's.
class EngineFixture {
 public:
  EngineFixture(std::size_t count, unsigned workers, std::size_t buffers) : engine_{limits(count, workers, buffers)} {
    device_ = std::make_unique<Device>(engine_, nullptr, entropy_, Now{start(), 0ns});
    Settings settings;
    settings.forward = Forward::kAll;
    settings.has_inner = true;
    engine_.publish(settings);
    DeviceChange change;
    for (std::uint32_t i = 0; i < count; ++i) {
      PeerChange& peer = change.peers.emplace_back();
      entropy_.fill(peer.public_key.octets);
      peer.endpoint = endpoint_of(i);
      peer.allowed_ips.push_back({{address_of(i), 32}, false});
    }
    if (!device_->apply(std::move(change))) std::abort();
    for (std::uint32_t i = 0; i < count; ++i) install(i);
  }

  static Address address_of(std::uint32_t peer) {
    std::uint8_t octets[4];
    store_be32(octets, 0x0a000001u + peer);
    return Address::v4(octets);
  }
  static Address host() {
    static constexpr std::uint8_t kHost[4] = {172, 16, 0, 1};
    return Address::v4(kHost);
  }
  static Endpoint endpoint_of(std::uint32_t peer) {
    std::uint8_t octets[4];
    store_be32(octets, 0xc6120001u + peer / 60000);
    Endpoint e;
    e.remote = Address::v4(octets);
    e.port = static_cast<std::uint16_t>(1024 + peer % 60000);
    return e;
  }
  static Instant start() { return Instant{1h}; }

  // Session `i` is both sessions of peer i: what we receive with has the key that the generator seals with.
  Session& session(std::uint32_t peer) { return engine_.sessions().at(SessionSlot{peer}); }
  Engine& engine() { return engine_; }

 private:
  static Limits limits(std::size_t count, unsigned workers, std::size_t buffers) {
    Limits l;
    l.workers = workers;
    l.peers = count + 1;
    l.sessions = count + 1;
    l.buffers = buffers;
    return l;
  }
  void install(std::uint32_t i) {
    Session& s = *new (&session(i)) Session{};
    entropy_.fill(s.receive_key);
    entropy_.fill(s.sent.key);
    PeerState& peer = engine_.peer(PeerSlot{i});
    s.peer = peer.id;
    s.serial = Serial{1};
    s.slot = SessionSlot{i};
    s.self = *indices_.draw(i == 0 ? 0 : entropy_.u32() % engine_.workers(), start());
    s.sent.remote = ReceiverIndex{entropy_.u32()};
    s.created = s.sent.created = ns(start());
    s.initiator = s.sent.initiator = true;
    engine_.link(engine_.owner(s.self)).sessions.store(s.self, s.slot);
    peer.offer_sending(s.serial, s.slot);
  }

  SeededEntropy entropy_;
  Engine engine_;
  ReceiverIndices indices_{engine_, entropy_};
  std::unique_ptr<Device> device_;
};

inline double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

}  // namespace wireplane::bench
