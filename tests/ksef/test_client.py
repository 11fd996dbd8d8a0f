"""Each call of KSeF's API: what is asked, what is understood."""

import base64
import hashlib
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
import responses
from responses.matchers import header_matcher, query_param_matcher

from app import clock, errors
from app.ksef import wire
from app.ksef.client import UPO, Client, is_ksef_reference
from app.ksef.failures import Retry
from app.ksef.http import JSON_LIMIT, LONG_LIMIT, Http
from app.ksef.metered import Metered
from tests.ksef import answers
from tests.ksef.answers import KSEF_NUMBER, SESSION, URL
from tests.ksef.conftest import Company

BEARER = header_matcher({"Authorization": "Bearer access"})
NO_QUERY = query_param_matcher({})
SHORTENED = "20260101-AU-XXXXXXXX-XXXX-XX"  # as in documentation: our wider shape


def nobody(request: Any) -> tuple[bool, str]:
    """Matches a request without a bearer."""
    return "Authorization" not in request.headers, "a bearer was sent"


class TestSessionStatus:
    def test_what_became_of_it(self, ksef: responses.RequestsMock, client: Client) -> None:
        ksef.get(
            f"{URL}/sessions/{SESSION}", json=answers.session_status(), match=[BEARER, NO_QUERY]
        )
        assert client.session_status(SESSION) == wire.Session(
            status=wire.Status(200, "Sesja interaktywna przetworzona pomyślnie"),
            date_created=datetime(2026, 1, 15, 11, 0, 0, 123457, tzinfo=UTC),
            date_updated=datetime(2026, 1, 15, 11, 5, tzinfo=UTC),
            total=3,
            successful_invoice_count=2,
            failed_invoice_count=1,
            upo=wire.Upo((wire.UpoPage("20260115-EU-0123456789-ABCDEF0123-4F"),)),
        )

    @pytest.mark.parametrize(
        ("date", "moment"),
        [
            ("Thu, 15 Jan 2026 12:05:00 GMT", datetime(2026, 1, 15, 12, 5, tzinfo=UTC)),
            ("Thu, 15 Jan 2026", None),
            ("Fri, 31 Dec 9999 23:59:59 -1200", None),
            ("Thu, 15 Jan 99999999999 12:05:00 GMT", None),
        ],
    )
    def test_what_time_it_is_at_ksef(
        self, ksef: responses.RequestsMock, client: Client, date: str, moment: datetime | None
    ) -> None:
        ksef.get(f"{URL}/sessions/{SESSION}", json=answers.session_status(), headers={"Date": date})
        client.session_status(SESSION)
        assert client.said_at == moment

    def test_counts_and_upo_that_are_not_there_yet(
        self, ksef: responses.RequestsMock, client: Client
    ) -> None:
        body = answers.session_status(invoiceCount=None, upo=None)
        for name in ("successfulInvoiceCount", "failedInvoiceCount"):
            body = answers.without(body, name)
        ksef.get(f"{URL}/sessions/{SESSION}", json=body)
        session = client.session_status(SESSION)
        counts = (
            session.invoice_count,
            session.successful_invoice_count,
            session.failed_invoice_count,
        )
        assert counts == (0, 0, 0)
        assert session.total is None
        assert session.upo_pages == ()

    @pytest.mark.parametrize("code", [21173, 21405])
    @pytest.mark.parametrize("reference", [SESSION, SHORTENED])
    def test_no_such_session(
        self, ksef: responses.RequestsMock, client: Client, code: int, reference: str
    ) -> None:
        ksef.get(f"{URL}/sessions/{reference}", status=400, json=answers.problem(code))
        with pytest.raises(errors.SessionNotFound) as caught:
            client.session_status(reference)
        assert caught.value.ksef.code == code

    def test_another_refusal_stays_an_error(
        self, ksef: responses.RequestsMock, client: Client
    ) -> None:
        ksef.get(f"{URL}/sessions/{SESSION}", status=400, json=answers.problem(21178))
        with pytest.raises(errors.KsefError):
            client.session_status(SESSION)

    def test_a_number_cannot_leave_its_place_in_the_path(
        self, ksef: responses.RequestsMock, client: Client
    ) -> None:
        ksef.get(f"{URL}/sessions/..%2Fauth%3Fx%23y%20%C5%82", json=answers.session_status())
        client.session_status("../auth?x#y ł")
        assert ksef.calls[0].request.path_url == "/v2/sessions/..%2Fauth%3Fx%23y%20%C5%82"

    def test_json_nested_deeply_breaks_the_contract(
        self, ksef: responses.RequestsMock, client: Client
    ) -> None:
        ksef.get(f"{URL}/sessions/{SESSION}", body="[" * 200 + "]" * 200)
        with pytest.raises(errors.KsefInvalidResponse, match="the body: expected"):
            client.session_status(SESSION)


