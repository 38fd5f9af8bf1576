// Trains: datagrams that pass the kernel as one (UDP_SEGMENT, UDP_GRO). Loopback carries them whole.
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <random>

#include "drivers/train_buffers.h"
#include "drivers/udp_message.h"
#include "drivers/udp_port.h"
#include "tests/support/net_namespace.h"
#include "tests/support/test_worker.h"

namespace wireplane {
namespace {

const Address kLoopback4 = ipv4(127, 0, 0, 1);
const Address kLoopback6 = ipv6({}, 1);

std::unique_ptr<UdpDevice> open_or_fail(const UdpOptions& options = {}) {
  auto device = UdpDevice::open(options);
  if (!device) ADD_FAILURE() << device.error().what;
  return device ? std::move(*device) : nullptr;
}

std::vector<std::uint8_t> octets_of(std::uint32_t number,
                                    std::size_t length) {  // its own number, and then what follows
  std::vector<std::uint8_t> octets(std::max<std::size_t>(length, 4));
  for (std::size_t i = 0; i < 4; ++i) octets[i] = static_cast<std::uint8_t>(number >> 8 * i);
  for (std::size_t i = 4; i < octets.size(); ++i) octets[i] = static_cast<std::uint8_t>(number * 31 + i);
  return octets;
}
std::uint32_t number_of(const Packet& packet) {
  return packet.data[0] | packet.data[1] << 8 | packet.data[2] << 16 | static_cast<std::uint32_t>(packet.data[3]) << 24;
}

// Reads all that arrives until `count` are there or nothing comes for 200 ms.
template <class Each>
std::size_t read_all(TestWorker& w, Port& port, std::size_t count, Each each) {
  std::size_t got = 0;
  auto last = std::chrono::steady_clock::now();
  while (got < count && std::chrono::steady_clock::now() - last < std::chrono::milliseconds{200}) {
    port.receive(w.burst, w.context);
    EXPECT_LE(w.burst.size(), kReceiveBurst);
    if (!w.burst.empty()) last = std::chrono::steady_clock::now();
    got += w.burst.size();
    for (Packet& packet : w.burst) each(packet);
    w.clear();
  }
  return got;
}

// Sends full bursts of equal datagrams until the receiver has asked for trains.
void make_it_ask(TestWorker& wa, Port& a, TestWorker& wb, UdpDevice& b, const Endpoint& to, std::size_t length) {
  for (int round = 0; round < 50 && b.trains().received == 0; ++round) {
    for (std::size_t i = 0; i < kReceiveBurst; ++i) wa.put(octets_of(0, length), &to);
    EXPECT_EQ(a.send(wa.burst, wa.context), kReceiveBurst);
    EXPECT_EQ(read_all(wb, b.queue(0), kReceiveBurst, [](Packet&) {}), kReceiveBurst);
  }
  ASSERT_NE(b.trains().received, 0u) << "no trains on loopback";
}

// Goal: with trains everything arrives as without: octets, order, source, own address, interface, DS field, headroom,
// tailroom; and nothing is copied while lengths stay as they are.
// Method: over both families, full bursts of one length, then of changing lengths with shorter ones between.
TEST(UdpTrains, CarryWhatSingleDatagramsWouldInOrder) {
  WG_OWN_NETWORK_OR_SKIP(net);
  for (const Address& address : {kLoopback4, kLoopback6}) {
    TestWorker wa, wb;
    auto a = open_or_fail(), b = open_or_fail();
    ASSERT_TRUE(a && b);
    const Endpoint to = endpoint_of(address, b->listen_port());
    make_it_ask(wa, a->queue(0), wb, *b, to, 1452);
    std::uint32_t sent = 0, next = 0;
    const auto send = [&](std::size_t count, auto length_of) {
      std::vector<std::size_t> lengths;
      for (std::size_t i = 0; i < count; ++i) {
        lengths.push_back(std::max<std::size_t>(4, length_of(i)));
        wa.put(octets_of(sent++, lengths.back()), &to, static_cast<std::uint8_t>(i % 100 == 70 ? 1 : 2));
      }
      EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), count);
      std::size_t i = 0;
      EXPECT_EQ(read_all(wb, b->queue(0), count,
                         [&](Packet& packet) {
                           EXPECT_EQ(number_of(packet), next);
                           EXPECT_TRUE(std::ranges::equal(packet.octets(), octets_of(next++, lengths[i])));
                           EXPECT_EQ(packet.tos, i % 100 == 70 ? 1 : 2);
                           EXPECT_EQ(packet.from.remote, address);
                           EXPECT_EQ(packet.from.local, address);
                           EXPECT_EQ(packet.from.port, a->listen_port());
                           EXPECT_EQ(packet.from.interface, ::if_nametoindex("lo"));
                           EXPECT_GE(packet.headroom(), 96u);
                           EXPECT_GE(packet.tailroom(), 31u);
                           ++i;
                         }),
                count);
    };
    for (int round = 0; round < 3; ++round) send(kBurst, [](std::size_t) { return 1452; });
    const std::uint64_t copied = b->trains().copied;
    for (int round = 0; round < 3; ++round) send(64, [](std::size_t) { return 1452; });
    EXPECT_EQ(b->trains().copied, copied);  // guessed
    for (const std::size_t length : {144, 1452, 4, 600, 2048, 1452})
      send(kBurst, [&](std::size_t i) { return i % 17 == 16 ? length / 2 : length; });
    send(kBurst, [](std::size_t i) { return 4 + i * 7; });
    send(kBurst, [](std::size_t i) { return 1400 - i * 7; });
    for (int round = 0; round < 20; ++round)
      send(1 + static_cast<std::size_t>(round), [](std::size_t) { return 2000; });
    EXPECT_GT(b->trains().copied, copied);
    EXPECT_GT(a->trains().sent, 0u);
    EXPECT_EQ(a->trains().refused, 0u);
    EXPECT_EQ(wa.all_drops() + wb.all_drops(), 0u);
  }
}

