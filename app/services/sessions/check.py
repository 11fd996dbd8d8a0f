"""What became of a session: the kept answer while it is fresh, else a new one from KSeF.

However many requests ask for the same session, only one of them asks KSeF.
"""

from collections.abc import Sequence
from dataclasses import replace

from app import errors, telemetry
from app.account import Account
from app.ksef import limits
from app.ksef.failures import DEFAULT_RETRY_AFTER
from app.services import outages
from app.services.replicas import leases, not_found, quota
from app.services.sessions import bulk, linking, store
from app.services.sessions.ask import ask
from app.services.sessions.complete import completed
from app.services.sessions.snapshot import Snapshot
from app.services.sessions.store import Written


def check_session(
    account: Account, reference_number: str, *, form: str = "", tags: Sequence[str] = ()
) -> Snapshot | Written:
    """What became of a session; the company's rows are linked to it before this returns.

    A final answer that was written in this `form` before is given as it was (see `store.keep`); if
    its tag is among `tags`, without its body. Raises OutageSimulation, NoActiveKsefSession,
    SessionNotFound, Busy, and what a call to KSeF raises.
    """
    telemetry.answered_from("store")
    known = store.look(account, reference_number, form, tags)
    if known.is_simulated:
        outages.refuse_if_simulated(account)
    if known.written and not known.unlinked:
        if known.is_spared is False:
            store.mark_looked(account, reference_number)
        return known.written
    kept = store.load(account, reference_number) if known.is_kept else None
    if kept is None:
        not_found.repeat(account, store.question(reference_number))
    snapshot = _if_fresh(account, kept) or _asked_once(account, reference_number, kept)
    if snapshot.final:
        snapshot = completed(account, snapshot)
    if known.unlinked or kept is None or snapshot.invoices is not kept.invoices:
        linking.link(account, reference_number, snapshot.invoices)
    if snapshot.final or snapshot.next_check_after is not None:
        return snapshot
    return snapshot.with_next_check(_fresh_for(account, snapshot))


def _if_fresh(account: Account, kept: Snapshot | None) -> Snapshot | None:
    """The kept answer, if it is final or fresh."""
    if kept is None or kept.final:
        return kept
    if account.live:
        store.mark_wanted(account, kept)
    fresh_for = _fresh_for(account, kept)
    return kept.with_next_check(fresh_for) if kept.asked_ago < fresh_for else None


def _asked_once(account: Account, reference_number: str, known: Snapshot | None) -> Snapshot:
    """KSeF's answer; or the earlier one, if another request is asking or no thread is free to ask.

    Without an earlier one it waits for what the other request learns.
    """
    question = store.question(reference_number)
    try:
        with account.places.one(account.company_nip):
            for _ in leases.attempts(account, "question", account.timing.single_flight_wait):
                with leases.try_lease(account, question) as mine:
                    if mine:
                        return _newer_or_asked(account, reference_number, known, question)
                if earlier := known or store.load(account, reference_number):
                    return _earlier(earlier)
                not_found.repeat(account, question)
    except errors.Busy:
        if earlier := known or store.load(account, reference_number):
            return _earlier(earlier)
        raise
    raise AssertionError("unreachable: the attempts end by raising")


def _newer_or_asked(
    account: Account, reference_number: str, known: Snapshot | None, question: str
) -> Snapshot:
    """What another request stored just before we got the lease, if it is fresh; else KSeF's."""
    newer = store.load(account, reference_number, newer_than=known)
    if fresh := _if_fresh(account, newer):
        return fresh
    with not_found.remembered(account, question):
        return _asked(account, reference_number, newer or known)


def _asked(account: Account, reference_number: str, known: Snapshot | None) -> Snapshot:
    """KSeF's answer, stored; or the earlier one, if the quota is short or a list has to wait."""
    telemetry.answered_from("fresh")
    try:
        if known and account.live and bulk.refresh(account):
            known = store.load(account, reference_number) or known
            if known.asked_ago < account.timing.fresh_least:
                return known
        answer = ask(account, reference_number, known)
    except errors.KsefRateLimited as error:
        if known is None:
            raise
        return replace(_earlier(known), next_check_after=error.retry_after or DEFAULT_RETRY_AFTER)
    finally:
        account.ksef.give_back()
    if answer is known:
        return _earlier(known)
    store.save(account, answer, known)
    return answer


def _earlier(known: Snapshot) -> Snapshot:
    telemetry.answered_from("earlier")
    return known


def _fresh_for(account: Account, snapshot: Snapshot) -> float:
    """For how many seconds after asking KSeF the answer counts as fresh."""
    # Without the lists of invoices: they have their own pauses, and other calls do without them.
    used = quota.used_share(account, limits.SESSION, limits.SESSION_LIST, limits.INVOICE)
    return snapshot.fresh_for(account.timing, used)
