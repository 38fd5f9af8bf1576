// Fuzz: handshake messages, cookies and first packets in any order, right, wrong, repeated and late, against a table of
// what may be accepted when.
//
//   speakers 0, 1 (configured, one with a preshared key), 2 (unknown)  <-->  one node
//
// Every message begins as a right one; then a field may be damaged, before its macs are written (`fix`) or after. The
// table knows of each peer: the greatest timestamp, when the last initiation was accepted, which initiation of ours
// waits for an answer, the three places of keypairs, the cookies; and of the node: whether it is under load, whose
// cookie secret is in use, how many tokens a source has left. It foretells for each message which drop is counted, or
// that it is accepted. Claims: that happens, and nothing else is counted; what is refused for its macs costs no curve
// arithmetic; answers go to where the question came from and can be read by whoever has the keys, by nobody else; a
// peer whose static key is a point of low order never hears of us.
#include <gtest/gtest.h>

#include <set>

#include "control/noise/sealing.h"
#include "control/noise/x25519.h"
#include "dataplane/base/check.h"
#include "tests/fuzz/program.h"
#include "tests/support/speaker.h"

namespace wireplane::test {
namespace {

using fuzz::Operands;

enum Kind : std::uint8_t {
  kInitiate,
  kRepeat,
  kRespond,
  kCookie,
  kData,
  kTrigger,
  kFlood,
  kWait,
  kPsk,
  kForget,
  kLowOrder,
  kNoise,
  kStorm,
  kKinds
};
constexpr std::uint8_t kGrammar[kKinds] = {6, 2, 6, 5, 4, 1, 2, 2, 2, 1, 2, 30, 2};
constexpr unsigned kSpeakers = 3, kUnknown = 2;

enum class Sound : std::uint8_t { kAll, kUpToTime, kNot };  // its sealed fields
using Outcomes = std::set<Drop>;                            // any of them; kNone: accepted

struct Cookie {
  unsigned epoch = 0;  // of the node's secret; 0: none
  Endpoint from;
  Instant got;
};

struct Keys {
  KeyPair keys;
  Instant made;
  std::set<std::uint64_t> seen;
  bool readable = true;  // false: the preshared keys differed, nobody holds these
};

// What the node knows of one speaker, as the paper has it.
struct Entry {
  Timestamp greatest;
  std::optional<Instant> accepted;
  std::uint8_t psk_here = 0, psk_there = 0;
  // Our initiation that waits: its message. `vague`: it may have been given up meanwhile.
  std::optional<InitiationMessage> asked;
  bool vague = false;
  std::optional<std::size_t> previous, current, next;  // into keys
  std::vector<Keys> keys;
  std::optional<Mac> unanswered;  // mac1 of the last message to him, if no cookie has answered it
  std::uint32_t unanswered_index = 0;
  std::optional<std::pair<Mac, Instant>> cookie;  // what he gave the node
  Cookie jar;                                     // what the node gave him
};

class World {
 public:
  World() {
    sim_.recording = false;
    for (unsigned i = 0; i < kSpeakers; ++i) {
      speakers_[i] = std::make_unique<Speaker>(sim_, node_, "198.51.100." + std::to_string(i + 1));
      for (unsigned place = 1; place < kPlaces; ++place)
        sim_.stranger(place_of(i, place)) = [this, i](const Wire& wire) { speakers_[i]->inbox.push_back(wire); };
      if (i != kUnknown) join(i);
    }
    settle();
    note();
  }
  ~World() {
    sim_.run_for(1s);
    WG_CHECK(node_.imbalance() == 0);
    for (unsigned i = 0; i < kSpeakers; ++i)
      for (unsigned place = 1; place < kPlaces; ++place) sim_.stranger(place_of(i, place)) = nullptr;
  }
  void play(Kind kind, Operands o);

