"""A kept answer is given for as long as it holds, and KSeF is asked as seldom as can be."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from app import clock, errors
from app.ksef import limits, wire
from app.ksef.wire import Invoice, Session
from app.services.login import session as login
from app.services.operators import quotas
from app.services.replicas import quota
from app.services.replicas.leases import try_lease
from app.services.sessions.check import check_session
from app.services.upo.fetch import fetch_session_upo, fetch_upo
from tests.rows import add_synced, synced_sessions
from tests.services.conftest import INVOICE, LISTING, STATUS, Asking

MOVING = {"status": 150}


@pytest.fixture
def settings(settings: Any) -> Any:
    """Answers are fresh for ten seconds; a listing is repeated after a minute."""
    timing = replace(
        settings.timing,
        fresh_least=10.0,
        fresh_most=10.0,
        relist=60.0,
        single_flight_wait=5.0,
        quota_scale=1.0,
        quota_jitter=0.25,
        quota_patience=1.5,
    )
    return replace(settings, timing=timing, web_threads=32)


# -- final answers --------------------------------------------------------------------------


def test_final_answer_is_never_asked_for_again(asking: Asking, database: Any) -> None:
    session = asking.seed(invoices=[{}, {"status": 450}, {"status": 440}])
    first = asking.check(session)
    assert first.final
    assert asking.counts() == {STATUS: 1, LISTING: 1}

    asking.age(86400 * 365)
    login.log_out(asking.account)
    asking.control.remove_session("test", session.reference_number)
    asking.counts()
    add_synced(database, asking.account, session.ksef_numbers)

    again = asking.check(session)

    assert asking.counts() == {}
    read = {"age": 0, "asked_ago": 0, "unchanged_for": 0, "listed_for": None, "wanted_ago": 0}
    assert replace(again, **read) == replace(
        first,
        checked_at=again.checked_at,
        asked_at=again.asked_at,
        invoices=wire.decode(list[Invoice], wire.to_json(first.invoices)),
        session=wire.decode(Session, wire.to_json(first.session)),
    )
    assert synced_sessions(database, asking.account) == {
        session.ksef_numbers[0]: session.reference_number
    }


@pytest.mark.parametrize("code", [405, 415, 445])
def test_failed_session_is_final(asking: Asking, code: int) -> None:
    session = asking.seed(kind="batch", state="failed", code=code)
    assert asking.check(session).final
    asking.counts()
    asking.age(3600)
    assert asking.check(session).session.status.code == code
    assert asking.counts() == {}


def test_unknown_error_is_asked_after_for_a_day(asking: Asking) -> None:
    """KSeF's 500 has been seen to end well."""
    session = asking.seed(kind="batch", state="failed", code=500)
    assert not asking.check(session).final
    asking.counts()
    for hours in range(1, 24):
        asking.age(3600)
        answer = asking.check(session)
        assert (answer.final, answer.session.status.code) == (False, 500), hours
        assert asking.counts() == {STATUS: 1}
    asking.age(3601)
    assert asking.check(session).final
    asking.age(3600)
    assert asking.check(session).final
    assert asking.counts() == {}


def test_unknown_error_that_ends_well_is_listed_and_linked(asking: Asking) -> None:
    session = asking.seed(kind="batch", invoices=2)
    add_synced(asking.database, asking.account, session.ksef_numbers)
    answer_once(asking, "status.code", 500)
    answer_once(asking, "status.code", 500)
    assert not asking.check(session).final
    asking.control.clear_faults()
    asking.age(3600)
    answer = asking.check(session)
    assert (answer.final, answer.session.status.code) == (True, 200)
    assert set(synced_sessions(asking.database, asking.account).values()) == {
        session.reference_number
    }


