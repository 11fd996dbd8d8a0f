"""Completes what version 0.1.0 kept: it dropped the fields by which a refused invoice is known."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from msgspec import structs

from app import errors, telemetry
from app.account import Account
from app.ksef import limits
from app.ksef.client import pages_of
from app.ksef.wire import Invoice, without_links
from app.services.replicas import leases
from app.services.sessions import store
from app.services.sessions.snapshot import Snapshot

_PART = 2 / 3  # of our quota of lists; the rest is left to sessions that have no answer yet


def completed(account: Account, kept: Snapshot) -> Snapshot:
    """The final answer with what version 0.1.0 dropped, from a new list of its invoices.

    That list is asked for once, and only while nothing else needs it: one session of the company at
    a time, within a part of the quota. If it cannot be had now, the answer is given as it is, and
    one of the next checks tries again.
    """
    if not kept.incomplete or kept.asked_ago < account.timing.completed_pause:
        return kept
    try:
        with leases.try_lease(account, "completing") as mine:
            if not mine:
                return kept
            with account.places.one(account.company_nip):
                return _listed_once_more(account, kept)
    except (errors.KsefFailure, errors.Missing, errors.Unavailable) as error:
        telemetry.info(
            "a kept answer could not be completed",
            **account.log_fields,
            session=kept.reference_number,
            code=error.code,
        )
        with suppress(errors.Unavailable):  # then it is tried again at once
            store.mark_asked(account, kept.reference_number, account.db.now(), listed=False)
        return kept
    finally:
        account.ksef.give_back()


def _listed_once_more(account: Account, earlier: Snapshot) -> Snapshot:
    kept = store.load(account, earlier.reference_number)
    if kept is None or not kept.incomplete:  # another request has done it meanwhile, or purged it
        return kept or earlier
    count = kept.session.invoice_count
    account.calls.require(limits.INVOICE_LIST, pages_of(count), part=_PART)
    told = account.ksef.session_invoices(
        kept.reference_number, expected=count, seconds=account.timing.ksef_call
    )
    invoices = _merged(kept.invoices, told)
    whole = replace(kept, invoices=invoices, listed=False, incomplete=False)
    store.save(account, whole, kept)
    telemetry.answered_from("fresh")
    return whole


def _merged(kept: Sequence[Invoice], told: Sequence[Invoice]) -> Sequence[Invoice]:
    """The kept invoices, each with what the new list tells of it beside what was kept."""
    news = {invoice.reference_number: without_links(invoice) for invoice in told}
    return [
        structs.replace(
            invoice,
            invoice_hash=new.invoice_hash,
            invoice_file_name=new.invoice_file_name,
            invoicing_date=new.invoicing_date,
            invoicing_mode=new.invoicing_mode,
        )
        if (new := news.get(invoice.reference_number))
        else invoice
        for invoice in kept
    ]
