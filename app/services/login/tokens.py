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
from contextlib import contextmanager
from typing import Any

from app import clock, errors, telemetry
from app.account import Account
from app.db.queries import login as queries
from app.ksef import login
from app.ksef.failures import KsefTokenRejected
from app.ksef.login import LoginRefused
from app.ksef.wire import Tokens
from app.services.login import credentials
from app.services.operators import audit
from app.services.operators.audit import What
from app.services.replicas import leases, quota
from app.services.replicas.leases import Lease, try_lease

LEASE = "auth"
# Replicas and workers must not find a token ending at the same moment.
_SPREAD = 0.15
_PROCESS = random.random()  # noqa: S311 - spreads work, no secret
# KSeF's codes for a refresh token that will not do again.
_REFRESH_REFUSED = frozenset({21301, 21304, 21308})
_NOT_LOGGED_IN = (
    "This company has no active KSeF session in this environment: log in with "
    "POST /auth/{environment}, or the command `login`."
)


class AccessToken:
    """The access token of an account, for the calls of one request or command."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._version = 0
        self._token = ""
        self._read_at = -math.inf

    def access_token(self) -> str:
        """The token; one that is about to end is renewed first. Raises NoActiveKsefSession."""
        if clock.monotonic() - self._read_at > self._account.timing.refresh_due / 2:
            self._take(*_ready(self._account, active_row(self._account)))
        return self._token

    def renew(self, *, by_login: bool) -> None:
        """A new token in place of one that KSeF refused: by a refresh, or by a login."""
        self._take(*_renew(self._account, self._version, by_login=by_login))

    def _take(self, version: int, token: str) -> None:
        self._version, self._token = version, token
        self._read_at = clock.monotonic()


def _ready(account: Account, row: Any) -> tuple[int, str]:
    """The version and the token, renewed ahead of its end; waited for where the old one won't do.

    Whether a token is good is decided by the database's clock.
    """
    timing = account.timing
    left = row.access_token_left.total_seconds()
    token = _opened(account, row)
    if left <= timing.refresh_due or token is None:
        return _renew(account, row.version)
    if left > timing.refresh_ahead * _spread(account, row.version):
        return row.version, token
    if row.renewal_failed_for is not None and row.renewal_failed_for < timing.refresh_pause:
        return row.version, token
    try:
        with try_lease(account, LEASE, timing.lease_refresh) as lease:
            if lease:
                _renew_once(account, row.version, lease)
    except errors.KsefFailure as error:
        telemetry.warning("a renewal failed ahead of time", code=error.code, **account.log_fields)
        return row.version, token
    newest = active_row(account)
    newer = _opened(account, newest)
    return (row.version, token) if newer is None else (newest.version, newer)


def _opened(account: Account, row: Any) -> str | None:
    return account.opened(row.access_token, "access token")


def _spread(account: Account, version: int) -> float:
    """A factor near 1: another one in each process, for each session and each of its tokens."""
    seed = f"{_PROCESS} {account.company_nip} {account.environment} {version}"
    return random.Random(seed).uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311 - no secret


def _renew(account: Account, known_version: int, *, by_login: bool = False) -> tuple[int, str]:
    """A newer version than the known one, and its token: renewed here or by whoever was first."""
    began = clock.monotonic()
    for _ in attempts(account):
        waited = clock.monotonic() - began
        row = active_row(account)
        if row.version != known_version:
            if token := _opened(account, row):
                return row.version, token
            # By a replica that seals with a key that we lack: nothing is known against it.
            known_version, by_login = row.version, False
        _refuse_if_failed(account, row, waited)
        with try_lease(account, LEASE, account.timing.lease_refresh) as lease:
            if lease:
                _renew_once(account, known_version, lease, by_login=by_login, since=began)
                row = active_row(account)
        if row.version != known_version and (token := _opened(account, row)):
            return row.version, token
    raise AssertionError("unreachable: the attempts end by raising")


def _refuse_if_failed(account: Account, row: Any, seconds: float) -> None:
    """KsefUnreachable where a renewal failed in the last so many seconds: it is not repeated.

    `seconds` up to a moment before the row was read: a slow answer must not make a failure younger.
    """
    if row.renewal_failed_for is not None and row.renewal_failed_for < seconds:
        raise errors.KsefUnreachable(
            "The company's KSeF session could not be renewed a moment ago.",
            retry_after=account.timing.retry_after,
        )


def _renew_once(
    account: Account,
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
    row = active_row(account)
    if row.version != known_version:
        return
    _refuse_if_failed(account, row, waited)
    tokens = None
    try:
        renewed = None if by_login else _refreshed(account, row)
        if renewed is None:
            method, tokens = _logged_in_again(account, row, lease)
            renewed = {"method": method, **sealed_columns(account, tokens)}
    except errors.KsefFailure:
        account.db.run(queries.note_failed_renewal, **account.columns, version=row.version)
        raise
    with never_unknown(account, tokens), account.db.transaction() as connection:
        if tokens:
            audit.note(connection, What.KSEF_SILENT_LOGIN, **account.columns, detail=method)
        if lease.holds(connection):
            queries.renew_session(connection, **account.columns, version=row.version, **renewed)
    learn_limits(account)


@contextmanager
def never_unknown(account: Account, tokens: Tokens | None) -> Iterator[None]:
    """Store the tokens of a login in the block. If they are not, their session is revoked.

    The row tells it, even where the block failed: its commit may have been made all the same.
    """
    try:
        yield
    finally:
        try:
            row = account.db.run(queries.get_session, **account.columns) if tokens else None
            known = account.opened(row.refresh_token, "refresh token") if row else None
            if tokens and known != tokens.refresh.value:
                login.revoke(account.http, tokens.refresh.value)
        except errors.ProxyError:
            telemetry.warning("a KSeF session that may be unknown lives on", **account.log_fields)


def _refreshed(account: Account, row: Any) -> dict[str, Any] | None:
    """The columns after a refresh; None where the refresh token will not do.

    It ended, does not open, or is refused for good.
    """
    refresh_token = live_refresh_token(account, row)
    if refresh_token is None:
        return None
    try:
        access = login.refresh(account.http, refresh_token)
    except KsefTokenRejected:
        return None
    except errors.KsefError as error:
        if error.ksef is None or error.ksef.code not in _REFRESH_REFUSED:
            raise
        return None
    return {
        "method": row.method,
        "access_token": account.seal(access.value, "access token"),
        "access_token_valid_until": access.valid_until,
        "refresh_token": row.refresh_token,
        "refresh_token_valid_until": row.refresh_token_valid_until,
    }


def live_refresh_token(account: Account, row: Any) -> str | None:
    """The refresh token of a session; None where it ended or does not open."""
    return None if _has_ended(row) else account.opened(row.refresh_token, "refresh token")


def _has_ended(row: Any) -> bool:
    return bool(row.refresh_token_left.total_seconds() <= 0)


def _logged_in_again(account: Account, row: Any, lease: Lease) -> tuple[str, Tokens]:
    """A silent login in place of an ended session: method and tokens; refused, it is over."""
    try:
        made = _silent_login(account, lease)
    except (LoginRefused, errors.NoKsefCredential) as error:
        # What only does not open here may be alive for replicas that have its key.
        if _has_ended(row) or live_refresh_token(account, row):
            with account.db.transaction() as connection:
                if lease.holds(connection):
                    queries.end_session(connection, **account.columns, version=row.version)
        telemetry.warning("KSeF refuses the company's credential", **account.log_fields)
        raise errors.NoActiveKsefSession(
            f"The KSeF session ended and could not be renewed. {error.detail}", ksef=error.ksef
        ) from error
    telemetry.info("logged in to KSeF again", **account.log_fields)
    return made


def _silent_login(account: Account, lease: Lease) -> tuple[str, Tokens]:
    """A login that nobody asked for, by which method; at most one in a while, of all replicas."""
    credentials.stored(account)  # who cannot open it takes no turn from those who can
    wait = account.db.run(
        queries.claim_silent_login,
        **account.columns,
        seconds=account.timing.silent_login,
        lease=lease.name,
        holder=lease.holder,
        lease_seconds=account.timing.lease_refresh,
    )
    if wait is not None and wait > 0:
        raise errors.KsefError(
            "The KSeF session ended, and the last login in its place was a moment ago.",
            retry_after=math.ceil(wait),
        )
    lease.extend(account, account.timing.lease)
    with credentials.refusal_noted(account, lease, repeat=True):
        return credentials.log_in(account)


def learn_limits(account: Account) -> None:
    """Read the company's own limits with its new token, unless that was done within a day.

    Where it fails, the limits known so far hold until the next renewal.
    """
    if quota.limits_are_fresh(account):
        return
    try:
        token = _opened(account, active_row(account))
        if token is not None:
            quota.store_limits(account, login.rate_limits(account.http, token))
    except errors.ProxyError as error:
        telemetry.warning(
            "KSeF's limits could not be read", reason=error.detail, **account.log_fields
        )


def sealed_columns(account: Account, tokens: Tokens) -> dict[str, Any]:
    """The columns of `ksef_sessions` that hold tokens, the tokens sealed."""
    return {
        "access_token": account.seal(tokens.access.value, "access token"),
        "access_token_valid_until": tokens.access.valid_until,
        "refresh_token": account.seal(tokens.refresh.value, "refresh token"),
        "refresh_token_valid_until": tokens.refresh.valid_until,
    }


def attempts(account: Account) -> Iterator[None]:
    """Attempts at a login or renewal, until the request's time is over (see `leases.attempts`)."""
    return leases.attempts(account, "login", min(account.timing.request, clock.time_left()))


def active_row(account: Account) -> Any:
    """The row of the company's KSeF session. Raises NoActiveKsefSession, with KSeF's reason if that
    refuses the credential."""
    row = account.db.run(queries.get_session, **account.columns)
    if row is None:
        refusal = credentials.stored_refusal(account)
        reason = f" {refusal.detail}" if refusal else ""
        raise errors.NoActiveKsefSession(
            _NOT_LOGGED_IN + reason, ksef=refusal.ksef if refusal else None
        )
    return row
