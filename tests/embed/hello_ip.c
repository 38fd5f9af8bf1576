/* Goal: a C program has TCP and UDP inside the tunnel, by calls that wait and by events, and learns what went wrong.
 * Method: two nodes with a stack each in one process, one served by a thread that answers; then the mistakes. Built in
 * the tree, and against the installed package (package_test.sh). */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wireplane_ip.h>

#define CHECK(condition)                                                           \
  do                                                                               \
    if (!(condition)) {                                                            \
      printf("line %d: %s; last failure: %s\n", __LINE__, #condition, wp_error()); \
      exit(1);                                                                     \
    }                                                                              \
  while (0)

enum { kMuch = 3000000 };

static void count(void* user) { ++*(int*)user; }

static void otherwise(void* user, const wp_message* message, const void* packet, size_t length) {
  CHECK(message->datagram && message->length == 5 && memcmp(message->data, "hello", 5) == 0);
  CHECK(length == 5 + 48 && *(const unsigned char*)packet >> 4 == 6);
  ++*(int*)user;
}

/* Gives back what it reads, until there is no more; waits in the stack's calls as the main thread does. */
static void* echo(void* listener) {
  wp_tcp* tcp = NULL;
  static char octets[40000];
  CHECK(wp_tcp_accept(listener, 10000, &tcp) == 0);
  for (int got; (got = wp_tcp_read(tcp, octets, sizeof octets, 10000)) != 0;) {
    CHECK(got > 0);
    CHECK(wp_tcp_write(tcp, octets, (size_t)got, 10000) == got);
  }
  CHECK(wp_tcp_finish(tcp) == 0 && wp_tcp_write(tcp, "x", 1, 0) == -EPIPE);
  wp_tcp_close(tcp);
  return NULL;
}

struct sending {
  wp_tcp* tcp;
  char* octets;
};
static void* send_much(void* given) {
  const struct sending* sending = given;
  CHECK(wp_tcp_write(sending->tcp, sending->octets, kMuch, 20000) == kMuch);
  CHECK(wp_tcp_finish(sending->tcp) == 0);
  return NULL;
}
static void* drive(void* ip) {
  while (wp_ip_wait(ip, 10000) >= 0) continue;
  return NULL;
}

int main(void) {
  wp_node *a, *b;
  wp_peer ab = 0;
  wp_ip *stack = NULL, *other = NULL;
  char key_a[45], key_b[45], place[40], text[60];
  CHECK(wp_open(NULL, &a) == 0 && wp_open(NULL, &b) == 0);
  wp_key_text(a, key_a);
  wp_key_text(b, key_b);
  snprintf(place, sizeof place, "127.0.0.1:%u", wp_port(b));
  const char *a_address = "10.1.0.1", *b_address = "10.1.0.2", *to_a = "10.1.0.1/32", *to_b = "10.1.0.2/32";
  wp_peer_options peer;
  memset(&peer, 0, sizeof peer);
  peer.size = sizeof peer;
  peer.allowed_ips = &to_a;
  peer.allowed_ip_count = 1;
  CHECK(wp_add_peer_with(b, key_a, &peer, NULL) == 0);
  peer.endpoint = place;
  peer.allowed_ips = &to_b;
  CHECK(wp_connect_with(a, key_b, &peer, &ab) == 0);

  int others = 0, news = 0;
  wp_ip_options options;
  memset(&options, 0, sizeof options);
  CHECK(wp_ip_open(a, &options, &stack) == -EINVAL && strcmp(wp_error(), "wp_ip_options: size is not set") == 0);
  options.size = sizeof options;
  options.address_count = 1;
  const char* nonsense = "10.1";
  options.addresses = &nonsense;
  CHECK(wp_ip_open(a, &options, &stack) == -EINVAL && stack == NULL);
  options.addresses = &a_address;
  options.connections = 2;
  CHECK(wp_ip_open(a, &options, &stack) == 0);
  options.addresses = &b_address;
  options.otherwise = otherwise;
  options.user = &others;
  CHECK(wp_ip_open(b, &options, &other) == 0);

  /* Calls that wait, in four threads: two for the listener, a writer and this one, which reads. */
  wp_listener *listener = NULL, *again = NULL;
  CHECK(wp_tcp_listen(other, 80, "10.1.0.3", &listener) == -EADDRNOTAVAIL);
  CHECK(wp_tcp_listen(other, 80, NULL, &listener) == 0 && wp_listener_port(listener) == 80);
  CHECK(wp_tcp_listen(other, 80, NULL, &again) == -EADDRINUSE && again == NULL);
  wp_tcp *tcp = NULL, *none = NULL;
  CHECK(wp_tcp_accept(listener, 0, &none) == -EAGAIN && wp_tcp_accept(listener, 1, &none) == -ETIMEDOUT);
  pthread_t driver, server, writer;
  CHECK(pthread_create(&driver, NULL, drive, other) == 0); /* what is closed is still being sent */
  CHECK(pthread_create(&server, NULL, echo, listener) == 0);
  CHECK(wp_tcp_connect(stack, "10.1.0.2", NULL, &tcp) == -EINVAL && wp_tcp_connect(stack, NULL, NULL, &tcp) == -EINVAL);
  CHECK(wp_tcp_connect(stack, "10.1.0.2:80", "here", &tcp) == -EINVAL && tcp == NULL);
  CHECK(wp_tcp_connect(stack, "10.1.0.2:80", NULL, &tcp) == 0 && (wp_tcp_state(tcp) & WP_TCP_CONNECTED) == 0);
  wp_tcp_on_ready(tcp, count, &news);
  char *sent = malloc(kMuch), *back = malloc(kMuch);
  CHECK(sent != NULL && back != NULL);
  for (int i = 0; i < kMuch; ++i) sent[i] = (char)(i * 7 + i / 1000);
  struct sending sending = {tcp, sent};
  CHECK(pthread_create(&writer, NULL, send_much, &sending) == 0);
  int have = 0, got;
  while ((got = wp_tcp_read(tcp, back + have, (size_t)(kMuch - have) + 1 > 70000 ? 70000 : (size_t)(kMuch - have),
                            20000)) > 0)
    if ((have += got) == kMuch) break;
  CHECK(have == kMuch && memcmp(sent, back, kMuch) == 0 && news > 0);
  CHECK(wp_tcp_read(tcp, back, 1, 10000) == 0);
  pthread_join(writer, NULL);
  pthread_join(server, NULL);
  wp_ip_endpoint end;
  wp_tcp_remote(tcp, &end);
  wp_ip_text(&end, text);
  CHECK(strcmp(text, "10.1.0.2:80") == 0 && end.family == 4);
  wp_tcp_local(tcp, &end);
  wp_ip_text(&end, text);
  CHECK(strncmp(text, "10.1.0.1:", 9) == 0);
  wp_ip_stats stats;
  stats.size = sizeof stats;
  wp_ip_get_stats(stack, &stats);
  CHECK(stats.sent > 1000 && stats.received > 1000 && stats.no_memory == 0);
  wp_tcp_close(tcp);

  /* A refused port, a deadline, a reset. */
  CHECK(wp_tcp_connect(stack, "10.1.0.2:81", NULL, &tcp) == 0);
  CHECK(wp_tcp_read(tcp, back, 1, 10000) == -ECONNREFUSED);
  wp_tcp_close(tcp);
  CHECK(wp_tcp_connect(stack, "10.1.0.2:80", NULL, &tcp) == 0);
  CHECK(wp_tcp_accept(listener, 0, &none) == -EAGAIN); /* the call below drives our own stack, the driver theirs */
  wp_tcp_deadline(tcp, 50);
  CHECK(wp_tcp_read(tcp, back, 1, 10000) == -ETIMEDOUT && wp_tcp_read(tcp, back, 1, 0) == -ETIMEDOUT);
  CHECK((wp_tcp_state(tcp) & (WP_TCP_CONNECTED | WP_TCP_WRITABLE)) == (WP_TCP_CONNECTED | WP_TCP_WRITABLE));
  wp_tcp_abort(tcp);
  CHECK(wp_tcp_read(tcp, back, 1, 0) == -ENOTCONN);
  wp_tcp_close(tcp);

  /* Datagrams: to a socket, and to none. */
  wp_udp *udp = NULL, *service = NULL, *taken = NULL;
  CHECK(wp_udp_bind(stack, 0, &udp) == 0 && wp_udp_bind(other, 53, &service) == 0 && wp_udp_port(service) == 53);
  CHECK(wp_udp_bind(other, 53, &taken) == -EADDRINUSE && wp_udp_port(udp) >= 0xc000);
  wp_udp_on_ready(udp, NULL, NULL);
  CHECK(wp_ip_parse("10.1.0.2:53", &end) == 0 && wp_ip_parse("10.1.0.2", &end) == -EINVAL &&
        wp_ip_parse(NULL, &end) == -EINVAL);
  CHECK(wp_udp_send(udp, &end, "name?", 5) == 0 && wp_udp_receive(udp, back, 9, 0, NULL) == -EAGAIN);
  wp_ip_wait(stack, 1);
  CHECK(wp_udp_receive(service, back, 2, 10000, &end) == 5 && memcmp(back, "na", 2) == 0 &&
        end.port == wp_udp_port(udp));
  CHECK(wp_udp_send(service, &end, "answer", 6) == 0 && wp_udp_receive(udp, back, 9, 10000, NULL) == 6);
  memset(&end, 0, sizeof end);
  CHECK(wp_udp_send(udp, &end, "x", 1) == -EINVAL);
  CHECK(wp_send(a, ab, "hello", 5) == 0);
  for (int i = 0; i < 1000 && others == 0; ++i) CHECK(wp_ip_wait(stack, 1) >= 0 && poll(NULL, 0, 1) == 0);
  CHECK(others == 1);

  /* The end: of the stack under a driver that sleeps in it and under sockets, of the node under a stack. */
  CHECK(wp_ip_fd(other) >= 0);
  wp_ip* closing = other;
  wp_shutdown(b);
  pthread_join(driver, NULL);
  wp_ip_close(closing);
  CHECK(wp_udp_receive(service, back, 9, 1000, NULL) == -ESHUTDOWN);
  CHECK(wp_tcp_accept(listener, 1000, &none) == -ESHUTDOWN);
  wp_listener_on_ready(listener, count, &news);
  wp_listener_close(listener);
  wp_udp_close(service);
  wp_udp_close(udp);
  wp_udp_close(NULL);
  wp_tcp_close(NULL);
  wp_listener_close(NULL);
  wp_ip_close(NULL);
  CHECK(wp_ip_process(stack) >= 0);
  wp_ip_close(stack);
  wp_close(a);
  wp_close(b);
  free(sent);
  free(back);
  printf("wireplane %s: TCP and UDP from C\n", wp_version());
  return 0;
}
