"""What `app.upo.signature` says, and the PDF tells: alone, because who draws need not verify."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

State = Literal["valid", "unknown_signer", "unverifiable", "unsigned", "broken"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found out about a signature.

    `valid`: everything fits, and the certificate is a trusted signer's, valid at `signed_at` ·
    `unknown_signer`: the same, but the certificate is none of the trusted ones, or had ended ·
    `unverifiable`: signed in a way that is not known here · `unsigned` · `broken`: it does not fit.

    `signer` is the common name of the certificate's subject and its organisation's identifier;
    `certificate_sha256` is in capital hex digits. All three are set where the signature fits.
    `reason` is a sentence for people, where it is not plain; it is not part of the verdict.
    """

    state: State
    signer: str | None = None
    signed_at: datetime | None = None
    certificate_sha256: str | None = None
    reason: str = field(default="", compare=False)
