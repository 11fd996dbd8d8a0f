"""The command `ksef-proxy`: in any folder, with settings from the environment or from files."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from flask import Flask

from app.__main__ import ksef_proxy
from app.version import VERSION, commit
from tests.api.test_policy import commands
from tests.journeys.conftest import free_port

PROJECT = Path(__file__).parents[1]
NOWHERE = "host=127.0.0.1 port=1 user="
KEYS = "SECRET_KEYS=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"


def ran(
    *words: str | Path, command: tuple[str, ...] = (), **environment: str
) -> "subprocess.CompletedProcess[str]":
    """The command, run in a folder that is not the project's."""
    return subprocess.run(
        [*(command or (sys.executable, "-P", "-m", "app")), *map(str, words)],
        cwd="/",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def user_asked_for(done: "subprocess.CompletedProcess[str]") -> str:
    """As whom the command tried to reach the database that is nowhere."""
    assert done.returncode == 1, done.stdout
    return done.stderr.partition("user=")[2].split()[0]


def test_the_last_file_wins_and_each_file_over_the_environment(tmp_path: Path) -> None:
    one, other = tmp_path / "service.env", tmp_path / "owner.env"
    one.write_text(f"# the service\nDATABASE_URL='{NOWHERE}service'\n{KEYS}")
    other.write_text(f"DATABASE_URL={NOWHERE}owner")
    outer = {"DATABASE_URL": f"{NOWHERE}outer"}
    words = ("company", "list")
    assert user_asked_for(ran("--env-file", one, *words, **outer)) == "service"
    assert user_asked_for(ran("--env-file", one, "--env-file", other, *words)) == "owner"
    assert user_asked_for(ran("--env-file", other, "--env-file", one, *words)) == "service"


def test_a_wrong_line_is_told_in_a_sentence_and_nothing_is_done(tmp_path: Path) -> None:
    file = tmp_path / "settings.env"
    file.write_text(f"{KEYS}export DATABASE_URL=postgresql://owner:s3cret@db/ksef_proxy\n")
    for command in ("migrate", "serve"):
        done = ran("--env-file", file, command)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"Error: {file}, line 2, is not NAME=value: ")
        assert done.stderr.count("\n") == 1
        assert "s3cret" not in done.stderr


def test_a_file_that_is_not_there_is_wrong_usage() -> None:
    done = ran("--env-file", "/nowhere.env", "migrate")
    assert done.returncode == 2
    assert "File '/nowhere.env' does not exist." in done.stderr


@pytest.mark.parametrize(
    "words", ["check --env-file x", "user list --env-file x", "serve --env-file"]
)
def test_a_file_that_is_named_behind_the_command_is_told(words: str) -> None:
    done = ran(*words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(
        "Error: --env-file stands before the command:"
        f" ksef-proxy --env-file FILE {words.partition(' --')[0]}\n"
    )


def shell(script: str, *words: str | Path, **environment: str) -> tuple[int, str, str]:
    """What a shell's script does with the command, "$@", in it."""
    python = (sys.executable, "-P", "-m", "app", *words)
    done = ran(command=("sh", "-c", script, "sh", *map(str, python)), **environment)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "words", ["--version", "--help", "settings --example", "check", "upo --help"]
)
def test_output_that_cannot_be_written_is_told(words: str) -> None:
    """Once, and with an exit code of ours: that a file is cut off must not go unseen."""
    code, out, err = shell('"$@" > /dev/full', *words.split())
    assert (code, out, err) == (1, "", "Error: The output: No space left on device\n")


def test_errors_that_cannot_be_written_change_no_exit_code_to_another() -> None:
    assert shell('"$@" 2> /dev/full', "nonsense") == (1, "", "")
    assert shell('"$@" > /dev/full 2>&1', "--version") == (1, "", "")


