#include "drivers/neighbours.h"

#include <gtest/gtest.h>
#include <net/if.h>

#include <random>
#include <thread>

#include "tests/support/net_namespace.h"
#include "tests/support/test_worker.h"

namespace wireplane {
namespace {

const Address kOwn = ipv4(192, 0, 2, 1), kGateway = ipv4(192, 0, 2, 254), kFar = ipv4(198, 51, 100, 1);
const MacAddress kMac1{2, 0, 0, 0, 0, 1}, kMac2{2, 0, 0, 0, 0, 2};

Address prefix_of(Address address, unsigned length) {
  for (unsigned bit = length; bit < address.bits(); ++bit)
    address.octets[bit / 8] = static_cast<std::uint8_t>(address.octets[bit / 8] & ~(0x80u >> bit % 8));
  return address;
}

std::unique_ptr<Neighbours> open_or_fail(NeighbourOptions options, unsigned readers = 1) {
  auto neighbours = Neighbours::open(std::move(options), readers);
  if (!neighbours) ADD_FAILURE() << neighbours.error().what;
  return neighbours ? std::move(*neighbours) : nullptr;
}

bool find(Neighbours& neighbours, const Address& to, NextHops::Hop& hop, const Address& sticky = {}) {
  Endpoint endpoint = endpoint_of(to, 1);
  endpoint.local = sticky;
  const auto table = neighbours.read(0);
  return neighbours.find(*table, endpoint, hop) == NextHops::Found::kReady;
}

Instant at(Duration since_start) { return Instant{since_start + 1h}; }

// Goal: the longest prefix wins, then the lowest metric; the gateway's hardware address is taken.
// Method: random routes of both families against a search through all of them.
TEST(NextHops, LongestPrefixWinsLikeAHorribleSearch) {
  std::mt19937 random{11};
  const auto any = [&](bool v4) {
    std::array<std::uint8_t, 16> octets{};
    for (std::size_t i = 0; i < 4; ++i) octets[i] = static_cast<std::uint8_t>(random() % 4);  // so that they overlap
    return v4 ? Address::v4(octets.data()) : Address::v6(octets.data());
  };
  for (int round = 0; round < 50; ++round) {
    NextHops::Sources sources;
    sources.own = {kOwn, ipv6({0xfd}, 1)};
    for (std::uint32_t i = 0; i < 40; ++i) {
      const bool v4 = random() % 2 == 0;
      const auto length = static_cast<std::uint8_t>(random() % 33);
      const Address gateway =
          v4 ? ipv4(10, 0, 0, static_cast<std::uint8_t>(i)) : ipv6({0xfe}, static_cast<std::uint8_t>(i));
      sources.routes.push_back(
          {.destination = prefix_of(any(v4), length), .prefix_length = length, .gateway = gateway, .priority = i});
      if (i % 4 != 0) sources.neighbours.push_back({gateway, 1, {2, 0, 0, 0, 0, static_cast<std::uint8_t>(i)}});
    }
    const NextHops table{sources};
    for (int look = 0; look < 200; ++look) {
      const Address to = any(look % 2 == 0);
      const KernelRoute* best = nullptr;
      for (const KernelRoute& route : sources.routes)
        if (route.destination.family == to.family && prefix_of(to, route.prefix_length) == route.destination &&
            (best == nullptr || route.prefix_length > best->prefix_length ||
             (route.prefix_length == best->prefix_length && route.priority < best->priority)))
          best = &route;
      NextHops::Hop hop;
      const NextHops::Found found = table.find(to, {}, hop);
      if (best == nullptr) {
        EXPECT_EQ(found, NextHops::Found::kNoRoute);
        continue;
      }
      EXPECT_EQ(hop.next, best->gateway);
      EXPECT_EQ(found, best->priority % 4 != 0 ? NextHops::Found::kReady : NextHops::Found::kNoNeighbour);
      if (found == NextHops::Found::kReady) {
        EXPECT_EQ(hop.mac[5], best->priority);
      }
    }
  }
}

// Goal: the sticky source is used while it is ours, else the route's, else an own address of the same scope.
TEST(NextHops, ChoosesTheSource) {
  const Address link_local = ipv6({0xfe, 0x80}, 1), global = ipv6({0xfd}, 1), second = ipv4(192, 0, 2, 7);
  NextHops::Sources sources;
  sources.own = {kOwn, second, link_local, global};
  sources.routes.push_back({.destination = ipv4(0, 0, 0, 0)});
  sources.routes.push_back({.destination = ipv4(203, 0, 113, 0), .prefix_length = 24, .source = second});
  sources.routes.push_back({.destination = prefix_of(link_local, 64), .prefix_length = 64});
  sources.routes.push_back({.destination = prefix_of(global, 0)});
  const NextHops table{sources};
  NextHops::Hop hop;
  const auto source = [&](const Address& to, const Address& wanted) {
    static_cast<void>(table.find(to, wanted, hop));
    return hop.source;
  };
  EXPECT_EQ(source(kFar, {}), kOwn);
  EXPECT_EQ(source(kFar, second), second);
  EXPECT_EQ(source(kFar, ipv4(10, 9, 9, 9)), kOwn);
  EXPECT_EQ(source(ipv4(203, 0, 113, 5), {}), second);
  EXPECT_EQ(source(ipv6({0xfe, 0x80}, 9), {}), link_local);
  EXPECT_EQ(source(ipv6({0x20}, 9), {}), global);
}

// Goal: without a kernel, a neighbour is asked for once a second, and used as soon as it has answered.
TEST(Neighbours, AsksTheLinkAndLearnsFromAnswers) {
  auto neighbours = open_or_fail({.own = {{kOwn, 24}}, .gateway_v4 = kGateway});
  ASSERT_TRUE(neighbours);
  NextHops::Hop hop;
  Address question;
  ASSERT_TRUE(neighbours->take_question(question));  // the gateway, before anybody needs it
  EXPECT_EQ(question, kGateway);
  EXPECT_FALSE(find(*neighbours, kFar, hop));
  EXPECT_FALSE(find(*neighbours, ipv4(192, 0, 2, 5), hop));
  ASSERT_TRUE(neighbours->poll(at(0s)));
  ASSERT_TRUE(neighbours->take_question(question));
  EXPECT_EQ(question, kGateway);
  ASSERT_TRUE(neighbours->take_question(question));
  EXPECT_EQ(question, ipv4(192, 0, 2, 5));
  for (const auto& [when, asked] :
       std::to_array<std::pair<Duration, bool>>({{100ms, false}, {999ms, false}, {1s, true}})) {
    for (int i = 0; i < 10; ++i) EXPECT_FALSE(find(*neighbours, kFar, hop));
    ASSERT_TRUE(neighbours->poll(at(when)));
    EXPECT_EQ(neighbours->take_question(question), asked);
    EXPECT_FALSE(neighbours->take_question(question));
  }
  neighbours->is_at(kGateway, kMac1);
  ASSERT_TRUE(find(*neighbours, kFar, hop));
  EXPECT_EQ(hop.mac, kMac1);
  EXPECT_EQ(hop.source, kOwn);
  neighbours->is_at(kGateway, kMac2);  // it was replaced
  ASSERT_TRUE(find(*neighbours, kFar, hop));
  EXPECT_EQ(hop.mac, kMac2);
  neighbours->heard_from(ipv4(192, 0, 2, 5), kMac2);  // a datagram does not say where a station of the link is
  EXPECT_FALSE(find(*neighbours, ipv4(192, 0, 2, 5), hop));
}

// Goal: without a gateway, an answer goes by way of whom the question came; a new peer by way of the last heard.
TEST(Neighbours, WithoutAGatewayAnswersGoBackTheWayTheyCame) {
  auto neighbours = open_or_fail({.own = {{kOwn, 24}}});
  ASSERT_TRUE(neighbours);
  NextHops::Hop hop;
  EXPECT_FALSE(find(*neighbours, kFar, hop));
  neighbours->heard_from(kFar, kMac1);
  neighbours->heard_from(ipv4(203, 0, 113, 1), kMac2);
  ASSERT_TRUE(find(*neighbours, kFar, hop));
  EXPECT_EQ(hop.mac, kMac1);
  ASSERT_TRUE(find(*neighbours, ipv4(203, 0, 113, 77), hop));
  EXPECT_EQ(hop.mac, kMac2);
  EXPECT_FALSE(find(*neighbours, ipv6({0x20}, 1), hop));  // no address of ours to send from
}

// Goal: a configured hardware address needs no questions. Method: near and far, before anything was heard.
TEST(Neighbours, AConfiguredGatewayMacNeedsNoQuestions) {
  auto neighbours = open_or_fail({.own = {{kOwn, 24}}, .gateway_mac = kMac1});
  ASSERT_TRUE(neighbours);
  NextHops::Hop hop;
  ASSERT_TRUE(find(*neighbours, kFar, hop));
  EXPECT_EQ(hop.mac, kMac1);
  neighbours->heard_from(kFar, kMac2);
  ASSERT_TRUE(find(*neighbours, kFar, hop));
  EXPECT_EQ(hop.mac, kMac1);
  EXPECT_FALSE(find(*neighbours, ipv4(192, 0, 2, 5), hop));  // on the link: asked for
}

// Goal: with a kernel, its addresses, routes and neighbours are followed, and followed when they change.
// Method: a veth; ip changes things; poll until they are seen. A missing neighbour is resolved by the kernel itself.
TEST(Neighbours, FollowsTheKernelsTables) {
  WG_OWN_NETWORK_OR_SKIP(left);
  NetNamespace right;
  left.enter();
  ASSERT_TRUE(NetNamespace::run("ip link add va type veth peer name vb netns /proc/" + std::to_string(::getpid()) +
                                "/fd/" + std::to_string(right.fd()) +
                                " && ip addr add 192.0.2.1/24 dev va && ip link set va up"));
  right.enter();
  ASSERT_TRUE(
      NetNamespace::run("ip link set vb address 02:00:00:00:00:02 && ip addr add 192.0.2.254/24 dev vb && "
                        "ip link set vb up"));
  left.enter();
  auto neighbours = open_or_fail({.kernel_interface = "va"});
  ASSERT_TRUE(neighbours);
  EXPECT_EQ(neighbours->interface(), ::if_nametoindex("va"));
  NextHops::Hop hop;
  Duration now{};
  const auto soon = [&](auto condition) {
    for (int i = 0; i < 400; ++i, now += 20ms) {
      EXPECT_TRUE(neighbours->poll(at(now)));
      if (condition()) return true;
      ::usleep(5'000);
    }
    return false;
  };
  EXPECT_FALSE(find(*neighbours, kFar, hop));  // no route
  ASSERT_TRUE(NetNamespace::run("ip route add default via 192.0.2.254"));
  EXPECT_TRUE(soon([&] { return find(*neighbours, kFar, hop); }));  // resolved by the kernel, which asked
  EXPECT_EQ(hop.mac, kMac2);
  EXPECT_EQ(hop.source, kOwn);
  ASSERT_TRUE(NetNamespace::run("ip neigh replace 192.0.2.254 lladdr 02:00:00:00:00:01 dev va nud permanent"));
  EXPECT_TRUE(soon([&] { return find(*neighbours, kFar, hop) && hop.mac == kMac1; }));
  ASSERT_TRUE(NetNamespace::run("ip addr add 192.0.2.9/24 dev va"));
  EXPECT_TRUE(
      soon([&] { return find(*neighbours, kFar, hop, ipv4(192, 0, 2, 9)) && hop.source == ipv4(192, 0, 2, 9); }));
  ASSERT_TRUE(NetNamespace::run("ip route del default"));
  EXPECT_TRUE(soon([&] { return !find(*neighbours, kFar, hop); }));
  left.leave();
}

// Goal: a neighbour that only we use does not go stale in the kernel. Method: use it, poll past the confirming time,
// and see the kernel ask again.
TEST(Neighbours, ConfirmsWhatWorkersUse) {
  WG_OWN_NETWORK_OR_SKIP(left);
  NetNamespace right;
  left.enter();
  ASSERT_TRUE(NetNamespace::run("ip link add va type veth peer name vb netns /proc/" + std::to_string(::getpid()) +
                                "/fd/" + std::to_string(right.fd()) +
                                " && ip addr add 192.0.2.1/24 dev va && ip link set va up"));
  right.enter();
  ASSERT_TRUE(NetNamespace::run("ip addr add 192.0.2.254/24 dev vb && ip link set vb up"));
  left.enter();
  ASSERT_TRUE(NetNamespace::run("ip neigh replace 192.0.2.254 lladdr 02:00:00:00:00:77 dev va nud stale"));
  ASSERT_TRUE(
      NetNamespace::run("sysctl -qw net.ipv4.neigh.va.delay_first_probe_time=0 "
                        "net.ipv4.neigh.va.ucast_solicit=1"));
  auto neighbours = open_or_fail({.kernel_interface = "va"});
  ASSERT_TRUE(neighbours);
  NextHops::Hop hop;
  ASSERT_TRUE(find(*neighbours, kGateway, hop));
  EXPECT_EQ(hop.mac[5], 0x77);
  const auto wrong = hop.mac;  // whole: the right one, at random, may end alike
  bool corrected = false;      // the kernel asks, hears the truth, and we follow
  for (int i = 0; i < 600 && !corrected; ++i) {
    ASSERT_TRUE(neighbours->poll(at(Neighbours::kConfirmEvery * i / 10)));
    ::usleep(10'000);
    corrected = find(*neighbours, kGateway, hop) && hop.mac != wrong;
  }
  EXPECT_TRUE(corrected);
  left.leave();
}

// Goal: readers see whole values, and nothing is freed under them. Method: a value that checks itself, replaced in a
// loop while two threads read it (a sanitizer sees the rest); at the end all but the last are gone.
TEST(Published, ReadersSeeWholeValuesWhileTheyAreReplaced) {
  static std::atomic<int> alive{0};
  struct Value {
    explicit Value(int v) : a{v}, b{-v} { alive.fetch_add(1); }
    ~Value() {
      a = b = 1;
      alive.fetch_sub(1);
    }
    int a, b;
  };
  {
    Published<Value> published{2, std::make_unique<Value>(0)};
    std::atomic<bool> stop{false};
    std::vector<std::thread> readers;
    for (unsigned reader = 0; reader < 2; ++reader)
      readers.emplace_back([&, reader] {
        int last = 0;
        while (!stop.load()) {
          const auto value = published.read(reader);
          EXPECT_EQ(value->a + value->b, 0);
          EXPECT_GE(value->a, last);
          last = value->a;
        }
      });
    for (int i = 1; i <= 20'000; ++i) published.publish(std::make_unique<Value>(i));
    stop.store(true);
    for (std::thread& reader : readers) reader.join();
    published.publish(std::make_unique<Value>(20'001));
    EXPECT_EQ(alive.load(), 1);
    EXPECT_EQ(published.latest().a, 20'001);
  }
  EXPECT_EQ(alive.load(), 0);
}

// Goal: what one station said is not taken for another's, however many there are. Method: many addresses; each found is
// its own or none.
TEST(HeardMacs, NeverMistakesOneForAnother) {
  HeardMacs heard{12345};
  const auto address = [](unsigned i) {
    return ipv4(10, static_cast<std::uint8_t>(i >> 16), static_cast<std::uint8_t>(i >> 8),
                static_cast<std::uint8_t>(i));
  };
  const auto mac = [](unsigned i) {
    return MacAddress{
        2, 0, 0, static_cast<std::uint8_t>(i >> 16), static_cast<std::uint8_t>(i >> 8), static_cast<std::uint8_t>(i)};
  };
  unsigned found = 0, wrong = 0;
  for (unsigned i = 0; i < 30'000; ++i) heard.note(address(i), mac(i));
  for (unsigned i = 0; i < 60'000; ++i) {
    const auto got = heard.find(address(i));
    if (!got) continue;
    ++found;
    if (*got != mac(i)) ++wrong;
  }
  EXPECT_GT(found, 10'000u);
  EXPECT_LE(wrong, 3u);  // 16 bits tell them apart, once two meet in a place
}

}  // namespace
}  // namespace wireplane
