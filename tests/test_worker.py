"""Who is given a thread: the lines of gunicorn's worker, by themselves."""

from app.worker import Lines


def given(lines: Lines) -> list[str]:
    """All who are given a thread now."""
    found = []
    while (who := lines.next()) is not None:
        found.append(who)
    return found


def joined(lines: Lines, user: int, *names: str) -> None:
    for name in names:
        lines.join(user, name)


def test_one_user_alone_has_all_threads_in_its_order() -> None:
    lines = Lines(3)
    joined(lines, 1, "a", "b", "c", "d")
    assert given(lines) == ["a", "b", "c"]
    lines.leave(1)
    assert given(lines) == ["d"]
    assert given(lines) == []


def test_lines_have_turns_and_nobody_more_than_half_beside_others() -> None:
    lines = Lines(4)
    joined(lines, 1, *"abcde")
    joined(lines, 2, *"xy")
    assert given(lines) == ["a", "x", "b", "y"]
    lines.leave(2)
    assert given(lines) == []  # the first holds two of four already
    lines.leave(1)
    assert given(lines) == ["c"]
    joined(lines, 3, "z")
    assert given(lines) == ["z"]


def test_who_was_alone_gives_way_thread_by_thread() -> None:
    lines = Lines(2)
    joined(lines, 1, *"abcd")
    assert given(lines) == ["a", "b"]
    joined(lines, 2, "x")
    assert given(lines) == []
    lines.leave(1)
    assert given(lines) == ["x"]
    lines.leave(2)
    assert given(lines) == []
    lines.leave(1)
    assert given(lines) == ["c"]


def test_one_thread_is_given_to_everybody_in_turn() -> None:
    lines = Lines(1)
    joined(lines, 1, "a", "b")
    joined(lines, 2, "x")
    order = []
    for user in (1, 2, 1):
        order += given(lines)
        lines.leave(user)
    assert order == ["a", "x", "b"]


def test_who_is_alone_again_has_all_threads_again(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    moment = 100.0
    monkeypatch.setattr("app.clock.monotonic", lambda: moment)
    lines = Lines(4)
    joined(lines, 2, "x")
    joined(lines, 1, *"abcd")
    assert given(lines) == ["x", "a", "b"]
    lines.leave(2)
    assert given(lines) == []
    moment += 1.5
    assert given(lines) == ["c", "d"]
