"""KSeF's limits on requests: groups of calls, each with three rolling windows.

Source: KSeF's documentation of its API limits, and `GET /rate-limits` for a company's own. They are
counted for a company and an address; pages of a list count each. One limit more holds for all calls
of an address together.
"""

from collections.abc import Mapping
from dataclasses import dataclass

WINDOWS = (1, 60, 3600)
"""Seconds of the three windows: a second, a minute, an hour."""

NO_LIMIT = -1
SESSION = "sessionMisc"
INVOICE_LIST = "sessionInvoiceList"
INVOICE = "invoiceStatus"
SESSION_LIST = "sessionList"
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Limits:
    """Calls of a group in a second, a minute, an hour; NO_LIMIT for none."""

    per_second: int
    per_minute: int
    per_hour: int

    def windows(self) -> tuple[tuple[int, int], ...]:
        """(seconds, calls) of each window that has a limit."""
        calls = (self.per_second, self.per_minute, self.per_hour)
        return tuple(
            (seconds, limit)
            for seconds, limit in zip(WINDOWS, calls, strict=True)
            if limit != NO_LIMIT
        )


PUBLISHED: Mapping[str, Limits] = {
    SESSION: Limits(10, 120, 1200),
    INVOICE_LIST: Limits(10, 20, 200),
    INVOICE: Limits(30, 120, 1200),
    SESSION_LIST: Limits(5, 10, 60),
    OTHER: Limits(10, 30, 120),
}

ADDRESS = Limits(75, NO_LIMIT, NO_LIMIT)
"""For all companies together; the calls of every replica are taken for those of one address."""
