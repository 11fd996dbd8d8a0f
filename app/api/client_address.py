"""The IP address of the caller, also behind a proxy that ends TLS.

gunicorn gives the address of the connection. X-Forwarded-For can be sent by anybody, so it is
believed only as far as our own proxies (FORWARDED_ALLOW_IPS) have written it.
"""

import ipaddress
import re
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_WITH_PORT = re.compile(r"([\d.]+):\d+|\[([^]]+)\](?::\d+)?", re.ASCII)


def client_address(peer: str, forwarded_for: str, proxies: Sequence[Network]) -> str:
    """The caller's address: going back from `peer` through the header, the first that is no proxy.

    `forwarded_for` is the header, "" for none. If `proxies` is empty, every peer is taken for a
    proxy, and there is only that one. A peer without an address (a unix socket) is a proxy. An
    entry that is not an address ends the search. An IPv6 address is cut to its /64 network, all of
    which belongs to one caller. "" if no address is known.
    """
    found = _parsed(peer)
    if found is not None and proxies and not _is_among(found, proxies):
        return _told(found)
    for entry in reversed(forwarded_for.split(",")):
        address = _parsed(entry)
        if address is None:
            break
        found = address
        if not _is_among(address, proxies):
            break
    return _told(found) if found else ""


def _parsed(text: str) -> Address | None:
    """The address in an entry; some proxies add the port, and put IPv6 in brackets."""
    text = text.strip()
    if with_port := _WITH_PORT.fullmatch(text):
        text = with_port[1] or with_port[2]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _is_among(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _told(address: Address) -> str:
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.IPv6Network((address.packed, 64), strict=False))
