"""HTTP to KSeF within its quota, and with its outages in view: every call is counted in both."""

from typing import Any, Protocol

from app import clock, errors, telemetry
from app.ksef.failures import DEFAULT_RETRY_AFTER, Answer, Retry
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


class Quota(Protocol):
    """KSeF's quota, for the calls of one request."""

    def reserve(self, group: str, units: int) -> None:
        """Set quota aside for so many calls; KsefRateLimited where that would take long."""

    def wait_for_turn(self, group: str) -> None:
        """Take a reserved call, or reserve one, and return at its moment."""

    def block(self, group: str, seconds: int) -> None:
        """Send nothing more of the group for so many seconds."""

    def give_back(self) -> None:
        """Give back what was reserved and not sent."""


class Metered:
    """An Http whose calls wait for their turn in the quota, and whose outcomes `outage` is told.

    It raises what happened: whether KSeF is down is decided where our answer is written.
    """

    def __init__(self, http: Http, outage: Outage, quota: Quota, retry: Retry) -> None:
        self._http = http
        self._outage = outage
        self._quota = quota
        self._retry = retry

    def send(self, route: Route, *values: str, **request: Any) -> Answer:
        """As Http; raises what the outage's `check` raises too, and KsefRateLimited where there is
        not enough quota. A 429 stops the calls of its group."""
        self._outage.check()  # a KSeF that is down costs no quota
        self._quota.wait_for_turn(route.quota_group)
        self._outage.check()
        try:
            answer = self._http.send(route, *values, **request)
        except errors.KsefFailure as error:
            if error.health is errors.KsefHealth.ANSWERING:
                self._outage.answered()
            else:
                self._outage.failed(error)
            if isinstance(error, errors.KsefRateLimited):
                self._quota.block(route.quota_group, error.retry_after or DEFAULT_RETRY_AFTER)
            raise
        self._outage.answered()
        return answer

    def send_twice(self, route: Route, *values: str, **request: Any) -> Answer:
        """As `send`, and once more where that may help: for calls that may be sent twice."""
        try:
            return self.send(route, *values, **request)
        except errors.KsefFailure as failure:
            if not self.repeats(route, failure):
                raise
        return self.send(route, *values, **request)

    def repeats(self, route: Route, failure: errors.KsefFailure) -> bool:
        """Whether a failed call is worth sending once more; the pause before it is over then."""
        pause = self._retry.pause_after(failure)
        if pause is None:
            return False
        try:
            self._quota.reserve(route.quota_group, 1)
        except errors.KsefRateLimited:
            return False
        telemetry.info("KSeF is asked once more", code=failure.code)
        clock.sleep(pause)
        return True

    def download(self, url: str) -> Answer | None:
        """As Http, while KSeF is not down; it is in no quota, and tells nothing about the API."""
        self._outage.check()
        return self._http.download(url)
