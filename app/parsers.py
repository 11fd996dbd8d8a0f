"""The texts of environment variables as values; a ValueError says what is wrong, never the text."""

import base64
import ipaddress
import re
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import psycopg2
import psycopg2.extensions

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
LANGUAGES = ("en", "pl")
MOST_DAYS = 36_500  # a hundred years: far beyond it, dates cannot be reckoned

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_ENCODED = ": a password in it is percent-encoded (@ is %40, / is %2F, % is %25)"
_MAKE_ONE = "openssl rand -base64 32 makes one"

LEAST_DIFFERENT = 12  # bytes of a key; a random one has about thirty, and never fewer than this


def database_url(text: str) -> str:
    hint = _ENCODED if "@" in text else ""
    try:
        psycopg2.extensions.parse_dsn(text)
    except psycopg2.ProgrammingError:
        raise ValueError(f"is not a postgresql:// URL{hint}") from None
    # To libpq the host ends at the first /, and begins behind the first @, not behind the last.
    if re.match(r"postgres(ql)?://[^?@/]*[@/][^?]*@", text):
        raise ValueError(f"is not a postgresql:// URL{hint}")
    return text


def secret_keys(text: str) -> tuple[bytes, ...]:
    keys = []
    for part in text.split(","):
        try:
            key = base64.b64decode(part.strip(), validate=True)
        except ValueError:  # binascii.Error is one; for other letters than ASCII it is another
            raise ValueError(f"holds a key that is not Base64: {_MAKE_ONE}") from None
        if len(key) != 32:
            raise ValueError(f"holds a key that is not 32 bytes long: {_MAKE_ONE}")
        if len(set(key)) < LEAST_DIFFERENT:
            raise ValueError(f"holds a key that is not random: {_MAKE_ONE}")
        keys.append(key)
    return tuple(keys)


def http_url(text: str) -> str:
    """The URL of a host or folder: paths are added to it, so it has neither ? nor #."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        (parts.hostname or "").encode("idna")  # as it is looked up: no empty part in it
    except ValueError:  # not passed on: its text repeats the value, which may hold a password
        usable = False
    if not usable or re.search(r"[\s?#]", text):
        raise ValueError(f"is not an http(s) URL{_ENCODED if '@' in text else ''}")
    return text.rstrip("/")


def url_of(environment: str) -> Callable[[str], str]:
    """The parser of a URL of KSeF or Latarnia: that of prod must be https."""

    def parse(text: str) -> str:
        url = http_url(text)
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


def ca_bundle(text: str) -> str:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(text)
    except OSError:  # ssl.SSLError is one
        raise ValueError("is not a readable file of certificates (PEM)") from None
    return text


def networks(text: str) -> tuple[Network, ...]:
    """Comma-separated addresses and networks; `*`, for any peer, gives an empty tuple."""
    if text == "*":
        return ()
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(","))
    except ValueError:  # not passed on: its text repeats the value
        raise ValueError("is not a list of addresses and networks") from None


def timezone(text: str) -> ZoneInfo:
    try:
        return ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise ValueError("is not a known time zone") from None


def host(text: str) -> str:
    """A name, or an address; one of IPv6 also in the brackets that it wears before a port."""
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not re.fullmatch(r"[A-Za-z0-9._-]+", text):
        try:
            ipaddress.IPv6Address(inner)
        except ValueError:  # its text would repeat the value
            raise ValueError("is neither an address nor a name") from None
    return inner


def port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ValueError("is not a port: 1 to 65535")
    return int(text)


def days(text: str) -> int:
    days = positive(text)
    if days > MOST_DAYS:
        raise ValueError(f"is more than {MOST_DAYS} days")
    return days


def positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError("is not a positive whole number")
    return int(text)


def share(text: str) -> float:
    share = float(text) if text.replace(".", "", 1).isdigit() and text.isascii() else 0.0
    if not 0 < share <= 1:
        raise ValueError("is not a share: above 0, at most 1")
    return share


def language(text: str) -> str:
    if text.lower() not in LANGUAGES:
        raise ValueError(f"is not one of {', '.join(LANGUAGES)}")
    return text.lower()


def switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("is neither 0 nor 1")
    return text == "1"


def log_level(text: str) -> str:
    if text.upper() not in LOG_LEVELS:
        raise ValueError(f"is not one of {', '.join(LOG_LEVELS)}")
    return text.upper()
