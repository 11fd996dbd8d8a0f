"""What every service gets as its first arguments: the parts to work with, and whose data.

`create_app` builds the parts once; a place is made for each request or command.
"""

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
    """The shared objects of one application.

    `ksef` and `watches` have one entry for each environment. `quota_share` is the part of KSeF's
    quota that we may use, from 0 to 1. `places` (not to be confused with `Place`) limits how many
    threads may be busy with KSeF.
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
    """A company in one environment of KSeF: everything stored or asked for belongs to one."""

    company_nip: str
    environment: str

    @property
    def columns(self) -> dict[str, str]:
        """Its two columns, under the names that all tables and the vault use."""
        return {"company_nip": self.company_nip, "environment": self.environment}

    @property
    def log_fields(self) -> dict[str, str]:
        """The fields by which the log may name it: the NIP is masked."""
        return {
            "environment": self.environment,
            "company": telemetry.masked_nip(self.company_nip),
        }
