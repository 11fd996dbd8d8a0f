"""A company's session with KSeF: logging in and out, and tokens that are good when needed.

A row in `ksef_sessions` is an active KSeF session. It ends by a logout or when KSeF refuses the
stored credential, never because a token ran out: an ending access token is refreshed, an ended
refresh token is replaced by a new login, at most one in a while. One thread of all replicas does
that, under a lease. While the old token is good the others go on with it; else they wait and take
what was stored, or learn that it failed.

A credential that KSeF refuses is marked so. One that its security blocked (480) is not tried again
until an operator stores it anew or logs in by command.
"""

import math
import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from app import clock, errors, meters, telemetry
from app.crypto import SealError
from app.db.queries import auth as queries
from app.ksef import limits
from app.ksef.auth import LoginRefused, log_in_with_certificate, log_in_with_token
from app.ksef.certificates import Certificate
from app.ksef.gateway import REVOKE, Route, TokensLost
from app.ksef.transport import DEFAULT_RETRY_AFTER, KsefTokenRejected
from app.ksef.wire import Tokens
from app.services import audit, quota
from app.services.audit import What
from app.services.leases import Lease, try_lease
from app.services.parts import Parts, Place

T = TypeVar("T")

_LATE = 0.05  # seconds; a call that goes out later than set aside belongs into other windows
_TURNS = 3
BLOCKED = 480  # KSeF's security blocked the credential: trying again makes it worse
# Replicas and workers must not find a token ending at the same moment.
_SPREAD = 0.15
_PROCESS = random.random()  # noqa: S311 - spreads work, no secret
# KSeF's codes for a refresh token that will not do again.
_REFRESH_REFUSED = frozenset({21301, 21304, 21308})
_NOT_LOGGED_IN = (
    "This company has no active KSeF session in this environment: log in with "
    "POST /auth/{environment}."
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


class ActiveSession:
    """The company's KSeF session for the calls of one request (a `Bearer` of the gateway).

    Every call is set aside in the quota first, and waits for its turn for at most `patience`
    seconds; of the quota it takes at most `share`.
    """

    def __init__(
        self, parts: Parts, place: Place, *, patience: float | None = None, share: float = 1.0
    ) -> None:
        """Raises NoActiveKsefSession at once; renews a token that is about to end."""
        self._parts = parts
        self._place = place
        self._patience = parts.timing.quota_patience if patience is None else patience
        self._share = share
        self._slots: dict[str, deque[quota.Slot]] = defaultdict(deque)
        self._row = _ready(parts, place, _require(_row(parts, place)))
        self._renewed = False
        self._logged_in_anew = False

    def reserve(self, route: Route, units: int) -> None:
        """Set quota aside for so many calls of a route; KsefRateLimited where that takes long."""
        if group := route.quota_group:
            self._slots[group].extend(self._reserved(group, units))

    def require(self, route: Route) -> None:
        """KsefRateLimited where a call of a route could not go soon; sets nothing aside."""
        if group := route.quota_group:
            quota.require(
                self._parts, self._place, group, patience=self._patience, share=self._share
            )

    def call(self, route: Route, send: Callable[[str], T]) -> T:
        """Call `send` with the access token; where KSeF refuses it, once more with a new one.

        A new one that is refused as well is replaced once, by a login.
        """
        while True:
            try:
                return self._send(route, send)
            except KsefTokenRejected:
                if self._logged_in_anew or (self._renewed and route is REVOKE):
                    raise
                self._logged_in_anew = self._renewed
                self._row = _renew(
                    self._parts, self._place, self._row.version, by_login=self._renewed
                )
                self._renewed = True

    def _send(self, route: Route, send: Callable[[str], T]) -> T:
        """Send, and once more where that changes nothing, may help and finds quota."""
        if route.method != "GET":
            return self._send_once(route, send)
        return self._parts.ksef[self._place.environment].retry.once(
            lambda: self._send_once(route, send), may=lambda: self._may_send_again(route)
        )

    def _may_send_again(self, route: Route) -> bool:
        try:
            self.reserve(route, 1)
        except errors.KsefRateLimited:
            return False
        return True

    def _send_once(self, route: Route, send: Callable[[str], T]) -> T:
        group = route.quota_group
        if group:
            self._wait_for_turn(group)
        try:
            return send(self._access_token())
        except errors.KsefRateLimited as error:
            if group:
                seconds = error.retry_after or DEFAULT_RETRY_AFTER
                quota.block(self._parts, self._place, group, seconds)
            raise

    def _wait_for_turn(self, group: str) -> None:
        """Return at the moment for which a call was set aside.

        One that was set aside a while ago is set aside anew: counted where it is really sent. It
        does not go at all where KSeF has blocked the group meanwhile.
        """
        slots = self._slots[group]
        if not slots:
            slots.extend(self._reserved(group, 1))
        slot = slots.popleft()
        for _ in range(_TURNS):
            wait = slot.moment - clock.monotonic()
            if wait > 0:
                clock.sleep(wait)
                quota.refuse_if_blocked(self._parts, self._place, group)
            if clock.monotonic() - slot.moment <= _LATE:
                return
            [slot] = self._reserved(group, 1, instead_of=slot)
        clock.sleep(max(0.0, slot.moment - clock.monotonic()))

    def _reserved(
        self, group: str, units: int, *, instead_of: quota.Slot | None = None
    ) -> list[quota.Slot]:
        self._parts.watches[self._place.environment].check()  # a KSeF that is down costs no quota
        return quota.reserve(
            self._parts,
            self._place,
            group,
            units,
            patience=self._patience,
            share=self._share,
            instead_of=instead_of,
        )

    def _access_token(self) -> str:
        return _open(self._parts, self._place, self._row.access_token, "access token")


def set_token(parts: Parts, place: Place, ksef_token: str) -> None:
    """Store a KSeF token as the company's credential, sealed."""
    if not ksef_token or not ksef_token.isprintable():
        raise errors.OperatorError("A KSeF token is one line of printable characters.")
    with parts.db.transaction() as connection:
        queries.put_credential(
            connection,
            **place.columns,
            method="token",
            secret=_seal(parts, place, ksef_token, "credential"),
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
            secret=_seal(parts, place, certificate.to_json(), "credential"),
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
        for _ in _turns(parts):
            if session := _live(parts, place):
                return session
            with try_lease(parts, _lease_name(place)) as lease:
                if lease and not _live(parts, place):
                    _log_in(parts, place, lease, by_operator)
                    _learn_limits(parts, place)
                if lease and (session := _live(parts, place)):
                    return session
    raise AssertionError("unreachable: the turns end by raising")


def _log_in(parts: Parts, place: Place, lease: Lease, by_operator: bool) -> None:
    with _refusal_noted(parts, place, lease, repeat=not by_operator):
        method, tokens = _new_tokens(parts, place)
    with parts.db.transaction() as connection:
        audit.note(connection, What.KSEF_LOGIN, **place.columns, detail=method)
        if not lease.holds(connection):
            return
        queries.put_session(
            connection,
            **place.columns,
            method=method,
            **_sealed(parts, place, tokens),
        )
        queries.clear_refusal(connection, **place.columns)
    telemetry.info("logged in to KSeF", **place.log_fields)


def list_sessions(parts: Parts) -> Sequence[Any]:
    """Every stored credential and the session it has: company_nip, environment, method,
    authenticated_at, access_ and refresh_token_valid_until, refused_code, refused_at."""
    return parts.db.rows(queries.list_sessions)


def current_session(parts: Parts, place: Place) -> KsefSession:
    """The company's session as it is stored; NoActiveKsefSession where there is none."""
    return _told(_require(_row(parts, place)))


def log_out(parts: Parts, place: Place) -> None:
    """Revoke the session at KSeF, then forget it; one that KSeF knows no more is only forgotten."""
    if _require(_row(parts, place)).refresh_token_left.total_seconds() <= 0:
        _forget(parts, place)
        return
    try:
        with parts.places.one(place.company_nip):
            ActiveSession(parts, place).call(REVOKE, parts.ksef[place.environment].revoke)
    except KsefTokenRejected:
        telemetry.info("KSeF had ended the session before its logout", **place.log_fields)
    _forget(parts, place)


def _ready(parts: Parts, place: Place, row: Any) -> Any:
    """The row, its token renewed ahead of its end; waited for only where the old one will not do.

    Whether a token is good is decided by the database's clock.
    """
    timing = parts.timing
    left = row.access_token_left.total_seconds()
    if left <= timing.refresh_due:
        return _renew(parts, place, row.version)
    if left > timing.refresh_ahead * _spread(place, row.version):
        return row
    if row.renewal_failed_for is not None and row.renewal_failed_for < timing.refresh_pause:
        return row
    try:
        with try_lease(parts, _lease_name(place), timing.lease_refresh) as lease:
            if lease:
                _renew_once(parts, place, row.version, lease)
    except errors.KsefFailure as error:
        telemetry.warning("a renewal failed ahead of time", code=error.code, **place.log_fields)
        return row
    return _require(_row(parts, place))


def _spread(place: Place, version: int) -> float:
    """A factor near 1: another one in each process, for each session and each of its tokens."""
    seed = f"{_PROCESS} {place.company_nip} {place.environment} {version}"
    return random.Random(seed).uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311 - no secret


def _renew(parts: Parts, place: Place, known_version: int, *, by_login: bool = False) -> Any:
    """The session's row, newer than `known_version`: renewed here, or by whoever was first."""
    began = clock.monotonic()
    for _ in _turns(parts):
        row = _require(_row(parts, place))
        if row.version != known_version:
            return row
        failed_for = row.renewal_failed_for
        if failed_for is not None and failed_for < clock.monotonic() - began:
            raise errors.KsefUnreachable(
                "The company's KSeF session could not be renewed a moment ago.",
                retry_after=parts.timing.retry_after,
            )
        with try_lease(parts, _lease_name(place), parts.timing.lease_refresh) as lease:
            if lease:
                _renew_once(parts, place, known_version, lease, by_login=by_login)
                _learn_limits(parts, place)
                row = _require(_row(parts, place))
        if row.version != known_version:
            return row
    raise AssertionError("unreachable: the turns end by raising")


def _renew_once(
    parts: Parts, place: Place, known_version: int, lease: Lease, *, by_login: bool = False
) -> None:
    """Renew under the lease, unless somebody did since `known_version`."""
    row = _require(_row(parts, place))
    if row.version != known_version:
        return
    try:
        refreshed = None if by_login else _refreshed(parts, place, row)
        renewed = refreshed or _logged_in_again(parts, place, lease)
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
    """The columns after a refresh; None where the refresh token ended or is refused for good."""
    if row.refresh_token_left.total_seconds() <= 0:
        return None
    refresh_token = _open(parts, place, row.refresh_token, "refresh token")
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
        "access_token": _seal(parts, place, access.value, "access token"),
        "access_token_valid_until": access.valid_until,
        "refresh_token": row.refresh_token,
        "refresh_token_valid_until": row.refresh_token_valid_until,
    }


def _logged_in_again(parts: Parts, place: Place, lease: Lease) -> dict[str, Any]:
    """The columns after a silent login in place of an ended session; refused, it is over."""
    wait = parts.db.run(
        queries.claim_silent_login, **place.columns, seconds=parts.timing.silent_login
    )
    if wait is not None and wait > 0:
        raise errors.KsefError(
            "The KSeF session ended, and the last login in its place was a moment ago.",
            retry_after=math.ceil(wait),
        )
    lease.extend(parts, parts.timing.lease)
    try:
        with _refusal_noted(parts, place, lease, repeat=True):
            method, tokens = _new_tokens(parts, place)
    except (LoginRefused, errors.NoKsefCredential) as error:
        with parts.db.transaction() as connection:
            if lease.holds(connection):
                queries.delete_session(connection, **place.columns)
        telemetry.warning("KSeF refuses the company's credential", **place.log_fields)
        raise errors.NoActiveKsefSession(
            f"The KSeF session ended and could not be renewed. {error.detail}", ksef=error.ksef
        ) from error
    telemetry.info("logged in to KSeF again", **place.log_fields)
    return {"method": method, **_sealed(parts, place, tokens)}


@contextmanager
def _refusal_noted(parts: Parts, place: Place, lease: Lease, *, repeat: bool) -> Iterator[None]:
    """Log in inside: a refusal is kept beside the credential, and repeated instead of a login."""
    kept = parts.db.run(queries.get_refusal, **place.columns)
    if repeat and kept is not None and kept.code is not None:
        blocked = kept.code == BLOCKED
        if blocked or kept.refused_for < parts.timing.refused_pause:
            then = " An operator must act: store it anew, or `login`." if blocked else ""
            raise LoginRefused(
                f"KSeF refused the company's credential: {kept.words}.{then}",
                ksef=errors.KsefAnswer(200, kept.code, kept.words),
            )
    try:
        yield
    except LoginRefused as error:
        if kept is not None and error.ksef is not None and error.ksef.code is not None:
            with parts.db.transaction() as connection:
                code = str(error.ksef.code)
                audit.note(connection, What.KSEF_LOGIN_REFUSED, **place.columns, detail=code)
                if lease.holds(connection):
                    queries.note_refusal(
                        connection,
                        **place.columns,
                        updated_at=kept.updated_at,
                        code=error.ksef.code,
                        words=(error.ksef.description or "").rstrip("."),
                    )
        raise


def _new_tokens(parts: Parts, place: Place) -> tuple[str, Tokens]:
    """A login, and another one where the tokens of the first were lost on their way."""
    try:
        return _tokens_for_credential(parts, place)
    except TokensLost:
        telemetry.warning("the answer to a login was lost", **place.log_fields)
    try:
        return _tokens_for_credential(parts, place)
    except TokensLost as lost:
        raise lost.failure from lost


def _tokens_for_credential(parts: Parts, place: Place) -> tuple[str, Tokens]:
    """A login with what is stored: by which method, and what it gave."""
    credential = parts.db.run(queries.get_credential, **place.columns)
    if credential is None:
        raise errors.NoKsefCredential(
            "No KSeF credential is stored for this company in this environment."
        )
    secret = _open(parts, place, credential.secret, "credential")
    if credential.method == "certificate":
        _warn_of_its_end(parts, place, credential.certificate_valid_until)
        return "certificate", tokens_for_certificate(parts, place, Certificate.from_json(secret))
    return "token", log_in_with_token(
        parts.ksef[place.environment],
        nip=place.company_nip,
        ksef_token=secret,
        seconds=parts.timing.login,
        poll=parts.timing.login_poll,
    )


def _learn_limits(parts: Parts, place: Place) -> None:
    """Read the company's own limits, unless that was done within a day.

    Where it fails, the limits known so far hold until the next renewal.
    """
    if quota.limits_are_fresh(parts, place):
        return
    gateway = parts.ksef[place.environment]
    try:
        quota.reserve(parts, place, limits.OTHER, patience=0.0)
        row = _require(_row(parts, place))
        found = gateway.rate_limits(_open(parts, place, row.access_token, "access token"))
        quota.read_limits(parts, place, found)
    except errors.ProxyError as error:
        if isinstance(error, errors.KsefRateLimited) and error.ksef:
            seconds = error.retry_after or DEFAULT_RETRY_AFTER
            quota.block(parts, place, limits.OTHER, seconds)
        telemetry.warning(
            "KSeF's limits could not be read", reason=error.detail, **place.log_fields
        )


def tokens_for_certificate(parts: Parts, place: Place, certificate: Certificate) -> Tokens:
    """A login with a certificate, stored or not. Raises LoginRefused and KSeF's failures."""
    return log_in_with_certificate(
        parts.ksef[place.environment],
        nip=place.company_nip,
        certificate=certificate,
        seconds=parts.timing.login,
        poll=parts.timing.login_poll,
    )


def _warn_of_its_end(parts: Parts, place: Place, valid_until: datetime) -> None:
    if valid_until - clock.now() <= timedelta(seconds=parts.timing.certificate_warning):
        telemetry.warning(
            "the company's certificate ends soon, or has ended",
            valid_until=valid_until.isoformat(),
            **place.log_fields,
        )


def _turns(parts: Parts) -> Iterator[None]:
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


def _row(parts: Parts, place: Place) -> Any:
    return parts.db.run(queries.get_session, **place.columns)


def _require(row: Any) -> Any:
    if row is None:
        raise errors.NoActiveKsefSession(_NOT_LOGGED_IN)
    return row


def _live(parts: Parts, place: Place) -> KsefSession | None:
    """The session, where its refresh token is still good."""
    row = _row(parts, place)
    return _told(row) if row is not None and row.refresh_token_left.total_seconds() > 0 else None


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


def _sealed(parts: Parts, place: Place, tokens: Tokens) -> dict[str, Any]:
    return {
        "access_token": _seal(parts, place, tokens.access.value, "access token"),
        "access_token_valid_until": tokens.access.valid_until,
        "refresh_token": _seal(parts, place, tokens.refresh.value, "refresh token"),
        "refresh_token_valid_until": tokens.refresh.valid_until,
    }


def _seal(parts: Parts, place: Place, secret: str, purpose: str) -> bytes:
    return parts.vault.seal(secret, **place.columns, purpose=purpose)


def _open(parts: Parts, place: Place, sealed: bytes, purpose: str) -> str:
    try:
        return parts.vault.open(sealed, **place.columns, purpose=purpose)
    except SealError as error:
        telemetry.warning("a stored secret does not open", reason=str(error), purpose=purpose)
        raise errors.Unavailable("A stored KSeF secret cannot be opened.") from error


def _lease_name(place: Place) -> str:
    return f"auth:{place.environment}:{place.company_nip}"
