"""Checks many moving sessions of a company with one call, KSeF's list of sessions."""

from app import errors
from app.account import Account
from app.db.queries import sessions as queries
from app.ksef import limits, wire
from app.ksef.client import SESSION_TYPES
from app.ksef.wire import Session
from app.services.replicas.leases import try_lease

_WORTH_IT = 15  # with fewer sessions, one call for each is cheaper


def refresh(account: Account) -> bool:
    """Check all of the company's moving sessions at once; false where that was not done.

    Kept answers that KSeF's list confirms count as fresh again, if their invoices fit the counts.
    Any other session stays stale, and must still be asked for by itself.

    Not done for only a few sessions, while another request does it, or if KSeF refuses the list.
    """
    with try_lease(account, "sessions") as mine:
        if not mine:
            return False
        stale = account.db.rows(
            queries.stale_moving,
            **account.columns,
            seconds=account.timing.fresh_least,
            wanted=account.timing.wanted,
        )
        types = [
            name
            for name, mark in SESSION_TYPES.items()
            if any(mark in row.reference_number for row in stale)
        ]
        if len(stale) < _WORTH_IT or not types:
            return False
        oldest = min(wire.decode(Session, row.session).date_created for row in stale)
        try:
            account.calls.reserve(limits.SESSION_LIST, len(types))
            # Newest first, a thousand of each type.
            listed = list(account.ksef.sessions(types[0], created_from=oldest))
            checked_at = account.calls.turn_at
            for name in types[1:]:
                listed += account.ksef.sessions(name, created_from=oldest)
        except errors.KsefFailure:
            return False
        account.db.run(
            queries.confirm_sessions,
            **account.columns,
            reference_numbers=[session.reference_number for session in listed],
            sessions=[wire.to_json(session.session) for session in listed],
            checked_at=checked_at,
        )
    return True
