"""A company's tokens, good when they are needed.

A row in `ksef_sessions` is an active KSeF session. It ends by a logout or when KSeF refuses the
stored credential, never because a token ran out: an ending access token is refreshed, an ended
refresh token is replaced by a new login, at most one in a while. One thread of all replicas does
that, under a lease. While the old token is good the others go on with it; else they wait and take
what was stored, or learn that it failed.

Tokens that do not open are renewed like ended ones, but never forgotten: while SECRET_KEYS change,
or where they are wrong in one place, other replicas may have the key.
"""

import math
import random
from collections.abc import Iterator
from typing import Any

from app import clock, errors, meters, telemetry
from app.db.queries import auth as queries
from app.ksef import limits
from app.ksef.auth import LoginRefused
from app.ksef.transport import DEFAULT_RETRY_AFTER, KsefTokenRejected
from app.ksef.wire import Tokens
from app.services import audit, quota
from app.services.audit import What
from app.services.leases import Lease, try_lease
from app.services.logins import (
    new_tokens,
    open_secret,
    opened,
    refusal_noted,
    seal,
    sealed_columns,
    stored_credential,
    stored_refusal,
)
from app.services.parts import Parts, Place

# Replicas and workers must not find a token ending at the same moment.
_SPREAD = 0.15
_PROCESS = random.random()  # noqa: S311 - spreads work, no secret
# KSeF's codes for a refresh token that will not do again.
_REFRESH_REFUSED = frozenset({21301, 21304, 21308})
_NOT_LOGGED_IN = (
    "This company has no active KSeF session in this environment: log in with "
    "POST /auth/{environment}, or the command `login`."
)


def ready(parts: Parts, place: Place, row: Any) -> Any:
    """The row, its token renewed ahead of its end; waited for only where the old one will not do.

    Whether a token is good is decided by the database's clock.
    """
    timing = parts.timing
    left = row.access_token_left.total_seconds()
    if left <= timing.refresh_due or not _opens(parts, place, row):
        return renew(parts, place, row.version)
    if left > timing.refresh_ahead * _spread(place, row.version):
        return row
    if row.renewal_failed_for is not None and row.renewal_failed_for < timing.refresh_pause:
        return row
    try:
        with try_lease(parts, lease_name(place), timing.lease_refresh) as lease:
            if lease:
                _renew_once(parts, place, row.version, lease)
    except errors.KsefFailure as error:
        telemetry.warning("a renewal failed ahead of time", code=error.code, **place.log_fields)
        return row
    newest = active_row(parts, place)
    return newest if _opens(parts, place, newest) else row


def _opens(parts: Parts, place: Place, row: Any) -> bool:
    return opened(parts, place, row.access_token, "access token") is not None


def _spread(place: Place, version: int) -> float:
    """A factor near 1: another one in each process, for each session and each of its tokens."""
    seed = f"{_PROCESS} {place.company_nip} {place.environment} {version}"
    return random.Random(seed).uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311 - no secret


def renew(parts: Parts, place: Place, known_version: int, *, by_login: bool = False) -> Any:
    """The session's row, newer than `known_version`: renewed here, or by whoever was first."""
    began = clock.monotonic()
    for _ in turns(parts):
        waited = clock.monotonic() - began
        row = active_row(parts, place)
        if row.version != known_version:
            if _opens(parts, place, row):
                return row
            # By a replica that seals with a key that we lack: nothing is known against it.
            known_version, by_login = row.version, False
        _refuse_if_failed(parts, row, waited)
        with try_lease(parts, lease_name(place), parts.timing.lease_refresh) as lease:
            if lease:
                _renew_once(parts, place, known_version, lease, by_login=by_login, since=began)
                learn_limits(parts, place)
                row = active_row(parts, place)
        if row.version != known_version and _opens(parts, place, row):
            return row
    raise AssertionError("unreachable: the turns end by raising")


def _refuse_if_failed(parts: Parts, row: Any, seconds: float) -> None:
    """KsefUnreachable where a renewal failed in the last so many seconds: it is not repeated.

    `seconds` up to a moment before the row was read: a slow answer must not make a failure younger.
    """
    if row.renewal_failed_for is not None and row.renewal_failed_for < seconds:
        raise errors.KsefUnreachable(
            "The company's KSeF session could not be renewed a moment ago.",
            retry_after=parts.timing.retry_after,
        )


def _renew_once(
    parts: Parts,
    place: Place,
    known_version: int,
    lease: Lease,
    *,
    by_login: bool = False,
    since: float = math.inf,
) -> None:
    """Renew under the lease, unless somebody did since `known_version`.

    Nor where somebody tried in vain `since` then, a moment of `clock.monotonic`.
    """
    waited = clock.monotonic() - since
    row = active_row(parts, place)
    if row.version != known_version:
        return
    _refuse_if_failed(parts, row, waited)
    try:
        refreshed = None if by_login else _refreshed(parts, place, row)
        renewed = refreshed or _logged_in_again(parts, place, row, lease)
    except errors.KsefFailure:
        parts.db.run(queries.note_failed_renewal, **place.columns, version=row.version)
        raise
    with parts.db.transaction() as connection:
        if refreshed is None:
            audit.note(
                connection, What.KSEF_SILENT_LOGIN, **place.columns, detail=renewed["method"]
            )
        if lease.holds(connection):
            queries.renew_session(connection, **place.columns, version=row.version, **renewed)


