"""The sender's way: an online session opened, invoices encrypted and sent, closed, receipts."""

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from lxml import etree

from sandbox.clock import parse_stamp
from tests.sandbox.ksef_client import NIP, OTHER_NIP, base64_text, invoice_xml, sha256


def codes(answer):
    assert answer.status_code == 400
    return [error["code"] for error in answer.json()["errors"]]


def test_an_online_session_from_opening_to_its_receipts(client, control):
    control.freeze()
    session = client.open_session()
    first = session.send(invoice_xml("FV/1"))
    second = session.send(
        invoice_xml("FV/2 zażółć & <ok>".replace("&", "&amp;").replace("<", "&lt;"))
    )

    assert client.session(session.reference)["status"]["code"] == 100
    assert session.invoice(first)["status"]["code"] == 100
    assert session.invoice(first)["ksefNumber"] is None
    assert session.invoice(first)["invoiceNumber"] is None
    control.advance(0.5)
    assert session.invoice(first)["status"]["code"] == 150
    control.advance(0.5)
    accepted = session.invoice(first)
    assert (accepted["status"]["code"], accepted["invoiceNumber"]) == (200, "FV/1")
    assert accepted["ordinalNumber"] == 1
    assert accepted["invoiceHash"] == sha256(invoice_xml("FV/1"))
    assert accepted["permanentStorageDate"] is None
    assert session.invoice(second)["invoiceNumber"] == "FV/2 zażółć & <ok>"

    # The receipt of an invoice comes before the session is closed, the collective one after.
    upo = client.get(f"/sessions/{session.reference}/invoices/{first}/upo")
    assert upo.status_code == 200
    assert "upo" not in client.session(session.reference)

    assert session.close().status_code == 204
    assert client.session(session.reference)["status"]["code"] == 170
    control.advance(1)
    final = client.session(session.reference)
    assert final["status"]["code"] == 200
    assert (final["invoiceCount"], final["successfulInvoiceCount"]) == (2, 2)
    assert final["dateUpdated"] == control.now()
    page = client.get(
        f"/sessions/{session.reference}/upo/{final['upo']['pages'][0]['referenceNumber']}"
    )
    numbers = etree.fromstring(page.content).xpath("//*[local-name()='NumerFaktury']/text()")
    assert numbers == ["FV/1", "FV/2 zażółć & <ok>"]

    control.advance(1)
    assert session.invoice(first)["permanentStorageDate"] is not None


def test_the_second_invoice_of_the_same_number_is_a_duplicate(client, control):
    first = client.open_session()
    original = first.send(invoice_xml("FV/7"))
    second = client.open_session()
    twin = second.send(invoice_xml("FV/7"))
    control.advance(1)

    accepted = first.invoice(original)
    duplicate = second.invoice(twin)
    assert accepted["status"]["code"] == 200
    assert duplicate["status"]["code"] == 440
    assert duplicate["ksefNumber"] is None
    assert duplicate["upoDownloadUrl"] is None
    assert (accepted["invoiceNumber"], duplicate["invoiceNumber"]) == ("FV/7", None)
    assert duplicate["invoiceHash"] == accepted["invoiceHash"] == sha256(invoice_xml("FV/7"))
    assert duplicate["status"]["extensions"] == {
        "originalKsefNumber": accepted["ksefNumber"],
        "originalSessionReferenceNumber": first.reference,
    }
    assert codes(client.get(f"/sessions/{second.reference}/invoices/{twin}/upo")) == [21178]

    second.close()
    control.advance(1)
    assert client.session(second.reference)["status"]["code"] == 445


def test_a_number_is_taken_per_seller_and_environment(client, make_client, control):
    client.open_session().send(invoice_xml("FV/7"))
    elsewhere = make_client("demo").log_in(control.add_token("demo", NIP)).open_session()
    other = make_client(nip=OTHER_NIP).log_in(control.add_token("test", OTHER_NIP)).open_session()
    in_demo = elsewhere.send(invoice_xml("FV/7"))
    of_other_seller = other.send(invoice_xml("FV/7", seller=OTHER_NIP, buyer=NIP))
    control.advance(1)

    assert elsewhere.invoice(in_demo)["status"]["code"] == 200
    assert other.invoice(of_other_seller)["status"]["code"] == 200


def test_a_seeded_invoice_makes_duplicates_too(client, control):
    seeded = control.seed_session("test", NIP, invoices=[{"invoiceNumber": "FV/2025/1"}])
    session = client.open_session()
    twin = session.send(invoice_xml("FV/2025/1"))
    control.advance(1)

    extensions = session.invoice(twin)["status"]["extensions"]
    assert extensions["originalKsefNumber"] == seeded.ksef_numbers[0]
    assert extensions["originalSessionReferenceNumber"] == seeded.reference_number


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"this is no XML", 450),
        (b"<Faktura/>", 450),
        (b'<!DOCTYPE Faktura [<!ENTITY e "1">]>' + invoice_xml("&e;").partition(b"?>")[2], 450),
        (invoice_xml("FV/1").replace(b"2026-11-20", b"yesterday"), 450),
        (invoice_xml("FV/1", seller="0000000000"), 450),
        (invoice_xml("FV/1", seller=OTHER_NIP, buyer="5260250274"), 410),
    ],
)
def test_what_is_no_invoice_of_the_company_is_rejected(client, control, content, code):
    session = client.open_session()
    reference = session.send(content)
    control.advance(1)

    invoice = session.invoice(reference)
    assert invoice["status"]["code"] == code
    assert invoice["status"]["details"]
    assert (invoice["ksefNumber"], invoice["invoiceNumber"]) == (None, None)
    assert (invoice["invoiceHash"], invoice["invoiceFileName"]) == (sha256(content), None)
    assert (invoice["invoicingMode"], invoice["invoicingDate"] is None) == ("Online", False)


