"""What the control plane can change about the sandbox's behaviour."""

from typing import Annotated, Any, Final

import msgspec

NO_LIMIT: Final = -1
Calls = Annotated[int, msgspec.Meta(ge=NO_LIMIT, le=10**9)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=10**9)]
"""Thirty years at most, so that no time leads beyond the calendar."""
Scale = Annotated[float, msgspec.Meta(gt=0, le=10**6)]


class Limit(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How many calls a group may get in a second, a minute and an hour."""

    per_second: Calls = NO_LIMIT
    per_minute: Calls = NO_LIMIT
    per_hour: Calls = NO_LIMIT


LIMITS: Final[dict[str, Limit]] = {
    "onlineSession": Limit(10, 30, 120),
    "onlineSessionClose": Limit(20, 60, 240),
    "batchSession": Limit(10, 20, 60),
    "batchSessionClose": Limit(20, 40, 120),
    "invoiceSend": Limit(10, 30, 180),
    "invoiceStatus": Limit(30, 120, 1200),
    "sessionList": Limit(5, 10, 60),
    "sessionInvoiceList": Limit(10, 20, 200),
    "sessionMisc": Limit(10, 120, 1200),
    "invoiceMetadata": Limit(8, 16, 20),
    "invoiceExport": Limit(8, 16, 20),
    "invoiceExportStatus": Limit(10, 60, 600),
    "invoiceDownload": Limit(8, 16, 64),
    "collectiveIdentifier": Limit(20, 120, 240),
    "other": Limit(10, 30, 120),
    "anonymous": Limit(60),
    "global": Limit(75),
}
"""KSeF's own; see GET /rate-limits."""


class Settings(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """What docs/sandbox.md describes under the camelCase names.

    All durations are seconds of sandbox time, but latency and jitter, which are real time.
    """

    access_token_seconds: Seconds = 900.0
    refresh_token_seconds: Seconds = 7 * 86400.0
    operation_token_seconds: Seconds = 45 * 60.0
    challenge_seconds: Seconds = 600.0
    auth_polls: Annotated[int, msgspec.Meta(ge=0)] = 1
    auth_seconds: Seconds = 0.0
    invoice_seconds: Seconds = 1.0
    session_seconds: Seconds = 1.0
    permanent_storage_seconds: Seconds = 2.0
    link_seconds: Seconds = 72 * 3600.0
    upo_page_size: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    latency_seconds: Seconds = 0.0
    jitter_seconds: Seconds = 0.0
    clock_rate: Scale = 1.0
    quota: bool = False
    quota_scale: Scale = 1.0
    limits: dict[str, Limit] = {}

    def __post_init__(self) -> None:
        if unknown := self.limits.keys() - LIMITS.keys():
            raise ValueError(
                f"limits: no group {', '.join(unknown)}; there are {', '.join(LIMITS)}"
            )

    def changed(self, changes: dict[str, Any]) -> "Settings":
        """The settings with camelCase `changes`; msgspec.ValidationError says what is wrong."""
        return msgspec.convert(msgspec.to_builtins(self) | changes, Settings)
