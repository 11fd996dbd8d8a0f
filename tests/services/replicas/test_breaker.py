"""Is KSeF down? The breaker that all replicas share, the evidence, and what it costs."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from app import clock, create_app, errors
from app.context import EXTENSION
from app.db.queries import outages as queries
from app.ksef.latarnia import Event
from app.ksef.login import CHALLENGE
from app.services import outages
from app.services.events import journal
from app.services.outages import Evidence
from app.settings import Settings
from sandbox.control import Control
from tests.service import Company

NIP = "5265877635"
KEYS = "GET /{environment}/v2/security/public-key-certificates"
SESSION = "GET /{environment}/v2/sessions/{reference}"
NO_OUTAGE = Evidence(messages=[], announcements=[])
SCALED = {
    "retry_left": math.inf,  # no call is repeated: each failure is one
    "outage_after": 0.8,
    "outage_probe": 0.5,
    "outage_probe_every": 0.6,
    "outage_pause": 0.8,
    "latarnia": 0.3,
    "latarnia_every": 60.0,
}


@pytest.fixture
def settings(settings: Settings, sandbox: Any) -> Settings:
    return replace(
        settings,
        timing=replace(settings.timing, **SCALED),
        latarnia_urls={"prod": f"{sandbox.url}/latarnia/prod"},
    )


@pytest.fixture
def company(make_company: Callable[..., Company]) -> Company:
    return make_company(NIP)


@pytest.fixture
def replica(settings: Settings, company: Company) -> Iterator[Callable[..., Company]]:
    """The company before another replica of the service on the same database, its settings changed
    where told."""
    with ExitStack() as running:

        def start(**changes: Any) -> Company:
            app = create_app(replace(settings, **changes))
            running.callback(app.extensions[EXTENSION].db.close)
            there = replace(company, client=app.test_client(), service=app.extensions[EXTENSION])
            there.get("/outages/test")  # the password is hashed once
            return there

        yield start


@pytest.fixture
def ask(company: Company, control: Control) -> Callable[..., str]:
    """Asks after a session that moves; the code of the error, or "ok"."""
    references = {
        name: control.seed_session(name, NIP, state="open").reference_number
        for name in ("test", "demo", "prod")
    }
    company.get("/outages/test")  # the password is hashed once
    control.clear_calls()

    def asked(
        environment: str = "test", of: Company = company, reference: str | None = None
    ) -> str:
        reference = reference or references[environment]
        answer = of.get(f"/invoices/{environment}/status/{reference}")
        return "ok" if answer.status_code == 200 else str(answer.json["code"])

    return asked


def evidence(company: Company, environment: str = "test") -> Evidence:
    service = company.service
    return outages.evidence(service.db, service.timing, environment)


def until(code: str, ask: Callable[..., str], seconds: float = 5.0, **asked: Any) -> list[str]:
    """Asks again and again until it is answered so; all the answers."""
    deadline = clock.monotonic() + seconds
    answers = [ask(**asked)]
    while answers[-1] != code:
        assert clock.monotonic() < deadline, answers
        answers.append(ask(**asked))
    return answers


# -- the breaker ----------------------------------------------------------------------------


def test_opens_after_enough_failures_over_enough_time_and_not_before(
    ask: Any, company: Company, control: Control
) -> None:
    control.set_api("test", available=False)
    began = clock.monotonic()
    answers = [ask() for _ in range(6)]
    assert clock.monotonic() - began < SCALED["outage_after"]
    assert set(answers) == {"ksef_error"}  # six in a row, but all in a moment
    known = evidence(company)
    assert (known.established, known.source) == (False, None)
    assert known.consecutive_failures == 6
    assert known.since is not None
    answers = until("ksef_outage", ask)
    assert clock.monotonic() - began >= SCALED["outage_after"]
    assert control.call_counts("test")[KEYS] == 1
    known = evidence(company)
    assert (known.established, known.source, known.duty) == (True, "breaker", None)
    assert known.messages == []


def test_long_failing_is_not_enough_either(ask: Any, company: Company, control: Control) -> None:
    control.set_api("test", available=False)
    assert ask() == "ksef_error"
    began = clock.monotonic()
    while clock.monotonic() < began + SCALED["outage_after"]:
        evidence(company)
    assert [ask() for _ in range(3)] == ["ksef_error"] * 3  # four
    assert KEYS not in control.call_counts("test")
    assert ask() == "ksef_outage"  # the fifth


def test_while_open_nothing_is_sent_and_no_quota_is_spent(
    ask: Any, company: Company, control: Control, database: Any
) -> None:
    control.set_api("test", available=False)
    until("ksef_outage", ask)
    spent = database.execute("SELECT count(*) FROM quota_calls")
    control.clear_calls()
    # The next probe is not yet due.
    database.execute("UPDATE outages SET probed_at = clock_timestamp() + interval '7 seconds'")
    assert ask() == "ksef_outage"
    assert control.calls() == []
    assert database.execute("SELECT count(*) FROM quota_calls") == spent


def test_poisoned_session_never_opens_it_for_others(
    ask: Any, company: Company, control: Control
) -> None:
    poisoned = control.seed_session("test", NIP).reference_number
    control.fault("status", status=500, path=f"/sessions/{poisoned}", times=None)
    deadline = clock.monotonic() + 4 * SCALED["outage_after"]
    answers = set()
    while clock.monotonic() < deadline:
        answers.add(ask(reference=poisoned))
    assert answers == {"ksef_error"}
    assert control.call_counts("test")[KEYS] >= 1  # it was confirmed that KSeF answers
    assert evidence(company).established is False
    assert ask() == "ok"
    assert evidence(company).consecutive_failures == 0


def test_one_answer_between_begins_the_count_anew(
    ask: Any, control: Control, company: Company
) -> None:
    control.fault("html-503", path="/sessions/", times=4)
    assert [ask() for _ in range(5)] == ["ksef_error"] * 4 + ["ok"]
    assert evidence(company) == NO_OUTAGE


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ksef-error", {"code": 21173}),
        ("ksef-error", {"code": 21001}),
        ("forbidden", {}),
        ("invalid-json", {}),
        ("set-field", {"field": "status", "value": None}),
    ],
    ids=str,
)
def test_answer_about_one_question_shows_that_ksef_answers(
    ask: Any, control: Control, company: Company, kind: str, options: Any
) -> None:
    control.fault("reset", path="/sessions/", times=2)
    ask()
    ask()
    control.clear_faults()
    control.fault(kind, path="/sessions/", **options)
    assert ask() != "ok"
    assert evidence(company).consecutive_failures == 0


def test_429_shows_that_ksef_answers(ask: Any, control: Control, company: Company) -> None:
    control.fault("html-503", path="/sessions/")
    ask()
    control.fault("rate-limited", path="/sessions/", retryAfter=1)
    assert ask() == "ksef_rate_limited"
    assert evidence(company).consecutive_failures == 0


@pytest.mark.parametrize("mode", ["503-html", "reset", "hang", "html-200"])
def test_what_counts(
    ask: Any, control: Control, replica: Any, settings: Settings, mode: str
) -> None:
    there = replica(timing=replace(settings.timing, ksef_call=0.2))
    control.set_api("test", available=False, mode=mode)
    assert ask(of=there) in {"ksef_error", "ksef_unreachable", "ksef_invalid_response"}
    assert evidence(there).consecutive_failures == 1


def test_name_that_is_not_found_does_not_count(
    ask: Any, replica: Any, settings: Settings, control: Control
) -> None:
    there = replica(ksef_urls={**settings.ksef_urls, "test": "http://ksef.invalid/v2"})
    before = evidence(there)
    assert [ask(of=there) for _ in range(6)] == ["ksef_unreachable"] * 6
    assert evidence(there) == before


def test_call_cut_short_by_our_own_deadline_does_not_count(
    ask: Any, control: Control, company: Company
) -> None:
    control.set_api("test", available=False, mode="hang")
    with clock.within(0.3):  # a call may take two seconds
        assert ask() == "ksef_unreachable"
    assert control.call_counts("test") == {SESSION: 1}
    assert evidence(company) == NO_OUTAGE


def test_nobody_who_has_too_little_time_left_confirms_an_outage(
    ask: Any, control: Control, database: Any
) -> None:
    """A probe that the request's end cuts short would find a healthy KSeF down."""
    control.fault("html-503", path="/sessions/", times=None)
    for _ in range(5):
        ask()
    database.execute("UPDATE outages SET failing_since = failing_since - interval '1 minute'")
    with clock.within(SCALED["outage_probe"]):
        assert ask() in {"ksef_error", "ksef_unreachable"}
    assert KEYS not in control.call_counts("test")
    ask()
    assert control.call_counts("test")[KEYS] == 1


