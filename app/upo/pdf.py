"""The UPO as a PDF for people: A4 landscape, drawn directly on the canvas.

Everything is measured before anything is drawn, so the number of pages is known from the start.
Lengths are in points; `top` counts downwards from the upper edge of the page.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from typing import Any, Final
from zoneinfo import ZoneInfo

from reportlab import rl_config
from reportlab.pdfgen.canvas import Canvas

from app.upo.fonts import REPLACEMENT, Face, Faces, faces
from app.upo.labels import LABELS, Labels
from app.upo.xml import Upo, UpoDocument

# Compressed streams as bytes, not once more as text: a fifth smaller.
rl_config.useA85 = 0

PRODUCTION_ISSUER: Final = "Ministerstwo Finansów"

_WARSAW: Final = ZoneInfo("Europe/Warsaw")

_WIDTH: Final = 841.89
_HEIGHT: Final = 595.28
_LEFT: Final = 32.0
_RIGHT: Final = _WIDTH - 32.0
_TOP: Final = 34.0
_TABLE_BOTTOM: Final = _HEIGHT - 52.0
_FOOT: Final = _HEIGHT - 42.0

_BLACK: Final = (0.0, 0.0, 0.0)
_GREY: Final = (0.33, 0.33, 0.33)
_RED: Final = (0.75, 0.04, 0.1)
_WHITE: Final = (1.0, 1.0, 1.0)
_HAIRLINE: Final = 0.25
_RULE: Final = 0.8

_CELL_SIZE: Final = 6.8
_CELL_LEADING: Final = 8.6
_CELL_PADDING: Final = 3.0
_COLUMN_GAP: Final = 8.0
_HEADING_SIZE: Final = 6.6
_HEADING_LEADING: Final = 8.0
_FACT_SIZE: Final = 8.2
_FACT_LEADING: Final = 10.4
_FACT_PADDING: Final = 2.2
_SMALL_SIZE: Final = 6.6

_BREAK_AFTER: Final = frozenset(" -/_.,;:|+")


def render_upo(upo: Upo, *, xml_sha256: str, language: str = "pl") -> bytes:
    """The PDF of a UPO; equal arguments give equal bytes, in any thread and process.

    `xml_sha256` is the hexadecimal SHA-256 of the XML, printed on each page.
    `language` is "pl" or "en"; another one is a KeyError.
    """
    return _Drawing(upo, xml_sha256, LABELS[language]).pdf()


@dataclass(frozen=True, slots=True)
class _Text:
    """A text ready to be drawn: wrapped, in a face that has all its characters."""

    face: Face
    size: float
    lines: tuple[str, ...]

    @property
    def width(self) -> float:
        return max(self.face.width(line, self.size) for line in self.lines)


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the document table. `left` and `width` are known once all rows are."""

    heading: _Text
    left: float
    width: float
    align_right: bool = False


@dataclass(frozen=True, slots=True)
class _Row:
    """Texts of one document, a cell for each column."""

    cells: tuple[_Text, ...]
    height: float


@dataclass(frozen=True, slots=True)
class _Fact:
    """A row of the table at the head."""

    label: _Text
    value: _Text
    height: float


@dataclass(frozen=True, slots=True)
class _Field:
    """What a column shows: its heading, a value a document, and its widest useful content.

    `longest` is in characters of the code face; a longer value wraps. None: the column takes the
    room that the others leave.
    """

    heading: str
    values: Sequence[str]
    longest: int | None
    code: bool = True
    align_right: bool = False


