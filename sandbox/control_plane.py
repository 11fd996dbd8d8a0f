"""The control plane, `/_sandbox/…`: for tests and demos on this machine only.

Wrong orders are answered 400 `{"error": "…"}`, unknown sessions and invoices 404.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from flask import Blueprint, Response, request

from sandbox import identifiers, seeding
from sandbox.access import environment
from sandbox.clock import stamp
from sandbox.problems import json_response
from sandbox.state import Invoice, RegisteredCertificate, Session
from sandbox.world import World, failure_message, world

DOWN_MODES = ("503-html", "reset", "hang", "html-200", "waf-403")
LATARNIA_STATUSES = ("AVAILABLE", "MAINTENANCE", "FAILURE", "TOTAL_FAILURE")


class NotThereError(Exception):
    """The session, invoice or token that was named does not exist."""


def make_blueprint() -> Blueprint:
    """The blueprint with all routes of the control plane."""
    control = Blueprint("control", __name__, url_prefix="/_sandbox")
    control.before_request(_refuse_strangers)
    control.register_error_handler(ValueError, _wrong)
    control.register_error_handler(KeyError, _wrong)
    control.register_error_handler(TypeError, _wrong)
    control.register_error_handler(NotThereError, _missing)
    env = "/<any(test,demo,prod):environment>"
    session = f"{env}/sessions/<reference>"
    for rule, view, method in (
        ("/clock", show_clock, "GET"),
        ("/clock", move_clock, "POST"),
        ("/settings", show_settings, "GET"),
        ("/settings", change_settings, "PATCH"),
        ("/reset", reset, "POST"),
        ("/calls", show_calls, "GET"),
        ("/calls", clear_calls, "DELETE"),
        ("/faults", show_faults, "GET"),
        ("/faults", add_fault, "POST"),
        ("/faults", clear_faults, "DELETE"),
        ("/faults/<int:fault_id>", clear_fault, "DELETE"),
        ("/signer", show_signer, "GET"),
        ("/latarnia" + env, set_latarnia, "PUT"),
        (env + "/api", set_api, "PUT"),
        (env + "/tokens", add_token, "POST"),
        (env + "/tokens", change_token, "PATCH"),
        (env + "/certificates", add_certificate, "POST"),
        (env + "/certificates", change_certificate, "PATCH"),
        (env + "/keys/rotate", rotate_keys, "POST"),
        (env + "/bearers/expire", expire_bearers, "POST"),
        (env + "/sessions", list_sessions, "GET"),
        (env + "/sessions", add_session, "POST"),
        (session, show_session, "GET"),
        (session, change_session, "PATCH"),
        (session, remove_session, "DELETE"),
        (session + "/invoices", add_invoices, "POST"),
        (session + "/invoices/<invoice_reference>", change_invoice, "PATCH"),
    ):
        control.add_url_rule(rule, view_func=view, methods=[method])
    return control


def _refuse_strangers() -> Response | None:
    address = ipaddress.ip_address((request.remote_addr or "0.0.0.0").partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    if (mapped or address).is_loopback:
        return None
    return json_response({"error": "the control plane answers this machine only"}, 403)


def _wrong(error: Exception) -> Response:
    return json_response({"error": str(error)}, 400)


def _missing(error: Exception) -> Response:
    return json_response({"error": f"{error} does not exist"}, 404)


def _order() -> dict[str, Any]:
    if not request.get_data():
        return {}
    order = request.get_json(force=True, silent=True)
    if not isinstance(order, dict):
        raise ValueError("a JSON object is expected")
    return order


# -- all environments ------------------------------------------------------------------------


def _clock(present: World) -> Response:
    return json_response({"now": stamp(present.clock.now()), "frozen": present.clock.is_frozen})


def show_clock() -> Response:
    """GET clock."""
    return _clock(world())


def move_clock() -> Response:
    """POST clock {advance?: seconds, frozen?: boolean}."""
    order = _order()
    clock = world().clock
    if "frozen" in order:
        _ = clock.freeze() if order["frozen"] else clock.thaw()
    if "advance" in order:
        clock.advance(float(order["advance"]))
    return _clock(world())


def show_settings() -> Response:
    """GET settings."""
    return json_response(world().settings.as_json())


def change_settings() -> Response:
    """PATCH settings: those that are named."""
    present = world()
    rate = present.settings.clock_rate
    present.settings.update(_order())
    if present.settings.clock_rate != rate:
        present.clock.run_at(present.settings.clock_rate)
    return show_settings()


def reset() -> Response:
    """POST reset: back to the state after start; only the keys stay."""
    world().reset()
    return Response(status=204)


def show_calls() -> Response:
    """GET calls: the log, and the number of calls by method and route."""
    name = request.args.get("environment")
    log = world().calls
    return json_response(
        {"calls": [call.as_json() for call in log.calls(name)], "counts": log.counts(name)}
    )


def clear_calls() -> Response:
    """DELETE calls."""
    world().calls.clear()
    return Response(status=204)


def show_faults() -> Response:
    """GET faults: those still waiting."""
    return json_response({"faults": [fault.as_json() for fault in world().faults.waiting()]})


def add_fault() -> Response:
    """POST faults {fault, environment?, service?, method?, path?, times?, skip?}.

    `fault`: `{"kind": …}` with the kind's own options, or `{"status", "body"?, "headers"?}`.
    `service`: api (default), storage, latarnia, any. `path`: a regular expression searched in the
    path. `times`: how many calls meet it, 1 if absent, null for all. `skip`: calls let pass first.
    """
    return json_response(world().faults.add(_order()).as_json(), 201)


def clear_faults() -> Response:
    """DELETE faults."""
    world().faults.clear()
    return Response(status=204)


def clear_fault(fault_id: int) -> Response:
    """DELETE faults/{id}."""
    world().faults.clear(fault_id)
    return Response(status=204)


def show_signer() -> Response:
    """GET signer: the certificate that UPO signatures verify against, PEM."""
    return json_response({"certificate": world().signer.certificate_pem()})


# -- one environment -------------------------------------------------------------------------


def set_latarnia() -> Response:
    """PUT latarnia/{env} {status?, messages?, available?}."""
    order = _order()
    known = environment().latarnia
    status = order.get("status", known.status)
    messages = order.get("messages")
    if messages is None:
        # The status alone is enough: a plausible message comes with it, and stays with its end.
        messages = _ended(known.messages) if status == "AVAILABLE" else [_message(status)]
    known.status, known.messages = status, messages
    known.available = bool(order.get("available", True))
    return json_response(
        {"status": known.status, "messages": known.messages, "available": known.available}
    )


def _ended(messages: list[dict[str, object]]) -> list[dict[str, object]]:
    """The next version of each failure that began: it ended now."""
    now = stamp(world().clock.now())
    return [
        {**message, "type": "FAILURE_END", "end": now, "version": 2, "published": now}
        for message in messages
        if message.get("type") == "FAILURE_START"
    ]


def _message(status: str) -> dict[str, object]:
    message = failure_message(world().clock.now())
    if status in LATARNIA_STATUSES:
        message["category"] = status
    if status == "MAINTENANCE":
        message["type"] = "MAINTENANCE_ANNOUNCEMENT"
    return message


def set_api() -> Response:
    """PUT {env}/api {available, mode?}."""
    order = _order()
    mode = order.get("mode", DOWN_MODES[0])
    if mode not in DOWN_MODES:
        raise ValueError(f"mode: one of {', '.join(DOWN_MODES)}")
    environment().down = None if order["available"] else mode
    return json_response({"available": environment().down is None, "mode": environment().down})


def add_token() -> Response:
    """POST {env}/tokens {nip, token?, outcome?, details?}."""
    order = _order()
    nip = str(order["nip"])
    if not identifiers.is_nip(nip):
        raise ValueError(f"nip: {nip!r} is none")
    token = environment().mint_token(nip, order.get("token"))
    token.outcome = int(order.get("outcome", 200))
    token.details = order.get("details")
    return json_response({"token": token.value, "nip": nip, "outcome": token.outcome}, 201)


def change_token() -> Response:
    """PATCH {env}/tokens {token | nip, outcome, details?}: how logins with it end from now on."""
    order = _order()
    env = environment()
    with env.lock:
        chosen = [
            token
            for token in env.ksef_tokens.values()
            if order.get("token", token.value) == token.value
            and order.get("nip", token.nip) == token.nip
        ]
        if not chosen or not ("token" in order or "nip" in order):
            raise NotThereError("the token")
        for token in chosen:
            token.outcome = int(order["outcome"])
            token.details = order.get("details")
    return json_response({"changed": len(chosen)})


def add_certificate() -> Response:
    """POST {env}/certificates {nip, certificate (PEM) | fingerprint, outcome?, details?}."""
    order = _order()
    nip = str(order["nip"])
    if not identifiers.is_nip(nip):
        raise ValueError(f"nip: {nip!r} is none")
    added = RegisteredCertificate(
        _fingerprint(order), nip, int(order.get("outcome", 200)), order.get("details")
    )
    env = environment()
    with env.lock:
        env.certificates[added.fingerprint, nip] = added
    return json_response(
        {"fingerprint": added.fingerprint, "nip": nip, "outcome": added.outcome}, 201
    )


def change_certificate() -> Response:
    """PATCH {env}/certificates {nip and/or certificate | fingerprint, outcome, details?}: how
    logins with it end from now on."""
    order = _order()
    named = _fingerprint(order) if {"certificate", "fingerprint"} & set(order) else None
    env = environment()
    with env.lock:
        chosen = [
            known
            for known in env.certificates.values()
            if named in (None, known.fingerprint) and order.get("nip", known.nip) == known.nip
        ]
        if not chosen or not (named or "nip" in order):
            raise NotThereError("the certificate")
        for known in chosen:
            known.outcome = int(order["outcome"])
            known.details = order.get("details")
    return json_response({"changed": len(chosen)})


def _fingerprint(order: dict[str, Any]) -> str:
    if "certificate" in order:
        certificate = x509.load_pem_x509_certificate(str(order["certificate"]).encode())
        return certificate.fingerprint(hashes.SHA256()).hex().upper()
    fingerprint = str(order["fingerprint"]).replace(":", "").upper()
    if not re.fullmatch(r"[0-9A-F]{64}", fingerprint):
        raise ValueError("fingerprint: 64 hex digits (SHA-256) are expected")
    return fingerprint


def rotate_keys() -> Response:
    """POST {env}/keys/rotate {keepOld?}: new public keys; the old ones are withdrawn."""
    environment().keys.rotate(keep_old=bool(_order().get("keepOld", False)))
    return json_response([pair.as_json() for pair in environment().keys.published()])


def expire_bearers() -> Response:
    """POST {env}/bearers/expire {kind?, nip?}: ends tokens before their time."""
    order = _order()
    env = environment()
    with env.lock:
        chosen = [
            value
            for value, bearer in env.bearers.items()
            if order.get("kind", bearer.kind) == bearer.kind
            and order.get("nip", bearer.login.nip) == bearer.login.nip
        ]
        for value in chosen:
            del env.bearers[value]
    return json_response({"expired": len(chosen)})


def list_sessions() -> Response:
    """GET {env}/sessions: references only."""
    return json_response({"sessions": list(environment().sessions)})


def add_session() -> Response:
    """POST {env}/sessions {nip, kind?, state?, invoices?, referenceNumber?, dateCreated?, …}.

    `loginDocumentHash`: it was opened after a login with a certificate, whose document has that
    SHA-256 (Base64); else after one with a KSeF token.

    `kind`: online (default), batch. `state`: finished (default), moving, open, failed; `code`
    (and `details`) of a failed or moving one; `finishesAfter` seconds of a moving one.
    `invoices`: a number of accepted ones, or a list of `{status?, invoiceNumber?, ksefNumber?,
    offline?, details?, sellerNip?, issueDate?, referenceNumber?, originalKsefNumber?,
    originalSessionReferenceNumber?, outcome?, finishesAfter?}`; `outcome` is what a moving one
    becomes. With `referenceNumber` and `dateCreated` the same order always makes the same numbers.
    """
    session = seeding.seed_session(world(), environment(), _order())
    return json_response(seeding.describe_session(environment(), session, world()), 201)


def show_session(reference: str) -> Response:
    """GET {env}/sessions/{ref}."""
    session = _session(reference)
    return json_response(seeding.describe_session(environment(), session, world()))


def change_session(reference: str) -> Response:
    """PATCH {env}/sessions/{ref} {state?, code?, details?, finishesAfter?}."""
    session = _session(reference)
    seeding.change_session(world(), environment(), session, _order())
    return show_session(reference)


def remove_session(reference: str) -> Response:
    """DELETE {env}/sessions/{ref}."""
    _session(reference)
    with environment().lock:
        del environment().sessions[reference]
    return Response(status=204)


def add_invoices(reference: str) -> Response:
    """POST {env}/sessions/{ref}/invoices {invoices: number or list}."""
    session = _session(reference)
    added = seeding.add_invoices(world(), environment(), session, _order()["invoices"])
    return json_response({"invoices": seeding.describe_invoices(added, world().clock.now())}, 201)


def change_invoice(reference: str, invoice_reference: str) -> Response:
    """PATCH {env}/sessions/{ref}/invoices/{reference, ordinal or KSeF number}."""
    session = _session(reference)
    invoice = _invoice(session, invoice_reference)
    seeding.change_invoice(world(), environment(), session, invoice, _order())
    return json_response(seeding.describe_invoices([invoice], world().clock.now())[0])


def _session(reference: str) -> Session:
    session = environment().sessions.get(reference)
    if session is None:
        raise NotThereError(f"session {reference}")
    return session


def _invoice(session: Session, name: str) -> Invoice:
    if name.isdecimal() and 1 <= int(name) <= len(session.invoices):
        return session.invoices[int(name) - 1]
    invoice = session.by_reference.get(name) or session.by_ksef_number.get(name)
    if invoice is None:
        raise NotThereError(f"invoice {name}")
    return invoice
