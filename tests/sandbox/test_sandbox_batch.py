"""The sender's way with a batch: a package in encrypted parts, uploaded, closed, processed."""

import io
import tarfile

import pytest
from lxml import etree

from tests.sandbox.ksef_client import (
    NIP,
    OTHER_NIP,
    BatchSession,
    base64_text,
    encrypt,
    invoice_xml,
    sha256,
    zipped,
)


def codes(answer):
    assert answer.status_code == 400, answer.text
    return [error["code"] for error in answer.json()["errors"]]


def invoices(client, reference):
    return [invoice for page in client.pages(reference) for invoice in page]


PACKAGE = zipped(a=invoice_xml("FV/1"), b=invoice_xml("FV/2"), c=invoice_xml("FV/3"))


@pytest.mark.parametrize("cuts", [1, 3])
def test_a_batch_from_opening_to_its_receipts(client, control, cuts):
    control.freeze()
    batch = client.open_batch(PACKAGE, cuts=cuts, offlineMode=True)
    opened = control.now()
    assert len(batch.requests) == cuts
    control.advance(60)
    assert client.session(batch.reference)["status"]["code"] == 100
    batch.send()
    control.advance(0.5)
    moving = client.session(batch.reference)
    assert (moving["status"]["code"], moving["invoiceCount"]) == (150, 3)
    control.advance(0.5)

    final = client.session(batch.reference)
    assert final["status"]["code"] == 200
    assert final["successfulInvoiceCount"] == 3
    listed = invoices(client, batch.reference)
    assert [invoice["invoiceFileName"] for invoice in listed] == ["a.xml", "b.xml", "c.xml"]
    assert [invoice["invoiceNumber"] for invoice in listed] == ["FV/1", "FV/2", "FV/3"]
    assert listed[0]["invoiceHash"] == sha256(invoice_xml("FV/1"))
    assert {invoice["invoicingMode"] for invoice in listed} == {"Offline"}
    assert {invoice["invoicingDate"] for invoice in listed} == {opened}
    page = final["upo"]["pages"][0]["referenceNumber"]
    upo = client.get(f"/sessions/{batch.reference}/upo/{page}")
    numbers = etree.fromstring(upo.content).xpath("//*[local-name()='NumerFaktury']/text()")
    assert numbers == ["FV/1", "FV/2", "FV/3"]
    named = client.get(f"/sessions?sessionType=Batch&referenceNumber={batch.reference}").json()
    assert [session["referenceNumber"] for session in named["sessions"]] == [batch.reference]


def test_a_tar_in_place_of_a_zip(client, control):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo("folder")
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
        entry = tarfile.TarInfo("folder/a.xml")
        entry.size = len(invoice_xml("FV/1"))
        archive.addfile(entry, io.BytesIO(invoice_xml("FV/1")))
    reference = client.open_batch(buffer.getvalue(), compression="TarGz").send()
    control.advance(1)
    assert client.session(reference)["status"]["code"] == 200
    assert invoices(client, reference)[0]["invoiceFileName"] == "folder/a.xml"


def test_each_invoice_has_an_outcome_of_its_own(client, control):
    session = client.open_session()
    session.send(invoice_xml("FV/1"))
    package = zipped(
        fine=invoice_xml("FV/2"),
        duplicate=invoice_xml("FV/1"),
        foreign=invoice_xml("FV/3", seller=OTHER_NIP),
        broken=b"<Faktura>",
    )
    reference = client.open_batch(package).send()
    control.advance(1)
    final = client.session(reference)
    assert (final["status"]["code"], final["failedInvoiceCount"]) == (200, 3)
    outcomes = [invoice["status"]["code"] for invoice in invoices(client, reference)]
    assert outcomes == [200, 440, 410, 450]
    failed = client.get(f"/sessions/{reference}/invoices/failed").json()["invoices"]
    assert [invoice["status"]["code"] for invoice in failed] == [440, 410, 450]


def test_a_package_without_a_good_invoice(client, control):
    reference = client.open_batch(zipped(a=b"x")).send()
    control.advance(1)
    assert client.session(reference)["status"]["code"] == 445


def test_an_empty_package(client, control):
    reference = client.open_batch(zipped()).send()
    control.advance(1)
    assert client.session(reference)["status"]["code"] == 440


class TestPackagesThatCannotBeProcessed:
    @pytest.mark.parametrize("archive", [b"no archive", PACKAGE[:-30]], ids=["text", "cut"])
    @pytest.mark.parametrize("compression", [None, "TarGz"])
    def test_no_archive(self, client, control, archive, compression):
        self.ends_in(430, client, control, client.open_batch(archive, compression=compression))

    def test_a_part_that_is_not_the_announced_one(self, client, control):
        batch = client.open_batch(PACKAGE)
        batch.parts[0] = bytes(len(batch.parts[0]))
        self.ends_in(405, client, control, batch)

    def test_a_whole_that_is_not_the_announced_one(self, client, control):
        batch = self.open(client, PACKAGE, fileHash=sha256(b"another"))
        self.ends_in(405, client, control, batch)

    def test_a_size_that_is_not_the_announced_one(self, client, control):
        self.ends_in(405, client, control, self.open(client, PACKAGE, fileSize=7))

    def test_another_key(self, client, control):
        batch = self.open(client, PACKAGE, key=bytes(32))
        self.ends_in(435, client, control, batch)

    def test_a_key_that_is_none(self, client, control):
        order = client.session_order(bytes(32), bytes(16))
        order["encryption"]["encryptedSymmetricKey"] = base64_text(b"x" * 256)
        order["batchFile"] = batch_file(b"x" * 16)
        reference = client.post("/sessions/batch", json=order).json()["referenceNumber"]
        assert client.session(reference)["status"]["code"] == 415

    def open(self, client, archive, *, key=bytes(range(32)), **changes):
        """A batch whose parts are encrypted with `key`, announced with changes."""
        part = encrypt(archive, key, bytes(16))
        order = client.session_order(bytes(range(32)), bytes(16))
        whole = {"fileSize": len(archive), "fileHash": sha256(archive)}
        order["batchFile"] = batch_file(part) | whole | changes
        content = client.post("/sessions/batch", json=order).json()
        return BatchSession(
            client, content["referenceNumber"], [part], content["partUploadRequests"]
        )

    def ends_in(self, code, client, control, batch):
        reference = batch.send()
        control.advance(1)
        final = client.session(reference)
        assert (final["status"]["code"], final["invoiceCount"]) == (code, 0)
        assert final["status"]["details"]


