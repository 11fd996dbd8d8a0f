"""(b) An hour and a quarter of polling, at sixty times the speed: the proxy, and a naive one.

Sessions of one invoice come at a steady rate, KSeF takes a minute over each, and an ERP asks after
each every five seconds until it is final, then fetches the UPO. The naive proxy asks KSeF for the
session and its invoices each time that it is asked.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from time import monotonic, sleep

from bench.ksef import Ksef, log_in
from bench.rig import NIPS, Connection, Rig, Service, scaled, started
from bench.table import Row

RATE = 60.0  # seconds that pass in the sandbox in a real second
HOURS = 1.25
POLL, PROCESSING, GIVE_UP = 5.0, 60.0, 300.0  # sandbox seconds
SCALED = ("fresh_least", "fresh_most", "relist", "refusal_least", "refusal_most", "quota_patience")
TIMING = scaled(RATE, *SCALED, "quota_scale") | {
    "quota_jitter": 0.08,  # of the machine: real, like every delay of it
    "lease_poll": 0.01,
}
MOST_FAILED = {100: 0.0, 180: 5.0}
"""Sessions an hour → how many percent of the proxy's polls may fail; 180 are what KSeF allows."""


@dataclass
class Company:
    """An ERP. Its `poller` makes what asks whether a session is final; that raises OSError if there
    is no good answer."""

    nip: str
    sessions_an_hour: int
    poller: Callable[[], Callable[[str], bool]]
    failed: list[bool] = field(default_factory=list)
    """Of each poll, whether it failed."""
    late: list[float] = field(default_factory=list)
    """How long after its end each session was told to be final, in sandbox seconds."""


def rows(folder: Path) -> Iterator[Row]:
    """100 and 180 sessions an hour, by the proxy and the naive one, all at the same time."""
    with started(**TIMING) as rig, rig.serve(folder) as service:
        week = 7 * 86400.0
        rig.control.settings(accessTokenSeconds=week, latencySeconds=0.002, linkSeconds=4 * week)
        nips = iter(NIPS)
        companies = [
            make(rig, service, next(nips), rate)
            for make in (_by_proxy, _naively)
            for rate in MOST_FAILED
        ]
        rig.control.clear_calls()
        rig.control.settings(quota=True, clockRate=RATE)
        _drive(rig, companies)
        calls = [call for call in rig.control.calls() if call.service == "api"]
    for number, company in enumerate(companies):
        ours = [call for call in calls if call.nip == company.nip]
        yield _row(company, len(ours), sum(call.status == 429 for call in ours), number >= 2)


def _row(company: Company, calls: int, refused: int, naive: bool) -> Row:
    rate, share = company.sessions_an_hour, 100 * sum(company.failed) / len(company.failed)
    late = sorted(company.late) or [float("inf")]
    within = late[int(0.95 * (len(late) - 1))]
    who = "naive proxy" if naive else "proxy"
    what = f"(b) {rate} sessions/h, {who}: failed polls; KSeF calls; 429; how late an end was told"
    measured = f"{share:.1f} % of {len(company.failed)}; {calls}; {refused};"
    measured += f" {len(company.late)} told, {median(late):.0f} s, 95 % within {within:.0f} s"
    if naive:
        return Row(what, measured)
    most = MOST_FAILED[rate]
    return Row(what, measured, f"≤ {most:.0f} %; 0 answers 429", share <= most and not refused)


def _by_proxy(rig: Rig, service: Service, nip: str, rate: int) -> Company:
    headers = rig.company(nip)
    return Company(nip, rate, lambda: partial(_poll_proxy, Connection(service.port, headers)))


def _poll_proxy(http: Connection, reference: str) -> bool:
    path = f"/invoices/test/status/{reference}"
    answer = http.get(path)
    if answer.status != 200:
        raise ConnectionError(answer.body)
    if answer.json["final"]:
        number = answer.json["invoices"][0]["ksefNumber"]
        if http.get(f"{path}/{number}/upo").status != 200:
            raise ConnectionError("no UPO")
    return bool(answer.json["final"])


def _naively(rig: Rig, _service: Service, nip: str, rate: int) -> Company:
    url = rig.ksef_url()
    token = log_in(url, nip, rig.control.add_token("test", nip))
    return Company(nip, rate, lambda: partial(_poll_naively, Ksef(url, token)))


def _poll_naively(ksef: Ksef, reference: str) -> bool:
    code: int = ksef.session(reference)["status"]["code"]
    for _ in ksef.pages(reference):
        pass
    return code >= 200


def _drive(rig: Rig, companies: list[Company]) -> None:
    """Begin each session at its time, in a thread of its own, until the hours are over."""
    born = sorted(
        (number * 3600.0 / company.sessions_an_hour, index)
        for index, company in enumerate(companies)
        for number in range(int(HOURS * company.sessions_an_hour))
    )
    with ThreadPoolExecutor(len(born)) as pool:
        began = monotonic()
        for moment, index in born:
            sleep(max(0.0, began + moment / RATE - monotonic()))
            pool.submit(_live, rig, companies[index], began, moment)


def _live(rig: Rig, company: Company, began: float, born: float) -> None:
    """A session: sent, then polled until it is final, or nobody waits for it any longer."""
    invoices = [{"status": 150}]
    reference = rig.control.seed_session(
        "test", company.nip, state="moving", invoices=invoices, finishes_after=PROCESSING
    ).reference_number
    poll = company.poller()
    moment, end = born, HOURS * 3600.0
    while moment < min(born + GIVE_UP, end):
        sleep(max(0.0, began + moment / RATE - monotonic()))
        try:
            final = poll(reference)
            company.failed.append(False)
        except OSError:  # requests' errors are such, too
            final = False
            company.failed.append(True)
        if final:
            company.late.append((monotonic() - began) * RATE - born - PROCESSING)
            return
        moment += POLL
