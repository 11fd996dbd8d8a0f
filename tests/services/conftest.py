"""What tests of kept answers share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from app.services.parts import Parts, Place
from app.services.status import Snapshot, check_session
from tests.service import Company

NIP = "5265877635"
STATUS = "GET /{environment}/v2/sessions/{reference}"
LISTING = f"{STATUS}/invoices"
INVOICE = f"{STATUS}/invoices/{{invoice_reference}}"
SESSIONS = "GET /{environment}/v2/sessions"


@dataclass(frozen=True)
class Asking:
    """A company that asks after its sessions, and the clock of what is kept for it."""

    parts: Parts
    place: Place
    control: Any
    database: Any

    def check(self, session: Any) -> Snapshot:
        return check_session(self.parts, self.place, session.reference_number)

    def counts(self) -> dict[str, int]:
        """KSeF's calls since the last look."""
        counts: dict[str, int] = self.control.call_counts()
        self.control.clear_calls()
        return counts

    def age(self, seconds: float, session: Any = None) -> None:
        """Make what is kept older, as if so many seconds had passed."""
        only = f"WHERE reference_number = '{session.reference_number}'" if session else ""
        self.database.execute(
            "UPDATE kept_sessions SET "
            + ", ".join(
                f"{name} = {name} - interval '{seconds} seconds'"
                for name in ("checked_at", "asked_at", "changed_at", "listed_at", "wanted_at")
            )
            + f" {only}"
        )

    def seed(self, **order: Any) -> Any:
        session = self.control.seed_session("test", self.place.company_nip, **order)
        self.control.clear_calls()
        return session


@pytest.fixture
def asking(
    make_company: Callable[..., Company], parts: Parts, control: Any, database: Any
) -> Asking:
    return Asking(parts, make_company(NIP, environments=("test",)).place(), control, database)
