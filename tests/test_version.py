"""Of which commit a build is: git's word in a checkout, else what was written into the package."""

import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from app import version

MADE = "9c1185a5c5e9fc54612808977ee8f548b2258d31"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the package, of which only this module is there."""
    (tmp_path / "app").mkdir()
    shutil.copy(version.__file__, tmp_path / "app")
    return tmp_path


def commit(project: Path) -> str | None:
    found: str | None = runpy.run_path(str(project / "app/version.py"))["commit"]()
    return found


def git(project: Path, *words: str) -> str:
    who = ("-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", "-C", project, *who, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("written", "told"), [(MADE, MADE), (f"{MADE}\n", MADE), ("\n", None), ("", None), (None, None)]
)
def test_what_was_written_is_told(project: Path, written: str | None, told: str | None) -> None:
    if written is not None:
        (project / "app/COMMIT").write_text(written)
    assert commit(project) == told


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_in_a_checkout_git_is_believed(project: Path) -> None:
    (project / "app/COMMIT").write_text(MADE)  # by an earlier build
    git(project, "init", "--quiet")
    assert commit(project) is None  # nothing was committed yet
    git(project, "add", "app/version.py")
    git(project, "commit", "--quiet", "--message=one")
    head = git(project, "rev-parse", "HEAD")
    assert commit(project) == head != MADE
    git(project, "commit", "--quiet", "--allow-empty", "--message=two")
    assert commit(project) == git(project, "rev-parse", "HEAD") != head


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_checkout_of_another_user_is_as_good(project: Path) -> None:
    """As under systemd, where the service has a user of its own."""
    git(project, "init", "--quiet")
    git(project, "commit", "--quiet", "--allow-empty", "--message=one")
    head = git(project, "rev-parse", "HEAD")
    for path in (project, project / ".git"):
        os.chown(path, 65534, 65534)
    with pytest.raises(subprocess.CalledProcessError):
        git(project, "rev-parse", "HEAD")
    assert commit(project) == head


def test_without_git_nothing_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "app/COMMIT").write_text(MADE)
    (project / ".git").mkdir()
    monkeypatch.setenv("PATH", str(project))
    assert commit(project) is None
