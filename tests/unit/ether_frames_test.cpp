// Outer frames that are not the plain case: what lies between Ethernet and the datagram, and the one reason each is
// counted under. Octets only; the module over DPDK's devices is in ethdev_port_test.cpp.
#include <gtest/gtest.h>

#include <optional>
#include <random>
#include <span>

#include "dataplane/base/bytes.h"
#include "dataplane/wire/checksum.h"
#include "dataplane/wire/inner_ip.h"
#include "drivers/ether.h"
#include "drivers/reassembly.h"
#include "drivers/spreading.h"
#include "drivers/udp_ip.h"
#include "drivers/waiting_room.h"
#include "tests/support/test_worker.h"

namespace wireplane {
namespace {

using Octets = std::vector<std::uint8_t>;

const Address kA4 = ipv4(192, 0, 2, 1), kB4 = ipv4(192, 0, 2, 2);
const Address kA6 = ipv6({0xfd, 0x00}, 1), kB6 = ipv6({0xfd, 0x00}, 2);
constexpr std::uint8_t kHopByHop = 0, kRouting = 43, kFragment = 44, kDestination = 60;

Octets datagram(const Address& from, const Address& to, std::size_t length, std::uint8_t tos = 0) {
  DatagramHeader header;
  header.source = from;
  header.destination = to;
  header.source_port = 1000;
  header.destination_port = 2000;
  header.tos = tos;
  const std::size_t headers = udp_ip_size(to);
  Octets packet(headers + length);
  for (std::size_t i = 0; i < length; ++i) packet[headers + i] = static_cast<std::uint8_t>(i * 7 + i / 256);
  write_udp_ip(packet.data() + headers, length, header, ChecksumBy::kUs, ChecksumBy::kUs);
  return packet;
}

Drop read(const Octets& packet, FoundDatagram& found) {
  return read_udp_ip(packet.data(), packet.size(), {}, 0, found);
}
Drop read(const Octets& packet) {
  FoundDatagram found;
  return read(packet, found);
}

// An IPv6 packet with `headers` (each a type and its octets) before its payload.
Octets extended(const Octets& packet, const std::vector<std::pair<std::uint8_t, Octets>>& headers) {
  Octets out{packet.begin(), packet.begin() + 40};
  std::size_t next_field = 6;
  const std::uint8_t last = packet[6];
  for (const auto& [type, octets] : headers) {
    out[next_field] = type;
    next_field = out.size();
    out.insert(out.end(), octets.begin(), octets.end());
  }
  out[next_field] = last;
  out.insert(out.end(), packet.begin() + 40, packet.end());
  store_be16(out.data() + 4, static_cast<std::uint16_t>(out.size() - 40));
  return out;
}
Octets options(std::size_t octets) {  // of padding; a multiple of eight
  Octets header(octets);
  header[1] = static_cast<std::uint8_t>(octets / 8 - 1);
  header[2] = 1;  // PadN
  header[3] = static_cast<std::uint8_t>(octets - 4);
  return header;
}
Octets fragment_header(std::size_t offset, bool more, std::uint32_t id) {
  Octets header(8);
  store_be16(header.data() + 2, static_cast<std::uint16_t>(offset | (more ? 1 : 0)));
  store_be32(header.data() + 4, id);
  return header;
}

// One piece of a packet, as a router (IPv4) or the sender (IPv6) makes it: `count` octets of payload from `offset` on.
Octets piece_of(const Octets& packet, std::size_t offset, std::size_t count, std::uint32_t id) {
  const bool v4 = packet[0] >> 4 == 4;
  const std::size_t header = v4 ? 20 : 40;
  const bool more = header + offset + count < packet.size();
  Octets payload{packet.begin() + static_cast<long>(header + offset),
                 packet.begin() + static_cast<long>(header + offset + count)};
  Octets out{packet.begin(), packet.begin() + static_cast<long>(header)};
  if (!v4) {
    out.insert(out.end(), payload.begin(), payload.end());
    return extended(out, {{kFragment, fragment_header(offset, more, id)}});
  }
  store_be16(out.data() + 2, static_cast<std::uint16_t>(header + count));
  store_be16(out.data() + 4, static_cast<std::uint16_t>(id));
  store_be16(out.data() + 6, static_cast<std::uint16_t>(offset / 8 | (more ? 0x2000 : 0)));
  store_be16(out.data() + 10, 0);
  store_be16(out.data() + 10, internet_checksum(out.data(), header));
  out.insert(out.end(), payload.begin(), payload.end());
  return out;
}

const auto kPairs = std::to_array<std::pair<Address, Address>>({{kA4, kB4}, {kA6, kB6}});

// Goal: every damaged frame has its reason. Method: a table of what was done to a good one, and what it is counted as.
TEST(EtherFrames, EachFaultHasItsReason) {
  const auto change = [](Octets packet, std::size_t at, std::uint8_t value, bool fix_ip = false) {
    packet[at] = value;
    if (fix_ip) {
      store_be16(packet.data() + 10, 0);
      store_be16(packet.data() + 10, internet_checksum(packet.data(), 20));
    }
    return packet;
  };
  const auto cut = [](Octets packet, std::size_t to) {
    packet.resize(to);
    return packet;
  };
  const Octets v4 = datagram(kA4, kB4, 100), v6 = datagram(kA6, kB6, 100);
  struct Case {
    const char* what;
    Octets packet;
    Drop reason;
  };
  const Case cases[] = {
      {"nothing at all", {}, Drop::kOuterMalformed},
      {"IPv4 cut in its header", cut(v4, 19), Drop::kOuterMalformed},
      {"IPv6 cut in its header", cut(v6, 39), Drop::kOuterMalformed},
      {"IPv4 cut in its payload", cut(v4, 127), Drop::kOuterMalformed},
      {"IPv6 cut in its payload", cut(v6, 147), Drop::kOuterMalformed},
      {"version 5", change(v4, 0, 0x55), Drop::kOuterMalformed},
      {"header length 16", change(v4, 0, 0x44), Drop::kOuterMalformed},
      {"header longer than the packet", change(change(v4, 0, 0x4f), 3, 40), Drop::kOuterMalformed},
      {"IPv4 header checksum wrong", change(v4, 8, 63), Drop::kOuterChecksum},
      {"IPv4 UDP checksum wrong", change(v4, 40, 0xee), Drop::kOuterChecksum},
      {"IPv6 UDP checksum wrong", change(v6, 60, 0xee), Drop::kOuterChecksum},
      {"IPv4 without a UDP checksum", change(change(v4, 26, 0), 27, 0), Drop::kNone},
      {"IPv6 without a UDP checksum", change(change(v6, 46, 0), 47, 0), Drop::kOuterChecksum},
      {"ICMP", change(v4, 9, 1, true), Drop::kOuterNotOurs},
      {"ICMPv6", change(v6, 6, 58), Drop::kOuterNotOurs},
      {"IPv6 without a next header", change(v6, 6, 59), Drop::kOuterNotOurs},
      {"UDP cut to seven octets",
       [&] {
         Octets packet = cut(v4, 27);
         store_be16(packet.data() + 2, 27);
         store_be16(packet.data() + 10, 0);
         store_be16(packet.data() + 10, internet_checksum(packet.data(), 20));
         return packet;
       }(),
       Drop::kOuterMalformed},
      {"first piece", piece_of(v4, 0, 64, 1), Drop::kOuterFragment},
      {"last piece", piece_of(v6, 64, 44, 1), Drop::kOuterFragment},
  };
  for (const Case& one : cases) EXPECT_EQ(read(one.packet), one.reason) << one.what;
}

// Goal: IPv6 extension headers before UDP are stepped over, in any number up to eight; what is not honest is refused.
TEST(EtherFrames, ExtensionHeadersAreSteppedOver) {
  const Octets plain = datagram(kA6, kB6, 77);
  FoundDatagram found;
  const std::vector<std::vector<std::pair<std::uint8_t, Octets>>> chains = {
      {{kHopByHop, options(8)}},
      {{kDestination, options(16)}},
      {{kHopByHop, options(8)}, {kDestination, options(24)}, {kRouting, options(8)}},
      {{kHopByHop, options(264)}},
      {{kFragment, fragment_header(0, false, 9)}},  // RFC 6946: atomic, a whole datagram
      {{kHopByHop, options(8)}, {kFragment, fragment_header(0, false, 9)}, {kDestination, options(8)}},
  };
  for (const auto& chain : chains) {
    const Octets packet = extended(plain, chain);
    ASSERT_EQ(read(packet, found), Drop::kNone);
    EXPECT_EQ(found.length, 77u);
    EXPECT_EQ(found.payload, packet.data() + packet.size() - 77);
    for (std::size_t count = 40; count < packet.size(); ++count) {  // cut anywhere: never beyond the end
      const Octets part{packet.begin(), packet.begin() + static_cast<long>(count)};
      EXPECT_EQ(read(part), Drop::kOuterMalformed);
    }
  }
  EXPECT_EQ(read(extended(plain, std::vector<std::pair<std::uint8_t, Octets>>(9, {kDestination, options(8)}))),
            Drop::kOuterMalformed);
  Octets beyond = extended(plain, {{kDestination, options(8)}});
  beyond[41] = 200;  // longer than the packet
  EXPECT_EQ(read(beyond), Drop::kOuterMalformed);
}

// ---- reassembly

struct Pieces {
  TestWorker w;
  Reassembly reassembly;
  std::int64_t now = 0;

