"""KSeF's quota, as one ledger in the database for all replicas.

Every call is reserved ("set aside") before it is sent: a row with the moment at which it may go, by
the database's clock, so that the rolling windows of a second, a minute and an hour are exact. A
call counts in two ledgers: in its group for its company, and for the IP address from which all
companies call. A call reaches KSeF a little after its reserved moment, by a delay that varies, so
every window is taken to be longer by `Timing.quota_jitter`.
"""

import math
from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app import clock, errors, telemetry
from app.db.pool import retried
from app.db.queries import limits as queries
from app.ksef.limits import ADDRESS, PUBLISHED, WINDOWS, Limits
from app.services.parts import Parts, Place

_EXACT = 0.001  # seconds by which two moments that should be equal may differ
SLOT = 300
"""Length, in seconds, of the parts into which `last_hour` divides the hour."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A reserved call: its rows in the two ledgers, and when it may go (`clock.monotonic()`)."""

    id: int
    address_id: int
    moment: float


@dataclass(frozen=True, slots=True)
class GroupUse:
    """A group's calls in the last second, minute and hour, and how many of each we may make.

    `limits` is our share of KSeF's limits, -1 for no limit. `slots` are the calls of the last hour
    in parts of SLOT seconds, the oldest first.
    """

    group: str
    limits: Limits
    per_second: int
    per_minute: int
    per_hour: int
    slots: Sequence[int]
    blocked_until: datetime | None

    @property
    def share(self) -> float:
        """How much of our hourly limit is used: 0 for nothing, 1 for all of it."""
        return self.per_hour / self.limits.per_hour if self.limits.per_hour > 0 else 0.0


@retried
def reserve(
    parts: Parts,
    place: Place,
    group: str,
    units: int = 1,
    *,
    patience: float,
    share: float = 1.0,
    instead_of: Slot | None = None,
) -> list[Slot]:
    """Reserve `units` calls of a group, or none and raise KsefRateLimited.

    It raises if the last of them could not go within `patience` seconds, using at most `share`
    (0 to 1) of our part of the quota. `instead_of` is an earlier reservation that was not sent in
    time; it is given back first.
    """
    where = _where(place, group)
    ids: Sequence[Any] = ()
    address_ids: Sequence[Any] = ()
    with parts.db.transaction() as connection:
        row = queries.enter_group(connection, **where)
        if row is None:
            queries.open_group(connection, **where)
            row = queries.enter_group(connection, **where)
        queries.enter_address(connection, environment=place.environment)
        if instead_of:
            _give_back(connection, [instead_of])
        ledgers = _ledgers(connection, parts, place, group, row, share)
        delays = _delays(ledgers, units, row.blocked_for)
        if delays[-1] <= patience:
            ids = list(queries.record_calls(connection, **where, delays=delays))
            address_ids = list(
                queries.record_address_calls(
                    connection, environment=place.environment, delays=delays
                )
            )
    now = clock.monotonic()
    if delays[-1] > patience:
        raise _used_up(delays[-1])
    return [
        Slot(own.id, address.id, now + delay)
        for own, address, delay in zip(ids, address_ids, delays, strict=True)
    ]


@retried
def give_back(parts: Parts, slots: Sequence[Slot]) -> None:
    """Delete reservations of calls that will not be sent: others may have their place."""
    with parts.db.transaction() as connection:
        _give_back(connection, slots)


def _give_back(connection: Any, slots: Sequence[Slot]) -> None:
    queries.give_back(connection, ids=[slot.id for slot in slots])
    queries.give_back_address(connection, ids=[slot.address_id for slot in slots])


def require(parts: Parts, place: Place, group: str, *, patience: float, share: float) -> None:
    """Raise KsefRateLimited if a call of the group would have to wait longer than `patience`.

    Reserves nothing: for work that is not worth beginning unless the call can follow.
    """
    with parts.db.transaction() as connection:
        row = queries.enter_group(connection, **_where(place, group))
        ledgers = _ledgers(connection, parts, place, group, row, share)
        [delay] = _delays(ledgers, 1, row.blocked_for if row else None)
    if delay > patience:
        raise _used_up(delay)


def refuse_if_blocked(parts: Parts, place: Place, group: str) -> None:
    """Raise KsefRateLimited if the group was blocked after a call had been reserved."""
    seconds = parts.db.run(queries.blocked_for, **_where(place, group))
    if seconds is not None:
        raise _used_up(seconds)


def block(parts: Parts, place: Place, group: str, seconds: int) -> None:
    """After a 429: stop the calls of this group in all replicas for so many seconds."""
    telemetry.warning(
        "KSeF's quota is exceeded: the group is blocked",
        **place.log_fields,
        group=group,
        seconds=seconds,
    )
    parts.db.run(queries.block_group, **_where(place, group), seconds=seconds)


def used_share(parts: Parts, place: Place, *groups: str) -> float:
    """How much of our hourly limit the most used of these groups has used: 0 nothing, 1 all."""
    rows = parts.db.rows(
        queries.used,
        **place.columns,
        quota_groups=list(groups),
        seconds=3600.0 * parts.timing.quota_scale,
    )
    hourly = [_limits(row, row.quota_group, parts.quota_share).per_hour for row in rows]
    return max(row.used / most if most > 0 else 0.0 for row, most in zip(rows, hourly, strict=True))


def read_limits(parts: Parts, place: Place, limits: dict[str, Limits]) -> None:
    """Store the company's own limits, by group, as KSeF reported them."""
    with parts.db.transaction() as connection:
        for group, limit in sorted(limits.items()):
            queries.put_limits(
                connection,
                **_where(place, group),
                per_second=limit.per_second,
                per_minute=limit.per_minute,
                per_hour=limit.per_hour,
            )


