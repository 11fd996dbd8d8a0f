"""What is sent to KSeF, and what becomes of each of its answers."""

import gzip
import socket
import ssl
from collections.abc import Callable
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import orjson
import pytest
import requests
import responses
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from app import clock, errors
from app.ksef import transport as module
from app.ksef.transport import KsefTokenRejected, Transport
from app.version import VERSION
from sandbox.control import Control
from tests.ksef.answers import URL, old_problem, problem

HTML = "<html><body>Request unsuccessful. Incident ID: 1294-4237</body></html>"
PAGE = "<!DOCTYPE html><html><body>Przerwa techniczna</body></html>"
WAF = {"title": "Request blocked", "status": 403, "security": {"incidentId": "1294-4237"}}


def refused(ksef: responses.RequestsMock, transport: Transport, **answer: Any) -> Any:
    """The error that an answer of KSeF ends in."""
    ksef.get(f"{URL}/x", **answer)
    with pytest.raises(errors.KsefFailure) as caught:
        transport.send("GET", "/x", bearer="secret-bearer")
    assert "secret-bearer" not in caught.value.detail
    return caught.value


class TestSending:
    def test_a_call_carries_exactly_what_ksef_needs(
        self, ksef: responses.RequestsMock, transport: Transport
    ) -> None:
        ksef.get(f"{URL}/x?pageSize=1000", json=[1])
        answer = transport.send(
            "GET",
            "/x",
            bearer="abc",
            params={"pageSize": "1000"},
            headers={"x-continuation-token": "t"},
        )
        request = ksef.calls[0].request
        assert request.url == f"{URL}/x?pageSize=1000"
        assert dict(request.headers) == {
            "User-Agent": f"ksef-proxy/{VERSION}",
            "Accept-Encoding": request.headers["Accept-Encoding"],
            "Accept": "*/*",
            "Connection": "keep-alive",
            "X-Error-Format": "problem-details",
            "x-continuation-token": "t",
            "Authorization": "Bearer abc",
        }
        assert answer.json() == [1]

    def test_a_public_call_carries_no_bearer(
        self, ksef: responses.RequestsMock, transport: Transport
    ) -> None:
        ksef.get(f"{URL}/x", json={})
        transport.send("GET", "/x")
        assert "Authorization" not in ksef.calls[0].request.headers

    def test_a_post_without_a_body_names_no_content_type(
        self, ksef: responses.RequestsMock, transport: Transport
    ) -> None:
        ksef.post(f"{URL}/x", json={})
        transport.send("POST", "/x", bearer="abc")
        request = ksef.calls[0].request
        assert request.body is None
        assert "Content-Type" not in request.headers

    def test_a_body_goes_as_json(self, ksef: responses.RequestsMock, transport: Transport) -> None:
        ksef.post(f"{URL}/x", json={})
        transport.send("POST", "/x", json={"nip": "5265877635"})
        request = ksef.calls[0].request
        assert orjson.loads(request.body) == {"nip": "5265877635"}
        assert request.headers["Content-Type"] == "application/json"

    def test_timeouts_and_redirects_are_ours_to_decide(
        self, ksef: responses.RequestsMock, transport: Transport
    ) -> None:
        ksef.get(
            f"{URL}/x",
            match=[
                responses.matchers.request_kwargs_matcher(
                    {
                        "timeout": 2,
                        "verify": True,
                        "stream": True,
                        "cert": None,
                        "proxies": {},
                    }
                )
            ],
        )
        transport.send("GET", "/x")

    def test_nothing_of_the_environment_is_obeyed(
        self,
        ksef: responses.RequestsMock,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Any,
        transport: Transport,
    ) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine ksef.example login a password b")
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:1")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(netrc))
        ksef.get(f"{URL}/x")
        transport.send("GET", "/x")
        call = ksef.calls[0].request
        assert "Authorization" not in call.headers
        assert call.req_kwargs["proxies"] == {}
        assert call.req_kwargs["verify"] is True

    def test_cookies_do_not_travel_to_the_next_call(
        self, ksef: responses.RequestsMock, transport: Transport
    ) -> None:
        ksef.get(f"{URL}/x", headers={"Set-Cookie": "visid=of-a-company; Path=/"})
        ksef.get(f"{URL}/x")
        transport.send("GET", "/x")
        transport.send("GET", "/x")
        assert "Cookie" not in ksef.calls[1].request.headers

    def test_a_redirect_is_not_followed(
        self, ksef: responses.RequestsMock, transport: Transport
    ) -> None:
        elsewhere = {"Location": "https://elsewhere.example/"}
        error = refused(ksef, transport, status=302, headers=elsewhere)
        assert (error.code, error.ksef.http_status) == ("ksef_error", 302)
        assert len(ksef.calls) == 1