class _Sheet:
    """A reportlab canvas with one text object a page and the vertical axis turned round."""

    def __init__(self, canvas: Canvas) -> None:
        self._canvas = canvas
        self._text: Any = None

    def start_page(self) -> None:
        self._text = self._canvas.beginText(0, 0)

    def end_page(self) -> None:
        self._canvas.drawText(self._text)
        self._canvas.showPage()

    def write(
        self,
        left: float,
        top: float,
        text: _Text,
        *,
        leading: float = 0.0,
        colour: tuple[float, float, float] = _BLACK,
        right: float | None = None,
    ) -> None:
        """Write the lines below `top`, flush with `left`, or with `right` where that is given."""
        out = self._text
        out.setFillColor(colour)
        out.setFont(text.face.name, text.size)
        baseline = _HEIGHT - top - text.size * 0.8
        for line in text.lines:
            x = left if right is None else right - text.face.width(line, text.size)
            out.setTextOrigin(x, baseline)
            out.textOut(line)
            baseline -= leading

    def go_on(self, text: _Text, colour: tuple[float, float, float] = _BLACK) -> None:
        """Write one line right behind the last one."""
        self._text.setFillColor(colour)
        self._text.setFont(text.face.name, text.size)
        self._text.textOut(text.lines[0])

    def rule(self, top: float, thickness: float, grey: float = 0.0) -> None:
        self._canvas.setStrokeGray(grey)
        self._canvas.setLineWidth(thickness)
        self._canvas.line(_LEFT, _HEIGHT - top, _RIGHT, _HEIGHT - top)

    def box(self, left: float, top: float, width: float, height: float) -> None:
        self._canvas.setFillColor(_RED)
        self._canvas.rect(left, _HEIGHT - top - height, width, height, stroke=0, fill=1)

    def bookmark(self, key: str, title: str) -> None:
        self._canvas.bookmarkPage(key)
        self._canvas.addOutlineEntry(title, key)


