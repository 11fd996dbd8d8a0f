-- Sealed values begin with the id of their key (4 bytes). The names after count_, lock_ and put_ are those of
-- app/services/operators/keys.py. nip, environment: the last row of the batch before.

-- name: credential_keys()
-- The ids in hexadecimal of the keys with which credentials are sealed.
SELECT DISTINCT encode(substring(secret FROM 1 FOR 4), 'hex') AS key_name FROM ksef_credentials;

-- name: all_sealed()
-- What is sealed, but for download links; purpose: the names of COLUMNS in app/services/operators/keys.py.
SELECT company_nip, environment::text AS environment, 'credential' AS purpose, secret AS sealed
FROM ksef_credentials
UNION ALL
SELECT company_nip, environment::text, 'access token', access_token FROM ksef_sessions
UNION ALL
SELECT company_nip, environment::text, 'refresh token', refresh_token FROM ksef_sessions
UNION ALL
SELECT company_nip, environment::text, 'webhook secret', secret FROM webhooks;

-- name: count_credentials(key_id)$
SELECT count(*) FROM ksef_credentials WHERE substring(secret FROM 1 FOR 4) <> :key_id;

-- name: lock_credentials(key_id, nip, environment, batch)
SELECT company_nip, environment::text AS environment, secret AS sealed
FROM ksef_credentials
WHERE substring(secret FROM 1 FOR 4) <> :key_id
  AND (company_nip, environment::text) > (:nip, :environment)
ORDER BY company_nip, environment::text
LIMIT :batch
FOR UPDATE;

-- name: put_credentials(company_nip, environment, before, sealed)!
UPDATE ksef_credentials SET secret = :sealed
WHERE company_nip = :company_nip AND environment = :environment AND secret = :before;

-- name: count_access_tokens(key_id)$
SELECT count(*) FROM ksef_sessions WHERE substring(access_token FROM 1 FOR 4) <> :key_id;

-- name: lock_access_tokens(key_id, nip, environment, batch)
SELECT company_nip, environment::text AS environment, access_token AS sealed
FROM ksef_sessions
WHERE substring(access_token FROM 1 FOR 4) <> :key_id
  AND (company_nip, environment::text) > (:nip, :environment)
ORDER BY company_nip, environment::text
LIMIT :batch
FOR UPDATE;

-- name: put_access_tokens(company_nip, environment, before, sealed)!
UPDATE ksef_sessions SET access_token = :sealed
WHERE company_nip = :company_nip AND environment = :environment AND access_token = :before;

-- name: count_refresh_tokens(key_id)$
SELECT count(*) FROM ksef_sessions WHERE substring(refresh_token FROM 1 FOR 4) <> :key_id;

-- name: lock_refresh_tokens(key_id, nip, environment, batch)
SELECT company_nip, environment::text AS environment, refresh_token AS sealed
FROM ksef_sessions
WHERE substring(refresh_token FROM 1 FOR 4) <> :key_id
  AND (company_nip, environment::text) > (:nip, :environment)
ORDER BY company_nip, environment::text
LIMIT :batch
FOR UPDATE;

-- name: put_refresh_tokens(company_nip, environment, before, sealed)!
UPDATE ksef_sessions SET refresh_token = :sealed
WHERE company_nip = :company_nip AND environment = :environment AND refresh_token = :before;

-- name: count_webhook_secrets(key_id)$
SELECT count(*) FROM webhooks WHERE substring(secret FROM 1 FOR 4) <> :key_id;

-- name: lock_webhook_secrets(key_id, nip, environment, batch)
-- Those of a company in an environment come together, however many there are.
SELECT company_nip, environment::text AS environment, secret AS sealed
FROM webhooks
WHERE substring(secret FROM 1 FOR 4) <> :key_id
  AND (company_nip, environment::text) > (:nip, :environment)
ORDER BY company_nip, environment::text
FETCH FIRST :batch ROWS WITH TIES
FOR UPDATE;

-- name: put_webhook_secrets(company_nip, environment, before, sealed)!
UPDATE webhooks SET secret = :sealed
WHERE company_nip = :company_nip AND environment = :environment AND secret = :before;

-- name: forget_links(key_id, batch)!
-- Drops the download links of sessions that were sealed with another key, a batch of sessions at a time.
WITH old AS (
    SELECT company_nip, environment, reference_number
    FROM kept_sessions
    WHERE substring(links FROM 1 FOR 4) <> :key_id
    LIMIT :batch
    FOR UPDATE SKIP LOCKED
), invoices AS (
    UPDATE kept_invoices AS invoice SET link = NULL FROM old
    WHERE invoice.company_nip = old.company_nip
      AND invoice.environment = old.environment
      AND invoice.session_reference_number = old.reference_number
      AND invoice.link IS NOT NULL
)
UPDATE kept_sessions AS kept SET links = NULL FROM old
WHERE kept.company_nip = old.company_nip
  AND kept.environment = old.environment
  AND kept.reference_number = old.reference_number;