class TestRefusals:
    @pytest.mark.parametrize("body", [problem(21173), old_problem(21173)], ids=["new", "old"])
    def test_ksefs_own_code_and_words_are_kept(
        self, ksef: responses.RequestsMock, transport: Transport, body: Any
    ) -> None:
        error = refused(ksef, transport, status=400, json=body)
        assert type(error) is errors.KsefError
        assert error.detail == "KSeF refused with HTTP 400: Powód."
        assert (error.ksef.http_status, error.ksef.code) == (400, 21173)
        assert error.ksef.description == "Powód."

    def test_the_trace_id_is_kept(self, ksef: responses.RequestsMock, transport: Transport) -> None:
        assert refused(ksef, transport, status=400, json=problem(1)).ksef.trace_id == "trace-1"

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
        self, ksef: responses.RequestsMock, transport: Transport, body: Any
    ) -> None:
        error = refused(ksef, transport, status=400, json=body)
        assert type(error) is errors.KsefError
        assert error.detail == "KSeF refused with HTTP 400."
        assert error.ksef == errors.KsefAnswer(400)

    def test_a_401_rejects_the_token(
        self, ksef: responses.RequestsMock, transport: Transport
    ) -> None:
        error = refused(ksef, transport, status=401, json={"title": "Unauthorized", "status": 401})
        assert type(error) is KsefTokenRejected
        assert error.ksef.http_status == 401

    @pytest.mark.parametrize("body", ["", " \r\n"])
    def test_an_empty_403_rejects_the_token_too(
        self, ksef: responses.RequestsMock, transport: Transport, body: str
    ) -> None:
        assert type(refused(ksef, transport, status=403, body=body)) is KsefTokenRejected

    @pytest.mark.parametrize(
        ("status", "answer"),
        [(403, {"json": WAF}), (403, {"body": HTML}), (403, {"body": PAGE}), (200, {"body": HTML})],
        ids=["json", "html", "a page without a mark", "html 200"],
    )
    def test_the_firewall_says_nothing_about_the_token(
        self, ksef: responses.RequestsMock, transport: Transport, status: int, answer: Any
    ) -> None:
        error = refused(ksef, transport, status=status, **answer)
        assert type(error) is errors.KsefError
        assert error.health is errors.KsefHealth.BLOCKED
        assert "Incident" not in error.detail

    def test_a_missing_right_is_told_by_its_reason(
        self, ksef: responses.RequestsMock, transport: Transport
    ) -> None:
        body = {"status": 403, "reasonCode": "missing-permissions"}
        error = refused(ksef, transport, status=403, json=body)
        assert type(error) is errors.KsefError
        assert error.ksef.reason == "missing-permissions"
        assert error.detail == "KSeF refused with HTTP 403: missing-permissions."

    @pytest.mark.parametrize("status", [500, 502, 503, 504])
    def test_html_of_a_failure_is_never_repeated(
        self, ksef: responses.RequestsMock, transport: Transport, status: int
    ) -> None:
        error = refused(ksef, transport, status=status, body=HTML, content_type="text/html")
        assert type(error) is errors.KsefError
        assert error.detail == f"KSeF failed with HTTP {status}."
        assert error.ksef == errors.KsefAnswer(status)

    def test_long_words_are_cut(self, ksef: responses.RequestsMock, transport: Transport) -> None:
        error = refused(ksef, transport, status=400, json=problem(1, "x" * 10_000))
        assert error.ksef.description == "x" * 500

    def test_a_long_refusal_is_not_read_to_its_end(
        self, ksef: responses.RequestsMock, transport: Transport
    ) -> None:
        error = refused(ksef, transport, status=500, body=b" " * (module.JSON_LIMIT + 1))
        assert type(error) is errors.KsefInvalidResponse


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
        self, ksef: responses.RequestsMock, transport: Transport, header: str | None, seconds: int
    ) -> None:
        headers = {} if header is None else {"Retry-After": header}
        error = refused(ksef, transport, status=429, headers=headers, json={"status": 429})
        assert type(error) is errors.KsefRateLimited
        assert error.retry_after == seconds

    def test_a_date_is_reckoned_from_now(
        self, ksef: responses.RequestsMock, transport: Transport
    ) -> None:
        error = refused(ksef, transport, status=429, headers={"Retry-After": in_an_hour()})
        assert 3590 <= error.retry_after <= 3601

    @pytest.mark.fault(7, 24)
    def test_a_date_is_reckoned_by_ksef_s_clock(
        self, ksef: responses.RequestsMock, transport: Transport
    ) -> None:
        headers = {
            "Date": "Wed, 21 Oct 2015 07:28:00 GMT",
            "Retry-After": "Wed, 21 Oct 2015 07:29:40 GMT",
        }
        assert refused(ksef, transport, status=429, headers=headers).retry_after == 100

    @pytest.mark.parametrize("digits", [10, 20, 5000])
    def test_more_than_anybody_can_wait_is_still_a_number_that_sql_and_json_hold(
        self, ksef: responses.RequestsMock, transport: Transport, digits: int
    ) -> None:
        error = refused(ksef, transport, status=429, headers={"Retry-After": "9" * digits})
        assert error.retry_after == 2**31 - 1

    @given(st.text(max_size=60) | st.from_regex(r"\w{3}, \d+ Jan \d+ \d+:\d+:\d+ [+-]?\w+"))
    def test_any_text_is_a_wait_of_a_second_or_more(self, header: str) -> None:
        assert module._retry_after({"Retry-After": header}) >= 1

    def test_the_words_of_a_429_are_kept(
        self, ksef: responses.RequestsMock, transport: Transport
    ) -> None:
        body = {"status": {"code": 429, "description": "Too Many Requests", "details": ["…"]}}
        error = refused(ksef, transport, status=429, json=body)
        assert (error.ksef.code, error.ksef.description) == (429, "Too Many Requests")


