"""What an ERP goes through, over real sockets: gunicorn, the sandbox KSeF, PostgreSQL."""

import base64
import hashlib
import io
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pypdf
import pytest
import requests
from lxml import etree

from app.ksef.certificates import Certificate
from app.service import Service
from app.services.login import credentials
from app.services.operators import users
from tests.certificates import make
from tests.rows import add_offline, add_synced, offline_sessions, stored, synced_sessions
from tests.sandbox.ksef_client import Client, invoice_xml, login_document, zipped
from tests.service import PASSWORD, Company, basic

NIP, OTHER_NIP = "5265877635", "7812019453"
NUMBER = "5265877635-20250826-0100001AF629-AF"
UNKNOWN = "20260101-SO-0123456789-0123456789-01"


class Erp:
    """A company's ERP: asks the service, and sends its invoices to KSeF itself."""

    def __init__(
        self, url: str, http: requests.Session, company: Company, sandbox: Any, control: Any
    ) -> None:
        self._url = url
        self._http = http
        self.company = company
        self._sandbox = sandbox
        self._control = control

    def request(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        headers = {**self.company.authorization, **kwargs.pop("headers", {})}
        return self._http.request(method, self._url + path, headers=headers, timeout=30, **kwargs)

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        return self.request("GET", path, **kwargs)

    def status(self, reference: str, environment: str = "test") -> Any:
        response = self.get(f"/invoices/{environment}/status/{reference}")
        assert response.status_code == 200, response.text
        return response.json()

    def upo(self, reference: str, number: str, doc_type: str) -> bytes:
        response = self.get(f"/invoices/test/status/{reference}/{number}/upo?docType={doc_type}")
        assert response.status_code == 200, response.text
        assert response.json()["contentType"] == f"application/{doc_type}"
        return base64.b64decode(response.json()["content"], validate=True)

    def refused(self, path: str, status: int, code: str, method: str = "GET") -> None:
        response = self.request(method, path)
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert response.headers["Content-Type"] == "application/problem+json"

    def sender(self) -> Client:
        """The ERP's own way to KSeF."""
        nip = self.company.nip
        client = Client(f"{self._sandbox.url}/test/v2", nip, http=self._http)
        return client.log_in(self._control.add_token("test", nip))


@pytest.fixture
def make_erp(
    server: Any,
    http: requests.Session,
    sandbox: Any,
    control: Any,
    make_company: Callable[..., Company],
) -> Callable[..., Erp]:
    """Makes a company that has a KSeF token for test, and logs it in through the service."""

    def make(nip: str, *, logged_in: bool = True, role: str = "admin") -> Erp:
        company = make_company(nip, logged_in=False, role=role)
        credentials.store_token(company.account(), control.add_token("test", nip))
        erp = Erp(server.url, http, company, sandbox, control)
        if logged_in:
            assert erp.request("POST", "/auth/test").status_code == 200
        return erp

    return make


@pytest.fixture
def erp(make_erp: Callable[..., Erp]) -> Erp:
    return make_erp(NIP)


# -- the main job ---------------------------------------------------------------------------


def test_online_session_from_the_first_invoice_to_the_receipt(
    erp: Erp, database: Any, control: Any
) -> None:
    account = erp.company.account()
    sender = erp.sender()

    earlier = sender.open_session()
    earlier.send(invoice_xml("FV/1"))
    earlier.close()
    control.advance(10)
    [original] = erp.status(earlier.reference)["invoices"]

    online = sender.open_session()
    references = [
        online.send(invoice_xml("FV/2 żółw")),
        online.send(invoice_xml("FV/1")),  # once more
        online.send(invoice_xml("FV/3", seller=OTHER_NIP, buyer="9542719034")),  # not ours
        online.send(b"no invoice"),
    ]
    add_synced(database, account, [original["ksefNumber"]])
    add_offline(database, account, [references[0], references[3], online.reference])

    moving = erp.status(online.reference)
    assert moving["status"]["code"] == 100
    assert moving["final"] is False
    assert moving["nextCheckAfter"] >= 1
    assert moving["totalInvoiceCount"] == 4
    assert [invoice["referenceNumber"] for invoice in moving["invoices"]] == references

    online.close()
    closed = erp.status(online.reference)
    assert closed["status"]["code"] == 170
    control.advance(10)

    final = erp.status(online.reference)
    assert final["status"]["code"] == 200
    assert final["final"] is True
    assert (final["successfulInvoiceCount"], final["failedInvoiceCount"]) == (1, 3)
    accepted, duplicate, foreign, unreadable = final["invoices"]
    assert [i["status"]["code"] for i in final["invoices"]] == [200, 440, 410, 450]
    assert accepted["invoiceNumber"] == "FV/2 żółw"
    assert duplicate["duplicateOf"] == {
        "ksefNumber": original["ksefNumber"],
        "referenceNumber": earlier.reference,
    }
    assert foreign["status"]["details"]
    assert unreadable["ksefNumber"] is None

    assert synced_sessions(database, account) == {original["ksefNumber"]: earlier.reference}
    assert offline_sessions(database, account) == [
        (references[0], online.reference),
        (references[3], online.reference),
        (online.reference, online.reference),
    ]

    number = accepted["ksefNumber"]
    xml = erp.upo(online.reference, number, "xml")
    direct = sender.get(f"/sessions/{online.reference}/invoices/ksef/{number}/upo")
    assert xml == direct.content
    pdf = erp.upo(online.reference, number, "pdf")
    assert_pdf_holds(pdf, xml)


def assert_pdf_holds(pdf: bytes, xml: bytes) -> None:
    """Every value of the receipt stands in the text of the PDF, whatever lines it is cut into."""
    text = "".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(pdf)).pages)
    drawn = "".join(text.split())
    root = etree.fromstring(xml)
    signature = "{http://www.w3.org/2000/09/xmldsig#}Signature"
    values = [
        element.text
        for child in root
        if child.tag != signature
        for element in child.iter()
        if element.text and element.text.strip()
    ]
    assert len(values) >= 13
    for value in values:
        # Times are drawn without the T, their fractions and the offset, which is Warsaw's anyway.
        shown = value[:19].replace("T", "") if value[10:11] == "T" else value
        assert "".join(shown.split()) in drawn, value


