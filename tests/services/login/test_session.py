"""The company's session with KSeF: one login however many ask, tokens that are good when needed."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import pytest
import requests

from app import clock, errors, telemetry
from app.account import Account
from app.ksef import limits
from app.ksef.failures import KsefTokenRejected
from app.ksef.login import LoginRefused
from app.service import Service
from app.services.login import credentials, tokens
from app.services.login import session as login
from app.services.login.tokens import AccessToken
from app.services.operators import companies, quotas
from app.services.replicas import quota
from tests.service import Company

T = TypeVar("T")

NIP, OTHER_NIP = "5265877635", "7812019453"
LOGIN = "POST /{environment}/v2/auth/ksef-token"
REDEEM = "POST /{environment}/v2/auth/token/redeem"
REFRESH = "POST /{environment}/v2/auth/token/refresh"
REVOKE = "DELETE /{environment}/v2/auth/sessions/current"
SESSION = "GET /{environment}/v2/sessions/{reference}"


@pytest.fixture
def company(make_company: Callable[..., Company]) -> Company:
    return make_company(NIP, environments=("test",))


@pytest.fixture
def ksef_token(make_company: Callable[..., Company], control: Any, service: Service) -> str:
    """A company's stored credential; the company is not logged in."""
    make_company(NIP, logged_in=False)
    token = control.add_token("test", NIP)
    credentials.store_token(here(service), token)
    return token


def row(database: Any) -> Any:
    """(access token, its end, refresh token, its end, version, authenticated_at), or None."""
    rows = database.execute(
        "SELECT access_token, access_token_valid_until, refresh_token, refresh_token_valid_until,"
        f" version, authenticated_at FROM ksef_sessions WHERE company_nip = '{NIP}'"
    )
    return rows[0] if rows else None


def let_access_token_end(database: Any, seconds_left: int = 0) -> None:
    database.execute(
        "UPDATE ksef_sessions SET access_token_valid_until = now()"
        f" + interval '{seconds_left} seconds'"
    )


def let_refresh_token_end(database: Any) -> None:
    let_access_token_end(database)
    database.execute("UPDATE ksef_sessions SET refresh_token_valid_until = now()")


def here(service: Service, **how: Any) -> Account:
    """The company, as one request has it."""
    return service.account(NIP, "test", **how)


def ask_after(control: Any, service: Service) -> Callable[[], int]:
    """A request that needs a bearer: the status code of a session that KSeF knows."""
    reference = control.seed_session("test", NIP).reference_number
    return lambda: here(service).ksef.session_status(reference).status.code


def all_at_once(count: int, do: Callable[[int], T]) -> list[T]:
    """What `do(0)`, `do(1)` … give when as many threads begin together; the first error is ours."""
    start = threading.Barrier(count)
    given: list[T] = []
    failed: list[BaseException] = []

    def run(number: int) -> None:
        try:
            start.wait(10)
            given.append(do(number))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    if failed:
        raise failed[0]
    return given


@pytest.fixture
def replica(settings: Any) -> Any:
    """A second process, as far as it can be seen: it shares the database and nothing else."""
    service = Service(settings)
    yield service
    service.db.close()


# -- logging in -----------------------------------------------------------------------------


def test_login_gives_a_session_that_ksef_accepts(
    database: Any, control: Any, service: Service, ksef_token: str
) -> None:
    control.clear_calls()
    session = login.log_in(here(service))

    assert session.method == "token"
    assert session == login.current_session(here(service))
    assert row(database)[1] == session.access_token_valid_until
    assert row(database)[3] == session.refresh_token_valid_until
    assert session.access_token_valid_until < session.refresh_token_valid_until
    assert control.call_counts()[LOGIN] == control.call_counts()[REDEEM] == 1
    assert ask_after(control, service)() == 200


def test_live_session_is_given_as_it_is(
    database: Any, control: Any, service: Service, company: Company
) -> None:
    before = row(database)
    assert login.log_in(here(service)) == login.current_session(here(service))
    assert row(database) == before
    assert control.calls() == []


def test_live_session_is_given_while_somebody_else_holds_the_lease(
    database: Any, control: Any, service: Service, company: Company
) -> None:
    database.execute(
        "INSERT INTO leases (name, holder, expires_at)"
        f" VALUES ('auth test {NIP}', gen_random_uuid(), now() + interval '1 minute')"
    )
    assert login.log_in(here(service)) == login.current_session(here(service))
    assert control.calls() == []


def test_many_logins_at_once_are_one_for_ksef(
    control: Any, service: Service, replica: Service, ksef_token: str
) -> None:
    sessions = all_at_once(8, lambda i: login.log_in(here((service, replica)[i % 2])))

    assert len(sessions) == 8
    assert len(set(sessions)) == 1
    counts = control.call_counts()
    assert (counts[LOGIN], counts[REDEEM]) == (1, 1)


def test_two_companies_log_in_beside_each_other(
    control: Any, service: Service, ksef_token: str, make_company: Callable[..., Company]
) -> None:
    """The login of one does not wait for that of the other."""
    make_company(OTHER_NIP, logged_in=False)
    credentials.store_token(
        service.account(OTHER_NIP, "test"), control.add_token("test", OTHER_NIP)
    )
    control.settings(authPolls=4)
    all_at_once(2, lambda i: login.log_in(service.account((NIP, OTHER_NIP)[i], "test")))

    polls = [call.path for call in control.calls() if call.path.startswith("/test/v2/auth/2")]
    changes = sum(one != following for one, following in pairwise(polls))
    assert len(set(polls)) == 2
    assert changes > 1


def test_login_without_a_credential_is_refused_before_any_call(
    control: Any, service: Service, make_company: Callable[..., Company]
) -> None:
    make_company(NIP, logged_in=False)
    with pytest.raises(errors.NoKsefCredential):
        login.log_in(here(service))
    assert control.calls() == []


@pytest.mark.parametrize("code", [415, 425, 450, 460, 470, 480])
def test_refused_credential_is_told_with_ksef_s_own_words_and_stores_nothing(
    database: Any, control: Any, service: Service, ksef_token: str, code: int
) -> None:
    control.set_token_outcome("test", code, nip=NIP)
    with pytest.raises(LoginRefused) as refusal:
        login.log_in(here(service))
    assert refusal.value.ksef is not None
    assert refusal.value.ksef.code == code
    assert refusal.value.ksef.description
    assert row(database) is None
    assert REDEEM not in control.call_counts()