# -- half open ------------------------------------------------------------------------------


def test_recovers_by_one_probe_of_all_replicas(ask: Any, control: Control, replica: Any) -> None:
    others = [replica(), replica()]
    control.set_api("test", available=False)
    until("ksef_outage", ask)
    assert [ask(of=other) for other in others] == ["ksef_outage"] * 2
    control.clear_calls()
    began = clock.monotonic()
    while clock.monotonic() < began + 3 * SCALED["outage_probe_every"]:
        assert {ask(), *(ask(of=other) for other in others)} == {"ksef_outage"}
    assert 2 <= control.call_counts("test")[KEYS] <= 4
    assert SESSION not in control.call_counts("test")
    control.set_api("test", available=True)
    answers = until("ok", ask)
    assert set(answers) <= {"ksef_outage", "ok"}
    assert [ask(of=other) for other in others] == ["ok"] * 2
    assert evidence(others[0]) == NO_OUTAGE


def test_turn_to_probe_is_left_to_somebody_with_time_for_it(
    ask: Any, control: Control, company: Company, database: Any
) -> None:
    control.set_api("test", available=False)
    until("ksef_outage", ask)
    control.set_api("test", available=True)
    database.execute("UPDATE outages SET probed_at = probed_at - interval '1 minute'")
    control.clear_calls()
    with (
        clock.within(SCALED["outage_probe"]),
        pytest.raises(errors.KsefUnreachable, match="KSeF is down: it was not asked"),
    ):
        company.account().http.send(CHALLENGE)
    assert control.calls() == []
    assert ask() == "ok"


