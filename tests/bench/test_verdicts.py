"""The judge of `make chaos` can say no: of each rule, evidence that keeps it and that breaks it."""

import ast
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from msgspec import structs

from bench import verdicts
from bench.verdicts import FETCH, GROUPS, LIMITS, RULES, WINDOWS, Judge, Verdict
from sandbox import quota, settings

NIP, OTHER = "5265877635", "5261040828"
ONE, TWO = "20260915-SO-00000001A1-0000000001-01", "20260915-SB-00000002A2-0000000002-02"
A, B, ORIGINAL = "A", "B", "O"
UPO = f"{FETCH}/invoices/ksef/{{ksef_number}}/upo"
REFRESH, CHALLENGE = "/auth/token/refresh", "/auth/challenge"
PUBLIC_KEYS = "/security/public-key-certificates"
Row = dict[str, Any]
Judged = Callable[..., Verdict]


@pytest.fixture(scope="module")
def judged(database_server: Any) -> Iterator[Judged]:
    """The verdict on a rule, by rows of the tables of evidence; `run` are the run's own columns."""
    with (
        database_server.scratch() as name,
        closing(psycopg2.connect(database_server.dsn(name))) as connection,
        connection.cursor() as cursor,
    ):
        judge = Judge(cursor)
        connection.commit()

        def judged(rule: str, run: Row | None = None, **evidence: list[Row]) -> Verdict:
            judge.hear_of_run(**(run or {}))
            for table, rows in evidence.items():
                judge.hear(table, rows)
            verdict = judge.verdict(rule)
            connection.rollback()
            return verdict

        yield judged


def says(verdict: Verdict, word: str) -> None:
    """The rule is broken, for the reason meant."""
    assert not verdict.holds
    assert word in str(verdict)


def call(at: float, route: str = FETCH, **more: Any) -> Row:
    common: Row = {
        "service": "api",
        "nip": NIP,
        "reference": ONE,
        "subject": ONE,
        "answered": at + 0.1,
        "status": 200,
        "fault": None,
        "retry_after": None,
        "quota_group": GROUPS.get(route),
    }
    return common | {"at": at, "route": route} | more


def link(key: str = A, old: str | None = None, new: str | None = ONE, **more: Any) -> Row:
    place = {"tab": "synced_invoices", "nip": NIP, "environment": "test", "key": key}
    return {"at": 1.0, "act": "UPDATE", **place, "old": old, "new": new} | more


def stored(at: float, how: str = "put", **more: Any) -> Row:
    times = {"asked_at": at - 0.2, "checked_at": at - 0.2, "old_checked_at": None}
    common = {"reference": ONE, **times, "old_final": None, "final": False}
    return {"at": at, "how": how} | common | more


def row(key: str, session: str | None, **more: Any) -> Row:
    place = {"tab": "synced_invoices", "nip": NIP, "environment": "test"}
    return place | {"key": key, "session": session} | more


SESSIONS = [{"nip": NIP, "environment": "test", "reference": ONE}]
EXPECTED = [
    *(row(key, ONE, is_original=True, stays=None) for key in (A, B)),
    row(ORIGINAL, TWO, is_original=False, stays=None),
]


# -- the data


def test_l1(judged: Judged) -> None:
    def versions(*written_by: str) -> list[Row]:
        return [
            {"again": bool(again), "tab": "upos", "place": f"(0,{again})", "written_by": xmin}
            | {"place": "(0,1)"}
            for again, xmin in enumerate(written_by)
        ]

    assert judged("L1", versions=versions("7", "7"), links=[link()]).holds
    says(judged("L1", versions=versions("7", "8")), "wrote rows")
    says(judged("L1", versions=versions("7", "7"), links=[link(old=ONE)]), "for nothing")


