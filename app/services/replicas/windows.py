"""When may the next call go? Rolling windows of a quota, reckoned without a database."""

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass

_EXACT = 0.001  # seconds by which two moments that should be equal may differ


@dataclass(frozen=True, slots=True)
class Ledger:
    """Calls, as ascending moments in seconds from now, and the windows that limit them.

    Moments above 0 are reservations. A window is (seconds, most calls within them).
    """

    calls: list[float]
    windows: Sequence[tuple[float, int]]


def delays(ledgers: Sequence[Ledger], units: int, blocked_for: float | None) -> list[float]:
    """For each of the next `units` calls, in how many seconds it may go: it counts in each ledger.

    `blocked_for`: no call may go for so many seconds; None or below 0: it may.
    """
    found: list[float] = []
    earliest = max(blocked_for or 0.0, 0.0)
    for _ in range(units):
        earliest = _first_moment(ledgers, earliest)
        found.append(earliest)
        for ledger in ledgers:
            insort(ledger.calls, earliest)
    return found


def _first_moment(ledgers: Sequence[Ledger], start: float) -> float:
    """The first moment, not before `start`, at which a call breaks no window of any ledger."""
    moment, fits = start, -1.0
    while fits < moment:
        fits = moment
        for ledger in ledgers:
            for seconds, limit in ledger.windows:
                moment = max(moment, _earliest(ledger.calls, moment, seconds, limit))
    return moment


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
