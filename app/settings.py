"""The service's settings: environment variables in, one frozen object out."""

import base64
import binascii
import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import psycopg2
import psycopg2.extensions

T = TypeVar("T")

ENVIRONMENTS = ("test", "demo", "prod")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LOOPBACK: tuple[Network, ...] = (
    ipaddress.IPv4Network("127.0.0.1"),
    ipaddress.IPv6Network("::1"),
)


class SettingsError(Exception):
    """Settings are missing or bad; the text names all of them, and never shows a value."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Every duration of the service, in seconds, so that tests and benchmarks can scale them."""

    request: float = 25.0  # a whole request, from when it came, KSeF included
    queue: float = 5.0  # so long it waits for a thread; then it is refused
    ksef_connect: float = 3.0
    ksef_call: float = 8.0  # one call, from the first byte sent to the last received
    ksef_download: float = 5.0  # a UPO by its download link
    ksef_listing: float = 15.0  # all pages of a session's invoices
    retry_left: float = 5.0  # a call is repeated only where so much of the request is left
    retry_least: float = 0.1  # the pause before it
    retry_most: float = 0.4
    login: float = 20.0  # from the challenge to the redeemed tokens
    login_poll: float = 0.2  # between two looks at a login in progress; doubles up to 1 s
    refresh_ahead: float = 60.0  # an access token this close to its end is renewed first
    refresh_due: float = 10.0  # … and this close it is waited for: until then the old one does
    refresh_pause: float = 5.0  # between renewals that fail ahead of time
    silent_login: float = 60.0  # between logins that nobody asked for
    refused_pause: float = 60.0  # a credential that KSeF refused is not tried again so soon
    lease_refresh: float = 12.0  # a renewal whose worker died is taken over after this …
    lease: float = 30.0  # … and a login, or another question
    certificate_warning: float = 30 * 86400.0  # so long before its end each login warns of it
    lease_poll: float = 0.1
    quota_patience: float = 2.0  # so long a caller waits for quota; longer waits are answered
    quota_jitter: float = 0.25  # calls set aside a window apart may arrive closer by so much
    quota_scale: float = 1.0  # of KSeF's windows
    place_wait: float = 1.0  # for other threads to come back from KSeF
    single_flight_wait: float = 10.0  # for somebody else's answer to the same question
    fresh_least: float = 2.0  # an answer of a moving session is kept at least so long
    fresh_most: float = 30.0
    relist: float = 60.0  # between two lists of a session in which many invoices move
    refusal_least: float = 5.0  # "not found" is kept so long; doubles with each time
    refusal_most: float = 60.0
    refusal_lasting: float = 86400.0  # … and what will never come, so long
    database_connect: float = 3.0
    pool_wait: float = 1.0
    lock_timeout: float = 1.5  # more than the second after which PostgreSQL looks for a deadlock
    statement_timeout: float = 3.0
    failed_logins: float = 900.0  # ten failures in so long, and a user's address is put off
    password_cache: float = 60.0
    password_wait: float = 5.0  # for a turn at hashing
    outage_after: float = 10.0  # calls have failed for so long before the breaker may open
    outage_probe: float = 5.0  # the call that confirms an outage, or finds its end
    outage_probe_every: float = 30.0
    outage_pause: float = 60.0  # after KSeF's firewall blocked a call
    answer_noted: float = 30.0  # while nothing is wrong, answers are written down so rarely
    available_for: float = 600.0  # KSeF is told to be available so long after its last answer
    latarnia: float = 2.0  # what asking Latarnia may add to an answer
    latarnia_every: float = 60.0
    latarnia_kept: float = 600.0
    retry_after: int = 5  # what a caller is told where nothing better is known


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings; see README for each name. `secret_keys` are 32 bytes each, newest first."""

    database_url: str = field(repr=False)
    secret_keys: tuple[bytes, ...] = field(repr=False)
    ksef_urls: Mapping[str, str]
    ksef_proxy_url: str | None = field(default=None, repr=False)
    ksef_ca_bundle: str | None = None
    quota_share: float = 0.9
    forwarded_allow_ips: tuple[Network, ...] = LOOPBACK  # empty: whoever connects is a proxy
    response_timezone: ZoneInfo = field(default_factory=lambda: ZoneInfo("Europe/Warsaw"))
    host: str = "127.0.0.1"  # an IPv6 address without brackets
    port: int = 8080
    web_concurrency: int = 2
    web_threads: int = 8
    log_level: str = "INFO"
    metrics_public: bool = False
    latarnia_urls: Mapping[str, str] = field(default_factory=dict)
    message_language: str = "en"
    document_retention_days: int | None = None  # None: for ever
    timing: Timing = field(default_factory=Timing)


DEFAULT_KSEF_URLS = {
    "test": "https://api-test.ksef.mf.gov.pl/v2",
    "demo": "https://api-demo.ksef.mf.gov.pl/v2",
    "prod": "https://api.ksef.mf.gov.pl/v2",
}


DEFAULT_LATARNIA_URLS = {"prod": "https://api-latarnia.ksef.mf.gov.pl"}
LANGUAGES = ("en", "pl")
_LAST_PORT = 65535


class _Reader:
    """Reads variables one by one and remembers what was wrong with each."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def read(self, name: str, parse: Callable[[str], T], default: T | None = None) -> T | None:
        text = self._environ.get(name, "").strip()
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            self.problems.append(f"{name} {error}")
            return default

    def require(self, name: str, parse: Callable[[str], T], placeholder: T) -> T:
        if not self._environ.get(name, "").strip():
            self.problems.append(f"{name} is missing")
            return placeholder
        value = self.read(name, parse)
        return placeholder if value is None else value


