// Nodes inside one process: what an application can rely on, whoever drives them.
#include "control/embed/node.h"
#include "control/embed/paced_port.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <deque>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <thread>

#include "control/address_text.h"
#include "control/noise/base64.h"
#include "dataplane/wire/checksum.h"
#include "tests/support/conservation.h"
#include "tests/support/nodes.h"

namespace wireplane {
namespace {

const auto* const kLaw = test::every_test_accounts();  // packet.h's, of every node that ends

using Octets = std::vector<std::uint8_t>;
using test::open;
using test::SteadyClock;

// A peer takes one initiation in 20 ms (P18 of the protocol); the next comes 5 s later.
void outlive_the_flood_limit() { std::this_thread::sleep_for(std::chrono::milliseconds{25}); }

Octets text(std::string_view words) { return {words.begin(), words.end()}; }

Endpoint loopback(const Node& node) {
  return *parse_endpoint("127.0.0.1:" + std::to_string(node.port()), interface_index_of_host);
}

// Two nodes that know each other; `ab` is b as a knows it.
struct Pair {
  explicit Pair(unsigned workers, NodeOptions a_options = {}, NodeOptions b_options = {}) {
    a_options.workers = b_options.workers = workers;
    a = open(std::move(a_options));
    b = open(std::move(b_options));
    ab = *a->add_peer(b->key(), {.endpoint = loopback(*b)});
    ba = *b->add_peer(a->key());
  }
  // Drives both until `reached`, at most ten seconds.
  template <class Reached>
  bool until(Reached reached) {
    const auto end = SteadyClock::now() + std::chrono::seconds{10};
    while (SteadyClock::now() < end) {
      if (reached()) return true;
      static_cast<void>(!a->wait(2ms));
      static_cast<void>(!b->wait(2ms));
    }
    return false;
  }
  std::unique_ptr<Node> a, b;
  NodePeer ab, ba;
};

// Workers of each node: 0, the test drives it; 1 and 2, threads of its own.
class BothWays : public ::testing::TestWithParam<unsigned> {};
INSTANTIATE_TEST_SUITE_P(Workers, BothWays, ::testing::Values(0u, 1u, 2u));

// Goal: two nodes that have exchanged keys and one endpoint exchange datagrams, and know from whom they are.
// Method: one sends, the other answers to whoever it was.
TEST_P(BothWays, TwoNodesExchangeDatagramsKnowingKeysAndOneEndpoint) {
  Pair pair{GetParam()};
  ASSERT_TRUE(pair.a->send(pair.ab, text("hello"), 7));
  std::string heard, answered;
  ASSERT_TRUE(pair.until([&] {
    pair.b->receive([&](const Received& in) {
      EXPECT_TRUE(in.datagram);
      EXPECT_EQ(in.from, pair.ba);
      EXPECT_EQ(in.from.key, pair.a->key());
      EXPECT_EQ(in.port, 7);
      EXPECT_EQ(in.from_port, kDatagramPort);
      heard.assign(in.octets.begin(), in.octets.end());
      EXPECT_TRUE(pair.b->send(in.from, text("and you"), in.from_port));
    });
    pair.a->receive([&](const Received& in) {
      EXPECT_EQ(in.from, pair.ab);
      answered.assign(in.octets.begin(), in.octets.end());
    });
    return !answered.empty();
  }));
  EXPECT_EQ(heard, "hello");
  EXPECT_EQ(answered, "and you");
  const std::optional<NodePeerView> view = pair.b->view(pair.a->key());
  ASSERT_TRUE(view);
  EXPECT_EQ(view->endpoint->port, pair.a->port());
  // Data may pass before control has heard that the key is confirmed.
  EXPECT_TRUE(pair.until([&] { return pair.b->view(pair.a->key())->last_handshake != Duration{0}; }));
}

// Goal: a stream of datagrams of all sizes arrives whole and in order while the sender heeds back-pressure.
// Method: 3000 numbered datagrams, lengths 4..max; the window between sender and receiver is half a queue.
TEST_P(BothWays, BurstsOfAllSizesArriveWholeAndInOrder) {
  Pair pair{GetParam()};
  constexpr std::uint32_t kCount = 3000;
  std::uint32_t sent = 0, received = 0;
  std::vector<Octets> payloads(32);
  const auto length_of = [&](std::uint32_t i) { return 4 + (i * 37) % (pair.a->max_datagram() - 3); };
  ASSERT_TRUE(pair.until([&] {
    while (sent < kCount && sent - received < 96) {
      std::vector<Datagram> burst;
      for (std::uint32_t i = 0; i < payloads.size() && sent + i < kCount; ++i) {
        payloads[i].assign(length_of(sent + i), static_cast<std::uint8_t>(sent + i));
        const std::uint32_t number = sent + i;
        std::memcpy(payloads[i].data(), &number, sizeof number);
        burst.push_back({pair.ab, payloads[i]});
      }
      const Result<std::size_t> taken = pair.a->send(burst);
      EXPECT_TRUE(taken);
      sent += static_cast<std::uint32_t>(*taken);
    }
    pair.b->receive(
        [&](const Received& in) {
          std::uint32_t number;
          std::memcpy(&number, in.octets.data(), sizeof number);
          EXPECT_EQ(number, received);
          EXPECT_EQ(in.octets.size(), length_of(number));
          EXPECT_TRUE(std::all_of(in.octets.begin() + 4, in.octets.end(),
                                  [&](std::uint8_t o) { return o == static_cast<std::uint8_t>(number); }));
          ++received;
        },
        1000);
    return received == kCount;
  })) << "received "
      << received << " of " << sent;
}

// Goal: an application hears when a peer connects, and when it moves.
// Method: the peer's node is closed and another one with its key, on another port, speaks.
TEST_P(BothWays, EventsTellOfConnectingAndRoaming) {
  std::vector<NodeEvent> told;
  NodeOptions options;
  options.on_event = [&](const NodeEvent& event) { told.push_back(event); };
  Pair pair{GetParam(), {}, std::move(options)};
  ASSERT_TRUE(pair.a->send(pair.ab, text("here")));
  ASSERT_TRUE(pair.until([&] { return !told.empty(); }));
  EXPECT_EQ(told[0].kind, NodeEvent::Kind::kConnected);
  EXPECT_EQ(told[0].peer, pair.ba);
  EXPECT_EQ(told[0].endpoint.port, pair.a->port());
  NodeEvent event;
  ASSERT_TRUE(pair.until([&] { return pair.a->next_event(event); }));
  EXPECT_EQ(event.kind, NodeEvent::Kind::kConnected);
  EXPECT_FALSE(pair.a->next_event(event));

  NodeOptions again;
  again.workers = GetParam();
  again.private_key = pair.a->private_key();
  pair.a->close();
  outlive_the_flood_limit();
  pair.a = open(std::move(again));
  EXPECT_EQ(pair.a->key(), pair.ba.key);
  const auto moved = pair.a->add_peer(pair.b->key(), {.endpoint = loopback(*pair.b), .keepalive_s = 25});
  ASSERT_TRUE(moved);
  ASSERT_TRUE(pair.until([&] { return told.size() >= 2; }));
  EXPECT_EQ(told[1].kind, NodeEvent::Kind::kRoamed);
  EXPECT_EQ(told[1].endpoint.port, pair.a->port());
}

// Goal: whole IP packets go both ways, of whatever the peer's allowed IPs allow, and nothing else.
// Method: an IPv4 packet between addresses that were given beside the derived ones; one from a foreign source.
TEST_P(BothWays, WholePacketsPassWhereAllowedIpsSaySo) {
  Pair pair{GetParam()};
  ASSERT_TRUE(pair.a->add_peer(pair.b->key(), {.allowed_ips = {*parse_prefix("10.9.0.2")}}));
  ASSERT_TRUE(pair.b->add_peer(pair.a->key(), {.allowed_ips = {*parse_prefix("10.9.0.1")}}));
  Octets packet(28, 0);
  const std::uint8_t header[20] = {0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 253, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2};
  std::copy(std::begin(header), std::end(header), packet.begin());
  Octets foreign = packet;
  foreign[15] = 77;
  ASSERT_TRUE(pair.a->send_packet(foreign));
  ASSERT_TRUE(pair.a->send_packet(packet));
  std::vector<Octets> heard;
  ASSERT_TRUE(pair.until([&] {
    pair.b->receive([&](const Received& in) {
      EXPECT_FALSE(in.datagram);
      EXPECT_EQ(in.from, pair.ba);
      heard.emplace_back(in.octets.begin(), in.octets.end());
    });
    return !heard.empty() && pair.b->stats().dropped(Drop::kSourceNotAllowed) == 1;
  }));
  EXPECT_EQ(heard, std::vector<Octets>{packet});
}

// Goal: a peer that is removed in the middle of traffic is gone, and the node goes on.
// Method: while datagrams pass, remove and add again, many times; the old handle is nobody's, the new one works.
TEST_P(BothWays, RemovingABusyPeerStopsItAndNothingElse) {
  Pair pair{GetParam()};
  std::size_t received = 0;
  const auto take = [&](const Received&) { ++received; };
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 40; ++i) static_cast<void>(pair.a->send(pair.ab, text("on the way")));
    static_cast<void>(!pair.a->process());
    static_cast<void>(!pair.b->process());
    const NodePeer before = pair.ab;
    if (round == 19) outlive_the_flood_limit();
    ASSERT_TRUE(pair.a->remove_peer(pair.b->key()));
    EXPECT_EQ(pair.a->send(before, text("to nobody")).error().code, ENOENT);
    EXPECT_FALSE(pair.a->find_peer(pair.b->key()));
    EXPECT_EQ(pair.a->remove_peer(pair.b->key()).error().code, ENOENT);
    pair.ab = *pair.a->add_peer(pair.b->key(), {.endpoint = loopback(*pair.b)});
    EXPECT_NE(pair.ab, before);
    EXPECT_EQ(pair.a->peers(), 1u);
    pair.b->receive(take, 10000);
  }
  received = 0;
  ASSERT_TRUE(pair.until([&] {
    static_cast<void>(pair.a->send(pair.ab, text("again")));
    pair.b->receive(take, 10000);
    return received > 0;
  }));
}

