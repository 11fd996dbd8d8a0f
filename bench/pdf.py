"""What a PDF of a UPO costs: time against an empty page, growth, memory."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import Path

import fontpkg
from reportlab.lib.pagesizes import A4, landscape
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from app.upo.pdf import render_upo
from app.upo.verdict import Verdict
from app.upo.xml import Upo, parse_upo
from bench.table import MIB, Row, at_most, interleaved, milliseconds
from tests.upo import memory, samples

_SIGNED = Verdict(
    "valid", "Ministerstwo Finansów, VATPL-5260250274", datetime(2026, 9, 15, tzinfo=UTC)
)


def rows(_folder: Path) -> Iterator[Row]:
    """Measure everything; about ten seconds."""
    one, few, many = (parse_upo(samples.upo(count=n).xml()) for n in (1, 1_000, 10_000))
    pdfmetrics.registerFont(TTFont("bench", str(fontpkg.path("Fira Sans", 400))))
    _draw(one)  # once, so that the fonts are loaded
    page, single = interleaved(200, _empty_page, partial(_draw, one))
    what = "one UPO as PDF / an empty page with one embedded font"
    yield at_most(what, single / page, 4, milliseconds(single))
    short, long = interleaved(7, partial(_draw, few), partial(_draw, many))
    yield at_most("PDF of 10,000 / of 1,000 documents", long / short, 12, milliseconds(long))
    peak = int(
        subprocess.run(
            [sys.executable, "-c", "from bench.pdf import draw_stdin; draw_stdin()"],
            input=samples.upo(count=10_000).xml(),
            capture_output=True,
            check=True,
        ).stdout
    )
    what = "peak memory, in MiB, of a process that reads and draws 10,000 documents"
    yield at_most(what, peak / MIB, 100)


def _draw(upo: Upo) -> None:
    render_upo(upo, xml_sha256="0" * 64, signature=_SIGNED)


def _empty_page() -> bytes:
    buffer = BytesIO()
    canvas = Canvas(buffer, pagesize=landscape(A4), initialFontName="bench", pageCompression=1)
    canvas.drawString(0, 0, "0")
    canvas.save()
    return buffer.getvalue()


def draw_stdin() -> None:
    """Draw the UPO from the standard input; print this process's peak of memory in bytes."""
    _draw(parse_upo(sys.stdin.buffer.read()))
    print(memory.peak())
