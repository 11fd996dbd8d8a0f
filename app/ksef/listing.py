"""All invoices of a session, page by page."""

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


def all_invoices(
    gateway: Gateway, bearer: Bearer, reference_number: str, *, expected: int, seconds: float
) -> list[SessionInvoice]:
    """Every invoice of the session once, by ordinal number; `expected` is how many there may be.

    The quota of all pages is set aside first: a list that cannot be finished is not begun.
    Starts again, once, when KSeF loses its own continuation token on the way. Raises
    KsefInvalidResponse where there would be more than a session can hold, or the pages do not end,
    KsefUnreachable after `seconds`.
    """
    pages = max(1, -(-expected // PAGE_SIZE))
    if pages > MAX_PAGES:
        raise errors.KsefInvalidResponse(
            f"KSeF counts {expected} invoices, more than a session can hold."
        )
    bearer.reserve(SESSION_INVOICES, pages)
    with clock.within(seconds):
        try:
            found = _walk(gateway, bearer, reference_number)
        except errors.KsefError as error:
            if error.ksef is None or error.ksef.code != BAD_CONTINUATION_TOKEN:
                raise
            found = _walk(gateway, bearer, reference_number)
    return sorted(found.values(), key=lambda invoice: invoice.ordinal_number)


def _walk(gateway: Gateway, bearer: Bearer, reference_number: str) -> dict[str, SessionInvoice]:
    """The invoices by their reference numbers: one that stands on two pages counts once."""
    found: dict[str, SessionInvoice] = {}
    seen: set[str] = set()
    token: str | None = None
    for _ in range(MAX_PAGES):
        if clock.time_left() <= 0:
            raise errors.KsefUnreachable("KSeF did not list the session's invoices in time.")
        page = _page(gateway, bearer, reference_number, token)
        found.update((invoice.reference_number, invoice) for invoice in page.invoices)
        token = page.continuation_token
        if token is None:
            return found
        if token in seen:
            raise errors.KsefInvalidResponse("KSeF repeats a continuation token.")
        seen.add(token)
    raise errors.KsefInvalidResponse(f"KSeF's list has more than {MAX_PAGES} pages.")


def _page(
    gateway: Gateway, bearer: Bearer, reference_number: str, token: str | None
) -> InvoicePage:
    return bearer.call(
        SESSION_INVOICES,
        lambda access: gateway.session_invoices(access, reference_number, token),
    )
