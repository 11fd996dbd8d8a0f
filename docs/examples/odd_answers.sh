S=http://127.0.0.1:8090
R=20260115-SO-0123456789-ABCDEF0123-4F
curl -fsS -d '{"nip": "5265877635", "referenceNumber": "20260115-SO-0123456789-ABCDEF0123-4F", "dateCreated": "2026-01-15T12:00:00+01:00", "invoices": [{}, {"status": 440}, {"status": 430}]}' $S/_sandbox/test/sessions
# A duplicate whose first session KSeF does not name -> 200, referenceNumber null
curl -fsS -d '{"fault": {"kind": "drop-field", "field": "invoices.1.status.extensions.originalSessionReferenceNumber"}, "path": "/invoices$"}' $S/_sandbox/faults
# A duplicate that names the very session it is in -> 200, referenceNumber null
curl -fsS -d '{"fault": {"kind": "set-field", "field": "invoices.1.status.extensions.originalSessionReferenceNumber", "value": "20260115-SO-0123456789-ABCDEF0123-4F"}, "path": "/invoices$"}' $S/_sandbox/faults
# A rejected invoice, and why; KSeF does not tell its invoiceNumber -> 200
curl -fsS -X PATCH -d '{"status": 430, "details": ["Element NIP: nieprawidłowa wartość."]}' $S/_sandbox/test/sessions/$R/invoices/3
# Texts that are empty or none, a time of the year 1 -> 200
curl -fsS -d '{"fault": {"kind": "set-field", "field": "invoices.0.status.details", "value": [null, ""]}, "path": "/invoices$"}' $S/_sandbox/faults
# The list does not know a session that its status has just shown -> 502 ksef_error, retryAfter
curl -fsS -d '{"fault": {"kind": "ksef-error", "code": 21173}, "path": "/invoices$"}' $S/_sandbox/faults
# An input that KSeF does not take, with details -> 404 session_not_found, ksef.details
curl -fsS -d '{"fault": {"kind": "ksef-error", "code": 21405, "details": ["Numer referencyjny ma nieprawidłową długość."]}, "path": "/sessions/"}' $S/_sandbox/faults
# A right is missing -> 502 ksef_error, ksef.reasonCode
curl -fsS -d '{"fault": {"kind": "forbidden", "security": {"requiredAnyOfPermissions": ["InvoiceRead", "InvoiceWrite"]}}, "path": "/sessions/"}' $S/_sandbox/faults
# A call from an address that was not named at the login -> 502 ksef_error, ksef.reasonCode
curl -fsS -d '{"fault": {"kind": "forbidden", "reasonCode": "ip-not-allowed"}, "path": "/sessions/"}' $S/_sandbox/faults
# KSeF no longer has it -> 502 ksef_error
curl -fsS -d '{"fault": {"status": 410, "body": {"title": "Gone", "status": 410, "detail": "Zasób nie jest już dostępny."}}, "path": "/sessions/"}' $S/_sandbox/faults
# The list loses its place, once -> 200: it is listed once more
curl -fsS -d '{"fault": {"kind": "ksef-error", "code": 21418}, "path": "/invoices$"}' $S/_sandbox/faults
# An identifier that cannot be one -> 502 ksef_invalid_response
curl -fsS -d '{"fault": {"kind": "set-field", "field": "invoices.0.ksefNumber", "value": "../../../auth/prod"}, "path": "/invoices$"}' $S/_sandbox/faults
# A collective UPO's page that would lead elsewhere -> 502 ksef_invalid_response
curl -fsS -d '{"fault": {"kind": "set-field", "field": "upo.pages.0.referenceNumber", "value": "../../etc/x"}, "path": "/sessions/[^/]*$"}' $S/_sandbox/faults
# A session that was closed without any invoice -> 200, status.details
curl -fsS -X PATCH -d '{"state": "failed", "code": 440, "details": ["Nie przesłano faktur"]}' $S/_sandbox/test/sessions/$R
# An error that KSeF does not name: it may still end well -> 200
curl -fsS -X PATCH -d '{"state": "failed", "code": 500}' $S/_sandbox/test/sessions/$R
# Login: a challenge with a line break -> 502 ksef_invalid_response
curl -fsS -d '{"fault": {"kind": "set-field", "field": "challenge", "value": "a\nb"}, "path": "/auth/challenge"}' $S/_sandbox/faults
# Login: the signature is not taken -> 502 ksef_error, ksef.details
curl -fsS -d '{"fault": {"kind": "ksef-error", "code": 9105, "details": ["Podpis nie obejmuje dokumentu."]}, "path": "/auth/ksef-token"}' $S/_sandbox/faults
# Login: the token cannot be read (a certificate: PATCH .../certificates, 460, "Certyfikat zawieszony") -> 502 ksef_error, ksef.details
curl -fsS -X PATCH -d '{"nip": "5265877635", "outcome": 450, "details": ["Invalid token encoding."]}' $S/_sandbox/test/tokens
# Login: the person to whom the credential belongs has died -> 502 ksef_error
curl -fsS -X PATCH -d '{"nip": "5265877635", "outcome": 470}' $S/_sandbox/test/tokens
# Latarnia: a message that nobody understands; KSeF answers, so it changes nothing -> 200
curl -fsS -X PUT -d '{"status": "AVAILABLE", "messages": [{"id": "X-1", "eventId": 1, "category": "OTHER", "text": null}]}' $S/_sandbox/latarnia/test
