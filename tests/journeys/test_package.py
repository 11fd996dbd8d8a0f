"""The package, built and installed as by somebody who has no checkout."""

import base64
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from app.db.migrate import MIGRATIONS
from app.version import VERSION
from tests.journeys.conftest import PROJECT, free_port
from tests.upo import samples

pytestmark = pytest.mark.slow

NAME = f"ksef_proxy-{VERSION}"
LAST = max(file.stem for file in MIGRATIONS.glob("*.sql"))
USER = ("erp@example.com", "zażółć gęślą jaźń")


def run(*words: str | Path, folder: Path, given: str = "") -> str:
    done = subprocess.run(
        [*map(str, words)],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with one commit."""
    folder = tmp_path_factory.mktemp("clone") / "ksef-proxy"
    ignored = shutil.ignore_patterns("__pycache__", "COMMIT")
    for name in ("app", "sql"):
        shutil.copytree(PROJECT / name, folder / name, symlinks=True, ignore=ignored)
    for name in (".gitignore", "README.md", "pyproject.toml", "requirements.in"):
        shutil.copy(PROJECT / name, folder)
    for name in ("setup.cfg", "setup.py"):
        shutil.copy(PROJECT / name, folder)
    for words in ("init", "add .", "-c user.name=x -c user.email=x@x commit --message=x"):
        run("git", *words.split(), folder=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("wheel")
    left = checkout / "build/lib/app/gone.py"  # by the build of a version that had it
    left.parent.mkdir(parents=True)
    left.touch()
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", *offline, "-w", into, ".", folder=checkout)
    [made] = into.iterdir()
    return made


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ksef-proxy` of an environment that has the package; what that needs is found in ours."""
    fresh = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", fresh, folder=fresh.parent)
    offline = ("--no-deps", "--no-index", "--disable-pip-version-check")
    pip = (sys.executable, "-m", "pip", "--python", fresh / "bin/python")
    run(*pip, "install", *offline, wheel, folder=fresh.parent)
    [packages] = fresh.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return fresh / "bin/ksef-proxy"


@pytest.fixture
def nowhere(tmp_path: Path) -> Iterator[Path]:
    """An empty folder, which stays empty."""
    folder = tmp_path / "nowhere"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


def test_all_files_and_requirements_are_in_it(wheel: Path, checkout: Path) -> None:
    assert wheel.name == f"{NAME}-py3-none-any.whl"
    there = {
        file.relative_to(checkout).as_posix()
        for file in (checkout / "app").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    there |= {f"app/{file.relative_to(checkout)}" for file in (checkout / "sql").rglob("*.sql")}
    assert f"app/sql/migrations/{LAST}.sql" in there
    with zipfile.ZipFile(wheel) as opened:
        held = {name for name in opened.namelist() if not name.startswith(NAME)}
        metadata = opened.read(f"{NAME}.dist-info/METADATA").decode()
    assert held == there
    wanted = (PROJECT / "requirements.in").read_text().splitlines()
    assert re.findall(r"^Requires-Dist: (\S+)$", metadata, re.MULTILINE) == [
        line for line in wanted if not line.startswith("#")
    ]


def test_it_works_in_an_empty_folder(
    command: Path, checkout: Path, empty_database: Any, nowhere: Path, tmp_path: Path
) -> None:
    owner, service = tmp_path / "owner.env", tmp_path / "service.env"
    port = free_port()
    key = base64.b64encode(bytes(range(32))).decode()
    owner.write_text(f"DATABASE_URL={shlex.quote(empty_database.owner_dsn)}\n")
    service.write_text(
        f"DATABASE_URL={shlex.quote(empty_database.service_dsn)}\nSECRET_KEYS={key}\nPORT={port}\n"
    )

    def proxy(*words: str | Path, given: str = "") -> str:
        return run(command, *words, folder=nowhere, given=given)

    commit = run("git", "rev-parse", "HEAD", folder=checkout).strip()
    assert "migrate" in proxy("--help")
    assert proxy("--version") == f"ksef-proxy {VERSION}, commit {commit}\n"
    as_owner = ("--env-file", service, "--env-file", owner)
    assert proxy(*as_owner, "migrate").endswith(f"applied {LAST}\n")
    as_service = ("--env-file", service)
    proxy(*as_service, "company", "add", "5265877635", "Firma")
    user = (USER[0], "--nip", "5265877635", "--role", "admin", "--password-stdin")
    proxy(*as_service, "user", "add", *user, given=USER[1])
    (tmp_path / "upo.xml").write_bytes(samples.upo().xml())
    proxy("upo", "render", tmp_path / "upo.xml", "-o", tmp_path / "upo.pdf")
    assert (tmp_path / "upo.pdf").read_bytes().startswith(b"%PDF-")

    running = subprocess.Popen(
        [command, *as_service, "serve"],
        cwd=nowhere,
        env={"PATH": os.environ["PATH"]},
        stderr=subprocess.PIPE,
        text=True,
    )
    base = f"http://127.0.0.1:{port}"
    try:
        with requests.Session() as http:
            http.trust_env = False
            wait_until_ready(http, base)
            status = http.get(f"{base}/status", timeout=20).json()
            assert (status["version"], status["commit"]) == (VERSION, commit)
            assert status["schema"] == {"applied": LAST, "known": LAST}
            http.auth = (USER[0].encode(), USER[1].encode())
            for path in ("/console", "/console/style.css", "/docs", "/docs/start.js"):
                assert http.get(base + path, timeout=20).status_code == 200, path
    finally:
        running.terminate()
        _, log = running.communicate(timeout=60)
    assert running.returncode == 0, log
    assert "Traceback" not in log


def wait_until_ready(http: requests.Session, base: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if http.get(f"{base}/readyz", timeout=20).status_code == 200:
                return
        except requests.RequestException:
            time.sleep(0.1)
    raise AssertionError("the service did not start")
