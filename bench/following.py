"""Part of `make chaos`: processes follow the sessions of an ERP that never polls, and are killed.

A day of 16 hours passes in 360 s: all durations of following, and of KSeF's quota, are 160 times
as short. With 200 kills it is a whole day; with fewer it ends earlier. KSeF is down for a sixteenth
of it, and a receiver of webhooks for another. Callers of another company ask meanwhile, and the ERP
reads the journal. Afterwards nothing moves for an hour; then callers are timed, in turns beside
processes that follow and without.
"""

import json
import multiprocessing
import os
import random
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from flask.cli import ScriptInfo

from app.services.events import webhooks
from bench import witness
from bench.crowd import Crowd, ask
from bench.rig import NIPS, Connection, Rig, Service, scaled, started
from bench.senders import Senders
from bench.verdicts import Verdict

SPEED, HOUR = 160.0, 22.5
SPACING = 1.8  # seconds between two kills, in the mean
SESSIONS = 5  # of the ERP for each kill
FOLLOWERS, HOURS = 3, 16
SCALED = (
    *("follow_least", "follow_most", "follow_moving", "follow_failing", "follow_stuck"),
    *("follow_overlap", "follow_again", "follow_slice", "follow_before", "arrival"),
    *("fresh_least", "fresh_most", "relist", "quota_scale"),
)
TIMING = scaled(SPEED, *SCALED) | {  # the rest has to do with this machine
    "follow_poll": 0.3,
    "follow_turn": 2.0,
    "follow_lease": 3.0,
    "request": 6.0,
    "lease": 4.0,
    "ksef_connect": 1.0,
    "ksef_call": 2.0,
    "ksef_listing": 3.0,
    "single_flight_wait": 0.5,
    "quota_patience": 0.5,
    "retry_left": 1.0,
    "outage_after": 0.5,
    "outage_probe": 1.0,
    "outage_probe_every": 1.0,
    "answer_noted": 0.5,
    "statement_timeout": 10.0,
    "lock_timeout": 5.0,
}
ERP, CALLER = NIPS[:2]
SIZES = (1, 1, 2, 3, 10)
CALLERS, RATE, ROUNDS, SECONDS = 4, 60.0, 8, 5.0
RULES = ("L2", "L3", "L4", "L5", "L7", "L8", "R1", "F1", "F2", "F3", "F4", "F5", "F6")
ANSWERS = frozenset({200, 409, 502, 503})


