"""KSeF's login: keys, challenge, token or certificate, redeem, refresh, revoke."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives import hashes
from flask import Blueprint, Response, request

from sandbox import identifiers, quota, xades
from sandbox.access import base64_member, environment, issue, json_body, require
from sandbox.clock import stamp
from sandbox.problems import BadRequest, Gone, json_response
from sandbox.state import Challenge, Environment, KsefToken, Login, Means
from sandbox.world import world

LOGIN_WORDS = {
    100: "Uwierzytelnianie w toku",
    200: "Uwierzytelnianie zakończone sukcesem",
    415: "Uwierzytelnianie zakończone niepowodzeniem",
    425: "Uwierzytelnienie unieważnione",
    450: "Uwierzytelnianie zakończone niepowodzeniem z powodu błędnego tokenu",
    460: "Uwierzytelnianie zakończone niepowodzeniem z powodu błędu certyfikatu",
    470: "Uwierzytelnianie zakończone niepowodzeniem",
    480: "Uwierzytelnienie zablokowane",
    500: "Nieznany błąd",
    550: "Operacja została anulowana przez system",
}
LOGIN_DETAILS = {
    415: "Brak przypisanych uprawnień",
    425: "Uwierzytelnienie i powiązane refresh tokeny zostały unieważnione przez użytkownika",
    450: "Token unieważniony",
    460: "Nieważny certyfikat",
    470: "Próba wykorzystania metod autoryzacyjnych osoby zmarłej",
    480: "Podejrzenie incydentu bezpieczeństwa.",
    550: "Przetwarzanie zostało przerwane z przyczyn wewnętrznych systemu. Spróbuj ponownie",
}


def register(ksef: Blueprint) -> None:
    """Adds the login routes to KSeF's blueprint."""
    ksef.add_url_rule("/security/public-key-certificates", view_func=public_keys)
    ksef.add_url_rule("/rate-limits", view_func=rate_limits)
    ksef.add_url_rule("/auth/challenge", view_func=challenge, methods=["POST"])
    ksef.add_url_rule("/auth/ksef-token", view_func=ksef_token, methods=["POST"])
    ksef.add_url_rule("/auth/xades-signature", view_func=xades_signature, methods=["POST"])
    ksef.add_url_rule("/auth/<reference>", view_func=login_status)
    ksef.add_url_rule("/auth/token/redeem", view_func=redeem, methods=["POST"])
    ksef.add_url_rule("/auth/token/refresh", view_func=refresh, methods=["POST"])
    ksef.add_url_rule("/auth/sessions/current", view_func=revoke_current, methods=["DELETE"])
    ksef.add_url_rule("/auth/sessions/<reference>", view_func=revoke_named, methods=["DELETE"])


def public_keys() -> Response:
    """GET /security/public-key-certificates."""
    return json_response([pair.as_json() for pair in environment().keys.published()])


def rate_limits() -> Response:
    """GET /rate-limits."""
    require("access")
    limits = quota.effective(world().settings.limits)
    return json_response(
        {
            group: {"perSecond": second, "perMinute": minute, "perHour": hour}
            for group, (second, minute, hour) in limits.items()
        }
    )


def challenge() -> Response:
    """POST /auth/challenge."""
    now = world().clock.now()
    value = identifiers.reference_number("CR", now.date())
    milliseconds = int(now.timestamp() * 1000)
    valid_until = now + timedelta(seconds=world().settings.challenge_seconds)
    with environment().lock:
        environment().challenges[value] = Challenge(milliseconds, valid_until)
    return json_response(
        {
            "challenge": value,
            "timestamp": stamp(now),
            "timestampMs": milliseconds,
            "clientIp": request.remote_addr,
        }
    )


