"""Clients of a benchmark: one thread of a process of its own, so that they cost the service little.

Each connection asks one question again and again, and reads the whole answer before the next one.
"""

import heapq
import multiprocessing
import selectors
import socket
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle
from time import monotonic


@dataclass
class Crowd:
    """Connections of one user. Each asks for the paths in turn, all of them `rate` times a second
    (None: as fast as they are answered). Who is refused with a 503 waits for as long as it says."""

    connections: int
    headers: dict[str, str]
    paths: list[str]
    rate: float | None = None


@dataclass
class Answers:
    """What a crowd got: how many of each status, and the seconds that each 200 took."""

    seconds: float
    statuses: Counter[int] = field(default_factory=Counter)
    taken: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return self.statuses[200] / self.seconds

    def percentile(self, share: float) -> float:
        """The seconds within which this share (0 to 1) of the good answers came."""
        return sorted(self.taken)[int(share * (len(self.taken) - 1))]


class Crowds:
    """The process of the clients, until the end of the block."""

    def __enter__(self) -> "Crowds":
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def ask(self, port: int, seconds: float, *crowds: Crowd) -> list[Answers]:
        """What each of them got, all asking at the same time."""
        return self._pool.submit(_ask, port, seconds, crowds).result()


class _Client:
    """One connection. If it is paced, times count from when it should have asked, not from when it
    could: waiting behind a slow answer is part of the next answer's time."""

    def __init__(self, port: int, crowd: Crowd, answers: Answers, number: int) -> None:
        head = "".join(f"{name}: {value}\r\n" for name, value in crowd.headers.items())
        self._requests = cycle(
            [f"GET {path} HTTP/1.1\r\nHost: b\r\n{head}\r\n".encode() for path in crowd.paths]
        )
        for _ in range(number % len(crowd.paths)):
            next(self._requests)
        self._port = port
        self._answers = answers
        self._every = crowd.connections / crowd.rate if crowd.rate else 0.0
        self.due = monotonic() + self._every * number / crowd.connections
        self.socket: socket.socket | None = None

    def send(self, selector: selectors.BaseSelector) -> None:
        self._began = self.due if self._every else monotonic()
        self._read = b""
        if self.socket is None:
            self.socket = socket.create_connection(("127.0.0.1", self._port), timeout=60)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(self.socket, selectors.EVENT_READ, self)
        self.socket.sendall(next(self._requests))

    def receive(self, selector: selectors.BaseSelector) -> bool:
        """Whether the answer is whole, or the connection over."""
        assert self.socket is not None
        try:
            more = self.socket.recv(1 << 18)
        except OSError:
            more = b""
        self._read += more
        head, separator, body = self._read.partition(b"\r\n\r\n")
        over = not more or b"\r\nconnection: close" in head.lower()
        if separator:
            length = int(_header(head, b"content-length") or 0)
            if len(body) >= length:
                self._note(head)
                if over:
                    self._close(selector)
                return True
        if not more:
            self._answers.statuses[0] += 1
            self.due = monotonic()
            self._close(selector)
        return not more

    def _note(self, head: bytes) -> None:
        now = monotonic()
        status = int(head[9:12])
        self._answers.statuses[status] += 1
        self.due = self.due + self._every if self._every else now
        if status == 200:
            self._answers.taken.append(now - self._began)
        elif status == 503:
            self.due = now + float(_header(head, b"retry-after") or 0)

    def _close(self, selector: selectors.BaseSelector) -> None:
        assert self.socket is not None
        selector.unregister(self.socket)
        self.socket.close()
        self.socket = None


def _header(head: bytes, name: bytes) -> bytes:
    return head.lower().partition(b"\r\n" + name + b":")[2].partition(b"\r\n")[0].strip()


def _ask(port: int, seconds: float, crowds: tuple[Crowd, ...]) -> list[Answers]:
    selector = selectors.DefaultSelector()
    found = [Answers(seconds) for _ in crowds]
    clients = [
        _Client(port, crowd, answers, number)
        for crowd, answers in zip(crowds, found, strict=True)
        for number in range(crowd.connections)
    ]
    due = [(client.due, id(client), client) for client in clients]
    heapq.heapify(due)
    end = monotonic() + seconds
    while (now := monotonic()) < end:
        while due and due[0][0] <= now:
            heapq.heappop(due)[2].send(selector)
        until = min(end, due[0][0]) if due else end
        for key, _ in selector.select(max(0.0, until - monotonic())):
            client = key.data
            if client.receive(selector):
                heapq.heappush(due, (client.due, id(client), client))
    for client in clients:
        if client.socket:
            client.socket.close()
    selector.close()
    return found