def test_one_invoice(ksef: responses.RequestsMock, client: Client) -> None:
    reference = answers.invoice()["referenceNumber"]
    url = f"{URL}/sessions/{SESSION}/invoices/{reference}"
    ksef.get(url, json=answers.invoice(), match=[BEARER, NO_QUERY])
    ksef.get(url, status=400, json=answers.problem(21173))
    ksef.get(url, status=400, json=answers.problem(21405))
    assert client.session_invoice(SESSION, reference).ordinal_number == 1
    with pytest.raises(errors.SessionNotFound):
        client.session_invoice(SESSION, reference)
    with pytest.raises(errors.KsefError):  # it is said of the invoice
        client.session_invoice(SESSION, reference)


class TestUpo:
    url = f"{URL}/sessions/{SESSION}/invoices/ksef/{KSEF_NUMBER}/upo"
    xml = b'\xef\xbb\xbf<?xml version="1.0"?>\r\n<Potwierdzenie/>\n'

    def upo(self, client: Client, reference: str = SESSION, number: str = KSEF_NUMBER) -> Any:
        return client.upo(reference, number)

    def test_the_bytes_are_ksefs(self, ksef: responses.RequestsMock, client: Client) -> None:
        digest = hashlib.sha256(self.xml).digest()
        ksef.get(
            self.url,
            body=self.xml,
            headers={"X-MS-Meta-Hash": base64.b64encode(digest).decode()},
            match=[BEARER, NO_QUERY],
        )
        document = self.upo(client)
        assert document.content == self.xml
        assert document.sha256 == digest

    @pytest.mark.parametrize(
        ("header", "sha256"), [({}, None), ({"x-ms-meta-hash": "no Base64"}, b"")]
    )
    def test_a_hash_that_is_not_there_and_one_that_no_body_has(
        self, ksef: responses.RequestsMock, client: Client, header: Any, sha256: bytes | None
    ) -> None:
        ksef.get(self.url, body=self.xml, headers=header)
        assert self.upo(client).sha256 == sha256

    @pytest.mark.parametrize(
        ("code", "reference", "expected"),
        [
            (21178, SESSION, errors.UpoNotAvailable),
            (21178, SHORTENED, errors.UpoNotAvailable),
            (21173, SESSION, errors.SessionNotFound),
            # 21405 says "malformed": the session's number where that has not KSeF's own shape,
            # else the invoice's.
            (21405, SHORTENED, errors.SessionNotFound),
            (21405, SESSION, errors.UpoNotAvailable),
            (21001, SESSION, errors.KsefError),
        ],
    )
    def test_what_ksef_does_not_find(
        self,
        ksef: responses.RequestsMock,
        client: Client,
        code: int,
        reference: str,
        expected: type[Exception],
    ) -> None:
        url = f"{URL}{UPO.path(reference, KSEF_NUMBER)}"
        ksef.get(url, status=400, json=answers.problem(code))
        with pytest.raises(errors.ProxyError) as caught:
            self.upo(client, reference)
        assert type(caught.value) is expected

    @pytest.mark.parametrize(("size", "fits"), [(LONG_LIMIT, True), (LONG_LIMIT + 1, False)])
    def test_a_upo_may_be_longer_than_json(
        self, ksef: responses.RequestsMock, client: Client, size: int, fits: bool
    ) -> None:
        ksef.get(self.url, body=bytes(size))
        if fits:
            assert len(self.upo(client).content) == size
        else:
            with pytest.raises(errors.KsefInvalidResponse):
                self.upo(client)


