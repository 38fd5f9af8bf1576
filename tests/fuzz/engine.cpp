// Fuzz: whole nodes talking over a bad network while people change their configuration and strangers meddle.
//
//   node 0 --.                     two or three nodes, one or two workers each, a peer whose messages are written by
//   node 1 --+-- a network         hand (its keys are the harness's: what it says is authentic, whatever it says), and
//   node 2 --'   full of faults    an observer who repeats, cuts and damages what he saw, from wherever he likes
//   speaker -'
//
// Claims, against a model (a map of prefixes a node, a list of everything said):
//   * an inner packet that comes out was put in, by somebody whose it was by the receiver's allowed IPs, for this
//     receiver, each of its octets at most once, unchanged but for what routers change (TTL, checksum, ECN, fragments);
//   * no number is used twice with a key; a speaker's number is believed once;
//   * what a node's peers and their settings are is what the model says;
//   * the conservation law holds after every operation, and no buffer is missing in the end;
//   * when the faults are over, every two nodes that are configured to talk do so within a minute.
#include <gtest/gtest.h>

#include <deque>
#include <set>

#include "control/noise/x25519.h"
#include "dataplane/base/check.h"
#include "dataplane/wire/ecn.h"
#include "dataplane/wire/inner_ip.h"
#include "tests/fuzz/oracle.h"
#include "tests/fuzz/program.h"
#include "tests/support/speaker.h"

namespace wireplane::test {
namespace {

using fuzz::Operands;

constexpr unsigned kMostNodes = 3, kIdentities = 2, kSpeaker = kMostNodes;
constexpr std::size_t kMostSaid = 3000;

enum Kind : std::uint8_t {
  kRun,
  kSay,
  kBurst,
  kFaults,
  kReplay,
  kAddPeer,
  kRemovePeer,
  kAllow,
  kPsk,
  kIdentity,
  kEndpoint,
  kRoam,
  kKeepalive,
  kForward,
  kMtu,
  kListen,
  kSpeak,
  kSpeakerShakes,
  kSpeakerAnswers,
  kRaw,
  kSuspend,
  kDamageInner,
  kKinds
};
constexpr std::uint8_t kGrammar[kKinds] = {2, 7, 5, 6, 6, 4, 2, 5, 3, 3, 3, 2, 3, 3, 2, 2, 9, 3, 2, 40, 2, 8};

// Somebody's static key. All of them are made once; curves are slow.
struct Identity {
  SecretKey secret;
  PublicKey key;
};
const Identity& identity(unsigned who, unsigned which) {
  static const std::vector<Identity> all = [] {
    std::vector<Identity> made;
    SeededEntropy entropy{4711};
    for (unsigned i = 0; i < kMostNodes * kIdentities; ++i) {
      SecretKey secret = generate_secret_key(entropy);
      const PublicKey key = public_key(secret);
      made.push_back({std::move(secret), key});
    }
    return made;
  }();
  return all[who * kIdentities + which];
}

struct Said {
  unsigned from;  // a node, or kSpeaker
  Octets packet;
  std::optional<PublicKey> routed;  // by the sender's configuration when it was said
  std::vector<bool> seen;           // octets behind the IP header that came out somewhere
  bool came = false;
  std::uint64_t session = 0, counter = 0;  // a speaker's
};

std::size_t header_of(const Octets& packet) { return ip_header_length(packet.data()); }

class World {
 public:
  explicit World(Operands o) : sim_{1, {.delay = 5ms}, 64}, count_{2 + o.below(2)} {
    sim_.recording = false;
    sim_.pass = [this](const Wire& wire) { return saw(wire); };
    for (unsigned i = 0; i < count_; ++i) add_node(i, o.u8());
    speaker_ = std::make_unique<Speaker>(sim_, node(0), "198.51.100.9");
    meet_speaker();
    if (const unsigned shape = o.below(4); shape != 3) wire_up(shape == 1 && count_ == 3);
    settle();
  }

  void play(Kind kind, Operands o);
  void finish();

