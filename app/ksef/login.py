"""Logging in to KSeF: challenge, answer, wait, redeem; refreshing an access token; logging out."""

import base64
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from app import clock, errors
from app.ksef import failures, limits, wire
from app.ksef.certificates import Certificate
from app.ksef.http import Route
from app.ksef.metered import Metered
from app.ksef.wire import Challenge, PublicKey, StartedLogin, Token, Tokens
from app.ksef.xades import login_request

PUBLIC_KEYS = Route("GET", "/security/public-key-certificates")
CHALLENGE = Route("POST", "/auth/challenge")
LOGIN_WITH_TOKEN = Route("POST", "/auth/ksef-token")
LOGIN_WITH_CERTIFICATE = Route("POST", "/auth/xades-signature")
LOGIN_STATUS = Route("GET", "/auth/{referenceNumber}")
REDEEM = Route("POST", "/auth/token/redeem")
REFRESH = Route("POST", "/auth/token/refresh")
REVOKE = Route("DELETE", "/auth/sessions/current", limits.OTHER)
RATE_LIMITS = Route("GET", "/rate-limits", limits.OTHER)

TOKEN_ENCRYPTION = "KsefTokenEncryption"  # noqa: S105 - KSeF's name of a key usage
IN_PROGRESS = 100
DONE = 200
# Codes that speak of the credential, and what helps; others, of KSeF's own trouble or unknown, may
# pass.
_REMEDIES = {
    415: "Grant it rights for this company in KSeF.",
    425: "Log in anew.",
    450: "Store a valid token.",
    460: "Store a valid certificate.",
    470: "Store the credential of another person.",
    480: "An operator must act: store it anew, or run `login`.",
}
REFUSED = frozenset(_REMEDIES)
REVOKED = 425  # the login, not the credential: the same one may log in anew
# … and those of the call itself that speak of the certificate.
_CERTIFICATE_REFUSED = frozenset({failures.BAD_CERTIFICATE, failures.WRONG_SUBJECT})
_LONGEST_POLL = 1.0


class LoginRefused(errors.KsefError):
    """KSeF refused the credential itself; the same one will be refused again, but for REVOKED."""

    @property
    def may_pass(self) -> bool:
        return self.ksef is not None and self.ksef.code == REVOKED


def remedy(code: int | None) -> str:
    """What helps against a refusal of the credential, as a sentence after a space; or nothing."""
    return f" {_REMEDIES[code]}" if code in _REMEDIES else ""


class TokensLost(errors.KsefUnreachable):
    """A login may have succeeded at KSeF, but its tokens did not arrive: a new login is needed.

    `failure` is how the call failed.
    """

    def __init__(self, failure: errors.KsefFailure) -> None:
        super().__init__(failure.detail, ksef=failure.ksef)
        self.health = failure.health
        self.failure = failure


def log_in(
    http: Metered, credential: Certificate | str, *, nip: str, seconds: float, poll: float
) -> Tokens:
    """Log a company in with a certificate or its KSeF token, asking every `poll` seconds.

    It takes at most `seconds`. Raises LoginRefused where KSeF refuses the credential, TokensLost,
    and what `Metered.send` raises.
    """
    until = clock.monotonic() + seconds
    if isinstance(credential, Certificate):
        login = _begin_with_certificate(http, nip, credential)
    else:
        login = _begin_with_token(http, nip, credential)
    _wait(http, login, until, poll)
    return _redeem(http, login)


def refresh(http: Metered, refresh_token: str) -> Token:
    """A new access token. The refresh token stays as it is."""
    answer = http.send_twice(REFRESH, bearer=refresh_token)
    return wire.decode(wire.Refreshed, answer.body).access


def revoke(http: Metered, token: str) -> None:
    """End the KSeF session of an access or refresh token. KsefTokenRejected where there is none."""
    http.send(REVOKE, bearer=token)


def rate_limits(http: Metered, access_token: str) -> dict[str, limits.Limits]:
    """The company's own rate limits, by group."""
    answer = http.send_twice(RATE_LIMITS, bearer=access_token)
    found = wire.decode(limits.LimitsByGroup, answer.body)
    return {group: own for group in limits.PUBLISHED if (own := getattr(found, group))}


def _challenge(http: Metered) -> Challenge:
    return wire.decode(Challenge, http.send(CHALLENGE).body)


