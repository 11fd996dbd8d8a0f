"""Long work on a company's whole history: broken off, begun again, within quota."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app import errors
from app.ksef import client, limits
from app.services import outages
from app.services.sessions import backfill
from app.services.upo.fetch import archive_upos
from tests.rows import add_synced, synced_sessions
from tests.services.conftest import LISTING, SESSIONS, STATUS, Asking

PLACE = ("--nip", "5265877635", "--environment", "test")
DOWNLOAD = "GET /{environment}/storage/upo/{reference}/{name}.xml"


def silent(_done: int, _total: int | None) -> None:
    pass


@pytest.fixture
def history(asking: Asking) -> list[Any]:
    """Twelve finished sessions of both kinds, and rows of all their invoices."""
    sessions = [
        asking.seed(kind="batch" if number % 3 == 0 else "online", invoices=2)
        for number in range(12)
    ]
    for session in sessions:
        add_synced(asking.database, asking.account, session.ksef_numbers)
    return sessions


def expected(history: list[Any]) -> dict[str, str]:
    return {number: s.reference_number for s in history for number in s.ksef_numbers}


@pytest.fixture
def run(app: Flask) -> Callable[..., Any]:
    return lambda *arguments: app.test_cli_runner().invoke(args=arguments)


def test_link_walks_ksef_s_list_and_links_everything(
    asking: Asking, history: list[Any], run: Any
) -> None:
    result = run("link", *PLACE)
    assert result.stdout == "12 of 12 sessions checked and linked\n"
    assert synced_sessions(asking.database, asking.account) == expected(history)
    assert asking.counts() == {SESSIONS: 2, STATUS: 12, LISTING: 12}
    assert run("link", *PLACE).exit_code == 0
    assert asking.counts() == {SESSIONS: 2}, "what is final is not asked for again"


def test_link_pages_through_a_long_list(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAGE_SIZE", 10)  # KSeF's least
    for _ in range(13):
        asking.control.seed_session("test", asking.account.company_nip, invoices=0)
    asking.counts()
    summary = backfill.link_history(asking.account, silent)
    assert (summary.seen, summary.done) == (13, 13)
    counts = asking.counts()
    assert (counts[SESSIONS], counts[STATUS]) == (3, 13), "each of them once"


def test_link_broken_off_goes_on_where_it_was(asking: Asking, history: list[Any]) -> None:
    def break_off(done: int, _total: int | None) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backfill.link_history(asking.account, break_off)
    assert asking.counts()[STATUS] == 5

    summary = backfill.link_history(asking.account, silent)

    assert (summary.seen, summary.done, summary.failed) == (12, 12, 0)
    assert asking.counts()[STATUS] == 7
    assert synced_sessions(asking.database, asking.account) == expected(history)


def test_one_session_that_fails_does_not_stop_the_others(
    asking: Asking, history: list[Any], run: Any
) -> None:
    broken = history[4].reference_number
    asking.control.fault("invalid-json", path=f"/sessions/{broken}$", times=None)
    result = run("link", *PLACE)
    assert result.exit_code == 1
    assert result.stdout == "11 of 12 sessions checked and linked\n"
    assert f"1 failed, the last one: {broken}: KSeF's answer is not JSON." in result.stderr


def test_upo_archive_broken_off_goes_on_where_it_was(
    asking: Asking, history: list[Any], run: Any
) -> None:
    run("link", *PLACE)
    asking.counts()

    def break_off(done: int, total: int | None) -> None:
        assert total == 24
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        archive_upos(asking.account, break_off)
    assert asking.counts() == {DOWNLOAD: 10}

    assert run("upo", "archive", *PLACE).stdout == "14 of 14 UPOs archived\n"
    assert asking.counts() == {DOWNLOAD: 14}
    [(kept,)] = asking.database.execute("SELECT count(*) FROM upos")
    assert kept == 24
    assert run("upo", "archive", *PLACE).stdout == "0 of 0 UPOs archived\n"
    assert asking.counts() == {}


def test_long_work_leaves_half_of_the_quota(
    asking: Asking, history: list[Any], run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing else going on it takes no more than half of what we may take."""
    timing = replace(asking.service.timing, quota_scale=0.02)
    monkeypatch.setattr(asking.service, "timing", timing)
    asking.database.execute("DELETE FROM quota_calls; DELETE FROM quota_groups")
    run("link", *PLACE)
    # 18 lists a minute are ours, 9 of them for long work: the minute is 1.2 s here.
    [(most,)] = asking.database.execute(
        "SELECT max(n) FROM (SELECT count(*) OVER (ORDER BY reserved_at"
        " RANGE BETWEEN CURRENT ROW AND interval '1.19 s' FOLLOWING) AS n"
        " FROM quota_calls WHERE quota_group = 'sessionInvoiceList') AS windows"
    )
    assert most == 9


def test_simulation_stops_both(asking: Asking, history: list[Any]) -> None:
    outages.simulate(asking.service.db, "test", company_nip=None, message="Ćwiczenie", ends_at=None)
    for work in (backfill.link_history, archive_upos):
        with pytest.raises(errors.OutageSimulation):
            work(asking.account, silent)
    assert asking.counts() == {}


def test_upo_render(tmp_path: Path, run: Any, asking: Asking, history: list[Any]) -> None:
    run("link", *PLACE)
    run("upo", "archive", *PLACE)
    [(content,)] = asking.database.execute("SELECT content FROM upos LIMIT 1")
    (tmp_path / "upo.xml").write_bytes(bytes(content))
    result = run("upo", "render", str(tmp_path / "upo.xml"), "-o", str(tmp_path / "upo.pdf"))
    assert result.exit_code == 0
    assert (tmp_path / "upo.pdf").read_bytes().startswith(b"%PDF")
    (tmp_path / "no.xml").write_text("<a/>")
    assert run("upo", "render", str(tmp_path / "no.xml"), "-o", "x.pdf").exit_code == 1


def test_quota_show_and_clear(asking: Asking, run: Any) -> None:
    session = asking.seed()
    asking.check(session)
    asking.account.calls.block(limits.SESSION, 3600)
    shown = run("quota", "show", *PLACE).stdout
    [line] = [line for line in shown.splitlines() if line.startswith("sessionMisc")]
    assert line.split()[:4] == ["sessionMisc", "1", "1", "10/120/1200"]
    assert len(line.split()) == 5, "until when it is blocked"
    assert run("quota", "clear", *PLACE).stdout == "1 block(s) lifted\n"
    assert run("quota", "clear", *PLACE).stdout == "0 block(s) lifted\n"
