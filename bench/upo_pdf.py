"""What a PDF of a UPO costs: time against an empty page, growth, memory, bytes.

python -m bench.upo_pdf
"""

import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from statistics import median
from time import perf_counter
from typing import NamedTuple

import fontpkg
from reportlab.lib.pagesizes import A4, landscape
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from app.upo.pdf import render_upo
from app.upo.xml import parse_upo
from tests.upo import memory, samples

DIGEST = "0" * 64
MIB = 1024 * 1024


class Row(NamedTuple):
    """One line of the table; `holds` is None where there is no target."""

    what: str
    measured: str
    target: str = ""
    holds: bool | None = None


def rows() -> list[Row]:
    """Measure everything; about ten seconds."""
    return [*_one_row(), *_growth_rows(), *_memory_rows(), *_size_rows()]


def _one_row() -> list[Row]:
    font = TTFont("bench", str(fontpkg.path("Fira Sans", 400)))
    pdfmetrics.registerFont(font)
    upo = parse_upo(samples.upo().xml())
    page, one = _interleaved(
        200, _empty_page, lambda: render_upo(upo, xml_sha256=DIGEST), warm_up=10
    )
    ratio = one / page
    return [
        Row("empty reportlab page with one embedded font", f"{page * 1000:.2f} ms"),
        Row("one UPO", f"{one * 1000:.2f} ms"),
        Row("one UPO / empty page", f"{ratio:.2f}", "≤ 4", ratio <= 4),
    ]


def _empty_page() -> bytes:
    buffer = BytesIO()
    canvas = Canvas(buffer, pagesize=landscape(A4), initialFontName="bench", pageCompression=1)
    canvas.drawString(0, 0, "0")
    canvas.save()
    return buffer.getvalue()


def _growth_rows() -> list[Row]:
    few, many = (parse_upo(samples.upo(count=count).xml()) for count in (1_000, 10_000))
    xml = samples.upo(count=10_000).xml()
    reading, short, long = _interleaved(
        7,
        lambda: parse_upo(xml),
        lambda: render_upo(few, xml_sha256=DIGEST),
        lambda: render_upo(many, xml_sha256=DIGEST),
        warm_up=1,
    )
    ratio = long / short
    return [
        Row("reading 10,000 documents", f"{reading * 1000:.0f} ms"),
        Row("PDF of 1,000 documents", f"{short * 1000:.0f} ms"),
        Row("PDF of 10,000 documents", f"{long * 1000:.0f} ms"),
        Row("10,000 / 1,000 documents", f"{ratio:.1f}", "≤ 12", ratio <= 12),
    ]


def _memory_rows() -> list[Row]:
    """Peak of a whole process, with the service loaded, that reads and draws 10,000 documents."""
    run = subprocess.run(
        [sys.executable, "-c", "from bench.upo_pdf import draw_stdin; draw_stdin()"],
        input=samples.upo(count=10_000).xml(),
        capture_output=True,
        check=True,
    )
    before, after = (int(number) / MIB for number in run.stdout.split())
    return [
        Row(
            "peak memory of a process, 10,000 documents", f"{after:.0f} MiB", "≤ 100", after <= 100
        ),
        Row("of it for reading and drawing", f"{after - before:.0f} MiB"),
    ]


def draw_stdin() -> None:
    """Draw the UPO from the standard input; print the peak of memory before and after, in bytes."""
    content = sys.stdin.buffer.read()
    before = memory.peak()
    render_upo(parse_upo(content), xml_sha256=DIGEST)
    print(before, memory.peak())


def _size_rows() -> list[Row]:
    result = []
    for count in (1, 1_000, 10_000):
        xml = samples.upo(count=count).xml()
        size = len(render_upo(parse_upo(xml), xml_sha256=DIGEST))
        what = f"bytes of the PDF (of the XML), {count:,} document{'s' * (count > 1)}"
        result.append(Row(what, f"{size:,} ({len(xml):,})"))
    return result


def _interleaved(rounds: int, *calls: Callable[[], object], warm_up: int) -> tuple[float, ...]:
    """The median of each call in seconds, taken in turns so that noise meets all of them."""
    for call in calls * warm_up:
        call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, taken in zip(calls, times, strict=True):
            start = perf_counter()
            call()
            taken.append(perf_counter() - start)
    return tuple(median(taken) for taken in times)


def main() -> int:
    """Print the table; 1 when a target is missed."""
    table = rows()
    for what, measured, target, holds in table:
        verdict = {True: "holds", False: "MISSED", None: ""}[holds]
        print(f"{what:<48} {measured:>22}  {target:<6} {verdict}".rstrip())
    return 1 if any(row.holds is False for row in table) else 0


if __name__ == "__main__":
    sys.exit(main())
