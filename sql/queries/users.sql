-- name: add_company(nip, name)$
-- The NIP if the company was added, maybe after it had been removed; no row if it exists already.
INSERT INTO companies (nip, name) VALUES (:nip, :name)
ON CONFLICT (nip) DO UPDATE SET name = excluded.name, removed_at = NULL
WHERE companies.removed_at IS NOT NULL
RETURNING nip;

-- name: get_company(nip)^
SELECT nip, name FROM companies WHERE nip = :nip AND removed_at IS NULL;

-- name: add_user(email, company_nip, role, password_hash)$
INSERT INTO users (email, company_nip, role, password_hash)
VALUES (:email, :company_nip, :role, :password_hash)
ON CONFLICT (email) DO NOTHING
RETURNING id;

-- name: get_user(email)^
SELECT id, email, company_nip, role, password_hash, disabled_at
FROM users
WHERE email = :email;

-- name: disable_user(email)^
UPDATE users SET disabled_at = coalesce(disabled_at, now())
WHERE email = :email
RETURNING email, company_nip;

-- name: list_users()
SELECT email, company_nip, role, created_at, disabled_at
FROM users
ORDER BY company_nip, email;

-- name: throttled_for(who, before, seconds)$
-- In how many seconds the oldest failure that is one too many no longer counts; no row if there are
-- not too many.
SELECT extract(epoch FROM failed_at - clock_timestamp())::float8 + :seconds
FROM failed_logins
WHERE who = :who
ORDER BY failed_at DESC
OFFSET :before
LIMIT 1;

-- name: note_failed_login(who, seconds)!
-- Failures that are too old to count are deleted, a few at a time.
WITH forgotten AS (
    DELETE FROM failed_logins
    WHERE ctid = ANY (ARRAY(
        SELECT ctid
        FROM failed_logins
        WHERE failed_at < statement_timestamp() - make_interval(secs => :seconds)
        ORDER BY failed_at
        LIMIT 100
    ))
)
INSERT INTO failed_logins (who) VALUES (:who);
