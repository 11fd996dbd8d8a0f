"""The calls of a company to KSeF, each with its token, its quota, and one more try.

Paths and shapes follow the official OpenAPI document of KSeF API v2. KSeF does not answer 404 to
these calls: if it does not find something it sends an HTTP 400 with a code.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

from app import clock, errors
from app.ksef import failures, limits, wire
from app.ksef.failures import Answer, KsefTokenRejected
from app.ksef.http import LONG_LIMIT, Document, Route, TooLong
from app.ksef.metered import Metered, Quota

P = TypeVar("P", wire.InvoicePage, wire.SessionPage)

PAGE_SIZE = 1000
"""Entries on a page of a list: the greatest number that KSeF allows."""
LEAST_PAGE_SIZE = 10
LARGEST_SESSION = 10_000
"""Invoices in a session, unless KSeF has raised the company's limit."""
SESSION_TYPES = {"Online": "-SO-", "Batch": "-SB-"}
"""KSeF's session types, each with the mark in the reference numbers of its sessions."""

SESSIONS = Route("GET", "/sessions", limits.SESSION_LIST)
SESSION = Route("GET", "/sessions/{referenceNumber}", limits.SESSION)
SESSION_INVOICES = Route("GET", "/sessions/{referenceNumber}/invoices", limits.INVOICE_LIST)
SESSION_INVOICE = Route(
    "GET", "/sessions/{referenceNumber}/invoices/{invoiceReferenceNumber}", limits.INVOICE
)
UPO = Route("GET", "/sessions/{referenceNumber}/invoices/ksef/{ksefNumber}/upo", limits.SESSION)
UPO_PAGE = Route("GET", "/sessions/{referenceNumber}/upo/{upoReferenceNumber}", limits.SESSION)

# What KSeF's codes mean where they are our 404s. It answers VALIDATION_FAILED to a number that we
# let through but that is not of its shape.
_Missing = Mapping[int, type[errors.Missing]]
_NOTHING: Mapping[Any, Any] = {}
_NO_SESSION: _Missing = {
    failures.SESSION_NOT_FOUND: errors.SessionNotFound,
    failures.VALIDATION_FAILED: errors.SessionNotFound,
}
_NO_UPO: _Missing = {
    failures.SESSION_NOT_FOUND: errors.SessionNotFound,
    failures.UPO_NOT_FOUND: errors.UpoNotAvailable,
    failures.VALIDATION_FAILED: errors.UpoNotAvailable,
}
_WORDS = {
    errors.SessionNotFound: "KSeF knows no session of this company with this reference number.",
    errors.UpoNotAvailable: "KSeF has no UPO for these numbers, or not yet.",
}
_KSEF_REFERENCE = re.compile(
    r"[0-9]{8}-[0-9A-Z]{2}-[0-9A-F]{10}-[0-9A-F]{10}-[0-9A-F]{2}", re.ASCII
)


class TokenStore(Protocol):
    """The access token of a company's KSeF session."""

    def access_token(self) -> str:
        """The token, renewed if it is about to end. Raises NoActiveKsefSession."""

    def renew(self, *, by_login: bool) -> None:
        """Replace a token that KSeF refused: by a refresh, or by a new login."""


def is_ksef_reference(text: str) -> bool:
    """Whether a reference number has the exact shape of KSeF's own.

    Callers may use others: numbers that were shortened, as in KSeF's documentation.
    """
    return _KSEF_REFERENCE.fullmatch(text) is not None


