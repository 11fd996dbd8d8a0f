"""Checks after a run of chaos whether each rule of the data (L) and of the replicas (R) held.

It shares no code with the service. It judges from the sandbox's log of calls, from triggers in the
database and from the answers that clients got. All moments are in seconds of one clock.

| | |
|---|---|
| L1 | the same answer a second time leaves identical rows |
| L2 | a link is what KSeF said for that number; a duplicate only fills an empty one |
| L3 | a link is never cleared, a row never deleted |
| L4 | nothing crosses companies or environments |
| L5 | whatever was broken off, asking again makes it whole |
| L6 | a 200 leaves after its rows were linked |
| L7 | an older answer never replaces a newer one |
| L8 | no deadlock |
| R1 | no rolling window of KSeF's quota is exceeded |
| R2 | a 429 stops all replicas |
| R3 | KSeF is asked once for a question and its freshness window |
| R4 | one renewal of a company's token |
| R5 | no transaction is open while KSeF is asked |
| R6 | no ledger, no call |
| R7 | breaker and Latarnia are shared |
"""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

WINDOWS = (1.0, 60.0, 3600.0)
LIMITS = {
    "sessionList": (5, 10, 60),
    "sessionMisc": (10, 120, 1200),
    "sessionInvoiceList": (10, 20, 200),
    "invoiceStatus": (30, 120, 1200),
    "other": (10, 30, 120),
}
GROUPS = {
    "/sessions": "sessionList",
    "/sessions/{reference}": "sessionMisc",
    "/sessions/{reference}/upo/{upo_reference}": "sessionMisc",
    "/sessions/{reference}/invoices/ksef/{ksef_number}/upo": "sessionMisc",
    "/sessions/{reference}/invoices": "sessionInvoiceList",
    "/sessions/{reference}/invoices/{invoice_reference}": "invoiceStatus",
    "/rate-limits": "other",
}
FETCH = "/sessions/{reference}"
INVOICES = (
    "/sessions/{reference}/invoices",
    "/sessions/{reference}/invoices/{invoice_reference}",
)
UPO = "/sessions/{reference}/invoices/ksef/{ksef_number}/upo"
REFRESH = "/auth/token/refresh"
CHALLENGE = "/auth/challenge"
PUBLIC_KEYS = "/security/public-key-certificates"
LATARNIA = "/status"
CLOCKS = 0.02  # seconds by which the clocks of two processes may differ


class Call(NamedTuple):
    """A call that KSeF got. `answered` and `status` None: the connection ended without an answer.

    `nip`: whose token it was, else whose session was asked for. `route`: KSeF's path, without
    environment and version; `subject`: the reference or number in it that tells most.
    """

    at: float
    service: str
    route: str
    nip: str | None = None
    reference: str | None = None
    subject: str | None = None
    answered: float | None = None
    status: int | None = 200
    fault: str | None = None
    retry_after: float | None = None

    @property
    def group(self) -> str | None:
        """The quota that it costs."""
        return GROUPS.get(self.route) if self.service == "api" else None


class LinkChange(NamedTuple):
    """An invoice row that was updated or deleted. `key`: its KSeF number or KSeF reference."""

    at: float
    act: str  # UPDATE, DELETE
    table: str
    nip: str
    environment: str
    key: str
    old: str | None
    new: str | None


class KeptChange(NamedTuple):
    """A kept answer that was written. `how`: put (KSeF's answer), marked (asked in vain),
    confirmed (one of many, in a list of sessions), DELETE."""

    at: float
    how: str
    reference: str
    asked_at: float
    checked_at: float
    old_checked_at: float | None
    old_final: bool | None
    final: bool


class Reservation(NamedTuple):
    """A call that was set aside (`units` 1) for a moment, or given back (-1)."""

    made_at: float
    planned_at: float
    nip: str
    group: str
    units: int


