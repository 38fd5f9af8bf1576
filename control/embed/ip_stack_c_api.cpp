// ip_stack_c_api.cpp: wireplane_ip.h on top of ip_stack.h.
//
// Calls that wait: one thread drives (it sleeps on the stack's descriptor), the others that wait sleep until it, or
// whoever else processes, has had news; then each tries its call again.
#include <sys/eventfd.h>

#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <mutex>

#include "control/address_text.h"
#include "control/embed/c_api_state.h"
#include "control/embed/ip_stack.h"
#include "control/embed/wireplane_ip.h"
#include "control/system.h"
#include "drivers/eventfd.h"
#include "drivers/file_descriptor.h"

namespace {

using namespace wireplane;
using namespace wireplane::c_api;

Error closed() { return {"the stack is closed", ESHUTDOWN}; }

class Waiters {
 public:
  explicit Waiters(std::shared_ptr<IpStack> stack)
      : stack_{std::move(stack)}, wake_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)} {}
  [[nodiscard]] bool good() const { return static_cast<bool>(wake_); }

  std::shared_ptr<IpStack> stack() {
    const std::lock_guard lock{mutex_};
    return stack_;
  }
  void close() {
    std::shared_ptr<IpStack> last;  // ends behind the lock's end
    const std::lock_guard lock{mutex_};
    last.swap(stack_);
    tell();
  }
  Result<std::size_t> process() {
    const auto mine = stack();
    if (mine == nullptr) return closed();
    Result<std::size_t> told = mine->process();
    if (!told || *told != 0) {
      const std::lock_guard lock{mutex_};
      tell();
    }
    return told;
  }
  std::uint64_t news() {
    const std::lock_guard lock{mutex_};
    return news_;
  }
  // Until there was more than those, perhaps; drives the stack if nobody does. How many sockets had news, if we did.
  Result<std::size_t> wait(std::uint64_t known, Duration at_most) {
    const auto end = std::chrono::steady_clock::now() + at_most;
    std::unique_lock lock{mutex_};
    while (news_ == known && std::chrono::steady_clock::now() < end) {
      const auto mine = stack_;
      if (mine == nullptr) return closed();
      if (driven_) {
        heard_.wait_until(lock, end);
        continue;
      }
      const Driving driving{*this, lock};
      Result<std::size_t> told = mine->process();
      if (told && *told == 0) {
        sleep(*mine, end - std::chrono::steady_clock::now());
        told = mine->process();
      }
      if (!told || *told != 0) return told;
    }
    return std::size_t{0};
  }

 private:
  struct Driving {  // without the lock
    Driving(Waiters& of, std::unique_lock<std::mutex>& held) : waiters{of}, lock{held} {
      waiters.driven_ = true;
      lock.unlock();
    }
    ~Driving() {
      lock.lock();
      waiters.driven_ = false;
      waiters.tell();
    }
    Driving(const Driving&) = delete;
    Driving& operator=(const Driving&) = delete;
    Waiters& waiters;
    std::unique_lock<std::mutex>& lock;
  };
  void tell() {
    ++news_;
    heard_.notify_all();
    if (driven_) ring_eventfd(wake_.get());
  }
  void sleep(const IpStack& stack, Duration at_most) {
    if (sleep_on(stack.fd(), std::max(at_most, Duration{0}), wake_.get()))
      static_cast<void>(drain_eventfd(wake_.get()));
  }

  std::mutex mutex_;
  std::condition_variable heard_;
  std::shared_ptr<IpStack> stack_;
  const FileDescriptor wake_;
  bool driven_ = false;
  std::uint64_t news_ = 0;
};

// Tries until it is something else than EAGAIN, at most so long.
template <class Try>
auto until_done(std::shared_ptr<Waiters> waiters, int at_most_ms, Try attempt) -> decltype(attempt()) {
  const auto end = std::chrono::steady_clock::now() + time_of(at_most_ms);
  for (;;) {
    const std::uint64_t known = waiters->news();
    auto done = attempt();
    if (at_most_ms == 0 || done || done.error().code != EAGAIN) return done;
    const Duration left = end - std::chrono::steady_clock::now();
    if (left <= Duration{0}) return Error{"nothing happened in the time allowed", ETIMEDOUT};
    if (const auto waited = waiters->wait(known, left); !waited) return waited.error();
  }
}

wp_ip_endpoint endpoint_of(const IpEndpoint& from) {
  wp_ip_endpoint out{};
  out.port = from.port;
  if (from.address.none()) return out;
  out.family = from.address.is_v4() ? 4 : 6;
  std::copy_n(from.address.octets.begin(), from.address.bits() / 8, out.address);
  return out;
}
IpEndpoint endpoint_of(const wp_ip_endpoint& from) {
  if (from.family == 4) return {Address::v4(from.address), from.port};
  if (from.family == 6) return {Address::v6(from.address), from.port};
  return {};
}

