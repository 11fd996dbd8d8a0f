"""A TCP relay before the sandbox (or any server), which spoils connections as networks do.

Runs in threads of this process and is steered by assigning `mode`, which holds for connections
that come afterwards; those that are open keep theirs. `connections` counts what came.

    with Relay(server_port) as relay:
        relay.mode = Cut(after=200)
        requests.get(relay.url)
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

_RST: Final = struct.pack("ii", 1, 0)  # a linger of zero seconds
_BLOCK: Final = 64 * 1024


@dataclass(frozen=True)
class Pass:
    """Everything goes through."""


@dataclass(frozen=True)
class Refuse:
    """Nobody listens on the port."""


@dataclass(frozen=True)
class Reset:
    """RST after so many bytes of the answer; 0: as soon as the first byte of the request came."""

    after: int = 0


@dataclass(frozen=True)
class Cut:
    """An orderly end (FIN) after so many bytes of the answer."""

    after: int


@dataclass(frozen=True)
class Drip:
    """The server's answer, so many bytes a second."""

    bytes_per_second: float


@dataclass(frozen=True)
class Hang:
    """An accepted connection on which nothing is ever said."""


Mode = Pass | Refuse | Reset | Cut | Drip | Hang


class Relay(contextlib.AbstractContextManager["Relay"]):
    """Listens on `port` of the loopback and passes on to the port `target` of it, as its mode says:
    everything, until it is told otherwise."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._mode: Mode = Pass()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0

    @property
    def url(self) -> str:
        """Where the relay is, as http."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def mode(self) -> Mode:
        """What the next connections meet."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        refused, self._mode = isinstance(self._mode, Refuse), mode
        if isinstance(mode, Refuse):
            self._end_listening()
        elif refused:
            self._listener = self._listen(self.port)

    def drop(self) -> None:
        """End all open connections, so that the next call of a client makes a new one."""
        with self._lock:
            open_now = list(self._open)
        for connection in open_now:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """End everything and give the port back."""
        self._stopping.set()
        self._end_listening()
        self.drop()

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self._in_thread(self._accept, listener)
        return listener

    def _end_listening(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            self._in_thread(self._serve, client, self._mode)

    def _serve(self, client: socket.socket, mode: Mode) -> None:
        with self._known(client):
            match mode:
                case Hang():
                    _wait_for_the_end(client)
                case Reset(after=0):
                    client.recv(1)
                    _reset(client)
                case _:
                    server = socket.create_connection(("127.0.0.1", self._target))
                    with self._known(server):
                        self._in_thread(_pump, client, server)
                        self._answer(server, client, mode)

    def _answer(self, server: socket.socket, client: socket.socket, mode: Mode) -> None:
        sent = 0
        while data := server.recv(_BLOCK):
            match mode:
                case Reset(after=limit) | Cut(after=limit) if sent + len(data) >= limit:
                    client.sendall(data[: limit - sent])
                    if isinstance(mode, Reset):
                        time.sleep(0.05)  # else the RST may overtake the bytes
                        _reset(client)
                    return
                case Drip(bytes_per_second=speed):
                    for byte in data:
                        client.sendall(bytes([byte]))
                        if self._stopping.wait(1 / speed):
                            return
                case _:
                    client.sendall(data)
            sent += len(data)

    @contextlib.contextmanager
    def _known(self, connection: socket.socket) -> Iterator[None]:
        with self._lock:
            self._open.add(connection)
        try:
            with contextlib.suppress(OSError):
                yield
        finally:
            with self._lock:
                self._open.discard(connection)
            # A thread that still reads would put off the end that closing sends.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    @staticmethod
    def _in_thread(do: Callable[..., None], *args: object) -> None:
        threading.Thread(target=do, args=args, name="relay", daemon=True).start()


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RD)  # lets a thread that still reads go, and sends nothing
    connection.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_BLOCK):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def _wait_for_the_end(connection: socket.socket) -> None:
    while connection.recv(_BLOCK):
        pass
