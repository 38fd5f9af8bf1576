#include "control/embed/ip_stack.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "control/address_text.h"
#include "control/embed/ip_stack_state.h"
#include "dataplane/base/check.h"
#include "drivers/eventfd.h"
#include "lwip/init.h"
#include "lwip/ip4_frag.h"
#include "lwip/ip6_frag.h"

namespace wireplane {
namespace {

// lwIP counts time in calls of tcp_tmr(), and thinks of 250 ms. It is called five times as often: lwIP's clock runs
// fast, so that a lost segment is missed after 300 ms, not 1.5 s (its estimate of a short round trip is 3 of its slow
// ticks), and an odd segment is acknowledged within 50 ms. TIME-WAIT lasts 24 s then; what waits for the peer to begin
// or to end a connection (20 s) gets its time back in keep_patience().
constexpr Duration kTick = 50ms;
constexpr std::uint32_t kFasterBy = 5;
constexpr Duration kIdleTick = 1s;      // while no connection waits for anything
constexpr std::int64_t kMostTicks = 4;  // at once: who was not called for a while does not find his peers lost
constexpr std::int64_t kMostIdleTicks = 40;
constexpr Duration kReassemblyTick = 1s;  // IP_TMR_INTERVAL
constexpr Duration kLongestTurn = 1ms;
constexpr Duration kRetryWhenFull = 1ms;
constexpr std::size_t kMostStacks = 200;  // lwIP numbers interfaces with an octet
constexpr std::size_t kMostIpv6 = LWIP_IPV6_NUM_ADDRESSES - 1;

struct Time {  // lwIP's; guarded by lwip_mutex()
  Instant ticked{}, reassembled{}, fragments_until{};
};
Time lwip_time;
std::vector<IpStackState*> stacks;

Error system_error(const char* what) {
  const int code = errno;
  return {std::string{what} + ": " + std::strerror(code), code};
}

bool has_link_scope(const Address& address) {  // fe80::/10
  return address.is_v6() && address.octets[0] == 0xfe && (address.octets[1] & 0xc0) == 0x80;
}

std::size_t common_bits(const Address& a, const Address& b) {
  for (std::size_t i = 0; i < a.octets.size(); ++i)
    if (const auto differ = static_cast<std::uint8_t>(a.octets[i] ^ b.octets[i]); differ != 0)
      return i * 8 + static_cast<std::size_t>(std::countl_zero(differ));
  return a.bits();
}

bool waits(const tcp_pcb& pcb) {
  return pcb.state != ESTABLISHED || pcb.unsent != nullptr || pcb.unacked != nullptr || pcb.ooseq != nullptr ||
         (pcb.flags & (TF_ACK_DELAY | TF_ACK_NOW | TF_CLOSEPEND)) != 0;
}
bool some_connection_waits() {
  for (const tcp_pcb* pcb = tcp_active_pcbs; pcb != nullptr; pcb = pcb->next)
    if (waits(*pcb)) return true;
  return false;
}

// Of its slow ticks since, one in five counts. A SYN is sent every 600 ms, for a minute: the tunnel's own handshake may
// need several tries, 5 s apart (lwIP would give up after seven SYNs).
void keep_patience(std::uint32_t before) {
  constexpr std::uint32_t kConnectTicks = 60s / (2 * kTick);
  const std::uint32_t given_back = tcp_ticks - before - (tcp_ticks / kFasterBy - before / kFasterBy);
  for (tcp_pcb* pcb = tcp_active_pcbs; pcb != nullptr; pcb = pcb->next) {
    if (pcb->state == SYN_RCVD || pcb->state == FIN_WAIT_2) pcb->tmr += given_back;
    if (pcb->state == SYN_SENT && pcb->nrtx > 1 && tcp_ticks - pcb->tmr < kConnectTicks) pcb->nrtx = 1;
  }
}

// In a child of fork() its parent's nodes are closed, and so are its stacks: nobody holds the lock across a fork.
int heed_forks() {
  return ::pthread_atfork([] { lwip_mutex().lock(); }, [] { lwip_mutex().unlock(); },
                          [] {
                            while (!stacks.empty()) stacks.back()->close_locked();
                            lwip_mutex().unlock();
                          });
}

}  // namespace

// ---- words

std::mutex& lwip_mutex() {
  static std::mutex mutex;
  return mutex;
}

Instant monotonic_now() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return Instant{std::chrono::seconds{now.tv_sec} + std::chrono::nanoseconds{now.tv_nsec}};
}

