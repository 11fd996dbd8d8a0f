"""What tests of kept answers share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from app.account import Account
from app.service import Service
from app.services.sessions.check import check_session
from app.services.sessions.snapshot import Snapshot
from tests.service import Company

NIP = "5265877635"
STATUS = "GET /{environment}/v2/sessions/{reference}"
LISTING = f"{STATUS}/invoices"
INVOICE = f"{STATUS}/invoices/{{invoice_reference}}"
SESSIONS = "GET /{environment}/v2/sessions"


@dataclass(frozen=True)
class Asking:
    """A company that asks after its sessions, and the clock of what is kept for it."""

    service: Service
    control: Any
    database: Any

    @property
    def account(self) -> Account:
        """The company's, as a request has it: each its own."""
        return self.service.account(NIP, "test")

    def check(self, session: Any) -> Snapshot:
        answer = check_session(self.account, session.reference_number)
        assert isinstance(answer, Snapshot)
        return answer

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
        session = self.control.seed_session("test", NIP, **order)
        self.control.clear_calls()
        return session


@pytest.fixture
def asking(
    make_company: Callable[..., Company], service: Service, control: Any, database: Any
) -> Asking:
    make_company(NIP, environments=("test",))
    return Asking(service, control, database)
