// sim.h: many devices on one simulated network, with one simulated clock and one seed.
//
//   test --say()--> inner queue | Node: engine, workers, device | outer queue --carry()--> Sim: delay, loss, NAT, ...
//   test <--inbox-- inner queue |                               | outer queue <--deliver--   wires in order of time
//
// Time jumps: from one event (a datagram arrives, a device's timer is due, the test has something to do) to the next;
// at each instant the nodes concerned are stepped until they have nothing left to do. Nothing reads a clock or the
// system's randomness: the same seed is the same run.
//
// When a Sim ends it asserts the conservation law (packet.h) and that no buffer is missing, for every node.
#pragma once
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "control/device.h"
#include "dataplane/worker.h"
#include "drivers/memory_port.h"
#include "tests/support/ip_packets.h"
#include "tests/support/seed.h"

namespace wireplane::test {

// xoshiro256** (Blackman and Vigna), seeded by splitmix64: fast, and the same everywhere.
class SeededEntropy final : public Entropy {
 public:
  explicit SeededEntropy(std::uint64_t seed);
  void fill(std::span<std::uint8_t> octets) override;
  [[nodiscard]] std::uint64_t next();
  [[nodiscard]] double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }  // [0, 1)
  [[nodiscard]] bool happens(double probability) { return probability > 0 && unit() < probability; }
  [[nodiscard]] std::uint64_t below(std::uint64_t limit) { return next() % limit; }

 private:
  std::array<std::uint64_t, 4> state_;
};

// What the network does to a datagram. Probabilities.
struct LinkFaults {
  Duration delay = 10ms;
  Duration jitter{};  // uniform, added to the delay
  double loss = 0, duplicate = 0, corrupt = 0;
  double reorder = 0;  // delayed by up to four delays more
};

// A datagram as an observer on the network sees it (behind the sender's NAT).
struct Wire {
  Instant at;
  Endpoint from, to;
  std::uint8_t tos = 0;
  Octets octets;
  [[nodiscard]] unsigned type() const { return octets.empty() ? 0 : octets[0]; }
  [[nodiscard]] bool is(MessageType t) const { return type() == static_cast<unsigned>(t); }
  [[nodiscard]] bool is_data() const { return is(MessageType::kData); }
  [[nodiscard]] bool is_keepalive() const { return is_data() && octets.size() == kDataOverhead; }
  // Little-endian words at their place: sender of 1 and 2, receiver of 2, receiver of 3 and 4, counter of 4.
  [[nodiscard]] std::uint32_t sender() const { return load_le<std::uint32_t>(&octets[4]); }
  [[nodiscard]] std::uint32_t receiver() const {
    return load_le<std::uint32_t>(&octets[is(MessageType::kResponse) ? 8 : 4]);
  }
  [[nodiscard]] std::uint64_t counter() const { return load_le<std::uint64_t>(&octets[8]); }
};

[[nodiscard]] Limits small_limits();  // enough for a handful of peers, and quick to build
[[nodiscard]] Endpoint endpoint(const std::string& address, std::uint16_t port);
[[nodiscard]] Prefix prefix(const std::string& text);  // "10.0.0.0/8"

struct NodeOptions {
  unsigned workers = 1;
  bool inner = true;
  Forward forward = Forward::kNone;
  std::uint16_t mtu = 1420;
  Limits limits = small_limits();
  bool router = false;               // it has inner addresses of its own to send ICMP errors from
  std::vector<Address> addresses{};  // none: one of each family, by its number
  Duration wall{1'700'000'000s};     // what its wall clock shows when the simulation begins
  Device::Options device{};
  std::size_t inner_queue = 1024;
  bool started = true;  // false: its private key is set by start()
};

struct PeerOptions {
  std::optional<Endpoint> endpoint{};
  std::uint16_t keepalive_s = 0;
  std::vector<std::string> allowed{};
  std::optional<std::uint32_t> group{};
};

class Sim;

class Node {
 public:
  Node(Sim& sim, unsigned id, NodeOptions options);
  ~Node();

  // Configuration, as a person would do it.
  void start();  // sets its private key
  void add_peer(const PublicKey& key, const PeerOptions& peer);
  void remove_peer(const PublicKey& key);
  void apply(DeviceChange change);
  void apply(PeerChange change);
  void set_forward(Forward forward);
  void set_mtu(std::uint16_t mtu);
  void move_to(std::vector<Address> addresses);  // roaming: its old addresses are nobody's

  [[nodiscard]] const PublicKey& key() const { return key_; }
  [[nodiscard]] std::string inner_v4() const;
  [[nodiscard]] std::string inner_v6() const;
  [[nodiscard]] Endpoint at() const;  // where it is reached over IPv4
  [[nodiscard]] Endpoint at_v6() const;
  [[nodiscard]] PeerView view_of(const PublicKey& key) const;
  [[nodiscard]] const Peer& peer(const Node& other) const;
  [[nodiscard]] Session* session(const std::optional<SessionRef>& place);
  [[nodiscard]] PeerState& state(const Node& other) const { return *peer(other).state; }

