-- What is deleted with a company. Its invoice rows stay, with their links.

-- name: holdings(nip)^
-- No row if there never was such a company.
SELECT
    (SELECT count(*) FROM users WHERE company_nip = nip) AS users,
    (SELECT count(*) FROM ksef_credentials WHERE company_nip = nip) AS credentials,
    (
        SELECT coalesce(array_agg(environment::text ORDER BY environment), '{}')
        FROM ksef_sessions
        WHERE company_nip = nip
    ) AS logged_in,
    (SELECT count(*) FROM kept_sessions WHERE company_nip = nip) AS answers,
    (SELECT count(*) FROM upos WHERE company_nip = nip) AS upos,
    (SELECT count(*) FROM synced_invoices WHERE company_nip = nip)
        + (SELECT count(*) FROM offline_invoices WHERE company_nip = nip) AS rows_that_stay,
    removed_at
FROM companies
WHERE nip = :nip;

-- name: remove(nip)!
-- With what is followed go the sessions that were found. Of the quota's ledger KSeF still counts the calls of the last hour,
-- and a block, even if the company is added again.
WITH sessions AS (
    DELETE FROM ksef_sessions WHERE company_nip = :nip
), credentials AS (
    DELETE FROM ksef_credentials WHERE company_nip = :nip
), its_users AS (
    DELETE FROM users WHERE company_nip = :nip
), simulations AS (
    DELETE FROM outage_simulations WHERE company_nip = :nip
), refusals AS (
    DELETE FROM kept_refusals WHERE company_nip = :nip
), followed_ones AS (
    DELETE FROM followed WHERE company_nip = :nip
), calls AS (
    DELETE FROM quota_calls
    WHERE company_nip = :nip AND reserved_at < clock_timestamp() - interval '2 hours'
), limits AS (
    DELETE FROM quota_groups
    WHERE company_nip = :nip AND (blocked_until IS NULL OR blocked_until < clock_timestamp())
), receivers AS (
    DELETE FROM webhooks WHERE company_nip = :nip
)
UPDATE companies SET removed_at = coalesce(removed_at, now()) WHERE nip = :nip;
