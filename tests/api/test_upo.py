"""GET …/{ksefNumber}/upo: KSeF's document unchanged, or a PDF of it."""

import base64
import hashlib
import io
import re
from collections.abc import Callable
from datetime import date
from typing import Any

import pypdf
import pytest
import requests
from lxml import etree

from app.service import Service
from app.services.login.tokens import AccessToken
from app.services.upo import fetch
from sandbox import identifiers
from tests.answers import assert_problem
from tests.service import Company

NIP, OTHER_NIP = "5265877635", "7812019453"
UPO = "GET /{environment}/v2/sessions/{reference}/invoices/ksef/{ksef_number}/upo"
UPO_PATH = "/invoices/ksef/[^/]+/upo$"
PDF = "%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<<>>\n%%EOF"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.fixture
def company(make_company: Callable[..., Company]) -> Company:
    return make_company(NIP, environments=("test",))


@pytest.fixture
def session(company: Company, control: Any) -> Any:
    """A finished session of two accepted invoices and a rejected one."""
    made = control.seed_session("test", NIP, invoices=[{}, {"offline": True}, {"status": 450}])
    control.clear_calls()
    return made


def path(session: Any, ksef_number: str | None = None, doc_type: str | None = None) -> str:
    number = ksef_number or session.ksef_numbers[0]
    query = f"?docType={doc_type}" if doc_type else ""
    return f"/invoices/test/status/{session.reference_number}/{number}/upo{query}"


def upo_of_ksef(service: Service, sandbox: Any, session: Any, ksef_number: str) -> bytes:
    """The document as KSeF gives it to anybody with the company's bearer."""
    url = (
        f"{sandbox.url}/test/v2/sessions/{session.reference_number}/invoices/ksef/{ksef_number}/upo"
    )
    bearer = AccessToken(service.account(NIP, "test")).access_token()
    answer = requests.get(url, headers={"Authorization": f"Bearer {bearer}"}, timeout=5)
    answer.raise_for_status()
    return answer.content


def text_of(pdf: bytes) -> str:
    pages = pypdf.PdfReader(io.BytesIO(pdf)).pages
    return " ".join(" ".join(page.extract_text() for page in pages).split())


def signature_of(original: bytes, state: str = "valid") -> dict[str, str]:
    """What is told of the sandbox's signature."""
    root = etree.fromstring(original)
    [certificate] = root.iter("{*}X509Certificate")
    [signed_at] = root.iter("{*}SigningTime")
    return {
        "state": state,
        "signer": "Ministerstwo Finansów (SANDBOX), VATPL-5260250274",
        "signedAt": re.sub(r"\.[0-9]+", "", signed_at.text),
        "certificateSha256": hashlib.sha256(base64.b64decode(certificate.text)).hexdigest().upper(),
    }


# -- the answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("doc_type", [None, "xml"])
def test_xml_in_an_envelope_holds_ksef_s_bytes_unchanged(
    company: Company, service: Service, sandbox: Any, session: Any, doc_type: str | None
) -> None:
    number = session.ksef_numbers[1]
    original = upo_of_ksef(service, sandbox, session, number)
    assert b"Signature" in original

    response = company.get(path(session, number, doc_type))

    assert (response.status_code, response.content_type) == (200, "application/json")
    assert response.json == {
        "ksefNumber": number,
        "referenceNumber": session.reference_number,
        "docType": "xml",
        "contentType": "application/xml",
        "content": base64.b64encode(original).decode(),
        "fileName": f"{number}-upo.xml",
        "signature": signature_of(original),
    }
    assert response.headers["ETag"] == f'"{hashlib.sha256(original).hexdigest()}-json"'
    assert "Content-Disposition" not in response.headers
    assert response.headers["Cache-Control"] == "private, no-cache"
    assert response.headers["Vary"] == "Accept, Authorization"


def test_pdf_in_an_envelope_is_drawn_from_ksef_s_xml(
    company: Company, service: Service, sandbox: Any, session: Any
) -> None:
    number = session.ksef_numbers[1]
    response = company.get(path(session, number, "pdf"))
    content = base64.b64decode(response.json["content"], validate=True)
    assert {name: value for name, value in response.json.items() if name != "content"} == {
        "ksefNumber": number,
        "referenceNumber": session.reference_number,
        "docType": "pdf",
        "contentType": "application/pdf",
        "fileName": f"{number}-upo.pdf",
        "signature": signature_of(upo_of_ksef(service, sandbox, session, number)),
    }
    assert response.headers["ETag"] == f'"{hashlib.sha256(content).hexdigest()}-json"'
    text = text_of(content)
    for value in (number, session.reference_number, session.invoices[1].invoice_number, NIP):
        assert value in text
    assert session.ksef_numbers[0] not in text


