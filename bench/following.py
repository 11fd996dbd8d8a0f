"""Part of `make chaos`: processes follow sessions of an ERP that never polls, and are killed.

A day of 16 hours passes in 360 s: all durations of following, and of KSeF's quota, are 160 times
as short. With 200 kills it is a whole day; with fewer it ends earlier. KSeF is down for a sixteenth
of it, and a receiver of webhooks for another. Callers of another company ask meanwhile, and the ERP
reads the journal. Afterwards nothing moves for an hour; then callers are timed, in turns beside
processes that follow and without.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from bench import witness
from bench.crowd import Crowd, ask
from bench.rig import NIPS, PROJECT, Connection, Rig, Service, scaled, started
from bench.senders import Senders
from bench.verdicts import Verdict

SPEED, HOUR = 160.0, 22.5
SPACING = 1.8  # seconds between two kills, in the mean
SESSIONS = 5  # of the ERP, which has four companies, for each kill
FOLLOWERS, SENDERS, HOURS = 3, 4, 16
SCALED = scaled(SPEED, "follow_", "arrival", "fresh_", "relist", "quota_scale")
MACHINE = {  # what has to do with this machine is not scaled
    "follow_poll": 0.3,
    "follow_turn": 10.0,
    "follow_lease": 1.5,
    "lease": 4.0,
    "ksef_listing": 3.0,
    "single_flight_wait": 0.5,
    "quota_patience": 0.5,
    "outage_after": 0.5,
    "answer_noted": 0.5,
}
TIMING = witness.TIMING | SCALED | MACHINE
ERPS, CALLER = NIPS[:4], NIPS[4]
READ_AT_MOST = 3600.0 / 200 / 5  # a session in so many seconds: 200 lists an hour, five companies
SIZES, LARGE = (1, 1, 1, 2, 5), 30
CALLERS, RATE, ROUNDS, SECONDS = 4, 60.0, 8, 5.0
RULES = ("L2", "L3", "L4", "L5", "L7", "L8", "R1", "F1", "F2", "F3", "F4", "F5", "F6")


class Receiver:
    """Takes webhooks, one after the other. `came`: whose events they were, their ids and times."""

    def __init__(self) -> None:
        self.came: list[tuple[str, str, float]] = []
        self._address: Any = ("127.0.0.1", 0)
        self.open()
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def open(self) -> None:
        """Listen, at the same port as before."""
        came = self.came

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) == length:  # else whoever posted it was killed
                    event = json.loads(body)
                    came.append((event["nip"], event["id"], time.time()))
                    self.send_response(204)
                    self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(self._address, Handler)
        self._address = self._server.server_address
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Refuse connections."""
        self._server.shutdown()
        self._server.server_close()


