// TCP and UDP over nodes in hands that do it wrong: what embed_misuse_test.cpp asks of nodes and streams, asked of the
// IP face and of its C ABI. (Floods, garbage, memory, callbacks, ends in mid-transfer: embed_ip_stack_test.cpp.)
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <thread>
#include <vector>

#include "control/address_text.h"
#include "control/embed/ip_stack.h"
#include "tests/support/leaving.h"

namespace wireplane {
namespace {

using Octets = std::vector<std::uint8_t>;
using SteadyClock = std::chrono::steady_clock;

// Two ends that know each other: 10.9.0.1 and 10.9.0.2; a connection between them.
struct World {
  explicit World(unsigned workers) {
    a = std::move(*Node::open({.workers = workers}));
    b = std::move(*Node::open({.workers = workers}));
    const auto there = parse_endpoint("127.0.0.1:" + std::to_string(b->port()), interface_index_of_host);
    EXPECT_TRUE(a->add_peer(b->key(), {.endpoint = there, .allowed_ips = {*parse_prefix("10.9.0.2/32")}}));
    EXPECT_TRUE(b->add_peer(a->key(), {.allowed_ips = {*parse_prefix("10.9.0.1/32")}}));
    ours = std::move(*IpStack::open(*a, {.addresses = {*parse_address("10.9.0.1")}}));
    theirs = std::move(*IpStack::open(*b, {.addresses = {*parse_address("10.9.0.2")}}));
    listener = std::move(*theirs->listen(80));
    socket = std::move(*ours->connect("10.9.0.2:80"));
    EXPECT_TRUE(until([&] {
      if (auto got = listener.accept()) accepted = std::move(*got);
      return accepted && socket.connected();
    }));
  }
  template <class Reached>
  bool until(Reached reached) {
    const auto end = SteadyClock::now() + std::chrono::seconds{10};
    while (SteadyClock::now() < end) {
      if (reached()) return true;
      if (ours) static_cast<void>(!ours->wait(1ms));
      if (theirs) static_cast<void>(!theirs->wait(1ms));
    }
    return false;
  }
  std::unique_ptr<Node> a, b;
  std::unique_ptr<IpStack> ours, theirs;
  TcpListener listener;
  TcpSocket socket, accepted;
};

class MisuseIp : public ::testing::TestWithParam<unsigned> {};
INSTANTIATE_TEST_SUITE_P(Workers, MisuseIp, ::testing::Values(0u, 1u));

// Goal: to a child of fork() its parent's stacks are closed, it cannot hang in them, and may open its own; the parent's
// connections go on.
// Method: forks while another thread is in and out of the lock of lwIP.
TEST_P(MisuseIp, AForkedChildFindsTheStacksClosedAndTheParentGoesOn) {
  World world{GetParam()};
  auto udp = *world.ours->bind(5000);
  std::atomic<bool> stop{false};
  std::thread busy{[&] {
    while (!stop) static_cast<void>(udp.port() + world.ours->stats().sent);
  }};
  const Octets octets(100, 7);
  for (int round = 0; round < 5; ++round) {
    const pid_t child = ::fork();
    if (child == 0) {
      Octets room(10);
      const bool closed =
          world.socket.read(room).error().code == ESHUTDOWN && world.socket.write(room).error().code == ESHUTDOWN &&
          world.ours->process().error().code == ESHUTDOWN && world.ours->wait(1s).error().code == ESHUTDOWN &&
          udp.send({*parse_address("10.9.0.2"), 1}, room).error().code == ESHUTDOWN &&
          world.listener.accept().error().code == ESHUTDOWN;
      world.socket = {};
      world.accepted = {};
      world.listener = {};
      world.ours.reset();
      world.theirs.reset();
      auto node = Node::open();
      auto fresh = IpStack::open(**node);
      const bool usable = fresh && (*fresh)->process() && (*fresh)->listen(80);
      test::leave_child(closed && usable ? 0 : 1);
    }
    int status = -1;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    EXPECT_TRUE(world.socket.write(octets));
    Octets room(100);
    std::size_t got = 0;
    EXPECT_TRUE(world.until([&] {
      const auto read = world.accepted.read(std::span{room}.subspan(got));
      if (read) got += *read;
      return got == room.size();
    }));
    EXPECT_EQ(room, octets);
  }
  stop = true;
  busy.join();
}

// Goal: a stack that ends while threads read, write, wait, connect and accept ends all of that with ESHUTDOWN.
TEST_P(MisuseIp, EndingAStackWhileItsSocketsAreBusyEndsEveryCall) {
  World world{GetParam()};
  std::atomic<int> ended{0};
  std::vector<std::thread> busy;
  const auto until_shut_down = [&ended](auto call) {
    return [&ended, call]() mutable {
      for (;;)
        if (const int code = call(); code != 0 && code != EAGAIN) {
          EXPECT_EQ(code, ESHUTDOWN);
          break;
        }
      ++ended;
    };
  };
  const Octets octets(1000);
  busy.emplace_back(until_shut_down([&, room = Octets(100)]() mutable {
    const auto got = world.socket.read(room);
    return got ? 0 : got.error().code;
  }));
  busy.emplace_back(until_shut_down([&] {
    const auto put = world.socket.write(octets);
    return put ? 0 : put.error().code;
  }));
  auto udp = *world.ours->bind(5000);
  busy.emplace_back(until_shut_down([&] {
    const auto sent = udp.send({*parse_address("10.9.0.2"), 53}, octets);
    return sent ? 0 : sent.error().code;
  }));
  for (int i = 0; i < 20; ++i) {
    static_cast<void>(!world.ours->wait(1ms));
    static_cast<void>(!world.theirs->wait(1ms));
  }
  world.ours.reset();
  for (auto& thread : busy) thread.join();
  EXPECT_EQ(ended, 3);
  EXPECT_FALSE(world.socket.connected());
  world.socket.on_ready([] {});
  world.socket.deadline(1s);
  world.socket.close();
}

// Goal: a node that closes under its stack, and a peer that is removed under a connection, are told, and harm nothing.
TEST_P(MisuseIp, ANodeOrAPeerThatGoesUnderAStackIsTold) {
  World world{GetParam()};
  ASSERT_TRUE(world.b->remove_peer(world.a->key()));
  world.accepted.deadline(50ms);
  Octets room(100);
  int code = 0;
  ASSERT_TRUE(world.until([&] {
    const auto got = world.accepted.read(room);
    code = got ? 0 : got.error().code;
    return code != EAGAIN;
  }));
  EXPECT_EQ(code, ETIMEDOUT);
  world.a->close();
  EXPECT_EQ(world.ours->process().error().code, ESHUTDOWN);
  EXPECT_EQ(world.ours->wait(1s).error().code, ESHUTDOWN);
  static_cast<void>(!world.socket.write(room));
  static_cast<void>(!world.ours->connect("10.9.0.2:80"));
}

}  // namespace
}  // namespace wireplane
