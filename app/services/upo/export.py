"""The archive as evidence: UPOs as files, with a manifest, for somebody who has no access to it.

A directory has the XML and the PDF of each UPO in a folder of its session, the certificates of the
signers, `manifest.csv` and `manifest.json`, and `SHA256SUMS` for `sha256sum -c`. A zip is such a
directory, packed when it is complete.
"""

import csv
import errno
import fcntl
import hashlib
import re
import shutil
import ssl
import zipfile
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from app import errors
from app.account import Account
from app.services.events import journal
from app.services.operators.progress import Progress, Summary
from app.services.upo import archive, fetch, signature
from app.services.upo.archive import ArchivedUpo, UpoName
from app.upo.signature import certificate_pem

_JOURNAL = "manifest.part"
_SUMS = "SHA256SUMS"
_SAFE = re.compile("[A-Za-z0-9-]+", re.ASCII)
# What the journal may name: files are removed by it, and it may be anybody's.
_FILE = Meta(pattern=r"\A([A-Za-z0-9-]+/[A-Za-z0-9-]+-upo\.(xml|pdf))?\Z")
_SHA256 = Meta(pattern=r"\A[0-9A-F]{64}\Z")


class Entry(msgspec.Struct, frozen=True, rename="camel"):
    """One UPO in the manifest; `pdf` is empty where the XML cannot be drawn."""

    environment: str
    nip: str
    session: str
    ksef_number: str
    page: str
    xml: Annotated[str, _FILE]
    xml_sha256: str
    pdf: Annotated[str, _FILE]
    pdf_sha256: str
    signature: str
    signer: str | None
    signed_at: str | None
    certificate_sha256: Annotated[str, _SHA256] | None
    fetched_at: str
    ksef_host: str | None


def export(account: Account, first: date, last: date, target: Path, progress: Progress) -> Summary:
    """Write the archived UPOs of these days; those whose XML and PDF are written are done.

    Memory does not depend on how many there are, but for an entry of the manifest each. Safe to
    interrupt and run again: what was written with the same verdict is kept. Raises OperatorError
    where the days or the target will not do.
    """
    if last < first:
        raise errors.OperatorError(f"The last day, {last}, is before the first, {first}.")
    packed = target.suffix.lower() == ".zip"
    folder = target.with_name(f"{target.name}.part") if packed else target
    if packed and target.exists():
        raise errors.OperatorError(f"{target} exists already.")
    archive.note_download(account, UpoName(f"{first}..{last}"), "export")
    summary = Summary()
    with _Folder(folder, account) as written:
        first_day, last_day = (day.isoformat().replace("-", "") for day in (first, last))
        total = sum(1 for _ in archive.walk(account, first_day=first_day, last_day=last_day))
        for name, row in archive.walk(account, first_day=first_day, last_day=last_day):
            with summary.one(f"{name.reference_number} {name.key}"):
                written.write(name, row)
            progress(summary.seen, total)
        if not summary.failed:
            written.finish()
            if packed:
                written.pack(target)
            else:
                written.forget()
    if packed and not summary.failed:
        shutil.rmtree(folder)
    return summary


