"""KSeF's login: keys, challenge, token or certificate, redeem, refresh, revoke."""

import re
from datetime import timedelta
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.x509 import NameOID
from flask import Response, request

from sandbox import identifiers, xades
from sandbox.access import environment, find_key, issue, read_body, require
from sandbox.blueprints import ksef
from sandbox.bodies import TokenLogin
from sandbox.clock import stamp
from sandbox.paging import list_page
from sandbox.problems import BadRequest, KsefProblem, json_response, status_info
from sandbox.settings import LIMITS
from sandbox.state import Credential, Login, Means
from sandbox.world import world

# What a certificate may name its owner by.
_OWNERS = (
    (NameOID.ORGANIZATION_IDENTIFIER, r"VATPL.*?[0-9]{10}"),
    (NameOID.SERIAL_NUMBER, r"(PNOPL|PESEL).*?[0-9]{11}|(TINPL|NIP).*?[0-9]{10}"),
)
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


@ksef.get("/security/public-key-certificates")
def public_keys() -> Response:
    """The keys with which clients encrypt now."""
    return json_response([pair.as_json() for pair in environment().keys.published()])


@ksef.get("/rate-limits")
def rate_limits() -> Response:
    """The limits of all groups, whether they are enforced or not."""
    require("access")
    return json_response(LIMITS | world().settings.limits)


@ksef.post("/auth/challenge")
def challenge() -> Response:
    """A new challenge, for one login."""
    now = world().clock.now()
    value = identifiers.reference_number("CR", now.date())
    milliseconds = int(now.timestamp() * 1000)
    valid_until = now + timedelta(seconds=world().settings.challenge_seconds)
    with environment().lock:
        environment().challenges[value] = milliseconds, valid_until
    return json_response(
        {
            "challenge": value,
            "timestamp": stamp(now),
            "timestampMs": milliseconds,
            "clientIp": request.remote_addr,
        }
    )


@ksef.post("/auth/ksef-token")
def ksef_token() -> Response:
    """Login with a token; what is wrong with the token itself shows in the login's status."""
    body = read_body(TokenLogin)
    nip = body.context_identifier.value
    pair = find_key("KsefTokenEncryption", body.public_key_id)
    given_ms = _use_challenge(body.challenge)
    try:
        plain = pair.decrypt(body.encrypted_token).decode()
    except ValueError:
        token = _refused("Nieprawidłowe szyfrowanie tokena")
    else:
        token = _judge(plain, given_ms, nip)
    return _start(nip, Means(token.reference), token)


@ksef.post("/auth/xades-signature")
def xades_signature() -> Response:
    """Login with a certificate.

    The document is verified at once; the certificate's rights show in the login's status.
    """
    chain = request.args.get("verifyCertificateChain", "false").lower()
    if chain not in ("true", "false"):
        raise BadRequest(21405, "Parametr 'verifyCertificateChain' nie jest wartością logiczną.")
    signed, certificate = xades.read(request.get_data())
    nip = str(signed.xpath("string(*[2]/*[local-name() = 'Nip'])"))
    if not nip:
        raise BadRequest(21117, "Piaskownica zna tylko kontekst Nip.")
    if signed.xpath("normalize-space(*[3]) = 'certificateSubject'") and not any(
        re.search(pattern, str(attribute.value))
        for name, pattern in _OWNERS
        for attribute in certificate.subject.get_attributes_for_oid(name)
    ):
        raise BadRequest(21117, "Certyfikat nie zawiera identyfikatora podmiotu.")
    env = environment()
    now = world().clock.now()
    _use_challenge(str(signed.xpath("normalize-space(*[1])")))
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex().upper()
    registered = env.certificates.get((fingerprint, nip))
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        outcome = _refused("Nieważny certyfikat", 460)
    elif registered is not None:
        outcome = registered
    elif env.name == "test" and chain == "false":
        outcome = Credential(fingerprint, nip)
    elif any(known == fingerprint for known, _ in env.certificates):
        outcome = _refused("Brak przypisanych uprawnień", 415)
    else:
        outcome = _refused("Niezaufany łańcuch certyfikatów", 460)
    sha256 = identifiers.sha256_base64(request.get_data())
    means = Means(document_sha256=sha256, fingerprint=fingerprint)
    return _start(nip, means, outcome)


def _use_challenge(value: str) -> int:
    """When the challenge was given, in milliseconds; it can't be used again.

    21111 for one unknown, used or too old.
    """
    now = world().clock.now()
    with environment().lock:
        given_ms, valid_until = environment().challenges.pop(value, (0, now))
    if valid_until <= now:
        raise BadRequest(21111)
    return given_ms


def _start(nip: str, means: Means, outcome: Credential) -> Response:
    """Begins a login operation that will end as `outcome` says."""
    now = world().clock.now()
    login = Login(
        reference=identifiers.reference_number("AU", now.date()),
        nip=nip,
        started=now,
        means=means,
        code=outcome.outcome,
        details=outcome.details,
        polls_left=world().settings.auth_polls,
        ready=now + timedelta(seconds=world().settings.auth_seconds),
    )
    with environment().lock:
        environment().logins[login.reference] = login
        token = issue("operation", login)
    return json_response({"referenceNumber": login.reference, "authenticationToken": token}, 202)


