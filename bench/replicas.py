"""(r) Three replicas of two workers as one client of KSeF, for a minute each: one question, many.

KSeF's quota is enforced in exact rolling windows, of real length, on calls that arrive up to 0.2 s
late; afterwards the windows are counted anew from its log.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from bench import witness
from bench.crowd import Crowd, ask
from bench.rig import NIPS, Connection, Rig, started
from bench.table import Row
from bench.verdicts import FETCH, Judge

FRESH, MINUTE, CALLERS, COMPANIES = 2.0, 60.0, 200, 20
EACH = 2.0  # questions of a caller in a second
TIMING = {"fresh_least": FRESH, "fresh_most": FRESH, "statement_timeout": 10.0, "pool_wait": 5.0}


def rows(folder: Path) -> Iterator[Row]:
    """200 callers of one moving session; 200 callers of 80 sessions of 20 companies."""
    with ExitStack() as stack:
        rig = stack.enter_context(started(**TIMING))
        rig.control.settings(authPolls=0)
        replicas = [stack.enter_context(rig.serve(folder)) for _ in range(3)]
        companies = {nip: rig.company(nip) for nip in NIPS[:COMPANIES]}
        rig.control.settings(quota=True, jitterSeconds=0.2)

        path = _moving(rig, NIPS[0])
        with Connection(replicas[0].port, companies[NIPS[0]]) as http:
            http.get(path)  # while nothing is stored yet, only some may wait
        rig.control.clear_calls()
        one = Crowd(CALLERS, companies[NIPS[0]], [path], CALLERS * EACH)
        [answers] = ask(replicas, MINUTE, one)
        fetches = sum(call["route"] == FETCH for call in witness.calls(rig.control))
        most = int(MINUTE / FRESH) + 1
        what = f"(r) {CALLERS} callers of one moving session for {MINUTE:.0f} s: KSeF asked"
        holds = fetches <= most and set(answers.statuses) == {200}
        yield Row(what, f"{fetches} times for {answers}", f"≤ {most}; only 200", holds)

        each = CALLERS // COMPANIES
        many = [
            Crowd(each, headers, [_moving(rig, nip) for _ in range(4)], each * EACH)
            for nip, headers in companies.items()
        ]
        ask(replicas, MINUTE, *many)
        calls = witness.calls(rig.control)
        with rig.cursor() as cursor:
            judge = Judge(cursor)
            judge.hear("calls", calls)
            verdict = judge.verdict("R1")
        refused = sum(call["status"] == 429 for call in calls)
        what = f"(r) {CALLERS} callers of {4 * COMPANIES} sessions of {COMPANIES} companies:"
        holds = verdict.holds and not refused
        measured = f"{len(calls)}; {refused}; {verdict.seen}"
        yield Row(f"{what} KSeF calls; 429; R1", measured, "0 answers 429", holds)


def _moving(rig: Rig, nip: str) -> str:
    session = rig.control.seed_session("test", nip, state="moving", invoices=[{"status": 150}])
    return f"/invoices/test/status/{session.reference_number}"
