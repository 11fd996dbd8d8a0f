"""From where a caller comes, also behind a proxy that ends TLS.

gunicorn gives the address of the connection, whatever X-Forwarded-For says, and anybody can send
that header: it counts only as far as proxies of ours (FORWARDED_ALLOW_IPS) wrote it.
"""

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def client_address(peer: str, forwarded_for: str, proxies: Sequence[Network]) -> str:
    """The address of the caller: the last one that is not a proxy's.

    `forwarded_for` is the header, "" for none; empty `proxies`: whoever connects is a proxy,
    and there is one of them. What is no address ends the walk. A peer without an address (a unix
    socket) is a proxy. Of an IPv6 address only the network (/64) is told: a caller has all of it.
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
    try:
        address = ipaddress.ip_address(text.strip())
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
