"""The service for tests: an application on the migrated database, before the sandbox KSeF.

| fixture | gives |
|---|---|
| `settings` | settings for the test's database and the sandbox, with quick deadlines |
| `app` | the application in this process |
| `service` | its service |
| `company` | a company with an admin, and in each environment a KSeF token and a live session |
| `make_company` | makes more of them, logged in where told to (a login takes 50 ms) |
"""

import base64
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app, telemetry
from app.account import Account
from app.context import EXTENSION
from app.db.queries import users as queries
from app.service import Service
from app.services.login import credentials, session
from app.services.operators import users
from app.services.operators.passwords import Passwords
from app.settings import ENVIRONMENTS, Settings, Timing
from sandbox.control import Control

PASSWORD = "correct horse battery staple"
QUICK = Timing(
    login_poll=0.01,
    lease_poll=0.02,
    lease_refresh=3.5,
    ksef_connect=1.0,
    ksef_call=2.0,
    request=5.0,
    retry_left=1.0,
    # Nor does one failure keep the next attempt away.
    refresh_pause=0.0,
    silent_login=0.0,
    refused_pause=0.0,
    retry_least=0.01,
    retry_most=0.04,
    # Nothing that moves is kept, and nothing that is refused: each test asks for that by itself.
    fresh_least=0.0,
    fresh_most=0.0,
    refusal_least=0.0,
    refusal_most=0.0,
    quota_jitter=0.0,
    quota_scale=0.01,
)


@dataclass(frozen=True)
class Company:
    """A company and the way to ask in its name."""

    nip: str
    email: str
    client: FlaskClient
    service: Service

    @property
    def authorization(self) -> dict[str, str]:
        return basic(self.email, PASSWORD)

    def request(self, method: str, path: str, **kwargs: Any) -> TestResponse:
        headers = {**self.authorization, **kwargs.pop("headers", {})}
        return self.client.open(path, method=method, headers=headers, **kwargs)

    def get(self, path: str, **kwargs: Any) -> TestResponse:
        return self.request("GET", path, **kwargs)

    def account(self, environment: str = "test") -> Account:
        return self.service.account(self.nip, environment)


@cache
def _hash_of_password() -> str:
    return Passwords(remember=0, wait=0).hash(PASSWORD)


def basic(email: str, password: str) -> dict[str, str]:
    """The header of HTTP Basic."""
    credentials = base64.b64encode(f"{email}:{password}".encode()).decode()
    return {"Authorization": f"Basic {credentials}"}


@pytest.fixture(scope="session")
def secret_key() -> bytes:
    return os.urandom(32)


@pytest.fixture
def settings(
    database: Any,
    sandbox: Any,
    secret_key: bytes,
    _upo_signers: dict[str, tuple[str, ...]],
) -> Settings:
    return Settings(
        database_url=database.service_dsn,
        secret_keys=(secret_key,),
        ksef_urls={name: f"{sandbox.url}/{name}/v2" for name in ENVIRONMENTS},
        upo_signers=_upo_signers,
        timing=QUICK,
    )


@pytest.fixture(scope="session")
def _upo_signers(_running_control: Control) -> dict[str, tuple[str, ...]]:
    """Those of the sandbox, by environment."""
    return {name: tuple(_running_control.signers(name)) for name in ENVIRONMENTS}


@pytest.fixture(scope="session")
def _apps() -> dict[str, Flask]:
    """Applications made so far, by their settings: making one takes longer than a usual test."""
    return {}


@pytest.fixture
def app(settings: Settings, _apps: dict[str, Flask]) -> Flask:
    key = f"{settings.database_url} {settings!r}"  # the one does not show in the other
    if key not in _apps:
        _apps[key] = create_app(settings)
    telemetry.configure(settings.log_level)  # to the standard error of this test
    for other in _apps.keys() - {key}:
        _apps[other].extensions[EXTENSION].db.close()  # the idle connections: the server has few
    return _apps[key]


@pytest.fixture
def service(app: Flask) -> Service:
    return app.extensions[EXTENSION]


@pytest.fixture
def make_company(app: Flask, service: Service, control: Control) -> Callable[..., Company]:
    """Make a company: `make_company(nip, role="admin", logged_in=True, environments=("test",))`."""

    def make(
        nip: str,
        *,
        role: str = "admin",
        logged_in: bool = True,
        environments: Sequence[str] = ENVIRONMENTS,
    ) -> Company:
        email = f"erp@{nip}.example"
        users.add_company(service.db, nip, f"Spółka {nip}")
        with service.db.transaction() as connection:
            queries.add_user(
                connection,
                email=email,
                company_nip=nip,
                role=role,
                password_hash=_hash_of_password(),
            )
        control.settings(authPolls=0)
        for environment in environments if logged_in else ():
            account = service.account(nip, environment)
            credentials.store_token(account, control.add_token(environment, nip))
            session.log_in(account)
        control.settings(authPolls=1)
        control.clear_calls()
        return Company(nip, email, app.test_client(), service)

    return make


@pytest.fixture
def company(make_company: Callable[..., Company]) -> Company:
    return make_company("5265877635")
