"""UPO documents: the API's routes to them, and the download links that need no bearer."""

import hmac
import re
import secrets
from datetime import datetime

from flask import Response, request

from sandbox import identifiers, upo
from sandbox.access import check_reference, environment, find_session, own_session, require
from sandbox.blueprints import ksef, storage
from sandbox.clock import stamp
from sandbox.problems import BadRequest
from sandbox.signing import Seal
from sandbox.state import Session
from sandbox.world import world


@ksef.get("/sessions/<reference>/invoices/ksef/<ksef_number>/upo")
def upo_by_ksef_number(reference: str, ksef_number: str) -> Response:
    """The UPO of an invoice, by its KSeF number."""
    session = own_session(reference)
    if not re.fullmatch(identifiers.KSEF_NUMBER, ksef_number):
        raise BadRequest(21405, f"Nieprawidłowy numer KSeF '{ksef_number}'.")
    return _document(
        _invoice_upo(session, ksef_number),
        f"UPO o numerze KSeF {ksef_number} i numerze referencyjnym sesji {reference} "
        "nie zostało znalezione.",
    )


@ksef.get("/sessions/<reference>/invoices/<invoice_reference>/upo")
def upo_by_reference(reference: str, invoice_reference: str) -> Response:
    """The UPO of an invoice, by its reference number."""
    session = own_session(reference)
    check_reference(invoice_reference)
    return _document(
        _invoice_upo(session, invoice_reference),
        f"UPO faktury {invoice_reference} w sesji {reference} nie zostało znalezione.",
    )


@ksef.get("/sessions/<reference>/upo/<upo_reference>")
def collective_upo(reference: str, upo_reference: str) -> Response:
    """A page of a session's collective UPO."""
    require("access")
    check_reference(upo_reference)
    return _document(
        _page(find_session(reference), upo_reference),
        f"UPO o numerze referencyjnym {upo_reference} dla sesji {reference} "
        "nie zostało znalezione.",
    )


def _invoice_upo(session: Session | None, name: str) -> bytes | None:
    """The UPO of an accepted invoice, always the same bytes; None while there is none."""
    invoice = session.find(name) if session is not None else None
    if session is None or invoice is None:
        return None
    with environment().lock:
        if invoice.code_at(world().clock.now()) != 200:
            return None
        if invoice.upo is None:
            invoice.upo = upo.build(session, [invoice], seal())
        return invoice.upo


def seal() -> Seal:
    """Who signs UPOs now."""
    return Seal(environment().signers.current, world().clock.now())


def _page(session: Session | None, upo_reference: str) -> bytes | None:
    """One page of the session's collective UPO, always the same bytes; None while there is none."""
    if session is None:
        return None
    with environment().lock:
        for page in session.pages(world().clock.now(), world().settings.upo_page_size):
            if page.reference == upo_reference:
                if page.content is None:
                    page.content = upo.build(session, page.invoices, seal(), page)
                return page.content
    return None


def _document(content: bytes | None, missing: str) -> Response:
    """The answer with a UPO; 21178 with that text where there is none."""
    if content is None:
        raise BadRequest(21178, missing)
    answer = Response(content, content_type="application/xml")
    answer.headers["x-ms-meta-hash"] = identifiers.sha256_base64(content)
    return answer


class Links:
    """Makes the links of one answer: new in each answer, all good until `until`."""

    def __init__(self, until: datetime) -> None:
        self.end = stamp(until)
        self._expiry = str(int(until.timestamp()))
        self._nonce = secrets.token_hex(6)
        self._prefix = f"{request.host_url}{environment().name}/storage"

    def to(self, path: str) -> str:
        """The link to a path of the storage."""
        signature = _signature(path, self._expiry, self._nonce)
        return f"{self._prefix}/{path}?se={self._expiry}&rn={self._nonce}&sig={signature}"

    def to_upo(self, session: Session, reference: str) -> str:
        """The link to the UPO of an invoice of the session, or to a page of its collective one."""
        return self.to(f"upo/{session.reference}/{reference}.xml")


def _signature(path: str, expiry: str, nonce: str) -> str:
    """What makes a link good: it can't be guessed, nor used for another path."""
    return hmac.digest(environment().secret, f"{path}|{expiry}|{nonce}".encode(), "sha256").hex()


@storage.get("/upo/<reference>/<name>.xml")
def download(reference: str, name: str) -> Response:
    """A download link: the signature in the query is the permission, a bearer is refused."""
    refusal = refuse_link(f"upo/{reference}/{name}.xml")
    if refusal is not None:
        return refusal
    session = environment().sessions.get(reference)
    content = _invoice_upo(session, name) or _page(session, name)
    if content is None:
        return storage_error(404, "BlobNotFound", "The specified blob does not exist.")
    return _document(content, "")


def refuse_link(path: str) -> Response | None:
    """The storage's refusal of the present request; None where its link is good for that path."""
    expiry, nonce = request.args.get("se", ""), request.args.get("rn", "")
    signature = _signature(path, expiry, nonce)
    if not hmac.compare_digest(request.args.get("sig", "").encode(), signature.encode()):
        return storage_error(403, "AuthenticationFailed", "Signature did not match.")
    if world().clock.now().timestamp() >= int(expiry):
        return storage_error(403, "AuthenticationFailed", "Signed expiry time has passed.")
    if "Authorization" in request.headers:
        return storage_error(400, "InvalidAuthenticationInfo", "Two ways of authentication.")
    return None


def storage_error(status: int, code: str, message: str) -> Response:
    """An error as the storage behind KSeF's links writes it."""
    body = (
        '<?xml version="1.0" encoding="utf-8"?>'
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )
    return Response(body, status, content_type="application/xml")
