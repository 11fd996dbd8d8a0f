"""GET …/status/{referenceNumber}/upo: the collective UPO in JSON, as a ZIP, as a document."""

import base64
import io
import stat
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.test import TestResponse

from app.service import Service
from tests.answers import assert_problem
from tests.service import Company

NIP = "5265877635"
XML, PDF, ZIP = "application/xml", "application/pdf", "application/zip"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.fixture
def company(make_company: Callable[..., Company]) -> Company:
    return make_company(NIP, environments=("test",))


@pytest.fixture
def session(company: Company, control: Any) -> Any:
    """A session whose collective UPO is one page."""
    return control.seed_session("test", NIP, kind="batch", invoices=5)


@pytest.fixture
def long_session(company: Company, control: Any) -> Any:
    """A session whose collective UPO is three pages."""
    control.settings(upoPageSize=2)
    return control.seed_session("test", NIP, kind="batch", invoices=5)


def ask(
    company: Company, session: Any, accept: str | None, doc_type: str = "xml", **headers: str
) -> TestResponse:
    asked = f"/invoices/test/status/{session.reference_number}/upo?docType={doc_type}"
    return company.get(asked, headers={**({"Accept": accept} if accept else {}), **headers})


def unpacked(answer: TestResponse) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(answer.data)) as packed:
        assert packed.testzip() is None
        return [(name, packed.read(name)) for name in packed.namelist()]


# docType, Accept, what is sent of one page, what of several
NEGOTIATIONS = [
    ("xml", None, "application/json", "application/json"),
    ("xml", "*/*", "application/json", "application/json"),
    ("xml", "application/*", "application/json", "application/json"),
    ("xml", "application/json", "application/json", "application/json"),
    ("xml", "text/xml", "application/json", "application/json"),
    ("xml", ZIP, ZIP, ZIP),
    ("pdf", "Application/ZIP", ZIP, ZIP),
    ("pdf", "application/zip;q=0.1", ZIP, ZIP),
    ("xml", "application/zip;q=0", "application/json", "application/json"),
    ("xml", "application/zip, application/json", "application/json", "application/json"),
    ("xml", "application/zip, */*", "application/json", "application/json"),
    ("xml", "application/zip, */*;q=0.1", ZIP, ZIP),
    ("xml", "application/json;q=0.5, application/zip;q=0.6", ZIP, ZIP),
    ("xml", XML, XML, "application/json"),
    ("pdf", PDF, PDF, "application/json"),
    ("pdf", XML, "application/json", "application/json"),
    ("xml", PDF, "application/json", "application/json"),
    ("xml", BROWSER, XML, "application/json"),
    ("pdf", "application/pdf, application/json;q=0.9", PDF, "application/json"),
    ("pdf", "application/pdf;q=0.9, application/json", "application/json", "application/json"),
    ("pdf", "application/pdf, application/zip;q=0.9", PDF, ZIP),
    ("pdf", "application/pdf;q=0.8, application/zip;q=0.9", ZIP, ZIP),
    ("pdf", "application/pdf, application/zip;q=0.9, */*;q=0.95", PDF, "application/json"),
]


@pytest.mark.parametrize("pages", ["one page", "several pages"])
def test_accept_decides_by_its_weights(
    company: Company, control: Any, session: Any, pages: str, subtests: Any
) -> None:
    if pages == "several pages":
        control.settings(upoPageSize=2)
        session = control.seed_session("test", NIP, kind="batch", invoices=5)
    for doc_type, accept, of_one, of_several in NEGOTIATIONS:
        with subtests.test(doc_type=doc_type, accept=accept):
            answer = ask(company, session, accept, doc_type)
            assert answer.status_code == 200
            assert answer.content_type == (of_one if pages == "one page" else of_several)
            assert answer.headers["Vary"] == "Accept, Authorization"
            assert answer.headers["Cache-Control"] == "private, no-cache"
            is_file = answer.content_type != "application/json"
            assert ("Content-Disposition" in answer.headers) is is_file
            assert ("UPO-Signature" in answer.headers) is is_file


@pytest.mark.parametrize(("doc_type", "begin"), [("xml", b"<?xml"), ("pdf", b"%PDF-")])
def test_the_zip_holds_all_pages_in_order_as_the_json_does(
    company: Company, long_session: Any, doc_type: str, begin: bytes
) -> None:
    told = ask(company, long_session, None, doc_type).json["pages"]
    answer = ask(company, long_session, ZIP, doc_type)
    assert len(told) == 3
    assert unpacked(answer) == [
        (page["fileName"], base64.b64decode(page["content"])) for page in told
    ]
    assert all(content.startswith(begin) for _, content in unpacked(answer))
    name = f"{long_session.reference_number}-upo.zip"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}"'
    assert ask(company, long_session, ZIP, doc_type).data == answer.data


