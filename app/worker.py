"""A gunicorn worker that shares its threads fairly between callers, and gives none to bad clients.

gunicorn's own serves in the order of arrival, so that a caller who sends a hundred requests keeps
all others waiting; half a request holds a thread, and a connection not closed holds all of them.
"""

import os
import re
import select
import selectors
import socket
from collections import Counter, deque
from contextlib import suppress
from contextvars import Context
from functools import partial
from http import HTTPStatus
from typing import Any

from gunicorn import util
from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.http import errors
from gunicorn.workers.gthread import ThreadWorker

from app import callers, clock

STRANGERS, HEALTH_CHECKS = 0, 1
_LATELY = 1.0  # seconds
_STANDSTILL = 1.0  # seconds
LONGEST = 2**16  # bytes of a head, or of a body
_AUTHORIZATION = re.compile(rb"\r\nauthorization:[ \t]*([^\r\n]+)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*0*(\d{1,9})", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue", re.IGNORECASE)
_REFUSED = {errors.LimitRequestLine: 414, errors.LimitRequestHeaders: 431}


class Lines:
    """Requests that wait for a thread: one queue for each caller, served in turn.

    While several callers have come _LATELY, each holds at most half of the threads; STRANGERS,
    whose passwords nobody has checked, never hold more. Not thread-safe.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._waiting: dict[int, deque[Any]] = {}
        self._held: Counter[int] = Counter()
        self._latest = STRANGERS
        self._shared_until = 0.0

    def join(self, caller: int, request: Any) -> None:
        """Put a request at the end of its caller's queue."""
        self._waiting.setdefault(caller, deque()).append(request)
        if caller not in (self._latest, HEALTH_CHECKS):
            self._latest, self._shared_until = caller, clock.monotonic() + _LATELY

    def next(self) -> Any:
        """Take the next request that may have a thread, and hold one for its caller; else None."""
        for caller, line in self._waiting.items():
            if self._held[caller] < self._most(caller) and self._held.total() < self._threads:
                del self._waiting[caller]
                self._held[caller] += 1
                request = line.popleft()
                if line:  # behind all others
                    self._waiting[caller] = line
                return request
        return None

    def leave(self, caller: int) -> None:
        """Give back a thread that the caller held."""
        self._held -= Counter((caller,))

    def _most(self, caller: int) -> int:
        shared = caller == STRANGERS or clock.monotonic() < self._shared_until
        return max(1, self._threads // 2) if shared else self._threads


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's threaded worker, whose polling thread reads requests, queues and closes.

    A connection whose request is not whole yet, or that its client has not closed after the last
    answer, is among gunicorn's `pending_conns` and is closed after five seconds.
    """

    def init_process(self) -> None:
        """Run the worker until it ends."""
        # One more than there are threads: it is ready the moment that a thread becomes free.
        self._lines = Lines(self.cfg.threads + 1)
        for listener in self.sockets if hasattr(socket, "TCP_USER_TIMEOUT") else ():  # Linux
            # Who reads nothing of an answer for so many milliseconds is cut off.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 5_000)
        super().init_process()

    def enqueue_req(self, conn: Any, *, answered: bool = False) -> None:
        """Read from a connection: new, with more to ask, or `answered` for the last time."""
        conn.init()
        conn.request, conn.answered = conn.parser.unreader.take_buffered(), answered
        self._read(conn)

    def handle(self, conn: Any) -> Any:
        """Called in a thread, to answer: what is noted for this request is not for the next."""
        return Context().run(super().handle, conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Called by `handle` once the head is understood: whether the connection can be kept."""
        length = getattr(req.body.reader, "length", None)
        if length is None:  # it comes in chunks
            util.write_error(conn.sock, 411, "Length Required", "")
            return False
        if length > LONGEST:
            req.force_close()  # the application refuses it unread
        req._expected_100_continue = False  # `_is_whole` has answered that
        clock.waits_since(conn.came)
        with suppress(TimeoutError):  # the client does not read
            return super().handle_request(req, conn)
        return False

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Refuse what is no request (None) without quoting it, or answer that `handle` failed."""
        status = HTTPStatus(500 if req else _REFUSED.get(type(exc), 400))
        if req:
            self.log.exception("Error handling a request")
        else:
            self.log.warning("Refused %s from %s", type(exc).__name__, addr[0])
        with suppress(OSError):
            util.write_error(client, status.value, status.phrase, "")

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Called when a thread is done: the connection is kept or ended, the next one served."""
        self._lines.leave(conn.caller)
        if fs.result():
            super().finish_request(conn, fs)
        else:
            try:  # Were it closed at once, bytes that still come could undo an answer on its way.
                conn.sock.shutdown(socket.SHUT_WR)
                self.enqueue_req(conn, answered=True)
            except OSError:  # the client has gone
                self.nr_conns -= 1
                conn.close()
        self._give_threads()

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Called about once a second. If the machine stood still, so did the clients.

        That is no time for which they let us wait: each gets its five seconds again.
        """
        began = clock.monotonic()
        super().wait_for_and_dispatch_events(timeout)
        if clock.monotonic() - began > timeout + _STANDSTILL:
            for conn in (*self.keepalived_conns, *self.pending_conns):
                conn.set_timeout()

    def notify(self) -> None:
        """Called at least once a second: a caller limited to half of the threads may be alone."""
        super().notify()
        self._give_threads()

    def set_accept_enabled(self, enabled: bool) -> None:
        """Called with False, while `alive` is false, when the worker begins to shut down.

        It may be called so twice, if it had as many connections as it may have.
        """
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            for listener in self.sockets if self.sockets[0].fileno() >= 0 else ():
                while select.select([listener], [], [], 0)[0]:  # connected before the shutdown
                    self.accept(listener)
                listener.close()  # a load balancer now sends others to another replica

    def _give_threads(self) -> None:
        while conn := self._lines.next():
            super().enqueue_req(conn)

    def _read(self, conn: Any, watched: Any = None) -> None:
        """Read what has come. A request joins its caller's queue once it is whole."""
        received = None
        with suppress(OSError):  # nothing has come, or it is broken: then the end is told next
            received = conn.sock.recv(LONGEST, socket.MSG_DONTWAIT)
        conn.request += received or b""
        whole = not conn.answered and _is_whole(conn.request, conn.sock)
        done = whole or received == b"" or len(conn.request) > 2 * LONGEST
        if done and watched:
            self.poller.unregister(watched)
            self.pending_conns.remove(conn)
        elif not done and not watched:
            conn.set_timeout()
            self.pending_conns.append(conn)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._read, conn))
        if whole:
            conn.parser.unreader.unread(conn.request)
            conn.came, conn.caller = clock.monotonic(), _caller_of(conn.request)
            self._lines.join(conn.caller, conn)
            self._give_threads()
        elif done:
            self.nr_conns -= 1
            conn.close()


def _is_whole(request: bytes, client: socket.socket) -> bool:
    """Whether head and body are there, or the head alone tells that the body will be refused."""
    head, end, body = request.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    if not end or not length or len(body) >= int(length[1]) or int(length[1]) > LONGEST:
        return bool(end)
    if not body and _EXPECT.search(head):
        with suppress(OSError):
            client.send(b"HTTP/1.1 100 Continue\r\n\r\n", socket.MSG_DONTWAIT)
    return False


def _caller_of(request: bytes) -> int:
    """Whose queue a request joins: a known caller's, HEALTH_CHECKS or STRANGERS."""
    if request.startswith((b"GET /livez ", b"GET /readyz ")):
        return HEALTH_CHECKS
    found = _AUTHORIZATION.search(request)
    return (found and callers.known(found[1].decode("latin-1").strip())) or STRANGERS


class Gunicorn(WSGIApplication):  # type: ignore[misc]
    """gunicorn, which would import from the folder where it is started before all others."""

    def chdir(self) -> None:
        """Go to the folder of its settings, without importing from it."""
        os.chdir(self.cfg.chdir)