@pytest.mark.parametrize("code", [500, 550])
def test_failed_login_that_says_nothing_of_the_credential_is_no_refusal(
    control: Any, service: Service, ksef_token: str, code: int
) -> None:
    control.set_token_outcome("test", code, nip=NIP)
    with pytest.raises(errors.KsefError) as failure:
        login.log_in(here(service))
    assert not isinstance(failure.value, LoginRefused)
    control.set_token_outcome("test", 200, nip=NIP)
    assert login.log_in(here(service)).method == "token"


def test_login_that_ksef_never_finishes_ends_at_its_deadline(
    control: Any, settings: Any, ksef_token: str
) -> None:
    control.settings(authPolls=10_000)
    impatient = Service(replace(settings, timing=replace(settings.timing, login=0.3)))
    with pytest.raises(errors.KsefUnreachable, match="did not finish"):
        login.log_in(here(impatient))
    impatient.db.close()


def test_login_fetches_the_keys_again_when_ksef_changed_them_meanwhile(
    control: Any, service: Service, ksef_token: str
) -> None:
    control.fault("ksef-error", path="/auth/ksef-token", code=21470)
    login.log_in(here(service))
    counts = control.call_counts()
    assert counts["GET /{environment}/v2/security/public-key-certificates"] == 2
    assert counts[LOGIN] == 2


def test_login_whose_worker_died_is_taken_over(
    database: Any, control: Any, settings: Any, ksef_token: str
) -> None:
    """The lease of the dead one runs out; until then nobody else logs in."""
    database.execute(
        "INSERT INTO leases (name, holder, expires_at)"
        f" VALUES ('auth test {NIP}', gen_random_uuid(), now() + interval '400 milliseconds')"
    )
    service = Service(settings)
    login.log_in(here(service))
    [(after_the_end,)] = database.execute(
        "SELECT authenticated_at >= now() - interval '10 seconds' FROM ksef_sessions"
    )
    assert after_the_end
    assert control.call_counts()[LOGIN] == 1
    assert database.execute("SELECT name FROM leases") == []
    service.db.close()


def test_who_waits_in_vain_for_another_login_is_told_to_come_again(
    database: Any, control: Any, settings: Any, ksef_token: str
) -> None:
    database.execute(
        "INSERT INTO leases (name, holder, expires_at)"
        f" VALUES ('auth test {NIP}', gen_random_uuid(), now() + interval '1 minute')"
    )
    service = Service(replace(settings, timing=replace(settings.timing, request=0.2)))
    with pytest.raises(errors.Unavailable) as failure:
        login.log_in(here(service))
    assert failure.value.retry_after == settings.timing.retry_after
    assert LOGIN not in control.call_counts()
    service.db.close()


# -- tokens that end ------------------------------------------------------------------------


def test_access_token_that_is_about_to_end_is_renewed_first(
    database: Any, control: Any, service: Service, company: Company
) -> None:
    ask = ask_after(control, service)
    let_access_token_end(database, seconds_left=50)
    before = row(database)

    assert ask() == 200

    after = row(database)
    assert control.call_counts() == {REFRESH: 1, SESSION: 1}
    assert after[1] > before[1]
    assert after[0] != before[0]
    assert after[2:4] == before[2:4]  # the refresh token stays
    assert after[4] == before[4] + 1
    assert after[5] == before[5]


def test_access_token_with_time_left_is_used_as_it_is(
    database: Any, control: Any, service: Service, company: Company
) -> None:
    ask = ask_after(control, service)
    let_access_token_end(database, seconds_left=70)
    assert ask() == 200
    assert control.call_counts() == {SESSION: 1}


def test_many_who_find_the_token_ended_refresh_it_once(
    database: Any, control: Any, service: Service, replica: Service, company: Company
) -> None:
    asks = [ask_after(control, service), ask_after(control, replica)]
    let_access_token_end(database)

    assert all_at_once(8, lambda i: asks[i % 2]()) == [200] * 8

    assert control.call_counts() == {REFRESH: 1, SESSION: 8}


def test_token_refused_within_a_call_is_refreshed_and_the_call_repeated_once(
    control: Any, service: Service, company: Company
) -> None:
    ask = ask_after(control, service)
    control.expire_bearers("test", kind="access", nip=NIP)

    assert ask() == 200

    assert control.call_counts() == {REFRESH: 1, SESSION: 2}
    statuses = [call.status for call in control.calls()]
    assert statuses == [401, 200, 200]


def test_many_whose_token_is_refused_refresh_it_once(
    control: Any, service: Service, replica: Service, company: Company
) -> None:
    asks = [ask_after(control, service), ask_after(control, replica)]
    control.expire_bearers("test", kind="access", nip=NIP)

    assert all_at_once(8, lambda i: asks[i % 2]()) == [200] * 8

    counts = control.call_counts()
    assert counts[REFRESH] == 1
    assert LOGIN not in counts


def test_token_refused_again_after_the_refresh_is_replaced_by_one_login(
    control: Any, service: Service, company: Company
) -> None:
    ask = ask_after(control, service)
    control.fault("unauthorized", path="/sessions/", times=2)
    assert ask() == 200
    counts = control.call_counts()
    assert (counts[SESSION], counts[REFRESH], counts[LOGIN]) == (3, 1, 1)


def test_token_refused_for_ever_is_not_tried_for_ever(
    control: Any, service: Service, company: Company
) -> None:
    ask = ask_after(control, service)
    control.fault("unauthorized", path="/sessions/", times=None)
    with pytest.raises(KsefTokenRejected):
        ask()
    counts = control.call_counts()
    assert (counts[SESSION], counts[REFRESH], counts[LOGIN]) == (3, 1, 1)


def test_one_request_refreshes_once_for_all_its_calls(
    control: Any, service: Service, company: Company
) -> None:
    reference = control.seed_session("test", NIP).reference_number
    account = here(service)
    control.expire_bearers("test", kind="access", nip=NIP)
    for _ in range(3):
        account.ksef.session_status(reference)
    assert control.call_counts() == {REFRESH: 1, SESSION: 4}


def test_one_request_whose_new_token_is_refused_later_refreshes_it_again(
    control: Any, service: Service, company: Company
) -> None:
    reference = control.seed_session("test", NIP).reference_number
    account = here(service)
    control.expire_bearers("test", kind="access", nip=NIP)
    account.ksef.session_status(reference)
    control.fault("unauthorized", path="/sessions/")
    account.ksef.session_status(reference)
    assert control.call_counts() == {REFRESH: 2, SESSION: 4}, "nobody logs in"