// Goal: a burst to many peers, interleaved, goes as a train each; every peer's order is kept, over changes of the DS
// field and of lengths, too.
// Method: 24 destinations, random lengths and fields out of few; each receiver sees its own numbers rise.
TEST(UdpTrains, InterleavedPeersAreGroupedAndKeepTheirOrder) {
  WG_OWN_NETWORK_OR_SKIP(net);
  TestWorker wa, wb{4096};
  auto a = open_or_fail();
  std::vector<std::unique_ptr<UdpDevice>> peers;
  std::vector<Endpoint> to;
  for (unsigned i = 0; i < 24; ++i) {
    peers.push_back(open_or_fail());
    ASSERT_TRUE(peers.back());
    to.push_back(endpoint_of(i % 3 == 0 ? kLoopback6 : kLoopback4, peers.back()->listen_port()));
  }
  std::mt19937 random{7};
  std::vector<std::deque<std::pair<std::uint32_t, std::uint8_t>>> expected(peers.size());
  std::uint32_t number = 0;
  for (int round = 0; round < 40; ++round) {
    for (std::size_t i = 0; i < kBurst; ++i) {
      const std::size_t peer = round % 2 == 0 ? i % peers.size() : random() % peers.size();
      const auto tos = static_cast<std::uint8_t>(random() % 8 == 0);
      wa.put(octets_of(number, random() % 4 == 0 ? 300 : 1200), &to[peer], tos);
      expected[peer].emplace_back(number++, tos);
    }
    EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), kBurst);
    for (std::size_t peer = 0; peer < peers.size(); ++peer)
      read_all(wb, peers[peer]->queue(0), expected[peer].size(), [&](Packet& packet) {
        ASSERT_FALSE(expected[peer].empty());
        EXPECT_EQ(number_of(packet), expected[peer].front().first);
        EXPECT_EQ(packet.tos, expected[peer].front().second);
        expected[peer].pop_front();
      });
  }
  for (const auto& left : expected) EXPECT_TRUE(left.empty());
  EXPECT_GT(a->trains().sent, 40u);
  EXPECT_EQ(wa.all_drops() + wb.all_drops(), 0u);
}