 private:
  Node& node(unsigned i) { return *sim_.nodes()[i]; }
  unsigned other(unsigned i, Operands& o) const { return (i + 1 + o.below(count_ - 1)) % count_; }

  // ---- set up
  void add_node(unsigned i, std::uint8_t flags) {
    NodeOptions options{.workers = 1u + (flags & 1u),
                        .mtu = static_cast<std::uint16_t>((flags & 2) != 0 ? 1420 : 600),
                        .router = (flags & 4) != 0,
                        .inner_queue = 128,
                        .started = false};
    options.limits.buffers = 256;
    options.limits.data_room = 2048;
    options.device.rate_limited_sources = 64;
    sim_.add(options);
    model_.emplace_back();
    hub_.push_back(false);
    hub_ever_.push_back(false);
    which_.push_back(0);
    home_of_[node(i).at().remote] = i;
    home_of_[node(i).at_v6().remote] = i;
    DeviceChange change;
    change.private_key = identity(i, 0).secret.duplicate();
    node(i).apply(std::move(change));
    hub_[i] = hub_ever_[i] = (flags & 8) != 0;
    if (hub_[i]) node(i).set_forward(Forward::kAll);
  }
  // All with all; or 1 and 2 by way of 0.
  void wire_up(bool star) {
    for (unsigned i = 0; i < count_; ++i)
      for (unsigned j = 0; j < count_; ++j) {
        if (i == j || (star && i != 0 && j != 0)) continue;
        PeerChange change = peer_change(j, 0);
        change.endpoint = node(j).at();
        allow(change, j, false);
        if (star && i != 0) allow(change, 3 - i, false);
        apply(i, std::move(change));
      }
  }
  void meet_speaker() { speaker_->them = make_remote_identity(speaker_->us, identity(0, which_[0]).key, SecretKey{}); }

  // ---- configuration, in the device and in the model
  [[nodiscard]] const PublicKey& key_of(unsigned who, unsigned which) const {
    return who == kSpeaker ? speaker_->key() : identity(who, which).key;
  }
  [[nodiscard]] unsigned whose(const PublicKey& key) const {  // by any identity he ever had
    for (unsigned i = 0; i < count_ * kIdentities; ++i)
      if (identity(i / kIdentities, i % kIdentities).key == key) return i / kIdentities;
    WG_CHECK(speaker_->key() == key);
    return kSpeaker;
  }
  PeerChange peer_change(unsigned who, unsigned which) const {
    PeerChange change;
    change.public_key = key_of(who, which);
    return change;
  }
  [[nodiscard]] std::string inner(unsigned who, bool v6) {
    if (who == kSpeaker) return v6 ? "fd00::99" : "10.0.0.99";
    return v6 ? node(who).inner_v6() : node(who).inner_v4();
  }
  void allow(PeerChange& change, unsigned who, bool remove) {
    change.allowed_ips.push_back({prefix(inner(who, false) + "/32"), remove});
    change.allowed_ips.push_back({prefix(inner(who, true) + "/128"), remove});
  }
  void apply(unsigned i, PeerChange change) {
    settle();  // what was under way passes under the configuration it was said under
    if (change.public_key != identity(i, which_[i]).key || change.remove) {  // P29: nobody is his own peer
      DeviceChange copy;
      copy.peers.push_back(fuzz::copy_of(change));
      WG_CHECK(static_cast<bool>(model_[i].apply(std::move(copy))));
    }
    node(i).apply(std::move(change));
    WG_CHECK(fuzz::peers_of(*node(i).device) == fuzz::peers_of(model_[i]));
    settle();
  }
  void set_forward(unsigned i, Forward forward) {
    settle();
    node(i).set_forward(forward);
    hub_[i] = forward != Forward::kNone;
    if (hub_[i]) hub_ever_[i] = true;
  }
  void change_identity(unsigned i, unsigned which) {
    settle();
    DeviceChange change;
    change.private_key = identity(i, which).secret.duplicate();
    which_[i] = which;
    DeviceChange gone;
    gone.peers.push_back(peer_change(i, which));
    gone.peers.back().remove = true;
    WG_CHECK(static_cast<bool>(model_[i].apply(std::move(gone))));
    node(i).apply(std::move(change));
    if (i == 0) meet_speaker();
    settle();
  }

