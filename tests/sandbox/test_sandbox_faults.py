"""Faults on order: each one does what it says, to the calls it was meant for, as often as asked."""

import gzip
import http.client
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from lxml import etree

from app.upo.signature import verify_signature
from sandbox import fault_answers, server
from sandbox.control import Control, ControlError
from tests.sandbox.ksef_client import NIP, OTHER_NIP, sha256


@pytest.fixture
def seeded(control):
    return control.seed_session("test", NIP, invoices=25)


@pytest.fixture
def reference(seeded):
    return seeded.reference_number


def upo_path(seeded):
    return f"/sessions/{seeded.reference_number}/invoices/ksef/{seeded.ksef_numbers[0]}/upo"


def raw_answer(sandbox, path, bearer):
    """All bytes until the connection ends, and the error that ended it."""
    address = urlsplit(sandbox.url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(
            f"GET /test/v2{path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Authorization: Bearer {bearer}\r\n\r\n".encode()
        )
        content = b""
        try:
            while part := connection.recv(65536):
                content += part
        except OSError as error:
            return content, error
    return content, None


def test_any_status_body_and_headers(client, control, reference):
    control.fault("status", status=502, body="<h1>Bad Gateway</h1>", headers={"X-Why": "because"})
    answer = client.get(f"/sessions/{reference}")
    assert (answer.status_code, answer.text) == (502, "<h1>Bad Gateway</h1>")
    assert answer.headers["X-Why"] == "because"
    assert answer.headers["Content-Type"].startswith("text/html")

    control.fault("status", status=200, body={"status": [1, 2]})
    answer = client.get(f"/sessions/{reference}")
    assert answer.json() == {"status": [1, 2]}
    control.fault("status", status=302, headers={"Location": "http://example.test/"})
    answer = client.get(f"/sessions/{reference}", allow_redirects=False)
    assert answer.headers["Location"] == "http://example.test/"
    assert client.get(f"/sessions/{reference}").status_code == 200


@pytest.mark.parametrize(
    ("kind", "status", "media_type"),
    [
        ("html-503", 503, "text/html"),
        ("html-200", 200, "text/html"),
        ("waf-html-200", 200, "text/html"),
        ("waf-403", 403, "application/json"),
        ("waf-html-403", 403, "text/html"),
        ("forbidden", 403, "application/problem+json"),
        ("unauthorized", 401, "application/problem+json"),
        ("rate-limited", 429, "application/problem+json"),
        ("invalid-json", 200, "application/json"),
    ],
)
def test_answers_with_a_name(client, control, reference, kind, status, media_type):
    control.fault(kind)
    answer = client.get(f"/sessions/{reference}")

    assert answer.status_code == status
    assert answer.headers["Content-Type"].partition(";")[0] == media_type
    assert client.get(f"/sessions/{reference}").status_code == 200


def test_details_of_the_named_answers(client, control, reference):
    def next_answer(kind, **options):
        control.fault(kind, **options)
        return client.get(f"/sessions/{reference}")

    assert "incidentId" in next_answer("waf-403").json()["security"]
    assert "reasonCode" not in next_answer("waf-403").json()
    assert (
        next_answer("forbidden", reasonCode="ip-not-allowed").json()["reasonCode"]
        == "ip-not-allowed"
    )
    assert "Retry-After" not in next_answer("rate-limited").headers
    assert next_answer("rate-limited", retryAfter="-5").headers["Retry-After"] == "-5"
    assert next_answer("ksef-error", code=21418).json()["errors"][0]["code"] == 21418
    with pytest.raises(requests.JSONDecodeError):
        next_answer("invalid-json").json()


def test_heavy_bodies(client, control, reference):
    control.fault("oversize", bytes=3_000_000)
    assert len(client.get(f"/sessions/{reference}").content) == 3_000_000

    control.fault("gzip-bomb", bytes=5_000_000)
    answer = client.get(f"/sessions/{reference}", stream=True)
    packed = answer.raw.read(decode_content=False)
    assert len(packed) < 10_000
    assert len(gzip.decompress(packed)) == 5_000_000


def test_a_reset_comes_before_the_first_byte(sandbox, client, control, reference):
    control.fault("reset")
    content, error = raw_answer(sandbox, f"/sessions/{reference}", client.access_token)

    assert content == b""
    assert isinstance(error, ConnectionResetError)
    call = control.calls()[-1]
    assert (call.status, call.fault) == (None, "reset")
    assert client.get(f"/sessions/{reference}").status_code == 200


@pytest.mark.parametrize(
    ("kind", "head", "is_reset"),
    [
        ("truncated", b"Content-Length: ", False),
        ("cut-mid-body", b"Content-Length: ", True),
        ("cut-chunk", b"Transfer-Encoding: chunked", False),
        ("no-length", b"Connection: close", False),
    ],
)
def test_bodies_cut_in_the_middle(sandbox, client, control, seeded, kind, head, is_reset):
    whole = client.get(upo_path(seeded)).content
    control.fault(kind)
    content, error = raw_answer(sandbox, upo_path(seeded), client.access_token)

    headers, _, body = content.partition(b"\r\n\r\n")
    assert headers.startswith(b"HTTP/1.1 200")
    assert head in headers
    assert (b"Content-Length" in headers) == (b"Content-Length" in head)
    assert len(whole) // 2 <= len(body) < len(whole)
    assert isinstance(error, ConnectionResetError) == is_reset


def test_a_delay_comes_before_the_true_answer(client, control, reference):
    control.fault("delay", seconds=0.2)
    began = time.perf_counter()
    answer = client.get(f"/sessions/{reference}")

    assert time.perf_counter() - began >= 0.2
    assert answer.json()["invoiceCount"] == 25


@pytest.mark.parametrize("part", ["header", "body"])
def test_a_dripping_answer_arrives_slowly(client, control, reference, part):
    control.fault("drip", secondsPerByte=0.0005, part=part)
    began = time.perf_counter()
    answer = client.get(f"/sessions/{reference}")

    assert answer.json()["invoiceCount"] == 25
    assert time.perf_counter() - began >= 0.0005 * len(answer.content)


def test_a_hanging_answer_ends_when_the_sandbox_stops():
    with server.start() as running, Control(running.url) as control:
        control.fault("hang", seconds=600)
        address = urlsplit(running.url)
        waiting = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
        waiting.request("GET", "/test/v2/security/public-key-certificates")
        deadline = time.monotonic() + 5
        while not control.calls():
            assert time.monotonic() < deadline
        stopper = threading.Thread(target=running.stop)
        stopper.start()
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            waiting.getresponse()
        stopper.join(5)
        assert not stopper.is_alive()
        waiting.close()


def test_fields_of_the_true_answer_can_be_changed_and_dropped(client, control, reference):
    path = f"/sessions/{reference}/invoices"
    control.fault("drop-field", field="invoices.0.status")
    control.fault("set-field", field="invoices.1.ksefNumber", value=7)
    control.fault("set-field", field="unknownMember", value={"a": 1})

    first, second, third, true = (client.get(path).json() for _ in range(4))
    assert "status" not in first["invoices"][0]
    assert "status" in first["invoices"][1]
    assert second["invoices"][1]["ksefNumber"] == 7
    assert third["unknownMember"] == {"a": 1}
    assert true["invoices"][0]["status"]["code"] == 200


def test_headers_of_the_true_answer_can_be_changed(client, control, reference):
    control.fault("set-header", name="X-System-Warning", value="[1]: old")
    control.fault("set-header", name="Content-Type", value=None)

    assert client.get(f"/sessions/{reference}").headers["X-System-Warning"] == "[1]: old"
    assert "Content-Type" not in client.get(f"/sessions/{reference}").headers


def test_listings_that_break_the_rules(client, control, reference):
    path = f"/sessions/{reference}/invoices?pageSize=10"
    true = client.get(path).json()
    headers = {"x-continuation-token": true["continuationToken"]}

    control.fault("repeat-continuation-token")
    repeated = client.get(path, headers=headers).json()
    assert repeated["continuationToken"] == true["continuationToken"]
    assert repeated["invoices"][0]["ordinalNumber"] == 11

    control.fault("empty-page-with-token")
    empty = client.get(path, headers=headers).json()
    assert empty["invoices"] == []
    again = {"x-continuation-token": empty["continuationToken"]}
    resumed = client.get(path, headers=again).json()
    assert [invoice["ordinalNumber"] for invoice in resumed["invoices"]] == list(range(11, 21))

    control.fault("shorter-list")
    assert len(client.get(path).json()["invoices"]) == 9


def test_an_invoice_on_two_pages(client, control, reference):
    for skip in (0, 2):
        control.fault("duplicate-invoice", skip=skip)
        pages = client.pages(reference, page_size=10)
        numbers = [invoice["referenceNumber"] for page in pages for invoice in page]
        assert (len(numbers), len(set(numbers))) == (26, 25)
        assert control.waiting_faults() == []


@pytest.mark.parametrize(
    ("kind", "element", "default"),
    [
        ("upo-other-nip", "IdKontekstu/*", OTHER_NIP),
        ("upo-other-session", "NumerReferencyjnySesji", "20260101-SO-0000000000-0000000000-00"),
        ("upo-other-ksef-number", "NumerKSeFDokumentu", "5265877635-20250826-0100001AF629-AF"),
    ],
)
def test_upos_of_something_else_are_signed_and_hashed_all_the_same(
    client, control, seeded, kind, element, default
):
    control.fault(kind, value=default)
    answer = client.get(upo_path(seeded))

    steps = "/".join(
        step if step == "*" else f"*[local-name()='{step}']" for step in element.split("/")
    )
    assert etree.fromstring(answer.content).xpath(f"string(//{steps})") == default
    assert answer.headers["x-ms-meta-hash"] == sha256(answer.content)
    assert verify_signature(answer.content, control.signers("test")).state == "valid"


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("upo-tampered-value", "broken"),
        ("upo-tampered-signature", "broken"),
        ("upo-wrapped", "broken"),
        ("upo-two-signatures", "broken"),
        ("upo-pretty-printed", "broken"),
        ("upo-extra-transform", "unverifiable"),
        ("upo-sha1", "unverifiable"),
        ("upo-other-signer", "unknown_signer"),
        ("upo-expired-signer", "unknown_signer"),
        ("upo-unsigned", "unsigned"),
        ("upo-ecdsa", "valid"),
    ],
)
def test_upos_with_another_signature(client, control, seeded, kind, state):
    control.fault(kind)
    answer = client.get(upo_path(seeded))
    assert verify_signature(answer.content, control.signers("test")).state == state
    assert answer.headers["x-ms-meta-hash"] == sha256(answer.content)