@pytest.mark.parametrize("how", ["ended by the clock", "refused by KSeF"])
def test_ended_refresh_token_is_replaced_by_a_silent_login(
    database: Any, control: Any, service: Service, company: Company, how: str
) -> None:
    ask = ask_after(control, service)
    if how == "ended by the clock":
        let_refresh_token_end(database)
    else:
        control.expire_bearers("test", nip=NIP)
    before = row(database)

    assert all_at_once(4, lambda _: ask()) == [200] * 4

    after = row(database)
    counts = control.call_counts()
    assert counts[LOGIN] == 1
    assert counts.get(REFRESH, 0) == (how == "refused by KSeF")
    assert after[2] != before[2]
    assert after[3] > before[3]


@pytest.mark.parametrize("code", [21301, 21304, 21308])
def test_refresh_refused_for_good_leads_to_a_silent_login(
    database: Any, control: Any, service: Service, company: Company, code: int
) -> None:
    ask = ask_after(control, service)
    let_access_token_end(database)
    control.fault("ksef-error", path="/auth/token/refresh", code=code)
    assert ask() == 200
    assert control.call_counts()[LOGIN] == 1


@pytest.mark.parametrize("code", [415, 425, 450, 460, 470, 480])
def test_refused_credential_ends_the_session_and_is_not_tried_again(
    database: Any, control: Any, service: Service, company: Company, code: int
) -> None:
    ask = ask_after(control, service)
    control.set_token_outcome("test", code, nip=NIP)
    control.expire_bearers("test", nip=NIP)

    with pytest.raises(errors.NoActiveKsefSession) as refusal:
        ask()
    assert refusal.value.ksef is not None
    assert refusal.value.ksef.code == code
    assert refusal.value.ksef.details
    assert row(database) is None
    assert control.call_counts()[LOGIN] == 1

    control.clear_calls()
    for _ in range(3):
        with pytest.raises(errors.NoActiveKsefSession, match="refused the company") as again:
            ask()
        assert again.value.ksef == replace(
            refusal.value.ksef, details=list(refusal.value.ksef.details)
        )
    assert control.calls() == []


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("html-503", {}),
        ("reset", {}),
        ("rate-limited", {"retryAfter": 7}),
        ("waf-403", {}),
        ("waf-html-403", {}),
        ("forbidden", {}),
        ("invalid-json", {}),
        ("ksef-error", {"code": 21405}),
    ],
)
def test_trouble_of_the_refresh_keeps_the_session(
    database: Any,
    control: Any,
    service: Service,
    company: Company,
    kind: str,
    options: dict[str, Any],
) -> None:
    ask = ask_after(control, service)
    let_access_token_end(database)
    before = row(database)
    control.fault(kind, path="/auth/token/refresh", times=2, **options)

    with pytest.raises(errors.KsefFailure):
        ask()
    assert row(database) == before
    assert LOGIN not in control.call_counts()

    control.clear_faults()
    database.execute("UPDATE outages SET paused_until = NULL; DELETE FROM quota_groups")
    assert ask() == 200


def test_trouble_of_a_silent_login_keeps_the_session(
    database: Any, control: Any, service: Service, company: Company
) -> None:
    ask = ask_after(control, service)
    let_refresh_token_end(database)
    control.fault("html-503", path="/auth/challenge")
    with pytest.raises(errors.KsefError):
        ask()
    assert row(database) is not None
    assert ask() == 200


# -- ahead of the end -------------------------------------------------------------------------


@pytest.fixture
def patient(settings: Any) -> Any:
    """The service with the pauses of production."""
    timing = replace(settings.timing, silent_login=60.0, refused_pause=60.0, refresh_pause=5.0)
    service = Service(replace(settings, timing=timing))
    yield service
    service.db.close()


def test_nobody_waits_for_a_renewal_ahead_of_time(
    database: Any, control: Any, service: Service, company: Company
) -> None:
    ask = ask_after(control, service)
    let_access_token_end(database, seconds_left=30)
    hold_lease(database, seconds=60)
    assert ask() == 200
    assert control.call_counts() == {SESSION: 1}


def test_renewal_that_fails_ahead_of_time_disturbs_nobody_and_pauses(
    database: Any, control: Any, patient: Service, company: Company
) -> None:
    ask = ask_after(control, patient)
    let_access_token_end(database, seconds_left=30)
    control.fault("forbidden", path="/auth/token/refresh", times=None)
    assert [ask() for _ in range(3)] == [200] * 3
    assert control.call_counts() == {REFRESH: 1, SESSION: 3}