def limits_are_fresh(parts: Parts, place: Place) -> bool:
    """Whether the company's own limits were read within a day."""
    fresh: bool = parts.db.run(queries.limits_are_fresh, **place.columns)
    return fresh


def show(parts: Parts, place: Place) -> Sequence[Any]:
    """The groups that were used: quota_group, used_minute, used_hour, the company's own per_second,
    per_minute, per_hour (None if not read yet), and blocked_until."""
    return parts.db.rows(queries.show_groups, **place.columns)


def last_hour(parts: Parts, place: Place) -> Sequence[GroupUse]:
    """How each group was used in the last hour, for the console."""
    rows = {row.quota_group: row for row in parts.db.rows(queries.last_hour, **place.columns)}
    return [_use(group, rows.get(group), parts.quota_share) for group in PUBLISHED]


def _use(group: str, row: Any, share: float) -> GroupUse:
    # A call that was reserved for a later moment has a negative age; it counts as made now.
    ages = [max(0.0, age) for age in row.ages] if row else []
    slots = [0] * (WINDOWS[-1] // SLOT)
    for age in ages:
        slots[-1 - min(int(age / SLOT), len(slots) - 1)] += 1
    per_second, per_minute, per_hour = (sum(age < seconds for age in ages) for seconds in WINDOWS)
    return GroupUse(
        group,
        _limits(row, group, share),
        per_second,
        per_minute,
        per_hour,
        slots,
        row.blocked_until if row else None,
    )


def clear(parts: Parts, place: Place) -> int:
    """Lift the blocks of a company's groups. Returns how many there were."""
    lifted: int = parts.db.run(queries.unblock_groups, **place.columns)
    return lifted


def _used_up(seconds: float) -> errors.KsefRateLimited:
    return errors.KsefRateLimited(
        "KSeF's quota for this company is used up for now.", retry_after=math.ceil(seconds)
    )


def _limits(row: Any, group: str, share: float) -> Limits:
    """Our share of the group's limits: the company's own if they were read, else the published."""
    own = (row.per_second, row.per_minute, row.per_hour) if row else (None,) * 3
    return _share_of(Limits(*own) if None not in own else PUBLISHED[group], share)


def _share_of(limits: Limits, share: float) -> Limits:
    """The limits times `share`, rounded down, but at least 1; no limit stays none."""
    return Limits(
        *(
            limit if limit < 0 else max(1, math.floor(limit * share))
            for limit in (limits.per_second, limits.per_minute, limits.per_hour)
        )
    )


@dataclass(frozen=True, slots=True)
class _Ledger:
    """Calls, as ascending moments in seconds from now, and the windows that limit them.

    Moments above 0 are reservations. A window is (seconds, most calls within them).
    """

    calls: list[float]
    windows: Sequence[tuple[float, int]]


def _ledgers(
    connection: Any, parts: Parts, place: Place, group: str, row: Any, share: float
) -> Sequence[_Ledger]:
    """The two ledgers in which a call counts: the company's for the group, and the address's."""
    own = _windows(parts, _limits(row, group, parts.quota_share * share))
    address = _windows(parts, _share_of(ADDRESS, parts.quota_share * share))
    # Twice the limit: besides the calls that were sent, as many may be reserved for later.
    calls = queries.recent_calls(connection, **_where(place, group), most=2 * _most(own))
    others = queries.recent_address_calls(
        connection, environment=place.environment, most=2 * _most(address)
    )
    return _Ledger(calls or [], own), _Ledger(others or [], address)


def _windows(parts: Parts, limits: Limits) -> Sequence[tuple[float, int]]:
    return [
        (seconds * parts.timing.quota_scale + parts.timing.quota_jitter, limit)
        for seconds, limit in limits.windows()
    ]


def _most(windows: Sequence[tuple[float, int]]) -> int:
    return max((limit for _, limit in windows), default=0)


def _delays(ledgers: Sequence[_Ledger], units: int, blocked_for: float | None) -> list[float]:
    """For each of the next `units` calls, in how many seconds it may go."""
    delays: list[float] = []
    earliest = max(blocked_for or 0.0, 0.0)
    for _ in range(units):
        earliest = _first_moment(ledgers, earliest)
        delays.append(earliest)
        for ledger in ledgers:
            insort(ledger.calls, earliest)
    return delays


def _first_moment(ledgers: Sequence[_Ledger], start: float) -> float:
    """The first moment, not before `start`, at which a call breaks no window of any ledger."""
    moment = start
    while True:
        fits = max(
            (
                _earliest(ledger.calls, moment, *window)
                for ledger in ledgers
                for window in ledger.windows
            ),
            default=moment,
        )
        if fits <= moment:
            return moment
        moment = fits


def _earliest(calls: Sequence[float], moment: float, seconds: float, limit: int) -> float:
    """`moment` itself if a call may go then, else a later moment to be tried next.

    It may not go if `limit` + 1 calls, itself included, would fall within `seconds`.
    """
    at = bisect_right(calls, moment)
    for first in range(min(at, len(calls) - limit), max(0, at - limit) - 1, -1):
        begin = calls[first] if first < at else moment
        last = first + limit
        end = moment if last == at else calls[last - 1]
        if end - begin < seconds - _EXACT:
            return calls[first] + seconds
    return moment


def _where(place: Place, group: str) -> dict[str, str]:
    return {
        **place.columns,
        "quota_group": group,
    }
