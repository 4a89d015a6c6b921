#!/usr/bin/env python3
"""netswitch.py: a switch in user space between network namespaces, with loss, delay, and one-way cuts.

    netswitch.py DIR NETWORK NAMESPACE…      NETWORK like 10.77.0; the n-th namespace gets the address NETWORK.n

It opens a TUN device "beach0" in each namespace (they must exist; it needs root), and passes IP packets between them by
their destination address. Rules come as datagrams on the unix socket DIR/switch.sock, one command each, answered with one:

    cut A B          packets from the A-th to the B-th namespace are lost; the other direction works
    join A B         undoes that
    loss PERCENT     of all packets
    delay MS [JITTER]  before every packet, plus up to JITTER (packets of one pair stay in order)
    heal             no cut, no loss, no delay
    show             the rules, and how many packets passed and were lost
    stop             ends it

Packets are lost in silence, as a broken network loses them: no RST, no ICMP. The netem queue discipline would do the same and is
not in every kernel. It is a tool for tests: about 30,000 packets a second.
"""
import ctypes
import fcntl
import heapq
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
QUEUE_PACKETS = 20_000  # of delayed packets; more are lost, as in a full queue

libc = ctypes.CDLL(None, use_errno=True)


def enter(fd):
    if libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def open_tun(namespace, address):
    """A TUN device in the namespace; the file stays open here, in the namespace we came from."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        enter(there)
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22s", b"beach0", IFF_TUN | IFF_NO_PI, b""))
        for args in (["addr", "add", f"{address}/24", "dev", "beach0"], ["link", "set", "beach0", "up"], ["link", "set", "lo", "up"]):
            subprocess.run(["ip", *args], check=True)
    finally:
        enter(home)
        os.close(home)
        os.close(there)
    return tun


class Switch:
    def __init__(self, tuns, network):
        self.tuns, self.network = tuns, bytes(int(part) for part in network.split("."))
        self.cuts, self.loss, self.delay, self.jitter = set(), 0.0, 0.0, 0.0
        self.queue, self.number, self.last = [], 0, {}
        self.passed, self.lost = 0, 0
        self.random = random.Random(int(os.environ.get("SEED", "1")))

    def command(self, line):
        words = line.split()
        try:
            match words:
                case ["cut", a, b]:
                    self.cuts.add((self.port(a), self.port(b)))
                case ["join", a, b]:
                    self.cuts.discard((self.port(a), self.port(b)))
                case ["loss", percent]:
                    self.loss = min(max(float(percent), 0.0), 100.0) / 100
                case ["delay", ms, *jitter] if len(jitter) <= 1:
                    self.delay, self.jitter = float(ms) / 1e3, float(jitter[0]) / 1e3 if jitter else 0.0
                case ["heal"]:
                    self.cuts, self.loss, self.delay, self.jitter = set(), 0.0, 0.0, 0.0
                case ["show"]:
                    pass
                case _:
                    return f"error: {line!r} is not a command"
        except ValueError as e:
            return f"error: {line!r}: {e}"
        cuts = " ".join(f"{a + 1}->{b + 1}" for a, b in sorted(self.cuts)) or "none"
        return (f"cuts {cuts}; loss {self.loss * 100:g} %; delay {self.delay * 1e3:g} ms + {self.jitter * 1e3:g}; "
                f"{self.passed} packets passed, {self.lost} lost")

    def port(self, text):
        number = int(text) - 1
        if not 0 <= number < len(self.tuns):
            raise ValueError(f"there is no namespace {text}")
        return number

    def packet(self, source, data, now):
        if len(data) < 20 or data[0] >> 4 != 4 or data[16:19] != self.network:
            return
        to = data[19] - 1
        if not 0 <= to < len(self.tuns) or to == source:
            return
        full = len(self.queue) >= QUEUE_PACKETS
        if (source, to) in self.cuts or full or (self.loss and self.random.random() < self.loss):
            self.lost += 1
        elif not self.delay and not self.jitter and not self.queue:
            self.deliver(to, data)
        else:
            due = now + self.delay + self.random.random() * self.jitter
            due = self.last[source, to] = max(due, self.last.get((source, to), 0.0))
            self.number += 1
            heapq.heappush(self.queue, (due, self.number, source, to, data))

    def deliver(self, to, data):
        try:
            os.write(self.tuns[to], data)
            self.passed += 1
        except OSError:  # its queue is full, or the device is down
            self.lost += 1

    def run(self, control):
        poll = select.epoll()
        for tun in self.tuns:
            poll.register(tun, select.EPOLLIN)
        poll.register(control, select.EPOLLIN)
        ports = {tun: n for n, tun in enumerate(self.tuns)}
        while True:
            wait = max(self.queue[0][0] - time.monotonic(), 0) if self.queue else -1
            for fd, _ in poll.poll(wait):
                if fd == control.fileno():
                    line, sender = control.recvfrom(4096)
                    stop = line.strip() == b"stop"
                    answer = "stopped" if stop else self.command(line.decode(errors="replace"))
                    if sender:
                        control.sendto(answer.encode(), sender)
                    if stop:
                        return
                    continue
                for _ in range(64):
                    try:
                        data = os.read(fd, 65_536)
                    except BlockingIOError:
                        break
                    self.packet(ports[fd], data, time.monotonic())
            now = time.monotonic()
            while self.queue and self.queue[0][0] <= now:
                _, _, source, to, data = heapq.heappop(self.queue)
                if (source, to) in self.cuts:
                    self.lost += 1
                else:
                    self.deliver(to, data)


def main():
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    directory, network, namespaces = sys.argv[1], sys.argv[2], sys.argv[3:]
    tuns = [open_tun(namespace, f"{network}.{n}") for n, namespace in enumerate(namespaces, 1)]
    path = os.path.join(directory, "switch.sock")
    if os.path.exists(path):
        os.unlink(path)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    control.bind(path)
    print("netswitch ready", flush=True)
    Switch(tuns, network).run(control)
    os.unlink(path)


if __name__ == "__main__":
    main()
