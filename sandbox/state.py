"""What one environment of the sandbox remembers: sessions, invoices, logins, tokens.

Nothing here runs by itself: every status is reckoned from the sandbox's clock when it is asked
for, so moving the clock moves everything. `Environment.lock` guards all of it.
"""

import secrets
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sandbox import identifiers
from sandbox.bodies import BatchFile
from sandbox.clock import stamp
from sandbox.keys import KeyRing, Signers

ENVIRONMENTS: Final = ("test", "demo", "prod")
LATARNIA_STATUSES: Final = ("AVAILABLE", "MAINTENANCE", "FAILURE", "TOTAL_FAILURE")
_LATARNIA_WORDS: Final = {
    "MAINTENANCE": (
        "Prace serwisowe w Krajowym Systemie e-Faktur",
        "Trwają prace serwisowe w KSeF. Faktury można wystawiać w trybie offline.",
    ),
    "FAILURE": (
        "Awaria Krajowego Systemu e-Faktur",
        "Trwa awaria KSeF. Faktury można wystawiać w trybie awaryjnym.",
    ),
    "TOTAL_FAILURE": (
        "Awaria całkowita Krajowego Systemu e-Faktur",
        "Trwa awaria całkowita KSeF. Faktury wystawia się poza KSeF.",
    ),
}
ONLINE_LIFETIME: Final = timedelta(hours=12)
MAX_INVOICES: Final = 10_000


@dataclass(slots=True)
class Invoice:
    """An invoice inside a session. `code` is its outcome, reached at `finishes`."""

    ordinal: int
    reference: str
    received: datetime
    sha256: str
    seller_nip: str
    invoice_number: str | None
    issue_date: str
    code: int
    starts: datetime
    """From here on it is 150 instead of 100."""
    finishes: datetime | None
    """None: it keeps moving until the control plane says otherwise."""
    moving_code: int | None = None
    """Set: the code while moving, whatever the time."""
    ksef_number: str | None = None
    invoice_type: str = "VAT"
    """Its `RodzajFaktury`."""
    corrects: str | None = None
    """The hash of the offline invoice of which it is a technical correction."""
    offline: bool = False
    file_name: str | None = None
    details: list[str] | None = None
    extensions: dict[str, str] | None = None
    upo: bytes | None = None

    def code_at(self, now: datetime) -> int:
        """The status code KSeF would show at `now`."""
        if self.finishes is not None and now >= self.finishes:
            return self.code
        if self.moving_code is not None:
            return self.moving_code
        return 100 if now < self.starts else 150


@dataclass(slots=True)
class UpoPage:
    """Page `number` of `count` of a collective UPO; `first` (from 0) is that of its documents."""

    reference: str
    number: int
    count: int
    first: int
    total: int
    invoices: list[Invoice]
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """What a session's status says, apart from the links."""

    code: int
    details: list[str] | None
    updated: datetime
    total: int
    successful: int
    failed: int


@dataclass(frozen=True, slots=True)
class Means:
    """With what somebody logged in: a KSeF token, or a document signed with a certificate."""

    token_reference: str | None = None
    document_sha256: str | None = None
    fingerprint: str | None = None


@dataclass(slots=True)
class Package:
    """What a batch session was opened for; `parts` are those uploaded, by their numbers."""

    announced: BatchFile
    offline: bool
    parts: dict[int, bytes] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Session:
    """An online or batch session of one NIP. `finishes` None: it moves until it is changed."""

    reference: str
    nip: str
    kind: str
    created: datetime
    means: Means
    valid_until: datetime
    closed: datetime | None = None
    starts: datetime | None = None
    """Batch only: from here on it is 150 instead of 100."""
    finishes: datetime | None = None
    code: int | None = None
    """A failure code chosen by the control plane; None: it follows from the invoices."""
    moving_code: int | None = None
    details: list[str] | None = None
    form_code: str = "FA (3)"
    symmetric_key: bytes = b""
    vector: bytes = b""
    processing: timedelta = timedelta(seconds=1)
    package: Package | None = None
    """Of a batch session that a client has opened; the control plane's have none."""
    invoices: list[Invoice] = field(default_factory=list)
    by_reference: dict[str, Invoice] = field(default_factory=dict)
    by_ksef_number: dict[str, Invoice] = field(default_factory=dict)
    upo_pages: list[UpoPage] = field(default_factory=list)
    _settled: Summary | None = None

    def add(self, invoice: Invoice) -> None:
        """Appends an invoice."""
        self.invoices.append(invoice)
        self.by_reference[invoice.reference] = invoice
        self.index(invoice)

    def index(self, invoice: Invoice) -> None:
        """Makes an invoice findable by its KSeF number and forgets what was reckoned before."""
        if invoice.ksef_number is not None and invoice.code == 200:
            self.by_ksef_number[invoice.ksef_number] = invoice
        self.touch()

    def find(self, name: str) -> Invoice | None:
        """The invoice of that reference number or KSeF number."""
        return self.by_reference.get(name) or self.by_ksef_number.get(name)

    def touch(self) -> None:
        """Forgets what was reckoned: something of the session was changed."""
        self._settled = None
        self.upo_pages = []

    def close(self, now: datetime) -> None:
        """Closes an online session."""
        self.closed, self.finishes = now, now + self.processing

    def summary(self, now: datetime) -> Summary:
        """Status, counts and last activity at `now`."""
        if self._settled is not None:
            return self._settled
        if self.closed is None and now >= self.valid_until:
            if self.kind == "online":
                self.close(self.valid_until)
            elif self.package is not None:
                self.code, self.details = 440, ["Przekroczono czas wysyłki"]
                self.finishes = self.valid_until
        codes = [invoice.code_at(now) for invoice in self.invoices]
        successful = codes.count(200)
        failed = sum(code > 200 for code in codes)
        code, details = self._code(now, len(codes), successful, failed)
        moments = [self.closed, self.starts, self.finishes]
        for invoice in self.invoices:
            moments += [invoice.received, invoice.finishes]
        summary = Summary(
            code,
            details,
            max([self.created, *(moment for moment in moments if moment and moment <= now)]),
            len(codes),
            successful,
            failed,
        )
        if code >= 200:
            self._settled = summary
        return summary

    def _code(
        self, now: datetime, total: int, successful: int, failed: int
    ) -> tuple[int, list[str] | None]:
        over = self.finishes is not None and now >= self.finishes
        if over and successful + failed == total:
            if self.code is not None:
                return self.code, self.details
            if total == 0:
                return 440, ["Nie przesłano faktur"]
            return (200 if successful else 445), self.details
        if self.moving_code is not None:
            return self.moving_code, None
        if self.kind == "online":
            return (100 if self.closed is None else 170), None
        return (150 if self.starts is not None and now >= self.starts else 100), None

    def pages(self, now: datetime, page_size: int) -> list[UpoPage]:
        """The pages of the collective UPO: none before the session is 200."""
        if self.upo_pages or self.summary(now).code != 200:
            return self.upo_pages
        accepted = [invoice for invoice in self.invoices if invoice.code_at(now) == 200]
        starts = range(0, len(accepted), page_size)
        for number, first in enumerate(starts, 1):
            reference = identifiers.reference_number(
                "EU", self.created.date(), f"{self.reference}|upo|{first}"
            )
            invoices = accepted[first : first + page_size]
            self.upo_pages.append(
                UpoPage(reference, number, len(starts), first, len(accepted), invoices)
            )
        return self.upo_pages


