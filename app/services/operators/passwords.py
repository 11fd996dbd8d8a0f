"""Password hashing that is slow to attack, but quick for a caller who polls every few seconds."""

import hashlib
import hmac
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import argon2

from app import clock, errors

# Of random bytes that nobody kept, with the parameters of all other hashes.
_DECOY = (
    "$argon2id$v=19$m=19456,t=2,p=1$KnsTlaSuvGum67PDRtl17A"
    "$0tRj7OmzawSBy4JvMuH0+NFfS9Rmm46X74BhL45QHi0"
)
_PARALLEL_HASHES = 2  # each takes 19 MiB
_MOST_REMEMBERED = 4096  # proofs

_LEAST_LENGTH = 12
_LEAST_DIFFERENT = 6  # characters
# What the lists of common passwords are made of, beside digits.
_WORDS = (
    *("password", "passwort", "haslo", "hasło", "administrator", "admin", "welcome", "letmein"),
    *("iloveyou", "kochamcie", "polska", "warszawa", "dragon", "monkey", "football", "sunshine"),
    *("princess", "michael", "jordan", "master", "superman", "trustno1", "whatever", "starwars"),
    *(
        "1q2w3e4r5t6y7u8i9o0p",
        "1q2w3e4r5t6y",
        "1qaz2wsx3edc4rfv",
        "1qaz2wsx3edc",
        "ksef",
        "faktura",
    ),
)
_RUNS = ("01234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm", "abcdefghijklmnopqrstuvwxyz")
_LEAST_RUN = 5
_LEAST_NAME = 4


def weakness(password: str, email: str) -> str | None:
    """Why a password is soon guessed, in a sentence; None where it is not.

    Passwords of this length in lists of common ones are repetitions, runs of keys, or names.
    """
    text = password.casefold()
    if len(password) < _LEAST_LENGTH:
        return f"A password has at least {_LEAST_LENGTH} characters."
    if len(set(text)) < _LEAST_DIFFERENT or text in (text + text)[1:-1]:
        return f"A password has at least {_LEAST_DIFFERENT} different characters, and no pattern."
    names = [part for part in re.split(r"\W+", email.casefold()) if len(part) >= _LEAST_NAME]
    for known in (*names, *_WORDS, *_RUN_PIECES):
        text = text.replace(known, "")
    if len(re.sub(r"\d", "", text)) < _LEAST_LENGTH // 2:
        return "A password is more than a name or a common word with digits, or a row of keys."
    return None


def _pieces(run: str) -> Iterator[str]:
    for length in range(len(run), _LEAST_RUN - 1, -1):
        for start in range(len(run) - length + 1):
            yield run[start : start + length]


_RUN_PIECES = [piece for run in _RUNS for row in (run, run[::-1]) for piece in _pieces(row)]


class Passwords:
    """Argon2id, at most two at a time, which remembers verified passwords for a short while.

    What it remembers are HMACs of password and stored hash, under a random key of this process:
    no password is held, and a changed password is not accepted for even a moment.
    """

    def __init__(self, *, remember: float, wait: float) -> None:
        """`remember`: seconds for which a verified password is remembered; `wait`: seconds that a
        caller waits for its turn at hashing."""
        self._hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._key = os.urandom(32)
        self._remember = remember
        self._wait = wait
        self._turns = threading.BoundedSemaphore(_PARALLEL_HASHES)
        self._lock = threading.Lock()
        self._proved: OrderedDict[bytes, float] = OrderedDict()

    def hash(self, password: str) -> str:
        """The hash to store for a password."""
        return self._hasher.hash(password)

    def is_outdated(self, stored_hash: str) -> bool:
        """Whether a hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored_hash)

    def remembers(self, password: str, stored_hash: str | None) -> bool:
        """Whether this password was verified against this stored hash a short while ago."""
        if stored_hash is None:
            return False
        with self._lock:
            return self._proved.get(self._proof(password, stored_hash), 0.0) > clock.monotonic()

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
        try:
            self._hasher.verify(stored_hash or _DECOY, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
        if stored_hash is None:
            return False
        self._keep(self._proof(password, stored_hash))
        return True

    def _proof(self, password: str, stored_hash: str) -> bytes:
        message = f"{stored_hash}\0{password}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, message, hashlib.sha256)

    def _keep(self, proof: bytes) -> None:
        with self._lock:
            self._proved[proof] = clock.monotonic() + self._remember
            self._proved.move_to_end(proof)
            while len(self._proved) > _MOST_REMEMBERED:
                self._proved.popitem(last=False)
