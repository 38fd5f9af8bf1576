// Wakes of a node that come late: whoever rings may be delayed between saying so and ringing. None may be lost, and
// none may leave a descriptor readable with nobody who takes it back: that is a core that looks for nothing, for ever.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <ctime>
#include <functional>
#include <memory>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "control/embed/app_port.h"
#include "control/embed/node.h"
#include "control/embed/thrifty_pool.h"
#include "tests/support/nodes.h"

namespace {

// One write() to this descriptor, by the thread of this name, waits until `held_back` is false.
std::atomic<int> held_fd{-1};
std::atomic<bool> held_back{false}, is_waiting{false};
thread_local bool may_be_held = false;  // or by a thread that says so

bool is_to_wait(int fd) {
  if (fd != held_fd.load()) return false;
  char name[16] = {};
  ::pthread_getname_np(::pthread_self(), name, sizeof name);
  return may_be_held || std::string_view{name} == "wp-worker-0";
}

// What happens in the midst of this thread's next read() of a descriptor's count.
thread_local std::function<void()> before_read;

// This thread's next ppoll() begins when `held_back` is false; does it end at once?
thread_local bool is_to_sleep_late = false;
std::atomic<bool> sleeps_late{false}, was_ready{false};

}  // namespace

// Before the C library's.
extern "C" int ppoll(pollfd* fds, nfds_t count, const timespec* at_most, const sigset_t*) {
  if (std::exchange(is_to_sleep_late, false)) {
    sleeps_late = true;
    while (held_back) std::this_thread::sleep_for(std::chrono::milliseconds{1});
    was_ready = ::poll(fds, count, 0) > 0;
  }
  timespec left = at_most == nullptr ? timespec{} : *at_most;  // the kernel writes there what is left
  return static_cast<int>(::syscall(SYS_ppoll, fds, count, at_most == nullptr ? nullptr : &left, nullptr, 0));
}
extern "C" ssize_t read(int fd, void* room, std::size_t size) {
  if (size == sizeof(std::uint64_t) && before_read) std::exchange(before_read, nullptr)();
  return ::syscall(SYS_read, fd, room, size);
}
extern "C" ssize_t write(int fd, const void* data, std::size_t size) {
  if (is_to_wait(fd)) {
    held_fd = -1;
    is_waiting = true;
    while (held_back) std::this_thread::sleep_for(std::chrono::milliseconds{1});
    is_waiting = false;
  }
  return ::syscall(SYS_write, fd, data, size);
}