def _refreshed(parts: Parts, place: Place, row: Any) -> dict[str, Any] | None:
    """The columns after a refresh; None where the refresh token will not do.

    It ended, does not open, or is refused for good.
    """
    refresh_token = live_refresh_token(parts, place, row)
    if refresh_token is None:
        return None
    try:
        access = parts.ksef[place.environment].refresh(refresh_token)
    except KsefTokenRejected:
        return None
    except errors.KsefError as error:
        if error.ksef is None or error.ksef.code not in _REFRESH_REFUSED:
            raise
        return None
    return {
        "method": row.method,
        "access_token": seal(parts, place, access.value, "access token"),
        "access_token_valid_until": access.valid_until,
        "refresh_token": row.refresh_token,
        "refresh_token_valid_until": row.refresh_token_valid_until,
    }


def live_refresh_token(parts: Parts, place: Place, row: Any) -> str | None:
    """The refresh token of a session; None where it ended or does not open."""
    if _refresh_token_ended(row):
        return None
    return opened(parts, place, row.refresh_token, "refresh token")


def _refresh_token_ended(row: Any) -> bool:
    return bool(row.refresh_token_left.total_seconds() <= 0)


def _logged_in_again(parts: Parts, place: Place, row: Any, lease: Lease) -> dict[str, Any]:
    """The columns after a silent login in place of an ended session; refused, it is over."""
    try:
        method, tokens = _silent_login(parts, place, lease)
    except (LoginRefused, errors.NoKsefCredential) as error:
        # What only does not open here may be alive for replicas that have its key.
        if _refresh_token_ended(row) or live_refresh_token(parts, place, row):
            with parts.db.transaction() as connection:
                if lease.holds(connection):
                    queries.end_session(connection, **place.columns, version=row.version)
        telemetry.warning("KSeF refuses the company's credential", **place.log_fields)
        raise errors.NoActiveKsefSession(
            f"The KSeF session ended and could not be renewed. {error.detail}", ksef=error.ksef
        ) from error
    telemetry.info("logged in to KSeF again", **place.log_fields)
    return {"method": method, **sealed_columns(parts, place, tokens)}


def _silent_login(parts: Parts, place: Place, lease: Lease) -> tuple[str, Tokens]:
    """A login that nobody asked for, by which method; at most one in a while, of all replicas."""
    stored_credential(parts, place)  # who cannot open it takes no turn from those who can
    wait = parts.db.run(
        queries.claim_silent_login, **place.columns, seconds=parts.timing.silent_login
    )
    if wait is not None and wait > 0:
        raise errors.KsefError(
            "The KSeF session ended, and the last login in its place was a moment ago.",
            retry_after=math.ceil(wait),
        )
    lease.extend(parts, parts.timing.lease)
    with refusal_noted(parts, place, lease, repeat=True):
        return new_tokens(parts, place)


def learn_limits(parts: Parts, place: Place) -> None:
    """Read the company's own limits, unless that was done within a day.

    Where it fails, the limits known so far hold until the next renewal.
    """
    if quota.limits_are_fresh(parts, place):
        return
    gateway = parts.ksef[place.environment]
    try:
        quota.reserve(parts, place, limits.OTHER, patience=0.0)
        row = active_row(parts, place)
        found = gateway.rate_limits(open_secret(parts, place, row.access_token, "access token"))
        quota.read_limits(parts, place, found)
    except errors.ProxyError as error:
        if isinstance(error, errors.KsefRateLimited) and error.ksef:
            seconds = error.retry_after or DEFAULT_RETRY_AFTER
            quota.block(parts, place, limits.OTHER, seconds)
        telemetry.warning(
            "KSeF's limits could not be read", reason=error.detail, **place.log_fields
        )


def turns(parts: Parts) -> Iterator[None]:
    """Turns at looking whether somebody else has done it, until the request's time is over."""
    deadline = clock.monotonic() + min(parts.timing.request, clock.time_left())
    while True:
        yield
        if clock.monotonic() > deadline:
            raise errors.Unavailable(
                "Another request is still logging in to KSeF.",
                retry_after=parts.timing.retry_after,
            )
        clock.sleep(parts.timing.lease_poll)
        meters.lease_wait_seconds.labels("login").inc(parts.timing.lease_poll)


def row_of(parts: Parts, place: Place) -> Any:
    return parts.db.run(queries.get_session, **place.columns)


def active_row(parts: Parts, place: Place) -> Any:
    """The row of the company's KSeF session. Raises NoActiveKsefSession, with KSeF's reason if that
    refuses the credential."""
    row = row_of(parts, place)
    if row is None:
        refusal = stored_refusal(parts, place)
        reason = f" {refusal.detail}" if refusal else ""
        raise errors.NoActiveKsefSession(
            _NOT_LOGGED_IN + reason, ksef=refusal.ksef if refusal else None
        )
    return row


def lease_name(place: Place) -> str:
    return f"auth:{place.environment}:{place.company_nip}"