def test_probe_that_meets_our_own_trouble_changes_nothing(
    ask: Any, control: Control, replica: Any, settings: Settings, database: Any
) -> None:
    control.set_api("test", available=False)
    until("ksef_outage", ask)
    lost = replica(ksef_urls={**settings.ksef_urls, "test": "http://ksef.invalid/v2"})
    before = evidence(lost)
    database.execute("UPDATE outages SET probed_at = probed_at - interval '1 hour'")
    with pytest.raises(errors.KsefUnreachable, match="KSeF is down: it was not asked"):
        lost.account().http.send(CHALLENGE)
    assert evidence(lost) == before


def test_own_trouble_does_not_confirm_an_outage(
    ask: Any, control: Control, replica: Any, settings: Settings
) -> None:
    control.fault("waf-403", path="/security/", times=None)
    control.fault("html-503", path="/sessions/", times=None)
    deadline = clock.monotonic() + 3 * SCALED["outage_after"]
    while clock.monotonic() < deadline:
        assert ask() == "ksef_error"
    assert control.call_counts("test")[KEYS] >= 1


# -- the firewall ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["waf-403", "waf-html-403", "waf-html-200"])
def test_blocked_environment_is_left_alone_by_all_replicas(
    ask: Any, company: Company, control: Control, replica: Any, database: Any, kind: str
) -> None:
    tokens = database.execute("SELECT * FROM ksef_sessions ORDER BY environment")
    control.fault(kind, path="/sessions/")
    assert ask() == "ksef_error"
    database.execute("UPDATE outages SET paused_until = paused_until + interval '1 minute'")
    control.clear_calls()
    other = replica()
    with pytest.raises(errors.KsefError) as caught:
        other.account().http.send(CHALLENGE)
    assert caught.value.retry_after in (60, 61)
    assert ask(of=other) == "ksef_error"
    assert control.calls() == []
    assert ask("demo", of=other) == "ok"
    database.execute("UPDATE outages SET paused_until = paused_until - interval '1 minute'")
    until("ok", ask)
    assert evidence(other).consecutive_failures == 0
    assert database.execute("SELECT * FROM ksef_sessions ORDER BY environment") == tokens


