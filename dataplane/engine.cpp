#include "dataplane/engine.h"

#include <algorithm>
#include <bit>
#include <cstdio>

#include "dataplane/base/check.h"

namespace wireplane {
namespace {

Limits completed(Limits limits) {
  WG_CHECK(limits.workers >= 1 && limits.workers <= kBuckets);
  if (limits.sessions == 0) limits.sessions = 3 * limits.peers + 64;
  return limits;
}

// Any one worker may come to own all sessions, and a table is at most half full.
std::size_t table_capacity(const Limits& limits) {
  constexpr std::size_t kFewest = 8;  // indices rest for a while, and a table is never full (receiver_indices.cpp)
  return std::clamp(std::bit_ceil(2 * limits.sessions), kFewest, std::size_t{1} << (32 - kBucketBits));
}

}  // namespace

std::string Limits::text() const {
  const Limits l = completed(*this);
  const std::size_t table = table_capacity(l);
  char line[1024];
  const int n = std::snprintf(
      line, sizeof line,
      "workers=%u\npeers=%zu (%zu octets at most)\nsessions=%zu (%zu octets at most)\nbuffers=%zu of %zu (%zu octets)\n"
      "session tables=%u of %zu words (%zu octets)\nrings a worker: handshakes=%zu events=2x%zu orders=%zu "
      "handover=%zu\n",
      l.workers, l.peers, l.peers * sizeof(PeerState), l.sessions, l.sessions * sizeof(Session), l.buffers, l.data_room,
      l.buffers * (l.data_room + kHeadroom + kTailroom), l.workers, table, l.workers * table * 8, l.handshake_ring,
      l.event_ring, l.order_ring, l.handover_ring);
  return {line, static_cast<std::size_t>(n)};
}

Engine::Engine(const Limits& limits, BufferPool* pool, const Aead& aead)
    : limits_{completed(limits)},
      own_pool_{pool == nullptr ? std::make_unique<MemoryPool>(limits.buffers, limits.data_room) : nullptr},
      pool_{pool == nullptr ? own_pool_.get() : pool},
      aead_{aead},
      grace_{limits_.workers},
      sessions_{limits_.sessions},
      routes_{[this](std::function<void()> free) { grace_.retire(std::move(free)); }},
      peer_pages_{limits_.peers * sizeof(PeerState)},
      peers_{static_cast<PeerState*>(peer_pages_.get())},
      settings_{nullptr} {
  for (unsigned i = 0; i < kBuckets; ++i) owner_of_bucket_[i] = static_cast<std::uint8_t>(i % workers());
  for (unsigned i = 0; i < workers(); ++i)
    links_.push_back(std::make_unique<WorkerLink>(limits_, table_capacity(limits_)));
  for (unsigned i = 0; i < workers() * workers(); ++i)
    handover_.push_back(std::make_unique<SpscRing<Packet>>(i / workers() == i % workers() ? 1 : limits_.handover_ring));
  settings_.store(new Settings{}, std::memory_order_relaxed);  // last: what fails before does not reach the destructor
}

Engine::~Engine() { delete settings_.load(std::memory_order_relaxed); }

void Engine::lend(unsigned worker, bool lending) {
  const std::uint64_t bit = std::uint64_t{1} << worker;
  if (!lending) {
    lenders_.fetch_and(~bit, std::memory_order_relaxed);
    return;
  }
  lenders_.fetch_or(bit, std::memory_order_relaxed);
  for (unsigned i = 0; i < workers(); ++i)
    if (i != worker) link(i).doorbell.ring_if_asleep();  // D2's fence: a helper that falls asleep now has seen the bit
}

void Engine::publish(Settings settings) {
  // R4 release, pairs with R3: a worker that sees the pointer sees what it points to.
  const Settings* before = settings_.exchange(new Settings(std::move(settings)), std::memory_order_acq_rel);
  grace_.retire([before] { delete before; });
}

}  // namespace wireplane
