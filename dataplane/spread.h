// spread.h: one worker's AEAD work, computed by several; its bursts come back whole and in order.
//
//   owner   launch() --> flight, cut into parts --> [parts] --> run_one() by whoever is idle, and by the owner
//           oldest_done() <-- the flight launched first, once its last part is done
//
// For what receive-side scaling cannot divide: one tunnel arrives at one queue and, but for this, is opened by one
// core. Everything else (window, routes, numbers, the order on the wire) stays with the owner; only calls of the AEAD
// move. The shape is that of Linux's padata, with polling in place of its queues' workers.
//
// A lane a stage: bursts that are being opened, and bursts that are being sealed. Threads: take() to run_one() any, all
// else the owner. Nothing blocks: a helper that lost its core delays what is in flight, and the owner receives nothing
// more once a lane is full. Memory is touched when it is first used: 0.6 MB a worker.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <new>

#include "dataplane/aead/aead.h"
#include "dataplane/base/ring.h"
#include "dataplane/base/zero_pages.h"
#include "dataplane/packet.h"

namespace wireplane {

// Jobs of one burst on their way. `Job`: OpenJob or SealJob.
template <class Job>
struct Flight {
  Burst burst;
  std::uint64_t period = 0;            // of the grace period its pointers belong to (base/grace.h)
  std::atomic<std::uint32_t> left{0};  // parts that are not done
  std::array<Job, kBurst> jobs;
};

// A ring of flights in the order of their launch. The owner's.
template <class Job>
class Lane {
 public:
  static constexpr std::size_t kFlights = 8;

  Lane() : pages_{kFlights * sizeof(Flight<Job>)} {}

  void make() {  // before first use; no-op later
    if (flights_ == nullptr) flights_ = new (pages_.get()) Flight<Job>[kFlights];
  }
  [[nodiscard]] bool empty() const { return head_ == tail_; }
  [[nodiscard]] bool full() const { return tail_ - head_ == kFlights; }
  [[nodiscard]] std::size_t packets() const {
    std::size_t sum = 0;
    for (std::size_t i = head_; i != tail_; ++i) sum += flights_[i % kFlights].burst.size();
    return sum;
  }
  [[nodiscard]] Flight<Job>& next() { return flights_[tail_ % kFlights]; }    // to be filled in and launched; not full
  [[nodiscard]] Flight<Job>& oldest() { return flights_[head_ % kFlights]; }  // not empty
  // F2 acquire, pairs with F1: who sees the last part done sees what every part wrote.
  [[nodiscard]] bool oldest_done() { return !empty() && oldest().left.load(std::memory_order_acquire) == 0; }
  void push() { ++tail_; }
  void pop() { ++head_; }

 private:
  ZeroPages pages_;
  Flight<Job>* flights_ = nullptr;
  std::size_t head_ = 0, tail_ = 0;
};

class Spread {
 public:
  // Long enough that a kernel fills its lanes, short enough that two workers finish together.
  static constexpr std::size_t kPart = 32;

  Lane<OpenJob> opening;
  Lane<SealJob> sealing;

  Spread() : parts_{kRing} {}

  // Owner. Puts the first `jobs` jobs of lane.next() where others find them. Returns the number of parts.
  template <class Job>
  std::size_t launch(Lane<Job>& lane, std::size_t jobs) {
    Flight<Job>& flight = lane.next();
    const std::size_t parts = (jobs + kPart - 1) / kPart;
    flight.left.store(static_cast<std::uint32_t>(parts), std::memory_order_relaxed);  // M1 publishes it with the part
    lane.push();
    for (std::size_t from = 0; from < jobs; from += kPart) {
      Part part{.opens = nullptr,
                .seals = nullptr,
                .count = static_cast<std::uint32_t>(std::min(kPart, jobs - from)),
                .left = &flight.left};
      point_to(part, &flight.jobs[from]);
      WG_CHECK(parts_.push(part));  // as many places as there can be parts
    }
    return parts;
  }

  struct Part {
    OpenJob* opens;  // or null
    SealJob* seals;  // or null
    std::uint32_t count;
    std::atomic<std::uint32_t>* left;
  };
  // Any thread. The oldest part that nobody has taken; false: there is none. Whoever took it computes and finishes it.
  [[nodiscard]] bool take(Part& part) { return parts_.pop(part); }
  static void compute(const Part& part, const Aead& aead) {
    if (part.opens != nullptr) aead.open(part.opens, part.count);
    if (part.seals != nullptr) aead.seal(part.seals, part.count);
  }
  static void finish(const Part& part) {
    part.left->fetch_sub(1, std::memory_order_release);  // F1 release, pairs with F2
  }
  // All three; false: there was none.
  bool run_one(const Aead& aead) {
    Part part{};
    if (!take(part)) return false;
    compute(part, aead);
    finish(part);
    return true;
  }

  [[nodiscard]] std::size_t untaken() const { return parts_.size(); }  // parts; a guess while others take them
  [[nodiscard]] bool empty() const { return opening.empty() && sealing.empty(); }
  [[nodiscard]] std::size_t packets() const { return opening.packets() + sealing.packets(); }
  // The period of the oldest pointer in flight. Not empty.
  [[nodiscard]] std::uint64_t oldest_period() {
    const std::uint64_t open = opening.empty() ? UINT64_MAX : opening.oldest().period;
    const std::uint64_t seal = sealing.empty() ? UINT64_MAX : sealing.oldest().period;
    return std::min(open, seal);
  }

 private:
  static constexpr std::size_t kRing = 128;
  static_assert(kRing >= (Lane<OpenJob>::kFlights + Lane<SealJob>::kFlights) * ((kBurst + kPart - 1) / kPart));

  static void point_to(Part& part, OpenJob* jobs) { part.opens = jobs; }
  static void point_to(Part& part, SealJob* jobs) { part.seals = jobs; }

  MpmcRing<Part> parts_;
};

}  // namespace wireplane
