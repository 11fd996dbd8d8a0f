"""One HTTP call to KSeF: sent, read within limits of time and size, failures made our errors."""

import email.utils
import http.client
import http.cookiejar
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import orjson
import requests
import urllib3

from app import clock, errors, meters, telemetry
from app.ksef import wall_clock
from app.ksef.retry import NoAnswer, Retry
from app.version import VERSION

USER_AGENT = f"ksef-proxy/{VERSION}"
JSON_LIMIT = 8 * 2**20
UPO_LIMIT = 32 * 2**20
DEFAULT_RETRY_AFTER = 60  # seconds, if a 429 does not say how long to wait
_BLANK = b"\xef\xbb\xbf \t\r\n"
_DOCUMENTS = (b"<?xml", b"<Potwierdzenie", b"%PDF-")
_LONGEST_RETRY_AFTER = 2**31 - 1  # 68 years: longer ones are cut, to fit an integer of SQL
_NUMBERS = re.compile(r"/[^/]*[0-9A-Z][^/]*")  # not logged: they identify companies and invoices
_CHUNK = 64 * 2**10
_ACCEPTED = frozenset({200, 201, 202, 204})
_HTML = (b"<!doctype html", b"<html")
_FIREWALL_MARKS = (b"Incident ID", b"_Incapsula_")
# Failures that a KSeF that is down causes, and a broken network of ours usually does not.
_SIGNS_OF_AN_OUTAGE = (
    ConnectionRefusedError,
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
    urllib3.exceptions.ReadTimeoutError,
    http.client.IncompleteRead,  # urllib3's own is a subclass
    requests.ReadTimeout,
)
_OUT_OF_TIME = (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)
_OUR_OWN_TROUBLE = (ssl.SSLError, requests.exceptions.SSLError, requests.exceptions.ProxyError)


class KsefTokenRejected(errors.KsefError):
    """KSeF does not accept the access token: it has expired or was revoked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer with its whole body; names of `headers` are case-insensitive."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    def json(self) -> Any:
        """The body as JSON; KsefInvalidResponse if it is not JSON."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            raise errors.KsefInvalidResponse("KSeF's answer is not JSON.") from None


class Transport:
    """HTTP to the KSeF of one environment. `url` is its base URL, `/v2` included. Thread-safe.

    `connect`, `call` and `download` are the longest times in seconds for connecting, for a whole
    call and for a download; they are cut to what is left of the request (`clock.time_left`).
    `threads` is how many connections are kept. `retry` is not used here: callers decide with it
    whether to send a call that changes nothing once more.
    """

    def __init__(
        self,
        environment: str,
        url: str,
        *,
        connect: float,
        call: float,
        download: float = 5.0,
        retry: Retry = Retry(),  # noqa: B008 - frozen
        threads: int,
        proxy_url: str | None = None,
        ca_bundle: str | None = None,
    ) -> None:
        self.environment = environment
        self._url = url
        self._connect = connect
        self._call = call
        self._download = download
        self.retry = retry
        self._session = _http_session(threads, proxy_url, ca_bundle)

    def send(
        self,
        method: str,
        path: str,
        *,
        group: str | None = None,
        bearer: str | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        xml: bytes | None = None,
        limit: int = JSON_LIMIT,
    ) -> Answer:
        """Send one call and read its answer; one longer than `limit` bytes is an error.

        Raises KsefUnreachable, KsefRateLimited, KsefTokenRejected, KsefInvalidResponse, and
        KsefError for every other refusal or failure, with what KSeF said in `ksef`.
        `group` is the quota that the call costs; it is used for the metrics only.
        """
        sent_headers = {"X-Error-Format": "problem-details", **(headers or {})}
        if bearer is not None:
            sent_headers["Authorization"] = f"Bearer {bearer}"
        if xml is not None:
            sent_headers["Content-Type"] = "application/xml"
        seconds = min(self._call, clock.time_left())
        if seconds <= 0:
            raise errors.KsefUnreachable("KSeF did not answer in time.")
        telemetry.ksef_called()
        with meters.ksef_call(self.environment, group):
            with wall_clock.exchange(seconds, connect=self._connect) as exchange:
                try:
                    with self._session.request(
                        method,
                        self._url + path,
                        params=params,
                        headers=sent_headers,
                        json=json,
                        data=xml,
                        timeout=seconds,
                        allow_redirects=False,
                        stream=True,
                    ) as response:
                        body = _read(response, limit, exchange.until)
                except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                    health = _health_after(error, hurried=seconds < self._call)
                    raise self._unreachable(
                        method, path, error, health, exchange.answered
                    ) from None
            answer = Answer(response.status_code, body, response.headers)
            if warning := response.headers.get("X-System-Warning"):
                telemetry.warning("KSeF warns", environment=self.environment, text=warning[:500])
            if answer.status not in _ACCEPTED:
                raise _refusal(answer)
            if _is_html(answer):
                raise _unexpected_html(answer)
            return answer

    def download(self, url: str, *, limit: int) -> Answer | None:
        """Fetch a UPO by its download link; None if that fails, or the link does not lead to KSeF.

        The firewall sends its HTML pages as a 200, so only XML or PDF is taken for a document.
        """
        if not self._is_ours(url):
            telemetry.warning("a download link leads elsewhere", environment=self.environment)
            return None
        telemetry.ksef_called()
        began = clock.monotonic()
        answer = self._downloaded(url, limit)
        meters.downloaded(self.environment, answer is not None, clock.monotonic() - began)
        return answer

    def _downloaded(self, url: str, limit: int) -> Answer | None:
        seconds = min(self._download, clock.time_left())
        try:
            with (
                wall_clock.exchange(seconds, connect=self._connect) as exchange,
                self._session.get(
                    url, timeout=max(seconds, 0.001), allow_redirects=False, stream=True
                ) as response,
            ):
                body = _read(response, limit, exchange.until)
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            errors.KsefInvalidResponse,
            OSError,
        ) as error:
            telemetry.info("download link failed", kind=type(error).__name__)
            return None
        if response.status_code != 200 or not body.lstrip(_BLANK).startswith(_DOCUMENTS):
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

    def _unreachable(
        self, method: str, path: str, error: Exception, health: errors.KsefHealth, answered: bool
    ) -> errors.KsefUnreachable:
        telemetry.warning(
            "KSeF call failed",
            environment=self.environment,
            call=f"{method} {_NUMBERS.sub('/…', path)}",
            kind=type(error).__name__,
        )
        if isinstance(error, _OUT_OF_TIME):
            return errors.KsefUnreachable("KSeF did not answer in time.").with_health(health)
        if isinstance(error, requests.exceptions.SSLError):
            return errors.KsefUnreachable("No secure connection to KSeF could be made.")
        if answered or health is errors.KsefHealth.UNKNOWN:
            return errors.KsefUnreachable(
                "KSeF could not be reached, or broke off its answer."
            ).with_health(health)
        return NoAnswer("KSeF could not be reached, or broke off before its answer.").with_health(
            health
        )