// Goal: the kernel's limits of a train are kept: 64 datagrams, 65,507 octets; empty datagrams and largest ones go
// alone. Method: bursts around each limit; all arrive, none was refused.
TEST(UdpTrains, StayWithinTheKernelsLimits) {
  WG_OWN_NETWORK_OR_SKIP(net);
  TestWorker wa{256, 66'000}, wb{1024, 66'000};
  auto a = open_or_fail(), b = open_or_fail();
  ASSERT_TRUE(a && b);
  for (const Address& address : {kLoopback4, kLoopback6}) {
    const Endpoint to = endpoint_of(address, b->listen_port());
    const auto carries = [&](std::size_t count, std::size_t length) {
      for (std::size_t i = 0; i < count; ++i) wa.put(std::vector<std::uint8_t>(length, 1), &to);
      EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), count) << length;
      EXPECT_EQ(read_all(wb, b->queue(0), count, [&](Packet& packet) { EXPECT_EQ(packet.length, length); }), count)
          << length;
    };
    for (int again = 0; again < 6; ++again)
      for (const std::size_t length : {1, 2, 1023, 1024, 9000, 32'753, 32'754})
        carries(length > 9000 ? 5 : length > 1024 ? 40 : kBurst, length);
    carries(3, 65'507);
    carries(20, 0);
    carries(65, 100);
  }
  EXPECT_EQ(a->trains().refused, 0u);
  EXPECT_GT(b->trains().received, 0u);
  EXPECT_EQ(wa.all_drops() + wb.all_drops(), 0u);
}

// Goal: a train that is larger than the way's MTU leaves as single datagrams (in fragments), at once and without loss;
// such trains are not tried again soon, smaller ones go on.
// Method: veth with an MTU of 1280 between two namespaces.
TEST(UdpTrains, WhatTheLinkRefusesLeavesOneByOne) {
  WG_OWN_NETWORK_OR_SKIP(left);
  ASSERT_TRUE(NetNamespace::run("ip link add va type veth peer name vb"));
  TestWorker wa, wb{4096};
  NetNamespace right;
  ASSERT_TRUE(right);
  left.enter();
  ASSERT_TRUE(right.take_in("vb"));
  ASSERT_TRUE(NetNamespace::run("ip link set va mtu 1280 up && ip addr add 10.0.0.1/24 dev va"));
  auto a = open_or_fail();
  right.enter();
  ASSERT_TRUE(NetNamespace::run("ip link set vb mtu 1280 up && ip addr add 10.0.0.2/24 dev vb"));
  auto b = open_or_fail();
  ASSERT_TRUE(a && b);
  left.enter();
  const Endpoint to = endpoint_of(ipv4(10, 0, 0, 2), b->listen_port());
  const auto carries = [&](std::size_t length) {
    for (std::size_t i = 0; i < 64; ++i) wa.put(octets_of(static_cast<std::uint32_t>(i), length), &to);
    EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), 64u);
    std::uint32_t next = 0;
    return read_all(wb, b->queue(0), 64, [&](Packet& packet) {
      EXPECT_TRUE(std::ranges::equal(packet.octets(), octets_of(next++, length)));
    });
  };
  const auto heard = [&] { return read_all(wb, b->queue(0), 1, [](Packet&) {}); };
  std::size_t known = 0;  // until the neighbour is, packets may be lost, or late
  for (int tries = 0; tries < 20 && known == 0; ++tries) {
    wa.put("who", &to);
    static_cast<void>(a->queue(0).send(wa.burst, wa.context));
    known = heard();
  }
  while (heard() != 0) continue;
  const UdpTrains before = a->trains();
  EXPECT_EQ(carries(1400), 64u);
  EXPECT_EQ(a->trains().refused, before.refused + 2);  // of 46 and of 18 datagrams
  EXPECT_EQ(a->trains().sent, before.sent);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(carries(1400), 64u);
  EXPECT_EQ(a->trains().refused, before.refused + 2);
  EXPECT_EQ(carries(1200), 64u);
  EXPECT_EQ(a->trains().sent, before.sent + 2);
  EXPECT_EQ(wa.all_drops(), 0u);
  left.leave();
}

