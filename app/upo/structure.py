"""The structure of the PDF, which screen readers follow: what is a heading, a table or a cell of
it, and in which order all is read.

Each element of the tree is an object of the file. What it says is a piece of a page: the pieces of
each page are counted from 0, and an array of the page tells whose they are.
"""

from typing import Final

from app.upo.file import File

# Whose header a cell is.
OF_COLUMN: Final = "/A<</O/Table/Scope/Column>>"
OF_ROW: Final = "/A<</O/Table/Scope/Row>>"
# What is in Polish whatever the language of the rest.
POLISH: Final = "/Lang(pl-PL)"


class Element:
    """An element: its number, PDF's name of its kind, further entries, and what is in it."""

    def __init__(self, number: int, kind: str, parent: int, more: str) -> None:
        self.number = number
        self.content: list[str] = []
        self._head = f"<</S/{kind}/P {parent} 0 R{more}"

    def text(self) -> str:
        """The object in the file."""
        return f"{self._head}/K[{' '.join(self.content)}]>>"


class Structure:
    """The tree of one file."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._number = file.number()
        self._elements: list[Element] = []
        # Of each page the number of its array.
        self._pages: list[int] = []
        self.document = self._new("Document", self._number, "")

    def add(self, kind: str, parent: Element, more: str = "") -> Element:
        """A new element behind those that are in `parent`."""
        element = self._new(kind, parent.number, more)
        parent.content.append(f"{element.number} 0 R")
        return element

    def _new(self, kind: str, parent: int, more: str) -> Element:
        element = Element(self._file.number(), kind, parent, more)
        self._elements.append(element)
        return element

    def add_page(self, owners: int) -> int:
        """Note the array of the next page; the index by which the page refers to it."""
        self._pages.append(owners)
        return len(self._pages) - 1

    def finish(self) -> int:
        """Write the tree; the number of its root."""
        pages = " ".join([f"{index} {number} 0 R" for index, number in enumerate(self._pages)])
        root = (
            f"<</Type/StructTreeRoot/K {self.document.number} 0 R"
            f"/ParentTree<</Nums[{pages}]>>/ParentTreeNextKey {len(self._pages)}>>"
        )
        self._file.pack(
            [self._number, *[element.number for element in self._elements]],
            [root, *[element.text() for element in self._elements]],
        )
        return self._number
