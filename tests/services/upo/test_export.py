"""`upo export` and `upo verify` of the archive: what an auditor gets, what a new signer changes."""

import csv
import errno
import fcntl
import hashlib
import json
import shutil
import subprocess
import tracemalloc
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from lxml import etree

from app import errors
from app.services.upo import archive, export, fetch, signature
from app.upo.signature import verify_signature
from tests.services.conftest import NIP, Asking
from tests.upo.signed import signed

FIRST, LAST = date(2020, 1, 1), date(2099, 12, 31)
IDS = ("--id-attr:Id", "http://uri.etsi.org/01903/v1.3.2#:SignedProperties")


def no_progress(_done: int, _total: int | None) -> None:
    pass


@pytest.fixture
def session(asking: Asking) -> Any:
    """Three invoices' UPOs and a page of the collective one, in the archive; one of a stranger."""
    session = asking.seed(invoices=3)
    asking.control.fault("upo-other-signer", path=f"{session.ksef_numbers[1]}/upo$")
    for number in session.ksef_numbers:
        fetch.fetch_upo(asking.account, session.reference_number, number, "xml")
    fetch.fetch_session_upo(asking.account, session.reference_number, "xml")
    return session


def exported(asking: Asking, target: Path, first: date = FIRST, last: date = LAST) -> Any:
    return export.export(asking.account, first, last, target, no_progress)


def test_everything_is_written_and_told(asking: Asking, session: Any, tmp_path: Path) -> None:
    target = tmp_path / "evidence"
    summary = exported(asking, target)
    assert (summary.done, summary.failed) == (4, 0)
    entries = json.loads((target / "manifest.json").read_text())
    with (target / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{name: value or "" for name, value in entry.items()} for entry in entries]
    by_number = {entry["ksefNumber"]: entry for entry in entries}
    assert set(by_number) == {*session.ksef_numbers, ""}
    assert by_number[""]["page"] == session.upo_pages[0]
    for number, entry in by_number.items():
        xml, pdf = (target / entry["xml"]).read_bytes(), (target / entry["pdf"]).read_bytes()
        assert hashlib.sha256(xml).hexdigest() == entry["xmlSha256"]
        assert hashlib.sha256(pdf).hexdigest() == entry["pdfSha256"]
        assert pdf.startswith(b"%PDF-")
        state = "unknown_signer" if number == session.ksef_numbers[1] else "valid"
        assert entry["signature"] == state
        assert verify_signature(xml, asking.account.upo_signers).state == state
        assert (entry["nip"], entry["environment"]) == (NIP, "test")
        assert entry["ksefHost"] == "127.0.0.1"
        name = archive.UpoName(session.reference_number, number, entry["page"])
        assert archive.get(asking.account, name).content == xml
    left = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    signers = {f"signers/{entry['certificateSha256']}.pem" for entry in entries}
    assert len(signers) == 2
    files = {entry[kind] for entry in entries for kind in ("xml", "pdf")}
    assert left == files | signers | {"manifest.csv", "manifest.json", "SHA256SUMS"}


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_sha256sum_checks_every_file(asking: Asking, session: Any, tmp_path: Path) -> None:
    exported(asking, tmp_path / "evidence")
    command = ("sha256sum", "-c", "--strict", "SHA256SUMS")
    checked = subprocess.run(
        command, cwd=tmp_path / "evidence", capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout.count(": OK\n")) == (0, 12), checked.stderr