// Goal: after close() every call answers, none crashes, and whoever sleeps on the descriptor wakes.
TEST_P(BothWays, AClosedNodeSaysSo) {
  Pair pair{GetParam()};
  ASSERT_TRUE(pair.a->send(pair.ab, text("cut short")));
  pair.a->close();
  pair.a->close();
  EXPECT_EQ(pair.a->process().error().code, ESHUTDOWN);
  EXPECT_EQ(pair.a->wait(1ms).error().code, ESHUTDOWN);
  EXPECT_EQ(pair.a->send(pair.ab, text("late")).error().code, ESHUTDOWN);
  EXPECT_EQ(pair.a->send_packet(text("late")).error().code, ESHUTDOWN);
  EXPECT_EQ(pair.a->add_peer(pair.b->key()).error().code, ESHUTDOWN);
  EXPECT_EQ(pair.a->remove_peer(pair.b->key()).error().code, ESHUTDOWN);
  EXPECT_FALSE(pair.a->find_peer(pair.b->key()));
  EXPECT_FALSE(pair.a->view(pair.b->key()));
  EXPECT_EQ(pair.a->receive([](const Received&) { FAIL(); }), 0u);
  EXPECT_TRUE(pair.a->private_key().is_zero());
  EXPECT_EQ(pair.a->peers(), 0u);
  EXPECT_EQ(pair.a->stats().buffers, pair.a->stats().buffers_free + pair.a->stats().queued_out);
  pollfd polled{pair.a->fd(), POLLIN, 0};
  EXPECT_EQ(::poll(&polled, 1, 0), 1);
}

