"""`upo`: archiving, drawing, verifying and exporting UPOs."""

from datetime import datetime
from pathlib import Path

import click

from app import errors
from app.account import Account
from app.cli.options import EXISTING_FILE, Group, for_long_work, json_option
from app.cli.output import print_summary, print_table, progress, utc
from app.context import service
from app.services.operators import users
from app.services.upo import export, fetch, signature
from app.settings import ENVIRONMENTS
from app.signers import DEFAULT_SIGNERS, fingerprints
from app.upo.xml import MAX_BYTES

upos = Group("upo", help="UPOs.")


@upos.command("archive")
@for_long_work
def archive_upos(account: Account) -> None:
    """Fetch the UPOs missing from the archive.

    Fetches those of linked invoices. Safe to interrupt and run again. Leaves half of KSeF's quota
    to live traffic.
    """
    with progress("UPOs") as show:
        summary = fetch.archive_upos(account, show)
    print_summary(summary, "UPOs archived")


@upos.command("render")
@click.argument("file", type=EXISTING_FILE)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write the PDF",
)
@click.option(
    "--language",
    type=click.Choice(("pl", "en")),
    default="pl",
    show_default=True,
    help="Language of the PDF's labels",
)
def render(file: Path, output: Path, language: str) -> None:
    """Draw the PDF of a UPO's XML file.

    Needs neither the database nor KSeF.
    """
    output.write_bytes(fetch.render(file.read_bytes(), language=language))
    click.echo(f"{click.format_filename(output)} written")


@upos.command("verify")
@click.argument("files", nargs=-1, type=EXISTING_FILE, metavar="[FILE]...")
@click.option("--signer", "signers", multiple=True, metavar="SHA256", help="A trusted certificate")
@click.option("--nip", help="NIP of the company whose archive is verified")
@click.option(
    "--environment",
    type=click.Choice(ENVIRONMENTS),
    help="KSeF environment of it, or of the FILEs  [default for FILEs: prod]",
)
@json_option
def verify(
    files: tuple[Path, ...],
    signers: tuple[str, ...],
    nip: str | None,
    environment: str | None,
    as_json: bool,
) -> None:
    """Verify the Ministry's signature on UPOs.

    FILEs need neither settings nor the database; without --signer the certificates are trusted that
    the Ministry was known to use in production, or in another --environment. With --nip and
    --environment all UPOs in the archive are verified that are not known to be valid, by the
    signers in the settings. Exit code 0 only if all are valid.
    """
    if bool(files) == bool(nip) or (nip and not environment):
        raise click.UsageError("Give either FILEs, or --nip and --environment.")
    if signers and environment:
        raise click.UsageError("--signer is for FILEs, in place of --environment.")
    if nip and environment:
        users.require_company(service().db, nip)
        account = service().account(nip, environment, live=False)
        with progress("UPOs") as show:
            summary = signature.verify_archive(account, show)
        print_summary(summary, "UPOs that were not known to be valid are")
        return
    trusted = _fingerprints(signers) or DEFAULT_SIGNERS[environment or "prod"]
    verdicts = []
    for file in files:
        with file.open("rb") as opened:
            verdicts.append(signature.verify_file(opened.read(MAX_BYTES + 1), trusted))
    header = ("file", "signature", "signer", "signed at", "certificate", "reason")
    rows = [
        (
            click.format_filename(file),
            v.state,
            v.signer,
            utc(v.signed_at),
            v.certificate_sha256,
            v.reason,
        )
        for file, v in zip(files, verdicts, strict=True)
    ]
    print_table(header, rows, as_json)
    bad = sum(verdict.state != "valid" for verdict in verdicts)
    if bad:
        raise errors.OperatorError(f"{bad} of {len(files)} are not valid.")


def _fingerprints(signers: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return fingerprints(",".join(signers)) if signers else ()
    except ValueError as error:
        raise click.UsageError(f"--signer {error}") from None


@upos.command("export")
@click.option("--from", "first", required=True, type=click.DateTime(["%Y-%m-%d"]), help="First day")
@click.option("--to", "last", required=True, type=click.DateTime(["%Y-%m-%d"]), help="Last day")
@click.argument("target", type=click.Path(path_type=Path))
@for_long_work
def export_upos(account: Account, first: datetime, last: datetime, target: Path) -> None:
    """Write archived UPOs for an auditor: XML, PDF and a manifest.

    TARGET is a directory, or a file that ends in .zip. The days are those in the KSeF numbers. Safe
    to interrupt and run again: what was written is kept.
    """
    if first > last:
        raise click.UsageError("--from is after --to.")
    with progress("UPOs") as show:
        summary = export.export(account, first.date(), last.date(), target, show)
    print_summary(summary, f"UPOs written to {click.format_filename(target)}")
