// udp_receiver.h: bursts from the kernel's sockets, trains (UDP_GRO) included.
//
//   plain    64 messages, a buffer each
//   trains   [buffer] [spill]; where they are of long datagrams, the first messages have a buffer a datagram, as long
//   as
//            those of the last train, so that the kernel copies straight to packets: [dg 1] [dg 2] ... [dg n] [spill]
//
// or         [64 KiB] ...   where the port has buffers for whole trains (train_buffers.h): the datagrams stay in there
//
// What does not fit that guess (another length, too many trains) lies in the buffers and the 64 KiB behind them, and is
// cut out from there with a copy, as are short datagrams. What the burst has no room for waits in place for the next
// call. UDP_GRO is asked for when bursts are large, and given up when no trains come: it costs the kernel a lookup a
// datagram. Cost: a call a burst and family; a socket that was found empty is not asked again at once,
// nor with every burst while much is sent and nothing comes.
#pragma once
#include <sys/socket.h>

#include <array>
#include <memory>

#include "drivers/train_buffers.h"
#include "drivers/udp_connections.h"
#include "drivers/udp_message.h"

namespace wireplane {

class UdpReceiver {
 public:
  // `v4_trains`, `v6_trains`: the kernel knows UDP_GRO.
  // `whole`: buffers for whole trains, or none.
  UdpReceiver(bool v4_trains, bool v6_trains, UdpConnections& connections, TrainBuffers* whole);
  ~UdpReceiver();
  UdpReceiver(const UdpReceiver&) = delete;
  UdpReceiver& operator=(const UdpReceiver&) = delete;

  // A descriptor < 0: that family is not there.
  void receive(int v4, int v6, Burst& burst, WorkerContext& context);
  // So many were sent after the last call, so that the next one comes at once: a socket that was empty rests.
  void sent(std::size_t packets);
  // The next call does not come at once: what was empty may not be.
  void time_passes() { time_passed_ = true; }
  // The last call ended before every socket that it asked was empty.
  [[nodiscard]] bool may_have_more() const { return may_have_more_; }
  // Datagrams that were read are still in here: the last call had no room or no buffers for them.
  [[nodiscard]] bool waits_for_buffers() const { return next_ != received_; }
  [[nodiscard]] std::uint64_t trains() const { return trains_.get(); }  // any thread
  [[nodiscard]] std::uint64_t copied() const { return copied_.get(); }  // datagrams of trains that were not guessed

 private:
  static constexpr std::size_t kWhole = 3;    // the first messages, where trains are kept whole
  static constexpr std::size_t kWorthIt = 4;  // datagrams
  static constexpr std::size_t kWide = 2, kWideParts = kLongestTrain + 1;
  static constexpr std::size_t kParts = kWide * kWideParts + (kUdpMessages - kWide) * 2;
  static constexpr std::size_t kSpill = 65'536;

  struct Lane {         // a socket
    bool able = false;  // it knows UDP_GRO
    bool asked_for = false;
    std::size_t segment = 0;             // how long the datagrams of the last train were; 0: no trains lately
    std::size_t likely = 8;              // messages
    std::size_t per_message = 1;         // datagrams, lately
    bool whole = false;                  // its trains are kept whole
    bool drained = false;                // just now: the next call, which comes at once, leaves it alone
    bool more = false;                   // it had more than the burst had room for, perhaps
    unsigned rest = 0, empty = 0;        // calls to leave it alone while others are busy; calls that found nothing
    unsigned without = 0;                // calls since the last train
    std::uint32_t busy = 0, wanted = 4;  // large bursts without UDP_GRO, and after how many it is asked for
    std::uint32_t vain = 0;              // messages since the last train
    std::uint64_t connection = 0;        // its number
  };
  struct Plan {  // what the messages were prepared for
    std::size_t segment = 0;
    bool spill = false, whole = false;
    bool operator==(const Plan&) const = default;
  };
  struct Incoming {
    SocketAddress source;
    std::uint16_t buffers;  // how many it has
    alignas(cmsghdr) std::array<std::uint8_t, kUdpControlOctets> control;
  };
  struct Current {  // the message being taken apart
    Packet like;
    std::size_t length, segment;  // segment: of a train; else length
    std::size_t at, number;       // of the next datagram
  };
  struct Seen {  // in this call of recvmmsg
    std::size_t messages, datagrams, segment;
  };

  // Lanes by number: the port's sockets, then those of connections.
  static constexpr std::size_t kV4 = 0, kV6 = 1, kConnected = 2, kLanes = kConnected + UdpConnections::kMost;

  void meet_connections();
  [[nodiscard]] bool comes_later(std::size_t number) const;
  void ask(std::size_t number, Burst& burst, std::size_t limit, WorkerContext& context);
  void name_sources(bool wanted);
  void note_source();
  std::size_t prepare(const Lane& lane, std::size_t wanted, WorkerContext& context);
  bool prepare_message(std::size_t i, WorkerContext& context);
  void change_plan(const Plan& plan, WorkerContext& context);
  void hand_over(Burst& burst, std::size_t limit, WorkerContext& context);
  [[nodiscard]] bool hand_over_train(Burst& burst, std::size_t limit, WorkerContext& context);
  void begin_message();
  [[nodiscard]] bool holds_train_buffer(std::size_t i) const;
  [[nodiscard]] bool cut(Burst& burst, std::size_t length, WorkerContext& context);
  [[nodiscard]] Buffer* spare(WorkerContext& context);
  void gather(std::size_t offset, std::size_t length, std::uint8_t* to) const;
  void learn(Lane& lane, int fd, std::size_t messages, bool drained, const WorkerContext& context);
  void ask_for_trains(Lane& lane, int fd);
  static std::size_t first_part(std::size_t i) {
    return i < kWide ? i * kWideParts : kWide * kWideParts + (i - kWide) * 2;
  }

  UdpConnections& connections_;
  std::array<Lane, kLanes> lanes_{};
  std::array<int, kLanes> fds_{};      // < 0: not there
  std::size_t last_ = kConnected - 1;  // of those that may be there
  bool found_nothing_ = false;         // the last call
  bool may_have_more_ = false;         // likewise
  bool time_passed_ = false;           // since the last call
  unsigned in_vain_ = 0;               // calls in a row that asked and found nothing
  unsigned skip_ = 0;                  // calls that shall not ask
  unsigned unsent_ = 0;                // of them, since something was sent
  std::size_t first_ = 0;              // who is asked first changes, so that no socket starves another
  Plan plan_;
  std::size_t stale_ = 0, prepared_ = 0;  // messages [stale_, prepared_) are as plan_ wants them
  std::size_t next_ = 0, received_ = 0;   // messages [next_, received_) have not been handed over yet
  bool begun_ = false;                    // current_ is that of next_
  Current current_{};
  Buffer* train_ = nullptr;  // where it lies, if its datagrams stay there
  TrainBuffers* whole_;
  bool named_ = true;            // messages are prepared for their sources
  Endpoint connected_to_;        // whom those that are not come from
  Endpoint source_;              // of the last messages with a source,
  std::uint32_t of_source_ = 0;  // and how many in a row
  Seen seen_{};
  std::uint8_t* spill_ = nullptr;  // kSpill a message; touched when it is needed
  std::array<mmsghdr, kUdpMessages> receiving_{};
  std::array<Incoming, kUdpMessages> incoming_;  // these two written as messages are prepared: no page before
  std::array<iovec, kParts> parts_;
  std::array<Buffer*, kParts> held_{};  // behind parts_; null: none, or the spill
  Tally trains_, copied_;
};

}  // namespace wireplane
