"""GET /invoices/{environment}/status/{referenceNumber}/{ksefNumber}/upo"""

import base64
import hashlib
import io
import zipfile
from collections.abc import Sequence
from typing import Any

from flask import Response, request

from app import errors
from app.api import openapi
from app.api.blueprint import Blueprint, takes
from app.api.responses import conditional, is_known, json_response, rfc3339
from app.api.schemas import SessionPath, UpoPath, UpoQuery
from app.api.upo_answers import STATES, SessionUpoAnswer, UpoAnswer, UpoPageAnswer, UpoSignature
from app.context import account, service
from app.services.upo.fetch import DocType, UpoFile, fetch_session_upo, fetch_upo

MEDIA_TYPES = {"xml": "application/xml", "pdf": "application/pdf"}
ZIP = "application/zip"
Pages = Sequence[tuple[str, UpoFile]]  # of a collective UPO, each with its reference number
_NAMES_OF_JSON = ("application/json", "application/*", "*/*")
_BINARY = {"type": "string", "format": "binary"}
_UNCHANGED = "The document is the one that If-None-Match names"
_DOCUMENTS = {"application/pdf": _BINARY, "application/xml": _BINARY}
_HEADERS = (*openapi.CACHED, "Content-Disposition", "UPO-Signature")
_PROBLEMS = (
    errors.NoActiveKsefSession,
    errors.SessionNotFound,
    errors.UpoNotAvailable,
    errors.UpoIntegrity,
    *openapi.KSEF_ASKED,
)

blueprint = Blueprint("upo", description="The UPO, KSeF's official receipt of an invoice")


@blueprint.route(
    "/invoices/<environment>/status/<referenceNumber>/<ksefNumber>/upo",
)
@takes(UpoPath, UpoQuery)
@blueprint.answers(
    UpoAnswer,
    "The UPO: in JSON, or the document itself where `Accept` names its own type",
    *_HEADERS,
    examples=("upo-pdf",),
    also=_DOCUMENTS,
)
@blueprint.answers(None, _UNCHANGED, *openapi.CACHED, status=304)
@blueprint.problems(errors.InvoiceNotFound, *_PROBLEMS)
def invoice_upo(path: dict[str, str], query: dict[str, Any]) -> Response:
    """The UPO of an invoice: KSeF's signed XML, unchanged, or a PDF of it.

    It is handed out only if KSeF's hash fits, it is of the session, the company and the KSeF
    number asked for, and its signature is not broken (`signature` says what was found); then it is
    kept, and given from there ever after.

    Without an `Accept` that names the document's own type (`application/pdf` with `docType=pdf`,
    `application/xml` with `docType=xml`; a wildcard does not) the answer is JSON, the document in
    Base64. The XML is the official document; the PDF shows it.
    """
    file = fetch_upo(
        account(path["environment"]),
        path["reference_number"],
        path["ksef_number"],
        query["doc_type"],
    )
    return _answer(file, path["reference_number"], path["ksef_number"])


@blueprint.route("/invoices/<environment>/status/<referenceNumber>/upo")
@takes(SessionPath, UpoQuery)
@blueprint.answers(
    SessionUpoAnswer,
    "The pages of the collective UPO: in JSON, a ZIP, or the document itself if it is one page",
    *_HEADERS,
    examples=("session-upo-xml",),
    also={ZIP: _BINARY, **_DOCUMENTS},
)
@blueprint.answers(None, _UNCHANGED, *openapi.CACHED, status=304)
@blueprint.problems(*_PROBLEMS)
def session_upo(path: dict[str, str], query: dict[str, Any]) -> Response:
    """The collective UPO of a session, page by page.

    KSeF signs each page by itself (up to 10,000 invoices), so that they cannot be joined. There is
    none before the session is final and accepted.

    With an `Accept` that names `application/zip` the answer is a ZIP of all pages. If there is one
    page, it is the document itself with an `Accept` that names the document's own type
    (`application/pdf` with `docType=pdf`, `application/xml` with `docType=xml`). A wildcard names
    none of these. In all other cases the answer is JSON, the documents in Base64.
    """
    reference_number = path["reference_number"]
    doc_type: DocType = query["doc_type"]
    pages = fetch_session_upo(account(path["environment"]), reference_number, doc_type)
    own = [MEDIA_TYPES[doc_type]] if len(pages) == 1 else []
    if wanted := _named_in_accept(ZIP, *own):
        return zipped(reference_number, pages) if wanted == ZIP else only_page(pages)
    tag = _tag(pages, "json")
    if is_known(tag):
        return cacheable(Response(), tag)
    response = json_response(
        SessionUpoAnswer(
            reference_number=reference_number,
            doc_type=doc_type,
            content_type=MEDIA_TYPES[doc_type],
            pages=[
                UpoPageAnswer(
                    reference_number=page,
                    file_name=_name_of_page(page, doc_type),
                    content=base64.b64encode(file.content).decode(),
                    signature=_signature(file),
                )
                for page, file in pages
            ],
        )
    )
    return cacheable(response, tag)


