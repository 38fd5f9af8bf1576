// ip_stack_tcp.cpp: connections and listeners. spec: RFC 9293, as lwIP does it.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "control/address_text.h"
#include "control/embed/ip_stack_state.h"

namespace wireplane {
namespace {

constexpr int kPortTries = 64;
// The packaged lwIP is compiled for windows of 64 KiB, which a path of 50 ms would fill with 10 Mbit/s. What its
// formats allow is more: twice that to receive (its window scale is 1), and three times to send (180 segments may be
// queued).
constexpr tcpwnd_size_t kReceiveWindow = std::max<tcpwnd_size_t>(TCP_WND, 0xffffu << TCP_RCV_SCALE);
constexpr tcpwnd_size_t kSendBuffer = TCP_SND_BUF > 0xffff ? TCP_SND_BUF : 3 * TCP_SND_BUF;
constexpr std::size_t kWriteAtOnce = 16 * 1024;  // lwIP takes all of it or nothing

TcpState& state_of(void* arg) { return *static_cast<TcpState*>(arg); }

// No callback comes any more. (lwIP calls none that is null; `connected` and `accept` belong to states that a
// connection does not come back to, and end with it.)
void forget(tcp_pcb* pcb) {
  tcp_arg(pcb, nullptr);
  tcp_recv(pcb, nullptr);
  tcp_sent(pcb, nullptr);
  tcp_err(pcb, nullptr);
}

err_t on_received(void* arg, tcp_pcb* pcb, pbuf* octets, err_t) {
  TcpState& tcp = state_of(arg);
  tcp.stack->has_news(tcp);
  try {
    if (octets != nullptr)
      tcp.unread.push_back(octets);
    else
      tcp.remote_finished = true;
  } catch (const std::bad_alloc&) {
    pbuf_free(octets);
    tcp.failure = out_of_memory();
    tcp.let_go();
    return ERR_ABRT;
  }
  if (tcp.remote_finished && tcp.we_finished) {  // it rests now, and lwIP tells nobody when that ends
    forget(pcb);
    tcp_close(pcb);
    tcp.pcb = nullptr;
  }
  return ERR_OK;
}

err_t on_sent(void* arg, tcp_pcb*, u16_t) {
  TcpState& tcp = state_of(arg);
  if (!tcp.wants_room || !tcp.has_room()) return ERR_OK;
  tcp.wants_room = false;
  tcp.stack->has_news(tcp);
  return ERR_OK;
}

void on_failure(void* arg, err_t why) {  // lwIP has freed its half
  TcpState& tcp = state_of(arg);
  tcp.pcb = nullptr;
  if (why != ERR_CLSD)  // else both had finished
    tcp.failure = why == ERR_RST && !tcp.connected ? Error{"the peer refuses", ECONNREFUSED} : error_of(why);
  tcp.stack->has_news(tcp);
}

// A connection has been made: whether the peer scales windows is known.
void widen(tcp_pcb* pcb) {
  if ((pcb->flags & TF_WND_SCALE) == 0 || kReceiveWindow <= TCP_WND) return;
  pcb->rcv_wnd += kReceiveWindow - TCP_WND;
  tcp_update_rcv_ann_wnd(pcb);
}

// Octets were read: as tcp_recved(), for a wider window.
void open_window(tcp_pcb* pcb, std::size_t count) {
  const tcpwnd_size_t most = (pcb->flags & TF_WND_SCALE) != 0 ? kReceiveWindow : TCPWND_MIN16(TCP_WND);
  pcb->rcv_wnd = static_cast<tcpwnd_size_t>(std::min<std::size_t>(pcb->rcv_wnd + count, most));
  if (tcp_update_rcv_ann_wnd(pcb) < most / 4) return;  // else the peer hears of it with the next acknowledgement
  tcp_ack_now(pcb);
  tcp_output(pcb);
}

// lwIP takes a window that is not its own full one for octets that were not read, of which the peer is told by a reset.
void prepare_close(TcpState& tcp) { tcp.pcb->rcv_wnd = tcp.unread.empty() ? TCP_WND_MAX(tcp.pcb) : 0; }

err_t on_connected(void* arg, tcp_pcb* pcb, err_t) {
  TcpState& tcp = state_of(arg);
  tcp.connected = true;
  widen(pcb);
  tcp.stack->has_news(tcp);
  if (tcp.we_finished) tcp_shutdown(pcb, 0, 1);  // finish() was called before
  return ERR_OK;
}

void adopt(TcpState& tcp, tcp_pcb* pcb) {
  tcp.pcb = pcb;
  tcp_arg(pcb, &tcp);
  tcp_recv(pcb, on_received);
  tcp_sent(pcb, on_sent);
  tcp_err(pcb, on_failure);
  tcp_nagle_disable(pcb);
  pcb->snd_buf += kSendBuffer - TCP_SND_BUF;
}

err_t on_arrived(void* arg, tcp_pcb* pcb, err_t why) {
  if (why != ERR_OK) return ERR_VAL;  // there was no memory for it
  auto& listener = *static_cast<TcpListenerState*>(arg);
  IpStackState& stack = *listener.stack;
  if (listener.arrived.size() >= stack.options.backlog) {
    ++stack.counted.too_many;
    tcp_abort(pcb);
    return ERR_ABRT;
  }
  std::shared_ptr<TcpState> tcp;
  try {
    tcp = std::make_shared<TcpState>();
    tcp->remote = {address_of(pcb->remote_ip), pcb->remote_port};
    tcp->local = {address_of(pcb->local_ip), pcb->local_port};
    tcp->connected = true;
    stack.add(tcp);
    listener.arrived.push_back(tcp);
    adopt(*tcp, pcb);
    widen(pcb);
    stack.has_news(listener);
  } catch (const std::bad_alloc&) {
    if (tcp != nullptr) stack.remove(*tcp);
    ++stack.counted.no_memory;
    tcp_abort(pcb);
    return ERR_ABRT;
  }
  return ERR_OK;
}

tcp_pcb* new_pcb(const IpStackState& stack, const Address& local) {
  tcp_pcb* pcb = tcp_new_ip_type(local.is_v4() ? IPADDR_TYPE_V4 : IPADDR_TYPE_V6);
  if (pcb == nullptr) return nullptr;
  tcp_bind_netif(pcb, &stack.interface);
  ip_set_option(pcb, SOF_REUSEADDR);  // whether a port is taken is asked of this stack alone: tcp_port_taken()
  return pcb;
}

// Locks, and says why the socket cannot be used, or null.
template <class State>
std::optional<Error> unusable(const std::shared_ptr<State>& state) {
  if (state == nullptr) return Error{"no socket", ENOTCONN};
  if (state->stack_gone) return stack_is_gone();
  if (state->stack == nullptr) return Error{"the socket is closed", ENOTCONN};
  return std::nullopt;
}

Error not_now(const SocketState& socket) {
  return socket.late() ? Error{"the deadline has passed", ETIMEDOUT} : would_block();
}

}  // namespace

// ---- the state of a connection

TcpState::~TcpState() { forget_unread(); }

void TcpState::forget_unread() {
  for (pbuf* octets : unread) pbuf_free(octets);
  unread.clear();
  offset = 0;
}

void TcpState::let_go() {
  if (pcb != nullptr) {
    forget(pcb);
    tcp_abort(std::exchange(pcb, nullptr));
  }
  forget_unread();
}

// Octets, and segments: a peer with a small MSS, or many small writes, use up these first.
bool TcpState::has_room() const {
  return pcb != nullptr && tcp_sndbuf(pcb) >= std::min(TCP_SND_BUF / 4, 16384) &&
         tcp_sndqueuelen(pcb) < TCP_SNDQUEUELOWAT;
}

void TcpListenerState::let_go() {
  for (tcp_pcb* pcb : pcbs) {
    tcp_arg(pcb, nullptr);
    tcp_close(pcb);
  }
  pcbs.clear();
  for (const auto& tcp : std::exchange(arrived, {})) {
    tcp->let_go();
    if (tcp->stack != nullptr) tcp->stack->remove(*tcp);
  }
}

bool IpStackState::tcp_port_taken(std::uint16_t port, bool for_listener) const {
  const u8_t index = netif_get_index(&interface);
  for (const tcp_pcb_listen* pcb = tcp_listen_pcbs.listen_pcbs; pcb != nullptr; pcb = pcb->next)
    if (pcb->netif_idx == index && pcb->local_port == port) return true;
  if (for_listener) return false;  // connections that came to an earlier listener may still be there
  for (const auto list : {tcp_active_pcbs, tcp_tw_pcbs, tcp_bound_pcbs})
    for (const tcp_pcb* pcb = list; pcb != nullptr; pcb = pcb->next)
      if (pcb->netif_idx == index && pcb->local_port == port) return true;
  return false;
}

// ---- making

Result<TcpSocket> IpStack::connect(std::string_view to) {
  const Result<IpEndpoint> parsed = parse_ip_endpoint(to);
  return parsed ? connect(*parsed) : Result<TcpSocket>{parsed.error()};
}

Result<TcpSocket> IpStack::connect(const IpEndpoint& to, const Address& from) {
  const std::lock_guard lock{lwip_mutex()};
  IpStackState& s = *state_;
  if (to.port == 0 || !s.may_be_reached(to.address))
    return Error{"expected the address of another host inside the tunnel, and a port; got " + to_text(to), EINVAL};
  const Address local = s.local_for(to.address, from);
  if (local.none()) return Error{"none of our addresses can speak to " + to_text(to), EADDRNOTAVAIL};
  if (s.count_connections() >= s.options.connections)
    return Error{"more connections than the " + std::to_string(s.options.connections) + " of IpStackOptions", EMFILE};
  s.pass_time();
  try {
    auto tcp = std::make_shared<TcpState>();
    std::uint16_t port = random_port();
    for (int i = 0; s.tcp_port_taken(port, false); port = random_port())
      if (++i == kPortTries) return Error{"no local port is free", EADDRINUSE};
    tcp->remote = to;
    tcp->local = {local, port};
    s.add(tcp);  // what may throw comes before lwIP knows of it
    tcp_pcb* pcb = new_pcb(s, local);
    const ip_addr_t here = lwip_address(local), there = lwip_address(to.address);
    err_t done = pcb == nullptr ? static_cast<err_t>(ERR_MEM) : tcp_bind(pcb, &here, port);
    if (done == ERR_OK) done = tcp_connect(pcb, &there, to.port, on_connected);
    if (done != ERR_OK) {
      if (pcb != nullptr) tcp_close(pcb);
      s.remove(*tcp);
      return error_of(done);
    }
    adopt(*tcp, pcb);
    s.arm();
    return TcpSocket{std::move(tcp)};
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  }
}

Result<TcpListener> IpStack::listen(std::uint16_t port, const Address& local) {
  const std::lock_guard lock{lwip_mutex()};
  IpStackState& s = *state_;
  if (!local.none() && !s.is_ours(local)) return Error{to_text(local) + " is none of our addresses", EADDRNOTAVAIL};
  try {
    auto listener = std::make_shared<TcpListenerState>();
    if (port != 0 && s.tcp_port_taken(port, true))
      return Error{"port " + std::to_string(port) + " has a listener", EADDRINUSE};
    for (int i = 0; port == 0 || (i != 0 && s.tcp_port_taken(port, false)); port = random_port())
      if (++i == kPortTries) return Error{"no local port is free", EADDRINUSE};
    listener->pcbs.reserve(s.addresses.size());
    s.add(listener);  // what may throw comes before lwIP knows of it
    for (const Address& address : s.addresses) {
      if (!local.none() && address != local) continue;
      tcp_pcb* pcb = new_pcb(s, address);
      const ip_addr_t here = lwip_address(address);
      err_t done = pcb == nullptr ? static_cast<err_t>(ERR_MEM) : tcp_bind(pcb, &here, port);
      tcp_pcb* listening = done == ERR_OK ? tcp_listen_with_backlog_and_err(pcb, 255, &done) : nullptr;
      if (listening == nullptr) {
        if (pcb != nullptr) tcp_close(pcb);
        listener->let_go();
        s.remove(*listener);
        return error_of(done);
      }
      listener->pcbs.push_back(listening);
      tcp_arg(listening, listener.get());
      tcp_accept(listening, on_arrived);
    }
    listener->port = port;
    return TcpListener{std::move(listener)};
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  }
}

// ---- a connection's octets

Result<std::size_t> TcpSocket::read(std::span<std::uint8_t> into) {
  const std::lock_guard lock{lwip_mutex()};
  if (auto why = unusable(state_)) return *why;
  TcpState& tcp = *state_;
  if (into.empty()) return Error{"expected room for at least one octet", EINVAL};
  std::size_t done = 0;
  while (done < into.size() && !tcp.unread.empty()) {
    pbuf* first = tcp.unread.front();
    const std::size_t count = std::min({into.size() - done, first->tot_len - tcp.offset, std::size_t{0xffff}});
    pbuf_copy_partial(first, into.data() + done, static_cast<u16_t>(count), static_cast<u16_t>(tcp.offset));
    done += count;
    tcp.offset += count;
    if (tcp.offset < first->tot_len) break;
    tcp.offset = 0;
    tcp.unread.pop_front();
    pbuf_free(first);
  }
  if (done != 0 && tcp.pcb != nullptr) open_window(tcp.pcb, done);
  if (done != 0) return done;
  if (tcp.remote_finished) return std::size_t{0};
  if (tcp.failure) return *tcp.failure;
  return not_now(tcp);
}

Result<std::size_t> TcpSocket::write(std::span<const std::uint8_t> from) {
  const std::lock_guard lock{lwip_mutex()};
  if (auto why = unusable(state_)) return *why;
  TcpState& tcp = *state_;
  if (from.empty()) return Error{"expected at least one octet", EINVAL};
  tcp.stack->pass_time();  // which may end the connection
  if (tcp.failure) return *tcp.failure;
  if (tcp.we_finished) return Error{"nothing can be written any more", EPIPE};
  std::size_t done = 0;
  while (done < from.size()) {
    const std::size_t count = std::min({from.size() - done, std::size_t{tcp_sndbuf(tcp.pcb)}, kWriteAtOnce});
    const u8_t flags = TCP_WRITE_FLAG_COPY | (done + count < from.size() ? TCP_WRITE_FLAG_MORE : 0);
    if (count == 0 || tcp_write(tcp.pcb, from.data() + done, static_cast<u16_t>(count), flags) != ERR_OK) break;
    done += count;
  }
  if (done != 0) tcp_output(tcp.pcb);
  tcp.wants_room = done < from.size();
  tcp.stack->arm();
  return done != 0 ? Result<std::size_t>{done} : Result<std::size_t>{not_now(tcp)};
}

Result<std::size_t> TcpSocket::write(std::string_view from) {
  return write(std::span{reinterpret_cast<const std::uint8_t*>(from.data()), from.size()});
}

Status TcpSocket::finish() {
  const std::lock_guard lock{lwip_mutex()};
  if (auto why = unusable(state_)) return *why;
  TcpState& tcp = *state_;
  tcp.stack->pass_time();  // which may end the connection
  if (tcp.failure) return *tcp.failure;
  if (std::exchange(tcp.we_finished, true)) return Nothing{};
  if (tcp.pcb->state != SYN_SENT) tcp_shutdown(tcp.pcb, 0, 1);  // else on_connected() does it
  tcp.stack->arm();
  return Nothing{};
}

void TcpSocket::close() {
  if (state_ == nullptr) return;
  const std::lock_guard lock{lwip_mutex()};
  TcpState& tcp = *state_;
  if (tcp.stack == nullptr) return;
  IpStackState& stack = *tcp.stack;
  stack.pass_time();
  if (tcp.pcb != nullptr) {
    prepare_close(tcp);
    tcp_pcb* pcb = std::exchange(tcp.pcb, nullptr);
    forget(pcb);
    tcp_close(pcb);  // without memory for the last segment lwIP makes it later
  }
  tcp.forget_unread();
  stack.remove(tcp);
  stack.arm();
}

void TcpSocket::abort() {
  if (state_ == nullptr) return;
  const std::lock_guard lock{lwip_mutex()};
  if (state_->stack == nullptr) return;
  state_->let_go();
  state_->stack->remove(*state_);
}

TcpSocket::~TcpSocket() { close(); }

TcpSocket& TcpSocket::operator=(TcpSocket&& from) noexcept {
  if (this != &from) {
    close();
    state_ = std::move(from.state_);
  }
  return *this;
}

bool TcpSocket::connected() const {
  const std::lock_guard lock{lwip_mutex()};
  return !unusable(state_) && state_->connected && state_->pcb != nullptr;
}

bool TcpSocket::readable() const {
  const std::lock_guard lock{lwip_mutex()};
  return unusable(state_) || !state_->unread.empty() || state_->remote_finished || state_->failure ||
         state_->pcb == nullptr || state_->late();
}

bool TcpSocket::writable() const {
  const std::lock_guard lock{lwip_mutex()};
  return unusable(state_) || state_->we_finished || state_->pcb == nullptr || state_->has_room() || state_->late();
}

IpEndpoint TcpSocket::remote() const { return state_ == nullptr ? IpEndpoint{} : state_->remote; }
IpEndpoint TcpSocket::local() const { return state_ == nullptr ? IpEndpoint{} : state_->local; }

void TcpSocket::deadline(Duration from_now) {
  const std::lock_guard lock{lwip_mutex()};
  if (unusable(state_)) return;
  state_->stack->set_deadline(*state_, from_now == Duration{0} ? Instant{} : monotonic_now() + from_now);
}

void TcpSocket::on_ready(std::function<void()> callback) {
  if (state_ == nullptr) return;
  const std::lock_guard lock{lwip_mutex()};
  std::swap(state_->on_ready, callback);  // the old one dies behind the lock's end
}

// ---- a listener

Result<TcpSocket> TcpListener::accept() {
  const std::lock_guard lock{lwip_mutex()};
  if (auto why = unusable(state_)) return *why;
  if (state_->arrived.empty()) return would_block();
  TcpSocket socket{std::move(state_->arrived.front())};
  state_->arrived.pop_front();
  return socket;
}

void TcpListener::close() {
  if (state_ == nullptr) return;
  const std::lock_guard lock{lwip_mutex()};
  if (state_->stack == nullptr) return;
  state_->let_go();
  state_->stack->remove(*state_);
}

TcpListener::~TcpListener() { close(); }

TcpListener& TcpListener::operator=(TcpListener&& from) noexcept {
  if (this != &from) {
    close();
    state_ = std::move(from.state_);
  }
  return *this;
}

std::uint16_t TcpListener::port() const { return state_ == nullptr ? std::uint16_t{0} : state_->port; }

void TcpListener::on_ready(std::function<void()> callback) {
  if (state_ == nullptr) return;
  const std::lock_guard lock{lwip_mutex()};
  std::swap(state_->on_ready, callback);
}

}  // namespace wireplane