class Receiver:
    """Takes webhooks, one after the other; `ids` are those that came, each with its time."""

    def __init__(self) -> None:
        self.ids: list[tuple[str, float]] = []
        self._port = 0
        self.open()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/"

    def open(self) -> None:
        """Listen, at the same port as before."""
        ids = self.ids

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) == length:  # else whoever posted it was killed
                    ids.append((json.loads(body)["id"], time.time()))
                    self.send_response(204)
                    self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Refuse connections."""
        self._server.shutdown()
        self._server.server_close()


def follow(environment: dict[str, str], log: str) -> None:
    """The command `follow`, in a process of its own."""
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
    webhooks.PAUSES = tuple(pause / SPEED for pause in webhooks.PAUSES)
    webhooks._LEASE = 3.0
    from bench.wsgi import app

    app.cli.main(["follow"], obj=ScriptInfo(create_app=lambda: app))


class Followers:
    """The processes. They are forked from one that has loaded everything, as gunicorn does it."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["bench.following"])
        self._arguments = (environment | {"LOG_LEVEL": "WARNING"}, str(log))
        self._alive: list[Any] = []

    def start(self) -> None:
        """All of them."""
        self._alive = [self._started() for _ in range(FOLLOWERS)]

    def kill(self, number: int) -> None:
        """One of them, by SIGKILL; another one takes its place."""
        self._alive[number].kill()
        self._alive[number].join()
        self._alive[number] = self._started()

    def end(self) -> None:
        """All of them, by SIGTERM."""
        for process in self._alive:
            process.terminate()
        for process in self._alive:
            process.join()

    def _started(self) -> Any:
        process = self._processes.Process(target=follow, args=self._arguments, daemon=True)
        process.start()
        return process


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
        self._odd: list[str] = []
        self._statuses: Counter[int] = Counter()
        self._seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
        """Evidence: the rows of a table."""

    def run(self) -> list[Verdict]:
        """The verdicts, rule by rule."""
        control = self._rig.control
        self._rig.execute(witness.WATCH)
        self._headers = {nip: self._rig.company(nip) for nip in (ERP, CALLER)}
        control.settings(quota=True, quotaScale=1 / SPEED, latencySeconds=0.01, jitterSeconds=0.01)
        self._receivers = [Receiver(), Receiver()]
        for receiver in self._receivers:
            place = ("--nip", ERP, "--environment", "test")
            self._rig.command("webhook", "add", receiver.url, *place)
        # Nine of ten sessions are the ERP's.
        companies = [ERP, CALLER, *[ERP] * 8]
        self._senders = Senders(
            self._rig, companies, self._random, sizes=SIZES, large=100, longest=2.0
        )
        self._followers.start()
        self._began = time.time()
        with ThreadPoolExecutor(12) as pool:
            pool.submit(self._guarded, self._read)
            for _ in range(2):
                pool.submit(self._guarded, self._call)
            day = [
                pool.submit(self._guarded, work)
                for work in (self._send, self._send, self._send, self._kill, self._foul)
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
        self._followers.end()
        for number, receiver in enumerate(self._receivers):
            receiver.close()
            self._seen["received"] += [
                {"webhook": number, "nip": ERP, "place": place, "id": id, "at": at}
                for place, (id, at) in enumerate(receiver.ids)
            ]
        self._seen |= self._senders.seen
        self._seen["calls"] = calls = witness.calls(control, self._senders.sessions)
        found = witness.verdicts(self._rig, RULES, {"quota_scale": 1 / SPEED}, self._seen)
        return [self._load(took, len(calls)), *found]

    def _guarded(self, work: Callable[..., None], *values: Any) -> None:
        try:
            work(*values)
        except Exception as error:
            self._odd.append(f"{work.__name__} broke off: {error!r}")

    def _send(self) -> None:
        """One of three senders: sessions come evenly all day."""
        while (share := (time.time() - self._began) / self._seconds) < 1:
            if len(self._senders.sessions) < share * self._wanted * SESSIONS * 10 / 9:
                self._senders.send()
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

    def _read(self) -> None:
        """The ERP reads its journal, on and on."""
        after = ""
        with Connection(self._service.port, self._headers[ERP]) as http:
            while True:
                was_over = self._over.is_set()
                answer = http.get(f"/events/test?limit=50{after}")
                if answer.status == 200 and (events := answer.json["events"]):
                    for event in events:
                        read = self._seen["read"]
                        read.append({"place": len(read), "nip": ERP, "id": event["id"]})
                    after = f"&after={answer.json['next']}"
                elif was_over:
                    return
                self._over.wait(0.2)

    def _call(self) -> None:
        """Somebody of another company asks what became of its sessions, old and new."""
        chance = random.Random(self._wanted)
        with Connection(self._service.port, self._headers[CALLER]) as http:
            while not self._day_over.wait(0.1):
                session = self._senders.some_session(CALLER, chance)
                answer = http.get(f"/invoices/test/status/{session.reference_number}")
                self._statuses[answer.status] += 1
                if answer.status not in ANSWERS:
                    self._odd.append(f"an answer was {answer.status}: {answer.body[:200]!r}")

    def _settle(self) -> None:
        """Until everything is done, and known."""
        sent = time.time()
        while left := self._left(sent):
            if time.time() > sent + 8 * HOUR:
                self._odd.append(f"not done: {left}")
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
            "SELECT sum(last - position) FROM webhooks JOIN event_numbers USING (company_nip)"
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
        """Callers of the ERP's own sessions, with and without processes that follow, in turns.

        New sessions come all the time, one a second: twenty times as many as KSeF allows, while
        time is as real for the callers as for the processors of this machine.
        """
        some = [self._senders.some_session(ERP, self._random) for _ in range(20)]
        paths = [f"/invoices/test/status/{session.reference_number}" for session in some]
        crowd = Crowd(CALLERS, self._headers[ERP], paths, RATE)
        by_day = len(self._senders.sessions)
        for number in range(2 * max(2, ROUNDS * self._wanted // 200)):
            followed = number % 2 == 0
            if not followed:
                self._followers.end()
            elif number:
                self._followers.start()
                time.sleep(4.0)  # until they have begun
            with ThreadPoolExecutor(1) as pool:
                pool.submit(self._guarded, self._go_on_sending, time.time() + SECONDS)
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
            time.sleep(1.0)

    def _load(self, took: float, calls: int) -> Verdict:
        """Whether this was a day at all."""
        sessions = Counter(session["nip"] for session in self._senders.sessions)
        odd = list(dict.fromkeys(self._odd))
        if sessions[ERP] < SESSIONS * self._wanted or not self._statuses[200]:
            odd.append("too thin")
        return Verdict(
            "load",
            f"{len(self._seen['kills'])} kills in {took:.0f} s; {sessions[ERP]} and"
            f" {sessions[CALLER]} sessions, {self._senders.invoices} invoices; {calls} calls of"
            f" KSeF; answers {dict(sorted(self._statuses.items()))}",
            odd,
        )


def run(kills: int) -> list[Verdict]:
    """Processes that follow sessions are killed."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ksef-follow-")))
        rig = stack.enter_context(started(**TIMING))
        service = stack.enter_context(rig.serve(folder))
        followers = Followers(rig.environment, folder / "follow.log")
        stack.callback(followers.end)
        return Day(rig, service, followers, kills).run()
