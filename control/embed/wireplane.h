// wireplane.h: a WireGuard node inside an application, for C and whatever can call C. See README.md and node.h.
//
//   wp_node* node;  wp_peer peer;
//   wp_open(NULL, &node);                                            a key is generated, a port chosen
//   wp_add_peer(node, "base64 of their key", "192.0.2.1:5000", 0, &peer);
//   wp_send(node, peer, "hello", 5);  wp_wait(node, 1000);  wp_receive(...);
//
// Functions that can fail return 0 or a count, or -errno; wp_error() says in words what the calling thread's last
// failure was. Any call from any thread, but wp_close(): it ends the node and frees it. Structures that may grow begin
// with their size: set it to sizeof. Symbols have the version WIREPLANE_0.1 and keep their meaning under it.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wp_node wp_node;
typedef uint64_t wp_peer;  // of one node; 0: none. Never used again for another peer.

typedef struct {
  size_t size;              // sizeof(wp_options)
  uint8_t private_key[32];  // all zero: one is generated
  uint16_t listen_port;     // 0: any
  uint16_t mtu;             // 0: 1420
  uint32_t workers;         // 0: wp_process() does the work; else so many threads
  uint32_t peers;           // at most; 0: 1024
  uint32_t queue;           // packets each way and worker, a power of two; 0: 256
} wp_options;

typedef struct {
  wp_peer peer;
  const void* data;
  size_t length;
} wp_datagram;

typedef struct {
  wp_peer peer;
  const uint8_t* data;  // in the caller's memory
  size_t length;
  uint16_t port, from_port;  // of a datagram
  uint8_t datagram;          // 0: data is a whole IP packet
  uint8_t reserved[3];
} wp_message;

enum { WP_CONNECTED = 0, WP_ROAMED = 1, WP_LOST = 2 };
typedef struct {
  wp_peer peer;
  uint32_t kind;
  char endpoint[60];  // text
} wp_event;

typedef struct {
  size_t size;  // sizeof(wp_stats)
  uint64_t sent, received, dropped, events_lost;
  uint64_t queued_out, queued_in, buffers, buffers_free;
} wp_stats;

const char* wp_version(void);
const char* wp_error(void);

int wp_open(const wp_options* options, wp_node** node);  // options may be NULL
void wp_close(wp_node* node);                            // NULL is ignored

void wp_key(wp_node* node, uint8_t key[32]);
void wp_key_text(wp_node* node, char text[45]);  // base64
void wp_private_key(wp_node* node, uint8_t key[32]);
void wp_address(wp_node* node, uint8_t address[16]);  // inner, IPv6
uint16_t wp_port(wp_node* node);
uint16_t wp_mtu(wp_node* node);
size_t wp_max_datagram(wp_node* node);
void wp_get_stats(wp_node* node, wp_stats* stats);
uint64_t wp_dropped(wp_node* node, const char* reason);  // by the name of its metric, as "bad_tag"

// `endpoint` may be NULL: the peer comes to us. `keepalive_s` not 0: connects at once, and stays. `peer` may be NULL.
int wp_add_peer(wp_node* node, const char* key, const char* endpoint, uint16_t keepalive_s, wp_peer* peer);
int wp_remove_peer(wp_node* node, wp_peer peer);
int wp_find_peer(wp_node* node, const char* key, wp_peer* peer);
int wp_peer_key_text(wp_node* node, wp_peer peer, char text[45]);

int wp_fd(wp_node* node);       // readable: call wp_process()
int wp_process(wp_node* node);  // how many messages wait
int wp_wait(wp_node* node, int at_most_ms);
int wp_next_event(wp_node* node, wp_event* event);  // 1, or 0: none

int wp_send(wp_node* node, wp_peer peer, const void* data, size_t length);     // -EAGAIN: the queue is full
int wp_send_burst(wp_node* node, const wp_datagram* datagrams, size_t count);  // how many were taken
int wp_send_packet(wp_node* node, const void* ip_packet, size_t length);
// Up to `count` messages, copied to `memory` of `size` octets, at least wp_mtu(): as many as surely fit.
int wp_receive(wp_node* node, wp_message* messages, size_t count, void* memory, size_t size);

#ifdef __cplusplus
}
#endif
