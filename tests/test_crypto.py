"""Secrets at rest open in their own account, with a key that is still there, undamaged."""

import os
from typing import Any

import pytest

from app.crypto import SealError, Vault, derived_key

OLD, NEW = os.urandom(32), os.urandom(32)
PLACE = {"company_nip": "5265877635", "environment": "test", "purpose": "credential"}
SECRET = "żeton|" + "x" * 100


@pytest.fixture
def vault() -> Vault:
    return Vault([NEW])


def test_what_is_sealed_opens_again_and_does_not_show(vault: Vault) -> None:
    sealed = vault.seal(SECRET, **PLACE)
    assert vault.open(sealed, **PLACE) == SECRET
    assert b"x" * 8 not in sealed


def test_a_database_hands_it_back_as_a_memoryview(vault: Vault) -> None:
    assert vault.open(memoryview(vault.seal(SECRET, **PLACE)), **PLACE) == SECRET


def test_the_same_secret_is_sealed_differently_each_time(vault: Vault) -> None:
    sealed = [vault.seal(SECRET, **PLACE), *vault.seal_all([SECRET] * 99, **PLACE)]
    assert len(set(sealed)) == 100
    assert {vault.open(one, **PLACE) for one in sealed} == {SECRET}


@pytest.mark.parametrize(
    "moved",
    [
        {"company_nip": "7171642051"},
        {"environment": "prod"},
        {"purpose": "refresh token"},
    ],
    ids=str,
)
def test_a_row_copied_elsewhere_does_not_open(vault: Vault, moved: dict[str, str]) -> None:
    sealed = vault.seal(SECRET, **PLACE)
    with pytest.raises(SealError, match="not sealed for this"):
        vault.open(sealed, **{**PLACE, **moved})


def test_after_a_rotation_old_seals_open_and_new_ones_have_the_new_key() -> None:
    old = Vault([OLD]).seal(SECRET, **PLACE)
    rotated = Vault([NEW, OLD])
    assert rotated.open(old, **PLACE) == SECRET
    assert Vault([NEW]).open(rotated.seal(SECRET, **PLACE), **PLACE) == SECRET


def test_a_key_taken_away_is_told(vault: Vault) -> None:
    old = Vault([OLD]).seal(SECRET, **PLACE)
    with pytest.raises(SealError, match="SECRET_KEYS"):
        vault.open(old, **PLACE)


def test_a_damaged_byte_anywhere_is_noticed(vault: Vault) -> None:
    sealed = vault.seal("s", **PLACE)
    for position in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[position] ^= 1
        with pytest.raises(SealError):
            vault.open(bytes(damaged), **PLACE)


@pytest.mark.parametrize("length", range(33))
def test_a_cut_seal_is_noticed(vault: Vault, length: int) -> None:
    sealed = vault.seal("s", **PLACE)
    assert len(sealed) == 33
    cut: Any = sealed[:length]
    with pytest.raises(SealError):
        vault.open(cut, **PLACE)


def test_a_seal_never_says_what_it_holds(vault: Vault) -> None:
    with pytest.raises(SealError) as caught:
        vault.open(vault.seal(SECRET, **PLACE)[:-1], **PLACE)
    assert SECRET not in str(caught.value)


def test_a_derived_key_is_the_same_everywhere_and_another_one_for_each_purpose() -> None:
    assert derived_key(OLD, "forms") == derived_key(OLD, "forms")
    keys = {OLD, derived_key(OLD, "forms"), derived_key(OLD, "links"), derived_key(NEW, "forms")}
    assert len(keys) == 4
    assert {len(key) for key in keys} == {32}
