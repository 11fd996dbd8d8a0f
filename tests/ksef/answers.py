"""KSeF's answers as its contract has them, with room for a test to spoil one thing."""

from collections.abc import Mapping
from typing import Any

URL = "https://ksef.example/v2"
SESSION = "20260115-SO-0123456789-ABCDEF0123-4F"
KSEF_NUMBER = "5265877635-20250826-0100001AF629-AF"

Json = dict[str, Any]


def session_status(**changes: Any) -> Json:
    """GET /sessions/{ref}"""
    return {
        "status": {"code": 200, "description": "Sesja interaktywna przetworzona pomyślnie"},
        "dateCreated": "2026-01-15T11:00:00.1234567+00:00",
        "dateUpdated": "2026-01-15T11:05:00+00:00",
        "invoiceCount": 3,
        "successfulInvoiceCount": 2,
        "failedInvoiceCount": 1,
        "upo": {"pages": [{"referenceNumber": "20260115-EU-0123456789-ABCDEF0123-4F"}]},
        **changes,
    }


def invoice(ordinal: int = 1, **changes: Any) -> Json:
    """An accepted invoice of a session."""
    return {
        "ordinalNumber": ordinal,
        "referenceNumber": f"20260115-EE-{ordinal:010X}-ABCDEF0123-4F",
        "invoiceNumber": f"FV/2026/01/{ordinal:03}",
        "ksefNumber": f"5265877635-20260115-{ordinal:012X}-00",
        "acquisitionDate": "2026-01-15T11:01:00+00:00",
        "status": {"code": 200, "description": "Sukces"},
        **changes,
    }


def duplicate(ordinal: int = 1) -> Json:
    """An invoice that KSeF has already, from another session."""
    original = {
        "originalKsefNumber": KSEF_NUMBER,
        "originalSessionReferenceNumber": "20250826-SO-0123456789-ABCDEF0123-4F",
    }
    status = {"code": 440, "description": "Duplikat faktury", "details": ["Duplikat."]}
    return invoice(ordinal, ksefNumber=None, status={**status, "extensions": original})


def invoice_page(*ordinals: int, token: str | None = None) -> Json:
    """GET /sessions/{ref}/invoices"""
    return {"invoices": [invoice(ordinal) for ordinal in ordinals], "continuationToken": token}


def token(value: str = "e30.e30.c2ln") -> Json:
    return {"token": value, "validUntil": "2026-01-15T11:15:00+00:00"}


def started_login() -> Json:
    """POST /auth/ksef-token"""
    return {
        "referenceNumber": "20260115-AU-0123456789-ABCDEF0123-4F",
        "authenticationToken": token("operation-token"),
    }


def tokens() -> Json:
    """POST /auth/token/redeem"""
    return {"accessToken": token("access-token"), "refreshToken": token("refresh-token")}


def challenge(**changes: Any) -> Json:
    """POST /auth/challenge"""
    return {
        "challenge": "20260115-CR-0123456789-ABCDEF0123-4F",
        "timestamp": "2026-01-15T11:00:00.123+00:00",
        "timestampMs": 1768474800123,
        **changes,
    }


def public_key(**changes: Any) -> Json:
    """One of GET /security/public-key-certificates"""
    return {
        "certificate": "MIIB",
        "publicKeyId": "key-1",
        "usage": ["KsefTokenEncryption"],
        "validFrom": "2026-01-01T00:00:00+00:00",
        "validTo": "2028-01-01T00:00:00+00:00",
        **changes,
    }


def problem(code: int, description: str = "Powód.", status: int = 400) -> Json:
    """A refusal in the format that we ask for."""
    return {
        "title": "Bad Request",
        "status": status,
        "detail": "Żądanie jest nieprawidłowe.",
        "traceId": "trace-1",
        "errors": [{"code": code, "description": description, "details": ["Szczegół."]}],
    }


def old_problem(code: int, description: str = "Powód.") -> Json:
    """A refusal in the format from before."""
    detail = {"exceptionCode": code, "exceptionDescription": description, "details": []}
    return {"exception": {"exceptionDetailList": [detail], "serviceCode": "x"}}


def without(json: Mapping[str, Any], *path: str | int) -> Any:
    """A copy of the answer that lacks the member at `path`."""
    return replaced(json, None, *path, drop=True)


def replaced(json: Any, value: Any, *path: str | int, drop: bool = False) -> Any:
    """A copy of the answer with `value` at `path`."""
    if not path:
        return value
    first, *rest = path
    copy = json.copy()
    if drop and not rest:
        del copy[first]
    else:
        copy[first] = replaced(copy[first], value, *rest, drop=drop)
    return copy
