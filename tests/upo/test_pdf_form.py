"""The PDF as a file: the same bytes everywhere, its metadata, fonts, pages and bookmarks."""

import hashlib
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from pypdf import PdfReader
from pypdf.generic import DictionaryObject

from app.upo.pdf import render_upo
from app.upo.sheet import wrap
from app.upo.verdict import Verdict
from app.upo.xml import parse_upo
from tests.upo import samples

DIGEST = "0123456789abcdef" * 4


SIGNED = Verdict(
    "unknown_signer", "W" * 128, datetime(2026, 6, 29, 18, 12, 27, 656000, UTC), "A" * 64
)


def render(
    sample: samples.UpoSample, language: str = "pl", environment: str | None = None
) -> bytes:
    return render_upo(
        parse_upo(sample.xml()),
        xml_sha256=DIGEST,
        signature=SIGNED,
        language=language,
        environment=environment,
    )


def reader(sample: samples.UpoSample, language: str = "pl") -> PdfReader:
    return PdfReader(BytesIO(render(sample, language)))


def varied() -> list[samples.UpoSample]:
    """Samples whose fonts differ from each other: what threads could mix up."""
    alphabets = ("", "żółw", "Жук", "λόγος", "ŁĄĆ", "ȘȚ", "漢字", "ß→✓", "Đđ", "“”€")
    return [
        samples.UpoSample((samples.document(invoice_number=f"FV/{index}/{letters}"),))
        for index, letters in enumerate(alphabets)
    ]


PROGRAM = """
import hashlib
from tests.upo.test_pdf_form import render
from tests.upo import samples
kinds = samples.kinds()
for kind in {order}(kinds):
    print(kind, hashlib.sha256(render(kinds[kind])).hexdigest())
"""


def test_bytes_are_the_same_in_each_process_and_whatever_was_drawn_before() -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM.format(order=order)],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "TZ": zone, "PYTHONPATH": os.pathsep.join(sys.path)},
        ).stdout.splitlines()
        for order, seed, zone in (("sorted", "1", "UTC"), ("reversed", "2", "Asia/Tokyo"))
    ]

    assert len(runs[0]) == len(samples.kinds())
    assert sorted(runs[0]) == sorted(runs[1])


def test_other_arguments_give_another_file() -> None:
    upo = parse_upo(samples.upo().xml())
    files = {
        render_upo(upo, xml_sha256=DIGEST),
        render_upo(upo, xml_sha256=DIGEST[::-1]),
        render_upo(upo, xml_sha256=DIGEST, language="en"),
        render_upo(upo, xml_sha256=DIGEST, signature=Verdict("valid")),
        render_upo(upo, xml_sha256=DIGEST, signature=Verdict("unsigned")),
    }

    assert len(files) == 5
    with pytest.raises(KeyError):
        render_upo(upo, xml_sha256=DIGEST, language="de")


