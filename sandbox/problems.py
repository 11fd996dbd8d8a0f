"""KSeF's two error formats.

With `X-Error-Format: problem-details` a 400 or 429 is `application/problem+json`; without it the
older shapes come. 401, 403 and 410 are `application/problem+json` always.
"""

from __future__ import annotations

import secrets
from typing import Any

import orjson
from flask import Response, request

from sandbox.clock import stamp
from sandbox.world import world

DESCRIPTIONS = {
    9101: "Nieprawidłowy dokument.",
    9102: "Brak podpisu.",
    9103: "Przekroczona liczba dozwolonych podpisów.",
    9105: "Nieprawidłowy podpis.",
    21001: "Nieczytelna treść.",
    21111: "Nieprawidłowe wyzwanie autoryzacyjne.",
    21115: "Nieprawidłowy certyfikat.",
    21117: "Nieprawidłowy identyfikator podmiotu dla wskazanego typu kontekstu.",
    21155: "Przekroczono dozwoloną liczbę faktur w sesji.",
    21157: "Nieprawidłowy rozmiar części pakietu.",
    21161: "Przekroczono dozwoloną liczbę części pakietu.",
    21173: "Brak sesji o wskazanym numerze referencyjnym.",
    21178: "Nie znaleziono UPO dla podanych kryteriów.",
    21180: "Status sesji nie pozwala na wykonanie operacji.",
    21205: "Pakiet nie może być pusty.",
    21208: "Czas oczekiwania na requesty upload lub finish został przekroczony.",
    21217: "Nieprawidłowe kodowanie znaków.",
    21301: "Brak autoryzacji.",
    21304: "Brak uwierzytelnienia.",
    21308: "Próba wykorzystania metod autoryzacyjnych osoby zmarłej.",
    21401: "Dokument nie jest zgodny ze schemą (xsd).",
    21402: "Nieprawidłowy rozmiar pliku.",
    21403: "Nieprawidłowy skrót pliku.",
    21405: "Błąd walidacji danych wejściowych.",
    21418: "Przekazany token kontynuacji ma nieprawidłowy format.",
    21470: "Przesłany identyfikator klucza jest nieznany lub wskazuje na wycofany klucz.",
}

REASONS = {
    "missing-permissions": "Brak wymaganych uprawnień do wykonania operacji w bieżącym kontekście.",
    "ip-not-allowed": "Żądanie pochodzi z adresu IP innego niż wskazany podczas uwierzytelnienia.",
    "insufficient-resource-access": "Brak dostępu do wskazanego zasobu.",
    "auth-method-not-allowed": "Operacja nie jest dostępna dla użytej metody uwierzytelnienia.",
    "security-service-blocked": "Żądanie zostało zablokowane przez mechanizmy bezpieczeństwa.",
    "context-type-not-allowed": "Operacja nie jest dostępna dla tego typu kontekstu.",
}


class KsefProblem(Exception):
    """An error that KSeF answers instead of a result; `response()` draws it."""

    def response(self) -> Response:
        """The HTTP answer to the present request."""
        raise NotImplementedError


class BadRequest(KsefProblem):
    """HTTP 400 with one of KSeF's codes (21173, 21405, …)."""

    def __init__(self, code: int, *details: str) -> None:
        super().__init__(code, *details)
        self.code = code
        self.details = list(details)

    def response(self) -> Response:
        description = DESCRIPTIONS.get(self.code, "Błąd.")
        if _wants_problem_details():
            error: dict[str, Any] = {"code": self.code, "description": description}
            if self.details:
                error["details"] = self.details
            return _problem(
                400, "Bad Request", detail="Żądanie jest nieprawidłowe.", errors=[error]
            )
        trace = secrets.token_hex(16)
        return json_response(
            {
                "exception": {
                    "exceptionDetailList": [
                        {
                            "exceptionCode": self.code,
                            "exceptionDescription": description,
                            "details": self.details,
                        }
                    ],
                    "serviceCode": f"00-{trace}-{secrets.token_hex(8)}-00",
                    "serviceCtx": "sandbox",
                    "serviceName": "Undefined",
                    "timestamp": stamp(world().clock.now()),
                }
            },
            400,
        )


class TooManyRequests(KsefProblem):
    """HTTP 429; `retry_after` is written as given (None leaves the header out)."""

    def __init__(self, detail: str, retry_after: str | None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after

    def response(self) -> Response:
        if _wants_problem_details():
            answer = _problem(429, "Too Many Requests", detail=self.detail)
        else:
            status = {"code": 429, "description": "Too Many Requests", "details": [self.detail]}
            answer = json_response({"status": status}, 429)
        if self.retry_after is not None:
            answer.headers["Retry-After"] = self.retry_after
        return answer


class Unauthorized(KsefProblem):
    """HTTP 401: no bearer, an expired one, or one of the wrong kind."""

    def response(self) -> Response:
        answer = _problem(401, "Unauthorized", detail="Wymagane jest uwierzytelnienie.")
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer


class Forbidden(KsefProblem):
    """HTTP 403 with KSeF's `reasonCode`."""

    def __init__(self, reason_code: str, security: dict[str, Any] | None = None) -> None:
        super().__init__(reason_code)
        self.reason_code = reason_code
        self.security = security

    def response(self) -> Response:
        return _problem(
            403,
            "Forbidden",
            detail=REASONS.get(self.reason_code, "Odmowa dostępu."),
            reasonCode=self.reason_code,
            security=self.security,
        )


class Gone(KsefProblem):
    """HTTP 410: the login operation is older than seven days."""

    def response(self) -> Response:
        return _problem(410, "Gone", detail="Operacja nie jest już dostępna.")


def json_response(
    content: Any, status: int = 200, content_type: str = "application/json; charset=utf-8"
) -> Response:
    """`content` as a JSON answer."""
    return Response(orjson.dumps(content), status, content_type=content_type)


def _wants_problem_details() -> bool:
    return request.headers.get("X-Error-Format", "").strip().lower() == "problem-details"


def _problem(status: int, title: str, **members: Any) -> Response:
    body = {
        "title": title,
        "status": status,
        "instance": request.path,
        **members,
        "timestamp": stamp(world().clock.now()),
        "traceId": secrets.token_hex(16),
    }
    return json_response(body, status, "application/problem+json")
