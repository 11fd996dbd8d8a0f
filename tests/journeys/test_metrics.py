"""Metrics and the log of several workers, as gunicorn runs them."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.api.test_metrics import Figures
from tests.journeys.conftest import RunningService, running_service

PUBLIC = {"METRICS_PUBLIC": "1", "WEB_CONCURRENCY": "3"}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children(service: RunningService) -> list[int]:
    pid = service.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ask(service: RunningService) -> Figures:
    """A connection of its own, so that any worker may answer."""
    with requests.Session() as http:
        http.trust_env = False
        return Figures(http.get(f"{service.url}/metrics", timeout=10).text)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_workers_add_up_and_the_dead_no_longer_count(
    database: Any, sandbox: Any, secret_key: bytes, tmp_path: Path
) -> None:
    alive = {"method": "GET", "route": "/livez", "status": "200", "source": ""}
    count = "http_request_duration_seconds_count"
    folder = tmp_path / "tmp"
    folder.mkdir()
    with running_service(
        database, sandbox, secret_key, tmp_path / "log", **PUBLIC, TMPDIR=str(folder)
    ) as service:
        until(lambda: ask(service)("http_threads") == 12)
        for _ in range(60):
            with requests.Session() as http:
                http.trust_env = False
                assert http.get(f"{service.url}/livez", timeout=10).ok
        assert {ask(service)(count, **alive) for _ in range(6)} == {60}
        assert ask(service)("http_requests_in_progress") == 1
        [killed, *_] = children(service)
        os.kill(killed, signal.SIGKILL)
        until(lambda: killed not in children(service) and len(children(service)) == 3)
        until(lambda: ask(service)("http_threads") == 12)
        assert ask(service)(count, **alive) == 60
        assert len(list(folder.iterdir())) == 1
        service.terminate()
        assert service.wait() == 0
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_one_line_of_json_a_request_and_nothing_else(
    database: Any, sandbox: Any, secret_key: bytes, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with running_service(database, sandbox, secret_key, log, **PUBLIC) as service:
        with requests.Session() as http:
            http.trust_env = False
            for n in range(10):
                given = {"X-Request-ID": f"erp-{n}"}
                answer = http.get(f"{service.url}/livez", headers=given, timeout=10)
                assert answer.headers["X-Request-ID"] == f"erp-{n}"
            strange = http.get(
                f"{service.url}/livez", headers={"X-Request-ID": 'a"b' * 30}, timeout=10
            )
            assert len(strange.headers["X-Request-ID"]) == 32
        service.terminate()
        assert service.wait() == 0
    lines = [json.loads(line) for line in log.read_bytes().splitlines()]
    ours = [line for line in lines if line.get("requestId", "").startswith("erp-")]
    assert [line["requestId"] for line in ours] == [f"erp-{n}" for n in range(10)]
    assert {(line["route"], line["status"], line["ksefCalls"]) for line in ours} == {
        ("/livez", 200, 0)
    }
    assert any("Listening at" in line["event"] for line in lines)
