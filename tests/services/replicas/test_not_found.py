"""Polling what KSeF does not know costs no quota."""

from dataclasses import replace
from typing import Any

import pytest

from app import errors
from app.services.replicas import not_found
from app.services.sessions.check import check_session
from app.services.upo.fetch import fetch_session_upo, fetch_upo
from tests.services.conftest import STATUS, Asking

UNKNOWN = "20260101-SO-0123456789-0123456789-01"
NUMBER = "5265877635-20260329-0100001AF629-4F"
UPO = f"{STATUS}/invoices/ksef/{{ksef_number}}/upo"


@pytest.fixture
def settings(settings: Any) -> Any:
    timing = replace(settings.timing, refusal_least=5.0, refusal_most=60.0, quota_scale=1.0)
    return replace(settings, timing=timing)


def refused(asking: Asking, reference: str = UNKNOWN) -> errors.SessionNotFound:
    with pytest.raises(errors.SessionNotFound) as caught:
        check_session(asking.account, reference)
    return caught.value


def left(asking: Asking) -> float:
    [(seconds,)] = asking.database.execute(
        "SELECT extract(epoch FROM until - clock_timestamp()) FROM kept_refusals"
    )
    return float(seconds)


def pass_by(asking: Asking) -> None:
    asking.database.execute("UPDATE kept_refusals SET until = now() - interval '1 ms'")


def test_kept_for_five_seconds_then_twice_as_long_up_to_a_minute(asking: Asking) -> None:
    for expected in (5, 10, 20, 40, 60, 60):
        first = refused(asking)
        assert expected - 1 < left(asking) <= expected
        again = refused(asking)
        assert asking.counts() == {STATUS: 1}
        assert again.detail == first.detail
        assert again.ksef is not None
        assert first.ksef is not None
        assert (again.ksef.code, again.ksef.trace_id) == (21173, first.ksef.trace_id)
        pass_by(asking)


def test_words_that_postgresql_cannot_store_are_kept_without_that(asking: Asking) -> None:
    words = {"code": 21173, "description": "Nie ma\0 sesji."}
    asking.control.fault("status", status=400, body={"traceId": "\0", "errors": [words]})
    first, again = refused(asking), refused(asking)
    assert first.ksef == errors.KsefAnswer(400, 21173, "Nie ma sesji.")
    assert again.ksef == replace(first.ksef, details=[])


def test_an_invoice_that_ksef_refuses_is_not_taken_for_a_missing_session(asking: Asking) -> None:
    session = asking.seed(state="moving", invoices=[{"status": 150}])
    asking.check(session)
    asking.age(60)
    asking.control.fault("ksef-error", code=21405, path="/invoices/")
    with pytest.raises(errors.KsefError) as caught:
        asking.check(session)
    assert caught.value.ksef is not None
    assert caught.value.ksef.code == 21405
    assert asking.database.execute("SELECT * FROM kept_refusals") == []
    assert asking.check(session).session.status.code == 170


def test_forgotten_when_ksef_knows(asking: Asking) -> None:
    refused(asking)
    pass_by(asking)
    session = asking.seed(reference_number=UNKNOWN)
    assert asking.check(session).final
    assert asking.database.execute("SELECT count(*) FROM kept_refusals") == [(0,)]


def test_those_of_yesterday_go_with_the_next(asking: Asking) -> None:
    for n in range(3):
        refused(asking, f"20260101-SO-0123456789-0123456789-1{n}")
    asking.database.execute("UPDATE kept_refusals SET until = now() - interval '25 hours'")
    refused(asking, "20260101-SO-0123456789-0123456789-11")
    kept = asking.database.execute("SELECT question FROM kept_refusals")
    assert kept == [("session 20260101-SO-0123456789-0123456789-11",)]


def test_another_failure_is_not_kept(asking: Asking) -> None:
    asking.control.fault("html-503", path="/sessions/", times=4)  # each is repeated once
    for _ in range(2):
        with pytest.raises(errors.KsefError):
            check_session(asking.account, UNKNOWN)
    assert asking.database.execute("SELECT count(*) FROM kept_refusals") == [(0,)]


def test_upo_that_may_come_tells_when_to_ask_again(asking: Asking) -> None:
    session = asking.seed()
    for _ in range(3):
        with pytest.raises(errors.UpoNotAvailable) as caught:
            fetch_upo(asking.account, session.reference_number, NUMBER, "xml")
        assert caught.value.retry_after == 5
    assert asking.counts() == {UPO: 1}


def test_what_will_never_come_is_told_so_up_to_its_last_moment(asking: Asking) -> None:
    session = asking.seed(kind="batch", state="failed", code=445)
    kept = "UPDATE kept_refusals SET until = now() + interval '3 seconds'"
    for _ in range(2):
        with pytest.raises(errors.UpoNotAvailable) as caught:
            fetch_session_upo(asking.account, session.reference_number, "xml")
        assert caught.value.retry_after is None
        asking.database.execute(kept)
    assert asking.counts() == {STATUS: 1}, "the second is remembered"


@pytest.mark.parametrize(("left", "may_come"), [("50 seconds", True), ("1 hour", False)])
def test_what_0_1_0_remembers_is_told_as_it_told_it(
    asking: Asking, left: str, may_come: bool
) -> None:
    session = asking.seed()
    with pytest.raises(errors.UpoNotAvailable):
        fetch_upo(asking.account, session.reference_number, NUMBER, "xml")
    asking.database.execute(
        f"UPDATE kept_refusals SET may_come = NULL, until = now() + interval '{left}'"
    )
    with pytest.raises(errors.UpoNotAvailable) as caught:
        fetch_upo(asking.account, session.reference_number, NUMBER, "xml")
    assert (caught.value.retry_after is not None) is may_come


def test_number_that_a_finished_session_does_not_hold(asking: Asking) -> None:
    session = asking.seed(invoices=[{}, {"status": 450}])
    asking.check(session)
    asking.counts()
    for _ in range(3):
        with pytest.raises(errors.InvoiceNotFound) as caught:
            fetch_upo(asking.account, session.reference_number, NUMBER, "pdf")
        assert caught.value.retry_after is None
    assert asking.counts() == {UPO: 1}


def test_each_company_and_environment_has_its_own(asking: Asking) -> None:
    refused(asking)
    elsewhere = asking.service.account(asking.account.company_nip, "demo")
    not_found.repeat(elsewhere, f"session {UNKNOWN}")
    with pytest.raises(errors.SessionNotFound):
        not_found.repeat(asking.account, f"session {UNKNOWN}")
