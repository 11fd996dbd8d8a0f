"""What the benchmarks share: rows with their targets, calls in turns, medians."""

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

MIB = 1024 * 1024


class Row(NamedTuple):
    """A line of the table; `holds` is None if it has no target."""

    what: str
    measured: str
    target: str = ""
    holds: bool | None = None


def at_most(what: str, value: float, most: float, more: str = "") -> Row:
    """A row whose value must not be above a target; `more` is told in parentheses."""
    return Row(what, _measured(value, more), f"≤ {most:g}", value <= most)


def at_least(what: str, value: float, least: float, more: str = "") -> Row:
    """A row whose value must not be below a target; `more` is told in parentheses."""
    return Row(what, _measured(value, more), f"≥ {least:g}", value >= least)


def _measured(value: float, more: str) -> str:
    return f"{value:.2f} ({more})" if more else f"{value:.2f}"


def milliseconds(seconds: float) -> str:
    """A time with three figures or more."""
    return f"{seconds * 1000:.{0 if seconds >= 0.1 else 2}f} ms"


def timed(call: Callable[..., object], *values: Any) -> float:
    """How many seconds a call takes."""
    began = perf_counter()
    call(*values)
    return perf_counter() - began


def interleaved(rounds: int, *calls: Callable[[], object]) -> list[float]:
    """The median seconds of each call; called in turns, so that noise meets all of them."""
    times = [[timed(call) for call in calls] for _ in range(rounds)]
    return [median(taken) for taken in zip(*times, strict=True)]
