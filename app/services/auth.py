"""A company's session with KSeF: logging in and out, and tokens that are good when needed.

A row in `ksef_sessions` is an active KSeF session. It ends by a logout or when KSeF refuses the
stored credential, never because a token ran out: an ending access token is refreshed, an ended
refresh token is replaced by a new login. One thread of all replicas does that, under a lease;
the others wait and take what it stored.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from app import clock, errors, telemetry
from app.crypto import SealError
from app.db.queries import auth as queries
from app.ksef import limits
from app.ksef.auth import LoginRefused, log_in_with_token
from app.ksef.gateway import REVOKE, Route
from app.ksef.transport import DEFAULT_RETRY_AFTER, KsefTokenRejected
from app.ksef.wire import Tokens
from app.services import quota
from app.services.leases import try_lease
from app.services.parts import Parts, Place

T = TypeVar("T")

_LATE = 0.05  # seconds; a call that goes out later than set aside belongs into other windows
_TURNS = 3
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
        row = _require(_row(parts, place))
        if row.access_token_left.total_seconds() <= parts.timing.refresh_ahead:
            row = _renew(parts, place, row.version)
        self._row = row
        self._renewed = False

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
        """Call `send` with the access token; where KSeF refuses it, once more with a new one."""
        try:
            return self._send(route, send)
        except KsefTokenRejected:
            if self._renewed:
                raise
            self._row = _renew(self._parts, self._place, self._row.version)
            self._renewed = True
            return self._send(route, send)

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
            company_nip=place.company_nip,
            environment=place.environment,
            method="token",
            secret=_seal(parts, place, ksef_token, "credential"),
        )


def log_in(parts: Parts, place: Place) -> KsefSession:
    """Log the company in, unless it is. However many ask at once, KSeF sees one login.

    Raises NoKsefCredential, LoginRefused and what the gateway raises.
    """
    for _ in _turns(parts):
        if session := _live(parts, place):
            return session
        with try_lease(parts, _lease_name(place)) as mine:
            if not mine:
                continue
            if session := _live(parts, place):
                return session
            tokens = _tokens_for_credential(parts, place)
            with parts.db.transaction() as connection:
                queries.put_session(
                    connection,
                    company_nip=place.company_nip,
                    environment=place.environment,
                    method="token",
                    **_sealed(parts, place, tokens),
                )
            telemetry.info("logged in to KSeF", **_log_fields(place))
            _learn_limits(parts, place)
    raise AssertionError("unreachable: the turns end by raising")


def current_session(parts: Parts, place: Place) -> KsefSession:
    """The company's session as it is stored; NoActiveKsefSession where there is none."""
    return _told(_require(_row(parts, place)))


def log_out(parts: Parts, place: Place) -> None:
    """Revoke the session at KSeF, then forget it; one that KSeF knows no more is only forgotten."""
    active = ActiveSession(parts, place)
    try:
        active.call(REVOKE, parts.ksef[place.environment].revoke)
    except KsefTokenRejected:
        telemetry.info("KSeF had ended the session before its logout", **_log_fields(place))
    _forget(parts, place)


def _renew(parts: Parts, place: Place, known_version: int) -> Any:
    """The session's row, newer than `known_version`: renewed here, or by whoever was first."""
    for _ in _turns(parts):
        row = _require(_row(parts, place))
        if row.version != known_version:
            return row
        with try_lease(parts, _lease_name(place)) as mine:
            if not mine:
                continue
            row = _require(_row(parts, place))
            if row.version == known_version:
                _store_renewed(parts, place, row)
                _learn_limits(parts, place)
            return _require(_row(parts, place))
    raise AssertionError("unreachable: the turns end by raising")


def _store_renewed(parts: Parts, place: Place, row: Any) -> None:
    renewed = _refreshed(parts, place, row) or _sealed(
        parts, place, _tokens_for_session(parts, place)
    )
    with parts.db.transaction() as connection:
        queries.renew_session(
            connection,
            company_nip=place.company_nip,
            environment=place.environment,
            version=row.version,
            **renewed,
        )


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
        "access_token": _seal(parts, place, access.value, "access token"),
        "access_token_valid_until": access.valid_until,
        "refresh_token": row.refresh_token,
        "refresh_token_valid_until": row.refresh_token_valid_until,
    }


def _tokens_for_session(parts: Parts, place: Place) -> Tokens:
    """A silent login in place of an ended session; refused, the session is over."""
    try:
        tokens = _tokens_for_credential(parts, place)
    except (LoginRefused, errors.NoKsefCredential) as error:
        _forget(parts, place)
        telemetry.warning("KSeF refuses the company's credential", **_log_fields(place))
        raise errors.NoActiveKsefSession(
            f"The KSeF session ended and could not be renewed. {error.detail}", ksef=error.ksef
        ) from error
    telemetry.info("logged in to KSeF again", **_log_fields(place))
    return tokens


def _tokens_for_credential(parts: Parts, place: Place) -> Tokens:
    with parts.db.transaction() as connection:
        credential = queries.get_credential(
            connection, company_nip=place.company_nip, environment=place.environment
        )
    if credential is None:
        raise errors.NoKsefCredential(
            "No KSeF credential is stored for this company in this environment."
        )
    return log_in_with_token(
        parts.ksef[place.environment],
        nip=place.company_nip,
        ksef_token=_open(parts, place, credential.secret, "credential"),
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
            "KSeF's limits could not be read", reason=error.detail, **_log_fields(place)
        )


def _turns(parts: Parts) -> Iterator[None]:
    """Turns at looking whether somebody else has done it, until the request's time is over."""
    deadline = clock.monotonic() + parts.timing.request
    while True:
        yield
        if clock.monotonic() > deadline:
            raise errors.Unavailable(
                "Another request is still logging in to KSeF.",
                retry_after=parts.timing.retry_after,
            )
        clock.sleep(parts.timing.lease_poll)


def _row(parts: Parts, place: Place) -> Any:
    with parts.db.transaction() as connection:
        return queries.get_session(
            connection, company_nip=place.company_nip, environment=place.environment
        )


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
    )


def _forget(parts: Parts, place: Place) -> None:
    with parts.db.transaction() as connection:
        queries.delete_session(
            connection, company_nip=place.company_nip, environment=place.environment
        )


def _sealed(parts: Parts, place: Place, tokens: Tokens) -> dict[str, Any]:
    return {
        "access_token": _seal(parts, place, tokens.access.value, "access token"),
        "access_token_valid_until": tokens.access.valid_until,
        "refresh_token": _seal(parts, place, tokens.refresh.value, "refresh token"),
        "refresh_token_valid_until": tokens.refresh.valid_until,
    }


def _seal(parts: Parts, place: Place, secret: str, purpose: str) -> bytes:
    return parts.vault.seal(
        secret, company_nip=place.company_nip, environment=place.environment, purpose=purpose
    )


def _open(parts: Parts, place: Place, sealed: bytes, purpose: str) -> str:
    try:
        return parts.vault.open(
            sealed, company_nip=place.company_nip, environment=place.environment, purpose=purpose
        )
    except SealError as error:
        telemetry.warning("a stored secret does not open", reason=str(error), purpose=purpose)
        raise errors.Unavailable("A stored KSeF secret cannot be opened.") from error


def _lease_name(place: Place) -> str:
    return f"auth:{place.environment}:{place.company_nip}"


def _log_fields(place: Place) -> dict[str, str]:
    return {"environment": place.environment, "company": telemetry.masked_nip(place.company_nip)}