# -- Latarnia -------------------------------------------------------------------------------


def lighthouse_calls(control: Control) -> int:
    return sum(call.path.endswith("/status") for call in control.calls() if is_latarnia(call))


def is_latarnia(call: Any) -> bool:
    return bool(call.service == "latarnia")


@pytest.mark.fault(30)
def test_latarnia_is_asked_once_a_minute_by_all_replicas_and_after_a_failure_only(
    ask: Any, control: Control, replica: Any, database: Any
) -> None:
    other = replica()
    assert [ask("prod"), ask("prod", of=other)] == ["ok", "ok"]
    control.fault("ksef-error", code=21001, path="/sessions/")
    ask("prod")
    assert lighthouse_calls(control) == 0
    control.set_api("prod", available=False)
    for _ in range(3):
        assert [ask("prod"), ask("prod", of=other)] == ["ksef_error"] * 2
    assert lighthouse_calls(control) == 1
    database.execute("UPDATE outages SET latarnia_asked_at = now() - interval '1 minute'")
    ask("prod", of=other)
    ask("prod")
    assert lighthouse_calls(control) == 2


@pytest.mark.parametrize(
    ("said", "category", "duty"),
    [
        ("MAINTENANCE", "MAINTENANCE", "next_working_day_after_end"),
        ("FAILURE", "FAILURE", "seven_working_days_after_end"),
        ("TOTAL_FAILURE", "TOTAL_FAILURE", "none"),
        # Status and event differ: what the event bears out.
        ("TOTAL_FAILURE", "FAILURE", "seven_working_days_after_end"),
    ],
)
def test_latarnia_establishes_an_outage_and_sets_the_duty(
    ask: Any, company: Company, control: Control, said: str, category: str, duty: str
) -> None:
    [message] = control.set_latarnia("prod", category)
    control.set_latarnia("prod", said, messages=[message])
    control.set_api("prod", available=False)
    assert ask("prod") == "ksef_outage"
    known = evidence(company, "prod")
    assert (known.established, known.source, known.duty) == (True, "latarnia", duty)
    assert known.consecutive_failures == 1
    [told] = known.messages
    assert known.since is not None
    published = datetime.fromisoformat(message["published"])
    assert told == Event(category, message["title"], message["text"], known.since, None, published)


def test_latarnia_s_word_is_kept_for_ten_minutes_and_not_longer(
    ask: Any, company: Company, control: Control, database: Any
) -> None:
    control.set_latarnia("prod", "FAILURE")
    control.set_api("prod", available=False)
    assert ask("prod") == "ksef_outage"
    age = "UPDATE outages SET latarnia_read_at = clock_timestamp() - interval '{} seconds'"
    database.execute(age.format(595))
    assert evidence(company, "prod").established is True
    database.execute(age.format(600))
    known = evidence(company, "prod")
    assert (known.established, known.messages, known.duty) == (False, [], None)
    assert ask("prod") == "ksef_error"


def test_latarnia_that_fails_makes_it_unknown_at_once(
    ask: Any, company: Company, control: Control, database: Any
) -> None:
    control.set_latarnia("prod", "FAILURE")
    control.set_api("prod", available=False)
    assert ask("prod") == "ksef_outage"
    control.set_latarnia("prod", "FAILURE", available=False)
    database.execute("UPDATE outages SET latarnia_asked_at = now() - interval '1 minute'")
    assert ask("prod") == "ksef_error"


def test_latarnia_that_says_outage_while_ksef_answers_changes_nothing(
    ask: Any, company: Company, control: Control
) -> None:
    control.set_latarnia("prod", "FAILURE")
    control.fault("html-503", environment="prod", path="/sessions/")
    assert [ask("prod"), ask("prod")] == ["ksef_outage", "ok"]
    known = evidence(company, "prod")
    assert (known.established, known.source, known.duty) == (False, None, None)
    assert known.messages == []
    assert [message.category for message in known.announcements] == ["FAILURE"]


