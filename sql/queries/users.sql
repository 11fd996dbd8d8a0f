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
