"""A company in one environment of KSeF, with all that works for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app import telemetry
from app.crypto import SealError, Vault
from app.db.pool import Database
from app.ksef.client import Client
from app.ksef.metered import Metered
from app.services.replicas.places import Places
from app.settings import Timing

if TYPE_CHECKING:
    from app.services.replicas.quota import Calls


@dataclass(slots=True, eq=False)
class Account:
    """Everything that is stored, or asked of KSeF, belongs to one; each request has its own.

    `quota_share` is the part of KSeF's quota that its calls may use, from 0 to 1; a call waits for
    quota for at most `patience` seconds. `calls` are its calls in KSeF's quota; `http` sends calls
    without its token, `ksef` with it.
    `upo_signers`: see `verify_signature`. `ksef_host`: which UPOs are fetched from.
    `live`: a caller waits for the answer, who may ask for other sessions as well.
    """

    company_nip: str
    environment: str
    db: Database
    vault: Vault
    timing: Timing
    places: Places
    quota_share: float
    patience: float
    upo_signers: Sequence[str]
    ksef_host: str
    live: bool = True
    calls: "Calls" = field(init=False)
    http: Metered = field(init=False)
    ksef: Client = field(init=False)
    columns: dict[str, str] = field(init=False)
    """Its two columns, under the names that all tables and the vault use."""

    def __post_init__(self) -> None:
        self.columns = {"company_nip": self.company_nip, "environment": self.environment}

    @property
    def log_fields(self) -> dict[str, str]:
        """The fields by which the log may name it: the NIP is masked."""
        return {
            "environment": self.environment,
            "company": telemetry.masked_nip(self.company_nip),
        }

    def seal(self, secret: str, purpose: str) -> bytes:
        """A secret of this account, encrypted; it opens for this account and purpose only."""
        return self.vault.seal(secret, **self.columns, purpose=purpose)

    def seal_all(self, secrets: Sequence[str], purpose: str) -> list[bytes]:
        """Many secrets of this account, each encrypted by itself."""
        return self.vault.seal_all(secrets, **self.columns, purpose=purpose)

    def opened(self, sealed: bytes, purpose: str) -> str | None:
        """What `seal` sealed; None if none of our keys opens it (another replica's may)."""
        try:
            return self.vault.open(sealed, **self.columns, purpose=purpose)
        except SealError as error:
            telemetry.warning(
                "a stored secret does not open",
                reason=str(error),
                purpose=purpose,
                **self.log_fields,
            )
            return None
