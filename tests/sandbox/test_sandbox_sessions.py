"""What became of a session: seeded sessions, states over time, listings, paging, ownership."""

import base64
import re
import time
from datetime import timedelta

import pytest

from sandbox.clock import parse_stamp
from sandbox.control import ControlError
from tests.sandbox.ksef_client import NIP, OTHER_NIP

UNKNOWN = "20260101-SO-0000000000-0000000000-00"
DEMO = {
    "reference_number": "20260115-SB-1111111111-2222222222-33",
    "date_created": "2026-01-15T12:00:00Z",
}


def codes(answer):
    assert answer.status_code == 400
    return [error["code"] for error in answer.json()["errors"]]


def test_a_finished_session_has_everything(client, control):
    seeded = control.seed_session("test", NIP, kind="batch", invoices=3)

    session = client.session(seeded.reference_number)
    assert session["status"] == {"code": 200, "description": "Sesja wsadowa przetworzona pomyślnie"}
    assert [
        session[name] for name in ("invoiceCount", "successfulInvoiceCount", "failedInvoiceCount")
    ] == [3, 3, 0]
    assert [page["referenceNumber"] for page in session["upo"]["pages"]] == seeded.upo_pages
    [invoices] = client.pages(seeded.reference_number)
    assert [invoice["ksefNumber"] for invoice in invoices] == seeded.ksef_numbers
    assert [invoice["ordinalNumber"] for invoice in invoices] == [1, 2, 3]
    assert session["dateCreated"] < invoices[0]["acquisitionDate"] < session["dateUpdated"]


def test_ten_thousand_invoices_are_seeded_and_listed_in_ten_pages(client, control):
    began = time.perf_counter()
    seeded = control.seed_session("test", NIP, kind="batch", invoices=10_000)
    took = time.perf_counter() - began

    pages = client.pages(seeded.reference_number)
    assert [len(page) for page in pages] == [1000] * 10
    numbers = [invoice["ksefNumber"] for page in pages for invoice in page]
    assert numbers == seeded.ksef_numbers
    assert len(set(numbers)) == 10_000
    assert took < 5


def test_a_session_holds_at_most_ten_thousand(control):
    with pytest.raises(ControlError, match="10000"):
        control.seed_session("test", NIP, invoices=10_001)


def test_the_same_order_makes_the_same_session_after_each_start(control):
    invoices = [{}, {"status": 440}, {"status": 430}, {"status": 150}]
    first = control.seed_session(
        "test", NIP, kind="batch", state="moving", invoices=invoices, **DEMO
    )
    control.reset()

    assert (
        control.seed_session("test", NIP, kind="batch", state="moving", invoices=invoices, **DEMO)
        == first
    )
    assert (
        control.seed_session(
            "demo", NIP, kind="batch", state="moving", invoices=invoices, **DEMO
        ).ksef_numbers
        == first.ksef_numbers
    )
    with pytest.raises(ControlError, match="exists already"):
        control.seed_session("test", NIP, **DEMO)


def test_invoices_of_every_kind_can_be_ordered(client, control):
    original = {
        "originalKsefNumber": "5265877635-20250826-0100001AF629-AF",
        "originalSessionReferenceNumber": UNKNOWN,
    }
    seeded = control.seed_session(
        "test",
        NIP,
        state="moving",
        invoices=[
            {
                "invoiceNumber": "FV/1",
                "ksefNumber": "5265877635-20250826-0100001AF629-AF",
                "offline": True,
                "invoiceHash": "gRvzW8nHkQyRiyBSc4Sd7Dz6Z1hXBqv0XWkqbXW5rNk=",
            },
            {"status": 440, "invoiceNumber": "FV/2", **original},
            {"status": 440},
            {"status": 450, "details": ["Brak pola P_1"]},
            {"status": 100},
            {"status": 150},
            {"status": 435},
        ],
    )

    [invoices] = client.pages(seeded.reference_number)
    assert [invoice["status"]["code"] for invoice in invoices] == [
        200,
        440,
        440,
        450,
        100,
        150,
        435,
    ]
    assert invoices[0]["ksefNumber"] == "5265877635-20250826-0100001AF629-AF"
    assert invoices[0]["invoicingMode"] == "Offline"
    assert invoices[1]["status"]["extensions"] == original
    assert re.fullmatch(
        r"5265877635-\d{8}-[0-9A-F]{12}-[0-9A-F]{2}",
        invoices[2]["status"]["extensions"]["originalKsefNumber"],
    )
    assert invoices[3]["status"]["details"] == ["Brak pola P_1"]
    assert [invoice["ksefNumber"] for invoice in invoices[1:]] == [None] * 6
    assert [invoice["invoiceNumber"] for invoice in invoices] == ["FV/1"] + [None] * 6
    hashes = [invoice["invoiceHash"] for invoice in invoices]
    assert hashes[0] == "gRvzW8nHkQyRiyBSc4Sd7Dz6Z1hXBqv0XWkqbXW5rNk="
    assert len({*hashes}) == 7
    assert hashes == [invoice.invoice_hash for invoice in seeded.invoices]
    session = client.session(seeded.reference_number)
    assert (session["status"]["code"], session["invoiceCount"]) == (170, 7)
    assert (session["successfulInvoiceCount"], session["failedInvoiceCount"]) == (1, 4)

    failed = client.get(f"/sessions/{seeded.reference_number}/invoices/failed").json()
    assert [invoice["ordinalNumber"] for invoice in failed["invoices"]] == [2, 3, 4, 7]


