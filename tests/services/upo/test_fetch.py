"""UPOs are fetched once, by the link that costs no quota where there is one, and archived."""

import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app import errors
from app.services.login import session as login
from app.services.upo.fetch import UpoFile, fetch_session_upo, fetch_upo
from tests.services.conftest import STATUS, Asking

UPO = f"{STATUS}/invoices/ksef/{{ksef_number}}/upo"
PAGE = f"{STATUS}/upo/{{upo_reference}}"
DOWNLOAD = "GET /{environment}/storage/upo/{reference}/{name}.xml"
STORAGE = {"service": "storage"}


@pytest.fixture
def settings(settings: Any) -> Any:
    timing = replace(settings.timing, fresh_least=10.0, fresh_most=10.0, quota_scale=1.0)
    return replace(settings, timing=timing)


@pytest.fixture
def session(asking: Asking) -> Any:
    """A finished session whose answer, and so its links, are kept."""
    session = asking.seed(kind="batch", invoices=3)
    asking.check(session)
    asking.counts()
    return session


def fetch(asking: Asking, session: Any, index: int = 0, doc_type: Any = "xml") -> UpoFile:
    return fetch_upo(
        asking.account,
        session.reference_number,
        session.ksef_numbers[index],
        doc_type,
    )


def calls(asking: Asking) -> dict[str, int]:
    """Calls by service: storage costs no quota."""
    found: dict[str, int] = {}
    for call in asking.control.calls():
        found[call.service] = found.get(call.service, 0) + 1
        assert call.service == "api" or not call.has_bearer
    asking.control.clear_calls()
    return found


def archived(asking: Asking) -> list[Any]:
    return asking.database.execute("SELECT ksef_number, content, sha256 FROM upos")


def test_first_by_the_link_then_from_the_archive(asking: Asking, session: Any) -> None:
    first = fetch(asking, session)
    assert calls(asking) == {"storage": 1}
    login.log_out(asking.account)
    asking.counts()
    assert fetch(asking, session) == first
    assert fetch(asking, session, doc_type="pdf").content.startswith(b"%PDF")
    assert calls(asking) == {}
    [(number, content, digest)] = archived(asking)
    assert (number, bytes(content)) == (session.ksef_numbers[0], first.content)
    assert digest == hashlib.sha256(first.content).hexdigest() == first.sha256


def test_without_a_kept_answer_by_the_api(asking: Asking) -> None:
    session = asking.seed()
    fetch(asking, session)
    fetch(asking, session)
    assert asking.counts() == {UPO: 1}


def test_the_link_survives_until_the_session_is_final(asking: Asking) -> None:
    """Listed while it moved, refreshed singly, then final: still no metered call for a UPO."""
    session = asking.seed(state="moving", invoices=[{}, {"status": 150}])
    asking.check(session)
    asking.control.change_session("test", session.reference_number, state="finished")
    asking.age(11)
    assert asking.check(session).final
    session = asking.control.session("test", session.reference_number)
    asking.counts()
    for index in range(2):
        fetch(asking, session, index)
    assert calls(asking) == {"storage": 2}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("status", {"status": 403, "body": "<Error/>"}),
        ("status", {"status": 404, "body": "<Error/>"}),
        ("status", {"status": 302, "headers": {"Location": "http://127.0.0.1:1/"}, "body": ""}),
        ("html-200", {}),
        ("html-503", {}),
        ("waf-html-403", {}),
        ("wrong-hash", {}),
        ("upo-doctype", {}),
        ("upo-doctype", {"doctype": '<!DOCTYPE p SYSTEM "file:///etc/passwd">'}),
        ("upo-other-session", {}),
        ("upo-other-nip", {"value": "7812019453"}),
        ("upo-other-ksef-number", {}),
        ("gzip-bomb", {}),
        ("oversize", {}),
        ("reset", {}),
        ("truncated", {}),
    ],
)
def test_a_link_that_fails_or_lies_is_followed_by_the_api_once(
    asking: Asking, session: Any, kind: str, options: dict[str, Any]
) -> None:
    asking.control.fault(kind, **STORAGE, **options)
    document = fetch(asking, session)
    assert calls(asking) == {"storage": 1, "api": 1}
    [(_, content, _)] = archived(asking)
    assert bytes(content) == document.content
    assert session.ksef_numbers[0].encode() in document.content


def test_expired_link_is_not_asked(asking: Asking, session: Any) -> None:
    asking.control.advance(73 * 3600)
    fetch(asking, session)
    counts = asking.counts()
    assert counts[DOWNLOAD] == 1
    assert counts[UPO] >= 1, "by KSeF's clock the link had ended, and so had the token"
    change_links(asking, lambda url: url, valid_for=timedelta(seconds=-1))
    fetch(asking, session, 1)
    assert calls(asking) == {"api": 1}