// Goal: every datagram of a train that fails is counted once, under its reason, whatever stands beside it.
// Method: trains without a route, from a source that is not ours (P37: sent from another), good ones between them.
TEST(UdpTrains, FailuresAreCountedOncePerDatagram) {
  WG_OWN_NETWORK_OR_SKIP(net);
  TestWorker wa, wb;
  auto a = open_or_fail(), b = open_or_fail();
  ASSERT_TRUE(a && b);
  const Endpoint good = endpoint_of(kLoopback4, b->listen_port()), nowhere = endpoint_of(ipv4(10, 9, 8, 7), 9);
  Endpoint moved = good, none;
  moved.local = ipv4(10, 1, 1, 1);
  for (std::uint32_t i = 0; i < 40; ++i)
    for (const Endpoint* to : std::initializer_list<const Endpoint*>{&good, &nowhere, &moved, &none})
      wa.put(octets_of(i, 500), to);
  EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), 80u);
  EXPECT_EQ(read_all(wb, b->queue(0), 80, [](Packet&) {}), 80u);
  EXPECT_EQ(wa.drops(Drop::kOuterUnreachable), 40u);
  EXPECT_EQ(wa.drops(Drop::kNoEndpoint), 40u);
  EXPECT_EQ(a->trains().sent, 2u);
  EXPECT_EQ(a->trains().refused, 0u);
}

// Goal: a full socket buffer costs what does not fit, counted once each, and nothing twice.
// Method: a neighbour that does not answer: the kernel keeps what waits for it on the socket's account, of 4.5 KiB.
TEST(UdpTrains, AFullSocketBufferDropsTheRestCounted) {
  WG_OWN_NETWORK_OR_SKIP(net);
  ASSERT_TRUE(
      NetNamespace::run("ip link add va type veth peer name vb && ip link set vb up && ip link set va up && "
                        "ip addr add 10.0.0.1/24 dev va"));
  TestWorker w;
  UdpOptions options;
  options.send_buffer_octets = 4608;
  auto device = open_or_fail(options);
  ASSERT_TRUE(device);
  const Endpoint to = endpoint_of(ipv4(10, 0, 0, 2), 9);
  std::size_t sent = 0;
  for (int round = 0; round < 3; ++round) {
    for (std::uint32_t i = 0; i < kBurst; ++i) w.put(octets_of(i, 1000), &to);
    sent += device->queue(0).send(w.burst, w.context);
    EXPECT_TRUE(w.burst.empty());
  }
  EXPECT_GT(w.drops(Drop::kOuterSend), 0u);
  EXPECT_EQ(sent + w.all_drops(), 3 * kBurst);
}

