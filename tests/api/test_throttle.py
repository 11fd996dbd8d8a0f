"""Guessing passwords: a few failures in a quarter of an hour, then no more."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import argon2
import pytest
from flask import Flask

from app import create_app
from app.context import EXTENSION
from app.service import Service
from app.services.operators import users
from app.services.operators.throttle import ALLOWED, ALLOWED_BY_ADDRESS, ALLOWED_BY_NAME
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
    """The hashes that passwords were compared with, in no time at all."""
    compared: list[str] = []

    def verify(_hasher: Any, stored: str, password: str) -> bool:
        compared.append(stored)
        if password != PASSWORD:
            raise argon2.exceptions.VerifyMismatchError
        return True

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
    assert "not even a right password is looked at" in put_off.json["detail"]
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


def is_put_off(answer: Any) -> bool:
    return answer.status_code == 401 and 800 < int(answer.headers.get("Retry-After", 0)) <= 900


def known_at(company: Company, address: str) -> None:
    """The user has logged in from there, long enough ago for the password to be forgotten."""
    assert ask(company, company.email, PASSWORD, address=address).status_code == 404
    company.service.passwords._proved.clear()


def test_a_name_is_counted_whatever_the_address(
    company: Company, hashes: list[str], database: Any
) -> None:
    known_at(company, "203.0.113.7")
    for number in range(ALLOWED_BY_NAME):
        fail(company, company.email, 1, address=f"198.51.100.{number}")
    hashes.clear()
    assert is_put_off(ask(company, company.email, WRONG, address="198.51.100.99"))
    assert is_put_off(ask(company, company.email, PASSWORD, address="198.51.100.98"))
    assert hashes == []
    [(who, address)] = database.execute("SELECT who, address FROM audit WHERE what LIKE '%put_off'")
    assert (who, address) == (company.email, f"198.51.100.{ALLOWED_BY_NAME - 1}")
    # Nobody elsewhere can lock a user out of the place that it comes from.
    assert ask(company, company.email, PASSWORD).status_code == 404
    company.service.passwords._proved.clear()
    assert ask(company, company.email, PASSWORD).status_code == 404
    company.service.passwords._proved.clear()
    fail(company, company.email)  # but whoever is there can
    assert is_put_off(ask(company, company.email, PASSWORD))


def test_an_address_is_counted_whatever_the_name(
    company: Company, make_company: Callable[..., Company], hashes: list[str], database: Any
) -> None:
    newcomer = make_company("7812019453", logged_in=False)
    known_at(company, "203.0.113.7")
    for number in range(ALLOWED_BY_ADDRESS):
        fail(company, f"{number}@example.com", 1)
    hashes.clear()
    assert is_put_off(ask(company, "new@example.com", WRONG))
    assert is_put_off(ask(company, newcomer.email, PASSWORD))
    assert hashes == []
    # A neighbour who came before is not put off, and others elsewhere are not either.
    assert ask(company, company.email, PASSWORD).status_code == 404
    assert ask(company, newcomer.email, PASSWORD, address="203.0.113.8").status_code == 404
    assert database.execute("SELECT what FROM audit WHERE what = 'user_put_off'") == []


def test_an_ipv6_network_is_one_address(company: Company, hashes: list[str]) -> None:
    for number in range(ALLOWED):
        fail(company, company.email, 1, address=f"2001:db8:1:2::{number}")
    assert is_put_off(ask(company, company.email, WRONG, address="2001:db8:1:2:3::"))
    assert not is_put_off(ask(company, company.email, WRONG, address="2001:db8:1:3::"))


def test_guesses_at_once_are_not_more(
    company: Company, service: Service, hashes: list[str], app: Flask
) -> None:
    """Each is counted before its password is looked at."""
    authorization = basic(company.email, WRONG)

    def guess(_: int) -> bool:
        answer = app.test_client().get(WHERE, headers=authorization)
        assert answer.status_code == 401
        return "Retry-After" in answer.headers

    replica = create_app(service.settings)
    with ThreadPoolExecutor(8) as threads:
        put_off = list(threads.map(guess, range(40)))
    replica.extensions[EXTENSION].db.close()
    assert len(hashes) == ALLOWED
    assert put_off.count(False) == ALLOWED


def test_right_logins_at_once_are_no_attempts(company: Company, app: Flask, database: Any) -> None:
    """A program that begins with many calls at a time is not put off."""

    def log_in(_: int) -> int:
        return int(app.test_client().get(WHERE, headers=company.authorization).status_code)

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(log_in, range(24))) == {404}
    assert database.execute("SELECT DISTINCT failed_at::text FROM login_attempts") == [("{}",)]


@pytest.mark.parametrize("command", ["unlock", "set-password"])
def test_a_password_that_is_right_is_refused_until_an_operator_unlocks_its_user(
    company: Company, service: Service, command: str
) -> None:
    addresses = ("203.0.113.7", "203.0.113.8")
    for address in addresses:
        fail(company, company.email, address=address)
        assert is_put_off(ask(company, company.email, PASSWORD, address=address))
    if command == "unlock":
        users.unlock_user(service.db, company.email)
    else:
        users.set_password(service.db, service.passwords, company.email, PASSWORD)
    for address in addresses:
        assert ask(company, company.email, PASSWORD, address=address).status_code == 404


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


def age(database: Any, interval: str) -> None:
    database.execute(
        "UPDATE login_attempts SET failed_at = ARRAY("
        f"SELECT moment - interval '{interval}' FROM unnest(failed_at) AS moment),"
        f" succeeded_at = succeeded_at - interval '{interval}',"
        f" needed_until = needed_until - interval '{interval}'"
    )


def test_failures_are_forgotten_in_time(company: Company, database: Any) -> None:
    fail(company, company.email, 5)
    age(database, "10 minutes")
    fail(company, company.email, 5)
    assert 250 < int(ask(company, company.email, PASSWORD).headers["Retry-After"]) <= 300
    age(database, "5 minutes")
    fail(company, company.email, 5)  # those of the last five minutes still count
    assert 550 < int(ask(company, company.email, PASSWORD).headers["Retry-After"]) <= 600
    age(database, "15 minutes")
    assert ask(company, company.email, PASSWORD).status_code == 404


def test_rows_that_tell_nothing_any_more_are_deleted(company: Company, database: Any) -> None:
    for number in range(3):
        fail(company, f"{number}@example.com", 1)
    assert ask(company, company.email, PASSWORD).status_code == 404
    assert database.execute("SELECT count(*) FROM login_attempts") == [(3 * 2 + 1 + 2,)]
    age(database, "15 minutes")
    fail(company, "another@example.com", 1)
    # Of the old ones there is the known pair, and the address that both have used.
    assert database.execute("SELECT count(*) FROM login_attempts") == [(1 + 3,)]
    age(database, "31 days")
    fail(company, "another@example.com", 1)
    assert database.execute("SELECT count(*) FROM login_attempts") == [(3,)]


def test_refused_callers_write_nothing(company: Company, database: Any, hashes: Any) -> None:
    fail(company, company.email)
    before = database.execute("SELECT xmin::text, t::text FROM login_attempts t ORDER BY 2")
    for _ in range(3):
        assert is_put_off(ask(company, company.email, WRONG))
    after = database.execute("SELECT xmin::text, t::text FROM login_attempts t ORDER BY 2")
    assert before == after


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
    assert "Retry-After" in guess("198.51.100.1:4711", "127.0.0.1").headers
    assert "Retry-After" not in guess("198.51.100.2", "127.0.0.1").headers


def test_right_passwords_pass_where_nothing_can_be_counted(company: Company, database: Any) -> None:
    fail(company, company.email, ALLOWED - 1)
    database.execute("REVOKE INSERT ON login_attempts FROM ksef_proxy")
    try:
        fail(company, company.email, 2)
        assert ask(company, company.email, PASSWORD).status_code == 404
    finally:
        database.execute("GRANT INSERT ON login_attempts TO ksef_proxy")


def test_nothing_that_was_typed_is_stored(company: Company, database: Any) -> None:
    fail(company, "my secret password", 1)
    rows = database.execute("SELECT who, name FROM login_attempts")
    assert len({bytes(who) for who, _ in rows}) == 3
    assert {len(bytes(each)) for row in rows for each in row if each} == {32}
    assert "secret" not in repr(database.execute("SELECT t::text FROM login_attempts t"))


def test_names_that_look_like_another_s_rows(company: Company, hashes: list[str]) -> None:
    """Nobody fills the row of a name and an address by typing both as a name."""
    for name in (f"{company.email}\0203.0.113.7", "\0203.0.113.7", "203.0.113.7"):
        fail(company, name, ALLOWED, address="198.51.100.1")
    assert ask(company, company.email, PASSWORD).status_code == 404


def test_disabled_user_is_out_at_the_next_request(company: Company, service: Service) -> None:
    assert ask(company, company.email, PASSWORD).status_code == 404
    users.disable_user(service.db, company.email)
    assert ask(company, company.email, PASSWORD).status_code == 401
