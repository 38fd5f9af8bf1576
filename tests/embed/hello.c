/* Goal: a C program does with the library all that an application needs, and learns in words what it did wrong.
 * Method: two nodes in one process, each with a handle of the other; a datagram there and an answer back; then the
 * mistakes. Built in the tree, and against the installed package (package_test.sh). */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <wireplane.h>

#define CHECK(condition)                                                           \
  do                                                                               \
    if (!(condition)) {                                                            \
      printf("line %d: %s; last failure: %s\n", __LINE__, #condition, wp_error()); \
      return 1;                                                                    \
    }                                                                              \
  while (0)

struct heard {
  int count, events, octets, packet;
};
static void hear(void* user, const wp_message* message, const void* packet, size_t length) {
  struct heard* heard = user;
  heard->count += message->datagram;
  heard->octets += (int)message->length;
  heard->packet += (int)length * (*(const unsigned char*)packet >> 4 == 6);
}
static void note(void* user, const wp_event* event) { ((struct heard*)user)->events += event->kind == WP_CONNECTED; }

/* What 0.3 brought: events by callback, messages without a copy, ends that others notice. */
static int newer(wp_node* a, const char* key_a) {
  struct heard heard = {0, 0, 0, 0};
  wp_options options;
  wp_node* c;
  wp_peer ca = 0, ac = 0;
  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.buffers = 4096;
  options.on_event = note;
  options.user = &heard;
  CHECK(wp_open(&options, &c) == 0);
  char key_c[45], place[40];
  wp_key_text(c, key_c);
  wp_peer_options peer;
  memset(&peer, 0, sizeof peer);
  CHECK(wp_connect_with(c, key_a, &peer, &ca) == -EINVAL &&
        strcmp(wp_error(), "wp_peer_options: size is not set") == 0);
  CHECK(wp_connect_with(c, NULL, NULL, &ca) == -EINVAL);
  peer.size = sizeof peer;
  snprintf(place, sizeof place, "127.0.0.1:%u", wp_port(a));
  peer.endpoint = place;
  CHECK(wp_add_peer(a, key_c, NULL, 0, &ac) == 0 && wp_connect_with(c, key_a, &peer, &ca) == 0);
  for (int i = 0; i < 1000 && heard.events == 0; ++i) CHECK(wp_wait(c, 10) >= 0 && wp_wait(a, 1) >= 0);
  CHECK(heard.events == 1 && wp_send(a, ac, "one", 3) == 0 && wp_send(a, ac, "three", 5) == 0);
  for (int i = 0; i < 1000 && heard.count < 2; ++i) {
    CHECK(wp_wait(a, 1) >= 0 && wp_wait(c, 10) >= 0 && wp_receive_each(c, hear, &heard, 1) <= 1);
  }
  CHECK(heard.count == 2 && heard.octets == 8 && heard.packet == 8 + 2 * 48);
  wp_stats stats;
  stats.size = sizeof stats;
  wp_get_stats(c, &stats);
  CHECK(stats.peers == 1 && stats.keys_locked <= 1 && stats.buffers == 4096);
  stats.peers = 77;
  stats.size = 72; /* who knows only what 0.2 had */
  wp_get_stats(c, &stats);
  CHECK(stats.peers == 77 && stats.buffers == 4096);
  uint8_t key[32], own[32], address[16], known[16];
  CHECK(wp_peer_key(a, ac, key) == 0 && wp_peer_key(a, 77, key) == -ENOENT);
  wp_key(c, own);
  CHECK(memcmp(key, own, 32) == 0);
  wp_address_of(key, address);
  wp_address(c, known);
  CHECK(memcmp(address, known, 16) == 0 && address[0] == 0xfd);
  int reasons = 0;
  while (wp_drop_reason((size_t)reasons) != NULL) CHECK(wp_dropped(c, wp_drop_reason((size_t)reasons++)) == 0);
  CHECK(reasons > 10);
  wp_stream* stream;
  CHECK(wp_stream_open(c, ca, WP_BYTES, &stream) == 0 && wp_stream_max_message(stream) == 65536);
  wp_shutdown(c);
  CHECK(wp_stream_write(stream, "x", 1, 0) == -ESHUTDOWN && wp_process(c) == -ESHUTDOWN);
  wp_close(c);
  CHECK(wp_stream_write(stream, "x", 1, 0) == -ESHUTDOWN);
  wp_stream_close(stream);
  return 0;
}

int main(void) {
  wp_node *a, *b;
  wp_peer ab = 0, ba = 0, found = 0;
  wp_options options;
  memset(&options, 0, sizeof options);
  CHECK(wp_open(&options, &a) == -EINVAL && strcmp(wp_error(), "wp_options: size is not set") == 0);
  options.size = sizeof options;
  options.peers = 2;
  options.mtu = 1400;
  options.workers = 1;
  CHECK(wp_open(NULL, &a) == 0 && wp_open(&options, &b) == 0);

  char key_a[45], key_b[45], key[45], endpoint[40];
  wp_key_text(a, key_a);
  wp_key_text(b, key_b);
  snprintf(endpoint, sizeof endpoint, "127.0.0.1:%u", wp_port(b));
  CHECK(wp_add_peer(a, key_b, endpoint, 0, &ab) == 0 && wp_add_peer(b, key_a, NULL, 0, &ba) == 0);
  CHECK(wp_find_peer(a, key_b, &found) == 0 && found == ab);
  CHECK(wp_peer_key_text(a, ab, key) == 0 && strcmp(key, key_b) == 0);
  CHECK(wp_mtu(b) == 1400 && wp_max_datagram(b) == 1400 - 48);

  wp_message message;
  wp_event event;
  char memory[4096];
  CHECK(wp_send(a, ab, "hello", 5) == 0);
  int waited = 0, heard = 0;
  for (int i = 0; i < 1000 && heard == 0; ++i) {
    CHECK(wp_wait(a, 1) >= 0 && (waited = wp_wait(b, 10)) >= 0);
    CHECK((heard = wp_receive(b, &message, 1, memory, sizeof memory)) >= 0);
  }
  CHECK(heard == 1 && message.peer == ba && message.datagram && message.length == 5);
  CHECK(memcmp(message.data, "hello", 5) == 0);
  int told = 0; /* b's control thread may hear of it a moment after its worker */
  for (int i = 0; i < 1000 && (told = wp_next_event(b, &event)) == 0; ++i) CHECK(wp_wait(b, 10) >= 0);
  CHECK(told == 1 && event.kind == WP_CONNECTED && event.peer == ba);
  CHECK(strncmp(event.endpoint, "127.0.0.1:", 10) == 0 && wp_next_event(b, &event) == 0);

  const wp_datagram answers[3] = {{ba, "one", 3}, {ba, "two", 3}, {ba, "three", 5}};
  CHECK(wp_send_burst(b, answers, 3) == 3);
  wp_message many[8];
  for (int i = 0; i < 1000 && heard < 4; ++i) {
    CHECK(wp_wait(a, 10) >= 0 && (waited = wp_receive(a, many, 8, memory, sizeof memory)) >= 0);
    heard += waited;
  }
  wp_stats stats;
  stats.size = sizeof stats;
  wp_get_stats(a, &stats);
  CHECK(heard == 4 && stats.sent == 1 && stats.received == 3 && stats.dropped == 0);
  CHECK(wp_dropped(a, "bad_tag") == 0 && wp_dropped(a, "no such reason") == 0);

  /* What 0.2 brought: marks of a datagram, a peer's view, streams. */
  const wp_outgoing marked = {ab, "marked", 6, 7, 0, 0xb8 | 1, {0}};
  CHECK(wp_send_outgoing(a, &marked, 1) == 1);
  for (int i = 0; i < 1000 && (heard = wp_receive(b, &message, 1, memory, sizeof memory)) == 0; ++i)
    CHECK(wp_wait(a, 1) >= 0 && wp_wait(b, 10) >= 0);
  CHECK(heard == 1 && message.port == 7 && message.from_port == 5158 && message.traffic_class == (0xb8 | 1));
  wp_peer_view view;
  view.size = sizeof view;
  CHECK(wp_view_peer(b, ba, &view) == 0 && view.last_handshake_s > 1000000000 && view.received > 0);
  CHECK(strncmp(view.endpoint, "127.0.0.1:", 10) == 0);
  wp_stream *ours = NULL, *theirs = NULL, *ready = NULL;
  uint32_t flags = 0;
  CHECK(wp_connect(a, key_b, endpoint, &found) == 0 && found == ab);
  CHECK(wp_stream_open(a, ab, 7, &ours) == -EINVAL && wp_stream_open(a, 77, WP_BYTES, &ours) == -ENOENT);
  CHECK(wp_stream_open(a, ab, WP_MESSAGES, &ours) == 0 && wp_stream_write(ours, "question", 8, 1000) == 8);
  CHECK(wp_stream_accept(b, 0, &theirs) == -EAGAIN);
  for (int i = 0; i < 1000 && wp_stream_accept(b, 1, &theirs) != 0; ++i) CHECK(wp_wait(a, 1) >= 0);
  CHECK(theirs != NULL && wp_stream_peer(theirs) == ba && wp_stream_id(theirs) == wp_stream_id(ours));
  CHECK(wp_stream_kind(theirs) == WP_MESSAGES && wp_stream_read(theirs, memory, 4, 0, &flags) == 4 && flags == 0);
  CHECK(wp_stream_read(theirs, memory + 4, 90, 0, &flags) == 4 && flags == WP_MESSAGE_END);
  CHECK(memcmp(memory, "question", 8) == 0);
  CHECK(wp_stream_write(theirs, "answer", 6, 0) == 6 && wp_stream_finish(theirs) == 0);
  CHECK(wp_stream_read(ours, memory, sizeof memory, 5000, &flags) == 6 && (flags & WP_MESSAGE_END) != 0);
  if ((flags & WP_FINISHED) == 0) CHECK(wp_stream_read(ours, memory, sizeof memory, 5000, &flags) == 0);
  CHECK((flags & WP_FINISHED) != 0 && wp_stream_write(theirs, "x", 1, 0) == -EPIPE);
  wp_stream_set_user(ours, &view);
  wp_stream_deadline(ours, 1);
  for (int i = 0; i < 1000 && (told = wp_stream_next_ready(a, &ready)) == 1; ++i) continue; /* what was ready before */
  for (int i = 0; i < 1000 && (told = wp_stream_next_ready(a, &ready)) == 0; ++i) CHECK(wp_wait(a, 10) >= 0);
  CHECK(told == 1 && ready == ours && wp_stream_user(ready) == &view);
  CHECK(wp_stream_write(ours, "x", 1, 0) == -ETIMEDOUT);
  wp_stream_reset(ours);
  wp_stream_close(ours);
  wp_stream_close(theirs);
  wp_stream_close(NULL);

  CHECK(newer(a, key_a) == 0);
  CHECK(wp_send(a, ab, memory, wp_max_datagram(a) + 1) == -EMSGSIZE);
  CHECK(wp_send(a, 77, "x", 1) == -ENOENT && strcmp(wp_error(), "no such peer") == 0);
  CHECK(wp_add_peer(a, "no key", NULL, 0, NULL) == -EINVAL);
  CHECK(wp_add_peer(a, key_b, "nowhere", 0, NULL) == -EINVAL);
  CHECK(wp_send_packet(a, "x", 1) == -EINVAL);
  CHECK(wp_receive(a, many, 8, memory, 10) == -EMSGSIZE);
  CHECK(wp_remove_peer(a, ab) == 0 && wp_remove_peer(a, ab) == -ENOENT && wp_send(a, ab, "x", 1) == -ENOENT);
  wp_close(a);
  wp_close(b);
  wp_close(NULL);
  printf("wireplane %s: hello from C\n", wp_version());
  return 0;
}
