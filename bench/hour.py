"""An hour and a quarter of polling, at sixty times the speed: the proxy, and a naive one.

Sessions of one invoice come at a steady rate, KSeF takes a minute over each, and an ERP asks after
each every five seconds until it is final, then fetches the UPO. The naive proxy is made from the
same gateway and asks KSeF each time it is asked.
"""

import heapq
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any

import orjson

from app import errors
from app.ksef.gateway import SESSION, Gateway, Route
from app.ksef.listing import all_invoices
from app.services.parts import Place
from bench.rig import NIPS, Connection, Rig, port_of, started

RATE = 60.0  # seconds that pass in the sandbox in a real second
HOURS = 1.25
POLL, PROCESSING, GIVE_UP = 5.0, 60.0, 300.0  # sandbox seconds
TIMING = {
    "fresh_least": 2.0 / RATE,
    "fresh_most": 30.0 / RATE,
    "relist": 60.0 / RATE,
    "refusal_least": 5.0 / RATE,
    "refusal_most": 60.0 / RATE,
    "quota_patience": 2.0 / RATE,
    "quota_scale": 1.0 / RATE,
    "quota_jitter": 0.08,  # of the machine: real, like every delay of it
    "lease_poll": 0.01,
}
Poll = Callable[[str], bool]
"""Polls a session and returns whether it is final. Raises PollFailed."""


class PollFailed(Exception):
    """A poll got no answer."""


@dataclass
class Tally:
    """How many of a company's polls succeeded and failed, and what they cost."""

    sessions_an_hour: int
    place: Place
    poll: Poll
    polls: int = 0
    failed: int = 0
    calls: int = 0
    refused_by_ksef: int = 0
    late: list[float] = field(default_factory=list)
    """How long after its end each session was told to be final, in sandbox seconds."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, failed: bool, late: float | None) -> None:
        with self.lock:
            self.polls += 1
            self.failed += failed
            if late is not None:
                self.late.append(late)


class NaiveBearer:
    """A `Bearer` without a ledger of the quota: every call is sent at once."""

    def __init__(self, access: str) -> None:
        self._access = access

    def reserve(self, _route: Route, _units: int) -> None:
        pass

    def call(self, _route: Route, send: Callable[[str], Any]) -> Any:
        return send(self._access)


def naive_poll(gateway: Gateway, access: str) -> Poll:
    """One poll of a proxy that asks KSeF for session and invoices each time."""
    bearer = NaiveBearer(access)

    def poll(reference: str) -> bool:
        try:
            session = bearer.call(SESSION, lambda token: gateway.session_status(token, reference))
            all_invoices(gateway, bearer, reference, expected=session.invoice_count, seconds=15.0)
        except errors.ProxyError as error:
            raise PollFailed(error.code) from error
        return bool(session.status.is_final)

    return poll


def proxy_poll(port: int, headers: dict[str, str]) -> Poll:
    """One poll over HTTP, the UPO after the final one."""
    local = threading.local()

    def get(path: str) -> Any:
        for _ in range(2):  # a kept-alive connection may have been closed meanwhile
            if not hasattr(local, "connection"):
                local.connection = Connection(port, headers)
            try:
                status, body = local.connection.get(path)
            except OSError:
                del local.connection
                continue
            if status != 200:
                raise PollFailed(body.decode())
            return orjson.loads(body)
        raise PollFailed("no connection")

    def poll(reference: str) -> bool:
        path = f"/invoices/test/status/{reference}"
        body = get(path)
        if body["final"]:
            get(f"{path}/{body['invoices'][0]['ksefNumber']}/upo")
        return bool(body["final"])

    return poll


def run(folder: Path) -> list[Tally]:
    """100 and 180 sessions an hour, through the proxy and the naive one, all at the same time."""
    with started(**TIMING) as rig:
        rig.control.settings(
            accessTokenSeconds=7 * 86400.0, latencySeconds=0.002, linkSeconds=30 * 86400.0
        )
        tallies: list[Tally] = []
        with rig.serve(folder, workers=2, threads=8) as service:
            for number, (rate, naive) in enumerate(
                (rate, naive) for naive in (False, True) for rate in (100, 180)
            ):
                place, headers = rig.company(NIPS[number])
                poll = (
                    naive_poll(rig.parts.ksef["test"], _access_token(rig, place))
                    if naive
                    else proxy_poll(port_of(service), headers)
                )
                tallies.append(Tally(rate, place, poll))
            rig.control.clear_calls()
            rig.control.settings(quota=True, clockRate=RATE)
            _drive(rig, tallies)
        for call in rig.control.calls():
            for tally in tallies:
                if call.service == "api" and call.nip == tally.place.company_nip:
                    tally.calls += 1
                    tally.refused_by_ksef += call.status == 429
    return tallies


def _access_token(rig: Rig, place: Place) -> str:
    [(sealed,)] = rig.execute(
        f"SELECT access_token FROM ksef_sessions WHERE company_nip = '{place.company_nip}'"
    )
    return rig.parts.vault.open(
        bytes(sealed), company_nip=place.company_nip, environment="test", purpose="access token"
    )


def _drive(rig: Rig, tallies: list[Tally]) -> None:
    """Run each poll at its time until the simulated hours are over."""
    numbers = count()
    due: list[tuple[float, int, Tally, str | None, float]] = []
    for tally in tallies:
        for index in range(int(HOURS * tally.sessions_an_hour)):
            moment = index * 3600.0 / tally.sessions_an_hour
            due.append((moment, next(numbers), tally, None, moment))
    heapq.heapify(due)
    changed = threading.Condition()
    began, end = monotonic(), HOURS * 3600.0
    pending = 0

    def put(moment: float, tally: Tally, reference: str, born: float) -> None:
        with changed:
            heapq.heappush(due, (moment, next(numbers), tally, reference, born))
            changed.notify()

    def work(moment: float, tally: Tally, reference: str | None, born: float) -> None:
        nonlocal pending
        try:
            if reference is None:
                session = rig.control.seed_session(
                    "test",
                    tally.place.company_nip,
                    state="moving",
                    invoices=[{"status": 150}],
                    finishes_after=PROCESSING,
                )
                put(moment, tally, session.reference_number, born)
                return
            final = failed = False
            try:
                final = tally.poll(reference)
            except PollFailed:
                failed = True
            told_at = (monotonic() - began) * RATE
            tally.note(failed, told_at - born - PROCESSING if final else None)
            if not final and moment - born < GIVE_UP:
                put(moment + POLL, tally, reference, born)
        finally:
            with changed:
                pending -= 1
                changed.notify()

    with ThreadPoolExecutor(24) as pool:
        while True:
            with changed:
                present = (monotonic() - began) * RATE
                if present > end:
                    break
                if not due or due[0][0] > present:
                    wait = (due[0][0] - present) / RATE if due else 0.1
                    changed.wait(min(0.1, wait))
                    continue
                moment, _, tally, reference, born = heapq.heappop(due)
                pending += 1
            pool.submit(work, moment, tally, reference, born)