namespace wireplane {
namespace {

using test::loopback;
using test::open;
using test::SteadyClock;

template <class Reached>
bool until(Reached reached) {
  const auto end = SteadyClock::now() + 10s;
  while (SteadyClock::now() < end) {
    if (reached()) return true;
    std::this_thread::sleep_for(1ms);
  }
  return false;
}

bool is_readable(int fd, int milliseconds = 0) {
  pollfd polled{fd, POLLIN, 0};
  return ::poll(&polled, 1, milliseconds) == 1;
}

void hold_back(int fd) {
  held_back = true;
  held_fd = fd;
}

bool let_go() {
  held_back = false;
  return until([] { return !is_waiting; });
}

// Goal: a worker's wake that is rung when another one has been rung and taken meanwhile does not keep the node's
// descriptor readable.
// Method: the worker is stopped between saying that it rings and ringing; a stream's deadline rings in between.
TEST(EmbedWake, ANodesRingThatComesLateIsTakenBack) {
  auto a = open(), b = open({.workers = 1});
  ASSERT_TRUE(b->add_peer(a->key()));
  const auto there = a->add_peer(b->key_text(), loopback(*b));
  ASSERT_TRUE(there);
  std::size_t heard = 0;
  const auto receive = [&] {
    static_cast<void>(!a->process());
    static_cast<void>(!b->process());
    return heard += b->receive([](const Received&) {});
  };
  const std::vector<std::uint8_t> octets(10);
  ASSERT_TRUE(a->send(*there, octets));
  ASSERT_TRUE(until([&] { return receive() == 1; }));
  Stream stream = *b->open_stream(*b->find_peer(a->key()));
  ASSERT_TRUE(until([&] { return receive() == 1 && !is_readable(b->fd(), 20); }));

  hold_back(b->fd());
  ASSERT_TRUE(a->send(*there, octets));
  ASSERT_TRUE(until([&] { return receive() == 2 && is_waiting; })) << "who looks sees it before it has rung";
  stream.set_deadline(1ms);
  ASSERT_TRUE(is_readable(b->fd(), 5000));
  static_cast<void>(!b->process());
  ASSERT_TRUE(let_go());
  EXPECT_TRUE(until([&] {
    static_cast<void>(!b->process());
    return !is_readable(b->fd(), 20);
  }));
}

// Goal: likewise of the descriptor that wakes a worker for what the application sends, where several threads send.
TEST(EmbedWake, APortsRingThatComesLateIsTakenBack) {
  ThriftyPool pool{512, 1536};
  const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  AppPort port{64, FileDescriptor{fd}, {}};
  BufferCache cache{pool};
  Counters counters;
  WorkerContext context{cache, counters};
  Burst burst;
  const auto push = [&] {
    Buffer* buffer = nullptr;
    ASSERT_EQ(pool.take(&buffer, 1), 1u);
    ASSERT_TRUE(port.push({buffer, 100}));
    port.pushed();
  };
  const auto sleep = [&] {  // the worker's
    std::vector<int> fds;
    port.wake_fds(fds);
    return is_readable(fds.at(0));
  };
  const auto receive = [&] {
    port.receive(burst, context);
    const std::size_t count = burst.size();
    for (Packet& packet : burst) context.release(packet);
    burst.clear();
    return count;
  };
  EXPECT_FALSE(sleep());
  hold_back(fd);
  std::thread late{[&] {
    may_be_held = true;
    push();
  }};
  ASSERT_TRUE(until([] { return is_waiting.load(); }));
  push();
  EXPECT_TRUE(is_readable(fd));
  EXPECT_EQ(receive(), 2u);
  EXPECT_FALSE(sleep()) << "nothing is there";
  held_back = false;
  late.join();
  EXPECT_TRUE(is_readable(fd)) << "a wake for nothing";
  EXPECT_EQ(receive(), 0u);
  EXPECT_FALSE(sleep()) << "but one";
  EXPECT_EQ(receive(), 0u);
}

// Two nodes and a stream between them: `b` is driven by whoever calls it.
class EmbedWakeOfTwo : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(b->add_peer(a->key()));
    const auto connected = a->connect(b->key_text(), loopback(*b));
    ASSERT_TRUE(connected);
    there = *connected;
    ours = *there.open_stream();
    ASSERT_TRUE(ours.write(octets));
    const auto accepted = b->accept_stream(10s);
    ASSERT_TRUE(accepted);
    theirs = *accepted;
    ASSERT_TRUE(theirs.read(room, 10s));
    held_back = true;
    sleeps_late = was_ready = false;
  }
  const std::unique_ptr<Node> a = open({.workers = 1}), b = open();
  Connection there;
  Stream ours, theirs;
  const std::vector<std::uint8_t> octets = std::vector<std::uint8_t>(10);
  std::vector<std::uint8_t> room = std::vector<std::uint8_t>(10);
};

// Goal: who waits in a stream's read() is woken, where another thread drives the node and has taken back its ring
// before the reader has begun to sleep, or has run again. Method: the reader is stopped just before it sleeps.
TEST_F(EmbedWakeOfTwo, AReaderIsWokenByWhoeverDrivesTheNode) {
  std::thread reader{[&] {
    is_to_sleep_late = true;
    EXPECT_TRUE(theirs.read(room, 10s));
  }};
  EXPECT_TRUE(until([] { return sleeps_late.load(); }));
  EXPECT_TRUE(ours.write(octets));
  Stream ready;
  EXPECT_TRUE(until([&] {
    static_cast<void>(!b->process());
    return ready || (ready = b->next_ready_stream());
  }));
  EXPECT_TRUE(ready == theirs);
  static_cast<void>(!b->process());
  held_back = false;
  reader.join();
  EXPECT_TRUE(was_ready) << "it slept on until a timer woke it";
}

