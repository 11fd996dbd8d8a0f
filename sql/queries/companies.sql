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

-- name: remove_sessions(nip)!
DELETE FROM ksef_sessions WHERE company_nip = :nip;

-- name: remove_credentials(nip)!
DELETE FROM ksef_credentials WHERE company_nip = :nip;

-- name: remove_users(nip)!
DELETE FROM users WHERE company_nip = :nip;

-- name: remove_simulations(nip)!
DELETE FROM outage_simulations WHERE company_nip = :nip;

-- name: remove_refusals(nip)!
DELETE FROM kept_refusals WHERE company_nip = :nip;

-- name: remove_followed(nip)!
-- With the sessions that were found.
DELETE FROM followed WHERE company_nip = :nip;

-- name: remove_calls(nip)!
-- KSeF still counts those of the last hour, even if the company is added again.
DELETE FROM quota_calls
WHERE company_nip = :nip AND reserved_at < clock_timestamp() - interval '2 hours';

-- name: remove_limits(nip)!
DELETE FROM quota_groups
WHERE company_nip = :nip AND (blocked_until IS NULL OR blocked_until < clock_timestamp());

-- name: remove_webhooks(nip)!
DELETE FROM webhooks WHERE company_nip = :nip;

-- name: mark_removed(nip)!
UPDATE companies SET removed_at = coalesce(removed_at, now()) WHERE nip = :nip;
