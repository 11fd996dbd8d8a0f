"""Who is given a thread: the lines of gunicorn's worker, by themselves."""

from collections.abc import Callable

import pytest

from app import callers
from app.worker import HEALTH_CHECKS, STRANGERS, Lines

A, B, C = 101, 102, 103  # known callers


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after which all who came before have not come lately."""
    moments = [1000.0]
    monkeypatch.setattr("app.clock.monotonic", lambda: moments[-1])
    return lambda: moments.append(moments[-1] + 1)


def given(lines: Lines) -> list[str]:
    """All who are given a thread now."""
    found = []
    while (who := lines.next()) is not None:
        found.append(who)
    return found


def joined(lines: Lines, caller: int, *names: str) -> None:
    for name in names:
        lines.join(caller, name)


def test_one_caller_alone_has_all_threads_in_its_order(later: Callable[[], None]) -> None:
    lines = Lines(3)
    joined(lines, A, "a", "b", "c", "d")
    later()
    assert given(lines) == ["a", "b", "c"]
    lines.leave(A)
    assert given(lines) == ["d"]
    assert given(lines) == []


def test_lines_have_turns_and_nobody_more_than_half_beside_others() -> None:
    lines = Lines(4)
    joined(lines, A, *"abcde")
    joined(lines, B, *"xy")
    assert given(lines) == ["a", "x", "b", "y"]
    lines.leave(B)
    assert given(lines) == []  # the first holds two of four already
    lines.leave(A)
    assert given(lines) == ["c"]
    joined(lines, C, "z")
    assert given(lines) == ["z"]


def test_who_was_alone_gives_way_thread_by_thread(later: Callable[[], None]) -> None:
    lines = Lines(2)
    joined(lines, A, *"abcd")
    later()
    assert given(lines) == ["a", "b"]
    joined(lines, B, "x")
    assert given(lines) == []
    lines.leave(A)
    assert given(lines) == ["x"]
    lines.leave(B)
    assert given(lines) == []
    lines.leave(A)
    assert given(lines) == ["c"]


def test_one_thread_is_given_to_everybody_in_turn() -> None:
    lines = Lines(1)
    joined(lines, A, "a", "b")
    joined(lines, B, "x")
    order = []
    for caller in (A, B, A):
        order += given(lines)
        lines.leave(caller)
    assert order == ["a", "x", "b"]


def test_who_is_alone_again_has_all_threads_again(later: Callable[[], None]) -> None:
    lines = Lines(4)
    joined(lines, B, "x")
    joined(lines, A, *"abcd")
    assert given(lines) == ["x", "a", "b"]
    lines.leave(B)
    assert given(lines) == []
    later()
    assert given(lines) == ["c", "d"]


def test_strangers_share_a_line_and_never_have_more_than_half(later: Callable[[], None]) -> None:
    lines = Lines(4)
    joined(lines, STRANGERS, *"abcd")
    later()
    assert given(lines) == ["a", "b"]
    joined(lines, A, "x", "y", "z")
    assert given(lines) == ["x", "y"]
    lines.leave(STRANGERS)
    assert given(lines) == ["c"]


def test_health_checks_wait_for_nobody_and_take_nothing_from_a_caller(
    later: Callable[[], None],
) -> None:
    lines = Lines(4)
    joined(lines, A, "a", "b")
    later()
    joined(lines, HEALTH_CHECKS, "?")
    joined(lines, A, "c", "d")
    assert given(lines) == ["a", "?", "b", "c"]


def test_a_caller_is_known_once_verified_and_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 1000.0
    monkeypatch.setattr("app.clock.monotonic", lambda: moment)
    monkeypatch.setattr(callers, "_seen", {})
    callers.verified("Basic YTpi")
    known = callers.known("Basic YTpi")
    assert known not in (None, STRANGERS, HEALTH_CHECKS)
    assert callers.known("Basic YTpj") is None
    moment += callers.LATELY - 1
    callers.verified("Basic YTpj")
    assert callers.known("Basic YTpi") == known
    moment += 1
    assert callers.known("Basic YTpi") is None
    assert callers.known("Basic YTpj") not in (None, known)
    for number in range(5000):
        callers.verified(f"Basic {number}")
    assert callers.known("Basic YTpj") is None
    assert callers.known("Basic 4999")
