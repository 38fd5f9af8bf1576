#!/usr/bin/python3
"""The ping example in another language: two of these, each given the other's line, exchange packets."""
import ctypes, os, sys
wp = ctypes.CDLL(os.environ.get("WP_LIBRARY", "libwireplane.so.0"))
wp.wp_error.restype, wp.wp_port.restype, node, peer = ctypes.c_char_p, ctypes.c_uint16, ctypes.c_void_p(), ctypes.c_uint64()
text, memory, messages = ctypes.create_string_buffer(45), ctypes.create_string_buffer(65536), ctypes.create_string_buffer(64 * 32)
def check(code):
    if code < 0: sys.exit(wp.wp_error().decode())
    return code
check(wp.wp_open(None, ctypes.byref(node)))
wp.wp_key_text(node, text)
print(text.value.decode(), "127.0.0.1:%d" % wp.wp_port(node), flush=True)
key, endpoint = input().split()
check(wp.wp_add_peer(node, key.encode(), endpoint.encode(), 0, ctypes.byref(peer)))
heard, round = 0, 0
while round < 20 or (heard < 10 and round < 100):
    check(wp.wp_send(node, peer, b"ping", ctypes.c_size_t(4)))
    check(wp.wp_wait(node, 100))
    count = check(wp.wp_receive(node, messages, ctypes.c_size_t(32), memory, ctypes.c_size_t(len(memory))))
    heard, round = heard + count, round + 1
    for _ in range(count): print(memory.raw[:4].decode(), file=sys.stderr)
sys.exit(heard < 10)