// Goal: what is longer than a buffer is refused, each datagram of a train for itself, and harms none of its neighbours,
// also when trains are expected.
// Method: buffers of 512 octets; trains of 600, a large datagram, and trains that fit, in turn.
// proves: P5
TEST(UdpTrains, OversizedDatagramsAreRefusedOneByOne) {
  WG_OWN_NETWORK_OR_SKIP(net);
  TestWorker wa{1024, 66'000}, wb{1024, 512};
  auto a = open_or_fail(), b = open_or_fail();
  ASSERT_TRUE(a && b);
  const Endpoint to = endpoint_of(kLoopback4, b->listen_port());
  make_it_ask(wa, a->queue(0), wb, *b, to, 400);
  for (int round = 0; round < 4; ++round) {
    for (std::uint32_t i = 0; i < 20; ++i) wa.put(octets_of(i, 600), &to);
    wa.put(octets_of(20, 60'000), &to);
    for (std::uint32_t i = 21; i < 41; ++i) wa.put(octets_of(i, i % 2 == 0 ? 512 : 513), &to);
    wa.put(octets_of(41, 400), &to);
    EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), 42u);
    EXPECT_EQ(read_all(wb, b->queue(0), 11,
                       [&](Packet& packet) {
                         const std::uint32_t i = number_of(packet);
                         EXPECT_TRUE(std::ranges::equal(packet.octets(), octets_of(i, i == 41 ? 400 : 512))) << i;
                       }),
              11u);
  }
  EXPECT_EQ(wb.drops(Drop::kTruncated), 4u * 31u);
  EXPECT_EQ(wb.counters.refused.get(), 4u * 31u);
}

// Goal: without buffers a train waits where it is, and goes on when there are some; none is lost or doubled.
// Method: a pool of 40, of which a test keeps more and more.
TEST(UdpTrains, WaitForBuffersWithoutLoss) {
  WG_OWN_NETWORK_OR_SKIP(net);
  TestWorker wa, wb{160};
  auto a = open_or_fail(), b = open_or_fail();
  ASSERT_TRUE(a && b);
  const Endpoint to = endpoint_of(kLoopback4, b->listen_port());
  make_it_ask(wa, a->queue(0), wb, *b, to, 800);
  std::uint32_t sent = 0, next = 0;
  std::deque<Buffer*> kept;
  std::mt19937 random{3};
  for (int round = 0; round < 60; ++round) {
    const std::size_t count = 1 + random() % kBurst, length = std::array{800, 200, 1300}[random() % 3];
    for (std::size_t i = 0; i < count; ++i) wa.put(octets_of(sent++, length), &to);
    EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), count);
    for (int turn = 0; turn < 400 && next != sent; ++turn) {
      b->queue(0).receive(wb.burst, wb.context);
      for (Packet& packet : wb.burst) {
        EXPECT_EQ(number_of(packet), next++);
        EXPECT_EQ(packet.length, length);
        kept.push_back(std::exchange(packet.buffer, nullptr));  // the application is slow
      }
      wb.burst.clear();
      for (std::size_t some = random() % 8; !kept.empty() && (some != 0 || turn > 300); some -= some != 0) {
        wb.cache.release(kept.front());
        kept.pop_front();
      }
    }
    ASSERT_EQ(next, sent);
  }
  for (Buffer* buffer : kept) wb.cache.release(buffer);
  EXPECT_EQ(wb.all_drops(), 0u);
}

// Goal: where there are buffers for whole trains, datagrams stay in them, and what does not fit (single ones, too long
// ones, no such buffer free) is as without; every reference comes back.
// Method: random bursts of three lengths; packets are kept for a while, more than there are buffers for.
TEST(UdpTrains, StayWholeWhereThereAreBuffersForThem) {
  WG_OWN_NETWORK_OR_SKIP(net);
  TrainBuffers trains{6};
  {
    TestWorker wa, wb{400, 1300};
    UdpOptions options;
    options.whole_trains = &trains;
    auto a = open_or_fail(), b = open_or_fail(options);
    ASSERT_TRUE(a && b);
    const Endpoint to = endpoint_of(kLoopback4, b->listen_port());
    make_it_ask(wa, a->queue(0), wb, *b, to, 800);
    std::uint32_t sent = 0, next = 0, whole = 0;
    std::uint64_t refused = 0;
    std::deque<Buffer*> kept;
    std::mt19937 random{5};
    for (int round = 0; round < 150; ++round) {
      const std::size_t count = random() % 4 == 0 ? 1 + random() % 3 : 1 + random() % kBurst;
      const std::size_t length = std::array{800, 144, 1300, 1301}[random() % (round % 9 == 0 ? 4 : 3)];
      for (std::size_t i = 0; i < count; ++i) wa.put(octets_of(sent++, length), &to);
      EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), count);
      if (length > 1300) {
        refused += count;
        next += static_cast<std::uint32_t>(count);
      }
      for (int turn = 0; turn < 600 && (next != sent || wb.drops(Drop::kTruncated) != refused); ++turn) {
        b->queue(0).receive(wb.burst, wb.context);
        for (Packet& packet : wb.burst) {
          EXPECT_EQ(number_of(packet), next);
          EXPECT_TRUE(std::ranges::equal(packet.octets(), octets_of(next++, length)));
          whole += packet.buffer->pool == &trains;
          kept.push_back(std::exchange(packet.buffer, nullptr));
        }
        wb.burst.clear();
        for (std::size_t some = random() % 150; !kept.empty() && (some != 0 || turn > 500); some -= some != 0) {
          wb.cache.release(kept.front());
          kept.pop_front();
        }
      }
      ASSERT_EQ(next, sent);
    }
    for (Buffer* buffer : kept) wb.cache.release(buffer);
    EXPECT_EQ(wb.all_drops(), refused);
    EXPECT_GT(refused, 0u);
    EXPECT_GT(whole, sent / 10);
    EXPECT_LT(whole, sent - refused);
  }
  EXPECT_EQ(trains.available(), trains.capacity());
}