def _http_session(threads: int, proxy_url: str | None, ca_bundle: str | None) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # use our own settings only: no HTTPS_PROXY, .netrc, CA bundle
    session.headers["User-Agent"] = USER_AGENT
    # The firewall in front of KSeF sets cookies, which must not be shared between companies.
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    if proxy_url:
        session.proxies = {"http": proxy_url, "https": proxy_url}
    adapter = wall_clock.Adapter(threads=threads, ca_bundle=ca_bundle)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _read(response: requests.Response, limit: int, deadline: float) -> bytes:
    body = bytearray()
    # read1 returns what has arrived so far, so that the deadline is also checked while an answer
    # trickles in.
    while chunk := response.raw.read1(_CHUNK, decode_content=True):
        body += chunk
        if len(body) > limit:
            raise errors.KsefInvalidResponse("KSeF's answer is too long.")
        if clock.monotonic() > deadline:
            raise requests.Timeout
    return bytes(body)


def _health_after(error: Exception, *, hurried: bool) -> errors.KsefHealth:
    """Whether a failed exchange looks like an outage of KSeF.

    A connection attempt that times out, a name that cannot be resolved, an untrusted certificate or
    a failing proxy tells nothing about KSeF: all of these also happen when our own network fails.
    Nor does a timeout of a `hurried` call, whose request had less time left than a call may take.
    """
    causes = list(_causes(error))
    if hurried and any(isinstance(cause, _OUT_OF_TIME) for cause in causes):
        return errors.KsefHealth.UNKNOWN
    if any(isinstance(cause, _OUR_OWN_TROUBLE) for cause in causes):
        return errors.KsefHealth.UNKNOWN
    # A plain timeout is our deadline for the whole call; one while connecting comes wrapped.
    down = type(error) in (requests.Timeout, TimeoutError) or any(
        isinstance(cause, _SIGNS_OF_AN_OUTAGE) for cause in causes
    )
    return errors.KsefHealth.DOWN if down else errors.KsefHealth.UNKNOWN


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it wraps: requests and urllib3 put them in `args`, `reason` or the
    cause."""
    waiting: list[Any] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            reason = getattr(one, "reason", None)
            waiting += [*one.args, reason, one.__cause__, one.__context__]


def _is_html(answer: Answer) -> bool:
    kind = answer.headers.get("Content-Type", "").lower()
    start = answer.body[:256].lstrip(_BLANK).lower()
    tagged = start.startswith(b"<") and not start.startswith(b"<?xml")
    return start.startswith(_HTML) or (kind.startswith("text/html") and tagged)


def _is_from_firewall(answer: Answer) -> bool:
    """Whether the firewall in front of KSeF blocked the call, with its own HTML page or JSON.

    A 5xx never counts, even with the firewall's page: then it is KSeF that cannot be reached.
    """
    if answer.status >= 500:
        return False
    if _is_html(answer):
        return answer.status == 403 or any(mark in answer.body for mark in _FIREWALL_MARKS)
    if answer.status != 403:
        return False
    try:
        body = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return False
    security = body.get("security") if isinstance(body, dict) else None
    return isinstance(security, dict) and "incidentId" in security and "reasonCode" not in body


def _unexpected_html(answer: Answer) -> errors.KsefFailure:
    if _is_from_firewall(answer):
        return _blocked(answer)
    return errors.KsefInvalidResponse("KSeF sent a web page instead of an answer.").with_health(
        errors.KsefHealth.DOWN
    )


def _blocked(answer: Answer) -> errors.KsefError:
    return errors.KsefError(
        f"The firewall in front of KSeF blocked the call (HTTP {answer.status}).",
        ksef=_what_ksef_said(answer),
    ).with_health(errors.KsefHealth.BLOCKED)


def _refusal(answer: Answer) -> errors.KsefFailure:
    said = _what_ksef_said(answer)
    status = answer.status
    if status == 429:
        wait = _retry_after(answer.headers)
        return errors.KsefRateLimited(
            "KSeF's quota for this company is used up.", retry_after=wait, ksef=said
        )
    if status == 401 or (status == 403 and not answer.body.strip()):
        return KsefTokenRejected(
            "KSeF does not accept the company's session.", ksef=said
        ).with_health(errors.KsefHealth.ANSWERING)
    if _is_from_firewall(answer):
        return _blocked(answer)
    if status >= 500:
        return errors.KsefError(f"KSeF failed with HTTP {status}.", ksef=said).with_health(
            errors.KsefHealth.DOWN
        )
    reason = said.description or said.reason
    words = f": {reason.rstrip('.')}" if reason else ""
    refused = errors.KsefError(f"KSeF refused with HTTP {status}{words}.", ksef=said)
    if _is_html(answer):
        return refused.with_health(errors.KsefHealth.DOWN)
    return refused.with_health(errors.KsefHealth.ANSWERING) if status >= 400 else refused


def _what_ksef_said(answer: Answer) -> errors.KsefAnswer:
    """KSeF's code and words, from any of its error formats; only the status if it sent no JSON."""
    try:
        body = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        return errors.KsefAnswer(answer.status)
    first = _first_error(body)
    code = first.get("code", first.get("exceptionCode"))
    description = first.get("description") or first.get("exceptionDescription")
    return errors.KsefAnswer(
        http_status=answer.status,
        code=code if type(code) is int else None,
        description=_short(description or body.get("detail") or body.get("title")),
        reason=_short(body.get("reasonCode")),
        trace_id=_short(body.get("traceId")),
    )


