"""The control plane, `/_sandbox/…`: for tests and demos on this machine only.

Wrong orders are answered 400 `{"error": "…"}`, unknown sessions and invoices 404. What an order
may hold stands in `sandbox.orders`, and for readers in docs/sandbox.md.
"""

import ipaddress
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from datetime import date
from typing import Any, Final, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from flask import Response, request
from werkzeug.exceptions import NotFound

from sandbox import fault_answers, identifiers, orders, seeding
from sandbox.access import environment
from sandbox.blueprints import ENVIRONMENT, control
from sandbox.clock import stamp
from sandbox.faults import Fault
from sandbox.problems import json_response
from sandbox.state import Credential, Invoice, Session
from sandbox.world import world

_ENV: Final = f"/{ENVIRONMENT}"
_SESSION: Final = f"{_ENV}/sessions/<reference>"

_SENTENCES: Final[dict[type, str]] = {
    OverflowError: "so many seconds lead beyond the calendar",
    RecursionError: "the JSON is nested too deeply",
    UnicodeDecodeError: "the JSON is not UTF-8",
}

T = TypeVar("T", bound=orders.Order)


@control.before_request
def _refuse_strangers() -> Response | None:
    address = ipaddress.ip_address((request.remote_addr or "0.0.0.0").partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    if (mapped or address).is_loopback:
        return None
    return json_response({"error": "the control plane answers this machine only"}, 403)


@control.errorhandler(msgspec.DecodeError)
@control.errorhandler(ValueError)
@control.errorhandler(OverflowError)
@control.errorhandler(RecursionError)
def _wrong(error: Exception) -> Response:
    said = re.sub("Expected `str` matching regex '.*'", "Has not the right form", str(error))
    return json_response({"error": _SENTENCES.get(type(error), said)}, 400)


@control.errorhandler(NotFound)
def _missing(error: NotFound) -> Response:
    return json_response({"error": f"{error.description} does not exist"}, 404)


def _order(kind: type[T]) -> T:
    """The body of the request; one that is empty asks for nothing."""
    return msgspec.json.decode(request.get_data() or b"{}", type=kind)


@control.get("/clock")
def show_clock() -> Response:
    """The time."""
    clock = world().clock
    return json_response({"now": stamp(clock.now()), "frozen": clock.is_frozen})


@control.post("/clock")
def move_clock() -> Response:
    """Moves, stops or starts the clock."""
    order = _order(orders.ClockOrder)
    clock = world().clock
    if order.frozen is not None:
        clock.freeze(order.frozen)
    clock.advance(order.advance)
    return show_clock()


@control.get("/settings")
def show_settings() -> Response:
    """All settings."""
    return json_response(world().settings)


@control.patch("/settings")
def change_settings() -> Response:
    """Changes those that are named."""
    present = world()
    changes = msgspec.json.decode(request.get_data() or b"{}", type=dict[str, Any])
    present.settings = present.settings.changed(changes)
    present.clock.run_at(present.settings.clock_rate)
    return show_settings()


@control.post("/reset")
def reset() -> Response:
    """Back to the state after start; only the keys stay."""
    world().reset()
    return Response(status=204)


@control.get("/calls")
def show_calls() -> Response:
    """The log, and the number of calls by method and route."""
    name = request.args.get("environment")
    calls = [call for call in world().calls.copy() if name in (None, call.environment)]
    counts = Counter(f"{call.method} {call.route or call.path}" for call in calls)
    return json_response({"calls": calls, "counts": counts})


@control.delete("/calls")
def clear_calls() -> Response:
    """Empties the log."""
    world().calls.clear()
    return Response(status=204)


@control.get("/faults")
def show_faults() -> Response:
    """Those still waiting."""
    return json_response({"faults": world().faults.waiting()})


@control.post("/faults")
def add_fault() -> Response:
    """Spoils the next matching calls."""
    fault = _order(Fault)
    fault_answers.check(fault)
    world().faults.add(fault)
    return json_response(fault, 201)


@control.delete("/faults")
@control.delete("/faults/<int:fault_id>")
def clear_faults(fault_id: int | None = None) -> Response:
    """Removes one fault, or all."""
    world().faults.clear(fault_id)
    return Response(status=204)


@control.get(f"{_ENV}/signers")
def show_signers() -> Response:
    """The certificates that UPOs are signed with, oldest first."""
    return json_response({"signers": [signer.as_json() for signer in environment().signers.known]})


@control.post(f"{_ENV}/signers/rotate")
def rotate_signers() -> Response:
    """From now on another one signs."""
    environment().signers.rotate()
    return show_signers()


@control.put(f"/latarnia{_ENV}")
def set_latarnia() -> Response:
    """What Latarnia says; without messages a plausible one comes with an outage."""
    order = _order(orders.LatarniaOrder)
    known = environment().latarnia
    if order.messages is None:
        known.say(order.status or known.status, world().clock.now())
    else:
        known.status, known.messages = order.status or known.status, order.messages
    known.available = order.available
    return json_response(known)


@control.put(f"{_ENV}/api")
def set_api() -> Response:
    """Takes the API down, or brings it back."""
    order = _order(orders.ApiOrder)
    environment().down = None if order.available else order.mode
    return json_response({"available": order.available, "mode": environment().down})


@control.post(f"{_ENV}/tokens")
def add_token() -> Response:
    """Adds a KSeF token; one is made up where none is given."""
    order = _order(orders.CredentialOrder)
    env = environment()
    reference = identifiers.reference_number(
        "EC", date(2026, 1, 1), f"{env.name}|{order.nip}|{order.token}" if order.token else None
    )
    value = order.token or f"{reference}|nip-{order.nip}|{secrets.token_hex(32)}"
    with env.lock:
        env.tokens[value] = Credential(value, order.nip, reference, order.outcome, order.details)
    return json_response({"token": value, "nip": order.nip, "outcome": order.outcome}, 201)


@control.patch(f"{_ENV}/tokens")
def change_token() -> Response:
    """Changes how logins with a token, or with all of a company, end."""
    order = _order(orders.CredentialChange)
    return _change_outcome("the token", environment().tokens.values(), order.token, order)


@control.post(f"{_ENV}/certificates")
def add_certificate() -> Response:
    """Gives a certificate rights for a company."""
    order = _order(orders.CredentialOrder)
    fingerprint = _fingerprint(order)
    if fingerprint is None:
        raise ValueError("certificate (PEM) or fingerprint is missing")
    env = environment()
    with env.lock:
        env.certificates[fingerprint, order.nip] = Credential(
            fingerprint, order.nip, None, order.outcome, order.details
        )
    return json_response(
        {"fingerprint": fingerprint, "nip": order.nip, "outcome": order.outcome}, 201
    )


@control.patch(f"{_ENV}/certificates")
def change_certificate() -> Response:
    """Changes how logins with a certificate, with all of a company, or with one for one end."""
    order = _order(orders.CredentialChange)
    known, value = environment().certificates.values(), _fingerprint(order)
    return _change_outcome("the certificate", known, value, order)


def _change_outcome(
    what: str, known: Iterable[Credential], value: str | None, order: orders.CredentialChange
) -> Response:
    with environment().lock:
        chosen = [
            credential
            for credential in known
            if value in (None, credential.value) and order.nip in (None, credential.nip)
        ]
        if not chosen or (value is None and order.nip is None):
            raise NotFound(what)
        for credential in chosen:
            credential.outcome, credential.details = order.outcome, order.details
    return json_response({"changed": len(chosen)})


def _fingerprint(order: orders.CredentialChange) -> str | None:
    """The SHA-256 of the certificate that the order names, in capital hex digits."""
    if order.certificate is not None:
        try:
            certificate = x509.load_pem_x509_certificate(order.certificate.encode())
        except ValueError:
            raise ValueError("certificate: a certificate in PEM is expected") from None
        return certificate.fingerprint(hashes.SHA256()).hex().upper()
    if order.fingerprint is None:
        return None
    fingerprint = order.fingerprint.replace(":", "").upper()
    if not re.fullmatch(r"[0-9A-F]{64}", fingerprint):
        raise ValueError("fingerprint: 64 hex digits (SHA-256) are expected")
    return fingerprint


@control.post(f"{_ENV}/keys/rotate")
def rotate_keys() -> Response:
    """New public keys."""
    keys = environment().keys
    keys.rotate(keep_old=_order(orders.KeysOrder).keep_old)
    return json_response([pair.as_json() for pair in keys.published()])


@control.post(f"{_ENV}/bearers/expire")
def expire_bearers() -> Response:
    """Ends tokens before their time."""
    order = _order(orders.BearersOrder)
    env = environment()
    with env.lock:
        chosen = [
            value
            for value, bearer in env.bearers.items()
            if order.kind in (None, bearer.kind) and order.nip in (None, bearer.login.nip)
        ]
        for value in chosen:
            del env.bearers[value]
    return json_response({"expired": len(chosen)})


@control.get(f"{_ENV}/sessions")
def list_sessions() -> Response:
    """The references of all sessions."""
    return json_response({"sessions": list(environment().sessions)})


@control.post(f"{_ENV}/sessions")
def add_session() -> Response:
    """Makes a session."""
    session = seeding.seed_session(_order(orders.SessionOrder))
    return json_response(seeding.describe_session(session), 201)


@control.get(_SESSION)
def show_session(reference: str) -> Response:
    """A session with its invoices."""
    return json_response(seeding.describe_session(_session(reference)))


@control.patch(_SESSION)
def change_session(reference: str) -> Response:
    """Changes a session."""
    seeding.change_session(_session(reference), _order(orders.SessionChange))
    return show_session(reference)


@control.delete(_SESSION)
def remove_session(reference: str) -> Response:
    """Makes KSeF forget a session."""
    _session(reference)
    with environment().lock:
        del environment().sessions[reference]
    return Response(status=204)


@control.post(f"{_SESSION}/invoices")
def add_invoices(reference: str) -> Response:
    """Adds invoices to a session."""
    added = seeding.add_invoices(_session(reference), _order(orders.NewInvoices).invoices)
    return json_response({"invoices": seeding.describe_invoices(added)}, 201)


@control.patch(f"{_SESSION}/invoices/<invoice_reference>")
def change_invoice(reference: str, invoice_reference: str) -> Response:
    """Changes an invoice, named by its reference, ordinal or KSeF number."""
    session = _session(reference)
    invoice = _invoice(session, invoice_reference)
    seeding.change_invoice(session, invoice, _order(orders.InvoiceOrder))
    return json_response(seeding.describe_invoices([invoice])[0])


def _session(reference: str) -> Session:
    session = environment().sessions.get(reference)
    if session is None:
        raise NotFound(f"session {reference}")
    return session


def _invoice(session: Session, name: str) -> Invoice:
    if name.isdecimal() and len(name) < 6 and 1 <= int(name) <= len(session.invoices):
        return session.invoices[int(name) - 1]
    invoice = session.find(name)
    if invoice is None:
        raise NotFound(f"invoice {name}")
    return invoice
