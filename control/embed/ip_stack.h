// ip_stack.h: TCP and UDP over a node, inside the application: no interface, no privileges.
//
//   auto stack = *IpStack::open(*node, {.addresses = {*parse_address("10.77.0.9")}});
//   auto page = *stack->connect("10.77.0.1:80");               // a server behind any WireGuard peer
//   page.write(request), stack->wait(1s), page.read(into);
//
//   application -- sockets --> lwIP --whole IP packets--> Node --> peer      process() moves all of it; fd(): poll it,
//                          <--      <--                        <--          or sleep in wait()
//
// What a peer's allowed IPs have can be reached; who reaches us is whoever may send to one of our addresses. Nothing
// blocks but wait(): what cannot be done now is EAGAIN, and on_ready tells when to try again. Operations that fail
// return why. Any call from any thread; callbacks run inside process() and wait(), without a lock, and may call all of
// this. The node must outlive the stack; sockets may outlive it (ESHUTDOWN). In a child of fork() its parent's stacks
// are closed, as are its nodes.
//
// lwIP is one for the whole process: all stacks share one lock, and at most 200 of them live at a time. One stack takes
// a node's packets: call its process() instead of the node's process() and receive(). Cost: a packet is copied twice
// each way beside the cipher's work; a connection is about 1 KiB beside what waits in it.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "control/embed/node.h"
#include "dataplane/base/time.h"

namespace wireplane {

struct IpStackState;
struct TcpState;
struct TcpListenerState;
struct UdpState;

struct IpEndpoint {  // inside the tunnel
  Address address;
  std::uint16_t port{};
  friend bool operator==(const IpEndpoint&, const IpEndpoint&) = default;
};
[[nodiscard]] Result<IpEndpoint> parse_ip_endpoint(std::string_view text);  // 10.77.0.1:80, [fd77::1]:80
[[nodiscard]] std::string to_text(const IpEndpoint& endpoint);

struct IpStackOptions {
  std::vector<Address> addresses{};  // ours, beside node.address(): at most one IPv4 and four IPv6
  std::size_t connections = 1024;    // at most, those included that are still being closed
  std::size_t backlog = 64;          // of a listener: half open, and not yet accepted
  Node::Take otherwise{};            // gets what no socket of the stack is for: datagrams to other ports
};

struct IpStackStats {
  std::uint64_t received = 0, sent = 0;  // packets
  std::uint64_t not_ours = 0;            // to an address, or from one, that cannot be
  std::uint64_t refused = 0;             // protocols and ICMP messages that a host inside a tunnel does not need
  std::uint64_t no_memory = 0;
  std::uint64_t too_many = 0;    // SYNs beyond the backlog or the connections; UDP beyond a socket's queue
  std::uint64_t queue_full = 0;  // the node's: TCP sends again at once when there is room, UDP is told EAGAIN
  std::size_t connections = 0, connections_resting = 0;  // resting: TIME-WAIT
};

// One TCP connection. Moved, never copied; the destructor closes.
class TcpSocket {
 public:
  TcpSocket() = default;
  TcpSocket(TcpSocket&&) noexcept = default;
  TcpSocket& operator=(TcpSocket&& from) noexcept;
  ~TcpSocket();

  // Octets that were read, at least one; 0: the peer has finished. EAGAIN: nothing yet; ECONNREFUSED, ECONNRESET,
  // ETIMEDOUT (the peer fell silent, or the deadline passed), ESHUTDOWN (the stack is gone), ENOTCONN (closed by us).
  Result<std::size_t> read(std::span<std::uint8_t> into);
  // Octets that were taken, in order, at least one; also before the connection is made. EAGAIN: no room; EPIPE: after
  // finish(). Taken is not delivered: read() tells that the peer is gone.
  Result<std::size_t> write(std::span<const std::uint8_t> from);
  Result<std::size_t> write(std::string_view from);
  Status finish();  // nothing more will be written; what was, is sent. Reading goes on.
  void close();     // as finish(), and whatever still comes is refused; the peer is told if something was left unread
  void abort();     // at once: unsent data is dropped, the peer gets a reset