def test_both_of_them_are_one_call_to_ksef_and_no_listing(
    company: Company, control: Any, session: Any
) -> None:
    company.get(path(session))
    company.get(path(session, doc_type="pdf"))
    assert control.call_counts() == {UPO: 1}


# docType, Accept, whether the document itself is sent
NEGOTIATIONS = [
    ("xml", "application/xml", True),
    ("pdf", "application/pdf", True),
    ("pdf", "Application/PDF", True),
    ("pdf", "application/pdf;q=0.5", True),
    ("pdf", "application/pdf, */*;q=0.1", True),
    ("pdf", "application/pdf, application/json;q=0.5", True),
    ("xml", BROWSER, True),
    # What clients of HTTP send unless they are told otherwise: they read JSON as well.
    ("xml", "application/json, text/json, text/x-json, text/javascript, application/xml", False),
    ("xml", "application/xml, application/json", False),
    ("xml", "text/plain, application/xml, application/*+json, */*", False),
    ("pdf", "application/pdf, */*", False),
    ("xml", "application/json;charset=utf-8, application/xml", False),
    ("xml", "application/json; odata=verbose, application/xml;q=0.5", False),
    ("xml", "application/json;q=0, application/xml;q=0.5, */*", True),
    ("pdf", "application/pdf, application/*;q=0.9", True),
    ("pdf", "application/pdf;q=0.4, application/*;q=0.5", False),
    ("pdf", BROWSER, False),
    ("pdf", "application/json, application/pdf;q=0.9", False),
    ("pdf", "application/pdf;q=0", False),
    ("pdf", "*/*", False),
    ("pdf", "application/*", False),
    ("pdf", "application/json", False),
    ("pdf", "application/xml", False),
    ("xml", "application/pdf", False),
    ("xml", "text/xml", False),
    ("xml", None, False),
]


def test_document_itself_is_sent_where_accept_names_its_type(
    company: Company, session: Any
) -> None:
    for doc_type, accept, document in NEGOTIATIONS:
        response = company.get(
            path(session, doc_type=doc_type), headers={"Accept": accept} if accept else {}
        )
        assert response.status_code == 200
        sent = response.content_type == f"application/{doc_type}"
        assert sent is document, (doc_type, accept)
        assert (response.content_type == "application/json") is not document
        assert ("Content-Disposition" in response.headers) is document


@pytest.mark.parametrize("doc_type", ["xml", "pdf"])
def test_document_itself_is_what_the_envelope_holds(
    company: Company, session: Any, doc_type: str
) -> None:
    enveloped = company.get(path(session, doc_type=doc_type)).json
    headers = {"Accept": f"application/{doc_type}"}
    response = company.get(path(session, doc_type=doc_type), headers=headers)
    assert response.data == base64.b64decode(enveloped["content"])
    assert response.headers["ETag"] == f'"{hashlib.sha256(response.data).hexdigest()}"'
    assert (
        response.headers["Content-Disposition"] == f'attachment; filename="{enveloped["fileName"]}"'
    )


@pytest.mark.parametrize("whole", [False, True], ids=["of an invoice", "of the session"])
@pytest.mark.parametrize("accept", ["application/pdf", "application/json"])
def test_a_pdf_that_the_caller_has_is_not_drawn_again(
    company: Company, session: Any, monkeypatch: pytest.MonkeyPatch, whole: bool, accept: str
) -> None:
    asked = path(session, doc_type="pdf")
    if whole:
        asked = f"/invoices/test/status/{session.reference_number}/upo?docType=pdf"
    tag = company.get(asked, headers={"Accept": accept}).headers["ETag"]

    def draw(*_: Any, **__: Any) -> bytes:
        raise AssertionError("it is drawn")

    monkeypatch.setattr(fetch, "render_upo", draw)
    answer = company.get(asked, headers={"Accept": accept, "If-None-Match": tag})
    assert (answer.status_code, answer.data) == (304, b"")
    assert answer.headers["ETag"] == tag


@pytest.mark.parametrize("doc_type", ["xml", "pdf"])
@pytest.mark.parametrize("accept", ["document", "*/*"])
def test_same_document_is_304(company: Company, session: Any, doc_type: str, accept: str) -> None:
    headers = {"Accept": f"application/{doc_type}" if accept == "document" else accept}
    tag = company.get(path(session, doc_type=doc_type), headers=headers).headers["ETag"]
    again = company.get(path(session, doc_type=doc_type), headers={**headers, "If-None-Match": tag})
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["ETag"] == tag