def test_latarnia_s_word_comes_to_an_open_breaker_too(
    ask: Any, company: Company, control: Control, database: Any
) -> None:
    control.set_api("prod", available=False)
    until("ksef_outage", ask, environment="prod")
    assert evidence(company, "prod").source == "breaker"
    control.set_latarnia("prod", "FAILURE")
    database.execute(
        "UPDATE outages SET latarnia_asked_at = now() - interval '1 minute',"
        " probed_at = now() - interval '1 minute'"
    )
    assert [ask("prod"), ask("prod")] == ["ksef_outage"] * 2
    assert evidence(company, "prod").source == "latarnia"


# -- what it costs, and what it must not cost -------------------------------------------------


def test_answers_are_not_written_down_each_time_while_nothing_is_wrong(
    ask: Any, database: Any
) -> None:
    row = "SELECT xmin::text, ctid::text FROM outages WHERE environment = 'test'"
    assert ask() == "ok"
    before = database.execute(row)
    assert [ask() for _ in range(3)] == ["ok"] * 3
    assert database.execute(row) == before
    database.execute("UPDATE outages SET answered_at = now() - interval '31 seconds'")
    before = database.execute(row)
    assert ask() == "ok"
    assert database.execute(row) != before


def test_late_failure_of_a_probe_does_not_open_it_after_an_answer(
    ask: Any, company: Company, control: Control
) -> None:
    control.fault("html-503", path="/sessions/", times=5)
    assert [ask() for _ in range(6)] == ["ksef_error"] * 5 + ["ok"]
    company.service.db.run(queries.open_breaker, environment="test", failures=5)
    assert evidence(company).established is False


# -- what the journal tells of it -----------------------------------------------------------


def told(company: Company, environment: str = "test") -> list[str]:
    """The types of the company's events, and which source an outage has."""
    events = journal.read(company.service.account(NIP, environment), None, 100).events
    return [f"{event.type} {event.source or ''}".strip() for event in events]


def answering(ask: Callable[..., str], control: Control, company: Company) -> None:
    control.set_api("test", available=True)
    until("ok", ask)
    assert ask() == "ok"
    assert not evidence(company).established


def test_an_outage_is_told_once_when_it_is_established_and_once_when_it_is_over(
    ask: Any, company: Company, control: Control, replica: Any
) -> None:
    other = replica()
    control.set_api("test", available=False)
    assert [ask() for _ in range(5)] == ["ksef_error"] * 5
    assert told(company) == []
    until("ksef_outage", ask)
    for one in (company, other):
        ask(of=one)
    assert told(company) == ["outage.began breaker"]
    answering(ask, control, company)
    assert told(company) == ["outage.began breaker", "outage.ended"]
    control.set_api("test", available=False)
    until("ksef_outage", ask)
    assert told(company) == ["outage.began breaker", "outage.ended", "outage.began breaker"]
    assert told(company, "demo") == []


def test_an_outage_that_latarnia_announces_is_told_with_the_first_failure(
    ask: Any, company: Company, control: Control
) -> None:
    begin = (clock.now() - timedelta(minutes=5)).isoformat()
    message = {
        **{"id": "M1", "eventId": 1, "category": "FAILURE", "type": "FAILURE_START"},
        **{"title": "Awaria", "text": "Trwa.", "start": begin, "published": begin, "version": 1},
    }
    control.set_latarnia("prod", "FAILURE", messages=[message])
    control.set_api("prod", available=False)
    assert ask("prod") == "ksef_outage"
    assert ask("prod") == "ksef_outage"
    assert told(company, "prod") == ["outage.began latarnia"]


def test_the_end_of_an_outage_is_told_also_after_a_death_right_after_the_first_answer(
    ask: Any, company: Company, control: Control
) -> None:
    control.set_api("test", available=False)
    until("ksef_outage", ask)
    control.set_api("test", available=True)
    company.service.db.run(queries.note_answer, environment="test")  # and then it was killed
    assert told(company) == ["outage.began breaker"]
    assert ask() == "ok"
    assert told(company) == ["outage.began breaker", "outage.ended"]
