-- Each row is updated as it is found, in the order of the numbers, so that two checks never wait for each other in
-- a ring, and no row is locked or read from disk twice. A row that somebody changed after the statement began is left
-- (older minor releases of PostgreSQL would write it all the same, but for the second look at its number and session):
-- then fewer are `linked` than `found`, and the same statement again sees what was changed.
-- Each gives: found, linked, and replaced, the sessions that rows held before (null where none did).

-- name: keep_order()!
-- For the transaction: leaves the planner no way but `found` first and each row by its place after it. Of a small
-- table it would rather read all rows as they lie, and update them in that order.
SELECT set_config(setting, 'off', true)
FROM unnest(ARRAY['enable_hashjoin', 'enable_mergejoin', 'enable_seqscan']) AS setting;

-- name: link_synced(company_nip, environment, ksef_numbers, duplicates, session_reference_number)^
-- ksef_numbers: those that this session holds as accepted, and the originals of its duplicates.
-- duplicates: {original KSeF number: original session}; they only fill what is empty.
WITH found AS MATERIALIZED (
    SELECT ctid, ksef_number, session_reference_number AS previous
    FROM synced_invoices
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND ksef_number = ANY (:ksef_numbers)
      AND CASE
          WHEN :duplicates::jsonb ? ksef_number THEN session_reference_number IS NULL
          ELSE session_reference_number IS DISTINCT FROM :session_reference_number
      END
    ORDER BY ksef_number
), linked AS (
    UPDATE synced_invoices AS invoice
    SET session_reference_number = coalesce(:duplicates::jsonb ->> found.ksef_number, :session_reference_number),
        linked_at = now()
    FROM found
    WHERE invoice.ctid = found.ctid
      AND invoice.ksef_number IS NOT DISTINCT FROM found.ksef_number
      AND invoice.session_reference_number IS NOT DISTINCT FROM found.previous
    RETURNING previous
)
SELECT
    count(*) AS linked,
    (SELECT count(*) FROM found) AS found,
    array_agg(previous) FILTER (WHERE previous IS NOT NULL) AS replaced
FROM linked;

-- name: unlinked_offline(company_nip, environment, reference_numbers, invoice_hashes, hashed_numbers, session_reference_number)
-- The rows that `link_offline` would write.
SELECT ksef_reference_number, NULL AS invoice_hash, invoice_number
FROM offline_invoices
WHERE company_nip = :company_nip
  AND environment = :environment
  AND ksef_reference_number = ANY (:reference_numbers)
  AND session_reference_number IS DISTINCT FROM :session_reference_number
UNION ALL
SELECT NULL, sent.invoice_hash, invoice_number
FROM unnest(:invoice_hashes::text[], :hashed_numbers::text[]) AS sent (invoice_hash, ksef_number)
CROSS JOIN LATERAL (
    SELECT ctid, *
    FROM offline_invoices
    WHERE (invoice_hash, company_nip, environment)
          BETWEEN (sent.invoice_hash, :company_nip, :environment) AND (sent.invoice_hash, :company_nip, :environment)
      AND invoice_hash IS NOT NULL
    OFFSET 0  -- looked up for each hash, never joined
) AS invoice
WHERE ksef_reference_number IS NULL
  AND coalesce(invoice.ksef_number, '') IN ('', sent.ksef_number)
  AND CASE
      WHEN sent.ksef_number IS NULL THEN session_reference_number IS NULL
      ELSE session_reference_number IS DISTINCT FROM :session_reference_number
  END
ORDER BY ksef_reference_number, invoice_number;

-- name: link_offline(company_nip, environment, reference_numbers, invoice_hashes, hashed_numbers, invoice_numbers, session_reference_number)^
-- reference_numbers: the session's own and those of the invoices in it, whatever their status. invoice_hashes: of its
-- invoices, for rows without a reference number; hashed_numbers: of each the KSeF number if it was accepted, else null: then
-- only what is empty is filled. A row whose KSeF number says that it is another invoice is left. invoice_numbers: only rows
-- with these; null: all.
WITH by_name AS (
    SELECT ctid, ksef_reference_number, invoice_hash, ksef_number, invoice_number, session_reference_number AS previous
    FROM offline_invoices
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND ksef_reference_number = ANY (:reference_numbers)
      AND session_reference_number IS DISTINCT FROM :session_reference_number
    UNION ALL
    SELECT invoice.ctid, NULL, invoice.invoice_hash, invoice.ksef_number, invoice_number, session_reference_number
    FROM unnest(:invoice_hashes::text[], :hashed_numbers::text[]) AS sent (invoice_hash, ksef_number)
    CROSS JOIN LATERAL (
        SELECT ctid, *
        FROM offline_invoices
        WHERE (invoice_hash, company_nip, environment)
              BETWEEN (sent.invoice_hash, :company_nip, :environment) AND (sent.invoice_hash, :company_nip, :environment)
          AND invoice_hash IS NOT NULL
        OFFSET 0  -- looked up for each hash, never joined
    ) AS invoice
    WHERE ksef_reference_number IS NULL
      AND coalesce(invoice.ksef_number, '') IN ('', sent.ksef_number)
      AND CASE
          WHEN sent.ksef_number IS NULL THEN session_reference_number IS NULL
          ELSE session_reference_number IS DISTINCT FROM :session_reference_number
      END
), found AS MATERIALIZED (
    SELECT *
    FROM by_name
    WHERE :invoice_numbers::text[] IS NULL OR invoice_number = ANY (:invoice_numbers::text[])
    ORDER BY ksef_reference_number, invoice_number
), linked AS (
    UPDATE offline_invoices AS invoice
    SET session_reference_number = :session_reference_number, linked_at = now()
    FROM found
    WHERE invoice.ctid = found.ctid
      AND invoice.ksef_reference_number IS NOT DISTINCT FROM found.ksef_reference_number
      AND invoice.invoice_hash IS NOT DISTINCT FROM found.invoice_hash
      AND invoice.ksef_number IS NOT DISTINCT FROM found.ksef_number
      AND invoice.session_reference_number IS NOT DISTINCT FROM found.previous
    RETURNING previous
)
SELECT
    count(*) AS linked,
    (SELECT count(*) FROM found) AS found,
    array_agg(previous) FILTER (WHERE previous IS NOT NULL) AS replaced
FROM linked;
