"""Rows 32 to 34 of the fault matrix, as a caller meets them: what is asked, and what is drawn."""

import base64
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.faults.conftest import BOTH, NIP, Asker

NUMBER = "5265877635-20250826-0100001AF629-AF"
SESSION = "20260101-SO-0123456789-0123456789-01"
HOSTILE = {
    "CRLF": ("20260101-SO-X%0d%0aX-Evil:%20yes", 400),
    "NUL": ("20260101-SO-%00", 400),
    "dots": ("..", 400),
    "digits of another script": (quote("٢٠٢٦٠١٠١-SO-0123456789-01"), 400),
    "a long one": ("20260101-SO-" + "A" * 300, 400),
    "SQL": (quote("20260101-SO-A' OR '1'='1"), 400),
    "an encoded slash": ("..%2f..%2fetc", 404),
    "a line of 9 kB": ("A" * 9000, 414),
}


def raw(asker: Asker, path: str) -> tuple[int, bytes, str]:
    """Status, body and headers of a path that is sent as it is."""
    url = urlsplit(asker.replicas[0].url)
    connection = HTTPConnection(url.hostname or "", url.port, timeout=10)
    try:
        connection.request("GET", path, headers=asker.company.authorization)
        answer = connection.getresponse()
        return answer.status, answer.read(), str(answer.headers)
    finally:
        connection.close()


@pytest.mark.fault(33)
@BOTH
@pytest.mark.parametrize(("given", "status"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_numbers_reach_nobody(asker: Asker, endpoint: str, given: str, status: int) -> None:
    path = f"/invoices/test/status/{given}"
    if endpoint == "upo":
        path = f"/invoices/test/status/{SESSION}/{given}/upo"
    found, body, headers = raw(asker, path)
    assert found == status
    assert status == 414 or f'"status":{status}'.encode() in body
    assert "Evil" not in headers
    assert asker.control.calls() == []
    assert asker.wrote_nothing()


@pytest.mark.fault(33)
@pytest.mark.parametrize("query", ["docType=xml&docType=pdf", "docType=exe", "docType=", "x=1"])
def test_bad_queries_reach_nobody(asker: Asker, query: str) -> None:
    status, body, _ = raw(asker, f"/invoices/test/status/{SESSION}/{NUMBER}/upo?{query}")
    assert status == 400
    assert b"invalid_parameter" in body
    assert asker.control.calls() == []


@pytest.mark.fault(32)
@BOTH
@pytest.mark.parametrize("stored", [False, True], ids=["cold", "stored"])
def test_simulation_ends_every_question_at_every_replica(
    asker: Asker, endpoint: str, stored: bool
) -> None:
    if stored:
        asker.keep_answers()
    begun = asker.request("PUT", "/outages/test/simulation", json={"message": "Próba"})
    assert begun.status_code == 200
    for _ in asker.replicas:
        assert asker.ask(endpoint).json["code"] == "outage_simulation"
    assert asker.control.calls() == []


TEXTS = {
    "256 characters": "FV/" + "W" * 253,
    "right to left": "שלום/العربية/1",
    "CJK": "発票/2026/001",
    "no glyph": "FV😀\u200b1",
}


@pytest.mark.fault(34)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_pdf_of_an_odd_invoice_number(asker: Asker, text: str) -> None:
    invoices = [{"status": 200, "invoiceNumber": text}]
    session = asker.control.seed_session("test", NIP, invoices=invoices)
    answer: Any = asker.ask("status", session).json
    assert answer["invoices"][0]["invoiceNumber"] == text
    starts = {}
    for doc_type in ("pdf", "xml"):
        found = asker.get(f"{asker.path('upo', session)}?docType={doc_type}")
        assert found.status_code == 200, found.text
        starts[doc_type] = base64.b64decode(found.json["content"])[:5]
    assert starts == {"pdf": b"%PDF-", "xml": b"<?xml"}
