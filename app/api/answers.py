"""What is answered: Structs that are encoded, and that are the schemas of `/openapi.json`.

Callers must ignore members that they do not know: new ones may be added at any time.
"""

from collections.abc import Sequence
from typing import Annotated, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.services.events.journal import Event
from app.services.sessions.search import State
from app.settings import ENVIRONMENTS

# -- Types.


def choice(title: str, *values: str) -> Meta:
    """One of these texts: a type of its own in generated clients."""
    return Meta(title=title, extra_json_schema={"enum": [*values]})


Count = Annotated[int, Meta(ge=0)]
Moment = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""RFC 3339, in the response time zone."""
LocalTime = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}$")]
"""YYYY-MM-DD HH:MM:SS in the response time zone."""
Environment = Annotated[str, choice("Environment", *ENVIRONMENTS)]
RowTable = Annotated[str, choice("RowTable", "synced_invoices", "offline_invoices")]
InvoiceState = Annotated[str, choice("InvoiceState", *get_args(State))]
LoginMethod = Annotated[str, choice("LoginMethod", "token", "certificate")]
OutageCategory = Annotated[str, choice("OutageCategory", "FAILURE", "TOTAL_FAILURE", "MAINTENANCE")]
OutageSource = Annotated[str, choice("OutageSource", "simulation", "latarnia", "breaker")]
OutageDuty = Annotated[
    str,
    choice("OutageDuty", "next_working_day_after_end", "seven_working_days_after_end", "none"),
]
ProblemCode = Annotated[str, Meta(title="ProblemCode")]  # `openapi` adds the codes


class Answer(msgspec.Struct, kw_only=True, rename="camel", gc=False):
    """What all have in common: camelCase on the wire."""


# -- Sessions and invoices.


class StatusCode(Answer, kw_only=True):
    code: Annotated[
        int, Meta(description="KSeF's code: 100, 150, 170 still moving; from 200 on final")
    ]
    description: Annotated[str, Meta(description="KSeF's own words")]
    details: Annotated[Sequence[str], Meta(description="KSeF's details, maybe none")]


class DuplicateOf(Answer, kw_only=True):
    ksef_number: Annotated[str, Meta(description="KSeF number of the original invoice")]
    reference_number: Annotated[
        str | None,
        Meta(
            description="Session in which the original was sent; null where KSeF names none, or "
            "this one although it does not hold the original"
        ),
    ]


class SessionInvoice(Answer, kw_only=True):
    ordinal_number: Annotated[
        Count, Meta(description="Place of the invoice in the session, from 1")
    ]
    invoice_number: Annotated[
        str | None,
        Meta(description="The seller's number; KSeF tells it of an accepted invoice only"),
    ]
    ksef_number: Annotated[
        str | None, Meta(description="Null while the invoice is moving, or where it was rejected")
    ]
    acquisition_date: Annotated[
        LocalTime | None,
        Meta(description="When KSeF gave the invoice its number"),
    ]
    status: StatusCode
    reference_number: Annotated[str, Meta(description="KSeF's own reference number of the invoice")]
    invoice_hash: Annotated[
        str | None,
        Meta(
            description="SHA-256 of the invoice's file, Base64: by it a rejected invoice is known,"
            " whose number KSeF does not tell"
        ),
    ]
    invoice_file_name: Annotated[
        str | None, Meta(description="Name of the file in the package; only in a batch session")
    ]
    invoicing_date: Annotated[
        Moment | None,
        Meta(description="When KSeF took the invoice; in a batch, when its session was opened"),
    ]
    invoicing_mode: Annotated[str | None, Meta(description="`Online` or `Offline`")]
    duplicate_of: Annotated[DuplicateOf | UnsetType, Meta(description="Only with code 440")] = UNSET


class UpoPageReference(Answer, kw_only=True):
    reference_number: Annotated[
        str, Meta(description="Reference number of a page of the session's collective UPO")
    ]


class SessionUpo(Answer, kw_only=True):
    pages: Annotated[list[UpoPageReference], Meta(description="Its pages, maybe none yet")]


class SessionAnswer(Answer, kw_only=True):
    reference_number: Annotated[str, Meta(description="The reference number asked for")]
    status: StatusCode
    date_created: Annotated[
        LocalTime,
        Meta(description="When the session was begun"),
    ]
    date_updated: Annotated[
        LocalTime,
        Meta(description="When KSeF last changed it"),
    ]
    total_invoice_count: Annotated[Count, Meta(description="Invoices of the session")]
    successful_invoice_count: Annotated[Count, Meta(description="Accepted invoices")]
    failed_invoice_count: Annotated[Count, Meta(description="Rejected invoices")]
    invoices: Annotated[
        list[SessionInvoice],
        Meta(description="All invoices of the session (up to 10,000), by ordinalNumber"),
    ]
    final: Annotated[bool, Meta(description="Nothing of this answer will change any more")]
    upo: SessionUpo
    valid_until: Annotated[
        Moment | None, Meta(description="When KSeF closes the session by itself; only while open")
    ]
    next_check_after: Annotated[
        Count | UnsetType,
        Meta(description="Seconds until asking again is worth it; only while moving"),
    ] = UNSET
    checked_at: Annotated[Moment, Meta(description="When KSeF was last asked")]


class FoundRow(Answer, kw_only=True):
    table: Annotated[RowTable, Meta(description="The table of the row")]
    invoice_number: Annotated[str, Meta(description="The seller's number of the invoice")]
    ksef_number: Annotated[str | None, Meta(description="KSeF number")]
    ksef_reference_number: Annotated[
        str | None, Meta(description="Reference number, in offline_invoices")
    ]
    invoice_hash: Annotated[
        str | None, Meta(description="SHA-256 of the invoice's file, where the ERP wrote it")
    ]
    session_reference_number: Annotated[
        str | None, Meta(description="The session that the row is linked to")
    ]
    linked_at: Annotated[Moment | None, Meta(description="When it was linked")]


class FoundInvoice(SessionInvoice, kw_only=True):
    session_reference_number: Annotated[str, Meta(description="The session that holds the invoice")]
    final: Annotated[bool, Meta(description="Nothing of the session will change any more")]
    checked_at: Annotated[Moment, Meta(description="When KSeF was last asked after the session")]
    upo_archived: Annotated[bool, Meta(description="The UPO is given without asking KSeF")]


class FoundAnswer(Answer, kw_only=True):
    rows: Annotated[list[FoundRow], Meta(description="The company's own rows of the invoice")]
    answers: Annotated[
        list[FoundInvoice],
        Meta(description="The invoice in the kept answers of KSeF, by session"),
    ]
    state: Annotated[
        InvoiceState | None,
        Meta(
            description="What became of the file with this hash; `not_arrived` is said only with "
            "`sentAt`. null: the invoice was not asked for by its hash"
        ),
    ]
    unknown_because_of: Annotated[
        str | None,
        Meta(
            description="Of a state that is `unknown` although `sentAt` is between `knownSince` "
            "and `knownUntil`: a session that moves or could not be read, or one, or an invoice, "
            "that KSeF's lists should have shown; else null"
        ),
    ]
    known_since: Annotated[
        Moment | None,
        Meta(description="From when on that is so; null: the sessions are not followed"),
    ]
    known_until: Annotated[
        Moment | None,
        Meta(
            description="Every session that KSeF lists up to then is known here; null: the "
            "company's sessions are not followed"
        ),
    ]


# -- The journal.


class EventsAnswer(Answer, kw_only=True):
    events: Annotated[Sequence[Event], Meta(description="In order, maybe none")]
    next: Annotated[
        str | None,
        Meta(description="To be given as `after`; null while there has been no event at all"),
    ]


# -- The company's KSeF session.


class KsefSessionAnswer(Answer, kw_only=True):
    environment: Annotated[Environment, Meta(description="KSeF environment")]
    nip: Annotated[str, Meta(description="The company's NIP", pattern="^[0-9]{10}$")]
    method: Annotated[LoginMethod, Meta(description="With what the company was logged in")]
    authenticated_at: Annotated[Moment, Meta(description="When the company was logged in")]
    access_token_valid_until: Annotated[
        Moment, Meta(description="End of the access token; it is renewed before")
    ]
    refresh_token_valid_until: Annotated[
        Moment, Meta(description="End of the refresh token; a new login replaces it")
    ]
    certificate_valid_until: Annotated[
        Moment | None,
        Meta(
            description="End of the stored certificate, for the next login; null where a KSeF"
            " token is stored"
        ),
    ]


# -- Outages and the state of the service.


class OutageMessage(Answer, kw_only=True):
    title: Annotated[str, Meta(description="Title")]
    text: Annotated[str, Meta(description="Text")]
    start: Annotated[Moment, Meta(description="Begin")]
    end: Annotated[Moment | None, Meta(description="End")]
    category: Annotated[OutageCategory, Meta(description="What kind of outage")]
    published_at: Annotated[
        Moment | None, Meta(description="When the Ministry published it; null: a simulation")
    ]


class Outage(Answer, kw_only=True):
    established: Annotated[
        bool, Meta(description="KSeF is known to be down, or so simulated; else suspicion at most")
    ]
    since: Annotated[
        Moment | None, Meta(description="Begin of it, or of the failures if not established")
    ]
    consecutive_failures: Annotated[
        Count, Meta(description="Calls in a row that failed as if KSeF were down")
    ]
    source: Annotated[OutageSource | None, Meta(description="Who established the outage")]
    messages: Annotated[
        list[OutageMessage], Meta(description="What Latarnia, or the simulation, says of it")
    ]
    announcements: Annotated[
        list[OutageMessage], Meta(description="What Latarnia said last, though KSeF answers now")
    ]
    duty: Annotated[
        OutageDuty | None,
        Meta(description="By when offline invoices must be sent to KSeF, where Latarnia set it"),
    ]


class OutageAnswer(Answer, kw_only=True):
    environment: Annotated[Environment, Meta(description="KSeF environment")]
    outage: Outage


# -- Problems.


class KsefSaid(Answer, kw_only=True):
    http_status: Annotated[int, Meta(description="KSeF's HTTP status")]
    code: Annotated[int | None, Meta(description="KSeF's own code, if it gave one")]
    description: Annotated[str | None, Meta(description="KSeF's own words")]
    details: Annotated[
        list[str],
        Meta(
            description="What KSeF said beyond that, up to 16 KiB; or the rights of which one lacks"
        ),
    ]
    reason_code: Annotated[
        str | None,
        Meta(description="Of a 403, such as `missing-permissions` or `ip-not-allowed`"),
    ]
    trace_id: Annotated[str | None, Meta(description="KSeF's trace id, for its support")]


class Problem(Answer, kw_only=True):
    """RFC 9457, with the members of the contract."""

    type: Annotated[str, Meta(description="urn:ksef-proxy:problem:{code}")]
    title: Annotated[str, Meta(description="The code in words")]
    status: Annotated[int, Meta(description="The HTTP status")]
    detail: Annotated[str, Meta(description="What happened, for a person")]
    code: Annotated[ProblemCode, Meta(description="What happened, for a program")]
    request_id: Annotated[str, Meta(description="Stands in the log, and in X-Request-ID")]
    errors: Annotated[
        dict[str, list[str]] | UnsetType, Meta(description="What is wrong, by parameter")
    ] = UNSET
    retry_after: Annotated[
        Count | UnsetType,
        Meta(description="Seconds until asking again is worth it; also in Retry-After"),
    ] = UNSET
    ksef: KsefSaid | UnsetType = UNSET
    outage: Outage | UnsetType = UNSET


ALL = (
    SessionAnswer,
    FoundAnswer,
    EventsAnswer,
    KsefSessionAnswer,
    OutageAnswer,
    Problem,
)