def test_l2(judged: Judged) -> None:
    true = [link(), link(old="wrong"), link(ORIGINAL, new=TWO)]
    assert judged("L2", expected=EXPECTED, links=true).holds
    for wrong, word in (
        (link(new=TWO), f"KSeF says {ONE}"),
        (link("unknown"), "KSeF says"),
        (link(ORIGINAL, old=ONE, new=TWO), "a duplicate replaced"),
        (link(ORIGINAL, new=ONE), f"KSeF says {TWO}"),
    ):
        says(judged("L2", expected=EXPECTED, links=[wrong]), word)


def test_l2_a_session_that_holds_an_invoice_tells_more_than_a_duplicate(judged: Judged) -> None:
    both = [*EXPECTED, row(ORIGINAL, ONE, is_original=True, stays=None)]
    assert judged("L2", expected=both, links=[link(ORIGINAL, old=TWO, new=ONE)]).holds


def test_l3(judged: Judged) -> None:
    assert judged("L3", links=[link(), link(old="wrong")]).holds
    says(judged("L3", links=[link(old=ONE, new=None)]), "unlinked")
    says(judged("L3", links=[link(act="DELETE", new=None)]), "deleted")


def test_l4(judged: Judged) -> None:
    known = {"expected": EXPECTED, "sessions": SESSIONS}
    strangers = [row(A, None, nip=OTHER)]
    assert judged("L4", **known, rows=strangers, links=[link()], calls=[call(1)]).holds
    for crossing in (link(nip=OTHER), link(environment="demo")):
        says(judged("L4", **known, rows=strangers, links=[crossing]), "was written")
    says(judged("L4", **known, rows=strangers, calls=[call(1, nip=OTHER)]), "asked for as")
    says(judged("L4", **known, rows=[row(A, ONE)]), "no row")


def test_l5(judged: Judged) -> None:
    rows = [row(A, ONE), row("else", None)]
    answers = [{"reference": ONE, "final": True, "accepted": [A, B]}]

    def whole(rows: list[Row] = rows, answers: list[Row] = answers, **more: Any) -> Verdict:
        return judged(
            "L5", **{"expected": EXPECTED} | more, sessions=SESSIONS, rows=rows, answers=answers
        )

    assert whole().holds
    says(whole(rows=[row(A, None)]), "linked to , not")
    says(whole(answers=[]), "not KSeF's")
    for half in ({"final": False}, {"accepted": [A]}, {"accepted": None}):
        says(whole(answers=[answers[0] | half]), "not KSeF's")
    had_to_stay = [*EXPECTED[:2], EXPECTED[2] | {"stays": "earlier"}]
    assert whole(rows=[row(ORIGINAL, "earlier")], expected=had_to_stay).holds
    says(whole(rows=[row(ORIGINAL, TWO)], expected=had_to_stay), "not earlier")


def test_l6(judged: Judged) -> None:
    good = {"reference": ONE, "linked": 5, "unlinked": 0}
    assert judged("L6", looks=[good]).holds
    says(judged("L6", looks=[good, {"reference": ONE, "linked": 4, "unlinked": 1}]), "1 of 5")
    says(judged("L6", looks=[{"reference": ONE, "linked": 0, "unlinked": 0}]), "nobody looked")
    says(judged("L6"), "nobody looked")


def test_l7(judged: Judged) -> None:
    def told(*given: tuple[int, str]) -> list[Row]:
        return [
            {"at": at, "client": client, "reference": ONE, "checked_at": checked_at}
            for at, (client, checked_at) in enumerate(given)
        ]

    forth = told((1, "10:00:01"), (1, "10:00:02"), (2, "10:00:01"))
    assert judged("L7", stored=[stored(1)], told=forth).holds
    says(judged("L7", told=told((1, "10:00:02"), (1, "10:00:01"))), "was told an older")
    for change, word in (
        (stored(5, old_checked_at=4.9), "replaced a newer"),
        (stored(5, old_checked_at=1.0, old_final=True), "written again"),
        (stored(5, "DELETE"), "deleted"),
    ):
        says(judged("L7", stored=[change]), word)