// Goal: who waits for datagrams is woken, where another thread drives the node from within a stream's read() and has
// taken in what came. Method: the one that waits is stopped just before it sleeps, until the reader has done so.
TEST_F(EmbedWakeOfTwo, WhoeverWaitsIsWokenByAReaderThatDrivesTheNode) {
  std::thread waiter{[&] {
    is_to_sleep_late = true;
    const auto waiting = b->wait(10s);
    EXPECT_TRUE(waiting && *waiting == 1);
  }};
  EXPECT_TRUE(until([] { return sleeps_late.load(); }));
  std::thread reader{[&] { EXPECT_TRUE(theirs.read(room, 10s)); }};
  EXPECT_TRUE(a->send(there, octets));
  EXPECT_TRUE(until([&] { return b->stats().queued_in == 1; }));
  std::this_thread::sleep_for(100ms);  // the reader goes on to sleep
  held_back = false;
  waiter.join();
  EXPECT_TRUE(was_ready) << "it slept on until a timer woke it";
  EXPECT_TRUE(ours.write(octets));
  reader.join();
}

// Goal: what waits inside because the application had no room makes the descriptor readable, too, once it has.
// Method: trains for more than the queue holds; process() until nothing more comes in; then all is taken at once, and
// the descriptor asked.
TEST(EmbedWake, WhatTheQueueHadNoRoomForIsTold) {
  auto a = open({.queue = 2048}), b = open({.queue = 64});
  ASSERT_TRUE(b->add_peer(a->key()));
  const auto there = a->add_peer(b->key_text(), loopback(*b));
  ASSERT_TRUE(there);
  const std::vector<std::uint8_t> octets(1000);
  std::size_t sent = 1, heard = 0, lost = 0;
  const auto missing = [&] {
    heard += b->receive([](const Received&) {}, 10'000);
    return sent - heard - b->stats().dropped(Drop::kInnerSend);  // where we are late it does not wait for us
  };
  const auto all = [&] {
    return until([&] {
      static_cast<void>(!a->process());
      static_cast<void>(!b->process());
      return missing() == 0;
    });
  };
  ASSERT_TRUE(a->send(*there, octets));
  ASSERT_TRUE(all());
  for (std::size_t round = 0; round < 100; ++round) {
    const std::size_t count = round < 20 ? 64 : 60 + round * 5;
    const std::vector<Datagram> burst(count, Datagram{*there, octets});
    ASSERT_EQ(*a->send(burst), count);
    sent += count;
    while (a->stats().queued_out != 0) static_cast<void>(!a->process());  // a turn ends after a millisecond
    for (int i = 0; i < 4; ++i) static_cast<void>(!b->process());
    lost += missing() != 0 && !is_readable(b->fd(), 20);
    ASSERT_TRUE(all()) << missing() << " of " << count;
  }
  EXPECT_EQ(lost, 0u) << "times";
}

// Goal: what a step read and had no room for is handed over by the next one, or the descriptor tells of it.
// Method: short trains, so that many messages are expected to bring little; then two long ones at once.
TEST(EmbedWake, TrainsLongerThanWereExpectedAreHandedOver) {
  auto a = open({.queue = 2048}), b = open({.queue = 2048});
  ASSERT_TRUE(b->add_peer(a->key()));
  const auto there = a->add_peer(b->key_text(), loopback(*b));
  ASSERT_TRUE(there);
  const std::vector<std::uint8_t> octets(1000);
  std::size_t heard = 0, lost = 0;
  const auto receive = [&] { return heard += b->receive([](const Received&) {}, 10'000); };
  const auto send = [&](std::size_t count) {
    const std::vector<Datagram> burst(count, Datagram{*there, octets});
    EXPECT_EQ(*a->send(burst), count);
    while (a->stats().queued_out != 0) static_cast<void>(!a->process());  // a turn ends after a millisecond
  };
  const auto all = [&](std::size_t count) {
    return until([&] {
      static_cast<void>(!a->process());
      static_cast<void>(!b->process());
      return receive() >= count;
    });
  };
  send(1);
  ASSERT_TRUE(all(1));
  for (std::size_t round = 0; round < 60; ++round) {
    for (int i = 0; i < 6; ++i) {
      heard = 0;
      for (int k = 0; k < 4; ++k) send(round < 20 ? 32 : 4);
      ASSERT_TRUE(all(round < 20 ? 128 : 16));
    }
    heard = 0;
    send(64);
    send(64);
    static_cast<void>(!b->process());
    receive();
    lost += heard < 128 && !is_readable(b->fd(), 20);
    ASSERT_TRUE(all(128)) << heard;
  }
  EXPECT_EQ(lost, 0u) << "times";
}

// Goal: a deadline that is set while the node takes back its ring is waited for.
// Method: much is sent, then little: that makes process() take the ring back behind its turn; the deadline comes then,
// as if from another thread. Of a stream that has lost its peer, so that nothing else is due.
TEST(EmbedWake, ADeadlineSetWhileARingIsTakenBackIsWaitedFor) {
  auto a = open(), b = open();
  ASSERT_TRUE(b->add_peer(a->key()));
  const auto there = a->add_peer(b->key_text(), loopback(*b));
  ASSERT_TRUE(there);
  const std::vector<std::uint8_t> octets(10);
  ASSERT_TRUE(a->send(*there, octets));
  ASSERT_TRUE(until([&] {
    static_cast<void>(!a->process());
    static_cast<void>(!b->process());
    return b->receive([](const Received&) {}) == 1;
  }));
  const auto gone = a->add_peer(PublicKey{{9}});
  ASSERT_TRUE(gone);
  Stream stream = *a->open_stream(*gone);
  ASSERT_TRUE(a->remove_peer(PublicKey{{9}}));
  ASSERT_TRUE(until([&] { return a->process() && !is_readable(a->fd(), 20); }));

  const std::vector<Datagram> much(32, Datagram{*there, octets});
  ASSERT_EQ(*a->send(much), much.size());
  ASSERT_TRUE(a->process());
  ASSERT_TRUE(a->send(*there, octets));
  bool set = false;
  before_read = [&] {
    set = true;
    stream.set_deadline(30ms);
  };
  ASSERT_TRUE(a->process());
  ASSERT_TRUE(set);
  EXPECT_TRUE(is_readable(a->fd(), 300));
}

class BothWays : public ::testing::TestWithParam<unsigned> {};
INSTANTIATE_TEST_SUITE_P(Workers, BothWays, ::testing::Values(0u, 2u));

// Goal: threads that set streams' deadlines, that process, that add and remove peers, and one that closes the node in
// the midst of it share nothing unguarded. Method: ThreadSanitizer looks on.
TEST_P(BothWays, DeadlinesPeersAndTheEndComeFromAnyThread) {
  for (int round = 0; round < 5; ++round) {
    auto node = open({.workers = GetParam()}), other = open();
    const auto there = node->add_peer(other->key_text(), loopback(*other));
    ASSERT_TRUE(there);
    const std::vector<std::uint8_t> octets(10);
    std::vector<std::thread> busy;
    std::atomic<bool> ended{false};
    for (int i = 0; i < 2; ++i)
      busy.emplace_back([&] {
        auto stream = node->open_stream(*there);
        for (int k = 1; !ended && stream; ++k) stream->set_deadline(k % 2 == 0 ? 1ms : 1h);
      });
    busy.emplace_back([&] {
      while (node->process()) std::this_thread::yield();
    });
    busy.emplace_back([&] {
      for (std::uint8_t k = 1; !ended; k = static_cast<std::uint8_t>(k % 200 + 1)) {
        PublicKey key{{k, 7}};
        const auto peer = node->add_peer(key, {.endpoint = Endpoint{}});
        if (peer) static_cast<void>(!node->send(*peer, octets));
        static_cast<void>(!node->remove_peer(key));
      }
    });
    std::this_thread::sleep_for(30ms);
    node->close();
    ended = true;
    for (auto& thread : busy) thread.join();
  }
}

}  // namespace
}  // namespace wireplane