def _first_error(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first error of a problem-details body or an old `exception` body, or a 429's status."""
    exception = body.get("exception")
    found = body.get("errors") or (
        exception.get("exceptionDetailList") if isinstance(exception, dict) else None
    )
    if isinstance(found, list) and found and isinstance(found[0], dict):
        return found[0]
    status = body.get("status")
    return status if isinstance(status, dict) else {}


def _short(value: Any) -> str | None:
    """The beginning of a text, as PostgreSQL can store it; None where there is none."""
    return value[:500].replace("\0", "") or None if isinstance(value, str) else None


def _retry_after(headers: Mapping[str, str]) -> int:
    """Seconds to wait, at least 1, from the header: a number, or a date by KSeF's clock."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return _LONGEST_RETRY_AFTER if len(text) > 10 else _bounded(int(text))
    moment = _date(text)
    if moment is None:
        return DEFAULT_RETRY_AFTER
    wait = (moment - (_date(headers.get("Date", "")) or clock.now())).total_seconds()
    return _bounded(round(wait)) if wait > 0 else DEFAULT_RETRY_AFTER


def _date(text: str) -> datetime | None:
    """The moment of an HTTP date; None if it is not one."""
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _bounded(seconds: int) -> int:
    return min(max(1, seconds), _LONGEST_RETRY_AFTER)