def test_l8(judged: Judged) -> None:
    assert judged("L8", {"transactions": 100}).holds
    says(judged("L8", {"deadlocks": 2}), "2 deadlocks")


# -- the replicas


def test_r1_a_window_is_half_open(judged: Judged) -> None:
    ten = [call(number / 128) for number in range(10)]
    assert judged("R1", calls=[*ten, call(1.0)]).holds
    says(judged("R1", calls=[*ten, call(0.999)]), "11 calls of sessionMisc")


def test_r1_counts_companies_apart_and_in_any_order(judged: Judged) -> None:
    many = [call(at / 100, nip=nip) for at in range(10, 0, -1) for nip in (NIP, OTHER)]
    assert judged("R1", calls=many).holds
    says(judged("R1", calls=[one | {"nip": NIP} for one in many]), "20 calls")


def test_r1_in_shorter_windows(judged: Judged) -> None:
    minute = [call(number * 0.02) for number in range(121)]
    assert judged("R1", {"quota_scale": 0.04}, calls=minute).holds
    says(judged("R1", {"quota_scale": 0.05}, calls=minute), "a window of 60 s")


def test_r1_ksef_has_the_last_word(judged: Judged) -> None:
    says(judged("R1", calls=[call(1, status=429)]), "answered 429")
    assert judged("R1", calls=[call(1, status=429, fault="rate-limited")]).holds


def test_r1_counts_by_ksefs_limits() -> None:
    assert {group: structs.astuple(settings.LIMITS[group]) for group in LIMITS} == LIMITS
    assert WINDOWS == quota.WINDOWS
    assert set(GROUPS.values()) == set(LIMITS)


@pytest.fixture
def refused(judged: Judged) -> Judged:
    """R2 after a 429 at 10.0 s for two seconds, which is stored at 10.2 s."""
    group = {"nip": NIP, "quota_group": "sessionMisc"}
    reservations = [
        {"made_at": 9.0, "planned_at": 10.1, **group, "units": 1},
        {"made_at": 9.0, "planned_at": 11.5, **group, "units": 1},  # after the block: in vain
        {"made_at": 12.3, "planned_at": 12.4, **group, "units": 1},
    ]
    first = call(10.0, status=429, fault="rate-limited", retry_after=2.0)

    def refused(*after: Row, kills: tuple[float, ...] = (), **block: Any) -> Verdict:
        blocks = [{"at": 10.2, "until": 12.2} | group | block] if block != {"at": None} else []
        return judged(
            "R2",
            calls=[first, *after],
            blocks=blocks,
            reservations=reservations,
            kills=[{"at": at} for at in kills],
        )

    return refused


def test_r2(judged: Judged, refused: Judged) -> None:
    assert refused(call(12.5)).holds
    assert refused(call(10.3)).holds, "in flight"
    assert refused(call(11.5, nip=OTHER)).holds
    says(refused(call(10.3), call(10.4)), "1 in flight")
    says(refused(call(11.5)), "1 too late")
    says(judged("R2", calls=[call(1)]), "no 429")


def test_r2_a_429_that_blocks_nothing(refused: Judged) -> None:
    for block in ({"at": None}, {"until": 10.3}, {"nip": OTHER}):
        says(refused(**block), "blocked nothing")
    assert refused(at=None, kills=(10.15,)).holds, "nobody was left to tell"


def test_r3(judged: Judged) -> None:
    answers = [stored(10.2, asked_at=10.0), stored(11.3, asked_at=11.1)]
    assert judged("R3", calls=[call(10.05), call(11.15)], stored=answers).holds
    early = [call(10.05), call(10.7)]
    says(judged("R3", calls=early, stored=answers[:1]), "1 times while fresh")
    says(judged("R3", calls=[call(10.05), call(10.1)]), "twice at once")
    says(judged("R3", {"asked_again": 1}, calls=[call(10)]), "what is final")


