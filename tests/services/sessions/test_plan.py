"""What is asked of KSeF after a session's status: one rule a row."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from app.ksef.wire import Invoice, Session, Status
from app.services.sessions.ask import Act, plan
from app.services.sessions.snapshot import Snapshot
from app.settings import Timing

NOON = datetime(2026, 1, 10, 12, tzinfo=UTC)
TIMING = Timing(relist=60.0, unfit_most=3600.0)
MOVES, DONE = 150, 200


def session(invoices: int | None, code: int = MOVES) -> Session:
    """What KSeF says of a session now; None: without the number of its invoices."""
    return Session(Status(code), NOON, NOON, total=invoices)


def invoices(*codes: int) -> Sequence[Invoice]:
    return tuple(Invoice(i, f"E-{i}", Status(code)) for i, code in enumerate(codes))


def known(
    *codes: int,
    session_code: int = MOVES,
    counted: int | None = None,
    listed: bool = True,
    listed_for: float = 0.0,
    unchanged_for: float = 0.0,
) -> Snapshot:
    """The earlier answer, its invoices at these codes; `counted` by KSeF, if not all of them."""
    return Snapshot(
        "20260110-SO-0A00000000-0000000001-01",
        session(len(codes) if counted is None else counted, session_code),
        invoices(*codes),
        NOON,
        listed=listed,
        listed_for=listed_for if listed else None,
        unchanged_for=unchanged_for,
    )


NONE: Act = "none"
KEEP: Act = "keep"
LIST: Act = "list"
SINGLE: Act = "single"
MANY = [MOVES] * 21


def many(listed_for: float, of: int = 21) -> Snapshot:
    """More invoices move than are asked after one by one."""
    return known(*MANY, *[DONE] * (of - 21), listed_for=listed_for)


def unfit(listed_for: float, unchanged_for: float = 0.0) -> Snapshot:
    """A final session in whose list one invoice is missing."""
    return known(
        DONE,
        DONE,
        session_code=DONE,
        counted=3,
        listed_for=listed_for,
        unchanged_for=unchanged_for,
    )


RULES: dict[str, tuple[Snapshot | None, Session, float, Act]] = {
    # -- sessions without invoices
    "none yet: there is nothing to list": (None, session(0), 0.0, NONE),
    "not counted yet: there is nothing to list": (None, session(None), 0.0, NONE),
    "ended with none: there is nothing to list": (None, session(0, DONE), 0.0, NONE),
    "ended, and counts are left out: the list will tell": (None, session(None, DONE), 0.0, LIST),
    "counts are left out: known invoices are kept": (known(DONE), session(None), 0.0, KEEP),
    "counts are left out, and none is known": (known(), session(None), 0.0, NONE),
    "ended, counts are left out: listed at once": (known(DONE), session(None, DONE), 1.0, LIST),
    "KSeF counts none: known ones are gone": (known(DONE), session(0), 0.0, NONE),
    # -- the first list
    "nothing known: all are listed": (None, session(2), 1.0, LIST),
    "never listed: all are listed": (known(listed=False), session(2), 1.0, LIST),
    # -- one by one
    "nothing moves: no invoice is asked after": (
        known(DONE, DONE),
        session(2),
        1.0,
        SINGLE,
    ),
    "one moves: it alone is asked after": (
        known(DONE, MOVES),
        session(2),
        1.0,
        SINGLE,
    ),
    "twenty move: one by one": (
        known(*[MOVES] * 20),
        session(20),
        1.0,
        SINGLE,
    ),
    "one moves when the session ends: it alone": (
        known(DONE, MOVES),
        session(2, DONE),
        1.0,
        SINGLE,
    ),
    # -- more than twenty move: a list, but not too often
    "many move: kept for a minute": (many(59), session(21), 0.0, KEEP),
    "many move: listed after a minute": (many(60), session(21), 0.0, LIST),
    "many move, pages cost nothing at first": (many(60, of=2001), session(2001), 0.0, LIST),
    "many move, half is used: kept a minute a page": (many(179, of=2001), session(2001), 0.5, KEEP),
    "many move, half is used: listed later": (many(180, of=2001), session(2001), 0.5, LIST),
    "many move, all is used: kept seven times as long": (many(419), session(21), 1.0, KEEP),
    "many move, all is used: listed after that": (many(420), session(21), 1.0, LIST),
    "many moved when the session ended: listed at once": (many(0), session(21, DONE), 1.0, LIST),
    # -- the number of invoices changed
    "grew while quota is plenty: listed at once": (known(DONE), session(2), 0.1, LIST),
    "shrank: listed as well": (known(DONE, DONE), session(1), 0.1, LIST),
    "grew while half is used: kept": (known(DONE, listed_for=47), session(2), 0.5, KEEP),
    "grew while half is used: listed later": (known(DONE, listed_for=48), session(2), 0.5, LIST),
    "grew while all is used: kept": (known(DONE, listed_for=419), session(2), 1.0, KEEP),
    "grew while all is used: listed later": (known(DONE, listed_for=420), session(2), 1.0, LIST),
    "grew by a page while all is used: kept": (
        known(DONE, listed_for=839),
        session(1001),
        1.0,
        KEEP,
    ),
    "grew and ended: listed at once": (known(DONE), session(2, DONE), 1.0, LIST),
    # -- final, but the list does not fit the counts
    "does not fit: kept for a minute": (unfit(59), session(3, DONE), 0.0, KEEP),
    "does not fit: listed after a minute": (unfit(60), session(3, DONE), 0.0, LIST),
    "unfit for 1400 s: kept for a quarter of that": (unfit(349, 1400), session(3, DONE), 0.0, KEEP),
    "unfit for 1400 s: listed after that": (unfit(350, 1400), session(3, DONE), 0.0, LIST),
    "unfit for a day: kept for an hour": (unfit(3599, 86400), session(3, DONE), 0.0, KEEP),
    "unfit for a day: listed once an hour": (unfit(3600, 86400), session(3, DONE), 0.0, LIST),
    "did not fit, and is counted anew: listed at once": (unfit(0), session(2, DONE), 0.0, LIST),
    "ended, and one still moves: a list, not one by one": (
        known(DONE, MOVES, session_code=DONE, listed_for=60),
        session(2, DONE),
        0.0,
        LIST,
    ),
}


@pytest.mark.parametrize(("earlier", "told", "used", "expected"), RULES.values(), ids=RULES.keys())
def test_plan(earlier: Snapshot | None, told: Session, used: float, expected: Act) -> None:
    assert plan(earlier, told, TIMING, used) == expected
