#!/usr/bin/env python3
"""fetch_path.py PORT ADDRESS PORT SEED: a bad path, in user space, because not every kernel has one to offer.

UDP datagrams that come to 127.0.0.1:PORT go to ADDRESS:PORT, and the answers back. Each way takes 5 ms; one datagram in a
hundred is lost, another one comes 3 ms later than those behind it. Ends with its sandbox; at the end of its input it tells
how many it lost.
"""
import heapq
import random
import select
import socket
import sys
import time

port, address, target, seed = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
chance = random.Random(seed)
near, far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for s in near, far:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    s.setblocking(False)
near.bind(("127.0.0.1", port))
far.connect((address, target))
client, due, order, lost, late = None, [], 0, 0, 0
print("ready", flush=True)
while True:
    wait = max(0, due[0][0] - time.monotonic()) if due else None
    readable, _, _ = select.select([near, far, sys.stdin], [], [], wait)
    now = time.monotonic()
    for s in readable:
        if s is sys.stdin:
            print(f"lost {lost}, late {late} of {order + lost}", flush=True)
            sys.exit(0)
        for _ in range(64):
            try:
                octets, sender = s.recvfrom(65535)
            except (BlockingIOError, ConnectionRefusedError):
                break
            if s is near:
                client = sender
            fate = chance.random()
            if fate < 0.01:
                lost += 1
                continue
            late += fate < 0.02
            order += 1
            heapq.heappush(due, (now + (0.008 if fate < 0.02 else 0.005), order, s is near, octets))
    while due and due[0][0] <= now:
        _, _, outward, octets = heapq.heappop(due)
        try:
            far.send(octets) if outward else near.sendto(octets, client)
        except (BlockingIOError, ConnectionRefusedError):
            lost += 1
