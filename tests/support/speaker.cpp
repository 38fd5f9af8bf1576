#include "tests/support/speaker.h"

#include <algorithm>
#include <cstring>

#include "control/noise/x25519.h"
#include "dataplane/aead/aead_kernels.h"

namespace wireplane::test {

Speaker::Speaker(Sim& sim, Node& node, const std::string& address_text, std::uint16_t port)
    : at{endpoint(address_text, port)},
      entropy{sim.seed() ^ std::hash<std::string>{}(address_text) ^ port},
      sim_{sim},
      node_{node} {
  us = make_local_identity(generate_secret_key(entropy));
  them = make_remote_identity(us, node.key(), SecretKey{});
  sim_.stranger(at) = [this](const Wire& wire) { inbox.push_back(wire); };
}

Speaker::~Speaker() { sim_.stranger(at) = nullptr; }

void Speaker::join(bool with_endpoint, std::vector<std::string> allowed, std::uint16_t keepalive_s) {
  inner = allowed.empty() ? inner : allowed.front().substr(0, allowed.front().find('/'));
  node_.add_peer(us.public_key, {.endpoint = with_endpoint ? std::optional{at} : std::nullopt,
                                 .keepalive_s = keepalive_s,
                                 .allowed = std::move(allowed)});
}

InitiationMessage Speaker::initiation(std::optional<Timestamp> timestamp) {
  InitiationMessage message{};
  auto written = write_initiation(message, ReceiverIndex{++next_index}, us, them,
                                  timestamp ? *timestamp : timestamp_at(sim_.now_of(node_).wall), entropy);
  WG_CHECK(static_cast<bool>(written));
  sent.emplace(std::move(*written));
  cookies.write_macs(octets_of(message), them, sim_.now());
  return message;
}

std::optional<KeyPair> Speaker::read(const Wire& response) {
  ResponseMessage message;
  if (response.octets.size() != sizeof message || !sent) return std::nullopt;
  std::memcpy(&message, response.octets.data(), sizeof message);
  auto keys = read_response(*sent, message, us, them);
  if (!keys) return std::nullopt;
  return std::move(*keys);
}

std::optional<KeyPair> Speaker::respond(const Wire& initiation, ResponseMessage& response) {
  InitiationMessage message;
  if (initiation.octets.size() != sizeof message) return std::nullopt;
  std::memcpy(&message, initiation.octets.data(), sizeof message);
  auto read = read_initiation(message, us);
  if (!read || read->remote_static != them.public_key || !read_initiation_timestamp(*read, message, them))
    return std::nullopt;
  response = {};
  auto keys = write_response(response, std::move(*read), ReceiverIndex{++next_index}, us, them, entropy);
  if (!keys) return std::nullopt;
  cookies.write_macs(octets_of(response), them, sim_.now());
  return std::move(*keys);
}

KeyPair Speaker::shake() {
  const std::size_t before = heard(MessageType::kResponse).size();
  send(initiation());
  sim_.run_for(4 * sim_.faults.delay);
  const std::vector<Wire> responses = heard(MessageType::kResponse);
  WG_CHECK(responses.size() > before);
  std::optional<KeyPair> keys = read(responses.back());
  WG_CHECK(keys.has_value());
  return std::move(*keys);
}

KeyPair Speaker::shake_and_confirm() {
  KeyPair keys = shake();
  send_octets(keepalive(keys, 0));
  sim_.run_for(2 * sim_.faults.delay);
  return keys;
}

KeyPair Speaker::answer() {
  const std::vector<Wire> initiations = heard(MessageType::kInitiation);
  WG_CHECK(!initiations.empty());
  ResponseMessage response;
  std::optional<KeyPair> keys = respond(initiations.back(), response);
  WG_CHECK(keys.has_value());
  send(response);
  sim_.run_for(2 * sim_.faults.delay);
  return std::move(*keys);
}

void Speaker::send_octets(Octets octets, std::optional<Endpoint> from, std::uint8_t tos) {
  sim_.inject(from ? *from : at, node_.at(), std::move(octets), tos);
}

Octets Speaker::data(const KeyPair& keys, std::uint64_t counter, const Octets& plaintext) const {
  Octets message(plaintext.size() + kDataOverhead);
  store_le(&message[0], static_cast<std::uint32_t>(MessageType::kData));
  store_le(&message[4], keys.remote.raw());
  store_le(&message[8], counter);
  SealJob job{.key = keys.send.expose().data(),
              .counter = counter,
              .head = nullptr,
              .head_length = 0,
              .body_length = static_cast<std::uint32_t>(plaintext.size()),
              .body = plaintext.data(),
              .destination = &message[kDataHeaderSize],
              .padding = 0};
  kAeadPortable.seal(&job, 1);
  return message;
}

Octets Speaker::data_packet(const std::string& to, std::size_t octets) const {
  return udp_packet(inner, 5000, to, 6000, octets);
}

std::optional<Octets> Speaker::open(const KeyPair& keys, const Wire& wire) {
  if (!wire.is_data() || wire.octets.size() < kDataOverhead || wire.receiver() != keys.self.raw()) return std::nullopt;
  Octets plaintext(wire.octets.size() - kDataHeaderSize);
  OpenJob job{.key = keys.receive.expose().data(),
              .counter = wire.counter(),
              .source = &wire.octets[kDataHeaderSize],
              .length = static_cast<std::uint32_t>(plaintext.size()),
              .destination = plaintext.data(),
              .authentic = false};
  kAeadPortable.open(&job, 1);
  if (!job.authentic) return std::nullopt;
  plaintext.resize(plaintext.size() - kTagSize);
  return plaintext;
}

const Peer& Speaker::as_peer() const {
  const Peer* peer = node_.device->find(us.public_key);
  WG_CHECK(peer != nullptr);
  return *peer;
}

std::vector<Wire> Speaker::heard(MessageType type) const {
  std::vector<Wire> wires;
  std::ranges::copy_if(inbox, std::back_inserter(wires), [type](const Wire& wire) { return wire.is(type); });
  return wires;
}

}  // namespace wireplane::test
