"""Made-up UPOs of each kind, as XML bytes: the numbers are random, none belongs to anyone."""

import base64
import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from xml.sax.saxutils import escape

PRODUCTION_ISSUER = "Ministerstwo Finansów"
TEST_ISSUER = "Ministerstwo Finansów - środowisko testowe (SANDBOX)"

CONTEXTS = {
    "Nip": "7191234562",
    "IdWewnetrzny": "7191234562-00417",
    "IdZlozonyVatUE": "7191234562-DE308412076",
    "IdDostawcyUslugPeppol": "PPL004217",
}


@dataclass(frozen=True)
class DocumentSample:
    """The texts of one `Dokument`, as they stand in the XML; None leaves the element out."""

    seller_nip: str
    ksef_number: str
    invoice_number: str
    issue_date: str
    sent_at: str
    assigned_at: str
    document_hash: str
    sending_mode: str | None = "Online"

    def xml(self) -> str:
        return _element(
            "Dokument",
            _text("NipSprzedawcy", self.seller_nip),
            _text("NumerKSeFDokumentu", self.ksef_number),
            _text("NumerFaktury", self.invoice_number),
            _text("DataWystawieniaFaktury", self.issue_date),
            _text("DataPrzeslaniaDokumentu", self.sent_at),
            _text("DataNadaniaNumeruKSeF", self.assigned_at),
            _text("SkrotDokumentu", self.document_hash),
            _text("TrybWysylki", self.sending_mode),
        )


@dataclass(frozen=True)
class UpoSample:
    """The texts of one UPO; `page` holds the five numbers of `OpisPotwierdzenia`."""

    documents: tuple[DocumentSample, ...]
    version: str = "v4-3"
    issuer: str = PRODUCTION_ISSUER
    session: str = "20260415-SO-3F20A71C55-9E04D8B612-7A"
    context: tuple[str, str] = ("Nip", CONTEXTS["Nip"])
    token: str | None = None
    authentication_hash: str | None = "Zk1v0cXq7TfUO0lI1yR8sJm3hNw5oE2bGd4aKp6uYtQ="
    page: tuple[int, int, int, int, int] | None = None
    schema: str = "Schemat_FA(3)_v1-0E.xsd"
    form: str = "FA (3)"
    signature: str = field(default="")

    def xml(self) -> bytes:
        kind, identifier = self.context
        body = [
            _text("NazwaPodmiotuPrzyjmujacego", self.issuer),
            _text("NumerReferencyjnySesji", self.session),
            _element(
                "Uwierzytelnienie",
                _element("IdKontekstu", _text(kind, identifier)),
                _text("NumerReferencyjnyTokenaKSeF", self.token),
                _text("SkrotDokumentuUwierzytelniajacego", self.authentication_hash),
            ),
            self._page_xml(),
            _text("NazwaStrukturyLogicznej", self.schema),
            _text("KodFormularza", self.form),
            *(document.xml() for document in self.documents),
            self.signature,
        ]
        namespace = f"http://upo.schematy.mf.gov.pl/KSeF/{self.version}"
        return (
            f'<?xml version="1.0" encoding="utf-8"?>\n<Potwierdzenie xmlns="{namespace}">'
            f"{''.join(body)}</Potwierdzenie>"
        ).encode()

    def _page_xml(self) -> str:
        if self.page is None:
            return ""
        names = (
            "Strona",
            "LiczbaStron",
            "ZakresDokumentowOd",
            "ZakresDokumentowDo",
            "CalkowitaLiczbaDokumentow",
        )
        numbers = zip(names, self.page, strict=True)
        return _element("OpisPotwierdzenia", *(_text(name, str(value)) for name, value in numbers))


SIGNATURE = (
    '<ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#" Id="s"><ds:SignedInfo>'
    '<ds:Reference URI=""><ds:DigestValue>AAAA</ds:DigestValue></ds:Reference></ds:SignedInfo>'
    "<ds:SignatureValue>QUJD</ds:SignatureValue><ds:Object><Dokument>not read</Dokument>"
    "</ds:Object></ds:Signature>"
)