Error would_block() { return {"nothing can be done now: process() or wait(), then try again", EAGAIN}; }
Error stack_is_gone() { return {"the stack is gone", ESHUTDOWN}; }
Error out_of_memory() { return {"out of memory", ENOMEM}; }

Error error_of(err_t lwip) {
  switch (lwip) {
    case ERR_MEM:
    case ERR_BUF:
      return out_of_memory();
    case ERR_TIMEOUT:
      return {"the peer does not answer", ETIMEDOUT};
    case ERR_RTE:
      return {"no way there", ENETUNREACH};
    case ERR_USE:
      return {"the port is in use", EADDRINUSE};
    case ERR_ISCONN:
    case ERR_ALREADY:
      return {"connected already", EISCONN};
    case ERR_CONN:
      return {"not connected", ENOTCONN};
    case ERR_RST:
      return {"the peer has reset the connection", ECONNRESET};
    case ERR_ABRT:
      return {"the peer does not answer any more", ETIMEDOUT};
    default:
      return {"lwIP refused (its error " + std::to_string(lwip) + ")", EINVAL};
  }
}

std::uint16_t random_port() {
  std::uint16_t drawn;
  if (::getrandom(&drawn, sizeof drawn, 0) != sizeof drawn) drawn = static_cast<std::uint16_t>(std::rand());
  return static_cast<std::uint16_t>(0xc000 | drawn);  // the dynamic ones, RFC 6335 §6
}

ip_addr_t lwip_address(const Address& address) {
  ip_addr_t out{};
  if (address.is_v4()) {
    std::memcpy(&ip_2_ip4(&out)->addr, address.octets.data(), 4);
    IP_SET_TYPE_VAL(out, IPADDR_TYPE_V4);
  } else {
    std::memcpy(ip_2_ip6(&out)->addr, address.octets.data(), 16);
    IP_SET_TYPE_VAL(out, IPADDR_TYPE_V6);
  }
  return out;
}

Address address_of(const ip_addr_t& address) {
  std::array<std::uint8_t, 16> octets;
  if (IP_IS_V4_VAL(address)) {
    std::memcpy(octets.data(), &ip_2_ip4(&address)->addr, 4);
    return Address::v4(octets.data());
  }
  std::memcpy(octets.data(), ip_2_ip6(&address)->addr, 16);
  return Address::v6(octets.data());
}

Result<IpEndpoint> parse_ip_endpoint(std::string_view text) {
  const auto parsed = parse_endpoint(text, [](std::string_view) { return 0u; });
  if (!parsed) return Error{"expected address:port or [address]:port", EINVAL};
  return IpEndpoint{parsed->remote, parsed->port};
}

std::string to_text(const IpEndpoint& endpoint) {
  return to_text(Endpoint{.remote = endpoint.address, .local = {}, .interface = 0, .port = endpoint.port});
}

// ---- life

Result<std::unique_ptr<IpStack>> IpStack::open(Node& node, IpStackOptions options) {
  try {
    auto state = std::make_shared<IpStackState>(node, std::move(options));
    if (Status opened = state->open(); !opened) return opened.error();
    return std::unique_ptr<IpStack>{new IpStack{std::move(state)}};
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  }
}

IpStack::~IpStack() { state_->close(); }

IpStackState::~IpStackState() { close(); }

