"""409 or 502, over real sockets: what KSeF does, times what Latarnia says; and three replicas."""

import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests

from app.services.sessions import check as status
from app.services.upo import fetch as upo
from sandbox.control import Control
from tests.answers import HttpAnswer, assert_problem
from tests.faults.conftest import serve
from tests.journeys.conftest import RunningService
from tests.service import QUICK, Company

NIP = "5265877635"
TIMING = replace(
    QUICK,
    retry_left=math.inf,  # no call is repeated: each failure is one
    ksef_connect=0.5,
    ksef_call=0.5,
    outage_after=0.5,
    outage_probe=0.5,
    outage_probe_every=1.0,
    latarnia=0.5,
)
KEYS = "GET /{environment}/v2/security/public-key-certificates"
NO_OUTAGE = {"established": False, "consecutiveFailures": 0, "source": None, "duty": None}


@dataclass(frozen=True)
class Trouble:
    """What goes wrong between us and KSeF: `environment` is configured for it, or `mode` is set."""

    environment: str
    mode: str | None
    code: str  # of the 502
    counts: bool


TROUBLES = {
    "refused": Trouble("demo", None, "ksef_unreachable", True),
    "5xx": Trouble("test", "503-html", "ksef_error", True),
    "HTML": Trouble("test", "html-200", "ksef_invalid_response", True),
    "reset": Trouble("test", "reset", "ksef_unreachable", True),
    "hang": Trouble("test", "hang", "ksef_unreachable", True),
    "DNS failure": Trouble("prod", None, "ksef_unreachable", False),
    "WAF": Trouble("test", "waf-403", "ksef_error", False),
}
# Whether Latarnia establishes an outage where KSeF's own failures count.
LATARNIAS = {
    "absent": False,
    "AVAILABLE": False,
    "FAILURE now": True,
    "FAILURE over": False,
    "FAILURE to come": False,
    "TOTAL_FAILURE for ever": True,
    "down": False,
    "hang": False,
    "HTML": False,
    "403": False,
    "garbage": False,
    "unknown status": False,
}


def set_latarnia(control: Control, environment: str, said: str) -> None:
    now = datetime.now(UTC)

    def message(status: str, begin: int, end: int | None) -> dict[str, Any]:
        return {
            "id": "A-1",
            "eventId": 1,
            "category": status,
            "type": "FAILURE_END" if end is not None else "FAILURE_START",
            "title": "Awaria KSeF",
            "text": "Trwa awaria.",
            "start": (now + timedelta(minutes=begin)).isoformat(),
            "end": (now + timedelta(minutes=end)).isoformat() if end is not None else None,
            "version": 2 if end is not None else 1,
            "published": now.isoformat(),
        }

    match said:
        case "FAILURE now":
            control.set_latarnia(environment, "FAILURE", messages=[message("FAILURE", -5, None)])
        case "FAILURE over":
            messages = [message("FAILURE", -5, None), message("FAILURE", -5, -1)]
            control.set_latarnia(environment, "FAILURE", messages=messages)
        case "FAILURE to come":
            control.set_latarnia(environment, "FAILURE", messages=[message("FAILURE", 5, None)])
        case "TOTAL_FAILURE for ever":
            messages = [message("TOTAL_FAILURE", -(10**6), None)]
            control.set_latarnia(environment, "TOTAL_FAILURE", messages=messages)
        case "down":
            control.set_latarnia(environment, "FAILURE", available=False)
        case "hang":
            control.set_latarnia(environment, "FAILURE")
            control.fault("hang", service="latarnia", times=None, seconds=3)
        case "HTML":
            control.fault("html-200", service="latarnia", times=None)
        case "403":
            control.fault("waf-403", service="latarnia", times=None)
        case "garbage":
            control.set_latarnia(environment, "FAILURE", messages=[{"id": 7}])
        case "unknown status":
            control.set_latarnia(
                environment, "SOLAR_STORM", messages=[message("FAILURE", -5, None)]
            )


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def start(
    _migrated_database: Any, running_sandbox: Any, secret_key: bytes, tmp_path_factory: Any
) -> Callable[..., Any]:
    """Starts a replica: KSeF test is the sandbox, demo a closed port, prod a name of nobody."""

    def running(**settings: str) -> AbstractContextManager[RunningService]:
        return serve(
            _migrated_database[0],
            running_sandbox,
            secret_key,
            tmp_path_factory.mktemp("service") / "log",
            TIMING,
            KSEF_URL_DEMO=f"http://127.0.0.1:{closed_port()}/v2",
            KSEF_URL_PROD="https://ksef.invalid/v2",
            **settings,
        )

    return running


