"""KSeF's limits: exact rolling windows per environment, company and group."""

import time

import pytest

from sandbox.clock import parse_stamp
from sandbox.settings import LIMITS
from tests.sandbox.ksef_client import NIP, OTHER_NIP

UNKNOWN = "20260101-SO-0000000000-0000000000-00"


@pytest.fixture
def still(client, control):
    """A logged-in client under quota, at a standing clock."""
    control.settings(quota=True, accessTokenSeconds=86400)
    control.freeze()
    client.access_token = client.post("/auth/token/refresh", bearer=client.refresh_token).json()[
        "accessToken"
    ]["token"]
    control.advance(3600)
    return client


def test_without_the_option_nothing_is_limited(client):
    assert {client.get("/rate-limits").status_code for _ in range(40)} == {200}


def test_a_second_is_exactly_a_second(still, control):
    reference = control.seed_session("test", NIP).reference_number

    def ask():
        return still.get(f"/sessions/{reference}")

    assert [ask().status_code for _ in range(4)] == [200] * 4
    control.advance(0.5)
    assert [ask().status_code for _ in range(7)] == [200] * 6 + [429]
    control.advance(0.499999)
    assert ask().status_code == 429
    control.advance(0.000001)
    assert [ask().status_code for _ in range(5)] == [200] * 4 + [429]


def test_minute_and_hour_are_counted_at_the_same_time(still, control):
    reference = control.seed_session("test", NIP, invoices=30).reference_number
    path = f"/sessions/{reference}/invoices?pageSize=10"
    statuses = []
    for _ in range(21):
        answer = still.get(path)
        statuses.append(answer.status_code)
        control.advance(1)
    assert statuses == [200] * 20 + [429]
    assert answer.headers["Retry-After"] == "40"

    # With 20 calls in each of ten minutes the hour is full; its first call was 619 s ago.
    control.advance(58)
    for _ in range(9):
        assert {still.get(path).status_code for _ in range(10)} == {200}
        control.advance(1)
        assert {still.get(path).status_code for _ in range(10)} == {200}
        control.advance(59)
    refused = still.get(path)
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "2981"


def test_refused_calls_do_not_count(still, control):
    control.settings(limits={"other": {"perSecond": 1, "perMinute": -1, "perHour": -1}})
    assert still.get("/rate-limits").status_code == 200
    for _ in range(5):
        control.advance(0.1)
        assert still.get("/rate-limits").status_code == 429
    control.advance(0.5)
    assert still.get("/rate-limits").status_code == 200


def test_groups_companies_and_environments_are_counted_apart(still, make_client, control):
    for _ in range(10):
        still.get(f"/sessions/{UNKNOWN}")
    assert still.get(f"/sessions/{UNKNOWN}").status_code == 429
    assert still.get(f"/sessions/{UNKNOWN}/upo/{UNKNOWN}").status_code == 429
    assert still.get(f"/sessions/{UNKNOWN}/invoices").status_code == 400
    assert still.get(f"/sessions/{UNKNOWN}/invoices/{UNKNOWN}").status_code == 400

    other = make_client(nip=OTHER_NIP).log_in(control.add_token("test", OTHER_NIP))
    elsewhere = make_client("demo").log_in(control.add_token("demo", NIP))
    assert other.get(f"/sessions/{UNKNOWN}").status_code == 400
    assert elsewhere.get(f"/sessions/{UNKNOWN}").status_code == 400


def test_a_second_login_of_the_company_shares_its_limits(still, make_client, control):
    for _ in range(10):
        still.get(f"/sessions/{UNKNOWN}")
    twin = make_client().log_in(control.add_token("test", NIP))

    assert twin.get(f"/sessions/{UNKNOWN}").status_code == 429


def test_one_address_has_75_calls_a_second_in_all(still, make_client, control):
    control.settings(limits={"invoiceStatus": {"perSecond": -1, "perMinute": -1, "perHour": -1}})
    answers = [still.get(f"/sessions/{UNKNOWN}/invoices/{UNKNOWN}") for _ in range(76)]
    assert [answer.status_code for answer in answers] == [400] * 75 + [429]


def test_calls_without_a_bearer_are_limited_by_address(still, make_client, control):
    statuses = [
        make_client().get("/security/public-key-certificates").status_code for _ in range(61)
    ]

    assert statuses == [200] * 60 + [429]


def test_downloads_and_the_control_plane_are_not_limited(still, control, download):
    control.settings(limits={"global": {"perSecond": 1}})
    seeded = control.seed_session("test", NIP)
    [[invoice]] = still.pages(seeded.reference_number)

    assert {download(invoice["upoDownloadUrl"]).status_code for _ in range(100)} == {200}
    assert still.get("/rate-limits").status_code == 429


def test_the_limits_can_be_read_and_changed(client, control):
    limits = client.get("/rate-limits").json()
    assert limits["sessionInvoiceList"] == {"perSecond": 10, "perMinute": 20, "perHour": 200}
    assert limits["anonymous"] == {"perSecond": 60, "perMinute": -1, "perHour": -1}
    assert set(limits) == set(LIMITS)

    control.settings(limits={"sessionMisc": {"perSecond": 1, "perMinute": 2, "perHour": 3}})
    changed = client.get("/rate-limits").json()
    assert changed["sessionMisc"] == {"perSecond": 1, "perMinute": 2, "perHour": 3}


def test_the_older_format_has_its_own_shape(still, control):
    control.settings(limits={"other": {"perSecond": 0}})
    still.problem_details = False
    answer = still.get("/rate-limits")

    assert answer.json()["status"]["code"] == 429
    assert answer.headers["Retry-After"] == "1"


def test_a_faster_clock_makes_every_window_shorter(client, control):
    """An hour in 3.6 s: what was called a while ago does not count any more."""
    reference = control.seed_session("test", NIP).reference_number
    control.settings(quota=True, clockRate=1000.0, limits={"sessionMisc": {"perMinute": 2}})
    statuses = [client.get(f"/sessions/{reference}").status_code for _ in range(2)]
    assert statuses == [200, 200]
    before = parse_stamp(control.now())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and (parse_stamp(control.now()) - before).seconds < 60:
        pass
    assert client.get(f"/sessions/{reference}").status_code == 200
    control.settings(clockRate=1.0)
    assert parse_stamp(control.now()) > before, "the clock never goes back"


def test_windows_can_be_shorter_than_ksefs_own(still, control):
    """A minute in 0.6 s, while the clock goes as ever."""
    reference = control.seed_session("test", NIP).reference_number
    control.settings(quotaScale=0.01, limits={"sessionMisc": {"perMinute": 2}})
    statuses = [still.get(f"/sessions/{reference}").status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    control.advance(0.599)
    assert still.get(f"/sessions/{reference}").status_code == 429
    control.advance(0.001)
    assert still.get(f"/sessions/{reference}").status_code == 200


def test_the_log_tells_when_and_how_a_call_was_refused(still, control):
    control.settings(limits={"other": {"perSecond": 0}})
    still.get("/rate-limits")
    last = control.calls()[-1]
    assert (last.status, last.retry_after) == (429, "1")
    assert last.answered_at is not None
    assert last.answered_at >= last.at


def test_jitter_delays_a_call_before_it_is_counted(client, control):
    control.settings(jitterSeconds=0.2)
    began = time.monotonic()
    for _ in range(10):
        assert client.get("/rate-limits").status_code == 200
    assert 0.3 < time.monotonic() - began < 10
