"""Whatever the order of things, the rows say what KSeF said: laws L1 to L7 of linking.

Two companies send the same KSeF numbers (a number accepted at one means nothing at the other).
Their ERPs store rows early or late; KSeF takes invoices up one by one; checks come at any moment,
also ones that KSeF answered long before they are written down, and the back-fill of a history.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.account import Account
from app.service import Service
from app.services.operators import quotas
from app.services.sessions import backfill, linking, store
from app.services.sessions.ask import ask
from app.services.sessions.check import check_session
from app.services.sessions.linking import Linked
from app.services.sessions.snapshot import Snapshot
from app.settings import Settings
from sandbox import identifiers
from sandbox.control import Control
from tests.hypothesis_profile import tries
from tests.rows import OFFLINE, SYNCED, Place, one_connection
from tests.service import Company

PLACES = [Place("5265877635", "test"), Place("7812019453", "test")]
NUMBERS = [identifiers.ksef_number("5265877635", date(2022, 1, 10), str(i)) for i in range(3)]

places = st.sampled_from(PLACES)
numbers = st.sampled_from(NUMBERS)


@dataclass
class Sent:
    """A session at KSeF; each of its invoices shall get a number, unless it has another session."""

    place: Place
    reference: str
    planned: dict[str, str]  # the invoice's reference → the KSeF number

    def __post_init__(self) -> None:
        self.waiting = [*self.planned]


@dataclass(frozen=True)
class Late:
    """What KSeF answered to a check that has not been written down yet."""

    sent: Sent
    kept: Snapshot | None
    answer: Snapshot


class World:
    """KSeF, two companies and their rows; what must hold is looked at by `laws`."""

    def __init__(self, service: Service, control: Control, database: Any) -> None:
        self.service, self.control, self.database = service, control, database
        self.sent: list[Sent] = []
        self.late: list[Late] = []
        self.homes: dict[tuple[Place, str], str] = {}  # number → its session, as KSeF has it
        self.before: dict[Any, Any] = {}
        for place in PLACES:
            quotas.clear(self.account(place))
        for reference in control.session_references("test"):
            control.remove_session("test", reference)
        database.execute(
            f"DELETE FROM {SYNCED}; DELETE FROM {OFFLINE};"
            " DELETE FROM kept_invoices; DELETE FROM kept_sessions"
        )

    def account(self, place: Place) -> Account:
        return self.service.account(*place)

    def import_synced(self, place: Place, number: str) -> None:
        self.database.execute(
            f"INSERT INTO {SYNCED} (company_nip, environment, ksef_number, invoice_number)"
            f" VALUES ('{place.company_nip}', 'test', '{number}', 'FV') ON CONFLICT DO NOTHING"
        )

    def import_offline(self, place: Place, reference: str) -> None:
        self.database.execute(
            f"INSERT INTO {OFFLINE}"
            " (company_nip, environment, ksef_reference_number, invoice_number)"
            f" VALUES ('{place.company_nip}', 'test', '{reference}', 'OFF')"
            " ON CONFLICT DO NOTHING"
        )

    def send(self, place: Place, chosen: list[str]) -> Sent:
        session = self.control.seed_session(
            "test", place.company_nip, state="moving", invoices=[{"status": 150} for _ in chosen]
        )
        references = [invoice.reference_number for invoice in session.invoices]
        sent = Sent(place, session.reference_number, dict(zip(references, chosen, strict=True)))
        self.sent.append(sent)
        return sent

    def process(self, sent: Sent) -> None:
        """KSeF takes up the session's next invoice; after the last the session is final."""
        if not sent.waiting:
            return
        reference = sent.waiting.pop(0)
        number = sent.planned[reference]
        home = self.homes.setdefault((sent.place, number), sent.reference)
        change: dict[str, Any] = {"status": 200, "ksefNumber": number}
        if home != sent.reference or number in [*self._accepted(sent, reference)]:
            change = {
                "status": 440,
                "originalKsefNumber": number,
                "originalSessionReferenceNumber": home,
            }
        self.control.change_invoice("test", sent.reference, reference, **change)
        if not sent.waiting:
            self.control.change_session("test", sent.reference, state="finished")

    def _accepted(self, sent: Sent, but: str) -> list[str]:
        done = [r for r in sent.planned if r not in sent.waiting and r != but]
        return [sent.planned[reference] for reference in done]

    def check(self, sent: Sent) -> None:
        answer = check_session(self.account(sent.place), sent.reference)
        assert isinstance(answer, Snapshot)
        self._is_linked(sent, answer)

    def ask(self, sent: Sent) -> None:
        """A check that KSeF has answered, and that is written down by `land`."""
        account = self.account(sent.place)
        kept = store.load(account, sent.reference)
        self.late.append(Late(sent, kept, ask(account, sent.reference, kept)))

    def land(self, late: Late) -> None:
        self.late.remove(late)
        if late.answer is not late.kept:
            store.save(self.account(late.sent.place), late.answer, late.kept)
        self._link(late.sent, late.answer)
        self._is_linked(late.sent, late.answer)

    def back_fill(self, place: Place) -> None:
        summary = backfill.link_history(self.account(place), lambda _done, _all: None)
        assert summary.failed == 0, summary.reason
        for sent in (sent for sent in self.sent if sent.place == place and not sent.waiting):
            kept = store.load(self.account(place), sent.reference)
            assert kept is not None
            self._is_linked(sent, kept)

    def _link(self, sent: Sent, answer: Snapshot) -> Linked:
        return linking.link(self.account(sent.place), sent.reference, answer.invoices)

    def _is_linked(self, sent: Sent, answer: Snapshot) -> None:
        """L6: what an answer holds as accepted stands in the rows · L1: once is twice."""
        synced, offline = self._rows()
        for number in (i.ksef_number for i in answer.invoices if i.is_accepted):
            assert synced.get((sent.place, number), sent.reference) == sent.reference
        for reference in (sent.reference, *(i.reference_number for i in answer.invoices)):
            assert offline.get((sent.place, reference), sent.reference) == sent.reference
        assert self._link(sent, answer) == Linked(0, 0)

    def _rows(self) -> tuple[dict[Any, str | None], dict[Any, str | None]]:
        synced, offline = (
            {
                (Place(nip, environment), key): session
                for nip, environment, key, session in self.database.execute(
                    f"SELECT company_nip, environment, {key}, session_reference_number FROM {table}"
                )
            }
            for table, key in ((SYNCED, "ksef_number"), (OFFLINE, "ksef_reference_number"))
        )
        return synced, offline

    def laws(self) -> None:
        synced, offline = self._rows()
        for (place, number), session in synced.items():
            assert session in (None, self.homes.get((place, number))), "L2, L4"
        owners = {
            (sent.place, reference): sent.reference
            for sent in self.sent
            for reference in (sent.reference, *sent.planned)
        }
        for cell, session in offline.items():
            assert session in (None, owners.get(cell)), "L2, L4"
        kept = {
            ("kept", *row[:2]): row[2]
            for row in self.database.execute(
                "SELECT company_nip, reference_number, checked_at FROM kept_sessions"
            )
        }
        now = {("synced", *k): v for k, v in synced.items()}
        now |= {("offline", *k): v for k, v in offline.items()}
        for cell, value in self.before.items():
            if cell[0] == "kept":
                assert kept[cell] >= value, "L7"
            else:
                assert now[cell] == value or value is None, "L3"
        self.before = now | kept

    def end(self) -> None:
        """Everything is taken up, checked once more, and then all is linked."""
        for sent in self.sent:
            while sent.waiting:
                self.process(sent)
        for late in [*self.late]:
            self.land(late)
        for sent in self.sent:
            self.check(sent)
        self.laws()
        synced, _ = self._rows()
        assert synced == {cell: self.homes.get(cell) for cell in synced}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A quota that nobody waits for."""
    return replace(settings, timing=replace(settings.timing, quota_scale=1e-5))


@pytest.fixture
def make_world(
    make_company: Callable[..., Company], service: Service, control: Control, database: Any
) -> Any:
    for place in PLACES:
        make_company(place.company_nip, environments=("test",))
    with one_connection(database) as connection:
        yield lambda: World(service, control, connection)


@pytest.mark.slow
def test_any_order_of_things(make_world: Callable[[], World]) -> None:
    class Orders(RuleBasedStateMachine):
        @initialize()
        def begin(self) -> None:
            self.world = make_world()

        @rule(place=places, chosen=st.sets(numbers, min_size=1))
        def import_synced(self, place: Place, chosen: set[str]) -> None:
            for number in sorted(chosen):
                self.world.import_synced(place, number)

        @rule(place=places, chosen=st.lists(numbers, min_size=1, max_size=3))
        def send(self, place: Place, chosen: list[str]) -> None:
            self.world.send(place, chosen)

        @precondition(lambda self: self.world.sent)
        @rule(data=st.data())
        def send_again(self, data: Any) -> None:
            """By mistake, and KSeF takes both up: one of them is a duplicate."""
            first = data.draw(st.sampled_from(self.world.sent))
            again = self.world.send(first.place, [*first.planned.values()])
            for sent in (first, again):
                while sent.waiting:
                    self.world.process(sent)

        @precondition(lambda self: self.world.sent)
        @rule(place=places, data=st.data())
        def import_offline(self, place: Place, data: Any) -> None:
            sent = data.draw(st.sampled_from(self.world.sent))
            known = [sent.reference, *sent.planned]
            self.world.import_offline(place, data.draw(st.sampled_from(known)))

        @precondition(lambda self: self.world.sent)
        @rule(data=st.data(), how_many=st.integers(1, 3))
        def process(self, data: Any, how_many: int) -> None:
            sent = data.draw(st.sampled_from(self.world.sent))
            for _ in range(how_many):
                self.world.process(sent)

        @precondition(lambda self: self.world.sent)
        @rule(data=st.data())
        def check(self, data: Any) -> None:
            self.world.check(data.draw(st.sampled_from(self.world.sent)))

        @precondition(lambda self: self.world.sent)
        @rule(data=st.data())
        def ask(self, data: Any) -> None:
            self.world.ask(data.draw(st.sampled_from(self.world.sent)))

        @precondition(lambda self: self.world.late)
        @rule(data=st.data())
        def land(self, data: Any) -> None:
            self.world.land(data.draw(st.sampled_from(self.world.late)))

        @rule(place=places)
        def back_fill(self, place: Place) -> None:
            self.world.back_fill(place)

        @invariant()
        def laws(self) -> None:
            if hasattr(self, "world"):
                self.world.laws()

        def teardown(self) -> None:
            if hasattr(self, "world"):
                self.world.end()

    run_state_machine_as_test(Orders, settings=tries(12, 1000, stateful_step_count=25))  # type: ignore[no-untyped-call]


# -- orders that are kept: each is one that a mistake was, or could be, found by --------------


def test_an_answer_from_before_the_end_comes_after_it(make_world: Callable[[], World]) -> None:
    world = make_world()
    here = PLACES[0]
    world.import_synced(here, NUMBERS[0])
    sent = world.send(here, [NUMBERS[0], NUMBERS[1]])
    world.process(sent)
    world.ask(sent)
    world.process(sent)
    world.check(sent)
    world.laws()
    world.land(world.late[0])
    world.laws()
    kept = store.load(world.account(here), sent.reference)
    assert kept is not None
    assert kept.final
    world.end()


def test_a_duplicate_is_checked_before_its_original(make_world: Callable[[], World]) -> None:
    world = make_world()
    here, there = PLACES
    for place in PLACES:
        world.import_synced(place, NUMBERS[0])
    first, again = world.send(here, [NUMBERS[0]]), world.send(here, [NUMBERS[0]])
    world.process(first)
    world.process(again)
    world.check(again)
    assert world._rows()[0] == {(here, NUMBERS[0]): first.reference, (there, NUMBERS[0]): None}
    world.end()


def test_one_number_twice_in_one_session(make_world: Callable[[], World]) -> None:
    world = make_world()
    here = PLACES[0]
    sent = world.send(here, [NUMBERS[0], NUMBERS[0]])
    world.process(sent)
    world.process(sent)
    world.import_synced(here, NUMBERS[0])
    world.import_offline(here, [*sent.planned][1])
    world.check(sent)
    assert world._rows()[0] == {(here, NUMBERS[0]): sent.reference}
    world.end()


def test_a_number_of_both_companies(make_world: Callable[[], World]) -> None:
    world = make_world()
    for place in PLACES:
        world.import_synced(place, NUMBERS[0])
    ours, theirs = (world.send(place, [NUMBERS[0]]) for place in PLACES)
    world.process(ours)
    world.process(theirs)
    world.back_fill(PLACES[1])
    assert [*world._rows()[0].values()] == [None, theirs.reference]
    world.end()
