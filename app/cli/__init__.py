"""The operator's commands, `ksef-proxy …`: one file for each subject."""

import click
from flask import Flask

from app.cli import (
    accounts,
    check,
    follow,
    invoices,
    logins,
    outages,
    quotas,
    settings_file,
    upkeep,
    upos,
    webhooks,
)

COMMANDS: tuple[click.Command, ...] = (
    settings_file.settings_file,
    check.check,
    upkeep.migrate_database,
    accounts.company,
    accounts.user,
    logins.credential,
    logins.log_in,
    logins.log_out,
    logins.sessions,
    outages.outage,
    invoices.invoices,
    invoices.link,
    follow.follow,
    upos.upos,
    quotas.quotas,
    webhooks.webhook,
    upkeep.rotate_keys,
    upkeep.purge,
    upkeep.audits,
)


def register(app: Flask) -> None:
    """Add every command to the application."""
    for command in COMMANDS:
        app.cli.add_command(command)


def is_running() -> bool:
    """Whether this process runs a command rather than a server."""
    return click.get_current_context(silent=True) is not None