class Block(NamedTuple):
    """A group that the service blocked after a 429."""

    at: float
    until: float
    nip: str
    group: str


class Sample(NamedTuple):
    """The service's connections at a moment: how many, and for how long (seconds) the eldest of
    those without a statement has had its transaction open; 0.0 where none has."""

    at: float
    connections: int
    idle_in_transaction: float


class Renewal(NamedTuple):
    """A stored session that got new tokens."""

    at: float
    nip: str


class BreakerChange(NamedTuple):
    """What all replicas know of KSeF, each time that it changed: whether the breaker is open, and
    when somebody last took a turn at trying KSeF, and at asking Latarnia."""

    at: float
    is_open: bool
    probed_at: float | None = None
    latarnia_asked_at: float | None = None


class LinkLook(NamedTuple):
    """What a client found in the database as soon as it had its 200: rows, and unlinked ones."""

    at: float
    reference: str
    rows: int
    unlinked: int


class Told(NamedTuple):
    """A 200 that a client was given: the client, the session, its `checkedAt`."""

    client: int
    reference: str
    checked_at: str


@dataclass(frozen=True)
class Session:
    """What KSeF holds. `accepted`: KSeF numbers; `references`: its own and its invoices';
    `originals`: of its duplicates, original number → original session."""

    nip: str
    environment: str
    reference: str
    accepted: frozenset[str]
    references: frozenset[str]
    originals: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """A rule, how much was checked (`seen`), and every violation that was found (`broken`)."""

    rule: str
    seen: str
    broken: Sequence[str] = ()

    @property
    def holds(self) -> bool:
        return not self.broken

    def __str__(self) -> str:
        told = f"{self.rule} {'holds' if self.holds else 'BROKEN'}: {self.seen}"
        return "\n".join([told, *(f"   {what}" for what in self.broken[:5])])


# -- the data


def same_rows(
    before: Sequence[Any], after: Sequence[Any], changes: Iterable[LinkChange]
) -> Verdict:
    """L1: `before` and `after` are the rows of all tables before and after everything was asked
    for once more; they must be identical."""
    idle = [c for c in changes if c.act == "UPDATE" and c.old == c.new]
    broken = [f"{c.table} {c.key} was written for nothing" for c in idle]
    if list(before) != list(after):
        changed = len(set(before) ^ set(after))
        broken.append(f"asking again wrote rows: {changed} differ")
    return Verdict("L1", f"{len(before)} rows, the same after everything was asked again", broken)


def expected_links(sessions: Iterable[Session]) -> dict[tuple[str, ...], tuple[str, bool]]:
    """What KSeF says: (table, nip, environment, key) → the session to be linked, and whether it may
    replace another one."""
    expected: dict[tuple[str, ...], tuple[str, bool]] = {}
    for session in sessions:
        where = (session.nip, session.environment)
        for number in session.accepted:
            expected["synced_invoices", *where, number] = (session.reference, True)
        for reference in session.references:
            expected["offline_invoices", *where, reference] = (session.reference, True)
    for session in sessions:
        where = (session.nip, session.environment)
        for number, original in session.originals.items():
            expected.setdefault(("synced_invoices", *where, number), (original, False))
    return expected


def links_are_true(changes: Sequence[LinkChange], sessions: Sequence[Session]) -> Verdict:
    """L2: each link that was written is the one that KSeF says."""
    expected = expected_links(sessions)
    broken, replaced = [], 0
    for change in changes:
        if change.act != "UPDATE" or change.old == change.new:
            continue
        key = (change.table, change.nip, change.environment, change.key)
        value, may_replace = expected.get(key, (None, False))
        replaced += change.old is not None
        if change.new != value:
            broken.append(f"{change.key} was linked to {change.new}, KSeF says {value}")
        elif change.old is not None and not may_replace:
            broken.append(f"{change.key}: a duplicate replaced {change.old}")
    return Verdict("L2", f"{len(changes)} changes of links, {replaced} of an earlier value", broken)


