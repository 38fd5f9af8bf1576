// wireplane.h: a WireGuard node inside an application, for C and whatever can call C. See README.md and node.h.
//
//   wp_node* node;  wp_peer peer;
//   wp_open(NULL, &node);                                            a key is generated, a port chosen
//   wp_add_peer(node, "base64 of their key", "192.0.2.1:5000", 0, &peer);
//   wp_send(node, peer, "hello", 5);  wp_wait(node, 1000);  wp_receive(...);
//
//   wp_stream* stream;
//   wp_connect(node, "base64 of their key", "192.0.2.1:5000", &peer);
//   wp_stream_open(node, peer, WP_BYTES, &stream);                   the other side: wp_stream_accept()
//   wp_stream_write(stream, "hello", 5, 1000);  wp_stream_read(...);  wp_stream_close(stream);
//
// Functions that can fail return 0 or a count, or -errno; wp_error() says in words what the calling thread's last
// failure was. Structures that may grow begin with their size: set it to sizeof, zero the rest. Symbols have the
// version of the release that brought them (WIREPLANE_0.1, 0.2, 0.3) and keep their meaning under it. No exception
// leaves.
//
// Threads: any call from any thread at any time, but wp_close() and wp_stream_close(): they end what they are given and
// free it, so that no other thread may be in a call with it (wp_shutdown(), wp_stream_reset() make them come back).
// Callbacks run in the thread that called wp_process() or wp_receive_each(), without a lock: they may call all of this.
//
// Waiting: nothing waits for the network but what is told how long, in milliseconds (0: not at all, less than 0: for
// ever). Beside that: wp_open() for the kernel; wp_close() and wp_shutdown() until threads have ended their step;
// wp_process() without workers does the work, at most about 1 ms; wp_add_peer(), wp_add_peer_with(), wp_connect(),
// wp_connect_with(), wp_remove_peer(), wp_find_peer(), wp_view_peer(), wp_get_stats() and wp_private_key() for
// control's step, at most about 1 ms. All others for a lock that is held for a few instructions, or for one call into
// SCTP. TCP and UDP inside the tunnel: wireplane_ip.h.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wp_node wp_node;
typedef uint64_t wp_peer;  // of one node; 0: none. Never used again for another peer.

// Kinds of events may come with later versions: ignore what you do not know.
enum { WP_CONNECTED = 0, WP_ROAMED = 1, WP_LOST = 2, WP_REKEYED = 3 };
typedef struct {
  wp_peer peer;
  uint32_t kind;
  char endpoint[60];  // text
} wp_event;

typedef struct {
  size_t size;              // sizeof(wp_options)
  uint8_t private_key[32];  // all zero: one is generated
  uint16_t listen_port;     // 0: any
  uint16_t mtu;             // 0: 1420
  uint32_t workers;         // 0: wp_process() does the work; else so many threads
  uint32_t peers;           // at most; 0: 1024
  uint32_t queue;           // packets each way and worker, a power of two; 0: 256
  // since 0.2
  uint32_t forward;           // may peers reach each other through us: 0 no, 1 all
  uint32_t socket_buffer;     // octets of the kernel's, each way; 0: 1 MiB
  uint32_t stream_buffer;     // octets each way and peer; 0: 256 KiB
  uint32_t streams_per_peer;  // ids; 0: 64
  uint8_t no_streams;         // SCTP is the application's, as raw packets
  uint8_t no_ipv4, no_ipv6;   // outside
  uint8_t reserved[5];
  // since 0.3
  size_t buffers;                                       // of packets; 0: enough for the queues
  void (*on_event)(void* user, const wp_event* event);  // in wp_process() and wp_wait(); NULL: wp_next_event() has them
  void* user;
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
  uint8_t traffic_class;     // of a datagram, since 0.2: DSCP and ECN
  uint8_t reserved[2];
} wp_message;

typedef struct {  // a datagram with all that can be said of it
  wp_peer peer;
  const void* data;
  size_t length;
  uint16_t port, from_port;  // 0: 5158
  uint8_t traffic_class;     // DSCP and ECN
  uint8_t reserved[3];
} wp_outgoing;

