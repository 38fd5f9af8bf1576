// What happens to applications that do it wrong, or whose peers do: defined results, no crash, nothing left behind (run
// under AddressSanitizer, too).
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "control/embed/node.h"
#include "tests/support/leaving.h"
#include "tests/support/nodes.h"

namespace wireplane {
namespace {

using Octets = std::vector<std::uint8_t>;
using test::loopback;
using test::open;
using test::SteadyClock;

template <class Reached>
bool until(std::initializer_list<Node*> nodes, Reached reached,
           std::chrono::seconds at_most = std::chrono::seconds{10}) {
  const auto end = SteadyClock::now() + at_most;
  while (SteadyClock::now() < end) {
    if (reached()) return true;
    for (Node* node : nodes) static_cast<void>(!node->wait(1ms));
  }
  return false;
}

struct Pair {
  explicit Pair(unsigned workers, NodeOptions a_options = {}, NodeOptions b_options = {}) {
    a_options.workers = b_options.workers = workers;
    a = open(std::move(a_options));
    b = open(std::move(b_options));
    ba = *b->add_peer(a->key());
    ab = *a->connect(b->key_text(), loopback(*b));
  }
  std::pair<Stream, Stream> stream() {
    Stream ours = *ab.open_stream(), theirs;
    EXPECT_TRUE(ours.write(Octets(1)));
    EXPECT_TRUE(until({a.get(), b.get()}, [&] {
      if (auto accepted = b->accept_stream()) theirs = *accepted;
      return static_cast<bool>(theirs);
    }));
    Octets room(1);
    EXPECT_TRUE(theirs.read(room));
    return {ours, theirs};
  }
  std::unique_ptr<Node> a, b;
  Connection ab;
  NodePeer ba;
};

class Misuse : public ::testing::TestWithParam<unsigned> {};
INSTANTIATE_TEST_SUITE_P(Workers, Misuse, ::testing::Values(0u, 1u));

// Goal: a node that is closed while other threads send, receive, wait, read and write ends all of that with ESHUTDOWN.
TEST_P(Misuse, ClosingWhileBusyEndsEveryCall) {
  Pair pair{GetParam()};
  auto [ours, theirs] = pair.stream();
  std::vector<std::thread> busy;
  const Octets octets(500);
  std::atomic<int> ended{0};
  busy.emplace_back([&] {
    for (;;)
      if (const Status sent = pair.a->send(pair.ab, octets); !sent && sent.error().code != EAGAIN) {
        EXPECT_EQ(sent.error().code, ESHUTDOWN);
        break;
      }
    ++ended;
  });
  busy.emplace_back([&] {
    for (;;) {
      pair.a->receive([](const Received&) {});
      if (const auto waiting = pair.a->wait(10ms); !waiting) {
        EXPECT_EQ(waiting.error().code, ESHUTDOWN);
        break;
      }
    }
    ++ended;
  });
  busy.emplace_back([&, stream = ours]() mutable {
    for (;;)
      if (const auto written = stream.write(octets); !written && written.error().code != EAGAIN) {
        EXPECT_EQ(written.error().code, ESHUTDOWN);
        break;
      }
    ++ended;
  });
  busy.emplace_back([&, stream = ours]() mutable {
    Octets room(1000);
    for (;;)
      if (const auto read = stream.read(room, 10ms); !read && read.error().code != ETIMEDOUT) {
        EXPECT_EQ(read.error().code, ESHUTDOWN);
        break;
      }
    ++ended;
  });
  for (int i = 0; i < 20; ++i) static_cast<void>(!pair.b->wait(2ms));
  pair.a->close();
  for (auto& thread : busy) thread.join();
  EXPECT_EQ(ended, 4);
  EXPECT_EQ(pair.a->open_stream(pair.ab).error().code, ESHUTDOWN);
  EXPECT_EQ(pair.a->add_peer(pair.b->key()).error().code, ESHUTDOWN);
  pair.a->close();  // twice is once
}

// Goal: callbacks may call the node: send, add and remove peers, open streams, process again, close it.
TEST_P(Misuse, CallbacksThatReenterAreServed) {
  std::unique_ptr<Node> node;
  int depth = 0, told = 0;
  const Octets octets(10);
  NodeOptions options{.workers = GetParam()};
  options.on_event = [&](const NodeEvent& event) {
    if (depth++ < 3) static_cast<void>(!node->process());
    EXPECT_TRUE(node->find_peer(event.peer.key));
    EXPECT_TRUE(node->send(event.peer, octets));
    EXPECT_TRUE(node->open_stream(event.peer));
    if (++told == 1) node->close();
    --depth;
  };
  node = open(std::move(options));
  auto other = open();
  const auto there = *other->connect(node->key_text(), loopback(*node));
  ASSERT_TRUE(node->add_peer(other->key()));
  ASSERT_TRUE(other->send(there, octets));
  ASSERT_TRUE(until({node.get(), other.get()}, [&] { return told > 0; }));
  EXPECT_EQ(node->process().error().code, ESHUTDOWN);

  Pair pair{GetParam()};
  ASSERT_TRUE(pair.a->send(pair.ab, octets));
  int received = 0;
  ASSERT_TRUE(until({pair.a.get(), pair.b.get()}, [&] {
    pair.b->receive([&](const Received& in) {
      ++received;
      EXPECT_EQ(pair.b->receive([](const Received&) {}), 0u);
      EXPECT_TRUE(pair.b->remove_peer(in.from.key)) << "while its datagram is being read";
      EXPECT_EQ(in.octets.size(), octets.size());
      pair.b->close();
    });
    return received > 0;
  }));
}

// Goal: to a child of fork() its parent's nodes are closed: it cannot use their keys, nor hang; the parent goes on.
TEST_P(Misuse, AForkedChildFindsTheNodesClosedAndTheParentGoesOn) {
  Pair pair{GetParam()};
  std::pair<Stream, Stream> both = pair.stream();
  Stream &ours = both.first, &theirs = both.second;  // clang 14 has no bindings in lambdas
  const pid_t child = ::fork();
  if (child == 0) {
    Octets room(10);
    const bool closed =
        pair.a->send(pair.ab, room).error().code == ESHUTDOWN && pair.a->process().error().code == ESHUTDOWN &&
        pair.a->wait(1s).error().code == ESHUTDOWN && pair.a->open_stream(pair.ab).error().code == ESHUTDOWN &&
        pair.a->remove_peer(pair.b->key()).error().code == ESHUTDOWN && ours.write(room).error().code == ESHUTDOWN &&
        ours.read(room, 1s).error().code == ESHUTDOWN && pair.a->stats().sent == 0 && pair.a->private_key().is_zero();
    ours = theirs = {};
    pair.a.reset();
    pair.b.reset();
    auto fresh = Node::open();  // of its own it may have
    const bool usable = fresh && (*fresh)->process();
    const bool refused = (*fresh)->connect(PublicKey{{9}}).error().code == ENOTSUP;
    test::leave_child(closed && usable && refused ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  ASSERT_TRUE(ours.write(Octets(3, 7)));
  Octets room(10);
  ASSERT_TRUE(until({pair.a.get(), pair.b.get()}, [&] { return static_cast<bool>(theirs.read(room)); }));
  EXPECT_EQ(room[2], 7);
}

// Goal: two nodes with one key are each other's rival for a third one's session, and nothing worse: the last to speak
// has it; none of them is its own peer.
TEST_P(Misuse, TwoNodesWithOneKeyTakeTurns) {
  Pair pair{GetParam()};
  auto twin = open({.private_key = pair.a->private_key(), .workers = GetParam()});
  EXPECT_EQ(twin->add_peer(pair.a->key()).error().code, EINVAL);
  const Octets octets(10);
  for (Node* node : {pair.a.get(), twin.get(), pair.a.get(), twin.get()}) {
    std::this_thread::sleep_for(25ms);  // a peer takes one handshake in 20 ms
    static_cast<void>(!node->remove_peer(pair.b->key()));
    std::this_thread::sleep_for(25ms);
    const auto there = node->add_peer(pair.b->key_text(), loopback(*pair.b));
    ASSERT_TRUE(there);
    ASSERT_TRUE(node->send(*there, octets));
    std::size_t heard = 0;
    EXPECT_TRUE(until({pair.a.get(), twin.get(), pair.b.get()}, [&] {
      heard += pair.b->receive([&](const Received& in) { EXPECT_EQ(in.from.key, pair.a->key()); });
      return heard != 0;
    }));
  }
}

// Goal: endpoints that lead nowhere, to somebody else, to ourselves or to no WireGuard at all cost time and nothing
// else; streams over them end at their deadline.
TEST_P(Misuse, EndpointsThatLieLeadNowhere) {
  auto node = open({.workers = GetParam()}), other = open({.workers = GetParam()});
  const int deaf = ::socket(AF_INET, SOCK_DGRAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  ASSERT_EQ(::bind(deaf, reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(::getsockname(deaf, reinterpret_cast<sockaddr*>(&address), &length), 0);
  const std::vector<std::string> lies{"127.0.0.1:" + std::to_string(ntohs(address.sin_port)),
                                      "127.0.0.1:1",
                                      loopback(*other),
                                      loopback(*node),
                                      "255.255.255.255:9",
                                      "[ff02::1]:9",
                                      "0.0.0.0:0"};
  std::vector<Stream> streams;
  for (std::size_t i = 0; i < lies.size(); ++i) {
    auto absent = open();  // a key that nobody answers for
    const auto there = node->connect(absent->key_text(), lies[i]);
    if (!there) continue;  // no endpoint at all
    streams.push_back(*there->open_stream());
    streams.back().set_deadline(100ms);
    ASSERT_TRUE(streams.back().write(Octets(10)));
  }
  EXPECT_GE(streams.size(), 4u);
  EXPECT_TRUE(until({node.get(), other.get()}, [&] {
    Octets room(1);
    for (Stream& stream : streams) {
      const auto read = stream.read(room);
      if (read || read.error().code != ETIMEDOUT) return false;
    }
    return true;
  }));
  EXPECT_EQ(other->peers(), 0u);
  ::close(deaf);
}

// Goal: a peer that sends more than is read loses its own datagrams, counted, and takes no memory; whatever reaches
// the socket without a key is counted, too.
TEST_P(Misuse, APeerThatFloodsHarmsItself) {
  Pair pair{GetParam(), {}, {.queue = 64}};
  const Octets octets(100);
  const auto dropped = [&] {
    const NodeStats stats = pair.b->stats();
    return stats.dropped(Drop::kInnerSend) + stats.dropped(Drop::kNoBuffer);
  };
  const bool overflows = GetParam() != 0;  // else the node stops reading its socket, and the kernel drops
  EXPECT_TRUE(until({pair.a.get(), pair.b.get()}, [&] {
    for (int i = 0; i < 200; ++i) static_cast<void>(!pair.a->send(pair.ab, octets));
    return overflows ? dropped() > 100 : pair.b->stats().queued_in + 64 >= 64 && pair.a->stats().sent > 2000;
  }));
  EXPECT_LE(pair.b->stats().queued_in, 128u);
  const int stranger = ::socket(AF_INET, SOCK_DGRAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(pair.b->port());
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  for (std::uint8_t type = 0; type < 200; ++type) {
    Octets noise(type, type);
    ::sendto(stranger, noise.data(), noise.size(), 0, reinterpret_cast<sockaddr*>(&address), sizeof address);
  }
  std::size_t drained = 0;
  EXPECT_TRUE(until({pair.b.get()}, [&] {
    drained += pair.b->receive([](const Received&) {});
    return pair.b->stats().dropped(Drop::kUnknownType) > 50;
  }));
  EXPECT_GT(drained, 0u);
  ::close(stranger);
}

constexpr std::size_t kSmallBuffer = 64 << 10;

// Until no more is taken. How much was.
std::size_t fill(Pair& pair, Stream& stream) {
  const Octets octets(10000);
  std::size_t taken = 0, before = 1;
  for (int quiet = 0; quiet < 100; quiet = taken == before ? quiet + 1 : 0) {
    before = taken;
    while (const auto written = stream.write(octets)) taken += *written;
    static_cast<void>(!pair.a->wait(1ms));
    static_cast<void>(!pair.b->wait(1ms));
  }
  return taken;
}

// Goal: a stream that nobody accepts or reads takes no more than its buffers, and the writer is told to wait.
TEST_P(Misuse, AStreamThatNobodyReadsHoldsItsWriterBack) {
  Pair pair{GetParam(), {.stream_buffer_octets = kSmallBuffer}, {.stream_buffer_octets = kSmallBuffer}};
  Stream stream = *pair.ab.open_stream();
  EXPECT_LT(fill(pair, stream), 5 * kSmallBuffer);
  EXPECT_EQ(stream.write(Octets(10000)).error().code, EAGAIN);
}

// Goal: when a peer goes while its streams' buffers here are full, that is learned in the moment in which one of them
// is closed and makes room; it is closed all the same, and the other one is told.
TEST_P(Misuse, AFullStreamMayBeClosedOnceItsPeerHasGone) {
  Pair pair{GetParam(), {.stream_buffer_octets = kSmallBuffer}, {.stream_buffer_octets = kSmallBuffer}};
  auto [ours, theirs] = pair.stream();
  auto [ours_too, other] = pair.stream();
  static_cast<void>(fill(pair, ours));
  pair.a->close();
  for (int i = 0; i < 20; ++i) static_cast<void>(!pair.b->wait(1ms));
  EXPECT_TRUE(other.write(Octets(1))) << "it was told too early for what is to be shown";
  theirs.close();
  EXPECT_FALSE(theirs.write(Octets(1)));
  EXPECT_TRUE(until({pair.b.get()}, [&other = other] { return !other.write(Octets(1)); }));
}

// Goal: a peer that vanishes in mid-stream without a word: the deadline ends the waiting; the stream can be closed.
TEST_P(Misuse, APeerThatVanishesInMidStreamIsNoticedAtTheDeadline) {
  int keys[2], places[2];
  ASSERT_EQ(::pipe(keys) | ::pipe(places), 0);
  const pid_t child = ::fork();
  if (child == 0) {  // the peer is a process of its own, so that it can be killed
    std::array<char, 44> key;
    auto node = Node::open();
    const std::string place = (*node)->key_text() + loopback(**node) + '\n';
    if (::write(places[1], place.data(), place.size()) < 0) test::leave_child(1);
    if (::read(keys[0], key.data(), key.size()) != 44) test::leave_child(1);
    if (!(*node)->add_peer({key.data(), key.size()}) || ::write(places[1], "+", 1) != 1) test::leave_child(1);
    auto stream = (*node)->accept_stream(10s);
    for (Octets room(100000); stream && stream->read(room, 10s);) continue;
    test::leave_child(0);
  }
  auto a = open({.workers = GetParam()});
  std::array<char, 100> place{};
  ASSERT_GT(::read(places[0], place.data(), place.size() - 1), 45);
  ASSERT_EQ(::write(keys[1], a->key_text().data(), 44), 44);
  const std::string line{place.data()};
  char added = 0;  // before that it would not answer, and our next initiation comes after 5 s
  ASSERT_EQ(::read(places[0], &added, 1), 1);
  Stream stream = *a->connect(line.substr(0, 44), line.substr(44, line.find('\n') - 44))->open_stream();
  const Octets octets(100000);
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(stream.write_all(octets, 10s)) << i;
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  stream.set_deadline(200ms);
  const auto begun = SteadyClock::now();
  Status written = stream.write_all(octets, 10s);
  while (written) written = stream.write_all(octets, 10s);
  EXPECT_EQ(written.error().code, ETIMEDOUT);
  EXPECT_LT(SteadyClock::now() - begun, 5s);
  EXPECT_TRUE(stream.finish());
  stream.close();
  for (const int fd : {keys[0], keys[1], places[0], places[1]}) ::close(fd);
}

// Goal: without descriptors or memory a node is refused with the reason, and whatever was opened is given back.
TEST(MisuseOfLimits, WithoutDescriptorsOrMemoryANodeIsRefused) {
  {
    auto warm = open();  // what a process allocates once
  }
  try {  // UBSan opens a pipe when it first sees an object of a type, and would find none below
    throw std::system_error{EMFILE, std::system_category(), "warm"};
  } catch (const std::system_error& failure) {
    ASSERT_EQ(failure.code().value(), EMFILE) << failure.what();
  }
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  const int free_fd = ::dup(0);
  ::close(free_fd);
  for (int more = 0; more < 5; ++more) {
    const rlimit few{static_cast<rlim_t>(free_fd + more), before.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &few);
    const auto node = Node::open();
    ::setrlimit(RLIMIT_NOFILE, &before);
    EXPECT_FALSE(node) << more;
    const int code = node ? 0 : node.error().code;
    EXPECT_EQ(code, EMFILE) << more;  // also where it is the keys' memory that is a descriptor
  }
  const int again = ::dup(0);
  EXPECT_EQ(again, free_fd) << "a descriptor was left open";
  ::close(again);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // their shadow is beyond any limit
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit little{256 << 20, 256 << 20};
    ::setrlimit(RLIMIT_AS, &little);
    const auto node = Node::open({.peers = 1 << 20, .queue = 1 << 16});
    test::leave_child(!node && node.error().code == ENOMEM ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
#endif
}

}  // namespace
}  // namespace wireplane