def test_company_with_a_certificate_from_its_login_to_the_receipt(
    server: Any,
    http: requests.Session,
    sandbox: Any,
    control: Any,
    make_company: Callable[..., Company],
) -> None:
    made = make("rsa")
    company = make_company(NIP, logged_in=False)
    control.add_certificate("demo", NIP, made.pem.decode())
    credentials.store_certificate(company.account("demo"), Certificate(made.certificate, made.key))
    erp = Erp(server.url, http, company, sandbox, control)
    logged_in = erp.request("POST", "/auth/demo")
    assert logged_in.status_code == 200
    assert logged_in.json()["method"] == "certificate"
    assert logged_in.json()["certificateValidUntil"] is not None

    sender = Client(f"{sandbox.url}/demo/v2", NIP, http=http)
    document = login_document(made, challenge=sender.post("/auth/challenge").json()["challenge"])
    assert sender.send_login_document(document).status_code == 202
    assert sender.settled_login()["code"] == 200
    assert sender.redeem().status_code == 200
    reference = sender.open_batch(zipped(a=invoice_xml("FV/1"), b=b"no invoice"), cuts=2).send()
    control.advance(10)

    final = erp.status(reference, "demo")
    assert final["final"] is True
    assert [invoice["status"]["code"] for invoice in final["invoices"]] == [200, 450]
    number = final["invoices"][0]["ksefNumber"]
    path = f"/invoices/demo/status/{reference}/{number}/upo"
    pdf = erp.get(f"{path}?docType=pdf", headers={"Accept": "application/pdf"})
    assert pdf.status_code == 200, pdf.text
    text = "".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(pdf.content)).pages)
    assert "Skrót dokumentu uwierzytelniającego" in text
    assert base64.b64encode(hashlib.sha256(document).digest()).decode() in text
    assert number in text


def test_batch_session_of_three_thousand_with_its_rows(
    erp: Erp, database: Any, control: Any
) -> None:
    session = control.seed_session("test", NIP, kind="batch", state="moving", invoices=3000)
    account = erp.company.account()
    add_synced(database, account, session.ksef_numbers)
    add_offline(database, account, [session.reference_number] * 2)
    assert erp.status(session.reference_number)["status"]["code"] in (100, 150)

    control.change_session("test", session.reference_number, state="finished")
    body = erp.status(session.reference_number)

    assert body["final"] is True
    assert [i["ordinalNumber"] for i in body["invoices"]] == list(range(1, 3001))
    assert [page["referenceNumber"] for page in body["upo"]["pages"]] == control.session(
        "test", session.reference_number
    ).upo_pages
    assert set(synced_sessions(database, account).values()) == {session.reference_number}
    assert {linked for _, linked in offline_sessions(database, account)} == {
        session.reference_number
    }
    linked = stored(database)
    erp.status(session.reference_number)
    assert stored(database) == linked


def test_rejected_session(erp: Erp, control: Any) -> None:
    session = control.seed_session("test", NIP, kind="batch", state="failed", code=435)
    body = erp.status(session.reference_number)
    assert (body["status"]["code"], body["final"], body["invoices"]) == (435, True, [])


