"""`settings`: the file of settings to fill in."""

import click

from app.settings import variables


@click.command("settings")
@click.option("--example", is_flag=True, help="Print a file of settings to fill in")
@click.pass_context
def settings_file(context: click.Context, example: bool) -> None:
    """Print a file of all settings, to fill in.

    Each with its meaning and default, as systemd's EnvironmentFile has it. Needs no settings.
    """
    if not example:
        context.fail("Missing option '--example'.")
    click.echo("# The settings of ksef-proxy. They hold secrets: keep this file 0600.")
    click.echo("# What is behind a # has this default; an empty one has none.")
    for variable in variables():
        required, sign = (" Required.", "") if variable.required else ("", "#")
        click.echo(f"\n# {variable.meaning}.{required}")
        click.echo(f"{sign}{variable.name}={variable.default}")