def nothing_is_unlinked(changes: Sequence[LinkChange]) -> Verdict:
    """L3: no change cleared a link or deleted a row."""
    broken = [
        f"{c.table} {c.key} was {'deleted' if c.act == 'DELETE' else f'unlinked from {c.old}'}"
        for c in changes
        if c.act == "DELETE" or (c.old is not None and c.new is None)
    ]
    return Verdict("L3", f"{len(changes)} changes of rows, none deleted or cleared", broken)


def nothing_crosses(
    changes: Sequence[LinkChange],
    strangers: int,
    calls: Sequence[Call],
    sessions: Sequence[Session],
) -> Verdict:
    """L4: no row of another company or environment was written, no session asked for as another
    company. `strangers`: how many rows have the numbers of another one, and so must stay unlinked.
    """
    owners = {session.reference: session for session in sessions}
    expected = expected_links(sessions)
    broken = [
        f"{c.table} {c.key} of {c.nip} in {c.environment} was written"
        for c in changes
        if (c.table, c.nip, c.environment, c.key) not in expected
    ]
    asked = [call for call in calls if call.reference in owners and call.nip]
    broken += [
        f"{call.reference} was asked for as {call.nip}"
        for call in asked
        if call.nip != owners[call.reference or ""].nip
    ]
    if not strangers:
        broken.append("there was no row of a stranger")
    return Verdict("L4", f"{strangers} rows of others untouched, {len(asked)} calls", broken)


def all_is_whole(
    rows: Iterable[tuple[str, str, str, str, str | None]],
    answers: Mapping[str, tuple[bool, frozenset[str]]],
    sessions: Sequence[Session],
    untouched: Mapping[tuple[str, ...], str],
) -> Verdict:
    """L5: in the end all links and kept answers are what KSeF says.

    `rows`: (table, nip, environment, key, session); `answers`: for each session whether its kept
    answer is final, and the accepted numbers in it; `untouched`: links that were there before, and
    that duplicates must not replace.
    """
    expected = {key: value for key, (value, _) in expected_links(sessions).items()} | {**untouched}
    rows = list(rows)
    broken = [
        f"{key} of {nip} is linked to {session}, not {expected[table, nip, environment, key]}"
        for table, nip, environment, key, session in rows
        if session != expected.get((table, nip, environment, key), session)
    ]
    for session in sessions:
        final, accepted = answers.get(session.reference, (False, frozenset()))
        if not final or accepted != session.accepted:
            broken.append(f"the kept answer of {session.reference} is not KSeF's")
    return Verdict("L5", f"{len(rows)} rows and {len(answers)} answers as KSeF has them", broken)


def linked_before_answered(looks: Sequence[LinkLook]) -> Verdict:
    """L6: whenever a client looked right after its answer, its rows were linked."""
    broken = [f"{x.reference}: {x.unlinked} of {x.rows} rows unlinked" for x in looks if x.unlinked]
    rows = sum(look.rows for look in looks)
    if not rows:
        broken.append("nobody looked")
    return Verdict("L6", f"{rows} rows looked at, at once after {len(looks)} answers", broken)


def answers_only_grow_newer(changes: Sequence[KeptChange], told: Sequence[Told]) -> Verdict:
    """L7: neither a kept answer nor the answers to one client ever went back in time."""
    broken = []
    for change in changes:
        if change.how == "DELETE":
            broken.append(f"the answer of {change.reference} was deleted")
        elif change.old_final:
            broken.append(f"the final answer of {change.reference} was written again")
        elif change.old_checked_at is not None and change.checked_at < change.old_checked_at:
            broken.append(f"an older answer of {change.reference} replaced a newer one")
    newest: dict[tuple[int, str], str] = {}
    for answer in told:
        key = (answer.client, answer.reference)
        if answer.checked_at < newest.get(key, ""):
            broken.append(f"a client was told an older answer of {answer.reference}")
        newest[key] = answer.checked_at
    return Verdict("L7", f"{len(changes)} kept answers, {len(told)} given ones", broken)


