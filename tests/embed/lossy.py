#!/usr/bin/python3
"""A bad wire: lossy.py TO_PORT PERCENT: prints its port; what comes is passed on both ways, but for some of it."""
import random, socket, sys
wire, to, percent, sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), ("127.0.0.1", int(sys.argv[1])), float(sys.argv[2]), None
wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
wire.bind(("127.0.0.1", 0))
print(wire.getsockname()[1], flush=True)
chance = random.Random(1)
while True:
    datagram, source = wire.recvfrom(65536)
    if source != to: sender = source
    if chance.random() * 100 >= percent: wire.sendto(datagram, to if source != to else sender)