// Goal: datagrams that lie side by side in one buffer leave from there, and it is free afterwards, whether they left or
// not. Method: pieces of a buffer, side by side, with gaps, of two peers by turns, to nowhere.
TEST(UdpTrains, LeaveFromWhereTheyLieSideBySide) {
  WG_OWN_NETWORK_OR_SKIP(net);
  TrainBuffers trains{1};
  TestWorker wa, wb;
  auto a = open_or_fail(), b = open_or_fail(), c = open_or_fail();
  ASSERT_TRUE(a && b && c);
  const Endpoint to = endpoint_of(kLoopback4, b->listen_port()), nowhere = endpoint_of(ipv4(10, 9, 8, 7), 9);
  const Endpoint other = endpoint_of(kLoopback4, c->listen_port());
  for (const std::size_t length : {100, 700, 1400}) {
    for (int way = 0; way < 5; ++way) {
      Buffer* const buffer = trains.take();
      ASSERT_NE(buffer, nullptr);
      ASSERT_EQ(trains.take(), nullptr);
      constexpr std::uint32_t kCount = 40;
      buffer->references.fetch_add(kCount - 1);
      std::uint8_t* at = buffer->memory + kHeadroom;
      std::vector<std::uint32_t> expected;
      for (std::uint32_t i = 0; i < kCount; ++i) {
        Packet packet;
        packet.buffer = buffer;
        packet.data = at;
        packet.length = static_cast<std::uint32_t>(length);
        packet.to = way == 4 ? &nowhere : way == 3 && i % 2 == 1 ? &other : &to;
        std::ranges::copy(octets_of(i, length), at);
        at += length + (way == 1 && i % 8 == 7 ? 16 : way == 2 ? 1 : 0);
        wa.burst.add(packet);
        if (packet.to == &to) expected.push_back(i);
      }
      EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), way == 4 ? 0u : kCount);
      EXPECT_EQ(trains.available(), 1u);
      std::size_t next = 0;
      read_all(wb, b->queue(0), expected.size(), [&](Packet& packet) {
        ASSERT_LT(next, expected.size());
        EXPECT_TRUE(std::ranges::equal(packet.octets(), octets_of(expected[next++], length)));
      });
      EXPECT_EQ(next, expected.size());
    }
  }
  EXPECT_EQ(wa.drops(Drop::kOuterUnreachable), 3u * 40u);
}

// Goal: UDP_GRO is given up when no trains come, asked for again when they may, and survives a change of the port.
// Method: a sender without trains for more than 8,192 datagrams; one with trains; then rebinding.
TEST(UdpTrains, AreAskedForOnlyWhileTheyCome) {
  WG_OWN_NETWORK_OR_SKIP(net);
  TestWorker wa, wb;
  UdpOptions without;
  without.trains = false;
  UdpOptions one_socket;
  one_socket.connections = 0;
  auto a = open_or_fail(), plain = open_or_fail(without), b = open_or_fail(one_socket);
  ASSERT_TRUE(a && plain && b);
  Endpoint to = endpoint_of(kLoopback4, b->listen_port());
  const auto asked = [&] {
    std::vector<int> fds;
    b->queue(0).wake_fds(fds);
    int value = 0;
    socklen_t length = sizeof value;
    EXPECT_EQ(::getsockopt(fds[0], IPPROTO_UDP, kUdpGro, &value, &length), 0);
    return value != 0;
  };
  const auto carries = [&](UdpDevice& from, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) wa.put(octets_of(0, 700), &to);
    EXPECT_EQ(from.queue(0).send(wa.burst, wa.context), count);
    EXPECT_EQ(read_all(wb, b->queue(0), count, [](Packet&) {}), count);
  };
  for (int i = 0; i < 100; ++i) carries(*plain, 3);
  EXPECT_FALSE(asked());  // little traffic
  make_it_ask(wa, a->queue(0), wb, *b, to, 700);
  EXPECT_TRUE(asked());
  for (int i = 0; i < 100; ++i) carries(*plain, kReceiveBurst);
  EXPECT_TRUE(asked());
  for (int i = 0; i < 60; ++i) carries(*plain, kReceiveBurst - 4);
  EXPECT_FALSE(asked());
  EXPECT_EQ(plain->trains().sent, 0u);
  for (int i = 0; i < 2200; ++i) carries(*a, 40);
  EXPECT_TRUE(asked());
  const std::uint64_t before = b->trains().received;
  ASSERT_TRUE(b->set_listen_port(0));
  EXPECT_TRUE(asked());
  to.port = b->listen_port();
  carries(*a, 40);
  EXPECT_GT(b->trains().received, before);
}

