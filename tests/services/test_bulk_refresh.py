"""Many moving sessions of a company are asked after in one call."""

from dataclasses import replace
from typing import Any

import pytest

from tests.services.conftest import SESSIONS, STATUS, Asking


@pytest.fixture
def settings(settings: Any) -> Any:
    timing = replace(settings.timing, fresh_least=10.0, fresh_most=10.0, quota_scale=1.0)
    return replace(settings, timing=timing)


def checked(asking: Asking, kinds: list[str]) -> list[Any]:
    """Moving sessions, each asked after eleven seconds ago."""
    sessions = [asking.seed(kind=kind, state="moving", invoices=[{}]) for kind in kinds]
    for session in sessions:
        asking.check(session)
    asking.age(11)
    asking.counts()
    return sessions


def test_five_or_more_are_one_call_of_each_type(asking: Asking) -> None:
    sessions = checked(asking, ["online"] * 4 + ["batch"] * 2)
    for session in sessions:
        assert asking.check(session).age < 5
    assert asking.counts() == {SESSIONS: 2}


def test_one_type_is_one_call(asking: Asking) -> None:
    sessions = checked(asking, ["online"] * 5)
    for session in sessions:
        assert asking.check(session).age < 5
    assert asking.counts() == {SESSIONS: 1}


def test_four_are_asked_after_singly(asking: Asking) -> None:
    for session in checked(asking, ["online"] * 4):
        asking.check(session)
    assert asking.counts() == {STATUS: 4}


def test_the_one_that_changed_is_asked_after_by_itself(asking: Asking) -> None:
    sessions = checked(asking, ["online"] * 6)
    asking.control.change_session("test", sessions[2].reference_number, state="finished")
    asking.counts()
    answers = [asking.check(session) for session in sessions]
    assert [answer.final for answer in answers] == [False, False, True, False, False, False]
    assert asking.counts() == {SESSIONS: 1, STATUS: 1}


@pytest.mark.parametrize(
    ("kind", "options"),
    [("rate-limited", {"retryAfter": 60}), ("invalid-json", {}), ("forbidden", {})],
)
def test_where_ksef_does_not_list_them_each_is_asked_after_by_itself(
    asking: Asking, kind: str, options: dict[str, Any]
) -> None:
    sessions = checked(asking, ["online"] * 5)
    asking.control.fault(kind, path="/v2/sessions$", **options)
    assert asking.check(sessions[0]).age < 5
    assert asking.counts() == {SESSIONS: 1, STATUS: 1}


def test_final_ones_and_those_of_others_are_not_counted(asking: Asking) -> None:
    sessions = checked(asking, ["online"] * 4)
    finished = [asking.seed() for _ in range(3)]
    for session in finished:
        asking.check(session)
    asking.age(11)
    asking.counts()
    asking.check(sessions[0])
    assert asking.counts() == {STATUS: 1}
