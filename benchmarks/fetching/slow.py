"""A slow network on loopback: a TCP proxy that delays what passes, and paces each connection.

    python benchmarks/fetching/slow.py RTT_MS BYTES_PER_S PORT...

Each PORT of 127.0.0.1 gets a listening port before it, printed in their order as JSON. Half of the round trip is added
each way; what the server sends is paced. Bytes go through kernel pipes (splice) and never through this process.
"""

import fcntl
import heapq
import json
import os
import selectors
import socket
import sys
import time
from collections import deque

PIECE = 128 * 1024
ROOM = 1 << 20
SOON_S = 0.0005


class Way:
    """One direction of one connection: bytes wait in a pipe until they are due."""

    def __init__(self, source: socket.socket, target: socket.socket, delay_s: float, pace: float | None) -> None:
        self.source, self.target, self.delay_s, self.pace = source, target, delay_s, pace
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK)
        try:
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4 * ROOM)
        except PermissionError:
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, ROOM)
        self.waiting: deque[tuple[float, int]] = deque()
        self.held, self.free_at = 0, 0.0
        self.ended = self.closed = self.full = False

    def fill(self) -> None:
        """Takes what came, and says when it is due."""
        try:
            count = os.splice(self.source.fileno(), self.writer, PIECE)
        except BlockingIOError:
            # The pipe counts pages, and these may be half empty.
            self.full = self.held > 0
            return
        except OSError:
            count = 0
        now = time.monotonic()
        if count == 0:
            self.ended = True
        self.free_at = max(now, self.free_at) + (count / self.pace if self.pace else 0)
        self.held += count
        self.full = self.held >= ROOM
        self.waiting.append((self.free_at + self.delay_s, count))

    def drain(self, now: float) -> float | None:
        """Passes on what is due; when to come again, or None when nothing waits."""
        while self.waiting and self.waiting[0][0] <= now + SOON_S:
            due, count = self.waiting[0]
            if count == 0:
                self.close()
                return None
            try:
                passed = os.splice(self.reader, self.target.fileno(), count)
            except BlockingIOError:
                return now + 0.001
            except OSError:
                self.close()
                return None
            self.held -= passed
            if passed == count:
                self.waiting.popleft()
            else:
                self.waiting[0] = (due, count - passed)
        return self.waiting[0][0] if self.waiting else None

    def close(self) -> None:
        """Ends this direction, and so the other one."""
        if not self.closed:
            self.closed = True
            self.waiting.clear()
            os.close(self.reader)
            os.close(self.writer)
            for end in (self.source, self.target):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue


class Proxy:
    """All listening ports and all connections, in one thread."""

    def __init__(self, delay_s: float, pace: float, ports: list[int]) -> None:
        self.delay_s, self.pace = delay_s, pace
        self.selector = selectors.DefaultSelector()
        self.due: list[tuple[float, int, Way]] = []
        self.number = 0
        self.listening: list[int] = []
        for port in ports:
            listener = socket.create_server(("127.0.0.1", 0), backlog=512)
            listener.setblocking(False)
            self.listening.append(listener.getsockname()[1])
            self.selector.register(listener, selectors.EVENT_READ, (listener, port))

    def run(self) -> None:
        """For ever."""
        while True:
            now = time.monotonic()
            wait = max(0.0, self.due[0][0] - now) if self.due else None
            for key, _ in self.selector.select(wait):
                if isinstance(key.data, Way):
                    self.came(key.data)
                else:
                    self.connect(*key.data)
            now = time.monotonic()
            while self.due and self.due[0][0] <= now + SOON_S:
                way = heapq.heappop(self.due)[2]
                self.passed(way, now)

    def connect(self, listener: socket.socket, port: int) -> None:
        """A new connection, and one to the server behind."""
        near, _ = listener.accept()
        far = socket.create_connection(("127.0.0.1", port))
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.setblocking(False)
        self.selector.register(near, selectors.EVENT_READ, Way(near, far, self.delay_s, None))
        self.selector.register(far, selectors.EVENT_READ, Way(far, near, self.delay_s, self.pace))

    def came(self, way: Way) -> None:
        """Something, or the end; a full pipe is not read from until there is room."""
        idle = not way.waiting
        if not way.closed:
            way.fill()
        if way.ended or way.closed or way.full:
            self.selector.unregister(way.source)
        if idle and way.waiting:
            self.later(way, way.waiting[0][0])

    def passed(self, way: Way, now: float) -> None:
        """What was due is on its way; there may be room again."""
        again = None if way.closed else way.drain(now)
        if way.full and way.held < ROOM and not way.ended and not way.closed:
            way.full = False
            self.selector.register(way.source, selectors.EVENT_READ, way)
        if again is not None:
            self.later(way, again)

    def later(self, way: Way, due: float) -> None:
        """Comes back to it then."""
        self.number += 1
        heapq.heappush(self.due, (due, self.number, way))


def main() -> None:
    """Prints the ports and serves until it is ended."""
    proxy = Proxy(float(sys.argv[1]) / 2000, float(sys.argv[2]), [int(port) for port in sys.argv[3:]])
    print(json.dumps(proxy.listening), flush=True)
    proxy.run()


if __name__ == "__main__":
    main()
