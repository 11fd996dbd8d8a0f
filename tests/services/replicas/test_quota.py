"""The ledger of KSeF's quota: exact windows, one for all replicas."""

import json
import threading
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import clock, errors, telemetry
from app.ksef import limits
from app.service import Service
from app.services.login import credentials
from app.services.login import session as login
from app.services.operators import quotas, users
from app.services.replicas import quota
from app.services.replicas.windows import Ledger, delays

NIP = "5265877635"


@pytest.fixture
def settings(settings):
    """KSeF's windows in their true length."""
    timing = replace(settings.timing, quota_scale=1.0, quota_jitter=0.25)
    return replace(settings, timing=timing)


@pytest.fixture(autouse=True)
def _company(make_company):
    make_company(NIP, logged_in=False)


def here(service, environment="test", **how):
    return service.account(NIP, environment, **how)


def reserve(service, units=1, *, group=limits.SESSION, patience=0.0, share=1.0):
    account = here(service, patience=patience, share=share)
    now = clock.monotonic()
    slots = quota.reserve(account, group, units)
    return [max(0.0, slot.moment - now) for slot in slots]


def test_nine_in_a_second_and_the_tenth_waits_for_the_window(service):
    assert max(reserve(service, 9)) < 0.5

    with pytest.raises(errors.KsefRateLimited) as refused:
        reserve(service)

    assert refused.value.retry_after in (1, 2)
    (delay,) = reserve(service, patience=2)
    assert 0.5 < delay < 1.3


def test_what_does_not_fit_is_not_counted(service):
    reserve(service, 9)
    for _ in range(20):
        with pytest.raises(errors.KsefRateLimited):
            reserve(service)
    assert quota.used_share(here(service), limits.SESSION) == pytest.approx(9 / 1080)


def test_of_calls_that_do_not_all_fit_none_is_counted(service):
    with pytest.raises(errors.KsefRateLimited) as refused:
        reserve(service, 10, group=limits.INVOICE_LIST, patience=1)
    assert refused.value.retry_after == 2
    assert quota.used_share(here(service), limits.INVOICE_LIST) == 0
    assert len(reserve(service, 10, group=limits.INVOICE_LIST, patience=2)) == 10


def test_ten_pages_are_set_aside_together_and_spread_over_the_second(service):
    waits = reserve(service, 10, group=limits.INVOICE_LIST, patience=2)

    assert waits == sorted(waits)
    assert waits[8] < 0.5 < 1.0 < waits[9] < 1.3


def test_a_page_that_goes_late_waits_for_none_that_goes_later_still(service):
    account = here(service, patience=2)
    slots = quota.reserve(account, limits.INVOICE_LIST, 10)
    for late in slots[1:9]:
        now = clock.monotonic()
        [anew] = quota.reserve(account, limits.INVOICE_LIST, instead_of=late)
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

    assert delays([Ledger([*calls], windows)], 1, None) == [first_by_trying()]


def test_minute_window(service):
    reserve(service, 9, group=limits.INVOICE_LIST)
    reserve(service, 9, group=limits.INVOICE_LIST, patience=2)

    with pytest.raises(errors.KsefRateLimited) as refused:
        reserve(service, group=limits.INVOICE_LIST, patience=2)

    assert 58 <= refused.value.retry_after <= 61


def test_a_block_holds_for_all_and_is_never_shortened(service):
    here(service).calls.block(limits.SESSION, 2680)
    here(service).calls.block(limits.SESSION, 5)

    with pytest.raises(errors.KsefRateLimited) as refused:
        reserve(service, patience=2)

    assert 2675 <= refused.value.retry_after <= 2680
    reserve(service, group=limits.INVOICE)
    assert quotas.clear(here(service)) == 1
    reserve(service)


def test_a_block_is_logged_with_its_group_and_its_length(service, capsys):
    telemetry.configure("INFO")  # to the standard error of this test
    here(service).calls.block(limits.SESSION, 2680)
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    told = {"level": "warning", "environment": "test", "group": limits.SESSION, "seconds": 2680}
    assert told.items() <= line.items()
    assert NIP not in str(line)


