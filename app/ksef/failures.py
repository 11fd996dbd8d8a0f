"""What went wrong with a call to KSeF: answers and exceptions of HTTP as our errors.

KSeF has three formats of errors, the firewall in front of it two more.
"""

import email.utils
import http.client
import random
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
import requests
import urllib3

from app import clock, errors
from app.errors import KsefHealth
from app.ksef.wire import BOM, UNREADABLE, Status

K = TypeVar("K", dict[str, Any], list[Any])

DEFAULT_RETRY_AFTER = 60  # seconds, if a 429 does not say how long to wait
# KSeF's codes.
SESSION_NOT_FOUND = 21173
UPO_NOT_FOUND = 21178
VALIDATION_FAILED = 21405
BAD_CONTINUATION_TOKEN = 21418
UNKNOWN_PUBLIC_KEY = 21470
BAD_CERTIFICATE = 21115
WRONG_SUBJECT = 21117

_LONGEST_RETRY_AFTER = 2**31 - 1  # 68 years: longer ones are cut, to fit an integer of SQL
_ACCEPTED = frozenset({200, 201, 202, 204})
_TEMPORARY = frozenset({502, 503, 504})
_MOST_DETAILS = 20
BLANK = BOM + b" \t\r\n"
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
# The reasons for which no other CA would make OpenSSL trust a certificate: it is not valid yet,
# or any more; the name or the address is another one.
_WHATEVER_THE_CA = frozenset({9, 10, 62, 64})
_OUR_OWN_TROUBLE = (ssl.SSLError, requests.exceptions.SSLError, requests.exceptions.ProxyError)


class KsefTokenRejected(errors.KsefError):
    """KSeF does not accept the access token: it has expired or was revoked."""


class NoAnswer(errors.KsefUnreachable):
    """The connection failed, or broke off before its answer, or ended within the headers."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with its whole body; names of `headers` are case-insensitive."""

    status: int
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Retry:
    """When a failed call that changes nothing is sent once more.

    After a random pause of `least` to `most` seconds, if the request then has more than `left`
    seconds left.
    """

    left: float
    least: float
    most: float

    def pause_after(self, failure: errors.KsefFailure) -> float | None:
        """Seconds to wait before the call is sent once more; None where that would not help.

        Only where the failure looks temporary: never after a timeout, a 429 or another refusal.
        """
        status = failure.ksef.http_status if failure.ksef else None
        if not isinstance(failure, NoAnswer) and status not in _TEMPORARY:
            return None
        pause = random.uniform(self.least, self.most)  # noqa: S311 - spreads callers, no secret
        return pause if clock.time_left() - pause > self.left else None


def code_of(error: errors.ProxyError) -> int | None:
    """KSeF's own code for a refusal, if it gave one."""
    return error.ksef.code if error.ksef else None


def of_status(status: Status) -> errors.KsefAnswer:
    """What KSeF said in the status of a login that failed."""
    return errors.KsefAnswer(
        http_status=200,
        code=status.code,
        description=_short(status.description),
        details=_details(status.details),
    )


def of_answer(answer: Answer) -> errors.KsefFailure | None:
    """The error that an answer is, with what it tells about KSeF's health; None if it is none."""
    status = answer.status
    accepted = status in _ACCEPTED
    if accepted and answer.body.startswith((b"{", b"[")):  # JSON: nearly always
        return None
    html = _is_html(answer)
    if accepted and not html:
        return None
    said = _what_ksef_said(answer)
    if status == 429:
        wait = _retry_after(answer.headers)
        return errors.KsefRateLimited(
            "KSeF's quota for this company is used up.", retry_after=wait, ksef=said
        )
    if status == 401 or (status == 403 and not answer.body.strip()):
        return KsefTokenRejected(
            "KSeF does not accept the company's session.", ksef=said
        ).with_health(KsefHealth.ANSWERING)
    if status < 500 and _is_from_firewall(answer, html):
        return errors.KsefError(
            f"The firewall in front of KSeF blocked the call (HTTP {status}).", ksef=said
        ).with_health(KsefHealth.BLOCKED)
    if accepted:
        return errors.KsefInvalidResponse("KSeF sent a web page instead of an answer.").with_health(
            KsefHealth.DOWN
        )
    if status >= 500:
        return errors.KsefError(f"KSeF failed with HTTP {status}.", ksef=said).with_health(
            KsefHealth.DOWN
        )
    reason = said.description or said.reason
    words = f": {reason.rstrip('.')}" if reason else ""
    if said.rights:
        words += f" (any of {', '.join(said.rights)})"
    refused = errors.KsefError(f"KSeF refused with HTTP {status}{words}.", ksef=said)
    if html:
        return refused.with_health(KsefHealth.DOWN)
    return refused.with_health(KsefHealth.ANSWERING) if status >= 400 else refused


def of_exchange(error: Exception, *, answered: bool, hurried: bool) -> errors.KsefUnreachable:
    """The error for an exchange that broke off.

    `answered`: see `deadline.Exchange`; `hurried`: the request had less time left than a call may
    take.
    """
    health, reason = _health_after(error, hurried=hurried), why(error)
    if isinstance(error, _OUT_OF_TIME):
        return errors.KsefUnreachable("KSeF did not answer in time.").with_health(health)
    if isinstance(error, requests.exceptions.SSLError):
        return errors.KsefUnreachable("No secure connection to KSeF could be made.", reason=reason)
    if answered or health is KsefHealth.UNKNOWN:
        return errors.KsefUnreachable(
            "KSeF could not be reached, or broke off its answer.", reason=reason
        ).with_health(health)
    return NoAnswer(
        "KSeF could not be reached, or broke off before its answer.", reason=reason
    ).with_health(health)


