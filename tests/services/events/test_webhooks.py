"""Events are delivered in order and at least once, and no receiver holds up another."""

import base64
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from standardwebhooks.webhooks import Webhook

from app import errors
from app.account import Account
from app.db.queries import webhooks as queries
from app.ksef.webhook import signed
from app.service import Service
from app.services.events import journal, webhooks
from app.services.operators import users
from tests.conftest import PROJECT
from tests.services.events.conftest import NIP, Receiver

Make = Callable[..., Receiver]
Tell = Callable[..., None]
OTHER_NIP = "7812019453"
DELIVERS = """
from app import settings
from app.service import Service
from app.services.events import webhooks
webhooks.deliver_due(Service(settings.from_environment()))
webhooks.wait(60)
"""
DELIVERS_ON = """
import time
from app import settings
from app.service import Service
from app.services.events import webhooks
webhooks._LEASE = 1.0
webhooks.PAUSES = (0.2,) * 9
service = Service(settings.from_environment())
while True:
    webhooks.deliver_due(service)
    time.sleep(0.05)
"""


@pytest.fixture
def environ(settings: Any) -> dict[str, str]:
    """What a process needs to deliver on its own."""
    return {
        "DATABASE_URL": settings.database_url,
        "SECRET_KEYS": base64.b64encode(settings.secret_keys[0]).decode(),
    }