class TestBodies:
    def test_a_body_of_the_limit_passes_and_one_byte_more_does_not(
        self, ksef: responses.RequestsMock, transport: Transport
    ) -> None:
        ksef.get(f"{URL}/x", body=b"x" * 1000)
        ksef.get(f"{URL}/x", body=b"x" * 1001)
        assert transport.send("GET", "/x", limit=1000).body == b"x" * 1000
        with pytest.raises(errors.KsefInvalidResponse, match="is too long"):
            transport.send("GET", "/x", limit=1000)

    def test_the_limit_counts_what_a_packed_body_unpacks_to(
        self, ksef: responses.RequestsMock, transport: Transport
    ) -> None:
        bomb = gzip.compress(bytes(16 * 2**20))
        ksef.get(f"{URL}/x", body=bomb, headers={"Content-Encoding": "gzip"})
        with pytest.raises(errors.KsefInvalidResponse, match="is too long"):
            transport.send("GET", "/x", limit=2**20)

    def test_a_packed_body_is_unpacked(
        self, ksef: responses.RequestsMock, transport: Transport
    ) -> None:
        packed = gzip.compress(b'{"a": 1}')
        ksef.get(f"{URL}/x", body=packed, headers={"Content-Encoding": "gzip"})
        assert transport.send("GET", "/x").json() == {"a": 1}

    def test_a_body_packed_wrongly_is_a_broken_answer(
        self, ksef: responses.RequestsMock, transport: Transport
    ) -> None:
        ksef.get(f"{URL}/x", body=b"no gzip", headers={"Content-Encoding": "gzip"})
        with pytest.raises(errors.KsefUnreachable):
            transport.send("GET", "/x")

    @pytest.mark.parametrize(
        "body",
        [
            "",
            '{"a": NaN}',
            '{"a": Infinity}',
            '{"a": 1',
            "{'a': 1}",
            '{"a": "\\ud800"}',
            "[" * 5000 + "]" * 5000,
            b"\xff\xfe",
        ],
        ids=lambda body: repr(body[:12]),
    )
    def test_what_is_not_json_breaks_the_contract(
        self, ksef: responses.RequestsMock, transport: Transport, body: str | bytes
    ) -> None:
        ksef.get(f"{URL}/x", body=body)
        answer = transport.send("GET", "/x")
        with pytest.raises(errors.KsefInvalidResponse) as caught:
            answer.json()
        assert caught.value.detail == "KSeF's answer is not JSON."

    @pytest.mark.parametrize("body", [PAGE, f"\ufeff {PAGE.lower()}", "<p>Przerwa</p>"])
    def test_a_web_page_in_place_of_an_answer(
        self, ksef: responses.RequestsMock, transport: Transport, body: str
    ) -> None:
        ksef.get(f"{URL}/x", body=body, content_type="text/html")
        with pytest.raises(errors.KsefInvalidResponse) as caught:
            transport.send("GET", "/x")
        assert caught.value.health is errors.KsefHealth.DOWN
        assert "Przerwa" not in caught.value.detail

    def test_a_system_warning_does_not_fail_a_call(
        self, ksef: responses.RequestsMock, transport: Transport
    ) -> None:
        ksef.get(f"{URL}/x", json={}, headers={"X-System-Warning": "Przerwa o 16:00"})
        assert transport.send("GET", "/x").status == 200


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
        self, ksef: responses.RequestsMock, transport: Transport, error: Exception
    ) -> None:
        assert refused(ksef, transport, body=error).health is errors.KsefHealth.DOWN

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
        self, ksef: responses.RequestsMock, transport: Transport, error: Exception
    ) -> None:
        assert refused(ksef, transport, body=error).health is errors.KsefHealth.UNKNOWN

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
            ({"status": 429}, errors.KsefHealth.UNKNOWN),
            ({"status": 302}, errors.KsefHealth.UNKNOWN),
        ],
        ids=str,
    )
    def test_answers(
        self,
        ksef: responses.RequestsMock,
        transport: Transport,
        answer: Any,
        health: errors.KsefHealth,
    ) -> None:
        assert refused(ksef, transport, **answer).health is health

    def test_a_dripping_answer_is_out_of_time(self, sandbox: Any) -> None:
        transport = Transport("test", f"{sandbox.url}/test/v2", connect=1, call=0.3, threads=1)
        Control(sandbox.url).fault("drip", path="/security/", secondsPerByte=0.05)
        with pytest.raises(errors.KsefUnreachable) as caught:
            transport.send("GET", "/security/public-key-certificates")
        assert caught.value.health is errors.KsefHealth.DOWN

    @pytest.mark.parametrize("fault", ["hang", "drip"])
    def test_a_call_that_had_not_its_full_time_says_nothing_of_ksef(
        self, control: Control, sandbox: Any, fault: str
    ) -> None:
        transport = Transport("test", f"{sandbox.url}/test/v2", connect=1, call=5, threads=1)
        control.fault(fault, path="/security/")
        with clock.within(0.3), pytest.raises(errors.KsefUnreachable, match="in time") as caught:
            transport.send("GET", "/security/public-key-certificates")
        assert caught.value.health is errors.KsefHealth.UNKNOWN

    def test_a_connection_that_breaks_off_counts_however_little_time_is_left(
        self, control: Control, sandbox: Any
    ) -> None:
        transport = Transport("test", f"{sandbox.url}/test/v2", connect=1, call=5, threads=1)
        control.fault("reset", path="/security/")
        with clock.within(4), pytest.raises(errors.KsefUnreachable) as caught:
            transport.send("GET", "/security/public-key-certificates")
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
        self, ksef: responses.RequestsMock, transport: Transport, error: Exception, words: str
    ) -> None:
        ksef.get(f"{URL}/x", body=error)
        with pytest.raises(errors.KsefUnreachable, match=words) as caught:
            transport.send("GET", "/x")
        assert "host" not in caught.value.detail
        assert len(ksef.calls) == 1