Result<Address> local_of(const char* text) {
  if (text == nullptr) return Address{};
  const auto parsed = parse_address(text);
  return parsed ? Result<Address>{*parsed} : Result<Address>{Error{"local: expected an address", EINVAL}};
}

}  // namespace

struct wp_ip {
  std::shared_ptr<Waiters> waiters;
};
struct wp_tcp {
  TcpSocket socket;
  std::shared_ptr<Waiters> waiters;
};
struct wp_listener {
  TcpListener listener;
  std::shared_ptr<Waiters> waiters;
};
struct wp_udp {
  UdpSocket socket;
  std::shared_ptr<Waiters> waiters;
};

namespace {

template <class Handle>
void set_on_ready(Handle& handle, wp_ready call, void* user) {
  static_cast<void>(guarded([&] {
    handle.on_ready(call == nullptr ? std::function<void()>{} : [call, user] { call(user); });
    return 0;
  }));
}

template <class Handle>
void end(Handle* handle) {
  static_cast<void>(guarded([&] { return delete handle, 0; }));
}

}  // namespace

extern "C" {

int wp_ip_open(wp_node* node, const wp_ip_options* callers, wp_ip** ip) {
  return guarded([&] {
    *ip = nullptr;
    if (callers != nullptr && callers->size < sizeof(wp_ip_options))
      return fail("wp_ip_options: size is not set", EINVAL);
    const wp_ip_options given = callers == nullptr ? wp_ip_options{} : known_to_both(*callers);
    IpStackOptions options;
    if (given.connections != 0) options.connections = given.connections;
    if (given.backlog != 0) options.backlog = given.backlog;
    for (std::size_t i = 0; i < given.address_count; ++i) {
      const auto address = given.addresses[i] == nullptr ? std::nullopt : parse_address(given.addresses[i]);
      if (!address) return fail("addresses: expected addresses of IPv4 or IPv6", EINVAL);
      options.addresses.push_back(*address);
    }
    if (given.otherwise != nullptr)
      options.otherwise = [take = given.otherwise, user = given.user](const Received& in) {
        const wp_message message = message_of(in);
        take(user, &message, in.packet.data(), in.packet.size());
      };
    auto opened = IpStack::open(*node->node, std::move(options));
    if (!opened) return fail(opened.error());
    auto waiters = std::make_shared<Waiters>(std::shared_ptr<IpStack>{std::move(*opened)});
    if (!waiters->good()) return fail("eventfd", EMFILE);
    *ip = new wp_ip{std::move(waiters)};
    return 0;
  });
}

void wp_ip_close(wp_ip* ip) {
  if (ip == nullptr) return;
  static_cast<void>(guarded([&] { return ip->waiters->close(), 0; }));
  delete ip;
}

int wp_ip_fd(wp_ip* ip) { return ip->waiters->stack()->fd(); }

int wp_ip_process(wp_ip* ip) {
  const std::shared_ptr<Waiters> waiters = ip->waiters;  // a callback may close the stack
  return guarded([&] { return count_of(waiters->process()); });
}

int wp_ip_wait(wp_ip* ip, int at_most_ms) {
  const std::shared_ptr<Waiters> waiters = ip->waiters;
  return guarded([&] {
    const std::uint64_t known = waiters->news();
    const Result<std::size_t> told = waiters->process();
    if (!told || *told != 0 || at_most_ms == 0) return count_of(told);
    return count_of(waiters->wait(known, time_of(at_most_ms)));
  });
}

void wp_ip_get_stats(wp_ip* ip, wp_ip_stats* out) {
  const IpStackStats stats = ip->waiters->stack()->stats();
  tell({sizeof(wp_ip_stats), stats.received, stats.sent, stats.not_ours, stats.refused, stats.no_memory, stats.too_many,
        stats.queue_full, stats.connections, stats.connections_resting},
       out);
}

int wp_ip_parse(const char* text, wp_ip_endpoint* endpoint) {
  return guarded([&] {
    const auto parsed = parse_ip_endpoint(words(text));
    if (!parsed) return fail(parsed.error());
    *endpoint = endpoint_of(*parsed);
    return 0;
  });
}

void wp_ip_text(const wp_ip_endpoint* endpoint, char text[60]) {
  static_cast<void>(guarded([&] { return std::snprintf(text, 60, "%s", to_text(endpoint_of(*endpoint)).c_str()); }));
}

// ---- TCP

int wp_tcp_connect(wp_ip* ip, const char* to, const char* local, wp_tcp** tcp) {
  return guarded([&] {
    *tcp = nullptr;
    const auto there = parse_ip_endpoint(words(to));
    if (!there) return fail(there.error());
    const Result<Address> here = local_of(local);
    if (!here) return fail(here.error());
    auto made = ip->waiters->stack()->connect(*there, *here);
    if (!made) return fail(made.error());
    *tcp = new wp_tcp{std::move(*made), ip->waiters};
    return 0;
  });
}

int wp_tcp_listen(wp_ip* ip, uint16_t port, const char* local, wp_listener** listener) {
  return guarded([&] {
    *listener = nullptr;
    const Result<Address> here = local_of(local);
    if (!here) return fail(here.error());
    auto made = ip->waiters->stack()->listen(port, *here);
    if (!made) return fail(made.error());
    *listener = new wp_listener{std::move(*made), ip->waiters};
    return 0;
  });
}

int wp_tcp_accept(wp_listener* listener, int at_most_ms, wp_tcp** tcp) {
  return guarded([&] {
    *tcp = nullptr;
    auto made = until_done(listener->waiters, at_most_ms, [&] { return listener->listener.accept(); });
    if (!made) return fail(made.error());
    *tcp = new wp_tcp{std::move(*made), listener->waiters};
    return 0;
  });
}

uint16_t wp_listener_port(wp_listener* listener) { return listener->listener.port(); }
void wp_listener_on_ready(wp_listener* listener, wp_ready call, void* user) {
  set_on_ready(listener->listener, call, user);
}
void wp_listener_close(wp_listener* listener) { end(listener); }

int wp_tcp_read(wp_tcp* tcp, void* data, size_t room, int at_most_ms) {
  return guarded([&] {
    const std::span octets{static_cast<std::uint8_t*>(data), std::min<std::size_t>(room, INT32_MAX)};
    return count_of(until_done(tcp->waiters, at_most_ms, [&] { return tcp->socket.read(octets); }));
  });
}

int wp_tcp_write(wp_tcp* tcp, const void* data, size_t length, int at_most_ms) {
  return guarded([&] {
    const auto octets = octets_at(data, std::min<std::size_t>(length, INT32_MAX));
    if (at_most_ms == 0) return count_of(tcp->socket.write(octets));
    std::size_t taken = 0;
    const auto all = until_done(tcp->waiters, at_most_ms, [&]() -> Result<std::size_t> {
      const auto more = tcp->socket.write(octets.subspan(taken));
      if (!more) return more;
      taken += *more;
      return taken < octets.size() ? Result<std::size_t>{Error{"not all of it yet", EAGAIN}} : taken;
    });
    return count_of(all);
  });
}

int wp_tcp_finish(wp_tcp* tcp) {
  return guarded([&] { return status_of(tcp->socket.finish()); });
}
void wp_tcp_abort(wp_tcp* tcp) {
  static_cast<void>(guarded([&] { return tcp->socket.abort(), 0; }));
}
void wp_tcp_close(wp_tcp* tcp) { end(tcp); }

int wp_tcp_state(wp_tcp* tcp) {
  return (tcp->socket.connected() ? WP_TCP_CONNECTED : 0) | (tcp->socket.readable() ? WP_TCP_READABLE : 0) |
         (tcp->socket.writable() ? WP_TCP_WRITABLE : 0);
}
void wp_tcp_remote(wp_tcp* tcp, wp_ip_endpoint* endpoint) { *endpoint = endpoint_of(tcp->socket.remote()); }
void wp_tcp_local(wp_tcp* tcp, wp_ip_endpoint* endpoint) { *endpoint = endpoint_of(tcp->socket.local()); }
void wp_tcp_deadline(wp_tcp* tcp, int from_now_ms) {
  static_cast<void>(guarded([&] { return tcp->socket.deadline(std::chrono::milliseconds{from_now_ms}), 0; }));
}
void wp_tcp_on_ready(wp_tcp* tcp, wp_ready call, void* user) { set_on_ready(tcp->socket, call, user); }

// ---- UDP

int wp_udp_bind(wp_ip* ip, uint16_t port, wp_udp** udp) {
  return guarded([&] {
    *udp = nullptr;
    auto made = ip->waiters->stack()->bind(port);
    if (!made) return fail(made.error());
    *udp = new wp_udp{std::move(*made), ip->waiters};
    return 0;
  });
}

int wp_udp_send(wp_udp* udp, const wp_ip_endpoint* to, const void* data, size_t length) {
  return guarded([&] { return status_of(udp->socket.send(endpoint_of(*to), octets_at(data, length))); });
}

int wp_udp_receive(wp_udp* udp, void* data, size_t room, int at_most_ms, wp_ip_endpoint* from) {
  return guarded([&] {
    const auto attempt = [&]() -> Result<std::size_t> {
      std::size_t length = 0;
      const auto take = [&](const IpEndpoint& sender, std::span<const std::uint8_t> octets) {
        length = octets.size();
        std::copy_n(octets.data(), std::min(room, length), static_cast<std::uint8_t*>(data));
        if (from != nullptr) *from = endpoint_of(sender);
      };
      if (udp->socket.receive(take)) return length;
      return udp->waiters->stack() == nullptr ? closed() : Error{"no datagram waits", EAGAIN};
    };
    return count_of(until_done(udp->waiters, at_most_ms, attempt));
  });
}

uint16_t wp_udp_port(wp_udp* udp) { return udp->socket.port(); }
void wp_udp_on_ready(wp_udp* udp, wp_ready call, void* user) { set_on_ready(udp->socket, call, user); }
void wp_udp_close(wp_udp* udp) { end(udp); }

}  // extern "C"
