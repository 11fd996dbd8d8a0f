"""What every error of the contract looks like."""

from typing import Any

import requests

LEAKS = ("Traceback", "psycopg", "SELECT", "127.0.0.1", "localhost", "Bearer ", 'File "', "<html")
EVIDENCE = {
    "established", "since", "consecutiveFailures", "source", "messages", "announcements", "duty",
}  # fmt: skip
ALWAYS = {"type", "title", "status", "detail", "code", "requestId"}


class HttpAnswer:
    """An answer of `requests` in the clothes of one of Flask's test client."""

    def __init__(self, response: requests.Response) -> None:
        self.status_code = response.status_code
        self.headers = response.headers
        self.content_type = response.headers.get("Content-Type")
        self.text = response.text
        self.seconds = response.elapsed.total_seconds()
        self._response = response

    @property
    def json(self) -> Any:
        return self._response.json()

    def get_json(self, force: bool = False) -> Any:
        return self._response.json()


def assert_problem(
    response: Any, status: int, code: str, *, retry_after: int | None = None, also: Any = ()
) -> dict[str, Any]:
    """An RFC 9457 body with exactly the contract's members, `also` among them; the body.

    Every 409 and 502 has its evidence.
    """
    body = response.get_json(force=True)
    assert (response.status_code, body["code"]) == (status, code), body
    assert response.content_type == "application/problem+json"
    assert body["status"] == status
    assert body["type"] == f"urn:ksef-proxy:problem:{code}"
    assert body["title"]
    assert body["detail"]
    assert body["requestId"] == response.headers["X-Request-ID"]
    expected = ALWAYS | set(also) | ({"outage"} if status in (409, 502) else set())
    if status in (409, 502):
        assert set(body["outage"]) == EVIDENCE
        assert body["outage"]["established"] == (status == 409)
    if retry_after is None:
        assert "Retry-After" not in response.headers
    else:
        expected |= {"retryAfter"}
        assert body.get("retryAfter") == retry_after
        assert response.headers["Retry-After"] == str(retry_after)
    assert set(body) == expected
    assert response.headers["Cache-Control"] == "no-store"
    assert not [leak for leak in LEAKS if leak in response.text]
    assert ("WWW-Authenticate" in response.headers) == (status == 401)
    return body
