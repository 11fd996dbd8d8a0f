"""(c), (d), (e): first checks and linking, against what they cannot leave out."""

import random
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from bench.ksef import Ksef, access_token
from bench.rig import NIPS, Connection, Rig, started
from bench.stored import LARGEST
from bench.table import MIB, Row, at_most, interleaved, milliseconds, timed

LINKED_ROUNDS, OTHER_ROWS = 6, 880_000


def ten_thousand(folder: Path) -> Iterator[Row]:
    """(c) The first check of 10,000 invoices against the sum of what it must do; memory."""
    ratios, totals, answers = [], [], 25
    with started() as rig, rig.serve(folder, WEB_CONCURRENCY="1") as service:
        rig.control.settings(latencySeconds=0.03)
        for nip in NIPS[:3]:
            headers = rig.company(nip)
            session = rig.control.seed_session("test", nip, kind="batch", invoices=LARGEST)
            reference, numbers = session.reference_number, session.ksef_numbers
            rig.add_rows(nip, numbers)
            with Connection(service.port, headers) as http:
                http.get("/invoices/test?invoiceNumber=none")  # the password is remembered now
                path = f"/invoices/test/status/{reference}"
                totals.append(timed(http.ok, path))
            needed = _calls(rig, nip, reference) + _bare_sql(rig, nip, reference, numbers)
            ratios.append(totals[-1] / needed)
        with Connection(service.port, headers) as http:
            for _ in range(answers):
                http.ok(path)
        memory = service.memory()
    what = "(c) first check of 10,000 invoices / (pages + ledger wait + bare SQL)"
    yield at_most(what, median(ratios), 1.2, f"{median(totals):.2f} s")
    what = f"memory of a worker after {len(totals) + answers} answers of 10,000 invoices"
    yield Row(what, f"{memory // MIB} MiB")


def _calls(rig: Rig, nip: str, reference: str) -> float:
    """Seconds of KSeF's own answers, each page asked for when the ledger had planned it."""
    ksef = Ksef(rig.ksef_url(), access_token(rig, nip))
    planned = rig.execute(
        "SELECT extract(epoch FROM reserved_at)::float8 FROM quota_calls"
        " WHERE company_nip = %s AND quota_group = 'sessionInvoiceList' ORDER BY 1",
        (nip,),
    )
    seconds, pages = 0.0, ksef.pages(reference)
    for (moment,) in planned:
        seconds = max(seconds, moment - planned[0][0]) + timed(next, pages)
    assert next(pages, None) is None, "more pages than the ledger had planned"
    return seconds + timed(ksef.session, reference)


def _bare_sql(rig: Rig, nip: str, reference: str, numbers: list[str]) -> float:
    """Seconds that PostgreSQL needs to take the invoices and to link the rows."""
    with rig.cursor() as cursor:
        ours = f"FROM kept_invoices WHERE company_nip = '{nip}'"
        cursor.execute(f"SELECT json_agg(to_json(kept_invoices))::text {ours}")
        [stored] = cursor.fetchone()
        cursor.execute(f"DELETE {ours}")
        cursor.execute(
            "UPDATE synced_invoices SET session_reference_number = NULL WHERE company_nip = %s",
            (nip,),
        )
        insert = (
            "INSERT INTO kept_invoices"
            " SELECT * FROM json_populate_recordset(NULL::kept_invoices, %s)"
        )
        taken = timed(cursor.execute, insert, (stored,))
        return taken + timed(_link, cursor, nip, reference, numbers)


def _link(cursor: Any, nip: str, reference: str, numbers: list[str]) -> None:
    """The bare statement that links rows."""
    cursor.execute(
        "UPDATE synced_invoices SET session_reference_number = %s, linked_at = now()"
        " WHERE company_nip = %s AND environment = 'test' AND ksef_number = ANY (%s)"
        " AND session_reference_number IS DISTINCT FROM %s",
        (reference, nip, numbers, reference),
    )
    assert cursor.rowcount == len(numbers)


def linking(folder: Path) -> Iterator[Row]:
    """(d) What linking 10,000 of 1,000,000 rows adds to a stored answer / the bare statement.

    Half of the sessions are asked for, the rows of the others get the statement.
    """
    nip = NIPS[0]
    first, second, bare, written = [], [], [], 0
    with started(statement_timeout=60.0) as rig, rig.serve(folder, WEB_CONCURRENCY="1") as service:
        headers = rig.company(nip)
        rig.lift_quota()
        sessions = [
            rig.control.seed_session("test", nip, kind="batch", invoices=LARGEST)
            for _ in range(2 * LINKED_ROUNDS)
        ]
        asked, others = sessions[:LINKED_ROUNDS], sessions[LINKED_ROUNDS:]
        numbers = [number for session in sessions for number in session.ksef_numbers]
        chance, day = random.Random(1), numbers[0][:20]
        numbers += [f"{day}{chance.randbytes(6).hex().upper()}-00" for _ in range(OTHER_ROWS)]
        numbers.sort()  # each session's rows are scattered over the whole table
        paths = [f"/invoices/test/status/{session.reference_number}" for session in asked]
        with Connection(service.port, headers) as http:
            for path in paths:
                http.ok(path)
        rig.add_rows(nip, numbers)
        with Connection(service.port, headers) as http, rig.cursor() as cursor:
            cursor.execute("ANALYZE")
            for path, other in zip(paths, others, strict=True):
                first.append(timed(http.ok, path))
                before = _newest(cursor)
                second.append(timed(http.ok, path))
                written += _newest(cursor) != before
                values = nip, other.reference_number, other.ksef_numbers
                bare.append(timed(_link, cursor, *values))
    added = median(first) - median(second)
    what = "(d) linking 10,000 of 1,000,000 rows, beside a stored answer / the bare statement"
    yield at_most(what, added / median(bare), 1.3, milliseconds(added))
    yield Row("(d) the second time", "rows" if written else "0 rows", "0 rows", not written)


def _newest(cursor: Any) -> Any:
    """The newest transaction that has written to the ERP's rows."""
    cursor.execute("SELECT max(xmin::text::bigint) FROM synced_invoices")
    return cursor.fetchone()


def added(folder: Path) -> Iterator[Row]:
    """(e) What the proxy adds to KSeF's own time in a first check of one invoice."""
    nip, rounds = NIPS[0], 60
    with started() as rig, rig.serve(folder) as service:
        rig.control.settings(latencySeconds=0.02)
        headers = rig.company(nip)
        rig.lift_quota()
        ksef = Ksef(rig.ksef_url(), access_token(rig, nip))
        fresh = [rig.control.seed_session("test", nip).reference_number for _ in range(rounds + 1)]
        left = iter(fresh[1:])

        def directly() -> None:
            ksef.session(fresh[0])
            list(ksef.pages(fresh[0]))

        with Connection(service.port, headers) as http:
            http.get("/invoices/test?invoiceNumber=none")  # the password is remembered now
            ours, theirs = interleaved(
                rounds, lambda: http.ok(f"/invoices/test/status/{next(left)}"), directly
            )
    yield Row("(e) KSeF's two calls (20 ms latency each), directly", milliseconds(theirs))
    yield Row("(e) what a first check through the proxy adds", milliseconds(ours - theirs))
