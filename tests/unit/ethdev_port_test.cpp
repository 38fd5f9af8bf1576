// The ethdev port: first the octets (no DPDK needed), then the module over DPDK's virtual devices.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <csignal>
#include <filesystem>
#include <random>

#include "dataplane/base/bytes.h"
#include "dataplane/wire/checksum.h"
#include "dataplane/wire/inner_ip.h"
#include "drivers/ethdev.h"
#include "drivers/ether.h"
#include "drivers/udp_ip.h"
#include "drivers/udp_port.h"
#include "tests/support/net_namespace.h"
#include "tests/support/test_worker.h"

namespace wireplane {
namespace {

const Address kA4 = ipv4(192, 0, 2, 1), kB4 = ipv4(192, 0, 2, 2);
const Address kA6 = ipv6({0xfd, 0x00}, 1), kB6 = ipv6({0xfd, 0x00}, 2);

DatagramHeader header_from_to(const Address& from, const Address& to) {
  DatagramHeader header;
  header.source = from;
  header.destination = to;
  header.source_port = 1000;
  header.destination_port = 2000;
  header.tos = 0x88;
  header.identification = 7;
  return header;
}

// An IP packet with a datagram of `length` octets inside.
std::vector<std::uint8_t> datagram(const DatagramHeader& header, std::size_t length, ChecksumBy udp = ChecksumBy::kUs) {
  const std::size_t headers = udp_ip_size(header.destination);
  std::vector<std::uint8_t> packet(headers + length);
  for (std::size_t i = 0; i < length; ++i) packet[headers + i] = static_cast<std::uint8_t>(i * 7);
  write_udp_ip(packet.data() + headers, length, header, ChecksumBy::kUs, udp);
  return packet;
}

Drop read(const std::vector<std::uint8_t>& packet, FoundDatagram& found, ChecksumsSeen seen = {}) {
  return read_udp_ip(packet.data(), packet.size(), seen, 0, found);
}
Drop read(const std::vector<std::uint8_t>& packet, ChecksumsSeen seen = {}) {
  FoundDatagram found;
  return read(packet, found, seen);
}

std::uint8_t* udp_of(std::vector<std::uint8_t>& packet) { return packet.data() + ip_header_length(packet.data()); }

// The UDP checksum made right again after a header field was changed.
void fix_udp_checksum(std::vector<std::uint8_t>& packet, std::size_t udp_length) {
  std::uint8_t* udp = udp_of(packet);
  store_be16(udp + 6, 0);
  ChecksumSum sum = pseudo_header(packet.data(), kProtocolUdp, udp_length);
  sum.add(udp, udp_length);
  store_be16(udp + 6, sum.finish());
}

const auto kPairs = std::to_array<std::pair<Address, Address>>({{kA4, kB4}, {kA6, kB6}});

// ---- the octets

// Goal: what we write we read, and every damaged bit of it is noticed. Method: all lengths to 200 and some large ones;
// for one of them every single bit flipped (IPv6 without its header, which has no checksum of its own but for
// addresses).
TEST(UdpIp, WritesWhatItReadsAndNoticesEveryFlippedBit) {
  for (const auto& [from, to] : kPairs) {
    std::vector<std::size_t> lengths(200);
    for (std::size_t i = 0; i < 200; ++i) lengths[i] = i;
    lengths.insert(lengths.end(), {1472, 1473, 8999, 65'507 - 20});
    for (const std::size_t length : lengths) {
      const auto packet = datagram(header_from_to(from, to), length);
      FoundDatagram found;
      ASSERT_EQ(read(packet, found), Drop::kNone) << length;
      EXPECT_EQ(found.length, length);
      EXPECT_EQ(found.payload, packet.data() + packet.size() - length);
      EXPECT_EQ(found.source, from);
      EXPECT_EQ(found.destination, to);
      EXPECT_EQ(found.source_port, 1000);
      EXPECT_EQ(found.destination_port, 2000);
      EXPECT_EQ(found.tos, 0x88);
    }
    const auto packet = datagram(header_from_to(from, to), 33);
    for (std::size_t bit = to.is_v4() ? 0 : 64; bit < packet.size() * 8; ++bit) {
      auto damaged = packet;
      damaged[bit / 8] = static_cast<std::uint8_t>(damaged[bit / 8] ^ 1u << bit % 8);
      EXPECT_NE(read(damaged), Drop::kNone) << "bit " << bit;
    }
  }
}

// Goal: the UDP length rules where IP carries more, and a lie is refused where it carries less.
// Method: Ethernet padding behind the IP packet; octets within IP behind UDP; a UDP length beyond IP's; one below 8.
// proves: P3
TEST(UdpIp, ShortUdpLengthTrimsAndLongUdpLengthDrops) {
  for (const auto& [from, to] : kPairs) {
    FoundDatagram found;
    auto padded = datagram(header_from_to(from, to), 4);
    padded.resize(padded.size() + 14, 0xee);  // as in a frame of 60 octets over IPv4: the tail is Ethernet's
    EXPECT_EQ(read(padded, found), Drop::kNone);
    EXPECT_EQ(found.length, 4u);

    auto shorter = datagram(header_from_to(from, to), 40);
    store_be16(udp_of(shorter) + 4, kUdpHeaderSize + 16);
    fix_udp_checksum(shorter, kUdpHeaderSize + 16);
    EXPECT_EQ(read(shorter, found), Drop::kNone);
    EXPECT_EQ(found.length, 16u);

    auto longer = datagram(header_from_to(from, to), 40);
    store_be16(udp_of(longer) + 4, kUdpHeaderSize + 41);
    EXPECT_EQ(read(longer, {.udp_good = true}), Drop::kOuterMalformed);
    store_be16(udp_of(longer) + 4, kUdpHeaderSize - 1);
    EXPECT_EQ(read(longer, {.udp_good = true}), Drop::kOuterMalformed);
  }
}

// Goal: a checksum of zero is "none" over IPv4 and an error over IPv6, whatever the device says.
// Method: datagrams whose field was zeroed; then wrong ones, with and without the device's word.
// proves: P4
TEST(UdpIp, ZeroChecksumIsAcceptedOverIpv4Only) {
  for (const auto& [from, to] : kPairs) {
    auto packet = datagram(header_from_to(from, to), 40);
    store_be16(udp_of(packet) + 6, 0);
    const Drop expected = to.is_v4() ? Drop::kNone : Drop::kOuterChecksum;
    EXPECT_EQ(read(packet), expected);
    EXPECT_EQ(read(packet, {.udp_good = true}), expected);
    store_be16(udp_of(packet) + 6, 0x1234);
    EXPECT_EQ(read(packet), Drop::kOuterChecksum);
    EXPECT_EQ(read(packet, {.udp_good = true}), Drop::kNone);
  }
}

// Goal: a computed zero is sent as 0xffff. Method: datagrams until one sums to zero.
TEST(UdpIp, NeverSendsAZeroChecksum) {
  for (const auto& [from, to] : kPairs) {
    bool met = false;
    for (std::uint32_t word = 0; word < 0x10000; ++word) {
      std::vector<std::uint8_t> packet(udp_ip_size(to) + 2);
      store_be16(packet.data() + packet.size() - 2, static_cast<std::uint16_t>(word));
      write_udp_ip(packet.data() + packet.size() - 2, 2, header_from_to(from, to), ChecksumBy::kUs, ChecksumBy::kUs);
      ASSERT_NE(load_be16(udp_of(packet) + 6), 0);
      if (load_be16(udp_of(packet) + 6) != 0xffff) continue;
      met = true;
      EXPECT_EQ(read(packet), Drop::kNone);
    }
    EXPECT_TRUE(met);
  }
}

// Goal: fragments are told from datagrams, first and later ones; other protocols and ports are not ours.
TEST(UdpIp, FragmentsAndStrangersAreToldApart) {
  auto v4 = datagram(header_from_to(kA4, kB4), 40);
  for (const std::uint16_t flags : std::to_array<std::uint16_t>({0x2000, 0x0001, 0x3fff})) {
    auto fragment = v4;
    store_be16(fragment.data() + 6, flags);
    store_be16(fragment.data() + 10, 0);
    store_be16(fragment.data() + 10, internet_checksum(fragment.data(), 20));
    EXPECT_EQ(read(fragment), Drop::kOuterFragment);
  }
  auto tcp = v4;
  tcp[9] = kProtocolTcp;
  EXPECT_EQ(read(tcp, {.ip_good = true}), Drop::kOuterNotOurs);
  FoundDatagram found;
  store_be16(udp_of(v4) + 6, 0x1234);  // wrong, but not looked at
  EXPECT_EQ(read_udp_ip(v4.data(), v4.size(), {}, 2001, found), Drop::kOuterNotOurs);
  EXPECT_EQ(read_udp_ip(v4.data(), v4.size(), {}, 2000, found), Drop::kOuterChecksum);

  // IPv6: a destination options header is stepped over, a fragment header is not.
  const auto plain = datagram(header_from_to(kA6, kB6), 40);
  std::vector<std::uint8_t> extended{plain.begin(), plain.begin() + 40};
  extended[6] = 60;
  const std::vector<std::uint8_t> options{17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  extended.insert(extended.end(), options.begin(), options.end());
  extended.insert(extended.end(), plain.begin() + 40, plain.end());
  store_be16(extended.data() + 4, static_cast<std::uint16_t>(extended.size() - 40));
  EXPECT_EQ(read(extended, found), Drop::kNone);
  EXPECT_EQ(found.length, 40u);
  extended[40] = 44;  // next: a fragment header, whose next is UDP
  extended[56] = 17;
  EXPECT_EQ(read(extended), Drop::kOuterFragment);
}

// Goal: a checksum that a local sender left to a device is taken, and completed before it leaves the machine.
TEST(UdpIp, UnfinishedChecksumsOfLocalSenders) {
  for (const auto& [from, to] : kPairs) {
    auto packet = datagram(header_from_to(from, to), 41, ChecksumBy::kDevice);
    EXPECT_EQ(read(packet), Drop::kOuterChecksum);
    EXPECT_EQ(read(packet, {.local_sender = true}), Drop::kNone);
    complete_checksum(packet.data(), packet.size());
    EXPECT_EQ(packet, datagram(header_from_to(from, to), 41));
    const auto before = packet;
    complete_checksum(packet.data(), packet.size());
    EXPECT_EQ(packet, before);
  }
}

// Goal: no octets whatever harm the parsers. Method: random damage and cuts of valid packets; sanitizers watch the
// bounds.
TEST(UdpIp, SurvivesGarbage) {
  std::mt19937 random{7};
  for (int round = 0; round < 20'000; ++round) {
    const auto& [from, to] = kPairs[round % 2];
    auto packet = datagram(header_from_to(from, to), random() % 64);
    for (unsigned long i = random() % 6; i > 0; --i)
      packet[random() % packet.size()] = static_cast<std::uint8_t>(random());
    const std::vector<std::uint8_t> cut{packet.begin(),
                                        packet.begin() + static_cast<long>(random() % (packet.size() + 1))};
    FoundDatagram found;
    if (read_udp_ip(cut.data(), cut.size(), {.ip_good = true, .udp_good = true}, 0, found) == Drop::kNone) {
      EXPECT_GE(found.payload, cut.data());
      EXPECT_LE(found.payload + found.length, cut.data() + cut.size());
    }
    EXPECT_LE(ip_length(cut.data(), cut.size()), cut.size());
    NeighbourMessage message;
    static_cast<void>(read_arp(cut.data(), cut.size(), message));
    if (!cut.empty()) packet[6] = kProtocolIcmpv6;
    static_cast<void>(read_neighbour_discovery(cut.data(), cut.size(), message));
    EtherHeader ether;
    static_cast<void>(read_ether(cut.data(), cut.size(), ether));
  }
}

const MacAddress kOwnMac{2, 0, 0, 0, 0, 1}, kOtherMac{2, 0, 0, 0, 0, 2};

// Goal: frames with and without a VLAN tag are written as they are read.
TEST(Ether, HeadersWithAndWithoutVlan) {
  std::vector<std::uint8_t> frame(64);
  for (const std::uint16_t vlan : std::to_array<std::uint16_t>({0, 100})) {
    EtherHeader out, in;
    out.destination = kOtherMac;
    out.source = kOwnMac;
    out.type = kEtherIpv6;
    out.vlan = vlan;
    const std::size_t size = write_ether(frame.data() + 20, out);
    EXPECT_EQ(size, vlan == 0 ? 14u : 18u);
    ASSERT_EQ(read_ether(frame.data() + 20 - size, size, in), Drop::kNone);
    EXPECT_EQ(in.destination, kOtherMac);
    EXPECT_EQ(in.source, kOwnMac);
    EXPECT_EQ(in.type, kEtherIpv6);
    EXPECT_EQ(in.vlan, vlan);
    EXPECT_EQ(in.size, size);
    EXPECT_EQ(read_ether(frame.data() + 20 - size, size - 1, in), Drop::kOuterMalformed);
  }
}

// Goal: a question and its answer, in both families, go to whom they must and say what they must.
TEST(Ether, NeighbourQuestionsAndAnswers) {
  for (const auto& [asker, target] : kPairs) {
    std::uint8_t frame[kNeighbourFrameSize];
    EtherHeader ether;
    NeighbourMessage question, answer;
    const auto read_message = [&](std::size_t size, NeighbourMessage& message) {
      EXPECT_GE(size, kMinFrameSize);
      EXPECT_EQ(read_ether(frame, size, ether), Drop::kNone);
      return ether.type == kEtherArp ? read_arp(frame + ether.size, size - ether.size, message)
                                     : read_neighbour_discovery(frame + ether.size, size - ether.size, message);
    };
    ASSERT_EQ(read_message(write_neighbour_question(frame, target, asker, kOwnMac, 0), question), Drop::kNone);
    EXPECT_TRUE(is_group(ether.destination));
    EXPECT_TRUE(question.question);
    EXPECT_EQ(question.target, target);
    EXPECT_EQ(question.asker, asker);
    EXPECT_EQ(question.mac, kOwnMac);
    ASSERT_EQ(read_message(write_neighbour_answer(frame, question, target, kOtherMac, 5), answer), Drop::kNone);
    EXPECT_EQ(ether.destination, kOwnMac);
    EXPECT_EQ(ether.vlan, 5);
    EXPECT_FALSE(answer.question);
    EXPECT_EQ(answer.target, target);
    EXPECT_EQ(answer.mac, kOtherMac);
  }
}

// ---- the module, over DPDK's virtual devices

EthdevSetOptions small_set() {
  EthdevSetOptions options;
  options.buffers = 2048;
  return options;
}

std::unique_ptr<EthdevSet> open_set_or_fail(const EthdevSetOptions& options) {
  auto set = open_ethdev(options);
  if (!set) ADD_FAILURE() << set.error().what;
  return set ? std::move(*set) : nullptr;
}

#define WG_MODULE_OR_SKIP()                                                                                        \
  if (!std::filesystem::exists(std::filesystem::read_symlink("/proc/self/exe").parent_path() / kEthdevModuleName)) \
  GTEST_SKIP() << "built without DPDK"

// A worker whose buffers come from DPDK's memory.
struct DpdkWorker {
  explicit DpdkWorker(BufferPool& pool) : cache{pool} {}
  ~DpdkWorker() { clear(); }
  BufferCache cache;
  Counters counters;
  WorkerContext context{cache, counters};
  Burst burst;

  void put(std::span<const std::uint8_t> octets, const Endpoint* to, std::uint8_t tos = 0) {
    Packet packet;
    ASSERT_TRUE(context.make(packet, octets.size()));
    std::copy(octets.begin(), octets.end(), packet.data);
    packet.to = to;
    packet.tos = tos;
    burst.add(packet);
  }
  void clear() {
    for (Packet& packet : burst) context.release(packet);
    burst.clear();
  }
  std::size_t receive(Port& port, EthdevSet* set = nullptr, std::size_t count = 1, int tries = 2000) {
    for (int i = 0; i < tries && burst.size() < count; ++i) {
      port.receive(burst, context);
      if (set != nullptr)
        static_cast<void>(set->poll(Instant{Duration{std::chrono::steady_clock::now().time_since_epoch()}}));
      if (burst.size() < count) ::usleep(1000);
    }
    return burst.size();
  }
  [[nodiscard]] std::uint64_t drops(Drop reason) const {
    return counters.drops[static_cast<std::size_t>(reason)].get();
  }
};

// Goal: an outer datagram goes round DPDK's ring device and comes back whole, in place, over both families.
// Method: the device sends to itself; then what must not pass: too large, nowhere, another port, a fragment of a
// buffer.
TEST(EthdevPort, CarriesDatagramsOverARingDevice) {
  WG_MODULE_OR_SKIP();
  EthdevSetOptions options = small_set();
  options.outer.emplace();
  options.outer->device = "net_ring0";
  options.outer->addresses = {{kA4, 24}, {kA6, 64}};
  options.outer->listen_port = 2000;
  options.outer->mac = kOwnMac;
  options.outer->gateway_mac = kOwnMac;
  options.outer->gateway_v4 = kB4;
  options.outer->gateway_v6 = kB6;
  auto set = open_set_or_fail(options);
  ASSERT_TRUE(set);
  auto device = set->take_outer();
  EXPECT_EQ(device->listen_port(), 2000);
  {
    DpdkWorker w{set->pool()};
    const std::vector<std::uint8_t> octets{1, 2, 3, 4, 5};
    const Endpoint far4 = endpoint_of(ipv4(198, 51, 100, 1), 2000), far6 = endpoint_of(ipv6({0x20, 0x01}, 1), 2000);
    w.put(octets, &far4);
    EXPECT_EQ(device->queue(0).send(w.burst, w.context), 1u);
    w.receive(device->queue(0), nullptr, 1, 5);  // for another host: left
    EXPECT_EQ(w.burst.size(), 0u);
    EXPECT_EQ(w.drops(Drop::kOuterNotOurs), 1u);
    w.put(std::vector<std::uint8_t>(1501 - 28), &far4);
    w.put(std::vector<std::uint8_t>(1501 - 48), &far6);
    Endpoint nobody;
    w.put(octets, &nobody);
    EXPECT_EQ(device->queue(0).send(w.burst, w.context), 0u);
    EXPECT_EQ(w.drops(Drop::kOuterMessageSize), 2u);
    EXPECT_EQ(w.drops(Drop::kNoEndpoint), 1u);
    // To itself: it asks the link who it is, answers, and then hears itself, in the very buffers that were sent.
    const auto own = std::to_array<Endpoint>({endpoint_of(kA4, 2000), endpoint_of(kA6, 2000)});
    for (const Endpoint& to : own) {
      w.clear();
      for (int i = 0; i < 50 && w.burst.empty(); ++i) {
        w.put(octets, &to, 0x03);
        static_cast<void>(device->queue(0).send(w.burst, w.context));
        w.receive(device->queue(0), set.get(), 1, 3);
      }
      ASSERT_FALSE(w.burst.empty()) << address_text(to.remote);
      EXPECT_TRUE(std::ranges::equal(w.burst[0].octets(), octets));
      EXPECT_EQ(w.burst[0].from.remote, to.remote);
      EXPECT_EQ(w.burst[0].from.local, to.remote);
      EXPECT_EQ(w.burst[0].tos, 0x03);
      EXPECT_EQ(w.burst[0].buffer->pool, &set->pool());
    }
    EXPECT_EQ(w.drops(Drop::kOuterChecksum), 0u);
    // A buffer that others still hold is copied, not given away.
    w.clear();
    w.put(octets, &own[0]);
    Packet held = w.burst[0];
    held.buffer->references.fetch_add(1);
    EXPECT_EQ(device->queue(0).send(w.burst, w.context), 1u);
    ASSERT_EQ(w.receive(device->queue(0)), 1u);
    EXPECT_NE(w.burst[0].buffer, held.buffer);
    EXPECT_TRUE(std::ranges::equal(w.burst[0].octets(), octets));
    w.context.release(held);
    w.clear();
    EXPECT_NE(device->describe().find("net_ring0"), std::string::npos);
    ASSERT_TRUE(device->set_listen_port(0));
    EXPECT_GE(device->listen_port(), 49152);
  }
  device.reset();
  EXPECT_EQ(set->pool().available(), set->pool().capacity());
}

// Goal: an inner device carries IP packets, without Ethernet's padding, and answers for its own addresses.
// Method: the ring device again; IPv4 and IPv6 packets to a far host by a gateway that is the device itself.
TEST(EthdevPort, CarriesInnerPacketsOverARingDevice) {
  WG_MODULE_OR_SKIP();
  EthdevSetOptions options = small_set();
  options.inner.emplace();
  options.inner->device = "net_ring2";
  options.inner->mac = kOwnMac;
  options.inner->addresses = {{kA4, 24}, {kA6, 64}};
  options.inner->gateway_mac = kOwnMac;
  auto set = open_set_or_fail(options);
  ASSERT_TRUE(set);
  auto device = set->take_inner();
  {
    DpdkWorker w{set->pool()};
    for (const Address& far : {ipv4(198, 51, 100, 1), ipv6({0x20, 0x01}, 1)}) {
      const auto packet = datagram(header_from_to(far.is_v4() ? kA4 : kA6, far), 3);
      w.put(packet, nullptr);
      EXPECT_EQ(device->queue(0).send(w.burst, w.context), 1u);
      ASSERT_EQ(w.receive(device->queue(0)), 1u);
      EXPECT_TRUE(std::ranges::equal(w.burst[0].octets(), packet));
      EXPECT_EQ(w.burst[0].origin, Origin::kHost);
      w.clear();
    }
    const auto near = datagram(header_from_to(kA4, kB4), 3), large = datagram(header_from_to(kA4, kB4), 1473);
    w.put(near, nullptr);  // on the link: asked for first
    w.put(large, nullptr);
    w.put(std::vector<std::uint8_t>{1, 2, 3}, nullptr);
    EXPECT_EQ(device->queue(0).send(w.burst, w.context), 0u);
    EXPECT_EQ(device->queue(0).waiting(), 1u);  // not dropped: it waits for the answer
    EXPECT_EQ(w.drops(Drop::kTooBig), 1u);
    EXPECT_EQ(w.drops(Drop::kInnerMalformed), 1u);
  }
  device.reset();
  EXPECT_EQ(set->pool().available(), set->pool().capacity());
}

// Not a test: what one core carries through a queue and back, for drivers/README.md.
TEST(EthdevPort, DISABLED_Speed) {
  EthdevSetOptions options = small_set();
  options.outer.emplace();
  options.outer->device = "net_ring3";
  options.outer->mac = kOwnMac;
  options.outer->addresses = {{kA4, 24}};
  options.outer->listen_port = 2000;
  auto set = open_set_or_fail(options);
  ASSERT_TRUE(set);
  auto device = set->take_outer();
  {
    DpdkWorker w{set->pool()};
    const Endpoint to = endpoint_of(kA4, 2000);
    for (int i = 0; i < 50 && w.burst.empty(); ++i) {
      w.put(std::vector<std::uint8_t>{1}, &to);
      static_cast<void>(device->queue(0).send(w.burst, w.context));
      w.receive(device->queue(0), set.get(), 1, 3);
    }
    w.clear();
    for (const std::size_t length : {std::size_t{96}, std::size_t{1452}}) {
      const double rate = packets_per_second(w, device->queue(0), device->queue(0), length, &to);
      std::printf("ethdev (net_ring, checksums by us) %4zu octets: %.2f Mpps, %.0f ns a packet, out and in\n", length,
                  rate / 1e6, 1e9 / rate);
    }
  }
  device.reset();
}

// Goal: mistakes are answered in words. Method: no such device, too many queues, no such interface.
TEST(EthdevPort, RefusesSenselessOptions) {
  WG_MODULE_OR_SKIP();
  EthdevSetOptions options = small_set();
  options.outer.emplace();
  options.outer->device = "net_nonsense0";
  auto refused = open_ethdev(options);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().what.find("net_nonsense0"), std::string::npos) << refused.error().what;
  options.outer->device = "net_ring1";
  options.outer->queues = 1000;
  refused = open_ethdev(options);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().what.find("1000"), std::string::npos) << refused.error().what;
  options.outer->queues = 1;
  options.outer->kernel_interface = "nonsense0";
  refused = open_ethdev(options);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().what.find("nonsense0"), std::string::npos) << refused.error().what;
}

// A veth pair between two namespaces: `left` has va (the device's), `right` vb (a kernel host's).
struct Veth {
  Veth() {
    if (!left || !right) return;
    left.enter();
    ok = NetNamespace::run("ip link add va type veth peer name vb netns /proc/" + std::to_string(::getpid()) + "/fd/" +
                           std::to_string(right.fd()) + " && sysctl -qw net.ipv6.conf.va.accept_dad=0" +
                           " && ip addr add 192.0.2.1/24 dev va && ip addr add fd00::1/64 dev va && ip link set va up");
    right.enter();
    ok = ok && NetNamespace::run(
                   "sysctl -qw net.ipv6.conf.vb.accept_dad=0 && ip addr add 192.0.2.2/24 dev vb && "
                   "ip addr add fd00::2/64 dev vb && ip addr add 198.51.100.2/32 dev lo && "
                   "ip link set vb up");
    left.enter();
    ok = ok && NetNamespace::run("ip route add 198.51.100.0/24 via 192.0.2.2");
  }
  ~Veth() { left.leave(); }
  NetNamespace left, right;
  bool ok = false;
};

constexpr const char* kAfPacket = "net_af_packet0,iface=va,blocksz=1048576,framesz=2048,framecnt=512";

// Goal: on an interface shared with the kernel, datagrams go both ways with a peer on the kernel's sockets, next hops
// come from the kernel's tables, and the kernel keeps what is not ours. Method: af_packet over veth; the peer is a
// UdpDevice in another namespace, whose veth leaves UDP checksums unfinished, as all of them do.
TEST(EthdevPort, SharesAVethWithTheKernel) {
  WG_MODULE_OR_SKIP();
  Veth veth;
  if (!veth.left) GTEST_SKIP() << veth.left.why_not();
  ASSERT_TRUE(veth.ok);
  EthdevSetOptions options = small_set();
  options.outer.emplace();
  options.outer->device = kAfPacket;
  options.outer->listen_port = 51820;
  auto set = open_set_or_fail(options);
  ASSERT_TRUE(set);
  auto device = set->take_outer();
  EXPECT_NE(device->describe().find("kernel's va"), std::string::npos) << device->describe();
  {
    TestWorker wp;
    veth.right.enter();
    auto peer = UdpDevice::open({.listen_port = 7000});  // before wp's pool goes, it must be gone
    ASSERT_TRUE(peer);
    veth.left.enter();
    DpdkWorker w{set->pool()};
    // Outwards: to a neighbour in either family, and over a gateway. The first may be lost while the kernel asks.
    const auto targets = std::to_array<Endpoint>(
        {endpoint_of(kB4, 7000), endpoint_of(kB6, 7000), endpoint_of(ipv4(198, 51, 100, 2), 7000)});
    for (const Endpoint& to : targets) {
      wp.clear();
      for (int i = 0; i < 100 && wp.burst.empty(); ++i) {
        w.put(std::vector<std::uint8_t>{9, 8, 7}, &to, 0x88);
        static_cast<void>(device->queue(0).send(w.burst, w.context));
        static_cast<void>(set->poll(Instant{Duration{std::chrono::steady_clock::now().time_since_epoch()}}));
        ::usleep(20'000);
        (*peer)->queue(0).receive(wp.burst, wp.context);
      }
      ASSERT_FALSE(wp.burst.empty()) << address_text(to.remote);
      EXPECT_EQ(wp.burst[0].from.remote, to.remote.is_v4() ? kA4 : kA6);
      EXPECT_EQ(wp.burst[0].from.port, 51820);
      EXPECT_EQ(wp.burst[0].tos, 0x88);
      EXPECT_EQ(wp.burst[0].length, 3u);
    }
    // Inwards, in both families.
    wp.clear();
    const Endpoint to4 = endpoint_of(kA4, 51820), to6 = endpoint_of(kA6, 51820);
    wp.put("from the kernel", &to4, 0x02);
    wp.put("from the kernel", &to6, 0x02);
    EXPECT_EQ((*peer)->queue(0).send(wp.burst, wp.context), 2u);
    ASSERT_EQ(w.receive(device->queue(0), set.get(), 2), 2u);
    for (Packet& packet : w.burst) {
      EXPECT_EQ(packet.from.remote, packet.from.remote.is_v4() ? kB4 : kB6);
      EXPECT_EQ(packet.from.local, packet.from.remote.is_v4() ? kA4 : kA6);
      EXPECT_EQ(packet.from.port, 7000);
      EXPECT_EQ(packet.from.interface, ::if_nametoindex("va"));
      EXPECT_EQ(packet.tos, 0x02);
      EXPECT_EQ(packet.length, 15u);
      EXPECT_GE(packet.headroom(), 96u);
      EXPECT_GE(packet.tailroom(), 31u);
    }
    EXPECT_EQ(w.drops(Drop::kOuterChecksum), 0u);
    w.clear();
    // The kernel still answers pings on the interface, and has not told the peer that our port is closed.
    veth.right.enter();
    EXPECT_TRUE(NetNamespace::run("ping -c 1 -W 2 192.0.2.1"));
    EXPECT_FALSE(NetNamespace::run("nstat -asz IcmpInDestUnreachs | grep -q 'IcmpInDestUnreachs *[1-9]'"));
    veth.left.enter();
    // No way there.
    const Endpoint nowhere = endpoint_of(ipv4(203, 0, 113, 9), 1);
    w.put(std::vector<std::uint8_t>{1}, &nowhere);
    const std::uint64_t before = w.drops(Drop::kOuterUnreachable);
    EXPECT_EQ(device->queue(0).send(w.burst, w.context), 0u);
    EXPECT_EQ(w.drops(Drop::kOuterUnreachable), before + 1);
    // The port is held in the kernel, too, and moves along.
    EXPECT_FALSE(UdpDevice::open({.listen_port = 51820}));
    ASSERT_TRUE(device->set_listen_port(51821));
    EXPECT_TRUE(UdpDevice::open({.listen_port = 51820}));
    const Status taken = device->set_listen_port(51821);
    EXPECT_TRUE(taken);
  }
  device.reset();
}

// Goal: the first datagram to a neighbour that nobody knows yet is not lost: it waits for the answer, and is counted as
// sent when it leaves. One whose neighbour never answers is dropped after a while, counted.
// Method: af_packet over veth; one datagram each, never sent again; control's clock runs ahead of the world's.
TEST(EthdevPort, TheFirstDatagramWaitsForItsNeighbour) {
  WG_MODULE_OR_SKIP();
  Veth veth;
  if (!veth.left) GTEST_SKIP() << veth.left.why_not();
  ASSERT_TRUE(veth.ok);
  EthdevSetOptions options = small_set();
  options.outer.emplace();
  options.outer->device = kAfPacket;
  options.outer->listen_port = 51820;
  auto set = open_set_or_fail(options);
  ASSERT_TRUE(set);
  auto device = set->take_outer();
  {
    TestWorker wp;
    veth.right.enter();
    auto peer = UdpDevice::open({.listen_port = 7000});
    ASSERT_TRUE(peer);
    veth.left.enter();
    DpdkWorker w{set->pool()};
    Port& port = device->queue(0);
    Duration ahead{};
    const auto turn = [&] {
      const Duration now{std::chrono::steady_clock::now().time_since_epoch()};
      static_cast<void>(set->poll(Instant{now + ahead}));
      port.receive(w.burst, w.context);
      w.clear();
    };
    turn();
    const auto targets = std::to_array<Endpoint>(
        {endpoint_of(kB4, 7000), endpoint_of(kB6, 7000), endpoint_of(ipv4(198, 51, 100, 2), 7000)});
    for (const Endpoint& to : targets) w.put(std::vector<std::uint8_t>{9, 8, 7}, &to);
    const std::size_t at_once = port.send(w.burst, w.context);
    EXPECT_EQ(port.waiting() + at_once, targets.size());
    for (int i = 0; i < 300 && wp.burst.size() < targets.size(); ++i) {
      turn();
      ::usleep(10'000);
      (*peer)->queue(0).receive(wp.burst, wp.context);
    }
    EXPECT_EQ(wp.burst.size(), targets.size());
    EXPECT_EQ(port.waiting(), 0u);
    EXPECT_EQ(w.counters.outer_out.get() + at_once, targets.size());
    EXPECT_EQ(w.drops(Drop::kOuterUnreachable), 0u);

    const Endpoint silent = endpoint_of(ipv4(192, 0, 2, 77), 7000);
    w.put(std::vector<std::uint8_t>{1}, &silent);
    EXPECT_EQ(port.send(w.burst, w.context), 0u);
    EXPECT_EQ(port.waiting(), 1u);
    ahead = 2s;
    turn();
    EXPECT_EQ(port.waiting(), 1u);
    ahead = 4s;
    turn();
    turn();
    EXPECT_EQ(port.waiting(), 0u);
    EXPECT_EQ(w.drops(Drop::kOuterUnreachable), 1u);
  }
  device.reset();
}

// ---- memif: two processes, one the child of the other

constexpr const char* kMemifEnvironment = "WIREPLANE_TEST_MEMIF";

EthdevSetOptions memif_set(const std::string& socket, const char* role, const Address& own4, const Address& own6) {
  EthdevSetOptions options = small_set();
  options.outer.emplace();
  options.outer->device = std::string{"net_memif0,role="} + role + ",id=0,socket=" + socket + ",socket-abstract=no";
  options.outer->addresses = {{own4, 24}, {own6, 64}};
  options.outer->listen_port = 51820;
  return options;
}

// The other end; not a test of its own: run by the next one in a process of its own, ended by a signal.
TEST(EthdevPort, DISABLED_MemifEcho) {
  const char* socket = std::getenv(kMemifEnvironment);
  ASSERT_NE(socket, nullptr);
  auto set = open_set_or_fail(memif_set(socket, "server", kB4, kB6));
  ASSERT_TRUE(set);
  auto device = set->take_outer();
  DpdkWorker w{set->pool()};
  for (int i = 0; i < 20'000; ++i) {
    if (w.receive(device->queue(0), set.get(), 1, 1) == 0) continue;
    std::vector<Endpoint> back;
    for (Packet& packet : w.burst) back.push_back(packet.from);
    for (std::size_t k = 0; k < back.size(); ++k) w.burst[k].to = &back[k];
    static_cast<void>(device->queue(0).send(w.burst, w.context));
  }
}

// One of the disabled tests above and below, in a process of its own, as a memif's server at `socket`; when that is
// there.
pid_t other_end(const std::string& test, const std::string& socket) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::setenv(kMemifEnvironment, socket.c_str(), 1);
    ::execl("/proc/self/exe", "ethdev_port_test", "--gtest_also_run_disabled_tests",
            ("--gtest_filter=*." + test).c_str(), "--gtest_brief=1", nullptr);
    ::_exit(1);
  }
  for (int i = 0; i < 1000 && !std::filesystem::exists(socket); ++i) ::usleep(10'000);  // a client needs its server
  ::usleep(100'000);
  return child;
}

// Goal: two engines talk over shared memory, find each other by ARP and neighbour discovery, in both families, and no
// buffer is lost. Method: an echo in a second process; datagrams out and back until enough have returned.
TEST(EthdevPort, TalksToAnotherProcessOverMemif) {
  WG_MODULE_OR_SKIP();
  const std::string socket = std::filesystem::temp_directory_path() / ("wireplane-memif-" + std::to_string(::getpid()));
  const pid_t child = other_end("DISABLED_MemifEcho", socket);
  ASSERT_GT(child, 0);
  auto set = open_set_or_fail(memif_set(socket, "client", kA4, kA6));
  ASSERT_TRUE(set);
  auto device = set->take_outer();
  {
    DpdkWorker w{set->pool()};
    const auto targets = std::to_array<Endpoint>({endpoint_of(kB4, 51820), endpoint_of(kB6, 51820)});
    for (const Endpoint& to : targets) {
      std::size_t returned = 0;
      for (int i = 0; i < 1000 && returned < 500; ++i) {
        for (std::size_t k = 0; k < 32; ++k)
          w.put(std::vector<std::uint8_t>(40 + k, static_cast<std::uint8_t>(k)), &to);
        const bool sent = device->queue(0).send(w.burst, w.context) > 0;
        w.receive(device->queue(0), set.get(), 1, sent ? 20 : 5);
        for (Packet& packet : w.burst) {
          ASSERT_EQ(packet.from.remote, to.remote);
          ASSERT_EQ(packet.from.port, 51820);
          ASSERT_GE(packet.length, 40u);
          ASSERT_EQ(packet.data[packet.length - 1], packet.length - 40);
          ++returned;
        }
        w.clear();
      }
      EXPECT_GE(returned, 500u) << address_text(to.remote);
    }
    // While the link came up and the other end was asked for, datagrams went nowhere, and were counted.
    EXPECT_GT(w.drops(Drop::kOuterUnreachable), 0u);
    w.receive(device->queue(0), set.get(), kBurst, 20);
  }
  device.reset();
  ::kill(child, SIGTERM);
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(set->pool().available(), set->pool().capacity());
  std::filesystem::remove(socket);
}

// The other end of the next one: datagrams of 3000 octets in one buffer each, and of 100.
TEST(EthdevPort, DISABLED_MemifLargeFrames) {
  const char* socket = std::getenv(kMemifEnvironment);
  ASSERT_NE(socket, nullptr);
  EthdevSetOptions options = memif_set(socket, "server", kB4, kB6);
  options.data_room = 9216;
  options.outer->mtu = 9000;
  auto set = open_set_or_fail(options);
  ASSERT_TRUE(set);
  auto device = set->take_outer();
  DpdkWorker w{set->pool()};
  const Endpoint to = endpoint_of(kA4, 51820);
  for (int i = 0; i < 20'000; ++i) {
    for (const std::size_t size : {3000, 100}) w.put(std::vector<std::uint8_t>(size, 7), &to);
    static_cast<void>(device->queue(0).send(w.burst, w.context));
    w.receive(device->queue(0), set.get(), 1, 1);
    w.clear();
  }
}

// Goal: a frame that fills several buffers (which a device may deliver as a chain) is refused and counted, whole: no
// part of it passes for a packet, no buffer of its chain is lost, and what comes behind it is taken.
// Method: the other end of a memif has larger buffers than ours, and sends frames that need two of ours.
TEST(EthdevPort, FramesInSeveralBuffersAreRefusedWhole) {
  WG_MODULE_OR_SKIP();
  const std::string socket =
      std::filesystem::temp_directory_path() / ("wireplane-memif-l" + std::to_string(::getpid()));
  const pid_t child = other_end("DISABLED_MemifLargeFrames", socket);
  ASSERT_GT(child, 0);
  auto set = open_set_or_fail(memif_set(socket, "client", kA4, kA6));
  ASSERT_TRUE(set);
  auto device = set->take_outer();
  {
    DpdkWorker w{set->pool()};
    std::size_t small = 0;
    for (int i = 0; i < 5000 && (w.drops(Drop::kTruncated) < 1000 || small < 100); ++i) {
      w.receive(device->queue(0), set.get(), 1, 2);
      for (const Packet& packet : w.burst) {
        ASSERT_EQ(packet.length, 100u);
        ++small;
      }
      w.clear();
    }
    EXPECT_GE(w.drops(Drop::kTruncated), 1000u);
    EXPECT_GE(small, 100u);
    EXPECT_EQ(w.drops(Drop::kOuterChecksum), 0u);
  }
  device.reset();
  ::kill(child, SIGTERM);
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(set->pool().available(), set->pool().capacity());
  std::filesystem::remove(socket);
}

}  // namespace
}  // namespace wireplane