// Goal: whoever waits sleeps as long as he asked for, whatever the node itself has to do meanwhile.
// Method: handshakes towards a peer that does not answer, and packets that wait for it.
TEST_P(BothWays, WaitingIsForTheApplicationsNewsAlone) {
  Pair pair{GetParam()};
  pair.b->close();
  ASSERT_TRUE(pair.a->send(pair.ab, text("nobody is there")));
  const auto begun = SteadyClock::now();
  const Result<std::size_t> waited = pair.a->wait(60ms);
  ASSERT_TRUE(waited);
  EXPECT_EQ(*waited, 0u);
  EXPECT_GE(SteadyClock::now() - begun, std::chrono::milliseconds{59});
}

// Goal: back-pressure is visible, and nothing is lost to it.
// Method: a node that nobody drives takes as many as its queue has places, says EAGAIN, and goes on when it is driven.
TEST(EmbedNode, AFullQueueSaysSoAndGoesOnWhenItIsDriven) {
  NodeOptions small;
  small.queue = 64;
  Pair pair{0, std::move(small)};
  const Octets payload = text("x");
  const std::vector<Datagram> burst(100, Datagram{pair.ab, payload});
  const Result<std::size_t> taken = pair.a->send(burst);
  ASSERT_TRUE(taken);
  EXPECT_EQ(*taken, 64u);
  EXPECT_EQ(pair.a->send(burst).error().code, EAGAIN);
  EXPECT_EQ(pair.a->send(pair.ab, payload).error().code, EAGAIN);
  EXPECT_EQ(pair.a->stats().queued_out, 64u);
  ASSERT_TRUE(pair.a->process());
  EXPECT_TRUE(pair.a->send(pair.ab, payload));
  std::size_t received = 0;
  EXPECT_TRUE(pair.until([&] {
    pair.b->receive([&](const Received&) { ++received; });
    return received == 65;
  })) << received;
}

