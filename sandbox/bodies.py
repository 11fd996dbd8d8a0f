"""The JSON that clients send to KSeF; `access.read_body` reads it.

A member that KSeF does not know is ignored; one that is missing or wrong is refused with 21405.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from sandbox import identifiers

MAX_PACKAGE: Final = 5_000_000_000

Sha256 = Annotated[str, Meta(min_length=44, max_length=44)]


class Body(Struct, rename="camel"):
    """Base of all bodies."""


class Context(Body):
    """For whom somebody logs in. Of KSeF's types of identifiers only a NIP is known here."""

    type: Literal["Nip"]
    value: Annotated[str, Meta(pattern=rf"\A{identifiers.NIP}\Z")]


class TokenLogin(Body):
    """POST /auth/ksef-token."""

    challenge: str
    context_identifier: Context
    encrypted_token: bytes
    public_key_id: str | None = None


class FormCode(Struct, frozen=True, rename="camel"):
    """A kind of invoice."""

    system_code: str
    schema_version: str
    value: str


class Encryption(Body):
    """With what the invoices of a session are encrypted."""

    encrypted_symmetric_key: bytes
    initialization_vector: Annotated[bytes, Meta(min_length=16, max_length=16)]
    public_key_id: str | None = None


class OnlineSessionBody(Body):
    """POST /sessions/online."""

    form_code: FormCode
    encryption: Encryption


class FilePart(Body):
    """A part of a package, as it is announced."""

    ordinal_number: int
    file_size: Annotated[int, Meta(ge=1)]
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
    offline_mode: bool | None = None


class InvoiceBody(Body):
    """POST /sessions/online/{referenceNumber}/invoices."""

    invoice_hash: Sha256
    invoice_size: int
    encrypted_invoice_hash: Sha256
    encrypted_invoice_size: int
    encrypted_invoice_content: bytes
    offline_mode: bool | None = None
