"""The judge of `make chaos` can say no: of each rule, a log that keeps it and broken ones."""

from collections.abc import Sequence
from typing import Any

import pytest

from bench import verdicts
from bench.verdicts import (
    FETCH,
    PUBLIC_KEYS,
    REFRESH,
    UPO,
    Block,
    BreakerChange,
    Call,
    KeptChange,
    LinkChange,
    LinkLook,
    Renewal,
    Reservation,
    Sample,
    Session,
    Told,
    Verdict,
)

NIP, OTHER = "5265877635", "5261040828"
ONE, TWO = "20260915-SO-00000001A1-0000000001-01", "20260915-SB-00000002A2-0000000002-02"
A, B, ORIGINAL = "A", "B", "O"
SESSION = Session(NIP, "test", ONE, frozenset({A, B}), frozenset({ONE, "EE"}), {ORIGINAL: TWO})


def fetch(at: float, **more: Any) -> Call:
    return Call(at, "api", FETCH, NIP, ONE, ONE, answered=at + 0.1, **more)


def link(
    key: str = A, old: str | None = None, new: str | None = ONE, act: str = "UPDATE", **more: Any
) -> LinkChange:
    return LinkChange(1.0, act, "synced_invoices", NIP, "test", key, old, new)._replace(**more)


def kept(at: float, how: str = "put", **more: Any) -> KeptChange:
    return KeptChange(at, how, ONE, at - 0.2, at - 0.2, None, None, False)._replace(**more)


def says(verdict: Verdict, rule: str, word: str) -> None:
    """The rule is broken, for the reason meant."""
    assert verdict.rule == rule
    assert not verdict.holds
    assert word in str(verdict)


# -- the data


def test_l1() -> None:
    rows = [("kept_sessions", "(0,1)", "7")]
    assert verdicts.same_rows(rows, rows, [link()]).holds
    says(verdicts.same_rows(rows, [("kept_sessions", "(0,2)", "8")], []), "L1", "wrote rows")
    says(verdicts.same_rows(rows, rows, [link(old=ONE)]), "L1", "for nothing")


def test_l2() -> None:
    true = [link(), link(old="wrong"), link(ORIGINAL, new=TWO)]
    assert verdicts.links_are_true(true, [SESSION]).holds
    says(verdicts.links_are_true([link(new=TWO)], [SESSION]), "L2", f"KSeF says {ONE}")
    replaced = link(ORIGINAL, old=ONE, new=TWO)
    says(verdicts.links_are_true([replaced], [SESSION]), "L2", "a duplicate replaced")
    says(verdicts.links_are_true([link(ORIGINAL, new=ONE)], [SESSION]), "L2", "KSeF says")


def test_l3() -> None:
    assert verdicts.nothing_is_unlinked([link(), link(old="wrong")]).holds
    says(verdicts.nothing_is_unlinked([link(old=ONE, new=None)]), "L3", "unlinked")
    says(verdicts.nothing_is_unlinked([link(act="DELETE", new=None)]), "L3", "deleted")


def test_l4() -> None:
    assert verdicts.nothing_crosses([link()], 1, [fetch(1)], [SESSION]).holds
    for crossing in (link(nip=OTHER), link(environment="demo")):
        says(verdicts.nothing_crosses([crossing], 1, [], [SESSION]), "L4", "was written")
    stolen = fetch(1)._replace(nip=OTHER)
    says(verdicts.nothing_crosses([], 1, [stolen], [SESSION]), "L4", "asked for as")
    says(verdicts.nothing_crosses([], 0, [], [SESSION]), "L4", "no row")