def pages_of(invoice_count: int) -> int:
    """How many calls a list of so many invoices takes."""
    return max(1, -(-invoice_count // PAGE_SIZE))


class Client:
    """KSeF for the calls of one company in one request.

    Beside what each call names, all raise what `Metered.send` and the tokens raise. Lists reserve
    their calls in `quota` before they begin.
    """

    said_at: datetime | None = None
    """What time it was by KSeF's clock, to the second, when it last answered; None: unknown."""

    def __init__(self, http: Metered, tokens: TokenStore, quota: Quota) -> None:
        self._http = http
        self._tokens = tokens
        self._quota = quota
        self._renewed = False
        self._logged_in_anew = False

    def session_status(self, reference_number: str) -> wire.Session:
        """What became of a session. SessionNotFound if the company has no such session."""
        answer = self._send(SESSION, reference_number, missing=_NO_SESSION)
        return wire.decode(wire.Session, answer.body)

    def session_invoice(self, reference_number: str, invoice_reference_number: str) -> wire.Invoice:
        """One invoice of a session. SessionNotFound if the company has no such session."""
        # VALIDATION_FAILED is said of the invoice here, whose reference KSeF gave itself.
        missing = {failures.SESSION_NOT_FOUND: errors.SessionNotFound}
        answer = self._send(
            SESSION_INVOICE, reference_number, invoice_reference_number, missing=missing
        )
        return wire.decode(wire.Invoice, answer.body)

    def session_invoices(
        self, reference_number: str, *, expected: int, seconds: float
    ) -> list[wire.Invoice]:
        """Every invoice of the session, once, in the order of their ordinal numbers.

        `expected` is the session's number of invoices: quota for that many pages is reserved first,
        so that a list which cannot be finished is not begun. Raises SessionNotFound,
        KsefInvalidResponse if the pages do not end, and KsefUnreachable after `seconds`.
        """
        pages = pages_of(expected)
        if pages > limits.PUBLISHED[limits.INVOICE_LIST].per_hour:
            raise errors.KsefInvalidResponse(
                f"KSeF counts {expected} invoices, more than can be listed in an hour."
            )
        self._quota.reserve(limits.INVOICE_LIST, pages)
        most = 2 * max(pages, pages_of(LARGEST_SESSION))  # some may be empty
        with clock.within(seconds):
            try:
                found = self._invoices(reference_number, most)
            except errors.KsefError as error:
                if failures.code_of(error) != failures.BAD_CONTINUATION_TOKEN:
                    raise
                found = self._invoices(reference_number, most)
        return sorted(found.values(), key=lambda invoice: invoice.ordinal_number)

    def sessions(
        self,
        session_type: str,
        created_from: datetime | None = None,
        reference_number: str | None = None,
    ) -> Sequence[wire.ListedSession]:
        """The company's newest sessions of one of SESSION_TYPES: the first page of their list.

        With `reference_number`: that one, or none.
        """
        params = {"sessionType": session_type}
        if created_from:
            params["dateCreatedFrom"] = created_from.isoformat()
        if reference_number:
            params["referenceNumber"] = reference_number
        return next(self._pages(wire.SessionPage, SESSIONS, params=params)).sessions

    def all_sessions(
        self,
        session_type: str,
        modified_from: datetime | None = None,
        created_to: datetime | None = None,
    ) -> Iterator[wire.ListedSession]:
        """All of the company's sessions of one of SESSION_TYPES, once each, mostly newest first.

        `modified_from`: only those in which something happened since; `created_to`: only those that
        were begun by then. They are fetched page by page. The list begins again, once, where KSeF
        refuses its own continuation token.
        """
        period = {"dateModifiedFrom": modified_from, "dateCreatedTo": created_to}
        params = {"sessionType": session_type} | {
            name: moment.isoformat() for name, moment in period.items() if moment
        }
        seen: set[str] = set()
        for may_restart in (True, False):
            try:
                pages = self._pages(wire.SessionPage, SESSIONS, params=params)
                for page in pages:
                    yield from (s for s in page.sessions if s.reference_number not in seen)
                    seen.update(session.reference_number for session in page.sessions)
                return
            except errors.KsefError as error:
                if not may_restart or failures.code_of(error) != failures.BAD_CONTINUATION_TOKEN:
                    raise

    def upo(self, reference_number: str, ksef_number: str) -> Document:
        """The UPO of an invoice of a session. UpoNotAvailable if KSeF has none (yet)."""
        missing = _NO_UPO
        if not is_ksef_reference(reference_number):
            missing = {**_NO_UPO, failures.VALIDATION_FAILED: errors.SessionNotFound}
        return Document.of(
            self._send(UPO, reference_number, ksef_number, missing=missing, limit=LONG_LIMIT)
        )

    def upo_page(self, reference_number: str, page: str) -> Document:
        """A page of the session's collective UPO. UpoNotAvailable if KSeF has none (yet)."""
        return Document.of(
            self._send(UPO_PAGE, reference_number, page, missing=_NO_UPO, limit=LONG_LIMIT)
        )

    def download(self, url: str) -> Document | None:
        """A UPO by its download link, without token and quota; None if that fails in any way.

        Only links to the host of this environment's KSeF are followed.
        """
        answer = self._http.download(url)
        return Document.of(answer) if answer else None

    def require_session(self) -> None:
        """NoActiveKsefSession unless the company is logged in to KSeF."""
        self._tokens.access_token()

    def give_back(self) -> None:
        """Give back quota that was reserved and not used, such as that of a list broken off."""
        self._quota.give_back()

    def _invoices(self, reference_number: str, most: int) -> dict[str, wire.Invoice]:
        """The invoices by reference number, so that one listed on two pages is kept once."""
        found: dict[str, wire.Invoice] = {}
        pages = self._pages(
            wire.InvoicePage, SESSION_INVOICES, reference_number, most=most, missing=_NO_SESSION
        )
        for page in pages:
            found.update((invoice.reference_number, invoice) for invoice in page.invoices)
        return found

    def _pages(
        self,
        kind: type[P],
        route: Route,
        *values: str,
        params: Mapping[str, str] = _NOTHING,
        most: float = float("inf"),
        missing: _Missing = _NOTHING,
    ) -> Iterator[P]:
        """Every page of a list. A page that is too long is asked for again, in smaller ones.

        Raises KsefInvalidResponse if the list does not end: after `most` pages, or if KSeF repeats
        a continuation token.
        """
        size, number, token = PAGE_SIZE, 0, None
        seen: set[str | None] = set()
        while True:
            if clock.time_left() <= 0:
                raise errors.KsefUnreachable("KSeF did not give the whole list in time.")
            try:
                answer = self._send(
                    route,
                    *values,
                    params={**params, "pageSize": str(size)},
                    headers=_continuation(token),
                    limit=LONG_LIMIT,
                    missing=missing,
                )
            except TooLong:
                if size == LEAST_PAGE_SIZE:
                    raise
                size, most = size // 10, most * 10
                continue
            page = wire.decode(kind, answer.body)
            yield page
            number += 1
            token = page.continuation_token or None
            if token is None:
                return
            if token in seen:
                raise errors.KsefInvalidResponse("KSeF repeats a continuation token.")
            if number >= most:
                raise errors.KsefInvalidResponse(f"KSeF's list has more than {most} pages.")
            seen.add(token)

    def _send(
        self,
        route: Route,
        *values: str,
        missing: _Missing = _NOTHING,
        **request: Any,
    ) -> Answer:
        """Send a call with a good token, within the quota, and once more where that may help.

        `missing`: KSeF's codes that are our 404s; `request`: see `Http.send`.
        """
        repeated = False
        while True:
            bearer = self._tokens.access_token()
            try:
                answer = self._http.send(route, *values, bearer=bearer, **request)
                self._renewed = self._logged_in_anew = False
                self.said_at = failures.http_date(answer.headers.get("Date", ""))
                return answer
            except KsefTokenRejected:
                # First a refresh, for a second refusal a login.
                if self._logged_in_anew:
                    raise
                self._logged_in_anew = self._renewed
                self._tokens.renew(by_login=self._renewed)
                self._renewed = True
            except errors.KsefFailure as failure:
                if kind := missing.get(failures.code_of(failure) or 0):
                    raise kind(_WORDS[kind], ksef=failure.ksef) from failure
                if repeated or route.method != "GET" or not self._http.repeats(route, failure):
                    raise
                repeated = True


def _continuation(token: str | None) -> dict[str, str] | None:
    """The header that asks for the next page; KsefInvalidResponse if the token does not fit one."""
    if token is None:
        return None
    if len(token) > 8192 or not token.isascii() or not token.isprintable():
        raise errors.KsefInvalidResponse("KSeF's continuation token does not fit a header.")
    return {"x-continuation-token": token}
