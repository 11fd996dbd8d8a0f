"""What version 0.1.0 kept is completed, once, as far as KSeF can be asked at leisure."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.ksef import limits
from app.services.login import session as login
from app.services.replicas.leases import try_lease
from app.services.sessions import store
from app.services.sessions.complete import completed
from app.services.sessions.snapshot import Snapshot
from tests.rows import add_offline, add_synced, stored
from tests.services.conftest import LISTING, NIP, STATUS, Asking

INVOICES = [{}, {"status": 450, "details": ["P_2"]}, {"status": 440, "offline": True}]
PAUSE = 61


@pytest.fixture
def settings(settings: Any) -> Any:
    timing = replace(settings.timing, quota_scale=1.0, completed_pause=60.0)
    return replace(settings, timing=timing)


def of_0_1_0(asking: Asking, **order: Any) -> Any:
    """A session whose answer was kept by version 0.1.0 an hour ago."""
    session = asking.seed(**{"kind": "batch", "invoices": INVOICES, **order})
    asking.check(session)
    asking.database.execute(
        "UPDATE kept_invoices SET more = NULL, link = NULL;"
        " UPDATE kept_sessions SET links = NULL, session ="
        " (session - 'validUntil') || '{\"upo\": {\"pages\": []}}'"
    )
    asking.age(3600)
    asking.database.execute("DELETE FROM quota_calls; DELETE FROM address_calls")
    asking.counts()
    return session


def hashes(answer: Snapshot) -> list[str | None]:
    return [invoice.invoice_hash for invoice in answer.invoices]


def true_hashes(session: Any) -> list[str]:
    return [invoice.invoice_hash for invoice in session.invoices]


def kept_rows(asking: Asking) -> Any:
    """All that is kept, but for what is completed."""
    return asking.database.execute(
        "SELECT to_jsonb(kept) - 'asked_at' - 'wanted_at',"
        " (SELECT json_agg(to_jsonb(i) - 'more' ORDER BY ordinal_number)::text"
        "  FROM kept_invoices AS i)"
        " FROM kept_sessions AS kept"
    )


def test_its_invoices_are_listed_once_more(asking: Asking, database: Any) -> None:
    session = of_0_1_0(asking)
    number, original = session.ksef_numbers[0], "5265877635-20250826-0100001AF629-AF"
    add_synced(database, asking.account, [number, original], session=session.reference_number)
    add_offline(database, asking.account, ["another"], session="20220110-SO-0C00000000")
    linked = stored(database)

    answer = asking.check(session)

    assert hashes(answer) == true_hashes(session)
    first, refused, duplicate = answer.invoices
    assert (first.invoice_file_name, first.invoicing_mode) == ("faktura_00001.xml", "Online")
    assert first.invoicing_date
    assert refused.status.details == ("P_2",)
    assert duplicate.invoicing_mode == "Offline"
    assert answer.final
    assert answer.age > 3600
    assert asking.counts() == {LISTING: 1}

    asking.age(PAUSE)
    again = asking.check(session)
    assert hashes(again) == true_hashes(session)
    assert again.final
    assert asking.counts() == {}
    assert stored(database) == linked


def test_only_what_was_missing_is_written(asking: Asking) -> None:
    session = of_0_1_0(asking)
    before = kept_rows(asking)
    # KSeF may tell something else by now: the answer is as final as it was.
    asking.control.fault(
        "set-field", path="/invoices$", field="invoices.0.invoiceNumber", value="FV/other"
    )
    asking.check(session)
    assert asking.counts() == {LISTING: 1}
    [(was, invoices)], [(now, as_now)] = before, kept_rows(asking)
    assert as_now == invoices
    assert {name for name in was if was[name] != now[name]} <= {"session"}
    assert {k: v for k, v in was["session"].items() if v != now["session"].get(k)} == {
        "upo": {"pages": []}
    }


@pytest.mark.parametrize(("days", "calls"), [(29, {LISTING: 1}), (31, {})])
def test_a_session_of_more_than_thirty_days_stays_as_it_is(
    asking: Asking, days: int, calls: dict[str, int]
) -> None:
    begun = asking.service.db.now() - timedelta(days=days)
    session = of_0_1_0(asking, date_created=begun.isoformat())
    answer = asking.check(session)
    assert hashes(answer) == (true_hashes(session) if calls else [None] * 3)
    assert not answer.incomplete
    assert asking.counts() == calls


def no_quota(asking: Asking, _session: Any) -> Callable[[], object]:
    asking.database.execute(
        "INSERT INTO quota_calls (company_nip, environment, quota_group, reserved_at)"
        f" SELECT '{NIP}', 'test', '{limits.INVOICE_LIST}', now() - interval '30 minutes'"
        " FROM generate_series(1, 120)"  # two thirds of our 180 lists an hour
    )
    return lambda: asking.database.execute(
        "DELETE FROM quota_calls WHERE id = (SELECT min(id) FROM quota_calls)"
    )


def blocked(asking: Asking, _session: Any) -> Callable[[], object]:
    asking.account.calls.block(limits.INVOICE_LIST, 600)
    return lambda: asking.database.execute("UPDATE quota_groups SET blocked_until = NULL")


def down(asking: Asking, _session: Any) -> Callable[[], object]:
    asking.control.set_api("test", available=False)
    return lambda: asking.control.set_api("test", available=True)


def hanging(asking: Asking, _session: Any) -> Callable[[], object]:
    asking.control.set_api("test", available=False, mode="hang")
    return lambda: asking.control.set_api("test", available=True)


def logged_out(asking: Asking, _session: Any) -> Callable[[], object]:
    login.log_out(asking.account)
    return lambda: login.log_in(asking.account)


def not_known_for_a_while(asking: Asking, session: Any) -> Callable[[], object]:
    asking.control.fault("ksef-error", path="/invoices$", code=21173, times=None)
    return asking.control.clear_faults


def broken(asking: Asking, session: Any) -> Callable[[], object]:
    asking.control.fault("truncated", path="/invoices$", times=None)
    return asking.control.clear_faults


def another_is_completed(asking: Asking, _session: Any) -> Callable[[], object]:
    lease = try_lease(asking.account, "completing")
    assert lease.__enter__()
    return lambda: lease.__exit__(None, None, None)


@pytest.mark.parametrize(
    "trouble",
    [
        no_quota,
        blocked,
        down,
        hanging,
        logged_out,
        not_known_for_a_while,
        broken,
        another_is_completed,
    ],
)
def test_until_ksef_can_be_asked_the_answer_is_given_as_it_is(
    asking: Asking, trouble: Callable[[Asking, Any], Callable[[], object]]
) -> None:
    session = of_0_1_0(asking)
    before = kept_rows(asking)
    end = trouble(asking, session)

    answer = asking.check(session)

    assert answer.final
    assert hashes(answer) == [None] * 3
    assert [invoice.status.code for invoice in answer.invoices] == [200, 450, 440]
    assert kept_rows(asking) == before
    asking.counts()
    end()
    if trouble is not another_is_completed:  # a failure is not repeated at once
        assert hashes(asking.check(session)) == [None] * 3
        assert STATUS not in asking.counts()
    asking.age(PAUSE)
    asking.counts()
    assert hashes(asking.check(session)) == true_hashes(session)
    assert asking.counts()[LISTING] == 1


def test_it_leaves_lists_of_the_minute_to_others(asking: Asking) -> None:
    """Of our 18 it takes 12: a session that has no answer yet can be listed beside them."""
    old = [of_0_1_0(asking) for _ in range(14)]
    new = asking.seed()
    whole = [hashes(asking.check(session)) != [None] * 3 for session in old]
    assert whole == [True] * 12 + [False] * 2
    assert asking.check(new).final


def test_an_invoice_that_ksef_does_not_list_any_more_stays(asking: Asking) -> None:
    session = of_0_1_0(asking)
    asking.control.fault("shorter-list", path="/invoices$")
    assert hashes(asking.check(session)) == [*true_hashes(session)[:2], None]
    asking.age(PAUSE)
    asking.counts()
    again = asking.check(session)
    assert hashes(again) == [*true_hashes(session)[:2], None]
    assert again.final
    assert asking.counts() == {}


def test_a_session_that_still_moved_is_whole_when_it_is_final(asking: Asking) -> None:
    session = of_0_1_0(asking, state="moving", invoices=[{}, {"status": 150}])
    asking.control.change_session("test", session.reference_number, state="finished")
    answer = asking.check(session)
    assert answer.final
    assert hashes(answer) == true_hashes(session)
    assert asking.counts() == {STATUS: 1, LISTING: 1}
    assert not asking.check(session).incomplete
    assert asking.counts() == {}


def test_one_that_another_request_has_just_completed_is_not_listed_again(asking: Asking) -> None:
    session = of_0_1_0(asking)
    earlier = store.load(asking.account, session.reference_number)
    assert earlier is not None
    asking.check(session)
    assert asking.counts() == {LISTING: 1}
    assert hashes(completed(asking.account, earlier)) == true_hashes(session)
    assert asking.counts() == {}


def test_an_answer_that_is_purged_meanwhile_does_not_come_back(asking: Asking) -> None:
    session = of_0_1_0(asking)
    kept = asking.check(session)
    asking.database.execute("DELETE FROM kept_invoices; DELETE FROM kept_sessions")
    store.save(asking.account, kept, replace(kept, incomplete=True))
    assert store.load(asking.account, session.reference_number) is None
