"""Long work that an operator watches: how far it is, and how much of it failed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app import errors

Progress = Callable[[int, int | None], None]
"""Called with how many are done and, if known, how many there are in all."""


@dataclass(slots=True)
class Summary:
    """How many there were, how many succeeded and failed, and why the last one failed."""

    seen: int = 0
    done: int = 0
    failed: int = 0
    reason: str | None = None

    @contextmanager
    def one(self, name: str) -> Iterator[None]:
        """Do one of them in the block: if it fails, it is counted and the work goes on."""
        self.seen += 1
        try:
            yield
        except errors.ProxyError as error:
            self.failed += 1
            self.reason = f"{name}: {error.in_full}"
        else:
            self.done += 1
