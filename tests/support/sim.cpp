#include "tests/support/sim.h"

#include <algorithm>
#include <cstring>

#include "control/address_text.h"
#include "control/noise/x25519.h"
#include "dataplane/wire/inner_ip.h"
#include "tests/support/fake_device.h"

namespace wireplane::test {
namespace {

std::uint64_t splitmix(std::uint64_t& state) {
  std::uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

std::uint64_t rotate_left(std::uint64_t x, int by) { return x << by | x >> (64 - by); }

std::string with_number(const char* before, unsigned id) {
  return before + std::to_string(id >> 8) + '.' + std::to_string(id & 255);
}

std::string hex(unsigned number) {
  char text[16];
  std::snprintf(text, sizeof text, "%x", number);
  return text;
}

}  // namespace

SeededEntropy::SeededEntropy(std::uint64_t seed) : state_{} {
  for (std::uint64_t& word : state_) word = splitmix(seed);
}

std::uint64_t SeededEntropy::next() {
  const std::uint64_t result = rotate_left(state_[1] * 5, 7) * 9, t = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= t;
  state_[3] = rotate_left(state_[3], 45);
  return result;
}

void SeededEntropy::fill(std::span<std::uint8_t> octets) {
  for (std::size_t at = 0; at < octets.size(); at += 8) {
    const std::uint64_t word = next();
    std::memcpy(octets.data() + at, &word, std::min<std::size_t>(8, octets.size() - at));
  }
}

Limits small_limits() {
  Limits limits;
  limits.peers = 8;
  limits.buffers = 1024;
  limits.handshake_ring = 64;
  limits.event_ring = 256;
  limits.order_ring = 64;
  limits.handover_ring = 64;
  return limits;
}

Endpoint endpoint(const std::string& text, std::uint16_t port) {
  Endpoint e;
  e.remote = address(text);
  e.port = port;
  return e;
}

Prefix prefix(const std::string& text) {
  const std::optional<Prefix> parsed = parse_prefix(text);
  if (!parsed) std::abort();  // a test's typing error
  return *parsed;
}

// ---- the node

Node::Node(Sim& sim, unsigned id, NodeOptions options)
    : sim_{sim},
      id_{id},
      options_{std::move(options)},
      addresses_{options_.addresses},
      entropy{sim.seed() * 1000003 + id},
      engine{[&] {
        Limits limits = options_.limits;
        limits.workers = options_.workers;
        return limits;
      }()} {
  if (addresses_.empty()) addresses_ = {address(with_number("172.16.", id_)), address("2001:db8::" + hex(id_))};
  for (const Address& own : addresses_) sim_.where_[own] = this;
  outer = sim.attach(addresses_, 51820, options_.workers);
  if (options_.inner) inner = std::make_unique<MemoryInnerDevice>(options_.workers, options_.inner_queue);
  secret_ = generate_secret_key(entropy);
  key_ = public_key(secret_);
  device = std::make_unique<Device>(engine, outer.get(), entropy, sim.now_of(*this), options_.device);
  settings_.forward = options_.forward;
  settings_.has_inner = options_.inner;
  settings_.mtu = options_.mtu;
  if (options_.router) {
    settings_.router_v4 = address(inner_v4());
    settings_.router_v6 = address(inner_v6());
  }
  device->set_engine_settings(settings_);
  for (unsigned i = 0; i < options_.workers; ++i)
    workers.push_back(
        std::make_unique<Worker>(engine, i, outer->queue(i), inner == nullptr ? nullptr : &inner->queue(i)));
  if (options_.started) start();
  due_ = sim.now();
}

Node::~Node() {
  for (unsigned i = 0; i < workers.size(); ++i)
    EXPECT_EQ(imbalance(i), 0) << "conservation law, node " << id_ << ", worker " << i << ", WG_SEED=" << sim_.seed()
                               << '\n'
                               << counters_text();
  EXPECT_EQ(imbalance(), 0) << "conservation law, node " << id_ << ", WG_SEED=" << sim_.seed() << '\n'
                            << counters_text();
  std::size_t in_rings = 0;
  for (unsigned i = 0; i < engine.workers(); ++i)
    for (unsigned j = 0; j < engine.workers(); ++j) in_rings += engine.handover(i, j).size();
  workers.clear();
  EXPECT_EQ(engine.pool().available() + in_rings, engine.pool().capacity())
      << "buffers are missing, node " << id_ << ", WG_SEED=" << sim_.seed();
}

void Node::start() {
  DeviceChange change;
  change.private_key = secret_.duplicate();
  apply(std::move(change));
}

void Node::apply(DeviceChange change) {
  const Status done = device->apply(std::move(change));
  EXPECT_TRUE(done) << done.error().what;
  dirty_ = true;
}

void Node::apply(PeerChange change) {
  DeviceChange all;
  all.peers.push_back(std::move(change));
  apply(std::move(all));
}

void Node::add_peer(const PublicKey& key, const PeerOptions& peer) {
  PeerChange change;
  change.public_key = key;
  change.endpoint = peer.endpoint;
  change.persistent_keepalive_s = peer.keepalive_s;
  change.group = peer.group;
  for (const std::string& text : peer.allowed) change.allowed_ips.push_back({.prefix = prefix(text)});
  apply(std::move(change));
}

void Node::remove_peer(const PublicKey& key) {
  PeerChange change;
  change.public_key = key;
  change.remove = true;
  apply(std::move(change));
}

void Node::set_forward(Forward forward) {
  settings_.forward = forward;
  device->set_engine_settings(settings_);
}

void Node::set_mtu(std::uint16_t mtu) {
  settings_.mtu = mtu;
  device->set_engine_settings(settings_);
}

void Node::move_to(std::vector<Address> addresses) {
  for (const Address& own : addresses_) sim_.where_.erase(own);
  addresses_ = addresses;
  for (const Address& own : addresses_) sim_.where_[own] = this;
  const Status moved = outer->set_addresses(std::move(addresses));
  EXPECT_TRUE(moved) << moved.error().what;
}

std::string Node::inner_v4() const { return with_number("10.0.", id_); }
std::string Node::inner_v6() const { return "fd00::" + hex(id_); }

Endpoint Node::at() const {
  Endpoint e;
  e.remote = addresses_.front();
  e.port = outer->listen_port();
  return e;
}

Endpoint Node::at_v6() const {
  Endpoint e = at();
  for (const Address& own : addresses_)
    if (own.is_v6()) e.remote = own;
  return e;
}

PeerView Node::view_of(const PublicKey& key) const {
  PeerView found;
  device->for_each_peer([&](const PeerView& view) {
    if (view.public_key == key) found = copy_of(view);
  });
  return found;
}

const Peer& Node::peer(const Node& other) const {
  const Peer* found = device->find(other.key());
  WG_CHECK(found != nullptr);
  return *found;
}

Session* Node::session(const std::optional<SessionRef>& place) {
  return place ? &engine.sessions().at(place->slot) : nullptr;
}

void Node::say(const Node& to, std::size_t octets, unsigned worker) {
  send(udp_packet(inner_v4(), 5000, to.inner_v4(), 6000, octets), worker);
}

void Node::say_v6(const Node& to, std::size_t octets) {
  send(udp_packet(inner_v6(), 5000, to.inner_v6(), 6000, octets));
}

void Node::send(const Octets& packet, unsigned worker) {
  EXPECT_TRUE(inner->push(packet, worker)) << "the inner queue is full";
  dirty_ = true;
}

std::size_t Node::count_from(const Node& other) const {
  const Address v4 = address(other.inner_v4()), v6 = address(other.inner_v6());
  return static_cast<std::size_t>(std::ranges::count_if(inbox, [&](const Arrival& arrival) {
    const Address from = source_of(arrival.packet.data());
    return from == v4 || from == v6;
  }));
}

void Node::collect() {
  if (inner == nullptr) return;
  for (unsigned i = 0; i < engine.workers(); ++i)
    for (Octets packet; inner->pop(packet, i);) inbox.push_back({sim_.now(), std::move(packet)});
}

void Node::settle() {
  dirty_ = false;
  for (bool first = true, busy = true; busy; first = false) {
    busy = false;
    for (const auto& worker : workers)
      while (worker->step(sim_.now_of(*this).engine) == Work::kDone) busy = true;
    collect();
    bool asked = first || due_ <= sim_.now();
    for (unsigned i = 0; i < engine.workers(); ++i)
      asked = asked || !engine.link(i).urgent.empty() || !engine.link(i).events.empty();
    if (!asked) continue;
    if (before_control) before_control();
    due_ = device->step(sim_.now_of(*this)) - engine_jump;
    if (after_control) after_control();
    busy = true;
  }
}

std::uint64_t Node::drops(Drop reason) const {
  std::uint64_t sum = device->drops(reason);
  for (const auto& worker : workers) sum += worker->counters().drops[static_cast<std::size_t>(reason)].get();
  return sum;
}

std::uint64_t Node::total(Tally Counters::*tally) const {
  std::uint64_t sum = 0;
  for (const auto& worker : workers) sum += (worker->counters().*tally).get();
  return sum;
}

std::size_t Node::held() const {
  std::size_t sum = 0;
  for (const auto& worker : workers) sum += worker->held();
  auto& rings = const_cast<Engine&>(engine);
  for (unsigned i = 0; i < engine.workers(); ++i)
    for (unsigned j = 0; j < engine.workers(); ++j) sum += rings.handover(i, j).size();
  return sum;
}

std::int64_t Node::imbalance(unsigned worker) const {
  return workers[worker]->counters().inside() - static_cast<std::int64_t>(workers[worker]->held());
}

// Between workers too: what one handed on, another took, or it waits in their ring.
std::int64_t Node::imbalance() const {
  std::int64_t sum = -static_cast<std::int64_t>(held());
  for (const auto& worker : workers) sum += worker->counters().inside();
  return sum + static_cast<std::int64_t>(total(&Counters::handed_on) - total(&Counters::taken_on));
}

std::string Node::counters_text() const {
  std::string text =
      "outer in " + std::to_string(total(&Counters::outer_in)) + " out " + std::to_string(total(&Counters::outer_out)) +
      ", inner in " + std::to_string(total(&Counters::inner_in)) + " out " +
      std::to_string(total(&Counters::inner_out)) + ", made " + std::to_string(total(&Counters::made)) + ", refused " +
      std::to_string(total(&Counters::refused)) + ", consumed " + std::to_string(total(&Counters::consumed)) +
      ", relayed " + std::to_string(total(&Counters::relayed)) + ", held " + std::to_string(held());
  for (std::size_t i = 1; i < kDropCount; ++i)
    if (const std::uint64_t count = drops(static_cast<Drop>(i)); count != 0)
      text += ", " + std::string{metric(static_cast<Drop>(i))} + ' ' + std::to_string(count);
  return text;
}

// ---- the network

Sim::Sim(std::uint64_t seed, LinkFaults f, std::size_t queue_capacity)
    : MemoryNetwork{queue_capacity}, faults{f}, seed_{seed}, dice_{seed} {}

Sim::~Sim() { nodes_.clear(); }

Node& Sim::add(NodeOptions options) {
  nodes_.push_back(std::make_unique<Node>(*this, static_cast<unsigned>(nodes_.size() + 1), std::move(options)));
  return *nodes_.back();
}

void Sim::connect(Node& a, Node& b) {
  a.add_peer(b.key(), {.endpoint = b.at(), .allowed = {b.inner_v4() + "/32", b.inner_v6() + "/128"}});
  b.add_peer(a.key(), {.endpoint = a.at(), .allowed = {a.inner_v4() + "/32", a.inner_v6() + "/128"}});
}

Now Sim::now_of(const Node& node) const {
  return {now_ + node.engine_jump, node.options_.wall + node.wall_jump + (now_ - Instant{1000s})};
}

void Sim::at(Instant when, std::function<void()> what) { schedule(when, {nullptr, std::move(what)}); }

void Sim::touch(Node& node) { node.dirty_ = true; }

Instant Sim::next_event() const {
  Instant next = pending_.empty() ? Instant::max() : pending_.begin()->first.first;
  for (const auto& node : nodes_) next = std::min(next, node->dirty_ ? now_ : node->due_);
  return next;
}

// Everything that happens at one instant; what it causes at once happens too.
void Sim::step_to(Instant instant) {
  now_ = instant;
  while (!pending_.empty() && pending_.begin()->first.first <= now_) {
    Pending pending = std::move(pending_.begin()->second);
    pending_.erase(pending_.begin());
    if (pending.wire != nullptr)
      arrive(*pending.wire);
    else
      pending.what();
  }
  for (const auto& node : nodes_)
    if (node->dirty_ || node->due_ <= now_) node->settle();
}

void Sim::run_until(Instant end) {
  for (Instant next; (next = next_event()) <= end;) step_to(std::max(next, now_));
  now_ = end;
}

bool Sim::run_until(const std::function<bool()>& reached, Duration at_most) {
  const Instant end = now_ + at_most;
  for (;;) {
    if (reached()) return true;
    const Instant next = next_event();
    if (next > end) break;
    step_to(std::max(next, now_));
  }
  now_ = end;
  return reached();
}

void Sim::inject(const Endpoint& from, const Endpoint& to, Octets octets, std::uint8_t tos) {
  schedule(now_ + faults.delay, {std::make_unique<Wire>(Wire{now_, from, to, tos, std::move(octets)}), {}});
}

std::vector<Wire> Sim::sent_by(const Node& node, std::optional<MessageType> type) const {
  std::vector<Wire> wires;
  for (const Wire& wire : record)
    if (node_at(wire.from.remote) == &node && (!type || wire.is(*type))) wires.push_back(wire);
  return wires;
}

void Sim::put_behind_nat(Node& node, const std::string& public_address) {
  for (const Address& own : node.addresses_) nat_public_[own] = address(public_address);
}

Node* Sim::node_at(const Address& address) const {
  const auto found = where_.find(address);
  return found == where_.end() ? nullptr : found->second;
}

const LinkFaults& Sim::faults_between(const Endpoint& from, const Endpoint& to) const {
  if (link_faults.empty()) return faults;
  const auto found = link_faults.find({node_at(from.remote), node_at(to.remote)});
  return found == link_faults.end() ? faults : found->second;
}

Drop Sim::carry(const Endpoint& sender, const Endpoint& to, std::uint8_t tos, std::span<const std::uint8_t> octets) {
  const LinkFaults& link = faults_between(sender, to);
  Endpoint from = sender;
  if (const auto outside = nat_public_.find(sender.remote); outside != nat_public_.end()) {
    const Name inside{sender.remote, sender.port};
    auto mapping = nat_out_.find(inside);
    if (mapping == nat_out_.end()) {
      mapping = nat_out_.emplace(inside, Name{outside->second, next_nat_port_++}).first;
      nat_in_[mapping->second] = inside;
    }
    from.remote = mapping->second.first;
    from.port = mapping->second.second;
  }
  Wire wire{now_, from, to, tos, {octets.begin(), octets.end()}};
  wire.to.local = {};
  wire.to.interface = 0;
  if (recording) record.push_back(wire);
  if (pass && !pass(wire)) return Drop::kNone;
  if (dice_.happens(link.loss)) return Drop::kNone;
  const unsigned copies = dice_.happens(link.duplicate) ? 2 : 1;
  for (unsigned i = 0; i < copies; ++i) {
    auto copy = std::make_unique<Wire>(wire);
    if (dice_.happens(link.corrupt) && !copy->octets.empty())
      copy->octets[dice_.below(copy->octets.size())] ^= static_cast<std::uint8_t>(1u << dice_.below(8));
    Duration delay = link.delay;
    if (link.jitter > Duration{0})
      delay += Duration{static_cast<std::int64_t>(dice_.below(static_cast<std::uint64_t>(link.jitter.count())))};
    if (dice_.happens(link.reorder))
      delay += Duration{static_cast<std::int64_t>(dice_.below(static_cast<std::uint64_t>(4 * link.delay.count() + 1)))};
    schedule(now_ + delay, {std::move(copy), {}});
  }
  return Drop::kNone;
}

void Sim::arrive(Wire& wire) {
  Name name{wire.to.remote, wire.to.port};
  if (const auto inside = nat_in_.find(name); inside != nat_in_.end()) name = inside->second;
  if (const auto stranger = strangers_.find(name); stranger != strangers_.end())
    return stranger->second ? stranger->second(wire) : void();
  Node* node = node_at(name.first);
  if (node == nullptr) return;
  wire.to.remote = name.first;
  wire.to.port = name.second;
  static_cast<void>(deliver(wire.from, wire.to, wire.tos, wire.octets));  // a full queue is a loss like any other
  node->dirty_ = true;
}

}  // namespace wireplane::test
