"""The operator's commands, through Flask's own runner."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import argon2
import click
import psycopg2
import pypdf
import pytest
from click.testing import Result
from flask import Flask
from lxml import etree
from psycopg2.extensions import make_dsn

from app import create_app, errors
from app.context import EXTENSION
from app.db.migrate import migrate
from app.db.queries import users as user_queries
from app.ksef import certificates
from app.service import Service
from app.services.login import credentials
from app.services.login import session as login
from app.services.operators import users
from app.signers import DEFAULT_SIGNERS
from sandbox.signing import sign
from tests.api.test_policy import commands
from tests.certificates import make
from tests.rows import SYNCED
from tests.upo import samples
from tests.upo.signed import forged, seal, signed, signers

PROJECT = Path(__file__).parents[1]

NIP, OTHER_NIP = "5265877635", "7812019453"
EMAIL, PASSWORD = "erp@firma.example", "zażółć gęślą jaźń"
NUMBER = "5265877635-20250826-0100001AF629-AF"
REFERENCE = "20260101-SO-0123456789-0123456789-01"
PLACE = ("--nip", NIP, "--environment", "test")
CSV = (
    "invoice_number,ksef_number,ksef_reference_number\n"
    f"FV/1 żółw,{NUMBER},\nFV/2,,{REFERENCE}\nFV/3,{NUMBER},{REFERENCE}\n"
)

Run = Callable[..., Result]


@pytest.fixture
def run(app: Flask) -> Run:
    def run(*arguments: str, given: str = "") -> Result:
        return app.test_cli_runner().invoke(args=arguments, input=given)

    return run


@pytest.fixture
def company(service: Service) -> None:
    users.add_company(service.db, NIP, "Firma")


@pytest.fixture
def user(service: Service, company: None) -> None:
    """An admin of the company, EMAIL with PASSWORD."""
    users.add_user(
        service.db, service.passwords, email=EMAIL, nip=NIP, role="admin", password=PASSWORD
    )


def done(result: Result) -> str:
    """What a command that succeeded wrote, and nothing on standard error but the log."""
    assert result.exit_code == 0, result.output
    assert not [line for line in result.stderr.splitlines() if not line.startswith("{")]
    return result.stdout


def refused(result: Result, *words: str, code: int = 1) -> None:
    """The command told in words what is wrong, without a stack trace."""
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.stderr
    assert result.stdout == ""


def everything(database: Any) -> list[tuple[Any, ...]]:
    """All that commands can write."""
    tables = (
        "companies",
        "users",
        "ksef_credentials",
        "outage_simulations",
        "synced_invoices",
        "offline_invoices",
    )
    return [row for table in tables for row in database.execute(f"SELECT t::text FROM {table} t")]


# -- migrate --------------------------------------------------------------------------------


@contextmanager
def app_on(settings: Any, dsn: str) -> Iterator[Flask]:
    app = create_app(replace(settings, database_url=dsn))
    yield app
    app.extensions[EXTENSION].db.close()


def test_migrate_brings_an_empty_database_up_to_date(settings: Any, empty_database: Any) -> None:
    with app_on(settings, empty_database.owner_dsn) as app:
        assert "applied 0001_initial\n" in done(app.test_cli_runner().invoke(args=["migrate"]))
        assert done(app.test_cli_runner().invoke(args=["migrate"])) == "up to date\n"
        assert app.test_client().get("/readyz").status_code == 200


def test_migrate_tells_what_it_waits_for_and_gives_up(settings: Any, empty_database: Any) -> None:
    timing = replace(settings.timing, migration_lock=0.5, migration_pause=0.01, migration_tries=2)
    migrate(empty_database.owner_dsn)
    empty_database.execute(
        "DELETE FROM schema_migrations WHERE version >= 8; DROP TABLE address_calls, address_gates"
    )
    with (
        app_on(replace(settings, timing=timing), empty_database.owner_dsn) as app,
        closing(psycopg2.connect(empty_database.owner_dsn)) as holder,
    ):
        holder.cursor().execute("CREATE TABLE address_gates ()")  # so that nobody else can
        result = app.test_cli_runner().invoke(args=["migrate"])
    refused(
        result, "0008_address_ledger waits for ", " (tries left: 1)\n", "Error: 0008_address_ledger"
    )
    assert result.stderr.count("\n") == 2


def test_migrate_by_a_role_that_owns_nothing_is_told(run: Run) -> None:
    told = run("migrate")
    refused(
        told,
        "cannot be migrated: permission denied for schema public: DATABASE_URL must name it with"
        " the role that owns it, and not with ",
    )
    assert told.stderr.count("\n") == 1


def test_migrate_of_a_database_that_can_only_be_read_is_told(
    settings: Any, empty_database: Any
) -> None:
    name = empty_database.name
    empty_database.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with app_on(settings, empty_database.owner_dsn) as app:
        result = app.test_cli_runner().invoke(args=["migrate"])
    assert result.stderr == (
        "Error: The database cannot be migrated: cannot execute CREATE TABLE in a read-only"
        " transaction\n"
    )


def test_migrate_without_a_database_is_told(settings: Any) -> None:
    dsn = "postgresql://nobody:hunter2@127.0.0.1:1/nothing"
    with app_on(settings, dsn) as app:
        result = app.test_cli_runner().invoke(args=["migrate"])
    refused(result, "cannot be migrated")
    assert "hunter2" not in result.output


# -- company, user --------------------------------------------------------------------------


def test_company_add(run: Run, database: Any) -> None:
    assert done(run("company", "add", NIP, "Firma sp. z o.o.")) == f"company {NIP} added\n"
    assert database.execute("SELECT nip, name FROM companies") == [(NIP, "Firma sp. z o.o.")]


def test_company_add_refuses_what_is_wrong(run: Run, company: None, database: Any) -> None:
    before = everything(database)
    refused(run("company", "add", "5265877636", "Firma"), "5265877636 is not a NIP")
    refused(run("company", "add", OTHER_NIP, " "), "needs a name")
    refused(run("company", "add", NIP, "Again"), "exists already")
    refused(run("company", "add", NIP), "Missing argument", code=2)
    assert everything(database) == before


def test_user_add_shows_the_made_password_once(
    run: Run, service: Service, company: None, database: Any
) -> None:
    output = done(run("user", "add", EMAIL, "--nip", NIP, "--role", "technical"))
    found = re.fullmatch(rf"user {EMAIL} added\npassword: (\S{{24,}})\n", output)
    assert found is not None
    assert (
        users.authenticate(service.db, service.passwords, service.timing, EMAIL, found[1]).role
        == "technical"
    )
    assert found[1] not in str(everything(database))
    assert found[1] not in done(run("user", "list"))


def test_user_add_takes_a_password_from_standard_input_and_does_not_show_it(
    run: Run, service: Service, company: None
) -> None:
    arguments = ("user", "add", EMAIL, "--nip", NIP, "--role", "admin", "--password-stdin")
    assert done(run(*arguments, given=f"{PASSWORD}\n")) == f"user {EMAIL} added\n"
    assert (
        users.authenticate(service.db, service.passwords, service.timing, EMAIL, PASSWORD).role
        == "admin"
    )


def test_user_add_refuses_what_is_wrong(run: Run, company: None, database: Any) -> None:
    before = everything(database)
    role = ("--role", "admin")
    refused(run("user", "add", EMAIL, "--nip", OTHER_NIP, *role), "no company", "company add")
    refused(run("user", "add", "nobody", "--nip", NIP, *role), "not an e-mail address")
    refused(
        run("user", "add", EMAIL, "--nip", NIP, *role, "--password-stdin", given="short\n"),
        "at least 12 characters",
    )
    refused(
        run("user", "add", EMAIL, "--nip", NIP, *role, "--password-stdin", given=""),
        "at least 12 characters",
    )
    refused(run("user", "add", EMAIL, "--nip", NIP, "--role", "root"), "'root'", code=2)
    refused(run("user", "add", EMAIL, "--nip", NIP), "--role", code=2)
    refused(run("user", "add", EMAIL, *role), "--nip", code=2)
    assert everything(database) == before


def test_user_add_twice_keeps_the_first_password(run: Run, service: Service, company: None) -> None:
    arguments = ("user", "add", EMAIL, "--nip", NIP, "--role", "admin", "--password-stdin")
    done(run(*arguments, given=f"{PASSWORD}\n"))
    refused(run(*arguments, given="another long password\n"), "exists already: see user set-pas")
    assert (
        users.authenticate(service.db, service.passwords, service.timing, EMAIL, PASSWORD).email
        == EMAIL
    )


def test_a_password_is_taken_as_it_is(run: Run, service: Service, company: None) -> None:
    add = ("user", "add", EMAIL, "--nip", NIP, "--role", "admin", "--password-stdin")
    password = " ósmy cud świata \t"
    done(run(*add, given=f"{password}\r\n"))
    known = (service.db, service.passwords, service.timing)
    assert users.authenticate(*known, EMAIL, password).email == EMAIL
    assert users.authenticate(*known, EMAIL.upper(), password).email == EMAIL
    with pytest.raises(errors.Unauthorized):
        users.authenticate(*known, EMAIL, password.strip())
    refused(run(*add, given="first long line\nsecond line\n"), "standard input has 2")


@pytest.mark.parametrize(
    "password",
    [
        "eleven char",
        "123456789012",
        "qwertyuiop12345",
        "zxcvbnmasdfghjkl",
        "passwordpassword",
        "aaaaaaaaaaaaaaaa",
        "abcdefghijklmnop",
        "098765432109876",
        "anna-firma-anna",
        "firma.example1",
        "firma5265877635",
        "password1234",
        "Password12345",
        "password123456!",
        "1q2w3e4r5t6y",
        "1qaz2wsx3edc",
        "administrator",
        "iloveyou1234",
        "polska123456",
    ],
)
def test_a_password_that_is_soon_guessed_is_refused(
    run: Run, company: None, database: Any, password: str
) -> None:
    before = everything(database)
    add = ("user", "add", "anna@firma.example", "--nip", NIP, "--role", "admin")
    refused(run(*add, "--password-stdin", given=f"{password}\n"), "A password")
    assert everything(database) == before


def test_a_password_can_be_changed(run: Run, service: Service, user: None, database: Any) -> None:
    known = (service.db, service.passwords, service.timing)
    users.authenticate(*known, EMAIL, PASSWORD)
    made = done(run("user", "set-password", EMAIL)).splitlines()
    assert made[0] == f"password of {EMAIL} changed"
    assert users.authenticate(*known, EMAIL, made[1].removeprefix("password: ")).email == EMAIL
    with pytest.raises(errors.Unauthorized):
        users.authenticate(*known, EMAIL, PASSWORD)
    given = "another long password"
    done(run("user", "set-password", EMAIL.upper(), "--password-stdin", given=f"{given}\n"))
    assert users.authenticate(*known, EMAIL, given).email == EMAIL
    refused(run("user", "set-password", "b@firma.example"), "no user b@firma.example")
    noted = database.execute("SELECT detail FROM audit WHERE what = 'user_password_set'")
    assert noted == [(EMAIL,), (EMAIL,)]


def test_a_user_is_locked_out_and_let_in_again(
    run: Run, service: Service, user: None, database: Any
) -> None:
    known = (service.db, service.passwords, service.timing)
    for _ in range(11):
        with pytest.raises(errors.Unauthorized) as locked:
            users.authenticate(*known, EMAIL, "wrong", address="192.0.2.1")
    assert locked.value.retry_after
    with pytest.raises(errors.Unauthorized):
        users.authenticate(*known, EMAIL, PASSWORD, address="192.0.2.1")
    assert done(run("user", "unlock", EMAIL)) == f"user {EMAIL} unlocked\n"
    assert users.authenticate(*known, EMAIL, PASSWORD, address="192.0.2.1").email == EMAIL

    done(run("user", "disable", EMAIL))
    assert done(run("user", "enable", EMAIL)) == f"user {EMAIL} enabled\n"
    assert done(run("user", "set-role", EMAIL, "technical")) == f"user {EMAIL} is technical\n"
    assert users.authenticate(*known, EMAIL, PASSWORD).role == "technical"
    for command in ("enable", "unlock"):
        refused(run("user", command, "b@firma.example"), "no user b@firma.example")
    whats = [row[0] for row in database.execute("SELECT what FROM audit ORDER BY at")]
    assert whats[-4:] == ["user_unlocked", "user_disabled", "user_enabled", "user_role_set"]


def test_a_hash_of_other_parameters_is_made_anew(service: Service, user: None) -> None:
    weaker = argon2.PasswordHasher(time_cost=1, memory_cost=8 * 1024).hash(PASSWORD)
    old = service.db.run(user_queries.get_user, email=EMAIL).password_hash
    assert service.db.run(user_queries.replace_hash, email=EMAIL, old=old, new=weaker) == 1
    known = (service.db, service.passwords, service.timing)
    users.authenticate(*known, EMAIL, PASSWORD)
    made = service.db.run(user_queries.get_user, email=EMAIL).password_hash
    assert made != weaker
    assert not service.passwords.is_outdated(made)
    assert users.authenticate(*known, EMAIL, PASSWORD).email == EMAIL


def test_companies_are_listed(run: Run, service: Service, user: None) -> None:
    [row] = json.loads(done(run("company", "list", "--json")))
    assert (row["nip"], row["users"], row["state"]) == (NIP, 1, None)


def test_user_disable_shuts_out_and_shows_in_the_list(
    run: Run, service: Service, user: None
) -> None:
    users.add_user(
        service.db,
        service.passwords,
        email="b@firma.example",
        nip=NIP,
        role="technical",
        password=PASSWORD,
    )
    assert done(run("user", "disable", EMAIL)) == f"user {EMAIL} disabled\n"
    with pytest.raises(errors.Unauthorized):
        users.authenticate(service.db, service.passwords, service.timing, EMAIL, PASSWORD)
    lines = [line.split() for line in done(run("user", "list")).splitlines()]
    assert lines == [
        ["email", "nip", "role", "state"],
        ["b@firma.example", NIP, "technical"],
        [EMAIL, NIP, "admin", "disabled"],
    ]


def test_user_disable_refuses_an_unknown_one(run: Run, database: Any) -> None:
    refused(run("user", "disable", EMAIL), f"no user {EMAIL}")


# -- credential -----------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["first\nsecond\n", '"quoted"\n', "", "a\x1bb"])
def test_set_token_refuses_what_is_no_token(
    run: Run, company: None, database: Any, control: Any, given: str
) -> None:
    before = everything(database)
    told = run("credential", "set-token", "--nip", NIP, "--environment", "test", given=given)
    refused(told, "A KSeF token is one line")
    assert everything(database) == before
    assert control.calls() == []


def test_set_token_proves_it_by_a_login(
    run: Run, company: None, database: Any, control: Any
) -> None:
    set_token = ("credential", "set-token", "--nip", NIP, "--environment", "test")
    refused(
        run(*set_token, given="unknown-token\n"), "KSeF refused the login", "Nothing was stored"
    )
    assert database.execute("SELECT * FROM ksef_credentials") == []
    told = done(run(*set_token, "--no-verify", given="unknown-token\n"))
    assert "not proved by a login" in told
    assert database.execute("SELECT method FROM ksef_credentials") == [("token",)]


def test_set_token_stores_it_sealed_and_the_company_can_log_in(
    run: Run, service: Service, company: None, control: Any, database: Any
) -> None:
    token = control.add_token("test", NIP)
    output = done(run("credential", "set-token", *PLACE, given=f"{token}\n"))
    assert output == f"KSeF token of {NIP} stored for test, proved by a login\n"
    assert token not in str(everything(database))
    assert login.log_in(service.account(NIP, "test")).method == "token"


def test_set_token_refuses_what_is_wrong(run: Run, company: None, database: Any) -> None:
    before = everything(database)
    refused(run("credential", "set-token", *PLACE, given="\n"), "one line of printable")
    refused(
        run("credential", "set-token", "--nip", OTHER_NIP, "--environment", "test", given="x\n"),
        f"no company {OTHER_NIP}",
    )
    refused(
        run("credential", "set-token", "--nip", NIP, "--environment", "moon", given="x\n"),
        "'moon'",
        code=2,
    )
    refused(run("credential", "set-token", "--nip", NIP, given="x\n"), "--environment", code=2)
    assert everything(database) == before


SUBJECT = f"/C=PL/O=Firma/CN=Firma/organizationIdentifier=VATPL-{NIP}"
PASSPHRASE = "zażółć gęślą jaźń"
NEW_KEY = {
    "rsa": ("rsa:2048",),
    "ec": ("ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
}
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")


@dataclass(frozen=True)
class OpenSsl:
    """A certificate as an operator makes one: `seal.crt`, `seal.key`, `seal.p12` in a folder."""

    folder: Path
    kind: str = "ec"

    def make(self, name: str = "seal", subject: str = SUBJECT) -> "OpenSsl":
        """A certificate whose key is encrypted with the passphrase."""
        key, certificate = self.folder / f"{name}.key", self.folder / f"{name}.crt"
        self._run(
            *("req", "-x509", "-newkey", *NEW_KEY[self.kind], "-days", "400", "-subj", subject),
            *("-addext", "keyUsage=digitalSignature", "-passout", "stdin"),
            *("-keyout", str(key), "-out", str(certificate)),
        )
        self._run(
            *("pkcs12", "-export", "-inkey", str(key), "-in", str(certificate)),
            *("-passin", "stdin", "-passout", f"pass:{PASSPHRASE}"),
            *("-out", str(self.folder / f"{name}.p12")),
        )
        return self

    def _run(self, *arguments: str) -> None:
        given = f"{PASSPHRASE}\n".encode()
        subprocess.run(["openssl", *arguments], input=given, check=True, capture_output=True)

    def pem(self, key: str = "seal", certificate: str = "seal") -> tuple[str, ...]:
        files = (self.folder / f"{certificate}.crt", self.folder / f"{key}.key")
        return ("--certificate", str(files[0]), "--key", str(files[1]), "--passphrase-stdin")

    def pkcs12(self) -> tuple[str, ...]:
        return ("--certificate", str(self.folder / "seal.p12"), "--passphrase-stdin")

    def secrets(self) -> list[str]:
        """What must not be shown anywhere."""
        made = certificates.read((self.folder / "seal.p12").read_bytes(), None, PASSPHRASE)
        body = made.to_json().split("PRIVATE KEY-----\\n")[1]
        return [PASSPHRASE, body[10:50]]


@pytest.fixture
def openssl(tmp_path: Path) -> OpenSsl:
    return OpenSsl(tmp_path).make()


@needs_openssl
@pytest.mark.parametrize("kind", ["rsa", "ec"])
@pytest.mark.parametrize("form", ["pem", "pkcs12"])
def test_set_certificate_proves_it_stores_it_sealed_and_the_company_can_log_in(
    run: Run,
    service: Service,
    company: None,
    control: Any,
    database: Any,
    tmp_path: Path,
    kind: str,
    form: str,
) -> None:
    made = OpenSsl(tmp_path, kind).make()
    files = made.pem() if form == "pem" else made.pkcs12()
    result = run("credential", "set-certificate", *PLACE, *files, given=f"{PASSPHRASE}\n")
    subject, fingerprint, until, stored = done(result).splitlines()
    assert subject == f"subject: NIP {NIP}"
    assert re.fullmatch("SHA-256 fingerprint: [0-9A-F]{64}", fingerprint)
    assert re.fullmatch(r"valid until: 20\d\d-\d\d-\d\d \d\d:\d\d UTC", until)
    assert stored == f"certificate of {NIP} stored for test, proved by a login"
    for secret in made.secrets():
        assert secret not in result.output
        assert secret not in str(everything(database))
    assert control.call_counts()["DELETE /{environment}/v2/auth/sessions/current"] == 1
    assert login.log_in(service.account(NIP, "test")).method == "certificate"


@needs_openssl
def test_set_certificate_warns_where_it_is_not_the_company_s_own(
    run: Run, company: None, control: Any, tmp_path: Path
) -> None:
    files = OpenSsl(tmp_path).make(subject="/CN=Jan/serialNumber=PNOPL-88102341294").pem()
    given = f"{PASSPHRASE}\n"
    output = done(run("credential", "set-certificate", *PLACE, *files, "--no-verify", given=given))
    assert "subject: PESEL 88102341294" in output
    assert f"warning: it is not the certificate of {NIP} itself" in output
    assert output.endswith("not proved by a login\n")
    assert control.calls() == []


@needs_openssl
def test_set_certificate_refuses_what_is_wrong_and_stores_nothing(
    run: Run, company: None, control: Any, database: Any, openssl: OpenSsl, tmp_path: Path
) -> None:
    openssl.make("other")
    expired, text = tmp_path / "expired.pem", tmp_path / "text.txt"
    old = make(days=(-30, -1))
    expired.write_bytes(old.pem + old.key_pem())
    text.write_text("hello")
    before = everything(database)

    def setting(*arguments: str, given: str = f"{PASSPHRASE}\n") -> Result:
        return run("credential", "set-certificate", *PLACE, *arguments, given=given)

    refused(setting(*openssl.pkcs12(), given="wrong\n"), "passphrase is wrong")
    refused(setting(*openssl.pem(), given="wrong\n"), "passphrase is wrong")
    refused(setting(*openssl.pem(), given=f"{PASSPHRASE} \n"), "passphrase is wrong")
    refused(setting(*openssl.pem()[:-1]), "give its passphrase")
    refused(setting(*openssl.pem(key="other")), "of another certificate")
    refused(setting("--certificate", str(expired)), "expired on")
    refused(setting("--certificate", str(text)), "not a certificate")
    refused(setting(*openssl.pem()[:2]), "name its file with --key")
    refused(setting("--certificate", str(tmp_path / "none")), "does not exist", code=2)
    refused(setting(), "--certificate", code=2)
    assert control.calls() == []

    fingerprint = fingerprint_of(openssl)
    control.add_certificate("test", NIP, fingerprint=fingerprint, outcome=415)
    refused(setting(*openssl.pem()), "KSeF refused the login", f"NIP {NIP}", "Nothing was stored")
    control.set_api("test", available=False)
    refused(setting(*openssl.pem()), "HTTP 503", "Nothing was stored", "--no-verify")
    assert everything(database) == before


def fingerprint_of(made: OpenSsl) -> str:
    content = (made.folder / "seal.p12").read_bytes()
    return certificates.read(content, None, PASSPHRASE).fingerprint


# -- outage ---------------------------------------------------------------------------------


def simulations(database: Any) -> list[tuple[Any, ...]]:
    return database.execute(
        "SELECT environment::text, company_nip, message, ends_at FROM outage_simulations"
        " ORDER BY company_nip NULLS FIRST"
    )


def test_outage_is_simulated_for_all_or_for_one_and_cleared(
    run: Run, company: None, database: Any
) -> None:
    output = done(run("outage", "simulate", "test", "--message", "Ćwiczenie"))
    assert output == "test: outage simulated\n"
    until = "2099-12-31T18:00:00"
    done(run("outage", "simulate", "test", "--message", "one", "--nip", NIP, "--until", until))
    done(run("outage", "simulate", "demo", "--message", "stays"))
    assert simulations(database) == [
        ("test", None, "Ćwiczenie", None),
        ("demo", None, "stays", None),
        ("test", NIP, "one", datetime(2099, 12, 31, 17, tzinfo=UTC)),  # it was Polish time
    ]
    assert done(run("outage", "clear", "test")) == "test: 2 simulation(s) ended\n"
    assert done(run("outage", "clear", "test")) == "test: 0 simulation(s) ended\n"
    assert [row[:1] for row in simulations(database)] == [("demo",)]


@pytest.mark.parametrize(
    ("typed", "hour"),
    [
        ("2099-07-01T18:00", 16),
        ("2099-12-31 18:00", 17),
        ("2099-12-31T18:00Z", 18),
        ("2099-12-31T18:00:00-05:00", 23),
    ],
)
def test_times_are_local_or_have_an_offset(
    run: Run, company: None, database: Any, typed: str, hour: int
) -> None:
    done(run("outage", "simulate", "test", "--message", "x", "--until", typed))
    [(_, _, _, ends)] = simulations(database)
    assert (ends.astimezone(UTC).hour, ends.year) == (hour, 2099)
    done(run("audit", "list", "--since", typed))


def test_outage_simulate_refuses_what_is_wrong(run: Run, company: None, database: Any) -> None:
    message = ("--message", "x")
    refused(run("outage", "simulate", "prod", *message), "prod cannot be simulated")
    refused(run("outage", "simulate", "test", *message, "--nip", OTHER_NIP), "no company")
    refused(
        run("outage", "simulate", "test", *message, "--until", "2020-01-01T00:00:00"), "--until: "
    )
    for far in ("9999-12-31T23:59:59", "9999-01-01T00:00:00"):
        refused(
            run("outage", "simulate", "test", *message, "--until", far), "too far in the future"
        )
    for text in ("", " \u00a0", "x" * 1001, "\udcff"):
        refused(run("outage", "simulate", "test", "--message", text), "--message: ")
    refused(run("outage", "simulate", "test", *message, "--until", "soon"), "'soon'", code=2)
    refused(run("outage", "simulate", "moon", *message), "'moon'", code=2)
    refused(run("outage", "simulate", "test"), "--message", code=2)
    refused(run("outage", "clear", "moon"), "'moon'", code=2)
    assert simulations(database) == []


# -- invoices -------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "invoices.csv"
    path.write_text(CSV, encoding="utf-8-sig")  # as spreadsheets write it
    return path


def test_import_twice_changes_nothing(run: Run, company: None, file: Path, database: Any) -> None:
    assert done(run("invoices", "import", str(file), *PLACE)) == (
        "3 rows read: 1 new in synced_invoices, 2 new in offline_invoices\n"
    )
    before = everything(database)
    assert len(before) == 4
    assert done(run("invoices", "import", str(file), *PLACE)) == (
        "3 rows read: 0 new in synced_invoices, 0 new in offline_invoices\n"
    )
    assert everything(database) == before


def test_import_refuses_what_is_wrong(run: Run, company: None, file: Path, database: Any) -> None:
    before = everything(database)

    def importing(content: bytes) -> Result:
        file.write_bytes(content)
        return run("invoices", "import", str(file), *PLACE)

    refused(importing(b""), "file is empty")
    refused(importing(b"a,b\n1,2\n"), "first line names the columns")
    refused(importing(f"{CSV}FV/4,,\n".encode()), "Line 5: none of")
    refused(importing(f"{CSV}FV/4,{NUMBER[:-1]}0,\n".encode()), "Line 5: ksef_number: The check")
    refused(importing("invoice_number,ksef_number\nżółw,1\n".encode("cp1250")), "not UTF-8")
    refused(run("invoices", "import", str(file) + "x", *PLACE), "does not exist", code=2)
    refused(run("invoices", "import", str(file.parent), *PLACE), "is a directory", code=2)
    refused(run("invoices", "import", str(file), "--nip", NIP), "--environment", code=2)
    other = ("--nip", OTHER_NIP, "--environment", "test")
    refused(run("invoices", "import", str(file), *other), "no company")
    assert everything(database) == before


def test_list_shows_the_rows_as_a_table(run: Run, company: None, file: Path, database: Any) -> None:
    header = ["table", "invoice_number", "ksef_number", "ksef_reference_number", "session"]
    assert done(run("invoices", "list", *PLACE)).split() == header
    done(run("invoices", "import", str(file), *PLACE))
    database.execute(f"UPDATE {SYNCED} SET session_reference_number = '{REFERENCE}'")

    lines = done(run("invoices", "list", *PLACE)).splitlines()
    assert [re.split(" {2,}", line) for line in lines] == [
        header,
        ["synced", "FV/1 żółw", NUMBER, REFERENCE],
        ["offline", "FV/2", REFERENCE],
        ["offline", "FV/3", NUMBER, REFERENCE],
    ]
    assert lines[1].index(REFERENCE) == lines[0].index("session")
    assert lines[2].index(REFERENCE) == lines[0].index("ksef_reference_number")

    unlinked = done(run("invoices", "list", "--unlinked", *PLACE)).splitlines()
    assert [line.split()[0] for line in unlinked] == ["table", "offline", "offline"]


def test_list_refuses_an_unknown_company(run: Run, database: Any) -> None:
    refused(run("invoices", "list", *PLACE), "no company")


# -- all of them ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("company", "add", NIP, "Firma"),
        ("user", "list"),
        ("user", "disable", EMAIL),
        ("outage", "clear", "test"),
        ("invoices", "list", *PLACE),
    ],
    ids=" ".join,
)
def test_database_that_is_away_is_told(settings: Any, arguments: tuple[str, ...]) -> None:
    with app_on(settings, "postgresql://nobody:hunter2@127.0.0.1:1/nothing") as app:
        result = app.test_cli_runner().invoke(args=arguments)
    refused(result, "The database does not answer. Reason: host=127.0.0.1 ", "Connection refused")
    assert "hunter2" not in result.output


def test_why_the_database_refuses_is_told(settings: Any, database: Any) -> None:
    """PostgreSQL's own words and the role; a server that refuses is not one that is silent."""
    dsn = make_dsn(settings.database_url, dbname="no_such_database")
    with app_on(settings, dsn) as app:
        result = app.test_cli_runner().invoke(args=["user", "list"])
    refused(result, ' database "no_such_database" does not exist')

    with app_on(settings, settings.database_url) as app:
        [(role,)] = app.extensions[EXTENSION].db.rows(session_user)
        database.execute("REVOKE SELECT ON companies FROM ksef_proxy")
        try:
            result = app.test_cli_runner().invoke(args=["company", "list"])
        finally:
            database.execute("GRANT SELECT ON companies TO ksef_proxy")
    refused(result, f"permission denied for table companies (role {role})")
    assert "written" not in result.output


