"""The ledger of KSeF's quota: exact windows, one for all replicas."""

import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import clock, errors
from app.ksef import limits
from app.services import auth, quota, users
from app.services.parts import Place

PLACE = Place("5265877635", "test")


@pytest.fixture
def settings(settings):
    """KSeF's windows in their true length."""
    timing = replace(settings.timing, quota_scale=1.0, quota_jitter=0.25)
    return replace(settings, timing=timing)


@pytest.fixture(autouse=True)
def _company(make_company):
    make_company(PLACE.company_nip, logged_in=False)


def reserve(parts, units=1, *, group=limits.SESSION, patience=0.0, share=1.0):
    now = clock.monotonic()
    slots = quota.reserve(parts, PLACE, group, units, patience=patience, share=share)
    return [max(0.0, slot.moment - now) for slot in slots]


def test_nine_in_a_second_and_the_tenth_waits_for_the_window(parts):
    assert max(reserve(parts, 9)) < 0.5

    with pytest.raises(errors.KsefRateLimited) as refused:
        reserve(parts)

    assert refused.value.retry_after in (1, 2)
    (delay,) = reserve(parts, patience=2)
    assert 0.5 < delay < 1.3


def test_what_does_not_fit_is_not_counted(parts):
    reserve(parts, 9)
    for _ in range(20):
        with pytest.raises(errors.KsefRateLimited):
            reserve(parts)
    assert quota.used_share(parts, PLACE, limits.SESSION) == pytest.approx(9 / 1080)


def test_ten_pages_are_set_aside_together_and_spread_over_the_second(parts):
    delays = reserve(parts, 10, group=limits.INVOICE_LIST, patience=2)

    assert delays == sorted(delays)
    assert delays[8] < 0.5 < 1.0 < delays[9] < 1.3


def test_a_page_that_goes_late_waits_for_none_that_goes_later_still(parts):
    slots = quota.reserve(parts, PLACE, limits.INVOICE_LIST, 10, patience=2)
    for late in slots[1:9]:
        now = clock.monotonic()
        [anew] = quota.reserve(parts, PLACE, limits.INVOICE_LIST, patience=2, instead_of=late)
        assert anew.moment - now < 0.5


WINDOWS = st.lists(
    st.tuples(st.integers(1, 20).map(float), st.integers(1, 4)), min_size=1, max_size=3
)


@given(calls=st.lists(st.integers(-25, 15).map(float), max_size=12).map(sorted), windows=WINDOWS)
def test_the_first_moment_is_the_first_that_breaks_no_window(calls, windows):
    def breaks(moment):
        others = sorted([*calls, moment])
        return any(
            first <= moment <= last and last - first < seconds
            for seconds, limit in windows
            for first, last in zip(others, others[limit:], strict=False)
        )

    def first_by_trying():
        return next(m for m in range(200) if not breaks(float(m)))

    assert quota._first_moment([quota._Ledger(calls, windows)], 0.0) == first_by_trying()


def test_minute_window(parts):
    reserve(parts, 9, group=limits.INVOICE_LIST)
    reserve(parts, 9, group=limits.INVOICE_LIST, patience=2)

    with pytest.raises(errors.KsefRateLimited) as refused:
        reserve(parts, group=limits.INVOICE_LIST, patience=2)

    assert 58 <= refused.value.retry_after <= 61


def test_a_block_holds_for_all_and_is_never_shortened(parts):
    quota.block(parts, PLACE, limits.SESSION, 2680)
    quota.block(parts, PLACE, limits.SESSION, 5)

    with pytest.raises(errors.KsefRateLimited) as refused:
        reserve(parts, patience=2)

    assert 2675 <= refused.value.retry_after <= 2680
    reserve(parts, group=limits.INVOICE)
    assert quota.clear(parts, PLACE) == 1
    reserve(parts)


def test_own_limits_count_and_no_limit_is_none(parts):
    quota.read_limits(
        parts,
        PLACE,
        {limits.SESSION: limits.Limits(20, 200, 2000), limits.INVOICE: limits.Limits(-1, -1, -1)},
    )
    assert max(reserve(parts, 18)) < 0.5
    assert max(reserve(parts, 49, group=limits.INVOICE)) < 0.5, "what the address may send beside"
    with pytest.raises(errors.KsefRateLimited):
        reserve(parts)