// Goal: a receiver that does not receive loses packets under a counted reason, and no buffers; not at once: the sockets
// keep for a moment what the queue, which has room for two of a worker's bursts at least, does not take.
TEST(EmbedNode, WhoDoesNotReceiveLosesCountedPackets) {
  NodeOptions small;
  small.queue = 16;
  Pair pair{0, {}, std::move(small)};
  ASSERT_TRUE(pair.a->send(pair.ab, {}));  // a key first: few may wait for one
  ASSERT_TRUE(pair.until([&] { return pair.b->receive([](const Received&) {}) == 1; }));
  const std::vector<Datagram> burst(200, Datagram{pair.ab, {}});
  ASSERT_EQ(*pair.a->send(burst), 200u);
  const auto sent_at = SteadyClock::now();
  ASSERT_TRUE(pair.until([&] {
    const NodeStats stats = pair.b->stats();
    return stats.dropped(Drop::kInnerSend) + stats.dropped(Drop::kOverFairShare) == 72;
  }));
  EXPECT_GE(SteadyClock::now() - sent_at, PacedPort::kLongestWait);
  EXPECT_EQ(pair.b->stats().queued_in, 128u);
  EXPECT_EQ(*pair.b->process(), 128u);
  std::size_t received = 0;
  EXPECT_EQ(pair.b->receive([&](const Received& in) { received += in.octets.empty(); }, 10), 10u);
  EXPECT_EQ(pair.b->receive([&](const Received& in) { received += in.octets.empty(); }, 200), 118u);
  EXPECT_EQ(received, 128u);
  pair.b->close();
  EXPECT_EQ(pair.b->stats().buffers, pair.b->stats().buffers_free);
}

// Goal: the largest datagram passes, one octet more is refused before anything is sent; in a burst it stops the burst.
TEST(EmbedNode, TheMtuIsKnownAndKept) {
  Pair pair{0};
  EXPECT_EQ(pair.a->max_datagram(), 1420u - 48u);
  const Octets largest(pair.a->max_datagram(), 1), larger(pair.a->max_datagram() + 1, 1);
  EXPECT_EQ(pair.a->send(pair.ab, larger).error().code, EMSGSIZE);
  EXPECT_EQ(pair.a->send_packet(Octets(1421, 0x60)).error().code, EMSGSIZE);
  EXPECT_EQ(pair.a->send_packet({}).error().code, EINVAL);
  EXPECT_EQ(pair.a->send_packet(text("no packet")).error().code, EINVAL);
  const std::vector<Datagram> burst{{pair.ab, largest}, {pair.ab, larger}, {pair.ab, largest}};
  const Result<std::size_t> taken = pair.a->send(burst);
  ASSERT_TRUE(taken);
  EXPECT_EQ(*taken, 1u);
  std::size_t length = 0;
  ASSERT_TRUE(pair.until([&] {
    pair.b->receive([&](const Received& in) { length = in.octets.size(); });
    return length != 0;
  }));
  EXPECT_EQ(length, largest.size());
}