@pytest.mark.parametrize("kind", ["online", "batch"])
def test_what_a_seeded_invoice_says_of_its_file_and_its_sending(client, control, kind):
    order = {"kind": kind, "invoices": [{}, {"offline": True}, {"status": 450}]}
    seeded = control.seed_session("test", NIP, **order)

    [invoices] = client.pages(seeded.reference_number)
    hashes = [invoice["invoiceHash"] for invoice in invoices]
    assert [len(base64.b64decode(text, validate=True)) for text in hashes] == [32] * 3
    assert len(set(hashes)) == 3
    again = [invoice["invoiceHash"] for invoice in client.pages(seeded.reference_number)[0]]
    assert again == hashes
    names = [invoice["invoiceFileName"] for invoice in invoices]
    expected = [None] * 3
    if kind == "batch":
        expected = [f"faktura_0000{number}.xml" for number in (1, 2, 3)]
    assert names == expected
    assert [invoice["invoicingMode"] for invoice in invoices] == ["Online", "Offline", "Online"]
    for invoice in invoices:
        created = parse_stamp(client.session(seeded.reference_number)["dateCreated"])
        assert parse_stamp(invoice["invoicingDate"]) >= created


def test_an_open_online_session_says_until_when(client, control):
    control.freeze()
    session = client.open_session()
    until = parse_stamp(client.session(session.reference)["validUntil"])
    assert until - parse_stamp(control.now()) == timedelta(hours=12)
    [listed] = client.get("/sessions?sessionType=Online").json()["sessions"]
    assert parse_stamp(listed["validUntil"]) == until


def test_a_batch_moves_from_100_over_150_to_200(client, control):
    control.freeze()
    seeded = control.seed_session(
        "test",
        NIP,
        kind="batch",
        state="moving",
        invoices=[{"status": 150}, {"status": 100}],
        finishes_after=30,
    )

    seen = []
    for seconds in (0, 2, 27, 1):
        control.advance(seconds)
        seen.append(client.session(seeded.reference_number)["status"]["code"])
    assert seen == [100, 150, 150, 200]
    [invoices] = client.pages(seeded.reference_number)
    assert [invoice["ksefNumber"] for invoice in invoices] == [
        invoice.ksef_number for invoice in seeded.invoices
    ]


def test_a_moving_session_grows_and_finishes_on_demand(client, control):
    reference = control.seed_session("test", NIP, state="open", invoices=1).reference_number
    [added] = control.add_invoices("test", reference, [{"status": 100}])
    assert client.session(reference)["status"]["code"] == 100
    assert client.session(reference)["invoiceCount"] == 2

    changed = control.change_invoice("test", reference, 2, status=150)
    assert (changed.status, changed.reference_number) == (150, added.reference_number)
    control.change_session("test", reference, state="moving")
    assert client.session(reference)["status"]["code"] == 170
    control.advance(86400 * 30)
    control.settings(accessTokenSeconds=3600)
    client.log_in(control.add_token("test", NIP))
    assert client.session(reference)["status"]["code"] == 170

    done = control.change_invoice(
        "test", reference, added.reference_number, status=450, details=["Nie"]
    )
    assert (done.status, done.ksef_number) == (450, None)
    assert client.session(reference)["status"]["code"] == 170
    finished = control.change_session("test", reference, state="finished")
    assert finished.status == 200
    assert client.session(reference)["failedInvoiceCount"] == 1
    [page] = client.pages(reference)
    assert page[1]["status"]["details"] == ["Nie"]