@pytest.mark.parametrize(
    "words",
    [
        "user add a@b.example --nip 5265877635 --role admin --password-stdin",
        "user set-password a@b.example --password-stdin",
    ],
)
def test_input_that_is_closed_is_none(words: str) -> None:
    nowhere = {"DATABASE_URL": f"{NOWHERE}me", "SECRET_KEYS": KEYS[12:].strip()}
    closed, empty = (shell(f'"$@" {given}', *words.split(), **nowhere) for given in CLOSED)
    assert closed == empty
    assert closed[0] == 1
    assert "Traceback" not in closed[2]


CLOSED = ("<&-", "</dev/null")


def test_it_serves_without_standard_streams(tmp_path: Path) -> None:
    """As a script may start it that wants to hear nothing: `<&- >&- 2>&-`."""
    port = free_port()
    settings = {"DATABASE_URL": f"{NOWHERE}me", "SECRET_KEYS": KEYS[12:].strip()}
    script = (
        'timeout 50 "$@" <&- >&- 2>&- & '
        f"until curl -fsS http://127.0.0.1:{port}/livez; do sleep 0.2; done; kill $!; wait $!"
    )
    code, out, _ = shell(script, "serve", PORT=str(port), **settings)
    assert (code, out) == (0, '{"status":"ok"}')


def test_ctrl_c_while_it_starts_is_no_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = ran("--version", PYTHONPATH=f"{tmp_path}:{PROJECT}")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    """That of the version before, say, in which the operator's shell still is."""
    gone = tmp_path / "gone"
    told = shell(f'mkdir {gone} && cd {gone} && rmdir {gone} && "$@"', "--version")
    sentence = "Error: The folder in which this was started is gone: go to another one.\n"
    assert told == (1, "", sentence)


def test_the_encoding_of_the_locale_does_not_matter() -> None:
    done = ran("--version", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (done.returncode, done.stderr) == (0, "")


def test_what_the_terminal_cannot_show_is_shown_by_its_number(tmp_path: Path) -> None:
    """And is not called a mistake in the input."""
    file = tmp_path / "ż.xml"
    file.write_text("<a/>")
    done = ran("upo", "verify", file, PYTHONIOENCODING="iso8859-1")
    assert f"{tmp_path}/\\u017c.xml" in done.stdout
    assert done.stderr == "Error: 1 of 1 are not valid.\n"


def test_version_and_commit_are_told() -> None:
    told = ran("--version")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout == f"ksef-proxy {VERSION}, commit {commit() or 'not known'}\n"


@pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="no checkout")
def test_commit_of_a_checkout_is_git_s() -> None:
    head = subprocess.run(
        ["git", "-C", str(PROJECT), "log", "-1", "--format=%H"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert commit() == head.stdout.strip()


def test_flask_has_the_same_commands(app: Flask) -> None:
    assert set(commands(ksef_proxy)) == {
        *commands(app.cli),
        ("serve", ksef_proxy.commands["serve"]),
    }
    done = ran(
        "--app", f"{PROJECT}/wsgi.py", "upo", "--help", command=(sys.executable, "-m", "flask")
    )
    assert done.returncode == 0, done.stderr
    assert "render" in done.stdout


def test_each_command_has_its_help() -> None:
    for words, command in commands(ksef_proxy):
        assert command.help, words
        assert isinstance(command, click.Command)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_writes_the_command_of_a_checkout(tmp_path: Path) -> None:
    """Which runs the code beside it, from anywhere, also where the path has blanks."""
    checkout = tmp_path / "my checkout"
    (checkout / ".venv/bin").mkdir(parents=True)
    for name in ("Makefile", "requirements.txt", "sql"):
        (checkout / name).symlink_to(PROJECT / name)
    shutil.copytree(PROJECT / "app", checkout / "app", symlinks=True)
    version = checkout / "app/version.py"
    version.write_text(version.read_text().replace(f'"{VERSION}"', '"9.9.9"'))
    python = checkout / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (checkout / ".venv/.service").touch()  # installed already

    subprocess.run(
        ["make", ".venv/bin/ksef-proxy"], cwd=checkout, check=True, capture_output=True, text=True
    )

    told = ran("--version", command=(f"{checkout}/.venv/bin/ksef-proxy",))
    assert (told.stdout, told.stderr) == ("ksef-proxy 9.9.9, commit not known\n", "")
