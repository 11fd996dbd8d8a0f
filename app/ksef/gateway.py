"""KSeF's API: one method for each call, which takes the token it needs and raises our errors.

Paths and shapes follow the official OpenAPI document of KSeF API v2. KSeF does not answer 404 to
these calls: if it does not find something it sends an HTTP 400 with a code.
"""

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from app import errors
from app.ksef import limits, wire
from app.ksef.transport import UPO_LIMIT, Answer, Transport

T = TypeVar("T")

PAGE_SIZE = 1000
SESSION_TYPES = {"Online": "-SO-", "Batch": "-SB-"}
"""KSeF's session types, each with the mark in the reference numbers of its sessions."""

# Codes of KSeF's errors.
SESSION_NOT_FOUND = 21173
UPO_NOT_FOUND = 21178
VALIDATION_FAILED = 21405
BAD_CONTINUATION_TOKEN = 21418
UNKNOWN_PUBLIC_KEY = 21470
BAD_CERTIFICATE = 21115
WRONG_SUBJECT = 21117


@dataclass(frozen=True, slots=True)
class Route:
    """A call of KSeF's API: method, path template, and the quota group in which it counts.

    None: KSeF counts it by IP address only, not for the company.
    """

    method: str
    template: str
    quota_group: str | None = None

    def path(self, *values: str) -> str:
        """The path with these values, escaped, in place of its parameters."""
        parts = iter(values)
        return "/".join(
            quote(next(parts), safe="") if piece.startswith("{") else piece
            for piece in self.template.split("/")
        )


PUBLIC_KEYS = Route("GET", "/security/public-key-certificates")
CHALLENGE = Route("POST", "/auth/challenge")
LOGIN_WITH_TOKEN = Route("POST", "/auth/ksef-token")
LOGIN_WITH_CERTIFICATE = Route("POST", "/auth/xades-signature")
LOGIN_STATUS = Route("GET", "/auth/{referenceNumber}")
REDEEM = Route("POST", "/auth/token/redeem")
REFRESH = Route("POST", "/auth/token/refresh")
REVOKE = Route("DELETE", "/auth/sessions/current", limits.OTHER)
RATE_LIMITS = Route("GET", "/rate-limits", limits.OTHER)
SESSIONS = Route("GET", "/sessions", limits.SESSION_LIST)
SESSION = Route("GET", "/sessions/{referenceNumber}", limits.SESSION)
SESSION_INVOICES = Route("GET", "/sessions/{referenceNumber}/invoices", limits.INVOICE_LIST)
SESSION_INVOICE = Route(
    "GET", "/sessions/{referenceNumber}/invoices/{invoiceReferenceNumber}", limits.INVOICE
)
UPO = Route("GET", "/sessions/{referenceNumber}/invoices/ksef/{ksefNumber}/upo", limits.SESSION)
UPO_PAGE = Route("GET", "/sessions/{referenceNumber}/upo/{upoReferenceNumber}", limits.SESSION)


@dataclass(frozen=True, slots=True)
class Document:
    """A document as KSeF sent it, byte by byte, with the SHA-256 that KSeF gave for it (if any)."""

    content: bytes
    sha256: bytes | None


class TokensLost(errors.KsefUnreachable):
    """A login may have succeeded at KSeF, but its tokens did not arrive: a new login is needed.

    `failure` is how the call failed.
    """

    def __init__(self, failure: errors.KsefFailure) -> None:
        super().__init__(failure.detail, ksef=failure.ksef)
        self.failure = failure


class Bearer(Protocol):
    """What calls need of a company's KSeF session: its token and its quota.

    `services.active_session.ActiveSession` is the implementation.
    """

    def reserve(self, route: Route, units: int) -> None:
        """Reserve quota for so many calls; KsefRateLimited if that would take too long."""

    def call(self, route: Route, send: Callable[[str], T]) -> T:
        """What `send` returns when it is called with a valid access token.

        Waits for quota first, and calls `send` again with a new token if KSeF rejects the token.
        """


_KSEF_REFERENCE = re.compile(
    r"[0-9]{8}-[0-9A-Z]{2}-[0-9A-F]{10}-[0-9A-F]{10}-[0-9A-F]{2}", re.ASCII
)


