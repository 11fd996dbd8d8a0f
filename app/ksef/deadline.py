"""HTTP connections with a deadline for the whole exchange, however slowly the other side sends.

A socket's own timeout starts again with every byte. Here every wait (for the name, the connection,
TLS, sending the request, the headers, the body) is cut to what is left of the exchange.

And an answer that the other side cut off is an error wherever that shows: the library takes the end
of the connection for the end of the headers, or of a body without a length.
"""

import functools
import http.client
import io
import ipaddress
import queue
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import certifi
import requests.adapters
import urllib3.connection
import urllib3.exceptions
from urllib3.util.ssl_ import create_urllib3_context

from app import clock


@dataclass(slots=True)
class Exchange:
    """One request with its answer.

    `until`: its deadline, on `clock.monotonic()`; `connect`: seconds for connecting; `strict`:
    see `exchange`; `answered`: whether an answer has begun, and did not end within its headers.
    """

    until: float
    connect: float
    strict: bool = True
    answered: bool = False


_local = threading.local()
_LONGEST_LINE = 2**16
_MOST_LINES = 100


@contextmanager
def exchange(seconds: float, *, connect: float, strict: bool = True) -> Iterator[Exchange]:
    """Give what this thread sends and receives in the block so many seconds in all.

    Connecting, with TLS and a proxy, may take `connect` of them. After that every wait raises
    TimeoutError (or the timeout errors of urllib3 and requests, if it happens inside them). A
    `strict` one takes a successful answer that does not say where its body ends for broken.
    """
    current = Exchange(clock.monotonic() + seconds, connect, strict)
    _local.exchange = current
    try:
        yield current
    finally:
        _local.exchange = None


class Adapter(requests.adapters.HTTPAdapter):
    """A requests adapter with such connections. Trusts the CAs in `ca_bundle`, else certifi's."""

    def __init__(self, *, threads: int, ca_bundle: str | None) -> None:
        self._context = _context(ca_bundle or certifi.where())
        super().__init__(pool_maxsize=threads, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(
            proxy, ssl_context=self._context, proxy_ssl_context=self._context, **kwargs
        )
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the SSL context has loaded the trusted CAs already."""


@functools.cache
def _context(ca_bundle: str) -> ssl.SSLContext:
    """One for all adapters: reading the CAs takes longer than all else at the start."""
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    context.sslsocket_class = _TlsSocket
    context.load_verify_locations(ca_bundle)
    return context


class _Socket(socket.socket):
    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        _limit_wait(self)
        return super().recv_into(*args, **kwargs)

    def recv(self, *args: Any, **kwargs: Any) -> bytes:
        _limit_wait(self)
        return super().recv(*args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        _limit_wait(self)
        return super().send(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        _limit_wait(self)
        super().sendall(*args, **kwargs)


class _TlsSocket(ssl.SSLSocket):
    # Each call of OpenSSL keeps to the socket's timeout as a whole, not for each packet.

    def do_handshake(self, block: bool = False) -> None:
        _limit_wait(self)
        super().do_handshake(block)

    def read(self, *args: Any, **kwargs: Any) -> Any:
        _limit_wait(self)
        return super().read(*args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        _limit_wait(self)
        return super().send(*args, **kwargs)


def _limit_wait(sock: socket.socket) -> None:
    """Set the socket's timeout to what is left of this thread's exchange."""
    current: Exchange | None = getattr(_local, "exchange", None)
    if current is None:
        return
    left = current.until - clock.monotonic()
    if left <= 0:
        raise TimeoutError("the exchange is over")
    sock.settimeout(left)


class _Response(http.client.HTTPResponse):
    def begin(self) -> None:
        """Read the headers. An error unless they end with an empty line and, of a successful
        answer, say where its body ends (as KSeF's always do)."""
        current: Exchange = _local.exchange
        source = self.fp
        head: list[bytes] = []
        while not head or head[-1] not in (b"\r\n", b"\n"):
            head.append(source.readline(_LONGEST_LINE))
            current.answered = head[-1].endswith(b"\n")
            if not current.answered or len(head) > _MOST_LINES:
                raise http.client.RemoteDisconnected("the headers have no end")
        self.fp = io.BufferedReader(io.BytesIO(b"".join(head)))
        try:
            super().begin()
        finally:
            self.fp = source
        if current.strict and self.length is None and not self.chunked and self.status < 300:
            raise http.client.IncompleteRead(b"")


class _Connecting:
    """What HTTP and HTTPS connections have in common: connecting within the exchange's time."""

    response_class: Any = _Response

    def connect(self) -> None:
        current: Exchange = _local.exchange
        until = current.until
        current.until = min(until, clock.monotonic() + current.connect)
        try:
            super().connect()  # type: ignore[misc]
        finally:
            current.until = until

    def _new_conn(self) -> socket.socket:
        this = cast(urllib3.connection.HTTPConnection, self)
        try:
            return _connected(this._dns_host, this.port, this.socket_options)
        except (socket.gaierror, UnicodeError) as error:
            # urllib3 wants a gaierror, but an invalid name gives a UnicodeError.
            failure = socket.gaierror(socket.EAI_NONAME, str(error))
            raise urllib3.exceptions.NameResolutionError(this.host, this, failure) from error
        except TimeoutError as error:
            raise urllib3.exceptions.ConnectTimeoutError(this, "no connection in time") from error
        except OSError as error:
            raise urllib3.exceptions.NewConnectionError(this, "no connection") from error


class _HttpConnection(_Connecting, urllib3.connection.HTTPConnection):
    pass


class _HttpsConnection(_Connecting, urllib3.connection.HTTPSConnection):
    pass


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls: Any = _HttpConnection


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls: Any = _HttpsConnection


_POOLS = {"http": _HttpPool, "https": _HttpsPool}


def _connected(host: str, port: int, options: Any) -> socket.socket:
    """A connection to the first address that accepts; each gets an equal share of the time left."""
    until: float = _local.exchange.until
    addresses = _addresses(host, port, until - clock.monotonic())
    failure: OSError = socket.gaierror(socket.EAI_NONAME, "no address")
    for position, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = _Socket(family, kind, protocol)
        try:
            for option in options or ():
                sock.setsockopt(*option)
            share = (until - clock.monotonic()) / (len(addresses) - position)
            sock.settimeout(max(share, 0.001))
            sock.connect(address)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure


def _addresses(host: str, port: int, seconds: float) -> list[Any]:
    """What `getaddrinfo` finds, within so many seconds; it has no timeout, so it gets a thread."""
    if _is_address(host):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:
            found.put(error)

    threading.Thread(target=look_up, name="name look-up", daemon=True).start()
    try:
        answer = found.get(timeout=max(seconds, 0.001))
    except queue.Empty:
        raise TimeoutError("the name was not resolved in time") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
