"""KSeF's quota, as one ledger in the database for all replicas.

Every call is reserved before it is sent: a row with the moment at which it may go, by the
database's clock, so that the rolling windows of a second, a minute and an hour are exact. A call
counts in two ledgers: in its group for its company, and for the IP address from which all companies
call. A call reaches KSeF a little after its reserved moment, by a delay that varies, so every
window is taken to be longer by `Timing.quota_jitter`.
"""

import math
from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from msgspec.structs import astuple

from app import clock, errors, telemetry
from app.account import Account
from app.db.pool import retried
from app.db.queries import quota as queries
from app.ksef.limits import ADDRESS, EACH_UNGROUPED, NO_LIMIT, PUBLISHED, WINDOWS, Limits
from app.services.replicas.windows import Ledger, delays

_LATE = 0.05  # seconds; a call that goes out later than reserved belongs to other windows
_TURNS = 3


@dataclass(frozen=True, slots=True)
class Slot:
    """A reserved call: its rows in the two ledgers, and when it may go.

    `moment` is on `clock.monotonic()`, `at` is the same by the database's clock.
    """

    id: int
    address_id: int
    moment: float
    at: datetime


class Calls:
    """The calls of one account: reserved, waited for, and given back where they were not sent.

    `turn_at`: when the last call was allowed to go, by the database's clock.
    """

    turn_at: datetime

    def __init__(self, account: Account) -> None:
        self._account = account
        self._slots: dict[str, deque[Slot]] = defaultdict(deque)

    def require(self, group: str, units: int = 1, *, part: float = 1.0) -> None:
        """Raise KsefRateLimited where so many calls could not go soon; reserves nothing.

        For work that is not worth beginning unless the calls can follow; or, with a `part` of our
        quota, that is not worth more than this part of each limit.
        """
        account = self._account
        found = account.db.run(queries.outlook, **_outlook(account, group))
        delay = delays(_ledgers(account, group, found, part), units, found.blocked_for)[-1]
        if delay > account.patience:
            raise _used_up(delay)

    def reserve(self, group: str, units: int) -> None:
        """Set quota aside for so many calls; KsefRateLimited, and none, where that takes long."""
        self._slots[group].extend(reserve(self._account, group, units))

    def wait_for_turn(self, group: str) -> None:
        """Return at the moment for which a call was reserved; it is reserved here if none was.

        If that moment passed a while ago, the call is reserved anew, so that it counts where it is
        really sent. It does not go at all if KSeF has blocked the group meanwhile.
        """
        slots = self._slots[group]
        slot = slots.popleft() if slots else reserve(self._account, group, 1)[0]
        for turns_left in reversed(range(_TURNS + 1)):
            wait = slot.moment - clock.monotonic()
            if wait > 0:
                clock.sleep(wait)
                self._refuse_if_blocked(group)
            if not turns_left or clock.monotonic() - slot.moment <= _LATE:
                break
            [slot] = reserve(self._account, group, 1, instead_of=slot)
        self.turn_at = slot.at

    def block(self, group: str, seconds: int) -> None:
        """After a 429: stop the calls of this group in all replicas for so many seconds."""
        telemetry.warning(
            "KSeF's quota is exceeded: the group is blocked",
            **self._account.log_fields,
            group=group,
            seconds=seconds,
        )
        self._account.db.run(queries.block_group, **_where(self._account, group), seconds=seconds)

    def give_back(self) -> None:
        """Give back what was reserved and not sent, such as pages of a list that broke off."""
        unsent = [slot for slots in self._slots.values() for slot in slots]
        self._slots.clear()
        if unsent:
            with suppress(errors.Unavailable):  # then they count, and KSeF's quota is safe
                self._account.db.run(queries.give_back, **_ids(unsent))

    def _refuse_if_blocked(self, group: str) -> None:
        seconds = self._account.db.run(queries.blocked_for, **_where(self._account, group))
        if seconds is not None:
            raise _used_up(seconds)


