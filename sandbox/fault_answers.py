"""What the faults do to a call."""

from __future__ import annotations

import gzip
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

import orjson
from flask import Response, g, request
from lxml import etree

from sandbox import identifiers, problems, upo
from sandbox.faults import Fault
from sandbox.world import World

_HTML: Final = "text/html; charset=utf-8"
UNAVAILABLE_PAGE: Final = (
    "<html><head><title>503 Service Temporarily Unavailable</title></head><body>"
    "<center><h1>503 Service Temporarily Unavailable</h1></center></body></html>"
)
_MAINTENANCE_PAGE: Final = (
    "<!DOCTYPE html><html><head><title>Przerwa techniczna</title></head><body>"
    "<h1>Przerwa techniczna</h1></body></html>"
)
_BLOCKED_PAGE: Final = (
    '<html><head><meta name="robots" content="noindex,nofollow"></head><body>'
    "Request unsuccessful. Incident ID: 1294000870032155789-423761812365</body></html>"
)


class ConnectionEndedError(ConnectionError):
    """The connection was ended on purpose; the server writes nothing more to it."""


def instead(fault: Fault, world: World) -> Response:
    """The answer that the fault gives in place of the sandbox's own."""
    options = fault.options
    match fault.kind:
        case "status":
            return _free_answer(options)
        case "html-503":
            return Response(UNAVAILABLE_PAGE, 503, content_type=_HTML)
        case "html-200":
            return Response(_MAINTENANCE_PAGE, 200, content_type=_HTML)
        case "waf-html-200":
            return Response(_BLOCKED_PAGE, 200, content_type=_HTML)
        case "waf-403":
            return problems.json_response(
                {
                    "title": "Request blocked",
                    "status": 403,
                    "security": {"incidentId": "1294000870032155789-423761812365"},
                },
                403,
            )
        case "waf-html-403":
            return Response(_BLOCKED_PAGE, 403, content_type=_HTML)
        case "forbidden":
            reason = options.get("reasonCode", "missing-permissions")
            return problems.Forbidden(reason, options.get("security")).response()
        case "unauthorized":
            return problems.Unauthorized().response()
        case "ksef-error":
            return problems.BadRequest(int(options["code"]), *options.get("details", [])).response()
        case "rate-limited":
            retry_after = options.get("retryAfter")
            return problems.TooManyRequests(
                "Przekroczono limit żądań.", None if retry_after is None else str(retry_after)
            ).response()
        case "invalid-json":
            return Response('{"status": {"code": 200, "descr', 200, mimetype="application/json")
        case "gzip-bomb":
            packed = gzip.compress(bytes(int(options.get("bytes", 64 * 2**20))), 9)
            return Response(
                packed,
                200,
                {"Content-Encoding": "gzip"},
                content_type=options.get("contentType", "application/xml"),
            )
        case "oversize":
            return Response(
                b" " * int(options.get("bytes", 33 * 2**20)),
                200,
                content_type=options.get("contentType", "application/xml"),
            )
        case "hang":
            world.stopping.wait(float(options.get("seconds", 60)))
            raise ConnectionEndedError
        case "reset":
            _reset()
    raise AssertionError(fault.kind)