// Goal: bad keys, endpoints and options are refused in words, and leave the node as it was.
TEST(EmbedNode, WhatCannotBeIsRefusedInWords) {
  auto node = open();
  EXPECT_EQ(node->add_peer("not a key").error().what, "public key: expected 44 characters of base64");
  const std::string other = open()->key_text();
  EXPECT_EQ(node->add_peer(other, "somewhere").error().what, "endpoint: expected address:port or [address]:port");
  EXPECT_EQ(node->add_peer(node->key()).error().code, EINVAL);
  EXPECT_EQ(node->add_peer(PublicKey{}).error().code, EINVAL) << "zero is a point of low order";
  EXPECT_EQ(node->peers(), 0u);
  EXPECT_EQ(node->send(NodePeer{}, text("x")).error().code, ENOENT);
  const auto code = [](NodeOptions options) { return Node::open(std::move(options)).error().code; };
  EXPECT_EQ(code({.ipv4 = false, .ipv6 = false}), EINVAL);
  EXPECT_EQ(code({.workers = 65}), EINVAL);
  EXPECT_EQ(code({.mtu = 100}), EINVAL);
  EXPECT_EQ(code({.peers = 0}), EINVAL);
  EXPECT_EQ(code({.queue = 100}), EINVAL);
  EXPECT_EQ(code({.buffers = 10}), EINVAL);
  EXPECT_EQ(code({.listen_port = node->port()}), EADDRINUSE);
}

Octets udp_between(const Node& from, const Node& to, std::uint16_t checksum_error) {
  Octets packet(48 + 4, 7);
  const std::uint8_t fixed[8] = {0x60, 0, 0, 0, 0, 12, 17, 64};
  std::copy(std::begin(fixed), std::end(fixed), packet.begin());
  std::ranges::copy(from.address().octets, packet.begin() + 8);
  std::ranges::copy(to.address().octets, packet.begin() + 24);
  const std::uint8_t udp[8] = {0, 9, 0, 7, 0, 12, 0, 0};
  std::copy(std::begin(udp), std::end(udp), packet.begin() + 40);
  ChecksumSum sum = pseudo_header_v6(&packet[8], &packet[24], 17, 12);
  sum.add(&packet[40], 12);
  store_be16(&packet[46], static_cast<std::uint16_t>(sum.finish() ^ checksum_error));
  return packet;
}

