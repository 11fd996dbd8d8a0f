"""(a) What is stored, against a route with the same login and one SELECT; a first check's cost."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

import zstandard

from bench.rig import NIPS, Connection, Rig, Service, started
from bench.table import Row, at_least, at_most, interleaved, milliseconds

LARGEST = 10_000  # invoices: the most that KSeF takes in a session
BEFORE = 0.45  # seconds of processor time for a first check of them, on 2026-11-27


def rows(folder: Path) -> Iterator[Row]:
    """Measure everything; about a minute."""
    with started() as rig, rig.serve(folder, WEB_CONCURRENCY="1") as service:
        spent = median([_first_check(rig, service, nip) for nip in NIPS[:4]][1:])
        what = "(a) processor time of a first check of 10,000 invoices / on 2026-11-27"
        yield at_most(what, spent / BEFORE, 0.5, f"{milliseconds(spent)} of {milliseconds(BEFORE)}")
        headers = rig.company(NIPS[4])
        with Connection(service.port, headers) as http:
            yield from _answers(rig, http)


def _first_check(rig: Rig, service: Service, nip: str) -> float:
    """Seconds, user and system, that the worker spends."""
    headers = rig.company(nip)
    session = rig.control.seed_session("test", nip, kind="batch", invoices=LARGEST)
    with Connection(service.port, headers) as http:
        http.get("/invoices/test?invoiceNumber=none")  # so that the password is remembered
        before = service.processor_time()
        http.ok(f"/invoices/test/status/{session.reference_number}")
        return service.processor_time() - before


def _answers(rig: Rig, http: Connection) -> Iterator[Row]:
    few = rig.control.seed_session("test", NIPS[4], invoices=10)
    many = rig.control.seed_session("test", NIPS[4], kind="batch", invoices=LARGEST)
    ten, large = (f"/invoices/test/status/{session.reference_number}" for session in (few, many))
    upo = f"{ten}/{few.ksef_numbers[0]}/upo?docType=xml"
    http.ok(ten)
    http.ok(upo)
    body = http.ok(large)
    contents = {"least": b"{}", "plain": body, "zstd": zstandard.compress(body)}
    rig.execute("CREATE TABLE bench_bytes (name text PRIMARY KEY, content bytea)")
    for named in contents.items():
        rig.execute("INSERT INTO bench_bytes VALUES (%s, %s)", named)
    least, plain, compressed = (partial(http.ok, f"/bench/bytes/{name}") for name in contents)
    rig.execute("ANALYZE")
    rig.control.clear_calls()
    interleaved(50, least, partial(http.ok, ten), partial(http.ok, upo))
    bare, status, document = interleaved(500, least, partial(http.ok, ten), partial(http.ok, upo))
    yield Row("(a) a route with the same login and one SELECT", milliseconds(bare))
    what = "(a) stored status of 10 invoices: rate / that route's"
    yield at_least(what, bare / status, 0.7, milliseconds(status))
    what = "(a) stored UPO as XML: rate / that route's"
    yield at_least(what, bare / document, 0.75, milliseconds(document))
    whole, same, packed = interleaved(25, partial(http.ok, large), plain, compressed)
    what = "(a) stored status of 10,000 invoices / a route with one SELECT of the same bytes"
    yield at_most(what, whole / same, 4, f"{milliseconds(whole)}, {len(body):,} bytes")
    what = f"(a) … / of the same bytes, compressed to {len(contents['zstd']):,}"
    yield Row(what, f"{whole / packed:.1f}")
    tags = (http.get(path).headers["etag"] for path in (ten, large))
    same_ten, same_large = ({"If-None-Match": tag} for tag in tags)
    assert http.get(ten, same_ten).status == http.get(large, same_large).status == 304
    small, big = interleaved(
        100, partial(http.get, ten, same_ten), partial(http.get, large, same_large)
    )
    what = "(a) 304 of a stored 10,000 / of a stored 10"
    yield at_most(what, big / small, 1.2, milliseconds(big))
    asked = len(rig.control.calls())
    yield Row("(a) KSeF calls for what is final", str(asked), "0", asked == 0)
