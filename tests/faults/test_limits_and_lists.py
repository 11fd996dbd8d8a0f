"""Rows 7, 8, 11, 12 and 19 of the fault matrix: quota, lists that go wrong, the firewall."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from tests.answers import assert_problem
from tests.faults.conftest import BOTH, ENDPOINTS, NIP, Asker

LOGIN = "POST /{environment}/v2/auth/ksef-token"
REFRESH = "POST /{environment}/v2/auth/token/refresh"
LIST = "/invoices$"
SOON = 90


def date() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=SOON), usegmt=True)


# -- 7: quota -------------------------------------------------------------------------------

RETRY_AFTERS = {
    "seconds": ("30", 30),
    "absent": (None, 60),
    "negative": ("-5", 60),
    "date": (date, SOON),
    "huge": ("99999999999", 2**31 - 1),
}
each_retry_after = pytest.mark.parametrize("header", RETRY_AFTERS)


def limit(asker: Asker, header: str) -> int:
    """KSeF answers 429 from now on; the seconds to wait that this means."""
    given, seconds = RETRY_AFTERS[header]
    value = given() if callable(given) else given
    options = {} if value is None else {"retryAfter": value}
    asker.control.fault("rate-limited", path="/sessions/", times=None, **options)
    return seconds


def assert_limited(answer: Any, seconds: int) -> None:
    told = answer.json["retryAfter"]
    assert seconds - 5 <= told <= seconds
    also = {"ksef"} & set(answer.json)
    assert_problem(answer, 502, "ksef_rate_limited", retry_after=told, also=also)


@pytest.mark.fault(7)
@BOTH
@each_retry_after
def test_429_cold(asker: Asker, endpoint: str, header: str) -> None:
    """It is told to whoever asks, of any replica, until its time is over; KSeF hears one call."""
    seconds = limit(asker, header)
    assert_limited(asker.ask(endpoint), seconds)
    other = asker.control.seed_session("test", NIP)
    for of in asker.replicas:
        for again in ENDPOINTS:
            assert_limited(asker.ask(again, other, of=of), seconds)
    assert asker.calls() == ["GET 429"]
    assert asker.wrote_nothing()


@pytest.mark.fault(7)
@each_retry_after
def test_429_with_an_earlier_answer(asker: Asker, header: str) -> None:
    moving = asker.control.seed_session("test", NIP, state="moving", invoices=2)
    asker.keep_answers()
    earlier = asker.ask("status", moving).json
    asker.control.clear_calls()
    seconds = limit(asker, header)
    for of in [asker.replicas[0], *asker.replicas]:
        answer = asker.ask("status", moving, of=of)
        assert answer.status_code == 200
        assert answer.json.pop("nextCheckAfter") <= seconds
        same = {name: answer.json[name] for name in earlier if name != "nextCheckAfter"}
        assert same == {name: earlier[name] for name in same}
        assert asker.ask("upo", of=of).status_code == 200  # from the archive
    assert asker.calls() == ["GET 429"]


# -- 8: quota within a list -----------------------------------------------------------------


@pytest.mark.fault(8)
def test_429_within_a_list_cold(asker: Asker) -> None:
    long = asker.control.seed_session("test", NIP, invoices=1500)
    asker.control.fault("rate-limited", path=LIST, skip=1, retryAfter=120)
    assert_limited(asker.ask("status", long), 120)
    assert asker.wrote_nothing()
    for of in asker.replicas:
        assert_limited(asker.ask("status", long, of=of), 120)
    assert asker.calls() == ["GET 200", "GET 200", "GET 429"]
    assert asker.ask("upo", long).status_code == 200  # of another group


@pytest.mark.fault(8)
def test_429_within_a_list_with_an_earlier_answer(asker: Asker) -> None:
    long = asker.control.seed_session("test", NIP, state="moving", invoices=1500)
    earlier = asker.ask("status", long).json
    asker.control.add_invoices("test", long.reference_number, 1)
    asker.control.fault("rate-limited", path=LIST, skip=1, retryAfter=120)
    answer = asker.ask("status", long)
    assert answer.status_code == 200
    assert answer.json["totalInvoiceCount"] == len(answer.json["invoices"]) == 1500
    assert answer.json["invoices"] == earlier["invoices"]


# -- 11, 12: pages --------------------------------------------------------------------------


def page(token: Any) -> dict[str, Any]:
    """An empty page that says where the next one begins."""
    body = {"invoices": [], "continuationToken": token}
    return {"kind": "status", "status": 200, "body": body, "path": LIST}


ENDLESS = {
    "the same token again": [{"kind": "repeat-continuation-token", "path": LIST, "times": None}],
    "a cycle of tokens": [page(token) for token in ("a", "b", "a")],
    "more than 20 pages": [page(f"t{number}") for number in range(21)],
    "a token with CRLF": [page("a\r\nX-Token: b")],
    "a token of 1 MB": [page("x" * 2**20)],
}


@pytest.mark.fault(11)
@pytest.mark.parametrize("faults", ENDLESS.values(), ids=ENDLESS)
def test_list_without_an_end(asker: Asker, faults: list[dict[str, Any]]) -> None:
    long = asker.control.seed_session("test", NIP, invoices=1500)
    for fault in faults:
        asker.control.fault(**fault)
    answer = asker.ask("status", long)
    assert_problem(answer, 502, "ksef_invalid_response")
    assert len(asker.calls()) <= 1 + 20
    assert asker.wrote_nothing()
    assert asker.ask("upo", long).status_code == 200  # lists nothing


@pytest.mark.fault(11)
def test_list_without_an_end_leaves_the_earlier_answer(asker: Asker) -> None:
    moving = asker.control.seed_session("test", NIP, state="moving", invoices=2)
    asker.ask("status", moving)
    stored = asker.stored()
    asker.control.add_invoices("test", moving.reference_number, 1)
    asker.control.fault(**page("a\r\nb"))
    assert_problem(asker.ask("status", moving), 502, "ksef_invalid_response")
    assert asker.stored() == stored
    assert len(asker.ask("status", moving).json["invoices"]) == 3


@pytest.mark.fault(12)
@pytest.mark.parametrize(
    ("kind", "options", "calls"),
    [
        ("empty-page-with-token", {}, 4),
        ("duplicate-invoice", {}, 3),
        ("ksef-error", {"code": 21418, "skip": 1}, 5),
        ("shorter-list", {"skip": 1}, 5),
    ],
)
def test_list_that_stutters(asker: Asker, kind: str, options: dict[str, int], calls: int) -> None:
    long = asker.control.seed_session("test", NIP, invoices=1500)
    asker.control.fault(kind, path=LIST, **options)
    answer = asker.ask("status", long)
    assert [i["ordinalNumber"] for i in answer.json["invoices"]] == list(range(1, 1501))
    assert answer.json["final"] is True
    assert len(asker.calls()) == calls
    assert asker.ask("upo", long).status_code == 200


@pytest.mark.fault(12)
def test_list_that_stays_shorter_is_not_final(asker: Asker) -> None:
    asker.control.fault("shorter-list", path=LIST, times=None)
    answer = asker.ask("status")
    assert (answer.status_code, answer.json["final"]) == (200, False)
    assert len(asker.calls()) == 3  # the session and two lists
    asker.control.clear_faults()
    asker.database.execute(
        "UPDATE kept_sessions SET listed_at = listed_at - interval '1 hour',"
        " asked_at = asked_at - interval '1 hour'"
    )
    assert asker.ask("status").json["final"] is True


# -- 19: the firewall -----------------------------------------------------------------------


@pytest.mark.fault(19)
@BOTH
@pytest.mark.parametrize("kind", ["waf-403", "waf-html-403", "waf-html-200"])
def test_firewall_pauses_the_environment_and_keeps_the_tokens(
    asker: Asker, make_company: Any, endpoint: str, kind: str
) -> None:
    stored = asker.control.seed_session("test", NIP)
    assert asker.ask(endpoint, stored).status_code == 200
    asker.control.set_latarnia("test", "FAILURE")  # it does not make this an outage
    asker.control.fault(kind, path="/sessions/")
    asker.control.clear_calls()
    for of in [asker.replicas[0], *asker.replicas]:
        answer = asker.ask(endpoint, of=of)
        told = answer.json["retryAfter"]
        assert 50 <= told <= 60
        also = {"ksef"} & set(answer.json)
        assert_problem(answer, 502, "ksef_error", retry_after=told, also=also)
        assert answer.json["outage"]["consecutiveFailures"] == 0
        assert asker.ask(endpoint, stored, of=of).status_code == 200
    assert len(asker.calls()) == 1
    asker.database.execute("UPDATE outages SET paused_until = NULL")
    assert asker.ask(endpoint).status_code == 200
    assert not {LOGIN, REFRESH} & set(asker.control.call_counts())


@pytest.mark.fault(19)
@BOTH
def test_firewall_on_the_refresh_keeps_the_tokens(asker: Asker, endpoint: str) -> None:
    asker.control.fault("waf-403", path="/auth/token/refresh")
    asker.control.expire_bearers("test", kind="access", nip=NIP)
    assert asker.ask(endpoint).status_code == 502
    asker.database.execute("UPDATE outages SET paused_until = NULL")
    assert asker.ask(endpoint).status_code == 200
    assert LOGIN not in asker.control.call_counts()
