"""Makes UPO documents (v4-3), signed by one of the sandbox's own signers.

As KSeF's test environments do, they name an issuer that the schema does not allow and carry an
enveloped signature that it has no place for; in everything else they are valid.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from lxml import etree

from sandbox.clock import WARSAW
from sandbox.signing import Seal, sign
from sandbox.state import Invoice, Session, UpoPage

NAMESPACE: Final = "http://upo.schematy.mf.gov.pl/KSeF/v4-3"
ISSUER: Final = "Ministerstwo Finansów - środowisko testowe (SANDBOX)"


def build(
    session: Session, invoices: Sequence[Invoice], seal: Seal, page: UpoPage | None = None
) -> bytes:
    """The signed UPO of one invoice, or with `page` one page of a session's collective UPO."""
    root = etree.Element(f"{{{NAMESPACE}}}Potwierdzenie", nsmap={None: NAMESPACE})
    root.set("wersjaSchemy", "4-3")
    _add(root, "NazwaPodmiotuPrzyjmujacego", ISSUER)
    _add(root, "NumerReferencyjnySesji", session.reference)
    authentication = _add(root, "Uwierzytelnienie")
    _add(_add(authentication, "IdKontekstu"), "Nip", session.nip)
    if session.means.document_sha256:
        _add(authentication, "SkrotDokumentuUwierzytelniajacego", session.means.document_sha256)
    else:
        _add(authentication, "NumerReferencyjnyTokenaKSeF", session.means.token_reference)
    if page is not None:
        description = _add(root, "OpisPotwierdzenia")
        for name, number in (
            ("Strona", page.number),
            ("LiczbaStron", page.count),
            ("ZakresDokumentowOd", page.first + 1),
            ("ZakresDokumentowDo", page.first + len(page.invoices)),
            ("CalkowitaLiczbaDokumentow", page.total),
        ):
            _add(description, name, str(number))
    version = "_v1-0E" if session.form_code in ("FA (2)", "FA (3)") else ""
    structure = f"Schemat_{session.form_code.replace(' ', '')}{version}.xsd"
    _add(root, "NazwaStrukturyLogicznej", structure)
    _add(root, "KodFormularza", session.form_code)
    for invoice in invoices:
        document = _add(root, "Dokument")
        _add(document, "NipSprzedawcy", invoice.seller_nip)
        _add(document, "NumerKSeFDokumentu", invoice.ksef_number or "")
        _add(document, "NumerFaktury", invoice.invoice_number or "")
        _add(document, "DataWystawieniaFaktury", invoice.issue_date)
        _add(document, "DataPrzeslaniaDokumentu", _local(invoice.received))
        _add(document, "DataNadaniaNumeruKSeF", _local(invoice.finishes or invoice.received))
        _add(document, "SkrotDokumentu", invoice.sha256)
        _add(document, "TrybWysylki", "Offline" if invoice.offline else "Online")
    return sign(root, seal)


def _add(parent: etree._Element, name: str, text: str | None = None) -> etree._Element:
    element = etree.SubElement(parent, f"{{{NAMESPACE}}}{name}")
    element.text = text
    return element


def _local(moment: datetime) -> str:
    return moment.astimezone(WARSAW).isoformat(timespec="milliseconds")
