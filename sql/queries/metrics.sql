-- name: by_environment()
-- certificate_days: until the first of the stored certificates ends; null where there is none.
SELECT
    environment,
    (
        SELECT extract(epoch FROM min(certificate_valid_until) - now())::float8 / 86400
        FROM ksef_credentials
        WHERE ksef_credentials.environment = known.environment
    ) AS certificate_days,
    (
        SELECT count(*) FROM ksef_credentials
        WHERE ksef_credentials.environment = known.environment AND refused_code IS NOT NULL
    ) AS refused_credentials,
    (
        SELECT count(*) FROM ksef_sessions WHERE ksef_sessions.environment = known.environment
    ) AS active_sessions,
    EXISTS (
        SELECT FROM outages WHERE outages.environment = known.environment AND opened_at IS NOT NULL
    ) AS breaker_open
FROM unnest(enum_range(NULL::ksef_environment)) AS known (environment);
