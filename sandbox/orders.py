"""The JSON of the control plane, declared once for its server and its Python client.

In JSON the fields have camelCase names. An unknown field, or a value of the wrong type, is refused
with a 400. docs/sandbox.md describes the fields.
"""

from datetime import date
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from sandbox import identifiers
from sandbox.identifiers import Sha256
from sandbox.settings import Seconds
from sandbox.state import LATARNIA_STATUSES, MAX_INVOICES

Nip = Annotated[str, Meta(pattern=rf"\A{identifiers.NIP}\Z")]
KsefNumber = Annotated[str, Meta(pattern=rf"\A{identifiers.KSEF_NUMBER}\Z")]
Code = Annotated[int, Meta(ge=100, le=999)]
HowMany = Annotated[int, Meta(ge=0, le=MAX_INVOICES)]
Reference = Annotated[str, Meta(pattern=rf"\A{identifiers.REFERENCE}\Z")]
State = Literal["finished", "moving", "open", "failed"]
DownMode = Literal["503-html", "reset", "hang", "html-200", "waf-403"]


class Order(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """Base of all request bodies."""


class InvoiceOrder(Order):
    """An invoice to make, or what to change of one; `outcome` is what a moving one becomes.

    What is left out is made up for a new invoice, and stays as it is for an existing one.
    """

    status: Code | UnsetType = UNSET
    outcome: Code = 200
    finishes_after: Seconds | None = None
    invoice_number: str | UnsetType | None = UNSET
    offline: bool | UnsetType = UNSET
    details: list[str] | UnsetType | None = UNSET
    seller_nip: Nip | UnsetType = UNSET
    issue_date: date | UnsetType = UNSET
    sha256: Sha256 | UnsetType = field(name="invoiceHash", default=UNSET)
    ksef_number: KsefNumber | None = None
    reference_number: str | None = None
    original_ksef_number: str | None = None
    original_session_reference_number: str | None = None


class SessionOrder(Order):
    """A session to make; `code` is that of a failed or moving one.

    `invoices` is how many accepted ones, or a description of each: one if left out, none in a
    failed session. `login_document_hash` (Base64 SHA-256) says that the session was opened after
    a login with a certificate, else it was one with a KSeF token.
    """

    nip: Nip
    kind: Literal["online", "batch"] = "online"
    state: State = "finished"
    invoices: HowMany | list[InvoiceOrder] | None = None
    reference_number: Reference | None = None
    date_created: str | None = None
    code: Code | None = None
    details: list[str] | None = None
    finishes_after: Seconds | None = None
    form_code: str = "FA (3)"
    login_document_hash: Sha256 | None = None


class SessionChange(Order):
    """What to change of a session."""

    state: State | None = None
    code: Code | None = None
    details: list[str] | UnsetType | None = UNSET
    finishes_after: Seconds | None = None


class NewInvoices(Order):
    """Invoices for an existing session."""

    invoices: HowMany | list[InvoiceOrder]


class CredentialChange(Order):
    """How logins end from now on: with one credential, or with all of a company."""

    outcome: Code
    nip: Nip | None = None
    token: str | None = None
    certificate: str | None = None
    fingerprint: str | None = None
    details: list[str] | None = None


class CredentialOrder(CredentialChange, kw_only=True):
    """A KSeF token, or a certificate (PEM, or its fingerprint), and how logins with it end."""

    nip: Nip
    outcome: Code = 200


class ClockOrder(Order):
    """Moves the clock so many seconds ahead; stops it or lets it run."""

    advance: float = 0
    frozen: bool | None = None


class ApiOrder(Order):
    """Takes KSeF's API of an environment down, or brings it back."""

    available: bool
    mode: DownMode = "503-html"


class LatarniaOrder(Order):
    """What Latarnia says, and whether it is reachable itself."""

    status: str | None = None
    messages: list[dict[str, Any]] | None = None
    available: bool = True

    def __post_init__(self) -> None:
        if self.messages is None and self.status not in (None, *LATARNIA_STATUSES):
            raise ValueError(f"status: without messages one of {', '.join(LATARNIA_STATUSES)}")


class KeysOrder(Order):
    """Whether the old public keys stay valid beside the new ones."""

    keep_old: bool = False


class BearersOrder(Order):
    """Which issued tokens end now."""

    kind: Literal["operation", "access", "refresh"] | None = None
    nip: Nip | None = None


class SeededInvoice(Struct, frozen=True, rename="camel"):
    """An invoice as the control plane shows it. `ksef_number` is the one it has or will get."""

    ordinal_number: int
    reference_number: str
    invoice_number: str | None
    invoice_hash: str
    ksef_number: str | None
    status: int
    outcome: int


class SeededSession(Struct, frozen=True, rename="camel"):
    """A session as the control plane shows it, with the page references of its collective UPO."""

    environment: str
    reference_number: str
    nip: str
    kind: str
    date_created: str
    status: int
    upo_pages: list[str]
    invoices: list[SeededInvoice]

    @property
    def ksef_numbers(self) -> list[str]:
        """The KSeF numbers of the accepted invoices, in order."""
        return [
            invoice.ksef_number
            for invoice in self.invoices
            if invoice.status == 200 and invoice.ksef_number is not None
        ]


class Call(Struct, rename="camel"):
    """One call in the log, which came `at` and was `answered_at`.

    `status` and `answered_at` stay None where the connection ended without an answer.
    """

    service: str
    environment: str | None
    method: str
    path: str
    query: str
    route: str | None
    at: str
    nip: str | None
    page_size: str | None
    has_continuation_token: bool
    error_format: str | None
    user_agent: str | None
    has_bearer: bool
    status: int | None = None
    answered_at: str | None = None
    retry_after: str | None = None
    fault: str | None = None
