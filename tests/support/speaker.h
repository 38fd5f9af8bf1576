// speaker.h: a peer whose every message a test writes itself, valid or not, over the handshake code that its own tests
// have proved. No timers, no retries, no replay window: it says what it is told and keeps what it hears.
#pragma once
#include <optional>
#include <vector>

#include "control/noise/cookie.h"
#include "control/noise/handshake.h"
#include "tests/support/sim.h"

namespace wireplane::test {

class Speaker {
 public:
  // Somebody at `at` who knows the node's public key. Not yet the node's peer: see join().
  Speaker(Sim& sim, Node& node, const std::string& at = "198.51.100.1", std::uint16_t port = 7777);
  ~Speaker();
  Speaker(const Speaker&) = delete;
  Speaker& operator=(const Speaker&) = delete;

  // Becomes the node's peer; `allowed` are its inner addresses, the first is the one data_packet() uses.
  void join(bool with_endpoint = true, std::vector<std::string> allowed = {"10.9.0.1/32"},
            std::uint16_t keepalive_s = 0);

  // Handshake. The timestamp is the simulation's wall clock unless given.
  [[nodiscard]] InitiationMessage initiation(std::optional<Timestamp> timestamp = {});  // remembers it as `sent`
  [[nodiscard]] std::optional<KeyPair> read(const Wire& response);
  [[nodiscard]] std::optional<KeyPair> respond(const Wire& initiation, ResponseMessage& response);
  [[nodiscard]] KeyPair shake();   // as initiator, all the way; the node has answered, nothing is confirmed
  [[nodiscard]] KeyPair answer();  // as responder, to the node's last initiation in the inbox
  [[nodiscard]] KeyPair shake_and_confirm();

  template <class Message>
  void send(const Message& message, std::optional<Endpoint> from = {}) {
    send_octets({reinterpret_cast<const std::uint8_t*>(&message),
                 reinterpret_cast<const std::uint8_t*>(&message) + sizeof message},
                from);
  }
  void send_octets(Octets octets, std::optional<Endpoint> from = {}, std::uint8_t tos = 0);

  // Transport messages.
  [[nodiscard]] Octets data(const KeyPair& keys, std::uint64_t counter, const Octets& plaintext) const;
  [[nodiscard]] Octets keepalive(const KeyPair& keys, std::uint64_t counter) const { return data(keys, counter, {}); }
  [[nodiscard]] Octets data_packet(const std::string& to, std::size_t octets = 32) const;  // inner, from our address
  [[nodiscard]] static std::optional<Octets> open(const KeyPair& keys, const Wire& wire);

  [[nodiscard]] const PublicKey& key() const { return us.public_key; }
  [[nodiscard]] const Peer& as_peer() const;
  [[nodiscard]] std::vector<Wire> heard(MessageType type) const;

  Endpoint at;
  LocalIdentity us;
  RemoteIdentity them;
  SeededEntropy entropy;
  CookieJar cookies;
  std::optional<InitiationSent> sent;
  std::uint32_t next_index = 0x01020300;
  std::vector<Wire> inbox;  // what was sent to `at`
  std::string inner = "10.9.0.1";

 private:
  Sim& sim_;
  Node& node_;
};

}  // namespace wireplane::test
