"""The service as it is started in production: what is wrong is told once, what is right is run."""

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import requests

from app.settings import from_environment
from tests.journeys.conftest import free_port
from tests.test_settings import KEY

PROJECT = Path(__file__).parents[1]
SERVE = ("-m", "app", "serve")
GUNICORN = ("-m", "gunicorn", "--config", "app/gunicorn.py", "wsgi:app")
# Whoever starts needs no database yet.
GOOD = {
    "PATH": os.environ.get("PATH", ""),
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
    "SECRET_KEYS": KEY,
}
BAD = {
    "WEB_CONCURRENCY": "0",
    "WEB_THREADS": "x",
    "HOST": "a b",
    "PORT": "abc",
    "LOG_LEVEL": "loud",
}
TOLD = (
    "Settings: DATABASE_URL is missing; HOST is neither an address nor a name;"
    " PORT is not a port: 1 to 65535; WEB_CONCURRENCY is not a positive whole number;"
    " WEB_THREADS is not a positive whole number;"
    " LOG_LEVEL is not one of DEBUG, INFO, WARNING, ERROR.\n"
)


def start(
    command: tuple[str, ...], settings: Mapping[str, str], folder: Path = PROJECT
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=dict(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(command: tuple[str, ...], settings: Mapping[str, str]) -> tuple[int, str, str]:
    """Exit code and what was written, of a start that ends by itself."""
    process = start(command, settings)
    try:
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    return process.returncode, out, err


@pytest.mark.parametrize("command", [SERVE, GUNICORN], ids=["serve", "gunicorn"])
def test_all_that_is_wrong_is_told_once_by_the_master(command: tuple[str, ...]) -> None:
    settings = {**GOOD, **BAD}
    del settings["DATABASE_URL"]
    prefix = "Error: " if command == SERVE else ""
    assert said(command, settings) == (1, "", prefix + TOLD)


@pytest.mark.parametrize(
    ("name", "value"),
    [("WEB_CONCURRENCY", "x"), ("WEB_CONCURRENCY", "0"), ("PORT", "0"), ("LOG_LEVEL", "loud")],
)
def test_each_by_itself(name: str, value: str) -> None:
    code, out, err = said(SERVE, {**GOOD, name: value})
    assert (code, out) == (1, "")
    assert err.startswith(f"Error: Settings: {name} is not ")
    assert err.count("\n") == 1


def test_a_start_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """As it may be repeated every two seconds, until somebody looks."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, err = said(SERVE, {**GOOD, "PORT": port, "TMPDIR": str(tmp_path)})
    assert code == 1
    assert "Connection in use" in err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[socket.socket]:
    """Where systemd is told (`Type=notify`); what comes says from which process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        listening.settimeout(30)
        yield listening


@pytest.mark.slow
def test_it_is_gunicorn_under_the_pid_that_was_started(
    notified: socket.socket, tmp_path: Path
) -> None:
    """With blanks, which are as good as nothing, in variables that gunicorn itself reads."""
    port = free_port()
    settings = {
        **GOOD,
        "PORT": str(port),
        "HOST": "::1",
        "WEB_CONCURRENCY": " ",
        "FORWARDED_ALLOW_IPS": "",
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
    }
    process = start(SERVE, settings)
    try:
        message, [(_, kind, credentials)], *_ = notified.recvmsg(1024, socket.CMSG_SPACE(12))
        assert kind == socket.SCM_CREDENTIALS
        assert b"READY=1" in message
        assert struct.unpack("3i", credentials)[0] == process.pid
        with requests.Session() as http:
            http.trust_env = False
            assert http.get(f"http://[::1]:{port}/livez", timeout=30).status_code == 200
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == from_environment(GOOD).web_concurrency
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert "Traceback" not in err
    # Each worker says at its start why it has no database.
    assert err.count("no connection to the database") == len(children)
    assert '"reason":"host=127.0.0.1 port=1 user=nobody' in err
    assert "Connection refused" in err


@pytest.mark.slow
def test_it_is_itself_in_a_folder_with_another_app(notified: socket.socket, tmp_path: Path) -> None:
    """Whose names are ours, gunicorn's, those of what it looks for, and of libraries."""
    ours = ("app/__init__.py", "gunicorn.py", "gunicorn.conf.py", "wsgi.py")
    for name in (*ours, "flask.py", "psycopg2.py", "prometheus_client.py", "secrets.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('not meant')")
    port = free_port()
    settings = {
        **GOOD,
        "PORT": str(port),
        "PYTHONPATH": str(PROJECT),
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
    }
    process = start(("-P", "-m", "app", "serve"), settings, tmp_path)
    try:
        assert b"READY=1" in notified.recv(1024)
        with requests.Session() as http:
            http.trust_env = False
            assert http.get(f"http://127.0.0.1:{port}/livez", timeout=30).status_code == 200
    finally:
        process.terminate()
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "not meant" not in err
