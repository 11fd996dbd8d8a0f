"""Runs the sandbox: HTTP/1.1 with keep-alive, a thread for each connection."""

from __future__ import annotations

import contextlib
import io
import socket
import socketserver
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Final, Self, cast

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from sandbox.app import create_app
from sandbox.settings import Settings
from sandbox.world import World

_LINGER: Final = struct.Struct("ii")


class _Handler(WSGIRequestHandler):
    """Reads a request whole, answers it in one write, keeps the connection.

    Werkzeug's own `run_wsgi` closes the connection after each answer, as it may not have read
    all of the request.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def run_wsgi(self) -> None:
        """Answers one request."""
        if self.headers.get("Expect", "").strip().lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        environ = self.make_environ()
        self.environ = environ
        try:
            if "wsgi.input_terminated" in environ:
                body = environ["wsgi.input"].read()
            else:
                body = self.rfile.read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = io.BytesIO(body)
            status, headers, content = _run(cast("Any", self.server).app, environ)
        except ConnectionError:
            self.close_connection = True
            return
        except Exception:
            traceback.print_exc()
            self.close_connection = True
            status, headers, content = "500 Internal Server Error", [], b""
        bodiless = self.command == "HEAD" or status.startswith(("204", "304"))
        lines = [f"HTTP/1.1 {status}", f"Date: {self.date_time_string()}"]
        lines += [f"{name}: {value}" for name, value in headers if name != "Content-Length"]
        if not status.startswith(("204", "304")):
            lines.append(f"Content-Length: {len(content)}")
        if self.close_connection:
            lines.append("Connection: close")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        self.wfile.write(head if bodiless else head + content)

    def log(self, type: str, message: str, *args: Any) -> None:
        """No access log: the control plane has one."""


def _run(
    app: Callable[..., Iterable[bytes]], environ: dict[str, Any]
) -> tuple[str, list[tuple[str, str]], bytes]:
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(
        status: str, headers: list[tuple[str, str]], _exc_info: Any = None
    ) -> Callable[[bytes], None]:
        started.append((status, headers))
        return lambda _data: None

    parts = app(environ, start_response)
    try:
        content = b"".join(parts)
    finally:
        close = getattr(parts, "close", None)
        if close is not None:
            close()
    status, headers = started[-1]
    return status, headers, content


class _Server(ThreadedWSGIServer):
    """Knows its open connections, so that stopping ends them."""

    request_queue_size = 512

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()
        super().__init__(*args, **kwargs)

    def server_bind(self) -> None:
        """Binds without looking up the host's name, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Notes the connection."""
        with self._connections_lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection; one that is to be reset gets no FIN before its RST."""
        with self._connections_lock:
            self._connections.discard(request)
        if _is_to_be_reset(request):
            request.close()
        else:
            super().shutdown_request(request)

    def end_connections(self) -> None:
        """Ends all connections, also those in the middle of an answer."""
        with self._connections_lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no news."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _is_to_be_reset(connection: socket.socket) -> bool:
    """Whether closing it will send RST: it lingers, for zero seconds."""
    try:
        option = connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.size)
    except OSError:
        return False
    # "On" is 1 on Linux and another non-zero number on macOS.
    lingers, seconds = _LINGER.unpack(option)
    return bool(lingers) and seconds == 0


class RunningSandbox:
    """A sandbox that answers at `url` until `stop()`; also a context manager."""

    def __init__(self, server: _Server, world: World, url: str) -> None:
        self.url = url
        self.world = world
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, args=(0.05,), name="sandbox", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stops answering, ends open connections and gives the port back. May be repeated."""
        self.world.stopping.set()
        self._server.shutdown()
        self._server.end_connections()
        self._thread.join(5)

    def wait(self) -> None:
        """Blocks while the sandbox runs."""
        while self._thread.is_alive():
            self._thread.join(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def start(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    down: Iterable[str] = (),
    quota: bool = False,
    latency: float = 0.0,
) -> RunningSandbox:
    """Starts a sandbox in threads of this process.

    `port` 0 takes a free one. `down` names environments that are out of order, with Latarnia
    saying so; `quota` enforces KSeF's limits; `latency` (seconds) delays every answer.
    """
    world = World(
        settings=Settings(quota=quota, latency_seconds=latency), down_from_start=tuple(down)
    )
    server = _Server(host, port, create_app(world), _Handler)
    shown = f"[{host}]" if ":" in host else host
    return RunningSandbox(server, world, f"http://{shown}:{server.server_port}")