def test_r3_never_after_the_final_answer(judged: Judged) -> None:
    last = [stored(10.2, asked_at=10.0, final=True)]
    assert judged("R3", calls=[call(10.05)], stored=last).holds
    says(judged("R3", calls=[call(10.05), call(99.0)], stored=last), "while fresh")
    upo = [call(20.0, UPO, subject=A)]
    assert judged("R3", calls=upo, archived=[{"ksef_number": A, "at": 20.1}]).holds
    says(judged("R3", calls=upo, archived=[{"ksef_number": A, "at": 19.0}]), "fetched again")


def test_r3_a_second_look_after_the_invoices_is_the_same_fetch(judged: Judged) -> None:
    first, second = (call(at, f"{FETCH}/invoices") for at in (10.1, 10.3))
    assert judged("R3", calls=[call(10.0), first, call(10.2)]).holds
    three = [call(10.0), first, call(10.2), second, call(10.4)]
    says(judged("R3", calls=three), "2 fetches")
    marked = [stored(10.15, "marked", asked_at=9.0)]
    says(judged("R3", calls=[call(10.0), first, call(10.2)], stored=marked), "2 fetches")


def test_r3_a_fetch_more_needs_a_kill_that_hit_one(judged: Judged) -> None:
    calls, kills = [call(10.0), call(10.5)], [{"at": 10.1}]
    says(judged("R3", calls=calls), "2 fetches")
    assert judged("R3", calls=calls, kills=kills).holds
    marked = [stored(10.05, "marked", asked_at=9.0)]
    says(judged("R3", calls=calls, kills=kills, stored=marked), "2 fetches")


def test_r4(judged: Judged) -> None:
    def renewed(
        *at: float, at_once: tuple[float, ...] = (), logins: int = 1, **more: Any
    ) -> Verdict:
        return judged(
            "R4",
            calls=[
                *(call(0.0, CHALLENGE, nip=None) for _ in range(logins)),
                *(call(moment, REFRESH) for moment in at),
            ],
            renewals=[{"at": moment, "nip": NIP} for moment in at_once],
            **more,
        )

    assert renewed(10, 20, at_once=(10.2, 20.2)).holds
    says(renewed(10, 10.1, at_once=(10.3,)), "two refreshes")
    assert renewed(10, 12, at_once=(12.3,), kills=[{"at": 10.1}]).holds
    stop = {"kind": "stop", "begun": 9.0, "ended": 10.5}
    assert renewed(10, 12, at_once=(12.3,), spans=[stop]).holds
    says(renewed(10, 12, at_once=(12.3,), spans=[stop | {"kind": "slow"}]), "two refreshes")
    assert "; 0 logins" in renewed(10, at_once=(10.2,), logins=0).seen
    says(renewed(10, at_once=(10.2,), logins=2), "2 logins")
    young, old = ([{"at": at, "nip": NIP}] for at in (10.3, 17.0))
    assert renewed(10, at_once=(10.2,), logins=2, tokens_ended=young).holds
    says(renewed(10, at_once=(10.2,), logins=2, tokens_ended=old), "2 logins")
    says(renewed(), "no refresh")


def test_r5(judged: Judged) -> None:
    def held(*samples: tuple[float, float]) -> Verdict:
        return judged(
            "R5",
            calls=[call(10.0, answered=10.8)],
            spans=[{"kind": "slow", "begun": 10.0, "ended": 11.0}],
            samples=[{"at": at, "idle": idle} for at, idle in samples],
        )

    assert held((10.5, 0.02), (20.0, 9.0)).holds
    says(held((10.5, 0.7)), "0.7 s")
    says(held((10.9, 0.0)), "no sample")


