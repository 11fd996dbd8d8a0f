"""Who is calling: the bearer of a request, its quota group, and tokens for clients."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from datetime import datetime, timedelta
from typing import Any, cast

from flask import g, request

from sandbox import quota
from sandbox.clock import stamp
from sandbox.problems import BadRequest, TooManyRequests, Unauthorized
from sandbox.state import Bearer, Environment, Login, Session
from sandbox.world import world

GROUPS = {
    "ksef.open_online_session": "onlineSession",
    "ksef.close_online_session": "onlineSessionClose",
    "ksef.open_batch_session": "batchSession",
    "ksef.close_batch_session": "batchSessionClose",
    "ksef.send_invoice": "invoiceSend",
    "ksef.session_invoice": "invoiceStatus",
    "ksef.sessions": "sessionList",
    "ksef.session_invoices": "sessionInvoiceList",
    "ksef.failed_session_invoices": "sessionInvoiceList",
    "ksef.session": "sessionMisc",
    "ksef.upo_by_ksef_number": "sessionMisc",
    "ksef.upo_by_reference": "sessionMisc",
    "ksef.collective_upo": "sessionMisc",
    "ksef.revoke_current": "other",
    "ksef.revoke_named": "other",
    "ksef.rate_limits": "other",
}
"""Endpoint → quota group; those not named are counted per address as `anonymous`."""


def environment() -> Environment:
    """The environment in the path of the present request."""
    return cast(Environment, g.environment)


def bearer() -> Bearer | None:
    """The valid bearer of the request, None where there is none."""
    if "bearer" not in g:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        found = environment().bearers.get(value.strip()) if scheme.lower() == "bearer" else None
        if found is not None and found.valid_until <= world().clock.now():
            found = None
        g.bearer = found
    return cast("Bearer | None", g.bearer)


def require(*kinds: str) -> Login:
    """The login behind the bearer; 401 unless the bearer is of one of these kinds."""
    found = bearer()
    if found is None or found.kind not in kinds:
        raise Unauthorized
    return found.login


def check_reference(text: str) -> None:
    """21405 unless `text` is as long as a reference number."""
    if len(text) != 36:
        raise BadRequest(21405, f"Numer referencyjny '{text}' ma nieprawidłową długość.")


def find_session(nip: str, reference: str) -> Session:
    """The session of this NIP; 21405 for a malformed reference, 21173 where there is none."""
    check_reference(reference)
    found = environment().session_of(nip, reference)
    if found is None:
        raise BadRequest(
            21173, f"Sesja o numerze referencyjnym {reference} nie została znaleziona."
        )
    return found


def issue(
    env: Environment, kind: str, login: Login, now: datetime, seconds: float
) -> dict[str, Any]:
    """A new bearer in KSeF's `TokenInfo` shape; to be called with the environment locked."""
    valid_until = now + timedelta(seconds=seconds)
    value = _jwt(
        env.secret,
        {
            "typ": {"operation": "AuthenticationOperation", "access": "ContextToken"}.get(
                kind, "RefreshToken"
            ),
            "iss": f"sandbox-ksef-{env.name}",
            "aud": f"sandbox-ksef-{env.name}",
            "cit": "Nip",
            "civ": login.nip,
            "arn": login.reference,
            "jti": secrets.token_hex(16),
            "iat": int(now.timestamp()),
            "exp": int(valid_until.timestamp()),
        },
    )
    env.bearers[value] = Bearer(kind, login, valid_until)
    return {"token": value, "validUntil": stamp(valid_until)}


def count_call() -> None:
    """Counts the present call against its limits; 429 when one is used up."""
    settings = world().settings
    if not settings.quota or request.endpoint is None:
        return
    limits = quota.effective(settings.limits)
    name = environment().name
    address = request.remote_addr or ""
    group = GROUPS.get(request.endpoint, "anonymous")
    known = bearer()
    owner = address if group == "anonymous" or known is None else known.login.nip
    refusal = world().quota.admit(
        [((name, owner, group), limits[group]), ((name, address, "global"), limits["global"])],
        world().clock.now(),
        settings.quota_scale,
    )
    if refusal is not None:
        seconds, reason = refusal
        raise TooManyRequests(
            f"Przekroczono limit {reason}. Spróbuj ponownie po {seconds} sekundach.", str(seconds)
        )


def json_body(*required: str) -> dict[str, Any]:
    """The request's JSON object; 21001 when it is none, 21405 when a required member is missing."""
    try:
        body = json.loads(request.get_data())
    except ValueError:
        raise BadRequest(21001, "Treść żądania nie jest poprawnym dokumentem JSON.") from None
    if not isinstance(body, dict):
        raise BadRequest(21001, "Oczekiwano obiektu JSON.")
    for name in required:
        if body.get(name) is None:
            raise BadRequest(21405, f"Pole '{name}' jest wymagane.")
    return body


def base64_member(body: dict[str, Any], name: str) -> bytes:
    """A Base64 member decoded; 21405 when it is none."""
    value = body.get(name)
    try:
        if not isinstance(value, str):
            raise ValueError(name)
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise BadRequest(21405, f"Pole '{name}' nie jest poprawnym ciągiem Base64.") from None


def _jwt(secret: bytes, claims: dict[str, Any]) -> str:
    head = _base64url(b'{"alg":"HS256","typ":"JWT"}')
    payload = _base64url(json.dumps(claims, separators=(",", ":")).encode())
    signature = hmac.new(secret, f"{head}.{payload}".encode(), hashlib.sha256).digest()
    return f"{head}.{payload}.{_base64url(signature)}"


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
