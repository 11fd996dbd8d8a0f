"""The ERPs in a run of chaos: the sessions that they send, the rows that they import."""

import random
import time
from collections.abc import Sequence
from datetime import date
from itertools import count
from typing import Any

import psycopg2

from bench.rig import Rig
from sandbox import identifiers
from sandbox.control import SeededSession

SIZES = (1, 3, 8, 30, 120)
LARGE, LARGE_EVERY = 1200, 40
SYNCED = "synced_invoices (ksef_number"
OFFLINE, HASHED = "offline_invoices (ksef_reference_number", "offline_invoices (invoice_hash"
MISSING = "20260101-SO-0000000000-0000000000-00"


class Senders:
    """Sends sessions of these sizes for the companies in turn, which end within `longest` seconds.
    `sessions` and `expected`, evidence for the judge, tell what KSeF will hold, and how rows have
    to be linked; `invoices`: how many were sent."""

    def __init__(
        self,
        rig: Rig,
        companies: list[str],
        chance: random.Random,
        *,
        sizes: Sequence[int] = SIZES,
        large: int = LARGE,
        longest: float = 13.0,
    ) -> None:
        self._rig = rig
        self._chance = chance
        self._numbers = count()
        self._companies = companies
        self._sizes, self._large, self._longest = sizes, large, longest
        self._sent: dict[str, list[SeededSession]] = {nip: [] for nip in companies}
        self.invoices = 0
        self.sessions: list[dict[str, Any]] = []
        self.expected: list[dict[str, Any]] = []
        for nip in self._sent:
            for size in sizes:
                self._send(nip, size)

    @property
    def seen(self) -> dict[str, list[dict[str, Any]]]:
        """The evidence, rows by table."""
        return {"sessions": self.sessions, "expected": self.expected}

    def some_session(self, nip: str, chance: random.Random) -> SeededSession:
        """A session of a company, mostly a late one."""
        sent = self._sent[nip]
        return chance.choice(sent[-8:] if chance.random() < 0.8 else sent)

    def send(self) -> None:
        """The next session."""
        number = next(self._numbers)
        large = number % LARGE_EVERY == LARGE_EVERY // 2
        nip = self._companies[number % len(self._companies)]
        self._send(nip, self._large if large else self._chance.choice(self._sizes))

    def _send(self, nip: str, size: int) -> None:
        """A session that ends some time later. A few of its invoices are refused, or duplicates."""
        moving: list[dict[str, Any]] = [{"status": 150}] * min(size, 1 + size // 4)
        refused: list[dict[str, Any]] = [{"status": 150, "outcome": 450}, {"status": 430}]
        refused = refused[: self._chance.choice((0, 0, 1, 2))]
        seconds = min(1.0, self._longest / 13) + self._chance.random() * self._longest * 12 / 13
        ended = time.time() + seconds
        session = self._rig.control.seed_session(
            "test",
            nip,
            kind=self._chance.choice(("online", "batch")),
            state="moving",
            invoices=[*moving, *[{}] * (size - len(moving)), *refused, *self._duplicates(nip)],
            finishes_after=seconds,
        )
        reference, accepted = session.reference_number, _accepted(session)
        self.invoices += len(session.invoices)
        told = {"ended": ended, "total": len(session.invoices), "successful": len(accepted)}
        self.sessions.append({"nip": nip, "environment": "test", "reference": reference, **told})
        for key in accepted:
            self._expect("synced_invoices", nip, key, reference)
        names = [(one.reference_number, one.invoice_hash) for one in session.invoices]
        for key in (reference, *(name for both in names for name in both)):
            self._expect("offline_invoices", nip, key, reference)
        late = self._chance.random() < 0.4
        if not late:
            self._import_rows(session)
        self._sent[nip].append(session)
        if late:  # the ERP is asking by now
            time.sleep(0.5)
            self._import_rows(session)

    def _expect(self, table: str, nip: str, key: str, session: str, **more: Any) -> None:
        place = {"tab": table, "nip": nip, "environment": "test", "key": key, "session": session}
        self.expected.append({**place, "is_original": True, "stays": None, **more})

    def _duplicates(self, nip: str) -> list[dict[str, Any]]:
        """Duplicates of an invoice of an earlier session, and of one that nobody knows, whose row
        is empty or has to stay as it is: a duplicate only fills what is empty."""
        if not self._sent[nip] or self._chance.random() < 0.5:
            return []
        known = self._chance.choice(self._sent[nip])
        strange = identifiers.ksef_number(nip, date(2026, 1, 1))
        unknown = f"{MISSING[:-2]}{self._chance.randrange(10, 99)}"
        stays = MISSING if self._chance.random() < 0.5 else None
        self._insert((SYNCED, nip, "test", [strange], stays))
        self._expect("synced_invoices", nip, strange, unknown, is_original=False, stays=stays)
        originals = {min(_accepted(known)): known.reference_number, strange: unknown}
        return [
            {"status": 440, "originalKsefNumber": number, "originalSessionReferenceNumber": session}
            for number, session in originals.items()
        ]

    def _import_rows(self, session: SeededSession) -> None:
        """Rows of the company; and the same numbers elsewhere, which are nobody's business."""
        numbers = _accepted(session)
        references = sorted(invoice.reference_number for invoice in session.invoices)
        nip, own = session.nip, session.reference_number
        other = self._companies[1 if nip == self._companies[0] else 0]
        wrong = numbers[:1] if self._chance.random() < 0.2 else []  # said KSeF, of another session
        hashes = [invoice.invoice_hash for invoice in session.invoices[-3:]]
        rows = [
            (SYNCED, nip, "test", wrong, MISSING),
            (SYNCED, nip, "test", numbers[len(wrong) :], None),
            (OFFLINE, nip, "test", [own, *references[:2]], None),
            (HASHED, nip, "test", hashes, None),
        ]
        for stranger, environment in ((nip, "demo"), (other, "test")):
            rows.append((SYNCED, stranger, environment, numbers[:20], None))
            rows.append((OFFLINE, stranger, environment, [own], None))
            rows.append((HASHED, stranger, environment, hashes, None))
        self._insert(*rows)

    def _insert(self, *rows: tuple[str, str, str, list[str], str | None]) -> None:
        """Each of SYNCED, OFFLINE or HASHED, company, environment, keys and session."""
        for _ in range(100):
            try:
                with self._rig.cursor() as cursor:
                    for into, nip, environment, keys, session in rows:
                        cursor.execute(
                            f"INSERT INTO {into}, company_nip, environment, invoice_number,"
                            " session_reference_number) SELECT number, %s, %s, 'FV/' || number, %s"
                            " FROM unnest(%s::text[]) AS number ON CONFLICT DO NOTHING",
                            (nip, environment, session, keys),
                        )
                return
            except psycopg2.OperationalError:  # stopped
                time.sleep(0.2)
        raise RuntimeError("PostgreSQL did not come back")


def _accepted(session: SeededSession) -> list[str]:
    """The KSeF numbers that it will hold as accepted in the end, in order."""
    return sorted(i.ksef_number for i in session.invoices if i.ksef_number and i.outcome == 200)
