// ip_stack_udp.cpp: datagrams to and from any address inside the tunnel. spec: RFC 768
#include <algorithm>
#include <cerrno>

#include "control/address_text.h"
#include "control/embed/ip_stack_state.h"

namespace wireplane {
namespace {

constexpr int kPortTries = 64;
constexpr std::size_t kMostOctets = 65535 - 28;

void on_datagram(void* arg, udp_pcb*, pbuf* octets, const ip_addr_t* from, u16_t from_port) {
  auto& udp = *static_cast<UdpState*>(arg);
  if (udp.waiting.size() >= UdpState::kMostWaiting) {
    ++udp.stack->counted.too_many;
    pbuf_free(octets);
    return;
  }
  try {
    udp.waiting.push_back({{address_of(*from), from_port}, octets});
  } catch (const std::bad_alloc&) {
    ++udp.stack->counted.no_memory;
    pbuf_free(octets);
    return;
  }
  udp.stack->has_news(udp);
}

bool udp_port_taken(const IpStackState& stack, std::uint16_t port) {
  for (const udp_pcb* pcb = udp_pcbs; pcb != nullptr; pcb = pcb->next)
    if (pcb->netif_idx == netif_get_index(&stack.interface) && pcb->local_port == port) return true;
  return false;
}

}  // namespace

UdpState::~UdpState() {
  for (const Waiting& datagram : waiting) pbuf_free(datagram.octets);
}

void UdpState::let_go() {
  if (pcb != nullptr) udp_remove(std::exchange(pcb, nullptr));
  for (const Waiting& datagram : std::exchange(waiting, {})) pbuf_free(datagram.octets);
}

Result<UdpSocket> IpStack::bind(std::uint16_t port) {
  const std::lock_guard lock{lwip_mutex()};
  IpStackState& s = *state_;
  if (port != 0 && udp_port_taken(s, port)) return Error{"port " + std::to_string(port) + " is in use", EADDRINUSE};
  for (int i = 0; port == 0 || (i != 0 && udp_port_taken(s, port)); port = random_port())
    if (++i == kPortTries) return Error{"no local port is free", EADDRINUSE};
  try {
    auto udp = std::make_shared<UdpState>();
    s.add(udp);  // what may throw comes before lwIP knows of it
    udp_pcb* pcb = udp_new_ip_type(IPADDR_TYPE_ANY);
    if (pcb == nullptr) {
      s.remove(*udp);
      return out_of_memory();
    }
    udp_bind_netif(pcb, &s.interface);
    ip_set_option(pcb, SOF_REUSEADDR);
    udp_bind(pcb, IP_ANY_TYPE, port);  // refuses only a port that is taken, which SOF_REUSEADDR leaves to us
    udp->pcb = pcb;
    udp_recv(pcb, on_datagram, udp.get());
    return UdpSocket{std::move(udp)};
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  }
}

Status UdpSocket::send(const IpEndpoint& to, std::span<const std::uint8_t> octets) {
  const std::lock_guard lock{lwip_mutex()};
  if (state_ == nullptr || state_->stack == nullptr)
    return state_ != nullptr && state_->stack_gone ? stack_is_gone() : Error{"the socket is closed", ENOTCONN};
  IpStackState& s = *state_->stack;
  if (to.port == 0 || !s.may_be_reached(to.address))
    return Error{"expected the address of another host inside the tunnel, and a port; got " + to_text(to), EINVAL};
  if (s.local_for(to.address, {}).none())
    return Error{"none of our addresses can speak to " + to_text(to), EADDRNOTAVAIL};
  if (octets.size() > kMostOctets)
    return Error{"expected at most " + std::to_string(kMostOctets) + " octets", EMSGSIZE};
  pbuf* copy = pbuf_alloc(PBUF_TRANSPORT, static_cast<u16_t>(octets.size()), PBUF_RAM);
  if (copy == nullptr) return out_of_memory();
  std::copy_n(octets.data(), octets.size(), static_cast<std::uint8_t*>(copy->payload));
  const ip_addr_t there = lwip_address(to.address);
  const std::uint64_t full = s.counted.queue_full;
  const err_t sent = udp_sendto(state_->pcb, copy, &there, to.port);
  pbuf_free(copy);
  if (sent == ERR_OK) return Nothing{};
  return s.counted.queue_full != full ? would_block() : error_of(sent);
}

bool UdpSocket::receive(const Take& take) {
  UdpState::Waiting datagram{};
  {
    const std::lock_guard lock{lwip_mutex()};
    if (state_ == nullptr || state_->waiting.empty()) return false;
    datagram = state_->waiting.front();
    state_->waiting.pop_front();
  }
  std::vector<std::uint8_t> joined;
  std::span<const std::uint8_t> octets{static_cast<const std::uint8_t*>(datagram.octets->payload),
                                       datagram.octets->len};
  if (datagram.octets->next != nullptr) {  // put together from fragments
    joined.resize(datagram.octets->tot_len);
    pbuf_copy_partial(datagram.octets, joined.data(), datagram.octets->tot_len, 0);
    octets = joined;
  }
  take(datagram.from, octets);
  const std::lock_guard lock{lwip_mutex()};
  pbuf_free(datagram.octets);
  return true;
}

void UdpSocket::close() {
  if (state_ == nullptr) return;
  const std::lock_guard lock{lwip_mutex()};
  if (state_->stack == nullptr) return;
  state_->let_go();
  state_->stack->remove(*state_);
}

UdpSocket::~UdpSocket() { close(); }

UdpSocket& UdpSocket::operator=(UdpSocket&& from) noexcept {
  if (this != &from) {
    close();
    state_ = std::move(from.state_);
  }
  return *this;
}

std::uint16_t UdpSocket::port() const {
  const std::lock_guard lock{lwip_mutex()};
  return state_ == nullptr || state_->pcb == nullptr ? std::uint16_t{0} : state_->pcb->local_port;
}

void UdpSocket::on_ready(std::function<void()> callback) {
  if (state_ == nullptr) return;
  const std::lock_guard lock{lwip_mutex()};
  std::swap(state_->on_ready, callback);
}

}  // namespace wireplane
