"""Many moving sessions of a company are asked after in one call."""

from dataclasses import replace
from typing import Any

import pytest

from app.ksef.limits import PUBLISHED, Limits
from app.services.replicas import quota
from tests.services.conftest import LISTING, SESSIONS, STATUS, Asking

MANY = 15  # from so many on, one call for all is cheaper


@pytest.fixture
def settings(settings: Any) -> Any:
    timing = replace(settings.timing, fresh_least=10.0, fresh_most=10.0, quota_scale=1.0)
    return replace(settings, timing=timing)


@pytest.fixture(autouse=True)
def no_limits(asking: Asking) -> None:
    """So that many sessions are asked for without a wait."""
    none = Limits(-1, -1, -1)
    quota.store_limits(asking.account, dict.fromkeys(PUBLISHED, none))


def checked(asking: Asking, kinds: list[str]) -> list[Any]:
    """Moving sessions, each asked after eleven seconds ago."""
    sessions = [asking.seed(kind=kind, state="moving", invoices=[{}]) for kind in kinds]
    for session in sessions:
        asking.check(session)
    asking.age(11)
    asking.counts()
    return sessions


def test_many_are_one_call_of_each_type(asking: Asking) -> None:
    sessions = checked(asking, ["online"] * (MANY - 2) + ["batch"] * 2)
    for session in sessions:
        assert asking.check(session).age < 5
    assert asking.counts() == {SESSIONS: 2}


def test_one_type_is_one_call(asking: Asking) -> None:
    sessions = checked(asking, ["online"] * MANY)
    for session in sessions:
        assert asking.check(session).age < 5
    assert asking.counts() == {SESSIONS: 1}


def test_fewer_are_asked_after_singly(asking: Asking) -> None:
    for session in checked(asking, ["online"] * (MANY - 1)):
        asking.check(session)
    assert asking.counts() == {STATUS: MANY - 1}


def test_the_one_that_changed_is_asked_after_by_itself(asking: Asking) -> None:
    sessions = checked(asking, ["online"] * MANY)
    asking.control.change_session("test", sessions[2].reference_number, state="finished")
    asking.counts()
    answers = [asking.check(session) for session in sessions]
    assert [number for number, answer in enumerate(answers) if answer.final] == [2]
    assert asking.counts() == {SESSIONS: 1, STATUS: 1}


@pytest.mark.parametrize(
    ("kind", "options"),
    [("rate-limited", {"retryAfter": 60}), ("invalid-json", {}), ("forbidden", {})],
)
def test_where_ksef_does_not_list_them_each_is_asked_after_by_itself(
    asking: Asking, kind: str, options: dict[str, Any]
) -> None:
    sessions = checked(asking, ["online"] * MANY)
    asking.control.fault(kind, path="/v2/sessions$", **options)
    assert asking.check(sessions[0]).age < 5
    assert asking.counts() == {SESSIONS: 1, STATUS: 1}


def test_where_it_breaks_off_each_is_asked_after_by_itself(asking: Asking) -> None:
    sessions = checked(asking, ["online"] * MANY)
    asking.control.fault("reset", path="/v2/sessions$", times=2)  # it is repeated once
    assert asking.check(sessions[0]).age < 5
    assert asking.counts() == {SESSIONS: 2, STATUS: 1}


def test_a_list_behind_the_counts_is_not_taken_for_fresh(asking: Asking) -> None:
    asking.control.fault("shorter-list", path="/invoices$", times=2)
    sessions = [asking.seed(state="moving", invoices=[{}, {}]) for _ in range(MANY)]
    assert [len(asking.check(session).invoices) for session in sessions] == [1] + [2] * (MANY - 1)
    asking.age(61)
    asking.counts()
    assert [len(asking.check(session).invoices) for session in sessions] == [2] * MANY
    assert asking.counts() == {SESSIONS: 1, STATUS: 1, LISTING: 1}


def test_empty_sessions_are_asked_after_together(asking: Asking) -> None:
    """KSeF gives no counts in the one answer, and 0 in the other."""
    sessions = [asking.seed(state="open", invoices=0) for _ in range(MANY)]
    for session in sessions:
        asking.control.fault("set-field", path="/sessions/[^/]+$", field="invoiceCount", value=None)
        asking.check(session)
    asking.age(11)
    asking.counts()
    for session in sessions:
        asking.check(session)
    assert asking.counts() == {SESSIONS: 1}


def test_those_that_nobody_asks_for_any_more_are_left_alone(asking: Asking) -> None:
    sessions = checked(asking, ["online"] * (MANY + 1))
    for session in sessions[:-2]:
        asking.check(session)
    asking.age(290, sessions[0])
    for session in sessions[1:-2]:
        asking.age(301, session)
    asking.age(11, sessions[-2])
    asking.counts()
    asking.check(sessions[-2])
    assert asking.counts() == {STATUS: 1}, "of fifteen that are stale two are wanted"


def test_a_session_is_wanted_for_as_long_as_it_is_asked_for(asking: Asking) -> None:
    [session] = checked(asking, ["online"])
    for _ in range(3):
        asking.database.execute("UPDATE kept_sessions SET wanted_at = now() - interval '151 s'")
        asking.check(session)
        assert asking.database.execute(
            "SELECT count(*) FROM kept_sessions WHERE wanted_at > now() - interval '1 minute'"
        ) == [(1,)]


def test_sessions_of_a_kind_that_is_not_listed_are_asked_after_by_themselves(
    asking: Asking,
) -> None:
    sessions = [
        asking.seed(reference_number=f"20260101-AU-00000000{n}-0000000001-01", state="moving")
        for n in range(10, 10 + MANY)
    ]
    for session in sessions:
        asking.check(session)
    asking.age(11)
    asking.counts()
    for session in sessions:
        asking.check(session)
    assert asking.counts() == {STATUS: MANY}


def test_final_ones_and_those_of_others_are_not_counted(asking: Asking) -> None:
    sessions = checked(asking, ["online"] * (MANY - 1))
    finished = [asking.seed() for _ in range(3)]
    for session in finished:
        asking.check(session)
    asking.age(11)
    asking.counts()
    asking.check(sessions[0])
    assert asking.counts() == {STATUS: 1}
