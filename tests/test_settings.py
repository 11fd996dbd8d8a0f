"""Environment variables in, settings out; what is wrong is told by name, never by value."""

import base64
import os
import re
import subprocess
import sys
from zoneinfo import ZoneInfo

import certifi
import pytest

from app.settings import Settings, SettingsError, Timing, from_environment, variables
from tests.pages import PROJECT

KEY = base64.b64encode(bytes(range(32))).decode()
NEWER = base64.b64encode(bytes(range(32, 64))).decode()
NEEDED = {"DATABASE_URL": "postgresql://proxy:hunter2@db.example/ksef", "SECRET_KEYS": KEY}


def read(**changes: str) -> Settings:
    return from_environment({**NEEDED, **changes})


def problems(**changes: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(**changes)
    return str(caught.value)


def test_what_is_not_set_has_its_default() -> None:
    assert read() == Settings(
        database_url=NEEDED["DATABASE_URL"],
        secret_keys=(bytes(range(32)),),
        ksef_urls={
            "test": "https://api-test.ksef.mf.gov.pl/v2",
            "demo": "https://api-demo.ksef.mf.gov.pl/v2",
            "prod": "https://api.ksef.mf.gov.pl/v2",
        },
        ksef_proxy_url=None,
        ksef_ca_bundle=None,
        response_timezone=ZoneInfo("Europe/Warsaw"),
        host="127.0.0.1",
        port=8080,
        web_concurrency=2,
        web_threads=8,
        log_level="INFO",
        latarnia_urls={"prod": "https://api-latarnia.ksef.mf.gov.pl"},
        message_language="en",
        upo_signers={
            "test": ("2059EA4C85501DE54D2B4B1863D927FE8DE14F6146215E94EE47A25B4CE3FC88",),
            "demo": ("2059EA4C85501DE54D2B4B1863D927FE8DE14F6146215E94EE47A25B4CE3FC88",),
            "prod": ("6B8192E9BEBCA9465E624D8750F76E6064D70A94609C52ED00BED9DEB70A2D39",),
        },
        timing=Timing(),
    )


def test_signers_are_given_as_openssl_writes_them_or_plain() -> None:
    first, second = "0a" * 32, ":".join(["B1"] * 32)
    read_ones = read(UPO_SIGNERS_PROD=f"{first}, {second}").upo_signers
    assert read_ones["prod"] == ("0A" * 32, "B1" * 32)
    assert read_ones["test"] == read().upo_signers["test"]
    for wrong in ("0a", "0a" * 33, "xy" * 32, f"{first},"):
        assert problems(UPO_SIGNERS_TEST=wrong) == (
            "Settings: UPO_SIGNERS_TEST is not a list of SHA-256 fingerprints: 64 hex digits each."
        )


def test_everything_set() -> None:
    bundle = certifi.where()
    settings = read(
        SECRET_KEYS=f" {NEWER} , {KEY}",
        KSEF_URL_TEST="http://127.0.0.1:8100/test/v2/",
        KSEF_URL_DEMO="https://demo.example/v2",
        KSEF_URL_PROD="https://prod.example/v2",
        KSEF_PROXY_URL="http://user:hunter2@proxy.example:3128",
        KSEF_CA_BUNDLE=bundle,
        RESPONSE_TIMEZONE="UTC",
        HOST="[::1]",
        PORT="8081",
        WEB_CONCURRENCY="3",
        WEB_THREADS="16",
        LOG_LEVEL="warning",
        LATARNIA_URL_TEST="http://127.0.0.1:8100/latarnia/test/",
        LATARNIA_URL_PROD="https://latarnia.example",
        MESSAGE_LANGUAGE="PL",
        DOCUMENT_RETENTION_DAYS="400",
    )
    assert settings.latarnia_urls == {
        "test": "http://127.0.0.1:8100/latarnia/test",
        "prod": "https://latarnia.example",
    }
    assert settings.message_language == "pl"
    assert settings.document_retention_days == 400
    assert settings.secret_keys == (bytes(range(32, 64)), bytes(range(32)))
    assert settings.ksef_urls == {
        "test": "http://127.0.0.1:8100/test/v2",
        "demo": "https://demo.example/v2",
        "prod": "https://prod.example/v2",
    }
    assert settings.ksef_proxy_url == "http://user:hunter2@proxy.example:3128"
    assert settings.ksef_ca_bundle == bundle
    assert settings.response_timezone == ZoneInfo("UTC")
    assert (settings.host, settings.port) == ("::1", 8081)
    assert settings.web_concurrency == 3
    assert (settings.web_threads, settings.log_level) == (16, "WARNING")
    assert "hunter2" not in repr(settings)
    assert "!" not in repr(settings)  # of the newer key


def test_a_blank_variable_is_one_that_is_not_set() -> None:
    assert read(WEB_THREADS=" ", KSEF_URL_TEST="", LOG_LEVEL="") == read()


def test_all_problems_are_told_together() -> None:
    with pytest.raises(SettingsError) as caught:
        from_environment(
            {
                "SECRET_KEYS": "geheim",
                "KSEF_URL_DEMO": "ftp://geheim",
                "KSEF_URL_PROD": "http://geheim.example",
                "KSEF_PROXY_URL": "geheim",
                "KSEF_CA_BUNDLE": "/geheim",
                "RESPONSE_TIMEZONE": "Geheim/Geheim",
                "HOST": "geheim geheim",
                "PORT": "geheim",
                "WEB_CONCURRENCY": "geheim",
                "WEB_THREADS": "geheim",
                "LOG_LEVEL": "geheim",
            }
        )
    assert str(caught.value) == (
        "Settings: "
        "KSEF_URL_DEMO is not an http(s) URL; "
        "KSEF_URL_PROD must be https; "
        "DATABASE_URL is missing; "
        "SECRET_KEYS holds a key that is not Base64: openssl rand -base64 32 makes one; "
        "KSEF_PROXY_URL is not an http(s) URL; "
        "KSEF_CA_BUNDLE is not a readable file of certificates (PEM); "
        "RESPONSE_TIMEZONE is not a known time zone; "
        "HOST is neither an address nor a name; "
        "PORT is not a port: 1 to 65535; "
        "WEB_CONCURRENCY is not a positive whole number; "
        "WEB_THREADS is not a positive whole number; "
        "LOG_LEVEL is not one of DEBUG, INFO, WARNING, ERROR."
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "geheim"),
        ("DATABASE_URL", "mysql://geheim/x"),
        ("DATABASE_URL", "postgresql://me:geh@eim@db/x"),
        ("DATABASE_URL", "postgresql://me:ge/heim@db/x"),
        ("DATABASE_URL", "postgresql://me:100%geheim@db/x"),
        ("SECRET_KEYS", "Z2VoZWlt"),
        ("SECRET_KEYS", f"{KEY},"),
        ("SECRET_KEYS", "geheimż"),
        ("SECRET_KEYS", base64.b64encode(bytes(32)).decode()),
        ("SECRET_KEYS", f"{KEY},{base64.b64encode(bytes(32)).decode()}"),
        ("SECRET_KEYS", base64.b64encode(b"changeme" * 4).decode()),
        ("KSEF_URL_TEST", "geheim.example/v2"),
        ("KSEF_URL_TEST", "https:///geheim"),
        ("KSEF_URL_TEST", "http://[::1/geheim"),
        ("KSEF_URL_TEST", "https://geheim.example:geheim"),
        ("KSEF_URL_TEST", "https://geheim℀x.example"),
        ("KSEF_URL_TEST", "https://geheim..example/v2"),
        ("KSEF_URL_TEST", "https://geheim .example/v2"),
        ("KSEF_URL_TEST", "https://ksef.example/v2?geheim"),
        ("KSEF_URL_TEST", "https://ksef.example/v2#geheim"),
        ("KSEF_PROXY_URL", "http://me:ge/heim@proxy.example:3128"),
        ("KSEF_PROXY_URL", "socks5://geheim"),
        ("KSEF_CA_BUNDLE", "/"),
        ("KSEF_CA_BUNDLE", __file__),  # holds no certificate
        ("RESPONSE_TIMEZONE", "../geheim"),
        ("RESPONSE_TIMEZONE", "Europe"),
        ("HOST", "geheim:80"),
        ("HOST", "unix:/geheim"),
        ("HOST", "[geheim]"),
        ("HOST", "::geheim"),
        ("HOST", "geheimż"),
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "٨٠"),
        ("WEB_CONCURRENCY", "0"),
        ("WEB_CONCURRENCY", "1.5"),
        ("WEB_THREADS", "0"),
        ("WEB_THREADS", "-1"),
        ("DOCUMENT_RETENTION_DAYS", "0"),
        ("DOCUMENT_RETENTION_DAYS", "36501"),
        ("WEB_THREADS", "8.0"),
        ("WEB_THREADS", "٨"),
    ],
)
def test_a_bad_value_is_refused_and_not_repeated(name: str, value: str) -> None:
    told = problems(**{name: value})
    assert told.startswith(f"Settings: {name} ")
    assert told.count(";") == 0
    assert "geheim" not in told


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://me:p@ss@db/x"),
        ("DATABASE_URL", "postgresql://me:p/ss@db/x"),
        ("DATABASE_URL", "postgresql://me:100%@db/x"),
        ("KSEF_PROXY_URL", "http://me:p/ss@proxy.example:3128"),
    ],
)
def test_a_password_that_is_not_encoded_is_told_as_that(name: str, value: str) -> None:
    told = problems(**{name: value})
    assert "a password in it is percent-encoded (@ is %40, / is %2F, % is %25)" in told


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://me:p%40ss%2F@db:5432/x",
        "postgresql://me@/x?host=/run/a@b",
        "postgresql://db/x?password=p@ss",
        "host=db password=p@ss@",
    ],
)
def test_an_at_that_libpq_understands_is_accepted(dsn: str) -> None:
    assert read(DATABASE_URL=dsn).database_url == dsn


