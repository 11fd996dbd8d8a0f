"""The page of an environment shows the newest events, and webhooks with their last answers."""

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