typedef struct {
  size_t size;                     // sizeof(wp_peer_options)
  const char* endpoint;            // NULL: the peer comes to us
  const uint8_t* preshared_key;    // 32 octets; NULL: as it was; all zero: without
  const char* const* allowed_ips;  // "192.0.2.0/24", beside the peer's own address
  size_t allowed_ip_count;
  uint16_t keepalive_s;
} wp_peer_options;

typedef struct {
  size_t size;               // sizeof(wp_peer_view)
  int64_t last_handshake_s;  // since 1970; 0: never
  uint64_t received, sent;   // octets of UDP payload
  char endpoint[60];         // text; empty: not known
} wp_peer_view;

typedef struct {
  size_t size;  // sizeof(wp_stats)
  uint64_t sent, received, dropped, events_lost;
  uint64_t queued_out, queued_in, buffers, buffers_free;
  uint64_t stream_packets_lost;  // since 0.2: a queue was full, or a wrong checksum; SCTP sends them again
  uint64_t peers;                // since 0.3
  uint8_t keys_locked;           // since 0.3: in memory; 0: RLIMIT_MEMLOCK is too small, keys may reach swap
  uint8_t reserved[7];
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

// ---- since 0.2

int wp_add_peer_with(wp_node* node, const char* key, const wp_peer_options* options, wp_peer* peer);
int wp_view_peer(wp_node* node, wp_peer peer, wp_peer_view* view);
int wp_send_outgoing(wp_node* node, const wp_outgoing* datagrams, size_t count);  // how many were taken

// Streams: stream.h says what each does, and with which errors. A stream belongs to whoever opened or accepted it, and
// outlives its node, after which every call says so.
typedef struct wp_stream wp_stream;
enum { WP_BYTES = 0, WP_MESSAGES = 1 };
enum { WP_MESSAGE_END = 1, WP_FINISHED = 2 };

int wp_connect(wp_node* node, const char* key, const char* endpoint, wp_peer* peer);
int wp_stream_open(wp_node* node, wp_peer peer, int kind, wp_stream** stream);
int wp_stream_accept(wp_node* node, int at_most_ms, wp_stream** stream);  // -EAGAIN, -ETIMEDOUT: nobody opened one
int wp_stream_next_ready(wp_node* node, wp_stream** stream);              // 1, or 0: none
// How much was taken: waiting, all of it or an error; else perhaps less. A message whole or not at all.
int wp_stream_write(wp_stream* stream, const void* data, size_t length, int at_most_ms);
// How much arrived; `flags` may be NULL, gets WP_MESSAGE_END and WP_FINISHED.
int wp_stream_read(wp_stream* stream, void* data, size_t room, int at_most_ms, uint32_t* flags);
int wp_stream_finish(wp_stream* stream);
void wp_stream_reset(wp_stream* stream);
void wp_stream_close(wp_stream* stream);                      // NULL is ignored
void wp_stream_deadline(wp_stream* stream, int from_now_ms);  // 0: none
wp_peer wp_stream_peer(wp_stream* stream);
uint16_t wp_stream_id(wp_stream* stream);
int wp_stream_kind(wp_stream* stream);
void wp_stream_set_user(wp_stream* stream, void* user);
void* wp_stream_user(wp_stream* stream);

// ---- since 0.3

void wp_shutdown(wp_node* node);           // ends every call of other threads, -ESHUTDOWN; wp_close() then frees
const char* wp_drop_reason(size_t index);  // what wp_dropped() knows, from 0; NULL: there are no more
void wp_address_of(const uint8_t key[32], uint8_t address[16]);  // the inner address that follows from a key
int wp_peer_key(wp_node* node, wp_peer peer, uint8_t key[32]);
int wp_connect_with(wp_node* node, const char* key, const wp_peer_options* options, wp_peer* peer);
// Up to `at_most` messages, without a copy: all of it is valid until `take` returns, which may call any function here
// but wp_close(), and must return (no longjmp). `packet`: the whole IP packet. How many.
typedef void (*wp_take)(void* user, const wp_message* message, const void* packet, size_t packet_length);
int wp_receive_each(wp_node* node, wp_take take, void* user, size_t at_most);
size_t wp_stream_max_message(wp_stream* stream);

#ifdef __cplusplus
}
#endif
