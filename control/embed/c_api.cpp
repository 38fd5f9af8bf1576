// c_api.cpp: wireplane.h on top of node.h. No exception leaves; what failed is told in words to the thread that asked.
#include <algorithm>
#include <cerrno>
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

void write_text(const Base64Key& text, char* out) {
  std::ranges::copy(text.view(), out);
  out[text.view().size()] = 0;
}

NodeOptions options_of(const wp_options& given) {
  NodeOptions options;
  options.private_key = SecretKey{std::span{given.private_key}};
  options.listen_port = given.listen_port;
  options.workers = given.workers;
  if (given.mtu != 0) options.mtu = given.mtu;
  if (given.peers != 0) options.peers = given.peers;
  if (given.queue != 0) options.queue = given.queue;
  return options;
}

}  // namespace

extern "C" {

const char* wp_version(void) { return WIREPLANE_VERSION; }
const char* wp_error(void) { return last_error.data(); }

int wp_open(const wp_options* options, wp_node** node) {
  return guarded([&] {
    *node = nullptr;
    if (options != nullptr && options->size < sizeof *options) return fail("wp_options: size is not set", EINVAL);
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
  const wp_stats all{sizeof(wp_stats), stats.sent,      stats.received, dropped,           stats.events_lost,
                     stats.queued_out, stats.queued_in, stats.buffers,  stats.buffers_free};
  const std::size_t known = std::min(out->size, sizeof all);  // the caller may be older, or newer
  if (known > sizeof out->size)
    std::memcpy(reinterpret_cast<char*>(out) + sizeof out->size, reinterpret_cast<const char*>(&all) + sizeof out->size,
                known - sizeof out->size);
}

uint64_t wp_dropped(wp_node* node, const char* reason) {
  const NodeStats stats = node->node->stats();
  for (std::size_t i = 1; i < kDropCount; ++i)
    if (metric(static_cast<Drop>(i)) == reason) return stats.drops[i];
  return 0;
}

int wp_add_peer(wp_node* node, const char* key, const char* endpoint, uint16_t keepalive_s, wp_peer* peer) {
  return guarded([&] {
    const std::optional<PublicKey> parsed = public_key_from_base64(key);
    if (!parsed) return fail("public key: expected 44 characters of base64", EINVAL);
    NodePeerOptions options;
    options.keepalive_s = keepalive_s;
    if (endpoint != nullptr) {
      options.endpoint = parse_endpoint(endpoint, interface_index_of_host);
      if (!options.endpoint) return fail("endpoint: expected address:port or [address]:port", EINVAL);
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
    constexpr std::size_t kAtOnce = 64;
    std::array<Datagram, kAtOnce> burst;
    std::size_t taken = 0;
    while (taken < count) {
      std::size_t ready = 0;
      for (; ready < kAtOnce && taken + ready < count; ++ready) {
        const wp_datagram& from = datagrams[taken + ready];
        const std::optional<NodePeer> to = node->node->find_peer(id_of(from.peer));
        if (!to) break;
        burst[ready] = {*to, {static_cast<const std::uint8_t*>(from.data), from.length}};
      }
      const Result<std::size_t> sent = ready == 0 ? Result<std::size_t>{Error{"no such peer", ENOENT}}
                                                  : node->node->send(std::span{burst}.first(ready));
      if (!sent) return taken == 0 ? fail(sent.error()) : static_cast<int>(taken);
      taken += *sent;
      if (*sent < kAtOnce) break;
    }
    return static_cast<int>(taken);
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
      std::ranges::copy(in.octets, free);
      *next++ = {handle_of(in.from.id), free, in.octets.size(), in.port, in.from_port, in.datagram, {}};
      free += in.octets.size();
    };
    return static_cast<int>(node->node->receive(take, std::min<std::size_t>({count, fit, INT32_MAX})));
  });
}

}  // extern "C"
