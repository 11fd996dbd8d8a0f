"""Sessions are followed by themselves: found, read, linked, archived, in order and within quota."""

import itertools
import math
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app import clock
from app.db.pool import Database
from app.ksef import failures
from app.service import Service
from app.services import outages
from app.services.events import follow, listing
from app.services.login import credentials
from app.services.login.session import log_in, log_out
from app.services.operators import purge
from app.services.replicas import leases
from app.services.sessions import search
from app.services.sessions.check import check_session
from app.services.sessions.search import known_sessions as known_of
from app.settings import Timing
from tests.rows import add_offline, add_synced, synced_sessions
from tests.services.conftest import LISTING, NIP, SESSIONS, STATUS, Asking

DOWNLOAD = "GET /{environment}/storage/upo/{reference}/{name}.xml"
PAGE = "GET /{environment}/v2/sessions/{reference}/upo/{upo_reference}"


_MOMENTS = {
    "followed": ("known_since", "known_until", "listed_until", "list_at", "rests_until"),
    "followed_sessions": ("date_created", "found_at", "read_at", "due_at", "moving_since"),
    "quota_calls": ("reserved_at",),
}


@dataclass(frozen=True)
class Following:
    """Rounds of following, and what they did."""

    asking: Asking

    def round(self) -> dict[str, int]:
        """One round; KSeF's calls in it."""
        self.asking.control.clear_calls()
        follow.follow_all(self.asking.service)
        return self.asking.counts()

    def later(self, seconds: float = 301.0) -> None:
        """As if so many seconds had passed."""
        for table, columns in _MOMENTS.items():
            changes = ", ".join(f"{c} = {c} - interval '{seconds} seconds'" for c in columns)
            self.asking.database.execute(f"UPDATE {table} SET {changes}")
        self.asking.age(seconds)

    def sessions(self, column: str) -> list[Any]:
        """A column of the sessions found, the oldest session first."""
        rows = self.asking.database.execute(
            f"SELECT {column} FROM followed_sessions ORDER BY date_created, reference_number"
        )
        return [value for (value,) in rows]

    @property
    def known_until(self) -> Any:
        known = known_of(self.asking.account)
        return known.known_until if known else None


@pytest.fixture
def settings(settings: Any) -> Any:
    # Nothing that moves is waited for; one list tells of all that happened before.
    timing = replace(settings.timing, follow_moving=0.0, follow_before=21_000.0)
    return replace(settings, timing=timing)


@pytest.fixture
def following(asking: Asking) -> Following:
    return Following(asking)


def now() -> datetime:
    return datetime.now(UTC)


def upos(following: Following) -> int:
    [(number,)] = following.asking.database.execute("SELECT count(*) FROM upos")
    return int(number)


