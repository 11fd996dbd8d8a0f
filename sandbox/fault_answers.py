"""What the faults do to a call: a function for each kind."""

import gzip
import re
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

import msgspec
from flask import Response, g, request

from sandbox import faults, identifiers, problems, upo
from sandbox.documents import seal
from sandbox.faults import Fault
from sandbox.forgeries import FORGERIES
from sandbox.signing import sign, unsigned_root
from sandbox.world import world

Options = dict[str, Any]

_HTML: Final = "text/html; charset=utf-8"
_UNAVAILABLE_PAGE: Final = (
    "<html><head><title>503 Service Temporarily Unavailable</title></head><body>"
    "<center><h1>503 Service Temporarily Unavailable</h1></center></body></html>"
)
_MAINTENANCE_PAGE: Final = (
    "<!DOCTYPE html><html><head><title>Przerwa techniczna</title></head><body>"
    "<h1>Przerwa techniczna</h1></body></html>"
)
_INCIDENT: Final = "1294000870032155789-423761812365"
_BLOCKED_PAGE: Final = (
    '<html><head><meta name="robots" content="noindex,nofollow"></head><body>'
    f"Request unsuccessful. Incident ID: {_INCIDENT}</body></html>"
)
_BLOCKED_JSON: Final = {
    "title": "Request blocked",
    "status": 403,
    "security": {"incidentId": _INCIDENT},
}
_OTHER_SESSION: Final = "20260101-SO-0000000000-0000000000-00"
_OTHER_KSEF_NUMBER: Final = "5265877635-20250826-0100001AF629-AF"
_PDF: Final = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<<>>\n%%EOF"


class ConnectionEndedError(ConnectionError):
    """The connection was ended on purpose; the server writes nothing more to it."""


def check(fault: Fault) -> None:
    """ValueError unless the fault is of a known kind, has right options and a right `path`."""
    msgspec.convert(fault.fault, faults.Options)
    if fault.kind not in INSTEAD | AFTERWARDS:
        known = ", ".join(sorted(INSTEAD | AFTERWARDS))
        raise ValueError(f"unknown fault {fault.kind!r}; known: {known}")
    needed = _NEEDED.get(fault.kind)
    if needed is not None and needed not in fault.fault:
        raise ValueError(f"fault {fault.kind} needs {needed}")
    if fault.kind not in _OF_JSON:
        msgspec.convert({"value": fault.fault.get("value")}, dict[str, faults.Line | float | None])
    try:
        re.compile(fault.path or "")
    except re.error as error:
        raise ValueError(f"path: is not a regular expression: {error}") from None


def instead(fault: Fault) -> Response:
    """The answer that the fault gives in place of the sandbox's own."""
    return _INSTEAD[fault.kind](fault.fault)


def afterwards(fault: Fault, answer: Response) -> None:
    """Spoils the sandbox's true answer; a 500 that says so where it has not what that needs."""
    if fault.kind in _OF_JSON:
        try:
            content = msgspec.json.decode(answer.get_data())
            _OF_JSON[fault.kind](content, fault.fault)
        except (LookupError, TypeError, AttributeError, ValueError):
            where = f" {fault.fault['field']}" if "field" in fault.fault else ""
            answer.status_code, answer.mimetype = 500, "application/json"
            content = {"error": f"fault {fault.kind}{where}: the answer to this call has no such."}
        answer.set_data(msgspec.json.encode(content))
    else:
        _OF_ANSWER[fault.kind](answer, fault.fault)


def unavailable(_options: Options | None = None) -> Response:
    """The page of a server that is out of order, 503."""
    return Response(_UNAVAILABLE_PAGE, 503, content_type=_HTML)


def _status(options: Options) -> Response:
    body = options.get("body", "")
    if isinstance(body, str):
        answer = Response(body, int(options["status"]), content_type=_HTML)
    else:
        answer = problems.json_response(body, int(options["status"]), "application/json")
    answer.headers.update({name: str(value) for name, value in options.get("headers", {}).items()})
    return answer


def _forbidden(options: Options) -> Response:
    reason = options.get("reasonCode", "missing-permissions")
    return problems.Forbidden(reason, options.get("security")).response()