def why(error: Exception) -> str | None:
    """Why an exchange broke off, for operators, in the words of OpenSSL or of the system.

    None where neither said anything.
    """
    told = None
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLError) and hasattr(cause, "verify_message"):
            told = f"TLS: {cause.verify_message}"
            if getattr(cause, "verify_code", None) not in _WHATEVER_THE_CA:
                told += " (the CAs in KSEF_CA_BUNDLE, by default certifi's, are trusted)"
            break
        if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException):
            told = cause.strerror or str(cause)
    by_proxy = any(isinstance(cause, requests.exceptions.ProxyError) for cause in causes)
    return f"KSEF_PROXY_URL: {told}" if by_proxy else told


def _health_after(error: Exception, *, hurried: bool) -> KsefHealth:
    """Whether a failed exchange looks like an outage of KSeF.

    A connection attempt that times out, a name that cannot be resolved, an untrusted certificate or
    a failing proxy tells nothing about KSeF: all of these also happen when our own network fails.
    Nor does a timeout of a `hurried` call.
    """
    causes = list(_causes(error))
    if hurried and any(isinstance(cause, _OUT_OF_TIME) for cause in causes):
        return KsefHealth.UNKNOWN
    if any(isinstance(cause, _OUR_OWN_TROUBLE) for cause in causes):
        return KsefHealth.UNKNOWN
    # A plain timeout is our deadline for the whole call; one while connecting comes wrapped.
    down = type(error) in (requests.Timeout, TimeoutError) or any(
        isinstance(cause, _SIGNS_OF_AN_OUTAGE) for cause in causes
    )
    return KsefHealth.DOWN if down else KsefHealth.UNKNOWN


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
    start = answer.body[:256].lstrip(BLANK)
    if not start.startswith(b"<") or start.startswith(b"<?xml"):
        return False
    kind = answer.headers.get("Content-Type", "").lower()
    return start.lower().startswith(_HTML) or kind.startswith("text/html")


def _is_from_firewall(answer: Answer, html: bool) -> bool:
    """Whether the firewall in front of KSeF blocked the call, with its own HTML page or JSON.

    Not asked about a 5xx: then it is KSeF that cannot be reached, whoever made the page.
    """
    if html:
        return answer.status == 403 or any(mark in answer.body for mark in _FIREWALL_MARKS)
    body = _object(answer)
    return (
        answer.status == 403
        and "incidentId" in _member(body, "security", dict)
        and "reasonCode" not in body
    )


def _object(answer: Answer) -> dict[str, Any]:
    """The answer's JSON; empty if it is none, or not an object."""
    try:
        return msgspec.json.decode(answer.body.removeprefix(BOM), type=dict[str, Any])
    except UNREADABLE:
        return {}


def _member(body: Any, name: str, kind: type[K]) -> K:
    """A member of an object, empty if it is not there or of another kind."""
    value = body.get(name) if isinstance(body, dict) else None
    return value if isinstance(value, kind) else kind()


def _what_ksef_said(answer: Answer) -> errors.KsefAnswer:
    """KSeF's code and words, from any of its error formats; only the status if it sent no JSON."""
    body = _object(answer)
    found = (
        _member(body, "errors", list)
        or _member(_member(body, "exception", dict), "exceptionDetailList", list)
        or [body.get("status")]  # of a 429
    )
    told = [one for one in found if isinstance(one, dict)]
    first = told[0] if told else {}
    code = first.get("code", first.get("exceptionCode"))
    description = first.get("description") or first.get("exceptionDescription")
    details = [text for one in told for text in _member(one, "details", list)] or _member(
        _member(body, "security", dict), "requiredAnyOfPermissions", list
    )
    return errors.KsefAnswer(
        http_status=answer.status,
        code=code if type(code) is int and abs(code) < 2**31 else None,
        description=_short(description or body.get("detail") or body.get("title")),
        details=_details(details),
        reason=_short(body.get("reasonCode")),
        trace_id=_short(body.get("traceId")),
    )


def _details(texts: Sequence[Any]) -> Sequence[str]:
    """The first of the texts, each cut, 16 KiB at most: the last entry says what is left out."""
    return Status(0, details=tuple(filter(None, map(_short, texts[:_MOST_DETAILS])))).details


def _short(value: Any) -> str | None:
    """The beginning of a text in one line, without control characters; None where there is none."""
    if not isinstance(value, str):
        return None
    text = value[:500].replace("\0", "")
    return "".join(char if char.isprintable() else " " for char in text).strip() or None


def _retry_after(headers: Mapping[str, str]) -> int:
    """Seconds to wait, at least 1, from the header: a number, or a date by KSeF's clock."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return _LONGEST_RETRY_AFTER if len(text) > 10 else _bounded(int(text))
    moment = http_date(text)
    if moment is None:
        return DEFAULT_RETRY_AFTER
    wait = (moment - (http_date(headers.get("Date", "")) or clock.now())).total_seconds()
    return _bounded(round(wait)) if wait > 0 else DEFAULT_RETRY_AFTER


def http_date(text: str) -> datetime | None:
    """The moment of an HTTP date, in UTC; None if it is not one."""
    try:
        moment = email.utils.parsedate_to_datetime(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _bounded(seconds: int) -> int:
    return min(max(1, seconds), _LONGEST_RETRY_AFTER)