def test_r6(judged: Judged) -> None:
    one = {"made_at": 0.9, "planned_at": 1.0, "nip": NIP, "quota_group": "sessionMisc", "units": 1}
    stop = {"kind": "stop", "begun": 20.0, "ended": 23.0}

    def sent(*calls: Row, ledger: list[Row] = [one], spans: list[Row] = [stop]) -> Verdict:  # noqa: B006
        return judged("R6", calls=list(calls), reservations=ledger, spans=spans)

    assert sent(call(1.0)).holds
    says(sent(call(1.0), ledger=[]), "not set aside")
    says(sent(call(0.5)), "not set aside")
    back = one | {"made_at": 0.95, "units": -1}
    says(sent(call(1.0), ledger=[one, back]), "not set aside")
    assert sent(call(20.4, REFRESH)).holds, "sent before"
    says(sent(call(21.0, REFRESH)), "without a database")
    says(sent(spans=[]), "never down")


@pytest.fixture
def broke(judged: Judged) -> Judged:
    """R7 with a breaker that is open from 10 to 15 s."""

    def broke(
        *calls: Row,
        probes: tuple[float, ...] = (9.9, 11.0),
        told: tuple[Any, ...] = ((409, True),) * 3,
    ) -> Verdict:
        turns = [(10.0, probes[0]), *((at, at) for at in probes[1:])]
        return judged(
            "R7",
            calls=list(calls),
            breaker=[
                *({"at": at, "is_open": True, "probed_at": probed} for at, probed in turns),
                {"at": 15.0, "is_open": False, "probed_at": None},
            ],
            alike=[{"round": 1, "status": code, "established": known} for code, known in told],
        )

    return broke


def test_r7(broke: Judged) -> None:
    probe = call(11.1, PUBLIC_KEYS, nip=None)
    assert broke(probe, call(9.0), call(10.2), call(15.1)).holds
    says(broke(call(12.0)), "2 s after the breaker opened")
    says(broke(probes=(9.9, 10.5, 11.0)), "two probes within 0.5 s")
    says(broke(probe, probe, probe), "3 probes in 1 turns")
    says(broke(told=((409, True), (409, True), (502, False))), "replicas told")
    assert broke(told=((409, True), (503, None))).holds
    says(broke(told=()), "nobody asked")


def test_r7_latarnia_is_asked_in_turns(judged: Judged) -> None:
    changes = [
        {"at": 10.0, "is_open": True, "latarnia_asked_at": 5.0},
        {"at": 15.0, "is_open": False, "latarnia_asked_at": 5.5},
    ]
    alike = [{"round": 1, "status": 409}]
    says(judged("R7", breaker=changes, alike=alike), "two questions to Latarnia within 0.5 s")
    asked = [call(at, "/status", service="latarnia") for at in (5.0, 6.0, 7.0)]
    says(
        judged(
            "R7",
            breaker=[changes[0], changes[1] | {"latarnia_asked_at": 5.0}],
            alike=alike,
            calls=asked,
        ),
        "3 questions to Latarnia in 1 turns",
    )


# -- following


def event(number: int, kind: str = "session.final", **more: Any) -> Row:
    counts = {"total": 3, "successful": 2, "failed": 1}
    common = {"nip": NIP, "id": f"id {number}", "type": kind, "at": float(number), "reference": ONE}
    return common | {"number": number, **counts, "upos": None} | more


ARCHIVED = event(2, "upo.archived", total=None, successful=None, failed=None, upos=2)


def test_f1(judged: Judged) -> None:
    def kept(*upos: tuple[str, str]) -> Verdict:
        archived = [{"ksef_number": number, "session": session} for number, session in upos]
        return judged("F1", expected=EXPECTED, archived=archived)

    assert kept((A, ONE), (B, ONE)).holds
    assert kept(("", ONE)).holds
    says(kept((A, ONE)), "the UPO of B is missing")
    says(kept((A, ONE), (B, ONE), (ORIGINAL, TWO)), "nobody's")
    says(kept((A, ONE), ("", TWO)), "the UPO of B is missing")
    says(judged("F1"), "no accepted invoice")


