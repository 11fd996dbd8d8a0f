"""Every answer of every route stands in KSeF's official OpenAPI document, in both error formats."""

import os
import re

import pytest
from msgspec.structs import astuple

from sandbox.access import GROUPS
from sandbox.app import create_app
from sandbox.settings import LIMITS
from sandbox.world import World
from tests.certificates import make
from tests.sandbox.ksef_client import (
    NIP,
    base64_text,
    invoice_xml,
    login_document,
    sha256,
    zipped,
)

UNKNOWN = "20260101-SO-0000000000-0000000000-00"
KSEF_NUMBER = "5265877635-20250826-0100001AF629-AF"


@pytest.fixture(params=["problem-details", "older"])
def formatted(request, client):
    client.problem_details = request.param == "problem-details"
    return client


@pytest.fixture
def asked(contract, control):
    """Calls and checks: `asked(client, "GET", "/sessions/{referenceNumber}", status, …)`."""
    covered = set()

    def ask(
        client,
        method,
        template,
        status,
        /,
        headers=None,
        bearer=None,
        json=None,
        data=None,
        query="",
        **values,
    ):
        answer = client.call(
            method,
            template.format(**values) + query,
            headers=headers,
            bearer=bearer,
            json=json,
            data=data,
        )
        assert answer.status_code == status, answer.text
        contract.check(method, template, answer)
        covered.add((method, template))
        return answer

    ask.covered = covered
    return ask


def test_the_login(asked, formatted, make_client, control):
    token = control.add_token("test", NIP)
    client = make_client()
    client.problem_details = formatted.problem_details
    asked(client, "GET", "/security/public-key-certificates", 200)
    challenge = asked(client, "POST", "/auth/challenge", 200).json()
    key_id, encrypted = client.encrypt(
        "KsefTokenEncryption", f"{token}|{challenge['timestampMs']}".encode()
    )
    order = {
        "challenge": challenge["challenge"],
        "contextIdentifier": {"type": "Nip", "value": NIP},
        "encryptedToken": encrypted,
        "publicKeyId": key_id,
    }
    started = asked(client, "POST", "/auth/ksef-token", 202, json=order).json()
    asked(client, "POST", "/auth/ksef-token", 400, json=order)
    asked(client, "POST", "/auth/ksef-token", 400, json={})
    operation = started["authenticationToken"]["token"]
    login = started["referenceNumber"]
    for _ in range(2):
        asked(
            client, "GET", "/auth/{referenceNumber}", 200, bearer=operation, referenceNumber=login
        )
    asked(client, "GET", "/auth/{referenceNumber}", 401, referenceNumber=login)
    asked(client, "GET", "/auth/{referenceNumber}", 400, bearer=operation, referenceNumber=UNKNOWN)
    tokens = asked(client, "POST", "/auth/token/redeem", 200, bearer=operation).json()
    asked(client, "POST", "/auth/token/redeem", 400, bearer=operation)
    asked(client, "POST", "/auth/token/redeem", 401)
    refreshing = tokens["refreshToken"]["token"]
    asked(client, "POST", "/auth/token/refresh", 200, bearer=refreshing)
    asked(client, "GET", "/auth/{referenceNumber}", 200, bearer=operation, referenceNumber=login)
    asked(client, "POST", "/auth/token/refresh", 401)
    asked(client, "GET", "/rate-limits", 200, bearer=tokens["accessToken"]["token"])
    asked(client, "GET", "/rate-limits", 401)
    access = tokens["accessToken"]["token"]
    asked(client, "GET", "/auth/sessions", 200, bearer=access)
    asked(client, "GET", "/auth/sessions", 400, bearer=access, query="?pageSize=5")
    asked(client, "GET", "/auth/sessions", 401)
    asked(client, "DELETE", "/auth/sessions/current", 204, bearer=refreshing)
    asked(client, "POST", "/auth/token/refresh", 400, bearer=refreshing)
    asked(client, "GET", "/auth/{referenceNumber}", 200, bearer=operation, referenceNumber=login)