Status IpStackState::open() {
  addresses.push_back(node.address());
  for (const Address& address : options.addresses) {
    if (address.none() || has_link_scope(address))
      return Error{"addresses: expected addresses of IPv4 or IPv6, not link-local", EINVAL};
    if (is_ours(address)) return Error{"addresses: " + to_text(address) + " twice", EINVAL};
    if (address.is_v4() && !ipv4.none()) return Error{"addresses: expected at most one IPv4 address", EINVAL};
    if (address.is_v4()) ipv4 = address;
    addresses.push_back(address);
  }
  if (addresses.size() - (ipv4.none() ? 0 : 1) > kMostIpv6)
    return Error{"addresses: expected at most " + std::to_string(kMostIpv6 - 1) + " of IPv6", EINVAL};
  if (Status made = open_descriptors(); !made) return made;
  return open_interface();
}

Status IpStackState::open_descriptors() {
  epoll_fd = FileDescriptor{::epoll_create1(EPOLL_CLOEXEC)};
  if (!epoll_fd) return system_error("epoll_create1");
  timer_fd = FileDescriptor{::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)};
  if (!timer_fd) return system_error("timerfd");
  notify_fd = FileDescriptor{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  if (!notify_fd) return system_error("eventfd");
  for (const int fd : {node.fd(), timer_fd.get(), notify_fd.get()}) {
    epoll_event event{};
    event.events = EPOLLIN;
    if (::epoll_ctl(epoll_fd.get(), EPOLL_CTL_ADD, fd, &event) != 0) return system_error("epoll_ctl");
  }
  return Nothing{};
}

Status IpStackState::open_interface() {
  const std::lock_guard lock{lwip_mutex()};
  static const int once = (lwip_init(), heed_forks());
  if (once != 0) return Error{"pthread_atfork", once};
  if (stacks.size() >= kMostStacks)
    return Error{"more than the " + std::to_string(kMostStacks) + " stacks that a process may have", ENFILE};
  stacks.reserve(stacks.size() + 1);
  const auto init = [](netif* made) -> err_t {
    auto* self = static_cast<IpStackState*>(made->state);
    made->name[0] = 'w';
    made->name[1] = 'p';
    made->mtu = made->mtu6 = self->node.mtu();
    made->flags = NETIF_FLAG_LINK_UP;
    made->output = [](netif* from, pbuf* packet, const ip4_addr_t*) {
      return static_cast<IpStackState*>(from->state)->output(packet);
    };
    made->output_ip6 = [](netif* from, pbuf* packet, const ip6_addr_t*) {
      return static_cast<IpStackState*>(from->state)->output(packet);
    };
    return ERR_OK;
  };
  ip4_addr_t own{}, all{};
  if (!ipv4.none()) std::memcpy(&own.addr, ipv4.octets.data(), 4);
  WG_CHECK(netif_add(&interface, &own, &all, &all, this, init, nullptr) != nullptr);  // init never fails
  s8_t index = 1;                                                                     // 0 is for a link-local one
  for (const Address& address : addresses) {
    if (!address.is_v6()) continue;
    const ip_addr_t converted = lwip_address(address);
    netif_ip6_addr_set(&interface, index, ip_2_ip6(&converted));
    netif_ip6_addr_set_state(&interface, index++, IP6_ADDR_PREFERRED);
  }
  netif_set_up(&interface);
  if (netif_default == nullptr) netif_set_default(&interface);
  opened = true;
  stacks.push_back(this);
  return Nothing{};
}

void IpStackState::close() {
  const std::lock_guard lock{lwip_mutex()};
  close_locked();
}

void IpStackState::close_locked() {
  if (!std::exchange(opened, false)) return;
  while (!sockets.empty()) {
    const std::shared_ptr<SocketState> socket = *sockets.begin();
    socket->let_go();
    socket->stack_gone = true;
    remove(*socket);
  }
  for (const auto list : {&tcp_active_pcbs, &tcp_tw_pcbs})  // what was closed, and is still being sent
    for (tcp_pcb* pcb = *list; pcb != nullptr;) {
      if (is_ours(*pcb)) {
        tcp_abort(pcb);
        pcb = *list;
      } else {
        pcb = pcb->next;
      }
    }
  // lwIP would reset all connections that have one of our addresses, those of other stacks as well: it need not look.
  ip_addr_set_zero_ip4(&interface.ip_addr);
  for (u8_t& state : interface.ip6_addr_state) state = IP6_ADDR_INVALID;
  netif_remove(&interface);
  if (netif_default == nullptr && netif_list != nullptr) netif_set_default(netif_list);
  std::erase(stacks, this);
}

