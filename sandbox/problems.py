"""KSeF's two error formats.

With `X-Error-Format: problem-details` a 400 or 429 is `application/problem+json`; without it the
older shapes come. 401, 403 and 410 are `application/problem+json` always.
"""

import secrets
from typing import Any

import msgspec
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
    21166: "Korekta techniczna niedostępna.",
    21167: "Status faktury nie pozwala na korektę techniczną.",
    21173: "Brak sesji o wskazanym numerze referencyjnym.",
    21178: "Nie znaleziono UPO dla podanych kryteriów.",
    21180: "Status sesji nie pozwala na wykonanie operacji.",
    21184: "Sesja tymczasowo niedostępna.",
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
    """An error that KSeF answers instead of a result.

    `members` are added to its problem document.
    """

    def __init__(self, status: int, title: str, detail: str, **members: Any) -> None:
        super().__init__(status, detail)
        self.status = status
        self.headers: dict[str, str] = {}
        self._document = {"title": title, "status": status, "detail": detail, **members}

    def older_format(self) -> dict[str, Any] | None:
        """What clients get that do not ask for problem details; None: there is no other format."""
        return None

    def response(self) -> Response:
        """The HTTP answer to the present request."""
        older = self.older_format()
        asked = request.headers.get("X-Error-Format", "").strip().lower()
        if older is not None and asked != "problem-details":
            answer = json_response(older, self.status)
        else:
            document = self._document | {
                "instance": request.path,
                "timestamp": stamp(world().clock.now()),
                "traceId": secrets.token_hex(16),
            }
            answer = json_response(document, self.status, "application/problem+json")
        answer.headers.update(self.headers)
        return answer


class BadRequest(KsefProblem):
    """HTTP 400 with one of KSeF's codes (21173, 21405, …)."""

    def __init__(self, code: int, *details: str) -> None:
        self.code = code
        self.description = DESCRIPTIONS.get(code, "Błąd.")
        self.details = list(details)
        error: dict[str, Any] = {"code": code, "description": self.description}
        if details:
            error["details"] = self.details
        super().__init__(400, "Bad Request", "Żądanie jest nieprawidłowe.", errors=[error])

    def older_format(self) -> dict[str, Any]:
        return {
            "exception": {
                "exceptionDetailList": [
                    {
                        "exceptionCode": self.code,
                        "exceptionDescription": self.description,
                        "details": self.details,
                    }
                ],
                "serviceCode": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00",
                "serviceCtx": "sandbox",
                "serviceName": "Undefined",
                "timestamp": stamp(world().clock.now()),
            }
        }


class TooManyRequests(KsefProblem):
    """HTTP 429; `retry_after` is written as given (None leaves the header out)."""

    def __init__(self, detail: str, retry_after: str | None) -> None:
        super().__init__(429, "Too Many Requests", detail)
        self.detail = detail
        if retry_after is not None:
            self.headers["Retry-After"] = retry_after

    def older_format(self) -> dict[str, Any]:
        return {
            "status": {"code": 429, "description": "Too Many Requests", "details": [self.detail]}
        }


class Unauthorized(KsefProblem):
    """HTTP 401: no bearer, an expired one, or one of the wrong kind."""

    def __init__(self) -> None:
        super().__init__(401, "Unauthorized", "Wymagane jest uwierzytelnienie.")
        self.headers["WWW-Authenticate"] = "Bearer"


class Forbidden(KsefProblem):
    """HTTP 403 with KSeF's `reasonCode`."""

    def __init__(self, reason_code: str, security: dict[str, Any] | None = None) -> None:
        detail = REASONS.get(reason_code, "Odmowa dostępu.")
        super().__init__(403, "Forbidden", detail, reasonCode=reason_code, security=security)


def json_response(
    content: Any, status: int = 200, content_type: str = "application/json; charset=utf-8"
) -> Response:
    """`content` as a JSON answer."""
    return Response(msgspec.json.encode(content), status, content_type=content_type)


def status_info(code: int, words: dict[int, str], details: list[str] | None) -> dict[str, Any]:
    """A code with its words, and details where there are any, as KSeF tells every status."""
    status = {"code": code, "description": words.get(code, f"Nieznany błąd ({code})")}
    return status | {"details": details} if details else status