  [[nodiscard]] bool connected() const;  // has been made, and has not ended
  [[nodiscard]] bool readable() const;   // read() would not say EAGAIN
  [[nodiscard]] bool writable() const;   // write() would not say EAGAIN
  [[nodiscard]] IpEndpoint remote() const;
  [[nodiscard]] IpEndpoint local() const;

  // After so long, what would be EAGAIN is ETIMEDOUT; 0: never. Counts from now, until it is set again.
  void deadline(Duration from_now);
  // Called when something changed that read() or write() waits for, at the deadline, too. May come once after close().
  void on_ready(std::function<void()> callback);
  explicit operator bool() const { return state_ != nullptr; }

 private:
  friend class IpStack;
  friend class TcpListener;
  explicit TcpSocket(std::shared_ptr<TcpState> state) : state_{std::move(state)} {}
  std::shared_ptr<TcpState> state_;
};

class TcpListener {
 public:
  TcpListener() = default;
  TcpListener(TcpListener&&) noexcept = default;
  TcpListener& operator=(TcpListener&& from) noexcept;
  ~TcpListener();

  Result<TcpSocket> accept();  // EAGAIN: nobody has come
  void close();                // connections that nobody has accepted are reset
  [[nodiscard]] std::uint16_t port() const;
  void on_ready(std::function<void()> callback);

 private:
  friend class IpStack;
  explicit TcpListener(std::shared_ptr<TcpListenerState> state) : state_{std::move(state)} {}
  std::shared_ptr<TcpListenerState> state_;
};

class UdpSocket {
 public:
  using Take = std::function<void(const IpEndpoint& from, std::span<const std::uint8_t> octets)>;
  UdpSocket() = default;
  UdpSocket(UdpSocket&&) noexcept = default;
  UdpSocket& operator=(UdpSocket&& from) noexcept;
  ~UdpSocket();

  Status send(const IpEndpoint& to, std::span<const std::uint8_t> octets);  // EAGAIN: the node's queue is full
  bool receive(const Take& take);  // one datagram; false: none waits. Up to 64 wait, then new ones are dropped
  void close();
  [[nodiscard]] std::uint16_t port() const;
  void on_ready(std::function<void()> callback);

 private:
  friend class IpStack;
  explicit UdpSocket(std::shared_ptr<UdpState> state) : state_{std::move(state)} {}
  std::shared_ptr<UdpState> state_;
};

class IpStack {
 public:
  [[nodiscard]] static Result<std::unique_ptr<IpStack>> open(Node& node, IpStackOptions options = {});
  ~IpStack();  // connections are reset
  IpStack(const IpStack&) = delete;
  IpStack& operator=(const IpStack&) = delete;

  // Returns at once; the first packet is on its way. `local`: which of our addresses. None: the IPv4 one; for IPv6 the
  // given one of the remote's network, else the node's own for a remote in fd00::/8, else the first given.
  Result<TcpSocket> connect(const IpEndpoint& to, const Address& local = {});
  Result<TcpSocket> connect(std::string_view to);
  // At all of our addresses, or at one; port 0: any that is free. EADDRINUSE: another listener has it.
  Result<TcpListener> listen(std::uint16_t port, const Address& local = {});
  Result<UdpSocket> bind(std::uint16_t port = 0);  // at all of our addresses

  // Driving, as for Node: fd() becomes readable when process() should be called.
  [[nodiscard]] int fd() const;
  Result<std::size_t> process();               // returns how many sockets had news
  Result<std::size_t> wait(Duration at_most);  // processes and sleeps until one has, or Node::wait() would return
  [[nodiscard]] IpStackStats stats() const;

 private:
  explicit IpStack(std::shared_ptr<IpStackState> state) : state_{std::move(state)} {}
  std::shared_ptr<IpStackState> state_;
};

}  // namespace wireplane
