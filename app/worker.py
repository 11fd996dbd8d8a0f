"""A gunicorn worker that shares its threads fairly between users, and shuts down cleanly.

It changes three things in gunicorn's own threaded worker, which

- serves requests in the order of their arrival, so that one user who sends a hundred at once keeps
  all others waiting;
- lets a new connection hold a thread for five seconds while it sends nothing;
- keeps its listening socket open during shutdown without accepting anybody.
"""

import ctypes
import re
import select
import selectors
import socket
from collections import Counter, OrderedDict, deque
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker

from app import clock

LATELY = 1.0  # seconds
_HEAD = 4096  # bytes of a request in which Authorization is looked for; else it is anonymous
_AUTHORIZATION = re.compile(rb"\r\nauthorization:[ \t]*([^\r\n]+)", re.IGNORECASE)
_ANONYMOUS = 0
_M_MMAP_THRESHOLD = -3  # a parameter number of glibc's malloc.h
_MMAP_FROM = 2**20  # bytes


class Lines:
    """Requests that wait for a thread: one queue for each user, served in turn.

    A user is the hash of its credentials. While other users have sent requests LATELY, one user
    holds at most half of the threads. Not thread-safe.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._waiting: dict[int, deque[Any]] = {}
        self._held: Counter[int] = Counter()
        self._seen: OrderedDict[int, float] = OrderedDict()  # when the last two users came

    def join(self, user: int, request: Any) -> None:
        """Put a request at the end of its user's queue."""
        self._waiting.setdefault(user, deque()).append(request)
        self._seen[user] = clock.monotonic()
        self._seen.move_to_end(user)
        while len(self._seen) > 2:
            self._seen.popitem(last=False)

    def next(self) -> Any:
        """Take the next request that may have a thread, and hold the thread for its user.

        None where no thread is free, or no waiting user may hold another one.
        """
        if self._held.total() >= self._threads:
            return None
        user = next((one for one in self._waiting if self._held[one] < self._most(one)), None)
        if user is None:
            return None
        self._held[user] += 1
        line = self._waiting.pop(user)
        request = line.popleft()
        if line:  # the user goes to the end: all others have their turn first
            self._waiting[user] = line
        return request

    def leave(self, user: int) -> None:
        """Give back a thread that the user held."""
        self._held[user] -= 1
        if not self._held[user]:
            del self._held[user]

    def _most(self, user: int) -> int:
        since = clock.monotonic() - LATELY
        others = any(seen > since for other, seen in self._seen.items() if other != user)
        return max(1, self._threads // 2) if others else self._threads


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's threaded worker with `Lines`, which only the polling thread touches.

    Each request knows how long it has waited (`clock.waited`). During shutdown new connections are
    refused, so that a load balancer sends them to another replica.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # One more than there are threads: it is ready the moment that a thread becomes free.
        self._lines = Lines(self.cfg.threads + 1)

    def init_process(self) -> None:
        """Run the worker until it ends."""
        _return_memory_of_hashes()
        super().init_process()

    def accept(self, listener: socket.socket) -> None:
        """A new connection gets no thread before its first bytes come, like a kept-alive one."""
        try:
            client, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        connection = TConn(self.cfg, client, address, listener.getsockname())
        connection.set_timeout()
        self.nr_conns += 1
        self.pending_conns.append(connection)
        self.poller.register(
            client, selectors.EVENT_READ, partial(self.on_pending_socket_readable, connection)
        )

    def enqueue_req(self, conn: Any) -> None:
        """Called when a request arrives: it joins its user's queue."""
        conn.came = clock.monotonic()
        conn.user = _user_of(conn.sock)
        self._lines.join(conn.user, conn)
        self._give_threads()

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Called when a thread is done: the connection is kept or closed, the next one served."""
        self._lines.leave(conn.user)
        super().finish_request(conn, fs)
        self._give_threads()

    def notify(self) -> None:
        """Called at least once a second."""
        super().notify()
        self._give_threads()  # a user limited to half of the threads may be alone by now

    def _give_threads(self) -> None:
        while conn := self._lines.next():
            super().enqueue_req(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Called in the thread that works on the request."""
        with clock.waited_since(conn.came):
            return super().handle_request(req, conn)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Called with False, while `alive` is false, when the worker begins to shut down."""
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            for listener in self.sockets:
                while select.select([listener], [], [], 0)[0]:  # connected before the shutdown
                    self.accept(listener)
                listener.close()


def _return_memory_of_hashes() -> None:
    """Make glibc return large blocks to the system when they are freed.

    Otherwise it keeps the 19 MiB of a password hash for each thread that ever computed one.
    """
    with suppress(AttributeError):  # another libc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MMAP_FROM)


def _user_of(client: socket.socket) -> int:
    """A hash of the credentials in the request that is arriving; nobody has checked them yet."""
    try:
        head = client.recv(_HEAD, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return _ANONYMOUS
    found = _AUTHORIZATION.search(head)
    return hash(found[1]) if found else _ANONYMOUS
