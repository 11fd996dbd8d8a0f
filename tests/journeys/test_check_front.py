"""`check --url`: the proxy in front of the service, nginx as deploy/nginx sets it up or misled."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app import create_app
from app.context import EXTENSION
from app.db.migrate import migrate
from app.parsers import networks
from app.settings import Settings
from tests.faults.test_tls_and_proxy import Ca, Open
from tests.faults.test_tls_and_proxy import ca as ca
from tests.faults.test_tls_and_proxy import door as door
from tests.journeys.conftest import RunningService, free_port, running_service
from tests.journeys.test_upgrade import NGINX, running_nginx
from tests.test_check import Told, told

NGINX_SETS = r"proxy_set_header X-Forwarded-For \$remote_addr;"
with_nginx = pytest.mark.skipif(NGINX is None, reason="needs nginx")

Run = Callable[..., Told]


@pytest.fixture
def check(settings: Settings, ca: Ca, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `check --url`, on a machine that trusts the test's CA."""
    monkeypatch.setenv("SSL_CERT_FILE", str(ca.bundle))

    def run(url: str, **changes: Any) -> Told:
        app = create_app(replace(settings, **changes))
        arguments = ["check", "--environment", "test", "--no-login", "--url", url]
        try:
            result = app.test_cli_runner().invoke(args=arguments)
        finally:
            app.extensions[EXTENSION].db.close()
        return told(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.mark.slow
@with_nginx
def test_nginx_as_it_is_deployed(
    check: Run, server: RunningService, ca: Ca, tmp_path: Path, database: Any
) -> None:
    with running_nginx(tmp_path, ca, [port(server)] * 2) as url:
        found = check(url)
    assert found.code == 0, found
    state, text = found.lines["front"]  # the test's certificate ends tomorrow
    assert (state, "it is valid until" in text) == ("warning", True)
    assert found.lines["caller's address"] == ("ok", "arrives: 127.0.0.2")


def port(server: RunningService) -> int:
    return int(server.url.rpartition(":")[2])


@with_nginx
def test_nginx_sends_no_address(check: Run, server: RunningService, ca: Ca, tmp_path: Path) -> None:
    changed = {NGINX_SETS: 'proxy_set_header X-Forwarded-For "";'}
    with running_nginx(tmp_path, ca, [port(server)] * 2, changed) as url:
        found = check(url)
    found.failed(
        "caller's address", "sends no X-Forwarded-For: all callers seem to come from 127.0.0.1"
    )


@with_nginx
@pytest.mark.parametrize("line", ["", "proxy_set_header X-Forwarded-For $http_x_forwarded_for;"])
def test_nginx_passes_on_what_a_caller_claims(
    check: Run, server: RunningService, ca: Ca, tmp_path: Path, line: str
) -> None:
    with running_nginx(tmp_path, ca, [port(server)] * 2, {NGINX_SETS: line}) as url:
        found = check(url)
    found.failed("caller's address", "X-Forwarded-For is passed on as a caller sends it")


@pytest.mark.slow
@with_nginx
def test_service_does_not_know_its_front(
    check: Run, database: Any, sandbox: Any, secret_key: bytes, ca: Ca, tmp_path: Path
) -> None:
    with (
        running_service(
            database, sandbox, secret_key, tmp_path / "log", FORWARDED_ALLOW_IPS="192.0.2.7"
        ) as server,
        running_nginx(tmp_path, ca, [port(server)] * 2) as url,
    ):
        found = check(url, forwarded_allow_ips=networks("192.0.2.7"))
    found.failed("caller's address", "FORWARDED_ALLOW_IPS does not name the front")


@with_nginx
def test_no_replica_runs(check: Run, ca: Ca, tmp_path: Path, server: RunningService) -> None:
    changed = {
        rf"server 127\.0\.0\.1:{port(server)} max_fails=0;": f"server 127.0.0.1:{free_port()};"
    }
    with running_nginx(tmp_path, ca, [port(server)] * 2, changed, alive=False) as url:
        found = check(url)
    found.failed("front", "/readyz is answered with HTTP 502: not by this service")
    assert found.lines["caller's address"] == ("not tried", "needs: front")


@pytest.mark.parametrize("url", ["", "https://a..b", "https://a b", "127.0.0.1"])
def test_what_is_no_url_is_told(check: Run, url: str) -> None:
    """Also nothing at all: a variable of a script that is not set."""
    check(url).failed("front", "--url is not an http(s) URL")


def test_service_is_not_ready(
    check: Run, server: RunningService, company: Any, database: Any, settings: Settings
) -> None:
    """By the key that its credentials are sealed with, in the service's own words."""
    database.execute("UPDATE ksef_credentials SET secret = '\\x00c0ffee'::bytea || secret")
    found = check(server.url)
    found.failed("front", "/readyz is answered with HTTP 503: SECRET_KEYS lacks the key 00c0ffee")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"ends": timedelta(days=-1)}, "TLS: certificate has expired"),
        ({"host": "192.0.2.1"}, "TLS: IP address mismatch"),
    ],
    ids=["expired", "another host"],
)
def test_certificate_of_the_front(
    check: Run,
    server: RunningService,
    door: Open,
    ca: Ca,
    tmp_path: Path,
    options: dict[str, Any],
    reason: str,
) -> None:
    tls = door(certificate=ca.issue(tmp_path, **options), target=port(server))
    check(f"https://127.0.0.1:{tls.port}").failed("front", reason)


def test_ca_of_the_front_is_unknown(
    check: Run,
    server: RunningService,
    door: Open,
    ca: Ca,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    tls = door(certificate=ca.issue(tmp_path), target=port(server))
    check(f"https://127.0.0.1:{tls.port}").failed(
        "front", "TLS: unable to get local issuer certificate (the system's CAs are trusted)"
    )


def test_front_speaks_no_tls(check: Run, server: RunningService) -> None:
    check(server.url.replace("http:", "https:")).failed("front", "127.0.0.1: ")


def test_nobody_is_in_front(check: Run) -> None:
    check(f"https://127.0.0.1:{free_port()}").failed("front", "Connection refused")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://ksef-proxy.example", "passwords would cross the network in clear"),
        ("ksef-proxy.example", "--url is not an http(s) URL"),
        ("https://ksef-proxy.invalid", "ksef-proxy.invalid: "),
    ],
)
def test_url_that_will_not_do(check: Run, url: str, problem: str) -> None:
    check(url).failed("front", problem)


def test_another_service_answers(check: Run, sandbox: Any) -> None:
    check(f"{sandbox.url}/nothing").failed("front", "HTTP 404: not by this service")


def test_a_service_with_another_database_answers(
    check: Run, server: RunningService, empty_database: Any
) -> None:
    migrate(empty_database.owner_dsn)
    found = check(server.url, database_url=empty_database.owner_dsn)
    found.failed("caller's address", "is not in this database: another service answers")


def test_from_a_machine_that_is_itself_a_proxy_it_cannot_be_told(
    check: Run, server: RunningService
) -> None:
    found = check(server.url, forwarded_allow_ips=networks("127.0.0.0/8"))
    assert found.code == 0
    assert found.lines["caller's address"][0] == "warning"
