"""The texts of the PDF. The Polish ones are those of the Ministry's own visualisation."""

from collections.abc import Mapping
from typing import ClassVar, Final

from app.clock import WARSAW
from app.upo.verdict import Verdict


class Labels:
    """All texts, in Polish. Those with braces are templates for str.format."""

    language_tag = "pl-PL"
    system = ("Krajowy System ", "e", "-Faktur")
    issuer = "Nazwa pełna podmiotu, któremu doręczono dokument elektroniczny"
    about = "Informacja o dokumencie:"
    registered = (
        "Dokument został zarejestrowany w systemie teleinformatycznym Ministerstwa Finansów"
    )
    title = "Urzędowe poświadczenie odbioru dokumentu elektronicznego KSeF"
    session = "Numer referencyjny sesji"
    page = "Strona dokumentu UPO"
    pages = "Całkowita liczba stron dokumentu UPO"
    documents_from = "Zakres dokumentów od"
    documents_to = "Zakres dokumentów do"
    documents_total = "Całkowita liczba dokumentów"
    context_type = "Typ kontekstu"
    context_types: ClassVar[Mapping[str, str]] = {
        "Nip": "NIP",
        "IdWewnetrzny": "Identyfikator wewnętrzny",
        "IdZlozonyVatUE": "Identyfikator złożony",
        "IdDostawcyUslugPeppol": "Identyfikator Peppol",
    }
    context_id = "Identyfikator kontekstu uwierzytelnienia"
    token = "Numer referencyjny tokena KSeF"  # noqa: S105 - a label
    authentication_hash = "Skrót dokumentu uwierzytelniającego"
    schema_name = "Nazwa pliku XSD struktury logicznej dotycząca przesłanego dokumentu"
    form_code = "Kod formularza przedłożonego dokumentu elektronicznego"
    ordinal = "Lp."
    ksef_number = "Numer identyfikujący fakturę w KSeF"
    invoice_number = "Numer faktury"
    seller_nip = "NIP sprzedawcy"
    issue_date = "Data wystawienia faktury"
    sent_at = "Data przesłania do KSeF"
    assigned_at = "Data nadania numeru KSeF"
    document_hash = "Wartość funkcji skrótu złożonego dokumentu"
    sending_mode = "Tryb wysyłki"
    test = "TEST"
    test_explained = "Dokument spoza środowiska produkcyjnego KSeF"
    visualisation = "Wizualizacja. Dokumentem urzędowym jest plik XML poświadczenia odbioru."
    xml_hash = "Skrót SHA-256 pliku XML:"
    time_zone = "Daty i godziny według czasu w Polsce (Europe/Warsaw)."
    replaced = "Znak ▯ zastępuje znak, którego nie ma w użytych krojach pisma; pełny zapis w XML."
    page_of = "{page} z {pages}"
    subject = (
        "Urzędowe poświadczenie odbioru (UPO), wizualizacja pliku XML o skrócie SHA-256 {hash}"
    )
    title_of_document = "UPO faktury {document.invoice_number}, numer KSeF {document.ksef_number}"
    title_of_session = "UPO sesji {session}"
    bookmark = "Strona {page}: dokumenty {first}–{last}"
    bookmark_without_documents = "Strona {page}"


class EnglishLabels(Labels):
    """The same in English; names stay Polish."""

    language_tag = "en-GB"
    issuer = "Full name of the entity to which the electronic document was delivered"
    about = "About the document:"
    registered = "The document has been registered in the IT system of the Ministry of Finance"
    title = "Official confirmation of receipt (UPO) of an electronic document in KSeF"
    session = "Session reference number"
    page = "Page of the UPO"
    pages = "Total number of pages of the UPO"
    documents_from = "Documents from"
    documents_to = "Documents to"
    documents_total = "Total number of documents"
    context_type = "Context type"
    context_types: ClassVar[Mapping[str, str]] = {
        "Nip": "NIP",
        "IdWewnetrzny": "Internal identifier",
        "IdZlozonyVatUE": "Compound identifier (NIP and EU VAT)",
        "IdDostawcyUslugPeppol": "Peppol identifier",
    }
    context_id = "Authentication context identifier"
    token = "KSeF token reference number"  # noqa: S105 - a label
    authentication_hash = "Hash of the authenticating document"
    schema_name = "Name of the XSD file of the logical structure of the document sent"
    form_code = "Form code of the electronic document submitted"
    ordinal = "No."
    ksef_number = "Number identifying the invoice in KSeF"
    invoice_number = "Invoice number"
    seller_nip = "Seller's NIP"
    issue_date = "Invoice issue date"
    sent_at = "Sent to KSeF"
    assigned_at = "KSeF number assigned"
    document_hash = "Hash of the document submitted"
    sending_mode = "Sending mode"
    test_explained = "Not from the production environment of KSeF"
    visualisation = "Visualisation. The official document is the XML of the confirmation."
    xml_hash = "SHA-256 of the XML file:"
    time_zone = "Dates and times are those of Poland (Europe/Warsaw)."
    replaced = "▯ stands for a character that the fonts used do not have; the XML has it in full."
    page_of = "{page} of {pages}"
    subject = "Official confirmation of receipt (UPO), visualisation of the XML with SHA-256 {hash}"
    title_of_document = (
        "UPO of invoice {document.invoice_number}, KSeF number {document.ksef_number}"
    )
    title_of_session = "UPO of session {session}"
    bookmark = "Page {page}: documents {first}–{last}"
    bookmark_without_documents = "Page {page}"


LABELS: Final[Mapping[str, type[Labels]]] = {"pl": Labels, "en": EnglishLabels}


# In Polish and English.
_SIGNATURES: Final = {
    "valid": ("prawidłowy", "valid"),
    "unknown_signer": (
        "zgodny, podpisujący spoza listy zaufanych",
        "fits, signer not among the trusted ones",
    ),
    "unverifiable": ("w nieznanej postaci, niesprawdzony", "in an unknown form, not verified"),
    "unsigned": ("brak", "none"),
    "broken": ("NIEZGODNY Z DOKUMENTEM", "DOES NOT FIT THE DOCUMENT"),
}


def signature_sentences(found: Verdict) -> tuple[str, str, str, str]:
    """What was found out about the signature, in Polish and in English, who signed, and when, in
    Polish time.

    In both languages, whatever that of the rest: anybody may have to read the PDF of a receipt.
    """
    polish, english = _SIGNATURES[found.state]
    who = when = ""
    if found.signed_at:
        who = f" {found.signer or '?'}"
        when = f", {found.signed_at.astimezone(WARSAW):%Y-%m-%d %H:%M:%S}."
    return f"Podpis elektroniczny: {polish}. ", f"Electronic signature: {english}.", who, when