def test_l5() -> None:
    rows = [
        ("synced_invoices", NIP, "test", A, ONE),
        ("synced_invoices", NIP, "test", "else", None),
    ]
    answers = {ONE: (True, frozenset({A, B}))}
    assert verdicts.all_is_whole(rows, answers, [SESSION], {}).holds
    unlinked = [("synced_invoices", NIP, "test", A, None)]
    says(verdicts.all_is_whole(unlinked, answers, [SESSION], {}), "L5", "linked to None")
    for half in ({}, {ONE: (False, frozenset({A, B}))}, {ONE: (True, frozenset({A}))}):
        says(verdicts.all_is_whole(rows, half, [SESSION], {}), "L5", "not KSeF's")
    had_to_stay = {("synced_invoices", NIP, "test", ORIGINAL): "earlier"}
    filled = [("synced_invoices", NIP, "test", ORIGINAL, TWO)]
    says(verdicts.all_is_whole(filled, answers, [SESSION], had_to_stay), "L5", "not earlier")


def test_l6() -> None:
    assert verdicts.linked_before_answered([LinkLook(1.0, ONE, 5, 0)]).holds
    looks = [LinkLook(1.0, ONE, 5, 0), LinkLook(2.0, ONE, 5, 1)]
    says(verdicts.linked_before_answered(looks), "L6", "1 of 5")
    says(verdicts.linked_before_answered([LinkLook(1.0, ONE, 0, 0)]), "L6", "nobody looked")


def test_l7() -> None:
    told = [Told(1, ONE, "10:00:01"), Told(1, ONE, "10:00:02"), Told(2, ONE, "10:00:01")]
    assert verdicts.answers_only_grow_newer([kept(1)], told).holds
    says(verdicts.answers_only_grow_newer([], told[1::-1]), "L7", "was told an older")
    for change, word in (
        (kept(5, old_checked_at=4.9), "replaced a newer"),
        (kept(5, old_checked_at=1.0, old_final=True), "written again"),
        (kept(5, "DELETE"), "deleted"),
    ):
        says(verdicts.answers_only_grow_newer([change], []), "L7", word)


def test_l8() -> None:
    assert verdicts.no_deadlock(0, 0, 100).holds
    says(verdicts.no_deadlock(1, 0, 100), "L8", "1 deadlocks")
    says(verdicts.no_deadlock(0, 2, 100), "L8", "2 deadlocks")


# -- the replicas


def test_r1_a_window_is_half_open() -> None:
    ten = [fetch(number / 100) for number in range(10)]
    assert verdicts.windows_hold([*ten, fetch(1.0)]).holds
    says(verdicts.windows_hold([*ten, fetch(0.999)]), "R1", "11 calls of sessionMisc")


def test_r1_counts_companies_apart_and_in_any_order() -> None:
    many = [fetch(at / 100)._replace(nip=nip) for at in range(10, 0, -1) for nip in (NIP, OTHER)]
    assert verdicts.windows_hold(many).holds
    says(verdicts.windows_hold([call._replace(nip=NIP) for call in many]), "R1", "20 calls")


def test_r1_in_shorter_windows() -> None:
    minute = [fetch(number * 0.02) for number in range(121)]
    assert verdicts.windows_hold(minute, 0.04).holds
    says(verdicts.windows_hold(minute, 0.05), "R1", "a window of 60 s")


def test_r1_ksef_has_the_last_word() -> None:
    says(verdicts.windows_hold([fetch(1, status=429)]), "R1", "answered 429")
    assert verdicts.windows_hold([fetch(1, status=429, fault="rate-limited")]).holds


def refused(
    *after: Call, blocks: Sequence[Block] = (Block(10.2, 12.2, NIP, "sessionMisc"),), **more: Any
) -> Verdict:
    reservations = [
        Reservation(9.0, 10.1, NIP, "sessionMisc", 1),
        Reservation(9.0, 11.5, NIP, "sessionMisc", 1),  # later than the block: in vain
        Reservation(12.3, 12.4, NIP, "sessionMisc", 1),
    ]
    first = fetch(10.0, status=429, fault="rate-limited", retry_after=2.0)
    kills = more.pop("kills", ())
    return verdicts.refusals_stop_all([first, *after], blocks, reservations, kills)