class _Drawing:
    """One UPO on its way to a PDF."""

    def __init__(self, upo: Upo, xml_sha256: str, labels: Labels) -> None:
        self._upo = upo
        self._labels = labels
        self._xml_sha256 = xml_sha256
        self._faces: Faces = faces()
        self._replaced = False
        self._is_test = upo.issuer != PRODUCTION_ISSUER
        self._issuer = self._wrapped(upo.issuer, 9.0, 420.0, face=self._faces.strong)
        self._facts = self._measure_facts()
        self._columns, self._rows = self._measure_documents()
        self._heading_height = (
            max(len(column.heading.lines) for column in self._columns) * _HEADING_LEADING
            + 2 * _CELL_PADDING
        )
        self._pages = self._paginate()

    def pdf(self) -> bytes:
        buffer = BytesIO()
        canvas = Canvas(
            buffer,
            pagesize=(_WIDTH, _HEIGHT),
            pageCompression=1,
            invariant=1,
            initialFontName=self._faces.text.name,
            lang=self._labels.language_tag,
        )
        # Only the canvas knows the document that fonts are bound to.
        self._faces.prepare(canvas._doc)
        self._describe(canvas)
        sheet = _Sheet(canvas)
        for index in range(len(self._pages)):
            self._draw_page(sheet, index)
        canvas.save()
        return buffer.getvalue()

    # Measuring.

    def _wrapped(
        self, value: str, size: float, width: float, *, code: bool = False, face: Face | None = None
    ) -> _Text:
        if face is None:
            face, drawable = self._faces.best(value, code=code)
        else:
            drawable = face.replacing(value)
        self._replaced = self._replaced or (drawable != value)
        return _Text(face, size, _wrap(drawable, face, size, width))

    def _line(self, value: str, size: float, *, code: bool = False, strong: bool = False) -> _Text:
        face = self._faces.strong if strong else None
        return self._wrapped(value, size, _WIDTH * 10, code=code, face=face)

    def _measure_facts(self) -> tuple[_Fact, ...]:
        entries = [entry for entry in self._fact_entries() if entry[1] is not None]
        labels = [self._line(label, _FACT_SIZE) for label, _, _ in entries]
        value_width = _RIGHT - _LEFT - max(label.width for label in labels) - 3 * _COLUMN_GAP
        facts = []
        for label, (_, value, code) in zip(labels, entries, strict=True):
            text = self._wrapped(value or "", _FACT_SIZE, value_width, code=code)
            height = len(text.lines) * _FACT_LEADING + 2 * _FACT_PADDING
            facts.append(_Fact(label, text, height))
        return tuple(facts)

    def _fact_entries(self) -> Iterator[tuple[str, str | None, bool]]:
        """Label, value, and whether the value is to be read character by character."""
        upo, labels = self._upo, self._labels
        yield labels.session, upo.session_reference_number, True
        if upo.page is not None:
            yield labels.page, str(upo.page.page), True
            yield labels.pages, str(upo.page.pages), True
            yield labels.documents_from, str(upo.page.documents_from), True
            yield labels.documents_to, str(upo.page.documents_to), True
            yield labels.documents_total, str(upo.page.documents_total), True
        yield labels.context_type, labels.context_types[upo.context_type], False
        yield labels.context_id, upo.context_id, True
        yield labels.token, upo.token_reference_number, True
        yield labels.authentication_hash, upo.authentication_hash, True
        yield labels.schema_name, upo.schema_name, False
        yield labels.form_code, upo.form_code, False

    def _fields(self) -> list[_Field]:
        documents, labels = self._upo.documents, self._labels
        fields = [
            _Field(
                labels.ordinal,
                [str(number) for number in range(1, len(documents) + 1)],
                longest=5,
                align_right=True,
            ),
            _Field(labels.ksef_number, [document.ksef_number for document in documents], 36),
            _Field(labels.invoice_number, [document.invoice_number for document in documents], None),
            _Field(labels.seller_nip, [document.seller_nip for document in documents], 10),
            _Field(
                labels.issue_date, [document.issue_date.isoformat() for document in documents], 10
            ),
            _Field(labels.sent_at, [polish_time(document.sent_at) for document in documents], 19),
            _Field(
                labels.assigned_at,
                [polish_time(document.ksef_number_assigned_at) for document in documents],
                19,
            ),
            _Field(labels.document_hash, [document.document_hash for document in documents], 44),
        ]
        if any(document.sending_mode for document in documents):
            modes = [document.sending_mode or "–" for document in documents]
            fields.append(_Field(labels.sending_mode, modes, 8, code=False))
        return fields

    def _measure_documents(self) -> tuple[tuple[_Column, ...], list[_Row]]:
        fields = self._fields()
        widths = [self._natural_width(field) for field in fields]
        rest = _RIGHT - _LEFT - _COLUMN_GAP * (len(fields) - 1) - sum(filter(None, widths))
        columns = []
        left = _LEFT
        for field, natural in zip(fields, widths, strict=True):
            width = rest if natural is None else natural
            heading = self._wrapped(field.heading, _HEADING_SIZE, width, face=self._faces.strong)
            columns.append(_Column(heading, left, width, field.align_right))
            left += width + _COLUMN_GAP
        rows = [
            self._measure_row(fields, columns, values)
            for values in zip(*(field.values for field in fields), strict=True)
        ]
        return tuple(columns), rows

    def _natural_width(self, field: _Field) -> float | None:
        if field.longest is None:
            return None
        most = self._faces.code.width("0", _CELL_SIZE) * field.longest
        words = [self._faces.strong.width(word, _HEADING_SIZE) for word in field.heading.split()]
        widest = 0.0
        for value in set(map(len, field.values)) if field.code else set(field.values):
            if isinstance(value, int):
                widest = max(widest, self._faces.code.width("0", _CELL_SIZE) * value)
            else:
                face, drawable = self._faces.best(value, code=False)
                widest = max(widest, face.width(drawable, _CELL_SIZE))
        return max(*words, min(widest, most)) + 0.01

    def _measure_row(
        self, fields: Sequence[_Field], columns: Sequence[_Column], values: Sequence[str]
    ) -> _Row:
        cells = tuple(
            self._wrapped(value, _CELL_SIZE, column.width, code=field.code)
            for field, column, value in zip(fields, columns, values, strict=True)
        )
        lines = max(len(cell.lines) for cell in cells)
        return _Row(cells, lines * _CELL_LEADING + 2 * _CELL_PADDING)

    def _head_height(self) -> float:
        return 0.0

    def _paginate(self) -> list[range]:
        """Which rows stand on which page; the first page may have none below a tall head."""
        pages = []
        start = 0
        top = self._first_table_top() + self._heading_height
        for index, row in enumerate(self._rows):
            if top + row.height > _TABLE_BOTTOM:
                pages.append(range(start, index))
                start = index
                top = self._next_table_top() + self._heading_height
            top += row.height
        pages.append(range(start, len(self._rows)))
        return pages

    def _first_table_top(self) -> float:
        return self._facts_top() + sum(fact.height for fact in self._facts) + 14.0

    def _facts_top(self) -> float:
        return _TOP + max(44.0, 20.0 + 11.0 * len(self._issuer.lines) + 14.0) + 34.0

    def _next_table_top(self) -> float:
        return _TOP + 18.0

    # Drawing.

    def _describe(self, canvas: Canvas) -> None:
        """Metadata; the moment is that of the last number given, the one that the UPO confirms."""
        upo, labels = self._upo, self._labels
        if len(upo.documents) == 1:
            title = labels.title_of_document.format(ksef_number=upo.documents[0].ksef_number)
        else:
            title = labels.title_of_session.format(session=upo.session_reference_number)
        canvas.setTitle(self._faces.text.replacing(title))
        canvas.setSubject(labels.subject.format(hash=self._xml_sha256))
        canvas.setAuthor("ksef-proxy")
        canvas.setCreator("ksef-proxy")
        moment = max(document.ksef_number_assigned_at for document in upo.documents)
        stamp = _pdf_date(moment)
        canvas.setDateFormatter(lambda *_: stamp)
        canvas.setViewerPreference("DisplayDocTitle", "true")
        if len(self._pages) > 1:
            canvas.showOutline()

    def _draw_page(self, sheet: _Sheet, index: int) -> None:
        rows = self._pages[index]
        sheet.start_page()
        if len(self._pages) > 1:
            self._bookmark(sheet, index, rows)
        if index == 0:
            self._draw_head(sheet)
            top = self._first_table_top()
        else:
            self._draw_running_head(sheet)
            top = self._next_table_top()
        if rows:
            self._draw_rows(sheet, top, rows)
        self._draw_foot(sheet, index)
        sheet.end_page()

    def _bookmark(self, sheet: _Sheet, index: int, rows: range) -> None:
        template = self._labels.bookmark if rows else self._labels.bookmark_without_documents
        title = template.format(page=index + 1, first=rows.start + 1, last=rows.stop)
        sheet.bookmark(f"page-{index + 1}", title)

    def _draw_head(self, sheet: _Sheet) -> None:
        labels = self._labels
        before, red, after = (self._line(part, 18.0, strong=True) for part in labels.system)
        sheet.write(_LEFT, _TOP, before)
        sheet.go_on(red, _RED)
        sheet.go_on(after)
        if self._is_test:
            left = _LEFT
            self._draw_test(sheet, left, _TOP + 24.0, 13.0)
        label = self._line(labels.issuer, 7.0)
        sheet.write(0, _TOP, label, right=_RIGHT, colour=_GREY)
        sheet.write(0, _TOP + 9.5, self._issuer, right=_RIGHT, leading=11.0)
        top = _TOP + 9.5 + 11.0 * len(self._issuer.lines) + 4.0
        sentence = self._line(f"{labels.about} {labels.registered}", 7.0)
        sheet.write(0, top, sentence, right=_RIGHT, colour=_GREY)
        rule = self._facts_top() - 34.0
        sheet.rule(rule, _RULE)
        sheet.write(_LEFT, rule + 10.0, self._line(labels.title, 13.0, strong=True))
        self._draw_facts(sheet, rule + 34.0)

    def _draw_facts(self, sheet: _Sheet, top: float) -> None:
        left = _LEFT + max(fact.label.width for fact in self._facts) + 3 * _COLUMN_GAP
        for fact in self._facts:
            sheet.write(_LEFT, top + _FACT_PADDING, fact.label, colour=_GREY)
            sheet.write(left, top + _FACT_PADDING, fact.value, leading=_FACT_LEADING)
            top += fact.height
            sheet.rule(top, _HAIRLINE, 0.7)

    def _draw_running_head(self, sheet: _Sheet) -> None:
        title = self._line(self._labels.title, 8.2, strong=True)
        session = self._line(self._upo.session_reference_number, 7.6, code=True)
        sheet.write(_LEFT, _TOP - 4.0, title)
        sheet.write(0, _TOP - 4.0, session, right=_RIGHT)
        if self._is_test:
            self._draw_test(sheet, _LEFT + title.width + 14.0, _TOP - 6.0, 9.0)

    def _draw_test(self, sheet: _Sheet, left: float, top: float, size: float) -> None:
        word = self._line(self._labels.test, size, strong=True)
        sheet.box(left, top, word.width + size, size * 1.3)
        sheet.write(left + size / 2, top + size * 0.2, word, colour=_WHITE)
        explanation = self._line(self._labels.test_explained, 7.0, strong=True)
        sheet.write(left + word.width + size + 6.0, top + size * 0.65 - 3.5, explanation, colour=_RED)

    def _draw_rows(self, sheet: _Sheet, top: float, rows: range) -> None:
        sheet.rule(top, _RULE)
        for column in self._columns:
            right = column.left + column.width if column.align_right else None
            sheet.write(
                column.left,
                top + _CELL_PADDING,
                column.heading,
                leading=_HEADING_LEADING,
                right=right,
            )
        top += self._heading_height
        sheet.rule(top, _RULE)
        for index in rows:
            row = self._rows[index]
            for column, cell in zip(self._columns, row.cells, strict=True):
                right = column.left + column.width if column.align_right else None
                sheet.write(
                    column.left, top + _CELL_PADDING, cell, leading=_CELL_LEADING, right=right
                )
            top += row.height
            sheet.rule(top, _HAIRLINE, 0.7)

    def _draw_foot(self, sheet: _Sheet, index: int) -> None:
        labels = self._labels
        sheet.rule(_FOOT, _HAIRLINE)
        top = _FOOT + 5.0
        statement = self._line(f"{labels.visualisation} {labels.xml_hash} ", _SMALL_SIZE)
        sheet.write(_LEFT, top, statement)
        sheet.go_on(self._line(self._xml_sha256, _SMALL_SIZE, code=True))
        notes = labels.time_zone
        if self._replaced:
            notes = f"{notes} {labels.replaced}"
        sheet.write(_LEFT, top + 9.0, self._line(notes, _SMALL_SIZE))
        number = labels.page_of.format(page=index + 1, pages=len(self._pages))
        sheet.write(0, top, self._line(number, 8.0), right=_RIGHT)


