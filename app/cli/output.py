"""What commands print: tables, moments, summaries and progress."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from app import errors
from app.services.operators.progress import Progress, Summary


def print_table(header: tuple[str, ...], rows: list[tuple[Any, ...]], as_json: bool) -> None:
    """Print aligned columns, or a JSON list with one object for each row.

    Unprintable characters become `?`: a message or an invoice number, written by others, cannot
    control the terminal.
    """
    if as_json:
        names = [name.replace(" ", "_") for name in header]
        objects = [dict(zip(names, row, strict=True)) for row in rows]
        click.echo(msgspec.json.format(msgspec.json.encode(objects), indent=2))
        return
    lines = [header, *(tuple(map(_cell, row)) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


def print_summary(summary: Summary, what: str) -> None:
    """Print how many were done; raises OperatorError if any failed, for exit code 1."""
    click.echo(f"{summary.done} of {summary.seen} {what}")
    if summary.failed:
        raise errors.OperatorError(f"{summary.failed} failed, the last one: {summary.reason}")


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """A progress bar on standard error, or a running count where the total is unknown.

    Nothing is shown where standard error is not a terminal.
    """
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    with ExitStack() as shown:
        bars: list[Any] = []

        def show(done: int, total: int | None) -> None:
            if total is None:
                click.echo(f"\r{done} {what}", err=True, nl=False)
                return
            if not bars:
                bar = click.progressbar(length=total, label=what, show_pos=True, file=sys.stderr)
                bars.append(shown.enter_context(bar))
            bars[0].update(done - bars[0].pos)

        yield show
        if not bars:
            click.echo("", err=True)


def utc(moment: datetime | None) -> str:
    """A moment in UTC, to the second; empty for None."""
    return moment.astimezone(UTC).isoformat(timespec="seconds") if moment else ""


def printable(text: str) -> str:
    """The text with `?` for what could control the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return utc(value)
    return printable("" if value is None else str(value))
