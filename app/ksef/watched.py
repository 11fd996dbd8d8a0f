"""HTTP to KSeF whose outcomes are counted, so that it is noticed when KSeF is down."""

from typing import Any, Protocol

from app import errors
from app.ksef.failures import Answer, Retry
from app.ksef.http import Http, Route


class Outage(Protocol):
    """What all replicas know about the KSeF of one environment."""

    def check(self) -> None:
        """Called before a call: raises KsefFailure if it is not worth sending, since KSeF is known
        to be down or its firewall blocks us."""

    def answered(self) -> None:
        """Called after KSeF answered a call, even with a refusal."""

    def failed(self, error: errors.KsefFailure) -> None:
        """Called after a call failed in another way."""


class Watched:
    """An Http that asks `outage` before each call, and tells it the outcome.

    It raises what happened: whether KSeF is down is decided where our answer is written. `retry` is
    for callers, who know whether a call may be sent once more.
    """

    def __init__(self, http: Http, outage: Outage, retry: Retry) -> None:
        self._http = http
        self._outage = outage
        self.retry = retry

    def check(self) -> None:
        """Raises KsefFailure where a call is not worth sending."""
        self._outage.check()

    def send(self, route: Route, *values: str, **request: Any) -> Answer:
        """As Http; raises what the outage's `check` raises too."""
        self._outage.check()
        try:
            answer = self._http.send(route, *values, **request)
        except errors.KsefFailure as error:
            if error.health is errors.KsefHealth.ANSWERING:
                self._outage.answered()
            else:
                self._outage.failed(error)
            raise
        self._outage.answered()
        return answer

    def download(self, url: str) -> Answer | None:
        """As Http. The outcome is not counted, since it tells nothing about the API."""
        self._outage.check()
        return self._http.download(url)
