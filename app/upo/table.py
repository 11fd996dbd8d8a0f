"""The two tables: the facts at the head; what the columns of documents show, and how wide."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from app.clock import WARSAW
from app.upo.fonts import Face, Faces
from app.upo.labels import Labels
from app.upo.sheet import Column, Style, Text, wrap
from app.upo.xml import Upo, UpoDocument

HEADING: Final = Style(6.6, 8.0)
# The first one is used in which only overlong values wrap, else the last.
_CELLS: Final = (Style(7.4, 9.4), Style(7.1, 9.0), Style(6.8, 8.6))
_GAP: Final = 7.0
_WIDEST_GAP: Final = 12.0


class Table(NamedTuple):
    """The columns, and for each document a row of cells, one for each column."""

    style: Style
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
    ordinals = [str(number + 1) for number in range(len(rows))]
    ordinal = Text(strong, HEADING, [labels.ordinal])
    ordinal_width = strong.width(labels.ordinal, HEADING.size)
    for style in _CELLS:
        digit = code.width("0", style.size)
        ordinal_right = left + max(ordinal_width, len(ordinals[-1]) * digit)
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

    measured = [Column(ordinal, code, ordinal_right, ordinal_width, fits=True, flush_right=True)]
    cells: list[Sequence[str]] = [ordinals]
    at = ordinal_right + gap
    for (label, face, _), values, width in zip(fields, columns, widths, strict=True):
        heading = Text(strong, HEADING, wrap(label, strong, HEADING.size, width))
        fits = _fit(values, face, style.size, width)
        measured.append(Column(heading, face, at, width, fits, flush_right=False))
        cells.append(face.literals(values) if fits else values)
        at += width + gap
    return Table(style, measured, list(zip(*cells, strict=True)))


def _fit(values: Sequence[str], face: Face, size: float, width: float) -> bool:
    """Whether each value takes one line, in letters of the face's alphabet."""
    return face.spells("".join(values)) and (
        max(map(len, values)) * face.widest * size <= width
        or all(face.width(value, size) <= width for value in set(values))
    )


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


def facts_of(upo: Upo, labels: type[Labels], faces: Faces) -> list[tuple[str, str, Face]]:
    """Label, value and the face for the value, in the order of the official visualisation."""
    words, code = faces.text, faces.code
    facts: list[tuple[str, str | int | None, Face]] = [
        (labels.session, upo.session_reference_number, code)
    ]
    if upo.page is not None:
        facts += [
            (labels.page, upo.page.page, code),
            (labels.pages, upo.page.pages, code),
            (labels.documents_from, upo.page.documents_from, code),
            (labels.documents_to, upo.page.documents_to, code),
            (labels.documents_total, upo.page.documents_total, code),
        ]
    facts += [
        (labels.context_type, labels.context_types[upo.context_type], words),
        (labels.context_id, upo.context_id, code),
        (labels.token, upo.token_reference_number, code),
        (labels.authentication_hash, upo.authentication_hash, code),
        (labels.schema_name, upo.schema_name, words),
        (labels.form_code, upo.form_code, words),
    ]
    return [(label, str(value), face) for label, value, face in facts if value is not None]
