"""Which site's page a request comes from: a browser adds HTTP Basic to what other sites cause, too.

Browsers send Sec-Fetch-Site with https and to this machine itself, and Origin with every request
that may change something. Programs send neither.
"""

from flask import Request

_SAFE = ("GET", "HEAD", "OPTIONS")


def is_of_another_site(request: Request) -> bool:
    """Whether the browser states that another site's page, or one of another port, caused it."""
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        return True
    return request.method not in _SAFE and "Origin" in request.headers and not _is_ours(request)


def is_of_our_own(request: Request) -> bool:
    """Whether the browser states that one of our own pages caused it."""
    if is_of_another_site(request):
        return False
    site = request.headers.get("Sec-Fetch-Site")
    return _is_ours(request) if site is None else site == "same-origin"


def _is_ours(request: Request) -> bool:
    """Whether Origin names the host and port that were asked; its scheme a proxy may have ended."""
    _, _, host = request.headers.get("Origin", "").lower().partition("://")
    return host != "" and host == request.host.lower()
