"""KSeF's JSON in, our dataclasses out. KSeF's camelCase ends here.

Unknown fields are ignored, as KSeF asks of its clients. A missing or wrong-typed field is a
KsefInvalidResponse that names the field. Lists of invoices are walked by hand: a schema library
needs 0.4 s for 10,000 of them.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from app.errors import KsefInvalidResponse
from app.ksef.limits import PUBLISHED, Limits

T = TypeVar("T")
Json = Mapping[str, Any]

SUCCESS = 200
DUPLICATE = 440
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MOMENT = (datetime(9999, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
_MISSING = object()
_MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Status:
    """A status of a session, an invoice or a login. Codes below 200 mean it is in progress."""

    code: int
    description: str
    details: Sequence[str] = ()

    @property
    def is_final(self) -> bool:
        return self.code >= SUCCESS


@dataclass(frozen=True, slots=True)
class Link:
    """A URL from which a UPO can be fetched without a token and without quota: a secret."""

    url: str = field(repr=False)
    valid_until: datetime


@dataclass(frozen=True, slots=True)
class UpoPage:
    """A page of a session's collective UPO."""

    reference_number: str
    link: Link | None = None


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """What became of a session. Counts that KSeF left out are 0; `counted`: it gave the total."""

    status: Status
    date_created: datetime
    date_updated: datetime
    invoice_count: int
    successful_invoice_count: int
    failed_invoice_count: int
    counted: bool
    upo_pages: Sequence[UpoPage]


@dataclass(frozen=True, slots=True)
class Original:
    """The invoice that a duplicate (440) repeats: its KSeF number and its session."""

    ksef_number: str
    session_reference_number: str


@dataclass(frozen=True, slots=True)
class SessionInvoice:
    """An invoice of a session, under KSeF's own reference number for it."""

    ordinal_number: int
    reference_number: str
    invoice_number: str | None
    ksef_number: str | None
    acquisition_date: datetime | None
    status: Status
    duplicate_of: Original | None
    upo_link: Link | None = None

    @property
    def is_accepted(self) -> bool:
        return self.status.code == SUCCESS and self.ksef_number is not None


@dataclass(frozen=True, slots=True)
class InvoicePage:
    """One page of a session's invoices. An empty page may carry a token; the last has none."""

    invoices: Sequence[SessionInvoice]
    continuation_token: str | None


@dataclass(frozen=True, slots=True)
class ListedSession:
    """A session in the list of a company's sessions, whose status has no UPO pages."""

    reference_number: str
    status: SessionStatus


@dataclass(frozen=True, slots=True)
class SessionPage:
    """One page of the company's sessions."""

    sessions: Sequence[ListedSession]
    continuation_token: str | None


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A certificate (DER) with a public key of KSeF, and what it may be used for."""

    certificate: bytes
    key_id: str
    usages: Sequence[str]
    valid_from: datetime
    valid_to: datetime


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenge to be answered; `timestamp_ms` is KSeF's time, in Unix milliseconds."""

    challenge: str
    timestamp_ms: int

    @property
    def made_at(self) -> datetime:
        """What time it was by KSeF's clock, in UTC."""
        return _EPOCH + timedelta(milliseconds=self.timestamp_ms)


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token and when it expires. Its repr does not show the value."""

    value: str
    valid_until: datetime

    def __repr__(self) -> str:
        return f"Token(valid_until={self.valid_until!r})"


@dataclass(frozen=True, slots=True)
class StartedLogin:
    """A login in progress: its reference and the token to ask after it."""

    reference_number: str
    operation_token: Token


@dataclass(frozen=True, slots=True)
class Tokens:
    """The two tokens that KSeF hands out at the end of a login."""

    access: Token
    refresh: Token


def session_status(body: Any) -> SessionStatus:
    """GET /sessions/{ref}"""
    return _session(_object(body, ""), "", counter="invoiceCount")


def session_page(body: Any) -> SessionPage:
    """GET /sessions"""
    json = _object(body, "")
    items = _required(json, "sessions", _array)
    return SessionPage(
        sessions=[_each(item, f"sessions[{i}]", _listed_session) for i, item in enumerate(items)],
        continuation_token=_optional(json, "continuationToken", _text) or None,
    )


def invoice(body: Any) -> SessionInvoice:
    """GET /sessions/{ref}/invoices/{invoiceRef}"""
    return _invoice(_object(body, ""), "")


def rate_limits(body: Any) -> dict[str, Limits]:
    """GET /rate-limits: the limits of the groups that we know; others are ignored."""
    json = _object(body, "")
    return {
        group: Limits(
            _required(json[group], "perSecond", _integer, group),
            _required(json[group], "perMinute", _integer, group),
            _required(json[group], "perHour", _integer, group),
        )
        for group in PUBLISHED
        if isinstance(json.get(group), dict)
    }


def invoice_page(body: Any) -> InvoicePage:
    """GET /sessions/{ref}/invoices"""
    json = _object(body, "")
    invoices = _required(json, "invoices", _array)
    return InvoicePage(
        invoices=[_each(item, f"invoices[{i}]", _invoice) for i, item in enumerate(invoices)],
        continuation_token=_optional(json, "continuationToken", _text) or None,
    )


def public_keys(body: Any) -> list[PublicKey]:
    """GET /security/public-key-certificates"""
    items = _array(body, "")
    return [_each(item, f"[{i}]", _public_key) for i, item in enumerate(items)]


def challenge(body: Any) -> Challenge:
    """POST /auth/challenge"""
    json = _object(body, "")
    return Challenge(
        _required(json, "challenge", _text), _required(json, "timestampMs", _milliseconds)
    )


def started_login(body: Any) -> StartedLogin:
    """POST /auth/ksef-token"""
    json = _object(body, "")
    return StartedLogin(
        _required(json, "referenceNumber", _identifier),
        _required(json, "authenticationToken", _token),
    )


def login_status(body: Any) -> Status:
    """GET /auth/{ref}"""
    return _required(_object(body, ""), "status", _status)


def tokens(body: Any) -> Tokens:
    """POST /auth/token/redeem"""
    json = _object(body, "")
    return Tokens(_required(json, "accessToken", _token), _required(json, "refreshToken", _token))


def access_token(body: Any) -> Token:
    """POST /auth/token/refresh"""
    return _required(_object(body, ""), "accessToken", _token)


def session_json(session: SessionStatus) -> Json:
    """A session as KSeF's JSON, for storing; `session_status` reads it back. Without links."""
    return {
        "status": status_json(session.status),
        "dateCreated": session.date_created.isoformat(),
        "dateUpdated": session.date_updated.isoformat(),
        "invoiceCount": session.invoice_count if session.counted else None,
        "successfulInvoiceCount": session.successful_invoice_count,
        "failedInvoiceCount": session.failed_invoice_count,
        "upo": {
            "pages": [{"referenceNumber": page.reference_number} for page in session.upo_pages]
        },
    }


