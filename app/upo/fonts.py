"""The three faces of the PDF: measured by us, embedded by reportlab.

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

# Stands for a character that no face can draw; Fira Sans has it.
REPLACEMENT: Final = "▯"

_PRINTABLE_ASCII: Final = "".join(map(chr, range(0x20, 0x7F)))
_POLISH: Final = "ĄĆĘŁŃÓŚŹŻąćęłńóśźż"
_BASE64: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_TEXT_ALPHABET: Final = _PRINTABLE_ASCII + _POLISH + "–—·„”" + REPLACEMENT
_CODE_ALPHABET: Final = f" {_BASE64}-:."

# Control, format, surrogate, private, unassigned, line and paragraph separators: a font may map
# them, yet nothing would be seen.
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


class Face:
    """One font: the width of its characters, and what it can draw visibly.

    `alphabet` is embedded whole in each document. Documents that need no other character then
    share one font program, which is computed once (about a millisecond each time otherwise).
    """

    def __init__(self, name: str, family: str, weight: int, alphabet: str) -> None:
        self.name = name
        self._alphabet = alphabet
        self._font = TTFont(name, str(fontpkg.path(family, weight)), asciiReadable=False)
        _share_font_programs(self._font.face)
        pdfmetrics.registerFont(self._font)
        self._widths: dict[str, float] = {
            chr(code): self._font.face.charWidths[code] / 1000
            for code in self._font.face.charToGlyph
            if unicodedata.category(chr(code)) not in _UNSEEN
        }
        self._drawable = frozenset(self._widths)
        self.ascent: float = self._font.face.ascent / 1000

    def draws(self, text: str) -> bool:
        """Whether each character of the text would be seen."""
        return self._drawable.issuperset(text)

    def replacing(self, text: str) -> str:
        """The text with REPLACEMENT for each character that would not be seen."""
        if self.draws(text):
            return text
        return "".join(char if char in self._drawable else REPLACEMENT for char in text)

    def width(self, text: str, size: float) -> float:
        """Width in points of a text that this face draws."""
        return sum(map(self._widths.__getitem__, text)) * size

    def widths(self, text: str, size: float) -> list[float]:
        """Width in points of each character."""
        return [self._widths[char] * size for char in text]

    def prepare(self, document: Any) -> None:
        """Reserve the alphabet's codes in a reportlab document, before anything is drawn."""
        self._font.splitString(self._alphabet, document)


class Faces:
    """`text` for words, `strong` for titles and labels, `code` for what is compared by eye.

    In `code`, IBM Plex Mono, 0 has a dot and 1, l and I have different feet.
    """

    def __init__(self) -> None:
        self.text = Face("upo-text", "Fira Sans", 400, _TEXT_ALPHABET)
        self.strong = Face("upo-strong", "Fira Sans", 600, _TEXT_ALPHABET)
        self.code = Face("upo-code", "IBM Plex Mono", 400, _CODE_ALPHABET)

    def prepare(self, document: Any) -> None:
        """Reserve the alphabets of all faces in a reportlab document."""
        for face in (self.text, self.strong, self.code):
            face.prepare(document)

    def best(self, value: str, *, code: bool) -> tuple[Face, str]:
        """The face for a value, and the value as that face can draw it."""
        if code and self.code.draws(value):
            return self.code, value
        return self.text, self.text.replacing(value)


_loading: Final = Lock()


def faces() -> Faces:
    """The faces of this process."""
    with _loading:
        return _load()


@lru_cache(maxsize=1)
def _load() -> Faces:
    return Faces()


def _share_font_programs(face: Any) -> None:
    """Make the embedding of a reportlab face safe for threads, and remember its results.

    reportlab cuts a subset out of the font by moving a cursor that belongs to the face, so two
    threads get each other's glyphs. Cutting and compressing happen here once per set of
    characters, one at a time.
    """
    cutting = Lock()
    cut: Callable[[Sequence[int]], bytes] = face.makeSubset
    add_objects = face.addSubsetObjects

    @lru_cache(maxsize=32)
    def program(codes: tuple[int, ...]) -> tuple[bytes, bytes]:
        plain = bytes(cut(list(codes)))
        return plain, zlib.compress(plain)

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
