"""The company's own invoice rows: imported and listed by an operator."""

import csv
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from app.account import Account
from app.db.queries import rows as queries
from app.errors import OperatorError
from app.identifiers import (
    base64_hash,
    wrong_invoice_hash,
    wrong_invoice_number,
    wrong_ksef_number,
    wrong_reference_number,
)

_WRONG = {
    "invoice_number": wrong_invoice_number,
    "ksef_number": wrong_ksef_number,
    "ksef_reference_number": wrong_reference_number,
    "invoice_hash": wrong_invoice_hash,
}
COLUMNS = tuple(_WRONG)
_NAMES = COLUMNS[1:]  # by one of them at least a row is linked
_ALIKE = 0.8  # as `difflib` measures: ksef_numer is ksef_number, invoice_date is not invoice_number


@dataclass(frozen=True, slots=True)
class Imported:
    """How many rows the file has, and how many of them were new in each table."""

    rows: int
    synced: int
    offline: int


def import_csv(account: Account, lines: Iterable[str]) -> Imported:
    """Import a CSV file (header line; comma or semicolon), either all of it or nothing.

    Columns: invoice_number, and one or more of ksef_number, ksef_reference_number and invoice_hash
    (Base64 or hexadecimal). A row with a reference number, or without a KSeF number, goes to
    `offline_invoices`, any other to `synced_invoices`. Other columns are ignored, unless the name
    looks like a misspelt one of these. Rows that exist already are left unchanged. Raises
    OperatorError, which names the wrong line: a row with a number that cannot be KSeF's would never
    be linked, and could never be removed.
    """
    rows = _read(lines)
    offline = [row for row in rows if row["ksef_reference_number"] or not row["ksef_number"]]
    synced = [row for row in rows if row["ksef_number"] and not row["ksef_reference_number"]]
    with account.db.transaction() as connection:
        synced_new: int = queries.import_synced(
            connection,
            **account.columns,
            invoice_numbers=[row["invoice_number"] for row in synced],
            ksef_numbers=[row["ksef_number"] for row in synced],
            invoice_hashes=[row["invoice_hash"] or None for row in synced],
        )
        offline_new: int = queries.import_offline(
            connection,
            **account.columns,
            invoice_numbers=[row["invoice_number"] for row in offline],
            reference_numbers=[row["ksef_reference_number"] or None for row in offline],
            ksef_numbers=[row["ksef_number"] or None for row in offline],
            invoice_hashes=[row["invoice_hash"] or None for row in offline],
        )
    return Imported(len(rows), synced_new, offline_new)


def list_rows(account: Account, *, unlinked: bool) -> Sequence[Any]:
    """The company's rows of both tables, or only those without a session: kind, invoice_number,
    ksef_number, ksef_reference_number, session_reference_number."""
    return account.db.rows(
        queries.list_rows,
        **account.columns,
        unlinked=unlinked,
    )


def _read(lines: Iterable[str]) -> list[dict[str, str]]:
    lines = list(lines)
    if not lines:
        raise OperatorError("The file is empty.")
    reader = csv.DictReader(lines, delimiter=";" if ";" in lines[0] else ",")
    header = [name.strip() for name in reader.fieldnames or ()]
    if "invoice_number" not in header or not {*_NAMES} & {*header}:
        raise OperatorError(
            "The first line names the columns: invoice_number, and one or more of "
            f"{', '.join(_NAMES)}."
        )
    for name in {*header} - {*COLUMNS}:
        if meant := difflib.get_close_matches(name.lower(), COLUMNS, 1, _ALIKE):
            raise OperatorError(f"There is no column {name}: is {meant[0]} meant?")
    reader.fieldnames = header
    try:
        return [_row(record, reader.line_num) for record in reader]
    except csv.Error as error:
        raise OperatorError(f"Line {reader.line_num + 1}: not a CSV file: {error}.") from error


def _row(record: dict[str, Any], line: int) -> dict[str, str]:
    row = {name: (record.get(name) or "").strip() for name in COLUMNS}
    if record.get(None):  # type: ignore[call-overload]
        raise OperatorError(f"Line {line}: more values than columns.")
    if not row["invoice_number"]:
        raise OperatorError(f"Line {line}: invoice_number is missing.")
    if not any(row[name] for name in _NAMES):
        raise OperatorError(f"Line {line}: none of {', '.join(_NAMES)} is given.")
    row["invoice_hash"] = base64_hash(row["invoice_hash"])
    for name, wrong in _WRONG.items():
        if row[name] and (said := wrong(row[name])):
            raise OperatorError(f"Line {line}: {name}: {said}")
    return row
