// udp_sender.h: bursts to the kernel's sockets: a message a peer and length where the kernel takes trains.
//
//   burst: A1 B1 A2 B2 A3 | group by destination, DS field and length, in order -> train A (3), train B (2)
//   sendmmsg of up to 64 trains, each with UDP_SEGMENT and an iovec for what lies side by side; short ones are put
//   together
//
// A peer that has a socket of its own (udp_connections.h) is sent to with that; what fails there is sent with the
// port's socket, which has the last word. A peer's packets keep their order; those of different peers may pass each
// other. Where a train is refused its datagrams are sent one by one, which tells whose fault it was; if it was the
// train's (no route that segments, a link with a smaller MTU), trains are left alone for a while. Cost: one message a
// train, 12 ns a datagram in it.
#pragma once
#include <sys/socket.h>

#include <array>

#include "drivers/udp_connections.h"
#include "drivers/udp_message.h"

namespace wireplane {

class UdpSender {
 public:
  // `v4_trains`, `v6_trains`: the kernel knows UDP_SEGMENT.
  UdpSender(bool v4_trains, bool v6_trains, UdpConnections& connections);

  // Takes all of the burst; a descriptor < 0: that family is not there. Returns how many left.
  std::size_t send(int v4, int v6, Burst& burst, WorkerContext& context);
  [[nodiscard]] std::uint64_t trains() const { return trains_.get(); }    // any thread
  [[nodiscard]] std::uint64_t refused() const { return refused_.get(); }  // trains that had to be taken apart

 private:
  struct Train {
    const Endpoint* to;
    const std::uint8_t* end;  // of its last datagram
    const Buffer* buffer;     // of its last datagram
    std::uint32_t octets;
    std::uint16_t segment, count, first, last;  // packets of the burst, linked by next_
    std::uint8_t tos;
    std::uint8_t by;  // which socket
    bool in_one_piece, in_one_buffer;
    bool open;  // nothing shorter has been its end
  };
  struct Outgoing {
    SocketAddress destination;
    std::uint16_t train;
    bool sticky;
    bool again;  // was tried a second time
    alignas(cmsghdr) std::array<std::uint8_t, kUdpControlOctets> control;
  };
  struct Lane {  // a family's socket
    bool able;
    std::uint32_t below;      // trains of shorter datagrams only
    std::uint32_t pause = 0;  // bursts until the next attempt
    std::uint32_t next_pause;
  };

  // Sockets by number: the port's, then those of connections.
  static constexpr std::size_t kV4 = 0, kV6 = 1, kConnected = 2, kSockets = kConnected + UdpConnections::kMost;

  void group(Burst& burst, WorkerContext& context);
  [[nodiscard]] std::size_t socket_for(const Endpoint& to);
  [[nodiscard]] bool join(Train& train, const Packet& packet, std::uint16_t i);
  std::size_t send_by(std::size_t socket, Burst& burst, WorkerContext& context);
  std::size_t flush(std::size_t socket, std::size_t count, Burst& burst, WorkerContext& context);
  std::size_t send_singly(std::size_t socket, Train& train, int why, Burst& burst, WorkerContext& context);
  [[nodiscard]] bool go_without(std::size_t& socket, int code);
  [[nodiscard]] Lane& lane_of(const Train& train) { return train.to->remote.is_v4() ? v4_ : v6_; }
  std::size_t lay_out(const Train& train, Burst& burst, iovec* parts);
  void release(const Train& train, Burst& burst, WorkerContext& context);
  void put(std::size_t at, std::size_t train, iovec* parts, std::size_t count, bool alone);
  void put_addresses(std::size_t at, bool alone);
  bool try_again(std::size_t at, int code, bool alone);
  template <class Do>
  void for_each(const Train& train, Burst& burst, Do what);
  void wake(Lane& lane);
  static void rest(Lane& lane, std::uint32_t below);

  UdpConnections& connections_;
  Lane v4_, v6_;
  std::array<int, kSockets> fds_{};  // < 0: not there
  std::size_t train_count_ = 0;
  std::array<std::uint16_t, kSockets> trains_by_{};  // how many, of this burst
  std::array<Train, kBurst> train_;
  std::array<std::uint16_t, kBurst> next_;
  std::array<std::uint16_t, 64> place_;  // hash of the destination -> its last train + 1
  std::array<iovec, kBurst + 1> parts_;
  std::array<std::uint8_t, 32'768> copies_;          // of trains of short datagrams
  std::array<mmsghdr, kUdpMessages + 1> sending_{};  // the last: of what is sent singly
  std::array<Outgoing, kUdpMessages + 1> outgoing_;  // written as messages are: no page before
  Tally trains_, refused_;
};

}  // namespace wireplane
