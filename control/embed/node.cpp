#include "control/embed/node.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "control/address_text.h"
#include "control/embed/node_state.h"
#include "control/noise/base64.h"
#include "control/noise/x25519.h"
#include "drivers/eventfd.h"

namespace wireplane {
namespace {

constexpr std::size_t kHeldByWorker = 512;  // buffers beside the queues: its cache, its socket, a burst, what waits

Error system_error(std::string what) {
  const int code = errno;
  return {std::move(what) + ": " + std::strerror(code), code};
}

Error refused(std::string what, int code = EINVAL) { return {std::move(what), code}; }

std::size_t fewest_buffers(const NodeOptions& options) {
  const std::size_t to_app = std::max(options.queue, 2 * kReceiveBurst);
  return std::max(options.workers, 1u) * (options.queue + to_app + kHeldByWorker);
}

Status check(const NodeOptions& options) {
  if (options.workers > kBuckets) return refused("workers: expected 0 to " + std::to_string(kBuckets));
  if (!options.ipv4 && !options.ipv6) return refused("ipv4, ipv6: expected at least one of them");
  if (options.mtu < 1280) return refused("mtu: expected 1280 (the least of IPv6, RFC 8200) or more");
  if (options.peers == 0 || options.peers > (std::size_t{1} << 22)) return refused("peers: expected 1 to 4194304");
  if (!std::has_single_bit(options.queue) || options.queue > (1u << 16))
    return refused("queue: expected a power of two up to 65536");
  if (options.buffers != 0 && options.buffers < fewest_buffers(options))
    return refused("buffers: expected 0 or at least " + std::to_string(fewest_buffers(options)) +
                   ", for the queues and the workers");
  if (options.streams_per_peer < 2 || options.streams_per_peer > 65535)
    return refused("streams_per_peer: expected 2 to 65535");
  if (options.stream_buffer_octets < (64u << 10) || options.stream_buffer_octets > (64u << 20))
    return refused("stream_buffer_octets: expected 65536 to 67108864");
  return Nothing{};
}

// Of 64 KiB each, touched when traffic needs them. More would wait in queues: then a copy is no loss.
constexpr std::size_t kTrainsOut = 8, kTrainsIn = 16;

Limits limits_of(const NodeOptions& options) {
  Limits limits;
  limits.workers = std::max(options.workers, 1u);
  limits.peers = options.peers + 16;  // slots rest a moment after a peer was removed
  limits.buffers = options.buffers == 0 ? fewest_buffers(options) : options.buffers;
  limits.data_room = std::max<std::size_t>(1536, (options.mtu + kDataOverhead + 63) / 64 * 64);
  const std::size_t few = std::bit_ceil(std::clamp<std::size_t>(options.peers / 4, 128, 1024));
  // An eighth of it at once is taken for an attack (P9): a small network that wakes up is none.
  limits.handshake_ring = std::bit_ceil(std::clamp<std::size_t>(16 * options.peers, 64, 512));
  limits.event_ring = few;
  limits.order_ring = few;
  limits.handover_ring = std::clamp<std::size_t>(options.queue, 64, 512);
  return limits;
}

}  // namespace

Error node_is_closed() { return {"the node is closed", ESHUTDOWN}; }
Error node_lacks_memory() { return {"out of memory", ENOMEM}; }

Node::Node(std::unique_ptr<State> state) : state_{std::move(state)} {}

Result<std::unique_ptr<Node>> Node::open(NodeOptions options) {
  if (Status valid = check(options); !valid) return valid.error();
  try {
    auto state = std::make_unique<State>();
    state->options = std::move(options);
    for (const auto step : {&State::open_descriptors, &State::open_engine, &State::open_device})
      if (Status done = (state.get()->*step)(); !done) return done.error();
    if (state->options.streams) state->open_streams();
    std::unique_ptr<Node> node{new Node{std::move(state)}};  // whatever fails from here on, it ends its threads
    if (node->state_->threaded())
      node->state_->start_threads();
    else if (Status watched = node->state_->watch(); !watched)
      return watched.error();
    return node;
  } catch (const std::bad_alloc&) {
    return refused("no memory for a node of this size", ENOMEM);
  } catch (const std::system_error& failure) {  // a thread that could not be started, no descriptor for the sessions
    return refused(failure.what(), failure.code().value());
  }
}

Node::~Node() {
  if (state_->forked())
    static_cast<void>(state_.release());  // there are no threads to join, and locks may be held by them for ever
  else
    close();
}

void Node::close() {
  if (!state_->forked()) state_->close();
}

unsigned Node::State::process_generation() {
  static std::atomic<unsigned> generation{0};
  static const int registered =
      ::pthread_atfork(nullptr, nullptr, [] { generation.fetch_add(1, std::memory_order_relaxed); });
  WG_CHECK(registered == 0);
  return generation.load(std::memory_order_relaxed);
}

Status Node::State::open_descriptors() {
  notify_fd = FileDescriptor{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  if (!notify_fd) return system_error("eventfd");
  if (threaded()) {
    control_wake_fd = FileDescriptor{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    return control_wake_fd ? Status{Nothing{}} : system_error("eventfd");
  }
  timer_fd = FileDescriptor{::timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK)};
  return timer_fd ? Status{Nothing{}} : system_error("timerfd");
}

Status Node::State::open_engine() {
  const Limits limits = limits_of(options);
  pool = std::make_unique<ThriftyPool>(limits.buffers, limits.data_room);
  engine = std::make_unique<Engine>(limits, pool.get());
  for (unsigned i = 0; i < limits.workers; ++i) {
    FileDescriptor wake;
    if (threaded()) {
      wake = FileDescriptor{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
      if (!wake) return system_error("eventfd");
    }
    app_ports.push_back(std::make_unique<AppPort>(options.queue, std::move(wake), [this] {
      if (threaded()) notify();
    }));
  }
  UdpOptions udp;
  udp.workers = limits.workers;
  udp.listen_port = options.listen_port;
  udp.ipv4 = options.ipv4;
  udp.ipv6 = options.ipv6;
  udp.trains = options.trains;
  if (options.trains) {
    trains_out = std::make_unique<TrainBuffers>(kTrainsOut);
    // What is forwarded would be sealed anew where it lies, and may grow.
    if (options.forward == Forward::kNone) trains_in = std::make_unique<TrainBuffers>(kTrainsIn);
  }
  udp.whole_trains = trains_in.get();
  udp.receive_buffer_octets = udp.send_buffer_octets = options.socket_buffer_octets;
  auto opened = UdpDevice::open(udp);
  if (!opened) return opened.error();
  outer = std::move(*opened);
  port = outer->listen_port();
  return Nothing{};
}

Status Node::State::open_device() {
  private_key = std::move(options.private_key);
  if (private_key.is_zero()) entropy.fill(private_key.fill());
  clamp(private_key);
  device = std::make_unique<Device>(
      *engine, outer.get(), entropy, system_now(),
      Device::Options{
          .keylog = {},
          .on_event = [this](const PeerView& peer, const char* what) { take_event(peer, what); },
          .rate_limited_sources = static_cast<std::uint32_t>(std::clamp<std::size_t>(2 * options.peers, 256, 65536))});
  DeviceChange identity;
  identity.private_key = private_key.duplicate();
  if (Status applied = device->apply(std::move(identity)); !applied) return applied;
  key = device->public_key();
  address = address_of(key);
  Settings settings;
  settings.forward = options.forward;
  settings.has_inner = true;
  settings.mtu = options.mtu;
  settings.host_addresses = {address};
  device->set_engine_settings(std::move(settings));
  for (unsigned i = 0; i < worker_count(); ++i) {
    paced.push_back(std::make_unique<PacedPort>(outer->queue(i), *app_ports[i]));
    workers.push_back(std::make_unique<Worker>(*engine, i, *paced[i], app_ports[i].get()));
  }
  return Nothing{};
}

// Threads first; then, with nobody else left, keys and sockets. The rings and the pool stay until the node itself goes,
// because another thread of the application may be in the middle of a send().
void Node::State::close() {
  if (closed.exchange(true)) return;
  stop_control.store(true, std::memory_order_relaxed);
  if (control_thread.joinable()) {
    ring_eventfd(control_wake_fd.get());
    control_thread.join();
  }
  if (streams != nullptr) streams->close();  // peers are told, by packets that wait for the workers
  threads.clear();
  {
    const std::lock_guard lock{control};
    const Instant now = engine_clock();
    for (const auto& worker : workers)
      for (int steps = 0; steps < 64 && worker->step(now) == Work::kDone; ++steps) continue;
    account_for(workers);
    workers.clear();
    if (device != nullptr)
      for (std::size_t i = 0; i < kDropCount; ++i) drops_of_closed_device[i] = device->drops(static_cast<Drop>(i));
    device.reset();
    outer.reset();
    private_key.clear();
  }
  notify();
}

// ---- who we are

const PublicKey& Node::key() const { return state_->key; }
std::string Node::key_text() const { return std::string{to_base64(state_->key).view()}; }
const Address& Node::address() const { return state_->address; }
std::uint16_t Node::port() const { return state_->port; }
std::uint16_t Node::mtu() const { return state_->options.mtu; }

SecretKey Node::private_key() const {
  if (state_->forked()) return {};
  const std::lock_guard lock{state_->control};
  return state_->private_key.duplicate();
}

NodeStats Node::stats() const {
  State& s = *state_;
  NodeStats stats;
  if (s.forked()) return stats;
  const std::lock_guard lock{s.control};
  for (unsigned i = 0; i < s.worker_count(); ++i) {
    const Counters& counters = s.engine->link(i).counters;
    stats.sent += counters.inner_in.get();
    stats.received += counters.inner_out.get();
    stats.queued_out += s.app_ports[i]->queued_out();
    for (std::size_t d = 0; d < kDropCount; ++d) stats.drops[d] += counters.drops[d].get();
  }
  for (std::size_t d = 0; d < kDropCount; ++d)
    stats.drops[d] += s.device == nullptr ? s.drops_of_closed_device[d] : s.device->drops(static_cast<Drop>(d));
  stats.drops[static_cast<std::size_t>(Drop::kInnerMalformed)] += s.malformed.load(std::memory_order_relaxed);
  stats.drops[static_cast<std::size_t>(Drop::kPeerGone)] += s.from_nobody.load(std::memory_order_relaxed);
  stats.queued_in = s.waiting();
  if (s.streams != nullptr) stats.stream_packets_lost = s.streams->lost();
  stats.buffers = s.pool->capacity();
  stats.buffers_free = s.pool->available();
  stats.keys_locked = s.engine->sessions().locked();
  const std::lock_guard events{s.events_mutex};
  stats.events_lost = s.events_lost;
  return stats;
}

// ---- whom we know

std::optional<NodePeer> Node::State::find(const PublicKey& wanted) {
  const Peer* peer = device->find(wanted);
  return peer == nullptr ? std::nullopt : std::optional{NodePeer{wanted, address_of(wanted), peer->id}};
}

Result<NodePeer> Node::add_peer(const PublicKey& key, NodePeerOptions options) try {
  State& s = *state_;
  if (s.forked()) return node_is_closed();
  const std::lock_guard lock{s.control};
  if (s.device == nullptr) return node_is_closed();
  if (key == s.key) return refused("a node cannot be its own peer: this is our key");
  const bool fresh = s.device->find(key) == nullptr;
  if (fresh && s.device->peer_count() >= s.options.peers)
    return refused("more peers than the " + std::to_string(s.options.peers) + " of NodeOptions::peers", ENOSPC);

  PeerChange change;
  change.public_key = key;
  change.endpoint = options.endpoint;
  change.preshared_key = std::move(options.preshared_key);
  change.persistent_keepalive_s = options.keepalive_s;
  change.replace_allowed_ips = true;
  change.allowed_ips.push_back({{address_of(key), 128}});
  for (const Prefix& prefix : options.allowed_ips) change.allowed_ips.push_back({prefix});
  DeviceChange all;
  all.peers.push_back(std::move(change));
  s.device->step(system_now());  // the device's idea of time is that of its last step
  if (Status applied = s.device->apply(std::move(all)); !applied) return applied.error();

  const Peer* made = s.device->find(key);
  if (made == nullptr) return refused("no room for another peer", ENOSPC);
  if (!s.device->can_shake_hands(key)) {
    DeviceChange undo;
    undo.peers.emplace_back().public_key = key;
    undo.peers.back().remove = true;
    static_cast<void>(s.device->apply(std::move(undo)));
    return refused("not a public key: a point of low order (RFC 7748 §6.1)");
  }
  const NodePeer peer{key, address_of(key), made->id};
  {
    const std::lock_guard peers{s.peers_mutex};
    if (s.known.size() <= peer.id.slot.raw()) s.known.resize(peer.id.slot.raw() + 1);
    auto& place = s.known[peer.id.slot.raw()];
    if (!place || place->peer.id != peer.id) place = State::Known{peer, false, {}};
  }
  s.configured();
  return peer;
} catch (const std::bad_alloc&) {
  return node_lacks_memory();
}

Result<NodePeer> Node::add_peer(std::string_view key, std::string_view endpoint) try {
  const std::optional<PublicKey> parsed = public_key_from_base64(key);
  if (!parsed) return refused("public key: expected 44 characters of base64");
  NodePeerOptions options;
  if (!endpoint.empty()) {
    options.endpoint = parse_endpoint(endpoint, interface_index_of_host);
    if (!options.endpoint) return refused("endpoint: expected address:port or [address]:port");
  }
  return add_peer(*parsed, std::move(options));
} catch (const std::bad_alloc&) {
  return node_lacks_memory();
}

Status Node::remove_peer(const PublicKey& key) try {
  State& s = *state_;
  if (s.forked()) return node_is_closed();
  const std::lock_guard lock{s.control};
  if (s.device == nullptr) return node_is_closed();
  const std::optional<NodePeer> peer = s.find(key);
  if (!peer) return refused("no such peer", ENOENT);
  {
    const std::lock_guard peers{s.peers_mutex};
    s.known[peer->id.slot.raw()].reset();
  }
  DeviceChange change;
  change.peers.emplace_back().public_key = key;
  change.peers.back().remove = true;
  if (s.streams != nullptr) {
    s.streams->forget(peer->id);
    s.let_out(peer->id);  // the peer is told that its streams have ended
  }
  s.device->step(system_now());
  if (Status applied = s.device->apply(std::move(change)); !applied) return applied;
  s.configured();
  return Nothing{};
} catch (const std::bad_alloc&) {
  return node_lacks_memory();
}

std::optional<NodePeer> Node::find_peer(const PublicKey& key) const {
  if (state_->forked()) return std::nullopt;
  const std::lock_guard lock{state_->control};
  return state_->device == nullptr ? std::nullopt : state_->find(key);
}

std::optional<NodePeer> Node::State::find(PeerId id) {
  const std::lock_guard lock{peers_mutex};
  const std::size_t slot = id.slot.raw();
  const bool there = slot < known.size() && known[slot] && known[slot]->peer.id == id;
  return there ? std::optional{known[slot]->peer} : std::nullopt;
}

std::optional<NodePeer> Node::find_peer(PeerId id) const { return state_->forked() ? std::nullopt : state_->find(id); }

std::optional<NodePeerView> Node::view(const PublicKey& key) const {
  if (state_->forked()) return std::nullopt;
  const std::lock_guard lock{state_->control};
  const std::optional<NodePeer> peer = state_->device == nullptr ? std::nullopt : state_->find(key);
  if (!peer) return std::nullopt;
  NodePeerView view;
  static_cast<void>(state_->device->dump_some(peer->id.slot.raw(), 1, [&](const PeerView& seen) {
    view = {seen.endpoint, seen.last_handshake, seen.received_octets, seen.sent_octets};
  }));
  return view;
}

std::size_t Node::peers() const {
  if (state_->forked()) return 0;
  const std::lock_guard lock{state_->control};
  return state_->device == nullptr ? 0 : state_->device->peer_count();
}

}  // namespace wireplane
