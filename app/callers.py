"""Which callers this process has lately let in, so that gunicorn's worker can tell them apart.

What the worker sees of a request are its bytes, and nobody has checked the password in them yet.
"""

from app import clock

LATELY = 60.0  # seconds
_MOST = 4096  # callers

_seen: dict[int, float] = {}  # by the hash of the header Authorization, the latest last


def verified(authorization: str) -> None:
    """Note that the password in this header Authorization is right."""
    caller = hash(authorization)
    _seen.pop(caller, None)
    _seen[caller] = clock.monotonic()
    while len(_seen) > _MOST:
        _seen.pop(next(iter(_seen)), None)


def known(authorization: str) -> int | None:
    """A number for the caller who sends this header, None unless `verified` said so LATELY."""
    caller = hash(authorization)
    return caller if clock.monotonic() - _seen.get(caller, -LATELY) < LATELY else None
