#!/usr/bin/env python3
"""The outside of a tunnel, seen and disturbed: what the matrix of peers needs beside ping.

  wire.py watch DEVICE                one line a WireGuard message that crosses DEVICE, either way, as it happens:
                                      TIME FROM TO KIND LENGTH tos=HEX sender=INDEX receiver=INDEX [mac2]
  wire.py slow DEVICE DEVICE MS       a wire between two devices that holds every frame for MS
  wire.py rough DEVICE DEVICE MS      one that delivers every frame twice, each time somewhere within MS: out of order
  wire.py late DEVICE DEVICE COUNT    one that delivers the first data message from left to right after COUNT later ones
  wire.py flood KEY HOST PORT BURST MS SECONDS
                                      initiations to the owner of public key KEY: BURST of them every MS, with a valid mac1 and
                                      nothing valid inside, from port 6666; says `loaded` when the first cookie comes back
  wire.py lengths KEY HOST PORT       initiations of 147, 149 and 148 octets, with a mac1 where it would be looked for, to an owner that is
                                      under load: prints how many of each length were answered by a cookie, of 3
  wire.py nudge ADDRESS...            an echo reply that nobody asked for to each: data that is not answered

Its own traffic (ports 6666 and 6667) is not shown by `watch`. Bounded: `flood` ends by itself, the others with the sandbox.
"""
import base64
import hashlib
import heapq
import ipaddress
import os
import random
import select
import socket
import struct
import sys
import time

KINDS = {1: "initiation", 2: "response", 3: "cookie", 4: "data"}
FLOOD_PORT, PROBE_PORT = 6666, 6667
ETH_P_ALL = 3


def packet_socket(device):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    s.bind((device, 0))
    return s


def udp_of(frame):
    """(from, to, type of service, payload) of an unfragmented UDP datagram in an Ethernet frame, else None."""
    kind = struct.unpack_from("!H", frame, 12)[0]
    if kind == 0x0800 and frame[23] == 17 and not struct.unpack_from("!H", frame, 20)[0] & 0x3FFF:
        at, tos = 14 + 4 * (frame[14] & 15), frame[15]
        ends = [socket.inet_ntop(socket.AF_INET, frame[i:i + 4]) for i in (26, 30)]
    elif kind == 0x86DD and frame[20] == 17:
        at, tos = 54, struct.unpack_from("!H", frame, 14)[0] >> 4 & 255
        ends = ["[%s]" % socket.inet_ntop(socket.AF_INET6, frame[i:i + 16]) for i in (22, 38)]
    else:
        return None
    ports = struct.unpack_from("!HHH", frame, at)
    payload = frame[at + 8:at + ports[2]]
    return f"{ends[0]}:{ports[0]}", f"{ends[1]}:{ports[1]}", tos, payload


def told(message):
    """Kind, length and indices of a WireGuard message; None for anything else."""
    if len(message) < 32 or message[0] not in KINDS or message[1:4] != b"\0\0\0":
        return None
    kind = KINDS[message[0]]
    first, second = struct.unpack_from("<II", message, 4)
    words = {"initiation": f"sender={first:08x}", "response": f"sender={first:08x} receiver={second:08x}"}
    text = f"{kind} {len(message)} {words.get(kind, f'receiver={first:08x}')}"
    if kind in words and any(message[-16:]):
        text += " mac2"
    return text


def watch(device):
    s = packet_socket(device)
    while True:
        frame = s.recv(65535)
        datagram = udp_of(frame) if len(frame) >= 42 else None
        if datagram is None:
            continue
        source, target, tos, payload = datagram
        text = told(payload)
        ours = (f":{FLOOD_PORT}", f":{PROBE_PORT}")
        if text is None or source.endswith(ours) or target.endswith(ours):
            continue
        kind, length, rest = text.split(" ", 2)
        print(f"{time.monotonic():.4f} {source} {target} {kind} {length} tos={tos:02x} {rest}", flush=True)


