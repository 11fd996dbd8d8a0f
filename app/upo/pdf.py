"""The UPO as a PDF for people: A4 landscape, with the content of the Ministry's own visualisation.

Rows are drawn as they are measured; the feet of all pages come last, when their number is known.
Lengths are in points; `top` counts downwards from the upper edge of the page.
"""

import unicodedata
from collections.abc import Sequence
from math import inf
from typing import Final

from app.upo.catalog import Description, add_catalog, add_info
from app.upo.file import File
from app.upo.fonts import SAME_LOOK, Face, faces
from app.upo.labels import LABELS, Labels, signature_sentences
from app.upo.sheet import GREY, RED, WHITE, Column, Page, Style, Text, wrap
from app.upo.structure import OF_COLUMN, OF_ROW, POLISH, Element, Structure
from app.upo.table import HEADING, facts_of, measure_table
from app.upo.verdict import Verdict
from app.upo.xml import Upo

PRODUCTION_ISSUER: Final = "Ministerstwo Finansów"

_PAGE_WIDTH: Final = 841.89
_PAGE_HEIGHT: Final = 595.28
_LEFT: Final = 30.0
_RIGHT: Final = _PAGE_WIDTH - 30.0
_TOP: Final = 32.0
_FOOT: Final = _PAGE_HEIGHT - 49.5
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
_FACT_GAP: Final = 26.0
_CELL_PADDING: Final = 2.4
_HEADING_PADDING: Final = 3.0
_FACT_PADDING: Final = 1.7

_WORDMARK: Final = Style(18.0, _WORDMARK_HEIGHT)
_TITLE: Final = Style(13.0, 16.0)
_FACT: Final = Style(8.4, 11.0)
_SMALL: Final = Style(6.8, 9.0)
_ISSUER: Final = Style(9.0, 11.0)
_PAGE_NUMBER: Final = Style(8.4, 9.0)


def render_upo(
    upo: Upo,
    *,
    xml_sha256: str,
    signature: Verdict | None = None,
    language: str = "pl",
    environment: str | None = None,
) -> bytes:
    """The PDF of a UPO. Equal arguments give equal bytes, in any thread and process.

    `xml_sha256` is the hexadecimal SHA-256 of the XML, `signature` the verdict on it or None: both
    are printed on each page.
    `language` is "pl" or "en"; KeyError for any other.
    `environment` is where the UPO comes from: all but "prod" are marked as a test, and so is each
    issuer but production's. None if only the issuer is known.
    """
    is_test = environment not in (None, "prod") or upo.issuer != PRODUCTION_ISSUER
    sentences = signature_sentences(signature) if signature else ()
    return _Drawing(upo, xml_sha256, sentences, LABELS[language], is_test).pdf()


