"""The ledger of KSeF's quota: exact windows, one for all replicas."""

import threading
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import clock, errors, telemetry
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


def test_of_calls_that_do_not_all_fit_none_is_counted(parts):
    with pytest.raises(errors.KsefRateLimited) as refused:
        reserve(parts, 10, group=limits.INVOICE_LIST, patience=1)
    assert refused.value.retry_after == 2
    assert quota.used_share(parts, PLACE, limits.INVOICE_LIST) == 0
    assert len(reserve(parts, 10, group=limits.INVOICE_LIST, patience=2)) == 10


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


def test_a_block_is_logged_with_its_group_and_its_length(parts, capsys):
    telemetry.configure("INFO")  # to the standard error of this test
    quota.block(parts, PLACE, limits.SESSION, 2680)
    (line,) = map(orjson.loads, capsys.readouterr().err.splitlines())
    told = {"level": "warning", "environment": "test", "group": limits.SESSION, "seconds": 2680}
    assert told.items() <= line.items()
    assert PLACE.company_nip not in str(line)


def test_only_a_block_refuses_a_call_that_was_set_aside(parts):
    quota.refuse_if_blocked(parts, PLACE, limits.SESSION)
    reserve(parts, 9)
    quota.refuse_if_blocked(parts, PLACE, limits.SESSION)
    quota.block(parts, PLACE, limits.SESSION, 60)
    quota.refuse_if_blocked(parts, PLACE, limits.INVOICE)
    with pytest.raises(errors.KsefRateLimited) as refused:
        quota.refuse_if_blocked(parts, PLACE, limits.SESSION)
    assert 58 <= refused.value.retry_after <= 60


class TestWorkThatIsNotWorthBeginning:
    def require(self, parts, *, patience=0.0, share=1.0):
        quota.require(parts, PLACE, limits.SESSION, patience=patience, share=share)

    def refused(self, parts, **how):
        with pytest.raises(errors.KsefRateLimited) as refused:
            self.require(parts, **how)
        return refused.value.retry_after

    def test_needs_room_for_one_call_and_takes_none(self, parts):
        self.require(parts)
        reserve(parts, 8)
        for _ in range(3):
            self.require(parts)
        reserve(parts)
        assert self.refused(parts) in (1, 2)
        self.require(parts, patience=2)

    def test_leaves_what_is_not_its_share(self, parts):
        reserve(parts, 4)
        self.refused(parts, share=0.5)
        self.require(parts)

    def test_waits_for_no_block(self, parts):
        quota.block(parts, PLACE, limits.SESSION, 60)
        assert 58 <= self.refused(parts, patience=2) <= 60

    def test_has_the_company_s_own_limits(self, parts):
        quota.read_limits(parts, PLACE, {limits.SESSION: limits.Limits(2, 200, 2000)})
        reserve(parts)
        self.refused(parts)


def set_aside_before(database, *ages, group=limits.SESSION):
    """Calls of so many seconds ago; negative: they wait for their turn."""
    for age in ages:
        database.execute(
            "INSERT INTO quota_calls (company_nip, environment, quota_group, reserved_at)"
            f" VALUES ('{PLACE.company_nip}', 'test', '{group}',"
            f" clock_timestamp() - interval '{age} seconds')"
        )


def test_used_is_the_hour_of_the_most_used_group_by_its_own_limits(parts, database):
    assert quota.used_share(parts, PLACE, limits.SESSION, limits.INVOICE) == 0
    set_aside_before(database, 1, 100, 3590, 3600.3, 7000)
    assert quota.used_share(parts, PLACE, limits.SESSION) == 3 / 1080
    quota.read_limits(
        parts,
        PLACE,
        {limits.SESSION: limits.Limits(10, 100, 20), limits.INVOICE: limits.Limits(-1, -1, -1)},
    )
    set_aside_before(database, 1, 2, group=limits.INVOICE)
    used = quota.used_share(parts, PLACE, limits.INVOICE, limits.SESSION, limits.INVOICE_LIST)
    assert used == 3 / 18
    assert quota.used_share(parts, PLACE, limits.INVOICE) == 0


def test_the_last_hour_of_every_group(parts, database):
    set_aside_before(database, -2, 0.5, 1.5, 30, 299, 301, 601, 650, 3500)
    quota.read_limits(parts, PLACE, {limits.SESSION: limits.Limits(20, 200, 2000)})
    quota.read_limits(parts, PLACE, {limits.INVOICE: limits.Limits(-1, -1, -1)})
    quota.block(parts, PLACE, limits.INVOICE, 60)
    set_aside_before(database, 5, group=limits.INVOICE)

    uses = {use.group: use for use in quota.last_hour(parts, PLACE)}

    assert list(uses) == list(limits.PUBLISHED)
    use = uses[limits.SESSION]
    assert list(use.slots) == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 5]
    assert (use.per_second, use.per_minute, use.per_hour) == (2, 4, 9)
    assert use.limits == limits.Limits(18, 180, 1800)
    assert use.share == 9 / 1800
    assert use.blocked_until is None
    free = uses[limits.INVOICE]
    assert (free.limits, free.per_hour, free.share) == (limits.Limits(-1, -1, -1), 1, 0)
    assert timedelta(0) < free.blocked_until - clock.now() <= timedelta(seconds=60)
    unused = uses[limits.SESSION_LIST]
    assert (list(unused.slots), unused.per_hour) == ([0] * 12, 0)
    assert unused.blocked_until is None


def test_calls_set_aside_together_keep_their_distance(parts):
    quota.read_limits(parts, PLACE, {limits.SESSION: limits.Limits(1, -1, -1)})
    delays = reserve(parts, 4, patience=4)
    assert all(1.2 < later - sooner < 1.3 for sooner, later in pairwise(delays))


def test_groups_are_shown_with_their_use_of_one_place(parts):
    reserve(parts, 2)
    quota.reserve(parts, Place(PLACE.company_nip, "demo"), limits.INVOICE, patience=0)
    [row] = quota.show(parts, PLACE)
    assert (row.quota_group, row.used_minute, row.used_hour) == (limits.SESSION, 2, 2)


def test_a_share_is_never_less_than_one_call(parts):
    quota.read_limits(parts, PLACE, {limits.SESSION: limits.Limits(1, 1, 1)})
    assert len(reserve(parts, share=0.01)) == 1


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
    blocked = {row.quota_group for row in quota.show(parts, PLACE) if row.blocked_until}
    assert blocked == ({limits.OTHER} if kind == "rate-limited" else set())
    assert max(reserve(parts, 9)) < 0.5, "KSeF's published limits hold"