def test_self_billed_invoices_are_the_buyers_to_send(client, control):
    session = client.open_session()
    reference = session.send(invoice_xml("SB/1", seller=OTHER_NIP, buyer=NIP))
    control.advance(1)

    invoice = session.invoice(reference)
    assert invoice["ksefNumber"].startswith(OTHER_NIP)
    upo = etree.fromstring(
        client.get(f"/sessions/{session.reference}/invoices/{reference}/upo").content
    )
    assert upo.xpath("string(//*[local-name()='IdKontekstu']/*)") == NIP
    assert upo.xpath("string(//*[local-name()='NipSprzedawcy'])") == OTHER_NIP


def test_another_key_than_the_sessions_is_noticed(client, control):
    session = client.open_session()
    session.key = os.urandom(32)
    reference = session.send(invoice_xml("FV/1"))
    control.advance(1)

    # One wrong key in 256 leaves a padding that looks right, and then unreadable content.
    assert session.invoice(reference)["status"]["code"] in (430, 435)


def test_hash_and_size_of_the_plain_invoice_are_checked(client, control):
    session = client.open_session()
    wrong_hash = session.send(invoice_xml("FV/1"), invoiceHash=sha256(b"other"))
    wrong_size = session.send(invoice_xml("FV/2"), invoiceSize=5)
    control.advance(1)

    assert session.invoice(wrong_hash)["status"]["code"] == 430
    assert session.invoice(wrong_size)["status"]["code"] == 430


def test_hash_and_size_of_the_encrypted_invoice_are_checked_at_once(client):
    session = client.open_session()

    wrong = session.post(invoice_xml("FV/1"), encryptedInvoiceHash=sha256(b"other"))
    assert codes(wrong) == [21403]
    assert codes(session.post(invoice_xml("FV/1"), encryptedInvoiceSize=1)) == [21402]
    assert codes(session.post(invoice_xml("FV/1"), invoiceHash=None)) == [21405]
    assert client.session(session.reference)["invoiceCount"] == 0


def test_offline_invoices_are_marked(client, control):
    session = client.open_session()
    reference = session.send(invoice_xml("FV/1"), offlineMode=True)
    control.advance(1)

    assert session.invoice(reference)["invoicingMode"] == "Offline"
    upo = client.get(f"/sessions/{session.reference}/invoices/{reference}/upo")
    assert "<TrybWysylki>Offline</TrybWysylki>" in upo.text


def _day(control, shift=0):
    """A day by Poland's clock, so many days from the sandbox's present one."""
    present = parse_stamp(control.now()).astimezone(ZoneInfo("Europe/Warsaw"))
    return (present + timedelta(days=shift)).date().isoformat()


@pytest.mark.parametrize(("shift", "mode"), [(0, "Online"), (-1, "Offline")])
def test_what_is_sent_after_its_day_of_issue_is_an_offline_invoice(client, control, shift, mode):
    session = client.open_session()
    reference = session.send(invoice_xml("FV/1", issued=_day(control, shift)))
    control.advance(1)

    invoice = session.invoice(reference)
    assert invoice["invoicingMode"] == mode
    upo = client.get(f"/sessions/{session.reference}/invoices/{reference}/upo").text
    assert f"<TrybWysylki>{mode}</TrybWysylki>" in upo


def test_an_invoice_of_tomorrow_is_rejected(client, control):
    session = client.open_session()
    reference = session.send(invoice_xml("FV/1", issued=_day(control, 1)))
    control.advance(1)

    status = session.invoice(reference)["status"]
    assert (status["code"], len(status["details"])) == (450, 1)


def test_a_number_is_taken_for_each_kind_of_invoice(client, control):
    session = client.open_session()
    kinds = ("VAT", "KOR", "KOR", "VAT")
    references = [session.send(invoice_xml("1/2026", kind=kind)) for kind in kinds]
    control.advance(1)

    codes_ = [session.invoice(reference)["status"]["code"] for reference in references]
    assert codes_ == [200, 200, 440, 440]


