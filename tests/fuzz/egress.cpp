// Fuzz: inner packets of any octets, one at a time, by the host or out of a peer's tunnel, and where they must go.
//
//   host or speaker A --any octets--> node (a table of allowed IPs, a policy, an MTU) --> host, speaker A, B or C, or
//                                                                                       nowhere, counted
//
// The oracle reads the packet for itself (lengths, addresses, ECN, TTL, DF) and says what becomes of it: who gets it,
// how it may have changed, or which drop is counted. Claims: that, and nothing else, happens; pieces of a packet that
// was too large make up the packet; an ICMP error leaves only where one is due, to whom it is due, rightly formed; an
// outer datagram carries the packet, zeros up to the padding, its ECN mark and nothing more.
#include <gtest/gtest.h>

#include "dataplane/base/check.h"
#include "dataplane/wire/ecn.h"
#include "dataplane/wire/inner_ip.h"
#include "tests/fuzz/oracle.h"
#include "tests/fuzz/program.h"
#include "tests/support/speaker.h"

namespace wireplane::test {
namespace {

using fuzz::Operands;

enum Kind : std::uint8_t { kFromHost, kFromPeer, kPlain, kAllow, kMtu, kForward, kWait, kKinds };
constexpr std::uint8_t kGrammar[kKinds] = {60, 60, 60, 4, 2, 4, 2};
constexpr unsigned kSpeakers = 3;

// ---- an inner packet, read a second time

struct Read {
  std::size_t length = 0;  // 0: not an IP packet
  bool v4 = false;
  std::size_t header = 0;
  Address source, destination;
  std::uint8_t ds = 0, ttl = 0, protocol = 0;
  bool may_cut = false;
};
std::size_t number16(const Octets& o, std::size_t at) { return o[at] * std::size_t{256} + o[at + 1]; }

Read read(const Octets& o) {
  Read r;
  if (o.size() >= 20 && o[0] / 16 == 4) {
    r.v4 = true;
    r.header = o[0] % 16 * std::size_t{4};
    const std::size_t total = number16(o, 2);
    if (r.header < 20 || total < r.header || total > o.size()) return {};
    r.length = total;
    r.source = Address::v4(&o[12]);
    r.destination = Address::v4(&o[16]);
    r.ds = o[1];
    r.ttl = o[8];
    r.protocol = o[9];
    r.may_cut = (o[6] & 0x40) == 0;
  } else if (o.size() >= 40 && o[0] / 16 == 6) {
    r.header = 40;
    r.length = 40 + number16(o, 4);
    if (r.length > o.size()) return {};
    r.source = Address::v6(&o[8]);
    r.destination = Address::v6(&o[24]);
    r.ds = static_cast<std::uint8_t>(o[0] << 4 | o[1] >> 4);
    r.ttl = o[7];
    r.protocol = o[6];
  }
  return r;
}

bool in(const Address& address, std::initializer_list<const char*> prefixes) {
  return std::ranges::any_of(prefixes, [&](const char* text) { return fuzz::contains(prefix(text), address); });
}
bool martian(const Address& a) {
  return in(a, {"0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "::/96", "::ffff:0:0/96", "ff00::/8"});
}
bool stays_local(const Address& a) { return martian(a) || in(a, {"169.254.0.0/16", "fe80::/10"}); }

// ---- what must become of it

struct Fate {
  Drop drop = Drop::kNone;
  int to = -1;  // a speaker; -1: the host
  Octets packet{};
  bool cut = false;
  bool consumed = false;  // nothing comes of it, and nothing is dropped
};

class World {
 public:
  World() {
    sim_.recording = false;
    node_.set_forward(Forward::kAll);
    for (unsigned i = 0; i < kSpeakers; ++i) {
      const std::string n = std::to_string(i + 1);
      speakers_[i] = std::make_unique<Speaker>(sim_, node_, "198.51.100." + n);
      const std::vector<std::string> allowed{"10.9.0." + n + "/32", "fd09::" + n + "/128"};
      speakers_[i]->join(true, allowed);
      for (const std::string& text : allowed) model_.owners[prefix(text)] = speakers_[i]->key();
      keys_.push_back(speakers_[i]->shake_and_confirm());
      counters_.push_back(0);
    }
    look();
  }
  ~World() { WG_CHECK(node_.imbalance() == 0); }

  void play(Kind kind, Operands o);

 private:
  static NodeOptions options() {
    NodeOptions o{.forward = Forward::kAll, .mtu = 600, .router = true, .inner_queue = 64};
    o.limits.buffers = 256;
    o.limits.data_room = 2560;
    o.device.rate_limited_sources = 64;
    return o;
  }
  int speaker_with(const std::optional<PublicKey>& key) const {
    for (unsigned i = 0; i < kSpeakers; ++i)
      if (key == speakers_[i]->key()) return static_cast<int>(i);
    return -1;
  }
  Octets packet_from(Operands& o, bool plain) const;
  [[nodiscard]] Fate fate_from_host(const Octets& given) const;
  [[nodiscard]] Fate fate_from_peer(unsigned from, const Octets& given, std::uint8_t tos) const;
  [[nodiscard]] Fate leave(Fate fate, const Read& r, int to) const;
  void check(const Fate& fate, int from);
  void check_icmp(const Octets& error, const Fate& fate) const;
  [[nodiscard]] bool owes_an_error(const Fate& fate);
  void check_pieces(const std::vector<Octets>& pieces, const Octets& whole) const;
  void look();
  void hear(int at, const Octets& octets, std::uint8_t tos);

  Sim sim_{1, {.delay = 0ms}, 64};
  Node& node_ = sim_.add(options());
  std::array<std::unique_ptr<Speaker>, kSpeakers> speakers_;
  std::vector<KeyPair> keys_;
  std::vector<std::uint64_t> counters_;
  FakeDevice model_;
  std::array<std::uint32_t, kSpeakers> groups_{};
  Forward forward_ = Forward::kAll;
  std::size_t mtu_ = 600;
  unsigned refused_ = 0;  // so often that an error may have been due
  std::array<std::uint64_t, kDropCount> drops_{};
  struct Came {
    int at;
    Octets octets;
    std::uint8_t tos;
  };
  std::vector<Came> came_;
};

// Octets as they are; or a header that is made good over them, and as many octets behind it as it says.
Octets World::packet_from(Operands& o, bool plain) const {
  if (plain) return {o.rest().begin(), o.rest().end()};
  const std::uint8_t how = o.u8(), where = o.u8();
  const std::size_t size = o.u16() % 2200;
  Octets packet(o.rest().begin(), o.rest().end());
  packet.resize(std::max<std::size_t>({size, packet.size(), 40}), static_cast<std::uint8_t>(size));
  const bool v6 = (how & 1) != 0;
  const auto address_of = [&](unsigned who) -> Address {
    static const char* const kV4[] = {"10.9.0.1",     "10.9.0.2",  "10.9.0.3", "10.9.0.77",
                                      "198.51.100.2", "224.0.0.1", "10.0.0.1"};
    static const char* const kV6[] = {"fd09::1", "fd09::2", "fd09::3", "fd09::77", "ff02::1", "fe80::1", "fd00::1"};
    return address(v6 ? kV6[who % 7] : kV4[who % 7]);
  };
  if (v6) {
    packet[0] = static_cast<std::uint8_t>(0x60 | (packet[0] & 0x0f));
    if ((how & 2) == 0) store_be16(&packet[4], static_cast<std::uint16_t>(packet.size() - 40));
    if ((how & 4) == 0) std::copy_n(address_of(where & 7).octets.begin(), 16, packet.begin() + 8);
    if ((how & 8) == 0) std::copy_n(address_of(where >> 3 & 7).octets.begin(), 16, packet.begin() + 24);
  } else {
    packet[0] = static_cast<std::uint8_t>(0x40 | ((how & 64) != 0 ? packet[0] & 0x0f : 5));
    if ((how & 2) == 0) store_be16(&packet[2], static_cast<std::uint16_t>(packet.size()));
    if ((how & 4) == 0) std::copy_n(address_of(where & 7).octets.begin(), 4, packet.begin() + 12);
    if ((how & 8) == 0) std::copy_n(address_of(where >> 3 & 7).octets.begin(), 4, packet.begin() + 16);
    const std::size_t header = (packet[0] & 0x0f) * std::size_t{4};
    if ((how & 16) == 0 && header >= 20 && header <= packet.size()) {
      store_be16(&packet[10], 0);
      store_be16(&packet[10], internet_checksum(packet.data(), header));
    }
  }
  if ((how & 32) != 0) {  // plain UDP, perhaps between our port and a peer's
    const std::size_t at = v6 ? 40 : 20;
    if (packet.size() >= at + 8) {
      packet[v6 ? 6 : 9] = 17;
      store_be16(&packet[at], (how & 128) != 0 ? 51820 : 5000);
      store_be16(&packet[at + 2], 7777);
    }
  }
  return packet;
}

// Towards a peer: too large, or on its way.
Fate World::leave(Fate fate, const Read& r, int to) const {
  fate.to = to;
  if (r.length <= mtu_) return fate;
  const std::size_t last_octet = (number16(fate.packet, 6) & 0x1fff) * 8 + r.length - r.header;
  fate.cut = r.v4 && r.may_cut && mtu_ >= r.header + 8 && last_octet <= 65535;
  if (!fate.cut) fate.drop = Drop::kTooBig;
  return fate;
}

Fate World::fate_from_host(const Octets& given) const {
  const Read r = read(given);
  if (r.length == 0) return {.drop = Drop::kInnerMalformed};
  Fate fate{.packet = {given.begin(), given.begin() + static_cast<std::ptrdiff_t>(r.length)}};
  const int to = speaker_with(fuzz::owner_of(model_, r.destination));
  fate.drop = Drop::kNoRoute;
  if (to < 0) return fate;
  fate.drop = Drop::kNone;
  if (r.destination == speakers_[static_cast<unsigned>(to)]->at.remote && r.v4 && r.protocol == 17 &&
      (number16(given, 6) & 0x1fff) == 0 && r.length >= r.header + 8 && number16(given, r.header) == 51820 &&
      number16(given, r.header + 2) == 7777) {
    fate.drop = Drop::kLoop;
    return fate;
  }
  return leave(std::move(fate), r, to);
}

Fate World::fate_from_peer(unsigned from, const Octets& given, std::uint8_t tos) const {
  if (given.empty()) return {.consumed = true};
  const Read r = read(given);
  if (r.length == 0) return {.drop = Drop::kInnerMalformed};
  Fate fate{.packet = {given.begin(), given.begin() + static_cast<std::ptrdiff_t>(r.length)}};
  // RFC 6040, figure 4: columns Not-ECT, ECT(1), ECT(0), CE of the outer header
  static constexpr int kAfter[4][4] = {{0, 0, 0, -1}, {1, 1, 1, 3}, {2, 1, 2, 3}, {3, 3, 3, 3}};
  const int ecn = kAfter[r.ds & 3][tos & 3];
  fate.drop = Drop::kEcnForged;
  if (ecn < 0) return fate;
  set_ds_field(fate.packet.data(), static_cast<std::uint8_t>((r.ds & 0xfc) | ecn));
  fate.drop = Drop::kSourceNotAllowed;
  if (speaker_with(fuzz::owner_of(model_, r.source)) != static_cast<int>(from)) return fate;
  fate.drop = Drop::kNone;
  const int to = speaker_with(fuzz::owner_of(model_, r.destination));
  if (forward_ == Forward::kNone || to < 0) return fate;  // the host's
  const auto refused = [&](Drop why) {
    fate.drop = why;
    return fate;
  };
  if (martian(r.source)) return refused(Drop::kMartian);
  if (stays_local(r.destination)) return refused(Drop::kMulticast);
  const auto there = static_cast<unsigned>(to);
  if (forward_ == Forward::kGroups && (groups_[from] == 0 || groups_[from] != groups_[there]))
    return refused(Drop::kForwardingOff);
  if (there == from) return refused(Drop::kReflected);
  if (r.ttl <= 1) return refused(Drop::kTtlExpired);
  fate = leave(std::move(fate), r, to);
  if (fate.drop == Drop::kNone) {
    const bool right = r.v4 && internet_checksum(fate.packet.data(), r.header) == 0;
    --fate.packet[r.v4 ? 8 : 7];
    if (right) {
      store_be16(&fate.packet[10], 0);
      store_be16(&fate.packet[10], internet_checksum(fate.packet.data(), r.header));
    }
  }
  return fate;
}

// ---- what became of it

void World::look() {
  came_.clear();
  for (const Node::Arrival& arrival : node_.inbox) came_.push_back({-1, arrival.packet, 0});
  node_.inbox.clear();
  for (unsigned i = 0; i < kSpeakers; ++i) {
    for (const Wire& wire : speakers_[i]->inbox) {
      if (!wire.is_data() || wire.is_keepalive()) continue;
      const std::optional<Octets> plaintext = Speaker::open(keys_[i], wire);
      WG_CHECK(plaintext.has_value());
      came_.push_back({static_cast<int>(i), *plaintext, wire.tos});
    }
    speakers_[i]->inbox.clear();
  }
  for (std::size_t i = 0; i < kDropCount; ++i) drops_[i] = node_.drops(static_cast<Drop>(i));
}

bool same_but_checksum(const Octets& a, const Octets& b, bool v4) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (a[i] != b[i] && !(v4 && (i == 10 || i == 11))) return false;
  return true;
}

void World::check(const Fate& fate, int from) {
  const std::array<std::uint64_t, kDropCount> before = drops_;
  sim_.run_for(0ns);
  look();
  WG_CHECK(node_.imbalance() == 0);
  for (std::size_t i = 1; i < kDropCount; ++i) {
    const bool expected = fate.drop == static_cast<Drop>(i);
    WG_CHECK(drops_[i] - before[i] == (expected ? 1u : 0u));
  }
  std::vector<Octets> pieces;
  for (Came& came : came_) {
    const Read r = read(came.octets);
    WG_CHECK(r.length != 0);
    if (came.at >= 0) {
      const std::size_t padded = std::min((r.length + 15) / 16 * 16, std::max(mtu_, r.length));
      WG_CHECK(came.octets.size() == padded && came.tos == (r.ds & 3));
      for (std::size_t i = r.length; i < padded; ++i) WG_CHECK(came.octets[i] == 0);
    }
    came.octets.resize(r.length);
    if (fate.drop != Drop::kNone) {
      WG_CHECK(came_.size() == 1 && came.at == from);  // an error, to whom it concerns
      ++refused_;
      return check_icmp(came.octets, fate);
    }
    WG_CHECK(!fate.consumed && came.at == fate.to);
    if (came.at >= 0) WG_CHECK(r.length <= mtu_);
    pieces.push_back(came.octets);
  }
  if (fate.drop != Drop::kNone) WG_CHECK(!owes_an_error(fate));
  if (fate.drop != Drop::kNone || fate.consumed) return;
  if (fate.cut) return check_pieces(pieces, fate.packet);
  const bool v4 = fate.packet[0] / 16 == 4;
  const bool right = v4 && internet_checksum(fate.packet.data(), (fate.packet[0] & 0x0f) * std::size_t{4}) == 0;
  WG_CHECK(pieces.size() == 1 && same_but_checksum(pieces[0], fate.packet, v4));
  if (right) WG_CHECK(pieces[0] == fate.packet);
}

// Of a plain datagram between two hosts the sender is told what became of it, at least the first few times.
bool World::owes_an_error(const Fate& fate) {
  if (fate.drop != Drop::kNoRoute && fate.drop != Drop::kTtlExpired && fate.drop != Drop::kForwardingOff) return false;
  const Read r = read(fate.packet);
  const bool plain = r.protocol == 17 && (!r.v4 || (r.header == 20 && (number16(fate.packet, 6) & 0x3fff) == 0));
  return ++refused_ <= 4 && plain && mtu_ >= 600 && !martian(r.source) && !stays_local(r.destination);
}

void World::check_pieces(const std::vector<Octets>& pieces, const Octets& whole) const {
  const Read r = read(whole);
  std::size_t next = 0;
  WG_CHECK(pieces.size() > 1);
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const Octets& piece = pieces[i];
    const std::size_t header = (piece[0] & 0x0f) * std::size_t{4}, count = piece.size() - header;
    const bool last = i + 1 == pieces.size();
    WG_CHECK(internet_checksum(piece.data(), header) == 0);
    WG_CHECK((number16(piece, 6) & 0x1fff) == (number16(whole, 6) & 0x1fff) + next / 8);
    WG_CHECK(((piece[6] & 0x20) != 0) == (!last || (whole[6] & 0x20) != 0) && (last || count % 8 == 0));
    WG_CHECK(piece[1] == whole[1] && number16(piece, 4) == number16(whole, 4) && piece[8] == whole[8] &&
             piece[9] == whole[9] && std::equal(&piece[12], &piece[12] + 8, &whole[12]));
    WG_CHECK(i != 0 || (header == r.header && std::equal(&piece[20], &piece[0] + header, &whole[20])));
    WG_CHECK(next + count <= r.length - r.header);
    WG_CHECK(std::equal(piece.begin() + static_cast<std::ptrdiff_t>(header), piece.end(),
                        whole.begin() + static_cast<std::ptrdiff_t>(r.header + next)));
    next += count;
  }
  WG_CHECK(next == r.length - r.header);
}

void World::check_icmp(const Octets& error, const Fate& fate) const {
  const Read about = read(fate.packet), r = read(error);
  const bool due = fate.drop == Drop::kNoRoute || fate.drop == Drop::kForwardingOff || fate.drop == Drop::kTtlExpired ||
                   fate.drop == Drop::kTooBig;
  WG_CHECK(due && about.length != 0 && about.v4 == r.v4);
  WG_CHECK(r.source == address(r.v4 ? node_.inner_v4() : node_.inner_v6()) && r.destination == about.source);
  WG_CHECK(!martian(about.source) && !stays_local(about.destination));
  WG_CHECK(r.protocol == (r.v4 ? 1 : 58) && error.size() <= (r.v4 ? 576u : 1280u) && error.size() <= mtu_);
  const std::size_t head = r.header + 8;
  WG_CHECK(error.size() > head);
  if (r.v4) {
    WG_CHECK(internet_checksum(error.data(), 20) == 0 && internet_checksum(&error[20], error.size() - 20) == 0);
    WG_CHECK((number16(fate.packet, 6) & 0x1fff) == 0);
  } else {
    ChecksumSum sum = pseudo_header(error.data(), 58, error.size() - 40);
    sum.add(&error[40], error.size() - 40);
    WG_CHECK(sum.finish() == 0);
  }
  const unsigned type = error[r.header], code = error[r.header + 1];
  const auto is = [&](unsigned t4, unsigned c4, unsigned t6, unsigned c6) {
    return r.v4 ? type == t4 && code == c4 : type == t6 && code == c6;
  };
  if (fate.drop == Drop::kNoRoute) WG_CHECK(is(3, 1, 1, 3));
  if (fate.drop == Drop::kForwardingOff) WG_CHECK(is(3, 13, 1, 1));
  if (fate.drop == Drop::kTtlExpired) WG_CHECK(is(11, 0, 3, 0));
  if (fate.drop == Drop::kTooBig) WG_CHECK(is(3, 4, 2, 0) && !about.may_cut);
  WG_CHECK(error.size() - head <= fate.packet.size());
  const Octets quoted(error.begin() + static_cast<std::ptrdiff_t>(head), error.end());
  const Octets expected(fate.packet.begin(), fate.packet.begin() + static_cast<std::ptrdiff_t>(quoted.size()));
  WG_CHECK(same_but_checksum(quoted, expected, r.v4));
}

void World::play(Kind kind, Operands o) {
  switch (kind) {
    case kFromHost:
    case kPlain: {
      const bool host = kind == kFromHost || o.flag();
      const Octets packet = packet_from(o, kind == kPlain);
      if (host && packet.size() <= 2400) {
        if (packet.empty()) return;
        const Fate fate = fate_from_host(packet);
        WG_CHECK(node_.inner->push(packet));
        sim_.touch(node_);
        return check(fate, -1);
      }
      [[fallthrough]];
    }
    case kFromPeer: {
      const unsigned from = kind == kFromPeer ? o.below(kSpeakers) : 0;
      const std::uint8_t tos = kind == kFromPeer ? o.u8() : 0;
      Octets packet = packet_from(o, kind == kPlain);
      const Fate fate = fate_from_peer(from, packet, tos);
      speakers_[from]->send_octets(speakers_[from]->data(keys_[from], ++counters_[from], packet), {}, tos);
      return check(fate, static_cast<int>(from));
    }
    case kAllow: {
      static const char* const kPrefixes[] = {"0.0.0.0/0",   "::/0",        "10.9.0.0/24",   "10.9.0.2/31",
                                              "fd09::/64",   "fd09::2/127", "198.51.0.0/16", "224.0.0.0/4",
                                              "127.0.0.0/8", "fe80::/10"};
      const unsigned who = o.below(kSpeakers);
      const Prefix which = prefix(kPrefixes[o.below(10)]);
      PeerChange change;
      change.public_key = speakers_[who]->key();
      const bool remove = o.flag();
      change.allowed_ips.push_back({which, remove});
      node_.apply(std::move(change));
      if (!remove)
        model_.owners[which] = speakers_[who]->key();
      else if (const auto known = model_.owners.find(which);
               known != model_.owners.end() && known->second == speakers_[who]->key())
        model_.owners.erase(known);
      break;
    }
    case kMtu:
      mtu_ = 68 + o.u16() % 1900;
      return node_.set_mtu(static_cast<std::uint16_t>(mtu_));
    case kForward: {
      forward_ = static_cast<Forward>(o.below(3));
      node_.set_forward(forward_);
      for (unsigned i = 0; i < kSpeakers; ++i) {
        PeerChange change;
        change.public_key = speakers_[i]->key();
        change.group = groups_[i] = o.below(3);
        node_.apply(std::move(change));
      }
      break;
    }
    case kWait:  // the limiter of ICMP errors forgets in time
      sim_.run_for(1ms * o.u8());
      return look();
    case kKinds:
      return;
  }
  sim_.run_for(0ns);
  look();
}

}  // namespace
}  // namespace wireplane::test

WIREPLANE_FUZZ_PROGRAMS(wireplane::test::kGrammar)

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace wireplane::test;
  testing::FLAGS_gtest_break_on_failure = true;
  return wireplane::fuzz::play_in_new<World>({data, size}, 100, kKinds);
}