def zipped(reference_number: str, pages: Pages) -> Response:
    """All pages of a session's collective UPO in a ZIP, to download."""
    tag = _tag(pages, "zip")
    response = Response(b"" if is_known(tag) else _packed(pages), content_type=ZIP)
    response.headers["Content-Disposition"] = f'attachment; filename="{reference_number}-upo.zip"'
    states = (file.signature.state for _, file in pages)
    response.headers["UPO-Signature"] = max(states, key=STATES.index)
    return cacheable(response, tag)


def only_page(pages: Pages, disposition: str = "attachment") -> Response:
    """The document of a collective UPO of one page, to download, or with `inline` to view."""
    [(page, file)] = pages
    return document(file, _name_of_page(page, file.doc_type), disposition)


def _packed(pages: Pages) -> bytes:
    """The same bytes each time: the files in it have no time of their own."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as files:
        for page, file in pages:
            entry = zipfile.ZipInfo(_name_of_page(page, file.doc_type))
            entry.external_attr = 0o644 << 16  # else unpacked files could not be read on Unix
            files.writestr(entry, file.content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _name_of_page(page: str, doc_type: DocType) -> str:
    return f"{page}-upo.{doc_type}"


def _tag(pages: Pages, form: str) -> str:
    tags = "".join(file.sha256 + _verdict_tag(file) for _, file in pages)
    return f"{hashlib.sha256(tags.encode()).hexdigest()}-{form}"


def document(file: UpoFile, name: str, disposition: str = "attachment") -> Response:
    """The document itself under this name, to download, or with `inline` to view."""
    content = b"" if is_known(file.sha256) else file.content
    response = Response(content, content_type=MEDIA_TYPES[file.doc_type])
    response.headers["Content-Disposition"] = f'{disposition}; filename="{name}"'
    response.headers["UPO-Signature"] = file.signature.state
    return cacheable(response, file.sha256)


def cacheable(response: Response, tag: str) -> Response:
    """The response with this ETag, for private caches; a 304 if the caller has it already."""
    response.set_etag(tag)
    response.headers["Cache-Control"] = "private, no-cache"
    response.headers["Vary"] = "Accept, Authorization"
    return conditional(response)


def _answer(file: UpoFile, reference_number: str, ksef_number: str) -> Response:
    media_type = MEDIA_TYPES[file.doc_type]
    name = f"{ksef_number}-upo.{file.doc_type}"
    if _named_in_accept(media_type):
        return document(file, name)
    tag = f"{file.sha256}{_verdict_tag(file)}-json"
    if is_known(tag):
        return cacheable(Response(), tag)
    response = json_response(
        UpoAnswer(
            ksef_number=ksef_number,
            reference_number=reference_number,
            doc_type=file.doc_type,
            content_type=media_type,
            content=base64.b64encode(file.content).decode(),
            file_name=name,
            signature=_signature(file),
        )
    )
    return cacheable(response, tag)


def _verdict_tag(file: UpoFile) -> str:
    """What a verdict other than `valid` adds to the tag of an answer that tells it."""
    state = file.signature.state
    return "" if state == "valid" else f"-{state}"


def _signature(file: UpoFile) -> UpoSignature:
    found = file.signature
    return UpoSignature(
        state=found.state,
        signer=found.signer,
        signed_at=rfc3339(found.signed_at, service().settings.response_timezone),
        certificate_sha256=found.certificate_sha256,
    )


def _named_in_accept(*media_types: str) -> str | None:
    """Which of these Accept names with the most weight; None if JSON has as much or more.

    Clients of HTTP often name everything that they could read: a wildcard stands for JSON, and
    never for one of these.
    """
    weights = {value.partition(";")[0].lower(): q for value, q in request.accept_mimetypes}
    of_json = next((weights[name] for name in _NAMES_OF_JSON if name in weights), 0)
    named = max(media_types, key=lambda media_type: weights.get(media_type, 0))
    return named if weights.get(named, 0) > of_json else None
