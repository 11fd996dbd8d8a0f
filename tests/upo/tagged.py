"""What a screen reader gets of a PDF: its structure with the texts, and what is in none of it."""

import re
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pypdf import PdfReader


@dataclass
class Piece:
    """A marked piece of a page: its texts, and where each begins (baseline from below, x)."""

    page: int
    kind: str
    texts: list[str] = field(default_factory=list)
    places: list[tuple[float, float]] = field(default_factory=list)
    languages: list[str | None] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts)


@dataclass
class Node:
    """An element of the structure, with its own pieces or with others below it."""

    kind: str
    scope: str | None
    language: str | None
    children: list["Node"] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    def find(self, kind: str) -> list["Node"]:
        """All of that kind, in reading order."""
        found = [self] if self.kind == kind else []
        return found + [node for child in self.children for node in child.find(kind)]

    def all_pieces(self) -> list[Piece]:
        return self.pieces + [piece for child in self.children for piece in child.all_pieces()]


class Tagged:
    """A PDF as its structure tells it. Anything that is drawn outside of all marks is an error."""

    def __init__(self, pdf: bytes) -> None:
        self.reader = PdfReader(BytesIO(pdf), strict=True)
        self.catalog = self.reader.root_object
        self.artifacts: list[Piece] = []
        self._marked: dict[tuple[int, int], Piece] = {}
        for index, page in enumerate(self.reader.pages):
            self._read_page(index, page)
        tree = self.catalog["/StructTreeRoot"]
        numbers = tree["/ParentTree"]["/Nums"]
        # Of each page the owners of its pieces.
        self._owners = [numbers[at].get_object() for at in range(1, len(numbers), 2)]
        self._seen: set[tuple[int, int]] = set()
        self.document = self._node(tree.raw_get("/K"), self.catalog.raw_get("/StructTreeRoot"))
        # Each marked piece is in the tree, once.
        assert self._seen == self._marked.keys()

    def _read_page(self, index: int, page: Any) -> None:
        letters = {
            name: {
                int(code, 16): chr(int(letter, 16))
                for code, letter in re.findall(
                    rb"<(..)> <(....)>", font["/ToUnicode"].get_object().get_data()
                )
            }
            for name, font in page["/Resources"]["/Font"].items()
        }
        # What is open: pieces, and languages of parts of them.
        piece: Piece | None = None
        spans: list[str] = []
        place = (0.0, 0.0)
        font = ""
        for operands, operator in page.get_contents().operations:
            if operator in (b"BMC", b"BDC"):
                kind = operands[0]
                if kind == "/Span":
                    assert piece is not None
                    spans.append(operands[1]["/Lang"])
                    continue
                assert piece is None, "a piece within another"
                piece = Piece(index, kind[1:])
                if kind == "/Artifact":
                    self.artifacts.append(piece)
                else:
                    self._marked[index, operands[1]["/MCID"]] = piece
            elif operator == b"EMC":
                if spans:
                    spans.pop()
                else:
                    assert piece is not None
                    piece = None
            elif operator == b"Tf":
                font = operands[0]
            elif operator == b"Tm":
                place = (float(operands[5]), float(operands[4]))
            elif operator == b"Tj":
                assert piece is not None, "a text outside of all marks"
                codes = operands[0].original_bytes
                piece.texts.append("".join([letters[font][code] for code in codes]))
                piece.places.append(place)
                piece.languages.append(spans[-1] if spans else None)
            elif operator in (b"S", b"f"):
                assert piece is not None
                assert piece.kind == "Artifact"
        assert piece is None

    def _node(self, reference: Any, parent: Any) -> Node:
        element = reference.get_object()
        assert element.raw_get("/P") == parent
        attributes = element.get("/A", {})
        node = Node(element["/S"][1:], attributes.get("/Scope"), element.get("/Lang"))
        kids = element["/K"]
        # As they stand there: references are not followed.
        for kid in list.__iter__(kids) if isinstance(kids, list) else [kids]:
            if isinstance(kid, int):
                page = element["/Pg"]
                index = self.reader.get_page_number(page)
                assert page["/StructParents"] == index
                assert list.__getitem__(self._owners[index], kid) == reference
                self._seen.add((index, kid))
                node.pieces.append(self._marked[index, kid])
            else:
                node.children.append(self._node(kid, reference))
        return node
