#!/usr/bin/python3
"""Streams from another language: two of these, each given the other's line; each opens a stream, each answers one."""
import ctypes, os, sys
wp = ctypes.CDLL(os.environ.get("WP_LIBRARY", "libwireplane.so.0"))
wp.wp_error.restype, wp.wp_port.restype, node, peer = ctypes.c_char_p, ctypes.c_uint16, ctypes.c_void_p(), ctypes.c_uint64()
mine, theirs, text, room = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.create_string_buffer(45), ctypes.create_string_buffer(100)
def check(code):
    if code < 0: sys.exit(wp.wp_error().decode())
    return code
def say(stream, words): check(wp.wp_stream_write(stream, words, ctypes.c_size_t(len(words)), 9000))
def hear(stream): return room.raw[:check(wp.wp_stream_read(stream, room, ctypes.c_size_t(100), 9000, None))]
check(wp.wp_open(None, ctypes.byref(node)))
wp.wp_key_text(node, text)
print(text.value.decode(), "127.0.0.1:%d" % wp.wp_port(node), flush=True)
key, endpoint = input().split()
check(wp.wp_connect(node, key.encode(), endpoint.encode(), ctypes.byref(peer)))
check(wp.wp_stream_open(node, peer, 1, ctypes.byref(mine)))
say(mine, b"ping")
check(wp.wp_stream_accept(node, 9000, ctypes.byref(theirs)))
say(theirs, b"answer to " + hear(theirs))
print(hear(mine).decode(), file=sys.stderr)
check(wp.wp_stream_finish(theirs)), check(wp.wp_stream_finish(mine)), hear(theirs), hear(mine), wp.wp_wait(node, 200)
