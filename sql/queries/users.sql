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

-- name: enable_user(email)^
UPDATE users SET disabled_at = NULL WHERE email = :email RETURNING email, company_nip;

-- name: set_role(email, role)^
UPDATE users SET role = :role WHERE email = :email RETURNING email, company_nip;

-- name: set_password(email, password_hash)^
UPDATE users SET password_hash = :password_hash WHERE email = :email RETURNING email, company_nip;

-- name: find_user(email)^
SELECT email, company_nip FROM users WHERE email = :email;

-- name: replace_hash(email, old, new)!
UPDATE users SET password_hash = :new WHERE email = :email AND password_hash = :old;

-- name: list_companies()
SELECT nip, name, (SELECT count(*) FROM users WHERE company_nip = nip) AS users, removed_at
FROM companies
ORDER BY nip;

-- name: list_users()
SELECT email, company_nip, role, created_at, disabled_at
FROM users
ORDER BY company_nip, email;