def no_deadlock(counted: int, logged: int, transactions: int) -> Verdict:
    """L8: no deadlock was counted by pg_stat_database or logged by the server."""
    broken = [f"{max(counted, logged)} deadlocks"] if counted or logged else []
    return Verdict("L8", f"{transactions} transactions, no deadlock counted or logged", broken)


# -- the replicas


def windows_hold(calls: Sequence[Call], scale: float = 1.0) -> Verdict:
    """R1: no window of the quota held too many calls, by the times at which KSeF got them.

    `scale` multiplies the lengths of the windows.
    """
    moments: dict[tuple[str, str], list[float]] = defaultdict(list)
    for call in calls:
        if call.group:
            moments[call.nip or "", call.group].append(call.at)
    broken, fullest = [], 0.0
    for (nip, group), times in moments.items():
        times.sort()
        for limit, window in zip(LIMITS[group], WINDOWS, strict=True):
            most = most_within(times, window * scale)
            fullest = max(fullest, most / limit)
            if most > limit:
                broken.append(f"{most} calls of {group} of {nip} in a window of {window:.0f} s")
    broken += [
        f"KSeF answered 429 to {call.route}"
        for call in calls
        if call.status == 429 and call.fault is None
    ]
    counted = sum(map(len, moments.values()))
    seen = (
        f"{counted} calls of {len(moments)} groups of companies, the fullest window {fullest:.0%}"
    )
    return Verdict("R1", seen, broken)


def most_within(times: Sequence[float], window: float) -> int:
    """How many of some ascending moments lie at most within any window of so many seconds."""
    most = first = 0
    for last, moment in enumerate(times):
        while times[first] <= moment - window:
            first += 1
        most = max(most, last - first + 1)
    return most


def refusals_stop_all(
    calls: Sequence[Call],
    blocks: Sequence[Block],
    reservations: Sequence[Reservation],
    kills: Sequence[float],
    *,
    late: float = 1.0,
) -> Verdict:
    """R2: after a 429 no replica sends calls of that group, but for those already in flight.

    In flight is what was reserved, before the block, for a moment in the `late` seconds before it:
    at most so many calls may still arrive, and only within `late` seconds.
    """
    refused = [c for c in calls if c.status == 429 and c.group and c.nip]
    broken, allowed, lost = [], 0, 0
    for call in refused:
        answered = call.answered or call.at
        until = answered + (call.retry_after or 60.0)
        block = next(
            (
                b
                for b in blocks
                if (b.nip, b.group) == (call.nip, call.group)
                and answered - CLOCKS <= b.at <= answered + late
                and b.until >= until - CLOCKS
            ),
            None,
        )
        if block is None:
            # The worker that got the 429 may have been killed before it could store the block.
            lost += 1
            if not any(call.at - late <= kill <= answered + late for kill in kills):
                broken.append(f"the 429 to {call.group} of {call.nip} blocked nothing")
            continue
        at = block.at
        after = [
            c for c in calls if (c.nip, c.group) == (call.nip, call.group) and at < c.at < until
        ]
        in_flight = sum(
            r.units
            for r in reservations
            if (r.nip, r.group) == (call.nip, call.group)
            and r.made_at <= at
            and at - late <= r.planned_at <= at
        )
        allowed += len(after)
        too_late = [c for c in after if c.at > at + late]
        if len(after) > max(0, in_flight) or too_late:
            broken.append(
                f"{len(after)} calls of {call.group} of {call.nip} after a 429,"
                f" {in_flight} in flight, {len(too_late)} too late"
            )
    seen = f"{len(refused)} answers 429, {lost} of them lost with a killed worker;"
    seen += f" {allowed} calls in flight came after their blocks"
    return Verdict("R2", seen, broken if refused else ["there was no 429"])


