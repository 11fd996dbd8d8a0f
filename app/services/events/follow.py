"""Follows each company's sessions: what KSeF lists is read, linked and archived unasked.

All state is in the database, and each step may be repeated: the process may end at any moment, and
any number of them may run. One at a time works for a company in an environment, under a lease.
"""

import math
from contextlib import suppress
from typing import Any

from app import clock, errors, telemetry
from app.account import Account
from app.db.queries import follow as queries
from app.ksef import limits
from app.ksef.client import SESSION_TYPES, pages_of
from app.service import Service
from app.services import outages
from app.services.events import journal, listing
from app.services.replicas import leases, quota
from app.services.replicas.leases import Lease
from app.services.sessions.check import check_session
from app.services.sessions.snapshot import Snapshot, stretched
from app.services.upo import fetch
from app.settings import Timing

_SHARE = 0.55  # of our quota, which is nine tenths of KSeF's: half of KSeF's. Live callers go first
_BATCH = 100
_DOCUMENTS = 100  # archived before the lease is extended
_NEWEST_ROWS = 10_000  # in which late ones are looked for
_STUCK_TIMES = 3  # the company's usual time
_ASK_WHETHER_LISTED = 5  # failures in a row


def follow_all(service: Service, *, turn: float = math.inf) -> None:
    """One round: whatever is due, company by company, the one that waits longest first.

    `turn`: seconds after which the next company has its turn.
    """
    for row in service.db.rows(queries.accounts):
        account = service.account(row.company_nip, row.environment, live=False, share=_SHARE)
        try:
            with leases.try_lease(account, "follow", account.timing.follow_lease) as lease:
                if lease:
                    _follow(account, lease, clock.monotonic() + turn)
        except errors.Unavailable as error:
            telemetry.warning("following is put off", reason=error.detail, **account.log_fields)
            _rest(account, account.timing.follow_least)  # raises where the database is down
        except Exception:
            telemetry.exception("following a company failed", **account.log_fields)
            _rest(account, account.timing.follow_most)


def failing_pause(timing: Timing, failures: int) -> float:
    """Seconds until a session that failed so many times in a row is tried again."""
    return float(min(timing.follow_failing, timing.follow_moving * 2 ** min(failures, 20)))


def _follow(account: Account, lease: Lease, deadline: float) -> None:
    """A company's turn. Where KSeF is down or the company is logged out, it rests for a while."""
    timing = account.timing
    with account.db.transaction() as connection:
        queries.begin(connection, **account.columns, seconds=timing.follow_before)
        listing.begin_anew(account, connection)
    state = account.db.run(queries.get, **account.columns)
    if state is None or state.rests:  # another process was here just before
        return
    try:
        outages.refuse_if_simulated(account)
        if state.list_is_due:
            listing.list_all(account, lease, state)
        _follow_sessions(account, lease, deadline)
    except (errors.OutageSimulation, errors.NoActiveKsefSession):
        _rest(account, timing.follow_least)
    except errors.KsefFailure as error:
        pause = min(timing.follow_most, timing.follow_moving * 2 ** min(state.failures, 20))
        telemetry.info("following rests: KSeF fails", code=error.code, **account.log_fields)
        _rest(account, pause, failures=state.failures + 1)
    else:
        if state.failures:
            _rest(account, 0.0)
    finally:
        account.ksef.give_back()
    _mark_stuck(account)
    with account.db.transaction() as connection:
        queries.hold(connection, **account.columns)
        queries.advance(connection, **account.columns, overlap=timing.follow_overlap)
    if state.list_is_due:
        _link_late_rows(account, deadline)
        account.db.run(queries.forget, **account.columns, batch=_BATCH)


def _follow_sessions(account: Account, lease: Lease, deadline: float) -> None:
    """Take the next step with each session that is due now."""
    moment = account.db.now()
    while rows := account.db.rows(queries.due, **account.columns, moment=moment, batch=_BATCH):
        for row in rows:
            if clock.monotonic() > deadline or not _extended(account, lease, row):
                return
            try:
                _archive(account, row) if row.is_final else _read(account, row)
            except errors.KsefRateLimited as error:
                pause = min(account.timing.follow_most, max(1, error.retry_after or 1))
                _put_off(account, row, pause, failures=row.failures)
            except (errors.OutageSimulation, errors.NoActiveKsefSession):
                raise
            except Exception as error:
                _failed(account, row, error)
                if listing.is_outage(error):
                    raise