def test_a_technical_correction_takes_the_place_of_a_rejected_offline_invoice(client, control):
    session = client.open_session()
    rejected = session.order(b"<Faktura/>", offlineMode=True)["invoiceHash"]
    session.send(b"<Faktura/>", offlineMode=True)
    control.advance(1)
    mended = {"offlineMode": True, "hashOfCorrectedInvoice": rejected}
    still_wrong = session.send(b"<Faktura></Faktura>", **mended)
    control.advance(1)
    accepted = session.send(invoice_xml("FV/1"), **mended)
    control.advance(1)

    outcomes = [session.invoice(one)["status"]["code"] for one in (still_wrong, accepted)]
    assert outcomes == [450, 200]
    assert codes(session.post(invoice_xml("FV/2"), **mended)) == [21166]
    of_accepted = mended | {"hashOfCorrectedInvoice": sha256(invoice_xml("FV/1"))}
    assert codes(session.post(invoice_xml("FV/2"), **of_accepted)) == [21167]
    online = {"hashOfCorrectedInvoice": rejected}
    assert codes(session.post(invoice_xml("FV/2"), **online)) == [21405]
    other = client.open_session()
    assert codes(other.post(invoice_xml("FV/2"), **mended)) == [21166]


def test_nothing_can_be_sent_after_closing(client):
    session = client.open_session()
    session.send(invoice_xml("FV/1"))
    session.close()

    assert codes(session.post(invoice_xml("FV/2"))) == [21180]
    assert codes(session.close()) == [21180]


def test_a_session_is_not_over_before_its_last_invoice_is(client, control):
    control.freeze()
    control.settings(invoiceSeconds=10.0, sessionSeconds=1.0)
    session = client.open_session()
    session.send(invoice_xml("FV/1"))
    session.close()

    control.advance(9)
    assert client.session(session.reference)["status"]["code"] == 170
    control.advance(1)
    final = client.session(session.reference)
    assert (final["status"]["code"], final["dateUpdated"]) == (200, control.now())


def test_an_empty_session_is_cancelled(client, control):
    session = client.open_session()
    session.close()
    control.advance(1)

    status = client.session(session.reference)["status"]
    assert (status["code"], status["details"]) == (440, ["Nie przesłano faktur"])


def test_an_open_session_closes_by_itself_after_twelve_hours(client, control):
    session = client.open_session()
    reference = session.send(invoice_xml("FV/1"))
    control.settings(accessTokenSeconds=86400)
    client.access_token = client.post("/auth/token/refresh", bearer=client.refresh_token).json()[
        "accessToken"
    ]["token"]

    control.advance(12 * 3600 - 5)
    told = client.session(session.reference)
    assert told["status"]["code"] == 100
    left = datetime.fromisoformat(told["validUntil"]) - datetime.fromisoformat(control.now())
    assert 0 < left.total_seconds() <= 5
    assert session.invoice(reference)["status"]["code"] == 200
    control.advance(10)
    assert client.session(session.reference)["status"]["code"] == 200


def test_a_session_key_that_cannot_be_read_fails_the_session(client):
    order = client.session_order(os.urandom(32), os.urandom(16))
    order["encryption"]["encryptedSymmetricKey"] = base64_text(b"x" * 256)
    reference = client.post("/sessions/online", json=order).json()["referenceNumber"]

    assert client.session(reference)["status"]["code"] == 415


@pytest.mark.parametrize(
    ("part", "changes", "code"),
    [
        ("formCode", {"systemCode": "FA (9)"}, 21405),
        ("encryption", {"initializationVector": base64_text(b"short")}, 21405),
        ("encryption", {"publicKeyId": base64_text(b"k" * 32)}, 21470),
        ("encryption", {"encryptedSymmetricKey": "?"}, 21405),
    ],
)
def test_malformed_openings_are_refused(client, part, changes, code):
    order = client.session_order(os.urandom(32), os.urandom(16))
    order[part] |= changes

    assert codes(client.post("/sessions/online", json=order)) == [code]


def test_a_foreign_session_can_be_neither_used_nor_closed(client, make_client, control):
    session = client.open_session()
    session.client = make_client(nip=OTHER_NIP).log_in(control.add_token("test", OTHER_NIP))

    assert codes(session.post(invoice_xml("FV/1"))) == [21173]
    assert codes(session.close()) == [21173]
    assert client.session(session.reference)["status"]["code"] == 100


def test_invoices_sent_at_the_same_time_get_their_own_places(make_client, control):
    token = control.add_token("test", NIP)
    sessions = [make_client().log_in(token).open_session() for _ in range(4)]
    shared = sessions[0]
    for session in sessions:
        session.reference, session.key, session.vector = shared.reference, shared.key, shared.vector

    def send(number):
        # Every number is sent twice: by two clients, at about the same time.
        return sessions[number % 4].send(invoice_xml(f"FV/{number // 2}"))

    with ThreadPoolExecutor(4) as senders:
        references = list(senders.map(send, range(40)))
    control.advance(1)

    [invoices] = shared.client.pages(shared.reference)
    assert [invoice["ordinalNumber"] for invoice in invoices] == list(range(1, 41))
    assert {invoice["referenceNumber"] for invoice in invoices} == set(references)
    accepted = [i["invoiceNumber"] for i in invoices if i["status"]["code"] == 200]
    assert sorted(accepted) == sorted(f"FV/{number}" for number in range(20))
    assert len({i["ksefNumber"] for i in invoices}) == 21