def asked_once(
    calls: Sequence[Call],
    kept: Sequence[KeptChange],
    archived: Mapping[str, float],
    kills: Sequence[float],
    *,
    asked_again: int,
    fresh: float,
    round_of: float,
) -> Verdict:
    """R3: KSeF was asked about a session at most once while an answer is fresh.

    No fetch may come while a kept answer is fresh, while another fetch runs, or after the final
    answer; and there may be at most elapsed / fresh + 1 fetches, and one more for each that a kill
    interrupted. A second look at the session after its invoices, before the answer is stored, is
    part of the same fetch.

    `asked_again`: calls that KSeF got when everything final was asked for again (none are allowed);
    `fresh`: the shortest freshness; `round_of`: the longest time that a fetch takes, all in
    seconds; `archived`: KSeF number → when its UPO was archived.
    """
    fetches: dict[str, list[Call]] = defaultdict(list)
    invoices: dict[str, list[float]] = defaultdict(list)
    for call in calls:
        if call.service == "api" and call.reference:
            if call.route == FETCH:
                fetches[call.reference].append(call)
            elif call.route in INVOICES:
                invoices[call.reference].append(call.at)
    answers: dict[str, list[KeptChange]] = defaultdict(list)
    for change in kept:
        answers[change.reference].append(change)
    broken = ["KSeF was asked for what is final"] if asked_again else []
    hits = 0
    for reference, asked in fetches.items():
        asked.sort(key=lambda call: call.at)
        times = [call.at for call in asked]
        for change in answers[reference]:
            until = change.asked_at + fresh - CLOCKS
            if change.final:
                until = float("inf")
            elif change.how == "confirmed":  # a fetch that had begun before is not stopped by it
                continue
            early = bisect_left(times, until) - bisect_right(times, change.at)
            if early > 0:
                broken.append(f"{reference} was asked for {early} times while fresh")
        for one, other in pairwise(asked):
            if one.answered is not None and other.at < one.answered < one.at + round_of:
                broken.append(f"{reference} was asked for twice at once")
        puts = [change.at for change in answers[reference] if change.how != "confirmed"]
        good = _without_second_looks(
            [call.at for call in asked if call.status == 200], invoices[reference], puts
        )
        hit = sum(_is_hit(at, puts, kills, round_of) for at in good)
        hits += hit
        if good and len(good) > (good[-1] - good[0] + CLOCKS) / fresh + 1 + hit:
            broken.append(f"{len(good)} fetches of {reference} in {good[-1] - good[0]:.1f} s")
    broken += [
        f"the UPO of {call.subject} was fetched again"
        for call in calls
        if call.route == UPO and call.at > archived.get(call.subject or "", float("inf")) + CLOCKS
    ]
    total = sum(map(len, fetches.values()))
    seen = f"{total} fetches of {len(fetches)} sessions, {hits} of them hit by a kill"
    return Verdict("R3", f"{seen}; {len(archived)} UPOs", broken)


def _without_second_looks(
    fetches: Sequence[float], invoices: Sequence[float], puts: Sequence[float]
) -> list[float]:
    """Each fetch once: not the one after its invoices were asked for and before it was stored."""
    first: list[float] = []
    looked_again = False
    for at in fetches:
        looked_again = (
            bool(first)
            and not looked_again
            and any(first[-1] < other < at for other in invoices)
            and not any(first[-1] < put < at for put in puts)
        )
        if not looked_again:
            first.append(at)
    return first


def _is_hit(at: float, puts: Sequence[float], kills: Sequence[float], round_of: float) -> bool:
    """Whether a worker was killed between a fetch and the storing of its answer."""
    first = bisect_left(sorted(puts), at)
    stored = sorted(puts)[first] if first < len(puts) else float("inf")
    return any(at <= kill <= min(at + round_of, stored) for kill in kills)


