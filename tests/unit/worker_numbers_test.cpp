// The numbers of whole bursts where several workers send, which reserve them.
#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "bench/engine_fixture.h"
#include "dataplane/worker.h"
#include "tests/support/seed.h"

namespace wireplane {
namespace {

using bench::EngineFixture;
using test::below;
using test::Random;

struct Inner {
  std::uint32_t peer, length;
};

class HostPort final : public Port {
 public:
  void receive(Burst& burst, WorkerContext& context) override {
    for (const Inner& inner : next) {
      Packet& packet = burst.add();
      packet.buffer = context.buffers.take();
      packet.data = packet.buffer->memory + kHeadroom;
      packet.length = inner.length;
      bench::write_ip(packet.data, inner.length, EngineFixture::host(), EngineFixture::address_of(inner.peer));
    }
    next.clear();
  }
  std::size_t send(Burst&, WorkerContext&) override { return 0; }
  std::vector<Inner> next;
};

struct Datagram {
  std::uint64_t counter;
  std::uint32_t length;
};

class OuterPort final : public Port {
 public:
  void receive(Burst&, WorkerContext&) override {}
  std::size_t send(Burst& burst, WorkerContext& context) override {
    const std::size_t count = burst.size();
    for (Packet& packet : burst) {
      sent[load_le<std::uint32_t>(packet.data + 4)].push_back({load_le<std::uint64_t>(packet.data + 8), packet.length});
      context.release(packet);
    }
    burst.clear();
    return count;
  }
  std::map<std::uint32_t, std::vector<Datagram>> sent;  // by receiver index
};

// Goal: each session's packets get the numbers that follow each other, in their order, however sessions alternate in a
// burst, over 32 bits and up to the last one; who finds none left does not go out, and the others do.
// Method: a worker of two; bursts of 64 packets for one to nine peers at random. A packet's length says which of its
// peer's it is. Sessions begin near 2^32, or near the end, so that they end in the middle of a burst.
TEST(WorkerNumbers, OfABurstFollowEachOtherUpToTheLast) {
  const std::uint64_t seed = test::seed_from_env_or(31);
  Random random{seed};
  for (int run = 0; run < 8; ++run) {
    constexpr std::uint32_t kPeers = 9;
    EngineFixture fixture{kPeers, 2, 1024};
    OuterPort outer;
    HostPort host;
    Worker worker{fixture.engine(), 0, outer, &host};
    std::array<std::uint64_t, kPeers> first, octets{};
    std::array<std::vector<Inner>, kPeers> given;
    for (std::uint32_t peer = 0; peer < kPeers; ++peer) {
      first[peer] = peer % 3 == 0   ? 0
                    : peer % 3 == 1 ? UINT32_MAX - below(random, 100)
                                    : kRejectAfterMessages - below(random, 100);
      fixture.session(peer).sent.counter = first[peer];
    }
    const std::size_t busy = 1 + below(random, kPeers);
    for (int step = 0; step < 6; ++step) {
      for (std::size_t i = 0; i < kReceiveBurst; ++i) {
        const auto peer = static_cast<std::uint32_t>(below(random, busy) * 4 % kPeers);
        host.next.push_back({peer, 64 + 16 * static_cast<std::uint32_t>(given[peer].size() % 80)});
        given[peer].push_back(host.next.back());
      }
      worker.step(EngineFixture::start());  // at one time: what is reserved stays good
    }
    worker.step(EngineFixture::start());  // idle: octets are paid
    for (std::uint32_t peer = 0; peer < kPeers; ++peer) {
      const auto& sent = outer.sent[fixture.session(peer).sent.remote.raw()];
      ASSERT_LE(sent.size(), std::min<std::uint64_t>(kRejectAfterMessages - first[peer], given[peer].size()));
      if (fixture.session(peer).sent.counter < kRejectAfterMessages) {
        ASSERT_EQ(sent.size(), given[peer].size()) << "WG_SEED=" << seed;  // else the last few may wait for another key
      }
      for (std::size_t i = 0; i < sent.size(); ++i) {
        ASSERT_EQ(sent[i].counter, first[peer] + i) << "WG_SEED=" << seed;
        ASSERT_EQ(sent[i].length, given[peer][i].length + kDataOverhead) << "WG_SEED=" << seed;
        octets[peer] += sent[i].length;
      }
      ASSERT_GE(fixture.session(peer).sent.counter, first[peer] + sent.size());
      ASSERT_LE(fixture.session(peer).sent.counter, kRejectAfterMessages);
      ASSERT_EQ(fixture.session(peer).sent.octets, octets[peer]);
    }
  }
}

}  // namespace
}  // namespace wireplane