def status_json(status: Status, original: Original | None = None) -> Json:
    """An invoice's status as KSeF's JSON, for storing; `invoice_status` reads it back."""
    json: dict[str, Any] = {
        "code": status.code,
        "description": status.description,
        "details": list(status.details),
    }
    if original:
        json["extensions"] = {
            "originalKsefNumber": original.ksef_number,
            "originalSessionReferenceNumber": original.session_reference_number,
        }
    return json


def invoice_status(json: Json) -> tuple[Status, Original | None]:
    """The status of an invoice and, if it is a duplicate, the original."""
    status = _status(json, "status")
    return status, _original(json, "status") if status.code == DUPLICATE else None


class _Broken(Exception):
    """A value is not what KSeF's contract says; carries the path to it."""

    def __init__(self, path: str, expected: str) -> None:
        super().__init__(f"{path.lstrip('.') or 'the body'} is not {expected}")


def reading(read: Callable[[Any], T], body: Any) -> T:
    """Read a body with one of the functions above. Raises KsefInvalidResponse, naming the field."""
    try:
        return read(body)
    except _Broken as broken:
        raise KsefInvalidResponse(f"KSeF's answer breaks its contract: {broken}.") from None


def _listed_session(json: Json, path: str) -> ListedSession:
    return ListedSession(
        reference_number=_required(json, "referenceNumber", _identifier, path),
        status=_session(json, path, counter="totalInvoiceCount"),
    )


def _session(json: Json, path: str, *, counter: str) -> SessionStatus:
    invoice_count = _optional(json, counter, _integer, path)
    upo = _optional(json, "upo", _object, path) or {}
    pages = _optional(upo, "pages", _array, f"{path}.upo") or ()
    return SessionStatus(
        status=_required(json, "status", _status, path),
        date_created=_required(json, "dateCreated", _time, path),
        date_updated=_required(json, "dateUpdated", _time, path),
        invoice_count=invoice_count or 0,
        successful_invoice_count=_optional(json, "successfulInvoiceCount", _integer, path) or 0,
        failed_invoice_count=_optional(json, "failedInvoiceCount", _integer, path) or 0,
        counted=invoice_count is not None,
        upo_pages=[
            _each(page, f"{path}.upo.pages[{i}]", _upo_page) for i, page in enumerate(pages)
        ],
    )


def _invoice(json: Json, path: str) -> SessionInvoice:
    said = _required(json, "status", _object, path)
    status = _status(said, f"{path}.status")
    return SessionInvoice(
        ordinal_number=_required(json, "ordinalNumber", _integer, path),
        reference_number=_required(json, "referenceNumber", _identifier, path),
        invoice_number=_optional(json, "invoiceNumber", _text, path),
        ksef_number=_optional(json, "ksefNumber", _identifier, path),
        acquisition_date=_optional(json, "acquisitionDate", _time, path),
        status=status,
        duplicate_of=_original(said, f"{path}.status") if status.code == DUPLICATE else None,
        upo_link=_link(json, "upoDownloadUrl", "upoDownloadUrlExpirationDate", path),
    )


