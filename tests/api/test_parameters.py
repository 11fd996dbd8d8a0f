"""What is no parameter of the contract is refused before anything is sent or looked up.

All tables but `users` are locked meanwhile: a request that asked the database for more than who is
calling would wait for its lock, and be answered 503 in place of 400.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest

from app.service import Service
from app.services import outages
from sandbox.control import Control
from tests.answers import assert_problem
from tests.api.test_policy import DOCS
from tests.service import Company

SESSION = "20260115-SO-0123456789-ABCDEF0123-4F"
KSEF_NUMBER = "5265877635-20250826-0100001AF629-AF"
KSEF_1_NUMBER = "5265877635-20250826-010000-1AF629-AF"  # 36 characters: no CRC is known for them
SHORTENED_SESSION = "20260101-AU-XXXXXXXX-XXXX-XX"
SHORTENED_NUMBER = "1234567890-20260101-ABCDEF-12"

NO_ENVIRONMENT = ["TEST", "production", "tes", "test ", "test\0", "test\r\n", "..", "٣", "ż" * 999]
NO_TEXT = [
    "..",
    ".",
    " ",
    "\0",
    "\r\nSet-Cookie: a=b",
    "%",
    "%0d%0a",
    "' OR true --",
    "{{7*7}}",
    "x" * 1500,
    "ż",
]
NO_SESSION = [
    *NO_TEXT,
    SESSION.lower(),
    SESSION + "\n",
    SESSION + "\r\nX: y",
    SESSION + "\0",
    f" {SESSION}",
    f"../{SESSION}".replace("/", "\\"),
    SESSION.replace("0", "٠"),
    SESSION.replace("2026", "２０２６"),
    SESSION.replace("-", "–"),
    "20260115",
    "20260115-SO",
    "20260115-SO-",
    "20260115--SO-01",
    "20260115-SO-01-",
    "20260115" + "-A" * 6,
    "20260115-SO-0123456789ABC",
    KSEF_NUMBER,
]
NO_NUMBER = [
    *NO_TEXT,
    KSEF_NUMBER.lower(),
    KSEF_NUMBER + "\n",
    KSEF_NUMBER + "\0",
    KSEF_NUMBER.replace("5", "٥"),
    KSEF_NUMBER.replace("5265877635", "526587763٥"),
    KSEF_NUMBER.replace("AF629", "AF628"),
    KSEF_NUMBER[:-2] + "AE",
    "0" + SHORTENED_NUMBER[1:],
    "5265877635",
    "5265877635-20250826",
    "5265877635-20250826-0100001AF629",
    SESSION,
]
NO_DOC_TYPE = ["", "XML", "html", "xml ", "pdf\0", "xml,pdf", "../xml"]

Refused = Callable[..., None]


@pytest.fixture
def caller(make_company: Callable[..., Company]) -> Company:
    return make_company("5265877635", logged_in=False)


@pytest.fixture
def locked(caller: Company, database: Any) -> Iterator[None]:
    """Nobody may look into any table but `users` and `login_attempts`, which tell who asks."""
    with closing(psycopg2.connect(database.owner_dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT string_agg(oid::regclass::text, ', ') FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
            " AND relname NOT IN ('users', 'login_attempts')"
        )
        cursor.execute(f"LOCK TABLE {cursor.fetchone()[0]} IN ACCESS EXCLUSIVE MODE")
        yield
        connection.rollback()


@pytest.fixture
def refused(locked: None, caller: Company, control: Control) -> Refused:
    """Assert that a request is refused for these parameters, and went nowhere."""

    def check(
        path: str, *parameters: str, unseen: str = "", method: str = "GET", **kw: Any
    ) -> None:
        answer = caller.request(method, path, **kw)
        body = answer.get_json()
        assert (answer.status_code, body["code"]) == (400, "invalid_parameter")
        assert answer.content_type == "application/problem+json"
        assert sorted(body["errors"]) == sorted(parameters)
        assert all(text for texts in body["errors"].values() for text in texts)
        assert body["detail"] == f"Invalid: {', '.join(sorted(parameters))}."
        assert sorted(body) == ["code", "detail", "errors", "requestId", "status", "title", "type"]
        if len(unseen) > 3:
            assert unseen not in answer.get_data(as_text=True)
            assert unseen not in str(answer.headers)
        assert control.calls() == []

    return check


def status_path(environment: str = "test", session: str = SESSION) -> str:
    return f"/invoices/{quote(environment, safe='')}/status/{quote(session, safe='')}"


def upo_path(environment: str = "test", session: str = SESSION, number: str = KSEF_NUMBER) -> str:
    return f"{status_path(environment, session)}/{quote(number, safe='')}/upo"


def test_the_locks_would_show_a_look_into_the_database(locked: None, caller: Company) -> None:
    assert caller.get(status_path()).status_code == 503


def test_environments(refused: Refused, subtests: Any) -> None:
    for value in NO_ENVIRONMENT:
        with subtests.test(value=value):
            refused(status_path(environment=value), "environment", unseen=value)
            refused(upo_path(environment=value), "environment", unseen=value)
            refused(f"/outages/{quote(value, safe='')}", "environment", unseen=value)
            for method in ("GET", "POST", "DELETE"):
                refused(f"/auth/{quote(value, safe='')}", "environment", method=method)


@pytest.mark.fault(33)
def test_reference_numbers(refused: Refused, subtests: Any) -> None:
    for value in NO_SESSION:
        with subtests.test(value=value):
            refused(status_path(session=value), "referenceNumber", unseen=value)
            refused(upo_path(session=value), "referenceNumber", unseen=value)


@pytest.mark.fault(33)
def test_ksef_numbers(refused: Refused, subtests: Any) -> None:
    for value in NO_NUMBER:
        with subtests.test(value=value):
            refused(upo_path(number=value), "ksefNumber", unseen=value)


def test_document_types(refused: Refused, subtests: Any) -> None:
    for value in NO_DOC_TYPE:
        with subtests.test(value=value):
            refused(f"{upo_path()}?docType={quote(value)}", "docType")


@pytest.mark.fault(33)
def test_a_repeated_parameter(refused: Refused) -> None:
    refused(f"{upo_path()}?docType=xml&docType=pdf", "docType")
    refused(f"{upo_path()}?docType=xml&docType=xml", "docType")


def test_unknown_parameters(refused: Refused, subtests: Any) -> None:
    for query, named in (
        ("doctype=xml", "doctype"),
        ("nip=7171642051", "nip"),
        ("docType[]=xml", "docType[]"),
        ("%0d%0aX=1", "?"),
        ("%C5%BC=1", "?"),
        ("x" * 65 + "=1", "?"),
        ("x=1&x=2", "x"),
    ):
        with subtests.test(query=query):
            for path in (upo_path(), status_path(), "/auth/test", "/outages/test"):
                refused(f"{path}?{query}", named)


def test_a_query_that_is_no_utf_8(refused: Refused, subtests: Any) -> None:
    for query, named in (
        ("invoiceNumber=%ff", "invoiceNumber"),
        ("invoiceNumber=FV%2F1%c5", "invoiceNumber"),
        ("invoiceNumber=%ed%a0%80", "invoiceNumber"),  # half of a pair of UTF-16
        ("invoiceNumber=%c0%af", "invoiceNumber"),
        ("%ff=x", "?"),
    ):
        with subtests.test(query=query):
            refused(f"/invoices/test?{query}", named)
    refused(f"{upo_path()}?docType=xml%ff", "docType")
    raw = {"QUERY_STRING": "invoiceNumber=\xff"}
    refused("/invoices/test", "invoiceNumber", environ_overrides=raw)


def test_the_replacement_character_itself_is_a_character(caller: Company) -> None:
    assert caller.get("/invoices/test?invoiceNumber=%ef%bf%bd").status_code == 200


def test_the_contract_and_its_page_take_no_parameters(caller: Company) -> None:
    for path in ("/openapi.json", *DOCS):
        answer = caller.client.get(f"{path}?x=1")
        problem = assert_problem(answer, 400, "invalid_parameter", also=["errors"])
        assert list(problem["errors"]) == ["x"]


def test_all_that_is_wrong_with_a_path_is_told_at_once(refused: Refused) -> None:
    path = upo_path("x", "y", "z")
    refused(path, "environment", "referenceNumber", "ksefNumber")


def test_simulations(refused: Refused, subtests: Any) -> None:
    for body, named in (
        ({}, "message"),
        ({"message": ""}, "message"),
        ({"message": "x" * 1001}, "message"),
        ({"message": 5}, "message"),
        ({"message": None}, "message"),
        ({"message": "a\0b"}, "message"),
        ({"message": " \t\n\u00a0"}, "message"),
        ({"message": "x", "nip": "7171642051"}, "nip"),
        ({"message": "x", "endsAt": "tomorrow"}, "endsAt"),
        ({"message": "x", "endsAt": "2099-01-01T00:00:00"}, "endsAt"),
        ({"message": "x", "endsAt": "2020-01-01T00:00:00Z"}, "endsAt"),
        ({"message": "x", "endsAt": "9999-12-31T23:59:59-12:00"}, "endsAt"),
        ({"message": "x", "endsAt": "9999-12-31T23:59:59Z"}, "endsAt"),
    ):
        with subtests.test(body=ascii(body)[:80]):
            refused("/outages/test/simulation", named, method="PUT", json=body)


def test_bodies_that_are_no_json_object(refused: Refused, caller: Company, subtests: Any) -> None:
    def asked(body: bytes, content_type: str | None = "application/json") -> str:
        kwargs = {"method": "PUT", "data": body, "content_type": content_type}
        refused("/outages/test/simulation", "body", **kwargs)
        answer = caller.request(
            kwargs.pop("method"), "/outages/test/simulation", **kwargs
        ).get_json()
        assert answer["title"] == "Invalid parameter"
        [sentence] = answer["errors"]["body"]
        return sentence

    good = '{"message": "żółw"}'
    for body, sentence in (
        (b"", "Is missing."),
        (
            b"{",
            "Cannot be read as JSON: Expecting property name enclosed in double quotes"
            " (line 1, column 2).",
        ),
        (b"{\n'message': 1}", "(line 2, column 1)"),
        (b'{"message": "a\\ud800b"}', "Cannot be read as JSON: "),
        (b'{"message": NaN}', "Cannot be read as JSON: "),
        (b"[" * 2000, "Cannot be read as JSON: "),
        (b"\xff", "Must be UTF-8."),
        (good.encode("cp1250"), "Must be UTF-8."),
        (good.encode("utf-16"), "Must be UTF-8."),
        (good.encode("utf-8-sig"), "Must be UTF-8 without a byte order mark."),
        (b'"' + b"x" * 70_000 + b'"', "Is longer than 64 KiB."),
        (b"[]", "Must be a JSON object."),
        (b"null", "Must be a JSON object."),
        (b"1", "Must be a JSON object."),
        (b'"x"', "Must be a JSON object."),
        (b'[{"message": "x"}]', "Must be a JSON object."),
    ):
        with subtests.test(body=body[:20]):
            assert sentence in asked(body)
    for content_type in (None, "", "text/plain", "application/x-www-form-urlencoded", "text/json"):
        with subtests.test(content_type=content_type):
            assert asked(b'{"message": "x"}', content_type) == (
                "Content-Type must be application/json."
            )


def test_a_body_that_breaks_off(caller: Company) -> None:
    answer = caller.request(
        "PUT",
        "/outages/test/simulation",
        input_stream=io.BytesIO(b'{"message": '),
        content_type="application/json",
        environ_overrides={"CONTENT_LENGTH": "100"},
    )
    problem = assert_problem(answer, 400, "invalid_parameter")
    assert problem["title"] == "Invalid parameter"


def test_the_usual_content_types(caller: Company) -> None:
    for content_type in ("application/json", "application/json; charset=utf-8", "Application/JSON"):
        body, put = '{"message": "żółw"}'.encode(), ("PUT", "/outages/test/simulation")
        assert caller.request(*put, data=body, content_type=content_type).status_code == 200


def test_what_is_no_path_of_ours_is_not_found(
    locked: None, caller: Company, control: Control, subtests: Any
) -> None:
    for path in (
        f"/invoices/test/status/{SESSION}%2fx",
        f"/invoices/test/status/%2e%2e%2f{SESSION}",
        f"/invoices/test%2Fstatus%2F{SESSION}%2Fx",
        f"/invoices/test/status/{SESSION}/{KSEF_NUMBER}%2fx/upo",
        f"/invoices/test/status/{SESSION}%2f{KSEF_NUMBER}/upo",
        f"/invoices/test/status/{SESSION}%2F{KSEF_NUMBER}%2Fupo?docType=xml",
        f"/invoices%2ftest/status/{SESSION}",
        "/auth%2ftest",
        "%2fstatus",
        f"/invoices/test/status/{SESSION}/",
        f"/invoices//test/status/{SESSION}",
        "/invoices/test/status/",
        "/invoices",
    ):
        with subtests.test(path=path):
            answer = caller.get(path)
            assert (answer.status_code, answer.get_json()["code"]) == (404, "not_found")
    assert control.calls() == []


@pytest.mark.parametrize("path", ["//metrics", "//auth/test", "///status", "//console"])
def test_slashes_too_many_lead_nowhere(caller: Company, path: str) -> None:
    answer = caller.get("/", environ_overrides={"PATH_INFO": path, "RAW_URI": path})
    assert answer.status_code == 404


def test_numbers_of_ksef_and_of_its_documentation_pass(caller: Company, subtests: Any) -> None:
    """They get as far as the company's session with KSeF, which is not there."""
    paths = [
        upo_path("demo"),
        upo_path("prod", SHORTENED_SESSION, SHORTENED_NUMBER),
        f"{upo_path('test', SHORTENED_SESSION, SHORTENED_NUMBER)}?docType=xml",
        f"{upo_path('test', SESSION.replace('SO', 'SB'), KSEF_1_NUMBER)}?docType=pdf",
        *(status_path(name) for name in ("test", "demo", "prod")),
        status_path("test", SHORTENED_SESSION),
    ]
    for path in paths:
        with subtests.test(path=path):
            answer = caller.get(path)
            assert (answer.status_code, answer.get_json()["code"]) == (
                404,
                "no_active_ksef_session",
            )


