-- name: find_invoices(company_nip, environment, ksef_number, invoice_number, invoice_hash)
-- Kept answers that hold an invoice, by one of its names; the others are null. By its KSeF number its duplicates too.
-- Where it was accepted comes first: a file may have been sent more often than anybody wants to read.
-- is_held: the session of a duplicate holds its original as well.
-- Each number is looked up by its own index; with OR, tables without statistics would be read whole.
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
    WHERE (more ->> 'invoiceHash', company_nip, environment)
        BETWEEN (:invoice_hash, :company_nip, :environment) AND (:invoice_hash, :company_nip, :environment)
)
SELECT
    invoice.told::text AS told,
    invoice.session_reference_number,
    kept.final,
    kept.checked_at,
    EXISTS (
        SELECT FROM upos
        WHERE upos.company_nip = invoice.company_nip
          AND upos.environment = invoice.environment
          AND upos.session_reference_number = invoice.session_reference_number
          AND upos.ksef_number = invoice.ksef_number
    ) AS upo_archived,
    EXISTS (
        SELECT FROM kept_invoices AS original
        WHERE original.company_nip = invoice.company_nip
          AND original.environment = invoice.environment
          AND original.session_reference_number = invoice.session_reference_number
          AND original.ksef_number = invoice.status #>> '{extensions,originalKsefNumber}'
          AND original.status @> '{"code": 200}'
    ) AS is_held
FROM found
JOIN told_invoices AS invoice
    ON invoice.company_nip = :company_nip
    AND invoice.environment = :environment
    AND invoice.session_reference_number = found.session_reference_number
    AND invoice.reference_number = found.reference_number
JOIN kept_sessions AS kept
    ON kept.company_nip = invoice.company_nip
    AND kept.environment = invoice.environment
    AND kept.reference_number = invoice.session_reference_number
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

-- name: is_unsettled(company_nip, environment, first_day)$
-- Whether a session that was begun on that day (YYYYMMDD) or later still moves, is listed by KSeF and not read yet, or is
-- kept without the hashes of its invoices (by version 0.1.0); or a caller has asked for one that KSeF's lists should have
-- shown and did not: then they do not show everything to our credential. (Followed ones are forgotten after 30 days.)
-- Not read yet are also those that KSeF showed once and no more.
SELECT EXISTS (
    SELECT
    FROM kept_sessions AS kept
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND reference_number >= :first_day
      AND (
          NOT final
          OR EXISTS (
              SELECT FROM kept_invoices AS invoice
              WHERE invoice.company_nip = kept.company_nip
                AND invoice.environment = kept.environment
                AND invoice.session_reference_number = kept.reference_number
                AND invoice.more ->> 'invoiceHash' IS NULL
          )
      )
) OR EXISTS (
    SELECT
    FROM followed_sessions
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND reference_number >= :first_day
      AND final_at IS NULL
) OR EXISTS (
    SELECT
    FROM followed
    JOIN kept_sessions AS kept USING (company_nip, environment)
    WHERE followed.company_nip = :company_nip
      AND followed.environment = :environment
      AND kept.reference_number >= :first_day
      AND (kept.session ->> 'dateCreated')::timestamptz BETWEEN followed.known_since AND followed.known_until
      AND (kept.session ->> 'dateCreated')::timestamptz > statement_timestamp() - interval '29 days'
      AND NOT EXISTS (
          SELECT FROM followed_sessions AS listed
          WHERE listed.company_nip = kept.company_nip
            AND listed.environment = kept.environment
            AND listed.reference_number = kept.reference_number
      )
);
