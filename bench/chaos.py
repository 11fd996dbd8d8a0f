"""Workers are killed at random under load, in fair and foul weather; then each rule is judged.

python -m bench.chaos [KILLS]

The load: clients with connections that stay, which ask again at once when theirs is cut; sessions
of all sizes that move, end, and are joined by others; rows that the ERP imports meanwhile. The
weather: KSeF slow, answering 429, down and back, tokens that end, PostgreSQL stopped. The verdicts
come from `verdicts`, which shares no code with the service.
"""

import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import date
from itertools import cycle
from pathlib import Path
from typing import Any

import orjson
import psycopg2

from app.services.parts import Place
from bench import verdicts, witness
from bench.rig import NIPS, Connection, Rig, Service, port_of, started
from bench.verdicts import LinkLook, Sample, Session, Told, Verdict
from bench.witness import Witness
from sandbox import identifiers

FRESH, SCALE = 0.4, 0.03
PROBE_EVERY, LATARNIA_EVERY = 1.0, 1.0
REQUEST, LEASE = 6.0, 7.0
TIMING = {
    "request": REQUEST,
    "lease": LEASE,  # longer than a request, as in production
    "ksef_connect": 1.0,
    "ksef_call": 2.0,
    "ksef_listing": 4.0,
    "retry_left": 1.0,
    "fresh_least": FRESH,
    "fresh_most": 0.8,
    "relist": 1.5,
    "refusal_least": 0.3,
    "refusal_most": 1.0,
    "refresh_ahead": 3.0,
    "refresh_due": 0.5,
    "refresh_pause": 0.5,
    "lease_refresh": 4.5,  # longer than a call
    "lease_poll": 0.02,
    "quota_scale": SCALE,
    "outage_after": 0.8,
    "outage_probe": 1.0,
    "outage_probe_every": PROBE_EVERY,
    "latarnia_every": LATARNIA_EVERY,
    "latarnia_kept": 5.0,
    "statement_timeout": 10.0,
    "lock_timeout": 5.0,
}
TOKEN_SECONDS = 10.0
COMPANIES, CLIENTS = 4, 12
SPACING = 1.2, 3.0  # seconds between two kills: at least, and at most where there is little load
WORK = 40  # answers between two kills, where that many come
GROWN_UP = 1.5  # seconds after which a worker has begun to work
SLOW = 0.8  # seconds that a call takes while KSeF is slow
SIZES = (1, 3, 8, 30, 120, 1200)
PATIENCE = 20.0  # seconds for which the weather stays until it has met somebody
ANSWERS = frozenset({200, 409, 502, 503})
MISSING = "20260101-SO-0000000000-0000000000-00"


