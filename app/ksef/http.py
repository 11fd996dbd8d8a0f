"""HTTP to KSeF: one call, sent and read within limits of time and size, its errors ours."""

import base64
import http.cookiejar
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, urlsplit

import requests
import urllib3

from app import clock, errors, meters, telemetry
from app.ksef import deadline, failures, limits
from app.ksef.failures import Answer
from app.version import VERSION

JSON_LIMIT = 8 * 2**20
LONG_LIMIT = 32 * 2**20
"""The limit in bytes of a page of a list, and of a UPO."""
_DOCUMENTS = (b"<?xml", b"<Potwierdzenie", b"%PDF-")
_NUMBERS = re.compile(r"/[^/]*[0-9A-Z][^/]*")  # not logged: they identify companies and invoices
_CHUNK = 64 * 2**10
BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


@dataclass(frozen=True, slots=True)
class Route:
    """A call of KSeF's API: method, path template, and the quota group in which it counts."""

    method: str
    template: str
    quota_group: str = limits.UNGROUPED

    def path(self, *values: str) -> str:
        """The path with these values, escaped, in place of its parameters."""
        path = self.template
        for value in values:
            before, _, after = path.partition("{")
            path = before + quote(value, safe="") + after.partition("}")[2]
        return path


@dataclass(frozen=True, slots=True)
class Document:
    """A document as KSeF sent it, byte by byte, with the SHA-256 that KSeF gave for it (if any).

    A hash that cannot be read is b"", which matches no document.
    """

    content: bytes
    sha256: bytes | None

    @classmethod
    def of(cls, answer: Answer) -> Self:
        """The document in an answer."""
        given = answer.headers.get("x-ms-meta-hash")
        try:
            sha256 = None if given is None else base64.b64decode(given, validate=True)
        except ValueError:
            sha256 = b""
        return cls(answer.body, sha256)


class TooLong(errors.KsefInvalidResponse):
    """An answer is longer than its limit."""


class Http:
    """HTTP to the KSeF of one environment. `url` is its base URL, `/v2` included. Thread-safe.

    `connect`, `call` and `download` are the longest times in seconds for connecting, for a whole
    call and for a download; they are cut to what is left of the request (`clock.time_left`).
    `threads` is how many connections are kept.
    """

    def __init__(
        self,
        environment: str,
        url: str,
        *,
        connect: float,
        call: float,
        download: float = 5.0,
        threads: int,
        proxy_url: str | None = None,
        ca_bundle: str | None = None,
    ) -> None:
        self.environment = environment
        self._url = url
        self._connect = connect
        self._call = call
        self._download = download
        self._session = session(threads, proxy_url, ca_bundle)

    def send(
        self,
        route: Route,
        *values: str,
        bearer: str | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        xml: bytes | None = None,
        limit: int = JSON_LIMIT,
    ) -> Answer:
        """Send a call, with `values` in its path, and read its answer of at most `limit` bytes.

        Raises KsefUnreachable, KsefRateLimited, KsefTokenRejected, KsefInvalidResponse (TooLong
        for a longer answer), and KsefError for every other refusal or failure, with what KSeF said
        in `ksef`.
        """
        sent = {"X-Error-Format": "problem-details", **(headers or {})}
        if bearer is not None:
            sent["Authorization"] = f"Bearer {bearer}"
        if xml is not None:
            sent["Content-Type"] = "application/xml"
        seconds = min(self._call, clock.time_left())
        if seconds <= 0:
            raise errors.KsefUnreachable("KSeF did not answer in time.")
        telemetry.ksef_called()
        path = route.path(*values)
        with meters.ksef_call(self.environment, route.quota_group):
            with deadline.exchange(seconds, connect=self._connect) as exchange:
                try:
                    with self._session.request(
                        route.method,
                        self._url + path,
                        params=params,
                        headers=sent,
                        json=json,
                        data=xml,
                        timeout=seconds,
                    ) as response:
                        body = read(response, limit, exchange.until)
                except BROKEN as error:
                    telemetry.warning(
                        "KSeF call failed",
                        environment=self.environment,
                        call=f"{route.method} {_NUMBERS.sub('/…', path)}",
                        kind=type(error).__name__,
                        reason=failures.why(error),
                    )
                    raise failures.of_exchange(
                        error, answered=exchange.answered, hurried=seconds < self._call
                    ) from None
            if warning := response.headers.get("X-System-Warning"):
                telemetry.warning("KSeF warns", environment=self.environment, text=warning[:500])
            answer = Answer(response.status_code, body, response.headers)
            if failure := failures.of_answer(answer):
                raise failure
            return answer

    def download(self, url: str) -> Answer | None:
        """Fetch a UPO by its download link; None if that fails, or the link does not lead to KSeF.

        The firewall sends its HTML pages as a 200, so only XML or PDF is taken for a document.
        """
        if not self._is_ours(url):
            telemetry.warning("a download link leads elsewhere", environment=self.environment)
            return None
        telemetry.ksef_called()
        began = clock.monotonic()
        answer = self._downloaded(url)
        meters.downloaded(self.environment, answer is not None, clock.monotonic() - began)
        return answer

    def _downloaded(self, url: str) -> Answer | None:
        seconds = min(self._download, clock.time_left())
        try:
            with (
                deadline.exchange(seconds, connect=self._connect) as exchange,
                self._session.get(url, timeout=max(seconds, 0.001)) as response,
            ):
                body = read(response, LONG_LIMIT, exchange.until)
        except (*BROKEN, TooLong) as error:
            kind, reason = type(error).__name__, failures.why(error)
            telemetry.info("download link failed", kind=kind, reason=reason)
            return None
        if response.status_code != 200 or not body.lstrip(failures.BLANK).startswith(_DOCUMENTS):
            telemetry.info("download link failed", status=response.status_code)
            return None
        return Answer(response.status_code, body, response.headers)

    def _is_ours(self, url: str) -> bool:
        """Whether a link has the scheme, host and port of this KSeF, and no user name in it."""
        try:
            link, base = urlsplit(url), urlsplit(self._url)
            return (
                (link.scheme, link.hostname, link.port) == (base.scheme, base.hostname, base.port)
                and "@" not in link.netloc
                and url.isprintable()
            )
        except ValueError:
            return False


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002
        """None: nothing is redirected, and requests fails where the target is no URL."""
        return None


def session(threads: int, proxy_url: str | None, ca_bundle: str | None) -> requests.Session:
    """HTTP as the settings say, and nothing else of the environment. Thread-safe."""
    made = _Session()
    made.stream = True  # the caller reads the body
    made.trust_env = False  # no HTTPS_PROXY, .netrc, CA bundle
    made.headers["User-Agent"] = f"ksef-proxy/{VERSION}"
    # The firewall in front of KSeF sets cookies, which must not be shared between companies.
    made.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    if proxy_url:
        made.proxies = {"http": proxy_url, "https": proxy_url}
    adapter = deadline.Adapter(threads=threads, ca_bundle=ca_bundle)
    made.mount("https://", adapter)
    made.mount("http://", adapter)
    return made


def read(response: requests.Response, limit: int, until: float) -> bytes:
    """The whole body, unpacked. Raises TooLong beyond `limit` bytes, Timeout after `until`."""
    body = bytearray()
    # read1 returns what has arrived so far, so that the deadline is also checked while an answer
    # trickles in.
    while chunk := response.raw.read1(_CHUNK, decode_content=True):
        body += chunk
        if len(body) > limit:
            raise TooLong("KSeF's answer is too long.")
        if clock.monotonic() > until:
            raise requests.Timeout
    return bytes(body)
