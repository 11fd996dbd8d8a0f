-- name: find_invoices(company_nip, environment, ksef_number, invoice_number, invoice_hash)
-- Kept answers that hold an invoice, by one of its names; the others are null. By its KSeF number its duplicates too.
-- Where it was accepted comes first: a file may have been sent more often than anybody wants to read.
-- is_held: the session of a duplicate holds its original as well.
-- Each number is looked up by its own index; with OR, tables without statistics would be read whole. So is what belongs to it,
-- as in `look` (sessions.sql): joined, or asked for by EXISTS, whole tables might be read.
WITH found AS MATERIALIZED (
    SELECT session_reference_number, reference_number
    FROM kept_invoices
    WHERE company_nip = :company_nip AND environment = :environment AND ksef_number = :ksef_number
    UNION
    SELECT session_reference_number, reference_number
    FROM kept_invoices
    WHERE company_nip = :company_nip AND environment = :environment AND invoice_number = :invoice_number
    UNION
    SELECT session_reference_number, reference_number
    FROM kept_invoices
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND status #>> '{extensions,originalKsefNumber}' = :ksef_number
    UNION
    SELECT session_reference_number, reference_number
    FROM kept_invoices
    WHERE more ->> 'invoiceHash' = :invoice_hash
      AND coalesce(company_nip, '') = :company_nip  -- no conditions for an index: only that on hashes is left
      AND environment::text = :environment::ksef_environment::text
)
SELECT
    invoice.told::text AS told,
    invoice.session_reference_number,
    kept.final,
    kept.checked_at,
    kept.session_updated,
    (
        SELECT true FROM upos
        WHERE upos.company_nip = :company_nip
          AND upos.environment = :environment
          AND upos.session_reference_number = invoice.session_reference_number
          AND upos.ksef_number = invoice.ksef_number
        LIMIT 1
    ) IS TRUE AS upo_archived,
    (
        SELECT status @> '{"code": 200}' FROM kept_invoices AS original
        WHERE (original.company_nip, original.environment, original.ksef_number)
              BETWEEN (:company_nip, :environment, invoice.status #>> '{extensions,originalKsefNumber}')
              AND (:company_nip, :environment, invoice.status #>> '{extensions,originalKsefNumber}')
          AND coalesce(original.session_reference_number, '') = invoice.session_reference_number
        ORDER BY original.company_nip, original.environment, original.ksef_number
        LIMIT 1
    ) IS TRUE AS is_held
FROM found
CROSS JOIN LATERAL (
    SELECT *
    FROM told_invoices
    WHERE (company_nip, environment, session_reference_number, reference_number)
          BETWEEN (:company_nip, :environment, found.session_reference_number, found.reference_number)
          AND (:company_nip, :environment, found.session_reference_number, found.reference_number)
    ORDER BY company_nip, environment, session_reference_number, reference_number
    LIMIT 1
) AS invoice
CROSS JOIN LATERAL (
    SELECT final, checked_at, (session ->> 'dateUpdated')::timestamptz AS session_updated
    FROM kept_sessions
    WHERE (company_nip, environment, reference_number)
          BETWEEN (:company_nip, :environment, found.session_reference_number)
          AND (:company_nip, :environment, found.session_reference_number)
    ORDER BY company_nip, environment, reference_number
    LIMIT 1
) AS kept
ORDER BY invoice.status @> '{"code": 200}' DESC, kept.checked_at DESC, invoice.ordinal_number
LIMIT 100;

-- name: session_of(company_nip, environment, ksef_number)$
-- The session that holds an accepted invoice: in a kept answer, or in the company's row.
SELECT session_reference_number
FROM (
    SELECT session_reference_number, 1 AS preference
    FROM kept_invoices
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND ksef_number = :ksef_number
      AND status @> '{"code": 200}'
    UNION ALL
    SELECT session_reference_number, 2
    FROM synced_invoices
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND ksef_number = :ksef_number
      AND session_reference_number IS NOT NULL
) AS known
ORDER BY preference
LIMIT 1;

-- name: find_rows(company_nip, environment, ksef_number, invoice_number, invoice_hash)
-- The company's own rows for an invoice, by one of its names.
SELECT 'synced' AS kind, invoice_number, ksef_number, NULL AS ksef_reference_number, invoice_hash,
    session_reference_number, linked_at
FROM synced_invoices
WHERE company_nip = :company_nip AND environment = :environment
  AND (ksef_number = :ksef_number OR invoice_number = :invoice_number OR invoice_hash = :invoice_hash)
UNION ALL
SELECT 'offline', invoice_number, ksef_number, ksef_reference_number, invoice_hash,
    session_reference_number, linked_at
FROM offline_invoices
WHERE company_nip = :company_nip AND environment = :environment
  AND (ksef_number = :ksef_number OR invoice_number = :invoice_number OR invoice_hash = :invoice_hash)
LIMIT 100;

-- name: unsettled_by(company_nip, environment, first_day, last)$
-- A session that was begun between that day (YYYYMMDD) and that moment and still moves, or is listed by KSeF and not read
-- yet, or was read after known_since and is not kept; or one of that day or later that is kept without the hashes of its
-- invoices (by version 0.1.0); or one for which a caller has asked, or that a row of the ERP names, or an invoice that one
-- names, which KSeF's lists should have shown and did not: then they do not show everything to our credential. Null: there
-- is none. (Followed ones are forgotten after 30 days.)
-- Not read yet are also those that KSeF showed once and no more. One that ended with an unknown error (500) is never stored
-- as final, also when it is asked for no more.
WITH named AS MATERIALIZED (
    SELECT ksef_reference_number AS reference_number, ksef_reference_number ~ '^[0-9]{8}-S[OB]-' AS is_session
    FROM offline_invoices
    JOIN followed USING (company_nip, environment)
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND ksef_reference_number >= :first_day
      AND ksef_reference_number ~ '^[0-9]{8}-(S[OB]|EE)-'
      -- What is of the day on which following begins may be older than that, unless its row is not.
      AND ksef_reference_number >= to_char(
          (
              greatest(known_since, statement_timestamp() - interval '28 days')
              + CASE WHEN created_at < known_since THEN interval '1 day' ELSE interval '0' END
          ) AT TIME ZONE 'UTC',
          'YYYYMMDD'
      )
      AND session_reference_number IS NULL
      AND created_at < known_until
)
SELECT coalesce((
    SELECT reference_number
    FROM kept_sessions
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND reference_number >= :first_day
      AND NOT final
      AND (session ->> 'dateCreated')::timestamptz < :last
    LIMIT 1
), (
    SELECT reference_number
    FROM followed_sessions
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND reference_number >= :first_day
      AND final_at IS NULL
      AND date_created < :last
    LIMIT 1
), (
    SELECT reference_number
    FROM followed_sessions
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND reference_number >= :first_day
      AND final_at > (
          SELECT known_since + interval '1 minute'  -- for the time between the answer and that
          FROM followed
          WHERE company_nip = :company_nip AND environment = :environment
      )
      AND date_created < :last
    EXCEPT
    SELECT reference_number
    FROM kept_sessions
    WHERE company_nip = :company_nip AND environment = :environment AND reference_number >= :first_day
    LIMIT 1
), (
    SELECT reference_number
    FROM kept_sessions
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND reference_number >= :first_day
      AND (session ->> 'dateCreated')::timestamptz BETWEEN
          (SELECT known_since FROM followed WHERE company_nip = :company_nip AND environment = :environment)
          AND (SELECT known_until FROM followed WHERE company_nip = :company_nip AND environment = :environment)
      AND (session ->> 'dateCreated')::timestamptz > statement_timestamp() - interval '29 days'
    EXCEPT
    SELECT reference_number
    FROM followed_sessions
    WHERE company_nip = :company_nip AND environment = :environment AND reference_number >= :first_day
    LIMIT 1
), (
    SELECT reference_number FROM named WHERE is_session
    EXCEPT
    SELECT reference_number
    FROM followed_sessions
    WHERE company_nip = :company_nip AND environment = :environment AND reference_number >= :first_day
    LIMIT 1
), (
    SELECT reference_number
    FROM named
    WHERE NOT is_session AND (
        SELECT true FROM kept_invoices AS invoice
        WHERE (invoice.reference_number, invoice.company_nip, invoice.environment)
              BETWEEN (named.reference_number, :company_nip, :environment)
              AND (named.reference_number, :company_nip, :environment)
        ORDER BY invoice.reference_number, invoice.company_nip, invoice.environment
        LIMIT 1
    ) IS NOT TRUE
    LIMIT 1
), CASE
    -- Each session is looked at only where the company has such invoices at all.
    WHEN EXISTS (
        SELECT FROM kept_invoices
        WHERE company_nip = :company_nip AND environment = :environment AND more ->> 'invoiceHash' IS NULL
    ) THEN (
        SELECT session_reference_number
        FROM kept_invoices
        WHERE (company_nip, environment, session_reference_number) >= (:company_nip, :environment, :first_day)
          AND (company_nip, environment) <= (:company_nip, :environment)
          AND coalesce(more ->> 'invoiceHash', '') = ''  -- no condition for an index
        ORDER BY company_nip, environment, session_reference_number, reference_number
        LIMIT 1
    )
END);
