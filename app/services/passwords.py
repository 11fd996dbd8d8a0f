"""Passwords: slow to guess, quick for a caller who comes every few seconds."""

import hashlib
import hmac
import os
import threading
from collections import OrderedDict

import argon2

from app import clock, errors

_PARALLEL_HASHES = 2
_CACHED = 4096


class Passwords:
    """Argon2id, at most two at a time, with a short memory of what was right.

    The memory is keyed by an HMAC under a key of this process, so it holds no password, and each
    entry names the stored hash that it proved: a changed password is out at once.
    """

    def __init__(self, *, remember: float, wait: float) -> None:
        """`remember` and `wait` (for a turn at hashing) are in seconds."""
        self._hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._decoy = self._hasher.hash(os.urandom(16).hex())
        self._key = os.urandom(32)
        self._remember = remember
        self._wait = wait
        self._turns = threading.BoundedSemaphore(_PARALLEL_HASHES)
        self._lock = threading.Lock()
        self._proved: OrderedDict[bytes, float] = OrderedDict()

    def hash(self, password: str) -> str:
        """The hash to be stored for a password."""
        return self._hasher.hash(password)

    def remembers(self, password: str, stored_hash: str | None) -> bool:
        """Whether the password was proved to be the one stored, a short while ago."""
        return stored_hash is not None and self._is_remembered(self._proof(password, stored_hash))

    def verify(self, password: str, stored_hash: str | None) -> bool:
        """Whether the password is the one stored. `None`, an unknown user, costs the same.

        Raises Unavailable when too many others are waiting for a turn.
        """
        if self.remembers(password, stored_hash):
            return True
        if not self._turns.acquire(timeout=self._wait):
            raise errors.Unavailable("Too many logins at once.", retry_after=round(self._wait) or 1)
        try:
            self._hasher.verify(stored_hash or self._decoy, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
        finally:
            self._turns.release()
        if stored_hash is None:
            return False
        self._keep(self._proof(password, stored_hash))
        return True

    def _proof(self, password: str, stored_hash: str) -> bytes:
        message = f"{stored_hash}\0{password}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, message, hashlib.sha256)

    def _is_remembered(self, proof: bytes) -> bool:
        with self._lock:
            return self._proved.get(proof, 0.0) > clock.monotonic()

    def _keep(self, proof: bytes) -> None:
        with self._lock:
            self._proved[proof] = clock.monotonic() + self._remember
            self._proved.move_to_end(proof)
            while len(self._proved) > _CACHED:
                self._proved.popitem(last=False)
