"""Three replicas of two workers as one client of KSeF, for a minute each: one question, many.

KSeF's quota is enforced in exact rolling windows, of real length, on calls that arrive up to 0.2 s
late; afterwards the windows are counted anew from its log.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from bench import verdicts, witness
from bench.rig import NIPS, Connection, Rig, Service, port_of, started
from bench.upo_pdf import Row
from bench.verdicts import FETCH, Session

FRESH, MINUTE, CALLERS, COMPANIES = 2.0, 60.0, 200, 20
TIMING = {"fresh_least": FRESH, "fresh_most": FRESH, "statement_timeout": 10.0, "pool_wait": 5.0}
Caller = tuple[dict[str, str], Sequence[str]]  # headers, paths


def rows(folder: Path) -> Iterator[Row]:
    """(r) 200 callers of one moving session; 200 callers of 80 sessions of 20 companies."""
    with ExitStack() as stack:
        rig = stack.enter_context(started(**TIMING))
        rig.control.settings(authPolls=0)
        replicas = [stack.enter_context(rig.serve(folder)) for _ in range(3)]
        companies = [rig.company(nip)[1] for nip in NIPS[:COMPANIES]]
        rig.control.settings(quota=True)
        rig.control.settings(jitterSeconds=0.2)
        yield from _one_question(rig, replicas, companies[0])
        yield from _many(rig, replicas, companies)


def _one_question(rig: Rig, replicas: list[Service], headers: dict[str, str]) -> Iterator[Row]:
    session = _moving(rig, NIPS[0])
    path = _path(session)
    with Connection(port_of(replicas[0]), headers) as http:
        http.get(path)  # while nothing is kept yet, only some may wait
    rig.control.clear_calls()
    began = time.monotonic()
    statuses = _ask_all(replicas, [(headers, [path])] * CALLERS)
    took = time.monotonic() - began
    calls = witness.calls(rig.control, [session])
    fetches, most = sum(call.route == FETCH for call in calls), int(took / FRESH) + 1
    what = f"(r) {CALLERS} callers, one moving session, {took:.0f} s: fetches; answers"
    measured = f"{fetches}; {_told(statuses)}"
    yield Row(what, measured, f"≤ {most}; 200", fetches <= most and set(statuses) == {200})


def _many(rig: Rig, replicas: list[Service], companies: Sequence[dict[str, str]]) -> Iterator[Row]:
    ours = [[_moving(rig, nip) for _ in range(4)] for nip in NIPS[:COMPANIES]]
    askers: list[Caller] = [
        (headers, [_path(session) for session in sessions])
        for headers, sessions in zip(companies, ours, strict=True)
        for _ in range(CALLERS // COMPANIES)
    ]
    statuses = _ask_all(replicas, askers)
    calls = witness.calls(rig.control, [session for some in ours for session in some])
    verdict = verdicts.windows_hold(calls)
    what = f"(r) {CALLERS} callers, {COMPANIES} companies: KSeF calls; 429; R1"
    refused = sum(call.status == 429 for call in calls)
    measured = f"{len(calls)}; {refused}; {verdict.seen}; {_told(statuses)}"
    yield Row(what, measured, "0 answers 429", verdict.holds and not refused)


def _moving(rig: Rig, nip: str) -> Session:
    return witness.session_of(
        rig.control.seed_session("test", nip, state="moving", invoices=[{"status": 150}]), {}
    )


def _path(session: Session) -> str:
    return f"/invoices/test/status/{session.reference}"


def _ask_all(replicas: Sequence[Service], askers: Sequence[Caller]) -> Counter[int]:
    """The statuses that all callers got in a minute, each on a connection of its own."""
    until = time.monotonic() + MINUTE
    with ThreadPoolExecutor(len(askers)) as pool:
        asked = [
            pool.submit(_ask_on, port_of(replicas[number % len(replicas)]), *asker, until)
            for number, asker in enumerate(askers)
        ]
        return sum((caller.result() for caller in asked), Counter())


def _ask_on(port: int, headers: dict[str, str], paths: Sequence[str], until: float) -> Counter[int]:
    found: Counter[int] = Counter()
    with Connection(port, headers) as http:
        while time.monotonic() < until:
            for path in paths:
                found[http.get(path)[0]] += 1
                threading.Event().wait(0.4)
    return found


def _told(statuses: Counter[int]) -> str:
    return ", ".join(f"{number} × {status}" for status, number in sorted(statuses.items()))
