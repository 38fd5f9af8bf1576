// Nodes and streams where things go wrong: options that cannot be, descriptors that are refused, SCTP that is, peers
// that vanish, begin anew or speak nonsense, handles of nothing.
//
// This program's own eventfd(), timerfd_create(), epoll_create1() and clock_gettime() stand before the C library's, and
// its wrappers before usrsctp's (-Wl,--wrap): each does what it always did unless a test says otherwise.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>

#include "control/address_text.h"
#include "control/embed/node.h"
#include "dataplane/base/bytes.h"
#include "tests/support/clock_ahead.h"
#include "tests/support/conservation.h"
#include "tests/support/ip_packets.h"
#include "tests/support/nodes.h"

struct socket;

namespace wireplane {
namespace {

// How many calls succeed before one fails; -1: all do.
std::atomic<int> events_left{-1}, timers_left{-1}, epolls_left{-1}, watches_left{-1}, sctp_left{-1};
std::atomic<std::int64_t> ahead_ns{0};  // of the engine's clock, which never goes back: usrsctp's is the process's
bool refused(std::atomic<int>& left, int code) {
  if (left < 0 || left-- != 0) return false;
  return errno = code, true;
}

}  // namespace
}  // namespace wireplane

extern "C" {
int eventfd(unsigned value, int flags) noexcept {
  return wireplane::refused(wireplane::events_left, EMFILE) ? -1
                                                            : static_cast<int>(::syscall(SYS_eventfd2, value, flags));
}
int timerfd_create(clockid_t clock, int flags) noexcept {
  return wireplane::refused(wireplane::timers_left, EMFILE)
             ? -1
             : static_cast<int>(::syscall(SYS_timerfd_create, clock, flags));
}
int epoll_create1(int flags) noexcept {
  return wireplane::refused(wireplane::epolls_left, EMFILE) ? -1
                                                            : static_cast<int>(::syscall(SYS_epoll_create1, flags));
}
int epoll_ctl(int fd, int what, int other, epoll_event* event) noexcept {
  return wireplane::refused(wireplane::watches_left, ENOSPC)
             ? -1
             : static_cast<int>(::syscall(SYS_epoll_ctl, fd, what, other, event));
}
int clock_gettime(clockid_t clock, timespec* out) noexcept {
  return wireplane::test::clock_ahead(clock, out, CLOCK_BOOTTIME, wireplane::ahead_ns);
}

struct socket* __real_usrsctp_socket(int, int, int, void*, void*, std::uint32_t, void*);
struct socket* __wrap_usrsctp_socket(int a, int b, int c, void* d, void* e, std::uint32_t f, void* g) {
  return wireplane::refused(wireplane::sctp_left, ENOBUFS) ? nullptr : __real_usrsctp_socket(a, b, c, d, e, f, g);
}
int __real_usrsctp_set_non_blocking(struct socket*, int);
int __wrap_usrsctp_set_non_blocking(struct socket* s, int on) {
  return wireplane::refused(wireplane::sctp_left, EINVAL) ? -1 : __real_usrsctp_set_non_blocking(s, on);
}
int __real_usrsctp_setsockopt(struct socket*, int, int, const void*, socklen_t);
int __wrap_usrsctp_setsockopt(struct socket* s, int level, int option, const void* value, socklen_t size) {
  return wireplane::refused(wireplane::sctp_left, EINVAL) ? -1
                                                          : __real_usrsctp_setsockopt(s, level, option, value, size);
}
int __real_usrsctp_bind(struct socket*, void*, socklen_t);
int __wrap_usrsctp_bind(struct socket* s, void* to, socklen_t size) {
  return wireplane::refused(wireplane::sctp_left, EADDRINUSE) ? -1 : __real_usrsctp_bind(s, to, size);
}
int __real_usrsctp_listen(struct socket*, int);
int __wrap_usrsctp_listen(struct socket* s, int backlog) {
  return wireplane::refused(wireplane::sctp_left, EOPNOTSUPP) ? -1 : __real_usrsctp_listen(s, backlog);
}
}

