"""What is sent to KSeF, and how its answers are read."""

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
import responses

from app import clock, errors
from app.ksef.http import Http, Route
from app.ksef.login import PUBLIC_KEYS
from app.version import VERSION
from sandbox.control import Control
from tests.ksef.answers import URL

X = Route("GET", "/x")
POST_X = Route("POST", "/x")
PAGE = "<!DOCTYPE html><html><body>Przerwa techniczna</body></html>"


class TestSending:
    def test_a_call_carries_exactly_what_ksef_needs(
        self, ksef: responses.RequestsMock, http: Http
    ) -> None:
        ksef.get(f"{URL}/x?pageSize=1000", json=[1])
        answer = http.send(
            X,
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
        assert answer.body == b"[1]"

    def test_a_public_call_carries_no_bearer(
        self, ksef: responses.RequestsMock, http: Http
    ) -> None:
        ksef.get(f"{URL}/x", json={})
        http.send(X)
        assert "Authorization" not in ksef.calls[0].request.headers

    def test_a_post_without_a_body_names_no_content_type(
        self, ksef: responses.RequestsMock, http: Http
    ) -> None:
        ksef.post(f"{URL}/x", json={})
        http.send(POST_X, bearer="abc")
        request = ksef.calls[0].request
        assert request.body is None
        assert "Content-Type" not in request.headers

    def test_a_body_goes_as_json(self, ksef: responses.RequestsMock, http: Http) -> None:
        ksef.post(f"{URL}/x", json={})
        http.send(POST_X, json={"nip": "5265877635"})
        request = ksef.calls[0].request
        assert json.loads(request.body) == {"nip": "5265877635"}
        assert request.headers["Content-Type"] == "application/json"

    def test_timeouts_and_redirects_are_ours_to_decide(
        self, ksef: responses.RequestsMock, http: Http
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
        http.send(X)

    def test_nothing_of_the_environment_is_obeyed(
        self,
        ksef: responses.RequestsMock,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Any,
        http: Http,
    ) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine ksef.example login a password b")
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:1")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(netrc))
        ksef.get(f"{URL}/x")
        http.send(X)
        call = ksef.calls[0].request
        assert "Authorization" not in call.headers
        assert call.req_kwargs["proxies"] == {}
        assert call.req_kwargs["verify"] is True

    def test_cookies_do_not_travel_to_the_next_call(
        self, ksef: responses.RequestsMock, http: Http
    ) -> None:
        ksef.get(f"{URL}/x", headers={"Set-Cookie": "visid=of-a-company; Path=/"})
        ksef.get(f"{URL}/x")
        http.send(X)
        http.send(X)
        assert "Cookie" not in ksef.calls[1].request.headers

    @pytest.mark.parametrize("where", ["https://elsewhere.example/", "https://[no", "ÿ"])
    def test_a_redirect_is_not_followed(
        self, ksef: responses.RequestsMock, http: Http, where: str
    ) -> None:
        ksef.get(f"{URL}/x", status=302, headers={"Location": where})
        with pytest.raises(errors.KsefError, match="HTTP 302"):
            http.send(X)
        assert len(ksef.calls) == 1


class TestBodies:
    def test_a_body_of_the_limit_passes_and_one_byte_more_does_not(
        self, ksef: responses.RequestsMock, http: Http
    ) -> None:
        ksef.get(f"{URL}/x", body=b"x" * 1000)
        ksef.get(f"{URL}/x", body=b"x" * 1001)
        assert http.send(X, limit=1000).body == b"x" * 1000
        with pytest.raises(errors.KsefInvalidResponse, match="is too long"):
            http.send(X, limit=1000)

    def test_the_limit_counts_what_a_packed_body_unpacks_to(
        self, ksef: responses.RequestsMock, http: Http
    ) -> None:
        bomb = gzip.compress(bytes(16 * 2**20))
        ksef.get(f"{URL}/x", body=bomb, headers={"Content-Encoding": "gzip"})
        with pytest.raises(errors.KsefInvalidResponse, match="is too long"):
            http.send(X, limit=2**20)

    def test_a_packed_body_is_unpacked(self, ksef: responses.RequestsMock, http: Http) -> None:
        packed = gzip.compress(b'{"a": 1}')
        ksef.get(f"{URL}/x", body=packed, headers={"Content-Encoding": "gzip"})
        assert http.send(X).body == b'{"a": 1}'

    def test_a_body_packed_wrongly_is_a_broken_answer(
        self, ksef: responses.RequestsMock, http: Http
    ) -> None:
        ksef.get(f"{URL}/x", body=b"no gzip", headers={"Content-Encoding": "gzip"})
        with pytest.raises(errors.KsefUnreachable):
            http.send(X)

    @pytest.mark.parametrize("body", [PAGE, f"\ufeff {PAGE.lower()}", "<p>Przerwa</p>"])
    def test_a_web_page_in_place_of_an_answer(
        self, ksef: responses.RequestsMock, http: Http, body: str
    ) -> None:
        ksef.get(f"{URL}/x", body=body, content_type="text/html")
        with pytest.raises(errors.KsefInvalidResponse) as caught:
            http.send(X)
        assert caught.value.health is errors.KsefHealth.DOWN
        assert "Przerwa" not in caught.value.detail

    def test_a_system_warning_does_not_fail_a_call(
        self, ksef: responses.RequestsMock, http: Http
    ) -> None:
        ksef.get(f"{URL}/x", json={}, headers={"X-System-Warning": "Przerwa o 16:00"})
        assert http.send(X).status == 200


Fetch = Callable[[float], Any]


@pytest.fixture
def fetch(sandbox: Any) -> Fetch:
    """Fetch the sandbox's public keys, within so many seconds."""

    def within(seconds: float) -> Any:
        http = Http("test", f"{sandbox.url}/test/v2", connect=1, call=seconds, threads=1)
        return http.send(PUBLIC_KEYS)

    return within


class TestBrokenConnections:
    """What only a real socket shows."""

    @pytest.mark.parametrize(
        "fault", ["reset", "reset-after", "truncated", "cut-mid-body", "cut-chunk", "no-length"]
    )
    def test_a_connection_that_ends_early_gives_no_answer(
        self, control: Control, fetch: Fetch, fault: str
    ) -> None:
        control.fault(fault)
        with pytest.raises(errors.KsefUnreachable, match="broke off"):
            fetch(5)

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
        http = Http("test", f"{sandbox.url}/test/v2", connect=1, call=5, threads=1)
        control.fault("cut-mid-body")
        with pytest.raises(errors.KsefUnreachable):
            http.send(PUBLIC_KEYS)
        assert http.send(PUBLIC_KEYS).status == 200