CONDITIONS = [
    ({"If-None-Match": "{tag}"}, 304),
    ({"If-None-Match": "W/{tag}"}, 304),
    ({"If-None-Match": '"other", {tag}'}, 304),
    ({"If-None-Match": "*"}, 304),
    ({"If-None-Match": '"other"'}, 200),
    ({"If-Match": '"other"'}, 200),
    ({"If-Match": "{tag}"}, 200),
    ({"If-Match": '"other"', "If-None-Match": "{tag}"}, 304),
    ({"If-Match": "{tag}", "If-None-Match": '"other"'}, 200),
    ({"If-Unmodified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"}, 200),
    ({"If-Modified-Since": "Thu, 01 Jan 2099 00:00:00 GMT"}, 200),
    ({"Range": "bytes=0-9"}, 200),
    ({"Range": "bytes=0-9", "If-Range": "{tag}"}, 200),
    ({"Range": "bytes=99999999-"}, 200),
]


@pytest.mark.parametrize("what", ["status", "document", "envelope", "collective"])
def test_no_condition_is_obeyed_but_if_none_match(
    company: Company, session: Any, what: str, subtests: Any
) -> None:
    status = f"/invoices/test/status/{session.reference_number}"
    asked = {"status": status, "collective": f"{status}/upo"}.get(what, path(session))
    accept = {"Accept": "application/xml" if what == "document" else "application/json"}
    whole = company.get(asked, headers=accept)
    tag = whole.headers["ETag"].removeprefix("W/")
    for condition, expected in CONDITIONS:
        with subtests.test(condition=condition):
            headers = {name: value.format(tag=tag) for name, value in condition.items()}
            answer = company.get(asked, headers=accept | headers)
            assert answer.status_code == expected
            assert answer.headers["ETag"] == whole.headers["ETag"]
            assert len(answer.data) == (0 if expected == 304 else len(whole.data))


def test_tag_of_the_envelope_does_not_stand_for_the_document(
    company: Company, session: Any
) -> None:
    tag = company.get(path(session)).headers["ETag"]
    response = company.get(
        path(session), headers={"Accept": "application/xml", "If-None-Match": tag}
    )
    assert response.status_code == 200


# -- is it the one asked for ----------------------------------------------------------------


@pytest.mark.parametrize("doc_type", ["xml", "pdf"])
@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("wrong-hash", {}, "hash"),
        ("set-header", {"name": "x-ms-meta-hash", "value": "no Base64"}, "hash"),
        ("set-header", {"name": "x-ms-meta-hash", "value": "AAAA"}, "hash"),
        ("upo-other-session", {}, "another session"),
        ("upo-other-nip", {"value": OTHER_NIP}, "another company"),
        ("upo-other-ksef-number", {}, "does not hold the KSeF number"),
    ],
)
def test_upo_that_is_not_the_one_asked_for_is_not_handed_out(
    company: Company,
    control: Any,
    session: Any,
    doc_type: str,
    kind: str,
    options: dict[str, str],
    words: str,
) -> None:
    control.fault(kind, path=UPO_PATH, **options)
    body = assert_problem(company.get(path(session, doc_type=doc_type)), 502, "upo_integrity")
    assert words in body["detail"]
    assert company.get(path(session, doc_type=doc_type)).status_code == 200


def test_upo_without_a_hash_is_handed_out(company: Company, control: Any, session: Any) -> None:
    control.fault("no-hash", path=UPO_PATH)
    given = company.get(path(session)).json
    assert control.waiting_faults() == []
    assert base64.b64decode(given["content"]).startswith(b"<?xml")


@pytest.mark.parametrize("kind", ["upo-other-session", "upo-other-nip", "upo-other-ksef-number"])
def test_right_hash_alone_does_not_make_it_the_right_upo(
    company: Company, control: Any, session: Any, kind: str
) -> None:
    """The fault signs and hashes its changed document anew: only what stands in it is wrong."""
    options = {"value": OTHER_NIP} if kind == "upo-other-nip" else {}
    control.fault(kind, path=UPO_PATH, **options)
    assert_problem(company.get(path(session)), 502, "upo_integrity")


