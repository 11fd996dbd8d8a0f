"""Reads a UPO as KSeF sends it: XML bytes in, an `Upo` out.

The bytes are not trusted, so they are read as a stream of events with hard limits and without
building a tree: memory depends on what is kept, not on what was sent. A UPO is not validated
against the Ministry's schema, because KSeF's own documents from the test environment violate it
(the issuer's name, the signature). Only the fields that are needed are read; others are ignored.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, Final, Literal, NamedTuple, get_args

from lxml import etree

from app.clock import WARSAW
from app.errors import KsefInvalidResponse

ContextType = Literal["Nip", "IdWewnetrzny", "IdZlozonyVatUE", "IdDostawcyUslugPeppol"]

MAX_BYTES: Final = 32 * 1024 * 1024
# In characters, before white space is collapsed: leaves room for indentation.
MAX_RAW_LENGTH: Final = 8 * 1024
# The longest tag or comment, in bytes.
MAX_MARKUP: Final = 1024 * 1024
# How deep unknown elements may be nested.
MAX_DEPTH: Final = 64
# 10,000 documents have 90,000 elements; a signature has about a hundred.
MAX_ELEMENTS: Final = 200_000

_ROOT: Final = re.compile(
    r"(\{http://upo\.schematy\.mf\.gov\.pl/KSeF/(v4-[0-9]{1,3})\})Potwierdzenie", re.ASCII
)
_XML_SPACES: Final = re.compile("[ \t\r\n]+")
_CHUNK: Final = 64 * 1024

_NIP: Final = re.compile(r"[0-9]{10}", re.ASCII)


@dataclass(frozen=True, slots=True)
class UpoPage:
    """Which part of a session's UPO this is: page `page` of `pages`, with documents from … to …."""

    page: int
    pages: int
    documents_from: int
    documents_to: int
    documents_total: int


@dataclass(frozen=True, slots=True)
class UpoDocument:
    """One confirmed invoice. Times keep the offset that they have in the XML.

    `sending_mode` is None in version v4-2, which does not have it.
    """

    seller_nip: str
    ksef_number: str
    invoice_number: str
    issue_date: date
    sent_at: datetime
    ksef_number_assigned_at: datetime
    document_hash: str
    sending_mode: str | None


@dataclass(frozen=True, slots=True)
class Upo:
    """An official receipt: who confirms, for whom, and at least one confirmed invoice.

    `version` is the last part of the XML namespace, "v4-3" or "v4-2" so far.
    """

    version: str
    issuer: str
    session_reference_number: str
    context_type: ContextType
    context_id: str
    authentication_hash: str | None
    token_reference_number: str | None
    page: UpoPage | None
    schema_name: str
    form_code: str
    documents: tuple[UpoDocument, ...]

    @property
    def context_nip(self) -> str | None:
        """The NIP that the context's identifier starts with; None for Peppol."""
        if self.context_type == "IdDostawcyUslugPeppol":
            return None
        leading, _, _ = self.context_id.partition("-")
        return leading if _NIP.fullmatch(leading) else None


def parse_upo(content: bytes) -> Upo:
    """Read a UPO.

    Raises KsefInvalidResponse, with the field named, when the content is not a readable UPO of a
    v4 version, has a DOCTYPE, is larger than `MAX_BYTES`, or lacks or repeats a field.
    A time without an offset is taken as Polish time (Europe/Warsaw).
    """
    if len(content) > MAX_BYTES:
        raise KsefInvalidResponse(f"The UPO is larger than {MAX_BYTES // 1024 // 1024} MiB.")
    reader = _UpoReader()
    # huge_tree stays off: no value of a UPO comes near libxml2's own limit of 10 MB.
    parser = etree.XMLParser(target=reader, resolve_entities=False, huge_tree=False)
    try:
        _feed(parser, reader, content)
    except etree.LxmlError as error:
        raise KsefInvalidResponse("The UPO is not well-formed XML.") from error
    return reader.upo()


def _feed(parser: etree.XMLParser, reader: "_UpoReader", content: bytes) -> None:
    """Feed the parser in pieces, so that a refused document is not read to its end."""
    silent = 0  # bytes fed since the parser last reported an event
    for start in range(0, len(content), _CHUNK):
        seen = reader.events
        parser.feed(content[start : start + _CHUNK])
        silent = silent + _CHUNK if reader.events == seen else 0
        # libxml2 collects a whole tag, maybe with millions of attributes, before it reports it.
        if silent > MAX_MARKUP:
            raise KsefInvalidResponse("The UPO has a tag or comment that is too long.")
    parser.close()


