/* Fetches a page by HTTP from behind any WireGuard peer, a stock one for instance, without privileges, in C:
 *
 *   fetch_c THEIR_KEY ADDRESS:PORT OUR_INNER_ADDRESS INNER_ADDRESS:PORT PATH <our_private_key >page
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wireplane_ip.h>

static int failed(const char* what) {
  fprintf(stderr, "%s: %s\n", what, wp_error());
  return 1;
}

/* 44 characters of base64 are 32 octets. */
static int read_key(uint8_t key[32]) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  char text[45];
  unsigned bits = 0, value = 0, octets = 0;
  if (scanf("%44s", text) != 1 || strlen(text) != 44) return 0;
  for (int i = 0; i < 43; ++i) {
    const char* digit = strchr(digits, text[i]);
    if (digit == NULL) return 0;
    value = value << 6 | (unsigned)(digit - digits);
    if ((bits += 6) >= 8 && octets < 32) key[octets++] = (uint8_t)(value >> (bits -= 8));
  }
  return octets == 32;
}

int main(int count, char** words) {
  wp_options options;
  wp_peer_options peer;
  wp_ip_options inside;
  wp_node* node;
  wp_ip* ip;
  wp_tcp* tcp;
  const char *everything[] = {"0.0.0.0/0", "::/0"}, *ours = count == 6 ? words[3] : NULL;
  memset(&options, 0, sizeof options);
  memset(&peer, 0, sizeof peer);
  memset(&inside, 0, sizeof inside);
  options.size = sizeof options;
  if (count != 6 || !read_key(options.private_key)) {
    fprintf(stderr, "expected THEIR_KEY ADDRESS:PORT OUR_INNER_ADDRESS INNER_ADDRESS:PORT PATH, and a key to read\n");
    return 1;
  }
  if (wp_open(&options, &node) != 0) return failed("a node");
  peer.size = sizeof peer;
  peer.endpoint = words[2];
  peer.allowed_ips = everything;
  peer.allowed_ip_count = 2;
  if (wp_add_peer_with(node, words[1], &peer, NULL) != 0) return failed("the peer");
  inside.size = sizeof inside;
  inside.addresses = &ours;
  inside.address_count = 1;
  if (wp_ip_open(node, &inside, &ip) != 0) return failed("a stack");
  if (wp_tcp_connect(ip, words[4], NULL, &tcp) != 0) return failed(words[4]);

  static char octets[1 << 16];
  const int asked = snprintf(octets, sizeof octets, "GET %s HTTP/1.0\r\n\r\n", words[5]);
  if (wp_tcp_write(tcp, octets, (size_t)asked, 15000) != asked) return failed("to ask");
  int got, head = 0;
  long length = 0;
  while ((got = wp_tcp_read(tcp, octets + head, sizeof octets - 1 - (size_t)head, 15000)) > 0) {
    octets[head + got] = 0;
    if (length == 0) { /* still the header, which fits */
      const char* end = strstr(octets, "\r\n\r\n");
      head += got;
      if (end == NULL) continue;
      if (strncmp(octets + 9, "200", 3) != 0) {
        fprintf(stderr, "%.3s\n", octets + 9);
        return 1;
      }
      got = head - (int)(end + 4 - octets);
      memmove(octets, end + 4, (size_t)got);
      head = 0;
      length = 1;
    }
    length += (long)fwrite(octets, 1, (size_t)got, stdout);
  }
  if (got < 0) return failed("the page");
  fprintf(stderr, "%ld octets\n", length - 1);
  wp_tcp_close(tcp);
  wp_ip_close(ip);
  wp_close(node);
  return 0;
}
