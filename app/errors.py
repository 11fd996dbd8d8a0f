"""Every way in which the service can fail, with its HTTP status and code.

Errors are raised where they are understood and turned into HTTP in one place
(`app.api.problems`). This module knows nothing of Flask.

    ProxyError
    ├── InvalidParameter        400 invalid_parameter
    ├── Unauthorized            401 unauthorized
    ├── Forbidden               403 forbidden
    │   └── SimulationForbidden 403 simulation_forbidden
    ├── Missing                 404
    │   ├── NoActiveKsefSession     no_active_ksef_session
    │   ├── NoKsefCredential        no_ksef_credential
    │   ├── SessionNotFound         session_not_found
    │   ├── UpoNotAvailable         upo_not_available
    │   │   └── NoUpoEver               the same, but waiting will not help
    │   └── InvoiceNotFound         invoice_not_found
    ├── OutageSimulation        409 outage_simulation
    ├── KsefOutage              409 ksef_outage
    ├── KsefFailure             502
    │   ├── KsefError               ksef_error
    │   │   └── SessionLost             it was shown before: that passes
    │   ├── KsefRateLimited         ksef_rate_limited
    │   ├── KsefUnreachable         ksef_unreachable
    │   ├── KsefInvalidResponse     ksef_invalid_response
    │   └── UpoIntegrity            upo_integrity
    └── Unavailable             503 unavailable
        ├── Busy                    no thread was free: nothing was done
        ├── BrokenOff               PostgreSQL ended the transaction: may be retried
        ├── Vetoed                  a rule of the ERP keeps its row from being changed
        └── NotWritable             the database cannot be written to
            └── NoRight                 the service's role lacks a right

    OperatorError: a command cannot be carried out; never reaches HTTP.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Self


@dataclass(frozen=True, slots=True)
class KsefAnswer:
    """What KSeF itself said when it refused: its HTTP status, its own code and words."""

    http_status: int
    code: int | None = None
    description: str | None = None
    details: Sequence[str] = field(default=())
    reason: str | None = None
    trace_id: str | None = None

    @property
    def rights(self) -> Sequence[str]:
        """The rights of which one is needed, where KSeF refuses for the lack of one."""
        return self.details if self.reason == "missing-permissions" else ()


class KsefHealth(Enum):
    """What a failed call tells about KSeF as a whole, beyond this one call."""

    UNKNOWN = "nothing: the trouble may be ours, or lies between us and KSeF"
    ANSWERING = "KSeF works: it refused this one call"
    DOWN = "refused, reset, timed out, 5xx, HTML: what is seen when KSeF is down"
    BLOCKED = "the firewall in front of KSeF blocks us"


class ProxyError(Exception):
    """A failure that is reported to the caller.

    `detail` is a sentence for a person; it never holds a secret, SQL, a stack trace or a host.
    `errors` are messages by parameter name, `retry_after` is in seconds, `ksef` is what KSeF said,
    and `outage` is the evidence of an outage (`services.outages.Evidence`), if it has its own.
    `reason` is for operators, in commands and the log, and never answered: it may name a host.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        errors: Mapping[str, Sequence[str]] | None = None,
        retry_after: int | None = None,
        ksef: KsefAnswer | None = None,
        outage: Any = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.retry_after = retry_after
        self.ksef = ksef
        self.outage = outage
        self.reason = reason

    @property
    def in_full(self) -> str:
        """`detail` with the reason and KSeF's own details, for an operator at a terminal."""
        sentences = [self.detail]
        if self.reason:
            sentences.append(f"Reason: {self.reason}")
        if self.ksef and self.ksef.details:
            sentences.append("KSeF: " + "; ".join(self.ksef.details))
        return " ".join(sentences)


class InvalidParameter(ProxyError):
    status, code, title = 400, "invalid_parameter", "Invalid parameter"


class Unauthorized(ProxyError):
    """The text is the same for all causes, so that it does not reveal which users exist."""

    status, code, title = 401, "unauthorized", "Unauthorized"

    def __init__(self, *, retry_after: int | None = None) -> None:
        super().__init__(
            "User name or password is missing or wrong (HTTP Basic); or, with retryAfter, too many"
            " logins failed, and for so long not even a right password is looked at.",
            retry_after=retry_after,
        )


