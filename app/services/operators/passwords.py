"""Password hashing that is slow to attack, but quick for a caller who polls every few seconds."""

import hashlib
import hmac
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import argon2

from app import clock, errors

_PARALLEL_HASHES = 2  # each takes 19 MiB
_GIVES_WAY = 10  # to all other work: a "nice" value
_MOST_REMEMBERED = 4096  # proofs


class Passwords:
    """Argon2id, at most two at a time, which remembers verified passwords for a short while.

    What it remembers are HMACs of password and stored hash, under a random key of this process:
    no password is held, and a changed password is not accepted for even a moment.
    """

    def __init__(self, *, remember: float, wait: float) -> None:
        """`remember`: seconds for which a verified password is remembered; `wait`: seconds that a
        caller waits for its turn at hashing."""
        self._hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._decoy = self._hasher.hash(os.urandom(16).hex())
        self._key = os.urandom(32)
        self._remember = remember
        self._wait = wait
        self._turns = threading.BoundedSemaphore(_PARALLEL_HASHES)
        self._threads = ThreadPoolExecutor(_PARALLEL_HASHES, initializer=_give_way)
        self._lock = threading.Lock()
        self._proved: OrderedDict[bytes, float] = OrderedDict()

    def hash(self, password: str) -> str:
        """The hash to store for a password."""
        return self._hasher.hash(password)

    def remembers(self, password: str, stored_hash: str | None) -> bool:
        """Whether this password was verified against this stored hash a short while ago."""
        return stored_hash is not None and self._is_remembered(self._proof(password, stored_hash))

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A turn at hashing, for the block, which must not take another.

        Raises Unavailable if none comes in time.
        """
        if not self._turns.acquire(timeout=self._wait):
            raise errors.Unavailable("Too many logins at once.", retry_after=round(self._wait) or 1)
        try:
            yield
        finally:
            self._turns.release()

    def verify(self, password: str, stored_hash: str | None) -> bool:
        """Whether the password matches the stored hash. It is hashed: take a `turn` before.

        None stands for an unknown user: it takes as long, so that time does not tell who exists.
        """
        hashing = self._threads.submit(self._hasher.verify, stored_hash or self._decoy, password)
        try:
            hashing.result()
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
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
            while len(self._proved) > _MOST_REMEMBERED:
                self._proved.popitem(last=False)


def _give_way() -> None:
    """Let all other threads go before this one, where threads have priorities of their own."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _GIVES_WAY)