def _refused(detail: str, code: int = 450) -> Credential:
    return Credential("", "", outcome=code, details=[detail])


def _judge(plain: str, given_ms: int, nip: str) -> Credential:
    """The token that was sent, with the outcome of this login."""
    # KSeF tokens hold bars themselves: the time stands after the last one.
    value, bar, sent_ms = plain.rpartition("|")
    if not bar or not (sent_ms.isascii() and sent_ms.isdecimal()):
        return _refused("Nieprawidłowe kodowanie tokena")
    token = environment().tokens.get(value)
    if token is None:
        return _refused("Nieprawidłowy token")
    if int(sent_ms) != given_ms:
        return _refused("Nieprawidłowy czas tokena")
    if token.nip != nip:
        return _refused(f"Token nie może być użyty w kontekście Nip {nip}")
    return token


@ksef.get("/auth/<reference>")
def login_status(reference: str) -> Response:
    """How a login stands, and in what it ended."""
    login = require("operation", "access")
    if login.reference != reference:
        raise BadRequest(
            21304,
            f"Operacja uwierzytelniania o numerze referencyjnym {reference} "
            "nie została znaleziona.",
        )
    if world().clock.now() - login.started > timedelta(days=7):
        raise KsefProblem(410, "Gone", "Operacja nie jest już dostępna.")
    with environment().lock:
        settled = login.revoked or _is_settled(login)
        login.polls_left = max(0, login.polls_left - 1)
    return json_response(_shown(login, 425 if login.revoked else login.code if settled else 100))


@ksef.get("/auth/sessions")
def login_sessions() -> Response:
    """The active logins to the caller's NIP, the newest first."""
    caller = require("access")
    with environment().lock:
        logins = [
            login
            for login in environment().logins.values()
            if login.nip == caller.nip and login.redeemed and not login.revoked
        ]
    logins.sort(key=lambda login: login.started, reverse=True)

    def show(login: Login) -> dict[str, Any]:
        own = {"referenceNumber": login.reference, "isCurrent": login is caller}
        return own | _shown(login, 200)

    return list_page("items", f"{caller.nip}|logins", logins, show, most=100)


def _shown(login: Login, code: int) -> dict[str, Any]:
    details = login.details or ([LOGIN_DETAILS[code]] if code in LOGIN_DETAILS else None)
    if login.means.document_sha256 is None:
        method, category, kind, words = "Token", "Token", "token.ksef", "Token KSeF"
    else:
        method, category = "InternalCertificate", "XadesSignature"
        kind, words = "xades.ksef", "Certyfikat KSeF"
    return {
        "startDate": stamp(login.started),
        "authenticationMethod": method,
        "authenticationMethodInfo": {"category": category, "code": kind, "displayName": words},
        "status": status_info(code, LOGIN_WORDS, details if code >= 300 else None),
        "isTokenRedeemed": login.redeemed,
        "lastTokenRefreshDate": login.last_refresh,
        "refreshTokenValidUntil": login.refresh_valid_until,
    }


def _is_settled(login: Login) -> bool:
    return login.polls_left == 0 and world().clock.now() >= login.ready


@ksef.post("/auth/token/redeem")
def redeem() -> Response:
    """The access and refresh token of a login that succeeded; works once."""
    login = require("operation")
    with environment().lock:
        code = login.code if _is_settled(login) else 100
        if code != 200:
            raise BadRequest(
                21301, f"Status uwierzytelniania ({code}) nie pozwala na pobranie tokenów."
            )
        if login.redeemed:
            raise BadRequest(21301, f"Tokeny operacji {login.reference} zostały już pobrane.")
        login.redeemed = True
        access, refreshing = issue("access", login), issue("refresh", login)
        login.refresh_valid_until = refreshing["validUntil"]
    return json_response({"accessToken": access, "refreshToken": refreshing})


@ksef.post("/auth/token/refresh")
def refresh() -> Response:
    """A new access token; the refresh token stays the same."""
    login = require("refresh")
    with environment().lock:
        if login.revoked or _is_withdrawn(login):
            raise BadRequest(21301, "Token KSeF lub certyfikat został unieważniony.")
        login.last_refresh = stamp(world().clock.now())
        access = issue("access", login)
    return json_response({"accessToken": access})


def _is_withdrawn(login: Login) -> bool:
    """Whether a new login with the same means would be refused."""
    env = environment()
    if login.means.fingerprint is not None:
        known = env.certificates.get((login.means.fingerprint, login.nip))
        return known is not None and known.outcome != 200
    return any(
        token.reference == login.means.token_reference and token.outcome != 200
        for token in env.tokens.values()
    )


@ksef.delete("/auth/sessions/current")
def revoke_current() -> Response:
    """Ends the refresh token; access tokens live on."""
    login = require("access", "refresh")
    with environment().lock:
        login.revoked = True
    return Response(status=204)


@ksef.delete("/auth/sessions/<reference>")
def revoke_named(reference: str) -> Response:
    """The same for another login to the same NIP."""
    caller = require("access", "refresh")
    named = environment().logins.get(reference)
    if named is None or named.nip != caller.nip:
        raise BadRequest(21405, f"Sesja uwierzytelnienia {reference} nie została znaleziona.")
    with environment().lock:
        named.revoked = True
    return Response(status=204)