def test_a_database_without_tables_is_told_with_what_makes_them(
    settings: Any, empty_database: Any
) -> None:
    with app_on(settings, empty_database.owner_dsn) as app:
        result = app.test_cli_runner().invoke(args=["user", "list"])
    refused(result, 'relation "users" does not exist: run `migrate` as the database\'s owner')


def session_user(connection: Any) -> list[tuple[str]]:
    """As a named query is called."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT session_user")
        return list(cursor.fetchall())


def without_settings(
    *words: str, stdout: int = subprocess.PIPE
) -> "subprocess.CompletedProcess[str]":
    """A command as an operator runs it in a bare environment."""
    return subprocess.run(
        [sys.executable, "-m", "app", *words],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"]},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


def test_upo_is_drawn_without_settings_and_database(tmp_path: Path) -> None:
    xml, pdf = tmp_path / "upo.xml", tmp_path / "upo.pdf"
    xml.write_bytes(samples.upo().xml())

    done = without_settings("upo", "render", str(xml), "-o", str(pdf), "--language", "en")

    assert (done.returncode, done.stdout) == (0, f"{pdf} written\n"), done.stderr
    assert pdf.read_bytes().startswith(b"%PDF-")
    xml.write_bytes(b"no UPO")
    pdf.unlink()
    refused = without_settings("upo", "render", str(xml), "-o", str(pdf))
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: ")
    assert not pdf.exists()


def test_upo_is_verified_without_settings_and_database(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.xml", tmp_path / "bad.xml"
    good.write_bytes(signed())
    bad.write_bytes(forged("tampered-value"))
    signer = signers().current.sha256
    plain = without_settings("upo", "verify", str(good))
    assert plain.returncode == 1
    assert "unknown_signer  Ministerstwo Finansów (SANDBOX), VATPL-5260250274  " in plain.stdout
    assert signer in plain.stdout
    assert plain.stderr == "Error: 1 of 1 are not valid.\n"
    trusted = without_settings("upo", "verify", str(good), "--signer", signer.lower(), "--json")
    assert trusted.returncode == 0, trusted.stderr
    [told] = json.loads(trusted.stdout)
    assert (told["file"], told["signature"]) == (str(good), "valid")
    both = without_settings("upo", "verify", str(good), str(bad), "--signer", signer)
    assert (both.returncode, both.stderr) == (1, "Error: 1 of 2 are not valid.\n")
    assert "broken" in both.stdout


def test_upo_verify_needs_files_or_an_archive(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "upo.xml"
    file.write_bytes(b"<a/>")
    refused(run("upo", "verify"), "either FILEs, or", code=2)
    refused(run("upo", "verify", "--nip", NIP), "either FILEs, or", code=2)
    refused(run("upo", "verify", str(file), *PLACE), "either FILEs, or", code=2)
    refused(run("upo", "verify", str(file), "--nip", NIP), "either FILEs, or", code=2)
    refused(run("upo", "verify", "--environment", "test"), "either FILEs, or", code=2)
    signer = ("--signer", "0" * 64)
    for place in (PLACE, (str(file), "--environment", "test")):
        refused(run("upo", "verify", *place, *signer), "--signer", code=2)
    refused(run("upo", "verify", str(file), "--signer", "xy"), "64 hex digits", code=2)
    refused(run("upo", "verify", *PLACE), "There is no company")


def test_upo_of_a_test_environment_is_not_taken_for_production_s(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In KSeF's test environment anybody gets a signed UPO for any NIP."""
    signer = signers().current.sha256
    for environment in ("test", "demo"):
        monkeypatch.setitem(DEFAULT_SIGNERS, environment, (signer,))
    xml, pdf = tmp_path / "upo.xml", tmp_path / "upo.pdf"
    xml.write_bytes(signed())
    plain = run("upo", "verify", str(xml))
    assert plain.exit_code == 1
    assert "unknown_signer" in plain.stdout
    assert "that of another environment of KSeF: test, demo." in plain.stdout
    assert plain.stderr == "Error: 1 of 1 are not valid.\n"
    for environment, state in (("test", "valid"), ("demo", "valid"), ("prod", "unknown_signer")):
        told = run("upo", "verify", str(xml), "--environment", environment, "--json")
        assert json.loads(told.stdout)[0]["signature"] == state
    done(run("upo", "render", str(xml), "-o", str(pdf)))
    [page] = pypdf.PdfReader(pdf).pages
    assert "TEST Dokument spoza środowiska produkcyjnego" in page.extract_text()
    assert "Podpis elektroniczny: prawidłowy." in page.extract_text()
    monkeypatch.setitem(DEFAULT_SIGNERS, "prod", (signer,))
    done(run("upo", "verify", str(xml)))
    done(run("upo", "render", str(xml), "-o", str(pdf)))
    [page] = pypdf.PdfReader(pdf).pages
    assert "TEST" not in page.extract_text()


