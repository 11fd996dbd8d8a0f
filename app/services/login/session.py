"""A company logs in to KSeF with its stored credential, and out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app import clock, errors, telemetry
from app.account import Account
from app.db.pool import Database
from app.db.queries import login as queries
from app.ksef import login
from app.ksef.failures import KsefTokenRejected
from app.services.login import credentials
from app.services.login.tokens import (
    LEASE,
    active_row,
    attempts,
    learn_limits,
    live_refresh_token,
    never_unknown,
    sealed_columns,
)
from app.services.operators import audit
from app.services.operators.audit import What
from app.services.replicas.leases import Lease, try_lease


@dataclass(frozen=True, slots=True)
class KsefSession:
    """What may be told of a session; token values are not part of it."""

    method: str
    authenticated_at: datetime
    access_token_valid_until: datetime
    refresh_token_valid_until: datetime
    certificate_valid_until: datetime | None
    """Of the stored certificate, with which the next login is made; None: it is a KSeF token."""


def log_in(account: Account, *, by_operator: bool = False) -> KsefSession:
    """Log the company in, unless it is. However many ask at once, KSeF sees one login.

    A credential that KSeF refused a moment ago, or blocked, is not tried again but `by_operator`.
    Raises NoKsefCredential, LoginRefused and what a call to KSeF raises.
    """
    if session := _live(account):
        return session
    with clock.within(account.timing.request), account.places.one(account.company_nip):
        for _ in attempts(account):
            with try_lease(account, LEASE) as lease:
                session = _live(account)
                if lease and session is None:
                    _log_in(account, lease, by_operator)
                    session = _live(account)
            if session:
                return session
    raise AssertionError("unreachable: the attempts end by raising")


def _log_in(account: Account, lease: Lease, by_operator: bool) -> None:
    with credentials.refusal_noted(account, lease, repeat=not by_operator):
        method, tokens = credentials.log_in(account)
    with never_unknown(account, tokens), account.db.transaction() as connection:
        audit.note(connection, What.KSEF_LOGIN, **account.columns, detail=method)
        stored = lease.holds(connection) and queries.put_session(
            connection, **account.columns, method=method, **sealed_columns(account, tokens)
        )
        if stored:
            queries.clear_refusal(connection, **account.columns)
    if not stored:
        return
    telemetry.info("logged in to KSeF", **account.log_fields)
    learn_limits(account)


def list_sessions(db: Database) -> Sequence[Any]:
    """Every stored credential and the session it has: company_nip, environment, method,
    certificate_valid_until, authenticated_at, access_ and refresh_token_valid_until, refused_code,
    refused_at."""
    return db.rows(queries.list_sessions)


def current_session(account: Account) -> KsefSession:
    """The company's session as it is stored; NoActiveKsefSession where there is none."""
    return _session(active_row(account))


def log_out(account: Account) -> None:
    """Revoke the session at KSeF, then forget it; one that KSeF knows no more is only forgotten.

    Logins and renewals come before or after it, never beside it. Raises NoActiveKsefSession, what
    a call to KSeF raises, and Unavailable where the tokens do not open: the session stays.
    """
    active_row(account)
    places = account.places.one(account.company_nip)
    with clock.within(account.timing.request), places, alone(account) as lease:
        end(account, lease)


@contextmanager
def alone(account: Account) -> Iterator[Lease]:
    """The lease of logins, renewals and logouts, for the block; waited for as in `attempts`."""
    for _ in attempts(account):
        with try_lease(account, LEASE) as lease:
            if lease:
                yield lease
                return


def end(account: Account, lease: Lease) -> None:
    """As `log_out`, for whoever has the lease."""
    row = active_row(account)
    if row.refresh_token_left.total_seconds() > 0:
        _revoke(account, live_refresh_token(account, row))
    with account.db.transaction() as connection:
        if lease.holds(connection):
            queries.end_session(connection, **account.columns, version=row.version)
        audit.note(connection, What.KSEF_LOGOUT, **account.columns)


def _revoke(account: Account, refresh_token: str | None) -> None:
    if refresh_token is None:
        raise errors.Unavailable(
            "The stored KSeF session cannot be opened, and so not be revoked: the key that sealed "
            "it is missing in SECRET_KEYS. Put it back, or log in anew and then out."
        )
    try:
        login.revoke(account.http, refresh_token)
    except KsefTokenRejected:
        telemetry.info("KSeF had ended the session before its logout", **account.log_fields)


def _live(account: Account) -> KsefSession | None:
    """The session, where its refresh token is still good, and opens."""
    row = account.db.run(queries.get_session, **account.columns)
    return _session(row) if row is not None and live_refresh_token(account, row) else None


def _session(row: Any) -> KsefSession:
    return KsefSession(
        method=row.method,
        authenticated_at=row.authenticated_at,
        access_token_valid_until=row.access_token_valid_until,
        refresh_token_valid_until=row.refresh_token_valid_until,
        certificate_valid_until=row.certificate_valid_until,
    )