@pytest.fixture(scope="module")
def services(start: Callable[..., Any], running_sandbox: Any) -> Iterator[dict[bool, str]]:
    """Addresses of two services: one that has a Latarnia in each environment, one that has none."""
    urls = {
        f"LATARNIA_URL_{name.upper()}": f"{running_sandbox.url}/latarnia/{name}"
        for name in ("test", "demo", "prod")
    }
    # Only prod has one unless told otherwise, and prod's is nobody here.
    with start(**urls) as told, start(LATARNIA_URL_PROD="http://127.0.0.1:9") as untold:
        yield {True: told.url, False: untold.url}


@pytest.fixture(scope="module")
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


@contextmanager
def asking(
    http: requests.Session, company: Company, url: str
) -> Iterator[Callable[..., HttpAnswer]]:
    def get(path: str) -> HttpAnswer:
        response = http.get(url + path, headers=company.authorization, timeout=10)
        return HttpAnswer(response)

    yield get


# The many ways in which Latarnia says nothing are met with one kind of trouble only.
TABLE = [
    (trouble, said)
    for trouble in TROUBLES
    for said in LATARNIAS
    if trouble == "5xx" or said not in ("hang", "HTML", "403", "unknown status", "FAILURE to come")
]


@pytest.mark.slow
@pytest.mark.fault(30)
@pytest.mark.parametrize(("trouble", "said"), TABLE)
def test_table(
    services: dict[bool, str],
    http: requests.Session,
    make_company: Callable[..., Company],
    control: Control,
    trouble: str,
    said: str,
) -> None:
    what = TROUBLES[trouble]
    environment = what.environment
    company = make_company(NIP, environments=(environment,))
    stored, cold = control.seed_session(environment, NIP), control.seed_session(environment, NIP)
    account = company.account(environment)
    status.check_session(account, stored.reference_number)
    upo.fetch_upo(account, stored.reference_number, stored.ksef_numbers[0], "xml")
    if what.mode:
        control.set_api(environment, available=False, mode=what.mode)
    set_latarnia(control, environment, said)
    established = what.counts and LATARNIAS[said]

    with asking(http, company, services[said != "absent"]) as get:
        for number, session in enumerate((cold, cold), 1):
            path = f"/invoices/{environment}/status/{session.reference_number}"
            path += f"/{session.ksef_numbers[0]}/upo" if number == 2 else ""
            answer = get(path)
            body = answer.get_json()
            also = {"ksef"} & set(body) | {"retryAfter"} & set(body)
            retry_after = body.get("retryAfter")
            if established:
                assert_problem(answer, 409, "ksef_outage", also=also)
                assert body["outage"]["source"] == "latarnia"
                assert body["outage"]["duty"] == (
                    "none" if said.startswith("TOTAL") else "seven_working_days_after_end"
                )
                assert [m["title"] for m in body["outage"]["messages"]] == ["Awaria KSeF"]
            else:
                code = what.code if trouble != "WAF" or number == 1 else "ksef_error"
                assert_problem(answer, 502, code, also=also, retry_after=retry_after)
                assert body["outage"]["duty"] is None
                assert (retry_after is not None) == (trouble == "WAF")
            assert body["outage"]["consecutiveFailures"] == (number if what.counts else 0)
            # The call, Latarnia's share of it, and what a busy machine takes.
            assert answer.seconds < TIMING.ksef_call + TIMING.latarnia + 2
        asked = [call for call in control.calls() if call.service == "latarnia"]
        assert len(asked) <= 2  # status and messages, once
        if said == "absent" or not what.counts:
            assert asked == []

        path = f"/invoices/{environment}/status/{stored.reference_number}"
        for kept in (path, f"{path}/{stored.ksef_numbers[0]}/upo?docType=pdf"):
            assert get(kept).status_code == 200
        assert get("/status").get_json()["environments"][environment] == (
            "outage" if established else "unknown" if what.counts else "available"
        )
        told = get(f"/outages/{environment}").get_json()["outage"]
        assert told == body["outage"]


