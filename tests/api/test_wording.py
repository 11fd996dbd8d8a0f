"""The `detail` of a 502: what happened, what helps, and whether asking again does."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient

from app import create_app, errors
from app.api import openapi, wording
from app.context import EXTENSION
from app.errors import KsefAnswer
from app.ksef.login import REFUSED, REVOKED
from app.services.login.credentials import LoginRefused
from app.services.outages import Evidence
from tests.service import Company

WAIT = {"en": "wait, and ask again.", "pl": "poczekaj i zapytaj ponownie."}
IN_VAIN = {
    "en": "and asking again will not help.",
    "pl": "a ponowienie zapytania nie pomoże.",
}
BEFORE = {
    "en": "asking again will not help before that is done.",
    "pl": "ponowienie zapytania przedtem nie pomoże.",
}
ENGLISH = re.compile(r"\b(the|is|of|no|and|not|was)\b")
LANGUAGES = pytest.mark.parametrize("language", ["en", "pl"])


def told(error: errors.ProxyError, language: str) -> str:
    return wording.told(error, type(error), Evidence(), "test", language, str)


@LANGUAGES
@pytest.mark.parametrize(
    ("status", "code", "end"),
    [
        (500, None, WAIT),
        (503, None, WAIT),
        (400, 21111, WAIT),  # a challenge that was too old: the next login gets a new one
        (400, 21180, WAIT),  # the session's status does not allow it yet
        (400, 21405, IN_VAIN),
        (400, 9105, IN_VAIN),
        (400, 21308, IN_VAIN),
        (403, None, IN_VAIN),
        (410, None, IN_VAIN),
    ],
)
def test_whether_asking_again_helps(
    status: int, code: int | None, end: dict[str, str], language: str
) -> None:
    error = errors.KsefError("KSeF refused.", ksef=KsefAnswer(status, code))
    assert told(error, language).endswith(end[language])


@LANGUAGES
def test_a_block_of_the_firewall_ends_by_itself(language: str) -> None:
    error = errors.KsefError("Blocked.", ksef=KsefAnswer(403), retry_after=60)
    assert told(error, language).endswith(WAIT[language])


@LANGUAGES
@pytest.mark.parametrize("code", sorted(REFUSED))
@pytest.mark.parametrize("retry_after", [None, 30], ids=["first", "kept"])
def test_a_refused_credential(code: int, retry_after: int | None, language: str) -> None:
    """Also where the refusal is kept: `retry_after` is when KSeF is asked at the earliest."""
    error = LoginRefused("Refused. Do this.", ksef=KsefAnswer(200, code), retry_after=retry_after)
    sentence = told(error, language)
    assert sentence.endswith((WAIT if code == REVOKED else BEFORE)[language])
    if language == "pl":
        assert wording.REMEDIES[code] in sentence


@LANGUAGES
def test_a_credential_refused_without_a_remedy(language: str) -> None:
    error = LoginRefused("KSeF refused.", ksef=KsefAnswer(400, 21115, "Nieprawidłowy certyfikat."))
    assert told(error, language).endswith(IN_VAIN[language])


def test_missing_rights_are_named_in_polish() -> None:
    said = KsefAnswer(
        403,
        description="Brak wymaganych uprawnień.",
        details=("InvoiceRead", "InvoiceWrite"),
        reason="missing-permissions",
    )
    assert told(errors.KsefError("KSeF refused.", ksef=said), "pl") == (
        "KSeF odmówił albo zawiódł. KSeF: Brak wymaganych uprawnień. Potrzebne jest jedno z"
        " uprawnień: InvoiceRead, InvoiceWrite. Nie stwierdzono awarii KSeF, a ponowienie"
        " zapytania nie pomoże."
    )


@pytest.fixture
def in_polish(settings: Any) -> Iterator[FlaskClient]:
    app = create_app(replace(settings, message_language="pl"))
    yield app.test_client()
    app.extensions[EXTENSION].db.close()


def test_every_code_has_a_polish_text() -> None:
    both_languages = {errors.OutageSimulation.code, errors.KsefOutage.code}
    assert set(wording._POLISH) == set(openapi.CODES) - both_languages


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/nowhere", 404, "Nie ma takiego adresu."),
        ("PUT", "/status", 405, "nie przyjmuje tej metody"),
        ("GET", "/auth/moon", 400, "Błędne: environment."),
        ("GET", "/invoices/test/status/20260115-SO-0123456789-ABCDEF0123-4F", 404, "nie zna sesji"),
        ("PUT", "/outages/prod/simulation", 403, "Awarii środowiska prod nie można symulować."),
    ],
)
def test_problems_are_told_in_polish_too(
    in_polish: FlaskClient, company: Company, method: str, path: str, status: int, said: str
) -> None:
    answer = in_polish.open(path, method=method, headers=company.authorization)
    assert answer.status_code == status
    assert said in answer.json["detail"]
    assert not ENGLISH.search(answer.json["detail"])


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("GET", "Firma nie jest zalogowana do KSeF"),
        ("POST", "Operator nie zapisał certyfikatu ani tokenu"),
    ],
)
def test_what_a_new_company_lacks_is_told_in_polish_too(
    in_polish: FlaskClient, make_company: Any, method: str, said: str
) -> None:
    company = make_company("1111111111", environments=(), logged_in=False)
    answer = in_polish.open("/auth/prod", method=method, headers=company.authorization)
    assert answer.status_code == 404
    assert answer.json["detail"].startswith(said)
    assert not ENGLISH.search(answer.json["detail"])


def test_who_is_not_known_is_told_in_polish_too(in_polish: FlaskClient) -> None:
    answer = in_polish.get("/auth/test")
    assert answer.json["detail"].startswith("Brak nazwy użytkownika lub hasła albo są błędne")


def test_the_cause_of_a_503_is_told_whole(
    in_polish: FlaskClient, company: Company, database: Any
) -> None:
    database.execute("ALTER TABLE ksef_sessions RENAME TO elsewhere")
    try:
        answer = in_polish.get("/auth/test", headers=company.authorization)
    finally:
        database.execute("ALTER TABLE elsewhere RENAME TO ksef_sessions")
    assert answer.status_code == 503
    assert re.fullmatch(
        r"Usługa nie może teraz odpowiedzieć\. The database is not migrated\.",
        answer.json["detail"],
    )