def _begin_with_certificate(http: Metered, nip: str, certificate: Certificate) -> StartedLogin:
    document = login_request(certificate, nip=nip, challenge=_challenge(http))
    try:
        answer = http.send(LOGIN_WITH_CERTIFICATE, xml=document)
    except errors.KsefError as error:
        if failures.code_of(error) not in _CERTIFICATE_REFUSED:
            raise
        raise LoginRefused(error.detail, ksef=error.ksef) from error
    return wire.decode(StartedLogin, answer.body)


def _begin_with_token(http: Metered, nip: str, ksef_token: str) -> StartedLogin:
    try:
        return _answer_challenge(http, nip, ksef_token)
    except errors.KsefError as error:
        if failures.code_of(error) != failures.UNKNOWN_PUBLIC_KEY:
            raise
    # KSeF changed its keys between our two calls: they are fetched anew, once.
    return _answer_challenge(http, nip, ksef_token)


def _answer_challenge(http: Metered, nip: str, ksef_token: str) -> StartedLogin:
    keys = wire.decode(list[PublicKey], http.send_twice(PUBLIC_KEYS).body)
    challenge = _challenge(http)
    key_id, key = _token_encryption_key(keys, challenge.made_at)
    answer = http.send(
        LOGIN_WITH_TOKEN,
        json={
            "challenge": challenge.challenge,
            "contextIdentifier": {"type": "Nip", "value": nip},
            "encryptedToken": base64.b64encode(_encrypt(key, ksef_token, challenge)).decode(),
            "publicKeyId": key_id,
        },
    )
    return wire.decode(StartedLogin, answer.body)


def _token_encryption_key(keys: list[PublicKey], now: datetime) -> tuple[str, rsa.RSAPublicKey]:
    """The newest key for tokens that is valid `now`, by KSeF's clock, and its id.

    Keys that cannot be used are passed over.
    """
    usable = [
        (key.valid_from, key.public_key_id, public_key)
        for key in keys
        if TOKEN_ENCRYPTION in key.usage
        and key.public_key_id
        and key.valid_from
        and key.valid_from <= now <= (key.valid_to or now)
        and (public_key := _rsa_key(key.certificate))
    ]
    if not usable:
        raise errors.KsefInvalidResponse("KSeF gives no valid public key for encrypting a token.")
    _, key_id, newest = max(usable, key=lambda found: found[0])
    return key_id, newest


def _rsa_key(certificate: str) -> rsa.RSAPublicKey | None:
    """The public key of a certificate, if it is an RSA one."""
    try:
        der = base64.b64decode(certificate, validate=True)
        key = x509.load_der_x509_certificate(der).public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        return None
    return key if isinstance(key, rsa.RSAPublicKey) else None


def _encrypt(key: rsa.RSAPublicKey, ksef_token: str, challenge: Challenge) -> bytes:
    """RSA-OAEP over the token and the challenge's own time, which is KSeF's and not ours."""
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label=None)
    try:
        return key.encrypt(f"{ksef_token}|{challenge.timestamp_ms}".encode(), oaep)
    except ValueError:
        raise LoginRefused("The KSeF token is too long for KSeF's key: it is no token.") from None


def _wait(http: Metered, login: StartedLogin, until: float, poll: float) -> None:
    """Return once the login is done; `until` is a moment of `clock.monotonic`."""
    bearer = login.operation_token.value
    while True:
        answer = http.send_twice(LOGIN_STATUS, login.reference_number, bearer=bearer)
        status = wire.decode(wire.LoginStatus, answer.body).status
        if status.code == DONE:
            return
        if status.code != IN_PROGRESS:
            said = failures.of_status(status)
            kind = LoginRefused if status.code in REFUSED else errors.KsefError
            words = (said.description or str(status.code)).rstrip(".")
            raise kind(f"KSeF refused the login: {words}.{remedy(status.code)}", ksef=said)
        if clock.monotonic() + poll > until:
            raise errors.KsefUnreachable("KSeF did not finish the login in time.")
        clock.sleep(poll)
        poll = min(2 * poll, _LONGEST_POLL)


def _redeem(http: Metered, login: StartedLogin) -> Tokens:
    """The tokens of a finished login, which KSeF hands out only once."""
    try:
        answer = http.send(REDEEM, bearer=login.operation_token.value)
        return wire.decode(Tokens, answer.body)
    except (errors.KsefUnreachable, errors.KsefInvalidResponse) as error:
        raise TokensLost(error) from error
    except errors.KsefError as error:
        if error.ksef is None or error.ksef.http_status < 500:
            raise
        raise TokensLost(error) from error
