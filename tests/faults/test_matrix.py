"""FAULTS.md's matrix, rows 2 to 6, 9, 18, 20, 21, 23: what an ERP is told, and what KSeF gets.

`within`: seconds (scaled) before and after which no answer may come. `calls`: how many reach KSeF,
None where the fault stands before it.
"""

import time
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from app import create_app
from app.api.context import EXTENSION
from app.ksef.transport import DEFAULT_RETRY_AFTER
from sandbox.relay import Cut, Drip, Hang, Mode, Refuse, Reset
from tests.faults.conftest import NIP, Asker

CALL = 1.0  # the deadline of one call, in this folder
GRACE = 2.0
UNREACHABLE, INVALID, ERROR = "ksef_unreachable", "ksef_invalid_response", "ksef_error"
REFRESH = "POST /{environment}/v2/auth/token/refresh"
LOGIN = "POST /{environment}/v2/auth/ksef-token"
ENDPOINTS = ("status", "upo")


@dataclass(frozen=True)
class Row:
    """A fault, by KSeF itself or on the way, and what must come of it."""

    name: str
    codes: tuple[str, ...]
    calls: int | None
    mode: Mode | None = None
    fault: dict[str, Any] = field(default_factory=dict)
    not_before: float = 0.0
    only: str | None = None

    def strike(self, asker: Asker, times: int | None = None) -> None:
        if self.mode is not None:
            asker.relay.drop()
            asker.relay.mode = self.mode
        else:
            asker.control.fault(**self.fault, path="/sessions/", times=times)


def by_ksef(name: str, code: str | tuple[str, ...], calls: int, kind: str, **options: Any) -> Row:
    not_before = options.pop("not_before", 0.0)
    only = options.pop("only", None)
    codes = (code,) if isinstance(code, str) else code
    fault = {"kind": kind, **options}
    return Row(name, codes, calls, fault=fault, not_before=not_before, only=only)


FIELD = "successfulInvoiceCount"
ROWS = [
    Row("1 refused", (UNREACHABLE,), None, mode=Refuse()),
    Row("3 reset before the server", (UNREACHABLE,), None, mode=Reset()),
    by_ksef("3 reset before headers", UNREACHABLE, 2, "reset"),
    Row("4 reset in the headers", (UNREACHABLE,), 1, mode=Reset(after=20)),
    Row("4 end in the headers", (UNREACHABLE, INVALID), 1, mode=Cut(after=20)),
    Row("4 end in the body", (UNREACHABLE,), 1, mode=Cut(after=400)),
    by_ksef("4 short Content-Length", UNREACHABLE, 1, "truncated"),
    by_ksef("4 reset in the body", UNREACHABLE, 1, "cut-mid-body"),
    by_ksef("4 cut chunk", UNREACHABLE, 1, "cut-chunk"),
    by_ksef("4 early end, no length", (INVALID, "upo_integrity"), 1, "no-length"),
    Row("5 never answers", (UNREACHABLE,), None, mode=Hang(), not_before=CALL),
    Row("5 drips", (UNREACHABLE,), 1, mode=Drip(20), not_before=CALL),
    by_ksef("5 dripping header", UNREACHABLE, 1, "drip", part="header", not_before=CALL),
    by_ksef("5 dripping body", UNREACHABLE, 1, "drip", not_before=CALL),
    by_ksef("6 500", ERROR, 1, "status", status=500, body="<html>secret page</html>"),
    *(
        by_ksef(f"6 {status}", ERROR, 2, "status", status=status, body="<html>secret page</html>")
        for status in (502, 503, 504)
    ),
    by_ksef("6 503 HTML", ERROR, 2, "html-503"),
    by_ksef("9 truncated JSON", INVALID, 1, "invalid-json"),
    by_ksef("9 NaN", INVALID, 1, "status", status=200, body='{"status": NaN}'),
    by_ksef("9 deep", INVALID, 1, "status", status=200, body="[" * 200 + "]" * 200),
    by_ksef("9 missing field", INVALID, 1, "drop-field", field="status", only="status"),
    by_ksef("9 wrong type", INVALID, 1, "set-field", field="status.code", value="x", only="status"),
    by_ksef("18 permissions", ERROR, 1, "forbidden"),
    by_ksef("18 address", ERROR, 1, "forbidden", reasonCode="ip-not-allowed"),
    by_ksef("7 limited", "ksef_rate_limited", 1, "rate-limited"),
]
CASES = [
    pytest.param(row, endpoint, id=f"{row.name}-{endpoint}")
    for row in ROWS
    for endpoint in ENDPOINTS
    if row.only in (None, endpoint)
]


@pytest.mark.parametrize(("row", "endpoint"), CASES)
def test_cold(asker: Asker, row: Row, endpoint: str, logged: list[str]) -> None:
    row.strike(asker)
    began = time.monotonic()
    answer = asker.ask(endpoint)
    took = time.monotonic() - began

    assert answer.status_code == 502, answer.json
    assert answer.json["code"] in row.codes
    assert answer.mimetype == "application/problem+json"
    assert "html" not in answer.text
    assert row.not_before <= took <= row.not_before + GRACE
    if row.calls is not None:
        assert len(asker.calls()) == row.calls
    if row.codes == ("ksef_rate_limited",):
        assert answer.headers["Retry-After"] == str(DEFAULT_RETRY_AFTER)
    assert asker.wrote_nothing()
    assert logged  # `asker` looks for secrets in it


