"""The page of an environment: what is followed, the newest events, webhooks with their answers."""

import re
from typing import Any

import pytest

from app.services.events import journal, webhooks
from app.services.events.journal import Kind
from tests.service import Company


@pytest.mark.parametrize("language", ["en", "pl"])
def test_events_and_webhooks_are_shown(company: Company, database: Any, language: str) -> None:
    account = company.account()
    page = f"/console/test?lang={language}"
    assert 'id="webhooks"' not in company.get(page).text
    webhooks.add(account, "https://erp.example/<events>")
    with account.db.transaction() as connection:
        for kind in Kind:
            data = {"referenceNumber": "20260915-SO-00000001A1-0000000001-01"}
            journal.note(connection, kind, **account.columns, data=data)
    database.execute("UPDATE webhooks SET attempts = 1, answer = '503', answered_at = now()")
    text = company.get(page).text
    assert [text.index(f"<small>{kind}</small>") for kind in Kind] == sorted(
        (text.index(f"<small>{kind}</small>") for kind in Kind), reverse=True
    )
    assert "https://erp.example/&lt;events&gt;" in text
    assert "503" in text
    assert f">{len(Kind)}</td>" in text


@pytest.mark.parametrize("language", ["en", "pl"])
def test_how_far_a_company_is_followed_is_shown(
    company: Company, database: Any, language: str
) -> None:
    page = f"/console/test?lang={language}"
    assert 'id="followed"' not in company.get(page).text
    nip = company.account().company_nip
    database.execute(
        "INSERT INTO followed (company_nip, environment, known_since, listed_until, list_at)"
        f" VALUES ('{nip}', 'test', now(), now(), now())"
    )
    text = company.get(page).text
    assert {"en": "not known yet", "pl": "jeszcze nie wiadomo"}[language] in text
    database.execute(
        "UPDATE followed SET known_until = '2026-11-27T10:00:00Z';"
        "INSERT INTO followed_sessions (company_nip, environment, reference_number, date_created,"
        " told, found_at, read_at, due_at, final_at, moving_since, stuck_at)"
        f" SELECT '{nip}', 'test', number, now(), '{{}}', now(), read_at, due_at, final_at,"
        " '2026-11-27T08:15:00Z', stuck_at"
        " FROM (VALUES ('FOUND', NULL, now(), NULL, NULL), ('DONE', now(), NULL, now(), NULL),"
        " ('MOVES', now(), now(), NULL, NULL), ('STUCK', now(), now(), NULL, now()),"
        " ('UPOS', now(), now(), now(), now())) AS session"
        " (number, read_at, due_at, final_at, stuck_at)"
    )
    text = company.get(page).text
    section = text[text.index('id="followed"') : text.index('id="sessions"')]
    assert re.findall(r"<dd>(\d+)</dd>", section) == ["1", "2", "1"]  # found, moving, archiving
    assert "11:00" in section  # in Warsaw
    assert "09:15" in section
    assert [number for number in ("FOUND", "MOVES", "STUCK", "UPOS") if number in section] == [
        "STUCK"
    ]
