-- Sealed values begin with the id of their key (4 bytes).

-- name: credential_keys()
-- The ids in hexadecimal of the keys with which credentials are sealed.
SELECT DISTINCT encode(substring(secret FROM 1 FOR 4), 'hex') AS key_name FROM ksef_credentials;

-- name: all_sealed()
-- What is sealed, but for download links.
SELECT company_nip, environment::text AS environment, 'credential' AS purpose, secret AS sealed
FROM ksef_credentials
UNION ALL
SELECT company_nip, environment::text, 'access token', access_token FROM ksef_sessions
UNION ALL
SELECT company_nip, environment::text, 'refresh token', refresh_token FROM ksef_sessions
UNION ALL
SELECT company_nip, environment::text, 'webhook secret', secret FROM webhooks;

-- name: seal_again(company_nip, environment, before, sealed)!
-- Replaces a sealed value by another, in whichever column it stands: no two are the same. Nothing where it was replaced
-- meanwhile.
WITH credential AS (
    UPDATE ksef_credentials SET secret = :sealed
    WHERE company_nip = :company_nip AND environment = :environment AND secret = :before
), access_token AS (
    UPDATE ksef_sessions SET access_token = :sealed
    WHERE company_nip = :company_nip AND environment = :environment AND access_token = :before
), refresh_token AS (
    UPDATE ksef_sessions SET refresh_token = :sealed
    WHERE company_nip = :company_nip AND environment = :environment AND refresh_token = :before
)
UPDATE webhooks SET secret = :sealed
WHERE company_nip = :company_nip AND environment = :environment AND secret = :before;
