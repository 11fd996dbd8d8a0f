"""Reads a UPO as KSeF sends it: XML bytes in, an `Upo` out.

The bytes are not trusted, so they are read as a stream of events with hard limits and without
building a tree: memory depends on what is kept, not on what was sent. A UPO is not validated
against the Ministry's schema, because KSeF's own documents from the test environment violate it
(the issuer's name, the signature). Only the fields that are needed are read; others are ignored.
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Final, Literal, get_args

from lxml import etree

from app.clock import WARSAW
from app.errors import KsefInvalidResponse

ContextType = Literal["Nip", "IdWewnetrzny", "IdZlozonyVatUE", "IdDostawcyUslugPeppol"]

MAX_BYTES: Final = 32 * 1024 * 1024
# The longest values, in characters. The schema allows 256 in names and 44 in identifiers; a table
# row with values of these lengths still fits on a page of the PDF.
MAX_NAME_LENGTH: Final = 512
MAX_IDENTIFIER_LENGTH: Final = 128
# In characters, before white space is collapsed: leaves room for indentation.
MAX_RAW_LENGTH: Final = 8 * 1024
# The longest tag or comment, in bytes.
MAX_MARKUP: Final = 1024 * 1024
MAX_DEPTH: Final = 64
# 10,000 documents have 90,000 elements; a signature has about a hundred.
MAX_ELEMENTS: Final = 200_000

_NAMESPACE: Final = re.compile(r"http://upo\.schematy\.mf\.gov\.pl/KSeF/(v4-[0-9]{1,3})", re.ASCII)
_XML_SPACES: Final = re.compile("[ \t\r\n]+")
_CHUNK: Final = 64 * 1024

_DATE: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:Z|[+-][0-9]{2}:[0-9]{2})?", re.ASCII)
_DATE_TIME: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:(Z)|([+-])([0-9]{2}):([0-9]{2}))?",
    re.ASCII,
)
_COUNT: Final = re.compile(r"\+?0*([1-9][0-9]{0,8})", re.ASCII)
_NIP: Final = re.compile(r"[0-9]{10}", re.ASCII)

_AUTHENTICATION: Final = "Uwierzytelnienie"
_CONTEXT: Final = f"{_AUTHENTICATION}/IdKontekstu"
_PAGE: Final = "OpisPotwierdzenia"
_DOCUMENT: Final = "Dokument"

_UPO_FIELDS: Final = frozenset(
    {
        "NazwaPodmiotuPrzyjmujacego",
        "NumerReferencyjnySesji",
        *(f"{_CONTEXT}/{kind}" for kind in get_args(ContextType)),
        f"{_AUTHENTICATION}/NumerReferencyjnyTokenaKSeF",
        f"{_AUTHENTICATION}/SkrotDokumentuUwierzytelniajacego",
        f"{_PAGE}/Strona",
        f"{_PAGE}/LiczbaStron",
        f"{_PAGE}/ZakresDokumentowOd",
        f"{_PAGE}/ZakresDokumentowDo",
        f"{_PAGE}/CalkowitaLiczbaDokumentow",
        "NazwaStrukturyLogicznej",
        "KodFormularza",
    }
)
_DOCUMENT_FIELDS: Final = frozenset(
    {
        "NipSprzedawcy",
        "NumerKSeFDokumentu",
        "NumerFaktury",
        "DataWystawieniaFaktury",
        "DataPrzeslaniaDokumentu",
        "DataNadaniaNumeruKSeF",
        "SkrotDokumentu",
        "TrybWysylki",
    }
)
# All other values are numbers, times, or identifiers of a fixed length.
_NAMES: Final = frozenset(
    {"NazwaPodmiotuPrzyjmujacego", "NazwaStrukturyLogicznej", "KodFormularza", "NumerFaktury"}
)


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
    # huge_tree stays off: no value of a UPO comes near libxml2's own limits (10 MB, 256 levels).
    parser = etree.XMLParser(
        target=reader,
        resolve_entities=False,
        load_dtd=False,
        dtd_validation=False,
        attribute_defaults=False,
        no_network=True,
        huge_tree=False,
        recover=False,
    )
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
    """The target of the XML parser: keeps the texts of known fields and nothing else."""

    def __init__(self) -> None:
        self._namespace = ""
        self._version = ""
        self._path: list[str] = []
        # How many events lxml has reported: `_feed` watches that there are some.
        self.events = 0
        self._elements = 0
        # The depth at which an ignored subtree began; 0 outside of one.
        self._skipping_from = 0
        self._text: list[str] | None = None
        self._text_length = 0
        self._fields: dict[str, str] = {}
        self._document: dict[str, str] = {}
        self._documents: list[UpoDocument] = []

    # Called by lxml.

    def doctype(self, *_names: str | None) -> None:
        raise KsefInvalidResponse("The UPO has a DOCTYPE, which is never accepted.")

    def start(self, tag: str, _attributes: object) -> None:
        self.events += 1
        self._elements += 1
        self._path.append(tag)
        depth = len(self._path)
        if self._elements > MAX_ELEMENTS or depth > MAX_DEPTH:
            raise KsefInvalidResponse("The UPO has too many elements.")
        if self._skipping_from:
            return
        if depth == 1:
            self._open_root(tag)
        elif not tag.startswith(self._namespace):
            self._skipping_from = depth
        else:
            self._path[-1] = tag[len(self._namespace) :]
            self._open_field()

    def data(self, text: str) -> None:
        self.events += 1
        if self._text is None:
            return
        self._text_length += len(text)
        if self._text_length > MAX_RAW_LENGTH:
            raise KsefInvalidResponse(f"The UPO's field {self._name()} is too long.")
        self._text.append(text)

    def end(self, _tag: str) -> None:
        self.events += 1
        if not self._skipping_from:
            self._close()
        elif self._skipping_from == len(self._path):
            self._skipping_from = 0
        self._path.pop()

    def close(self) -> None:
        """Required by lxml; the result is taken with `upo`."""

    # The work.

    def upo(self) -> Upo:
        """The receipt, once the whole document has been read."""
        if not self._documents:
            raise _missing(_DOCUMENT)
        context_type, context_id = self._context()
        fields = self._fields
        return Upo(
            version=self._version,
            issuer=_required(fields, "NazwaPodmiotuPrzyjmujacego"),
            session_reference_number=_required(fields, "NumerReferencyjnySesji"),
            context_type=context_type,
            context_id=context_id,
            authentication_hash=fields.get(f"{_AUTHENTICATION}/SkrotDokumentuUwierzytelniajacego"),
            token_reference_number=fields.get(f"{_AUTHENTICATION}/NumerReferencyjnyTokenaKSeF"),
            page=self._page(),
            schema_name=_required(fields, "NazwaStrukturyLogicznej"),
            form_code=_required(fields, "KodFormularza"),
            documents=tuple(self._documents),
        )

    def _open_root(self, tag: str) -> None:
        namespace, _, name = tag.removeprefix("{").rpartition("}")
        match = _NAMESPACE.fullmatch(namespace)
        if match is None or name != "Potwierdzenie":
            raise KsefInvalidResponse("The UPO's root is not Potwierdzenie of a version v4.")
        self._namespace = f"{{{namespace}}}"
        self._version = match[1]

    def _open_field(self) -> None:
        if self._text is not None:
            raise KsefInvalidResponse(f"The UPO's field {self._name(-1)} holds an element.")
        known, kept, name = self._place()
        if name in kept:
            raise KsefInvalidResponse(f"The UPO's field {self._name()} is repeated.")
        if name in known:
            self._text, self._text_length = [], 0

    def _place(self) -> tuple[frozenset[str], dict[str, str], str]:
        """Where the open element belongs: the known names there, the values there, its name."""
        if self._path[1] == _DOCUMENT:
            return _DOCUMENT_FIELDS, self._document, "/".join(self._path[2:])
        return _UPO_FIELDS, self._fields, "/".join(self._path[1:])

    def _close(self) -> None:
        if self._text is not None:
            value = _XML_SPACES.sub(" ", "".join(self._text)).strip(" ")
            self._text = None
            self._keep(value)
        elif len(self._path) == 2 and self._path[1] == _DOCUMENT:
            self._documents.append(_document(self._document, f"{self._name()}/"))
            self._document = {}

    def _keep(self, value: str) -> None:
        if not value:
            raise _missing(self._name())
        _, kept, name = self._place()
        if len(value) > (MAX_NAME_LENGTH if name in _NAMES else MAX_IDENTIFIER_LENGTH):
            raise KsefInvalidResponse(f"The UPO's field {self._name()} is too long.")
        kept[name] = value

    def _name(self, end: int | None = None) -> str:
        """The path below the root as a person reads it: `Dokument[3]/NumerFaktury`."""
        first, *rest = self._path[1:end]
        if first == _DOCUMENT:
            first = f"{_DOCUMENT}[{len(self._documents) + 1}]"
        return "/".join([first, *rest])

    def _context(self) -> tuple[ContextType, str]:
        found: list[tuple[ContextType, str]] = [
            (kind, self._fields[f"{_CONTEXT}/{kind}"])
            for kind in get_args(ContextType)
            if f"{_CONTEXT}/{kind}" in self._fields
        ]
        if len(found) != 1:
            raise KsefInvalidResponse(f"The UPO's field {_CONTEXT} has no single known identifier.")
        return found[0]

    def _page(self) -> UpoPage | None:
        if not any(name.startswith(f"{_PAGE}/") for name in self._fields):
            return None
        return UpoPage(
            page=_count(self._fields, f"{_PAGE}/Strona"),
            pages=_count(self._fields, f"{_PAGE}/LiczbaStron"),
            documents_from=_count(self._fields, f"{_PAGE}/ZakresDokumentowOd"),
            documents_to=_count(self._fields, f"{_PAGE}/ZakresDokumentowDo"),
            documents_total=_count(self._fields, f"{_PAGE}/CalkowitaLiczbaDokumentow"),
        )


def _document(fields: dict[str, str], prefix: str) -> UpoDocument:
    return UpoDocument(
        seller_nip=_required(fields, "NipSprzedawcy", prefix),
        ksef_number=_required(fields, "NumerKSeFDokumentu", prefix),
        invoice_number=_required(fields, "NumerFaktury", prefix),
        issue_date=_date(fields, "DataWystawieniaFaktury", prefix),
        sent_at=_date_time(fields, "DataPrzeslaniaDokumentu", prefix),
        ksef_number_assigned_at=_date_time(fields, "DataNadaniaNumeruKSeF", prefix),
        document_hash=_required(fields, "SkrotDokumentu", prefix),
        sending_mode=fields.get("TrybWysylki"),
    )


def _missing(name: str) -> KsefInvalidResponse:
    return KsefInvalidResponse(f"The UPO's field {name} is missing or empty.")


def _required(fields: dict[str, str], name: str, prefix: str = "") -> str:
    try:
        return fields[name]
    except KeyError:
        raise _missing(prefix + name) from None


def _count(fields: dict[str, str], name: str) -> int:
    match = _COUNT.fullmatch(_required(fields, name))
    if match is None:
        raise KsefInvalidResponse(f"The UPO's field {name} is not a positive number.")
    return int(match[1])


def _date(fields: dict[str, str], name: str, prefix: str) -> date:
    match = _DATE.fullmatch(_required(fields, name, prefix))
    try:
        if match is None:
            raise ValueError
        return date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        raise KsefInvalidResponse(f"The UPO's field {prefix}{name} is not a date.") from None


def _date_time(fields: dict[str, str], name: str, prefix: str) -> datetime:
    match = _DATE_TIME.fullmatch(_required(fields, name, prefix))
    try:
        if match is None:
            raise ValueError
        return _to_moment(match)
    except (ValueError, OverflowError):
        raise KsefInvalidResponse(f"The UPO's field {prefix}{name} is not a time.") from None


def _to_moment(match: re.Match[str]) -> datetime:
    """A moment with a fixed offset; ValueError or OverflowError if there is no such moment."""
    year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
    # XML Schema allows 24:00:00 for the end of a day.
    end_of_day = (hour, minute, second) == (24, 0, 0) and not (match[7] or "").strip("0")
    microsecond = int((match[7] or "")[:6].ljust(6, "0"))
    wall = datetime(  # noqa: DTZ001 - the offset follows
        year, month, day, 0 if end_of_day else hour, minute, second, microsecond
    ) + timedelta(days=1 if end_of_day else 0)
    moment = wall.replace(tzinfo=_offset(match, wall))
    # The times will be converted later: a year on the edge of the calendar must fail here.
    moment.astimezone(UTC).astimezone(WARSAW)
    return moment


def _offset(match: re.Match[str], wall: datetime) -> timezone:
    if match[8]:
        return UTC
    if match[9] is None:
        return timezone(wall.replace(tzinfo=WARSAW).utcoffset() or timedelta())
    minutes = int(match[10]) * 60 + int(match[11])
    if int(match[11]) > 59 or minutes > 14 * 60:
        raise ValueError
    return timezone(timedelta(minutes=-minutes if match[9] == "-" else minutes))