def renewed_once(
    calls: Sequence[Call],
    renewals: Sequence[Renewal],
    kills: Sequence[float],
    stops: Sequence[tuple[float, float]],
    *,
    companies: int,
    ended: Sequence[tuple[float, str]] = (),
    request: float = 0.0,
) -> Verdict:
    """R4: a token is renewed once, however many need it, and each company logs in once.

    Between two refreshes that KSeF granted, the tokens of the first one must have been stored,
    unless a worker was killed or the database was down in between.

    `ended`: (moment, nip) for each token that KSeF ended before its time. If that token was at most
    `request` seconds old, a request may have had two tokens refused, and may log in again.
    """
    granted: dict[str, list[float]] = defaultdict(list)
    for call in calls:
        if call.route == REFRESH and call.status == 200:
            granted[call.nip or ""].append(call.at)
    broken, excused = [], 0
    for nip, times in granted.items():
        times.sort()
        stored = sorted(renewal.at for renewal in renewals if renewal.nip == nip)
        for one, other in pairwise(times):
            if bisect_right(stored, other) > bisect_left(stored, one):
                continue
            if any(one <= kill <= other for kill in kills) or any(
                begin < other and end > one for begin, end in stops
            ):
                excused += 1
            else:
                broken.append(f"two refreshes of {nip} within {other - one:.2f} s")
    logins = sum(call.route == CHALLENGE for call in calls)
    unlucky = sum(
        any(moment - request <= at <= moment for at in granted[nip]) for moment, nip in ended
    )
    if logins > companies + unlucky:
        broken.append(f"{logins} logins of {companies} companies")
    total = sum(map(len, granted.values()))
    if not total:
        broken.append("there was no refresh")
    seen = (
        f"{total} refreshes, {len(renewals)} renewals, {excused} excused by a kill or the database"
    )
    return Verdict("R4", f"{seen}; {logins} logins, {unlucky} new tokens ended", broken)


def no_transaction_meanwhile(
    samples: Sequence[Sample],
    calls: Sequence[Call],
    slow: Sequence[tuple[float, float]],
    *,
    longest: float,
) -> Verdict:
    """R5: no transaction was idle for more than `longest` seconds while KSeF was slow.

    KSeF's calls took longer than that then, so a transaction held across a call would be seen.
    """
    spans = sorted((c.at, c.answered) for c in calls if c.answered is not None)
    meant = [s for s in samples if any(begin <= s.at <= end for begin, end in slow)]
    during = [s for s in meant if any(at <= s.at <= end for at, end in spans)]
    broken = [
        f"a transaction was open for {sample.idle_in_transaction:.2f} s without a statement"
        for sample in meant
        if sample.idle_in_transaction > longest
    ]
    if not during:
        broken.append("no sample while KSeF was asked")
    eldest = max((sample.idle_in_transaction for sample in meant), default=0.0)
    seen = f"{len(meant)} samples, {len(during)} while KSeF was asked"
    return Verdict("R5", f"{seen}; the eldest idle transaction {eldest * 1000:.0f} ms", broken)


def no_call_without_ledger(
    calls: Sequence[Call],
    reservations: Sequence[Reservation],
    stops: Sequence[tuple[float, float]],
    *,
    late: float = 0.5,
) -> Verdict:
    """R6: KSeF got no call while the database was down, and never more calls of a group than had
    been reserved. Calls sent just before may arrive up to `late` seconds after the stop."""
    broken, down = [], 0
    for begin, end in stops:
        during = [call for call in calls if begin < call.at < end]
        down += len(during)
        broken += [f"{c.route} came without a database" for c in during if c.at > begin + late]
    planned: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for r in reservations:
        moment = r.planned_at if r.units > 0 else r.made_at
        planned[r.nip, r.group].append((moment, r.units))
    counted = 0
    for (nip, group), ours in _by_group(calls).items():
        steps = sorted(planned[nip, group])
        done = left = 0
        for at in ours:
            while done < len(steps) and steps[done][0] <= at + CLOCKS:
                left += steps[done][1]
                done += 1
            left -= 1
            counted += 1
            if left < 0:
                broken.append(f"a call of {group} of {nip} was not set aside")
                break
    if not stops:
        broken.append("the database was never down")
    seconds = sum(end - begin for begin, end in stops)
    seen = f"{down} calls in {seconds:.1f} s without a database; {counted} calls were set aside"
    return Verdict("R6", seen, broken)


