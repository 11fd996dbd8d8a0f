"""What one environment of the sandbox remembers: sessions, invoices, logins, tokens.

Nothing here runs by itself: every status is reckoned from the sandbox's clock when it is asked
for, so moving the clock moves everything. `Environment.lock` guards all of it.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Final

from sandbox import identifiers
from sandbox.keys import KeyRing

ENVIRONMENTS: Final = ("test", "demo", "prod")
ONLINE_LIFETIME: Final = timedelta(hours=12)
MAX_INVOICES: Final = 10_000

SESSION_WORDS: Final = {
    ("online", 100): "Sesja interaktywna otwarta",
    ("online", 170): "Sesja interaktywna zamknięta",
    ("online", 200): "Sesja interaktywna przetworzona pomyślnie",
    ("batch", 100): "Sesja wsadowa rozpoczęta",
    ("batch", 150): "Trwa przetwarzanie",
    ("batch", 200): "Sesja wsadowa przetworzona pomyślnie",
}
SESSION_FAILURES: Final = {
    405: "Błąd weryfikacji poprawności dostarczonych elementów paczki",
    415: "Błąd odszyfrowania dostarczonego klucza",
    420: "Przekroczony limit faktur w sesji",
    430: "Błąd dekompresji pierwotnego archiwum",
    435: "Błąd odszyfrowania zaszyfrowanych części archiwum",
    440: "Sesja anulowana",
    445: "Błąd weryfikacji, brak poprawnych faktur",
}
INVOICE_WORDS: Final = {
    100: "Faktura przyjęta do dalszego przetwarzania",
    150: "Trwa przetwarzanie",
    200: "Sukces",
    405: "Przetwarzanie anulowane z powodu błędu sesji",
    410: "Nieprawidłowy zakres uprawnień",
    415: "Brak możliwości wysyłania faktury z załącznikiem",
    430: "Błąd weryfikacji pliku faktury",
    435: "Błąd odszyfrowania pliku",
    440: "Duplikat faktury",
    450: "Błąd weryfikacji semantyki dokumentu faktury",
    550: "Operacja została anulowana przez system",
}
# An invoice whose file could not be read has no number that KSeF could show.
UNREADABLE: Final = frozenset({405, 415, 430, 435, 500, 550})


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
    """One page of a collective UPO: documents `first` up to, not with, `last`, from 0."""

    reference: str
    first: int
    last: int
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """What a session's status says, apart from the links."""

    code: int
    description: str
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
class PackagePart:
    """A part of a batch's package: as it was announced, and the content once it is uploaded."""

    size: int
    sha256: str
    content: bytes | None = None


