// ip_stack_wire.cpp: packets between the node and lwIP.
//
// What a peer sends is authentic, which does not make it well meant. lwIP is a host on a link: it would forward what is
// not for it, take addresses and routes from whoever advertises them, and speak of groups. A host inside a tunnel needs
// none of that, so lwIP gets only unicast TCP, UDP, echoes and ICMP errors, to one of our addresses, without IPv6
// extensions but for fragments.
// spec: RFC 1858 §4 (tiny and overlapping fragments), RFC 4890 §4.3 (ICMPv6)
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "control/embed/ip_stack_state.h"
#include "dataplane/wire/inner_ip.h"
#include "lwip/ip.h"

namespace wireplane {
namespace {

constexpr std::size_t kBurst = 64;
constexpr std::uint8_t kFragment = 44;
constexpr std::size_t kFragmentHeaderSize = 8, kTcpHeaderSize = 20;
constexpr std::uint8_t kSyn = 0x02, kAck = 0x10;

// While lwIP looks at a packet, its stack's interface is the only one. An answer to it (a reset, an echo, an ICMP
// error) belongs to no connection that is bound to an interface: lwIP would choose among those of all stacks, by routes
// that it does not have, and would even deliver it to another stack of the process that has its destination.
class OnlyInterface {
 public:
  explicit OnlyInterface(netif& interface)
      : interface_{interface}, list_{netif_list}, next_{interface.next}, default_{netif_default} {
    netif_list = netif_default = &interface;
    interface.next = nullptr;
  }
  ~OnlyInterface() {
    netif_list = list_;
    netif_default = default_;
    interface_.next = next_;
  }
  OnlyInterface(const OnlyInterface&) = delete;
  OnlyInterface& operator=(const OnlyInterface&) = delete;

