"""The three font faces of the PDF: measured and encoded here, embedded by reportlab.

A face is parsed once per process, when it is first needed, and shared by all threads.
"""

import unicodedata
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any, Final

import fontpkg
from reportlab.pdfbase import pdfdoc, pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

# Drawn in place of a character that no face has; Fira Sans has this one.
REPLACEMENT: Final = "▯"

_ASCII: Final = "".join(map(chr, range(0x20, 0x7F)))
_POLISH: Final = "ĄĆĘŁŃÓŚŹŻąćęłńóśźż"

# Unicode categories (control, format, surrogate, private, unassigned, line and paragraph separator)
# of characters that are invisible even if a font has them.
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


class Face:
    """One font: the widths of its characters, which of them are visible, and their codes in a PDF.

    `alphabet` is embedded in each document as a whole. So documents that need no other characters
    share one font program, which is computed once instead of for each (about a millisecond), and
    their texts are encoded with a table.
    """

    def __init__(self, name: str, family: str, weight: int, alphabet: str) -> None:
        self._font = TTFont(name, str(fontpkg.path(family, weight)), asciiReadable=True)
        _share_font_programs(self._font.face)
        pdfmetrics.registerFont(self._font)
        self.name = name
        self._widths: dict[str, float] = {
            chr(code): self._font.face.charWidths[code] / 1000
            for code in self._font.face.charToGlyph
            if unicodedata.category(chr(code)) not in _UNSEEN
        }
        self._drawable = frozenset(self._widths)
        ascii_widths = {self._widths[char] for char in _ASCII}
        self._ascii_width = ascii_widths.pop() if len(ascii_widths) == 1 else None
        self._alphabet = alphabet
        self._in_alphabet = frozenset(alphabet)
        self._literals = str.maketrans(
            {char: _literal(self._split(char, self)[0][1]) for char in alphabet}
        )

    def draws(self, text: str) -> bool:
        """Whether this face can draw each character of the text visibly."""
        return self._drawable.issuperset(text)

    def replacing(self, text: str) -> str:
        """The text with REPLACEMENT for each character that this face cannot draw visibly."""
        if self.draws(text):
            return text
        return "".join(char if char in self._drawable else REPLACEMENT for char in text)

    def width(self, text: str, size: float) -> float:
        """The width in points of a text, all of whose characters this face has."""
        if self._ascii_width is not None and text.isascii():
            return len(text) * self._ascii_width * size
        return sum(map(self._widths.__getitem__, text)) * size

    def widths(self, text: str, size: float) -> list[float]:
        """The width in points of each character."""
        return [self._widths[char] * size for char in text]

    def prepare(self, document: Any) -> None:
        """Reserve the alphabet's codes in a reportlab document, before anything is drawn."""
        self._split(self._alphabet, document)

    def resource(self, subset: int, document: Any) -> str:
        """The name of a subset of this face in the resources of a page."""
        name: str = self._font.getSubsetInternalName(subset, document)
        return name

    def literals(self, text: str, document: Any) -> list[tuple[int, str]]:
        """The text as (number of a subset, body of a PDF string literal) for each part of it."""
        if self._in_alphabet.issuperset(text):
            return [(0, text.translate(self._literals))]
        return [(subset, _literal(codes)) for subset, codes in self._split(text, document)]

    def _split(self, text: str, document: Any) -> list[tuple[int, bytes]]:
        parts: list[tuple[int, bytes]] = self._font.splitString(text, document)
        return parts


class Faces:
    """`text` for words, `strong` for titles and labels, `code` for numbers to compare by eye.

    `code`, IBM Plex Mono, has a dotted 0 and clearly different 1, l and I.
    """

    def __init__(self) -> None:
        words = _ASCII + _POLISH + "–" + REPLACEMENT
        self.text = Face("upo-text", "Fira Sans", 400, words)
        self.strong = Face("upo-strong", "Fira Sans", 600, words)
        self.code = Face("upo-code", "IBM Plex Mono", 400, _ASCII)

    def prepare(self, document: Any) -> None:
        """Reserve the alphabets of all faces in a reportlab document."""
        for face in (self.text, self.strong, self.code):
            face.prepare(document)


_loading: Final = Lock()


def faces() -> Faces:
    """The faces of this process."""
    with _loading:
        return _load()


@lru_cache(maxsize=1)
def _load() -> Faces:
    return Faces()


def _literal(codes: bytes) -> str:
    return "".join(map(_LITERALS.__getitem__, codes))


def _literal_of(code: int) -> str:
    if chr(code) in "()\\":
        return f"\\{code:c}"
    return chr(code) if 0x20 <= code < 0x7F else f"\\{code:03o}"


_LITERALS: Final = [_literal_of(code) for code in range(256)]


def _share_font_programs(face: Any) -> None:
    """Make the embedding of a reportlab face thread-safe, and cache its results.

    reportlab moves a cursor of the face while it extracts a subset of the font, so that two threads
    would get each other's glyphs. Here a subset is extracted and compressed once for each set of
    characters, under a lock.
    """
    cutting = Lock()
    cut: Callable[[Sequence[int]], bytes] = face.makeSubset
    add_objects = face.addSubsetObjects

    @lru_cache(maxsize=32)
    def program(codes: tuple[int, ...]) -> tuple[bytes, bytes]:
        plain = bytes(cut(list(codes)))
        return plain, zlib.compress(plain, 9)

    def make_subset(codes: Sequence[int]) -> bytes:
        with cutting:
            return program(tuple(codes))[0]

    def add_subset_objects(document: Any, name: str, codes: Sequence[int]) -> Any:
        descriptor = add_objects(document, name, codes)
        stream = document.idToObject[f"fontFile:{face.filename}({name})"]
        with cutting:
            stream.content = program(tuple(codes))[1]
        stream.dictionary["Filter"] = pdfdoc.PDFName("FlateDecode")
        return descriptor

    face.makeSubset = make_subset
    face.addSubsetObjects = add_subset_objects
