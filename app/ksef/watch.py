"""Calls to KSeF under watch: somebody is told what each of them says of KSeF as a whole."""

from typing import Any, Protocol

from app import errors
from app.ksef.transport import Answer, Transport


class Watch(Protocol):
    """What all replicas know together of the KSeF of one environment."""

    def check(self) -> None:
        """Before a call: raises KsefOutage while KSeF is known to be down, KsefError while its
        firewall blocks us."""

    def answered(self) -> None:
        """A call was answered by KSeF, also where the answer was a refusal."""

    def failed(self, error: errors.KsefFailure) -> None:
        """A call failed: raises KsefOutage where an outage is established, else returns."""


class WatchedTransport(Transport):
    """A Transport whose calls are allowed, and reported, one by one.

    Download links are only allowed: that they fail says nothing of the API.
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
