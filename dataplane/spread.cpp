// spread.cpp: open and seal when other workers help. Read worker.cpp's step() first, then spread.h.
//
//   step n     receive -> classify -> find -> launch   | opening lane: parts, computed by whoever is idle |
//   step n+k      the oldest burst that is open -> accept ... number -> launch   | sealing lane |
//   step n+m         the oldest burst that is sealed -> out
//
// Bursts pass both lanes in order, so an inner flow keeps its order, whoever computed which part.
#include <algorithm>
#include <bit>
#include <utility>

#include "dataplane/worker.h"

namespace wireplane {
namespace {

constexpr std::size_t kAhead = 4;  // parts a helper shall find, so that it need not wait for our next step
// Every step full for so long, and our queue is the bottleneck; what it gave meanwhile is the rate of this core alone.
constexpr Duration kPressed = std::chrono::milliseconds{5};
constexpr unsigned kPressedSteps = 128;
constexpr Duration kWatch = std::chrono::milliseconds{10};
constexpr double kWorthIt = 1.05;    // of the rate alone, or nothing is gained
constexpr double kFitsAlone = 0.75;  // of the rate alone, and one core will do
// Both the rate alone and the verdict that help is in vain may be wrong, or change: each is looked at again, sooner
// while it is new.
constexpr Duration kShortest = std::chrono::milliseconds{20}, kLongest = std::chrono::seconds{1};

}  // namespace

template <class Job>
void Worker::launch(Lane<Job>& lane, std::size_t jobs) {
  const std::size_t parts = link_.spread.launch(lane, jobs);
  link_.counters.parts_spread.add(parts);
  watch_.parts += parts;
}

void Worker::open_with_helpers(Burst& burst) {
  Spread& spread = link_.spread;
  if (!burst.empty()) {
    Flight<OpenJob>& flight = spread.opening.next();
    flight.burst.take_from(burst);
    flight.period = period_;
    launch(spread.opening, prepare_open(flight.burst, flight.jobs.data()));
  }
  if (spread.sealing.full() || !spread.opening.oldest_done()) return;
  Flight<OpenJob>& flight = spread.opening.oldest();
  finish_open(flight.burst, flight.jobs.data());
  burst.take_from(flight.burst);
  period_ = flight.period;  // what becomes of it holds pointers as old as that
  spread.opening.pop();
}

void Worker::transmit_with_helpers(Burst& burst) {
  Spread& spread = link_.spread;
  if (!burst.empty()) {
    worked_ = true;
    number(burst);
    Flight<SealJob>& flight = spread.sealing.next();
    flight.burst.take_from(burst);
    flight.period = period_;
    if (moves_count_ != 0) keep_endpoints(flight.burst);
    launch(spread.sealing, prepare_seal(flight.burst, flight.jobs.data()));
  }
  for (; spread.sealing.oldest_done(); spread.sealing.pop()) {
    worked_ = true;
    send_out(spread.sealing.oldest().burst);
  }
}

// An endpoint that a peer has just moved to is remembered for this step only: the packet takes it along, where it kept
// whence it came.
void Worker::keep_endpoints(Burst& burst) {
  for (Packet& packet : burst) {
    packet.from = *packet.to;
    packet.to = &packet.from;
  }
}

// Helpers come and go: what they leave is computed here, but for a little that they shall find when they look again.
void Worker::work_ahead(bool nothing_else) {
  const std::size_t leave = lending_ ? kAhead * (engine_.workers() - 1) : 0;
  while (link_.spread.untaken() > leave || nothing_else) {
    if (!link_.spread.run_one(engine_.aead())) return;
    ++watch_.own_parts;
    nothing_else = false;
  }
}

// Lends when for kPressed every step found a full burst; what they did a second is what this core can do alone.
void Worker::consider_lending() {
  if (lending_) return watch_lending();
  const bool pressed = full_ && now_ >= not_before_ && link_.spread.empty();
  if (pressed && !pressed_) watch_ = {.since = now_, .idle_elsewhere = idle_elsewhere()};
  pressed_ = pressed;
  if (pressed && now_ - watch_.since >= kPressed && watch_.steps >= kPressedSteps) {
    alone_ = watch_.rate(now_);
    if (idle_elsewhere() == watch_.idle_elsewhere)
      pause_for_longer();  // nobody has time to help
    else
      lend(true);
  }
  watch_.octets += received_;
  ++watch_.steps;
}

// Grows while another worker has nothing to do. One that sleeps will have time, too.
std::uint64_t Worker::idle_elsewhere() const {
  std::uint64_t steps = 0;
  for (unsigned i = 0; i < engine_.workers(); ++i) {
    if (i == number_) continue;
    const WorkerLink& other = engine_.link(i);
    steps += other.counters.idle_steps.get() + (other.doorbell.asleep() ? static_cast<std::uint64_t>(ns(now_)) : 0);
  }
  return steps;
}

// Stops when one core would do again, when nobody helped, or when help did not help: packets so small, or cores so far
// from each other, that moving them costs more than computing here. And now and then, to see what alone would be.
void Worker::watch_lending() {
  watch_.octets += received_;
  watch_.was_full = watch_.was_full || full_;
  if (now_ - watch_.since < kWatch) return;
  const double rate = watch_.rate(now_);
  const bool helped = watch_.own_parts < watch_.parts - watch_.parts / 16;
  const bool in_vain = !helped || (watch_.was_full && rate < alone_ * kWorthIt);
  if (in_vain) {
    lease_ = kShortest;
    pause_for_longer();
    lend(false);
  } else if (now_ >= lent_until_) {
    lease_ = std::min(2 * lease_, kLongest);
    pause_ = kShortest;
    lend(false);
  } else if (rate < alone_ * kFitsAlone) {
    lend(false);
  } else {
    watch_ = {.since = now_};
  }
}

void Worker::pause_for_longer() {
  not_before_ = now_ + pause_;
  pause_ = std::min(2 * pause_, kLongest);
}

void Worker::lend(bool lending) {
  link_.spread.opening.make();
  link_.spread.sealing.make();
  lending_ = lending;
  pressed_ = false;
  watch_ = {.since = now_};
  lent_until_ = now_ + lease_;
  engine_.lend(number_, lending);
}

// We had nothing to do: a part of somebody else's, then our own ports again.
void Worker::help() {
  for (std::uint64_t lenders = engine_.lenders(); lenders != 0; lenders &= lenders - 1) {
    const auto lender = static_cast<unsigned>(std::countr_zero(lenders));
    if (lender == number_ || !engine_.link(lender).spread.run_one(engine_.aead())) continue;
    link_.counters.parts_helped.add(1);
    worked_ = true;
    return;
  }
}

}  // namespace wireplane
