"""The calls of one request: each with a valid token, its quota reserved first."""

from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from app import clock, errors
from app.ksef.gateway import REVOKE, Route
from app.ksef.transport import DEFAULT_RETRY_AFTER, KsefTokenRejected
from app.services import quota
from app.services.logins import open_secret
from app.services.parts import Parts, Place
from app.services.tokens import active_row, ready, renew

T = TypeVar("T")

_LATE = 0.05  # seconds; a call that goes out later than reserved belongs to other windows
_TURNS = 3


class ActiveSession:
    """The company's KSeF session for the calls of one request (a `Bearer` of the gateway).

    Quota is reserved for every call first; it waits for its turn for at most `patience`
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
        self._row = ready(parts, place, active_row(parts, place))
        self._renewed = False
        self._logged_in_anew = False

    def reserve(self, route: Route, units: int) -> None:
        """Set quota aside for so many calls of a route; KsefRateLimited where that takes long."""
        if group := route.quota_group:
            self._slots[group].extend(self._reserved(group, units))

    def give_back(self) -> None:
        """Give back what was reserved and not sent, such as pages of a list that broke off."""
        unsent = [slot for slots in self._slots.values() for slot in slots]
        self._slots.clear()
        if unsent:
            with suppress(errors.Unavailable):  # then they count, and KSeF's quota is safe
                quota.give_back(self._parts, unsent)

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
                self._row = renew(
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
        """Return at the moment for which a call was reserved.

        If that moment passed a while ago, the call is reserved anew, so that it counts where it is
        really sent. It does not go at all if KSeF has blocked the group meanwhile.
        """
        slots = self._slots[group]
        if not slots:
            slots.extend(self._reserved(group, 1))
        slot = slots.popleft()
        for turns_left in reversed(range(_TURNS + 1)):
            wait = slot.moment - clock.monotonic()
            if wait > 0:
                clock.sleep(wait)
                quota.refuse_if_blocked(self._parts, self._place, group)
            if not turns_left or clock.monotonic() - slot.moment <= _LATE:
                return
            [slot] = self._reserved(group, 1, instead_of=slot)

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
        return open_secret(self._parts, self._place, self._row.access_token, "access token")
