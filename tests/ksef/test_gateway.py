"""Each call of KSeF's API: what is asked, what is understood."""

import base64
import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import responses
from responses.matchers import header_matcher, json_params_matcher, query_param_matcher

from app import errors
from app.ksef import wire
from app.ksef.gateway import PAGE_SIZE, UPO, Gateway, is_ksef_reference
from app.ksef.transport import UPO_LIMIT, KsefTokenRejected
from tests.ksef import answers
from tests.ksef.answers import KSEF_NUMBER, SESSION, URL

BEARER = header_matcher({"Authorization": "Bearer access"})
NO_QUERY = query_param_matcher({})
SHORTENED = "20260101-AU-XXXXXXXX-XXXX-XX"  # as in documentation: our wider shape
LOGIN = wire.StartedLogin("20260115-AU-0123456789-ABCDEF0123-4F", wire.Token("operation", None))
ANY_CALL = re.compile(re.escape(URL))
LOGIN_BEARER = header_matcher({"Authorization": "Bearer operation"})


def nobody(request: Any) -> tuple[bool, str]:
    """Matches a request without a bearer."""
    return "Authorization" not in request.headers, "a bearer was sent"


class TestLogin:
    def test_public_keys(self, ksef: responses.RequestsMock, gateway: Gateway) -> None:
        url = f"{URL}/security/public-key-certificates"
        ksef.get(url, json=[answers.public_key(), answers.public_key(usage=[])], match=[nobody])
        first, second = gateway.public_keys()
        assert first == wire.PublicKey(
            certificate=base64.b64decode("MIIB"),
            key_id="key-1",
            usages=["KsefTokenEncryption"],
            valid_from=datetime(2026, 1, 1, tzinfo=UTC),
            valid_to=datetime(2028, 1, 1, tzinfo=UTC),
        )
        assert second.usages == []

    def test_challenge(self, ksef: responses.RequestsMock, gateway: Gateway) -> None:
        ksef.post(f"{URL}/auth/challenge", json=answers.challenge(), match=[nobody])
        assert gateway.challenge() == wire.Challenge(
            "20260115-CR-0123456789-ABCDEF0123-4F", 1768474800123
        )

    def test_start_with_token(self, ksef: responses.RequestsMock, gateway: Gateway) -> None:
        expected = {
            "challenge": "the challenge",
            "contextIdentifier": {"type": "Nip", "value": "5265877635"},
            "encryptedToken": base64.b64encode(b"\x00\xff").decode(),
            "publicKeyId": "key-1",
        }
        ksef.post(
            f"{URL}/auth/ksef-token",
            status=202,
            json=answers.started_login(),
            match=[json_params_matcher(expected), nobody],
        )
        login = gateway.start_login_with_token(
            nip="5265877635",
            challenge="the challenge",
            encrypted_token=b"\x00\xff",
            public_key_id="key-1",
        )
        assert login.reference_number == "20260115-AU-0123456789-ABCDEF0123-4F"
        assert login.operation_token.value == "operation-token"

    def test_status(self, ksef: responses.RequestsMock, gateway: Gateway) -> None:
        body = {"status": {"code": 450, "description": "Błąd tokena", "details": ["Unieważniony"]}}
        ksef.get(f"{URL}/auth/{LOGIN.reference_number}", json=body, match=[LOGIN_BEARER])
        assert gateway.login_status(LOGIN) == wire.Status(450, "Błąd tokena", ["Unieważniony"])

    def test_redeem(self, ksef: responses.RequestsMock, gateway: Gateway) -> None:
        ksef.post(f"{URL}/auth/token/redeem", json=answers.tokens(), match=[LOGIN_BEARER])
        end = datetime(2026, 1, 15, 11, 15, tzinfo=UTC)
        assert gateway.redeem(LOGIN) == wire.Tokens(
            wire.Token("access-token", end), wire.Token("refresh-token", end)
        )

    def test_refresh(self, ksef: responses.RequestsMock, gateway: Gateway) -> None:
        bearer = header_matcher({"Authorization": "Bearer refresh"})
        body = {"accessToken": answers.token("next")}
        ksef.post(f"{URL}/auth/token/refresh", json=body, match=[bearer])
        assert gateway.refresh("refresh").value == "next"
        request = ksef.calls[0].request
        assert request.body is None
        assert "Content-Type" not in request.headers

    def test_revoke(self, ksef: responses.RequestsMock, gateway: Gateway) -> None:
        ksef.delete(f"{URL}/auth/sessions/current", status=204, match=[BEARER])
        gateway.revoke("access")

    def test_no_token_shows_in_a_repr(self) -> None:
        assert "secret" not in repr(
            wire.Tokens(wire.Token("secret", None), wire.Token("secret", None))
        )


