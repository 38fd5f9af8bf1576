// SCTP that lies, with a right checksum: what a peer with a key may send into the tunnel. Nothing of it crashes, hangs
// or is kept; streams go on, or end with a reason and can be begun anew.
//
// Method: two ends without a tunnel between them talk; each packet may be changed on its way (lengths, parameters,
// types, values that make no sense, chunks twice, from another packet or at random), its checksum made right again. The
// clock, which is SCTP's, runs ahead. WG_SCTP_ROUNDS=100000 for long runs, WG_SCTP_SEED where they begin; the seed is
// printed when something fails.
#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "control/embed/crc32c.h"
#include "control/embed/sctp_packet.h"
#include "control/embed/sctp_stack.h"
#include "dataplane/base/bytes.h"
#include "tests/support/clock_ahead.h"

namespace {
std::atomic<std::int64_t> ahead_ns{0};
}

extern "C" int clock_gettime(clockid_t clock, timespec* out) noexcept {
  return wireplane::test::clock_ahead(clock, out, CLOCK_BOOTTIME, ahead_ns);
}

namespace wireplane {
namespace {

using Octets = std::vector<std::uint8_t>;
constexpr std::size_t kCommonHeader = 12;

void make_right(Octets& packet) {
  if (packet.size() < kCommonHeader) return;
  store_be32(&packet[8], 0);
  store_be32(&packet[8], crc32c_of_sctp(packet.data(), packet.size()));
}

class End final : public SctpUser {
 public:
  End() {
    const SctpStack::Use use;
    auto made = SctpEnd::open(*this, {.streams = 16, .buffer = 64 << 10});
    EXPECT_TRUE(made);
    end = std::move(*made);
  }
  ~End() override {
    const SctpStack::Use use;
    end.reset();
  }
  void transmit(std::span<const std::uint8_t> packet, std::uint8_t) override {
    sent.emplace_back(packet.begin(), packet.end());
  }
  void established(unsigned) override { up = true; }
  void broken(int code) override { up = false, last_error = code, ++breaks; }
  void arrived(std::uint16_t, std::uint32_t ppid, std::span<const std::uint8_t> octets, bool) override {
    heard += octets.size();
    last_ppid = ppid;
  }
  [[nodiscard]] bool has_room() const override { return true; }
  void writable() override {}

  std::unique_ptr<SctpEnd> end;
  std::deque<Octets> sent;
  bool up = false;
  int last_error = 0;
  unsigned breaks = 0;
  std::size_t heard = 0;
  std::uint32_t last_ppid = 0;
};

// Where chunks begin in a packet that is as it should be.
std::vector<std::size_t> chunks_of(const Octets& packet) {
  std::vector<std::size_t> at;
  for (std::size_t i = kCommonHeader; i + 4 <= packet.size();) {
    const std::size_t length = load_be16(&packet[i + 2]);
    at.push_back(i);
    if (length < 4) break;
    i += (length + 3) & ~std::size_t{3};
  }
  return at;
}

class Liar {
 public:
  explicit Liar(std::uint64_t seed) : random_{seed} {}
  std::size_t below(std::size_t n) { return std::uniform_int_distribution<std::size_t>{0, n - 1}(random_); }

  Octets lie(Octets packet) {
    for (std::size_t times = 1 + below(3); times != 0; --times) change(packet);
    if (below(8) != 0) kept_.size() < 64 ? kept_.push_back(packet) : void(kept_[below(64)] = packet);
    make_right(packet);
    return packet;
  }

