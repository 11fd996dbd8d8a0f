"""Up to when every session of a company is known."""

from dataclasses import dataclass
from datetime import datetime

from app.account import Account


@dataclass(frozen=True, slots=True)
class Known:
    """Every session that KSeF lists of this time is kept, with its invoices."""

    since: datetime
    until: datetime


def known(account: Account) -> Known | None:
    """For which time all sessions are known; None if they are not followed."""
    del account
    return None
