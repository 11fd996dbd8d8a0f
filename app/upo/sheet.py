"""Pages of text, boxes and horizontal rules, written as PDF operators.

reportlab writes the file, the fonts and the metadata. The contents of pages are written here,
because reportlab's own text objects take three times as long. Lengths are in points; `top` counts
downwards from the upper edge of the page.
"""

from collections.abc import Mapping, Sequence
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


class Style(NamedTuple):
    """Font size and leading."""

    size: float
    leading: float


class Text(NamedTuple):
    """A text that can be drawn: cut into lines, in a face that has all of its characters."""

    face: Face
    style: Style
    lines: Sequence[str]


class Page:
    """One page of a canvas. `fonts` are the resources that draw the alphabets of the faces."""

    def __init__(self, canvas: Canvas, height: float, fonts: Mapping[Face, str]) -> None:
        self._canvas = canvas
        self._height = height
        self._fonts = fonts
        self._shapes: list[str] = []
        self._texts: list[str] = []
        self._font = ("", 0.0)
        self._colour = BLACK

    def write(
        self, text: Text, x: float, top: float, colour: str = BLACK, *, flush_right: bool = False
    ) -> None:
        """Write the lines below each other, the first one with its upper edge at `top`.

        Each begins at `x`, or ends there.
        """
        face, (size, leading), lines = text
        if colour != self._colour:
            self._use(colour)
        for line in lines:
            left = x - face.width(line.rstrip(" "), size) if flush_right else x
            baseline = self._height - top - leading / 2 - size * _HALF_CAPITAL
            self._texts.append(f"1 0 0 1 {left:.2f} {baseline:.2f} Tm")
            self._show(face, size, line)
            top += leading

    def write_on(self, text: Text, colour: str = BLACK) -> None:
        """Write right behind the last text, in the same line."""
        if colour != self._colour:
            self._use(colour)
        self._show(text.face, text.style.size, text.lines[0])

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

    def join(self) -> None:
        """Join what was drawn so far: as short strings it takes several times the memory."""
        self._shapes = ["\n".join(self._shapes)]
        self._texts = ["\n".join(self._texts)]

    def finish(self) -> None:
        """Give the page to the canvas."""
        # Texts come last, so that they are on top of the boxes.
        self._canvas.addLiteral("\n".join([*self._shapes, BLACK, "BT", *self._texts, "ET"]))
        self._canvas.showPage()
        self._shapes, self._texts = [], []

    def _use(self, colour: str) -> None:
        self._texts.append(colour)
        self._colour = colour

    def _show(self, face: Face, size: float, line: str) -> None:
        if face.spells(line):
            parts = [(self._fonts[face], line.translate(face.codes))]
        else:
            parts = face.split(line, self._canvas._doc)
        for font, literal in parts:
            if (font, size) != self._font:
                self._texts.append(f"{font} {size:g} Tf")
                self._font = (font, size)
            self._texts.append(f"({literal}) Tj")


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
