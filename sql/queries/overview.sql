-- name: login(company_nip, environment)^
-- The stored credential, and the KSeF session where there is one.
SELECT
    credential.method,
    certificate_valid_until,
    certificate_valid_until - clock_timestamp() AS certificate_left,
    refused_code,
    refused_words,
    refused_at,
    authenticated_at,
    refresh_token_valid_until
FROM ksef_credentials AS credential
LEFT JOIN ksef_sessions USING (company_nip, environment)
WHERE company_nip = :company_nip AND environment = :environment;

-- name: recent_sessions(company_nip, environment, skip, take)
-- Kept sessions, those that changed last first (by kept_sessions_changed).
SELECT reference_number, session::text AS session, final, checked_at
FROM kept_sessions
WHERE company_nip = :company_nip AND environment = :environment
ORDER BY changed_at DESC, reference_number
OFFSET :skip
LIMIT :take;

-- name: count_sessions(company_nip, environment, most)$
-- How many kept sessions there are, counted no further than `most`.
SELECT count(*)
FROM (
    SELECT FROM kept_sessions
    WHERE company_nip = :company_nip AND environment = :environment
    LIMIT :most
) AS counted;

-- name: get_session(company_nip, environment, reference_number)^
-- A kept session without its invoices (by the primary key).
SELECT reference_number, session::text AS session, final, checked_at
FROM kept_sessions
WHERE company_nip = :company_nip
  AND environment = :environment
  AND reference_number = :reference_number;

-- name: count_invoices(company_nip, environment, reference_number)^
-- The invoices of a kept session by what became of them (by the primary key's first columns).
SELECT
    count(*) AS all,
    count(*) FILTER (WHERE (status ->> 'code')::integer = 200) AS accepted,
    count(*) FILTER (WHERE (status ->> 'code')::integer > 200) AS rejected,
    count(*) FILTER (WHERE (status ->> 'code')::integer < 200) AS moving
FROM kept_invoices
WHERE company_nip = :company_nip
  AND environment = :environment
  AND session_reference_number = :reference_number;

-- name: session_invoices(company_nip, environment, reference_number, least, most, skip, take)
-- A page of a kept session's invoices with a status code between least and most.
SELECT told::text AS told
FROM told_invoices
WHERE company_nip = :company_nip
  AND environment = :environment
  AND session_reference_number = :reference_number
  AND (status ->> 'code')::integer BETWEEN :least AND :most
ORDER BY ordinal_number
OFFSET :skip
LIMIT :take;

-- name: environments_of_session(company_nip, reference_number)
-- The environments in which a session is kept (by the primary key, one look for each).
SELECT environment
FROM kept_sessions
WHERE company_nip = :company_nip
  AND environment = ANY (enum_range(NULL::ksef_environment))
  AND reference_number = :reference_number;

-- name: unlinked_rows(company_nip, environment, newest, skip, take)
-- Of the newest rows of each table (by …_invoices_created) those without a session; total: how many.
SELECT kind, invoice_number, ksef_number, ksef_reference_number, created_at, count(*) OVER () AS total
FROM (
    (
        SELECT 'synced' AS kind, invoice_number, ksef_number, NULL AS ksef_reference_number,
            session_reference_number, created_at
        FROM synced_invoices
        WHERE company_nip = :company_nip AND environment = :environment
        ORDER BY created_at DESC
        LIMIT :newest
    )
    UNION ALL
    (
        SELECT 'offline', invoice_number, ksef_number, ksef_reference_number,
            session_reference_number, created_at
        FROM offline_invoices
        WHERE company_nip = :company_nip AND environment = :environment
        ORDER BY created_at DESC
        LIMIT :newest
    )
) AS newest_rows
WHERE session_reference_number IS NULL
ORDER BY created_at DESC, invoice_number
OFFSET :skip
LIMIT :take;

-- name: followed(company_nip, environment)^
-- How far the company is followed; no row where it never was. found: sessions that were not read yet; moving: read and not
-- final; archiving: final, with UPOs to come.
SELECT
    known_until,
    count(*) FILTER (WHERE final_at IS NULL AND read_at IS NULL) AS found,
    count(*) FILTER (WHERE final_at IS NULL AND read_at IS NOT NULL) AS moving,
    count(*) FILTER (WHERE final_at IS NOT NULL) AS archiving
FROM followed
LEFT JOIN followed_sessions AS session
    ON session.company_nip = followed.company_nip
    AND session.environment = followed.environment
    AND due_at IS NOT NULL
WHERE followed.company_nip = :company_nip AND followed.environment = :environment
GROUP BY known_until;

-- name: stuck_sessions(company_nip, environment, most)
-- Sessions that move for far longer than usual, the longest first.
SELECT reference_number, moving_since
FROM followed_sessions
WHERE company_nip = :company_nip
  AND environment = :environment
  AND due_at IS NOT NULL
  AND final_at IS NULL
  AND stuck_at IS NOT NULL
ORDER BY moving_since, reference_number
LIMIT :most;
