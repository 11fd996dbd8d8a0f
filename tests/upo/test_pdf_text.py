"""What can be read in the PDF, against the XML as this test reads it, not as the parser does.

A row of the PDF is expected as one run of texts, so a value under another heading is found too.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import pytest
from pypdf import PdfReader

from app.upo.labels import EnglishLabels, Labels
from app.upo.pdf import render_upo
from app.upo.verdict import Verdict
from app.upo.xml import parse_upo
from tests.upo import samples

# Words and order of the official visualisation; the path of the value below the root.
OFFICIAL_FACTS = [
    ("Numer referencyjny sesji", "NumerReferencyjnySesji"),
    ("Strona dokumentu UPO", "OpisPotwierdzenia/Strona"),
    ("Całkowita liczba stron dokumentu UPO", "OpisPotwierdzenia/LiczbaStron"),
    ("Zakres dokumentów od", "OpisPotwierdzenia/ZakresDokumentowOd"),
    ("Zakres dokumentów do", "OpisPotwierdzenia/ZakresDokumentowDo"),
    ("Całkowita liczba dokumentów", "OpisPotwierdzenia/CalkowitaLiczbaDokumentow"),
    ("Typ kontekstu", "Uwierzytelnienie/IdKontekstu"),
    ("Identyfikator kontekstu uwierzytelnienia", "Uwierzytelnienie/IdKontekstu/*"),
    ("Numer referencyjny tokena KSeF", "Uwierzytelnienie/NumerReferencyjnyTokenaKSeF"),
    (
        "Skrót dokumentu uwierzytelniającego",
        "Uwierzytelnienie/SkrotDokumentuUwierzytelniajacego",
    ),
    (
        "Nazwa pliku XSD struktury logicznej dotycząca przesłanego dokumentu",
        "NazwaStrukturyLogicznej",
    ),
    ("Kod formularza przedłożonego dokumentu elektronicznego", "KodFormularza"),
]
OFFICIAL_HEADINGS = [
    "Lp.",
    "Numer identyfikujący fakturę w KSeF",
    "Numer faktury",
    "NIP sprzedawcy",
    "Data wystawienia faktury",
    "Data przesłania do KSeF",
    "Data nadania numeru KSeF",
    "Wartość funkcji skrótu złożonego dokumentu",
]
COLUMNS = [
    "NumerKSeFDokumentu",
    "NumerFaktury",
    "NipSprzedawcy",
    "DataWystawieniaFaktury",
    "DataPrzeslaniaDokumentu",
    "DataNadaniaNumeruKSeF",
    "SkrotDokumentu",
    "TrybWysylki",
]
OFFICIAL_SENTENCES = [
    "Krajowy System e-Faktur",
    "Nazwa pełna podmiotu, któremu doręczono dokument elektroniczny",
    "Informacja o dokumencie: Dokument został zarejestrowany w systemie teleinformatycznym"
    " Ministerstwa Finansów",
    "Urzędowe poświadczenie odbioru dokumentu elektronicznego KSeF",
]
CONTEXT_WORDS = {
    "Nip": "NIP",
    "IdWewnetrzny": "Identyfikator wewnętrzny",
    "IdZlozonyVatUE": "Identyfikator złożony",
    "IdDostawcyUslugPeppol": "Identyfikator Peppol",
}
IN_ONE_LINE = ("NumerKSeFDokumentu", "SkrotDokumentu", "NumerReferencyjnySesji")


def render(content: bytes, language: str = "pl") -> bytes:
    digest = hashlib.sha256(content).hexdigest()
    return render_upo(parse_upo(content), xml_sha256=digest, language=language)


def page_texts(pdf: bytes) -> list[str]:
    return [page.extract_text() for page in PdfReader(BytesIO(pdf)).pages]


def without_space(text: str) -> str:
    return "".join(text.split())


def read(content: bytes) -> ElementTree.Element:
    """The XML as a tree without namespaces."""
    root = ElementTree.fromstring(content)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def value_of(element: ElementTree.Element) -> str:
    text = " ".join("".join(element.itertext()).split())
    if element.tag not in ("DataPrzeslaniaDokumentu", "DataNadaniaNumeruKSeF"):
        return text
    moment = datetime.fromisoformat(text).astimezone(ZoneInfo("Europe/Warsaw"))
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def expected_facts(root: ElementTree.Element) -> Iterator[str]:
    """Label and value of each row at the head."""
    for label, path in OFFICIAL_FACTS:
        element = root.find(path)
        if label == "Typ kontekstu":
            yield label + CONTEXT_WORDS[root.find("Uwierzytelnienie/IdKontekstu/*").tag]
        elif element is not None:
            yield label + value_of(element)


def expected_rows(root: ElementTree.Element) -> Iterator[str]:
    """The headings, then each document's number and values."""
    is_old = root.find("Dokument/TrybWysylki") is None
    yield "".join(OFFICIAL_HEADINGS + ([] if is_old else ["Tryb wysyłki"]))
    for number, document in enumerate(root.iter("Dokument"), start=1):
        if document.find("NipSprzedawcy") is not None:
            cells = (document.find(name) for name in COLUMNS)
            yield str(number) + "".join(value_of(cell) for cell in cells if cell is not None)


