"""Rows 1 to 6, 9, 10, 18 of the fault matrix: calls that fail.

Each fault of a call is met cold, with a final answer in store and with an earlier one; and with
Latarnia saying that KSeF is down, which makes a 409 of what looks like an outage.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from sandbox.relay import Cut, Drip, Hang, Mode, Pass, Refuse, Reset
from tests.answers import assert_problem
from tests.faults.conftest import BOTH, ENDPOINTS, GRACE, NIP, TIMING, Asker, Logged

UNREACHABLE, INVALID, ERROR = "ksef_unreachable", "ksef_invalid_response", "ksef_error"


@dataclass(frozen=True)
class Fault:
    """A fault, by KSeF itself or on the way, and what must come of it.

    `calls`: how many reach KSeF, None where the fault stands before it. `down`: it looks like an
    outage of KSeF. `at_deadline`: no answer comes before the deadline of a call.
    """

    row: int
    name: str
    codes: tuple[str, ...]
    calls: int | None
    mode: Mode | None = None
    order: dict[str, Any] = field(default_factory=dict)
    down: bool = True
    at_deadline: bool = False
    only: str | None = None

    def strike(self, asker: Asker) -> None:
        if self.mode is not None:
            asker.relay.drop()
            asker.relay.mode = self.mode
        else:
            asker.control.fault(**self.order, path="/sessions/", times=None)


def by_ksef(
    row: int,
    name: str,
    codes: str | tuple[str, ...],
    calls: int,
    kind: str,
    *,
    down: bool = True,
    at_deadline: bool = False,
    only: str | None = None,
    **options: Any,
) -> Fault:
    codes = (codes,) if isinstance(codes, str) else codes
    order = {"kind": kind, **options}
    return Fault(row, name, codes, calls, None, order, down, at_deadline, only)


def on_the_way(
    row: int, name: str, calls: int | None, mode: Mode, *, at_deadline: bool = False
) -> Fault:
    return Fault(row, name, (UNREACHABLE,), calls, mode, at_deadline=at_deadline)


PAGE = "<html>secret page</html>"
JSON = {"title": "Internal Server Error", "status": 500, "detail": "…"}
FAULTS = [
    on_the_way(1, "refused", None, Refuse()),
    on_the_way(3, "reset before the server", None, Reset()),
    by_ksef(3, "reset before headers", UNREACHABLE, 2, "reset"),
    on_the_way(4, "reset in the headers", 1, Reset(after=20)),
    on_the_way(4, "end in the headers", 2, Cut(after=20)),
    on_the_way(4, "end in the body", 1, Cut(after=400)),
    by_ksef(4, "short Content-Length", UNREACHABLE, 1, "truncated"),
    by_ksef(4, "reset in the body", UNREACHABLE, 1, "cut-mid-body"),
    by_ksef(4, "cut chunk", UNREACHABLE, 1, "cut-chunk"),
    by_ksef(4, "early end, no length", UNREACHABLE, 1, "no-length"),
    on_the_way(5, "never answers", None, Hang(), at_deadline=True),
    on_the_way(5, "drips", 1, Drip(20), at_deadline=True),
    by_ksef(5, "dripping header", UNREACHABLE, 1, "drip", part="header", at_deadline=True),
    by_ksef(5, "dripping body", UNREACHABLE, 1, "drip", at_deadline=True),
    by_ksef(6, "500 HTML", ERROR, 1, "status", status=500, body=PAGE),
    by_ksef(6, "500 JSON", ERROR, 1, "status", status=500, body=JSON),
    *(
        by_ksef(6, f"{code} {kind}", ERROR, 2, "status", status=code, body=body)
        for code in (502, 503, 504)
        for kind, body in (("HTML", PAGE), ("JSON", JSON))
    ),
    by_ksef(9, "truncated JSON", INVALID, 1, "invalid-json", down=False),
    by_ksef(9, "NaN", INVALID, 1, "status", status=200, body='{"status": NaN}', down=False),
    by_ksef(9, "deep", INVALID, 1, "status", status=200, body="[" * 200 + "]" * 200, down=False),
    by_ksef(9, "no field", INVALID, 1, "drop-field", field="status", only="status", down=False),
    by_ksef(
        9,
        "wrong type",
        INVALID,
        1,
        "set-field",
        field="status.code",
        value="x",
        only="status",
        down=False,
    ),
    by_ksef(10, "200 HTML", INVALID, 1, "html-200"),
    by_ksef(18, "permissions", ERROR, 1, "forbidden", down=False),
    by_ksef(18, "address", ERROR, 1, "forbidden", reasonCode="ip-not-allowed", down=False),
]


def case(fault: Fault, *others: Any) -> Any:
    name = "-".join(map(str, [f"{fault.row} {fault.name}", *others]))
    return pytest.param(fault, *others, id=name, marks=pytest.mark.fault(fault.row))


CASES = [
    case(fault, endpoint)
    for fault in FAULTS
    for endpoint in ENDPOINTS
    if fault.only in (None, endpoint)
]


def assert_failed(answer: Any, fault: Fault, *, outage: bool) -> None:
    """The failure of the matrix: a 409 where an outage is established and the fault fits it."""
    code = answer.json["code"]
    also = {"ksef"} & set(answer.json)
    if outage and fault.down:
        assert_problem(answer, 409, "ksef_outage", also=also)
    else:
        assert code in fault.codes, answer.json
        assert_problem(answer, 502, code, also=also)
    assert "html" not in answer.text


@pytest.mark.parametrize(("fault", "endpoint"), CASES)
def test_cold(asker: Asker, fault: Fault, endpoint: str, logged: Logged) -> None:
    fault.strike(asker)
    began = time.monotonic()
    answer = asker.ask(endpoint)
    took = time.monotonic() - began

    assert_failed(answer, fault, outage=False)
    deadline = TIMING.ksef_call if fault.at_deadline else 0.0
    assert deadline <= took <= deadline + GRACE
    if fault.calls is not None:
        assert len(asker.calls()) == fault.calls
    assert asker.wrote_nothing()
    assert answer.json["requestId"] in logged.text()  # `asker` looks for secrets there


@pytest.mark.parametrize("fault", [case(fault) for fault in FAULTS])
def test_cold_while_latarnia_says_outage(asker: Asker, fault: Fault) -> None:
    asker.control.set_latarnia("test", "FAILURE")
    fault.strike(asker)
    for endpoint in ENDPOINTS if not fault.only and not fault.at_deadline else ("status",):
        assert_failed(asker.ask(endpoint), fault, outage=True)
    assert asker.wrote_nothing()


@pytest.mark.parametrize(("fault", "endpoint"), CASES)
def test_with_a_final_answer_in_store(asker: Asker, fault: Fault, endpoint: str) -> None:
    asker.keep_answers()
    stored = asker.stored()
    fault.strike(asker)
    assert asker.ask(endpoint).status_code == 200
    assert asker.calls() == []
    assert asker.stored() == stored


@pytest.mark.parametrize("fault", [case(fault) for fault in FAULTS])
def test_earlier_answer_stays_as_it_is(asker: Asker, fault: Fault) -> None:
    """That of a moving session is no answer to a failure, and nothing of it is lost."""
    moving = asker.control.seed_session("test", NIP, state="moving", invoices=2)
    assert asker.ask("status", moving).status_code == 200
    stored = asker.stored()
    fault.strike(asker)
    assert_failed(asker.ask("status", moving), fault, outage=False)
    assert asker.stored() == stored
    asker.relay.drop()
    asker.relay.mode = Pass()
    asker.control.clear_faults()
    assert asker.ask("status", moving).json["checkedAt"] not in str(stored)


@pytest.mark.fault(3)
@BOTH
@pytest.mark.parametrize(
    "fault", [{"kind": "reset"}, {"kind": "html-503"}, {"kind": "status", "status": 502}]
)
def test_what_passes_is_asked_once_more(asker: Asker, fault: Any, endpoint: str) -> None:
    """200 after one retry; the quota paid for both calls."""
    asker.control.fault(**fault, path="/sessions/", times=1)
    assert asker.ask(endpoint).status_code == 200
    [(spent,)] = asker.database.execute(
        "SELECT count(*) FROM quota_calls WHERE quota_group = 'sessionMisc'"
    )
    # The status check asks sessionMisc for the session, and another group for its invoices.
    assert spent == 2


@pytest.mark.fault(5)
def test_threads_are_free_after_the_deadline(asker: Asker) -> None:
    """More callers than one replica has threads, before a KSeF that never answers."""
    asker.relay.drop()
    asker.relay.mode = Hang()
    replica, limit = asker.replicas[0], TIMING.request + GRACE
    sessions = [asker.control.seed_session("test", NIP) for _ in range(6)]
    with ThreadPoolExecutor(len(sessions)) as callers:
        asked = [callers.submit(asker.ask, "status", one, of=replica) for one in sessions]
        assert {answer.result().status_code for answer in asked} <= {502, 503}
    began = time.monotonic()
    assert asker.get("/livez", of=replica).status_code == 200
    assert time.monotonic() - began <= limit
    asker.relay.drop()
    asker.relay.mode = Pass()
    assert asker.ask("status", of=replica).status_code == 200


@pytest.mark.fault(9)
def test_field_that_is_wrong_is_named_and_unknown_ones_are_not_looked_at(asker: Asker) -> None:
    asker.control.fault("set-field", path="/sessions/", field="status.code", value="x")
    assert "code" in asker.ask("status").json["detail"]
    asker.control.fault("set-field", path="/sessions/", field="brandNew", value={"a": 1})
    assert asker.ask("status").status_code == 200


@pytest.mark.fault(18)
@BOTH
def test_reason_of_a_refusal_is_told(asker: Asker, endpoint: str) -> None:
    asker.control.fault("forbidden", path="/sessions/", reasonCode="ip-not-allowed")
    assert "adresu IP" in asker.ask(endpoint).json["detail"]
