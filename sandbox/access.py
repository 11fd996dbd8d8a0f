"""Who is calling: the bearer of a request, its quota group, and tokens for clients."""

import base64
import hmac
import secrets
from datetime import timedelta
from typing import Any, TypeVar, cast

import msgspec
from flask import g, request

from sandbox import blueprints
from sandbox.bodies import Body
from sandbox.clock import stamp
from sandbox.keys import KeyPair
from sandbox.problems import BadRequest, TooManyRequests, Unauthorized
from sandbox.settings import LIMITS
from sandbox.state import Bearer, Environment, Login, Session
from sandbox.world import world

T = TypeVar("T", bound=Body)

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
    "ksef.login_sessions": "other",
    "ksef.revoke_current": "other",
    "ksef.revoke_named": "other",
    "ksef.rate_limits": "other",
}
"""Endpoint → quota group; those not named are counted per address as `anonymous`."""
_TOKEN_TYPES = {
    "operation": "AuthenticationOperation",
    "access": "ContextToken",
    "refresh": "RefreshToken",
}


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


def read_body(kind: type[T]) -> T:
    """The body of the request; 21001 when it is no JSON object, 21405 when something is wrong."""
    try:
        content = msgspec.json.decode(request.get_data())
    except msgspec.DecodeError:
        raise BadRequest(21001, "Treść żądania nie jest poprawnym dokumentem JSON.") from None
    if not isinstance(content, dict):
        raise BadRequest(21001, "Oczekiwano obiektu JSON.")
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise BadRequest(21405, str(error)) from None


def check_reference(text: str) -> None:
    """21405 unless `text` is as long as a reference number."""
    if len(text) != 36:
        raise BadRequest(21405, f"Numer referencyjny '{text}' ma nieprawidłową długość.")


def own_session(reference: str) -> Session | None:
    """The caller's session, None where there is none; 21405 for a malformed reference."""
    login = require("access")
    check_reference(reference)
    found = environment().sessions.get(reference)
    return found if found is not None and found.nip == login.nip else None


def find_session(reference: str) -> Session:
    """The caller's session; 21173 where there is none."""
    found = own_session(reference)
    if found is None:
        raise BadRequest(
            21173, f"Sesja o numerze referencyjnym {reference} nie została znaleziona."
        )
    return found


def find_key(usage: str, public_key_id: str | None) -> KeyPair:
    """The key pair that a client names, or the newest of that usage; 21470 for an unknown one."""
    pair = environment().keys.find(usage, public_key_id)
    if pair is None:
        raise BadRequest(21470, f"Klucz o identyfikatorze {public_key_id} nie jest wspierany.")
    return pair


def issue(kind: str, login: Login) -> dict[str, Any]:
    """A new bearer in KSeF's `TokenInfo` shape; to be called with the environment locked."""
    env = environment()
    now = world().clock.now()
    seconds: float = getattr(world().settings, f"{kind}_token_seconds")
    valid_until = now + timedelta(seconds=seconds)
    claims = {
        "typ": _TOKEN_TYPES[kind],
        "iss": f"sandbox-ksef-{env.name}",
        "aud": f"sandbox-ksef-{env.name}",
        "cit": "Nip",
        "civ": login.nip,
        "arn": login.reference,
        "jti": secrets.token_hex(16),
        "iat": int(now.timestamp()),
        "exp": int(valid_until.timestamp()),
    }
    value = ".".join(map(_base64url, (b'{"alg":"HS256","typ":"JWT"}', msgspec.json.encode(claims))))
    value += "." + _base64url(hmac.digest(env.secret, value.encode(), "sha256"))
    env.bearers[value] = Bearer(kind, login, valid_until)
    return {"token": value, "validUntil": stamp(valid_until)}


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@blueprints.ksef.before_request
def count_call() -> None:
    """Counts the present call against its limits; 429 when one is used up."""
    settings = world().settings
    if not settings.quota or request.endpoint is None:
        return
    limits = LIMITS | settings.limits
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
