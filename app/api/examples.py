"""The examples in `/openapi.json`. Their numbers exist under `make run`, to be tried there."""

from typing import Any

from app import errors

SESSION = "20260915-SO-00000001A1-0000000001-01"
INVOICE = "5265877635-20260915-20273DF0F2E7-F1"
HASH = "ICc98PLn6wIiyMrtaYjQnKeDlAkmFyF3lWJRGUcdQhM="
_ACCEPTED = {
    "ordinalNumber": 1,
    "invoiceNumber": "FV/2026/09/001",
    "ksefNumber": INVOICE,
    "acquisitionDate": "2026-09-15 10:00:04",
    "status": {"code": 200, "description": "Sukces", "details": []},
    "referenceNumber": "20260915-EE-1B1A52843C-4A334284DC-57",
    "invoiceHash": HASH,
    "invoiceFileName": None,
    "invoicingDate": "2026-09-15T10:00:02+02:00",
    "invoicingMode": "Online",
}
_DUPLICATE = {
    "ordinalNumber": 2,
    "invoiceNumber": None,
    "ksefNumber": None,
    "acquisitionDate": None,
    "status": {
        "code": 440,
        "description": "Duplikat faktury",
        "details": [
            "Duplikat faktury. Faktura o numerze KSeF: 5265877635-20260901-71CF780F031B-37 została"
            " już prawidłowo przesłana do systemu w sesji: 20260901-SO-00000009F9-0000000007-01"
        ],
    },
    "referenceNumber": "20260915-EE-E4FB461898-421894C68C-22",
    "invoiceHash": "rp7YfKwPFgWHPE0PvI5fMM7N1LlJqM0N8W7elTnzcHU=",
    "invoiceFileName": None,
    "invoicingDate": "2026-09-15T10:00:02+02:00",
    "invoicingMode": "Online",
    "duplicateOf": {
        "ksefNumber": "5265877635-20260901-71CF780F031B-37",
        "referenceNumber": "20260901-SO-00000009F9-0000000007-01",
    },
}
_SIGNATURE = {
    "state": "valid",
    "signer": "Ministerstwo Finansów (SANDBOX), VATPL-5260250274",
    "signedAt": "2026-09-15T10:00:05+02:00",
    "certificateSha256": "2059EA4C85501DE54D2B4B1863D927FE8DE14F6146215E94EE47A25B4CE3FC88",
}
_NO_OUTAGE: dict[str, Any] = {
    "established": False,
    "since": None,
    "consecutiveFailures": 0,
    "source": None,
    "messages": [],
    "announcements": [],
    "duty": None,
}
_OUTAGE = {
    "established": True,
    "since": "2026-09-15T08:00:00+00:00",
    "consecutiveFailures": 1,
    "source": "latarnia",
    "messages": [
        {
            "title": "Awaria Krajowego Systemu e-Faktur",
            "text": "Trwa usuwanie awarii.",
            "start": "2026-09-15T08:00:00+00:00",
            "end": None,
            "category": "FAILURE",
            "publishedAt": "2026-09-15T08:02:00+00:00",
        }
    ],
    "announcements": [],
    "duty": "seven_working_days_after_end",
}
_SIMULATION = {
    **_OUTAGE,
    "consecutiveFailures": 0,
    "source": "simulation",
    "messages": [
        {
            "title": "Simulated outage",
            "text": "Rehearsal until noon",
            "start": "2026-09-15T08:00:00+00:00",
            "end": "2026-09-15T10:00:00+00:00",
            "category": "FAILURE",
            "publishedAt": None,
        }
    ],
    "duty": None,
}
ANSWERS: dict[str, dict[str, Any]] = {
    "finished-session": {
        "referenceNumber": SESSION,
        "status": {
            "code": 200,
            "description": "Sesja interaktywna przetworzona pomyślnie",
            "details": [],
        },
        "dateCreated": "2026-09-15 10:00:00",
        "dateUpdated": "2026-09-15 10:01:00",
        "totalInvoiceCount": 2,
        "successfulInvoiceCount": 1,
        "failedInvoiceCount": 1,
        "invoices": [_ACCEPTED, _DUPLICATE],
        "final": True,
        "upo": {"pages": [{"referenceNumber": "20260915-EU-F5374C691D-A067A3CF99-DB"}]},
        "validUntil": None,
        "checkedAt": "2026-09-15T10:05:00+02:00",
    },
    "moving-session": {
        "referenceNumber": "20260915-SB-00000001C3-0000000003-01",
        "status": {"code": 150, "description": "Trwa przetwarzanie", "details": []},
        "dateCreated": "2026-09-15 10:00:00",
        "dateUpdated": "2026-09-15 10:00:30",
        "totalInvoiceCount": 0,
        "successfulInvoiceCount": 0,
        "failedInvoiceCount": 0,
        "invoices": [],
        "final": False,
        "upo": {"pages": []},
        "validUntil": None,
        "nextCheckAfter": 8,
        "checkedAt": "2026-09-15T10:00:32+02:00",
    },
    "upo-pdf": {
        "ksefNumber": INVOICE,
        "referenceNumber": SESSION,
        "docType": "pdf",
        "contentType": "application/pdf",
        "content": "JVBERi0xLjQK",
        "fileName": f"{INVOICE}-upo.pdf",
        "signature": _SIGNATURE,
    },
    "session-upo-xml": {
        "referenceNumber": SESSION,
        "docType": "xml",
        "contentType": "application/xml",
        "pages": [
            {
                "referenceNumber": "20260915-EU-F5374C691D-A067A3CF99-DB",
                "fileName": "20260915-EU-F5374C691D-A067A3CF99-DB-upo.xml",
                "content": "PD94bWwgdmVyc2lvbj0iMS4wIj8+",
                "signature": _SIGNATURE,
            }
        ],
    },
    "found-invoice": {
        "rows": [
            {
                "table": "synced_invoices",
                "invoiceNumber": "FV/2026/09/001",
                "ksefNumber": INVOICE,
                "ksefReferenceNumber": None,
                "invoiceHash": HASH,
                "sessionReferenceNumber": SESSION,
                "linkedAt": "2026-09-15T10:05:00+02:00",
            }
        ],
        "answers": [
            {
                **_ACCEPTED,
                "sessionReferenceNumber": SESSION,
                "final": True,
                "checkedAt": "2026-09-15T10:05:00+02:00",
                "upoArchived": True,
            }
        ],
        "state": "accepted",
        "unknownBecauseOf": None,
        "knownSince": "2026-09-01T08:00:00+02:00",
        "knownUntil": "2026-09-15T10:04:00+02:00",
    },
    "events": {
        "events": [
            {
                "id": "5b2f6b0e-6c0a-4b55-9a0e-0d9f5f4d8a11",
                "type": "session.final",
                "timestamp": "2026-09-15T08:05:00.123456+00:00",
                "nip": "5265877635",
                "environment": "test",
                "referenceNumber": SESSION,
                "code": 200,
                "totalInvoiceCount": 2,
                "successfulInvoiceCount": 1,
                "failedInvoiceCount": 1,
            },
            {
                "id": "0c8d3c1a-2a38-4a0e-8f3c-7f1f6b7f2b90",
                "type": "upo.archived",
                "timestamp": "2026-09-15T08:06:00.654321+00:00",
                "nip": "5265877635",
                "environment": "test",
                "referenceNumber": SESSION,
                "upoCount": 1,
            },
        ],
        "next": "2-0c8d3c1a",
    },
    "ksef-session": {
        "environment": "test",
        "nip": "5265877635",
        "method": "certificate",
        "authenticatedAt": "2026-09-15T09:00:00+02:00",
        "accessTokenValidUntil": "2026-09-15T10:15:00+02:00",
        "refreshTokenValidUntil": "2026-09-22T09:00:00+02:00",
        "certificateValidUntil": "2028-03-01T00:00:00+01:00",
    },
    "no-outage": {"environment": "test", "outage": _NO_OUTAGE},
    "outage": {"environment": "prod", "outage": _OUTAGE},
    "simulated-outage": {"environment": "test", "outage": _SIMULATION},
    "service-status": {
        "version": "0.1.0",
        "commit": "9c1185a5c5e9fc54612808977ee8f548b2258d31",
        "schema": {"applied": "0018_events", "known": "0018_events"},
        "environments": {"test": "simulation", "demo": "unknown", "prod": "available"},
    },
    "well": {"status": "ok"},
}
EXTRA: dict[type[errors.ProxyError], dict[str, Any]] = {
    errors.InvalidParameter: {"errors": {"docType": ["Must be one of: xml, pdf."]}},
    errors.UpoNotAvailable: {"retryAfter": 5},
    errors.OutageSimulation: {"outage": _SIMULATION},
    errors.KsefOutage: {"outage": _OUTAGE},
    errors.KsefError: {
        "ksef": {
            "httpStatus": 400,
            "code": 21001,
            "description": "Nieczytelna treść.",
            "details": ["Pole nie ma wartości."],
            "reasonCode": None,
            "traceId": "57ced5f5db1544a7a64eb2acf5e9ba9a",
        },
        "outage": _NO_OUTAGE,
    },
    errors.KsefRateLimited: {"retryAfter": 840, "outage": _NO_OUTAGE},
    errors.KsefUnreachable: {"outage": _NO_OUTAGE},
    errors.KsefInvalidResponse: {"outage": _NO_OUTAGE},
    errors.UpoIntegrity: {"outage": _NO_OUTAGE},
    errors.Unavailable: {"retryAfter": 5},
}
