"""(b) An hour and a quarter at sixty times the speed: polled, followed, and by a naive proxy.

Sessions of one invoice come at a steady rate, and KSeF takes a minute over each. An ERP asks after
each every five seconds until it is final, then fetches the UPO; or nobody asks, and `follow` finds
and archives it. The naive proxy asks KSeF for the session and its invoices each time that it is
asked.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from time import monotonic, sleep

from bench.ksef import Ksef, access_token
from bench.rig import NIPS, Connection, Rig, Service, scaled, started
from bench.table import Row

RATE = 60.0  # seconds that pass in the sandbox in a real second
HOURS = 1.25
POLL, PROCESSING, GIVE_UP = 5.0, 60.0, 300.0  # sandbox seconds
SCALED = (
    *("fresh_least", "fresh_most", "relist", "refusal_least", "refusal_most"),
    *("follow_poll", "follow_turn", "follow_overlap", "follow_again", "follow_least"),
    *("follow_most", "follow_moving", "follow_failing", "quota_patience", "quota_scale"),
)
TIMING = scaled(RATE, *SCALED) | {
    "quota_jitter": 0.08,  # of the machine: real, like every delay of it
    "lease_poll": 0.01,
}
MOST_FAILED = {100: 0.0, 180: 5.0}
"""Sessions an hour → how many percent of the proxy's polls may fail; 180 are what KSeF allows."""
PROXY, NAIVE, FOLLOWED = "proxy", "naive proxy", "followed, never polled"


@dataclass
class Company:
    """An ERP. Its `poll` says whether a session is final, and raises OSError if there is no good
    answer; where it is None, nobody asks."""

    who: str
    nip: str
    sessions_an_hour: int
    poll: Callable[[str], bool] | None
    sent: dict[str, float] = field(default_factory=dict)
    """Reference number → when the session began, in sandbox seconds."""
    failed: list[bool] = field(default_factory=list)
    """Of each poll, whether it failed."""
    late: list[float] = field(default_factory=list)
    """How long after its end each session was told to be final, in sandbox seconds."""


def rows(folder: Path) -> Iterator[Row]:
    """100 and 180 sessions an hour: by the proxy and the naive one, at once, and then followed."""
    with _sandbox(folder) as (rig, service):
        companies = _companies(rig, service, PROXY, NAIVE)
        calls = _drive(rig, companies)
    for company in companies:
        yield _row(company, calls[company.nip])
    with _sandbox(folder) as (rig, service):
        companies = _companies(rig, service, FOLLOWED)
        with rig.follow(folder):
            [(began,)] = rig.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
            calls = _drive(rig, companies)
        for company in companies:
            company.late = list(_learned(rig, company, began))
    for company in companies:
        yield _row(company, calls[company.nip])


@contextmanager
def _sandbox(folder: Path) -> Iterator[tuple[Rig, Service]]:
    with started(**TIMING) as rig, rig.serve(folder) as service:
        week = 7 * 86400.0
        rig.control.settings(accessTokenSeconds=week, latencySeconds=0.002, linkSeconds=4 * week)
        yield rig, service


def _companies(rig: Rig, service: Service, *everybody: str) -> list[Company]:
    companies = []
    for nip, (who, rate) in zip(NIPS, product(everybody, MOST_FAILED), strict=False):
        headers = rig.company(nip)
        poll = {
            PROXY: partial(_poll_proxy, service.port, headers),
            NAIVE: partial(_poll_naively, rig.ksef_url(), access_token(rig, nip)),
        }
        companies.append(Company(who, nip, rate, poll.get(who)))
    return companies


def _poll_proxy(port: int, headers: dict[str, str], reference: str) -> bool:
    path = f"/invoices/test/status/{reference}"
    with Connection(port, headers) as http:
        answer = http.get(path)
        if answer.status != 200:
            raise ConnectionError(answer.body)
        if answer.json["final"]:
            number = answer.json["invoices"][0]["ksefNumber"]
            if http.get(f"{path}/{number}/upo").status != 200:
                raise ConnectionError("no UPO")
        return bool(answer.json["final"])


def _poll_naively(url: str, token: str, reference: str) -> bool:
    ksef = Ksef(url, token)
    code: int = ksef.session(reference)["status"]["code"]
    for _ in ksef.pages(reference):
        pass
    return code >= 200


def _row(company: Company, statuses: Sequence[int]) -> Row:
    """`statuses`: those of KSeF's answers to its calls."""
    rate, refused, polls = company.sessions_an_hour, statuses.count(429), len(company.failed)
    failed = 100 * sum(company.failed) / (polls or 1)
    late = sorted(company.late) or [float("inf")]
    within = late[int(0.95 * (len(late) - 1))]
    what = f"(b) {rate} sessions/h, {company.who}: KSeF calls; 429; failed polls; ends told"
    measured = f"{len(statuses)}; {refused}; {failed:.1f} % of {polls};"
    measured += f" {len(company.late)} of {len(company.sent)}, {median(late):.0f} s after the end,"
    measured += f" 95 % within {within:.0f} s"
    if company.who == NAIVE:
        return Row(what, measured)
    most = MOST_FAILED[rate]
    return Row(what, measured, f"≤ {most:.0f} %; 0 answers 429", failed <= most and not refused)


def _learned(rig: Rig, company: Company, began: float) -> Iterator[float]:
    """How late each session's end was in the journal, in sandbox seconds; `began`: the drive."""
    for reference, at in rig.execute(
        "SELECT key, extract(epoch FROM at)::float8 FROM events"
        " WHERE company_nip = %s AND type = 'session.final'",
        (company.nip,),
    ):
        yield (at - began) * RATE - company.sent[reference] - PROCESSING


def _drive(rig: Rig, companies: list[Company]) -> dict[str, list[int]]:
    """Begin each session at its time, in a thread of its own, until the hours are over.

    Returns the statuses of all calls that KSeF got, by NIP.
    """
    rig.control.clear_calls()
    rig.control.settings(quota=True, clockRate=RATE)
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
        sleep(max(0.0, began + HOURS * 3600.0 / RATE - monotonic()))
    statuses: dict[str, list[int]] = {company.nip: [] for company in companies}
    for call in rig.control.calls():
        if call.service == "api" and call.nip in statuses:
            statuses[call.nip].append(call.status)
    return statuses


def _live(rig: Rig, company: Company, began: float, born: float) -> None:
    """A session: sent, then polled until it is final, or nobody waits for it any longer."""
    invoices = [{"status": 150}]
    reference = rig.control.seed_session(
        "test", company.nip, state="moving", invoices=invoices, finishes_after=PROCESSING
    ).reference_number
    company.sent[reference] = born
    if company.poll is None:
        return
    moment, end = born, HOURS * 3600.0
    while moment < min(born + GIVE_UP, end):
        sleep(max(0.0, began + moment / RATE - monotonic()))
        try:
            final = company.poll(reference)
            company.failed.append(False)
        except OSError:  # requests' errors are such, too
            final = False
            company.failed.append(True)
        if final:
            company.late.append((monotonic() - began) * RATE - born - PROCESSING)
            return
        moment += POLL
