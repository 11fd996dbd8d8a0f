"""What `check` asks of the proxy in front of the service, as a caller would."""

import http.client
import ipaddress
import secrets
import socket
import ssl
from base64 import b64encode
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

import msgspec

from app.api.client_address import client_address
from app.parsers import http_url, is_loopback
from app.service import Service
from app.services.operators import throttle

CLAIMED = "192.0.2.1"  # of a network that is for documentation: nobody's address
_SECONDS = 10.0
_MOST = 10_000  # bytes of an answer that are read
_BROKEN = (OSError, http.client.HTTPException)


class WrongError(Exception):
    """Something is wrong with the front; the text says what, without a secret."""


class Said(NamedTuple):
    """An answer that came through the front.

    `own`: the address from which it was asked; `end`: when the front's certificate expires, None
    without TLS.
    """

    status: int
    body: bytes
    own: str
    end: datetime | None


class Front:
    """The proxy in front of the service at `url`. Trusts the system's CAs."""

    def __init__(self, url: str, works: Service) -> None:
        self._url = url
        self._works = works

    def ready(self) -> datetime | None:
        """When the front's certificate expires; None for http, which is for this machine only.

        Raises WrongError where it does not lead to a service that is ready.
        """
        try:
            http_url(self._url)
        except ValueError as error:
            raise WrongError(f"--url {error}") from None
        if not self._url.startswith("https:") and not is_loopback(self._url):
            raise WrongError("--url is http: passwords would cross the network in clear")
        said = self._ask("/readyz")
        try:
            body = msgspec.json.decode(said.body, type=dict[str, object])
        except (msgspec.DecodeError, UnicodeDecodeError):
            body = {}
        if said.status != 200 or body.get("status") != "ok":
            told = str(body.get("detail", "not by this service"))[:500]
            raise WrongError(f"/readyz is answered with HTTP {said.status}: {told}")
        return said.end

    def address(self) -> str:
        """The address for which the service takes this caller: its own, and not one it claims.

        The service counts a failed login by it. Raises WrongError if it is another one.
        """
        email = f"check-{secrets.token_hex(8)}@ksef-proxy.invalid"
        basic = b64encode(f"{email}:{secrets.token_hex(8)}".encode()).decode()
        said = self._ask(
            "/auth/test", {"Authorization": f"Basic {basic}", "X-Forwarded-For": CLAIMED}
        )
        db, proxies = self._works.db, self._works.settings.forwarded_allow_ips
        own = client_address(said.own, "", ())
        if not throttle.is_counted(db, email):
            raise WrongError(
                f"the failed login of this check (HTTP {said.status}) is not in this database: "
                "another service answers"
            )
        if throttle.is_counted(db, email, CLAIMED):
            raise WrongError(
                "X-Forwarded-For is passed on as a caller sends it, so callers choose their "
                "address: the front must set it (deploy/nginx), or FORWARDED_ALLOW_IPS is too wide"
            )
        alone = [str(one.network_address) for one in proxies if one.num_addresses == 1]
        for proxy in {client_address(address, "", ()) for address in alone} - {own}:
            if throttle.is_counted(db, email, proxy):
                raise WrongError(
                    f"the front sends no X-Forwarded-For: all callers seem to come from {proxy}"
                )
        if not throttle.is_counted(db, email, own):
            raise WrongError(
                f"the service takes {own} for another address: FORWARDED_ALLOW_IPS does not name "
                "the front, or something between translates addresses"
            )
        return own

    def _ask(self, path: str, headers: Mapping[str, str] = MappingProxyType({})) -> Said:
        parts = urlsplit(self._url)
        host = parts.hostname or ""
        try:
            with closing(self._connection(parts)) as connection:
                connection.connect()
                own, end = connection.sock.getsockname()[0], _end(connection.sock)
                connection.request("GET", parts.path.rstrip("/") + path, headers=headers)
                answer = connection.getresponse()
                return Said(answer.status, answer.read(_MOST), own, end)
        except ssl.SSLCertVerificationError as error:
            raise WrongError(
                f"{host}: TLS: {error.verify_message} (the system's CAs are trusted)"
            ) from None
        except _BROKEN as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise WrongError(f"{host}: {why}") from None

    def _connection(self, parts: SplitResult) -> http.client.HTTPConnection:
        host = parts.hostname or ""
        how: dict[str, Any] = {"timeout": _SECONDS, "source_address": _source(host)}
        if parts.scheme == "https":
            how["context"] = ssl.create_default_context()
            return http.client.HTTPSConnection(host, parts.port, **how)
        return http.client.HTTPConnection(host, parts.port, **how)


def _source(host: str) -> tuple[str, int] | None:
    """From where to ask: on this machine not from 127.0.0.1, which is the front's address too."""
    try:
        found = ipaddress.ip_address(socket.gethostbyname(host))
    except OSError:
        return None
    return ("127.0.0.2", 0) if found.is_loopback else None


def _end(sock: socket.socket) -> datetime | None:
    if not isinstance(sock, ssl.SSLSocket):
        return None
    seconds = ssl.cert_time_to_seconds(str((sock.getpeercert() or {})["notAfter"]))
    return datetime.fromtimestamp(seconds, UTC)
