"""The log: JSON for machines, short lines for a terminal."""

import hashlib
import json
import logging
import os
import pty
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from app import telemetry
from sandbox.control import Control
from tests.service import Company

PROJECT = Path(__file__).parents[1]


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_request_is_one_line(
    company: Company, control: Control, capsys: pytest.CaptureFixture[str]
) -> None:
    session = control.seed_session("test", company.nip, state="finished", invoices=2)
    path = f"/invoices/test/status/{session.reference_number}"
    telemetry.configure("INFO")  # to the standard error of this test
    capsys.readouterr()
    company.get(path, headers={"X-Request-ID": "erp-17"})
    company.get(path)
    company.get("/invoices/nowhere/status/x")
    first, second, third = (line for line in lines(capsys) if line["event"] == "request")
    assert first.pop("ms") > 0
    assert first.pop("waitedMs") >= 0
    assert first.pop("time")
    assert first == {
        "level": "info",
        "event": "request",
        "requestId": "erp-17",
        "method": "GET",
        "route": "/invoices/<environment>/status/<referenceNumber>",
        "status": 200,
        "ksefCalls": 2,
        "source": "fresh",
        "environment": "test",
        "company": "526*****35",
        "user": "erp@526*****35.example",
    }
    assert (second["source"], second["ksefCalls"], second["status"]) == ("store", 0, 200)
    assert (third["code"], third["status"]) == ("invalid_parameter", 400)
    assert "source" not in third


def test_a_refused_caller_is_told_by_address_and_hash_only(
    company: Company, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.configure("INFO")
    capsys.readouterr()
    for name in ("secret-typed-as-a-name", "another", "secret-typed-as-a-name"):
        given = {"Authorization": "Basic " + b64encode(f"{name}:x".encode()).decode()}
        assert company.client.get("/auth/test", headers=given).status_code == 401
    assert company.client.get("/auth/test").status_code == 401
    told = capsys.readouterr().err
    assert "secret-typed" not in told
    requests = [one for one in map(json.loads, told.splitlines()) if one["event"] == "request"]
    first, other, again, nameless = requests
    assert {one["address"] for one in requests} == {"127.0.0.1"}
    assert first["userHash"] == again["userHash"] != other["userHash"]
    assert first["userHash"] != hashlib.sha256(b"secret-typed-as-a-name").hexdigest()[:16]
    assert "userHash" not in nameless
    assert len({one["requestId"] for one in requests}) == 4


def test_between_requests_no_line_has_a_request_s_id(
    company: Company, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.configure("INFO")
    company.get("/auth/test", headers={"X-Request-ID": "erp-17"})
    capsys.readouterr()
    telemetry.info("something else")
    [line] = lines(capsys)
    assert "requestId" not in line


def test_an_answer_of_before_says_so(
    company: Company, control: Control, capsys: pytest.CaptureFixture[str]
) -> None:
    session = control.seed_session("test", company.nip, state="moving", invoices=1)
    path = f"/invoices/test/status/{session.reference_number}"
    assert company.get(path).status_code == 200
    control.fault("rate-limited", path="/sessions/", times=None)
    telemetry.configure("INFO")  # to the standard error of this test
    capsys.readouterr()
    assert company.get(path).status_code == 200
    [line] = (line for line in lines(capsys) if line["event"] == "request")
    assert (line["source"], line["ksefCalls"]) == ("earlier", 1)


def test_a_failure_is_one_line_with_its_place_and_without_its_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    telemetry.configure("INFO")  # to the standard error of this test
    words = "of two" + "\nlines"
    try:
        raise ValueError(words)
    except ValueError:
        telemetry.exception("internal error", code="x")
    [line] = lines(capsys)
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError\n")
    assert "of two" not in line["exception"]


def test_gunicorns_own_loggers_write_such_lines_too() -> None:
    record = logging.LogRecord("gunicorn.error", logging.INFO, "", 0, "Booting: %s", (7,), None)
    line = json.loads(telemetry.formatter().format(record))
    assert (line["event"], line["level"]) == ("Booting: 7", "info")


def test_on_a_terminal_lines_are_for_a_person() -> None:
    ours, theirs = pty.openpty()
    code = (
        "from app import telemetry; telemetry.configure('INFO');"
        "telemetry.info('request', method='GET', route='/status', status=200, ms=1.2)"
    )
    subprocess.run([sys.executable, "-c", code], stderr=theirs, cwd=PROJECT, check=True)
    written = os.read(ours, 4096).decode()
    os.close(ours)
    os.close(theirs)
    assert "request GET /status 200" in written
    assert "\033[" in written
    assert "{" not in written
