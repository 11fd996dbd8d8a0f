"""The `detail` of a 502: what happened, what helps, and whether asking again does."""

import pytest

from app import errors
from app.api import wording
from app.errors import KsefAnswer
from app.ksef.login import REFUSED, REVOKED
from app.services.login.credentials import LoginRefused
from app.services.outages import Evidence

WAIT = {"en": "wait, and ask again.", "pl": "poczekaj i zapytaj ponownie."}
IN_VAIN = {
    "en": "and asking again will not help.",
    "pl": "a ponowienie zapytania nie pomoże.",
}
BEFORE = {
    "en": "asking again will not help before that is done.",
    "pl": "ponowienie zapytania przedtem nie pomoże.",
}
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
