// c_api.cpp: wireplane.h on top of node.h. No exception leaves; what failed is told in words to the thread that asked.
#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>

#include "control/address_text.h"
#include "control/embed/node.h"
#include "control/embed/wireplane.h"
#include "control/noise/base64.h"

struct wp_node {
  std::unique_ptr<wireplane::Node> node;
};
struct wp_stream {
  wireplane::Stream stream;
  void* user = nullptr;
};

namespace {

using namespace wireplane;

thread_local std::array<char, 256> last_error{};

int fail(const char* what, int code) {
  std::snprintf(last_error.data(), last_error.size(), "%s", what);
  return code == 0 ? -EIO : -code;
}
int fail(const Error& error) { return fail(error.what.c_str(), error.code); }

template <class Call>
int guarded(Call call) noexcept {
  try {
    return call();
  } catch (const std::bad_alloc&) {
    return fail("out of memory", ENOMEM);
  } catch (const std::exception& failure) {
    return fail(failure.what(), EIO);
  } catch (...) {
    return fail("unknown failure", EIO);
  }
}

wp_peer handle_of(const PeerId& id) { return std::uint64_t{id.slot.raw()} << 32 | id.generation; }
PeerId id_of(wp_peer handle) {
  return {PeerSlot{static_cast<std::uint32_t>(handle >> 32)}, static_cast<std::uint32_t>(handle)};
}

int count_of(const Result<std::size_t>& result) {
  return result ? static_cast<int>(std::min<std::size_t>(*result, INT32_MAX)) : fail(result.error());
}
int status_of(const Status& status) { return status ? 0 : fail(status.error()); }
int no_such_peer() { return fail("no such peer", ENOENT); }

int hand_out(Stream& made, wp_stream** stream) {
  *stream = new wp_stream{made};
  made.set_tag(*stream);
  return 0;
}

void write_text(const Base64Key& text, char* out) {
  std::ranges::copy(text.view(), out);
  out[text.view().size()] = 0;
}

// The caller may be older than we are, and know less of a structure: what it does not know is zero.
template <class T>
T known_to_both(const T& given) {
  T known{};
  std::memcpy(static_cast<void*>(&known), &given, std::min(given.size, sizeof known));
  return known;
}
template <class T>
void tell(const T& all, T* out) {  // its size stays the caller's
  const std::size_t known = std::min(out->size, sizeof all);
  if (known > sizeof out->size)
    std::memcpy(reinterpret_cast<char*>(out) + sizeof out->size, reinterpret_cast<const char*>(&all) + sizeof out->size,
                known - sizeof out->size);
}

Duration time_of(int at_most_ms) {  // less than 0: for ever
  return at_most_ms < 0 ? Duration{24h * 365} : Duration{std::chrono::milliseconds{at_most_ms}};
}

std::optional<Prefix> prefix_of(const char* words) { return words == nullptr ? std::nullopt : parse_prefix(words); }

NodeOptions options_of(const wp_options& callers) {
  const wp_options given = known_to_both(callers);
  NodeOptions options;
  options.private_key = SecretKey{std::span{given.private_key}};
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

std::span<const std::uint8_t> octets_at(const void* data, std::size_t length) {
  return {static_cast<const std::uint8_t*>(data), length};
}

}  // namespace

extern "C" {

const char* wp_version(void) { return WIREPLANE_VERSION; }
const char* wp_error(void) { return last_error.data(); }

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
  tell({sizeof(wp_stats), stats.sent, stats.received, dropped, stats.events_lost, stats.queued_out, stats.queued_in,
        stats.buffers, stats.buffers_free, stats.stream_packets_lost},
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
  return guarded([&] {
    const std::optional<PublicKey> parsed = public_key_from_base64(key);
    if (!parsed) return fail("public key: expected 44 characters of base64", EINVAL);
    if (callers != nullptr && callers->size < offsetof(wp_peer_options, keepalive_s) + sizeof callers->keepalive_s)
      return fail("wp_peer_options: size is not set", EINVAL);
    const wp_peer_options given = callers == nullptr ? wp_peer_options{} : known_to_both(*callers);
    NodePeerOptions options;
    options.keepalive_s = given.keepalive_s;
    if (given.endpoint != nullptr) {
      options.endpoint = parse_endpoint(given.endpoint, interface_index_of_host);
      if (!options.endpoint) return fail("endpoint: expected address:port or [address]:port", EINVAL);
    }
    if (given.preshared_key != nullptr)
      options.preshared_key = SecretKey{std::span<const std::uint8_t, 32>{given.preshared_key, 32}};
    for (std::size_t i = 0; i < given.allowed_ip_count; ++i) {
      const std::optional<Prefix> prefix = prefix_of(given.allowed_ips[i]);
      if (!prefix) return fail("allowed IPs: expected address/length", EINVAL);
      options.allowed_ips.push_back(*prefix);
    }
    const Result<NodePeer> added = node->node->add_peer(*parsed, std::move(options));
    if (!added) return fail(added.error());
    if (peer != nullptr) *peer = handle_of(added->id);
    return 0;
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
    const std::optional<PublicKey> parsed = public_key_from_base64(key);
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
    *out = wp_event{handle_of(event.peer.id), static_cast<std::uint32_t>(event.kind), {}};
    if (event.endpoint.valid())
      std::snprintf(out->endpoint, sizeof out->endpoint, "%s", to_text(event.endpoint).c_str());
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
      *next++ = {handle_of(in.from.id), free,        in.octets.size(), in.port,
                 in.from_port,          in.datagram, in.traffic_class, {}};
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
    const Result<Connection> made = node->node->connect(key, endpoint == nullptr ? "" : endpoint);
    if (!made) return fail(made.error());
    if (peer != nullptr) *peer = handle_of(made->id);
    return 0;
  });
}

int wp_stream_open(wp_node* node, wp_peer peer, int kind, wp_stream** stream) {
  return guarded([&] {
    *stream = nullptr;
    if (kind != WP_BYTES && kind != WP_MESSAGES) return fail("kind: expected WP_BYTES or WP_MESSAGES", EINVAL);
    const std::optional<NodePeer> known = node->node->find_peer(id_of(peer));
    if (!known) return no_such_peer();
    auto opened = node->node->open_stream(*known, static_cast<Stream::Kind>(kind));
    return opened ? hand_out(*opened, stream) : fail(opened.error());
  });
}

int wp_stream_accept(wp_node* node, int at_most_ms, wp_stream** stream) {
  return guarded([&] {
    *stream = nullptr;
    auto accepted = at_most_ms == 0 ? node->node->accept_stream() : node->node->accept_stream(time_of(at_most_ms));
    return accepted ? hand_out(*accepted, stream) : fail(accepted.error());
  });
}

int wp_stream_next_ready(wp_node* node, wp_stream** stream) {
  return guarded([&] {
    const Stream ready = node->node->next_ready_stream();
    *stream = static_cast<wp_stream*>(ready.tag());
    return static_cast<int>(static_cast<bool>(ready));
  });
}

int wp_stream_write(wp_stream* stream, const void* data, size_t length, int at_most_ms) {
  return guarded([&] {
    const std::span octets{static_cast<const std::uint8_t*>(data), std::min<std::size_t>(length, INT32_MAX)};
    if (at_most_ms == 0) return count_of(stream->stream.write(octets));
    const Status written = stream->stream.write_all(octets, time_of(at_most_ms));
    return written ? static_cast<int>(octets.size()) : fail(written.error());
  });
}

int wp_stream_read(wp_stream* stream, void* data, size_t room, int at_most_ms, uint32_t* flags) {
  return guarded([&] {
    const std::span octets{static_cast<std::uint8_t*>(data), std::min<std::size_t>(room, INT32_MAX)};
    const Result<Stream::Read> got =
        at_most_ms == 0 ? stream->stream.read(octets) : stream->stream.read(octets, time_of(at_most_ms));
    if (!got) return fail(got.error());
    if (flags != nullptr)
      *flags = std::uint32_t{got->message_end} * WP_MESSAGE_END | std::uint32_t{got->finished} * WP_FINISHED;
    return static_cast<int>(got->octets);
  });
}

int wp_stream_finish(wp_stream* stream) {
  return guarded([&] { return status_of(stream->stream.finish()); });
}
void wp_stream_reset(wp_stream* stream) { stream->stream.reset(); }
void wp_stream_close(wp_stream* stream) { delete stream; }
void wp_stream_deadline(wp_stream* stream, int from_now_ms) {
  stream->stream.set_deadline(std::chrono::milliseconds{from_now_ms});
}
wp_peer wp_stream_peer(wp_stream* stream) { return handle_of(stream->stream.peer().id); }
uint16_t wp_stream_id(wp_stream* stream) { return stream->stream.id(); }
int wp_stream_kind(wp_stream* stream) { return static_cast<int>(stream->stream.kind()); }
void wp_stream_set_user(wp_stream* stream, void* user) { stream->user = user; }
void* wp_stream_user(wp_stream* stream) { return stream->user; }

}  // extern "C"