def carry(one, other, plan):
    """A wire. plan(whether from the left, a frame) -> what to deliver for it: [(seconds from now, frame)...]."""
    a, b = packet_socket(one), packet_socket(other)
    across = {a: b, b: a}
    held = []  # a heap of (when it may go, order of arrival, socket, frame)
    arrived = 0
    print("ready", flush=True)
    while True:
        wait = max(0.0, held[0][0] - time.monotonic()) if held else None
        for s in select.select([a, b], [], [], wait)[0]:
            frame, address = s.recvfrom(65535)
            if address[2] == socket.PACKET_OUTGOING:
                continue
            for seconds, what in plan(s is a, frame):
                arrived += 1
                heapq.heappush(held, (time.monotonic() + seconds, arrived, across[s], what))
        while held and held[0][0] <= time.monotonic():
            _, _, s, frame = heapq.heappop(held)
            try:
                s.send(frame)
            except OSError:
                pass  # a device that is going away


def slow(one, other, hold_ms):
    carry(one, other, lambda _, frame: [(int(hold_ms) / 1000, frame)])


def rough(one, other, within_ms):
    carry(one, other, lambda _, frame: [(random.random() * int(within_ms) / 1000, frame) for _ in range(2)])


def late(one, other, count):
    kept = []
    behind = 0

    def plan(from_left, frame):
        nonlocal behind
        datagram = udp_of(frame) if from_left and len(frame) >= 42 else None
        if datagram is None or datagram[3][:4] != b"\4\0\0\0":
            return [(0, frame)]
        behind += 1
        if behind == 1:
            kept.append(frame)
            return []
        if behind == 1 + int(count):
            return [(0, frame), (0, kept.pop())]
        return [(0, frame)]

    carry(one, other, plan)


def initiation(key, length=148):
    """With a valid mac1 and nothing valid inside. Another length has its macs at its own end, and where 148 would have them."""
    mac1_key = hashlib.blake2s(b"mac1----" + base64.b64decode(key)).digest()
    body = struct.pack("<I", 1) + os.urandom(min(length, 148) - 36)
    whole = body + hashlib.blake2s(body, key=mac1_key, digest_size=16).digest() + bytes(16)
    return whole + bytes(length - len(whole))


def connected(port, host, to):
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.bind(("", port))
    s.connect((host, int(to)))
    s.setblocking(False)
    return s


def lengths(key, host, port):
    s = connected(PROBE_PORT, host, port)
    for length in (147, 149, 148):
        answered = 0
        for _ in range(3):
            s.send(initiation(key, length))
            end = time.monotonic() + 0.15
            while (rest := end - time.monotonic()) > 0 and select.select([s], [], [], rest)[0]:
                try:
                    answered += s.recv(2048)[:4] == b"\3\0\0\0"
                except OSError:
                    pass
        print(f"{length} {answered}", flush=True)


def flood(key, host, port, burst, every_ms, seconds):
    messages = [initiation(key) for _ in range(64)]  # (the mac is the cost here: a few messages, again and again)
    s = connected(FLOOD_PORT, host, port)
    loaded = False
    end = time.monotonic() + float(seconds)
    due = time.monotonic()
    while due < end:
        for i in range(int(burst)):
            try:
                s.send(messages[i % len(messages)])
            except OSError:
                pass
        due = max(due + int(every_ms) / 1000, time.monotonic())
        while (rest := due - time.monotonic()) > 0 and select.select([s], [], [], rest)[0]:
            try:
                answer = s.recv(2048)
            except OSError:
                continue
            if not loaded and answer[:4] == b"\3\0\0\0":
                loaded = True
                print("loaded", flush=True)


def nudge(*addresses):
    for address in addresses:
        if ipaddress.ip_address(address).version == 6:
            s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            body = struct.pack("!BBHHH", 129, 0, 0, 0x7770, 1)  # (the kernel does this one's checksum)
        else:
            s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            body = struct.pack("!BBHHH", 0, 0, 0xFFFF - 0x7771, 0x7770, 1)
        s.sendto(body, (address, 0))


VERBS = {"watch": (watch, 1), "slow": (slow, 3), "rough": (rough, 3), "late": (late, 3), "flood": (flood, 6), "lengths": (lengths, 3), "nudge": (nudge, None)}

if __name__ == "__main__":
    verb, count = VERBS.get(sys.argv[1] if len(sys.argv) > 1 else "", (None, 0))
    if verb is None or count is not None and len(sys.argv) != 2 + count:
        sys.exit(__doc__)
    try:
        verb(*sys.argv[2:])
    except KeyboardInterrupt:
        pass
