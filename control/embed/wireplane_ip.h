// wireplane_ip.h: TCP and UDP over a node, for C; a library of its own, libwireplane-ip. See ip_stack.h and README.md.
//
//   wp_ip* ip;  wp_tcp* tcp;
//   wp_ip_open(node, &options, &ip);                                 options.addresses: ours inside the tunnel
//   wp_tcp_connect(ip, "10.77.0.1:80", NULL, &tcp);                  behind any WireGuard peer, stock ones included
//   wp_tcp_write(tcp, request, length, 5000);  wp_tcp_read(tcp, page, sizeof page, 5000);  wp_tcp_close(tcp);
//
// What wireplane.h says of failures, sizes, versions and threads is true here; the functions that free what they are
// given are wp_ip_close(), wp_tcp_close(), wp_listener_close(), wp_udp_close(). A stack takes a node's packets: call
// wp_ip_process() or wp_ip_wait() instead of the node's. It must be closed before its node; sockets may outlive it
// (-ESHUTDOWN). Nothing waits but what is told how long; such calls drive the stack meanwhile, as many at a time as
// wanted. lwIP is one for the whole process: any call may wait for its lock, which is held for one packet or write.
#pragma once
#include <wireplane.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wp_ip wp_ip;
typedef struct wp_tcp wp_tcp;            // one connection
typedef struct wp_listener wp_listener;  // of TCP
typedef struct wp_udp wp_udp;
typedef void (*wp_ready)(void* user);

typedef struct {
  uint8_t address[16];  // IPv4: the first four
  uint16_t port;
  uint8_t family;  // 4 or 6; 0: none
  uint8_t reserved;
} wp_ip_endpoint;

typedef struct {
  size_t size;                   // sizeof(wp_ip_options)
  const char* const* addresses;  // "10.77.0.9", beside the node's own: at most one of IPv4, four of IPv6
  size_t address_count;
  uint32_t connections;  // at most; 0: 1024
  uint32_t backlog;      // of a listener; 0: 64
  wp_take otherwise;     // gets what no socket of the stack is for; NULL: that is dropped
  void* user;            // of otherwise
} wp_ip_options;

typedef struct {
  size_t size;  // sizeof(wp_ip_stats)
  uint64_t received, sent, not_ours, refused, no_memory, too_many, queue_full, connections, connections_resting;
} wp_ip_stats;

int wp_ip_open(wp_node* node, const wp_ip_options* options, wp_ip** ip);  // options may be NULL
void wp_ip_close(wp_ip* ip);                                              // connections are reset. NULL is ignored
int wp_ip_fd(wp_ip* ip);                                                  // readable: call wp_ip_process()
int wp_ip_process(wp_ip* ip);                                             // how many sockets had news; about 1 ms
int wp_ip_wait(wp_ip* ip, int at_most_ms);
void wp_ip_get_stats(wp_ip* ip, wp_ip_stats* stats);
int wp_ip_parse(const char* text, wp_ip_endpoint* endpoint);  // "10.77.0.1:80", "[fd77::1]:80"
void wp_ip_text(const wp_ip_endpoint* endpoint, char text[60]);

// `local`: which of our addresses; NULL: that which suits. connect returns at once; what is written before the
// connection is made is sent then. Port 0 to listen on: any that is free.
int wp_tcp_connect(wp_ip* ip, const char* to, const char* local, wp_tcp** tcp);
int wp_tcp_listen(wp_ip* ip, uint16_t port, const char* local, wp_listener** listener);
int wp_tcp_accept(wp_listener* listener, int at_most_ms, wp_tcp** tcp);  // -EAGAIN, -ETIMEDOUT: nobody came
uint16_t wp_listener_port(wp_listener* listener);
void wp_listener_on_ready(wp_listener* listener, wp_ready call, void* user);
void wp_listener_close(wp_listener* listener);  // NULL is ignored

// How much was read, 0: the peer has finished. -ECONNREFUSED, -ECONNRESET, -ETIMEDOUT (silent, or too late).
int wp_tcp_read(wp_tcp* tcp, void* data, size_t room, int at_most_ms);
// How much was taken: waiting, all of it or an error; else perhaps less, or -EAGAIN.
int wp_tcp_write(wp_tcp* tcp, const void* data, size_t length, int at_most_ms);
int wp_tcp_finish(wp_tcp* tcp);  // nothing more will be written
void wp_tcp_abort(wp_tcp* tcp);  // at once, by a reset: every call says -ENOTCONN then
void wp_tcp_close(wp_tcp* tcp);  // what was written is still sent. NULL is ignored
enum { WP_TCP_CONNECTED = 1, WP_TCP_READABLE = 2, WP_TCP_WRITABLE = 4 };
int wp_tcp_state(wp_tcp* tcp);
void wp_tcp_remote(wp_tcp* tcp, wp_ip_endpoint* endpoint);
void wp_tcp_local(wp_tcp* tcp, wp_ip_endpoint* endpoint);
void wp_tcp_deadline(wp_tcp* tcp, int from_now_ms);  // from then on -ETIMEDOUT for -EAGAIN; 0: none
// `call` runs in wp_ip_process(), wp_ip_wait() and calls that wait, when reading or writing is worth trying again.
void wp_tcp_on_ready(wp_tcp* tcp, wp_ready call, void* user);

int wp_udp_bind(wp_ip* ip, uint16_t port, wp_udp** udp);  // 0: any
int wp_udp_send(wp_udp* udp, const wp_ip_endpoint* to, const void* data, size_t length);
// How long the datagram was: more than `room`, and the rest of it is lost. `from` may be NULL.
int wp_udp_receive(wp_udp* udp, void* data, size_t room, int at_most_ms, wp_ip_endpoint* from);
uint16_t wp_udp_port(wp_udp* udp);
void wp_udp_on_ready(wp_udp* udp, wp_ready call, void* user);
void wp_udp_close(wp_udp* udp);  // NULL is ignored

#ifdef __cplusplus
}
#endif
