"""HTTP to KSeF within its quota: every call is counted before it is sent."""

from typing import Any, Protocol

from app import clock, errors, telemetry
from app.ksef.failures import DEFAULT_RETRY_AFTER, Answer
from app.ksef.http import Route
from app.ksef.watched import Watched


class Quota(Protocol):
    """KSeF's quota, for the calls of one request."""

    def require(self, group: str) -> None:
        """KsefRateLimited where a call of the group could not go soon; reserves nothing."""

    def reserve(self, group: str, units: int) -> None:
        """Set quota aside for so many calls; KsefRateLimited where that would take long."""

    def wait_for_turn(self, group: str) -> None:
        """Take a reserved call, or reserve one, and return at its moment."""

    def block(self, group: str, seconds: int) -> None:
        """Send nothing more of the group for so many seconds."""

    def give_back(self) -> None:
        """Give back what was reserved and not sent."""


class Metered:
    """A Watched whose calls wait for their turn in the quota; a 429 stops their group."""

    def __init__(self, http: Watched, quota: Quota) -> None:
        self._http = http
        self._quota = quota

    def send(self, route: Route, *values: str, **request: Any) -> Answer:
        """As Watched; KsefRateLimited too where there is not enough quota."""
        self._http.check()  # a KSeF that is down costs no quota
        self._quota.wait_for_turn(route.quota_group)
        try:
            return self._http.send(route, *values, **request)
        except errors.KsefRateLimited as error:
            self._quota.block(route.quota_group, error.retry_after or DEFAULT_RETRY_AFTER)
            raise

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
        pause = self._http.retry.pause_after(failure)
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
        """As Watched; KSeF does not count it."""
        return self._http.download(url)
