"""What becomes of a refusal, and of a call that fails."""

import socket
import ssl
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import requests
import responses
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from app import clock, errors
from app.ksef import failures
from app.ksef.failures import KsefTokenRejected
from app.ksef.http import JSON_LIMIT, Http, Route
from app.ksef.login import PUBLIC_KEYS
from sandbox.control import Control
from tests.ksef.answers import URL, old_problem, problem

X = Route("GET", "/x")
HTML = "<html><body>Request unsuccessful. Incident ID: 1294-4237</body></html>"
PAGE = "<!DOCTYPE html><html><body>Przerwa techniczna</body></html>"
WAF = {"title": "Request blocked", "status": 403, "security": {"incidentId": "1294-4237"}}


def refused(ksef: responses.RequestsMock, http: Http, **answer: Any) -> Any:
    """The error that an answer of KSeF ends in."""
    ksef.get(f"{URL}/x", **answer)
    with pytest.raises(errors.KsefFailure) as caught:
        http.send(X, bearer="secret-bearer")
    assert "secret-bearer" not in caught.value.detail
    return caught.value


class TestRefusals:
    @pytest.mark.parametrize("body", [problem(21173), old_problem(21173)], ids=["new", "old"])
    def test_ksefs_own_code_and_words_are_kept(
        self, ksef: responses.RequestsMock, http: Http, body: Any
    ) -> None:
        error = refused(ksef, http, status=400, json=body)
        assert type(error) is errors.KsefError
        assert error.detail == "KSeF refused with HTTP 400: Powód."
        assert (error.ksef.http_status, error.ksef.code) == (400, 21173)
        assert error.ksef.description == "Powód."

    @pytest.mark.parametrize(
        ("body", "details"),
        [
            (problem(9105), ("Szczegół.",)),
            ({"errors": [{"code": 1, "details": ["a", "", None, 5, "b\0"]}]}, ("a", "b")),
            ({"errors": [{"details": ["a\n\x1b[31mb\u202e"]}]}, ("a  [31mb",)),
            ({"errors": [{"details": ["a"]}, {"details": ["b"]}, 7]}, ("a", "b")),
            ({"exception": {"exceptionDetailList": [{"details": ["old"]}]}}, ("old",)),
            ({"status": {"code": 429, "details": ["of a 429"]}}, ("of a 429",)),
            ({"security": {"requiredAnyOfPermissions": ["InvoiceWrite"]}}, ("InvoiceWrite",)),
            ({"errors": [{"details": ["x" * 1000]}]}, ("x" * 500,)),
            ({"errors": [{"details": ["x"] * 1000}]}, ("x",) * 20),
            (
                {"errors": [{"details": ["\U0001f600" * 500] * 20}]},
                ("\U0001f600" * 500,) * 8 + ("… (12 more)",),
            ),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_details_are_kept(
        self, ksef: responses.RequestsMock, http: Http, body: Any, details: Any
    ) -> None:
        assert refused(ksef, http, status=400, json=body).ksef.details == details

    def test_a_code_that_no_column_holds_is_none(
        self, ksef: responses.RequestsMock, http: Http
    ) -> None:
        assert refused(ksef, http, status=400, json=problem(10**30)).ksef.code is None

    def test_the_trace_id_is_kept(self, ksef: responses.RequestsMock, http: Http) -> None:
        assert refused(ksef, http, status=400, json=problem(1)).ksef.trace_id == "trace-1"

    @pytest.mark.parametrize(
        "body",
        [
            {"errors": []},
            {"errors": [None]},
            {"errors": "x"},
            {"errors": [{"code": "21173", "description": 5}]},
            {"exception": None},
            {"exception": {"exceptionDetailList": [[]]}},
            {"status": 400},
            {"title": {}, "traceId": 1, "reasonCode": []},
            [1],
            "text",
            None,
        ],
        ids=str,
    )
    def test_a_refusal_of_any_shape_is_a_ksef_error(
        self, ksef: responses.RequestsMock, http: Http, body: Any
    ) -> None:
        error = refused(ksef, http, status=400, json=body)
        assert type(error) is errors.KsefError
        assert error.detail == "KSeF refused with HTTP 400."
        assert error.ksef == errors.KsefAnswer(400)

    def test_a_401_rejects_the_token(self, ksef: responses.RequestsMock, http: Http) -> None:
        error = refused(ksef, http, status=401, json={"title": "Unauthorized", "status": 401})
        assert type(error) is KsefTokenRejected
        assert error.ksef.http_status == 401

    @pytest.mark.parametrize("body", ["", " \r\n"])
    def test_an_empty_403_rejects_the_token_too(
        self, ksef: responses.RequestsMock, http: Http, body: str
    ) -> None:
        assert type(refused(ksef, http, status=403, body=body)) is KsefTokenRejected

    @pytest.mark.parametrize(
        ("status", "answer"),
        [(403, {"json": WAF}), (403, {"body": HTML}), (403, {"body": PAGE}), (200, {"body": HTML})],
        ids=["json", "html", "a page without a mark", "html 200"],
    )
    def test_the_firewall_says_nothing_about_the_token(
        self, ksef: responses.RequestsMock, http: Http, status: int, answer: Any
    ) -> None:
        error = refused(ksef, http, status=status, **answer)
        assert type(error) is errors.KsefError
        assert error.health is errors.KsefHealth.BLOCKED
        assert "Incident" not in error.detail

    def test_a_missing_right_is_told_by_its_reason(
        self, ksef: responses.RequestsMock, http: Http
    ) -> None:
        body = {"status": 403, "reasonCode": "missing-permissions"}
        error = refused(ksef, http, status=403, json=body)
        assert type(error) is errors.KsefError
        assert error.ksef.reason == "missing-permissions"
        assert error.detail == "KSeF refused with HTTP 403: missing-permissions."

    def test_and_by_its_name(self, ksef: responses.RequestsMock, http: Http) -> None:
        body = {
            "status": 403,
            "detail": "Brak uprawnień.",
            "reasonCode": "missing-permissions",
            "security": {
                "requiredAnyOfPermissions": ["InvoiceWrite", "Introspection"],
                "presentPermissions": [],
            },
        }
        error = refused(ksef, http, status=403, json=body)
        words = "Brak uprawnień (any of InvoiceWrite, Introspection)"
        assert error.detail == f"KSeF refused with HTTP 403: {words}."
        assert error.ksef.details == ("InvoiceWrite", "Introspection")
        assert error.health is errors.KsefHealth.ANSWERING

    @pytest.mark.parametrize("status", [500, 502, 503, 504])
    def test_html_of_a_failure_is_never_repeated(
        self, ksef: responses.RequestsMock, http: Http, status: int
    ) -> None:
        error = refused(ksef, http, status=status, body=HTML, content_type="text/html")
        assert type(error) is errors.KsefError
        assert error.detail == f"KSeF failed with HTTP {status}."
        assert error.ksef == errors.KsefAnswer(status)

    def test_long_words_are_cut(self, ksef: responses.RequestsMock, http: Http) -> None:
        error = refused(ksef, http, status=400, json=problem(1, "x" * 10_000))
        assert error.ksef.description == "x" * 500

    def test_a_long_refusal_is_not_read_to_its_end(
        self, ksef: responses.RequestsMock, http: Http
    ) -> None:
        error = refused(ksef, http, status=500, body=b" " * (JSON_LIMIT + 1))
        assert isinstance(error, errors.KsefInvalidResponse)


def in_an_hour() -> str:
    return format_datetime(clock.now().replace(microsecond=0) + timedelta(hours=1), usegmt=True)


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("header", "seconds"),
        [
            ("30", 30),
            (" 2680 ", 2680),
            ("0", 1),
            ("86400", 86400),
            (None, 60),
            ("", 60),
            ("-5", 60),
            ("1.5", 60),
            ("soon", 60),
            ("٣٠", 60),
            ("Wed, 21 Oct 2015 07:28:00 GMT", 60),
            ("Wed, 21 Oct 2015 07:28:00", 60),
        ],
    )
    def test_seconds(
        self, ksef: responses.RequestsMock, http: Http, header: str | None, seconds: int
    ) -> None:
        headers = {} if header is None else {"Retry-After": header}
        error = refused(ksef, http, status=429, headers=headers, json={"status": 429})
        assert type(error) is errors.KsefRateLimited
        assert error.retry_after == seconds

    def test_a_date_is_reckoned_from_now(self, ksef: responses.RequestsMock, http: Http) -> None:
        error = refused(ksef, http, status=429, headers={"Retry-After": in_an_hour()})
        assert 3590 <= error.retry_after <= 3601

    @pytest.mark.fault(7, 24)
    def test_a_date_is_reckoned_by_ksef_s_clock(
        self, ksef: responses.RequestsMock, http: Http
    ) -> None:
        headers = {
            "Date": "Wed, 21 Oct 2015 07:28:00 GMT",
            "Retry-After": "Wed, 21 Oct 2015 07:29:40 GMT",
        }
        assert refused(ksef, http, status=429, headers=headers).retry_after == 100

    @pytest.mark.parametrize("digits", [10, 20, 5000])
    def test_more_than_anybody_can_wait_is_still_a_number_that_sql_and_json_hold(
        self, ksef: responses.RequestsMock, http: Http, digits: int
    ) -> None:
        error = refused(ksef, http, status=429, headers={"Retry-After": "9" * digits})
        assert error.retry_after == 2**31 - 1

    @given(st.text(max_size=60) | st.from_regex(r"\w{3}, \d+ Jan \d+ \d+:\d+:\d+ [+-]?\w+"))
    def test_any_text_is_a_wait_of_a_second_or_more(self, header: str) -> None:
        assert failures._retry_after({"Retry-After": header}) >= 1

    def test_the_words_of_a_429_are_kept(self, ksef: responses.RequestsMock, http: Http) -> None:
        body = {"status": {"code": 429, "description": "Too Many Requests", "details": ["…"]}}
        error = refused(ksef, http, status=429, json=body)
        assert (error.ksef.code, error.ksef.description) == (429, "Too Many Requests")


def wrapped(error: BaseException) -> requests.ConnectionError:
    """As requests wraps what urllib3 wraps."""
    pool: Any = None
    return requests.ConnectionError(urllib3.exceptions.MaxRetryError(pool, "/x", error))


POOL: Any = None
NEW: Any = urllib3.exceptions.NewConnectionError


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


class TestMeaning:
    """What an error says of KSeF as a whole."""

    @pytest.mark.parametrize(
        "error",
        [
            wrapped(caused(NEW(POOL, "refused"), ConnectionRefusedError(111, "refused"))),
            requests.ConnectionError(
                urllib3.exceptions.ProtocolError("aborted", ConnectionResetError(104, "reset"))
            ),
            requests.ReadTimeout(urllib3.exceptions.ReadTimeoutError(POOL, "/x", "late")),
            requests.exceptions.ChunkedEncodingError(urllib3.exceptions.IncompleteRead(1, 2)),
        ],
        ids=repr,
    )
    def test_so_it_looks_when_ksef_is_down(
        self, ksef: responses.RequestsMock, http: Http, error: Exception
    ) -> None:
        assert refused(ksef, http, body=error).health is errors.KsefHealth.DOWN

    @pytest.mark.parametrize(
        "error",
        [
            wrapped(caused(NEW(POOL, "no name"), socket.gaierror(-2, "not known"))),
            wrapped(caused(NEW(POOL, "no route"), OSError(113, "No route to host"))),
            wrapped(caused(NEW(POOL, "no net"), OSError(101, "Network is unreachable"))),
            requests.ConnectTimeout(urllib3.exceptions.ConnectTimeoutError(POOL, "/x", "late")),
            requests.exceptions.SSLError(ssl.SSLCertVerificationError("self-signed")),
            # The proxy, and not KSeF, refuses.
            requests.exceptions.ProxyError(ConnectionRefusedError(111, "refused")),
            wrapped(caused(ssl.SSLEOFError("eof"), ConnectionResetError(104, "reset"))),
            requests.exceptions.ContentDecodingError("no gzip"),
        ],
        ids=repr,
    )
    def test_our_own_trouble_says_nothing_of_ksef(
        self, ksef: responses.RequestsMock, http: Http, error: Exception
    ) -> None:
        assert refused(ksef, http, body=error).health is errors.KsefHealth.UNKNOWN

    @pytest.mark.parametrize(
        ("answer", "health"),
        [
            ({"status": 500}, errors.KsefHealth.DOWN),
            ({"status": 503, "body": HTML}, errors.KsefHealth.DOWN),  # whoever made the page
            ({"status": 404, "body": PAGE}, errors.KsefHealth.DOWN),
            ({"status": 400, "json": problem(21173)}, errors.KsefHealth.ANSWERING),
            ({"status": 401, "json": {}}, errors.KsefHealth.ANSWERING),
            (
                {"status": 403, "json": {"reasonCode": "ip-not-allowed"}},
                errors.KsefHealth.ANSWERING,
            ),
            ({"status": 403, "json": WAF}, errors.KsefHealth.BLOCKED),
            ({"status": 403, "json": {**WAF, "reasonCode": "x"}}, errors.KsefHealth.ANSWERING),
            ({"status": 429}, errors.KsefHealth.ANSWERING),
            ({"status": 302}, errors.KsefHealth.UNKNOWN),
        ],
        ids=str,
    )
    def test_answers(
        self,
        ksef: responses.RequestsMock,
        http: Http,
        answer: Any,
        health: errors.KsefHealth,
    ) -> None:
        assert refused(ksef, http, **answer).health is health

    def test_a_dripping_answer_is_out_of_time(self, sandbox: Any) -> None:
        http = Http("test", f"{sandbox.url}/test/v2", connect=1, call=0.3, threads=1)
        Control(sandbox.url).fault("drip", path="/security/", secondsPerByte=0.05)
        with pytest.raises(errors.KsefUnreachable) as caught:
            http.send(PUBLIC_KEYS)
        assert caught.value.health is errors.KsefHealth.DOWN

    @pytest.mark.parametrize("fault", ["hang", "drip"])
    def test_a_call_that_had_not_its_full_time_says_nothing_of_ksef(
        self, control: Control, sandbox: Any, fault: str
    ) -> None:
        http = Http("test", f"{sandbox.url}/test/v2", connect=1, call=5, threads=1)
        control.fault(fault, path="/security/")
        with clock.within(0.3), pytest.raises(errors.KsefUnreachable, match="in time") as caught:
            http.send(PUBLIC_KEYS)
        assert caught.value.health is errors.KsefHealth.UNKNOWN

    def test_a_connection_that_breaks_off_counts_however_little_time_is_left(
        self, control: Control, sandbox: Any
    ) -> None:
        http = Http("test", f"{sandbox.url}/test/v2", connect=1, call=5, threads=1)
        control.fault("reset", path="/security/")
        with clock.within(4), pytest.raises(errors.KsefUnreachable) as caught:
            http.send(PUBLIC_KEYS)
        assert caught.value.health is errors.KsefHealth.DOWN


class TestConnection:
    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (requests.ConnectTimeout("host"), "in time"),
            (requests.ReadTimeout("host"), "in time"),
            (requests.ConnectionError("host"), "could not be reached"),
            (requests.exceptions.SSLError("host"), "No secure connection"),
            (requests.exceptions.ChunkedEncodingError("host"), "could not be reached"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_no_answer_is_unreachable_and_is_not_tried_again(
        self, ksef: responses.RequestsMock, http: Http, error: Exception, words: str
    ) -> None:
        ksef.get(f"{URL}/x", body=error)
        with pytest.raises(errors.KsefUnreachable, match=words) as caught:
            http.send(X)
        assert "host" not in caught.value.detail
        assert len(ksef.calls) == 1
