// node_streams.cpp: what a node's streams need of it, and it of them. See stream_layer.h.
#include <sys/eventfd.h>

#include <algorithm>

#include "control/embed/node_state.h"
#include "dataplane/wire/inner_ip.h"
#include "drivers/eventfd.h"

namespace wireplane {
namespace {

Error without_streams() { return {"NodeOptions::streams is false", ENOTSUP}; }

}  // namespace

void Node::State::open_streams() {
  StreamLayer::Parts parts{
      .key = key,
      .address = address,
      .sctp = {.packet = options.mtu - kIpv6HeaderSize,
               .streams = options.streams_per_peer,
               .buffer = options.stream_buffer_octets},
      .transmit = [this](const PeerStreams& to, auto packet, auto ds) { return send_sctp(to.peer(), packet, ds); },
      .find_peer = [this](PeerId id) { return find(id); },
      .news = [this] { notify(); },
      .due_sooner = [this] { drive(); },
      .wait = {}};
  if (!threaded()) parts.wait = [this](std::uint64_t heard, Duration at_most) { wait_for_stream_news(heard, at_most); };
  streams = std::make_shared<StreamLayer>(std::move(parts));
  for (const auto& app : app_ports)
    app->divert_sctp([this] {
      if (threaded()) engine->control_doorbell().ring_if_asleep();
    });
}

// Like any packet it may be lost, when a queue is full: SCTP notices.
bool Node::State::send_sctp(const NodePeer& to, std::span<const std::uint8_t> packet, std::uint8_t traffic_class) {
  constexpr std::uint8_t kSctp = 132;
  Buffer* buffer;
  if (packet.size() + kIpv6HeaderSize > options.mtu || pool->take(&buffer, 1) == 0) return false;
  std::uint8_t* ip = buffer->memory + kHeadroom;
  store_be32(ip, 0x6000'0000u | std::uint32_t{traffic_class} << 20);
  store_be16(ip + 4, static_cast<std::uint16_t>(packet.size()));
  ip[6] = kSctp;
  ip[7] = 64;
  std::ranges::copy(address.octets, ip + 8);
  std::ranges::copy(to.address.octets, ip + 24);
  std::copy_n(packet.data(), packet.size(), ip + kIpv6HeaderSize);  // ranges::copy goes octet by octet
  AppPort& app = *app_ports[to.id.slot.raw() % worker_count()];
  if (!app.push({buffer, static_cast<std::uint32_t>(kIpv6HeaderSize + packet.size())})) {
    pool->give(&buffer, 1);
    return false;
  }
  app.pushed();
  if (!threaded()) notify();
  return true;
}

// Gives a worker the chance to send what waits for it: at once, if it runs; on a busy machine at most so long.
void Node::State::let_out(PeerId last_words_to) {
  if (!threaded()) return turn();
  const Instant end = engine_clock() + 10ms;
  const AppPort& app = *app_ports[last_words_to.slot.raw() % worker_count()];
  while (app.queued_out() != 0 && engine_clock() < end) std::this_thread::yield();
}

// Another thread may drive the node, too, and have taken back what made its descriptor readable before we have run.
void Node::State::wait_for_stream_news(std::uint64_t heard, Duration at_most) {
  const Instant end = engine_clock() + std::min<Duration>(at_most, 24h);
  const FileDescriptor told{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};  // or none: poll() leaves that out
  const StreamLayer::Listener listener{*streams, told.get()};
  while (streams->news() == heard) {
    const std::uint64_t told_before = news();
    {
      const std::lock_guard lock{control};
      if (closed.load(std::memory_order_relaxed)) return;
      turn_and_take_notice();
    }
    tell_events();
    if (waiting() != 0 || news() != told_before) wake_waiters();
    const Duration left = end - engine_clock();
    if (streams->news() != heard || left <= Duration{0}) return;
    sleep_on(epoll_fd.get(), left, told.get());
  }
}

Result<Stream> Connection::open_stream(Stream::Kind kind) const { return node->open_stream(*this, kind); }

Result<Connection> Node::connect(const PublicKey& key, NodePeerOptions options) try {
  if (state_->streams == nullptr) return without_streams();
  const Result<NodePeer> peer = add_peer(key, std::move(options));
  if (!peer) return peer.error();
  const SctpStack::Use use;
  if (Status begun = state_->streams->associate(*peer); !begun) return begun.error();
  return Connection{*peer, this};
} catch (const std::bad_alloc&) {
  return node_lacks_memory();
}

Result<Connection> Node::connect(std::string_view key, std::string_view endpoint) try {
  if (state_->streams == nullptr) return without_streams();
  const Result<NodePeer> peer = add_peer(key, endpoint);
  if (!peer) return peer.error();
  const SctpStack::Use use;
  if (Status begun = state_->streams->associate(*peer); !begun) return begun.error();
  return Connection{*peer, this};
} catch (const std::bad_alloc&) {
  return node_lacks_memory();
}

Result<Stream> Node::open_stream(const NodePeer& peer, Stream::Kind kind) try {
  if (state_->streams == nullptr) return without_streams();
  if (state_->is_closed()) return node_is_closed();
  if (state_->find(peer.id) != peer) return Error{"no such peer", ENOENT};
  const SctpStack::Use use;
  return state_->streams->open(peer, kind);
} catch (const std::bad_alloc&) {
  return node_lacks_memory();
}

Result<Stream> Node::accept_stream() try {
  if (state_->streams == nullptr) return without_streams();
  if (state_->is_closed()) return node_is_closed();
  const SctpStack::Use use;
  return state_->streams->accept();
} catch (const std::bad_alloc&) {
  return node_lacks_memory();
}

Result<Stream> Node::accept_stream(Duration at_most) {
  if (state_->streams == nullptr) return without_streams();
  StreamLayer& streams = *state_->streams;
  const Instant end = engine_clock() + at_most;
  for (;;) {
    const std::uint64_t known = streams.news();
    Result<Stream> accepted = accept_stream();
    if (accepted || accepted.error().code != EAGAIN) return accepted;
    const Duration left = end - engine_clock();
    if (left <= Duration{0}) return Error{"no stream was opened in the time allowed", ETIMEDOUT};
    streams.wait(known, left);
  }
}

Stream Node::next_ready_stream() {
  if (state_->streams == nullptr || state_->is_closed()) return {};
  const SctpStack::Use use;
  return state_->streams->next_ready();
}

}  // namespace wireplane
