"""All benchmarks against the sandbox, as one markdown table; misses are named in its last line.

python -m bench.run [a b c d e load r pdf]
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from app.db.queries import kept as kept_queries
from app.ksef.gateway import SESSION, SESSION_INVOICES
from app.services import linking, quota, snapshots
from app.services.active_session import ActiveSession
from bench import hour, load, replicas, upo_pdf
from bench.rig import NIPS, Connection, Rig, port_of, started
from bench.upo_pdf import Row

MIB = 1024 * 1024


def interleaved(rounds: int, *calls: Callable[[], object]) -> list[float]:
    """Median seconds of each call, taken in turns so that noise meets all of them."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, taken in zip(calls, times, strict=True):
            began = perf_counter()
            call()
            taken.append(perf_counter() - began)
    return [median(taken) for taken in times]


def stored(folder: Path) -> Iterator[Row]:
    """(a) What is stored, against a route with the same authentication and one SELECT."""
    with started() as rig:
        place, headers = rig.company(NIPS[0])
        session = rig.control.seed_session("test", place.company_nip, invoices=10)
        status = f"/invoices/test/status/{session.reference_number}"
        upo = f"{status}/{session.ksef_numbers[0]}/upo"
        with (
            rig.serve(folder, workers=1) as service,
            Connection(port_of(service), headers) as http,
        ):
            calls = [lambda path=path: _ok(http, path) for path in ("/bench/select", status, upo)]
            interleaved(50, *calls)
            rig.control.clear_calls()
            least, one, other = interleaved(500, *calls)
            asked = len(rig.control.calls())
    yield Row("(a) a route with the same login and one SELECT", _ms(least))
    yield _at_least("(a) stored status of 10 invoices: rate / that route's", one, least, 0.5)
    yield _at_least("(a) stored UPO: rate / that route's", other, least, 0.5)
    yield Row("(a) KSeF calls for what is final", str(asked), "0", asked == 0)


def polled(folder: Path) -> Iterator[Row]:
    """(b) An hour and a quarter of polling in 75 s."""
    tallies = hour.run(folder)
    for tally, naive in zip(tallies, (False, False, True, True), strict=True):
        share = 100 * tally.failed / max(1, tally.polls)
        rate = tally.sessions_an_hour
        who = "naive proxy" if naive else "proxy"
        what = f"(b) {rate} sessions/h, {who}: failed of {tally.polls} polls; KSeF calls; 429"
        measured = f"{share:.1f} %; {tally.calls}; {tally.refused_by_ksef}; {_late(tally.late)}"
        if naive:
            yield Row(what, measured)
            continue
        most = 0.0 if rate == 100 else 5.0
        holds = share <= most and tally.refused_by_ksef == 0
        yield Row(what, measured, f"≤ {most:.0f} %; 0", holds)


def _late(late: list[float]) -> str:
    """How long after a session's end its poller learned of it."""
    if not late:
        return "no end told"
    within = sorted(late)[int(0.95 * (len(late) - 1))]
    return f"{len(late)} ends told, {median(late):.0f} s late, 95 % within {within:.0f} s"


def ten_thousand(folder: Path) -> Iterator[Row]:
    """(c) The first check of 10,000 invoices against the sum of what it must do; memory."""
    with started() as rig:
        rig.control.settings(latencySeconds=0.03)
        ratios, totals = [], []
        with rig.serve(folder, workers=1) as service:
            for number in range(3):
                place, headers = rig.company(NIPS[number])
                session = rig.control.seed_session(
                    "test", place.company_nip, kind="batch", invoices=10_000
                )
                _add_rows(rig, place.company_nip, session.ksef_numbers)
                with Connection(port_of(service), headers) as http:
                    _ok(http, "/bench/select")
                    began = perf_counter()
                    _ok(http, f"/invoices/test/status/{session.reference_number}")
                    totals.append(perf_counter() - began)
                needed = _needed(rig, place, session.reference_number)
                ratios.append(totals[-1] / needed)
                memory = service.memory()
            with Connection(port_of(service), headers) as http:
                path = f"/invoices/test/status/{session.reference_number}"
                for _ in range(20):
                    _ok(http, path)
                [again] = interleaved(5, lambda: _ok(http, path))
            after = service.memory()
    ratio = median(ratios)
    what = "(c) first check of 10,000 invoices / (pages + ledger wait + bare SQL)"
    yield Row(what, f"{ratio:.2f} ({median(totals):.2f} s)", "≤ 1.2", ratio <= 1.2)
    yield Row("(c) stored answer of 10,000 invoices", _ms(again))
    yield Row("memory of a worker after three first checks of 10,000", f"{memory // MIB} MiB")
    yield Row("memory of it after 25 stored answers of 10,000 more", f"{after // MIB} MiB")


