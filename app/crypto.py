"""Encryption of stored secrets ("sealing"), so that a stolen or moved row is of no use.

AES-256-GCM. A sealed value is bound to its company, environment and purpose: copied to another row
it cannot be opened. It begins with the id of its key (4 bytes) and a nonce (12 bytes), so that
values sealed with older keys can still be opened while new ones are sealed with the newest key.
"""

import hashlib
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_KEY_ID = 4
_NONCE = 12


class SealError(Exception):
    """A sealed value cannot be opened: another key, another place, or damaged."""


class Vault:
    """Seals secrets with the first of `keys` (32 bytes each), and opens them with any."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers = {_key_id(key): AESGCM(key) for key in reversed(keys)}
        self._newest = _key_id(keys[0])

    @property
    def newest_key_id(self) -> bytes:
        """The first bytes of every value that is sealed with the newest key."""
        return self._newest

    @property
    def key_names(self) -> list[str]:
        """The ids of its keys in hexadecimal, newest first: no secret, and `SealError` has them."""
        return [key_id.hex() for key_id in reversed(self._ciphers)]

    def seal(self, secret: str, *, company_nip: str, environment: str, purpose: str) -> bytes:
        """The sealed form of a secret, to be stored for that company, environment and purpose."""
        nonce = os.urandom(_NONCE)
        bound_to = _binding(company_nip, environment, purpose)
        sealed = self._ciphers[self._newest].encrypt(nonce, secret.encode(), bound_to)
        return self._newest + nonce + sealed

    def open(self, sealed: bytes, *, company_nip: str, environment: str, purpose: str) -> str:
        """The secret; SealError if its key is unknown, its binding differs or it was changed."""
        sealed = bytes(sealed)
        cipher = self._ciphers.get(sealed[:_KEY_ID])
        if cipher is None:
            raise SealError(
                f"sealed with the key {sealed[:_KEY_ID].hex()}, which is not in SECRET_KEYS"
            )
        nonce, body = sealed[_KEY_ID : _KEY_ID + _NONCE], sealed[_KEY_ID + _NONCE :]
        try:
            return cipher.decrypt(nonce, body, _binding(company_nip, environment, purpose)).decode()
        except (InvalidTag, ValueError):
            raise SealError("not sealed for this company, environment and purpose") from None


def derived_key(key: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose, derived from `key`: the same in every replica."""
    return HKDF(hashes.SHA256(), 32, salt=None, info=f"ksef-proxy {purpose}".encode()).derive(key)


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"ksef-proxy key id" + key).digest()[:_KEY_ID]


def _binding(company_nip: str, environment: str, purpose: str) -> bytes:
    return f"{company_nip}|{environment}|{purpose}".encode()