def test_unknown_error_that_version_0_1_0_kept_as_final_may_end_well(asking: Asking) -> None:
    """It marked every 500 as final. The good end is stored all the same, and asked for once."""
    session = asking.seed(kind="batch", invoices=2)
    answer_once(asking, "status.code", 500)
    answer_once(asking, "status.code", 500)
    assert asking.check(session).session.status.code == 500
    asking.database.execute("UPDATE kept_sessions SET final = true")
    asking.control.clear_faults()
    asking.age(3600)
    assert asking.check(session).session.status.code == 200
    asking.counts()
    asking.age(86400 * 2)
    answer = asking.check(session)
    assert (answer.final, answer.session.status.code) == (True, 200)
    assert asking.counts() == {}


def test_unknown_error_that_version_0_1_0_kept_as_final_is_not_asked_after_by_every_check(
    asking: Asking,
) -> None:
    session = asking.seed(kind="batch", state="failed", code=500)
    asking.check(session)
    asking.database.execute("UPDATE kept_sessions SET final = true")
    asking.age(3600)
    asking.counts()
    for _ in range(3):
        assert asking.check(session).session.status.code == 500
    assert asking.counts() == {STATUS: 1}


def forget(asking: Asking, path: str, times: int | None = None) -> None:
    """KSeF says that it knows no such session."""
    asking.control.fault("ksef-error", path=path, code=21173, times=times)


@pytest.mark.fault(35)
@pytest.mark.parametrize("path", ["/sessions/[^/]+$", "/sessions/[^/]+/invoices$"])
def test_a_session_that_was_shown_is_not_unknown(asking: Asking, path: str) -> None:
    """It is given as it was, and KSeF is asked again in a while."""
    session = asking.seed(state="moving", invoices=[{}])
    before = asking.check(session)
    asking.control.add_invoices("test", session.reference_number, 1)
    asking.age(100)
    forget(asking, path)
    answer = asking.check(session)
    assert [i.reference_number for i in answer.invoices] == [
        i.reference_number for i in before.invoices
    ]
    assert answer.age >= 100
    assert answer.next_check_after
    asking.counts()
    asking.check(session)
    assert asking.counts() == {}
    asking.control.clear_faults()
    asking.age(100)
    assert len(asking.check(session).invoices) == 2


@pytest.mark.fault(35)
def test_a_session_whose_list_is_unknown_is_a_502(asking: Asking) -> None:
    session = asking.seed(invoices=2)
    forget(asking, "/sessions/[^/]+/invoices$")
    for _ in range(2):
        with pytest.raises(errors.SessionLost) as lost:
            asking.check(session)
        assert lost.value.retry_after
        assert lost.value.ksef.code == 21173
    asking.control.clear_faults()
    assert asking.check(session).final


@pytest.mark.fault(35)
@pytest.mark.parametrize("whole", [False, True], ids=["of an invoice", "of the session"])
def test_a_upo_of_a_session_that_was_shown_is_a_502(asking: Asking, whole: bool) -> None:
    session = asking.seed(state="moving", invoices=[{}])
    unknown = asking.seed(invoices=1)
    asking.check(session)

    def ask(of: Any) -> None:
        if whole:
            fetch_session_upo(asking.account, of.reference_number, "xml")
        else:
            fetch_upo(asking.account, of.reference_number, NUMBER, "xml")

    forget(asking, "/sessions/")
    for _ in range(2):
        with pytest.raises(errors.SessionLost) as lost:
            ask(session)
        assert lost.value.retry_after
    with pytest.raises(errors.SessionNotFound):
        ask(unknown)


@pytest.mark.fault(35)
@pytest.mark.parametrize(
    ("days", "may_come"), [(0, True), (-1, True), (-2, False), (-400, False), (30, False)]
)
def test_an_unknown_session_of_today_may_still_come(
    asking: Asking, days: int, may_come: bool
) -> None:
    today = datetime.now(ZoneInfo("Europe/Warsaw")).date() + timedelta(days=days)
    reference = f"{today:%Y%m%d}-SO-0123456789-ABCDEF0123-4F"
    for _ in range(2):  # KSeF's answer, then the remembered one
        with pytest.raises(errors.SessionNotFound) as unknown:
            check_session(asking.account, reference)
        assert (unknown.value.retry_after is not None) is may_come


