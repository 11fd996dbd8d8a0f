"""What the services work with. Put together in `create_app`, handed to each of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from app import telemetry
from app.crypto import Vault
from app.db.pool import Database
from app.ksef.gateway import Gateway
from app.ksef.watch import Watch
from app.services.passwords import Passwords
from app.services.places import Places
from app.settings import Timing


@dataclass(frozen=True, slots=True)
class Parts:
    """`ksef` and `watches`: one an environment; `quota_share`: our part of KSeF's quota (0 to 1);
    `places`: for threads that ask KSeF, or wait for one that does.
    """

    db: Database
    ksef: Mapping[str, Gateway]
    vault: Vault
    passwords: Passwords
    timing: Timing
    quota_share: float
    places: Places
    watches: Mapping[str, Watch]


@dataclass(frozen=True, slots=True)
class Place:
    """Whose KSeF, and which one: everything stored and asked for belongs to one of these."""

    company_nip: str
    environment: str

    @property
    def columns(self) -> dict[str, str]:
        """Its two columns, as every table and every sealed value of it has them."""
        return {"company_nip": self.company_nip, "environment": self.environment}

    @property
    def log_fields(self) -> dict[str, str]:
        """As the log may name it."""
        return {
            "environment": self.environment,
            "company": telemetry.masked_nip(self.company_nip),
        }
