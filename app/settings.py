"""The service's settings: environment variables in, one frozen object out."""

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any
from zoneinfo import ZoneInfo

from app import parsers
from app.parsers import LANGUAGES, LOG_LEVELS, Network
from app.signers import DEFAULT_SIGNERS, fingerprints

ENVIRONMENTS = ("test", "demo", "prod")
DEFAULT_KSEF_URLS = {
    "test": "https://api-test.ksef.mf.gov.pl/v2",
    "demo": "https://api-demo.ksef.mf.gov.pl/v2",
    "prod": "https://api.ksef.mf.gov.pl/v2",
}
DEFAULT_LATARNIA_URLS = {"prod": "https://api-latarnia.ksef.mf.gov.pl"}


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
class Variable:
    """An environment variable. `default` is its text; "" for none, or where it is `required`."""

    name: str
    parse: Callable[[str], Any]
    meaning: str
    default: str = ""
    required: bool = False

    @property
    def value(self) -> Any:
        """What stands for it where it is empty or unset."""
        return self.parse(self.default) if self.default else None


def _read_from(
    name: str,
    parse: Callable[[str], Any],
    meaning: str,
    default: str = "",
    *,
    required: bool = False,
    secret: bool = False,
) -> Any:
    """A field with the value of this variable; not shown in a repr if it is `secret`."""
    variable = Variable(name, parse, meaning, default, required)
    return field(
        default=MISSING if required else variable.value,
        repr=not secret,
        metadata={"variable": variable},
    )