def test_f2(judged: Judged) -> None:
    def told(*events: Row, successful: int = 2) -> Verdict:
        counts = {"ended": 0.5, "total": 3, "successful": successful}
        return judged("F2", sessions=[SESSIONS[0] | counts], events=list(events))

    assert told(event(1), ARCHIVED).holds
    assert told(event(1, successful=0, failed=3), successful=0).holds
    says(told(), "was told 0 times")
    says(told(event(1), ARCHIVED, event(3)), "was told 2 times")
    says(told(event(1, successful=3, failed=0), ARCHIVED), "wrong counts")
    says(told(event(1), ARCHIVED | {"upos": 1}), "wrong counts")
    says(told(event(1)), "UPOs of")
    says(told(event(1), ARCHIVED | {"number": 3}), "2 events of")
    says(judged("F2"), "no session")


def test_f3(judged: Judged) -> None:
    def read(*numbers: int) -> Verdict:
        places = [
            {"place": place, "nip": NIP, "id": f"id {number}"}
            for place, number in enumerate(numbers)
        ]
        return judged("F3", events=[event(1), event(2), event(3)], read=places)

    assert read(1, 2, 3).holds
    says(read(1, 3), "number 3 came after 1")
    says(read(1, 2, 2, 3), "number 2 came after 2")
    says(read(1, 3, 2), "number 2 came after 3")
    says(read(1, 2), "read up to 2 of 3")
    says(read(1, 2, 3, 4), "came after 3")
    says(read(), "nobody read")


def test_f4(judged: Judged) -> None:
    def came(*numbers: int, kills: int = 1) -> Verdict:
        posts = [
            {"webhook": 0, "place": place, "nip": NIP, "id": f"id {number}", "at": 9.0}
            for place, number in enumerate(numbers)
        ]
        killed = [{"at": 1.0}] * kills
        return judged("F4", events=[event(1), event(2)], received=posts, kills=killed)

    assert came(1, 2).holds
    assert came(1, 1, 2).holds
    says(came(1, 1, 2, kills=0), "1 posts came again, 0 processes were killed")
    says(came(2, 1), "number 2 came after 0")
    says(came(1, 2, 1), "number 1 came after 2")
    says(came(1), "never came to webhook 0")
    says(came(1, 2, 7), "came after 2")
    says(came(), "nothing came")


def test_f5(judged: Judged) -> None:
    def listed(*moments: float, nip: str = NIP) -> Verdict:
        return judged(
            "F5",
            {"quota_scale": 0.01},
            sessions=SESSIONS,
            spans=[{"kind": "idle", "begun": 100.0, "ended": 136.0}],
            calls=[call(at, "/sessions", nip=nip) for at in moments],
        )

    assert listed(99.9, *range(101, 125), 136.1).holds
    says(listed(*range(101, 126)), "25 lists of")
    says(listed(99.9), "nothing was listed")
    says(listed(101, nip=OTHER), "nothing was listed")


def test_f6(judged: Judged) -> None:
    def timed(beside: float, failed: int = 0) -> Verdict:
        rounds = ((True, beside), (False, 0.1), (True, beside), (False, 0.1), (True, 9.0))
        answered = [{"followed": yes, "p99": p99, "failed": failed} for yes, p99 in rounds]
        return judged("F6", answered=answered)

    assert timed(0.119).holds
    says(timed(0.122), "1.22 times as long")
    says(timed(0.1, failed=1), "were not good")
    says(judged("F6"), "nobody asked")


# -- the judge


def test_all_rules_are_judged() -> None:
    many = {"L": 8, "R": 7, "F": 6}
    assert list(RULES) == [f"{kind}{n + 1}" for kind in many for n in range(many[kind])]


def test_the_judge_shares_no_code_with_the_service() -> None:
    """It imports neither the service nor anything of this project that might."""
    tree = ast.parse(Path(verdicts.__file__).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported
    assert not imported & {"app", "bench", "sandbox", "tests"}