// Goal: bursts lie in one piece from the application to the kernel and back, and nothing of that is seen: datagrams of
// all lengths arrive as they were sent, in order, also where the receiver is slow and keeps whole trains waiting.
// Method: bursts of one length each, of mixed ones, with a second peer in between; one side reads seldom.
TEST_P(BothWays, BurstsOfAllLengthsArriveAsTheyWereSent) {
  Pair pair{GetParam(), {.queue = 2048}, {.queue = 2048}};
  auto third = open({.workers = GetParam()});
  const auto at = *pair.a->add_peer(third->key(), {.endpoint = loopback(*third)});
  ASSERT_TRUE(third->add_peer(pair.a->key()));
  const auto octet = [](std::uint32_t number, std::size_t i) { return static_cast<std::uint8_t>(number * 31 + i * 7); };
  std::deque<std::uint32_t> expected, expected_of_third;
  std::map<std::uint32_t, std::size_t> lengths;
  const auto hear = [&](Node& node, std::deque<std::uint32_t>& from) {
    node.receive([&](const Received& in) {
      ASSERT_FALSE(from.empty());
      const std::uint32_t number = from.front();
      from.pop_front();
      ASSERT_EQ(in.octets.size(), lengths[number]);
      for (std::size_t i = 0; i < in.octets.size(); ++i) ASSERT_EQ(in.octets[i], octet(number, i)) << number;
    });
  };
  // The first ones make sessions; they come back or are lost.
  ASSERT_TRUE(pair.a->send(pair.ab, Octets(1)) && pair.a->send(at, Octets(1)));
  std::size_t greetings = 0;
  ASSERT_TRUE(pair.until([&] {
    static_cast<void>(!third->wait(1ms));
    for (Node* node : {pair.b.get(), third.get()}) greetings += node->receive([](const Received&) {});
    return greetings == 2;
  }));
  std::uint32_t number = 0;
  const std::size_t most = pair.a->max_datagram();
  std::mt19937 random{7};
  for (std::size_t round = 0; round < 120; ++round) {
    const std::size_t length = round < 40 ? most - round % 20 : round < 80 ? round - 40 : random() % (most + 1);
    std::vector<Octets> payloads;
    std::vector<Datagram> burst;
    for (std::size_t i = 0; i < 80; ++i) {
      payloads.emplace_back(round % 5 == 4 ? random() % (most + 1) : length);
      for (std::size_t k = 0; k < payloads[i].size(); ++k) payloads[i][k] = octet(number, k);
      lengths[number] = payloads[i].size();
      const bool to_third = round % 7 == 6 && i % 3 == 0;
      burst.push_back({to_third ? at : pair.ab, payloads[i]});
      (to_third ? expected_of_third : expected).push_back(number++);
    }
    const auto sent = pair.a->send(burst);
    ASSERT_TRUE(sent);
    ASSERT_EQ(*sent, burst.size());
    if (round % 6 == 5 || GetParam() != 0) {
      ASSERT_TRUE(pair.until([&] {
        static_cast<void>(!third->wait(GetParam() == 0 ? 1ms : 0ms));
        hear(*pair.b, expected);
        hear(*third, expected_of_third);
        return expected.empty() && expected_of_third.empty();
      }));
    } else {
      for (Node* node : {pair.a.get(), pair.b.get(), third.get()}) ASSERT_TRUE(node->process());
    }
  }
  EXPECT_TRUE(expected.empty() && expected_of_third.empty());
}

// Goal: who is busy gets a socket of its own (udp_connections.h), and its next datagram wakes the node as before.
// Method: so many datagrams that both sides have one, as the number of descriptors tells; then one at a time, and
// wait().
TEST_P(BothWays, ABusyPeerStillWakesUs) {
  if (GetParam() > 1) return;  // several workers: no such sockets
  const auto descriptors = [] {
    return std::distance(std::filesystem::directory_iterator{"/proc/self/fd"}, std::filesystem::directory_iterator{});
  };
  Pair pair{GetParam(), {.trains = false}, {.trains = false}};
  const auto before = descriptors();
  const Octets payload(100, 1);
  const std::vector<Datagram> burst(32, Datagram{pair.ab, payload});
  std::size_t sent = 0, heard = 0;
  const auto hear = [&] { return heard += pair.b->receive([](const Received&) {}); };
  while (sent < 4000) {
    const auto taken = pair.a->send(burst);
    ASSERT_TRUE(taken);
    sent += *taken;
    ASSERT_TRUE(pair.until([&] { return hear() >= sent || sent == burst.size(); }));  // the first may wait for a key
  }
  EXPECT_GE(descriptors(), before + 2);
  for (int i = 0; i < 50; ++i) {
    std::this_thread::sleep_for(i % 10 == 0 ? 30ms : 0ms);
    static_cast<void>(!pair.b->wait(0ms));
    heard = 0;
    ASSERT_TRUE(pair.a->send(pair.ab, payload));
    if (GetParam() == 0) {
      ASSERT_TRUE(pair.a->process());
    }
    const auto begin = SteadyClock::now();
    while (hear() == 0 && SteadyClock::now() - begin < 5s) static_cast<void>(!pair.b->wait(5s));
    EXPECT_EQ(heard, 1u);
    EXPECT_LT(SteadyClock::now() - begin, 500ms);
  }
}