@pytest.mark.fault(31)
@pytest.mark.parametrize("said", LATARNIAS)
def test_where_ksef_answers_latarnia_changes_nothing(
    services: dict[bool, str],
    http: requests.Session,
    make_company: Callable[..., Company],
    control: Control,
    said: str,
) -> None:
    company = make_company(NIP, environments=("test",))
    session = control.seed_session("test", NIP)
    set_latarnia(control, "test", said)
    path = f"/invoices/test/status/{session.reference_number}"
    with asking(http, company, services[said != "absent"]) as get:
        assert get(path).status_code == 200
        assert get(f"{path}/{session.ksef_numbers[0]}/upo").status_code == 200
        assert get("/status").get_json()["environments"]["test"] == "available"
        known = get("/outages/test").get_json()["outage"]
        assert {name: known[name] for name in NO_OUTAGE} == NO_OUTAGE
    assert [call for call in control.calls() if call.service == "latarnia"] == []


@pytest.mark.fault(32)
def test_simulation_is_409_also_for_what_is_stored_and_asks_nobody(
    services: dict[bool, str],
    http: requests.Session,
    make_company: Callable[..., Company],
    control: Control,
) -> None:
    company = make_company(NIP, environments=("test",))
    session = control.seed_session("test", NIP)
    status.check_session(company.account(), session.reference_number)
    control.clear_calls()
    http.put(
        f"{services[True]}/outages/test/simulation",
        headers=company.authorization,
        json={"message": "Próba"},
        timeout=10,
    ).raise_for_status()
    path = f"/invoices/test/status/{session.reference_number}"
    with asking(http, company, services[True]) as get:
        for asked in (path, f"{path}/{session.ksef_numbers[0]}/upo"):
            body = assert_problem(get(asked), 409, "outage_simulation")
            assert body["outage"]["source"] == "simulation"
    assert control.calls() == []


