"""KSeF's rate limits: groups of calls, each limited in three rolling windows.

Source: KSeF's documentation of its API limits; `GET /rate-limits` gives a company's own. KSeF
counts calls by company and IP address; each page of a list is a call. Another limit (ADDRESS)
holds for all calls from one IP address together.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

WINDOWS = (1, 60, 3600)
"""The lengths of the three windows in seconds: a second, a minute, an hour."""

NO_LIMIT = -1
SESSION = "sessionMisc"
INVOICE_LIST = "sessionInvoiceList"
INVOICE = "invoiceStatus"
SESSION_LIST = "sessionList"
OTHER = "other"
UNGROUPED = "login"
"""Our name for the calls that KSeF counts by IP address only: logins, refreshes, public keys."""


Calls = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]


class Limits(msgspec.Struct, frozen=True, rename="camel"):
    """How many calls of a group are allowed in each window; NO_LIMIT if it is not limited."""

    per_second: Calls
    per_minute: Calls
    per_hour: Calls


PUBLISHED: Mapping[str, Limits] = {
    SESSION: Limits(10, 120, 1200),
    INVOICE_LIST: Limits(10, 20, 200),
    INVOICE: Limits(30, 120, 1200),
    SESSION_LIST: Limits(5, 10, 60),
    OTHER: Limits(10, 30, 120),
}

LimitsByGroup: Any = msgspec.defstruct(
    "LimitsByGroup", [(group, Limits | None, None) for group in PUBLISHED]
)
"""The answer of GET /rate-limits: the groups that we know; others are ignored."""

EACH_UNGROUPED = Limits(60, NO_LIMIT, NO_LIMIT)
"""For each of these calls, from one IP address."""

ADDRESS = Limits(75, NO_LIMIT, NO_LIMIT)
"""For all companies together. All replicas are assumed to call from the same IP address."""
