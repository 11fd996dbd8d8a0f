"""The console speaks two languages, whole and rightly."""

import re
import string
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app import errors
from app.console import texts
from app.console.texts import TEXTS
from app.console.words import Words
from app.ksef.limits import PUBLISHED
from app.services.events.journal import Kind
from app.services.operators.overview import FILTERS

FOLDER = Path(texts.__file__).parent
SOURCES = "\n".join(
    path.read_text("utf-8")
    for pattern in ("*.py", "templates/*.html")
    for path in FOLDER.glob(pattern)
    if path.name != "texts.py"
)
PREFIXES = (
    "env_", "state_", "login_by_", "group_", "row_", "for_", "done_", "error_", "why_",
    "signature_", "event_",
)  # fmt: skip

ENGLISH, POLISH = TEXTS["en"], TEXTS["pl"]


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_have_the_same_texts_which_name_the_same() -> None:
    assert ENGLISH.keys() == POLISH.keys()
    assert {key: placeholders(text) for key, text in ENGLISH.items()} == {
        key: placeholders(text) for key, text in POLISH.items()
    }


def test_a_noun_has_two_forms_in_english_and_three_in_polish() -> None:
    nouns = [key for key, text in ENGLISH.items() if "|" in text]
    assert "invoice" in nouns
    assert {ENGLISH[noun].count("|") for noun in nouns} == {1}
    assert {POLISH[noun].count("|") for noun in nouns} == {2}
    assert nouns == [key for key, text in POLISH.items() if "|" in text]


def test_each_text_is_used_and_each_that_is_used_is_there() -> None:
    used = set(re.findall(r'\bt\(\s*"(\w+)"[,)]', SOURCES))
    used |= set(re.findall(r't\.count\(.+?, "(\w+)"\)', SOURCES))
    assert used - ENGLISH.keys() == set()
    chosen = {key for key in ENGLISH if key.startswith(PREFIXES)} | set(FILTERS)
    chosen |= {"per_hour", "per_minute", "per_second"}
    assert ENGLISH.keys() - used - chosen == set()


def test_every_group_error_and_event_has_its_words() -> None:
    assert {f"group_{group}" for group in PUBLISHED} <= ENGLISH.keys()
    codes = {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.ProxyError)
    }
    assert "ksef_outage" in codes
    assert {f"error_{code}" for code in codes} <= ENGLISH.keys()
    assert {f"event_{kind.replace('.', '_')}" for kind in Kind} <= ENGLISH.keys()


@pytest.mark.parametrize(
    ("number", "noun"),
    [
        (0, "0 faktur"), (1, "1 faktura"), (2, "2 faktury"), (4, "4 faktury"), (5, "5 faktur"),
        (11, "11 faktur"), (12, "12 faktur"), (14, "14 faktur"), (21, "21 faktur"),
        (22, "22 faktury"), (25, "25 faktur"), (102, "102 faktury"), (112, "112 faktur"),
        (10_000, "10 000 faktur"),
    ],
)  # fmt: skip
def test_polish_counts(number: int, noun: str) -> None:
    told = Words("pl").count(number, "invoice")
    assert re.sub(r"[\u202f\xa0]", " ", told) == noun
    assert " " not in told  # nothing of it may break


def test_english_counts() -> None:
    told = [Words("en").count(number, "invoice") for number in (0, 1, 2, 1200)]
    assert told == ["0\xa0invoices", "1\xa0invoice", "2\xa0invoices", "1\u202f200\xa0invoices"]


def test_times_are_polish_whatever_the_servers_zone() -> None:
    summer, winter = (
        datetime(2026, 7, 5, 22, 30, 9, tzinfo=UTC),
        datetime(2026, 1, 31, 23, 5, tzinfo=UTC),
    )
    assert Words("pl").time(summer) == "06.07.2026,\xa000:30"
    assert Words("en").time(winter) == "1\xa0Feb\xa02026,\xa000:05"
    assert Words("pl").clock(summer) == "00:30:09"


def test_a_share_that_is_not_nothing_is_not_told_as_nothing() -> None:
    assert [Words("en").percent(share) for share in (0, 0.001, 0.5, 1)] == [
        "0%",
        "1%",
        "50%",
        "100%",
    ]
    assert Words("pl").percent(0.5) == "50\u202f%"


def test_there_are_no_other_languages() -> None:
    assert set(TEXTS) == {"pl", "en"}