def test_threads_do_not_get_each_others_glyphs() -> None:
    """reportlab's fonts are not made for threads: without the lock some files differ."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.upo.thread_check", "400"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )

    assert run.stdout == "400 identical\n"


def test_metadata_comes_from_the_upo() -> None:
    sample = samples.upo()
    pdf = reader(sample)

    document = sample.documents[0]
    title = f"UPO faktury {document.invoice_number}, numer KSeF {document.ksef_number}"
    assert pdf.metadata.title == title
    assert DIGEST in pdf.metadata.subject
    assert pdf.metadata["/CreationDate"] == "D:20260401100000+02'00'"
    assert pdf.metadata["/ModDate"] == "D:20260401100000+02'00'"
    assert pdf.root_object["/Lang"] == "pl-PL"
    assert pdf.root_object["/ViewerPreferences"]["/DisplayDocTitle"].value is True
    assert reader(sample, "en").root_object["/Lang"] == "en-GB"
    assert reader(samples.upo(count=2)).metadata.title == f"UPO sesji {sample.session}"


def test_the_date_is_that_of_the_last_number_in_winter_too() -> None:
    late = samples.document(assigned_at="2026-12-31T23:30:00Z")
    pdf = reader(samples.UpoSample((late, *samples.documents(2))))

    assert pdf.metadata["/CreationDate"] == "D:20270101003000+01'00'"


def test_a_date_of_the_first_centuries_has_four_digits_too() -> None:
    pdf = reader(samples.UpoSample((samples.document(assigned_at="0001-01-02T00:00:00Z"),)))

    assert pdf.metadata["/CreationDate"] == "D:00010102012400+01'24'"


@pytest.mark.parametrize("kind", samples.kinds())
def test_pages_are_a4_landscape_and_all_fonts_embedded(kind: str) -> None:
    for page in reader(samples.kinds()[kind]).pages:
        assert (round(page.mediabox.width), round(page.mediabox.height)) == (842, 595)
        assert page.get("/Rotate", 0) == 0
        for font in page["/Resources"]["/Font"].values():
            descriptor: DictionaryObject = font.get_object()["/FontDescriptor"].get_object()
            assert "/FontFile2" in descriptor
            assert "Helvetica" not in font.get_object()["/BaseFont"]


def test_one_invoice_takes_one_page_and_no_bookmarks() -> None:
    pdf = reader(samples.kinds()["long invoice number"])

    assert len(pdf.pages) == 1
    assert pdf.outline == []
    assert pdf.root_object["/PageMode"] == "/UseNone"


def test_each_page_of_a_long_one_has_a_bookmark() -> None:
    pdf = reader(samples.kinds()["page break"])
    titles = [entry.title for entry in pdf.outline]
    targets = [pdf.get_destination_page_number(entry) for entry in pdf.outline]

    assert titles[0].startswith("Strona 1: dokumenty 1–")
    assert titles[-1].startswith(f"Strona {len(pdf.pages)}: dokumenty ")
    assert titles[-1].endswith("–60")
    assert targets == list(range(len(pdf.pages)))
    assert pdf.root_object["/PageMode"] == "/UseOutlines"


@pytest.mark.parametrize("kind", samples.kinds())
@pytest.mark.parametrize("language", ["pl", "en"])
def test_nothing_is_written_outside_the_margins_or_over_the_next_column(
    kind: str, language: str
) -> None:
    for page in reader(samples.kinds()[kind], language).pages:
        pieces = _pieces(page)
        assert min(left for left, _, _ in pieces) >= 29.9
        assert max(right for _, right, _ in pieces) <= 842 - 29.9
        for left, right, baseline in pieces:
            # Sizes differ within a line, and with them baselines, by less than two points.
            beside = [at for at, _, y in pieces if abs(y - baseline) < 2 and at > left]
            assert right <= min(beside, default=842) + 0.05


def test_a_wrapped_issuer_ends_at_the_margin_in_each_line() -> None:
    head = _pieces(reader(samples.kinds()["long issuer"]).pages[0])
    issuer = [right for _, right, baseline in head if right > 700 and baseline > 500]

    # Its label, three lines, and the sentence below.
    assert [round(right, 1) for right in issuer] == [811.9] * 5


def _pieces(page: object) -> list[tuple[float, float, float]]:
    """Left, right and baseline of each text that is placed on a page, from its operators."""
    fonts = {
        name: (font["/FirstChar"], [float(width) for width in font["/Widths"]])
        for name, font in page["/Resources"]["/Font"].items()
    }
    pieces: list[tuple[float, float, float]] = []
    left = x = y = size = 0.0
    name = ""
    for operands, operator in page.get_contents().operations:
        if operator == b"Tf":
            name, size = operands[0], float(operands[1])
        elif operator == b"Tm":
            left = x = float(operands[4])
            y = float(operands[5])
        elif operator == b"Tj":
            first, widths = fonts[name]
            codes = operands[0].original_bytes.rstrip(b" ")
            x += sum(widths[code - first] for code in codes) / 1000 * size
            if left == x or not pieces or pieces[-1][0] != left or pieces[-1][2] != y:
                pieces.append((left, x, y))
            else:
                pieces[-1] = (left, x, y)
    return pieces


class _Monospaced:
    """A face with characters of one point."""

    widths = dict.fromkeys(map(chr, range(128)), 1.0)

    def width(self, text: str, size: float) -> float:
        return float(len(text))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", [""]),
        ("0123456789", ["0123456789"]),
        ("0123456789A", ["0123456789", "A"]),
        ("012 456789A", ["012 ", "456789A"]),
        ("FV/2026/04/123", ["FV/2026/", "04/123"]),
        ("F/123456789012", ["F/12345678", "9012"]),
        ("0123456789 A", ["0123456789 ", "A"]),
        ("0123456789   A", ["0123456789   ", "A"]),
    ],
)
def test_wrapping_loses_nothing_and_prefers_good_places(text: str, lines: list[str]) -> None:
    assert wrap(text, _Monospaced(), 1.0, 10.0) == lines
    assert "".join(lines) == text


def test_a_column_narrower_than_a_character_still_ends() -> None:
    assert wrap("ab", _Monospaced(), 1.0, 0.5) == ["a", "b"]


@pytest.mark.fault(34)
def test_values_at_the_limits_of_the_parser_give_a_pdf_of_whole_pages() -> None:
    wide = "W" * 512
    documents = tuple(
        samples.document(
            seller_nip="9" * 128,
            ksef_number="M" * 128,
            invoice_number=wide,
            document_hash="@" * 128,
            sending_mode="W" * 128,
        )
        for _ in range(3)
    )
    sample = samples.UpoSample(
        documents,
        schema=wide,
        form=wide,
        issuer=wide,
        session="S" * 128,
        token="T" * 128,
        authentication_hash="@" * 128,
        context=("IdWewnetrzny", "W" * 128),
        page=(1, 3, 1, 10000, 21000),
    )

    pages = PdfReader(BytesIO(render(sample, environment="test"))).pages

    text = "\n".join(page.extract_text() for page in pages)
    assert re.findall(r"^([0-9]) MMM", text, re.MULTILINE) == ["1", "2", "3"]
    for page in pages:
        baselines = [baseline for _, _, baseline in _pieces(page)]
        # Nothing between the foot, whose rule is at 49.5, and the table.
        assert not [baseline for baseline in baselines if 39.5 < baseline < 55.5]
        assert min(baselines) > 20
        assert max(baselines) < 595 - 20


def test_the_digest_of_a_pdf_is_stable_under_many_renders() -> None:
    upo = parse_upo(samples.kinds()["page break"].xml())
    with ThreadPoolExecutor(4) as pool:
        files = pool.map(lambda _: render_upo(upo, xml_sha256=DIGEST), range(12))

    assert len({hashlib.sha256(file).hexdigest() for file in files}) == 1