namespace wireplane {
namespace {

const auto* const kLaw = test::every_test_accounts();

using test::loopback;
using test::Octets;
using test::open;
using test::SteadyClock;

// Two nodes, `b` reachable from `a`, and one session between them.
struct Pair {
  explicit Pair(NodeOptions a_options = {}, NodeOptions b_options = {}) {
    a = open(std::move(a_options));
    b = open(std::move(b_options));
    ba = *b->add_peer(a->key());
    ab = *a->add_peer(b->key_text(), loopback(*b));
  }
  template <class Reached>
  bool until(Reached reached, std::int64_t ahead_each_turn = 0) {
    const auto end = SteadyClock::now() + std::chrono::seconds{15};
    while (SteadyClock::now() < end) {
      if (reached()) return true;
      ahead_ns += ahead_each_turn;
      for (Node* node : {a.get(), b.get()})
        if (node != nullptr) static_cast<void>(!node->wait(1ms));
    }
    return false;
  }
  // From b to a, and left waiting at a.
  void packet_waits_at_a() {
    const Octets octets(4, 1);
    ASSERT_TRUE(a->send(ab, octets));
    ASSERT_TRUE(until([&] { return b->receive([](const Received&) {}) != 0; }));
    ASSERT_TRUE(b->send(ba, octets));
    ASSERT_TRUE(until([&] { return a->stats().queued_in != 0; }));
  }
  // A stream that was accepted on the other side.
  std::pair<Stream, Stream> stream(Stream::Kind kind = Stream::Kind::kBytes) {
    Stream ours = *a->open_stream(ab, kind), theirs;
    EXPECT_TRUE(ours.write(Octets(1, 9)));
    EXPECT_TRUE(until([&] {
      if (auto accepted = b->accept_stream()) theirs = *accepted;
      return static_cast<bool>(theirs);
    }));
    Octets room(1);
    EXPECT_TRUE(theirs.read(room));
    return {ours, theirs};
  }
  std::unique_ptr<Node> a, b;
  NodePeer ab, ba;
};

// Goal: options that make no sense are refused with their name and what was expected.
TEST(NodeEdges, OptionsThatCannotBeAreRefusedByName) {
  const auto why = [](NodeOptions options) {
    const auto node = Node::open(std::move(options));
    return node ? std::string{"opened"} : node.error().what;
  };
  EXPECT_EQ(why({.ipv4 = false, .ipv6 = false}), "ipv4, ipv6: expected at least one of them");
  EXPECT_NE(why({.workers = 1000}).find("workers: expected 0 to"), std::string::npos);
  EXPECT_NE(why({.mtu = 1279}).find("mtu: expected 1280"), std::string::npos);
  for (const std::size_t peers : {std::size_t{0}, (std::size_t{1} << 22) + 1})
    EXPECT_EQ(why({.peers = peers}), "peers: expected 1 to 4194304");
  for (const std::size_t queue : {std::size_t{0}, std::size_t{100}, std::size_t{1} << 17})
    EXPECT_EQ(why({.queue = queue}), "queue: expected a power of two up to 65536");
  EXPECT_NE(why({.buffers = 10}).find("buffers: expected 0 or at least"), std::string::npos);
  for (const unsigned streams : {0u, 1u, 65536u})
    EXPECT_EQ(why({.streams_per_peer = streams}), "streams_per_peer: expected 2 to 65535");
  for (const std::size_t octets : {std::size_t{65535}, (std::size_t{64} << 20) + 1})
    EXPECT_EQ(why({.stream_buffer_octets = octets}), "stream_buffer_octets: expected 65536 to 67108864");
  EXPECT_EQ(open({.peers = 4, .queue = 16, .buffers = 5000})->stats().buffers, 5000u);
  EXPECT_TRUE(open({.ipv6 = false}));
  EXPECT_TRUE(open({.ipv4 = false}));
}

// Goal: each descriptor that the system refuses is a refusal that names the call, with or without threads, and leaves
// none of the others open.
TEST(NodeEdges, EachDescriptorThatIsRefusedIsNamed) {
  const int before = ::dup(0);
  ::close(before);
  std::atomic<int>* const kinds[] = {&events_left, &timers_left, &epolls_left, &watches_left};
  const char* const names[] = {"eventfd", "timerfd", "epoll", "epoll"};
  std::array<unsigned, 4> failures{};
  for (const unsigned workers : {0u, 1u})
    for (std::size_t kind = 0; kind < 4; ++kind)
      for (int left = 0; left < 4; ++left) {
        *kinds[kind] = left;
        const auto node = Node::open({.workers = workers});
        *kinds[kind] = -1;
        if (node) continue;
        ++failures[kind];
        EXPECT_NE(node.error().what.find(names[kind]), std::string::npos) << node.error().what;
        EXPECT_TRUE(node.error().code == EMFILE || node.error().code == ENOSPC);
      }
  EXPECT_GE(failures[0], 4u);
  for (const unsigned count : failures) EXPECT_GE(count, 1u);
  const int after = ::dup(0);
  ::close(after);
  EXPECT_EQ(after, before) << "descriptors were left open";
}

// Goal: names of peers that are none are known as such; a peer without an endpoint may be added by its text.
TEST(NodeEdges, PeersThatAreNone) {
  Pair pair;
  EXPECT_EQ(pair.a->find_peer(pair.ab.id)->key, pair.b->key());
  EXPECT_FALSE(pair.a->find_peer(PeerId{PeerSlot{100'000}, 1}));
  EXPECT_FALSE(pair.a->find_peer(PeerId{PeerSlot{3}, 1}));
  EXPECT_FALSE(pair.a->find_peer(PeerId{pair.ab.id.slot, pair.ab.id.generation + 1}));
  EXPECT_FALSE(pair.a->find_peer(PublicKey{{1, 2, 3}}));
  EXPECT_FALSE(pair.a->view(PublicKey{{1, 2, 3}}));
  EXPECT_EQ(pair.a->remove_peer(PublicKey{{1, 2, 3}}).error().code, ENOENT);
  EXPECT_EQ(pair.a->add_peer("no key").error().code, EINVAL);
  EXPECT_EQ(pair.a->add_peer(pair.b->key_text(), "nowhere").error().code, EINVAL);
  const NodePeer again = *pair.a->add_peer(pair.b->key_text());
  EXPECT_EQ(again, pair.ab) << "the same peer, as it was";
  const Octets octets(4);
  const auto code = [&](PeerId id) {
    NodePeer to = pair.ab;
    to.id = id;
    return pair.a->send(to, octets).error().code;
  };
  EXPECT_EQ(code(PeerId{}), ENOENT);
  EXPECT_EQ(code(PeerId{PeerSlot{1 << 20}, 1}), ENOENT);
  EXPECT_EQ(code(PeerId{pair.ab.id.slot, pair.ab.id.generation + 1}), ENOENT);
  EXPECT_EQ(*pair.a->send(std::span<const Datagram>{}), 0u) << "nothing was asked";
  EXPECT_FALSE(pair.a->send_packet({}));
}

// Goal: what waits for the application when its peer is removed is dropped under a reason, not told as somebody else's.
TEST(NodeEdges, PacketsOfARemovedPeerAreCounted) {
  Pair pair;
  pair.packet_waits_at_a();
  ASSERT_TRUE(pair.a->remove_peer(pair.b->key()));
  EXPECT_EQ(pair.a->receive([](const Received&) { ADD_FAILURE() << "told"; }), 0u);
  EXPECT_EQ(pair.a->stats().dropped(Drop::kPeerGone), 1u);
}

// Goal: a UDP checksum that comes out as zero travels as 0xffff (RFC 768), and is taken; without one, or short, a
// datagram is malformed. Method: octets that make the sum zero; packets made by hand.
TEST(NodeEdges, ChecksumsOfDatagrams) {
  Pair pair;
  std::vector<Octets> got;
  const auto send_and_hear = [&](const Octets& payload) {
    ASSERT_TRUE(pair.a->send(pair.ab, payload));
    const std::size_t before = got.size();
    ASSERT_TRUE(pair.until([&] {
      pair.b->receive([&](const Received& in) { got.emplace_back(in.packet.begin(), in.packet.end()); });
      return got.size() > before;
    }));
  };
  Octets payload(2);
  send_and_hear(payload);
  store_be16(payload.data(), load_be16(&got[0][46]));
  send_and_hear(payload);
  EXPECT_EQ(load_be16(&got[1][46]), 0xffff);
  const Octets good = got[0];
  const auto malformed = [&](const char* what, Octets packet) {
    const std::uint64_t before = pair.b->stats().dropped(Drop::kInnerMalformed);
    store_be16(&packet[4], static_cast<std::uint16_t>(packet.size() - 40));
    ASSERT_TRUE(pair.a->send_packet(packet));
    EXPECT_TRUE(pair.until([&] {
      pair.b->receive([&](const Received&) { ADD_FAILURE() << what; });
      return pair.b->stats().dropped(Drop::kInnerMalformed) > before;
    })) << what;
  };
  Octets bad = good;
  bad.at(46) = bad.at(47) = 0;
  malformed("no checksum", bad);
  bad = good, bad.at(45) ^= 1;
  malformed("a wrong length", bad);
  bad = good, bad.resize(44);
  malformed("a short header", bad);
}

// Goal: a node without streams says so wherever one asks for them, and all else goes on; with and without threads.
TEST(NodeEdges, WithoutStreams) {
  for (const unsigned workers : {0u, 1u}) {
    Pair pair{{.workers = workers, .streams = false}, {.workers = workers, .streams = false}};
    EXPECT_EQ(pair.a->connect(pair.b->key()).error().code, ENOTSUP);
    EXPECT_EQ(pair.a->connect(pair.b->key_text()).error().code, ENOTSUP);
    EXPECT_EQ(pair.a->open_stream(pair.ab).error().code, ENOTSUP);
    EXPECT_EQ(pair.a->accept_stream().error().code, ENOTSUP);
    EXPECT_EQ(pair.a->accept_stream(1ms).error().code, ENOTSUP);
    EXPECT_FALSE(pair.a->next_ready_stream());
    EXPECT_EQ(pair.a->stats().stream_packets_lost, 0u);
    pair.packet_waits_at_a();
    EXPECT_TRUE(pair.a->remove_peer(pair.b->key()));
  }
}

// Goal: a peer that nobody answers for is told as lost, once its keys are dead; when it is back, as connected.
TEST(NodeEdges, ALostPeerIsTold) {
  Pair pair;
  pair.packet_waits_at_a();
  const auto told = [&](NodeEvent::Kind kind) {
    bool found = false;
    for (NodeEvent event; pair.a->next_event(event);) found = found || event.kind == kind;
    return found;
  };
  EXPECT_TRUE(told(NodeEvent::Kind::kConnected));
  std::unique_ptr<Node> away = std::move(pair.b);
  EXPECT_TRUE(pair.until([&] { return told(NodeEvent::Kind::kLost); }, 5'000'000'000));
  pair.b = std::move(away);
  static_cast<void>(!pair.a->send(pair.ab, Octets(3)));
  EXPECT_TRUE(pair.until([&] { return told(NodeEvent::Kind::kConnected); }, 20'000'000));
}

// Goal: a node that was busy, so that its sockets were not watched for a while, sleeps and wakes by its descriptor as
// before; also when the system has no room for them to be watched again at first, and when they fall silent at once.
TEST(NodeEdges, AfterMuchTrafficTheDescriptorTellsAsBefore) {
  for (const bool refuse : {false, true}) {
    Pair pair;
    pair.packet_waits_at_a();
    pair.a->receive([](const Received&) {});
    const Octets octets(100, 1);
    const std::vector<Datagram> burst(64, Datagram{pair.ab, octets});
    std::size_t sent = 0, received = 0;
    for (int i = 0; i < 20; ++i) {
      if (const auto taken = pair.a->send(burst)) sent += *taken;
      ASSERT_TRUE(pair.a->process() && pair.b->process());
      received += pair.b->receive([](const Received&) {}, 1024);
    }
    if (refuse) watches_left = 0;  // the next one
    const auto readable = [](const Node& node, int ms) {
      pollfd polled{node.fd(), POLLIN, 0};
      return ::poll(&polled, 1, ms) == 1;
    };
    for (int i = 0; i < 20; ++i)
      for (Node* node : {pair.a.get(), pair.b.get()})
        if (readable(*node, 0)) static_cast<void>(!node->process());
    received += pair.b->receive([](const Received&) {}, 4096);
    EXPECT_EQ(received, sent);
    EXPECT_EQ(watches_left, -1);
    EXPECT_FALSE(readable(*pair.b, 0)) << "nothing is left to do";
    ASSERT_TRUE(pair.a->send(pair.ab, octets));
    ASSERT_TRUE(pair.a->process());
    EXPECT_TRUE(readable(*pair.b, 1000)) << "slept through a datagram";
    EXPECT_EQ(*pair.b->process(), 1u);
    EXPECT_EQ(pair.b->receive([](const Received&) {}), 1u);
    watches_left = -1;
  }
}

// ---- streams

// Goal: a handle of nothing answers every question and refuses every act.
TEST(StreamEdges, AHandleOfNothingAnswers) {
  Stream none;
  Octets room(10);
  EXPECT_FALSE(none);
  EXPECT_EQ(none.peer(), NodePeer{});
  EXPECT_EQ(none.id(), 0);
  EXPECT_EQ(none.kind(), Stream::Kind::kBytes);
  none.set_tag(&room);
  EXPECT_EQ(none.tag(), nullptr);
  EXPECT_EQ(none.write(room).error().code, EBADF);
  EXPECT_EQ(none.read(room).error().code, EBADF);
  EXPECT_EQ(none.write_all(room, 1ms).error().code, EBADF);
  EXPECT_EQ(none.read(room, 1ms).error().code, EBADF);
  EXPECT_EQ(none.finish().error().code, EBADF);
  none.close(), none.reset(), none.set_deadline(1s);
  EXPECT_EQ(none, Stream{});

  Pair pair;
  auto [ours, theirs] = pair.stream(Stream::Kind::kMessages);
  int tag = 0;
  ours.set_tag(&tag);
  EXPECT_EQ(ours.tag(), &tag);
  EXPECT_EQ(ours.peer(), pair.ab);
  EXPECT_EQ(theirs.kind(), Stream::Kind::kMessages);
  EXPECT_EQ(ours.id(), theirs.id());
}

// Goal: when usrsctp refuses, connecting and opening say which call and why, and the next try may succeed.
// Method: each of its calls that make an end fails in turn.
TEST(StreamEdges, SctpThatRefusesIsTold) {
  Pair pair;
  std::vector<std::string> why;
  for (int left = 0; left < 30; ++left) {
    sctp_left = left;
    const auto by_text = pair.a->connect(pair.b->key_text(), loopback(*pair.b));
    const bool reached = sctp_left < 0;
    sctp_left = -1;
    if (!reached) break;
    ASSERT_FALSE(by_text) << left;
    why.push_back(by_text.error().what);
    sctp_left = left;
    EXPECT_FALSE(pair.a->connect(pair.b->key()));
    sctp_left = left;
    EXPECT_FALSE(pair.a->open_stream(pair.ab));
    sctp_left = -1;
  }
  EXPECT_GE(why.size(), 12u);
  for (const char* call : {"usrsctp: socket", "usrsctp: setsockopt", "usrsctp: bind", "usrsctp: listen"})
    EXPECT_NE(std::ranges::find_if(why, [&](const std::string& text) { return text.starts_with(call); }), why.end())
        << call;
  EXPECT_EQ(pair.a->connect("no key").error().code, EINVAL);
  EXPECT_EQ(pair.a->connect(PublicKey{}).error().code, EINVAL);
  auto [ours, theirs] = pair.stream();
  EXPECT_TRUE(ours.write(Octets(3)));
}

// Goal: a peer that never answers ends its streams with EHOSTUNREACH in a minute or two, told to an event loop and to
// whoever reads or writes; the next write begins anew, and succeeds when somebody answers. With and without threads.
// Method: nobody has the endpoint's port; the engine's clock, which is SCTP's, runs ahead.
TEST(StreamEdges, APeerThatNeverAnswersIsUnreachable) {
  for (const unsigned workers : {0u, 1u}) {
    Pair pair{{.workers = workers}, {.workers = workers}};
    const std::string nowhere = "127.0.0.1:9";
    const PublicKey key = pair.b->key();
    ASSERT_TRUE(pair.a->remove_peer(key));
    pair.ab = *pair.a->connect(pair.b->key_text(), nowhere);
    Stream writer = *pair.a->open_stream(pair.ab), reader = *pair.a->open_stream(pair.ab);
    Stream bell =
        *pair.a->open_stream(pair.ab);  // its deadline wakes the thread that drives, which sleeps by the host's clock
    EXPECT_TRUE(writer.write(Octets(100, 1)));
    Octets room(10);
    const std::int64_t begun = ahead_ns;
    std::vector<Stream> told;
    ASSERT_TRUE(pair.until(
        [&] {
          bell.set_deadline(1ns);
          while (const Stream ready = pair.a->next_ready_stream())
            if (ready != bell) told.push_back(ready);
          return told.size() >= 2;
        },
        200'000'000));
    EXPECT_LT(ahead_ns - begun, 150'000'000'000);
    for (Stream& stream : told) {
      EXPECT_TRUE(stream == writer || stream == reader);
      EXPECT_EQ(stream.read(room).error().code, EHOSTUNREACH);
      EXPECT_EQ(stream.write(room).error().code, EHOSTUNREACH);
      EXPECT_EQ(stream.write_all(room, 1s).error().code, EHOSTUNREACH);
      EXPECT_EQ(stream.finish().error().code, EHOSTUNREACH);
    }
    // A new stream is a new attempt: in vain, again, for whoever waits in a call; then with somebody there.
    Stream again = *pair.a->open_stream(pair.ab);
    EXPECT_TRUE(again.write(Octets(100, 1)));
    int code = ETIMEDOUT;
    for (int i = 0; i < 1000 && code == ETIMEDOUT; ++i, ahead_ns += 1'000'000'000) {
      bell.set_deadline(1ns);
      code = again.read(room, 2ms).error().code;
    }
    EXPECT_EQ(code, EHOSTUNREACH);
    ASSERT_TRUE(pair.a->add_peer(pair.b->key_text(), loopback(*pair.b)));
    Stream found = *pair.a->open_stream(pair.ab);
    EXPECT_TRUE(found.write(Octets(4, 8)));
    EXPECT_TRUE(pair.until(
        [&] {
          bell.set_deadline(1ns);
          return static_cast<bool>(pair.b->accept_stream());
        },
        50'000'000));
  }
}

// Goal: a writer whose peer dies hears EHOSTUNREACH in a minute or two, and so does write_all(), which waits for room;
// a peer that is back is found by the next stream. Method: b is not driven any more, then again.
TEST(StreamEdges, APeerThatDiesInTheMiddleIsUnreachable) {
  Pair pair;
  std::pair<Stream, Stream> both = pair.stream();
  Stream &ours = both.first, other = *pair.a->open_stream(pair.ab);
  std::unique_ptr<Node> away = std::move(pair.b);
  const Octets much(400'000, 3);
  int code = ETIMEDOUT;
  for (int i = 0; i < 1000 && code == ETIMEDOUT; ++i, ahead_ns += 1'000'000'000) {
    const Status wrote = ours.write_all(much, 2ms);
    ASSERT_FALSE(wrote);
    code = wrote.error().code;
  }
  EXPECT_EQ(code, EHOSTUNREACH);
  Octets room(10);
  EXPECT_EQ(other.read(room).error().code, EHOSTUNREACH) << "it shares the association";
  pair.b = std::move(away);
  Stream again = *pair.a->open_stream(pair.ab), theirs;
  EXPECT_TRUE(again.write(Octets(4, 8)));
  EXPECT_TRUE(pair.until(
      [&] {
        while (auto accepted = pair.b->accept_stream()) theirs = *accepted;
        const auto got = theirs.read(room);
        return got && got->octets == 4 && room[0] == 8;
      },
      20'000'000));
}

// Goal: a peer that allows fewer streams than we may open: those beyond are reset, the others go on.
TEST(StreamEdges, StreamsBeyondThePeersAreReset) {
  Pair pair{{}, {.streams_per_peer = 4}};
  std::vector<Stream> streams;
  for (int i = 0; i < 6; ++i) streams.push_back(*pair.a->open_stream(pair.ab));
  for (Stream& stream : streams) static_cast<void>(!stream.write(Octets(5, 1)));
  Octets room(10);
  EXPECT_TRUE(pair.until([&] {
    const auto got = streams.back().read(room);
    return !got && got.error().code == ECONNRESET;
  }));
  std::size_t accepted = 0;
  std::vector<Stream> theirs;
  EXPECT_TRUE(pair.until([&] {
    while (auto one = pair.b->accept_stream()) theirs.push_back(*one), ++accepted;
    return accepted == 2;
  }));
  EXPECT_TRUE(streams.front().write(Octets(5, 1)));
  EXPECT_EQ(streams.back().write(Octets(5, 1)).error().code, ECONNRESET);
}

// Goal: acts on a stream that has ended are refused with why, once and again; nothing of them reaches a later stream.
TEST(StreamEdges, ActsOnAStreamThatHasEnded) {
  Pair pair;
  Octets room(10);
  {
    auto [ours, theirs] = pair.stream();
    EXPECT_EQ(*ours.write({}), 0u) << "no octets are none";
    ours.set_deadline(1h), ours.set_deadline(2h), ours.set_deadline(0s);
    EXPECT_TRUE(ours.finish());
    EXPECT_TRUE(ours.finish()) << "again";
    EXPECT_EQ(ours.write(room).error().code, EPIPE);
    Stream other = theirs;
    EXPECT_TRUE(pair.until([&] {
      const auto got = other.read(room);
      return got && got->finished;
    }));
    EXPECT_TRUE(other.finish());
    EXPECT_TRUE(pair.until([&] {
      const auto got = other.read(room);
      return got && got->finished;
    }));
    EXPECT_EQ(other.write(room).error().code, EPIPE);
    ours.close(), ours.close(), ours.reset();
  }
  std::pair<Stream, Stream> both = pair.stream();
  Stream &ours = both.first, &theirs = both.second;
  ours.close();
  EXPECT_TRUE(pair.until([&] {
    const auto wrote = theirs.write(room);
    return !wrote && wrote.error().code == EPIPE;
  })) << "the peer reads no more";
  EXPECT_TRUE(pair.a->remove_peer(pair.b->key()));
  EXPECT_EQ(pair.a->open_stream(pair.ab).error().code, ENOENT);
  pair.a->close();
  EXPECT_EQ(pair.a->accept_stream(1ms).error().code, ESHUTDOWN);
  EXPECT_EQ(pair.a->open_stream(pair.ab).error().code, ESHUTDOWN);
  EXPECT_EQ(pair.a->connect(pair.b->key()).error().code, ESHUTDOWN);
  EXPECT_EQ(pair.a->connect(pair.b->key_text()).error().code, ESHUTDOWN);
  EXPECT_FALSE(pair.a->next_ready_stream());
  ours.set_deadline(1s);
}

// Goal: a finish that finds the buffer full is said when there is room; what was written before arrives first.
TEST(StreamEdges, AFinishThatHasToWaitArrivesLast) {
  Pair pair{{.stream_buffer_octets = 64 << 10}, {.stream_buffer_octets = 64 << 10}};
  std::pair<Stream, Stream> both = pair.stream();
  Stream &ours = both.first, &theirs = both.second;
  std::size_t wrote = 0;
  const Octets much(5000, 7);
  for (;;) {
    const auto taken = ours.write(much);
    if (!taken) break;
    wrote += *taken;
  }
  while (ours.write(Octets(1))) ++wrote;
  EXPECT_TRUE(ours.finish());
  Octets room(3000);
  std::size_t read = 0;
  bool finished = false;
  EXPECT_TRUE(pair.until([&] {
    for (auto got = theirs.read(room); got; got = theirs.read(room)) {
      read += got->octets;
      finished = finished || got->finished;
      if (finished) break;
    }
    return finished;
  }));
  EXPECT_EQ(read, wrote);
}

// Goal: SCTP that is nobody's is not taken for a stream: from another address than the peer's own, to another than
// ours, with a wrong checksum, or none at all.
TEST(StreamEdges, SctpOfNobodyIsDropped) {
  Pair pair;
  pair.packet_waits_at_a();
  const Prefix more = *parse_prefix("fd99::/16");
  static_cast<void>(*pair.b->add_peer(pair.a->key(), {.allowed_ips = {more}}));
  const std::string of_a = to_text(pair.a->address()), of_b = to_text(pair.b->address());
  const std::uint64_t before = pair.b->stats().stream_packets_lost;
  ASSERT_TRUE(pair.a->send_packet(test::ip_packet(of_a, of_b, 132, Octets(20, 1))));
  EXPECT_TRUE(pair.until([&] { return pair.b->stats().stream_packets_lost > before; })) << "a wrong checksum";
  ASSERT_TRUE(pair.a->send_packet(test::ip_packet(of_a, of_b, 132, Octets(5, 1))));
  EXPECT_TRUE(pair.until([&] { return pair.b->stats().stream_packets_lost > before + 1; })) << "too short";
  ASSERT_TRUE(pair.a->send_packet(test::ip_packet("fd99::1", of_b, 132, Octets(20, 1))));
  const std::uint64_t received = pair.b->stats().received;
  EXPECT_TRUE(pair.until([&] { return pair.b->stats().received > received; }));
  EXPECT_EQ(pair.b->accept_stream().error().code, EAGAIN);
}

}  // namespace
}  // namespace wireplane