@pytest.mark.parametrize("doc_type", ["xml", "pdf"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("upo-doctype", {}),
        ("upo-doctype", {"doctype": '<!DOCTYPE p SYSTEM "file:///etc/passwd">'}),
        ("invalid-json", {}),
        ("status", {"status": 200, "body": ""}),
        ("status", {"status": 200, "body": "<a/>"}),
        ("html-200", {}),
        ("oversize", {}),
        ("gzip-bomb", {}),
    ],
)
def test_what_is_no_upo_is_not_handed_out(
    company: Company,
    control: Any,
    session: Any,
    doc_type: str,
    kind: str,
    options: dict[str, Any],
) -> None:
    control.fault(kind, path=UPO_PATH, **options)
    response = company.get(path(session, doc_type=doc_type))
    assert_problem(response, 502, "ksef_invalid_response")
    assert control.call_counts() == {UPO: 1}


def sends_pdf(control: Any, hash_header: str | None) -> None:
    headers = {"x-ms-meta-hash": hash_header} if hash_header else {}
    control.fault("status", path=UPO_PATH, status=200, body=PDF, headers=headers)


@pytest.mark.parametrize("accept", ["application/pdf", "*/*"])
def test_pdf_of_ksef_s_own_is_passed_on_unchanged(
    company: Company, control: Any, session: Any, accept: str
) -> None:
    sends_pdf(control, identifiers.sha256_base64(PDF.encode()))
    response = company.get(path(session, doc_type="pdf"), headers={"Accept": accept})
    assert response.status_code == 200
    document = response.data if accept != "*/*" else base64.b64decode(response.json["content"])
    assert document == PDF.encode()
    assert hashlib.sha256(PDF.encode()).hexdigest() in response.headers["ETag"]


@pytest.mark.parametrize(
    ("doc_type", "hashed", "code"),
    [
        ("pdf", None, "ksef_invalid_response"),
        ("pdf", PDF + " ", "upo_integrity"),
        ("xml", PDF, "ksef_invalid_response"),
    ],
    ids=["without a hash", "of another hash", "where XML was asked for"],
)
def test_pdf_of_ksef_s_own_is_not_passed_on(
    company: Company, control: Any, session: Any, doc_type: str, hashed: str | None, code: str
) -> None:
    sends_pdf(control, identifiers.sha256_base64(hashed.encode()) if hashed else None)
    assert_problem(company.get(path(session, doc_type=doc_type)), 502, code)


# -- where there is none --------------------------------------------------------------------


@pytest.mark.parametrize("doc_type", ["xml", "pdf"])
def test_upo_that_ksef_does_not_have_may_still_come(
    company: Company, control: Any, session: Any, doc_type: str
) -> None:
    unknown = identifiers.ksef_number(NIP, date(2026, 1, 1), "unknown")
    response = company.get(path(session, unknown, doc_type))
    body = assert_problem(
        response,
        404,
        "upo_not_available",
        retry_after=1,
        also=["ksef"],
    )
    assert body["ksef"]["httpStatus"] == 400
    assert body["ksef"]["code"] == 21178
    assert body["ksef"]["description"]
    assert control.call_counts() == {UPO: 1}


def test_upo_comes_as_soon_as_the_invoice_is_accepted(company: Company, control: Any) -> None:
    moving = control.seed_session(
        "test",
        NIP,
        state="open",
        invoices=[{"status": 150, "ksefNumber": "5265877635-20260329-0100001AF629-4F"}],
    )
    number = "5265877635-20260329-0100001AF629-4F"
    assert_problem(
        company.get(path(moving, number)),
        404,
        "upo_not_available",
        retry_after=1,
        also=["ksef"],
    )
    control.change_invoice("test", moving.reference_number, 1, status=200)
    assert company.get(path(moving, number)).status_code == 200


@pytest.mark.parametrize("doc_type", ["xml", "pdf"])
def test_upo_of_another_company_s_invoice_is_not_there(
    company: Company,
    make_company: Callable[..., Company],
    control: Any,
    session: Any,
    doc_type: str,
) -> None:
    other = make_company(OTHER_NIP, environments=("test",))
    response = other.get(path(session, doc_type=doc_type))
    assert response.status_code == 404
    assert response.json["code"] == "upo_not_available"
    assert company.get(path(session, doc_type=doc_type)).status_code == 200


def test_upo_of_an_invoice_is_not_that_of_another_session(
    company: Company, control: Any, session: Any
) -> None:
    another = control.seed_session("test", NIP)
    response = company.get(path(another, session.ksef_numbers[0]))
    assert (response.status_code, response.json["code"]) == (404, "upo_not_available")