@pytest.mark.parametrize("value", ["geheim", "geheimż", "Z2VoZWlt", f"{KEY},"])
def test_a_wrong_key_is_told_with_what_makes_a_right_one(value: str) -> None:
    told = problems(SECRET_KEYS=value)
    assert re.fullmatch(
        r"Settings: SECRET_KEYS holds a key that is not (Base64|32 bytes long):"
        r" openssl rand -base64 32 makes one\.",
        told,
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "localhost", "ksef-proxy_1.example", "::1"])
def test_places_to_listen(host: str) -> None:
    assert read(HOST=host).host == host


@pytest.mark.parametrize(
    ("url", "accepted"),
    [
        ("https://ksef.example/v2", True),
        ("http://localhost:8100/prod/v2", True),
        ("http://127.0.0.1:8100/prod/v2", True),
        ("http://[::1]:8100/prod/v2", True),
        ("http://ksef.example/v2", False),
        ("http://10.0.0.1/v2", False),
        ("http://localhost.example/v2", False),
        ("http://127.0.0.1.example/v2", False),
        ("http://127.0.0.1@ksef.example/v2", False),
    ],
)
def test_production_is_spoken_to_in_the_open_on_this_machine_only(url: str, accepted: bool) -> None:
    if accepted:
        assert read(KSEF_URL_PROD=url).ksef_urls["prod"] == url
    else:
        assert problems(KSEF_URL_PROD=url) == "Settings: KSEF_URL_PROD must be https."
    assert read(KSEF_URL_TEST=url).ksef_urls["test"] == url
    if not accepted:
        assert problems(LATARNIA_URL_PROD=url) == "Settings: LATARNIA_URL_PROD must be https."
    assert read(LATARNIA_URL_TEST=url).latarnia_urls["test"] == url