class _Drawing:
    """The PDF of one UPO, while it is drawn."""

    def __init__(
        self,
        upo: Upo,
        xml_sha256: str,
        signature: Sequence[str],
        labels: type[Labels],
        is_test: bool,
    ) -> None:
        self._upo = upo
        self._signature = signature
        self._labels = labels
        self._xml_sha256 = xml_sha256
        self._faces = faces()
        self._is_test = is_test
        self._has_replacements = False
        self._file = File()
        self._structure = Structure(self._file)
        self._fonts = {
            face: face.split(face.alphabet, self._file.document)[0][0]
            for face in (self._faces.strong, self._faces.text, self._faces.code)
        }
        self._pages: list[Page] = []
        # The number of the first document on each page.
        self._first: list[int] = []

    def pdf(self) -> bytes:
        self._draw_documents(*self._draw_head())
        file, about = self._file, self._description()
        page_list = file.number()
        for index, page in enumerate(self._pages):
            self._draw_foot(page, index + 1)
            page.finish(page_list)
        file.add_fonts()
        pages = page_list, [page.number for page in self._pages]
        bookmarks = [self._bookmark(index) for index in range(len(self._pages))]
        catalog = add_catalog(file, self._structure, about, pages, bookmarks)
        return file.save(catalog, add_info(file, about), self._xml_sha256[:32])

    def _description(self) -> Description:
        """Its date is when the last KSeF number was assigned, not the present, so that equal input
        gives equal bytes."""
        upo, labels = self._upo, self._labels
        if len(upo.documents) == 1:
            title = labels.title_of_document.format(document=upo.documents[0])
        else:
            title = labels.title_of_session.format(session=upo.session_reference_number)
        return Description(
            self._faces.text.replacing(_seen(title, self._faces.text)),
            labels.subject.format(hash=self._xml_sha256),
            labels.language_tag,
            max(document.ksef_number_assigned_at for document in upo.documents),
        )

    def _bookmark(self, index: int) -> str:
        first = self._first[index]
        is_last = index + 1 == len(self._pages)
        last = len(self._upo.documents) if is_last else self._first[index + 1] - 1
        labels = self._labels
        template = labels.bookmark if first <= last else labels.bookmark_without_documents
        return template.format(page=index + 1, first=first, last=last)

    def _text(self, value: str, style: Style, width: float, face: Face) -> Text:
        """A wrapped text of the UPO, in `face` if it has all characters, else in the text face."""
        value = _seen(value, face)
        if not face.draws(value):
            face = self._faces.text
            drawn = face.replacing(value)
            # Compared, because the value itself may contain REPLACEMENT.
            self._has_replacements = self._has_replacements or drawn != value
            value = drawn
        return Text(face, style, wrap(value, face, style.size, width))

    def _new_page(self, first: int) -> Page:
        if self._pages:
            self._pages[-1].leave()
        page = Page(self._file, self._structure, (_PAGE_WIDTH, _PAGE_HEIGHT), self._fonts)
        self._pages.append(page)
        self._first.append(first)
        return page

    # The head and the foot of a page.

    def _draw_head(self) -> tuple[Page, float]:
        """The page on which the head ends, and where on it the table of documents begins."""
        page, labels = self._new_page(1), self._labels
        strong, words = self._faces.strong, self._faces.text
        document = self._structure.document
        before, red, after = labels.system
        page.begin("P", document, POLISH)
        page.write(Text(strong, _WORDMARK, [before]), _LEFT, _TOP - 5.0)
        page.write_on(Text(strong, _WORDMARK, [red]), RED)
        page.write_on(Text(strong, _WORDMARK, [after]))
        if self._is_test:
            page.begin("P", document)
            self._draw_test(page, _LEFT, _TOP + _WORDMARK_HEIGHT, 13.0)

        issuer = self._text(self._upo.issuer, _ISSUER, _ISSUER_WIDTH, strong)
        label = Text(words, _SMALL, [labels.issuer])
        about = Text(words, _SMALL, [f"{labels.about} {labels.registered}"])
        issuer_height = len(issuer.lines) * _ISSUER.leading
        top = _TOP + _SMALL.leading
        page.begin("P", document)
        page.write(label, _RIGHT, _TOP, GREY, flush_right=True)
        page.begin("P", document, POLISH)
        page.write(issuer, _RIGHT, top, flush_right=True)
        page.begin("P", document)
        page.write(about, _RIGHT, top + issuer_height + 1.0, GREY, flush_right=True)

        left_height = _WORDMARK_HEIGHT + (_TEST_HEIGHT if self._is_test else 0.0)
        right_height = _SMALL.leading + issuer_height + _SMALL.leading
        top = _TOP + max(left_height, right_height) + 8.0
        page.rule(_LEFT, _RIGHT, top, *_RULE)
        page.begin("H1", document)
        page.write(Text(strong, _TITLE, [labels.title]), _LEFT, top + 10.0)
        return self._draw_facts(page, top + _TITLE_HEIGHT)

    def _draw_facts(self, page: Page, top: float) -> tuple[Page, float]:
        """Draw the labelled values, each whole; the page that they end on, and where on it."""
        facts = facts_of(self._upo, self._labels, self._faces)
        words = self._faces.text
        widest = max([words.width(label, _FACT.size) for label, _, _ in facts])
        left = _LEFT + _FACT_GAP + widest
        table = self._structure.add("Table", self._structure.document)
        for label, value, face in facts:
            text = self._text(value, _FACT, _RIGHT - left, face)
            height = len(text.lines) * _FACT.leading + 2 * _FACT_PADDING
            if top + height > _TABLE_BOTTOM:
                page, top = self._draw_running_head(1)
            row = self._structure.add("TR", table)
            page.begin("TH", row, OF_ROW)
            page.write(Text(words, _FACT, [label]), _LEFT, top + _FACT_PADDING, GREY)
            page.begin("TD", row)
            page.write(text, left, top + _FACT_PADDING)
            top += height
            page.rule(_LEFT, _RIGHT, top, *_HAIRLINE)
        return page, top + 16.0

    def _draw_running_head(self, first: int) -> tuple[Page, float]:
        """A further page, and where on it the table begins."""
        page, labels = self._new_page(first), self._labels
        strong, words = self._faces.strong, self._faces.text
        page.write(Text(strong, _FACT, [labels.title]), _LEFT, _TOP - 2.0)
        if self._is_test:
            title_width = strong.width(labels.title, _FACT.size)
            self._draw_test(page, _LEFT + title_width + 14.0, _TOP - 3.5, 9.5)
        session = self._text(
            self._upo.session_reference_number, _FACT, _SESSION_WIDTH, self._faces.code
        )
        # Only its first line: the first page has it in full.
        session = session._replace(lines=session.lines[:1])
        left = _RIGHT - session.face.width(session.lines[0], _FACT.size)
        label = Text(words, _SMALL, [labels.session])
        page.write(label, left - 6.0, _TOP - 1.0, GREY, flush_right=True)
        page.write(session, _RIGHT, _TOP - 2.0, flush_right=True)
        return page, _TOP + _RUNNING_HEAD_HEIGHT

    def _draw_test(self, page: Page, left: float, top: float, size: float) -> None:
        labels, strong = self._labels, self._faces.strong
        height = size * 1.45
        width = strong.width(labels.test, size) + size
        page.box(left, top, width, height, RED)
        page.write(Text(strong, Style(size, height), [labels.test]), left + size / 2, top, WHITE)
        explanation = Text(strong, Style(7.4, height), [labels.test_explained])
        page.write(explanation, left + width + 6.0, top, RED)

    def _draw_foot(self, page: Page, number: int) -> None:
        """Draw the notes, which are content of the last page only, and the number of the page."""
        labels, words = self._labels, self._faces.text
        content = self._structure.document if number == len(self._pages) else None
        signature = [self._text(part, _SMALL, inf, words) for part in self._signature]
        page.rule(_LEFT, _RIGHT, _FOOT, *_RULE)
        top = _FOOT + 4.0
        page.begin("P", content)
        statement = f"{labels.visualisation} {labels.xml_hash} "
        page.write(Text(words, _SMALL, [statement]), _LEFT, top)
        page.write_on(Text(self._faces.code, _SMALL, [self._xml_sha256]))
        notes = labels.time_zone
        if self._has_replacements:
            notes = f"{notes} {labels.replaced}"
        page.begin("P", content)
        page.write(Text(words, _SMALL, [notes]), _LEFT, top + _SMALL.leading)
        if self._signature:
            page.begin("P", content, POLISH)
            self._draw_signature(page, signature, top + 2 * _SMALL.leading)
        page.begin("P", None)
        page_of = labels.page_of.format(page=number, pages=len(self._pages))
        page.write(Text(words, _PAGE_NUMBER, [page_of]), _RIGHT, top, flush_right=True)

    def _draw_signature(self, page: Page, parts: Sequence[Text], top: float) -> None:
        """Draw what was found about the signature in one line: a long name of the signer is cut."""
        polish, english, signer, moment = parts
        face, name = signer.face, signer.lines[0]
        others = f"{polish.lines[0]}{english.lines[0]}{moment.lines[0]}"
        room = _RIGHT - _LEFT - face.width(others, _SMALL.size)
        while len(name) > 1 and face.width(name, _SMALL.size) > room:
            name = f"{name.removesuffix('…')[:-1]}…"
        page.write(polish, _LEFT, top)
        page.write_on(english, language="en-GB")
        page.write_on(signer._replace(lines=[name + moment.lines[0]]))

    # The table of documents.

    def _draw_documents(self, page: Page, top: float) -> None:
        """Draw the rows, each whole; a tall head may leave no room for rows on the first page."""
        table = measure_table(self._upo, self._labels, self._faces, _LEFT, _RIGHT)
        style, columns, rows = table
        element = self._structure.add("Table", self._structure.document)
        heading_lines = max([len(column.heading.lines) for column in columns])
        heading_height = heading_lines * HEADING.leading + 2 * _HEADING_PADDING
        has_rows = False
        for number, values in enumerate(rows, start=1):
            cells = [
                value if column.fits else self._text(value, style, column.width, column.face)
                for column, value in zip(columns, values, strict=True)
            ]
            lines = max([1 if isinstance(cell, str) else len(cell.lines) for cell in cells])
            height = lines * style.leading + 2 * _CELL_PADDING
            if (top if has_rows else top + heading_height) + height > _TABLE_BOTTOM:
                page, top = self._draw_running_head(number)
                has_rows = False
            if not has_rows:
                self._draw_headings(page, top, columns, element)
                top += heading_height
                page.rule(_LEFT, _RIGHT, top, *_RULE)
                has_rows = True
            page.write_row(element, columns, cells, style, top + _CELL_PADDING)
            top += height
            page.rule(_LEFT, _RIGHT, top, *_HAIRLINE)

    def _draw_headings(self, page: Page, top: float, columns: list[Column], table: Element) -> None:
        """Draw the headings, which are content on the first page of the table only."""
        row = None if table.content else self._structure.add("TR", table)
        page.rule(_LEFT, _RIGHT, top, *_RULE)
        for heading, _, x, _, _, flush_right in columns:
            page.begin("TH", row, OF_COLUMN)
            page.write(heading, x, top + _HEADING_PADDING, flush_right=flush_right)


def _seen(value: str, face: Face) -> str:
    """The text as it looks: letters with their marks, and what `face` has for the rest."""
    if not face.spells(value):
        # A mark of its own would not be placed on its letter.
        value = unicodedata.normalize("NFC", value)
    return value if face.draws(value) else value.translate(SAME_LOOK)
