"""Sessions are followed by themselves: found, read, linked, archived, in order and within quota."""

from datetime import UTC, datetime, timedelta

from app.services.events import follow
from tests.rows import add_offline, add_synced, synced_sessions
from tests.services.conftest import LISTING, SESSIONS, STATUS
from tests.services.events.conftest import Following

DOWNLOAD = "GET /{environment}/storage/upo/{reference}/{name}.xml"
PAGE = "GET /{environment}/v2/sessions/{reference}/upo/{upo_reference}"


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
        following.round()
        assert None not in following.sessions("final_at") + following.sessions("archived_at")

    def test_rows_that_are_written_later_are_linked(self, following: Following) -> None:
        asking = following.asking
        session = asking.seed(invoices=2)
        following.round()
        add_synced(asking.database, asking.account, session.ksef_numbers)
        add_offline(asking.database, asking.account, [session.reference_number])
        following.later()
        assert following.round() == {SESSIONS: 2}
        linked = asking.database.execute(
            "SELECT session_reference_number FROM synced_invoices"
            " UNION ALL SELECT session_reference_number FROM offline_invoices"
        )
        assert linked == [(session.reference_number,)] * 3

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
