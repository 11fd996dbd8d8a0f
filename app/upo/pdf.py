"""The UPO as a PDF for people: A4 landscape, with the content of the Ministry's own visualisation.

Everything is measured before anything is drawn, so the number of pages is known from the start.
Lengths are in points; `top` counts downwards from the upper edge of the page.
"""

from collections.abc import Iterator
from datetime import datetime
from io import BytesIO
from typing import Any, Final, NamedTuple

from reportlab import rl_config
from reportlab.pdfgen.canvas import Canvas

from app.clock import WARSAW
from app.upo.fonts import Face, faces
from app.upo.labels import LABELS, Labels
from app.upo.sheet import GREY, RED, WHITE, Sheet, Text, wrap
from app.upo.xml import Upo

# Compressed streams as plain bytes, not in ASCII85: a fifth smaller.
rl_config.useA85 = 0

PRODUCTION_ISSUER: Final = "Ministerstwo Finansów"

_PAGE_WIDTH: Final = 841.89
_PAGE_HEIGHT: Final = 595.28
_LEFT: Final = 30.0
_RIGHT: Final = _PAGE_WIDTH - 30.0
_TOP: Final = 32.0
_FOOT: Final = _PAGE_HEIGHT - 44.0
_TABLE_BOTTOM: Final = _FOOT - 8.0

# Thickness and grey (0 is black) of lines.
_HAIRLINE: Final = (0.3, 0.65)
_RULE: Final = (0.8, 0.0)

_WORDMARK_HEIGHT: Final = 24.0
_TEST_HEIGHT: Final = 20.0
_TITLE_HEIGHT: Final = 34.0
_RUNNING_HEAD_HEIGHT: Final = 20.0
_ISSUER_WIDTH: Final = 420.0
_SESSION_WIDTH: Final = 200.0
_GAP: Final = 7.0
_WIDEST_GAP: Final = 12.0
_FACT_GAP: Final = 26.0
_CELL_PADDING: Final = 2.4
_HEADING_PADDING: Final = 3.0
_FACT_PADDING: Final = 1.7

# Font size and leading of each kind of text.
_WORDMARK: Final = (18.0, _WORDMARK_HEIGHT)
_TITLE: Final = (13.0, 16.0)
_FACT: Final = (8.4, 11.0)
_HEADING: Final = (6.6, 8.0)
# The document table uses the first one in which only overlong values wrap, else the last.
_CELLS: Final = ((7.4, 9.4), (7.1, 9.0), (6.8, 8.6))
_SMALL: Final = (6.8, 9.0)
_ISSUER: Final = (9.0, 11.0)
_PAGE_NUMBER: Final = (8.4, 9.0)


def render_upo(upo: Upo, *, xml_sha256: str, language: str = "pl") -> bytes:
    """The PDF of a UPO. Equal arguments give equal bytes, in any thread and process.

    `xml_sha256` is the hexadecimal SHA-256 of the XML, printed on each page.
    `language` is "pl" or "en"; KeyError for any other.
    """
    return _Drawing(upo, xml_sha256, LABELS[language]).pdf()


def polish_time(moment: datetime) -> str:
    """An aware datetime as Polish wall-clock time, to the second: `2026-01-31 12:00:00`.

    In the hour that occurs twice in autumn, CEST or CET is added.
    """
    local = moment.astimezone(WARSAW)
    wall = local.replace(tzinfo=None).isoformat(" ", "seconds")
    is_twice = local.utcoffset() != local.replace(fold=1 - local.fold).utcoffset()
    return f"{wall} {local.tzname()}" if is_twice else wall


class _Field(NamedTuple):
    """What a column shows: a heading, and one value for each document.

    `longest` is the column's width in characters of the code face; longer values wrap. None: the
    column takes the room that the others leave. `is_code`: the values are set in the code face.
    """

    heading: str
    values: list[str]
    longest: int | None
    is_code: bool = True


