"""The page for accountants names each status of KSeF, and says what the console says."""

import re

import pytest

from app.console.texts import TEXTS
from sandbox.sessions import INVOICE_WORDS, SESSION_WORDS
from tests.pages import ANSWERS, POLISH

CONSOLE = TEXTS["pl"]
TOLD = {
    "Co się stało z sesją": "What became of the session: `status.code`",
    "Co się stało z fakturą": "What became of an invoice: `invoices[].status.code`",
}
SAID = {
    "Co się stało z sesją": [*SESSION_WORDS.values()],
    "Co się stało z fakturą": [INVOICE_WORDS],
}


@pytest.mark.parametrize("title", TOLD, ids=("sessions", "invoices"))
def test_each_status_is_told_in_ksef_s_words(title: str) -> None:
    words = {int(code): text for code, text, _ in POLISH.rows(title)}
    codes = [code for row in ANSWERS.rows(TOLD[title]) for code in re.findall(r"\d{3}", row[0])]
    assert {*words} == {*map(int, codes)}
    said = {(code, text) for known in SAID[title] for code, text in known.items()}
    assert {(code, text) for code, text in said if text not in words[code]} == set()


def test_words_in_italics_are_the_console_s() -> None:
    shown = {re.sub(r"{\w+}", "…", text) for text in CONSOLE.values()}
    assert len(POLISH.stressed) > 50
    assert {*POLISH.stressed} - shown == set()


def test_each_state_of_ksef_and_of_a_signature_is_explained() -> None:
    states = {text for key, text in CONSOLE.items() if re.match(r"state_|signature_", key)}
    assert states <= {*POLISH.stressed}
