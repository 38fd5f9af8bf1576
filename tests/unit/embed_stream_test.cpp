// Streams between nodes inside one process: what an application can rely on, whoever drives them.
#include "control/embed/stream.h"

#include <gtest/gtest.h>
#include <malloc.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "control/address_text.h"
#include "control/embed/node.h"
#include "tests/support/nodes.h"

namespace wireplane {
namespace {

using Octets = std::vector<std::uint8_t>;
using test::loopback;
using test::open;
using test::SteadyClock;

Octets text(std::string_view words) { return {words.begin(), words.end()}; }

Octets pattern(std::size_t count, unsigned seed = 1) {
  Octets octets(count);
  for (std::size_t i = 0; i < count; ++i) octets[i] = static_cast<std::uint8_t>((i * 131 + i / 251 + seed) & 0xff);
  return octets;
}

// Two nodes that know each other; `ab` is b as a knows it.
struct Pair {
  explicit Pair(unsigned workers, NodeOptions a_options = {}, NodeOptions b_options = {}) {
    a_options.workers = b_options.workers = workers;
    a = open(std::move(a_options));
    b = open(std::move(b_options));
    ba = *b->add_peer(a->key());
    ab = *a->connect(b->key_text(), loopback(*b));
  }
  template <class Reached>
  bool until(Reached reached, std::chrono::seconds at_most = std::chrono::seconds{10}) {
    const auto end = SteadyClock::now() + at_most;
    while (SteadyClock::now() < end) {
      if (reached()) return true;
      static_cast<void>(!a->wait(1ms));
      static_cast<void>(!b->wait(1ms));
    }
    return false;
  }
  // A stream that a opened and b has accepted: both ends. What a said first is "first".
  std::pair<Stream, Stream> stream(Stream::Kind kind = Stream::Kind::kBytes) {
    const auto opened = ab.open_stream(kind);
    EXPECT_TRUE(opened) << (opened ? "" : opened.error().what);
    if (!opened) return {};
    Stream ours = *opened, theirs;
    EXPECT_TRUE(ours.write(text("first")));
    EXPECT_TRUE(until([&] {
      const auto accepted = b->accept_stream();
      if (accepted) theirs = *accepted;
      return static_cast<bool>(accepted);
    }));
    EXPECT_EQ(all(theirs, 5), text("first"));
    return {ours, theirs};
  }
  // Reads until so many octets are there, or the end.
  Octets all(Stream& from, std::size_t count) {
    Octets have;
    EXPECT_TRUE(until([&] {
      Octets room(count - have.size());
      const auto got = from.read(room);
      if (!got) return got.error().code != EAGAIN;
      have.insert(have.end(), room.begin(), room.begin() + static_cast<std::ptrdiff_t>(got->octets));
      return have.size() == count || got->finished;
    })) << "only "
        << have.size() << " of " << count;
    return have;
  }
  // What read() says, once it says anything.
  int outcome(Stream& from) {
    int code = -1;
    EXPECT_TRUE(until([&] {
      Octets room(1000);
      const auto got = from.read(room);
      if (got && !got->finished) return false;
      code = got ? 0 : got.error().code;
      return code != EAGAIN;
    }));
    return code;
  }
  std::unique_ptr<Node> a, b;
  Connection ab;
  NodePeer ba;
};

class Streams : public ::testing::TestWithParam<unsigned> {};
INSTANTIATE_TEST_SUITE_P(Workers, Streams, ::testing::Values(0u, 1u, 2u));

// Goal: two lines open a connection; octets go both ways, and each side may finish by itself.
TEST_P(Streams, OctetsGoBothWaysAndEachSideFinishesByItself) {
  Pair pair{GetParam()};
  auto [ours, theirs] = pair.stream();
  EXPECT_EQ(theirs.peer(), pair.ba);
  EXPECT_EQ(theirs.id(), ours.id());
  ASSERT_TRUE(ours.finish());
  EXPECT_EQ(ours.write(text("x")).error().code, EPIPE);
  EXPECT_EQ(pair.outcome(theirs), 0) << "half of it is closed";
  ASSERT_TRUE(theirs.write(text("still open")));
  EXPECT_EQ(pair.all(ours, 10), text("still open"));
  ASSERT_TRUE(theirs.finish());
  EXPECT_EQ(pair.outcome(ours), 0);
}

// Goal: much more than any buffer arrives whole and in order, while the sender is told to wait.
TEST_P(Streams, MuchArrivesWholeAndInOrderAndTheSenderIsHeldBack) {
  Pair pair{GetParam()};
  auto both = pair.stream();  // not a structured binding: clang 14 lets no lambda have one
  Stream &ours = both.first, &theirs = both.second;
  const Octets sent = pattern(3 << 20);
  std::size_t written = 0, held_back = 0;
  Octets received;
  std::vector<std::uint8_t> room(50000);
  ASSERT_TRUE(pair.until(
      [&] {
        while (written < sent.size()) {
          const auto taken = ours.write(std::span{sent}.subspan(written));
          if (!taken) {
            EXPECT_EQ(taken.error().code, EAGAIN) << taken.error().what;
            ++held_back;
            break;
          }
          written += *taken;
        }
        for (;;) {
          const auto got = theirs.read(room);
          if (!got) break;
          received.insert(received.end(), room.begin(), room.begin() + static_cast<std::ptrdiff_t>(got->octets));
        }
        return received.size() >= sent.size();
      },
      std::chrono::seconds{30}))
      << received.size();
  EXPECT_EQ(received, sent);
  EXPECT_GT(held_back, 0u);
}

// Goal: messages keep their boundaries, the empty one and the largest one included; one too large is refused.
TEST_P(Streams, MessagesKeepTheirBoundaries) {
  Pair pair{GetParam()};
  auto both = pair.stream(Stream::Kind::kMessages);  // not a structured binding: clang 14 lets no lambda have one
  Stream &ours = both.first, &theirs = both.second;
  EXPECT_EQ(theirs.kind(), Stream::Kind::kMessages);
  const std::vector<std::size_t> lengths{1, 0, 1352, 1353, 5000, ours.max_message(), 3};
  for (const std::size_t length : lengths) ASSERT_TRUE(ours.write_all(pattern(length), 10s)) << length;
  EXPECT_EQ(ours.write(pattern(ours.max_message() + 1)).error().code, EMSGSIZE);
  for (const std::size_t length : lengths) {
    Octets message;
    bool complete = false;
    ASSERT_TRUE(pair.until([&] {
      Octets room(2000);
      const auto got = theirs.read(room);
      if (!got) return false;
      message.insert(message.end(), room.begin(), room.begin() + static_cast<std::ptrdiff_t>(got->octets));
      return complete = got->message_end;
    })) << length;
    EXPECT_EQ(message, pattern(length));
  }
}

// Goal: both sides open streams at the same time, before there is an association; none is mistaken for another.
TEST_P(Streams, BothSidesOpenAtOnceAndStreamsAreNotMixedUp) {
  Pair pair{GetParam()};
  const Connection back = *pair.b->connect(pair.a->key_text(), loopback(*pair.a));
  std::vector<Stream> opened;
  for (unsigned i = 0; i < 10; ++i)
    for (const Connection& way : {pair.ab, back}) {
      opened.push_back(*way.open_stream());
      ASSERT_TRUE(opened.back().write_all(text((way.node == pair.a.get() ? "a" : "b") + std::to_string(i)), 10s));
      ASSERT_TRUE(opened.back().finish());
    }
  std::map<std::string, unsigned> heard;
  std::vector<Stream> accepted;
  ASSERT_TRUE(pair.until([&] {
    for (Node* node : {pair.a.get(), pair.b.get()})
      while (const auto stream = node->accept_stream()) accepted.push_back(*stream);
    return accepted.size() == 20;
  }));
  for (Stream& stream : accepted) {
    const Octets words = pair.all(stream, 10);
    ++heard[std::string{words.begin(), words.end()}];
    EXPECT_EQ(words.front(), stream.peer() == pair.ba ? 'a' : 'b');
  }
  EXPECT_EQ(heard.size(), 20u);
}

// Goal: ids of streams that are gone are used again; beyond the last id open_stream() says so.
// Method: 4 ids, so 2 of our own; many streams one after another.
TEST_P(Streams, IdsAreUsedAgainAndRunOut) {
  Pair pair{GetParam(), {.streams_per_peer = 4}, {.streams_per_peer = 4}};
  for (int i = 0; i < 20; ++i) {
    auto [ours, theirs] = pair.stream();
    ASSERT_TRUE(ours && theirs) << i;
    ASSERT_TRUE(ours.finish());
    EXPECT_EQ(pair.outcome(theirs), 0);
    ASSERT_TRUE(theirs.finish());
    EXPECT_EQ(pair.outcome(ours), 0);
  }
  const auto first = pair.ab.open_stream(), second = pair.ab.open_stream(), third = pair.ab.open_stream();
  EXPECT_TRUE(first && second);
  EXPECT_EQ(third.error().code, EMFILE);
}

// Goal: a stream whose other end was closed says EPIPE to the writer, and the end of what was written to the reader;
// a reset one says so to both.
TEST_P(Streams, CloseAndResetAreToldToTheOtherSide) {
  Pair pair{GetParam()};
  {
    auto [ours, theirs] = pair.stream();
    ASSERT_TRUE(theirs.write(text("last words")));
    theirs = Stream{};
    EXPECT_EQ(pair.all(ours, 10), text("last words"));
    EXPECT_EQ(pair.outcome(ours), 0);
    EXPECT_EQ(ours.write(text("x")).error().code, EPIPE);
  }
  {
    auto [ours, theirs] = pair.stream();
    theirs.reset();
    EXPECT_EQ(pair.outcome(ours), ECONNRESET);
    EXPECT_EQ(ours.write(text("x")).error().code, EPIPE);
  }
}

// Goal: a loop that waits on the node's descriptor alone hears of every stream that can be read or written.
// Method: a writer that is held back, a reader that reads until EAGAIN, both only when next_ready_stream() names them.
TEST_P(Streams, AnEventLoopIsToldWhatIsReady) {
  Pair pair{GetParam()};
  auto both = pair.stream();  // not a structured binding: clang 14 lets no lambda have one
  Stream &ours = both.first, &theirs = both.second;
  const Octets sent = pattern(2 << 20);
  std::size_t written = 0, read = 0;
  Octets room(30000);
  const auto write_some = [&] {
    while (written < sent.size()) {
      const auto taken = ours.write(std::span{sent}.subspan(written));
      if (!taken) return;
      written += *taken;
    }
  };
  write_some();
  const auto end = SteadyClock::now() + std::chrono::seconds{20};
  while (read < sent.size() && SteadyClock::now() < end) {
    std::array<pollfd, 2> polled{{{pair.a->fd(), POLLIN, 0}, {pair.b->fd(), POLLIN, 0}}};
    ASSERT_GT(::poll(polled.data(), polled.size(), 5000), 0) << "slept through at " << read;
    ASSERT_TRUE(pair.a->process() && pair.b->process());
    while (const Stream ready = pair.a->next_ready_stream()) {
      EXPECT_EQ(ready, ours);
      write_some();
    }
    while (Stream ready = pair.b->next_ready_stream()) {
      EXPECT_EQ(ready, theirs);
      while (const auto got = ready.read(room)) read += got->octets;
    }
  }
  EXPECT_EQ(read, sent.size());
}

// Goal: blocking calls wait as long as they were told and no longer, and return as soon as there is something.
TEST_P(Streams, CallsThatWaitReturnInTime) {
  Pair pair{GetParam()};
  auto [ours, theirs] = pair.stream();
  Octets room(100);
  const auto begun = SteadyClock::now();
  EXPECT_EQ(theirs.read(room, 50ms).error().code, ETIMEDOUT);
  EXPECT_EQ(pair.b->accept_stream(50ms).error().code, ETIMEDOUT);
  EXPECT_GE(SteadyClock::now() - begun, 100ms);
  std::thread other{[&pair, from = ours]() mutable {
    std::this_thread::sleep_for(20ms);
    EXPECT_TRUE(from.write_all(text("late"), 1s));
    static_cast<void>(!pair.a->wait(20ms));
  }};
  const auto got = theirs.read(room, 5s);
  ASSERT_TRUE(got) << got.error().what;
  EXPECT_EQ(got->octets, 4u);
  other.join();
}

// Goal: a deadline makes reads and writes fail in time, wakes an event loop, and can be moved.
TEST_P(Streams, ADeadlineIsTold) {
  Pair pair{GetParam()};
  auto [ours, theirs] = pair.stream();
  theirs.set_deadline(60ms);
  Octets room(100);
  EXPECT_EQ(theirs.read(room).error().code, EAGAIN);
  const auto begun = SteadyClock::now();
  while (!pair.b->next_ready_stream() && SteadyClock::now() < begun + 5s) static_cast<void>(!pair.b->wait(1s));
  EXPECT_LT(SteadyClock::now() - begun, 1s);
  EXPECT_EQ(theirs.read(room).error().code, ETIMEDOUT);
  EXPECT_EQ(theirs.write(text("x")).error().code, ETIMEDOUT);
  theirs.set_deadline(1h);
  ASSERT_TRUE(ours.write(text("on")));
  EXPECT_EQ(pair.all(theirs, 2), text("on"));
}

// Goal: a node that begins anew with its key is a new partner: old streams are reset, new ones work.
TEST_P(Streams, APeerThatBeginsAnewResetsTheOldStreams) {
  Pair pair{GetParam()};
  auto [ours, theirs] = pair.stream();
  NodeOptions again{.private_key = pair.b->private_key(), .listen_port = pair.b->port(), .workers = GetParam()};
  pair.b->close();
  EXPECT_EQ(pair.outcome(ours), ECONNRESET) << "a node that closes says so";
  pair.b = open(std::move(again));
  std::this_thread::sleep_for(30ms);  // a peer takes one handshake in 20 ms
  ASSERT_TRUE(pair.b->connect(pair.a->key_text(), loopback(*pair.a)));
  for (int i = 0; i < 20; ++i) {  // b's handshake
    static_cast<void>(!pair.b->wait(5ms));
    static_cast<void>(!pair.a->wait(5ms));
  }
  Stream stream = *pair.ab.open_stream();
  ASSERT_TRUE(stream.write(text("anew")));
  Stream accepted;
  ASSERT_TRUE(pair.until([&] {
    if (auto got = pair.b->accept_stream()) accepted = *got;
    return static_cast<bool>(accepted);
  }));
  EXPECT_EQ(pair.all(accepted, 4), text("anew"));
}

// Goal: whoever removes a peer or closes the node finds its streams ended, with the reason.
TEST_P(Streams, StreamsEndWithTheirPeerAndTheirNode) {
  Pair pair{GetParam()};
  auto [ours, theirs] = pair.stream();
  ASSERT_TRUE(pair.a->remove_peer(pair.b->key()));
  Octets room(10);
  EXPECT_EQ(ours.read(room).error().code, ENOENT);
  EXPECT_EQ(ours.write(text("x")).error().code, ENOENT);
  EXPECT_EQ(pair.ab.open_stream().error().code, ENOENT);
  EXPECT_EQ(pair.outcome(theirs), ECONNRESET);
  pair.b->close();
  EXPECT_EQ(pair.b->accept_stream().error().code, ESHUTDOWN);
  pair.b.reset();
  EXPECT_EQ(theirs.read(room).error().code, ECONNRESET) << "a handle outlives its node";
  theirs.close();
  ours.set_deadline(1s);
}

// Goal: an application that never asks which streams are ready does not gather those that it has let go.
// Method: streams that become ready because their peer goes, and whose handles go then; the heap, before and after. One
// that is ready and still there, in the midst of them, is named when it is asked for.
TEST_P(Streams, ThoseThatAreReadyAndGoneTakeNoMemory) {
  auto node = open({.workers = GetParam()});
  constexpr std::size_t kStreams = 1000, kBefore = 100;
  std::size_t in_use = 0;
  Stream kept;
  for (std::size_t i = 0; i < kBefore + kStreams; ++i) {
    if (i == kBefore) in_use = ::mallinfo2().uordblks;
    const PublicKey key{{static_cast<std::uint8_t>(i % 250 + 1), 9}};
    const auto peer = node->add_peer(key);
    ASSERT_TRUE(peer);
    const auto stream = node->open_stream(*peer);
    ASSERT_TRUE(stream);
    ASSERT_TRUE(node->remove_peer(key));
    static_cast<void>(!node->process());
    if (i == kBefore / 2) kept = *stream;
  }
  const auto end = SteadyClock::now() + 10s;  // what workers may still see of the peers goes a moment later
  while (::mallinfo2().uordblks > in_use + kStreams * 400 && SteadyClock::now() < end)
    static_cast<void>(!node->wait(10ms));
  EXPECT_LT(::mallinfo2().uordblks, in_use + kStreams * 400) << "a stream is about 1 KiB";
  EXPECT_EQ(node->next_ready_stream(), kept);
  EXPECT_FALSE(node->next_ready_stream());
}

// How often usrsctp's own thread has gone to sleep; nothing: it has none.
std::string sleeps_of_usrsctp() {
  for (const auto& thread : std::filesystem::directory_iterator{"/proc/self/task"}) {
    std::ifstream comm{thread.path() / "comm"}, status{thread.path() / "status"};
    std::string line;
    if (!std::getline(comm, line) || line != "SCTP iterator") continue;
    while (std::getline(status, line))
      if (line.starts_with("voluntary_ctxt_switches")) return line;
  }
  return {};
}

// Goal: usrsctp's thread sleeps, whatever ends come and go. Were it awake, it would hold ends that are closed; usrsctp
// could not be ended with the last node, and to children of fork() streams would be denied.
TEST_P(Streams, EndsThatComeAndGoDoNotWakeUsrsctpsThread) {
  auto node = open({.workers = GetParam()});
  const auto kept = node->add_peer(PublicKey{{8}});
  ASSERT_TRUE(kept);
  const Stream other = *node->open_stream(*kept);
  std::this_thread::sleep_for(20ms);
  const std::string before = sleeps_of_usrsctp();
  for (int i = 0; i < 20; ++i) {
    const auto peer = node->add_peer(PublicKey{{9}});
    ASSERT_TRUE(peer);
    const auto stream = node->open_stream(*peer);
    ASSERT_TRUE(stream);
    ASSERT_TRUE(node->remove_peer(PublicKey{{9}}));
    std::this_thread::sleep_for(12ms);  // more than a tick of usrsctp's timers
  }
  EXPECT_EQ(sleeps_of_usrsctp(), before);
}

// Goal: DSCP and ECN of a datagram arrive as they were set.
TEST_P(Streams, ADatagramsTrafficClassArrives) {
  Pair pair{GetParam()};
  const Octets words = text("x");
  const Datagram datagram{.to = pair.ab, .payload = words, .traffic_class = 0xb8 | 2};
  ASSERT_TRUE(pair.a->send(std::span{&datagram, 1}));
  int seen = -1;
  ASSERT_TRUE(pair.until([&] {
    pair.b->receive([&](const Received& in) { seen = in.traffic_class; });
    return seen >= 0;
  }));
  EXPECT_EQ(seen, 0xb8 | 2);
}

// Goal: without streams, SCTP is the application's.
TEST(StreamsOff, SctpIsTheApplications) {
  auto a = open({.streams = false});
  EXPECT_EQ(a->accept_stream().error().code, ENOTSUP);
  EXPECT_EQ(a->connect(a->key()).error().code, ENOTSUP);
  EXPECT_FALSE(a->next_ready_stream());
}

}  // namespace
}  // namespace wireplane
