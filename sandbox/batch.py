"""KSeF's batch sessions from the sender's side: opening, uploading the package's parts, closing.

The package is an archive of invoices, cut into parts; each part is encrypted by itself, with the
session's key and vector, and uploaded to a link of its own, without a bearer.
"""

import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from flask import Response, request

from sandbox import identifiers, xml_invoice
from sandbox.access import environment, find_session, read_body, require
from sandbox.blueprints import ksef, storage
from sandbox.bodies import BatchFile, BatchSessionBody
from sandbox.documents import Links, refuse_link, storage_error
from sandbox.problems import BadRequest, json_response
from sandbox.sending import judge_content, new_invoice, new_session
from sandbox.state import MAX_INVOICES, Package, Session
from sandbox.world import world

MAX_PARTS: Final = 50
# 100 MB before it is encrypted, and the padding.
MAX_PART: Final = 100_000_000 + 16
TIME_FOR_A_PART: Final = timedelta(minutes=20)
# What the sandbox unpacks at most, so that a small archive can't fill the memory.
MAX_UNPACKED: Final = 256 * 1024 * 1024
_UPLOAD_HEADERS: Final = {"x-ms-blob-type": "BlockBlob"}


class _PackageError(Exception):
    """The package can't be processed; its arguments are the session's code and the detail."""


@ksef.post("/sessions/batch")
def open_batch_session() -> Response:
    """A batch session, and where the parts of its package are to be uploaded."""
    login = require("access")
    body = read_body(BatchSessionBody)
    if body.form_code.system_code.startswith("PEF"):
        raise BadRequest(21405, "Wskazany kod formularza nie jest wspierany.")
    _check(body.batch_file)
    package = Package(body.batch_file, offline=body.offline_mode)
    count = len(body.batch_file.file_parts)
    opened = new_session(login, body, TIME_FOR_A_PART * count, package)
    links = Links(opened.valid_until)
    return json_response(
        {
            "referenceNumber": opened.reference,
            "partUploadRequests": [
                {
                    "ordinalNumber": ordinal,
                    "method": "PUT",
                    "url": links.to(f"batch/{opened.reference}/{ordinal}"),
                    "headers": _UPLOAD_HEADERS,
                }
                for ordinal in range(1, count + 1)
            ],
        },
        201,
    )


def _check(announced: BatchFile) -> None:
    parts = announced.file_parts
    if len(parts) > MAX_PARTS:
        raise BadRequest(21161, f"Paczka może mieć najwyżej {MAX_PARTS} części.")
    if [part.ordinal_number for part in parts] != list(range(1, len(parts) + 1)) or not parts:
        raise BadRequest(21405, "Części paczki muszą być numerowane kolejno od 1.")
    if any(part.file_size > MAX_PART for part in parts):
        raise BadRequest(21157, "Część paczki jest za duża.")


@storage.put("/batch/<reference>/<int:ordinal>")
def upload_part(reference: str, ordinal: int) -> Response:
    """Takes a part; the signature in the link is the permission."""
    refusal = refuse_link(f"batch/{reference}/{ordinal}")
    if refusal is not None:
        return refusal
    if request.headers.get("x-ms-blob-type") != _UPLOAD_HEADERS["x-ms-blob-type"]:
        return storage_error(400, "MissingRequiredHeader", "x-ms-blob-type is missing.")
    with environment().lock:
        session = environment().sessions.get(reference)
        if session is None or session.package is None or session.closed is not None:
            return storage_error(403, "AuthenticationFailed", "The session takes no parts.")
        session.package.parts[ordinal] = request.get_data()
    return Response(status=201)


@ksef.post("/sessions/batch/<reference>/close")
def close_batch_session(reference: str) -> Response:
    """All parts are there; the package is processed."""
    target = find_session(reference)
    now = world().clock.now()
    with environment().lock:
        code = target.summary(now).code
        package = target.package
        if package is not None and target.closed is None and code == 440:
            raise BadRequest(21208, "Sesja anulowana, przekroczony czas wysyłki.")
        if package is None or target.closed is not None:
            raise BadRequest(21180, f"Status sesji {code} uniemożliwia jej zamknięcie.")
        for part in package.announced.file_parts:
            number = part.ordinal_number
            content = package.parts.get(number)
            if not content:
                raise BadRequest(21205, f"Nie przesłano zadeklarowanej '{number}' części pliku.")
            if len(content) != part.file_size:
                raise BadRequest(
                    21157,
                    f"Zadeklarowany rozmiar części '{number}' nie zgadza się z rzeczywistym.",
                )
        _process(target, package, now)
    return Response(status=204)


def _process(target: Session, package: Package, now: datetime) -> None:
    """Decides what the session and its invoices will have become once they are processed."""
    target.closed = now
    target.starts = now + target.processing / 3
    target.finishes = now + target.processing
    target.touch()
    try:
        files = list(_unpacked(package, _joined(target, package)))
        if len(files) > MAX_INVOICES:
            raise _PackageError(420, f"Paczka zawiera więcej niż {MAX_INVOICES} faktur.")
    except _PackageError as error:
        target.code, *target.details = error.args
        return
    finally:
        package.parts.clear()
    for name, content in files:
        invoice = new_invoice(target, identifiers.sha256_base64(content), now)
        invoice.offline, invoice.file_name = package.offline, name
        judge_content(invoice, target, content)
        target.add(invoice)
        environment().accept(target, invoice)


def _joined(target: Session, package: Package) -> bytes:
    """The archive: its parts checked, decrypted one by one, and put together."""
    archive = bytearray()
    for part in package.announced.file_parts:
        encrypted = package.parts[part.ordinal_number]
        if identifiers.sha256_base64(encrypted) != part.file_hash:
            raise _PackageError(
                405, f"Skrót części {part.ordinal_number} nie zgadza się z zadeklarowanym."
            )
        try:
            archive += xml_invoice.decrypt(encrypted, target.symmetric_key, target.vector)
        except ValueError:
            raise _PackageError(
                435, f"Nie można odszyfrować części {part.ordinal_number}."
            ) from None
    content = bytes(archive)
    announced = package.announced
    if (len(content), identifiers.sha256_base64(content)) != (
        announced.file_size,
        announced.file_hash,
    ):
        raise _PackageError(405, "Rozmiar lub skrót paczki nie zgadza się z zadeklarowanym.")
    return content


def _unpacked(package: Package, archive: bytes) -> Iterator[tuple[str, bytes]]:
    """The files of the archive with their names, in its order."""
    read = _tar_files if package.announced.compression_type == "TarGz" else _zip_files
    total = 0
    try:
        for name, size, content in read(archive):
            total += size
            if total > MAX_UNPACKED:
                raise _PackageError(430, "Rozpakowana paczka jest za duża.")
            yield name, content.read(size)
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,  # encrypted, or compressed in a way that is unknown
    ) as error:
        raise _PackageError(430, f"Nie można rozpakować paczki: {error}") from None


def _zip_files(archive: bytes) -> Iterator[tuple[str, int, Any]]:
    with zipfile.ZipFile(io.BytesIO(archive)) as package:
        for entry in package.infolist():
            if not entry.is_dir():
                with package.open(entry) as content:
                    yield entry.filename, entry.file_size, content


def _tar_files(archive: bytes) -> Iterator[tuple[str, int, Any]]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as package:
        for entry in package:
            if entry.isfile():
                yield entry.name, entry.size, package.extractfile(entry)
