"""KSeF's batch sessions from the sender's side: opening, uploading the package's parts, closing.

The package is an archive of invoices, cut into parts; each part is encrypted by itself, with the
session's key and vector, and uploaded to a link of its own, without a bearer.
"""

from __future__ import annotations

import io
import secrets
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from flask import Blueprint, Response, request

from sandbox import identifiers, xml_invoice
from sandbox.access import environment, find_session, json_body, require
from sandbox.documents import link_signature, refuse_link, storage_error
from sandbox.problems import BadRequest, json_response
from sandbox.sending import fail_for_its_key, judge_content, read_encryption, read_form_code
from sandbox.state import MAX_INVOICES, Environment, Invoice, Package, PackagePart, Session
from sandbox.world import world

MAX_PARTS: Final = 50
MAX_PACKAGE: Final = 5_000_000_000
# 100 MB before it is encrypted, and the padding.
MAX_PART: Final = 100_000_000 + 16
TIME_FOR_A_PART: Final = timedelta(minutes=20)
# What the sandbox unpacks at most, so that a small archive can't fill the memory.
MAX_UNPACKED: Final = 256 * 1024 * 1024
_UPLOAD_HEADERS: Final = {"x-ms-blob-type": "BlockBlob"}


class _PackageError(Exception):
    """The package can't be processed; `code` is what the session ends in."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


def register(ksef: Blueprint, storage: Blueprint) -> None:
    """Adds the batch routes to KSeF's blueprint and the uploads to the storage's."""
    ksef.add_url_rule("/sessions/batch", view_func=open_batch_session, methods=["POST"])
    ksef.add_url_rule(
        "/sessions/batch/<reference>/close", view_func=close_batch_session, methods=["POST"]
    )
    storage.add_url_rule("/batch/<reference>/<int:ordinal>", view_func=upload_part, methods=["PUT"])


def open_batch_session() -> Response:
    """POST /sessions/batch."""
    login = require("access")
    body = json_body("formCode", "batchFile", "encryption")
    form_code = read_form_code(body["formCode"])
    if form_code.startswith("PEF"):
        raise BadRequest(21405, "Wskazany kod formularza nie jest wspierany.")
    package = _package(body["batchFile"], offline=body.get("offlineMode") is True)
    key, vector = read_encryption(body["encryption"])
    now = world().clock.now()
    opened = Session(
        reference=identifiers.reference_number("SB", now.date()),
        nip=login.nip,
        kind="batch",
        created=now,
        means=login.means,
        valid_until=now + TIME_FOR_A_PART * len(package.parts),
        form_code=form_code,
        symmetric_key=key,
        vector=vector,
        processing=timedelta(seconds=world().settings.session_seconds),
        package=package,
    )
    if not key:
        fail_for_its_key(opened)
    env = environment()
    with env.lock:
        env.sessions[opened.reference] = opened
    return json_response(
        {
            "referenceNumber": opened.reference,
            "partUploadRequests": [
                {
                    "ordinalNumber": ordinal,
                    "method": "PUT",
                    "url": _upload_link(env, opened, ordinal),
                    "headers": _UPLOAD_HEADERS,
                }
                for ordinal in range(1, len(package.parts) + 1)
            ],
        },
        201,
    )


def _package(announced: Any, *, offline: bool) -> Package:
    if not isinstance(announced, dict) or not isinstance(announced.get("fileParts"), list):
        raise BadRequest(21405, "Pole 'batchFile' jest nieprawidłowe.")
    size, sha256 = _size_and_hash(announced)
    compression = announced.get("compressionType") or "Zip"
    if size > MAX_PACKAGE or compression not in ("Zip", "TarGz"):
        raise BadRequest(21405, "Nieprawidłowy rozmiar lub typ kompresji paczki.")
    parts = announced["fileParts"]
    if len(parts) > MAX_PARTS:
        raise BadRequest(21161, f"Paczka może mieć najwyżej {MAX_PARTS} części.")
    if not all(isinstance(part, dict) for part in parts):
        raise BadRequest(21405, "Pole 'fileParts' jest nieprawidłowe.")
    if [part.get("ordinalNumber") for part in parts] != list(range(1, len(parts) + 1)) or not parts:
        raise BadRequest(21405, "Części paczki muszą być numerowane kolejno od 1.")
    described = [PackagePart(*_size_and_hash(part)) for part in parts]
    if any(part.size > MAX_PART for part in described):
        raise BadRequest(21157, "Część paczki jest za duża.")
    return Package(size, sha256, compression, offline, described)


def _size_and_hash(described: dict[str, Any]) -> tuple[int, str]:
    size, sha256 = described.get("fileSize"), described.get("fileHash")
    if type(size) is not int or size < 1 or not isinstance(sha256, str) or len(sha256) != 44:
        raise BadRequest(21405, "Pole 'fileSize' lub 'fileHash' jest nieprawidłowe.")
    return size, sha256


def _upload_link(env: Environment, session: Session, ordinal: int) -> str:
    expiry, nonce = str(int(session.valid_until.timestamp())), secrets.token_hex(6)
    signature = link_signature(env, _upload_name(session.reference, ordinal), expiry, nonce)
    path = f"{request.host_url}{env.name}/storage/batch/{session.reference}/{ordinal}"
    return f"{path}?se={expiry}&rn={nonce}&sig={signature}"


def _upload_name(reference: str, ordinal: int) -> str:
    return f"upload|{reference}|{ordinal}"


def upload_part(reference: str, ordinal: int) -> Response:
    """PUT to an upload link: the signature in the query is the permission."""
    env = environment()
    refusal = refuse_link(env, _upload_name(reference, ordinal))
    if refusal is not None:
        return refusal
    if request.headers.get("x-ms-blob-type") != _UPLOAD_HEADERS["x-ms-blob-type"]:
        return storage_error(400, "MissingRequiredHeader", "x-ms-blob-type is missing.")
    with env.lock:
        session = env.sessions.get(reference)
        if session is None or session.package is None or session.closed is not None:
            return storage_error(403, "AuthenticationFailed", "The session takes no parts.")
        session.package.parts[ordinal - 1].content = request.get_data()
    return Response(status=201)


def close_batch_session(reference: str) -> Response:
    """POST /sessions/batch/{referenceNumber}/close: the package is processed."""
    login = require("access")
    target = find_session(login.nip, reference)
    env = environment()
    now = world().clock.now()
    with env.lock:
        code = target.summary(now).code
        package = target.package
        if package is not None and target.closed is None and code == 440:
            raise BadRequest(21208, "Sesja anulowana, przekroczony czas wysyłki.")
        if package is None or target.closed is not None:
            raise BadRequest(21180, f"Status sesji {code} uniemożliwia jej zamknięcie.")
        _require_all_parts(package)
        _process(env, target, package, now)
    return Response(status=204)


def _require_all_parts(package: Package) -> None:
    for ordinal, part in enumerate(package.parts, 1):
        if not part.content:
            raise BadRequest(21205, f"Nie przesłano zadeklarowanej '{ordinal}' części pliku.")
        if len(part.content) != part.size:
            raise BadRequest(
                21157,
                f"Zadeklarowany rozmiar części '{ordinal}' nie zgadza się z rzeczywistym.",
            )


def _process(env: Environment, target: Session, package: Package, now: datetime) -> None:
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
        target.code, target.details = error.code, [error.detail]
        return
    finally:
        for part in package.parts:
            part.content = None
    seconds = world().settings.invoice_seconds
    for ordinal, (name, content) in enumerate(files, 1):
        invoice = Invoice(
            ordinal=ordinal,
            reference=identifiers.reference_number("EE", now.date()),
            received=now,
            sha256=identifiers.sha256_base64(content),
            seller_nip=target.nip,
            invoice_number=None,
            issue_date=now.date().isoformat(),
            code=200,
            starts=now + timedelta(seconds=seconds / 3),
            finishes=now + timedelta(seconds=seconds),
            offline=package.offline,
            file_name=name,
        )
        judge_content(invoice, target, content)
        target.add(invoice)
        env.accept(target, invoice)


def _joined(target: Session, package: Package) -> bytes:
    """The archive: its parts checked, decrypted one by one, and put together."""
    archive = bytearray()
    for ordinal, part in enumerate(package.parts, 1):
        encrypted = part.content or b""
        if identifiers.sha256_base64(encrypted) != part.sha256:
            raise _PackageError(405, f"Skrót części {ordinal} nie zgadza się z zadeklarowanym.")
        try:
            archive += xml_invoice.decrypt(encrypted, target.symmetric_key, target.vector)
        except ValueError:
            raise _PackageError(435, f"Nie można odszyfrować części {ordinal}.") from None
    content = bytes(archive)
    if len(content) != package.size or identifiers.sha256_base64(content) != package.sha256:
        raise _PackageError(405, "Rozmiar lub skrót paczki nie zgadza się z zadeklarowanym.")
    return content


def _unpacked(package: Package, archive: bytes) -> Iterator[tuple[str, bytes]]:
    """The files of the archive with their names, in its order."""
    read = _zip_files if package.compression == "Zip" else _tar_files
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
        RuntimeError,  # encrypted
        NotImplementedError,  # compressed in a way that is unknown
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
