"""What Latarnia says, and what is not understood of it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.ksef.latarnia import Latarnia, Reading, understood
from sandbox.control import Control

NOW = datetime(2026, 9, 15, 12, tzinfo=UTC)


def message(**changes: Any) -> dict[str, Any]:
    """A failure that began an hour ago."""
    return {
        "id": "A-1",
        "eventId": 1,
        "category": "FAILURE",
        "type": "FAILURE_START",
        "title": "Awaria",
        "text": "Trwa awaria KSeF.",
        "start": at(-1),
        "end": None,
        "version": 1,
        "published": at(-1),
        **changes,
    }


def at(hours: float) -> str:
    return (NOW + timedelta(hours=hours)).isoformat()


def ended(**changes: Any) -> dict[str, Any]:
    return message(type="FAILURE_END", end=at(-0.5), version=2, published=at(-0.5)) | changes


def reading(*messages: Any, status: str = "FAILURE") -> Reading | None:
    return understood({"status": status, "messages": list(messages)})


def covering(*messages: Any) -> int:
    found = reading(*messages)
    assert found is not None
    return sum(event.covers(NOW) for event in found.events)


@pytest.mark.parametrize(
    ("messages", "events"),
    [
        ([message()], 1),
        ([message(start=at(1))], 0),
        ([message(end=at(1))], 1),
        ([message(end=at(0))], 0),
        ([message(end="9999-12-31T23:59:59Z")], 1),
        ([message(), ended()], 0),
        ([ended(), message()], 0),  # in any order
        ([message(), ended(version=1)], 0),  # of equal versions the end
        ([message(), ended(end=None)], 0),  # an end without a moment: when it was published
        ([message(), ended(end=at(1))], 1),  # an end that is still to come
        ([message(version=3), ended()], 1),  # taken back by a newer version
        ([message(), ended(eventId=2)], 1),  # the end of another event
        ([message(), message(eventId=2)], 2),
        ([message(), message()], 1),
        (
            [
                message(
                    category="MAINTENANCE",
                    type="MAINTENANCE_ANNOUNCEMENT",
                    start=at(-1),
                    end=at(1),
                )
            ],
            1,
        ),
        (
            [
                message(
                    category="MAINTENANCE",
                    type="MAINTENANCE_ANNOUNCEMENT",
                    start=at(1),
                    end=at(2),
                )
            ],
            0,
        ),
        ([], 0),
    ],
)
def test_newest_version_of_an_event_says_whether_it_covers_the_moment(
    messages: list[Any], events: int
) -> None:
    assert covering(*messages) == events


@pytest.mark.parametrize(
    "kept",
    [
        None,
        [],
        "FAILURE",
        {},
        {"status": None},
        {"status": "SOLAR_STORM"},
        {"status": "FAILURE", "messages": {}},
    ],
    ids=str,
)
def test_what_is_not_understood_is_unknown(kept: Any) -> None:
    assert understood(kept) is None


@pytest.mark.parametrize(
    "odd",
    [
        7,
        message(category="SOLAR_STORM"),
        message(type="SOLAR_STORM"),
        message(start="yesterday"),
        message(start="2026-09-15T10:00:00"),
        message(start=None),
        message(start="0001-01-01T00:00:00Z"),
        message(published="9999-12-31T23:59:59Z"),
        message(end=5),
        message(version="1"),
        message(eventId=True),
        message(title=5),
        message(text="a\0b"),
    ],
    ids=str,
)
def test_a_message_that_is_not_understood_is_left_out(odd: Any) -> None:
    """One odd message must not take away what the others say."""
    assert covering(odd) == 0
    assert covering(odd, message(eventId=2)) == 1


def test_a_message_without_words_counts() -> None:
    found = reading(message(title=None, text=None))
    assert found is not None
    assert [(event.title, event.text) for event in found.events] == [("", "")]


def test_an_end_beyond_all_calendars_is_none() -> None:
    """It could not be told in a time zone east of Greenwich."""
    found = reading(message(end="9999-12-31T23:59:59Z"))
    assert found is not None
    assert [event.end for event in found.events] == [None]


def test_nothing_but_available_is_an_outage() -> None:
    for status in ("MAINTENANCE", "FAILURE", "TOTAL_FAILURE"):
        found = reading(status=status)
        assert found is not None
        assert found.is_outage
    available = reading(message(), status="AVAILABLE")
    assert available is not None
    assert not available.is_outage


class TestAsking:
    @pytest.fixture
    def lighthouse(self, sandbox: Any) -> Latarnia:
        return Latarnia(f"{sandbox.url}/latarnia/prod", seconds=0.4)

    def test_what_it_says_is_kept_as_it_is(self, lighthouse: Latarnia, control: Control) -> None:
        assert lighthouse.ask() == {"status": "AVAILABLE", "messages": []}
        [said] = control.set_latarnia("prod", "FAILURE")
        kept = lighthouse.ask()
        assert kept == {"status": "FAILURE", "messages": [said, said]}
        found = understood(kept)
        assert found is not None
        assert [event.title for event in found.events] == [said["title"]]
        paths = [call.path for call in control.calls()]
        assert paths == [f"/latarnia/prod/{path}" for path in ("status", "status", "messages")]

    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("html-503", {}),
            ("html-200", {}),
            ("waf-403", {}),
            ("invalid-json", {}),
            ("reset", {}),
            ("hang", {"seconds": 5}),
            ("drip", {"secondsPerByte": 0.1}),
            ("drip", {"part": "header", "secondsPerByte": 0.1}),
            ("oversize", {"bytes": 2**21}),
            ("gzip-bomb", {}),
            ("status", {"status": 200, "body": {"status": "FAILURE", "messages": "x"}}),
            ("status", {"status": 200, "body": {"status": "AVAILABLE", "x": "\0"}}),
            ("status", {"status": 200, "body": {"status": "FAILURE", "messages": [{"x": "\0"}]}}),
            ("status", {"status": 302, "headers": {"Location": "/latarnia/test/status"}}),
        ],
        ids=str,
    )
    def test_it_tells_nothing_where_it_fails_and_never_takes_long(
        self, lighthouse: Latarnia, control: Control, kind: str, options: dict[str, Any]
    ) -> None:
        began = datetime.now(UTC)
        control.fault(kind, service="latarnia", **options)
        said = lighthouse.ask()
        assert said is None or understood(said).events == []  # type: ignore[union-attr]
        assert datetime.now(UTC) - began < timedelta(seconds=2.4)
        assert said is None or "x" not in said

    def test_messages_that_cannot_be_had_make_it_unknown(
        self, lighthouse: Latarnia, control: Control
    ) -> None:
        control.set_latarnia("prod", "FAILURE")
        control.fault("html-503", service="latarnia", path="/messages")
        assert lighthouse.ask() is None

    def test_a_name_that_is_not_found(self) -> None:
        assert Latarnia("http://latarnia.invalid", seconds=1).ask() is None
