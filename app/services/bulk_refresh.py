"""Checks many moving sessions of a company with one call, KSeF's list of sessions."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import orjson

from app import errors
from app.db.queries import kept as queries
from app.ksef import wire
from app.ksef.gateway import SESSION_TYPES, SESSIONS
from app.services import snapshots
from app.services.active_session import ActiveSession
from app.services.leases import try_lease
from app.services.parts import Parts, Place

_WORTH_IT = 15  # with fewer sessions, one call for each is cheaper


def refresh(parts: Parts, place: Place, bearer: ActiveSession) -> bool:
    """Check all of the company's moving sessions at once; false where that was not done.

    Kept answers that KSeF's list confirms count as fresh again, if their invoices fit the counts.
    Any other session stays stale, and must still be asked for by itself.

    Not done for only a few sessions, while another request does it, or if KSeF refuses the list.
    """
    with try_lease(parts, f"sessions {place.environment} {place.company_nip}") as mine:
        if not mine:
            return False
        stale = _stale(parts, place)
        if len(stale) < _WORTH_IT:
            return False
        types = [
            name
            for name, mark in SESSION_TYPES.items()
            if any(mark in row.reference_number for row in stale)
        ]
        if not types:
            return False
        try:
            bearer.reserve(SESSIONS, len(types))
            checked_at = snapshots.database_now(parts)
            listed = _list(parts, place, bearer, stale, types)
        except errors.KsefFailure:
            return False
        parts.db.run(
            queries.confirm_sessions,
            **place.columns,
            reference_numbers=[session.reference_number for session in listed],
            sessions=[
                orjson.dumps(wire.session_json(session.status)).decode() for session in listed
            ],
            checked_at=checked_at,
        )
    return True


def _stale(parts: Parts, place: Place) -> Sequence[Any]:
    return parts.db.rows(
        queries.stale_moving,
        **place.columns,
        seconds=parts.timing.fresh_least,
        wanted=parts.timing.wanted,
    )


def _list(
    parts: Parts, place: Place, bearer: ActiveSession, stale: Sequence[Any], types: Sequence[str]
) -> list[wire.ListedSession]:
    """KSeF's newest thousand sessions of each type, from the oldest of the stale ones on."""
    gateway = parts.ksef[place.environment]
    oldest = min(wire.session_status(row.session).date_created for row in stale)
    found: list[wire.ListedSession] = []
    for name in types:
        ask = partial(gateway.sessions, session_type=name, created_from=oldest)
        found += bearer.call(SESSIONS, ask).sessions
    return found