class _Folder:
    """The directory while it is written. The journal has what is complete, an entry a line, until
    all is; its lock keeps a second export away."""

    def __init__(self, folder: Path, account: Account) -> None:
        self._folder = folder
        self._account = account
        self._journal = folder / _JOURNAL
        if folder.exists() and not folder.is_dir():
            raise errors.OperatorError(f"{folder} is no directory.")
        if folder.exists() and any(folder.iterdir()) and not self._journal.exists():
            raise errors.OperatorError(f"{folder} is not empty, and no interrupted export.")
        folder.mkdir(parents=True, exist_ok=True)
        self._entries: dict[str, Entry] = {}

    def __enter__(self) -> "_Folder":
        self._file = self._journal.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise errors.OperatorError(f"Another export writes into {self._folder}.") from None
        except OSError as error:  # some network's file systems have no locks
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise
        before = self._journal.read_bytes().splitlines()
        self._before = {entry.xml: entry for entry in map(_decoded, before) if entry}
        if {(entry.environment, entry.nip) for entry in self._before.values()} - {self._place}:
            self._file.close()
            detail = "has an interrupted export of another company or environment"
            raise errors.OperatorError(f"{self._folder} {detail}.")
        self._file.write(b"\n")  # the last line may have been cut
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    @property
    def _place(self) -> tuple[str, str]:
        return self._account.environment, self._account.company_nip

    def write(self, name: UpoName, row: Any) -> None:
        """Write a UPO, unless the journal has it with the same verdict and its files are whole."""
        if not (_SAFE.fullmatch(name.reference_number) and _SAFE.fullmatch(name.key)):
            raise errors.KsefInvalidResponse("Its number cannot be the name of a file.")
        xml = f"{name.reference_number}/{name.key}-upo.xml"
        before = self._before.get(xml)
        if (
            before
            and (before.xml_sha256, before.signature) == (row.sha256, row.signature)
            and self._has(before.xml, before.xml_sha256)
            and (not before.pdf or self._has(before.pdf, before.pdf_sha256))
            and (not before.certificate_sha256 or self._has_signer(before.certificate_sha256))
        ):
            self._entries[xml] = before
            return
        found = archive.get(self._account, name)
        if found is None:  # deleted in the meantime
            return
        entry = self._written(name, row, found, xml)
        self._entries[xml] = entry
        self._file.write(msgspec.json.encode(entry) + b"\n")
        self._file.flush()

    def _written(self, name: UpoName, row: Any, found: ArchivedUpo, xml: str) -> Entry:
        environment, nip = self._place
        digest = hashlib.sha256(found.content).hexdigest()
        verdict = found.signature
        # The last two are somebody's change of the table.
        if (
            verdict is None
            or digest != row.sha256
            or not self._put_signer(verdict.certificate_sha256, found.content)
        ):
            verdict = signature.of_archived(self._account, name, found.content)
            self._put_signer(verdict.certificate_sha256, found.content)
        self._put(xml, found.content)
        pdf_name, pdf = xml.removesuffix("xml") + "pdf", b""
        try:
            pdf = fetch.drawn(environment, found.content, digest, verdict)
            self._put(pdf_name, pdf)
        except errors.KsefInvalidResponse:
            pdf_name = ""
        return Entry(
            environment=environment,
            nip=nip,
            session=name.reference_number,
            ksef_number=name.ksef_number,
            page=name.page_reference_number,
            xml=xml,
            xml_sha256=digest,
            pdf=pdf_name,
            pdf_sha256=hashlib.sha256(pdf).hexdigest() if pdf else "",
            signature=verdict.state,
            signer=verdict.signer,
            signed_at=journal.utc(verdict.signed_at) if verdict.signed_at else None,
            certificate_sha256=verdict.certificate_sha256,
            fetched_at=journal.utc(row.fetched_at),
            ksef_host=row.ksef_host,
        )

    def _has(self, name: str, sha256: str) -> bool:
        """Whether a file is there, and whole."""
        try:
            return hashlib.sha256((self._folder / name).read_bytes()).hexdigest() == sha256
        except FileNotFoundError:
            return False

    def _has_signer(self, sha256: str) -> bool:
        """Whether a certificate is there, and the right one."""
        try:
            der = ssl.PEM_cert_to_DER_cert((self._folder / _signer(sha256)).read_text())
        except (FileNotFoundError, ValueError):
            return False
        return hashlib.sha256(der).hexdigest().upper() == sha256

    def _put_signer(self, sha256: str | None, content: bytes) -> bool:
        """Write the certificate of a document's signer; false if the document has another one."""
        if sha256 is None:
            return True
        pem = certificate_pem(content, sha256)
        if pem and not self._has_signer(sha256):
            self._put(_signer(sha256), pem)
        return pem is not None

    def _put(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all."""
        file = self._folder / name
        file.parent.mkdir(exist_ok=True)
        part = file.with_name(f"{file.name}.part")
        part.write_bytes(content)
        part.replace(file)

    def finish(self) -> None:
        """Write the manifests and the sums, and take away what they do not tell of."""
        entries = self._entries.values()
        stale = _names(self._before.values()) - _names(entries)
        left = {self._folder / name for name in stale} | {*self._folder.glob("*/*.part")}
        for path in left:
            path.unlink(missing_ok=True)
        for folder in {path.parent for path in left}:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
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
            manifests = [self._folder / "manifest.csv", self._folder / "manifest.json"]
            for other in (*sorted(self._folder.glob("signers/*.pem")), *manifests):
                digest = hashlib.sha256(other.read_bytes()).hexdigest()
                file.write(f"{digest}  {other.relative_to(self._folder).as_posix()}\n")

    def forget(self) -> None:
        """Take the journal away: the directory is complete."""
        self._journal.unlink()

    def pack(self, target: Path) -> None:
        """Write all but the journal into a zip, whole or not at all."""
        part = target.with_name(f"{target.name}.zip.part")
        files = {path for path in self._folder.rglob("*") if path.is_file()} - {self._journal}
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
            for file in sorted(files):
                packed.write(file, file.relative_to(self._folder))
        part.replace(target)


def _decoded(line: bytes) -> Entry | None:
    try:
        return msgspec.json.decode(line, type=Entry)
    except msgspec.DecodeError:  # cut, or the empty line after it
        return None


def _names(entries: Iterable[Entry]) -> set[str]:
    """The files of these UPOs, their signers' among them."""
    names: set[str] = set()
    for entry in entries:
        names |= {entry.xml, entry.pdf, _signer(entry.certificate_sha256)}
    return names - {""}


def _signer(sha256: str | None) -> str:
    return f"signers/{sha256}.pem" if sha256 else ""