def assert_complete(content: bytes) -> None:
    """The Polish PDF holds each label and value of the XML, in the official order."""
    root = read(content)
    texts = page_texts(render(content))
    whole = without_space("".join(texts))

    position = 0
    for row in [*expected_facts(root), *expected_rows(root)]:
        found = whole.find(without_space(row), position)
        assert found >= 0, row
        position = found + 1
    for sentence in OFFICIAL_SENTENCES:
        assert without_space(sentence) in whole
    issuer = value_of(root.find("NazwaPodmiotuPrzyjmujacego"))
    assert without_space(issuer) in whole
    lines = "".join(texts)
    for name in IN_ONE_LINE:
        for element in root.iter(name):
            assert value_of(element) in lines
    for number, text in enumerate(texts, start=1):
        assert f"{number} z {len(texts)}" in text.splitlines()
        assert hashlib.sha256(content).hexdigest() in text
        assert "Wizualizacja. Dokumentem urzędowym jest plik XML" in text
        assert "(Europe/Warsaw)" in text
        assert ("TEST" in text.split()) is (issuer != "Ministerstwo Finansów")


@pytest.mark.parametrize("kind", samples.kinds())
def test_each_kind_shows_all_that_is_in_the_xml(kind: str) -> None:
    assert_complete(samples.kinds()[kind].xml())


def official_samples() -> list[Path]:
    """The Ministry's own samples, where the folder of its papers is known."""
    papers = os.environ.get("KSEF_OPENAPI")
    return sorted((Path(papers).parent / "samples").glob("upo-*.xml")) if papers else []


@pytest.mark.skipif(not official_samples(), reason="KSEF_OPENAPI does not lead to samples")
def test_official_samples_show_all_that_is_in_the_xml() -> None:
    for path in official_samples():
        assert_complete(path.read_bytes())


def test_english_has_the_same_values_and_no_polish_label() -> None:
    content = samples.upo(count=2, page=(1, 1, 1, 3, 2)).xml()
    root = read(content)
    text = without_space("".join(page_texts(render(content, "en"))))

    for row in expected_rows(root):
        if not row.startswith("Lp."):
            assert without_space(row) in text
    assert not any(without_space(label) in text for label, _ in OFFICIAL_FACTS)
    for words in ("Session reference number", "Sending mode", "The official document is the XML"):
        assert without_space(words) in text
    assert "1of1" in text


