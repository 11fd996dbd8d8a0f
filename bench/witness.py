"""Collects what a run of chaos left behind in KSeF's log and in the database.

Nothing of the service is used: triggers write down every change of the rows that matter.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.rig import APPLICATION, Rig
from bench.verdicts import GROUPS, Judge, Verdict
from sandbox.control import Call, Control

FOLDER = Path(__file__).parent
WATCH, COLLECT = ((FOLDER / f"{name}.sql").read_text() for name in ("watch", "collect"))
"""Begins to write down changes, before the load; adds to the evidence what was written down."""
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


def verdicts(
    rig: Rig, rules: Iterable[str], run: dict[str, float], seen: dict[str, list[dict[str, Any]]]
) -> list[Verdict]:
    """The verdicts on these rules by what was seen, rows by table, and what there is in the end."""
    with rig.cursor() as cursor:
        judge = Judge(cursor)
        judge.hear_of_run(**run)
        for table, rows in seen.items():
            judge.hear(table, rows)
        cursor.execute(COLLECT)
        return [judge.verdict(rule) for rule in rules]


def calls(control: Control, sessions: Iterable[dict[str, str]] = ()) -> list[dict[str, Any]]:
    """KSeF's log; whose call it was is told by its token, else by the session in its path."""
    owners = {session["reference"]: session["nip"] for session in sessions}
    counted = sum(control.call_counts().values())
    logged = control.calls()
    if len(logged) < counted:
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