// ---- time

// Called before anything that starts a timer of lwIP, so that time that has passed is not charged to it.
void IpStackState::pass_time() {
  const Instant now = monotonic_now();
  Time& time = lwip_time;
  if (now - time.ticked >= kTick) {
    std::int64_t ticks = (now - time.ticked) / kTick;
    if (tcp_active_pcbs == nullptr && tcp_tw_pcbs == nullptr) {
      ticks = 0;
      time.ticked = now;
    } else {
      const std::int64_t most = some_connection_waits() ? kMostTicks : kMostIdleTicks;
      time.ticked = ticks > most ? now : time.ticked + ticks * kTick;
      ticks = std::min(ticks, most);
    }
    const std::uint32_t before = tcp_ticks;
    for (; ticks > 0; --ticks) tcp_tmr();
    keep_patience(before);
    static_cast<void>(count_connections(&half_open));
  }
  time.fragments_until = std::max(time.fragments_until, fragments_until);
  if (now < time.fragments_until && now - time.reassembled >= kReassemblyTick) {
    ip_reass_tmr();
    ip6_reass_tmr();
    time.reassembled = now;
  }
  while (!deadlines.empty() && deadlines.begin()->first <= now) {
    SocketState& socket = *deadlines.begin()->second;
    deadlines.erase(deadlines.begin());
    has_news(socket);
  }
}

// The timer may go off too early, never too late. While it is set to go off within a tick, nothing can be due before
// it but a deadline: then the connections need not be looked at.
void IpStackState::arm() {
  const Instant now = monotonic_now();
  const Instant never = Instant::max();
  Instant due = deadlines.empty() ? never : deadlines.begin()->first;
  if (node_is_full) due = std::min(due, now + kRetryWhenFull);
  if (armed_at > now && armed_at <= std::min(due, now + kTick)) return;
  bool any = false, waiting = false;
  for (const tcp_pcb* pcb = tcp_active_pcbs; pcb != nullptr && !waiting; pcb = pcb->next)
    if (is_ours(*pcb)) any = true, waiting = waits(*pcb);
  for (const tcp_pcb* pcb = tcp_tw_pcbs; pcb != nullptr && !any; pcb = pcb->next) any = is_ours(*pcb);
  if (any) due = std::min(due, now + (waiting ? kTick : kIdleTick));
  if (now < fragments_until) due = std::min(due, now + kReassemblyTick);
  if (armed_at > now && armed_at <= due) return;
  if (due == never && armed_at == Instant{}) return;
  armed_at = due == never ? Instant{} : due;
  itimerspec when{};
  if (due != never) when.it_value = timespec_of(std::max(due.time_since_epoch(), Duration{1}));
  ::timerfd_settime(timer_fd.get(), TFD_TIMER_ABSTIME, &when, nullptr);
}

// ---- news

void IpStackState::add(std::shared_ptr<SocketState> socket) {
  news.reserve(sockets.size() + 1);  // lwIP calls has_news(): it must not throw
  socket->stack = this;
  sockets.insert(std::move(socket));
}

void IpStackState::has_news(SocketState& socket) {
  if (std::exchange(socket.has_news, true)) return;
  news.push_back(socket.shared_from_this());
  if (processing != 0 || std::exchange(rung, true)) return;
  ring_eventfd(notify_fd.get());
}

void IpStackState::set_deadline(SocketState& socket, Instant when) {
  if (socket.deadline != Instant{}) deadlines.erase({socket.deadline, &socket});
  socket.deadline = when;
  if (when != Instant{}) deadlines.emplace(when, &socket);
  arm();
}

void IpStackState::remove(SocketState& socket) {
  const std::shared_ptr<SocketState> keep = socket.shared_from_this();
  if (socket.deadline != Instant{}) deadlines.erase({socket.deadline, &socket});
  socket.deadline = {};
  socket.stack = nullptr;
  std::erase(news, keep);
  sockets.erase(keep);
}

