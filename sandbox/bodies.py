"""The JSON that clients send to KSeF; `access.read_body` reads it.

A member that KSeF does not know is ignored; one that is missing or wrong is refused with 21405.
"""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from sandbox import identifiers
from sandbox.identifiers import Sha256

MAX_PACKAGE: Final = 5_000_000_000
_BYTE: Final = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IP4: Final = rf"({_BYTE}\.){{3}}{_BYTE}"

Size = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Address = Annotated[str, Meta(pattern=rf"\A{_IP4}\Z")]
AddressRange = Annotated[str, Meta(pattern=rf"\A{_IP4}-{_IP4}\Z")]
AddressMask = Annotated[str, Meta(pattern=rf"\A{_IP4}/([12]?[0-9]|3[0-2])\Z")]
TenAtMost = Meta(max_length=10)


class Body(Struct, rename="camel"):
    """Base of all bodies."""


class Context(Body):
    """For whom somebody logs in. Of KSeF's types of identifiers only a NIP is known here."""

    type: Literal["Nip"]
    value: Annotated[str, Meta(pattern=rf"\A{identifiers.NIP}\Z")]


class AllowedIps(Body):
    """From where somebody may call after a login; it is not enforced."""

    ip4_addresses: Annotated[list[Address], TenAtMost] | None = None
    ip4_ranges: Annotated[list[AddressRange], TenAtMost] | None = None
    ip4_masks: Annotated[list[AddressMask], TenAtMost] | None = None


class AuthorizationPolicy(Body):
    """What a login restricts."""

    allowed_ips: AllowedIps | None = None


class TokenLogin(Body):
    """POST /auth/ksef-token."""

    challenge: Annotated[str, Meta(min_length=36, max_length=36)]
    context_identifier: Context
    encrypted_token: bytes
    public_key_id: Sha256 | None = None
    authorization_policy: AuthorizationPolicy | None = None


class FormCode(Struct, frozen=True, rename="camel"):
    """A kind of invoice."""

    system_code: str
    schema_version: str
    value: str


class Encryption(Body):
    """With what the invoices of a session are encrypted."""

    encrypted_symmetric_key: bytes
    initialization_vector: Annotated[bytes, Meta(min_length=16, max_length=16)]
    public_key_id: Sha256 | None = None


class OnlineSessionBody(Body):
    """POST /sessions/online."""

    form_code: FormCode
    encryption: Encryption


class FilePart(Body):
    """A part of a package, as it is announced."""

    ordinal_number: int
    file_size: Size
    file_hash: Sha256


class BatchFile(Body):
    """The package of a batch session; size and hash are those of the whole archive."""

    file_size: Annotated[int, Meta(ge=1, le=MAX_PACKAGE)]
    file_hash: Sha256
    file_parts: list[FilePart]
    compression_type: Literal["Zip", "TarGz"] | None = None


class BatchSessionBody(OnlineSessionBody, kw_only=True):
    """POST /sessions/batch."""

    batch_file: BatchFile
    offline_mode: bool = False


class InvoiceBody(Body):
    """POST /sessions/online/{referenceNumber}/invoices."""

    invoice_hash: Sha256
    invoice_size: Size
    encrypted_invoice_hash: Sha256
    encrypted_invoice_size: Size
    encrypted_invoice_content: bytes
    offline_mode: bool = False
    hash_of_corrected_invoice: Sha256 | None = None
