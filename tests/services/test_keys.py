"""A new key for stored secrets; secrets that stand where they do not belong."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from app import make_parts
from app.crypto import SealError
from app.services import keys, snapshots, status
from app.services.active_session import ActiveSession
from app.services.parts import Parts, Place
from tests.service import Company

NIP, OTHER_NIP = "5265877635", "7812019453"
HERE = Place(NIP, "test")
SEALED = {
    ("ksef_credentials", "secret"): "credential",
    ("ksef_sessions", "access_token"): "access token",
    ("ksef_sessions", "refresh_token"): "refresh token",
    ("kept_sessions", "links"): "download links",
}


@pytest.fixture
def kept(make_company: Callable[..., Company], parts: Parts, control: Any) -> str:
    """Two companies with a credential, a session and a kept answer each; the first one's."""
    references = []
    for nip in (NIP, OTHER_NIP):
        make_company(nip, environments=("test",))
        references.append(control.seed_session("test", nip, invoices=2).reference_number)
        status.check_session(parts, Place(nip, "test"), references[-1])
    return references[0]


def make(settings: Any, *secret_keys: bytes) -> Parts:
    return make_parts(replace(settings, secret_keys=secret_keys))


def key_ids(database: Any) -> set[bytes]:
    rows = [
        database.execute(f"SELECT substring({column} FROM 1 FOR 4) FROM {table}")
        for table, column in SEALED
    ]
    return {bytes(key_id) for found in rows for (key_id,) in found}


def test_every_sealed_column_is_known(database: Any) -> None:
    found = database.execute(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND data_type = 'bytea'"
    )
    unsealed = {("upos", "content"), ("failed_logins", "who")}
    assert set(found) - unsealed == set(SEALED)
    assert {column.purpose for column in keys.COLUMNS} == set(SEALED.values())


def test_rotation_seals_everything_with_the_newest_key(
    database: Any, settings: Any, kept: str
) -> None:
    old, new = settings.secret_keys[0], os.urandom(32)
    both = make(settings, new, old)
    seen: list[tuple[int, int]] = []

    done = keys.rotate(both, lambda *progress: seen.append(progress))

    assert done == keys.Rotation(sealed=8, unreadable=0)
    assert seen[-1] == (8, 8)
    assert key_ids(database) == {both.vault.newest_key_id}
    assert keys.rotate(both, lambda *_: None) == keys.Rotation(0, 0)
    only_new = make(settings, new)
    assert ActiveSession(only_new, HERE)
    now = snapshots.database_now(only_new)
    [(number,)] = database.execute(
        f"SELECT ksef_number FROM kept_invoices WHERE session_reference_number = '{kept}' LIMIT 1"
    )
    assert snapshots.upo_link(only_new, HERE, kept, number, now)
    for parts in (both, only_new):
        parts.db.close()


def test_rotation_that_was_broken_off_goes_on(
    database: Any, settings: Any, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_BATCH", 1)
    parts = make(settings, os.urandom(32), settings.secret_keys[0])

    def break_off(done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keys.rotate(parts, break_off)
    assert len(key_ids(database)) == 2
    assert keys.rotate(parts, lambda *_: None).sealed == 5
    assert key_ids(database) == {parts.vault.newest_key_id}
    parts.db.close()


def test_what_opens_with_no_key_is_counted_and_stays(
    database: Any, settings: Any, kept: str
) -> None:
    before = key_ids(database)
    stranger = make(settings, os.urandom(32))
    assert keys.rotate(stranger, lambda *_: None) == keys.Rotation(sealed=0, unreadable=8)
    assert key_ids(database) == before
    stranger.db.close()


@pytest.mark.parametrize("place", list(SEALED), ids=lambda place: ".".join(place))
def test_sealed_value_opens_in_its_own_place_only(
    database: Any, parts: Parts, kept: str, place: tuple[str, str]
) -> None:
    table, column = place
    purpose = SEALED[place]
    [(sealed,)] = database.execute(f"SELECT {column} FROM {table} WHERE company_nip = '{NIP}'")
    where = {"company_nip": NIP, "environment": "test", "purpose": purpose}
    assert parts.vault.open(bytes(sealed), **where)
    others = [
        {**where, "company_nip": OTHER_NIP},
        {**where, "environment": "demo"},
        *({**where, "purpose": other} for other in SEALED.values() if other != purpose),
    ]
    for other in others:
        with pytest.raises(SealError):
            parts.vault.open(bytes(sealed), **other)
