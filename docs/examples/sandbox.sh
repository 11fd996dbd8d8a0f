S=http://127.0.0.1:8090
# A KSeF token with which the company may log in; "token" may be left out, and one is made.
curl -sS -d '{"nip": "5265877635", "token": "my-token"}' $S/_sandbox/test/tokens
# A finished session with three accepted invoices and a duplicate.
curl -sS -d '{"nip": "5265877635", "invoices": [{}, {}, {}, {"status": 440}]}' $S/_sandbox/test/sessions
# The next two status calls meet a 429; then KSeF is down, and back.
curl -sS -d '{"fault": {"kind": "rate-limited", "retryAfter": 5}, "times": 2, "path": "/sessions/"}' $S/_sandbox/faults
curl -sS -X PUT -d '{"available": false, "mode": "reset"}' $S/_sandbox/test/api
curl -sS -X PUT -d '{"available": true}' $S/_sandbox/test/api
# Which calls it got.
curl -sS $S/_sandbox/calls
