"""What KSeF's lists of a company's sessions show, and up to when they show all; see `follow`."""

import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from app import clock, errors, telemetry
from app.account import Account
from app.db.pool import Connection
from app.db.queries import follow as queries
from app.ksef import limits, wire
from app.ksef.client import SESSION_TYPES
from app.ksef.wire import ListedSession
from app.services.replicas import quota
from app.services.replicas.leases import Lease
from app.settings import Timing


def listing_pause(timing: Timing, *, moves: bool, hourly: int) -> float:
    """Seconds until KSeF's lists are asked for again, one call for each type of session.

    `hourly`: how many calls we may make in an hour. While something moves they are spread over it,
    as close as `follow_least` allows; of the published limits that is hardly more often.
    """
    if not moves:
        return timing.follow_most
    rounds = max(1, hourly // len(SESSION_TYPES)) if hourly != limits.NO_LIMIT else math.inf
    hour = limits.WINDOWS[-1] * timing.quota_scale
    return min(timing.follow_most, max(timing.follow_least, hour / rounds))


def list_all(account: Account, lease: Lease, state: Any) -> None:
    """Note what happened since the last time, as KSeF lists it: a long time in parts.

    KSeF knows only when something last happened in a session. So a part holds the sessions in which
    anything did since its begin, and that were begun before its end: whatever happened in between
    is in one of them, also where they went on later.
    """
    while state and state.list_is_due and lease.extend(account, account.timing.follow_lease):
        _list(account, state)
        state = account.db.run(queries.get, **account.columns)


def _list(account: Account, state: Any) -> None:
    timing = account.timing
    began = account.db.now()
    end = state.listed_until + timedelta(seconds=timing.follow_slice)
    try:
        account.calls.reserve(limits.SESSION_LIST, len(SESSION_TYPES))
        known = {"found_by": began, "until": end}
        starts = _starts(account, state.listed_until, known)
        listed = {
            session.reference_number: session
            for name, start in starts.items()
            for session in account.ksef.all_sessions(name, start, end if end < began else None)
        }
        is_whole = _is_whole(account, starts, state.listed_until, known, listed)
    except errors.KsefRateLimited as error:
        seconds = min(timing.follow_most, max(timing.follow_least, error.retry_after or 0))
        account.db.run(queries.list_later, **account.columns, seconds=seconds)
        return
    except errors.KsefFailure as error:
        if is_outage(error):
            raise
        telemetry.warning("KSeF does not list sessions", code=error.code, **account.log_fields)
        account.db.run(queries.list_later, **account.columns, seconds=timing.follow_most)
        return
    found_at = account.db.now()
    # Where KSeF does not say what time it is: it, and this machine's clock are not both wrong.
    behind = min(timedelta(0), (account.ksef.said_at or clock.now()) - found_at)
    complete = began + behind - timedelta(seconds=timing.follow_overlap)
    _note_listed(
        account,
        list(listed.values()),
        found_at,
        before=state.listed_until,
        listed_until=min(end, complete) if is_whole else state.listed_until,
        catches_up=is_whole and end < began,
    )


def _starts(
    account: Account, listed_until: datetime, known: dict[str, datetime]
) -> dict[str, datetime]:
    """From when on each type of session is listed: the newest that is known should be shown too."""
    start = listed_until - timedelta(seconds=account.timing.follow_again)
    rows = account.db.rows(queries.newest, **account.columns, **known)
    newest = {row.mark: row.date_created - timedelta(seconds=1) for row in rows}
    return {name: min(start, newest.get(mark, start)) for name, mark in SESSION_TYPES.items()}


def _is_whole(
    account: Account,
    starts: dict[str, datetime],
    listed_until: datetime,
    known: dict[str, datetime],
    listed: Iterable[str],
) -> bool:
    """Whether lists from `starts` on show all sessions that earlier ones showed (`known`).

    If not, KSeF may have had trouble for a moment: the lists do not count. After an hour, or where
    KSeF has forgotten such a session, they do, but of what was before them nothing is known.
    """
    hidden = [
        row.reference_number
        for row in account.db.rows(
            queries.hidden,
            **account.columns,
            marks=[SESSION_TYPES[name] for name in starts],
            starts=list(starts.values()),
            **known,
            listed=list(listed),
        )
    ]
    if not hidden:
        return True
    telemetry.warning(
        "KSeF's lists lack a session that they showed", session=hidden[0], **account.log_fields
    )
    is_gone = False
    try:
        account.ksef.session_status(hidden[0])
    except errors.SessionNotFound:
        is_gone = True
    lasts = account.db.now() - listed_until > timedelta(seconds=account.timing.follow_again)
    if not is_gone and not lasts:
        return False
    with account.db.transaction() as connection:
        queries.distrust(connection, **account.columns)
        if is_gone:
            queries.lose(connection, **account.columns, reference_numbers=hidden)
    return True


def _note_listed(
    account: Account,
    sessions: Sequence[ListedSession],
    found_at: datetime,
    *,
    before: datetime,
    listed_until: datetime,
    catches_up: bool,
) -> None:
    """Note the sessions, and up to when these are all, in one transaction. `before`: up to when
    they were all until now.
    """
    timing = account.timing
    found = {
        "reference_numbers": [session.reference_number for session in sessions],
        "created": [session.date_created for session in sessions],
    }
    hourly = quota.hourly(account, limits.SESSION_LIST)
    with account.db.transaction() as connection:
        if not queries.hold(connection, **account.columns):  # the company was removed
            return
        arrived = before - timedelta(seconds=timing.arrival)
        is_missed = queries.missed(connection, **account.columns, **found, before=arrived)
        queries.find(
            connection,
            **account.columns,
            **found,
            told=[wire.to_json(session) for session in sessions],
            found_at=found_at,
        )
        if is_missed:
            telemetry.warning("KSeF lists a session that it did not show", **account.log_fields)
            begin_anew(account, connection, always=True)
            return
        moves = queries.moves(connection, **account.columns)
        pause = listing_pause(timing, moves=moves, hourly=hourly)
        queries.listed(
            connection,
            **account.columns,
            before=before,
            listed_until=listed_until,
            seconds=0.0 if catches_up else pause,
        )


def begin_anew(account: Account, connection: Connection, *, always: bool = False) -> None:
    """Forget up to when the lists were known, where others are shown now than before, or always."""
    queries.begin_anew(
        connection,
        **account.columns,
        host=account.ksef_host,
        seconds=account.timing.follow_before,
        always=always,
    )


def is_outage(error: Exception) -> bool:
    """Whether it says that other calls will fail too."""
    return isinstance(error, errors.KsefUnreachable) or (
        isinstance(error, errors.KsefFailure)
        and error.health in (errors.KsefHealth.DOWN, errors.KsefHealth.BLOCKED)
    )
