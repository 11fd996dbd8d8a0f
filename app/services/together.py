"""Many moving sessions of a company, asked after in one call."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import orjson

from app import errors
from app.db.queries import kept as queries
from app.ksef import wire
from app.ksef.gateway import SESSIONS
from app.services import snapshots
from app.services.active_session import ActiveSession
from app.services.leases import try_lease
from app.services.parts import Parts, Place

_WORTH_IT = 5  # so many sessions are asked after singly before one call for all pays
_TYPES = {"Online": "-SO-", "Batch": "-SB-"}


def refresh(parts: Parts, place: Place, bearer: ActiveSession) -> bool:
    """Whether the company's moving sessions were asked after together.

    Those that did not change, and whose list fits the counts, are fresh again; any other one is
    still to be asked after by itself.
    Not done for a few sessions, while somebody else does it, or where KSeF will not list them.
    """
    with try_lease(parts, f"sessions {place.environment} {place.company_nip}") as mine:
        if not mine:
            return False
        stale = _stale(parts, place)
        if len(stale) < _WORTH_IT:
            return False
        types = [name for name, mark in _TYPES.items() if _any_of(mark, stale)]
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


def _any_of(mark: str, stale: Sequence[Any]) -> bool:
    return any(mark in row.reference_number for row in stale)


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
    """The newest thousand sessions of each type, from the oldest of the stale ones on."""
    gateway = parts.ksef[place.environment]
    oldest = min(wire.session_status(row.session).date_created for row in stale)
    found: list[wire.ListedSession] = []
    for name in types:
        ask = partial(gateway.sessions, session_type=name, created_from=oldest)
        found += bearer.call(SESSIONS, ask).sessions
    return found
