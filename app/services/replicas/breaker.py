"""Is KSeF down? Decides it from the failed calls of all replicas.

A company that is told so issues its invoices offline, which sets legal deadlines, so one failed
call is not enough. An outage is established if calls fail in a way that only KSeF can cause, and
either Latarnia announces an outage for the present moment, or the breaker is open. The breaker
opens after enough such failures in a row, over a long enough time, if KSeF's public keys (a call
without a company or a quota) cannot be fetched either.
"""

import math
from datetime import timedelta
from typing import Any

import msgspec

from app import clock, errors, telemetry
from app.db.pool import Database
from app.db.queries import outages as queries
from app.ksef.http import Http
from app.ksef.latarnia import Latarnia
from app.ksef.login import PUBLIC_KEYS
from app.services import outages
from app.services.events import journal
from app.settings import Timing

FAILURES = 5  # in a row, before the breaker may open
_KNOWN_FOR = 1.0  # seconds for which a request relies on what it read of the others' calls


class Breaker:
    """What one request, among all replicas, knows and tells of the KSeF of its environment.

    All of them share a row of `outages`; times are by the database's clock. No transaction is open
    while KSeF or Latarnia is asked. If the row cannot be written, calls do not fail because of it.
    """

    def __init__(
        self,
        db: Database,
        environment: str,
        timing: Timing,
        *,
        probe: Http,
        latarnia: Latarnia | None,
    ) -> None:
        self._db = db
        self._environment = environment
        self._timing = timing
        self._probe = probe
        self._latarnia = latarnia
        self._row: Any = None
        self._read_at = -math.inf

    def check(self) -> None:
        """Raises KsefUnreachable while the breaker is open, KsefError while the firewall blocks us.

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
            ).with_health(errors.KsefHealth.BLOCKED)
        if row.opened_at is not None and not self._is_back():
            next_probe = row.probed_at + timedelta(seconds=self._timing.outage_probe_every)
            raise errors.KsefUnreachable(
                "KSeF is down: it was not asked.", retry_after=_seconds(next_probe - row.now)
            ).with_health(errors.KsefHealth.DOWN)

    def answered(self) -> None:
        """KSeF answered a call: the count of failures is 0 again.

        While it was 0 anyhow, that is written down only now and then.
        """
        try:
            row = self._known()
            if row is None or self._is_news(row):
                self._write(queries.note_answer)
                if row is not None and row.opened_at is not None:
                    telemetry.info("KSeF answers again", environment=self._environment)
                if row is not None and row.established_at is not None:
                    journal.end_outage(self._db, self._environment)
        except errors.Unavailable:
            telemetry.warning("an answer of KSeF was not noted", environment=self._environment)

    def failed(self, error: errors.KsefFailure) -> None:
        """A call failed: count it, and find out whether KSeF is down."""
        try:
            if error.health is errors.KsefHealth.BLOCKED:
                error.retry_after = math.ceil(self._timing.outage_pause)
                self._write(queries.pause, seconds=self._timing.outage_pause)
            elif error.health is errors.KsefHealth.DOWN:
                self._count()
                self._confirm()
                self._tell()
        except errors.Unavailable:
            telemetry.warning("a failure of KSeF was not noted", environment=self._environment)

    def _count(self) -> None:
        self._write(queries.count_failure)
        self._ask_latarnia()

    def _confirm(self) -> None:
        """Open the breaker if enough calls have failed and the public keys cannot be fetched."""
        row = self._known()
        if row is None or row.opened_at is not None or row.consecutive_failures < FAILURES:
            return
        if self._take_probe() and self._probe_ksef() is errors.KsefHealth.DOWN:
            self._write(queries.open_breaker, failures=FAILURES)
            telemetry.warning("KSeF is down: calls fail at once", environment=self._environment)

    def _tell(self) -> None:
        """Write the begin of an outage to the journal, once it is established."""
        row = self._known()
        if row is None or row.established_at is not None:
            return
        evidence = outages.of_row(row, self._timing)
        if evidence.established and evidence.source:
            journal.begin_outage(
                self._db, self._environment, since=evidence.since, source=evidence.source
            )
            self._read_at = -math.inf

    def _take_probe(self) -> bool:
        """Whether this caller, alone among all replicas, is to probe KSeF now.

        A caller whose request may end before the probe does never is.
        """
        if clock.time_left() < self._timing.outage_probe:
            return False
        taken = self._write(
            queries.take_probe,
            failures=FAILURES,
            after=self._timing.outage_after,
            every=self._timing.outage_probe_every,
        )
        return taken is not None

    def _is_back(self) -> bool:
        return self._take_probe() and self._probe_ksef() is errors.KsefHealth.ANSWERING

    def _probe_ksef(self) -> errors.KsefHealth:
        """Fetch KSeF's public keys, which needs neither a company nor quota."""
        health = errors.KsefHealth.ANSWERING
        try:
            self._probe.send(PUBLIC_KEYS)
        except errors.KsefFailure as error:
            health = error.health
        if health is errors.KsefHealth.ANSWERING:
            self.answered()
        elif health is errors.KsefHealth.DOWN:
            self._count()
        return health

    def _ask_latarnia(self) -> None:
        """Ask Latarnia and store what it says, at most once a minute for all replicas.

        If it does not answer, its earlier answer is dropped.
        """
        if self._latarnia is None:
            return
        if self._write(queries.take_latarnia, every=self._timing.latarnia_every) is None:
            return
        said = self._latarnia.ask()
        self._write(
            queries.keep_latarnia,
            latarnia=None if said is None else msgspec.json.encode(said).decode(),
        )

    def _known(self) -> Any:
        """The row of `outages`, read a moment ago at most; None: no call was made yet."""
        if clock.monotonic() - self._read_at > _KNOWN_FOR:
            self._row = self._db.run(queries.known, environment=self._environment)
            self._read_at = clock.monotonic()
        return self._row

    def _write(self, query: Any, **values: Any) -> Any:
        """Change the row, which is read anew when it is needed next."""
        self._read_at = -math.inf
        return self._db.run(query, environment=self._environment, **values)

    def _is_news(self, row: Any) -> bool:
        noted = timedelta(seconds=self._timing.answer_noted)
        return (
            row.consecutive_failures > 0
            or row.established_at is not None
            or row.answered_at is None
            or row.answered_at < row.now - noted
        )


def _seconds(left: timedelta) -> int:
    return max(1, math.ceil(left.total_seconds()))