def _of_each_environment(*variables: Variable, **default: Any) -> Any:
    """A field with the values of these variables by environment, without those that are None."""
    return field(metadata=dict(zip(ENVIRONMENTS, variables, strict=True)), **default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, in the order in which they are read and told.

    docs/operators.md explains each one under the name of its environment variable.
    """

    ksef_urls: Mapping[str, str] = _of_each_environment(
        *(
            Variable(
                f"KSEF_URL_{name.upper()}",
                parsers.url_of(name),
                f"The base URL of KSeF's API for {name}, including /v2"
                + ("; https only" if name == "prod" else ""),
                default,
            )
            for name, default in DEFAULT_KSEF_URLS.items()
        )
    )
    latarnia_urls: Mapping[str, str] = _of_each_environment(
        *(
            Variable(
                f"LATARNIA_URL_{name.upper()}",
                parsers.url_of(name),
                f"Where to ask Latarnia whether the KSeF of {name} is down; "
                + ("https only" if name in DEFAULT_LATARNIA_URLS else "unset: it is not asked"),
                DEFAULT_LATARNIA_URLS.get(name, ""),
            )
            for name in ENVIRONMENTS
        ),
        default_factory=dict,
    )
    database_url: str = _read_from(
        "DATABASE_URL",
        parsers.database_url,
        "PostgreSQL, as a postgresql:// URL of the service's own role, ksef_proxy",
        required=True,
        secret=True,
    )
    secret_keys: tuple[bytes, ...] = _read_from(
        "SECRET_KEYS",
        parsers.secret_keys,
        "The keys that encrypt stored KSeF secrets, comma-separated, newest first; one is made by:"
        " openssl rand -base64 32",
        required=True,
        secret=True,
    )
    """32 bytes each, newest first."""
    ksef_proxy_url: str | None = _read_from(
        "KSEF_PROXY_URL",
        parsers.http_url,
        "Outgoing HTTP proxy, http:// or https://, with user:password@ if it needs a login;"
        " HTTPS_PROXY is ignored",
        secret=True,
    )
    ksef_ca_bundle: str | None = _read_from(
        "KSEF_CA_BUNDLE",
        parsers.ca_bundle,
        "File with the CAs (PEM) to trust in place of certifi's, for KSeF and the proxy",
    )
    quota_share: float = _read_from(
        "KSEF_QUOTA_SHARE",
        parsers.share,
        "Our share of KSeF's quota: the ERP's own sender uses the same quota",
        "0.9",
    )
    forwarded_allow_ips: tuple[Network, ...] = _read_from(
        "FORWARDED_ALLOW_IPS",
        parsers.networks,
        "Addresses and networks of the proxies in front of the service, whose X-Forwarded-For is"
        " believed; * for every peer",
        "127.0.0.1,::1",
    )
    """Empty: every peer is a trusted proxy."""
    response_timezone: ZoneInfo = _read_from(  # noqa: RUF009 - which gives a field
        "RESPONSE_TIMEZONE", parsers.timezone, "Time zone of the API's answers", "Europe/Warsaw"
    )
    host: str = _read_from("HOST", parsers.host, "The address to listen on", "127.0.0.1")
    """An IPv6 address without brackets."""
    port: int = _read_from("PORT", parsers.port, "The port to listen on", "8080")
    web_concurrency: int = _read_from("WEB_CONCURRENCY", parsers.positive, "Worker processes", "2")
    web_threads: int = _read_from(
        "WEB_THREADS",
        parsers.positive,
        "Threads, and database connections, of each worker process",
        "8",
    )
    metrics_public: bool = _read_from(
        "METRICS_PUBLIC", parsers.switch, "1: /metrics needs no password", "0"
    )
    log_level: str = _read_from(
        "LOG_LEVEL", parsers.log_level, "What is logged: " + ", ".join(LOG_LEVELS), "INFO"
    )
    upo_signers: Mapping[str, tuple[str, ...]] = _of_each_environment(
        *(
            Variable(
                f"UPO_SIGNERS_{name.upper()}",
                fingerprints,
                f"SHA-256 of the certificates with which the Ministry signs UPOs of {name}",
                ",".join(known),
            )
            for name, known in DEFAULT_SIGNERS.items()
        ),
        default_factory=lambda: DEFAULT_SIGNERS,
    )
    message_language: str = _read_from(
        "MESSAGE_LANGUAGE",
        parsers.language,
        f"The language of `detail` in every 409 and 502: {' or '.join(LANGUAGES)}",
        "en",
    )
    document_retention_days: int | None = _read_from(
        "DOCUMENT_RETENTION_DAYS",
        parsers.days,
        "The age in days after which `purge` deletes stored answers and archived UPOs; unset: they"
        " are kept",
    )
    timing: Timing = field(default_factory=Timing)


def from_environment(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read all settings; raise one SettingsError that names every missing or bad one."""
    problems = []

    def read(variable: Variable) -> Any:
        text = environ.get(variable.name, "").strip()
        try:
            if text:
                return variable.parse(text)
            if variable.required:
                problems.append(f"{variable.name} is missing")
        except ValueError as error:
            problems.append(f"{variable.name} {error}")
        return variable.value

    values = {}
    for one in fields(Settings):
        if variable := one.metadata.get("variable"):
            values[one.name] = read(variable)
        elif one.metadata:
            found = {name: read(variable) for name, variable in one.metadata.items()}
            values[one.name] = {name: value for name, value in found.items() if value is not None}
    if not problems:
        return Settings(**values)
    told = f"Settings: {'; '.join(problems)}."
    # If nothing is set of what is required, the file was most likely not named.
    if not any(environ.get(one.name, "").strip() for one in variables() if one.required):
        told += f" {_WHERE}"
    raise SettingsError(told)


def variables() -> list[Variable]:
    """All of them, those that are required first."""
    found = [variable for one in fields(Settings) for variable in one.metadata.values()]
    return sorted(found, key=lambda variable: not variable.required)


def misspelt() -> tuple[str, str] | None:
    """A name that is none of ours but nearly one that is not set, and that one; if there is any."""
    environ = os.environ
    ours = [variable.name for variable in variables()]
    unset = [name for name in ours if not environ.get(name, "").strip()]
    for name in environ.keys() - ours:
        if near := difflib.get_close_matches(name.upper(), unset, 1, 0.82):
            return name, near[0]
    return None
