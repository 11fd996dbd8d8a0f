"""What a password costs: counted in calls of the hasher, not in seconds."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import argon2
import pytest

from app import errors
from app.services.operators import passwords as module
from app.services.operators.passwords import Passwords

PASSWORD, OTHER = "zażółć gęślą jaźń", "another, longer one"


class Hasher:
    """Counts the verifications of the real hasher; `meanwhile` runs within each of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hashes: list[str] = []
        self.meanwhile: Callable[[], Any] = lambda: None
        real = argon2.PasswordHasher.verify

        def verify(hasher: Any, stored: str, password: str) -> bool:
            self.hashes.append(stored)
            self.meanwhile()
            return real(hasher, stored, password)

        monkeypatch.setattr(argon2.PasswordHasher, "verify", verify)

    @property
    def calls(self) -> int:
        return len(self.hashes)


@pytest.fixture
def hasher(monkeypatch: pytest.MonkeyPatch) -> Hasher:
    return Hasher(monkeypatch)


@pytest.fixture
def passwords() -> Passwords:
    return Passwords(remember=60, wait=5)


def in_turn(passwords: Passwords, password: str, stored: str) -> bool:
    with passwords.turn():
        return passwords.verify(password, stored)


def test_a_right_password_is_remembered(passwords: Passwords, hasher: Hasher) -> None:
    stored = passwords.hash(PASSWORD)
    assert not passwords.remembers(PASSWORD, stored)
    assert passwords.verify(PASSWORD, stored)
    assert [passwords.remembers(PASSWORD, stored) for _ in range(5)] == [True] * 5
    assert hasher.calls == 1


def test_a_wrong_one_is_not(passwords: Passwords) -> None:
    stored = passwords.hash(PASSWORD)
    assert not passwords.verify(OTHER, stored)
    assert not passwords.remembers(OTHER, stored)
    assert not passwords.remembers(PASSWORD, None)


def test_the_memory_ends() -> None:
    forgetful = Passwords(remember=0, wait=5)
    stored = forgetful.hash(PASSWORD)
    assert forgetful.verify(PASSWORD, stored)
    assert not forgetful.remembers(PASSWORD, stored)


def test_a_changed_password_is_out_at_once(passwords: Passwords) -> None:
    assert passwords.verify(PASSWORD, passwords.hash(PASSWORD))
    changed = passwords.hash(OTHER)
    assert not passwords.remembers(PASSWORD, changed)
    assert not passwords.verify(PASSWORD, changed)
    assert passwords.verify(OTHER, changed)


def test_two_users_of_one_password_are_hashed_apart(passwords: Passwords) -> None:
    first, second = passwords.hash(PASSWORD), passwords.hash(PASSWORD)
    assert passwords.verify(PASSWORD, first)
    assert not passwords.remembers(PASSWORD, second)


def test_an_unknown_user_costs_a_hash_of_the_same_price(
    passwords: Passwords, hasher: Hasher
) -> None:
    assert not passwords.verify(PASSWORD, None)
    assert not passwords.verify(PASSWORD, None)
    first, second = hasher.hashes
    parameters = argon2.extract_parameters(passwords.hash(PASSWORD))
    assert argon2.extract_parameters(first) == argon2.extract_parameters(second) == parameters
    assert (parameters.type, parameters.memory_cost, parameters.time_cost) == (
        argon2.Type.ID,
        19 * 1024,
        2,
    )


@pytest.mark.parametrize("stored", ["not a hash", "$argon2id$v=19$m=1,t=1,p=1$", ""])
def test_a_damaged_hash_lets_nobody_in(passwords: Passwords, stored: str) -> None:
    assert not passwords.verify(PASSWORD, stored)
    assert not passwords.verify("", stored)


def test_the_memory_is_bounded_and_holds_no_password(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_REMEMBERED", 2)
    stored = [passwords.hash(PASSWORD) for _ in range(3)]
    for each in stored:
        assert passwords.verify(PASSWORD, each)
    assert [passwords.remembers(PASSWORD, each) for each in stored] == [False, True, True]
    assert PASSWORD not in repr(vars(passwords))


def test_two_are_hashed_at_a_time_and_the_third_is_sent_away(hasher: Hasher) -> None:
    passwords = Passwords(remember=60, wait=0.01)
    stored = passwords.hash(PASSWORD)
    both_within, let_go = threading.Barrier(3), threading.Event()

    def hold() -> None:
        both_within.wait(10)
        assert let_go.wait(10)

    hasher.meanwhile = hold
    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(in_turn, passwords, PASSWORD, stored) for _ in range(2)]
        both_within.wait(10)
        try:
            with pytest.raises(errors.Unavailable, match="Too many logins") as caught:
                in_turn(passwords, PASSWORD, stored)
        finally:
            let_go.set()
        assert [future.result() for future in running] == [True, True]
    assert caught.value.retry_after == 1
    assert hasher.calls == 2
    hasher.meanwhile = lambda: None
    assert in_turn(passwords, PASSWORD, stored)


def test_what_fails_gives_its_turn_back() -> None:
    passwords = Passwords(remember=60, wait=0.01)
    for _ in range(5):
        assert not in_turn(passwords, PASSWORD, "not a hash")
        with pytest.raises(KeyError), passwords.turn():
            raise KeyError
    assert in_turn(passwords, PASSWORD, passwords.hash(PASSWORD))
