"""Nothing secret in anything that is written: a journey and faults, and then every text is read."""

import base64
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from app import clock
from app.ksef.wire import Token
from app.services.login import credentials
from app.services.login.tokens import AccessToken
from sandbox.relay import Cut, Pass
from tests.faults.conftest import NIP, Asker, Logged
from tests.service import PASSWORD, Company

FAULTS = ("reset", "html-503", "waf-403", "forbidden", "truncated", "invalid-json", "unauthorized")


def let_go(asker: Any) -> None:
    """End the fault, and the pause after a block of the firewall."""
    asker.control.clear_faults()
    asker.database.execute("UPDATE outages SET paused_until = NULL")


def test_canary(asker: Asker, app: Any, settings: Any, logged: Logged) -> None:
    account, service, company = asker.company.account(), asker.service, asker.company
    ksef_token = asker.control.add_token("test", NIP)
    credentials.store_token(account, ksef_token)
    row = asker.database.execute("SELECT access_token, refresh_token FROM ksef_sessions")[0]
    opened = {
        purpose: service.vault.open(
            bytes(sealed), company_nip=NIP, environment="test", purpose=purpose
        )
        for purpose, sealed in zip(("access token", "refresh token"), row, strict=True)
    }
    texts: list[str] = []

    def keep(answer: Any) -> None:
        texts.append(answer.text + str(answer.headers))

    for endpoint in ("status", "upo"):
        for fault in FAULTS:
            asker.control.fault(fault, path="/sessions/", times=None)
            keep(asker.ask(endpoint))
            let_go(asker)
    for fault in FAULTS:
        asker.control.fault(fault, path="/auth/", times=None)
        asker.database.execute("UPDATE ksef_sessions SET access_token_valid_until = now()")
        keep(asker.ask("status"))
        let_go(asker)
    asker.relay.drop()
    asker.relay.mode = Cut(after=100)
    keep(asker.request("POST", "/auth/test"))
    keep(asker.get(asker.path("status"), headers={"Authorization": "Basic bm8="}))
    asker.relay.drop()
    asker.relay.mode = Pass()
    for method, path in (("POST", "/auth/test"), ("GET", "/auth/test"), ("GET", "/openapi.json")):
        keep(asker.request(method, path))
    keep(asker.ask("status"))
    for command in (["sessions"], ["user", "list"], ["rotate-keys"], ["login", "--help"]):
        texts.append(app.test_cli_runner().invoke(args=command).output)
    texts += [repr(settings), repr(service), repr(account), repr(AccessToken(account))]

    basic = base64.b64encode(f"{company.email}:{PASSWORD}".encode()).decode()
    key = base64.b64encode(settings.secret_keys[0]).decode()
    secrets = [ksef_token, *opened.values(), PASSWORD, basic, key, "sig=", "Bearer ey", "<html"]
    written = "\n".join([*texts, logged.text()])
    assert len(texts) > 25
    for secret in secrets:
        assert secret not in written
    assert NIP not in logged.text()


@pytest.fixture
def raised(app: Any) -> Iterator[list[Exception]]:
    """The service fails with these: each asks for one."""
    waiting: list[Exception] = []

    def fail() -> None:
        if waiting:
            raise waiting.pop()

    app.before_request_funcs[None].append(fail)
    yield waiting
    app.before_request_funcs[None].remove(fail)


def test_words_of_an_exception_are_not_logged(
    company: Company, raised: list[Exception], logged: Logged
) -> None:
    """At any level: its kind and place are, and those of its cause."""
    secrets = (f"Authorization: Basic {PASSWORD}", "https://x/upo.xml?sig=abc", "token|nip-1")
    logging.getLogger("ksef_proxy").setLevel("DEBUG")
    for secret in secrets:
        cause = ValueError(f"cause {secret}")
        error = requests.ConnectionError(secret)
        error.__cause__ = cause
        raised.append(error)
        answer = company.get("/auth/test")
        assert answer.status_code == 500
        assert secret not in answer.text
    written = logged.text()
    for secret in secrets:
        assert secret not in written
    for known in ("builtins.ValueError", "requests.exceptions.ConnectionError", "in fail"):
        assert written.count(known) >= len(secrets)


def test_values_of_tokens_are_not_part_of_their_repr() -> None:
    assert "abc" not in repr(Token(value="abc", valid_until=clock.now()))


@pytest.mark.parametrize("name", ["database_url", "secret_keys", "ksef_proxy_url"])
def test_settings_that_hold_secrets_are_not_shown(settings: Any, name: str) -> None:
    assert f"{name}=" not in repr(settings)