class TestWithoutAnybodyAsking:
    def test_each_row_is_linked_and_each_upo_archived(self, following: Following) -> None:
        asking = following.asking
        sessions = [asking.seed(kind=kind, invoices=2) for kind in ("online", "batch", "online")]
        for session in sessions:
            add_synced(asking.database, asking.account, session.ksef_numbers)
        assert following.round() == {SESSIONS: 2, STATUS: 3, LISTING: 3, DOWNLOAD: 6}
        assert synced_sessions(asking.database, asking.account) == {
            number: session.reference_number
            for session in sessions
            for number in session.ksef_numbers
        }
        assert upos(following) == 6
        assert None not in following.sessions("archived_at")
        following.later()
        assert following.round() == {SESSIONS: 2}, "what is done is not done again"

    def test_a_moving_one_is_read_until_it_is_final(self, following: Following) -> None:
        asking = following.asking
        session = asking.seed(state="moving", invoices=[{"status": 150}])
        following.round()
        assert following.sessions("final_at") == [None]
        asking.control.change_session("test", session.reference_number, state="finished")
        following.later(5)
        following.round()
        assert None not in following.sessions("final_at") + following.sessions("archived_at")

    def test_rows_that_are_written_later_are_linked(self, following: Following) -> None:
        asking = following.asking
        session = asking.seed(invoices=2)
        following.round()
        add_synced(asking.database, asking.account, session.ksef_numbers)
        [(invoice,)] = asking.database.execute("SELECT min(reference_number) FROM kept_invoices")
        add_offline(asking.database, asking.account, [session.reference_number, invoice])
        following.later()
        assert following.round() == {SESSIONS: 2}
        linked = asking.database.execute(
            "SELECT session_reference_number FROM synced_invoices"
            " UNION ALL SELECT session_reference_number FROM offline_invoices"
        )
        assert linked == [(session.reference_number,)] * 4

    @pytest.mark.parametrize("name", ["own", "session's"])
    def test_a_single_row_that_is_written_later_is_linked(
        self, following: Following, name: str
    ) -> None:
        asking = following.asking
        session = asking.seed(invoices=2)
        following.round()
        [(invoice,)] = asking.database.execute("SELECT min(reference_number) FROM kept_invoices")
        named = invoice if name == "own" else session.reference_number
        add_offline(asking.database, asking.account, [named])
        following.later()
        following.round()
        linked = asking.database.execute("SELECT session_reference_number FROM offline_invoices")
        assert linked == [(session.reference_number,)]

    def test_the_oldest_is_read_first(self, following: Following) -> None:
        times = (now() - timedelta(hours=hours) for hours in (2, 5, 3))
        made = [following.asking.seed(date_created=at.isoformat()) for at in times]
        follow.follow_all(following.asking.service)
        asked = [
            call.path.rsplit("/", 1)[-1]
            for call in following.asking.control.calls()
            if f"GET {call.route}" == STATUS
        ]
        assert asked == [made[number].reference_number for number in (1, 2, 0)]

    def test_without_good_links_the_pages_of_the_collective_upo_are_archived(
        self, following: Following
    ) -> None:
        asking = following.asking
        asking.seed(invoices=3)
        asking.control.fault("status", status=404, service="storage", times=None)
        calls = following.round()
        assert calls[PAGE] == 1
        assert upos(following) == 1
        assert None not in following.sessions("archived_at")

    def test_a_session_without_accepted_invoices_is_done(self, following: Following) -> None:
        following.asking.seed(invoices=[{"status": 450}])
        following.round()
        assert (upos(following), following.sessions("failures")) == (0, [0])
        assert None not in following.sessions("archived_at")

    def test_a_long_session_s_upos_are_archived_in_parts(
        self, following: Following, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(follow, "_DOCUMENTS", 3)
        following.asking.seed(invoices=8)
        assert following.round()[DOWNLOAD] == 8
        assert upos(following) == 8
        assert None not in following.sessions("archived_at")

    def test_upos_that_cannot_be_archived_are_tried_less_and_less(
        self, following: Following, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(follow, "_DOCUMENTS", 1)
        following.asking.seed(invoices=3)
        following.asking.control.fault(
            "set-field", field="upo", value=None, path="/sessions/[^/]+$", times=None
        )
        following.asking.control.fault("upo-pdf", service="any", path="/upo", times=None)
        following.round()
        assert (upos(following), following.sessions("failures")) == (0, [1])


class TestKnownUntil:
    def test_nothing_is_known_before_the_first_round(self, following: Following) -> None:
        assert known_of(following.asking.account) is None
        assert following.known_until is None

    def test_it_is_the_begin_of_the_list_less_the_overlap(self, following: Following) -> None:
        before = now()
        following.round()
        overlap = timedelta(seconds=following.asking.service.timing.follow_overlap)
        # KSeF's clock is told in whole seconds.
        assert before - timedelta(seconds=2) <= following.known_until + overlap <= now()
        known = known_of(following.asking.account)
        assert known is not None
        assert known.known_since < before - timedelta(seconds=20_000)

    def test_the_slower_of_the_two_clocks_counts(
        self, following: Following, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slow = now() - timedelta(hours=1)
        monkeypatch.setattr(failures, "http_date", lambda _text: slow)
        following.round()
        assert abs(following.known_until - slow + timedelta(seconds=120)) < timedelta(seconds=10)

    def test_it_moves_with_each_round_and_an_open_session_holds_it_not(
        self, following: Following
    ) -> None:
        following.asking.seed(state="open", invoices=1)
        following.round()
        following.later()
        first = following.known_until
        following.round()
        assert following.known_until > first

    def test_it_stands_still_while_a_session_cannot_be_read(self, following: Following) -> None:
        asking = following.asking
        following.round()
        first = following.known_until
        broken, good = (asking.seed(date_created=now().isoformat()) for _ in range(2))
        fault = asking.control.fault(
            "invalid-json", path=f"/sessions/{broken.reference_number}$", times=None
        )
        for _ in range(3):
            asking.database.execute("UPDATE followed SET list_at = now()")
            following.round()
        state = dict(
            zip(following.sessions("reference_number"), following.sessions("final_at"), strict=True)
        )
        assert state[broken.reference_number] is None
        assert state[good.reference_number] is not None, "it holds up no other"
        created = min(following.sessions("date_created"))
        assert first <= following.known_until <= created

        asking.control.clear_faults(fault)
        following.later()
        following.round()
        assert following.known_until > min(following.sessions("date_created"))

    def test_it_stands_still_while_an_invoice_is_missing(self, following: Following) -> None:
        asking = following.asking
        asking.control.fault("shorter-list", path="/invoices$", times=None)
        asking.seed(invoices=3)
        following.round()
        assert following.sessions("read_at") == [None]
        assert following.known_until <= min(following.sessions("date_created"))

    def test_it_passes_a_session_that_could_not_be_read_for_a_week(
        self, following: Following
    ) -> None:
        """It is unsettled for those who ask, but not for whatever is sent later."""
        asking = following.asking
        session = asking.seed()
        path = f"/sessions/{session.reference_number}$"
        asking.control.fault("invalid-json", path=path, times=None)
        following.round()
        for days, is_past in ((6, False), (2, True)):
            asking.database.execute(
                f"UPDATE followed_sessions SET date_created = date_created - interval '{days} days'"
            )
            following.later()
            following.round()
            assert (following.known_until > now() - timedelta(minutes=5)) is is_past
        assert following.sessions("final_at IS NULL AND due_at IS NOT NULL") == [True]

    def test_it_passes_a_session_that_ksef_lists_no_more(self, following: Following) -> None:
        asking = following.asking
        session = asking.seed()
        path = f"/sessions/{session.reference_number}$"
        asking.control.fault("ksef-error", code=21173, path=path, times=None)
        for _ in range(follow._ASK_WHETHER_LISTED + 1):
            following.round()
        assert following.sessions("final_at") == [None], "KSeF still lists it"
        asking.control.remove_session("test", session.reference_number)
        following.round()
        assert following.sessions("due_at") == [None]
        assert following.known_until > now() - timedelta(minutes=5)

    def test_what_ksef_lists_late_is_found_all_the_same(self, following: Following) -> None:
        following.round()
        created = now() - timedelta(minutes=50)
        session = following.asking.seed(date_created=created.isoformat(), invoices=1)
        following.later()
        following.round()
        assert following.sessions("reference_number") == [session.reference_number]
        assert None not in following.sessions("archived_at")

    def test_a_list_in_parts_is_not_ahead_of_a_session_that_went_on_later(
        self, following: Following, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """KSeF lists a session by its last activity, which is not when its invoices came."""
        asking = following.asking
        timing = replace(asking.service.timing, follow_before=36_000.0)
        monkeypatch.setattr(asking.service, "timing", timing)
        created = now() - timedelta(hours=8)
        session = asking.seed(state="open", date_created=created.isoformat(), invoices=1)
        asking.control.change_session("test", session.reference_number, state="finished")
        # Our quota of lists allows the first part only.
        asking.database.execute(
            "INSERT INTO quota_calls (company_nip, environment, quota_group, reserved_at)"
            " SELECT nip, 'test', 'sessionList', now() - interval '2 seconds'"
            " FROM companies, generate_series(1, 27)"
        )
        assert following.round()[SESSIONS] == 2
        name = session.invoices[0].invoice_hash
        for sent in (name, "ab" * 32):
            found = search.find(asking.account, invoice_hash=sent, sent_at=created)
            assert found.state == ("accepted" if sent == name else "not_arrived")
            assert found.known_until is not None
            assert found.known_until < now() - timedelta(hours=3)

    def test_purge_moves_its_begin(self, following: Following) -> None:
        following.round()
        following.later(3 * 86400.0)
        purge.purge(following.asking.service.db, days=1)
        known = known_of(following.asking.account)
        assert known is not None
        assert abs(known.known_since - now() + timedelta(days=1)) < timedelta(seconds=10)
        assert known.known_until is not None
        assert known.known_until < known.known_since, "of no moment everything is known"

    def test_it_never_moves_back(self, following: Following) -> None:
        following.round()
        known = following.known_until
        following.asking.seed(date_created=(now() - timedelta(hours=4)).isoformat())
        following.asking.control.fault("invalid-json", path="/sessions/[^/]+$", times=None)
        following.asking.database.execute(
            "UPDATE followed SET list_at = now(), listed_until = known_since"
        )
        following.round()
        assert following.sessions("read_at") == [None]
        assert following.known_until == known
        following.asking.control.clear_faults()


class TestWhatKsefShows:
    """Its lists show what the credential may see. Of what they do not show nothing is said."""

    def said(self, following: Following, session: Any) -> str | None:
        """What is said of a session's invoice, as if it had been sent when that was begun."""
        found = search.find(
            following.asking.account,
            invoice_hash=session.invoices[0].invoice_hash,
            sent_at=datetime.fromisoformat(session.date_created),
        )
        return found.state

    def begun(self, following: Following, minutes: float) -> Any:
        """A session that was begun, and ended, so many minutes ago."""
        created = now() - timedelta(minutes=minutes)
        return following.asking.seed(date_created=created.isoformat())

    def show_nothing(self, following: Following) -> int:
        fault: int = following.asking.control.fault(
            "set-field", field="sessions", value=[], path="/v2/sessions$", times=None
        )
        return fault

    def test_another_credential_may_see_more(self, following: Following) -> None:
        asking = following.asking
        session = self.begun(following, 180)
        hidden = self.show_nothing(following)
        following.round()
        assert self.said(following, session) == "not_arrived", "nobody can know"
        asking.control.clear_faults(hidden)
        asking.control.add_token("test", NIP, token="another")
        credentials.store_token(asking.account, "another")
        following.later()
        following.round()
        assert following.sessions("1") == [], "the old one is still logged in"
        log_out(asking.account)
        log_in(asking.account)
        following.later()
        following.round()
        assert self.said(following, session) == "accepted"
        first = known_of(asking.account)
        following.later()
        following.round()
        assert known_of(asking.account).known_since < first.known_since, "it goes on"

    def test_another_ksef_shows_other_sessions(self, following: Following, settings: Any) -> None:
        asking = following.asking
        session = self.begun(following, 180)
        hidden = self.show_nothing(following)
        following.round()
        asking.control.clear_faults(hidden)
        following.later()
        url = settings.ksef_urls["test"].replace("127.0.0.1", "localhost")
        elsewhere = Service(replace(settings, ksef_urls={**settings.ksef_urls, "test": url}))
        follow.follow_all(elsewhere)
        elsewhere.db.close()
        assert self.said(following, session) == "accepted"

    def test_a_session_that_it_should_have_shown_before_tells_that_there_may_be_more(
        self, following: Following
    ) -> None:
        """A right was granted; or what was sent came into the lists later than ever."""
        old, new = self.begun(following, 180), self.begun(following, 50)
        hidden = self.show_nothing(following)
        following.round()
        assert {self.said(following, one) for one in (old, new)} == {"not_arrived"}
        following.asking.control.clear_faults(hidden)
        following.later()
        following.round()
        assert {self.said(following, one) for one in (old, new)} == {"accepted"}

    @pytest.mark.parametrize("minutes", [0.5, 10, 200])
    @pytest.mark.parametrize("since", [1200, 4500])
    def test_lists_without_a_session_that_they_showed_are_not_relied_on(
        self,
        following: Following,
        minutes: float,
        since: float,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A right was taken away, or the list was cut off. KSeF still has the session."""
        self.begun(following, minutes)
        following.round()
        known_until = following.known_until
        hidden = self.show_nothing(following)
        following.later(since)
        session = self.begun(following, 15)
        for _ in range(2):
            following.later()
            following.round()
            assert self.said(following, session) == "unknown"
        assert following.known_until < known_until, "it only grew older"
        assert "KSeF's lists lack a session that they showed" in caplog.messages
        following.asking.control.clear_faults(hidden)
        following.later()
        following.round()
        assert self.said(following, session) == "accepted"

    def test_a_ksef_that_has_forgotten_its_sessions_is_followed_anew(
        self, following: Following
    ) -> None:
        """As TEST may be emptied, or another KSeF asked in its place."""
        asking = following.asking
        gone = [self.begun(following, minutes) for minutes in (10, 20, 200)]
        following.round()
        for session in gone:
            asking.control.remove_session("test", session.reference_number)
        asking.database.execute("DELETE FROM kept_invoices; DELETE FROM kept_sessions")
        following.later()
        for _ in range(4):
            following.round()
            assert {self.said(following, one) for one in gone} == {"unknown"}
            following.later()
        new = self.begun(following, 0)
        following.later(2400)
        following.round()
        assert self.said(following, new) == "accepted"
        known = known_of(asking.account)
        assert known is not None
        assert known.known_until is not None
        assert known.known_until > known.known_since

    def test_a_session_that_is_shown_again_after_all_is_finished_again(
        self, following: Following
    ) -> None:
        """Its UPOs were archived before: there is nothing more to do, and that is noted."""
        asking = following.asking
        session = self.begun(following, 10)
        following.round()
        self.show_nothing(following)
        path = f"/sessions/{session.reference_number}$"
        asking.control.fault("ksef-error", code=21173, path=path, times=None)
        following.later()
        following.round()
        assert following.sessions("final_at") == [None]
        asking.control.clear_faults()
        following.later()
        follow.follow_all(asking.service, turn=5.0)
        assert None not in following.sessions("final_at") + following.sessions("archived_at")
        assert following.sessions("due_at") == [None]

    def test_what_an_earlier_process_listed_meanwhile_is_not_taken(
        self, following: Following
    ) -> None:
        """It was stopped, and went on after its lease, when another had begun anew."""
        asking = following.asking
        following.round()
        state = asking.service.db.run(follow.queries.get, **asking.account.columns)
        asking.database.execute("UPDATE followed SET shown_by = 'another'")
        following.later()
        asking.control.set_api("test", available=False)
        following.round()
        asking.control.set_api("test", available=True)
        anew = asking.database.execute("SELECT listed_until FROM followed")
        listing._list(asking.account, state)
        assert asking.database.execute("SELECT listed_until FROM followed") == anew

    def test_without_ksef_s_clock_this_machine_s_counts(
        self, following: Following, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The database's may be fast: what it lists would not yet be sent."""
        slow = now() - timedelta(hours=1)
        monkeypatch.setattr(failures, "http_date", lambda _text: None)
        monkeypatch.setattr(clock, "now", lambda: slow)
        following.round()
        assert abs(following.known_until - slow + timedelta(seconds=120)) < timedelta(seconds=10)


class TestFreshAnswer:
    @pytest.fixture
    def settings(self, settings: Any) -> Any:
        timing = replace(settings.timing, fresh_least=25.0, fresh_most=25.0)
        return replace(settings, timing=timing)

    def test_is_waited_for_and_no_failure(self, following: Following) -> None:
        """At failures the pauses grow, so that its end would be known late."""
        following.asking.seed(state="moving", invoices=[{"status": 150}])
        following.round()
        for _ in range(3):
            following.asking.database.execute("UPDATE followed_sessions SET due_at = now()")
            assert following.round() == {}
        assert following.sessions("failures") == [0]
        [pause] = following.sessions("extract(epoch FROM due_at - now())")
        assert 15 < pause <= 25


class TestManyProcesses:
    @pytest.mark.fault(43)
    def test_two_at_once_ask_once(self, following: Following) -> None:
        asking = following.asking
        for _ in range(4):
            asking.seed(invoices=2)
        rounds = [
            threading.Thread(target=follow.follow_all, args=(asking.service,)) for _ in range(3)
        ]
        asking.control.fault("delay", seconds=0.2, path="/v2/sessions$", times=2)
        for one in rounds:
            one.start()
        for one in rounds:
            one.join()
        assert asking.counts() == {SESSIONS: 2, STATUS: 4, LISTING: 4, DOWNLOAD: 8}

    @pytest.mark.fault(43)
    @pytest.mark.parametrize("step", range(1, 60, 3))
    def test_one_that_is_killed_anywhere_is_gone_on_with(
        self, following: Following, step: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It ends before its n-th statement: nothing more of it reaches the database."""
        asking = following.asking
        begun = now() - timedelta(minutes=30)
        sessions = [asking.seed(invoices=2, date_created=begun.isoformat()) for _ in range(2)]
        for session in sessions:
            add_synced(asking.database, asking.account, session.ksef_numbers)
        with monkeypatch.context() as killed:
            _kill_at(killed, step)
            with suppress(KeyboardInterrupt):
                follow.follow_all(asking.service)
        for session in sessions:
            name = session.invoices[1].invoice_hash
            found = search.find(asking.account, invoice_hash=name, sent_at=begun)
            assert found.state in ("accepted", "unknown")
        asking.database.execute("DELETE FROM leases")  # it has run out
        following.later()
        following.round()
        assert len(synced_sessions(asking.database, asking.account)) == 4
        assert upos(following) == 4
        assert None not in following.sessions("archived_at")
        assert following.known_until is not None


def _kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Every borrowed connection from the n-th on is refused by Ctrl-C, as if the process ended."""
    borrow = Database._connection
    taken = itertools.count(1)

    def borrowed(self: Database) -> Any:
        if next(taken) >= step:
            raise KeyboardInterrupt
        return borrow(self)

    monkeypatch.setattr(Database, "_connection", borrowed)


class TestPace:
    @pytest.mark.parametrize(
        ("moves", "hourly", "pause"),
        [
            (False, 27, 300),
            (False, 10_000, 300),
            (True, 29, 3600 / 14),  # half of what KSeF has published
            (True, 1, 300),
            (True, 60, 120),
            (True, 10_000, 60),
            (True, -1, 60),
        ],
    )
    def test_lists(self, moves: bool, hourly: int, pause: float) -> None:
        assert listing.listing_pause(Timing(), moves=moves, hourly=hourly) == pytest.approx(pause)

    @pytest.mark.parametrize(("moves", "most"), [(False, 24), (True, 26)])
    def test_lists_of_any_hour_stay_within_half_of_our_quota(self, moves: bool, most: int) -> None:
        pause = listing.listing_pause(Timing(), moves=moves, hourly=27)
        assert 2 * math.ceil(3600 / pause) == most

    def test_a_day_without_anything_costs_24_lists_an_hour(self, following: Following) -> None:
        following.round()
        for _ in range(24):  # two hours, looked at each five minutes and in between
            following.later(299)
            assert following.round() == {}
            following.later(1.5)
            assert following.round() == {SESSIONS: 2}

    @pytest.mark.parametrize(
        ("failures", "pause"), [(0, 20), (1, 40), (5, 640), (8, 3600), (10_000, 3600)]
    )
    def test_a_session_that_fails(self, failures: int, pause: float) -> None:
        assert follow.failing_pause(Timing(), failures) == pause


class TestBehindLiveCallers:
    def test_it_takes_no_more_than_half_of_our_quota(
        self, following: Following, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asking = following.asking
        monkeypatch.setattr(
            asking.service, "timing", replace(asking.service.timing, quota_scale=1.0)
        )
        for _ in range(30):
            asking.seed(invoices=1)
        calls = following.round()
        assert calls[LISTING] == 9, "of the eighteen of a minute"
        assert following.round() == {}
        for session in asking.control.session_references("test")[-9:]:
            check_session(asking.account, session)
        assert asking.counts()[LISTING] == 9, "the other half is there for callers"

    def test_while_callers_use_that_half_it_waits(self, following: Following) -> None:
        asking = following.asking
        session = asking.seed(invoices=1)
        asking.database.execute(
            "INSERT INTO quota_calls (company_nip, environment, quota_group, reserved_at)"
            " SELECT nip, 'test', quota_group, now() FROM companies,"
            " unnest(ARRAY['sessionInvoiceList', 'sessionList']) AS quota_group,"
            " generate_series(1, 99)"
        )
        assert following.round() == {}
        asking.database.execute("DELETE FROM quota_calls")
        following.later(61)
        following.round()
        assert following.sessions("reference_number") == [session.reference_number]


class TestWhileKsefIsDown:
    def test_it_asks_less_and_less(self, following: Following) -> None:
        asking = following.asking
        asking.service.db.run(
            follow.queries.begin, company_nip=NIP, environment="test", seconds=60.0
        )
        timing = replace(asking.service.timing, follow_moving=20.0)
        asking.control.set_api("test", available=False)
        pauses = []
        for _ in range(6):
            failures = len(pauses)
            follow._rest(asking.account, 0.0, failures=failures)
            pauses.append(_rested(following, timing))
        assert pauses == [20, 40, 80, 160, 300, 300]

    @pytest.mark.fault(43)
    def test_it_goes_on_when_ksef_is_back(self, following: Following) -> None:
        asking = following.asking
        asking.seed()
        asking.control.set_api("test", available=False)
        following.round()
        assert following.sessions("1") == []
        asking.control.set_api("test", available=True)
        following.later()
        following.round()
        assert None not in following.sessions("archived_at")
        assert asking.database.execute("SELECT failures FROM followed") == [(0,)]

    def test_a_simulation_asks_nothing(self, following: Following) -> None:
        asking = following.asking
        asking.seed()
        outages.simulate(
            asking.service.db, "test", company_nip=None, message="Ćwiczenie", ends_at=None
        )
        assert following.round() == {}
        outages.clear_all(asking.service.db, "test")
        following.later()
        assert following.round()[STATUS] == 1

    def test_a_session_that_answers_500_holds_up_no_other(self, following: Following) -> None:
        asking = following.asking
        broken = asking.seed(date_created=(now() - timedelta(hours=1)).isoformat())
        good = asking.seed()
        path = f"/sessions/{broken.reference_number}$"
        asking.control.fault("status", status=500, path=path, times=None)
        following.round()
        asking.database.execute(
            "UPDATE followed SET rests_until = now();"
            "UPDATE followed_sessions SET due_at = now() + failures * interval '1 minute'"
        )
        following.round()
        state = dict(
            zip(following.sessions("reference_number"), following.sessions("final_at"), strict=True)
        )
        assert state[broken.reference_number] is None
        assert state[good.reference_number] is not None

    def test_those_that_failed_before_come_last(self, following: Following) -> None:
        """Each of them ends the turn: many would else leave no turn to the others."""
        asking = following.asking
        asking.control.fault("status", status=500, path="/sessions/[^/]+$", times=1)
        broken = asking.seed(date_created=(now() - timedelta(hours=1)).isoformat())
        following.round()
        good = asking.seed()
        asking.control.fault(
            "status", status=500, path=f"/sessions/{broken.reference_number}$", times=None
        )
        following.later()
        following.round()
        ended = asking.database.execute(
            "SELECT reference_number FROM followed_sessions WHERE final_at IS NOT NULL"
        )
        assert ended == [(good.reference_number,)]


def _rested(following: Following, timing: Timing) -> float:
    """Seconds for which the company rests after a round."""
    service = following.asking.service
    account = service.account(NIP, "test", live=False, share=0.5)
    account.timing = timing
    with leases.try_lease(account, "follow") as lease:
        assert lease
        follow._follow(account, lease, math.inf)
    [(seconds,)] = following.asking.database.execute(
        "SELECT extract(epoch FROM rests_until - now())::float8 FROM followed"
    )
    return float(round(seconds))


class TestStuck:
    def made(self, following: Following, *, hours: float, usual: float) -> list[Any]:
        asking = following.asking
        asking.seed(state="moving", invoices=[{"status": 150}])
        following.round()
        asking.database.execute(
            f"UPDATE followed_sessions SET moving_since = now() - interval '{hours} hours';"
            "INSERT INTO followed_sessions (company_nip, environment, reference_number,"
            " date_created, told, found_at, moving_since, final_at, archived_at)"
            " SELECT company_nip, environment, 'S' || n, now(), '{}', now(),"
            f" now() - interval '{usual} hours', now(), now() FROM followed,"
            " generate_series(1, 3) AS n"
        )
        following.later(5)
        following.round()
        return following.sessions("stuck_at IS NOT NULL AND final_at IS NULL")

    @pytest.mark.parametrize(
        ("hours", "usual", "stuck"),
        [(0.9, 0.01, False), (1.1, 0.01, True), (2.9, 1.0, False), (3.1, 1.0, True)],
    )
    def test_after_three_times_the_usual_time_and_an_hour(
        self, following: Following, hours: float, usual: float, stuck: bool
    ) -> None:
        assert any(self.made(following, hours=hours, usual=usual)) is stuck
        told = following.asking.database.execute(
            "SELECT data ->> 'referenceNumber' FROM events WHERE type = 'session.stuck'"
        )
        assert len(told) == stuck

    def test_it_is_told_once(self, following: Following, caplog: pytest.LogCaptureFixture) -> None:
        self.made(following, hours=2.0, usual=0.01)
        following.later(5)
        following.round()
        assert [record.message for record in caplog.records].count("a session is stuck") == 1

    def test_an_open_session_is_not(self, following: Following) -> None:
        following.asking.seed(state="open", invoices=1)
        following.round()
        assert following.sessions("moving_since") == [None]