def test_r2() -> None:
    assert refused(fetch(12.5)).holds
    assert refused(fetch(10.3)).holds, "in flight"
    assert refused(fetch(11.5)._replace(nip=OTHER)).holds
    says(refused(fetch(10.3), fetch(10.4)), "R2", "1 in flight")
    says(refused(fetch(11.5)), "R2", "1 too late")


def test_r2_a_429_that_blocks_nothing() -> None:
    says(refused(blocks=[]), "R2", "blocked nothing")
    says(refused(blocks=[Block(10.2, 10.3, NIP, "sessionMisc")]), "R2", "blocked nothing")
    says(refused(blocks=[Block(10.2, 12.2, OTHER, "sessionMisc")]), "R2", "blocked nothing")
    assert refused(blocks=[], kills=[10.15]).holds, "nobody was left to tell"
    says(verdicts.refusals_stop_all([fetch(1)], [], [], []), "R2", "no 429")


def asked(
    *calls: Call,
    answers: Sequence[KeptChange] = (),
    kills: Sequence[float] = (),
    archived: dict[str, float] | None = None,
    again: int = 0,
) -> Verdict:
    return verdicts.asked_once(
        calls, answers, archived or {}, kills, asked_again=again, fresh=1.0, round_of=6.0
    )


def test_r3() -> None:
    answers = [kept(10.2, asked_at=10.0), kept(11.3, asked_at=11.1)]
    assert asked(fetch(10.05), fetch(11.15), answers=answers).holds
    says(asked(fetch(10.05), fetch(10.7), answers=answers[:1]), "R3", "1 times while fresh")
    says(asked(fetch(10.05), fetch(10.1)), "R3", "twice at once")
    says(asked(fetch(10), again=1), "R3", "what is final")


def test_r3_never_after_the_final_answer() -> None:
    last = [kept(10.2, asked_at=10.0, final=True)]
    assert asked(fetch(10.05), answers=last).holds
    says(asked(fetch(10.05), fetch(99.0), answers=last), "R3", "while fresh")
    upo = Call(20.0, "api", UPO, NIP, ONE, A)
    assert asked(upo, archived={A: 20.1}).holds
    says(asked(upo, archived={A: 19.0}), "R3", "fetched again")


def test_r3_a_second_look_after_the_invoices_is_the_same_fetch() -> None:
    listed = [Call(at, "api", f"{FETCH}/invoices", NIP, ONE) for at in (10.1, 10.3)]
    assert asked(fetch(10.0), listed[0], fetch(10.2)).holds
    says(asked(fetch(10.0), *listed, fetch(10.2), fetch(10.4)), "R3", "2 fetches")
    stored = [kept(10.15, "marked", asked_at=9.0)]
    says(asked(fetch(10.0), listed[0], fetch(10.2), answers=stored), "R3", "2 fetches")


def test_r3_a_fetch_more_needs_a_kill_that_hit_one() -> None:
    calls = [fetch(10.0), fetch(10.5)]
    says(asked(*calls), "R3", "2 fetches")
    assert asked(*calls, kills=[10.1]).holds
    stored = [kept(10.05, "marked", asked_at=9.0)]
    says(asked(*calls, kills=[10.1], answers=stored), "R3", "2 fetches")


def renewed(*refreshes: float, stored: Sequence[float] = (), **more: Any) -> Verdict:
    calls = [Call(at, "api", REFRESH, NIP) for at in refreshes]
    renewals = [Renewal(at, NIP) for at in stored]
    logins = [Call(0.0, "api", verdicts.CHALLENGE)] * more.get("logins", 1)
    kills, stops = more.get("kills", ()), more.get("stops", ())
    return verdicts.renewed_once(
        [*logins, *calls],
        renewals,
        kills,
        stops,
        companies=1,
        ended=more.get("ended", ()),
        request=6.0,
    )


