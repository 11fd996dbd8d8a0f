"""Companies, users and their passwords."""

import threading
from typing import Any

import pytest

from app import errors
from app.service import Service
from app.services.operators import users
from app.services.operators.passwords import Passwords
from app.services.operators.users import Caller

NIP, OTHER_NIP = "5265877635", "7812019453"
EMAIL, PASSWORD = "erp@firma.example", "zażółć gęślą jaźń"


@pytest.fixture
def company(service: Service) -> None:
    users.add_company(service.db, NIP, "Firma sp. z o.o.")


@pytest.fixture
def user(service: Service, company: None) -> None:
    users.add_user(
        service.db, service.passwords, email=EMAIL, nip=NIP, role="technical", password=PASSWORD
    )


def authenticate(service: Service, email: str, password: str) -> Caller:
    return users.authenticate(service.db, service.passwords, service.timing, email, password)


def stored_hash(database: Any) -> str:
    [(text,)] = database.execute("SELECT password_hash FROM users")
    return text


# -- companies ------------------------------------------------------------------------------


def test_company_is_stored_under_its_nip(database: Any, service: Service) -> None:
    users.add_company(service.db, NIP, "  Firma sp. z o.o. ")
    assert database.execute("SELECT nip, name FROM companies") == [(NIP, "Firma sp. z o.o.")]


@pytest.mark.parametrize(
    "nip",
    [
        "5265877636",  # check digit
        "526587763",
        "52658776350",
        "0000000000",
        "526-587-76-35",
        "PL5265877635",
        "٥٢٦٥٨٧٧٦٣٥",
        "5265877635\n",
        "",
    ],
)
def test_what_is_no_nip_is_refused(database: Any, service: Service, nip: str) -> None:
    with pytest.raises(errors.OperatorError, match="is not a NIP"):
        users.add_company(service.db, nip, "Firma")
    assert database.execute("SELECT nip FROM companies") == []


def test_company_without_a_name_is_refused(database: Any, service: Service) -> None:
    with pytest.raises(errors.OperatorError, match="needs a name"):
        users.add_company(service.db, NIP, " ")
    assert database.execute("SELECT nip FROM companies") == []


def test_company_that_is_there_keeps_its_name(
    database: Any, service: Service, company: None
) -> None:
    with pytest.raises(errors.OperatorError, match="exists already"):
        users.add_company(service.db, NIP, "Another name")
    assert database.execute("SELECT name FROM companies") == [("Firma sp. z o.o.",)]


# -- users ----------------------------------------------------------------------------------


def test_password_is_kept_as_argon2id_only(database: Any, service: Service, user: None) -> None:
    [row] = database.execute("SELECT u::text FROM users AS u")
    assert PASSWORD not in row[0]
    assert stored_hash(database).startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_user_asks_for_its_own_company(service: Service, user: None) -> None:
    assert authenticate(service, EMAIL, PASSWORD) == Caller(EMAIL, NIP, "technical")


@pytest.mark.parametrize("written", ["ERP@Firma.Example", " erp@firma.example "])
def test_address_is_taken_in_any_case(service: Service, user: None, written: str) -> None:
    assert authenticate(service, written, PASSWORD).email == EMAIL
    with pytest.raises(errors.OperatorError, match="exists already"):
        users.add_user(
            service.db, service.passwords, email=written, nip=NIP, role="admin", password=PASSWORD
        )


def test_made_password_is_strong_and_works(service: Service, company: None) -> None:
    made = {
        users.add_user(
            service.db,
            service.passwords,
            email=f"{i}@firma.example",
            nip=NIP,
            role="admin",
            password=None,
        )
        for i in range(3)
    }
    assert len(made) == 3
    assert min(map(len, made)) >= 24  # 18 random bytes
    assert {
        role
        for i in range(3)
        for password in made
        if (role := role_or_none(service, f"{i}@firma.example", password))
    } == {"admin"}