  // The application. say() hands over a UDP datagram of `octets` payload to another node's inner address.
  void say(const Node& to, std::size_t octets = 32, unsigned worker = 0);
  void say_v6(const Node& to, std::size_t octets = 32);
  void send(const Octets& packet, unsigned worker = 0);
  struct Arrival {
    Instant at;
    Octets packet;
  };
  std::vector<Arrival> inbox;
  // Somebody sets its clocks: added to the simulation's time, from now on.
  Duration engine_jump{}, wall_jump{};
  std::function<void()> before_control, after_control;            // around control's steps
  [[nodiscard]] std::size_t count_from(const Node& other) const;  // UDP datagrams of the other in the inbox

  // Sums over the workers; control's drops are in drops() too.
  [[nodiscard]] std::uint64_t drops(Drop reason) const;
  [[nodiscard]] std::uint64_t total(Tally Counters::*tally) const;
  [[nodiscard]] std::size_t held() const;
  [[nodiscard]] std::int64_t imbalance() const;                 // 0: the conservation law of packet.h holds, in all
  [[nodiscard]] std::int64_t imbalance(unsigned worker) const;  // ... and for this worker
  [[nodiscard]] std::string counters_text() const;

 private:
  friend class Sim;
  void settle();  // all that can be done now is done
  void collect();

  Sim& sim_;
  const unsigned id_;
  const NodeOptions options_;
  Settings settings_;
  SecretKey secret_;
  PublicKey key_;
  std::vector<Address> addresses_;

 public:
  SeededEntropy entropy;
  Engine engine;
  std::unique_ptr<MemoryOuterDevice> outer;
  std::unique_ptr<MemoryInnerDevice> inner;
  std::unique_ptr<Device> device;
  std::vector<std::unique_ptr<Worker>> workers;

 private:
  Instant due_{};
  bool dirty_ = false;
};

class Sim final : public MemoryNetwork {
 public:
  explicit Sim(std::uint64_t seed = 1, LinkFaults faults = {}, std::size_t queue_capacity = 1024);
  ~Sim() override;

  Node& add(NodeOptions options = {});
  // Makes them peers of each other, with endpoints, for their own inner addresses.
  void connect(Node& a, Node& b);

  [[nodiscard]] Instant now() const { return now_; }
  [[nodiscard]] Now now_of(const Node& node) const;
  void run_for(Duration time) { run_until(now_ + time); }
  void run_until(Instant end);
  bool run_until(const std::function<bool()>& reached, Duration at_most);
  void sleep_through(Duration time) { now_ += time; }  // the host was suspended: what was due meanwhile is late
  void at(Instant when, std::function<void()> what);
  void after(Duration wait, std::function<void()> what) { at(now_ + wait, std::move(what)); }
  void touch(Node& node);  // something was done to it by hand: let it see to it now

  // Puts a datagram on the wire as it is, without faults, after `faults.delay`.
  void inject(const Endpoint& from, const Endpoint& to, Octets octets, std::uint8_t tos = 0);

  LinkFaults faults;
  std::map<std::pair<const Node*, const Node*>, LinkFaults> link_faults;  // from, to
  std::function<bool(const Wire&)> pass;                                  // false: lost
  bool recording = true;
  std::vector<Wire> record;  // everything that was sent, in order
  [[nodiscard]] std::vector<Wire> sent_by(const Node& node, std::optional<MessageType> type = {}) const;
  // Somebody else's address: what is sent there.
  std::function<void(const Wire&)>& stranger(const Endpoint& at) { return strangers_[{at.remote, at.port}]; }

  // A NAT in front of a node: port and address of what leaves are translated, and come back only by a mapping.
  void put_behind_nat(Node& node, const std::string& public_address);
  void forget_nat_mappings() { nat_out_.clear(), nat_in_.clear(); }

  [[nodiscard]] std::vector<std::unique_ptr<Node>>& nodes() { return nodes_; }
  [[nodiscard]] SeededEntropy& dice() { return dice_; }
  [[nodiscard]] std::uint64_t seed() const { return seed_; }

  [[nodiscard]] Drop carry(const Endpoint& from, const Endpoint& to, std::uint8_t tos,
                           std::span<const std::uint8_t> octets) override;

 private:
  friend class Node;
  using Name = std::pair<Address, std::uint16_t>;
  struct Pending {
    std::unique_ptr<Wire> wire;
    std::function<void()> what;
  };
  void schedule(Instant at, Pending pending) { pending_.emplace(std::pair{at, ++sequence_}, std::move(pending)); }
  void arrive(Wire& wire);
  void step_to(Instant instant);
  [[nodiscard]] Instant next_event() const;
  [[nodiscard]] Node* node_at(const Address& address) const;
  [[nodiscard]] const LinkFaults& faults_between(const Endpoint& from, const Endpoint& to) const;

  const std::uint64_t seed_;
  Instant now_{Instant{1000s}};
  SeededEntropy dice_;
  std::uint64_t sequence_ = 0;
  std::map<std::pair<Instant, std::uint64_t>, Pending> pending_;
  std::map<Address, Node*> where_;
  std::map<Name, std::function<void(const Wire&)>> strangers_;
  std::map<Address, Address> nat_public_;  // inside -> outside
  std::map<Name, Name> nat_out_, nat_in_;
  std::uint16_t next_nat_port_ = 20000;
  std::vector<std::unique_ptr<Node>> nodes_;
};

}  // namespace wireplane::test
