"""`upo export` and `upo verify` of the archive: what an auditor gets, what a new signer changes."""

import csv
import hashlib
import json
import shutil
import subprocess
import tracemalloc
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from app import errors
from app.services.upo import archive, export, fetch, signature
from app.upo.signature import verify_signature
from tests.services.conftest import NIP, Asking

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


def test_later_verdict_is_written_anew(asking: Asking, session: Any, tmp_path: Path) -> None:
    target = tmp_path / "evidence"
    with export._Folder(target) as folder:  # as if interrupted before it was finished
        for name, row in archive.walk(asking.account):
            folder.write(asking.account, name, row)
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


@pytest.mark.parametrize("name", ["evidence", "evidence.zip"])
def test_two_at_once_do_not_disturb_each_other(
    asking: Asking, session: Any, tmp_path: Path, name: str
) -> None:
    """Each wrote into the other's folder, and took it away."""

    def another(_done: int, _total: int | None) -> None:
        with pytest.raises(errors.OperatorError, match="Another export writes to "):
            exported(asking, tmp_path / name)

    summary = export.export(asking.account, FIRST, LAST, tmp_path / name, another)
    assert (summary.done, summary.failed) == (4, 0)
    assert [path.name for path in tmp_path.iterdir()] == [name]


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