def is_ksef_reference(text: str) -> bool:
    """Whether a reference number has the exact shape of KSeF's own.

    Callers may use others: numbers that were shortened, as in KSeF's documentation.
    """
    return _KSEF_REFERENCE.fullmatch(text) is not None


class Gateway:
    """The KSeF of one environment."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.retry = transport.retry

    def _send(self, route: Route, values: Sequence[str] = (), **kwargs: Any) -> Answer:
        """Send a call. `values`: the parameters of its path; the rest: see `Transport.send`."""
        return self._transport.send(
            route.method, route.path(*values), group=route.quota_group, **kwargs
        )

    def public_keys(self) -> list[wire.PublicKey]:
        """KSeF's public keys, for all usages."""
        answer = self.retry.once(lambda: self._send(PUBLIC_KEYS))
        return wire.reading(wire.public_keys, answer.json())

    def challenge(self) -> wire.Challenge:
        """A new challenge, which is valid for ten minutes."""
        answer = self._send(CHALLENGE)
        return wire.reading(wire.challenge, answer.json())

    def start_login_with_token(
        self, *, nip: str, challenge: str, encrypted_token: bytes, public_key_id: str
    ) -> wire.StartedLogin:
        """Answer a challenge with a KSeF token, encrypted with the public key of this id."""
        answer = self._send(
            LOGIN_WITH_TOKEN,
            json={
                "challenge": challenge,
                "contextIdentifier": {"type": "Nip", "value": nip},
                "encryptedToken": base64.b64encode(encrypted_token).decode(),
                "publicKeyId": public_key_id,
            },
        )
        return wire.reading(wire.started_login, answer.json())

    def start_login_with_certificate(self, signed_request: bytes) -> wire.StartedLogin:
        """Answer a challenge with a signed `AuthTokenRequest` document."""
        answer = self._send(LOGIN_WITH_CERTIFICATE, xml=signed_request)
        return wire.reading(wire.started_login, answer.json())

    def login_status(self, login: wire.StartedLogin) -> wire.Status:
        """The status of a login: 100 in progress, 200 done, else refused."""
        answer = self.retry.once(
            lambda: self._send(
                LOGIN_STATUS,
                [login.reference_number],
                bearer=login.operation_token.value,
            )
        )
        return wire.reading(wire.login_status, answer.json())

    def redeem(self, login: wire.StartedLogin) -> wire.Tokens:
        """The tokens of a finished login, which KSeF hands out only once.

        Raises TokensLost if its answer did not arrive, or not whole.
        """
        try:
            answer = self._send(REDEEM, bearer=login.operation_token.value)
            return wire.reading(wire.tokens, answer.json())
        except (errors.KsefUnreachable, errors.KsefInvalidResponse) as error:
            raise TokensLost(error) from error
        except errors.KsefError as error:
            if error.ksef is None or error.ksef.http_status < 500:
                raise
            raise TokensLost(error) from error

    def refresh(self, refresh_token: str) -> wire.Token:
        """A new access token. The refresh token stays as it is."""
        answer = self.retry.once(lambda: self._send(REFRESH, bearer=refresh_token))
        return wire.reading(wire.access_token, answer.json())

    def revoke(self, bearer: str) -> None:
        """End the KSeF session to which this access token belongs."""
        self._send(REVOKE, bearer=bearer)

    def session_status(self, bearer: str, reference_number: str) -> wire.SessionStatus:
        """What became of a session. SessionNotFound if the company has no such session."""
        with _refused_as(_NO_SESSION):
            answer = self._send(SESSION, [reference_number], bearer=bearer)
        return wire.reading(wire.session_status, answer.json())

    def session_invoices(
        self, bearer: str, reference_number: str, continuation_token: str | None = None
    ) -> wire.InvoicePage:
        """One page of a session's invoices, up to PAGE_SIZE of them."""
        with _refused_as(_NO_SESSION):
            answer = self._send(
                SESSION_INVOICES,
                [reference_number],
                bearer=bearer,
                params={"pageSize": str(PAGE_SIZE)},
                headers=_continuation(continuation_token),
            )
        return wire.reading(wire.invoice_page, answer.json())

    def sessions(
        self,
        bearer: str,
        *,
        session_type: str,
        created_from: datetime | None = None,
        continuation_token: str | None = None,
    ) -> wire.SessionPage:
        """One page of the company's sessions of one of SESSION_TYPES, newest first."""
        params = {"sessionType": session_type, "pageSize": str(PAGE_SIZE)}
        if created_from:
            params["dateCreatedFrom"] = created_from.isoformat()

        answer = self._send(
            SESSIONS,
            bearer=bearer,
            params=params,
            headers=_continuation(continuation_token),
        )
        return wire.reading(wire.session_page, answer.json())

    def session_invoice(
        self, bearer: str, reference_number: str, invoice_reference_number: str
    ) -> wire.SessionInvoice:
        """One invoice of a session."""
        # 21405 is said of the invoice here, whose reference KSeF gave itself.
        with _refused_as({SESSION_NOT_FOUND: errors.SessionNotFound}):
            answer = self._send(
                SESSION_INVOICE,
                [reference_number, invoice_reference_number],
                bearer=bearer,
            )
        return wire.reading(wire.invoice, answer.json())

    def rate_limits(self, bearer: str) -> dict[str, limits.Limits]:
        """The company's own rate limits, by group."""
        answer = self._send(RATE_LIMITS, bearer=bearer)
        return wire.reading(wire.rate_limits, answer.json())

    def upo_page(self, bearer: str, reference_number: str, page: str) -> Document:
        """A page of the session's collective UPO. UpoNotAvailable if KSeF has none (yet)."""
        with _refused_as({**_NO_UPO, VALIDATION_FAILED: errors.UpoNotAvailable}):
            answer = self._send(
                UPO_PAGE,
                [reference_number, page],
                bearer=bearer,
                limit=UPO_LIMIT,
            )
        return _document(answer)

    def download(self, url: str) -> Document | None:
        """A UPO by its download link, without token and quota; None if that fails in any way.

        Only links to the host of this environment's KSeF are followed.
        """
        answer = self._transport.download(url, limit=UPO_LIMIT)
        return _document(answer) if answer else None

    def upo(self, bearer: str, reference_number: str, ksef_number: str) -> Document:
        """The UPO of an invoice of a session. UpoNotAvailable if KSeF has none (yet)."""
        malformed = (
            errors.UpoNotAvailable
            if is_ksef_reference(reference_number)
            else errors.SessionNotFound
        )
        with _refused_as({**_NO_UPO, VALIDATION_FAILED: malformed}):
            answer = self._send(
                UPO,
                [reference_number, ksef_number],
                bearer=bearer,
                limit=UPO_LIMIT,
            )
        return _document(answer)


