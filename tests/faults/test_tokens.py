"""Rows 20, 21, 23 of the fault matrix: tokens that end, logins that fail."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.answers import assert_problem
from tests.faults.conftest import BOTH, GRACE, NIP, TIMING, Asker

REFRESH = "POST /{environment}/v2/auth/token/refresh"
LOGIN = "POST /{environment}/v2/auth/ksef-token"


@pytest.mark.fault(20)
@BOTH
def test_access_token_that_ended_is_refreshed_once_for_all_callers(
    asker: Asker, endpoint: str
) -> None:
    sessions = [asker.control.seed_session("test", NIP) for _ in range(6)]
    asker.control.expire_bearers("test", kind="access", nip=NIP)
    with ThreadPoolExecutor(len(sessions)) as callers:
        answers = list(callers.map(lambda session: asker.ask(endpoint, session), sessions))
    assert [answer.status_code for answer in answers] == [200] * len(sessions)
    counts = asker.control.call_counts()
    assert counts[REFRESH] == 1
    assert LOGIN not in counts


@pytest.mark.fault(21)
@BOTH
@pytest.mark.parametrize("how", ["refresh token ended", "new token refused"])
def test_one_silent_login(asker: Asker, endpoint: str, how: str) -> None:
    if how == "refresh token ended":
        asker.control.expire_bearers("test", nip=NIP)
    else:
        asker.control.fault("unauthorized", path="/sessions/", times=2)
    assert asker.ask(endpoint).status_code == 200
    assert asker.control.call_counts()[LOGIN] == 1


@pytest.mark.fault(21, 23)
@BOTH
@pytest.mark.parametrize("code", [415, 425, 450, 460, 480])
def test_credential_that_is_refused(asker: Asker, endpoint: str, code: int) -> None:
    """404 from then on, and KSeF is not asked again; what is final is answered all the same."""
    asker.control.set_token_outcome("test", code, nip=NIP)
    asker.control.expire_bearers("test", nip=NIP)
    for _ in asker.replicas:
        answer = asker.ask(endpoint)
        also = {"ksef"} & set(answer.json)
        assert_problem(answer, 404, "no_active_ksef_session", also=also)
    assert asker.control.call_counts()[LOGIN] == 1
    assert asker.wrote_nothing()
    if code == 480:
        asker.control.clear_calls()
        answer = asker.request("POST", "/auth/test")
        assert_problem(answer, 502, "ksef_error", also={"ksef"})
        assert answer.json["ksef"]["code"] == 480
        assert asker.control.calls() == []


@pytest.mark.fault(21)
@BOTH
def test_without_a_session_what_is_stored_is_answered(asker: Asker, endpoint: str) -> None:
    asker.keep_answers()
    asker.database.execute("DELETE FROM ksef_sessions")
    assert asker.ask(endpoint).status_code == 200
    assert asker.control.calls() == []


@pytest.mark.fault(23)
@BOTH
def test_lost_answer_of_redeem_is_followed_by_a_new_login(asker: Asker, endpoint: str) -> None:
    asker.control.expire_bearers("test", nip=NIP)
    asker.control.fault("reset-after", path="/auth/token/redeem")
    assert asker.ask(endpoint).status_code == 200
    assert asker.control.call_counts()[LOGIN] == 2


@pytest.mark.fault(23)
@BOTH
def test_keys_that_ksef_changed_are_fetched_again_once(asker: Asker, endpoint: str) -> None:
    asker.control.expire_bearers("test", nip=NIP)
    asker.control.fault("ksef-error", path="/auth/ksef-token", code=21470)
    assert asker.ask(endpoint).status_code == 200
    assert asker.control.call_counts()[LOGIN] == 2


@pytest.mark.fault(23)
@BOTH
def test_login_that_is_stuck_ends_at_the_deadline(asker: Asker, endpoint: str) -> None:
    """The request's deadline, whatever the login's own is."""
    asker.control.settings(authPolls=100_000)
    asker.control.expire_bearers("test", nip=NIP)
    began = time.monotonic()
    answer = asker.ask(endpoint)
    took = time.monotonic() - began
    assert_problem(answer, 502, "ksef_unreachable")
    assert TIMING.request - 0.5 <= took <= TIMING.request + GRACE
    asker.control.settings(authPolls=0)
    assert asker.ask(endpoint).status_code == 200