def afterwards(fault: Fault, world: World, answer: Response) -> Response:
    """The sandbox's true answer, spoilt."""
    options = fault.options
    body = answer.get_data()
    match fault.kind:
        case "delay":
            world.stopping.wait(float(options.get("seconds", 1)))
        case "truncated":
            _send_raw(_raw_head(answer, len(body)) + body[: len(body) // 2])
        case "no-length":
            _send_raw(_raw_head(answer, None) + body[: len(body) // 2])
        case "cut-mid-body":
            _send_raw(_raw_head(answer, len(body)) + body[: len(body) // 2], reset=True)
        case "cut-chunk":
            chunk = f"{len(body):x}\r\n".encode() + body[: len(body) // 2]
            _send_raw(_raw_head(answer, None, "Transfer-Encoding: chunked") + chunk)
        case "drip":
            _drip(_raw_head(answer, len(body)), body, options, world)
        case "reset-after":
            _reset()
        case "set-header":
            if options.get("value") is None:
                answer.headers.pop(options["name"], None)
            else:
                answer.headers[options["name"]] = str(options["value"])
        case "wrong-hash":
            answer.headers["x-ms-meta-hash"] = identifiers.sha256_base64(body + b" ")
        case "no-hash":
            answer.headers.pop("x-ms-meta-hash", None)
        case "upo-other-nip":
            _change_upo(answer, world, "Nip", options.get("value", "5265877635"))
        case "upo-other-session":
            other = options.get("value", "20260101-SO-0000000000-0000000000-00")
            _change_upo(answer, world, "NumerReferencyjnySesji", other)
        case "upo-other-ksef-number":
            other = options.get("value", "5265877635-20250826-0100001AF629-AF")
            _change_upo(answer, world, "NumerKSeFDokumentu", other)
        case "upo-doctype":
            declaration, _, rest = body.partition(b"?>")
            doctype = options.get("doctype", '<!DOCTYPE Potwierdzenie [<!ENTITY e "x">]>')
            _replace_document(answer, declaration + b"?>\n" + doctype.encode() + rest)
        case "upo-pdf":
            answer.content_type = "application/pdf"
            _replace_document(
                answer, b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<<>>\n%%EOF"
            )
        case _:
            content = orjson.loads(body)
            _MUTATIONS[fault.kind](content, options)
            answer.set_data(orjson.dumps(content))
    return answer


def _free_answer(options: dict[str, Any]) -> Response:
    body = options.get("body", "")
    text = body if isinstance(body, str) else orjson.dumps(body).decode()
    kind = "text/html; charset=utf-8" if isinstance(body, str) else "application/json"
    answer = Response(text, int(options["status"]), content_type=kind)
    answer.headers.update({name: str(value) for name, value in options.get("headers", {}).items()})
    return answer


def _change_upo(answer: Response, world: World, element: str, text: str) -> None:
    def change(root: etree._Element) -> None:
        for found in root.iter(f"{{{upo.NAMESPACE}}}{element}"):
            found.text = text

    _replace_document(answer, upo.resign(answer.get_data(), world.signer, change))


def _replace_document(answer: Response, content: bytes) -> None:
    answer.set_data(content)
    answer.headers["x-ms-meta-hash"] = identifiers.sha256_base64(content)


def _set_field(content: Any, options: dict[str, Any]) -> None:
    owner, last = _walk(content, options["field"])
    if isinstance(owner, list):
        owner[int(last)] = options.get("value")
    else:
        owner[last] = options.get("value")


def _drop_field(content: Any, options: dict[str, Any]) -> None:
    owner, last = _walk(content, options["field"])
    if isinstance(owner, list):
        del owner[int(last)]
    else:
        owner.pop(last, None)


def _walk(content: Any, path: str) -> tuple[Any, str]:
    """The container that holds the last step of a path such as `invoices.0.status`."""
    *steps, last = path.split(".")
    for step in steps:
        content = content[int(step)] if isinstance(content, list) else content[step]
    return content, last


def _repeat_token(content: Any, _options: dict[str, Any]) -> None:
    content["continuationToken"] = request.headers.get("x-continuation-token") or g.page.this_token


def _empty_page(content: Any, _options: dict[str, Any]) -> None:
    for name in ("invoices", "sessions"):
        if name in content:
            content[name] = []
    content["continuationToken"] = g.page.this_token


def _duplicate_invoice(content: Any, _options: dict[str, Any]) -> None:
    # The first invoice of the next page; on the last page, the session's first one.
    content["invoices"].append(g.page.next_item or g.page.first_item)


def _shorter_list(content: Any, _options: dict[str, Any]) -> None:
    if content["invoices"]:
        content["invoices"].pop()


_MUTATIONS: Final[dict[str, Callable[[Any, dict[str, Any]], None]]] = {
    "set-field": _set_field,
    "drop-field": _drop_field,
    "repeat-continuation-token": _repeat_token,
    "empty-page-with-token": _empty_page,
    "duplicate-invoice": _duplicate_invoice,
    "shorter-list": _shorter_list,
}


def _connection() -> socket.socket:
    connection: socket.socket = request.environ["werkzeug.socket"]
    return connection


def _raw_head(answer: Response, length: int | None, extra: str | None = None) -> bytes:
    lines = [f"HTTP/1.1 {answer.status}", f"Content-Type: {answer.content_type}"]
    if "x-ms-meta-hash" in answer.headers:
        lines.append(f"x-ms-meta-hash: {answer.headers['x-ms-meta-hash']}")
    if length is not None:
        lines.append(f"Content-Length: {length}")
    if extra is not None:
        lines.append(extra)
    return ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode()


def _send_raw(content: bytes, *, reset: bool = False) -> NoReturn:
    _connection().sendall(content)
    if reset:
        # Without a pause the reset may overtake the bytes in the client's kernel.
        time.sleep(0.05)
        _reset()
    raise ConnectionEndedError


def _drip(head: bytes, body: bytes, options: dict[str, Any], world: World) -> NoReturn:
    slow_head = options.get("part", "body") == "header"
    connection = _connection()
    if not slow_head:
        connection.sendall(head)
    slow = head + body if slow_head else body
    for byte in slow:
        connection.sendall(bytes([byte]))
        if world.stopping.wait(float(options.get("secondsPerByte", 0.1))):
            break
    raise ConnectionEndedError


def _reset() -> NoReturn:
    # Linger of zero seconds makes closing a socket send RST; the server then skips the FIN.
    _connection().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise ConnectionEndedError