def documents(count: int, seed: int = 1) -> tuple[DocumentSample, ...]:
    """That many documents with numbers and hashes that all differ."""
    numbers = random.Random(seed)
    return tuple(_document(numbers, index) for index in range(count))


def document(**changes: str | None) -> DocumentSample:
    """One document with some texts changed."""
    return replace(documents(1)[0], **changes)


def upo(*, count: int = 1, seed: int = 1, **changes: object) -> UpoSample:
    """A UPO of that many documents with some fields changed."""
    return replace(UpoSample(documents(count, seed)), **changes)


def kinds() -> dict[str, UpoSample]:
    """One sample of each kind that the tests of the PDF go through."""
    long_number = "FAKTURA" + "0O1lI8B" * 35 + "KONI"
    samples = {
        "one document": upo(),
        "session": upo(count=2, page=(1, 1, 1, 3, 2)),
        "page break": upo(count=60, page=(2, 3, 61, 121, 170)),
        "v4-2": _old(upo(count=3)),
        "future v4": upo(version="v4-9"),
        "test issuer": upo(issuer=TEST_ISSUER),
        "test issuer, page break": upo(count=30, issuer=f"{PRODUCTION_ISSUER} (DEMO)"),
        "token": upo(token="20260101-TO-0123456789-ABCDEF0123-4F", authentication_hash=None),
        "signed": upo(signature=SIGNATURE),
        "offline": _with(document(sending_mode="Offline")),
        "long invoice number": _with(document(invoice_number=long_number)),
        "long words": _with(document(invoice_number="Faktura zaliczkowa końcowa nr " * 8 + "1")),
        "old number": _with(document(ksef_number="7191234562-20230117-0A1B2C-3D4E5F-60")),
        "markup": _with(document(invoice_number="FV <1> & \"2\" '3' (4) \\5")),
        "Polish": _with(document(invoice_number="ZAŻÓŁĆ/GĘŚLĄ/JAŹŃ/zażółć/gęślą/jaźń")),
        "Cyrillic and Greek": _with(document(invoice_number="Рахунок №7 / Τιμολόγιο 9")),
        "long issuer": upo(issuer=" ".join(["Urząd bardzo długiej nazwy"] * 9)),
        "long form": upo(form="F" * 240, schema="Schemat_" + "x" * 232),
        "facts on two pages": upo(
            issuer="W" * 512,
            page=(1, 1, 1, 1, 1),
            token="T" * 128,
            authentication_hash="H" * 128,
            schema="W" * 512,
            form="W" * 512,
        ),
    }
    for kind, identifier in CONTEXTS.items():
        samples[f"context {kind}"] = upo(context=(kind, identifier))
    return samples


def _with(*content: DocumentSample) -> UpoSample:
    return UpoSample(content)


def _old(sample: UpoSample) -> UpoSample:
    """The same in v4-2, which has no `TrybWysylki`."""
    without = tuple(replace(document, sending_mode=None) for document in sample.documents)
    return replace(sample, version="v4-2", documents=without)


def _document(numbers: random.Random, index: int) -> DocumentSample:
    nip = "7191234562"
    day = f"2026-04-{1 + index % 28:02d}"
    second = f"{index // 60 % 60:02d}:{index % 60:02d}"
    serial = numbers.randrange(16**12)
    return DocumentSample(
        seller_nip=nip,
        ksef_number=f"{nip}-{day.replace('-', '')}-{serial:012X}-{numbers.randrange(256):02X}",
        invoice_number=f"FV/{index + 1}/{numbers.randrange(10**6):06d}/04/2026",
        issue_date=day,
        sent_at=f"{day}T10:{second}.{numbers.randrange(1000):03d}+02:00",
        assigned_at=f"{day}T08:{second}.9999999Z",
        document_hash=base64.b64encode(numbers.randbytes(32)).decode(),
    )


def _text(name: str, value: str | None) -> str:
    return "" if value is None else f"<{name}>{escape(value)}</{name}>"


def _element(name: str, *content: str) -> str:
    return f"<{name}>{''.join(content)}</{name}>"


def joined(service: Iterable[str]) -> str:
    """A text without any white space: how wrapped cells are compared."""
    return "".join("".join(service).split())