def _needed(rig: Rig, place: Any, reference: str) -> float:
    """Seconds of what cannot be left out: KSeF's own times, the ledger's, the bare statements'."""
    bearer = ActiveSession(rig.parts, place)
    gateway = rig.parts.ksef["test"]
    rig.execute("DELETE FROM quota_calls")
    began = perf_counter()
    bearer.call(SESSION, lambda access: gateway.session_status(access, reference))
    now = perf_counter() - began
    rig.execute("DELETE FROM quota_calls")
    slots = quota.reserve(rig.parts, place, SESSION_INVOICES.quota_group or "", 10, patience=2.0)
    first = slots[0].moment
    access = rig.execute("SELECT access_token FROM ksef_sessions WHERE company_nip = %s",
                         (place.company_nip,))[0][0]  # fmt: skip
    token = rig.parts.vault.open(
        bytes(access), company_nip=place.company_nip, environment="test", purpose="access token"
    )
    at, page_token = 0.0, None
    for slot in slots:
        at = max(at, slot.moment - first)
        began = perf_counter()
        page = gateway.session_invoices(token, reference, page_token)
        at += perf_counter() - began
        page_token = page.continuation_token
    return now + at + _bare_sql(rig, place, reference)


def _bare_sql(rig: Rig, place: Any, reference: str) -> float:
    """Seconds of the statements that store and link the 10,000, without anything around them."""
    kept = snapshots.load(rig.parts, place, reference)
    assert kept is not None
    columns = snapshots._columns(place, reference, kept.invoices)
    where = (place.company_nip,)
    rig.execute("DELETE FROM kept_invoices WHERE company_nip = %s", where)
    rig.execute("UPDATE synced_invoices SET session_reference_number = NULL WHERE company_nip = %s",
                where)  # fmt: skip
    numbers = [invoice.ksef_number for invoice in kept.invoices]
    with rig.parts.db.transaction() as connection:
        began = perf_counter()
        kept_queries.put_invoices(connection, **columns)
        _bare_link(connection, place.company_nip, reference, numbers)
    return perf_counter() - began


def _bare_link(connection: Any, nip: str, reference: str, numbers: list[Any]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE synced_invoices SET session_reference_number = %s, linked_at = now()"
            " WHERE company_nip = %s AND environment = 'test' AND ksef_number = ANY (%s)"
            " AND session_reference_number IS DISTINCT FROM %s",
            (reference, nip, numbers, reference),
        )
        return int(cursor.rowcount)