def ksef_token() -> Response:
    """POST /auth/ksef-token: what is wrong with the token itself shows in the login's status."""
    body = json_body("challenge", "contextIdentifier", "encryptedToken")
    context = body["contextIdentifier"]
    if not isinstance(context, dict) or context.get("type") not in (
        "Nip",
        "InternalId",
        "NipVatUe",
        "PeppolId",
    ):
        raise BadRequest(21405, "Nieprawidłowy typ identyfikatora kontekstu.")
    nip = context.get("value")
    if context["type"] != "Nip" or not isinstance(nip, str) or not identifiers.is_nip(nip):
        raise BadRequest(21405, "Nieprawidłowy NIP.")
    encrypted = base64_member(body, "encryptedToken")
    env = environment()
    pair = env.keys.find("KsefTokenEncryption", body.get("publicKeyId"))
    if pair is None:
        raise BadRequest(
            21470, f"Klucz o identyfikatorze {body['publicKeyId']} nie jest wspierany."
        )
    now = world().clock.now()
    given = _use_challenge(env, str(body["challenge"]), now)
    try:
        plain = pair.decrypt(encrypted).decode()
    except ValueError:
        outcome = _refused("Nieprawidłowe szyfrowanie tokena")
    else:
        outcome = _judge(env, plain, given.timestamp_ms, nip)
    return _start(env, nip, now, Means(outcome.reference), outcome.outcome, outcome.details)


def xades_signature() -> Response:
    """POST /auth/xades-signature: the document is verified at once, the certificate's rights show
    in the login's status."""
    chain = request.args.get("verifyCertificateChain", "false").lower()
    if chain not in ("true", "false"):
        raise BadRequest(21405, "Parametr 'verifyCertificateChain' nie jest wartością logiczną.")
    document = xades.read(request.get_data())
    env = environment()
    now = world().clock.now()
    _use_challenge(env, document.challenge, now)
    fingerprint = document.certificate.fingerprint(hashes.SHA256()).hex().upper()
    means = Means(document_sha256=document.sha256, fingerprint=fingerprint)
    outcome, details = _judge_certificate(
        env, document, fingerprint, now, any_will_do=env.name == "test" and chain == "false"
    )
    return _start(env, document.nip, now, means, outcome, details)


def _judge_certificate(
    env: Environment,
    document: xades.LoginDocument,
    fingerprint: str,
    now: datetime,
    *,
    any_will_do: bool,
) -> tuple[int, list[str] | None]:
    certificate = document.certificate
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        return 460, ["Nieważny certyfikat"]
    registered = env.certificates.get((fingerprint, document.nip))
    if registered is not None:
        return registered.outcome, registered.details
    if any_will_do:
        return 200, None
    if any(known == fingerprint for known, _ in env.certificates):
        return 415, None
    return 460, ["Niezaufany łańcuch certyfikatów"]


def _use_challenge(env: Environment, value: str, now: datetime) -> Challenge:
    """The challenge, which can't be used again; 21111 for one unknown, used or too old."""
    with env.lock:
        given = env.challenges.pop(value, None)
    if given is None or given.valid_until <= now:
        raise BadRequest(21111)
    return given


def _start(
    env: Environment,
    nip: str,
    now: datetime,
    means: Means,
    outcome: int,
    details: list[str] | None,
) -> Response:
    """Begins a login operation that will end in `outcome`."""
    settings = world().settings
    login = Login(
        reference=identifiers.reference_number("AU", now.date()),
        nip=nip,
        started=now,
        means=means,
        code=outcome,
        details=details,
        polls_left=settings.auth_polls,
        ready=now + timedelta(seconds=settings.auth_seconds),
    )
    with env.lock:
        env.logins[login.reference] = login
        token = issue(env, "operation", login, now, settings.operation_token_seconds)
    return json_response({"referenceNumber": login.reference, "authenticationToken": token}, 202)


def _refused(detail: str) -> KsefToken:
    return KsefToken("", "", "", 450, [detail])


def _judge(env: Environment, plain: str, timestamp_ms: int, nip: str) -> KsefToken:
    """The token that was sent, with the outcome of this login."""
    # KSeF tokens hold bars themselves: the time stands after the last one.
    value, bar, sent_ms = plain.rpartition("|")
    if not bar or not (sent_ms.isascii() and sent_ms.isdecimal()):
        return _refused("Nieprawidłowe kodowanie tokena")
    token = env.ksef_tokens.get(value)
    if token is None:
        return _refused("Nieprawidłowy token")
    if int(sent_ms) != timestamp_ms:
        return _refused("Nieprawidłowy czas tokena")
    if token.nip != nip:
        return _refused(f"Token nie może być użyty w kontekście Nip {nip}")
    return token