def from_environment(environ: Mapping[str, str] | None = None) -> Settings:
    """Read all settings; raise one SettingsError that names every missing or bad one."""
    reader = _Reader(os.environ if environ is None else environ)
    urls = {
        name: reader.read(f"KSEF_URL_{name.upper()}", _url_parser(name), default) or default
        for name, default in DEFAULT_KSEF_URLS.items()
    }
    latarnia_urls = {
        name: url
        for name in ENVIRONMENTS
        if (
            url := reader.read(
                f"LATARNIA_URL_{name.upper()}", _http_url, DEFAULT_LATARNIA_URLS.get(name)
            )
        )
    }
    proxies = reader.read("FORWARDED_ALLOW_IPS", _networks)
    settings = Settings(
        database_url=reader.require("DATABASE_URL", _database_url, ""),
        secret_keys=reader.require("SECRET_KEYS", _secret_keys, ()),
        ksef_urls=urls,
        ksef_proxy_url=reader.read("KSEF_PROXY_URL", _http_url),
        ksef_ca_bundle=reader.read("KSEF_CA_BUNDLE", _existing_file),
        quota_share=reader.read("KSEF_QUOTA_SHARE", _share) or 0.9,
        forwarded_allow_ips=LOOPBACK if proxies is None else proxies,
        response_timezone=reader.read("RESPONSE_TIMEZONE", _timezone) or ZoneInfo("Europe/Warsaw"),
        host=reader.read("HOST", _host) or "127.0.0.1",
        port=reader.read("PORT", _port) or 8080,
        web_concurrency=reader.read("WEB_CONCURRENCY", _positive) or 2,
        web_threads=reader.read("WEB_THREADS", _positive) or 8,
        metrics_public=reader.read("METRICS_PUBLIC", _switch) or False,
        log_level=reader.read("LOG_LEVEL", _log_level) or "INFO",
        latarnia_urls=latarnia_urls,
        message_language=reader.read("MESSAGE_LANGUAGE", _language) or "en",
        document_retention_days=reader.read("DOCUMENT_RETENTION_DAYS", _positive),
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
        keys.append(key)
    return tuple(keys)


def _http_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # its text would repeat the value
        usable = False
    if not usable:
        raise ValueError("is not an http(s) URL")
    return text.rstrip("/")


def _url_parser(environment: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        url = _http_url(text)
        if environment == "prod" and urlsplit(url).scheme != "https" and not _is_loopback(url):
            raise ValueError("must be https")
        return url

    return parse


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _existing_file(text: str) -> str:
    try:
        with open(text, "rb"):  # noqa: PTH123 - only whether it can be read
            return text
    except OSError:
        raise ValueError("is not a readable file") from None


def _networks(text: str) -> tuple[Network, ...]:
    """As gunicorn reads the same variable: addresses and networks, or `*` for any."""
    if text == "*":
        return ()
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(","))
    except ValueError:  # its text would repeat the value
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
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= _LAST_PORT:
        raise ValueError(f"is not a port: 1 to {_LAST_PORT}")
    return int(text)


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