def test_upos_in_a_wrong_form(client, control, seeded):
    true = client.get(upo_path(seeded))
    control.fault("wrong-hash")
    control.fault("no-hash")
    control.fault("upo-doctype")
    control.fault("upo-pdf")
    wrong, absent, doctype, pdf = (client.get(upo_path(seeded)) for _ in range(4))

    assert wrong.content == absent.content == true.content
    assert wrong.headers["x-ms-meta-hash"] != true.headers["x-ms-meta-hash"]
    assert "x-ms-meta-hash" not in absent.headers
    assert b"<!DOCTYPE Potwierdzenie" in doctype.content
    assert etree.fromstring(doctype.content).getroottree().docinfo.doctype
    assert pdf.content.startswith(b"%PDF-")
    assert pdf.headers["Content-Type"] == "application/pdf"
    for answer in (doctype, pdf):
        assert answer.headers["x-ms-meta-hash"] == sha256(answer.content)
    assert client.get(upo_path(seeded)).content == true.content


def test_a_fault_meets_only_the_calls_it_waits_for(
    client, make_client, control, download, reference
):
    demo = make_client("demo")
    control.fault("html-503", environment="test", method="get", path=r"/sessions/[^/]+$", times=2)

    assert demo.get("/security/public-key-certificates").status_code == 200
    assert client.post("/auth/challenge").status_code == 200
    assert client.get(f"/sessions/{reference}/invoices").status_code == 200
    assert [client.get(f"/sessions/{reference}").status_code for _ in range(3)] == [503, 503, 200]


