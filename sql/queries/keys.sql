-- Sealed values begin with the id of their key (4 bytes). The names after count_, lock_ and put_ are
-- those of app/services/keys.py. after: the last row of the batch before (nip, environment, name).

-- name: count_credentials(key_id)$
SELECT count(*) FROM ksef_credentials WHERE substring(secret FROM 1 FOR 4) <> :key_id;

-- name: lock_credentials(key_id, nip, environment, name, batch)
SELECT company_nip, environment::text AS environment, ''::text AS name, secret AS sealed
FROM ksef_credentials
WHERE substring(secret FROM 1 FOR 4) <> :key_id
  AND (company_nip, environment::text, ''::text) > (:nip, :environment, :name)
ORDER BY company_nip, environment::text, ''::text
LIMIT :batch
FOR UPDATE;

-- name: put_credentials(company_nip, environment, name, sealed)!
UPDATE ksef_credentials SET secret = :sealed
WHERE company_nip = :company_nip AND environment = :environment AND ''::text = :name;

-- name: count_access_tokens(key_id)$
SELECT count(*) FROM ksef_sessions WHERE substring(access_token FROM 1 FOR 4) <> :key_id;

-- name: lock_access_tokens(key_id, nip, environment, name, batch)
SELECT company_nip, environment::text AS environment, ''::text AS name, access_token AS sealed
FROM ksef_sessions
WHERE substring(access_token FROM 1 FOR 4) <> :key_id
  AND (company_nip, environment::text, ''::text) > (:nip, :environment, :name)
ORDER BY company_nip, environment::text, ''::text
LIMIT :batch
FOR UPDATE;

-- name: put_access_tokens(company_nip, environment, name, sealed)!
UPDATE ksef_sessions SET access_token = :sealed
WHERE company_nip = :company_nip AND environment = :environment AND ''::text = :name;

-- name: count_refresh_tokens(key_id)$
SELECT count(*) FROM ksef_sessions WHERE substring(refresh_token FROM 1 FOR 4) <> :key_id;

-- name: lock_refresh_tokens(key_id, nip, environment, name, batch)
SELECT company_nip, environment::text AS environment, ''::text AS name, refresh_token AS sealed
FROM ksef_sessions
WHERE substring(refresh_token FROM 1 FOR 4) <> :key_id
  AND (company_nip, environment::text, ''::text) > (:nip, :environment, :name)
ORDER BY company_nip, environment::text, ''::text
LIMIT :batch
FOR UPDATE;

-- name: put_refresh_tokens(company_nip, environment, name, sealed)!
UPDATE ksef_sessions SET refresh_token = :sealed
WHERE company_nip = :company_nip AND environment = :environment AND ''::text = :name;

-- name: count_links(key_id)$
SELECT count(*) FROM kept_sessions WHERE substring(links FROM 1 FOR 4) <> :key_id;

-- name: lock_links(key_id, nip, environment, name, batch)
SELECT company_nip, environment::text AS environment, reference_number AS name, links AS sealed
FROM kept_sessions
WHERE substring(links FROM 1 FOR 4) <> :key_id
  AND (company_nip, environment::text, reference_number) > (:nip, :environment, :name)
ORDER BY company_nip, environment::text, reference_number
LIMIT :batch
FOR UPDATE;

-- name: put_links(company_nip, environment, name, sealed)!
UPDATE kept_sessions SET links = :sealed
WHERE company_nip = :company_nip AND environment = :environment AND reference_number = :name;
