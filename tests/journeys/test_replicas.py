"""Three replicas of two workers act as one client of KSeF; workers that are killed leave no trace.

`make chaos` and `make bench` do the same for longer.
"""

from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import chaos
from bench.crowd import Crowd, ask
from bench.rig import NIPS, Connection, started

pytestmark = pytest.mark.slow

STATUS = "GET /{environment}/v2/sessions/{reference}"
TIMING = {"fresh_least": 1.0, "fresh_most": 1.0, "statement_timeout": 10.0, "pool_wait": 5.0}
SECONDS = 6.0


def test_replicas_ask_ksef_once_a_window_and_never_too_often(tmp_path: Path) -> None:
    """Of one session, whoever asks; and of twenty companies at once, under KSeF's own quota."""
    with ExitStack() as stack:
        rig = stack.enter_context(started(**TIMING))
        rig.control.settings(authPolls=0)  # logins that need no second look
        replicas = [stack.enter_context(rig.serve(tmp_path, WEB_THREADS="4")) for _ in range(3)]
        companies = {nip: rig.company(nip) for nip in NIPS[:21]}
        rig.control.settings(quota=True, jitterSeconds=0.2)

        def seed(nip: str) -> str:
            moving = rig.control.seed_session("test", nip, state="moving", invoices=1)
            return f"/invoices/test/status/{moving.reference_number}"

        path = seed(NIPS[0])
        with Connection(replicas[0].port, companies[NIPS[0]]) as http:
            http.get(path)  # while nothing is stored yet, only some may wait
        rig.control.clear_calls()
        [answers] = ask(replicas, SECONDS, Crowd(24, companies[NIPS[0]], [path], 240.0))
        assert rig.control.call_counts()[STATUS] <= SECONDS / TIMING["fresh_least"] + 1
        assert set(answers.statuses) == {200}
        assert answers.statuses[200] > 24

        many = [Crowd(1, companies[nip], [seed(nip) for _ in range(4)]) for nip in NIPS[1:21]]
        called: set[str | None] = set()
        for _ in range(5):  # a busy machine has not checked all passwords the first time
            for answers in ask(replicas, SECONDS, *many):
                assert set(answers.statuses) <= {200, 502, 503}
            calls = rig.control.calls()
            assert [call for call in calls if call.status == 429] == []
            called = {call.nip for call in calls}
            if len(called) == 21:
                break
        assert len(called) == 21


@pytest.mark.fault(28)
def test_twenty_killed_workers_leave_no_trace() -> None:
    assert [str(verdict) for verdict in chaos.run(20, replicas=2) if not verdict.holds] == []