@pytest.mark.parametrize(("row", "endpoint"), CASES)
def test_with_a_stored_answer(asker: Asker, row: Row, endpoint: str) -> None:
    asker.keep_answers()
    row.strike(asker)
    assert asker.ask(endpoint).status_code == 200
    assert asker.calls() == []


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    "fault", [{"kind": "reset"}, {"kind": "html-503"}, {"kind": "status", "status": 502}]
)
def test_what_passes_is_asked_once_more(asker: Asker, fault: Any, endpoint: str) -> None:
    """Row 3: 200 after one retry; the quota paid for both calls."""
    asker.control.fault(**fault, path="/sessions/", times=1)
    assert asker.ask(endpoint).status_code == 200
    group = "sessionMisc"
    [(spent,)] = asker.database.execute(
        f"SELECT count(*) FROM quota_calls WHERE quota_group = '{group}'"
    )
    # The status check asks sessionMisc for the session, and another group for its invoices.
    assert spent == 2


def test_field_that_is_wrong_is_named_and_unknown_ones_are_not_looked_at(asker: Asker) -> None:
    """Row 9."""
    asker.control.fault("set-field", path="/sessions/", field="status.code", value="x")
    assert "code" in asker.ask("status").json["detail"]
    asker.control.fault("set-field", path="/sessions/", field="brandNew", value={"a": 1})
    assert asker.ask("status").status_code == 200


def test_reason_of_a_refusal_is_told(asker: Asker) -> None:
    """Row 18."""
    asker.control.fault("forbidden", path="/sessions/", reasonCode="ip-not-allowed")
    assert "adresu IP" in asker.ask("status").json["detail"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_access_token_that_ended(asker: Asker, endpoint: str) -> None:
    """Row 20."""
    asker.control.expire_bearers("test", kind="access", nip=NIP)
    assert asker.ask(endpoint).status_code == 200
    counts = asker.control.call_counts()
    assert counts[REFRESH] == 1
    assert LOGIN not in counts


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_refresh_token_that_ended(asker: Asker, endpoint: str) -> None:
    """Row 21: one silent login."""
    asker.control.expire_bearers("test", nip=NIP)
    assert asker.ask(endpoint).status_code == 200
    assert asker.control.call_counts()[LOGIN] == 1


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("code", [415, 425, 450, 460, 480])
def test_credential_that_is_refused(asker: Asker, endpoint: str, code: int) -> None:
    """Rows 21 and 23: 404 from then on, and KSeF is not asked again."""
    asker.control.set_token_outcome("test", code, nip=NIP)
    asker.control.expire_bearers("test", nip=NIP)
    for _ in range(3):
        answer = asker.ask(endpoint)
        assert (answer.status_code, answer.json["code"]) == (404, "no_active_ksef_session")
    assert asker.control.call_counts()[LOGIN] == 1
    if code == 480:
        asker.control.clear_calls()
        answer = asker.company.request("POST", "/auth/test")
        assert (answer.status_code, answer.json["code"]) == (502, "ksef_error")
        assert answer.json["ksef"]["code"] == 480
        assert asker.control.calls() == []


def test_waf_on_the_refresh_keeps_the_tokens(asker: Asker) -> None:
    """Row 19, as far as tokens go."""
    asker.control.fault("waf-403", path="/auth/token/refresh")
    asker.control.expire_bearers("test", kind="access", nip=NIP)
    assert asker.ask("status").status_code == 502
    asker.database.execute("UPDATE outages SET paused_until = NULL")
    assert asker.ask("status").status_code == 200
    assert LOGIN not in asker.control.call_counts()


def test_login_that_is_stuck_ends_at_the_deadline(asker: Asker, settings: Any) -> None:
    """Row 23: the request's deadline, whatever the login's own is."""
    asker.control.settings(authPolls=100_000)
    asker.control.expire_bearers("test", nip=NIP)
    limit = settings.timing.request
    began = time.monotonic()
    answer = asker.ask("status")
    took = time.monotonic() - began
    assert (answer.status_code, answer.json["code"]) == (502, UNREACHABLE)
    assert limit - 0.5 <= took <= limit + GRACE


def test_name_that_is_not_resolved(settings: Any, asker: Asker) -> None:
    """Row 1: our own trouble, told in time and not tried again."""
    urls = {**settings.ksef_urls, "test": "http://ksef.invalid/test/v2"}
    app = create_app(replace(settings, ksef_urls=urls))
    asker.company = replace(asker.company, client=app.test_client())
    began = time.monotonic()
    answer = asker.ask("status")
    assert (answer.status_code, answer.json["code"]) == (502, UNREACHABLE)
    assert time.monotonic() - began <= settings.timing.ksef_connect + GRACE
    app.extensions[EXTENSION][1].db.close()
