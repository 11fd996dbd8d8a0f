-- name: put_credential(company_nip, environment, method, secret, certificate_valid_until)!
INSERT INTO ksef_credentials (company_nip, environment, method, secret, certificate_valid_until)
VALUES (:company_nip, :environment, :method, :secret, :certificate_valid_until)
ON CONFLICT (company_nip, environment) DO UPDATE SET
    method = excluded.method,
    secret = excluded.secret,
    certificate_valid_until = excluded.certificate_valid_until,
    updated_at = now(),
    refused_code = NULL,
    refused_words = NULL,
    refused_at = NULL,
    silent_login_at = NULL;

-- name: get_credential(company_nip, environment)^
SELECT
    method, secret, certificate_valid_until, updated_at, refused_code, refused_words,
    extract(epoch FROM clock_timestamp() - refused_at)::float8 AS refused_for
FROM ksef_credentials
WHERE company_nip = :company_nip AND environment = :environment;

-- name: get_session(company_nip, environment)^
-- Which tokens are still good is decided by the database's clock, the same for every replica.
SELECT
    session.method,
    access_token,
    access_token_valid_until,
    refresh_token,
    refresh_token_valid_until,
    authenticated_at,
    version,
    certificate_valid_until,
    access_token_valid_until - clock_timestamp() AS access_token_left,
    refresh_token_valid_until - clock_timestamp() AS refresh_token_left,
    extract(epoch FROM clock_timestamp() - renewal_failed_at)::float8 AS renewal_failed_for
FROM ksef_sessions AS session
JOIN ksef_credentials USING (company_nip, environment)
WHERE company_nip = :company_nip AND environment = :environment;

-- name: put_session(company_nip, environment, method, access_token, access_token_valid_until, refresh_token, refresh_token_valid_until)!
INSERT INTO ksef_sessions (
    company_nip, environment, method,
    access_token, access_token_valid_until, refresh_token, refresh_token_valid_until
)
SELECT
    :company_nip, :environment, :method,
    :access_token, :access_token_valid_until, :refresh_token, :refresh_token_valid_until
FROM ksef_credentials
WHERE company_nip = :company_nip AND environment = :environment
FOR KEY SHARE
ON CONFLICT (company_nip, environment) DO UPDATE SET
    method = excluded.method,
    access_token = excluded.access_token,
    access_token_valid_until = excluded.access_token_valid_until,
    refresh_token = excluded.refresh_token,
    refresh_token_valid_until = excluded.refresh_token_valid_until,
    authenticated_at = now(),
    renewal_failed_at = NULL,
    version = ksef_sessions.version + 1;

-- name: renew_session(company_nip, environment, version, method, access_token, access_token_valid_until, refresh_token, refresh_token_valid_until)!
-- Nothing where the session was changed or ended meanwhile: the newer state stays.
UPDATE ksef_sessions SET
    method = :method,
    access_token = :access_token,
    access_token_valid_until = :access_token_valid_until,
    refresh_token = :refresh_token,
    refresh_token_valid_until = :refresh_token_valid_until,
    renewal_failed_at = NULL,
    version = version + 1
WHERE company_nip = :company_nip AND environment = :environment AND version = :version;

-- name: end_session(company_nip, environment, version)!
-- As renew_session: a session that was begun or renewed meanwhile is another one.
DELETE FROM ksef_sessions
WHERE company_nip = :company_nip AND environment = :environment AND version = :version;

-- name: note_failed_renewal(company_nip, environment, version)!
UPDATE ksef_sessions SET renewal_failed_at = clock_timestamp()
WHERE company_nip = :company_nip AND environment = :environment AND version = :version;

-- name: claim_silent_login(company_nip, environment, seconds, lease, holder, lease_seconds)$
-- Seconds until a silent login may be tried; 0: now, and the next ones have to wait. No row where
-- there is no credential. A claim that is younger than the lease, which lasts for `lease_seconds`, is the holder's own.
WITH before AS (
    SELECT CASE
        WHEN silent_login_at >= (
            SELECT expires_at - make_interval(secs => :lease_seconds)
            FROM leases
            WHERE name = :lease AND leases.holder = :holder::uuid
        ) THEN 0
        ELSE greatest(0, extract(epoch FROM silent_login_at - clock_timestamp())::float8 + :seconds)
    END AS wait
    FROM ksef_credentials
    WHERE company_nip = :company_nip AND environment = :environment
    FOR UPDATE
)
UPDATE ksef_credentials
SET silent_login_at = CASE WHEN before.wait = 0 THEN clock_timestamp() ELSE silent_login_at END
FROM before
WHERE company_nip = :company_nip AND environment = :environment
RETURNING before.wait;

-- name: note_refusal(company_nip, environment, updated_at, code, words)!
-- updated_at: of the credential that was refused; one that was stored meanwhile is another one.
UPDATE ksef_credentials
SET refused_code = :code, refused_words = :words, refused_at = clock_timestamp()
WHERE company_nip = :company_nip AND environment = :environment AND updated_at = :updated_at;

-- name: clear_refusal(company_nip, environment)!
UPDATE ksef_credentials SET refused_code = NULL, refused_words = NULL, refused_at = NULL
WHERE company_nip = :company_nip AND environment = :environment AND refused_code IS NOT NULL;

-- name: list_sessions()
-- Every stored credential, with the session it has, if any.
SELECT
    company_nip,
    environment::text,
    credential.method,
    credential.refused_code,
    credential.refused_at,
    credential.certificate_valid_until,
    session.authenticated_at,
    session.access_token_valid_until,
    session.refresh_token_valid_until
FROM ksef_credentials AS credential
LEFT JOIN ksef_sessions AS session USING (company_nip, environment)
ORDER BY company_nip, environment;
