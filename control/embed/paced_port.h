// paced_port.h: the outer port of a node's worker, which waits for the application a little.
//
//   sockets --receive()--> worker --AppPort--> the application
//      ^ while that has no room for a burst they keep what comes, 10 ms at most; then it is dropped, counted, as ever
//
// Without it, whatever the scheduler does to the application for a millisecond is lost, and what runs inside (TCP,
// SCTP, QUIC) takes it for a narrow path, or waits for its timers. The worker's alone; its
// thread, if it has one, naps meanwhile (port.h: no descriptors).
#pragma once
#include "control/embed/app_port.h"
#include "control/system.h"
#include "dataplane/port.h"

namespace wireplane {

class PacedPort final : public Port {
 public:
  static constexpr Duration kLongestWait = 10ms;

  PacedPort(Port& outer, const AppPort& app) : outer_{outer}, app_{app} {}

  void receive(Burst& burst, WorkerContext& context) override {
    if (app_.has_room_for_a_burst()) [[likely]]
      waits_ = full_ = false;
    else if (waits_for_room())
      return;
    outer_.receive(burst, context);
  }
  std::size_t send(Burst& burst, WorkerContext& context) override { return outer_.send(burst, context); }
  void wake_fds(std::vector<int>& fds) const override {
    if (!waits_) outer_.wake_fds(fds);
  }
  [[nodiscard]] std::size_t waiting() const override { return outer_.waiting(); }

 private:
  // Once until there is room again: whoever does not read at all shall not hold up handshakes and streams.
  bool waits_for_room() {
    const Instant now = engine_clock();
    if (!full_) until_ = now + kLongestWait;
    full_ = true;
    return waits_ = now < until_;
  }
  Port& outer_;
  const AppPort& app_;
  bool full_ = false, waits_ = false;
  Instant until_{};
};

}  // namespace wireplane
