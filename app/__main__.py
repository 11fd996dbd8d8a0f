"""The command `ksef-proxy`, also as `python -m app`: the server, and the operator's commands."""

import io
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

# Ctrl-C while all the rest is imported, which takes a second, ends this without a stack trace.
_interrupted = signal.getsignal(signal.SIGINT)
if _interrupted is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# Libraries ask for it when they are imported.
try:
    os.getcwd()  # noqa: PTH109
except FileNotFoundError:
    sys.exit("Error: The folder in which this was started is gone: go to another one.")

import click
from flask.cli import ScriptInfo

from app import env_file, serve
from app.cli import COMMANDS
from app.cli.options import EXISTING_FILE, plain_errors
from app.factory import create_app
from app.version import VERSION, commit

signal.signal(signal.SIGINT, _interrupted)


def _tell_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"ksef-proxy {VERSION}, commit {commit() or 'not known'}")
        context.exit()


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            if error.option_name != "--env-file" or error.ctx is None:
                raise
            words = error.ctx.command_path.removeprefix("ksef-proxy ")
            told = f"--env-file stands before the command: ksef-proxy --env-file FILE {words}"
            raise click.UsageError(told, error.ctx) from None


@click.group(commands=COMMANDS, cls=_Group)
@click.option(
    "--env-file",
    "env_files",
    metavar="FILE",
    type=EXISTING_FILE,
    multiple=True,
    help="Settings, NAME=value in lines, as for systemd's EnvironmentFile=. They replace those of"
    " the environment; of several files the last one wins.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_tell_version,
    help="Tell the version and its commit.",
)
@click.pass_context
@plain_errors
def ksef_proxy(context: click.Context, env_files: tuple[Path, ...]) -> None:
    """Session status, row linking and UPOs from KSeF, for ERP systems."""
    for file in env_files:
        os.environ.update(env_file.read(file))
    context.obj = ScriptInfo(create_app=create_app, set_debug_flag=False)


@ksef_proxy.command("serve")
@plain_errors
def serve_requests() -> None:
    """Serve requests until SIGTERM.

    It becomes gunicorn, under the same process id. The database must be migrated.
    """
    serve.become_gunicorn()


def main() -> None:
    """Run the command that was typed."""
    _open_what_is_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error does
    try:
        ksef_proxy(prog_name="ksef-proxy")
    except OSError as error:
        with suppress(OSError):
            click.echo(f"Error: The output: {error.strerror}", err=True)
        sys.exit(1)
    finally:
        _give_up_what_is_full()


def _open_what_is_closed() -> None:
    """Standard streams that are closed lead nowhere, also in the gunicorn that this may become."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


def _give_up_what_is_full() -> None:
    """Let go of what could not be written: the interpreter would try and complain once more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    main()