def _extended(account: Account, lease: Lease, row: Any) -> bool:
    """Whether the company is still ours to follow, and will be for the time of a step."""
    # The pages of a long list take more than our minute.
    minute = limits.WINDOWS[1] * account.timing.quota_scale
    more = minute * 1.25 if pages_of(row.invoice_count) > 1 else 0.0
    account.patience = account.timing.quota_patience + more
    return lease.extend(account, account.timing.follow_lease + account.patience)


def _read(account: Account, row: Any) -> None:
    """Ask what became of a session that is not final, as far as that is known."""
    timing = account.timing
    account.calls.require(limits.SESSION)
    answer = check_session(account, row.reference_number)
    if not isinstance(answer, Snapshot):
        raise AssertionError("a written answer was not asked for")
    where = {**account.columns, "reference_number": row.reference_number}
    if answer.final:
        account.db.run(queries.finish, **where)
        return
    if row.read_at and answer.checked_at <= row.read_at:
        # Still fresh, or quota or the list had to wait: no failure, at which the pauses would grow.
        pause = max(timing.follow_moving, answer.next_check_after or 0)
        _put_off(account, row, min(timing.follow_most, pause), failures=row.failures)
        return
    expected = max(row.invoice_count, answer.session.invoice_count)
    is_whole = answer.checked_at >= row.found_at and len(answer.invoices) >= expected
    account.db.run(
        queries.read,
        **where,
        read_at=answer.checked_at if is_whole else None,
        open=answer.open_until is not None and answer.open_until > account.db.now(),
        least=timing.follow_moving,
        most=timing.follow_most,
        factor=stretched(quota.used_share(account, limits.SESSION, limits.INVOICE)),
    )


def _archive(account: Account, row: Any) -> None:
    """Archive some of the UPOs of a final session."""
    if not fetch.archive_session(account, row.reference_number, most=_DOCUMENTS):
        return
    with account.db.transaction() as connection:
        queries.note_archived(connection, **account.columns, reference_number=row.reference_number)


def _failed(account: Account, row: Any, error: Exception) -> None:
    """A step failed: the next attempts are further and further apart.

    A session that KSeF does not list any more is given up.
    """
    failures = row.failures + 1
    fields = {"session": row.reference_number, **account.log_fields}
    if isinstance(error, errors.ProxyError):
        telemetry.info("a session could not be followed", code=error.code, **fields)
    else:
        telemetry.exception("following a session failed", **fields)
    if failures >= _ASK_WHETHER_LISTED and not row.is_final and not _is_listed(account, row):
        telemetry.warning("KSeF lists a session no more", **fields)
        account.db.run(queries.give_up, **account.columns, reference_number=row.reference_number)
        return
    _put_off(account, row, failing_pause(account.timing, row.failures), failures=failures)


def _put_off(account: Account, row: Any, seconds: float, *, failures: int) -> None:
    account.db.run(
        queries.put_off,
        **account.columns,
        reference_number=row.reference_number,
        seconds=seconds,
        failures=failures,
    )


def _is_listed(account: Account, row: Any) -> bool:
    """Whether KSeF still lists a session; true also where that cannot be told."""
    number = row.reference_number
    types = [name for name, mark in SESSION_TYPES.items() if mark in number]
    with suppress(errors.KsefFailure):
        return not types or bool(account.ksef.sessions(types[0], reference_number=number))
    return True


def _link_late_rows(account: Account, deadline: float) -> None:
    """Link rows that the ERP wrote after their session was read, which is final by now."""
    for row in account.db.rows(queries.late_rows, **account.columns, newest=_NEWEST_ROWS):
        if clock.monotonic() > deadline:
            return
        with suppress(errors.KsefFailure, errors.Missing, errors.Vetoed):
            check_session(account, row.reference_number)


def _mark_stuck(account: Account) -> None:
    """Mark and report, once each, the sessions that move for far longer than usual."""
    with account.db.transaction() as connection:
        for row in queries.mark_stuck(
            connection, **account.columns, times=_STUCK_TIMES, least=account.timing.follow_stuck
        ):
            since = journal.utc(row.moving_since)
            data = {"referenceNumber": row.reference_number, "since": since}
            journal.note(connection, journal.Kind.SESSION_STUCK, **account.columns, data=data)
            telemetry.warning(
                "a session is stuck",
                session=row.reference_number,
                since=since,
                **account.log_fields,
            )


def _rest(account: Account, seconds: float, *, failures: int = 0) -> None:
    account.db.run(queries.rest, **account.columns, seconds=seconds, failures=failures)