class TestSessionStatus:
    def test_what_became_of_it(self, ksef: responses.RequestsMock, gateway: Gateway) -> None:
        ksef.get(
            f"{URL}/sessions/{SESSION}", json=answers.session_status(), match=[BEARER, NO_QUERY]
        )
        assert gateway.session_status("access", SESSION) == wire.SessionStatus(
            status=wire.Status(200, "Sesja interaktywna przetworzona pomyślnie"),
            date_created=datetime(2026, 1, 15, 11, 0, 0, 123456, tzinfo=UTC),
            date_updated=datetime(2026, 1, 15, 11, 5, tzinfo=UTC),
            invoice_count=3,
            successful_invoice_count=2,
            failed_invoice_count=1,
            counted=True,
            upo_pages=[wire.UpoPage("20260115-EU-0123456789-ABCDEF0123-4F")],
        )

    def test_counts_and_upo_that_are_not_there_yet(
        self, ksef: responses.RequestsMock, gateway: Gateway
    ) -> None:
        body = answers.session_status(invoiceCount=None, upo=None)
        for name in ("successfulInvoiceCount", "failedInvoiceCount"):
            body = answers.without(body, name)
        ksef.get(f"{URL}/sessions/{SESSION}", json=body)
        session = gateway.session_status("access", SESSION)
        counts = (
            session.invoice_count,
            session.successful_invoice_count,
            session.failed_invoice_count,
        )
        assert counts == (0, 0, 0)
        assert not session.counted
        assert session.upo_pages == []

    @pytest.mark.parametrize("code", [21173, 21405])
    @pytest.mark.parametrize("reference", [SESSION, SHORTENED])
    def test_no_such_session(
        self, ksef: responses.RequestsMock, gateway: Gateway, code: int, reference: str
    ) -> None:
        ksef.get(f"{URL}/sessions/{reference}", status=400, json=answers.problem(code))
        with pytest.raises(errors.SessionNotFound) as caught:
            gateway.session_status("access", reference)
        assert caught.value.ksef.code == code

    def test_another_refusal_stays_an_error(
        self, ksef: responses.RequestsMock, gateway: Gateway
    ) -> None:
        ksef.get(f"{URL}/sessions/{SESSION}", status=400, json=answers.problem(21178))
        with pytest.raises(errors.KsefError):
            gateway.session_status("access", SESSION)

    def test_a_refused_bearer_is_told_apart(
        self, ksef: responses.RequestsMock, gateway: Gateway
    ) -> None:
        ksef.get(f"{URL}/sessions/{SESSION}", status=401)
        with pytest.raises(KsefTokenRejected):
            gateway.session_status("access", SESSION)

    def test_a_number_cannot_leave_its_place_in_the_path(
        self, ksef: responses.RequestsMock, gateway: Gateway
    ) -> None:
        ksef.get(f"{URL}/sessions/..%2Fauth%3Fx%23y%20%C5%82", json=answers.session_status())
        gateway.session_status("access", "../auth?x#y ł")
        assert ksef.calls[0].request.path_url == "/v2/sessions/..%2Fauth%3Fx%23y%20%C5%82"

    def test_json_nested_deeply_breaks_the_contract(
        self, ksef: responses.RequestsMock, gateway: Gateway
    ) -> None:
        ksef.get(f"{URL}/sessions/{SESSION}", body="[" * 200 + "]" * 200)
        with pytest.raises(errors.KsefInvalidResponse, match="the body is not an object"):
            gateway.session_status("access", SESSION)