class TestOrder:
    """Who asks is asked before what; what is asked is checked before how things stand."""

    bad = status_path("x", "y") + "?z=1"

    def test_401_before_400(self, caller: Company) -> None:
        assert caller.client.get(self.bad).status_code == 401

    def test_403_before_400(self, make_company: Callable[..., Company]) -> None:
        auditor = make_company("7171642051", role="auditor", logged_in=False)
        assert auditor.get(self.bad).status_code == 403

    def test_400_before_409(self, caller: Company, service: Service) -> None:
        outages.simulate(service.db, "test", company_nip=caller.nip, message="x", ends_at=None)
        assert caller.get(status_path(session="y")).status_code == 400
        assert caller.get(f"{upo_path()}?docType=html").status_code == 400
        assert caller.get(upo_path()).status_code == 409

    def test_409_before_404(self, caller: Company, service: Service) -> None:
        assert caller.get(status_path()).get_json()["code"] == "no_active_ksef_session"
        outages.simulate(service.db, "test", company_nip=caller.nip, message="x", ends_at=None)
        assert caller.get(status_path()).get_json()["code"] == "outage_simulation"

    def test_403_of_production_before_400(
        self, caller: Company, make_company: Callable[..., Company]
    ) -> None:
        """Whatever is wrong with the query or the body; who may not simulate is told that first."""
        path, technical = "/outages/prod/simulation", make_company("7171642051", role="technical")
        for method, given in (
            ("PUT", {}),
            ("PUT", {"data": b"{", "content_type": "application/json"}),
            ("PUT", {"json": {"message": ""}}),
            ("PUT", {"json": {"message": "x"}, "query_string": "x=1"}),
            ("DELETE", {"query_string": "x=1"}),
        ):
            assert caller.client.open(path, method=method, **given).status_code == 401
            code = technical.request(method, path, **given).get_json()["code"]
            assert code == "forbidden"
            answer = caller.request(method, path, **given)
            assert_problem(answer, 403, "simulation_forbidden")
        assert caller.request("PUT", "/outages/PROD/simulation").status_code == 400