 private:
  static constexpr unsigned kPlaces = 3;
  static NodeOptions options() {
    NodeOptions o{.inner_queue = 64};
    o.limits.buffers = 256;
    o.device.rate_limited_sources = 64;
    return o;
  }
  [[nodiscard]] Endpoint place_of(unsigned who, unsigned place) const {
    const std::string address = "198.51.100." + std::to_string(who + 1 + (place == 2 ? 100 : 0));
    return endpoint(address, place == 1 ? 7778 : 7777);
  }
  void join(unsigned i) {
    speakers_[i]->join(true, {"10.9.0." + std::to_string(i + 1) + "/32"});
    entries_[i] = Entry{};
    speakers_[i]->them = make_remote_identity(speakers_[i]->us, node_.key(), SecretKey{});
    speakers_[i]->sent.reset();
    set_psk(i, static_cast<std::uint8_t>(i), true, true);
  }
  void set_psk(unsigned i, std::uint8_t value, bool here, bool there) {
    std::array<std::uint8_t, 32> octets;
    octets.fill(value);
    if (there) {
      speakers_[i]->them.psk = SecretKey{octets};
      entries_[i].psk_there = value;
    }
    if (!here || value == entries_[i].psk_here) return;
    PeerChange change;
    change.public_key = speakers_[i]->key();
    change.update_only = true;
    change.preshared_key.emplace(octets);
    node_.apply(std::move(change));
    Entry& entry = entries_[i];
    entry.psk_here = value;
    entry.asked.reset();
    entry.previous.reset(), entry.current.reset(), entry.next.reset();
  }

  // ---- the table
  [[nodiscard]] bool loaded() const { return loaded_until_ > sim_.now(); }
  [[nodiscard]] bool secret_fresh() const { return epoch_ != 0 && sim_.now() - secret_made_ < 120s; }
  Outcomes admission(unsigned who, const Endpoint& from, bool mac1, bool mac2);
  Outcomes on_initiation(unsigned who, const Endpoint& from, const Timestamp& when, bool mac1, bool mac2, Sound sound);
  void accept_initiation(unsigned who, const Timestamp& when);
  [[nodiscard]] bool lives(const Entry& entry, std::uint32_t index) const {
    if (entry.asked && load_le<std::uint32_t>(entry.asked->sender.data()) == index) return true;
    for (const auto& place : {entry.previous, entry.current, entry.next})
      if (place && entry.keys[*place].keys.remote.raw() == index) return true;
    return false;
  }

  // ---- doing and looking
  void settle() { sim_.run_for(0ns); }
  void note() {
    for (std::size_t i = 0; i < kDropCount; ++i) drops_[i] = node_.drops(static_cast<Drop>(i));
    calls_ = x25519_calls();
  }
  Drop happened();
  Drop expect(const Outcomes& outcomes) {
    settle();
    const Drop drop = happened();
    if (!outcomes.contains(drop)) std::fprintf(stderr, "happened: %s\n", std::string{metric(drop)}.c_str());
    WG_CHECK(outcomes.contains(drop));
    return drop;
  }
  void hear();
  void hear_one(unsigned who, const Wire& wire);
  void hear_macs(unsigned who, std::span<const std::uint8_t> message);
  void initiate(Operands& o);
  void respond(Operands& o);
  void give_cookie(Operands& o);
  void send_data(Operands& o);
  void flood(unsigned count);
  void finish_response(unsigned who, const Endpoint& from, std::uint32_t index);