@pytest.mark.parametrize("language", ["pl", "en"])
@pytest.mark.parametrize(
    ("state", "polish", "english"),
    [
        ("valid", "prawidłowy", "valid"),
        (
            "unknown_signer",
            "zgodny, podpisujący spoza listy zaufanych",
            "fits, signer not among the trusted ones",
        ),
        ("unverifiable", "w nieznanej postaci, niesprawdzony", "in an unknown form, not verified"),
        ("unsigned", "brak", "none"),
        ("broken", "NIEZGODNY Z DOKUMENTEM", "DOES NOT FIT THE DOCUMENT"),
    ],
)
def test_each_page_says_in_both_languages_what_the_signature_is(
    language: str, state: Any, polish: str, english: str
) -> None:
    upo = parse_upo(samples.kinds()["page break"].xml())
    found = Verdict(state)
    who = ""
    if state in ("valid", "unknown_signer"):
        found = Verdict(
            state,
            "Ministerstwo Finansów, VATPL-5260250274",
            datetime.fromisoformat("2026-12-31T23:30:00.999+00:00"),
        )
        who = " Ministerstwo Finansów, VATPL-5260250274, 2027-01-01 00:30:00."
    pages = page_texts(render_upo(upo, xml_sha256="0" * 64, signature=found, language=language))
    assert len(pages) > 1
    sentence = f"Podpis elektroniczny: {polish}. Electronic signature: {english}.{who}"
    assert all(sentence in page.splitlines() for page in pages)
    plain = page_texts(render_upo(upo, xml_sha256="0" * 64, language=language))
    assert not any("signature" in page for page in plain)


@pytest.mark.parametrize("name", ["Wielka Firma " * 40, "M" * 128, "漢" * 128])
def test_name_of_an_unknown_signer_is_cut_to_the_line_before_the_time(name: str) -> None:
    upo = parse_upo(samples.upo().xml())
    found = Verdict("unknown_signer", name, datetime(2026, 12, 31, 23, 30, tzinfo=UTC))
    [page] = page_texts(render_upo(upo, xml_sha256="0" * 64, signature=found))
    [line] = [line for line in page.splitlines() if "Electronic signature" in line]
    shown = re.escape("Electronic signature: fits, signer not among the trusted ones. ")
    begin = name[:10].replace("漢", "▯")
    assert re.search(rf"{shown}{begin}.*…, 2027-01-01 00:30:00\.$", line)
    assert len(line) < 300


def test_the_time_is_told_of_a_signer_without_a_name() -> None:
    """As older versions archived one."""
    upo = parse_upo(samples.upo().xml())
    found = Verdict("unknown_signer", "", datetime(2026, 12, 31, 23, 30, tzinfo=UTC))
    [page] = page_texts(render_upo(upo, xml_sha256="0" * 64, signature=found))
    assert "not among the trusted ones. ?, 2027-01-01 00:30:00." in page


def test_a_replaced_character_in_the_name_of_a_signer_is_told_too() -> None:
    upo = parse_upo(samples.upo().xml())
    found = Verdict("unknown_signer", "漢 Sp. z o.o.", datetime.now(UTC))
    [page] = page_texts(render_upo(upo, xml_sha256="0" * 64, signature=found))
    assert "▯ Sp. z o.o." in page
    assert "Znak ▯ zastępuje znak" in page


def test_each_label_but_the_names_is_in_english_too() -> None:
    polish = {name for name in vars(Labels) if not name.startswith("_")}

    assert polish - vars(EnglishLabels).keys() == {"system", "test"}


@pytest.mark.slow
@pytest.mark.fault(34)
def test_ten_thousand_documents_keep_all_numbers_and_hashes_whole() -> None:
    sample = samples.upo(count=10_000)
    pdf = render(sample.xml())

    texts = page_texts(pdf)

    words = set("\n".join(texts).split())
    assert words.issuperset(document.ksef_number for document in sample.documents)
    assert words.issuperset(document.document_hash for document in sample.documents)
    assert words.issuperset(document.invoice_number for document in sample.documents)
    for number, text in enumerate(texts, start=1):
        assert f"{number} z {len(texts)}" in text.splitlines()
        assert text.count("Numer identyfikujący fakturę w KSeF") == 1
    ordinals = re.findall(r"^(\d+) 7191234562-", "\n".join(texts), re.MULTILINE)
    assert ordinals == [str(number) for number in range(1, 10_001)]