def _rate_limited(options: Options) -> Response:
    retry_after = options.get("retryAfter")
    return problems.TooManyRequests(
        "Przekroczono limit żądań.", None if retry_after is None else str(retry_after)
    ).response()


def _heavy(content: bytes, options: Options) -> Response:
    return Response(content, content_type=options.get("contentType", "application/xml"))


def _gzip_bomb(options: Options) -> Response:
    answer = _heavy(gzip.compress(bytes(int(options.get("bytes", 64 * 2**20))), 9), options)
    answer.headers["Content-Encoding"] = "gzip"
    return answer


def _hang(options: Options) -> NoReturn:
    world().stopping.wait(float(options.get("seconds", 60)))
    raise ConnectionEndedError


def _reset(*_ignored: object) -> NoReturn:
    # Linger of zero seconds makes closing a socket send RST; the server then skips the FIN.
    _connection().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise ConnectionEndedError


_INSTEAD: Final[dict[str, Callable[[Options], Response]]] = {
    "status": _status,
    "html-503": unavailable,
    "html-200": lambda _: Response(_MAINTENANCE_PAGE, content_type=_HTML),
    "waf-403": lambda _: problems.json_response(_BLOCKED_JSON, 403),
    "waf-html-403": lambda _: Response(_BLOCKED_PAGE, 403, content_type=_HTML),
    "waf-html-200": lambda _: Response(_BLOCKED_PAGE, content_type=_HTML),
    "forbidden": _forbidden,
    "unauthorized": lambda _: problems.Unauthorized().response(),
    "ksef-error": lambda options: problems.BadRequest(
        int(options["code"]), *options.get("details", [])
    ).response(),
    "rate-limited": _rate_limited,
    "invalid-json": lambda _: Response(
        '{"status": {"code": 200, "descr', mimetype="application/json"
    ),
    "gzip-bomb": _gzip_bomb,
    "oversize": lambda options: _heavy(b" " * int(options.get("bytes", 33 * 2**20)), options),
    "reset": _reset,
    "hang": _hang,
}


def _drip(answer: Response, options: Options) -> NoReturn:
    body = answer.get_data()
    head = _raw_head(answer, f"Content-Length: {len(body)}")
    if options.get("part", "body") == "header":
        head, body = b"", head + body
    _connection().sendall(head)
    for byte in body:
        _connection().sendall(bytes([byte]))
        if world().stopping.wait(float(options.get("secondsPerByte", 0.1))):
            break
    raise ConnectionEndedError


def _set_header(answer: Response, options: Options) -> None:
    answer.headers.pop(options["name"], None)
    if options.get("value") is not None:
        answer.headers[options["name"]] = str(options["value"])


def _upo_other(element: str, default: str) -> Callable[[Response, Options], None]:
    """A fault that writes something else into an element of the UPO, and signs it again."""

    def spoil(answer: Response, options: Options) -> None:
        root = unsigned_root(answer.get_data())
        for found in root.iter(f"{{{upo.NAMESPACE}}}{element}"):
            found.text = str(options.get("value", default))
        _replace_document(answer, sign(root, seal()))

    return spoil


def _upo_forged(name: str) -> Callable[[Response, Options], None]:
    """A fault that gives the UPO another signature: see `sandbox.forgeries`."""

    def spoil(answer: Response, _options: Options) -> None:
        signers = g.environment.signers
        _replace_document(answer, FORGERIES[name](answer.get_data(), seal(), signers))

    return spoil


def _upo_doctype(answer: Response, options: Options) -> None:
    declaration, _, rest = answer.get_data().partition(b"?>")
    doctype = options.get("doctype", '<!DOCTYPE Potwierdzenie [<!ENTITY e "x">]>')
    _replace_document(answer, declaration + b"?>\n" + doctype.encode() + rest)


def _upo_pdf(answer: Response, _options: Options) -> None:
    answer.content_type = "application/pdf"
    _replace_document(answer, _PDF)


