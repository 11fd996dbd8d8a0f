"""A company logs in to KSeF with its stored credential, and out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app import clock, errors, telemetry
from app.db.queries import auth as queries
from app.ksef.certificates import Certificate
from app.ksef.gateway import REVOKE
from app.ksef.transport import KsefTokenRejected
from app.services import audit
from app.services.active_session import ActiveSession
from app.services.audit import What
from app.services.leases import Lease, try_lease
from app.services.logins import new_tokens, refusal_noted, seal, sealed_columns
from app.services.parts import Parts, Place
from app.services.tokens import (
    active_row,
    learn_limits,
    lease_name,
    live_refresh_token,
    row_of,
    turns,
)


@dataclass(frozen=True, slots=True)
class KsefSession:
    """What may be told of a session; token values are not part of it."""

    method: str
    authenticated_at: datetime
    access_token_valid_until: datetime
    refresh_token_valid_until: datetime
    certificate_valid_until: datetime | None
    """Of the stored certificate, with which the next login is made; None: it is a KSeF token."""


def set_token(parts: Parts, place: Place, ksef_token: str) -> None:
    """Store a KSeF token as the company's credential, sealed."""
    if not ksef_token or not ksef_token.isprintable():
        raise errors.OperatorError("A KSeF token is one line of printable characters.")
    with parts.db.transaction() as connection:
        queries.put_credential(
            connection,
            **place.columns,
            method="token",
            secret=seal(parts, place, ksef_token, "credential"),
            certificate_valid_until=None,
        )
        audit.note(connection, What.CREDENTIAL_STORED, **place.columns, detail="token")


def set_certificate(parts: Parts, place: Place, certificate: Certificate) -> None:
    """Store a certificate and its key as the company's credential, sealed."""
    with parts.db.transaction() as connection:
        queries.put_credential(
            connection,
            **place.columns,
            method="certificate",
            secret=seal(parts, place, certificate.to_json(), "credential"),
            certificate_valid_until=certificate.valid_until,
        )
        audit.note(connection, What.CREDENTIAL_STORED, **place.columns, detail="certificate")


def log_in(parts: Parts, place: Place, *, by_operator: bool = False) -> KsefSession:
    """Log the company in, unless it is. However many ask at once, KSeF sees one login.

    A credential that KSeF refused a moment ago, or blocked, is not tried again but `by_operator`.
    Raises NoKsefCredential, LoginRefused and what the gateway raises.
    """
    if session := _live(parts, place):
        return session
    with clock.within(parts.timing.request), parts.places.one(place.company_nip):
        for _ in turns(parts):
            if session := _live(parts, place):
                return session
            with try_lease(parts, lease_name(place)) as lease:
                if lease and not _live(parts, place):
                    _log_in(parts, place, lease, by_operator)
                    learn_limits(parts, place)
                if lease and (session := _live(parts, place)):
                    return session
    raise AssertionError("unreachable: the turns end by raising")


def _log_in(parts: Parts, place: Place, lease: Lease, by_operator: bool) -> None:
    with refusal_noted(parts, place, lease, repeat=not by_operator):
        method, tokens = new_tokens(parts, place)
    with parts.db.transaction() as connection:
        audit.note(connection, What.KSEF_LOGIN, **place.columns, detail=method)
        if not lease.holds(connection):
            return
        queries.put_session(
            connection,
            **place.columns,
            method=method,
            **sealed_columns(parts, place, tokens),
        )
        queries.clear_refusal(connection, **place.columns)
    telemetry.info("logged in to KSeF", **place.log_fields)


def list_sessions(parts: Parts) -> Sequence[Any]:
    """Every stored credential and the session it has: company_nip, environment, method,
    authenticated_at, access_ and refresh_token_valid_until, refused_code, refused_at."""
    return parts.db.rows(queries.list_sessions)


def current_session(parts: Parts, place: Place) -> KsefSession:
    """The company's session as it is stored; NoActiveKsefSession where there is none."""
    return _told(active_row(parts, place))


def log_out(parts: Parts, place: Place) -> None:
    """Revoke the session at KSeF, then forget it; one that KSeF knows no more is only forgotten.

    Raises Unavailable where its tokens do not open: it stays, and nobody logs in to log out.
    """
    row = active_row(parts, place)
    if row.refresh_token_left.total_seconds() <= 0:
        _forget(parts, place)
        return
    if live_refresh_token(parts, place, row) is None:
        raise errors.Unavailable(
            "The stored KSeF session cannot be opened, and so not be revoked: the key that sealed "
            "it is missing in SECRET_KEYS. Put it back, or log in anew and then out."
        )
    try:
        with parts.places.one(place.company_nip):
            ActiveSession(parts, place).call(REVOKE, parts.ksef[place.environment].revoke)
    except KsefTokenRejected:
        telemetry.info("KSeF had ended the session before its logout", **place.log_fields)
    _forget(parts, place)


def _live(parts: Parts, place: Place) -> KsefSession | None:
    """The session, where its refresh token is still good, and opens."""
    row = row_of(parts, place)
    return _told(row) if row is not None and live_refresh_token(parts, place, row) else None


def _told(row: Any) -> KsefSession:
    return KsefSession(
        method=row.method,
        authenticated_at=row.authenticated_at,
        access_token_valid_until=row.access_token_valid_until,
        refresh_token_valid_until=row.refresh_token_valid_until,
        certificate_valid_until=row.certificate_valid_until,
    )


def _forget(parts: Parts, place: Place) -> None:
    with parts.db.transaction() as connection:
        queries.delete_session(connection, **place.columns)
        audit.note(connection, What.KSEF_LOGOUT, **place.columns)
