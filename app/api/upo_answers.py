"""What is answered about UPOs: see `answers`."""

from typing import Annotated

from msgspec import Meta

from app.api.answers import Answer, Moment, choice

Base64 = Annotated[str, Meta(extra_json_schema={"format": "byte", "contentEncoding": "base64"})]
DocType = Annotated[str, choice("DocType", "xml", "pdf")]
DocumentMediaType = Annotated[
    str, choice("DocumentMediaType", "application/xml", "application/pdf")
]
STATES = ("valid", "unknown_signer", "unverifiable", "unsigned")
"""What may be said of a signature, the most certain first."""
SignatureState = Annotated[str, choice("SignatureState", *STATES)]


class UpoSignature(Answer, kw_only=True):
    state: Annotated[
        SignatureState,
        Meta(
            description="valid: all fits, by a signer trusted here; unknown_signer: all fits, by"
            " another; unverifiable: signed in a way that is not known here; unsigned"
        ),
    ]
    signer: Annotated[
        str | None,
        Meta(description="Name and organisation identifier in the signer's certificate"),
    ]
    signed_at: Annotated[Moment | None, Meta(description="When it was signed, as the signer says")]
    certificate_sha256: Annotated[
        Annotated[str, Meta(pattern="^[0-9A-F]{64}$")] | None,
        Meta(description="SHA-256 of the signer's certificate"),
    ]


class UpoAnswer(Answer, kw_only=True):
    ksef_number: Annotated[str, Meta(description="The KSeF number asked for")]
    reference_number: Annotated[str, Meta(description="The session asked for")]
    doc_type: Annotated[DocType, Meta(description="The document's format")]
    content_type: Annotated[DocumentMediaType, Meta(description="Its media type")]
    content: Annotated[Base64, Meta(description="The document, Base64")]
    file_name: Annotated[str, Meta(description="A name to store it under")]
    signature: Annotated[UpoSignature, Meta(description="The Ministry's signature on the XML")]


class UpoPageAnswer(Answer, kw_only=True):
    reference_number: Annotated[str, Meta(description="Reference number of the page")]
    file_name: Annotated[str, Meta(description="A name to store it under")]
    content: Annotated[Base64, Meta(description="The document, Base64")]
    signature: Annotated[UpoSignature, Meta(description="The Ministry's signature on the XML")]


class SessionUpoAnswer(Answer, kw_only=True):
    reference_number: Annotated[str, Meta(description="The session asked for")]
    doc_type: Annotated[DocType, Meta(description="The document's format")]
    content_type: Annotated[DocumentMediaType, Meta(description="Its media type")]
    pages: Annotated[list[UpoPageAnswer], Meta(description="Its pages, in order")]


ALL = (UpoAnswer, SessionUpoAnswer)