@pytest.mark.fault(35)
def test_an_unknown_session_with_an_impossible_date_will_not_come(asking: Asking) -> None:
    with pytest.raises(errors.SessionNotFound) as unknown:
        check_session(asking.account, "20261399-SO-0123456789-ABCDEF0123-4F")
    assert unknown.value.retry_after is None


NUMBER = "5265877635-20250826-0100001AF629-AF"


def answer_once(asking: Asking, field: str, value: Any) -> None:
    """KSeF's next status of a session (of several: in this order) has another value in a field."""
    asking.control.fault("set-field", path="/sessions/[^/]+$", field=field, value=value)


def use_up(asking: Asking, group: str, calls: int) -> None:
    """So many calls of a group half an hour ago."""
    asking.database.execute(
        "INSERT INTO quota_calls (company_nip, environment, quota_group, reserved_at)"
        f" SELECT '{asking.account.company_nip}', 'test', '{group}',"
        f" now() - interval '30 minutes' FROM generate_series(1, {calls})"
    )


# -- moving answers -------------------------------------------------------------------------


def test_moving_answer_is_given_from_the_store_until_its_window_passes(asking: Asking) -> None:
    session = asking.seed(state="moving", invoices=[MOVING])
    assert asking.check(session).next_check_after == 10
    asking.counts()

    asking.age(6)
    kept = asking.check(session)
    assert asking.counts() == {}
    assert 6 <= kept.age < 9
    assert kept.next_check_after in (3, 4)

    asking.age(4.1)
    assert asking.check(session).age == 0
    assert asking.counts() == {STATUS: 1, INVOICE: 1}