  // ---- what is said, and what comes out
  void say(unsigned from, Octets packet, std::optional<PublicKey> routed, std::uint64_t session = 0,
           std::uint64_t counter = 0) {
    Said said{from, std::move(packet), routed, {}, false, session, counter};
    said.seen.resize(said.packet.size() - header_of(said.packet));
    said_.push_back(std::move(said));
  }
  Octets packet_for(const std::string& from, const std::string& to, Operands& o);
  void say_from(unsigned from, Operands& o, bool stepwise);
  void speak(Operands& o);
  bool saw(const Wire& wire);
  void replay(Operands& o);
  void check_arrival(unsigned at, const Octets& packet, bool by_wire);
  void check_icmp(const Octets& packet);
  void believe(Said& said, unsigned at, const Octets& packet);
  void hear_speaker();
  void settle() {
    sim_.run_for(0ns);
    look();
  }
  void run(Duration time) {
    time = std::min(time, left_);
    left_ -= time;
    sim_.run_for(time);
    look();
  }
  void look();
  [[nodiscard]] bool can_talk(unsigned i, unsigned j) const;

  Sim sim_;
  const unsigned count_;
  bool tampered_ecn_ = false;
  std::vector<FakeDevice> model_;
  std::vector<bool> hub_, hub_ever_;
  std::vector<unsigned> which_;  // identity in use
  std::map<Address, unsigned> home_of_;
  unsigned moves_ = 0;
  std::unique_ptr<Speaker> speaker_;
  struct SpeakerKeys {
    KeyPair keys;
    std::uint64_t next = 0;
  };
  std::deque<SpeakerKeys> speaker_keys_;
  std::set<std::pair<std::uint64_t, std::uint64_t>> speaker_believed_;  // of it, by others; inverted: by itself

