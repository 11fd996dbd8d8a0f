"""KSeF's quota, kept as one ledger for all replicas: no call goes out that was not set aside first.

Each call is a row with its time, by the database's clock, so that the rolling windows of a
second, a minute and an hour are exact. It counts twice: in its group, for its company, and for the
address from which all companies call. A call arrives at KSeF a little later than it was set
aside, and the delay varies: every window is reckoned longer by `Timing.quota_jitter`.
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

_EXACT = 0.001  # seconds within which two moments of the ledger are the same
SLOT = 300
"""Seconds of each of the parts into which `last_hour` divides the hour."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A call that was set aside, and when it may go: a moment of `clock.monotonic()`."""

    id: int
    address_id: int
    moment: float


@dataclass(frozen=True, slots=True)
class GroupUse:
    """A group's calls of the last second, minute and hour, and what may be used of each.

    `slots`: the hour's calls by five minutes, the oldest first. Of `limits`, our part; below 0 for
    none.
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
        """The used share of the hour: 0 none, 1 all of our part."""
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
    """Set `units` calls of a group aside, in place of one that was not sent in time, if any.

    Takes at most the `share` of our part of the quota. Raises KsefRateLimited, and sets nothing
    aside, where the last call could not go within `patience` seconds.
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
    """Calls that were set aside and will not be sent: others may have their place."""
    with parts.db.transaction() as connection:
        _give_back(connection, slots)


def _give_back(connection: Any, slots: Sequence[Slot]) -> None:
    queries.give_back(connection, ids=[slot.id for slot in slots])
    queries.give_back_address(connection, ids=[slot.address_id for slot in slots])


def require(parts: Parts, place: Place, group: str, *, patience: float, share: float) -> None:
    """KsefRateLimited where a call of the group would have to wait longer than `patience`.

    Sets nothing aside: for work that is not worth beginning if it cannot go on.
    """
    with parts.db.transaction() as connection:
        row = queries.enter_group(connection, **_where(place, group))
        ledgers = _ledgers(connection, parts, place, group, row, share)
        [delay] = _delays(ledgers, 1, row.blocked_for if row else None)
    if delay > patience:
        raise _used_up(delay)


def refuse_if_blocked(parts: Parts, place: Place, group: str) -> None:
    """KsefRateLimited where KSeF answered 429 after a call was set aside and before it is sent."""
    seconds = parts.db.run(queries.blocked_for, **_where(place, group))
    if seconds is not None:
        raise _used_up(seconds)


def block(parts: Parts, place: Place, group: str, seconds: int) -> None:
    """After a 429: no replica sends a call of this group for so long."""
    telemetry.warning(
        "KSeF's quota is exceeded: the group is blocked",
        **place.log_fields,
        group=group,
        seconds=seconds,
    )
    parts.db.run(queries.block_group, **_where(place, group), seconds=seconds)


def used_share(parts: Parts, place: Place, *groups: str) -> float:
    """How much of the hour's quota is used, of the most used group: 0 none, 1 all of our part."""
    rows = parts.db.rows(
        queries.used,
        **place.columns,
        quota_groups=list(groups),
        seconds=3600.0 * parts.timing.quota_scale,
    )
    hourly = [_limits(row, row.quota_group, parts.quota_share).per_hour for row in rows]
    return max(row.used / most if most > 0 else 0.0 for row, most in zip(rows, hourly, strict=True))


def read_limits(parts: Parts, place: Place, limits: dict[str, Limits]) -> None:
    """Keep the company's own limits, as KSeF gave them."""
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
    """The groups that were used: limits, calls of the last minute and hour, blocked until."""
    return parts.db.rows(queries.show_groups, **place.columns)


def last_hour(parts: Parts, place: Place) -> Sequence[GroupUse]:
    """How every group was used in the last hour."""
    rows = {row.quota_group: row for row in parts.db.rows(queries.last_hour, **place.columns)}
    return [_use(group, rows.get(group), parts.quota_share) for group in PUBLISHED]


def _use(group: str, row: Any, share: float) -> GroupUse:
    # A call that waits for its turn lies ahead, and counts.
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
    """Lift the blocks of a company's groups; how many there were."""
    lifted: int = parts.db.run(queries.unblock_groups, **place.columns)
    return lifted


def _used_up(seconds: float) -> errors.KsefRateLimited:
    return errors.KsefRateLimited(
        "KSeF's quota for this company is used up for now.", retry_after=math.ceil(seconds)
    )


def _limits(row: Any, group: str, share: float) -> Limits:
    """The group's limits, the company's own where they were read, times our share of them."""
    own = (row.per_second, row.per_minute, row.per_hour) if row else (None,) * 3
    return _part_of(Limits(*own) if None not in own else PUBLISHED[group], share)


def _part_of(limits: Limits, share: float) -> Limits:
    return Limits(
        *(
            limit if limit < 0 else max(1, math.floor(limit * share))
            for limit in (limits.per_second, limits.per_minute, limits.per_hour)
        )
    )


@dataclass(frozen=True, slots=True)
class _Ledger:
    """Calls, as ascending moments in seconds from now, and the windows that hold for them.

    Some of the calls may lie ahead. A window: its seconds, and how many calls it lets through.
    """

    calls: list[float]
    windows: Sequence[tuple[float, int]]


def _ledgers(
    connection: Any, parts: Parts, place: Place, group: str, row: Any, share: float
) -> Sequence[_Ledger]:
    """What a call of a group counts in: the company's own, and the address's."""
    own = _windows(parts, _limits(row, group, parts.quota_share * share))
    address = _windows(parts, _part_of(ADDRESS, parts.quota_share * share))
    # Twice the limit: beside the calls that were sent, as many may be set aside for later.
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
    """Seconds from now at which each of the next `units` calls may go."""
    delays: list[float] = []
    earliest = max(blocked_for or 0.0, 0.0)
    for _ in range(units):
        earliest = _first_moment(ledgers, earliest)
        delays.append(earliest)
        for ledger in ledgers:
            insort(ledger.calls, earliest)
    return delays


def _first_moment(ledgers: Sequence[_Ledger], start: float) -> float:
    """The first moment from `start` on at which a call fits in among the others, in all windows."""
    moment = start
    while True:
        fits = max(
            (
                _try(ledger.calls, moment, *window)
                for ledger in ledgers
                for window in ledger.windows
            ),
            default=moment,
        )
        if fits <= moment:
            return moment
        moment = fits


def _try(calls: Sequence[float], moment: float, seconds: float, limit: int) -> float:
    """The moment where a call may go then, else a later one to be tried.

    It may not where `limit` + 1 calls, itself among them, would go within the window's seconds.
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
