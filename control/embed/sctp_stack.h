// sctp_stack.h: SCTP (RFC 9260) by usrsctp, driven by whoever calls: no thread of it works, no socket of it exists.
//
//   StreamLayer -- send() --> SctpEnd --> usrsctp --> SctpUser::transmit() --> inner packets
//   StreamLayer <-arrived()-- SctpEnd <-- usrsctp <-- input() <-------------- inner packets
//
// usrsctp is one a process. So is the lock here: every call into this file happens within an SctpStack::Use, which
// first brings usrsctp's timers up to date and at its end hands out what arrived. All nodes of a process share both;
// the first node that needs streams starts usrsctp, the last one ends it. usrsctp starts one thread of its own ("SCTP
// iterator"), which sleeps for ever, as nothing that it is for is used here: addresses that come and go would wake it,
// so they stay, for the next end.
//
// What its timers find out it tells nobody (an upcall follows packets only): ends that wait for an answer and have
// heard nothing for a second are asked, four times a second, whether their association is still there.
//
// Two things are done here in its place, as they cost most: the checksum (crc32c.h), and acknowledgements, of which
// usrsctp makes one for every second packet: of those that follow each other within a Use only the last one leaves.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "dataplane/base/result.h"
#include "dataplane/base/time.h"

struct socket;  // usrsctp's, not the kernel's

namespace wireplane {

using SctpSocket = struct ::socket;

// One side of one association, as its owner sees it. Called within a Use; must not call the stack back.
class SctpUser {
 public:
  virtual ~SctpUser() = default;
  virtual void transmit(std::span<const std::uint8_t> packet, std::uint8_t traffic_class) = 0;
  virtual void established(unsigned streams) = 0;  // so many ids can be used both ways
  virtual void broken(int code) = 0;               // every stream is lost; the next send() begins a new association
  virtual void arrived(std::uint16_t id, std::uint32_t ppid, std::span<const std::uint8_t> octets, bool complete) = 0;
  [[nodiscard]] virtual bool has_room() const = 0;  // else what arrives stays in the receive window
  virtual void writable() = 0;                      // send() may be tried again
};

class SctpStack {
 public:
  class Use {  // the lock
   public:
    Use();
    ~Use();
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
  };
  [[nodiscard]] static Status start();  // counted; within a Use, as stop() is
  static void stop();
  [[nodiscard]] static bool forked();  // from a process that used it: what it holds is not ours, and the lock may hang

 private:
  static void look_at_those_that_hope();
};

struct SctpOptions {
  std::size_t packet = 1380;       // octets of an SCTP packet, at most
  unsigned streams = 64;           // ids each way
  std::size_t buffer = 256 << 10;  // octets that wait to be sent or acknowledged, and of the receive window
};

class SctpEnd {
 public:
  static constexpr std::uint16_t kPort = 5158;  // ours and the peer's
  static constexpr std::size_t kHeaders = 12 + 16, kMostMessage = 64 << 10;
  static constexpr std::size_t kBareAck = 12 + 16;  // octets of a packet with a SACK without gaps, and nothing else

  [[nodiscard]] static Result<std::unique_ptr<SctpEnd>> open(SctpUser& user, const SctpOptions& options);
  ~SctpEnd();  // aborts: the peer is told
  SctpEnd(const SctpEnd&) = delete;
  SctpEnd& operator=(const SctpEnd&) = delete;

  void associate();  // begins now, not with the first send()
  void abort();      // not within usrsctp: from take() it may be called
  [[nodiscard]] bool input(std::span<const std::uint8_t> packet, std::uint8_t ecn);  // false: malformed
  // All or nothing. EAGAIN: writable() will be called.
  [[nodiscard]] int send(std::uint16_t id, std::uint32_t ppid, std::span<const std::uint8_t> octets);
  void take();  // there is room again

 private:
  friend class SctpStack;
  friend class SctpStack::Use;
  friend struct SctpCallbacks;
  SctpEnd(SctpUser& user, const SctpOptions& options) : user_{user}, options_{options} {}
  Status configure();
  void notified(const void* notification);
  void hope();  // for the peer's answer: listen_for_the_end() looks whether usrsctp has given up
  void listen_for_the_end();
  [[nodiscard]] std::size_t associations() const;
  [[nodiscard]] std::size_t queued() const;  // octets to be sent, or not acknowledged
  void transmit(std::span<std::uint8_t> packet, std::uint8_t traffic_class);
  void send_ack();

  SctpUser& user_;
  const SctpOptions options_;
  std::uintptr_t handle_ = 0;  // what usrsctp knows us by; it forgets all of an end when that is closed
  bool bound_ = false;         // and it does know us
  SctpSocket* socket_ = nullptr;
  std::uint32_t association_ = 0;  // usrsctp's number of it; 0: not established
  bool woken_ = false, blocked_ = false;
  bool begun_ = false;                        // something was sent, and usrsctp has not said yet that it was in vain
  bool hoping_ = false;                       // among those that are looked at, for an answer
  bool listening_ = false;                    // what usrsctp says now, no packet made it say
  Instant heard_{};                           // when a packet came last, or hope began
  std::array<std::uint8_t, kBareAck> ack_{};  // the last one, which may yet be replaced by a later one
  std::uint8_t ack_class_ = 0;
  unsigned acks_ = 0;  // that it stands for; 0: none
};

}  // namespace wireplane
