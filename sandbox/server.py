"""Runs the sandbox: HTTP/1.1 with keep-alive, a thread for each connection."""

import contextlib
import io
import socket
import socketserver
import struct
import sys
import threading
import traceback
from collections.abc import Iterable
from typing import Any, Final

from werkzeug.datastructures import Headers
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.test import run_wsgi_app

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
        parts: Iterable[bytes] = []
        status, headers = "500 Internal Server Error", Headers()
        try:
            if "wsgi.input_terminated" in environ:
                body = environ["wsgi.input"].read()
            else:
                body = self.rfile.read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = io.BytesIO(body)
            parts, status, headers = run_wsgi_app(self.server.app, environ, buffered=True)
        except ConnectionError:
            self.close_connection = True
            return
        except Exception:
            traceback.print_exc()
            self.close_connection = True
        content = b"".join(parts)
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


class RunningSandbox(ThreadedWSGIServer):
    """A sandbox that answers at `url` until `stop()`, as a context manager until its end."""

    request_queue_size = 512

    def __init__(self, host: str, port: int, world: World) -> None:
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()
        super().__init__(host, port, create_app(world), _Handler)
        self._world = world
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.server_port}"
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.05,), name="sandbox", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stops answering, ends all connections, also those in the middle of an answer, and gives
        the port back. May be repeated."""
        self._world.stopping.set()
        self.shutdown()
        with self._connections_lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)

    def wait(self) -> None:
        """Blocks while the sandbox runs."""
        self._thread.join()

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def server_bind(self) -> None:
        """Binds without looking up the host's name, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Notes the connection, so that stopping can end it."""
        with self._connections_lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection; one that is to be reset gets no FIN before its RST."""
        with self._connections_lock:
            self._connections.discard(request)
        with contextlib.suppress(OSError):
            option = request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.size)
            # "On" is 1 on Linux and another non-zero number on macOS.
            lingers, seconds = _LINGER.unpack(option)
            if lingers and seconds == 0:
                request.close()
                return
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no news."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


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
    settings = Settings(quota=quota, latency_seconds=latency)
    return RunningSandbox(host, port, World(settings=settings, down_from_start=tuple(down)))
