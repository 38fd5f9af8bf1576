// udp_connections.h: sockets of their own for the few peers that much passes to and from.
//
//   port's socket   0.0.0.0:51820            everybody, and whoever comes anew
//   connections     192.0.2.1:51820 <-> 198.51.100.7:4000     bound to the peer's Endpoint::local, connected to its
//   remote
//
// The kernel finds a route for each message that names its destination, more slowly still where it says its source; a
// connected socket keeps the route and knows both. What comes from that peer comes there, and needs neither source nor
// own address: 0.7 us less of 4 a datagram, both ways together. A peer is taken in when 1024 messages passed within a
// second, and let go when a second brought few. Whatever fails is sent with the port's socket instead, which has the
// last word; none is opened where descriptors, privilege or the address are missing. Not for link-local addresses.
//
// Between bind() and connect() such a socket is the kernel's choice for everybody who sends to that address of ours: as
// long as it is `fresh` (not found empty since its youth), its datagrams are read with their sources.
//
// Owner: the port's worker. Control may, at any time, disconnect all and set their mark: under a lock that the worker
// takes only to open and to close one. For a port with one worker: who else shall read what steering would have given
// to another?
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "dataplane/base/endpoint.h"
#include "drivers/file_descriptor.h"
#include "drivers/udp_port.h"

namespace wireplane {

class UdpConnections {
 public:
  static constexpr std::size_t kMost = 8, kNone = ~std::size_t{0};
  static constexpr std::uint32_t kLittleOfMuch = 16;  // who has not a 16th of options.much in a period goes
  static constexpr std::int64_t kYouth = 20;  // ms, in which what the kernel had begun when it was connected has ended

  struct Connection {
    FileDescriptor fd;  // none: free
    Endpoint peer;
    std::uint64_t hash = 0;  // of peer
    std::uint32_t messages = 0;
    std::uint64_t number = 0;  // of all that were opened: whose place is taken by another one knows
    std::int64_t since = 0;    // ms
    bool fresh = false;        // may hold what others sent before it was connected
    bool leaving = false;      // nothing is sent with it any more, and it is closed when it is empty
  };

  explicit UdpConnections(const UdpOptions& options);
  UdpConnections(const UdpConnections&) = delete;
  UdpConnections& operator=(const UdpConnections&) = delete;

  // ---- the worker's
  [[nodiscard]] std::size_t find(const Endpoint& to) const;  // to send to; kNone: by the port's socket
  [[nodiscard]] const Connection& at(std::size_t i) const { return all_[i]; }
  [[nodiscard]] bool is_open(std::size_t i) const { return static_cast<bool>(all_[i].fd); }
  [[nodiscard]] bool any() const { return count_.load(std::memory_order_relaxed) != 0; }
  void used(std::size_t i, std::uint32_t messages) { all_[i].messages += messages; }
  // So many messages to or from there passed the port's socket, `fd`: perhaps it is connected now.
  void note(const Endpoint& peer, std::uint32_t messages, int fd);
  void leave(std::size_t i) { all_[i].leaving = true; }
  [[nodiscard]] bool is_young(std::size_t i) const { return now_ - all_[i].since < kYouth; }
  void found_empty(std::size_t i);  // its socket: it is fresh no more, or gone
  void look_at_clock();             // once a call: the quiet ones leave

  // ---- any thread
  [[nodiscard]] unsigned count() const { return count_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t opened() const { return opened_.load(std::memory_order_relaxed); }
  // Control, with `change` under the lock: nothing is opened meanwhile, and afterwards nothing is bound to the old
  // port.
  template <class Change>
  void disconnect_all(Change change) {
    const std::lock_guard lock{changing_};
    change();
    disconnect();
  }
  void set_mark(std::uint32_t mark);

 private:
  struct Candidate {
    std::uint64_t hash = 0;
    std::uint32_t messages = 0;
  };
  static constexpr std::size_t kCandidates = 16;

  [[nodiscard]] Candidate* candidate(std::uint64_t hash, std::uint32_t messages);  // null: not frequent enough
  [[nodiscard]] bool open(const Endpoint& peer, std::uint64_t hash, int fd);
  void close(std::size_t i);
  void disconnect();

  const UdpOptions options_;
  const std::size_t most_;
  std::array<Connection, kMost> all_;
  std::array<Candidate, kCandidates> candidates_{};
  std::int64_t now_ = 0, period_ = 0;  // ms; the number of this period
  unsigned failures_ = 0, pause_ = 0;  // in a row; periods to leave it alone
  std::mutex changing_;                // of descriptors: who closes one, and who replaces what is behind one
  std::atomic<unsigned> count_{0};
  std::atomic<std::uint64_t> opened_{0};
};

}  // namespace wireplane