  std::deque<Said> said_;  // its place is its name: IPv4's identification, IPv6's flow label
  std::deque<Wire> wires_;
  std::set<std::tuple<unsigned, std::uint32_t, std::uint64_t>> numbers_;
  std::array<std::uint64_t, kMostNodes> sent_{};
  Duration left_ = 1h;
};

// An inner packet whose every octet can be told from others': the payload counts on from its name.
Octets World::packet_for(const std::string& from, const std::string& to, Operands& o) {
  const auto name = static_cast<std::uint32_t>(said_.size());
  const std::uint16_t shape = o.u16();
  const auto ttl = static_cast<std::uint8_t>(1 + o.below(4) * 21);
  Octets payload(shape % 1700);
  for (std::size_t k = 0; k < payload.size(); ++k) payload[k] = static_cast<std::uint8_t>(name * 31 + k * 7 + k / 256);
  Octets packet = ip_packet(from, to, 253, payload, ttl, o.u8(), (shape & 0x8000) != 0);
  if (is_ipv4(packet.data())) {
    store_be16(&packet[4], static_cast<std::uint16_t>(name));
    store_be16(&packet[10], 0);
    store_be16(&packet[10], internet_checksum(packet.data(), 20));
  } else {
    store_be32(&packet[0], (load_be32(&packet[0]) & 0xfff00000) | name);
  }
  return packet;
}

void World::say_from(unsigned from, Operands& o, bool stepwise) {
  if (said_.size() >= kMostSaid) return;
  const std::uint8_t where = o.u8();
  const unsigned to = (where & 7) % (count_ + 1) == count_ ? kSpeaker : (where & 7) % (count_ + 1);
  const bool v6 = (where & 8) != 0;
  const unsigned claimed = (where & 0x70) == 0x70 ? to : from;  // a host may say anything about itself
  Octets packet = packet_for(inner(claimed, v6), inner(to, v6), o);
  const std::optional<PublicKey> routed = fuzz::owner_of(model_[from], destination_of(packet.data()));
  if (!node(from).inner->push(packet, (where >> 7) % node(from).engine.workers())) return;  // the queue is full
  sim_.touch(node(from));
  say(from, std::move(packet), routed);
  if (stepwise) settle();
}

// Authentic, by somebody who knows no shame: any source, any number.
void World::speak(Operands& o) {
  if (speaker_keys_.empty() || said_.size() >= kMostSaid) return;
  SpeakerKeys& use = speaker_keys_[speaker_keys_.size() - 1 - o.below(static_cast<unsigned>(speaker_keys_.size()))];
  const std::uint8_t how = o.u8();
  const unsigned claimed = (how & 7) < 5 ? kSpeaker : (how & 7) % count_;
  const unsigned to = (how >> 3 & 3) % count_;
  const bool v6 = (how & 32) != 0;
  std::uint64_t counter = use.next;
  if ((how & 64) != 0) counter = o.u16();  // perhaps again
  if ((how & 128) != 0) counter += std::uint64_t{o.u8()} << o.below(64);
  if (counter < UINT64_MAX / 2) use.next = std::max(use.next, counter + 1);
  Octets packet = packet_for(inner(claimed, v6), inner(to, v6), o);
  say(kSpeaker, packet, identity(0, which_[0]).key, use.keys.remote.raw(), counter);
  packet.resize((packet.size() + 15) / 16 * 16);
  speaker_->send_octets(speaker_->data(use.keys, counter, packet));
}

// Every datagram that anybody sends.
bool World::saw(const Wire& wire) {
  wires_.push_back(wire);
  if (wires_.size() > 256) wires_.pop_front();
  const auto home = home_of_.find(wire.from.remote);
  WG_CHECK(home != home_of_.end());
  const unsigned from = home->second;
  ++sent_[from];
  switch (wire.octets.size()) {
    case sizeof(InitiationMessage):
      if (wire.is(MessageType::kInitiation)) return true;
      break;
    case sizeof(ResponseMessage):
      if (wire.is(MessageType::kResponse)) return true;
      break;
    case sizeof(CookieReplyMessage):
      if (wire.is(MessageType::kCookieReply)) return true;
      break;
    default:
      break;
  }
  WG_CHECK(wire.is_data() && wire.octets.size() >= kDataOverhead);
  const bool fresh = numbers_.emplace(from, wire.receiver(), wire.counter()).second;
  WG_CHECK(fresh && "a number was used twice");
  return true;
}

void World::replay(Operands& o) {
  if (wires_.empty()) return;
  const Wire& wire = wires_[wires_.size() - 1 - o.u8() % wires_.size()];
  Octets octets = wire.octets;
  const std::uint8_t how = o.u8();
  const std::uint16_t where = o.u16();
  if ((how & 1) != 0) octets[where % octets.size()] ^= static_cast<std::uint8_t>(1u << (where >> 8) % 8);
  if ((how & 2) != 0) octets.resize(where % (octets.size() + 1));
  if ((how & 4) != 0) octets.resize(std::min<std::size_t>(octets.size() + (where >> 8), 2048), 0x55);
  std::uint8_t tos = wire.tos;
  if ((how & 8) != 0) tos = static_cast<std::uint8_t>(where), tampered_ecn_ = true;
  const Endpoint from = (how & 16) != 0 ? endpoint("203.0.113.7", 7) : wire.from;
  Endpoint to = wire.to;
  if ((how & 32) != 0) to = node(where % count_).at();
  for (unsigned copies = 1 + (how >> 6); copies != 0; --copies) sim_.inject(from, to, octets, tos);
}

// ---- what comes out

void World::look() {
  for (unsigned i = 0; i < count_; ++i) {
    std::vector<Node::Arrival> inbox;
    inbox.swap(node(i).inbox);
    for (const Node::Arrival& arrival : inbox) check_arrival(i, arrival.packet, false);
    WG_CHECK(node(i).imbalance() == 0);
    for (unsigned worker = 0; worker < node(i).engine.workers(); ++worker) WG_CHECK(node(i).imbalance(worker) == 0);
    WG_CHECK(sent_[i] == node(i).total(&Counters::outer_out));
  }
  hear_speaker();
}

void World::hear_speaker() {
  std::vector<Wire> inbox;
  inbox.swap(speaker_->inbox);
  for (const Wire& wire : inbox) {
    if (wire.is(MessageType::kInitiation) || wire.is(MessageType::kResponse)) {
      speaker_->inbox.push_back(wire);  // for who may answer it
      if (speaker_->inbox.size() > 4) speaker_->inbox.erase(speaker_->inbox.begin());
    }
    for (const SpeakerKeys& known : speaker_keys_) {
      const std::optional<Octets> plaintext = Speaker::open(known.keys, wire);
      if (!plaintext || !speaker_believed_.emplace(known.keys.self.raw(), ~wire.counter()).second) continue;
      if (!plaintext->empty()) check_arrival(kSpeaker, *plaintext, true);
    }
  }
}

void World::check_arrival(unsigned at, const Octets& packet, bool by_wire) {
  Octets whole = packet;
  const std::size_t length = inner_length(whole.data(), whole.size());
  WG_CHECK(length != 0 && (by_wire || length == whole.size()));
  for (std::size_t i = length; i < whole.size(); ++i) WG_CHECK(whole[i] == 0);  // padding
  whole.resize(length);
  const bool v4 = is_ipv4(whole.data());
  if (v4) WG_CHECK(internet_checksum(whole.data(), header_of(whole)) == 0);
  const std::uint8_t protocol = whole[v4 ? 9 : 6];
  if (protocol == (v4 ? kProtocolIcmp : kProtocolIcmpv6)) return check_icmp(whole);
  const std::uint32_t name = v4 ? load_be16(&whole[4]) : load_be32(whole.data()) & 0xfffff;
  WG_CHECK(name < said_.size());
  believe(said_[name], at, whole);
}

// An error about something that was said, quoted as it was on its way.
void World::check_icmp(const Octets& packet) {
  const bool v4 = is_ipv4(packet.data());
  const std::size_t header = v4 ? 20 : 40;
  WG_CHECK(packet.size() >= header + 8 + header);
  const std::uint8_t* quoted = &packet[header + 8];
  WG_CHECK(is_ipv4(quoted) == v4 && quoted[v4 ? 9 : 6] == 253);
  const std::uint32_t name = v4 ? load_be16(quoted + 4) : load_be32(quoted) & 0xfffff;
  WG_CHECK(name < said_.size());
  WG_CHECK(source_of(quoted) == source_of(said_[name].packet.data()));
  WG_CHECK(destination_of(packet.data()) == source_of(quoted));
}

void World::believe(Said& said, unsigned at, const Octets& packet) {
  const std::uint8_t* was = said.packet.data();
  const std::uint8_t* is = packet.data();
  const bool v4 = is_ipv4(was);
  WG_CHECK(is_ipv4(is) == v4 && source_of(is) == source_of(was) && destination_of(is) == destination_of(was));
  WG_CHECK(is[v4 ? 9 : 6] == 253 && ds_field(is) >> 2 == ds_field(was) >> 2);
  if (ecn_of(ds_field(is)) != ecn_of(ds_field(was))) WG_CHECK(tampered_ecn_ && ecn_of(ds_field(was)) != Ecn::kNotEct);
  WG_CHECK(ttl_of(is) <= ttl_of(was) && ttl_of(is) > 0);
  const unsigned relays = ttl_of(was) - ttl_of(is);

  // Who was it for, who may have brought it?
  WG_CHECK(said.routed.has_value());
  if (relays == 0) WG_CHECK(whose(*said.routed) == at);
  if (at != kSpeaker) {
    const std::optional<PublicKey> owner = fuzz::owner_of(model_[at], source_of(is));
    WG_CHECK(owner.has_value() && "the source is nobody's");
    const unsigned bringer = whose(*owner);
    WG_CHECK(bringer != at && (bringer == said.from || (bringer != kSpeaker && hub_ever_[bringer])));
    if (relays == 0) WG_CHECK(bringer == said.from);
  }
  if (said.from == kSpeaker && !said.came) {
    const bool once = speaker_believed_.emplace(said.session, said.counter).second;
    WG_CHECK(once && "a number was believed twice");
  }
  // Which of its octets are these, and is it the first time?
  const std::size_t header = header_of(packet);
  const std::size_t offset = v4 ? std::size_t{8} * (load_be16(is + 6) & 0x1fff) : 0;
  const bool more = v4 && (is[6] & 0x20) != 0;
  WG_CHECK(offset + packet.size() - header <= said.seen.size());
  if (!more) WG_CHECK(offset + packet.size() - header == said.seen.size());
  WG_CHECK(std::equal(packet.begin() + static_cast<std::ptrdiff_t>(header), packet.end(),
                      said.packet.begin() + static_cast<std::ptrdiff_t>(header_of(said.packet) + offset)));
  if (said.seen.empty()) WG_CHECK(!said.came);
  for (std::size_t i = header; i < packet.size(); ++i) {
    WG_CHECK(!said.seen[offset + i - header] && "delivered twice");
    said.seen[offset + i - header] = true;
  }
  said.came = true;
}

// ---- operations

void World::play(Kind kind, Operands o) {
  const unsigned i = kind == kRun || kind == kReplay || kind == kSpeak ? 0 : o.below(count_);
  switch (kind) {
    case kRun: {
      static constexpr Duration kUnits[] = {0ns, 1ms, 20ms, 100ms, 1s, 7s};
      const Duration unit = kUnits[o.below(6)];
      return run(unit * (1 + o.below(32)));
    }
    case kSay:
      return say_from(i, o, true);
    case kBurst:
      for (unsigned n = 1 + o.below(64); n != 0; --n) {
        Operands same = o;
        say_from(i, same, false);
      }
      return settle();
    case kFaults: {
      const auto often = [&] { return o.u8() / 255.0 * 0.9; };
      sim_.faults.loss = often();
      sim_.faults.duplicate = often();
      sim_.faults.reorder = often();
      sim_.faults.corrupt = often() / 2;
      sim_.faults.delay = 1ms * (1 + o.below(50));
      return;
    }
    case kReplay:
      return replay(o);
    case kAddPeer: {
      const unsigned who = o.below(count_ + 1) == count_ ? kSpeaker : other(i, o);
      const std::uint8_t how = o.u8();
      PeerChange change = peer_change(who, who == kSpeaker ? 0 : which_[who] ^ ((how & 0xc0) == 0xc0 ? 1 : 0));
      if ((how & 1) == 0) change.endpoint = who == kSpeaker ? speaker_->at : node(who).at();
      if ((how & 2) != 0 && who != kSpeaker) change.endpoint = node(who).at_v6();
      change.update_only = (how & 0x0c) == 0x0c;
      change.replace_allowed_ips = (how & 16) != 0;
      if ((how & 32) == 0) allow(change, who, false);
      return apply(i, std::move(change));
    }
    case kRemovePeer: {
      const unsigned who = o.below(count_ + 1) == count_ ? kSpeaker : other(i, o);
      PeerChange change = peer_change(who, who == kSpeaker ? 0 : which_[who]);
      change.remove = true;
      return apply(i, std::move(change));
    }
    case kAllow: {
      static const char* const kWide[] = {"0.0.0.0/0", "10.0.0.0/24", "::/0",
                                          "fd00::/64", "10.0.0.2/31", "fd00::2/127"};
      const std::uint8_t how = o.u8();
      const unsigned who = (how & 1) != 0 && i == 0 ? kSpeaker : other(i, o);
      PeerChange change = peer_change(who, who == kSpeaker ? 0 : which_[who]);
      change.update_only = true;
      change.replace_allowed_ips = (how & 2) != 0;
      if ((how & 4) != 0)
        change.allowed_ips.push_back({prefix(kWide[o.below(6)]), (how & 8) != 0});
      else
        allow(change, (how & 16) != 0 ? kSpeaker : o.below(count_), (how & 8) != 0);
      return apply(i, std::move(change));
    }
    case kPsk: {
      const unsigned who = other(i, o);
      const std::uint8_t value = static_cast<std::uint8_t>(o.below(3));
      for (const auto& [at, of] : {std::pair{i, who}, std::pair{who, i}}) {
        PeerChange change = peer_change(of, which_[of]);
        change.update_only = true;
        std::array<std::uint8_t, 32> psk;
        psk.fill(value);
        change.preshared_key.emplace(psk);
        apply(at, std::move(change));
        if (o.flag()) break;  // one side forgets to
      }
      return;
    }
    case kIdentity: {
      const unsigned before = which_[i];
      change_identity(i, o.below(kIdentities));
      if (o.flag() || before == which_[i]) return;
      for (unsigned j = 0; j < count_; ++j) {  // and tells the others
        if (j == i) continue;
        PeerChange gone = peer_change(i, before), now = peer_change(i, which_[i]);
        gone.remove = true;
        now.endpoint = node(i).at();
        allow(now, i, false);
        apply(j, std::move(gone));
        apply(j, std::move(now));
      }
      return;
    }
    case kEndpoint: {
      const unsigned who = other(i, o);
      PeerChange change = peer_change(who, which_[who]);
      change.update_only = true;
      const unsigned where = o.below(4);
      change.endpoint = where == 0   ? node(who).at()
                        : where == 1 ? node(who).at_v6()
                        : where == 2 ? node(i).at()
                                     : endpoint("203.0.113.99", 9);
      return apply(i, std::move(change));
    }
    case kRoam: {
      settle();
      ++moves_;
      const Address v4 = address("172.20." + std::to_string(moves_ / 256 % 256) + '.' + std::to_string(moves_ % 256));
      const Address v6 = address("2001:db8:1::" + std::to_string(moves_ % 10000));
      home_of_[v4] = home_of_[v6] = i;
      const unsigned families = o.below(4);
      return node(i).move_to(families == 1 ? std::vector{v4} : families == 2 ? std::vector{v6} : std::vector{v4, v6});
    }
    case kKeepalive: {
      const unsigned who = other(i, o);
      PeerChange change = peer_change(who, which_[who]);
      change.update_only = true;
      change.persistent_keepalive_s = o.u8();
      return apply(i, std::move(change));
    }
    case kForward: {
      set_forward(i, static_cast<Forward>(o.below(3)));
      const unsigned who = other(i, o);
      PeerChange change = peer_change(who, which_[who]);
      change.update_only = true;
      change.group = o.below(3);
      return apply(i, std::move(change));
    }
    case kMtu:
      settle();
      return node(i).set_mtu(static_cast<std::uint16_t>(68 + o.u8() * 7));
    case kListen: {
      settle();
      DeviceChange change;
      change.listen_port = static_cast<std::uint16_t>(51820 + o.below(3));
      return node(i).apply(std::move(change));
    }
    case kSpeak:
      return speak(o);
    case kSpeakerShakes: {
      InitiationMessage message = speaker_->initiation();
      const unsigned at = o.u8(), flip = o.u8();
      reinterpret_cast<std::uint8_t*>(&message)[at % sizeof message] ^= static_cast<std::uint8_t>(flip);
      speaker_->cookies.write_macs(octets_of(message), speaker_->them, sim_.now());
      speaker_->inbox.clear();
      speaker_->send(message);
      run(2 * sim_.faults.delay + 1ms);
      for (const Wire& wire : speaker_->heard(MessageType::kResponse))
        if (std::optional<KeyPair> keys = speaker_->read(wire)) {
          speaker_keys_.push_back({std::move(*keys), 0});
          speaker_->sent.reset();
          break;
        }
      return;
    }
    case kSpeakerAnswers: {
      const std::vector<Wire> heard = speaker_->heard(MessageType::kInitiation);
      ResponseMessage response;
      if (heard.empty()) return;
      if (std::optional<KeyPair> keys = speaker_->respond(heard.back(), response)) {
        speaker_->send(response);
        speaker_keys_.push_back({std::move(*keys), 0});
      }
      return;
    }
    case kRaw:
      return sim_.inject(endpoint("203.0.113.1", 1), node(i).at(), {o.rest().begin(), o.rest().end()}, 0);
    case kSuspend: {
      const Duration time = std::min<Duration>(left_, 4s * o.u8());
      left_ -= time;
      return sim_.sleep_through(time);
    }
    case kDamageInner: {  // the host says nonsense
      const Octets octets(o.rest().begin(), o.rest().end());
      if (inner_length(octets.data(), octets.size()) != 0) return;  // not nonsense: the oracle would have to know it
      if (node(i).inner->push(octets)) sim_.touch(node(i));
      return settle();
    }
    case kKinds:
      return;
  }
}

bool World::can_talk(unsigned i, unsigned j) const {
  auto& here = const_cast<World&>(*this);
  FakeDevice::FakePeer* theirs = here.model_[i].find(identity(j, which_[j]).key);
  FakeDevice::FakePeer* ours = here.model_[j].find(identity(i, which_[i]).key);
  if (theirs == nullptr || ours == nullptr) return false;
  if (!std::ranges::equal(theirs->view.preshared_key.expose(), ours->view.preshared_key.expose())) return false;
  if (hub_[j] && fuzz::owner_of(model_[j], address(here.inner(j, false)))) return false;  // he would pass it on
  return fuzz::owner_of(model_[i], address(here.inner(j, false))) == identity(j, which_[j]).key &&
         fuzz::owner_of(model_[j], address(here.inner(i, false))) == identity(i, which_[i]).key;
}

// The faults end, endpoints are set right once: whoever is configured to talk must be able to soon.
void World::finish() {
  left_ = 1h;
  sim_.faults = {.delay = 5ms};
  std::vector<std::pair<unsigned, unsigned>> pairs;
  for (unsigned i = 0; i < count_; ++i) {
    node(i).move_to({address("172.16.0." + std::to_string(i + 1)), address("2001:db8::" + std::to_string(i + 1))});
    home_of_[node(i).at().remote] = home_of_[node(i).at_v6().remote] = i;
    node(i).set_mtu(1420);
  }
  for (unsigned i = 0; i < count_; ++i)
    for (unsigned j = 0; j < count_; ++j) {
      if (i == j || !can_talk(i, j)) continue;
      pairs.emplace_back(i, j);
      PeerChange change = peer_change(j, which_[j]);
      change.endpoint = node(j).at();
      apply(i, std::move(change));
    }
  std::vector<std::vector<std::size_t>> last(pairs.size());
  for (unsigned second = 0; second < 64 && !pairs.empty(); second += 4) {
    for (std::size_t p = 0; p < pairs.size(); ++p) {
      const auto [i, j] = pairs[p];
      Operands plain{{}};
      Octets packet = packet_for(inner(i, false), inner(j, false), plain);
      packet[8] = 64;
      store_be16(&packet[10], 0);
      store_be16(&packet[10], internet_checksum(packet.data(), 20));
      const std::optional<PublicKey> routed = identity(j, which_[j]).key;
      WG_CHECK(node(i).inner->push(packet));
      sim_.touch(node(i));
      if (second >= 40) last[p].push_back(said_.size());
      say(i, std::move(packet), routed);
    }
    run(4s);
  }
  // Not each of them: a session may just have ended at one side first, and after 15 s without an answer there is
  // another.
  for (const std::vector<std::size_t>& names : last) {
    if (std::ranges::any_of(names, [this](std::size_t name) { return said_[name].came; })) continue;
    for (unsigned i = 0; i < count_; ++i) std::fprintf(stderr, "node %u: %s\n", i, node(i).counters_text().c_str());
    WG_CHECK(false && "faults are over, but no traffic");
  }
}

}  // namespace
}  // namespace wireplane::test

WIREPLANE_FUZZ_PROGRAMS(wireplane::test::kGrammar)

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace wireplane::test;
  testing::FLAGS_gtest_break_on_failure = true;  // the simulation's own expectations are claims too
  const auto program = wireplane::fuzz::parse({data, size}, 200);
  World world{Operands{program.empty() ? std::span<const std::uint8_t>{} : program.front().operands}};
  for (std::size_t i = 1; i < program.size(); ++i)
    world.play(static_cast<Kind>(program[i].kind % kKinds), Operands{program[i].operands});
  world.finish();
  return 0;
}