def _link(json: Json, url_name: str, end_name: str, path: str) -> Link | None:
    url = _optional(json, url_name, _text, path)
    valid_until = _optional(json, end_name, _time, path)
    return Link(url, valid_until) if url and valid_until else None


def _original(status: Json, path: str) -> Original | None:
    extensions = _optional(status, "extensions", _object, path) or {}
    where = f"{path}.extensions"
    number = _optional(extensions, "originalKsefNumber", _identifier, where)
    session = _optional(extensions, "originalSessionReferenceNumber", _identifier, where)
    return Original(number, session) if number and session else None


def _public_key(json: Json, path: str) -> PublicKey:
    return PublicKey(
        certificate=_required(json, "certificate", _base64, path),
        key_id=_required(json, "publicKeyId", _text, path),
        usages=_required(json, "usage", _texts, path),
        valid_from=_required(json, "validFrom", _time, path),
        valid_to=_required(json, "validTo", _time, path),
    )


def _upo_page(json: Json, path: str) -> UpoPage:
    return UpoPage(
        _required(json, "referenceNumber", _identifier, path),
        _link(json, "downloadUrl", "downloadUrlExpirationDate", path),
    )


def _token(value: Any, path: str) -> Token:
    json = _object(value, path)
    return Token(
        _required(json, "token", _bearer, path), _required(json, "validUntil", _time, path)
    )


def _status(value: Any, path: str) -> Status:
    json = _object(value, path)
    return Status(
        code=_required(json, "code", _integer, path),
        description=_required(json, "description", _text, path),
        details=_optional(json, "details", _texts, path) or (),
    )


def _required(json: Json, name: str, read: Callable[[Any, str], T], path: str = "") -> T:
    value = json.get(name, _MISSING)
    where = f"{path}.{name}"
    if value is _MISSING:
        raise _Broken(where, "there")
    return read(value, where)


def _optional(json: Json, name: str, read: Callable[[Any, str], T], path: str = "") -> T | None:
    value = json.get(name)
    return None if value is None else read(value, f"{path}.{name}")


def _each(value: Any, path: str, read: Callable[[Json, str], T]) -> T:
    return read(_object(value, path), path)


def _object(value: Any, path: str) -> Json:
    if not isinstance(value, dict):
        raise _Broken(path, "an object")
    return value


def _array(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise _Broken(path, "a list")
    return value


def _text(value: Any, path: str) -> str:
    """Whatever PostgreSQL stores as text and as JSON. Halves of surrogate pairs are no JSON."""
    if not isinstance(value, str):
        raise _Broken(path, "a text")
    if "\0" in value:
        raise _Broken(path, "a text that can be stored")
    return value


def _identifier(value: Any, path: str) -> str:
    """A number or reference, which will be used in SQL and URLs: printable ASCII, no spaces."""
    text = _text(value, path)
    if len(text) > 64 or not _is_one_word(text):
        raise _Broken(path, "an identifier")
    return text


def _bearer(value: Any, path: str) -> str:
    """A token, which will be sent in a header."""
    text = _text(value, path)
    if not _is_one_word(text):
        raise _Broken(path, "a token that fits a header")
    return text


def _is_one_word(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text and text != ""


def _texts(value: Any, path: str) -> list[str]:
    return [_text(item, f"{path}[{i}]") for i, item in enumerate(_array(value, path))]


def _integer(value: Any, path: str) -> int:
    """A whole number that a column of PostgreSQL's type integer holds."""
    number = _whole(value, path)
    if not -_MOST - 1 <= number <= _MOST:
        raise _Broken(path, "a whole number of 32 bits")
    return number


def _whole(value: Any, path: str) -> int:
    if type(value) is not int:
        raise _Broken(path, "a whole number")
    return value


def _milliseconds(value: Any, path: str) -> int:
    """A moment, counted since 1970."""
    number = _whole(value, path)
    if not 0 <= number < _LAST_MOMENT:
        raise _Broken(path, "a time that can be told")
    return number


def _time(value: Any, path: str) -> datetime:
    try:
        moment = datetime.fromisoformat(_text(value, path))
    except ValueError:
        raise _Broken(path, "a time") from None
    if moment.tzinfo is None:
        raise _Broken(path, "a time with an offset")
    if not 1000 <= moment.year <= 9998:  # .NET's unset times; shifted by an offset they overflow
        raise _Broken(path, "a time within the years 1000 to 9998")
    return moment


def _base64(value: Any, path: str) -> bytes:
    try:
        return base64.b64decode(_text(value, path), validate=True)
    except ValueError:
        raise _Broken(path, "Base64") from None