 private:
  netif& interface_;
  netif *list_, *next_, *default_;
};

enum class Verdict { kTake, kTakeFragment, kTakeSyn, kNotOurs, kRefused };

// A TCP segment, or its first fragment, whose header begins at `tcp`.
Verdict verdict_of_tcp(std::span<const std::uint8_t> tcp, bool fragment) {
  if (tcp.size() < kTcpHeaderSize) return Verdict::kRefused;
  const bool syn = (tcp[13] & (kSyn | kAck)) == kSyn;
  if (!fragment) return syn ? Verdict::kTakeSyn : Verdict::kTake;
  return syn ? Verdict::kRefused : Verdict::kTakeFragment;  // those that begin a connection are counted: none may hide
}

Verdict verdict_of_v4(std::span<const std::uint8_t> ip) {
  const std::uint16_t fragment = load_be16(ip.data() + 6);
  const std::size_t offset = (fragment & 0x1fff) * std::size_t{8};
  const bool more = (fragment & 0x2000) != 0;
  const std::uint8_t protocol = ip[9];
  if (protocol != kProtocolTcp && protocol != kProtocolUdp && protocol != kProtocolIcmp) return Verdict::kRefused;
  if (protocol == kProtocolTcp) {
    if (offset == 0) return verdict_of_tcp(ip.subspan(ip_header_length(ip.data())), more);
    if (offset < kTcpHeaderSize) return Verdict::kRefused;
  }
  return offset != 0 || more ? Verdict::kTakeFragment : Verdict::kTake;
}

Verdict verdict_of_v6(std::span<const std::uint8_t> ip) {
  const std::span<const std::uint8_t> behind = ip.subspan(kIpv6HeaderSize);
  switch (ip[6]) {
    case kProtocolTcp:
      return verdict_of_tcp(behind, false);
    case kProtocolUdp:
      return Verdict::kTake;
    case kProtocolIcmpv6: {  // errors and echoes; no neighbours, routers or groups
      if (behind.size() < 8) return Verdict::kRefused;
      const bool wanted = (behind[0] >= 1 && behind[0] <= 4) || behind[0] == 128 || behind[0] == 129;
      return wanted ? Verdict::kTake : Verdict::kRefused;
    }
    case kFragment: {
      if (behind.size() <= kFragmentHeaderSize) return Verdict::kRefused;
      const std::size_t offset = load_be16(behind.data() + 2) & 0xfff8;
      if (behind[0] == kProtocolUdp) return Verdict::kTakeFragment;
      if (behind[0] != kProtocolTcp || (offset != 0 && offset < kTcpHeaderSize)) return Verdict::kRefused;
      return offset == 0 ? verdict_of_tcp(behind.subspan(kFragmentHeaderSize), true) : Verdict::kTakeFragment;
    }
    default:
      return Verdict::kRefused;
  }
}

Verdict verdict_of(const IpStackState& stack, std::span<const std::uint8_t> ip) {
  // Node tells whole packets only; this does not rely on it.
  if (ip.empty() || inner_length(ip.data(), ip.size()) != ip.size()) return Verdict::kRefused;
  const Address from = source_of(ip.data());
  if (!stack.is_ours(destination_of(ip.data())) || stack.is_ours(from) || is_martian_source(ip.data()))
    return Verdict::kNotOurs;
  return is_ipv4(ip.data()) ? verdict_of_v4(ip) : verdict_of_v6(ip);
}

}  // namespace

std::size_t IpStackState::take_packets(std::unique_lock<std::mutex>& lock) {
  const std::size_t taken = node.receive(
      [&](const Received& in) {
        if (!lock.owns_lock()) lock.lock();
        if (!opened) return;
        if (wanted(in)) return input(in.packet);
        lock.unlock();
        options.otherwise(in);
        lock.lock();
        ++given_to_others;
      },
      kBurst);
  if (!lock.owns_lock()) lock.lock();
  return taken;
}

bool IpStackState::wanted(const Received& in) {
  if (!options.otherwise) return true;
  if (!in.datagram) return is_ours(destination_of(in.packet.data()));
  for (const udp_pcb* pcb = udp_pcbs; pcb != nullptr; pcb = pcb->next)
    if (pcb->local_port == in.port && pcb->netif_idx == netif_get_index(&interface)) return true;
  return false;
}

void IpStackState::input(std::span<const std::uint8_t> packet) {
  ++counted.received;
  switch (verdict_of(*this, packet)) {
    case Verdict::kTake:
      break;
    case Verdict::kTakeFragment:
      fragments_until = monotonic_now() + kFragmentsLive;
      break;
    case Verdict::kTakeSyn:
      if (half_open >= options.backlog || count_connections() >= options.connections) {
        ++counted.too_many;
        return;
      }
      ++half_open;  // at most; pass_time() counts them
      break;
    case Verdict::kNotOurs:
      ++counted.not_ours;
      return;
    case Verdict::kRefused:
      ++counted.refused;
      return;
  }
  pbuf* copy = pbuf_alloc(PBUF_RAW, static_cast<u16_t>(packet.size()), PBUF_RAM);
  if (copy == nullptr) {
    ++counted.no_memory;
    return;
  }
  std::copy_n(packet.data(), packet.size(), static_cast<std::uint8_t*>(copy->payload));
  const OnlyInterface only{interface};
  ip_input(copy, &interface);  // takes the buffer
}

err_t IpStackState::output(pbuf* packet) {
  std::span<const std::uint8_t> octets{static_cast<const std::uint8_t*>(packet->payload), packet->len};
  if (packet->next != nullptr) {
    try {
      joined.resize(packet->tot_len);
    } catch (const std::bad_alloc&) {  // lwIP's frames are above us
      ++counted.no_memory;
      return ERR_MEM;
    }
    pbuf_copy_partial(packet, joined.data(), packet->tot_len, 0);
    octets = joined;
  }
  const Status sent = node.send_packet(octets);
  if (sent) {
    ++counted.sent;
    return ERR_OK;
  }
  if (sent.error().code != EAGAIN) return ERR_IF;
  node_is_full = true;
  ++counted.queue_full;
  return ERR_MEM;  // TCP keeps the segment
}

// The node's queue was full; now there may be room.
void IpStackState::send_again() {
  node_is_full = false;
  for (tcp_pcb* pcb = tcp_active_pcbs; pcb != nullptr && !node_is_full; pcb = pcb->next)
    if (is_ours(*pcb)) tcp_output(pcb);
}

}  // namespace wireplane
