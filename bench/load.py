"""(f) The service under load: overload, a KSeF that hangs, one company that asks far too often."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import monotonic

from bench.crowd import Answers, Crowd, ask
from bench.rig import NIPS, Connection, Rig, Service, started
from bench.table import MIB, Row, at_least, at_most, milliseconds

ROUNDS = 5
SECONDS = 2.0  # of each measurement
COMPANIES = 5
OVERLOADS = (2, 5, 10)
HUNG = 24  # connections that ask what only KSeF knows


class Field:
    """The service, and companies with one final session each."""

    def __init__(self, rig: Rig, service: Service) -> None:
        self.rig = rig
        self.service = service
        self.companies = [self._company(nip) for nip in NIPS[:COMPANIES]]

    def _company(self, nip: str) -> tuple[dict[str, str], str]:
        headers = self.rig.company(nip)
        session = self.rig.control.seed_session("test", nip, invoices=10)
        path = f"/invoices/test/status/{session.reference_number}"
        for _ in range(8):  # so that each worker has verified the password
            with Connection(self.service.port, headers) as http:
                http.ok(path)
        return headers, path

    def crowd(self, company: int, connections: int, rate: float | None = None) -> Crowd:
        """Connections of a company that ask for its final session."""
        headers, path = self.companies[company]
        return Crowd(connections, headers, [path], rate)

    def ask(self, *crowds: Crowd, seconds: float = SECONDS) -> list[Answers]:
        return ask([self.service], seconds, *crowds)


def rows(folder: Path) -> Iterator[Row]:
    """Measure everything; about two minutes."""
    with started() as rig, rig.serve(folder) as service:
        field = Field(rig, service)
        best = _best(field)
        yield Row("(f) stored status, connections at which most are answered", str(best))
        yield from _overload(field, best)
        yield _noisy(field, best)
        yield _hung(field, best)


def _best(field: Field) -> int:
    """The number of connections at which the most requests per second are answered."""
    rates: dict[int, list[float]] = {connections: [] for connections in (2, 4, 8, 16)}
    for _ in range(3):
        for connections, found in rates.items():
            found.append(field.ask(field.crowd(0, connections), seconds=1.0)[0].rate)
    return max(rates, key=lambda connections: median(rates[connections]))


def _overload(field: Field, best: int) -> Iterator[Row]:
    found: dict[int, list[Answers]] = {factor: [] for factor in (1, *OVERLOADS)}
    recoveries, memory = [], []
    for _ in range(ROUNDS):
        for factor, answers in found.items():
            answers += field.ask(field.crowd(0, factor * best))
        recoveries.append(_recovery(field, best, found[1][-1].rate))
        memory.append(field.service.memory())
    peak = median(answers.rate for answers in found[1])
    for factor in OVERLOADS:
        rate = median(answers.rate for answers in found[factor])
        longest = median(answers.percentile(0.99) for answers in found[factor])
        what = f"(f) {factor} times as many: good answers / at the peak"
        more = f"{rate:.0f}/s; 99 % within {milliseconds(longest)}"
        yield at_least(what, rate / peak, 0.8, more)
    yield at_most("(f) after that, seconds until 0.8 of the peak again", median(recoveries), 10)
    what = "(f) memory of a worker after five rounds of it / after one"
    yield at_most(what, memory[-1] / memory[0], 1.1, f"{memory[-1] // MIB} MiB")


def _recovery(field: Field, best: int, peak: float) -> float:
    """Seconds, in halves."""
    began = monotonic()
    while monotonic() - began < 15:
        if field.ask(field.crowd(0, best), seconds=0.5)[0].rate >= 0.8 * peak:
            break
    return monotonic() - began


def _noisy(field: Field, best: int) -> Row:
    """All companies ask at a steady rate, one of them then ten times as often.

    The rate is such that ten times of it, with the others', is nearly all that the service can do.
    """
    rate = median(field.ask(field.crowd(0, best))[0].rate for _ in range(3)) / 20
    others = [field.crowd(company, 1, rate) for company in range(1, COMPANIES)]
    crowds = field.crowd(0, 1, rate), field.crowd(0, 10, 10 * rate)
    longest: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for crowd, found in zip(crowds, longest, strict=True):
            answers = field.ask(crowd, *others)[1:]
            assert not any(set(each.statuses) - {200} for each in answers), answers
            everything = Answers(SECONDS, [one for each in answers for one in each.got])
            found.append(everything.percentile(0.99))
    usual, now = map(median, longest)
    what = "(f) a company at ten times its load: the others' p99 / before"
    return at_most(what, now / usual, 2, milliseconds(now))


def _hung(field: Field, best: int) -> Row:
    """Stored answers, alone and beside connections of two companies for which KSeF hangs."""
    rig = field.rig
    rig.lift_quota()
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
    what = f"(f) stored answers while KSeF hangs for {HUNG} connections / alone"
    return at_least(what, median(beside) / median(alone), 0.9, f"{median(beside):.0f}/s")