class _UpoReader:
    """The target of the XML parser: keeps the values of known fields and nothing else."""

    def __init__(self) -> None:
        # How many elements and texts lxml has reported: `_feed` watches that there are some.
        self.events = 0
        self._elements = 0
        self._namespace = ""
        self._version = ""
        # Where the parser is, below the root; unknown elements in it are only counted.
        self._path = ""
        self._unknown = 0
        # The text of the open field, in parts.
        self._text: list[str] | None = None
        self._text_length = 0
        self._values: dict[str, Any] = {}
        self._documents: list[UpoDocument] = []

    # Called by lxml.

    def doctype(self, *_names: str | None) -> None:
        raise KsefInvalidResponse("The UPO has a DOCTYPE, which is never accepted.")

    def start(self, tag: str, _attributes: object) -> None:
        self.events += 1
        self._elements += 1
        if self._elements > MAX_ELEMENTS or self._unknown >= MAX_DEPTH:
            raise KsefInvalidResponse("The UPO has too many elements.")
        if not self._namespace:
            self._open_root(tag)
        elif self._unknown or not tag.startswith(self._namespace):
            self._unknown += 1
        elif self._text is not None:
            raise self._refused(self._path, "holds an element")
        else:
            name = tag[len(self._namespace) :]
            path = f"{self._path}/{name}" if self._path else name
            if path in self._values:
                raise self._refused(path, "is repeated")
            if path in _FIELDS:
                self._text, self._text_length = [], 0
            elif path not in _GROUPS:
                self._unknown = 1
                return
            self._path = path

    def data(self, text: str) -> None:
        self.events += 1
        if self._text is None:
            return
        self._text.append(text)
        self._text_length += len(text)
        if self._text_length > MAX_RAW_LENGTH:
            raise self._refused(self._path, "is too long")

    def end(self, _tag: str) -> None:
        if self._unknown:
            self._unknown -= 1
            return
        if self._text is not None:
            self._values[self._path] = self._value("".join(self._text))
            self._text = None
        elif self._path == _DOCUMENT:
            self._documents.append(self._document())
        self._path = self._path.rpartition("/")[0]

    def close(self) -> None:
        """Required by lxml; the result is taken with `upo`."""

    # The work.

    def _open_root(self, tag: str) -> None:
        match = _ROOT.fullmatch(tag)
        if match is None:
            raise KsefInvalidResponse("The UPO's root is not Potwierdzenie of a version v4.")
        self._namespace, self._version = match.groups()

    def _value(self, raw: str) -> Any:
        """The value of the field at `_path`."""
        kind = _FIELDS[self._path]
        text = _XML_SPACES.sub(" ", raw).strip(" ")
        if not text:
            raise self._refused(self._path, "is missing or empty")
        if len(text) > kind.longest:
            raise self._refused(self._path, "is too long")
        try:
            match = kind.pattern.fullmatch(text)
            if match is None:
                raise ValueError
            return kind.read(*match.groups())
        except (ValueError, OverflowError):
            raise self._refused(self._path, f"is not {kind.what}") from None

    def _document(self) -> UpoDocument:
        """The document that ends here; its values are taken out, to make room for the next."""
        take = self._values.pop
        try:
            return UpoDocument(
                seller_nip=take("Dokument/NipSprzedawcy"),
                ksef_number=take("Dokument/NumerKSeFDokumentu"),
                invoice_number=take("Dokument/NumerFaktury"),
                issue_date=take("Dokument/DataWystawieniaFaktury"),
                sent_at=take("Dokument/DataPrzeslaniaDokumentu"),
                ksef_number_assigned_at=take("Dokument/DataNadaniaNumeruKSeF"),
                document_hash=take("Dokument/SkrotDokumentu"),
                sending_mode=take("Dokument/TrybWysylki", None),
            )
        except KeyError as missing:
            raise self._refused(missing.args[0], "is missing or empty") from None

    def upo(self) -> Upo:
        """The receipt, once the whole document has been read."""
        values = self._values
        if not self._documents:
            raise self._refused(_DOCUMENT, "is missing or empty")
        contexts = [kind for kind in get_args(ContextType) if f"{_CONTEXT}/{kind}" in values]
        if len(contexts) != 1:
            raise self._refused(_CONTEXT, "has no single known identifier")
        has_page = any(map(values.__contains__, _PAGE_FIELDS))
        try:
            return Upo(
                version=self._version,
                issuer=values["NazwaPodmiotuPrzyjmujacego"],
                session_reference_number=values["NumerReferencyjnySesji"],
                context_type=contexts[0],
                context_id=values[f"{_CONTEXT}/{contexts[0]}"],
                authentication_hash=values.get(
                    "Uwierzytelnienie/SkrotDokumentuUwierzytelniajacego"
                ),
                token_reference_number=values.get("Uwierzytelnienie/NumerReferencyjnyTokenaKSeF"),
                page=UpoPage(*map(values.__getitem__, _PAGE_FIELDS)) if has_page else None,
                schema_name=values["NazwaStrukturyLogicznej"],
                form_code=values["KodFormularza"],
                documents=tuple(self._documents),
            )
        except KeyError as missing:
            raise self._refused(missing.args[0], "is missing or empty") from None

    def _refused(self, path: str, why: str) -> KsefInvalidResponse:
        """The error, with the path as a person reads it: `Dokument[3]/NumerFaktury`."""
        if path.startswith("Dokument/"):
            path = f"Dokument[{len(self._documents) + 1}]{path.removeprefix(_DOCUMENT)}"
        return KsefInvalidResponse(f"The UPO's field {path} {why}.")


