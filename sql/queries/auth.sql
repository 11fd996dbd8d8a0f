-- name: put_credential(company_nip, environment, method, secret)!
INSERT INTO ksef_credentials (company_nip, environment, method, secret)
VALUES (:company_nip, :environment, :method, :secret)
ON CONFLICT (company_nip, environment) DO UPDATE
SET method = excluded.method, secret = excluded.secret, updated_at = now();

-- name: get_credential(company_nip, environment)^
SELECT method, secret
FROM ksef_credentials
WHERE company_nip = :company_nip AND environment = :environment;

-- name: get_session(company_nip, environment)^
-- Which tokens are still good is decided by the database's clock, the same for every replica.
SELECT
    method,
    access_token,
    access_token_valid_until,
    refresh_token,
    refresh_token_valid_until,
    authenticated_at,
    version,
    access_token_valid_until - clock_timestamp() AS access_token_left,
    refresh_token_valid_until - clock_timestamp() AS refresh_token_left
FROM ksef_sessions
WHERE company_nip = :company_nip AND environment = :environment;

-- name: put_session(company_nip, environment, method, access_token, access_token_valid_until, refresh_token, refresh_token_valid_until)!
INSERT INTO ksef_sessions (
    company_nip, environment, method,
    access_token, access_token_valid_until, refresh_token, refresh_token_valid_until
)
VALUES (
    :company_nip, :environment, :method,
    :access_token, :access_token_valid_until, :refresh_token, :refresh_token_valid_until
)
ON CONFLICT (company_nip, environment) DO UPDATE SET
    method = excluded.method,
    access_token = excluded.access_token,
    access_token_valid_until = excluded.access_token_valid_until,
    refresh_token = excluded.refresh_token,
    refresh_token_valid_until = excluded.refresh_token_valid_until,
    authenticated_at = now(),
    version = ksef_sessions.version + 1;

-- name: renew_session(company_nip, environment, version, access_token, access_token_valid_until, refresh_token, refresh_token_valid_until)!
-- Nothing where the session was changed or ended meanwhile: the newer state stays.
UPDATE ksef_sessions SET
    access_token = :access_token,
    access_token_valid_until = :access_token_valid_until,
    refresh_token = :refresh_token,
    refresh_token_valid_until = :refresh_token_valid_until,
    version = version + 1
WHERE company_nip = :company_nip AND environment = :environment AND version = :version;

-- name: delete_session(company_nip, environment)!
DELETE FROM ksef_sessions WHERE company_nip = :company_nip AND environment = :environment;