@pytest.mark.skipif(shutil.which("xmlsec1") is None, reason="needs xmlsec1")
def test_xmlsec1_verifies_what_was_written(asking: Asking, session: Any, tmp_path: Path) -> None:
    target = tmp_path / "evidence"
    exported(asking, target)
    for entry in json.loads((target / "manifest.json").read_text()):
        signer = f"signers/{entry['certificateSha256']}.pem"
        command = ("xmlsec1", "--verify", "--enabled-key-data", "rsa,ecdsa", *IDS)
        keys = ("--pubkey-cert-pem", signer)
        done = subprocess.run(
            (*command, *keys, entry["xml"]), cwd=target, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_zip_is_the_same(asking: Asking, session: Any, tmp_path: Path) -> None:
    exported(asking, tmp_path / "evidence")
    exported(asking, tmp_path / "evidence.zip")
    with zipfile.ZipFile(tmp_path / "evidence.zip") as packed:
        content = {name: packed.read(name) for name in packed.namelist()}
    assert content == {
        path.relative_to(tmp_path / "evidence").as_posix(): path.read_bytes()
        for path in (tmp_path / "evidence").rglob("*")
        if path.is_file()
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evidence", "evidence.zip"]
    with pytest.raises(errors.OperatorError, match="exists already"):
        exported(asking, tmp_path / "evidence.zip")


def test_days_are_those_of_the_ksef_numbers(asking: Asking, tmp_path: Path) -> None:
    session = asking.seed(
        invoices=[
            {"ksefNumber": f"{NIP}-{day}-0100001AF629-{crc}"}
            for day, crc in (("20260329", "4F"), ("20250826", "AF"))
        ]
    )
    for number in session.ksef_numbers:
        fetch.fetch_upo(asking.account, session.reference_number, number, "xml")
    for first, last, found in (
        (date(2026, 3, 29), date(2026, 3, 29), 1),
        (date(2025, 8, 26), date(2026, 3, 29), 2),
        (date(2025, 8, 27), date(2026, 3, 28), 0),
        (date(900, 1, 1), date(2026, 3, 29), 2),
    ):
        assert exported(asking, tmp_path / f"{first}-{last}", first, last).seen == found


@pytest.mark.parametrize("name", ["evidence", "evidence.zip"])
def test_interrupted_it_goes_on_where_it_was(
    asking: Asking, session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    drawn: list[bytes] = []
    really = fetch.drawn

    def draw(*arguments: Any) -> bytes:
        drawn.append(arguments[1])
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return really(*arguments)

    monkeypatch.setattr(fetch, "drawn", draw)
    with pytest.raises(KeyboardInterrupt):
        exported(asking, tmp_path / name)
    assert not (tmp_path / name / "manifest.json").exists()
    summary = exported(asking, tmp_path / name)
    assert (summary.done, summary.failed) == (4, 0)
    assert len(drawn) == 5
    exported(asking, tmp_path / "whole")
    if name.endswith("zip"):
        shutil.unpack_archive(tmp_path / name, tmp_path / "unpacked")
    written = tmp_path / ("unpacked" if name.endswith("zip") else name)
    for file in (tmp_path / "whole").rglob("*"):
        if file.is_file():
            assert (
                written / file.relative_to(tmp_path / "whole")
            ).read_bytes() == file.read_bytes()


def test_zip_is_packed_again_where_packing_was_interrupted(
    asking: Asking, session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(asking, tmp_path / "whole.zip")
    full = OSError(errno.ENOSPC, "No space left on device")
    for interruption in (KeyboardInterrupt(), full):
        with monkeypatch.context() as patch:
            patch.setattr(zipfile.ZipFile, "write", raising(interruption))
            with pytest.raises(type(interruption)):
                exported(asking, tmp_path / "evidence.zip")
        assert not (tmp_path / "evidence.zip").exists()
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "drawn", raising(AssertionError("it is written anew")))
        assert exported(asking, tmp_path / "evidence.zip").done == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evidence.zip", "whole.zip"]
    assert contents(tmp_path / "evidence.zip") == contents(tmp_path / "whole.zip")


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_arguments: Any, **_options: Any) -> Any:
        raise error

    return fail


def contents(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


@pytest.mark.parametrize("name", ["evidence", "evidence.zip"])
def test_one_export_at_a_time_writes_into_a_target(
    asking: Asking, session: Any, tmp_path: Path, name: str
) -> None:
    seen = []

    def start_another(_done: int, _total: int | None) -> None:
        with pytest.raises(errors.OperatorError, match="Another export"):
            exported(asking, tmp_path / name)
        seen.append(_done)

    export.export(asking.account, FIRST, LAST, tmp_path / name, start_another)
    assert len(seen) == 4
    exported(asking, tmp_path / "whole")
    if name.endswith("zip"):
        shutil.unpack_archive(tmp_path / name, tmp_path / "unpacked")
        name = "unpacked"
    assert files(tmp_path / name) == files(tmp_path / "whole")


def test_file_system_without_locks_will_do(
    asking: Asking, session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", raising(OSError(errno.ENOLCK, "No locks available")))
    assert exported(asking, tmp_path / "evidence").done == 4


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def interrupted(asking: Asking, target: Path) -> list[dict[str, Any]]:
    """The entries of an export that was interrupted before it was finished."""
    with export._Folder(target, asking.account) as folder:
        for name, row in archive.walk(asking.account):
            folder.write(name, row)
    lines = (target / "manifest.part").read_bytes().split(b"\n")
    return [json.loads(line) for line in lines if line]


@pytest.mark.parametrize("kind", ["xml", "pdf", "signer"])
@pytest.mark.parametrize("left", [b"", b"cut", b"%PDF- of somebody else"])
def test_what_was_cut_or_changed_meanwhile_is_written_anew(
    asking: Asking, session: Any, tmp_path: Path, kind: str, left: bytes
) -> None:
    target = tmp_path / "evidence"
    entries = interrupted(asking, target)
    signer = f"signers/{entries[1]['certificateSha256']}.pem"
    (target / {**entries[1], "signer": signer}[kind]).write_bytes(left)
    exported(asking, target)
    exported(asking, tmp_path / "whole")
    assert files(target) == files(tmp_path / "whole")


def test_nothing_is_left_of_what_is_not_told(asking: Asking, session: Any, tmp_path: Path) -> None:
    """Half a file of a killed export; of a UPO that is gone, its session's folder and signer."""
    target = tmp_path / "evidence"
    interrupted(asking, target)
    gone = target / session.reference_number
    (gone / "X-upo.xml.part").write_bytes(b"cut")
    asking.database.execute("DELETE FROM upos WHERE signature = 'unknown_signer'")
    exported(asking, target)
    exported(asking, tmp_path / "whole")
    assert files(target) == files(tmp_path / "whole")
    interrupted(asking, tmp_path / "other")
    asking.database.execute("DELETE FROM upos")
    exported(asking, tmp_path / "other")
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == [
        "SHA256SUMS",
        "manifest.csv",
        "manifest.json",
    ]


def test_journal_of_somebody_else_removes_no_other_file(
    asking: Asking, session: Any, tmp_path: Path
) -> None:
    target = tmp_path / "evidence"
    [first, *_] = interrupted(asking, target)
    theirs = tmp_path / "theirs"
    theirs.write_text("x")
    with (target / "manifest.part").open("a") as journal:
        for change in (
            {"xml": "../theirs"},
            {"xml": "a/b-upo.xml", "pdf": "../theirs"},
            {"xml": "a/b-upo.xml", "certificateSha256": "../../theirs"},
            {"xml": str(theirs)},
        ):
            journal.write(json.dumps({**first, **change}) + "\n")
    exported(asking, target)
    assert theirs.read_text() == "x"


def test_certificate_is_the_one_that_the_document_has(
    asking: Asking, session: Any, tmp_path: Path
) -> None:
    """Whatever the table says of a document that was changed together with its hash."""
    root = etree.fromstring(signed())
    root.remove(root[-1])
    for number, content in zip(
        session.ksef_numbers, (etree.tostring(root), b"<a/>", signed()), strict=True
    ):
        asking.database.execute(
            f"UPDATE upos SET content = '\\x{content.hex()}',"
            f" sha256 = '{hashlib.sha256(content).hexdigest()}',"
            f" certificate_sha256 = '{'AB' * 32}' WHERE ksef_number = '{number}'"
        )
    target = tmp_path / "evidence"
    assert exported(asking, target).done == 4
    entries = json.loads((target / "manifest.json").read_text())
    told = {entry["ksefNumber"]: entry["signature"] for entry in entries}
    states = [told[number] for number in session.ksef_numbers]
    assert states == ["unsigned", "unsigned", "unknown_signer"]
    signers = {path.stem: path.read_bytes() for path in target.glob("signers/*.pem")}
    assert set(signers) == {entry["certificateSha256"] for entry in entries} - {None}
    for sha256, pem in signers.items():
        found = x509.load_pem_x509_certificate(pem)
        assert found.fingerprint(hashes.SHA256()).hex().upper() == sha256


@pytest.mark.parametrize(("nip", "environment"), [("7812019453", "test"), (NIP, "demo")])
def test_interrupted_export_of_another_archive_is_left_alone(
    asking: Asking, session: Any, tmp_path: Path, nip: str, environment: str
) -> None:
    target = tmp_path / "evidence"
    interrupted(asking, target)
    before = files(target)
    other = asking.service.account(nip, environment)
    with pytest.raises(errors.OperatorError, match="of another company or environment"):
        export.export(other, FIRST, LAST, target, no_progress)
    assert files(target) == before


def test_days_in_the_wrong_order_are_refused(asking: Asking, session: Any, tmp_path: Path) -> None:
    with pytest.raises(errors.OperatorError, match="before"):
        exported(asking, tmp_path / "evidence", LAST, FIRST)
    assert list(tmp_path.iterdir()) == []


def test_zip_in_capitals_is_a_zip(asking: Asking, session: Any, tmp_path: Path) -> None:
    exported(asking, tmp_path / "EVIDENCE.ZIP")
    assert len(contents(tmp_path / "EVIDENCE.ZIP")) == 13


def test_file_in_the_place_of_the_directory_is_told(
    asking: Asking, session: Any, tmp_path: Path
) -> None:
    (tmp_path / "evidence").write_text("x")
    with pytest.raises(errors.OperatorError, match="is no directory"):
        exported(asking, tmp_path / "evidence")


def test_later_verdict_is_written_anew(asking: Asking, session: Any, tmp_path: Path) -> None:
    target = tmp_path / "evidence"
    interrupted(asking, target)
    asking.database.execute("UPDATE upos SET signature = 'valid'")
    exported(asking, target)
    states = [e["signature"] for e in json.loads((target / "manifest.json").read_text())]
    assert states == ["valid"] * 4


def test_directory_of_something_else_is_left_alone(
    asking: Asking, session: Any, tmp_path: Path
) -> None:
    (tmp_path / "theirs").write_text("x")
    with pytest.raises(errors.OperatorError, match="not empty"):
        exported(asking, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_manifest_is_the_same_whoever_judged_and_wherever_the_database_stands(
    asking: Asking, session: Any, tmp_path: Path
) -> None:
    exported(asking, tmp_path / "first")
    asking.database.execute("UPDATE upos SET signature = NULL")
    name = asking.database.name
    asking.database.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'")
    asking.database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    try:
        exported(asking, tmp_path / "second")
    finally:
        asking.database.execute(f"ALTER DATABASE {name} RESET timezone")
    assert files(tmp_path / "first") == files(tmp_path / "second")
    [entry, *_] = json.loads((tmp_path / "first/manifest.json").read_text())
    assert entry["signedAt"].endswith("+00:00")
    assert entry["fetchedAt"].endswith("+00:00")


def test_export_is_audited(asking: Asking, session: Any, tmp_path: Path) -> None:
    exported(asking, tmp_path / "evidence")
    assert asking.database.execute(
        "SELECT what, detail FROM audit WHERE detail LIKE '%export'"
    ) == [("upo_downloaded", f"{FIRST}..{LAST} export")]


def test_changed_bytes_are_written_and_called_broken(
    asking: Asking, session: Any, tmp_path: Path
) -> None:
    asking.database.execute(
        "UPDATE upos SET content = convert_to(replace(convert_from(content, 'UTF8'),"
        f" 'Online', 'Offline'), 'UTF8') WHERE ksef_number = '{session.ksef_numbers[0]}'"
    )
    exported(asking, tmp_path / "evidence")
    entries = json.loads((tmp_path / "evidence/manifest.json").read_text())
    [entry] = [e for e in entries if e["ksefNumber"] == session.ksef_numbers[0]]
    assert entry["signature"] == "broken"


# -- upo verify --nip --environment


def states(asking: Asking) -> list[str | None]:
    return [
        state for (state,) in asking.database.execute("SELECT signature FROM upos ORDER BY sha256")
    ]


def test_archive_is_valid_once_the_signer_is_trusted(asking: Asking, session: Any) -> None:
    summary = signature.verify_archive(asking.account, no_progress)
    assert (summary.seen, summary.done, summary.failed) == (1, 0, 1)
    assert "unknown_signer" in summary.reason
    [(stranger,)] = asking.database.execute(
        "SELECT certificate_sha256 FROM upos WHERE signature = 'unknown_signer'"
    )
    account = asking.account
    account.upo_signers = (*account.upo_signers, stranger)
    summary = signature.verify_archive(account, no_progress)
    assert (summary.seen, summary.done, summary.failed) == (1, 1, 0)
    assert states(asking) == ["valid"] * 4
    assert signature.verify_archive(account, no_progress).seen == 0


def test_archive_of_an_older_version_is_judged_and_can_be_interrupted(
    asking: Asking, session: Any
) -> None:
    asking.database.execute("UPDATE upos SET signature = NULL")

    def interrupt(done: int, total: int | None) -> None:
        assert total == 4
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        signature.verify_archive(asking.account, interrupt)
    assert sum(state is not None for state in states(asking)) == 2
    signature.verify_archive(asking.account, no_progress)
    assert sorted(map(str, states(asking))) == ["unknown_signer", "valid", "valid", "valid"]


def test_another_company_s_archive_is_not_looked_at(asking: Asking, session: Any) -> None:
    asking.database.execute("UPDATE upos SET signature = NULL")
    other = asking.service.account(NIP, "demo")
    assert signature.verify_archive(other, no_progress).seen == 0
    assert list(archive.walk(asking.service.account("7812019453", "test"))) == []


# -- What it costs.


def fill(asking: Asking, count: int) -> None:
    """Archive copies of one document under other KSeF numbers."""
    asking.database.execute(
        "INSERT INTO upos (company_nip, environment, session_reference_number, ksef_number,"
        " content, sha256, signature, signer, signed_at, certificate_sha256)"
        " SELECT company_nip, environment, session_reference_number,"
        " company_nip || '-20260329-' || upper(lpad(to_hex(n), 12, '0')) || '-00',"
        " content, sha256, signature, signer, signed_at, certificate_sha256"
        f" FROM upos CROSS JOIN generate_series(1, {count}) AS n WHERE ksef_number <> ''"
    )


def test_memory_grows_by_an_entry_of_the_manifest_only(asking: Asking, tmp_path: Path) -> None:
    session = asking.seed(invoices=1)
    fetch.fetch_upo(asking.account, session.reference_number, session.ksef_numbers[0], "xml")
    fill(asking, 250)
    exported(asking, tmp_path / "warm", date(2026, 3, 28), date(2026, 3, 28))
    peaks: list[int] = []
    tracemalloc.start()

    def note(done: int, total: int | None) -> None:
        if done in (50, total):
            peaks.append(tracemalloc.get_traced_memory()[1])

    export.export(asking.account, FIRST, LAST, tmp_path / "evidence", note)
    tracemalloc.stop()
    count = len(json.loads((tmp_path / "evidence/manifest.json").read_text()))
    assert (peaks[1] - peaks[0]) / (count - 50) < 3000
