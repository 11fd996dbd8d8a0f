"""Logging in to KSeF: challenge, answer, wait, redeem."""

from collections.abc import Callable
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from app import clock, errors
from app.ksef.certificates import Certificate
from app.ksef.gateway import BAD_CERTIFICATE, UNKNOWN_PUBLIC_KEY, WRONG_SUBJECT, Gateway
from app.ksef.wire import Challenge, PublicKey, StartedLogin, Tokens
from app.ksef.xades import login_request

TOKEN_ENCRYPTION = "KsefTokenEncryption"  # noqa: S105 - KSeF's name of a key usage
IN_PROGRESS = 100
DONE = 200
# Codes that speak of the credential; others, of KSeF's own trouble or unknown, may pass.
REFUSED = frozenset({415, 425, 450, 460, 480})
# … and those of the call itself that speak of the certificate.
_CERTIFICATE_REFUSED = frozenset({BAD_CERTIFICATE, WRONG_SUBJECT})
_LONGEST_POLL = 1.0


class LoginRefused(errors.KsefError):
    """KSeF refused the credential itself; the same one will be refused again."""

    @property
    def may_pass(self) -> bool:
        return False


def log_in_with_token(
    gateway: Gateway, *, nip: str, ksef_token: str, seconds: float, poll: float
) -> Tokens:
    """Log a company in with its KSeF token, in at most `seconds`, asking every `poll` seconds.

    Raises LoginRefused where KSeF refuses the token, and what the gateway raises.
    """
    deadline = clock.monotonic() + seconds
    try:
        login = _answer_challenge(gateway, nip, ksef_token)
    except errors.KsefError as error:
        if error.ksef is None or error.ksef.code != UNKNOWN_PUBLIC_KEY:
            raise
        # KSeF changed its keys between our two calls: they are fetched anew, once.
        login = _answer_challenge(gateway, nip, ksef_token)
    _wait(gateway, login, deadline, poll)
    return gateway.redeem(login)


def log_in_with_certificate(
    gateway: Gateway, *, nip: str, certificate: Certificate, seconds: float, poll: float
) -> Tokens:
    """Log a company in with a certificate, in at most `seconds`, asking every `poll` seconds.

    Raises LoginRefused where KSeF refuses the certificate, and what the gateway raises.
    """
    deadline = clock.monotonic() + seconds
    challenge = gateway.challenge()
    try:
        login = gateway.start_login_with_certificate(
            login_request(certificate, nip=nip, challenge=challenge)
        )
    except errors.KsefError as error:
        if error.ksef is None or error.ksef.code not in _CERTIFICATE_REFUSED:
            raise
        raise LoginRefused(error.detail, ksef=error.ksef) from error
    _wait(gateway, login, deadline, poll)
    return gateway.redeem(login)


def _answer_challenge(gateway: Gateway, nip: str, ksef_token: str) -> StartedLogin:
    keys = gateway.public_keys()
    challenge = gateway.challenge()
    key = _token_encryption_key(keys, challenge.made_at)
    return gateway.start_login_with_token(
        nip=nip,
        challenge=challenge.challenge,
        encrypted_token=_encrypt(key, ksef_token, challenge),
        public_key_id=key.key_id,
    )


def _token_encryption_key(keys: list[PublicKey], now: datetime) -> PublicKey:
    """The newest key that is meant for tokens and valid `now`: by KSeF's clock, not by ours."""
    usable = [
        key
        for key in keys
        if TOKEN_ENCRYPTION in key.usages and key.valid_from <= now <= key.valid_to
    ]
    if not usable:
        raise errors.KsefInvalidResponse("KSeF gives no valid key for encrypting a token.")
    return max(usable, key=lambda key: key.valid_from)


def _encrypt(key: PublicKey, ksef_token: str, challenge: Challenge) -> bytes:
    """RSA-OAEP over the token and the challenge's own time, which is KSeF's and not ours."""
    try:
        public_key = x509.load_der_x509_certificate(key.certificate).public_key()
    except ValueError:
        raise errors.KsefInvalidResponse("KSeF's public key is not a certificate.") from None
    if not isinstance(public_key, rsa.RSAPublicKey):
        raise errors.KsefInvalidResponse("KSeF's public key for tokens is not an RSA key.")
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label=None)
    try:
        return public_key.encrypt(f"{ksef_token}|{challenge.timestamp_ms}".encode(), oaep)
    except ValueError:
        raise LoginRefused("The KSeF token is too long for KSeF's key: it is no token.") from None


def _wait(
    gateway: Gateway,
    login: StartedLogin,
    deadline: float,
    poll: float,
    sleep: Callable[[float], None] = clock.sleep,
) -> None:
    while True:
        status = gateway.login_status(login)
        if status.code == DONE:
            return
        if status.code != IN_PROGRESS:
            said = errors.KsefAnswer(200, status.code, status.description, status.details)
            kind = LoginRefused if status.code in REFUSED else errors.KsefError
            words = status.description.rstrip(".")
            raise kind(f"KSeF refused the login: {words}.", ksef=said)
        if clock.monotonic() + poll > deadline:
            raise errors.KsefUnreachable("KSeF did not finish the login in time.")
        sleep(poll)
        poll = min(2 * poll, _LONGEST_POLL)