def change_links(asking: Asking, change: Any, valid_for: timedelta = timedelta(hours=1)) -> None:
    """Put other links in place of the kept ones, sealed as the service seals them."""
    account = asking.account
    until = (asking.service.db.now() + valid_for).isoformat()
    for reference, sealed in asking.database.execute(
        "SELECT reference_number, link FROM kept_invoices"
    ):
        url, _ = json.loads(account.opened(bytes(sealed), "download link") or "")
        again = account.seal(json.dumps((change(url), until)), "download link")
        asking.database.execute(
            f"UPDATE kept_invoices SET link = '\\x{again.hex()}'"
            f" WHERE reference_number = '{reference}'"
        )


@pytest.mark.parametrize(
    "change",
    [
        lambda url: url.replace("http://", "https://"),
        lambda url: url.replace("127.0.0.1", "localhost"),
        lambda url: url.replace("http://", "http://user:secret@"),
        lambda url: url.replace("127.0.0.1:", "127.0.0.1:1"),
        lambda url: "file:///etc/passwd",
        lambda url: "http://[::1",
        lambda url: url + "\r\nX: y",
    ],
)
def test_a_link_that_leads_elsewhere_is_never_requested(
    asking: Asking, session: Any, change: Any
) -> None:
    change_links(asking, change)
    fetch(asking, session)
    assert calls(asking) == {"api": 1}


def test_both_sources_wrong_is_502_and_nothing_is_archived(asking: Asking, session: Any) -> None:
    asking.control.fault("wrong-hash", service="any", times=2)
    with pytest.raises(errors.UpoIntegrity):
        fetch(asking, session)
    assert calls(asking) == {"storage": 1, "api": 1}
    assert archived(asking) == []
    fetch(asking, session)


def test_without_a_hash_it_is_archived_all_the_same(asking: Asking, session: Any) -> None:
    asking.control.fault("no-hash", **STORAGE)
    fetch(asking, session)
    assert calls(asking) == {"storage": 1}
    assert len(archived(asking)) == 1


def test_an_archive_that_cannot_be_written_does_not_fail_the_answer(
    asking: Asking, session: Any
) -> None:
    asking.database.execute(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'no space left' USING ERRCODE = 'disk_full'; END $$;"
        "CREATE TRIGGER full_disk BEFORE INSERT ON upos EXECUTE FUNCTION full_disk()"
    )
    try:
        assert fetch(asking, session).content
    finally:
        asking.database.execute("DROP FUNCTION full_disk CASCADE")
    assert archived(asking) == []


def test_collective_upo_of_several_pages(asking: Asking) -> None:
    asking.control.settings(upoPageSize=10)
    session = asking.seed(kind="batch", invoices=25)
    asking.check(session)
    pages = asking.control.session("test", session.reference_number).upo_pages
    assert len(pages) == 3
    asking.counts()

    first = fetch_session_upo(asking.account, session.reference_number, "xml")
    assert [page for page, _ in first] == pages
    assert calls(asking) == {"storage": 3}
    for number in session.ksef_numbers:
        assert any(number.encode() in file.content for _, file in first)

    login.log_out(asking.account)
    asking.counts()
    again = fetch_session_upo(asking.account, session.reference_number, "pdf")
    assert [page for page, _ in again] == pages
    assert calls(asking) == {}


def test_collective_upo_of_a_session_never_checked_lists_no_invoice_and_is_asked_for_once(
    asking: Asking,
) -> None:
    asking.control.settings(upoPageSize=10)
    session = asking.seed(kind="batch", invoices=25)
    reference_number = session.reference_number
    first = fetch_session_upo(asking.account, reference_number, "xml")
    assert asking.counts() == {STATUS: 1, PAGE: 3}

    assert fetch_session_upo(asking.account, reference_number, "xml") == first
    assert asking.counts() == {}

    asking.database.execute(
        f"DELETE FROM upos WHERE page_reference_number = '{first[1][0]}'"  # a worker was killed
    )
    assert fetch_session_upo(asking.account, reference_number, "xml") == first
    assert asking.counts() == {STATUS: 1, PAGE: 1}


def test_collective_upo_of_a_moving_session_may_still_come(asking: Asking) -> None:
    session = asking.seed(state="moving", invoices=1)
    for _ in range(2):
        with pytest.raises(errors.UpoNotAvailable) as caught:
            fetch_session_upo(asking.account, session.reference_number, "xml")
        assert caught.value.retry_after is not None


@pytest.mark.parametrize("checked", [False, True])
def test_collective_upo_of_a_session_that_failed_never_comes(asking: Asking, checked: bool) -> None:
    session = asking.seed(kind="batch", state="failed", code=445)
    if checked:
        asking.check(session)
        asking.control.clear_calls()
    for _ in range(3):
        with pytest.raises(errors.UpoNotAvailable, match="no collective UPO: it is at 445") as told:
            fetch_session_upo(asking.account, session.reference_number, "xml")
        assert told.value.retry_after is None
    assert asking.counts() == ({} if checked else {STATUS: 1})