def _document(answer: Answer) -> Document:
    return Document(answer.body, _sha256_header(answer.headers.get("x-ms-meta-hash")))


@contextmanager
def _refused_as(missing: Mapping[int, type[errors.Missing]]) -> Iterator[None]:
    """Turn KSeF's error codes in `missing` into our 404s."""
    try:
        yield
    except errors.KsefError as error:
        kind = missing.get(error.ksef.code) if error.ksef and error.ksef.code else None
        if kind is None:
            raise
        raise kind(_MISSING[kind], ksef=error.ksef) from error


_MISSING = {
    errors.SessionNotFound: "KSeF knows no session of this company with this reference number.",
    errors.UpoNotAvailable: "KSeF has no UPO for these numbers, or not yet.",
}
# KSeF answers VALIDATION_FAILED to a number that we let through but that is not of its shape.
_NO_SESSION = {
    SESSION_NOT_FOUND: errors.SessionNotFound,
    VALIDATION_FAILED: errors.SessionNotFound,
}
_NO_UPO = {
    SESSION_NOT_FOUND: errors.SessionNotFound,
    UPO_NOT_FOUND: errors.UpoNotAvailable,
}


def _continuation(token: str | None) -> dict[str, str] | None:
    """The header that asks for the next page; KsefInvalidResponse if the token does not fit one."""
    if token is None:
        return None
    if len(token) > 8192 or not token.isascii() or not token.isprintable():
        raise errors.KsefInvalidResponse("KSeF's continuation token does not fit a header.")
    return {"x-continuation-token": token}


def _sha256_header(value: str | None) -> bytes | None:
    """KSeF's hash of the body; an unreadable one becomes b"", which matches no body."""
    if value is None:
        return None
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        return b""
