// c_api.cpp: wireplane.h on top of node.h, but streams: c_api_streams.cpp. What failed is told in words to the thread
// that asked.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>

#include "control/address_text.h"
#include "control/embed/c_api_state.h"
#include "control/noise/base64.h"

namespace wireplane::c_api {
namespace {

thread_local std::array<char, 256> last_error{};

}  // namespace

int fail(const char* what, int code) noexcept {
  std::snprintf(last_error.data(), last_error.size(), "%s", what);
  return code == 0 ? -EIO : -code;
}

}  // namespace wireplane::c_api

namespace {

using namespace wireplane;
using namespace wireplane::c_api;

void write_text(const Base64Key& text, char* out) {
  std::ranges::copy(text.view(), out);
  out[text.view().size()] = 0;
}

std::optional<Prefix> prefix_of(const char* words) { return words == nullptr ? std::nullopt : parse_prefix(words); }

wp_event event_of(const NodeEvent& event);

NodeOptions options_of(const wp_options& callers) {
  wp_options given = known_to_both(callers);
  NodeOptions options;
  options.private_key = SecretKey{std::span<const std::uint8_t, 32>{given.private_key}};
  wipe(given.private_key, sizeof given.private_key);
  options.listen_port = given.listen_port;
  options.workers = given.workers;
  if (given.mtu != 0) options.mtu = given.mtu;
  if (given.peers != 0) options.peers = given.peers;
  if (given.queue != 0) options.queue = given.queue;
  if (given.forward != 0) options.forward = Forward::kAll;
  if (given.socket_buffer != 0)
    options.socket_buffer_octets = static_cast<int>(std::min<uint32_t>(given.socket_buffer, INT32_MAX));
  if (given.stream_buffer != 0) options.stream_buffer_octets = given.stream_buffer;
  if (given.streams_per_peer != 0) options.streams_per_peer = given.streams_per_peer;
  options.streams = given.no_streams == 0;
  options.ipv4 = given.no_ipv4 == 0;
  options.ipv6 = given.no_ipv6 == 0;
  options.buffers = given.buffers;
  if (given.on_event != nullptr)
    options.on_event = [call = given.on_event, user = given.user](const NodeEvent& event) {
      const wp_event told = event_of(event);
      call(user, &told);
    };
  return options;
}

// Both kinds of datagrams are sent alike: as many as fit a burst, until one is not taken. made: the C++ API's, of one
// of them.
template <class From, class Made>
int send_all(wp_node* node, const From* datagrams, std::size_t count, Made made) {
  constexpr std::size_t kAtOnce = 64;
  std::array<Datagram, kAtOnce> burst;
  std::size_t taken = 0;
  while (taken < count) {
    std::size_t ready = 0;
    for (; ready < kAtOnce && taken + ready < count; ++ready) {
      const From& from = datagrams[taken + ready];
      const std::optional<NodePeer> to = node->node->find_peer(id_of(from.peer));
      if (!to) break;
      burst[ready] = made(from, *to);
    }
    const Result<std::size_t> sent = ready == 0 ? Result<std::size_t>{Error{"no such peer", ENOENT}}
                                                : node->node->send(std::span{burst}.first(ready));
    if (!sent) return taken == 0 ? fail(sent.error()) : static_cast<int>(taken);
    taken += *sent;
    if (*sent < kAtOnce) break;
  }
  return static_cast<int>(taken);
}

wp_event event_of(const NodeEvent& event) {
  wp_event out{handle_of(event.peer.id), static_cast<std::uint32_t>(event.kind), {}};
  if (event.endpoint.valid()) std::snprintf(out.endpoint, sizeof out.endpoint, "%s", to_text(event.endpoint).c_str());
  return out;
}

Result<NodePeerOptions> peer_options_of(const wp_peer_options* callers) {
  if (callers != nullptr && callers->size < offsetof(wp_peer_options, keepalive_s) + sizeof callers->keepalive_s)
    return Error{"wp_peer_options: size is not set", EINVAL};
  const wp_peer_options given = callers == nullptr ? wp_peer_options{} : known_to_both(*callers);
  NodePeerOptions options;
  options.keepalive_s = given.keepalive_s;
  if (given.endpoint != nullptr) {
    options.endpoint = parse_endpoint(given.endpoint, interface_index_of_host);
    if (!options.endpoint) return Error{"endpoint: expected address:port or [address]:port", EINVAL};
  }
  if (given.preshared_key != nullptr)
    options.preshared_key = SecretKey{std::span<const std::uint8_t, 32>{given.preshared_key, 32}};
  for (std::size_t i = 0; i < given.allowed_ip_count; ++i) {
    const std::optional<Prefix> prefix = prefix_of(given.allowed_ips[i]);
    if (!prefix) return Error{"allowed IPs: expected address/length", EINVAL};
    options.allowed_ips.push_back(*prefix);
  }
  return options;
}

// add_peer() and connect() differ in what they call. call: with the key and the options.
template <class Call>
int with_peer_options(const char* key, const wp_peer_options* callers, wp_peer* peer, Call call) {
  return guarded([&] {
    const std::optional<PublicKey> parsed = public_key_from_base64(words(key));
    if (!parsed) return fail("public key: expected 44 characters of base64", EINVAL);
    Result<NodePeerOptions> options = peer_options_of(callers);
    if (!options) return fail(options.error());
    const auto made = call(*parsed, std::move(*options));
    if (!made) return fail(made.error());
    if (peer != nullptr) *peer = handle_of(made->id);
    return 0;
  });
}

}  // namespace

