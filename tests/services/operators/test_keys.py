"""A new key for stored secrets; secrets that stand where they do not belong."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from app.crypto import SealError
from app.service import Service
from app.services.events import webhooks
from app.services.operators import keys
from app.services.sessions import store
from app.services.sessions.check import check_session
from tests.service import Company

NIP, OTHER_NIP = "5265877635", "7812019453"
SEALED = {
    ("ksef_credentials", "secret"): "credential",
    ("ksef_sessions", "access_token"): "access token",
    ("ksef_sessions", "refresh_token"): "refresh token",
    ("webhooks", "secret"): "webhook secret",
    ("kept_sessions", "links"): "download links",
    ("kept_invoices", "link"): "download link",
}


@pytest.fixture
def kept(make_company: Callable[..., Company], service: Service, control: Any) -> str:
    """Two companies with a credential, a session, webhooks and a kept answer each; the first's."""
    references = []
    for nip in (NIP, OTHER_NIP):
        make_company(nip, environments=("test",))
        references.append(control.seed_session("test", nip, invoices=2).reference_number)
        check_session(service.account(nip, "test"), references[-1])
        webhooks.add(service.account(nip, "test"), "https://erp.example/events")
    webhooks.add(service.account(NIP, "test"), "https://archive.example/events")
    return references[0]


def make(settings: Any, *secret_keys: bytes) -> Service:
    return Service(replace(settings, secret_keys=secret_keys))


def key_ids(database: Any) -> set[bytes]:
    rows = [
        database.execute(
            f"SELECT substring({column} FROM 1 FOR 4) FROM {table} WHERE {column} IS NOT NULL"
        )
        for table, column in SEALED
    ]
    return {bytes(key_id) for found in rows for (key_id,) in found}


def test_every_sealed_column_is_known(database: Any) -> None:
    found = database.execute(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND data_type = 'bytea'"
    )
    unsealed = {("upos", "content"), ("failed_logins", "who"), ("kept_sessions", "body")}
    unsealed |= {("login_attempts", "who"), ("login_attempts", "name")}
    assert set(found) - unsealed == set(SEALED)


def link(service: Service, database: Any, reference: str) -> str | None:
    """The kept download link of an invoice of the session."""
    [(number,), *_] = database.execute(
        f"SELECT ksef_number FROM kept_invoices WHERE session_reference_number = '{reference}'"
    )
    return store.upo_link(service.account(NIP, "test"), reference, number)


def test_rotation_seals_everything_with_the_newest_key_but_links_which_it_forgets(
    database: Any, settings: Any, kept: str
) -> None:
    old, new = settings.secret_keys[0], os.urandom(32)
    both = make(settings, new, old)
    assert link(both, database, kept)
    seen: list[tuple[int, int | None]] = []

    done = keys.rotate(both.db, both.vault, lambda *progress: seen.append(progress))

    assert done == keys.Rotation(sealed=9, unreadable=0)
    assert seen[-1] == (9, 9)
    assert key_ids(database) == {both.vault.newest_key_id}
    assert link(both, database, kept) is None
    assert keys.rotate(both.db, both.vault, lambda *_: None) == keys.Rotation(0, 0)
    only_new = make(settings, new)
    only_new.account(NIP, "test").ksef.require_session()
    for service in (both, only_new):
        service.db.close()


def test_rotation_leaves_links_that_have_the_newest_key(
    database: Any, service: Service, kept: str
) -> None:
    before = link(service, database, kept)
    assert before
    assert keys.rotate(service.db, service.vault, lambda *_: None) == keys.Rotation(0, 0)
    assert link(service, database, kept) == before


def test_rotation_that_was_broken_off_goes_on(database: Any, settings: Any, kept: str) -> None:
    service = make(settings, os.urandom(32), settings.secret_keys[0])

    def break_off(done: int, _total: int | None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keys.rotate(service.db, service.vault, break_off)
    assert len(key_ids(database)) == 2
    assert keys.rotate(service.db, service.vault, lambda *_: None).sealed == 6
    assert key_ids(database) == {service.vault.newest_key_id}
    service.db.close()


def test_a_value_that_was_replaced_meanwhile_stays(
    database: Any, settings: Any, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make(settings, os.urandom(32), settings.secret_keys[0])
    read = service.db.rows

    def read_and_replaced(query: Any, **values: Any) -> Any:
        rows = read(query, **values)
        database.execute("UPDATE ksef_credentials SET secret = 'another one'")
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(service.db, "rows", read_and_replaced)
        keys.rotate(service.db, service.vault, lambda *_: None)
    stored = database.execute("SELECT DISTINCT secret FROM ksef_credentials")
    assert [bytes(secret) for (secret,) in stored] == [b"another one"]
    service.db.close()


def test_what_opens_with_no_key_is_counted_and_stays(
    database: Any, settings: Any, kept: str
) -> None:
    before = key_ids(database)
    stranger = make(settings, os.urandom(32))
    assert keys.rotate(stranger.db, stranger.vault, lambda *_: None) == keys.Rotation(
        0, unreadable=9
    )
    assert key_ids(database) == before
    stranger.db.close()


@pytest.mark.parametrize("place", list(SEALED), ids=lambda place: ".".join(place))
def test_sealed_value_opens_in_its_own_place_only(
    database: Any, service: Service, kept: str, place: tuple[str, str]
) -> None:
    table, column = place
    purpose = SEALED[place]
    [(sealed,), *_] = database.execute(f"SELECT {column} FROM {table} WHERE company_nip = '{NIP}'")
    where = {"company_nip": NIP, "environment": "test", "purpose": purpose}
    assert service.vault.open(bytes(sealed), **where)
    others = [
        {**where, "company_nip": OTHER_NIP},
        {**where, "environment": "demo"},
        *({**where, "purpose": other} for other in SEALED.values() if other != purpose),
    ]
    for other in others:
        with pytest.raises(SealError):
            service.vault.open(bytes(sealed), **other)
