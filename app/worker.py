"""gunicorn's worker: who is given a thread, and how it ends.

gunicorn's own gives threads in the order in which requests came, so that one user who asks a
hundred times at once keeps all others waiting; it lets a connection that says nothing hold a
thread for five seconds; and at its end it keeps the door open and lets nobody in.
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
_HEAD = 4096  # bytes; who sends its name later waits in the line of the nameless
_AUTHORIZATION = re.compile(rb"\r\nauthorization:[ \t]*([^\r\n]+)", re.IGNORECASE)
_NAMELESS = 0
_M_MMAP_THRESHOLD, _LARGE = -3, 2**20  # of glibc's malloc.h; bytes


class Lines:
    """Who waits for one of the threads: a line for each user, and the lines have turns.

    While others were there lately, a user holds at most half of the threads.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._waiting: dict[int, deque[Any]] = {}
        self._held: Counter[int] = Counter()
        self._seen: OrderedDict[int, float] = OrderedDict()  # the last two users

    def join(self, user: int, who: Any) -> None:
        """Wait behind those of the same user."""
        self._waiting.setdefault(user, deque()).append(who)
        self._seen[user] = clock.monotonic()
        self._seen.move_to_end(user)
        while len(self._seen) > 2:
            self._seen.popitem(last=False)

    def next(self) -> Any:
        """The next one that is given a thread; None where nobody is, for now."""
        if self._held.total() >= self._threads:
            return None
        user = next((one for one in self._waiting if self._held[one] < self._most(one)), None)
        if user is None:
            return None
        self._held[user] += 1
        line = self._waiting.pop(user)
        who = line.popleft()
        if line:  # the others of that user have their next turn after everybody else
            self._waiting[user] = line
        return who

    def leave(self, user: int) -> None:
        """A thread is given back."""
        self._held[user] -= 1
        if not self._held[user]:
            del self._held[user]

    def _most(self, user: int) -> int:
        since = clock.monotonic() - LATELY
        others = any(seen > since for other, seen in self._seen.items() if other != user)
        return max(1, self._threads // 2) if others else self._threads


class Worker(ThreadWorker):  # type: ignore[misc]
    """gthread with lines, all of them kept by the thread that also polls the connections.

    Each request knows since when it waits (`clock.waited`). At the end whoever comes is refused,
    and goes to another replica.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lines = Lines(self.cfg.threads + 1)  # one is ready when a thread is done

    def init_process(self) -> None:
        """The life of a worker."""
        _give_memory_back()
        super().init_process()

    def accept(self, listener: socket.socket) -> None:
        """A new connection is given a thread when it says something, like one that is kept."""
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
        """A request has come: it waits for its turn."""
        conn.came = clock.monotonic()
        conn.user = _user(conn.sock)
        self._lines.join(conn.user, conn)
        self._give_threads()

    def finish_request(self, conn: Any, fs: Any) -> None:
        """A thread is free: the connection is kept or closed, and somebody else's turn comes."""
        self._lines.leave(conn.user)
        super().finish_request(conn, fs)
        self._give_threads()

    def notify(self) -> None:
        """Called at least once a second."""
        super().notify()
        self._give_threads()  # who held half of them may be alone by now

    def _give_threads(self) -> None:
        while conn := self._lines.next():
            super().enqueue_req(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """In the thread that works on it."""
        with clock.waited_since(conn.came):
            return super().handle_request(req, conn)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Called with False, and `alive` false, when the worker begins to end."""
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            for listener in self.sockets:
                while select.select([listener], [], [], 0)[0]:  # those who had come before
                    self.accept(listener)
                listener.close()


def _give_memory_back() -> None:
    """glibc would keep the 19 MiB of a password's hash for each thread that ever made one."""
    with suppress(AttributeError):  # another libc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


def _user(client: socket.socket) -> int:
    """Whose request has begun to come, as HTTP Basic says and before anybody checks it."""
    try:
        head = client.recv(_HEAD, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return _NAMELESS
    found = _AUTHORIZATION.search(head)
    return hash(found[1]) if found else _NAMELESS
