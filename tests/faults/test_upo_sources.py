"""Rows 10, 13 to 17 and 42 of the fault matrix: documents that are not there, or not the right one.

A UPO comes by a download link, where the session was checked before, or by KSeF's API.
"""

import base64
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.services.sessions import check as status
from sandbox.relay import Relay
from tests.answers import assert_problem
from tests.faults.conftest import NIP, Asker
from tests.journeys.conftest import RunningService
from tests.journeys.test_tokens_end_together import workers
from tests.services.upo.test_fetch import change_links

INTEGRITY, INVALID = "upo_integrity", "ksef_invalid_response"
OTHER_NIP = "7812019453"
STORAGE, API = "GET 200 storage", "GET 200 api"
# (row, fault, options, what is told where both sources are like that)
DOCUMENTS = [
    (10, "html-200", {}, INVALID),
    (13, "wrong-hash", {}, INTEGRITY),
    (14, "upo-doctype", {}, INVALID),
    (14, "upo-doctype", {"doctype": '<!DOCTYPE p SYSTEM "file:///etc/passwd">'}, INVALID),
    (14, "upo-doctype", {"doctype": '<!DOCTYPE p SYSTEM "http://{elsewhere}/x">'}, INVALID),
    (14, "upo-doctype", {"doctype": '<!DOCTYPE p [<!ENTITY a "a"><!ENTITY b "&a;&a;">]>'}, INVALID),
    (14, "upo-other-session", {}, INTEGRITY),
    (14, "upo-other-nip", {"value": OTHER_NIP}, INTEGRITY),
    (14, "upo-other-ksef-number", {}, INTEGRITY),
    (14, "oversize", {}, INVALID),
    (14, "gzip-bomb", {"bytes": 33 * 2**20}, INVALID),
    (42, "upo-tampered-value", {}, INTEGRITY),
    (42, "upo-tampered-signature", {}, INTEGRITY),
    (42, "upo-wrapped", {}, INTEGRITY),
    (42, "upo-two-signatures", {}, INTEGRITY),
    (42, "upo-pretty-printed", {}, INTEGRITY),
]
EACH = pytest.mark.parametrize(
    ("kind", "options", "code"),
    [
        pytest.param(kind, options, code, marks=pytest.mark.fault(row), id=f"{row} {kind} {number}")
        for number, (row, kind, options, code) in enumerate(DOCUMENTS)
    ],
)


@pytest.fixture
def elsewhere(sandbox: Any) -> Iterator[Relay]:
    """Somebody else's server, which would answer as KSeF does."""
    with Relay(urlsplit(sandbox.url).port) as elsewhere:
        yield elsewhere


@pytest.fixture
def strike(asker: Asker, elsewhere: Relay) -> Callable[..., None]:
    def fault(kind: str, options: dict[str, Any], **order: Any) -> None:
        if doctype := options.get("doctype"):
            address = f"127.0.0.1:{elsewhere.port}"
            options = {"doctype": doctype.replace("{elsewhere}", address)}
        asker.control.fault(kind, **order, **options)

    return fault


@pytest.fixture
def linked(asker: Asker) -> Asker:
    """The session was checked before: its download links are kept."""
    account = asker.company.account()
    status.check_session(account, asker.session.reference_number)
    asker.control.clear_calls()
    return asker


def sources(asker: Asker) -> list[str]:
    """Where the document was asked for."""
    return [
        f"{call.method} {call.status} {call.service}"
        for call in asker.control.calls()
        if call.path.endswith("/upo") or call.service == "storage"
    ]


def archived(asker: Asker) -> list[bytes]:
    return [bytes(content) for (content,) in asker.database.execute("SELECT content FROM upos")]


def assert_given(asker: Asker) -> None:
    """The document itself, also to the archive."""
    answer = asker.ask("upo")
    assert answer.status_code == 200, answer.text
    content = base64.b64decode(answer.json["content"])
    assert asker.session.ksef_numbers[0].encode() in content
    assert archived(asker) == [content]


def peak_memory(replica: RunningService) -> int:
    """The most that its worker ever took, in bytes."""
    [worker] = workers(replica)
    lines = Path(f"/proc/{worker}/status").read_text().splitlines()
    [peak] = [line for line in lines if line.startswith("VmHWM:")]
    return int(peak.split()[1]) * 1024


# -- 10, 13, 14: not the document -----------------------------------------------------------


@EACH
def test_link_that_gives_something_else_is_followed_by_the_api(
    linked: Asker, elsewhere: Relay, strike: Any, kind: str, options: Any, code: str
) -> None:
    strike(kind, options, service="storage")
    assert_given(linked)
    assert [source.split()[2] for source in sources(linked)] == ["storage", "api"]
    assert elsewhere.connections == 0


@EACH
def test_both_sources_wrong(
    linked: Asker, elsewhere: Relay, strike: Any, kind: str, options: Any, code: str
) -> None:
    strike(kind, options, service="any", path="upo|storage", times=2)
    answer = linked.ask("upo")
    assert_problem(answer, 502, code)
    assert archived(linked) == []
    assert len(sources(linked)) == 2
    assert elsewhere.connections == 0
    assert_given(linked)


