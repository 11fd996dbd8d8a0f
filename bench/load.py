"""The service under load: overload, a KSeF that hangs, one company that asks far too often."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import monotonic

from bench.crowd import Answers, Crowd, Crowds
from bench.rig import NIPS, Connection, Rig, Service, port_of, started
from bench.upo_pdf import Row

MIB = 1024 * 1024
ROUNDS = 5
SECONDS = 2.0  # of each measurement
COMPANIES = 5
OVERLOADS = (2, 5, 10)
HUNG = 24  # connections that ask what only KSeF knows


@dataclass
class Field:
    """The service, its clients, and the companies with one final session each."""

    rig: Rig
    service: Service
    crowds: Crowds
    companies: Sequence[tuple[dict[str, str], str]]

    def crowd(self, company: int, connections: int, rate: float | None = None) -> Crowd:
        """Connections of a company that ask for its final session."""
        headers, path = self.companies[company]
        return Crowd(connections, headers, [path], rate)

    def ask(self, *crowds: Crowd, seconds: float = SECONDS) -> list[Answers]:
        return self.crowds.ask(port_of(self.service), seconds, *crowds)


def rows(folder: Path) -> Iterator[Row]:
    """Measure everything; about two minutes and a half."""
    with _field(folder) as field:
        best = _best(field)
        yield Row("(f) stored status, connections at which most are answered", str(best))
        yield from _overload(field, best)
        yield from _noisy(field, best)
        asked = len(field.rig.control.calls())
        yield Row("(f) KSeF calls for what is final", str(asked), "0", asked == 0)
        yield from _hung(field, best)


@contextmanager
def _field(folder: Path) -> Iterator[Field]:
    with started() as rig, Crowds() as crowds:
        companies = []
        for nip in NIPS[:COMPANIES]:
            _, headers = rig.company(nip)
            session = rig.control.seed_session("test", nip, invoices=10)
            companies.append((headers, f"/invoices/test/status/{session.reference_number}"))
        with rig.serve(folder) as service:
            for headers, path in companies:
                for _ in range(8):  # so that each worker has verified the password
                    with Connection(port_of(service), headers) as http:
                        status, body = http.get(path)
                        assert status == 200, body
            rig.control.clear_calls()
            yield Field(rig, service, crowds, companies)


def _best(field: Field) -> int:
    """The number of connections at which the most requests per second are answered."""
    tried = (2, 4, 8, 16)
    rates: dict[int, list[float]] = {connections: [] for connections in tried}
    for _ in range(3):
        for connections in tried:
            rates[connections].append(field.ask(field.crowd(0, connections), seconds=1.0)[0].rate)
    return max(tried, key=lambda connections: median(rates[connections]))


def _overload(field: Field, best: int) -> Iterator[Row]:
    times = (1, *OVERLOADS)
    found: dict[int, list[Answers]] = {factor: [] for factor in times}
    memory = 0
    recoveries = []
    for round_ in range(ROUNDS):
        for factor in times:
            found[factor] += field.ask(field.crowd(0, factor * best))
        recoveries.append(_recovery(field, best, found[1][-1].rate))
        if round_ == 0:
            memory = field.service.memory()
    after = field.service.memory()
    peak = median(answers.rate for answers in found[1])
    for factor in OVERLOADS:
        rate = median(answers.rate for answers in found[factor])
        longest = median(answers.percentile(0.99) for answers in found[factor])
        what = f"(f) {factor} times as many: good answers / at the peak"
        measured = f"{rate / peak:.2f} ({rate:.0f}/s; 99 % within {_ms(longest)})"
        yield Row(what, measured, "≥ 0.8", rate >= 0.8 * peak)
    again = median(recoveries)
    yield Row(
        "(f) after that, until 0.8 of the peak again", f"{again:.1f} s", "≤ 10 s", again <= 10
    )
    what = "(f) memory of a worker after five rounds of it / after one"
    measured = f"{after / memory:.2f} ({after // MIB} MiB)"
    yield Row(what, measured, "≤ 1.1", after <= 1.1 * memory)


def _recovery(field: Field, best: int, peak: float) -> float:
    """Seconds, in halves."""
    began = monotonic()
    while monotonic() - began < 15:
        if field.ask(field.crowd(0, best), seconds=0.5)[0].rate >= 0.8 * peak:
            break
    return monotonic() - began


def _noisy(field: Field, best: int) -> Iterator[Row]:
    """All companies ask at a steady rate, one of them then ten times as often, or without end.

    The rate is such that ten times of it, with the others', is nearly all that the service can do.
    """
    peak = median(field.ask(field.crowd(0, best))[0].rate for _ in range(3))
    rate = peak / 20
    others = [field.crowd(company, 1, rate) for company in range(1, COMPANIES)]
    crowds = {
        "usual": field.crowd(0, 1, rate),
        "at ten times its load": field.crowd(0, 10, 10 * rate),
        "with 100 connections": field.crowd(0, 100),
    }
    found: dict[str, list[float]] = {name: [] for name in crowds}
    for _ in range(ROUNDS):
        for name, crowd in crowds.items():
            answers = field.ask(crowd, *others)[1:]
            assert not any(set(each.statuses) - {200} for each in answers), answers
            everything = Answers(SECONDS, taken=[one for each in answers for one in each.taken])
            found[name].append(everything.percentile(0.99))
    usual = median(found.pop("usual"))
    for (name, taken), target in zip(found.items(), (2.0, None), strict=True):
        now = median(taken)
        what = f"(f) a company {name}: the others' p99 / before"
        measured = f"{now / usual:.1f} ({_ms(now)})"
        if target is None:
            yield Row(what, measured)
        else:
            yield Row(what, measured, f"≤ {target:.0f}", now <= target * usual)


def _hung(field: Field, best: int) -> Iterator[Row]:
    """Stored answers, alone and beside connections of two companies for which KSeF hangs."""
    rig = field.rig
    rig.execute("UPDATE quota_groups SET per_second = -1, per_minute = -1, per_hour = -1")
    fresh = []
    for company, nip in enumerate(NIPS[1:3], 1):
        paths = [
            f"/invoices/test/status/{rig.control.seed_session('test', nip).reference_number}"
            for _ in range(HUNG // 2)
        ]
        fresh.append(Crowd(HUNG // 2, field.companies[company][0], paths))
    alone, beside = [], []
    for _ in range(ROUNDS):
        alone.append(field.ask(field.crowd(0, best), seconds=2 * SECONDS)[0].rate)
        rig.control.fault("delay", path="/sessions/", times=None, seconds=20.0)
        beside.append(field.ask(field.crowd(0, best), *fresh, seconds=2 * SECONDS)[0].rate)
        rig.control.clear_faults()
    ratio = median(beside) / median(alone)
    what = f"(f) stored answers while KSeF hangs for {HUNG} connections / alone"
    yield Row(what, f"{ratio:.2f} ({median(beside):.0f}/s)", "≥ 0.9", ratio >= 0.9)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
