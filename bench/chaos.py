"""Workers are killed at random under load; afterwards the data and KSeF's log are looked at.

python -m bench.chaos [KILLS]

What must hold is checked by code that shares nothing with the service: from the sandbox's own log
and state, and from PostgreSQL, where triggers have written down every change.
"""

import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from app.services.parts import Place
from bench.rig import NIPS, Connection, Rig, Service, port_of, started

TIMING = {
    "fresh_least": 0.4,
    "fresh_most": 0.8,
    "lease": 1.5,
    "lease_poll": 0.02,
    "relist": 2.0,
    "refusal_least": 0.5,
    "refusal_most": 2.0,
    "quota_scale": 0.05,
    "quota_jitter": 0.25,
    "statement_timeout": 10.0,
    "lock_timeout": 5.0,
}
RATE = 1 / TIMING["quota_scale"]
COMPANIES, CLIENTS = 3, 10
WINDOWS = (1.0, 60.0, 3600.0)
LIMITS = {
    "sessionList": (5, 10, 60),
    "sessionMisc": (10, 120, 1200),
    "sessionInvoiceList": (10, 20, 200),
    "invoiceStatus": (30, 120, 1200),
}
GROUPS = {
    "/sessions": "sessionList",
    "/sessions/{reference}": "sessionMisc",
    "/sessions/{reference}/upo/{upo_reference}": "sessionMisc",
    "/sessions/{reference}/invoices/ksef/{ksef_number}/upo": "sessionMisc",
    "/sessions/{reference}/invoices": "sessionInvoiceList",
    "/sessions/{reference}/invoices/{invoice_reference}": "invoiceStatus",
}
WATCH = """
CREATE TABLE seen_links (kind text, id text, session text);
CREATE TABLE seen_trouble (what text);
CREATE FUNCTION watch_row() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO seen_trouble VALUES ('L3 a row was deleted from ' || TG_TABLE_NAME);
    ELSIF NEW.session_reference_number IS NOT DISTINCT FROM OLD.session_reference_number THEN
        INSERT INTO seen_trouble VALUES ('L1 a row was written for nothing');
    ELSIF OLD.session_reference_number IS NOT NULL THEN
        INSERT INTO seen_trouble VALUES ('L2, L3 a link was changed or cleared');
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION watch_answer() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    IF TG_OP = 'DELETE' OR NEW.checked_at < OLD.checked_at OR OLD.final THEN
        INSERT INTO seen_trouble VALUES ('L7 a newer or final answer was replaced');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER watch AFTER UPDATE OR DELETE ON synced_invoices
    FOR EACH ROW EXECUTE FUNCTION watch_row();
CREATE TRIGGER watch AFTER UPDATE OR DELETE ON offline_invoices
    FOR EACH ROW EXECUTE FUNCTION watch_row();
CREATE TRIGGER watch AFTER UPDATE OR DELETE ON kept_sessions
    FOR EACH ROW EXECUTE FUNCTION watch_answer();
"""


