"""Is KSeF down? What all replicas know of it together, and the calls that this takes.

A company that is told so issues its invoices offline, with legal deadlines: an outage is
established only by failed calls of KSeF's making, and then by Latarnia's word for the present
moment, or by the breaker: enough such failures in a row, for long enough, and the public keys,
which need no company, cannot be fetched either.
"""

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import orjson

from app import clock, errors, telemetry
from app.db.pool import Database
from app.db.queries import outages as queries
from app.ksef import latarnia
from app.ksef.gateway import PUBLIC_KEYS
from app.ksef.latarnia import Event, Latarnia, Reading
from app.ksef.transport import Transport
from app.settings import Timing

FAILURES = 5  # in a row, before the breaker may open
Evidence = Mapping[str, Any]
"""The `outage` object of the contract."""

NO_OUTAGE: Evidence = {
    "established": False,
    "since": None,
    "consecutiveFailures": 0,
    "source": None,
    "messages": [],
    "duty": None,
}
# By when offline invoices must reach KSeF, the earliest first.
_DUTIES = {
    latarnia.MAINTENANCE: "next_working_day_after_end",
    latarnia.FAILURE: "seven_working_days_after_end",
    latarnia.TOTAL_FAILURE: "none",
}


class Breaker:
    """The Watch of one environment's KSeF, shared by all replicas through a row of `outages`.

    Times are the database's. No transaction is open while KSeF or Latarnia is asked. What cannot be
    written down does not fail a call that succeeded.
    """

    def __init__(
        self,
        db: Database,
        environment: str,
        timing: Timing,
        *,
        probe: Transport,
        lighthouse: Latarnia | None,
    ) -> None:
        self._db = db
        self._environment = environment
        self._timing = timing
        self._probe = probe
        self._lighthouse = lighthouse

    def check(self) -> None:
        """Raises KsefOutage while the breaker is open, KsefError while the firewall blocks us.

        One caller of all replicas tries KSeF in its turn, and goes on where KSeF answers.
        """
        row = self._known()
        if row is None:
            return
        if row.paused_until is not None and row.paused_until > row.now:
            raise errors.KsefError(
                "The firewall before KSeF blocked a call a moment ago.",
                retry_after=_seconds(row.paused_until - row.now),
            )
        if row.opened_at is not None and not self._is_back():
            self._refuse(row)

    def answered(self) -> None:
        """The count begins anew; while nothing is wrong that is not written down each time."""
        try:
            row = self._known()
            if row is None or self._is_news(row):
                self._db.run(queries.note_answer, environment=self._environment)
                if row is not None and row.opened_at is not None:
                    telemetry.info("KSeF answers again", environment=self._environment)
        except errors.Unavailable:
            telemetry.warning("an answer of KSeF was not noted", environment=self._environment)

    def failed(self, error: errors.KsefFailure) -> None:
        """Counts the failure, finds out more where there is more to find out."""
        try:
            evidence = self._after(error)
        except errors.Unavailable:
            telemetry.warning("a failure of KSeF was not noted", environment=self._environment)
            return
        if evidence["established"] and not isinstance(error, errors.KsefRateLimited):
            raise errors.KsefOutage(
                f"KSeF is down. {error.detail}", outage=evidence, ksef=error.ksef
            ) from error

    def _after(self, error: errors.KsefFailure) -> Evidence:
        if error.means is errors.Means.BLOCKED:
            error.retry_after = math.ceil(self._timing.outage_pause)
            self._db.run(
                queries.pause,
                environment=self._environment,
                seconds=self._timing.outage_pause,
            )
        elif error.means is errors.Means.DOWN:
            self._count()
            self._ask_latarnia()
            self._confirm()
        return evidence_of(self._known(), self._timing)

    def _count(self) -> None:
        self._db.run(queries.count_failure, environment=self._environment)

    def _confirm(self) -> None:
        """Opens the breaker where enough calls failed, and the public keys cannot be had either."""
        row = self._known()
        if row is None or row.opened_at is not None or row.consecutive_failures < FAILURES:
            return
        if self._take_probe() and self._try() is errors.Means.DOWN:
            self._db.run(queries.open_breaker, environment=self._environment, failures=FAILURES)
            telemetry.warning("KSeF is down: calls fail at once", environment=self._environment)

    def _take_probe(self) -> bool:
        """Whether this caller tries KSeF for all; none does whose request may end before that."""
        if clock.time_left() < self._timing.outage_probe:
            return False
        taken = self._db.run(
            queries.take_probe,
            environment=self._environment,
            failures=FAILURES,
            after=self._timing.outage_after,
            every=self._timing.outage_probe_every,
        )
        return taken is not None

    def _is_back(self) -> bool:
        return self._take_probe() and self._try() is errors.Means.ANSWERS

    def _try(self) -> errors.Means:
        """Asks for KSeF's public keys: no company, no quota."""
        try:
            self._probe.send(PUBLIC_KEYS.method, PUBLIC_KEYS.path())
        except errors.KsefFailure as error:
            means = error.means
        else:
            means = errors.Means.ANSWERS
        if means is errors.Means.ANSWERS:
            self.answered()
        elif means is errors.Means.DOWN:
            self._count()
            self._ask_latarnia()
        return means

    def _refuse(self, row: Any) -> None:
        evidence = evidence_of(row, self._timing)
        next_probe = row.probed_at + timedelta(seconds=self._timing.outage_probe_every)
        raise errors.KsefOutage(
            "KSeF is down: it was not asked.",
            outage=evidence,
            retry_after=_seconds(next_probe - row.now),
        )

    def _ask_latarnia(self) -> None:
        """Once a minute for all replicas; an answer that does not come is unknown, at once."""
        if self._lighthouse is None:
            return
        taken = self._db.run(
            queries.take_latarnia, environment=self._environment, every=self._timing.latarnia_every
        )
        if taken is None:
            return
        said = self._lighthouse.ask()
        self._db.run(
            queries.keep_latarnia,
            environment=self._environment,
            latarnia=None if said is None else orjson.dumps(said).decode(),
        )

    def _known(self) -> Any:
        return self._db.run(queries.known, environment=self._environment)

    def _is_news(self, row: Any) -> bool:
        noted = timedelta(seconds=self._timing.answer_noted)
        return (
            row.consecutive_failures > 0
            or row.answered_at is None
            or row.answered_at < row.now - noted
        )