// Goal: no wake is lost where threads look on for a moment before they sleep (linger.h), and none where they do not.
// Method: bursts of 1 to 64 with pauses of nothing to 400 us between them, which begin and end while the others look
// on, go to sleep or sleep; the receiver waits by wait() or by poll() on its descriptor. A wake that was lost would be
// made good by the second's wake of an idle worker, or never by a receiver without a timeout of its own.
TEST_P(BothWays, BurstsWithPausesBetweenThemWakeWhoeverSleeps) {
  for (const bool by_descriptor : {false, true}) {
    Pair pair{GetParam()};
    const Octets payload(100, 1);
    ASSERT_TRUE(pair.a->send(pair.ab, payload));
    ASSERT_TRUE(pair.until([&] { return pair.b->receive([](const Received&) {}) != 0; }));
    std::atomic<bool> stop{false};
    std::thread driver{[&] {  // of the sender, where it has no threads
      while (!stop) static_cast<void>(!pair.a->wait(1ms));
    }};
    unsigned late = 0, dice = 1;
    for (int round = 0; round < 400 && late < 3 && !::testing::Test::HasFailure(); ++round) {
      dice = dice * 1103515245 + 12345;
      const std::vector<Datagram> burst(1 + (dice >> 16) % 64, Datagram{pair.ab, payload});
      std::this_thread::sleep_for(std::chrono::microseconds{(dice >> 8) % 400} * (round % 3));
      const auto begin = SteadyClock::now();
      ASSERT_EQ(*pair.a->send(burst), burst.size());
      std::size_t heard = 0;
      while (heard < burst.size() && SteadyClock::now() - begin < 10s) {
        if (const auto got = pair.b->receive([](const Received&) {}, 1024); got != 0) {
          heard += got;
        } else if (by_descriptor) {
          pollfd polled{pair.b->fd(), POLLIN, 0};
          ::poll(&polled, 1, 10'000);
          static_cast<void>(!pair.b->process());
        } else {
          static_cast<void>(!pair.b->wait(10s));
        }
      }
      EXPECT_EQ(heard, burst.size()) << round;
      late += SteadyClock::now() - begin > 700ms;
    }
    stop = true;
    driver.join();
    EXPECT_LT(late, 3u);  // the machine's own absences
  }
}

// Goal: a datagram that the peer's own IP stack has made is read as one; a damaged one is dropped, counted; what a peer
// sealed with a wrong checksum is as it sealed it.
// Method: packets as a kernel would write them, by hand: right, with a wrong checksum, with a wrong length.
TEST(EmbedNode, DatagramsOfOtherStacksAreReadAndDamagedOnesCounted) {
  Pair pair{0};
  Octets short_by_one = udp_between(*pair.a, *pair.b, 0);
  short_by_one[45] = 11;
  ASSERT_TRUE(pair.a->send_packet(short_by_one));
  ASSERT_TRUE(pair.a->send_packet(udp_between(*pair.a, *pair.b, 0x0100)));
  ASSERT_TRUE(pair.a->send_packet(udp_between(*pair.a, *pair.b, 0)));
  std::size_t received = 0;
  ASSERT_TRUE(pair.until([&] {
    pair.b->receive([&](const Received& in) {
      ++received;
      EXPECT_TRUE(in.datagram);
      EXPECT_EQ(in.from_port, 9);
      EXPECT_EQ(in.port, 7);
      EXPECT_EQ(Octets(in.octets.begin(), in.octets.end()), Octets(4, 7));
    });
    return received == 2;
  }));
  EXPECT_EQ(pair.b->stats().dropped(Drop::kInnerMalformed), 1u);
}

// Goal: a node may stand between two that cannot reach each other, when it is told to.
// Method: a and c know only the hub; packets for the other's address go through it, and arrive as whole packets.
TEST(EmbedNode, ANodeRelaysBetweenItsPeersWhenToldTo) {
  auto hub = open({.forward = Forward::kAll}), a = open(), c = open();
  ASSERT_TRUE(hub->add_peer(a->key()));
  ASSERT_TRUE(hub->add_peer(c->key()));
  ASSERT_TRUE(a->add_peer(hub->key(), {.endpoint = loopback(*hub), .allowed_ips = {{c->address(), 128}}}));
  const auto ch =
      c->add_peer(hub->key(), {.endpoint = loopback(*hub), .keepalive_s = 25, .allowed_ips = {{a->address(), 128}}});
  ASSERT_TRUE(ch);
  Octets heard;
  const auto end = SteadyClock::now() + std::chrono::seconds{10};
  while (heard.empty() && SteadyClock::now() < end) {
    ASSERT_TRUE(a->send_packet(udp_between(*a, *c, 0)));
    for (Node* node : {a.get(), hub.get(), c.get()}) ASSERT_TRUE(node->wait(3ms));
    c->receive([&](const Received& in) {
      EXPECT_EQ(in.from, *ch);
      EXPECT_FALSE(in.datagram);
      heard.assign(in.octets.begin(), in.octets.end());
    });
  }
  Octets expected = udp_between(*a, *c, 0);
  --expected[7];  // the hub is a router: one hop less
  EXPECT_EQ(heard, expected);
}

// Goal: the number of peers is bounded, and removing one makes room.
TEST(EmbedNode, PeersAreBounded) {
  auto node = open({.peers = 2});
  std::vector<std::unique_ptr<Node>> others;
  for (int i = 0; i < 3; ++i) others.push_back(open());
  ASSERT_TRUE(node->add_peer(others[0]->key()));
  ASSERT_TRUE(node->add_peer(others[1]->key()));
  ASSERT_TRUE(node->add_peer(others[1]->key())) << "known already";
  EXPECT_EQ(node->add_peer(others[2]->key()).error().code, ENOSPC);
  ASSERT_TRUE(node->remove_peer(others[0]->key()));
  EXPECT_TRUE(node->add_peer(others[2]->key()));
}

// Goal: the derivation of addresses is what the README says, for ever.
// Method: recomputed by another program (Python's hashlib) for the key whose octets are 0..31.
TEST(EmbedNode, AnAddressFollowsFromItsKey) {
  PublicKey key;
  for (std::size_t i = 0; i < key.octets.size(); ++i) key.octets[i] = static_cast<std::uint8_t>(i);
  EXPECT_EQ(to_text(address_of(key)), "fdf3:1e7d:94a4:4bd2:9d1f:dad5:685:b1b");
  auto node = open();
  EXPECT_EQ(node->address(), address_of(node->key()));
}

// Goal: no peer that comes back after a restart of the other side waits for minutes.
// Method: b restarts with its key and port; a's next datagrams lead to a new handshake by b's keepalive.
TEST(EmbedNode, ARestartedNodeIsFoundAgain) {
  Pair pair{0};
  ASSERT_TRUE(pair.a->send(pair.ab, text("one")));
  std::size_t received = 0;
  const auto count = [&](const Received&) { ++received; };
  ASSERT_TRUE(pair.until([&] { return pair.b->receive(count), received == 1; }));
  NodeOptions again;
  again.private_key = pair.b->private_key();
  again.listen_port = pair.b->port();
  pair.b->close();
  pair.b = open(std::move(again));
  ASSERT_TRUE(pair.b->add_peer(pair.a->key(), {.endpoint = loopback(*pair.a), .keepalive_s = 25}));
  ASSERT_TRUE(pair.until([&] {
    static_cast<void>(pair.a->send(pair.ab, text("two")));
    return pair.b->receive(count), received >= 2;
  }));
}

// Goal: threads of the application may send, receive and configure at the same time.
// Method: two senders, one receiver, one that adds and removes other peers, over nodes with two workers each.
TEST(EmbedNode, ThreadsOfTheApplicationShareANode) {
  Pair pair{2};
  std::atomic<bool> stop{false};
  std::atomic<std::size_t> received{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i)
    threads.emplace_back([&] {
      while (!stop.load()) {
        if (!pair.a->send(pair.ab, text("from a thread"))) std::this_thread::yield();
      }
    });
  threads.emplace_back([&] {
    while (!stop.load()) {
      static_cast<void>(!pair.b->wait(10ms));
      received += pair.b->receive([&](const Received& in) { EXPECT_EQ(in.from.key, pair.a->key()); }, 1000);
    }
  });
  threads.emplace_back([&] {
    PublicKey key = pair.b->key();
    while (!stop.load()) {
      key.octets[0] ^= 1;
      if (key == pair.b->key()) continue;
      static_cast<void>(!pair.a->add_peer(key));
      static_cast<void>(!pair.a->remove_peer(key));
      static_cast<void>(pair.a->stats());
    }
  });
  const auto end = SteadyClock::now() + std::chrono::seconds{10};
  while (received.load() < 2000 && SteadyClock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds{5});
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_GE(received.load(), 2000u);
}

}  // namespace
}  // namespace wireplane