@dataclass(slots=True)
class Credential:
    """With what somebody may log in to `nip`; `outcome` is the code that such logins end in.

    `value` is the KSeF token itself, or the SHA-256 of a certificate in capital hex digits.
    """

    value: str
    nip: str
    reference: str | None = None
    """Of a token only: by it UPOs name the token."""
    outcome: int = 200
    details: list[str] | None = None


@dataclass(slots=True, eq=False)
class Login:
    """One login operation, and after it the authenticated session."""

    reference: str
    nip: str
    started: datetime
    means: Means
    code: int
    details: list[str] | None
    polls_left: int
    ready: datetime
    redeemed: bool = False
    revoked: bool = False
    refresh_valid_until: str | None = None
    last_refresh: str | None = None


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token that a client may send: `kind` is operation, access or refresh."""

    kind: str
    login: Login
    valid_until: datetime


@dataclass
class Latarnia:
    """What Latarnia says about the environment."""

    status: str = "AVAILABLE"
    messages: list[dict[str, Any]] = field(default_factory=list)
    available: bool = True

    def say(self, status: str, now: datetime) -> None:
        """Changes the status, with a plausible message: it began now, or it ended now."""
        self.status = status
        if status == "AVAILABLE":
            end = {"type": "FAILURE_END", "end": stamp(now), "version": 2, "published": stamp(now)}
            self.messages = [
                message | end for message in self.messages if message.get("type") == "FAILURE_START"
            ]
            return
        category = status if status in _LATARNIA_WORDS else "FAILURE"
        title, text = _LATARNIA_WORDS[category]
        message = {
            "id": f"{category}-{now:%Y%m%d%H%M%S}",
            "eventId": int(now.timestamp()),
            "category": category,
            "type": "MAINTENANCE_ANNOUNCEMENT" if status == "MAINTENANCE" else "FAILURE_START",
            "title": title,
            "text": text,
            "start": stamp(now),
            "end": None,
            "version": 1,
            "published": stamp(now),
        }
        self.messages = [message]


class Environment:
    """One of test, demo, prod."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.RLock()
        self.keys = KeyRing(name)
        self.signers = Signers(name)
        self.secret = secrets.token_bytes(32)
        self.clear()

    def clear(self) -> None:
        """Forgets everything but the keys."""
        with self.lock:
            self.signers.reset()
            self.sessions: dict[str, Session] = {}
            self.logins: dict[str, Login] = {}
            self.bearers: dict[str, Bearer] = {}
            # When each was given, in milliseconds, and until when it can be used, once.
            self.challenges: dict[str, tuple[int, datetime]] = {}
            self.tokens: dict[str, Credential] = {}
            self.certificates: dict[tuple[str, str], Credential] = {}
            # Seller, type and number of an invoice; its KSeF number and its session.
            self.accepted: dict[tuple[str, str, str], tuple[str, str]] = {}
            self.down: str | None = None
            self.latarnia = Latarnia()

    def accept(self, session: Session, invoice: Invoice) -> None:
        """Notes an invoice with outcome 200, so that its twin is a duplicate."""
        if invoice.code == 200 and invoice.invoice_number and invoice.ksef_number:
            self.accepted.setdefault(
                (invoice.seller_nip, invoice.invoice_type, invoice.invoice_number),
                (invoice.ksef_number, session.reference),
            )
