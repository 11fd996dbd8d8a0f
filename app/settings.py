"""The service's settings: environment variables in, one frozen object out."""

import difflib
import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from zoneinfo import ZoneInfo

from app import parsers
from app.clock import WARSAW
from app.parsers import LANGUAGES, LOG_LEVELS, Network
from app.signers import DEFAULT_SIGNERS, fingerprints

T = TypeVar("T")

ENVIRONMENTS = ("test", "demo", "prod")
DEFAULT_KSEF_URLS = {
    "test": "https://api-test.ksef.mf.gov.pl/v2",
    "demo": "https://api-demo.ksef.mf.gov.pl/v2",
    "prod": "https://api.ksef.mf.gov.pl/v2",
}
DEFAULT_LATARNIA_URLS = {"prod": "https://api-latarnia.ksef.mf.gov.pl"}

LOOPBACK: tuple[Network, ...] = (ipaddress.IPv4Network("127.0.0.1"), ipaddress.IPv6Network("::1"))


_WHERE = "Name the file of settings with --env-file; `ksef-proxy settings --example` prints one."


class SettingsError(Exception):
    """Settings are missing or invalid; the text names all of them, and never shows a value."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Every duration of the service, in seconds, so that tests and benchmarks can scale them."""

    # Requests.
    request: float = 25.0  # the whole request, from its arrival, calls to KSeF included
    queue: float = 5.0  # a request that has waited longer than this for a thread is refused
    retry_after: int = 5  # the Retry-After of an error, where nothing better is known
    # Calls to KSeF.
    ksef_connect: float = 3.0
    ksef_call: float = 8.0  # one call, from the first byte sent to the last byte received
    ksef_download: float = 5.0  # fetching a UPO by its download link
    ksef_listing: float = 15.0  # fetching all pages of a session's invoices
    retry_left: float = 5.0  # a call is repeated only if the request has more time left than this
    retry_least: float = 0.1  # the pause before a repeated call: a random time between these two
    retry_most: float = 0.4
    place_wait: float = 1.0  # wait for one of the threads that may be busy with KSeF
    single_flight_wait: float = 10.0  # wait for another request that asks KSeF the same question
    # Logging in, and keeping the company logged in.
    login: float = 20.0  # a whole login, from the challenge to the redeemed tokens
    login_poll: float = 0.2  # between polls of a login in progress; doubles, up to 1 s
    refresh_ahead: float = 60.0  # an access token with less time left is renewed by one caller …
    refresh_due: float = 10.0  # … and with less than this, all callers wait for the new one
    refresh_pause: float = 5.0  # after a failed early renewal, before the next attempt
    silent_login: float = 60.0  # between two logins that replace an expired session
    refused_pause: float = 60.0  # a credential that KSeF refused is not tried again for so long
    lease_refresh: float = 12.0  # another worker may take over a token renewal after this …
    lease: float = 30.0  # … and any other leased work (a login, a question) after this
    lease_poll: float = 0.1  # between checks whether the lease's holder has finished
    certificate_warning: float = 30 * 86400.0  # logins warn when the certificate ends within this
    # KSeF's quota.
    quota_patience: float = 2.0  # longest wait for quota; a longer one is answered with an error
    quota_jitter: float = 0.25  # added to each window, since network delays vary
    quota_scale: float = 1.0  # a factor, not seconds: shrinks KSeF's windows in tests
    # Kept answers.
    fresh_least: float = 2.0  # shortest and longest freshness of an answer that is not final
    fresh_most: float = 30.0
    relist: float = 60.0  # between two lists of a session, for each of their pages
    unfit_most: float = 3600.0  # longest pause between lists of a final session that never fit
    look_every: float = 60.0  # a caller that has the answer of a big session is spared the look
    # for unlinked rows for so long after the last one
    completed_within: float = 30 * 86400.0  # what version 0.1.0 kept of sessions begun within this
    # is completed from a new list of their invoices …
    completed_pause: float = 60.0  # … which is tried again after this at the earliest
    wanted: float = 300.0  # bulk refresh leaves out sessions that no caller asked for this long
    arrival: float = 600.0  # after this, what was sent is in KSeF's list of sessions
    refusal_least: float = 5.0  # how long "not found" is kept; doubles each time, up to the most
    refusal_most: float = 60.0
    refusal_lasting: float = 86400.0  # how long "not found, and it never will be" is kept
    # Following the sessions of each company.
    follow_poll: float = 3.0  # between two looks for what is due
    follow_turn: float = 30.0  # a company's turn, if there is more to do
    follow_lease: float = 60.0  # another process may take a company over after this
    follow_before: float = 86400.0  # a company is followed from so long before its first turn
    follow_slice: float = 21600.0  # longest period of one list of sessions
    follow_overlap: float = 120.0  # what happened so shortly before a list counts as not in it …
    follow_again: float = 3600.0  # … and what happened so long before the last one is listed again
    follow_least: float = 60.0  # between two lists while something moves, at least …
    follow_most: float = 300.0  # … and while nothing does; also the longest other pause
    follow_moving: float = 20.0  # shortest pause between two looks at a session that moves
    follow_failing: float = 3600.0  # longest pause of a session that cannot be read
    follow_stuck: float = 3600.0  # a session that moves for less than this is not stuck
    # The database.
    database_connect: float = 3.0
    pool_wait: float = 1.0  # wait for a free connection
    lock_timeout: float = 1.5  # longer than PostgreSQL's deadlock_timeout of one second
    statement_timeout: float = 3.0
    # Migrations: so short a wait that requests queued behind one still get their own locks in time,
    # but longer than the second after which PostgreSQL ends an autovacuum that is in the way.
    migration_lock: float = 1.2
    migration_pause: float = 2.0  # before the next attempt
    migration_tries: int = 30
    # Passwords.
    failed_logins: float = 900.0  # the window in which failed logins are counted (`throttle`)
    known_login: float = 30 * 86400.0  # how long a user is known at an address after a login there
    password_cache: float = 60.0  # how long a verified password is remembered
    password_wait: float = 5.0  # wait for a turn at hashing
    # Outages.
    outage_after: float = 10.0  # the breaker opens only after calls have failed for this long
    outage_probe: float = 5.0  # the call that confirms an outage, or finds that it is over
    outage_probe_every: float = 30.0
    outage_pause: float = 60.0  # no calls for this long after KSeF's firewall blocked one
    answer_noted: float = 30.0  # while all is well, a successful call is recorded this rarely
    available_for: float = 600.0  # KSeF counts as available for this long after its last answer
    latarnia: float = 2.0  # longest time that asking Latarnia may add to a request
    latarnia_every: float = 60.0
    latarnia_kept: float = 600.0  # Latarnia's last answer is evidence for this long


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings; docs/operators.md explains each one under the name of its environment variable.

    `secret_keys` are 32 bytes each, newest first; `quota_share` is above 0 and at most 1.
    """

    database_url: str = field(repr=False)
    secret_keys: tuple[bytes, ...] = field(repr=False)
    ksef_urls: Mapping[str, str]
    ksef_proxy_url: str | None = field(default=None, repr=False)
    ksef_ca_bundle: str | None = None
    quota_share: float = 0.9
    forwarded_allow_ips: tuple[Network, ...] = LOOPBACK  # empty: every peer is a trusted proxy
    response_timezone: ZoneInfo = WARSAW
    host: str = "127.0.0.1"  # an IPv6 address without brackets
    port: int = 8080
    web_concurrency: int = 2
    web_threads: int = 8
    log_level: str = "INFO"
    metrics_public: bool = False
    latarnia_urls: Mapping[str, str] = field(default_factory=dict)
    upo_signers: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: DEFAULT_SIGNERS)
    message_language: str = "en"
    document_retention_days: int | None = None  # None: documents are kept for ever
    timing: Timing = field(default_factory=Timing)


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable. `default` is its text; "" for none, or where it is `required`."""

    name: str
    default: str
    meaning: str
    required: bool = False


