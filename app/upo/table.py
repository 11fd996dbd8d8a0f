"""The table of documents: what its columns show, and how wide they are."""

from datetime import datetime
from typing import Final, NamedTuple

from app.clock import WARSAW
from app.upo.fonts import Face, Faces
from app.upo.labels import Labels
from app.upo.sheet import Style, Text, wrap
from app.upo.xml import Upo, UpoDocument

HEADING: Final = Style(6.6, 8.0)
# The first one is used in which only overlong values wrap, else the last.
_CELLS: Final = (Style(7.4, 9.4), Style(7.1, 9.0), Style(6.8, 8.6))
_GAP: Final = 7.0
_WIDEST_GAP: Final = 12.0


class Column(NamedTuple):
    """A column on the page. `fits`: each value is drawn as it is, in one line of its face."""

    heading: Text
    face: Face
    left: float
    width: float
    fits: bool


class Table(NamedTuple):
    """A row of texts for each document; `ordinal_right` is where the numbers of rows end."""

    style: Style
    ordinal_right: float
    columns: list[Column]
    rows: list[tuple[str, ...]]


def measure_table(upo: Upo, labels: type[Labels], faces: Faces, left: float, right: float) -> Table:
    """The table between two margins."""
    fields = _fields(labels, faces)
    if not any(document.sending_mode for document in upo.documents):
        del fields[-1]
    rows = [_row(document)[: len(fields)] for document in upo.documents]
    columns = list(zip(*rows, strict=True))
    longest = [max(map(len, values)) for values in columns]
    strong, code = faces.strong, faces.code
    words = [
        max([strong.width(word, HEADING.size) for word in heading.split()])
        for heading, _, _ in fields
    ]
    ordinal = strong.width(labels.ordinal, HEADING.size)
    for style in _CELLS:
        digit = code.width("0", style.size)
        ordinal_right = left + max(ordinal, len(str(len(rows))) * digit)
        room = right - ordinal_right
        # A little more, against rounding errors.
        widths = [
            max(digit * min(length, limit or length), word) + 0.01
            for (_, _, limit), length, word in zip(fields, longest, words, strict=True)
        ]
        if sum(widths) + _GAP * len(widths) <= room:
            break
    gap = min(max(_GAP, (room - sum(widths)) / len(widths)), _WIDEST_GAP)
    # The invoice number's.
    widths[1] += room - gap * len(widths) - sum(widths)

    measured = []
    at = ordinal_right + gap
    for (label, face, _), values, length, width in zip(
        fields, columns, longest, widths, strict=True
    ):
        heading = Text(strong, HEADING, wrap(label, strong, HEADING.size, width))
        # No character of the code face is wider than a digit.
        fits = face is code and length * digit <= width and code.draws("".join(values))
        measured.append(Column(heading, face, at, width, fits))
        at += width + gap
    return Table(style, ordinal_right, measured, rows)


def polish_time(moment: datetime) -> str:
    """An aware datetime as Polish wall-clock time, to the second: `2026-01-31 12:00:00`.

    In the hour that occurs twice in autumn, CEST or CET is added.
    """
    local = moment.astimezone(WARSAW)
    wall = local.isoformat(" ")[:19]
    is_twice = local.utcoffset() != local.replace(fold=1 - local.fold).utcoffset()
    return f"{wall} {local.tzname()}" if is_twice else wall


def _fields(labels: type[Labels], faces: Faces) -> list[tuple[str, Face, int | None]]:
    """Of each column the heading, the face, and the width in characters: longer values wrap."""
    return [
        (labels.ksef_number, faces.code, 36),
        # Takes the room that the others leave.
        (labels.invoice_number, faces.code, None),
        (labels.seller_nip, faces.code, 10),
        (labels.issue_date, faces.code, 10),
        (labels.sent_at, faces.code, 19),
        (labels.assigned_at, faces.code, 19),
        (labels.document_hash, faces.code, 44),
        (labels.sending_mode, faces.text, 7),
    ]


def _row(document: UpoDocument) -> tuple[str, ...]:
    return (
        document.ksef_number,
        document.invoice_number,
        document.seller_nip,
        str(document.issue_date),
        polish_time(document.sent_at),
        polish_time(document.ksef_number_assigned_at),
        document.document_hash,
        document.sending_mode or "–",
    )