def test_calls_can_be_let_pass_first(client, control, reference):
    control.fault("rate-limited", skip=2, path="/invoices$")
    path = f"/sessions/{reference}/invoices"

    assert [client.get(path).status_code for _ in range(4)] == [200, 200, 429, 200]


def test_a_fault_without_an_end_lasts_until_it_is_cleared(client, control, reference):
    first = control.fault("html-503", times=None)
    assert [client.get(f"/sessions/{reference}").status_code for _ in range(3)] == [503] * 3

    control.fault("waf-403", times=None)
    control.clear_faults(first)
    assert client.get(f"/sessions/{reference}").status_code == 403
    control.clear_faults()
    assert client.get(f"/sessions/{reference}").status_code == 200


def test_api_storage_and_latarnia_have_their_own_faults(sandbox, client, control, download, seeded):
    [invoice, *_] = client.pages(seeded.reference_number)[0]
    latarnia = f"{sandbox.url}/latarnia/test/status"
    control.fault("html-200", service="storage")
    control.fault("html-503", service="latarnia")

    assert (
        client.get(f"/sessions/{seeded.reference_number}")
        .headers["Content-Type"]
        .startswith("application/json")
    )
    blocked = download(invoice["upoDownloadUrl"])
    assert (blocked.status_code, blocked.headers["Content-Type"][:9]) == (200, "text/html")
    assert download(invoice["upoDownloadUrl"]).headers["Content-Type"] == "application/xml"
    assert [download(latarnia).status_code for _ in range(2)] == [503, 200]


def test_wrong_orders_are_refused(control):
    for order, message in (
        ({"kind": "earthquake"}, "unknown fault"),
        ({"kind": "ksef-error"}, "needs code"),
        ({"kind": "html-503", "service": "moon"}, "service"),
        ({"kind": "html-503", "path": "("}, "400"),
    ):
        with pytest.raises(ControlError, match=message):
            control.fault(**order)
    assert control.waiting_faults() == []


def test_an_answer_can_be_lost_after_the_call_was_carried_out(make_client, control):
    client = make_client()
    client.start_login(control.add_token("test", NIP))
    client.settled_login()
    control.fault("reset-after", path="/redeem$")
    with pytest.raises(requests.ConnectionError):
        client.redeem()

    assert client.redeem().json()["errors"][0]["code"] == 21301


def test_no_kind_of_fault_is_missing_from_these_tests():
    text = Path(__file__).read_text(encoding="utf-8")

    assert {
        kind for kind in fault_answers.INSTEAD | fault_answers.AFTERWARDS if f'"{kind}"' not in text
    } == set()
