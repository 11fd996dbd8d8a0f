"""Of which commit the running service is: asked when a worker starts, and not again."""

import os
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.journeys.conftest import PROJECT, running_service

MADE = "9c1185a5c5e9fc54612808977ee8f548b2258d31"


@pytest.mark.slow
@pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="no checkout")
def test_git_is_asked_once_by_each_worker(
    database: Any, sandbox: Any, secret_key: bytes, http: requests.Session, tmp_path: Path
) -> None:
    asked, git = tmp_path / "asked", tmp_path / "bin/git"
    git.parent.mkdir()
    git.write_text(f"#!/bin/sh\necho $PPID >> '{asked}'\necho {MADE}\n")
    git.chmod(0o755)
    path = f"{git.parent}:{os.environ['PATH']}"
    with running_service(
        database, sandbox, secret_key, tmp_path / "log", PATH=path, WEB_CONCURRENCY="2"
    ) as service:
        told = {http.get(f"{service.url}/status", timeout=10).json()["commit"] for _ in range(20)}
    assert told == {MADE}
    askers = asked.read_text().split()
    assert len(askers) == len({*askers}) == 2