  Sim sim_{1, {.delay = 0ms}, 64};
  Node& node_ = sim_.add(options());
  std::array<std::unique_ptr<Speaker>, kSpeakers> speakers_;
  std::array<Entry, kSpeakers> entries_;
  std::array<std::vector<Wire>, kSpeakers> responses_, replies_;
  struct Sent {
    unsigned who;
    InitiationMessage message;
    Timestamp when;
    bool mac1;
    Sound sound;
    Cookie proof;
  };
  std::vector<Sent> sent_;
  Instant loaded_until_{}, secret_made_{};
  unsigned epoch_ = 0;
  unsigned storm_left_ = 400;  // an input's time is bounded
  struct Bucket {
    Duration tokens = 250ms;
    Instant used{};
  };
  std::map<Address, Bucket> buckets_;
  std::array<std::uint64_t, kDropCount> drops_{};
  std::uint64_t calls_ = 0;
};

// The one drop counted since note(), or kNone. Drops that tell of waiting packets are not this table's business.
Drop World::happened() {
  Drop found = Drop::kNone;
  for (std::size_t i = 1; i < kDropCount; ++i) {
    const auto reason = static_cast<Drop>(i);
    const std::uint64_t count = node_.drops(reason) - drops_[i];
    if (count == 0 || reason == Drop::kStagedOverflow || reason == Drop::kStagedGivenUp || reason == Drop::kPeerGone)
      continue;
    WG_CHECK(count == 1 && found == Drop::kNone);
    found = reason;
  }
  const bool cheap = found == Drop::kBadMac1 || found == Drop::kCookieSent || found == Drop::kRateLimited ||
                     found == Drop::kUnexpectedResponse || found == Drop::kBadCookieReply;
  if (cheap) WG_CHECK(x25519_calls() == calls_);
  WG_CHECK(node_.imbalance() == 0);
  note();
  return found;
}

// wg 5.3
Outcomes World::admission(unsigned who, const Endpoint& from, bool mac1, bool mac2) {
  if (!mac1) return {Drop::kBadMac1};
  if (!loaded()) return {Drop::kNone};
  const Cookie& jar = entries_[who].jar;
  const bool proved = mac2 && secret_fresh() && jar.epoch == epoch_ && jar.from.remote == from.remote &&
                      jar.from.port == from.port && sim_.now() - jar.got < 115s;
  if (!proved) {
    if (!secret_fresh()) secret_made_ = sim_.now(), ++epoch_;
    return {Drop::kCookieSent};
  }
  Bucket& bucket = buckets_[from.remote];
  bucket.tokens = std::min<Duration>(250ms, bucket.tokens + (sim_.now() - bucket.used));
  bucket.used = sim_.now();
  if (bucket.tokens < 50ms) return {Drop::kRateLimited};
  bucket.tokens -= 50ms;
  return {Drop::kNone};
}

Outcomes World::on_initiation(unsigned who, const Endpoint& from, const Timestamp& when, bool mac1, bool mac2,
                              Sound sound) {
  const Outcomes admitted = admission(who, from, mac1, mac2);
  if (!admitted.contains(Drop::kNone)) return admitted;
  if (sound == Sound::kNot) return {Drop::kBadHandshake};
  if (who == kUnknown) return {Drop::kUnknownPeer};
  if (sound != Sound::kAll) return {Drop::kBadHandshake};
  const Entry& entry = entries_[who];
  if (when <= entry.greatest) return {Drop::kOldTimestamp};
  if (entry.accepted && sim_.now() - *entry.accepted < 20ms) return {Drop::kInitiationFlood};
  return {Drop::kNone};
}

void World::accept_initiation(unsigned who, const Timestamp& when) {
  entries_[who].greatest = when;
  entries_[who].accepted = sim_.now();
}

// ---- what the node says

void World::hear() {
  for (unsigned i = 0; i < kSpeakers; ++i) {
    std::vector<Wire> inbox;
    inbox.swap(speakers_[i]->inbox);
    for (const Wire& wire : inbox) hear_one(i, wire);
  }
}

void World::hear_one(unsigned who, const Wire& wire) {
  Entry& entry = entries_[who];
  WG_CHECK(who != kUnknown || wire.is(MessageType::kCookieReply));  // P15
  switch (static_cast<MessageType>(wire.type())) {
    case MessageType::kInitiation: {
      WG_CHECK(wire.octets.size() == sizeof(InitiationMessage) && wire.tos == kHandshakeTos);
      hear_macs(who, wire.octets);
      InitiationMessage message;
      std::memcpy(&message, wire.octets.data(), sizeof message);
      auto read = read_initiation(message, speakers_[who]->us);
      WG_CHECK(read && read->remote_static == node_.key());
      WG_CHECK(static_cast<bool>(read_initiation_timestamp(*read, message, speakers_[who]->them)));
      entry.asked = message;
      entry.vague = sim_.now() - wire.at >= kRekeyTimeout;  // heard late: it may have been given up
      entry.unanswered_index = wire.sender();
      return;
    }
    case MessageType::kResponse:
      WG_CHECK(wire.octets.size() == sizeof(ResponseMessage) && wire.tos == kHandshakeTos);
      hear_macs(who, wire.octets);
      entry.unanswered_index = wire.sender();
      responses_[who].push_back(wire);
      return;
    case MessageType::kCookieReply:
      WG_CHECK(wire.octets.size() == sizeof(CookieReplyMessage));
      replies_[who].push_back(wire);
      return;
    case MessageType::kData: {  // by a session that we know, sealed with its key
      bool known = false;
      for (std::size_t i = 0; i < entry.keys.size(); ++i) {
        const Keys& keys = entry.keys[i];
        if (keys.keys.self.raw() != wire.receiver()) continue;
        known = true;
        WG_CHECK(entry.next != i && "sent before the peer had confirmed the key");
        if (keys.readable) WG_CHECK(Speaker::open(keys.keys, wire).has_value());
      }
      WG_CHECK(known);
      return;
    }
  }
  WG_CHECK(false && "a message of no kind");
}

// The macs are for him, and prove his cookie if he gave one.
void World::hear_macs(unsigned who, std::span<const std::uint8_t> message) {
  Entry& entry = entries_[who];
  WG_CHECK(mac1_valid(message, speakers_[who]->us.mac1_key));
  entry.unanswered.emplace();
  std::copy_n(message.end() - 32, 16, entry.unanswered->begin());
  Mac expected{};
  if (entry.cookie && sim_.now() - entry.cookie->second < 115s)
    expected = mac(entry.cookie->first, {message.first(message.size() - 16)});
  // A timer's message may have been made at any time of a long wait, before the cookie was too old.
  if (!entry.cookie || sim_.now() - entry.cookie->second < 115s)
    WG_CHECK(std::equal(expected.begin(), expected.end(), message.end() - 16));
}

// ---- what is said to it

// A message's field at `at` is damaged by `flip`, before or after its macs.
template <class Message>
void damage(Message& message, unsigned at, std::uint8_t flip) {
  reinterpret_cast<std::uint8_t*>(&message)[at % sizeof message] ^= flip;
}

void World::initiate(Operands& o) {
  const unsigned who = o.below(kSpeakers);
  Speaker& speaker = *speakers_[who];
  const std::uint8_t how = o.u8(), at = o.u8();
  const std::uint8_t flip = (how & 1) != 0 ? o.u8() : (o.u8(), std::uint8_t{0});
  const bool fix = (how & 2) != 0;
  const Endpoint from = place_of(who, (how >> 2 & 3) % kPlaces);
  const auto shift = static_cast<std::int8_t>((how & 16) != 0 ? o.u8() : 0);
  const Timestamp when = timestamp_at(sim_.now_of(node_).wall + shift * Duration{17ms});
  InitiationMessage message = speaker.initiation(when);
  const unsigned place = at % sizeof message;
  if (flip != 0) damage(message, place, flip);
  if (fix) speaker.cookies.write_macs(octets_of(message), speaker.them, sim_.now());
  speaker.sent->self = ReceiverIndex{load_le<std::uint32_t>(message.sender.data())};

  const bool damaged = flip != 0;
  const std::uint32_t type = load_le<std::uint32_t>(message.type.data());
  const bool mac1 = fix || !damaged || place >= 132;
  const bool mac2 = fix || !damaged || place < 132;
  const Sound sound = !damaged || place < 8 || place >= 116 ? Sound::kAll
                      : place >= 88                         ? Sound::kUpToTime
                                                            : Sound::kNot;
  speaker.send(message, from);
  note();
  if (type != 1) {
    expect({type == 4 ? Drop::kUnknownIndex : type == 2 || type == 3 ? Drop::kBadLength : Drop::kUnknownType});
    return;
  }
  const Outcomes outcomes = on_initiation(who, from, when, mac1, mac2, sound);
  sent_.push_back({who, message, when, mac1, sound, mac2 ? entries_[who].jar : Cookie{}});
  const Drop drop = expect(outcomes);
  hear();
  if (drop == Drop::kCookieSent) {
    WG_CHECK(replies_[who].size() == 1 && replies_[who][0].to.remote == from.remote &&
             replies_[who][0].to.port == from.port);
    CookieReplyMessage reply;
    std::memcpy(&reply, replies_[who][0].octets.data(), sizeof reply);
    WG_CHECK(load_le<std::uint32_t>(reply.receiver.data()) == load_le<std::uint32_t>(message.sender.data()));
    const bool answers = !damaged || fix;  // else the jar waits for the mac1 it wrote, which is the same unless damaged
    if (speaker.cookies.accept(reply, speaker.them, sim_.now()))
      entries_[who].jar = {epoch_, from, sim_.now()};
    else
      WG_CHECK(!answers);
  }
  if (drop != Drop::kCookieSent) WG_CHECK(replies_[who].empty());  // P15: silent
  replies_[who].clear();
  if (drop != Drop::kNone) {
    WG_CHECK(responses_[who].empty());
    return;
  }
  accept_initiation(who, when);
  finish_response(who, from, load_le<std::uint32_t>(message.sender.data()));
}

// The node has accepted an initiation: it answered, to where the question came from.
void World::finish_response(unsigned who, const Endpoint& from, std::uint32_t index) {
  WG_CHECK(responses_[who].size() == 1);
  const Wire wire = responses_[who][0];
  responses_[who].clear();
  WG_CHECK(wire.to.remote == from.remote && wire.to.port == from.port && wire.receiver() == index);
  Entry& entry = entries_[who];
  Speaker& speaker = *speakers_[who];
  entry.previous.reset();
  std::optional<KeyPair> keys;
  if (speaker.sent && speaker.sent->self.raw() == index) keys = speaker.read(wire);
  const bool readable = entry.psk_here == entry.psk_there;
  if (speaker.sent && speaker.sent->self.raw() == index) WG_CHECK(keys.has_value() == readable);
  KeyPair nobodys{{}, {}, ReceiverIndex{index}, ReceiverIndex{wire.sender()}, true, {}};
  entry.keys.push_back({keys ? std::move(*keys) : std::move(nobodys), sim_.now(), {}, keys.has_value()});
  entry.next = entry.keys.size() - 1;
}

void World::respond(Operands& o) {
  const unsigned who = o.below(kUnknown);
  Speaker& speaker = *speakers_[who];
  Entry& entry = entries_[who];
  const std::uint8_t how = o.u8(), at = o.u8();
  const std::uint8_t flip = (how & 1) != 0 ? o.u8() : (o.u8(), std::uint8_t{0});
  const bool fix = (how & 2) != 0;
  if (!entry.asked) return;
  const Endpoint from = place_of(who, (how >> 2 & 3) % kPlaces);
  Wire question;
  question.octets.assign(reinterpret_cast<const std::uint8_t*>(&*entry.asked),
                         reinterpret_cast<const std::uint8_t*>(&*entry.asked) + sizeof *entry.asked);
  ResponseMessage message;
  std::optional<KeyPair> keys = speaker.respond(question, message);
  WG_CHECK(keys.has_value());
  const unsigned place = at % sizeof message;
  const bool damaged = flip != 0;
  if (damaged) damage(message, place, flip);
  if (fix) speaker.cookies.write_macs(octets_of(message), speaker.them, sim_.now());
  const std::uint32_t type = load_le<std::uint32_t>(message.type.data());
  note();
  speaker.send(message, from);
  if (type != 2) {
    expect({type == 4 ? Drop::kUnknownIndex : type == 1 || type == 3 ? Drop::kBadLength : Drop::kUnknownType});
    return hear();
  }
  Outcomes outcomes = admission(who, from, fix || !damaged || place >= 76, fix || !damaged || place < 76);
  const bool other_index = damaged && place >= 8 && place < 12;
  const bool sound = (!damaged || place < 12 || place >= 60) && entry.psk_here == entry.psk_there;
  if (outcomes.contains(Drop::kNone)) {
    outcomes = {other_index ? Drop::kUnexpectedResponse : sound ? Drop::kNone : Drop::kBadHandshake};
    if (entry.vague) outcomes.insert(Drop::kUnexpectedResponse);
  }
  const Drop drop = expect(outcomes);
  if (drop != Drop::kNone) {
    hear();
    if (drop == Drop::kCookieSent) {
      WG_CHECK(replies_[who].size() == 1);
      CookieReplyMessage reply;
      std::memcpy(&reply, replies_[who][0].octets.data(), sizeof reply);
      if (speaker.cookies.accept(reply, speaker.them, sim_.now())) entry.jar = {epoch_, from, sim_.now()};
    }
    replies_[who].clear();
    return;
  }
  // Ours is the newer keypair now; what the peer had not confirmed, or what was in use, is the one before.
  keys->self = ReceiverIndex{load_le<std::uint32_t>(message.sender.data())};
  keys->remote = ReceiverIndex{load_le<std::uint32_t>(entry.asked->sender.data())};
  entry.keys.push_back({std::move(*keys), sim_.now(), {}, true});
  entry.previous = entry.next ? entry.next : entry.current;
  entry.next.reset();
  entry.current = entry.keys.size() - 1;
  entry.asked.reset();
  hear();
}

void World::give_cookie(Operands& o) {
  const unsigned who = o.below(kUnknown);
  Entry& entry = entries_[who];
  const std::uint8_t how = o.u8(), at = o.u8(), flip = o.u8();
  if (!entry.unanswered) return;
  CookieReplyMessage reply{};
  store_le(reply.type.data(), 3u);
  store_le(reply.receiver.data(), entry.unanswered_index);
  speakers_[who]->entropy.fill(reply.nonce);
  Mac cookie;
  cookie.fill(o.u8());
  xseal(reply.sealed_cookie, speakers_[who]->us.cookie_key.octets, reply.nonce, cookie, *entry.unanswered);
  const auto place = static_cast<unsigned>(4 + at % (sizeof reply - 4));
  const bool damaged = (how & 1) != 0 && flip != 0;
  if (damaged) damage(reply, place, flip);
  const bool right = !damaged && lives(entry, entry.unanswered_index);
  note();
  speakers_[who]->send(reply, place_of(who, (how >> 2 & 3) % kPlaces));
  Outcomes outcomes{right ? Drop::kNone : Drop::kBadCookieReply};
  if (entry.vague) outcomes.insert(Drop::kBadCookieReply);
  if (expect(outcomes) == Drop::kNone) {
    entry.unanswered.reset();  // one answer each
    entry.cookie = {cookie, sim_.now()};
  }
  hear();
}

void World::send_data(Operands& o) {
  const unsigned who = o.below(kUnknown);
  Entry& entry = entries_[who];
  const std::uint8_t which = o.u8(), how = o.u8(), number = o.u8();
  if (entry.keys.empty()) return;
  const std::size_t place = entry.keys.size() - 1 - which % std::min<std::size_t>(entry.keys.size(), 4);
  Keys& keys = entry.keys[place];
  Octets message = speakers_[who]->keepalive(keys.keys, number);
  const bool damaged = (how & 1) != 0;
  if (damaged) message[16 + number % 16] ^= 1;
  const bool known = entry.previous == place || entry.current == place || entry.next == place;
  const Duration age = sim_.now() - keys.made;
  Outcomes outcomes;
  if (!known)
    outcomes = {Drop::kUnknownIndex};
  else if (age >= 180s)
    outcomes = {Drop::kExpired, Drop::kUnknownIndex};  // or wiped already
  else if (damaged || !keys.readable)
    outcomes = {Drop::kBadTag};
  else if (keys.seen.contains(number))
    outcomes = {Drop::kReplayed};
  else
    outcomes = {Drop::kNone};
  note();
  speakers_[who]->send_octets(std::move(message), place_of(who, (how >> 2 & 3) % kPlaces));
  if (expect(outcomes) == Drop::kNone) {
    keys.seen.insert(number);
    if (entry.next == place) {  // confirmed: it is in use now, and whatever we had asked is answered
      entry.previous = entry.current;
      entry.current = entry.next;
      entry.next.reset();
      entry.asked.reset();
    }
  }
  hear();
}

// Strangers' messages with right macs, all at once: from an eighth of the ring on the node is under load, for a second.
void World::flood(unsigned count) {
  const Instant begin = sim_.now();
  const Endpoint from = endpoint("203.0.113.5", 5);
  const bool was = loaded();
  for (unsigned i = 0; i < count; ++i) {
    InitiationMessage message{};
    store_le(message.type.data(), 1u);
    speakers_[0]->entropy.fill(message.ephemeral);
    write_mac1(octets_of(message), node_.device->public_key() == node_.key() ? speakers_[0]->them.mac1_key : Mac1Key{});
    sim_.inject(from, node_.at(), {octets_of(message).begin(), octets_of(message).end()}, 0);
  }
  sim_.run_for(Duration{1ms} * (count / 8 + 1));
  const bool overload = count >= 8;
  if (overload) loaded_until_ = std::max(loaded_until_, begin + Duration{1ms} * ((count - 8) / 8) + 1s);
  const std::uint64_t cookies = node_.drops(Drop::kCookieSent) - drops_[static_cast<std::size_t>(Drop::kCookieSent)];
  const std::uint64_t bad = node_.drops(Drop::kBadHandshake) - drops_[static_cast<std::size_t>(Drop::kBadHandshake)];
  WG_CHECK(cookies + bad == count);
  if (overload || was)
    WG_CHECK(cookies == count || (was && !overload && begin + 2ms > loaded_until_));
  else
    WG_CHECK(cookies == 0);
  if (cookies != 0 && !secret_fresh()) secret_made_ = begin, ++epoch_;
  hear();
  note();
}

void World::play(Kind kind, Operands o) {
  note();
  switch (kind) {
    case kInitiate:
      return initiate(o);
    case kRepeat: {
      if (sent_.empty()) return;
      const Sent again = sent_[sent_.size() - 1 - o.u8() % std::min<std::size_t>(sent_.size(), 8)];
      const Endpoint from = place_of(again.who, o.below(kPlaces));
      // Its mac2 is of the cookie that there was then.
      std::swap(entries_[again.who].jar, const_cast<Sent&>(again).proof);
      entries_[again.who].jar.got = sim_.now();  // its age does not matter to a reader
      const Outcomes outcomes = on_initiation(again.who, from, again.when, again.mac1, true, again.sound);
      std::swap(entries_[again.who].jar, const_cast<Sent&>(again).proof);
      speakers_[again.who]->send(again.message, from);
      const Drop drop = expect(outcomes);
      hear();
      replies_[again.who].clear();
      if (drop != Drop::kNone) return;
      accept_initiation(again.who, again.when);
      return finish_response(again.who, from, load_le<std::uint32_t>(again.message.sender.data()));
    }
    case kRespond:
      return respond(o);
    case kCookie:
      return give_cookie(o);
    case kData:
      return send_data(o);
    case kTrigger: {
      const unsigned who = o.below(kUnknown);
      static_cast<void>(node_.inner->push(udp_packet(node_.inner_v4(), 1, speakers_[who]->inner, 2, 10)));
      sim_.touch(node_);
      settle();
      break;
    }
    case kFlood:
      return flood(o.below(56));
    case kWait: {
      static constexpr Duration kUnits[] = {1ms, 5ms, 100ms, 2s, 13s};
      const Duration time = kUnits[o.below(5)] * (1 + o.below(20));
      sim_.run_for(time);
      hear();
      if (time > 60s)  // it may have given up
        for (Entry& entry : entries_) entry.vague = true;
      break;
    }
    case kPsk: {
      const unsigned who = o.below(kUnknown);
      const std::uint8_t how = o.u8();
      set_psk(who, how & 3, (how & 4) == 0, (how & 8) == 0);
      settle();
      break;
    }
    case kForget: {  // and a new acquaintance with the same key: its timestamps may begin anew
      const unsigned who = o.below(kUnknown);
      node_.remove_peer(speakers_[who]->key());
      settle();
      hear();
      speakers_[who]->cookies.forget();
      join(who);
      settle();
      break;
    }
    case kLowOrder: {
      static constexpr std::array<std::uint8_t, 32> kPoints[] = {
          {}, {1}, {0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}};
      PeerChange change;
      change.public_key.octets = kPoints[o.below(3)];
      const Endpoint at = endpoint("203.0.113.66", 66);
      change.endpoint = at;
      change.persistent_keepalive_s = 1;
      change.allowed_ips.push_back({prefix("10.66.0.0/16")});
      sim_.stranger(at) = [](const Wire&) { WG_CHECK(false && "said something to a point of low order"); };
      node_.apply(std::move(change));
      if (node_.inner->push(udp_packet(node_.inner_v4(), 1, "10.66.0.1", 2, 10))) sim_.touch(node_);
      sim_.run_for(1ms * o.u8());
      break;
    }
    case kNoise: {
      const Octets octets(o.rest().begin(), o.rest().end());
      sim_.inject(endpoint("203.0.113.1", 1), node_.at(), octets, 0);
      settle();
      std::uint64_t counted = 0;
      for (std::size_t i = 1; i < kDropCount; ++i) counted += node_.drops(static_cast<Drop>(i)) - drops_[i];
      WG_CHECK(counted == 1);
      break;
    }
    case kStorm: {  // a peer in good standing shakes hands as often as he may: others are none the worse
      const unsigned who = o.below(kUnknown);
      for (unsigned n = o.u8(); n != 0 && storm_left_ != 0; --n, --storm_left_) {
        sim_.run_for(34ms);
        hear();
        note();
        static constexpr std::uint8_t kRight[6] = {};
        std::array<std::uint8_t, 6> operands{};
        std::copy_n(kRight, 6, operands.begin());
        operands[0] = static_cast<std::uint8_t>(who);
        Operands again{operands};
        initiate(again);
      }
      break;
    }
    case kKinds:
      return;
  }
  hear();
  WG_CHECK(node_.imbalance() == 0);
}

}  // namespace
}  // namespace wireplane::test

WIREPLANE_FUZZ_PROGRAMS(wireplane::test::kGrammar)

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace wireplane::test;
  testing::FLAGS_gtest_break_on_failure = true;
  return wireplane::fuzz::play_in_new<World>({data, size}, 150, kKinds);
}