class _Reader:
    """Reads variables one by one, and collects them and what is wrong with them in `problems`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.variables: list[Variable] = []
        self.problems: list[str] = []

    @property
    def has_nothing(self) -> bool:
        """Whether nothing was set of what is required: most likely the file was not named."""
        return not any(
            self._environ.get(one.name, "").strip() for one in self.variables if one.required
        )

    def read(self, name: str, parse: Callable[[str], T], default: str, meaning: str) -> T:
        """The parsed variable; the default where it is empty, unset or invalid."""
        value = self._parsed(Variable(name, default, meaning), parse)
        return parse(default) if value is None else value

    def optional(self, name: str, parse: Callable[[str], T], meaning: str) -> T | None:
        """The parsed variable; None where it is empty, unset or invalid."""
        return self._parsed(Variable(name, "", meaning), parse)

    def require(self, name: str, parse: Callable[[str], T], placeholder: T, meaning: str) -> T:
        """The parsed variable; the placeholder where it is missing or invalid."""
        value = self._parsed(Variable(name, "", meaning, required=True), parse)
        return placeholder if value is None else value

    def _parsed(self, variable: Variable, parse: Callable[[str], T]) -> T | None:
        self.variables.append(variable)
        text = self._environ.get(variable.name, "").strip()
        try:
            if text:
                return parse(text)
            if variable.required:
                self.problems.append(f"{variable.name} is missing")
        except ValueError as error:
            self.problems.append(f"{variable.name} {error}")
        return None


def from_environment(environ: Mapping[str, str] | None = None) -> Settings:
    """Read all settings; raise one SettingsError that names every missing or bad one."""
    reader = _Reader(os.environ if environ is None else environ)
    settings = _read(reader)
    if reader.problems:
        told = "Settings: " + "; ".join(reader.problems) + "."
        if reader.has_nothing:
            told += f" {_WHERE}"
        raise SettingsError(told)
    return settings


def variables() -> list[Variable]:
    """All of them, those that are required first."""
    reader = _Reader({})
    _read(reader)
    return sorted(reader.variables, key=lambda variable: not variable.required)


def misspelt() -> tuple[str, str] | None:
    """A name that is none of ours but nearly one that is not set, and that one; if there is any."""
    environ = os.environ
    ours = [variable.name for variable in variables()]
    unset = [name for name in ours if not environ.get(name, "").strip()]
    for name in environ.keys() - ours:
        if near := difflib.get_close_matches(name.upper(), unset, 1, 0.82):
            return name, near[0]
    return None


def _read(reader: _Reader) -> Settings:
    ksef_urls = {
        name: reader.read(
            f"KSEF_URL_{name.upper()}",
            parsers.url_of(name),
            default,
            f"The base URL of KSeF's API for {name}, including /v2"
            + ("; https only" if name == "prod" else ""),
        )
        for name, default in DEFAULT_KSEF_URLS.items()
    }
    latarnia_urls = {}
    for name in ENVIRONMENTS:
        variable, parse = f"LATARNIA_URL_{name.upper()}", parsers.url_of(name)
        meaning = f"Where to ask Latarnia whether the KSeF of {name} is down"
        if default := DEFAULT_LATARNIA_URLS.get(name):
            latarnia_urls[name] = reader.read(variable, parse, default, f"{meaning}; https only")
        elif url := reader.optional(variable, parse, f"{meaning}; unset: it is not asked"):
            latarnia_urls[name] = url
    return Settings(
        database_url=reader.require(
            "DATABASE_URL",
            parsers.database_url,
            "",
            "PostgreSQL, as a postgresql:// URL of the service's own role, ksef_proxy",
        ),
        secret_keys=reader.require(
            "SECRET_KEYS",
            parsers.secret_keys,
            (),
            "The keys that encrypt stored KSeF secrets, comma-separated, newest first; one is made"
            " by: openssl rand -base64 32",
        ),
        ksef_urls=ksef_urls,
        ksef_proxy_url=reader.optional(
            "KSEF_PROXY_URL",
            parsers.http_url,
            "Outgoing HTTP proxy, http:// or https://, with user:password@ if it needs a login;"
            " HTTPS_PROXY is ignored",
        ),
        ksef_ca_bundle=reader.optional(
            "KSEF_CA_BUNDLE",
            parsers.ca_bundle,
            "File with the CAs (PEM) to trust in place of certifi's, for KSeF and the proxy",
        ),
        quota_share=reader.read(
            "KSEF_QUOTA_SHARE",
            parsers.share,
            "0.9",
            "Our share of KSeF's quota: the ERP's own sender uses the same quota",
        ),
        forwarded_allow_ips=reader.read(
            "FORWARDED_ALLOW_IPS",
            parsers.networks,
            "127.0.0.1,::1",
            "Addresses and networks of the proxies in front of the service, whose X-Forwarded-For"
            " is believed; * for every peer",
        ),
        response_timezone=reader.read(
            "RESPONSE_TIMEZONE", parsers.timezone, WARSAW.key, "Time zone of the API's answers"
        ),
        host=reader.read("HOST", parsers.host, "127.0.0.1", "The address to listen on"),
        port=reader.read("PORT", parsers.port, "8080", "The port to listen on"),
        web_concurrency=reader.read("WEB_CONCURRENCY", parsers.positive, "2", "Worker processes"),
        web_threads=reader.read(
            "WEB_THREADS",
            parsers.positive,
            "8",
            "Threads, and database connections, of each worker process",
        ),
        metrics_public=reader.read(
            "METRICS_PUBLIC", parsers.switch, "0", "1: /metrics needs no password"
        ),
        log_level=reader.read(
            "LOG_LEVEL", parsers.log_level, "INFO", "What is logged: " + ", ".join(LOG_LEVELS)
        ),
        latarnia_urls=latarnia_urls,
        upo_signers={
            name: reader.read(
                f"UPO_SIGNERS_{name.upper()}",
                fingerprints,
                ",".join(known),
                f"SHA-256 of the certificates with which the Ministry signs UPOs of {name}",
            )
            for name, known in DEFAULT_SIGNERS.items()
        },
        message_language=reader.read(
            "MESSAGE_LANGUAGE",
            parsers.language,
            "en",
            f"The language of `detail` in every 409 and 502: {' or '.join(LANGUAGES)}",
        ),
        document_retention_days=reader.optional(
            "DOCUMENT_RETENTION_DAYS",
            parsers.days,
            "The age in days after which `purge` deletes stored answers and archived UPOs; unset:"
            " they are kept",
        ),
    )