def test_only_a_block_refuses_a_call_that_was_set_aside(settings):
    """One call in 0.45 s: each one after the first waits for its turn."""
    service = Service(replace(settings, timing=replace(settings.timing, quota_scale=0.2)))
    one_at_a_time = limits.Limits(1, -1, -1)
    quota.store_limits(
        here(service), {limits.SESSION: one_at_a_time, limits.INVOICE: one_at_a_time}
    )
    calls = here(service).calls
    calls.reserve(limits.SESSION, 3)
    for _ in range(2):
        calls.wait_for_turn(limits.SESSION)
    here(service).calls.block(limits.SESSION, 60)
    with pytest.raises(errors.KsefRateLimited) as refused:
        calls.wait_for_turn(limits.SESSION)
    assert 58 <= refused.value.retry_after <= 60
    calls.reserve(limits.INVOICE, 2)
    for _ in range(2):
        calls.wait_for_turn(limits.INVOICE)
    service.db.close()


class TestWorkThatIsNotWorthBeginning:
    def require(self, service, *, patience=0.0, share=1.0):
        here(service, patience=patience, share=share).calls.require(limits.SESSION)

    def refused(self, service, **how):
        with pytest.raises(errors.KsefRateLimited) as refused:
            self.require(service, **how)
        return refused.value.retry_after

    def test_needs_room_for_one_call_and_takes_none(self, service):
        self.require(service)
        reserve(service, 8)
        for _ in range(3):
            self.require(service)
        reserve(service)
        assert self.refused(service) in (1, 2)
        self.require(service, patience=2)

    def test_leaves_what_is_not_its_share(self, service):
        reserve(service, 4)
        self.refused(service, share=0.5)
        self.require(service)

    def test_waits_for_no_block(self, service):
        here(service).calls.block(limits.SESSION, 60)
        assert 58 <= self.refused(service, patience=2) <= 60

    def test_has_the_company_s_own_limits(self, service):
        quota.store_limits(here(service), {limits.SESSION: limits.Limits(2, 200, 2000)})
        reserve(service)
        self.refused(service)


def set_aside_before(database, *ages, group=limits.SESSION):
    """Calls of so many seconds ago; negative: they wait for their turn."""
    for age in ages:
        database.execute(
            "INSERT INTO quota_calls (company_nip, environment, quota_group, reserved_at)"
            f" VALUES ('{NIP}', 'test', '{group}',"
            f" clock_timestamp() - interval '{age} seconds')"
        )


def test_used_is_the_hour_of_the_most_used_group_by_its_own_limits(service, database):
    assert quota.used_share(here(service), limits.SESSION, limits.INVOICE) == 0
    set_aside_before(database, 1, 100, 3590, 3600.3, 7000)
    assert quota.used_share(here(service), limits.SESSION) == 3 / 1080
    quota.store_limits(
        here(service),
        {limits.SESSION: limits.Limits(10, 100, 20), limits.INVOICE: limits.Limits(-1, -1, -1)},
    )
    set_aside_before(database, 1, 2, group=limits.INVOICE)
    used = quota.used_share(here(service), limits.INVOICE, limits.SESSION, limits.INVOICE_LIST)
    assert used == 3 / 18
    assert quota.used_share(here(service), limits.INVOICE) == 0


def test_the_last_hour_of_every_group(service, database):
    set_aside_before(database, -2, 0.5, 1.5, 30, 299, 301, 601, 650, 3500)
    quota.store_limits(here(service), {limits.SESSION: limits.Limits(20, 200, 2000)})
    quota.store_limits(here(service), {limits.INVOICE: limits.Limits(-1, -1, -1)})
    here(service).calls.block(limits.INVOICE, 60)
    set_aside_before(database, 5, group=limits.INVOICE)

    uses = {use.group: use for use in quotas.last_hour(here(service))}

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


def test_calls_set_aside_together_keep_their_distance(service):
    quota.store_limits(here(service), {limits.SESSION: limits.Limits(1, -1, -1)})
    waits = reserve(service, 4, patience=4)
    assert all(1.2 < later - sooner < 1.3 for sooner, later in pairwise(waits))


def test_groups_are_shown_with_their_use_of_one_place(service):
    reserve(service, 2)
    quota.reserve(here(service, "demo", patience=0), limits.INVOICE)
    [row] = quotas.show(here(service))
    assert (row.quota_group, row.used_minute, row.used_hour) == (limits.SESSION, 2, 2)