def test_long_work_leaves_half(parts):
    reserve(parts, 4, share=0.5)
    with pytest.raises(errors.KsefRateLimited):
        reserve(parts, share=0.5)
    reserve(parts, 5)


def test_companies_and_environments_have_their_own(parts, make_company):
    make_company("1111111111", logged_in=False)
    reserve(parts, 9)
    for place in (Place("1111111111", "test"), Place(PLACE.company_nip, "demo")):
        quota.reserve(parts, place, limits.SESSION, 9, patience=0)


def test_all_companies_of_an_environment_share_the_address(parts, make_company):
    nips = [nip for nip in map(str, range(1111111111, 1111111300)) if users.is_nip(nip)][:12]
    for nip in nips:
        make_company(nip, logged_in=False)
    delays = []
    for nip in nips:
        now = clock.monotonic()
        slots = quota.reserve(parts, Place(nip, "test"), limits.SESSION, 9, patience=5)
        delays += [slot.moment - now for slot in slots]
    assert sum(delay < 0.8 for delay in delays) == 67, "nine tenths of 75"
    assert all(1.0 < delay < 1.5 for delay in delays[67:])
    [other] = quota.reserve(parts, Place(nips[0], "demo"), limits.SESSION, patience=0)
    assert other.moment <= clock.monotonic()


def test_threads_together_never_exceed_a_window(parts):
    allowed = []

    def work():
        for _ in range(10):
            try:
                allowed.extend(reserve(parts))
            except errors.KsefRateLimited:
                continue

    threads = [threading.Thread(target=work) for _ in range(6)]
    began = clock.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.monotonic() - began < 1.2, "too slow to say anything"
    assert len(allowed) == 9


# -- the company's own limits ---------------------------------------------------------------


LIMITS = "GET /{environment}/v2/rate-limits"


def login(parts, control):
    auth.set_token(parts, PLACE, control.add_token("test", PLACE.company_nip))
    auth.log_in(parts, PLACE)


def known_limits(database):
    return {
        group: (second, minute, hour)
        for group, second, minute, hour in database.execute(
            "SELECT quota_group, per_second, per_minute, per_hour FROM quota_groups"
            " WHERE limits_read_at IS NOT NULL"
        )
    }


def test_limits_are_read_after_a_login_and_daily(parts, control, database):
    control.settings(
        limits={
            limits.SESSION: {"perSecond": 3, "perMinute": -1, "perHour": -1},
            "inventedGroup": {"perSecond": 1, "perMinute": 1, "perHour": 1},
        }
    )
    login(parts, control)
    assert control.call_counts()[LIMITS] == 1
    found = known_limits(database)
    assert set(found) == set(limits.PUBLISHED), "groups that we do not know are ignored"
    assert found[limits.SESSION] == (3, -1, -1)
    [(used,)] = database.execute("SELECT count(*) FROM quota_calls WHERE quota_group = 'other'")
    assert used == 1

    control.clear_calls()
    auth.log_in(parts, PLACE)
    renew(parts, database)
    assert LIMITS not in control.call_counts(), "read within a day"
    database.execute("UPDATE quota_groups SET limits_read_at = now() - interval '25 hours'")
    renew(parts, database)
    assert control.call_counts()[LIMITS] == 1


def renew(parts, database):
    database.execute("UPDATE ksef_sessions SET access_token_valid_until = now()")
    auth.ActiveSession(parts, PLACE)


@pytest.mark.parametrize("kind", ["html-503", "invalid-json", "rate-limited", "unauthorized"])
def test_limits_that_cannot_be_read_do_not_stop_a_login(parts, control, database, kind):
    control.fault(kind, path="/rate-limits$")
    login(parts, control)
    assert auth.current_session(parts, PLACE)
    assert known_limits(database) == {}
    assert max(reserve(parts, 9)) < 0.5, "KSeF's published limits hold"