class TestUploads:
    def test_the_link_is_the_permission(self, client, download):
        batch = client.open_batch(PACKAGE, cuts=2)
        first, second = (request["url"] for request in batch.requests)
        headers = batch.requests[0]["headers"]
        wrong = [
            (first.replace("sig=", "sig=0"), headers, 403),
            (first.partition("?")[0], headers, 403),
            (first.replace("/1?", "/2?"), headers, 403),
            (first, {}, 400),
            (first, headers | {"Authorization": f"Bearer {client.access_token}"}, 400),
        ]
        for url, sent, status in wrong:
            answer = client.http.put(url, data=batch.parts[0], headers=sent, timeout=10)
            assert answer.status_code == status
        assert download(first).status_code == 405
        assert codes(batch.close()) == [21205]
        assert batch.upload(0) == batch.upload(0) == 201
        assert codes(batch.close()) == [21205]
        assert batch.upload(1) == 201
        assert batch.close().status_code == 204
        assert first != second

    def test_a_part_of_another_size(self, client):
        batch = client.open_batch(PACKAGE)
        assert batch.upload(0, b"short") == 201
        assert codes(batch.close()) == [21157]
        assert batch.upload(0) == 201
        assert batch.close().status_code == 204

    def test_nothing_is_taken_after_the_closing(self, client):
        batch = client.open_batch(PACKAGE)
        batch.send()
        assert batch.upload(0) == 403
        assert codes(batch.close()) == [21180]

    def test_the_time_for_it_ends(self, client, control):
        control.settings(accessTokenSeconds=7200)
        client.log_in(control.add_token("test", NIP))
        batch = client.open_batch(PACKAGE, cuts=2)
        control.advance(39 * 60)
        assert batch.upload(0) == 201
        control.advance(61)
        assert batch.upload(1) == 403
        assert codes(batch.close()) == [21208]
        status = client.session(batch.reference)["status"]
        assert (status["code"], status["details"]) == (440, ["Przekroczono czas wysyłki"])


def batch_file(*parts):
    """Announces parts, and a whole that nobody looks at."""
    return {
        "fileSize": 1,
        "fileHash": sha256(b""),
        "fileParts": [
            {"ordinalNumber": i, "fileSize": len(part), "fileHash": sha256(part)}
            for i, part in enumerate(parts, 1)
        ],
    }


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"batchFile": None}, 21405),
        ({"batchFile": []}, 21405),
        ({"batchFile": batch_file()}, 21405),
        ({"batchFile": batch_file(b"x") | {"fileSize": 0}}, 21405),
        ({"batchFile": batch_file(b"x") | {"fileSize": 5_000_000_001}}, 21405),
        ({"batchFile": batch_file(b"x") | {"fileHash": "short"}}, 21405),
        ({"batchFile": batch_file(b"x") | {"compressionType": "Rar"}}, 21405),
        ({"batchFile": batch_file(b"x") | {"fileParts": [1]}}, 21405),
        ({"batchFile": batch_file(*[b"x"] * 51)}, 21161),
        (
            {
                "batchFile": batch_file(b"x")
                | {
                    "fileParts": [
                        {"ordinalNumber": 1, "fileSize": 200_000_000, "fileHash": sha256(b"")}
                    ]
                }
            },
            21157,
        ),
        (
            {
                "batchFile": batch_file(b"x")
                | {"fileParts": [{"ordinalNumber": 2, "fileSize": 1, "fileHash": sha256(b"")}]}
            },
            21405,
        ),
        (
            {"formCode": {"systemCode": "PEF (3)", "schemaVersion": "2-1", "value": "PEF"}},
            21405,
        ),
        ({"encryption": "x"}, 21405),
    ],
)
def test_packages_that_are_announced_wrongly(client, changes, code):
    order = client.session_order(bytes(32), bytes(16)) | {"batchFile": batch_file(b"x")}
    assert codes(client.post("/sessions/batch", json=order | changes)) == [code]


def test_sessions_of_others_and_of_the_other_kind(client, make_client, control):
    batch = client.open_batch(PACKAGE)
    stranger = make_client(nip=OTHER_NIP).log_in(control.add_token("test", OTHER_NIP))
    close = f"/sessions/batch/{batch.reference}/close"
    assert codes(stranger.post(close)) == [21173]
    assert codes(client.post(f"/sessions/online/{batch.reference}/close")) == [21180]
    online = client.open_session()
    assert codes(client.post(f"/sessions/batch/{online.reference}/close")) == [21180]
    seeded = control.seed_session("test", NIP, kind="batch", state="moving")
    assert codes(client.post(f"/sessions/batch/{seeded.reference_number}/close")) == [21180]
