"""Prometheus metrics that each worker counts for itself.

The workers of one gunicorn write to files in a shared folder (made by `app/gunicorn.py`), so that
each of them can report the sums. Figures that all replicas have in common come from the database
instead (`app.services.operators.figures`). No label names a company, an invoice or a user.
"""

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from time import perf_counter

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from app import clock, errors

PREFIX = "ksef_proxy"
_TRIES = 5
_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH"})
OF_THIS_PROCESS = CollectorRegistry()
_Counter = partial(Counter, namespace=PREFIX, registry=OF_THIS_PROCESS)
_Histogram = partial(Histogram, namespace=PREFIX, registry=OF_THIS_PROCESS)
_Gauge = partial(  # of all live workers together
    Gauge, namespace=PREFIX, registry=OF_THIS_PROCESS, multiprocess_mode="livesum"
)
disable_created_metrics()

http_requests = _Histogram(
    "http_request_duration_seconds",
    "Requests answered: their number and duration, by route template; source says whether a"
    " kept answer was given (store), KSeF was asked (fresh), or could not be just then (earlier)",
    ("method", "route", "status", "source"),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0),
)
http_requests_in_progress = _Gauge(
    "http_requests_in_progress",
    "Requests being worked on: threads that are busy",
)
http_threads = _Gauge(
    "http_threads",
    "Threads that can work on requests, of all live workers",
)
http_waits = _Histogram(
    "http_wait_seconds",
    "What requests waited for a thread before they were worked on",
    buckets=(0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0),
)
refused = _Counter(
    "refused_requests_total",
    "Requests refused for want of threads, by reason: they had waited for one too long (waited),"
    " or too many threads were with KSeF (ksef; an earlier answer may have been given instead)",
    ("reason",),
)
ksef_calls = _Histogram(
    "ksef_call_duration_seconds",
    "Calls sent to KSeF: their number and duration, by the quota group that they cost, and outcome",
    ("environment", "group", "outcome"),
    buckets=(0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
)
linked_rows = _Counter(
    "linked_rows_total",
    "Rows of the ERP that learned their KSeF session",
    ("environment", "table"),
)
vetoed_rows = _Counter(
    "vetoed_rows_total",
    "Rows of the ERP that a rule in the database keeps from being linked",
    ("environment", "table"),
)
upo_signatures = _Counter(
    "upo_signatures_total",
    "UPOs whose signature was judged, by the verdict",
    ("environment", "verdict"),
)
lease_wait_seconds = _Counter(
    "lease_wait_seconds_total",
    "Seconds that requests spent waiting for another one that asks KSeF the same (question), or"
    " that logs the same company in (login); its rate is the number of threads that wait",
    ("what",),
)
pool_waits = _Histogram(
    "database_pool_wait_seconds",
    "Waits for a database connection; only those that did not get one at once",
    ("outcome",),
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1.0),
)
pool_size = _Gauge(
    "database_pool_size_connections",
    "Database connections that may be open, of all live workers",
)


def request_answered(
    method: str, route: str | None, status: int, source: str, seconds: float
) -> None:
    """Count an answered request; `route` is the template, None where no route matched.

    `source`: see `telemetry.answered_from`. `seconds`: how long it took, without the wait for a
    thread.
    """
    # Callers may send any method; each would be a time series of its own.
    known = method if method in _METHODS else "other"
    http_requests.labels(known, route or "none", status, source).observe(seconds)


def pool_opened(size: int) -> None:
    """Report a pool of so many connections, and its waits as 0 from the start.

    Prometheus cannot see the first event of a series that begins with it.
    """
    pool_size.set(size)
    for outcome in ("connected", "refused"):
        pool_waits.labels(outcome)


def signatures_counted(environments: Iterable[str]) -> None:
    """Report all verdicts of these environments as 0 from the start (see `pool_opened`)."""
    for environment in environments:
        for verdict in ("valid", "unknown_signer", "unverifiable", "unsigned", "broken"):
            upo_signatures.labels(environment, verdict)


@contextmanager
def ksef_call(environment: str, group: str) -> Iterator[None]:
    """Measure the call to KSeF in the block; `group` is the quota that it costs."""
    began = perf_counter()
    outcome = "failed"
    try:
        yield
        outcome = "ok"
    except errors.KsefFailure as error:
        outcome = _outcome(error)
        raise
    finally:
        ksef_calls.labels(environment, group, outcome).observe(perf_counter() - began)


def downloaded(environment: str, successful: bool, seconds: float) -> None:
    """Count a UPO download by link, which costs no quota."""
    outcome = "ok" if successful else "failed"
    ksef_calls.labels(environment, "download", outcome).observe(seconds)


def _outcome(error: errors.KsefFailure) -> str:
    if isinstance(error, errors.KsefRateLimited):
        return "rate_limited"
    if isinstance(error, errors.KsefUnreachable):
        return "unreachable"
    if error.health is errors.KsefHealth.BLOCKED:
        return "blocked"
    return "refused" if error.health is errors.KsefHealth.ANSWERING else "failed"


def exposition(shared: Collector) -> bytes:
    """The metrics in Prometheus' text format: this gunicorn's own, and those of `shared`."""
    registry = CollectorRegistry()
    registry.register(shared)
    try:
        MultiProcessCollector(registry)
    except ValueError:  # no shared folder: this process is the only one
        registry.register(OF_THIS_PROCESS)
    for _ in range(_TRIES):
        with suppress(struct.error):  # a worker that starts has not filled its file yet
            return generate_latest(registry)
        clock.sleep(0.02)
    return generate_latest(registry)