def linked(_folder: Path) -> Iterator[Row]:
    """(d) Linking 10,000 rows in a table of 1,000,000, against the bare statement."""
    with started(statement_timeout=60.0) as rig:
        place, _ = rig.company(NIPS[0])
        numbers = [f"{place.company_nip}-20260101-{i:012X}-00" for i in range(1_000_000)]
        _add_rows(rig, place.company_nip, numbers)
        rig.execute("ANALYZE synced_invoices")
        session = rig.control.seed_session("test", place.company_nip)
        reference = session.reference_number
        bearer = ActiveSession(rig.parts, place)
        [listed] = bearer.call(
            SESSION_INVOICES,
            lambda access: rig.parts.ksef["test"].session_invoices(access, reference),
        ).invoices
        ours, bare, again = [], [], []
        for number in range(6):
            chunks = [
                numbers[start::100][:10_000] for start in (2 * number, 2 * number + 1)
            ]  # scattered over the whole table
            invoices = [
                replace(listed, ksef_number=name, reference_number=f"EE-{name}")
                for name in chunks[0]
            ]
            began = perf_counter()
            done = linking.link(rig.parts, place, reference, invoices)
            ours.append(perf_counter() - began)
            assert done.synced == 10_000
            began = perf_counter()
            with rig.parts.db.transaction() as connection:
                assert _bare_link(connection, place.company_nip, reference, chunks[1]) == 10_000
            bare.append(perf_counter() - began)
            began = perf_counter()
            rows = linking.link(rig.parts, place, reference, invoices)
            again.append(perf_counter() - began)
    ratio = median(ours) / median(bare)
    what = "(d) linking 10,000 of 1,000,000 rows / the bare statement"
    yield Row(what, f"{ratio:.2f} ({median(ours) * 1000:.0f} ms)", "≤ 1.3", ratio <= 1.3)
    second = f"{rows.synced + rows.offline} rows ({median(again) * 1000:.0f} ms)"
    yield Row("(d) the second time", second, "0 rows", rows.synced + rows.offline == 0)


def fresh(folder: Path) -> Iterator[Row]:
    """(e) What the proxy adds to KSeF's own time in a first check of one invoice."""
    with started() as rig:
        rig.control.settings(latencySeconds=0.02)
        place, headers = rig.company(NIPS[0])
        rig.execute("UPDATE quota_groups SET per_second = -1, per_minute = -1, per_hour = -1")
        bearer = ActiveSession(rig.parts, place)
        gateway = rig.parts.ksef["test"]
        sessions = [
            rig.control.seed_session("test", place.company_nip).reference_number for _ in range(60)
        ]
        left = iter(sessions)

        def direct() -> None:
            bearer.call(SESSION, lambda access: gateway.session_status(access, sessions[0]))
            bearer.call(
                SESSION_INVOICES, lambda access: gateway.session_invoices(access, sessions[0])
            )

        with (
            rig.serve(folder) as service,
            Connection(port_of(service), headers) as http,
        ):
            _ok(http, "/bench/select")
            ours, theirs = interleaved(
                60, lambda: _ok(http, f"/invoices/test/status/{next(left)}"), direct
            )
    yield Row("(e) KSeF's two calls (20 ms latency each), directly", _ms(theirs))
    yield Row("(e) the same as a first check through the proxy adds", _ms(ours - theirs))


def _add_rows(rig: Rig, nip: str, numbers: list[str]) -> None:
    rig.execute(
        "INSERT INTO synced_invoices (company_nip, environment, ksef_number, invoice_number)"
        " SELECT %s, 'test', number, 'FV/' || number FROM unnest(%s) AS number",
        (nip, numbers),
    )


def _ok(http: Connection, path: str) -> None:
    status, body = http.get(path)
    assert status == 200, body[:500]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def _at_least(what: str, ours: float, least: float, target: float) -> Row:
    ratio = least / ours
    return Row(what, f"{ratio:.2f} ({_ms(ours)})", f"≥ {target}", ratio >= target)


PARTS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "a": stored,
    "b": polled,
    "c": ten_thousand,
    "d": linked,
    "e": fresh,
    "load": load.rows,
    "r": replicas.rows,
    "pdf": lambda _folder: iter(upo_pdf.rows()),
}


def main() -> int:
    """Print the table; 1 when a target is missed."""
    chosen = sys.argv[1:] or list(PARTS)
    began = time.monotonic()
    table: list[Row] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ksef-bench-")))
        for name in chosen:
            print(f"… {name}", file=sys.stderr, flush=True)
            table += PARTS[name](folder)
    print("| what | measured | target | |\n|---|---|---|---|")
    for what, measured, target, holds in table:
        verdict = {True: "holds", False: "**missed**", None: ""}[holds]
        print(f"| {what} | {measured} | {target} | {verdict} |")
    missed = [row.what for row in table if row.holds is False]
    load = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"\n{datetime.now(UTC):%Y-%m-%d}, {load}, {time.monotonic() - began:.0f} s.")
    print("Missed: " + ("; ".join(missed) if missed else "nothing") + ".")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
