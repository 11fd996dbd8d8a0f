"""Walks KSeF's lists page by page; fetches all invoices of a session."""

import math
from collections.abc import Callable, Iterator
from itertools import count
from typing import Protocol, TypeVar

from app import clock, errors
from app.ksef.gateway import (
    BAD_CONTINUATION_TOKEN,
    PAGE_SIZE,
    SESSION_INVOICES,
    Bearer,
    Gateway,
)
from app.ksef.wire import InvoicePage, SessionInvoice

MAX_PAGES = 20  # a session holds 10,000 invoices at most: ten full pages, and some empty ones


class Page(Protocol):
    """One page of a list; the last one has no token."""

    @property
    def continuation_token(self) -> str | None: ...


P = TypeVar("P", bound=Page)


def pages(fetch: Callable[[str | None], P], *, most: float = math.inf) -> Iterator[P]:
    """Every page of a list. `fetch` gets a continuation token, None for the first page.

    Raises KsefInvalidResponse if the list does not end: after `most` pages, or if KSeF repeats a
    token.
    """
    seen: set[str] = set()
    token: str | None = None
    for number in count(1):
        page = fetch(token)
        yield page
        token = page.continuation_token
        if token is None:
            return
        if token in seen:
            raise errors.KsefInvalidResponse("KSeF repeats a continuation token.")
        if number >= most:
            raise errors.KsefInvalidResponse(f"KSeF's list has more than {most} pages.")
        seen.add(token)


def all_invoices(
    gateway: Gateway, bearer: Bearer, reference_number: str, *, expected: int, seconds: float
) -> list[SessionInvoice]:
    """Every invoice of the session, once, in the order of their ordinal numbers.

    `expected` is the session's number of invoices: quota for that many pages is reserved first, so
    that a list which cannot be finished is not begun. Starts again, once, if KSeF refuses its own
    continuation token. Raises KsefRateLimited if there is not enough quota, KsefInvalidResponse if
    there are more invoices than a session can hold or the pages do not end, KsefUnreachable after
    `seconds`, and what the gateway raises.
    """
    if pages_of(expected) > MAX_PAGES:
        raise errors.KsefInvalidResponse(
            f"KSeF counts {expected} invoices, more than a session can hold."
        )
    bearer.reserve(SESSION_INVOICES, pages_of(expected))
    with clock.within(seconds):
        try:
            found = _walk(gateway, bearer, reference_number)
        except errors.KsefError as error:
            if error.ksef is None or error.ksef.code != BAD_CONTINUATION_TOKEN:
                raise
            found = _walk(gateway, bearer, reference_number)
    return sorted(found.values(), key=lambda invoice: invoice.ordinal_number)


def pages_of(invoice_count: int) -> int:
    """How many calls a list of so many invoices takes."""
    return max(1, -(-invoice_count // PAGE_SIZE))


def _walk(gateway: Gateway, bearer: Bearer, reference_number: str) -> dict[str, SessionInvoice]:
    """The invoices by reference number, so that one listed on two pages is kept once."""

    def fetch(token: str | None) -> InvoicePage:
        if clock.time_left() <= 0:
            raise errors.KsefUnreachable("KSeF did not list the session's invoices in time.")
        return bearer.call(
            SESSION_INVOICES,
            lambda access: gateway.session_invoices(access, reference_number, token),
        )

    found: dict[str, SessionInvoice] = {}
    for page in pages(fetch, most=MAX_PAGES):
        found.update((invoice.reference_number, invoice) for invoice in page.invoices)
    return found
