"""What several commands share: options, and how a failure is reported."""

import sys
from collections.abc import Callable
from datetime import datetime
from functools import partial, wraps
from pathlib import Path
from typing import Any

import click
from flask.cli import AppGroup, with_appcontext

from app import errors
from app.context import service, settings
from app.env_file import EnvFileError
from app.services.operators import users
from app.settings import ENVIRONMENTS, SettingsError

Command = Callable[..., None]
Adding = Callable[[Command], click.Command]


class Moment(click.ParamType[datetime]):
    """A date, or date and time, with an offset or without: see `in_local_time`."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            example = "2026-12-31T18:00, or with an offset 2026-12-31T18:00+01:00"
            self.fail(f"{value!r} is not a date and time such as {example}", param, ctx)


MOMENT = Moment()
MOMENT_HELP = "In RESPONSE_TIMEZONE, or with an offset; for example 2026-12-31T18:00"


def in_local_time(moment: datetime) -> datetime:
    """The moment, aware: one that was typed without an offset is in RESPONSE_TIMEZONE."""
    if moment.tzinfo:
        return moment
    return moment.replace(tzinfo=settings().response_timezone)


EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="A JSON list, for programs")
environment_argument = click.argument("environment", type=click.Choice(ENVIRONMENTS))


def plain_errors(command: Command) -> Command:
    """Report an expected failure as one sentence and exit code 1, without a stack trace."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (errors.OperatorError, SettingsError, EnvFileError) as error:
            raise click.ClickException(str(error)) from error
        except errors.InvalidParameter as error:
            found = (error.errors or {}).items()
            raise click.ClickException(
                " ".join(f"{name}: {' '.join(sentences)}" for name, sentences in found)
            ) from error
        except errors.ProxyError as error:
            raise click.ClickException(error.in_full) from error
        except BrokenPipeError:
            raise  # the reader of the output has gone away: click ends without a word
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise click.ClickException(f"{error.strerror or 'It failed'}{where}") from error
        except UnicodeError as error:
            raise click.ClickException("The input is not UTF-8.") from error

    return run


def command(name: str) -> Adding:
    """A decorator: a command that works with the application, with plain errors."""
    return lambda function: click.command(name)(with_appcontext(plain_errors(function)))


class Group(AppGroup):
    """Commands of one subject."""

    def command(self, name: str) -> Adding:  # type: ignore[override]
        """A decorator: such a command of this group."""
        return lambda function: super(Group, self).command(name)(plain_errors(function))


def line_from_stdin(what: str) -> str:
    """The one line of standard input, as it is but for the line's end.

    OperatorError where there are more lines: `what` would be only a part of what was meant.
    """
    line, *more = sys.stdin.read().removesuffix("\n").removesuffix("\r").split("\n")
    if more:
        raise errors.OperatorError(f"{what} is one line; standard input has {1 + len(more)}.")
    return line


def for_account(command: Command, **how: Any) -> Command:
    """Add the options --nip and --environment; the command gets them as one `account`.

    `how`: see `Service.account`. Raises OperatorError where there is no such company.
    """

    @click.option("--nip", required=True, help="NIP of the company")
    @click.option(
        "--environment", required=True, type=click.Choice(ENVIRONMENTS), help="KSeF environment"
    )
    @wraps(command)
    def run(nip: str, environment: str, **kwargs: Any) -> None:
        users.require_company(service().db, nip)
        command(account=service().account(nip, environment, **how), **kwargs)

    return run


# Work on a company's whole history leaves half of the quota to others, and waits for it for longer
# than its longest window, an hour.
for_long_work = partial(for_account, live=False, share=0.5, patience=2 * 3600.0)
