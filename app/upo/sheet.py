"""Pages of text, boxes and horizontal rules, written as PDF operators.

reportlab's own text objects would take three times as long. Lengths are in points; `top` counts
downwards from the upper edge of the page.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from app.upo.file import File
from app.upo.fonts import Face
from app.upo.structure import OF_ROW, Element, Structure

# A colour is the PDF operator that sets it.
BLACK: Final = "0 g"
GREY: Final = "0.3 g"
WHITE: Final = "1 g"
RED: Final = "0.75 0.04 0.1 rg"

# Begins what is no content: screen readers leave it out.
_FURNITURE: Final = "/Artifact <</Type/Pagination>> BDC"

# Half the height of capitals and digits, relative to the font size: much the same in all faces.
_HALF_CAPITAL: Final = 0.345
_BREAK_AFTER: Final = frozenset(" -/_.,;:|+")


class Style(NamedTuple):
    """Font size and leading."""

    size: float
    leading: float


class Text(NamedTuple):
    """A text that can be drawn: cut into lines, in a face that has all of its characters."""

    face: Face
    style: Style
    lines: Sequence[str]


class Column(NamedTuple):
    """A column of the table: where its cells begin, or end, and how wide they may be.

    `fits`: each cell is one line, and given as the codes of its characters in `face`.
    """

    heading: Text
    face: Face
    x: float
    width: float
    fits: bool
    flush_right: bool


class Page:
    """One page. `fonts` are the resources that draw the alphabets of the faces.

    What is written belongs to the element that was begun last, else to the furniture of the page.
    """

    def __init__(
        self,
        file: File,
        structure: Structure,
        size: tuple[float, float],
        fonts: Mapping[Face, str],
    ) -> None:
        self.number = file.number()
        self._file = file
        self._structure = structure
        self._width, self._height = size
        self._fonts = fonts
        self._shapes: list[str] = []
        self._texts = [_FURNITURE]
        self._font = ("", 0.0)
        self._colour = BLACK
        # The elements of the pieces of this page, as references; they go into an array.
        self._owners: list[str] = []
        self._array = file.number()
        # Objects that are packed with the page.
        self._numbers: list[int] = []
        self._objects: list[str] = []

    def begin(self, kind: str, parent: Element | None, more: str = "") -> None:
        """Begin an element, the last one in `parent`; furniture if that is None."""
        if parent is None:
            self._texts.append(f"EMC {_FURNITURE}")
            return
        element = self._structure.add(kind, parent, f"/Pg {self.number} 0 R{more}")
        element.content.append(str(len(self._owners)))
        self._texts.append(f"EMC /{kind} <</MCID {len(self._owners)}>> BDC")
        self._owners.append(f"{element.number} 0 R")

    def write(
        self, text: Text, x: float, top: float, colour: str = BLACK, *, flush_right: bool = False
    ) -> None:
        """Write the lines below each other, the first one with its upper edge at `top`.

        Each begins at `x`, or ends there.
        """
        face, style, lines = text
        size = style.size
        if colour != self._colour:
            self._use(colour)
        for line in lines:
            left = x - face.width(line.rstrip(" "), size) if flush_right else x
            self._texts.append(f"1 0 0 1 {left:.2f} {self._baseline(style, top):.2f} Tm")
            self._show(face, size, line)
            top += style.leading

    def write_on(self, text: Text, colour: str = BLACK, *, language: str | None = None) -> None:
        """Write right behind the last text, in the same line; `language` if it has another one."""
        if colour != self._colour:
            self._use(colour)
        if language:
            self._texts.append(f"/Span <</Lang({language})>> BDC")
        self._show(text.face, text.style.size, text.lines[0])
        if language:
            self._texts.append("EMC")

    def rule(self, left: float, right: float, top: float, thickness: float, grey: float) -> None:
        """Draw a horizontal line."""
        y = self._height - top
        self._shapes.append(
            f"{thickness:g} w {grey:g} G {left:.2f} {y:.2f} m {right:.2f} {y:.2f} l S"
        )

    def box(self, left: float, top: float, width: float, height: float, colour: str) -> None:
        """Fill a rectangle."""
        y = self._height - top - height
        self._shapes.append(f"{colour} {left:.2f} {y:.2f} {width:.2f} {height:.2f} re f")

    def write_row(
        self,
        table: Element,
        columns: Sequence[Column],
        cells: Sequence[Text | str],
        style: Style,
        top: float,
    ) -> None:
        """Write a row of the table; its first cell is its header."""
        first, row = len(self._owners), self._file.number(1 + len(cells))
        numbers = range(row, row + 1 + len(cells))
        owners = [f"{number} 0 R" for number in numbers[1:]]
        entries = f"/P {row} 0 R/Pg {self.number} 0 R/K "
        table.content.append(f"{row} 0 R")
        self._owners += owners
        self._numbers += numbers
        self._objects += (
            f"<</S/TR/P {table.number} 0 R/K[{' '.join(owners)}]>>",
            f"<</S/TH{OF_ROW}{entries}{first}>>",
            *[f"<</S/TD{entries}{first + at}>>" for at in range(1, len(cells))],
        )
        if self._colour != BLACK:
            self._use(BLACK)
        baseline = f"{self._baseline(style, top):.2f}"
        size = style.size
        for piece, (column, cell) in enumerate(zip(columns, cells, strict=True), start=first):
            _, face, x, _, _, flush_right = column
            mark = f"EMC /{'TD' if piece > first else 'TH'} <</MCID {piece}>> BDC"
            if isinstance(cell, str):
                if flush_right:
                    x -= face.width(cell, size)
                self._use_font(self._fonts[face], size)
                self._texts.append(f"{mark}\n1 0 0 1 {x:.2f} {baseline} Tm\n({cell}) Tj")
            else:
                self._texts.append(mark)
                self.write(cell, x, top)

    def leave(self) -> None:
        """End what is content of this page: only furniture may follow."""
        # As short strings it takes several times the memory.
        self._shapes = ["\n".join(self._shapes)]
        self._texts = ["\n".join(self._texts)]
        self._numbers.append(self._array)
        self._objects.append(f"[{' '.join(self._owners)}]")
        self._file.pack(self._numbers, self._objects)
        self._owners, self._numbers, self._objects = [], [], []

    def finish(self, parent: int) -> None:
        """Write the page into the file; `parent` is the number of the list of pages."""
        if self._owners:
            self.leave()
        # Texts come last, so that they are on top of the boxes.
        operators = ["/Artifact BMC", *self._shapes, "EMC", BLACK, "BT", *self._texts, "EMC ET"]
        contents = self._file.add_stream("\n".join(operators).encode("ascii"))
        index = self._structure.add_page(self._array)
        self._file.add(
            f"<</Type/Page/Parent {parent} 0 R/MediaBox[0 0 {self._width} {self._height}]"
            f"/Resources<</Font {self._file.fonts} 0 R>>/Contents {contents} 0 R"
            f"/StructParents {index}/Tabs/S>>",
            self.number,
        )
        self._shapes, self._texts = [], []

    def _baseline(self, style: Style, top: float) -> float:
        return self._height - top - style.leading / 2 - style.size * _HALF_CAPITAL

    def _use(self, colour: str) -> None:
        self._texts.append(colour)
        self._colour = colour

    def _show(self, face: Face, size: float, line: str) -> None:
        if face.spells(line):
            parts = [(self._fonts[face], line.translate(face.codes))]
        else:
            parts = face.split(line, self._file.document)
        for font, literal in parts:
            self._use_font(font, size)
            self._texts.append(f"({literal}) Tj")

    def _use_font(self, font: str, size: float) -> None:
        if (font, size) != self._font:
            self._texts.append(f"{font} {size:g} Tf")
            self._font = (font, size)


def wrap(text: str, face: Face, size: float, width: float) -> list[str]:
    """Cut a text into lines of at most `width` points; joined, the lines are the text again.

    Lines are cut after a space, else after a character like - or /, else anywhere.
    """
    if face.width(text, size) <= width:
        return [text]
    widths = [face.widths[char] * size for char in text]
    lines = []
    start = 0
    while start < len(text):
        end = _line_end(text, widths, start, width)
        lines.append(text[start:end])
        start = end
    return lines


def _line_end(text: str, widths: Sequence[float], start: int, width: float) -> int:
    used = 0.0
    after_space = after_sign = start
    for index in range(start, len(text)):
        char = text[index]
        used += widths[index]
        # A space at the end of a line is invisible and may exceed the width.
        if used > width and index > start and char != " ":
            if after_space > start:
                return after_space
            # A line less than half full would look like the end of the text.
            return after_sign if after_sign - start > (index - start) // 2 else index
        if char == " ":
            after_space = index + 1
        elif char in _BREAK_AFTER:
            after_sign = index + 1
    return len(text)