def test_clock_of_a_replica_decides_nothing(
    database: Any,
    control: Any,
    service: Service,
    company: Company,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """FAULTS.md row 24: ten minutes ahead or behind, tokens end by the database's clock."""
    ask = ask_after(control, service)
    real = clock.now
    for minutes in (-10, 10):
        skewed = timedelta(minutes=minutes)
        monkeypatch.setattr(clock, "now", lambda skewed=skewed: real() + skewed)
        assert ask() == 200
    assert control.call_counts() == {SESSION: 2}


def test_who_waits_for_a_renewal_learns_that_it_failed(
    database: Any, control: Any, service: Service, replica: Service, company: Company
) -> None:
    """One call to KSeF tells them all; nobody tries in turn."""
    asks = [ask_after(control, service), ask_after(control, replica)]
    let_access_token_end(database)
    control.fault("delay", path="/auth/token/refresh", seconds=3.0, times=None)
    told: list[str] = []

    def ask(number: int) -> None:
        try:
            asks[number % 2]()
        except errors.KsefUnreachable as error:
            told.append(error.code)

    all_at_once(8, ask)
    assert told == ["ksef_unreachable"] * 8
    assert control.call_counts() == {REFRESH: 1}


def test_failure_from_before_is_not_made_younger_by_a_slow_answer_of_the_database(
    database: Any,
    control: Any,
    service: Service,
    company: Company,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = row(database)
    token = AccessToken(here(service))
    token.access_token()
    real = tokens.active_row

    def slow(account: Account) -> Any:
        read = real(account)
        clock.sleep(0.3)
        return read

    monkeypatch.setattr(tokens, "active_row", slow)
    database.execute("UPDATE ksef_sessions SET renewal_failed_at = now() - interval '0.1 seconds'")
    token.renew(by_login=False)
    assert row(database)[4] == before[4] + 1


def test_failure_just_before_the_lease_was_free_is_not_repeated(
    database: Any,
    control: Any,
    service: Service,
    company: Company,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody fails and gives the lease back between our look at the row and our taking it."""
    token = AccessToken(here(service))
    token.access_token()
    real = tokens.active_row

    def fail_after(account: Account) -> Any:
        read = real(account)
        if read.renewal_failed_for is None:
            clock.sleep(0.1)
            database.execute("UPDATE ksef_sessions SET renewal_failed_at = clock_timestamp()")
        return read

    monkeypatch.setattr(tokens, "active_row", fail_after)
    with pytest.raises(errors.KsefUnreachable, match="a moment ago"):
        token.renew(by_login=False)
    assert control.calls() == []


# -- the fence ---------------------------------------------------------------------------------


def hold_lease(database: Any, seconds: float) -> None:
    database.execute(
        "INSERT INTO leases (name, holder, expires_at) VALUES"
        f" ('auth test {NIP}', gen_random_uuid(), now() + interval '{seconds} seconds')"
    )


def while_ksef_thinks(
    control: Any, path: str, do: Callable[[], Any], change: Callable[[], Any]
) -> Any:
    """`do`, and `change` something before KSeF answers the call to `path`; what `do` gave."""
    control.fault("delay", path=path, seconds=0.6)
    given: list[Any] = []

    def run() -> None:
        try:
            given.append(do())
        except errors.ProxyError as error:
            given.append(error.code)

    doing = threading.Thread(target=run)
    doing.start()
    deadline = time.monotonic() + 5
    while control.waiting_faults() and time.monotonic() < deadline:
        pass
    change()
    doing.join(20)
    return given[0]


@pytest.mark.parametrize(
    ("work", "path", "seconds"),
    [
        ("login", "/auth/ksef-token", 50),
        ("refresh", "/auth/token/refresh", 5),
        ("refresh ahead of time", "/auth/token/refresh", 5),
        ("silent login", "/auth/ksef-token", 50),
    ],
)
def test_lease_is_as_long_as_the_work_may_take(
    database: Any,
    control: Any,
    settings: Any,
    ksef_token: str,
    work: str,
    path: str,
    seconds: float,
) -> None:
    """Who waits for a dead worker's refresh does not wait for as long as for a login."""
    timing = replace(settings.timing, lease_refresh=5.0, lease=50.0)
    service = Service(replace(settings, timing=timing))
    if work != "login":
        login.log_in(here(service))
        let_access_token_end(database, seconds_left=30 if "ahead" in work else 0)
    if work == "silent login":
        let_refresh_token_end(database)
    left: list[Any] = []

    def look() -> None:
        left.extend(database.execute("SELECT expires_at - clock_timestamp() FROM leases"))

    do = (
        ask_after(control, service)
        if work != "login"
        else lambda: login.log_in(here(service)).method
    )
    assert while_ksef_thinks(control, path, do, look) in (200, "token")
    [(lease_left,)] = left
    assert timedelta(seconds=seconds - 4) < lease_left < timedelta(seconds=seconds)
    service.db.close()


@pytest.mark.parametrize(
    "meanwhile",
    [
        "UPDATE leases SET holder = gen_random_uuid()",
        "UPDATE ksef_sessions SET version = version + 1",
    ],
    ids=["somebody took the lease over", "there is a newer session"],
)
def test_late_refusal_of_a_silent_login_ends_no_session(
    database: Any, control: Any, service: Service, company: Company, meanwhile: str
) -> None:
    let_refresh_token_end(database)
    control.set_token_outcome("test", 450, nip=NIP)
    newer: list[Any] = []

    def change() -> None:
        database.execute(meanwhile)
        newer.append(row(database))

    ask = ask_after(control, service)
    assert while_ksef_thinks(control, "/auth/ksef-token", ask, change) == "no_active_ksef_session"
    assert row(database) == newer[0]


@pytest.mark.parametrize("work", ["login", "renewal"])
def test_late_holder_of_a_lease_writes_nothing(
    database: Any, control: Any, service: Service, ksef_token: str, work: str
) -> None:

    def renewed(account: Account) -> None:
        account.ksef.require_session()

    log_in_or_renew: Callable[[Account], Any] = login.log_in
    if work == "renewal":
        login.log_in(here(service))
        let_access_token_end(database)
        log_in_or_renew = renewed
    before = row(database)
    control.fault("delay", path="/token/re", seconds=0.5)
    failed: list[BaseException] = []

    def go() -> None:
        try:
            log_in_or_renew(here(service))
        except errors.Unavailable as error:  # the thief below never gives the lease back
            failed.append(error)

    late = threading.Thread(target=go)
    late.start()
    deadline = time.monotonic() + 5
    while not database.execute("SELECT name FROM leases") and time.monotonic() < deadline:
        pass
    database.execute(
        "UPDATE leases SET holder = gen_random_uuid(), expires_at = now() + interval '1 hour'"
    )
    late.join(20)
    assert row(database) == before
    assert len(failed) == 1
    if work == "login":
        assert control.call_counts()[REVOKE] == 1, "no session lives on at KSeF that nobody knows"


def test_renewal_whose_worker_died_is_taken_over_within_its_own_lease(
    database: Any, control: Any, service: Service, company: Company
) -> None:
    ask = ask_after(control, service)
    let_access_token_end(database)
    hold_lease(database, seconds=0.5)
    assert ask() == 200
    assert control.call_counts() == {REFRESH: 1, SESSION: 1}


# -- a credential that KSeF refuses ------------------------------------------------------------


def test_silent_logins_are_a_minute_apart(
    database: Any, control: Any, patient: Service, company: Company
) -> None:
    ask = ask_after(control, patient)
    let_refresh_token_end(database)
    control.fault("html-503", path="/auth/challenge", times=None)
    with pytest.raises(errors.KsefError):
        ask()
    control.clear_faults()
    with pytest.raises(errors.KsefError) as told:
        ask()
    assert told.value.retry_after is not None
    assert 50 < told.value.retry_after <= 60
    assert control.call_counts()["POST /{environment}/v2/auth/challenge"] == 1
    database.execute("UPDATE ksef_credentials SET silent_login_at = now() - interval '1 minute'")
    assert ask() == 200


def test_refused_credential_is_not_tried_again_for_a_while(
    database: Any, control: Any, patient: Service, ksef_token: str
) -> None:
    control.set_token_outcome("test", 450, nip=NIP)
    words = set()
    for _ in range(3):
        with pytest.raises(LoginRefused) as refusal:
            login.log_in(here(patient))
        assert refusal.value.ksef is not None
        assert refusal.value.ksef.code == 450
        words.add((refusal.value.ksef.description or "").rstrip("."))
    (words_of_ksef,) = words
    assert words_of_ksef
    assert refusal.value.detail.endswith(f": {words_of_ksef}. Store a valid token.")
    assert refusal.value.retry_after in range(50, 61)
    assert control.call_counts()[LOGIN] == 1
    control.set_token_outcome("test", 200, nip=NIP)
    database.execute("UPDATE ksef_credentials SET refused_at = now() - interval '61 seconds'")
    login.log_in(here(patient))
    [(code,)] = database.execute("SELECT refused_code FROM ksef_credentials")
    assert code is None


@pytest.mark.parametrize("how", ["login by command", "stored anew"])
def test_blocked_credential_is_latched_until_an_operator_acts(
    database: Any, control: Any, service: Service, ksef_token: str, how: str
) -> None:
    control.set_token_outcome("test", 480, nip=NIP)
    with pytest.raises(LoginRefused):
        login.log_in(here(service))
    control.set_token_outcome("test", 200, nip=NIP)
    database.execute("UPDATE ksef_credentials SET refused_at = now() - interval '30 days'")
    with pytest.raises(LoginRefused, match="An operator must act") as refusal:
        login.log_in(here(service))
    assert refusal.value.ksef is not None
    assert refusal.value.ksef.code == 480
    assert control.call_counts()[LOGIN] == 1

    if how == "stored anew":
        credentials.store_token(here(service), ksef_token)
    login.log_in(here(service), by_operator=how == "login by command")
    assert control.call_counts()[LOGIN] == 2


@pytest.mark.parametrize("fault", ["reset-after", "cut-mid-body", "html-503", "no-length"])
def test_lost_answer_of_redeem_starts_another_login(
    control: Any, service: Service, ksef_token: str, fault: str
) -> None:
    control.fault(fault, path="/auth/token/redeem")
    login.log_in(here(service))
    assert (control.call_counts()[LOGIN], control.call_counts()[REDEEM]) == (2, 2)


def test_answer_of_redeem_lost_again_is_told(
    control: Any, service: Service, ksef_token: str
) -> None:
    control.fault("reset-after", path="/auth/token/redeem", times=None)
    with pytest.raises(errors.KsefUnreachable):
        login.log_in(here(service))
    assert control.call_counts()[LOGIN] == 2


def test_keys_that_ksef_changed_do_not_end_a_session(
    database: Any, control: Any, service: Service, company: Company
) -> None:
    ask = ask_after(control, service)
    control.rotate_keys("test")
    let_refresh_token_end(database)
    assert ask() == 200


def test_silent_login_may_take_longer_than_a_refresh(
    control: Any, database: Any, settings: Any, company: Company
) -> None:
    service = Service(replace(settings, timing=replace(settings.timing, lease_refresh=0.2)))
    ask = ask_after(control, service)
    let_refresh_token_end(database)
    control.fault("delay", path="/auth/ksef-token", seconds=0.6)
    assert all_at_once(2, lambda _: ask()) == [200, 200]
    assert control.call_counts()[LOGIN] == 1
    service.db.close()


def test_each_login_is_logged_with_its_place(
    control: Any,
    database: Any,
    service: Service,
    ksef_token: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    telemetry.configure("INFO")  # to the standard error of this test
    login.log_in(here(service))
    ask = ask_after(control, service)
    let_refresh_token_end(database)
    ask()
    control.set_token_outcome("test", 450, nip=NIP)
    let_refresh_token_end(database)
    with pytest.raises(errors.NoActiveKsefSession):
        ask()

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {line["environment"] for line in lines} == {"test"}
    assert [(line["level"], line["event"]) for line in lines] == [
        ("info", "logged in to KSeF"),
        ("info", "logged in to KSeF again"),
        ("warning", "KSeF refuses the company's credential"),
    ]


# -- keys that are missing -----------------------------------------------------------------------


def with_keys(settings: Any, *secret_keys: bytes) -> Service:
    return Service(replace(settings, secret_keys=secret_keys))


@pytest.fixture
def stranger(settings: Any) -> Iterator[Service]:
    """A replica that has another key only: that of the others is lost, or not there yet."""
    service = with_keys(settings, os.urandom(32))
    yield service
    service.db.close()


@pytest.fixture
def newer(settings: Any) -> Iterator[Service]:
    """A replica that seals with a new key already, and opens with the old one too."""
    service = with_keys(settings, os.urandom(32), *settings.secret_keys)
    yield service
    service.db.close()


def silent_logins(database: Any) -> int:
    [(count,)] = database.execute(
        "SELECT count(*) FROM ksef_credentials WHERE silent_login_at IS NOT NULL"
    )
    return int(count)


def test_login_replaces_a_session_that_does_not_open(
    database: Any, control: Any, stranger: Service, company: Company
) -> None:
    before = row(database)
    credentials.store_token(here(stranger), control.add_token("test", NIP))
    assert login.log_in(here(stranger)) == login.current_session(here(stranger))
    assert control.call_counts()[LOGIN] == 1
    assert row(database)[4] == before[4] + 1
    control.clear_calls()
    assert login.log_in(here(stranger)) == login.current_session(here(stranger))
    assert ask_after(control, stranger)() == 200
    assert control.call_counts() == {SESSION: 1}


def test_session_that_does_not_open_is_replaced_by_one_silent_login(
    control: Any, stranger: Service, company: Company
) -> None:
    ask = ask_after(control, stranger)
    credentials.store_token(here(stranger), control.add_token("test", NIP))
    assert all_at_once(4, lambda _: ask()) == [200] * 4
    counts = control.call_counts()
    assert (counts[LOGIN], counts[SESSION]) == (1, 4)
    assert REFRESH not in counts


def test_credential_that_does_not_open_is_told_and_changes_nothing(
    database: Any, control: Any, service: Service, stranger: Service, company: Company
) -> None:
    before = row(database)
    for do in (ask_after(control, stranger), lambda: login.log_in(here(stranger))):
        with pytest.raises(errors.Unavailable, match="or store the credential anew"):
            do()
    assert control.calls() == []
    assert row(database) == before
    assert silent_logins(database) == 0, "a turn that others may need"
    assert database.execute("SELECT name FROM leases") == []
    assert ask_after(control, service)() == 200
    assert control.call_counts() == {SESSION: 1}


def test_credential_that_does_not_open_ends_no_session(
    database: Any, control: Any, stranger: Service, company: Company
) -> None:
    """Not even one whose refresh token ended: a replica with the key logs in again."""
    ask = ask_after(control, stranger)
    let_refresh_token_end(database)
    with pytest.raises(errors.Unavailable, match="or store the credential anew"):
        ask()
    assert row(database) is not None


@pytest.mark.parametrize("ended", [False, True])
def test_refused_login_ends_a_session_that_does_not_open_only_where_it_had_ended(
    database: Any, control: Any, service: Service, stranger: Service, company: Company, ended: bool
) -> None:
    ask = ask_after(control, stranger)
    credentials.store_token(here(stranger), control.add_token("test", NIP))
    control.set_token_outcome("test", 450, nip=NIP)
    if ended:
        let_refresh_token_end(database)
    with pytest.raises(errors.NoActiveKsefSession, match="could not be renewed"):
        ask()
    assert (row(database) is None) is ended
    if not ended:
        assert ask_after(control, service)() == 200


def test_logout_of_a_session_that_does_not_open_is_refused(
    database: Any, control: Any, stranger: Service, company: Company
) -> None:
    before = row(database)
    credentials.store_token(here(stranger), control.add_token("test", NIP))
    with pytest.raises(errors.Unavailable, match="cannot be opened, and so not be revoked"):
        login.log_out(here(stranger))
    assert control.calls() == []
    assert row(database) == before


def test_replicas_go_on_beside_each_other_while_the_key_is_changed(
    database: Any, control: Any, service: Service, newer: Service, company: Company
) -> None:
    """The older one renews what the newer one sealed; the newer one opens either."""
    older_asks, newer_asks = ask_after(control, service), ask_after(control, newer)
    let_access_token_end(database)
    assert newer_asks() == 200
    assert control.call_counts() == {REFRESH: 1, SESSION: 1}
    assert older_asks() == newer_asks() == older_asks() == 200
    assert control.call_counts() == {REFRESH: 2, SESSION: 4}

    let_refresh_token_end(database)
    assert newer_asks() == 200
    assert older_asks() == newer_asks() == older_asks() == 200
    counts = control.call_counts()
    assert (counts[LOGIN], counts[REFRESH], counts[SESSION]) == (2, 2, 8)


def test_nobody_waits_for_what_another_replica_sealed_ahead_of_time(
    database: Any,
    control: Any,
    service: Service,
    newer: Service,
    company: Company,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is sealed between our look at the row and our trying to take the lease."""
    let_access_token_end(database, seconds_left=30)
    before = tokens.active_row(here(service))
    newer_asks, older_asks = ask_after(control, newer), ask_after(control, service)
    assert newer_asks() == 200
    hold_lease(database, seconds=60)
    real, seen_before = tokens.active_row, iter([before])
    monkeypatch.setattr(tokens, "active_row", lambda account: next(seen_before, real(account)))
    given = AccessToken(here(service)).access_token()
    assert given == opened(service, before.access_token, "access token")
    database.execute("DELETE FROM leases")
    assert older_asks() == 200
    assert control.call_counts() == {REFRESH: 2, SESSION: 2}


def test_what_was_known_of_a_token_is_not_held_against_that_of_another_replica(
    database: Any, control: Any, service: Service, newer: Service, company: Company
) -> None:
    known = row(database)[4]
    token, newer_token = AccessToken(here(service)), AccessToken(here(newer))
    token.access_token()
    newer_token.access_token()
    newer_token.renew(by_login=False)
    control.clear_calls()
    token.renew(by_login=True)
    assert row(database)[4] == known + 2
    assert control.call_counts() == {REFRESH: 1}


# -- quota ----------------------------------------------------------------------------------


@pytest.fixture
def metered(settings: Any, company: Company) -> Iterator[Service]:
    """Windows in their true length; 20 calls about sessions an hour, of which 18 are ours."""
    timing = replace(settings.timing, quota_scale=1.0, quota_jitter=0.25)
    service = Service(replace(settings, timing=timing))
    quota.store_limits(here(service), {limits.SESSION: limits.Limits(-1, -1, 20)})
    yield service
    service.db.close()


def set_aside(database: Any) -> dict[str, int]:
    return dict(
        database.execute(
            "SELECT quota_group, count(*) FROM quota_calls"
            " WHERE quota_group NOT IN ('login', 'other') GROUP BY 1"
        )
    )


def test_calls_set_aside_ahead_are_those_that_are_sent(
    database: Any, control: Any, metered: Service
) -> None:
    reference = control.seed_session("test", NIP).reference_number
    account = here(metered)
    account.calls.reserve(limits.SESSION, 3)
    assert set_aside(database) == {limits.SESSION: 3}
    for counted in (3, 3, 3, 4):
        account.ksef.session_status(reference)
        assert set_aside(database) == {limits.SESSION: counted}


def test_a_call_takes_and_needs_no_more_than_its_share(database: Any, metered: Service) -> None:
    careful = here(metered, share=0.5).calls
    careful.require(limits.SESSION)
    careful.reserve(limits.SESSION, 9)
    for refused in (careful.require, lambda group: careful.reserve(group, 1)):
        with pytest.raises(errors.KsefRateLimited):
            refused(limits.SESSION)
    careful.require(limits.SESSION_LIST)
    others = here(metered).calls
    others.require(limits.SESSION)
    others.reserve(limits.SESSION, 9)
    with pytest.raises(errors.KsefRateLimited):
        others.require(limits.SESSION)
    assert set_aside(database) == {limits.SESSION: 18}


def test_a_caller_waits_for_quota_as_long_as_it_is_told_to(metered: Service) -> None:
    """Nine in a second: the 10th goes after 1.25 s, the 19th would after 2.5 s."""
    with pytest.raises(errors.KsefRateLimited):
        here(metered, patience=1.0).calls.reserve(limits.INVOICE_LIST, 10)
    with pytest.raises(errors.KsefRateLimited):
        here(metered).calls.reserve(limits.INVOICE_LIST, 19)
    here(metered).calls.reserve(limits.INVOICE_LIST, 10)


def test_a_call_that_comes_late_is_counted_where_it_is_sent(
    database: Any, control: Any, metered: Service
) -> None:
    reference = control.seed_session("test", NIP).reference_number
    account = here(metered)
    account.calls.reserve(limits.SESSION, 1)
    [before] = database.execute(
        "SELECT id, reserved_at FROM quota_calls WHERE quota_group NOT IN ('login', 'other')"
    )
    clock.sleep(0.1)
    account.ksef.session_status(reference)
    [after] = database.execute(
        "SELECT id, reserved_at FROM quota_calls WHERE quota_group NOT IN ('login', 'other')"
    )
    assert after[0] > before[0]
    assert after[1] - before[1] >= timedelta(seconds=0.1)


def test_a_call_whose_group_is_blocked_before_its_turn_is_not_sent(
    control: Any, settings: Any, company: Company
) -> None:
    service = Service(replace(settings, timing=replace(settings.timing, quota_scale=0.5)))
    reference = control.seed_session("test", NIP).reference_number
    quota.reserve(here(service, patience=0.0), limits.SESSION, 9)
    account = here(service)
    account.calls.reserve(limits.SESSION, 1)
    here(service).calls.block(limits.SESSION, 60)
    with pytest.raises(errors.KsefRateLimited):
        account.ksef.session_status(reference)
    assert control.calls() == []
    service.db.close()


def test_a_429_blocks_its_group_for_as_long_as_ksef_says(
    control: Any, service: Service, company: Company
) -> None:
    ask = ask_after(control, service)
    control.fault("rate-limited", path="/sessions/", retryAfter=77)
    for _ in range(2):
        with pytest.raises(errors.KsefRateLimited) as refused:
            ask()
        assert 75 <= refused.value.retry_after <= 77
    assert control.call_counts() == {SESSION: 1}
    blocked = {row.quota_group: row.blocked_until for row in quotas.show(here(service))}
    assert timedelta(seconds=70) < blocked.pop(limits.SESSION) - clock.now()
    assert set(blocked.values()) == {None}


def test_a_call_is_repeated_once_where_there_is_quota_for_it(
    database: Any, control: Any, metered: Service
) -> None:
    ask = ask_after(control, metered)
    control.fault("html-503", path="/sessions/")
    assert ask() == 200
    assert control.call_counts() == {SESSION: 2}
    assert set_aside(database) == {limits.SESSION: 2}

    control.clear_calls()
    quota.reserve(here(metered, patience=0.0), limits.SESSION, 15)
    control.fault("html-503", path="/sessions/")
    with pytest.raises(errors.KsefFailure) as failure:
        ask()
    assert not isinstance(failure.value, errors.KsefRateLimited)
    assert control.call_counts() == {SESSION: 1}


# -- logging out ----------------------------------------------------------------------------


def test_logout_revokes_at_ksef_and_forgets(
    database: Any, control: Any, service: Service, sandbox: Any, company: Company
) -> None:
    refresh_token = opened(service, row(database)[2], "refresh token")

    login.log_out(here(service))

    assert control.call_counts() == {REVOKE: 1}
    assert row(database) is None
    again = requests.post(
        f"{sandbox.url}/test/v2/auth/token/refresh",
        headers={"Authorization": f"Bearer {refresh_token}"},
        timeout=5,
    )
    assert again.status_code == 400
    with pytest.raises(errors.NoActiveKsefSession):
        login.current_session(here(service))
    with pytest.raises(errors.NoActiveKsefSession):
        ask_after(control, service)()


def test_logout_leaves_other_environments_and_the_credential(
    database: Any, service: Service, make_company: Callable[..., Company]
) -> None:
    make_company(NIP, environments=("test", "demo"))
    login.log_out(here(service))
    assert database.execute("SELECT environment::text FROM ksef_sessions") == [("demo",)]
    assert login.log_in(here(service)).method == "token"


def test_logout_that_ksef_fails_can_be_repeated(
    database: Any, control: Any, service: Service, company: Company
) -> None:
    control.fault("html-503", method="DELETE")
    with pytest.raises(errors.KsefError):
        login.log_out(here(service))
    assert row(database) is not None
    login.log_out(here(service))
    assert row(database) is None


def test_session_that_ksef_had_ended_is_forgotten_by_a_logout(
    database: Any, control: Any, service: Service, company: Company
) -> None:
    control.fault("unauthorized", method="DELETE", times=None)
    login.log_out(here(service))
    assert row(database) is None
    assert control.call_counts() == {REVOKE: 1}, "nobody logs in to log out"


def test_logout_without_a_session_is_told(control: Any, service: Service, ksef_token: str) -> None:
    with pytest.raises(errors.NoActiveKsefSession):
        login.log_out(here(service))
    assert control.calls() == []


def while_it_is_renewed(
    database: Any, control: Any, service: Service, change: Callable[[], Any]
) -> str | int:
    """Renew the ended access token, `change` something before KSeF answers; what the call gave."""
    ask = ask_after(control, service)
    let_access_token_end(database)
    return while_ksef_thinks(control, "/auth/token/refresh", ask, change)


def test_logout_beside_a_renewal_is_not_undone_by_it(
    database: Any, control: Any, service: Service, company: Company
) -> None:
    def log_out() -> None:
        database.execute("DELETE FROM ksef_sessions")

    told = while_it_is_renewed(database, control, service, log_out)

    assert told == "no_active_ksef_session"
    assert control.call_counts() == {REFRESH: 1}
    assert row(database) is None


def live_at_ksef(control: Any) -> int:
    """How many sessions were begun at KSeF since the calls were cleared, and not revoked."""
    counts = control.call_counts()
    return int(counts.get(REDEEM, 0) - counts.get(REVOKE, 0))


@pytest.mark.fault(41)
@pytest.mark.parametrize("path", ["/auth/challenge", "/auth/token/redeem"])
def test_login_beside_a_logout_comes_after_it(
    database: Any, control: Any, service: Service, company: Company, path: str
) -> None:
    """Who logs in while KSeF ends the session gets a new one, which is stored."""
    control.clear_calls()
    logged_in: list[Any] = []

    def log_out_then_in() -> None:
        login.log_out(here(service))

    control.fault("delay", path=path, seconds=0.3)
    beside = threading.Thread(target=lambda: logged_in.append(login.log_in(here(service))))

    def begin() -> None:
        database.execute("SELECT pg_sleep(0.05)")
        beside.start()

    while_ksef_thinks(control, "/auth/sessions/current", log_out_then_in, begin)
    beside.join(20)
    if row(database) is None:  # it was told of the session before that was ended
        assert live_at_ksef(control) == -1
    else:
        assert live_at_ksef(control) == 0
    assert len(logged_in) == 1


@pytest.mark.fault(41)
@pytest.mark.parametrize("end", ["access", "refresh"])
def test_logout_beside_a_renewal_comes_after_it(
    database: Any, control: Any, service: Service, company: Company, end: str
) -> None:
    """A refresh, or a silent login: what it began at KSeF is what the logout ends."""
    ask = ask_after(control, service)
    path = "/auth/token/refresh"
    let_access_token_end(database)
    if end == "refresh":
        let_refresh_token_end(database)
        path = "/auth/ksef-token"
    control.clear_calls()
    logged_out = threading.Thread(target=lambda: login.log_out(here(service)))
    told = while_ksef_thinks(control, path, ask, logged_out.start)
    logged_out.join(20)
    assert told in (200, "no_active_ksef_session")
    assert row(database) is None
    assert live_at_ksef(control) == (0 if end == "refresh" else -1)


@pytest.mark.fault(41)
def test_status_check_beside_a_logout_is_answered_or_told(
    database: Any, control: Any, service: Service, company: Company
) -> None:
    """Its access token lives on at KSeF for a while; it begins no new session."""
    ask = ask_after(control, service)
    control.clear_calls()
    told = while_ksef_thinks(control, "/sessions/", ask, lambda: login.log_out(here(service)))
    assert told == 200
    assert row(database) is None
    assert live_at_ksef(control) == -1
    assert ask_told(ask) == "no_active_ksef_session"


@pytest.fixture
def unwritable_sessions(database: Any) -> Iterator[None]:
    """The database takes no new tokens."""
    database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no tokens today'; END $$;"
        " CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OF version ON ksef_sessions"
        " FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    yield
    database.execute("DROP FUNCTION refuse CASCADE")


@pytest.mark.fault(41)
def test_login_that_cannot_be_stored_is_ended(
    control: Any, service: Service, ksef_token: str, unwritable_sessions: None
) -> None:
    control.clear_calls()
    with pytest.raises(errors.Unavailable):
        login.log_in(here(service))
    assert control.call_counts()[REDEEM] == 1
    assert live_at_ksef(control) == 0


@pytest.mark.fault(41)
def test_silent_login_that_cannot_be_stored_is_ended(
    database: Any, control: Any, service: Service, company: Company, unwritable_sessions: None
) -> None:
    let_refresh_token_end(database)
    control.clear_calls()
    with pytest.raises(errors.Unavailable):
        AccessToken(here(service)).access_token()
    assert control.call_counts()[REDEEM] == 1
    assert live_at_ksef(control) == 0


@pytest.mark.fault(41)
def test_company_removed_beside_a_login_leaves_no_session(
    database: Any, control: Any, service: Service, ksef_token: str
) -> None:
    control.clear_calls()
    removed = threading.Thread(target=lambda: companies.remove(service, NIP))
    while_ksef_thinks(
        control, "/auth/token/redeem", lambda: login.log_in(here(service)), removed.start
    )
    removed.join(20)
    assert row(database) is None
    assert live_at_ksef(control) == 0


@pytest.mark.fault(41)
def test_login_with_a_credential_that_is_removed_meanwhile_leaves_no_session(
    database: Any, control: Any, service: Service, ksef_token: str
) -> None:
    control.clear_calls()
    told = while_ksef_thinks(
        control,
        "/auth/token/redeem",
        lambda: login.log_in(here(service)),
        lambda: database.execute("DELETE FROM ksef_credentials"),
    )
    assert told == "no_ksef_credential"
    assert live_at_ksef(control) == 0


@pytest.mark.fault(41)
def test_logout_that_comes_late_spares_a_newer_session(
    database: Any, control: Any, service: Service, company: Company
) -> None:
    def begin_anew() -> None:
        database.execute("DELETE FROM leases; DELETE FROM ksef_sessions")
        login.log_in(here(service))

    while_ksef_thinks(
        control, "/auth/sessions/current", lambda: login.log_out(here(service)), begin_anew
    )
    assert row(database) is not None


def ask_told(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except errors.ProxyError as error:
        return error.code


def test_late_renewal_does_not_overwrite_a_newer_one(
    database: Any, control: Any, service: Service, company: Company
) -> None:
    newer: list[Any] = []

    def renew_elsewhere() -> None:
        database.execute("UPDATE ksef_sessions SET version = version + 1")
        newer.append(row(database))

    assert while_it_is_renewed(database, control, service, renew_elsewhere) == 200
    assert row(database) == newer[0]


# -- secrets at rest ------------------------------------------------------------------------


def opened(service: Service, sealed: Any, purpose: str) -> str:
    return service.vault.open(bytes(sealed), company_nip=NIP, environment="test", purpose=purpose)


def test_stored_secrets_do_not_hold_their_values(
    database: Any, control: Any, service: Service, ksef_token: str
) -> None:
    login.log_in(here(service))
    [(secret, credential)] = database.execute(
        "SELECT secret, convert_from(convert_to(c::text, 'UTF8'), 'UTF8')"
        " FROM ksef_credentials AS c"
    )
    stored = row(database)
    values = {
        opened(service, secret, "credential"): bytes(secret),
        opened(service, stored[0], "access token"): bytes(stored[0]),
        opened(service, stored[2], "refresh token"): bytes(stored[2]),
    }
    assert ksef_token in values
    assert len(values) == 3
    assert all(value.count(".") == 2 for value in values if value != ksef_token)  # JWTs
    for value, sealed in values.items():
        assert len(value) > 20
        for whole in (sealed, credential.encode()):
            assert value.encode() not in whole
            assert value[:12].encode() not in whole


def test_token_put_under_another_company_does_not_open(
    database: Any, control: Any, service: Service, make_company: Callable[..., Company]
) -> None:
    make_company(NIP, environments=("test",))
    make_company(OTHER_NIP, environments=("test",))
    ask = ask_after(control, service)
    database.execute(
        "UPDATE ksef_sessions AS mine SET access_token = theirs.access_token"
        f" FROM ksef_sessions AS theirs WHERE mine.company_nip = '{NIP}'"
        f" AND theirs.company_nip = '{OTHER_NIP}'"
    )
    assert ask() == 200
    assert control.call_counts() == {REFRESH: 1, SESSION: 1}, "theirs is not sent"


@pytest.mark.parametrize("token", ["", "two\nlines", "nul\x00", "tab\t"])
def test_what_is_no_token_is_not_stored(
    database: Any, service: Service, make_company: Callable[..., Company], token: str
) -> None:
    make_company(NIP, logged_in=False)
    with pytest.raises(errors.OperatorError):
        credentials.store_token(here(service), token)
    assert database.execute("SELECT method FROM ksef_credentials") == []


def test_new_token_takes_the_place_of_the_old_one(
    database: Any, control: Any, service: Service, ksef_token: str
) -> None:
    control.set_token_outcome("test", 450, token=ksef_token)
    credentials.store_token(here(service), control.add_token("test", NIP))
    assert login.log_in(here(service)).method == "token"
    assert database.execute("SELECT count(*) FROM ksef_credentials") == [(1,)]