def _moment(day: str, time: str | None, offset: str | None) -> datetime:
    """A moment with a fixed offset, Poland's if it has none. No time is the end of the day."""
    moment = datetime.fromisoformat(f"{day}T{time or '00:00:00'}{offset or ''}")
    if time is None:
        moment += timedelta(days=1)
    if offset is None:
        moment = moment.replace(tzinfo=timezone(WARSAW.utcoffset(moment) or timedelta()))
    # The times will be converted later: a year on the edge of the calendar must fail here.
    moment.astimezone(UTC).astimezone(WARSAW)
    return moment


class _Kind(NamedTuple):
    """A kind of value: how it is read, and its greatest length in characters.

    `read` gets the groups of the pattern; for what is not `what` it raises ValueError or
    OverflowError. The schema allows 256 characters in names and 44 in identifiers; a table row with
    values of the lengths here still fits on a page of the PDF.
    """

    what: str = "a text"
    pattern: re.Pattern[str] = re.compile("(.*)", re.DOTALL)
    read: Callable[..., Any] = str
    longest: int = 128


_IDENTIFIER: Final = _Kind()
_NAME: Final = _Kind(longest=512)
_COUNT: Final = _Kind("a positive number", re.compile(r"\+?0*([1-9][0-9]{0,8})", re.ASCII), int)
_DATE: Final = _Kind(
    "a date",
    re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:Z|[+-][0-9]{2}:[0-9]{2})?", re.ASCII),
    date.fromisoformat,
)
# XML Schema allows 24:00:00 for the end of a day.
_TIME: Final = _Kind(
    "a time",
    re.compile(
        r"([0-9]{4}-[0-9]{2}-[0-9]{2})T"
        r"(?:((?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?)|24:00:00(?:\.0+)?)"
        r"(Z|[+-](?:(?:0[0-9]|1[0-3]):[0-5][0-9]|14:00))?",
        re.ASCII,
    ),
    _moment,
)

_DOCUMENT: Final = "Dokument"
_CONTEXT: Final = "Uwierzytelnienie/IdKontekstu"
_GROUPS: Final = frozenset({_DOCUMENT, "Uwierzytelnienie", _CONTEXT, "OpisPotwierdzenia"})
# In the order of UpoPage.
_PAGE_FIELDS: Final = (
    "OpisPotwierdzenia/Strona",
    "OpisPotwierdzenia/LiczbaStron",
    "OpisPotwierdzenia/ZakresDokumentowOd",
    "OpisPotwierdzenia/ZakresDokumentowDo",
    "OpisPotwierdzenia/CalkowitaLiczbaDokumentow",
)
# All fields that are read, by their path below the root.
_FIELDS: Final[dict[str, _Kind]] = {
    "NazwaPodmiotuPrzyjmujacego": _NAME,
    "NumerReferencyjnySesji": _IDENTIFIER,
    **{f"{_CONTEXT}/{kind}": _IDENTIFIER for kind in get_args(ContextType)},
    "Uwierzytelnienie/NumerReferencyjnyTokenaKSeF": _IDENTIFIER,
    "Uwierzytelnienie/SkrotDokumentuUwierzytelniajacego": _IDENTIFIER,
    **dict.fromkeys(_PAGE_FIELDS, _COUNT),
    "NazwaStrukturyLogicznej": _NAME,
    "KodFormularza": _NAME,
    "Dokument/NipSprzedawcy": _IDENTIFIER,
    "Dokument/NumerKSeFDokumentu": _IDENTIFIER,
    "Dokument/NumerFaktury": _NAME,
    "Dokument/DataWystawieniaFaktury": _DATE,
    "Dokument/DataPrzeslaniaDokumentu": _TIME,
    "Dokument/DataNadaniaNumeruKSeF": _TIME,
    "Dokument/SkrotDokumentu": _IDENTIFIER,
    "Dokument/TrybWysylki": _IDENTIFIER,
}
