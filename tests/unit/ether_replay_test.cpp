// A capture replayed through a DPDK device: what the octets' tests say of one frame at a time, said of the whole port.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "dataplane/base/bytes.h"
#include "dataplane/wire/checksum.h"
#include "drivers/ethdev.h"
#include "drivers/ether.h"
#include "drivers/udp_ip.h"
#include "tests/support/test_worker.h"

namespace wireplane {
namespace {

using Octets = std::vector<std::uint8_t>;

const Address kA4 = ipv4(192, 0, 2, 1), kB4 = ipv4(192, 0, 2, 2);
const Address kA6 = ipv6({0xfd, 0x00}, 1), kB6 = ipv6({0xfd, 0x00}, 2);
const MacAddress kOwnMac{2, 0, 0, 0, 0, 1}, kOtherMac{2, 0, 0, 0, 0, 2};
constexpr std::uint16_t kPort = 2000;

Octets datagram(const Address& from, const Address& to, std::size_t length, std::uint16_t port = kPort) {
  DatagramHeader header;
  header.source = from;
  header.destination = to;
  header.source_port = 1000;
  header.destination_port = port;
  Octets packet(udp_ip_size(to) + length, 7);
  write_udp_ip(packet.data() + udp_ip_size(to), length, header, ChecksumBy::kUs, ChecksumBy::kUs);
  return packet;
}

Octets frame_of(const Octets& ip, const MacAddress& to = kOwnMac, std::uint16_t vlan = 0) {
  Octets frame(32 + ip.size());
  std::copy(ip.begin(), ip.end(), frame.begin() + 32);
  EtherHeader header;
  header.destination = to;
  header.source = kOtherMac;
  header.type = !ip.empty() && ip[0] >> 4 == 6 ? kEtherIpv6 : kEtherIpv4;
  header.vlan = vlan;
  const std::size_t size = write_ether(frame.data() + 32, header);
  return {frame.end() - static_cast<long>(ip.size() + size), frame.end()};
}

Octets half_of(const Octets& packet, bool first) {  // an IPv4 datagram of 100 octets, cut at 64 of its payload
  const std::size_t begin = first ? 20 : 84, end = first ? 84 : packet.size();
  Octets piece(20 + end - begin);
  std::copy_n(packet.begin(), 20, piece.begin());
  std::copy(packet.begin() + static_cast<long>(begin), packet.begin() + static_cast<long>(end), piece.begin() + 20);
  store_be16(piece.data() + 2, static_cast<std::uint16_t>(piece.size()));
  store_be16(piece.data() + 6, first ? 0x2000 : 8);
  store_be16(piece.data() + 10, 0);
  store_be16(piece.data() + 10, internet_checksum(piece.data(), 20));
  return piece;
}

struct Replay {
  struct One {
    Octets frame;
    Drop reason;  // kNone: it becomes a packet, or a part of one
  };
  // How the frames ended, through a pcap device that replays them once.
  void run(const std::vector<One>& frames, std::uint16_t vlan) {
    const std::string path =
        std::filesystem::temp_directory_path() / ("wireplane-replay-" + std::to_string(::getpid()));
    std::ofstream file{path, std::ios::binary};
    const auto word = [&](std::uint32_t value) { file.write(reinterpret_cast<const char*>(&value), sizeof value); };
    for (const std::uint32_t value : std::to_array<std::uint32_t>({0xa1b2c3d4, 0x00040002, 0, 0, 65535, 1}))
      word(value);
    for (const One& one : frames) {
      for (const std::size_t value : {std::size_t{0}, std::size_t{0}, one.frame.size(), one.frame.size()})
        word(static_cast<std::uint32_t>(value));
      file.write(reinterpret_cast<const char*>(one.frame.data()), static_cast<std::streamsize>(one.frame.size()));
    }
    file.close();
    static int serial = 0;
    EthdevSetOptions options;
    options.buffers = 2048;
    options.outer.emplace();
    options.outer->device = "net_pcap" + std::to_string(serial++) + ",rx_pcap=" + path;
    options.outer->mac = kOwnMac;
    options.outer->addresses = {{kA4, 24}, {kA6, 64}};
    options.outer->listen_port = kPort;
    options.outer->vlan = vlan;
    auto set = open_ethdev(options);
    ASSERT_TRUE(set) << set.error().what;
    auto device = (*set)->take_outer();
    {
      BufferCache cache{(*set)->pool()};
      WorkerContext context{cache, counters};
      Burst burst;
      for (int i = 0; i < 20; ++i) {
        device->queue(0).receive(burst, context);
        packets += burst.size();
        for (Packet& packet : burst) context.release(packet);
        burst.clear();
      }
    }
    device.reset();
    EXPECT_EQ((*set)->pool().available(), (*set)->pool().capacity());
    std::filesystem::remove(path);
  }
  Counters counters;
  std::size_t packets = 0;
};

// Goal: every frame that comes in is a packet, a part of one, the port's own business, or refused under its reason:
// none is lost from the count. Method: a capture of one of each kind, without and with a VLAN.
TEST(EtherReplay, EveryFrameIsAPacketOrCounted) {
  if (!std::filesystem::exists(std::filesystem::read_symlink("/proc/self/exe").parent_path() / kEthdevModuleName))
    GTEST_SKIP() << "built without DPDK";
  for (const std::uint16_t vlan : std::to_array<std::uint16_t>({0, 100})) {
    const Octets v4 = datagram(kB4, kA4, 100), v6 = datagram(kB6, kA6, 100);
    const auto with = [&](Octets packet, std::size_t at, std::uint8_t value) {
      packet[at] = value;
      return packet;
    };
    const auto ours = [&](const Octets& packet) { return frame_of(packet, kOwnMac, vlan); };
    Octets no_sum = v6;
    store_be16(no_sum.data() + 46, 0);
    std::uint8_t arp[kNeighbourFrameSize];
    const std::size_t arp_size = write_neighbour_answer(
        arp, {.question = true, .target = kB4, .asker = kA4, .mac = kOwnMac}, kB4, kOtherMac, vlan);
    std::vector<Replay::One> frames = {
        {ours(v4), Drop::kNone},
        {ours(v6), Drop::kNone},
        {ours(half_of(v4, true)), Drop::kNone},
        {ours(half_of(v4, false)), Drop::kNone},  // together one packet
        {{arp, arp + arp_size}, Drop::kNone},     // the port's own business
        {frame_of(v4, kOtherMac, vlan), Drop::kOuterNotOurs},
        {frame_of(v4, kOwnMac, vlan + 1), Drop::kOuterNotOurs},
        {frame_of(v4, kOwnMac, vlan == 0 ? 7 : 0), Drop::kOuterNotOurs},
        {frame_of(v4, kBroadcastMac, vlan), Drop::kOuterNotOurs},
        {ours(datagram(kB4, kA4, 100, kPort + 1)), Drop::kOuterNotOurs},
        {ours(datagram(kB4, kB4, 100)), Drop::kOuterNotOurs},
        {ours(with(v4, 8, 1)), Drop::kOuterChecksum},    // TTL changed, header checksum not
        {ours(with(v6, 100, 0)), Drop::kOuterChecksum},  // payload changed
        {ours(no_sum), Drop::kOuterChecksum},
        {ours(with(v4, 0, 0x43)), Drop::kOuterMalformed},
        {ours(Octets{v4.begin(), v4.begin() + 60}), Drop::kOuterMalformed},
        {Octets(13, 2), Drop::kOuterMalformed},
        {ours(half_of(v4, true)), Drop::kNone},  // waits for its other half
        {ours(half_of(v4, true)), Drop::kOuterFragment},
    };
    Replay replay;
    replay.run(frames, vlan);
    std::map<Drop, std::uint64_t> expected;
    std::uint64_t refused = 0;
    for (const Replay::One& one : frames)
      if (one.reason != Drop::kNone) ++expected[one.reason], ++refused;
    for (const auto& [reason, count] : expected)
      EXPECT_EQ(replay.counters.drops[static_cast<std::size_t>(reason)].get(), count) << metric(reason);
    EXPECT_EQ(replay.packets, 3u);
    EXPECT_EQ(replay.counters.refused.get(), refused);
  }
}

}  // namespace
}  // namespace wireplane