def test_a_migration_lets_requests_go_before_their_own_patience_ends() -> None:
    """But not before PostgreSQL has ended an autovacuum for it."""
    assert 1.0 < Timing().migration_lock < Timing().lock_timeout


def test_a_lease_outlasts_its_work_and_ends_while_somebody_still_waits_for_it() -> None:
    timing = Timing()
    assert timing.ksef_call < timing.lease_refresh, "a refresh is taken over while it goes on"
    assert timing.lease_refresh < timing.request, "nobody lives to take a refresh over"
    assert max(timing.login, timing.request) < timing.lease, "a login is taken over"


def example() -> str:
    """What `settings --example` prints, in a process without any setting."""
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "settings", "--example"]
    path = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        command, cwd=PROJECT, env=path, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout


def assignments(text: str) -> dict[str, str]:
    """As systemd reads an EnvironmentFile."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_example_is_accepted_once_what_is_required_is_filled_in() -> None:
    text = example()
    assert assignments(text) == {"DATABASE_URL": "", "SECRET_KEYS": ""}
    for name, value in NEEDED.items():
        text = text.replace(f"\n{name}=\n", f"\n{name}={value}\n")
    assert from_environment(assignments(text)) == read()


def test_example_has_every_variable_with_its_default_and_a_comment_of_its_own() -> None:
    text = example()
    assert text.count("DATABASE_URL=") == 1
    defaults = assignments(re.sub("^#(?=[A-Z_]+=)", "", text, flags=re.MULTILINE))
    assert from_environment({**defaults, **NEEDED}) == read()
    assert list(defaults) == [variable.name for variable in variables()]
    blocks = text.split("\n\n")[1:]
    assert len(blocks) == len(defaults)
    comments = [re.fullmatch(r"# ([A-Z1].+\.)\n#?[A-Z_]+=\S*\n?", block) for block in blocks]
    assert all(comments), blocks
    assert len({comment and comment[1] for comment in comments}) == len(defaults)


def test_settings_without_the_option_print_nothing() -> None:
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "settings"]
    path = {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, cwd=PROJECT, env=path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--example" in done.stderr