@pytest.mark.parametrize("outcome", [415, 450, 480, 500, 550])
def test_failed_logins(asked, make_client, control, outcome):
    client = make_client()
    client.start_login(control.add_token("test", NIP, outcome=outcome))
    client.settled_login()

    answer = asked(
        client,
        "GET",
        "/auth/{referenceNumber}",
        200,
        bearer=client.operation_token,
        referenceNumber=client.login_reference,
    )
    assert answer.json()["status"]["code"] == outcome


def test_the_login_with_a_certificate(asked, formatted, make_client):
    client = make_client()
    client.problem_details = formatted.problem_details
    challenge = asked(client, "POST", "/auth/challenge", 200).json()["challenge"]
    document = login_document(make(), challenge=challenge)
    path, kind = "/auth/xades-signature", {"Content-Type": "application/xml"}
    for status in (202, 400):
        answer = asked(client, "POST", path, status, headers=kind, data=document)
        if status == 202:
            started = answer.json()
    operation = started["authenticationToken"]["token"]
    login = started["referenceNumber"]
    for _ in range(2):
        asked(
            client, "GET", "/auth/{referenceNumber}", 200, bearer=operation, referenceNumber=login
        )
    asked(client, "POST", "/auth/token/redeem", 200, bearer=operation)
    named = {"referenceNumber": login}
    access = formatted.access_token
    asked(client, "DELETE", "/auth/sessions/{referenceNumber}", 204, bearer=access, **named)
    named = {"referenceNumber": UNKNOWN}
    asked(client, "DELETE", "/auth/sessions/{referenceNumber}", 400, bearer=access, **named)
    asked(client, "DELETE", "/auth/sessions/{referenceNumber}", 401, **named)


def test_sending_a_batch(asked, formatted):
    client = formatted
    archive = zipped(a=invoice_xml("FV/1"))
    order = client.session_order(os.urandom(32), os.urandom(16))
    asked(client, "POST", "/sessions/batch", 400, json=order)
    asked(client, "POST", "/sessions/batch", 401, bearer="x", json=order)
    part = {"fileSize": 16, "fileHash": sha256(b"x")}
    order["batchFile"] = part | {"fileParts": [part | {"ordinalNumber": 1}]}
    asked(client, "POST", "/sessions/batch", 201, json=order)
    batch = client.open_batch(archive)
    close, named = "/sessions/batch/{referenceNumber}/close", {"referenceNumber": batch.reference}
    asked(client, "POST", close, 400, **named)
    batch.upload(0)
    asked(client, "POST", close, 204, **named)
    asked(client, "POST", close, 400, **named)
    for path in ("", "/invoices", "/invoices/failed"):
        asked(client, "GET", "/sessions/{referenceNumber}" + path, 200, **named)


ADDRESSES = {
    "ip4Addresses": ["192.168.0.10"],
    "ip4Ranges": ["10.0.0.1-10.0.0.254"],
    "ip4Masks": ["172.16.0.0/16"],
}


def test_what_breaks_the_contract_of_a_login_is_refused(contract, make_client, control):
    client = make_client()
    order = {"authorizationPolicy": {"allowedIps": ADDRESSES}}
    assert client.start_login(control.add_token("test", NIP), **order).status_code == 202

    challenge = client.post("/auth/challenge", bearer="").json()["challenge"]
    order |= {
        "challenge": challenge,
        "contextIdentifier": {"type": "Nip", "value": NIP},
        "encryptedToken": base64_text(b"x" * 256),
        "publicKeyId": client.public_key("KsefTokenEncryption")[0],
    }
    _refused(contract, client, "/auth/ksef-token", "/auth/ksef-token", order)


def test_what_breaks_the_contract_of_a_sender_is_refused(contract, client):
    order = client.session_order(bytes(32), bytes(16))
    _refused(contract, client, "/sessions/online", "/sessions/online", order)
    part = {"fileSize": 16, "fileHash": sha256(b"x")}
    package = part | {"compressionType": "Zip", "fileParts": [part | {"ordinalNumber": 1}]}
    order |= {"batchFile": package, "offlineMode": True}
    _refused(contract, client, "/sessions/batch", "/sessions/batch", order)
    session = client.open_session()
    order = session.order(invoice_xml("FV/1"), offlineMode=True, hashOfCorrectedInvoice=sha256(b""))
    send = "/sessions/online/{referenceNumber}/invoices"
    _refused(contract, client, send, f"/sessions/online/{session.reference}/invoices", order)
    assert client.session(session.reference)["invoiceCount"] == 0