class Chaos:
    """One run: companies with sessions, clients that ask, and somebody who kills workers."""

    def __init__(self, rig: Rig, services: list[Service], kills: int) -> None:
        self._rig = rig
        self._services = services
        self._kills = kills
        self._random = random.Random(kills)
        self._over = threading.Event()
        self._troubles: list[str] = []
        self.answers: Counter[int] = Counter()
        self._companies: list[tuple[Place, dict[str, str]]] = []
        self._sessions: dict[str, list[Any]] = defaultdict(list)

    def run(self) -> list[str]:
        """Everything that did not hold, in words."""
        self._prepare()
        clients = [threading.Thread(target=self._client, args=(n,)) for n in range(CLIENTS)]
        for thread in clients:
            thread.start()
        self._kill()
        self._over.set()
        for thread in clients:
            thread.join(60)
        self._settle()
        if self.answers.total() < 3 * self._kills:
            self._troubles.append(f"{self.answers.total()} answers are no load")
        self._look_at_rows()
        self._look_at_answers()
        self._look_at_calls()
        return sorted(set(self._troubles))

    def _prepare(self) -> None:
        rig = self._rig
        for nip in NIPS[:COMPANIES]:
            self._companies.append(rig.company(nip))
        rig.execute(WATCH)
        rig.control.settings(
            quota=True, clockRate=RATE, jitterSeconds=0.01, accessTokenSeconds=4 * RATE
        )
        for place, _ in self._companies:
            for number in range(6):
                self._seed(place, number)

    def _seed(self, place: Place, number: int) -> None:
        """A session that ends some time later; some of its rows are of another company too."""
        seconds = self._kills * 0.25 * self._random.random()
        session = self._rig.control.seed_session(
            "test",
            place.company_nip,
            kind=("online", "batch")[number % 2],
            state="moving",
            invoices=[{"status": 150}] * (1 + number % 3) + [{}] * 8,
            finishes_after=(2 + seconds) * RATE,
        )
        self._sessions[place.company_nip].append(session)
        numbers = [i.ksef_number for i in session.invoices]
        other = NIPS[COMPANIES - 1] if place.company_nip == NIPS[0] else NIPS[0]
        for nip, environment in (
            (place.company_nip, "test"), (place.company_nip, "demo"), (other, "test"),
        ):  # fmt: skip
            self._rig.execute(
                "INSERT INTO synced_invoices"
                " (company_nip, environment, ksef_number, invoice_number)"
                " SELECT %s, %s, n, 'FV/' || n FROM unnest(%s) AS n",
                (nip, environment, numbers),
            )
        self._rig.execute(
            "INSERT INTO offline_invoices"
            " (company_nip, environment, ksef_reference_number, invoice_number)"
            " SELECT %s, 'test', n, 'OFF/' || n FROM unnest(%s) AS n",
            (
                place.company_nip,
                [session.reference_number, session.invoices[0].reference_number],
            ),
        )

    # -- load and kills --------------------------------------------------------------------------

    def _client(self, number: int) -> None:
        try:
            self._ask(number)
        except Exception as error:
            self._troubles.append(f"a client broke off: {error!r}")

    def _ask(self, number: int) -> None:
        """A client of one company: asks on, whatever happens, and looks at what it is given."""
        place, headers = self._companies[number % COMPANIES]
        chance = random.Random(number)
        newest: dict[str, str] = {}
        while not self._over.is_set():
            port = port_of(chance.choice(self._services))
            with suppress(OSError), Connection(port, headers) as http:
                for _ in range(20):
                    session = chance.choice(self._sessions[place.company_nip])
                    self._look(http, session.reference_number, newest, chance)
                    self._over.wait(0.01)

    def _look(
        self, http: Connection, reference: str, newest: dict[str, str], chance: random.Random
    ) -> None:
        path = f"/invoices/test/status/{reference}"
        status, content = http.get(path)
        self.answers[status] += 1
        if status not in (200, 502, 503):
            self._troubles.append(f"an answer was {status}: {content[:200]!r}")
        if status != 200:
            return
        body = orjson.loads(content)
        codes = [invoice["status"]["code"] for invoice in body["invoices"]]
        if len(codes) != body["totalInvoiceCount"] or (
            body["final"] and codes.count(200) != body["successfulInvoiceCount"]
        ):
            self._troubles.append("L5 counts and list do not fit")
        if body["checkedAt"] < newest.get(reference, ""):
            self._troubles.append("L7 an answer was older than one given before")
        newest[reference] = body["checkedAt"]
        accepted = [i["ksefNumber"] for i in body["invoices"] if i["ksefNumber"]]
        if accepted and chance.random() < 0.05:
            [(unlinked,)] = self._rig.execute(
                "SELECT count(*) FROM synced_invoices WHERE company_nip = %s"
                " AND environment = 'test' AND ksef_number = ANY (%s)"
                " AND session_reference_number IS DISTINCT FROM %s",
                (accepted[0][:10], accepted, reference),
            )
            if unlinked:
                self._troubles.append("L6 a 200 left before its rows were linked")
        if body["final"] and chance.random() < 0.2:
            status, _ = http.get(f"{path}/{chance.choice(accepted)}/upo")
            self.answers[status] += 1

    def _kill(self) -> None:
        done = 0
        while done < self._kills:
            service = self._random.choice(self._services)
            workers = service.workers()
            if len(workers) < 2:  # the other one is just being started
                self._over.wait(0.05)
                continue
            with suppress(ProcessLookupError):
                os.kill(self._random.choice(workers), signal.SIGKILL)
                done += 1
            if done % 10 == 0:
                self._look_at_connections()
            self._let_them_work()

    def _let_them_work(self) -> None:
        """A few answers between two kills, or a second: a worker that only starts kills nothing."""
        enough = self.answers.total() + self._random.randrange(12)
        deadline = time.monotonic() + 1.0
        while self.answers.total() < enough and time.monotonic() < deadline:
            self._over.wait(0.01)

    def _settle(self) -> None:
        """The ERPs ask again until everything is final; then once more, for nothing."""
        deadline = time.monotonic() + 120
        for place, headers in self._companies:
            left = [s.reference_number for s in self._sessions[place.company_nip]]
            with Connection(port_of(self._services[0]), headers) as http:
                while left and time.monotonic() < deadline:
                    status, content = http.get(f"/invoices/test/status/{left[0]}")
                    if status == 200 and orjson.loads(content)["final"]:
                        left.pop(0)
                    else:
                        threading.Event().wait(0.2)
            if left:
                self._troubles.append("L5 a session did not become final")

    # -- what must hold --------------------------------------------------------------------------

    def _look_at_connections(self) -> None:
        idle = self._rig.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
            " AND now() - state_change > interval '2 s'"
        )
        if idle != [(0,)]:
            self._troubles.append("R5 a transaction is held open")

    def _look_at_rows(self) -> None:
        execute = self._rig.execute
        self._troubles += [what for (what,) in execute("SELECT DISTINCT what FROM seen_trouble")]
        for place, _ in self._companies:
            expected = {
                (n, s.reference_number)
                for s in self._sessions[place.company_nip]
                for n in [i.ksef_number for i in s.invoices]
            }
            found = set(
                execute(
                    "SELECT ksef_number, session_reference_number FROM synced_invoices"
                    " WHERE company_nip = %s AND environment = 'test' AND ksef_number LIKE %s",
                    (place.company_nip, f"{place.company_nip}%"),
                )
            )
            if found != expected:
                self._troubles.append("L2, L5 the links are not what KSeF said")
        [(wrong, free)] = execute(
            "SELECT count(*) FILTER (WHERE session_reference_number IS NOT NULL), count(*)"
            " FROM synced_invoices WHERE environment <> 'test'"
            " OR company_nip <> left(ksef_number, 10)"
        )
        if wrong or not free:
            self._troubles.append("L4 a row of another company or environment was linked")
        [(unlinked,)] = execute(
            "SELECT count(*) FROM offline_invoices WHERE session_reference_number IS NULL"
        )
        if unlinked:
            self._troubles.append("L5 an offline row was not linked")
        [(deadlocks,)] = execute("SELECT sum(deadlocks) FROM pg_stat_database")
        if deadlocks:
            self._troubles.append("L8 there was a deadlock")

    def _look_at_answers(self) -> None:
        """Asked once more: not a row is written, KSeF is not asked."""
        tables = ("kept_sessions", "kept_invoices", "synced_invoices", "offline_invoices")

        def rows() -> list[Any]:
            return [
                self._rig.execute(f"SELECT ctid::text, xmin::text FROM {table} ORDER BY 1")
                for table in tables
            ]

        self._calls = self._rig.control.calls()
        self._rig.control.clear_calls()
        before = rows()
        for place, headers in self._companies:
            for service in self._services:
                with Connection(port_of(service), headers) as http:
                    for session in self._sessions[place.company_nip]:
                        path = f"/invoices/test/status/{session.reference_number}"
                        status, content = http.get(path)
                        if status != 200 or len(orjson.loads(content)["invoices"]) != len(
                            session.invoices
                        ):
                            self._troubles.append("L5 a final answer is not whole")
        if rows() != before:
            self._troubles.append("L1 the same answer again wrote a row")
        if self._rig.control.calls():
            self._troubles.append("R3 KSeF was asked after a final session")

    def _look_at_calls(self) -> None:
        calls = [call for call in self._calls if call.service == "api"]
        if any(call.status == 429 for call in calls):
            self._troubles.append("R1, R2 KSeF answered 429")
        moments: dict[tuple[Any, ...], list[float]] = defaultdict(list)
        for call in calls:
            template = (call.route or "").replace("/{environment}/v2", "", 1)
            group = GROUPS.get(template)
            if group:
                at = datetime.fromisoformat(call.at).timestamp()
                moments[call.nip, group].append(at)
        for (_, name), times in moments.items():
            for limit, window in zip(LIMITS[name], WINDOWS, strict=True):
                if _most(sorted(times), window) > limit:
                    self._troubles.append(f"R1 a window of {window:.0f} s of {name} was exceeded")
        [(ledger,)] = self._rig.execute(
            "SELECT count(*) FROM quota_calls WHERE quota_group <> 'other'"
        )
        if ledger < sum(len(times) for times in moments.values()):
            self._troubles.append("R6 a call went out that the ledger does not know")
        logins = sum(call.path.endswith("/auth/challenge") for call in calls)
        if logins > COMPANIES:
            self._troubles.append("R4 there were more logins than companies")
        refreshes = sum(call.path.endswith("/token/refresh") for call in calls)
        times = [datetime.fromisoformat(call.at).timestamp() for call in calls]
        lives = (max(times) - min(times)) / (4 * RATE) + 2
        if refreshes > COMPANIES * lives + self._kills:
            self._troubles.append(f"R4 {refreshes} refreshes in {lives:.0f} lives of a token")
        print(
            f"{self._kills} kills; answers {dict(self.answers)}; {len(calls)} calls of KSeF,"
            f" {refreshes} refreshes",
            flush=True,
        )


def _most(times: list[float], window: float) -> int:
    """The most calls in any window of so many seconds."""
    most = first = 0
    for last, moment in enumerate(times):
        while times[first] <= moment - window:
            first += 1
        most = max(most, last - first + 1)
    return most


def run(kills: int, *, replicas: int = 3) -> list[str]:
    """What did not hold after so many kills."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ksef-chaos-")))
        rig = stack.enter_context(started(**TIMING))
        services = [
            stack.enter_context(rig.serve(folder, workers=2, threads=4)) for _ in range(replicas)
        ]
        return Chaos(rig, services, kills).run()


def main() -> int:
    """Print what did not hold; 1 where there is anything."""
    troubles = run(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
    for trouble in troubles:
        print(trouble)
    print("L1-L8 and R1-R7 hold." if not troubles else f"{len(troubles)} did not hold.")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
