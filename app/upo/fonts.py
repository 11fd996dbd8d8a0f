"""The three faces of the PDF: measured and encoded here, embedded by reportlab.

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

_ASCII: Final = "".join(map(chr, range(0x20, 0x7F)))
_POLISH: Final = "ĄĆĘŁŃÓŚŹŻąćęłńóśźż"

# Control, format, surrogate, private, unassigned, line and paragraph separators: a font may map
# them, yet nothing would be seen.
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


class Face:
    """One font: the width of its characters, what it can draw visibly, and their codes.

    `alphabet` is embedded whole in each document. Documents that need no other character then
    share one font program, which is computed once (about a millisecond each time otherwise), and
    their texts are encoded by a table.
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
        """Whether each character of the text would be seen."""
        return self._drawable.issuperset(text)

    def replacing(self, text: str) -> str:
        """The text with REPLACEMENT for each character that would not be seen."""
        if self.draws(text):
            return text
        return "".join(char if char in self._drawable else REPLACEMENT for char in text)

    def width(self, text: str, size: float) -> float:
        """Width in points of a text that this face draws."""
        if self._ascii_width is not None and text.isascii():
            return len(text) * self._ascii_width * size
        return sum(map(self._widths.__getitem__, text)) * size

    def widths(self, text: str, size: float) -> list[float]:
        """Width in points of each character."""
        return [self._widths[char] * size for char in text]

    def prepare(self, document: Any) -> None:
        """Reserve the alphabet's codes in a reportlab document, before anything is drawn."""
        self._split(self._alphabet, document)

    def resource(self, subset: int, document: Any) -> str:
        """The name of a subset of this face in the page's resources."""
        name: str = self._font.getSubsetInternalName(subset, document)
        return name

    def literals(self, text: str, document: Any) -> list[tuple[int, str]]:
        """The text as parts of one subset each: its number, and what stands between ( and )."""
        if self._in_alphabet.issuperset(text):
            return [(0, text.translate(self._literals))]
        return [(subset, _literal(codes)) for subset, codes in self._split(text, document)]

    def _split(self, text: str, document: Any) -> list[tuple[int, bytes]]:
        parts: list[tuple[int, bytes]] = self._font.splitString(text, document)
        return parts


class Faces:
    """`text` for words, `strong` for titles and labels, `code` for what is compared by eye.

    In `code`, IBM Plex Mono, 0 has a dot and 1, l and I have different feet.
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
