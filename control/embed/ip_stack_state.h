// ip_stack_state.h: what a stack is made of, and the one place that includes lwIP. Private to ip_stack*.cpp.
//
//   ip_stack.cpp        life, time, news
//   ip_stack_wire.cpp   packets between the node and lwIP, and what is refused before lwIP sees it
//   ip_stack_tcp.cpp    connections and listeners
//   ip_stack_udp.cpp    datagrams
//
// lwIP is used without its thread: whoever holds lwip_mutex() is its only user, and its time passes when a stack calls
// pass_time(). All members here are guarded by that mutex, unless a line says otherwise. Callbacks of lwIP (static
// functions here) run with it held; callbacks of the application never do.
#pragma once
#include <deque>
#include <mutex>
#include <set>

#include "control/embed/ip_stack.h"
#include "drivers/file_descriptor.h"
#include "lwip/netif.h"
#include "lwip/pbuf.h"
#include "lwip/priv/tcp_priv.h"
#include "lwip/tcp.h"
#include "lwip/udp.h"

namespace wireplane {

[[nodiscard]] std::mutex& lwip_mutex();
[[nodiscard]] Instant monotonic_now();
[[nodiscard]] ip_addr_t lwip_address(const Address& address);
[[nodiscard]] Address address_of(const ip_addr_t& address);
[[nodiscard]] Error error_of(err_t lwip);
[[nodiscard]] Error would_block();
[[nodiscard]] Error stack_is_gone();
[[nodiscard]] Error out_of_memory();
[[nodiscard]] std::uint16_t random_port();  // of the dynamic ones

// What every socket has. `stack` is null once it is closed, by us or with the stack.
struct SocketState : std::enable_shared_from_this<SocketState> {
  IpStackState* stack = nullptr;
  bool stack_gone = false;
  std::function<void()> on_ready{};
  bool has_news = false;  // is in IpStackState::news
  Instant deadline{};     // zero: none
  virtual ~SocketState() = default;
  virtual void let_go() = 0;  // of lwIP's half, at once

  [[nodiscard]] bool late() const { return deadline != Instant{} && monotonic_now() >= deadline; }
};

struct TcpState final : SocketState {
  tcp_pcb* pcb = nullptr;      // null: lwIP has ended it
  std::deque<pbuf*> unread{};  // chains of lwIP; octets before `offset` of the first are read
  std::size_t offset = 0;
  IpEndpoint remote{}, local{};
  bool connected = false, remote_finished = false, we_finished = false, wants_room = false;
  std::optional<Error> failure{};
  ~TcpState() override;
  void let_go() override;
  void forget_unread();
  [[nodiscard]] bool has_room() const;
};

struct TcpListenerState final : SocketState {
  std::vector<tcp_pcb*> pcbs{};  // one for each address
  std::deque<std::shared_ptr<TcpState>> arrived{};
  std::uint16_t port{};
  void let_go() override;
};

struct UdpState final : SocketState {
  static constexpr std::size_t kMostWaiting = 64;
  struct Waiting {
    IpEndpoint from;
    pbuf* octets;
  };
  udp_pcb* pcb = nullptr;
  std::deque<Waiting> waiting{};
  ~UdpState() override;
  void let_go() override;
};

struct IpStackState final : std::enable_shared_from_this<IpStackState> {
  Node& node;
  IpStackOptions options;
  std::vector<Address> addresses{};  // ours, node.address() first; constant
  Address ipv4{};                    // among them; or none
  netif interface {};
  bool opened = false;
  FileDescriptor epoll_fd, timer_fd, notify_fd;
  Instant armed_at{};
  unsigned processing = 0;  // threads that will tell news anyway: no need to ring
  bool rung = false;        // notify_fd is readable
  std::size_t given_to_others = 0;
  std::vector<std::uint8_t> joined{};  // for output()
  bool node_is_full = false;
  static constexpr Duration kFragmentsLive = 65s;  // longer than IP_REASS_MAXAGE and IPV6_REASS_MAXAGE
  Instant fragments_until{};                       // parts of packets may wait to be put together
  std::size_t half_open = 0;                       // at most so many
  IpStackStats counted{};
  std::set<std::shared_ptr<SocketState>> sockets{};
  std::vector<std::shared_ptr<SocketState>> news{};
  std::set<std::pair<Instant, SocketState*>> deadlines{};

  IpStackState(Node& its_node, IpStackOptions its_options) : node{its_node}, options{std::move(its_options)} {}
  ~IpStackState();

  // ip_stack.cpp
  Status open();
  Status open_descriptors();
  Status open_interface();
  void close();
  void close_locked();
  void add(std::shared_ptr<SocketState> socket);
  void has_news(SocketState& socket);  // allocates nothing
  void set_deadline(SocketState& socket, Instant when);
  void remove(SocketState& socket);  // closed: no news, no deadline, not ours any more
  void pass_time();
  void arm();
  [[nodiscard]] bool is_ours(const Address& address) const;
  [[nodiscard]] bool may_be_reached(const Address& address) const;                      // unicast, and not ourselves
  [[nodiscard]] Address local_for(const Address& remote, const Address& wanted) const;  // or none
  [[nodiscard]] bool is_ours(const tcp_pcb& pcb) const { return pcb.netif_idx == netif_get_index(&interface); }
  [[nodiscard]] std::size_t count_connections(std::size_t* half_open = nullptr) const;
  [[nodiscard]] bool tcp_port_taken(std::uint16_t port, bool for_listener) const;
  Result<std::size_t> process();

  // ip_stack_wire.cpp
  std::size_t take_packets(std::unique_lock<std::mutex>& lock);
  bool wanted(const Received& in);
  void input(std::span<const std::uint8_t> packet);
  err_t output(pbuf* packet);
  void send_again();
};

}  // namespace wireplane