def _refused(contract, client, template, path, order):
    """Every way in which a body can break the contract is refused as that."""
    for what, wrong in contract.breaches("POST", template, order):
        answer = client.post(path, json=wrong)
        assert answer.status_code == 400, f"{what}: {answer.status_code}"
        [error] = answer.json()["errors"]
        assert error["code"] in (21001, 21405, 21157, 21161), f"{what}: {error}"


def test_a_login_too_old(asked, client, control):
    control.settings(accessTokenSeconds=30 * 86400)
    client.log_in(control.add_token("test", NIP))
    control.advance(8 * 86400)

    asked(client, "GET", "/auth/{referenceNumber}", 410, referenceNumber=client.login_reference)


def test_sending(asked, formatted, control):
    client = formatted
    order = client.session_order(os.urandom(32), os.urandom(16))
    asked(client, "POST", "/sessions/online", 201, json=order)
    asked(client, "POST", "/sessions/online", 400, json={"formCode": {}, "encryption": {}})
    asked(client, "POST", "/sessions/online", 401, bearer="x", json=order)
    session = client.open_session()
    send = "/sessions/online/{referenceNumber}/invoices"
    one = session.order(invoice_xml("FV/1"))
    asked(client, "POST", send, 202, json=one, referenceNumber=session.reference)
    asked(client, "POST", send, 400, json=one, referenceNumber=UNKNOWN)
    asked(
        client,
        "POST",
        send,
        400,
        json=one | {"encryptedInvoiceContent": base64_text(b"x")},
        referenceNumber=session.reference,
    )
    close = "/sessions/online/{referenceNumber}/close"
    asked(client, "POST", close, 204, referenceNumber=session.reference)
    asked(client, "POST", close, 400, referenceNumber=session.reference)


def test_asking(asked, formatted, control):
    client = formatted
    every_invoice = [
        {"status": code} for code in (200, 405, 410, 415, 430, 435, 440, 450, 500, 550)
    ]
    control.seed_session(
        "test", NIP, kind="batch", invoices=[*every_invoice, {"offline": True}, {}]
    )
    control.seed_session(
        "test", NIP, kind="batch", state="moving", invoices=[{"status": 100}, {"status": 150}]
    )
    control.seed_session("test", NIP, kind="batch", state="failed", code=405, details=["x"])
    for state in ("open", "moving", "finished", "failed"):
        control.seed_session("test", NIP, state=state)
    for reference in control.session_references("test"):
        named = {"referenceNumber": reference}
        seeded = control.session("test", reference)
        asked(client, "GET", "/sessions/{referenceNumber}", 200, **named)
        listing = asked(
            client,
            "GET",
            "/sessions/{referenceNumber}/invoices",
            200,
            query="?pageSize=10",
            **named,
        ).json()
        if listing.get("continuationToken"):
            asked(
                client,
                "GET",
                "/sessions/{referenceNumber}/invoices",
                200,
                headers={"x-continuation-token": listing["continuationToken"]},
                **named,
            )
        asked(client, "GET", "/sessions/{referenceNumber}/invoices/failed", 200, **named)
        for invoice in seeded.invoices:
            asked(
                client,
                "GET",
                "/sessions/{referenceNumber}/invoices/{invoiceReferenceNumber}",
                200,
                invoiceReferenceNumber=invoice.reference_number,
                **named,
            )
            found = 200 if invoice.status == 200 else 400
            asked(
                client,
                "GET",
                "/sessions/{referenceNumber}/invoices/{invoiceReferenceNumber}/upo",
                found,
                invoiceReferenceNumber=invoice.reference_number,
                **named,
            )
        for number in seeded.ksef_numbers:
            asked(
                client,
                "GET",
                "/sessions/{referenceNumber}/invoices/ksef/{ksefNumber}/upo",
                200,
                ksefNumber=number,
                **named,
            )
        for page in seeded.upo_pages:
            asked(
                client,
                "GET",
                "/sessions/{referenceNumber}/upo/{upoReferenceNumber}",
                200,
                upoReferenceNumber=page,
                **named,
            )
    for kind in ("Batch", "Online"):
        listed = asked(client, "GET", "/sessions", 200, query=f"?sessionType={kind}").json()
        assert listed["sessions"]
    assert len(asked.covered) == 8