class Forbidden(ProxyError):
    status, code, title = 403, "forbidden", "Forbidden"


class SimulationForbidden(Forbidden):
    code, title = "simulation_forbidden", "Production cannot be simulated"


class Missing(ProxyError):
    status = 404


class NoActiveKsefSession(Missing):
    code, title = "no_active_ksef_session", "No active KSeF session"


class NoKsefCredential(Missing):
    code, title = "no_ksef_credential", "No KSeF credential"


class SessionNotFound(Missing):
    code, title = "session_not_found", "Session not found in KSeF"


class UpoNotAvailable(Missing):
    code, title = "upo_not_available", "UPO not available"


class NoUpoEver(UpoNotAvailable):
    """The session is finished and none of its invoices was accepted: it never gets a UPO."""


class InvoiceNotFound(Missing):
    code, title = "invoice_not_found", "The session holds no such invoice"


class OutageSimulation(ProxyError):
    status, code, title = 409, "outage_simulation", "KSeF outage is simulated"


class KsefOutage(ProxyError):
    """What a KsefFailure is answered as while an outage is established; never raised itself."""

    status, code, title = 409, "ksef_outage", "KSeF is down"


# Of KSeF's statuses and codes, those that the same question gets again: a right or an address is
# refused, what is asked for is gone; the login's document or signature, or the input, is not valid,
# the person has died.
LASTING_STATUSES = frozenset({403, 410})
LASTING_CODES = frozenset({9101, 9102, 9103, 9105, 21308, 21405})


class KsefFailure(ProxyError):
    """A call to KSeF failed; `health` is what that tells about KSeF as a whole."""

    status = 502
    health: KsefHealth = KsefHealth.UNKNOWN

    def with_health(self, health: KsefHealth) -> Self:
        """This same error with its `health` set, so that it can be raised in one expression."""
        self.health = health
        return self

    @property
    def is_sign_of_outage(self) -> bool:
        """Whether it is answered as an outage, if one is established; not where KSeF answered."""
        return self.health is not KsefHealth.ANSWERING

    @property
    def may_pass(self) -> bool:
        """Whether asking again for the same, later, may be answered differently.

        A block by KSeF's firewall, a 403 too, ends by itself: it has its `retry_after`.
        """
        said = self.ksef
        lasting = said is not None and (
            said.http_status in LASTING_STATUSES or said.code in LASTING_CODES
        )
        return self.retry_after is not None or not lasting


class KsefError(KsefFailure):
    code, title = "ksef_error", "KSeF refused or failed"


class SessionLost(KsefError):
    """KSeF says that it knows no such session, which it has shown before: that passes."""

    @classmethod
    def of(cls, error: SessionNotFound, retry_after: int) -> Self:
        """The error in place of a SessionNotFound."""
        detail = "KSeF says that it knows no such session, which it has shown before."
        return cls(detail, ksef=error.ksef, retry_after=retry_after)


class KsefRateLimited(KsefFailure):
    health = KsefHealth.ANSWERING
    code, title = "ksef_rate_limited", "KSeF's quota is used up"


class KsefUnreachable(KsefFailure):
    code, title = "ksef_unreachable", "KSeF cannot be reached"


class KsefInvalidResponse(KsefFailure):
    health = KsefHealth.ANSWERING
    code, title = "ksef_invalid_response", "KSeF's answer breaks its contract"


class UpoIntegrity(KsefFailure):
    health = KsefHealth.ANSWERING
    code, title = "upo_integrity", "The UPO is not the one asked for"


class Unavailable(ProxyError):
    status, code, title = 503, "unavailable", "Service unavailable"


class Busy(Unavailable):
    """All threads that may serve this request are busy; nothing was done for it."""


class Vetoed(Unavailable):
    """A rule that the ERP made in the database (trigger, constraint) refuses to change its row."""


class BrokenOff(Unavailable):
    """PostgreSQL aborted the transaction (a deadlock, a shutdown): it may be tried again."""


class NotWritable(Unavailable):
    """The database answers but cannot be written to: it is read-only, its disk is full, a right is
    missing, or another transaction holds a lock for too long."""


class NoRight(NotWritable):
    """The role with which the service works lacks a right in the database, be it to read."""


class OperatorError(Exception):
    """A command cannot be carried out; the text is for the operator."""