def role_or_none(service: Service, email: str, password: str) -> str | None:
    try:
        return authenticate(service, email, password).role
    except errors.Unauthorized:
        return None


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"email": "nobody"}, "not an e-mail address"),
        ({"email": "a:b@firma.example"}, "not an e-mail address"),  # HTTP Basic splits there
        ({"email": "a\x00b@firma.example"}, "not an e-mail address"),
        ({"email": "a" * 250 + "@b.pl"}, "not an e-mail address"),
        ({"password": "elevenchars"}, "at least 12"),
        ({"password": ""}, "at least 12"),
        ({"nip": OTHER_NIP}, "no company"),
    ],
)
def test_wrong_user_is_refused_and_not_stored(
    database: Any, service: Service, company: None, changes: dict[str, str], complaint: str
) -> None:
    given = {"email": EMAIL, "nip": NIP, "role": "admin", "password": PASSWORD, **changes}
    with pytest.raises(errors.OperatorError, match=complaint):
        users.add_user(service.db, service.passwords, **given)
    assert database.execute("SELECT email FROM users") == []


def test_list_names_all_users_by_company(service: Service, user: None) -> None:
    users.add_company(service.db, OTHER_NIP, "Inna")
    users.add_user(
        service.db,
        service.passwords,
        email="b@inna.example",
        nip=OTHER_NIP,
        role="admin",
        password=None,
    )
    users.add_user(
        service.db, service.passwords, email="a@firma.example", nip=NIP, role="admin", password=None
    )
    users.disable_user(service.db, EMAIL)
    assert [
        (row.email, row.company_nip, row.role, row.disabled_at is not None)
        for row in users.list_users(service.db)
    ] == [
        ("a@firma.example", NIP, "admin", False),
        (EMAIL, NIP, "technical", True),
        ("b@inna.example", OTHER_NIP, "admin", False),
    ]


# -- who is let in --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("email", "password"),
    [
        (EMAIL, PASSWORD + " "),
        (EMAIL, PASSWORD[:-1]),
        (EMAIL, ""),
        ("other@firma.example", PASSWORD),
        ("", PASSWORD),
        (f"{EMAIL}\x00", PASSWORD),
        (EMAIL, f"{PASSWORD}\x00"),
        ("' OR true --", PASSWORD),
    ],
)
def test_every_refusal_reads_the_same(
    service: Service, user: None, email: str, password: str
) -> None:
    with pytest.raises(errors.Unauthorized) as refusal:
        authenticate(service, email, password)
    assert refusal.value.detail == errors.Unauthorized().detail


def test_disabled_user_is_out_at_once_though_its_password_is_remembered(
    service: Service, user: None
) -> None:
    authenticate(service, EMAIL, PASSWORD)
    users.disable_user(service.db, EMAIL)
    with pytest.raises(errors.Unauthorized):
        authenticate(service, EMAIL, PASSWORD)


def test_changed_password_is_out_at_once_though_it_is_remembered(
    database: Any, service: Service, user: None
) -> None:
    authenticate(service, EMAIL, PASSWORD)
    changed = service.passwords.hash("another, longer one")
    database.execute(f"UPDATE users SET password_hash = '{changed}'")
    with pytest.raises(errors.Unauthorized):
        authenticate(service, EMAIL, PASSWORD)
    assert authenticate(service, EMAIL, "another, longer one").company_nip == NIP


def test_disabling_twice_keeps_the_first_time(database: Any, service: Service, user: None) -> None:
    users.disable_user(service.db, EMAIL.upper())
    first = database.execute("SELECT disabled_at FROM users")
    users.disable_user(service.db, EMAIL)
    assert database.execute("SELECT disabled_at FROM users") == first
    assert first[0][0] is not None


def test_disabling_somebody_unknown_is_told(service: Service) -> None:
    with pytest.raises(errors.OperatorError, match="no user"):
        users.disable_user(service.db, EMAIL)


# -- the price of a password ----------------------------------------------------------------


def test_only_two_passwords_are_hashed_at_a_time() -> None:
    """Who finds no turn is told to come again, before any memory is spent on a hash."""
    passwords = Passwords(remember=60, wait=0.0)
    stored = passwords.hash(PASSWORD)
    refused = []
    start = threading.Barrier(8)

    def guess() -> None:
        start.wait(10)
        try:
            with passwords.turn():
                passwords.verify("wrong", stored)
        except errors.Unavailable as error:
            refused.append(error.retry_after)

    threads = [threading.Thread(target=guess) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(refused) <= 6
    assert set(refused) == {1}
    with passwords.turn():
        assert not passwords.verify("wrong", stored)