@EACH
def test_api_without_a_link_before(
    asker: Asker, elsewhere: Relay, strike: Any, kind: str, options: Any, code: str
) -> None:
    replica = asker.replicas[0]
    assert asker.get("/livez", of=replica).status_code == 200
    before = peak_memory(replica)
    strike(kind, options, path="/upo$")
    answer = asker.ask("upo", of=replica)
    assert_problem(answer, 502, code)
    assert peak_memory(replica) - before < 128 * 2**20
    assert len(sources(asker)) == 1
    assert asker.wrote_nothing()
    assert elsewhere.connections == 0


@pytest.mark.fault(13)
@pytest.mark.parametrize("source", ["storage", "api"])
def test_without_a_hash_it_is_archived(linked: Asker, source: str) -> None:
    if source == "api":
        linked.database.execute("UPDATE kept_invoices SET link = NULL")
    linked.control.fault("no-hash", service=source)
    assert_given(linked)
    assert sources(linked) == [f"GET 200 {source}"]
    assert linked.control.waiting_faults() == []


@pytest.mark.fault(42)
@pytest.mark.parametrize("kind", ["upo-other-signer", "upo-unsigned", "upo-sha1"])
def test_link_that_gives_what_is_not_trusted_is_enough(linked: Asker, kind: str) -> None:
    linked.control.fault(kind, service="storage")
    assert_given(linked)
    assert sources(linked) == [STORAGE]


# -- 15, 16: links --------------------------------------------------------------------------


def put_links(asker: Asker, change: Callable[[str], str], **options: Any) -> None:
    asking = SimpleNamespace(
        service=asker.service, account=asker.company.account(), database=asker.database
    )
    change_links(asking, change, **options)


ELSEWHERE = {
    "another port": lambda url, port: url.replace(f":{urlsplit(url).port}", f":{port}"),
    "another scheme": lambda url, _: url.replace("http://", "https://"),
    "another host": lambda url, _: url.replace("127.0.0.1", "localhost"),
    "userinfo": lambda url, port: url.replace("http://", f"http://127.0.0.1:{port}@"),
    "no port": lambda url, _: url.replace(f":{urlsplit(url).port}", ""),
    "a file": lambda _url, _port: "file:///etc/passwd",
    "CRLF": lambda url, _: url + "\r\nX: y",
}


@pytest.mark.fault(15)
@pytest.mark.parametrize("change", ELSEWHERE.values(), ids=ELSEWHERE)
def test_link_to_somebody_else_is_never_requested(
    linked: Asker, elsewhere: Relay, change: Any
) -> None:
    put_links(linked, lambda url: change(url, elsewhere.port))
    assert_given(linked)
    assert sources(linked) == [API]
    assert elsewhere.connections == 0


@pytest.mark.fault(15)
@pytest.mark.parametrize("code", [301, 302, 307, 308])
@pytest.mark.parametrize("where", ["link", "status", "upo"])
def test_no_redirect_is_followed(linked: Asker, elsewhere: Relay, where: str, code: int) -> None:
    redirect = {"status": code, "headers": {"Location": f"{elsewhere.url}/test/v2/x"}}
    if where == "link":
        linked.control.fault("status", service="storage", **redirect)
        assert_given(linked)
    else:
        linked.database.execute("DELETE FROM kept_invoices; DELETE FROM kept_sessions")
        linked.control.fault("status", path="/sessions/", **redirect)
        answer = linked.ask(where)
        assert_problem(answer, 502, "ksef_error", also={"ksef"})
        assert len(linked.calls()) == 1
    assert elsewhere.connections == 0


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    "fault",
    [
        *({"kind": "status", "status": code, "body": "<Error/>"} for code in (403, 404, 410, 500)),
        {"kind": "reset"},
        {"kind": "hang"},
        {"kind": "truncated"},
    ],
    ids=lambda fault: f"{fault['kind']} {fault.get('status', '')}",
)
def test_link_that_fails_is_followed_by_the_api(linked: Asker, fault: Any) -> None:
    linked.control.fault(**fault, service="storage")
    assert_given(linked)
    assert sources(linked)[-1] == API


@pytest.mark.fault(16)
def test_link_that_ended_is_not_asked(linked: Asker) -> None:
    put_links(linked, lambda url: url, valid_for=timedelta(seconds=-1))
    assert_given(linked)
    assert sources(linked) == [API]


# -- 17: not there --------------------------------------------------------------------------


@pytest.mark.fault(17)
def test_session_that_ksef_does_not_know(asker: Asker) -> None:
    asker.control.remove_session("test", asker.session.reference_number)
    answer = asker.ask("status")
    told = answer.json["retryAfter"]  # it is of today
    assert_problem(answer, 404, "session_not_found", retry_after=told, also={"ksef"})
    assert answer.json["ksef"]["code"] == 21173
    assert len(asker.calls()) == 1
    assert not any(asker.linked())


@pytest.mark.fault(17)
@pytest.mark.parametrize("code", [100, 150])
def test_invoice_that_ksef_still_works_on(asker: Asker, code: int) -> None:
    invoices = [{"status": code}]
    moving = asker.control.seed_session("test", NIP, state="moving", invoices=invoices)
    answer = asker.ask("upo", moving)
    told = answer.json["retryAfter"]
    assert_problem(answer, 404, "upo_not_available", retry_after=told, also={"ksef"})
    assert answer.json["ksef"]["code"] == 21178
    assert len(asker.calls()) == 1
    assert archived(asker) == []
