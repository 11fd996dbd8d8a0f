"""The archive as evidence: UPOs as files, with a manifest, for somebody who has no access to it.

A directory has the XML and the PDF of each UPO in a folder of its session, the certificates of the
signers, `manifest.csv` and `manifest.json`, and `SHA256SUMS` for `sha256sum -c`. A zip is such a
directory, packed when it is complete.
"""

import csv
import fcntl
import hashlib
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import msgspec

from app import errors
from app.account import Account
from app.services.operators.progress import Progress, Summary
from app.services.upo import archive, fetch, signature
from app.services.upo.archive import ArchivedUpo, UpoName
from app.upo.signature import certificate_pem

_JOURNAL = "manifest.part"
_SUMS = "SHA256SUMS"
_SAFE = re.compile("[A-Za-z0-9-]+", re.ASCII)


class Entry(msgspec.Struct, frozen=True, rename="camel"):
    """One UPO in the manifest; `pdf` is empty where the XML cannot be drawn."""

    environment: str
    nip: str
    session: str
    ksef_number: str
    page: str
    xml: str
    xml_sha256: str
    pdf: str
    pdf_sha256: str
    signature: str
    signer: str | None
    signed_at: str | None
    certificate_sha256: str | None
    fetched_at: str
    ksef_host: str | None


def export(account: Account, first: date, last: date, target: Path, progress: Progress) -> Summary:
    """Write the archived UPOs of these days; those whose XML and PDF are written are done.

    Memory does not depend on how many there are, but for an entry of the manifest each. Safe to
    interrupt and run again: what was written with the same verdict is kept. Raises OperatorError
    where the target holds something else, or another export writes to it.
    """
    packed = target.suffix == ".zip"
    folder = target.with_name(f"{target.name}.part") if packed else target
    if packed and target.exists():
        raise errors.OperatorError(f"{target} exists already.")
    archive.note_download(account, UpoName(f"{first}..{last}"), "export")
    summary = Summary()
    with _alone(folder):
        with _Folder(folder) as written:
            first_day, last_day = f"{first:%Y%m%d}", f"{last:%Y%m%d}"
            total = sum(1 for _ in archive.walk(account, first_day=first_day, last_day=last_day))
            for name, row in archive.walk(account, first_day=first_day, last_day=last_day):
                with summary.one(f"{name.reference_number} {name.key}"):
                    written.write(account, name, row)
                progress(summary.seen, total)
            if not summary.failed:
                written.finish()
        if packed and not summary.failed:
            _pack(folder, target)
            shutil.rmtree(folder)
    return summary


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Makes the directory; at a time one process may work on it, until it ends or is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise errors.OperatorError(f"Another export writes to {folder}.") from None
        yield
    finally:
        os.close(handle)