// Goal: nothing is lost, doubled or miscounted over a link that cuts trains itself and joins them again, in a mix of
// lengths and families' sizes.
// Method: veth whose sender side has no segmentation, GRO on the other; what left and what was dropped is what was put.
TEST(UdpTrains, MixedTrafficOverALinkThatCutsTrainsItself) {
  WG_OWN_NETWORK_OR_SKIP(left);
  ASSERT_TRUE(NetNamespace::run("ip link add va type veth peer name vb"));
  TestWorker wa, wb{4096};
  NetNamespace right;
  ASSERT_TRUE(right);
  left.enter();
  ASSERT_TRUE(right.take_in("vb"));
  ASSERT_TRUE(
      NetNamespace::run("ethtool -K va tso off tx-udp-segmentation off && ip link set va up && "
                        "ip addr add 10.0.0.1/24 dev va"));
  auto a = open_or_fail();
  right.enter();
  ASSERT_TRUE(NetNamespace::run("ethtool -K vb gro on && ip link set vb up && ip addr add 10.0.0.2/24 dev vb"));
  auto b = open_or_fail();
  ASSERT_TRUE(a && b);
  left.enter();
  const Endpoint to = endpoint_of(ipv4(10, 0, 0, 2), b->listen_port());
  std::mt19937 random{11};
  std::uint32_t sent = 0, next = 0;
  std::map<std::uint32_t, std::size_t> lengths;
  for (int tries = 0; tries < 20 && next == 0; ++tries) {  // until the neighbour is known
    wa.put(octets_of(0, 10), &to);
    static_cast<void>(a->queue(0).send(wa.burst, wa.context));
    next += read_all(wb, b->queue(0), 1, [](Packet&) {}) != 0;
  }
  read_all(wb, b->queue(0), 1000, [](Packet&) {});
  next = 0;
  for (int round = 0; round < 300; ++round) {
    const std::size_t count = 1 + random() % kBurst, few = std::array{1452, 160, 900}[random() % 3];
    for (std::size_t i = 0; i < count; ++i) {
      lengths[sent] = random() % 20 == 0 ? 4 + random() % 1400 : few;
      wa.put(octets_of(sent, lengths[sent]), &to);
      ++sent;
    }
    EXPECT_EQ(a->queue(0).send(wa.burst, wa.context), count);
    read_all(wb, b->queue(0), count, [&](Packet& packet) {
      EXPECT_EQ(number_of(packet), next);
      EXPECT_TRUE(std::ranges::equal(packet.octets(), octets_of(next, lengths[next])));
      ++next;
    });
  }
  EXPECT_EQ(next, sent);
  EXPECT_EQ(wa.all_drops() + wb.all_drops(), 0u);
  EXPECT_GT(a->trains().sent, 0u);
  std::printf("trains: %llu sent, %llu joined again by the kernel, %llu datagrams copied of %u\n",
              static_cast<unsigned long long>(a->trains().sent), static_cast<unsigned long long>(b->trains().received),
              static_cast<unsigned long long>(b->trains().copied), sent);
  left.leave();
}

}  // namespace
}  // namespace wireplane