def _by_group(calls: Sequence[Call]) -> dict[tuple[str, str], list[float]]:
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for call in calls:
        if call.group and call.nip:
            found[call.nip, call.group].append(call.at)
    return {key: sorted(times) for key, times in found.items()}


def breaker_is_shared(
    calls: Sequence[Call],
    changes: Sequence[BreakerChange],
    alike: Sequence[Sequence[tuple[Any, ...]]],
    *,
    probe_every: float,
    latarnia_every: float,
    late: float = 0.5,
) -> Verdict:
    """R7: while the breaker is open no replica calls KSeF; all of them take turns with probes and
    questions to Latarnia, and give the same answers.

    `alike`: what each replica answered to the same question at about the same time; `probe_every`
    and `latarnia_every`: seconds between turns; `late`: seconds after the breaker opened in which
    earlier calls may still arrive.
    """
    broken: list[str] = []
    opened = _open_spans(changes)
    during = [(c, begin) for c in calls for begin, end in opened if begin < c.at < end]
    broken += [
        f"{c.route} came {c.at - begin:.2f} s after the breaker opened"
        for c, begin in during
        if c.service != "latarnia" and c.route != PUBLIC_KEYS and c.at > begin + late
    ]
    probes = sorted({change.probed_at for change in changes if change.probed_at})
    asked = sorted({change.latarnia_asked_at for change in changes if change.latarnia_asked_at})
    for what, turns, route, every in (
        ("probes", [turn for turn in probes if _within(turn, opened)], PUBLIC_KEYS, probe_every),
        ("questions to Latarnia", asked, LATARNIA, latarnia_every),
    ):
        broken += [
            f"two {what} within {other - one:.2f} s"
            for one, other in pairwise(turns)
            if other - one < every
        ]
        if what == "probes":
            sent = sum(c.route == route for c, begin in during)
        else:
            sent = sum(c.route == route and c.service == "latarnia" for c in calls)
        if sent > len(turns) + 1:  # one may be in flight when the breaker opens
            broken.append(f"{sent} {what} in {len(turns)} turns")
    # A 503 is about the replica, which was just killed or is busy; it tells nothing about KSeF.
    told = [[answer for answer in answers if answer[0] != 503] for answers in alike]
    alike = [answers for answers in told if answers]
    broken += [f"replicas told {Counter(answers)}" for answers in alike if len(set(answers)) > 1]
    if not opened or not alike:
        broken.append("the breaker never opened, or nobody asked meanwhile")
    outages = sum(answers[0][0] == 409 for answers in alike)
    open_for = sum(end - begin for begin, end in opened)
    seen = f"open for {open_for:.1f} s, {len(probes)} probes, {len(asked)} questions to Latarnia"
    return Verdict("R7", f"{seen}, {len(alike)} rounds of all replicas, {outages} of 409", broken)


def _within(moment: float, spans: Iterable[tuple[float, float]]) -> bool:
    return any(begin <= moment <= end for begin, end in spans)


def _open_spans(changes: Sequence[BreakerChange]) -> list[tuple[float, float]]:
    spans, begin = [], None
    for change in changes:
        if change.is_open and begin is None:
            begin = change.at
        elif not change.is_open and begin is not None:
            spans.append((begin, change.at))
            begin = None
    return spans