class _Folder:
    """The directory while it is written. The journal has what is complete, an entry a line."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._journal = folder / _JOURNAL
        if folder.exists() and any(folder.iterdir()) and not self._journal.exists():
            raise errors.OperatorError(f"{folder} is not empty, and no interrupted export.")
        folder.mkdir(parents=True, exist_ok=True)
        before = self._journal.read_bytes().splitlines() if self._journal.exists() else []
        self._before = {entry.xml: entry for entry in map(_decoded, before) if entry}
        self._entries: dict[str, Entry] = {}

    def __enter__(self) -> "_Folder":
        self._file = self._journal.open("ab")
        self._file.write(b"\n")  # the last line may have been cut
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def write(self, account: Account, name: UpoName, row: Any) -> None:
        """Write a UPO, unless the journal has it with the same verdict and its files are there."""
        if not (_SAFE.fullmatch(name.reference_number) and _SAFE.fullmatch(name.key)):
            raise errors.KsefInvalidResponse("Its number cannot be the name of a file.")
        xml = f"{name.reference_number}/{name.key}-upo.xml"
        before = self._before.get(xml)
        if (
            before
            and (before.xml_sha256, before.signature) == (row.sha256, row.signature)
            and all((self._folder / file).exists() for file in (before.xml, before.pdf) if file)
        ):
            self._entries[xml] = before
            return
        found = archive.get(account, name)
        if found is None:  # deleted in the meantime
            return
        entry = self._written(account, name, row, found, xml)
        self._entries[xml] = entry
        self._file.write(msgspec.json.encode(entry) + b"\n")
        self._file.flush()

    def _written(
        self, account: Account, name: UpoName, row: Any, found: ArchivedUpo, xml: str
    ) -> Entry:
        digest = hashlib.sha256(found.content).hexdigest()
        verdict = found.signature
        if verdict is None or digest != row.sha256:  # the latter is somebody's change of the table
            verdict = signature.of_archived(account, name, found.content)
        self._put(xml, found.content)
        pdf_name, pdf = xml.removesuffix("xml") + "pdf", b""
        try:
            pdf = fetch.drawn(account.environment, found.content, digest, verdict)
            self._put(pdf_name, pdf)
        except errors.KsefInvalidResponse:
            pdf_name = ""
        if verdict.certificate_sha256:
            signer = f"signers/{verdict.certificate_sha256}.pem"
            if not (self._folder / signer).exists():
                self._put(signer, certificate_pem(found.content))
        return Entry(
            **{"environment": account.environment, "nip": account.company_nip},
            session=name.reference_number,
            ksef_number=name.ksef_number,
            page=name.page_reference_number,
            xml=xml,
            xml_sha256=digest,
            pdf=pdf_name,
            pdf_sha256=hashlib.sha256(pdf).hexdigest() if pdf else "",
            signature=verdict.state,
            signer=verdict.signer,
            signed_at=verdict.signed_at.isoformat() if verdict.signed_at else None,
            certificate_sha256=verdict.certificate_sha256,
            fetched_at=row.fetched_at.isoformat(),
            ksef_host=row.ksef_host,
        )

    def _put(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all."""
        file = self._folder / name
        file.parent.mkdir(exist_ok=True)
        part = file.with_name(f"{file.name}.part")
        part.write_bytes(content)
        part.replace(file)

    def finish(self) -> None:
        """Write the manifests and the sums, and take the journal away."""
        entries = self._entries.values()
        for xml in self._before.keys() - self._entries.keys():  # of other days, or deleted since
            (self._folder / xml).unlink(missing_ok=True)
            (self._folder / xml).with_suffix(".pdf").unlink(missing_ok=True)
        names = Entry.__struct_encode_fields__
        with (self._folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            writer.writerows(msgspec.to_builtins(entry).values() for entry in entries)
        with (self._folder / "manifest.json").open("wb") as file:
            for number, entry in enumerate(entries):
                file.write((b",\n" if number else b"[\n") + msgspec.json.encode(entry))
            file.write(b"\n]\n" if entries else b"[]\n")
        with (self._folder / _SUMS).open("w", encoding="utf-8") as file:
            for entry in entries:
                file.write(f"{entry.xml_sha256}  {entry.xml}\n")
                if entry.pdf:
                    file.write(f"{entry.pdf_sha256}  {entry.pdf}\n")
            for other in (*sorted(self._folder.glob("signers/*.pem")), *self._manifests()):
                digest = hashlib.sha256(other.read_bytes()).hexdigest()
                file.write(f"{digest}  {other.relative_to(self._folder).as_posix()}\n")
        self._journal.unlink()

    def _manifests(self) -> Iterator[Path]:
        yield self._folder / "manifest.csv"
        yield self._folder / "manifest.json"


def _decoded(line: bytes) -> Entry | None:
    try:
        return msgspec.json.decode(line, type=Entry)
    except msgspec.DecodeError:  # cut, or the empty line after it
        return None


def _pack(folder: Path, target: Path) -> None:
    part = target.with_name(f"{target.name}.zip.part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            packed.write(file, file.relative_to(folder))
    part.replace(target)