@pytest.mark.fault(34)
def test_ten_thousand_documents_are_drawn_in_bounded_memory() -> None:
    """In a process of its own, whose peak of memory is only what this needs."""
    program = """
import sys
from app.upo.pdf import render_upo
from app.upo.xml import parse_upo
from tests.upo import memory

content = sys.stdin.buffer.read()
before = memory.peak()
render_upo(parse_upo(content), xml_sha256="0" * 64)
print(memory.peak() - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        input=samples.upo(count=10_000).xml(),
        capture_output=True,
        check=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )

    assert int(run.stdout) < 32 * 1024 * 1024


@pytest.mark.parametrize("name", ["Umowa " * 40, "X" * 256, "FV/0O/1lI-" * 25])
def test_rows_stay_whole_at_the_end_of_a_page(name: str) -> None:
    documents = tuple(
        samples.document(invoice_number=f"{index:03d}{name}"[:256].strip(), ksef_number=f"K{index}")
        for index in range(40)
    )
    content = samples.UpoSample(documents).xml()
    pages = [without_space(text) for text in page_texts(render(content))]

    assert len(pages) > 1
    rows = [without_space(row) for row in expected_rows(read(content))][1:]
    assert all(any(row in page for page in pages) for row in rows)


@pytest.mark.fault(34)
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("発票/2026/001", "▯▯/2026/001"),
        ("שלום/1", "▯▯▯▯/1"),
        ("فاتورة-1", "▯▯▯▯▯▯-1"),
        ("FV😀1", "FV▯1"),
        ("FV1\u202e2\u200d3\u20664", "FV1▯2▯3▯4"),
        ("FV\u00851\u2028\ue0002", "FV▯1▯▯2"),
    ],
)
def test_characters_that_would_not_be_seen_are_replaced_and_that_is_said(
    text: str, shown: str
) -> None:
    texts = page_texts(render(samples.UpoSample((samples.document(invoice_number=text),)).xml()))

    assert shown in texts[0]
    assert "Znak ▯ zastępuje znak" in texts[0]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("FV\u20101\u20112", "FV-1-2"),
        ("Żuk\u2010Ж\u20111", "Żuk-Ж-1"),
        # Places where a line may or may not break.
        ("FV\u200b1\u00ad2\u20603\ufeff4", "FV1234"),
        ("\u200b", ""),
        # Letters and marks apart, as some file systems write names.
        ("Z\u0307O\u0301\u0141C\u0301/1", "ŻÓŁĆ/1"),
        ("q\u0301/1", "q\u0301/1"),
        # Spaces of set widths.
        ("FV\u202f1\u20092\u30003", "FV 1 2 3"),
    ],
)
def test_characters_that_look_like_another_or_like_nothing_are_drawn_so(
    text: str, shown: str
) -> None:
    document = samples.document(invoice_number=text)
    texts = page_texts(render(samples.UpoSample((document,)).xml()))

    row = f"{document.ksef_number} {shown} {document.seller_nip}"
    assert " ".join(row.split()) in " ".join(texts[0].split())
    assert "▯" not in texts[0]


@pytest.mark.parametrize(
    ("number", "title"),
    [("FV\u20101\u200b2", "FV-12"), ("Z\u0307/1", "Ż/1"), ("漢/1", "▯/1"), ("Ж/1", "Ж/1")],
)
def test_the_title_has_the_number_as_it_is_drawn(number: str, title: str) -> None:
    content = samples.UpoSample((samples.document(invoice_number=number),)).xml()

    metadata = PdfReader(BytesIO(render(content))).metadata

    assert metadata is not None
    assert metadata.title.startswith(f"UPO faktury {title}, numer KSeF ")


def test_nothing_is_said_about_replaced_characters_where_there_are_none() -> None:
    content = samples.UpoSample((samples.document(invoice_number="▯ Ж α Ż"),)).xml()

    assert "zastępuje" not in page_texts(render(content))[0]


@pytest.mark.parametrize(
    ("issuer", "environment", "is_marked"),
    [
        (samples.PRODUCTION_ISSUER, "prod", False),
        (samples.PRODUCTION_ISSUER, "test", True),
        (samples.PRODUCTION_ISSUER, "demo", True),
        (samples.TEST_ISSUER, "prod", True),
        (samples.TEST_ISSUER, "test", True),
        # Whoever draws a file knows its issuer only.
        (samples.PRODUCTION_ISSUER, None, False),
        (samples.TEST_ISSUER, None, True),
    ],
)
def test_only_what_production_issued_in_production_is_not_marked_as_a_test(
    issuer: str, environment: str | None, is_marked: bool
) -> None:
    upo = parse_upo(samples.upo(count=60, issuer=issuer).xml())
    texts = page_texts(render_upo(upo, xml_sha256="0" * 64, environment=environment))

    assert len(texts) > 1
    for text in texts:
        assert ("TEST Dokument spoza środowiska produkcyjnego" in text) is is_marked


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("2026-03-29T00:59:59Z", "2026-03-29 01:59:59"),
        ("2026-03-29T01:00:00Z", "2026-03-29 03:00:00"),
        ("2026-10-24T23:59:59.999Z", "2026-10-25 01:59:59"),
        ("2026-10-25T00:00:00Z", "2026-10-25 02:00:00 CEST"),
        ("2026-10-25T00:59:59Z", "2026-10-25 02:59:59 CEST"),
        ("2026-10-25T01:00:00Z", "2026-10-25 02:00:00 CET"),
        ("2026-10-25T02:00:00Z", "2026-10-25 03:00:00"),
        ("2026-12-31T18:30:00-05:00", "2027-01-01 00:30:00"),
        ("2026-07-01T12:00:00", "2026-07-01 12:00:00"),
    ],
)
def test_times_are_polish_also_when_the_clocks_change(sent: str, shown: str) -> None:
    content = samples.UpoSample((samples.document(sent_at=sent),)).xml()
    text = page_texts(render(content))[0]

    assert re.search(re.escape(shown).replace(r"\ ", r"\s+") + r"\s+2026-04-01 10:00:00", text)


@pytest.mark.skipif(not shutil.which("pdftotext"), reason="pdftotext is not installed")
@pytest.mark.parametrize("kind", ["session", "Cyrillic and Greek", "page break"])
def test_another_reader_finds_the_numbers_without_a_warning(kind: str, tmp_path: Path) -> None:
    sample = samples.kinds()[kind]
    path = tmp_path / "upo.pdf"
    path.write_bytes(render(sample.xml()))

    run = subprocess.run(
        ["pdftotext", "-layout", path, "-"], capture_output=True, text=True, check=True
    )

    assert run.stderr == ""
    for document in sample.documents:
        assert document.ksef_number in run.stdout
        assert document.document_hash in run.stdout
        assert document.invoice_number in run.stdout


@pytest.mark.skipif(not shutil.which("qpdf"), reason="qpdf is not installed")
@pytest.mark.parametrize("kind", samples.kinds())
def test_the_file_is_sound(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "upo.pdf"
    path.write_bytes(render(samples.kinds()[kind].xml()))

    run = subprocess.run(["qpdf", "--check", path], capture_output=True, text=True, check=True)

    assert run.stderr == ""
    assert "No syntax or stream encoding errors found" in run.stdout
