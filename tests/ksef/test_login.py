"""The login dance, against a KSeF that really decrypts."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import responses
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from responses.matchers import header_matcher

from app import clock, errors
from app.ksef import limits, login
from app.ksef.failures import KsefTokenRejected
from app.ksef.limits import Limits
from app.ksef.login import REFUSED, LoginRefused, TokensLost, remedy
from app.ksef.metered import Metered
from app.ksef.wire import Tokens
from tests.ksef import answers
from tests.ksef.answers import URL
from tests.ksef.conftest import Company

NIP = "5265877635"
KSEF_TOKEN = "20260115-EC-0123456789-ABCDEF0123-4F|nip-5265877635|" + "0123456789abcdef" * 4
OPERATION = header_matcher({"Authorization": "Bearer operation-token"})
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@pytest.fixture(scope="module")
def ksefs_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def other_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def certificate(key: PrivateKey) -> str:
    """A certificate of a key, as KSeF hands it out."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "KSeF")])
    began = datetime(2026, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(began)
        .not_valid_after(began + timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    return base64.b64encode(made.public_bytes(Encoding.DER)).decode()


def of_unknown_algorithm(key: PrivateKey) -> str:
    """The same with an algorithm of the public key that nobody knows."""
    known = bytes.fromhex("2a864886f70d010101")  # rsaEncryption
    der = base64.b64decode(certificate(key))
    return base64.b64encode(der.replace(known, known[:-1] + b"\x7f")).decode()


def public_key(
    key: PrivateKey,
    *,
    key_id: str = "key-1",
    usage: str = "KsefTokenEncryption",
    days: tuple[float, float] = (-30, 30),
) -> Any:
    """A public key that is valid between two days, reckoned from the challenge's time."""
    asked = datetime.fromisoformat(answers.challenge()["timestamp"])
    begin, end = (asked + timedelta(days=day) for day in days)
    return answers.public_key(
        certificate=certificate(key),
        publicKeyId=key_id,
        usage=[usage],
        validFrom=begin.isoformat(),
        validTo=end.isoformat(),
    )


class Dance:
    """Prepares KSeF's part of a login, step by step."""

    def __init__(self, ksef: responses.RequestsMock, metered: Metered) -> None:
        self.ksef = ksef
        self._metered = metered

    def keys(self, *keys: Any) -> "Dance":
        self.ksef.get(f"{URL}/security/public-key-certificates", json=list(keys))
        return self

    def challenge(self) -> "Dance":
        self.ksef.post(f"{URL}/auth/challenge", json=answers.challenge())
        return self

    def accept(self) -> "Dance":
        self.ksef.post(f"{URL}/auth/ksef-token", status=202, json=answers.started_login())
        return self

    def refuse(self, code: int) -> "Dance":
        self.ksef.post(f"{URL}/auth/ksef-token", status=400, json=answers.problem(code))
        return self

    def status(self, code: int, description: str = "Opis") -> "Dance":
        reference = answers.started_login()["referenceNumber"]
        body = {"status": {"code": code, "description": description}}
        self.ksef.get(f"{URL}/auth/{reference}", json=body, match=[OPERATION])
        return self

    def redeem(self) -> "Dance":
        url = f"{URL}/auth/token/redeem"
        self.ksef.post(url, json=answers.tokens(), match=[OPERATION])
        return self

    def log_in(self, seconds: float = 5, ksef_token: str = KSEF_TOKEN) -> Tokens:
        return login.log_in(self._metered, ksef_token, nip=NIP, seconds=seconds, poll=0.001)

    @property
    def sent(self) -> list[dict[str, Any]]:
        """The bodies of the calls that answered a challenge."""
        return [
            json.loads(call.request.body)
            for call in self.ksef.calls
            if call.request.url == f"{URL}/auth/ksef-token"
        ]


@pytest.fixture
def dance(ksef: responses.RequestsMock, metered: Metered) -> Dance:
    return Dance(ksef, metered)


@pytest.fixture
def begun(dance: Dance, ksefs_key: rsa.RSAPrivateKey) -> Dance:
    """A login whose challenge was answered."""
    return dance.keys(public_key(ksefs_key)).challenge().accept()


def decrypted(key: rsa.RSAPrivateKey, body: dict[str, Any]) -> str:
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label=None)
    return key.decrypt(base64.b64decode(body["encryptedToken"]), oaep).decode()


def test_a_login_with_a_ksef_token(begun: Dance, ksefs_key: rsa.RSAPrivateKey) -> None:
    tokens = begun.status(100).status(100).status(200).redeem().log_in()
    assert (tokens.access.value, tokens.refresh.value) == ("access-token", "refresh-token")
    (body,) = begun.sent
    # KSeF's own time, of the challenge.
    assert decrypted(ksefs_key, body) == f"{KSEF_TOKEN}|1768474800123"
    assert body["challenge"] == answers.challenge()["challenge"]
    assert body["contextIdentifier"] == {"type": "Nip", "value": NIP}
    assert body["publicKeyId"] == "key-1"


class TestKeys:
    def test_the_newest_of_the_valid_ones_for_tokens_is_taken(
        self, dance: Dance, ksefs_key: rsa.RSAPrivateKey, other_key: rsa.RSAPrivateKey
    ) -> None:
        dance.keys(
            public_key(other_key, key_id="older", days=(-30, 30)),
            public_key(ksefs_key, key_id="newest", days=(-1, 10)),
            public_key(other_key, key_id="old", days=(-2, 90)),
            public_key(other_key, key_id="ended", days=(-0.5, -0.1)),
            public_key(other_key, key_id="to come", days=(0.1, 90)),
            public_key(
                other_key, key_id="of invoices", usage="SymmetricKeyEncryption", days=(-0.1, 90)
            ),
        )
        dance.challenge().accept().status(200).redeem().log_in()
        (body,) = dance.sent
        assert body["publicKeyId"] == "newest"
        assert decrypted(ksefs_key, body).startswith(KSEF_TOKEN)

    @pytest.mark.fault(24)
    @pytest.mark.parametrize("minutes", [-10, 10])
    def test_a_wrong_clock_of_ours_changes_nothing(
        self,
        dance: Dance,
        ksefs_key: rsa.RSAPrivateKey,
        other_key: rsa.RSAPrivateKey,
        monkeypatch: pytest.MonkeyPatch,
        minutes: int,
    ) -> None:
        """KSeF says in the challenge what time it is."""
        asked = datetime.fromisoformat(answers.challenge()["timestamp"])
        monkeypatch.setattr(clock, "now", lambda: asked + timedelta(minutes=minutes))
        five_minutes = 5 / (24 * 60)
        dance.keys(
            public_key(other_key, key_id="ended", days=(-30, -five_minutes)),
            public_key(ksefs_key, key_id="now", days=(-five_minutes, five_minutes)),
            public_key(other_key, key_id="to come", days=(five_minutes, 30)),
        )
        dance.challenge().accept().status(200).redeem().log_in()
        (body,) = dance.sent
        assert body["publicKeyId"] == "now"

    @pytest.mark.parametrize(
        "spoilt",
        [{"usage": "SymmetricKeyEncryption"}, {"days": (-2, -1)}, {"days": (1, 2)}],
        ids=str,
    )
    def test_without_a_usable_key_no_challenge_is_answered(
        self, dance: Dance, ksefs_key: rsa.RSAPrivateKey, spoilt: Any
    ) -> None:
        dance.keys(public_key(ksefs_key, **spoilt)).challenge()
        with pytest.raises(errors.KsefInvalidResponse, match="no valid public key"):
            dance.log_in()

    @pytest.mark.parametrize(
        "odd",
        [
            lambda key: {"certificate": base64.b64encode(b"no certificate").decode()},
            lambda key: {"certificate": "%%%%"},
            lambda key: {"certificate": ""},
            lambda key: {"certificate": certificate(ec.generate_private_key(ec.SECP256R1()))},
            lambda key: {"certificate": of_unknown_algorithm(key)},
            lambda key: {"publicKeyId": None},
            lambda key: {"usage": None},
        ],
        ids=["no certificate", "no Base64", "empty", "EC", "unknown", "no id", "no use"],
    )
    def test_a_key_that_cannot_be_used_is_passed_over(
        self, dance: Dance, ksefs_key: rsa.RSAPrivateKey, odd: Callable[[Any], Any]
    ) -> None:
        broken = {**public_key(ksefs_key, days=(-1, 30)), **odd(ksefs_key)}
        dance.keys(broken, public_key(ksefs_key, key_id="good")).challenge().accept()
        dance.status(200).redeem().log_in()
        (body,) = dance.sent
        assert body["publicKeyId"] == "good"
        dance.keys(broken).challenge()
        with pytest.raises(errors.KsefInvalidResponse, match="no valid public key"):
            dance.log_in()

    def test_a_key_may_have_no_end(self, dance: Dance, ksefs_key: rsa.RSAPrivateKey) -> None:
        key = public_key(ksefs_key)
        dance.keys({**key, "validTo": "9999-12-31T23:59:59.9999999+00:00"}).challenge().accept()
        dance.status(200).redeem().log_in()
        assert len(dance.sent) == 1

    def test_a_challenge_that_fits_no_document_breaks_the_contract(
        self, ksef: responses.RequestsMock, dance: Dance, ksefs_key: rsa.RSAPrivateKey
    ) -> None:
        dance.keys(public_key(ksefs_key))
        ksef.post(f"{URL}/auth/challenge", json=answers.challenge(challenge="2026\u0007CR"))
        with pytest.raises(errors.KsefInvalidResponse, match="contract: challenge: "):
            dance.log_in()

    def test_keys_changed_on_the_way_are_fetched_anew(
        self, dance: Dance, ksefs_key: rsa.RSAPrivateKey, other_key: rsa.RSAPrivateKey
    ) -> None:
        dance.keys(public_key(other_key, key_id="withdrawn")).challenge().refuse(21470)
        dance.keys(public_key(ksefs_key, key_id="new")).challenge().accept()
        dance.status(200).redeem().log_in()
        assert [body["publicKeyId"] for body in dance.sent] == ["withdrawn", "new"]
        assert decrypted(ksefs_key, dance.sent[1]).startswith(KSEF_TOKEN)

    def test_but_only_once(self, dance: Dance, ksefs_key: rsa.RSAPrivateKey) -> None:
        for _ in range(2):
            dance.keys(public_key(ksefs_key)).challenge().refuse(21470)
        with pytest.raises(errors.KsefError) as caught:
            dance.log_in()
        assert caught.value.ksef.code == 21470

    def test_another_refusal_fetches_nothing_anew(
        self, dance: Dance, ksefs_key: rsa.RSAPrivateKey
    ) -> None:
        dance.keys(public_key(ksefs_key)).challenge().refuse(21111)
        with pytest.raises(errors.KsefError) as caught:
            dance.log_in()
        assert caught.value.ksef.code == 21111

    def test_a_token_longer_than_the_key_holds_is_refused(
        self, dance: Dance, ksefs_key: rsa.RSAPrivateKey
    ) -> None:
        dance.keys(public_key(ksefs_key)).challenge()
        with pytest.raises(LoginRefused, match="too long"):
            dance.log_in(ksef_token="x" * 200)


class TestStatus:
    @pytest.mark.parametrize("code", sorted(REFUSED))
    def test_a_refused_credential(self, begun: Dance, code: int) -> None:
        begun.status(code, "Błąd uwierzytelnienia.")
        with pytest.raises(LoginRefused) as caught:
            begun.log_in()
        assert caught.value.detail == (
            f"KSeF refused the login: Błąd uwierzytelnienia.{remedy(code)}"
        )
        assert caught.value.ksef == errors.KsefAnswer(200, code, "Błąd uwierzytelnienia.")

    @pytest.mark.parametrize("code", [500, 550, 999])
    def test_any_other_failure_says_nothing_about_the_credential(
        self, begun: Dance, code: int
    ) -> None:
        begun.status(code)
        with pytest.raises(errors.KsefError) as caught:
            begun.log_in()
        assert type(caught.value) is errors.KsefError
        assert caught.value.ksef.code == code

    def test_a_login_in_progress_for_ever_is_left_in_time(
        self, metered: Metered, ksefs_key: rsa.RSAPrivateKey
    ) -> None:
        # The default registry gives the last answer again and again.
        with responses.RequestsMock() as ksef:
            begun = Dance(ksef, metered).keys(public_key(ksefs_key)).challenge().accept()
            begun.status(100)
            began = clock.monotonic()
            with pytest.raises(errors.KsefUnreachable, match="did not finish the login in time"):
                begun.log_in(seconds=0.2)
            assert clock.monotonic() - began < 2.2
            polls = [call for call in ksef.calls if call.request.method == "GET"][1:]
            # Each wait is twice the one before: not a poll a millisecond.
            assert 3 <= len(polls) <= 9

    def test_the_tokens_are_redeemed_once_even_if_the_answer_is_lost(
        self, ksef: responses.RequestsMock, begun: Dance
    ) -> None:
        begun.status(200)
        ksef.post(f"{URL}/auth/token/redeem", status=503)
        with pytest.raises(TokensLost):
            begun.log_in()
        assert len([call for call in ksef.calls if "redeem" in call.request.url]) == 1


def test_limits_of_the_groups_that_are_known(
    ksef: responses.RequestsMock, metered: Metered
) -> None:
    body = {
        "sessionMisc": {"perSecond": 1, "perMinute": 2, "perHour": -1},
        "other": None,
        "inventedGroup": {"perSecond": "many"},
    }
    bearer = header_matcher({"Authorization": "Bearer access"})
    ksef.get(f"{URL}/rate-limits", json=body, match=[bearer])
    assert login.rate_limits(metered, "access") == {"sessionMisc": Limits(1, 2, -1)}


class TestRevoke:
    url = f"{URL}/auth/sessions/current"

    def test_a_session_is_ended(self, ksef: responses.RequestsMock, metered: Metered) -> None:
        bearer = header_matcher({"Authorization": "Bearer refresh"})
        ksef.delete(self.url, status=204, match=[bearer])
        login.revoke(metered, "refresh")

    def test_one_that_ksef_knows_no_more(
        self, ksef: responses.RequestsMock, metered: Metered
    ) -> None:
        ksef.delete(self.url, status=401)
        with pytest.raises(KsefTokenRejected):
            login.revoke(metered, "refresh")

    def test_a_failure_is_not_repeated(
        self, ksef: responses.RequestsMock, metered: Metered
    ) -> None:
        ksef.delete(self.url, status=503)
        with pytest.raises(errors.KsefError):
            login.revoke(metered, "refresh")


def test_every_call_of_a_login_counts(
    dance: Dance, company: Company, ksefs_key: rsa.RSAPrivateKey
) -> None:
    dance.keys(public_key(ksefs_key)).challenge().accept().status(100).status(200).redeem()
    dance.log_in()
    assert company.noted.count(limits.UNGROUPED) == 6