Fetch = Callable[[float], Any]


@pytest.fixture
def fetch(sandbox: Any) -> Fetch:
    """Fetch the sandbox's public keys, within so many seconds."""

    def within(seconds: float) -> Any:
        transport = Transport("test", f"{sandbox.url}/test/v2", connect=1, call=seconds, threads=1)
        return transport.send("GET", "/security/public-key-certificates")

    return within


class TestBrokenConnections:
    """What only a real socket shows."""

    @pytest.mark.parametrize(
        "fault", ["reset", "reset-after", "truncated", "cut-mid-body", "cut-chunk"]
    )
    def test_a_connection_that_ends_early_gives_no_answer(
        self, control: Control, fetch: Fetch, fault: str
    ) -> None:
        control.fault(fault)
        with pytest.raises(errors.KsefUnreachable, match="broke off"):
            fetch(5)

    def test_an_early_end_that_no_length_betrays_is_no_json(
        self, control: Control, fetch: Fetch
    ) -> None:
        control.fault("no-length")
        with pytest.raises(errors.KsefInvalidResponse):
            fetch(5).json()

    @pytest.mark.parametrize(
        ("fault", "options"),
        [("hang", {"seconds": 5}), ("drip", {"secondsPerByte": 0.02})],
    )
    def test_a_slow_ksef_is_left_at_the_deadline(
        self, control: Control, fetch: Fetch, fault: str, options: dict[str, float]
    ) -> None:
        control.fault(fault, **options)
        began = clock.monotonic()
        with pytest.raises(errors.KsefUnreachable, match="in time"):
            fetch(0.3)
        assert 0.3 <= clock.monotonic() - began < 2.3

    def test_a_connection_serves_again_after_a_failure(
        self, control: Control, sandbox: Any
    ) -> None:
        transport = Transport("test", f"{sandbox.url}/test/v2", connect=1, call=5, threads=1)
        control.fault("cut-mid-body")
        with pytest.raises(errors.KsefUnreachable):
            transport.send("GET", "/security/public-key-certificates")
        assert transport.send("GET", "/security/public-key-certificates").json()