def start(program: str, environ: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", program], env=environ, cwd=PROJECT)


def deliver(service: Service) -> float:
    """Deliver what is due, to the end."""
    left = webhooks.deliver_due(service)
    assert webhooks.wait(15)
    return left


def references(receiver: Receiver) -> list[str]:
    return [msgspec.json.decode(body)["referenceNumber"] for _, body in receiver.came]


def row(service: Service) -> Any:
    [found] = webhooks.list_all(service, NIP)
    return found


def make_due(database: Any) -> None:
    database.execute("UPDATE webhooks SET next_at = now()")


class TestDelivery:
    def test_is_in_order_and_signed_from_when_the_webhook_was_added(
        self, service: Service, account: Account, make_receiver: Make, tell: Tell
    ) -> None:
        receiver = make_receiver()
        tell("EARLIER")
        secret = webhooks.add(account, receiver.url)
        tell("A", "B", "C")
        tell("A")  # told before
        deliver(service)
        assert references(receiver) == ["A", "B", "C"]
        assert len(set(receiver.ids)) == 3
        for headers, body in receiver.came:
            assert headers["content-type"] == "application/json"
            check_signature(secret, headers, body)
        assert (row(service).waiting, row(service).answer) == (0, "200")
        deliver(service)
        assert len(receiver.came) == 3

    def test_body_is_the_event_as_the_journal_has_it(
        self, service: Service, account: Account, make_receiver: Make, tell: Tell
    ) -> None:
        receiver = make_receiver()
        webhooks.add(account, receiver.url)
        tell("A")
        deliver(service)
        [event] = journal.read(account, None, 10).events
        [(headers, body)] = receiver.came
        assert body == msgspec.json.encode(event)
        assert headers["webhook-id"] == event.id

    @pytest.mark.fault(43)
    def test_a_receiver_that_hangs_delays_nobody_else(
        self, service: Service, account: Account, make_receiver: Make, tell: Tell
    ) -> None:
        hanging, good = make_receiver(hangs=True), make_receiver()
        users.add_company(service.db, OTHER_NIP, "Inna")
        webhooks.add(account, hanging.url)
        webhooks.add(account, good.url)
        webhooks.add(service.account(OTHER_NIP, "test"), good.url)
        for reference in ("A", "B", "C"):
            tell(reference)
            tell(reference, nip=OTHER_NIP)
            began = time.monotonic()
            webhooks.deliver_due(service)
            while references(good).count(reference) < 2:
                assert time.monotonic() - began < 5
                time.sleep(0.01)
        assert references(hanging) == ["A"]
        hanging.answers.set()
        assert webhooks.wait(15)
        assert references(hanging) == ["A", "B", "C"]

    def test_of_more_webhooks_than_are_posted_to_at_once_each_has_its_turn(
        self,
        service: Service,
        account: Account,
        make_receiver: Make,
        tell: Tell,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(webhooks, "MOST_RECEIVERS", 1)
        receivers = [make_receiver() for _ in range(3)]
        for receiver in receivers:
            webhooks.add(account, receiver.url)
        for reference in ("A", "B", "C"):
            tell(reference)
            deliver(service)
        assert all(receiver.came for receiver in receivers)
        webhooks.deliver_all(service, 15)
        assert [references(receiver) for receiver in receivers] == [["A", "B", "C"]] * 3

    def test_one_that_is_killed_between_the_post_and_its_note_is_made_up_for_with_the_same_id(
        self,
        service: Service,
        account: Account,
        make_receiver: Make,
        tell: Tell,
        database: Any,
        environ: dict[str, str],
    ) -> None:
        receiver = make_receiver(hangs=True)
        webhooks.add(account, receiver.url)
        tell("A", "B")
        deliverer = start(DELIVERS, environ)
        until = time.monotonic() + 30
        while not receiver.came and time.monotonic() < until:
            time.sleep(0.01)
        deliverer.kill()
        deliverer.wait()
        receiver.answers.set()
        assert references(receiver) == ["A"]
        deliver(service)
        assert references(receiver) == ["A"]  # its lease has not run out
        database.execute("UPDATE webhooks SET busy_until = now()")
        deliver(service)
        assert references(receiver) == ["A", "A", "B"]
        assert receiver.ids[0] == receiver.ids[1]

    def test_two_that_deliver_at_once_send_each_event_once(
        self, service: Service, account: Account, make_receiver: Make, tell: Tell
    ) -> None:
        receiver = make_receiver()
        webhooks.add(account, receiver.url)
        names = [f"S{n}" for n in range(20)]
        tell(*names)
        for _ in range(5):
            webhooks.deliver_due(service)
        assert webhooks.wait(15)
        assert references(receiver) == names

    @pytest.mark.fault(43)
    def test_three_that_are_killed_all_the_time_lose_nothing_and_keep_the_order(
        self,
        service: Service,
        account: Account,
        make_receiver: Make,
        tell: Tell,
        environ: dict[str, str],
    ) -> None:
        receiver = make_receiver(503, 200, 200, 503)
        webhooks.add(account, receiver.url)
        names = [f"S{n:02}" for n in range(40)]
        running: list[Any] = []
        try:
            for n, name in enumerate(names):
                tell(name)
                if n % 4 == 0:
                    running.append(start(DELIVERS_ON, environ))
                if len(running) > 3:
                    killed = running.pop(0)
                    killed.kill()
                    killed.wait()
                time.sleep(0.1)
            until = time.monotonic() + 60
            while set(references(receiver)) != set(names):
                assert time.monotonic() < until
                time.sleep(0.1)
        finally:
            for one in running:
                one.kill()
                one.wait()
        told = references(receiver)
        assert list(dict.fromkeys(told)) == names
        assert len(set(receiver.ids)) == len(names)

    def test_a_late_note_of_one_that_was_replaced_changes_nothing(
        self, service: Service, account: Account, make_receiver: Make, tell: Tell
    ) -> None:
        receiver = make_receiver()
        webhooks.add(account, receiver.url)
        tell("A", "B")
        deliver(service)
        before = row(service)
        late = {**account.columns, "url": receiver.url}
        late |= {"holder": "00000000-0000-4000-8000-000000000000", "answer": "x"}
        assert service.db.run(queries.delivered, **late, number=0) == 0
        assert service.db.run(queries.park, **late, number=9) == 0
        assert service.db.run(queries.end, **late) == 0
        assert row(service) == before


class TestFailure:
    @pytest.mark.parametrize(
        ("status", "location"),
        [(500, None), (503, None), (302, None), (408, None), (429, None), (302, "https://[no")],
    )
    def test_is_repeated_and_later_events_wait(
        self,
        service: Service,
        account: Account,
        make_receiver: Make,
        tell: Tell,
        database: Any,
        status: int,
        location: str | None,
    ) -> None:
        receiver = make_receiver(status)
        receiver.headers["Location"] = location or receiver.url
        webhooks.add(account, receiver.url)
        tell("A", "B")
        assert deliver(service) <= webhooks.IDLE
        assert references(receiver) == ["A"]
        found = row(service)
        assert (found.attempts, found.answer, found.waiting) == (1, str(status), 2)
        deliver(service)
        assert references(receiver) == ["A"]
        make_due(database)
        deliver(service)
        assert references(receiver) == ["A", "A", "B"]
        assert receiver.ids[0] == receiver.ids[1]

    def test_pauses_are_those_that_are_published(
        self, service: Service, account: Account, tell: Tell, database: Any
    ) -> None:
        webhooks.add(account, "http://127.0.0.1:1/nobody")
        tell("A", "B")
        hour = 3600
        pauses = [5, 300, 1800, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour]
        for attempt, pause in enumerate(pauses, 1):
            deliver(service)
            [(attempts, left)] = database.execute(
                "SELECT attempts, extract(epoch FROM next_at - answered_at)::float8 FROM webhooks"
            )
            assert (attempts, round(left)) == (attempt, pause)
            make_due(database)
        deliver(service)
        found = row(service)
        assert (found.parked, found.waiting, found.attempts) == (1, 1, 1)
        assert found.answer == "ConnectionError"
        assert database.execute("SELECT attempts, number FROM parked_events") == [(10, 1)]

    @pytest.mark.parametrize("status", [400, 401, 404, 413])
    def test_what_the_receiver_refuses_is_parked_and_holds_up_nothing(
        self, service: Service, account: Account, make_receiver: Make, tell: Tell, status: int
    ) -> None:
        receiver = make_receiver(status)
        webhooks.add(account, receiver.url)
        tell("A", "B")
        deliver(service)
        assert references(receiver) == ["A", "B"]
        assert (row(service).parked, row(service).waiting) == (1, 0)

    def test_a_410_ends_the_webhook(
        self, service: Service, account: Account, make_receiver: Make, tell: Tell
    ) -> None:
        receiver = make_receiver(410)
        webhooks.add(account, receiver.url)
        tell("A", "B")
        deliver(service)
        assert references(receiver) == ["A"]
        assert row(service).ended_at is not None
        deliver(service)
        assert references(receiver) == ["A"]
        webhooks.add(account, receiver.url)  # anew, from now on
        tell("C")
        deliver(service)
        assert references(receiver) == ["A", "C"]

    def test_an_endless_answer_is_not_read(
        self, service: Service, account: Account, make_receiver: Make, tell: Tell
    ) -> None:
        receiver = make_receiver()
        receiver.body = b"x" * 2**25
        webhooks.add(account, receiver.url)
        tell("A")
        deliver(service)
        assert row(service).answer == "200"
        until = time.monotonic() + 5
        while "cut" not in receiver.headers and time.monotonic() < until:
            time.sleep(0.01)
        assert receiver.headers == {"cut": "yes"}

    def test_the_proxy_of_the_settings_is_used(
        self, service: Service, make_receiver: Make, settings: Any, account: Account, tell: Tell
    ) -> None:
        proxy = make_receiver()
        proxied = Service(replace(settings, ksef_proxy_url=proxy.url.removesuffix("/events")))
        webhooks.add(account, "http://127.0.0.1:1/nobody")
        tell("A")
        deliver(proxied)
        assert references(proxy) == ["A"]
        proxied.db.close()

    def test_a_secret_that_does_not_open_is_told_and_keeps_the_event(
        self, service: Service, account: Account, make_receiver: Make, tell: Tell, database: Any
    ) -> None:
        receiver = make_receiver()
        webhooks.add(account, receiver.url)
        database.execute("UPDATE webhooks SET secret = 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'")
        tell("A")
        deliver(service)
        assert receiver.came == []
        assert row(service).waiting == 1


class TestCommands:
    @pytest.mark.parametrize(
        "url",
        [
            "http://erp.example/events",
            "http://10.0.0.1/",
            "ftp://erp.example/",
            "https://",
            "https://user:password@erp.example/",
            "https://erp.example/#x",
            "https://erp.example/a b",
            "https://erp.example:x/",
        ],
    )
    def test_url_must_be_https_or_loopback(self, account: Account, url: str) -> None:
        with pytest.raises(errors.OperatorError, match="The URL"):
            webhooks.add(account, url)

    def test_same_url_is_added_once(self, account: Account) -> None:
        webhooks.add(account, "https://erp.example/events")
        with pytest.raises(errors.OperatorError, match="remove it"):
            webhooks.add(account, "https://erp.example/events")
        webhooks.remove(account, "https://erp.example/events")
        with pytest.raises(errors.OperatorError, match="no such"):
            webhooks.remove(account, "https://erp.example/events")

    def test_secret_is_sealed(self, account: Account, database: Any) -> None:
        secret = webhooks.add(account, "https://erp.example/events")
        assert secret.startswith("whsec_")
        assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
        [(sealed,)] = database.execute("SELECT secret FROM webhooks")
        assert secret.encode() not in bytes(sealed)
        assert account.opened(sealed, webhooks.PURPOSE) == secret

    def test_replay_sends_again_in_order_what_came_since_parked_ones_too(
        self, service: Service, account: Account, make_receiver: Make, tell: Tell
    ) -> None:
        receiver = make_receiver(200, 400, 200)
        tell("BEFORE")
        webhooks.add(account, receiver.url)
        tell("A", "B", "C")
        deliver(service)
        moment = journal.read(account, None, 10).events[2].timestamp  # of B
        ids = receiver.ids
        assert row(service).parked == 1
        assert webhooks.replay(account, receiver.url, datetime.fromisoformat(moment)) == 2
        assert row(service).parked == 0
        deliver(service)
        assert receiver.ids == [*ids, *ids[1:]]
        future = datetime.now(UTC) + timedelta(days=1)
        assert webhooks.replay(account, receiver.url, future) == 0

    def test_test_posts_a_message_that_is_no_event(
        self, service: Service, account: Account, make_receiver: Make
    ) -> None:
        receiver = make_receiver(204, 500)
        secret = webhooks.add(account, receiver.url)
        assert webhooks.test(service, account, receiver.url) == (True, "204")
        assert webhooks.test(service, account, receiver.url) == (False, "500")
        [(headers, body), _] = receiver.came
        check_signature(secret, headers, body)
        assert msgspec.json.decode(body)["type"] == "webhook.test"
        assert journal.read(account, None, 10).events == []


def check_signature(secret: str, headers: dict[str, str], body: bytes) -> None:
    """As a receiver checks it, with a library of others."""
    assert Webhook(secret).verify(body, headers) == msgspec.json.decode(body)


def test_signature_is_that_of_the_specification_s_own_example() -> None:
    """The vector with which libraries of Standard Webhooks test themselves."""
    headers = signed(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        datetime.fromtimestamp(1614265330, UTC),
        b'{"test": 2432232314}',
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
