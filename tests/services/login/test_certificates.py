"""A certificate as the company's credential: sealed, logged in with, proved, watched."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app import clock, errors
from app.account import Account
from app.crypto import Vault
from app.ksef.certificates import Certificate
from app.service import Service
from app.services import outages
from app.services.login import certificates, credentials, session
from app.settings import Settings
from tests.certificates import KINDS, NOBODY, PERSON, Made, make
from tests.service import Company

NIP = "5265877635"
LOGIN = "POST /{environment}/v2/auth/xades-signature"
TOKEN_LOGIN = "POST /{environment}/v2/auth/ksef-token"
REFRESH = "POST /{environment}/v2/auth/token/refresh"
REVOKE = "DELETE /{environment}/v2/auth/sessions/current"


def here(service: Service) -> Account:
    """The company where only certificates that KSeF knows may log in."""
    return service.account(NIP, "demo")


@pytest.fixture
def company(make_company: Callable[..., Company]) -> Company:
    return make_company(NIP, logged_in=False)


@pytest.fixture
def known(control: Any) -> Callable[..., Certificate]:
    """Makes certificates that KSeF knows."""

    def register(kind: str = "ec", outcome: int = 200, **options: Any) -> Certificate:
        made = make(kind, **options)
        control.add_certificate("demo", NIP, made.pem.decode(), outcome=outcome)
        return certificate_of(made)

    return register


def certificate_of(made: Made) -> Certificate:
    return Certificate(made.certificate, made.key)


def stored(database: Any) -> Any:
    """(method, certificate_valid_until, secret) of the only credential, or None."""
    rows = database.execute("SELECT method, certificate_valid_until, secret FROM ksef_credentials")
    return rows[0] if rows else None


def end_of_tokens(database: Any, *, refresh_too: bool) -> None:
    database.execute("UPDATE ksef_sessions SET access_token_valid_until = now()")
    if refresh_too:
        database.execute("UPDATE ksef_sessions SET refresh_token_valid_until = now()")


def warnings(caplog: pytest.LogCaptureFixture) -> list[Any]:
    """(event, fields) of each warning so far."""
    return [
        (record.getMessage(), record.__dict__["fields"])
        for record in caplog.records
        if record.levelname == "WARNING"
    ]


# -- logging in -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("subject", [PERSON, NOBODY], ids=["person", "nobody"])
def test_login_with_a_certificate(
    service: Service, company: Company, control: Any, known: Any, kind: str, subject: Any
) -> None:
    certificate = known(kind, subject=subject)
    credentials.store_certificate(here(service), certificate)
    made = session.log_in(here(service))
    assert made.method == "certificate"
    assert made.certificate_valid_until == certificate.valid_until
    assert session.current_session(here(service)) == made
    counts = control.call_counts()
    assert counts[LOGIN] == 1
    assert TOKEN_LOGIN not in counts
    assert "GET /{environment}/v2/security/public-key-certificates" not in counts


def test_the_session_is_told_over_http(service: Service, company: Company, known: Any) -> None:
    credentials.store_certificate(here(service), known(days=(-1, 200)))
    answer = company.request("POST", "/auth/demo")
    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.json["method"] == "certificate"
    assert company.get("/auth/demo").json == answer.json
    until = known(days=(-1, 200)).valid_until
    assert answer.json["certificateValidUntil"][:10] in {
        str((until + timedelta(hours=hours)).date()) for hours in (0, 2)
    }


@pytest.mark.parametrize("code", [415, 425, 460, 480])
def test_a_refused_certificate_logs_nobody_in(
    service: Service, company: Company, database: Any, known: Any, code: int
) -> None:
    credentials.store_certificate(here(service), known(outcome=code))
    with pytest.raises(errors.KsefError) as refusal:
        session.log_in(here(service))
    assert refusal.value.ksef is not None
    assert refusal.value.ksef.code == code
    assert database.execute("SELECT * FROM ksef_sessions") == []


def test_the_session_lives_on_by_its_refresh_token(
    service: Service, company: Company, control: Any, database: Any, known: Any
) -> None:
    credentials.store_certificate(here(service), known())
    session.log_in(here(service))
    control.clear_calls()
    end_of_tokens(database, refresh_too=False)
    here(service).ksef.require_session()
    counts = control.call_counts()
    assert counts[REFRESH] == 1
    assert LOGIN not in counts
    assert session.current_session(here(service)).method == "certificate"


def test_an_ended_session_is_replaced_by_one_of_the_credential_stored_since(
    service: Service, company: Company, control: Any, database: Any, known: Any
) -> None:
    credentials.store_token(here(service), control.add_token("demo", NIP))
    assert session.log_in(here(service)).certificate_valid_until is None
    certificate = known()
    credentials.store_certificate(here(service), certificate)
    told = session.current_session(here(service))
    assert (told.method, told.certificate_valid_until) == ("token", certificate.valid_until)

    end_of_tokens(database, refresh_too=True)
    here(service).ksef.require_session()
    assert session.current_session(here(service)).method == "certificate"
    assert control.call_counts()[LOGIN] == 1

    credentials.store_token(here(service), control.add_token("demo", NIP))
    end_of_tokens(database, refresh_too=True)
    here(service).ksef.require_session()
    told = session.current_session(here(service))
    assert (told.method, told.certificate_valid_until) == ("token", None)


def test_a_certificate_revoked_meanwhile_ends_the_session(
    service: Service, company: Company, control: Any, database: Any, known: Any
) -> None:
    credentials.store_certificate(here(service), known())
    session.log_in(here(service))
    control.set_certificate_outcome("demo", 460, nip=NIP)
    end_of_tokens(database, refresh_too=False)
    with pytest.raises(errors.NoActiveKsefSession, match="could not be renewed"):
        here(service).ksef.require_session()
    with pytest.raises(errors.NoActiveKsefSession):
        session.current_session(here(service))


# -- at rest --------------------------------------------------------------------------------


def test_key_and_certificate_are_sealed_for_their_place(
    service: Service, company: Company, database: Any, settings: Settings
) -> None:
    made = make()
    credentials.store_certificate(here(service), certificate_of(made))
    method, valid_until, secret = stored(database)
    assert (method, valid_until) == ("certificate", made.certificate.not_valid_after_utc)
    assert b"PRIVATE" not in bytes(secret)
    assert b"CERTIFICATE" not in bytes(secret)
    vault = Vault(settings.secret_keys)
    place = {"company_nip": NIP, "environment": "demo", "purpose": "credential"}
    assert Certificate.from_json(vault.open(bytes(secret), **place)).x509 == made.certificate


def test_one_that_was_copied_to_another_environment_does_not_open(
    service: Service, company: Company, control: Any, database: Any
) -> None:
    credentials.store_certificate(here(service), certificate_of(make()))
    database.execute("UPDATE ksef_credentials SET environment = 'test'")
    with pytest.raises(errors.Unavailable, match="cannot be opened"):
        session.log_in(service.account(NIP, "test"))
    assert LOGIN not in control.call_counts()


def test_a_certificate_without_its_end_cannot_be_stored(company: Company, database: Any) -> None:
    auth_row = (
        "INSERT INTO ksef_credentials (company_nip, environment, method, secret,"
        " certificate_valid_until) VALUES"
    )
    for values in (
        f"('{NIP}', 'test', 'certificate', '', NULL)",
        f"('{NIP}', 'test', 'token', '', now())",
    ):
        with pytest.raises(Exception, match="certificate_has_an_end"):
            database.execute(f"{auth_row} {values}")


# -- its end --------------------------------------------------------------------------------


@pytest.mark.parametrize(("days", "warned"), [(31, False), (29, True)])
def test_each_login_warns_of_an_end_that_is_near(
    caplog: Any, service: Service, company: Company, known: Any, days: int, warned: bool
) -> None:
    certificate = known(days=(-1, days))
    credentials.store_certificate(here(service), certificate)
    caplog.clear()
    session.log_in(here(service))
    told = warnings(caplog)
    assert bool(told) is warned
    for event, fields in told:
        assert "ends soon" in event
        assert fields["valid_until"] == certificate.valid_until.isoformat()
        assert NIP not in str(fields)


def test_how_early_is_a_setting(
    caplog: Any, settings: Settings, service: Service, company: Company, known: Any
) -> None:
    credentials.store_certificate(here(service), known(days=(-1, 10)))
    timing = replace(settings.timing, certificate_warning=5 * 86400.0)
    late = Service(replace(settings, timing=timing))
    caplog.clear()
    session.log_in(here(late))
    assert warnings(caplog) == []
    timing = replace(settings.timing, certificate_warning=11 * 86400.0)
    session.log_out(here(service))
    early = Service(replace(settings, timing=timing))
    session.log_in(here(early))
    assert len(warnings(caplog)) == 1
    early.db.close()
    late.db.close()


# -- proving --------------------------------------------------------------------------------


@pytest.mark.fault(24)
@pytest.mark.parametrize("years", [-20, 20])
def test_whether_it_is_valid_is_not_judged_by_our_clock(
    service: Service, company: Company, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    wrong = clock.now() + timedelta(days=365 * years)
    monkeypatch.setattr(clock, "now", lambda: wrong)
    made = make()
    assert (
        certificates.read(service.db, made.pem + made.key_pem(), None, None).x509
        == made.certificate
    )


def test_proving_logs_in_and_out_and_stores_nothing(
    service: Service, company: Company, control: Any, database: Any, known: Any
) -> None:
    certificates.prove(here(service), known())
    counts = control.call_counts()
    assert (counts[LOGIN], counts[REVOKE]) == (1, 1)
    assert stored(database) is None
    assert database.execute("SELECT * FROM ksef_sessions") == []
    ledgers = "SELECT (SELECT count(*) FROM quota_calls), (SELECT count(*) FROM address_calls)"
    assert database.execute(ledgers) == [(sum(counts.values()),) * 2], "every call counts"


def test_without_quota_the_session_is_left_to_end_by_itself(
    service: Service, company: Company, control: Any, known: Any
) -> None:
    here(service).calls.block("other", 60)
    certificates.prove(here(service), known())
    assert REVOKE not in control.call_counts()


def test_a_session_that_cannot_be_ended_is_proof_enough(
    service: Service, company: Company, control: Any, known: Any
) -> None:
    control.fault("status", method="DELETE", status=500)
    certificates.prove(here(service), known())


def test_a_certificate_without_rights_is_told_with_its_identifier(
    service: Service, company: Company, known: Any
) -> None:
    with pytest.raises(errors.OperatorError) as refusal:
        certificates.prove(here(service), known(outcome=415, subject=PERSON))
    assert "PESEL 88102341294" in str(refusal.value)
    assert NIP in str(refusal.value)
    assert "Nothing was stored" in str(refusal.value)


def test_a_suspended_certificate_is_told_so_and_nothing_of_rights(
    service: Service, company: Company, control: Any, known: Any
) -> None:
    certificate = known()
    control.set_certificate_outcome("demo", 460, nip=NIP, details=["Certyfikat zawieszony"])
    with pytest.raises(errors.OperatorError) as refusal:
        certificates.prove(here(service), certificate)
    assert "Store a valid certificate. KSeF: Certyfikat zawieszony" in str(refusal.value)
    assert "rights" not in str(refusal.value)


def test_a_ksef_that_is_away_proves_nothing(
    service: Service, company: Company, control: Any, known: Any
) -> None:
    control.set_api("demo", available=False)
    with pytest.raises(errors.OperatorError, match="--no-verify"):
        certificates.prove(here(service), known())


def test_no_call_is_made_in_a_simulated_outage(
    service: Service, company: Company, control: Any, known: Any
) -> None:
    outages.simulate(service.db, "demo", company_nip=NIP, message="Ćwiczenie", ends_at=None)
    control.clear_calls()
    with pytest.raises(errors.OutageSimulation):
        certificates.prove(here(service), known())
    assert control.calls() == []