class Followers:
    """The processes."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        with log.open("wb") as output:
            self._parent = subprocess.Popen(
                [sys.executable, "-m", "bench.follower"],
                cwd=PROJECT,
                env=environment | {"LOG_LEVEL": "WARNING", "BENCH_SPEED": str(SPEED)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
            )
        self._alive: list[int] = []

    def start(self) -> None:
        """All of them."""
        self._alive = [self._started() for _ in range(FOLLOWERS)]

    def kill(self, number: int) -> None:
        """One of them, by SIGKILL; another one takes its place."""
        os.kill(self._alive[number], signal.SIGKILL)
        self._alive[number] = self._started()

    def end(self) -> None:
        """All of them, by SIGTERM."""
        for pid in self._alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        while any(Path(f"/proc/{pid}").exists() for pid in self._alive):
            time.sleep(0.05)
        self._alive = []

    def close(self) -> None:
        """End them and their parent."""
        self.end()
        self._parent.communicate()

    def _started(self) -> int:
        assert self._parent.stdin
        assert self._parent.stdout
        self._parent.stdin.write(b"\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())


class Day:
    """One run: a day, an hour in which nothing moves, and the comparison."""

    def __init__(self, rig: Rig, service: Service, followers: Followers, kills: int) -> None:
        self._rig = rig
        self._service = service
        self._followers = followers
        self._wanted = kills
        self._seconds = kills * SPACING
        self._random = random.Random(kills)
        self._day_over, self._over = threading.Event(), threading.Event()
        self._evidence = witness.Evidence()
        self._seen = self._evidence.seen

    def run(self) -> list[Verdict]:
        """The verdicts, rule by rule."""
        control = self._rig.control
        self._rig.execute(witness.WATCH)
        self._headers = {nip: self._rig.company(nip) for nip in (*ERPS, CALLER)}
        control.settings(quota=True, quotaScale=1 / SPEED, latencySeconds=0.01, jitterSeconds=0.01)
        self._receivers = [Receiver(), Receiver()]
        for nip in ERPS:
            for receiver in self._receivers:
                place = ("--nip", nip, "--environment", "test")
                self._rig.command("webhook", "add", receiver.url, *place)
        self._companies = [*ERPS, *ERPS, CALLER]
        self._senders = Senders(
            self._rig, self._companies, self._random, sizes=SIZES, large=LARGE, longest=2.0
        )
        took = self._pass()
        self._followers.end()
        for number, receiver in enumerate(self._receivers):
            receiver.close()
            self._seen["received"] += [
                {"webhook": number, "nip": nip, "place": place, "id": id, "at": at}
                for place, (nip, id, at) in enumerate(receiver.came)
            ]
        self._seen |= self._senders.seen
        self._seen["calls"] = calls = witness.calls(control, self._senders.sessions)
        found = self._evidence.verdicts(self._rig, RULES, {"quota_scale": 1 / SPEED})
        return [self._load(took, len(calls)), *found]

    def _pass(self) -> float:
        """Let the day pass, and what comes after it; how long the day took."""
        guarded = self._evidence.guarded
        self._followers.start()
        self._began = time.time()
        with ThreadPoolExecutor(len(ERPS) + SENDERS + 4) as pool:
            for nip in ERPS:
                pool.submit(guarded, self._read, nip)
            for _ in range(2):
                pool.submit(guarded, self._call)
            day = [
                pool.submit(guarded, work)
                for work in (*[self._send] * SENDERS, self._kill, self._foul)
            ]
            try:
                for work in day:
                    work.result()
                took = time.time() - self._began
                self._settle()
                self._day_over.set()
                self._idle()
                self._compare()
                self._settle()
            finally:
                self._day_over.set()
                self._over.set()
        return took

    def _send(self) -> None:
        """One of several senders: sessions come evenly all day."""
        wanted = self._wanted * SESSIONS * len(self._companies) / (len(self._companies) - 1)
        while (sent := len(self._senders.sessions)) < wanted:
            if sent < wanted * (time.time() - self._began) / self._seconds:
                self._senders.send()
            else:
                time.sleep(0.05)

    def _kill(self) -> None:
        while len(self._seen["kills"]) < self._wanted:
            time.sleep(SPACING * self._random.uniform(0.4, 1.6))
            self._followers.kill(self._random.randrange(FOLLOWERS))
            self._seen["kills"].append({"at": time.time()})

    def _foul(self) -> None:
        """KSeF is down for a sixteenth of the day, and later one of the receivers."""
        hour = self._seconds / HOURS
        time.sleep(4 * hour)
        self._rig.control.set_api("test", available=False)
        time.sleep(hour)
        self._rig.control.set_api("test", available=True)
        time.sleep(3 * hour)
        self._receivers[1].close()
        time.sleep(hour)
        self._receivers[1].open()

    def _read(self, nip: str) -> None:
        """The ERP reads a company's journal, on and on."""
        after = ""
        with Connection(self._service.port, self._headers[nip]) as http:
            while True:
                was_over = self._over.is_set()
                answer = http.get(f"/events/test?limit=50{after}")
                if answer.status == 200 and (events := answer.json["events"]):
                    for event in events:
                        read = self._seen["read"]
                        read.append({"place": len(read), "nip": nip, "id": event["id"]})
                    after = f"&after={answer.json['next']}"
                elif was_over:
                    return
                self._over.wait(0.5)

    def _call(self) -> None:
        """Somebody of another company asks what became of its sessions, old and new."""
        chance = random.Random(self._wanted)
        with Connection(self._service.port, self._headers[CALLER]) as http:
            while not self._day_over.wait(0.1):
                session = self._senders.some_session(CALLER, chance)
                answer = http.get(f"/invoices/test/status/{session.reference_number}")
                self._evidence.count(answer)

    def _settle(self) -> None:
        """Until everything is done, and known."""
        sent = time.time()
        while left := self._left(sent):
            if time.time() > sent + 8 * HOUR:
                self._evidence.odd.append(f"not done: {left}")
                return
            time.sleep(0.5)

    def _left(self, sent: float) -> str:
        """What is not done yet."""
        [(sessions, unknown)] = self._rig.execute(
            "SELECT (SELECT count(*) FROM followed_sessions WHERE due_at IS NOT NULL), count(*)"
            " FROM followed WHERE known_until IS NULL OR known_until < to_timestamp(%s)",
            (sent,),
        )
        [(events,)] = self._rig.execute(
            "SELECT sum(last - position) FROM webhooks JOIN event_numbers"
            " USING (company_nip, environment)"
        )
        expected = {(row["tab"], row["nip"], row["key"]) for row in self._senders.expected}
        unlinked = self._rig.execute(
            "SELECT 'synced_invoices', company_nip, ksef_number FROM synced_invoices"
            " WHERE environment = 'test' AND session_reference_number IS NULL UNION ALL"
            " SELECT 'offline_invoices', company_nip, coalesce(ksef_reference_number, invoice_hash)"
            " FROM offline_invoices"
            " WHERE environment = 'test' AND session_reference_number IS NULL"
        )
        rows = len(expected.intersection(unlinked))
        if not (sessions or unknown or events or rows):
            return ""
        return f"{sessions} sessions, {rows} rows, {events} events, {unknown} companies"

    def _idle(self) -> None:
        begun = time.time()
        time.sleep(HOUR)
        self._seen["spans"].append({"kind": "idle", "begun": begun, "ended": time.time()})

    def _compare(self) -> None:
        """Callers of one of the ERP's companies, with and without processes that follow, in turns.

        New sessions come all the time, as many as KSeF allows all five companies together to have
        read: time is as real for the callers as for the processors of this machine.
        """
        some = [self._senders.some_session(ERPS[0], self._random) for _ in range(20)]
        paths = [f"/invoices/test/status/{session.reference_number}" for session in some]
        crowd = Crowd(CALLERS, self._headers[ERPS[0]], paths, RATE)
        by_day = len(self._senders.sessions)
        for number in range(2 * max(2, ROUNDS * self._wanted // 200)):
            followed = number % 2 == 0
            if not followed:
                self._followers.end()
            elif number:
                self._followers.start()
                time.sleep(3.0)  # until they have made up for the time without them
            with ThreadPoolExecutor(1) as pool:
                pool.submit(self._evidence.guarded, self._go_on_sending, time.time() + SECONDS)
                [answers] = ask([self._service], SECONDS, crowd)
            failed = len(answers.got) - answers.statuses[200]
            row = {"followed": followed, "p99": answers.percentile(0.99), "failed": failed}
            self._seen["answered"].append(row)
        self._followers.start()
        for session in self._senders.sessions[by_day:]:
            session["ended"] = None  # nobody followed: how late they are told says nothing

    def _go_on_sending(self, until: float) -> None:
        while time.time() < until:
            self._senders.send()
            time.sleep(READ_AT_MOST)

    def _load(self, took: float, calls: int) -> Verdict:
        """Whether this was a day at all."""
        sessions = Counter(session["nip"] for session in self._senders.sessions)
        ours = sum(sessions.values()) - sessions[CALLER]
        return self._evidence.load(
            f"{len(self._seen['kills'])} kills in {took:.0f} s; {ours} and"
            f" {sessions[CALLER]} sessions, {self._senders.invoices} invoices; {calls} calls of"
            " KSeF",
            is_thin=ours < SESSIONS * self._wanted or not self._evidence.statuses[200],
        )


def run(kills: int) -> list[Verdict]:
    """Processes that follow sessions are killed."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ksef-follow-")))
        rig = stack.enter_context(started(**TIMING))
        service = stack.enter_context(rig.serve(folder))
        followers = Followers(rig.environment, folder / "follow.log")
        stack.callback(followers.close)
        return Day(rig, service, followers, kills).run()
