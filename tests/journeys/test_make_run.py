"""`make run`, as a newcomer meets it: a copy of the project, the page that it prints, its lines."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import requests
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as seen
from selenium.webdriver.support.wait import WebDriverWait

from tests.journeys.conftest import PROJECT, free_port
from tests.pages import EXAMPLES

SECONDS = 120
SLOW = re.compile(r"_sandbox/prod/api")  # half a minute and more each: prod down, and up again


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone holds, with the environment that runs these tests."""
    folder = tmp_path_factory.mktemp("clone") / "ksef-proxy"
    for name in ("app", "sandbox", "sql", "wsgi.py", "setup.cfg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(PROJECT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.fixture(scope="module")
def page(project: Path) -> Iterator[str]:
    """What it prints, as soon as it is up; it is stopped by Ctrl-C at the end."""
    code = (
        "import pathlib, sys; sys.path.insert(0, '.'); from sandbox import run;"
        " run.PROJECT = pathlib.Path.cwd(); run.KEPT = run.PROJECT / '.run'; run.main()"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=project,
        env={"PATH": os.environ["PATH"], "PORT": str(free_port())},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout
    late = threading.Timer(SECONDS, running.kill)
    late.start()
    shown = []
    for line in running.stdout:
        shown.append(line)
        if line.startswith("    curl") and line.endswith("/openapi.json\n"):
            break
    late.cancel()
    try:
        yield "".join(shown)
    finally:
        running.send_signal(signal.SIGINT)
        rest, _ = running.communicate(timeout=60)
    assert rest.endswith("Stopped.\n")
    assert running.returncode == 0


def sh(line: str, folder: Path) -> str:
    done = subprocess.run(
        ["sh", "-c", line], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), line
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_each_line_does_what_its_title_says(page: str, tmp_path: Path) -> None:
    lines = {
        title.strip(): line
        for title, line in re.findall(r"^ ?\d+  (.*)\n    (.*)$", page, re.MULTILINE)
    }
    quick = {title: line for title, line in lines.items() if not SLOW.search(line)}
    assert len(lines) - len(quick) == 3
    for line in lines.values():
        sh(f"sh -n -c {shlex.quote(line)}", tmp_path)
    told = {title: sh(line, tmp_path) for title, line in reversed(quick.items())}  # any order

    def found(word: str) -> str:
        [text] = [text for title, text in told.items() if word in title]
        return text

    assert '"final":true' in found("online session")
    assert '"code":440' in found("batch session")
    assert '"referenceNumber":"20260915-SB-' in found("still works on")
    assert '"docType":"xml"' in found("in JSON")
    assert (tmp_path / "upo.xml").read_bytes().startswith(b"<?xml")
    assert (tmp_path / "upo.pdf").read_bytes().startswith(b"%PDF-")
    assert '"method":"certificate"' in found("in demo …")
    assert '"method":"token"' in found("in test and prod")
    assert '"code":"outage_simulation"' in found("Rehearse")
    assert '"available"' in found("What is known")
    assert "FV/2026/09/102" in found("invoice rows")
    assert '"openapi"' in found("The API")


def test_an_erp_can_write_its_rows_in_the_database_of_the_page(page: str) -> None:
    [url] = re.findall(r"database +(postgresql://\S+)", page)
    rows = (EXAMPLES / "rows.sql").read_text(encoding="utf-8")
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(rows)
        assert ("FV/2026/09/003", None) in cursor.fetchall()
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("DELETE FROM synced_invoices")


@pytest.mark.slow
def test_the_console_leads_to_a_upo(page: str, browser: Any) -> None:
    """The steps of README's *Try it*, in a browser."""
    [user, password] = re.findall(r"user +(\S+)  password (\S+)", page)[0]
    [address] = re.findall(r"console +(http://\S+)", page)

    def follow(css: str) -> None:
        WebDriverWait(browser, 20).until(
            seen.element_to_be_clickable((By.CSS_SELECTOR, css))
        ).click()

    browser.get(address.replace("http://", f"http://{user}:{password}@", 1))
    browser.get(address)
    first = browser.current_window_handle
    follow("main a[href='/console/prod']")
    follow("main a[href^='/console/prod/sessions/20260914-SO']")  # others may still move
    follow("main a.button[target=_blank]")
    WebDriverWait(browser, 20).until(seen.number_of_windows_to_be(2))
    [other] = {*browser.window_handles} - {first}
    browser.switch_to.window(other)
    upo = requests.get(browser.current_url, auth=(user, password), timeout=20)
    browser.close()
    browser.switch_to.window(first)
    assert upo.content.startswith(b"%PDF-")
