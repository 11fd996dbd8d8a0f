"""Pages of text, boxes and horizontal rules, written as PDF operators.

reportlab writes the file, the fonts and the metadata. The contents of pages are written here,
because reportlab's own text objects take three times as long. Lengths are in points; `top` counts
downwards from the upper edge of the page.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from reportlab.pdfgen.canvas import Canvas

from app.upo.fonts import Face

# A colour is the PDF operator that sets it.
BLACK: Final = "0 g"
GREY: Final = "0.3 g"
WHITE: Final = "1 g"
RED: Final = "0.75 0.04 0.1 rg"

# Half the height of capitals and digits, relative to the font size: much the same in all faces.
_HALF_CAPITAL: Final = 0.345
_BREAK_AFTER: Final = frozenset(" -/_.,;:|+")


class Text(NamedTuple):
    """A text that can be drawn: cut into lines, in a face that has all of its characters."""

    face: Face
    size: float
    leading: float
    lines: tuple[str, ...]

    @property
    def width(self) -> float:
        return max(self.face.width(line, self.size) for line in self.lines)

    @property
    def height(self) -> float:
        return len(self.lines) * self.leading


class Sheet:
    """The pages of one canvas, one after another."""

    def __init__(self, canvas: Canvas, height: float) -> None:
        self._canvas = canvas
        # Fonts belong to a document, which only the canvas knows.
        self._document = canvas._doc
        self._height = height
        self._shapes: list[str] = []
        self._texts: list[str] = []
        self._font: tuple[str, int, float] | None = None
        self._colour = BLACK

    def end_page(self) -> None:
        """Give the page to the canvas and begin the next one."""
        # Texts come last, so that they are on top of the boxes.
        self._canvas.addLiteral("\n".join([*self._shapes, BLACK, "BT", *self._texts, "ET"]))
        self._canvas.showPage()
        self._shapes, self._texts = [], []
        self._font, self._colour = None, BLACK

    def write(self, text: Text, left: float, top: float, colour: str = BLACK) -> None:
        """Write the lines, the first one with its upper edge at `top`."""
        self._use(colour)
        for line in text.lines:
            self._write_line(text, line, left, top)
            top += text.leading

    def write_flush_right(self, text: Text, right: float, top: float, colour: str = BLACK) -> None:
        """Write the lines so that each ends at `right`."""
        self._use(colour)
        for line in text.lines:
            width = text.face.width(line.rstrip(" "), text.size)
            self._write_line(text, line, right - width, top)
            top += text.leading

    def write_on(self, text: Text, colour: str = BLACK) -> None:
        """Write right behind the last text, in the same line."""
        self._use(colour)
        self._show(text, text.lines[0])

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

    def _use(self, colour: str) -> None:
        if colour != self._colour:
            self._texts.append(colour)
            self._colour = colour

    def _write_line(self, text: Text, line: str, left: float, top: float) -> None:
        baseline = self._height - top - text.leading / 2 - text.size * _HALF_CAPITAL
        self._texts.append(f"1 0 0 1 {left:.2f} {baseline:.2f} Tm")
        self._show(text, line)

    def _show(self, text: Text, line: str) -> None:
        face, size = text.face, text.size
        for subset, literal in face.literals(line, self._document):
            font = (face.name, subset, size)
            if font != self._font:
                self._texts.append(f"{face.resource(subset, self._document)} {size:g} Tf")
                self._font = font
            self._texts.append(f"({literal}) Tj")


def wrap(text: str, face: Face, size: float, width: float) -> tuple[str, ...]:
    """Cut a text into lines of at most `width` points; joined, the lines are the text again.

    Lines are cut after a space, else after a character like - or /, else anywhere.
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
