"""Of what time all sessions of a company are known, without asking KSeF; see `events.follow`."""

from dataclasses import dataclass
from datetime import datetime

from app.account import Account
from app.db.queries import follow as queries


@dataclass(frozen=True, slots=True)
class Known:
    """Each session in which anything happened between these two moments is kept, with all invoices
    that it had then. `until` is None while that is true of no moment.
    """

    since: datetime
    until: datetime | None


def known(account: Account) -> Known | None:
    """What is known of the company's sessions without asking; None if it was never followed."""
    row = account.db.run(queries.get, **account.columns)
    return Known(row.known_since, row.known_until) if row else None
