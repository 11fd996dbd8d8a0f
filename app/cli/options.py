"""What several commands share: options, and how a failure is reported."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial, wraps
from pathlib import Path
from typing import Any

import click

from app import errors
from app.context import service
from app.services.operators import users
from app.settings import ENVIRONMENTS, SettingsError

Command = Callable[..., None]


class UtcDateTime(click.DateTime):
    """A date and time without an offset, read as UTC; the command gets it aware."""

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        moment: datetime = super().convert(value, param, ctx)
        return moment.replace(tzinfo=UTC)


UTC_DATE_TIME = UtcDateTime()
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="A JSON list, for programs")
environment_argument = click.argument("environment", type=click.Choice(ENVIRONMENTS))


def plain_errors(command: Command) -> Command:
    """Report an expected failure as one sentence and exit code 1, without a stack trace."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (errors.OperatorError, SettingsError) as error:
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