def test_receipt_is_downloaded_as_a_file_and_not_twice(erp: Erp, control: Any) -> None:
    session = control.seed_session("test", NIP)
    number = session.ksef_numbers[0]
    path = f"/invoices/test/status/{session.reference_number}/{number}/upo?docType=pdf"
    first = erp.get(path, headers={"Accept": "application/pdf"})
    assert first.content.startswith(b"%PDF-")
    assert first.headers["Content-Disposition"] == f'attachment; filename="{number}-upo.pdf"'
    assert first.headers["ETag"] == f'"{hashlib.sha256(first.content).hexdigest()}"'
    for _ in range(4):  # whichever worker answers: the same bytes, the same tag
        again = erp.get(
            path, headers={"Accept": "application/pdf", "If-None-Match": first.headers["ETag"]}
        )
        assert (again.status_code, again.content) == (304, b"")


def test_receipt_that_is_not_there_yet(erp: Erp, control: Any) -> None:
    invoices = [{"status": 150, "ksefNumber": NUMBER}]
    session = control.seed_session("test", NIP, state="open", invoices=invoices)
    path = f"/invoices/test/status/{session.reference_number}/{NUMBER}/upo"
    response = erp.get(path)
    assert (response.status_code, response.json()["code"]) == (404, "upo_not_available")
    assert response.headers["Retry-After"] == str(response.json()["retryAfter"])
    control.change_invoice("test", session.reference_number, 1, status=200)
    assert erp.get(path).status_code == 200


# -- who may not ----------------------------------------------------------------------------


def test_unknown_session(erp: Erp) -> None:
    erp.refused(f"/invoices/test/status/{UNKNOWN}", 404, "session_not_found")


def test_no_ksef_session_until_the_login_and_none_after_the_logout(
    make_erp: Callable[..., Erp], control: Any
) -> None:
    erp = make_erp(NIP, logged_in=False)
    path = f"/invoices/test/status/{control.seed_session('test', NIP).reference_number}"
    erp.refused(path, 404, "no_active_ksef_session")
    assert erp.request("POST", "/auth/test").status_code == 200
    assert erp.get(path).status_code == 200
    assert erp.request("DELETE", "/auth/test").status_code == 204
    assert erp.get(path).status_code == 200, "what is final is kept, with or without a session"
    another = control.seed_session("test", NIP).reference_number
    erp.refused(f"/invoices/test/status/{another}", 404, "no_active_ksef_session")