def test_asking_wrongly(asked, formatted, control):
    client = formatted
    named = {
        "referenceNumber": UNKNOWN,
        "invoiceReferenceNumber": UNKNOWN,
        "ksefNumber": KSEF_NUMBER,
        "upoReferenceNumber": UNKNOWN,
    }
    templates = [
        "/sessions",
        "/sessions/{referenceNumber}",
        "/sessions/{referenceNumber}/invoices",
        "/sessions/{referenceNumber}/invoices/failed",
        "/sessions/{referenceNumber}/invoices/{invoiceReferenceNumber}",
        "/sessions/{referenceNumber}/invoices/ksef/{ksefNumber}/upo",
        "/sessions/{referenceNumber}/invoices/{invoiceReferenceNumber}/upo",
        "/sessions/{referenceNumber}/upo/{upoReferenceNumber}",
    ]
    for template in templates:
        asked(client, "GET", template, 400, **named)
        asked(client, "GET", template, 401, bearer="expired", **named)
        control.fault("forbidden")
        asked(client, "GET", template, 403, **named)
    control.settings(
        quota=True,
        limits={
            g: {"perSecond": 0}
            for g in ("sessionMisc", "sessionList", "sessionInvoiceList", "invoiceStatus")
        },
    )
    for template in templates:
        answer = asked(client, "GET", template, 429, **named)
        assert answer.headers["Retry-After"] == "1"


def test_the_converter_sees_what_is_wrong(contract, client, control):
    """The checks above would be worth nothing if they accepted everything."""
    schema = {"$ref": "#/components/schemas/SessionStatusResponse"}
    true = client.session(control.seed_session("test", NIP, kind="batch").reference_number)
    contract.validate(schema, true)
    contract.validate(schema, true | {"upo": None})
    page = true["upo"]["pages"][0]
    for wrong in (
        {name: value for name, value in true.items() if name != "dateCreated"},
        true | {"dateCreated": "2026-01-01 10:00:00"},
        true | {"dateCreated": "2026-01-01T10:00:00"},
        true | {"invoiceCount": -1},
        true | {"invoiceCount": "3"},
        true | {"status": None},
        true | {"surprise": 1},
        true | {"upo": {"pages": [page | {"downloadUrl": "nowhere"}]}},
        true | {"upo": {"pages": [page | {"referenceNumber": "short"}]}},
    ):
        with pytest.raises(AssertionError):
            contract.validate(schema, wrong)


def test_paths_and_quota_groups_are_the_official_ones(contract):
    checked = 0
    for rule in create_app(World()).url_map.iter_rules():
        if not rule.endpoint.startswith("ksef."):
            continue
        path = rule.rule.partition("/v2")[2]
        [method] = rule.methods - {"HEAD", "OPTIONS"}
        [operation] = [
            operations[method.lower()]
            for official, operations in contract.paths.items()
            if _shape(official) == _shape(path) and method.lower() in operations
        ]
        row = operation["responses"]["429"]["description"].strip().splitlines()[-1]
        *limits, group = [cell.strip() for cell in row.split("|")[2:6]]
        own = GROUPS.get(rule.endpoint, "anonymous")
        assert limits == ["-" if limit == -1 else str(limit) for limit in astuple(LIMITS[own])], (
            path
        )
        assert group == ("-" if own == "anonymous" else own), path
        checked += 1
    assert checked > 20


def _shape(path):
    """A path with all its parameters alike."""
    return re.sub(r"\{[^}]*\}|<[^>]*>", "*", path)
