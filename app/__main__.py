"""The command `ksef-proxy`, also as `python -m app`: the server, and the operator's commands."""

import os
from pathlib import Path

import click
from flask.cli import ScriptInfo

from app import env_file, serve
from app.cli import COMMANDS
from app.cli.options import EXISTING_FILE, plain_errors
from app.factory import create_app
from app.version import VERSION, commit


def _tell_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"ksef-proxy {VERSION}, commit {commit() or 'not known'}")
        context.exit()


@click.group(commands=COMMANDS)
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
    ksef_proxy(prog_name="ksef-proxy")


if __name__ == "__main__":
    main()