bool IpStackState::is_ours(const Address& address) const {
  return std::ranges::find(addresses, address) != addresses.end();
}

bool IpStackState::may_be_reached(const Address& address) const {
  const std::uint8_t first = address.octets[0];
  if (address.is_v4()) return first != 0 && first != 127 && first < 224 && !is_ours(address);
  const bool mapped_or_local =
      std::all_of(address.octets.begin(), address.octets.begin() + 10, [](auto o) { return o == 0; });
  return address.is_v6() && first != 0xff && !has_link_scope(address) && !mapped_or_local && !is_ours(address);
}

// IPv6: one of the given addresses if it is of the remote's network (16 bits in common; RFC 6724 §5, 8). Else, a remote
// in fd00::/8 is taken for another node, to whom our own address belongs; anywhere else it is the first given one's.
Address IpStackState::local_for(const Address& remote, const Address& wanted) const {
  if (!wanted.none()) return is_ours(wanted) && wanted.family == remote.family ? wanted : Address{};
  if (remote.is_v4()) return ipv4;
  Address best = addresses[0], given{};
  std::size_t most = 15;
  for (std::size_t i = 1; i < addresses.size(); ++i) {
    if (!addresses[i].is_v6()) continue;
    if (given.none()) given = addresses[i];
    const std::size_t common = common_bits(addresses[i], remote);
    if (common > most) best = addresses[i], most = common;
  }
  return most == 15 && remote.octets[0] != 0xfd && !given.none() ? given : best;
}

std::size_t IpStackState::count_connections(std::size_t* still_half_open) const {
  std::size_t count = 0, half = 0;
  for (const tcp_pcb* pcb = tcp_active_pcbs; pcb != nullptr; pcb = pcb->next) {
    if (!is_ours(*pcb)) continue;
    ++count;
    if (pcb->state == SYN_RCVD) ++half;
  }
  if (still_half_open != nullptr) *still_half_open = half;
  return count;
}

// ---- driven by the application

int IpStack::fd() const { return state_->epoll_fd.get(); }

Result<std::size_t> IpStack::process() {
  const std::shared_ptr<IpStackState> keep = state_;  // a callback may end the stack
  try {
    return keep->process();
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  }
}

// Until nothing comes any more, or a millisecond is over.
Result<std::size_t> IpStackState::process() {
  const Instant end = monotonic_now() + kLongestTurn;
  for (std::size_t told = 0;;) {
    if (const auto driven = node.process(); !driven) return driven.error();
    std::vector<std::function<void()>> callbacks;
    std::unique_lock lock{lwip_mutex()};
    if (!opened) return stack_is_gone();
    ++processing;
    if (std::exchange(rung, false)) static_cast<void>(drain_eventfd(notify_fd.get()));
    pass_time();
    const std::size_t taken = take_packets(lock);
    if (node_is_full) send_again();
    arm();
    --processing;
    for (const auto& socket : news) {
      socket->has_news = false;
      if (socket->on_ready) callbacks.push_back(socket->on_ready);
    }
    told += news.size() + std::exchange(given_to_others, 0);
    news.clear();
    lock.unlock();
    for (const auto& callback : callbacks) callback();
    if (taken == 0 || monotonic_now() >= end) return told;
  }
}

Result<std::size_t> IpStack::wait(Duration at_most) {
  const std::shared_ptr<IpStackState> keep = state_;
  const Instant end = monotonic_now() + std::clamp(at_most, Duration{0}, Duration{24h});
  for (;;) {
    Result<std::size_t> told = process();
    const Duration left = end - monotonic_now();
    if (!told || *told != 0 || left <= Duration{0}) return told;
    sleep_on(keep->epoll_fd.get(), left);
  }
}

IpStackStats IpStack::stats() const {
  const std::lock_guard lock{lwip_mutex()};
  IpStackStats stats = state_->counted;
  stats.connections = state_->count_connections();
  for (const tcp_pcb* pcb = tcp_tw_pcbs; pcb != nullptr; pcb = pcb->next)
    if (state_->is_ours(*pcb)) ++stats.connections_resting;
  return stats;
}

}  // namespace wireplane