class TestSessionInvoices:
    url = f"{URL}/sessions/{SESSION}/invoices"

    def test_a_first_page(self, ksef: responses.RequestsMock, gateway: Gateway) -> None:
        page_size = query_param_matcher({"pageSize": "1000"})
        body = answers.invoice_page(1, 2, token="next")
        ksef.get(self.url, json=body, match=[page_size, BEARER])
        page = gateway.session_invoices("access", SESSION)
        assert "x-continuation-token" not in ksef.calls[0].request.headers
        assert page.continuation_token == "next"
        assert page.invoices[0] == wire.SessionInvoice(
            ordinal_number=1,
            reference_number="20260115-EE-0000000001-ABCDEF0123-4F",
            invoice_number="FV/2026/01/001",
            ksef_number="5265877635-20260115-000000000001-00",
            acquisition_date=datetime(2026, 1, 15, 11, 1, tzinfo=UTC),
            status=wire.Status(200, "Sukces"),
            duplicate_of=None,
        )
        assert page.invoices[1].ordinal_number == 2

    def test_a_further_page(self, ksef: responses.RequestsMock, gateway: Gateway) -> None:
        carried = header_matcher({"x-continuation-token": "W34idG9rZW4i=="})
        page_size = query_param_matcher({"pageSize": str(PAGE_SIZE)})
        ksef.get(self.url, json=answers.invoice_page(1), match=[page_size, carried])
        assert gateway.session_invoices("access", SESSION, "W34idG9rZW4i==").invoices

    @pytest.mark.parametrize("end", [None, ""])
    def test_the_last_page_has_no_token_or_an_empty_one(
        self, ksef: responses.RequestsMock, gateway: Gateway, end: str | None
    ) -> None:
        ksef.get(self.url, json=answers.invoice_page(token=end))
        assert gateway.session_invoices("access", SESSION) == wire.InvoicePage([], None)

    @pytest.mark.parametrize(
        "token",
        ["a\r\nX-Evil: 1", "a\nb", "ż", "a\0b", "x" * 2**20],
        ids=["crlf", "lf", "polish", "nul", "1 MB"],
    )
    def test_a_token_that_fits_no_header_is_not_sent(
        self, ksef: responses.RequestsMock, gateway: Gateway, token: str
    ) -> None:
        with pytest.raises(errors.KsefInvalidResponse, match="continuation token"):
            gateway.session_invoices("access", SESSION, token)
        assert len(ksef.calls) == 0

    @pytest.mark.parametrize("code", [21173, 21405])
    def test_no_such_session(
        self, ksef: responses.RequestsMock, gateway: Gateway, code: int
    ) -> None:
        ksef.get(self.url, status=400, json=answers.problem(code))
        with pytest.raises(errors.SessionNotFound):
            gateway.session_invoices("access", SESSION)

    def test_a_duplicate_names_its_original(
        self, ksef: responses.RequestsMock, gateway: Gateway
    ) -> None:
        ksef.get(self.url, json={"invoices": [answers.duplicate()]})
        (invoice,) = gateway.session_invoices("access", SESSION).invoices
        assert not invoice.is_accepted
        assert invoice.status == wire.Status(440, "Duplikat faktury", ["Duplikat."])
        assert invoice.duplicate_of == wire.Original(
            KSEF_NUMBER, "20250826-SO-0123456789-ABCDEF0123-4F"
        )


class TestUpo:
    url = f"{URL}/sessions/{SESSION}/invoices/ksef/{KSEF_NUMBER}/upo"
    xml = b'\xef\xbb\xbf<?xml version="1.0"?>\r\n<Potwierdzenie/>\n'

    def upo(self, gateway: Gateway, reference: str = SESSION, number: str = KSEF_NUMBER) -> Any:
        return gateway.upo("access", reference, number)

    def test_the_bytes_are_ksefs(self, ksef: responses.RequestsMock, gateway: Gateway) -> None:
        digest = hashlib.sha256(self.xml).digest()
        ksef.get(
            self.url,
            body=self.xml,
            headers={"X-MS-Meta-Hash": base64.b64encode(digest).decode()},
            match=[BEARER, NO_QUERY],
        )
        document = self.upo(gateway)
        assert document.content == self.xml
        assert document.sha256 == digest

    @pytest.mark.parametrize(
        ("header", "sha256"), [({}, None), ({"x-ms-meta-hash": "no Base64"}, b"")]
    )
    def test_a_hash_that_is_not_there_and_one_that_no_body_has(
        self, ksef: responses.RequestsMock, gateway: Gateway, header: Any, sha256: bytes | None
    ) -> None:
        ksef.get(self.url, body=self.xml, headers=header)
        assert self.upo(gateway).sha256 == sha256

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
        gateway: Gateway,
        code: int,
        reference: str,
        expected: type[Exception],
    ) -> None:
        url = f"{URL}{UPO.path(reference, KSEF_NUMBER)}"
        ksef.get(url, status=400, json=answers.problem(code))
        with pytest.raises(errors.ProxyError) as caught:
            self.upo(gateway, reference)
        assert type(caught.value) is expected

    @pytest.mark.parametrize(("size", "fits"), [(UPO_LIMIT, True), (UPO_LIMIT + 1, False)])
    def test_a_upo_may_be_longer_than_json(
        self, ksef: responses.RequestsMock, gateway: Gateway, size: int, fits: bool
    ) -> None:
        ksef.get(self.url, body=bytes(size))
        if fits:
            assert len(self.upo(gateway).content) == size
        else:
            with pytest.raises(errors.KsefInvalidResponse):
                self.upo(gateway)


@pytest.mark.parametrize(
    "call",
    [
        lambda gateway: gateway.public_keys(),
        lambda gateway: gateway.challenge(),
        lambda gateway: gateway.login_status(LOGIN),
        lambda gateway: gateway.redeem(LOGIN),
        lambda gateway: gateway.refresh("refresh"),
        lambda gateway: gateway.session_status("access", SESSION),
        lambda gateway: gateway.session_invoices("access", SESSION),
    ],
)
def test_json_of_another_kind_breaks_the_contract(
    gateway: Gateway, call: Callable[[Gateway], Any]
) -> None:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as ksef:
        ksef.get(ANY_CALL, json="text")
        ksef.post(ANY_CALL, json="text")
        with pytest.raises(errors.KsefFailure, match="breaks its contract: the body is not"):
            call(gateway)


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
