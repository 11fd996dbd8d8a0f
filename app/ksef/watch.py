"""A transport that reports each call to a `Watch`, which decides whether KSeF is down."""

from typing import Any, Protocol

from app import errors
from app.ksef.transport import Answer, Transport


class Watch(Protocol):
    """What all replicas know about the KSeF of one environment (see `services.breaker`)."""

    def check(self) -> None:
        """Called before a call: raises KsefOutage while KSeF is known to be down, and KsefError
        while its firewall blocks us."""

    def answered(self) -> None:
        """Called after KSeF answered a call, even with a refusal."""

    def failed(self, error: errors.KsefFailure) -> None:
        """Called after a call failed: raises KsefOutage if an outage is established by now."""


class WatchedTransport(Transport):
    """A Transport that asks its watch before each call, and reports the outcome to it.

    Outcomes of downloads are not reported, since they tell nothing about the API.
    """

    def __init__(self, *args: Any, watch: Watch, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._watch = watch

    def send(self, *args: Any, **kwargs: Any) -> Answer:
        """As Transport; raises KsefOutage too."""
        self._watch.check()
        try:
            answer = super().send(*args, **kwargs)
        except errors.KsefFailure as error:
            if error.health is errors.KsefHealth.ANSWERING:
                self._watch.answered()
            else:
                self._watch.failed(error)
            raise
        self._watch.answered()
        return answer

    def download(self, url: str, *, limit: int) -> Answer | None:
        """As Transport; raises KsefOutage too."""
        self._watch.check()
        return super().download(url, limit=limit)
