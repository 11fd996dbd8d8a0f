"""The file of a PDF: numbered objects, one by one or packed into compressed streams.

reportlab gives the objects of the fonts. Its own files would have no packed objects, and of these
the structure of 10,000 documents has 100,000: four times as many bytes as all pages, if unpacked.
"""

import sys
import zlib
from array import array
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final

from reportlab.pdfbase.pdfdoc import PDFDocument

# The second line tells programs that look at the first bytes that this is not text.
_HEADER: Final = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"

# An entry of the cross-reference has two bytes for its kind, four for an offset or the number of a
# stream, and two for the place in that stream.
_AT: Final = 1 << 48
_PACKED: Final = 2 << 48

# The level of compression for what is much alike: the best would take twice the time for a tenth.
_FAST: Final = 1


class File:
    """A file while it is written, and the reportlab document in which its fonts are collected."""

    def __init__(self) -> None:
        # Invariant: no time of creation, so that equal input gives equal bytes.
        self.document: Any = PDFDocument(compression=1, invariant=1)
        self._parts = [_HEADER]
        self._size = len(_HEADER)
        self._entries = array("Q", [0])

    def number(self, count: int = 1) -> int:
        """The first of that many new object numbers."""
        first: int = self.document.objectcounter + 1
        self.document.objectcounter += count
        return first

    def add(self, content: bytes | str, number: int | None = None) -> int:
        """Write an object, and return its number. A text is in ASCII."""
        if isinstance(content, str):
            content = content.encode("ascii")
        number = number or self.number()
        self._grow()
        self._entries[number] = _AT + (self._size << 16)
        part = b"%d 0 obj\n%b\nendobj\n" % (number, content)
        self._parts.append(part)
        self._size += len(part)
        return number

    def add_stream(
        self, content: bytes, about: str = "", number: int | None = None, level: int = 6
    ) -> int:
        """Write a stream, compressed, with further entries of its dictionary."""
        content = zlib.compress(content, level)
        head = f"<<{about}/Filter/FlateDecode/Length {len(content)}>>\nstream\n"
        return self.add(b"%b%b\nendstream" % (head.encode(), content), number)

    def pack(self, numbers: Sequence[int], objects: Sequence[str]) -> None:
        """Write objects, in ASCII, into one stream; a reader unpacks all to get at one."""
        offsets = accumulate(map(len, objects), initial=0)
        head = " ".join([f"{number} {at}" for number, at in zip(numbers, offsets, strict=False)])
        about = f"/Type/ObjStm/N {len(objects)}/First {len(head) + 1}"
        content = f"{head} {''.join(objects)}".encode("ascii")
        where = _PACKED + (self.add_stream(content, about, level=_FAST) << 16)
        for entry, number in enumerate(numbers, start=where):
            self._entries[number] = entry

    def add_fonts(self) -> None:
        """Write the fonts, and the dictionary of them that pages refer to as `fonts`."""
        document = self.document
        for font in document.delayedFonts:
            font.addObjects(document)
        for font in document.idToObject["BasicFonts"].dict.values():
            font.Widths = _array(tuple(font.Widths.sequence))
        for number, name in list(document.numberToId.items()):
            self.add(document.idToObject[name].format(document), number)

    @property
    def fonts(self) -> int:
        number: int = self.document.idToObjectNumberAndVersion["BasicFonts"][0]
        return number

    def save(self, catalog: int, info: int, identifier: str) -> bytes:
        """The whole file. `identifier` is in hexadecimal digits."""
        number, at = self.number(), self._size
        self._grow()
        self._entries[number] = _AT + (at << 16)
        if sys.byteorder == "little":
            self._entries.byteswap()
        self.add_stream(
            self._entries.tobytes(),
            f"/Type/XRef/Size {number + 1}/W[2 4 2]/Root {catalog} 0 R/Info {info} 0 R"
            f"/ID[<{identifier}><{identifier}>]",
            number,
            _FAST,
        )
        self._parts.append(b"startxref\n%d\n%%%%EOF\n" % at)
        return b"".join(self._parts)

    def _grow(self) -> None:
        """Make room for the entries of all numbers."""
        missing = self.document.objectcounter + 1 - len(self._entries)
        self._entries.frombytes(bytes(8 * missing))


@lru_cache(maxsize=32)
def _array(numbers: Sequence[float]) -> str:
    """Numbers as a PDF array: reportlab takes a third of a small PDF's time for the widths."""
    return f"[{' '.join([f'{number:g}' for number in numbers])}]"
