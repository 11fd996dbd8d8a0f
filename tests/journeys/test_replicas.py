"""Three replicas of two workers act as one client of KSeF; workers that are killed leave no trace.

`make chaos` and `make bench` do the same for longer.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from app import clock
from bench import chaos
from bench.rig import NIPS, Connection, port_of, started

STATUS = "GET /{environment}/v2/sessions/{reference}"
TIMING = {"fresh_least": 1.0, "fresh_most": 1.0, "statement_timeout": 10.0, "pool_wait": 5.0}
SECONDS = 6.0


def ask_on(port: int, headers: dict[str, str], paths: list[str], until: float) -> list[int]:
    """The statuses that a caller got who asked one thing after another until a moment."""
    found = []
    with Connection(port, headers) as http:
        while clock.monotonic() < until:
            for path in paths:
                status, body = http.get(path)
                assert status in (200, 502, 503), body
                if status == 200:
                    assert orjson.loads(body)["totalInvoiceCount"] == 1
                found.append(status)
            threading.Event().wait(0.05)
    return found


def test_replicas_ask_ksef_once_a_window_and_never_too_often(tmp_path: Path) -> None:
    """Of one session, whoever asks; and of twenty companies at once, under KSeF's own quota."""
    with ExitStack() as stack:
        rig = stack.enter_context(started(**TIMING))
        rig.control.settings(authPolls=0)  # logins that need no second look
        replicas = [
            stack.enter_context(rig.serve(tmp_path, workers=2, threads=4)) for _ in range(3)
        ]
        place, headers = rig.company(NIPS[0])
        companies = [rig.company(nip) for nip in NIPS[1:21]]
        rig.control.settings(quota=True)
        rig.control.settings(jitterSeconds=0.2)
        rig.control.clear_calls()

        def seed(nip: str) -> str:
            moving = rig.control.seed_session("test", nip, state="moving", invoices=1)
            return f"/invoices/test/status/{moving.reference_number}"

        def ask_all(askers: list[tuple[dict[str, str], list[str]]]) -> list[int]:
            until = clock.monotonic() + SECONDS
            with ThreadPoolExecutor(len(askers)) as pool:
                asked = [
                    pool.submit(ask_on, port_of(replicas[i % 3]), head, paths, until)
                    for i, (head, paths) in enumerate(askers)
                ]
                return [status for caller in asked for status in caller.result()]

        path = seed(place.company_nip)
        with Connection(port_of(replicas[0]), headers) as http:
            http.get(path)  # while nothing is kept yet, only some may wait
        rig.control.clear_calls()
        began = clock.monotonic()
        statuses = ask_all([(headers, [path])] * 24)
        took = clock.monotonic() - began
        assert rig.control.call_counts()[STATUS] <= took / TIMING["fresh_least"] + 1
        assert set(statuses) == {200}

        ask_all([(h, [seed(p.company_nip) for _ in range(4)]) for p, h in companies])
        calls: list[Any] = rig.control.calls()
        assert len({call.nip for call in calls}) == 21
        assert [call for call in calls if call.status == 429] == []


@pytest.mark.fault(28)
def test_twenty_killed_workers_leave_no_trace() -> None:
    assert [str(verdict) for verdict in chaos.run(20, replicas=2) if not verdict.holds] == []