def test_files_out_of_the_zip_can_be_read_by_everybody(company: Company, session: Any) -> None:
    with zipfile.ZipFile(io.BytesIO(ask(company, session, ZIP).data)) as packed:
        [entry] = packed.infolist()
    assert stat.S_IMODE(entry.external_attr >> 16) == 0o644


@pytest.mark.parametrize(("doc_type", "accept"), [("xml", XML), ("pdf", PDF)])
def test_the_only_page_is_the_document_of_the_json(
    company: Company, session: Any, doc_type: str, accept: str
) -> None:
    [page] = ask(company, session, None, doc_type).json["pages"]
    answer = ask(company, session, accept, doc_type)
    assert answer.data == base64.b64decode(page["content"])
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{page["fileName"]}"'
    assert answer.headers["UPO-Signature"] == page["signature"]["state"] == "valid"


def test_each_form_has_its_own_tag(company: Company, session: Any) -> None:
    tags = {accept: ask(company, session, accept).headers["ETag"] for accept in (None, XML, ZIP)}
    assert len(set(tags.values())) == 3
    for accept in tags:
        for of, tag in tags.items():
            answer = ask(company, session, accept, **{"If-None-Match": tag})
            assert answer.status_code == (304 if accept == of else 200)
            assert (answer.data == b"") is (accept == of)


def test_a_zip_tells_the_least_certain_of_its_signatures(
    company: Company, control: Any, long_session: Any
) -> None:
    control.fault("upo-other-signer", path=f"/upo/{long_session.upo_pages[1]}$")
    told = ask(company, long_session, None).json["pages"]
    assert [page["signature"]["state"] for page in told] == ["valid", "unknown_signer", "valid"]
    assert ask(company, long_session, ZIP).headers["UPO-Signature"] == "unknown_signer"


def test_the_whole_is_fetched_once_and_then_comes_from_the_archive(
    company: Company, control: Any, service: Service, long_session: Any
) -> None:
    control.clear_calls()
    assert ask(company, long_session, ZIP).status_code == 200
    assert len(control.calls()) == 1 + len(long_session.upo_pages)  # its status, then each page
    control.clear_calls()
    assert ask(company, long_session, ZIP, "pdf").status_code == 200
    assert control.calls() == []


def test_page_in_the_place_of_another_is_neither_given_nor_kept(
    company: Company, control: Any, database: Any, long_session: Any
) -> None:
    """It is of this session and signed, but the receipt of two invoices would be missing."""
    whole = ask(company, long_session, None).json["pages"]
    third = long_session.upo_pages[2]
    database.execute("DELETE FROM upos")
    body = base64.b64decode(whole[1]["content"]).decode()
    control.fault("status", status=200, body=body, path=f"/upo/{third}$")
    problem = assert_problem(ask(company, long_session, ZIP), 502, "upo_integrity")
    assert "another page" in problem["detail"]
    assert database.execute("SELECT count(*) FROM upos") == [(2,)]
    assert ask(company, long_session, None).json["pages"] == whole


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 0, 2, 1)])
def test_pages_are_in_their_order_however_ksef_lists_them(
    company: Company, control: Any, long_session: Any, order: tuple[int, ...]
) -> None:
    pages = [{"referenceNumber": long_session.upo_pages[place]} for place in order]
    control.fault("set-field", field="upo.pages", value=pages, path="/sessions/[^/]*$")
    first = ask(company, long_session, None)
    told = [page["referenceNumber"] for page in first.json["pages"]]
    assert control.waiting_faults() == []
    assert told == list(long_session.upo_pages)
    assert ask(company, long_session, None).data == first.data


def test_part_of_the_pages_is_not_the_collective_upo(
    company: Company, control: Any, long_session: Any
) -> None:
    pages = [{"referenceNumber": number} for number in long_session.upo_pages[:2]]
    control.fault("set-field", field="upo.pages", value=pages, path="/sessions/[^/]*$")
    problem = assert_problem(ask(company, long_session, ZIP), 502, "upo_integrity")
    assert "not the whole" in problem["detail"]
    assert len(ask(company, long_session, None).json["pages"]) == 3


def test_failing_in_the_middle_it_goes_on_where_it_was(
    company: Company, control: Any, long_session: Any
) -> None:
    control.fault("wrong-hash", path=f"/upo/{long_session.upo_pages[1]}$")
    assert_problem(ask(company, long_session, ZIP), 502, "upo_integrity")
    control.clear_calls()
    assert len(unpacked(ask(company, long_session, ZIP))) == 3
    asked = [call.path.rpartition("/")[2] for call in control.calls()]
    assert asked[1:] == list(long_session.upo_pages[1:])


def test_without_one_the_answer_is_a_problem_whatever_accept_says(
    company: Company, control: Any
) -> None:
    moving = control.seed_session("test", NIP, state="moving", invoices=1)
    answer = ask(company, moving, ZIP)
    assert_problem(answer, 404, "upo_not_available", retry_after=1)
