// node.h: a WireGuard node inside an application: no privileges, no devices, no EAL, no global state.
//
//   auto node = *Node::open({.listen_port = 5000});             // a key is generated
//   auto peer = *node->add_peer(their_key, "192.0.2.1:5000");   // text as wg(8) writes it
//   node->send(peer, octets);                                   // keys are agreed on by themselves
//   node->wait(1s), node->receive(take);
//
//   application -- send() --> bounded queue --> worker --> UDP socket          workers = 0: process() does it all
//   application <-receive()-- bounded queue <-- worker <-- UDP socket          workers = n: threads of the node do
//          ^------- fd(): poll it, then process(): events, and how much waits
//
// Who a peer is follows from its key alone: its inner address is address_of(key) (node_address.h), and what comes from
// that address comes from whoever has that key. A datagram is UDP in IPv6 between two such addresses, so that a stock
// WireGuard peer can be spoken to; whole IP packets go both ways, too. Any call from any thread; nothing here waits
// for the network but wait(). Operations that fail return why. README.md says what each call costs and may wait for.
#pragma once
#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "control/configuration.h"
#include "control/embed/node_address.h"
#include "control/embed/stream.h"
#include "dataplane/base/drops.h"
#include "dataplane/base/forward.h"
#include "dataplane/base/result.h"

namespace wireplane {

constexpr std::uint16_t kDatagramPort = 5158;  // UDP port inside the tunnel, where nothing else was said

// A peer as an application names it. A peer that was removed and added again is another one.
struct NodePeer {
  PublicKey key;
  Address address;  // address_of(key)
  PeerId id;
  friend bool operator==(const NodePeer&, const NodePeer&) = default;
};

struct NodePeerOptions {
  std::optional<Endpoint> endpoint{};        // none: the peer comes to us
  std::optional<SecretKey> preshared_key{};  // none: as it was; all zero: without
  std::uint16_t keepalive_s = 0;             // not 0: also connects at once, and stays
  std::vector<Prefix> allowed_ips{};         // beside its own address; for whole IP packets
};

struct NodePeerView {
  std::optional<Endpoint> endpoint{};                  // where it was last heard, or is believed to be
  Duration last_handshake{};                           // wall clock, since 1970; 0: never
  std::uint64_t received_octets = 0, sent_octets = 0;  // of UDP payload
};

struct NodeEvent {
  // Lost: nobody answers, or its keys were wiped. Rekeyed: another handshake with a peer that is connected.
  enum class Kind : std::uint8_t { kConnected, kRoamed, kLost, kRekeyed };
  Kind kind{};
  NodePeer peer;
  Endpoint endpoint;
};

struct Datagram {
  NodePeer to;
  std::span<const std::uint8_t> payload;  // at most max_datagram()
  std::uint16_t port = kDatagramPort, from_port = kDatagramPort;
  std::uint8_t traffic_class = 0;  // DSCP, ECN (RFC 2474, RFC 3168): inside as it is, ECN outside, too (RFC 6040)
};

struct Received {
  NodePeer from;
  bool datagram{};  // UDP from the peer's own address to ours: octets are its payload; else they are a whole IP packet
  std::span<const std::uint8_t> octets;  // until the call that they were given to returns
  std::uint16_t port{}, from_port{};
  std::span<const std::uint8_t> packet;  // the whole IP packet in any case
  std::uint8_t traffic_class{};          // of a datagram: as it was sent, or with the path's CE
};

class Node;

struct NodeStats {
  std::uint64_t sent = 0, received = 0;   // transport packets with something in them
  std::uint64_t events_lost = 0;          // nobody took them
  std::uint64_t stream_packets_lost = 0;  // a queue was full, or malformed: SCTP sends them again
  std::size_t queued_out = 0, queued_in = 0;
  std::size_t buffers = 0, buffers_free = 0;
  bool keys_locked = false;  // in memory; false: RLIMIT_MEMLOCK is too small, keys may reach swap
  std::array<std::uint64_t, kDropCount> drops{};
  [[nodiscard]] std::uint64_t dropped(Drop reason) const { return drops[static_cast<std::size_t>(reason)]; }
};

struct NodeOptions {
  SecretKey private_key{};        // all zero: one is generated
  std::uint16_t listen_port = 0;  // 0: any that is free
  bool ipv4 = true, ipv6 = true;
  unsigned workers = 0;  // 0: whoever calls process() does the work; else threads, one more for control
  std::uint16_t mtu = 1420;
  Forward forward = Forward::kNone;                     // may peers reach each other through us?
  std::size_t peers = 1024;                             // at most
  std::size_t queue = 256;                              // packets each way and worker; a power of two
  std::size_t buffers = 0;                              // 0: enough for the queues
  int socket_buffer_octets = 1 << 20;                   // of the kernel, each way
  bool streams = true;                                  // false: SCTP is the application's, as raw packets
  unsigned streams_per_peer = 64;                       // ids, 2 to 65535: either side may open half of them
  std::size_t stream_buffer_octets = 256 << 10;         // each way and peer, all streams together; 64 KiB or more
  bool trains = true;                                   // UDP_SEGMENT and UDP_GRO where the kernel has them
  std::function<void(const NodeEvent&)> on_event = {};  // called in process(); none: next_event() has them
};

// A peer that we speak to, and from which node: what Node::connect() gives. Copies are as good; it owns nothing.
struct Connection : NodePeer {
  Node* node = nullptr;
  [[nodiscard]] Result<Stream> open_stream(Stream::Kind kind = Stream::Kind::kBytes) const;
};

class Node {
 public:
  [[nodiscard]] static Result<std::unique_ptr<Node>> open(NodeOptions options = {});
  ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  // Stops; wipes all keys. From here on every operation says ESHUTDOWN, and fd() is readable.
  void close();

