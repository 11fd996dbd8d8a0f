"""The company's own invoice rows, as an operator brings them in and looks at them."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from app.db.queries import invoices as queries
from app.errors import OperatorError
from app.identifiers import wrong_invoice_number, wrong_ksef_number, wrong_reference_number
from app.services.parts import Parts, Place

COLUMNS = ("invoice_number", "ksef_number", "ksef_reference_number")
_WRONG = {
    "invoice_number": wrong_invoice_number,
    "ksef_number": wrong_ksef_number,
    "ksef_reference_number": wrong_reference_number,
}


@dataclass(frozen=True, slots=True)
class Imported:
    """Rows of the file, and how many of them were new in each table."""

    rows: int
    synced: int
    offline: int


def import_csv(parts: Parts, place: Place, lines: Iterable[str]) -> Imported:
    """Bring in a CSV file (UTF-8, header line, comma or semicolon), all of it or nothing.

    Columns: invoice_number, and ksef_number or ksef_reference_number or both. A row with a
    reference goes to `offline_invoices`, one with a KSeF number only to `synced_invoices`. Rows
    that are there already stay as they are. OperatorError names the line that is wrong: a number
    that is none of KSeF's would never be linked, and no row can be removed.
    """
    rows = _read(lines)
    offline = [row for row in rows if row["ksef_reference_number"]]
    synced = [row for row in rows if not row["ksef_reference_number"]]
    where = {**place.columns}
    with parts.db.transaction() as connection:
        synced_new: int = queries.import_synced(
            connection,
            **where,
            invoice_numbers=[row["invoice_number"] for row in synced],
            ksef_numbers=[row["ksef_number"] for row in synced],
        )
        offline_new: int = queries.import_offline(
            connection,
            **where,
            invoice_numbers=[row["invoice_number"] for row in offline],
            reference_numbers=[row["ksef_reference_number"] for row in offline],
            ksef_numbers=[row["ksef_number"] or None for row in offline],
        )
    return Imported(len(rows), synced_new, offline_new)


def list_rows(parts: Parts, place: Place, *, unlinked: bool) -> Sequence[Any]:
    """The company's rows of both tables; with `unlinked` only those without a session."""
    return parts.db.rows(
        queries.list_rows,
        **place.columns,
        unlinked=unlinked,
    )


def _read(lines: Iterable[str]) -> list[dict[str, str]]:
    lines = list(lines)
    if not lines:
        raise OperatorError("The file is empty.")
    reader = csv.DictReader(lines, delimiter=";" if ";" in lines[0] else ",")
    header = [name.strip() for name in reader.fieldnames or ()]
    if "invoice_number" not in header or not {"ksef_number", "ksef_reference_number"} & {*header}:
        raise OperatorError(
            "The first line names the columns: invoice_number, and ksef_number or "
            "ksef_reference_number or both."
        )
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
    if not row["ksef_number"] and not row["ksef_reference_number"]:
        raise OperatorError(f"Line {line}: neither ksef_number nor ksef_reference_number is there.")
    for name, wrong in _WRONG.items():
        if row[name] and (said := wrong(row[name])):
            raise OperatorError(f"Line {line}: {name}: {said}")
    return row
