"""GET /status tells which build answers."""

import subprocess
from typing import Any

import pytest
from flask import Flask

from app.api import ops
from app.db.migrate import MIGRATIONS
from app.version import VERSION, commit


def test_version_commit_and_schema_are_told(app: Flask) -> None:
    last = max(file.stem for file in MIGRATIONS.glob("*.sql"))
    body = app.test_client().get("/status").get_json()
    assert body["version"] == VERSION
    assert body["commit"] == commit()
    assert body["schema"] == {"applied": last, "known": last}


def test_a_commit_that_is_not_known_is_null(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "commit", lambda: None)
    body = app.test_client().get("/status").get_json()
    assert body["commit"] is None


def test_a_database_that_lags_behind_is_told(app: Flask, database: Any) -> None:
    [(version, last, checksum)] = database.execute(
        "DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)"
        " RETURNING version, name, checksum"
    )
    try:
        schema = app.test_client().get("/status").get_json()["schema"]
    finally:
        database.execute(
            "INSERT INTO schema_migrations (version, name, checksum)"
            f" VALUES ({version}, '{last}', '{checksum}')"
        )
    assert schema["known"] == last
    assert schema["applied"] == sorted(file.stem for file in MIGRATIONS.glob("*.sql"))[-2]


def test_no_request_starts_a_process(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for once, when a worker starts."""
    commit()
    monkeypatch.setattr(subprocess, "Popen", None)
    assert app.test_client().get("/status").status_code == 200