@retried
def reserve(
    account: Account, group: str, units: int = 1, *, instead_of: Slot | None = None
) -> list[Slot]:
    """Reserve `units` calls of a group, or none and raise KsefRateLimited.

    It raises if the last of them could not go within `account.patience` seconds. `instead_of` is an
    earlier reservation that was not sent in time; it is given back first.
    """
    where = _where(account, group)
    recorded: Any = None
    with account.db.transaction() as connection:
        if queries.enter(connection, **where) is None:
            queries.open_group(connection, **where)
            queries.enter(connection, **where)
        if instead_of:
            queries.give_back(connection, **_ids([instead_of]))
        found = queries.outlook(connection, **_outlook(account, group))
        waits = delays(_ledgers(account, group, found), units, found.blocked_for)
        if waits[-1] <= account.patience:
            recorded = queries.record_calls(connection, **where, delays=waits)
    if recorded is None:
        raise _used_up(waits[-1])
    now = clock.monotonic()
    return [
        Slot(id, address_id, now + wait, recorded.now + timedelta(seconds=wait))
        for id, address_id, wait in zip(recorded.ids, recorded.address_ids, waits, strict=True)
    ]


def used_share(account: Account, *groups: str) -> float:
    """How much of our hourly limit the most used of these groups has used: 0 nothing, 1 all."""
    rows = account.db.rows(
        queries.used,
        **account.columns,
        quota_groups=list(groups),
        seconds=3600.0 * account.timing.quota_scale,
    )
    hourly = [own_limits(row, row.quota_group, account.quota_share).per_hour for row in rows]
    return max(row.used / most if most > 0 else 0.0 for row, most in zip(rows, hourly, strict=True))


def hourly(account: Account, group: str) -> int:
    """How many calls of a group we may make in an hour; NO_LIMIT for any number."""
    [row] = account.db.rows(queries.used, **account.columns, quota_groups=[group], seconds=0.0)
    return own_limits(row, group, account.quota_share).per_hour


def store_limits(account: Account, limits: dict[str, Limits]) -> None:
    """Store the company's own limits, by group, as KSeF reported them."""
    with account.db.transaction() as connection:
        for group, limit in sorted(limits.items()):
            queries.put_limits(
                connection,
                **_where(account, group),
                per_second=limit.per_second,
                per_minute=limit.per_minute,
                per_hour=limit.per_hour,
            )


def limits_are_fresh(account: Account) -> bool:
    """Whether the company's own limits were read within a day."""
    fresh: bool = account.db.run(queries.limits_are_fresh, **account.columns)
    return fresh


def own_limits(row: Any, group: str, share: float) -> Limits:
    """Our share of a group's limits: the company's own if its row has them, else the published."""
    own = (row.per_second, row.per_minute, row.per_hour) if row else (None,) * 3
    known = Limits(*own) if None not in own else PUBLISHED.get(group, EACH_UNGROUPED)
    return _share_of(known, share)


def _share_of(limits: Limits, share: float) -> Limits:
    """The limits times `share`, rounded down, but at least 1; no limit stays none."""
    shares = [
        limit if limit < 0 else max(1, math.floor(limit * share)) for limit in astuple(limits)
    ]
    return Limits(*shares)


def _used_up(seconds: float) -> errors.KsefRateLimited:
    return errors.KsefRateLimited(
        "KSeF's quota for this company is used up for now.", retry_after=math.ceil(seconds)
    )


def _ledgers(account: Account, group: str, found: Any, part: float = 1.0) -> Sequence[Ledger]:
    """The two ledgers in which a call counts: the company's for the group, and the address's."""
    share = account.quota_share * part
    own, address = own_limits(found, group, share), _share_of(ADDRESS, share)
    return Ledger(found.own, _windows(account, own)), Ledger(
        found.address, _windows(account, address)
    )


def _windows(account: Account, limits: Limits) -> list[tuple[float, int]]:
    """(seconds, calls) of each window that has a limit; longer than KSeF's, since delays vary."""
    scale, jitter = account.timing.quota_scale, account.timing.quota_jitter
    return [
        (seconds * scale + jitter, limit)
        for seconds, limit in zip(WINDOWS, astuple(limits), strict=True)
        if limit != NO_LIMIT
    ]


def _outlook(account: Account, group: str) -> dict[str, Any]:
    scale, jitter = account.timing.quota_scale, account.timing.quota_jitter
    return {
        **_where(account, group),
        "seconds": WINDOWS[-1] * scale + jitter,
        "address_seconds": WINDOWS[0] * scale + jitter,
    }


def _ids(slots: Sequence[Slot]) -> dict[str, list[int]]:
    return {
        "ids": [slot.id for slot in slots],
        "address_ids": [slot.address_id for slot in slots],
    }


def _where(account: Account, group: str) -> dict[str, str]:
    return {**account.columns, "quota_group": group}
