"""Workers are killed at random under load, in fair and foul weather; then each rule is judged.

python -m bench.chaos [KILLS] [workers following]

The load: clients with connections that stay, which ask again at once when theirs is cut; sessions
of all sizes that move, end, and are joined by others (`senders`). The weather: KSeF slow, answering
429, down and back, tokens that end, PostgreSQL stopped (`weather`). The verdicts come from
`verdicts`, which shares no code with the service.
"""

import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psycopg2

from bench import following, verdicts, witness
from bench.rig import NIPS, Answer, Connection, Rig, Service, started
from bench.senders import Senders
from bench.verdicts import Verdict
from bench.weather import SLOW, Weather
from sandbox.control import SeededSession

SCALE, TOKEN_SECONDS = 0.03, 10.0
TIMING = witness.TIMING | {
    "lease": 7.0,  # longer than a request, as in production
    "ksef_listing": 4.0,
    "fresh_least": 0.4,
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
    "latarnia_every": 1.0,
    "latarnia_kept": 5.0,
}
COMPANIES, CLIENTS = NIPS[:4], 12
SPACING = 1.2, 3.0  # seconds between two kills: at least, and at most where there is little load
WORK = 40  # answers between two kills, where that many come
GROWN_UP = 1.5  # seconds after which a worker has begun to work