def test_a_share_is_never_less_than_one_call(service):
    quota.store_limits(here(service), {limits.SESSION: limits.Limits(1, 1, 1)})
    assert len(reserve(service, share=0.01)) == 1


def test_own_limits_count_and_no_limit_is_none(service):
    quota.store_limits(
        here(service),
        {limits.SESSION: limits.Limits(20, 200, 2000), limits.INVOICE: limits.Limits(-1, -1, -1)},
    )
    assert max(reserve(service, 18)) < 0.5
    assert max(reserve(service, 49, group=limits.INVOICE)) < 0.5, "what the address may send beside"
    with pytest.raises(errors.KsefRateLimited):
        reserve(service)


def test_long_work_leaves_half(service):
    reserve(service, 4, share=0.5)
    with pytest.raises(errors.KsefRateLimited):
        reserve(service, share=0.5)
    reserve(service, 5)


def test_companies_and_environments_have_their_own(service, make_company):
    make_company("1111111111", logged_in=False)
    reserve(service, 9)
    other_company = service.account("1111111111", "test", patience=0)
    for account in (other_company, here(service, "demo", patience=0)):
        quota.reserve(account, limits.SESSION, 9)


def test_all_companies_of_an_environment_share_the_address(service, make_company):
    nips = [nip for nip in map(str, range(1111111111, 1111111300)) if users.is_nip(nip)][:12]
    for nip in nips:
        make_company(nip, logged_in=False)
    waits = []
    for nip in nips:
        account = service.account(nip, "test", patience=5)
        now = clock.monotonic()
        slots = quota.reserve(account, limits.SESSION, 9)
        waits += [slot.moment - now for slot in slots]
    assert sum(wait < 0.8 for wait in waits) == 67, "nine tenths of 75"
    assert all(1.0 < wait < 1.5 for wait in waits[67:])
    elsewhere = service.account(nips[0], "demo", patience=0)
    [other] = quota.reserve(elsewhere, limits.SESSION)
    assert other.moment <= clock.monotonic()


def test_threads_together_never_exceed_a_window(service):
    allowed = []

    def work():
        for _ in range(10):
            try:
                allowed.extend(reserve(service))
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


def log_in(service, control):
    credentials.store_token(here(service), control.add_token("test", NIP))
    login.log_in(here(service))


def known_limits(database):
    return {
        group: (second, minute, hour)
        for group, second, minute, hour in database.execute(
            "SELECT quota_group, per_second, per_minute, per_hour FROM quota_groups"
            " WHERE limits_read_at IS NOT NULL"
        )
    }


def test_limits_are_read_after_a_login_and_daily(service, control, database):
    control.settings(limits={limits.SESSION: {"perSecond": 3, "perMinute": -1, "perHour": -1}})
    invented = {"perSecond": 1, "perMinute": 1, "perHour": 1}
    control.fault("set-field", path="/rate-limits$", field="inventedGroup", value=invented)
    log_in(service, control)
    assert control.call_counts()[LIMITS] == 1
    found = known_limits(database)
    assert set(found) == set(limits.PUBLISHED), "groups that we do not know are ignored"
    assert found[limits.SESSION] == (3, -1, -1)
    [(used,)] = database.execute("SELECT count(*) FROM quota_calls WHERE quota_group = 'other'")
    assert used == 1

    control.clear_calls()
    login.log_in(here(service))
    renew(service, database)
    assert LIMITS not in control.call_counts(), "read within a day"
    database.execute("UPDATE quota_groups SET limits_read_at = now() - interval '25 hours'")
    renew(service, database)
    assert control.call_counts()[LIMITS] == 1


def renew(service, database):
    database.execute("UPDATE ksef_sessions SET access_token_valid_until = now()")
    here(service).ksef.require_session()


@pytest.mark.parametrize("kind", ["html-503", "invalid-json", "rate-limited", "unauthorized"])
def test_limits_that_cannot_be_read_do_not_stop_a_login(service, control, database, kind):
    control.fault(kind, path="/rate-limits$", times=2)  # a GET may be sent twice
    log_in(service, control)
    assert login.current_session(here(service))
    assert known_limits(database) == {}
    blocked = {row.quota_group for row in quotas.show(here(service)) if row.blocked_until}
    assert blocked == ({limits.OTHER} if kind == "rate-limited" else set())
    assert max(reserve(service, 9)) < 0.5, "KSeF's published limits hold"
