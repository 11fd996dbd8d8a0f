"""Collects what a run of chaos left behind in KSeF's log and in the database.

Nothing of the service is used: triggers write down every change of the rows that matter.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.rig import APPLICATION, Answer, Rig
from bench.verdicts import GROUPS, Judge, Verdict
from sandbox.control import Call, Control
from sandbox.world import CALLS_KEPT

FOLDER = Path(__file__).parent
WATCH, COLLECT = ((FOLDER / f"{name}.sql").read_text() for name in ("watch", "collect"))
"""Begins to write down changes, before the load; adds to the evidence what was written down."""
ANSWERS = frozenset({200, 409, 502, 503})
TIMING = {
    "request": 6.0,
    "ksef_connect": 1.0,
    "ksef_call": 2.0,
    "retry_left": 1.0,
    "outage_probe": 1.0,
    "outage_probe_every": 1.0,
    "statement_timeout": 10.0,
    "lock_timeout": 5.0,
}
"""Of the service in every run of chaos: short, but not too short for a machine with much to do."""
_PREFIX = re.compile(r"^/(\{environment\}/(v2|storage)|latarnia/\{environment\})")
_REFERENCE = re.compile(r"/(?:sessions|upo)/([0-9A-Z-]{36})")


def sample(rig: Rig) -> dict[str, float]:
    """For how long the eldest idle transaction of the service has been open, just now."""
    [(at, idle)] = rig.execute(
        "SELECT extract(epoch FROM clock_timestamp())::float8,"
        " coalesce(extract(epoch FROM clock_timestamp() - min(state_change)"
        "   FILTER (WHERE state LIKE 'idle in transaction%%')), 0)::float8"
        " FROM pg_stat_activity WHERE application_name = %s",
        (APPLICATION,),
    )
    return {"at": at, "idle": idle}


class Evidence:
    """What a run of chaos gathers: rows of tables, the statuses of answers, and what was odd."""

    def __init__(self) -> None:
        self.seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.statuses: Counter[int] = Counter()
        self.odd: list[str] = []

    def guarded(self, work: Callable[..., None], *values: Any) -> None:
        """Do some work; that it broke off is odd."""
        try:
            work(*values)
        except Exception as error:
            self.odd.append(f"{work.__name__} broke off: {error!r}")

    def count(self, answer: Answer) -> None:
        """Count an answer; one of another status than ANSWERS is odd."""
        self.statuses[answer.status] += 1
        if answer.status not in ANSWERS:
            self.odd.append(f"an answer was {answer.status}: {answer.body[:200]!r}")

    def load(self, told: str, *, is_thin: bool) -> Verdict:
        """Whether this was a load at all, and nothing was odd; `told`: how much it was."""
        odd = [*dict.fromkeys(self.odd), *(["too thin"] if is_thin else [])]
        return Verdict("load", f"{told}; answers {dict(sorted(self.statuses.items()))}", odd)

    def verdicts(self, rig: Rig, rules: Iterable[str], run: dict[str, float]) -> list[Verdict]:
        """The verdicts on these rules by what was seen, and what there is in the end."""
        with rig.cursor() as cursor:
            judge = Judge(cursor)
            judge.hear_of_run(**run)
            for table, rows in self.seen.items():
                judge.hear(table, rows)
            cursor.execute(COLLECT)
            return [judge.verdict(rule) for rule in rules]


def calls(control: Control, sessions: Iterable[dict[str, str]] = ()) -> list[dict[str, Any]]:
    """KSeF's log; whose call it was is told by its token, else by the session in its path."""
    owners = {session["reference"]: session["nip"] for session in sessions}
    logged = control.calls()
    if len(logged) == CALLS_KEPT:
        raise RuntimeError("the sandbox has forgotten the first calls")
    return [_call(call, owners) for call in logged]


def _call(logged: Call, owners: dict[str, str]) -> dict[str, Any]:
    found = _REFERENCE.search(logged.path)
    reference = found[1] if found else None
    route = _PREFIX.sub("", logged.route or logged.path, count=1)
    wait = logged.retry_after
    return {
        "at": _moment(logged.at),
        "service": logged.service,
        "route": route,
        "nip": logged.nip or owners.get(reference or ""),
        "reference": reference,
        "subject": logged.path.removesuffix("/upo").rsplit("/", 1)[-1],
        "answered": _moment(logged.answered_at) if logged.answered_at else None,
        "status": logged.status,
        "fault": logged.fault,
        "retry_after": float(wait) if wait and wait.isdigit() else None,
        "quota_group": GROUPS.get(route) if logged.service == "api" else None,
    }


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