_OF_ANSWER: Final[dict[str, Callable[[Response, Options], object]]] = {
    "delay": lambda _, options: world().stopping.wait(float(options.get("seconds", 1))),
    "drip": _drip,
    "truncated": lambda answer, _: _send_half(answer, with_length=True),
    "no-length": lambda answer, _: _send_half(answer),
    "cut-mid-body": lambda answer, _: _send_half(answer, with_length=True, reset=True),
    "cut-chunk": lambda answer, _: _send_half(answer, chunked=True),
    "reset-after": _reset,
    "set-header": _set_header,
    "wrong-hash": lambda answer, _: answer.headers.set(
        "x-ms-meta-hash", identifiers.sha256_base64(answer.get_data() + b" ")
    ),
    "no-hash": lambda answer, _: answer.headers.remove("x-ms-meta-hash"),
    "upo-other-nip": _upo_other("Nip", "5265877635"),
    "upo-other-session": _upo_other("NumerReferencyjnySesji", _OTHER_SESSION),
    "upo-other-ksef-number": _upo_other("NumerKSeFDokumentu", _OTHER_KSEF_NUMBER),
    "upo-doctype": _upo_doctype,
    "upo-pdf": _upo_pdf,
    **{f"upo-{name}": _upo_forged(name) for name in FORGERIES},
}


def _replace_document(answer: Response, content: bytes) -> None:
    answer.set_data(content)
    answer.headers["x-ms-meta-hash"] = identifiers.sha256_base64(content)


def _connection() -> socket.socket:
    connection: socket.socket = request.environ["werkzeug.socket"]
    return connection


def _raw_head(answer: Response, *more: str) -> bytes:
    lines = [f"HTTP/1.1 {answer.status}", f"Content-Type: {answer.content_type}", *more]
    if "x-ms-meta-hash" in answer.headers:
        lines.append(f"x-ms-meta-hash: {answer.headers['x-ms-meta-hash']}")
    return ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode()


def _send_half(
    answer: Response, *, with_length: bool = False, chunked: bool = False, reset: bool = False
) -> NoReturn:
    body = answer.get_data()
    half = body[: len(body) // 2]
    if chunked:
        content = _raw_head(answer, "Transfer-Encoding: chunked") + b"%x\r\n" % len(body) + half
    elif with_length:
        content = _raw_head(answer, f"Content-Length: {len(body)}") + half
    else:
        content = _raw_head(answer) + half
    _connection().sendall(content)
    if reset:
        # Without a pause the reset may overtake the bytes in the client's kernel.
        time.sleep(0.05)
        _reset()
    raise ConnectionEndedError


def _set_field(content: Any, options: Options) -> None:
    owner, last = _walk(content, options["field"])
    owner[last] = options.get("value")


def _drop_field(content: Any, options: Options) -> None:
    owner, last = _walk(content, options["field"])
    if isinstance(owner, list) or last in owner:
        del owner[last]


def _walk(content: Any, path: str) -> tuple[Any, Any]:
    """The container that holds the last step of a path such as `invoices.0.status`, and that."""
    *steps, last = path.split(".")
    for step in steps:
        content = content[int(step)] if isinstance(content, list) else content[step]
    return content, int(last) if isinstance(content, list) else last


def _repeat_token(content: Any, _options: Options) -> None:
    content["continuationToken"] = request.headers.get("x-continuation-token") or g.page.this_token


def _empty_page(content: Any, _options: Options) -> None:
    for name in content.keys() & {"invoices", "sessions"}:
        content[name] = []
    content["continuationToken"] = g.page.this_token


_OF_JSON: Final[dict[str, Callable[[Any, Options], object]]] = {
    "set-field": _set_field,
    "drop-field": _drop_field,
    "repeat-continuation-token": _repeat_token,
    "empty-page-with-token": _empty_page,
    # The first invoice of the next page; on the last page, the session's first one.
    "duplicate-invoice": lambda content, _: content["invoices"].append(
        g.page.next_item or g.page.first_item
    ),
    "shorter-list": lambda content, _: content.update(invoices=content["invoices"][:-1]),
}

INSTEAD: Final = frozenset(_INSTEAD)
"""Faults that answer (or end the connection) before the sandbox has handled the call."""
AFTERWARDS: Final = frozenset(_OF_ANSWER) | frozenset(_OF_JSON)
"""Faults that spoil, delay or cut the true answer; the call itself has been carried out."""
_NEEDED: Final = {
    "status": "status",
    "ksef-error": "code",
    "set-header": "name",
    "set-field": "field",
    "drop-field": "field",
}