def polish_time(moment: datetime) -> str:
    """An aware datetime as Polish wall-clock time, to the second.

    In the hour that occurs twice in autumn the name of the time (CEST, CET) follows.
    """
    local = moment.astimezone(_WARSAW)
    wall = local.replace(tzinfo=None, fold=0).isoformat(" ", "seconds")
    is_twice = local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()
    return f"{wall} {local.tzname()}" if is_twice else wall


def _pdf_date(moment: datetime) -> str:
    local = moment.astimezone(_WARSAW)
    offset = local.strftime("%z")
    return f"D:{local:%Y%m%d%H%M%S}{offset[:3]}'{offset[3:]}'"


def _wrap(text: str, face: Face, size: float, width: float) -> tuple[str, ...]:
    """Cut a text into lines of at most `width` points, after a space or a sign where possible.

    No character is lost or added: the lines joined are the text.
    """
    if face.width(text, size) <= width:
        return (text,)
    widths = face.widths(text, size)
    lines = []
    start = 0
    while start < len(text):
        end = _line_end(text, widths, start, width)
        lines.append(text[start:end])
        start = end
    return tuple(lines)


def _line_end(text: str, widths: Sequence[float], start: int, width: float) -> int:
    used = 0.0
    last_break = start
    for index in range(start, len(text)):
        used += widths[index]
        # A space at the end of a line is not seen and may stand out.
        if used > width and index > start and text[index] != " ":
            # A line that would be less than half full is better cut anywhere.
            return last_break if last_break - start > (index - start) // 2 else index
        if text[index] in _BREAK_AFTER:
            last_break = index + 1
    return len(text)


__all__ = ["PRODUCTION_ISSUER", "REPLACEMENT", "polish_time", "render_upo"]
