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
    │   │   └── NoUpoEver               the same, and it will not come
    │   └── InvoiceNotFound         invoice_not_found
    ├── OutageSimulation        409 outage_simulation
    ├── KsefOutage              409 ksef_outage
    ├── KsefFailure             502
    │   ├── KsefError               ksef_error
    │   ├── KsefRateLimited         ksef_rate_limited
    │   ├── KsefUnreachable         ksef_unreachable
    │   ├── KsefInvalidResponse     ksef_invalid_response
    │   └── UpoIntegrity            upo_integrity
    └── Unavailable             503 unavailable
        ├── Busy                    the same, before anything was done
        ├── BrokenOff               the same, where repeating did not help
        └── NotWritable

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


class Means(Enum):
    """What a failed call says of KSeF as a whole."""

    NOTHING = "our own trouble, or none of KSeF's answers"
    ANSWERS = "KSeF answers: the failure is of this question alone"
    DOWN = "refused, reset, out of time, 5xx, HTML: so it looks when KSeF is down"
    BLOCKED = "the firewall before KSeF blocks us"


class ProxyError(Exception):
    """A failure that a caller is told about.

    `detail` is a sentence for a person; it never holds a secret, SQL, a stack trace or a host.
    `retry_after` is in seconds.
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
        outage: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.retry_after = retry_after
        self.ksef = ksef
        self.outage = outage


class InvalidParameter(ProxyError):
    status, code, title = 400, "invalid_parameter", "Invalid parameter"


class Unauthorized(ProxyError):
    """One text for all causes, so that nobody learns which users there are."""

    status, code, title = 401, "unauthorized", "Unauthorized"

    def __init__(self, *, retry_after: int | None = None) -> None:
        super().__init__(
            "User name or password is missing or wrong (HTTP Basic).", retry_after=retry_after
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
    """The session is finished, and nothing in it was accepted."""


class InvoiceNotFound(Missing):
    code, title = "invoice_not_found", "The session holds no such invoice"


class OutageSimulation(ProxyError):
    status, code, title = 409, "outage_simulation", "KSeF outage is simulated"


class KsefOutage(ProxyError):
    """A call to KSeF failed, and the outage is established; `outage` is the evidence."""

    status, code, title = 409, "ksef_outage", "KSeF is down"


class KsefFailure(ProxyError):
    """A call to KSeF did not bring what was asked for."""

    status = 502
    means: Means = Means.NOTHING

    def meaning(self, means: Means) -> Self:
        """This error, with what it says of KSeF as a whole."""
        self.means = means
        return self


class KsefError(KsefFailure):
    code, title = "ksef_error", "KSeF refused or failed"


class KsefRateLimited(KsefFailure):
    code, title = "ksef_rate_limited", "KSeF's quota is used up"


class KsefUnreachable(KsefFailure):
    code, title = "ksef_unreachable", "KSeF cannot be reached"


class KsefInvalidResponse(KsefFailure):
    code, title = "ksef_invalid_response", "KSeF's answer breaks its contract"


class UpoIntegrity(KsefFailure):
    code, title = "upo_integrity", "The UPO is not the one asked for"


class Unavailable(ProxyError):
    status, code, title = 503, "unavailable", "Service unavailable"


class Busy(Unavailable):
    """Too many ask at once."""


class BrokenOff(Unavailable):
    """PostgreSQL ended a transaction for reasons of its own, a deadlock or a shutdown: it may be
    done again."""


class NotWritable(Unavailable):
    """The database answers, and takes nothing: read-only, its disk full, a right is missing, or
    somebody else holds what would be changed."""


class OperatorError(Exception):
    """A command cannot be carried out; the text is for the operator."""