class TestOneCall:
    """Token, quota, and what is sent again."""

    url = f"{URL}/sessions/{SESSION}"

    def test_token_and_quota_come_first(
        self, ksef: responses.RequestsMock, client: Client, company: Company
    ) -> None:
        ksef.get(self.url, json=answers.session_status(), match=[BEARER])
        client.session_status(SESSION)
        assert company.noted == ["sessionMisc", "answered"]

    def test_a_known_outage_sends_nothing(
        self, ksef: responses.RequestsMock, client: Client, company: Company
    ) -> None:
        company.down = errors.KsefUnreachable("KSeF is down.")
        with pytest.raises(errors.KsefUnreachable, match="is down"):
            client.session_status(SESSION)
        assert len(ksef.calls) == 0

    @pytest.mark.parametrize(("header", "seconds"), [("17", 17), (None, 60)])
    def test_a_429_blocks_its_group_and_is_not_repeated(
        self,
        ksef: responses.RequestsMock,
        client: Client,
        company: Company,
        header: str | None,
        seconds: int,
    ) -> None:
        ksef.get(self.url, status=429, headers={"Retry-After": header} if header else {})
        with pytest.raises(errors.KsefRateLimited):
            client.session_status(SESSION)
        assert company.noted == ["sessionMisc", "answered", ("block", "sessionMisc", seconds)]

    def test_a_refused_token_is_refreshed_then_replaced_by_a_login(
        self, ksef: responses.RequestsMock, client: Client, company: Company
    ) -> None:
        for _ in range(2):
            ksef.get(self.url, status=401)
        ksef.get(
            self.url,
            json=answers.session_status(),
            match=[header_matcher({"Authorization": "Bearer logged in"})],
        )
        client.session_status(SESSION)
        assert [note for note in company.noted if note in ("refresh", "login")] == [
            "refresh",
            "login",
        ]

    def test_after_a_call_that_succeeded_a_refusal_is_met_with_a_refresh_again(
        self, ksef: responses.RequestsMock, client: Client, company: Company
    ) -> None:
        for _ in range(2):
            ksef.get(self.url, status=401)
            ksef.get(self.url, json=answers.session_status())
            client.session_status(SESSION)
        renewals = [noted for noted in company.noted if noted in ("refresh", "login")]
        assert renewals == ["refresh", "refresh"]

    @pytest.mark.parametrize("failure", [503, requests.ConnectionError(ConnectionResetError())])
    def test_a_failure_that_looks_temporary_is_repeated_once(
        self, ksef: responses.RequestsMock, client: Client, company: Company, failure: Any
    ) -> None:
        fault = {"status": failure} if isinstance(failure, int) else {"body": failure}
        ksef.get(self.url, **fault)
        ksef.get(self.url, json=answers.session_status())
        client.session_status(SESSION)
        assert ("reserve", "sessionMisc", 1) in company.noted
        for _ in range(2):
            ksef.get(self.url, **fault)
        with pytest.raises(errors.KsefFailure):
            client.session_status(SESSION)
        assert company.noted.count("sessionMisc") == 4

    @pytest.mark.parametrize(
        "answer",
        [{"status": 500}, {"status": 400}, {"body": requests.Timeout()}, {"body": "<html>"}],
        ids=str,
    )
    def test_another_failure_is_not_repeated(
        self, ksef: responses.RequestsMock, client: Client, answer: Any
    ) -> None:
        ksef.get(self.url, **answer)
        with pytest.raises(errors.KsefFailure):
            client.session_status(SESSION)

    def test_nor_one_that_finds_no_quota(
        self, ksef: responses.RequestsMock, client: Client, company: Company
    ) -> None:
        company.units = 0
        ksef.get(self.url, status=503)
        with pytest.raises(errors.KsefError):
            client.session_status(SESSION)

    def test_nor_one_that_finds_no_time(
        self, ksef: responses.RequestsMock, http: Http, company: Company
    ) -> None:
        metered = Metered(http, company, company, Retry(left=5, least=0.1, most=0.4))
        client = Client(metered, company, company)
        ksef.get(self.url, status=503)
        with clock.within(5), pytest.raises(errors.KsefError):
            client.session_status(SESSION)


class TestHealth:
    """What is told about KSeF's health."""

    @pytest.mark.parametrize(
        ("answer", "told"),
        [
            ({"json": answers.session_status()}, "answered"),
            ({"status": 400, "json": answers.problem(21001)}, "answered"),
            ({"status": 429}, "answered"),
            ({"body": bytes(JSON_LIMIT + 1)}, "answered"),
            ({"status": 500}, ("failed", errors.KsefHealth.DOWN)),
            ({"status": 403, "body": "<html>"}, ("failed", errors.KsefHealth.BLOCKED)),
            ({"status": 302}, ("failed", errors.KsefHealth.UNKNOWN)),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_each_outcome_is_told(
        self,
        ksef: responses.RequestsMock,
        metered: Metered,
        company: Company,
        answer: Any,
        told: Any,
    ) -> None:
        ksef.get(f"{URL}{UPO.path(SESSION, KSEF_NUMBER)}", **answer)
        with suppress(errors.KsefFailure):
            metered.send(UPO, SESSION, KSEF_NUMBER)
        assert told in company.noted
        assert ("answered" in company.noted) is (told == "answered")

    def test_a_download_is_not_sent_while_ksef_is_down_and_tells_nothing(
        self, ksef: responses.RequestsMock, client: Client, company: Company
    ) -> None:
        ksef.get(f"{URL}/upo?sig=1", body="<Potwierdzenie/>", match=[nobody])
        document = client.download(f"{URL}/upo?sig=1")
        assert document is not None
        assert document.content == b"<Potwierdzenie/>"
        assert client.download("https://elsewhere.example/upo") is None
        company.down = errors.KsefUnreachable("KSeF is down.")
        with pytest.raises(errors.KsefUnreachable):
            client.download(f"{URL}/upo?sig=1")
        assert company.noted == []


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        (SESSION, True),
        (SHORTENED, False),
        (SESSION.lower(), False),
        (SESSION + "\n", False),
        (SESSION.replace("2026", "２０２６"), False),
    ],
)
def test_ksefs_own_shape_of_a_reference(text: str, whole: bool) -> None:
    assert is_ksef_reference(text) is whole