extern "C" {

const char* wp_version(void) { return WIREPLANE_VERSION; }
const char* wp_error(void) { return c_api::last_error.data(); }

int wp_open(const wp_options* options, wp_node** node) {
  return guarded([&] {
    *node = nullptr;
    if (options != nullptr && options->size < offsetof(wp_options, forward))
      return fail("wp_options: size is not set", EINVAL);
    auto opened = Node::open(options == nullptr ? NodeOptions{} : options_of(*options));
    if (!opened) return fail(opened.error());
    *node = new wp_node{std::move(*opened)};
    return 0;
  });
}

void wp_close(wp_node* node) { delete node; }

void wp_key(wp_node* node, uint8_t key[32]) { std::ranges::copy(node->node->key().octets, key); }
void wp_key_text(wp_node* node, char text[45]) { write_text(to_base64(node->node->key()), text); }
void wp_private_key(wp_node* node, uint8_t key[32]) { std::ranges::copy(node->node->private_key().expose(), key); }
void wp_address(wp_node* node, uint8_t address[16]) { std::ranges::copy(node->node->address().octets, address); }
uint16_t wp_port(wp_node* node) { return node->node->port(); }
uint16_t wp_mtu(wp_node* node) { return node->node->mtu(); }
size_t wp_max_datagram(wp_node* node) { return node->node->max_datagram(); }

void wp_get_stats(wp_node* node, wp_stats* out) {
  const NodeStats stats = node->node->stats();
  std::uint64_t dropped = 0;
  for (const std::uint64_t count : stats.drops) dropped += count;
  tell({sizeof(wp_stats),
        stats.sent,
        stats.received,
        dropped,
        stats.events_lost,
        stats.queued_out,
        stats.queued_in,
        stats.buffers,
        stats.buffers_free,
        stats.stream_packets_lost,
        node->node->peers(),
        stats.keys_locked,
        {}},
       out);
}

uint64_t wp_dropped(wp_node* node, const char* reason) {
  const NodeStats stats = node->node->stats();
  for (std::size_t i = 1; i < kDropCount; ++i)
    if (metric(static_cast<Drop>(i)) == reason) return stats.drops[i];
  return 0;
}

int wp_add_peer(wp_node* node, const char* key, const char* endpoint, uint16_t keepalive_s, wp_peer* peer) {
  wp_peer_options options{};
  options.size = sizeof options;
  options.endpoint = endpoint;
  options.keepalive_s = keepalive_s;
  return wp_add_peer_with(node, key, &options, peer);
}

int wp_add_peer_with(wp_node* node, const char* key, const wp_peer_options* callers, wp_peer* peer) {
  return with_peer_options(key, callers, peer, [node](const PublicKey& whose, NodePeerOptions options) {
    return node->node->add_peer(whose, std::move(options));
  });
}

int wp_remove_peer(wp_node* node, wp_peer peer) {
  return guarded([&] {
    const std::optional<NodePeer> known = node->node->find_peer(id_of(peer));
    return known ? status_of(node->node->remove_peer(known->key)) : no_such_peer();
  });
}

int wp_find_peer(wp_node* node, const char* key, wp_peer* peer) {
  return guarded([&] {
    const std::optional<PublicKey> parsed = public_key_from_base64(words(key));
    if (!parsed) return fail("public key: expected 44 characters of base64", EINVAL);
    const std::optional<NodePeer> known = node->node->find_peer(*parsed);
    if (!known) return no_such_peer();
    *peer = handle_of(known->id);
    return 0;
  });
}

int wp_peer_key_text(wp_node* node, wp_peer peer, char text[45]) {
  return guarded([&] {
    const std::optional<NodePeer> known = node->node->find_peer(id_of(peer));
    if (!known) return no_such_peer();
    write_text(to_base64(known->key), text);
    return 0;
  });
}

int wp_fd(wp_node* node) { return node->node->fd(); }

int wp_process(wp_node* node) {
  return guarded([&] { return count_of(node->node->process()); });
}

int wp_wait(wp_node* node, int at_most_ms) {
  return guarded([&] { return count_of(node->node->wait(std::chrono::milliseconds{at_most_ms})); });
}

int wp_next_event(wp_node* node, wp_event* out) {
  return guarded([&] {
    NodeEvent event;
    if (!node->node->next_event(event)) return 0;
    *out = event_of(event);
    return 1;
  });
}

int wp_send(wp_node* node, wp_peer peer, const void* data, size_t length) {
  const wp_datagram one{peer, data, length};
  const int taken = wp_send_burst(node, &one, 1);
  return taken < 0 ? taken : 0;
}

int wp_send_burst(wp_node* node, const wp_datagram* datagrams, size_t count) {
  return guarded([&] {
    return send_all(node, datagrams, count, [](const wp_datagram& from, const NodePeer& to) {
      return Datagram{to, octets_at(from.data, from.length)};
    });
  });
}

int wp_send_packet(wp_node* node, const void* packet, size_t length) {
  return guarded([&] {
    return status_of(node->node->send_packet({static_cast<const std::uint8_t*>(packet), length}));
  });
}

int wp_receive(wp_node* node, wp_message* messages, size_t count, void* memory, size_t size) {
  return guarded([&] {
    const std::size_t fit = size / node->node->mtu();
    if (fit == 0) return fail("memory for less than one packet (wp_mtu)", EMSGSIZE);
    auto* free = static_cast<std::uint8_t*>(memory);
    wp_message* next = messages;
    const auto take = [&](const Received& in) {
      std::copy_n(in.octets.data(), in.octets.size(), free);
      *next = message_of(in);
      next++->data = free;
      free += in.octets.size();
    };
    return static_cast<int>(node->node->receive(take, std::min<std::size_t>({count, fit, INT32_MAX})));
  });
}

// ---- since 0.2

int wp_view_peer(wp_node* node, wp_peer peer, wp_peer_view* out) {
  return guarded([&] {
    const std::optional<NodePeer> known = node->node->find_peer(id_of(peer));
    const std::optional<NodePeerView> view = known ? node->node->view(known->key) : std::nullopt;
    if (!view) return no_such_peer();
    wp_peer_view all{sizeof all, view->last_handshake / 1s, view->received_octets, view->sent_octets, {}};
    if (view->endpoint) std::snprintf(all.endpoint, sizeof all.endpoint, "%s", to_text(*view->endpoint).c_str());
    tell(all, out);
    return 0;
  });
}

int wp_send_outgoing(wp_node* node, const wp_outgoing* datagrams, size_t count) {
  return guarded([&] {
    return send_all(node, datagrams, count, [](const wp_outgoing& from, const NodePeer& to) {
      return Datagram{to, octets_at(from.data, from.length), from.port == 0 ? kDatagramPort : from.port,
                      from.from_port == 0 ? kDatagramPort : from.from_port, from.traffic_class};
    });
  });
}

int wp_connect(wp_node* node, const char* key, const char* endpoint, wp_peer* peer) {
  return guarded([&] {
    const Result<Connection> made = node->node->connect(words(key), words(endpoint));
    if (!made) return fail(made.error());
    if (peer != nullptr) *peer = handle_of(made->id);
    return 0;
  });
}

// ---- since 0.3

void wp_shutdown(wp_node* node) { node->node->close(); }

const char* wp_drop_reason(size_t index) {
  return index + 1 < kDropCount ? metric(static_cast<Drop>(index + 1)).data() : nullptr;
}

void wp_address_of(const uint8_t key[32], uint8_t address[16]) {
  PublicKey of;
  std::copy_n(key, 32, of.octets.begin());
  std::ranges::copy(address_of(of).octets, address);
}

int wp_peer_key(wp_node* node, wp_peer peer, uint8_t key[32]) {
  return guarded([&] {
    const std::optional<NodePeer> known = node->node->find_peer(id_of(peer));
    if (!known) return no_such_peer();
    std::ranges::copy(known->key.octets, key);
    return 0;
  });
}

int wp_connect_with(wp_node* node, const char* key, const wp_peer_options* callers, wp_peer* peer) {
  return with_peer_options(key, callers, peer, [node](const PublicKey& whose, NodePeerOptions options) {
    return node->node->connect(whose, std::move(options));
  });
}

int wp_receive_each(wp_node* node, wp_take take, void* user, size_t at_most) {
  return guarded([&] {
    const auto give = [&](const Received& in) {
      const wp_message message = message_of(in);
      take(user, &message, in.packet.data(), in.packet.size());
    };
    return static_cast<int>(node->node->receive(give, std::min<std::size_t>(at_most, INT32_MAX)));
  });
}

}  // extern "C"