class Chaos:
    """One run: clients that ask, the weather, and somebody who kills."""

    def __init__(self, rig: Rig, replicas: list[Service], kills: int) -> None:
        self._rig = rig
        self._replicas = replicas
        self._wanted = kills
        self._random = random.Random(kills)
        self._over = threading.Event()
        self._cut = 0
        self._kills: list[float] = []
        self._evidence = witness.Evidence()

    def run(self) -> list[Verdict]:
        """The verdicts, rule by rule."""
        control = self._rig.control
        control.settings(authPolls=0, accessTokenSeconds=TOKEN_SECONDS)
        limits: dict[str, Any] = {"global": {}, "other": {}}  # none
        control.settings(quota=True, quotaScale=SCALE, limits=limits)
        self._rig.execute(witness.WATCH)
        self._headers = {nip: self._rig.company(nip) for nip in COMPANIES}
        control.settings(latencySeconds=0.02, jitterSeconds=0.02)
        self._senders = Senders(self._rig, COMPANIES, self._random)
        evidence, guarded = self._evidence, self._evidence.guarded
        weather = Weather(self._rig, self._replicas, self._headers, evidence.seen)
        began = time.monotonic()
        with ThreadPoolExecutor(CLIENTS + 3) as pool:
            pool.submit(guarded, self._sample)
            pool.submit(guarded, self._send)
            for number in range(CLIENTS):
                pool.submit(guarded, self._ask, number)
            seconds = self._wanted * SPACING[0]
            weathering = pool.submit(guarded, weather.happen, self._share, seconds)
            try:
                self._kill()
                weathering.result()
            finally:
                self._over.set()
        took = time.monotonic() - began
        self._settle()
        asked_again = self._ask_again()
        calls = witness.calls(control, self._senders.sessions)
        run = {
            "companies": len(COMPANIES),
            "quota_scale": SCALE,
            "fresh": TIMING["fresh_least"],
            "request": TIMING["request"],
            "longest_idle": 0.75 * SLOW,
            "probe_every": TIMING["outage_probe_every"],
            "latarnia_every": TIMING["latarnia_every"],
            "asked_again": asked_again,
            "deadlocks": weather.deadlocks + weather.logged_deadlocks(),
        }
        evidence.seen |= self._senders.seen | {
            "kills": [{"at": at} for at in self._kills],
            "calls": calls,
        }
        rules = [rule for rule in verdicts.RULES if rule[0] in "LR"]
        return [self._load(took, calls), *evidence.verdicts(self._rig, rules, run)]

    def _send(self) -> None:
        """The ERPs go on sending, nearly to the end."""
        while not self._over.wait(0.6) and self._share() < 0.9:
            self._senders.send()

    def _ask(self, number: int) -> None:
        """A client of one company: asks on, whatever happens, and looks at what it is given."""
        nip = COMPANIES[number % len(COMPANIES)]
        chance = random.Random(number)
        while not self._over.is_set():
            port = chance.choice(self._replicas).port
            try:
                with Connection(port, self._headers[nip]) as http:
                    while not self._over.wait(0.005):
                        self._look(http, number, self._senders.some_session(nip, chance), chance)
            except OSError:
                self._cut += 1

    def _look(
        self, http: Connection, client: int, session: SeededSession, chance: random.Random
    ) -> None:
        path = f"/invoices/test/status/{session.reference_number}"
        asked = time.time()
        answer = self._get(http, path)
        if answer.status != 200:
            return
        body = answer.json
        told = {"client": client, "reference": path[-36:], "checked_at": body["checkedAt"]}
        self._evidence.seen["told"].append({"at": time.time(), **told})
        codes = [invoice["status"]["code"] for invoice in body["invoices"]]
        if len(codes) != body["totalInvoiceCount"] or (
            body["final"] and codes.count(200) != body["successfulInvoiceCount"]
        ):
            self._evidence.odd.append("counts and list do not fit")
        accepted = [i["ksefNumber"] for i in body["invoices"] if i["status"]["code"] == 200]
        if accepted and chance.random() < 0.1:
            self._look_at_links(session, accepted, asked)
        if body["final"] and accepted and chance.random() < 0.2:
            doc_type = chance.choice(("xml", "pdf"))
            self._get(http, f"{path}/{chance.choice(accepted)}/upo?docType={doc_type}")

    def _get(self, http: Connection, path: str) -> Answer:
        answer = http.get(path)
        self._evidence.count(answer)
        if answer.status in (409, 503):
            self._over.wait(0.1)
        return answer

    def _look_at_links(self, session: SeededSession, accepted: list[str], asked: float) -> None:
        reference = session.reference_number
        with suppress(psycopg2.OperationalError):  # stopped
            [(linked, unlinked)] = self._rig.execute(
                "SELECT count(*) FILTER (WHERE session_reference_number = %s),"
                " count(*) FILTER (WHERE session_reference_number IS DISTINCT FROM %s)"
                " FROM synced_invoices WHERE company_nip = %s AND environment = 'test'"
                " AND ksef_number = ANY (%s) AND created_at < to_timestamp(%s) - interval '0.2 s'",
                (reference, reference, session.nip, accepted, asked),
            )
            look = {"reference": reference, "linked": linked, "unlinked": unlinked}
            self._evidence.seen["looks"].append(look)

    def _sample(self) -> None:
        """Look at the service's connections, all the time."""
        while not self._over.wait(0.03):
            with suppress(psycopg2.OperationalError):
                self._evidence.seen["samples"].append(witness.sample(self._rig))

    def _kill(self) -> None:
        """One worker after the other, of any replica, that has had the time to begin its work."""
        least, most = SPACING
        since: dict[int, float] = {}
        last, answered = time.monotonic(), 0
        while len(self._kills) < self._wanted:
            now = time.monotonic()
            alive = [pid for service in self._replicas for pid in service.workers()]
            since = {pid: since.get(pid, now) for pid in alive}
            grown_up = [pid for pid, came in since.items() if now - came > GROWN_UP]
            worked = self._evidence.statuses.total() - answered >= WORK or now - last > most
            if now - last < least or not worked or not grown_up:
                time.sleep(0.05)
                continue
            with suppress(ProcessLookupError):
                os.kill(self._random.choice(grown_up), signal.SIGKILL)
                self._kills.append(time.time())
            last, answered = now, self._evidence.statuses.total()

    def _share(self) -> float:
        """How much of the work is done."""
        return len(self._kills) / self._wanted

    def _settle(self) -> None:
        """The ERPs ask again until everything is final."""
        deadline = time.monotonic() + 90
        for path, headers in self._everything():
            with Connection(self._replicas[0].port, headers) as http:
                answer = self._get(http, path)
                while not (answer.status == 200 and answer.json["final"]):
                    if time.monotonic() > deadline:
                        self._evidence.odd.append(f"{path} did not become final")
                        break
                    time.sleep(0.1)
                    answer = self._get(http, path)

    def _everything(self) -> Iterator[tuple[str, dict[str, str]]]:
        for session in self._senders.sessions:
            path = f"/invoices/test/status/{session['reference']}"
            yield path, self._headers[session["nip"]]

    def _ask_again(self) -> int:
        """Everything is asked for once more, of every replica; how many calls KSeF got."""
        counts = self._rig.control.call_counts
        called = sum(counts().values())
        self._rig.execute("SELECT watch.note_versions(again => false)")
        for path, headers in self._everything():
            for service in self._replicas:
                with Connection(service.port, headers) as http:
                    self._get(http, path)
        self._rig.execute("SELECT watch.note_versions(again => true)")
        return sum(counts().values()) - called

    def _load(self, took: float, calls: list[dict[str, Any]]) -> Verdict:
        """Whether this was a load at all."""
        kills = len(self._kills)
        per_kill = self._evidence.statuses[200] / kills
        flying = sum(
            any(call["at"] <= kill <= (call["answered"] or call["at"]) for kill in self._kills)
            for call in calls
        )
        return self._evidence.load(
            f"{kills} kills in {took:.0f} s; {per_kill:.0f} answers and"
            f" {len(calls) / kills:.0f} calls of KSeF a kill; {self._cut} connections cut,"
            f" {flying} calls of KSeF under way at a kill; {self._senders.invoices} invoices in"
            f" {len(self._senders.sessions)} sessions",
            is_thin=per_kill < 10 or len(calls) < 5 * kills or not self._cut,
        )


def run(kills: int, *, replicas: int = 3) -> list[Verdict]:
    """Workers of three replicas are killed."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ksef-chaos-")))
        rig = stack.enter_context(started(**TIMING))
        chosen = {"WEB_THREADS": "4", "LATARNIA_URL_TEST": f"{rig.sandbox_url}/latarnia/test"}
        services = [
            stack.enter_context(rig.serve(folder, "bench/gunicorn.py", **chosen))
            for _ in range(replicas)
        ]
        return Chaos(rig, services, kills).run()


PARTS = {"workers": run, "following": following.run}


def main() -> int:
    """Print the verdicts; returns 1 if a rule is broken."""
    began = time.monotonic()
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    broken = []
    for name in sys.argv[2:] or PARTS:
        print(PARTS[name].__doc__)
        for verdict in PARTS[name](kills):
            print(verdict, flush=True)
            broken += [] if verdict.holds else [verdict.rule]
    print(f"{time.monotonic() - began:.0f} s. Broken: {', '.join(broken) or 'nothing'}.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
