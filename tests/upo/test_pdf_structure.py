"""The PDF for those who do not see it: what a screen reader is told, and in which order.

veraPDF, with its 106 rules of PDF/UA-1, is no requirement of this project. What its rules ask of
this document is read here.
"""

from datetime import UTC, datetime
from functools import cache
from xml.etree import ElementTree

import pytest

from app.upo.pdf import render_upo
from app.upo.verdict import Verdict
from app.upo.xml import parse_upo
from tests.upo import samples
from tests.upo.samples import joined
from tests.upo.tagged import Node, Tagged
from tests.upo.test_pdf_text import (
    OFFICIAL_HEADINGS,
    OFFICIAL_SENTENCES,
    expected_facts,
    expected_rows,
    read,
)

KINDS = samples.kinds()
TITLE = "Urzędowe poświadczenie odbioru dokumentu elektronicznego KSeF"
SIGNED = Verdict("valid", "Ministerstwo Finansów", datetime(2026, 12, 31, 23, 30, tzinfo=UTC))


@cache
def tagged(kind: str, language: str = "pl") -> Tagged:
    upo = parse_upo(KINDS[kind].xml())
    pdf = render_upo(upo, xml_sha256="0123456789abcdef" * 4, signature=SIGNED, language=language)
    return Tagged(pdf)


@pytest.mark.parametrize("kind", KINDS)
def test_title_facts_rows_and_notes_are_told_in_this_order(kind: str) -> None:
    content = KINDS[kind].xml()
    root = read(content)
    document = tagged(kind).document
    facts, rows = document.find("Table")
    told = [node.kind for node in document.children]
    first = told.index("H1")

    assert set(told[:first]) == {"P"}
    assert told[first:] == ["H1", "Table", "Table", "P", "P", "P"]
    head = " ".join(node.text for node in document.children[: first + 1])
    assert all(joined(sentence) in joined(head) for sentence in OFFICIAL_SENTENCES)
    assert document.find("H1")[0].text == TITLE
    assert _texts(facts) == [joined(fact) for fact in expected_facts(root)]
    assert _texts(rows) == [joined(row) for row in expected_rows(root)]
    notes = [node.text for node in document.children[-3:]]
    assert notes[0].startswith("Wizualizacja. Dokumentem urzędowym jest plik XML")
    assert "0123456789abcdef" * 4 in notes[0]
    assert "czasu w Polsce" in notes[1]
    assert "Podpis elektroniczny: prawidłowy." in notes[2]


def _texts(table: Node) -> list[str]:
    return [joined(cell.text for cell in row.children) for row in table.children]


@pytest.mark.parametrize("kind", KINDS)
def test_each_cell_has_its_headers(kind: str) -> None:
    facts, rows = tagged(kind).document.find("Table")

    for row in facts.children:
        assert [(cell.kind, cell.scope) for cell in row.children] == [("TH", "/Row"), ("TD", None)]
    headings, *values = rows.children
    assert {(cell.kind, cell.scope) for cell in headings.children} == {("TH", "/Column")}
    assert [cell.text for cell in headings.children][: len(OFFICIAL_HEADINGS)] == OFFICIAL_HEADINGS
    assert len(values) == len(KINDS[kind].documents)
    for number, row in enumerate(values, start=1):
        first, *others = row.children
        assert (first.kind, first.scope, first.text) == ("TH", "/Row", str(number))
        assert {(cell.kind, cell.scope) for cell in others} == {("TD", None)}
        assert len(row.children) == len(headings.children)
    assert {row.kind for row in facts.children + rows.children} == {"TR"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", ["pl", "en"])
def test_it_is_told_in_the_order_in_which_it_is_seen(kind: str, language: str) -> None:
    """From the title on: page by page, downwards, and from left to right within a row."""
    document = tagged(kind, language).document
    first = [node.kind for node in document.children].index("H1")
    seen = [
        (piece.page, -round(piece.places[0][0]), piece.places[0][1])
        for node in document.children[first:]
        for piece in node.all_pieces()
        # An invoice number of nothing that can be seen.
        if piece.places
    ]

    assert len(seen) > 20
    assert seen == sorted(seen)


def test_what_is_repeated_on_each_page_is_told_once() -> None:
    pdf = tagged("page break")
    furniture = ["".join(p.text for p in pdf.artifacts if p.page == page) for page in range(3)]

    for page in (0, 1):
        assert "Wizualizacja. Dokumentem urzędowym" in furniture[page]
        assert "Podpis elektroniczny" in furniture[page]
    for page in (1, 2):
        assert furniture[page].startswith(TITLE)
        assert "Numer faktury" in furniture[page]
    assert furniture[0].endswith("1 z 3")
    assert furniture[1].endswith("2 z 3")
    assert furniture[2].endswith("3 z 3")
    assert "Wizualizacja" not in furniture[2]
    assert "Numer faktury" not in furniture[0]
    assert [p.text for p in tagged("one document").artifacts if p.text] == ["1 z 1"]


def test_a_test_is_told_to_be_one() -> None:
    told = [node.text for node in tagged("test issuer").document.find("P")]

    assert "TESTDokument spoza środowiska produkcyjnego KSeF" in told


def test_polish_letters_are_told_as_they_are() -> None:
    cells = [node.text for node in tagged("Polish").document.find("TD")]

    assert "ZAŻÓŁĆ/GĘŚLĄ/JAŹŃ/zażółć/gęślą/jaźń" in cells


@pytest.mark.parametrize(("language", "tag"), [("pl", "pl-PL"), ("en", "en-GB")])
def test_the_language_of_each_text_is_known(language: str, tag: str) -> None:
    pdf = tagged("one document", language)
    texts = {node.text: node for node in pdf.document.find("P")}
    [signature] = [node for text, node in texts.items() if "Electronic signature" in text]
    [piece] = signature.pieces

    assert pdf.catalog["/Lang"] == tag
    assert texts["Krajowy System e-Faktur"].language == "pl-PL"
    assert texts["Ministerstwo Finansów"].language == "pl-PL"
    assert signature.language == "pl-PL"
    assert list(zip(piece.texts, piece.languages, strict=True)) == [
        ("Podpis elektroniczny: prawidłowy. ", None),
        ("Electronic signature: valid.", "en-GB"),
        (" Ministerstwo Finansów, 2027-01-01 00:30:00.", None),
    ]


@pytest.mark.parametrize("kind", ["one document", "session", "page break", "markup"])
def test_it_says_what_it_is(kind: str) -> None:
    pdf = tagged(kind)
    sample = KINDS[kind]
    metadata = pdf.catalog["/Metadata"].get_object()
    packet = ElementTree.fromstring(metadata.get_data())
    [titles] = packet.iterfind(".//{http://purl.org/dc/elements/1.1/}title")
    [part] = packet.iterfind(".//{http://www.aiim.org/pdfua/ns/id/}part")
    title = "".join(titles.itertext())
    names = [document.invoice_number for document in sample.documents]

    assert part.text == "1"
    assert title == pdf.reader.metadata.title
    assert (names[0] if len(names) == 1 else sample.session) in title
    assert pdf.catalog["/ViewerPreferences"]["/DisplayDocTitle"].value is True
    assert pdf.catalog["/MarkInfo"]["/Marked"].value is True
    assert [page["/Tabs"] for page in pdf.reader.pages] == ["/S"] * len(pdf.reader.pages)
