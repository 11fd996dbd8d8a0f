"""Connections that end at a moment of the clock, however slowly the other side feeds them.

A socket's own timeout begins anew with every byte. Here every wait, for the name, the connection,
TLS, the request sent, headers and body, is cut to what is left of the exchange.
"""

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
    """One request and its answer: `until` is when it ends, on `clock.monotonic()`.

    `answered`: a first byte of the answer has come.
    """

    until: float
    connect: float
    answered: bool = False


_local = threading.local()


@contextmanager
def exchange(seconds: float, *, connect: float) -> Iterator[Exchange]:
    """Let what this thread sends and receives inside end after so many seconds.

    `connect` is the part of them in which the connection must stand, TLS and a proxy included.
    Every wait beyond raises TimeoutError (urllib3's and requests' own, where those are between).
    """
    current = Exchange(clock.monotonic() + seconds, connect)
    _local.exchange = current
    try:
        yield current
    finally:
        _local.exchange = None


class Adapter(requests.adapters.HTTPAdapter):
    """requests over such connections. Trusts the CAs of a file, or else those of certifi."""

    def __init__(self, *, threads: int, ca_bundle: str | None) -> None:
        self._context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
        self._context.sslsocket_class = _TlsSocket
        self._context.load_verify_locations(ca_bundle or certifi.where())
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
        """Nothing: the context knows whom to trust, and reads its file once only."""


class _Socket(socket.socket):
    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        _cut(self)
        return _counted(super().recv_into(*args, **kwargs))

    def recv(self, *args: Any, **kwargs: Any) -> bytes:
        _cut(self)
        data = super().recv(*args, **kwargs)
        _counted(len(data))
        return data

    def send(self, *args: Any, **kwargs: Any) -> int:
        _cut(self)
        return super().send(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        _cut(self)
        super().sendall(*args, **kwargs)


class _TlsSocket(ssl.SSLSocket):
    # OpenSSL's calls keep to the socket's timeout as a whole, not for each of their packets.

    def do_handshake(self, block: bool = False) -> None:
        _cut(self)
        super().do_handshake(block)

    def read(self, *args: Any, **kwargs: Any) -> Any:
        _cut(self)
        data: Any = super().read(*args, **kwargs)
        _counted(data if isinstance(data, int) else len(data))
        return data

    def send(self, *args: Any, **kwargs: Any) -> int:
        _cut(self)
        return super().send(*args, **kwargs)


def _cut(sock: socket.socket) -> None:
    current: Exchange | None = getattr(_local, "exchange", None)
    if current is None:
        return
    left = current.until - clock.monotonic()
    if left <= 0:
        raise TimeoutError("the exchange is over")
    sock.settimeout(left)


def _counted(received: int) -> int:
    current: Exchange | None = getattr(_local, "exchange", None)
    if current is not None and received:
        current.answered = True
    return received


class _Connecting:
    """What both kinds of connections do alike."""

    def connect(self) -> None:
        current: Exchange = _local.exchange
        until = current.until
        current.until = min(until, clock.monotonic() + current.connect)
        try:
            super().connect()  # type: ignore[misc]
        finally:
            current.until = until
        current.answered = False  # what a proxy said is no answer yet

    def _new_conn(self) -> socket.socket:
        this = cast(urllib3.connection.HTTPConnection, self)
        try:
            return _connected(this._dns_host, this.port, this.socket_options)
        except (socket.gaierror, UnicodeError) as error:
            # urllib3 wants a gaierror, which a name that cannot be one does not give.
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
    """A connection to the first address that answers; a silent one leaves time for the others."""
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
    """What `getaddrinfo` finds. It knows no timeout, so that it is waited for from beside."""
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