def test_window_grows_while_nothing_changes_and_as_quota_is_used(
    asking: Asking, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    timing = replace(asking.service.timing, fresh_least=2.0, fresh_most=30.0)
    monkeypatch.setattr(asking.service, "timing", timing)
    session = asking.seed(state="moving", invoices=[{}])
    asking.check(session)
    database.execute(
        "UPDATE kept_sessions SET changed_at = changed_at - interval '80 seconds',"
        " asked_at = asked_at - interval '10 seconds'"
    )
    assert asking.check(session).next_check_after in (10, 11)  # a quarter of 80, 10 have passed
    asking.counts()

    use_up(asking, "sessionMisc", 809)
    assert asking.check(session).next_check_after in range(68, 74)  # three quarters used: times 4
    assert asking.counts() == {}


def test_an_answer_is_fresh_from_when_ksef_was_asked_not_from_when_the_call_began_to_wait(
    asking: Asking,
) -> None:
    session = asking.seed(state="moving")
    quota.reserve(replace(asking.account, patience=0.1), limits.SESSION, 9)  # a full second
    full = clock.now()

    checked_at = asking.check(session).checked_at

    assert (checked_at - full).total_seconds() > 1.0


def test_a_session_is_listed_once_and_what_moves_asked_after_singly(asking: Asking) -> None:
    session = asking.seed(state="moving", invoices=[{}, MOVING, MOVING])
    asking.check(session)
    assert asking.counts() == {STATUS: 1, LISTING: 1}

    asking.control.change_invoice("test", session.reference_number, 2, status=200)
    asking.age(11)
    snapshot = asking.check(session)
    assert asking.counts() == {STATUS: 1, INVOICE: 2}
    assert [i.status.code for i in snapshot.invoices] == [200, 200, 150]

    asking.control.change_session("test", session.reference_number, state="finished")
    asking.age(11)
    assert asking.check(session).final
    assert asking.counts() == {STATUS: 1, INVOICE: 1}


def test_twenty_are_asked_after_singly_and_more_are_listed_once_a_minute(asking: Asking) -> None:
    few = asking.seed(state="moving", invoices=[MOVING] * 20)
    many = asking.seed(state="moving", invoices=[MOVING] * 21)
    asking.check(few)
    first = asking.check(many)
    asking.counts()

    asking.age(11)
    asking.check(few)
    assert asking.counts() == {STATUS: 1, INVOICE: 20}
    asking.control.change_invoice("test", many.reference_number, 1, status=200)
    older = asking.check(many)
    assert asking.counts() == {STATUS: 1}
    assert (older.checked_at, older.session) != (None, None)
    assert older.session.successful_invoice_count == 0, "counts and list are of one moment"
    assert older.age >= 11
    assert asking.check(many).age >= 11
    assert asking.counts() == {}, "asked in vain: not again before the window has passed"

    asking.age(50)
    newer = asking.check(many)
    assert asking.counts() == {STATUS: 1, LISTING: 1}
    assert newer.checked_at > first.checked_at
    assert newer.session.successful_invoice_count == 1


def test_a_session_that_grew_is_listed_at_once(asking: Asking) -> None:
    session = asking.seed(state="open", invoices=[MOVING] * 21)
    asking.check(session)
    asking.control.add_invoices("test", session.reference_number, 1)
    asking.counts()
    asking.age(11)
    assert len(asking.check(session).invoices) == 22
    assert asking.counts() == {STATUS: 1, LISTING: 1}


def test_a_session_that_grows_while_lists_are_few_waits_for_them(asking: Asking) -> None:
    session = asking.seed(state="open", invoices=1)
    asking.check(session)
    use_up(asking, "sessionInvoiceList", 90)  # half of our 180 an hour
    asking.control.add_invoices("test", session.reference_number, 1)
    asking.counts()

    asking.age(11)
    earlier = asking.check(session)
    assert (earlier.session.invoice_count, len(earlier.invoices)) == (1, 1)
    assert asking.counts() == {STATUS: 1}

    asking.age(60)
    assert len(asking.check(session).invoices) == 2
    assert asking.counts() == {STATUS: 1, LISTING: 1}


def test_the_more_pages_a_list_has_the_more_seldom_it_is_asked_for(asking: Asking) -> None:
    session = asking.seed(kind="batch", state="moving", invoices=[MOVING] * 2001)
    asking.check(session)
    asking.counts()
    asking.age(61)
    asking.check(session)
    assert asking.counts() == {STATUS: 1, LISTING: 3}, "at first each minute, as any session"

    use_up(asking, "sessionInvoiceList", 84)  # with those six half of our 180 an hour
    asking.age(170)
    asking.check(session)
    assert asking.counts() == {STATUS: 1}
    asking.age(11)
    asking.check(session)
    assert asking.counts() == {STATUS: 1, LISTING: 3}


def test_counts_that_lag_behind_the_invoices_catch_up(asking: Asking) -> None:
    session = asking.seed(state="moving", invoices=[{}, MOVING])
    asking.check(session)
    asking.control.change_invoice("test", session.reference_number, 2, status=200)
    answer_once(asking, "successfulInvoiceCount", 1)
    asking.age(11)
    asking.counts()

    snapshot = asking.check(session)

    assert asking.counts() == {STATUS: 2, INVOICE: 1}
    assert (snapshot.session.successful_invoice_count, snapshot.accepted) == (2, 2)


def test_of_invoices_that_come_in_all_the_time_those_that_were_counted_are_told(
    asking: Asking,
) -> None:
    session = asking.seed(state="open", invoices=3)
    answer_once(asking, "invoiceCount", 2)
    answer_once(asking, "invoiceCount", 4)

    snapshot = asking.check(session)

    assert asking.counts() == {STATUS: 2, LISTING: 1}
    assert snapshot.session.invoice_count == 2
    assert [invoice.ordinal_number for invoice in snapshot.invoices] == [1, 2]


def test_a_list_behind_the_counts_leaves_the_earlier_answer_whole(asking: Asking) -> None:
    session = asking.seed(state="open", invoices=1)
    asking.check(session)
    asking.control.add_invoices("test", session.reference_number, 1)
    asking.control.fault("shorter-list", path="/invoices$")
    asking.counts()
    asking.age(11)

    earlier = asking.check(session)

    assert asking.counts() == {STATUS: 2, LISTING: 1}
    assert (earlier.session.invoice_count, len(earlier.invoices)) == (1, 1)
    assert earlier.age >= 11
    asking.age(11)
    assert len(asking.check(session).invoices) == 2


def test_counts_that_ksef_leaves_out_do_not_take_invoices_away(asking: Asking) -> None:
    session = asking.seed(state="open", invoices=2)
    asking.check(session)
    answer_once(asking, "invoiceCount", None)
    asking.age(11)
    assert len(asking.check(session).invoices) == 2


def test_an_empty_session_is_not_listed(asking: Asking) -> None:
    session = asking.seed(state="open", invoices=0)
    assert asking.check(session).invoices == []
    assert asking.counts() == {STATUS: 1}
    asking.control.add_invoices("test", session.reference_number, 1)
    asking.age(11)
    assert len(asking.check(session).invoices) == 1
    assert asking.counts() == {STATUS: 1, LISTING: 1}


def test_final_code_and_a_list_that_does_not_fit_is_listed_once_more(asking: Asking) -> None:
    session = asking.seed(invoices=3)
    asking.control.fault("shorter-list", path="/invoices$", times=None)

    snapshot = asking.check(session)
    assert (snapshot.final, len(snapshot.invoices)) == (False, 2)
    assert asking.counts() == {STATUS: 1, LISTING: 2}

    asking.age(11)
    kept = asking.check(session)
    assert (kept.final, kept.next_check_after) == (False, 49)
    assert asking.counts() == {}, "lists are dear: at most one a minute"

    asking.control.clear_faults()
    asking.age(60)
    assert asking.check(session).final
    assert asking.counts() == {STATUS: 1, LISTING: 1}


def test_a_session_that_ends_while_it_is_listed_is_listed_once_more(asking: Asking) -> None:
    session = asking.seed(invoices=3)
    answer_once(asking, "status", {"code": 150, "description": "…"})
    asking.control.fault("shorter-list", path="/invoices$")

    assert asking.check(session).final
    assert asking.counts() == {STATUS: 2, LISTING: 2}


def test_a_finished_session_that_never_fits_is_asked_after_ever_more_seldom(
    asking: Asking,
) -> None:
    session = asking.seed(invoices=3)
    asking.control.fault("shorter-list", path="/invoices$", times=None)
    asking.check(session)
    asking.age(1200)
    asking.check(session)
    asking.counts()

    asking.age(200)
    assert asking.check(session).next_check_after in range(145, 156)  # a quarter of 1400 s
    assert asking.counts() == {}
    asking.age(210)
    assert not asking.check(session).final
    assert asking.counts() == {STATUS: 1, LISTING: 1}

    asking.age(86400)
    asking.check(session)
    asking.counts()
    asking.age(3500)
    asking.check(session)
    assert asking.counts() == {}, "but once an hour"
    asking.age(110)
    asking.check(session)
    assert asking.counts() == {STATUS: 1, LISTING: 1}


def test_many_that_moved_when_the_session_ended_are_listed_at_once(asking: Asking) -> None:
    session = asking.seed(state="moving", invoices=[MOVING] * 30)
    asking.check(session)
    asking.control.change_session("test", session.reference_number, state="finished")
    asking.counts()
    asking.age(11)
    assert asking.check(session).final
    assert asking.counts() == {STATUS: 1, LISTING: 1}


# -- quota ----------------------------------------------------------------------------------


def test_429_gives_the_earlier_answer_and_blocks_the_group_for_all(asking: Asking) -> None:
    session, other = (asking.seed(state="moving", invoices=1) for _ in range(2))
    earlier = asking.check(session)
    asking.control.fault("rate-limited", retryAfter=2680)
    asking.counts()
    asking.age(11)

    given = asking.check(session)

    assert given.checked_at < earlier.checked_at
    assert given.next_check_after == 2680
    assert asking.counts() == {STATUS: 1}
    for _ in range(3):
        assert 2670 <= (asking.check(session).next_check_after or 0) <= 2680
        with pytest.raises(errors.KsefRateLimited) as refused:
            asking.check(other)
        assert 2670 <= (refused.value.retry_after or 0) <= 2680
    assert asking.counts() == {}, "nothing is sent while KSeF blocks"


def test_429_in_the_middle_of_a_listing_leaves_no_half_list(asking: Asking) -> None:
    session = asking.seed(kind="batch", state="moving", invoices=2500)
    asking.control.fault("rate-limited", path="/invoices$", skip=1, retryAfter=120)

    with pytest.raises(errors.KsefRateLimited) as refused:
        asking.check(session)

    assert refused.value.retry_after == 120
    assert asking.counts() == {STATUS: 1, LISTING: 2}
    assert asking.database.execute("SELECT count(*) FROM kept_invoices") == [(0,)]
    with pytest.raises(errors.KsefRateLimited):
        asking.check(session)
    assert asking.counts() == {}, "a cold question is not begun where its list must wait"
    quotas.clear(asking.account)
    assert len(asking.check(session).invoices) == 2500


def test_pages_that_were_not_sent_cost_nothing(asking: Asking) -> None:
    session = asking.seed(kind="batch", state="moving", invoices=2500)
    asking.control.fault("ksef-error", path="/invoices$", code=21001, times=3)
    for _ in range(3):
        with pytest.raises(errors.KsefError):
            asking.check(session)
    assert asking.counts() == {STATUS: 3, LISTING: 3}
    assert asking.database.execute(
        "SELECT (SELECT count(*) FROM quota_calls WHERE quota_group = 'sessionInvoiceList'),"
        " (SELECT count(*) FROM address_calls) - (SELECT count(*) FROM quota_calls)"
    ) == [(3, 0)]


def test_429_of_the_list_keeps_session_and_list_of_one_moment(asking: Asking) -> None:
    session = asking.seed(state="open", invoices=1)
    asking.check(session)
    asking.control.add_invoices("test", session.reference_number, 1)
    asking.control.fault("rate-limited", path="/invoices$", retryAfter=100)
    asking.counts()
    asking.age(11)

    given = asking.check(session)

    assert (given.session.invoice_count, len(given.invoices)) == (1, 1)
    assert given.next_check_after == 100
    assert asking.counts() == {STATUS: 1, LISTING: 1}
    assert len(asking.check(session).invoices) == 1
    assert asking.counts() == {}, "asked in vain: not again before the window has passed"


def test_a_call_set_aside_before_a_429_is_not_sent_after_it(asking: Asking) -> None:
    """Its turn comes a second later; another replica meets a 429 meanwhile."""
    quota.reserve(replace(asking.account, patience=0), limits.SESSION, 9)
    session = asking.seed(state="moving", invoices=0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(asking.check, session)
        deadline = clock.monotonic() + 5
        while clock.monotonic() < deadline:
            [(count,)] = asking.database.execute("SELECT count(*) FROM quota_calls")
            if count > 10:  # with the reading of the limits
                break
        asking.account.calls.block(limits.SESSION, 50)
        with pytest.raises(errors.KsefRateLimited):
            waiting.result()
    assert asking.counts() == {}


def test_no_ledger_no_call(asking: Asking, database: Any) -> None:
    session = asking.seed()
    database.execute("ALTER TABLE quota_calls RENAME TO away")
    try:
        with pytest.raises(errors.Unavailable):
            asking.check(session)
    finally:
        database.execute("ALTER TABLE away RENAME TO quota_calls")
    assert asking.counts() == {}


# -- single flight --------------------------------------------------------------------------


def together(asking: Asking, session: Any, callers: int) -> list[Any]:
    """What each of some callers at the same moment got: a snapshot or an error."""
    ready = threading.Barrier(callers)

    def ask() -> Any:
        ready.wait(10)
        try:
            return asking.check(session)
        except errors.ProxyError as error:
            return error

    with ThreadPoolExecutor(callers) as pool:
        return [asked.result() for asked in [pool.submit(ask) for _ in range(callers)]]


def test_cold_question_of_many_is_one_fetch(asking: Asking) -> None:
    session = asking.seed(state="moving", invoices=2)
    asking.control.fault("delay", path="/sessions/[^/]+$", seconds=0.5)

    answers = together(asking, session, 12)

    assert {len(answer.invoices) for answer in answers} == {2}
    assert len({answer.checked_at for answer in answers}) == 1
    assert asking.counts() == {STATUS: 1, LISTING: 1}


def test_who_comes_while_another_asks_gets_the_earlier_answer_at_once(asking: Asking) -> None:
    session = asking.seed(state="moving", invoices=1)
    earlier = asking.check(session)
    asking.age(11)
    asking.counts()
    with try_lease(asking.account, f"session {session.reference_number}") as mine:
        assert mine
        began = clock.monotonic()
        answers = together(asking, session, 8)
        assert clock.monotonic() - began < 2
    assert {answer.checked_at < earlier.checked_at for answer in answers} == {True}
    assert asking.counts() == {}


def test_who_waits_for_another_one_waits_for_so_long_only(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = asking.seed()
    with try_lease(asking.account, f"session {session.reference_number}"):
        timing = replace(asking.service.timing, single_flight_wait=0.5)
        monkeypatch.setattr(asking.service, "timing", timing)
        with pytest.raises(errors.Unavailable, match="still busy with the same question"):
            asking.check(session)
    assert asking.counts() == {}


def test_without_a_place_the_earlier_answer_is_given_or_a_refusal(asking: Asking) -> None:
    """At once, and KSeF is not asked; places are given back."""
    known, new = asking.seed(state="moving", invoices=1), asking.seed()
    earlier = asking.check(known)
    asking.age(11)
    asking.counts()
    with ExitStack() as taken:
        with suppress(errors.Busy):
            while True:
                taken.enter_context(asking.account.places.one("5265877635"))
        assert asking.check(known).session == earlier.session
        with pytest.raises(errors.Busy, match="Too many") as refused:
            asking.check(new)
        assert refused.value.retry_after == asking.service.timing.retry_after
        assert asking.counts() == {}
    assert asking.check(new).final


def test_a_lease_whose_holder_died_is_taken_over(asking: Asking, database: Any) -> None:
    session = asking.seed()
    database.execute(
        "INSERT INTO leases (name, holder, expires_at)"
        f" VALUES ('session {session.reference_number} test 5265877635', gen_random_uuid(),"
        " now() + interval '300 ms')"
    )
    assert asking.check(session).final


def test_no_connection_is_held_while_ksef_is_asked(asking: Asking, database: Any) -> None:
    session = asking.seed(state="moving", invoices=1)
    asking.control.fault("delay", path="/sessions/[^/]+$", seconds=1)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(asking.check, session)
        deadline = clock.monotonic() + 5
        while asking.control.waiting_faults() and clock.monotonic() < deadline:
            pass
        open_ones = database.execute(
            "SELECT state, query FROM pg_stat_activity"
            " WHERE application_name = 'ksef-proxy' AND state <> 'idle'"
            " AND datname = current_database()"
        )
        assert not asked.done()
        asked.result()
    assert open_ones == []
