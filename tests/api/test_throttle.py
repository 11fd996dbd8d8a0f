"""Guessing passwords: ten failures in a quarter of an hour, then no more."""

from collections.abc import Callable, Iterator
from typing import Any

import argon2
import pytest
from flask import Flask

from app import create_app
from app.context import EXTENSION
from app.service import Service
from app.services.operators import users
from app.services.operators.throttle import ALLOWED
from app.settings import Settings
from tests.service import PASSWORD, Company, basic

NIP = "5265877635"
WHERE = "/auth/test"
WRONG = "a wrong password"


@pytest.fixture
def company(make_company: Callable[..., Company]) -> Company:
    return make_company(NIP, logged_in=False)


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hashes that passwords were compared with."""
    compared: list[str] = []
    real = argon2.PasswordHasher.verify

    def verify(hasher: Any, stored: str, password: str) -> bool:
        compared.append(stored)
        return real(hasher, stored, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", verify)
    return compared


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    """An application that has proved no password yet: one that it has proved passes."""
    app = create_app(settings)
    yield app
    app.extensions[EXTENSION].db.close()


def ask(company: Company, email: str, password: str, address: str = "203.0.113.7") -> Any:
    return company.client.get(
        WHERE,
        headers=basic(email, password),
        environ_overrides={"REMOTE_ADDR": address},
    )


def fail(company: Company, email: str, times: int = ALLOWED, **where: str) -> list[Any]:
    answers = [ask(company, email, WRONG, **where) for _ in range(times)]
    assert [answer.status_code for answer in answers] == [401] * times
    return answers


@pytest.mark.parametrize("email", [f"erp@{NIP}.example", "nobody@example.com"])
def test_eleventh_failure_is_not_hashed(company: Company, hashes: list[str], email: str) -> None:
    failures = fail(company, email)
    assert len(hashes) == ALLOWED
    put_off = ask(company, email.upper(), PASSWORD)
    assert len(hashes) == ALLOWED
    assert put_off.status_code == 401
    assert put_off.json["detail"] == failures[0].json["detail"]
    assert "Retry-After" not in failures[0].headers
    assert 800 < int(put_off.headers["Retry-After"]) <= 900


def test_unknown_and_disabled_users_cost_what_known_ones_do(
    company: Company, service: Service, hashes: list[str]
) -> None:
    users.disable_user(service.db, company.email)
    for email in (company.email, "nobody@example.com"):
        fail(company, email, 1)
    assert len(hashes) == 2


def test_others_are_not_put_off(company: Company, make_company: Callable[..., Company]) -> None:
    other = make_company("7812019453", logged_in=False)
    fail(company, company.email)
    assert ask(company, company.email, PASSWORD).status_code == 401
    assert ask(company, company.email, PASSWORD, address="203.0.113.8").status_code == 404
    assert ask(company, other.email, PASSWORD).status_code == 404


def test_login_that_was_right_a_moment_ago_passes(company: Company) -> None:
    assert ask(company, company.email, PASSWORD).status_code == 404
    fail(company, company.email)
    assert ask(company, company.email, PASSWORD).status_code == 404
    assert ask(company, company.email, WRONG).headers["Retry-After"]


def test_replicas_count_together(company: Company, settings: Any) -> None:
    fail(company, company.email, address="127.0.0.9")
    replica = Service(settings)
    with pytest.raises(users.Unauthorized) as put_off:
        users.authenticate(
            replica.db,
            replica.passwords,
            replica.timing,
            company.email,
            PASSWORD,
            address="127.0.0.9",
        )
    assert put_off.value.retry_after
    replica.db.close()


def test_failures_are_forgotten_in_time(company: Company, database: Any) -> None:
    fail(company, company.email)
    database.execute("UPDATE failed_logins SET failed_at = failed_at - interval '15 minutes'")
    assert ask(company, company.email, PASSWORD).status_code == 404
    fail(company, company.email, 1)
    assert database.execute("SELECT count(*) FROM failed_logins") == [(1,)]


def test_address_is_the_caller_s_behind_a_proxy_of_ours_only(company: Company) -> None:
    def guess(client: str, peer: str) -> Any:
        return company.client.get(
            WHERE,
            headers={**basic(company.email, WRONG), "X-Forwarded-For": client},
            environ_overrides={"REMOTE_ADDR": peer},
        )

    for number in range(ALLOWED):
        guess(f"198.51.100.{number}", "203.0.113.7")  # invents an address for each guess
    assert "Retry-After" in guess("198.51.100.99", "203.0.113.7").headers
    for _ in range(ALLOWED):
        guess("198.51.100.1", "127.0.0.1")
    assert "Retry-After" in guess("198.51.100.1", "127.0.0.1").headers
    assert "Retry-After" not in guess("198.51.100.2", "127.0.0.1").headers


def test_nothing_that_was_typed_is_stored(company: Company, database: Any) -> None:
    fail(company, "my secret password", 1)
    [(who,)] = database.execute("SELECT who FROM failed_logins")
    assert len(bytes(who)) == 32


def test_disabled_user_is_out_at_the_next_request(company: Company, service: Service) -> None:
    assert ask(company, company.email, PASSWORD).status_code == 404
    users.disable_user(service.db, company.email)
    assert ask(company, company.email, PASSWORD).status_code == 401
