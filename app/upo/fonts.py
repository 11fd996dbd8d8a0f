"""The three font faces of the PDF: measured and encoded here, embedded by reportlab.

A face is parsed once per process, when it is first needed, and shared by all threads.
"""

import unicodedata
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Final

import fontpkg
from reportlab.pdfbase import pdfdoc, pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

# The files of the three faces.
_FILES: Final = [
    Path(fontpkg.path(family, weight))
    for family, weight in (("Fira Sans", 400), ("Fira Sans", 600), ("IBM Plex Mono", 400))
]

# Drawn in place of a character that no face has; Fira Sans has this one.
REPLACEMENT: Final = "▯"

# What to draw for characters that no face has: hyphens; spaces of set widths; and what only says
# where a line may or may not break.
SAME_LOOK: Final = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011", "-"),
        **dict.fromkeys(map(chr, [*range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000]), " "),
        **dict.fromkeys("\u00ad\u200b\u2060\ufeff", ""),
    }
)

_ASCII: Final = "".join(map(chr, range(0x20, 0x7F)))
_POLISH: Final = "ĄĆĘŁŃÓŚŹŻąćęłńóśźż"

# Unicode categories (control, format, surrogate, private, unassigned, line and paragraph separator)
# of characters that are invisible even if a font has them.
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


class Face:
    """One font: the widths of its characters, which of them are visible, and their codes in a PDF.

    `alphabet` is embedded in each document as a whole. So documents that need no other characters
    share one font program, which is computed once instead of for each (about a millisecond), and
    their texts are encoded with a table, `codes`.
    """

    def __init__(self, name: str, file: Path, alphabet: str) -> None:
        self._font = TTFont(name, str(file), asciiReadable=True)
        _share_font_programs(self._font.face)
        pdfmetrics.registerFont(self._font)
        self.alphabet = alphabet
        self.name = name
        # Of each visible character, at a font size of one point.
        self.widths: dict[str, float] = {
            chr(code): self._font.face.charWidths[code] / 1000
            for code in self._font.face.charToGlyph
            if unicodedata.category(chr(code)) not in _UNSEEN
        }
        # Whether all characters of a text can be drawn visibly; whether all are in the alphabet.
        self.draws: Callable[[str], bool] = frozenset(self.widths).issuperset
        self.spells: Callable[[str], bool] = frozenset(alphabet).issuperset
        # The width of the widest letter of the alphabet.
        self.widest = max(map(self.widths.__getitem__, alphabet))
        self.codes = str.maketrans(
            {char: _literal(self._font.splitString(char, self)[0][1]) for char in alphabet}
        )
        # Labels and common values are measured once in a process.
        self.width = lru_cache(maxsize=1024)(self._width)

    def _width(self, text: str, size: float) -> float:
        """The width in points of a text, all of whose characters this face has."""
        return sum(map(self.widths.__getitem__, text)) * size

    def replacing(self, text: str) -> str:
        """The text with REPLACEMENT for each character that this face cannot draw visibly."""
        return "".join([char if char in self.widths else REPLACEMENT for char in text])

    def literals(self, texts: Sequence[str]) -> Sequence[str]:
        """Texts in the alphabet as bodies of PDF string literals."""
        # All at once, and no copies of those that stay as they are; no alphabet has a line feed.
        joined = "\n".join(texts)
        literals = joined.translate(self.codes)
        return texts if literals == joined else literals.split("\n")

    def split(self, text: str, document: Any) -> list[tuple[str, str]]:
        """The text as (font resource, body of a PDF string literal) for each part of it.

        A reportlab document gives codes to characters as they come: the alphabet must come first.
        """
        return [
            (self._font.getSubsetInternalName(subset, document), _literal(codes))
            for subset, codes in self._font.splitString(text, document)
        ]


class Faces:
    """`text` for words, `strong` for titles and labels, `code` for numbers to compare by eye.

    `code`, IBM Plex Mono, has a dotted 0 and clearly different 1, l and I.
    """

    def __init__(self) -> None:
        words = _ASCII + _POLISH + "–" + REPLACEMENT
        text, strong, code = _FILES
        self.text = Face("upo-text", text, words)
        self.strong = Face("upo-strong", strong, words)
        self.code = Face("upo-code", code, _ASCII + _POLISH)


_loading: Final = Lock()
_load: Final = lru_cache(maxsize=1)(Faces)


def faces() -> Faces:
    """The faces of this process."""
    with _loading:
        return _load()


# How bytes stand in a PDF string literal, where not as they are.
_ESCAPES: Final = {
    **{code: f"\\{code:03o}" for code in (*range(0x20), *range(0x7F, 0x100))},
    **{ord(sign): f"\\{sign}" for sign in "()\\"},
}


def _literal(codes: bytes) -> str:
    return codes.decode("latin-1").translate(_ESCAPES)


def _share_font_programs(face: Any) -> None:
    """Make the embedding of a reportlab face thread-safe, and cache its results.

    reportlab moves a cursor of the face while it extracts a subset of the font, so that two threads
    would get each other's glyphs. Here a subset is extracted and compressed once for each set of
    characters, under a lock.
    """
    cutting = Lock()
    original: Callable[[Sequence[int]], bytearray] = face.makeSubset
    add_objects = face.addSubsetObjects
    cut = lru_cache(maxsize=32)(lambda codes: bytes(original(codes)))
    compress = lru_cache(maxsize=32)(lambda program: zlib.compress(program, 9))

    def make_subset(codes: Sequence[int]) -> bytes:
        with cutting:
            return cut(tuple(codes))

    def add_subset_objects(document: Any, name: str, codes: Sequence[int]) -> Any:
        descriptor = add_objects(document, name, codes)
        stream = document.idToObject[f"fontFile:{face.filename}({name})"]
        stream.content = compress(stream.content)
        stream.dictionary["Filter"] = pdfdoc.PDFName("FlateDecode")
        return descriptor

    face.makeSubset = make_subset
    face.addSubsetObjects = add_subset_objects