def test_file_whose_name_is_not_utf8_is_told(run: Run, tmp_path: Path) -> None:
    file = os.fsencode(tmp_path) + b"/upo-\xff.xml"
    Path(os.fsdecode(file)).write_bytes(signed())
    signer = ("--signer", signers().current.sha256)
    told = json.loads(done(run("upo", "verify", os.fsdecode(file), *signer, "--json")))
    assert (told[0]["file"], told[0]["signature"]) == (f"{tmp_path}/upo-\ufffd.xml", "valid")


def test_target_whose_name_is_not_utf8_is_written_and_told(
    run: Run, company: None, tmp_path: Path
) -> None:
    xml, target = tmp_path / "upo.xml", os.fsencode(tmp_path) + b"/\xff"
    xml.write_bytes(signed())
    told = done(run("upo", "render", str(xml), "-o", os.fsdecode(target + b".pdf")))
    assert told == f"{tmp_path}/\ufffd.pdf written\n"
    assert Path(os.fsdecode(target + b".pdf")).exists()
    days = ("--from", "2026-01-01", "--to", "2026-12-31")
    told = done(run("upo", "export", *PLACE, *days, os.fsdecode(target)))
    assert told == f"0 of 0 UPOs written to {tmp_path}/\ufffd\n"
    assert (Path(os.fsdecode(target)) / "SHA256SUMS").exists()


