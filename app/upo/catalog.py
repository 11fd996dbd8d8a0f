"""The catalog of a PDF: its pages and bookmarks, and what it says about itself.

The latter stands there twice, in the form of PDF 1.0 and in XML (XMP).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

from app.clock import WARSAW
from app.upo.file import File
from app.upo.structure import Structure

_PROGRAM: Final = "ksef-proxy"

# `pdfuaid:part` claims PDF/UA-1, which asks for it and for the title here.
_XMP: Final = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about=""
 xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:pdf="http://ns.adobe.com/pdf/1.3/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:pdfuaid="http://www.aiim.org/pdfua/ns/id/">
<dc:format>application/pdf</dc:format>
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">{title}</rdf:li></rdf:Alt></dc:title>
<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{subject}</rdf:li></rdf:Alt></dc:description>
<dc:creator><rdf:Seq><rdf:li>{program}</rdf:li></rdf:Seq></dc:creator>
<dc:language><rdf:Bag><rdf:li>{language}</rdf:li></rdf:Bag></dc:language>
<xmp:CreatorTool>{program}</xmp:CreatorTool>
<xmp:CreateDate>{moment}</xmp:CreateDate>
<xmp:ModifyDate>{moment}</xmp:ModifyDate>
<pdf:Producer>{program}</pdf:Producer>
<pdfuaid:part>1</pdfuaid:part>
</rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


class Description(NamedTuple):
    """What a PDF says about itself; `moment`, with a time zone, is when it was made."""

    title: str
    subject: str
    language: str
    moment: datetime


def add_catalog(
    file: File,
    structure: Structure,
    about: Description,
    pages: tuple[int, Sequence[int]],
    bookmarks: Sequence[str],
) -> int:
    """Write the catalog; its number.

    `pages` are the number of their list and those of the pages. `bookmarks` has a title for each
    page; a single page gets none.
    """
    page_list, numbers = pages
    kids = " ".join([f"{number} 0 R" for number in numbers])
    file.add(f"<</Type/Pages/Count {len(numbers)}/Kids[{kids}]>>", page_list)
    outline = "/PageMode/UseNone"
    if len(bookmarks) > 1:
        outline = f"/PageMode/UseOutlines/Outlines {_add_bookmarks(file, bookmarks, numbers)} 0 R"
    # Not compressed, for programs that only look for the packet.
    xmp = _xmp(about)
    head = f"<</Type/Metadata/Subtype/XML/Length {len(xmp)}>>\nstream\n".encode()
    metadata = file.add(b"%b%b\nendstream" % (head, xmp))
    return file.add(
        f"<</Type/Catalog/Pages {page_list} 0 R{outline}/Lang({about.language})"
        f"/MarkInfo<</Marked true>>/StructTreeRoot {structure.finish()} 0 R"
        f"/Metadata {metadata} 0 R/ViewerPreferences<</DisplayDocTitle true>>>>"
    )


def add_info(file: File, about: Description) -> int:
    """Write the description in the form of PDF 1.0; its number."""
    local = about.moment.astimezone(WARSAW)
    offset = f"{local:%z}"
    date = f"(D:{local.year:04}{local:%m%d%H%M%S}{offset[:3]}'{offset[3:5]}')"
    return file.add(
        f"<</Title{_string(about.title)}/Subject{_string(about.subject)}"
        f"/Author({_PROGRAM})/Creator({_PROGRAM})/Producer({_PROGRAM})"
        f"/CreationDate{date}/ModDate{date}>>"
    )


def _xmp(about: Description) -> bytes:
    return _XMP.format(
        title=escape(about.title),
        subject=escape(about.subject),
        language=about.language,
        program=_PROGRAM,
        moment=about.moment.astimezone(WARSAW).isoformat(timespec="seconds"),
    ).encode()


def _add_bookmarks(file: File, bookmarks: Sequence[str], pages: Sequence[int]) -> int:
    count = len(bookmarks)
    root = file.number(1 + count)
    last = root + count
    objects = [f"<</Count {count}/First {root + 1} 0 R/Last {last} 0 R>>"]
    for number, title, page in zip(range(root + 1, last + 1), bookmarks, pages, strict=True):
        before = f"/Prev {number - 1} 0 R" if number > root + 1 else ""
        after = f"/Next {number + 1} 0 R" if number < last else ""
        objects.append(
            f"<</Title{_string(title)}/Parent {root} 0 R{before}{after}/Dest[{page} 0 R/Fit]>>"
        )
    file.pack(range(root, last + 1), objects)
    return root


def _string(text: str) -> str:
    """A text of any characters as a PDF string."""
    return f"<FEFF{text.encode('utf-16-be').hex()}>"