class _Column(NamedTuple):
    """A field with its place on the page. `may_wrap` is False when no value needs two lines."""

    heading: Text
    values: list[str]
    face: Face
    left: float
    width: float
    may_wrap: bool


class _Fact(NamedTuple):
    """A labelled value in the list at the head of the first page."""

    label: Text
    value: Text

    @property
    def height(self) -> float:
        return self.value.height + 2 * _FACT_PADDING


class _Drawing:
    """A PDF of one UPO: everything is measured when it is created, and drawn by `pdf`."""

    def __init__(self, upo: Upo, xml_sha256: str, labels: Labels) -> None:
        self._upo = upo
        self._labels = labels
        self._xml_sha256 = xml_sha256
        self._faces = faces()
        self._has_replacements = False
        self._is_test = upo.issuer != PRODUCTION_ISSUER
        self._issuer = self._text(upo.issuer, _ISSUER, _ISSUER_WIDTH, self._faces.strong)
        self._facts = self._measure_facts()
        self._ordinal = self._words(labels.ordinal, _HEADING, self._faces.strong)
        self._fields = self._document_fields()
        self._cell = self._largest_cell()
        self._ordinal_right = _LEFT + self._ordinal_width(self._cell)
        self._columns = self._measure_columns()
        self._heights = self._measure_rows()
        self._pages = self._paginate()

    def pdf(self) -> bytes:
        buffer = BytesIO()
        canvas = Canvas(
            buffer,
            pagesize=(_PAGE_WIDTH, _PAGE_HEIGHT),
            pageCompression=1,
            # No time of creation and no random identifier: equal input gives equal bytes.
            invariant=1,
            # Otherwise Helvetica would be referred to without being embedded.
            initialFontName=self._faces.text.name,
            # The first version in which a document can declare its language.
            pdfVersion=(1, 4),
            lang=self._labels.language_tag,
        )
        self._faces.prepare(canvas._doc)
        self._describe(canvas)
        sheet = Sheet(canvas, _PAGE_HEIGHT)
        for index in range(len(self._pages)):
            self._draw_page(canvas, sheet, index)
        canvas.save()
        return buffer.getvalue()

    # Measuring.

    def _text(
        self, value: str, style: tuple[float, float], width: float, face: Face | None = None
    ) -> Text:
        """A wrapped text of the UPO, in `face` if it has all characters, else in the text face."""
        if face is None or not face.draws(value):
            face = self._faces.text
            drawn = face.replacing(value)
            # Compared, because the value itself may contain REPLACEMENT.
            self._has_replacements = self._has_replacements or drawn != value
            value = drawn
        size, leading = style
        return Text(face, size, leading, wrap(value, face, size, width))

    def _words(self, words: str, style: tuple[float, float], face: Face | None = None) -> Text:
        """A label of ours, in one line."""
        size, leading = style
        return Text(face or self._faces.text, size, leading, (words,))

    def _measure_facts(self) -> tuple[_Fact, ...]:
        entries = list(self._fact_entries())
        labels = [self._words(label, _FACT) for label, _, _ in entries]
        room = _RIGHT - _LEFT - _FACT_GAP - max(label.width for label in labels)
        return tuple(
            _Fact(label, self._text(value, _FACT, room, face))
            for label, (_, value, face) in zip(labels, entries, strict=True)
        )

    def _fact_entries(self) -> Iterator[tuple[str, str, Face | None]]:
        """(label, value, face for the value) in the order of the official visualisation."""
        upo, labels, code = self._upo, self._labels, self._faces.code
        yield labels.session, upo.session_reference_number, code
        if upo.page is not None:
            yield labels.page, str(upo.page.page), code
            yield labels.pages, str(upo.page.pages), code
            yield labels.documents_from, str(upo.page.documents_from), code
            yield labels.documents_to, str(upo.page.documents_to), code
            yield labels.documents_total, str(upo.page.documents_total), code
        yield labels.context_type, labels.context_types[upo.context_type], None
        yield labels.context_id, upo.context_id, code
        if upo.token_reference_number is not None:
            yield labels.token, upo.token_reference_number, code
        if upo.authentication_hash is not None:
            yield labels.authentication_hash, upo.authentication_hash, code
        yield labels.schema_name, upo.schema_name, None
        yield labels.form_code, upo.form_code, None

    def _document_fields(self) -> list[_Field]:
        labels, documents = self._labels, self._upo.documents
        assigned_at = [polish_time(document.ksef_number_assigned_at) for document in documents]
        fields = [
            _Field(labels.ksef_number, [document.ksef_number for document in documents], 36),
            _Field(
                labels.invoice_number, [document.invoice_number for document in documents], None
            ),
            _Field(labels.seller_nip, [document.seller_nip for document in documents], 10),
            _Field(labels.issue_date, [str(document.issue_date) for document in documents], 10),
            _Field(labels.sent_at, [polish_time(document.sent_at) for document in documents], 19),
            _Field(labels.assigned_at, assigned_at, 19),
            _Field(labels.document_hash, [document.document_hash for document in documents], 44),
        ]
        modes = [document.sending_mode or "–" for document in documents]
        if any(document.sending_mode for document in documents):
            fields.append(_Field(labels.sending_mode, modes, 7, is_code=False))
        return fields

    def _largest_cell(self) -> tuple[float, float]:
        for cell in _CELLS:
            widths = [self._natural_width(field, cell) + _GAP for field in self._fields]
            if _LEFT + self._ordinal_width(cell) + sum(widths) <= _RIGHT:
                return cell
        return _CELLS[-1]

    def _ordinal_width(self, cell: tuple[float, float]) -> float:
        last = self._words(str(len(self._upo.documents)), cell, self._faces.code)
        return max(self._ordinal.width, last.width)

    def _natural_width(self, field: _Field, cell: tuple[float, float]) -> float:
        """The width of the longest value, up to `longest` characters, or of the widest word of the
        heading."""
        longest = max(map(len, field.values))
        content = self._faces.code.width("0", cell[0]) * min(longest, field.longest or longest)
        words = [self._faces.strong.width(word, _HEADING[0]) for word in field.heading.split()]
        # A little more, against rounding errors.
        return max(content, *words) + 0.01

    def _measure_columns(self) -> tuple[_Column, ...]:
        room = _RIGHT - self._ordinal_right
        count = len(self._fields)
        naturals = [self._natural_width(field, self._cell) for field in self._fields]
        gap = min(max(_GAP, (room - sum(naturals)) / count), _WIDEST_GAP)
        fixed = [
            width
            for field, width in zip(self._fields, naturals, strict=True)
            if field.longest is not None
        ]
        rest = room - gap * count - sum(fixed)
        left = self._ordinal_right + gap
        columns = []
        for field, natural in zip(self._fields, naturals, strict=True):
            width = rest if field.longest is None else natural
            columns.append(self._measure_column(field, left, width))
            left += width + gap
        return tuple(columns)

    def _measure_column(self, field: _Field, left: float, width: float) -> _Column:
        size, leading = _HEADING
        strong = self._faces.strong
        heading = Text(strong, size, leading, wrap(field.heading, strong, size, width))
        face = self._faces.code if field.is_code else self._faces.text
        # `_text` also notes whether a character had to be replaced, which each page's foot states.
        may_wrap = any(
            len(self._text(value, self._cell, width, face).lines) > 1 for value in set(field.values)
        )
        return _Column(heading, field.values, face, left, width, may_wrap)

    def _measure_rows(self) -> list[float]:
        wrapping = [column for column in self._columns if column.may_wrap]
        _, leading = self._cell
        heights = []
        for index in range(len(self._upo.documents)):
            cells = (
                self._text(column.values[index], self._cell, column.width, column.face)
                for column in wrapping
            )
            content = max((cell.height for cell in cells), default=leading)
            heights.append(max(content, leading) + 2 * _CELL_PADDING)
        return heights

    def _paginate(self) -> list[range]:
        """The rows of each page; a tall head may leave no room for rows on the first page."""
        pages: list[range] = []
        first = 0
        top = self._table_top(0) + self._heading_height
        for index, height in enumerate(self._heights):
            if top + height > _TABLE_BOTTOM:
                pages.append(range(first, index))
                first = index
                top = self._table_top(len(pages)) + self._heading_height
            top += height
        pages.append(range(first, len(self._heights)))
        return pages

    @property
    def _heading_height(self) -> float:
        return max(column.heading.height for column in self._columns) + 2 * _HEADING_PADDING

    @property
    def _title_top(self) -> float:
        issuer = _SMALL[1] + self._issuer.height + _SMALL[1]
        test = _TEST_HEIGHT if self._is_test else 0.0
        return _TOP + max(_WORDMARK_HEIGHT + test, issuer) + 8.0

    def _table_top(self, page: int) -> float:
        if page > 0:
            return _TOP + _RUNNING_HEAD_HEIGHT
        return self._title_top + _TITLE_HEIGHT + sum(fact.height for fact in self._facts) + 16.0

    # Drawing.

    def _describe(self, canvas: Any) -> None:
        """Set the metadata. Its date is when the last KSeF number was assigned, not the present,
        so that equal input gives equal bytes."""
        upo, labels = self._upo, self._labels
        if len(upo.documents) == 1:
            title = labels.title_of_document.format(ksef_number=upo.documents[0].ksef_number)
        else:
            title = labels.title_of_session.format(session=upo.session_reference_number)
        canvas.setTitle(self._faces.text.replacing(title))
        canvas.setSubject(labels.subject.format(hash=self._xml_sha256))
        canvas.setAuthor("ksef-proxy")
        canvas.setCreator("ksef-proxy")
        moment = _pdf_date(max(document.ksef_number_assigned_at for document in upo.documents))
        canvas.setDateFormatter(lambda *_: moment)
        canvas.setViewerPreference("DisplayDocTitle", "true")
        if len(self._pages) > 1:
            canvas.showOutline()

    def _draw_page(self, canvas: Any, sheet: Sheet, index: int) -> None:
        rows = self._pages[index]
        if len(self._pages) > 1:
            self._bookmark(canvas, index, rows)
        if index == 0:
            self._draw_head(sheet)
        else:
            self._draw_running_head(sheet)
        if rows:
            self._draw_documents(sheet, self._table_top(index), rows)
        self._draw_foot(sheet, index)
        sheet.end_page()

    def _bookmark(self, canvas: Any, index: int, rows: range) -> None:
        template = self._labels.bookmark if rows else self._labels.bookmark_without_documents
        key = f"page-{index + 1}"
        canvas.bookmarkPage(key)
        title = template.format(page=index + 1, first=rows.start + 1, last=rows.stop)
        canvas.addOutlineEntry(title, key)

    def _draw_head(self, sheet: Sheet) -> None:
        labels, strong = self._labels, self._faces.strong
        before, red, after = (self._words(part, _WORDMARK, strong) for part in labels.system)
        sheet.write(before, _LEFT, _TOP - 5.0)
        sheet.write_on(red, RED)
        sheet.write_on(after)
        if self._is_test:
            self._draw_test(sheet, _LEFT, _TOP + _WORDMARK_HEIGHT, 13.0)
        sheet.write_flush_right(self._words(labels.issuer, _SMALL), _RIGHT, _TOP, GREY)
        sheet.write_flush_right(self._issuer, _RIGHT, _TOP + _SMALL[1])
        about = self._words(f"{labels.about} {labels.registered}", _SMALL)
        top = _TOP + _SMALL[1] + self._issuer.height
        sheet.write_flush_right(about, _RIGHT, top + 1.0, GREY)
        sheet.rule(_LEFT, _RIGHT, self._title_top, *_RULE)
        sheet.write(self._words(labels.title, _TITLE, strong), _LEFT, self._title_top + 10.0)
        self._draw_facts(sheet, self._title_top + _TITLE_HEIGHT)

    def _draw_facts(self, sheet: Sheet, top: float) -> None:
        left = _LEFT + _FACT_GAP + max(fact.label.width for fact in self._facts)
        for fact in self._facts:
            sheet.write(fact.label, _LEFT, top + _FACT_PADDING, GREY)
            sheet.write(fact.value, left, top + _FACT_PADDING)
            top += fact.height
            sheet.rule(_LEFT, _RIGHT, top, *_HAIRLINE)

    def _draw_running_head(self, sheet: Sheet) -> None:
        title = self._words(self._labels.title, _FACT, self._faces.strong)
        sheet.write(title, _LEFT, _TOP - 2.0)
        if self._is_test:
            self._draw_test(sheet, _LEFT + title.width + 14.0, _TOP - 3.5, 9.5)
        session = self._text(
            self._upo.session_reference_number, _FACT, _SESSION_WIDTH, self._faces.code
        )
        # Only its first line: the first page has it in full.
        session = session._replace(lines=session.lines[:1])
        label = self._words(self._labels.session, _SMALL)
        sheet.write_flush_right(label, _RIGHT - session.width - 6.0, _TOP - 1.0, GREY)
        sheet.write_flush_right(session, _RIGHT, _TOP - 2.0)

    def _draw_test(self, sheet: Sheet, left: float, top: float, size: float) -> None:
        strong = self._faces.strong
        height = size * 1.45
        word = self._words(self._labels.test, (size, height), strong)
        width = word.width + size
        sheet.box(left, top, width, height, RED)
        sheet.write(word, left + size / 2, top, WHITE)
        explanation = self._words(self._labels.test_explained, (7.4, height), strong)
        sheet.write(explanation, left + width + 6.0, top, RED)

    def _draw_documents(self, sheet: Sheet, top: float, rows: range) -> None:
        sheet.rule(_LEFT, _RIGHT, top, *_RULE)
        sheet.write_flush_right(self._ordinal, self._ordinal_right, top + _HEADING_PADDING)
        for column in self._columns:
            sheet.write(column.heading, column.left, top + _HEADING_PADDING)
        top += self._heading_height
        sheet.rule(_LEFT, _RIGHT, top, *_RULE)
        for index in rows:
            number = self._words(str(index + 1), self._cell, self._faces.code)
            sheet.write_flush_right(number, self._ordinal_right, top + _CELL_PADDING)
            for _, values, face, left, width, _ in self._columns:
                cell = self._text(values[index], self._cell, width, face)
                sheet.write(cell, left, top + _CELL_PADDING)
            top += self._heights[index]
            sheet.rule(_LEFT, _RIGHT, top, *_HAIRLINE)

    def _draw_foot(self, sheet: Sheet, index: int) -> None:
        labels = self._labels
        sheet.rule(_LEFT, _RIGHT, _FOOT, *_RULE)
        top = _FOOT + 4.0
        statement = f"{labels.visualisation} {labels.xml_hash} "
        sheet.write(self._words(statement, _SMALL), _LEFT, top)
        sheet.write_on(self._words(self._xml_sha256, _SMALL, self._faces.code))
        notes = [labels.time_zone, *([labels.replaced] if self._has_replacements else [])]
        sheet.write(self._words(" ".join(notes), _SMALL), _LEFT, top + _SMALL[1])
        number = labels.page_of.format(page=index + 1, pages=len(self._pages))
        sheet.write_flush_right(self._words(number, _PAGE_NUMBER), _RIGHT, top)


def _pdf_date(moment: datetime) -> str:
    local = moment.astimezone(WARSAW)
    offset = f"{local:%z}"
    return f"D:{local:%Y%m%d%H%M%S}{offset[:3]}'{offset[3:5]}'"