def test_finishing_a_session_gives_every_moving_invoice_its_outcome(client, control):
    seeded = control.seed_session(
        "test",
        NIP,
        kind="batch",
        state="moving",
        invoices=[
            {"status": 100},
            {"status": 150, "outcome": 430},
            {"status": 150, "outcome": 440},
        ],
    )
    control.change_session("test", seeded.reference_number, state="finished")

    [invoices] = client.pages(seeded.reference_number)
    assert [invoice["status"]["code"] for invoice in invoices] == [200, 430, 440]
    assert invoices[0]["ksefNumber"] == seeded.invoices[0].ksef_number
    assert "originalKsefNumber" in invoices[2]["status"]["extensions"]


@pytest.mark.parametrize("code", [405, 415, 420, 430, 435, 440, 445, 500])
def test_sessions_can_fail_with_every_code(client, control, code):
    seeded = control.seed_session(
        "test", NIP, kind="batch", state="failed", code=code, details=["dlaczego"]
    )

    status = client.session(seeded.reference_number)["status"]
    assert (status["code"], status["details"]) == (code, ["dlaczego"])


def test_a_session_of_nothing_but_rejected_invoices_is_445(client, control):
    seeded = control.seed_session("test", NIP, invoices=[{"status": 440}, {"status": 450}])

    assert client.session(seeded.reference_number)["status"]["code"] == 445


def test_sessions_belong_to_their_company_and_environment(client, make_client, control):
    seeded = control.seed_session("test", NIP)
    reference, number = seeded.reference_number, seeded.ksef_numbers[0]
    invoice = seeded.invoices[0].reference_number
    strangers = [
        make_client(nip=OTHER_NIP).log_in(control.add_token("test", OTHER_NIP)),
        make_client("demo").log_in(control.add_token("demo", NIP)),
    ]
    for stranger in strangers:
        assert codes(stranger.get(f"/sessions/{reference}")) == [21173]
        assert codes(stranger.get(f"/sessions/{reference}/invoices")) == [21173]
        assert codes(stranger.get(f"/sessions/{reference}/invoices/failed")) == [21173]
        assert codes(stranger.get(f"/sessions/{reference}/invoices/{invoice}")) == [21405]
        assert codes(stranger.get(f"/sessions/{reference}/invoices/ksef/{number}/upo")) == [21178]
        assert codes(stranger.get(f"/sessions/{reference}/invoices/{invoice}/upo")) == [21178]
        assert codes(stranger.get(f"/sessions/{reference}/upo/{seeded.upo_pages[0]}")) == [21173]
        assert stranger.get("/sessions?sessionType=Online").json()["sessions"] == []
    assert client.get(f"/sessions/{reference}").status_code == 200


def test_what_does_not_exist_is_a_400_with_a_code(client, control):
    reference = control.seed_session(
        "test", NIP, invoices=[{"status": 150}], state="moving"
    ).reference_number
    number = "5265877635-20250826-0100001AF629-AF"

    assert codes(client.get(f"/sessions/{UNKNOWN}")) == [21173]
    assert codes(client.get("/sessions/short")) == [21405]
    assert codes(client.get(f"/sessions/{reference}/invoices/{UNKNOWN}")) == [21405]
    assert codes(client.get(f"/sessions/{reference}/invoices/ksef/{number}/upo")) == [21178]
    assert codes(client.get(f"/sessions/{reference}/invoices/ksef/nonsense/upo")) == [21405]
    assert codes(client.get(f"/sessions/{reference}/invoices/{UNKNOWN}/upo")) == [21178]
    assert codes(client.get(f"/sessions/{reference}/upo/{UNKNOWN}")) == [21178]


def test_the_old_error_format_comes_without_the_header(client):
    client.problem_details = False
    answer = client.get(f"/sessions/{UNKNOWN}")

    assert answer.status_code == 400
    assert answer.headers["Content-Type"].startswith("application/json")
    [detail] = answer.json()["exception"]["exceptionDetailList"]
    assert detail["exceptionCode"] == 21173
    assert UNKNOWN in detail["details"][0]


def test_pages_follow_the_page_size(client, control):
    reference = control.seed_session("test", NIP, invoices=25).reference_number

    def sizes(page_size):
        return [len(page) for page in client.pages(reference, page_size=page_size)]

    assert sizes(10) == [10, 10, 5]
    assert sizes(25) == [25]
    assert len(client.get(f"/sessions/{reference}/invoices").json()["invoices"]) == 10
    ordinals = [i["ordinalNumber"] for page in client.pages(reference, page_size=10) for i in page]
    assert ordinals == list(range(1, 26))


