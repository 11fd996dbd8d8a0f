"""The workflow of a forge, which nobody here can start: read, and its steps tried one by one."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pages import PROJECT

FILE = PROJECT / ".github" / "workflows" / "ci.yml"


@pytest.fixture(scope="module")
def job() -> Any:
    [job] = yaml.safe_load(FILE.read_text("utf-8"))["jobs"].values()
    return job


def bash(script: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A step, as a forge runs it."""
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_ends_with_what_ci_runs_everywhere(job: Any) -> None:
    assert job["steps"][-1]["run"] == "bash .ci/run"
    assert (PROJECT / ".ci/run").is_file()


def test_it_may_read_only_and_uses_no_code_of_others(job: Any) -> None:
    whole = yaml.safe_load(FILE.read_text("utf-8"))
    assert whole["permissions"] == {"contents": "read"}
    assert [step for step in job["steps"] if "uses" in step] == []


def test_each_step_is_a_script_that_bash_reads(job: Any, tmp_path: Path) -> None:
    for step in job["steps"]:
        read = bash(f"set -n\n{step['run']}", tmp_path)
        assert (read.returncode, read.stderr) == (0, ""), step["name"]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_it_fetches_the_commit_that_it_is_started_for(job: Any, tmp_path: Path) -> None:
    forge = tmp_path / "forge/owner/project"
    clone = tmp_path / "clone"
    forge.mkdir(parents=True)
    clone.mkdir()
    if os.geteuid() == 0:
        os.chown(clone, 1001, 1001)  # as in a container, where the folder is the runner's
    commit = "git -c user.name=A -c user.email=a@example.com commit --quiet --all --message"
    made = bash(
        f"git init --quiet && echo 1 > file && git add file && {commit} 1 && git rev-parse HEAD"
        f" && echo 2 > file && {commit} 2",
        forge,
    )
    assert made.returncode == 0, made.stderr
    [fetch] = [step for step in job["steps"] if "GITHUB_SHA" in step["run"]]
    done = bash(
        fetch["run"],
        clone,
        GITHUB_SERVER_URL=f"file://{tmp_path}/forge",
        GITHUB_REPOSITORY="owner/project",
        GITHUB_SHA=made.stdout.strip(),
        TOKEN="none",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (clone / "file").read_text() == "1\n"
