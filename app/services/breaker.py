"""Is KSeF down? Decides it from the failed calls of all replicas.

A company that is told so issues its invoices offline, which sets legal deadlines, so one failed
call is not enough. An outage is "established" if calls fail in a way that only KSeF can cause, and
either Latarnia announces an outage for the present moment, or the circuit breaker is open. The
breaker opens after enough such failures in a row, over a long enough time, if KSeF's public keys
(a call without a company or a quota) cannot be fetched either.
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
# By when offline invoices must be sent to KSeF, the strictest deadline first.
_DUTIES = {
    latarnia.MAINTENANCE: "next_working_day_after_end",
    latarnia.FAILURE: "seven_working_days_after_end",
    latarnia.TOTAL_FAILURE: "none",
}


class Breaker:
    """The `Watch` of one environment's KSeF; all replicas share it through a row of `outages`.

    Times are by the database's clock. No transaction is open while KSeF or Latarnia is asked. If
    the row cannot be written, calls to KSeF do not fail because of that.
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

        Every `timing.outage_probe_every` seconds one caller probes KSeF first, and may go on if it
        answers.
        """
        row = self._known()
        if row is None:
            return
        if row.paused_until is not None and row.paused_until > row.now:
            raise errors.KsefError(
                "The firewall in front of KSeF blocked a call a moment ago.",
                retry_after=_seconds(row.paused_until - row.now),
            )
        if row.opened_at is not None and not self._is_back():
            self._refuse(row)

    def answered(self) -> None:
        """Reset the count of failures; if it is 0, the answer is recorded only now and then."""
        try:
            row = self._known()
            if row is None or self._is_news(row):
                self._db.run(queries.note_answer, environment=self._environment)
                if row is not None and row.opened_at is not None:
                    telemetry.info("KSeF answers again", environment=self._environment)
        except errors.Unavailable:
            telemetry.warning("an answer of KSeF was not noted", environment=self._environment)

    def failed(self, error: errors.KsefFailure) -> None:
        """Count the failure, and find out whether KSeF is down.

        Raises KsefOutage from it if an outage is established; never in place of a rate limit.
        """
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
        if error.health is errors.KsefHealth.BLOCKED:
            error.retry_after = math.ceil(self._timing.outage_pause)
            self._db.run(
                queries.pause,
                environment=self._environment,
                seconds=self._timing.outage_pause,
            )
        elif error.health is errors.KsefHealth.DOWN:
            self._count()
            self._ask_latarnia()
            self._confirm()
        return evidence_of(self._known(), self._timing)

    def _count(self) -> None:
        self._db.run(queries.count_failure, environment=self._environment)

    def _confirm(self) -> None:
        """Open the breaker if enough calls have failed and the public keys cannot be fetched."""
        row = self._known()
        if row is None or row.opened_at is not None or row.consecutive_failures < FAILURES:
            return
        if self._take_probe() and self._probe_ksef() is errors.KsefHealth.DOWN:
            self._db.run(queries.open_breaker, environment=self._environment, failures=FAILURES)
            telemetry.warning("KSeF is down: calls fail at once", environment=self._environment)

    def _take_probe(self) -> bool:
        """Whether this caller, alone among all replicas, is to probe KSeF now.

        A caller whose request may end before the probe does never is.
        """
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
        return self._take_probe() and self._probe_ksef() is errors.KsefHealth.ANSWERING

    def _probe_ksef(self) -> errors.KsefHealth:
        """Fetch KSeF's public keys, which needs neither a company nor quota."""
        try:
            self._probe.send(PUBLIC_KEYS.method, PUBLIC_KEYS.path())
        except errors.KsefFailure as error:
            health = error.health
        else:
            health = errors.KsefHealth.ANSWERING
        if health is errors.KsefHealth.ANSWERING:
            self.answered()
        elif health is errors.KsefHealth.DOWN:
            self._count()
            self._ask_latarnia()
        return health

    def _refuse(self, row: Any) -> None:
        evidence = evidence_of(row, self._timing)
        next_probe = row.probed_at + timedelta(seconds=self._timing.outage_probe_every)
        raise errors.KsefOutage(
            "KSeF is down: it was not asked.",
            outage=evidence,
            retry_after=_seconds(next_probe - row.now),
        )

    def _ask_latarnia(self) -> None:
        """Ask Latarnia and store what it says, at most once a minute for all replicas.

        If it does not answer, its earlier answer is dropped.
        """
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
    """The contract's `outage` object, from a row of `outages` (None: no call was made yet)."""
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
    """A moment as it is written in evidence: RFC 3339, to the second; None for None."""
    return moment.isoformat(timespec="seconds") if moment else None


def _fresh_reading(row: Any, timing: Timing) -> Reading | None:
    if row.latarnia_read_at is None:
        return None
    if row.latarnia_read_at < row.now - timedelta(seconds=timing.latarnia_kept):
        return None
    return latarnia.understood(row.latarnia)


def _duty(reading: Reading, events: list[Event]) -> str:
    """The duty for Latarnia's status if an event confirms it, else the strictest of the events."""
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