@pytest.mark.parametrize("size", ["9", "1001", "0", "-10", "ten", "10.0", "", "٣٠", "100000000"])
def test_page_sizes_outside_10_to_1000_are_refused(client, control, size):
    reference = control.seed_session("test", NIP).reference_number

    assert codes(client.get(f"/sessions/{reference}/invoices?pageSize={size}")) == [21405]
    assert codes(client.get(f"/sessions?sessionType=Online&pageSize={size}")) == [21405]


def test_tokens_that_do_not_belong_to_the_listing_are_refused(client, control):
    reference = control.seed_session("test", NIP, invoices=20).reference_number
    other = control.seed_session("test", NIP, invoices=20).reference_number
    token = client.get(f"/sessions/{other}/invoices").json()["continuationToken"]

    for wrong in ("nonsense", "AAAA", "W10=", "bnVsbA==", token, "é".encode().decode("latin-1")):
        answer = client.get(
            f"/sessions/{reference}/invoices", headers={"x-continuation-token": wrong}
        )
        assert codes(answer) == [21418]


def test_links_are_new_on_each_answer(client, control):
    seeded = control.seed_session("test", NIP)
    path = f"/sessions/{seeded.reference_number}/invoices/{seeded.invoices[0].reference_number}"
    links = {client.get(path).json()["upoDownloadUrl"] for _ in range(3)}
    pages = {
        client.session(seeded.reference_number)["upo"]["pages"][0]["downloadUrl"] for _ in range(3)
    }

    assert (len(links), len(pages)) == (3, 3)


def test_the_list_of_sessions_can_be_filtered_and_paged(client, control):
    control.freeze()
    finished = control.seed_session("test", NIP, kind="batch", date_created="2026-02-01T10:00:00Z")
    moving = control.seed_session(
        "test", NIP, kind="batch", state="moving", date_created="2026-03-01T10:00:00Z"
    )
    failed = control.seed_session(
        "test", NIP, kind="batch", state="failed", date_created="2026-04-01T10:00:00Z"
    )
    online = control.seed_session("test", NIP, date_created="2026-05-01T10:00:00Z")

    def listed(query):
        answer = client.get(f"/sessions?{query}")
        assert answer.status_code == 200, answer.text
        return [session["referenceNumber"] for session in answer.json()["sessions"]]

    everything = [failed, moving, finished]
    assert listed("sessionType=Batch") == [session.reference_number for session in everything]
    assert listed("sessionType=Online") == [online.reference_number]
    assert listed("sessionType=Batch&statuses=Succeeded&statuses=Failed") == [
        failed.reference_number,
        finished.reference_number,
    ]
    assert listed("sessionType=Batch&statuses=InProgress") == [moving.reference_number]
    assert listed(
        "sessionType=Batch&dateCreatedFrom=2026-03-01T11:00:00%2B01:00&dateCreatedTo=2026-03-31T00:00:00Z"
    ) == [moving.reference_number]
    assert listed("sessionType=Online&dateClosedFrom=2026-05-01T10:00:00Z") == [
        online.reference_number
    ]
    assert listed("sessionType=Online&dateClosedFrom=2026-06-01T10:00:00Z") == []
    assert listed("sessionType=Batch&dateModifiedTo=2026-02-02T00:00:00Z") == [
        finished.reference_number
    ]
    assert listed(f"sessionType=Batch&referenceNumber={moving.reference_number}") == [
        moving.reference_number
    ]
    assert codes(client.get("/sessions")) == [21405]
    assert codes(client.get("/sessions?sessionType=Batch&statuses=Lost")) == [21405]
    for moment in ("soon", "2026-03-01", "20260301T100000Z", "2026-W09-1"):
        query = f"/sessions?sessionType=Batch&dateCreatedFrom={moment}"
        assert codes(client.get(query)) == [21405]

    for _ in range(11):
        control.seed_session("test", NIP)
    first = client.get("/sessions?sessionType=Online").json()
    second = client.get(
        "/sessions?sessionType=Online", headers={"x-continuation-token": first["continuationToken"]}
    ).json()
    assert (len(first["sessions"]), len(second["sessions"])) == (10, 2)
    assert second["continuationToken"] is None