def evidence_of(row: Any, timing: Timing) -> Evidence:
    """What a row of `outages` says of the moment at which it was read: the contract's `outage`."""
    if row is None:
        return NO_OUTAGE
    reading = _fresh_reading(row, timing)
    events = [event for event in reading.events if event.covers(row.now)] if reading else []
    failing = row.consecutive_failures > 0
    announced = failing and bool(events) and reading is not None and reading.is_outage
    since = min(event.start for event in events) if announced else row.failing_since
    return {
        "established": announced or row.opened_at is not None,
        "since": rfc3339(since),
        "consecutiveFailures": row.consecutive_failures,
        "source": "latarnia" if announced else "breaker" if row.opened_at is not None else None,
        "messages": [_message(event) for event in events],
        "duty": _duty(reading, events) if announced and reading else None,
    }


def state_of(row: Any, timing: Timing) -> str:
    """`outage`, `available` (KSeF answered the last call, not long ago) or `unknown`."""
    if evidence_of(row, timing)["established"]:
        return "outage"
    if row.consecutive_failures > 0 or row.answered_at is None:
        return "unknown"
    lately = row.now - timedelta(seconds=timing.available_for)
    return "available" if row.answered_at >= lately else "unknown"


def rfc3339(moment: Any) -> str | None:
    """A moment as all evidence tells it, with its offset."""
    return moment.isoformat(timespec="seconds") if moment else None


def _fresh_reading(row: Any, timing: Timing) -> Reading | None:
    if row.latarnia_read_at is None:
        return None
    if row.latarnia_read_at < row.now - timedelta(seconds=timing.latarnia_kept):
        return None
    return latarnia.understood(row.latarnia)


def _duty(reading: Reading, events: list[Event]) -> str:
    """That of the status, where an event bears it out, else the strictest one of the events."""
    categories = {event.category for event in events}
    if reading.status in categories:
        return _DUTIES[reading.status]
    return next(duty for category, duty in _DUTIES.items() if category in categories)


def _message(event: Event) -> dict[str, Any]:
    return {
        "title": event.title,
        "text": event.text,
        "start": rfc3339(event.start),
        "end": rfc3339(event.end),
        "category": event.category,
    }


def _seconds(left: timedelta) -> int:
    return max(1, math.ceil(left.total_seconds()))