  // Who we are.
  [[nodiscard]] const PublicKey& key() const;
  [[nodiscard]] std::string key_text() const;  // base64
  [[nodiscard]] const Address& address() const;
  [[nodiscard]] SecretKey private_key() const;  // to be kept for the next start
  [[nodiscard]] std::uint16_t port() const;
  [[nodiscard]] std::uint16_t mtu() const;         // of whole IP packets
  [[nodiscard]] std::size_t max_datagram() const;  // payload
  [[nodiscard]] NodeStats stats() const;

  // Whom we know. A peer that is there already is changed: an endpoint given moves it, allowed IPs are replaced.
  Result<NodePeer> add_peer(const PublicKey& key, NodePeerOptions options = {});
  Result<NodePeer> add_peer(std::string_view key, std::string_view endpoint = {});  // base64; address:port
  Status remove_peer(const PublicKey& key);
  [[nodiscard]] std::optional<NodePeer> find_peer(const PublicKey& key) const;
  [[nodiscard]] std::optional<NodePeer> find_peer(PeerId id) const;
  [[nodiscard]] std::optional<NodePeerView> view(const PublicKey& key) const;
  [[nodiscard]] std::size_t peers() const;

  // Streams (stream.h). connect(): add_peer(), and what streams need is agreed on in the background. open_stream():
  // EMFILE: all ids are in use. accept_stream(): EAGAIN: no peer has opened one. next_ready_stream(): one of ours that
  // can be read or written again, was finished, broken or is too late; told once: read until EAGAIN. None: false.
  Result<Connection> connect(const PublicKey& key, NodePeerOptions options = {});
  Result<Connection> connect(std::string_view key, std::string_view endpoint = {});
  Result<Stream> open_stream(const NodePeer& peer, Stream::Kind kind = Stream::Kind::kBytes);
  Result<Stream> accept_stream();
  Result<Stream> accept_stream(Duration at_most);  // waits
  [[nodiscard]] Stream next_ready_stream();

  // Driving. fd() becomes readable when process() should be called: poll(2) it, or put it into an epoll set.
  [[nodiscard]] int fd() const;
  // With workers = 0: receives, sends, keeps time; at most about a millisecond, then fd() is readable again. With
  // threads: takes notice. Both: events are told. Returns how many packets wait to be received.
  Result<std::size_t> process();
  // Processes and sleeps until there is something to receive, or an event, at most so long.
  Result<std::size_t> wait(Duration at_most);
  [[nodiscard]] bool next_event(NodeEvent& event);

  // What is taken will be sent, in order for each peer, once process() or a thread comes to it. Fewer than given: the
  // queue is full (EAGAIN if it took none): process() or wait(), and go on with the rest. Taken is not delivered: like
  // any IP packet it may be lost, and counted in stats(). ENOENT: no such peer; EMSGSIZE: larger than the MTU.
  Result<std::size_t> send(std::span<const Datagram> burst);
  Status send(const NodePeer& to, std::span<const std::uint8_t> payload, std::uint16_t port = kDatagramPort);
  Status send_packet(std::span<const std::uint8_t> ip_packet);  // whose destination a peer's allowed IPs have

  // Gives what waits to `take`, at most so many; returns how many. Until it returns 0 there may be more.
  using Take = std::function<void(const Received&)>;
  std::size_t receive(const Take& take, std::size_t at_most = 64);

 private:
  struct State;
  explicit Node(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace wireplane
