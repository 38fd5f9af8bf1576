// noise_fixture.h: what the tests of control/noise share: seeded randomness, keys, two sides of a handshake.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "control/noise/admission.h"
#include "control/noise/handshake.h"
#include "control/noise/x25519.h"
#include "tests/support/vectors.h"

namespace wireplane::test {

// Draws first what was put into it, then from its seed: known ephemerals and nonces where a test needs them.
class ScriptedEntropy final : public Entropy {
 public:
  explicit ScriptedEntropy(std::uint64_t seed = 1) : engine_{seed} {}
  void next(std::span<const std::uint8_t> octets) { script_.insert(script_.end(), octets.begin(), octets.end()); }
  void fill(std::span<std::uint8_t> octets) override {
    for (std::uint8_t& octet : octets) {
      if (script_.empty()) {
        octet = static_cast<std::uint8_t>(engine_());
      } else {
        octet = script_.front();
        script_.pop_front();
      }
    }
  }

 private:
  std::mt19937_64 engine_;
  std::deque<std::uint8_t> script_;
};

inline SecretKey secret_of(std::span<const std::uint8_t> octets) {
  SecretKey key;
  WG_CHECK(octets.size() == SecretKey::kSize);
  std::ranges::copy(octets, key.fill().begin());
  return key;
}
inline SecretKey secret_of(std::uint8_t repeated) {
  SecretKey key;
  std::ranges::fill(key.fill(), repeated);
  return key;
}
inline PublicKey public_of(std::span<const std::uint8_t> octets) {
  PublicKey key;
  WG_CHECK(octets.size() == key.octets.size());
  std::ranges::copy(octets, key.octets.begin());
  return key;
}
template <class Octets>
std::string hex_of(const Octets& octets) {
  return to_hex_text(reinterpret_cast<const std::uint8_t*>(std::data(octets)), std::size(octets));
}
template <class Message>
std::string hex_of_message(const Message& message) {
  return to_hex_text(reinterpret_cast<const std::uint8_t*>(&message), sizeof message);
}
inline std::string hex_of(const SecretKey& key) { return to_hex_text(key.expose().data(), SecretKey::kSize); }

inline Endpoint endpoint(std::uint32_t ipv4, std::uint16_t port) {
  const std::uint8_t octets[4] = {static_cast<std::uint8_t>(ipv4 >> 24), static_cast<std::uint8_t>(ipv4 >> 16),
                                  static_cast<std::uint8_t>(ipv4 >> 8), static_cast<std::uint8_t>(ipv4)};
  return {.remote = Address::v4(octets), .local = {}, .interface = 0, .port = port};
}

constexpr Instant at(Duration since_start) { return Instant{1000s + since_start}; }

// An initiator and a responder who are configured for each other.
struct Pair {
  explicit Pair(SecretKey initiator_secret = secret_of(0x11), SecretKey responder_secret = secret_of(0x22),
                SecretKey psk = secret_of(0x55))
      : initiator{make_local_identity(std::move(initiator_secret))},
        responder{make_local_identity(std::move(responder_secret))},
        to_responder{make_remote_identity(initiator, responder.public_key, psk.duplicate())},
        to_initiator{make_remote_identity(responder, initiator.public_key, psk.duplicate())} {}

  LocalIdentity initiator, responder;
  RemoteIdentity to_responder, to_initiator;
};

}  // namespace wireplane::test