def test_logins_at_both_workers_are_one_for_ksef(
    make_erp: Callable[..., Erp], control: Any, server: Any
) -> None:
    erp = make_erp(NIP, logged_in=False)
    answers: list[Any] = []

    def log_in() -> None:
        with requests.Session() as http:
            http.trust_env = False
            answer = http.post(
                f"{server.url}/auth/test", headers=erp.company.authorization, timeout=30
            )
            answers.append((answer.status_code, answer.text))

    threads = [threading.Thread(target=log_in) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert len(set(answers)) == 1
    assert answers[0][0] == 200
    assert control.call_counts()["POST /{environment}/v2/auth/ksef-token"] == 1


def test_wrong_password_and_wrong_role(
    erp: Erp, http: requests.Session, server: Any, service: Service, database: Any, control: Any
) -> None:
    url = f"{server.url}/invoices/test/status/{UNKNOWN}"
    control.clear_calls()
    wrong = http.get(url, headers=basic(erp.company.email, "wrong"), timeout=10)
    assert (wrong.status_code, wrong.json()["code"]) == (401, "unauthorized")
    assert wrong.headers["WWW-Authenticate"].startswith("Basic ")

    email = "viewer@firma.example"
    users.add_user(
        service.db, service.passwords, email=email, nip=NIP, role="technical", password=PASSWORD
    )
    database.execute(f"UPDATE users SET role = 'viewer' WHERE email = '{email}'")
    viewer = http.get(url, headers=basic(email, PASSWORD), timeout=10)
    assert (viewer.status_code, viewer.json()["code"]) == (403, "forbidden")

    users.disable_user(service.db, erp.company.email)
    for _ in range(4):  # whichever worker: remembered passwords do not help
        erp.refused(f"/invoices/test/status/{UNKNOWN}", 401, "unauthorized")
    assert control.calls() == []


def test_two_companies_do_not_see_each_other_s_anything(
    make_erp: Callable[..., Erp], database: Any, control: Any
) -> None:
    mine, theirs = make_erp(NIP), make_erp(OTHER_NIP)
    session = control.seed_session("test", NIP, invoices=2)
    status = f"/invoices/test/status/{session.reference_number}"
    upo = f"{status}/{session.ksef_numbers[0]}/upo"
    for erp in (mine, theirs):
        add_synced(database, erp.company.account(), session.ksef_numbers)
        add_offline(database, erp.company.account(), [session.reference_number])

    assert mine.get(status).status_code == mine.get(upo).status_code == 200
    theirs.refused(status, 404, "session_not_found")
    theirs.refused(upo, 404, "upo_not_available")

    assert set(synced_sessions(database, mine.company.account()).values()) == {
        session.reference_number
    }
    assert set(synced_sessions(database, theirs.company.account()).values()) == {None}
    assert {linked for _, linked in offline_sessions(database, theirs.company.account())} == {None}

    mine.request("PUT", "/outages/test/simulation", json={"message": "drill"})
    assert theirs.get("/outages/test").json()["outage"]["established"] is False
    assert theirs.request("DELETE", "/auth/test").status_code == 204
    assert mine.get("/auth/test").json()["nip"] == NIP


def test_simulated_outage_at_every_worker(erp: Erp, control: Any) -> None:
    session = control.seed_session("test", NIP)
    status = f"/invoices/test/status/{session.reference_number}"
    control.clear_calls()
    begun = erp.request("PUT", "/outages/test/simulation", json={"message": "Ćwiczenie"})
    assert begun.status_code == 200
    for _ in range(4):
        for path in (status, f"{status}/{session.ksef_numbers[0]}/upo"):
            response = erp.get(path)
            assert (response.status_code, response.json()["code"]) == (409, "outage_simulation")
            assert response.json()["outage"] == begun.json()["outage"]
    assert control.calls() == []
    assert erp.request("DELETE", "/outages/test/simulation").status_code == 204
    assert erp.get(status).status_code == 200


# -- the server -----------------------------------------------------------------------------


def raw(url: str, request: bytes) -> bytes:
    """The first line of the answer to bytes that no HTTP library would send."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(request)
        return connection.recv(4096).split(b"\r\n")[0]


@pytest.mark.fault(33)
@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /livez?" + b"a" * 2100 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"414"),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 5000 + b"\r\n\r\n", b"431"),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 41 + b"\r\n", b"431"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
    ],
    ids=["long line", "long header", "many headers", "no HTTP", "as it should be"],
)
def test_requests_out_of_bounds_are_refused_by_the_server(
    server: Any, request_bytes: bytes, status: bytes
) -> None:
    assert raw(server.url, request_bytes).split(b" ")[1] == status


@pytest.mark.fault(33)
@pytest.mark.parametrize(
    ("reference", "status"),
    [("..", 400), ("..%2f..%2fetc", 404), ("20260101-SO-X%0d%0aA:b", 400), ("%00", 400)],
)
def test_odd_references_reach_nobody(
    erp: Erp, control: Any, server: Any, reference: str, status: int
) -> None:
    control.clear_calls()
    authorization = erp.company.authorization["Authorization"]
    line = raw(
        server.url,
        f"GET /invoices/test/status/{reference} HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: {authorization}\r\n\r\n".encode(),
    )
    assert line.split(b" ")[1] == str(status).encode()
    assert control.calls() == []


def test_log_names_no_company_no_invoice_and_no_secret(erp: Erp, server: Any, control: Any) -> None:
    session = control.seed_session("test", NIP)
    request_id = "journey-of-the-log"
    path = f"/invoices/test/status/{session.reference_number}/{session.ksef_numbers[0]}/upo"
    assert erp.get(path, headers={"X-Request-ID": request_id}).status_code == 200
    log = server.log.read_text()
    [line] = [line for line in log.splitlines() if request_id in line]
    assert '"status":200' in line
    for secret in (NIP, session.ksef_numbers[0], PASSWORD, erp.company.email):
        assert secret not in line
    assert erp.company.authorization["Authorization"] not in log


@pytest.mark.slow
@pytest.mark.fault(29)
def test_request_in_flight_is_finished_when_the_service_is_stopped(
    start_server: Any,
    http: requests.Session,
    sandbox: Any,
    control: Any,
    make_company: Callable[..., Company],
) -> None:
    server = start_server()
    erp = Erp(server.url, http, make_company(NIP, environments=("test",)), sandbox, control)
    session = control.seed_session("test", NIP, invoices=5)
    control.fault("delay", path="/invoices$", seconds=1.5)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(erp.status(session.reference_number)))
    asking.start()
    deadline = time.monotonic() + 10
    while control.waiting_faults() and time.monotonic() < deadline:
        pass

    server.terminate()
    asking.join(20)

    assert [len(body["invoices"]) for body in answers] == [5]
    assert server.wait() == 0
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{server.url}/livez", timeout=2)
