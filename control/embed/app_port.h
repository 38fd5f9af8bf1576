// app_port.h: the inner port of a node: the application stands where the host's network would.
//
//   application --push()--> to_tunnel (bounded) --receive()--> worker
//   application <--pop()--- to_app    (bounded) <---send()---- worker --ringer--> the application's descriptor
//   streams  <--pop_sctp()- to_sctp   (bounded) <---send()---- worker --ringer--> whoever drives the streams
//
// The octets are copied once on the way out, between the application's memory and a buffer of the engine's pool; what
// passes the rings is the buffer, a burst at a time. A full ring refuses: push() says so to the application, send()
// counts Drop::kInnerSend. push() and pop() from any thread, each side under a lock that is held for one such call;
// receive(), send() and wake_fds() are the worker's. pop_sctp() is called by one thread at a time (within SCTP's lock).
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "control/embed/bulk_ring.h"
#include "dataplane/engine.h"
#include "dataplane/port.h"
#include "drivers/file_descriptor.h"

namespace wireplane {

class AppPort final : public Port {
 public:
  struct Outbound {
    Buffer* buffer;  // the packet begins behind its headroom
    std::uint32_t length;
    std::uint8_t* data = nullptr;  // or there
  };
  struct Inbound {
    Buffer* buffer;
    const std::uint8_t* data;
    std::uint32_t length;
    PeerId from;  // generation 0: nobody (our own ICMP errors)
  };

  // `capacity`: of each ring, a power of two; towards the application two of a worker's bursts at
  // least. `wake` is an eventfd
  // that wakes the worker's thread, or none. `ringer` is called by the worker after packets were put into to_app; may
  // be empty.
  AppPort(std::size_t capacity, FileDescriptor wake, std::function<void()> ringer);
  // From here on SCTP over IPv6 goes into a ring of its own. Before the worker's first step.
  void divert_sctp(std::function<void()> ringer);
  ~AppPort() override;  // releases what is still inside

  void receive(Burst& burst, WorkerContext& context) override;
  std::size_t send(Burst& burst, WorkerContext& context) override;
  void wake_fds(std::vector<int>& fds) const override;

  [[nodiscard]] std::size_t push(std::span<const Outbound> packets);  // how many were taken; then it is full
  [[nodiscard]] bool push(const Outbound& packet) { return push(std::span{&packet, 1}) != 0; }
  void pushed();  // after a burst of pushes
  [[nodiscard]] std::size_t pop(std::span<Inbound> room);
  [[nodiscard]] bool pop(Inbound& packet) { return pop(std::span{&packet, 1}) != 0; }
  [[nodiscard]] std::size_t pop_sctp(std::span<Inbound> room) { return to_sctp_ == nullptr ? 0 : to_sctp_->pop(room); }
  [[nodiscard]] std::size_t queued_in_sctp() const { return to_sctp_ == nullptr ? 0 : to_sctp_->size(); }
  [[nodiscard]] std::size_t queued_out() const { return to_tunnel_.size(); }
  [[nodiscard]] std::size_t queued_in() const { return to_app_.size(); }
  // Of what a worker brings, for the application and for streams.
  [[nodiscard]] bool has_room_for_a_burst() const {
    const std::size_t most = capacity_ - kReceiveBurst;
    return to_app_.size() <= most && queued_in_sctp() <= most;
  }

 private:
  void ring() const;

  const std::size_t capacity_;  // of those to the application and to streams
  std::mutex pushing_, popping_;
  BulkRing<Outbound> to_tunnel_;
  BulkRing<Inbound> to_app_;
  std::unique_ptr<BulkRing<Inbound>> to_sctp_;
  FileDescriptor wake_;
  std::function<void()> ringer_, sctp_ringer_;
  // The worker calls wake_fds() just before it sleeps: that arms the doorbell.
  mutable Doorbell doorbell_;
  mutable bool armed_ = false;  // the worker's alone
  // Rings that were not read yet, or not even written: wake_ is readable, or about to be.
  mutable std::atomic<std::uint32_t> rings_{0};
};

}  // namespace wireplane