  // The datagram's octets once it is whole.
  std::optional<Octets> add(const Octets& packet) {
    IpFragment piece;
    if (const Drop verdict = read_fragment(packet.data(), packet.size(), piece); verdict != Drop::kNone) {
      w.context.refuse(verdict);
      return std::nullopt;
    }
    const Reassembly::Whole whole = reassembly.add(piece, now, w.context);
    if (whole.buffer == nullptr) return std::nullopt;
    FoundDatagram found;
    EXPECT_EQ(read_udp_ip(whole.ip, whole.length, {.ip_good = true}, 2000, found), Drop::kNone);
    EXPECT_GE(whole.buffer->memory + whole.buffer->size, found.payload + found.length + 31);
    EXPECT_GE(static_cast<std::size_t>(found.payload - whole.buffer->memory), 96u);
    tos = found.tos;
    Octets octets{found.payload, found.payload + found.length};
    w.context.buffers.release(whole.buffer);
    return octets;
  }
  std::uint8_t tos = 0;
};

// Goal: pieces in any order make the datagram that was sent, and nothing before the last one has come.
// Method: both families; datagrams of random lengths cut at random places, shuffled, several under way at a time.
TEST(Reassembly, PiecesInAnyOrderMakeTheDatagram) {
  std::mt19937 random{3};
  Pieces p;
  for (std::uint32_t round = 0; round < 300; ++round) {
    std::vector<std::pair<std::size_t, Octets>> all;  // whose, and the piece
    std::vector<Octets> sent;
    std::vector<std::size_t> left;
    for (std::size_t d = 0; d < 4; ++d) {
      const auto& [from, to] = kPairs[d % 2];
      sent.push_back(datagram(from, to, 30 + random() % 1900));
      const std::size_t header = to.is_v4() ? 20 : 40, payload = sent[d].size() - header;
      std::size_t pieces = 0;
      for (std::size_t at = 0; at < payload; ++pieces) {
        std::size_t count = pieces == 15 ? payload - at : std::min(payload - at, 8 * (1 + random() % 60));
        if (count == payload && count > 8) count = 8;
        all.emplace_back(d, piece_of(sent[d], at, count, round * 4 + static_cast<std::uint32_t>(d)));
        at += count;
      }
      left.push_back(pieces);
    }
    std::ranges::shuffle(all, random);
    for (const auto& [d, packet] : all) {
      const auto whole = p.add(packet);
      EXPECT_EQ(whole.has_value(), --left[d] == 0);
      const std::size_t headers = d % 2 == 0 ? 28 : 48;
      if (whole) {
        EXPECT_TRUE(std::ranges::equal(*whole, std::span{sent[d]}.subspan(headers)));
      }
    }
  }
  EXPECT_EQ(p.reassembly.incomplete(), 0u);
  EXPECT_EQ(p.w.all_drops(), 0u);
}

// Goal: CE on any piece is CE on the whole (RFC 3168 §5.3); the rest of the DS field is the first piece's.
TEST(Reassembly, CongestionOnOnePieceIsCongestionOfAll) {
  Pieces p;
  const Octets packet = datagram(kA6, kB6, 100, 0x8a);
  Octets second = piece_of(packet, 64, 44, 5);
  second[1] = static_cast<std::uint8_t>(second[1] | 0x30);
  EXPECT_FALSE(p.add(second));
  EXPECT_TRUE(p.add(piece_of(packet, 0, 64, 5)));
  EXPECT_EQ(p.tos, 0x8b);
}

// Goal: what overlaps, contradicts, repeats, is too large, too old or too much is refused, piece by piece, under a
// reason; nothing stays behind. Method: each once; the sum of the refused is the number of pieces.
TEST(Reassembly, RefusesWhatCannotBeTrusted) {
  for (const auto& [from, to] : kPairs) {
    const Octets packet = datagram(from, to, 200);
    {
      Pieces p;  // an exact duplicate is refused alone
      EXPECT_FALSE(p.add(piece_of(packet, 0, 64, 1)));
      EXPECT_FALSE(p.add(piece_of(packet, 0, 64, 1)));
      EXPECT_EQ(p.w.drops(Drop::kOuterFragment), 1u);
      EXPECT_TRUE(p.add(piece_of(packet, 64, 144, 1)));
    }
    {
      Pieces p;  // an overlap ends the datagram
      EXPECT_FALSE(p.add(piece_of(packet, 0, 64, 1)));
      EXPECT_FALSE(p.add(piece_of(packet, 56, 64, 1)));
      EXPECT_EQ(p.w.drops(Drop::kOuterFragment), 2u);
      EXPECT_EQ(p.reassembly.incomplete(), 0u);
    }
    {
      Pieces p;  // two different ends; then something behind the end
      EXPECT_FALSE(p.add(piece_of(packet, 64, 144, 1)));
      EXPECT_FALSE(p.add(piece_of(datagram(from, to, 300), 256, 52, 1)));
      EXPECT_EQ(p.w.drops(Drop::kOuterFragment), 2u);
      EXPECT_FALSE(p.add(piece_of(datagram(from, to, 300), 256, 8, 2)));
      EXPECT_FALSE(p.add(piece_of(packet, 64, 144, 2)));
      EXPECT_EQ(p.w.drops(Drop::kOuterFragment), 4u);
    }
    {
      Pieces p;  // too old
      EXPECT_FALSE(p.add(piece_of(packet, 0, 64, 1)));
      EXPECT_FALSE(p.add(piece_of(packet, 64, 64, 1)));
      p.now = Reassembly::kPatienceNs - 1;
      p.reassembly.expire(p.now, p.w.context);
      EXPECT_EQ(p.reassembly.incomplete(), 1u);
      p.now += 1;
      p.reassembly.expire(p.now, p.w.context);
      EXPECT_EQ(p.reassembly.incomplete(), 0u);
      EXPECT_EQ(p.w.drops(Drop::kOuterFragment), 2u);
    }
    {
      Pieces p;  // more datagrams than places: the oldest goes
      for (std::uint32_t id = 0; id < Reassembly::kPlaces + 3; ++id, ++p.now) {
        EXPECT_FALSE(p.add(piece_of(packet, 0, 64, id)));
      }
      EXPECT_EQ(p.reassembly.incomplete(), Reassembly::kPlaces);
      EXPECT_EQ(p.w.drops(Drop::kOuterFragment), 3u);
      EXPECT_TRUE(p.add(piece_of(packet, 64, 144, Reassembly::kPlaces)));
    }
    {
      Pieces p;  // more pieces than places for them
      const Octets large = datagram(from, to, 1000);
      for (std::size_t i = 0; i <= Reassembly::kMostPieces; ++i) EXPECT_FALSE(p.add(piece_of(large, i * 8, 8, 1)));
      EXPECT_EQ(p.w.drops(Drop::kOuterFragment), Reassembly::kMostPieces + 1);
    }
    {
      Pieces p;  // larger than a buffer
      EXPECT_FALSE(p.add(piece_of(datagram(from, to, 4000), 2040, 64, 1)));
      EXPECT_EQ(p.w.drops(Drop::kTruncated), 1u);
    }
    Pieces p;  // not a multiple of eight; empty; beyond 65535
    Octets odd = piece_of(packet, 0, 60, 1);
    EXPECT_FALSE(p.add(odd));
    EXPECT_FALSE(p.add(piece_of(packet, 64, 0, 1)));
    Octets far = piece_of(packet, 0, 64, 1);
    if (to.is_v4())
      store_be16(far.data() + 6, 0x1fff);
    else
      store_be16(far.data() + 42, 0xfff8);
    EXPECT_FALSE(p.add(far));
    EXPECT_EQ(p.w.drops(Drop::kOuterMalformed), 3u);
    EXPECT_EQ(p.w.counters.refused.get(), 3u);
  }
}

// Goal: no octets harm it, and none are lost from the count. Method: pieces with random damage in random order; at the
// end every piece that came is in a whole datagram, refused, or still there; sanitizers watch the bounds.
TEST(Reassembly, SurvivesGarbage) {
  std::mt19937 random{5};
  Pieces p;
  std::uint64_t whole = 0;
  for (int i = 0; i < 30'000; ++i, p.now += 1'000'000) {
    const auto& [from, to] = kPairs[random() % 2];
    const Octets packet = datagram(from, to, random() % 400);
    const std::size_t payload = packet.size() - (to.is_v4() ? 20 : 40);
    const std::size_t at = random() % payload / 8 * 8;
    Octets piece =
        piece_of(packet, at, std::min(payload - at, random() % 20 * 8), static_cast<std::uint32_t>(random() % 8));
    for (unsigned long k = random() % 3; k > 0; --k)
      piece[random() % piece.size()] = static_cast<std::uint8_t>(random());
    piece.resize(random() % 8 == 0 ? random() % (piece.size() + 1) : piece.size());
    const Octets exact{piece.begin(), piece.end()};  // so that the sanitizer sees its end
    IpFragment fragment;
    if (read_fragment(exact.data(), exact.size(), fragment) != Drop::kNone) continue;
    ASSERT_GE(fragment.data, exact.data());
    ASSERT_LE(fragment.data + fragment.length, exact.data() + exact.size());
    const Reassembly::Whole made = p.reassembly.add(fragment, p.now, p.w.context);
    p.reassembly.expire(p.now, p.w.context);
    if (made.buffer == nullptr) continue;
    ++whole;
    FoundDatagram found;
    static_cast<void>(read_udp_ip(made.ip, made.length, {.ip_good = true}, 0, found));
    p.w.context.buffers.release(made.buffer);
  }
  EXPECT_GT(whole, 0u);
  EXPECT_GT(p.w.drops(Drop::kOuterFragment), 0u);
  p.reassembly.expire(p.now + 2 * Reassembly::kPatienceNs, p.w.context);
  EXPECT_EQ(p.reassembly.incomplete(), 0u);
}

// ---- waiting for a next hop

// Goal: a few packets wait for each next hop, in order; the oldest makes room; none waits for ever, and none is lost
// from the count. Method: more than there are places, for many hops; then some are let go, then time passes.
TEST(WaitingRoom, HoldsAFewForEachNextHopAndForgetsNone) {
  TestWorker w;
  WaitingRoom room;
  const Endpoint to = endpoint_of(kB4, 7);
  const auto hold = [&](const Address& next, std::uint8_t mark, std::int64_t now) {
    Packet packet;
    ASSERT_TRUE(w.context.make(packet, 1));
    packet.data[0] = mark;
    packet.to = &to;
    room.hold(packet, next, now, Drop::kOuterUnreachable, w.context);
  };
  for (std::uint8_t i = 0; i < WaitingRoom::kOfOneHop + 4; ++i) hold(kA4, i, i);
  EXPECT_EQ(room.size(), WaitingRoom::kOfOneHop);
  EXPECT_EQ(w.drops(Drop::kOuterUnreachable), 4u);
  for (std::uint8_t i = 0; i < 100; ++i) hold(ipv4(10, 0, 0, i), 200, 100);
  EXPECT_EQ(room.size(), WaitingRoom::kPlaces);
  EXPECT_EQ(w.drops(Drop::kOuterUnreachable), 4u + 100 - (WaitingRoom::kPlaces - WaitingRoom::kOfOneHop));

  std::vector<std::uint8_t> left;
  room.look(200, Drop::kOuterUnreachable, w.context, [&](Packet& packet) {
    EXPECT_EQ(packet.to->remote, kB4);
    EXPECT_NE(packet.to, &to);  // its own copy
    if (packet.data[0] == 200) return false;
    left.push_back(packet.data[0]);
    w.context.release(packet);
    return true;
  });
  ASSERT_EQ(left.size(), WaitingRoom::kOfOneHop);
  for (std::size_t i = 0; i < left.size(); ++i) EXPECT_EQ(left[i], i + 4);
  const std::size_t rest = room.size();
  const std::uint64_t dropped = w.drops(Drop::kOuterUnreachable);
  room.look(100 + WaitingRoom::kPatienceNs, Drop::kOuterUnreachable, w.context, [](Packet&) { return false; });
  EXPECT_EQ(room.size(), 0u);
  EXPECT_EQ(w.drops(Drop::kOuterUnreachable), dropped + rest);
}

// ---- spreading

// Goal: the warning comes where it helps, with its remedy, and nowhere else.
TEST(Spreading, WarnsWhereOnlyAddressesAreHashed) {
  EXPECT_TRUE(spreading_warning("0000:01:00.0", 1, true, false).empty());  // one queue: nothing to spread
  EXPECT_TRUE(spreading_warning("0000:01:00.0", 4, true, true).empty());   // ports, too: good
  EXPECT_TRUE(spreading_warning("net_memif0", 4, false, false).empty());   // the sender chooses
  const std::string warning = spreading_warning("0000:01:00.0", 4, true, false);
  EXPECT_NE(warning.find("0000:01:00.0"), warning.npos);
  EXPECT_NE(warning.find("Remedy: "), warning.npos);
  EXPECT_NE(warning.find("rx-flow-hash"), warning.npos);
}

}  // namespace
}  // namespace wireplane
