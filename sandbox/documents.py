"""UPO documents: the API's routes to them, and the download links that need no bearer."""

from __future__ import annotations

import hmac
import secrets
from datetime import datetime, timedelta
from typing import Any

from flask import Blueprint, Response, request

from sandbox import identifiers, upo
from sandbox.access import check_reference, environment, find_session, require
from sandbox.clock import stamp
from sandbox.problems import BadRequest
from sandbox.state import Environment, Invoice, Session
from sandbox.world import World, world


def register(ksef: Blueprint, storage: Blueprint) -> None:
    """Adds the UPO routes to KSeF's blueprint and the downloads to the storage's."""
    prefix = "/sessions/<reference>"
    ksef.add_url_rule(f"{prefix}/invoices/ksef/<ksef_number>/upo", view_func=upo_by_ksef_number)
    ksef.add_url_rule(f"{prefix}/invoices/<invoice_reference>/upo", view_func=upo_by_reference)
    ksef.add_url_rule(f"{prefix}/upo/<upo_reference>", view_func=collective_upo)
    storage.add_url_rule("/upo/<reference>/<name>.xml", view_func=download)


def upo_by_ksef_number(reference: str, ksef_number: str) -> Response:
    """GET /sessions/{referenceNumber}/invoices/ksef/{ksefNumber}/upo."""
    login = require("access")
    check_reference(reference)
    if not identifiers.is_ksef_number(ksef_number):
        raise BadRequest(21405, f"Nieprawidłowy numer KSeF '{ksef_number}'.")
    session = environment().session_of(login.nip, reference)
    invoice = session.by_ksef_number.get(ksef_number) if session is not None else None
    return _invoice_upo(
        session,
        invoice,
        f"UPO o numerze KSeF {ksef_number} i numerze referencyjnym sesji {reference} "
        "nie zostało znalezione.",
    )


def upo_by_reference(reference: str, invoice_reference: str) -> Response:
    """GET /sessions/{referenceNumber}/invoices/{invoiceReferenceNumber}/upo."""
    login = require("access")
    check_reference(reference)
    check_reference(invoice_reference)
    session = environment().session_of(login.nip, reference)
    invoice = session.by_reference.get(invoice_reference) if session is not None else None
    return _invoice_upo(
        session,
        invoice,
        f"UPO faktury {invoice_reference} w sesji {reference} nie zostało znalezione.",
    )


def collective_upo(reference: str, upo_reference: str) -> Response:
    """GET /sessions/{referenceNumber}/upo/{upoReferenceNumber}."""
    login = require("access")
    check_reference(upo_reference)
    session = find_session(login.nip, reference)
    content = page_content(world(), environment(), session, upo_reference)
    if content is None:
        raise BadRequest(
            21178,
            f"UPO o numerze referencyjnym {upo_reference} dla sesji {reference} "
            "nie zostało znalezione.",
        )
    return _document(content)


def _invoice_upo(session: Session | None, invoice: Invoice | None, missing: str) -> Response:
    if session is None or invoice is None:
        raise BadRequest(21178, missing)
    content = invoice_content(world(), environment(), session, invoice)
    if content is None:
        raise BadRequest(21178, missing)
    return _document(content)


def invoice_content(
    present: World, env: Environment, session: Session, invoice: Invoice
) -> bytes | None:
    """The UPO of an accepted invoice, always the same bytes; None while there is none."""
    with env.lock:
        if invoice.code_at(present.clock.now()) != 200:
            return None
        if invoice.upo is None:
            invoice.upo = upo.build(session, [invoice], present.signer)
        return invoice.upo


def page_content(
    present: World, env: Environment, session: Session, upo_reference: str
) -> bytes | None:
    """One page of the session's collective UPO, always the same bytes; None while there is none."""
    now = present.clock.now()
    with env.lock:
        pages = session.pages(now, present.settings.upo_page_size)
        for number, page in enumerate(pages, 1):
            if page.reference != upo_reference:
                continue
            if page.content is None:
                accepted = session.accepted(now)
                page.content = upo.build(
                    session,
                    accepted[page.first : page.last],
                    present.signer,
                    upo.PageRange(number, len(pages), page.first, page.last, len(accepted)),
                )
            return page.content
    return None


# -- download links --------------------------------------------------------------------------


class Links:
    """Makes the download links of one answer: new in each answer, all ending at the same time."""

    def __init__(self, env: Environment, now: datetime) -> None:
        end = now + timedelta(seconds=world().settings.link_seconds)
        self.end = stamp(end)
        self._env = env
        self._expiry = str(int(end.timestamp()))
        self._nonce = secrets.token_hex(6)
        self._prefix = f"{request.host_url}{env.name}/storage/upo"

    def to(self, session: Session, reference: str) -> str:
        """The link to the UPO of an invoice of the session, or to a page of its collective one."""
        name = f"{session.reference}/{reference}"
        signature = link_signature(self._env, name, self._expiry, self._nonce)
        return f"{self._prefix}/{name}.xml?se={self._expiry}&rn={self._nonce}&sig={signature}"


def upo_page_links(env: Environment, session: Session, now: datetime) -> list[dict[str, Any]]:
    """The pages of a session's UPO in KSeF's `UpoPageResponse` shape, with new links."""
    links = Links(env, now)
    return [
        {
            "referenceNumber": page.reference,
            "downloadUrl": links.to(session, page.reference),
            "downloadUrlExpirationDate": links.end,
        }
        for page in session.pages(now, world().settings.upo_page_size)
    ]


def link_signature(env: Environment, name: str, expiry: str, nonce: str) -> str:
    """What makes a link of the storage good: it can't be guessed, nor used for another name."""
    message = f"{name}|{expiry}|{nonce}".encode()
    return hmac.digest(env.secret, message, "sha256").hex()


def download(reference: str, name: str) -> Response:
    """A download link: the signature in the query is the permission, a bearer is refused."""
    env = environment()
    refusal = refuse_link(env, f"{reference}/{name}")
    if refusal is not None:
        return refusal
    session = env.sessions.get(reference)
    if session is None:
        return storage_error(404, "BlobNotFound", "The specified blob does not exist.")
    invoice = session.by_reference.get(name)
    if invoice is not None:
        content = invoice_content(world(), env, session, invoice)
    else:
        content = page_content(world(), env, session, name)
    if content is None:
        return storage_error(404, "BlobNotFound", "The specified blob does not exist.")
    return _document(content)


def refuse_link(env: Environment, name: str) -> Response | None:
    """The storage's refusal of the present request; None where its link is good for that name."""
    expiry, nonce = request.args.get("se", ""), request.args.get("rn", "")
    signature = link_signature(env, name, expiry, nonce)
    if not hmac.compare_digest(request.args.get("sig", "").encode(), signature.encode()):
        return storage_error(403, "AuthenticationFailed", "Signature did not match.")
    if world().clock.now().timestamp() >= int(expiry):
        return storage_error(403, "AuthenticationFailed", "Signed expiry time has passed.")
    if "Authorization" in request.headers:
        return storage_error(400, "InvalidAuthenticationInfo", "Two ways of authentication.")
    return None


def _document(content: bytes) -> Response:
    answer = Response(content, content_type="application/xml")
    answer.headers["x-ms-meta-hash"] = identifiers.sha256_base64(content)
    return answer


def storage_error(status: int, code: str, message: str) -> Response:
    """An error as the storage behind KSeF's links writes it."""
    body = (
        '<?xml version="1.0" encoding="utf-8"?>'
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )
    return Response(body, status, content_type="application/xml")