@dataclass(slots=True)
class Package:
    """What a batch session was opened for; `size` and `sha256` are those of the whole archive."""

    size: int
    sha256: str
    compression: str
    offline: bool
    parts: list[PackagePart]


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

    def touch(self) -> None:
        """Forgets what was reckoned: something of the session was changed."""
        self._settled = None
        self.upo_pages = []

    def close(self, now: datetime) -> None:
        """Closes an online session."""
        self.closed = now
        self.finishes = now + self.processing

    def summary(self, now: datetime) -> Summary:
        """Status, counts and last activity at `now`."""
        if self._settled is not None:
            return self._settled
        if self.kind == "online" and self.closed is None and now >= self.valid_until:
            self.close(self.valid_until)
        if self.package is not None and self.closed is None and now >= self.valid_until:
            self.code, self.details = 440, ["Przekroczono czas wysyłki"]
            self.finishes = self.valid_until
        activity = [self.created]
        successful = failed = 0
        for invoice in self.invoices:
            activity.append(invoice.received)
            code = invoice.code_at(now)
            if code >= 200:
                successful += code == 200
                failed += code != 200
                if invoice.finishes is not None:
                    activity.append(invoice.finishes)
        total = len(self.invoices)
        code, details = self._code(now, total, successful, failed)
        activity += [
            moment for moment in (self.closed, self.starts, self.finishes) if moment is not None
        ]
        summary = Summary(
            code,
            _session_words(self.kind, code),
            details,
            max(moment for moment in activity if moment <= now or moment is self.created),
            total,
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

    def accepted(self, now: datetime) -> list[Invoice]:
        """The invoices with a KSeF number at `now`, in order."""
        return [invoice for invoice in self.invoices if invoice.code_at(now) == 200]

    def pages(self, now: datetime, page_size: int) -> list[UpoPage]:
        """The pages of the collective UPO: none before the session is 200."""
        if self.summary(now).code != 200:
            return []
        if not self.upo_pages:
            count = self.summary(now).successful
            self.upo_pages = [
                UpoPage(
                    identifiers.reference_number(
                        "EU", self.created.date(), f"{self.reference}|upo|{first}"
                    ),
                    first,
                    min(first + page_size, count),
                )
                for first in range(0, count, page_size)
            ]
        return self.upo_pages


def _session_words(kind: str, code: int) -> str:
    return SESSION_WORDS.get((kind, code)) or SESSION_FAILURES.get(code, f"Nieznany błąd ({code})")


def invoice_words(code: int) -> str:
    """KSeF's description of an invoice's code."""
    return INVOICE_WORDS.get(code, f"Nieznany błąd ({code})")


@dataclass(slots=True)
class KsefToken:
    """A KSeF token of a company. `outcome` is the code that logins with it end in."""

    value: str
    nip: str
    reference: str
    outcome: int = 200
    details: list[str] | None = None


@dataclass(slots=True)
class RegisteredCertificate:
    """A certificate that KSeF knows, by its SHA-256, and how logins with it to a NIP end."""

    fingerprint: str
    nip: str
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
    refresh_valid_until: datetime | None = None
    last_refresh: datetime | None = None


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token that a client may send: `kind` is operation, access or refresh."""

    kind: str
    login: Login
    valid_until: datetime


@dataclass(slots=True)
class Challenge:
    """A login challenge; each can be used once."""

    timestamp_ms: int
    valid_until: datetime


@dataclass
class Latarnia:
    """What Latarnia says about the environment."""

    status: str = "AVAILABLE"
    messages: list[dict[str, object]] = field(default_factory=list)
    available: bool = True


class Environment:
    """One of test, demo, prod."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.RLock()
        self.keys = KeyRing(name)
        self.secret = secrets.token_bytes(32)
        self.clear()

    def clear(self) -> None:
        """Forgets everything but the keys."""
        with self.lock:
            self.sessions: dict[str, Session] = {}
            self.logins: dict[str, Login] = {}
            self.bearers: dict[str, Bearer] = {}
            self.challenges: dict[str, Challenge] = {}
            self.ksef_tokens: dict[str, KsefToken] = {}
            self.certificates: dict[tuple[str, str], RegisteredCertificate] = {}
            self.accepted: dict[tuple[str, str], tuple[str, str]] = {}
            self.down: str | None = None
            self.latarnia = Latarnia()

    def session_of(self, nip: str, reference: str) -> Session | None:
        """The session if it exists and belongs to `nip`."""
        session = self.sessions.get(reference)
        return session if session is not None and session.nip == nip else None

    def mint_token(self, nip: str, value: str | None = None) -> KsefToken:
        """Adds a KSeF token (or gives an existing one back its validity)."""
        with self.lock:
            reference = identifiers.reference_number(
                "EC", date(2026, 1, 1), f"{self.name}|{nip}|{value}" if value else None
            )
            value = value or f"{reference}|nip-{nip}|{secrets.token_hex(32)}"
            token = KsefToken(value, nip, reference)
            self.ksef_tokens[value] = token
            return token

    def accept(self, session: Session, invoice: Invoice) -> None:
        """Notes an invoice with outcome 200, so that its twin is a duplicate."""
        if invoice.code == 200 and invoice.invoice_number and invoice.ksef_number:
            self.accepted.setdefault(
                (invoice.seller_nip, invoice.invoice_number),
                (invoice.ksef_number, session.reference),
            )