@pytest.mark.slow
@pytest.mark.fault(1, 6)
def test_three_replicas_share_one_breaker_and_one_probe(
    start: Callable[..., Any],
    http: requests.Session,
    make_company: Callable[..., Company],
    control: Control,
) -> None:
    company = make_company(NIP, environments=("test",))
    session = control.seed_session("test", NIP, state="open")
    path = f"/invoices/test/status/{session.reference_number}"
    with ExitStack() as running:
        replicas = [running.enter_context(start()).url for _ in range(3)]
        control.set_api("test", available=False)
        control.clear_calls()

        began = time.monotonic()
        answers = flood(replicas, company, path, lambda: time.monotonic() > began + 1.5)
        assert {status for status, _ in answers} == {409, 502}
        assert control.call_counts("test")[KEYS] <= 2
        for url in replicas:  # all of them know
            body = http.get(url + path, headers=company.authorization, timeout=10).json()
            assert body["code"] == "ksef_outage"
            assert body["outage"]["source"] == "breaker"
            assert body["retryAfter"] >= 1
            assert http.get(url + "/status", timeout=10).json()["environments"]["test"] == "outage"

        control.clear_calls()
        began = time.monotonic()
        answers = flood(replicas, company, path, lambda: time.monotonic() > began + 3)
        took = time.monotonic() - began
        assert {status for status, _ in answers} == {409}
        counts = control.call_counts("test")
        assert 1 <= counts.pop(KEYS) <= took / TIMING.outage_probe_every + 1
        assert counts == {}  # nothing but probes
        fast = sorted(seconds for _, seconds in answers)[len(answers) // 2]
        assert fast < TIMING.ksef_call

        control.clear_calls()  # back just after a probe: the next one is not due yet
        flood(replicas, company, path, lambda: control.call_counts("test").get(KEYS, 0) > 0)
        control.set_api("test", available=True)
        control.clear_calls()
        back: list[int] = []
        flood(replicas, company, path, lambda: 200 in back, back)
        assert set(back) == {409, 200}
        assert control.call_counts("test")[KEYS] == 1
        for url in replicas:
            assert http.get(url + path, headers=company.authorization, timeout=10).ok


def flood(
    replicas: list[str],
    company: Company,
    path: str,
    enough: Callable[[], bool],
    statuses: list[int] | None = None,
) -> list[tuple[int, float]]:
    """Two callers ask each replica until it is enough (10 s at most): status and seconds."""
    answers: list[tuple[int, float]] = []
    deadline = time.monotonic() + 10

    def ask(url: str) -> None:
        with requests.Session() as http:
            http.trust_env = False
            while not enough() and time.monotonic() < deadline:
                answer = http.get(url + path, headers=company.authorization, timeout=10)
                answers.append((answer.status_code, answer.elapsed.total_seconds()))
                if statuses is not None:
                    statuses.append(answer.status_code)

    threads = [threading.Thread(target=ask, args=(url,)) for url in replicas * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


# -- 38: announced, while KSeF answers what matters ------------------------------------------


@pytest.fixture
def announced(
    services: dict[bool, str],
    http: requests.Session,
    make_company: Callable[..., Company],
    control: Control,
) -> Iterator[Callable[..., HttpAnswer]]:
    """A logged-in company's questions, while Latarnia announces an outage."""
    company = make_company(NIP, environments=("test",))
    set_latarnia(control, "test", "FAILURE now")
    with asking(http, company, services[True]) as get:
        yield get


def status_path(session: Any) -> str:
    return f"/invoices/test/status/{session.reference_number}"


@pytest.mark.fault(38)
def test_early_renewal_that_fails_leaves_the_good_token_in_use(
    announced: Any, control: Control, database: Any
) -> None:
    session = control.seed_session("test", NIP)
    database.execute(
        "UPDATE ksef_sessions SET access_token_valid_until = now() + interval '20 seconds'"
    )
    control.fault("html-503", path="/auth/token/refresh", times=None)
    answers = [announced(status_path(control.seed_session("test", NIP))) for _ in range(3)]
    answers.append(announced(status_path(session)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert control.call_counts()["POST /{environment}/v2/auth/token/refresh"] >= 1


@pytest.mark.fault(38)
def test_lost_redeem_is_followed_by_a_second_login(announced: Any, control: Control) -> None:
    session = control.seed_session("test", NIP)
    control.expire_bearers("test", nip=NIP)
    control.fault("reset-after", path="/auth/token/redeem")
    assert announced(status_path(session)).status_code == 200
    assert control.call_counts()["POST /{environment}/v2/auth/token/redeem"] == 2


@pytest.mark.fault(38)
def test_bulk_list_that_fails_leaves_the_single_call(
    announced: Any, control: Control, database: Any
) -> None:
    sessions = [control.seed_session("test", NIP, state="moving", invoices=[{}]) for _ in range(16)]
    for session in sessions:
        assert announced(status_path(session)).status_code == 200
    database.execute("UPDATE kept_sessions SET asked_at = asked_at - interval '1 hour'")
    control.clear_calls()
    control.fault("html-503", path="/v2/sessions$", times=None)
    answer = announced(status_path(sessions[0]))
    assert answer.status_code == 200
    counts = control.call_counts()
    assert counts["GET /{environment}/v2/sessions"] >= 1
    assert counts["GET /{environment}/v2/sessions/{reference}"] == 1
    assert answer.headers["Age"] == "0"