@pytest.mark.parametrize(
    "content",
    [b"<Umowa><Kwota>1</Kwota></Umowa>", samples.UpoSample(()).xml()],
    ids=["another document", "without an invoice"],
)
def test_what_is_no_upo_is_not_valid_whoever_signed_it(
    run: Run, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "upo.xml"
    file.write_bytes(sign(etree.fromstring(content), seal()))
    told = run("upo", "verify", str(file), "--signer", signers().current.sha256)
    assert (told.exit_code, "unverifiable" in told.stdout) == (1, True)
    assert "It is no UPO that can be read." in told.stdout


def test_archive_is_verified_and_exported(run: Run, company: None, tmp_path: Path) -> None:
    days = ("--from", "2026-01-01", "--to", "2026-12-31")
    assert done(run("upo", "verify", *PLACE)) == "0 of 0 UPOs that were not known to be valid are\n"
    target = tmp_path / "evidence"
    told = done(run("upo", "export", *PLACE, *days, str(target)))
    assert told == f"0 of 0 UPOs written to {target}\n"
    assert (target / "manifest.json").read_text() == "[]\n"
    refused(run("upo", "export", *PLACE, *days, str(target)), "not empty")


def test_export_of_days_in_the_wrong_order_is_wrong_usage(
    run: Run, company: None, tmp_path: Path
) -> None:
    """And not an archive in which nothing is."""
    target = tmp_path / "evidence"
    days = ("--from", "2026-02-01", "--to", "2026-01-31")
    refused(run("upo", "export", *PLACE, *days, str(target)), "--from is after --to", code=2)
    assert not target.exists()


def test_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    xml, pdf = tmp_path / "upo.xml", tmp_path / "nowhere" / "upo.pdf"
    xml.write_bytes(samples.upo().xml())
    told = without_settings("upo", "render", str(xml), "-o", str(pdf))
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == f"Error: No such file or directory: {pdf}\n"


def test_text_that_is_not_utf8_is_told(app: Flask, run: Run, company: None, database: Any) -> None:
    before = everything(database)
    add = ("user", "add", EMAIL, "--nip", NIP, "--role", "admin", "--password-stdin")
    for given in (b"za\xbf\xf3\xb3\xe6 g\xea\xb6l\xb1 ja\xbc\xf1", b"\xff" * 20):
        told = app.test_cli_runner().invoke(args=add, input=given)
        refused(told, "Error: The input is not UTF-8.")
    refused(run("company", "add", OTHER_NIP, "Sp\udcff"), "not UTF-8")
    refused(run("user", "disable", "\udcff@firma.example"), "not UTF-8")
    refused(run("invoices", "list", "--nip", "\udcff", "--environment", "test"), "not UTF-8")
    refused(run("outage", "simulate", "test", "--message", "x", "--nip", "\udcff"), "not UTF-8")
    assert everything(database) == before


def test_reader_who_goes_away_is_not_called_an_error(tmp_path: Path) -> None:
    """As with `flask … | head`."""
    xml, pdf = tmp_path / "upo.xml", tmp_path / "upo.pdf"
    xml.write_bytes(samples.upo().xml())
    ours, theirs = os.pipe()
    os.close(ours)
    ended = without_settings("upo", "render", str(xml), "-o", str(pdf), stdout=theirs)
    os.close(theirs)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_webhook_is_added_tested_listed_replayed_and_removed(
    run: Run, company: None, database: Any
) -> None:
    url = "http://127.0.0.1:1/events"
    added = run("webhook", "add", url, *PLACE)
    assert added.exit_code == 0
    [secret] = re.findall(r"whsec_[A-Za-z0-9+/]{43}=", added.output)
    refused = run("webhook", "add", url, *PLACE)
    assert (refused.exit_code, "remove it first" in refused.output) == (1, True)
    tried = run("webhook", "test", url, *PLACE)
    assert (tried.exit_code, tried.output) == (
        1,
        f"Error: {url} did not take it: ConnectionError\n",
    )
    [listed] = json.loads(run("webhook", "list", "--nip", NIP, "--json").output)
    assert {**listed, "last_answer": None} == {
        **{"nip": NIP, "environment": "test", "url": url, "state": "live"},
        **{"waiting": 0, "parked": 0, "last_answer": None, "at": None},
    }
    assert json.loads(run("webhook", "list", "--nip", OTHER_NIP, "--json").output) == []
    replayed = run("webhook", "replay", url, "--since", "2026-01-01", *PLACE)
    assert replayed.output == f"0 event(s) wait for {url}\n"
    assert run("webhook", "remove", url, *PLACE).exit_code == 0
    for command in ("remove", "test"):
        assert "no such webhook" in run("webhook", command, url, *PLACE).output
    audited = run("audit", "list").output
    for act in ("webhook_added", "webhook_replayed", "webhook_removed"):
        assert audited.count(act) == 1
    assert secret not in audited


def test_webhook_to_anywhere_is_refused_without_https(
    run: Run, company: None, database: Any
) -> None:
    refused = run("webhook", "add", "http://10.0.0.7/events", *PLACE)
    assert (refused.exit_code, "must be https" in refused.output) == (1, True)
    assert database.execute("SELECT url FROM webhooks") == []


def test_missing_settings_are_told_in_one_sentence() -> None:
    told = without_settings("user", "list")
    assert told.returncode == 1
    assert told.stderr == (
        "Error: Settings: DATABASE_URL is missing; SECRET_KEYS is missing."
        " Name the file of settings with --env-file; `ksef-proxy settings --example` prints one.\n"
    )


def test_lists_for_programs(run: Run, service: Service, user: None) -> None:
    credentials.store_token(service.account(NIP, "test"), "a token")
    given = done(run("user", "list", "--json"))
    assert json.loads(given) == [{"email": EMAIL, "nip": NIP, "role": "admin", "state": None}]
    [session] = json.loads(done(run("sessions", "--json")))
    assert (session["nip"], session["refresh_until"]) == (NIP, None)
    assert json.loads(done(run("quota", "show", *PLACE, "--json"))) == []
    assert json.loads(done(run("invoices", "list", *PLACE, "--json"))) == []


def test_every_command_has_a_short_help_that_is_whole(app: Flask) -> None:
    for words, command in commands(app.cli):
        text = command.get_short_help_str(limit=60)
        assert not text.endswith("..."), words
        assert text.endswith(".") or text.endswith("?"), words
        for option in (one for one in command.params if isinstance(one, click.Option)):
            assert option.help, (words, option.name)


def test_no_commands_of_libraries_but_flasks_own(app: Flask) -> None:
    assert "openapi" not in app.cli.commands


def test_wrong_usage_is_2_and_a_refusal_1(run: Run) -> None:
    refused(run("user", "add", EMAIL), "Missing option", code=2)
    refused(run("nonsense"), "No such command", code=2)
    refused(run("quota", "show", *PLACE), "no company", code=1)
