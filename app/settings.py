"""The service's settings: environment variables in, one frozen object out."""

import base64
import binascii
import ipaddress
import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import psycopg2
import psycopg2.extensions

from app.clock import WARSAW
from app.signers import DEFAULT_SIGNERS, fingerprints

T = TypeVar("T")
D = TypeVar("D")

ENVIRONMENTS = ("test", "demo", "prod")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
LANGUAGES = ("en", "pl")
MOST_DAYS = 36_500  # a hundred years: far beyond it, dates cannot be reckoned
DEFAULT_KSEF_URLS = {
    "test": "https://api-test.ksef.mf.gov.pl/v2",
    "demo": "https://api-demo.ksef.mf.gov.pl/v2",
    "prod": "https://api.ksef.mf.gov.pl/v2",
}
DEFAULT_LATARNIA_URLS = {"prod": "https://api-latarnia.ksef.mf.gov.pl"}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LOOPBACK: tuple[Network, ...] = (ipaddress.IPv4Network("127.0.0.1"), ipaddress.IPv6Network("::1"))


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


_LEAST_DIFFERENT = 12  # bytes of a key; a random one has about thirty, and never fewer than this


class _Reader:
    """Reads variables one by one and collects what is wrong with them in `problems`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def read(self, name: str, parse: Callable[[str], T], default: D) -> T | D:
        """The parsed variable; the default where it is empty, unset or invalid."""
        text = self._environ.get(name, "").strip()
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            self.problems.append(f"{name} {error}")
            return default

    def require(self, name: str, parse: Callable[[str], T], placeholder: T) -> T:
        """The parsed variable; the placeholder where it is missing or invalid."""
        if not self._environ.get(name, "").strip():
            self.problems.append(f"{name} is missing")
            return placeholder
        return self.read(name, parse, placeholder)


def from_environment(environ: Mapping[str, str] | None = None) -> Settings:
    """Read all settings; raise one SettingsError that names every missing or bad one."""
    reader = _Reader(os.environ if environ is None else environ)
    urls = {
        name: reader.read(f"KSEF_URL_{name.upper()}", _url_parser(name), default)
        for name, default in DEFAULT_KSEF_URLS.items()
    }
    latarnia_urls = {
        name: url
        for name in ENVIRONMENTS
        if (
            url := reader.read(
                f"LATARNIA_URL_{name.upper()}", _url_parser(name), DEFAULT_LATARNIA_URLS.get(name)
            )
        )
    }
    settings = Settings(
        database_url=reader.require("DATABASE_URL", _database_url, ""),
        secret_keys=reader.require("SECRET_KEYS", _secret_keys, ()),
        ksef_urls=urls,
        ksef_proxy_url=reader.read("KSEF_PROXY_URL", _http_url, None),
        ksef_ca_bundle=reader.read("KSEF_CA_BUNDLE", _ca_bundle, None),
        quota_share=reader.read("KSEF_QUOTA_SHARE", _share, 0.9),
        forwarded_allow_ips=reader.read("FORWARDED_ALLOW_IPS", _networks, LOOPBACK),
        response_timezone=reader.read("RESPONSE_TIMEZONE", _timezone, WARSAW),
        host=reader.read("HOST", _host, "127.0.0.1"),
        port=reader.read("PORT", _port, 8080),
        web_concurrency=reader.read("WEB_CONCURRENCY", _positive, 2),
        web_threads=reader.read("WEB_THREADS", _positive, 8),
        metrics_public=reader.read("METRICS_PUBLIC", _switch, False),
        log_level=reader.read("LOG_LEVEL", _log_level, "INFO"),
        latarnia_urls=latarnia_urls,
        upo_signers={
            name: reader.read(f"UPO_SIGNERS_{name.upper()}", fingerprints, default)
            for name, default in DEFAULT_SIGNERS.items()
        },
        message_language=reader.read("MESSAGE_LANGUAGE", _language, "en"),
        document_retention_days=reader.read("DOCUMENT_RETENTION_DAYS", _days, None),
    )
    if reader.problems:
        raise SettingsError("Settings: " + "; ".join(reader.problems) + ".")
    return settings


def _database_url(text: str) -> str:
    try:
        psycopg2.extensions.parse_dsn(text)
    except psycopg2.ProgrammingError:
        raise ValueError("is not a postgresql:// URL") from None
    return text


def _secret_keys(text: str) -> tuple[bytes, ...]:
    keys = []
    for part in text.split(","):
        try:
            key = base64.b64decode(part.strip(), validate=True)
        except binascii.Error:
            raise ValueError("holds a key that is not Base64") from None
        if len(key) != 32:
            raise ValueError("holds a key that is not 32 bytes long")
        if len(set(key)) < _LEAST_DIFFERENT:
            raise ValueError("holds a key that is not random: openssl rand -base64 32 makes one")
        keys.append(key)
    return tuple(keys)


def _http_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # not passed on: its text repeats the value, which may hold a password
        usable = False
    if not usable:
        raise ValueError("is not an http(s) URL")
    return text.rstrip("/")


def _url_parser(environment: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        url = _http_url(text)
        if environment == "prod" and urlsplit(url).scheme != "https" and not is_loopback(url):
            raise ValueError("must be https")
        return url

    return parse


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _ca_bundle(text: str) -> str:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(text)
    except OSError:  # ssl.SSLError is one
        raise ValueError("is not a readable file of certificates (PEM)") from None
    return text


def _networks(text: str) -> tuple[Network, ...]:
    """Comma-separated addresses and networks; `*`, for any peer, gives an empty tuple."""
    if text == "*":
        return ()
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(","))
    except ValueError:  # not passed on: its text repeats the value
        raise ValueError("is not a list of addresses and networks") from None


def _timezone(text: str) -> ZoneInfo:
    try:
        return ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise ValueError("is not a known time zone") from None


def _host(text: str) -> str:
    """A name, or an address; one of IPv6 also in the brackets that it wears before a port."""
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not re.fullmatch(r"[A-Za-z0-9._-]+", text):
        try:
            ipaddress.IPv6Address(inner)
        except ValueError:  # its text would repeat the value
            raise ValueError("is neither an address nor a name") from None
    return inner


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ValueError("is not a port: 1 to 65535")
    return int(text)


def _days(text: str) -> int:
    days = _positive(text)
    if days > MOST_DAYS:
        raise ValueError(f"is more than {MOST_DAYS} days")
    return days


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError("is not a positive whole number")
    return int(text)


def _share(text: str) -> float:
    share = float(text) if text.replace(".", "", 1).isdigit() and text.isascii() else 0.0
    if not 0 < share <= 1:
        raise ValueError("is not a share: above 0, at most 1")
    return share


def _language(text: str) -> str:
    if text.lower() not in LANGUAGES:
        raise ValueError(f"is not one of {', '.join(LANGUAGES)}")
    return text.lower()


def _switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("is neither 0 nor 1")
    return text == "1"


def _log_level(text: str) -> str:
    if text.upper() not in LOG_LEVELS:
        raise ValueError(f"is not one of {', '.join(LOG_LEVELS)}")
    return text.upper()