 private:
  std::uint16_t number() {
    static constexpr std::uint16_t kOdd[] = {0,  1,  2,   3,    4,      5,      7,      8,      12,    16,
                                             17, 20, 255, 1024, 0x7fff, 0x8000, 0xfffc, 0xfffe, 0xffff};
    return below(3) == 0 ? static_cast<std::uint16_t>(below(65536)) : kOdd[below(std::size(kOdd))];
  }
  void change(Octets& packet) {
    const auto chunks = chunks_of(packet);
    if (chunks.empty()) return;
    const std::size_t at = chunks[below(chunks.size())];
    const std::size_t length = std::min<std::size_t>(load_be16(&packet[at + 2]), packet.size() - at);
    switch (below(12)) {
      case 0:  // another length
        return store_be16(&packet[at + 2], number());
      case 1:
        return store_be16(&packet[at + 2], static_cast<std::uint16_t>(length + below(9) - 4));
      case 2:  // another type, other flags
        packet[at + below(2)] = static_cast<std::uint8_t>(below(256));
        return;
      case 3: {  // a type there is
        static constexpr std::uint8_t kTypes[] = {0,  1,  2,  3,  4,    5,    6,    7,    8,    9,    10,   11,  12,
                                                  13, 14, 15, 16, 0x40, 0x80, 0x81, 0x82, 0x84, 0xc0, 0xc1, 0xc2};
        packet[at] = kTypes[below(std::size(kTypes))];
        return;
      }
      case 4:  // a 16-bit field somewhere inside
        if (length >= 8) store_be16(&packet[at + 4 + 2 * below((length - 4) / 2)], number());
        return;
      case 5:  // octets
        for (std::size_t i = 1 + below(4); i != 0 && length > 4; --i)
          packet[at + 4 + below(length - 4)] = static_cast<std::uint8_t>(below(256));
        return;
      case 6:  // cut
        packet.resize(kCommonHeader + below(packet.size() - kCommonHeader + 1));
        return;
      case 7: {  // a chunk twice
        const Octets chunk(packet.begin() + static_cast<std::ptrdiff_t>(at),
                           packet.begin() + static_cast<std::ptrdiff_t>(at + length));
        packet.insert(packet.end(), chunk.begin(), chunk.end());
        return packet.resize((packet.size() + 3) & ~std::size_t{3});
      }
      case 8: {  // one of another packet
        if (kept_.empty()) return;
        const Octets& other = kept_[below(kept_.size())];
        if (other.size() > kCommonHeader && packet.size() < 3000)
          packet.insert(packet.end(), other.begin() + kCommonHeader, other.end());
        return;
      }
      case 9: {  // one made up, with parameters
        Octets chunk(4 + 4 * below(24));
        for (std::uint8_t& octet : chunk) octet = static_cast<std::uint8_t>(below(256));
        chunk[0] = static_cast<std::uint8_t>(below(2) == 0 ? below(16) : below(256));
        store_be16(&chunk[2], static_cast<std::uint16_t>(chunk.size()));
        for (std::size_t i = 4 + (chunk[0] == 1 || chunk[0] == 2 ? 16 : 0); i + 4 <= chunk.size();) {
          static constexpr std::uint16_t kParameters[] = {
              1,      5,      6,      7,      8,      9,      11,     12,     13,     14,     15,     16,    17,
              0x8000, 0x8002, 0x8003, 0x8004, 0x8008, 0xc000, 0xc001, 0xc002, 0xc003, 0xc004, 0xc005, 0xc006};
          store_be16(&chunk[i], kParameters[below(std::size(kParameters))]);
          const auto its = static_cast<std::uint16_t>(below(4) == 0 ? number() : 4 + below(20));
          store_be16(&chunk[i + 2], its);
          i += std::max<std::size_t>(4, (its + 3u) & ~3u);
        }
        packet.insert(below(2) == 0 ? packet.begin() + static_cast<std::ptrdiff_t>(at) : packet.end(), chunk.begin(),
                      chunk.end());
        return;
      }
      case 10:  // the tag, the ports
        if (below(4) == 0) packet[below(8)] = static_cast<std::uint8_t>(below(256));
        return;
      default:  // a serial number close by: TSNs, gaps
        if (length >= 8) {
          std::uint8_t* field = &packet[at + 4 + 4 * below((length - 4) / 4)];
          store_be32(field, load_be32(field) + static_cast<std::uint32_t>(below(2000)) - 1000);
        }
        return;
    }
  }
  std::mt19937_64 random_;
  std::vector<Octets> kept_;
};

// Two ends, and what is said between them. `lies`: one packet in so many is changed, of x's alone or of both.
struct Talk {
  explicit Talk(std::uint64_t seed) : liar{seed} {
    {
      const SctpStack::Use use;
      EXPECT_TRUE(SctpStack::start());
    }
    x = std::make_unique<End>();
    y = std::make_unique<End>();
  }
  ~Talk() {
    x.reset(), y.reset();
    const SctpStack::Use use;
    SctpStack::stop();
  }
  int say(End& from, std::size_t octets) {
    const Octets words(octets, 7);
    const SctpStack::Use use;
    return from.end->send(static_cast<std::uint16_t>(liar.below(16)), 0x57500001, words);
  }
  void deliver(End& from, End& to, std::size_t lies) {
    for (std::size_t most = 40; !from.sent.empty() && most != 0; --most) {
      const Octets packet = std::move(from.sent.front());
      from.sent.pop_front();
      if (lies != 0 && liar.below(lies) == 0) believed += hand(to, liar.lie(packet));
      if (lies == 0 || liar.below(8) != 0) honest += hand(to, packet);  // and what was meant, or not even that
    }
    if (from.sent.size() > 1000) from.sent.clear();
  }
  static bool hand(End& to, const Octets& packet) {
    const SctpStack::Use use;
    return to.end->input(packet, 0);
  }
  void turn(std::size_t lies_of_x, std::size_t lies_of_y) {
    deliver(*x, *y, lies_of_x);
    deliver(*y, *x, lies_of_y);
    ahead_ns += 5'000'000;
  }
  // Both say what they mean: it arrives, after a new association if need be.
  bool understand_each_other() {
    x->sent.clear(), y->sent.clear();
    const std::size_t x_before = x->heard, y_before = y->heard;
    for (int i = 0; i < 40'000; ++i) {
      if (i % 200 == 0) static_cast<void>(say(*x, 10)), static_cast<void>(say(*y, 10));
      turn(0, 0);
      if (x->heard > x_before && y->heard > y_before) return true;
    }
    return false;
  }
  Liar liar;
  std::unique_ptr<End> x, y;
  std::size_t believed = 0, honest = 0;  // packets that were taken
};

std::size_t number_from(const char* name, std::size_t otherwise) {
  const char* const wanted = std::getenv(name);
  return wanted == nullptr ? otherwise : std::strtoul(wanted, nullptr, 10);
}

// Goal and method: the head of this file. Then both are honest again, and understand each other.
TEST(SctpMalformed, LiesWithARightChecksumHurtNobody) {
  std::size_t breaks = 0, heard = 0, given_up = 0, believed = 0;
  const std::size_t rounds = number_from("WG_SCTP_ROUNDS", 400), first = number_from("WG_SCTP_SEED", 1);
  for (std::uint64_t seed = first; seed < first + rounds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Talk talk{seed};
    const bool both = talk.liar.below(2) == 0;
    for (int i = 0; i < 150; ++i) {
      if (talk.liar.below(3) == 0) static_cast<void>(talk.say(*talk.x, 1 + talk.liar.below(4000)));
      if (talk.liar.below(5) == 0) static_cast<void>(talk.say(*talk.y, 1 + talk.liar.below(4000)));
      talk.turn(2, both ? 3 : 0);
    }
    if (!talk.understand_each_other()) {  // a lie about what had arrived, say, which stays believed
      ++given_up;
      {
        const SctpStack::Use use;
        talk.x->end->abort(), talk.y->end->abort();
      }
      ASSERT_TRUE(talk.understand_each_other());
    }
    breaks += talk.x->breaks + talk.y->breaks;
    heard += talk.x->heard + talk.y->heard;
    believed += talk.believed;
  }
  std::printf("%zu lies believed, %zu associations broken, %zu given up, %zu octets heard\n", believed, breaks,
              given_up, heard);
  EXPECT_GT(believed, rounds * 5);
  EXPECT_LT(given_up, 1 + rounds / 10);
  EXPECT_GT(heard, rounds * 1000);
}

Octets packet_of(std::initializer_list<std::uint8_t> chunks) {
  Octets packet(kCommonHeader);
  store_be16(&packet[0], SctpEnd::kPort), store_be16(&packet[2], SctpEnd::kPort);
  packet.insert(packet.end(), chunks);
  return packet;
}

// Goal: what RFC 9260 allows is let through, the rest is not: wrong lengths of chunks and what is in them, chunks of
// extensions, chunks that must be alone, other ports, half headers. Method: one packet a rule.
TEST(SctpMalformed, WhatIsLetThrough) {
  const auto good = [](const Octets& packet) { return is_well_formed_sctp(packet, SctpEnd::kPort); };
  const auto is = [&](std::initializer_list<std::uint8_t> chunks) { return good(packet_of(chunks)); };
  EXPECT_TRUE(is({0, 3, 0, 17, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 9})) << "DATA, the last one's padding missing";
  EXPECT_FALSE(is({0, 3, 0, 16, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0})) << "DATA without data";
  EXPECT_TRUE(is({11, 0, 0, 4, 10, 0, 0, 8, 1, 2, 3, 4}));
  EXPECT_FALSE(is({})) << "no chunk";
  EXPECT_FALSE(is({11, 0, 0, 4, 10, 0, 0})) << "half a header";
  EXPECT_FALSE(is({11, 0, 0, 0}));
  EXPECT_FALSE(is({11, 0, 0, 3}));
  EXPECT_FALSE(is({11, 0, 0, 5, 0}));
  EXPECT_FALSE(is({10, 0, 0, 4})) << "no cookie";
  EXPECT_FALSE(is({7, 0, 0, 4}));
  EXPECT_FALSE(is({12, 0, 0, 4}));
  EXPECT_FALSE(is({14, 0, 0, 8, 0, 0, 0, 0}));
  EXPECT_FALSE(is({14, 0, 0, 4, 14, 0, 0, 4})) << "must be alone";
  EXPECT_TRUE(is({6, 0, 0, 4}));
  EXPECT_TRUE(is({9, 0, 0, 8, 0, 3, 0, 4}));
  EXPECT_FALSE(is({9, 0, 0, 8, 0, 3, 0, 0}));
  EXPECT_FALSE(is({4, 0, 0, 8, 0, 1, 0, 5}));
  for (const auto type : std::initializer_list<std::uint8_t>{15, 16, 0x40, 0x80, 0x81, 0x82, 0xc0, 0xc1, 0xff})
    EXPECT_FALSE(is({type, 0, 0, 4}));
  EXPECT_TRUE(is({3, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 2}));
  EXPECT_FALSE(is({3, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 2, 0, 1})) << "a gap that ends before it begins";
  EXPECT_FALSE(is({3, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0, 1, 0, 2, 0, 0, 0, 1, 0, 2})) << "fewer gaps than it says";
  Octets init = packet_of({1, 0, 0, 28, 0, 0, 0, 1, 0, 0, 0xff, 0xff, 0, 9, 0, 9, 0, 0, 0, 1, 0, 6, 0, 8, 1, 2, 3, 4});
  EXPECT_TRUE(good(init));
  init[kCommonHeader + 23] = 0;
  EXPECT_FALSE(good(init)) << "usrsctp 0.9.5 goes round this one for ever";
  init[kCommonHeader + 23] = 9;
  EXPECT_FALSE(good(init));
  init.resize(kCommonHeader + 20), init[kCommonHeader + 3] = 20;
  EXPECT_TRUE(good(init)) << "without parameters";
  init[1] ^= 1;
  EXPECT_FALSE(good(init)) << "another port";
  init[1] ^= 1, init.insert(init.end(), {11, 0, 0, 4});
  EXPECT_FALSE(good(init)) << "must be alone";
}

// Goal: a peer that begins again and again with absurd INITs, and never goes on, makes nothing grow.
TEST(SctpMalformed, BeginningsWithoutEndKeepNothing) {
  Talk talk{1};
  ASSERT_TRUE(talk.understand_each_other());
  std::size_t after_some = 0;
  for (std::uint32_t i = 0; i < 20'000; ++i) {
    Octets init(kCommonHeader + 20);
    store_be16(&init[0], SctpEnd::kPort), store_be16(&init[2], SctpEnd::kPort);
    init[12] = 1;
    store_be16(&init[14], 20);
    store_be32(&init[16], i * 0x9e3779b1u + 1);
    store_be32(&init[20], i % 3 == 0 ? 0 : 0xffffffff);
    store_be16(&init[24], static_cast<std::uint16_t>(i % 5 == 0 ? 0 : 0xffff));
    store_be16(&init[26], static_cast<std::uint16_t>(i % 7 == 0 ? 0 : 0xffff));
    store_be32(&init[28], i);
    make_right(init);
    static_cast<void>(Talk::hand(*talk.y, init));
    talk.y->sent.clear();
    if (i == 2'000) after_some = ::mallinfo2().uordblks;
  }
  EXPECT_LT(::mallinfo2().uordblks, after_some + (1 << 20));
  EXPECT_TRUE(talk.understand_each_other());
}

}  // namespace
}  // namespace wireplane
