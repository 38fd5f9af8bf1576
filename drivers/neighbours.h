// neighbours.h: where a datagram goes next on a link that we drive ourselves: source address and hardware address.
//
//   the device shares an interface with the kernel (af_packet, af_xdp, tap):
//     kernel's addresses, routes, neighbours --netlink--> poll() --> NextHops --published--> workers
//                                     ^-- resolve, confirm --'  <-- wanted -- workers (no neighbour yet: dropped,
//                                     counted)
//   it does not (memif, a NIC of our own):
//     configured addresses and gateway; neighbours by ARP and neighbour discovery, asked through queue 0;
//     without a gateway, a peer is answered by way of whom its last datagram came from
//
// poll() is control's, outside of the packet path, and may take some hundred microseconds when something changed;
// workers read an immutable table. Kernel routes are those of the main table over this interface: policy rules are not
// followed. Cost of find(): a binary search a prefix length in use, and one among the neighbours.
#pragma once
#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dataplane/base/ring.h"
#include "dataplane/base/time.h"
#include "drivers/netlink.h"
#include "drivers/published.h"

namespace wireplane {

struct LinkAddress {  // one of our own, and the network it is in
  Address address;
  std::uint8_t prefix_length{};
};

// Immutable. Everything about the way out over one link.
class NextHops {
 public:
  struct Sources {
    std::vector<Address> own;  // any of them may be a source; the first of a family is the default
    std::vector<KernelRoute> routes;
    std::vector<KernelNeighbour> neighbours;
  };
  struct Hop {
    Address next;    // on the link
    Address source;  // ours
    MacAddress mac{};
  };
  enum class Found : std::uint8_t { kReady, kNoNeighbour, kNoRoute };

  NextHops() = default;
  explicit NextHops(Sources sources);

  // kNoNeighbour: hop.next and hop.source are set. `wanted`: the sticky source, if it is still ours.
  [[nodiscard]] Found find(const Address& to, const Address& wanted, Hop& hop) const;
  [[nodiscard]] bool is_own(const Address& address) const;
  [[nodiscard]] Address own_of(Address::Family family) const;  // the default source; none: no address of that family

  // The neighbours that find() has returned since the last call.
  [[nodiscard]] std::vector<Address> take_used() const;
  void mark_used(const std::vector<Address>& addresses) const;  // what an older table knew of it
  [[nodiscard]] std::vector<Address> gateways_without_mac() const;

 private:
  struct Length {  // all routes of one prefix length, by destination
    std::uint8_t length;
    std::vector<KernelRoute> routes;
  };
  [[nodiscard]] const KernelRoute* route_to(const Address& to) const;
  [[nodiscard]] std::size_t neighbour(const Address& address) const;  // its place, or size()
  [[nodiscard]] Address source_for(const KernelRoute& route, const Address& to, const Address& wanted) const;

  std::vector<Address> own_;
  std::array<std::vector<Length>, 2> lengths_;  // IPv4, IPv6; longest first
  std::vector<KernelNeighbour> neighbours_;     // by address
  std::unique_ptr<std::atomic<bool>[]> used_;   // of neighbours_
};

// What stations were heard from, by any worker: one word a place, so that it is never half written. Direct-mapped: when
// two addresses meet in a place, the later one has it, and the other is asked for again.
class HeardMacs {
 public:
  explicit HeardMacs(std::uint64_t secret);  // keeps others from choosing who meets whom
  void note(const Address& address, const MacAddress& mac);
  [[nodiscard]] std::optional<MacAddress> find(const Address& address) const;

 private:
  static constexpr std::size_t kPlaces = 16'384;
  [[nodiscard]] std::uint64_t hash(const Address& address) const;
  std::uint64_t secret_;
  std::unique_ptr<std::atomic<std::uint64_t>[]> places_;  // 16 bits of the address's hash, 48 of MAC; 0: free
};

struct NeighbourOptions {
  std::string kernel_interface{};           // whose tables to use; empty: what follows
  std::vector<LinkAddress> own{};           // ours on this link; with an interface: besides the interface's
  Address gateway_v4{}, gateway_v6{};       // none: see above
  std::optional<MacAddress> gateway_mac{};  // of everything off the link; no questions asked
  std::uint64_t secret = 0;                 // any random number
};

class Neighbours {
 public:
  static constexpr Duration kAskAgainAfter = 1s, kConfirmEvery = 10s, kReadAtMostEvery = 100ms;

  [[nodiscard]] static Result<std::unique_ptr<Neighbours>> open(NeighbourOptions options, unsigned readers);

  // ---- control
  Status poll(Instant now);
  [[nodiscard]] bool uses_kernel() const { return !options_.kernel_interface.empty(); }
  // The interface that has the name now; 0: none has. Followed by poll(): it may go, and come back as another.
  [[nodiscard]] std::uint32_t interface() const { return interface_.load(std::memory_order_relaxed); }
  [[nodiscard]] const NextHops& latest() const { return table_.latest(); }

  // ---- workers
  [[nodiscard]] Published<NextHops>::Guard read(unsigned reader) { return table_.read(reader); }
  // kReady: hop is complete. kNoNeighbour: hop.next was asked for, and will be known soon. kNoRoute: nobody to ask.
  [[nodiscard]] NextHops::Found find(const NextHops& table, const Endpoint& to, NextHops::Hop& hop);
  // Another number than last time: what was not known may be known now.
  [[nodiscard]] std::uint64_t changes() const { return changes_.load(std::memory_order_acquire); }
  void heard_from(const Address& address, const MacAddress& mac);  // a datagram came from there
  void is_at(const Address& address, const MacAddress& mac);       // a station says where it is
  // The worker that asks the link (queue 0): whose hardware address is wanted; false: nobody's.
  [[nodiscard]] bool take_question(Address& target) { return questions_.pop(target); }

 private:
  Neighbours(NeighbourOptions options, unsigned readers);
  [[nodiscard]] Result<std::unique_ptr<const NextHops>> read_kernel();
  [[nodiscard]] std::unique_ptr<const NextHops> from_options() const;
  void ask(const Address& target, Instant now);
  void publish(std::unique_ptr<const NextHops> table);
  [[nodiscard]] std::uint32_t index_by_name() const;

  NeighbourOptions options_;
  FileDescriptor asker_;  // of the namespace in which the interface is
  std::atomic<std::uint32_t> interface_{0};
  std::atomic<std::uint64_t> changes_{0};
  std::optional<Netlink> netlink_;
  std::optional<NetlinkMonitor> monitor_;
  Published<NextHops> table_;
  HeardMacs stations_, datagrams_;            // by their own word; by their datagrams
  std::atomic<std::uint64_t> last_heard_{0};  // of anybody: the other end of a link of two
  MpmcRing<Address> wanted_, questions_;
  bool stale_ = false;
  Instant read_at_{}, confirmed_at_{};
  std::map<Address, Instant> asked_;
};

}  // namespace wireplane