class Chaos:
    """One run: companies with sessions, clients that ask, the weather, and somebody who kills."""

    def __init__(self, rig: Rig, services: list[Service], kills: int) -> None:
        self._rig = rig
        self._services = services
        self._kills = kills
        self._random = random.Random(kills)
        self._over = threading.Event()
        self._companies: list[tuple[Place, dict[str, str]]] = []
        self._sessions: dict[str, list[Session]] = {nip: [] for nip in NIPS[:COMPANIES]}
        self._untouched: dict[tuple[str, ...], str] = {}
        self._strangers = 0
        # What is seen from here.
        self._killed: list[float] = []
        self._cut: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()
        self._odd: list[str] = []
        self._looks: list[LinkLook] = []
        self._told: list[Told] = []
        self._samples: list[Sample] = []
        self._slow: list[tuple[float, float]] = []
        self._stops: list[tuple[float, float]] = []
        self._alike: list[list[Any]] = []
        self._ended: list[tuple[float, str]] = []
        self._deadlocks_logged = 0

    def run(self) -> list[Verdict]:
        """The verdicts, rule by rule."""
        self._prepare()
        threads = [
            threading.Thread(target=self._guarded, args=work)
            for work in (
                (self._sample,),
                (self._send,),
                *((self._ask, number) for number in range(CLIENTS)),
            )
        ]
        weather = threading.Thread(target=self._guarded, args=(self._weather,))
        began = time.monotonic()
        for thread in (*threads, weather):
            thread.start()
        self._kill()
        weather.join(120)
        self._over.set()
        for thread in threads:
            thread.join(60)
        self._took = time.monotonic() - began
        self._settle()
        return self._judge()

    def _prepare(self) -> None:
        rig = self._rig
        rig.control.settings(authPolls=0, accessTokenSeconds=TOKEN_SECONDS)
        rig.control.settings(
            quota=True, quotaScale=SCALE, limits={"global": [-1, -1, -1], "other": [-1, -1, -1]}
        )
        self._witness = Witness(rig)
        self._companies = [rig.company(nip) for nip in NIPS[:COMPANIES]]
        rig.control.settings(latencySeconds=0.02, jitterSeconds=0.02)
        for place, _ in self._companies:
            for size in SIZES[:5]:
                self._add_session(place.company_nip, size)

    # -- what there is to ask for ----------------------------------------------------------------

    def _send(self) -> None:
        """The ERPs go on sending: a session now and then, its rows before it or a while later."""
        number = 0
        while not self._over.wait(0.6) and self._share_of_kills() < 0.9:
            place, _ = self._companies[number % COMPANIES]
            size = 1200 if number % 40 == 20 else self._random.choice(SIZES[:5])
            self._add_session(place.company_nip, size, most=12.0)
            number += 1

    def _add_session(self, nip: str, size: int, most: float = 10.0) -> None:
        """A session that ends some time later. A few of its invoices are duplicates."""
        chance = self._random
        originals, duplicates = self._duplicates(nip)
        moving = [{"status": 150}] * min(size, 1 + size // 4)
        seeded = self._rig.control.seed_session(
            "test",
            nip,
            kind=chance.choice(("online", "batch")),
            state="moving",
            invoices=[*moving, *[{}] * (size - len(moving)), *duplicates],
            finishes_after=1 + most * chance.random(),
        )
        session = witness.session_of(seeded, originals)
        late = chance.random() < 0.4
        if not late:
            self._import_rows(session)
        self._sessions[nip].append(session)
        if late:  # the ERP is asking by now
            self._over.wait(0.5)
            self._import_rows(session)

    def _duplicates(self, nip: str) -> tuple[dict[str, str], list[dict[str, Any]]]:
        """Originals in sessions before this one: with an empty row, or one that has to stay."""
        before = self._sessions[nip]
        if not before or self._random.random() < 0.5:
            return {}, []
        known = self._random.choice(before)
        number = min(known.accepted)
        strange = identifiers.ksef_number(nip, date(2026, 1, 1))
        kept = self._random.random() < 0.5
        originals = {
            number: known.reference,
            strange: f"{MISSING[:-2]}{self._random.randrange(10, 99)}",
        }
        if kept:  # a duplicate only fills what is empty
            self._untouched["synced_invoices", nip, "test", strange] = MISSING
        self._insert("synced_invoices", nip, "test", [strange], MISSING if kept else None)
        orders = [
            {"status": 440, "originalKsefNumber": n, "originalSessionReferenceNumber": s}
            for n, s in originals.items()
        ]
        return originals, orders

    def _import_rows(self, session: Session) -> None:
        """Rows of the company; and the same numbers elsewhere, which are nobody's business."""
        numbers = sorted(session.accepted)
        nip = session.nip
        other = NIPS[1] if nip == NIPS[0] else NIPS[0]
        wrong = numbers[:1] if self._random.random() < 0.2 else []  # said KSeF, of another session
        self._insert("synced_invoices", nip, "test", wrong, MISSING)
        self._insert("synced_invoices", nip, "test", numbers[len(wrong) :])
        self._insert("offline_invoices", nip, "test", sorted(session.references)[:3])
        for stranger, environment in ((nip, "demo"), (other, "test")):
            self._insert("synced_invoices", stranger, environment, numbers[:20])
            self._insert("offline_invoices", stranger, environment, [session.reference])
            self._strangers += len(numbers[:20]) + 1

    def _insert(
        self, table: str, nip: str, environment: str, keys: list[str], session: str | None = None
    ) -> None:
        key = "ksef_number" if table == "synced_invoices" else "ksef_reference_number"
        values = (nip, environment, session, keys)
        for _ in range(100):
            try:
                self._rig.execute(
                    f"INSERT INTO {table} (company_nip, environment, {key}, invoice_number,"
                    " session_reference_number)"
                    " SELECT a.nip, a.environment::ksef_environment, n, 'FV/' || n, a.session"
                    " FROM (VALUES (%s, %s, %s)) AS a (nip, environment, session),"
                    " unnest(%s::text[]) AS n ON CONFLICT DO NOTHING",
                    values,
                )
                return
            except psycopg2.OperationalError:  # stopped
                threading.Event().wait(0.2)
        raise RuntimeError("PostgreSQL did not come back")

    # -- the load --------------------------------------------------------------------------------

    def _guarded(self, work: Callable[..., None], *values: int) -> None:
        try:
            work(*values)
        except Exception as error:
            self._odd.append(f"{work.__name__} broke off: {error!r}")

    def _ask(self, number: int) -> None:
        """A client of one company: asks on, whatever happens, and looks at what it is given."""
        place, headers = self._companies[number % COMPANIES]
        chance = random.Random(number)
        while not self._over.is_set():
            port = port_of(chance.choice(self._services))
            try:
                with Connection(port, headers) as http:
                    while not self._over.is_set():
                        self._look(
                            http, number, self._some_session(place.company_nip, chance), chance
                        )
                        self._over.wait(0.005)
            except OSError as error:
                self._cut[type(error).__name__] += 1

    def _some_session(self, nip: str, chance: random.Random) -> Session:
        sessions = self._sessions[nip]
        lately = sessions[-8:]
        return chance.choice(lately if chance.random() < 0.8 else sessions)

    def _look(self, http: Connection, client: int, session: Session, chance: random.Random) -> None:
        path = f"/invoices/test/status/{session.reference}"
        asked = time.time()
        body = self._get(http, path)
        if body is None:
            return
        self._told.append(Told(client, session.reference, body["checkedAt"]))
        codes = [invoice["status"]["code"] for invoice in body["invoices"]]
        if len(codes) != body["totalInvoiceCount"] or (
            body["final"] and codes.count(200) != body["successfulInvoiceCount"]
        ):
            self._odd.append("counts and list do not fit")
        accepted = [i["ksefNumber"] for i in body["invoices"] if i["status"]["code"] == 200]
        if accepted and chance.random() < 0.1:
            self._look_at_links(session, accepted, asked)
        if body["final"] and accepted and chance.random() < 0.2:
            doc_type = chance.choice(("xml", "pdf"))
            self._get(http, f"{path}/{chance.choice(accepted)}/upo?docType={doc_type}")

    def _get(self, http: Connection, path: str) -> Any:
        """What a 200 says; else None."""
        status, content = http.get(path)
        self._statuses[status] += 1
        if status not in ANSWERS:
            self._odd.append(f"an answer was {status}: {content[:200]!r}")
        if status in (409, 503):
            self._over.wait(0.1)
        return orjson.loads(content) if status == 200 else None

    def _look_at_links(self, session: Session, accepted: list[str], asked: float) -> None:
        with suppress(psycopg2.OperationalError):  # stopped
            [(rows, unlinked)] = self._rig.execute(
                "SELECT count(*), count(*) FILTER (WHERE session_reference_number"
                "   IS DISTINCT FROM %s)"
                " FROM synced_invoices WHERE company_nip = %s AND environment = 'test'"
                " AND ksef_number = ANY (%s) AND created_at < to_timestamp(%s) - interval '0.2 s'",
                (session.reference, session.nip, accepted, asked),
            )
            self._looks.append(LinkLook(time.time(), session.reference, rows, unlinked))

    # -- kills and weather -----------------------------------------------------------------------

    def _kill(self) -> None:
        """One worker after the other, of any replica, that has had the time to begin its work."""
        least, most = SPACING
        since: dict[int, float] = {}
        last, answered = time.monotonic(), 0
        while len(self._killed) < self._kills:
            now = time.monotonic()
            alive = [pid for service in self._services for pid in service.workers()]
            since = {pid: since.get(pid, now) for pid in alive}
            grown_up = [pid for pid, came in since.items() if now - came > GROWN_UP]
            worked = self._statuses.total() - answered >= WORK or now - last > most
            if now - last < least or not worked or not grown_up:
                threading.Event().wait(0.05)
                continue
            with suppress(ProcessLookupError):
                os.kill(self._random.choice(grown_up), signal.SIGKILL)
                self._killed.append(time.time())
            last, answered = now, self._statuses.total()

    def _share_of_kills(self) -> float:
        return len(self._killed) / self._kills

    def _until(self, share: float) -> None:
        while self._share_of_kills() < share and not self._over.wait(0.1):
            pass

    def _weather(self) -> None:
        """Fair for a while, then each kind of foul weather, with fair days between."""
        whole = self._kills * SPACING[0]
        control = self._rig.control
        self._until(0.15)
        with self._noted(self._slow):
            control.settings(latencySeconds=SLOW)
            self._over.wait(max(2.5, whole / 20))
        control.settings(latencySeconds=0.02)
        self._until(0.3)
        self._refuse(max(4.0, whole / 12))
        self._end_tokens(max(1.5, whole / 12))
        self._until(0.6)
        self._go_down(max(6.0, whole / 20))
        self._until(0.85)
        self._deadlocks_logged += self._logged_deadlocks()  # a start begins a new log
        with self._rig.without_database(), self._noted(self._stops):
            self._over.wait(2.0)

    @contextmanager
    def _noted(self, spans: list[tuple[float, float]]) -> Iterator[None]:
        began = time.time()
        yield
        spans.append((began, time.time()))

    def _refuse(self, seconds: float) -> None:
        """KSeF answers 429 to one call or another, of each group."""
        paths = (r"/v2/sessions/[^/]+$", r"/invoices$", r"/invoices/[^/]+$", r"/v2/sessions$")
        end = time.monotonic() + seconds
        number = 0
        control = self._rig.control
        while time.monotonic() < end or len(control.waiting_faults()) > number - 4:
            control.fault(
                "rate-limited",
                path=paths[number % 4],
                retryAfter=1 + number % 2,
                environment="test",
            )
            number += 1
            if self._over.wait(0.5) or time.monotonic() > end + PATIENCE:
                break
        control.clear_faults()

    def _end_tokens(self, seconds: float) -> None:
        """KSeF ends access tokens before their time."""
        end = time.monotonic() + seconds
        for place, _ in cycle(self._companies):
            self._rig.control.expire_bearers("test", kind="access", nip=place.company_nip)
            self._ended.append((time.time(), place.company_nip))
            if self._over.wait(1.5) or time.monotonic() > end:
                return

    def _go_down(self, seconds: float) -> None:
        """KSeF fails; Latarnia says so later."""
        control = self._rig.control
        control.set_api("test", available=False)
        for status, wanted in (("AVAILABLE", 2), ("FAILURE", 4)):
            control.set_latarnia("test", status)
            began = time.monotonic()
            while not self._over.wait(0.2) and time.monotonic() < began + PATIENCE:
                if time.monotonic() > began + seconds / 2 and len(self._alike) >= wanted:
                    break
                self._ask_all()
        control.set_latarnia("test", "AVAILABLE")
        control.set_api("test", available=True)
        deadline = time.monotonic() + PATIENCE
        while any(opened for opened, _ in self._known()) and time.monotonic() < deadline:
            self._over.wait(0.1)

    def _ask_all(self) -> None:
        """The same of each replica; it counts where what they know stayed the same meanwhile."""
        before = self._known()
        with ThreadPoolExecutor(len(self._services)) as pool:
            told = list(pool.map(self._what_is_told, self._services))
        if None not in told and before == self._known():
            self._alike.append(told)

    def _what_is_told(self, service: Service) -> tuple[Any, ...] | None:
        _, headers = self._companies[0]
        for _ in range(3):
            with suppress(OSError), Connection(port_of(service), headers) as http:
                status, content = http.get(f"/invoices/test/status/{MISSING}")
                outage = orjson.loads(content).get("outage") or {}
                return status, outage.get("established"), outage.get("source")
        return None

    def _known(self) -> list[tuple[Any, ...]]:
        return self._rig.execute("SELECT opened_at IS NOT NULL, latarnia FROM outages")

    def _sample(self) -> None:
        """The service's connections, all the time."""
        while not self._over.wait(0.03):
            with suppress(psycopg2.OperationalError):
                self._samples.append(witness.sample(self._rig.execute))

    def _logged_deadlocks(self) -> int:
        log = self._rig.server.folder / "server.log"
        return log.read_text(errors="replace").count("deadlock detected")

    # -- afterwards ------------------------------------------------------------------------------

    def _settle(self) -> None:
        """The ERPs ask again until everything is final."""
        deadline = time.monotonic() + 90
        for place, headers in self._companies:
            left = [session.reference for session in self._sessions[place.company_nip]]
            with Connection(port_of(self._services[0]), headers) as http:
                while left and time.monotonic() < deadline:
                    body = self._get(http, f"/invoices/test/status/{left[0]}")
                    if body and body["final"]:
                        left.pop(0)
                    else:
                        threading.Event().wait(0.1)
            self._odd += [f"{reference} did not become final" for reference in left]

    def _again(self) -> int:
        """Everything is asked for once more, of every replica; how many calls KSeF got."""
        before = sum(self._rig.control.call_counts().values())
        for place, headers in self._companies:
            for service in self._services:
                with Connection(port_of(service), headers) as http:
                    for session in self._sessions[place.company_nip]:
                        self._get(http, f"/invoices/test/status/{session.reference}")
        return sum(self._rig.control.call_counts().values()) - before

    def _judge(self) -> list[Verdict]:
        seen = self._witness
        sessions = [session for ours in self._sessions.values() for session in ours]
        rows = seen.rows()
        asked_again = self._again()
        rows_again = seen.rows()
        calls = witness.calls(self._rig.control, sessions)
        links, kept = seen.links(), seen.kept()
        reservations, breaker = seen.reservations(), seen.breaker()
        counted, transactions = seen.deadlocks()
        return [
            self._load(calls, sessions),
            verdicts.same_rows(rows, rows_again, links),
            verdicts.links_are_true(links, sessions),
            verdicts.nothing_is_unlinked(links),
            verdicts.nothing_crosses(links, self._strangers, calls, sessions),
            verdicts.all_is_whole(seen.linked(), seen.answers(), sessions, self._untouched),
            verdicts.linked_before_answered(self._looks),
            verdicts.answers_only_grow_newer(kept, self._told),
            verdicts.no_deadlock(
                counted, self._deadlocks_logged + self._logged_deadlocks(), transactions
            ),
            verdicts.windows_hold(calls, SCALE),
            verdicts.refusals_stop_all(calls, seen.blocks(), reservations, self._killed),
            verdicts.asked_once(
                calls,
                kept,
                seen.archived(),
                self._killed,
                asked_again=asked_again,
                fresh=FRESH,
                round_of=REQUEST,
            ),
            verdicts.renewed_once(
                calls,
                seen.renewals(),
                self._killed,
                self._stops,
                companies=COMPANIES,
                ended=self._ended,
                request=REQUEST,
            ),
            verdicts.no_transaction_meanwhile(
                self._samples, calls, self._slow, longest=0.75 * SLOW
            ),
            verdicts.no_call_without_ledger(calls, reservations, self._stops),
            verdicts.breaker_is_shared(
                calls,
                breaker,
                self._alike,
                probe_every=PROBE_EVERY,
                latarnia_every=LATARNIA_EVERY,
            ),
        ]

    def _load(self, calls: list[verdicts.Call], sessions: list[Session]) -> Verdict:
        """Whether this was a load at all."""
        answers, kills = self._statuses[200], len(self._killed)
        per_kill, cut = answers / kills, self._cut.total()
        flying = sum(
            any(c.at <= kill <= (c.answered or c.at) for kill in self._killed) for c in calls
        )
        odd = list(dict.fromkeys(self._odd))
        if per_kill < 10 or len(calls) < 5 * kills or not cut:
            odd.append("too thin")
        return Verdict(
            "load",
            f"{kills} kills in {self._took:.0f} s; {per_kill:.0f} answers and"
            f" {len(calls) / kills:.0f} calls of KSeF a kill; {cut} connections cut,"
            f" {flying} calls of KSeF under way at a kill; {len(sessions)} sessions with"
            f" {sum(len(s.references) - 1 for s in sessions)} invoices;"
            f" answers {dict(sorted(self._statuses.items()))}",
            odd,
        )


def run(kills: int, *, replicas: int = 3) -> list[Verdict]:
    """The verdicts after so many kills."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ksef-chaos-")))
        rig = stack.enter_context(started(**TIMING))
        services = [
            stack.enter_context(
                rig.serve(folder, workers=2, threads=4, config="bench/gunicorn.py", latarnia=True)
            )
            for _ in range(replicas)
        ]
        return Chaos(rig, services, kills).run()


def main() -> int:
    """Print the verdicts; 1 where a rule is broken."""
    began = time.monotonic()
    found = run(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
    for verdict in found:
        print(verdict)
    broken = [verdict.rule for verdict in found if not verdict.holds]
    print(f"{time.monotonic() - began:.0f} s. Broken: {', '.join(broken) or 'nothing'}.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
