"""GET /invoices/{environment}/status/{referenceNumber}/{ksefNumber}/upo"""

import base64
import hashlib

from flask import Response, request

from app import errors
from app.api import openapi
from app.api.blueprint import Blueprint
from app.api.responses import conditional, is_known, json_response, rfc3339
from app.api.schemas import SessionPath, UpoPath, UpoQuery
from app.api.upo_answers import SessionUpoAnswer, UpoAnswer, UpoPageAnswer, UpoSignature
from app.context import account, service
from app.services.upo.fetch import DocType, UpoFile, fetch_session_upo, fetch_upo

MEDIA_TYPES = {"xml": "application/xml", "pdf": "application/pdf"}
_NAMES_OF_JSON = ("application/json", "application/*", "*/*")
_BINARY = {"type": "string", "format": "binary"}
_UNCHANGED = "The document is the one that If-None-Match names"
_DOCUMENT = "The UPO: in JSON, or the document itself where `Accept` names its own type"
_RAW = ("Content-Disposition", "UPO-Signature")
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
    parameters=[openapi.IF_NONE_MATCH],
)
@blueprint.takes(UpoPath, UpoQuery)
@blueprint.answers(UpoAnswer, _DOCUMENT, *openapi.CACHED, examples=("upo-pdf",))
@blueprint.answers(_BINARY, _DOCUMENT, *_RAW, content_type="application/pdf")
@blueprint.answers(_BINARY, _DOCUMENT, *_RAW, content_type="application/xml")
@blueprint.answers(None, _UNCHANGED, *openapi.CACHED, status=304)
@blueprint.problems(errors.InvoiceNotFound, *_PROBLEMS)
def invoice_upo(path: dict[str, str], query: dict[str, str], **_url: str) -> Response:
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
        _doc_type(query),
    )
    return _answer(file, path["reference_number"], path["ksef_number"])


@blueprint.route(
    "/invoices/<environment>/status/<referenceNumber>/upo", parameters=[openapi.IF_NONE_MATCH]
)
@blueprint.takes(SessionPath, UpoQuery)
@blueprint.answers(
    SessionUpoAnswer,
    "The pages of the collective UPO",
    *openapi.CACHED,
    examples=("session-upo-xml",),
)
@blueprint.answers(None, _UNCHANGED, *openapi.CACHED, status=304)
@blueprint.problems(*_PROBLEMS)
def session_upo(path: dict[str, str], query: dict[str, str], **_url: str) -> Response:
    """The collective UPO of a session, page by page.

    KSeF signs each page by itself (up to 10,000 invoices), so that they cannot be joined. There is
    none before the session is final and accepted.
    """
    reference_number = path["reference_number"]
    doc_type = _doc_type(query)
    pages = fetch_session_upo(account(path["environment"]), reference_number, doc_type)
    tags = "".join(file.sha256 + _verdict_tag(file) for _, file in pages)
    tag = f"{hashlib.sha256(tags.encode()).hexdigest()}-json"
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
                    file_name=f"{page}-upo.{doc_type}",
                    content=base64.b64encode(file.content).decode(),
                    signature=_signature(file),
                )
                for page, file in pages
            ],
        )
    )
    return cacheable(response, tag)


def _doc_type(query: dict[str, str]) -> DocType:
    return "pdf" if query["doc_type"] == "pdf" else "xml"


def cacheable(response: Response, tag: str) -> Response:
    """The response with this ETag, for private caches; a 304 if the caller has it already."""
    response.set_etag(tag)
    response.headers["Cache-Control"] = "private, no-cache"
    response.headers["Vary"] = "Accept, Authorization"
    return conditional(response)


def _answer(file: UpoFile, reference_number: str, ksef_number: str) -> Response:
    media_type = MEDIA_TYPES[file.doc_type]
    name = f"{ksef_number}-upo.{file.doc_type}"
    if _document_is_wanted(media_type):
        content = b"" if is_known(file.sha256) else file.content
        response = Response(content, content_type=media_type)
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        response.headers["UPO-Signature"] = file.signature.state
        return cacheable(response, file.sha256)
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


def _document_is_wanted(media_type: str) -> bool:
    """Whether Accept names the document's own media type, and JSON not as much or more.

    Clients of HTTP often name everything that they could read: a wildcard stands for JSON, and
    never for the document.
    """
    weights = {value.partition(";")[0].lower(): q for value, q in request.accept_mimetypes}
    of_json = next((weights[name] for name in _NAMES_OF_JSON if name in weights), 0)
    return weights.get(media_type, 0) > of_json