def login_status(reference: str) -> Response:
    """GET /auth/{referenceNumber}."""
    owner = require("operation", "access")
    now = world().clock.now()
    login = environment().logins.get(reference)
    if login is None or login is not owner:
        raise BadRequest(
            21304,
            f"Operacja uwierzytelniania o numerze referencyjnym {reference} "
            "nie została znaleziona.",
        )
    if now - login.started > timedelta(days=7):
        raise Gone
    with environment().lock:
        code = _poll(login)
    details = login.details or ([LOGIN_DETAILS[code]] if code in LOGIN_DETAILS else None)
    status = {"code": code, "description": LOGIN_WORDS.get(code, f"Nieznany błąd ({code})")}
    if code >= 300 and details:
        status["details"] = details
    return json_response(
        {
            "startDate": stamp(login.started),
            **_method(login.means),
            "status": status,
            "isTokenRedeemed": login.redeemed,
            "lastTokenRefreshDate": stamp(login.last_refresh) if login.last_refresh else None,
            "refreshTokenValidUntil": (
                stamp(login.refresh_valid_until) if login.refresh_valid_until else None
            ),
        }
    )


def _method(means: Means) -> dict[str, Any]:
    if means.document_sha256 is None:
        name, category, code, words = "Token", "Token", "token.ksef", "Token KSeF"
    else:
        name, category = "InternalCertificate", "XadesSignature"
        code, words = "xades.ksef", "Certyfikat KSeF"
    return {
        "authenticationMethod": name,
        "authenticationMethodInfo": {"category": category, "code": code, "displayName": words},
    }


def _poll(login: Login) -> int:
    if login.revoked:
        return 425
    if login.polls_left > 0 or world().clock.now() < login.ready:
        login.polls_left = max(0, login.polls_left - 1)
        return 100
    return login.code


def redeem() -> Response:
    """POST /auth/token/redeem: works once."""
    login = require("operation")
    env = environment()
    now = world().clock.now()
    settings = world().settings
    with env.lock:
        code = 100 if login.polls_left > 0 or now < login.ready else login.code
        if code != 200:
            raise BadRequest(
                21301, f"Status uwierzytelniania ({code}) nie pozwala na pobranie tokenów."
            )
        if login.redeemed:
            raise BadRequest(
                21301,
                f"Tokeny dla operacji uwierzytelniania {login.reference} zostały już pobrane.",
            )
        login.redeemed = True
        access = issue(env, "access", login, now, settings.access_token_seconds)
        refreshing = issue(env, "refresh", login, now, settings.refresh_token_seconds)
        login.refresh_valid_until = env.bearers[refreshing["token"]].valid_until
    return json_response({"accessToken": access, "refreshToken": refreshing})


def refresh() -> Response:
    """POST /auth/token/refresh: a new access token; the refresh token stays the same."""
    login = require("refresh")
    env = environment()
    now = world().clock.now()
    with env.lock:
        if login.revoked or _is_withdrawn(env, login):
            raise BadRequest(21301, "Token KSeF lub certyfikat został unieważniony.")
        login.last_refresh = now
        access = issue(env, "access", login, now, world().settings.access_token_seconds)
    return json_response({"accessToken": access})


def _is_withdrawn(env: Environment, login: Login) -> bool:
    """Whether a new login with the same means would be refused."""
    if login.means.fingerprint is not None:
        known = env.certificates.get((login.means.fingerprint, login.nip))
        return known is not None and known.outcome != 200
    return any(
        token.reference == login.means.token_reference and token.outcome != 200
        for token in env.ksef_tokens.values()
    )


def revoke_current() -> Response:
    """DELETE /auth/sessions/current: ends the refresh token; access tokens live on."""
    login = require("access", "refresh")
    with environment().lock:
        login.revoked = True
    return Response(status=204)


def revoke_named(reference: str) -> Response:
    """DELETE /auth/sessions/{referenceNumber}: the same for another login to the same NIP."""
    caller = require("access", "refresh")
    named = environment().logins.get(reference)
    if named is None or named.nip != caller.nip:
        raise BadRequest(21405, f"Sesja uwierzytelnienia {reference} nie została znaleziona.")
    with environment().lock:
        named.revoked = True
    return Response(status=204)