def test_r4() -> None:
    assert renewed(10, 20, stored=[10.2, 20.2]).holds
    says(renewed(10, 10.1, stored=[10.3]), "R4", "two refreshes")
    assert renewed(10, 12, stored=[12.3], kills=[10.1]).holds
    assert renewed(10, 12, stored=[12.3], stops=[(9.0, 10.5)]).holds
    says(renewed(10, stored=[10.2], logins=2), "R4", "2 logins")
    assert renewed(10, stored=[10.2], logins=2, ended=[(10.3, NIP)]).holds, "a new token ended"
    says(renewed(10, stored=[10.2], logins=2, ended=[(17.0, NIP)]), "R4", "2 logins")
    says(renewed(), "R4", "no refresh")


def test_r5() -> None:
    calls = [fetch(10.0)._replace(answered=10.8)]
    spans = [(10.0, 11.0)]

    def judged(*samples: Sample) -> Verdict:
        return verdicts.no_transaction_meanwhile(samples, calls, spans, longest=0.6)

    assert judged(Sample(10.5, 4, 0.02), Sample(20.0, 4, 9.0)).holds
    says(judged(Sample(10.5, 4, 0.7)), "R5", "0.70 s")
    says(judged(Sample(10.9, 4, 0.0)), "R5", "no sample")


def test_r6() -> None:
    ledger = [Reservation(0.9, 1.0, NIP, "sessionMisc", 1)]
    stops = [(20.0, 23.0)]
    assert verdicts.no_call_without_ledger([fetch(1.0)], ledger, stops).holds
    says(verdicts.no_call_without_ledger([fetch(1.0)], [], stops), "R6", "not set aside")
    says(verdicts.no_call_without_ledger([fetch(0.5)], ledger, stops), "R6", "not set aside")
    back = [*ledger, Reservation(0.95, 1.0, NIP, "sessionMisc", -1)]
    says(verdicts.no_call_without_ledger([fetch(1.0)], back, stops), "R6", "not set aside")
    lost = Call(21.0, "api", REFRESH, NIP)
    says(verdicts.no_call_without_ledger([lost], ledger, stops), "R6", "without a database")
    says(verdicts.no_call_without_ledger([], ledger, []), "R6", "never down")


def broke(
    *calls: Call, probes: Sequence[float] = (9.9, 11.0), told: Sequence[Any] = ((409, True),) * 3
) -> Verdict:
    changes = [BreakerChange(at, True, at) for at in probes if at > 10]
    changes = [BreakerChange(10.0, True, probes[0]), *changes, BreakerChange(15.0, False)]
    return verdicts.breaker_is_shared(calls, changes, [told], probe_every=1.0, latarnia_every=1.0)


def test_r7() -> None:
    probe = Call(11.1, "api", PUBLIC_KEYS)
    assert broke(probe, fetch(9.0), fetch(10.2), fetch(15.1)).holds
    says(broke(fetch(12.0)), "R7", "2.00 s after the breaker opened")
    says(broke(probes=(9.9, 10.5, 11.0)), "R7", "two probes within 0.50 s")
    says(broke(probe, probe, probe), "R7", "3 probes in 1 turns")
    says(broke(told=[(409, True), (409, True), (502, False)]), "R7", "replicas told")


def test_r7_latarnia_is_asked_in_turns() -> None:
    changes = [BreakerChange(10.0, True, 9.9, 5.0), BreakerChange(15.0, False, None, 5.4)]
    told = [[(409, True)] * 3]
    verdict = verdicts.breaker_is_shared([], changes, told, probe_every=1.0, latarnia_every=1.0)
    says(verdict, "R7", "two questions to Latarnia within 0.40 s")


@pytest.mark.parametrize(("window", "most"), [(0.5, 1), (1.0, 1), (1.01, 2), (2.5, 3), (10.0, 4)])
def test_the_most_within_a_window(window: float, most: int) -> None:
    assert verdicts.most_within([0.0, 1.0, 2.0, 3.0], window) == most
